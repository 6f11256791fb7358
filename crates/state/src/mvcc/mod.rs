//! Multi-version key space: what the cluster stores under each key, at every revision not yet compacted.
//!
//! ```text
//!   key ──► tree ──► History { the newest revision } ──► segments: revision ──► encoded KeyValue
//!                       └──► past: older revisions ──────────┘
//! ```
//!
//! The index ([`tree`], `history`, `past`) says which revisions a key has; the values lie in `storage::segments`. Reading ([`read`])
//! never changes anything and works on any consistent pair of index and segments; writing (`write`, `txn`) happens in the
//! apply worker alone. A compaction takes effect at once and tidies up later (`compaction`).
//!
//! It knows no alarms, members or quota. Start with [`Store`].

pub(crate) mod compaction;
pub(crate) mod hash;
pub(crate) mod history;
pub(crate) mod kept;
pub(crate) mod load;
pub(crate) mod past;
pub(crate) mod read;
pub(crate) mod record;
pub mod tree;
pub(crate) mod txn;
pub(crate) mod write;

use std::collections::VecDeque;

use storage::segments::{Segments, SegmentsView};

use compaction::Deletion;
use history::History;
use kept::KeptHashes;
use past::Queue;
use read::Reader;
use tree::Tree;

/// The key space, owned by the apply worker.
pub(crate) struct Store {
    pub index: Tree<History>,
    pub past: Queue,
    /// All deletions that the index or the past still knows, oldest first.
    pub deletions: VecDeque<Deletion>,
    pub segments: Segments,
    /// Newest revision; 1 before the first write.
    pub revision: i64,
    /// The last compaction; -1 before the first.
    pub compacted: i64,
    pub hashes: KeptHashes,
}

impl Store {
    /// No keys.
    pub(crate) fn new(segments: Segments) -> Store {
        Store {
            index: Tree::new(),
            past: Queue::default(),
            deletions: VecDeque::new(),
            segments,
            revision: 1,
            compacted: -1,
            hashes: KeptHashes::default(),
        }
    }

    /// The key space as it is now, to read from. `segments` must be a view taken since the last append.
    pub(crate) fn reader<'a>(&'a self, segments: &'a SegmentsView) -> Reader<'a> {
        Reader {
            index: &self.index,
            past: &self.past,
            segments,
            revision: self.revision,
            compacted: self.compacted,
        }
    }
}
