//! etcd's snapshots in our hands: files of real etcd, saved over the wire or copied out of a stopped member, are judged as etcd's
//! own tool judges them, restored, and served with the same data; and they go back.

use conformance::ctl::Ctl;
use conformance::need;
use conformance::programs::{self, Program};
use conformance::server::{Launch, Server};
use conformance::snapshots::{Facts, Tool, assert_same, facts, fill, json, save, text};
use rustix::process::Signal;
use std::path::{Path, PathBuf};

/// A real etcd that has been filled and stopped: what it answered, its snapshot, and its backend file.
struct Source {
    facts: Facts,
    saved: PathBuf,
    copied: PathBuf,
    _folder: tempfile::TempDir,
}

fn source(etcd: &Program, etcdctl: &Program) -> Source {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let [saved, copied] = ["saved.db", "copied.db"].map(|name| folder.path().join(name));
    let mut server = Server::start(etcd);
    let ctl = Ctl::new(etcdctl, server.address());
    fill(&ctl);
    let facts = facts(&ctl);
    save(&ctl, &saved);
    server.stop(Signal::TERM).expect("it stops");
    std::fs::copy(server.data_dir().join("member/snap/db"), &copied).expect("the backend file");
    Source {
        facts,
        saved,
        copied,
        _folder: folder,
    }
}

#[test]
fn files_of_every_etcd_are_judged_restored_and_served_alike() {
    let suite = "snapshots of etcd";
    let etcdctl = need!(suite, programs::peer("etcd-3.5.1", "etcdctl"));
    let etcdutl = need!(suite, programs::peer("etcd-3.5.1", "etcdutl"));
    let quorate = need!(suite, programs::quorate());
    let (real, ours) = (Tool::real(&etcdutl), Tool::ours(&quorate));
    for version in ["etcd-3.4", "etcd-3.5.1", "etcd-late"] {
        let etcd = match programs::etcd(version) {
            Err(_) if version == "etcd-late" => continue,
            found => need!(suite, found),
        };
        let source = source(&etcd, &etcdctl);
        for (file, more) in [
            (&source.saved, &[][..]),
            (&source.copied, &["--skip-hash-check"]),
        ] {
            let (theirs, said) = (real.status(file), ours.status(file));
            for field in ["hash", "revision", "totalSize"] {
                assert_eq!(said[field], theirs[field], "{field}, {version}");
            }
            assert_eq!(said["totalKey"], living(&source.facts), "{version}");
            let hashed = json(&ours.run(&["hashkv", text(file), "-w", "json"]));
            assert_eq!(hashed["hash"], source.facts.hashes[0].0, "{version}");
            let server = ours.restore_and_boot(file, &quorate, more);
            let ctl = Ctl::new(&etcdctl, server.address());
            assert_same(&facts(&ctl), &source.facts);
            assert_eq!(ctl.run(&["put", "after", "restore"]).code, 0);
        }
        let refused = Launch::new(&quorate).prepare();
        let answer = ours.restore(&source.copied, &refused, &[]);
        assert_eq!(answer.code, 1, "{answer:?}");
        assert!(
            answer
                .err
                .contains("snapshot missing hash but --skip-hash-check=false"),
            "{answer:?}"
        );
        assert!(!refused.data_dir().exists());
    }
}

fn living(facts: &Facts) -> usize {
    facts.keys.as_array().map_or(0, Vec::len)
}

#[test]
fn what_was_restored_is_written_as_the_same_snapshot_again() {
    let suite = "a snapshot of a restored snapshot";
    let etcdctl = need!(suite, programs::peer("etcd-3.5.1", "etcdctl"));
    let etcdutl = need!(suite, programs::peer("etcd-3.5.1", "etcdutl"));
    let etcd = need!(suite, programs::etcd_reference());
    let quorate = need!(suite, programs::quorate());
    let source = source(&etcd, &etcdctl);
    let server = Tool::ours(&quorate).restore_and_boot(&source.saved, &quorate, &[]);
    let ctl = Ctl::new(&etcdctl, server.address());
    let folder = tempfile::tempdir().expect("a scratch folder");
    let again = folder.path().join("again.db");
    save(&ctl, &again);
    // Members, applied index and term differ by nature; the history must not.
    for tool in [Tool::real(&etcdutl), Tool::ours(&quorate)] {
        let (before, after) = (tool.status(&source.saved), tool.status(&again));
        assert_eq!(before["revision"], after["revision"]);
    }
    let hash = |file: &Path| Tool::ours(&quorate).run(&["hashkv", text(file)]).out;
    assert_eq!(hash(&source.saved), hash(&again));
    let booted = Tool::real(&etcdutl).restore_and_boot(&again, &etcd, &[]);
    assert_same(&facts(&Ctl::new(&etcdctl, booted.address())), &source.facts);
}

#[test]
fn a_raised_revision_is_above_all_that_clients_have_seen_and_the_past_is_compacted() {
    let suite = "--bump-revision";
    let etcdctl = need!(suite, programs::peer("etcd-3.5.1", "etcdctl"));
    let quorate = need!(suite, programs::quorate());
    let server = Server::start(&quorate);
    let ctl = Ctl::new(&etcdctl, server.address());
    fill(&ctl);
    let before = facts(&ctl);
    let newest = before.revision.as_i64().expect("a revision");
    let folder = tempfile::tempdir().expect("a scratch folder");
    let [file, bumped] = ["ours.db", "bumped.db"].map(|name| folder.path().join(name));
    save(&ctl, &file);
    let tool = Tool::ours(&quorate);
    let flags = ["--bump-revision", "1000000", "--mark-compacted"];
    let raised = tool.restore_and_boot(&file, &quorate, &flags);
    let ctl = Ctl::new(&etcdctl, raised.address());
    let after = json(&ctl.run(&["get", "", "--prefix", "-w", "json"]));
    assert_eq!(after["header"]["revision"], newest + 1_000_000);
    assert_eq!(
        after["kvs"], before.keys,
        "every key, with its old revisions"
    );
    // Whoever watched the old cluster learns that it must read again.
    let old = ctl.run(&["get", "k1", &format!("--rev={newest}")]);
    assert!(
        old.err.contains("required revision has been compacted"),
        "{old:?}"
    );
    let put = json(&ctl.run(&["put", "k1", "new", "-w", "json"]));
    assert_eq!(put["header"]["revision"], newest + 1_000_001);
    // A snapshot of it, with the empty record that marks the new revision, is a sound one, here and there.
    save(&ctl, &bumped);
    let status = tool.status(&bumped);
    assert_eq!(status["revision"], newest + 1_000_001);
    let again = tool.restore_and_boot(&bumped, &quorate, &[]);
    let expected = facts_of_keys(&ctl);
    assert_eq!(
        facts_of_keys(&Ctl::new(&etcdctl, again.address())),
        expected
    );
    let etcdutl = need!(suite, programs::peer("etcd-3.5.1", "etcdutl"));
    let etcd = need!(suite, programs::etcd_reference());
    let theirs = Tool::real(&etcdutl).restore_and_boot(&bumped, &etcd, &[]);
    assert_eq!(
        facts_of_keys(&Ctl::new(&etcdctl, theirs.address())),
        expected
    );
}

/// Revision, keys and hash.
fn facts_of_keys(ctl: &Ctl) -> [serde_json::Value; 3] {
    let all = json(&ctl.run(&["get", "", "--prefix", "-w", "json"]));
    let hashed = json(&ctl.run(&["endpoint", "hashkv", "-w", "json"]));
    [
        all["header"]["revision"].clone(),
        all["kvs"].clone(),
        hashed[0]["HashKV"]["hash"].clone(),
    ]
}

#[test]
fn flags_choose_directories_name_and_cluster() {
    let suite = "flags of snapshot restore";
    let etcdctl = need!(suite, programs::peer("etcd-3.5.1", "etcdctl"));
    let quorate = need!(suite, programs::quorate());
    let server = Server::start(&quorate);
    let ctl = Ctl::new(&etcdctl, server.address());
    assert_eq!(ctl.run(&["put", "a", "1"]).code, 0);
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = folder.path().join("ours.db");
    save(&ctl, &file);
    let wal_dir = folder.path().join("log/of/it");
    let wal_flags = ["--wal-dir".to_owned(), text(&wal_dir).to_owned()];
    let token = ["--initial-cluster-token".to_owned(), "another".to_owned()];
    let flags: Vec<&str> = wal_flags.iter().chain(&token).map(String::as_str).collect();
    let tool = Tool::ours(&quorate);

    let mut restored = Launch::new(&quorate)
        .flags(wal_flags.iter().chain(&token))
        .prepare();
    let done = tool.restore(&file, &restored, &flags);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(wal_dir.is_dir() && !restored.data_dir().join("member/wal").exists());
    restored.start_again().expect("it starts");
    let ctl = Ctl::new(&etcdctl, restored.address());
    assert_eq!(ctl.run(&["get", "a"]).out, "a\n1\n");
    // Both directories are in use now.
    let refused = tool.restore(&file, &restored, &flags);
    assert!(
        refused.err.contains("not empty or could not be read"),
        "{refused:?}"
    );
    let fresh = Launch::new(&quorate).prepare();
    let refused = tool.restore(&file, &fresh, &flags);
    assert!(
        refused
            .err
            .contains(&format!("wal-dir {:?} exists", text(&wal_dir))),
        "{refused:?}"
    );
    assert!(!fresh.data_dir().exists());
}

#[test]
fn a_restored_member_starts_without_the_flags_it_was_restored_with() {
    let suite = "a restored member's start";
    let etcdctl = need!(suite, programs::peer("etcd-3.5.1", "etcdctl"));
    let quorate = need!(suite, programs::quorate());
    let source = Server::start(&quorate);
    let ctl = Ctl::new(&etcdctl, source.address());
    assert_eq!(ctl.run(&["put", "a", "1"]).code, 0);
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = folder.path().join("ours.db");
    save(&ctl, &file);
    // etcd's guide to recovery names the cluster for the restore, and only URLs and a data directory for the start.
    let mut restored = Launch::new(&quorate).without_founding().prepare();
    let done =
        Tool::ours(&quorate).restore(&file, &restored, &["--initial-cluster-token", "recovered"]);
    assert_eq!(done.code, 0, "{done:?}");
    restored.start_again().expect("it starts");
    let ctl = Ctl::new(&etcdctl, restored.address());
    assert_eq!(ctl.run(&["get", "a"]).out, "a\n1\n");
    let members = ctl.run(&["member", "list"]).out;
    restored.stop(Signal::TERM).expect("it stops");
    restored.start_again().expect("it starts again");
    assert_eq!(ctl.run(&["member", "list"]).out, members);
    drop(restored);
    // A cluster that is named and is another one is still a mistake worth telling.
    let mut other = Launch::new(&quorate)
        .flags(["--initial-cluster-token", "another"])
        .prepare();
    let done = Tool::ours(&quorate).restore(&file, &other, &[]);
    assert_eq!(done.code, 0, "{done:?}");
    other.start_without_waiting().expect("it starts");
    other.wait_end().expect("it ends");
    assert!(
        other.log().contains("belongs to another cluster"),
        "{}",
        other.log()
    );
}
