//! Checking every byte of a store that nobody has open.

use std::path::Path;
use std::sync::Arc;

use super::block::Block;
use super::format::{self, HEADER_BYTES};
use super::open::Reader;
use super::{Revision, SegmentEnd};
use crate::disk::{Disk, Open};
use crate::fault::Fault;

/// What [`verify`] has seen.
#[derive(Debug, Default)]
pub struct Verified {
    /// Segments looked at.
    pub segments: u64,
    /// Sound records.
    pub records: u64,
    /// Bytes of sound records.
    pub bytes: u64,
    /// Everything that is wrong: file, offset, record and revision in each message. Empty if the store is sound.
    pub damage: Vec<Fault>,
}

/// Checks the header, every record and the footer of each segment that `ends` (the catalog's last commit) names, and goes
/// on behind damage as far as that is possible. Changes nothing; reads one block at a time.
///
/// `progress` is told now and then what has been seen so far.
pub fn verify(
    disk: &dyn Disk,
    dir: &Path,
    ends: &[SegmentEnd],
    mut progress: impl FnMut(&Verified),
) -> Verified {
    let mut verified = Verified::default();
    for end in ends {
        verified.segments += 1;
        match Reader::open(disk, dir, end, Open::Read) {
            Ok(reader) => verify_segment(reader, &mut verified, &mut progress),
            Err(fault) => verified.damage.push(fault),
        }
        progress(&verified);
    }
    verified
}

fn verify_segment(
    mut reader: Reader,
    verified: &mut Verified,
    progress: &mut impl FnMut(&Verified),
) {
    if reader.end.sealed {
        match reader.read_sealed(None, &mut |_| {}) {
            Ok((blocks, _)) => {
                reader.segment.blocks = blocks;
                for block in &reader.segment.blocks {
                    verify_block(&reader, block, verified);
                    progress(verified);
                }
                return;
            }
            Err(fault) => verified.damage.push(fault),
        }
    }
    verify_by_walking(&reader, verified);
}

/// Checks the records of a block against the footer that named them.
fn verify_block(reader: &Reader, block: &Arc<Block>, verified: &mut Verified) {
    let bytes = match reader.segment.block_bytes(block) {
        Ok(bytes) => bytes,
        Err(fault) => return verified.damage.push(fault),
    };
    for at in 0..block.len() {
        match reader.segment.checked(block, at, &bytes, 0) {
            Ok(record) => {
                verified.records += 1;
                verified.bytes += (format::RECORD_HEADER_BYTES + record.kv.len()) as u64;
            }
            Err(fault) => verified.damage.push(fault),
        }
    }
}

/// Checks records one after the other where no footer says where they begin. Ends at a record whose length makes no sense.
fn verify_by_walking(reader: &Reader, verified: &mut Verified) {
    let (mut offset, mut ordinal, mut last) = (HEADER_BYTES, 0, None::<Revision>);
    while offset < reader.end.end {
        let left = reader.end.end - offset;
        let mut window = left.min(1 << 20) as usize;
        let mut bytes = match reader
            .segment
            .read_range(offset, window, last.unwrap_or_default())
        {
            Ok(bytes) => bytes,
            Err(fault) => return verified.damage.push(fault),
        };
        if format::peek_record_bytes(&bytes).is_none() && left > window as u64 {
            window =
                left.min((format::RECORD_HEADER_BYTES + format::PAYLOAD_BYTES_MAX) as u64) as usize;
            bytes = match reader
                .segment
                .read_range(offset, window, last.unwrap_or_default())
            {
                Ok(bytes) => bytes,
                Err(fault) => return verified.damage.push(fault),
            };
        }
        let begin = offset;
        while let Some(record_bytes) =
            format::peek_record_bytes(&bytes[(offset - begin) as usize..])
        {
            match format::decode_record(
                &bytes[(offset - begin) as usize..],
                reader.segment.seed,
                offset,
            ) {
                Ok(head) => {
                    (verified.records, verified.bytes) =
                        (verified.records + 1, verified.bytes + record_bytes as u64);
                    last = Some(head.revision);
                }
                Err(what) => verified
                    .damage
                    .push(reader.damaged_record(what, offset, ordinal, last)),
            }
            ordinal += 1;
            offset += record_bytes as u64;
        }
        if offset == begin {
            return verified.damage.push(reader.damaged_record(
                "a record claims more bytes than there are",
                offset,
                ordinal,
                last,
            ));
        }
    }
}
