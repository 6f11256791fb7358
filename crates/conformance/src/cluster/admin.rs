//! What an operator asks of a cluster, one call on a connection of its own each.

use crate::grpc::{self, Failure, Grpc, block_on};
use prost::Message;
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long one call may take.
const CALL: Duration = Duration::from_secs(10);

/// Asks again until it is answered or the patience is over: members that have just started refuse much for a while.
pub fn persist<T>(patience: Duration, ask: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
    let until = Instant::now() + patience;
    loop {
        match ask() {
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(50)),
            done => return done,
        }
    }
}

/// One call on a connection of its own.
pub fn call<Q: Message, R: Message + Default>(
    address: SocketAddr,
    path: &str,
    request: &Q,
) -> Result<R, Failure> {
    let late = || Failure::Transport(format!("{path}: no answer in {CALL:?}"));
    block_on(async {
        let one = async { Grpc::connect(address).await?.call(path, request).await };
        let answer = tokio::time::timeout(CALL, one).await;
        answer.unwrap_or_else(|_| Err(late()))
    })
}

/// Maintenance.Status: answered by every member, with or without a leader.
pub fn status(address: SocketAddr) -> Result<pb::StatusResponse, Failure> {
    call(address, grpc::STATUS, &pb::StatusRequest::default())
}

/// The newest revision, by a linearizable read.
pub fn revision(address: SocketAddr) -> Result<i64, Failure> {
    let request = pb::RangeRequest {
        key: "revision".into(),
        ..Default::default()
    };
    let answer: pb::RangeResponse = call(address, grpc::RANGE, &request)?;
    Ok(answer.header.map_or(0, |header| header.revision))
}

/// All keys at a revision, as the member itself has them.
pub fn keys_at(address: SocketAddr, revision: i64) -> Result<Vec<KeyValue>, Failure> {
    let request = pb::RangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        revision,
        serializable: true,
        ..Default::default()
    };
    let answer: pb::RangeResponse = call(address, grpc::RANGE, &request)?;
    Ok(answer.kvs)
}

/// Hash of the key space up to a revision, and the revision that was compacted.
pub fn hash_kv(address: SocketAddr, revision: i64) -> Result<(u32, i64), Failure> {
    let request = pb::HashKvRequest { revision };
    let answer: pb::HashKvResponse = call(address, grpc::HASH_KV, &request)?;
    Ok((answer.hash, answer.compact_revision))
}

/// The members, as one that is in step knows them.
pub fn member_list(address: SocketAddr) -> Result<Vec<pb::Member>, Failure> {
    let request = pb::MemberListRequest { linearizable: true };
    let answer: pb::MemberListResponse = call(address, grpc::MEMBER_LIST, &request)?;
    Ok(answer.members)
}

/// Adds a member.
pub fn member_add(address: SocketAddr, url: &str, learner: bool) -> Result<(), Failure> {
    let known = member_list(address)?;
    // An earlier try whose answer was lost.
    if known
        .iter()
        .any(|member| member.peer_ur_ls.iter().any(|u| u == url))
    {
        return Ok(());
    }
    let request = pb::MemberAddRequest {
        peer_ur_ls: vec![url.into()],
        is_learner: learner,
    };
    call::<_, pb::MemberAddResponse>(address, grpc::MEMBER_ADD, &request).map(drop)
}

/// Removes a member.
pub fn member_remove(address: SocketAddr, id: u64) -> Result<(), Failure> {
    let known = member_list(address)?;
    if known.iter().all(|member| member.id != id) {
        return Ok(());
    }
    let request = pb::MemberRemoveRequest { id };
    call::<_, pb::MemberRemoveResponse>(address, grpc::MEMBER_REMOVE, &request).map(drop)
}

/// Makes a learner a voter.
pub fn member_promote(address: SocketAddr, id: u64) -> Result<(), Failure> {
    let known = member_list(address)?;
    if known
        .iter()
        .any(|member| member.id == id && !member.is_learner)
    {
        return Ok(());
    }
    let request = pb::MemberPromoteRequest { id };
    call::<_, pb::MemberPromoteResponse>(address, grpc::MEMBER_PROMOTE, &request).map(drop)
}

/// Asks the leader to hand over.
pub fn move_leader(leader: SocketAddr, to: u64) -> Result<(), Failure> {
    let request = pb::MoveLeaderRequest { target_id: to };
    call::<_, pb::MoveLeaderResponse>(leader, grpc::MOVE_LEADER, &request).map(drop)
}
