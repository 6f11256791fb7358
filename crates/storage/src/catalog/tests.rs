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
