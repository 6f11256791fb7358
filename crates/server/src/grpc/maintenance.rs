//! `etcdserverpb.Maintenance`.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use proto::error;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use proto::membershippb::DowngradeInfoSetRequest;
use replica::{MemberId, Reply, Request};
use state::version::Version;
use state::{KvHash, ReadView, Response};
use tokio::sync::OwnedSemaphorePermit;

use super::body::Pieces;
use super::frame::{self, Messages};
use super::kv::unexpected;
use super::route::not_yet;
use super::session::{Session, read_failed};
use super::snapshot;
use super::status::Status;
use crate::config::VERSION_ETCD;
use crate::long_calls::HashPlace;
use crate::member::Member;

/// Where the member stands; answered whatever its state, from what it knows itself.
pub async fn status(session: &Session, _request: pb::StatusRequest) -> Result<Bytes, Status> {
    let member = &session.member;
    let (raft, view) = (member.raft.get(), member.view.load());
    let downgrade = view.cluster_version().downgrade_target.clone();
    Ok(frame::encode(&pb::StatusResponse {
        header: member.header(view.revision()),
        version: VERSION_ETCD.to_owned(),
        db_size: signed(view.file_bytes()),
        leader: raft.leader,
        raft_index: raft.committed,
        raft_term: raft.term,
        raft_applied_index: view.applied().0,
        errors: errors(raft.leader, &view),
        db_size_in_use: signed(view.live_bytes()),
        is_learner: raft.is_learner,
        storage_version: storage_version(&view),
        db_size_quota: signed(member.settings().quota_shown),
        downgrade_info: Some(pb::DowngradeInfo {
            enabled: downgrade.is_some(),
            target_version: downgrade.unwrap_or_default(),
        }),
    }))
}

fn errors(leader: u64, view: &ReadView) -> Vec<String> {
    let mut errors = Vec::new();
    if leader == 0 {
        errors.push(error::NO_LEADER.text.to_owned());
    }
    // The text that Go prints for the message.
    errors.extend(view.alarms().get(0).into_iter().map(|alarm| {
        let kind = pb::AlarmType::try_from(alarm.alarm).map_or_else(
            |_| alarm.alarm.to_string(),
            |kind| kind.as_str_name().to_owned(),
        );
        format!("memberID:{} alarm:{kind}", alarm.member_id)
    }));
    errors
}

/// The version of the format in which this member would give its data away: that of the cluster, once it is known.
pub fn storage_version(view: &ReadView) -> String {
    let version = view.cluster_version().version;
    version.map_or_else(String::new, |version| version.minor_only().to_string())
}

pub async fn alarm(session: &Session, request: pb::AlarmRequest) -> Result<Bytes, Status> {
    if AlarmAction::try_from(request.action).is_err() {
        return Err(Status::from(&error::UNKNOWN_METHOD));
    }
    let request = pb::InternalRaftRequest {
        alarm: Some(request),
        ..Default::default()
    };
    match session.response(request).await? {
        Response::Alarm(mut response) => {
            session.member.complete(&mut response.header);
            Ok(frame::encode(&response))
        }
        other => Err(unexpected(&other)),
    }
}

/// Gives space back now. Nothing stops for it, unlike in etcd. The answer has no header, as in etcd.
pub async fn defragment(
    session: &Session,
    _request: pb::DefragmentRequest,
) -> Result<Bytes, Status> {
    let member = &session.member;
    let Some(maintenance) = member.hooks.get() else {
        return Err(not_yet("Defragment"));
    };
    let _place = member.long_calls.defragmentation()?;
    let begun = Instant::now();
    match maintenance.defragment().await {
        Ok(()) => {
            member.metrics.backend_defrag.observe(begun.elapsed());
            Ok(frame::encode(&pb::DefragmentResponse::default()))
        }
        Err(_) => Err(Status::from(&error::STOPPED)),
    }
}

/// Hashes everything. The read is long: it runs beside the connection's thread.
pub async fn hash(session: &Session, _request: pb::HashRequest) -> Result<Bytes, Status> {
    let place = session.member.long_calls.hash().await?;
    let view = session.member.view.load_full();
    let revision = view.revision();
    let begun = Instant::now();
    let hash = beside(place, move || view.hash()).await?;
    let hash = hash.map_err(|fault| read_failed(fault.into()))?;
    session.member.metrics.hash.observe(begun.elapsed());
    Ok(frame::encode(&pb::HashResponse {
        header: session.member.header(revision),
        hash,
    }))
}

pub async fn hash_kv(session: &Session, request: pb::HashKvRequest) -> Result<Bytes, Status> {
    let hash = hash_of(&session.member, request.revision).await?;
    Ok(frame::encode(&pb::HashKvResponse {
        header: session.member.header(hash.current_revision),
        hash: hash.hash,
        compact_revision: hash.compact_revision,
        hash_revision: hash.hash_revision,
    }))
}

/// The hash of everything up to a revision, 0 for the newest.
pub async fn hash_of(member: &Arc<Member>, revision: i64) -> Result<KvHash, Status> {
    let place = member.long_calls.hash().await?;
    let view = member.view.load_full();
    let begun = Instant::now();
    let hash = beside(place, move || view.hash_kv(revision)).await?;
    let hash = hash.map_err(read_failed)?;
    member.metrics.hash_rev.observe(begun.elapsed());
    Ok(hash)
}

/// Runs a long read on a thread of its own. It keeps its place until it is done, even when its client has gone.
async fn beside<T: Send + 'static>(
    place: HashPlace,
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    let outcome = tokio::task::spawn_blocking(move || {
        let _place = place;
        read()
    })
    .await;
    outcome.map_err(|why| Status::internal(format!("a read ended early: {why}")))
}

/// The answer has no header, as in etcd.
pub async fn move_leader(
    session: &Session,
    request: pb::MoveLeaderRequest,
) -> Result<Bytes, Status> {
    if !session.member.raft.get().is_leader {
        return Err(Status::from(&error::NOT_LEADER));
    }
    let target = request.target_id;
    let is_voter = {
        let view = session.member.view.load();
        view.members()
            .get(target)
            .is_some_and(|member| !member.is_learner)
    };
    if !is_voter {
        return Err(Status::from(&error::BAD_LEADER_TRANSFEREE));
    }
    let target = MemberId(target);
    match session.ask(Request::MoveLeader { target }).await? {
        Reply::LeaderMoved => Ok(frame::encode(&pb::MoveLeaderResponse::default())),
        other => Err(Status::internal(format!(
            "a transfer was answered with {other:?}"
        ))),
    }
}

/// Says whether the cluster's version can be lowered by one, announces that it is to be, or takes that back.
pub async fn downgrade(session: &Session, request: pb::DowngradeRequest) -> Result<Bytes, Status> {
    let version = match DowngradeAction::try_from(request.action) {
        Ok(DowngradeAction::Validate) => can_downgrade(session, &request.version).await?.1,
        Ok(DowngradeAction::Enable) => {
            let (target, version) = can_downgrade(session, &request.version).await?;
            announce(session, Some(target)).await?;
            version
        }
        Ok(DowngradeAction::Cancel) => {
            let view = session.view(false).await?;
            if view.cluster_version().downgrade_target.is_none() {
                return Err(Status::from(&error::NO_INFLIGHT_DOWNGRADE));
            }
            announce(session, None).await?;
            let version = view.cluster_version().version;
            version.ok_or(&error::CLUSTER_VERSION_UNAVAILABLE)?
        }
        Err(_) => return Err(Status::from(&error::UNKNOWN_METHOD)),
    };
    Ok(frame::encode(&pb::DowngradeResponse {
        header: session.member.header(session.member.view.load().revision()),
        version: format!("{}.{}", version.major, version.minor),
    }))
}

/// The target, and the version that the cluster has.
async fn can_downgrade(session: &Session, target: &str) -> Result<(Version, Version), Status> {
    let view = session.view(false).await?;
    let cluster = view.cluster_version();
    let target = downgrade_target(target)?;
    let version = cluster.version.ok_or(&error::CLUSTER_VERSION_UNAVAILABLE)?;
    if Some(target.minor) != version.minor.checked_sub(1) || target.major != version.major {
        return Err(Status::from(&error::INVALID_DOWNGRADE_TARGET_VERSION));
    }
    if cluster.downgrade_target.is_some() {
        return Err(Status::from(&error::DOWNGRADE_IN_PROCESS));
    }
    Ok((target.minor_only(), version))
}

async fn announce(session: &Session, target: Option<Version>) -> Result<(), Status> {
    let request = pb::InternalRaftRequest {
        downgrade_info_set: Some(DowngradeInfoSetRequest {
            enabled: target.is_some(),
            ver: target.map_or_else(String::new, |target| target.to_string()),
        }),
        ..Default::default()
    };
    session.response(request).await.map(|_| ())
}

/// `X.Y` or `X.Y.Z`.
fn downgrade_target(text: &str) -> Result<Version, Status> {
    let version = Version::parse(text).or_else(|| Version::parse(&format!("{text}.0")));
    version.ok_or_else(|| Status::from(&error::WRONG_DOWNGRADE_VERSION_FORMAT))
}

/// Streams the state as etcd's backend file.
pub async fn snapshot(
    session: &Session,
    _method: usize,
    mut messages: Messages,
) -> Result<Pieces, Status> {
    let _request: pb::SnapshotRequest = frame::decode(messages.only().await?)?;
    let place = SnapshotPlace {
        _place: session.member.long_calls.snapshot()?,
        member: session.member.clone(),
        begun: Instant::now(),
    };
    let view = session.member.view.load_full();
    let version = storage_version(&view);
    snapshot::stream_of(view, version, place)
}

/// The place of a snapshot under way.
struct SnapshotPlace {
    _place: OwnedSemaphorePermit,
    member: Arc<Member>,
    begun: Instant,
}

impl Drop for SnapshotPlace {
    fn drop(&mut self) {
        let duration = &self.member.metrics.backend_snapshot;
        duration.observe(self.begun.elapsed());
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
