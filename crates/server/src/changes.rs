//! Changes of the membership, as any member starts them: the checks that come before the log, and promotions, which only the leader can
//! judge.
//!
//! What the log then says is decided by the replicated state. Source: upstream `server/etcdserver/server.go` (`AddMember`, `RemoveMember`,
//! `PromoteMember`, `UpdateMember`), `server/etcdserver/api/v3rpc/member.go`.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::StatusCode;
use proto::error::{self, RpcError};
use proto::raftpb::{ConfChange, ConfChangeType};
use replica::{MemberId, Reply, Request, members};
use state::Response;
use state::membership::{ChangeContext, Member as ClusterMember, id_to_hex, member_id};

use crate::config::Url;
use crate::forward;
use crate::member::Member;

/// Why a membership stays as it is.
pub type Refusal = &'static RpcError;

/// Adds a member, as learner or voter: the new one, and all.
pub async fn add(
    member: &Arc<Member>,
    peer_urls: &[String],
    is_learner: bool,
) -> Result<(ClusterMember, Vec<ClusterMember>), Refusal> {
    let parsed: Result<Vec<Url>, _> = peer_urls.iter().map(|url| Url::parse(url)).collect();
    let mut urls = match parsed {
        Ok(urls) if !urls.is_empty() => urls,
        _ => return Err(&error::MEMBER_BAD_URLS),
    };
    urls.sort();
    let urls: Vec<String> = urls.iter().map(Url::to_string).collect();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let added = ClusterMember {
        id: member_id(
            &urls,
            "",
            Some(i64::try_from(now.as_secs()).unwrap_or(i64::MAX)),
        ),
        peer_urls: Some(urls),
        is_learner,
        ..ClusterMember::default()
    };
    let kind = match is_learner {
        true => ConfChangeType::ConfChangeAddLearnerNode,
        false => ConfChangeType::ConfChangeAddNode,
    };
    let all = change(member, kind, added.id, added.to_json()).await?;
    Ok((added, all))
}

/// Removes a member for ever.
pub async fn remove(member: &Arc<Member>, id: u64) -> Result<Vec<ClusterMember>, Refusal> {
    change(member, ConfChangeType::ConfChangeRemoveNode, id, Vec::new()).await
}

/// Gives a member other peer URLs. They are not looked at, as in etcd.
pub async fn update(
    member: &Arc<Member>,
    id: u64,
    peer_urls: Vec<String>,
) -> Result<Vec<ClusterMember>, Refusal> {
    let context = ClusterMember {
        id,
        peer_urls: Some(peer_urls),
        ..ClusterMember::default()
    };
    let kind = ConfChangeType::ConfChangeUpdateNode;
    change(member, kind, id, context.to_json()).await
}

/// Makes a voter of a learner; a member that does not lead asks the leader.
pub async fn promote(member: &Arc<Member>, id: u64) -> Result<Vec<ClusterMember>, Refusal> {
    let deadline = Instant::now() + member.settings().request_timeout;
    loop {
        match promote_here(member, id).await {
            Err(why) if *why == error::NOT_LEADER || *why == error::NO_LEADER => {}
            outcome => return outcome,
        }
        let leader = forward::wait_for_leader(member, deadline).await?;
        if let Some(asker) = member.asker.get().filter(|_| leader.id != member.member_id) {
            for url in leader.peer_urls() {
                let patience = deadline.saturating_duration_since(Instant::now());
                match asker.promote(url, id, patience).await {
                    Ok(members) => return Ok(members),
                    Err(why) => {
                        if let Some(refusal) = refusal_in(&why) {
                            return Err(refusal);
                        }
                        tracing::warn!(url, error = %why, "the leader could not be asked to promote a member");
                    }
                }
            }
        }
        if Instant::now() >= deadline {
            return Err(&error::TIMEOUT);
        }
        tokio::time::sleep(forward::PAUSE).await;
    }
}

/// Makes a voter of a learner, if this member leads.
///
/// # Errors
/// [`error::NOT_LEADER`] or [`error::NO_LEADER`] if it does not; otherwise why not.
pub async fn promote_here(member: &Arc<Member>, id: u64) -> Result<Vec<ClusterMember>, Refusal> {
    let status = member.raft.get();
    if !status.is_leader {
        return Err(match status.leader {
            0 => &error::NO_LEADER,
            _ => &error::NOT_LEADER,
        });
    }
    let context = ChangeContext {
        member: ClusterMember {
            id,
            ..ClusterMember::default()
        },
        is_promote: true,
    };
    let kind = ConfChangeType::ConfChangeAddNode;
    let outcome = change(member, kind, id, context.to_json()).await;
    match &outcome {
        Ok(_) => member.metrics.learner_promotions.inc(),
        Err(why) if **why == error::NOT_LEADER || **why == error::NO_LEADER => {}
        Err(why) => member.metrics.promotion_failed(why.text),
    }
    outcome
}

/// What the leader's answer means, if it is final. Source: upstream `promoteMemberHTTP`.
fn refusal_in(why: &crate::peer::ask::AskError) -> Option<Refusal> {
    if why.refused_with(StatusCode::NOT_FOUND).is_some() {
        return Some(&error::MEMBER_NOT_FOUND);
    }
    let text = why.refused_with(StatusCode::PRECONDITION_FAILED)?;
    if text.contains(error::LEARNER_NOT_READY.text) {
        return Some(&error::LEARNER_NOT_READY);
    }
    text.contains("can only promote a learner member")
        .then_some(&error::MEMBER_NOT_LEARNER)
}

async fn change(
    member: &Arc<Member>,
    kind: ConfChangeType,
    id: u64,
    context: Vec<u8>,
) -> Result<Vec<ClusterMember>, Refusal> {
    let change = ConfChange {
        id: Some(member.ids.next()),
        r#type: Some(kind as i32),
        node_id: Some(id),
        context: (!context.is_empty()).then(|| context.into()),
    };
    if member.settings().strict_reconfig {
        let view = member.view.load_full();
        let connected_us = |id| {
            let connected = member.connected_for(id)?;
            Some(u64::try_from(connected.as_micros()).unwrap_or(u64::MAX))
        };
        let me = MemberId(member.member_id);
        members::may_change(view.members(), &change, me, connected_us).inspect_err(|why| {
            tracing::warn!(
                "local-member-id" = id_to_hex(member.member_id),
                "requested-member-id" = id_to_hex(id),
                change = kind.as_str_name(),
                error = why.text,
                "rejecting a change of the members that would put the quorum at risk"
            );
        })?;
    }
    let begun = Instant::now();
    match member.ask(Request::ChangeMembers { change }).await {
        Ok(Reply::Applied(applied)) => match applied.outcome {
            Ok(Response::Members(members)) => Ok(members),
            Ok(_) => Ok(member.view.load().members().list()),
            Err(rejected) => Err(rejected.0),
        },
        Ok(_) => Err(&error::UNKNOWN_METHOD),
        Err(why) => Err(member.why_late(why, begun)),
    }
}
