//! `etcdserverpb.KV/RangeStream`: a range in pieces, so that neither side holds all of it.
//!
//! All pieces show the store at one revision, the one the first was read at, though not through one view: a client that
//! takes its time must not keep old files alive. A compaction meanwhile fails the stream, as in etcd. The last message
//! has header, more and count; all messages joined are the answer of `Range`.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;
use state::{RangeResult, validate};

use super::body::{Piece, Pieces};
use super::frame::{self, Messages};
use super::kv;
use super::session::{Session, read_failed};
use super::status::Status;

/// Keys in the first message. Source: upstream `server/etcdserver/v3_server.go`.
const FIRST_KEYS: i64 = 10;

/// Serves a streamed range.
pub async fn range_stream(
    session: &Session,
    method: usize,
    mut messages: Messages,
) -> Result<Pieces, Status> {
    let request: pb::RangeRequest = frame::decode(messages.only().await?)?;
    session.member.metrics.methods[method].received.inc();
    validate::range_stream(&request)?;
    let view = session.view(request.serializable).await?;
    session.member.metrics.ranges.inc();
    let (key, end) = (&request.key, &request.range_end);
    let count = view
        .count(key, end, request.revision)
        .map_err(read_failed)?;
    let revision = if request.revision > 0 {
        request.revision
    } else {
        view.revision()
    };
    Ok(Box::pin(RangeStream {
        header_revision: view.revision(),
        left: (request.limit > 0).then_some(request.limit),
        request: pb::RangeRequest {
            revision,
            // The pieces come in the order of keys.
            sort_order: 0,
            sort_target: 0,
            ..request
        },
        session: session.clone(),
        count,
        keys: FIRST_KEYS,
        is_over: false,
        _messages: messages,
    }))
}

struct RangeStream {
    session: Session,
    /// What remains to be read: its key moves on.
    request: pb::RangeRequest,
    /// Keys that the client still wants; `None` is all.
    left: Option<i64>,
    header_revision: i64,
    count: i64,
    /// Keys in the next message.
    keys: i64,
    is_over: bool,
    /// Kept until the end, see [`super::body::Body::Unary`].
    _messages: Messages,
}

impl RangeStream {
    fn next(&mut self) -> Result<Piece, Status> {
        let mut result = self.read()?;
        let bytes: usize = result.kvs.iter().map(|kv| kv.len()).sum();
        if let Some(left) = &mut self.left {
            *left -= result.kvs.len() as i64;
        }
        let wants_more = self.left.is_none_or(|left| left > 0);
        self.is_over = !result.more || !wants_more || self.request.count_only;
        if self.is_over {
            result.count = self.count;
            return Ok(kv::streamed(
                self.session.member.header(self.header_revision),
                &result,
            ));
        }
        let last = result.kvs.last().cloned().unwrap_or_default();
        let last = KeyValue::decode(last)
            .map_err(|why| Status::internal(format!("a stored key does not decode: {why}")))?;
        self.request.key = [&last.key[..], &[0]].concat().into();
        self.pace(bytes);
        result.more = false;
        result.count = 0;
        Ok(kv::streamed(None, &result))
    }

    fn read(&self) -> Result<RangeResult, Status> {
        let limit = self.left.map_or(self.keys, |left| left.min(self.keys));
        let request = pb::RangeRequest {
            limit,
            ..self.request.clone()
        };
        self.session
            .member
            .view
            .load()
            .range(&request)
            .map_err(read_failed)
    }

    /// Aims at messages of half the largest request to twice that. Source: upstream, the same.
    fn pace(&mut self, bytes: usize) {
        let aim = self.session.member.limits.request_bytes_max;
        if bytes < aim / 2 {
            self.keys = self.keys.saturating_mul(2);
        } else if bytes > aim.saturating_mul(2) {
            self.keys = (self.keys / 2).max(1);
        }
    }
}

impl Stream for RangeStream {
    type Item = Result<Piece, Status>;

    fn poll_next(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(self.next()))
    }
}
