//! The command `quorate-bench`. See `--help` and the crate's documentation.

use anyhow::{Context, Result};
use bench::args::{Cli, Command, Compare};
use bench::compare::{self, Comparison};
use bench::engine::Client;
use bench::load::messages;
use bench::transport::http2::Method;
use bench::{plot, report, servers, table, workload};
use clap::Parser;
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("quorate-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<ExitCode> {
    raise_open_files();
    match command {
        Command::Compare(compare) => return run_compare(compare),
        Command::Plot { input, svg } => return run_plot(input, svg.as_deref()),
        _ => {}
    }
    let (workload, common) = command
        .workload()
        .expect("every other command is a workload");
    let mut options = common.options();
    if let Some(user) = &common.user {
        options.target.token = Some(authenticate(&options.target.endpoints[0], user)?);
    }
    let result = workload::run(workload, &options)?;
    print(
        common.json,
        common.out.as_deref(),
        &result,
        &report::text(&result),
    )?;
    Ok(if result.succeeded() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(2)
    })
}

fn run_compare(args: &Compare) -> Result<ExitCode> {
    servers::clean_up_on_signal()?;
    let result = compare::run(&args.settings())?;
    print(
        args.json,
        args.out.as_deref(),
        &result,
        &table::text(&result),
    )?;
    if let Some(path) = &args.svg {
        write(path, &plot::svg(&result))?;
    }
    let short = result.rows.iter().any(|r| r.reached() == Some(false));
    Ok(if args.check && short {
        ExitCode::from(3)
    } else {
        ExitCode::SUCCESS
    })
}

fn run_plot(input: &Path, svg: Option<&Path>) -> Result<ExitCode> {
    let json = std::fs::read(input).with_context(|| format!("cannot read {}", input.display()))?;
    let result: Comparison = serde_json::from_slice(&json)
        .with_context(|| format!("{} is not what `compare --out` writes", input.display()))?;
    match svg {
        Some(path) => write(path, &plot::svg(&result))?,
        None => print!("{}", table::markdown(&result)),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(json: bool, out: Option<&Path>, result: &impl Serialize, text: &str) -> Result<()> {
    let as_json = serde_json::to_string_pretty(result)? + "\n";
    if let Some(path) = out {
        write(path, &as_json)?;
    }
    print!("{}", if json { &as_json } else { text });
    Ok(())
}

fn write(path: &Path, content: &str) -> Result<()> {
    std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

fn authenticate(endpoint: &str, user: &str) -> Result<String> {
    let (name, password) = user.split_once(':').context("--user wants name:password")?;
    let mut client = Client::connect(endpoint, None, Duration::from_secs(10))?;
    Ok(messages::auth_token(
        &client.call(Method::Authenticate, |o| {
            messages::authenticate(o, name, password)
        })?,
    ))
}

/// Thousands of connections need more descriptors than most shells allow by default.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}
