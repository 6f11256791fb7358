//! Looking into a snapshot file: what `snapshot save` wrote, ours or etcd's, or a backend file copied from a member.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::mvccpb::KeyValue;
use sha2::{Digest, Sha256};
use state::{Importer, Params};
use storage::bolt::{Entry, Reader};
use storage::disk::{Disk, File, MemDisk, Open, OsDisk, read_exact_at};
use storage::segments::SegmentsOptions;

use crate::Format;

/// Bytes of the hash behind a snapshot.
const HASH_BYTES: u64 = 32;

/// A snapshot file and where its pages end.
pub(crate) struct SnapshotFile {
    file: Arc<dyn File>,
    name: String,
    len: u64,
    has_hash: bool,
}

impl SnapshotFile {
    pub(crate) fn open(path: &Path) -> Result<SnapshotFile, String> {
        let name = path.display().to_string();
        let file = OsDisk
            .open(path, Open::Read)
            .map_err(|error| format!("open {name}: {error}"))?;
        let len = file
            .len()
            .map_err(|error| format!("stat {name}: {error}"))?;
        // Pages are multiples of 512 bytes, so this remainder can only be the hash.
        let has_hash = len % 512 == HASH_BYTES;
        let len = if has_hash { len - HASH_BYTES } else { len };
        Ok(SnapshotFile {
            file,
            name,
            len,
            has_hash,
        })
    }

    /// Compares the file with the hash it carries.
    pub(crate) fn check_hash(&self) -> Result<(), String> {
        if !self.has_hash {
            return Err("snapshot missing hash but --skip-hash-check=false".into());
        }
        let read = |at: u64, buffer: &mut [u8]| {
            read_exact_at(&*self.file, at, buffer)
                .map_err(|error| format!("read {}: {error}", self.name))
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

    pub(crate) fn reader(&self) -> Result<Reader, String> {
        Reader::open(self.file.clone(), self.name.clone(), self.len)
            .map_err(|fault| fault.to_string())
    }
}

/// What `snapshot status` says.
#[derive(Default)]
struct Status {
    hash: u32,
    revision: i64,
    keys: BTreeSet<Vec<u8>>,
    bytes: u64,
    version: String,
}

/// Hashes all buckets and counts the keys that live in the newest revision.
pub(crate) fn status(path: &Path, format: Format) -> Result<(), String> {
    let reader = SnapshotFile::open(path)?.reader()?;
    let mut status = Status {
        bytes: reader.bytes(),
        ..Status::default()
    };
    let mut wrong = None;
    let walked = reader.for_each(|entry| match status.entry(entry) {
        Ok(()) => ControlFlow::Continue(()),
        Err(why) => {
            wrong = Some(why);
            ControlFlow::Break(())
        }
    });
    walked.map_err(|fault| fault.to_string())?;
    if let Some(why) = wrong {
        return Err(why);
    }
    println!("{}", status.printed(format));
    Ok(())
}

impl Status {
    fn entry(&mut self, entry: Entry<'_>) -> Result<(), String> {
        match entry {
            Entry::Bucket(name) => self.hash = crc32c::crc32c_append(self.hash, name),
            Entry::Row { bucket, key, value } => {
                self.hash = crc32c::crc32c_append(self.hash, key);
                self.hash = crc32c::crc32c_append(self.hash, value);
                if bucket == b"key" {
                    self.record(key, value)?;
                }
                if (bucket, key) == (b"meta", b"storageVersion") {
                    self.version = String::from_utf8_lossy(value).into_owned();
                }
            }
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let main = key
            .first_chunk()
            .ok_or_else(|| format!("cannot parse revision key: {}", key.escape_ascii()))?;
        self.revision = i64::from_be_bytes(*main);
        let kv = KeyValue::decode(value).map_err(|error| {
            format!(
                "cannot unmarshal value, key: {} err: {error}",
                key.escape_ascii()
            )
        })?;
        match key.len() {
            18 => self.keys.remove(&kv.key[..]),
            _ => self.keys.insert(kv.key.to_vec()),
        };
        Ok(())
    }

    fn printed(&self, format: Format) -> String {
        let (hash, revision, keys, bytes, version) = (
            self.hash,
            self.revision,
            self.keys.len(),
            self.bytes,
            &self.version,
        );
        let columns = [
            ("HASH", format!("{hash:x}")),
            ("REVISION", revision.to_string()),
            ("TOTAL KEYS", keys.to_string()),
            ("TOTAL SIZE", human(bytes)),
            ("VERSION", version.clone()),
        ];
        match format {
            Format::Simple => columns.map(|(_, value)| value).join(", "),
            Format::Json => format!(
                "{{\"hash\":{hash},\"revision\":{revision},\"totalKey\":{keys},\"totalSize\":{bytes},\"version\":{}}}",
                serde_json::Value::from(version.as_str())
            ),
            Format::Fields => format!(
                "\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {keys}\n\"Size\" : {bytes}\n\"Version\" : {version:?}"
            ),
            Format::Table => table(&columns),
        }
    }
}

/// One row under its headers.
fn table(columns: &[(&str, String)]) -> String {
    let widths: Vec<usize> = columns
        .iter()
        .map(|(name, value)| name.len().max(value.len()))
        .collect();
    let line = |cells: Vec<String>, edge: &str| format!("{edge}{}{edge}", cells.join(edge));
    let rule = line(
        widths.iter().map(|width| "-".repeat(width + 2)).collect(),
        "+",
    );
    let row = |cells: Vec<&str>| {
        let cells = cells.iter().zip(&widths);
        line(
            cells
                .map(|(cell, width)| format!(" {cell:>width$} "))
                .collect(),
            "|",
        )
    };
    let head = row(columns.iter().map(|(name, _)| *name).collect());
    let body = row(columns.iter().map(|(_, value)| value.as_str()).collect());
    format!("{rule}\n{head}\n{rule}\n{body}\n{rule}")
}

/// Sizes as etcd's tools print them: powers of 1000, one decimal below ten.
fn human(bytes: u64) -> String {
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let value = (value * 10.0 + 0.5).floor() / 10.0;
    match value < 10.0 {
        true => format!("{value:.1} {}", units[unit]),
        false => format!("{value:.0} {}", units[unit]),
    }
}

/// `hashkv`: the hash a member with this history answers. Loads the file into memory.
pub(crate) fn hash_kv(path: &Path, revision: i64, format: Format) -> Result<(), String> {
    let reader = SnapshotFile::open(path)?.reader()?;
    let mut importer = Importer::new(
        Params::default(),
        Arc::new(MemDisk::new()),
        "store",
        SegmentsOptions::default(),
    )
    .map_err(|fault| fault.to_string())?;
    feed(&reader, |bucket, key, value| {
        importer
            .row(bucket, key, value)
            .map_err(|fault| fault.to_string())
    })?;
    let (state, _) = importer.finish().map_err(|fault| fault.to_string())?;
    let answer = state
        .view()
        .hash_kv(revision)
        .map_err(|error| format!("{error:?}"))?;
    let (hash, upto, compacted) = (answer.hash, answer.hash_revision, answer.compact_revision);
    match format {
        Format::Json => {
            println!("{{\"hash\":{hash},\"hashRevision\":{upto},\"compactRevision\":{compacted}}}")
        }
        Format::Fields => println!(
            "\"Hash\" : {hash}\n\"HashRevision\" : {upto}\n\"CompactRevision\" : {compacted}"
        ),
        Format::Simple => println!("{hash}, {upto}, {compacted}"),
        Format::Table => println!(
            "{}",
            table(&[
                ("HASH", hash.to_string()),
                ("HASH REVISION", upto.to_string()),
                ("COMPACT REVISION", compacted.to_string()),
            ])
        ),
    }
    Ok(())
}

/// Hands out all rows, as owned values, until one is refused.
pub(crate) fn feed(
    reader: &Reader,
    mut row: impl FnMut(&str, &[u8], Bytes) -> Result<(), String>,
) -> Result<(), String> {
    let mut refused = None;
    let walked = reader.for_each(|entry| {
        let Entry::Row { bucket, key, value } = entry else {
            return ControlFlow::Continue(());
        };
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
