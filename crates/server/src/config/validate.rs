//! What is wrong with a configuration whose options are each well formed: etcd's rules in etcd's order, with its messages.
//!
//! etcd stops at the first mistake; here all are collected. Source: upstream `server/embed/config.go`, `Validate`,
//! `server/embed/etcd.go`, `server/config/config.go`, `VerifyBootstrap`.

use super::gates::FeatureGates;
use super::help::VERSION_ETCD;
use super::meant::{AutoCompaction, Config, NAME_DEFAULT, TlsVersion};
use super::raw::RawConfig;
use super::table;
use super::url::{Url, show_list};
use super::value::{quote, read_duration, show_duration};
use super::{Level, Note};
use crate::logging::{Format, LogConfig, Output, Rotation};
use state::version::Version;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// What checking had to compute anyway.
pub(super) struct Checked {
    pub initial_cluster: BTreeMap<String, Vec<Url>>,
    pub auto_compaction: Option<AutoCompaction>,
    pub tls_versions: (Option<TlsVersion>, Option<TlsVersion>),
    pub log: LogConfig,
    pub feature_gates: FeatureGates,
    pub version_for_peers: Option<Version>,
}

/// Checks everything that does not depend on the data directory.
pub(super) fn check(raw: &RawConfig, notes: &mut Vec<Note>) -> Result<Checked, Vec<String>> {
    let mut mistakes = Vec::new();
    let log = take(log_config(raw, notes), &mut mistakes);
    check_urls(raw, notes, &mut mistakes);
    check_founding(raw, &mut mistakes);
    check_timing(raw, &mut mistakes);
    if !raw.is_from_file()
        && raw.is_given("listen-client-urls")
        && !raw.is_given("advertise-client-urls")
    {
        mistakes.push(
            "--advertise-client-urls is required when --listen-client-urls is set explicitly"
                .into(),
        );
    }
    let auto_compaction = take(auto_compaction(raw), &mut mistakes);
    check_tracing(raw, &mut mistakes);
    let feature_gates = feature_gates(raw, notes, &mut mistakes);
    let compact_hash = raw.nanos("compact-hash-check-time");
    if compact_hash <= 0 {
        mistakes.push(format!(
            "--compact-hash-check-time must be >0 (set to {})",
            show_duration(compact_hash)
        ));
    }
    if raw.text("name") == NAME_DEFAULT {
        let text = "it isn't recommended to use default name, please set a value for --name. Note that etcd might run into issue when \
                    multiple members have the same default name";
        notes.push(Note::new(Level::Warn, text).with("name", NAME_DEFAULT));
    }
    let tls_versions = check_tls(raw, notes, &mut mistakes);
    check_certificates(raw, notes, &mut mistakes);
    check_auth_token(raw, &mut mistakes);
    let version_for_peers = take(version_for_peers(raw), &mut mistakes).flatten();
    let initial_cluster = match read_cluster(&initial_cluster_text(raw)) {
        Ok(cluster) => cluster,
        Err(why) => {
            mistakes.push(format!("error setting up initial cluster: {why}"));
            BTreeMap::new()
        }
    };
    match (log, auto_compaction, mistakes.is_empty()) {
        (Some(log), Some(auto_compaction), true) => Ok(Checked {
            initial_cluster,
            auto_compaction,
            tls_versions,
            log,
            feature_gates,
            version_for_peers,
        }),
        _ => Err(mistakes),
    }
}

/// Checks what matters only while a cluster is founded.
pub(super) fn bootstrap(config: &Config, resolve: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let cluster = &config.bootstrap.initial_cluster;
    let mut mistakes = Vec::new();
    match cluster.get(&config.name) {
        None => {
            let name = quote(&config.name);
            mistakes.push(format!(
                "couldn't find local name {name} in the initial cluster configuration"
            ));
        }
        Some(initial) if !config.bootstrap.existing => {
            mistakes.extend(
                compare_urls(&config.name, initial, &config.urls.advertise_peer, resolve).err(),
            );
        }
        Some(_) => {}
    }
    let mut all: Vec<_> = cluster.values().flatten().collect();
    let count = all.len();
    all.sort();
    all.dedup();
    if all.len() < count {
        mistakes.push(format!(
            "initial cluster {} has duplicate url",
            show_cluster(cluster)
        ));
    }
    if cluster.is_empty() {
        mistakes.push("initial cluster unset and no discovery endpoints found".into());
    }
    mistakes
}

/// The text of `--initial-cluster` that counts: empty if something else says who the members are.
pub(super) fn initial_cluster_text(raw: &RawConfig) -> String {
    let text = raw.text("initial-cluster");
    let file = raw.is_from_file();
    let discovery = !raw.text("discovery").is_empty()
        || !raw.text("discovery-srv").is_empty()
        || !raw.list("discovery-endpoints").is_empty()
        || (!file && !raw.text("discovery-srv-name").is_empty());
    let default = table::find("initial-cluster")
        .expect("the table has it")
        .default;
    let own = if file {
        text != default
    } else {
        raw.is_given("initial-cluster")
    };
    if discovery && !own {
        String::new()
    } else {
        text
    }
}

/// `auto`, or a version up to the one that this program implements.
fn version_for_peers(raw: &RawConfig) -> Result<Option<Version>, Vec<String>> {
    let text = raw.text("version-for-peers");
    if text == "auto" {
        return Ok(None);
    }
    let own = Version::parse(VERSION_ETCD).expect("our own version is one");
    let given = Version::parse(&text).or_else(|| Version::parse(&format!("{text}.0")));
    match given {
        Some(given) if given >= Version::new(3, 4, 0) && given <= own => Ok(Some(given)),
        _ => Err(vec![format!(
            "--version-for-peers must be auto or a version from 3.4 to {own} (set to {})",
            quote(&text)
        )]),
    }
}

fn take<T>(result: Result<T, Vec<String>>, mistakes: &mut Vec<String>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(found) => {
            mistakes.extend(found);
            None
        }
    }
}

fn log_config(raw: &RawConfig, notes: &mut Vec<Note>) -> Result<LogConfig, Vec<String>> {
    let mut mistakes = Vec::new();
    match raw.text("logger").as_str() {
        "zap" => {}
        "capnslog" => mistakes.push("--logger=capnslog is removed in v3.5".to_owned()),
        other => mistakes.push(format!("unknown logger option {}", quote(other))),
    }
    let mut names = raw.list("log-outputs");
    names.retain(|name| !name.is_empty());
    if names.is_empty() {
        names.push("default".into());
    }
    let journal = names.iter().any(|name| name == "systemd/journal");
    if names.len() > 1 && names.iter().any(|name| name == "default") {
        mistakes.push("multi logoutput for \"default\" is not supported yet".into());
    }
    if names.len() > 1 && journal {
        mistakes.push(format!(
            "running with systemd/journal but other '--log-outputs' values ({}) are configured with 'default'; override 'default' \
             value with something else",
            quote_list(&names)
        ));
    }
    if journal {
        notes.push(Note::new(
            Level::Warn,
            "systemd/journal is written through stderr, which systemd collects",
        ));
    }
    let outputs: Vec<_> = names.iter().map(|name| Output::from_name(name)).collect();
    let rotation = raw
        .flag("enable-log-rotation")
        .then(|| rotation(raw, &outputs, &mut mistakes))
        .flatten();
    if rotation.as_ref().is_some_and(|rotation| rotation.localtime) {
        notes.push(Note::new(
            Level::Warn,
            "old log files are named in UTC, whatever localtime says",
        ));
    }
    let level = raw.text("log-level");
    let level =
        Level::from_name(&level).ok_or_else(|| format!("unrecognized level: {}", quote(&level)));
    let format = raw.text("log-format");
    let format = match format.as_str() {
        "json" | "" => Ok(Format::Json),
        "console" => Ok(Format::Console),
        _ => Err(format!(
            "unknown log format: {format}, supported values json, console"
        )),
    };
    match (level, format) {
        (Ok(level), Ok(format)) if mistakes.is_empty() => Ok(LogConfig {
            level,
            format,
            outputs,
            rotation,
        }),
        (level, format) => {
            mistakes.extend(level.err());
            mistakes.extend(format.err());
            Err(mistakes)
        }
    }
}

fn rotation(raw: &RawConfig, outputs: &[Output], mistakes: &mut Vec<String>) -> Option<Rotation> {
    if outputs
        .iter()
        .filter(|output| matches!(output, Output::File(_)))
        .count()
        != 1
    {
        let text =
            "--log-outputs requires a single file path when --log-rotate-config-json is defined";
        mistakes.push(text.into());
    }
    match serde_json::from_str(&raw.text("log-rotation-config-json")) {
        Ok(rotation) => return Some(rotation),
        Err(e) if e.is_data() => mistakes.push(format!("invalid log rotation config: {e}")),
        Err(e) => mistakes.push(format!("improperly formatted log rotation config: {e}")),
    }
    None
}

fn check_urls(raw: &RawConfig, notes: &mut Vec<Note>, mistakes: &mut Vec<String>) {
    for name in [
        "listen-peer-urls",
        "listen-client-urls",
        "listen-client-http-urls",
        "listen-metrics-urls",
    ] {
        mistakes.extend(raw.urls(name).iter().filter_map(bind_mistake));
    }
    let http = raw.urls("listen-client-http-urls");
    if http.is_empty() {
        let text =
            "Running http and grpc server on single port. This is not recommended for production.";
        notes.push(Note::new(Level::Warn, text));
    }
    let peer = raw.urls("initial-advertise-peer-urls");
    if let Some(why) = host_mistake(&peer) {
        let urls = quote(&show_list(&peer));
        mistakes.push(format!(
            "--initial-advertise-peer-urls {urls} must be \"host:port\" ({why})"
        ));
    }
    let client = raw.urls("advertise-client-urls");
    if let Some(why) = host_mistake(&client) {
        mistakes.push(format!(
            "--advertise-client-urls {} must be in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" ({why})",
            quote(&show_list(&client))
        ));
    }
    let listen = raw.urls("listen-client-urls");
    for url in http
        .iter()
        .filter(|url| listen.iter().any(|other| other.names_place_of(url)))
    {
        mistakes.push(format!("cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {url}"));
    }
}

/// Listening needs an address of this machine, or its usual name.
fn bind_mistake(url: &Url) -> Option<String> {
    if url.is_socket() {
        return None;
    }
    let host = url.hostname();
    if host != "localhost" && host.parse::<IpAddr>().is_err() {
        return Some(format!("expected IP in URL for binding ({url})"));
    }
    match url.port() {
        Some(_) => None,
        None => Some(format!(
            "listen tcp: address {}: invalid port ({url})",
            url.port_text()
        )),
    }
}

fn host_mistake(urls: &[Url]) -> Option<String> {
    let empty = urls
        .iter()
        .find(|url| !url.is_socket() && url.hostname().is_empty())?;
    Some(format!("unexpected empty host ({empty})"))
}

/// Exactly one thing may say who founds the cluster.
fn check_founding(raw: &RawConfig, mistakes: &mut Vec<String>) {
    let endpoints = raw.list("discovery-endpoints");
    let discovery = [
        !raw.text("discovery").is_empty(),
        !raw.text("discovery-srv").is_empty(),
        !endpoints.is_empty(),
    ];
    let count = discovery.iter().filter(|given| **given).count();
    if count + usize::from(!initial_cluster_text(raw).is_empty()) > 1 {
        mistakes.push(
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \
             \"discovery-srv\""
                .into(),
        );
    }
    if raw.text("discovery-token").is_empty() != endpoints.is_empty() {
        mistakes.push("both --discovery-token and --discovery-endpoints must be set".into());
    }
    if endpoints.iter().any(|endpoint| endpoint.trim().is_empty()) {
        mistakes.push("--discovery-endpoints must not contain empty endpoints".into());
    }
    // etcd 3.6 refuses the word even without discovery, where nothing falls back and configurations of 3.2 have it.
    if count > 0 && raw.text("discovery-fallback") == "proxy" {
        mistakes.push(
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\""
                .into(),
        );
    }
}

fn check_timing(raw: &RawConfig, mistakes: &mut Vec<String>) {
    let (heartbeat_ms, election_ms) =
        (raw.uint("heartbeat-interval"), raw.uint("election-timeout"));
    if heartbeat_ms == 0 {
        mistakes.push("--heartbeat-interval must be >0 (set to 0ms)".into());
    }
    if election_ms == 0 {
        mistakes.push("--election-timeout must be >0 (set to 0ms)".into());
    }
    if heartbeat_ms > 0 && election_ms > 0 && heartbeat_ms.saturating_mul(5) > election_ms {
        mistakes.push(format!(
            "--election-timeout[{election_ms}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat_ms}ms]"
        ));
    }
    if election_ms > 50_000 {
        mistakes.push(format!(
            "--election-timeout[{election_ms}ms] is too long, and should be set less than 50000ms"
        ));
    }
}

fn auto_compaction(raw: &RawConfig) -> Result<Option<AutoCompaction>, Vec<String>> {
    let (mode, text) = (
        raw.text("auto-compaction-mode"),
        raw.text("auto-compaction-retention"),
    );
    let number = read_decimal(&text);
    let fail = |message: String| Err(vec![message]);
    match mode.as_str() {
        "periodic" => {}
        "revision" => {
            return match number {
                Some(0) => Ok(None),
                Some(revisions) if revisions > 0 => Ok(Some(AutoCompaction::Revision(revisions))),
                // etcd reads a duration here and keeps that many nanoseconds' worth of revisions.
                _ => fail(format!(
                    "error parsing CompactionRetention: {} is not a number of revisions",
                    quote(&text)
                )),
            };
        }
        "" => return fail("undefined auto-compaction-mode".into()),
        other => return fail(format!("unknown auto-compaction-mode {}", quote(other))),
    }
    let nanos = match number.filter(|hours| *hours >= 0) {
        Some(hours) => hours
            .checked_mul(3_600_000_000_000)
            .ok_or_else(|| format!("{text} hours are too long")),
        None => read_duration(&text),
    };
    match nanos {
        Ok(0) => Ok(None),
        Ok(nanos) => match u64::try_from(nanos) {
            Ok(nanos) => Ok(Some(AutoCompaction::Periodic(Duration::from_nanos(nanos)))),
            // etcd accepts a negative retention and compacts everything (audit finding TOB-ETCD-011).
            Err(_) => fail(format!(
                "error parsing CompactionRetention: {} is negative",
                quote(&text)
            )),
        },
        Err(why) => fail(format!("error parsing CompactionRetention: {why}")),
    }
}

/// Go's `strconv.Atoi`: decimal only.
fn read_decimal(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

fn check_tracing(raw: &RawConfig, mistakes: &mut Vec<String>) {
    let rate = raw.int("distributed-tracing-sampling-rate");
    let why = match rate {
        _ if !raw.flag("enable-distributed-tracing") => return,
        ..0 => "tracing sampling rate must be positive",
        1_000_001.. => "tracing sampling rate must be less than 1000000",
        _ => return,
    };
    mistakes.push(format!(
        "distributed tracing configurition is not valid: ({why})"
    ));
}

fn feature_gates(
    raw: &RawConfig,
    notes: &mut Vec<Note>,
    mistakes: &mut Vec<String>,
) -> FeatureGates {
    let mut gates = FeatureGates::default();
    mistakes.extend(gates.set(&raw.text("feature-gates")).err());
    match (gates.on("LeaseCheckpoint"), gates.on("LeaseCheckpointPersist")) {
        (true, false) => notes.push(Note::new(
            Level::Warn,
            "Detected that checkpointing is enabled without persistence. Consider enabling feature gate LeaseCheckpointPersist",
        )),
        (false, true) => mistakes
            .push("enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint".into()),
        _ => {}
    }
    gates
}

fn check_tls(
    raw: &RawConfig,
    notes: &mut Vec<Note>,
    mistakes: &mut Vec<String>,
) -> (Option<TlsVersion>, Option<TlsVersion>) {
    let mut version = |name: &str| match raw.text(name).as_str() {
        "" => None,
        "TLS1.2" => Some(TlsVersion::V12),
        "TLS1.3" => Some(TlsVersion::V13),
        other => {
            mistakes.push(format!(
                "unexpected TLS version {} (must be one of: TLS1.2, TLS1.3)",
                quote(other)
            ));
            None
        }
    };
    let (min, max) = (version("tls-min-version"), version("tls-max-version"));
    if max.is_some_and(|max| min > Some(max)) {
        let (min, max) = (raw.text("tls-min-version"), raw.text("tls-max-version"));
        mistakes.push(format!(
            "min version ({min}) is greater than max version ({max})"
        ));
    }
    let suites = raw.list("cipher-suites");
    if min == Some(TlsVersion::V13) && !suites.is_empty() {
        mistakes.push("cipher suites cannot be configured when only TLS1.3 is enabled".into());
    }
    if let Some(unknown) = suites
        .iter()
        .find(|suite| !CIPHER_SUITES.contains(&suite.as_str()))
    {
        mistakes.push(format!("unexpected TLS cipher suite {}", quote(unknown)));
    }
    let weak = crate::tls::not_offered(&suites);
    if !weak.is_empty() {
        let text = "cipher suites without forward secrecy or with CBC are not offered";
        notes.push(Note::new(Level::Warn, text).with("cipher-suites", weak));
    }
    let (cns, hosts) = (
        raw.list("peer-cert-allowed-cn"),
        raw.list("peer-cert-allowed-hostname"),
    );
    if !cns.is_empty() && !hosts.is_empty() {
        let (cns, hosts) = (quote_list(&cns), quote_list(&hosts));
        mistakes.push(format!(
            "AllowedCNs and AllowedHostnames are mutually exclusive (cns={cns}, hostnames={hosts})"
        ));
    }
    (min, max)
}

/// What certificates and the URLs that need them must have in common. Source: upstream `client/pkg/transport/listener.go`,
/// `baseConfig`, `server/embed/etcd.go`, `configureClientListeners`, `createMetricsListener`.
fn check_certificates(raw: &RawConfig, notes: &mut Vec<Note>, mistakes: &mut Vec<String>) {
    for side in ["", "peer-"] {
        let text = |name: &str| raw.text(&format!("{side}{name}"));
        let (cert, key) = (text("cert-file"), text("key-file"));
        if cert.is_empty() != key.is_empty() {
            mistakes.push(format!(
                "KeyFile and CertFile must both be present[key: {key}, cert: {cert}]"
            ));
        }
        let (cert, key) = (text("client-cert-file"), text("client-key-file"));
        if cert.is_empty() != key.is_empty() {
            mistakes.push(format!(
                "ClientKeyFile and ClientCertFile must both be present or both absent: key: {key}, cert: {cert}]"
            ));
        }
    }
    let has_files = !(raw.text("cert-file").is_empty() && raw.text("key-file").is_empty());
    let has_certificate = has_files || raw.flag("auto-tls");
    let demands = |side: &str| {
        raw.flag(&format!("{side}client-cert-auth"))
            || !raw.text(&format!("{side}trusted-ca-file")).is_empty()
            || !raw.text(&format!("{side}ca-file")).is_empty()
    };
    let clients = [
        raw.urls("listen-client-urls"),
        raw.urls("listen-client-http-urls"),
    ]
    .concat();
    for url in clients
        .iter()
        .filter(|url| url.is_tls() && !has_certificate)
    {
        mistakes.push(format!(
            "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"
        ));
    }
    note_unused(raw, "", "client-url", &clients, notes);
    let members = raw.urls("listen-peer-urls");
    note_unused(raw, "peer-", "peer-url", &members, notes);
    let metrics = raw.urls("listen-metrics-urls");
    if metrics.iter().any(Url::is_tls) && !has_certificate {
        mistakes.push(
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url"
                .into(),
        );
    }
    for (rule, side) in [
        ("client-crl-file", ""),
        ("client-cert-allowed-hostname", ""),
        ("peer-crl-file", "peer-"),
        ("peer-cert-allowed-cn", "peer-"),
        ("peer-cert-allowed-hostname", "peer-"),
    ] {
        if raw.is_given(rule) && !demands(side) {
            let text = "nobody who connects is asked for a certificate, so none is checked; give a trusted CA file, or ask for authentication";
            notes.push(Note::new(Level::Warn, text).with("flag-name", rule));
        }
    }
    // etcd forgets the authority then. No generated certificate is signed by it, so no member would hear another.
    if raw.flag("peer-auto-tls") && raw.text("peer-cert-file").is_empty() && demands("peer-") {
        mistakes.push(
            "--peer-auto-tls generates certificates that no authority has signed, so members cannot be asked for signed ones: leave out \
             --peer-client-cert-auth and --peer-trusted-ca-file, or give --peer-cert-file and --peer-key-file"
                .into(),
        );
    }
}

/// Tells what TLS options do not count for: URLs in clear. Source: upstream `server/embed/etcd.go`,
/// `configurePeerListeners`, `configureClientListeners`.
fn note_unused(
    raw: &RawConfig,
    side: &str,
    field: &'static str,
    urls: &[Url],
    notes: &mut Vec<Note>,
) {
    let is_given = |name: &str| !raw.text(&format!("{side}{name}")).is_empty();
    let has_certificate =
        is_given("cert-file") || is_given("key-file") || raw.flag(&format!("{side}auto-tls"));
    let is_authenticated = raw.flag(&format!("{side}client-cert-auth"));
    let scheme = match side {
        "" => "http or unix",
        _ => "HTTP",
    };
    for url in urls.iter().filter(|url| !url.is_tls()) {
        let mut tell = |text: String| {
            notes.push(Note::new(Level::Warn, text).with(field, url.to_string()));
        };
        if has_certificate {
            tell(format!(
                "scheme is {scheme} while key and cert files are present; ignoring key and cert files"
            ));
        }
        if is_authenticated {
            tell(format!(
                "scheme is {scheme} while --{side}client-cert-auth is enabled; ignoring client cert auth for this URL"
            ));
        }
    }
}

/// Go's `%q` of a list.
fn quote_list(items: &[String]) -> String {
    let quoted: Vec<_> = items.iter().map(|item| quote(item)).collect();
    format!("[{}]", quoted.join(" "))
}

/// The names that Go knows, and thus etcd accepts.
#[rustfmt::skip]
const CIPHER_SUITES: &[&str] = &[
    "TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
    "TLS_RSA_WITH_RC4_128_SHA", "TLS_RSA_WITH_3DES_EDE_CBC_SHA", "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA", "TLS_RSA_WITH_AES_128_CBC_SHA256", "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA", "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA", "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

/// `simple`, nothing, or `jwt` followed by `key=value` pairs that do not repeat.
fn check_auth_token(raw: &RawConfig, mistakes: &mut Vec<String>) {
    let text = raw.text("auth-token");
    let mut parts = text.split(',');
    let kind = parts.next().unwrap_or("");
    let mut keys: Vec<_> = parts
        .map(|pair| {
            pair.split_once('=')
                .filter(|(_, v)| !v.contains('='))
                .map(|(k, _)| k)
        })
        .collect();
    let count = keys.len();
    keys.sort_unstable();
    keys.dedup();
    if !matches!(kind, "simple" | "jwt" | "") || keys.contains(&None) || keys.len() < count {
        mistakes.push("auth: invalid auth options".into());
    }
}

/// Reads `name=url,name=url`. A name without a URL is an error of the URL, as in etcd.
fn read_cluster(text: &str) -> Result<BTreeMap<String, Vec<Url>>, String> {
    let mut cluster: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (name, url) = part.split_once('=').unwrap_or((part, ""));
        cluster
            .entry(name.to_owned())
            .or_default()
            .push(Url::parse(url)?);
    }
    cluster.values_mut().for_each(|urls| urls.sort());
    Ok(cluster)
}

fn show_cluster(cluster: &BTreeMap<String, Vec<Url>>) -> String {
    let mut pairs: Vec<_> = cluster
        .iter()
        .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")))
        .collect();
    pairs.sort();
    pairs.join(",")
}

/// The advertised peer URLs must be those of the initial cluster, after looking up names.
fn compare_urls(
    name: &str,
    initial: &[Url],
    advertised: &[Url],
    resolve: &dyn Fn(&str) -> Option<String>,
) -> Result<(), String> {
    let Err(why) = same_urls(advertised, initial, resolve) else {
        return Ok(());
    };
    let missing: Vec<_> = initial
        .iter()
        .filter(|url| !advertised.contains(url))
        .collect();
    if !missing.is_empty() {
        let missing: Vec<_> = missing.iter().map(|url| format!("{name}={url}")).collect();
        return Err(format!(
            "--initial-cluster has {} but missing from --initial-advertise-peer-urls={} ({why})",
            missing.join(","),
            show_list(advertised)
        ));
    }
    let missing: Vec<_> = advertised
        .iter()
        .filter(|url| !initial.contains(url))
        .cloned()
        .collect();
    let own = advertised
        .iter()
        .map(|url| format!("{name}={url}"))
        .collect::<Vec<_>>()
        .join(",");
    if missing.is_empty() {
        return Err(format!(
            "failed to resolve {} to match --initial-cluster={own} ({why})",
            show_list(advertised)
        ));
    }
    Err(format!(
        "--initial-advertise-peer-urls has {} but missing from --initial-cluster={own}",
        show_list(&missing)
    ))
}

/// Whether two members have the same URLs, after looking up names. Source: upstream `pkg/netutil/netutil.go`, `URLStringsEqual`.
pub fn same_urls(
    a: &[Url],
    b: &[Url],
    resolve: &dyn Fn(&str) -> Option<String>,
) -> Result<(), String> {
    let texts = |urls: &[Url]| quote_list(&urls.iter().map(Url::to_string).collect::<Vec<_>>());
    if a.len() != b.len() {
        return Err(format!("len({}) != len({})", texts(a), texts(b)));
    }
    let sorted = |urls: &[Url]| {
        let mut urls = urls.to_vec();
        urls.sort();
        urls
    };
    if sorted(a) == sorted(b) {
        return Ok(());
    }
    let resolved = |urls: &[Url]| -> Result<Vec<Url>, String> {
        let one = |url: &Url| {
            if url.is_socket()
                || url.hostname() == "localhost"
                || url.hostname().parse::<IpAddr>().is_ok()
            {
                return Ok(url.clone());
            }
            let address = resolve(url.host_port())
                .ok_or_else(|| format!("failed to resolve {}", quote(&url.to_string())))?;
            Ok(url.with_host(address))
        };
        urls.iter()
            .map(one)
            .collect::<Result<Vec<_>, _>>()
            .map(|urls| sorted(&urls))
    };
    let (a, b) = (resolved(a)?, resolved(b)?);
    match a.iter().zip(&b).find(|(a, b)| a != b) {
        Some((a, b)) => Err(format!(
            "resolved urls: {} != {}",
            quote(&a.to_string()),
            quote(&b.to_string())
        )),
        None => Ok(()),
    }
}
