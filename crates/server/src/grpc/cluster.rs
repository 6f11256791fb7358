//! `etcdserverpb.Cluster`: the list of members. Changing it is not available yet.

use bytes::Bytes;
use proto::etcdserverpb as pb;
use state::membership::Member;

use super::frame;
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

fn member(member: Member) -> pb::Member {
    pb::Member {
        id: member.id,
        name: member.name,
        peer_ur_ls: member.peer_urls.unwrap_or_default(),
        client_ur_ls: member.client_urls,
        is_learner: member.is_learner,
    }
}
