//! A snapshot file becomes a data directory with the same rows and new members; a wrong one becomes nothing.

use std::ops::{ControlFlow, RangeInclusive};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use ctl::{Persona, run};
use prost::Message;
use proto::mvccpb::KeyValue;
use sha2::{Digest, Sha256};
use state::{BUCKETS, Params, State};
use storage::bolt::{Planner, Row, Writer};
use storage::catalog::Catalog;
use storage::disk::OsDisk;
use storage::segments::SegmentsOptions;
use storage::wal::{Options, Wal};

const KEY: usize = 5;
const META: usize = 9;

#[test]
fn a_restored_directory_has_the_rows_of_the_file_and_the_members_of_the_flags() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let file = scratch.path().join("a.db");
    write_snapshot(&file, &rows());
    assert!(succeeded(etcdutl(&["snapshot", "status", text(&file)])));
    let data = scratch.path().join("data");
    assert!(succeeded(restore(&file, &data)));
    assert!(succeeded(run(Persona::Verify, &[text(&data).to_owned()])));

    let view = open(&data).view();
    let mut keys = Vec::new();
    view.rows(|bucket, key, value| {
        if bucket == "key" {
            keys.push((key.to_vec(), value.to_vec()));
        }
        ControlFlow::Continue(())
    })
    .expect("sound data");
    let expected: Vec<_> = rows()
        .into_iter()
        .filter(|row| row.bucket == KEY)
        .map(|row| (row.key.to_vec(), row.value.to_vec()))
        .collect();
    assert_eq!(keys, expected);
    assert_eq!((view.revision(), view.applied()), (1501, (1, 1)));
    let members = view.members().list();
    assert_eq!(members.len(), 1);
    assert_eq!(
        (members[0].name.as_str(), members[0].id),
        ("m1", view.members().conf_state().voters[0])
    );
    let (_, log) = Wal::open(
        Arc::new(OsDisk),
        &data.join("member/wal"),
        Options::default(),
    )
    .expect("a log");
    assert_eq!((log.identity.member_id, log.last_index), (members[0].id, 1));

    assert!(!succeeded(restore(&file, &data)), "a directory in use");
}

/// Everything above 32 MiB is written in several pieces; the second one once found a store without a catalog.
#[test]
fn a_file_larger_than_what_is_held_in_memory_is_restored() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let [file, data] = ["a.db", "data"].map(|name| scratch.path().join(name));
    write_snapshot(&file, &rows_with(2..=81, |_| 1 << 20));
    assert!(succeeded(restore(&file, &data)));
    assert!(succeeded(run(Persona::Verify, &[text(&data).to_owned()])));
    let view = open(&data).view();
    assert_eq!((view.revision(), view.key_count()), (81, 80));
}

#[test]
fn a_changed_file_and_one_without_hash_are_refused_and_leave_nothing() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let file = scratch.path().join("a.db");
    write_snapshot(&file, &rows());
    let data = scratch.path().join("data");
    let mut bytes = std::fs::read(&file).expect("the file");
    bytes.truncate(bytes.len() - 32);
    std::fs::write(&file, &bytes).expect("written");
    assert!(!succeeded(restore(&file, &data)), "no hash");
    bytes[20_000] ^= 1;
    let sum = Sha256::digest([0]);
    bytes.extend_from_slice(&sum);
    std::fs::write(&file, &bytes).expect("written");
    assert!(!succeeded(restore(&file, &data)), "another hash");
    assert!(!data.exists());
}

#[test]
fn verify_names_damage() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let file = scratch.path().join("a.db");
    write_snapshot(&file, &rows());
    let data = scratch.path().join("data");
    assert!(succeeded(restore(&file, &data)));
    let segment = std::fs::read_dir(data.join("member/store"))
        .expect("the store")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| !text(path).ends_with(".log"))
        .expect("a segment");
    let mut bytes = std::fs::read(&segment).expect("the segment");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&segment, bytes).expect("written");
    assert!(!succeeded(run(Persona::Verify, &[text(&data).to_owned()])));
}

fn open(data: &Path) -> State {
    let store = data.join("member/store");
    let disk = Arc::new(OsDisk);
    let (_, recovered) = Catalog::open(disk.clone(), &store).expect("a catalog");
    let recovered = recovered.expect("a checkpoint");
    let options = SegmentsOptions::default();
    State::open(Params::default(), recovered, disk, &store, options).expect("sound data")
}

fn rows() -> Vec<Row> {
    rows_with(2..=1501, |main| if main == 700 { 300_000 } else { 40 })
}

/// One put per revision, with a value of so many bytes.
fn rows_with(revisions: RangeInclusive<u64>, value_bytes: impl Fn(u64) -> usize) -> Vec<Row> {
    let mut rows: Vec<Row> = revisions
        .map(|main| {
            let kv = KeyValue {
                key: format!("key-{main}").into(),
                create_revision: main as i64,
                mod_revision: main as i64,
                version: 1,
                value: vec![main as u8; value_bytes(main)].into(),
                lease: 0,
            };
            let mut key = main.to_be_bytes().to_vec();
            key.push(b'_');
            key.extend_from_slice(&[0; 8]);
            Row {
                bucket: KEY,
                key: key.into(),
                value: kv.encode_to_vec().into(),
            }
        })
        .collect();
    for (key, number) in [("consistent_index", 1510u64), ("term", 7)] {
        rows.push(Row {
            bucket: META,
            key: key.into(),
            value: Bytes::copy_from_slice(&number.to_be_bytes()),
        });
    }
    rows
}

fn write_snapshot(path: &Path, rows: &[Row]) {
    let mut planner = Planner::new(&BUCKETS);
    for row in rows {
        planner.row(row.bucket, row.key.len(), row.value.len());
    }
    let mut writer = Writer::new(planner.finish(), rows.iter().cloned().map(Ok));
    let mut bytes = Vec::new();
    while let Some(chunk) = writer.next_chunk(32 << 10).expect("no fault") {
        bytes.extend_from_slice(&chunk);
    }
    let hash = Sha256::digest(&bytes);
    bytes.extend_from_slice(&hash);
    std::fs::write(path, bytes).expect("written");
}

fn restore(file: &Path, data: &Path) -> ExitCode {
    etcdutl(&[
        "snapshot",
        "restore",
        text(file),
        "--data-dir",
        text(data),
        "--name",
        "m1",
        "--initial-cluster",
        "m1=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls",
        "http://127.0.0.1:2380",
    ])
}

fn etcdutl(args: &[&str]) -> ExitCode {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    run(Persona::Etcdutl, &args)
}

fn succeeded(code: ExitCode) -> bool {
    code == ExitCode::SUCCESS
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
