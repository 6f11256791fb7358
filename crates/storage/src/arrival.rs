//! A file that arrives from another member, on its way into the store.
//!
//! It has a name for a moment only: the file is ours as long as it is open, and whatever ends the process ends the file with it. So no
//! start has to look for leftovers, but for an empty file of the moment between the two steps, which is overwritten. Nothing here is
//! durable, and nothing has to be: what is made of the file is.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::bolt::Reader;
use crate::datadir::Layout;
use crate::disk::{Disk, File, Open};
use crate::fault::{Fault, FaultKind};

/// A file that is being received.
pub struct Arrival {
    file: Arc<dyn File>,
    path: PathBuf,
    bytes: u64,
}

impl Arrival {
    /// Begins an empty file in the directory of the member. No two that are begun at the same time may have one `number`.
    ///
    /// # Errors
    /// A fault from the disk; `NoSpace` if there is none.
    pub fn begin(disk: &dyn Disk, layout: &Layout, number: u64) -> Result<Arrival, Fault> {
        let path = layout.member_dir().join(format!("arrival-{number}"));
        let failed = |error: &io::Error| Fault::write_failed(path.display(), error);
        let file = disk
            .open(&path, Open::Create)
            .map_err(|error| failed(&error))?;
        disk.remove(&path).map_err(|error| failed(&error))?;
        file.set_len(0).map_err(|error| failed(&error))?;
        Ok(Arrival {
            file,
            path,
            bytes: 0,
        })
    }

    /// Adds to the end.
    ///
    /// # Errors
    /// A fault from the disk; `NoSpace` if it is full.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.file
            .write_at(self.bytes, bytes)
            .map_err(|error| Fault::write_failed(self.path.display(), &error))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads it as etcd's backend file.
    ///
    /// # Errors
    /// A fault of kind `Corrupted` if it is none, or not whole.
    pub fn reader(&self) -> Result<Reader, Fault> {
        let opened = Reader::open(self.file.clone(), "a snapshot from a peer", self.bytes);
        opened.map_err(|fault| match fault.kind() {
            FaultKind::Corrupted => fault,
            _ => Fault::new(fault.kind(), format!("{}: {fault}", self.path.display())),
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::bolt::{Entry, Planner, Row, Writer};
    use crate::disk::MemDisk;

    fn file_of(value: &'static [u8]) -> Vec<u8> {
        let mut planner = Planner::new(&["key"]);
        planner.row(0, 1, value.len());
        let row = Row {
            bucket: 0,
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(value),
        };
        let mut writer = Writer::new(planner.finish(), std::iter::once(Ok(row)));
        let mut file = Vec::new();
        while let Some(chunk) = writer.next_chunk(1000).expect("rows as planned") {
            file.extend_from_slice(&chunk);
        }
        file
    }

    fn begin(disk: &MemDisk) -> Arrival {
        let layout = Layout::new("data", None);
        disk.create_dir_all(&layout.member_dir()).expect("works");
        Arrival::begin(disk, &layout, 1).expect("works")
    }

    #[test]
    fn a_file_is_read_as_it_came_and_leaves_no_name_behind() {
        let disk = MemDisk::new();
        let mut arrival = begin(&disk);
        for chunk in file_of(b"v").chunks(333) {
            arrival.append(chunk).expect("room");
        }
        let mut values = Vec::new();
        let walked = arrival.reader().expect("whole").for_each(|entry| {
            if let Entry::Row { value, .. } = entry {
                values.push(value.to_vec());
            }
            std::ops::ControlFlow::Continue(())
        });
        walked.expect("sound");
        assert_eq!(values, [b"v"]);
        assert!(disk.list("data/member".as_ref()).expect("works").is_empty());
    }

    #[test]
    fn a_file_that_is_cut_off_is_refused() {
        let disk = MemDisk::new();
        let mut arrival = begin(&disk);
        let file = file_of(b"v");
        arrival.append(&file[..file.len() / 2]).expect("room");
        let refused = arrival.reader().err().expect("half a file");
        assert_eq!(refused.kind(), FaultKind::Corrupted);
    }
}
