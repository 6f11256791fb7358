//! A snapshot file, whoever wrote it: what `snapshot save` wrote, ours or etcd's, or a backend file copied from a member.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use storage::bolt::{Entry, Reader};
use storage::disk::{Disk, File, Open, OsDisk, read_exact_at};
use storage::fault::{Fault, FaultKind};

use crate::os_error;

/// Bytes of the hash behind a snapshot.
const HASH_BYTES: u64 = 32;

/// An open file, and where its pages end.
pub(crate) struct SnapshotFile {
    file: Arc<dyn File>,
    path: PathBuf,
    len: u64,
    has_hash: bool,
}

impl SnapshotFile {
    /// Opens a file that is read as a backend file, whether or not a hash stands behind it.
    pub(crate) fn open(path: &Path) -> Result<SnapshotFile, String> {
        let wrong = |error: &std::io::Error| os_error("open", path, error);
        // The disk of a member follows no symbolic link; an operator's may well be one ("latest.db").
        let real = path.canonicalize().map_err(|error| wrong(&error))?;
        // Opening a pipe would wait for a writer.
        let kind = std::fs::metadata(&real).map_err(|error| wrong(&error))?;
        if kind.is_dir() {
            return Err(format!("open {}: is a directory", path.display()));
        }
        if !kind.is_file() {
            return Err(format!("open {}: not a regular file", path.display()));
        }
        let file = OsDisk
            .open(&real, Open::Read)
            .map_err(|error| wrong(&error))?;
        let len = file.len().map_err(|error| wrong(&error))?;
        // Pages are multiples of 512 bytes, so this remainder can only be the hash.
        let has_hash = len % 512 == HASH_BYTES;
        Ok(SnapshotFile {
            file,
            path: path.to_owned(),
            len: if has_hash { len - HASH_BYTES } else { len },
            has_hash,
        })
    }

    /// Compares the file with the hash it carries. One without is refused.
    pub(crate) fn check_hash(&self) -> Result<(), String> {
        if !self.has_hash {
            return Err("snapshot missing hash but --skip-hash-check=false".into());
        }
        let read = |at: u64, buffer: &mut [u8]| {
            read_exact_at(&*self.file, at, buffer)
                .map_err(|error| os_error("read", &self.path, &error))
        };
        let mut expected = [0; HASH_BYTES as usize];
        read(self.len, &mut expected)?;
        let mut sha = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < self.len {
            let piece = &mut buffer[..(self.len - at).min(1 << 20) as usize];
            read(at, piece)?;
            sha.update(&*piece);
            at += piece.len() as u64;
        }
        let got: [u8; HASH_BYTES as usize] = sha.finalize().into();
        if got == expected {
            return Ok(());
        }
        let list = |bytes: [u8; HASH_BYTES as usize]| {
            let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
            format!("[{}]", numbers.join(" "))
        };
        Err(format!(
            "expected sha256 {}, got {}",
            list(expected),
            list(got)
        ))
    }

    /// The file as buckets and rows.
    pub(crate) fn reader(&self) -> Result<Reader, String> {
        let name = self.path.display().to_string();
        Reader::open(self.file.clone(), name, self.len).map_err(|fault| match fault.kind() {
            FaultKind::Corrupted => format!("invalid database: {fault}"),
            _ => fault.to_string(),
        })
    }
}

/// Hands out all rows, as owned values, until one is refused.
pub(crate) fn feed<E: From<String>>(
    reader: &Reader,
    mut row: impl FnMut(&str, &[u8], Bytes) -> Result<(), E>,
) -> Result<(), E> {
    let mut refused = None;
    let walked = reader.for_each(|entry| {
        let Entry::Row { bucket, key, value } = entry else {
            return ControlFlow::Continue(());
        };
        // No bucket of etcd has another name; unknown ones are passed over anyway.
        let Ok(bucket) = std::str::from_utf8(bucket) else {
            return ControlFlow::Continue(());
        };
        match row(bucket, key, Bytes::copy_from_slice(value)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(why) => {
                refused = Some(why);
                ControlFlow::Break(())
            }
        }
    });
    walked.map_err(|fault| fault.to_string())?;
    refused.map_or(Ok(()), Err)
}

/// A fault on its way out of a walk, which has errors of its own: damage of the file.
pub(crate) struct Stop(pub(crate) Fault);

impl From<String> for Stop {
    fn from(why: String) -> Stop {
        Stop(Fault::new(FaultKind::Corrupted, why))
    }
}
