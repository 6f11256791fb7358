//! Rule 3: answers agree with the order in time.

use super::history::{History, WatchKind};
use super::replay::claim;
use super::{Findings, last_of, revision_of};

/// For each call, the highest revision that anybody knew before it began.
pub(super) struct Floors(pub Vec<i64>);

/// Sweeps over all calls in order of their beginning.
pub(super) fn check(history: &History, findings: &mut Findings) -> Floors {
    let mut seen = sightings(history);
    seen.sort_unstable();
    let mut by_call: Vec<usize> = (0..history.ops.len()).collect();
    by_call.sort_by_key(|op| history.ops[*op].call_us);
    let mut floors = vec![1; history.ops.len()];
    let (mut next, mut floor) = (0, 1);
    for op in by_call {
        let call_us = history.ops[op].call_us;
        while let Some((_, revision)) = seen.get(next).filter(|(time_us, _)| *time_us < call_us) {
            floor = floor.max(*revision);
            next += 1;
        }
        floors[op] = floor;
        check_op(history, op, floor, findings);
    }
    Floors(floors)
}

/// Whenever somebody learned that a revision exists.
fn sightings(history: &History) -> Vec<(u64, i64)> {
    let answers = history
        .ops
        .iter()
        .filter_map(|op| Some((op.return_us?, op.revision()?)));
    let watched = history
        .watches
        .iter()
        .flat_map(|watch| &watch.messages)
        .filter_map(|message| match &message.kind {
            WatchKind::Events { events, .. } => {
                let last = events.last()?.kv.as_ref()?.mod_revision;
                Some((message.time_us, last))
            }
            WatchKind::Progress => Some((message.time_us, message.revision)),
            WatchKind::Created | WatchKind::Canceled { .. } => None,
        });
    answers.chain(watched).collect()
}

fn check_op(history: &History, number: usize, floor: i64, findings: &mut Findings) {
    let op = &history.ops[number];
    let Some(revision) = op.revision() else {
        return;
    };
    if claim(op).is_some() && revision <= floor {
        findings.add(
            "write in real time",
            format!("call {number} got revision {revision}, but {floor} was known before it began: {op:?}"),
        );
    } else if revision < floor && !op.may_be_stale() {
        findings.add(
            "stale read",
            format!("call {number} was answered at revision {revision}, but {floor} was known before it began: {op:?}"),
        );
    }
    if revision > last_of(history) {
        findings.add(
            "lost write",
            format!(
                "call {number} was answered at revision {revision}, which does not exist: {op:?}"
            ),
        );
        return;
    }
    let Some(made) = revision_of(history, revision) else {
        return;
    };
    if op
        .return_us
        .is_some_and(|return_us| return_us < made.seen_us)
    {
        findings.add(
            "answer from the future",
            format!("call {number} was answered before revision {revision} existed: {op:?}"),
        );
    }
    if claim(op).is_some() && made.seen_us < op.call_us {
        findings.add(
            "write in real time",
            format!("call {number} got revision {revision}, which existed before it: {op:?}"),
        );
    }
}
