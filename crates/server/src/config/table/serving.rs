//! Rows about serving: the member, its cluster, monitoring, logging, tuning.

use super::Row;
use super::Status::{Ignored, NotYet, RefusedAtBootstrap, Works};
use crate::config::value::Kind::{
    Bool, Choice, Duration, Gates, Int, Strings, Text, Uint, Uint32, Urls,
};

const NO_DISCOVERY: &str = "discovery is not available yet, and a member that started without it would found a cluster of its own";
const NO_TRACING: &str = "spans are not exported yet";
const NO_BBOLT: &str = "there is no bbolt backend to tune; commits are paced by the log";
const ROTATION: &str =
    r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#;

#[rustfmt::skip]
pub(super) const MEMBER: &[Row] = &[
    Row::new("name", Text, "default", "2567", Works,
        "Name of this member for people; must appear in --initial-cluster."),
    Row::new("data-dir", Text, "", "2567", Works,
        "Directory for everything the member keeps; empty means ${name}.etcd in the working directory."),
    Row::new("wal-dir", Text, "", "2567", Works,
        "Separate directory for the write-ahead log."),
    Row::new("snapshot-count", Uint, "10000", "2567", Ignored("checkpoints are paced by time and by bytes of the log"),
        "Applied entries between checkpoints; 0 means the default."),
    Row::new("heartbeat-interval", Uint, "100", "2567", Works,
        "Milliseconds between heartbeats of the leader."),
    Row::new("election-timeout", Uint, "1000", "2567", Works,
        "Milliseconds without a leader before an election; at least 5 heartbeats, at most 50000."),
    Row::new("initial-election-tick-advance", Bool, "true", "2567", Works,
        "Shorten the wait for the first election after start."),
    Row::new("listen-peer-urls", Urls, "http://localhost:2380", "2567", Works,
        "Where to accept traffic of other members: http, https, unix or unixs URLs."),
    Row::new("listen-client-urls", Urls, "http://localhost:2379", "2567", Works,
        "Where to accept clients: gRPC, and HTTP unless --listen-client-http-urls is given."),
    Row::new("listen-client-http-urls", Urls, "", "567", NotYet("HTTP and gRPC share one port"),
        "Where to accept HTTP clients; --listen-client-urls then serves gRPC only."),
    Row::new("max-snapshots", Uint, "5", "2567", Ignored("there are no snapshot files to keep; checkpoints replace each other"),
        "Snapshot files to keep, 0 for all."),
    Row::new("max-wals", Uint, "5", "2567", Ignored("log segments are recycled as soon as a checkpoint covers them"),
        "Log files to keep, 0 for all."),
    Row::new("memory-mlock", Bool, "false", "67", NotYet("pages are not locked in memory"),
        "Keep the program's memory from being swapped out."),
    Row::new("quota-backend-bytes", Int, "0", "2567", Works,
        "Bytes the store may take before writes are refused with an alarm; 0 means 2 GiB, negative means no limit."),
    Row::new("backend-bbolt-freelist-type", Text, "map", "567", Ignored(NO_BBOLT),
        "Free list of the bbolt backend, array or map."),
    Row::new("backend-batch-interval", Duration, "0s", "567", Ignored(NO_BBOLT),
        "Longest time before a backend commit; 0 means 100ms."),
    Row::new("backend-batch-limit", Int, "0", "567", Ignored(NO_BBOLT),
        "Most operations before a backend commit; 0 means 10000."),
    Row::new("max-txn-ops", Uint, "128", "567", Works,
        "Most operations in one branch of a transaction."),
    Row::new("max-request-bytes", Uint, "1572864", "2567", Works,
        "Largest request in bytes that a client may send."),
    Row::new("max-concurrent-streams", Uint32, "4294967295", "567", Works,
        "Most HTTP/2 streams that one connection may have open."),
    Row::new("grpc-keepalive-min-time", Duration, "5s", "2567", Works,
        "Shortest time between pings of a client; one that pings faster is disconnected."),
    Row::new("grpc-keepalive-interval", Duration, "2h0m0s", "2567", Works,
        "Time between pings to a silent client; 0 for none."),
    Row::new("grpc-keepalive-timeout", Duration, "20s", "2567", Works,
        "Time to wait for the answer to such a ping before closing; 0 means not to close."),
    Row::new("socket-reuse-port", Bool, "false", "567", Works,
        "Set SO_REUSEPORT on listening sockets.").yaml("socket-options.reuse-port"),
    Row::new("socket-reuse-address", Bool, "false", "567", Works,
        "Set SO_REUSEADDR on listening sockets.").yaml("socket-options.reuse-address"),
    Row::new("enable-grpc-gateway", Bool, "true", "567", NotYet("the JSON gateway is not available yet"),
        "Serve the JSON gateway under /v3."),
    Row::new("raft-read-timeout", Duration, "5s", "567", Works,
        "Read timeout of connections between members; never below 5s.").yaml(""),
    Row::new("raft-write-timeout", Duration, "5s", "567", Works,
        "Write timeout of connections between members; never below 5s.").yaml(""),
    Row::new("feature-gates", Gates, "", "67", Works,
        "Features to switch, as Name=true,Other=false; AllAlpha and AllBeta stand for groups."),
];

#[rustfmt::skip]
pub(super) const CLUSTERING: &[Row] = &[
    Row::new("initial-advertise-peer-urls", Urls, "http://localhost:2380", "2567", Works,
        "Peer URLs of this member that the others are told; must match --initial-cluster."),
    Row::new("initial-cluster", Text, "default=http://localhost:2380", "2567", Works,
        "Members of a new cluster: name=url,name=url; a name may appear once per URL."),
    Row::new("initial-cluster-state", Choice(&["new", "existing"]), "new", "2567",
        Works,
        "Whether the cluster is founded (new) or joined (existing); not read again after the first start."),
    Row::new("initial-cluster-token", Text, "etcd-cluster", "2567", Works,
        "Text that makes the ids of this cluster different from those of others."),
    Row::new("advertise-client-urls", Urls, "http://localhost:2379", "2567", Works,
        "Client URLs of this member that clients are told; required with --listen-client-urls."),
    Row::new("discovery-token", Text, "", "67", RefusedAtBootstrap(NO_DISCOVERY),
        "v3 discovery: token of the cluster to found.").yaml("discovery-config.token"),
    Row::new("discovery-endpoints", Strings, "", "67", RefusedAtBootstrap(NO_DISCOVERY),
        "v3 discovery: gRPC endpoints of the discovery service.").yaml("discovery-config.client.endpoints"),
    Row::new("discovery-dial-timeout", Duration, "2s", "67", NotYet(NO_DISCOVERY),
        "v3 discovery: time to connect.").yaml("discovery-config.client.dial-timeout"),
    Row::new("discovery-request-timeout", Duration, "5s", "67", NotYet(NO_DISCOVERY),
        "v3 discovery: time for one request.").yaml("discovery-config.client.request-timeout"),
    Row::new("discovery-keepalive-time", Duration, "2s", "67", NotYet(NO_DISCOVERY),
        "v3 discovery: time between keepalive pings.").yaml("discovery-config.client.keepalive-time"),
    Row::new("discovery-keepalive-timeout", Duration, "6s", "67", NotYet(NO_DISCOVERY),
        "v3 discovery: time to wait for the answer to a ping.").yaml("discovery-config.client.keepalive-timeout"),
    Row::new("discovery-insecure-transport", Bool, "true", "67", NotYet(NO_DISCOVERY),
        "v3 discovery: connect without TLS.").yaml("discovery-config.client.secure.insecure-transport"),
    Row::new("discovery-insecure-skip-tls-verify", Bool, "false", "67", NotYet(NO_DISCOVERY),
        "v3 discovery: do not verify the server's certificate.").yaml("discovery-config.client.secure.insecure-skip-tls-verify"),
    Row::new("discovery-cert", Text, "", "67", NotYet(NO_DISCOVERY),
        "v3 discovery: certificate to present.").yaml("discovery-config.client.secure.cert"),
    Row::new("discovery-key", Text, "", "67", NotYet(NO_DISCOVERY),
        "v3 discovery: key of that certificate.").yaml("discovery-config.client.secure.key"),
    Row::new("discovery-cacert", Text, "", "67", NotYet(NO_DISCOVERY),
        "v3 discovery: authorities to trust.").yaml("discovery-config.client.secure.cacert"),
    Row::new("discovery-user", Text, "", "67", NotYet(NO_DISCOVERY),
        "v3 discovery: user[:password].").yaml("discovery-config.client.auth.username").secret(),
    Row::new("discovery-password", Text, "", "67", NotYet(NO_DISCOVERY),
        "v3 discovery: password of that user.").yaml("discovery-config.client.auth.password").secret(),
    Row::new("discovery-fallback", Choice(&["exit", "proxy"]), "exit", "2567", NotYet(NO_DISCOVERY),
        "What to do when discovery fails: exit. The value proxy is an error together with discovery.").yaml(""),
    Row::new("discovery-srv", Text, "", "2567", RefusedAtBootstrap(NO_DISCOVERY),
        "DNS domain whose SRV records name the members."),
    Row::new("discovery-srv-name", Text, "", "567", RefusedAtBootstrap(NO_DISCOVERY),
        "Suffix of the service names looked up with --discovery-srv."),
    Row::new("strict-reconfig-check", Bool, "true", "2567", Works,
        "Refuse member changes that would lose quorum."),
    Row::new("pre-vote", Bool, "true", "567", Works,
        "Ask before an election whether it could be won, so that a returning member does not disturb."),
    Row::new("auto-compaction-mode", Text, "periodic", "567", Works,
        "What --auto-compaction-retention counts: periodic (time) or revision (revisions)."),
    Row::new("auto-compaction-retention", Text, "0", "2567", Works,
        "History to keep: hours or a duration such as 30m, or a number of revisions; 0 keeps all."),
    Row::new("max-learners", Int, "1", "67", Works,
        "Most learners in the cluster."),
    Row::new("version-for-peers", Text, "auto", "", Works,
        "Version that other members are told and that the cluster may rise to, such as 3.5; auto means the cluster's own if that is older than this program's."),
];

#[rustfmt::skip]
pub(super) const MONITORING: &[Row] = &[
    Row::new("enable-pprof", Bool, "false", "2567", NotYet("profiles are not served yet"),
        "Serve profiles under /debug/pprof on the client URLs."),
    Row::new("metrics", Text, "basic", "2567", Works,
        "Detail of /metrics: basic, or extensive for histograms per gRPC method."),
    Row::new("listen-metrics-urls", Urls, "", "567", Works,
        "Further URLs that serve /metrics and the health checks."),
];

#[rustfmt::skip]
pub(super) const LOGGING: &[Row] = &[
    Row::new("logger", Text, "zap", "567", Works,
        "Kind of log; only zap, which names the shape of the lines."),
    Row::new("log-outputs", Strings, "default", "567", Works,
        "Where log lines go: default (stderr), stdout, stderr, systemd/journal, or files, separated by commas."),
    Row::new("log-level", Text, "info", "567", Works,
        "Lowest level to log: debug, info, warn, error, panic or fatal."),
    Row::new("log-format", Text, "json", "67", Works,
        "Shape of log lines: json or console."),
    Row::new("enable-log-rotation", Bool, "false", "567", Works,
        "Rotate the log file; needs exactly one file in --log-outputs."),
    Row::new("log-rotation-config-json", Text, ROTATION, "567", Works,
        "How to rotate: maxsize in MB, maxage in days, maxbackups in files, localtime, compress; 0 for no limit."),
    Row::new("warning-unary-request-duration", Duration, "300ms", "67", Works,
        "Log a warning about a unary request that takes longer."),
];

#[rustfmt::skip]
pub(super) const TRACING: &[Row] = &[
    Row::new("enable-distributed-tracing", Bool, "false", "67", NotYet(NO_TRACING),
        "Send spans to an OpenTelemetry collector."),
    Row::new("distributed-tracing-address", Text, "localhost:4317", "67", NotYet(NO_TRACING),
        "Address of the collector (OTLP over gRPC)."),
    Row::new("distributed-tracing-service-name", Text, "etcd", "67", NotYet(NO_TRACING),
        "Service name in the spans, the same on every member."),
    Row::new("distributed-tracing-instance-id", Text, "", "67", NotYet(NO_TRACING),
        "Instance id in the spans, different on every member."),
    Row::new("distributed-tracing-sampling-rate", Int, "0", "67", NotYet(NO_TRACING),
        "Spans to keep per million, 0 to 1000000."),
];

#[rustfmt::skip]
pub(super) const FEATURES: &[Row] = &[
    Row::new("corrupt-check-time", Duration, "0s", "67", NotYet("members do not compare hashes yet"),
        "Time between comparisons of the members' hashes; 0 for never."),
    Row::new("compact-hash-check-time", Duration, "1m0s", "67", NotYet("members do not compare hashes yet"),
        "Time between the leader's comparisons of compaction hashes."),
    Row::new("compaction-batch-limit", Int, "0", "67", Ignored("compaction marks revisions in one step; space is reclaimed by a paced background pass"),
        "Most revisions deleted in one step of a compaction; 0 means 1000."),
    Row::new("compaction-sleep-interval", Duration, "0s", "67", Ignored("compaction marks revisions in one step; space is reclaimed by a paced background pass"),
        "Pause between the steps of a compaction; 0 means 10ms."),
    Row::new("watch-progress-notify-interval", Duration, "0s", "67", Works,
        "Time between progress notifications to idle watchers; 0 means 10m, at least 100ms."),
    Row::new("downgrade-check-time", Duration, "5s", "67", Ignored("a downgrade is looked at whenever the cluster's version is"),
        "Time between checks whether a downgrade is complete."),
    Row::new("warning-apply-duration", Duration, "100ms", "67", Works,
        "Log a warning about an entry that takes longer to apply."),
    Row::new("bootstrap-defrag-threshold-megabytes", Uint, "0", "67", Ignored("space is reclaimed in the background while the member serves"),
        "Defragment at start if that frees at least so many megabytes; 0 for never."),
    Row::new("snapshot-catchup-entries", Uint, "5000", "67", Works,
        "Log entries kept behind a checkpoint for slow followers."),
];

#[rustfmt::skip]
pub(super) const UNSAFE: &[Row] = &[
    Row::new("force-new-cluster", Bool, "false", "2567", Works,
        "Start a one-member cluster from the data of this member."),
    Row::new("unsafe-no-fsync", Bool, "false", "567", Works,
        "Do not wait for the disk. Data that was acknowledged will be lost when the machine stops."),
];

#[rustfmt::skip]
pub(super) const PROGRAM: &[Row] = &[
    Row::new("config-file", Text, "", "2567", Works,
        "Configuration file in YAML. With it, every other flag and variable is ignored.").yaml(""),
    Row::new("version", Bool, "false", "2567", Works,
        "Print the version and exit.").yaml(""),
];
