//! What only the leader can answer, asked through any member: leases, whose clocks are the leader's.
//!
//! Everything that goes through the log needs no help from here: raft itself carries proposals and questions about its index to the
//! leader. Source: upstream `server/etcdserver/v3_server.go` (`LeaseRenew`, `leaseTimeToLive`, `waitLeader`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::error::{self, RpcError};
use proto::etcdserverpb as pb;
use replica::{Reply, Request};
use state::membership::Member as ClusterMember;

use crate::member::Member;
use crate::peer::ask::{AskError, Asker};

/// Between two tries to reach the leader.
pub const PAUSE: Duration = Duration::from_millis(50);

/// Keeps a lease alive: its granted time to live in seconds, or `None` if it does not exist or its time is up.
///
/// # Errors
/// There is no leader, or it can't be reached in time.
pub async fn renew(member: &Arc<Member>, id: i64) -> Result<Option<i64>, &'static RpcError> {
    by_the_leader(member, &Renewal(id)).await
}

/// What a lease has left, and with `request.keys` its keys; `None` if it does not exist. The answer has no header.
///
/// # Errors
/// There is no leader, or it can't be reached in time.
pub async fn time_to_live(
    member: &Arc<Member>,
    request: &pb::LeaseTimeToLiveRequest,
) -> Result<Option<pb::LeaseTimeToLiveResponse>, &'static RpcError> {
    by_the_leader(member, request).await
}

/// The same by this member alone.
///
/// # Errors
/// As [`is_not_leading`] tells, if it does not lead.
pub async fn time_to_live_here(
    member: &Arc<Member>,
    request: &pb::LeaseTimeToLiveRequest,
) -> Result<Option<pb::LeaseTimeToLiveResponse>, &'static RpcError> {
    let id = request.id;
    let time = match member.ask(Request::LeaseTimeToLive { id }).await? {
        Reply::LeaseTime { time } => time,
        _ => return Err(&error::UNKNOWN_METHOD),
    };
    Ok(time.map(|(granted_ttl, ttl)| pb::LeaseTimeToLiveResponse {
        header: None,
        id,
        ttl,
        granted_ttl,
        keys: match request.keys {
            true => {
                let keys = member.view.load().leases().keys(id);
                keys.into_iter().map(Bytes::from).collect()
            }
            false => Vec::new(),
        },
    }))
}

/// Whether an answer of the core means that another member must be asked.
pub fn is_not_leading(why: &RpcError) -> bool {
    let reasons = [
        &error::NOT_LEADER,
        &error::NO_LEADER,
        &error::NOT_PRIMARY,
        &error::LEADER_CHANGED,
    ];
    reasons.contains(&why)
}

/// Waits until the leader is known.
///
/// # Errors
/// None was found in time, or it has no address.
pub async fn wait_for_leader(
    member: &Arc<Member>,
    deadline: Instant,
) -> Result<ClusterMember, &'static RpcError> {
    let mut changes = member.raft.leaders();
    loop {
        changes.borrow_and_update();
        let leader = member.raft.get().leader;
        if let Some(leader) = member.view.load().members().get(leader) {
            return match leader.peer_urls().is_empty() {
                true => Err(&error::NO_LEADER),
                false => Ok(leader.clone()),
            };
        }
        let left = deadline.saturating_duration_since(Instant::now());
        // A leader that is known before it is a member of the view is looked for again a little later.
        let wait = tokio::time::timeout(left.min(PAUSE * 10), changes.changed());
        if wait.await.is_err() && left <= PAUSE * 10 {
            return Err(&error::NO_LEADER);
        }
    }
}

/// A question about a lease, to this member if it leads, or to the one that does.
trait Question {
    type Answer: Send;

    fn here(
        &self,
        member: &Arc<Member>,
    ) -> impl Future<Output = Result<Option<Self::Answer>, &'static RpcError>> + Send;

    fn there(
        &self,
        asker: &Asker,
        url: &str,
        patience: Duration,
    ) -> impl Future<Output = Result<Option<Self::Answer>, AskError>> + Send;
}

struct Renewal(i64);

impl Question for Renewal {
    type Answer = i64;

    async fn here(&self, member: &Arc<Member>) -> Result<Option<i64>, &'static RpcError> {
        match member.ask(Request::LeaseRenew { id: self.0 }).await? {
            Reply::LeaseRenewed { ttl_s } => Ok(ttl_s),
            _ => Err(&error::UNKNOWN_METHOD),
        }
    }

    async fn there(
        &self,
        asker: &Asker,
        url: &str,
        patience: Duration,
    ) -> Result<Option<i64>, AskError> {
        asker.renew(url, self.0, patience).await
    }
}

impl Question for pb::LeaseTimeToLiveRequest {
    type Answer = pb::LeaseTimeToLiveResponse;

    async fn here(
        &self,
        member: &Arc<Member>,
    ) -> Result<Option<pb::LeaseTimeToLiveResponse>, &'static RpcError> {
        time_to_live_here(member, self).await
    }

    async fn there(
        &self,
        asker: &Asker,
        url: &str,
        patience: Duration,
    ) -> Result<Option<pb::LeaseTimeToLiveResponse>, AskError> {
        asker.time_to_live(url, *self, patience).await
    }
}

async fn by_the_leader<Q: Question>(
    member: &Arc<Member>,
    question: &Q,
) -> Result<Option<Q::Answer>, &'static RpcError> {
    let deadline = Instant::now() + member.settings().request_timeout;
    loop {
        if member.raft.get().is_leader {
            match question.here(member).await {
                Err(why) if is_not_leading(why) => {}
                outcome => return outcome,
            }
        }
        let leader = wait_for_leader(member, deadline).await?;
        if let Some(asker) = member.asker.get().filter(|_| leader.id != member.member_id) {
            for url in leader.peer_urls() {
                let patience = deadline.saturating_duration_since(Instant::now());
                if let Ok(answer) = question.there(asker, url, patience).await {
                    return Ok(answer);
                }
            }
        }
        if Instant::now() >= deadline {
            return Err(&error::TIMEOUT);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
