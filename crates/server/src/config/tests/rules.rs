//! Rules between options: what is refused, in whose words.

use super::{exit, has_note, mistakes, run, run_in};

#[test]
fn rules_between_options_have_the_messages_of_etcd() {
    for (args, message) in [
        (
            &["--logger=capnslog"][..],
            "--logger=capnslog is removed in v3.5",
        ),
        (&["--logger=x"], "unknown logger option \"x\""),
        (
            &["--log-outputs=default,stdout"],
            "multi logoutput for \"default\" is not supported yet",
        ),
        (&["--log-level=loud"], "unrecognized level: \"loud\""),
        (
            &["--log-format=xml"],
            "unknown log format: xml, supported values json, console",
        ),
        (
            &["--log-outputs=stdout,systemd/journal"],
            "running with systemd/journal but other '--log-outputs' values ([\"stdout\" \"systemd/journal\"]) are configured with \
             'default'; override 'default' value with something else",
        ),
        (
            &["--enable-log-rotation"],
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ),
        (
            &["--listen-peer-urls=http://example.com:1"],
            "expected IP in URL for binding (http://example.com:1)",
        ),
        (
            &["--listen-metrics-urls=http://:1"],
            "expected IP in URL for binding (http://:1)",
        ),
        (
            &["--initial-advertise-peer-urls=http://:2380"],
            "--initial-advertise-peer-urls \"http://:2380\" must be \"host:port\" (unexpected empty host (http://:2380))",
        ),
        (
            &["--advertise-client-urls=http://:2379"],
            "--advertise-client-urls \"http://:2379\" must be in the format \"host:port\", \"unix:/path/to/socket\" or \
             \"unixs:/path/to/socket\" (unexpected empty host (http://:2379))",
        ),
        (
            &["--discovery-srv=a", "--initial-cluster=a=http://a:1"],
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \
             \"discovery-srv\"",
        ),
        (
            &["--discovery-token=a"],
            "both --discovery-token and --discovery-endpoints must be set",
        ),
        (
            &["--discovery-token=a", "--discovery-endpoints=a,"],
            "--discovery-endpoints must not contain empty endpoints",
        ),
        (
            &["--heartbeat-interval=0"],
            "--heartbeat-interval must be >0 (set to 0ms)",
        ),
        (
            &["--election-timeout=0"],
            "--election-timeout must be >0 (set to 0ms)",
        ),
        (
            &["--heartbeat-interval=201"],
            "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[201ms]",
        ),
        (
            &["--election-timeout=50001"],
            "--election-timeout[50001ms] is too long, and should be set less than 50000ms",
        ),
        (
            &["--listen-client-urls=http://127.0.0.1:1"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            &["--auto-compaction-mode="],
            "undefined auto-compaction-mode",
        ),
        (
            &["--auto-compaction-mode=x"],
            "unknown auto-compaction-mode \"x\"",
        ),
        (
            &["--auto-compaction-retention=x"],
            "error parsing CompactionRetention: time: invalid duration \"x\"",
        ),
        (
            &["--auto-compaction-retention=-1h"],
            "error parsing CompactionRetention: \"-1h\" is negative",
        ),
        (
            &[
                "--enable-distributed-tracing",
                "--distributed-tracing-sampling-rate=1000001",
            ],
            "distributed tracing configurition is not valid: (tracing sampling rate must be less than 1000000)",
        ),
        (
            &["--feature-gates=LeaseCheckpointPersist=true"],
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ),
        (
            &["--compact-hash-check-time=0"],
            "--compact-hash-check-time must be >0 (set to 0s)",
        ),
        (
            &["--tls-min-version=TLS1.1"],
            "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)",
        ),
        (
            &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            &[
                "--tls-min-version=TLS1.3",
                "--cipher-suites=TLS_AES_128_GCM_SHA256",
            ],
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (
            &["--cipher-suites=ROT13"],
            "unexpected TLS cipher suite \"ROT13\"",
        ),
        (
            &["--peer-cert-allowed-cn=a", "--peer-cert-allowed-hostname=b"],
            "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"a\"], hostnames=[\"b\"])",
        ),
        (
            &["--discovery-srv=a", "--discovery-fallback=proxy"],
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"",
        ),
        (
            &[
                "--listen-client-urls=https://127.0.0.1:1",
                "--advertise-client-urls=https://a:1",
            ],
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme",
        ),
        (
            &["--listen-client-http-urls=http://localhost:2379"],
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url http://localhost:2379",
        ),
        (&["--auth-token=x"], "auth: invalid auth options"),
        (
            &["--initial-cluster=default"],
            "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ",
        ),
    ] {
        let exit = exit(args, &[], None);
        assert!(
            mistakes(&exit).contains(&message),
            "{args:?}: {:#?}",
            mistakes(&exit)
        );
    }
}

#[test]
fn founding_a_cluster_is_checked_like_etcd() {
    let resolve = |host: &str| (host == "a.example:2380").then(|| "10.0.0.1:2380".to_owned());
    for (args, messages) in [
        (
            &["--initial-cluster=other=http://localhost:2380"][..],
            &["couldn't find local name \"default\" in the initial cluster configuration"][..],
        ),
        (
            &[
                "--initial-advertise-peer-urls=http://localhost:1",
                "--initial-cluster=default=http://localhost:2",
            ],
            &[
                "--initial-cluster has default=http://localhost:2 but missing from \
               --initial-advertise-peer-urls=http://localhost:1 (resolved urls: \"http://localhost:1\" != \"http://localhost:2\")",
            ],
        ),
        (
            &[
                "--initial-advertise-peer-urls=http://localhost:1,http://localhost:2",
                "--initial-cluster=default=http://localhost:2",
            ],
            &[
                "--initial-advertise-peer-urls has http://localhost:1 but missing from \
               --initial-cluster=default=http://localhost:1,default=http://localhost:2",
            ],
        ),
        (
            &["--initial-cluster="],
            &[
                "couldn't find local name \"default\" in the initial cluster configuration",
                "initial cluster unset and no discovery endpoints found",
            ],
        ),
        (
            &[
                "--initial-advertise-peer-urls=http://a.example:2380",
                "--initial-cluster=default=http://10.0.0.1:2380",
            ],
            &[],
        ),
        (
            &["--name=a", "--initial-advertise-peer-urls=http://b:1"],
            &[],
        ),
        (
            &[
                "--name=a",
                "--initial-cluster=a=http://localhost:2380,b=http://localhost:2380",
            ],
            &["initial cluster a=http://localhost:2380,b=http://localhost:2380 has duplicate url"],
        ),
        (
            &[
                "--initial-cluster-state=existing",
                "--initial-advertise-peer-urls=http://localhost:1",
                "--initial-cluster=default=http://localhost:2,b=http://localhost:3",
            ],
            &[],
        ),
        (
            &[
                "--initial-cluster-state=existing",
                "--initial-cluster=a=http://localhost:2,b=http://localhost:3",
            ],
            &["couldn't find local name \"default\" in the initial cluster configuration"],
        ),
    ] {
        assert_eq!(run(args).check_bootstrap(&resolve), messages, "{args:?}");
    }
    let config = run(&["--discovery-srv=example.com"]);
    assert_eq!(config.bootstrap.initial_cluster.len(), 0);
    assert_eq!(config.check_bootstrap(&resolve).len(), 1);
}

#[test]
fn the_version_for_peers_is_one_that_this_program_can_be() {
    let version = |text: &str| run(&[&format!("--version-for-peers={text}")]).version_for_peers;
    assert_eq!(version("auto"), None);
    assert_eq!(version("3.5").map(|v| v.to_string()), Some("3.5.0".into()));
    assert_eq!(
        version("3.6.2").map(|v| v.to_string()),
        Some("3.6.2".into())
    );
    for wrong in ["3.8", "3.2", "4", "", "own"] {
        let flag = format!("--version-for-peers={wrong}");
        let refused = exit(&[&flag], &[], None);
        let told = mistakes(&refused);
        assert!(
            told[0].contains("must be auto or a version from 3.4 to 3.7.1"),
            "{told:?}"
        );
    }
}

#[test]
fn options_without_effect_are_told_and_unsafe_ones_refused() {
    let config = run(&[
        "--enable-v2=true",
        "--bcrypt-cost=9",
        "--feature-gates=PriorityRequest=true",
    ]);
    let told = config.not_yet().join("\n");
    assert!(
        ["--enable-v2 ", "--bcrypt-cost ", "PriorityRequest"]
            .iter()
            .all(|part| told.contains(part)),
        "{told}"
    );
    // Given with its default, an option asks for nothing.
    assert_eq!(
        run(&["--enable-v2=false", "--auto-tls=false", "--proxy=off"]).not_yet(),
        [""; 0]
    );
    assert_eq!(mistakes(&exit(&["--proxy=on"], &[], None)).len(), 1);
    let (_, notes) = run_in(&["--snapshot", "--backend-batch-limit=5"], &[], None);
    assert!(has_note(
        &notes,
        "flag is no longer supported - ignoring",
        "snapshot"
    ));
    assert!(has_note(
        &notes,
        "flag is no longer supported - ignoring",
        "backend-batch-limit"
    ));
}

#[test]
fn certificates_belong_to_keys_and_to_urls() {
    for (flags, mistake) in [
        (
            &["--key-file=k"][..],
            "KeyFile and CertFile must both be present[key: k, cert: ]",
        ),
        (
            &["--peer-cert-file=c"],
            "KeyFile and CertFile must both be present[key: , cert: c]",
        ),
        (
            &["--peer-client-key-file=k"],
            "ClientKeyFile and ClientCertFile must both be present or both absent: key: k, cert: ]",
        ),
        (
            &["--listen-metrics-urls=https://127.0.0.1:1"],
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url",
        ),
    ] {
        assert_eq!(mistakes(&exit(flags, &[], None)), [mistake]);
    }
    let unsigned = ["--peer-auto-tls", "--peer-trusted-ca-file=f"];
    let exit = exit(&unsigned, &[], None);
    assert!(mistakes(&exit)[0].starts_with("--peer-auto-tls generates certificates"));

    let (config, notes) = run_in(&["--ca-file=f", "--peer-ca-file=g"], &[], None);
    for (tls, file) in [(config.client_tls, "f"), (config.peer_tls, "g")] {
        assert!(tls.client_cert_auth && tls.trusted_ca_file == Some(file.into()));
    }
    let ignored = "scheme is HTTP while --peer-client-cert-auth is enabled; ignoring client cert auth for this URL";
    assert!(!has_note(&notes, ignored, "http://localhost:2380"));
    let (_, notes) = run_in(
        &["--peer-client-cert-auth", "--client-crl-file=f"],
        &[],
        None,
    );
    assert!(has_note(&notes, ignored, "http://localhost:2380"));
    let unchecked = notes
        .iter()
        .find(|note| note.message.contains("none is checked"));
    let unchecked = unchecked.expect("told");
    assert_eq!(unchecked.fields[0].1, "client-crl-file");
}
