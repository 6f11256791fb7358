//! Compaction: old versions can no longer be read at once, and are taken out of the index bit by bit.
//!
//! Nothing waits for a compaction. From its entry on reads below it are refused, and hashes and snapshots leave out what it
//! made unreachable, whether or not the sweep has been there. The sweep walks the index in slices between batches of entries, drops
//! dead versions and tells the segments, which give back the space.
//! Source of the rules: upstream `server/storage/mvcc/kvstore.go`, `kvstore_compaction.go`.

use proto::error;
use storage::segments::Revision;

use super::Store;
use super::history::History;
use super::tree::{Change, End, Tree};
use crate::outcome::Rejected;

/// How far the tidying after the last compaction has come: every key below this one is done.
pub(crate) struct Sweep {
    next: Vec<u8>,
}

impl Store {
    /// Makes everything below `revision` unreadable.
    pub(crate) fn compact(&mut self, revision: i64) -> Result<(), Rejected> {
        if revision <= self.compacted {
            return Err(Rejected(&error::COMPACTED));
        }
        if revision > self.revision {
            return Err(Rejected(&error::FUTURE_REV));
        }
        self.compacted = revision;
        self.start_sweep();
        Ok(())
    }

    /// Begins the sweep anew, as after a compaction or a restart.
    pub(crate) fn start_sweep(&mut self) {
        self.sweep = Some(Sweep { next: Vec::new() });
    }

    /// Whether versions made dead by the last compaction may still be in the index.
    pub(crate) fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    /// Looks at up to `budget` keys and drops their dead versions. True if more is left.
    pub(crate) fn sweep(&mut self, budget: usize) -> bool {
        let Some(sweep) = &self.sweep else {
            return false;
        };
        let (stale, next) = find_stale(&self.index, &sweep.next, self.compacted, budget);
        for key in &stale {
            self.trim(key);
        }
        self.sweep = next.map(|next| Sweep { next });
        self.sweep.is_some()
    }

    fn trim(&mut self, key: &[u8]) {
        let (compacted, segments) = (self.compacted, &mut self.segments);
        self.index.alter(key, |found| {
            let history = found.expect("a stale key is in the index");
            let dead = |revision| {
                let was_live = segments.mark_dead(revision);
                assert!(was_live, "revision {revision} dies twice, or has no record");
            };
            match history.trimmed(compacted, dead) {
                Some(rest) => {
                    *history = rest;
                    Change::Keep
                }
                None => Change::Remove,
            }
        });
    }
}

/// The keys with dead versions among the `budget` from `from` on, and where to go on.
fn find_stale(
    index: &Tree<History>,
    from: &[u8],
    compacted: i64,
    budget: usize,
) -> (Vec<Vec<u8>>, Option<Vec<u8>>) {
    let mut stale = Vec::new();
    let mut seen = 0;
    let mut cursor = index.range(from, End::Unbounded);
    while let Some(history) = cursor.next_value() {
        if seen == budget.max(1) {
            return (stale, Some(cursor.key().to_vec()));
        }
        seen += 1;
        if history.has_dead(compacted) {
            stale.push(cursor.key().to_vec());
        }
    }
    (stale, None)
}

/// Revisions at or below the compacted one that are still part of the data, sorted: what a hash or a snapshot asks
/// row by row, in revision order.
pub(crate) struct Survivors {
    revisions: Vec<Revision>,
    at: usize,
}

impl Survivors {
    /// One revision per key, chosen by `of`.
    pub(crate) fn collect(
        index: &Tree<History>,
        of: impl Fn(&History) -> Option<Revision>,
    ) -> Survivors {
        let mut revisions = Vec::new();
        let mut cursor = index.range(&[], End::Unbounded);
        while let Some(history) = cursor.next_value() {
            revisions.extend(of(history));
        }
        revisions.sort_unstable();
        Survivors { revisions, at: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.revisions.is_empty()
    }

    /// Whether `revision` is among them. Ask in ascending order only.
    pub(crate) fn contains(&mut self, revision: Revision) -> bool {
        while self
            .revisions
            .get(self.at)
            .is_some_and(|survivor| *survivor < revision)
        {
            self.at += 1;
        }
        self.revisions.get(self.at) == Some(&revision)
    }
}
