//! A disk that fills up: the member may refuse or stop, but what it acknowledged is there when there is room again.
//!
//! The data folder is a small memory file system, so this needs the right to mount one.

use conformance::grpc::{self, Failure, Grpc, block_on};
use conformance::need;
use conformance::programs;
use conformance::server::{Launch, Server};
use conformance::suite::note;
use proto::etcdserverpb as pb;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Room for a fresh member's two log segments and little more.
const SMALL: &str = "size=200m";
const LARGE: &str = "size=1g";
const VALUE_SIZE: usize = 200_000;
const KEYS: u64 = 50;

#[test]
fn a_full_disk_loses_nothing_that_was_acknowledged() {
    let suite = "full disk";
    let program = need!(suite, programs::quorate());
    let disk = need!(suite, SmallDisk::mount());
    let mut server = Launch::new(&program)
        .data_dir(&disk.folder.join("data"))
        .start();
    let (acknowledged, refusal) = block_on(fill_up(&server));
    let count: u64 = acknowledged.values().sum();
    note(&format!(
        "disk_full: {count} puts of {VALUE_SIZE} bytes, then: {refusal}; running: {}",
        server.is_running()
    ));
    if server.is_running() {
        // Whoever goes on must still answer what it has.
        block_on(check(&server, &acknowledged));
        server.kill();
    } else {
        assert_ne!(
            server.exit_status(),
            Some(0),
            "it stopped as if all were well"
        );
        assert!(
            server.log().to_lowercase().contains("no space left"),
            "it does not say why: {}",
            server.log()
        );
        server.kill();
    }
    disk.enlarge();
    server
        .start_again()
        .unwrap_or_else(|error| panic!("{error}"));
    block_on(check(&server, &acknowledged));
}

/// Puts rotating keys until the server refuses; returns how often each key was acknowledged, and the refusal.
async fn fill_up(server: &Server) -> (BTreeMap<u64, u64>, Failure) {
    let connection = Grpc::connect(server.socket()).await.expect("it is ready");
    let mut acknowledged = BTreeMap::new();
    for turn in 0..20_000 {
        let (key, number) = (turn % KEYS, turn / KEYS + 1);
        let request = pb::PutRequest {
            key: key_name(key).into(),
            value: value(number).into(),
            ..Default::default()
        };
        match connection
            .call::<_, pb::PutResponse>(grpc::PUT, &request)
            .await
        {
            Ok(_) => _ = acknowledged.insert(key, number),
            Err(refusal) => return (acknowledged, refusal),
        }
    }
    panic!("4 GB were written to a disk of 200 MB");
}

async fn check(server: &Server, acknowledged: &BTreeMap<u64, u64>) {
    let connection = Grpc::connect(server.socket()).await.expect("it is ready");
    for (key, number) in acknowledged {
        let request = pb::RangeRequest {
            key: key_name(*key).into(),
            ..Default::default()
        };
        let answer: pb::RangeResponse = connection
            .call(grpc::RANGE, &request)
            .await
            .expect("reads go on");
        let found = answer
            .kvs
            .first()
            .map(|kv| kv.value.clone())
            .unwrap_or_default();
        // The put that was refused may have been written all the same.
        let right = found == value(*number).as_bytes() || found == value(*number + 1).as_bytes();
        assert!(
            right,
            "{} has not the value of its put number {number}",
            key_name(*key)
        );
    }
}

fn key_name(key: u64) -> String {
    format!("key-{key}")
}

fn value(number: u64) -> String {
    format!("{number:020}").repeat(VALUE_SIZE / 20)
}

/// A memory file system of its own, gone when dropped.
struct SmallDisk {
    folder: PathBuf,
    _scratch: tempfile::TempDir,
}

impl SmallDisk {
    fn mount() -> Result<SmallDisk, String> {
        let scratch = tempfile::tempdir().map_err(|e| e.to_string())?;
        let folder = scratch.path().join("disk");
        std::fs::create_dir(&folder).map_err(|e| e.to_string())?;
        mount(&["-t", "tmpfs", "-o", SMALL, "tmpfs"], &folder)?;
        Ok(SmallDisk {
            folder,
            _scratch: scratch,
        })
    }

    fn enlarge(&self) {
        mount(&["-o", &format!("remount,{LARGE}")], &self.folder)
            .expect("the same right as before");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(&self.folder)
            .status();
    }
}

fn mount(arguments: &[&str], folder: &Path) -> Result<(), String> {
    let done = Command::new("mount")
        .args(arguments)
        .arg(folder)
        .output()
        .map_err(|e| format!("mount: {e}"))?;
    if done.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&done.stderr).trim().to_string())
    }
}
