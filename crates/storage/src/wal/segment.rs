//! The files of the log: their names, their preparation, and how a prepared file becomes a segment.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::record::{Chain, Encoder, Opening};
use super::{Marker, Options, planted};
use crate::disk::{Disk, File, Open};
use crate::fault::Fault;
use proto::raftpb::HardState;

/// Zeros are written in pieces of this size.
const FILL_BYTES: usize = 1 << 20;

/// What a name in the log's directory means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    /// `<sequence>-<first index>.wal`, 16 hexadecimal digits each, as etcd names its own.
    Segment { sequence: u64, first_index: u64 },
    /// `<number>.spare`: allocated, synced, content meaningless.
    Spare { number: u64 },
    /// `<number>.tmp`: a spare in preparation, left behind by a crash.
    Unfinished,
    /// Not ours.
    Other,
}

impl Name {
    pub(super) fn parse(name: &str) -> Name {
        if let Some((sequence, first_index)) = name
            .strip_suffix(".wal")
            .and_then(|stem| stem.split_once('-'))
        {
            return match (hex(sequence), hex(first_index)) {
                (Some(sequence), Some(first_index)) => Name::Segment {
                    sequence,
                    first_index,
                },
                _ => Name::Other,
            };
        }
        match (
            name.strip_suffix(".spare").and_then(hex),
            name.strip_suffix(".tmp").and_then(hex),
        ) {
            (Some(number), _) => Name::Spare { number },
            (_, Some(_)) => Name::Unfinished,
            _ => Name::Other,
        }
    }
}

pub(super) fn segment_name(sequence: u64, first_index: u64) -> String {
    format!("{sequence:016x}-{first_index:016x}.wal")
}

pub(super) fn spare_name(number: u64) -> String {
    format!("{number:016x}.spare")
}

/// How messages call a segment.
pub(super) fn display(name: &str) -> String {
    format!("wal segment {name}")
}

fn hex(digits: &str) -> Option<u64> {
    // from_str_radix also takes a sign and capitals; file names do not.
    let plain = digits.len() == 16
        && digits
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if plain {
        u64::from_str_radix(digits, 16).ok()
    } else {
        None
    }
}

/// The preparation of a spare segment: allocates and zero-fills a file and syncs it. Takes as long as writing
/// [`Options::segment_bytes`], so it runs on a thread of its own (or as a virtual task of the simulator).
pub struct SpareJob {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) number: u64,
    pub(super) bytes: u64,
}

/// A file ready to become the next segment.
pub struct Spare {
    pub(super) file: Arc<dyn File>,
    pub(super) name: String,
    pub(super) bytes: u64,
    /// Whether it holds only zeros, durably.
    pub(super) zeroed: bool,
}

impl SpareJob {
    /// Does the work. A full disk is [`crate::fault::FaultKind::NoSpace`]; the half-written file is removed then. Hand the
    /// result to [`super::Wal::install_spare`], whatever it is.
    pub fn run(self) -> Result<Spare, Fault> {
        let tmp = self.dir.join(format!("{:016x}.tmp", self.number));
        let name = spare_name(self.number);
        let prepared = fill(&*self.disk, &tmp, self.bytes).and_then(|file| {
            // The directory is not synced: a spare whose name is lost is only a spare fewer.
            let renamed = self.disk.rename(&tmp, &self.dir.join(&name));
            renamed
                .map_err(|error| Fault::write_failed(tmp.display(), &error))
                .map(|()| file)
        });
        match prepared {
            Ok(file) => Ok(Spare {
                file,
                name,
                bytes: self.bytes,
                zeroed: true,
            }),
            Err(fault) => {
                // Gives the space back. If even this fails, the next start removes the file.
                let _ = self.disk.remove(&tmp);
                Err(fault)
            }
        }
    }
}

/// A new file of `bytes` zeros, written and synced.
pub(super) fn fill(disk: &dyn Disk, path: &Path, bytes: u64) -> Result<Arc<dyn File>, Fault> {
    let object = path.display();
    if let Err(error) = disk.remove(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(Fault::write_failed(object, &error));
    }
    let file = disk
        .open(path, Open::CreateNew)
        .map_err(|error| Fault::write_failed(path.display(), &error))?;
    write_zeros(&*file, 0, bytes).map_err(|error| Fault::write_failed(path.display(), &error))?;
    file.sync()
        .map_err(|error| Fault::sync_failed(path.display(), &error))?;
    Ok(file)
}

/// Writes zeros over `start..end`.
pub(super) fn write_zeros(file: &dyn File, start: u64, end: u64) -> io::Result<()> {
    let zeros = vec![0; FILL_BYTES.min(end.saturating_sub(start) as usize)];
    let mut at = start;
    while at < end {
        let piece = (zeros.len() as u64).min(end - at) as usize;
        file.write_at(at, &zeros[..piece])?;
        at += piece as u64;
    }
    Ok(())
}

/// What a new segment begins with.
pub(super) struct Start<'a> {
    pub(super) opening: Opening,
    pub(super) hard_state: Option<&'a HardState>,
    pub(super) marker: Option<&'a Marker>,
}

/// Turns `spare` into the segment that `start` describes and makes it durable: opening and its sync, then the name and its
/// sync. Only then may a record follow. Returns the end of the opening and the chain behind it.
///
/// Nothing has happened if the result is `NoSpace`.
pub(super) fn open_segment(
    disk: &dyn Disk,
    dir: &Path,
    options: &Options,
    spare: &Spare,
    start: &Start,
    buffer: &mut Vec<u8>,
) -> Result<(u64, Chain), Fault> {
    let opening = &start.opening;
    let name = segment_name(opening.sequence, opening.first_index);
    buffer.clear();
    let chain = Chain {
        tag: opening.tag(),
        previous: opening.previous_checksum,
    };
    let mut encoder = Encoder {
        buffer,
        chain,
        synced: 0,
    };
    encoder.opening(opening);
    if let Some(state) = start.hard_state {
        encoder.hard_state(state);
    }
    if let Some(marker) = start.marker {
        // A copy: the log does not start again here.
        encoder.marker(&Marker {
            restart: false,
            ..marker.clone()
        });
    }
    let chain = encoder.chain;
    let write_failed = |error: io::Error| Fault::write_failed(display(&name), &error);
    spare.file.write_at(0, buffer).map_err(write_failed)?;
    spare
        .file
        .sync()
        .map_err(|error| Fault::sync_failed(display(&name), &error))?;
    disk.rename(&dir.join(&spare.name), &dir.join(&name))
        .map_err(write_failed)?;
    if !planted!(options, NoDirSync) {
        disk.sync_dir(dir)
            .map_err(|error| Fault::sync_failed(dir.display(), &error))?;
    }
    Ok((buffer.len() as u64, chain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_we_write_are_ours() {
        let segment = Name::Segment {
            sequence: 3,
            first_index: 0xa1f20,
        };
        assert_eq!(Name::parse(&segment_name(3, 0xa1f20)), segment);
        assert_eq!(
            Name::parse("0000000000000003-00000000000a1f20.wal"),
            segment
        );
        assert_eq!(Name::parse(&spare_name(7)), Name::Spare { number: 7 });
        assert_eq!(Name::parse("0000000000000007.tmp"), Name::Unfinished);
        for other in [
            "0.tmp",
            "1-1.wal",
            "0000000000000003-00000000000A1F20.wal",
            "+000000000000003.spare",
            ".wal",
            "é.tmp",
        ] {
            assert_eq!(Name::parse(other), Name::Other, "{other}");
        }
    }
}
