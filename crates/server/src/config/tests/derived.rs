//! Defaults and what follows from other options.

use super::super::{AutoCompaction, Level, url};
use super::{exit, has_note, run, run_in};

#[test]
fn without_options_a_member_runs_on_the_defaults() {
    let (config, notes) = run_in(&[], &[], None);
    assert_eq!(
        (config.name.as_str(), config.data_dir.to_str()),
        ("default", Some("default.etcd"))
    );
    assert_eq!(config.quota_bytes, Some(2 << 30));
    assert_eq!(
        (
            config.raft.heartbeat_ms,
            config.raft.election_ms,
            config.raft.election_ticks()
        ),
        (100, 1000, 10)
    );
    assert_eq!(config.raft.request_timeout().as_millis(), 7000);
    assert_eq!(
        config.bootstrap.initial_cluster["default"][0].to_string(),
        "http://localhost:2380"
    );
    assert_eq!(config.limits.request_bytes_max, 1_572_864);
    assert_eq!(
        (
            config.auto_compaction,
            config.monitoring.watch_progress.as_secs()
        ),
        (None, 600)
    );
    assert_eq!(
        config
            .keepalive
            .ping
            .map(|(interval, timeout)| (interval.as_secs(), timeout.as_secs())),
        Some((7200, 20))
    );
    assert_eq!(
        (
            config.not_yet(),
            config.refusals(),
            config.check_bootstrap(&|_| None)
        ),
        (vec![], vec![], vec![])
    );
    assert!(has_note(
        &notes,
        "'data-dir' was empty; using default",
        "default.etcd"
    ));
}

#[test]
fn addresses_to_advertise_are_found_like_etcd_finds_them() {
    let config = run(&["--name=a", "--listen-peer-urls=http://0.0.0.0:4380"]);
    assert_eq!(
        url::show_list(&config.urls.advertise_peer),
        "http://10.1.2.3:4380"
    );
    assert_eq!(
        config.bootstrap.initial_cluster["a"][0].to_string(),
        "http://10.1.2.3:4380"
    );
    let text = "listen-client-urls: http://0.0.0.0:4379";
    let (config, _) = run_in(&["--config-file=/c.yml"], &[], Some(text));
    assert_eq!(
        url::show_list(&config.urls.advertise_client),
        "http://10.1.2.3:4379"
    );
}

#[test]
fn values_that_mean_a_default_become_it() {
    let config = run(&[
        "--quota-backend-bytes=-5",
        "--snapshot-count=0",
        "--watch-progress-notify-interval=1ms",
        "--bcrypt-cost=99",
        "--grpc-keepalive-interval=0",
        "--warning-unary-request-duration=0",
        "--raft-read-timeout=1s",
    ]);
    assert_eq!(
        (
            config.quota_bytes,
            config.raft.snapshot_count,
            config.auth.bcrypt_cost
        ),
        (None, 10_000, 10)
    );
    assert_eq!(
        (
            config.monitoring.watch_progress.as_millis(),
            config.keepalive.ping
        ),
        (100, None)
    );
    assert_eq!(
        (
            config.monitoring.warning_unary_request.as_millis(),
            config.raft.read_timeout.as_secs()
        ),
        (300, 5)
    );
}

#[test]
fn retention_is_read_by_its_mode() {
    use std::time::Duration;
    for (mode, text, expected) in [
        ("periodic", "0", None),
        (
            "periodic",
            "10",
            Some(AutoCompaction::Periodic(Duration::from_secs(36_000))),
        ),
        (
            "periodic",
            "30m",
            Some(AutoCompaction::Periodic(Duration::from_secs(1_800))),
        ),
        ("revision", "0", None),
        ("revision", "1000", Some(AutoCompaction::Revision(1000))),
    ] {
        let mode = format!("--auto-compaction-mode={mode}");
        let retention = format!("--auto-compaction-retention={text}");
        assert_eq!(
            run(&[&mode, &retention]).auto_compaction,
            expected,
            "{mode} {retention}"
        );
    }
    assert_eq!(
        exit(
            &[
                "--auto-compaction-mode=revision",
                "--auto-compaction-retention=1h"
            ],
            &[],
            None
        )
        .code,
        1
    );
}

#[test]
fn old_logging_options_mean_the_new_ones() {
    let config = run(&["--debug", "--log-output=stdout"]);
    assert_eq!(
        (config.log.level, config.log.outputs),
        (Level::Debug, vec![crate::logging::Output::Stdout])
    );
    assert_eq!(run(&["--debug", "--log-level=warn"]).log.level, Level::Warn);
}
