//! The writer against the reader, and the reader against everybody.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;
use crate::disk::{Disk, File, MemDisk, Open};
use crate::fault::{Fault, FaultKind};

const NAMES: [&str; 3] = ["empty", "key", "meta"];

type Content = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

#[test]
fn what_is_written_is_read_again_and_has_the_planned_size() {
    let mut dice = ChaCha8Rng::seed_from_u64(1);
    for round in 0..60 {
        let rows = random_rows(&mut dice, round);
        let (plan, bytes) = write(&rows, 1 + dice.next_u32() as usize % 10_000);
        assert_eq!(bytes.len() as u64, plan.bytes());
        assert_eq!(
            read(&bytes).expect("a sound file"),
            content(&rows),
            "round {round}"
        );
    }
}

#[test]
fn a_file_does_not_depend_on_the_size_of_the_chunks() {
    let rows = random_rows(&mut ChaCha8Rng::seed_from_u64(2), 40);
    let (_, whole) = write(&rows, usize::MAX);
    for chunk in [1000, 32 << 10] {
        assert!(write(&rows, chunk).1 == whole);
    }
}

#[test]
fn every_branch_has_two_children_at_least() {
    // 113 children with keys of 20 bytes fit into a branch; the counts around multiples of it are the hard ones.
    for count in (1..20)
        .chain(100..130)
        .chain(220..240)
        .chain([12_600, 12_900, 13_100])
    {
        let value = Bytes::from(vec![7; 4000]);
        let rows: Vec<Row> = (0..count)
            .map(|at| row(1, format!("{at:020}").into(), value.clone()))
            .collect();
        let (_, bytes) = write(&rows, 1 << 20);
        let mut branches = 0;
        for page in bytes.chunks(PAGE_BYTES) {
            if u16_at(page, 8) == FLAG_BRANCH {
                branches += 1;
                assert!(
                    u16_at(page, 10) >= 2,
                    "{count} leaves: a branch with one child"
                );
            }
        }
        assert_eq!(branches > 0, count > 1);
        assert_eq!(read(&bytes).expect("a sound file"), content(&rows));
    }
}

#[test]
fn long_keys_make_branches_with_overflow_pages() {
    let rows: Vec<Row> = (0..40)
        .map(|at| row(1, vec![at; 9000 + usize::from(at)].into(), Bytes::new()))
        .collect();
    let (_, bytes) = write(&rows, 4096);
    assert_eq!(read(&bytes).expect("a sound file"), content(&rows));
}

#[test]
fn a_fault_of_the_rows_ends_the_file_and_stays() {
    let fault = Fault::new(FaultKind::Corrupted, "a record is damaged");
    let rows = vec![Ok(row(1, "a".into(), "1".into())), Err(fault.clone())];
    let mut planner = Planner::new(&NAMES);
    planner.row(1, 1, 1);
    let mut writer = Writer::new(planner.finish(), rows.into_iter());
    let mut results = Vec::new();
    for _ in 0..5 {
        results.push(writer.next_chunk(PAGE_BYTES));
    }
    assert!(results[..3].iter().all(Result::is_ok));
    assert!(
        results[3..]
            .iter()
            .all(|result| *result == Err(fault.clone()))
    );
}

#[test]
#[should_panic(expected = "not those of the plan")]
fn other_rows_than_planned_are_not_written_silently() {
    let mut planner = Planner::new(&NAMES);
    planner.row(1, 1, 1);
    let rows = vec![Ok(row(1, "a".into(), vec![0; 9000].into()))];
    let _ = Writer::new(planner.finish(), rows.into_iter()).next_chunk(1 << 20);
}

#[test]
fn the_newer_of_the_valid_metas_counts() {
    let rows = vec![row(1, "a".into(), "1".into())];
    let (_, mut bytes) = write(&rows, 4096);
    let meta = |txid, pages| Meta {
        page_bytes: 4096,
        root: 4,
        freelist: 2,
        pages,
        txid,
    };
    // Each of the two says which one it is by a number of pages that is too large or not.
    for (first, second, is_first) in [((9, 5), (3, 99), true), ((3, 99), (9, 5), false)] {
        bytes[16..80].copy_from_slice(&meta(first.0, first.1).encode());
        bytes[4096 + 16..4096 + 80].copy_from_slice(&meta(second.0, second.1).encode());
        assert_eq!(read(&bytes).expect("the newer meta"), content(&rows));
        let newer = if is_first { 16 } else { 4096 + 16 };
        let mut torn = bytes.clone();
        torn[newer + 20] ^= 1;
        let fault = read(&torn).expect_err("the older meta");
        assert!(fault.message().contains("99 pages"), "{fault}");
    }
}

#[test]
fn a_damaged_first_meta_does_not_hide_the_page_size() {
    let rows = random_rows(&mut ChaCha8Rng::seed_from_u64(3), 5);
    let (_, mut bytes) = write(&rows, 4096);
    bytes[16..80].fill(0xff);
    assert_eq!(read(&bytes).expect("the second meta"), content(&rows));
    bytes[4096 + 16] ^= 1;
    let fault = read(&bytes).expect_err("no meta");
    assert_eq!(fault.kind(), FaultKind::Corrupted);
}

#[test]
fn a_tree_that_points_to_itself_is_refused() {
    let value = Bytes::from(vec![7; 4000]);
    let rows: Vec<Row> = (0..9)
        .map(|at| row(1, format!("{at}").into(), value.clone()))
        .collect();
    let (_, mut bytes) = write(&rows, 4096);
    let branch = bytes
        .chunks(PAGE_BYTES)
        .position(|page| u16_at(page, 8) == FLAG_BRANCH)
        .expect("nine leaves have a branch");
    let child = branch * PAGE_BYTES + HEADER_BYTES + ELEMENT_BYTES + 8;
    bytes[child..child + 8].copy_from_slice(&(branch as u64).to_le_bytes());
    let fault = read(&bytes).expect_err("a cycle");
    assert!(fault.message().contains("pointed to twice"), "{fault}");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let (_, bytes) = write(&random_rows(&mut ChaCha8Rng::seed_from_u64(4), 30), 4096);
    for len in (0..bytes.len()).step_by(509) {
        read(&bytes[..len]).expect_err("a part of a file");
    }
}

#[test]
fn damage_is_an_error_or_other_rows_and_never_a_panic_or_a_loop() {
    let mut dice = ChaCha8Rng::seed_from_u64(5);
    let (mut faults, mut rounds) = (0, 0);
    for size in [3, 12, 30] {
        let (_, sound) = write(&random_rows(&mut dice, size), 4096);
        for _ in 0..4000 {
            let mut bytes = sound.clone();
            for _ in 0..=dice.next_u32() % 4 {
                mutate(&mut dice, &mut bytes);
            }
            rounds += 1;
            faults += usize::from(read(&bytes).is_err());
        }
    }
    assert!(faults > rounds / 4, "{faults} faults in {rounds} rounds");
    for _ in 0..500 {
        let mut noise = vec![0; 3 * PAGE_BYTES];
        dice.fill_bytes(&mut noise);
        read(&noise).expect_err("noise");
    }
}

/// Changes a byte, a number, or a page, mostly where structure is; metas are made valid again, so that what lies behind
/// them is reached.
fn mutate(dice: &mut ChaCha8Rng, bytes: &mut Vec<u8>) {
    let pages = bytes.len() / PAGE_BYTES;
    let page = dice.next_u32() as usize % pages * PAGE_BYTES;
    match dice.next_u32() % 5 {
        0 => {
            let at = page + dice.next_u32() as usize % 64;
            bytes[at] ^= 1 << (dice.next_u32() % 8);
        }
        1 => {
            let at = page + dice.next_u32() as usize % 20 * 4;
            let number =
                [0, 1, 2, 3, pages as u32, u32::MAX, 1 << 31][dice.next_u32() as usize % 7];
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        2 => {
            let from = dice.next_u32() as usize % pages * PAGE_BYTES;
            bytes.copy_within(from..from + PAGE_BYTES, page);
        }
        3 => {
            let at = page + dice.next_u32() as usize % PAGE_BYTES;
            bytes[at] = dice.next_u32() as u8;
        }
        _ => bytes.truncate(page.max(PAGE_BYTES)),
    }
    for meta in [0, PAGE_BYTES] {
        let begin = meta + HEADER_BYTES;
        if bytes.len() >= begin + META_BYTES {
            let sum = fnv1a(&bytes[begin..begin + 56]);
            bytes[begin + 56..begin + 64].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

fn row(bucket: usize, key: Bytes, value: Bytes) -> Row {
    Row { bucket, key, value }
}

/// Rows of all sizes up to a few pages.
fn random_rows(dice: &mut ChaCha8Rng, count: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    for bucket in [1, 2] {
        for at in 0..count * 5 {
            let size = match dice.next_u32() % 20 {
                0 => dice.next_u32() % 20_000,
                1..4 => 3900 + dice.next_u32() % 300,
                _ => dice.next_u32() % 300,
            };
            let mut value = vec![0; size as usize];
            dice.fill_bytes(&mut value);
            let key = format!("{at:06}{}", "x".repeat(dice.next_u32() as usize % 30));
            rows.push(row(bucket, key.into(), value.into()));
        }
    }
    rows
}

fn content(rows: &[Row]) -> Content {
    let mut content: Content = NAMES
        .iter()
        .map(|name| (name.as_bytes().to_vec(), BTreeMap::new()))
        .collect();
    for row in rows {
        content
            .get_mut(NAMES[row.bucket].as_bytes())
            .expect("a bucket")
            .insert(row.key.to_vec(), row.value.to_vec());
    }
    content
}

fn write(rows: &[Row], chunk: usize) -> (Plan, Vec<u8>) {
    let mut planner = Planner::new(&NAMES);
    for row in rows {
        planner.row(row.bucket, row.key.len(), row.value.len());
    }
    let plan = planner.finish();
    let mut writer = Writer::new(plan.clone(), rows.iter().cloned().map(Ok));
    let mut bytes = Vec::new();
    while let Some(piece) = writer.next_chunk(chunk).expect("no fault") {
        assert!(piece.len() == chunk || writer.remaining() == 0);
        bytes.extend_from_slice(&piece);
        assert_eq!(plan.bytes(), bytes.len() as u64 + writer.remaining());
    }
    (plan, bytes)
}

fn read(bytes: &[u8]) -> Result<Content, Fault> {
    let file = file_of(bytes);
    let reader = Reader::open(file, "test.db", bytes.len() as u64)?;
    let mut content = Content::new();
    reader.for_each(|entry| {
        match entry {
            Entry::Bucket(name) => {
                content.insert(name.to_vec(), BTreeMap::new());
            }
            Entry::Row { bucket, key, value } => {
                let bucket = content
                    .get_mut(bucket)
                    .expect("a bucket comes before its rows");
                let before = bucket.insert(key.to_vec(), value.to_vec());
                assert_eq!(before, None, "a key twice");
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok(content)
}

fn file_of(bytes: &[u8]) -> Arc<dyn File> {
    let file = MemDisk::new()
        .open(Path::new("test.db"), Open::CreateNew)
        .expect("an empty disk");
    file.write_at(0, bytes).expect("a disk in memory");
    file
}
