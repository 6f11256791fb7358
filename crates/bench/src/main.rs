//! The command `quorate-bench`. See `--help` and the crate's documentation.

use anyhow::{Context, Result, bail};
use bench::args::{Cli, Command, Common};
use bench::engine::Client;
use bench::load::messages;
use bench::transport::http2::Method;
use bench::{report, workload};
use clap::Parser;
use serde::Serialize;
use std::time::Duration;

fn main() -> std::process::ExitCode {
    match run(&Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("quorate-bench: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<std::process::ExitCode> {
    raise_open_files();
    let Some((workload, common)) = command.workload() else {
        bail!("no such command")
    };
    let mut options = common.options();
    if let Some(user) = &common.user {
        options.target.token = Some(authenticate(&options.target.endpoints[0], user)?);
    }
    let result = workload::run(workload, &options)?;
    print(common, &result, &report::text(&result))?;
    Ok(if result.errors.is_empty() {
        std::process::ExitCode::SUCCESS
    } else {
        std::process::ExitCode::from(2)
    })
}

fn print(common: &Common, result: &impl Serialize, text: &str) -> Result<()> {
    let json = serde_json::to_string_pretty(result)?;
    if let Some(path) = &common.out {
        std::fs::write(path, &json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    print!(
        "{}",
        if common.json {
            json + "\n"
        } else {
            text.to_owned()
        }
    );
    Ok(())
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
