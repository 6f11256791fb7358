//! What is assumed of a disk, and the two disks there are.
//!
//! [`Disk`] and [`File`] are the border between formats and bytes. Everything in this crate is written against them, so
//! that the same code runs on [`OsDisk`], on [`MemDisk`] in the simulator, and under every crash that [`enumerate`] can
//! think of.
//!
//! The assumptions, which are POSIX's and no more:
//!
//! - A write is durable after a later [`File::sync`] of the same file returned `Ok`. Before that, any subset of its 512-byte
//!   sectors may have reached the disk, in any order.
//! - A file's new length is durable after the same sync.
//! - A created, renamed or removed name is durable after [`Disk::sync_dir`] of its directory, and not before. Syncing the
//!   file does not make its name durable.
//! - A sync that failed has lost the data. A later sync that succeeds says nothing about it.
//!
//! This module never interprets what is written. Start with [`Disk`].

pub mod enumerate;
pub mod memory;
mod os;

use std::io;
use std::path::Path;
use std::sync::Arc;

pub use memory::MemDisk;
pub use os::{OsDisk, OsDiskUnsynced};

/// A unit of atomic write: a crash leaves a sector old or new, never mixed.
pub const SECTOR_BYTES: usize = 512;

/// How [`Disk::open`] opens a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// For reading; the file must exist.
    Read,
    /// For reading and writing; the file must exist.
    Write,
    /// For reading and writing; the file must not exist and is created empty (mode 0600).
    CreateNew,
    /// For reading and writing; the file is created empty (mode 0600) unless it exists. Never truncates.
    Create,
}

/// A file system, or the part of one that a member uses.
pub trait Disk: Send + Sync {
    /// Creates the directory and its missing parents, mode 0700. Succeeds if it exists. Not durable until each parent
    /// directory is synced; [`create_dir_durable`] does both.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Opens a file. `NotFound` and `AlreadyExists` as [`Open`] says.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;

    /// Renames a file or directory; an existing file at `to` is replaced in one step. Durable after [`Disk::sync_dir`] of
    /// the directory (of both, if it moves between two).
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file, or an empty directory. Open files stay usable until dropped.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, sorted by bytes. Names that are not UTF-8 are an `InvalidData` error: nothing of ours
    /// writes such a name.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Whether a file or directory has this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Makes the names of this directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes an exclusive lock on the file, creating it if needed, until the result is dropped. `WouldBlock` if it is held
    /// by another process (or by another caller of this one).
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;

    /// Bytes that an unprivileged process may still write on the file system of `path`.
    fn free_space(&self, path: &Path) -> io::Result<u64>;

    /// The permission bits of a file or directory (`0o700`).
    fn mode(&self, path: &Path) -> io::Result<u32>;

    /// Whether the name is a directory. `NotFound` if there is no such name.
    fn is_dir(&self, path: &Path) -> io::Result<bool>;
}

/// An open file. All methods take `&self`: a file may be read by several threads while one writes.
pub trait File: Send + Sync {
    /// Reads up to `buffer.len()` bytes at `offset`; 0 means the end of the file. May return fewer than asked;
    /// [`read_exact_at`] repeats.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all bytes at `offset`, extending the file if needed. After an error any part may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// The length in bytes, written but perhaps not yet durable.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes all that was written to this file, and its length, durable. After an error nothing is known of what was
    /// written since the last good sync, and the caller must stop (see [`crate::fault::FaultKind::SyncFailed`]).
    fn sync(&self) -> io::Result<()>;
}

/// A held lock; dropping it lets go.
pub trait Lock: Send + Sync {}

/// Fills `buffer` from `offset`, or fails with `UnexpectedEof`.
pub fn read_exact_at(file: &dyn File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    let read = read_full_at(file, offset, buffer)?;
    if read == buffer.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Reads until `buffer` is full or the file ends; returns how many bytes were read.
pub fn read_full_at(file: &dyn File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(offset + done as u64, rest) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Creates `path` and its missing parents, and makes each new name durable by syncing the directory that holds it.
///
/// The name of `path` itself is synced even if it exists: a process that was killed may have left it behind unsynced, and
/// to us it looks the same as a durable one.
pub fn create_dir_durable(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let mut unsynced = vec![path];
    let mut at = path;
    while !disk.exists(at)? && !parent_of(at).as_os_str().is_empty() && parent_of(at) != at {
        at = parent_of(at);
        unsynced.push(at);
    }
    disk.create_dir_all(path)?;
    // The last one pushed exists already (it is where the search stopped), unless it is `path` itself.
    if unsynced.len() > 1 {
        unsynced.pop();
    }
    for dir in unsynced.iter().rev() {
        disk.sync_dir(parent_of(dir))?;
    }
    Ok(())
}

/// The directory that holds the name `path`; `.` for a bare name.
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}
