//! Rules 2 and 4: every change has one cause, and every answer is what the model gives at its revision.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request as InTxn;
use proto::etcdserverpb::response_op::Response as OutOfTxn;

use super::deletions::{self, Cause, Deletion};
use super::history::{Change, History, Op, Outcome, Request, Revision};
use super::model::{Model, strip_headers};
use super::{Findings, last_of, leases, revision_of};

/// What the replay found out.
pub(super) struct Replayed {
    /// All versions of all keys.
    pub model: Model,
    /// Leases whose keys went without a call that is known to have done it: (lease, revision).
    pub ends: Vec<(i64, i64)>,
}

struct Replay<'a> {
    history: &'a History,
    model: Model,
    /// Acknowledged writes by revision.
    claims: BTreeMap<i64, Vec<usize>>,
    /// Answers without a change, by the revision at which they were given.
    looks: BTreeMap<i64, Vec<usize>>,
    /// Calls without an answer that may have changed something.
    unknown: BTreeSet<usize>,
    /// Values of puts, and the calls that carried them.
    values: BTreeMap<Bytes, usize>,
    /// Revisions that only delete and that no acknowledged call has made.
    deletions: Vec<Deletion>,
    /// Leases and the revisions at which acknowledged calls ended them.
    known_ends: BTreeSet<(i64, i64)>,
}

/// The revision that an acknowledged call must have made; `None` if it changed nothing or may have.
pub(super) fn claim(op: &Op) -> Option<i64> {
    let changes = match &op.outcome {
        Outcome::Put(_) => true,
        Outcome::Delete(response) => response.deleted > 0,
        Outcome::Txn(response) => changes(response),
        _ => false,
    };
    op.revision().filter(|_| changes)
}

fn changes(response: &pb::TxnResponse) -> bool {
    response.responses.iter().any(|op| match &op.response {
        Some(OutOfTxn::ResponsePut(_)) => true,
        Some(OutOfTxn::ResponseDeleteRange(delete)) => delete.deleted > 0,
        Some(OutOfTxn::ResponseTxn(txn)) => changes(txn),
        _ => false,
    })
}

/// Replays the log.
pub(super) fn check(history: &History, findings: &mut Findings) -> Replayed {
    let mut replay = Replay::new(history, findings);
    replay.looks_at(1, findings);
    for revision in &history.log {
        replay.revision(revision, findings);
        replay.model.follow(revision);
        replay.looks_at(revision.number, findings);
    }
    let ends = replay.causes_of_deletions(findings);
    Replayed {
        model: replay.model,
        ends,
    }
}

impl<'a> Replay<'a> {
    fn new(history: &'a History, findings: &mut Findings) -> Replay<'a> {
        let mut replay = Replay {
            history,
            model: Model::default(),
            claims: BTreeMap::new(),
            looks: BTreeMap::new(),
            unknown: BTreeSet::new(),
            values: BTreeMap::new(),
            deletions: Vec::new(),
            known_ends: BTreeSet::new(),
        };
        let last = last_of(history);
        for (number, op) in history.ops.iter().enumerate() {
            for_each_value(&op.request, &mut |value| {
                if replay
                    .values
                    .insert(value.clone(), number)
                    .is_some_and(|other| other != number)
                {
                    findings.add("history", format!("two calls put the value {value:?}"));
                }
            });
            match (claim(op), op.revision()) {
                (Some(revision), _) if revision <= last => {
                    replay.claims.entry(revision).or_default().push(number)
                }
                (None, Some(revision)) if revision <= last => {
                    replay.looks.entry(revision).or_default().push(number)
                }
                _ if op.outcome == Outcome::Unknown => drop(replay.unknown.insert(number)),
                _ => {}
            }
        }
        replay
    }

    /// Finds the cause of a revision and checks it.
    fn revision(&mut self, revision: &Revision, findings: &mut Findings) {
        let number = revision.number;
        match self.claims.remove(&number).as_deref() {
            None => self.explain(revision, findings),
            Some([owner]) => self.compare_write(*owner, revision, findings),
            Some(owners) => findings.add(
                "two owners",
                format!("revision {number} was given to calls {owners:?}"),
            ),
        }
    }

    fn compare_write(&mut self, owner: usize, revision: &Revision, findings: &mut Findings) {
        let op = &self.history.ops[owner];
        let (changes, outcome) = self.attempt(owner, revision.number);
        if changes != revision.changes {
            findings.add("wrong change", format!(
                "revision {} belongs to call {owner} ({op:?}), which should have made {changes:?}, not {:?}", revision.number, revision.changes
            ));
        }
        if without_header(&op.outcome) != outcome {
            findings.add(
                "wrong answer",
                format!("call {owner} should have been answered {outcome:?}: {op:?}"),
            );
        }
    }

    /// What a call would change and answer now, as the given revision.
    fn attempt(&mut self, number: usize, revision: i64) -> (Vec<Change>, Outcome) {
        match &self.history.ops[number].request {
            Request::Put(put) => {
                let tried = self.model.put(put, revision);
                (tried.changes, Outcome::Put(tried.response))
            }
            Request::Delete(delete) => {
                let tried = self.model.delete(delete, revision);
                (tried.changes, Outcome::Delete(tried.response))
            }
            Request::Txn(txn) => {
                let tried = self.model.txn(txn, revision);
                (tried.changes, Outcome::Txn(tried.response))
            }
            Request::Range(range) => (
                Vec::new(),
                Outcome::Range(self.model.range(range, revision - 1)),
            ),
            _ => (Vec::new(), Outcome::Unknown),
        }
    }

    /// A revision that no acknowledged write claims: a call without an answer, or the end of a lease.
    fn explain(&mut self, revision: &Revision, findings: &mut Findings) {
        let value = revision
            .changes
            .iter()
            .find_map(|change| change.now.as_ref().map(|kv| &kv.value));
        if let Some(value) = value {
            return self.explain_put(value, revision, findings);
        }
        // Which of them it was can be said only when all are known.
        let deletion = Deletion {
            revision: revision.number,
            calls: self.unknown_deletions(revision),
            lease: self.lease_of(revision),
            may_be_lease: false,
        };
        self.deletions.push(deletion);
    }

    fn explain_put(&mut self, value: &Bytes, revision: &Revision, findings: &mut Findings) {
        let number = revision.number;
        let Some(&call) = self.values.get(value) else {
            return findings.add(
                "phantom write",
                format!("nobody wrote revision {number}: {:?}", revision.changes),
            );
        };
        if !self.unknown.remove(&call) {
            let op = &self.history.ops[call];
            return findings.add("applied twice", format!("revision {number} comes from call {call}, which was something else already: {op:?}"));
        }
        let op = &self.history.ops[call];
        if revision.seen_us < op.call_us {
            findings.add(
                "write in real time",
                format!("revision {number} existed before call {call}, which made it: {op:?}"),
            );
        }
        let (changes, _) = self.attempt(call, number);
        if changes != revision.changes {
            findings.add("wrong change", format!(
                "revision {number} comes from call {call} ({op:?}), which should have made {changes:?}, not {:?}", revision.changes
            ));
        }
    }

    /// The lease of which these are all keys, deleted together.
    fn lease_of(&self, revision: &Revision) -> Option<i64> {
        let first = revision.changes.first()?;
        let lease = self.model.get(&first.key, revision.number)?.lease;
        let keys = self.model.keys_of(lease);
        let same = keys
            .iter()
            .eq(revision.changes.iter().map(|change| &change.key));
        (lease != 0 && same).then_some(lease)
    }

    /// The calls without an answer that would have made exactly these deletions.
    fn unknown_deletions(&mut self, revision: &Revision) -> Vec<usize> {
        let history = self.history;
        let mut candidates: Vec<usize> = self.unknown.iter().copied().collect();
        candidates.retain(|call| {
            let op = &history.ops[*call];
            let may_delete = matches!(op.request, Request::Delete(_) | Request::Txn(_));
            may_delete
                && op.call_us <= revision.seen_us
                && self.attempt(*call, revision.number).0 == revision.changes
        });
        candidates
    }

    /// Finds a cause for every deletion; the ends of leases that are among them.
    fn causes_of_deletions(&mut self, findings: &mut Findings) -> Vec<(i64, i64)> {
        let mut deletions = std::mem::take(&mut self.deletions);
        deletions.retain(|deletion| {
            let end = deletion.lease.map(|lease| (lease, deletion.revision));
            !end.is_some_and(|end| self.known_ends.contains(&end))
        });
        let may_have_ended = leases::may_have_ended(self.history);
        for deletion in &mut deletions {
            deletion.may_be_lease = deletion
                .lease
                .is_some_and(|lease| may_have_ended(lease, deletion.revision));
            // A call that has put something has done what it does.
            deletion.calls.retain(|call| self.unknown.contains(call));
        }
        let causes = deletions::assign(&deletions);
        let mut ends = Vec::new();
        for (deletion, cause) in deletions.iter().zip(causes) {
            match cause {
                Some(Cause::Call(_)) => {}
                Some(Cause::Lease(lease)) => ends.push((lease, deletion.revision)),
                None => findings.add(
                    "phantom write",
                    format!(
                        "nobody deleted what revision {} deletes: {:?}",
                        deletion.revision,
                        revision_of(self.history, deletion.revision).map(|made| &made.changes)
                    ),
                ),
            }
        }
        ends
    }

    /// Checks the answers that were given at this revision and changed nothing.
    fn looks_at(&mut self, revision: i64, findings: &mut Findings) {
        for number in self.looks.remove(&revision).unwrap_or_default() {
            self.look(number, revision, findings);
        }
    }

    fn look(&mut self, number: usize, revision: i64, findings: &mut Findings) {
        let op = &self.history.ops[number];
        match &op.request {
            Request::Range(_) | Request::Delete(_) | Request::Txn(_) => {
                let (changes, outcome) = self.attempt(number, revision + 1);
                if !changes.is_empty() {
                    findings.add(
                        "wrong answer",
                        format!("call {number} should have changed {changes:?}: {op:?}"),
                    );
                } else if without_header(&op.outcome) != outcome {
                    findings.add(
                        "wrong answer",
                        format!("call {number} should have been answered {outcome:?}: {op:?}"),
                    );
                }
            }
            Request::LeaseRevoke { id } => {
                let left = self.model.keys_of(*id);
                if !left.is_empty() {
                    findings.add(
                        "lease",
                        format!(
                            "lease {id} is revoked at revision {revision}, but has keys {left:?}"
                        ),
                    );
                }
                self.known_ends.insert((*id, revision));
            }
            _ => {}
        }
    }
}

/// An outcome without the headers in it, for comparison.
fn without_header(outcome: &Outcome) -> Outcome {
    let mut outcome = outcome.clone();
    match &mut outcome {
        Outcome::Range(response) => response.header = None,
        Outcome::Put(response) => response.header = None,
        Outcome::Delete(response) => response.header = None,
        Outcome::Txn(response) => strip_headers(response),
        _ => {}
    }
    outcome
}

/// Calls `each` for every value that a request may write.
fn for_each_value(request: &Request, each: &mut impl FnMut(&Bytes)) {
    fn in_txn(txn: &pb::TxnRequest, each: &mut impl FnMut(&Bytes)) {
        for op in txn.success.iter().chain(&txn.failure) {
            match &op.request {
                Some(InTxn::RequestPut(put)) if !put.ignore_value => each(&put.value),
                Some(InTxn::RequestTxn(nested)) => in_txn(nested, &mut *each),
                _ => {}
            }
        }
    }
    match request {
        Request::Put(put) if !put.ignore_value => each(&put.value),
        Request::Txn(txn) => in_txn(txn, each),
        _ => {}
    }
}
