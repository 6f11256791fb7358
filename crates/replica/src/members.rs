//! Whether a change of the members may be proposed: etcd's strict reconfiguration check.
//!
//! The replicated state refuses what is wrong whoever proposes it ([`state::membership::Membership::validate`]). These rules keep an operator
//! from a change that is right and would leave the cluster without a quorum that works. They depend on which members this one reaches, so
//! they are asked before a change is proposed, by the member that got the call, and a cluster may be told to do without them
//! (`--strict-reconfig-check=false`). That a learner has caught up is another matter, which its leader alone knows: the replica checks it.
//!
//! Source of the rules: upstream `server/etcdserver/server.go` (`AddMember`, `mayRemoveMember`, `mayPromote`),
//! `server/etcdserver/api/membership/cluster.go` (`IsReadyTo…`), and for a cluster with a member down PR 21667.

use proto::error::{self, RpcError};
use proto::raftpb::{ConfChange, ConfChangeType};
use state::membership::{ChangeContext, Member, Membership};

use crate::MemberId;

/// A member counts as connected once it has been so for this long. Source: upstream `HealthInterval`.
pub const HEALTHY_US: u64 = 5_000_000;

/// Checks a change before it is proposed. `connected_us` tells for how long another member has been reached without a break, `None`
/// if it is not reached now.
///
/// # Errors
/// etcd's answers: not enough started members, or an unhealthy cluster.
pub fn may_change(
    members: &Membership,
    change: &ConfChange,
    me: MemberId,
    connected_us: impl Fn(u64) -> Option<u64>,
) -> Result<(), &'static RpcError> {
    let voters: Vec<&Member> = members
        .members
        .values()
        .filter(|member| !member.is_learner)
        .collect();
    let is_healthy = |member: &&&Member| {
        member.id == me.0 || connected_us(member.id).is_some_and(|us| us >= HEALTHY_US)
    };
    let healthy = voters.iter().filter(is_healthy).count();
    match change.r#type() {
        ConfChangeType::ConfChangeUpdateNode => Ok(()),
        ConfChangeType::ConfChangeRemoveNode => {
            let id = change.node_id();
            if members.get(id).is_some_and(|member| member.is_learner) {
                return Ok(());
            }
            let others = voters.iter().filter(|member| member.id != id);
            let (count, started) = counts(others.copied());
            enough_started(started, count)?;
            // One that is down takes no part in the quorum that works.
            if id != me.0 && connected_us(id).is_none() {
                return Ok(());
            }
            let needed = 1 + voters.len().saturating_sub(1) / 2;
            healthy_if(healthy.saturating_sub(1) >= needed)
        }
        ConfChangeType::ConfChangeAddNode if is_promotion(change) => {
            // The learner itself has started, or it could not have caught up.
            let (count, started) = counts(voters.into_iter());
            enough_started(started + 1, count + 1)
        }
        kind => {
            let (count, started) = counts(voters.into_iter());
            // From one to two is how a restored cluster grows again.
            let is_second = (started, count) == (1, 1);
            if kind == ConfChangeType::ConfChangeAddNode && !is_second {
                enough_started(started, count + 1)?;
            }
            // The new one counts as down. A single member may always grow.
            healthy_if(count == 1 || healthy >= quorum(count + 1))
        }
    }
}

/// Whether the change makes a voter of a learner.
pub(crate) fn is_promotion(change: &ConfChange) -> bool {
    let context = change.context.as_deref().unwrap_or_default();
    ChangeContext::from_json(context).is_ok_and(|context| context.is_promote)
}

/// Whether a learner that has `matched` of its leader's log may become a voter. Source: upstream `readyPercentThreshold`.
pub(crate) fn is_ready(matched: u64, leader_matched: u64) -> bool {
    matched.saturating_mul(10) >= leader_matched.saturating_mul(9)
}

/// How many, and how many of them have started.
fn counts<'a>(members: impl Iterator<Item = &'a Member>) -> (usize, usize) {
    members.fold((0, 0), |(count, started), member| {
        (count + 1, started + usize::from(member.is_started()))
    })
}

fn quorum(members: usize) -> usize {
    members / 2 + 1
}

fn enough_started(started: usize, members: usize) -> Result<(), &'static RpcError> {
    match started >= quorum(members) {
        true => Ok(()),
        false => Err(&error::NOT_ENOUGH_STARTED_MEMBERS),
    }
}

fn healthy_if(is_healthy: bool) -> Result<(), &'static RpcError> {
    match is_healthy {
        true => Ok(()),
        false => Err(&error::UNHEALTHY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members 1 to `count`; those in `unstarted` have no name yet, those in `learners` no vote.
    fn members(count: u64, unstarted: &[u64], learners: &[u64]) -> Membership {
        let mut membership = Membership::default();
        for id in 1..=count {
            let name = match unstarted.contains(&id) {
                true => String::new(),
                false => format!("m{id}"),
            };
            let member = Member {
                id,
                name,
                is_learner: learners.contains(&id),
                ..Member::default()
            };
            membership.members.insert(id, member);
        }
        membership
    }

    fn change(kind: ConfChangeType, id: u64, is_promote: bool) -> ConfChange {
        let member = Member {
            id,
            ..Member::default()
        };
        let context = ChangeContext { member, is_promote };
        ConfChange {
            r#type: Some(kind as i32),
            node_id: Some(id),
            context: Some(context.to_json().into()),
            ..Default::default()
        }
    }

    /// Asks member 1, which reaches all but `down`.
    fn ask(members: &Membership, change: &ConfChange, down: &[u64]) -> Result<(), &'static str> {
        let connected_us = |id| (!down.contains(&id)).then_some(HEALTHY_US);
        may_change(members, change, MemberId(1), connected_us).map_err(|why| why.text)
    }

    const UNSTARTED: Result<(), &str> = Err(error::NOT_ENOUGH_STARTED_MEMBERS.text);
    const UNHEALTHY: Result<(), &str> = Err(error::UNHEALTHY.text);

    #[test]
    fn a_voter_is_added_if_a_quorum_of_the_new_size_has_started_and_is_reached() {
        let add = |id| change(ConfChangeType::ConfChangeAddNode, id, false);
        for (members, down, expected) in [
            (members(1, &[], &[]), &[][..], Ok(())),
            (members(1, &[1], &[]), &[], UNSTARTED),
            (members(2, &[2], &[]), &[], UNSTARTED),
            (members(2, &[], &[]), &[], Ok(())),
            (members(2, &[], &[]), &[2], UNHEALTHY),
            (members(3, &[], &[]), &[], Ok(())),
            (members(3, &[], &[]), &[3], UNHEALTHY),
            // With one down there is still a quorum of the new size (PR 21667).
            (members(4, &[], &[]), &[4], Ok(())),
            (members(3, &[3], &[]), &[], UNSTARTED),
            // Learners count for nothing.
            (members(4, &[], &[4]), &[4], Ok(())),
        ] {
            let id = members.members.len() as u64 + 1;
            assert_eq!(
                ask(&members, &add(id), down),
                expected,
                "{members:?} {down:?}"
            );
        }
    }

    #[test]
    fn a_learner_is_added_whoever_has_started_but_not_to_an_unhealthy_cluster() {
        let add = change(ConfChangeType::ConfChangeAddLearnerNode, 9, false);
        assert_eq!(ask(&members(3, &[3], &[]), &add, &[]), Ok(()));
        assert_eq!(ask(&members(3, &[], &[]), &add, &[3]), UNHEALTHY);
    }

    #[test]
    fn a_member_that_was_reached_only_now_is_not_yet_healthy() {
        let add = change(ConfChangeType::ConfChangeAddNode, 4, false);
        let just_now = |_| Some(HEALTHY_US - 1);
        let asked = may_change(&members(3, &[], &[]), &add, MemberId(1), just_now);
        assert_eq!(asked.map_err(|why| why.text), UNHEALTHY);
    }

    #[test]
    fn a_voter_is_removed_if_the_rest_is_a_quorum_that_works_or_it_is_down_itself() {
        let remove = |id| change(ConfChangeType::ConfChangeRemoveNode, id, false);
        for (members, id, down, expected) in [
            (members(3, &[], &[]), 3, &[][..], Ok(())),
            (members(3, &[], &[]), 3, &[3], Ok(())),
            (members(3, &[], &[]), 3, &[2], UNHEALTHY),
            (members(3, &[2], &[]), 3, &[], UNSTARTED),
            (members(3, &[], &[]), 1, &[], Ok(())),
            (members(3, &[], &[3]), 3, &[2, 3], Ok(())),
            (members(5, &[], &[]), 5, &[4], Ok(())),
            (members(5, &[], &[]), 5, &[3, 4], UNHEALTHY),
        ] {
            assert_eq!(
                ask(&members, &remove(id), down),
                expected,
                "{id} of {members:?}, {down:?}"
            );
        }
    }

    #[test]
    fn a_promotion_counts_the_learner_as_started_and_asks_nobody() {
        let promote = change(ConfChangeType::ConfChangeAddNode, 4, true);
        assert_eq!(ask(&members(4, &[], &[4]), &promote, &[2, 3, 4]), Ok(()));
        assert_eq!(ask(&members(4, &[2, 3], &[4]), &promote, &[]), UNSTARTED);
        assert!(is_ready(90, 100) && is_ready(0, 0) && !is_ready(89, 100));
    }

    #[test]
    fn new_addresses_are_always_welcome() {
        let update = change(ConfChangeType::ConfChangeUpdateNode, 3, false);
        assert_eq!(ask(&members(3, &[2, 3], &[]), &update, &[2, 3]), Ok(()));
    }
}
