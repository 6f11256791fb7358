//! The commands and flags of `etcdutl`, as one table, and the way from arguments to a command.
//!
//! clap parses; help and complaints are written by [`crate::usage`] as etcd's tool writes them. Names, types, defaults and
//! help texts: upstream `etcdutl/ctl.go` and `etcdutl/etcdutl/*_command.go`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};

use crate::printer::Printer;
use crate::{Failure, defrag, hashkv, restore, status, usage};

/// The version of etcd whose tool this is.
const VERSION: &str = "3.7.1";
const API_VERSION: &str = "3.7";

#[derive(Parser)]
#[command(name = "etcdutl", infer_subcommands = true)]
struct Etcdutl {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Flags of every command.
#[derive(Args)]
pub(crate) struct Global {
    /// time to wait to obtain a file lock on db file, 0 to block indefinitely
    #[arg(long, global = true, value_name = "duration", default_value = "10s", value_parser = duration, allow_hyphen_values = true)]
    pub(crate) timeout: Duration,
    /// set the output format (fields, json, protobuf, simple, table)
    #[arg(
        short,
        long,
        global = true,
        value_name = "string",
        default_value = "simple"
    )]
    pub(crate) write_out: String,
}

#[derive(Subcommand)]
enum Command {
    /// Generate completion script
    #[command(override_usage = "etcdutl completion [bash|zsh|fish|powershell]")]
    Completion {
        #[arg(hide = true)]
        shell: Vec<String>,
    },
    /// Defragments the storage of the etcd
    Defrag {
        #[arg(
            long,
            help = "Required. Defragments a data directory not in use by etcd.",
            value_name = "string",
            required = true,
            value_hint = clap::ValueHint::DirPath
        )]
        data_dir: PathBuf,
        #[arg(hide = true)]
        rest: Vec<String>,
    },
    /// Prints the KV history hash of a given file
    #[command(override_usage = "etcdutl hashkv <filename> [flags]")]
    Hashkv {
        #[arg(hide = true)]
        file: Vec<PathBuf>,
        /// maximum revision to hash (default: latest revision)
        #[arg(
            long,
            value_name = "int",
            default_value = "0",
            value_parser = int,
            allow_hyphen_values = true
        )]
        rev: i64,
    },
    /// Manages etcd node snapshots
    #[command(infer_subcommands = true)]
    Snapshot {
        #[command(subcommand)]
        command: Option<Snapshot>,
    },
    /// Prints the version of etcdutl
    Version {
        #[arg(hide = true)]
        rest: Vec<String>,
    },
}

#[derive(Subcommand)]
enum Snapshot {
    /// Restores an etcd member snapshot to an etcd directory
    Restore(Box<Restore>),
    /// Gets backend snapshot status of a given file
    #[command(override_usage = "etcdutl snapshot status <filename> [flags]")]
    Status {
        #[arg(hide = true)]
        file: Vec<PathBuf>,
    },
}

/// Flags of `snapshot restore`.
#[derive(Args)]
#[command(
    override_usage = "etcdutl snapshot restore <filename> --data-dir {output dir} [options] [flags]"
)]
pub(crate) struct Restore {
    #[arg(hide = true)]
    pub(crate) file: Vec<PathBuf>,
    /// How much to increase the latest revision after restore
    #[arg(long, value_name = "uint", default_value = "0", value_parser = uint, allow_hyphen_values = true)]
    pub(crate) bump_revision: u64,
    /// Path to the output data directory
    #[arg(long, value_name = "string", value_hint = clap::ValueHint::DirPath)]
    pub(crate) data_dir: Option<PathBuf>,
    /// List of this member's peer URLs to advertise to the rest of the cluster
    #[arg(long, value_name = "string", default_value = "http://localhost:2380")]
    pub(crate) initial_advertise_peer_urls: String,
    /// Initial cluster configuration for restore bootstrap
    #[arg(
        long,
        value_name = "string",
        default_value = "default=http://localhost:2380"
    )]
    pub(crate) initial_cluster: String,
    /// Initial cluster token for the etcd cluster during restore bootstrap
    #[arg(long, value_name = "string", default_value = "etcd-cluster")]
    pub(crate) initial_cluster_token: String,
    /// Initial memory map size of the database in bytes. Accepted and without effect: nothing is mapped here
    #[arg(long, value_name = "uint", default_value = "0", value_parser = uint, allow_hyphen_values = true)]
    pub(crate) initial_memory_map_size: u64,
    /// Mark the latest revision after restore as the point of scheduled compaction (required if --bump-revision > 0, disallowed otherwise)
    #[arg(long, value_name = "bool", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean)]
    pub(crate) mark_compacted: bool,
    /// Human-readable name for this member
    #[arg(long, value_name = "string", default_value = "default")]
    pub(crate) name: String,
    /// Ignore snapshot integrity hash value (required if copied from data directory)
    #[arg(long, value_name = "bool", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean)]
    pub(crate) skip_hash_check: bool,
    /// Path to the WAL directory (use --data-dir if none given)
    #[arg(long, value_name = "string", value_hint = clap::ValueHint::DirPath)]
    pub(crate) wal_dir: Option<PathBuf>,
}

/// Runs the command that `args` name.
pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let named = std::iter::once("etcdutl").chain(args.iter().map(String::as_str));
    let tool = match Etcdutl::try_parse_from(named) {
        Ok(tool) => tool,
        Err(error) => return usage::answer(&Etcdutl::command(), args, &error),
    };
    let Global { timeout, write_out } = tool.global;
    match tool.command {
        None | Some(Command::Snapshot { command: None }) => {
            print!("{}", usage::of(&Etcdutl::command(), args));
            Ok(())
        }
        Some(Command::Completion { shell }) => completion(&shell),
        Some(Command::Defrag { data_dir, .. }) => defrag::run(&data_dir, timeout),
        Some(Command::Hashkv { file, rev }) => {
            let file = only(&file)
                .ok_or_else(|| format!("accepts 1 arg(s), received {}", file.len()))
                .map_err(|why| usage::complain(&Etcdutl::command(), args, &why))?;
            hashkv::run(file, rev, Printer::new(&write_out)?)
        }
        Some(Command::Snapshot {
            command: Some(Snapshot::Status { file }),
        }) => {
            let file = only(&file).ok_or_else(|| {
                Failure::bad_args("snapshot status requires exactly one argument")
            })?;
            status::run(file, &write_out)
        }
        Some(Command::Snapshot {
            command: Some(Snapshot::Restore(flags)),
        }) => restore::run(&flags),
        Some(Command::Version { .. }) => {
            println!("etcdutl version: {VERSION}\nAPI version: {API_VERSION}");
            Ok(())
        }
    }
}

fn completion(shell: &[String]) -> Result<(), Failure> {
    use clap_complete::Shell;
    let shell = match shell {
        [shell] => shell,
        _ => return Err(format!("accepts 1 arg(s), received {}", shell.len()).into()),
    };
    let shell = match shell.as_str() {
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        "powershell" => Shell::PowerShell,
        other => {
            return Err(format!("invalid argument {other:?} for \"etcdutl completion\"").into());
        }
    };
    let mut table = Etcdutl::command();
    clap_complete::generate(shell, &mut table, "etcdutl", &mut std::io::stdout());
    Ok(())
}

/// The one item, if there is exactly one.
fn only<T>(items: &[T]) -> Option<&T> {
    match items {
        [item] => Some(item),
        _ => None,
    }
}

/// Numbers and flags as Go's parser takes them, with its complaints.
fn uint(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("strconv.ParseUint: parsing {text:?}: invalid syntax"))
}

/// As [`uint`].
fn int(text: &str) -> Result<i64, String> {
    text.parse()
        .map_err(|_| format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
}

/// As [`uint`].
fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!(
            "strconv.ParseBool: parsing {text:?}: invalid syntax"
        )),
    }
}

/// A duration as Go writes it: `10s`, `1m30s`, `500ms`, `0`.
fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(|| format!("time: missing unit in duration {text:?}"))?;
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        let unit = &rest[digits..];
        let end = unit
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(unit.len());
        total += number
            * match &unit[..end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "\u{b5}s" => 1e-6,
                "ns" => 1e-9,
                other => return Err(format!("time: unknown unit {other:?} in duration {text:?}")),
            };
        rest = &unit[end..];
    }
    if text.is_empty() {
        return Err(invalid());
    }
    Duration::try_from_secs_f64(total).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, ms) in [
            ("10s", 10_000),
            ("0", 0),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("20ms", 20),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "s", "5 s", "-1s", "1d", "."] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_table_is_sound() {
        Etcdutl::command().debug_assert();
    }
}
