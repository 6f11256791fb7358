//! What is counted of each peer, under etcd's names.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::{Counter, Histogram};

/// What is counted of one peer.
#[derive(Debug)]
pub struct PeerMetrics {
    pub sent_bytes: Counter,
    pub received_bytes: Counter,
    pub sent_failures: Counter,
    pub received_failures: Counter,
    pub disconnected: Counter,
    pub round_trip: Histogram,
    pub snapshots_sent: Transfers,
    pub snapshots_received: Transfers,
}

/// Snapshots in one direction.
#[derive(Debug)]
pub struct Transfers {
    under_way: AtomicU64,
    pub succeeded: Counter,
    pub failed: Counter,
    pub took: Histogram,
}

impl Default for PeerMetrics {
    fn default() -> Self {
        PeerMetrics {
            sent_bytes: Counter::default(),
            received_bytes: Counter::default(),
            sent_failures: Counter::default(),
            received_failures: Counter::default(),
            disconnected: Counter::default(),
            round_trip: Histogram::new(0.0001, 16),
            snapshots_sent: Transfers::default(),
            snapshots_received: Transfers::default(),
        }
    }
}

impl Default for Transfers {
    fn default() -> Self {
        Transfers {
            under_way: AtomicU64::new(0),
            succeeded: Counter::default(),
            failed: Counter::default(),
            took: Histogram::new(0.1, 10),
        }
    }
}

impl Transfers {
    /// One more is under way, until what is returned is dropped.
    pub fn begin(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(self)
    }

    pub fn under_way(&self) -> u64 {
        self.under_way.load(Ordering::Relaxed)
    }
}

/// A snapshot on its way.
pub struct UnderWay<'a>(&'a Transfers);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
