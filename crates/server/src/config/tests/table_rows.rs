//! The table, and the texts made from it.

use super::super::table::{self, Status};
use super::super::{Outcome, RawConfig, help};
use super::{exit, read_in};
use std::collections::BTreeMap;

/// Every flag of etcd 3.7, 3.6, 3.5 and 3.2, except the `experimental-` ones.
const FLAGS: &str = "
    name data-dir wal-dir listen-peer-urls listen-client-urls listen-client-http-urls listen-metrics-urls max-snapshots max-wals
    snapshot-count heartbeat-interval election-timeout initial-election-tick-advance quota-backend-bytes
    backend-bbolt-freelist-type backend-batch-interval backend-batch-limit max-txn-ops max-request-bytes max-concurrent-streams
    grpc-keepalive-min-time grpc-keepalive-interval grpc-keepalive-timeout socket-reuse-port socket-reuse-address
    raft-read-timeout raft-write-timeout memory-mlock snapshot-catchup-entries
    initial-advertise-peer-urls advertise-client-urls initial-cluster initial-cluster-state initial-cluster-token discovery
    discovery-proxy discovery-fallback discovery-srv discovery-srv-name discovery-token discovery-endpoints
    discovery-dial-timeout discovery-request-timeout discovery-keepalive-time discovery-keepalive-timeout
    discovery-insecure-transport discovery-insecure-skip-tls-verify discovery-cert discovery-key discovery-cacert discovery-user
    discovery-password strict-reconfig-check pre-vote auto-compaction-mode auto-compaction-retention enable-v2 v2-deprecation
    max-learners proxy proxy-failure-wait proxy-refresh-interval proxy-dial-timeout proxy-write-timeout proxy-read-timeout
    cert-file key-file client-cert-file client-key-file client-cert-auth client-crl-file client-cert-allowed-hostname
    trusted-ca-file auto-tls peer-cert-file peer-key-file peer-client-cert-auth peer-trusted-ca-file peer-auto-tls
    peer-client-cert-file peer-client-key-file peer-crl-file peer-cert-allowed-cn peer-cert-allowed-hostname
    peer-skip-client-san-verification self-signed-cert-validity cipher-suites tls-min-version tls-max-version ca-file peer-ca-file
    cors host-whitelist auth-token bcrypt-cost auth-token-ttl
    logger log-outputs log-level log-format enable-log-rotation log-rotation-config-json debug log-package-levels log-output
    enable-pprof metrics enable-distributed-tracing distributed-tracing-address distributed-tracing-service-name
    distributed-tracing-instance-id distributed-tracing-sampling-rate
    enable-grpc-gateway corrupt-check-time compact-hash-check-time compaction-batch-limit compaction-sleep-interval
    watch-progress-notify-interval downgrade-check-time warning-apply-duration warning-unary-request-duration
    bootstrap-defrag-threshold-megabytes feature-gates unsafe-no-fsync force-new-cluster config-file version
    cluster-active-size cluster-remove-delay cluster-sync-interval config force max-result-buffer max-retry-attempts
    peer-heartbeat-interval peer-election-timeout retry-interval snapshot v vv test.coverprofile test.outputdir";

/// Flags that no etcd has.
const OURS: &[&str] = &["version-for-peers"];

#[test]
fn every_flag_of_etcd_is_in_the_table_once() {
    let mut expected: Vec<_> = FLAGS.split_whitespace().collect();
    let mut actual: Vec<_> = table::rows()
        .filter(|row| !matches!(row.status, Status::Removed(_)) && !row.releases.is_empty())
        .map(|row| row.name)
        .collect();
    expected.sort_unstable();
    actual.sort_unstable();
    assert_eq!(expected, actual);
}

#[test]
fn rows_are_well_formed() {
    let mut keys = BTreeMap::new();
    for row in table::rows() {
        // Panics if the default is not a value of the row's kind.
        let _ = RawConfig::default().value(row.name);
        assert!(
            row.releases.chars().all(|digit| "2567".contains(digit)),
            "{}",
            row.name
        );
        assert_eq!(
            row.releases.is_empty(),
            OURS.contains(&row.name),
            "{}",
            row.name
        );
        assert!(
            row.help.ends_with('.'),
            "{} is described in sentences",
            row.name
        );
        if !row.yaml.is_empty() {
            assert_eq!(
                keys.insert(row.yaml, row.name),
                None,
                "{} is the key of two options",
                row.yaml
            );
        }
    }
}

#[test]
fn help_lists_sections_with_defaults() {
    for args in [["-h"], ["--help"], ["-help"]] {
        let exit = exit(&args, &[], None);
        assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
        for part in [
            "Usage:\n\n  quorate [flags]\n    Start a member.\n",
            "\nMember:\n  --name 'default'\n    Name of this member for people; must appear in --initial-cluster.\n  --data-dir ''\n",
            "\nClustering:\n  --initial-advertise-peer-urls 'http://localhost:2380'\n",
            "    FastLeaseKeepAlive=true|false (BETA - default=true)\n",
            "  --auto-tls 'false'\n    Serve clients with a generated certificate.\n",
            "  --enable-pprof 'false'\n    Serve profiles under /debug/pprof on the client URLs.\n    No effect yet: ",
        ] {
            assert!(
                exit.stdout.contains(part),
                "{part}\nis not in\n{}",
                exit.stdout
            );
        }
        assert!(!exit.stdout.contains("experimental-"));
    }
}

#[test]
fn the_version_begins_with_the_lines_of_etcd() {
    let exit = exit(&["--version"], &[], None);
    let names: Vec<_> = exit
        .stdout
        .lines()
        .filter_map(|line| line.split(": ").next())
        .collect();
    assert_eq!(
        names,
        [
            "etcd Version",
            "Git SHA",
            "Go Version",
            "Go OS/Arch",
            "Quorate Version"
        ]
    );
    assert!(exit.stdout.starts_with("etcd Version: 3.7.1\n"));
    // A variable cannot ask for it.
    assert!(matches!(
        read_in(&[], &[("ETCD_VERSION", "true")], None),
        Outcome::Run(..)
    ));
}

#[test]
fn the_document_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let wanted = help::document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &wanted).expect("the document can be written");
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == wanted,
        "docs/configuration.md is old: run UPDATE_DOCS=1 cargo test -p server the_document_is_current"
    );
}
