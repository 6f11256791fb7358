//! The operating system's disk. The only place in the core crates that uses `std::fs`.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "this file is what the rest goes through"
)]

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use super::{Disk, File, Lock, Open};

/// Files of the operating system. Directories are created with mode 0700 and files with 0600; the last component of a
/// file's path is never followed if it is a symbolic link.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

/// The same, but a sync returns at once without doing anything: `--unsafe-no-fsync`. What it keeps survives the process,
/// not the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDiskUnsynced;

struct OsFile(std::fs::File);

struct OsFileUnsynced(OsFile);

/// Holds the descriptor whose closing releases the `flock`.
struct OsLock(
    #[expect(dead_code, reason = "kept open: closing it releases the lock")] std::fs::File,
);

impl Disk for OsDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(OsFile(options(how).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.is_dir(path)? {
            true => std::fs::remove_dir(path),
            false => std::fs::remove_file(path),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let name = entry?.file_name().into_string().map_err(|name| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("file name {name:?} in {} is not UTF-8", dir.display()),
                )
            })?;
            names.push(name);
        }
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        std::fs::exists(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        loop {
            let file = options(Open::Create).open(path)?;
            file.try_lock()?;
            // Whoever held the lock may have removed the file just before letting go; then this one locks nothing.
            let held = file.metadata()?;
            match std::fs::metadata(path) {
                Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => {
                    return Ok(Box::new(OsLock(file)));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn mode(&self, path: &Path) -> io::Result<u32> {
        Ok(std::fs::metadata(path)?.permissions().mode() & 0o7777)
    }

    fn is_dir(&self, path: &Path) -> io::Result<bool> {
        Ok(std::fs::symlink_metadata(path)?.is_dir())
    }
}

impl Disk for OsDiskUnsynced {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        OsDisk.create_dir_all(path)
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(OsFileUnsynced(OsFile(options(how).open(path)?))))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        OsDisk.list(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        OsDisk.exists(path)
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        OsDisk.lock(path)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        OsDisk.free_space(path)
    }

    fn mode(&self, path: &Path) -> io::Result<u32> {
        OsDisk.mode(path)
    }

    fn is_dir(&self, path: &Path) -> io::Result<bool> {
        OsDisk.is_dir(path)
    }
}

impl File for OsFileUnsynced {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        File::read_at(&self.0, offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        File::write_at(&self.0, offset, data)
    }

    fn len(&self) -> io::Result<u64> {
        File::len(&self.0)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(&self.0, len)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fn options(how: Open) -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
    match how {
        Open::Read => options.write(false),
        Open::Write => options.write(true),
        Open::CreateNew => options.write(true).create_new(true),
        Open::Create => options.write(true).create(true).truncate(false),
    };
    options
}

impl File for OsFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        // fdatasync: it writes the length as well when the length is needed to read the data back, and leaves out times.
        self.0.sync_data()
    }
}

impl Lock for OsLock {}
