//! A deterministic disk in memory that forgets like a real one.
//!
//! What it keeps apart is what a program has written and what would be there after a power cut. Of every file it knows the
//! durable content of each 512-byte sector written since the last sync, and the versions written since; of every directory
//! the names since its last sync. [`MemDisk::crash`] asks a [`Chooser`], for each of those, what reached the disk. It also
//! plays the failures of [`Faults`]: a sync that fails and drops what it should have written, a full disk, a read-only one,
//! one unreadable file, a flipped bit.
//!
//! It knows no time and no randomness: both come in through the chooser. Zeros cost nothing: a zero-filled file of 64 MiB
//! is a few pointers. Copies ([`MemDisk::fork`]) share their content until one of them writes.
//!
//! **Which directory operations survive.** Each operation not yet synced is decided alone, and those that survived are
//! played in order; a rename is one operation, never half of one. ext4 and xfs commit their journal in order, which would be
//! a prefix, but POSIX promises nothing, and btrfs was seen to reorder (Pillai et al., "All File Systems Are Not Created
//! Equal", OSDI 2014), so any subset is the model.

mod content;
mod tree;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Disk, File, Lock, Open};
use tree::Tree;

/// Decides what a crash leaves behind.
pub trait Chooser {
    /// Chooses one of `options` (at least 2) outcomes for something not synced. For a sector, 0 is the durable content and
    /// k the k-th version written since; for a length likewise; for a directory operation 0 is lost and 1 survived.
    fn choose(&mut self, options: usize) -> usize;
}

impl<F: FnMut(usize) -> usize> Chooser for F {
    fn choose(&mut self, options: usize) -> usize {
        self(options)
    }
}

/// The failures that a test or the simulator can switch on. All off by default.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// So many of the next file syncs fail with an I/O error, and drop what they should have made durable: it stays readable
    /// until the crash, and no later sync brings it back (what Linux does to dirty pages).
    pub failing_syncs: u64,
    /// So many bytes the disk holds, counted as the lengths of its files. A write beyond fails with `StorageFull`, after the
    /// part that fits was written.
    pub capacity_bytes: Option<u64>,
    /// Every change fails with `ReadOnlyFilesystem`.
    pub read_only: bool,
    /// Reads, writes and syncs of a file opened by one of these names fail with an I/O error.
    pub unreadable: Vec<PathBuf>,
    /// After so many further changing operations every operation fails, as when the device goes away.
    pub operations_left: Option<u64>,
}

/// One changing operation, as [`MemDisk::record`] keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// `len` bytes written at `offset`.
    Write {
        path: PathBuf,
        offset: u64,
        len: usize,
    },
    /// The file cut or extended.
    SetLen { path: PathBuf, len: u64 },
    /// The file synced.
    Sync { path: PathBuf },
    /// The file created.
    Create { path: PathBuf },
    /// The directory, and perhaps its parents, created.
    CreateDir { path: PathBuf },
    /// Renamed.
    Rename { from: PathBuf, to: PathBuf },
    /// Removed.
    Remove { path: PathBuf },
    /// The directory synced.
    SyncDir { path: PathBuf },
}

/// The disk. Clones are handles to the same disk; [`MemDisk::fork`] copies it.
#[derive(Clone, Default)]
pub struct MemDisk {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    tree: Tree,
    faults: Faults,
    locks: BTreeMap<PathBuf, u64>,
    lock_last: u64,
    /// Counts crashes: files and locks from before the last one are dead.
    epoch: u64,
    operations: u64,
    recording: Option<Vec<(Op, MemDisk)>>,
}

/// A durable image, as [`MemDisk::snapshot`] takes and [`MemDisk::restore`] puts back.
#[derive(Clone)]
pub struct Image(Tree);

impl MemDisk {
    /// An empty disk with only the root directory, which is also what relative paths start from.
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    /// Power off and on: what was not synced is decided by `chooser`, open files and locks die.
    pub fn crash(&self, chooser: &mut dyn Chooser) {
        let mut shared = self.lock_shared();
        shared.tree.crash(chooser);
        shared.epoch += 1;
        shared.locks.clear();
        shared.faults.failing_syncs = 0;
        shared.faults.operations_left = None;
    }

    /// The process is killed while the machine runs on: open files and locks die, what was written stays as it is, synced
    /// or not.
    pub fn kill(&self) {
        let mut shared = self.lock_shared();
        shared.epoch += 1;
        shared.locks.clear();
    }

    /// A copy with the same content, synced and not, and the same faults; without locks, open files or recording.
    pub fn fork(&self) -> MemDisk {
        let shared = self.lock_shared();
        MemDisk::from_parts(shared.tree.clone(), shared.faults.clone())
    }

    /// What a crash right now would leave behind if nothing unsynced survived.
    pub fn snapshot(&self) -> Image {
        let mut tree = self.lock_shared().tree.clone();
        tree.crash(&mut |_: usize| 0);
        Image(tree)
    }

    /// Puts an image back, as a crash would: open files and locks die, the faults stay.
    pub fn restore(&self, image: &Image) {
        let mut shared = self.lock_shared();
        shared.tree = image.0.clone();
        shared.epoch += 1;
        shared.locks.clear();
    }

    /// Changes the faults.
    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.lock_shared().faults);
    }

    /// Flips one bit (0..8) of a byte, on the disk and in everything not yet synced. Returns false if there is no such file
    /// or byte.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> bool {
        let mut shared = self.lock_shared();
        let Ok(ino) = shared.tree.resolve(path) else {
            return false;
        };
        match shared.tree.file_mut(ino) {
            Ok(content) if offset < content.len() => {
                content.flip_bit(offset, bit);
                true
            }
            _ => false,
        }
    }

    /// How many changing operations there have been.
    pub fn operations(&self) -> u64 {
        self.lock_shared().operations
    }

    /// From now on keeps, after each changing operation, the operation and a fork of the disk.
    pub fn record(&self) {
        self.lock_shared().recording = Some(Vec::new());
    }

    /// How many operations were recorded.
    pub fn recorded(&self) -> usize {
        self.lock_shared().recording.as_ref().map_or(0, Vec::len)
    }

    /// Stops recording and returns each operation with the disk right after it.
    pub fn recording(&self) -> Vec<(Op, MemDisk)> {
        self.lock_shared().recording.take().unwrap_or_default()
    }

    /// Sets the permission bits of a file or directory, for tests of those checks.
    pub fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        let mut shared = self.lock_shared();
        let ino = shared.tree.resolve(path)?;
        shared.tree.node_mut(ino)?.mode = mode;
        Ok(())
    }

    /// Bytes of content held in memory for files (not counting zeros).
    pub fn memory_bytes(&self) -> u64 {
        self.lock_shared().tree.memory_bytes()
    }

    fn from_parts(tree: Tree, faults: Faults) -> MemDisk {
        MemDisk {
            shared: Arc::new(Mutex::new(Shared {
                tree,
                faults,
                ..Shared::default()
            })),
        }
    }

    fn lock_shared(&self) -> MutexGuard<'_, Shared> {
        // A panic of another thread while it held the lock is that thread's failure, not the disk's.
        self.shared
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Shared {
    /// Refuses a change if a fault says so.
    fn admit(&mut self) -> io::Result<()> {
        if self.faults.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        match &mut self.faults.operations_left {
            Some(0) => return Err(io::Error::other("device gone")),
            Some(left) => *left -= 1,
            None => {}
        }
        self.operations += 1;
        Ok(())
    }

    fn note(&mut self, op: impl FnOnce() -> Op) {
        if let Some(recording) = &mut self.recording {
            recording.push((
                op(),
                MemDisk::from_parts(self.tree.clone(), self.faults.clone()),
            ));
        }
    }

    /// How many of the bytes that make a file grow from `len` to `end` fit.
    fn room(&self, len: u64, end: u64) -> u64 {
        match self.faults.capacity_bytes {
            Some(capacity) if end > len => capacity
                .saturating_sub(self.tree.used_bytes())
                .min(end - len),
            _ => end.saturating_sub(len),
        }
    }
}

impl Disk for MemDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut shared = self.lock_shared();
        if shared
            .tree
            .resolve(path)
            .is_ok_and(|ino| shared.tree.is_dir(ino))
        {
            return Ok(());
        }
        shared.admit()?;
        shared.tree.create_dir_all(path)?;
        shared.note(|| Op::CreateDir { path: path.into() });
        Ok(())
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut shared = self.lock_shared();
        let ino = match (shared.tree.resolve(path), how) {
            (Ok(_), Open::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(ino), _) if shared.tree.is_dir(ino) => {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            (Ok(ino), _) => ino,
            (Err(error), Open::Create | Open::CreateNew)
                if error.kind() == io::ErrorKind::NotFound =>
            {
                shared.admit()?;
                let ino = shared.tree.create_file(path)?;
                shared.note(|| Op::Create { path: path.into() });
                ino
            }
            (Err(error), _) => return Err(error),
        };
        if how != Open::Read && shared.faults.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        shared.tree.node_mut(ino)?.handles += 1;
        let epoch = shared.epoch;
        Ok(Arc::new(MemFile {
            disk: self.clone(),
            ino,
            epoch,
            path: path.into(),
            writable: how != Open::Read,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut shared = self.lock_shared();
        shared.admit()?;
        shared.tree.rename(from, to)?;
        shared.note(|| Op::Rename {
            from: from.into(),
            to: to.into(),
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut shared = self.lock_shared();
        shared.admit()?;
        shared.tree.remove(path)?;
        shared.note(|| Op::Remove { path: path.into() });
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.lock_shared().tree.list(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.lock_shared().tree.resolve(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut shared = self.lock_shared();
        shared.admit()?;
        if shared.faults.failing_syncs > 0 {
            shared.faults.failing_syncs -= 1;
            return Err(io::Error::other("input/output error"));
        }
        shared.tree.sync_dir(dir)?;
        shared.note(|| Op::SyncDir { path: dir.into() });
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        drop(self.open(path, Open::Create)?);
        let mut shared = self.lock_shared();
        if shared.locks.contains_key(path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        shared.lock_last += 1;
        let id = shared.lock_last;
        shared.locks.insert(path.into(), id);
        Ok(Box::new(MemLock {
            disk: self.clone(),
            path: path.into(),
            id,
        }))
    }

    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        let shared = self.lock_shared();
        // Without a limit, plenty: an exabyte.
        Ok(shared.faults.capacity_bytes.map_or(1 << 60, |capacity| {
            capacity.saturating_sub(shared.tree.used_bytes())
        }))
    }

    fn mode(&self, path: &Path) -> io::Result<u32> {
        let mut shared = self.lock_shared();
        let ino = shared.tree.resolve(path)?;
        Ok(shared.tree.node_mut(ino)?.mode)
    }

    fn is_dir(&self, path: &Path) -> io::Result<bool> {
        let shared = self.lock_shared();
        Ok(shared.tree.is_dir(shared.tree.resolve(path)?))
    }
}

struct MemFile {
    disk: MemDisk,
    ino: usize,
    epoch: u64,
    path: PathBuf,
    writable: bool,
}

impl MemFile {
    fn shared(&self) -> io::Result<MutexGuard<'_, Shared>> {
        let shared = self.disk.lock_shared();
        if shared.epoch != self.epoch {
            return Err(io::Error::other("file was opened before the crash"));
        }
        if !shared.faults.unreadable.is_empty() && shared.faults.unreadable.contains(&self.path) {
            return Err(io::Error::other("input/output error"));
        }
        Ok(shared)
    }

    fn shared_for_change(&self) -> io::Result<MutexGuard<'_, Shared>> {
        let mut shared = self.shared()?;
        if !self.writable {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "file was opened for reading",
            ));
        }
        shared.admit()?;
        Ok(shared)
    }
}

impl File for MemFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.shared()?.tree.file_mut(self.ino)?.read(offset, buffer))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut shared = self.shared_for_change()?;
        let len = shared.tree.file_mut(self.ino)?.len();
        let end = offset
            .checked_add(bytes.len() as u64)
            .ok_or(io::ErrorKind::FileTooLarge)?;
        let fits = end
            .min(len.saturating_add(shared.room(len, end)))
            .saturating_sub(offset);
        let fits = usize::try_from(fits).map_or(bytes.len(), |fits| fits.min(bytes.len()));
        let written = bytes.get(..fits).unwrap_or(bytes);
        shared.tree.file_mut(self.ino)?.write(offset, written);
        shared.note(|| Op::Write {
            path: self.path.clone(),
            offset,
            len: written.len(),
        });
        if written.len() < bytes.len() {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.shared()?.tree.file_mut(self.ino)?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut shared = self.shared_for_change()?;
        let old = shared.tree.file_mut(self.ino)?.len();
        if len > old && shared.room(old, len) < len - old {
            return Err(io::ErrorKind::StorageFull.into());
        }
        shared.tree.file_mut(self.ino)?.set_len(len);
        shared.note(|| Op::SetLen {
            path: self.path.clone(),
            len,
        });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut shared = self.shared()?;
        shared.operations += 1;
        if shared.faults.failing_syncs > 0 {
            shared.faults.failing_syncs -= 1;
            shared.tree.file_mut(self.ino)?.lose();
            return Err(io::Error::other("input/output error"));
        }
        if shared.faults.operations_left == Some(0) {
            return Err(io::Error::other("device gone"));
        }
        shared.tree.file_mut(self.ino)?.sync();
        shared.note(|| Op::Sync {
            path: self.path.clone(),
        });
        Ok(())
    }
}

impl Drop for MemFile {
    fn drop(&mut self) {
        let mut shared = self.disk.lock_shared();
        if shared.epoch == self.epoch {
            shared.tree.release(self.ino);
        }
    }
}

struct MemLock {
    disk: MemDisk,
    path: PathBuf,
    id: u64,
}

impl Lock for MemLock {}

impl Drop for MemLock {
    fn drop(&mut self) {
        let mut shared = self.disk.lock_shared();
        if shared.locks.get(&self.path) == Some(&self.id) {
            shared.locks.remove(&self.path);
        }
    }
}

#[cfg(test)]
mod tests;
