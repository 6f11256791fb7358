//! The server as a process: its command line, its signals, its exit codes, and what it answers to plain HTTP.
//!
//! Where real etcd 3.5 behaves the same, these tests pass against it too (`QUORATE_BIN=…/etcd`); that is how they were
//! checked. Sources: upstream `server/etcdmain/etcd.go`, `server/embed/config.go`, `pkg/osutil/interrupt_unix.go`.

use conformance::grpc::{self, Grpc, block_on};
use conformance::need;
use conformance::programs;
use conformance::server::{Launch, Server, http, http_get, shell_status};
use proto::etcdserverpb as pb;
use rustix::process::Signal;

#[test]
fn version_is_four_lines_on_standard_output_and_exit_0() {
    let suite = "process: --version";
    let program = need!(suite, programs::quorate());
    let ended = Launch::new(&program)
        .bare()
        .flags(["--version"])
        .run_to_end();
    assert_eq!(ended.shell_status(), 0, "{ended:?}");
    for start in [
        "etcd Version: 3.",
        "Git SHA: ",
        "Go Version: ",
        "Go OS/Arch: ",
    ] {
        assert!(
            ended.output.lines().any(|line| line.starts_with(start)),
            "no line {start:?} in {ended:?}"
        );
    }
}

#[test]
fn help_lists_the_flags_and_exits_0() {
    let suite = "process: --help";
    let program = need!(suite, programs::quorate());
    for flag in ["--help", "-h"] {
        let ended = Launch::new(&program).bare().flags([flag]).run_to_end();
        assert_eq!(ended.shell_status(), 0, "{ended:?}");
        for name in [
            "--data-dir",
            "--listen-client-urls",
            "--snapshot-count",
            "--auto-compaction-mode",
            "--quota-backend-bytes",
        ] {
            assert!(ended.output.contains(name), "{flag} does not list {name}");
        }
    }
}

/// A command line that must be refused: arguments, exit status, and what the message must hold.
const REFUSED: &[(&[&str], i32, &str)] = &[
    (&["--no-such-flag"], 2, "no-such-flag"),
    (&["--max-txn-ops=many"], 2, "max-txn-ops"),
    (&["stray"], 1, "is not a valid flag"),
    (
        &["--heartbeat-interval=0"],
        1,
        "--heartbeat-interval must be >0 (set to 0ms)",
    ),
    (
        &["--heartbeat-interval=100", "--election-timeout=200"],
        1,
        "--election-timeout[200ms] should be at least as 5 times as --heartbeat-interval[100ms]",
    ),
    (
        &["--election-timeout=60000"],
        1,
        "is too long, and should be set less than 50000ms",
    ),
    (
        &["--listen-client-urls=http://127.0.0.1:1"],
        1,
        "--advertise-client-urls is required when --listen-client-urls is set explicitly",
    ),
    (
        &["--listen-peer-urls=ftp://127.0.0.1:1"],
        2,
        "URL scheme must be http, https, unix, or unixs",
    ),
    (
        &["--listen-peer-urls=http://example.com:1"],
        1,
        "expected IP in URL for binding",
    ),
    (
        &[
            "--auto-compaction-mode=sometimes",
            "--auto-compaction-retention=1",
        ],
        1,
        "unknown auto-compaction-mode \"sometimes\"",
    ),
    (&["--config-file=/no/such/file"], 1, "/no/such/file"),
    (
        &["--logger=nonsense"],
        1,
        "unknown logger option \"nonsense\"",
    ),
];

#[test]
fn a_command_line_that_makes_no_sense_is_refused_with_etcds_exit_code_and_words() {
    let suite = "process: refused command lines";
    let program = need!(suite, programs::quorate());
    let mut wrong = Vec::new();
    for (flags, status, text) in REFUSED {
        let ended = Launch::new(&program)
            .bare()
            .flags(flags.iter().copied())
            .run_to_end();
        // In a JSON log line the quotes of a message are escaped.
        let output = ended.output.replace("\\\"", "\"");
        if ended.shell_status() != *status || !output.contains(text) {
            let tail: Vec<&str> = ended.output.lines().rev().take(4).collect();
            wrong.push(format!(
                "{flags:?}: wanted exit {status} and {text:?}; exit {} and {tail:?}",
                ended.shell_status()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_environment_variable_and_a_flag_for_the_same_thing_are_refused() {
    let suite = "process: environment";
    let program = need!(suite, programs::quorate());
    let ended = Launch::new(&program)
        .environment("ETCD_NAME", "other")
        .run_to_end();
    assert_eq!(ended.shell_status(), 1, "{ended:?}");
    assert!(
        ended.output.contains("conflicting environment variable"),
        "{}",
        ended.output
    );
    let server = Launch::new(&program)
        .environment("ETCD_MAX_TXN_OPS", "64")
        .start();
    drop(server);
    let ended = Launch::new(&program)
        .environment("ETCD_MAX_TXN_OPS", "many")
        .run_to_end();
    assert_eq!(ended.shell_status(), 1, "{ended:?}");
    let output = ended.output.replace("\\\"", "\"");
    assert!(
        output.contains("invalid value \"many\" for ETCD_MAX_TXN_OPS"),
        "{output}"
    );
}

#[test]
fn sigterm_and_sigint_end_it_gracefully_with_the_signals_own_status_and_it_starts_again() {
    let suite = "process: signals";
    let program = need!(suite, programs::quorate());
    let mut server = Server::start(&program);
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let ended = server
            .stop(signal)
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(shell_status(ended), status, "after {signal:?}");
        server
            .start_again()
            .unwrap_or_else(|error| panic!("{error}"));
    }
    server.kill();
    server
        .start_again()
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_port_that_is_taken_is_named_and_the_exit_code_is_1() {
    let suite = "process: port in use";
    let program = need!(suite, programs::quorate());
    let first = Server::start(&program);
    let url = format!("http://{}", first.address());
    let second = Launch::new(&program).flags([
        "--listen-client-urls",
        &url,
        "--advertise-client-urls",
        &url,
    ]);
    let ended = second.run_to_end();
    assert_eq!(ended.shell_status(), 1, "{}", ended.output);
    assert!(
        ended.output.contains("address already in use"),
        "{}",
        ended.output
    );
}

#[test]
fn version_over_http_names_server_and_cluster() {
    let suite = "http: /version";
    let server = need!(
        suite,
        programs::quorate().map(|program| Server::start(&program))
    );
    let reply = http_get(server.socket(), "/version").expect("an answer");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let json: serde_json::Value = serde_json::from_str(&reply.body).expect("JSON");
    for field in ["etcdserver", "etcdcluster"] {
        assert!(
            json[field]
                .as_str()
                .is_some_and(|version| version.starts_with("3.")),
            "{field} in {json}"
        );
    }
    assert!(!reply.body.ends_with('\n'), "etcd ends without a newline");
}

#[test]
fn health_is_etcds_body_and_only_get() {
    let suite = "http: /health";
    let server = need!(
        suite,
        programs::quorate().map(|program| Server::start(&program))
    );
    for path in [
        "/health",
        "/health?serializable=true",
        "/health?exclude=NOSPACE",
    ] {
        let reply = http_get(server.socket(), path).expect("an answer");
        assert_eq!(
            (reply.status, reply.body.as_str()),
            (200, "{\"health\":\"true\",\"reason\":\"\"}"),
            "{path}"
        );
    }
    let refused = http(server.socket(), "POST", "/health", "").expect("an answer");
    assert_eq!(
        (refused.status, refused.header("allow")),
        (405, Some("GET"))
    );
    assert_eq!(
        http_get(server.socket(), "/no/such/path")
            .expect("an answer")
            .status,
        404
    );
    assert_eq!(
        http_get(server.socket(), "/").expect("an answer").status,
        404
    );
}

#[test]
fn metrics_are_prometheus_text_with_etcds_names() {
    let suite = "http: /metrics";
    let server = need!(
        suite,
        programs::quorate().map(|program| Server::start(&program))
    );
    let reply = http_get(server.socket(), "/metrics").expect("an answer");
    assert_eq!(reply.status, 200);
    assert!(
        reply
            .header("content-type")
            .is_some_and(|kind| kind.starts_with("text/plain")),
        "{:?}",
        reply.headers
    );
    let value = |name: &str| {
        let line = reply.body.lines().find(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(' '))
        });
        line.and_then(|line| line.rsplit(' ').next())
            .and_then(|number| number.parse::<f64>().ok())
    };
    assert_eq!(value("etcd_server_has_leader"), Some(1.0));
    assert_eq!(value("etcd_server_is_leader"), Some(1.0));
    for name in [
        "etcd_server_proposals_committed_total",
        "etcd_server_proposals_applied_total",
        "etcd_mvcc_db_total_size_in_bytes",
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "etcd_disk_wal_fsync_duration_seconds_count",
        "etcd_mvcc_put_total",
        "etcd_mvcc_range_total",
        "etcd_debugging_mvcc_keys_total",
        "process_resident_memory_bytes",
    ] {
        assert!(value(name).is_some(), "{name} is not there");
    }
}

#[test]
fn a_start_and_a_stop_tell_what_scripts_wait_for() {
    let suite = "lines of a start and a stop";
    let ours = need!(suite, programs::quorate());
    let mut programs = vec![ours.clone()];
    programs.extend(programs::etcd_reference());
    for program in programs {
        let is_ours = program.path == ours.path;
        let mut server = Server::start(&program);
        server.stop(Signal::TERM).expect("stopped");
        let log = server.log();
        let lines: Vec<serde_json::Value> = log
            .lines()
            // A library of etcd's may warn about a connection in lines of its own.
            .filter(|line| is_ours || line.starts_with('{'))
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        // With these fields in the log of both. In this order in ours; on a busy machine etcd's threads overtake each other.
        let mut rest = lines.iter();
        for (message, fields) in [
            ("Running: ", &["args"][..]),
            (
                "starting an etcd server",
                &["etcd-version", "name", "data-dir", "listen-client-urls"],
            ),
            (
                "published local member to cluster through raft",
                &["local-member-id", "local-member-attributes", "cluster-id"],
            ),
            ("ready to serve client requests", &[]),
            (
                "serving client traffic insecurely; this is strongly discouraged!",
                &["traffic", "address"],
            ),
            ("received signal; shutting down", &["signal"]),
            (
                "closing etcd server",
                &["name", "data-dir", "advertise-client-urls"],
            ),
            (
                "closed etcd server",
                &["name", "data-dir", "advertise-client-urls"],
            ),
        ] {
            if !is_ours {
                rest = lines.iter();
            }
            let found = rest.find(|line| line["msg"] == message);
            let found = found.unwrap_or_else(|| panic!("{}: {message}\n{log}", program.name));
            for field in ["level", "ts", "caller"].iter().chain(fields) {
                assert!(!found[field].is_null(), "{}: {found}", program.name);
            }
        }
        let args = lines.iter().find(|line| line["msg"] == "Running: ");
        let name = program.path.display().to_string();
        assert_eq!(args.map(|line| &line["args"][0]), Some(&name.into()));
    }
}

#[test]
fn a_log_in_a_folder_of_its_own_survives_a_kill() {
    let program = need!("--wal-dir", programs::quorate());
    let folder = tempfile::tempdir().expect("a folder");
    let wal_dir = folder.path().join("log");
    let flag = format!("--wal-dir={}", wal_dir.display());
    let mut server = Launch::new(&program).flags([flag]).start();
    let put = |server: &Server| {
        block_on(async {
            let connection = Grpc::connect(server.socket()).await.expect("a connection");
            let request = pb::PutRequest {
                key: "a".into(),
                ..Default::default()
            };
            let put: Result<pb::PutResponse, _> = connection.call(grpc::PUT, &request).await;
            put.expect("put").header.expect("a header").revision
        })
    };
    assert_eq!(put(&server), 2);
    server.kill();
    assert!(std::fs::read_dir(&wal_dir).expect("the folder").count() > 0);
    assert!(!server.data_dir().join("member").join("wal").exists());
    server.start_again().expect("started");
    assert_eq!(put(&server), 3);
}
