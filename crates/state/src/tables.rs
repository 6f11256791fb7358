//! The small tables as etcd's buckets hold them: what changed since the last checkpoint, and every row for hashes and
//! snapshots.
//!
//! A row is set here when its subject changes (`lease`, `membership`, …); those modules own the meaning, this one the bytes.
//! Leases are many and have their rows made on demand from their own tree; only their changes are noted here.

use std::collections::BTreeMap;
use std::sync::Arc;

use storage::catalog::Table;

/// Rows of every table but that of leases.
pub(crate) type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// The rows, and the changes that no checkpoint holds yet.
#[derive(Default)]
pub(crate) struct Tables {
    /// Shared with views; copied at the first change after one was taken. These rows are few and change rarely.
    rows: Arc<Rows>,
    changed: BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>,
}

impl Tables {
    /// Puts back what was read from disk.
    pub(crate) fn restore(rows: Rows) -> Tables {
        Tables {
            rows: Arc::new(rows),
            changed: BTreeMap::new(),
        }
    }

    pub(crate) fn rows(&self) -> Arc<Rows> {
        Arc::clone(&self.rows)
    }

    /// Stores a row.
    pub(crate) fn set(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        let (key, value) = (key.into(), value.into());
        Arc::make_mut(&mut self.rows).insert((table, key.clone()), value.clone());
        self.changed.insert((table, key), Some(value));
    }

    /// Drops a row.
    pub(crate) fn remove(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        let key = key.into();
        Arc::make_mut(&mut self.rows).remove(&(table, key.clone()));
        self.changed.insert((table, key), None);
    }

    /// Notes the change of a row that is kept elsewhere.
    pub(crate) fn note(&mut self, table: Table, key: impl Into<Vec<u8>>, value: Option<Vec<u8>>) {
        self.changed.insert((table, key.into()), value);
    }

    /// Takes the changes since the last time, sorted by table and key, the last one of each row.
    pub(crate) fn take_changes(&mut self) -> Vec<(Table, Vec<u8>, Option<Vec<u8>>)> {
        let changed = std::mem::take(&mut self.changed);
        changed
            .into_iter()
            .map(|((table, key), value)| (table, key, value))
            .collect()
    }
}

/// Keys of the meta table.
pub(crate) mod meta {
    pub(crate) const CONSISTENT_INDEX: &[u8] = b"consistent_index";
    pub(crate) const TERM: &[u8] = b"term";
    pub(crate) const CONF_STATE: &[u8] = b"confState";
    pub(crate) const SCHEDULED_COMPACT_REV: &[u8] = b"scheduledCompactRev";
    pub(crate) const FINISHED_COMPACT_REV: &[u8] = b"finishedCompactRev";
    pub(crate) const STORAGE_VERSION: &[u8] = b"storageVersion";
}

/// Keys of the cluster table.
pub(crate) mod cluster {
    pub(crate) const CLUSTER_VERSION: &[u8] = b"clusterVersion";
    pub(crate) const DOWNGRADE: &[u8] = b"downgrade";
}

/// Keys of the auth table.
pub(crate) mod auth {
    pub(crate) const AUTH_ENABLED: &[u8] = b"authEnabled";
    pub(crate) const AUTH_REVISION: &[u8] = b"authRevision";
}
