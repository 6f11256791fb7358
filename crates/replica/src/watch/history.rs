//! What the hub needs to know of the state: where to read older events and versions.

use bytes::Bytes;
use state::{ReadError, ReadView};
use storage::fault::{Fault, FaultKind};

pub use state::{Event, EventKind};

/// An immutable view of the store with its history; cheap to hold. [`ReadView`] is the real one; tests bring their own.
pub trait History {
    /// The newest revision in the view.
    fn revision(&self) -> i64;

    /// The last compaction, 0 or less if there was none. Changes at or above it can be read, deletes at exactly it
    /// included (etcd #19179).
    fn compact_revision(&self) -> i64;

    /// The changes of revisions `from` to `to`, both included, in order, until `events_max` events or `bytes_max` bytes
    /// are exceeded; a revision that was begun is finished, and at least one is read. Returns the events and the
    /// revision to read next, `to + 1` when all were read. `from` is not below the compaction, `to` not above the view.
    fn events(
        &self,
        from: i64,
        to: i64,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Event>, i64), Fault>;

    /// The encoded `mvccpb.KeyValue` of `key` at revision `at`, which is not below the compaction.
    fn get(&self, key: &[u8], at: i64) -> Result<Option<Bytes>, Fault>;
}

impl History for ReadView {
    fn revision(&self) -> i64 {
        ReadView::revision(self)
    }

    fn compact_revision(&self) -> i64 {
        ReadView::compact_revision(self)
    }

    fn events(
        &self,
        from: i64,
        to: i64,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Event>, i64), Fault> {
        match ReadView::events(self, from, to, events_max, bytes_max) {
            Ok(page) => Ok((page.events, page.next_revision)),
            Err(ReadError::Fault(fault)) => Err(fault),
            Err(ReadError::Rejected(rejected)) => Err(Fault::new(
                FaultKind::Gap,
                format!(
                    "watch history from revision {from} to {to}: the view that is compacted at {} refused it: {}; \
                     this member stops. Start it again, and report this.",
                    ReadView::compact_revision(self),
                    rejected.0
                ),
            )),
        }
    }

    fn get(&self, key: &[u8], at: i64) -> Result<Option<Bytes>, Fault> {
        ReadView::get(self, key, at)
    }
}
