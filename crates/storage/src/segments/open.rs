//! Opening a store as the catalog describes it: sealed segments by their footers, the unsealed one record by record.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::block::{Block, BlockBuilder, Segment};
use super::flush::decode_meta;
use super::format::{
    self, FOOTER_HEADER_BYTES, HEADER_BYTES, HeaderError, RECORD_HEADER_BYTES, SegmentId,
};
use super::view::OpenBlock;
use super::{Ledger, Record, RecordMeta, Revision, SegmentEnd, Segments, SegmentsOptions};
use crate::disk::{self, Disk, File, Open};
use crate::fault::Fault;

pub(super) fn open(
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    ends: &[SegmentEnd],
    options: SegmentsOptions,
    mut each: impl FnMut(&RecordMeta),
) -> Result<Segments, Fault> {
    check_ends(&dir, ends)?;
    disk::create_dir_durable(&*disk, &dir)
        .map_err(|error| Fault::write_failed(dir.display(), &error))?;
    let strays = strays(&*disk, &dir, ends)?;
    let used = ends
        .iter()
        .map(|end| end.sequence)
        .chain(strays.iter().map(|id| id.sequence))
        .max();
    let mut segments = Segments {
        disk: disk.clone(),
        dir: dir.clone(),
        options,
        frozen: Arc::default(),
        ledgers: Vec::new(),
        open: OpenBlock::new(),
        open_len: 0,
        open_bytes: 0,
        last: None,
        file_bytes: 0,
        obsolete: strays.iter().map(|id| dir.join(id.file_name())).collect(),
        next_sequence: used
            .map_or(0, |used| used + 1)
            .max(options.sequence_first)
            .max(1),
        generation_floor: strays.iter().map(|id| id.generation).max().unwrap_or(0),
        flush_in_flight: false,
        rewrite_in_flight: false,
        poison: Arc::new(OnceLock::new()),
    };
    let mut frozen = Vec::with_capacity(ends.len() + 1);
    for end in ends {
        let reader = Reader::open(
            &*disk,
            &segments.dir,
            end,
            if end.sealed { Open::Read } else { Open::Write },
        )?;
        let (blocks, footer) = if end.sealed {
            let (blocks, footer) = reader.read_sealed(segments.last, &mut each)?;
            (blocks, Some(footer))
        } else {
            let blocks = reader.read_unsealed(segments.last, &mut each)?;
            reader.cut()?;
            (blocks, None)
        };
        let segment = Segment {
            blocks,
            ..reader.segment
        };
        segments.last = segment.last().or(segments.last);
        segments.ledgers.push(Ledger {
            flushed: end.end,
            sealed: end.sealed,
            footer,
            ..Ledger::default()
        });
        frozen.push(Arc::new(segment));
    }
    segments.frozen = Arc::new(frozen);
    if ends.last().is_none_or(|last| last.sealed) {
        segments.begin();
    }
    segments.file_bytes = segments.count_files();
    warm(&mut segments);
    Ok(segments)
}

/// Takes the newest sealed blocks into memory, as far as the hot budget goes. A block that cannot be read, or has a damaged
/// record, stays cold: whoever asks for the record gets the fault.
fn warm(segments: &mut Segments) {
    let mut room = segments
        .options
        .hot_bytes
        .saturating_sub(segments.hot_bytes());
    for segment in Arc::make_mut(&mut segments.frozen).iter_mut().rev() {
        for at in (0..segment.blocks.len()).rev() {
            let block = &segment.blocks[at];
            if block.data.is_some() {
                continue;
            }
            if u64::from(block.bytes) > room {
                return;
            }
            room -= u64::from(block.bytes);
            let Ok(data) = segment.block_bytes(block) else {
                continue;
            };
            if (0..block.len()).all(|record| segment.checked(block, record, &data, 0).is_ok()) {
                let block = Arc::new(block.warmed(data));
                Arc::make_mut(segment).blocks[at] = block;
            }
        }
    }
}

pub(super) fn for_each_meta(
    segments: &Segments,
    mut each: impl FnMut(&RecordMeta),
) -> Result<(), Fault> {
    for (segment, ledger) in segments.frozen.iter().zip(&segments.ledgers) {
        if ledger.footer.is_some() {
            let reader = Reader {
                segment: (**segment).clone(),
                end: SegmentEnd {
                    end: segment.end(),
                    records: segment.records(),
                    ..NO_END
                },
            };
            let footer = reader.read_footer()?;
            format::decode_footer(&footer, segment.seed, |meta, _| each(meta))
                .map_err(|what| reader.damaged_footer(what))?;
            continue;
        }
        for block in &segment.blocks {
            for at in 0..block.len() {
                let record = segment.record_of(block, at)?;
                let meta = decode_meta(segment, block.offset + block.span(at).0 as u64, &record)?;
                each(&meta.as_meta(record.revision, record.tombstone));
            }
        }
    }
    for at in 0..segments.open_len {
        let record = segments.open.get(at);
        let meta = decode_meta(segments.unsealed(), segments.unsealed().end(), record)?;
        each(&meta.as_meta(record.revision, record.tombstone));
    }
    Ok(())
}

/// No sequence gets near this by counting.
const SEQUENCE_MAX: u64 = u64::MAX / 2;

const NO_END: SegmentEnd = SegmentEnd {
    sequence: 0,
    generation: 0,
    end: 0,
    records: 0,
    sealed: true,
};

/// The ends come from a checksummed commit; that they make sense is checked all the same, since offsets are computed from
/// them.
fn check_ends(dir: &Path, ends: &[SegmentEnd]) -> Result<(), Fault> {
    let ordered = ends
        .windows(2)
        .all(|pair| pair[0].sequence < pair[1].sequence && pair[0].sealed);
    let sane = ends.iter().all(|end| {
        end.records > 0
            && end.end >= HEADER_BYTES + u64::from(end.records) * RECORD_HEADER_BYTES as u64
    });
    if ordered && sane && ends.last().is_none_or(|last| last.sequence < SEQUENCE_MAX) {
        return Ok(());
    }
    Err(Fault::corrupted(
        format_args!("catalog of {}", dir.display()),
        "the list of segments contradicts itself",
    ))
}

/// Segment files that no commit names: unfinished flushes and rewrites, and files whose removal a crash undid. They go with
/// the next checkpoint, not at once: an open destroys nothing before the member is known to run.
fn strays(disk: &dyn Disk, dir: &Path, ends: &[SegmentEnd]) -> Result<Vec<SegmentId>, Fault> {
    let names = disk
        .list(dir)
        .map_err(|error| Fault::read_failed(dir.display(), &error))?;
    let ids = names
        .iter()
        .filter_map(|name| SegmentId::parse(name))
        .filter(|id| id.sequence < SEQUENCE_MAX);
    Ok(ids
        .filter(|id| !ends.iter().any(|end| id_of(end) == *id))
        .collect())
}

pub(super) fn id_of(end: &SegmentEnd) -> SegmentId {
    SegmentId {
        sequence: end.sequence,
        generation: end.generation,
    }
}

/// A segment file with what the catalog says of it.
pub(super) struct Reader {
    pub segment: Segment,
    pub end: SegmentEnd,
}

impl Reader {
    /// Opens the file and checks its header and length.
    pub(super) fn open(
        disk: &dyn Disk,
        dir: &Path,
        end: &SegmentEnd,
        how: Open,
    ) -> Result<Reader, Fault> {
        let id = id_of(end);
        let path = dir.join(id.file_name());
        let file = disk.open(&path, how).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Fault::gap(
                format_args!("segment {}", path.display()),
                format_args!(
                    "the catalog names it with {} records in {} bytes, but there is no such file",
                    end.records, end.end
                ),
            ),
            _ => Fault::read_failed(format_args!("segment {}", path.display()), &error),
        })?;
        let read_failed = |error: std::io::Error| {
            Fault::read_failed(format_args!("segment {}", path.display()), &error)
        };
        let mut header = [0; HEADER_BYTES as usize];
        let got = disk::read_full_at(&*file, 0, &mut header).map_err(read_failed)?;
        let object = format!("segment {}", path.display());
        let seed = format::decode_header(&header[..got], id).map_err(|wrong| match wrong {
            HeaderError::Version(found) => {
                Fault::format(&object, u64::from(found), u64::from(format::VERSION))
            }
            HeaderError::Damaged(what) => {
                Fault::corrupted(&object, format_args!("{what} at byte 0"))
            }
            HeaderError::Other(other) => Fault::corrupted(
                &object,
                format_args!("the file is in truth {}", other.file_name()),
            ),
        })?;
        let length = file.len().map_err(read_failed)?;
        if length < end.end {
            return Err(Fault::corrupted(
                &object,
                format_args!(
                    "the file has {length} bytes where the catalog names {} records in {}",
                    end.records, end.end
                ),
            ));
        }
        Ok(Reader {
            segment: Segment {
                id,
                seed,
                salt: 0,
                path,
                blocks: Vec::new(),
                file: Some(file),
            },
            end: *end,
        })
    }

    fn file(&self) -> &Arc<dyn File> {
        self.segment
            .file
            .as_ref()
            .expect("a reader has opened its file")
    }

    /// The whole footer, not yet checked.
    pub(super) fn read_footer(&self) -> Result<Vec<u8>, Fault> {
        let read_failed = |error: std::io::Error| {
            Fault::read_failed(
                format_args!("footer of segment {}", self.segment.path.display()),
                &error,
            )
        };
        let file = self.file();
        let mut header = [0; FOOTER_HEADER_BYTES];
        let got = disk::read_full_at(&**file, self.end.end, &mut header).map_err(read_failed)?;
        let room = file
            .len()
            .map_err(read_failed)?
            .saturating_sub(self.end.end);
        let bytes = format::footer_bytes(&header[..got]).filter(|bytes| *bytes <= room);
        let Some(bytes) = bytes else {
            return Err(self.damaged_footer("there is no whole footer where one must be"));
        };
        let mut footer = vec![0; bytes as usize];
        disk::read_exact_at(&**file, self.end.end, &mut footer).map_err(read_failed)?;
        Ok(footer)
    }

    /// Builds the blocks of a sealed segment, cold, from its footer; returns them and the footer's size.
    pub(super) fn read_sealed(
        &self,
        mut last: Option<Revision>,
        each: &mut impl FnMut(&RecordMeta),
    ) -> Result<(Vec<Arc<Block>>, u64), Fault> {
        let footer = self.read_footer()?;
        let mut blocks = Vec::new();
        let mut builder = BlockBuilder::new(0, HEADER_BYTES);
        let mut ordered = true;
        let records = format::decode_footer(&footer, self.segment.seed, |meta, payload_bytes| {
            ordered &= last < Some(meta.revision);
            if !ordered {
                return;
            }
            last = Some(meta.revision);
            let record_bytes = RECORD_HEADER_BYTES + payload_bytes;
            if !builder.takes(meta.revision, record_bytes) {
                let next = BlockBuilder::new(
                    builder.next_ordinal(),
                    builder.offset() + builder.bytes() as u64,
                );
                blocks.push(std::mem::replace(&mut builder, next).finish(None));
            }
            builder.push(meta.revision, meta.tombstone, record_bytes);
            each(meta);
        })
        .map_err(|what| self.damaged_footer(what))?;
        let end = builder.offset() + builder.bytes() as u64;
        if !builder.is_empty() {
            blocks.push(builder.finish(None));
        }
        if !ordered || records != self.end.records || end != self.end.end {
            return Err(self.damaged_footer("it describes other records than the catalog names"));
        }
        Ok((blocks, footer.len() as u64))
    }

    /// Reads and checks every record of an unsealed segment; its blocks are hot.
    fn read_unsealed(
        &self,
        mut last: Option<Revision>,
        each: &mut impl FnMut(&RecordMeta),
    ) -> Result<Vec<Arc<Block>>, Fault> {
        let segment = &self.segment;
        let length = (self.end.end - HEADER_BYTES) as usize;
        let all = segment.read_range(HEADER_BYTES, length, last.unwrap_or_default())?;
        let mut blocks = Vec::new();
        let mut builder = BlockBuilder::new(0, HEADER_BYTES);
        let mut at = 0;
        let slice = |builder: &BlockBuilder| -> Bytes {
            let start = (builder.offset() - HEADER_BYTES) as usize;
            all.slice(start..start + builder.bytes())
        };
        while at < length {
            let offset = HEADER_BYTES + at as u64;
            let ordinal = builder.next_ordinal();
            let head = format::decode_record(&all[at..], segment.seed, offset)
                .map_err(|what| self.damaged_record(what, offset, ordinal, last))?;
            if last >= Some(head.revision) {
                return Err(self.damaged_record(
                    "a revision is out of order",
                    offset,
                    ordinal,
                    last,
                ));
            }
            last = Some(head.revision);
            if !builder.takes(head.revision, head.record_bytes()) {
                let next = BlockBuilder::new(ordinal, offset);
                let data = slice(&builder);
                blocks.push(std::mem::replace(&mut builder, next).finish(Some(data)));
            }
            builder.push(head.revision, head.tombstone, head.record_bytes());
            let kv = all.slice(at + RECORD_HEADER_BYTES..at + head.record_bytes());
            let record = Record {
                revision: head.revision,
                tombstone: head.tombstone,
                kv,
            };
            each(&decode_meta(segment, offset, &record)?.as_meta(head.revision, head.tombstone));
            at += head.record_bytes();
        }
        let records = builder.next_ordinal();
        if !builder.is_empty() {
            let data = slice(&builder);
            blocks.push(builder.finish(Some(data)));
        }
        if records != self.end.records {
            return Err(Fault::corrupted(
                format_args!("segment {}", segment.path.display()),
                format_args!(
                    "{records} records in {} bytes where the catalog names {}",
                    self.end.end, self.end.records
                ),
            ));
        }
        Ok(blocks)
    }

    /// Cuts what no commit names, so that new records do not land before old ones.
    fn cut(&self) -> Result<(), Fault> {
        let path = &self.segment.path;
        let length = self
            .file()
            .len()
            .map_err(|error| Fault::read_failed(path.display(), &error))?;
        if length > self.end.end {
            self.file()
                .set_len(self.end.end)
                .map_err(|error| Fault::write_failed(path.display(), &error))?;
            self.file()
                .sync()
                .map_err(|error| Fault::sync_failed(path.display(), &error))?;
        }
        Ok(())
    }

    pub(super) fn damaged_footer(&self, what: &str) -> Fault {
        Fault::corrupted(
            format_args!("segment {}", self.segment.path.display()),
            format_args!(
                "{what}: footer at byte {} ({} records)",
                self.end.end, self.end.records
            ),
        )
    }

    pub(super) fn damaged_record(
        &self,
        what: &str,
        offset: u64,
        ordinal: u32,
        last: Option<Revision>,
    ) -> Fault {
        let before = last.map_or("the first".to_string(), |last| {
            format!("after revision {last}")
        });
        Fault::corrupted(
            format_args!("segment {}", self.segment.path.display()),
            format_args!(
                "{what} at byte {offset} (record {ordinal} of {}, {before})",
                self.end.records
            ),
        )
    }
}
