//! The offline personas of the one binary: `etcdutl` answers as etcd's tool does, `defrag` gives space back, and `verify` finds what
//! is damaged and changes nothing.

use conformance::ctl::{Answer, Ctl};
use conformance::need;
use conformance::programs::{self, Program};
use conformance::server::{Launch, Server};
use conformance::snapshots::{Tool, assert_same, facts, fill, text};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn mistakes_have_the_texts_and_exit_codes_of_the_real_tool() {
    let suite = "etcdutl: mistakes";
    let quorate = need!(suite, programs::quorate());
    let etcdutl = need!(suite, programs::peer("etcd-3.5.1", "etcdutl"));
    let (ours, real) = (Tool::ours(&quorate), Tool::real(&etcdutl));
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = folder.path().join("a-file");
    std::fs::write(&file, [b'x'; 100]).expect("a file");
    let (file, target) = (text(&file), folder.path().join("target"));
    let to_target = |more: &[&'static str]| {
        let all = ["snapshot", "restore", file, "--data-dir", text(&target)];
        [&all[..], more]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<String>>()
    };
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<String>>();
    let mut cases: Vec<Vec<String>> = [
        "snapshot status",
        "snapshot status a b",
        "snapshot status absent",
        "unknown",
        "--bogus",
        "snapshot status --bogus",
        "snapshot status -x",
        "defrag",
    ]
    .map(words)
    .into();
    cases.push(
        ["snapshot", "status", file, "-w", "no-format"]
            .map(str::to_owned)
            .into(),
    );
    cases.push(to_target(&[]));
    cases.push(to_target(&["--bogus"]));
    cases.push(to_target(&["--initial-cluster", "x"]));
    cases.push(to_target(&[
        "--initial-cluster",
        "default=http://127.0.0.1",
    ]));
    cases.push(to_target(&[
        "--initial-cluster",
        "default=http://127.0.0.1:1/path",
    ]));
    cases.push(to_target(&["--name", "nobody"]));
    cases.push(to_target(&[
        "--initial-advertise-peer-urls",
        "http://localhost:1",
    ]));
    cases.push(to_target(&[
        "--initial-cluster",
        "default=http://localhost:2380,b=http://localhost:2380",
    ]));
    for args in &cases {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (got, expected) = (ours.run(&args), real.run(&args));
        let complaint = |answer: &Answer| {
            let mut lines = answer
                .err
                .lines()
                .filter(|line| line.starts_with("Error: "));
            // Versions differ in how they tell, in parentheses, what a name resolves to.
            let first = |line: &str| line.split(" (").next().map(str::to_owned);
            lines.find_map(first)
        };
        assert_eq!(complaint(&got), complaint(&expected), "{args:?}");
        assert_eq!(got.code, expected.code, "{args:?}");
        let _ = std::fs::remove_dir_all(&target);
    }
    // Where 3.7 says something else than 3.5.1, or has what that has not.
    for (line, code, says) in [
        (
            "snapshot restore",
            128,
            "snapshot restore requires exactly one argument",
        ),
        (
            "snapshot restore --bump-revision 5 x",
            128,
            "--mark-compacted required if --revision-bump > 0",
        ),
        (
            "snapshot restore --mark-compacted x",
            128,
            "--mark-compacted required if --revision-bump > 0",
        ),
        (
            "snapshot restore --bump-revision x x",
            1,
            "invalid argument \"x\" for \"--bump-revision\" flag: strconv.ParseUint: parsing \"x\": invalid syntax",
        ),
        ("hashkv", 1, "accepts 1 arg(s), received 0"),
        ("hashkv absent", 1, "stat absent: no such file or directory"),
        (
            "completion tcsh",
            1,
            "invalid argument \"tcsh\" for \"etcdutl completion\"",
        ),
        (
            "defrag --data-dir absent",
            1,
            "Failed to defragment etcd data[absent] (stat absent/member/store: no such file or directory)",
        ),
        (
            "snapshot unknown",
            1,
            "unknown command \"unknown\" for \"etcdutl snapshot\"",
        ),
        (
            "--timeout 5 version",
            1,
            "invalid argument \"5\" for \"--timeout\" flag: time: missing unit in duration \"5\"",
        ),
    ] {
        let got = ours.run(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(got.code, code, "{line}: {got:?}");
        assert_eq!(
            got.err.lines().next(),
            Some(format!("Error: {says}").as_str()),
            "{line}"
        );
    }
}

#[test]
fn help_has_the_form_of_the_real_tool_and_the_program_answers_to_its_name() {
    let suite = "etcdutl: help";
    let quorate = need!(suite, programs::quorate());
    let ours = Tool::ours(&quorate);
    let version = ours.run(&["version"]);
    assert_eq!(version.out, "etcdutl version: 3.7.1\nAPI version: 3.7\n");
    let folder = tempfile::tempdir().expect("a scratch folder");
    let link = folder.path().join("etcdutl");
    std::os::unix::fs::symlink(&quorate.path, &link).expect("a link");
    let by_name = Tool::real(&Program {
        name: "etcdutl".into(),
        path: link,
    });
    assert_eq!(by_name.run(&["version"]), version);
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = ours.run(&["completion", shell]);
        assert!(
            script.code == 0 && script.out.contains("skip-hash-check"),
            "{shell}"
        );
    }
    let help = ours.run(&["snapshot", "status", "--help"]);
    let expected = "Usage:\n  etcdutl snapshot status <filename> [flags]\n\nFlags:\n  -h, --help   help for status\n\nGlobal Flags:\n      \
        --timeout duration   time to wait to obtain a file lock on db file, 0 to block indefinitely (default 10s)\n  \
        -w, --write-out string   set the output format (fields, json, protobuf, simple, table) (default \"simple\")\n";
    assert_eq!(help.out, expected);
    let etcdutl = need!(suite, programs::peer("etcd-3.5.1", "etcdutl"));
    let real = Tool::real(&etcdutl);
    for args in [
        &["snapshot"][..],
        &["snapshot", "-h"],
        &["help", "snapshot"],
        &["defrag", "-h"],
        &["version", "-h"],
    ] {
        // Both know the flag --timeout since 3.7 only.
        let rest = |answer: Answer| {
            let lines = answer
                .out
                .lines()
                .filter(|line| !line.contains("--timeout"));
            (answer.code, lines.map(str::to_owned).collect::<Vec<_>>())
        };
        assert_eq!(rest(ours.run(args)), rest(real.run(args)), "{args:?}");
    }
}

#[test]
fn defrag_gives_back_what_a_compaction_has_freed_and_keeps_the_rest() {
    let suite = "etcdutl defrag";
    let etcdctl = need!(suite, programs::peer("etcd-3.5.1", "etcdctl"));
    let quorate = need!(suite, programs::quorate());
    let tool = Tool::ours(&quorate);
    let mut server = Server::start(&quorate);
    let ctl = Ctl::new(&etcdctl, server.address());
    fill(&ctl);
    for _ in 0..8 {
        assert_eq!(
            ctl.run_with(&["put", "large"], &"x".repeat(1_000_000)).code,
            0
        );
    }
    assert_eq!(ctl.run(&["put", "large", "small"]).code, 0);
    let newest = ctl.run(&["get", "large", "-w", "json"]);
    let newest = conformance::snapshots::json(&newest)["header"]["revision"].to_string();
    assert_eq!(ctl.run(&["compact", &newest]).code, 0);
    let hash = |ctl: &Ctl| {
        let hashed = conformance::snapshots::json(&ctl.run(&["endpoint", "hashkv", "-w", "json"]));
        hashed[0]["HashKV"]["hash"].clone()
    };
    let before = hash(&ctl);
    let data_dir = server.data_dir().to_path_buf();
    let args = [
        "defrag",
        "--data-dir",
        text(&data_dir),
        "--timeout",
        "300ms",
    ];
    let busy = tool.run(&args);
    assert_eq!(busy.code, 1);
    assert!(busy.err.contains("used by another process"), "{busy:?}");
    server.stop(Signal::TERM).expect("it stops");
    let size = |server: &Server| -> u64 {
        let store = std::fs::read_dir(server.data_dir().join("member/store")).expect("the store");
        store
            .map(|entry| {
                entry
                    .and_then(|entry| entry.metadata())
                    .expect("a file")
                    .len()
            })
            .sum()
    };
    let large = size(&server);
    assert!(large > 8_000_000, "{large} bytes");
    let done = tool.run(&args);
    assert_eq!((done.code, done.out.as_str()), (0, ""), "{done:?}");
    let small = size(&server);
    assert!(small < large / 2, "{large} bytes before, {small} after");
    assert_eq!(verify(&quorate, server.data_dir()).code, 0);
    assert_eq!(tool.run(&args).code, 0, "nothing is left to do");
    server.start_again().expect("it starts");
    assert_eq!(hash(&ctl), before);
    assert_eq!(ctl.run(&["put", "after", "defrag"]).code, 0);
}

fn verify(quorate: &Program, data_dir: &Path) -> Answer {
    let done = Command::new(&quorate.path)
        .arg("verify")
        .arg(data_dir)
        .output()
        .expect("it starts");
    Answer {
        code: done.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&done.stdout).into_owned(),
        err: String::from_utf8_lossy(&done.stderr).into_owned(),
    }
}

/// Every file below a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), std::fs::read(&path).expect("a file"))),
        }
    }
    found
}

#[test]
fn verify_refuses_what_it_cannot_judge() {
    let suite = "verify: what is no data directory";
    let quorate = need!(suite, programs::quorate());
    let folder = tempfile::tempdir().expect("a scratch folder");
    let refused = |path: &Path, because: &str| {
        let answer = verify(&quorate, path);
        assert_eq!(answer.code, 1, "{answer:?}");
        assert!(
            answer.err.contains(because),
            "{because:?} is not in {answer:?}"
        );
    };
    refused(&folder.path().join("absent"), "no such file or directory");
    refused(folder.path(), "there is no member");
    let file = folder.path().join("a-file");
    std::fs::write(&file, "x").expect("a file");
    refused(&file, "is not a directory");
    let theirs = folder.path().join("theirs");
    std::fs::create_dir_all(theirs.join("member/snap")).expect("a folder");
    refused(&theirs, "holds the data of an etcd member");
    assert_eq!(files(folder.path()).len(), 1, "nothing new");
    let server = Server::start(&quorate);
    refused(server.data_dir(), "used by another process");
    let usage = Command::new(&quorate.path)
        .arg("verify")
        .output()
        .expect("it starts");
    assert_eq!(usage.status.code(), Some(2), "{usage:?}");
}

#[test]
fn verify_names_damage_by_file_and_byte_and_what_it_calls_sound_starts() {
    let suite = "verify: damage";
    let etcdctl = need!(suite, programs::peer("etcd-3.5.1", "etcdctl"));
    let quorate = need!(suite, programs::quorate());
    let mut server = Launch::new(&quorate).prepare();
    server.start_again().expect("it starts");
    let ctl = Ctl::new(&etcdctl, server.address());
    fill(&ctl);
    let expected = facts(&ctl);
    server.stop(Signal::TERM).expect("it stops");
    let data_dir = server.data_dir().to_path_buf();
    let sound = files(&data_dir);
    let answer = verify(&quorate, &data_dir);
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(answer.out.contains("sound records"), "{answer:?}");
    assert!(files(&data_dir) == sound, "verify changed something");

    let in_store = |path: &Path| {
        path.parent()
            .is_some_and(|parent| parent.ends_with("store"))
    };
    let is_log = |path: &Path| path.extension().is_some_and(|end| end == "wal");
    let (mut named, mut sound_after_all) = (0, 0);
    for (path, bytes) in &sound {
        if !in_store(path) && !is_log(path) {
            continue;
        }
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("UTF-8");
        let used = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        let places = [
            0,
            9,
            40,
            used / 3,
            used / 2,
            used.saturating_sub(200),
            used - 1,
        ];
        let mut variants: Vec<Option<Vec<u8>>> =
            vec![None, Some(bytes[..used / 2].to_vec()), Some(Vec::new())];
        for place in places {
            let mut changed = bytes.clone();
            changed[place] ^= 0x20;
            variants.push(Some(changed));
        }
        for variant in variants {
            match &variant {
                Some(changed) => std::fs::write(path, changed).expect("damaged"),
                None => std::fs::remove_file(path).expect("removed"),
            }
            let answer = verify(&quorate, &data_dir);
            assert!(!answer.err.contains("panicked"), "{name}: {answer:?}");
            if answer.code == 0 {
                // A write that looks torn: then the rest must be there, and the member must say the same.
                server
                    .start_again()
                    .unwrap_or_else(|why| panic!("{name}: {answer:?}, but: {why}"));
                assert_same(&facts(&ctl), &expected);
                server.stop(Signal::TERM).expect("it stops");
                sound_after_all += 1;
            } else {
                let damage: Vec<&str> = answer
                    .out
                    .lines()
                    .filter(|line| line.starts_with("DAMAGE"))
                    .collect();
                assert!(!damage.is_empty(), "{name}: {answer:?}");
                named += u32::from(
                    damage
                        .iter()
                        .any(|line| line.contains(name) && line.contains("byte")),
                );
                // What verify refuses, a start refuses too, or reads without what is damaged being needed.
                assert_eq!(answer.code, 1, "{name}: {answer:?}");
            }
            restore_files(&data_dir, &sound);
        }
    }
    assert!(
        named >= 12,
        "only {named} damages were named by file and byte"
    );
    conformance::suite::note(&format!(
        "{suite}: {named} named by file and byte, {sound_after_all} as torn writes that lose nothing"
    ));
}

fn restore_files(data_dir: &Path, sound: &BTreeMap<PathBuf, Vec<u8>>) {
    for path in files(data_dir).keys() {
        if !sound.contains_key(path) {
            std::fs::remove_file(path).expect("removed");
        }
    }
    for (path, bytes) in sound {
        if std::fs::read(path).ok().as_ref() != Some(bytes) {
            std::fs::write(path, bytes).expect("restored");
        }
    }
}
