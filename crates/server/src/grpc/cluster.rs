//! `etcdserverpb.Cluster`: the list of members. Changing it is not available yet.

use bytes::Bytes;
use proto::error;
use proto::etcdserverpb as pb;
use state::membership::Member;

use super::frame;
use super::route::not_yet;
use super::session::Session;
use super::status::Status;

/// All members by ascending id. The header has no revision, as in etcd.
pub async fn member_list(
    session: &Session,
    request: pb::MemberListRequest,
) -> Result<Bytes, Status> {
    let view = session.view(!request.linearizable).await?;
    let members = view.members().list().into_iter().map(member).collect();
    Ok(frame::encode(&pb::MemberListResponse {
        header: session.member.header(0),
        members,
    }))
}

/// Removing, updating or promoting a member that does not exist fails as in etcd; one that does is not available yet.
pub async fn member_remove(
    session: &Session,
    request: pb::MemberRemoveRequest,
) -> Result<Bytes, Status> {
    Err(change(session, request.id, "MemberRemove"))
}

pub async fn member_update(
    session: &Session,
    request: pb::MemberUpdateRequest,
) -> Result<Bytes, Status> {
    Err(change(session, request.id, "MemberUpdate"))
}

pub async fn member_promote(
    session: &Session,
    request: pb::MemberPromoteRequest,
) -> Result<Bytes, Status> {
    Err(change(session, request.id, "MemberPromote"))
}

fn change(session: &Session, id: u64, name: &'static str) -> Status {
    match session.member.view.load().members().get(id) {
        None => Status::from(&error::MEMBER_NOT_FOUND),
        Some(_) => not_yet(name),
    }
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
