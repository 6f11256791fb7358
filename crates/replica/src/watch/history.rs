//! What the hub needs to know of the state: the shape of an event, and where to read older ones.

use bytes::Bytes;
use storage::fault::Fault;
use storage::segments::Revision;

/// One change of one key.
#[derive(Clone, Debug)]
pub struct Event {
    /// Which change, and its place within the transaction.
    pub revision: Revision,
    /// Put or delete.
    pub kind: EventKind,
    /// The key; a slice of `kv`.
    pub key: Bytes,
    /// Encoded `mvccpb.KeyValue` as watchers receive it: complete for a put; key and mod_revision for a delete.
    pub kv: Bytes,
}

/// Put or delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

/// An immutable view of the store with its history; cheap to hold.
pub trait History {
    /// The newest revision in the view.
    fn revision(&self) -> i64;

    /// The last compaction, 0 if there was none. Changes at or above it can be read, deletes at exactly it included
    /// (etcd #19179).
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
