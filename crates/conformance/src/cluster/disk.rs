//! What a member's data lies on: a plain folder, a small memory file system that fills up, or an ext4 of its own whose power can be cut.
//!
//! The power cut is ext4's own emergency stop, told not to write its journal out: from then on all I/O fails, and what was not synced never reaches the
//! image. A process that goes on after that sees errors; the harness kills it. Then the image is mounted again, and ext4 recovers from its journal as
//! after a real cut.

use super::{as_text, tool};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH. Rust's standard library has no ioctl and this crate no unsafe code, so Python issues it; all disks in
/// one go, so that they stop at the same moment.
const SHUTDOWN: &str = "import fcntl, os, struct, sys\n\
    for fd in [os.open(path, os.O_RDONLY) for path in sys.argv[1:]]:\n    fcntl.ioctl(fd, 0x8004587d, struct.pack('I', 2))";
/// How long the kernel may need to let go of a file system.
const PATIENCE: Duration = Duration::from_secs(20);

/// Kind and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// A folder among others.
    Folder,
    /// A memory file system of so many MiB.
    Memory(u32),
    /// An ext4 on an image of so many MiB, whose power can be cut.
    Ext4(u32),
}

impl Disk {
    /// Whether this machine lets us have such a disk; the error says what is missing.
    pub fn probe(self) -> Result<(), String> {
        let scratch = tempfile::tempdir().map_err(|e| e.to_string())?;
        let mounted = self.mount(scratch.path())?;
        match (self, &mounted) {
            (Disk::Ext4(_), Some(disk)) => cut_power(&[disk]),
            _ => Ok(()),
        }
    }

    /// Makes one below `parent` and mounts it. Nothing for a plain folder.
    pub(super) fn mount(self, parent: &Path) -> Result<Option<Mounted>, String> {
        if self == Disk::Folder {
            return Ok(None);
        }
        let mut mounted = Mounted {
            kind: self,
            folder: parent.join("disk"),
            image: parent.join("image"),
            is_mounted: false,
        };
        std::fs::create_dir(&mounted.folder).map_err(|e| e.to_string())?;
        if let Disk::Ext4(mib) = self {
            let size = format!("{mib}M");
            tool("truncate", &["-s", &size, as_text(&mounted.image)])?;
            tool("mkfs.ext4", &["-q", "-F", as_text(&mounted.image)])?;
        }
        mounted.mount()?;
        Ok(Some(mounted))
    }
}

/// A disk in use; unmounted when dropped.
pub(super) struct Mounted {
    kind: Disk,
    folder: PathBuf,
    image: PathBuf,
    is_mounted: bool,
}

impl Mounted {
    /// Where it is mounted.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Mounts it again after a power cut. Whoever used it must be gone.
    pub fn power_again(&mut self) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        // A killed process may still be letting go of its files.
        while let Err(busy) = tool("umount", &[as_text(&self.folder)]) {
            if Instant::now() > until {
                return Err(busy);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.is_mounted = false;
        self.mount()?;
        // As long as the old file system is alive somewhere, the image gives that one again, which is dead.
        while let Err(dead) = std::fs::write(self.folder.join("alive"), b"yes") {
            if Instant::now() > until {
                return Err(format!(
                    "{} after a power cut: {dead}",
                    self.folder.display()
                ));
            }
            tool("umount", &[as_text(&self.folder)])?;
            std::thread::sleep(Duration::from_millis(20));
            self.mount()?;
        }
        Ok(())
    }

    /// Takes all the room that is left.
    pub fn fill(&self) -> Result<(), String> {
        let mut ballast = File::create(self.ballast()).map_err(|e| e.to_string())?;
        let mut piece = 1 << 20;
        while piece > 0 {
            match ballast.write(&vec![0; piece]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => piece /= 4,
                Err(error) => return Err(format!("filling {}: {error}", self.folder.display())),
            }
        }
        Ok(())
    }

    /// Gives it back.
    pub fn free(&self) -> Result<(), String> {
        std::fs::remove_file(self.ballast()).map_err(|e| e.to_string())
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    fn mount(&mut self) -> Result<(), String> {
        let folder = as_text(&self.folder);
        match self.kind {
            Disk::Folder => return Ok(()),
            Disk::Memory(mib) => {
                let size = format!("size={mib}m");
                tool("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", folder])?
            }
            Disk::Ext4(_) => tool("mount", &["-o", "loop", as_text(&self.image), folder])?,
        };
        self.is_mounted = true;
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_mounted {
            let _ = tool("umount", &["--lazy", as_text(&self.folder)]);
        }
    }
}

/// Cuts the power of all these at once.
pub(super) fn cut_power(disks: &[&Mounted]) -> Result<(), String> {
    let folders = disks.iter().map(|disk| as_text(&disk.folder));
    let arguments: Vec<&str> = ["-c", SHUTDOWN].into_iter().chain(folders).collect();
    tool("python3", &arguments).map(drop)
}
