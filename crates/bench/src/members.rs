//! Two clusters side by side: what several members promise together.
//!
//! Both clusters live at the same time, and the one that is not measured is paused; only the part with a million keys gets fresh ones, one after the other.
//! What hangs on chance, as an election does, is repeated, and the medians are compared; what does not is compared pair by pair, as for single servers.

use crate::cluster::Cluster;
use crate::compare::{Row, Run, Settings, order, say};
use crate::engine::{self, Moment, Until};
use crate::figures::{Bar, Metric};
use crate::load::keys::Keyspace;
use crate::workload::{self, Options, Report, Workload};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

/// Bytes of every value.
const VALUE_BYTES: usize = 256;
/// Bytes of the keys of the million.
const MILLION_KEY_BYTES: usize = 64;
/// Clients of the loads that go as fast as they can, and connections per member that they share.
const CLIENTS: u32 = 1000;
const CONNECTIONS_EACH: u32 = 33;
/// Puts per second of the probe: a gap is known to within two milliseconds.
const PROBE_RATE: f64 = 500.0;
const PROBE_CONNECTIONS_EACH: u32 = 2;
/// The probe writes this long before the event and after writes have come back.
const AROUND: Duration = Duration::from_millis(500);
/// Ends of the leader in a row on one side, before the other has its turn: each turn costs a pause.
const ENDS_PER_TURN: usize = 5;

/// One thing that is measured.
pub struct Figure {
    /// Short name, for `--only`.
    pub name: &'static str,
    /// What tables call it.
    pub title: &'static str,
    /// Bounds of the ratio.
    pub bars: &'static [Bar],
    /// Bounds of the second cluster's own value.
    pub limits: &'static [Bar],
}

/// All of them, in the order in which they are run.
pub const FIGURES: [Figure; 6] = [
    Figure {
        name: "put",
        title: "put, 256 B, 1000 clients over all members",
        bars: &[(Metric::Throughput, 2.0), (Metric::CpuPerOp, 0.5)],
        limits: &[],
    },
    Figure {
        name: "follower",
        title: "linearizable get through a follower, 1000 clients",
        bars: &[(Metric::Throughput, 2.0)],
        limits: &[],
    },
    Figure {
        name: "idle",
        title: "at rest",
        bars: &[(Metric::IdleCpu, 0.5)],
        limits: &[],
    },
    Figure {
        name: "kill",
        title: "kill -9 of the leader",
        bars: &[(Metric::Blocked, 1.0)],
        limits: &[(Metric::Blocked, 1_500.0)],
    },
    Figure {
        name: "stop",
        title: "graceful stop of the leader",
        bars: &[],
        limits: &[(Metric::Blocked, 100.0)],
    },
    Figure {
        name: "wiped",
        title: "a wiped member of 1 million keys, under 500 put/s",
        bars: &[(Metric::InStep, 0.5), (Metric::Stall, 0.5)],
        limits: &[],
    },
];

/// How a leader ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Kill,
    Stop,
}

/// Measures the figures that are wanted.
pub(crate) fn run(run: &mut Run<'_>, settings: &Settings) -> Result<Vec<Row>> {
    let wanted = |name: &str| settings.only.is_empty() || settings.only.iter().any(|o| o == name);
    let chosen: Vec<&Figure> = FIGURES.iter().filter(|f| wanted(f.name)).collect();
    ensure!(
        !chosen.is_empty(),
        "--only names nothing of {}",
        FIGURES.map(|f| f.name).join(", ")
    );
    if chosen.iter().any(|f| f.name != "wiped") {
        let mut pair = Pair::found(settings)?;
        for repeat in 0..settings.repeats {
            for side in order(repeat) {
                for (name, workload) in [
                    ("put", Workload::Put),
                    (
                        "follower",
                        Workload::Range {
                            serializable: false,
                        },
                    ),
                ] {
                    if wanted(name) {
                        pair.load(run, side, name, workload)?;
                    }
                }
                if wanted("idle") {
                    pair.idle(run, side)?;
                }
            }
        }
        for (name, end) in [("kill", End::Kill), ("stop", End::Stop)] {
            if wanted(name) {
                pair.ends(run, name, end)?;
            }
        }
    }
    if wanted("wiped") {
        for repeat in 0..settings.million_repeats {
            for side in order(repeat) {
                wiped(run, settings, side)?;
            }
        }
    }
    Ok(run.rows(chosen.iter().map(|f| (f.name, f.title, f.bars, f.limits))))
}

/// Two clusters of which one at a time may run.
struct Pair<'a> {
    settings: &'a Settings,
    clusters: Vec<Cluster>,
}

impl Pair<'_> {
    fn found(settings: &Settings) -> Result<Pair<'_>> {
        let sizes = settings.sizes;
        let mut clusters = Vec::new();
        for spec in &settings.servers {
            let mut cluster = Cluster::found(spec, &settings.dir, settings.members)?;
            say(&format!("{}: filling {} keys", spec.name, sizes.keys));
            workload::fill(&options(settings, &cluster, sizes.keys, sizes.key_bytes))?;
            cluster.pause()?;
            clusters.push(cluster);
        }
        Ok(Pair { settings, clusters })
    }

    fn name(&self, side: usize) -> &str {
        &self.settings.servers[side].name
    }

    /// As fast as 1000 clients can.
    fn load(
        &mut self,
        run: &mut Run<'_>,
        side: usize,
        name: &'static str,
        workload: Workload,
    ) -> Result<()> {
        let sizes = self.settings.sizes;
        let cluster = &mut self.clusters[side];
        cluster.resume()?;
        let target = match workload {
            Workload::Put => cluster.target(),
            _ => cluster.target_of(cluster.follower()?),
        };
        let options = Options {
            clients: CLIENTS,
            connections: CONNECTIONS_EACH * self.settings.members as u32,
            target,
            // The keys are there, and a member that is asked without having caught up says so.
            fill: workload != Workload::Put,
            ..options(self.settings, cluster, sizes.keys, sizes.key_bytes)
        };
        let report = workload::run(workload, &options);
        cluster.pause()?;
        let report = report.with_context(|| format!("{}: {name}", self.name(side)))?;
        say(&format!(
            "{} {name}: {:.0}/s, {:.1} us CPU of all members each, p99 {:.1} ms, generator {:.2} us",
            self.name(side),
            report.ops_per_s,
            report.server_cpu_us_per_op.unwrap_or(0.0),
            report.latency_us.map_or(0.0, |q| q.p99 / 1e3),
            report.generator_cpu_us_per_op
        ));
        run.note_errors(name, side, &report);
        run.others.extend(report.others_cores);
        for metric in [
            Metric::Throughput,
            Metric::CpuPerOp,
            Metric::LatencyP50,
            Metric::LatencyP99,
        ] {
            if let Some(value) = metric.of(&report) {
                run.sample(name, metric, side, value);
            }
        }
        Ok(())
    }

    fn idle(&mut self, run: &mut Run<'_>, side: usize) -> Result<()> {
        self.clusters[side].resume()?;
        std::thread::sleep(self.settings.sizes.settle / 5);
        let percent = self.clusters[side].cpu_percent(self.settings.sizes.measure * 2);
        self.clusters[side].pause()?;
        let percent = percent?;
        say(&format!(
            "{} idle: {percent:.2} % of a core",
            self.name(side)
        ));
        run.sample("idle", Metric::IdleCpu, side, percent);
        Ok(())
    }

    /// Ends the leader again and again, the two sides in turn.
    fn ends(&mut self, run: &mut Run<'_>, name: &'static str, end: End) -> Result<()> {
        let count = match end {
            End::Kill => self.settings.sizes.kills,
            End::Stop => self.settings.sizes.stops,
        };
        let mut done = 0;
        for turn in 0.. {
            let now = ENDS_PER_TURN.min(count - done);
            if now == 0 {
                break;
            }
            for side in order(turn) {
                self.clusters[side].resume()?;
                for _ in 0..now {
                    let blocked = self.end_leader(side, end).with_context(|| {
                        format!(
                            "{}: {end:?} of the leader",
                            self.settings.servers[side].name
                        )
                    })?;
                    say(&format!(
                        "{} {name}: {blocked:.0} ms without a write",
                        self.name(side)
                    ));
                    run.sample(name, Metric::Blocked, side, blocked);
                }
                self.clusters[side].pause()?;
            }
            done += now;
        }
        Ok(())
    }

    /// Ends the leader under the probe and starts it again. The longest time in which no write was answered, in ms.
    fn end_leader(&mut self, side: usize, end: End) -> Result<f64> {
        let sizes = self.settings.sizes;
        let cluster = &mut self.clusters[side];
        let leader = cluster.agreed_leader()?;
        let survivors = cluster.target_without(Some(leader));
        let options = Options {
            connections: PROBE_CONNECTIONS_EACH * survivors.endpoints.len() as u32,
            target: survivors,
            ..options(self.settings, cluster, sizes.keys, sizes.key_bytes)
        };
        let report = probe(&options, || {
            match end {
                End::Kill => cluster.kill(leader)?,
                End::Stop => cluster.stop(leader)?,
            }
            cluster.wait_writes(Some(leader))
        })?;
        cluster.start_again(leader)?;
        ensure!(report.ops > 0, "the probe has not written anything");
        Ok(report.gap_ms_max)
    }
}

/// A million keys on a fresh cluster; one follower loses its disk and is replaced under load.
fn wiped(run: &mut Run<'_>, settings: &Settings, side: usize) -> Result<()> {
    let (sizes, spec) = (settings.sizes, &settings.servers[side]);
    let mut cluster = Cluster::found(spec, &settings.dir, settings.members)?;
    say(&format!("{}: filling {} keys", spec.name, sizes.million));
    let begin = Instant::now();
    workload::fill(&options(
        settings,
        &cluster,
        sizes.million,
        MILLION_KEY_BYTES,
    ))?;
    say(&format!(
        "{}: filled in {:.0} s",
        spec.name,
        begin.elapsed().as_secs_f64()
    ));
    std::thread::sleep(sizes.settle);
    let victim = cluster.follower()?;
    let others = cluster.target_without(Some(victim));
    let options = Options {
        connections: PROBE_CONNECTIONS_EACH * others.endpoints.len() as u32,
        target: others,
        ..options(settings, &cluster, sizes.million, MILLION_KEY_BYTES)
    };
    let mut replaced = None;
    let report = probe(&options, || {
        std::thread::sleep(sizes.around);
        replaced = Some(cluster.replace(victim)?);
        std::thread::sleep(sizes.around);
        Ok(())
    })
    .with_context(|| format!("{}: replacing a member", spec.name))?;
    let in_step = replaced.map_or(0.0, |r| r.in_step.as_secs_f64());
    run.note_errors("wiped", side, &report);
    run.sample("wiped", Metric::InStep, side, in_step);
    let stall = Metric::Stall.of(&report).unwrap_or(0.0);
    say(&format!(
        "{}: back in step after {in_step:.2} s, longest put {stall:.1} ms",
        spec.name
    ));
    for metric in [Metric::Stall, Metric::LatencyP99] {
        if let Some(value) = metric.of(&report) {
            run.sample("wiped", metric, side, value);
        }
    }
    Ok(())
}

/// Puts at a steady rate, whatever the answers do, while something happens. Puts that were lost with a leader are not waited for.
fn probe(options: &Options, event: impl FnOnce() -> Result<()>) -> Result<Report> {
    let options = Options {
        rate: Some(PROBE_RATE),
        clients: 0,
        warmup: Duration::ZERO,
        ..options.clone()
    };
    let plan = engine::Plan {
        until: Until::Told,
        drain: Duration::from_millis(100),
        ..workload::plan(Workload::Put, &options)?
    };
    let mut event = Some(event);
    let mut happened = Ok(());
    let outcomes = engine::run(plan, |moment| {
        if let (Moment::Begin, Some(event)) = (moment, event.take()) {
            std::thread::sleep(AROUND);
            happened = event();
            std::thread::sleep(AROUND);
        }
    })?;
    happened?;
    Ok(workload::report(&outcomes))
}

fn options(settings: &Settings, cluster: &Cluster, keys: u64, key_bytes: usize) -> Options {
    Options {
        target: cluster.target(),
        clients: 1,
        connections: 1,
        threads: settings.threads,
        rate: None,
        warmup: settings.sizes.warmup,
        measure: settings.sizes.measure,
        keys: Keyspace {
            count: keys,
            key_bytes,
        },
        value_bytes: VALUE_BYTES,
        seed: 1,
        pids: cluster.pids(),
        fill: true,
    }
}
