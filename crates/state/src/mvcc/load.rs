//! Building the key index at start, from what the segments' footers say, without reading a value.
//!
//! Descriptions come in revision order; the tree wants key order. They are collected flat, sorted by key and revision, and the tree is
//! built bottom up: a tenth of the time that one insertion after the other takes.

use storage::fault::{Fault, FaultKind};
use storage::segments::{RecordMeta, Revision};

use super::Store;
use super::history::{History, SUB_MAX, Stamp};
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

    /// Fills `store`'s index and attaches keys to leases. `compacted` and `scheduled` are the compactions the catalog knows.
    ///
    /// The revision is the newest of all that was seen: when everything was deleted and compacted, no record may be left to
    /// tell, and revisions must not go back (etcd #17780).
    pub(crate) fn finish(
        mut self,
        store: &mut Store,
        compacted: i64,
        leases: &mut lease::Table,
    ) -> Result<(), Fault> {
        store.index = self.index(leases);
        store.revision = self.newest.main.max(compacted).max(1);
        store.compacted = compacted;
        if compacted >= 0 {
            store.start_sweep();
        }
        Ok(())
    }

    fn index(&mut self, leases: &mut lease::Table) -> Tree<History> {
        let keys = &self.keys;
        let key = |item: &Item| &keys[item.key_start as usize..][..item.key_size as usize];
        self.items.sort_unstable_by(|a, b| {
            let by_key = a.head.cmp(&b.head).then_with(|| key(a).cmp(key(b)));
            by_key.then_with(|| a.stamp.revision().cmp(&b.stamp.revision()))
        });
        let mut tree = Builder::new();
        for versions in self
            .items
            .chunk_by(|a, b| a.head == b.head && key(a) == key(b))
        {
            let (first, rest) = versions
                .split_first()
                .expect("a chunk has at least one item");
            let mut history = History::new(first.stamp);
            rest.iter().for_each(|item| history.push(item.stamp));
            let newest = rest.last().unwrap_or(first);
            // A lease that is gone has taken its keys with it; one that is not known keeps nothing.
            if newest.lease != 0 && leases.get(newest.lease).is_some() {
                leases.move_key(key(newest), newest.lease);
            }
            tree.push(key(first), history);
        }
        tree.finish()
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
