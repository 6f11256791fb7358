//! `etcdserverpb.KV`.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use proto::error;
use proto::etcdserverpb as pb;
use state::RangeResult;
use state::{Response, quota, validate};

use super::body::Piece;
use super::frame;
use super::session::{Session, read_failed};
use super::status::Status;

/// Answers a range. The keys and values go from the store into the response as they are stored, without being decoded.
pub async fn range(session: &Session, request: pb::RangeRequest) -> Result<Bytes, Status> {
    if !request.serializable && session.member.raft.is_learner() {
        return Err(Status::from(&error::NOT_SUPPORTED_FOR_LEARNER));
    }
    validate::range(&request)?;
    let view = session.view(request.serializable).await?;
    let result = view.range(&request).map_err(read_failed)?;
    session.member.metrics.ranges.inc();
    Ok(frame_range(session.member.header(result.revision), &result))
}

pub async fn put(session: &Session, request: pb::PutRequest) -> Result<Bytes, Status> {
    validate::put(&request)?;
    need_room(session, quota::put_cost(&request)).await?;
    let request = pb::InternalRaftRequest {
        put: Some(request),
        ..Default::default()
    };
    match session.response(request).await? {
        Response::Put(mut response) => {
            session.member.complete(&mut response.header);
            Ok(frame::encode(&response))
        }
        other => Err(unexpected(&other)),
    }
}

pub async fn delete_range(
    session: &Session,
    request: pb::DeleteRangeRequest,
) -> Result<Bytes, Status> {
    validate::delete_range(&request)?;
    let request = pb::InternalRaftRequest {
        delete_range: Some(request),
        ..Default::default()
    };
    match session.response(request).await? {
        Response::DeleteRange(mut response) => {
            session.member.complete(&mut response.header);
            Ok(frame::encode(&response))
        }
        other => Err(unexpected(&other)),
    }
}

/// A transaction that only reads is answered from a view; every other goes through the log.
pub async fn txn(session: &Session, request: pb::TxnRequest) -> Result<Bytes, Status> {
    validate::txn(&request, session.member.limits.txn_ops_max)?;
    let mut response = if validate::is_read_only(&request) {
        let view = session.view(validate::is_serializable(&request)).await?;
        view.txn(&request).map_err(read_failed)?
    } else {
        need_room(session, quota::txn_cost(&request)).await?;
        let request = pb::InternalRaftRequest {
            txn: Some(request),
            ..Default::default()
        };
        match session.response(request).await? {
            Response::Txn(response) => response,
            other => return Err(unexpected(&other)),
        }
    };
    session.member.complete(&mut response.header);
    Ok(frame::encode(&response))
}

pub async fn compact(session: &Session, request: pb::CompactionRequest) -> Result<Bytes, Status> {
    let request = pb::InternalRaftRequest {
        compaction: Some(request),
        ..Default::default()
    };
    match session.response(request).await? {
        Response::Compaction(mut response) => {
            session.member.complete(&mut response.header);
            Ok(frame::encode(&response))
        }
        other => Err(unexpected(&other)),
    }
}

/// Refuses what the quota has no room for, and has the alarm raised that makes every member refuse it.
pub async fn need_room(session: &Session, cost: u64) -> Result<(), Status> {
    if cost == 0 || session.member.has_room(cost) {
        return Ok(());
    }
    let alarm = pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Activate as i32,
        member_id: session.member.member_id,
        alarm: pb::AlarmType::Nospace as i32,
    };
    session
        .response(pb::InternalRaftRequest {
            alarm: Some(alarm),
            ..Default::default()
        })
        .await?;
    Err(Status::from(&error::NO_SPACE))
}

/// The answer of the log does not fit its request: a mistake of ours, not of the client.
pub fn unexpected(response: &Response) -> Status {
    Status::internal(format!("the log answered with {response:?}"))
}

const KVS: u32 = 2;
const MORE: u32 = 3;
const COUNT: u32 = 4;
/// The one field of `RangeStreamResponse`.
const RANGE_RESPONSE: u32 = 1;

/// A framed `RangeResponse`, written around key-value pairs that are encoded already.
fn frame_range(header: Option<pb::ResponseHeader>, result: &RangeResult) -> Bytes {
    let parts = Parts::of(header, result);
    let mut framed = BytesMut::with_capacity(5 + parts.length);
    frame::put_prefix(&mut framed, parts.length);
    parts.write(result, &mut framed);
    framed.freeze()
}

/// A framed `RangeStreamResponse` with one part of a range.
pub fn streamed(header: Option<pb::ResponseHeader>, result: &RangeResult) -> Piece {
    let parts = Parts::of(header, result);
    let inner = parts.length as u64;
    let length = key_len(RANGE_RESPONSE) + encoded_len_varint(inner) + parts.length;
    let mut framed = BytesMut::with_capacity(5 + length);
    frame::put_prefix(&mut framed, length);
    encode_key(RANGE_RESPONSE, WireType::LengthDelimited, &mut framed);
    encode_varint(inner, &mut framed);
    parts.write(result, &mut framed);
    Piece::one(framed.freeze())
}

/// What stands before and behind the pairs of a `RangeResponse`, and how long it is with them.
struct Parts {
    head: pb::RangeResponse,
    tail: pb::RangeResponse,
    length: usize,
}

impl Parts {
    fn of(header: Option<pb::ResponseHeader>, result: &RangeResult) -> Self {
        let head = pb::RangeResponse {
            header,
            ..Default::default()
        };
        let tail = pb::RangeResponse {
            more: result.more,
            count: result.count,
            ..Default::default()
        };
        let size = |kv: &Bytes| key_len(KVS) + encoded_len_varint(kv.len() as u64) + kv.len();
        let kvs: usize = result.kvs.iter().map(size).sum();
        let length = head.encoded_len() + kvs + tail.encoded_len();
        Parts { head, tail, length }
    }

    fn write(&self, result: &RangeResult, to: &mut BytesMut) {
        self.head.encode(to).expect("the buffer grows as needed");
        for kv in &result.kvs {
            encode_key(KVS, WireType::LengthDelimited, to);
            encode_varint(kv.len() as u64, to);
            to.put_slice(kv);
        }
        self.tail.encode(to).expect("the buffer grows as needed");
    }
}

// Field order in the encoding above: header 1, kvs 2, more 3, count 4.
const _: () = assert!(KVS < MORE && MORE < COUNT);

#[cfg(test)]
mod tests {
    use super::*;
    use proto::mvccpb::KeyValue;

    #[test]
    fn a_range_framed_by_hand_is_what_the_encoder_would_write() {
        let kv = |key: &'static str| KeyValue {
            key: key.into(),
            value: "v".into(),
            mod_revision: 7,
            ..Default::default()
        };
        let header = Some(pb::ResponseHeader {
            cluster_id: 1,
            member_id: 2,
            revision: 3,
            raft_term: 4,
        });
        let expected = pb::RangeResponse {
            header,
            kvs: vec![kv("a"), kv("b")],
            more: true,
            count: 9,
        };
        let kvs = expected
            .kvs
            .iter()
            .map(|kv| kv.encode_to_vec().into())
            .collect();
        let result = RangeResult {
            revision: 3,
            kvs,
            more: true,
            count: 9,
        };
        assert_eq!(frame_range(header, &result), frame::encode(&expected));
        let expected = pb::RangeStreamResponse {
            range_response: Some(expected),
        };
        assert_eq!(streamed(header, &result).data, frame::encode(&expected));
    }
}
