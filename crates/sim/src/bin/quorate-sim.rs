//! Runs simulated clusters and judges them: one seed to look at, or the budget of a CI run.
//!
//! The edge of the simulator, and the only part of it that reads a clock: to draw fresh seeds and to tell the speed.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the edge draws fresh seeds from the time and starts itself again to compare hashes"
)]

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
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
    /// The budget of a CI run: known seeds, fresh seeds, and the same seed twice.
    #[arg(long)]
    ci: bool,
}

/// Seeds that found a bug once. They stay.
const REGRESSIONS: [u64; 10] = [101, 125, 135, 166, 174, 214, 221, 242, 254, 257];
/// Seeds of every CI run, and fresh ones.
const CI_KNOWN: u64 = 300;
const CI_FRESH: u64 = 300;
/// Seeds that are run twice, and in another process.
const CI_TWICE: u64 = 20;
const CI_OTHER_PROCESS: u64 = 3;

fn main() -> ExitCode {
    let args = Args::parse();
    let result = if args.ci {
        ci(&args)
    } else {
        some(&args, args.seed, args.seeds, &mut Totals::default())
    };
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
}

impl Totals {
    fn add(&mut self, run: &Run, took: Duration) {
        self.simulated_us += run.simulated_us;
        if run.members == 3 {
            self.of_three.0 += run.simulated_us;
            self.of_three.1 += took;
        }
    }
}

fn ci(args: &Args) -> Result<(), String> {
    let mut totals = Totals::default();
    for seed in REGRESSIONS {
        some(args, seed, 1, &mut totals)?;
    }
    some(args, 1, CI_KNOWN, &mut totals)?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let fresh = now * 1_000;
    println!("fresh seeds from {fresh}");
    some(args, fresh, CI_FRESH, &mut totals)?;
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
    let seeds = REGRESSIONS.len() as u64 + CI_KNOWN + CI_FRESH;
    println!(
        "{seeds} seeds, {:.1} simulated hours; three members with faults: {:.0} simulated seconds per second; {CI_TWICE} seeds twice \
         with the same trace, {CI_OTHER_PROCESS} in another process",
        totals.simulated_us as f64 / 3.6e9,
        totals.of_three.0 as f64 / 1e6 / totals.of_three.1.as_secs_f64(),
    );
    println!("{seeds} passed, 0 failed");
    Ok(())
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
fn some(args: &Args, first: u64, count: u64, totals: &mut Totals) -> Result<(), String> {
    for seed in first..first.saturating_add(count) {
        let began = Instant::now();
        let run = one(args, seed)?;
        totals.add(&run, began.elapsed());
        if args.hash {
            println!("{:016x}", run.trace_hash);
        } else if !args.ci {
            tell(seed, &run, began);
        }
    }
    Ok(())
}

/// Runs one seed and judges it.
fn one(args: &Args, seed: u64) -> Result<Run, String> {
    let run = run(args, seed);
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
    let mut told = format!(
        "seed {seed} FAILED; run it again with: quorate-sim --seed {seed} --seconds {}\n",
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
    world::run(&Options {
        seed,
        seconds: args.seconds,
        members: args.members,
        faults: !args.calm,
        theme: args.theme,
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
