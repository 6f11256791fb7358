//! `HashKV`, byte for byte etcd's, and the walk over all rows of the key bucket.
//!
//! Row order is revision order. What a compaction has made unreachable is left out even if it still lies in a segment, so
//! the result does not depend on how far tidying has come. Source of the rules: upstream `server/storage/mvcc/hash.go`.

use std::ops::ControlFlow;

use bytes::Bytes;
use proto::error;
use storage::fault::Fault;
use storage::segments::{Record, Revision};

use super::compaction::Survivors;
use super::history::History;
use super::read::Reader;
use crate::outcome::{ReadError, reject};

/// The answer to `HashKV`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHash {
    /// CRC-32C.
    pub hash: u32,
    /// The last compaction before the hash was taken; -1 before the first.
    pub compact_revision: i64,
    /// The revision up to which rows were hashed.
    pub hash_revision: i64,
    /// The store's revision.
    pub current_revision: i64,
}

/// A row of etcd's key bucket.
pub(crate) struct Row {
    pub revision: Revision,
    pub tombstone: bool,
    pub kv: Bytes,
}

impl Row {
    /// The row's key: main and sub revision, big endian, around an underscore; a tombstone has a `t` behind them.
    pub(crate) fn key(&self) -> ([u8; 18], usize) {
        let mut key = [0; 18];
        key[..17].copy_from_slice(&revision_key(self.revision));
        key[17] = b't';
        (key, if self.tombstone { 18 } else { 17 })
    }
}

/// A revision as etcd writes it into bucket keys and into `scheduledCompactRev`.
pub(crate) fn revision_key(revision: Revision) -> [u8; 17] {
    let mut key = [b'_'; 17];
    key[..8].copy_from_slice(&revision.main.to_be_bytes());
    key[9..].copy_from_slice(&revision.sub.to_be_bytes());
    key
}

impl Reader<'_> {
    /// Hashes all rows up to `revision`; 0 is the newest.
    pub(crate) fn hash_kv(&self, revision: i64) -> Result<KvHash, ReadError> {
        self.hash_kv_of(revision, |upto, hash| self.each(upto, hash))
    }

    /// The same over rows that `scan` brings: all of them up to the revision it is given, in order.
    pub(crate) fn hash_kv_of(
        &self,
        revision: i64,
        scan: impl FnOnce(i64, &mut dyn FnMut(&Row)) -> Result<(), Fault>,
    ) -> Result<KvHash, ReadError> {
        if revision > 0 && revision < self.compacted {
            return reject(&error::COMPACTED);
        }
        if revision > self.revision {
            return reject(&error::FUTURE_REV);
        }
        let upto = if revision == 0 {
            self.revision
        } else {
            revision
        };
        let hashed = Survivors::collect(self.index, |history| history.hashed_at(self.past, upto));
        Ok(KvHash {
            hash: self.hash_rows(hashed, |hash| scan(upto, hash))?,
            compact_revision: self.compacted,
            hash_revision: upto,
            current_revision: self.revision,
        })
    }

    /// The hash that etcd takes while it compacts at `revision`: of what the compaction before has left, and of all that has come
    /// since, with what this one drops. `self` is the key space when the compaction began.
    pub(crate) fn hash_of_compaction(&self, revision: i64) -> Result<u32, Fault> {
        let kept = Survivors::collect(self.index, |history| history.kept_at(self.past, revision));
        self.hash_rows(kept, |hash| self.each(revision, hash))
    }

    /// Hashes all rows that `scan` brings; of those already compacted, the ones in `kept`.
    fn hash_rows(
        &self,
        mut kept: Survivors,
        scan: impl FnOnce(&mut dyn FnMut(&Row)) -> Result<(), Fault>,
    ) -> Result<u32, Fault> {
        if kept.is_empty() {
            // etcd then skips nothing, and so hashes all that its compaction has left.
            kept = Survivors::collect(self.index, |history| {
                history.kept_at(self.past, self.compacted)
            });
        }
        let mut crc = crc32c::crc32c(b"key");
        scan(&mut |row| {
            let compacted = row.revision.main <= self.compacted;
            let skip = (compacted && !kept.contains(row.revision))
                || (row.tombstone && row.revision.main == self.compacted);
            if !skip {
                let (key, size) = row.key();
                crc = crc32c::crc32c_append(crc, &key[..size]);
                crc = crc32c::crc32c_append(crc, &row.kv);
            }
        })?;
        Ok(crc)
    }

    /// Hands out all stored rows up to `upto`.
    fn each(&self, upto: i64, hash: &mut dyn FnMut(&Row)) -> Result<(), Fault> {
        self.scan(upto, |row| {
            hash(&row);
            ControlFlow::Continue(())
        })
    }

    /// Every row that etcd's key bucket would hold, in order, until `visit` breaks.
    pub(crate) fn rows(&self, visit: impl FnMut(Row) -> ControlFlow<()>) -> Result<(), Fault> {
        self.rows_from(Revision::default(), &mut self.survivors(), visit)
    }

    /// [`Reader::rows`] from a revision on. `survivors` have not been asked for any at or behind it.
    pub(crate) fn rows_from(
        &self,
        from: Revision,
        survivors: &mut Survivors,
        mut visit: impl FnMut(Row) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        self.scan_from(from, self.revision, |row| {
            if row.revision.main <= self.compacted && !survivors.contains(row.revision) {
                return ControlFlow::Continue(());
            }
            visit(row)
        })
    }

    /// Revisions below the compaction that are still part of the data.
    pub(crate) fn survivors(&self) -> Survivors {
        Survivors::collect(self.index, |history: &History| {
            history.kept_at(self.past, self.compacted)
        })
    }

    fn scan(&self, upto: i64, visit: impl FnMut(Row) -> ControlFlow<()>) -> Result<(), Fault> {
        self.scan_from(Revision::default(), upto, visit)
    }

    fn scan_from(
        &self,
        from: Revision,
        upto: i64,
        mut visit: impl FnMut(Row) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        let end = Revision {
            main: upto.saturating_add(1),
            sub: 0,
        };
        self.segments.scan(
            from,
            end,
            |Record {
                 revision,
                 tombstone,
                 kv,
             }| {
                visit(Row {
                    revision,
                    tombstone,
                    kv,
                })
            },
        )
    }
}
