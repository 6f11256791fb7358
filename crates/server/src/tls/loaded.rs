//! What a side's files come to: settings for connections in both directions, and when which of it expires.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, Error, InconsistentKeys, ServerConfig, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Role;
use super::files::{Contents, Kind, Pair};
use super::suites::Offer;
use super::verify::{ClientVerifier, Revoked, Rules, ServerVerifier, Trust, of_this_system};

/// What does not change while a member runs.
#[derive(Clone, Debug)]
pub struct Terms {
    pub role: Role,
    pub offer: Offer,
    /// Whether a certificate is demanded from who connects.
    pub demands_certificate: bool,
    pub common_names: Vec<String>,
    pub hosts: Vec<String>,
    /// Whether the certificate was generated, and those of the others were too, so that nobody can vouch for them.
    pub is_self_signed: bool,
}

/// Everything that follows from the files.
#[derive(Debug)]
pub struct Loaded {
    /// For who connects; `None` without a certificate.
    pub server: Option<Arc<ServerConfig>>,
    /// For whom we dial.
    pub client: Arc<ClientConfig>,
    /// What ends when, in seconds since 1970: of several certificates in a file the first to end.
    pub ends: Vec<(Kind, i64)>,
}

impl Loaded {
    /// # Errors
    /// What is wrong with which file.
    pub fn new(terms: &Terms, contents: &Contents) -> Result<Self, String> {
        let provider = &terms.offer.provider;
        let own = contents.pair(Kind::Certificate, Kind::Key)?;
        let as_client = contents.pair(Kind::ClientCertificate, Kind::ClientKey)?;
        let authorities = contents.authorities()?;
        let revoked = match contents.lists()? {
            Some(lists) => Some(
                Revoked::new(&lists)
                    .map_err(|why| format!("{}: {why}", contents.path(Kind::Revoked)))?,
            ),
            None => None,
        };
        let mut ends = Vec::new();
        for (kind, pair) in [
            (Kind::Certificate, &own),
            (Kind::ClientCertificate, &as_client),
        ] {
            if let Some((chain, _)) = pair {
                ends.extend(first_end(&chain[..1])?.map(|end| (kind, end)));
            }
        }
        if let Some(authorities) = &authorities {
            ends.extend(first_end(authorities)?.map(|end| (Kind::Authorities, end)));
        }
        let next = revoked.as_ref().and_then(|revoked| revoked.next_update);
        ends.extend(next.map(|next| (Kind::Revoked, next)));

        let own = certified(own, Kind::Certificate, contents, provider)?;
        let as_client = certified(as_client, Kind::ClientCertificate, contents, provider)?;
        let rules = Arc::new(Rules {
            common_names: terms.common_names.clone(),
            hosts: terms.hosts.clone(),
            revoked,
        });
        let server = match &own {
            Some(own) => Some(server(terms, own, &authorities, &rules, contents)?),
            None => None,
        };
        let client = client(terms, as_client.or(own), authorities, rules, contents)?;
        Ok(Loaded {
            server,
            client,
            ends,
        })
    }
}

fn server(
    terms: &Terms,
    own: &Arc<CertifiedKey>,
    authorities: &Option<Vec<CertificateDer<'static>>>,
    rules: &Arc<Rules>,
    contents: &Contents,
) -> Result<Arc<ServerConfig>, String> {
    let provider = &terms.offer.provider;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&terms.offer.versions)
        .map_err(|why| why.to_string())?;
    let builder = if terms.demands_certificate {
        let trusted = match authorities {
            Some(authorities) => authorities.clone(),
            None => of_this_system()?,
        };
        let verifier = ClientVerifier::new(trusted, rules.clone(), provider)
            .map_err(|why| format!("{}: {why}", contents.path(Kind::Authorities)))?;
        builder.with_client_cert_verifier(Arc::new(verifier))
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_cert_resolver(Arc::new(Always(own.clone())));
    config.alpn_protocols = terms.role.protocols();
    // A resumed session would skip the look at the certificate: one that was revoked or has expired meanwhile would come in.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn client(
    terms: &Terms,
    own: Option<Arc<CertifiedKey>>,
    authorities: Option<Vec<CertificateDer<'static>>>,
    rules: Arc<Rules>,
    contents: &Contents,
) -> Result<Arc<ClientConfig>, String> {
    let provider = &terms.offer.provider;
    let trust = match authorities {
        _ if terms.is_self_signed => Trust::Anybody,
        Some(authorities) => Trust::Given(authorities),
        None => Trust::System,
    };
    let verifier = ServerVerifier::new(trust, rules, provider)
        .map_err(|why| format!("{}: {why}", contents.path(Kind::Authorities)))?;
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&terms.offer.versions)
        .map_err(|why| why.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(Always(own))),
        None => builder.with_no_client_auth(),
    };
    // As above.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// One certificate whatever is asked for, as in etcd: names of hosts are not looked at.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl ResolvesClientCert for Always {
    fn resolve(
        &self,
        _issuers: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certified(
    pair: Option<Pair>,
    kind: Kind,
    contents: &Contents,
    provider: &CryptoProvider,
) -> Result<Option<Arc<CertifiedKey>>, String> {
    let Some((chain, key)) = pair else {
        return Ok(None);
    };
    match CertifiedKey::from_der(chain, key, provider) {
        Ok(certified) => Ok(Some(Arc::new(certified))),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(format!(
            "{}: tls: private key does not match public key",
            contents.path(kind)
        )),
        Err(why) => Err(format!("{}: {why}", contents.path(kind))),
    }
}

/// When the first of some certificates ends.
fn first_end(certificates: &[CertificateDer<'_>]) -> Result<Option<i64>, String> {
    let mut first = None;
    for certificate in certificates {
        let (_, certificate) = X509Certificate::from_der(certificate)
            .map_err(|why| format!("x509: malformed certificate ({why})"))?;
        let end = certificate.validity().not_after.timestamp();
        first = Some(first.map_or(end, |first: i64| first.min(end)));
    }
    Ok(first)
}
