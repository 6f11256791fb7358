//! One side's files as they are now: loaded at start, looked at before each handshake, read again from time to time.
//!
//! A change of any file loads all of them anew, whole or not at all. What cannot be used (half written, a key of another
//! certificate, gone) leaves the old ones in place and is told; etcd refuses connections meanwhile.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use super::Role;
use super::files::{Files, Kind, Stamp};
use super::hosts::Names;
use super::loaded::{Loaded, Terms};
use super::self_signed;
use super::suites::Offer;
use crate::config::{self, Config, Url};
use crate::logging::{Level, Note, timestamp};
use crate::metrics::{Counter, Gauge};

/// How often files are looked at although nobody connects.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// So many looks after which they are read even if they look the same: a network's file system may not tell.
const READ_EVERY: u32 = 6;
/// What is broken, or ends soon, is told again after this.
const TELL_AGAIN: Duration = Duration::from_secs(3600);
const TELL_END_AGAIN: Duration = Duration::from_secs(24 * 3600);
/// From when on the end of a certificate is told.
const ENDS_SOON_S: i64 = 30 * 24 * 3600;
/// The next list should be there by now; authorities issue them days or hours ahead.
const LIST_ENDS_SOON_S: i64 = 0;
/// Rejected connections that are told in [`REJECTED_WINDOW`]; more are counted.
const REJECTED_MAX: u32 = 10;
const REJECTED_WINDOW: Duration = Duration::from_secs(10);

/// What [`super::Acceptor`] and the reloading count.
#[derive(Debug, Default)]
pub struct Counts {
    pub succeeded: Counter,
    pub failed: Counter,
    pub timed_out: Counter,
    /// Closed before their handshake, because their address had too many.
    pub refused: Counter,
    pub reloads: Counter,
    pub reload_failures: Counter,
    /// 1 while the files on disk cannot be used and older ones are served.
    pub is_stale: Gauge,
}

/// Certificates, keys, authorities and rules of one [`Role`].
#[derive(Debug)]
pub struct Side {
    terms: Terms,
    files: Files,
    skips_addresses: bool,
    current: ArcSwap<Loaded>,
    /// How the files looked when they were last read.
    stamps: ArcSwap<Stamps>,
    /// Held while files are read, by threads that may block; what was read last.
    reloading: Mutex<Read>,
    rejected: Mutex<Rejected>,
    pub counts: Counts,
}

type Stamps = Vec<Stamp>;

#[derive(Debug)]
struct Read {
    digest: Option<[u8; 32]>,
    broken: Option<(String, Instant)>,
}

/// Lines about rejected connections in the current window.
#[derive(Debug, Default)]
struct Rejected {
    since: Option<Instant>,
    told: u32,
    untold: u32,
}

impl Side {
    /// Reads the files that the configuration names, and makes a certificate if it says so.
    pub(super) fn load(
        role: Role,
        config: &Config,
        notes: &mut Vec<Note>,
    ) -> Result<Arc<Self>, String> {
        let tls = match role {
            Role::Clients => &config.client_tls,
            Role::Members => &config.peer_tls,
        };
        let mut files = Files::default();
        let mut is_self_signed = false;
        if is_wanted(role, config) {
            is_self_signed = own_certificate(role, config, tls, &mut files, notes)?;
            let more = [
                (Kind::ClientCertificate, &tls.client_cert_file),
                (Kind::ClientKey, &tls.client_key_file),
                (Kind::Authorities, &tls.trusted_ca_file),
                (Kind::Revoked, &tls.crl_file),
            ];
            for (kind, path) in more {
                files.0.extend(path.clone().map(|path| (kind, path)));
            }
        }
        let terms = Terms {
            role,
            offer: Offer::new(&config.cipher_suites, config.tls_versions)?,
            demands_certificate: tls.client_cert_auth || tls.trusted_ca_file.is_some(),
            common_names: tls.allowed_cns.clone(),
            hosts: tls.allowed_hostnames.clone(),
            is_self_signed,
        };
        let stamps = files.stamps();
        let contents = files.read()?;
        let loaded = Loaded::new(&terms, &contents)?;
        if loaded.server.is_some() {
            notes.push(begins(&terms, &files, config));
        }
        Ok(Arc::new(Side {
            terms,
            skips_addresses: tls.skip_client_san_verification,
            current: ArcSwap::from_pointee(loaded),
            stamps: ArcSwap::from_pointee(stamps),
            reloading: Mutex::new(Read {
                digest: Some(contents.digest()),
                broken: None,
            }),
            files,
            rejected: Mutex::default(),
            counts: Counts::default(),
        }))
    }

    pub fn role(&self) -> Role {
        self.terms.role
    }

    /// Whether there are files that count.
    pub fn is_used(&self) -> bool {
        !self.files.0.is_empty()
    }

    /// Whether there is a certificate to serve with.
    pub fn has_certificate(&self) -> bool {
        self.current.load().server.is_some()
    }

    /// What ends when, in seconds since 1970, by the name of its kind.
    pub fn ends(&self) -> Vec<(&'static str, i64)> {
        let ends = &self.current.load().ends;
        ends.iter().map(|(kind, end)| (kind.name(), *end)).collect()
    }

    pub(super) fn skips_addresses(&self) -> bool {
        self.skips_addresses
    }

    /// What the files come to, with what has changed until now.
    pub(super) async fn fresh(self: &Arc<Self>) -> Arc<Loaded> {
        if self.files.stamps() != **self.stamps.load() {
            let side = self.clone();
            // It cannot be cancelled, and has told what went wrong.
            let _ = tokio::task::spawn_blocking(move || side.reload(false)).await;
        }
        self.current.load_full()
    }

    /// Looks after the files, for ever.
    pub(super) async fn watch(self: &Arc<Self>) {
        if self.files.0.is_empty() {
            return std::future::pending().await;
        }
        let mut told = Vec::new();
        for look in 0u32.. {
            self.tell_ends(&mut told);
            tokio::time::sleep(LOOK_EVERY).await;
            let side = self.clone();
            let is_to_read = look % READ_EVERY == READ_EVERY - 1;
            let _ = tokio::task::spawn_blocking(move || side.reload(is_to_read)).await;
        }
    }

    /// Loads what has changed. Blocks.
    fn reload(&self, is_to_read: bool) {
        let mut read = self
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let stamps = self.files.stamps();
        if !is_to_read && stamps == **self.stamps.load() {
            return;
        }
        let contents = self.files.read();
        // Even if they cannot be read: the next connection need not try it again.
        self.stamps.store(Arc::new(stamps));
        let loaded = match contents {
            Ok(contents) => {
                let digest = Some(contents.digest());
                if read.digest == digest {
                    return self.tell_broken_again(&mut read);
                }
                read.digest = digest;
                Loaded::new(&self.terms, &contents)
            }
            Err(why) => {
                // Whatever can be read next is new.
                read.digest = None;
                Err(why)
            }
        };
        match loaded {
            Ok(loaded) => {
                self.current.store(Arc::new(loaded));
                read.broken = None;
                self.counts.is_stale.set(0);
                self.counts.reloads.inc();
                tracing::info!(
                    side = self.terms.role.name(),
                    "TLS files have changed; new connections use what they hold now"
                );
            }
            Err(why) => {
                self.counts.is_stale.set(1);
                self.counts.reload_failures.inc();
                let is_new = read.broken.as_ref().is_none_or(|(known, _)| *known != why);
                if is_new {
                    self.tell_broken(&why);
                    read.broken = Some((why, Instant::now()));
                } else {
                    self.tell_broken_again(&mut read);
                }
            }
        }
    }

    fn tell_broken_again(&self, read: &mut Read) {
        if let Some((why, told)) = &mut read.broken
            && told.elapsed() > TELL_AGAIN
        {
            *told = Instant::now();
            self.tell_broken(why);
        }
    }

    fn tell_broken(&self, why: &str) {
        tracing::warn!(
            side = self.terms.role.name(),
            error = why,
            "TLS files have changed and cannot be used; connections go on with the old ones until the files are repaired, \
             which needs no restart"
        );
    }

    /// Tells what ends soon or has ended, each a day at most.
    fn tell_ends(&self, told: &mut Vec<(Kind, i64, Instant)>) {
        told.retain(|(.., when)| when.elapsed() < TELL_END_AGAIN);
        let now = seconds_now();
        for (kind, end) in &self.current.load().ends {
            let soon = match kind {
                Kind::Revoked => LIST_ENDS_SOON_S,
                _ => ENDS_SOON_S,
            };
            if end - now > soon || told.iter().any(|(k, e, _)| (k, e) == (kind, end)) {
                continue;
            }
            told.push((*kind, *end, Instant::now()));
            let file = self.files.path(*kind);
            tracing::warn!(
                side = self.terms.role.name(),
                file = file.map_or(String::new(), |path| path.display().to_string()),
                "not-after" = time(*end),
                "{}",
                self.about_end(*kind, *end <= now)
            );
        }
    }

    fn about_end(&self, kind: Kind, is_past: bool) -> &'static str {
        match (kind, is_past) {
            (Kind::Revoked, _) => {
                "the revocation list should have been replaced by now; it still counts: put the next one in its place"
            }
            (Kind::Authorities, false) => {
                "a trusted CA certificate expires soon: add its successor to the file, which needs no restart"
            }
            (Kind::Authorities, true) => {
                "a trusted CA certificate has expired, and what it signed is refused: put its successor into the file"
            }
            (_, false) if self.terms.is_self_signed => {
                "the generated certificate expires soon: remove it and its key, and restart"
            }
            (_, true) if self.terms.is_self_signed => {
                "the generated certificate has expired: remove it and its key, and restart"
            }
            (_, false) => {
                "a certificate expires soon: replace it and its key, which needs no restart"
            }
            (_, true) => {
                "a certificate has expired, and others refuse it: replace it and its key, which needs no restart"
            }
        }
    }

    /// Tells of a connection that did not get in, unless too many do not.
    pub(super) fn tell_rejected(&self, from: Option<SocketAddr>, names: Option<&Names>, why: &str) {
        let from = from.map_or_else(|| "@".to_owned(), |from| from.to_string());
        if why.contains("handshake eof") {
            tracing::debug!(
                "remote-addr" = from,
                error = why,
                "{}",
                self.rejected_where()
            );
            return;
        }
        let Some(untold) = self.may_tell_rejected() else {
            return;
        };
        let (addresses, hosts) = names.map_or_else(Default::default, |names| {
            let addresses: Vec<_> = names.addresses.iter().map(ToString::to_string).collect();
            (addresses.join(","), names.hosts.join(","))
        });
        tracing::warn!(
            "remote-addr" = from,
            "ip-addresses" = addresses,
            "dns-names" = hosts,
            error = why,
            "not-told-before" = untold,
            "{}",
            self.rejected_where()
        );
    }

    fn rejected_where(&self) -> &'static str {
        match self.terms.role {
            Role::Clients => "rejected connection on client endpoint",
            Role::Members => "rejected connection on peer endpoint",
        }
    }

    /// How many were not told before this one, which may be; `None` if it may not.
    fn may_tell_rejected(&self) -> Option<u32> {
        let mut rejected = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |since: Instant| since.elapsed() > REJECTED_WINDOW;
        if rejected.since.is_none_or(is_over) {
            rejected.since = Some(Instant::now());
            rejected.told = 0;
        }
        if rejected.told == REJECTED_MAX {
            rejected.untold = rejected.untold.saturating_add(1);
            return None;
        }
        rejected.told += 1;
        Some(std::mem::take(&mut rejected.untold))
    }
}

/// Whether anything of this side will be used: like etcd, a member that serves clients in clear reads no files for them.
fn is_wanted(role: Role, config: &Config) -> bool {
    let urls = &config.urls;
    match role {
        Role::Clients => [
            &urls.listen_client,
            &urls.listen_client_http,
            &urls.listen_metrics,
        ]
        .into_iter()
        .flatten()
        .any(Url::is_tls),
        Role::Members => true,
    }
}

/// Adds the certificate to serve with; says whether it is a generated one.
fn own_certificate(
    role: Role,
    config: &Config,
    tls: &config::Tls,
    files: &mut Files,
    notes: &mut Vec<Note>,
) -> Result<bool, String> {
    let given = [
        (Kind::Certificate, &tls.cert_file),
        (Kind::Key, &tls.key_file),
    ];
    for (kind, path) in given {
        files.0.extend(path.clone().map(|path| (kind, path)));
    }
    if !tls.auto_tls {
        return Ok(false);
    }
    if !files.0.is_empty() {
        let text = format!("ignoring {} auto TLS since certs given", role.name());
        notes.push(Note::new(Level::Warn, text));
        return Ok(false);
    }
    let urls = match role {
        Role::Clients => [
            config.urls.listen_client.as_slice(),
            &config.urls.listen_client_http,
        ]
        .concat(),
        Role::Members => config.urls.listen_peer.clone(),
    };
    let folder = config.data_dir.join("fixtures").join(role.name());
    let made = self_signed::find_or_make(&folder, &urls, config.self_signed_years)?;
    if made.is_new {
        let created = |text: &str, path: &PathBuf| {
            Note::new(Level::Info, text).with("path", path.display().to_string())
        };
        notes.push(Note::new(
            Level::Warn,
            "automatically generate certificates",
        ));
        notes.push(created("created cert file", &made.certificate));
        notes.push(created("created key file", &made.key));
    }
    files.0.push((Kind::Certificate, made.certificate));
    files.0.push((Kind::Key, made.key));
    Ok(true)
}

/// What etcd tells when it starts with TLS.
fn begins(terms: &Terms, files: &Files, config: &Config) -> Note {
    let path = |kind| {
        let path = files.path(kind);
        path.map_or(String::new(), |path| path.display().to_string())
    };
    let info = format!(
        "cert = {}, key = {}, client-cert={}, client-key={}, trusted-ca = {}, client-cert-auth = {}, crl-file = {}",
        path(Kind::Certificate),
        path(Kind::Key),
        path(Kind::ClientCertificate),
        path(Kind::ClientKey),
        path(Kind::Authorities),
        terms.demands_certificate,
        path(Kind::Revoked),
    );
    let text = format!("starting with {} TLS", terms.role.name());
    Note::new(Level::Info, text)
        .with("tls-info", info)
        .with("cipher-suites", config.cipher_suites.clone())
}

fn time(seconds: i64) -> String {
    match u64::try_from(seconds) {
        Ok(seconds) => timestamp(UNIX_EPOCH + Duration::from_secs(seconds)),
        Err(_) => "before 1970".to_owned(),
    }
}

fn seconds_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_secs()).unwrap_or(i64::MAX)
}
