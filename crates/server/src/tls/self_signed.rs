//! Certificates that a member makes itself, for `--auto-tls` and `--peer-auto-tls`.
//!
//! As etcd's: under `fixtures/client` and `fixtures/peer` of the data directory, ECDSA on P-521, good for the hosts that are
//! listened on, and used again by the next start for as long as both files are there. Nobody vouches for them, so they keep
//! out who listens, not who pretends.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P521_SHA512, SanType,
};

use crate::config::Url;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// X.509 cannot say more than the year 9999.
const YEARS_MAX: u64 = 1000;

/// Where a certificate and its key are.
#[derive(Debug)]
pub struct Made {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Whether they were made just now.
    pub is_new: bool,
}

/// Finds the certificate in `folder` or makes one for the hosts of `urls`.
///
/// # Errors
/// What could not be written where.
pub fn find_or_make(folder: &Path, urls: &[Url], years: u64) -> Result<Made, String> {
    let mut made = Made {
        certificate: folder.join("cert.pem"),
        key: folder.join("key.pem"),
        is_new: false,
    };
    if made.certificate.exists() && made.key.exists() {
        return Ok(made);
    }
    let (certificate, key) =
        make(urls, years).map_err(|why| format!("cannot generate cert: {why}"))?;
    let write = || {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        // The key first: a certificate that is there has one.
        put(&made.key, key.as_bytes(), 0o600)?;
        put(&made.certificate, certificate.as_bytes(), 0o644)
    };
    write().map_err(|why| format!("cannot generate cert in {}: {why}", folder.display()))?;
    made.is_new = true;
    Ok(made)
}

fn make(urls: &[Url], years: u64) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::default();
    for url in urls {
        let host = url.hostname();
        let name = match host.parse() {
            Ok(address) => SanType::IpAddress(address),
            // A Unix socket has no host, and an empty name is no name.
            Err(_) if host.is_empty() => continue,
            Err(_) => SanType::DnsName(host.try_into()?),
        };
        if !params.subject_alt_names.contains(&name) {
            params.subject_alt_names.push(name);
        }
    }
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "etcd");
    let now = SystemTime::now();
    let years = u32::try_from(years.min(YEARS_MAX)).expect("bounded just now");
    params.not_before = now.into();
    params.not_after = (now + YEAR * years).into();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::CrlSign,
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512)?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Writes a file whole or not at all.
fn put(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let unfinished = path.with_extension("tmp");
    match fs::remove_file(&unfinished) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
