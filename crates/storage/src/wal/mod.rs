//! The raft log on disk: hard state, entries and snapshot markers, in segments that are written once and in order.
//!
//! What it is: the only durable promise of a member. [`Wal::append`] turns one batch into one write and at most one sync;
//! when it returns `Ok` for a batch with `sync`, the batch survives every crash. [`Wal::open`] gives back what was promised,
//! then perhaps some of what was not, in order, and nothing else.
//!
//! What it never does: it never retries a failed write or sync (from then on every call returns the same fault), never
//! guesses about damage (a torn tail is cut, anything else refuses to start and says where), never reads the clock and
//! never starts a thread: the preparation of a spare segment is a value ([`SpareJob`]) that the caller runs elsewhere.
//!
//! # How it hangs together
//!
//! ```text
//!   0000000000000007-00000000000a1f20.wal   whole, synced, ends where the next one says it ends
//!   0000000000000008-00000000000b0001.wal   active: records, then zeros (or what a recycled file held before)
//!   0000000000000003.spare                  allocated and synced, becomes segment 9
//! ```
//!
//! - Every record carries the checksum of the one before it and the *tag* of its segment, so neither a stale record of a
//!   recycled file nor one behind a torn record can be taken for the next.
//! - Every record says up to which byte its segment had been synced when it was written. A bad record with a later one
//!   that says so is damage; without, it is a torn tail. `recover` explains the judgement.
//! - A segment gets its name only after its opening (header, hard state, marker) is synced, and the one before it is synced
//!   before that. So each segment can be read without the older ones, and only the last one may have a torn tail.
//! - Space is allocated before it is needed: records overwrite zeros or stale bytes. A full disk is met only when a segment
//!   is rolled without a spare, before anything of the batch is written: see [`Wal::append`].
//!
//! The first segment is small ([`Options::head_bytes`]), so that a fresh member serves after a few milliseconds; the spare
//! behind it has full size. Filling a large first segment ahead in the background would have needed two writers in one
//! file and a rule between them; a segment that may have any size needs neither. The same small segment is what a roll
//! falls back to when the spare is late.
//!
//! The byte layout is in `docs/formats/wal.md`. Start with [`Wal::append`] (`writer.rs`), then `recover.rs`.

mod record;
mod recover;
mod segment;
mod writer;

#[cfg(test)]
mod tests;

use proto::raftpb::{ConfState, Entry, HardState};

pub use recover::{Tail, Verified};
pub use segment::{Spare, SpareJob};
pub use writer::{Space, Wal};

/// Whose log it is. Stored in every segment; a log is never read as another member's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// The cluster's id.
    pub cluster_id: u64,
    /// The member's id.
    pub member_id: u64,
}

/// Sizes. The defaults are for production; tests and the simulator use small ones. Files written with other sizes are read
/// all the same.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of a segment prepared as a spare. 4 KiB to 1 GiB.
    pub segment_bytes: u64,
    /// Size of the first segment, and of one that is created in a hurry because no spare is ready. 4 KiB to
    /// `segment_bytes`.
    pub head_bytes: u64,
    /// So many spares are kept when segments are released; beyond, files are removed. One is always prepared.
    pub spares_max: usize,
    /// A planted defect, to show that the tests notice it.
    #[cfg(test)]
    pub(crate) defect: Option<Defect>,
}

impl Default for Options {
    fn default() -> Options {
        Options::with_segment_bytes(64 << 20, 1 << 20)
    }
}

impl Options {
    /// Options with these sizes (see the fields) and at most two spares.
    pub fn with_segment_bytes(segment_bytes: u64, head_bytes: u64) -> Options {
        let bounds = 4096..=1 << 30;
        assert!(
            bounds.contains(&segment_bytes),
            "segment_bytes {segment_bytes} outside {bounds:?}"
        );
        assert!(
            (4096..=segment_bytes).contains(&head_bytes),
            "head_bytes {head_bytes} outside 4096..={segment_bytes}"
        );
        Options {
            segment_bytes,
            head_bytes,
            spares_max: 2,
            #[cfg(test)]
            defect: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }
}

/// Whether this build has the defect planted; never outside this crate's tests.
#[cfg(test)]
macro_rules! planted {
    ($options:expr, $defect:ident) => {
        $options.has($crate::wal::Defect::$defect)
    };
}
#[cfg(not(test))]
macro_rules! planted {
    ($options:expr, $defect:ident) => {{
        let _ = &$options;
        false
    }};
}
use planted;

/// Defects that the crash tests must notice. Each is a mistake that somebody made once.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// `append` says "durable" without a sync.
    AckBeforeSync,
    /// A torn tail is cut in memory only: its remains stay in the file.
    NoTailWipe,
    /// Records are neither chained nor tagged: each has only a checksum of its own.
    NoSalt,
    /// A new segment gets its name without a sync of the directory.
    NoDirSync,
    /// The old segment is not synced before a new one follows it.
    NoSyncAtRoll,
    /// Older segments are removed before the marker that replaces them is durable.
    ReleaseBeforeSync,
}

/// What one [`Wal::append`] writes, in this order: hard state, marker, entries.
///
/// The order makes every prefix meaningful: a vote without its entries is harmless, an entry of a term that the hard state
/// does not know would not be. A commit index that covers entries of the same batch is written behind them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch<'a> {
    /// The new hard state, if it changed.
    pub hard_state: Option<&'a HardState>,
    /// A snapshot marker, if there is one to write.
    pub marker: Option<&'a Marker>,
    /// Entries with consecutive indexes. They may begin at or below the last index: what follows in the log is dropped.
    pub entries: &'a [Entry],
    /// Whether the batch must be durable on return. A hard state that changed only its commit index needs no sync.
    pub sync: bool,
}

/// A snapshot marker: the state up to `index` is durable elsewhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Marker {
    /// The last index that the snapshot covers.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// The membership at that index.
    pub conf_state: ConfState,
    /// Whether the log starts again behind `index`: true for a snapshot received from another member, which replaces the
    /// log; false for a checkpoint of our own, which leaves it alone. Always false in [`Recovered`].
    pub restart: bool,
}

/// What [`Wal::open`] found.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Whose log it is.
    pub identity: Identity,
    /// The last hard state, all zero if there is none. Its commit index lies between the marker's index and the last index.
    pub hard_state: HardState,
    /// The last marker, if any.
    pub marker: Option<Marker>,
    /// The entries still in the log, consecutive. They may begin at or below the marker (old entries not yet released) and
    /// never begin later than right behind it.
    pub entries: Vec<Entry>,
    /// The index of the last entry, or the marker's if there is none behind it; 0 in an empty log.
    pub last_index: u64,
    /// How the log ended.
    pub tail: Tail,
    /// Names in the directory that are not ours and were left alone.
    pub ignored: Vec<String>,
}
