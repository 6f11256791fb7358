//! Snapshots in both directions: real `etcdutl` judges and restores ours, real etcd boots from the result and hashes alike.

use conformance::ctl::Ctl;
use conformance::need;
use conformance::programs::{self, Program};
use conformance::server::{Launch, Server};
use std::path::Path;
use std::process::Command;

#[test]
fn real_etcd_boots_from_our_snapshot_and_has_the_same_keys_and_hash() {
    for client in ["etcd-3.5.1", "etcd-3.4"] {
        let suite = format!("snapshot taken by etcdctl of {client}");
        let etcdctl = need!(&suite, programs::peer(client, "etcdctl"));
        let etcdutl = need!(&suite, programs::peer("etcd-3.5.1", "etcdutl"));
        let etcd = need!(&suite, programs::etcd("etcd-3.5.1"));
        let ours = need!(
            &suite,
            programs::quorate().map(|program| Server::start(&program))
        );
        let ctl = Ctl::new(&etcdctl, ours.address());
        fill(&ctl);
        let folder = tempfile::tempdir().expect("a scratch folder");
        let file = folder.path().join("ours.db");
        let saved = ctl.run(&["snapshot", "save", file.to_str().expect("UTF-8")]);
        assert_eq!(saved.code, 0, "{saved:?}");
        let status = run(
            &etcdutl,
            &[
                "snapshot",
                "status",
                file.to_str().expect("UTF-8"),
                "-w",
                "json",
            ],
        );
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        assert_eq!(status["revision"], 9, "{status}");
        // etcdutl counts the entries of every bucket: the eight revisions and whatever else the member keeps.
        assert!(status["totalKey"].as_u64() >= Some(8), "{status}");

        let restored = folder.path().join("restored");
        let mut server = restore_and_boot(&etcdutl, &etcd, &file, &restored);
        let theirs = Ctl::new(&etcdctl, server.address());
        assert_same_data(&ctl, &theirs);
        assert_eq!(theirs.run(&["put", "after", "restore"]).code, 0);
        server.kill();
    }
}

#[test]
fn a_snapshot_of_a_compacted_store_keeps_its_history_bound() {
    let suite = "snapshot after compaction";
    let etcdctl = need!(suite, programs::peer("etcd-3.5.1", "etcdctl"));
    let etcdutl = need!(suite, programs::peer("etcd-3.5.1", "etcdutl"));
    let etcd = need!(suite, programs::etcd_reference());
    let ours = need!(
        suite,
        programs::quorate().map(|program| Server::start(&program))
    );
    let ctl = Ctl::new(&etcdctl, ours.address());
    fill(&ctl);
    assert_eq!(ctl.run(&["compact", "6", "--physical"]).code, 0);
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = folder.path().join("ours.db");
    assert_eq!(
        ctl.run(&["snapshot", "save", file.to_str().expect("UTF-8")])
            .code,
        0
    );
    let server = restore_and_boot(&etcdutl, &etcd, &file, &folder.path().join("restored"));
    let theirs = Ctl::new(&etcdctl, server.address());
    assert_same_data(&ctl, &theirs);
    let old = theirs.run(&["get", "a", "--rev=5"]);
    assert!(
        old.err.contains("required revision has been compacted"),
        "{old:?}"
    );
}

#[test]
fn a_cut_or_changed_snapshot_is_noticed() {
    let suite = "snapshot integrity";
    let etcdctl = need!(suite, programs::peer("etcd-3.5.1", "etcdctl"));
    let etcdutl = need!(suite, programs::peer("etcd-3.5.1", "etcdutl"));
    let ours = need!(
        suite,
        programs::quorate().map(|program| Server::start(&program))
    );
    let ctl = Ctl::new(&etcdctl, ours.address());
    fill(&ctl);
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = folder.path().join("ours.db");
    let name = file.to_str().expect("UTF-8");
    assert_eq!(ctl.run(&["snapshot", "save", name]).code, 0);
    let mut bytes = std::fs::read(&file).expect("the snapshot");
    assert_eq!(bytes.len() % 512, 32, "the hash stands at the end");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).expect("written back");
    let folder = folder.path().join("restored");
    let refused = restore(&etcdutl, &file, &folder, "127.0.0.1:1");
    assert!(!refused.status.success(), "{refused:?}");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("expected sha256"),
        "{refused:?}"
    );
}

/// Eight revisions, 2 to 9: overwrites, a deletion, a lease, an empty value.
fn fill(ctl: &Ctl) {
    for (key, value) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "")] {
        assert_eq!(ctl.run(&["put", key, value]).code, 0);
    }
    assert_eq!(ctl.run(&["del", "b"]).code, 0);
    let granted = ctl.run(&["lease", "grant", "600"]);
    let lease = granted
        .out
        .split_whitespace()
        .nth(1)
        .expect("lease <id> granted")
        .to_string();
    assert_eq!(
        ctl.run(&["put", "leased", "4", &format!("--lease={lease}")])
            .code,
        0
    );
    assert_eq!(ctl.run_with(&["txn"], "\nput d 5\nput e 6\n\n\n").code, 0);
    assert_eq!(ctl.run_with(&["put", "large"], &"x".repeat(20_000)).code, 0);
}

fn assert_same_data(ours: &Ctl, theirs: &Ctl) {
    let everything = |ctl: &Ctl| {
        let got = ctl.run(&["get", "", "--prefix", "-w", "json"]);
        let json: serde_json::Value =
            serde_json::from_str(&got.out).unwrap_or_else(|e| panic!("{e}: {got:?}"));
        (json["kvs"].clone(), json["header"]["revision"].clone())
    };
    assert_eq!(
        everything(theirs),
        everything(ours),
        "left: real etcd after the restore"
    );
    let hash = |ctl: &Ctl| {
        let got = ctl.run(&["endpoint", "hashkv", "-w", "json"]);
        let json: serde_json::Value =
            serde_json::from_str(&got.out).unwrap_or_else(|e| panic!("{e}: {got:?}"));
        json[0]["HashKV"]["hash"].clone()
    };
    assert_eq!(hash(theirs), hash(ours), "the hashes of the key space");
    let leases = |ctl: &Ctl| ctl.run(&["lease", "list"]).out;
    assert_eq!(leases(theirs), leases(ours));
}

fn restore_and_boot(etcdutl: &Program, etcd: &Program, file: &Path, folder: &Path) -> Server {
    let mut server = Launch::new(etcd).data_dir(folder).prepare();
    let done = restore(etcdutl, file, folder, &server.peer_address());
    assert!(done.status.success(), "{done:?}");
    server
        .start_again()
        .unwrap_or_else(|error| panic!("{error}"));
    server
}

fn restore(etcdutl: &Program, file: &Path, folder: &Path, peer: &str) -> std::process::Output {
    let mut command = Command::new(&etcdutl.path);
    command
        .args(["snapshot", "restore"])
        .arg(file)
        .arg("--data-dir")
        .arg(folder);
    command.args([
        "--name",
        "default",
        "--initial-cluster",
        &format!("default=http://{peer}"),
    ]);
    command.args(["--initial-advertise-peer-urls", &format!("http://{peer}")]);
    command.output().expect("etcdutl starts")
}

fn run(program: &Program, args: &[&str]) -> String {
    let done = Command::new(&program.path)
        .args(args)
        .output()
        .expect("it starts");
    assert!(done.status.success(), "{args:?}: {done:?}");
    String::from_utf8(done.stdout).expect("UTF-8")
}
