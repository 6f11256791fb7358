//! One writing transaction: all changes of one entry get one main revision.
//!
//! Whoever writes has checked before that nothing can be refused: there is no way back from the first change.
//! Source of the rules: upstream `server/storage/mvcc/kvstore_txn.go`.

use storage::segments::Revision;

use super::Store;
use super::compaction::Deletion;
use super::history::{History, SUB_MAX, Stamp};
use super::read::Keys;
use super::record::{self, Encoded, Put};
use super::tree::Change;
use crate::lease;
use crate::outcome::{Event, EventKind};

/// A transaction in progress. [`Writer::finish`] makes its changes the store's newest revision.
pub(crate) struct Writer<'a> {
    pub store: &'a mut Store,
    leases: &'a mut lease::Table,
    events: &'a mut Vec<Event>,
    changes: u32,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(
        store: &'a mut Store,
        leases: &'a mut lease::Table,
        events: &'a mut Vec<Event>,
    ) -> Writer<'a> {
        assert!(events.is_empty(), "an entry has one transaction");
        Writer {
            store,
            leases,
            events,
            changes: 0,
        }
    }

    /// The newest revision a read inside this transaction sees: with its own changes, once it has any.
    pub(crate) fn revision(&self) -> i64 {
        self.store.revision + i64::from(self.changes > 0)
    }

    /// Stores a value. `lease` must exist; 0 detaches the key from any it had.
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8], lease: i64) {
        let revision = self.next();
        let (mut created, mut version, mut was_leased) = (revision.main, 1, false);
        let Store { index, past, .. } = &mut *self.store;
        index.alter(key, |found| {
            if let Some(stamp) = found.as_ref().and_then(|history| history.live()) {
                (created, version, was_leased) =
                    (stamp.created, stamp.version + 1, stamp.is_leased());
            }
            let stamp = Stamp::put(revision, created, version, lease != 0);
            match found {
                Some(history) => {
                    history.push(past, stamp);
                    Change::Keep
                }
                None => Change::Put(History::new(stamp)),
            }
        });
        if was_leased || lease != 0 {
            self.leases.move_key(key, lease);
        }
        let Encoded { kv, key } = record::encode_put(&Put {
            key,
            value,
            created,
            modified: revision.main,
            version,
            lease,
        });
        self.store.segments.append(revision, false, kv.clone());
        self.events.push(Event {
            revision,
            kind: EventKind::Put,
            is_creation: created == revision.main,
            key,
            kv,
        });
    }

    /// Deletes what exists of `keys` and says how many.
    pub(crate) fn delete(&mut self, keys: Keys<'_>) -> i64 {
        match keys {
            Keys::One(key) => {
                let live = self
                    .store
                    .index
                    .get(key)
                    .is_some_and(|history| history.live().is_some());
                if live {
                    self.delete_one(key);
                }
                i64::from(live)
            }
            Keys::Range(from, end) => {
                let mut live = Vec::new();
                let mut cursor = self.store.index.range(from, end);
                while let Some(history) = cursor.next_value() {
                    if history.live().is_some() {
                        live.push(cursor.key().to_vec());
                    }
                }
                live.iter().for_each(|key| self.delete_one(key));
                live.len() as i64
            }
        }
    }

    /// Ends the transaction and returns the store's revision, new if anything changed.
    pub(crate) fn finish(self) -> i64 {
        self.store.revision = self.revision();
        self.store.revision
    }

    fn delete_one(&mut self, key: &[u8]) {
        let revision = self.next();
        let mut was_leased = false;
        let Store {
            index,
            past,
            deletions,
            ..
        } = &mut *self.store;
        index.alter(key, |found| {
            let history = found.expect("a key that is deleted has an entry in the index");
            was_leased = history
                .live()
                .expect("only a live key is deleted")
                .is_leased();
            history.push(past, Stamp::tombstone(revision));
            Change::Keep
        });
        deletions.push_back(Deletion {
            revision,
            key: key.into(),
        });
        if was_leased {
            self.leases.move_key(key, 0);
        }
        let (stored, Encoded { kv, key }) = record::encode_tombstone(key, revision.main);
        self.store.segments.append(revision, true, stored);
        self.events.push(Event {
            revision,
            kind: EventKind::Delete,
            is_creation: false,
            key,
            kv,
        });
    }

    fn next(&mut self) -> Revision {
        assert!(
            self.changes < SUB_MAX,
            "a transaction has at most {SUB_MAX} changes"
        );
        let revision = Revision {
            main: self.store.revision + 1,
            sub: i64::from(self.changes),
        };
        self.changes += 1;
        revision
    }
}
