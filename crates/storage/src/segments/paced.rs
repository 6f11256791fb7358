//! Writing a large file without holding up those who sync a small one.
//!
//! A sync makes the disk finish everything that it was given before. Tens of MiB that are written at leisure and synced once would
//! make the log's next sync, and the put behind it, wait for all of them. So what is written here is synced every MiB.

use std::path::Path;
use std::sync::Arc;

use crate::disk::File;
use crate::fault::Fault;

/// Bytes between two syncs: a millisecond or two of a usual disk's time.
const SLICE_BYTES: u64 = 1 << 20;

/// A file that is written in slices.
pub(super) struct PacedFile<'a> {
    file: Arc<dyn File>,
    path: &'a Path,
    unsynced_bytes: u64,
}

impl<'a> PacedFile<'a> {
    /// `path` is what faults name.
    pub fn new(file: Arc<dyn File>, path: &'a Path) -> Self {
        PacedFile {
            file,
            path,
            unsynced_bytes: 0,
        }
    }

    /// Writes, and syncs when a slice is full.
    ///
    /// # Errors
    /// The write failed, or the sync did; the latter is final.
    pub fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Fault> {
        self.file
            .write_at(offset, data)
            .map_err(|error| Fault::write_failed(self.path.display(), &error))?;
        self.unsynced_bytes += data.len() as u64;
        if self.unsynced_bytes >= SLICE_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    /// Syncs what is left and gives the file back.
    ///
    /// # Errors
    /// The sync failed, which is final.
    pub fn finish(mut self) -> Result<Arc<dyn File>, Fault> {
        self.sync()?;
        Ok(self.file)
    }

    fn sync(&mut self) -> Result<(), Fault> {
        self.file
            .sync()
            .map_err(|error| Fault::sync_failed(self.path.display(), &error))?;
        self.unsynced_bytes = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::memory::Op;
    use crate::disk::{Disk, MemDisk, Open};

    #[test]
    fn a_large_file_is_synced_slice_by_slice_and_once_at_the_end() {
        let disk = MemDisk::new();
        let path = Path::new("large");
        let file = disk.open(path, Open::Create).unwrap();
        disk.record();
        let mut paced = PacedFile::new(file, path);
        let piece = vec![7; 300 << 10];
        for n in 0..8 {
            paced.write_at(n * piece.len() as u64, &piece).unwrap();
        }
        paced.finish().unwrap();
        let syncs = disk
            .recording()
            .iter()
            .filter(|(op, _)| matches!(op, Op::Sync { .. }))
            .count();
        assert_eq!(
            syncs, 3,
            "2,400 KiB are two slices of four pieces, and the end"
        );
    }
}
