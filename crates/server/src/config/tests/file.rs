//! The configuration file.

use super::super::{AutoCompaction, Level, url};
use super::{exit, has_note, mistakes, run_in};

/// In the shape of the sample that etcd ships.
const SAMPLE: &str = "
name: 'm1'
data-dir:
wal-dir:
snapshot-count: 10000
heartbeat-interval: 100
election-timeout: 1000
quota-backend-bytes: -1
listen-client-urls: http://localhost:2379,http://127.0.0.1:3379
max-wals: 5
cors:
discovery-fallback: 'proxy'
discovery-srv:
initial-cluster:
initial-cluster-state: 'new'
strict-reconfig-check: true
pre-vote: yes
grpc-keepalive-timeout: 30000000000
watch-progress-notify-interval: 10m
client-transport-security:
  cert-file:
  client-cert-auth: false
peer-transport-security:
  allowed-cn:
log-level: debug
log-outputs: [stderr]
auto-compaction-mode: periodic
auto-compaction-retention: 1
socket-options:
  reuse-port: true
feature-gates: LeaseCheckpoint=true
";

#[test]
fn a_file_like_the_sample_is_understood() {
    let (config, notes) = run_in(&["--config-file=/c.yml"], &[], Some(SAMPLE));
    assert_eq!(
        (
            config.name.as_str(),
            config.quota_bytes,
            config.raft.pre_vote
        ),
        ("m1", None, true)
    );
    assert_eq!(
        url::show_list(&config.urls.listen_client),
        "http://127.0.0.1:3379,http://localhost:2379"
    );
    // Unlike with flags, the default is advertised.
    assert_eq!(
        url::show_list(&config.urls.advertise_client),
        "http://localhost:2379"
    );
    assert_eq!(config.keepalive.ping.expect("on").1.as_secs(), 30);
    assert_eq!(config.monitoring.watch_progress.as_secs(), 600);
    assert_eq!(
        config.auto_compaction,
        Some(AutoCompaction::Periodic(std::time::Duration::from_secs(
            3600
        )))
    );
    assert!(config.socket.reuse_port && config.feature_gates.on("LeaseCheckpoint"));
    assert_eq!(config.log.level, Level::Debug);
    assert_eq!(
        config.bootstrap.initial_cluster["m1"][0].to_string(),
        "http://localhost:2380"
    );
    assert!(has_note(
        &notes,
        "unknown key in the configuration file is ignored",
        "discovery-fallback"
    ));
}

#[test]
fn mistakes_in_a_file_are_reported_together() {
    let text = "snapshot-count: many\nlisten-peer-urls: 'h:1'\ninitial-cluster-state: old\nclient-transport-security: 5\n\
                max-txn-ops: -1\nfeature-gates: X=true\ncorrupt-check-time: 5q";
    assert_eq!(
        mistakes(&exit(&["--config-file=/c.yml"], &[], Some(text))),
        [
            "snapshot-count: expected an integer that is not negative, found \"many\"",
            "unexpected error setting up listen-peer-urls: URL scheme must be http, https, unix, or unixs: h:1",
            "unexpected clusterState \"old\"",
            "invalid client-transport-security",
            "max-txn-ops: expected an integer that is not negative, found \"-1\"",
            "unrecognized feature gate: X",
            "corrupt-check-time: time: unknown unit \"q\" in duration \"5q\"",
        ]
    );
    assert_eq!(exit(&["--config-file=/c.yml"], &[], Some("a: [")).code, 1);
    assert_eq!(exit(&["--config-file=/c.yml"], &[], Some("- a")).code, 1);
}

#[test]
fn tls_in_a_file_is_found() {
    let clients =
        "client-transport-security:\n  cert-file: c\n  key-file: k\n  client-cert-auth: true\n";
    let (config, _) = run_in(&["--config-file=/c.yml"], &[], Some(clients));
    let tls = config.client_tls;
    assert_eq!(tls.cert_file, Some("c".into()));
    assert_eq!(tls.key_file, Some("k".into()));
    assert!(tls.client_cert_auth);
    let members = "peer-transport-security:\n  allowed-cn: [a, b]\n";
    let (config, _) = run_in(&["--config-file=/c.yml"], &[], Some(members));
    assert_eq!(config.peer_tls.allowed_cns, ["a", "b"]);
}
