//! Two servers side by side: the same suite on both, in turn, on the same machine; ratios of what was measured.
//!
//! Machines drift: a ratio is only worth something if both servers saw the same minutes. So each workload runs on A, then on B, and again, `repeats` times, and
//! the ratio is the median of the ratios of such pairs. Whoever is not measured is paused, so that its background work is neither a gift nor a burden to
//! the other.

use crate::engine::{self, Moment, Until};
use crate::figures::{self, Bar, Better, CASE_METRICS, Case, MILLION, Metric, Sizes, mib};
use crate::load::keys::Keyspace;
use crate::load::messages;
use crate::members;
use crate::procfs;
use crate::servers::{Server, Spec};
use crate::transport::http2::Method;
use crate::workload::{self, Options, Report, Workload};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Bytes of every value.
const VALUE_BYTES: usize = 256;
/// Bytes of the keys of the million.
const MILLION_KEY_BYTES: usize = 64;
/// Puts per second while compacting.
const COMPACTION_RATE: f64 = 500.0;
/// Restarts of which the median counts.
const RESTARTS: usize = 3;

/// What to compare and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The servers, A and B.
    pub servers: [Spec; 2],
    /// A name of [`figures::SUITES`]; not looked at for clusters.
    pub suite: String,
    /// Members of each side. With more than one, [`members`] says what is measured.
    pub members: usize,
    /// Only the cases of these names; all if empty.
    pub only: Vec<String>,
    /// Pairs of runs of each case.
    pub repeats: usize,
    /// Pairs of runs of the part with a million keys.
    pub million_repeats: usize,
    /// How large and how long.
    pub sizes: Sizes,
    /// Where the data directories are made.
    pub dir: PathBuf,
    /// Generator threads.
    pub threads: usize,
}

/// The result of a comparison.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Comparison {
    /// Name and command of A and B.
    pub servers: [(String, String); 2],
    /// The suite.
    pub suite: String,
    /// Cores, kernel and file system it was measured on.
    pub machine: String,
    /// Whether the sizes were the small ones, whose numbers mean little.
    pub quick: bool,
    /// One per case and metric.
    pub rows: Vec<Row>,
    /// Cores that neither the servers nor the generator used: median and maximum of the runs.
    pub others_cores: [f64; 2],
    /// Everything that did not go as it should.
    pub notes: Vec<String>,
}

/// One metric of one case.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// Short name of the case.
    pub case: String,
    /// Title of the case.
    pub title: String,
    /// The metric.
    pub metric: Metric,
    /// Values of A and B, in the order of the pairs.
    pub values: [Vec<f64>; 2],
    /// The bound of the ratio, if it has one.
    pub bar: Option<f64>,
    /// The bound of B's own median, if it has one.
    #[serde(default)]
    pub limit: Option<f64>,
}

impl Row {
    /// Median of A or B.
    pub fn median(&self, side: usize) -> f64 {
        median(&self.values[side])
    }

    /// B / A of each pair, in ascending order.
    pub fn ratios(&self) -> Vec<f64> {
        let mut ratios: Vec<f64> = self.values[0]
            .iter()
            .zip(&self.values[1])
            .filter(|(a, _)| **a > 0.0)
            .map(|(a, b)| b / a)
            .collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    /// B / A: the median of the pairs' ratios, or the ratio of the medians where pairs mean nothing. `None` without a pair.
    pub fn ratio(&self) -> Option<f64> {
        let ratios = self.ratios();
        if ratios.is_empty() {
            None
        } else if self.metric.is_paired() {
            Some(median(&ratios))
        } else {
            Some(self.median(1) / self.median(0))
        }
    }

    /// Whether the bar and the limit are reached; `None` if there is neither.
    pub fn reached(&self) -> Option<bool> {
        let on_the_better_side = |value: f64, bound: f64| match self.metric.better() {
            Better::Higher => value >= bound,
            Better::Lower => value <= bound,
        };
        let ratio = self.ratio()?;
        let bar = self.bar.map(|bar| on_the_better_side(ratio, bar));
        let limit = self
            .limit
            .map(|limit| on_the_better_side(self.median(1), limit));
        match (bar, limit) {
            (None, None) => None,
            (bar, limit) => Some(bar.unwrap_or(true) && limit.unwrap_or(true)),
        }
    }
}

/// The median; the mean of the middle two of an even number. 0 for none.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// Runs the comparison.
pub fn run(settings: &Settings) -> Result<Comparison> {
    let mut run = Run {
        settings,
        samples: BTreeMap::new(),
        others: Vec::new(),
        notes: Vec::new(),
    };
    let (suite, rows) = if settings.members > 1 {
        let rows = members::run(&mut run, settings)?;
        (format!("{} members", settings.members), rows)
    } else {
        (settings.suite.clone(), run.suite()?)
    };
    let machine = procfs::machine(&settings.dir);
    if machine.ends_with("tmpfs") {
        run.notes.push(format!(
            "{} is kept in memory, so nothing was really synced: choose a disk with --dir",
            settings.dir.display()
        ));
    }
    Ok(Comparison {
        servers: settings.servers.clone().map(|s| (s.name, s.command)),
        suite,
        machine,
        quick: settings.sizes.keys < Sizes::FULL.keys,
        rows,
        others_cores: [
            median(&run.others),
            run.others.iter().copied().fold(0.0, f64::max),
        ],
        notes: run.notes,
    })
}

/// A first in even pairs, B first in odd ones.
pub(crate) fn order(repeat: usize) -> [usize; 2] {
    if repeat.is_multiple_of(2) {
        [0, 1]
    } else {
        [1, 0]
    }
}

/// A comparison under way.
pub(crate) struct Run<'a> {
    settings: &'a Settings,
    samples: BTreeMap<(&'static str, Metric), [Vec<f64>; 2]>,
    /// Cores used by neither side, of each run.
    pub others: Vec<f64>,
    notes: Vec<String>,
}

impl Run<'_> {
    /// The suite of single servers.
    fn suite(&mut self) -> Result<Vec<Row>> {
        let settings = self.settings;
        let suite = figures::suite(&settings.suite).with_context(|| {
            format!(
                "no suite {}; there are {}",
                settings.suite,
                figures::SUITES.join(", ")
            )
        })?;
        let wanted =
            |name: &str| settings.only.is_empty() || settings.only.iter().any(|o| o == name);
        let cases: Vec<Case> = suite.cases.into_iter().filter(|c| wanted(c.name)).collect();
        let million = suite.million && MILLION.iter().any(|m| wanted(m.0));
        ensure!(
            !cases.is_empty() || million,
            "--only names nothing of the suite {}",
            settings.suite
        );
        if !cases.is_empty() {
            self.cases(&cases)?;
        }
        if million {
            for repeat in 0..settings.million_repeats {
                for side in order(repeat) {
                    self.million(side)?;
                }
            }
        }
        let cases = cases.iter().map(|c| (c.name, c.title, c.bars, &[][..]));
        let million = MILLION
            .into_iter()
            .filter(|m| wanted(m.0))
            .map(|(name, title, bars)| (name, title, bars, &[][..]));
        Ok(self.rows(cases.chain(million)))
    }

    /// All cases on two servers that live side by side, of which one at a time may run.
    fn cases(&mut self, cases: &[Case]) -> Result<()> {
        let sizes = self.settings.sizes;
        let mut servers = Vec::new();
        for spec in &self.settings.servers {
            let mut server = Server::start(spec, &self.settings.dir)?;
            say(&format!("{}: filling {} keys", spec.name, sizes.keys));
            workload::fill(&self.options(&server, sizes.keys, sizes.key_bytes))?;
            server.pause()?;
            servers.push(server);
        }
        for repeat in 0..self.settings.repeats {
            for case in cases {
                for side in order(repeat) {
                    servers[side].resume()?;
                    let report = self.case(case, &servers[side]);
                    servers[side].pause()?;
                    let report = report.with_context(|| {
                        format!("{}: {}", self.settings.servers[side].name, case.name)
                    })?;
                    say(&format!(
                        "{}/{} {}: {}",
                        repeat + 1,
                        self.settings.repeats,
                        self.settings.servers[side].name,
                        summary(case, &report)
                    ));
                    self.note_errors(case.name, side, &report);
                    self.others.extend(report.others_cores);
                    for metric in CASE_METRICS {
                        if let Some(value) = metric.of(&report) {
                            self.sample(case.name, metric, side, value);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn case(&self, case: &Case, server: &Server) -> Result<Report> {
        let sizes = self.settings.sizes;
        // What piled up while it was paused is its own affair, not the measurement's.
        std::thread::sleep(sizes.warmup / 2);
        let options = Options {
            clients: case.clients,
            connections: case.connections,
            ..self.options(server, sizes.keys, sizes.key_bytes)
        };
        workload::run(case.workload, &options)
    }

    /// A million keys on one fresh server: its memory, its restart, its compaction.
    fn million(&mut self, side: usize) -> Result<()> {
        let sizes = self.settings.sizes;
        let spec = &self.settings.servers[side];
        let mut server = Server::start(spec, &self.settings.dir)?;
        let options = self.options(&server, sizes.million, MILLION_KEY_BYTES);
        say(&format!("{}: filling {} keys", spec.name, sizes.million));
        workload::fill(&options)?;
        std::thread::sleep(sizes.settle);
        let memory = procfs::usage(&[server.pid()])?;
        say(&format!(
            "{}: {:.0} MiB resident",
            spec.name,
            mib(memory.rss)
        ));
        self.sample("memory", Metric::Memory, side, mib(memory.rss));
        self.sample("memory", Metric::MemoryAnon, side, mib(memory.rss_anon));

        let mut ready = Vec::new();
        for _ in 0..RESTARTS {
            let restart = server.restart()?;
            say(&format!(
                "{}: stopped in {:.2} s, ready again in {:.3} s",
                spec.name,
                restart.stop.as_secs_f64(),
                restart.ready.as_secs_f64()
            ));
            ready.push(restart.ready.as_secs_f64() * 1e3);
        }
        self.sample("restart", Metric::Restart, side, median(&ready));
        std::thread::sleep(sizes.settle / 2);
        self.sample(
            "restart",
            Metric::MemoryRestarted,
            side,
            mib(procfs::usage(&[server.pid()])?.rss),
        );

        // The process is another one now.
        let options = self.options(&server, sizes.million, MILLION_KEY_BYTES);
        say(&format!("{}: putting the same keys again", spec.name));
        workload::fill(&options)?;
        std::thread::sleep(sizes.around);
        let (report, took) = compact_under_load(&options, sizes.around)
            .with_context(|| format!("{}: compaction", spec.name))?;
        let longest = report.latency_us.map_or(0.0, |q| q.max / 1e3);
        say(&format!(
            "{}: compaction took {:.2} s, longest put {longest:.1} ms",
            spec.name,
            took.as_secs_f64()
        ));
        self.note_errors("compaction", side, &report);
        for metric in [Metric::Stall, Metric::LatencyP99, Metric::CpuPerOp] {
            if let Some(value) = metric.of(&report) {
                self.sample("compaction", metric, side, value);
            }
        }
        self.sample("compaction", Metric::Compaction, side, took.as_secs_f64());
        server.stop()
    }

    fn options(&self, server: &Server, keys: u64, key_bytes: usize) -> Options {
        Options {
            target: server.target(),
            clients: 1,
            connections: 1,
            threads: self.settings.threads,
            rate: None,
            warmup: self.settings.sizes.warmup,
            measure: self.settings.sizes.measure,
            keys: Keyspace {
                count: keys,
                key_bytes,
            },
            value_bytes: VALUE_BYTES,
            seed: 1,
            pids: vec![server.pid()],
            fill: true,
        }
    }

    pub fn sample(&mut self, case: &'static str, metric: Metric, side: usize, value: f64) {
        self.samples.entry((case, metric)).or_default()[side].push(value);
    }

    pub fn note_errors(&mut self, case: &str, side: usize, report: &Report) {
        for (code, failure) in &report.errors {
            self.notes.push(format!(
                "{}: {case}: {} x {code}: {}",
                self.settings.servers[side].name, failure.count, failure.example
            ));
        }
    }

    /// What was sampled, in the order of the figures: short name, title, bounds of the ratio, bounds of B's own value.
    pub fn rows<'f>(
        &self,
        figures: impl Iterator<Item = (&'f str, &'f str, &'f [Bar], &'f [Bar])>,
    ) -> Vec<Row> {
        let mut rows = Vec::new();
        for (name, title, bars, limits) in figures {
            let bound = |bounds: &[Bar], metric| bounds.iter().find(|b| b.0 == metric).map(|b| b.1);
            for ((_, metric), values) in self.samples.iter().filter(|s| s.0.0 == name) {
                rows.push(Row {
                    case: name.into(),
                    title: title.into(),
                    metric: *metric,
                    values: values.clone(),
                    bar: bound(bars, *metric),
                    limit: bound(limits, *metric),
                });
            }
        }
        rows
    }
}

/// Compacts everything below the newest revision while puts arrive at a steady rate, and reports the puts and how long the compaction took.
fn compact_under_load(options: &Options, around: Duration) -> Result<(Report, Duration)> {
    let options = Options {
        rate: Some(COMPACTION_RATE),
        clients: 0,
        connections: 10,
        ..options.clone()
    };
    let mut client = workload::client(&options.target)?;
    let answer = client.call(Method::Range, |o| messages::range(o, b"x", &[], false))?;
    let revision = messages::header_revision(&answer);
    let plan = workload::plan(Workload::Put, &options)?;
    let mut took = Ok(Duration::ZERO);
    let mut cpu = Vec::new();
    let pids = options.pids.clone();
    let plan = engine::Plan {
        until: Until::Told,
        ..plan
    };
    let outcomes = engine::run(plan, |moment| {
        if moment == Moment::Begin {
            cpu.push(procfs::usage(&pids));
            std::thread::sleep(around);
            let begin = Instant::now();
            took = client
                .call(Method::Compact, |o| messages::compact(o, revision, true))
                .map(|_| begin.elapsed());
            std::thread::sleep(around);
            cpu.push(procfs::usage(&pids));
        }
    })?;
    let mut report = workload::report(&outcomes);
    if let (Some(Ok(first)), Some(Ok(last))) = (cpu.first(), cpu.last()) {
        report.server_cpu_us_per_op =
            Some((last.cpu_s - first.cpu_s) * 1e6 / report.ops.max(1) as f64);
    }
    Ok((report, took?))
}

fn summary(case: &Case, report: &Report) -> String {
    let rate = if report.events > 0 {
        report.events_per_s
    } else {
        report.ops_per_s
    };
    let cpu = report.server_cpu_us_per_op.unwrap_or(0.0);
    let p50 = report.latency_us.map_or(0.0, |q| q.p50);
    format!(
        "{}: {rate:.0}/s, {cpu:.2} us CPU each, p50 {p50:.0} us, generator {:.2} us",
        case.name, report.generator_cpu_us_per_op
    )
}

/// Progress, for whoever waits.
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(metric: Metric, a: &[f64], b: &[f64], bar: Option<f64>) -> Row {
        Row {
            case: "c".into(),
            title: "t".into(),
            metric,
            values: [a.to_vec(), b.to_vec()],
            bar,
            limit: None,
        }
    }

    #[test]
    fn where_chance_decides_the_medians_are_compared_and_a_limit_holds_as_well() {
        let mut blocked = row(
            Metric::Blocked,
            &[1000.0, 1800.0, 1200.0],
            &[1700.0, 1100.0, 900.0],
            Some(1.0),
        );
        assert_eq!(blocked.ratio(), Some(1100.0 / 1200.0));
        assert_eq!(blocked.reached(), Some(true));
        blocked.limit = Some(1000.0);
        assert_eq!(blocked.reached(), Some(false));
        blocked.bar = None;
        blocked.limit = Some(1100.0);
        assert_eq!(blocked.reached(), Some(true));
    }

    #[test]
    fn the_ratio_is_the_median_of_the_pairs_so_that_drift_cancels() {
        // The machine got twice as fast in the second pair and three times in the third.
        let r = row(
            Metric::Throughput,
            &[100.0, 200.0, 300.0],
            &[250.0, 500.0, 600.0],
            Some(2.4),
        );
        assert_eq!(r.ratio(), Some(2.5));
        assert_eq!(r.reached(), Some(true));
        assert_eq!((r.median(0), r.median(1)), (200.0, 500.0));
    }

    #[test]
    fn bars_hold_in_the_direction_of_the_metric() {
        assert_eq!(
            row(Metric::CpuPerOp, &[10.0], &[5.1], Some(0.5)).reached(),
            Some(false)
        );
        assert_eq!(
            row(Metric::CpuPerOp, &[10.0], &[4.9], Some(0.5)).reached(),
            Some(true)
        );
        assert_eq!(
            row(Metric::Throughput, &[10.0], &[19.0], Some(2.0)).reached(),
            Some(false)
        );
        assert_eq!(
            row(Metric::Throughput, &[10.0], &[19.0], None).reached(),
            None
        );
        assert_eq!(row(Metric::Throughput, &[], &[], Some(2.0)).reached(), None);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
