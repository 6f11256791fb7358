//! Rule 6: a lease lives from its grant to its revocation or its time, as told by a true clock.

use std::collections::BTreeMap;

use proto::error;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request as InTxn;

use super::history::{History, Outcome, Request};
use super::{Findings, revision_of};

/// What is known of one lease.
#[derive(Debug, Default)]
struct Lease {
    granted_call_us: u64,
    /// `None` if the grant was not answered.
    granted_us: Option<u64>,
    ttl_s: i64,
    /// Calls that kept it alive: (called, answered), in order of the answers.
    kept: Vec<(u64, u64)>,
    /// When a call to revoke it first began.
    revoke_called_us: Option<u64>,
    /// Since when it certainly is no more.
    gone_us: Option<u64>,
}

impl Lease {
    /// Before this moment its time can't have been up for somebody who was told so at `by_us`.
    fn over_earliest_us(&self, by_us: u64, clock_rate_max: u64) -> u64 {
        let kept = self
            .kept
            .iter()
            .filter(|(_, answered)| *answered <= by_us)
            .map(|(called, _)| *called)
            .max();
        let from = kept.unwrap_or(0).max(self.granted_call_us);
        let ttl_us = u64::try_from(self.ttl_s).unwrap_or(0) * 1_000_000;
        from + ttl_us * 1000 / clock_rate_max.max(1)
    }
}

/// Checks what is known of leases. `ends`: leases whose keys went without an acknowledged call, and at which revision.
pub(super) fn check(history: &History, ends: &[(i64, i64)], findings: &mut Findings) {
    let mut leases = collect(history);
    for (id, revision) in ends {
        let Some(seen_us) = revision_of(history, *revision).map(|revision| revision.seen_us) else {
            continue;
        };
        let Some(lease) = leases.get_mut(id) else {
            findings.add(
                "lease",
                format!("revision {revision} ends lease {id}, which nobody asked for"),
            );
            continue;
        };
        lease.gone_us = Some(lease.gone_us.map_or(seen_us, |gone| gone.min(seen_us)));
        let earliest = lease.over_earliest_us(seen_us, history.clock_rate_max);
        let may_be_revoked = lease
            .revoke_called_us
            .is_some_and(|called| called <= seen_us);
        if seen_us < earliest && !may_be_revoked {
            findings.add("lease over early", format!(
                "revision {revision} ended lease {id} at {seen_us} us, but it had time until {earliest} us: {lease:?}"
            ));
        }
    }
    for (number, op) in history.ops.iter().enumerate() {
        let Some(return_us) = op.return_us else {
            continue;
        };
        for id in leases_in(&op.request) {
            let says = says(&op.outcome);
            let known = leases.get(&id);
            match (says, known) {
                (Some(true), None) => findings.add(
                    "lease",
                    format!("call {number} used lease {id}, which nobody asked for: {op:?}"),
                ),
                (Some(true), Some(lease))
                    if lease.gone_us.is_some_and(|gone_us| gone_us < op.call_us) =>
                {
                    findings.add(
                        "dead lease",
                        format!("call {number} used lease {id} after its end: {lease:?}: {op:?}"),
                    );
                }
                (Some(false), Some(lease))
                    if is_certainly_alive(lease, op.call_us, return_us, history.clock_rate_max) =>
                {
                    findings.add(
                        "lost lease",
                        format!(
                            "call {number} did not find lease {id}, which lives: {lease:?}: {op:?}"
                        ),
                    );
                }
                _ => {}
            }
        }
    }
}

/// Whether a lease can have ended at a revision: its time was up or its revocation asked for, and nobody used it later.
pub(super) fn may_have_ended(history: &History) -> impl Fn(i64, i64) -> bool {
    let leases = collect(history);
    let mut used_us: BTreeMap<i64, u64> = BTreeMap::new();
    for op in &history.ops {
        if op.return_us.is_some() && says(&op.outcome) == Some(true) {
            for id in leases_in(&op.request) {
                let last = used_us.entry(id).or_default();
                *last = op.call_us.max(*last);
            }
        }
    }
    move |id, revision| {
        let (Some(lease), Some(made)) = (leases.get(&id), revision_of(history, revision)) else {
            return false;
        };
        let over = made.seen_us >= lease.over_earliest_us(made.seen_us, history.clock_rate_max);
        let revoked = lease
            .revoke_called_us
            .is_some_and(|called| called <= made.seen_us);
        (over || revoked) && used_us.get(&id).is_none_or(|used| *used <= made.seen_us)
    }
}

fn is_certainly_alive(lease: &Lease, call_us: u64, return_us: u64, clock_rate_max: u64) -> bool {
    lease.granted_us.is_some_and(|granted| granted < call_us)
        && lease
            .revoke_called_us
            .is_none_or(|called| called > return_us)
        && lease.over_earliest_us(return_us, clock_rate_max) > return_us
}

fn collect(history: &History) -> BTreeMap<i64, Lease> {
    let mut leases: BTreeMap<i64, Lease> = BTreeMap::new();
    for op in &history.ops {
        if let Request::LeaseGrant { id, ttl_s } = op.request
            && !matches!(op.outcome, Outcome::Failed | Outcome::Rejected(_))
        {
            let lease = leases.entry(id).or_default();
            lease.granted_call_us = op.call_us;
            lease.ttl_s = ttl_s;
            if let Outcome::LeaseGranted { ttl_s, .. } = op.outcome {
                lease.ttl_s = ttl_s;
                lease.granted_us = op.return_us;
            }
        }
    }
    for op in &history.ops {
        match (&op.request, &op.outcome, op.return_us) {
            (
                Request::LeaseKeepAlive { id },
                Outcome::LeaseAlive { ttl_s: Some(_) },
                Some(return_us),
            ) => {
                leases
                    .entry(*id)
                    .or_default()
                    .kept
                    .push((op.call_us, return_us));
            }
            (Request::LeaseRevoke { id }, outcome, return_us) if *outcome != Outcome::Failed => {
                let lease = leases.entry(*id).or_default();
                let called = lease
                    .revoke_called_us
                    .map_or(op.call_us, |called| called.min(op.call_us));
                lease.revoke_called_us = Some(called);
                if let (Outcome::LeaseRevoked { .. }, Some(return_us)) = (outcome, return_us) {
                    lease.gone_us =
                        Some(lease.gone_us.map_or(return_us, |gone| gone.min(return_us)));
                }
            }
            _ => {}
        }
    }
    leases
}

/// Whether the answer says that the lease exists.
fn says(outcome: &Outcome) -> Option<bool> {
    match outcome {
        Outcome::LeaseAlive { ttl_s } => Some(ttl_s.is_some()),
        Outcome::LeaseTime { time } => Some(time.is_some()),
        Outcome::Put(_) | Outcome::LeaseRevoked { .. } => Some(true),
        Outcome::Rejected(text) if *text == error::LEASE_NOT_FOUND.text => Some(false),
        _ => None,
    }
}

/// The lease that decides the answer; none where several might.
fn leases_in(request: &Request) -> Vec<i64> {
    match request {
        Request::Put(put) if put.lease != 0 => vec![put.lease],
        Request::LeaseRevoke { id }
        | Request::LeaseKeepAlive { id }
        | Request::LeaseTimeToLive { id } => vec![*id],
        Request::Txn(txn) => {
            let mut found = Vec::new();
            in_txn(txn, &mut found);
            found.dedup();
            if found.len() == 1 { found } else { Vec::new() }
        }
        _ => Vec::new(),
    }
}

fn in_txn(txn: &pb::TxnRequest, found: &mut Vec<i64>) {
    for op in txn.success.iter().chain(&txn.failure) {
        match &op.request {
            Some(InTxn::RequestPut(put)) if put.lease != 0 => found.push(put.lease),
            Some(InTxn::RequestTxn(nested)) => in_txn(nested, found),
            _ => {}
        }
    }
}
