//! Runs simulated clusters and judges them: one seed to look at, or the budget of a CI run.
//!
//! The edge of the simulator, and the only part of it that reads a clock: to draw fresh seeds and to tell the speed.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the edge draws fresh seeds from the time and starts itself again to compare hashes"
)]

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use clap::{Parser, ValueEnum as _};
use sim::plan::{Options, Theme};
use sim::world::{self, Run};

/// Simulates clusters of real members in one thread, in virtual time.
#[derive(Parser)]
struct Args {
    /// The first seed; everything random follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds to run, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Simulated length of the phase with faults.
    #[arg(long, default_value_t = 200)]
    seconds: u64,
    /// Number of members; drawn from the seed if not given.
    #[arg(long)]
    members: Option<usize>,
    /// What the worlds are mostly about.
    #[arg(long, value_enum, default_value_t)]
    theme: Theme,
    /// Without faults.
    #[arg(long)]
    calm: bool,
    /// Print what clients saw, and all revisions.
    #[arg(long)]
    history: bool,
    /// Print the hash of the trace and nothing else.
    #[arg(long)]
    hash: bool,
    /// The budget of a CI run, and some seeds twice.
    #[arg(long)]
    ci: bool,
    /// With --ci, seeds that nobody has run before, to look for what the known ones don't find.
    #[arg(long)]
    fresh: bool,
}

/// Seeds that found a bug once. They stay.
const REGRESSIONS: [(Theme, u64); 18] = [
    (Theme::Any, 2_521),
    (Theme::Snapshots, 17_956_719_750_035),
    (Theme::Any, 17_956_716_570_425),
    (Theme::Any, 101),
    (Theme::Any, 125),
    (Theme::Any, 135),
    (Theme::Any, 166),
    (Theme::Any, 174),
    (Theme::Any, 214),
    (Theme::Any, 221),
    (Theme::Any, 242),
    (Theme::Any, 254),
    (Theme::Any, 257),
    (Theme::Any, 58),
    (Theme::Any, 153),
    (Theme::Any, 204),
    (Theme::Members, 116),
    (Theme::Snapshots, 49),
];
/// Worlds of a CI run: with the regressions, ten days of simulated time. Seeds nobody has run before are for `--fresh`, so that a change is
/// judged by itself and not by what a new seed finds in the rest.
const CI_SEEDS: [(Theme, u64); 4] = [
    (Theme::Any, 2_700),
    (Theme::Members, 800),
    (Theme::Snapshots, 600),
    (Theme::Leases, 300),
];
/// What a CI run simulates at least, in seconds.
const CI_SIMULATED_S: u64 = 10 * 24 * 3600;
/// Seeds that are run twice, and in another process.
const CI_TWICE: u64 = 20;
const CI_OTHER_PROCESS: u64 = 3;

fn main() -> ExitCode {
    let args = Args::parse();
    let result = if args.ci { ci(&args) } else { some(&args) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// How much was simulated, and how fast.
#[derive(Default)]
struct Totals {
    simulated_us: u64,
    /// The worlds of three members alone: simulated, and in truth.
    of_three: (u64, Duration),
    /// How often what happened.
    faults: BTreeMap<&'static str, u64>,
    /// Snapshots that became a state.
    installed: u64,
}

impl Totals {
    fn add(&mut self, run: &Run, took: Duration) {
        self.simulated_us += run.simulated_us;
        self.installed += run.snapshots.1;
        for (kind, count) in &run.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        if run.members == 3 {
            self.of_three.0 += run.simulated_us;
            self.of_three.1 += took;
        }
    }
}

fn ci(args: &Args) -> Result<(), String> {
    let first = match args.fresh {
        false => 1,
        true => SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(1, |since| since.as_secs() * 10_000),
    };
    println!("seeds from {first}");
    let mut worlds = REGRESSIONS.to_vec();
    for (theme, count) in CI_SEEDS {
        worlds.extend((first..first + count).map(|seed| (theme, seed)));
    }
    let began = Instant::now();
    let totals = all(args, &worlds)?;
    let took = began.elapsed();
    for seed in 1..=CI_TWICE {
        let (first, second) = (run(args, seed).trace_hash, run(args, seed).trace_hash);
        if first != second {
            return Err(format!(
                "seed {seed}: two runs, two traces: {first:016x} and {second:016x}"
            ));
        }
    }
    for seed in 1..=CI_OTHER_PROCESS {
        let (here, there) = (
            format!("{:016x}", run(args, seed).trace_hash),
            elsewhere(args, seed)?,
        );
        if here != there {
            return Err(format!(
                "seed {seed}: this process saw {here}, another {there}"
            ));
        }
    }
    let seconds = totals.simulated_us / 1_000_000;
    if seconds < CI_SIMULATED_S {
        return Err(format!(
            "only {seconds} of {CI_SIMULATED_S} seconds were simulated; there must be more seeds"
        ));
    }
    let faults: Vec<String> = totals
        .faults
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    println!(
        "{} worlds, {:.1} simulated days in {:.0} s; three members with faults: {:.0} simulated seconds per second and core; {CI_TWICE} \
         seeds twice with the same trace, {CI_OTHER_PROCESS} in another process\n{} snapshots installed; {}",
        worlds.len(),
        seconds as f64 / 86_400.0,
        took.as_secs_f64(),
        totals.of_three.0 as f64 / 1e6 / totals.of_three.1.as_secs_f64(),
        totals.installed,
        faults.join(", ")
    );
    println!("{} passed, 0 failed", worlds.len());
    Ok(())
}

/// Runs all worlds, on as many threads as there are cores, until one fails.
fn all(args: &Args, worlds: &[(Theme, u64)]) -> Result<Totals, String> {
    let next = AtomicUsize::new(0);
    let state: Mutex<(Totals, Option<String>)> = Mutex::default();
    let locked = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || {
        while let Some((theme, seed)) = worlds.get(next.fetch_add(1, Ordering::Relaxed)) {
            let began = Instant::now();
            let judged = one(args, *theme, *seed);
            match judged {
                Ok(run) => locked().0.add(&run, began.elapsed()),
                Err(why) => {
                    locked().1.get_or_insert(why);
                    next.store(worlds.len(), Ordering::Relaxed);
                }
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        (0..cores).for_each(|_| drop(scope.spawn(work)));
    });
    let (totals, failure) = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    failure.map_or(Ok(totals), Err)
}

/// The hash of a seed's trace in a process of its own.
fn elsewhere(args: &Args, seed: u64) -> Result<String, String> {
    let program = std::env::current_exe().map_err(|why| format!("where am I: {why}"))?;
    let output = Command::new(program)
        .args([
            "--hash",
            "--seed",
            &seed.to_string(),
            "--seconds",
            &args.seconds.to_string(),
        ])
        .output()
        .map_err(|why| format!("cannot run another process: {why}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs seeds one after the other until one fails.
fn some(args: &Args) -> Result<(), String> {
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        let began = Instant::now();
        let run = one(args, args.theme, seed)?;
        if args.hash {
            println!("{:016x}", run.trace_hash);
        } else {
            tell(seed, &run, began);
        }
    }
    Ok(())
}

/// Runs one seed and judges it.
fn one(args: &Args, theme: Theme, seed: u64) -> Result<Run, String> {
    let run = run_about(args, theme, seed);
    let violations = sim::checker::check(&run.history);
    if args.history {
        for (number, op) in run.history.ops.iter().enumerate() {
            println!("{number} {op:?}");
        }
        for revision in &run.history.log {
            println!("{revision:?}");
        }
    }
    if run.failure.is_none() && violations.is_empty() {
        return Ok(run);
    }
    let about = theme.to_possible_value();
    let about = about.as_ref().map_or("any", |value| value.get_name());
    let mut told = format!(
        "seed {seed} FAILED; run it again with: quorate-sim --theme {about} --seed {seed} --seconds {}\n",
        args.seconds
    );
    for violation in violations.iter().take(5) {
        told += &format!("violation: {violation}\n");
    }
    if let Some(failure) = &run.failure {
        told += &format!("{}\nfailure: {failure}\n", run.tail);
    }
    Err(told)
}

fn run(args: &Args, seed: u64) -> Run {
    run_about(args, args.theme, seed)
}

fn run_about(args: &Args, theme: Theme, seed: u64) -> Run {
    world::run(&Options {
        seed,
        seconds: args.seconds,
        members: args.members,
        faults: !args.calm,
        theme,
    })
}

fn tell(seed: u64, run: &Run, began: Instant) {
    let seconds = run.simulated_us as f64 / 1e6;
    let faults: Vec<String> = run
        .faults
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    println!(
        "seed {seed}: trace {:016x}, {seconds:.0} simulated seconds ({:.0} per second), {} calls, {} watches, {} revisions, \
         {} snapshots sent, {} installed; {}",
        run.trace_hash,
        seconds / began.elapsed().as_secs_f64(),
        run.history.ops.len(),
        run.history.watches.len(),
        run.history.log.len(),
        run.snapshots.0,
        run.snapshots.1,
        if faults.is_empty() {
            "no faults".to_owned()
        } else {
            faults.join(", ")
        },
    );
}
