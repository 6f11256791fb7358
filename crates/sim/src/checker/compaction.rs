//! Rule 5, and what other answers "no" need for a reason.

use proto::error;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request as InTxn;

use super::history::{History, Op, Outcome, Request};
use super::model::Model;
use super::real_time::Floors;
use super::{Findings, last_of, revision_of};

/// When which compaction was certainly done, and when it may have begun.
struct Compactions {
    /// (answered, highest revision answered so far)
    certain: Vec<(u64, i64)>,
    /// (called, highest revision called for so far)
    possible: Vec<(u64, i64)>,
}

impl Compactions {
    fn of(history: &History) -> Compactions {
        let (mut certain, mut possible) = (Vec::new(), Vec::new());
        for op in &history.ops {
            let Request::Compact { revision } = op.request else {
                continue;
            };
            match (&op.outcome, op.return_us) {
                (Outcome::Compacted { .. }, Some(return_us)) => certain.push((return_us, revision)),
                (Outcome::Unknown, _) => {}
                _ => continue,
            }
            possible.push((op.call_us, revision));
        }
        for steps in [&mut certain, &mut possible] {
            steps.sort_unstable();
            let mut highest = 0;
            for (_, revision) in steps.iter_mut() {
                highest = highest.max(*revision);
                *revision = highest;
            }
        }
        Compactions { certain, possible }
    }

    /// The highest of the steps before a moment.
    fn before(steps: &[(u64, i64)], time_us: u64) -> i64 {
        let count = steps.partition_point(|(at, _)| *at < time_us);
        steps[..count].last().map_or(0, |(_, revision)| *revision)
    }
}

/// The highest compaction that may have been done before a moment, for watchers.
pub(super) fn possible_before(history: &History) -> impl Fn(u64) -> i64 {
    let compactions = Compactions::of(history);
    move |time_us| Compactions::before(&compactions.possible, time_us)
}

/// Checks reads of the past, and answers "no".
pub(super) fn check(history: &History, floors: &Floors, model: &Model, findings: &mut Findings) {
    let compactions = Compactions::of(history);
    for (number, op) in history.ops.iter().enumerate() {
        match op.outcome {
            Outcome::Rejected(text) => {
                let Some(return_us) = op.return_us else {
                    continue;
                };
                if let Some(why) = unreasonable(
                    history,
                    &compactions,
                    floors.0[number],
                    model,
                    op,
                    text,
                    return_us,
                ) {
                    findings.add(
                        "wrong rejection",
                        format!("call {number} was refused with \"{text}\", but {why}: {op:?}"),
                    );
                }
            }
            Outcome::Range(_) | Outcome::Txn(_) if !op.may_be_stale() => {
                let certain = Compactions::before(&compactions.certain, op.call_us);
                for revision in explicit_revisions(&op.request)
                    .into_iter()
                    .filter(|revision| *revision < certain)
                {
                    // A branch that was not taken reads nothing.
                    if matches!(op.request, Request::Range(_)) {
                        findings.add("read below compaction", format!(
                            "call {number} read revision {revision}, but {certain} was compacted before it began: {op:?}"
                        ));
                    }
                }
            }
            Outcome::Compacted { .. } => check_compact(history, number, op, findings),
            _ => {}
        }
    }
}

fn check_compact(history: &History, number: usize, op: &Op, findings: &mut Findings) {
    let (Request::Compact { revision }, Some(at)) = (&op.request, op.revision()) else {
        return;
    };
    if *revision > at || *revision > last_of(history) {
        findings.add(
            "compaction",
            format!("call {number} compacted revision {revision}, which did not exist: {op:?}"),
        );
    }
}

/// Why an answer "no" can't be right; `None` if it can.
fn unreasonable(
    history: &History,
    compactions: &Compactions,
    floor: i64,
    model: &Model,
    op: &Op,
    text: &str,
    return_us: u64,
) -> Option<String> {
    let possible = Compactions::before(&compactions.possible, return_us);
    let revisions = explicit_revisions(&op.request);
    if text == error::COMPACTED.text {
        let ok = match op.request {
            // A compaction of what is compacted is refused, so another one must have been there.
            Request::Compact { revision } => possible >= revision,
            _ => revisions.iter().any(|revision| *revision < possible),
        };
        return (!ok).then(|| format!("nobody had asked for a compaction above {possible}"));
    }
    if text == error::FUTURE_REV.text {
        let ok = op.may_be_stale() || revisions.iter().any(|revision| *revision > floor);
        return (!ok).then(|| format!("revision {floor} was known before"));
    }
    if text == error::KEY_NOT_FOUND.text {
        return match &op.request {
            Request::Put(put) if put.ignore_lease || put.ignore_value => {
                let was_absent = was_absent(history, model, &put.key, floor, return_us);
                (!was_absent).then(|| "the key existed all the time".to_owned())
            }
            Request::Txn(_) => None,
            _ => Some("it needs no key".to_owned()),
        };
    }
    // `leases` looks at those.
    let is_about_leases = text == error::LEASE_NOT_FOUND.text;
    (!is_about_leases).then(|| "there is no reason for that".to_owned())
}

/// Whether the key was absent at some moment between what was known at the call and what existed at the answer.
fn was_absent(history: &History, model: &Model, key: &[u8], from: i64, return_us: u64) -> bool {
    if model.get(key, from).is_none() {
        return true;
    }
    let mut later = (from + 1..).map_while(|number| revision_of(history, number));
    later.any(|revision| {
        revision.seen_us <= return_us
            && revision
                .changes
                .iter()
                .any(|change| change.now.is_none() && change.key[..] == *key)
    })
}

/// Revisions that a request names.
fn explicit_revisions(request: &Request) -> Vec<i64> {
    fn in_txn(txn: &pb::TxnRequest, found: &mut Vec<i64>) {
        for op in txn.success.iter().chain(&txn.failure) {
            match &op.request {
                Some(InTxn::RequestRange(range)) if range.revision > 0 => {
                    found.push(range.revision)
                }
                Some(InTxn::RequestTxn(nested)) => in_txn(nested, found),
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    match request {
        Request::Range(range) if range.revision > 0 => found.push(range.revision),
        Request::Compact { revision } => found.push(*revision),
        Request::Txn(txn) => in_txn(txn, &mut found),
        _ => {}
    }
    found
}
