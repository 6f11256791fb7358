//! A workload as the user names it: what must be there first, which loads on which connections, and the report of a run.

use crate::engine::{self, Client, Moment, Outcomes, Plan, Target, Until};
use crate::load::keys::{KEYS_PER_PREFIX, Keyspace, prefix_end};
use crate::load::{Idle, KeepAlives, Load, Op, Unary, Watched, Watchers, keys, messages};
use crate::procfs::{self, Usage};
use crate::stats::{Failure, Quantiles};
use crate::transport::http2::Method;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Connections and clients used to fill a store.
const FILL_CONNECTIONS: u32 = 8;
const FILL_CLIENTS: u32 = 256;

/// What is asked of the server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Workload {
    /// Puts of random keys.
    Put,
    /// Reads of one random key each.
    Range {
        /// Without asking the leader.
        serializable: bool,
    },
    /// Reads of all 1000 keys of a random prefix.
    RangePrefix {
        /// Without asking the leader.
        serializable: bool,
    },
    /// Kubernetes' update transactions.
    Txn,
    /// Reads and puts.
    Mixed {
        /// How many of 100 requests read.
        read_percent: u8,
    },
    /// Puts under watchers.
    Watch {
        /// Number of watchers.
        watchers: u32,
        /// Connections they are spread over.
        connections: u32,
        /// All the same prefix, or each its own key.
        watched: Watched,
    },
    /// Lease grants.
    LeaseGrant {
        /// Time to live, seconds.
        ttl_s: i64,
    },
    /// Keepalives of existing leases.
    LeaseKeepAlive {
        /// Number of leases.
        leases: u32,
    },
    /// Puts of every key once, in order.
    Preload,
    /// Connections that ask nothing.
    Idle,
}

impl Workload {
    /// The name in reports and on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Workload::Put => "put",
            Workload::Range {
                serializable: false,
            } => "range",
            Workload::Range { serializable: true } => "range-serializable",
            Workload::RangePrefix {
                serializable: false,
            } => "range-prefix",
            Workload::RangePrefix { serializable: true } => "range-prefix-serializable",
            Workload::Txn => "txn",
            Workload::Mixed { .. } => "mixed",
            Workload::Watch { .. } => "watch",
            Workload::LeaseGrant { .. } => "lease-grant",
            Workload::LeaseKeepAlive { .. } => "lease-keepalive",
            Workload::Preload => "preload",
            Workload::Idle => "idle",
        }
    }

    fn reads_existing_keys(&self) -> bool {
        matches!(
            self,
            Workload::Range { .. }
                | Workload::RangePrefix { .. }
                | Workload::Txn
                | Workload::Mixed { .. }
        )
    }

    fn op(&self) -> Op {
        match *self {
            Workload::Range { serializable } => Op::Get { serializable },
            Workload::RangePrefix { serializable } => Op::GetPrefix { serializable },
            Workload::Txn => Op::Txn,
            Workload::Mixed { read_percent } => Op::Mixed { read_percent },
            Workload::Watch { .. } => Op::PutStamped,
            Workload::LeaseGrant { ttl_s } => Op::LeaseGrant { ttl_s },
            Workload::Put
            | Workload::LeaseKeepAlive { .. }
            | Workload::Preload
            | Workload::Idle => Op::Put,
        }
    }
}

/// How hard, how long, with which keys, against which server.
#[derive(Debug, Clone)]
pub struct Options {
    /// The server.
    pub target: Target,
    /// Clients of the closed loop, spread over the connections.
    pub clients: u32,
    /// Connections.
    pub connections: u32,
    /// Generator threads.
    pub threads: usize,
    /// Requests per second; makes it an open loop.
    pub rate: Option<f64>,
    /// Not measured.
    pub warmup: Duration,
    /// Measured.
    pub measure: Duration,
    /// The keys.
    pub keys: Keyspace,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Start of all random choices.
    pub seed: u64,
    /// The server's processes, for CPU and memory.
    pub pids: Vec<u32>,
    /// Whether to put the keys first if they are missing.
    pub fill: bool,
}

/// What a run showed. Times are in the unit their name ends with.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// [`Workload::name`].
    pub workload: String,
    /// Clients; 0 in an open loop.
    pub clients: u32,
    /// Connections.
    pub connections: u32,
    /// Requests per second asked for, in an open loop.
    pub rate: Option<f64>,
    /// Measured time.
    pub seconds: f64,
    /// Operations completed in it.
    pub ops: u64,
    /// Their rate.
    pub ops_per_s: f64,
    /// Watch events received.
    pub events: u64,
    /// Their rate.
    pub events_per_s: f64,
    /// Bytes of answers, per second.
    pub bytes_per_s: f64,
    /// Latency of operations, us.
    pub latency_us: Option<Quantiles>,
    /// Time from a put's send to its event, us.
    pub event_latency_us: Option<Quantiles>,
    /// Longest time in which nothing was answered, ms.
    pub gap_ms_max: f64,
    /// Transactions whose comparison failed.
    pub conflicts: u64,
    /// Errors by code.
    pub errors: BTreeMap<String, Failure>,
    /// CPU time of the server in the measured time, seconds.
    pub server_cpu_s: Option<f64>,
    /// The same per operation (per event under watchers), us.
    pub server_cpu_us_per_op: Option<f64>,
    /// The server's memory after the run.
    pub server_memory: Option<Usage>,
    /// The server's memory before the connections were made.
    pub server_memory_before: Option<Usage>,
    /// Cores taken meanwhile by processes that are neither the server nor the generator. Above a few tenths, the numbers say more about them.
    pub others_cores: Option<f64>,
    /// The generator's own CPU per operation (per event under watchers), us.
    pub generator_cpu_us_per_op: f64,
}

impl Report {
    /// Whether there were no errors, and something to measure.
    pub fn succeeded(&self) -> bool {
        let silent = match self.workload.as_str() {
            "idle" => false,
            "watch" => self.events == 0,
            _ => self.ops == 0,
        };
        self.errors.is_empty() && !silent
    }

    /// Operations, or events under watchers: what CPU is divided by.
    pub fn units(&self) -> u64 {
        if self.events > 0 {
            self.events
        } else {
            self.ops
        }
    }
}

/// Prepares the store, runs the workload and reports.
pub fn run(workload: Workload, options: &Options) -> Result<Report> {
    check(workload, options)?;
    if workload.reads_existing_keys() && options.fill && !filled(options)? {
        eprintln!("filling {} keys first", options.keys.count);
        fill(options)?;
    }
    let before = memory(options)?;
    let plan = plan(workload, options)?;
    let mut report = measure(plan, &options.pids)?;
    report.workload = workload.name().to_owned();
    report.clients = if options.rate.is_some() {
        0
    } else {
        options.clients
    };
    report.connections = options.connections;
    report.rate = options.rate;
    report.server_memory_before = before;
    Ok(report)
}

/// Puts every key once, as fast as a closed loop can.
pub fn fill(options: &Options) -> Result<Report> {
    let options = Options {
        clients: FILL_CLIENTS,
        connections: FILL_CONNECTIONS,
        rate: None,
        ..options.clone()
    };
    let report = measure(plan(Workload::Preload, &options)?, &options.pids)?;
    ensure!(
        report.errors.is_empty(),
        "filling failed: {:?}",
        report.errors
    );
    Ok(Report {
        workload: Workload::Preload.name().to_owned(),
        clients: options.clients,
        connections: options.connections,
        ..report
    })
}

/// Runs a plan and turns what it measured into a report without a name.
pub fn measure(plan: Plan, pids: &[u32]) -> Result<Report> {
    let mut samples = Vec::new();
    let outcomes = engine::run(plan, |_: Moment| {
        samples.push((
            procfs::usage(pids),
            [procfs::own_cpu_s(), procfs::machine_cpu_s()],
        ))
    })?;
    let passed =
        |i: usize| samples.last().map_or(0.0, |s| s.1[i]) - samples.first().map_or(0.0, |s| s.1[i]);
    let (own, all) = (passed(0), passed(1));
    let mut usages = Vec::new();
    for (usage, _) in samples {
        usages.push(usage?);
    }
    let mut report = report(&outcomes);
    let units = report.units().max(1) as f64;
    report.generator_cpu_us_per_op = own * 1e6 / units;
    if let (false, [first, .., last]) = (pids.is_empty(), &usages[..]) {
        let cpu = last.cpu_s - first.cpu_s;
        report.server_cpu_s = Some(cpu);
        report.others_cores = Some(((all - cpu - own) / report.seconds.max(1e-3)).max(0.0));
        report.server_cpu_us_per_op = Some(cpu * 1e6 / units);
        report.server_memory = Some(*last);
    }
    Ok(report)
}

/// The part of a report that the run itself yields: no name, nothing about processes.
pub fn report(outcomes: &Outcomes) -> Report {
    let Outcomes { stats, conflicts } = outcomes;
    let seconds = (stats.window.end.saturating_sub(stats.window.start)) as f64 / 1e9;
    let per_second = |count: u64| {
        if seconds > 0.0 {
            count as f64 / seconds
        } else {
            0.0
        }
    };
    Report {
        seconds,
        ops: stats.ops,
        ops_per_s: per_second(stats.ops),
        events: stats.events,
        events_per_s: per_second(stats.events),
        bytes_per_s: per_second(stats.bytes),
        latency_us: Quantiles::of(&stats.latency),
        event_latency_us: Quantiles::of(&stats.event_latency),
        gap_ms_max: stats.gap_max as f64 / 1e6,
        conflicts: *conflicts,
        errors: stats.errors.clone(),
        ..Report::default()
    }
}

fn check(workload: Workload, options: &Options) -> Result<()> {
    ensure!(options.connections > 0, "--connections must be at least 1");
    ensure!(options.keys.count > 0, "--keys must be at least 1");
    ensure!(
        options.keys.key_bytes >= keys::KEY_BYTES_MIN,
        "--key-size must be at least {}",
        keys::KEY_BYTES_MIN
    );
    ensure!(
        options.rate.is_none_or(|r| r > 0.0),
        "--rate must be above 0"
    );
    if options.rate.is_none() && workload != Workload::Idle {
        ensure!(
            options.clients >= options.connections,
            "--clients must be at least --connections: a connection without a client does nothing"
        );
    }
    match workload {
        Workload::RangePrefix { .. } => ensure!(
            options.keys.count >= KEYS_PER_PREFIX,
            "a range over a prefix of 1000 keys needs --keys of 1000 or more"
        ),
        Workload::Watch { connections, .. } => {
            ensure!(connections > 0, "--watch-connections must be at least 1");
            ensure!(
                options.value_bytes >= messages::STAMP_BYTES,
                "watching needs --value-size of at least {}, for the time of the put",
                messages::STAMP_BYTES
            );
        }
        Workload::LeaseKeepAlive { leases } => {
            ensure!(leases > 0, "--leases must be at least 1");
            ensure!(
                options.rate.is_none(),
                "keepalives run as a closed loop: leave out --rate"
            );
        }
        Workload::Preload | Workload::Idle => {
            ensure!(options.rate.is_none(), "--rate has no meaning here")
        }
        _ => {}
    }
    Ok(())
}

/// Builds the loads of a workload.
pub fn plan(workload: Workload, options: &Options) -> Result<Plan> {
    let connections = options.connections;
    let share = |total: u32, i: u32| total / connections + u32::from(i < total % connections);
    let clients = |i: u32| {
        if options.rate.is_some() {
            0
        } else {
            share(options.clients, i)
        }
    };
    let mut loads: Vec<Box<dyn Load>> = Vec::new();
    let mut keys = options.keys;
    let mut until = Until::Elapsed {
        warmup: options.warmup,
        measure: options.measure,
    };
    let mut mod_revisions = Vec::new();
    match workload {
        Workload::Idle => loads.extend((0..connections).map(|_| Box::new(Idle) as Box<dyn Load>)),
        Workload::Preload => {
            let cut = |i: u32| keys.count * u64::from(i) / u64::from(connections);
            loads.extend((0..connections).map(|i| {
                Box::new(Unary::new(Op::PutEach(cut(i)..cut(i + 1)), clients(i))) as Box<dyn Load>
            }));
            until = Until::Done;
        }
        Workload::LeaseKeepAlive { leases } => {
            let granted = grant_leases(options, leases)?;
            loads.extend((0..connections).map(|i| {
                let own = granted
                    .iter()
                    .copied()
                    .skip(i as usize)
                    .step_by(connections as usize)
                    .collect::<Vec<_>>();
                let own = if own.is_empty() { granted.clone() } else { own };
                Box::new(KeepAlives::new(own, clients(i))) as Box<dyn Load>
            }));
        }
        _ => loads.extend(
            (0..connections)
                .map(|i| Box::new(Unary::new(workload.op(), clients(i))) as Box<dyn Load>),
        ),
    }
    let open = if options.rate.is_some() {
        (0..loads.len()).collect()
    } else {
        Vec::new()
    };
    if let Workload::Watch {
        watchers,
        connections,
        watched,
    } = workload
    {
        keys.count = if watched == Watched::Prefix {
            KEYS_PER_PREFIX
        } else {
            u64::from(watchers.max(1))
        };
        let cut = |i: u32| u64::from(watchers) * u64::from(i) / u64::from(connections);
        loads.extend(
            (0..connections)
                .map(|i| Box::new(Watchers::new(watched, cut(i)..cut(i + 1))) as Box<dyn Load>),
        );
    }
    if workload == Workload::Txn {
        mod_revisions = read_mod_revisions(options)?;
    }
    Ok(Plan {
        target: options.target.clone(),
        loads,
        open,
        rate: options.rate,
        threads: options.threads,
        until,
        keys,
        value_bytes: options.value_bytes,
        seed: options.seed,
        mod_revisions,
        verify: options.fill && workload.reads_existing_keys(),
        drain: engine::DRAIN,
    })
}

/// A blocking client of the first endpoint.
pub fn client(target: &Target) -> Result<Client> {
    Client::connect(
        &target.endpoints[0],
        target.token.as_deref(),
        Duration::from_secs(600),
    )
}

fn memory(options: &Options) -> Result<Option<Usage>> {
    if options.pids.is_empty() {
        Ok(None)
    } else {
        procfs::usage(&options.pids).map(Some)
    }
}

/// Whether exactly the keys of the load lie between the first and the last of them.
fn filled(options: &Options) -> Result<bool> {
    let (mut first, mut end) = (Vec::new(), Vec::new());
    options.keys.key(0, &mut first);
    options.keys.key(options.keys.count - 1, &mut end);
    end.push(0);
    let count =
        client(&options.target)?.call(Method::Range, |o| messages::range_count(o, &first, &end))?;
    Ok(messages::range_total(&count) == options.keys.count as i64)
}

/// Grants leases, to be kept alive.
fn grant_leases(options: &Options, count: u32) -> Result<Vec<i64>> {
    const TTL_S: i64 = 3600;
    let mut client = client(&options.target)?;
    let mut ids = Vec::new();
    for _ in 0..count {
        let id = messages::lease_id(
            &client.call(Method::LeaseGrant, |o| messages::lease_grant(o, TTL_S))?,
        );
        if id == 0 {
            bail!("the server granted a lease without an id");
        }
        ids.push(id);
    }
    Ok(ids)
}

/// Reads the mod_revision of every key, so that the transactions of the run compare with the truth from the start.
fn read_mod_revisions(options: &Options) -> Result<Vec<i64>> {
    let mut client = client(&options.target)?;
    let mut revisions = vec![0; options.keys.count as usize];
    let mut prefix = Vec::new();
    for thousand in 0..options.keys.count.div_ceil(KEYS_PER_PREFIX) {
        options.keys.prefix(thousand, &mut prefix);
        let answer = client
            .call(Method::Range, |o| {
                messages::range_keys_only(o, &prefix, &prefix_end(&prefix))
            })
            .context("reading the keys' revisions")?;
        messages::range_mod_revisions(&answer, |key, revision| {
            if let Some(slot) = keys::index_of(key).and_then(|i| revisions.get_mut(i as usize)) {
                *slot = revision;
            }
        });
    }
    Ok(revisions)
}
