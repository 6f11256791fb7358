//! The configuration as meant: typed, with units in names, defaults filled in and derived values computed.
//!
//! Start with [`Config`]; [`Config::new`] makes one from what was typed and refuses what [`super::validate`] finds wrong.

use super::gates::FeatureGates;
use super::raw::RawConfig;
use super::table::{self, Status};
use super::url::Url;
use super::validate;
use super::{Level, Note};
use crate::logging;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use state::version::Version;

/// The name of a member that was given none.
pub const NAME_DEFAULT: &str = "default";
/// The quota when `--quota-backend-bytes` is 0.
pub const QUOTA_BYTES_DEFAULT: u64 = 2 << 30;
/// A quota above this is accepted with a warning.
pub const QUOTA_BYTES_ADVISED: u64 = 8 << 30;
/// Requests larger than this are accepted with a warning at start.
const REQUEST_BYTES_ADVISED: u64 = 10 << 20;
const SNAPSHOT_COUNT_DEFAULT: u64 = 10_000;
const WATCH_PROGRESS_DEFAULT: Duration = Duration::from_secs(600);
const WATCH_PROGRESS_MIN: Duration = Duration::from_millis(100);
const PEER_TIMEOUT_MIN: Duration = Duration::from_secs(5);
const BCRYPT_COST_DEFAULT: u32 = 10;

/// Everything a member is told at start.
///
/// All values are valid on their own and together. What depends on the data directory being new is checked by
/// [`Config::check_bootstrap`], which the server calls before it makes one.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this member for people.
    pub name: String,
    /// Where the member keeps everything; never empty.
    pub data_dir: PathBuf,
    /// A separate directory for the log.
    pub wal_dir: Option<PathBuf>,
    /// Where to listen, and what to tell others about it.
    pub urls: Urls,
    /// How a new cluster is founded.
    pub bootstrap: Bootstrap,
    /// Raft's timing and log keeping.
    pub raft: Raft,
    /// Limits on what clients may ask for.
    pub limits: Limits,
    /// Bytes the store may take; `None` for no limit.
    pub quota_bytes: Option<u64>,
    /// Keepalive of client connections.
    pub keepalive: Keepalive,
    /// `SO_REUSEPORT` and `SO_REUSEADDR` on listening sockets.
    pub socket: SocketOptions,
    /// What history is dropped without being asked; `None` for nothing.
    pub auto_compaction: Option<AutoCompaction>,
    /// TLS towards clients.
    pub client_tls: Tls,
    /// TLS between members.
    pub peer_tls: Tls,
    /// TLS 1.2 cipher suites by IANA name; empty for the library's choice.
    pub cipher_suites: Vec<String>,
    /// Oldest and newest TLS version; `None` for the library's choice.
    pub tls_versions: (Option<TlsVersion>, Option<TlsVersion>),
    /// Years a generated certificate is valid.
    pub self_signed_years: u64,
    /// Origins of CORS; `*` for all.
    pub cors: Vec<String>,
    /// Host names that plain HTTP requests may name; `*` for all.
    pub host_whitelist: Vec<String>,
    /// Tokens and password hashing.
    pub auth: Auth,
    /// The log.
    pub log: logging::LogConfig,
    /// Thresholds and periods of monitoring.
    pub monitoring: Monitoring,
    /// OpenTelemetry export.
    pub tracing: Tracing,
    /// Background checks between members.
    pub checks: Checks,
    /// Feature gates.
    pub feature_gates: FeatureGates,
    /// Whether the JSON gateway is wanted.
    pub grpc_gateway: bool,
    /// Whether the v2 API is wanted.
    pub enable_v2: bool,
    /// Whether memory is to be locked.
    pub memory_mlock: bool,
    /// Whether to acknowledge without waiting for the disk.
    pub unsafe_no_fsync: bool,
    /// Whether to start a one-member cluster from the data.
    pub force_new_cluster: bool,
    /// The version that other members are told; `None` for the one that fits the cluster.
    pub version_for_peers: Option<Version>,
    raw: RawConfig,
}

/// Addresses.
#[derive(Clone, Debug)]
pub struct Urls {
    /// Where members connect.
    pub listen_peer: Vec<Url>,
    /// Where clients connect.
    pub listen_client: Vec<Url>,
    /// Where HTTP clients connect, if separate.
    pub listen_client_http: Vec<Url>,
    /// Further places for metrics and health.
    pub listen_metrics: Vec<Url>,
    /// What other members are told.
    pub advertise_peer: Vec<Url>,
    /// What clients are told.
    pub advertise_client: Vec<Url>,
}

/// How a new cluster is founded. Not read again once there is data.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Members by name, with their peer URLs.
    pub initial_cluster: BTreeMap<String, Vec<Url>>,
    /// Salt of the cluster's and members' ids.
    pub token: String,
    /// Whether the cluster exists and is joined.
    pub existing: bool,
}

/// Raft's timing and log keeping.
#[derive(Clone, Debug)]
pub struct Raft {
    /// Milliseconds per tick and heartbeat.
    pub heartbeat_ms: u64,
    /// Milliseconds until an election.
    pub election_ms: u64,
    /// Whether the first election may come early.
    pub initial_election_tick_advance: bool,
    /// Whether to ask before an election.
    pub pre_vote: bool,
    /// Applied entries between checkpoints; never 0.
    pub snapshot_count: u64,
    /// Entries kept behind a checkpoint.
    pub snapshot_catchup_entries: u64,
    /// Read timeout between members.
    pub read_timeout: Duration,
    /// Write timeout between members.
    pub write_timeout: Duration,
    /// Whether member changes that lose quorum are refused.
    pub strict_reconfig_check: bool,
    /// Most learners.
    pub learners_max: i64,
}

impl Raft {
    /// Ticks until an election.
    pub fn election_ticks(&self) -> usize {
        // At least 5 by validation, and small enough: 50000 ms at 1 ms per tick.
        usize::try_from(self.election_ms / self.heartbeat_ms).expect("at most 50000 ticks")
    }

    /// How long a request may wait: five seconds for queues and disks and two elections.
    /// Source: upstream `server/config/config.go`, `ReqTimeout`.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(5_000 + 2 * self.election_ms)
    }

    /// How long to try connecting to a member. Source: upstream `server/config/config.go`, `peerDialTimeout`.
    pub fn peer_dial_timeout(&self) -> Duration {
        Duration::from_millis(1_000 + self.election_ms)
    }
}

/// Limits on what clients may ask for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most operations in one branch of a transaction.
    pub txn_ops_max: usize,
    /// Largest request.
    pub request_bytes_max: usize,
    /// Most streams per connection.
    pub concurrent_streams_max: u32,
}

/// Keepalive of client connections.
#[derive(Clone, Debug)]
pub struct Keepalive {
    /// Shortest time between a client's pings; `None` for the five minutes of grpc-go.
    pub client_gap_min: Option<Duration>,
    /// Silence before a ping, and patience after it; `None` for no pings.
    pub ping: Option<(Duration, Duration)>,
}

/// Options of listening sockets.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// `SO_REUSEPORT`.
    pub reuse_port: bool,
    /// `SO_REUSEADDR`.
    pub reuse_address: bool,
}

/// What history is dropped without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// What is older than this.
    Periodic(Duration),
    /// All but so many revisions, looked at every five minutes.
    Revision(i64),
}

/// TLS of one side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificate to serve with.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// Certificate to connect with.
    pub client_cert_file: Option<PathBuf>,
    /// Its key.
    pub client_key_file: Option<PathBuf>,
    /// Authorities to trust.
    pub trusted_ca_file: Option<PathBuf>,
    /// Revoked certificates.
    pub crl_file: Option<PathBuf>,
    /// Whether certificates are required.
    pub client_cert_auth: bool,
    /// Whether to generate a certificate.
    pub auto_tls: bool,
    /// Acceptable common names.
    pub allowed_cns: Vec<String>,
    /// Acceptable host names.
    pub allowed_hostnames: Vec<String>,
    /// Whether not to compare addresses with certificates.
    pub skip_client_san_verification: bool,
}

/// A TLS version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

/// Tokens and password hashing.
#[derive(Clone, Debug)]
pub struct Auth {
    /// `simple`, or `jwt,…` as typed.
    pub token: String,
    /// Cost of bcrypt, 4 to 31.
    pub bcrypt_cost: u32,
    /// Life of a simple token.
    pub token_ttl_s: u64,
}

/// Thresholds and periods of monitoring.
#[derive(Clone, Debug)]
pub struct Monitoring {
    /// Whether `/metrics` has histograms per method.
    pub extensive: bool,
    /// Whether profiles are served.
    pub pprof: bool,
    /// A slower apply is logged.
    pub warning_apply: Duration,
    /// A slower unary request is logged.
    pub warning_unary_request: Duration,
    /// Period of progress notifications.
    pub watch_progress: Duration,
}

/// OpenTelemetry export.
#[derive(Clone, Debug)]
pub struct Tracing {
    /// Whether to export.
    pub enabled: bool,
    /// The collector.
    pub address: String,
    /// Service name.
    pub service_name: String,
    /// Instance id.
    pub instance_id: String,
    /// Spans per million.
    pub sampling_per_million: i64,
}

/// Background checks between members.
#[derive(Clone, Debug)]
pub struct Checks {
    /// Period of the hash comparison; `None` for never.
    pub corrupt: Option<Duration>,
    /// Period of the comparison of compaction hashes.
    pub compact_hash: Duration,
    /// Period of the downgrade check.
    pub downgrade: Duration,
}

impl Default for Config {
    /// What a member runs with that is given no options.
    fn default() -> Self {
        let (config, _) = Config::new(RawConfig::default(), &|| None)
            .expect("the defaults are a valid configuration");
        config
    }
}

impl Config {
    /// Gives meaning to what was typed, with what to log about it; or all mistakes.
    ///
    /// `default_host` is asked for this machine's address when something listens on 0.0.0.0 and advertises nothing.
    pub fn new(
        mut raw: RawConfig,
        default_host: &dyn Fn() -> Option<String>,
    ) -> Result<(Config, Vec<Note>), Vec<String>> {
        raw.translate_old_names();
        let mut notes = Vec::new();
        let checked = validate::check(&raw, &mut notes)?;
        let mut config = Config {
            name: raw.text("name"),
            data_dir: raw.text("data-dir").into(),
            wal_dir: path(&raw, "wal-dir"),
            urls: urls(&raw),
            bootstrap: Bootstrap {
                initial_cluster: checked.initial_cluster,
                token: raw.text("initial-cluster-token"),
                existing: raw.text("initial-cluster-state") == "existing",
            },
            raft: raft(&raw, &mut notes),
            limits: limits(&raw, &mut notes),
            quota_bytes: quota(&raw, &mut notes),
            keepalive: keepalive(&raw),
            socket: SocketOptions {
                reuse_port: raw.flag("socket-reuse-port"),
                reuse_address: raw.flag("socket-reuse-address"),
            },
            auto_compaction: checked.auto_compaction,
            client_tls: client_tls(&raw),
            peer_tls: peer_tls(&raw),
            cipher_suites: raw.list("cipher-suites"),
            tls_versions: checked.tls_versions,
            self_signed_years: raw.uint("self-signed-cert-validity").max(1),
            cors: raw.list("cors"),
            host_whitelist: raw.list("host-whitelist"),
            auth: auth(&raw, &mut notes),
            log: checked.log,
            monitoring: monitoring(&raw),
            tracing: tracing(&raw),
            checks: Checks {
                corrupt: positive(&raw, "corrupt-check-time"),
                compact_hash: duration(&raw, "compact-hash-check-time"),
                downgrade: duration(&raw, "downgrade-check-time"),
            },
            feature_gates: checked.feature_gates,
            grpc_gateway: raw.flag("enable-grpc-gateway"),
            enable_v2: raw.flag("enable-v2"),
            memory_mlock: raw.flag("memory-mlock"),
            unsafe_no_fsync: raw.flag("unsafe-no-fsync"),
            force_new_cluster: raw.flag("force-new-cluster"),
            version_for_peers: checked.version_for_peers,
            raw,
        };
        config.derive(default_host, &mut notes);
        config.note_ignored(&mut notes);
        Ok((config, notes))
    }

    /// One line per option that was given and has no effect yet. Printed at start, so that nothing is silently ignored.
    pub fn not_yet(&self) -> Vec<String> {
        let mut lines: Vec<_> = table::rows()
            .filter(|row| self.raw.is_changed(row))
            .filter_map(|row| match row.status {
                Status::NotYet(why) => Some(format!("--{} has no effect: {why}", row.name)),
                _ => None,
            })
            .collect();
        lines.extend(self.feature_gates.without_effect());
        lines
    }

    /// Reasons not to start at all: options without which serving would be unsafe, and which are not available yet.
    pub fn refusals(&self) -> Vec<String> {
        table::rows()
            .filter(|row| self.raw.is_changed(row))
            .filter_map(|row| match row.status {
                Status::Refused(why) => Some(format!("--{} cannot be honoured: {why}", row.name)),
                _ => None,
            })
            .collect()
    }

    /// Reasons not to found a cluster with this configuration. To be called before a data directory is made, and only then:
    /// etcd ignores what is checked here once there is data.
    ///
    /// `resolve` turns `host:port` into an address, for comparing the advertised URLs with the initial cluster.
    /// Source: upstream `server/config/config.go`, `VerifyBootstrap`.
    pub fn check_bootstrap(&self, resolve: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
        let mut lines: Vec<_> = table::rows()
            .filter(|row| self.raw.is_changed(row))
            .filter_map(|row| match row.status {
                Status::RefusedAtBootstrap(why) => {
                    Some(format!("--{} cannot be honoured: {why}", row.name))
                }
                _ => None,
            })
            .collect();
        if !lines.is_empty() {
            return lines;
        }
        lines.extend(validate::bootstrap(self, resolve));
        lines
    }

    /// Whether the operator says which cluster this is. Without, a member that exists says it itself.
    pub fn names_cluster(&self) -> bool {
        ["initial-cluster", "initial-cluster-token"]
            .into_iter()
            .filter_map(table::find)
            .any(|row| self.raw.is_changed(row))
    }

    /// What was typed.
    pub fn raw(&self) -> &RawConfig {
        &self.raw
    }

    /// Values that depend on several options. Source: upstream `server/embed/config.go`, `UpdateDefaultClusterFromName`,
    /// `server/etcdmain/etcd.go`, `startEtcdOrProxyV2`.
    fn derive(&mut self, default_host: &dyn Fn() -> Option<String>, notes: &mut Vec<Note>) {
        let any = |listen: &[Url], advertise: &[Url], default: &str| {
            listen
                .first()
                .is_some_and(|url| url.hostname() == "0.0.0.0")
                && matches!(advertise, [one] if one.to_string() == default)
        };
        let peer = any(
            &self.urls.listen_peer,
            &self.urls.advertise_peer,
            "http://localhost:2380",
        );
        let client = any(
            &self.urls.listen_client,
            &self.urls.advertise_client,
            "http://localhost:2379",
        );
        if peer || client {
            match default_host() {
                Some(host) => {
                    let sides = [
                        (peer, &self.urls.listen_peer, &mut self.urls.advertise_peer),
                        (
                            client,
                            &self.urls.listen_client,
                            &mut self.urls.advertise_client,
                        ),
                    ];
                    for (_, listen, advertise) in sides.into_iter().filter(|(replace, ..)| *replace)
                    {
                        advertise[0] =
                            advertise[0].with_host(format!("{host}:{}", listen[0].port_text()));
                    }
                    notes.push(
                        Note::new(Level::Info, "detected default host for advertise")
                            .with("host", host),
                    );
                }
                None => notes.push(Note::new(Level::Info, "failed to detect default host")),
            }
        }
        let default_cluster = table::find("initial-cluster")
            .expect("the table has it")
            .default;
        if self.name != NAME_DEFAULT && validate::initial_cluster_text(&self.raw) == default_cluster
        {
            let name = if self.name.is_empty() {
                NAME_DEFAULT
            } else {
                &self.name
            };
            self.bootstrap.initial_cluster =
                BTreeMap::from([(name.to_owned(), self.urls.advertise_peer.clone())]);
        }
        if self.data_dir.as_os_str().is_empty() {
            self.data_dir = format!("{}.etcd", self.name).into();
            let note = Note::new(Level::Warn, "'data-dir' was empty; using default");
            notes.push(note.with("data-dir", self.data_dir.display().to_string()));
        }
    }

    fn note_ignored(&self, notes: &mut Vec<Note>) {
        for row in table::rows().filter(|row| self.raw.is_changed(row)) {
            if let Status::Ignored(why) = row.status {
                let note = Note::new(Level::Warn, "flag is no longer supported - ignoring");
                notes.push(note.with("flag-name", row.name).with("reason", why));
            }
        }
    }
}

fn urls(raw: &RawConfig) -> Urls {
    Urls {
        listen_peer: raw.urls("listen-peer-urls"),
        listen_client: raw.urls("listen-client-urls"),
        listen_client_http: raw.urls("listen-client-http-urls"),
        listen_metrics: raw.urls("listen-metrics-urls"),
        advertise_peer: raw.urls("initial-advertise-peer-urls"),
        advertise_client: raw.urls("advertise-client-urls"),
    }
}

fn raft(raw: &RawConfig, notes: &mut Vec<Note>) -> Raft {
    let mut timeout = |name: &str| {
        let given = duration(raw, name);
        if given < PEER_TIMEOUT_MIN {
            notes.push(Note::new(
                Level::Info,
                format!("{name} increased to minimum value: 5s"),
            ));
        }
        given.max(PEER_TIMEOUT_MIN)
    };
    let (read_timeout, write_timeout) =
        (timeout("raft-read-timeout"), timeout("raft-write-timeout"));
    let mut snapshot_count = raw.uint("snapshot-count");
    if snapshot_count == 0 {
        snapshot_count = SNAPSHOT_COUNT_DEFAULT;
        let note = Note::new(Level::Info, "updating snapshot-count to default")
            .with("given-snapshot-count", 0);
        notes.push(note.with("updated-snapshot-count", snapshot_count));
    }
    Raft {
        heartbeat_ms: raw.uint("heartbeat-interval"),
        election_ms: raw.uint("election-timeout"),
        initial_election_tick_advance: raw.flag("initial-election-tick-advance"),
        pre_vote: raw.flag("pre-vote"),
        snapshot_count,
        snapshot_catchup_entries: raw.uint("snapshot-catchup-entries"),
        read_timeout,
        write_timeout,
        strict_reconfig_check: raw.flag("strict-reconfig-check"),
        learners_max: raw.int("max-learners"),
    }
}

fn limits(raw: &RawConfig, notes: &mut Vec<Note>) -> Limits {
    let request_bytes = raw.uint("max-request-bytes");
    if request_bytes > REQUEST_BYTES_ADVISED {
        let note = Note::new(Level::Warn, "exceeded recommended request limit")
            .with("max-request-bytes", request_bytes);
        notes.push(note.with("recommended-request-bytes", REQUEST_BYTES_ADVISED));
    }
    Limits {
        txn_ops_max: size(raw.uint("max-txn-ops")),
        request_bytes_max: size(request_bytes),
        concurrent_streams_max: u32::try_from(raw.uint("max-concurrent-streams"))
            .unwrap_or(u32::MAX),
    }
}

fn quota(raw: &RawConfig, notes: &mut Vec<Note>) -> Option<u64> {
    let quota = u64::try_from(raw.int("quota-backend-bytes")).ok()?;
    if quota > QUOTA_BYTES_ADVISED {
        let note = Note::new(Level::Warn, "quota exceeds the maximum value")
            .with("quota-size-bytes", quota);
        notes.push(note.with("quota-maximum-size-bytes", QUOTA_BYTES_ADVISED));
    }
    Some(if quota == 0 {
        QUOTA_BYTES_DEFAULT
    } else {
        quota
    })
}

fn keepalive(raw: &RawConfig) -> Keepalive {
    let interval = positive(raw, "grpc-keepalive-interval");
    Keepalive {
        client_gap_min: positive(raw, "grpc-keepalive-min-time"),
        ping: interval.zip(positive(raw, "grpc-keepalive-timeout")),
    }
}

fn client_tls(raw: &RawConfig) -> Tls {
    Tls {
        cert_file: path(raw, "cert-file"),
        key_file: path(raw, "key-file"),
        client_cert_file: path(raw, "client-cert-file"),
        client_key_file: path(raw, "client-key-file"),
        trusted_ca_file: path(raw, "trusted-ca-file").or_else(|| path(raw, "ca-file")),
        crl_file: path(raw, "client-crl-file"),
        client_cert_auth: raw.flag("client-cert-auth") || path(raw, "ca-file").is_some(),
        auto_tls: raw.flag("auto-tls"),
        allowed_cns: Vec::new(),
        allowed_hostnames: raw.list("client-cert-allowed-hostname"),
        skip_client_san_verification: false,
    }
}

fn peer_tls(raw: &RawConfig) -> Tls {
    Tls {
        cert_file: path(raw, "peer-cert-file"),
        key_file: path(raw, "peer-key-file"),
        client_cert_file: path(raw, "peer-client-cert-file"),
        client_key_file: path(raw, "peer-client-key-file"),
        trusted_ca_file: path(raw, "peer-trusted-ca-file").or_else(|| path(raw, "peer-ca-file")),
        crl_file: path(raw, "peer-crl-file"),
        client_cert_auth: raw.flag("peer-client-cert-auth") || path(raw, "peer-ca-file").is_some(),
        auto_tls: raw.flag("peer-auto-tls"),
        allowed_cns: raw.list("peer-cert-allowed-cn"),
        allowed_hostnames: raw.list("peer-cert-allowed-hostname"),
        skip_client_san_verification: raw.flag("peer-skip-client-san-verification"),
    }
}

fn auth(raw: &RawConfig, notes: &mut Vec<Note>) -> Auth {
    let given = raw.uint("bcrypt-cost");
    let cost = u32::try_from(given)
        .ok()
        .filter(|cost| (4..=31).contains(cost));
    if cost.is_none() {
        let note = Note::new(
            Level::Warn,
            "use default bcrypt cost instead of the invalid given cost",
        )
        .with("min-cost", 4);
        notes.push(
            note.with("max-cost", 31)
                .with("default-cost", BCRYPT_COST_DEFAULT)
                .with("given-cost", given),
        );
    }
    Auth {
        token: raw.text("auth-token"),
        bcrypt_cost: cost.unwrap_or(BCRYPT_COST_DEFAULT),
        token_ttl_s: raw.uint("auth-token-ttl"),
    }
}

fn monitoring(raw: &RawConfig) -> Monitoring {
    let or = |name: &str, default: Duration| positive(raw, name).unwrap_or(default);
    Monitoring {
        extensive: raw.text("metrics") == "extensive",
        pprof: raw.flag("enable-pprof"),
        warning_apply: duration(raw, "warning-apply-duration"),
        warning_unary_request: or("warning-unary-request-duration", Duration::from_millis(300)),
        watch_progress: or("watch-progress-notify-interval", WATCH_PROGRESS_DEFAULT)
            .max(WATCH_PROGRESS_MIN),
    }
}

fn tracing(raw: &RawConfig) -> Tracing {
    Tracing {
        enabled: raw.flag("enable-distributed-tracing"),
        address: raw.text("distributed-tracing-address"),
        service_name: raw.text("distributed-tracing-service-name"),
        instance_id: raw.text("distributed-tracing-instance-id"),
        sampling_per_million: raw.int("distributed-tracing-sampling-rate"),
    }
}

fn path(raw: &RawConfig, name: &str) -> Option<PathBuf> {
    Some(raw.text(name))
        .filter(|text| !text.is_empty())
        .map(PathBuf::from)
}

/// A duration; negative ones count as none at all.
fn duration(raw: &RawConfig, name: &str) -> Duration {
    Duration::from_nanos(u64::try_from(raw.nanos(name)).unwrap_or(0))
}

fn positive(raw: &RawConfig, name: &str) -> Option<Duration> {
    Some(duration(raw, name)).filter(|duration| !duration.is_zero())
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
