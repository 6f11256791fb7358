//! The claims of this module, on a disk that forgets.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use prost::Message;

use super::*;
use crate::disk::MemDisk;
use crate::fault::FaultKind;

const DIR: &str = "member/segments";

fn small() -> SegmentsOptions {
    SegmentsOptions {
        segment_bytes: 2000,
        hot_bytes: 0,
        salt: 7,
        sequence_first: 1,
    }
}

fn rev(main: i64) -> Revision {
    Revision { main, sub: 0 }
}

/// An encoded `mvccpb.KeyValue`.
fn kv(key: &str, create: i64, main: i64, version: i64, value: &[u8]) -> Bytes {
    proto::mvccpb::KeyValue {
        key: key.as_bytes().to_vec().into(),
        create_revision: create,
        mod_revision: main,
        version,
        value: value.to_vec().into(),
        lease: 0,
    }
    .encode_to_vec()
    .into()
}

fn tombstone(key: &str) -> Bytes {
    proto::mvccpb::KeyValue {
        key: key.as_bytes().to_vec().into(),
        ..Default::default()
    }
    .encode_to_vec()
    .into()
}

fn put(segments: &mut Segments, main: i64, key: &str) {
    segments.append(rev(main), false, kv(key, main, main, 1, &[main as u8; 100]));
}

fn create(disk: &MemDisk, options: SegmentsOptions) -> Segments {
    Segments::create(Arc::new(disk.clone()), DIR, options).unwrap()
}

/// Flushes and forgets as a checkpoint does; returns the ends a catalog would have.
fn flush(disk: &MemDisk, segments: &mut Segments) -> Vec<SegmentEnd> {
    let job = segments.flush();
    let flushed = job.run().unwrap();
    for path in job.obsolete() {
        disk.remove(path).unwrap();
    }
    segments.flushed(flushed);
    segments.check();
    job.ends().to_vec()
}

fn reopen(
    disk: &MemDisk,
    ends: &[SegmentEnd],
    options: SegmentsOptions,
) -> Result<Segments, Fault> {
    let segments = Segments::open(Arc::new(disk.clone()), DIR, ends, options)?;
    segments.check();
    Ok(segments)
}

fn mains(view: &SegmentsView, from: i64, to: i64) -> Vec<i64> {
    let mut seen = Vec::new();
    view.scan(rev(from), rev(to), |record| {
        seen.push(record.revision.main);
        ControlFlow::Continue(())
    })
    .unwrap();
    seen
}

#[test]
fn what_was_appended_is_read_hot_cold_and_after_a_restart() {
    let disk = MemDisk::new();
    let mut segments = create(&disk, small());
    for main in 2..100 {
        put(&mut segments, main, &format!("key-{main}"));
    }
    let hot = segments.view();
    let ends = flush(&disk, &mut segments);
    assert!(ends.len() > 3, "the sample spans segments: {ends:?}");
    assert!(
        segments.hot_bytes() < 2200,
        "only the unsealed segment stays hot"
    );
    let cold = segments.view();
    let again = reopen(&disk, &ends, small()).unwrap().view();
    for view in [hot, cold, again] {
        for main in 2..100 {
            let record = view.read(rev(main)).unwrap().unwrap();
            assert_eq!(
                record.kv,
                kv(&format!("key-{main}"), main, main, 1, &[main as u8; 100])
            );
            assert!(!record.tombstone);
        }
        assert_eq!(view.read(rev(1)).unwrap(), None);
        assert_eq!(view.read(rev(100)).unwrap(), None);
        assert_eq!(view.read(Revision { main: 50, sub: 1 }).unwrap(), None);
        assert_eq!(mains(&view, 0, 1000), (2..100).collect::<Vec<_>>());
        assert_eq!(mains(&view, 40, 60), (40..60).collect::<Vec<_>>());
    }
}

#[test]
fn the_index_learns_the_same_from_footers_scans_and_memory() {
    let disk = MemDisk::new();
    let mut segments = create(&disk, small());
    for main in 2..60 {
        let key = format!("registry/pods/{}", main % 7);
        for sub in 0..main % 3 + 1 {
            let revision = Revision {
                main: main * 1000,
                sub,
            };
            if main % 5 == 0 {
                segments.append(revision, true, tombstone(&key));
            } else {
                let kv = proto::mvccpb::KeyValue {
                    key: key.as_bytes().to_vec().into(),
                    create_revision: 1 + main % 4,
                    mod_revision: main * 1000,
                    version: main % 4,
                    value: vec![7; 33].into(),
                    lease: if main % 6 == 0 { i64::MIN + main } else { 0 },
                };
                segments.append(revision, false, kv.encode_to_vec().into());
            }
        }
    }
    let metas = |segments: &Segments| {
        let mut seen = Vec::new();
        segments
            .for_each_meta(|m| {
                seen.push((
                    m.revision,
                    m.tombstone,
                    m.key.to_vec(),
                    m.create_revision,
                    m.version,
                    m.lease,
                ))
            })
            .unwrap();
        seen
    };
    let in_memory = metas(&segments);
    assert_eq!(
        in_memory.len(),
        (2..60).map(|main| main % 3 + 1).sum::<i64>() as usize
    );
    assert!(
        in_memory.iter().any(|meta| meta.5 < 0),
        "leases may be negative"
    );
    let ends = flush(&disk, &mut segments);
    assert_eq!(metas(&segments), in_memory);
    let mut opening = Vec::new();
    let reopened = Segments::open_with(Arc::new(disk.clone()), DIR, &ends, small(), |m| {
        opening.push((
            m.revision,
            m.tombstone,
            m.key.to_vec(),
            m.create_revision,
            m.version,
            m.lease,
        ));
    })
    .unwrap();
    assert_eq!(opening, in_memory);
    assert_eq!(metas(&reopened), in_memory);
}

#[test]
fn after_a_restart_the_newest_records_are_in_memory_again() {
    let disk = MemDisk::new();
    let options = SegmentsOptions {
        hot_bytes: 6000,
        ..small()
    };
    let mut segments = create(&disk, options);
    for main in 2..200 {
        put(&mut segments, main, "a");
    }
    let ends = flush(&disk, &mut segments);
    let damaged = Path::new(DIR).join(
        SegmentId {
            sequence: ends[ends.len() - 2].sequence,
            generation: 0,
        }
        .file_name(),
    );
    let hot = |segments: &Segments| segments.hot_bytes();
    assert!((4000..=6000).contains(&hot(&reopen(&disk, &ends, options).unwrap())));
    disk.flip_bit(&damaged, 500, 0);
    let segments = reopen(&disk, &ends, options).unwrap();
    let faults = (2..200)
        .filter_map(|main| segments.view().read(rev(main)).err())
        .count();
    assert_eq!(
        faults, 1,
        "damage found while warming up is told to whoever reads it"
    );
}

#[test]
fn a_view_does_not_see_what_is_appended_after_it() {
    let disk = MemDisk::new();
    let mut segments = create(&disk, small());
    put(&mut segments, 2, "a");
    let view = segments.view();
    for main in 3..50 {
        put(&mut segments, main, "a");
    }
    assert_eq!(mains(&view, 0, 100), [2]);
    assert_eq!(view.read(rev(3)).unwrap(), None);
    assert_eq!(view.last(), Some(rev(2)));
    assert_eq!(segments.view().last(), Some(rev(49)));
}

#[test]
fn reading_many_gives_what_reading_each_gives() {
    let disk = MemDisk::new();
    let mut segments = create(
        &disk,
        SegmentsOptions {
            segment_bytes: 20_000,
            ..small()
        },
    );
    for main in 2..500 {
        put(&mut segments, main, "a");
    }
    flush(&disk, &mut segments);
    put(&mut segments, 500, "a");
    let view = segments.view();
    let mut rng = crate::disk::enumerate::Rng(3);
    for _ in 0..50 {
        let mut at = rng.below(400) as i64;
        let mut asked = Vec::new();
        for _ in 0..rng.below(80) {
            at += rng.below(4) as i64;
            asked.push(rev(at));
        }
        asked.push(rev(500));
        asked.push(rev(2));
        let mut got = Vec::new();
        view.read_many(&asked, |at, record| {
            assert_eq!(at, got.len());
            got.push(record);
            ControlFlow::Continue(())
        })
        .unwrap();
        let each: Vec<_> = asked
            .iter()
            .map(|revision| view.read(*revision).unwrap())
            .collect();
        assert_eq!(got, each);
    }
}

#[test]
fn frequent_flushes_leave_no_crumbs() {
    let disk = MemDisk::new();
    let mut segments = create(
        &disk,
        SegmentsOptions {
            segment_bytes: 1 << 20,
            ..small()
        },
    );
    let mut ends = Vec::new();
    for main in 2..100 {
        put(&mut segments, main, "a");
        ends = flush(&disk, &mut segments);
    }
    assert_eq!(segments.unsealed().blocks.len(), 1);
    assert_eq!(segments.unflushed_bytes(), 0);
    assert_eq!(
        mains(&reopen(&disk, &ends, small()).unwrap().view(), 0, 100).len(),
        98
    );
}

#[test]
fn large_and_far_apart_records_are_kept() {
    let disk = MemDisk::new();
    let mut segments = create(
        &disk,
        SegmentsOptions {
            segment_bytes: 3 << 20,
            ..small()
        },
    );
    for (step, main) in [2, 3, 1 << 33, 1 << 34, i64::MAX - 1]
        .into_iter()
        .enumerate()
    {
        segments.append(
            rev(main),
            false,
            kv("a", main, main, 1, &vec![step as u8; 1 << 20]),
        );
        segments.append(
            Revision {
                main,
                sub: (1 << 31) - 1,
            },
            false,
            kv("a", main, main, 2, b"x"),
        );
    }
    let ends = flush(&disk, &mut segments);
    let view = reopen(&disk, &ends, small()).unwrap().view();
    assert_eq!(
        view.read(rev(1 << 34)).unwrap().unwrap().kv,
        kv("a", 1 << 34, 1 << 34, 1, &vec![3; 1 << 20])
    );
    assert_eq!(
        view.last(),
        Some(Revision {
            main: i64::MAX - 1,
            sub: (1 << 31) - 1
        })
    );
}

/// Rewrites as often as there is something to gain; returns how often.
fn rewrite_all(segments: &mut Segments, share: f64) -> usize {
    let mut rewrites = 0;
    while let Some(job) = segments.rewrite(share) {
        let rewritten = job.run().unwrap();
        segments.rewritten(rewritten);
        segments.check();
        rewrites += 1;
        assert!(rewrites < 1000, "rewriting comes to an end");
    }
    rewrites
}

#[test]
fn rewriting_gives_the_space_of_the_dead_back() {
    let disk = MemDisk::new();
    let mut segments = create(&disk, small());
    for main in 2..200 {
        put(&mut segments, main, "a");
    }
    flush(&disk, &mut segments);
    let before = segments.total_bytes();
    for main in (2..180).filter(|main| main % 10 != 0) {
        assert!(segments.mark_dead(rev(main)));
        assert!(!segments.mark_dead(rev(main)), "it was dead already");
    }
    assert!(!segments.mark_dead(rev(1)), "there is no such record");
    let live = segments.live_bytes();
    assert!(rewrite_all(&mut segments, 0.99) > 0);
    let ends = flush(&disk, &mut segments);
    assert!(segments.total_bytes() < before / 3);
    assert!(
        segments.total_bytes() < live + live / 5,
        "{} bytes hold {live} live ones",
        segments.total_bytes()
    );
    let files = disk.list(Path::new(DIR)).unwrap().len();
    assert_eq!(files, ends.len(), "replaced files are gone");
    let expected: Vec<i64> = (2..200)
        .filter(|main| main % 10 == 0 || *main >= 180)
        .collect();
    assert_eq!(mains(&segments.view(), 0, 1000), expected);
    assert_eq!(
        mains(&reopen(&disk, &ends, small()).unwrap().view(), 0, 1000),
        expected
    );
    assert!(
        verify(&disk, Path::new(DIR), &ends, |_| {})
            .damage
            .is_empty()
    );
}

#[test]
fn a_wholly_dead_segment_goes_without_being_rewritten() {
    let disk = MemDisk::new();
    let mut segments = create(&disk, small());
    for main in 2..100 {
        put(&mut segments, main, "a");
    }
    flush(&disk, &mut segments);
    let count = segments.count();
    (2..60).for_each(|main| assert!(segments.mark_dead(rev(main))));
    assert!(segments.rewrite(0.0).is_none(), "nothing to write");
    assert!(segments.count() < count);
    flush(&disk, &mut segments);
    assert!(disk.list(Path::new(DIR)).unwrap().len() <= segments.count());
    assert!(mains(&segments.view(), 0, 100).ends_with(&(60..100).collect::<Vec<_>>()));
}

#[test]
fn the_segment_being_written_gives_its_space_back_when_it_is_sealed_early() {
    let disk = MemDisk::new();
    let mut segments = create(&disk, SegmentsOptions::default());
    for main in 2..100 {
        put(&mut segments, main, "a");
    }
    segments.seal_early();
    assert_eq!(segments.count(), 1, "nothing is dead, so nothing is gained");
    (2..90).for_each(|main| assert!(segments.mark_dead(rev(main))));
    segments.seal_early();
    put(&mut segments, 100, "a");
    let before = segments.total_bytes();
    flush(&disk, &mut segments);
    assert_eq!(rewrite_all(&mut segments, 0.95), 1);
    segments.check();
    let ends = flush(&disk, &mut segments);
    assert!(segments.total_bytes() < before / 2);
    let kept: Vec<i64> = (90..=100).collect();
    assert_eq!(mains(&segments.view(), 0, 200), kept);
    assert!(
        verify(&disk, Path::new(DIR), &ends, |_| {})
            .damage
            .is_empty()
    );
    let reopened = reopen(&disk, &ends, SegmentsOptions::default()).unwrap();
    assert_eq!(mains(&reopened.view(), 0, 200), kept);
}

#[test]
fn records_that_die_during_a_rewrite_are_dead_in_its_result() {
    let disk = MemDisk::new();
    let mut segments = create(&disk, small());
    for main in 2..40 {
        put(&mut segments, main, "a");
    }
    flush(&disk, &mut segments);
    (2..12).for_each(|main| assert!(segments.mark_dead(rev(main))));
    let job = segments.rewrite(0.6).unwrap();
    let dying = 14;
    assert!(segments.mark_dead(rev(dying)));
    for main in 40..60 {
        put(&mut segments, main, "a");
    }
    let flushing = segments.flush();
    let rewritten = job.run().unwrap();
    segments.rewritten(rewritten);
    let flushed = flushing.run().unwrap();
    segments.flushed(flushed);
    segments.check();
    assert!(
        flushing.obsolete().is_empty(),
        "its commit still names the replaced file"
    );
    assert!(
        segments.view().read(rev(dying)).unwrap().is_some(),
        "it is in the file"
    );
    assert!(!segments.mark_dead(rev(dying)), "and known to be dead");
    assert_eq!(segments.flush().obsolete().len(), 1);
}

#[test]
fn a_full_disk_gives_a_rewrite_up_and_changes_nothing() {
    let disk = MemDisk::new();
    let mut segments = create(&disk, small());
    for main in 2..40 {
        put(&mut segments, main, "a");
    }
    let ends = flush(&disk, &mut segments);
    (2..12).for_each(|main| assert!(segments.mark_dead(rev(main))));
    let used = disk.list(Path::new(DIR)).unwrap().len();
    disk.faults(|faults| faults.capacity_bytes = Some(0));
    let fault = segments.rewrite(0.6).unwrap().run().err().unwrap();
    assert_eq!(fault.kind(), FaultKind::NoSpace);
    segments.rewrite_abandoned();
    disk.faults(|faults| faults.capacity_bytes = None);
    assert_eq!(
        disk.list(Path::new(DIR)).unwrap().len(),
        used,
        "the unfinished file is removed"
    );
    assert_eq!(
        mains(&reopen(&disk, &ends, small()).unwrap().view(), 0, 100).len(),
        38
    );
    assert!(rewrite_all(&mut segments, 0.6) > 0);
}

/// A put of `k` in an early segment, its delete in a later one, both compacted away; then every segment but those before
/// the delete's is rewritten. Returns whether a restart finds the put without its delete.
fn a_deleted_key_comes_back(tombstones_stay: bool) -> bool {
    let disk = MemDisk::new();
    let mut segments = create(&disk, small());
    put(&mut segments, 2, "k");
    for main in 3..30 {
        put(&mut segments, main, &format!("other-{main}"));
    }
    segments.append(rev(30), true, tombstone("k"));
    for main in 31..60 {
        put(&mut segments, main, &format!("other-{main}"));
    }
    flush(&disk, &mut segments);
    assert!(segments.mark_dead(rev(2)) && segments.mark_dead(rev(30)));
    let with_tombstone = segments
        .frozen
        .iter()
        .position(|segment| segment.find(rev(30)).is_some())
        .unwrap();
    let neighbour = segments.frozen[with_tombstone].blocks[0].first();
    let neighbours = (neighbour.main..30)
        .filter(|main| segments.frozen[with_tombstone].find(rev(*main)).is_some())
        .collect::<Vec<_>>();
    for main in neighbours {
        segments.mark_dead(rev(main));
    }
    let mut job = segments.rewrite(0.9).unwrap();
    job.tombstones_stay &= tombstones_stay;
    let rewritten = job.run().unwrap();
    segments.rewritten(rewritten);
    let ends = flush(&disk, &mut segments);
    let (mut put, mut deleted) = (false, false);
    reopen(&disk, &ends, small())
        .unwrap()
        .for_each_meta(|meta| {
            put |= meta.key == b"k" && !meta.tombstone;
            deleted |= meta.key == b"k" && meta.tombstone;
        })
        .unwrap();
    put && !deleted
}

#[test]
fn a_tombstone_stays_while_what_it_deleted_lies_in_an_older_file() {
    assert!(!a_deleted_key_comes_back(true));
    assert!(
        a_deleted_key_comes_back(false),
        "the planted defect is seen"
    );
}

#[test]
fn tombstones_do_not_pile_up_behind_an_old_dead_record() {
    let disk = MemDisk::new();
    let mut segments = create(&disk, small());
    for main in 2..30 {
        put(&mut segments, main, "old");
    }
    segments.mark_dead(rev(2));
    for main in 30..300 {
        segments.append(rev(main), true, tombstone(&format!("key-{main}")));
        segments.mark_dead(rev(main));
    }
    flush(&disk, &mut segments);
    rewrite_all(&mut segments, 0.5);
    let ends = flush(&disk, &mut segments);
    let left = mains(&reopen(&disk, &ends, small()).unwrap().view(), 30, 300).len();
    assert!(left < 270 / 3, "{left} tombstones left");
}

#[test]
fn small_neighbours_are_merged() {
    let disk = MemDisk::new();
    let mut segments = create(&disk, small());
    for main in 2..400 {
        put(&mut segments, main, "a");
    }
    flush(&disk, &mut segments);
    (2..400)
        .filter(|main| main % 15 != 0)
        .for_each(|main| assert!(segments.mark_dead(rev(main))));
    rewrite_all(&mut segments, 0.5);
    assert!(
        segments.count() <= 4,
        "{} segments hold 26 records",
        segments.count()
    );
}

#[test]
fn the_dead_of_a_block_that_is_still_open_do_not_upset_the_choice() {
    let disk = MemDisk::new();
    let mut segments = create(&disk, small());
    (2..24).for_each(|main| put(&mut segments, main, "k"));
    flush(&disk, &mut segments);
    assert_eq!(segments.frozen.len(), 2, "one sealed, one unsealed segment");
    (24..27).for_each(|main| put(&mut segments, main, "k"));
    (3..27).for_each(|main| assert!(segments.mark_dead(rev(main))));
    assert_eq!(rewrite_all(&mut segments, 0.5), 1);
    assert_eq!(mains(&segments.view(), 2, 4), [2]);
}

#[test]
fn after_a_restart_the_index_tells_which_records_are_dead() {
    let disk = MemDisk::new();
    let mut segments = create(&disk, small());
    for main in 2..100 {
        put(&mut segments, main, "a");
    }
    let ends = flush(&disk, &mut segments);
    let mut segments = reopen(&disk, &ends, small()).unwrap();
    assert_eq!(
        segments.keep_only(rev(50), &[rev(10), rev(50), rev(70)]),
        47
    );
    assert!(!segments.mark_dead(rev(49)));
    assert!(segments.mark_dead(rev(50)) && segments.mark_dead(rev(51)));
    segments.check();
    assert!(rewrite_all(&mut segments, 0.5) > 0);
}

#[test]
fn what_no_commit_named_is_cut_and_its_files_go_with_the_first_checkpoint() {
    let disk = MemDisk::new();
    let mut segments = create(&disk, small());
    for main in 2..20 {
        put(&mut segments, main, "a");
    }
    let ends = flush(&disk, &mut segments);
    for main in 20..80 {
        put(&mut segments, main, "lost");
    }
    flush(&disk, &mut segments);
    let mut segments = reopen(&disk, &ends, small()).unwrap();
    assert_eq!(segments.last(), Some(rev(19)));
    for main in 20..60 {
        put(&mut segments, main, "again");
    }
    let ends = flush(&disk, &mut segments);
    assert_eq!(disk.list(Path::new(DIR)).unwrap().len(), ends.len());
    let view = reopen(&disk, &ends, small()).unwrap().view();
    assert_eq!(
        view.read(rev(20)).unwrap().unwrap().kv,
        kv("again", 20, 20, 1, &[20; 100])
    );
    assert_eq!(mains(&view, 0, 1000), (2..60).collect::<Vec<_>>());
}

/// Opens and reads everything; the records, or the first fault.
fn read_all(disk: &MemDisk, ends: &[SegmentEnd]) -> Result<Vec<Record>, Fault> {
    let segments = Segments::open(Arc::new(disk.clone()), DIR, ends, small())?;
    segments.for_each_meta(|_| {})?;
    let mut records = Vec::new();
    segments.view().scan(rev(0), rev(1000), |record| {
        records.push(record);
        ControlFlow::Continue(())
    })?;
    Ok(records)
}

#[test]
fn a_flipped_bit_anywhere_is_a_fault_that_names_the_file_and_never_wrong_data() {
    let disk = MemDisk::new();
    let mut segments = create(&disk, small());
    for main in 2..34 {
        put(&mut segments, main, &format!("key-{main}"));
    }
    let ends = flush(&disk, &mut segments);
    assert!(
        ends.len() >= 2 && !ends[ends.len() - 1].sealed,
        "sealed and unsealed: {ends:?}"
    );
    let sound = read_all(&disk, &ends).unwrap();
    let mut flipped = 0;
    for name in disk.list(Path::new(DIR)).unwrap() {
        let path = Path::new(DIR).join(&name);
        let mut offset = 0;
        while disk.flip_bit(&path, offset, (offset % 8) as u8) {
            match read_all(&disk, &ends) {
                Err(fault) => {
                    assert!(fault.message().contains(&name), "{fault}");
                    let place = ["at byte ", "footer", "header", "format version"];
                    assert!(
                        place.iter().any(|place| fault.message().contains(place)),
                        "{fault}"
                    );
                }
                Ok(records) => panic!(
                    "byte {offset} of {name} was flipped and {} records came",
                    records.len()
                ),
            }
            let verified = verify(&disk, Path::new(DIR), &ends, |_| {});
            assert!(
                verified
                    .damage
                    .iter()
                    .all(|fault| fault.message().contains(&name)),
                "{:?}",
                verified.damage
            );
            assert!(!verified.damage.is_empty(), "byte {offset} of {name}");
            disk.flip_bit(&path, offset, (offset % 8) as u8);
            (offset, flipped) = (offset + 1, flipped + 1);
        }
    }
    assert!(flipped > 4000, "{flipped}");
    assert_eq!(read_all(&disk, &ends).unwrap(), sound);
    let verified = verify(&disk, Path::new(DIR), &ends, |_| {});
    assert_eq!((verified.records, verified.damage.len()), (32, 0));
}

#[test]
fn a_damaged_record_is_named_with_its_revision_and_the_others_are_served() {
    let disk = MemDisk::new();
    let mut segments = create(&disk, small());
    for main in 2..40 {
        put(&mut segments, main, "a");
    }
    let ends = flush(&disk, &mut segments);
    let path = Path::new(DIR).join(
        SegmentId {
            sequence: 1,
            generation: 0,
        }
        .file_name(),
    );
    assert!(disk.flip_bit(&path, 300, 1));
    let view = segments.view();
    let faults: Vec<Fault> = (2..40)
        .filter_map(|main| view.read(rev(main)).err())
        .collect();
    assert_eq!(faults.len(), 1);
    assert!(
        faults[0].message().contains("(revision 4.0)"),
        "{}",
        faults[0]
    );
    assert_eq!(faults[0].kind(), FaultKind::Corrupted);
    let verified = verify(&disk, Path::new(DIR), &ends, |_| {});
    assert_eq!((verified.records, verified.damage.len()), (37, 1));
}

#[test]
fn missing_short_and_foreign_files_are_named() {
    let disk = MemDisk::new();
    let mut segments = create(&disk, small());
    for main in 2..40 {
        put(&mut segments, main, "a");
    }
    let ends = flush(&disk, &mut segments);
    let first = Path::new(DIR).join(
        SegmentId {
            sequence: 1,
            generation: 0,
        }
        .file_name(),
    );
    let second = Path::new(DIR).join(
        SegmentId {
            sequence: 2,
            generation: 0,
        }
        .file_name(),
    );
    let fault = |change: &dyn Fn(&MemDisk)| {
        let copy = disk.fork();
        change(&copy);
        read_all(&copy, &ends).unwrap_err()
    };
    assert_eq!(
        fault(&|disk| disk.remove(&first).unwrap()).kind(),
        FaultKind::Gap
    );
    let cut = fault(&|disk| {
        disk.open(&first, crate::disk::Open::Write)
            .unwrap()
            .set_len(500)
            .unwrap()
    });
    assert!(cut.message().contains("the file has 500 bytes"), "{cut}");
    let swapped = fault(&|disk| disk.rename(&second, &first).unwrap());
    assert!(
        swapped
            .message()
            .contains("the file is in truth seg-0000000000000002"),
        "{swapped}"
    );
    let twice: Vec<SegmentEnd> = ends.iter().chain(&ends).copied().collect();
    assert_eq!(
        read_all(&disk, &twice).unwrap_err().kind(),
        FaultKind::Corrupted
    );
}

#[test]
fn damaged_footers_and_records_never_panic_the_decoders() {
    let mut footer = format::FooterWriter::new();
    for main in 1..20 {
        let meta = RecordMeta {
            revision: rev(main * 300),
            tombstone: main % 2 == 0,
            key: &[main as u8; 9],
            create_revision: 3,
            version: 2,
            lease: 7,
        };
        footer.push(&meta, 50);
    }
    let footer = footer.finish(9);
    let mut rng = crate::disk::enumerate::Rng(11);
    for _ in 0..20_000 {
        let mut bytes = footer.clone();
        let at = rng.below(bytes.len() as u64) as usize;
        bytes[at] = rng.draw() as u8;
        bytes.truncate(rng.below(bytes.len() as u64 + 1) as usize);
        // The checksum would stop nearly all of these; a sound checksum over nonsense must be survived as well.
        if bytes.len() >= format::FOOTER_HEADER_BYTES {
            let length = (bytes.len() - format::FOOTER_HEADER_BYTES) as u64;
            bytes[16..24].copy_from_slice(&length.to_le_bytes());
            let crc = crc32c::crc32c_append(crc32c::crc32c_append(9, &bytes[..12]), &bytes[16..]);
            bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        }
        let _ = format::decode_footer(&bytes, 9, |_, _| {});
        let _ = format::decode_record(&bytes, 9, 0);
        let _ = format::peek_record_bytes(&bytes);
    }
}
