//! Our snapshots in etcd's hands: real tools judge and restore them, real etcd boots from the result and has the same data, and a
//! snapshot of that etcd comes back.

use conformance::ctl::Ctl;
use conformance::grpc::{self, Grpc, block_on};
use conformance::need;
use conformance::programs::{self, Program};
use conformance::server::{Launch, Server, http_get};
use conformance::snapshots::{Tool, assert_same, facts, fill, json, save, text};
use proto::etcdserverpb as pb;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

#[test]
fn real_tools_and_ours_say_the_same_of_our_snapshot() {
    let suite = "status of our snapshot";
    let etcdctl = need!(suite, programs::peer("etcd-3.5.1", "etcdctl"));
    let etcdutl = need!(suite, programs::peer("etcd-3.5.1", "etcdutl"));
    let old = need!(suite, programs::peer("etcd-3.4", "etcdctl"));
    let quorate = need!(suite, programs::quorate());
    let server = Server::start(&quorate);
    let ctl = Ctl::new(&etcdctl, server.address());
    fill(&ctl);
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = folder.path().join("ours.db");
    save(&ctl, &file);
    let bytes = std::fs::metadata(&file).expect("the snapshot").len();
    assert_eq!(bytes % 512, 32, "the hash stands at the end");

    let ours = Tool::ours(&quorate).status(&file);
    for real in [&etcdutl, &old] {
        let theirs = Tool::real(real).status(&file);
        for field in ["hash", "revision", "totalSize"] {
            assert_eq!(ours[field], theirs[field], "{field} of {}", real.name);
        }
        // 3.5 counts the rows of all buckets, 3.6 and later (and ours) the keys that live.
        assert!(ours["totalKey"].as_u64() < theirs["totalKey"].as_u64());
    }
    let living = json(&ctl.run(&["get", "", "--prefix", "-w", "json"]));
    assert_eq!(ours["totalKey"], living["count"]);
    assert_eq!(ours["totalSize"], bytes - 32);

    // The other formats hold the same numbers as JSON, in the form of 3.5 with the version as a further column.
    let of = |tool: &Tool, format: &str| {
        tool.run(&["snapshot", "status", text(&file), "-w", format])
            .out
    };
    let count = |text: String, status: &Value| text.replace(&status["totalKey"].to_string(), "N");
    let theirs = Tool::real(&etcdutl).status(&file);
    for format in ["simple", "fields"] {
        let ours = count(of(&Tool::ours(&quorate), format), &ours);
        let theirs = count(of(&Tool::real(&etcdutl), format), &theirs);
        assert!(
            ours.starts_with(theirs.trim_end()),
            "{format}: {ours} is not {theirs} and more"
        );
    }
    let table = of(&Tool::ours(&quorate), "table");
    let titles: Vec<&str> = table
        .lines()
        .nth(1)
        .unwrap_or_default()
        .split('│')
        .map(str::trim)
        .collect();
    assert_eq!(
        titles,
        [
            "",
            "HASH",
            "REVISION",
            "TOTAL KEYS",
            "TOTAL SIZE",
            "VERSION",
            ""
        ],
        "{table}"
    );
}

#[test]
fn etcd_boots_from_our_snapshot_has_the_same_data_and_gives_it_back() {
    for (restorer, tool, boots) in [
        ("etcd-3.5.1", "etcdutl", "etcd-3.5.1"),
        ("etcd-3.4", "etcdctl", "etcd-late"),
    ] {
        let suite = format!("our snapshot, restored by {tool} of {restorer}, booted by {boots}");
        let etcdctl = need!(&suite, programs::peer("etcd-3.5.1", "etcdctl"));
        let restorer = need!(&suite, programs::peer(restorer, tool));
        let etcd = match programs::etcd(boots) {
            // The newer one cannot be had everywhere.
            Err(_) if boots == "etcd-late" => need!(&suite, programs::etcd("etcd-3.5.1")),
            found => need!(&suite, found),
        };
        let quorate = need!(&suite, programs::quorate());
        let ours = Server::start(&quorate);
        let ctl = Ctl::new(&etcdctl, ours.address());
        fill(&ctl);
        let folder = tempfile::tempdir().expect("a scratch folder");
        let [file, back] = ["ours.db", "back.db"].map(|name| folder.path().join(name));
        save(&ctl, &file);
        let expected = facts(&ctl);

        let theirs = Tool::real(&restorer).restore_and_boot(&file, &etcd, &[]);
        let their_ctl = Ctl::new(&etcdctl, theirs.address());
        assert_same(&facts(&their_ctl), &expected);
        save(&their_ctl, &back);
        assert_eq!(their_ctl.run(&["put", "after", "restore"]).code, 0);
        drop(theirs);

        let again = Tool::ours(&quorate).restore_and_boot(&back, &quorate, &[]);
        let our_ctl = Ctl::new(&etcdctl, again.address());
        assert_same(&facts(&our_ctl), &expected);
        assert_eq!(our_ctl.run(&["put", "after", "restore"]).code, 0);
    }
}

#[test]
fn alarms_travel_with_a_snapshot() {
    let suite = "alarms in a snapshot";
    let etcdctl = need!(suite, programs::peer("etcd-3.5.1", "etcdctl"));
    let etcdutl = need!(suite, programs::peer("etcd-3.5.1", "etcdutl"));
    let etcd = need!(suite, programs::etcd_reference());
    let quorate = need!(suite, programs::quorate());
    let ours = Server::start(&quorate);
    let ctl = Ctl::new(&etcdctl, ours.address());
    assert_eq!(ctl.run(&["put", "a", "1"]).code, 0);
    block_on(async {
        let server = Grpc::connect(ours.socket()).await.expect("it listens");
        let raise = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Activate as i32,
            member_id: 7,
            alarm: pb::AlarmType::Nospace as i32,
        };
        let _: pb::AlarmResponse = server.call(grpc::ALARM, &raise).await.expect("an alarm");
    });
    let folder = tempfile::tempdir().expect("a scratch folder");
    let [file, back] = ["ours.db", "back.db"].map(|name| folder.path().join(name));
    save(&ctl, &file);
    let theirs = boot_with_alarm(&Tool::real(&etcdutl), &file, &etcd);
    let their_ctl = Ctl::new(&etcdctl, theirs.address());
    save(&their_ctl, &back);
    let again = boot_with_alarm(&Tool::ours(&quorate), &back, &quorate);
    for server in [ctl, their_ctl, Ctl::new(&etcdctl, again.address())] {
        assert_eq!(
            server.run(&["alarm", "list"]).out,
            "memberID:7 alarm:NOSPACE \n"
        );
        let refused = server.run(&["put", "a", "2"]);
        assert!(
            refused.err.contains("database space exceeded"),
            "{refused:?}"
        );
        assert_eq!(server.run(&["alarm", "disarm"]).code, 0);
        assert_eq!(server.run(&["put", "a", "2"]).code, 0);
    }
}

/// Restores and boots a server that says that it is not healthy, because of the alarm.
fn boot_with_alarm(tool: &Tool, file: &Path, program: &Program) -> Server {
    let mut server = Launch::new(program).prepare();
    let done = tool.restore(file, &server, &[]);
    assert_eq!(done.code, 0, "{done:?}");
    server.start_without_waiting().expect("it starts");
    for _ in 0..600 {
        let health = http_get(server.socket(), "/health");
        if health.is_ok_and(|health| health.body.contains("NOSPACE")) {
            return server;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("no alarm: {}", server.log());
}

#[test]
fn real_etcdutl_notices_a_changed_byte_of_our_snapshot() {
    let suite = "snapshot integrity";
    let etcdctl = need!(suite, programs::peer("etcd-3.5.1", "etcdctl"));
    let etcdutl = need!(suite, programs::peer("etcd-3.5.1", "etcdutl"));
    let ours = need!(
        suite,
        programs::quorate().map(|program| Server::start(&program))
    );
    let ctl = Ctl::new(&etcdctl, ours.address());
    assert_eq!(ctl.run(&["put", "a", "1"]).code, 0);
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = folder.path().join("ours.db");
    save(&ctl, &file);
    let mut bytes = std::fs::read(&file).expect("the snapshot");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).expect("written back");
    let target = folder.path().join("restored");
    let refused = Tool::real(&etcdutl).run(&[
        "snapshot",
        "restore",
        text(&file),
        "--data-dir",
        text(&target),
    ]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.err.contains("expected sha256"), "{refused:?}");
}
