//! Who a certificate says its owner is, compared with names and addresses as Go does.
//!
//! Source: Go `crypto/x509`, `verify.go`, `VerifyHostname`; upstream `client/pkg/transport/listener_tls.go`, `checkCertSAN`.

use std::net::IpAddr;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What a certificate says about its owner. Never longer than the certificate, which the handshake bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The common name of the subject; the last, if there are several, and empty if there is none.
    pub common_name: String,
    /// Host names, perhaps with `*` as first label.
    pub hosts: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

impl Names {
    /// Reads them out of a certificate that was verified; `None` if it is none that we can read.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let mut names = Names::default();
        for attribute in certificate.subject().iter_common_name() {
            names.common_name = attribute.as_str().ok()?.to_owned();
        }
        let Some(alternatives) = certificate.subject_alternative_name().ok()? else {
            return Some(names);
        };
        for name in &alternatives.value.general_names {
            match name {
                GeneralName::DNSName(host) => names.hosts.push((*host).to_owned()),
                GeneralName::IPAddress(bytes) => names.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        Some(names)
    }

    /// Whether the certificate is good for a host: a name, or an address, which may stand in brackets.
    pub fn include(&self, host: &str) -> bool {
        let inner = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if let Ok(address) = inner.parse::<IpAddr>() {
            return self.include_address(address);
        }
        let host_is_valid = is_valid(host.strip_suffix('.').unwrap_or(host), false);
        self.hosts
            .iter()
            .any(|pattern| match host_is_valid && is_valid(pattern, true) {
                true => matches(pattern, host.strip_suffix('.').unwrap_or(host)),
                false => {
                    ![pattern, host].iter().any(|text| matches!(*text, "" | "."))
                        && pattern.eq_ignore_ascii_case(host)
                }
            })
    }

    fn include_address(&self, address: IpAddr) -> bool {
        let known = |known: &IpAddr| known.to_canonical() == address.to_canonical();
        self.addresses.iter().any(known)
    }

    /// Whether who holds the certificate may come from `address`: always if it names nobody, otherwise the address or a name
    /// of it must be there. May ask DNS, so it is to be given a deadline.
    ///
    /// # Errors
    /// Why not, in etcd's words.
    pub async fn check_address(&self, address: IpAddr) -> Result<(), String> {
        let address = address.to_canonical();
        if (self.addresses.is_empty() && self.hosts.is_empty()) || self.include_address(address) {
            return Ok(());
        }
        if self.hosts.is_empty() {
            let known: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
            return Err(format!(
                "x509: certificate is valid for {}, not {address}",
                known.join(", ")
            ));
        }
        let failed = match self.resolve_to(address).await {
            Ok(true) => return Ok(()),
            Ok(false) => String::new(),
            Err(why) => format!(" ({why})"),
        };
        let quoted: Vec<_> = self.hosts.iter().map(|host| format!("{host:?}")).collect();
        Err(format!(
            "tls: \"{address}\" does not match any of DNSNames [{}]{failed}",
            quoted.join(" ")
        ))
    }

    /// Whether the address has one of the names, by what DNS calls it, or by what DNS says of the names.
    async fn resolve_to(&self, address: IpAddr) -> Result<bool, String> {
        let mut failed = None;
        // Blocking, like every resolver of the system's; as many at once as there are handshakes.
        let reverse = tokio::task::spawn_blocking(move || dns_lookup::lookup_addr(&address)).await;
        match reverse {
            Ok(Ok(name)) => {
                let name = name.strip_suffix('.').unwrap_or(&name);
                if self.hosts.iter().any(|host| is_name_of(host, name)) {
                    return Ok(true);
                }
            }
            Ok(Err(why)) => failed = Some(why.to_string()),
            Err(why) => failed = Some(why.to_string()),
        }
        for host in self.hosts.iter().filter(|host| !host.starts_with("*.")) {
            match tokio::net::lookup_host((host.as_str(), 0)).await {
                Ok(mut found) => {
                    if found.any(|found| found.ip().to_canonical() == address) {
                        return Ok(true);
                    }
                }
                Err(why) => failed = Some(why.to_string()),
            }
        }
        failed.map_or(Ok(false), Err)
    }
}

/// Whether a certificate's name covers a name of an address. A wildcard covers any number of labels here, as in etcd.
fn is_name_of(host: &str, name: &str) -> bool {
    match host.strip_prefix('*') {
        Some(suffix) if suffix.starts_with('.') => name.ends_with(suffix),
        _ => host == name,
    }
}

/// Whether `*.example.com` covers `a.example.com`: label by label, the first may be anything.
fn matches(pattern: &str, host: &str) -> bool {
    let (mut pattern, mut host) = (pattern.split('.').enumerate(), host.split('.'));
    loop {
        match (pattern.next(), host.next()) {
            (None, None) => return true,
            (Some((0, "*")), Some(_)) => {}
            (Some((_, pattern)), Some(label)) if pattern.eq_ignore_ascii_case(label) => {}
            _ => return false,
        }
    }
}

/// Whether a text is a host name, or a pattern of one.
fn is_valid(host: &str, is_pattern: bool) -> bool {
    host != "*"
        && host.split('.').enumerate().all(|(at, label)| {
            (is_pattern && at == 0 && label == "*")
                || (!label.is_empty()
                    && !label.starts_with('-')
                    && label
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)))
        })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(hosts: &[&str], addresses: &[&str]) -> Names {
        Names {
            common_name: "ignored.example.com".into(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            addresses: addresses
                .iter()
                .map(|text| text.parse().expect("an address"))
                .collect(),
        }
    }

    #[test]
    fn hosts_are_compared_as_go_compares_them() {
        let certificate = names(&["etcd.example.com", "*.Wild.example.com"], &["10.0.0.1"]);
        for (host, is_included) in [
            ("etcd.example.com", true),
            ("ETCD.example.com.", true),
            ("a.wild.example.com", true),
            ("a.b.wild.example.com", false),
            ("wild.example.com", false),
            ("ignored.example.com", false),
            ("10.0.0.1", true),
            ("[10.0.0.1]", true),
            ("::ffff:10.0.0.1", true),
            ("10.0.0.2", false),
            ("", false),
            // Not a host name, so it is compared as it is.
            ("*.wild.example.com", true),
        ] {
            assert_eq!(certificate.include(host), is_included, "{host}");
        }
    }

    #[tokio::test]
    async fn a_certificate_that_names_nobody_may_come_from_anywhere() {
        let from = "192.0.2.7".parse().expect("an address");
        assert_eq!(names(&[], &[]).check_address(from).await, Ok(()));
        assert_eq!(names(&[], &["192.0.2.7"]).check_address(from).await, Ok(()));
        assert_eq!(
            names(&[], &["192.0.2.8"]).check_address(from).await,
            Err("x509: certificate is valid for 192.0.2.8, not 192.0.2.7".into())
        );
    }

    #[tokio::test]
    async fn a_name_counts_if_it_leads_to_the_address() {
        let local = "127.0.0.1".parse().expect("an address");
        let certificate = names(&["localhost"], &["192.0.2.8"]);
        assert_eq!(certificate.check_address(local).await, Ok(()));
        let other = "192.0.2.7".parse().expect("an address");
        let why = certificate.check_address(other).await.expect_err("another");
        let begin = "tls: \"192.0.2.7\" does not match any of DNSNames [\"localhost\"]";
        assert!(why.starts_with(begin), "{why}");
    }

    #[test]
    fn a_wildcard_covers_names_of_addresses_of_any_depth() {
        assert!(is_name_of("*.example.com", "a.b.example.com"));
        assert!(!is_name_of("*.example.com", "example.com"));
        assert!(is_name_of("a.example.com", "a.example.com"));
    }
}
