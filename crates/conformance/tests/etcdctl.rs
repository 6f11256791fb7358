//! Real `etcdctl`, 3.4 and 3.5.1, against our server and against real etcd 3.5.1: every command must answer the same.
//!
//! A scenario is a list of commands; each server starts fresh, so revisions are equal without any adjusting. What may
//! differ stands in `DIFFERENCES`, with its reason. Snapshots and followed watches have tests of their own below.

use conformance::ctl::{Answer, Ctl, Follow, normalised};
use conformance::need;
use conformance::programs::{self, Program};
use conformance::server::Server;
use std::collections::BTreeMap;
use std::time::Duration;

/// Output lines that may differ between the servers: start of the command, part of the line, reason.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    (
        "endpoint status -w json",
        "Status",
        "version, sizes and raft indexes; the fields of 3.6 and 3.7; checked one by one below",
    ),
    ("endpoint status -w fields", "\"", "the same"),
    (
        "endpoint status",
        "<address0>, <id>",
        "version and database size",
    ),
    (
        "endpoint hashkv",
        "hash_revision",
        "a field of 3.6, unknown to these clients",
    ),
];

/// One step: the arguments, split at blanks (`~` stands for a blank inside one), and what goes to standard input.
struct Step(&'static str, &'static str);

/// The scenarios. `$L1`, `$L2`, … are the leases granted so far.
const SCENARIOS: &[(&str, &[Step])] = &[
    ("put_and_get", PUT_AND_GET),
    ("delete", DELETE),
    ("txn", TXN),
    ("lease", LEASE),
    ("compaction_and_old_revisions", COMPACTION),
    ("errors", ERRORS),
    ("endpoint_member_alarm", ENDPOINT),
];

const PUT_AND_GET: &[Step] = &[
    Step("get nothing", ""),
    Step("put a 1", ""),
    Step("put b 2", ""),
    Step("put ab 3", ""),
    Step("put abc 4", ""),
    Step("put c value~with~blanks", ""),
    Step("put from-stdin", "the value comes\nfrom standard input"),
    Step("put a 5 --prev-kv", ""),
    Step("put a 6 -w json", ""),
    Step("put a 7 -w fields --prev-kv", ""),
    Step("get a", ""),
    Step("get a -w json", ""),
    Step("get a -w fields", ""),
    Step("get a -w simple", ""),
    Step("get a -w protobuf --print-value-only", ""),
    Step("get a --print-value-only", ""),
    Step("get a --hex", ""),
    Step("get a --consistency=s", ""),
    Step("get a --prefix", ""),
    Step("get a --prefix --keys-only", ""),
    Step("get a --prefix --count-only -w fields", ""),
    Step("get a --prefix --count-only -w json", ""),
    Step("get a --prefix --limit=2 -w json", ""),
    Step("get a --prefix --limit=2 -w fields", ""),
    Step("get b --from-key", ""),
    Step("get b --from-key --limit=1 -w json", ""),
    Step("get a c", ""),
    Step("get c a", ""),
    Step("get --prefix ~", ""),
    Step("get a --prefix --sort-by=KEY --order=DESCEND", ""),
    Step("get a --prefix --sort-by=VERSION --order=DESCEND", ""),
    Step("get a --prefix --sort-by=CREATE --order=ASCEND", ""),
    Step("get a --prefix --sort-by=CREATE --order=DESCEND", ""),
    Step("get a --prefix --sort-by=MODIFY --order=DESCEND", ""),
    Step("get a --prefix --sort-by=VALUE --order=ASCEND", ""),
    Step(
        "get a --prefix --sort-by=VALUE --order=DESCEND --limit=1",
        "",
    ),
    Step(
        "get a --prefix --sort-by=MODIFY --order=ASCEND --limit=2 -w json",
        "",
    ),
    Step("get a --rev=2", ""),
    Step("get a --rev=8 -w json", ""),
    Step("get a --prefix --rev=4 -w json", ""),
    Step("put a x --ignore-value", ""),
    Step("put a --ignore-value", ""),
    Step("put missing --ignore-value", ""),
    Step("put b 8 --ignore-lease", ""),
    Step("put missing 8 --ignore-lease", ""),
    Step("put -- -key-with-dash v", ""),
    Step("get \u{fc}ml\u{e4}ut -w json", ""),
    Step("put \u{fc}ml\u{e4}ut \u{2713}", ""),
    Step("get \u{fc}ml\u{e4}ut -w json", ""),
];

const DELETE: &[Step] = &[
    Step("del nothing", ""),
    Step("put a 1", ""),
    Step("put ab 2", ""),
    Step("put abc 3", ""),
    Step("put b 4", ""),
    Step("put c 5", ""),
    Step("put d 6", ""),
    Step("del a --prev-kv", ""),
    Step("del a", ""),
    Step("del a --prefix --prev-kv -w json", ""),
    Step("put a again", ""),
    Step("get a -w json", ""),
    Step("del b c", ""),
    Step("del c --from-key -w fields", ""),
    Step("get --prefix ~ -w json", ""),
];

const TXN: &[Step] = &[
    Step("put a 1", ""),
    Step("put b 2", ""),
    Step("txn", "value(\"a\") = \"1\"\n\nput a 2\nget b\n\nget a\n\n"),
    Step("txn", "value(\"a\") = \"1\"\n\nput a 3\n\nget a\nget b\n\n"),
    Step(
        "txn",
        "mod(\"a\") > \"1\"\nversion(\"a\") = \"2\"\ncreate(\"b\") < \"9\"\n\nput c 1\nput d 2\nget c\ndel b\n\n\n",
    ),
    Step(
        "txn -w json",
        "version(\"none\") = \"0\"\n\nput none here\nget none\n\n\n",
    ),
    Step(
        "txn -w fields",
        "version(\"none\") = \"0\"\n\n\nget none\n\n",
    ),
    Step(
        "txn",
        "value(\"a\") = \"2\"\n\ndel a --prev-kv\nget a --prefix\n\n\n",
    ),
    Step("txn", "\nput same 1\nput same 2\n\n\n"),
    Step("txn", "\nput same 1\ndel same\n\n\n"),
    Step("txn", "nonsense\n\n\n\n"),
    Step("get --prefix ~ -w json", ""),
];

const LEASE: &[Step] = &[
    Step("lease list", ""),
    Step("lease grant 600", ""),
    Step("lease grant 1000 -w json", ""),
    Step("lease grant 1", ""),
    Step("lease grant 9000000001", ""),
    Step("put a 1 --lease=$L1", ""),
    Step("put b 2 --lease=$L1", ""),
    Step("put c 3 --lease=$L2", ""),
    Step("get a -w json", ""),
    Step("get a -w fields", ""),
    Step("put a 4 --ignore-lease", ""),
    Step("get a -w fields", ""),
    Step("lease timetolive $L1", ""),
    Step("lease timetolive $L1 --keys", ""),
    Step("lease timetolive $L2 --keys -w json", ""),
    Step("lease timetolive $L2 --keys -w fields", ""),
    Step("lease keep-alive $L1 --once", ""),
    Step("put b 5", ""),
    Step("lease timetolive $L1 --keys", ""),
    Step("lease revoke $L1", ""),
    Step("lease revoke $L1", ""),
    Step("lease timetolive $L1", ""),
    Step("lease keep-alive $L1 --once", ""),
    Step("put a 6 --lease=$L1", ""),
    Step("get --prefix ~ -w json", ""),
    Step("lease revoke $L2 -w json", ""),
    Step("get --prefix ~", ""),
];

const COMPACTION: &[Step] = &[
    Step("put a 1", ""),
    Step("put a 2", ""),
    Step("put b 1", ""),
    Step("del a", ""),
    Step("put a 3", ""),
    Step("put a 4", ""),
    Step("get a --rev=3 -w json", ""),
    Step("get a --rev=5 -w json", ""),
    Step("endpoint hashkv -w fields", ""),
    Step("endpoint hashkv --rev=4 -w fields", ""),
    Step("compact 4", ""),
    Step("get a --rev=3", ""),
    Step("get a --rev=4 -w json", ""),
    Step("get a --rev=6 -w json", ""),
    Step("compact 4", ""),
    Step("compact 3", ""),
    Step("compact 100", ""),
    Step("get a --rev=100", ""),
    Step("compact 7 --physical", ""),
    Step("get a --rev=6", ""),
    Step("get --prefix ~ --rev=7 -w json", ""),
    Step("endpoint hashkv -w fields", ""),
    Step("endpoint hashkv --rev=6", ""),
    Step("defrag", ""),
    Step("get --prefix ~ -w json", ""),
    Step("endpoint hashkv -w fields", ""),
];

const ERRORS: &[Step] = &[
    Step("get", ""),
    Step("put a", ""),
    Step("put a b c d", ""),
    Step("get a --limit=-1", ""),
    Step("get a --rev=-5", ""),
    Step("get a --sort-by=nonsense", ""),
    Step("get a --order=nonsense", ""),
    Step("compact", ""),
    Step("compact abc", ""),
    Step("compact 0", ""),
    Step("compact -- -1", ""),
    Step("lease grant abc", ""),
    Step("lease grant -- -5", ""),
    Step("lease revoke zzz", ""),
    Step("lease revoke 1234", ""),
    Step("put a b --lease=1234", ""),
    Step("lease timetolive 1234", ""),
    Step("alarm nonsense", ""),
    Step("member remove 1234", ""),
    Step("no-such-command", ""),
];

const ENDPOINT: &[Step] = &[
    Step("put a 1", ""),
    Step("endpoint health", ""),
    Step("endpoint health -w json", ""),
    Step("endpoint status", ""),
    Step("endpoint status -w json", ""),
    Step("endpoint status -w fields", ""),
    Step("endpoint hashkv", ""),
    Step("endpoint hashkv -w json", ""),
    Step("endpoint hashkv -w fields", ""),
    Step("member list", ""),
    Step("member list -w json", ""),
    Step("member list -w fields", ""),
    Step("member list -w table", ""),
    Step("alarm list", ""),
    Step("alarm disarm", ""),
    Step("defrag", ""),
];

#[test]
fn etcdctl_3_5_1_gets_the_answers_of_etcd() {
    compare_all("etcdctl 3.5.1", "etcd-3.5.1");
}

#[test]
fn etcdctl_3_4_gets_the_answers_of_etcd() {
    compare_all("etcdctl 3.4", "etcd-3.4");
}

#[test]
fn a_status_line_names_the_version_and_leader_of_this_member() {
    let suite = "etcdctl endpoint status";
    let etcdctl = need!(suite, programs::peer("etcd-3.5.1", "etcdctl"));
    let server = need!(
        suite,
        programs::quorate().map(|program| Server::start(&program))
    );
    let ctl = Ctl::new(&etcdctl, server.address());
    assert_eq!(ctl.run(&["put", "a", "1"]).code, 0);
    let answer = ctl.run(&["endpoint", "status", "-w", "json"]);
    let status: serde_json::Value = serde_json::from_str(&answer.out).expect("JSON");
    let status = &status[0]["Status"];
    assert!(
        status["version"]
            .as_str()
            .is_some_and(|version| version.starts_with("3.")),
        "{status}"
    );
    assert_eq!(
        status["leader"], status["header"]["member_id"],
        "a single member leads itself"
    );
    assert_eq!(status["header"]["revision"], 2);
    assert!(
        status["dbSize"].as_u64() >= status["dbSizeInUse"].as_u64(),
        "{status}"
    );
    assert!(
        status["raftIndex"].as_u64() >= status["raftAppliedIndex"].as_u64(),
        "{status}"
    );
    assert!(status["raftAppliedIndex"].as_u64() > Some(2), "{status}");
    assert!(status["raftTerm"].as_u64() >= Some(2), "{status}");
}

#[test]
fn watches_followed_by_etcdctl_show_what_etcd_shows() {
    for client in ["etcd-3.5.1", "etcd-3.4"] {
        let suite = format!("etcdctl watch ({client})");
        let etcdctl = need!(&suite, programs::peer(client, "etcdctl"));
        let theirs = need!(
            &suite,
            programs::etcd("etcd-3.5.1").map(|program| Server::start(&program))
        );
        let ours = need!(
            &suite,
            programs::quorate().map(|program| Server::start(&program))
        );
        assert_eq!(
            watched(&etcdctl, &ours),
            watched(&etcdctl, &theirs),
            "left: ours; {client}"
        );
    }
}

/// What several watches print while the same things happen.
fn watched(etcdctl: &Program, server: &Server) -> BTreeMap<String, Vec<String>> {
    let ctl = Ctl::new(etcdctl, server.address());
    let run = |args: &[&str]| assert_eq!(ctl.run(args).code, 0, "{args:?} on {}", server.name());
    run(&["put", "a", "1"]);
    run(&["put", "ab", "2"]);
    run(&["del", "a"]);
    let mut seen = BTreeMap::new();
    // History first, and the number of lines that each must print: while nothing is written, all of it can be compared.
    let history: &[(&[&str], usize)] = &[
        (&["watch", "a", "--rev=1"], 5),
        (&["watch", "a", "--rev=1", "--prefix", "--prev-kv"], 10),
        (&["watch", "", "--prefix", "--rev=3", "-w", "json"], 1),
        (&["watch", "a", "--rev=1", "-w", "fields"], 18),
    ];
    for (args, count) in history {
        let lines = ctl.follow(args).lines(*count).join("\n");
        let shown = normalised(&lines, &[&server.address()]);
        seen.insert(args.join(" "), shown.lines().map(String::from).collect());
    }
    let onwards: &[(&[&str], usize)] = &[
        (&["watch", "a", "b", "--rev=2"], 15),
        (&["watch", "ab", "--rev=2", "--prev-kv"], 8),
    ];
    let running: Vec<_> = onwards
        .iter()
        .map(|(args, count)| (args, *count, ctl.follow(args)))
        .collect();
    let live = ctl.follow(&["watch", "live", "--prefix", "--prev-kv"]);
    // The live watch has no start revision: it runs from when the server created it, so knock until it answers.
    let mut knocks = 0;
    while live.line(Duration::from_millis(100)).is_none() {
        knocks += 1;
        assert!(
            knocks < 150,
            "the watch on {} never answered",
            server.name()
        );
        run(&["put", "live-knock", "x"]);
    }
    run(&["put", "a", "3"]);
    run(&["put", "ab", "4"]);
    run(&["put", "live", "5"]);
    run(&["del", "live"]);
    seen.extend(
        running
            .into_iter()
            .map(|(args, count, follow)| (args.join(" "), follow.lines(count))),
    );
    seen.insert("live".into(), after_the_knocks(&live));
    seen
}

/// The lines of the live watch about key `live`, up to and with its deletion.
fn after_the_knocks(live: &Follow) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    while let Some(line) = live.line(Duration::from_secs(10)) {
        let deleted = line == "DELETE";
        lines.push(line);
        if deleted {
            lines.extend(live.lines(4));
            break;
        }
    }
    let start = lines.iter().position(|line| line == "live").unwrap_or(0);
    lines.split_off(start)
}

#[test]
fn a_watch_below_the_compaction_is_told_so() {
    let suite = "etcdctl watch of a compacted revision";
    let etcdctl = need!(suite, programs::peer("etcd-3.5.1", "etcdctl"));
    let server = need!(
        suite,
        programs::quorate().map(|program| Server::start(&program))
    );
    let ctl = Ctl::new(&etcdctl, server.address());
    for value in ["1", "2", "3"] {
        assert_eq!(ctl.run(&["put", "a", value]).code, 0);
    }
    assert_eq!(ctl.run(&["compact", "3"]).code, 0);
    let answer = ctl.run(&["watch", "a", "--rev=2"]);
    assert!(
        answer.err.contains("required revision has been compacted"),
        "{answer:?}"
    );
    let ends = ctl.follow(&["watch", "a", "--rev=3"]);
    assert_eq!(ends.lines(6), ["PUT", "a", "2", "PUT", "a", "3"]);
}

#[test]
fn an_expired_lease_deletes_its_keys_and_watchers_see_it() {
    let suite = "etcdctl lease expiry";
    let etcdctl = need!(suite, programs::peer("etcd-3.5.1", "etcdctl"));
    let server = need!(
        suite,
        programs::quorate().map(|program| Server::start(&program))
    );
    let ctl = Ctl::new(&etcdctl, server.address());
    let granted = ctl.run(&["lease", "grant", "2"]);
    let lease = granted
        .out
        .split_whitespace()
        .nth(1)
        .expect("lease <id> granted")
        .to_string();
    assert_eq!(
        ctl.run(&["put", "a", "1", &format!("--lease={lease}")])
            .code,
        0
    );
    let watch = ctl.follow(&["watch", "a", "--rev=2"]);
    assert_eq!(watch.lines(5), ["PUT", "a", "1", "DELETE", "a"]);
    assert_eq!(ctl.run(&["get", "a"]).out, "");
    let left = ctl.run(&["lease", "timetolive", &lease]);
    assert!(left.out.contains("already expired"), "{left:?}");
    // A lease that is kept alive outlives its TTL.
    let granted = ctl.run(&["lease", "grant", "2"]);
    let lease = granted
        .out
        .split_whitespace()
        .nth(1)
        .expect("lease <id> granted")
        .to_string();
    let alive = ctl.follow(&["lease", "keep-alive", &lease]);
    assert_eq!(
        alive.lines(6).len(),
        6,
        "six keepalives, one each 0.67 s, span two TTLs"
    );
    drop(alive);
    let left = ctl.run(&["lease", "timetolive", &lease]);
    assert!(left.out.contains("remaining("), "{left:?}");
}

fn compare_all(suite: &str, client: &str) {
    let etcdctl = need!(suite, programs::peer(client, "etcdctl"));
    let etcd = need!(suite, programs::etcd("etcd-3.5.1"));
    let quorate = need!(suite, programs::quorate());
    let mut wrong = Vec::new();
    for (name, steps) in SCENARIOS {
        let on = |program: &Program| {
            let server = Server::start(program);
            play(&Ctl::new(&etcdctl, server.address()), &server, steps)
        };
        let (expected, actual) = std::thread::scope(|scope| {
            let theirs = scope.spawn(|| on(&etcd));
            let ours = on(&quorate);
            (theirs.join().expect("etcd answers"), ours)
        });
        for ((step, expected), actual) in steps.iter().zip(&expected).zip(&actual) {
            if without_differences(step.0, expected) != without_differences(step.0, actual) {
                wrong.push(format!(
                    "{name}: etcdctl {} {:?}\n  etcd:    {}\n  quorate: {}",
                    step.0,
                    step.1,
                    show(expected),
                    show(actual)
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} answers differ from etcd's ({suite}):\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn play(ctl: &Ctl, server: &Server, steps: &[Step]) -> Vec<Answer> {
    let mut leases: Vec<String> = Vec::new();
    let mut answers = Vec::new();
    for Step(line, input) in steps {
        let mut line = line.to_string();
        for (index, lease) in leases.iter().enumerate() {
            line = line.replace(&format!("$L{}", index + 1), lease);
        }
        let args: Vec<String> = line
            .split(' ')
            .map(|arg| {
                if arg == "~" {
                    String::new()
                } else {
                    arg.replace('~', " ")
                }
            })
            .collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let answer = ctl.run_with(&args, input);
        if line.starts_with("lease grant") && answer.code == 0 {
            leases.push(lease_of(&answer.out));
        }
        let own = [&*server.address(), &*server.peer_address()];
        answers.push(Answer {
            code: answer.code,
            out: normalised(&answer.out, &own),
            err: normalised(&answer.err, &own),
        });
    }
    answers
}

/// The id in hexadecimal, as the commands want it, from `lease <id> granted with …` or from JSON.
fn lease_of(out: &str) -> String {
    match serde_json::from_str::<serde_json::Value>(out) {
        Ok(json) => format!("{:016x}", json["ID"].as_i64().expect("an ID")),
        Err(_) => out
            .split_whitespace()
            .nth(1)
            .expect("lease <id> granted")
            .to_string(),
    }
}

fn without_differences(command: &str, answer: &Answer) -> Answer {
    let allowed = |line: &&str| {
        !DIFFERENCES
            .iter()
            .any(|(start, part, _)| command.starts_with(start) && line.contains(part))
    };
    let filtered = |text: &str| {
        text.lines()
            .filter(allowed)
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    Answer {
        code: answer.code,
        out: filtered(&answer.out),
        err: filtered(&answer.err),
    }
}

fn show(answer: &Answer) -> String {
    format!(
        "exit {}, out {:?}, err {:?}",
        answer.code, answer.out, answer.err
    )
}
