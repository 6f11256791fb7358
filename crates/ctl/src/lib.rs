//! The offline tools: `etcdutl` for snapshot files, and `quorate verify` for a data directory.
//!
//! What it is: what an operator does with files while no member runs on them. Output and messages are `etcdutl`'s where it
//! has them.
//!
//! What it never does: it talks to no server (etcd's own `etcdctl` does that), and it changes no data directory but the one
//! that `snapshot restore` creates.
//!
//! Start with [`run`].

mod restore;
mod snapshot;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Which tool is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persona {
    /// `etcdutl`: arguments as those of etcd's tool.
    Etcdutl,
    /// `quorate verify DATA-DIR`: arguments behind the word `verify`.
    Verify,
}

/// Exit code for wrong arguments, as in etcd's tools.
const EXIT_BAD_ARGS: u8 = 128;

#[derive(Parser)]
#[command(
    name = "etcdutl",
    about = "An administrative command line tool for etcd data files",
    disable_version_flag = true
)]
struct Etcdutl {
    /// The output format.
    #[arg(
        short = 'w',
        long = "write-out",
        global = true,
        default_value = "simple"
    )]
    write_out: Format,
    #[command(subcommand)]
    command: Command,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Simple,
    Json,
    Fields,
    Table,
}

#[derive(Subcommand)]
enum Command {
    /// Manages etcd node snapshots
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Prints the KV history hash of a given file
    Hashkv {
        file: PathBuf,
        /// Maximum revision to hash; 0 is all.
        #[arg(long, default_value_t = 0)]
        rev: i64,
    },
    /// Prints the version of etcdutl
    Version,
}

#[derive(Subcommand)]
enum Snapshot {
    /// Gets backend snapshot status of a given file
    Status { file: PathBuf },
    /// Restores an etcd member snapshot to a data directory
    Restore(Restore),
}

/// Flags of `snapshot restore`.
#[derive(Args)]
struct Restore {
    file: PathBuf,
    /// Path to the output data directory (default: NAME.etcd)
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Path to the WAL directory (default: inside the data directory)
    #[arg(long)]
    wal_dir: Option<PathBuf>,
    /// Initial cluster configuration for restore bootstrap
    #[arg(long, default_value = "default=http://localhost:2380")]
    initial_cluster: String,
    /// Initial cluster token for the etcd cluster during restore bootstrap
    #[arg(long, default_value = "etcd-cluster")]
    initial_cluster_token: String,
    /// List of this member's peer URLs to advertise to the rest of the cluster
    #[arg(long, default_value = "http://localhost:2380")]
    initial_advertise_peer_urls: String,
    /// Human-readable name for this member
    #[arg(long, default_value = "default")]
    name: String,
    /// Ignore snapshot integrity hash value (required if copied from data directory)
    #[arg(long)]
    skip_hash_check: bool,
}

#[derive(Parser)]
#[command(
    name = "quorate verify",
    about = "Checks every byte of a data directory"
)]
struct Verify {
    data_dir: PathBuf,
    /// The WAL directory, if it lies elsewhere
    #[arg(long)]
    wal_dir: Option<PathBuf>,
}

/// Runs a tool with its arguments (without the program's name) and says how it ended: 0, 1 for a failure, 128 for wrong
/// arguments.
pub fn run(persona: Persona, args: &[String]) -> ExitCode {
    match persona {
        Persona::Etcdutl => match Etcdutl::try_parse_from(named("etcdutl", args)) {
            Ok(tool) => ended(etcdutl(tool)),
            Err(error) => usage(&error),
        },
        Persona::Verify => match Verify::try_parse_from(named("quorate verify", args)) {
            Ok(given) => ended(verify::run(given.data_dir, given.wal_dir)),
            Err(error) => usage(&error),
        },
    }
}

fn etcdutl(tool: Etcdutl) -> Result<(), String> {
    match tool.command {
        Command::Snapshot(Snapshot::Status { file }) => snapshot::status(&file, tool.write_out),
        Command::Snapshot(Snapshot::Restore(flags)) => restore::run(&flags),
        Command::Hashkv { file, rev } => snapshot::hash_kv(&file, rev, tool.write_out),
        Command::Version => {
            println!("etcdutl version: 3.7.1\nAPI version: 3.7");
            Ok(())
        }
    }
}

fn named<'a>(name: &'a str, args: &'a [String]) -> impl Iterator<Item = &'a str> {
    std::iter::once(name).chain(args.iter().map(String::as_str))
}

fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    match error.use_stderr() {
        true => ExitCode::from(EXIT_BAD_ARGS),
        false => ExitCode::SUCCESS,
    }
}

fn ended(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("Error: {why}");
            ExitCode::FAILURE
        }
    }
}
