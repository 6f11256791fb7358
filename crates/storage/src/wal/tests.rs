use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proto::raftpb::{ConfState, Entry, HardState};

use super::*;
use crate::disk::{Disk, MemDisk, Open};
use crate::fault::{Fault, FaultKind};

mod crash;

const DIR: &str = "member/wal";
const ID: Identity = Identity {
    cluster_id: 0xc1,
    member_id: 0xa2,
};

fn dir() -> &'static Path {
    Path::new(DIR)
}

fn small() -> Options {
    Options::with_segment_bytes(8192, 4096)
}

fn entry(index: u64, term: u64, data: &[u8]) -> Entry {
    let data = (!data.is_empty()).then(|| Bytes::copy_from_slice(data));
    Entry {
        r#type: Some(0),
        term: Some(term),
        index: Some(index),
        data,
    }
}

fn state(term: u64, commit: u64) -> HardState {
    HardState {
        term: Some(term),
        vote: Some(1),
        commit: Some(commit),
    }
}

fn marker(index: u64, term: u64) -> Marker {
    Marker {
        index,
        term,
        conf_state: ConfState {
            voters: vec![1, 2, 3],
            ..ConfState::default()
        },
        restart: false,
    }
}

fn put(wal: &mut Wal, entries: &[Entry]) -> Result<(), Fault> {
    wal.append(&Batch {
        entries,
        sync: true,
        ..Batch::default()
    })
}

fn create(disk: &MemDisk) -> Wal {
    Wal::create(Arc::new(disk.clone()), dir(), small(), ID).unwrap()
}

fn open(disk: &MemDisk) -> Result<(Wal, Recovered), Fault> {
    Wal::open(Arc::new(disk.clone()), dir(), small())
}

/// Entries `first..=last` of term 1, each of `bytes` bytes, appended one by one.
fn fill(wal: &mut Wal, first: u64, last: u64, bytes: usize) {
    for index in first..=last {
        put(wal, &[entry(index, 1, &vec![index as u8; bytes])]).unwrap();
    }
}

fn indexes(recovered: &Recovered) -> Vec<u64> {
    recovered.entries.iter().map(Entry::index).collect()
}

fn segments(disk: &MemDisk) -> Vec<String> {
    disk.list(dir())
        .unwrap()
        .into_iter()
        .filter(|name| name.ends_with(".wal"))
        .collect()
}

fn power_cut(disk: &MemDisk) {
    disk.crash(&mut |_: usize| 0);
}

#[test]
fn what_was_appended_is_found_again() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    let entries = vec![entry(1, 1, b"a"), entry(2, 1, b""), entry(3, 2, &[7; 700])];
    wal.append(&Batch {
        hard_state: Some(&state(2, 0)),
        entries: &entries,
        sync: true,
        ..Batch::default()
    })
    .unwrap();
    let checkpoint = marker(2, 1);
    wal.append(&Batch {
        hard_state: Some(&state(2, 3)),
        marker: Some(&checkpoint),
        sync: true,
        ..Batch::default()
    })
    .unwrap();
    power_cut(&disk);
    let (wal, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.identity, ID);
    assert_eq!(recovered.hard_state, state(2, 3));
    assert_eq!(recovered.marker, Some(checkpoint));
    assert_eq!(recovered.entries, entries);
    assert_eq!((recovered.last_index, wal.last_index()), (3, 3));
    assert_eq!(recovered.tail, Tail::Clean);
}

#[test]
fn an_empty_log_is_found_empty() {
    let disk = MemDisk::new();
    drop(create(&disk));
    power_cut(&disk);
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.hard_state, HardState::default());
    assert_eq!(
        (
            recovered.last_index,
            recovered.entries.len(),
            recovered.marker
        ),
        (0, 0, None)
    );
}

#[test]
fn a_new_log_refuses_a_directory_that_holds_one() {
    let disk = MemDisk::new();
    drop(create(&disk));
    let fault = Wal::create(Arc::new(disk.clone()), dir(), small(), ID)
        .err()
        .unwrap();
    assert_eq!(fault.kind(), FaultKind::Identity);
}

#[test]
fn later_entries_replace_those_from_their_index_on() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    fill(&mut wal, 1, 5, 10);
    put(&mut wal, &[entry(3, 2, b"x")]).unwrap();
    put(&mut wal, &[entry(4, 2, b"y")]).unwrap();
    let (_, recovered) = open(&disk).unwrap();
    let terms: Vec<_> = recovered
        .entries
        .iter()
        .map(|e| (e.index(), e.term()))
        .collect();
    assert_eq!(terms, [(1, 1), (2, 1), (3, 2), (4, 2)]);
}

#[test]
fn a_received_snapshot_starts_the_log_again() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    fill(&mut wal, 1, 5, 10);
    let received = Marker {
        restart: true,
        ..marker(100, 3)
    };
    let batch = Batch {
        hard_state: Some(&state(3, 100)),
        marker: Some(&received),
        entries: &[entry(101, 3, b"a")],
        sync: true,
    };
    wal.append(&batch).unwrap();
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(indexes(&recovered), [101]);
    assert_eq!(recovered.marker, Some(marker(100, 3)));
}

#[test]
fn a_log_over_many_segments_is_whole() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    for index in 1..=60 {
        put(&mut wal, &[entry(index, 1, &[index as u8; 900])]).unwrap();
        if let Some(job) = wal.spare_job() {
            wal.install_spare(job.run()).unwrap();
        }
    }
    assert!(wal.space().segments > 5, "{:?}", wal.space());
    disk.kill();
    let (wal, recovered) = open(&disk).unwrap();
    assert_eq!(indexes(&recovered), (1..=60).collect::<Vec<_>>());
    assert!(recovered.entries.iter().all(|e| {
        e.data
            .as_ref()
            .is_some_and(|d| d[..] == [e.index() as u8; 900])
    }));
    assert_eq!(wal.space().spares, 1, "the spare is taken over");
}

#[test]
fn a_batch_larger_than_a_segment_is_one_write_all_the_same() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    fill(&mut wal, 1, 2, 10);
    put(&mut wal, &[entry(3, 1, &[3; 50_000]), entry(4, 1, b"d")]).unwrap();
    fill(&mut wal, 5, 6, 3000);
    power_cut(&disk);
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(indexes(&recovered), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn released_segments_are_recycled_and_the_rest_removed() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    for index in 1..=80 {
        put(&mut wal, &[entry(index, 1, &[1; 900])]).unwrap();
        if let Some(job) = wal.spare_job() {
            wal.install_spare(job.run()).unwrap();
        }
    }
    let before = segments(&disk).len();
    wal.append(&Batch {
        marker: Some(&marker(70, 1)),
        sync: false,
        ..Batch::default()
    })
    .unwrap();
    let released = wal.release(60).unwrap();
    assert_eq!(segments(&disk).len(), before - released);
    assert_eq!(wal.space().spares, 2);
    power_cut(&disk);
    let (mut wal, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.last_index, 80);
    assert!(
        recovered.entries[0].index() <= 61,
        "{}",
        recovered.entries[0].index()
    );
    // The recycled files serve again, stale records and all.
    fill(&mut wal, 81, 100, 900);
    assert_eq!(open(&disk).unwrap().1.last_index, 100);
}

#[test]
fn a_fresh_log_allocates_little_and_the_job_allocates_the_rest() {
    let disk = MemDisk::new();
    let options = Options::default();
    let mut wal = Wal::create(Arc::new(disk.clone()), dir(), options.clone(), ID).unwrap();
    assert_eq!(wal.space().total_bytes, options.head_bytes);
    let job = wal.spare_job().unwrap();
    assert!(wal.spare_job().is_none(), "one job at a time");
    wal.install_spare(job.run()).unwrap();
    assert!(wal.spare_job().is_none(), "one spare is enough");
    assert_eq!(
        wal.space().total_bytes,
        options.head_bytes + options.segment_bytes
    );
    assert!(disk.memory_bytes() < 100_000);
}

#[test]
fn a_failed_sync_poisons_the_log_for_good() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    fill(&mut wal, 1, 1, 10);
    disk.faults(|faults| faults.failing_syncs = 1);
    let fault = put(&mut wal, &[entry(2, 1, b"b")]).unwrap_err();
    assert_eq!(fault.kind(), FaultKind::SyncFailed);
    assert_eq!(put(&mut wal, &[entry(3, 1, b"c")]), Err(fault.clone()));
    assert_eq!(wal.sync(), Err(fault.clone()));
    assert_eq!(wal.release(0), Err(fault.clone()));
    assert_eq!(wal.poisoned(), Some(&fault));
    // After the crash the lost entry is gone, what was acknowledged is there.
    power_cut(&disk);
    assert_eq!(indexes(&open(&disk).unwrap().1), [1]);
}

#[test]
fn a_failed_write_poisons_the_log_for_good() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    disk.faults(|faults| faults.read_only = true);
    assert_eq!(
        put(&mut wal, &[entry(1, 1, b"a")]).unwrap_err().kind(),
        FaultKind::ReadOnly
    );
    disk.faults(|faults| faults.read_only = false);
    assert_eq!(
        put(&mut wal, &[entry(1, 1, b"a")]).unwrap_err().kind(),
        FaultKind::ReadOnly
    );
}

#[test]
fn a_full_disk_loses_nothing_and_serves_again_when_there_is_room() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    disk.faults(|faults| faults.capacity_bytes = Some(4096 + 2000));
    let mut last = 0;
    let fault = loop {
        match put(&mut wal, &[entry(last + 1, 1, &[5; 300])]) {
            Ok(()) => last += 1,
            Err(fault) => break fault,
        }
    };
    assert!(last >= 8, "the active segment was allocated before: {last}");
    assert_eq!(fault.kind(), FaultKind::NoSpace);
    assert_eq!(wal.poisoned(), None);
    assert_eq!(
        put(&mut wal, &[entry(last + 1, 1, &[5; 300])])
            .unwrap_err()
            .kind(),
        FaultKind::NoSpace
    );
    // The spare cannot be made either, and says so without harm.
    let job = wal.spare_job().unwrap();
    assert_eq!(
        wal.install_spare(job.run()).unwrap_err().kind(),
        FaultKind::NoSpace
    );
    // A crash on the full disk: everything acknowledged is there, and the member can start.
    let crashed = disk.fork();
    power_cut(&crashed);
    assert_eq!(open(&crashed).unwrap().1.last_index, last);
    // Space comes back: the same call succeeds.
    disk.faults(|faults| faults.capacity_bytes = None);
    put(&mut wal, &[entry(last + 1, 1, &[5; 300])]).unwrap();
    power_cut(&disk);
    assert_eq!(
        indexes(&open(&disk).unwrap().1),
        (1..=last + 1).collect::<Vec<_>>()
    );
}

#[test]
fn a_full_disk_under_a_batch_too_large_for_a_segment_loses_nothing() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    fill(&mut wal, 1, 1, 10);
    disk.faults(|faults| faults.capacity_bytes = Some(12_000));
    let huge = [entry(2, 1, &[9; 20_000])];
    for _ in 0..3 {
        assert_eq!(put(&mut wal, &huge).unwrap_err().kind(), FaultKind::NoSpace);
    }
    put(&mut wal, &[entry(2, 1, b"small")]).unwrap();
    power_cut(&disk);
    assert_eq!(indexes(&open(&disk).unwrap().1), [1, 2]);
}

/// Flips a bit of the record that starts at `offset` behind its header, and opens.
fn damaged(disk: &MemDisk, segment: &str, offset: u64) -> Fault {
    assert!(disk.flip_bit(&dir().join(segment), offset, 3));
    open(disk).err().expect("damage is refused")
}

#[test]
fn damage_in_the_middle_is_refused_and_named() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    fill(&mut wal, 1, 3, 100);
    let name = segments(&disk)[0].clone();
    // The opening takes 104 bytes, each record 24 + 16 + 16 + 100, padded to 160.
    let fault = damaged(&disk, &name, 104 + 160 + 50);
    assert_eq!(fault.kind(), FaultKind::Corrupted);
    let text = fault.to_string();
    assert!(
        text.starts_with(&format!(
            "wal segment {name}: checksum mismatch at byte 264 (record 2, last good index 1)"
        )),
        "{text}"
    );
    assert!(text.contains("restore from a snapshot"), "{text}");
    // Nothing was changed by the attempt, and the offline check says the same.
    assert_eq!(
        Wal::verify(&disk, dir()).unwrap_err(),
        open(&disk).err().unwrap()
    );
}

#[test]
fn damage_is_refused_wherever_a_bit_flips_in_synced_records() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    fill(&mut wal, 1, 6, 400);
    let name = segments(&disk)[0].clone();
    let end = 4096 - wal.space().active_bytes;
    drop(wal);
    for byte in 0..end {
        let copy = disk.fork();
        copy.flip_bit(&dir().join(&name), byte, (byte % 8) as u8);
        match open(&copy) {
            Err(fault) => assert_eq!(fault.kind(), FaultKind::Corrupted, "byte {byte}: {fault}"),
            // Padding carries no meaning.
            Ok((_, recovered)) => assert_eq!(
                indexes(&recovered),
                [1, 2, 3, 4, 5, 6],
                "byte {byte} was lost silently"
            ),
        }
    }
}

#[test]
fn damage_in_an_older_segment_is_refused() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    fill(&mut wal, 1, 12, 900);
    let name = segments(&disk)[0].clone();
    let fault = damaged(&disk, &name, 104 + 2 * 960 + 300);
    assert!(
        fault
            .to_string()
            .contains("at byte 2024 (record 3, last good index 2)"),
        "{fault}"
    );
}

#[test]
fn a_missing_segment_is_refused_wherever_it_is_missing() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    fill(&mut wal, 1, 20, 900);
    let names = segments(&disk);
    assert!(names.len() > 3);
    for name in &names[..names.len() - 1] {
        let copy = disk.fork();
        copy.remove(&dir().join(name)).unwrap();
        let fault = open(&copy).err().unwrap();
        assert_eq!(fault.kind(), FaultKind::Gap, "{fault}");
    }
    for name in &names {
        disk.remove(&dir().join(name)).unwrap();
    }
    assert_eq!(open(&disk).err().unwrap().kind(), FaultKind::Gap);
}

#[test]
fn a_segment_that_was_renamed_cut_or_brought_from_elsewhere_is_refused() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    fill(&mut wal, 1, 6, 900);
    let names = segments(&disk);
    let last = dir().join(&names[1]);

    let renamed = disk.fork();
    renamed
        .rename(&last, &dir().join("0000000000000001-0000000000000077.wal"))
        .unwrap();
    assert_eq!(open(&renamed).err().unwrap().kind(), FaultKind::Corrupted);

    let cut = disk.fork();
    cut.open(&last, Open::Write).unwrap().set_len(3000).unwrap();
    assert_eq!(open(&cut).err().unwrap().kind(), FaultKind::Corrupted);
    cut.open(&last, Open::Write).unwrap().set_len(0).unwrap();
    assert_eq!(open(&cut).err().unwrap().kind(), FaultKind::Corrupted);

    let other = MemDisk::new();
    let foreign = Identity {
        member_id: 0xbb,
        ..ID
    };
    let mut wal = Wal::create(Arc::new(other.clone()), dir(), small(), foreign).unwrap();
    fill(&mut wal, 1, 6, 900);
    let mut bytes = vec![0; 4096];
    crate::disk::read_exact_at(&*other.open(&last, Open::Read).unwrap(), 0, &mut bytes).unwrap();
    disk.open(&last, Open::Write)
        .unwrap()
        .write_at(0, &bytes)
        .unwrap();
    assert_eq!(open(&disk).err().unwrap().kind(), FaultKind::Identity);
}

#[test]
fn the_log_of_etcd_is_recognised_and_refused() {
    let disk = MemDisk::new();
    disk.create_dir_all(dir()).unwrap();
    let file = disk
        .open(
            &dir().join("0000000000000000-0000000000000000.wal"),
            Open::CreateNew,
        )
        .unwrap();
    // Frame: length 4, padding 4; record: type 4 (crc), crc 0.
    let mut bytes = vec![4, 0, 0, 0, 0, 0, 0, 0x84, 0x08, 0x04, 0x10, 0x00];
    bytes.resize(4096, 0);
    file.write_at(0, &bytes).unwrap();
    let fault = open(&disk).err().unwrap();
    assert_eq!(fault.kind(), FaultKind::Format);
    assert!(fault.to_string().contains("etcd"), "{fault}");
}

#[test]
fn a_newer_format_is_refused_by_its_number() {
    let disk = MemDisk::new();
    drop(create(&disk));
    let path = dir().join(&segments(&disk)[0]);
    let file = disk.open(&path, Open::Write).unwrap();
    let mut record = vec![0; 104];
    crate::disk::read_exact_at(&*file, 0, &mut record).unwrap();
    record[32] = 2;
    let checksum = super::record::checksum(&record);
    record[20..24].copy_from_slice(&checksum.to_le_bytes());
    file.write_at(0, &record).unwrap();
    assert_eq!(open(&disk).err().unwrap().kind(), FaultKind::Format);
}

#[test]
fn a_torn_tail_is_cut_and_nothing_of_it_stays() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    fill(&mut wal, 1, 2, 100);
    wal.append(&Batch {
        entries: &[entry(3, 1, &[3; 1200])],
        sync: false,
        ..Batch::default()
    })
    .unwrap();
    wal.append(&Batch {
        entries: &[entry(4, 1, &[4; 100])],
        sync: false,
        ..Batch::default()
    })
    .unwrap();
    // The first sector that was written is lost, all others survive.
    let mut first = true;
    disk.crash(&mut |options: usize| {
        if std::mem::take(&mut first) {
            0
        } else {
            options - 1
        }
    });
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(indexes(&recovered), [1, 2]);
    assert!(
        matches!(recovered.tail, Tail::Torn { byte: 424, .. }),
        "{:?}",
        recovered.tail
    );
    power_cut(&disk);
    let mut bytes = vec![0; 4096 - 424];
    crate::disk::read_exact_at(
        &*disk
            .open(&dir().join(&segments(&disk)[0]), Open::Read)
            .unwrap(),
        424,
        &mut bytes,
    )
    .unwrap();
    assert!(bytes.iter().all(|&byte| byte == 0));
}

#[test]
fn a_killed_process_loses_nothing_that_the_next_one_has_read() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    wal.append(&Batch {
        entries: &[entry(1, 1, b"a")],
        sync: false,
        ..Batch::default()
    })
    .unwrap();
    disk.kill();
    assert_eq!(indexes(&open(&disk).unwrap().1), [1]);
    power_cut(&disk);
    assert_eq!(indexes(&open(&disk).unwrap().1), [1]);
}

/// Linux drops what a failed sync should have written, and goes on to show it to whoever reads: until the power goes.
#[test]
fn what_a_failed_sync_has_lost_is_durable_once_the_next_process_has_read_it() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    fill(&mut wal, 1, 2, 300);
    disk.faults(|faults| faults.failing_syncs = 1);
    let fault = put(&mut wal, &[entry(3, 1, &[3; 1500])]).unwrap_err();
    assert_eq!(fault.kind(), FaultKind::SyncFailed);
    disk.kill();
    assert_eq!(indexes(&open(&disk).unwrap().1), [1, 2, 3]);
    power_cut(&disk);
    assert_eq!(indexes(&open(&disk).unwrap().1), [1, 2, 3]);
}

/// A commit index once survived a crash without the entries of its batch. It was bounded when the log was opened, but the
/// record stayed, and after the next append it called an entry committed that nobody had committed.
#[test]
fn a_commit_index_that_lost_its_entries_does_not_come_back_for_others() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    fill(&mut wal, 1, 2, 100);
    let entries = [entry(3, 1, &[3; 1200])];
    wal.append(&Batch {
        hard_state: Some(&state(1, 3)),
        entries: &entries,
        sync: false,
        ..Batch::default()
    })
    .unwrap();
    // Only the sector with the hard state survives.
    let mut first = true;
    disk.crash(&mut |options: usize| {
        if std::mem::take(&mut first) {
            options - 1
        } else {
            0
        }
    });
    let (mut wal, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.last_index, 2);
    assert_eq!(recovered.hard_state, state(1, 2));
    put(&mut wal, &[entry(3, 1, b"another")]).unwrap();
    assert_eq!(open(&disk).unwrap().1.hard_state, state(1, 2));
}

#[test]
fn a_commit_index_may_arrive_with_the_entries_that_replace_uncommitted_ones() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    fill(&mut wal, 1, 3, 10);
    let entries = [entry(2, 2, b"b"), entry(3, 2, b"c")];
    wal.append(&Batch {
        hard_state: Some(&state(2, 3)),
        entries: &entries,
        sync: true,
        ..Batch::default()
    })
    .unwrap();
    assert_eq!(open(&disk).unwrap().1.hard_state, state(2, 3));
}

#[test]
fn verify_reports_without_changing_anything() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    fill(&mut wal, 1, 6, 900);
    wal.append(&Batch {
        entries: &[entry(7, 1, &[3; 900])],
        sync: false,
        ..Batch::default()
    })
    .unwrap();
    let mut turn = 0;
    disk.crash(&mut |options: usize| {
        turn += 1;
        if turn == 2 { 0 } else { options - 1 }
    });
    disk.faults(|faults| faults.read_only = true);
    let verified = Wal::verify(&disk, dir()).unwrap();
    assert_eq!(verified.entries, Some((1, 6)));
    assert_eq!(verified.identity, ID);
    assert_eq!(verified.segments.len(), 2);
    assert!(matches!(verified.tail, Tail::Torn { .. }));
}

#[test]
fn names_that_are_not_ours_are_reported_and_left_alone() {
    let disk = MemDisk::new();
    drop(create(&disk));
    disk.open(&dir().join("lost+found"), Open::CreateNew)
        .unwrap();
    assert_eq!(open(&disk).unwrap().1.ignored, ["lost+found"]);
}

#[test]
#[should_panic(expected = "entries from 3 do not follow index 1")]
fn a_gap_in_the_log_is_a_mistake_of_the_caller() {
    let mut wal = create(&MemDisk::new());
    fill(&mut wal, 1, 1, 10);
    let _ = put(&mut wal, &[entry(3, 1, b"c")]);
}

#[test]
fn mutated_files_never_panic_and_never_loop() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    fill(&mut wal, 1, 7, 300);
    wal.append(&Batch {
        hard_state: Some(&state(3, 7)),
        marker: Some(&marker(5, 1)),
        sync: true,
        ..Batch::default()
    })
    .unwrap();
    fill(&mut wal, 8, 20, 300);
    let names = segments(&disk);
    for seed in 0..400 {
        let mut rng = crate::disk::enumerate::Rng(seed);
        let copy = disk.fork();
        let path = dir().join(&names[rng.below(names.len() as u64) as usize]);
        let file = copy.open(&path, Open::Write).unwrap();
        for _ in 0..1 + rng.below(4) {
            let bytes: Vec<u8> = (0..1 + rng.below(16))
                .map(|_| {
                    if rng.below(2) == 0 {
                        0xff
                    } else {
                        rng.draw() as u8
                    }
                })
                .collect();
            file.write_at(rng.below(4096), &bytes).unwrap();
        }
        if let Ok((_, recovered)) = open(&copy) {
            let found = indexes(&recovered);
            assert!(
                found.iter().zip(1..).all(|(&a, b)| a == b),
                "seed {seed}: {found:?}"
            );
        }
    }
}
