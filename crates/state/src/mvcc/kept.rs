//! The hashes of the last compactions.
//!
//! When etcd compacts it hashes what it goes over, what it drops included, and keeps the last ten results. `HashKV` at such a revision
//! is answered from there, long after the revision itself can be read no more: that is what members compare with each other.
//! What is dropped is gone soon, so the hash must be taken from the view that the compaction began with. It takes time in
//! proportion to the data, hence it is a job for another thread; who asks before it is done hashes the same view
//! himself, so that the answer never depends on how far the job has come.
//! Source of the rules: upstream `server/storage/mvcc/hash.go`, `hashStorage`, and `kvstore_compaction.go`.

use std::collections::VecDeque;
use std::sync::Arc;

use storage::fault::Fault;
use storage::segments::SegmentsView;

use super::history::History;
use super::past::Queue;
use super::read::Reader;
use super::tree::Tree;

/// Upstream `hashStorageMaxSize`.
const KEPT_MAX: usize = 10;

/// The last compactions, oldest first. A clone is O(1).
#[derive(Clone, Default)]
pub(crate) struct KeptHashes(Arc<VecDeque<Kept>>);

/// A compaction and its hash. Like etcd's, hashes live in memory: a start forgets those of compactions that a checkpoint has passed.
#[derive(Clone)]
struct Kept {
    revision: i64,
    /// The compaction before; -1 if it was the first.
    before: i64,
    hash: Hash,
}

#[derive(Clone)]
enum Hash {
    Wanted(Arc<Moment>),
    Known(u32),
}

/// The key space when a compaction began.
pub(crate) struct Moment {
    pub index: Tree<History>,
    pub past: Queue,
    pub segments: SegmentsView,
    pub revision: i64,
    /// The compaction before.
    pub compacted: i64,
}

/// The hash of a compaction, to be computed on another thread. It pins what the compaction makes superfluous, so run it soon.
pub struct HashJob {
    revision: i64,
    moment: Arc<Moment>,
}

/// What came of a [`HashJob`].
#[derive(Debug)]
pub struct HashDone {
    revision: i64,
    hash: u32,
}

impl HashJob {
    /// Reads everything up to the compacted revision.
    ///
    /// # Errors
    /// A fault, if a record cannot be read.
    pub fn run(self) -> Result<HashDone, Fault> {
        Ok(HashDone {
            revision: self.revision,
            hash: self.moment.hash(self.revision)?,
        })
    }
}

impl Moment {
    fn hash(&self, revision: i64) -> Result<u32, Fault> {
        let reader = Reader {
            index: &self.index,
            past: &self.past,
            segments: &self.segments,
            revision: self.revision,
            compacted: self.compacted,
        };
        reader.hash_of_compaction(revision)
    }
}

impl KeptHashes {
    /// Notes that a compaction at `revision` begins. The oldest one is forgotten, even if its hash was never computed.
    pub(crate) fn want(&mut self, revision: i64, moment: Moment) {
        let kept = Arc::make_mut(&mut self.0);
        if let Some(last) = kept.back() {
            assert_eq!(
                last.revision, moment.compacted,
                "a compaction at {revision} does not follow the one before"
            );
        }
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(Kept {
            revision,
            before: moment.compacted,
            hash: Hash::Wanted(Arc::new(moment)),
        });
    }

    /// The oldest hash that is not known.
    pub(crate) fn next_job(&self) -> Option<HashJob> {
        self.0.iter().find_map(|kept| match &kept.hash {
            Hash::Wanted(moment) => Some(HashJob {
                revision: kept.revision,
                moment: moment.clone(),
            }),
            Hash::Known(_) => None,
        })
    }

    pub(crate) fn done(&mut self, done: &HashDone) {
        let kept = Arc::make_mut(&mut self.0);
        if let Some(kept) = kept.iter_mut().find(|kept| kept.revision == done.revision) {
            kept.hash = Hash::Known(done.hash);
        }
    }

    /// Whether the hash of the compaction at `revision` is still to be computed.
    pub(crate) fn is_wanted(&self, revision: i64) -> bool {
        self.0
            .iter()
            .any(|kept| kept.revision == revision && matches!(kept.hash, Hash::Wanted(_)))
    }

    /// The hash of the compaction at `revision` and the compaction before it, if it is one of the last.
    pub(crate) fn get(&self, revision: i64) -> Option<Result<(u32, i64), Fault>> {
        let kept = self.0.iter().find(|kept| kept.revision == revision)?;
        let hash = match &kept.hash {
            Hash::Wanted(moment) => moment.hash(revision),
            Hash::Known(hash) => Ok(*hash),
        };
        Some(hash.map(|hash| (hash, kept.before)))
    }
}
