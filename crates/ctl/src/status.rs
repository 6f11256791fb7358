//! `snapshot status`: hashes all buckets and counts the keys that live in the newest revision.
//!
//! Memory: the keys that live, as in etcd's tool. Source: upstream `etcdutl/snapshot/v3_snapshot.go`, `Status`.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

use prost::Message;
use proto::mvccpb::KeyValue;
use storage::bolt::Entry;

use crate::printer::{Column, Printer, Value, human};
use crate::snapshot_file::SnapshotFile;
use crate::{Failure, os_error};

pub(crate) fn run(path: &Path, write_out: &str) -> Result<(), Failure> {
    std::fs::metadata(path).map_err(|error| os_error("stat", path, &error))?;
    let printer = Printer::new(write_out)?;
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
    walked.map_err(|fault| {
        format!("snapshot file integrity check failed. 1 errors found.\n{fault}")
    })?;
    match wrong {
        Some(why) => Err(why.into()),
        None => printer.print(&status.columns()),
    }
}

#[derive(Default)]
struct Status {
    hash: u32,
    revision: i64,
    keys: BTreeSet<Vec<u8>>,
    bytes: u64,
    version: String,
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
        let main = key.first_chunk().filter(|_| matches!(key.len(), 17 | 18));
        let main = main.ok_or_else(|| {
            format!("error during bucket key iteration, name: \"key\" err: cannot parse revision key: \"{}\"", key.escape_ascii())
        })?;
        self.revision = i64::from_be_bytes(*main);
        let kv = KeyValue::decode(value).map_err(|error| {
            format!(
                "error during bucket key iteration, name: \"key\" err: cannot unmarshal value, key: \"{}\" err: {error}",
                key.escape_ascii()
            )
        })?;
        match key.len() {
            18 => self.keys.remove(&kv.key[..]),
            _ => self.keys.insert(kv.key.to_vec()),
        };
        Ok(())
    }

    fn columns(&self) -> [Column; 5] {
        let hash = Column::number("HASH", "Hash", "hash", i64::from(self.hash));
        let keys = i64::try_from(self.keys.len()).unwrap_or(i64::MAX);
        let bytes = i64::try_from(self.bytes).unwrap_or(i64::MAX);
        [
            Column {
                text: format!("{:x}", self.hash),
                ..hash
            },
            Column::number("REVISION", "Revision", "revision", self.revision),
            Column::number("TOTAL KEYS", "Keys", "totalKey", keys),
            Column {
                text: human(self.bytes),
                ..Column::number("TOTAL SIZE", "Size", "totalSize", bytes)
            },
            Column {
                title: "VERSION",
                field: "Version",
                json: "version",
                text: self.version.clone(),
                value: Value::Text(self.version.clone()),
            },
        ]
    }
}
