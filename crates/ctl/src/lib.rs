//! The offline tools: `etcdutl` for snapshot files and data directories, and `quorate verify` for a data directory.
//!
//! What it is: what an operator does with files while no member runs on them. Arguments, output, messages and exit codes are
//! those of etcd 3.7's `etcdutl` where it has them; the differences stand in `docs/compat.md`.
//!
//! What it never does: it talks to no server (etcd's own `etcdctl` does that), and it changes no data directory but the one
//! that `snapshot restore` creates and the one that `defrag` is given.
//!
//! Start with [`run`]; `etcdutl.rs` has the table of commands and flags.

mod defrag;
mod etcdutl;
mod hashkv;
mod initial_cluster;
mod printer;
mod restore;
mod snapshot_file;
mod status;
mod usage;
mod verify;

use std::path::Path;
use std::process::ExitCode;

/// Which tool is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persona {
    /// `etcdutl`: arguments as those of etcd's tool.
    Etcdutl,
    /// `quorate verify DATA-DIR`: arguments behind the word `verify`.
    Verify,
}

/// Runs a tool with its arguments (without the program's name) and says how it ended: 0; 1 for a failure; 4 for an output
/// format that there is not; 128 for the wrong number of files.
pub fn run(persona: Persona, args: &[String]) -> ExitCode {
    let result = match persona {
        Persona::Etcdutl => etcdutl::run(args),
        Persona::Verify => verify::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("Error: {}", failure.text);
            ExitCode::from(failure.code)
        }
    }
}

/// How a command failed: what it says behind `Error: `, and its exit code.
#[derive(Debug)]
struct Failure {
    text: String,
    code: u8,
}

/// Exit codes other than 1. Source: upstream `pkg/cobrautl/error.go`.
const EXIT_BAD_FEATURE: u8 = 4;
const EXIT_BAD_ARGS: u8 = 128;

impl Failure {
    fn bad_args(text: impl Into<String>) -> Failure {
        Failure {
            text: text.into(),
            code: EXIT_BAD_ARGS,
        }
    }

    fn bad_feature(text: impl Into<String>) -> Failure {
        Failure {
            text: text.into(),
            code: EXIT_BAD_FEATURE,
        }
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure { text, code: 1 }
    }
}

impl From<storage::fault::Fault> for Failure {
    fn from(fault: storage::fault::Fault) -> Failure {
        fault.to_string().into()
    }
}

/// What the operating system said of a file, as etcd's tools print it: `open a.db: no such file or directory`.
fn os_error(doing: &str, path: &Path, error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
    let text: String = first.into_iter().chain(letters).collect();
    format!("{doing} {}: {text}", path.display())
}
