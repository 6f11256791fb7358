//! The files of a side: reading them with bounds, noticing that they changed, and taking them apart.
//!
//! PEM may hold other sections between those that are wanted; they are passed over, as in Go. A revocation list may be PEM or
//! DER: etcd 3.5 reads both, 3.7 DER alone.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};

/// Nobody's certificates and keys are larger than this.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Revocation lists of large authorities are: some 40 bytes for each certificate.
const LIST_BYTES_MAX: u64 = 64 << 20;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The certificate to serve with.
    Certificate,
    /// Its key.
    Key,
    /// The certificate to connect with, if it is another.
    ClientCertificate,
    /// Its key.
    ClientKey,
    /// Who may sign certificates of the other side.
    Authorities,
    /// Certificates that are no longer good.
    Revoked,
}

impl Kind {
    /// As messages and metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Certificate => "certificate",
            Kind::Key => "key",
            Kind::ClientCertificate => "client-certificate",
            Kind::ClientKey => "client-key",
            Kind::Authorities => "ca",
            Kind::Revoked => "crl",
        }
    }

    fn bytes_max(self) -> u64 {
        match self {
            Kind::Revoked => LIST_BYTES_MAX,
            _ => FILE_BYTES_MAX,
        }
    }
}

/// The files of a side, each at most once.
#[derive(Clone, Debug, Default)]
pub struct Files(pub Vec<(Kind, PathBuf)>);

/// What tells that a file was replaced or written, without reading it: device, number, length, and both times.
pub type Stamp = Option<(u64, u64, u64, i128, i128)>;

/// All files as they were at one time.
#[derive(Clone, Debug)]
pub struct Contents {
    files: Vec<(Kind, PathBuf, Vec<u8>)>,
}

impl Files {
    /// How the files look from outside. Cheap: one system call each.
    pub fn stamps(&self) -> Vec<Stamp> {
        self.0.iter().map(|(_, path)| stamp(path)).collect()
    }

    /// Reads all.
    ///
    /// # Errors
    /// In Go's words: `open FILE: no such file or directory`.
    pub fn read(&self) -> Result<Contents, String> {
        let mut files = Vec::with_capacity(self.0.len());
        for (kind, path) in &self.0 {
            let bytes = read_bounded(path, kind.bytes_max())
                .map_err(|why| format!("open {}: {}", path.display(), in_gos_words(&why)))?;
            files.push((*kind, path.clone(), bytes));
        }
        Ok(Contents { files })
    }

    /// Where the file of a kind is.
    pub fn path(&self, kind: Kind) -> Option<&Path> {
        let found = self.0.iter().find(|(known, _)| *known == kind);
        found.map(|(_, path)| path.as_path())
    }
}

impl Contents {
    /// Tells contents apart.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for (kind, _, bytes) in &self.files {
            hash.update([*kind as u8]);
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
        hash.finalize().into()
    }

    /// A certificate with those between it and its authority, and its key; `None` if there is no such file.
    pub fn pair(&self, certificate: Kind, key: Kind) -> Result<Option<Pair>, String> {
        let (Some((path, chain)), Some((key_path, key))) = (self.get(certificate), self.get(key))
        else {
            return Ok(None);
        };
        let chain = certificates(path, chain)?;
        if chain.is_empty() {
            return Err(format!(
                "{}: tls: failed to find any PEM data in certificate input",
                path.display()
            ));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|why| match why {
            pem::Error::NoItemsFound => format!(
                "{}: tls: failed to find any PEM data in key input",
                key_path.display()
            ),
            why => format!("{}: {why}", key_path.display()),
        })?;
        Ok(Some((chain, key)))
    }

    /// The authorities of the file, of which there must be one; `None` if there is no such file.
    pub fn authorities(&self) -> Result<Option<Vec<CertificateDer<'static>>>, String> {
        let Some((path, bytes)) = self.get(Kind::Authorities) else {
            return Ok(None);
        };
        let found = certificates(path, bytes)?;
        if found.is_empty() {
            return Err(format!(
                "{}: there is no certificate in it, so nobody could be trusted; give the certificates of the authorities as PEM",
                path.display()
            ));
        }
        Ok(Some(found))
    }

    /// The revocation lists of the file; `None` if there is no such file.
    pub fn lists(&self) -> Result<Option<Vec<CertificateRevocationListDer<'static>>>, String> {
        let Some((path, bytes)) = self.get(Kind::Revoked) else {
            return Ok(None);
        };
        let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(bytes)
            .collect::<Result<_, _>>()
            .map_err(|why| format!("{}: {why}", path.display()))?;
        if lists.is_empty() {
            return Ok(Some(vec![bytes.to_vec().into()]));
        }
        Ok(Some(lists))
    }

    /// The file of a kind, for messages about it.
    pub fn path(&self, kind: Kind) -> String {
        self.get(kind)
            .map_or(String::new(), |(path, _)| path.display().to_string())
    }

    fn get(&self, kind: Kind) -> Option<(&Path, &[u8])> {
        let found = self.files.iter().find(|(known, ..)| *known == kind);
        found.map(|(_, path, bytes)| (path.as_path(), bytes.as_slice()))
    }

    #[cfg(test)]
    pub fn of(files: &[(Kind, &[u8])]) -> Self {
        let file = |(kind, bytes): &(Kind, &[u8])| (*kind, PathBuf::from("/f"), bytes.to_vec());
        Contents {
            files: files.iter().map(file).collect(),
        }
    }
}

/// A chain and the key of its first certificate.
pub type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|why| format!("{}: {why}", path.display()))
}

fn stamp(path: &Path) -> Stamp {
    let found = fs::metadata(path).ok()?;
    let time = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
    Some((
        found.dev(),
        found.ino(),
        found.size(),
        time(found.mtime(), found.mtime_nsec()),
        time(found.ctime(), found.ctime_nsec()),
    ))
}

fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(bytes_max + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!(
            "larger than {} MiB",
            bytes_max >> 20
        )));
    }
    Ok(bytes)
}

fn in_gos_words(why: &io::Error) -> String {
    match why.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ => why.to_string(),
    }
}
