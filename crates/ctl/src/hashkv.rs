//! `hashkv`: the hash that a member with this history answers. Unlike etcd's tool it does not write to the file.

use std::path::Path;
use std::sync::Arc;

use state::{Importer, Params, ReadError};
use storage::disk::MemDisk;
use storage::segments::SegmentsOptions;

use crate::printer::{Column, Printer, Value};
use crate::snapshot_file::{SnapshotFile, feed};
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
    feed(&reader, |bucket, key, value| match bucket {
        // The rest has no part in the hash, and may be what this version does not serve (users and roles).
        "key" | "meta" => importer.row(bucket, key, value).map_err(Failure::from),
        _ => Ok(()),
    })?;
    let (state, _) = importer.finish()?;
    let answer = match state.view().hash_kv(revision) {
        Ok(answer) => answer,
        Err(ReadError::Rejected(rejected)) => {
            let text = rejected.0.text.trim_start_matches("etcdserver: ");
            return Err(text.to_owned().into());
        }
        Err(ReadError::Fault(fault)) => return Err(fault.into()),
    };
    let number = |title, field, json, number: i64| Column {
        title,
        field,
        json,
        text: number.to_string(),
        value: Value::Number(number),
    };
    printer.print(&[
        number("HASH", "Hash", "hash", i64::from(answer.hash)),
        number(
            "HASH REVISION",
            "Hash revision",
            "hashRevision",
            answer.hash_revision,
        ),
        number(
            "COMPACT REVISION",
            "Compact revision",
            "compactRevision",
            answer.compact_revision,
        ),
    ])
}
