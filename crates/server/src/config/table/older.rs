//! Rows of options that etcd 3.7 has no more: some we accept, so that a configuration of many years still starts.

use super::Row;
use super::Status::{Ignored, NotYet, Refused, RefusedAtBootstrap, Removed, Works};
use crate::config::value::Kind::{Any, Bool, Choice, Text, Uint};

const NO_DISCOVERY: &str = "discovery is not available yet, and a member that started without it would found a cluster of its own";
const NO_PROXY: &str = "the v2 proxy is not available yet";
const LONG_AGO: &str = "it has had no effect since etcd 2";

#[rustfmt::skip]
pub(super) const ACCEPTED: &[Row] = &[
    Row::new("enable-v2", Bool, "false", "25", NotYet("the v2 API is not served yet"),
        "Serve the v2 API under /v2."),
    Row::new("v2-deprecation", Choice(&["not-yet", "write-only", "write-only-skip-check", "write-only-drop-data", "gone"]),
        "write-only", "567", Ignored("the stage of the v2 API's removal does not matter to a new store"),
        "Stage of the removal of the v2 API."),
    Row::new("discovery", Text, "", "256", RefusedAtBootstrap(NO_DISCOVERY),
        "v2 discovery URL of the cluster to found."),
    Row::new("discovery-proxy", Text, "", "256", NotYet(NO_DISCOVERY),
        "HTTP proxy for v2 discovery."),
    Row::new("proxy", Choice(&["off", "readonly", "on"]), "off", "25",
        Refused("the v2 proxy is not available yet, and a member would start in its place"),
        "Run as a proxy for the v2 API instead of as a member: off, readonly or on."),
    Row::new("proxy-failure-wait", Uint, "5000", "25", NotYet(NO_PROXY),
        "v2 proxy: milliseconds for which an endpoint stays marked as failed."),
    Row::new("proxy-refresh-interval", Uint, "30000", "25", NotYet(NO_PROXY),
        "v2 proxy: milliseconds between refreshes of the endpoints."),
    Row::new("proxy-dial-timeout", Uint, "1000", "25", NotYet(NO_PROXY),
        "v2 proxy: milliseconds to connect, 0 for no limit."),
    Row::new("proxy-write-timeout", Uint, "5000", "25", NotYet(NO_PROXY),
        "v2 proxy: milliseconds for a write, 0 for no limit."),
    Row::new("proxy-read-timeout", Uint, "0", "25", NotYet(NO_PROXY),
        "v2 proxy: milliseconds for a read, 0 for no limit."),
    Row::new("ca-file", Text, "", "2", Works,
        "Old name of --trusted-ca-file together with --client-cert-auth."),
    Row::new("peer-ca-file", Text, "", "2", Works,
        "Old name of --peer-trusted-ca-file together with --peer-client-cert-auth."),
    Row::new("debug", Bool, "false", "2", Works,
        "Same as --log-level=debug, if that is not given."),
    Row::new("log-package-levels", Text, "", "2", Ignored("packages have no levels of their own; use --log-level"),
        "Log levels by package of etcd."),
    Row::new("log-output", Choice(&["default", "stdout", "stderr"]), "default", "2", Works,
        "Same as --log-outputs, if that is not given."),
];

#[rustfmt::skip]
pub(super) const LONG_IGNORED: &[Row] = &[
    ignored("cluster-active-size"), ignored("cluster-remove-delay"), ignored("cluster-sync-interval"),
    ignored("config"), ignored("force"), ignored("max-result-buffer"), ignored("max-retry-attempts"),
    ignored("peer-heartbeat-interval"), ignored("peer-election-timeout"), ignored("retry-interval"),
    ignored("snapshot"), ignored("v"), ignored("vv"), ignored("test.coverprofile"), ignored("test.outputdir"),
];

/// What etcd 3.5 and 3.6 called experimental. Passing one is an error in etcd 3.7, as it is here.
#[rustfmt::skip]
pub(super) const REMOVED: &[Row] = &[
    removed("experimental-initial-corrupt-check", "56", "--feature-gates=InitialCorruptCheck=true"),
    removed("experimental-corrupt-check-time", "56", "--corrupt-check-time"),
    removed("experimental-compact-hash-check-enabled", "56", "--feature-gates=CompactHashCheck=true"),
    removed("experimental-compact-hash-check-time", "56", "--compact-hash-check-time"),
    removed("experimental-enable-lease-checkpoint", "56", "--feature-gates=LeaseCheckpoint=true"),
    removed("experimental-enable-lease-checkpoint-persist", "56", "--feature-gates=LeaseCheckpointPersist=true"),
    removed("experimental-compaction-batch-limit", "56", "--compaction-batch-limit"),
    removed("experimental-compaction-sleep-interval", "56", "--compaction-sleep-interval"),
    removed("experimental-watch-progress-notify-interval", "56", "--watch-progress-notify-interval"),
    removed("experimental-downgrade-check-time", "56", "--downgrade-check-time"),
    removed("experimental-warning-apply-duration", "56", "--warning-apply-duration"),
    removed("experimental-warning-unary-request-duration", "6", "--warning-unary-request-duration"),
    removed("experimental-memory-mlock", "56", "--memory-mlock"),
    removed("experimental-txn-mode-write-with-shared-buffer", "56", "--feature-gates=TxnModeWriteWithSharedBuffer=true"),
    removed("experimental-stop-grpc-service-on-defrag", "56", "--feature-gates=StopGRPCServiceOnDefrag=true"),
    removed("experimental-bootstrap-defrag-threshold-megabytes", "56", "--bootstrap-defrag-threshold-megabytes"),
    removed("experimental-snapshot-catchup-entries", "56", "--snapshot-catchup-entries"),
    removed("experimental-enable-v2v3", "5", ""),
    removed("experimental-peer-skip-client-san-verification", "256", "--peer-skip-client-san-verification"),
    removed("experimental-enable-distributed-tracing", "56", "--enable-distributed-tracing"),
    removed("experimental-distributed-tracing-address", "56", "--distributed-tracing-address"),
    removed("experimental-distributed-tracing-service-name", "56", "--distributed-tracing-service-name"),
    removed("experimental-distributed-tracing-instance-id", "56", "--distributed-tracing-instance-id"),
    removed("experimental-distributed-tracing-sampling-rate", "56", "--distributed-tracing-sampling-rate"),
];

const fn ignored(name: &'static str) -> Row {
    Row::new(
        name,
        Any,
        "",
        "2567",
        Ignored(LONG_AGO),
        "Accepted and ignored.",
    )
    .yaml("")
}

const fn removed(name: &'static str, releases: &'static str, instead: &'static str) -> Row {
    Row::new(
        name,
        Any,
        "",
        releases,
        Removed(instead),
        "Not accepted any more.",
    )
    .yaml("")
}
