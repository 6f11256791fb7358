//! `etcdserverpb.Watch`: one stream carries many watchers; the hub owns them, here is their wire.
//!
//! Requests are read while responses are written, but only as long as few responses wait: a client that does not read is
//! not read from either.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, BytesMut};
use futures_util::Stream;
use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_request::RequestUnion;
use replica::watch::Message;

use super::body::{Piece, Pieces};
use super::frame::{self, Messages};
use super::session::Session;
use super::status::Status;
use crate::watching;

/// With more messages than this on their way to the client, its requests have to wait.
const QUEUED_MAX: usize = 32;
/// Requests taken before responses get their turn.
const REQUESTS_AT_ONCE: usize = 64;
/// Messages handed to the transport together.
const TAKEN_BYTES: usize = 64 << 10;
/// Events larger than this are not copied but handed over as they are: the bytes all watchers share.
const SHARED_BYTES: usize = 16 << 10;

/// Serves a watch stream.
pub fn watch(session: &Session, method: usize, messages: Messages) -> Result<Pieces, Status> {
    let stream = session.watches.open()?;
    Ok(Box::pin(Watch {
        session: session.clone(),
        method,
        requests: Some(messages),
        stream,
        pieces: VecDeque::new(),
        taken: Vec::new(),
    }))
}

struct Watch {
    session: Session,
    method: usize,
    /// `None` once the client has closed its side, which does not end its watchers.
    requests: Option<Messages>,
    stream: watching::Stream,
    pieces: VecDeque<Piece>,
    /// Kept for its capacity.
    taken: Vec<Message>,
}

impl Watch {
    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        let mut count = 0;
        while let Some(requests) = &mut self.requests
            && self.stream.queued() <= QUEUED_MAX
        {
            if count == REQUESTS_AT_ONCE {
                cx.waker().wake_by_ref();
                break;
            }
            match requests.poll_next(cx)? {
                Poll::Pending => break,
                Poll::Ready(None) => self.requests = None,
                Poll::Ready(Some(message)) => {
                    self.session.member.metrics.methods[self.method]
                        .received
                        .inc();
                    self.tell(frame::decode(message)?)?;
                }
            }
            count += 1;
        }
        Ok(())
    }

    /// Passes a request on. One that asks for nothing known is ignored, as in etcd.
    fn tell(&self, request: pb::WatchRequest) -> Result<(), Status> {
        let revision = self.session.member.view.load().revision();
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.stream.create(create, revision)?,
            Some(RequestUnion::CancelRequest(cancel)) => self.stream.cancel(cancel.watch_id)?,
            Some(RequestUnion::ProgressRequest(_)) => self.stream.progress(revision)?,
            None => {}
        }
        Ok(())
    }

    fn poll_responses(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let mut taken = std::mem::take(&mut self.taken);
        let poll = self.stream.poll_take(cx, TAKEN_BYTES, &mut taken);
        self.encode(&taken);
        taken.clear();
        self.taken = taken;
        poll.map_err(Status::from)
    }

    /// Turns messages into pieces: small ones together, large events apart and shared.
    fn encode(&mut self, messages: &[Message]) {
        let mut data = BytesMut::new();
        let mut count = 0;
        for message in messages {
            let head = pb::WatchResponse {
                header: self.session.member.header(message.header_revision),
                watch_id: message.watch_id,
                created: message.created,
                canceled: message.canceled,
                compact_revision: message.compact_revision,
                cancel_reason: message.cancel_reason.to_string(),
                fragment: message.fragment,
                events: Vec::new(),
            };
            let shared = message.events.len() > SHARED_BYTES;
            let length = head.encoded_len() + message.events.len();
            let copied = if shared { head.encoded_len() } else { length };
            data.reserve(5 + copied);
            frame::put_prefix(&mut data, length);
            // The events are the last field of the message, so they may simply follow.
            head.encode(&mut data).expect("the buffer grows as needed");
            count += 1;
            if shared {
                self.push(data.split(), count);
                count = 0;
                self.pieces.push_back(Piece {
                    data: message.events.clone(),
                    messages: 0,
                });
            } else {
                data.put_slice(&message.events);
            }
        }
        self.push(data, count);
    }

    fn push(&mut self, data: BytesMut, messages: usize) {
        if messages > 0 {
            self.pieces.push_back(Piece {
                data: data.freeze(),
                messages,
            });
        }
    }
}

impl Stream for Watch {
    type Item = Result<Piece, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(piece) = self.pieces.pop_front() {
            return Poll::Ready(Some(Ok(piece)));
        }
        if let Err(status) = self.poll_requests(cx) {
            return Poll::Ready(Some(Err(status)));
        }
        match self.poll_responses(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => Poll::Ready(self.pieces.pop_front().map(Ok)),
            Poll::Ready(Err(status)) => Poll::Ready(Some(Err(status))),
        }
    }
}
