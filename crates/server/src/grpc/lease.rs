//! `etcdserverpb.Lease`, all but keeping alive.

use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use state::{Response, quota};

use super::frame;
use super::kv::{need_room, unexpected};
use super::session::Session;
use super::status::Status;
use crate::forward;

/// Grants a lease. For id 0 the server chooses: a request id, which no other lease has unless a client guessed it.
pub async fn grant(session: &Session, mut request: pb::LeaseGrantRequest) -> Result<Bytes, Status> {
    need_room(session, quota::LEASE_COST).await?;
    while request.id == 0 {
        request.id = (session.member.ids.next() & i64::MAX as u64) as i64;
    }
    let request = pb::InternalRaftRequest {
        lease_grant: Some(request),
        ..Default::default()
    };
    match session.response(request).await? {
        Response::LeaseGrant(mut response) => {
            session.member.complete(&mut response.header);
            let metrics = &session.member.metrics;
            metrics.leases_granted.inc();
            let ttl_s = u64::try_from(response.ttl).unwrap_or(0);
            metrics.lease_ttls.observe(Duration::from_secs(ttl_s));
            Ok(frame::encode(&response))
        }
        other => Err(unexpected(&other)),
    }
}

pub async fn revoke(session: &Session, request: pb::LeaseRevokeRequest) -> Result<Bytes, Status> {
    let request = pb::InternalRaftRequest {
        lease_revoke: Some(request),
        ..Default::default()
    };
    match session.response(request).await? {
        Response::LeaseRevoke(mut response) => {
            session.member.complete(&mut response.header);
            session.member.metrics.leases_revoked.inc();
            Ok(frame::encode(&response))
        }
        other => Err(unexpected(&other)),
    }
}

/// How long a lease has left, by the leader's clock. A lease that does not exist is no error but a TTL of -1.
pub async fn time_to_live(
    session: &Session,
    request: pb::LeaseTimeToLiveRequest,
) -> Result<Bytes, Status> {
    let known = forward::time_to_live(&session.member, &request).await?;
    let mut response = known.unwrap_or(pb::LeaseTimeToLiveResponse {
        id: request.id,
        ttl: -1,
        ..Default::default()
    });
    response.header = session.member.header(session.member.view.load().revision());
    Ok(frame::encode(&response))
}

/// All leases, by ascending id. etcd orders them by what they have left, which only its leader knows.
pub async fn leases(session: &Session, _request: pb::LeaseLeasesRequest) -> Result<Bytes, Status> {
    let view = session.member.view.load();
    let all = view.leases().all();
    let leases = all
        .into_iter()
        .map(|(id, _)| pb::LeaseStatus { id })
        .collect();
    Ok(frame::encode(&pb::LeaseLeasesResponse {
        header: session.member.header(view.revision()),
        leases,
    }))
}
