//! Rows about TLS, origins, host names and authentication.

use super::Row;
use super::Status::{NotYet, Refused, Works};
use crate::config::value::Kind::{Bool, List, Origins, Strings, Text, Uint};

pub(in crate::config) const NO_PEER_TLS: &str =
    "TLS between members is not available yet, and the member would speak in clear";

#[rustfmt::skip]
pub(super) const SECURITY: &[Row] = &[
    Row::new("cert-file", Text, "", "2567", Works,
        "Certificate for clients.").yaml("client-transport-security.cert-file"),
    Row::new("key-file", Text, "", "2567", Works,
        "Key of that certificate.").yaml("client-transport-security.key-file"),
    Row::new("client-cert-auth", Bool, "false", "2567", Works,
        "Require and verify certificates of clients.").yaml("client-transport-security.client-cert-auth"),
    Row::new("client-cert-file", Text, "", "567", Works,
        "Certificate that the member presents when it is its own client.").yaml("client-transport-security.client-cert-file"),
    Row::new("client-key-file", Text, "", "567", Works,
        "Key of that certificate.").yaml("client-transport-security.client-key-file"),
    Row::new("client-crl-file", Text, "", "567", Works,
        "Revoked certificates of clients.").yaml(""),
    Row::new("client-cert-allowed-hostname", List, "", "567", Works,
        "Host names, one of which a client's certificate must carry.").yaml("client-transport-security.allowed-hostname"),
    Row::new("trusted-ca-file", Text, "", "2567", Works,
        "Authorities that may sign certificates of clients.").yaml("client-transport-security.trusted-ca-file"),
    Row::new("auto-tls", Bool, "false", "2567", Works,
        "Serve clients with a generated certificate.").yaml("client-transport-security.auto-tls"),
    Row::new("peer-cert-file", Text, "", "2567", Refused(NO_PEER_TLS),
        "Certificate for members.").yaml("peer-transport-security.cert-file"),
    Row::new("peer-key-file", Text, "", "2567", Refused(NO_PEER_TLS),
        "Key of that certificate.").yaml("peer-transport-security.key-file"),
    Row::new("peer-client-cert-auth", Bool, "false", "2567", Refused(NO_PEER_TLS),
        "Require and verify certificates of members.").yaml("peer-transport-security.client-cert-auth"),
    Row::new("peer-client-cert-file", Text, "", "567", Refused(NO_PEER_TLS),
        "Certificate to present to members, if not --peer-cert-file.").yaml("peer-transport-security.client-cert-file"),
    Row::new("peer-client-key-file", Text, "", "567", Refused(NO_PEER_TLS),
        "Key of that certificate.").yaml("peer-transport-security.client-key-file"),
    Row::new("peer-trusted-ca-file", Text, "", "2567", Refused(NO_PEER_TLS),
        "Authorities that may sign certificates of members.").yaml("peer-transport-security.trusted-ca-file"),
    Row::new("peer-cert-allowed-cn", List, "", "567", Refused(NO_PEER_TLS),
        "Common names, one of which a member's certificate must carry.").yaml("peer-transport-security.allowed-cn"),
    Row::new("peer-cert-allowed-hostname", List, "", "567", Refused(NO_PEER_TLS),
        "Host names, one of which a member's certificate must carry.").yaml("peer-transport-security.allowed-hostname"),
    Row::new("peer-auto-tls", Bool, "false", "2567", Refused(NO_PEER_TLS),
        "Serve members with a generated certificate.").yaml("peer-transport-security.auto-tls"),
    Row::new("peer-crl-file", Text, "", "567", Refused(NO_PEER_TLS),
        "Revoked certificates of members.").yaml(""),
    Row::new("peer-skip-client-san-verification", Bool, "false", "67", Refused(NO_PEER_TLS),
        "Do not compare the address of a member with its certificate.").yaml("peer-transport-security.skip-client-san-verification"),
    Row::new("self-signed-cert-validity", Uint, "1", "567", Works,
        "Years for which a generated certificate is valid."),
    Row::new("cipher-suites", List, "", "2567", Works,
        "TLS 1.2 cipher suites to offer, by their IANA names; empty for a good choice."),
    Row::new("tls-min-version", Text, "TLS1.2", "567", Works,
        "Oldest TLS version: TLS1.2 or TLS1.3."),
    Row::new("tls-max-version", Text, "", "567", Works,
        "Newest TLS version: TLS1.2, TLS1.3, or empty for the newest known."),
    Row::new("cors", Origins, "*", "2567", NotYet("CORS headers are not sent yet, so browsers of other origins are refused"),
        "Origins that browsers may come from; * or empty for all."),
    Row::new("host-whitelist", Strings, "*", "567", Works,
        "Host names that plain HTTP requests may name; * or empty for all."),
];

#[rustfmt::skip]
pub(super) const AUTH: &[Row] = &[
    Row::new("auth-token", Text, "simple", "2567", NotYet("authentication is not available yet"),
        "Kind of token: simple, or jwt,pub-key=..,priv-key=..,sign-method=..,ttl=.."),
    Row::new("bcrypt-cost", Uint, "10", "567", NotYet("authentication is not available yet"),
        "Cost of hashing passwords, 4 to 31."),
    Row::new("auth-token-ttl", Uint, "300", "567", NotYet("authentication is not available yet"),
        "Seconds for which a simple token is valid."),
];
