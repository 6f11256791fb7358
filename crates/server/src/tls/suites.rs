//! Versions and cipher suites: Go's names, and what of it is on offer here.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ProtocolVersion, SupportedCipherSuite, SupportedProtocolVersion, version};

use crate::config::TlsVersion;

/// What may be negotiated.
#[derive(Clone, Debug)]
pub struct Offer {
    pub provider: Arc<CryptoProvider>,
    pub versions: Vec<&'static SupportedProtocolVersion>,
}

impl Offer {
    /// From what the configuration says. As in Go, the list is about TLS 1.2 alone, and its order means nothing.
    ///
    /// # Errors
    /// Nothing would be left to offer.
    pub fn new(
        suites: &[String],
        (min, max): (Option<TlsVersion>, Option<TlsVersion>),
    ) -> Result<Self, String> {
        let mut provider = aws_lc_rs::default_provider();
        if !suites.is_empty() {
            provider.cipher_suites.retain(|suite| {
                is_newer(suite) || suites.iter().any(|name| go_name(name) == name_of(suite))
            });
        }
        let mut versions = Vec::new();
        if max != Some(TlsVersion::V12) {
            versions.push(&version::TLS13);
        }
        if min != Some(TlsVersion::V13) {
            versions.push(&version::TLS12);
        }
        let is_usable = |suite: &SupportedCipherSuite| {
            versions
                .iter()
                .any(|v| v.version == suite.version().version)
        };
        if !provider.cipher_suites.iter().any(is_usable) {
            return Err(format!(
                "none of --cipher-suites {} is offered here, and --tls-max-version leaves nothing else: add one of {}",
                suites.join(","),
                offered().join(", ")
            ));
        }
        Ok(Offer {
            provider: Arc::new(provider),
            versions,
        })
    }
}

/// Which of Go's suites are not offered, because they are not safe: no forward secrecy, CBC, or worse. TLS 1.3's always are.
pub fn not_offered(suites: &[String]) -> Vec<&str> {
    let known = offered();
    let is_offered = |name: &&str| {
        known.contains(&go_name(name).to_owned())
            || ["TLS_AES_", "TLS_CHACHA20_"]
                .iter()
                .any(|begin| name.starts_with(begin))
    };
    let names = suites.iter().map(String::as_str);
    names.filter(|name| !is_offered(name)).collect()
}

/// The TLS 1.2 suites on offer.
fn offered() -> Vec<String> {
    let suites = aws_lc_rs::DEFAULT_CIPHER_SUITES.iter();
    suites
        .filter(|suite| !is_newer(suite))
        .map(name_of)
        .collect()
}

fn is_newer(suite: &SupportedCipherSuite) -> bool {
    suite.version().version == ProtocolVersion::TLSv1_3
}

/// The IANA name, which for TLS 1.2 is the library's own.
fn name_of(suite: &SupportedCipherSuite) -> String {
    suite.suite().as_str().unwrap_or_default().to_owned()
}

/// Go has old names for two of them.
fn go_name(name: &str) -> &str {
    match name {
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(suites: &[&str], max: Option<TlsVersion>) -> Result<Vec<String>, String> {
        let suites: Vec<_> = suites.iter().map(|suite| (*suite).to_owned()).collect();
        let offer = Offer::new(&suites, (Some(TlsVersion::V12), max))?;
        let old = offer.provider.cipher_suites.iter().filter(|s| !is_newer(s));
        Ok(old.map(name_of).collect())
    }

    #[test]
    fn only_what_is_listed_is_offered_under_either_name() {
        assert_eq!(
            offer(
                &[
                    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
                    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
                    "TLS_RSA_WITH_RC4_128_SHA"
                ],
                None
            ),
            Ok(vec![
                "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".to_owned(),
                "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256".to_owned(),
            ])
        );
        assert_eq!(offer(&[], None).map(|all| all.len()), Ok(6));
    }

    #[test]
    fn a_list_that_leaves_nothing_is_a_mistake() {
        let bad = ["TLS_RSA_WITH_AES_128_CBC_SHA"];
        assert_eq!(offer(&bad, None), Ok(vec![]), "TLS 1.3 is left");
        assert!(offer(&bad, Some(TlsVersion::V12)).is_err());
        let bad = bad.map(str::to_owned);
        assert_eq!(not_offered(&bad), ["TLS_RSA_WITH_AES_128_CBC_SHA"]);
        assert!(not_offered(&["TLS_AES_128_GCM_SHA256".to_owned()]).is_empty());
    }
}
