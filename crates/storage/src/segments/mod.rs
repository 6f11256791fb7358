//! Segments: the history of keys, kept as what it is, a log in revision order.
//!
//! A record is a [`Revision`], a tombstone mark and an encoded `mvccpb.KeyValue`. Records are appended in memory, reach
//! files in the background ([`Segments::flush`]) and are never changed there. A segment that has grown to its size is
//! *sealed*: it gets a footer with everything the key index needs, so a restart reads no values. A compaction only marks
//! records dead; sealed segments that are mostly dead are rewritten without them ([`Segments::rewrite`]) while appends and
//! reads go on.
//!
//! What it never does: it starts no thread (jobs are values; the caller chooses where they run), takes no lock, and keeps
//! no record of how far it is valid. That is the catalog's word ([`SegmentEnd`] in [`crate::catalog::Commit`]): what lies
//! beyond it is cut at the next open, and comes back from the raft log.
//!
//! Start with [`Segments`], then [`SegmentsView`]. The bytes are in `format.rs` and `docs/formats/segments.md`.

mod block;
mod flush;
mod format;
mod open;
mod paced;
mod rewrite;
#[cfg(test)]
mod tests;
mod verify;
mod view;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::disk::Disk;
use crate::fault::Fault;
use block::{Block, BlockBuilder, Segment};
use format::{HEADER_BYTES, RECORD_HEADER_BYTES, SegmentId};
use view::OpenBlock;

pub use flush::{FlushJob, Flushed};
pub use rewrite::{RewriteJob, Rewritten};
pub use verify::{Verified, verify};
pub use view::SegmentsView;

/// A revision of the store: `main` counts transactions, `sub` the changes within one, as in etcd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// The store's revision, from 1; etcd's first put gets 2.
    pub main: i64,
    /// The position within the transaction, from 0.
    pub sub: i64,
}

impl fmt::Display for Revision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.main, self.sub)
    }
}

/// One record as readers get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in history.
    pub revision: Revision,
    /// Whether it says that the key was deleted. Its `kv` then has the key alone.
    pub tombstone: bool,
    /// The encoded `mvccpb.KeyValue`, exactly as appended.
    pub kv: Bytes,
}

/// What the key index needs to know of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordMeta<'a> {
    /// Its place in history; `main` is the modification revision of the key.
    pub revision: Revision,
    /// Whether it says that the key was deleted.
    pub tombstone: bool,
    /// The key.
    pub key: &'a [u8],
    /// The revision that created this generation of the key; 0 in tombstones.
    pub create_revision: i64,
    /// How many times the key was put since; 0 in tombstones.
    pub version: i64,
    /// The lease the key is attached to, or 0.
    pub lease: i64,
}

/// How far one segment is valid. The catalog keeps one per segment, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentEnd {
    /// The place among segments; grows with the revisions.
    pub sequence: u64,
    /// How often the segment was rewritten.
    pub generation: u32,
    /// The offset in the file behind the last valid record.
    pub end: u64,
    /// The number of valid records.
    pub records: u32,
    /// Whether a footer follows the last record.
    pub sealed: bool,
}

/// Sizes. The defaults suit a member with the default quota; tests make them small.
#[derive(Clone, Copy, Debug)]
pub struct SegmentsOptions {
    /// A segment is sealed once its records reach this many bytes. It grows past it by at most one record.
    pub segment_bytes: u64,
    /// The newest records are kept in memory up to this many bytes. What is not yet flushed, and the segment that is not
    /// yet sealed, stay in memory whatever the budget says.
    pub hot_bytes: u64,
    /// Goes into the header of new files and thereby into every checksum. Any number; a member's id serves well, so that a
    /// file of another member never passes for ours.
    pub salt: u32,
    /// The sequence of the first segment, when the directory has none. New sequences are above that of any file found there.
    pub sequence_first: u64,
}

impl Default for SegmentsOptions {
    fn default() -> SegmentsOptions {
        SegmentsOptions {
            segment_bytes: 24 << 20,
            hot_bytes: 48 << 20,
            salt: 0,
            sequence_first: 1,
        }
    }
}

/// Sequences left to a store while its successor is being written. It may be replaced 2^31 times before they run out.
const SUCCESSOR_GAP: u64 = 1 << 32;

/// The writer of segments. Owned by one thread (the apply worker); readers hold [`SegmentsView`]s.
///
/// In memory: 12 bytes per record, one bit per record for the dead, and the newest records up to the hot budget.
pub struct Segments {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: SegmentsOptions,
    /// All segments in order; the last one is the only one that is not sealed, and may be empty.
    frozen: Arc<Vec<Arc<Segment>>>,
    /// What only the writer knows of each segment, in the same order.
    ledgers: Vec<Ledger>,
    open: Arc<OpenBlock>,
    open_len: usize,
    /// Bytes the open block will have in the file.
    open_bytes: usize,
    last: Option<Revision>,
    /// What [`Segments::count_files`] has counted: asked for with every put, for the quota.
    file_bytes: u64,
    /// Files that no segment uses any more. They go once a commit no longer names them.
    obsolete: Vec<PathBuf>,
    /// The sequence of the next segment. Like the generations above `generation_floor`, it is above every one found on
    /// disk, named or not: no new file has the name of an obsolete one, which is about to be removed.
    next_sequence: u64,
    generation_floor: u32,
    flush_in_flight: bool,
    rewrite_in_flight: bool,
    /// The first fault of any job. Nothing is written after it.
    poison: Arc<OnceLock<Fault>>,
}

/// The writer's books on one segment.
#[derive(Clone, Debug, Default)]
struct Ledger {
    /// One bit per record, by number.
    dead: Vec<u64>,
    dead_bytes: u64,
    /// The part of `dead_bytes` that is tombstones (see `rewrite.rs` for why they are special).
    dead_tombstone_bytes: u64,
    /// The offset up to which the file is synced; 0 if there is no file.
    flushed: u64,
    sealed: bool,
    /// Bytes of the footer once it is synced.
    footer: Option<u64>,
}

impl Ledger {
    fn is_dead(&self, ordinal: u32) -> bool {
        self.dead
            .get(ordinal as usize / 64)
            .is_some_and(|word| word >> (ordinal % 64) & 1 == 1)
    }

    /// Marks a record; `false` if it was marked before.
    fn mark(&mut self, ordinal: u32, tombstone: bool, record_bytes: u64) -> bool {
        if self.is_dead(ordinal) {
            return false;
        }
        let word = ordinal as usize / 64;
        if self.dead.len() <= word {
            self.dead.resize(word + 1, 0);
        }
        self.dead[word] |= 1 << (ordinal % 64);
        self.dead_bytes += record_bytes;
        if tombstone {
            self.dead_tombstone_bytes += record_bytes;
        }
        true
    }
}

impl Segments {
    /// An empty store in `dir`, which is created if missing. Segment files found there belong to nobody (no catalog names
    /// them) and are removed by the first checkpoint.
    ///
    /// # Errors
    /// A [`Fault`] if the directory cannot be used.
    pub fn create(
        disk: Arc<dyn Disk>,
        dir: impl Into<PathBuf>,
        options: SegmentsOptions,
    ) -> Result<Segments, Fault> {
        Segments::open(disk, dir, &[], options)
    }

    /// Opens the store as the catalog's last commit describes it. Records and files beyond `ends` are cut: they were never
    /// acknowledged as stored, and the raft log has them.
    ///
    /// Sealed segments are opened by their footers alone. The unsealed one is read and checked whole.
    ///
    /// # Errors
    /// A [`Fault`] that names the file, and the record where there is one, if something `ends` names is missing or damaged.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: impl Into<PathBuf>,
        ends: &[SegmentEnd],
        options: SegmentsOptions,
    ) -> Result<Segments, Fault> {
        Segments::open_with(disk, dir, ends, options, |_| {})
    }

    /// [`Segments::open`] that hands out every record's description on the way, in revision order: with it a restart
    /// parses each footer once.
    pub fn open_with(
        disk: Arc<dyn Disk>,
        dir: impl Into<PathBuf>,
        ends: &[SegmentEnd],
        options: SegmentsOptions,
        each: impl FnMut(&RecordMeta),
    ) -> Result<Segments, Fault> {
        open::open(disk, dir.into(), ends, options, each)
    }

    /// Hands out every record's description in revision order, dead ones included. Sealed segments are read by their
    /// footers, without values.
    ///
    /// A key whose newest version was deleted never comes without that tombstone while an older version still exists in
    /// some file: rewriting sees to it. So replaying the records and compacting at the recorded revision gives the index
    /// as it was.
    ///
    /// # Errors
    /// A [`Fault`] if a footer cannot be read or is damaged.
    pub fn for_each_meta(&self, each: impl FnMut(&RecordMeta)) -> Result<(), Fault> {
        open::for_each_meta(self, each)
    }

    /// Appends a record. Memory only, never fails; durable after the next [`FlushJob`] and the commit that names its ends.
    /// Visible to views taken later.
    ///
    /// `kv` is kept as it is: pass an allocation of its own rather than a slice of a larger one.
    ///
    /// # Panics
    /// If revisions do not grow, or are beyond what the format holds (`sub` < 2³¹).
    pub fn append(&mut self, revision: Revision, tombstone: bool, kv: Bytes) {
        assert!(
            self.last.is_none_or(|last| last < revision),
            "revision {revision} appended after {:?}",
            self.last
        );
        assert!(
            revision.main >= 0 && (0..=format::SUB_MAX).contains(&revision.sub),
            "revision {revision} out of range"
        );
        assert!(
            kv.len() <= format::PAYLOAD_BYTES_MAX,
            "a record of {} bytes",
            kv.len()
        );
        let record_bytes = RECORD_HEADER_BYTES + kv.len();
        let far = self.open_len > 0
            && u32::try_from(revision.main - self.open.get(0).revision.main).is_err();
        if far
            || self.open_len == OpenBlock::SLOTS
            || (self.open_len > 0 && self.open_bytes + record_bytes > block::BLOCK_BYTES)
        {
            self.freeze();
        }
        let record = Record {
            revision,
            tombstone,
            kv,
        };
        self.open.slots[self.open_len]
            .set(record)
            .expect("a slot above the length has not been set");
        self.open_len += 1;
        self.open_bytes += record_bytes;
        self.last = Some(revision);
        if self.unsealed().end() + self.open_bytes as u64
            >= HEADER_BYTES + self.options.segment_bytes
        {
            self.seal();
        }
    }

    /// Seals the segment that is being written, though it is not full, so that a rewrite can reach what is dead in it. Does
    /// nothing if all of it is live. Takes effect on disk with the next flush.
    pub fn seal_early(&mut self) {
        let ledger = self
            .ledgers
            .last()
            .expect("there is always an unsealed segment");
        if ledger.dead_bytes > 0 {
            self.seal();
        }
    }

    /// Everything appended so far, as an immutable view. A few reference counts; take one per batch.
    pub fn view(&self) -> SegmentsView {
        SegmentsView {
            frozen: self.frozen.clone(),
            open: self.open.clone(),
            open_len: self.open_len,
        }
    }

    /// The newest revision appended.
    pub fn last(&self) -> Option<Revision> {
        self.last
    }

    /// Declares a record dead: no reader, watcher or hash will ask for it again. Its bytes come back when its segment is
    /// rewritten. Returns whether there is such a record and it was live.
    ///
    /// Mark the older versions of a key before, or together with, the tombstone that ends them; that is, finish one key
    /// before calling [`Segments::rewrite`]. Marks live in memory only; after a restart the index derives them again
    /// ([`Segments::keep_only`]).
    pub fn mark_dead(&mut self, revision: Revision) -> bool {
        if self.open_len > 0 && self.open.get(0).revision <= revision {
            let at = self.open.lower_bound(self.open_len, revision);
            if at == self.open_len || self.open.get(at).revision != revision {
                return false;
            }
            let record = self.open.get(at);
            let ordinal = self.unsealed().records() + at as u32;
            let (tombstone, bytes) = (
                record.tombstone,
                (RECORD_HEADER_BYTES + record.kv.len()) as u64,
            );
            return self
                .ledgers
                .last_mut()
                .expect("there is always an unsealed segment")
                .mark(ordinal, tombstone, bytes);
        }
        let at = self
            .frozen
            .partition_point(|segment| segment.first().is_some_and(|first| first <= revision));
        let Some(at) = at.checked_sub(1) else {
            return false;
        };
        let Some((block, record)) = self.frozen[at].find(revision) else {
            return false;
        };
        let block = &self.frozen[at].blocks[block];
        let (start, end) = block.span(record);
        self.ledgers[at].mark(
            block.ordinal + record as u32,
            block.revision(record).1,
            (end - start) as u64,
        )
    }

    /// Declares dead every record at or before `through` that is not in `live`. For the restart: the index, rebuilt and
    /// compacted, lists what it still refers to. Returns how many were marked.
    ///
    /// # Panics
    /// If `live` is not strictly ascending, or names a revision at or before `through` that no record has: the index was
    /// built from these very records.
    pub fn keep_only(&mut self, through: Revision, live: &[Revision]) -> u64 {
        assert!(
            live.is_sorted_by(|a, b| a < b),
            "live revisions are strictly ascending"
        );
        self.freeze();
        let mut live = live
            .iter()
            .copied()
            .take_while(|revision| *revision <= through)
            .peekable();
        let mut marked = 0;
        for (segment, ledger) in self.frozen.iter().zip(&mut self.ledgers) {
            for block in &segment.blocks {
                for at in 0..block.len() {
                    let (revision, tombstone) = block.revision(at);
                    if revision > through {
                        break;
                    }
                    if live.next_if_eq(&revision).is_none() {
                        let (start, end) = block.span(at);
                        marked += u64::from(ledger.mark(
                            block.ordinal + at as u32,
                            tombstone,
                            (end - start) as u64,
                        ));
                    }
                }
            }
        }
        assert_eq!(live.peek(), None, "a live revision has no record");
        marked
    }

    /// An empty store in the same directory that is to replace this one: its files never get the name of one of this store's,
    /// however long both grow side by side. One at a time.
    ///
    /// # Errors
    /// A [`Fault`] if the directory cannot be read.
    pub fn successor(&self) -> Result<Segments, Fault> {
        let options = SegmentsOptions {
            sequence_first: self.next_sequence + SUCCESSOR_GAP,
            ..self.options
        };
        Segments::open(self.disk.clone(), self.dir.clone(), &[], options)
    }

    /// The sizes it was opened with.
    pub fn options(&self) -> &SegmentsOptions {
        &self.options
    }

    /// Removes the files of a store that no commit has named.
    ///
    /// # Errors
    /// A [`Fault`] if a file that is there cannot be removed.
    pub fn discard(self) -> Result<(), Fault> {
        for segment in self.frozen.iter() {
            flush::remove_if_there(&*self.disk, &segment.path)?;
        }
        Ok(())
    }

    /// Bytes of all segments: files as they are or will be after the next flush. Files that wait for a commit to be
    /// removed are not counted.
    pub fn total_bytes(&self) -> u64 {
        self.file_bytes + self.open_bytes as u64
    }

    /// [`Segments::total_bytes`] less the records declared dead.
    pub fn live_bytes(&self) -> u64 {
        self.total_bytes()
            - self
                .ledgers
                .iter()
                .map(|ledger| ledger.dead_bytes)
                .sum::<u64>()
    }

    /// Bytes appended that no finished flush covers yet. The caller flushes before they grow past its own limit: they stay
    /// in memory.
    pub fn unflushed_bytes(&self) -> u64 {
        let frozen: u64 = self
            .frozen
            .iter()
            .zip(&self.ledgers)
            .map(|(s, ledger)| s.end() - ledger.flushed.max(HEADER_BYTES))
            .sum();
        frozen + self.open_bytes as u64
    }

    /// Bytes of records held in memory.
    pub fn hot_bytes(&self) -> u64 {
        let blocks = self
            .frozen
            .iter()
            .flat_map(|segment| &segment.blocks)
            .filter(|block| block.data.is_some());
        blocks.map(|block| u64::from(block.bytes)).sum::<u64>() + self.open_bytes as u64
    }

    /// The number of segments, the unsealed one included.
    pub fn count(&self) -> usize {
        self.frozen.len()
    }

    /// Bytes of all files as they are or will be, without the open block.
    fn count_files(&self) -> u64 {
        self.frozen
            .iter()
            .zip(&self.ledgers)
            .map(|(segment, ledger)| segment.end() + ledger.footer.unwrap_or(0))
            .sum()
    }

    fn unsealed(&self) -> &Arc<Segment> {
        self.frozen
            .last()
            .expect("there is always an unsealed segment")
    }

    /// Closes the open block: its records get the bytes they will have in the file. A small last block takes them in, so
    /// that frequent flushes leave no crumbs.
    fn freeze(&mut self) {
        if self.open_len == 0 {
            return;
        }
        let segment = Arc::make_mut(
            Arc::make_mut(&mut self.frozen)
                .last_mut()
                .expect("there is always an unsealed segment"),
        );
        let first = self.open.get(0);
        let last = self.open.get(self.open_len - 1);
        let merge = segment.blocks.last().is_some_and(|block| {
            let builder_takes = block.bytes as usize + self.open_bytes <= block::BLOCK_BYTES;
            builder_takes
                && block.data.is_some()
                && u32::try_from(last.revision.main - block.first().main).is_ok()
        });
        let (mut builder, mut data) = if merge {
            let block = segment.blocks.pop().expect("it was just looked at");
            let mut data = Vec::with_capacity(block.bytes as usize + self.open_bytes);
            data.extend_from_slice(block.data.as_ref().expect("it was just found hot"));
            (BlockBuilder::resume(&block), data)
        } else {
            (
                BlockBuilder::new(segment.records(), segment.end()),
                Vec::with_capacity(self.open_bytes),
            )
        };
        debug_assert!(builder.is_empty() || builder.takes(first.revision, 0));
        for at in 0..self.open_len {
            let Record {
                revision,
                tombstone,
                kv,
            } = self.open.get(at);
            let offset = builder.offset() + data.len() as u64;
            format::encode_record(&mut data, segment.seed, offset, *revision, *tombstone, kv);
            builder.push(*revision, *tombstone, RECORD_HEADER_BYTES + kv.len());
        }
        segment.blocks.push(builder.finish(Some(data.into())));
        self.open = OpenBlock::new();
        (self.open_len, self.open_bytes) = (0, 0);
        self.file_bytes = self.count_files();
    }

    /// Ends the unsealed segment and begins the next.
    fn seal(&mut self) {
        self.freeze();
        assert!(
            self.unsealed().records() > 0,
            "an empty segment is not sealed"
        );
        self.ledgers
            .last_mut()
            .expect("there is always an unsealed segment")
            .sealed = true;
        self.begin();
    }

    fn begin(&mut self) {
        let id = SegmentId {
            sequence: self.next_sequence,
            generation: 0,
        };
        self.next_sequence += 1;
        let segment = new_segment(id, self.options.salt, &self.dir, Vec::new());
        Arc::make_mut(&mut self.frozen).push(Arc::new(segment));
        self.ledgers.push(Ledger::default());
        self.file_bytes = self.count_files();
    }

    /// The job's fault, remembered: a store that failed to write does not write again.
    fn check_poison(poison: &OnceLock<Fault>) -> Result<(), Fault> {
        poison.get().map_or(Ok(()), |fault| Err(fault.clone()))
    }

    /// Whole-structure check for tests and the simulator: order, numbering, books.
    pub fn check(&self) {
        assert_eq!(
            self.frozen.len(),
            self.ledgers.len(),
            "one ledger per segment"
        );
        assert_eq!(
            self.file_bytes,
            self.count_files(),
            "file sizes are counted"
        );
        let mut last = None;
        let mut sequence = 0;
        for (at, (segment, ledger)) in self.frozen.iter().zip(&self.ledgers).enumerate() {
            assert!(segment.id.sequence > sequence, "sequences grow");
            sequence = segment.id.sequence;
            assert_eq!(
                ledger.sealed,
                at + 1 < self.frozen.len(),
                "all but the last segment are sealed"
            );
            let (mut ordinal, mut offset, mut dead) = (0, HEADER_BYTES, 0);
            for block in &segment.blocks {
                assert_eq!(
                    (block.ordinal, block.offset),
                    (ordinal, offset),
                    "blocks follow each other"
                );
                for record in 0..block.len() {
                    let revision = block.revision(record).0;
                    assert!(last < Some(revision), "revisions grow");
                    last = Some(revision);
                    if ledger.is_dead(ordinal + record as u32) {
                        dead += (block.span(record).1 - block.span(record).0) as u64;
                    }
                }
                assert!(
                    block.data.is_some() || segment.file.is_some(),
                    "a cold block has a file"
                );
                ordinal += block.len() as u32;
                offset += u64::from(block.bytes);
            }
            let open_dead = if ledger.sealed {
                0
            } else {
                self.open_dead_bytes(ledger, ordinal)
            };
            assert_eq!(ledger.dead_bytes, dead + open_dead, "dead bytes add up");
            assert!(
                ledger.flushed <= segment.end(),
                "no more is flushed than there is"
            );
        }
    }

    fn open_dead_bytes(&self, ledger: &Ledger, base: u32) -> u64 {
        let dead = (0..self.open_len).filter(|at| ledger.is_dead(base + *at as u32));
        dead.map(|at| (RECORD_HEADER_BYTES + self.open.get(at).kv.len()) as u64)
            .sum()
    }
}

/// Whether a file of this name is a segment's.
pub(crate) fn is_segment_name(name: &str) -> bool {
    SegmentId::parse(name).is_some()
}

fn new_segment(
    id: SegmentId,
    salt: u32,
    dir: &std::path::Path,
    blocks: Vec<Arc<Block>>,
) -> Segment {
    let (_, seed) = format::encode_header(id, salt);
    Segment {
        id,
        seed,
        salt,
        path: dir.join(id.file_name()),
        blocks,
        file: None,
    }
}
