//! The server as a process: its command line, its signals, its exit codes, and what it answers to plain HTTP.
//!
//! Where real etcd 3.5 behaves the same, these tests pass against it too (`QUORATE_BIN=…/etcd`); that is how they were
//! checked. Sources: upstream `server/etcdmain/etcd.go`, `server/embed/config.go`, `pkg/osutil/interrupt_unix.go`.

use conformance::need;
use conformance::programs;
use conformance::server::{Launch, Server, http, http_get, shell_status};
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
