//! Where the programs are: ours, real etcd's, and the clients.
//!
//! Nothing here installs or builds anything except our own server, and that only when a test of this crate alone is run and
//! cargo had no reason to build it. A program that is absent is an `Err` with the command that would bring it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A program to start: ours or a peer. The name goes into messages.
#[derive(Clone, Debug)]
pub struct Program {
    pub name: String,
    pub path: PathBuf,
}

/// The server under test: `QUORATE_BIN`, or what cargo built beside this test.
pub fn quorate() -> Result<Program, String> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let path = FOUND.get_or_init(find_quorate).clone()?;
    Ok(Program {
        name: "quorate".into(),
        path,
    })
}

/// Real etcd from folder `folder` of the peers: `etcd-3.5.1`, `etcd-3.4`, `etcd-late`.
pub fn etcd(folder: &str) -> Result<Program, String> {
    peer(folder, "etcd")
}

/// The folder named by `QUORATE_REFERENCE`, or the best reference that is here: the newest etcd 3.5, else 3.5.1, which has bugs that
/// later ones have not.
pub fn etcd_reference() -> Result<Program, String> {
    match std::env::var("QUORATE_REFERENCE") {
        Ok(folder) => etcd(&folder),
        Err(_) => etcd("etcd-late").or_else(|_| etcd("etcd-3.5.1")),
    }
}

/// A program below the peers' folder.
pub fn peer(folder: &str, program: &str) -> Result<Program, String> {
    let path = peers_folder().join(folder).join(program);
    if !path.is_file() {
        return Err(format!(
            "{} is not there (scripts/install-peers.sh brings it)",
            path.display()
        ));
    }
    Ok(Program {
        name: folder.into(),
        path,
    })
}

/// A binary of this workspace other than the server, beside the server: `quorate-bench`.
pub fn beside_quorate(name: &str) -> Result<Program, String> {
    let path = quorate()?.path.with_file_name(name);
    if !path.is_file() {
        return Err(format!(
            "{} is not there (cargo build --release --workspace)",
            path.display()
        ));
    }
    Ok(Program {
        name: name.into(),
        path,
    })
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("the crate lies two folders below the root")
        .to_path_buf()
}

/// The folder that cargo builds into, found from the running test (`<target>/<profile>/deps/<test>`).
pub fn target_folder() -> PathBuf {
    profile_folder()
        .parent()
        .map_or_else(|| repository().join("target"), Path::to_path_buf)
}

fn peers_folder() -> PathBuf {
    std::env::var_os("QUORATE_PEERS").map_or_else(|| target_folder().join("peers"), PathBuf::from)
}

fn profile_folder() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    test.ancestors()
        .nth(2)
        .expect("cargo puts tests two folders below the target folder")
        .to_path_buf()
}

fn find_quorate() -> Result<PathBuf, String> {
    if let Some(given) = std::env::var_os("QUORATE_BIN") {
        let path = PathBuf::from(given);
        assert!(path.is_file(), "QUORATE_BIN={} is no file", path.display());
        return Ok(path.canonicalize().unwrap_or(path));
    }
    let profile = profile_folder();
    let built = profile.join("quorate");
    if !built.is_file() {
        let mut build = Command::new(env!("CARGO"));
        build
            .args(["build", "--quiet", "-p", "quorate", "--target-dir"])
            .arg(target_folder())
            .current_dir(repository());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        let done = build
            .status()
            .map_err(|error| format!("cargo cannot be started: {error}"))?;
        if !done.success() || !built.is_file() {
            return Err(format!("cargo build -p quorate: {done}"));
        }
    }
    crate::suite::note(&format!("conformance: testing {}", built.display()));
    Ok(built)
}

/// What suites try that can try either: our program, or the etcd whose folder among the peers `QUORATE_UNDER_TEST` names, to see what is
/// the suite's fault.
pub fn under_test() -> Result<Program, String> {
    match std::env::var("QUORATE_UNDER_TEST") {
        Ok(folder) => etcd(&folder),
        Err(_) => quorate(),
    }
}
