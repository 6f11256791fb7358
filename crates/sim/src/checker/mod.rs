//! Judges a history: was there one order of all changes that explains what every client saw?
//!
//! No search is needed, because etcd tells the place of everything: each change has a revision of its own, and each answer carries
//! the revision at which it was given. What is left is to check, in one pass or a sort each:
//!
//! 1. the log of changes is one: contiguous, each key once per revision;
//! 2. *attribution*: each revision belongs to exactly one call (or to the end of one lease), each acknowledged write has its revision;
//! 3. *real time*: nothing is older than what was known before the call, nothing newer than what existed at the answer;
//! 4. *content*: replayed in a model of its own, every call at its revision gives the answer that was seen;
//! 5. compaction: refused exactly where it may or must be;
//! 6. leases: never over early, never alive after their end, all keys go at once;
//! 7. watches: ordered, unique, atomic, reliable, resumable, bookmarkable, with the right previous values;
//! 8. lists of members: as there were, none older than what was known.
//!
//! It never looks at the implementation. Start with [`check`]. The guarantees are those of etcd's documentation of its API
//! ("KV API guarantees"), and the names of the watch rules are those of upstream `tests/robustness/validate`.

mod compaction;
mod deletions;
pub mod history;
mod leases;
mod members;
pub mod model;
mod real_time;
mod replay;
mod watch;

use std::fmt;

use history::History;

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub rule: &'static str,
    /// What was seen, and what should have been.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)
    }
}

/// What is wrong; collected, because the first violation is often the echo of another.
#[derive(Debug, Default)]
struct Findings(Vec<Violation>);

/// More say nothing new.
const FINDINGS_MAX: usize = 50;

impl Findings {
    fn add(&mut self, rule: &'static str, detail: impl Into<String>) {
        if self.0.len() < FINDINGS_MAX {
            self.0.push(Violation {
                rule,
                detail: detail.into(),
            });
        }
    }
}

/// All violations in a history; empty if it is correct.
///
/// Takes O(n log n) for n calls, changes and watch events together.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let mut findings = Findings::default();
    check_log(history, &mut findings);
    if !findings.0.is_empty() {
        return findings.0;
    }
    let floors = real_time::check(history, &mut findings);
    let replayed = replay::check(history, &mut findings);
    compaction::check(history, &floors, &replayed.model, &mut findings);
    leases::check(history, &replayed.ends, &mut findings);
    watch::check(history, &replayed.model, &mut findings);
    members::check(history, &mut findings);
    findings.0
}

/// Rule 1.
fn check_log(history: &History, findings: &mut Findings) {
    let mut last_us = 0;
    for (revision, number) in history.log.iter().zip(2..) {
        if revision.number != number {
            return findings.add(
                "log",
                format!(
                    "revision {} stands where {number} should be",
                    revision.number
                ),
            );
        }
        if revision.changes.is_empty() {
            findings.add("log", format!("revision {number} changes nothing"));
        }
        if revision.seen_us < last_us {
            findings.add(
                "log",
                format!("revision {number} was seen before the one before it"),
            );
        }
        last_us = revision.seen_us;
        let mut keys: Vec<_> = revision.changes.iter().map(|change| &change.key).collect();
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            findings.add("log", format!("revision {number} changes a key twice"));
        }
    }
}

/// The changes of a revision, if it exists.
fn revision_of(history: &History, number: i64) -> Option<&history::Revision> {
    usize::try_from(number - 2)
        .ok()
        .and_then(|place| history.log.get(place))
}

/// The last revision.
fn last_of(history: &History) -> i64 {
    history.log.len() as i64 + 1
}
