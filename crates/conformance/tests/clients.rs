//! Clients that others wrote, each with everything that its documentation shows: Python's `etcd3`, the Rust crate
//! `etcd-client`. The programs are in `clients/`; they stop at the first wrong answer. And our own load generator.

use conformance::need;
use conformance::programs::{self, Program, repository, target_folder};
use conformance::server::Server;
use std::path::PathBuf;
use std::process::Command;

#[test]
fn pythons_etcd3_works_as_documented() {
    let suite = "Python etcd3";
    let python = need!(suite, programs::peer("python", "bin/python"));
    let server = need!(
        suite,
        programs::quorate().map(|program| Server::start(&program))
    );
    let address = server.socket();
    let mut command = Command::new(&python.path);
    command.arg(repository().join("crates/conformance/clients/python/etcd3_client.py"));
    command.args([address.ip().to_string(), address.port().to_string()]);
    expect_success(suite, &mut command);
}

#[test]
fn the_rust_crate_etcd_client_works_as_documented() {
    let suite = "Rust etcd-client";
    let protoc = need!(suite, programs::peer("protoc", "bin/protoc"));
    let client = need!(suite, build_rust_client(&protoc));
    let server = need!(
        suite,
        programs::quorate().map(|program| Server::start(&program))
    );
    expect_success(suite, Command::new(client).arg(server.address()));
}

/// The loads of `quorate-bench` and what makes each short.
const LOADS: &[&[&str]] = &[
    &["preload", "--keys", "2000"],
    &["put"],
    &["put", "--rate", "500"],
    &["range"],
    &["range", "--serializable"],
    &["range-prefix", "--keys", "2000"],
    &["txn"],
    &["mixed"],
    &["watch", "--watchers", "20"],
    &["watch", "--watchers", "20", "--watched", "own-key"],
    &["lease-grant"],
    &["lease-keepalive", "--leases", "100"],
];

/// It counts wrong and missing answers as errors, and exits with 1 when there were any.
#[test]
fn every_load_of_the_generator_ends_without_errors() {
    let suite = "quorate-bench";
    let bench = need!(suite, programs::beside_quorate("quorate-bench"));
    let server = need!(
        suite,
        programs::quorate().map(|program| Server::start(&program))
    );
    for load in LOADS {
        let mut command = Command::new(&bench.path);
        command.args(*load).args([
            "--endpoints",
            &server.address(),
            "--clients",
            "20",
            "--connections",
            "4",
        ]);
        command.args(["--duration", "1", "--warmup", "0.2"]);
        if !load.contains(&"--keys") {
            command.args(["--keys", "1000"]);
        }
        expect_success(&format!("{suite} {}", load.join(" ")), &mut command);
    }
}

fn build_rust_client(protoc: &Program) -> Result<PathBuf, String> {
    let folder = target_folder().join("clients");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--quiet", "--locked"])
        .current_dir(repository().join("crates/conformance/clients/rust"));
    cargo
        .env("PROTOC", &protoc.path)
        .env("CARGO_TARGET_DIR", &folder)
        .env_remove("RUSTFLAGS");
    let built = cargo
        .output()
        .map_err(|error| format!("cargo cannot be started: {error}"))?;
    if !built.status.success() {
        return Err(format!(
            "its build failed: {}",
            String::from_utf8_lossy(&built.stderr)
        ));
    }
    Ok(folder.join("debug/etcd-client-check"))
}

fn expect_success(suite: &str, command: &mut Command) {
    let done = command
        .output()
        .unwrap_or_else(|error| panic!("{suite}: {error}"));
    let (out, err) = (
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr),
    );
    assert!(
        done.status.success(),
        "{suite}: {}\n{out}\n{err}",
        done.status
    );
}
