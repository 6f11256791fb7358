//! What the member counts, under etcd's names.
//!
//! Whoever does something counts it here: plain atomics, no registry, nothing to look up on the way of a request. What
//! others know anyway (the published view, the raft status, the process) is read when the page is made: [`page`].
//!
//! Start with [`Metrics`]. Names and types: upstream's `/metrics`, odd types included (gauges called `_total`).

mod page;
mod peers;
mod process;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::Duration;

use prost::Message;
use proto::error::Code;
use proto::methods::{self, Kind};
use proto::mvccpb::KeyValue;
use replica::watch::Stats;
use state::{Event, EventKind};

pub use page::page;
pub use process::FileLimit;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts of durations by upper bounds.
#[derive(Debug)]
pub struct Histogram {
    /// Ascending, in seconds.
    bounds: Box<[f64]>,
    /// One for each bound, and one for what lies above the last.
    counts: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
}

impl Histogram {
    /// `count` bounds: `first`, twice that, and so on, in seconds.
    pub fn new(first: f64, count: usize) -> Self {
        let bounds = std::iter::successors(Some(first), |bound| Some(bound * 2.0));
        Histogram::with_bounds(&bounds.take(count).collect::<Vec<f64>>())
    }

    fn with_bounds(bounds: &[f64]) -> Self {
        Histogram {
            bounds: bounds.into(),
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum_ns: AtomicU64::new(0),
        }
    }

    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.iter().take_while(|bound| seconds > **bound);
        self.counts[bucket.count()].fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }
}

/// Bounds of the time that calls take. Source: the defaults of Prometheus' Go client.
const HANDLING_BOUNDS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// What is counted of one gRPC method. On cache lines of its own: other threads count other methods.
#[derive(Debug)]
#[repr(align(128))]
pub struct MethodMetrics {
    pub started: Counter,
    pub received: Counter,
    pub sent: Counter,
    /// By number of the code.
    handled: [Counter; Code::ALL.len()],
    /// How long calls took. Counted and shown with `--metrics=extensive` only.
    pub handling: Histogram,
}

impl MethodMetrics {
    fn new() -> Self {
        MethodMetrics {
            started: Counter::default(),
            received: Counter::default(),
            sent: Counter::default(),
            handled: std::array::from_fn(|_| Counter::default()),
            handling: Histogram::with_bounds(&HANDLING_BOUNDS),
        }
    }

    /// A call has ended.
    pub fn handled(&self, code: Code) {
        self.handled[usize::from(code.number())].inc();
    }
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    /// In the order of [`methods::ALL`].
    pub methods: Box<[MethodMetrics]>,
    pub grpc_received_bytes: Counter,
    pub grpc_sent_bytes: Counter,
    clients: Clients,

    /// etcd's `mvcc` counters of operations.
    pub ranges: Counter,
    /// Of ranges that failed, and of those that did not.
    pub range_durations: [Histogram; 2],
    pub puts: Counter,
    /// Bytes of their keys and values.
    pub put_bytes: Counter,
    pub deletes: Counter,
    pub txns: Counter,

    /// Proposals that were not answered by the log: refused, timed out, or without a leader.
    pub proposals_failed: Counter,
    pub read_indexes_failed: Counter,
    pub slow_applies: Counter,
    pub slow_read_indexes: Counter,
    pub heartbeat_send_failures: Counter,

    pub leases_granted: Counter,
    /// What clients asked for, in seconds.
    pub lease_ttls: Histogram,
    pub leases_revoked: Counter,
    pub leases_renewed: Counter,

    /// Learners that this member as leader made voters.
    pub learner_promotions: Counter,
    /// How often it refused to, by the reason.
    pub promotion_failures: Mutex<BTreeMap<&'static str, u64>>,

    pub health_success: Counter,
    pub health_failures: Counter,
    checks: Mutex<BTreeMap<(&'static str, &'static str), Check>>,
    /// Pages of metrics served.
    pub pages: Counter,

    /// Unix time in seconds at which the last compaction was done with.
    pub compaction_last: Gauge,

    pub wal_fsync: Histogram,
    pub wal_write: Histogram,
    pub wal_write_bytes: Counter,
    /// A checkpoint of the applied state, which is what comes closest to etcd's commit of its backend.
    pub backend_commit: Histogram,
    pub backend_defrag: Histogram,
    pub backend_snapshot: Histogram,
    pub hash: Histogram,
    pub hash_rev: Histogram,

    /// By hub.
    watch: Mutex<BTreeMap<usize, Stats>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let milliseconds = || Histogram::new(0.001, 14);
        Metrics {
            methods: methods::ALL.iter().map(|_| MethodMetrics::new()).collect(),
            grpc_received_bytes: Counter::default(),
            grpc_sent_bytes: Counter::default(),
            clients: Clients::default(),
            ranges: Counter::default(),
            range_durations: [(); 2].map(|()| Histogram::new(0.0001, 20)),
            puts: Counter::default(),
            put_bytes: Counter::default(),
            deletes: Counter::default(),
            txns: Counter::default(),
            proposals_failed: Counter::default(),
            read_indexes_failed: Counter::default(),
            slow_applies: Counter::default(),
            slow_read_indexes: Counter::default(),
            heartbeat_send_failures: Counter::default(),
            leases_granted: Counter::default(),
            lease_ttls: Histogram::new(1.0, 24),
            leases_revoked: Counter::default(),
            leases_renewed: Counter::default(),
            learner_promotions: Counter::default(),
            promotion_failures: Mutex::default(),
            health_success: Counter::default(),
            health_failures: Counter::default(),
            checks: Mutex::default(),
            pages: Counter::default(),
            compaction_last: Gauge::default(),
            wal_fsync: milliseconds(),
            wal_write: milliseconds(),
            wal_write_bytes: Counter::default(),
            backend_commit: milliseconds(),
            backend_defrag: Histogram::new(0.1, 13),
            backend_snapshot: Histogram::new(0.01, 17),
            hash: Histogram::new(0.01, 15),
            hash_rev: Histogram::new(0.01, 15),
            watch: Mutex::default(),
        }
    }
}

impl Metrics {
    /// Counts the changes of an applied batch. The apply thread calls it; the events are in order of revision.
    pub fn applied(&self, events: &[Event]) {
        let puts = events
            .iter()
            .filter(|event| event.kind == EventKind::Put)
            .count();
        let several = |pair: &&[Event]| pair[0].revision.main == pair[1].revision.main;
        // A transaction of n changes has n - 1 neighbours of one revision, the first of which has sub 0.
        let txns = events
            .windows(2)
            .filter(several)
            .filter(|pair| pair[0].revision.sub == 0)
            .count();
        let put_bytes = |event: &Event| {
            let value = KeyValue::decode(event.kv.clone()).map_or(0, |kv| kv.value.len());
            (event.key.len() + value) as u64
        };
        let puts_only = |event: &&Event| event.kind == EventKind::Put;
        self.put_bytes
            .add(events.iter().filter(puts_only).map(put_bytes).sum());
        self.puts.add(puts as u64);
        self.deletes.add((events.len() - puts) as u64);
        self.txns.add(txns as u64);
    }

    /// Notes why a learner was not promoted.
    pub fn promotion_failed(&self, why: &'static str) {
        let mut failures = self
            .promotion_failures
            .lock()
            .expect("no thread panics while it holds the failures");
        *failures.entry(why).or_default() += 1;
    }

    /// Notes how one of the checks of `/livez` or `/readyz` has come out.
    pub fn checked(&self, kind: &'static str, name: &'static str, is_well: bool) {
        let mut checks = self
            .checks
            .lock()
            .expect("no thread panics while it holds the checks");
        let check = checks.entry((kind, name)).or_default();
        check.is_well = is_well;
        if is_well {
            check.successes += 1;
        } else {
            check.errors += 1;
        }
    }

    /// Notes what a hub counts. Its thread calls this now and then.
    pub fn set_watch_stats(&self, hub: usize, stats: Stats) {
        self.watch
            .lock()
            .expect("no thread panics while it holds the watch counts")
            .insert(hub, stats);
    }

    /// The counts of all hubs together.
    pub fn watch_stats(&self) -> Stats {
        let hubs = self
            .watch
            .lock()
            .expect("no thread panics while it holds the watch counts");
        hubs.values().fold(Stats::default(), |sum, hub| Stats {
            streams: sum.streams + hub.streams,
            watchers: sum.watchers + hub.watchers,
            behind: sum.behind + hub.behind,
            outstanding_bytes: sum.outstanding_bytes + hub.outstanding_bytes,
            events: sum.events + hub.events,
            messages: sum.messages + hub.messages,
        })
    }

    /// Counts a call by the version its client says it speaks; `None` says nothing.
    pub fn client_request(&self, kind: Kind, version: Option<&str>) {
        self.clients.count(kind, version.unwrap_or("unknown"));
    }
}

/// How a health check came out.
#[derive(Clone, Copy, Debug, Default)]
struct Check {
    /// The last time.
    is_well: bool,
    successes: u64,
    errors: u64,
}

/// Distinct client versions that are told apart; clients choose the text, so there must be an end to it.
const CLIENT_VERSIONS_MAX: usize = 32;

/// Calls by what clients call themselves.
#[derive(Debug, Default)]
struct Clients(RwLock<Vec<(String, [Counter; 2])>>);

impl Clients {
    fn count(&self, kind: Kind, version: &str) {
        let column = usize::from(kind != Kind::Unary);
        {
            let versions = self
                .0
                .read()
                .expect("no thread panics while it holds the client versions");
            if let Some((_, counters)) = versions.iter().find(|(known, _)| known == version) {
                counters[column].inc();
                return;
            }
        }
        let mut versions = self
            .0
            .write()
            .expect("no thread panics while it holds the client versions");
        let version = if versions.len() < CLIENT_VERSIONS_MAX {
            version
        } else {
            "other"
        };
        let at = versions.iter().position(|(known, _)| known == version);
        let at = at.unwrap_or_else(|| {
            versions.push((version.to_owned(), Default::default()));
            versions.len() - 1
        });
        versions[at].1[column].inc();
    }

    fn all(&self) -> Vec<(String, [u64; 2])> {
        let versions = self
            .0
            .read()
            .expect("no thread panics while it holds the client versions");
        versions
            .iter()
            .map(|(version, counters)| (version.clone(), [counters[0].get(), counters[1].get()]))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::Revision;

    #[test]
    fn a_duration_counts_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::new(0.001, 3);
        for us in [1000, 1001, 4000, 4001, 9_000_000] {
            histogram.observe(Duration::from_micros(us));
        }
        let counts: Vec<u64> = histogram
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect();
        assert_eq!(counts, [1, 1, 1, 2]);
    }

    #[test]
    fn a_transaction_counts_once_whatever_it_changes() {
        let event = |main, sub, kind| Event {
            revision: Revision { main, sub },
            kind,
            is_creation: false,
            key: "k".into(),
            kv: KeyValue {
                key: "k".into(),
                value: "value".into(),
                ..Default::default()
            }
            .encode_to_vec()
            .into(),
        };
        let metrics = Metrics::default();
        metrics.applied(&[
            event(2, 0, EventKind::Put),
            event(3, 0, EventKind::Put),
            event(3, 1, EventKind::Delete),
            event(3, 2, EventKind::Put),
            event(4, 0, EventKind::Delete),
        ]);
        assert_eq!(metrics.puts.get(), 3);
        assert_eq!(metrics.put_bytes.get(), 3 * 6);
        assert_eq!(metrics.deletes.get(), 2);
        assert_eq!(metrics.txns.get(), 1);
    }

    #[test]
    fn clients_cannot_invent_more_than_so_many_versions() {
        let clients = Clients::default();
        for n in 0..1000 {
            clients.count(Kind::Unary, &n.to_string());
        }
        let all = clients.all();
        assert_eq!(all.len(), CLIENT_VERSIONS_MAX + 1);
        assert_eq!(all.iter().map(|(_, counts)| counts[0]).sum::<u64>(), 1000);
    }
}
