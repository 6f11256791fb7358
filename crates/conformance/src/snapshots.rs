//! Snapshot files between servers: the offline tools, ours and etcd's, a history with some of everything, and what two servers
//! must have in common when one was restored from the other's snapshot.

use crate::ctl::{Answer, Ctl};
use crate::programs::Program;
use crate::server::{Launch, Server};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// A program that knows `snapshot status` and `snapshot restore`.
#[derive(Clone)]
pub struct Tool {
    program: Program,
    persona: Option<&'static str>,
}

impl Tool {
    /// Real `etcdutl`, or an `etcdctl` before 3.6.
    pub fn real(program: &Program) -> Tool {
        Tool {
            program: program.clone(),
            persona: None,
        }
    }

    /// `quorate etcdutl`.
    pub fn ours(program: &Program) -> Tool {
        Tool {
            program: program.clone(),
            persona: Some("etcdutl"),
        }
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Answer {
        let mut command = Command::new(&self.program.path);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD") {
                command.env_remove(name);
            }
        }
        let done = command
            .env("ETCDCTL_API", "3")
            .args(self.persona)
            .args(args)
            .output()
            .expect("the tool starts");
        Answer {
            code: done.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&done.stdout).into_owned(),
            err: String::from_utf8_lossy(&done.stderr).into_owned(),
        }
    }

    /// `snapshot status` of a file that must be sound.
    #[track_caller]
    pub fn status(&self, file: &Path) -> Value {
        let answer = self.run(&["snapshot", "status", text(file), "-w", "json"]);
        assert_eq!(answer.code, 0, "{answer:?}");
        json(&answer)
    }

    /// `snapshot restore` for the one member that `server` will be.
    pub fn restore(&self, file: &Path, server: &Server, more: &[&str]) -> Answer {
        let peer = format!("http://{}", server.peer_address());
        let cluster = format!("default={peer}");
        let mut args = vec!["snapshot", "restore", text(file)];
        args.extend(["--data-dir", text(server.data_dir())]);
        args.extend(["--name", "default", "--initial-cluster", &cluster]);
        args.extend(["--initial-advertise-peer-urls", &peer]);
        args.extend(more);
        self.run(&args)
    }

    /// Restores a file with this tool and starts a server on the result.
    #[track_caller]
    pub fn restore_and_boot(&self, file: &Path, program: &Program, more: &[&str]) -> Server {
        let mut server = Launch::new(program).prepare();
        let done = self.restore(file, &server, more);
        assert_eq!(done.code, 0, "{done:?}");
        server
            .start_again()
            .unwrap_or_else(|error| panic!("{error}"));
        server
    }
}

/// `etcdctl snapshot save`.
#[track_caller]
pub fn save(ctl: &Ctl, file: &Path) {
    let saved = ctl.run(&["snapshot", "save", text(file)]);
    assert_eq!(saved.code, 0, "{saved:?}");
}

/// The revision that [`fill`] compacts at.
pub const COMPACTED: i64 = 20;

/// A history with some of everything: overwrites, deletions before and after a compaction, a key that came back, transactions
/// with many keys, large values, empty ones, leases with and without keys, one that was revoked. About 1,300 keys, so that
/// a backend file has branch pages, overflow pages and free ones.
pub fn fill(ctl: &Ctl) {
    let ok = |args: &[&str], input: &str| {
        let done = ctl.run_with(args, input);
        assert_eq!(done.code, 0, "{args:?}: {done:?}");
        done.out
    };
    for at in 0..20 {
        ok(
            &["put", &format!("k{}", at % 12), &format!("value {at}")],
            "",
        );
    }
    ok(&["put", "empty", ""], "");
    ok(&["del", "k3"], "");
    ok(&["put", "k3", "again"], "");
    for batch in 0..13 {
        let puts: String = (0..100)
            .map(|at| format!("put many/{batch:02}/{at:03} \"{}\"\n", "y".repeat(at * 7)))
            .collect();
        ok(&["txn"], &format!("\n{puts}\n\n"));
    }
    ok(&["del", "many/03", "--prefix"], "");
    ok(&["put", "large"], &"x".repeat(700_000));
    ok(&["put", "large", "small now"], "");
    ok(&["put", "larger"], &"z".repeat(1_000_000));
    let grant = |ttl: &str| {
        let granted = ok(&["lease", "grant", ttl], "");
        granted
            .split_whitespace()
            .nth(1)
            .expect("lease <id> granted")
            .to_owned()
    };
    let (leased, revoked) = (grant("60000"), grant("50000"));
    grant("40000");
    for (key, lease) in [
        ("leased/a", &leased),
        ("leased/b", &leased),
        ("gone", &revoked),
    ] {
        ok(&["put", key, "held", &format!("--lease={lease}")], "");
    }
    ok(&["lease", "revoke", &revoked], "");
    ok(&["compact", &COMPACTED.to_string(), "--physical"], "");
    ok(&["del", "k5"], "");
    ok(&["put", "k6", "after the compaction"], "");
    ok(&["del", "many/04", "--prefix"], "");
}

/// What two servers with the same history answer alike.
#[derive(Debug, PartialEq)]
pub struct Facts {
    pub revision: Value,
    /// Every key with value, revisions, version and lease: now, and at an older revision.
    pub keys: Value,
    pub keys_before: Value,
    /// `HashKV` up to some revisions, with the compacted revision.
    pub hashes: Vec<(Value, Value)>,
    /// Lease, granted TTL, keys.
    pub leases: Vec<(String, Value, Vec<String>)>,
}

/// Asks a server for its [`Facts`].
#[track_caller]
pub fn facts(ctl: &Ctl) -> Facts {
    let ask = |args: &[&str]| {
        let answer = ctl.run(args);
        assert_eq!(answer.code, 0, "{args:?}: {answer:?}");
        answer
    };
    let all = json(&ask(&["get", "", "--prefix", "-w", "json"]));
    let revision = all["header"]["revision"].clone();
    let newest = revision.as_i64().expect("a revision");
    let before = (COMPACTED + 5).min(newest).to_string();
    let before = format!("--rev={before}");
    let keys_before = json(&ask(&["get", "", "--prefix", "-w", "json", &before]));
    let mut hashes = Vec::new();
    for upto in [0, COMPACTED + 1, newest - 1, newest] {
        let hashed = json(&ask(&[
            "endpoint",
            "hashkv",
            "-w",
            "json",
            "--rev",
            &upto.to_string(),
        ]));
        let hashed = &hashed[0]["HashKV"];
        hashes.push((hashed["hash"].clone(), hashed["compact_revision"].clone()));
    }
    let listed = ask(&["lease", "list"]).out;
    let mut leases: Vec<_> = listed
        .lines()
        .skip(1)
        .map(|id| {
            let told = json(&ask(&["lease", "timetolive", id, "--keys", "-w", "json"]));
            let mut keys: Vec<String> = told["keys"]
                .as_array()
                .map(|keys| keys.iter().map(ToString::to_string).collect())
                .unwrap_or_default();
            keys.sort();
            (id.to_owned(), told["granted-ttl"].clone(), keys)
        })
        .collect();
    leases.sort_by(|a, b| a.0.cmp(&b.0));
    Facts {
        revision,
        keys: all["kvs"].clone(),
        keys_before: keys_before["kvs"].clone(),
        hashes,
        leases,
    }
}

/// Fails with the first part that differs, not with megabytes of keys.
#[track_caller]
pub fn assert_same(left: &Facts, right: &Facts) {
    assert_eq!(left.revision, right.revision, "revisions");
    assert_eq!(left.hashes, right.hashes, "hash and compacted revision");
    assert_eq!(left.leases, right.leases, "leases");
    for (left, right) in [
        (&left.keys, &right.keys),
        (&left.keys_before, &right.keys_before),
    ] {
        let (left, right) = (
            left.as_array().expect("keys"),
            right.as_array().expect("keys"),
        );
        assert_eq!(left.len(), right.len(), "number of keys");
        let differs = left.iter().zip(right).find(|(left, right)| left != right);
        if let Some((left, right)) = differs {
            let short = |kv: &Value| kv.to_string().chars().take(300).collect::<String>();
            panic!("{} is not {}", short(left), short(right));
        }
    }
}

/// The JSON that a command printed.
#[track_caller]
pub fn json(answer: &Answer) -> Value {
    serde_json::from_str(&answer.out).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
