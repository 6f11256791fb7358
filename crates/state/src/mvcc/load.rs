//! Building the key index at start, from what the segments' footers say, without reading a value.
//!
//! Descriptions come in revision order; the tree wants key order. They are collected flat, sorted by key and revision, and the tree is
//! built bottom up: a tenth of the time that one insertion after the other takes.

use std::collections::VecDeque;

use storage::fault::{Fault, FaultKind};
use storage::planted;
use storage::segments::{RecordMeta, Revision};

use super::Store;
use super::compaction::Deletion;
use super::history::{History, SUB_MAX, Stamp};
use super::past::{NONE, Queue};
use super::tree::{Builder, KEY_SIZE_MAX, Tree};
use crate::lease;

/// One description. Its key lies in the loader's buffer.
struct Item {
    key_start: u64,
    key_size: u32,
    /// The first bytes of the key as a number: most comparisons end here.
    head: u64,
    stamp: Stamp,
    lease: i64,
}

/// Collects descriptions.
#[derive(Default)]
pub(crate) struct Loader {
    keys: Vec<u8>,
    items: Vec<Item>,
    newest: Revision,
}

impl Loader {
    /// Takes the next description; revisions must grow.
    pub(crate) fn push(&mut self, meta: &RecordMeta<'_>) -> Result<(), Fault> {
        let Revision { main, sub } = meta.revision;
        if meta.revision <= self.newest
            || main < 1
            || !(0..=i64::from(SUB_MAX)).contains(&sub)
            || meta.key.len() > KEY_SIZE_MAX
        {
            return Err(contradiction(meta.revision, self.newest));
        }
        self.newest = meta.revision;
        let stamp = if meta.tombstone {
            Stamp::tombstone(meta.revision)
        } else {
            Stamp::put(
                meta.revision,
                meta.create_revision,
                meta.version,
                meta.lease != 0,
            )
        };
        self.items.push(Item {
            key_start: self.keys.len() as u64,
            key_size: meta.key.len() as u32,
            head: head(meta.key),
            stamp,
            lease: meta.lease,
        });
        self.keys.extend_from_slice(meta.key);
        Ok(())
    }

    /// Fills `store`'s index and attaches keys to leases. `compacted` is the last compaction the catalog knows.
    ///
    /// The revision is the newest of all that was seen: when everything was deleted and compacted, no record may be left to
    /// tell, and revisions must not go back (etcd #17780).
    pub(crate) fn finish(
        mut self,
        store: &mut Store,
        compacted: i64,
        leases: &mut lease::Table,
    ) -> Result<(), Fault> {
        self.sort();
        let places = self.past(&mut store.past);
        self.index(&places, &mut store.index, leases);
        store.deletions = self.deletions();
        store.revision = self.newest.main.max(compacted).max(1);
        if planted!(RevisionGoesBack) {
            let puts = self.items.iter().filter(|item| !item.stamp.is_tombstone());
            store.revision = puts.map(|put| put.stamp.main()).max().unwrap_or(1);
        }
        store.compacted = compacted;
        Ok(())
    }

    fn key(&self, item: &Item) -> &[u8] {
        &self.keys[item.key_start as usize..][..item.key_size as usize]
    }

    /// Whether two neighbours are versions of one key.
    fn are_one_key(&self, a: &Item, b: &Item) -> bool {
        a.head == b.head && self.key(a) == self.key(b)
    }

    /// By key, then by revision.
    fn sort(&mut self) {
        let mut items = std::mem::take(&mut self.items);
        items.sort_unstable_by(|a, b| {
            let by_key = a
                .head
                .cmp(&b.head)
                .then_with(|| self.key(a).cmp(self.key(b)));
            by_key.then_with(|| a.stamp.revision().cmp(&b.stamp.revision()))
        });
        self.items = items;
    }

    /// Queues all versions that have a successor, in the order of their successors, and returns the place of each item, none
    /// for the newest of each key.
    fn past(&self, past: &mut Queue) -> Vec<u64> {
        let pairs = self
            .items
            .windows(2)
            .enumerate()
            .filter(|(_, pair)| self.are_one_key(&pair[0], &pair[1]));
        let mut replaced: Vec<(Revision, usize)> = pairs
            .map(|(at, pair)| (pair[1].stamp.revision(), at))
            .collect();
        replaced.sort_unstable();
        let mut places = vec![NONE; self.items.len()];
        for (successor, at) in replaced {
            // The item before, if it is of the same key, was replaced by this one, so it has its place already.
            let older = at
                .checked_sub(1)
                .filter(|before| self.are_one_key(&self.items[*before], &self.items[at]));
            let older = older.map_or(NONE, |before| places[before]);
            places[at] = past.push(self.items[at].stamp, successor.main, older);
        }
        places
    }

    fn index(&self, places: &[u64], index: &mut Tree<History>, leases: &mut lease::Table) {
        let mut tree = Builder::new();
        for (at, item) in self.items.iter().enumerate() {
            if places[at] != NONE {
                continue;
            }
            let older = at
                .checked_sub(1)
                .filter(|before| self.are_one_key(&self.items[*before], item));
            let older = older.map_or(NONE, |before| places[before]);
            tree.push(self.key(item), History::restore(item.stamp, older));
            // A lease that is gone has taken its keys with it; one that is not known keeps nothing.
            if item.lease != 0 && leases.get(item.lease).is_some() {
                leases.move_key(self.key(item), item.lease);
            }
        }
        *index = tree.finish();
    }

    fn deletions(&self) -> VecDeque<Deletion> {
        let tombstones = self.items.iter().filter(|item| item.stamp.is_tombstone());
        let mut deletions: Vec<Deletion> = tombstones
            .map(|item| Deletion {
                revision: item.stamp.revision(),
                key: self.key(item).into(),
            })
            .collect();
        deletions.sort_unstable_by_key(|deletion| deletion.revision);
        deletions.into()
    }
}

fn head(key: &[u8]) -> u64 {
    let mut head = [0; 8];
    let size = key.len().min(8);
    head[..size].copy_from_slice(&key[..size]);
    u64::from_be_bytes(head)
}

fn contradiction(revision: Revision, before: Revision) -> Fault {
    Fault::new(
        FaultKind::Corrupted,
        format!(
            "the segments describe revision {revision} after {before}, which cannot be; the member cannot start. \
             Remove it from the cluster and add it again, or restore from a snapshot."
        ),
    )
}
