//! Both ends of a connection against each other, with certificates made for the purpose; and files that nobody made on purpose.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::files::{Contents, Kind};
use super::loaded::{Loaded, Terms};
use super::suites::Offer;
use super::verify::Revoked;
use super::*;
use crate::config::{Config, Tls, Url};
use crate::transport::listen::{Listener, Security, SocketOptions};

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// A certificate and its key, as PEM.
    fn issue(&self, name: &str, serial: u64, hosts: &[&str]) -> (String, String) {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    fn revoke(&self, serial: u64) -> String {
        let now = SystemTime::now();
        let params = CertificateRevocationListParams {
            this_update: (now - DAY).into(),
            next_update: (now + DAY).into(),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: (now - DAY).into(),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.0).expect("a list");
        list.pem().expect("text")
    }
}

/// A member's files in a folder, and both ends made of them.
struct Bench {
    folder: tempfile::TempDir,
    config: Config,
}

impl Bench {
    fn new(authority: &Authority, hosts: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (certificate, key) = authority.issue("member", 7, hosts);
        let bench = Bench {
            config: Config::default(),
            folder,
        };
        bench.put("cert", &certificate);
        bench.put("key", &key);
        bench.put("ca", &authority.0.pem());
        let mut bench = bench;
        bench.config.peer_tls = Tls {
            cert_file: Some(bench.path("cert")),
            key_file: Some(bench.path("key")),
            trusted_ca_file: Some(bench.path("ca")),
            client_cert_auth: true,
            ..Tls::default()
        };
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
    }

    fn side(&self) -> Arc<Side> {
        self.try_side().expect("good files")
    }

    fn try_side(&self) -> Result<Arc<Side>, String> {
        Side::load(Role::Members, &self.config, &mut Vec::new())
    }
}

/// A listener for a side, and where it is.
async fn listen(side: Arc<Side>) -> (Listener, SocketAddr) {
    let url = Url::parse("https://127.0.0.1:0").expect("a URL");
    let mut listener = Listener::bind(&url, SocketOptions::default())
        .await
        .expect("bound");
    let acceptor = Acceptor::new(side, Address::Checked, 100).expect("a certificate");
    listener.secure(Security::Tls(acceptor));
    let address = listener.address().parse().expect("an address");
    (listener, address)
}

/// Connects once, and says who came in if both ends agree to it and can talk.
async fn meet(listener: &Listener, url: &str, dialer: Arc<Side>) -> Result<Names, String> {
    let url = Url::parse(url).expect("a URL");
    let connector = Connector::new(dialer);
    let accept = async {
        let accepted = listener.accept().await.map_err(|why| why.to_string())?;
        let opened = accepted.open().await.map_err(|why| why.to_string())?;
        let (mut stream, remote) = opened.ok_or("not let in")?;
        assert!(remote.is_tls && remote.address.is_some());
        stream
            .write_all(b"in")
            .await
            .map_err(|why| why.to_string())?;
        stream.flush().await.map_err(|why| why.to_string())?;
        remote.certificate.ok_or_else(|| "nobody".to_owned())
    };
    let dial = async {
        let stream = tokio::net::TcpStream::connect(url.host_port()).await;
        let stream = connector.secure(&url, stream.expect("there")).await;
        let mut stream = stream.map_err(|why| why.to_string())?;
        let mut got = [0; 2];
        stream
            .read_exact(&mut got)
            .await
            .map_err(|why| why.to_string())
    };
    let (accepted, dialed) = tokio::join!(accept, dial);
    dialed.map_err(|why| format!("{why} / {accepted:?}"))?;
    accepted
}

#[tokio::test]
async fn members_meet_under_one_authority_and_know_each_other() {
    let authority = Authority::new("one");
    let bench = Bench::new(&authority, &["127.0.0.1"]);
    let (listener, address) = listen(bench.side()).await;
    let url = format!("https://{address}");
    let met = meet(&listener, &url, bench.side()).await.expect("let in");
    assert_eq!(met.common_name, "member");
    assert_eq!(met.addresses, [address.ip()]);

    let stranger = Bench::new(&Authority::new("other"), &["127.0.0.1"]);
    let refused = meet(&listener, &url, stranger.side()).await;
    assert!(refused.is_err(), "{refused:?}");
}

#[tokio::test]
async fn a_member_is_good_for_the_host_of_its_url_and_comes_from_its_address() {
    let authority = Authority::new("one");
    let elsewhere = Bench::new(&authority, &["192.0.2.1"]);
    let here = Bench::new(&authority, &["127.0.0.1", "localhost"]);
    let (listener, address) = listen(here.side()).await;
    let url = format!("https://localhost:{}", address.port());
    meet(&listener, &url, here.side()).await.expect("by name");
    let refused = meet(&listener, &url, elsewhere.side()).await;
    assert!(refused.is_err(), "comes from another address: {refused:?}");

    let (listener, address) = listen(elsewhere.side()).await;
    let refused = meet(&listener, &format!("https://{address}"), here.side()).await;
    let refused = refused.expect_err("is not the host of the URL");
    assert!(refused.contains("not valid for name"), "{refused}");
}

#[tokio::test]
async fn names_that_are_asked_for_are_asked_of_both_ends() {
    let authority = Authority::new("one");
    let mut bench = Bench::new(&authority, &["127.0.0.1", "a.example.com"]);
    for (common_names, hosts, is_allowed) in [
        (&["x", "member"][..], &[][..], true),
        (&["x"], &[], false),
        (&[], &["a.example.com"], true),
        (&[], &["b.example.com"], false),
    ] {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        bench.config.peer_tls.allowed_cns = own(common_names);
        bench.config.peer_tls.allowed_hostnames = own(hosts);
        let strict = bench.side();
        bench.config.peer_tls.allowed_cns.clear();
        bench.config.peer_tls.allowed_hostnames.clear();
        let any = bench.side();
        for (listens, dials) in [(&strict, &any), (&any, &strict)] {
            let (listener, address) = listen(listens.clone()).await;
            let met = meet(&listener, &format!("https://{address}"), dials.clone()).await;
            assert_eq!(
                met.is_ok(),
                is_allowed,
                "{common_names:?} {hosts:?} {met:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_on_both_ends() {
    let authority = Authority::new("one");
    let mut bench = Bench::new(&authority, &["127.0.0.1"]);
    let any = bench.side();
    bench.config.peer_tls.crl_file = Some(bench.path("crl"));
    for (serial, is_allowed) in [(8, true), (7, false)] {
        bench.put("crl", &authority.revoke(serial));
        let strict = bench.side();
        for (listens, dials) in [(&strict, &any), (&any, &strict)] {
            let (listener, address) = listen(listens.clone()).await;
            let met = meet(&listener, &format!("https://{address}"), dials.clone()).await;
            assert_eq!(met.is_ok(), is_allowed, "{serial} {met:?}");
        }
    }
}

#[tokio::test]
async fn a_certificate_that_is_trusted_itself_is_good() {
    let authority = Authority::new("one");
    let mut bench = Bench::new(&authority, &["127.0.0.1"]);
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let own = params.self_signed(&key).expect("a certificate").pem();
    bench.put("cert", &own);
    bench.put("key", &key.serialize_pem());
    bench.put("ca", &own);
    let (listener, address) = listen(bench.side()).await;
    let url = format!("https://{address}");
    meet(&listener, &url, bench.side()).await.expect("let in");

    params.not_after = (SystemTime::now() - DAY).into();
    let old = params.self_signed(&key).expect("a certificate").pem();
    bench.put("cert", &old);
    bench.put("ca", &old);
    bench.config.peer_tls.client_cert_auth = true;
    let (listener, address) = listen(bench.side()).await;
    let met = meet(&listener, &format!("https://{address}"), bench.side()).await;
    assert!(met.is_err(), "it has expired: {met:?}");
}

#[tokio::test]
async fn generated_certificates_meet_and_are_used_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = Config::default();
    config.data_dir = folder.path().to_owned();
    config.peer_tls.auto_tls = true;
    let mut notes = Vec::new();
    let side = Side::load(Role::Members, &config, &mut notes).expect("generated");
    assert_eq!(notes.len(), 4, "{notes:?}");
    let certificate = folder.path().join("fixtures/peer/cert.pem");
    let first = fs::read(&certificate).expect("written");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&folder.path().join("fixtures/peer/key.pem")), 0o600);
    assert_eq!(mode(&folder.path().join("fixtures/peer")), 0o700);

    let (listener, address) = listen(side).await;
    let again = Side::load(Role::Members, &config, &mut Vec::new()).expect("found");
    assert_eq!(fs::read(&certificate).expect("there"), first);
    let met = meet(&listener, &format!("https://{address}"), again).await;
    assert_eq!(met, Err("nobody".to_owned()), "no certificate is asked for");
}

#[tokio::test]
async fn who_speaks_in_clear_to_tls_is_sent_away_without_an_answer() {
    let bench = Bench::new(&Authority::new("one"), &["127.0.0.1"]);
    let (listener, address) = listen(bench.side()).await;
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(address)
            .await
            .expect("there");
        stream
            .write_all(b"GET / HTTP/1.1\r\n\r\n")
            .await
            .expect("sent");
        let mut got = Vec::new();
        let _ = stream.read_to_end(&mut got).await;
        got
    };
    let accept = async {
        let accepted = listener.accept().await.expect("came");
        accepted.open().await.expect("no fault").is_none()
    };
    assert_eq!(tokio::join!(ask, accept), (vec![], true));
}

#[tokio::test]
async fn an_address_with_too_many_handshakes_holds_up_nobody_else() {
    let bench = Bench::new(&Authority::new("one"), &["127.0.0.1"]);
    let (listener, address) = listen(bench.side()).await;
    let (mut flood, mut waiting) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        let stream = tokio::net::TcpStream::connect(address).await;
        flood.push(stream.expect("there"));
    }
    let other = tokio::net::TcpSocket::new_v4().expect("a socket");
    other
        .bind("127.0.0.2:0".parse().expect("an address"))
        .expect("another address of this machine");
    let _other = other.connect(address).await.expect("there");
    // Of the flood a share comes in, and the rest is closed on the way, without an error for whoever accepts.
    let from_other = async {
        loop {
            let accepted = listener.accept().await.expect("nothing is wrong");
            if accepted.from.expect("an address").ip().to_string() == "127.0.0.2" {
                break;
            }
            waiting.push(accepted);
        }
    };
    tokio::time::timeout(Duration::from_secs(10), from_other)
        .await
        .expect("the other one comes in");
    assert!(!waiting.is_empty() && waiting.len() < flood.len());
}

#[tokio::test]
async fn changed_files_count_for_the_next_connection_and_broken_ones_do_not() {
    let (one, other) = (Authority::new("one"), Authority::new("other"));
    let bench = Bench::new(&one, &["127.0.0.1"]);
    let side = bench.side();
    let (listener, address) = listen(side.clone()).await;
    let url = format!("https://{address}");
    let (old, new) = (
        Bench::new(&one, &["127.0.0.1"]),
        Bench::new(&other, &["127.0.0.1"]),
    );
    let meets = async |dialer: &Bench| meet(&listener, &url, dialer.side()).await.is_ok();
    assert!(meets(&old).await && !meets(&new).await);

    // Half of a change: a certificate whose key has not come yet.
    let (certificate, key) = other.issue("member", 9, &["127.0.0.1"]);
    bench.put("cert", &certificate);
    assert!(meets(&old).await && !meets(&new).await);
    assert_eq!(side.counts.is_stale.get(), 1);
    bench.put("key", &key);
    bench.put("ca", &format!("{}{}", one.0.pem(), other.0.pem()));
    assert!(
        meets(&new).await && !meets(&old).await,
        "the server is of the other's"
    );
    assert_eq!(side.counts.is_stale.get(), 0);

    fs::remove_file(bench.path("ca")).expect("removed");
    assert!(meets(&new).await);
    assert_eq!(side.counts.is_stale.get(), 1);
    bench.put("ca", "no certificate at all");
    assert!(meets(&new).await);
    bench.put("ca", &one.0.pem());
    assert!(!meets(&new).await, "its authority is trusted no more");
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_its_name() {
    let authority = Authority::new("one");
    let mut bench = Bench::new(&authority, &["a"]);
    bench.config.peer_tls.crl_file = Some(bench.path("crl"));
    let good: Vec<_> = ["cert", "key", "ca"]
        .iter()
        .map(|name| (*name, fs::read_to_string(bench.path(name)).expect("there")))
        .chain([("crl", authority.revoke(1))])
        .collect();
    let (_, other_key) = authority.issue("x", 1, &["a"]);
    let cut = |text: &str| text[..text.len() / 2].to_owned();
    for (name, text, told) in [
        (
            "cert",
            "".to_owned(),
            "tls: failed to find any PEM data in certificate input",
        ),
        (
            "key",
            "".to_owned(),
            "tls: failed to find any PEM data in key input",
        ),
        (
            "key",
            other_key,
            "tls: private key does not match public key",
        ),
        ("cert", cut(&good[0].1), "cert: "),
        ("key", cut(&good[1].1), "key: "),
        ("ca", cut(&good[2].1), "ca: "),
        ("ca", "remark".to_owned(), "nobody could be trusted"),
        ("crl", cut(&good[3].1), "crl: "),
        ("crl", "remark".to_owned(), "x509: malformed crl"),
    ] {
        for (name, text) in &good {
            bench.put(name, text);
        }
        bench.try_side().expect("all good");
        bench.put(name, &text);
        let why = bench.try_side().expect_err("bad");
        assert!(
            why.contains(told) && why.contains(&bench.folder.path().display().to_string()),
            "{why}"
        );
    }
    fs::remove_file(bench.path("key")).expect("removed");
    let why = bench.try_side().expect_err("missing");
    assert_eq!(
        why,
        format!(
            "open {}: no such file or directory",
            bench.path("key").display()
        )
    );
}

/// Bytes that were changed at random places must be read or refused, and nothing else.
#[test]
fn damaged_files_are_refused_and_never_a_panic() {
    let authority = Authority::new("one");
    let (certificate, key) = authority.issue("a", 1, &["a", "127.0.0.1"]);
    let list = authority.revoke(1);
    let terms = Terms {
        role: Role::Members,
        offer: Offer::new(&[], (None, None)).expect("all"),
        demands_certificate: true,
        common_names: vec!["a".into()],
        hosts: Vec::new(),
        is_self_signed: false,
    };
    let good = [certificate, key, authority.0.pem(), list];
    let kinds = [
        Kind::Certificate,
        Kind::Key,
        Kind::Authorities,
        Kind::Revoked,
    ];
    let load = |texts: &[Vec<u8>]| {
        let files: Vec<_> = kinds
            .iter()
            .copied()
            .zip(texts.iter().map(Vec::as_slice))
            .collect();
        Loaded::new(&terms, &Contents::of(&files))
    };
    let good: Vec<Vec<u8>> = good.iter().map(|text| text.clone().into_bytes()).collect();
    load(&good).expect("good");
    let mut dice = 1u64;
    let mut roll = |below: usize| {
        dice = dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) as usize % below
    };
    let (mut refused, rounds) = (0, 4000);
    for _ in 0..rounds {
        let mut texts = good.clone();
        let text = &mut texts[roll(4)];
        for _ in 0..=roll(3) {
            let at = roll(text.len().max(1));
            if text.is_empty() {
                break;
            }
            match roll(4) {
                0 => text[at] = roll(256) as u8,
                1 => text[at] = b"ABCDabcd0123+/=-\n"[roll(17)],
                2 => drop(text.remove(at)),
                _ => text.truncate(at.max(1)),
            }
        }
        refused += usize::from(load(&texts).is_err());
    }
    assert!(refused > rounds / 4, "{refused}");

    // Below the base64 there is DER, where lengths may lie.
    let der = |pem: &[u8]| {
        use rustls::pki_types::pem::PemObject as _;
        let list = CertificateRevocationListDer::from_pem_slice(pem);
        let certificate = CertificateDer::from_pem_slice(pem);
        list.map(|list| list.to_vec())
            .or_else(|_| certificate.map(|certificate| certificate.to_vec()))
            .expect("either")
    };
    let (certificate, list) = (der(&good[0]), der(&good[3]));
    let sound = Revoked::new(&[list.clone().into()]).expect("a list");
    assert!(sound.next_update.is_some());
    for _ in 0..rounds {
        let (mut certificate, mut list) = (certificate.clone(), list.clone());
        for der in [&mut certificate, &mut list] {
            let at = roll(der.len());
            der[at] = roll(256) as u8;
            if roll(4) == 0 {
                der.truncate(at);
            }
        }
        let _ = Names::of(&certificate);
        let _ = Revoked::new(&[list.into()]);
        let _ = sound.serial_of(&certificate.into());
    }
}

#[test]
fn a_number_counts_for_any_issuer_unless_there_are_several_lists() {
    let (one, other) = (Authority::new("one"), Authority::new("other"));
    let der = |pem: String| {
        use rustls::pki_types::pem::PemObject as _;
        CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).expect("a list")
    };
    let certificate = |authority: &Authority| {
        use rustls::pki_types::pem::PemObject as _;
        let (pem, _) = authority.issue("a", 0x80, &["a"]);
        CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
    };
    let single = Revoked::new(&[der(one.revoke(0x80))]).expect("a list");
    assert_eq!(single.serial_of(&certificate(&one)).as_deref(), Some("80"));
    assert_eq!(
        single.serial_of(&certificate(&other)).as_deref(),
        Some("80")
    );
    let several = Revoked::new(&[der(one.revoke(0x80)), der(other.revoke(2))]).expect("lists");
    assert!(several.serial_of(&certificate(&one)).is_some());
    assert!(several.serial_of(&certificate(&other)).is_none());
}
