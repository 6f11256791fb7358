//! The versions of one key that can still be read: an entry of the key index.
//!
//! ```text
//!   History { newest: Stamp, older ──► Chunk [s7] ──► Chunk [s5 s6] ──► Chunk [s1 s2 s3 s4] }      older ◄── newer
//! ```
//!
//! Most keys have one version, and those own nothing on the heap. Older versions hang behind one pointer, in chunks that grow
//! towards the past: adding a version to a history that a reader also holds copies O(log n) stamps on average, and no walk or
//! drop is deeper than log n, even for a key that was written a million times between two compactions.
//!
//! etcd groups versions in generations (from creation to tombstone). Here a generation is what lies between two tombstones.
//! Source of the rules: upstream `server/storage/mvcc/key_index.go`.

use std::sync::Arc;

use storage::segments::Revision;

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

/// All versions of one key, at least one.
#[derive(Clone, Debug)]
pub(crate) struct History {
    newest: Stamp,
    older: Option<Arc<Chunk>>,
}

const _: () = assert!(
    size_of::<History>() == 40,
    "an index entry has grown; check the memory per key"
);

/// A run of versions, oldest first, and the run before it, which is longer.
#[derive(Clone, Debug)]
struct Chunk {
    stamps: Vec<Stamp>,
    older: Option<Arc<Chunk>>,
}

/// A chunk takes single versions until it has this many; then a new one begins.
const CHUNK_OPEN: usize = 8;

impl Weight for History {
    fn weight(&self) -> u64 {
        u64::from(!self.newest.is_tombstone())
    }
}

impl History {
    pub(crate) fn new(first: Stamp) -> History {
        History {
            newest: first,
            older: None,
        }
    }

    /// The newest version if it has a value.
    pub(crate) fn live(&self) -> Option<&Stamp> {
        (!self.newest.is_tombstone()).then_some(&self.newest)
    }

    /// The version that a read at revision `at` sees; `None` if the key did not exist then.
    pub(crate) fn live_at(&self, at: i64) -> Option<&Stamp> {
        self.newest_to(at).filter(|stamp| !stamp.is_tombstone())
    }

    /// Adds a newer version.
    pub(crate) fn push(&mut self, stamp: Stamp) {
        assert!(
            stamp.revision() > self.newest.revision(),
            "revision {:?} does not follow {:?}",
            stamp.revision(),
            self.newest.revision()
        );
        let past = std::mem::replace(&mut self.newest, stamp);
        self.older = Some(Chunk::push(self.older.take(), past));
    }

    /// The newest version at or below `at`, tombstone or not.
    fn newest_to(&self, at: i64) -> Option<&Stamp> {
        if self.newest.main <= at {
            return Some(&self.newest);
        }
        let mut chunk = self.older.as_deref();
        while let Some(Chunk { stamps, older }) = chunk {
            let count = stamps.partition_point(|stamp| stamp.main <= at);
            if count > 0 {
                return Some(&stamps[count - 1]);
            }
            chunk = older.as_deref();
        }
        None
    }

    /// The version at or below `at` that a compaction at `at` leaves: the newest, unless it is a tombstone below `at`. A tombstone
    /// exactly at `at` stays, because a watcher that starts there must see the delete (etcd #19179).
    pub(crate) fn kept_at(&self, at: i64) -> Option<Revision> {
        let stamp = self.newest_to(at)?;
        (!stamp.is_tombstone() || stamp.main == at).then(|| stamp.revision())
    }

    /// The version of this key that counts in a hash at `at` among those already compacted. Unlike [`History::kept_at`] it never is a
    /// tombstone, so that hashes equal those of members that drop it (upstream `key_index.go`, `keep`).
    pub(crate) fn hashed_at(&self, at: i64) -> Option<Revision> {
        self.live_at(at).map(Stamp::revision)
    }

    /// Whether a compaction at `at` takes anything away.
    pub(crate) fn has_dead(&self, at: i64) -> bool {
        if self.older.is_none() {
            return self.newest.main < at && self.newest.is_tombstone();
        }
        let total = self.iter().count();
        let beyond = self.iter().take_while(|stamp| stamp.main > at).count();
        beyond + usize::from(self.kept_at(at).is_some()) < total
    }

    /// Takes away what a compaction at `at` leaves no reader for and reports it. `None` if nothing remains of the key.
    pub(crate) fn trimmed(&self, at: i64, mut dead: impl FnMut(Revision)) -> Option<History> {
        let kept = self.kept_at(at);
        let mut rest = Vec::new();
        for stamp in self.iter() {
            if stamp.main > at || kept == Some(stamp.revision()) {
                rest.push(*stamp);
            } else {
                dead(stamp.revision());
            }
        }
        let newest = *rest.first()?;
        rest.remove(0);
        rest.reverse();
        let older = (!rest.is_empty()).then(|| {
            Arc::new(Chunk {
                stamps: rest,
                older: None,
            })
        });
        Some(History { newest, older })
    }

    /// All versions, newest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Stamp> {
        let chunks = std::iter::successors(self.older.as_deref(), |chunk| chunk.older.as_deref());
        std::iter::once(&self.newest).chain(chunks.flat_map(|chunk| chunk.stamps.iter().rev()))
    }
}

impl Chunk {
    fn push(head: Option<Arc<Chunk>>, stamp: Stamp) -> Arc<Chunk> {
        let Some(mut head) = head else {
            return Arc::new(Chunk {
                stamps: vec![stamp],
                older: None,
            });
        };
        if head.stamps.len() < CHUNK_OPEN {
            Arc::make_mut(&mut head).stamps.push(stamp);
            return head;
        }
        // Runs of equal length become one, like carries in a binary counter: lengths stay strictly growing towards the past.
        while let Some(older) = head
            .older
            .as_ref()
            .filter(|older| older.stamps.len() <= head.stamps.len())
        {
            let mut stamps = Vec::with_capacity(older.stamps.len() + head.stamps.len());
            stamps.extend_from_slice(&older.stamps);
            stamps.extend_from_slice(&head.stamps);
            head = Arc::new(Chunk {
                stamps,
                older: older.older.clone(),
            });
        }
        Arc::new(Chunk {
            stamps: vec![stamp],
            older: Some(head),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(main: i64) -> Revision {
        Revision { main, sub: 0 }
    }

    fn put(main: i64) -> Stamp {
        Stamp::put(at(main), main, 1, false)
    }

    /// Positive numbers are puts, negative ones tombstones.
    fn history(revisions: &[i64]) -> History {
        let stamp = |main: i64| {
            if main > 0 {
                put(main)
            } else {
                Stamp::tombstone(at(-main))
            }
        };
        let mut history = History::new(stamp(revisions[0]));
        revisions[1..]
            .iter()
            .for_each(|&main| history.push(stamp(main)));
        history
    }

    fn mains(history: &History) -> Vec<i64> {
        history.iter().map(|stamp| stamp.main).collect()
    }

    #[test]
    fn a_read_sees_the_newest_version_at_or_below_its_revision() {
        let history = history(&[2, 4, -6, 8]);
        let seen = |at| history.live_at(at).map(|stamp| stamp.main);
        assert_eq!(
            [1, 2, 3, 4, 5, 6, 7, 8, 9].map(seen),
            [
                None,
                Some(2),
                Some(2),
                Some(4),
                Some(4),
                None,
                None,
                Some(8),
                Some(8)
            ]
        );
    }

    #[test]
    fn a_long_history_keeps_every_version_and_stays_shallow() {
        let revisions: Vec<i64> = (1..=10_000).collect();
        let history = history(&revisions);
        let depth =
            std::iter::successors(history.older.as_deref(), |chunk| chunk.older.as_deref()).count();
        assert!(depth <= 14, "{depth} chunks");
        assert_eq!(
            mains(&history),
            revisions.iter().rev().copied().collect::<Vec<_>>()
        );
        assert!(revisions.iter().all(|&main| {
            history
                .live_at(main)
                .is_some_and(|stamp| stamp.main == main)
        }));
    }

    #[test]
    fn a_copy_held_by_a_reader_never_changes() {
        let mut history = history(&[1, 2, 3]);
        let copy = history.clone();
        (4..100).for_each(|main| history.push(put(main)));
        assert_eq!(mains(&copy), [3, 2, 1]);
    }

    #[test]
    fn compaction_keeps_a_tombstone_only_at_the_compacted_revision() {
        let history = history(&[2, -5, 7]);
        assert_eq!(history.kept_at(5), Some(at(5)));
        assert_eq!(history.kept_at(6), None);
        assert_eq!(history.hashed_at(5), None);
        assert_eq!(history.hashed_at(4), Some(at(2)));
        assert_eq!(history.hashed_at(7), Some(at(7)));
    }

    #[test]
    fn trimming_reports_exactly_what_it_drops() {
        let full = history(&[2, 4, -6, 8, 9]);
        let mut dead = Vec::new();
        let rest = full
            .trimmed(6, |revision| dead.push(revision.main))
            .expect("versions remain");
        assert_eq!((mains(&rest), dead), (vec![9, 8, 6], vec![4, 2]));
        assert!(full.has_dead(6) && !rest.has_dead(6) && rest.has_dead(7));
        assert!(history(&[2, -3]).trimmed(4, |_| ()).is_none());
        assert!(!history(&[2, 4]).has_dead(3));
    }
}
