//! Whether a certificate of the other side is good enough: its chain, and what the operator asks for besides.
//!
//! The chain is webpki's business, with one addition for Go's sake: a certificate that is trusted itself is good, also if it
//! is an authority's. Sessions are never resumed (see `loaded`), so each connection comes through here.

use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use super::hosts::Names;

/// What a certificate must satisfy besides its chain.
#[derive(Debug, Default)]
pub struct Rules {
    /// If there are any: the common name must be among them.
    pub common_names: Vec<String>,
    /// If there are any: the certificate must be good for one of them.
    pub hosts: Vec<String>,
    pub revoked: Option<Revoked>,
}

impl Rules {
    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        let is_asked = !(self.common_names.is_empty() && self.hosts.is_empty());
        if is_asked {
            let names = Names::of(certificate).unwrap_or_default();
            let is_allowed = self.common_names.contains(&names.common_name)
                || self.hosts.iter().any(|host| names.include(host));
            if !is_allowed {
                return Err(refused("client certificate authentication failed".into()));
            }
        }
        let Some(revoked) = &self.revoked else {
            return Ok(());
        };
        for certificate in std::iter::once(certificate).chain(intermediates) {
            if let Some(serial) = revoked.serial_of(certificate) {
                return Err(refused(format!(
                    "transport: certificate serial {serial} revoked"
                )));
            }
        }
        Ok(())
    }
}

/// A reason of ours, for the log; the other side is told that its certificate is not accepted.
fn refused(why: String) -> Error {
    let why: Box<dyn std::error::Error + Send + Sync> = why.into();
    CertificateError::Other(OtherError(Arc::from(why))).into()
}

/// Numbers of certificates that are no longer good.
///
/// As in etcd, the number alone decides and nobody asks who signed the list: it is the operator's own file. Only where a file
/// holds several lists, which etcd cannot read, does a number count for the list's own issuer alone.
#[derive(Debug)]
pub struct Revoked {
    /// Sorted.
    entries: Vec<Entry>,
    /// When the first of the lists should have been replaced, in seconds since 1970.
    pub next_update: Option<i64>,
}

/// Issuer (empty if any) and number.
type Entry = (Box<[u8]>, Box<[u8]>);

impl Revoked {
    /// Reads the lists.
    pub fn new(lists: &[CertificateRevocationListDer<'_>]) -> Result<Self, String> {
        let (mut entries, mut next_update) = (Vec::new(), None);
        for list in lists {
            let (rest, list) = CertificateRevocationList::from_der(list)
                .map_err(|why| format!("x509: malformed crl ({why})"))?;
            if !rest.is_empty() {
                return Err("x509: trailing data after the crl".into());
            }
            let issuer: &[u8] = match lists.len() {
                1 => &[],
                _ => list.issuer().as_raw(),
            };
            for entry in list.iter_revoked_certificates() {
                entries.push((issuer.into(), without_zeros(entry.raw_serial()).into()));
            }
            let next = list.next_update().map(|time| time.timestamp());
            next_update = match (next_update, next) {
                (Some(one), Some(other)) => Some(i64::min(one, other)),
                (one, other) => one.or(other),
            };
        }
        entries.sort_unstable();
        Ok(Revoked {
            entries,
            next_update,
        })
    }

    /// The number of a revoked certificate, and `None` for a good one. One that cannot be read counts as revoked.
    pub(super) fn serial_of(&self, certificate: &CertificateDer<'_>) -> Option<String> {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
            return Some("(unreadable)".to_owned());
        };
        let serial = without_zeros(certificate.raw_serial());
        let is_listed = |issuer: &[u8]| {
            let known = |entry: &Entry| (&*entry.0, &*entry.1).cmp(&(issuer, serial));
            self.entries.binary_search_by(known).is_ok()
        };
        let is_revoked = is_listed(&[]) || is_listed(certificate.issuer().as_raw());
        is_revoked.then(|| serial.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn without_zeros(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    &serial[zeros..]
}

/// Whom to trust.
#[derive(Debug)]
pub enum Trust {
    /// Those of the file.
    Given(Vec<CertificateDer<'static>>),
    /// Those of this system, looked up when they are first needed.
    System,
    /// Everybody: what etcd does between members whose certificates it made itself.
    Anybody,
}

/// Verifies certificates of those who connect.
#[derive(Debug)]
pub struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    trusted: Vec<CertificateDer<'static>>,
    rules: Arc<Rules>,
}

impl ClientVerifier {
    /// Demands a certificate from everybody.
    ///
    /// # Errors
    /// Nobody could be trusted.
    pub fn new(
        trusted: Vec<CertificateDer<'static>>,
        rules: Arc<Rules>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let roots = roots(&trusted)?;
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|why| why.to_string())?;
        Ok(ClientVerifier {
            chain,
            trusted,
            rules,
        })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.trusted.contains(certificate) {
            check_alone(certificate, Usage::Client, now)?;
        } else {
            let chain = &self.chain;
            chain.verify_client_cert(certificate, intermediates, now)?;
        }
        self.rules.check(certificate, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let chain = &self.chain;
        chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let chain = &self.chain;
        chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Verifies certificates of those whom we dial.
#[derive(Debug)]
pub struct ServerVerifier {
    trust: Trust,
    chain: OnceLock<Result<Arc<WebPkiServerVerifier>, String>>,
    rules: Arc<Rules>,
    provider: Arc<CryptoProvider>,
}

impl ServerVerifier {
    /// # Errors
    /// Nobody could be trusted.
    pub fn new(
        trust: Trust,
        rules: Arc<Rules>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let verifier = ServerVerifier {
            trust,
            chain: OnceLock::new(),
            rules,
            provider: provider.clone(),
        };
        if let Trust::Given(_) = verifier.trust {
            verifier.chain()?;
        }
        Ok(verifier)
    }

    fn chain(&self) -> Result<Arc<WebPkiServerVerifier>, String> {
        let make = || {
            let roots = match &self.trust {
                Trust::Given(trusted) => roots(trusted)?,
                Trust::System | Trust::Anybody => roots(&of_this_system()?)?,
            };
            WebPkiServerVerifier::builder_with_provider(roots, self.provider.clone())
                .build()
                .map_err(|why| why.to_string())
        };
        self.chain.get_or_init(make).clone()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.trust {
            Trust::Anybody => {}
            Trust::Given(trusted) if trusted.contains(certificate) => {
                check_alone(certificate, Usage::Server, now)?;
                let names = Names::of(certificate).unwrap_or_default();
                if !names.include(&server.to_str()) {
                    return Err(CertificateError::NotValidForName.into());
                }
            }
            Trust::Given(_) | Trust::System => {
                let chain = self.chain().map_err(refused)?;
                chain.verify_server_cert(certificate, intermediates, server, ocsp, now)?;
            }
        }
        self.rules.check(certificate, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// The authorities that this system trusts.
pub fn of_this_system() -> Result<Vec<CertificateDer<'static>>, String> {
    let mut found = rustls_native_certs::load_native_certs();
    // One that can't be used must not cost the trust in all others; nobody chose it.
    found
        .certs
        .retain(|certificate| RootCertStore::empty().add(certificate.clone()).is_ok());
    if found.certs.is_empty() {
        let why: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(format!(
            "no trusted CA is given, and this system has none ({})",
            why.join("; ")
        ));
    }
    Ok(found.certs)
}

fn roots(trusted: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots
            .add(certificate.clone())
            .map_err(|why| format!("x509: malformed certificate ({why})"))?;
    }
    Ok(Arc::new(roots))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Usage {
    Client,
    Server,
}

/// What of a chain's rules is left for a certificate that is trusted itself: its time, and what it is for.
fn check_alone(certificate: &CertificateDer<'_>, usage: Usage, now: UnixTime) -> Result<(), Error> {
    let bad = || Error::from(CertificateError::BadEncoding);
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| bad())?;
    let validity = certificate.validity();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    let Some(purposes) = certificate.extended_key_usage().map_err(|_| bad())? else {
        return Ok(());
    };
    let purposes = purposes.value;
    let is_for_it = match usage {
        Usage::Client => purposes.client_auth,
        Usage::Server => purposes.server_auth,
    };
    if is_for_it || purposes.any {
        return Ok(());
    }
    Err(CertificateError::InvalidPurpose.into())
}
