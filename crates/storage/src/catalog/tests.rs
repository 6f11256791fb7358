//! The claims of the catalog, on a disk that forgets.

use super::*;
use crate::disk::{self, MemDisk};

const DIR: &str = "member/store";

fn open(disk: &MemDisk) -> Result<(Catalog, Option<Recovered>), Fault> {
    Catalog::open(Arc::new(disk.clone()), DIR)
}

fn end(sequence: u64) -> SegmentEnd {
    SegmentEnd {
        sequence,
        generation: 0,
        end: 100,
        records: 1,
        sealed: false,
    }
}

/// A commit at `index` that sets `lease/a` to the index and `lease/<index>` to a value.
fn commit(index: u64) -> Commit {
    Commit {
        applied: (index, 2),
        clear: false,
        ops: vec![
            (
                Table::Lease,
                b"a".to_vec(),
                Some(index.to_le_bytes().to_vec()),
            ),
            (
                Table::Lease,
                index.to_be_bytes().to_vec(),
                Some(vec![index as u8; 40]),
            ),
        ],
        segments: vec![end(index)],
    }
}

/// The file of the newest generation.
fn log(disk: &MemDisk) -> PathBuf {
    let names = disk.list(Path::new(DIR)).unwrap();
    Path::new(DIR).join(names.iter().rfind(|name| name.ends_with(".log")).unwrap())
}

fn read_file(disk: &MemDisk, path: &Path) -> Vec<u8> {
    let file = disk.open(path, Open::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    disk::read_exact_at(&*file, 0, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_new_catalog_has_nothing_and_says_so() {
    let disk = MemDisk::new();
    assert_eq!(open(&disk).unwrap().1, None);
    assert_eq!(open(&disk).unwrap().1, None);
}

#[test]
fn the_last_commit_is_what_is_recovered() {
    let disk = MemDisk::new();
    let (mut catalog, _) = open(&disk).unwrap();
    for index in 1..=3 {
        catalog.commit(&commit(index)).unwrap();
    }
    let remove = Commit {
        ops: vec![(Table::Lease, 2u64.to_be_bytes().to_vec(), None)],
        ..commit(4)
    };
    catalog.commit(&remove).unwrap();
    let (_, recovered) = open(&disk).unwrap();
    let recovered = recovered.unwrap();
    assert_eq!(recovered.applied, (4, 2));
    assert_eq!(recovered.segments, vec![end(4)]);
    assert_eq!(&recovered.tables, catalog.tables());
    assert_eq!(
        recovered.tables.get(Table::Lease, b"a"),
        Some(&3u64.to_le_bytes()[..])
    );
    assert_eq!(recovered.tables.len(Table::Lease), 3);
    assert_eq!(
        Catalog::inspect(&disk, Path::new(DIR)).unwrap(),
        Some(recovered)
    );
}

#[test]
fn a_clearing_commit_leaves_only_its_own() {
    let disk = MemDisk::new();
    let (mut catalog, _) = open(&disk).unwrap();
    catalog.commit(&commit(9)).unwrap();
    catalog
        .commit(&Commit {
            clear: true,
            ..commit(5)
        })
        .unwrap();
    let recovered = open(&disk).unwrap().1.unwrap();
    assert_eq!(
        (recovered.applied.0, recovered.tables.len(Table::Lease)),
        (5, 2)
    );
}

#[test]
fn the_same_commits_give_the_same_bytes() {
    let make = || {
        let disk = MemDisk::new();
        let (mut catalog, _) = open(&disk).unwrap();
        catalog.garbage_bytes_min = 200;
        (1..30).for_each(|index| catalog.commit(&commit(index)).unwrap());
        assert!(catalog.generation() > 1);
        read_file(&disk, &log(&disk))
    };
    assert_eq!(make(), make());
}

#[test]
fn a_generation_holds_what_the_one_before_held_and_replaces_it() {
    let disk = MemDisk::new();
    let (mut catalog, _) = open(&disk).unwrap();
    catalog.garbage_bytes_min = 1000;
    let big = (Table::AuthUsers, b"big".to_vec(), Some(vec![5; 300_000]));
    catalog
        .commit(&Commit {
            ops: vec![big.clone(), (Table::V2, b"big".to_vec(), big.2)],
            ..commit(1)
        })
        .unwrap();
    for index in 2..=20_000 {
        catalog
            .commit(&Commit {
                ops: vec![(Table::Lease, b"a".to_vec(), Some(vec![index as u8; 100]))],
                ..commit(index)
            })
            .unwrap();
        if catalog.generation() == 3 {
            break;
        }
    }
    assert_eq!(catalog.generation(), 3);
    let recovered = open(&disk).unwrap().1.unwrap();
    assert_eq!(&recovered.tables, catalog.tables());
    assert_eq!(recovered.applied, catalog.applied());
    assert_eq!(
        disk.list(Path::new(DIR)).unwrap(),
        ["catalog-0000000000000003.log"]
    );
}

/// Flips one bit of every byte of the file; tells what came of each.
fn flip_each(disk: &MemDisk, mut each: impl FnMut(u64, Result<Option<Recovered>, Fault>)) {
    let path = log(disk);
    for offset in 0..read_file(disk, &path).len() as u64 {
        let copy = disk.fork();
        assert!(copy.flip_bit(&path, offset, (offset % 8) as u8));
        each(offset, open(&copy).map(|(_, recovered)| recovered));
    }
}

#[test]
fn a_flipped_bit_before_the_last_commit_is_a_fault_that_names_file_and_byte() {
    let disk = MemDisk::new();
    let (mut catalog, _) = open(&disk).unwrap();
    (1..=4).for_each(|index| catalog.commit(&commit(index)).unwrap());
    let last = catalog.bytes();
    catalog.commit(&commit(5)).unwrap();
    let before_last = open(&disk.fork()).unwrap().1.unwrap();
    flip_each(&disk, |offset, result| match result {
        Err(fault) => {
            assert!(offset < last, "byte {offset}: {fault}");
            assert!(
                fault.message().contains("catalog-0000000000000001.log")
                    && fault.message().contains("at byte "),
                "{fault}"
            );
        }
        // Damage to the last commit cannot be told from a torn one: the commit before it stands, whole.
        Ok(recovered) => {
            let recovered = recovered.unwrap();
            assert!(
                offset >= last,
                "byte {offset} was flipped and nobody saw it"
            );
            assert_eq!(
                (recovered.applied.0, recovered.tables.len(Table::Lease)),
                (4, before_last.tables.len(Table::Lease) - 1)
            );
        }
    });
}

#[test]
fn damage_to_the_base_of_a_later_generation_is_never_taken_for_an_empty_catalog() {
    let disk = MemDisk::new();
    let (mut catalog, _) = open(&disk).unwrap();
    catalog.garbage_bytes_min = 0;
    let mut index = 0;
    while catalog.generation() == 1 {
        index += 1;
        catalog.commit(&commit(index)).unwrap();
    }
    assert_eq!(catalog.end, catalog.base_end, "the base is all there is");
    flip_each(&disk, |offset, result| {
        assert!(result.is_err(), "byte {offset}")
    });
}

#[test]
fn a_torn_last_commit_is_cut_and_the_next_one_takes_its_place() {
    let disk = MemDisk::new();
    let (mut catalog, _) = open(&disk).unwrap();
    catalog.commit(&commit(1)).unwrap();
    let whole = catalog.bytes();
    catalog.commit(&commit(2)).unwrap();
    let all = catalog.bytes();
    for len in whole..all {
        let copy = disk.fork();
        copy.open(&log(&copy), Open::Write)
            .unwrap()
            .set_len(len)
            .unwrap();
        let (mut catalog, recovered) = open(&copy).unwrap();
        assert_eq!(recovered.unwrap().applied.0, 1);
        assert_eq!(catalog.bytes(), whole);
        catalog.commit(&commit(7)).unwrap();
        assert_eq!(open(&copy).unwrap().1.unwrap().applied.0, 7);
    }
}

#[test]
fn segments_without_a_catalog_are_not_disowned() {
    let disk = MemDisk::new();
    let (catalog, _) = open(&disk).unwrap();
    disk.open(
        &Path::new(DIR).join("seg-0000000000000001-00000000.seg"),
        Open::CreateNew,
    )
    .unwrap();
    drop(catalog);
    assert!(
        open(&disk).is_ok(),
        "an empty catalog may have segments that no commit names yet"
    );
    disk.remove(&log(&disk)).unwrap();
    assert_eq!(open(&disk).err().unwrap().kind(), FaultKind::Gap);
}

#[test]
fn a_full_disk_leaves_the_catalog_as_it_was_and_a_failed_sync_ends_it() {
    let disk = MemDisk::new();
    let (mut catalog, _) = open(&disk).unwrap();
    catalog.commit(&commit(1)).unwrap();
    disk.faults(|faults| faults.capacity_bytes = Some(0));
    assert_eq!(
        catalog.commit(&commit(2)).unwrap_err().kind(),
        FaultKind::NoSpace
    );
    assert_eq!(catalog.applied().0, 1);
    disk.faults(|faults| faults.capacity_bytes = None);
    catalog.commit(&commit(2)).unwrap();
    disk.faults(|faults| faults.failing_syncs = 1);
    let fault = catalog.commit(&commit(3)).unwrap_err();
    assert_eq!(fault.kind(), FaultKind::SyncFailed);
    assert_eq!(catalog.commit(&commit(3)).unwrap_err(), fault);
    assert_eq!(catalog.applied().0, 2);
}

/// Linux drops what a failed sync should have written, and goes on to show it to whoever reads: until the power goes.
#[test]
fn a_commit_whose_sync_failed_leaves_no_hole_behind_the_next_one() {
    let disk = MemDisk::new();
    let (mut catalog, _) = open(&disk).unwrap();
    catalog.commit(&commit(1)).unwrap();
    // Longer than a sector: none that the next commit writes to has all of it.
    let mut second = commit(2);
    second.ops[1].2 = Some(vec![2; 2000]);
    disk.faults(|faults| faults.failing_syncs = 1);
    assert!(catalog.commit(&second).is_err());
    disk.kill();
    let (mut catalog, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.map(|found| found.applied), Some((2, 2)));
    catalog.commit(&commit(3)).unwrap();
    disk.crash(&mut |_: usize| 0);
    let recovered = open(&disk).unwrap().1;
    assert_eq!(recovered.map(|found| found.applied), Some((3, 2)));
}
