//! Compaction: old versions can no longer be read at once, and are taken out of memory bit by bit.
//!
//! Nothing waits for a compaction. From its entry on reads below it are refused, and hashes and snapshots leave out what it
//! made unreachable, whether or not it has been tidied up. Tidying goes in slices between batches of entries: it takes dead versions from
//! the front of the past, and deleted keys out of the index, and tells the segments, which give back the space. It takes
//! time in proportion to what is dead; a million living keys cost nothing.
//! Source of the rules: upstream `server/storage/mvcc/kvstore.go`, `kvstore_compaction.go`.

use proto::error;
use storage::planted;
use storage::segments::Revision;

use super::Store;
use super::history::History;
use super::kept::Moment;
use super::tree::{Change, End, Tree};
use crate::outcome::Rejected;

/// A deletion that no compaction has passed yet.
pub(crate) struct Deletion {
    pub revision: Revision,
    pub key: Box<[u8]>,
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
        self.hashes.want(
            revision,
            Moment {
                index: self.index.clone(),
                past: self.past.clone(),
                segments: self.segments.view(),
                revision: self.revision,
                compacted: self.compacted,
            },
        );
        self.compacted = revision;
        Ok(())
    }

    /// Whether all that the compaction at `revision`, or one before it, made unreachable is gone from memory.
    pub(crate) fn is_tidy(&self, revision: i64) -> bool {
        let dead = |deletion: &Deletion| deletion.revision.main < revision;
        self.past.front(revision).is_none() && !self.deletions.front().is_some_and(dead)
    }

    /// Takes up to `budget` dead versions away. True if more is left.
    ///
    /// Versions go before the tombstones that end them: segments rely on it.
    pub(crate) fn tidy(&mut self, budget: usize) -> bool {
        let mut left = budget;
        while left > 0
            && let Some(past) = self.past.front(self.compacted)
        {
            let stamp = past.stamp;
            self.past.pop();
            // Tombstones are on the list of deletions as well, and are declared dead from there.
            if !stamp.is_tombstone() {
                self.declare_dead(stamp.revision());
            }
            left -= 1;
        }
        while left > 0 && self.dead_deletion().is_some() {
            let Deletion { revision, key } = self
                .deletions
                .pop_front()
                .expect("there is a dead deletion");
            self.declare_dead(revision);
            self.forget(&key, revision);
            left -= 1;
        }
        !self.is_tidy(self.compacted)
    }

    /// The oldest deletion, if it lies below the compacted revision.
    fn dead_deletion(&self) -> Option<&Deletion> {
        let below = self.compacted + i64::from(planted!(DeletionLostAtCompaction));
        self.deletions
            .front()
            .filter(|deletion| deletion.revision.main < below)
    }

    fn declare_dead(&mut self, revision: Revision) {
        let was_live = self.segments.mark_dead(revision);
        assert!(was_live, "revision {revision} dies twice, or has no record");
    }

    /// Drops a key whose last version is the deletion at `revision`. One that was put again stays.
    fn forget(&mut self, key: &[u8], revision: Revision) {
        let last = self
            .index
            .get(key)
            .is_some_and(|history| history.newest().revision() == revision);
        if last {
            self.index.alter(key, |_| Change::Remove);
        }
    }
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
