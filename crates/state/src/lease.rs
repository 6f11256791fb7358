//! Leases as the cluster agrees on them: ids, TTLs and the keys attached.
//!
//! This module never looks at a clock. Expiry is a duty of the leader, which proposes a revoke; here a lease simply exists
//! until an entry says otherwise.
//!
//! Everything but the way from a key to its lease lies in persistent trees, so that a [`View`] is made in O(1).
//! Start with [`Table::grant`]. Source of the rules: upstream `server/lease/lessor.go`.

use std::collections::BTreeMap;

use proto::error;
use proto::leasepb;

use crate::mvcc::tree::{End, Tree, Weight};
use crate::outcome::Rejected;

/// Longest TTL in seconds that can be granted.
pub const TTL_MAX_S: i64 = 9_000_000_000;

/// One lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Granted TTL in seconds.
    pub ttl_s: i64,
    /// Seconds left at the leader's last checkpoint; 0 if there was none since the last renewal.
    pub remaining_s: i64,
}

impl Weight for Lease {
    fn weight(&self) -> u64 {
        1
    }
}

/// A key attached to a lease; the tree's key says which.
#[derive(Clone, Copy, Debug)]
struct Attached;

impl Weight for Attached {
    fn weight(&self) -> u64 {
        1
    }
}

/// Leases and their keys at one moment. A clone costs nothing and never changes.
#[derive(Clone, Default)]
pub struct View {
    /// Lease id (8 bytes, big endian) → lease.
    leases: Tree<Lease>,
    /// Lease id (8 bytes, big endian) followed by the key.
    attached: Tree<Attached>,
}

impl View {
    /// The lease `id`, if it exists.
    #[must_use]
    pub fn get(&self, id: i64) -> Option<Lease> {
        self.leases.get(&row_key(id)).copied()
    }

    /// Number of leases.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.leases.len()
    }

    /// All leases by ascending id, taken as unsigned.
    #[must_use]
    pub fn all(&self) -> Vec<(i64, Lease)> {
        let mut leases = Vec::new();
        let mut cursor = self.leases.range(&[], End::Unbounded);
        while let Some((key, lease)) = cursor.next() {
            leases.push((id_of(key), *lease));
        }
        leases
    }

    /// The keys attached to lease `id`, in order; none if the lease does not exist.
    #[must_use]
    pub fn keys(&self, id: i64) -> Vec<Vec<u8>> {
        let prefix = row_key(id);
        let mut keys = Vec::new();
        let mut cursor = self.attached.range(&prefix, End::Unbounded);
        while let Some((key, _)) = cursor.next() {
            match key.strip_prefix(&prefix) {
                Some(key) => keys.push(key.to_vec()),
                None => break,
            }
        }
        keys
    }
}

/// The leases, owned by the apply worker.
#[derive(Default)]
pub(crate) struct Table {
    view: View,
    /// Key → its lease.
    owners: BTreeMap<Box<[u8]>, i64>,
}

impl Table {
    pub(crate) fn view(&self) -> View {
        self.view.clone()
    }

    /// As it is now, without a copy.
    pub(crate) fn as_view(&self) -> &View {
        &self.view
    }

    pub(crate) fn get(&self, id: i64) -> Option<Lease> {
        self.view.get(id)
    }

    pub(crate) fn keys(&self, id: i64) -> Vec<Vec<u8>> {
        self.view.keys(id)
    }

    /// Makes a lease, its TTL raised to `ttl_min_s`. Id 0 is answered like a lease that does not exist, as in etcd: the id is
    /// chosen before the request is proposed.
    pub(crate) fn grant(&mut self, id: i64, ttl_s: i64, ttl_min_s: i64) -> Result<Lease, Rejected> {
        if id == 0 {
            return Err(Rejected(&error::LEASE_NOT_FOUND));
        }
        if ttl_s > TTL_MAX_S {
            return Err(Rejected(&error::LEASE_TTL_TOO_LARGE));
        }
        if self.get(id).is_some() {
            return Err(Rejected(&error::LEASE_EXIST));
        }
        let lease = Lease {
            ttl_s: ttl_s.max(ttl_min_s),
            remaining_s: 0,
        };
        self.view.leases.insert(&row_key(id), lease);
        Ok(lease)
    }

    /// Forgets a lease, whose keys must be detached or deleted before.
    pub(crate) fn remove(&mut self, id: i64) {
        assert!(
            self.keys(id).is_empty(),
            "lease {id:016x} is removed while keys are attached"
        );
        let removed = self.view.leases.remove(&row_key(id));
        assert!(
            removed.is_some(),
            "lease {id:016x} is removed, but does not exist"
        );
    }

    /// Notes how long the lease had left. `None` if there is no such lease.
    pub(crate) fn checkpoint(&mut self, id: i64, remaining_s: i64) -> Option<Lease> {
        let lease = Lease {
            remaining_s,
            ..self.get(id)?
        };
        self.view.leases.insert(&row_key(id), lease);
        Some(lease)
    }

    /// Attaches `key` to lease `id`, which exists, and detaches it from any other; 0 only detaches.
    pub(crate) fn move_key(&mut self, key: &[u8], id: i64) {
        let before = self.owners.get(key).copied().unwrap_or(0);
        if before == id {
            return;
        }
        if before != 0 {
            self.view.attached.remove(&attached_key(before, key));
        }
        if id == 0 {
            self.owners.remove(key);
        } else {
            assert!(
                self.get(id).is_some(),
                "a key is attached to lease {id:016x}, which does not exist"
            );
            self.view.attached.insert(&attached_key(id, key), Attached);
            self.owners.insert(key.into(), id);
        }
    }

    /// Puts back a lease read from disk.
    pub(crate) fn restore(&mut self, id: i64, lease: Lease) {
        self.view.leases.insert(&row_key(id), lease);
    }
}

/// The key of a lease in its table and in etcd's bucket.
pub(crate) fn row_key(id: i64) -> [u8; 8] {
    id.to_be_bytes()
}

/// The id a table row is about; the key must be 8 bytes long.
pub(crate) fn id_of(key: &[u8]) -> i64 {
    i64::from_be_bytes(key.try_into().expect("a lease id has 8 bytes"))
}

/// What the table row of a lease holds.
pub(crate) fn row_of(id: i64, lease: Lease) -> leasepb::Lease {
    leasepb::Lease {
        id,
        ttl: lease.ttl_s,
        remaining_ttl: lease.remaining_s,
    }
}

fn attached_key(id: i64, key: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(8 + key.len());
    joined.extend_from_slice(&row_key(id));
    joined.extend_from_slice(key);
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_refused_in_etcds_order() {
        let mut table = Table::default();
        let text = |result: Result<Lease, Rejected>| result.map_err(|rejected| rejected.0.text);
        assert_eq!(
            text(table.grant(0, TTL_MAX_S + 1, 2)),
            Err(error::LEASE_NOT_FOUND.text)
        );
        assert_eq!(text(table.grant(7, -5, 2)).map(|lease| lease.ttl_s), Ok(2));
        assert_eq!(
            text(table.grant(7, TTL_MAX_S + 1, 2)),
            Err(error::LEASE_TTL_TOO_LARGE.text)
        );
        assert_eq!(
            text(table.grant(7, TTL_MAX_S, 2)),
            Err(error::LEASE_EXIST.text)
        );
    }

    #[test]
    fn a_key_belongs_to_the_lease_it_was_last_put_with() {
        let mut table = Table::default();
        table.grant(1, 10, 2).expect("a new lease");
        table.grant(-1, 10, 2).expect("a new lease");
        table.move_key(b"b", 1);
        table.move_key(b"a", 1);
        table.move_key(b"b", -1);
        let before = table.view();
        table.move_key(b"a", 0);
        assert_eq!(
            (table.keys(1), table.keys(-1)),
            (vec![], vec![b"b".to_vec()])
        );
        assert_eq!(before.keys(1), [b"a"], "a view does not change");
    }
}
