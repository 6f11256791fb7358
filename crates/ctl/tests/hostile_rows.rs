//! Backend files of sound structure whose rows make no sense: every command refuses them or goes through, none panics, a refused
//! restore leaves nothing, and what was restored opens.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use ctl::{Persona, run};
use prost::Message;
use proto::leasepb;
use proto::mvccpb::KeyValue;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use state::{BUCKETS, Params, State};
use storage::bolt::{Planner, Row, Writer};
use storage::catalog::Catalog;
use storage::disk::OsDisk;
use storage::segments::SegmentsOptions;

type Rows = BTreeMap<(usize, Vec<u8>), Vec<u8>>;

#[test]
fn rows_without_sense_are_refused_or_restored_and_never_more() {
    let mut dice = ChaCha8Rng::seed_from_u64(7);
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let [file, target] = ["a.db", "target"].map(|name| scratch.path().join(name));
    let (mut refused, mut restored) = (0, 0);
    for _ in 0..150 {
        let mut rows = sound_rows();
        for _ in 0..=dice.next_u32() % 2 {
            spoil(&mut dice, &mut rows);
        }
        write(&file, &rows);
        etcdutl(&["snapshot", "status", text(&file)]);
        etcdutl(&["hashkv", text(&file)]);
        let code = etcdutl(&[
            "snapshot",
            "restore",
            text(&file),
            "--data-dir",
            text(&target),
            "--skip-hash-check",
        ]);
        if code != ExitCode::SUCCESS {
            refused += 1;
            assert!(!target.exists(), "a refused restore left something");
            continue;
        }
        restored += 1;
        let sound = run(Persona::Verify, &[text(&target).to_owned()]);
        assert_eq!(sound, ExitCode::SUCCESS, "what was restored is sound");
        open(&target);
        std::fs::remove_dir_all(&target).expect("a restored folder");
    }
    assert!(
        refused > 20 && restored > 20,
        "{refused} refused, {restored} restored"
    );
}

/// Opens what was restored as a member would, reads all of it, and tidies up.
fn open(data_dir: &Path) {
    let store = data_dir.join("member/store");
    let disk = Arc::new(OsDisk);
    let (_, recovered) = Catalog::open(disk.clone(), &store).expect("a catalog");
    let recovered = recovered.expect("a checkpoint");
    let options = SegmentsOptions::default();
    let mut state =
        State::open(Params::default(), recovered, disk, &store, options).expect("sound data");
    while state.maintain(16) {}
    let view = state.view();
    let _ = view.hash_kv(0);
    view.hash().expect("sound data");
    view.rows(|_, _, _| ControlFlow::Continue(()))
        .expect("sound data");
}

fn bucket(name: &str) -> usize {
    BUCKETS
        .iter()
        .position(|bucket| *bucket == name)
        .expect("a bucket")
}

/// Twenty revisions of five keys with a lease, a deletion and a compaction.
fn sound_rows() -> Rows {
    let mut rows = Rows::new();
    for main in 2..22i64 {
        let kv = KeyValue {
            key: format!("k{}", main % 5).into(),
            create_revision: 2 + main % 5,
            mod_revision: main,
            version: main / 5 + 1,
            value: "value".into(),
            lease: i64::from(main % 5 == 1) * 9,
        };
        rows.insert((bucket("key"), revision(main, 0)), kv.encode_to_vec());
    }
    let mut tombstone = revision(22, 0);
    tombstone.push(b't');
    let deleted = KeyValue {
        key: "k2".into(),
        ..KeyValue::default()
    };
    rows.insert((bucket("key"), tombstone), deleted.encode_to_vec());
    let lease = leasepb::Lease {
        id: 9,
        ttl: 60,
        remaining_ttl: 0,
    };
    rows.insert(
        (bucket("lease"), 9i64.to_be_bytes().into()),
        lease.encode_to_vec(),
    );
    let meta = bucket("meta");
    rows.insert((meta, b"scheduledCompactRev".into()), revision(8, 0));
    rows.insert(
        (meta, b"consistent_index".into()),
        40u64.to_be_bytes().into(),
    );
    rows.insert((meta, b"term".into()), 3u64.to_be_bytes().into());
    rows.insert(
        (bucket("cluster"), b"clusterVersion".into()),
        b"3.5.0".into(),
    );
    rows
}

fn revision(main: i64, sub: i64) -> Vec<u8> {
    [&main.to_be_bytes()[..], b"_", &sub.to_be_bytes()].concat()
}

/// Adds, changes or drops one row.
fn spoil(dice: &mut ChaCha8Rng, rows: &mut Rows) {
    let numbers = [
        0,
        1,
        -1,
        2,
        7,
        8,
        9,
        21,
        22,
        23,
        1 << 30,
        1 << 31,
        1 << 40,
        i64::MAX,
        i64::MIN,
    ];
    let mut number = || numbers[dice.next_u32() as usize % numbers.len()];
    let (a, b, c, d) = (number(), number(), number(), number());
    let noise: Vec<u8> = (0..dice.next_u32() % 40)
        .map(|_| dice.next_u32() as u8)
        .collect();
    let keys: Vec<(usize, Vec<u8>)> = rows.keys().cloned().collect();
    let some = keys[dice.next_u32() as usize % keys.len()].clone();
    let kv = KeyValue {
        key: if a & 1 == 0 {
            noise.clone().into()
        } else {
            "k2".into()
        },
        create_revision: b,
        mod_revision: c,
        version: d,
        value: Bytes::new(),
        lease: a,
    };
    let end: &[u8] = [&b""[..], b"t", b"x"][dice.next_u32() as usize % 3];
    match dice.next_u32() % 10 {
        0 | 1 => drop(rows.insert(
            (bucket("key"), [&revision(a, b)[..], end].concat()),
            kv.encode_to_vec(),
        )),
        2 => drop(rows.insert(
            (
                bucket("key"),
                [&revision(1 + a.saturating_abs() % 40, 1)[..], end].concat(),
            ),
            kv.encode_to_vec(),
        )),
        3 => drop(rows.insert((bucket("key"), noise.clone()), noise)),
        4 => drop(rows.remove(&some)),
        5 => drop(rows.insert(some, noise)),
        6 => {
            let lease = leasepb::Lease {
                id: a,
                ttl: b,
                remaining_ttl: c,
            };
            rows.insert(
                (bucket("lease"), d.to_be_bytes().into()),
                lease.encode_to_vec(),
            );
            rows.insert(
                (bucket("lease"), a.to_be_bytes().into()),
                lease.encode_to_vec(),
            );
        }
        7 => {
            let name = [
                "scheduledCompactRev",
                "finishedCompactRev",
                "consistent_index",
                "confState",
                "storageVersion",
            ];
            let name = name[dice.next_u32() as usize % name.len()];
            let value = if a & 1 == 0 { revision(b, c) } else { noise };
            rows.insert((bucket("meta"), name.into()), value);
        }
        8 => {
            let table = [
                "alarm",
                "cluster",
                "members",
                "members_removed",
                "auth",
                "authUsers",
            ];
            let table = bucket(table[dice.next_u32() as usize % table.len()]);
            let key = [&b"clusterVersion"[..], b"downgrade", b"authEnabled", &noise]
                [dice.next_u32() as usize % 4]
                .to_vec();
            let value = [
                "",
                "{}",
                "3.9.9",
                "{\"enabled\":true,\"target-version\":\"x\"}",
                "[[[[[[",
            ][dice.next_u32() as usize % 5];
            // bbolt has no empty keys.
            if !key.is_empty() {
                rows.insert((table, key), value.into());
            }
        }
        _ => {
            let (from, to) = (revision(a, b), revision(c, d));
            rows.insert((bucket("key"), from), noise.clone());
            rows.insert((bucket("key"), to), kv.encode_to_vec());
        }
    }
}

fn write(path: &Path, rows: &Rows) {
    let mut planner = Planner::new(&BUCKETS);
    for ((bucket, key), value) in rows {
        planner.row(*bucket, key.len(), value.len());
    }
    let each = rows.iter().map(|((bucket, key), value)| {
        Ok(Row {
            bucket: *bucket,
            key: key.clone().into(),
            value: value.clone().into(),
        })
    });
    let mut writer = Writer::new(planner.finish(), each);
    let mut bytes = Vec::new();
    while let Some(chunk) = writer.next_chunk(32 << 10).expect("no fault") {
        bytes.extend_from_slice(&chunk);
    }
    std::fs::write(path, bytes).expect("written");
}

fn etcdutl(args: &[&str]) -> ExitCode {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    run(Persona::Etcdutl, &args)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
