//! The state at one moment, for everybody who only reads.
//!
//! A view is a handful of pointers. It is made in O(1) after each batch of entries, cloned freely, read on any thread for any time,
//! and never changes; the apply worker never waits for it. Start with [`ReadView::range`].

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::error;
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;
use storage::catalog::Table;
use storage::fault::Fault;
use storage::segments::{Record, Revision, SegmentsView};

use crate::membership::Membership;
use crate::mvcc::hash::{KvHash, Row};
use crate::mvcc::history::History;
use crate::mvcc::kept::KeptHashes;
use crate::mvcc::past::Queue;
use crate::mvcc::read::{Keys, RangeResult, Reader};
use crate::mvcc::tree::{End, Tree};
use crate::mvcc::{record, txn};
use crate::outcome::{Event, EventKind, ReadError, reject};
use crate::tables::{self, Rows};
use crate::version::ClusterVersion;
use crate::{alarm, auth, lease, restore};

/// A consistent view of everything the cluster agrees on.
#[derive(Clone)]
pub struct ReadView {
    pub(crate) index: Tree<History>,
    pub(crate) past: Queue,
    pub(crate) segments: SegmentsView,
    pub(crate) file_bytes: u64,
    pub(crate) live_bytes: u64,
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    pub(crate) applied: (u64, u64),
    pub(crate) leases: lease::View,
    pub(crate) small: Arc<Small>,
    pub(crate) rows: Arc<Rows>,
    pub(crate) hashes: KeptHashes,
}

/// What is small and changes rarely.
#[derive(Clone, Default)]
pub(crate) struct Small {
    pub members: Membership,
    pub alarms: alarm::Table,
    pub auth: auth::Store,
    pub version: ClusterVersion,
}

/// A part of history, for a watcher that is behind.
#[derive(Clone, Debug)]
pub struct EventPage {
    /// Events in order; a revision is never torn apart.
    pub events: Vec<Event>,
    /// Where to go on: every event below this revision has been delivered.
    pub next_revision: i64,
}

/// etcd's buckets in the order bbolt keeps them. All exist in every file, also when empty.
pub const BUCKETS: [&str; 10] = [
    "alarm",
    "auth",
    "authRoles",
    "authUsers",
    "cluster",
    "key",
    "lease",
    "members",
    "members_removed",
    "meta",
];

/// The table behind each bucket but `key`.
const TABLES: [Option<Table>; 10] = [
    Some(Table::Alarm),
    Some(Table::Auth),
    Some(Table::AuthRoles),
    Some(Table::AuthUsers),
    Some(Table::Cluster),
    None,
    Some(Table::Lease),
    Some(Table::Members),
    Some(Table::MembersRemoved),
    Some(Table::Meta),
];

impl ReadView {
    /// Bytes of history on disk and on its way there: what the quota limits.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Number of keys that exist now.
    #[must_use]
    pub fn key_count(&self) -> u64 {
        self.index.weight_range(&[], End::Unbounded)
    }

    /// Bytes of history that a compaction has not made superfluous.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The last compaction; -1 before the first.
    #[must_use]
    pub fn compact_revision(&self) -> i64 {
        self.compacted
    }

    /// Index and term of the last entry this view includes.
    #[must_use]
    pub fn applied(&self) -> (u64, u64) {
        self.applied
    }

    /// Leases and their keys.
    #[must_use]
    pub fn leases(&self) -> &lease::View {
        &self.leases
    }

    /// The members.
    #[must_use]
    pub fn members(&self) -> &Membership {
        &self.small.members
    }

    /// The alarms that are on.
    #[must_use]
    pub fn alarms(&self) -> &alarm::Table {
        &self.small.alarms
    }

    /// Users and roles, and who may do what.
    #[must_use]
    pub fn auth(&self) -> &auth::Store {
        &self.small.auth
    }

    /// The version the cluster has agreed on.
    #[must_use]
    pub fn cluster_version(&self) -> &ClusterVersion {
        &self.small.version
    }

    /// Answers a range.
    ///
    /// # Errors
    /// Compacted, FutureRev, InvalidSortOption (the edge has refused that before); or a fault, if a record cannot be read.
    pub fn range(&self, request: &pb::RangeRequest) -> Result<RangeResult, ReadError> {
        self.reader().range(request)
    }

    /// Answers a transaction that only reads ([`crate::validate::is_read_only`]).
    ///
    /// # Errors
    /// As [`ReadView::range`].
    pub fn txn(&self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, ReadError> {
        txn::read_only(&self.reader(), request)
    }

    /// Number of keys in a range at a revision (0: the newest), in etcd's convention for the end.
    ///
    /// # Errors
    /// Compacted or FutureRev.
    pub fn count(&self, key: &[u8], range_end: &[u8], revision: i64) -> Result<i64, ReadError> {
        let at = self.readable(revision)?;
        Ok(self.reader().count(Keys::new(key, range_end), at))
    }

    /// The encoded `mvccpb.KeyValue` of `key` as of revision `at`, for prev_kv. `None` if it did not exist, and also if that
    /// revision has been compacted.
    ///
    /// # Errors
    /// A fault, if the record cannot be read.
    pub fn get(&self, key: &[u8], at: i64) -> Result<Option<Bytes>, Fault> {
        if at < self.compacted {
            return Ok(None);
        }
        self.reader().get(key, at)
    }

    /// Hashes the key bucket up to `revision` (0: the newest), equal to etcd's on every member with this history. At one of the last ten
    /// compactions it is the hash that was taken then, with the compaction before it as `compact_revision`.
    ///
    /// # Errors
    /// Compacted or FutureRev; or a fault.
    pub fn hash_kv(&self, revision: i64) -> Result<KvHash, ReadError> {
        // 0 may be compacted as well, but asks for the newest. etcd forgets that for the next ten compactions.
        match self.hashes.get(revision).filter(|_| revision > 0) {
            Some(kept) => {
                let (hash, compact_revision) = kept?;
                Ok(KvHash {
                    hash,
                    compact_revision,
                    hash_revision: revision,
                    current_revision: self.revision,
                })
            }
            None => self.reader().hash_kv(revision),
        }
    }

    /// The same for a history whose records lie elsewhere, in a backend file say, while this view holds only their keys and
    /// revisions: `rows` hands out all rows of the bucket `key`, in order.
    ///
    /// # Errors
    /// As [`ReadView::hash_kv`]; a fault also from `rows`, or if a row's key is no revision.
    pub fn hash_kv_of(
        &self,
        revision: i64,
        rows: impl FnOnce(&mut dyn FnMut(&[u8], Bytes) -> Result<(), Fault>) -> Result<(), Fault>,
    ) -> Result<KvHash, ReadError> {
        self.reader().hash_kv_of(revision, |upto, hash| {
            rows(&mut |key, kv| {
                let (revision, tombstone) = restore::revision_of(key)?;
                if revision.main <= upto {
                    hash(&Row {
                        revision,
                        tombstone,
                        kv,
                    });
                }
                Ok(())
            })
        })
    }

    /// Hashes all buckets, leaving out what differs between members by nature, as etcd's `Hash` does.
    ///
    /// # Errors
    /// A fault, if a record cannot be read.
    pub fn hash(&self) -> Result<u32, Fault> {
        let mut crc = 0;
        let mut bucket_before = None;
        self.rows(|bucket, key, value| {
            for name in names_up_to(&mut bucket_before, bucket) {
                crc = crc32c::crc32c_append(crc, name.as_bytes());
            }
            let own = [
                tables::meta::CONSISTENT_INDEX,
                tables::meta::TERM,
                tables::meta::STORAGE_VERSION,
            ];
            if bucket != "meta" || !own.contains(&key) {
                crc = crc32c::crc32c_append(crc, key);
                crc = crc32c::crc32c_append(crc, value);
            }
            ControlFlow::Continue(())
        })?;
        for name in names_up_to(&mut bucket_before, "meta") {
            crc = crc32c::crc32c_append(crc, name.as_bytes());
        }
        Ok(crc)
    }

    /// Visits every row of every bucket as etcd's backend file would hold it, in file order, until `visit` breaks. Empty buckets
    /// ([`BUCKETS`]) have no rows. Two walks over one view see the same.
    ///
    /// # Errors
    /// A fault, if a record cannot be read.
    pub fn rows(
        &self,
        mut visit: impl FnMut(&'static str, &[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        for (bucket, table) in BUCKETS.into_iter().zip(TABLES) {
            let flow = match table {
                None => self.key_rows(bucket, &mut visit)?,
                Some(Table::Lease) => self.lease_rows(bucket, &mut visit),
                Some(table) => self.table_rows(bucket, table, &mut visit),
            };
            if flow.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Events with `from <= revision <= to`, at most about `events_max` or `bytes_max` of them, whichever comes first; but always
    /// at least one whole revision, if there is one.
    ///
    /// # Errors
    /// Compacted, if `from` lies below the compacted revision; or a fault.
    pub fn events(
        &self,
        from: i64,
        to: i64,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<EventPage, ReadError> {
        if from < self.compacted {
            return reject(&error::COMPACTED);
        }
        let to = to.min(self.revision);
        let mut page = EventPage {
            events: Vec::new(),
            next_revision: to.saturating_add(1).max(from),
        };
        let mut bytes = 0;
        let mut last_main = 0;
        let end = Revision {
            main: to.saturating_add(1),
            sub: 0,
        };
        let mut fault = None;
        self.segments
            .scan(Revision { main: from, sub: 0 }, end, |record| {
                let full = page.events.len() >= events_max || bytes >= bytes_max;
                if full && record.revision.main != last_main && !page.events.is_empty() {
                    page.next_revision = record.revision.main;
                    return ControlFlow::Break(());
                }
                last_main = record.revision.main;
                bytes += record.kv.len();
                match event_of(record) {
                    Ok(event) => page.events.push(event),
                    Err(error) => {
                        fault = Some(error);
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            })?;
        match fault {
            Some(fault) => Err(fault.into()),
            None => Ok(page),
        }
    }

    /// The rows of one bucket, other than `key`: all at once, as they are few.
    pub(crate) fn small_rows(&self, bucket: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        let mut visit = |_: &'static str, key: &[u8], value: &[u8]| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        let _ = match TABLES[bucket] {
            None => ControlFlow::Continue(()),
            Some(Table::Lease) => self.lease_rows(BUCKETS[bucket], &mut visit),
            Some(table) => self.table_rows(BUCKETS[bucket], table, &mut visit),
        };
        rows
    }

    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader {
            index: &self.index,
            past: &self.past,
            segments: &self.segments,
            revision: self.revision,
            compacted: self.compacted,
        }
    }

    fn readable(&self, revision: i64) -> Result<i64, ReadError> {
        self.reader().revision_for(revision)
    }

    fn key_rows(
        &self,
        bucket: &'static str,
        visit: &mut impl FnMut(&'static str, &[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Fault> {
        let mut flow = ControlFlow::Continue(());
        self.reader().rows(|row| {
            let (key, size) = row.key();
            flow = visit(bucket, &key[..size], &row.kv);
            flow
        })?;
        Ok(flow)
    }

    fn lease_rows(
        &self,
        bucket: &'static str,
        visit: &mut impl FnMut(&'static str, &[u8], &[u8]) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for (id, lease) in self.leases.all() {
            visit(
                bucket,
                &lease::row_key(id),
                &lease::row_of(id, lease).encode_to_vec(),
            )?;
        }
        ControlFlow::Continue(())
    }

    fn table_rows(
        &self,
        bucket: &'static str,
        table: Table,
        visit: &mut impl FnMut(&'static str, &[u8], &[u8]) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (index, term) = (self.applied.0.to_be_bytes(), self.applied.1.to_be_bytes());
        let mut rows: Vec<(&[u8], &[u8])> = Vec::new();
        if table == Table::Meta {
            // These two change with every entry; they are not kept as rows.
            rows.push((tables::meta::CONSISTENT_INDEX, &index));
            rows.push((tables::meta::TERM, &term));
        }
        let stored = self
            .rows
            .range((table, Vec::new())..)
            .take_while(|((other, _), _)| *other == table);
        rows.extend(stored.map(|((_, key), value)| (key.as_slice(), value.as_slice())));
        rows.sort_unstable();
        for (key, value) in rows {
            visit(bucket, key, value)?;
        }
        ControlFlow::Continue(())
    }
}

/// The buckets after `before` up to and including `bucket`; notes that they were taken.
fn names_up_to(before: &mut Option<usize>, bucket: &str) -> &'static [&'static str] {
    let start = before.map_or(0, |before| before + 1);
    let at = BUCKETS
        .iter()
        .position(|name| *name == bucket)
        .expect("a row lies in one of the buckets");
    if at < start {
        return &[];
    }
    *before = Some(at);
    &BUCKETS[start..=at]
}

/// A stored record as watchers receive it: a tombstone gets its revision added.
fn event_of(record: Record) -> Result<Event, Fault> {
    let Record {
        revision,
        tombstone,
        kv,
    } = record;
    let KeyValue {
        key,
        create_revision,
        ..
    } = record::decode(revision, kv.clone())?;
    if !tombstone {
        return Ok(Event {
            revision,
            kind: EventKind::Put,
            is_creation: create_revision == revision.main,
            key,
            kv,
        });
    }
    let (_, record::Encoded { kv, key }) = record::encode_tombstone(&key, revision.main);
    Ok(Event {
        revision,
        kind: EventKind::Delete,
        is_creation: false,
        key,
        kv,
    })
}
