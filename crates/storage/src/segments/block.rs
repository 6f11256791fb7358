//! Segments and blocks as readers see them: immutable, shared, found by revision.
//!
//! A block is a run of neighbouring records with a small sorted array of where each begins (12 bytes a record). Blocks
//! exist in memory only; on disk records simply follow each other. A *hot* block holds its bytes, as they stand in the
//! file; a *cold* one reads them, and every record read is checked against its checksum before anyone sees it.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::format::{self, HEADER_BYTES, RECORD_HEADER_BYTES, SegmentId};
use super::{Record, Revision};
use crate::disk::{self, File};
use crate::fault::{Fault, FaultKind};

/// Bytes of a block after which it is closed. One cold scan step reads about this much.
pub(super) const BLOCK_BYTES: usize = 256 << 10;

/// One record in a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// `main` less the block's base.
    main: u32,
    /// As [`format::pack_sub`].
    sub: u32,
    /// Where the record begins, from the block's first byte.
    start: u32,
}

/// A run of neighbouring records of one segment.
#[derive(Debug)]
pub(super) struct Block {
    /// What entries' `main` counts from.
    base: i64,
    /// The number of the first record within its segment.
    pub ordinal: u32,
    /// Where the first record lies in the file.
    pub offset: u64,
    /// Bytes of all records.
    pub bytes: u32,
    entries: Arc<[Entry]>,
    /// The records as they stand in the file, while hot.
    pub data: Option<Bytes>,
}

impl Block {
    /// The number of records.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The record's revision and tombstone mark. `at` is below [`Block::len`].
    pub(super) fn revision(&self, at: usize) -> (Revision, bool) {
        let entry = self.entries[at];
        let (sub, tombstone) = format::unpack_sub(entry.sub);
        (
            Revision {
                main: self.base + i64::from(entry.main),
                sub,
            },
            tombstone,
        )
    }

    /// Where the record lies within the block.
    pub(super) fn span(&self, at: usize) -> (usize, usize) {
        let end = self
            .entries
            .get(at + 1)
            .map_or(self.bytes, |next| next.start);
        (self.entries[at].start as usize, end as usize)
    }

    /// The first record at or after `revision`.
    pub(super) fn lower_bound(&self, revision: Revision) -> usize {
        self.entries.partition_point(|entry| {
            let main = self.base + i64::from(entry.main);
            (main, format::unpack_sub(entry.sub).0) < (revision.main, revision.sub)
        })
    }

    /// The revision of the first record; blocks are never empty.
    pub(super) fn first(&self) -> Revision {
        self.revision(0).0
    }

    /// The same block with its bytes, which the caller has checked.
    pub(super) fn warmed(&self, data: Bytes) -> Block {
        assert_eq!(
            data.len(),
            self.bytes as usize,
            "a hot block holds exactly its records"
        );
        Block {
            data: Some(data),
            ..self.cooled()
        }
    }

    /// The same block without its bytes.
    pub(super) fn cooled(&self) -> Block {
        Block {
            data: None,
            entries: self.entries.clone(),
            ..*self
        }
    }
}

/// Collects the entries of one block.
pub(super) struct BlockBuilder {
    base: i64,
    ordinal: u32,
    offset: u64,
    bytes: u32,
    entries: Vec<Entry>,
}

impl BlockBuilder {
    /// A block whose first record has number `ordinal` and lies at `offset` of the file.
    pub(super) fn new(ordinal: u32, offset: u64) -> BlockBuilder {
        BlockBuilder {
            base: 0,
            ordinal,
            offset,
            bytes: 0,
            entries: Vec::new(),
        }
    }

    /// Goes on with the entries of a block.
    pub(super) fn resume(block: &Block) -> BlockBuilder {
        BlockBuilder {
            base: block.base,
            ordinal: block.ordinal,
            offset: block.offset,
            bytes: block.bytes,
            entries: block.entries.to_vec(),
        }
    }

    /// Whether a record of this size and revision still belongs here. An empty block takes anything.
    pub(super) fn takes(&self, revision: Revision, record_bytes: usize) -> bool {
        self.entries.is_empty()
            || (self.bytes as usize + record_bytes <= BLOCK_BYTES
                && u32::try_from(revision.main - self.base).is_ok())
    }

    /// Adds the next record.
    pub(super) fn push(&mut self, revision: Revision, tombstone: bool, record_bytes: usize) {
        if self.entries.is_empty() {
            self.base = revision.main;
        }
        let main = u32::try_from(revision.main - self.base)
            .expect("`takes` was asked, which bounds the difference");
        self.entries.push(Entry {
            main,
            sub: format::pack_sub(revision.sub, tombstone),
            start: self.bytes,
        });
        self.bytes = u32::try_from(self.bytes as usize + record_bytes)
            .expect("a block holds its limit, or one record of at most 1 GiB");
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// Where the block begins in the file.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number after the last record's.
    pub(super) fn next_ordinal(&self) -> u32 {
        self.ordinal + self.entries.len() as u32
    }

    pub(super) fn finish(self, data: Option<Bytes>) -> Arc<Block> {
        assert!(!self.entries.is_empty(), "a block has records");
        if let Some(data) = &data {
            assert_eq!(
                data.len(),
                self.bytes as usize,
                "a hot block holds exactly its records"
            );
        }
        let BlockBuilder {
            base,
            ordinal,
            offset,
            bytes,
            entries,
        } = self;
        Arc::new(Block {
            base,
            ordinal,
            offset,
            bytes,
            entries: entries.into(),
            data,
        })
    }
}

/// One segment at one moment. The writer replaces it; readers keep what they have.
#[derive(Clone)]
pub(super) struct Segment {
    pub id: SegmentId,
    /// Seeds the checksums (see [`format::encode_header`]).
    pub seed: u32,
    /// As in the header, which the first flush writes.
    pub salt: u32,
    pub path: PathBuf,
    pub blocks: Vec<Arc<Block>>,
    /// `None` until the first flush.
    pub file: Option<Arc<dyn File>>,
}

impl Segment {
    pub(super) fn records(&self) -> u32 {
        self.blocks
            .last()
            .map_or(0, |block| block.ordinal + block.len() as u32)
    }

    /// The offset behind the last record.
    pub(super) fn end(&self) -> u64 {
        self.blocks
            .last()
            .map_or(HEADER_BYTES, |block| block.offset + u64::from(block.bytes))
    }

    pub(super) fn first(&self) -> Option<Revision> {
        self.blocks.first().map(|block| block.first())
    }

    pub(super) fn last(&self) -> Option<Revision> {
        self.blocks
            .last()
            .map(|block| block.revision(block.len() - 1).0)
    }

    /// The block that would hold `revision`, and the first record at or after it there.
    pub(super) fn locate(&self, revision: Revision) -> Option<(usize, usize)> {
        let block = self
            .blocks
            .partition_point(|block| block.first() <= revision)
            .checked_sub(1)?;
        Some((block, self.blocks[block].lower_bound(revision)))
    }

    /// The position of exactly this revision.
    pub(super) fn find(&self, revision: Revision) -> Option<(usize, usize)> {
        let (block, at) = self.locate(revision)?;
        (at < self.blocks[block].len() && self.blocks[block].revision(at).0 == revision)
            .then_some((block, at))
    }

    /// The record of a block of this segment, from memory or from the file.
    pub(super) fn record_of(&self, found: &Block, at: usize) -> Result<Record, Fault> {
        let (start, end) = found.span(at);
        match &found.data {
            Some(data) => Ok(self.slice(found, at, data, 0)),
            None => {
                let bytes = self.read_range(
                    found.offset + start as u64,
                    end - start,
                    found.revision(at).0,
                )?;
                self.checked(found, at, &bytes, start)
            }
        }
    }

    /// All bytes of a block, read at once if it is cold. [`Segment::checked`] takes records out of them.
    pub(super) fn block_bytes(&self, block: &Block) -> Result<Bytes, Fault> {
        match &block.data {
            Some(data) => Ok(data.clone()),
            None => self.read_range(block.offset, block.bytes as usize, block.first()),
        }
    }

    /// The record at `at`, out of `bytes` that begin `skip` bytes into the block, after checking it.
    pub(super) fn checked(
        &self,
        block: &Block,
        at: usize,
        bytes: &Bytes,
        skip: usize,
    ) -> Result<Record, Fault> {
        let (start, end) = block.span(at);
        let (revision, tombstone) = block.revision(at);
        let offset = block.offset + start as u64;
        if block.data.is_none() {
            let head = format::decode_record(&bytes[start - skip..end - skip], self.seed, offset)
                .map_err(|what| self.damaged(offset, revision, what))?;
            if head.revision != revision
                || head.tombstone != tombstone
                || head.record_bytes() != end - start
            {
                return Err(self.damaged(
                    offset,
                    revision,
                    "the record is not the one the footer names",
                ));
            }
        }
        Ok(self.slice(block, at, bytes, skip))
    }

    /// Bytes of the file. `revision` is named if they cannot be had.
    pub(super) fn read_range(
        &self,
        offset: u64,
        length: usize,
        revision: Revision,
    ) -> Result<Bytes, Fault> {
        let file = self
            .file
            .as_ref()
            .expect("a block leaves memory only after its segment was flushed to a file");
        let mut bytes = vec![0; length];
        match disk::read_exact_at(&**file, offset, &mut bytes) {
            Ok(()) => Ok(bytes.into()),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(self.damaged(offset, revision, "the file ends before the record does"))
            }
            Err(error) => Err(Fault::read_failed(
                format_args!(
                    "segment {} at byte {offset} (revision {revision})",
                    self.path.display()
                ),
                &error,
            )),
        }
    }

    /// The fault for a damaged record.
    pub(super) fn damaged(&self, offset: u64, revision: Revision, what: &str) -> Fault {
        Fault::new(
            FaultKind::Corrupted,
            format!(
                "segment {}: {what} at byte {offset} (revision {revision}); nothing of it was served and the member stops. Remove it from \
                 the cluster and add it again, or restore from a snapshot.",
                self.path.display()
            ),
        )
    }

    fn slice(&self, block: &Block, at: usize, bytes: &Bytes, skip: usize) -> Record {
        let (start, end) = block.span(at);
        let (revision, tombstone) = block.revision(at);
        Record {
            revision,
            tombstone,
            kv: bytes.slice(start - skip + RECORD_HEADER_BYTES..end - skip),
        }
    }
}
