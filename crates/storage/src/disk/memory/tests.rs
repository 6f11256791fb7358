use std::path::Path;

use super::*;
use crate::disk::enumerate::{Limits, Rng, crash_states};
use crate::disk::{create_dir_durable, read_full_at};

fn nothing_survives() -> impl Chooser {
    |_: usize| 0
}

fn everything_survives() -> impl Chooser {
    |options: usize| options - 1
}

fn durable_file(disk: &MemDisk, name: &str) -> Arc<dyn File> {
    let file = disk.open(Path::new(name), Open::CreateNew).unwrap();
    disk.sync_dir(Path::new(".")).unwrap();
    file
}

fn content(disk: &MemDisk, name: &str) -> Vec<u8> {
    let file = disk.open(Path::new(name), Open::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize + 1];
    let n = read_full_at(&*file, 0, &mut bytes).unwrap();
    bytes.truncate(n);
    bytes
}

#[test]
fn synced_bytes_survive_and_unsynced_ones_need_luck() {
    let disk = MemDisk::new();
    let file = durable_file(&disk, "a");
    file.write_at(0, b"one").unwrap();
    file.sync().unwrap();
    file.write_at(0, b"two").unwrap();
    let lucky = disk.fork();
    disk.crash(&mut nothing_survives());
    lucky.crash(&mut everything_survives());
    assert_eq!(content(&disk, "a"), b"one");
    assert_eq!(content(&lucky, "a"), b"two");
}

#[test]
fn any_subset_of_sectors_may_survive_also_an_older_version_of_one() {
    let disk = MemDisk::new();
    let file = durable_file(&disk, "a");
    file.write_at(0, &[b'a'; 1024]).unwrap();
    file.sync().unwrap();
    file.write_at(0, &[b'b'; 1024]).unwrap();
    file.write_at(0, &[b'c'; 512]).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    let states = crash_states(&disk, &Limits::default(), |crashed| {
        let bytes = content(&crashed, "a");
        seen.insert((bytes[0] as char, bytes[512] as char));
    });
    assert_eq!(states, 6);
    assert_eq!(seen.len(), 6, "{seen:?}");
}

#[test]
fn a_new_length_is_not_durable_before_the_sync() {
    let disk = MemDisk::new();
    let file = durable_file(&disk, "a");
    file.set_len(1000).unwrap();
    disk.crash(&mut nothing_survives());
    assert_eq!(content(&disk, "a").len(), 0);
}

#[test]
fn a_cut_file_that_crashes_may_have_its_bytes_back() {
    let disk = MemDisk::new();
    let file = durable_file(&disk, "a");
    file.write_at(0, &[7; 600]).unwrap();
    file.sync().unwrap();
    file.set_len(10).unwrap();
    file.set_len(600).unwrap();
    assert_eq!(content(&disk, "a")[10..], [0; 590]);
    disk.crash(&mut nothing_survives());
    assert_eq!(content(&disk, "a"), [7; 600]);
}

#[test]
fn names_are_durable_only_after_the_directory_is_synced() {
    let disk = MemDisk::new();
    disk.open(Path::new("a"), Open::CreateNew)
        .unwrap()
        .sync()
        .unwrap();
    let synced = disk.fork();
    synced.sync_dir(Path::new(".")).unwrap();
    disk.crash(&mut nothing_survives());
    synced.crash(&mut nothing_survives());
    assert!(!disk.exists(Path::new("a")).unwrap());
    assert!(synced.exists(Path::new("a")).unwrap());
}

#[test]
fn a_rename_is_all_or_nothing_and_replaces_in_one_step() {
    let disk = MemDisk::new();
    durable_file(&disk, "new").write_at(0, b"new").unwrap();
    disk.open(Path::new("new"), Open::Write)
        .unwrap()
        .sync()
        .unwrap();
    durable_file(&disk, "old").write_at(0, b"old").unwrap();
    disk.open(Path::new("old"), Open::Write)
        .unwrap()
        .sync()
        .unwrap();
    disk.rename(Path::new("new"), Path::new("old")).unwrap();
    assert_eq!(content(&disk, "old"), b"new");
    let states = crash_states(&disk, &Limits::default(), |crashed| {
        match crashed.exists(Path::new("new")).unwrap() {
            true => assert_eq!(content(&crashed, "old"), b"old"),
            false => assert_eq!(content(&crashed, "old"), b"new"),
        }
    });
    assert_eq!(states, 2);
}

#[test]
fn a_renamed_directory_keeps_its_files() {
    let disk = MemDisk::new();
    create_dir_durable(&disk, Path::new("tmp/x")).unwrap();
    disk.open(Path::new("tmp/x/a"), Open::CreateNew)
        .unwrap()
        .sync()
        .unwrap();
    disk.sync_dir(Path::new("tmp/x")).unwrap();
    disk.rename(Path::new("tmp"), Path::new("final")).unwrap();
    disk.sync_dir(Path::new(".")).unwrap();
    disk.crash(&mut nothing_survives());
    assert_eq!(disk.list(Path::new("final/x")).unwrap(), ["a"]);
    assert!(!disk.exists(Path::new("tmp")).unwrap());
}

#[test]
fn create_dir_durable_leaves_nothing_to_luck() {
    let disk = MemDisk::new();
    create_dir_durable(&disk, Path::new("/a/b/c")).unwrap();
    disk.crash(&mut nothing_survives());
    assert!(disk.is_dir(Path::new("/a/b/c")).unwrap());
}

#[test]
fn a_failed_sync_loses_the_data_and_a_second_one_does_not_bring_it_back() {
    let disk = MemDisk::new();
    let file = durable_file(&disk, "a");
    file.write_at(0, b"one").unwrap();
    file.sync().unwrap();
    file.write_at(0, b"two").unwrap();
    disk.faults(|faults| faults.failing_syncs = 1);
    file.sync().unwrap_err();
    file.sync().unwrap();
    assert_eq!(content(&disk, "a"), b"two", "the page cache still has it");
    let again = disk.fork();
    disk.crash(&mut everything_survives());
    assert_eq!(content(&disk, "a"), b"one");
    // Written again and synced, it is durable.
    let file = again.open(Path::new("a"), Open::Write).unwrap();
    file.write_at(0, b"two").unwrap();
    file.sync().unwrap();
    again.crash(&mut nothing_survives());
    assert_eq!(content(&again, "a"), b"two");
}

#[test]
fn a_full_disk_refuses_growth_but_not_overwriting() {
    let disk = MemDisk::new();
    let file = durable_file(&disk, "a");
    file.write_at(0, &[1; 1000]).unwrap();
    disk.faults(|faults| faults.capacity_bytes = Some(1500));
    assert_eq!(disk.free_space(Path::new(".")).unwrap(), 500);
    file.write_at(0, &[2; 1000]).unwrap();
    let error = file.write_at(900, &[3; 1000]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), 1500, "what fits was written");
    assert_eq!(
        file.set_len(1501).unwrap_err().kind(),
        io::ErrorKind::StorageFull
    );
    drop(file);
    disk.remove(Path::new("a")).unwrap();
    assert_eq!(disk.free_space(Path::new(".")).unwrap(), 1500);
}

#[test]
fn a_read_only_disk_refuses_every_change() {
    let disk = MemDisk::new();
    let file = durable_file(&disk, "a");
    disk.faults(|faults| faults.read_only = true);
    let refused = [
        file.write_at(0, b"x"),
        file.set_len(3),
        disk.remove(Path::new("a")),
        disk.rename(Path::new("a"), Path::new("b")),
        disk.create_dir_all(Path::new("d")),
        disk.open(Path::new("b"), Open::Create).map(drop),
    ];
    for result in refused {
        assert_eq!(
            result.unwrap_err().kind(),
            io::ErrorKind::ReadOnlyFilesystem
        );
    }
}

#[test]
fn a_lock_is_exclusive_until_dropped_or_the_process_dies() {
    let disk = MemDisk::new();
    let lock = disk.lock(Path::new("lock")).unwrap();
    assert_eq!(
        disk.lock(Path::new("lock")).err().unwrap().kind(),
        io::ErrorKind::WouldBlock
    );
    drop(lock);
    let _dead = disk.lock(Path::new("lock")).unwrap();
    disk.kill();
    disk.lock(Path::new("lock")).unwrap();
}

#[test]
fn a_file_opened_before_the_crash_is_dead() {
    let disk = MemDisk::new();
    let file = durable_file(&disk, "a");
    disk.crash(&mut everything_survives());
    file.write_at(0, b"x").unwrap_err();
    assert_eq!(content(&disk, "a"), b"");
}

#[test]
fn zeros_cost_no_memory() {
    let disk = MemDisk::new();
    let file = durable_file(&disk, "a");
    let zeros = vec![0; 1 << 20];
    for i in 0..64 {
        file.write_at(i << 20, &zeros).unwrap();
    }
    file.sync().unwrap();
    file.write_at(40 << 20, b"x").unwrap();
    assert_eq!(file.len().unwrap(), 64 << 20);
    assert!(disk.memory_bytes() < 8192, "{}", disk.memory_bytes());
}

#[test]
fn a_flipped_bit_is_in_the_file_and_in_what_a_crash_leaves() {
    let disk = MemDisk::new();
    let file = durable_file(&disk, "a");
    file.write_at(0, b"aaa").unwrap();
    file.sync().unwrap();
    file.write_at(0, b"bbb").unwrap();
    assert!(disk.flip_bit(Path::new("a"), 1, 0));
    assert!(!disk.flip_bit(Path::new("a"), 3, 0));
    assert_eq!(content(&disk, "a"), b"bcb");
    disk.crash(&mut nothing_survives());
    assert_eq!(content(&disk, "a"), b"a`a");
}

#[test]
fn the_model_agrees_with_a_plain_array() {
    for seed in 0..50 {
        let mut rng = Rng(seed);
        let disk = MemDisk::new();
        let file = durable_file(&disk, "a");
        let mut model: Vec<u8> = Vec::new();
        let mut durable: Vec<u8> = Vec::new();
        for _ in 0..60 {
            match rng.below(8) {
                0 => {
                    file.sync().unwrap();
                    durable = model.clone();
                }
                1 => {
                    let len = rng.below(12000);
                    file.set_len(len).unwrap();
                    model.resize(len as usize, 0);
                }
                _ => {
                    let (at, len) = (rng.below(9000) as usize, rng.below(3000) as usize);
                    let bytes = vec![rng.below(3) as u8; len];
                    file.write_at(at as u64, &bytes).unwrap();
                    if len > 0 {
                        model.resize(model.len().max(at + len), 0);
                        model[at..at + len].copy_from_slice(&bytes);
                    }
                }
            }
            assert_eq!(content(&disk, "a"), model);
        }
        let kept = disk.fork();
        kept.crash(&mut everything_survives());
        assert_eq!(content(&kept, "a"), model);
        disk.crash(&mut nothing_survives());
        assert_eq!(content(&disk, "a"), durable, "seed {seed}");
    }
}
