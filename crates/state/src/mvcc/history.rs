//! The newest version of a key, and the way to those before it: an entry of the key index.
//!
//! ```text
//!   History { newest: Stamp, older: place in the past }        40 bytes, Copy
//! ```
//!
//! Entries must be cheap to copy: while a reader holds a view, every change copies the index leaf it falls into. That is why older
//! versions hang behind a number and not behind a pointer, which a copy would have to count.
//!
//! etcd groups versions in generations (from creation to tombstone). Here a generation is what lies between two tombstones.
//! Source of the rules: upstream `server/storage/mvcc/key_index.go`.

use storage::segments::Revision;

use super::past::{NONE, Queue};
use super::tree::Weight;

const TOMBSTONE: u32 = 1 << 31;
const LEASED: u32 = 1 << 30;
/// Largest place within a transaction: the two top bits are marks.
pub(crate) const SUB_MAX: u32 = LEASED - 1;

/// One version of a key, without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    main: i64,
    /// `create_revision`; 0 in a tombstone.
    pub created: i64,
    /// `version`; 0 in a tombstone.
    pub version: i64,
    marks: u32,
}

impl Stamp {
    /// A version with a value.
    pub(crate) fn put(revision: Revision, created: i64, version: i64, leased: bool) -> Stamp {
        let mark = if leased { LEASED } else { 0 };
        Stamp {
            main: revision.main,
            created,
            version,
            marks: sub_of(revision) | mark,
        }
    }

    /// The mark of a deletion.
    pub(crate) fn tombstone(revision: Revision) -> Stamp {
        Stamp {
            main: revision.main,
            created: 0,
            version: 0,
            marks: sub_of(revision) | TOMBSTONE,
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision {
            main: self.main,
            sub: i64::from(self.marks & SUB_MAX),
        }
    }

    pub(crate) fn main(&self) -> i64 {
        self.main
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        self.marks & TOMBSTONE != 0
    }

    /// Whether this version was written with a lease; which one, the lease table knows.
    pub(crate) fn is_leased(&self) -> bool {
        self.marks & LEASED != 0
    }
}

fn sub_of(revision: Revision) -> u32 {
    let sub = u32::try_from(revision.sub).unwrap_or(u32::MAX);
    assert!(
        sub <= SUB_MAX,
        "change {} of revision {}: a transaction has at most {SUB_MAX} changes",
        revision.sub,
        revision.main
    );
    sub
}

/// All versions of one key that can be read, at least one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct History {
    newest: Stamp,
    /// Place of the version before.
    older: u64,
}

const _: () = assert!(
    size_of::<History>() == 40,
    "an index entry has grown; check the memory per key"
);

impl Weight for History {
    fn weight(&self) -> u64 {
        u64::from(!self.newest.is_tombstone())
    }
}

impl History {
    pub(crate) fn new(first: Stamp) -> History {
        History {
            newest: first,
            older: NONE,
        }
    }

    /// Puts back what was written: the newest version, and the place of the one before it.
    pub(crate) fn restore(newest: Stamp, older: u64) -> History {
        History { newest, older }
    }

    /// The newest version, tombstone or not.
    pub(crate) fn newest(&self) -> &Stamp {
        &self.newest
    }

    /// The newest version if it has a value.
    pub(crate) fn live(&self) -> Option<&Stamp> {
        (!self.newest.is_tombstone()).then_some(&self.newest)
    }

    /// The version that a read at revision `at` sees; `None` if the key did not exist then.
    pub(crate) fn live_at<'a>(&'a self, past: &'a Queue, at: i64) -> Option<&'a Stamp> {
        self.newest_to(past, at)
            .filter(|stamp| !stamp.is_tombstone())
    }

    /// Adds a newer version.
    pub(crate) fn push(&mut self, past: &mut Queue, stamp: Stamp) {
        assert!(
            stamp.revision() > self.newest.revision(),
            "revision {} does not follow {}",
            stamp.revision(),
            self.newest.revision()
        );
        self.older = past.push(self.newest, stamp.main, self.older);
        self.newest = stamp;
    }

    /// The version at or below `at` that a compaction at `at` leaves: the newest, unless it is a tombstone below `at`. A tombstone
    /// exactly at `at` stays, because a watcher that starts there must see the delete (etcd #19179).
    pub(crate) fn kept_at(&self, past: &Queue, at: i64) -> Option<Revision> {
        let stamp = self.newest_to(past, at)?;
        (!stamp.is_tombstone() || stamp.main == at).then(|| stamp.revision())
    }

    /// The version of this key that counts in a hash at `at` among those already compacted. Unlike [`History::kept_at`] it never is a
    /// tombstone, so that hashes equal those of members that drop it (upstream `key_index.go`, `keep`).
    pub(crate) fn hashed_at(&self, past: &Queue, at: i64) -> Option<Revision> {
        self.live_at(past, at).map(Stamp::revision)
    }

    /// The newest version at or below `at`, tombstone or not.
    fn newest_to<'a>(&'a self, past: &'a Queue, at: i64) -> Option<&'a Stamp> {
        if self.newest.main <= at {
            return Some(&self.newest);
        }
        past.newest_to(self.older, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(main: i64) -> Revision {
        Revision { main, sub: 0 }
    }

    /// Positive numbers are puts, negative ones tombstones.
    fn history(revisions: &[i64]) -> (History, Queue) {
        let stamp = |main: i64| {
            if main > 0 {
                Stamp::put(at(main), main, 1, false)
            } else {
                Stamp::tombstone(at(-main))
            }
        };
        let mut past = Queue::default();
        let mut history = History::new(stamp(revisions[0]));
        revisions[1..]
            .iter()
            .for_each(|&main| history.push(&mut past, stamp(main)));
        (history, past)
    }

    #[test]
    fn a_read_sees_the_newest_version_at_or_below_its_revision() {
        let (history, past) = history(&[2, 4, -6, 8]);
        let seen = |at| history.live_at(&past, at).map(|stamp| stamp.main);
        let expected = [
            None,
            Some(2),
            Some(2),
            Some(4),
            Some(4),
            None,
            None,
            Some(8),
            Some(8),
        ];
        assert_eq!([1, 2, 3, 4, 5, 6, 7, 8, 9].map(seen), expected);
    }

    #[test]
    fn compaction_keeps_a_tombstone_only_at_the_compacted_revision() {
        let (history, past) = history(&[2, -5, 7]);
        assert_eq!(history.kept_at(&past, 5), Some(at(5)));
        assert_eq!(history.kept_at(&past, 6), None);
        assert_eq!(history.hashed_at(&past, 5), None);
        assert_eq!(history.hashed_at(&past, 4), Some(at(2)));
        assert_eq!(history.hashed_at(&past, 7), Some(at(7)));
    }
}
