//! A disk that tells what a thread has spent on it.
//!
//! The log and the store know no clock. Their threads ask here, after a piece of work, how long its writes and syncs took.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use storage::disk::{Disk, File, Lock, Open};

/// What a thread has spent since it last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    pub written_bytes: u64,
    pub writes: u32,
    pub writing: Duration,
    pub syncs: u32,
    pub syncing: Duration,
}

thread_local! {
    static SPENT: Cell<Spent> = Cell::default();
}

/// What this thread has spent since it last asked.
pub fn take_spent() -> Spent {
    SPENT.take()
}

fn spend(add: impl FnOnce(&mut Spent)) {
    let mut spent = SPENT.get();
    add(&mut spent);
    SPENT.set(spent);
}

/// The disk below, with a clock.
pub struct MeteredDisk(pub Arc<dyn Disk>);

struct MeteredFile(Arc<dyn File>);

impl Disk for MeteredDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir_all(path)
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(MeteredFile(self.0.open(path, how)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.exists(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.0.lock(path)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.0.free_space(path)
    }

    fn mode(&self, path: &Path) -> io::Result<u32> {
        self.0.mode(path)
    }

    fn is_dir(&self, path: &Path) -> io::Result<bool> {
        self.0.is_dir(path)
    }
}

impl File for MeteredFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let began = Instant::now();
        let written = self.0.write_at(offset, bytes);
        spend(|spent| {
            spent.written_bytes += bytes.len() as u64;
            spent.writes += 1;
            spent.writing += began.elapsed();
        });
        written
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        let began = Instant::now();
        let synced = self.0.sync();
        spend(|spent| {
            spent.syncs += 1;
            spent.syncing += began.elapsed();
        });
        synced
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::disk::MemDisk;

    #[test]
    fn each_thread_is_told_what_it_has_spent_itself_and_once() {
        let disk = MeteredDisk(Arc::new(MemDisk::new()));
        let file = disk
            .open(Path::new("/f"), Open::CreateNew)
            .expect("a new file");
        file.write_at(0, b"abc").expect("room");
        file.sync().expect("a disk of memory");
        let beside = file.clone();
        let elsewhere = std::thread::spawn(move || {
            beside.write_at(3, b"defgh").expect("room");
            take_spent().written_bytes
        });
        assert_eq!(elsewhere.join().expect("no panic"), 5);
        let spent = take_spent();
        assert_eq!((spent.written_bytes, spent.writes, spent.syncs), (3, 1, 1));
        assert_eq!(take_spent(), Spent::default());
    }
}
