//! The operating system's disk keeps what the trait promises, and the formats run on it as they run in memory.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proto::raftpb::Entry;
use storage::datadir::{DataDir, Layout, Permissions, State};
use storage::disk::{Disk, Open, OsDisk, create_dir_durable, read_full_at};
use storage::fault::FaultKind;
use storage::wal::{Batch, Identity, Options, Tail, Wal};

const ID: Identity = Identity {
    cluster_id: 1,
    member_id: 2,
};

fn entry(index: u64, bytes: usize) -> Entry {
    let data = Some(Bytes::from(vec![index as u8; bytes]));
    Entry {
        r#type: Some(0),
        term: Some(1),
        index: Some(index),
        data,
    }
}

#[test]
fn files_are_private_and_names_are_listed_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("a/b");
    create_dir_durable(&OsDisk, &inner).unwrap();
    for name in ["2", "1", "3"] {
        OsDisk.open(&inner.join(name), Open::CreateNew).unwrap();
    }
    OsDisk.rename(&inner.join("3"), &inner.join("0")).unwrap();
    OsDisk.remove(&inner.join("2")).unwrap();
    assert_eq!(OsDisk.list(&inner).unwrap(), ["0", "1"]);
    assert_eq!(OsDisk.mode(&inner).unwrap(), 0o700);
    assert_eq!(OsDisk.mode(&inner.join("1")).unwrap(), 0o600);
    assert!(OsDisk.is_dir(&inner).unwrap() && !OsDisk.is_dir(&inner.join("1")).unwrap());
    assert!(OsDisk.free_space(&inner).unwrap() > 0);
    let exists = OsDisk
        .open(&inner.join("1"), Open::CreateNew)
        .err()
        .unwrap();
    assert_eq!(exists.kind(), io::ErrorKind::AlreadyExists);
    let missing = OsDisk.open(&inner.join("9"), Open::Write).err().unwrap();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_symbolic_link_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    OsDisk
        .open(&dir.path().join("file"), Open::CreateNew)
        .unwrap();
    std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
    OsDisk
        .open(&dir.path().join("link"), Open::Write)
        .err()
        .unwrap();
}

#[test]
fn bytes_are_where_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = OsDisk.open(&dir.path().join("a"), Open::Create).unwrap();
    file.write_at(5, b"hello").unwrap();
    file.set_len(12).unwrap();
    file.sync().unwrap();
    let mut bytes = [9; 20];
    assert_eq!(read_full_at(&*file, 0, &mut bytes).unwrap(), 12);
    assert_eq!(&bytes[..12], b"\0\0\0\0\0hello\0\0");
    OsDisk.sync_dir(dir.path()).unwrap();
}

#[test]
fn a_lock_is_held_until_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let lock = OsDisk.lock(&path).unwrap();
    assert_eq!(
        OsDisk.lock(&path).err().unwrap().kind(),
        io::ErrorKind::WouldBlock
    );
    drop(lock);
    OsDisk.lock(&path).unwrap();
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "the job runs on another thread, as the server runs it"
)]
fn a_log_rolls_releases_and_opens_again_on_the_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options::with_segment_bytes(64 << 10, 16 << 10);
    let mut wal = Wal::create(Arc::new(OsDisk), &dir.path().join("wal"), options(), ID).unwrap();
    for index in 1..=300 {
        wal.append(&Batch {
            entries: &[entry(index, 1000)],
            sync: index % 50 == 0,
            ..Batch::default()
        })
        .unwrap();
        if let Some(job) = wal.spare_job() {
            wal.install_spare(std::thread::spawn(|| job.run()).join().unwrap())
                .unwrap();
        }
    }
    drop(wal);
    let (_, recovered) = Wal::open(Arc::new(OsDisk), &dir.path().join("wal"), options()).unwrap();
    assert_eq!(
        (
            recovered.entries.len(),
            recovered.last_index,
            recovered.tail
        ),
        (300, 300, Tail::Clean)
    );
    assert_eq!(
        Wal::verify(&OsDisk, &dir.path().join("wal"))
            .unwrap()
            .entries,
        Some((1, 300))
    );
}

#[test]
fn a_data_directory_is_made_and_found_on_the_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().join("x.etcd"), None);
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let acquire = || DataDir::acquire(Arc::clone(&disk), layout.clone(), Permissions::Refuse);
    let mut first = acquire().unwrap();
    assert_eq!(first.state(), State::Fresh);
    first.create(ID, Options::default(), |_, _| Ok(())).unwrap();
    assert_eq!(acquire().err().unwrap().kind(), FaultKind::Locked);
    drop(first);
    let again = acquire().unwrap();
    assert_eq!(again.state(), State::Member);
    assert_eq!(
        again
            .open_wal(Options::default(), Some(ID))
            .unwrap()
            .1
            .identity,
        ID
    );
    assert!(disk.exists(Path::new(&layout.store_dir())).unwrap());
}
