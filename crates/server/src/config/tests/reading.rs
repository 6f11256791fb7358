//! Flags and variables, and which of them wins.

use super::super::{Exit, Level, Outcome, url};
use super::{exit, has_note, mistakes, read_in, run, run_in};

#[test]
fn flags_follow_go() {
    let config = run(&[
        "-name",
        "a",
        "--snapshot-count=0x10",
        "--pre-vote=F",
        "-unsafe-no-fsync",
        "--",
    ]);
    assert_eq!(
        (
            config.name.as_str(),
            config.raft.snapshot_count,
            config.raft.pre_vote
        ),
        ("a", 16, false)
    );
    assert!(config.unsafe_no_fsync);
    // The last one wins; feature gates add up.
    assert_eq!(run(&["--name=a", "--name=b"]).name, "b");
    let gates = run(&[
        "--feature-gates=AllBeta=false",
        "--feature-gates=FastLeaseKeepAlive=true",
    ])
    .feature_gates;
    assert!(gates.on("FastLeaseKeepAlive") && !gates.on("TxnModeWriteWithSharedBuffer"));
}

#[test]
fn bad_flags_end_with_usage_and_code_2() {
    for (args, first_line) in [
        (&["--nope"][..], "flag provided but not defined: -nope"),
        (&["--name"], "flag needs an argument: -name"),
        (&["---name=a"], "bad flag syntax: ---name=a"),
        (&["--=a"], "bad flag syntax: --=a"),
        (
            &["--pre-vote=maybe"],
            "invalid boolean value \"maybe\" for -pre-vote: parse error",
        ),
        (
            &["--max-wals=-1"],
            "invalid value \"-1\" for flag -max-wals: parse error",
        ),
        (
            &["--grpc-keepalive-timeout", "5"],
            "invalid value \"5\" for flag -grpc-keepalive-timeout: parse error",
        ),
        (
            &["--initial-cluster-state=old"],
            "invalid value \"old\" for flag -initial-cluster-state: invalid value",
        ),
        (
            &["--feature-gates=X=true"],
            "invalid value \"X=true\" for flag -feature-gates: unrecognized feature gate: X",
        ),
        (
            &["--max-concurrent-streams=x"],
            "invalid value \"x\" for flag -max-concurrent-streams: strconv.ParseUint: parsing \"x\": invalid syntax",
        ),
        (
            &["--listen-client-urls=h:1"],
            "invalid value \"h:1\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: h:1",
        ),
        (
            &["--experimental-corrupt-check-time=1m"],
            "flag provided but not defined: -experimental-corrupt-check-time (removed in 3.7; use --corrupt-check-time)",
        ),
    ] {
        let exit = exit(args, &[], None);
        assert_eq!(
            (exit.code, exit.stderr.lines().next()),
            (2, Some(first_line)),
            "{args:?}"
        );
        assert!(exit.stderr.contains("\nUsage:\n"), "{args:?}");
    }
}

#[test]
fn all_bad_values_are_reported_together() {
    let by_flag = exit(&["--max-wals=x", "--pre-vote=y", "--name=a"], &[], None);
    assert_eq!(
        by_flag
            .stderr
            .lines()
            .take_while(|line| line.starts_with("invalid"))
            .count(),
        2
    );
    let by_env = exit(&[], &[("ETCD_MAX_WALS", "x"), ("ETCD_PRE_VOTE", "y")], None);
    assert_eq!(
        mistakes(&by_env),
        [
            "invalid value \"x\" for ETCD_MAX_WALS: parse error",
            "invalid value \"y\" for ETCD_PRE_VOTE: parse error"
        ]
    );
    let rules = exit(
        &[
            "--heartbeat-interval=0",
            "--election-timeout=50001",
            "--logger=x",
        ],
        &[],
        None,
    );
    assert_eq!(mistakes(&rules).len(), 3);
}

#[test]
fn positional_arguments_are_refused() {
    assert_eq!(
        mistakes(&exit(&["member"], &[], None)),
        ["\"member\" is not a valid flag"]
    );
    assert_eq!(
        mistakes(&exit(&["--pre-vote", "true"], &[], None)),
        ["\"true\" is not a valid flag"]
    );
    assert_eq!(
        mistakes(&exit(&["gateway", "start"], &[], None)),
        ["the command \"gateway\" is not available yet"]
    );
}

#[test]
fn a_variable_fills_in_for_a_flag() {
    let (config, notes) = run_in(
        &["--name=a"],
        &[("ETCD_DATA_DIR", "/d"), ("HOME", "/root")],
        None,
    );
    assert_eq!(
        (config.name.as_str(), config.data_dir.to_str()),
        ("a", Some("/d"))
    );
    assert!(has_note(
        &notes,
        "recognized and used environment variable",
        "ETCD_DATA_DIR"
    ));
}

#[test]
fn a_flag_and_its_variable_together_are_fatal() {
    for value in ["b", ""] {
        let exit = exit(&["--name=a"], &[("ETCD_NAME", value)], None);
        let fatal = exit.notes.last().expect("a note");
        assert_eq!((exit.code, fatal.level), (1, Level::Fatal));
        assert!(fatal.message.starts_with(
            "conflicting environment variable is shadowed by corresponding command-line flag"
        ));
        assert_eq!(fatal.fields, [("environment-variable", "ETCD_NAME".into())]);
    }
}

#[test]
fn unknown_and_empty_variables_are_reported_without_their_values() {
    let env = [
        ("ETCD_ROOT_PASSWORD", "hunter2"),
        ("ETCD_CORS", ""),
        ("ETCD_VERSION", "false"),
        ("ETCDCTL_API", "3"),
    ];
    let (_, notes) = run_in(&[], &env, None);
    assert!(has_note(
        &notes,
        "unrecognized environment variable",
        "ETCD_ROOT_PASSWORD"
    ));
    assert!(has_note(
        &notes,
        "unrecognized environment variable",
        "ETCD_CORS"
    ));
    assert!(has_note(
        &notes,
        "cannot set special environment variable",
        "ETCD_VERSION"
    ));
    assert!(!format!("{notes:?}").contains("hunter2") && !format!("{notes:?}").contains("ETCDCTL"));
}

#[test]
fn secrets_stay_out_of_notes() {
    let args = [
        "--discovery-password",
        "hunter2",
        "--discovery-user=u:hunter2",
    ];
    let notes = match read_in(&args, &[("ETCD_NAME", "a")], None) {
        Outcome::Run(_, notes) | Outcome::Exit(Exit { notes, .. }) => notes,
    };
    assert!(!format!("{notes:?}").contains("hunter2"), "{notes:?}");
    let (_, notes) = run_in(&[], &[("ETCD_DISCOVERY_PASSWORD", "hunter2")], None);
    assert!(!format!("{notes:?}").contains("hunter2"), "{notes:?}");
}

#[test]
fn a_file_excludes_flags_and_variables() {
    let env = [("ETCD_NAME", "env"), ("ETCD_MAX_WALS", "not a number")];
    let (config, notes) = run_in(
        &["--config-file=/c.yml", "--name=flag", "--max-txn-ops=1"],
        &env,
        Some("name: file"),
    );
    assert_eq!(
        (config.name.as_str(), config.limits.txn_ops_max),
        ("file", 128)
    );
    assert!(notes.iter().any(|note| {
        note.message
            .starts_with("loaded server configuration, other configuration command line")
    }));
    let (config, _) = run_in(
        &[],
        &[("ETCD_CONFIG_FILE", "/c.yml"), ("ETCD_NAME", "env")],
        Some("name: file"),
    );
    assert_eq!(config.name, "file");
    assert_eq!(
        mistakes(&exit(&["--config-file=/x"], &[], None)),
        ["open /x: no such file or directory"]
    );
}

/// The variables of a CentOS walkthrough of etcd 3.2, as its `/etc/etcd/etcd.conf` sets them.
const WALKTHROUGH: &[(&str, &str)] = &[
    ("ETCD_CORS", ""),
    ("ETCD_DATA_DIR", "/var/lib/etcd/default.etcd"),
    ("ETCD_WAL_DIR", ""),
    ("ETCD_LISTEN_PEER_URLS", "http://192.168.126.135:2380"),
    ("ETCD_LISTEN_CLIENT_URLS", "http://0.0.0.0:2379"),
    ("ETCD_MAX_SNAPSHOTS", "5"),
    ("ETCD_MAX_WALS", "5"),
    ("ETCD_NAME", "etcd1"),
    ("ETCD_SNAPSHOT_COUNT", "100000"),
    ("ETCD_HEARTBEAT_INTERVAL", "100"),
    ("ETCD_ELECTION_TIMEOUT", "1000"),
    ("ETCD_QUOTA_BACKEND_BYTES", "0"),
    ("ETCD_MAX_REQUEST_BYTES", "1572864"),
    ("ETCD_GRPC_KEEPALIVE_MIN_TIME", "5s"),
    ("ETCD_GRPC_KEEPALIVE_INTERVAL", "2h0m0s"),
    ("ETCD_GRPC_KEEPALIVE_TIMEOUT", "20s"),
    (
        "ETCD_INITIAL_ADVERTISE_PEER_URLS",
        "http://192.168.126.135:2380",
    ),
    ("ETCD_ADVERTISE_CLIENT_URLS", "http://0.0.0.0:2379"),
    ("ETCD_DISCOVERY", ""),
    ("ETCD_DISCOVERY_FALLBACK", "proxy"),
    ("ETCD_DISCOVERY_PROXY", ""),
    ("ETCD_DISCOVERY_SRV", ""),
    (
        "ETCD_INITIAL_CLUSTER",
        "etcd1=http://192.168.126.135:2380,etcd2=http://192.168.126.136:2380",
    ),
    ("ETCD_INITIAL_CLUSTER_TOKEN", "etcd-cluster"),
    ("ETCD_INITIAL_CLUSTER_STATE", "new"),
    ("ETCD_STRICT_RECONFIG_CHECK", "true"),
    ("ETCD_ENABLE_V2", "true"),
    ("ETCD_PROXY", "off"),
    ("ETCD_PROXY_FAILURE_WAIT", "5000"),
    ("ETCD_PROXY_REFRESH_INTERVAL", "30000"),
    ("ETCD_PROXY_DIAL_TIMEOUT", "1000"),
    ("ETCD_PROXY_WRITE_TIMEOUT", "5000"),
    ("ETCD_PROXY_READ_TIMEOUT", "0"),
    ("ETCD_CERT_FILE", ""),
    ("ETCD_KEY_FILE", ""),
    ("ETCD_CLIENT_CERT_AUTH", "false"),
    ("ETCD_TRUSTED_CA_FILE", ""),
    ("ETCD_AUTO_TLS", "false"),
    ("ETCD_PEER_CERT_FILE", ""),
    ("ETCD_PEER_KEY_FILE", ""),
    ("ETCD_PEER_CLIENT_CERT_AUTH", "false"),
    ("ETCD_PEER_TRUSTED_CA_FILE", ""),
    ("ETCD_PEER_AUTO_TLS", "false"),
    ("ETCD_DEBUG", "false"),
    ("ETCD_LOG_PACKAGE_LEVELS", ""),
    ("ETCD_LOG_OUTPUT", "default"),
    ("ETCD_FORCE_NEW_CLUSTER", "false"),
    ("ETCD_VERSION", "false"),
    ("ETCD_AUTO_COMPACTION_RETENTION", "0"),
    ("ETCD_ENABLE_PPROF", "false"),
    ("ETCD_METRICS", "basic"),
    ("ETCD_AUTH_TOKEN", "simple"),
];

#[test]
fn the_variables_of_the_walkthrough_are_understood() {
    let (config, _) = run_in(&[], WALKTHROUGH, None);
    assert_eq!(
        (
            config.name.as_str(),
            config.enable_v2,
            config.raft.snapshot_count
        ),
        ("etcd1", true, 100_000)
    );
    assert_eq!(config.bootstrap.initial_cluster.len(), 2);
    assert_eq!(
        url::show_list(&config.urls.advertise_client),
        "http://0.0.0.0:2379"
    );
    let told: Vec<_> = config
        .not_yet()
        .iter()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(told, ["--discovery-fallback", "--enable-v2"]);
    assert_eq!(config.check_bootstrap(&|_| None), [""; 0]);
}

#[test]
fn a_remark_behind_a_value_is_an_error_of_the_url() {
    let env = [(
        "ETCD_LISTEN_PEER_URLS",
        "http://192.168.126.135:2380 ##where peers connect",
    )];
    assert_eq!(
        mistakes(&exit(&[], &env, None)),
        [
            "invalid value \"http://192.168.126.135:2380 ##where peers connect\" for ETCD_LISTEN_PEER_URLS: parse \
          \"http://192.168.126.135:2380 \": invalid port \":2380 \" after host"
        ]
    );
}
