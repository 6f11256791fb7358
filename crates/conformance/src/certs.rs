//! Certificates for tests: authorities, what they sign, and what they take back. Nothing outlives the test's folder.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber,
};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Who signs.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    key: String,
    /// The certificates between this one and the root, which whoever it signs must show as well.
    between: String,
}

/// What is asked for. The default is good for 127.0.0.1, for both ends, from yesterday on for thirty days.
#[derive(Clone)]
pub struct Ask<'a> {
    pub common_name: &'a str,
    /// Names and addresses.
    pub hosts: &'a [&'a str],
    pub serial: u64,
    /// Days from now.
    pub from: i64,
    pub until: i64,
    pub for_servers: bool,
    pub for_clients: bool,
}

impl Default for Ask<'_> {
    fn default() -> Self {
        Ask {
            common_name: "quorate",
            hosts: &["127.0.0.1", "localhost"],
            serial: 100,
            from: -1,
            until: 30,
            for_servers: true,
            for_clients: true,
        }
    }
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    /// A root.
    pub fn new(name: &str) -> Authority {
        let (params, key) = authority(name);
        let text = key.serialize_pem();
        Authority {
            issuer: CertifiedIssuer::self_signed(params, key).expect("a certificate"),
            key: text,
            between: String::new(),
        }
    }

    /// An authority that this one vouches for.
    pub fn intermediate(&self, name: &str) -> Authority {
        let (params, key) = authority(name);
        let text = key.serialize_pem();
        let issuer = CertifiedIssuer::signed_by(params, key, &self.issuer).expect("a certificate");
        Authority {
            between: issuer.pem() + &self.between,
            issuer,
            key: text,
        }
    }

    /// Its own certificate.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Its certificate with its key, as who uses it to connect would have it.
    pub fn itself(&self) -> Issued {
        Issued {
            certificate: self.pem(),
            key: self.key.clone(),
        }
    }

    /// Signs.
    pub fn issue(&self, ask: &Ask) -> Issued {
        let hosts: Vec<_> = ask.hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("names");
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, ask.common_name);
        params.serial_number = Some(SerialNumber::from(ask.serial));
        params.not_before = in_days(ask.from).into();
        params.not_after = in_days(ask.until).into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if ask.for_servers {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if ask.for_clients {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued {
            certificate: certificate.pem() + &self.between,
            key: key.serialize_pem(),
        }
    }

    /// A list of what is no longer good, as DER.
    pub fn revoke(&self, serials: &[u64]) -> Vec<u8> {
        self.list(serials).der().to_vec()
    }

    /// The same as PEM.
    pub fn revoke_pem(&self, serials: &[u64]) -> String {
        self.list(serials).pem().expect("text")
    }

    fn list(&self, serials: &[u64]) -> rcgen::CertificateRevocationList {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: in_days(-1).into(),
            reason_code: None,
            invalidity_date: None,
        };
        CertificateRevocationListParams {
            this_update: in_days(-1).into(),
            next_update: in_days(1).into(),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)
        .expect("a list")
    }
}

/// A folder of files as flags name them.
pub struct Folder(tempfile::TempDir);

impl Default for Folder {
    fn default() -> Self {
        Folder(tempfile::tempdir().expect("a folder"))
    }
}

impl Folder {
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The path as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes a file, whole at once, as tools that renew certificates do.
    pub fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let unfinished = self.path("unfinished");
        std::fs::write(&unfinished, bytes).expect("written");
        std::fs::rename(unfinished, self.path(name)).expect("renamed");
        self.text(name)
    }

    /// Writes `NAME.pem` and `NAME-key.pem`.
    pub fn put_pair(&self, name: &str, issued: &Issued) -> (String, String) {
        (
            self.put(&format!("{name}.pem"), &issued.certificate),
            self.put(&format!("{name}-key.pem"), &issued.key),
        )
    }
}

fn authority(name: &str) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    (params, KeyPair::generate().expect("a key"))
}

fn in_days(days: i64) -> SystemTime {
    let span = DAY * u32::try_from(days.unsigned_abs()).expect("some days");
    match days {
        ..0 => SystemTime::now() - span,
        _ => SystemTime::now() + span,
    }
}
