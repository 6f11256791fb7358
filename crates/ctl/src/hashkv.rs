//! `hashkv`: the hash that a member with this history answers. Unlike etcd's tool it does not write to the file.
//!
//! Memory: the index of the keys and their revisions, as in a member; no values.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::mvccpb::KeyValue;
use state::{Importer, Params, ReadError};
use storage::disk::MemDisk;
use storage::segments::SegmentsOptions;

use crate::printer::{Column, Printer};
use crate::snapshot_file::{SnapshotFile, Stop, feed};
use crate::{Failure, os_error};

pub(crate) fn run(path: &Path, revision: i64, printer: Printer) -> Result<(), Failure> {
    std::fs::metadata(path).map_err(|error| os_error("stat", path, &error))?;
    let reader = SnapshotFile::open(path)?.reader()?;
    let options = SegmentsOptions::default();
    let mut importer = Importer::new(
        Params::default(),
        Arc::new(MemDisk::new()),
        "store",
        options,
    )?;
    // The first pass builds the index, which says what a compaction has left; the second one hashes.
    feed(&reader, |bucket, key, value| match bucket {
        "key" => importer
            .row(bucket, key, without_value(value))
            .map_err(Failure::from),
        "meta" => importer.row(bucket, key, value).map_err(Failure::from),
        // The rest has no part in the hash, and may be what this version does not serve (users and roles).
        _ => Ok(()),
    })?;
    let (state, _) = importer.finish()?;
    let hashed = state.view().hash_kv_of(revision, |hash| {
        feed(&reader, |bucket, key, value| match bucket {
            "key" => hash(key, value).map_err(Stop),
            _ => Ok(()),
        })
        .map_err(|Stop(fault)| fault)
    });
    let answer = match hashed {
        Ok(answer) => answer,
        Err(ReadError::Rejected(rejected)) => {
            let text = rejected.0.text.trim_start_matches("etcdserver: ");
            return Err(text.to_owned().into());
        }
        Err(ReadError::Fault(fault)) => return Err(fault.into()),
    };
    printer.print(&[
        Column::number("HASH", "Hash", "hash", i64::from(answer.hash)),
        Column::number(
            "HASH REVISION",
            "Hash revision",
            "hashRevision",
            answer.hash_revision,
        ),
        Column::number(
            "COMPACT REVISION",
            "Compact revision",
            "compactRevision",
            answer.compact_revision,
        ),
    ])
}

/// The record with all that the index asks for. One that cannot be read stays as it is, for the importer to refuse.
fn without_value(record: Bytes) -> Bytes {
    match KeyValue::decode(&record[..]) {
        Ok(kv) => {
            let value = Bytes::new();
            KeyValue { value, ..kv }.encode_to_vec().into()
        }
        Err(_) => record,
    }
}
