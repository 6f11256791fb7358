//! The suites of the side-by-side mode: which workloads, which numbers, and the bars they are held to.
//!
//! `figures` holds what Quorate promises in comparison with etcd 3.5; `core` is a wider look without bars.

use crate::load::Watched;
use crate::workload::{Report, Workload};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A number that is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Operations per second.
    Throughput,
    /// Watch events per second.
    EventThroughput,
    /// Watch events per second of the server's CPU time.
    EventsPerCpuSecond,
    /// The server's CPU time per operation.
    CpuPerOp,
    /// Median latency.
    LatencyP50,
    /// 99 % latency.
    LatencyP99,
    /// Median time from put to event.
    EventP50,
    /// 99 % time from put to event.
    EventP99,
    /// Longest latency.
    Stall,
    /// Resident memory.
    Memory,
    /// Resident memory that is not a file's.
    MemoryAnon,
    /// From the start of the process to the first linearizable read.
    Restart,
    /// Resident memory after that.
    MemoryRestarted,
    /// From the request to the answer of a compaction.
    Compaction,
    /// Longest time in which a cluster answered no write.
    Blocked,
    /// From the start of an empty member to its first linearizable read.
    InStep,
    /// CPU time of all members while nothing is asked.
    IdleCpu,
}

/// Whether more or less of a metric is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

impl Metric {
    /// What tables call it, with its unit.
    pub fn label(self) -> &'static str {
        match self {
            Metric::Throughput => "throughput, op/s",
            Metric::EventThroughput => "events/s",
            Metric::EventsPerCpuSecond => "events per CPU second",
            Metric::CpuPerOp => "server CPU, us/op",
            Metric::LatencyP50 => "latency p50, us",
            Metric::LatencyP99 => "latency p99, us",
            Metric::EventP50 => "event latency p50, us",
            Metric::EventP99 => "event latency p99, us",
            Metric::Stall => "longest stall, ms",
            Metric::Memory => "resident memory, MiB",
            Metric::MemoryAnon => "of it anonymous, MiB",
            Metric::Restart => "restart to ready, ms",
            Metric::MemoryRestarted => "resident after it, MiB",
            Metric::Compaction => "compaction, s",
            Metric::Blocked => "writes blocked, ms",
            Metric::InStep => "back in step, s",
            Metric::IdleCpu => "CPU, % of a core",
        }
    }

    /// Which direction is better.
    pub fn better(self) -> Better {
        match self {
            Metric::Throughput | Metric::EventThroughput | Metric::EventsPerCpuSecond => {
                Better::Higher
            }
            _ => Better::Lower,
        }
    }

    /// Whether two values of the same pair of runs belong together. How long an election takes is drawn anew each time: there the medians are compared.
    pub fn is_paired(self) -> bool {
        self != Metric::Blocked
    }

    /// The metric of a load's report, in the unit of [`Metric::label`]; `None` if the load does not have it.
    pub fn of(self, report: &Report) -> Option<f64> {
        let watched = report.events > 0;
        let latency = report.latency_us.as_ref();
        let events = report.event_latency_us.as_ref();
        match self {
            Metric::Throughput if !watched => Some(report.ops_per_s),
            Metric::EventThroughput if watched => Some(report.events_per_s),
            Metric::EventsPerCpuSecond if watched => report
                .server_cpu_s
                .filter(|cpu| *cpu > 0.0)
                .map(|cpu| report.events as f64 / cpu),
            Metric::CpuPerOp if !watched => report.server_cpu_us_per_op,
            Metric::LatencyP50 if !watched => latency.map(|q| q.p50),
            Metric::LatencyP99 if !watched => latency.map(|q| q.p99),
            Metric::EventP50 => events.map(|q| q.p50),
            Metric::EventP99 => events.map(|q| q.p99),
            Metric::Stall => latency.map(|q| q.max / 1e3),
            Metric::Memory => report.server_memory.map(|m| mib(m.rss)),
            Metric::MemoryAnon => report.server_memory.map(|m| mib(m.rss_anon)),
            _ => None,
        }
    }
}

/// Bytes as MiB.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A bound on the ratio of the second server to the first: at least it where more is better, at most it where less is.
pub type Bar = (Metric, f64);

/// One workload of a suite.
#[derive(Debug, Clone)]
pub struct Case {
    /// Short name, for `--only`.
    pub name: &'static str,
    /// What tables call it.
    pub title: &'static str,
    /// The workload.
    pub workload: Workload,
    /// Clients of the closed loop.
    pub clients: u32,
    /// Connections.
    pub connections: u32,
    /// The bars.
    pub bars: &'static [Bar],
}

/// Metrics of every case that has them.
pub const CASE_METRICS: [Metric; 9] = [
    Metric::Throughput,
    Metric::EventThroughput,
    Metric::EventsPerCpuSecond,
    Metric::CpuPerOp,
    Metric::LatencyP50,
    Metric::LatencyP99,
    Metric::EventP50,
    Metric::EventP99,
    Metric::Memory,
];

/// Name and title of the part with a million keys: memory, restart, compaction.
pub const MILLION: [(&str, &str, &[Bar]); 3] = [
    (
        "memory",
        "1 million keys (64 B key, 256 B value)",
        &[(Metric::Memory, 0.5)],
    ),
    ("restart", "restart with those", &[(Metric::Restart, 0.5)]),
    (
        "compaction",
        "compacting 1 million revisions under 500 put/s",
        &[(Metric::Stall, 1.0 / 3.0)],
    ),
];

/// A named set of measurements.
#[derive(Debug, Clone)]
pub struct Suite {
    /// Run on one store filled with [`Sizes::keys`].
    pub cases: Vec<Case>,
    /// Whether [`MILLION`] belongs to it.
    pub million: bool,
}

/// How large and how long.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Keys of the cases.
    pub keys: u64,
    /// Bytes of their keys.
    pub key_bytes: usize,
    /// Measured time of a case.
    pub measure: Duration,
    /// Time before it.
    pub warmup: Duration,
    /// Keys of the million.
    pub million: u64,
    /// Rest after filling, before memory is read.
    pub settle: Duration,
    /// The compaction's load begins this long before it and ends this long after it.
    pub around: Duration,
    /// How often the leader of a cluster is killed.
    pub kills: usize,
    /// How often it is stopped.
    pub stops: usize,
}

impl Sizes {
    /// What the figures are stated for.
    pub const FULL: Sizes = Sizes {
        keys: 100_000,
        key_bytes: 32,
        measure: Duration::from_secs(5),
        warmup: Duration::from_secs(1),
        million: 1_000_000,
        settle: Duration::from_secs(10),
        around: Duration::from_secs(3),
        kills: 20,
        stops: 10,
    };
    /// Enough to see that everything works.
    pub const QUICK: Sizes = Sizes {
        keys: 5_000,
        key_bytes: 32,
        measure: Duration::from_millis(700),
        warmup: Duration::from_millis(200),
        million: 10_000,
        settle: Duration::from_millis(500),
        around: Duration::from_millis(500),
        kills: 2,
        stops: 2,
    };
}

/// The names of the suites.
pub const SUITES: [&str; 2] = ["figures", "core"];

/// The suite of this name.
pub fn suite(name: &str) -> Option<Suite> {
    match name {
        "figures" => Some(Suite {
            cases: figures(),
            million: true,
        }),
        "core" => Some(Suite {
            cases: core(),
            million: false,
        }),
        _ => None,
    }
}

const WATCH_PREFIX: Workload = Workload::Watch {
    watchers: 100,
    connections: 10,
    watched: Watched::Prefix,
};

fn figures() -> Vec<Case> {
    let range = Workload::Range {
        serializable: false,
    };
    vec![
        Case {
            name: "put",
            title: "put, 256 B, 1000 clients, 100 connections",
            workload: Workload::Put,
            clients: 1000,
            connections: 100,
            bars: &[(Metric::Throughput, 2.0), (Metric::CpuPerOp, 0.5)],
        },
        Case {
            name: "put-1",
            title: "put, 256 B, 1 client",
            workload: Workload::Put,
            clients: 1,
            connections: 1,
            bars: &[(Metric::LatencyP50, 0.8)],
        },
        Case {
            name: "range",
            title: "linearizable range of one key, 1000 clients",
            workload: range,
            clients: 1000,
            connections: 100,
            bars: &[(Metric::Throughput, 2.0), (Metric::CpuPerOp, 0.5)],
        },
        Case {
            name: "range-1000",
            title: "range of 1000 keys x 256 B",
            workload: Workload::RangePrefix {
                serializable: false,
            },
            clients: 16,
            connections: 4,
            bars: &[(Metric::CpuPerOp, 1.0 / 3.0)],
        },
        Case {
            name: "watch",
            title: "100 watchers on one prefix",
            workload: WATCH_PREFIX,
            clients: 32,
            connections: 2,
            bars: &[(Metric::EventsPerCpuSecond, 3.0)],
        },
    ]
}

fn core() -> Vec<Case> {
    let case = |name, title, workload, clients, connections| Case {
        name,
        title,
        workload,
        clients,
        connections,
        bars: &[],
    };
    vec![
        case("put-1", "put, 1 client", Workload::Put, 1, 1),
        case("put-64", "put, 64 clients", Workload::Put, 64, 4),
        case("put-1000", "put, 1000 clients", Workload::Put, 1000, 100),
        case(
            "range-1",
            "linearizable range, 1 client",
            Workload::Range {
                serializable: false,
            },
            1,
            1,
        ),
        case(
            "range-64",
            "linearizable range, 64 clients",
            Workload::Range {
                serializable: false,
            },
            64,
            4,
        ),
        case(
            "range-serializable-64",
            "serializable range, 64 clients",
            Workload::Range { serializable: true },
            64,
            4,
        ),
        case(
            "range-1000",
            "range of 1000 keys, 16 clients",
            Workload::RangePrefix {
                serializable: false,
            },
            16,
            4,
        ),
        case(
            "txn-64",
            "Kubernetes update, 64 clients",
            Workload::Txn,
            64,
            4,
        ),
        case(
            "mixed-64",
            "90 % reads, 64 clients",
            Workload::Mixed { read_percent: 90 },
            64,
            4,
        ),
        case("watch", "100 watchers on one prefix", WATCH_PREFIX, 32, 2),
        case(
            "watch-own",
            "1000 watchers, each its own key",
            Workload::Watch {
                watchers: 1000,
                connections: 10,
                watched: Watched::OwnKey,
            },
            32,
            2,
        ),
        case(
            "lease-grant",
            "lease grant, 64 clients",
            Workload::LeaseGrant { ttl_s: 600 },
            64,
            4,
        ),
        case(
            "lease-keepalive",
            "lease keepalive, 64 clients",
            Workload::LeaseKeepAlive { leases: 1000 },
            64,
            4,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_belongs_to_a_metric_its_case_measures() {
        for name in SUITES {
            for case in suite(name).unwrap().cases {
                let watched = matches!(case.workload, Workload::Watch { .. });
                for (metric, _) in case.bars {
                    assert!(CASE_METRICS.contains(metric), "{}: {metric:?}", case.name);
                    assert_eq!(
                        *metric == Metric::EventsPerCpuSecond,
                        watched,
                        "{}: {metric:?}",
                        case.name
                    );
                }
            }
        }
        assert!(suite("none").is_none());
    }

    #[test]
    fn bars_lie_on_the_better_side() {
        let figures = suite("figures").unwrap();
        let bars = figures
            .cases
            .iter()
            .flat_map(|c| c.bars)
            .chain(MILLION.iter().flat_map(|m| m.2))
            .chain(crate::members::FIGURES.iter().flat_map(|f| f.bars));
        assert_eq!(bars.clone().count(), 17);
        for (metric, bar) in bars {
            assert_eq!(
                *bar > 1.0,
                metric.better() == Better::Higher,
                "{metric:?} {bar}"
            );
        }
    }
}
