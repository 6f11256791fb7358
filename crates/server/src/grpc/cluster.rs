//! `etcdserverpb.Cluster`: the members, and changes of them. The headers have no revision, as in etcd.

use bytes::Bytes;
use proto::etcdserverpb as pb;
use state::membership::Member;

use super::frame;
use super::session::Session;
use super::status::Status;
use crate::changes;

/// All members by ascending id.
pub async fn member_list(
    session: &Session,
    request: pb::MemberListRequest,
) -> Result<Bytes, Status> {
    let view = session.view(!request.linearizable).await?;
    Ok(frame::encode(&pb::MemberListResponse {
        header: session.member.header(0),
        members: members(view.members().list()),
    }))
}

pub async fn member_add(session: &Session, request: pb::MemberAddRequest) -> Result<Bytes, Status> {
    let (added, all) =
        changes::add(&session.member, &request.peer_ur_ls, request.is_learner).await?;
    Ok(frame::encode(&pb::MemberAddResponse {
        header: session.member.header(0),
        member: Some(member(added)),
        members: members(all),
    }))
}

pub async fn member_remove(
    session: &Session,
    request: pb::MemberRemoveRequest,
) -> Result<Bytes, Status> {
    let left = changes::remove(&session.member, request.id).await?;
    Ok(frame::encode(&pb::MemberRemoveResponse {
        header: session.member.header(0),
        members: members(left),
    }))
}

pub async fn member_update(
    session: &Session,
    request: pb::MemberUpdateRequest,
) -> Result<Bytes, Status> {
    let all = changes::update(&session.member, request.id, request.peer_ur_ls).await?;
    Ok(frame::encode(&pb::MemberUpdateResponse {
        header: session.member.header(0),
        members: members(all),
    }))
}

pub async fn member_promote(
    session: &Session,
    request: pb::MemberPromoteRequest,
) -> Result<Bytes, Status> {
    let all = changes::promote(&session.member, request.id).await?;
    Ok(frame::encode(&pb::MemberPromoteResponse {
        header: session.member.header(0),
        members: members(all),
    }))
}

fn members(list: Vec<Member>) -> Vec<pb::Member> {
    list.into_iter().map(member).collect()
}

fn member(member: Member) -> pb::Member {
    pb::Member {
        id: member.id,
        name: member.name,
        peer_ur_ls: member.peer_urls.unwrap_or_default(),
        client_ur_ls: member.client_urls,
        is_learner: member.is_learner,
    }
}
