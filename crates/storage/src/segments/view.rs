//! What readers hold: every record appended up to one moment, for as long as they like.
//!
//! A view is three words. It shares the sealed and closed blocks with the writer and everyone else, and reaches into the
//! block being filled up to the record that was newest when the view was taken. The writer never waits for a reader and a
//! reader never waits for the writer.

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::block::{Block, Segment};
use super::{Record, Revision};
use crate::fault::Fault;

/// Records of the block being filled. Slots are set once, in order, and never change.
pub(super) struct OpenBlock {
    pub slots: Box<[OnceLock<Record>]>,
}

impl OpenBlock {
    /// A block of so many records is closed even if it is short of bytes.
    pub(super) const SLOTS: usize = 512;

    pub(super) fn new() -> Arc<OpenBlock> {
        Arc::new(OpenBlock {
            slots: (0..Self::SLOTS).map(|_| OnceLock::new()).collect(),
        })
    }

    /// The record in a slot that has been set.
    pub(super) fn get(&self, at: usize) -> &Record {
        self.slots[at]
            .get()
            .expect("slots below the length are set before the length is told to anyone")
    }

    /// The first of `len` slots at or after `revision`.
    pub(super) fn lower_bound(&self, len: usize, revision: Revision) -> usize {
        self.slots[..len]
            .partition_point(|slot| slot.get().is_some_and(|record| record.revision < revision))
    }
}

/// An immutable view of the records. Clone it freely; it is `Send` and `Sync`.
///
/// It pins what it sees: memory of hot blocks, and files that a rewrite has replaced meanwhile.
#[derive(Clone)]
pub struct SegmentsView {
    pub(super) frozen: Arc<Vec<Arc<Segment>>>,
    pub(super) open: Arc<OpenBlock>,
    pub(super) open_len: usize,
}

/// Cold records that lie this close together are read in one go.
const GAP_BYTES: u64 = 4 << 10;
/// The most that one coalesced read asks for, unless a single record is larger.
const RUN_BYTES: u64 = 256 << 10;

impl SegmentsView {
    /// The record with this revision, or `None` if there is none (never written, or dropped after a compaction).
    ///
    /// From memory without copying while hot, with one read of the file otherwise.
    ///
    /// # Errors
    /// A [`Fault`] that names file, offset and revision if the record cannot be read or is damaged.
    pub fn read(&self, revision: Revision) -> Result<Option<Record>, Fault> {
        match self.locate(revision) {
            Place::Nowhere => Ok(None),
            Place::Open(record) => Ok(Some(record.clone())),
            Place::In(found) => found.segment.record_of(found.block, found.at).map(Some),
        }
    }

    /// Reads many records, in the order asked for; `each` gets the position in `revisions` and the record. Asked-for
    /// neighbours that also lie side by side in a file come with one read.
    ///
    /// # Errors
    /// As [`SegmentsView::read`]. Records before the faulty one have been handed out.
    pub fn read_many(
        &self,
        revisions: &[Revision],
        mut each: impl FnMut(usize, Option<Record>) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        let mut at = 0;
        let mut next = None;
        while at < revisions.len() {
            let record = match next.take().unwrap_or_else(|| self.locate(revisions[at])) {
                Place::Nowhere => None,
                Place::Open(record) => Some(record.clone()),
                Place::In(found) if found.block.data.is_some() => {
                    Some(found.segment.record_of(found.block, found.at)?)
                }
                Place::In(found) => {
                    let run;
                    (run, next) = self.cold_run(found, &revisions[at + 1..]);
                    if read_run(&run, at, &mut each)?.is_break() {
                        return Ok(());
                    }
                    at += run.len();
                    continue;
                }
            };
            if each(at, record).is_break() {
                return Ok(());
            }
            at += 1;
        }
        Ok(())
    }

    /// Hands out all records with `from <= revision < to` in order, until `each` breaks. Records that a compaction has
    /// declared dead may or may not still be among them; the index knows.
    ///
    /// # Errors
    /// As [`SegmentsView::read`]. Records before the faulty one have been handed out.
    pub fn scan(
        &self,
        from: Revision,
        to: Revision,
        mut each: impl FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        let begin = self
            .frozen
            .partition_point(|segment| segment.last().is_some_and(|last| last < from));
        for segment in &self.frozen[begin..] {
            let (first_block, _) = segment.locate(from).unwrap_or((0, 0));
            for block in segment.blocks.get(first_block..).unwrap_or_default() {
                if block.first() >= to {
                    return Ok(());
                }
                if scan_block(segment, block, from, to, &mut each)?.is_break() {
                    return Ok(());
                }
            }
        }
        for at in self.open.lower_bound(self.open_len, from)..self.open_len {
            let record = self.open.get(at);
            if record.revision >= to || each(record.clone()).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The newest revision in view.
    pub fn last(&self) -> Option<Revision> {
        match self.open_len.checked_sub(1) {
            Some(at) => Some(self.open.get(at).revision),
            None => self.frozen.iter().rev().find_map(|segment| segment.last()),
        }
    }

    fn locate(&self, revision: Revision) -> Place<'_> {
        if self.open_len > 0 && self.open.get(0).revision <= revision {
            let at = self.open.lower_bound(self.open_len, revision);
            return match (at < self.open_len).then(|| self.open.get(at)) {
                Some(record) if record.revision == revision => Place::Open(record),
                _ => Place::Nowhere,
            };
        }
        let behind = self
            .frozen
            .partition_point(|segment| segment.first().is_some_and(|first| first <= revision));
        let Some(segment) = behind.checked_sub(1).map(|at| &self.frozen[at]) else {
            return Place::Nowhere;
        };
        let Some((block, at)) = segment.find(revision) else {
            return Place::Nowhere;
        };
        Place::In(Found {
            segment,
            block: &segment.blocks[block],
            at,
        })
    }

    /// The longest run of `first` and the beginning of `revisions` that one read of one file can serve, and what ended it.
    fn cold_run<'a>(
        &'a self,
        first: Found<'a>,
        revisions: &[Revision],
    ) -> (Vec<Found<'a>>, Option<Place<'a>>) {
        let start = first.start();
        let mut run = vec![first];
        for &revision in revisions {
            let place = self.locate(revision);
            let end = run[run.len() - 1].end();
            match place {
                Place::In(found)
                    if found.block.data.is_none()
                        && Arc::ptr_eq(found.segment, run[0].segment)
                        && (end..=end + GAP_BYTES).contains(&found.start())
                        && found.end() - start <= RUN_BYTES =>
                {
                    run.push(found);
                }
                other => return (run, Some(other)),
            }
        }
        (run, None)
    }
}

/// Where a revision is.
enum Place<'a> {
    Nowhere,
    Open(&'a Record),
    In(Found<'a>),
}

/// A record of a closed block.
struct Found<'a> {
    segment: &'a Arc<Segment>,
    block: &'a Arc<Block>,
    at: usize,
}

impl Found<'_> {
    fn start(&self) -> u64 {
        self.block.offset + self.block.span(self.at).0 as u64
    }

    fn end(&self) -> u64 {
        self.block.offset + self.block.span(self.at).1 as u64
    }
}

/// Reads cold records that lie close together, the first of which was asked for at position `at`.
fn read_run(
    run: &[Found<'_>],
    at: usize,
    each: &mut impl FnMut(usize, Option<Record>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Fault> {
    let (first, start) = (&run[0], run[0].start());
    let length = (run[run.len() - 1].end() - start) as usize;
    let bytes = first
        .segment
        .read_range(start, length, first.block.revision(first.at).0)?;
    for (step, found) in run.iter().enumerate() {
        let piece = bytes.slice((found.start() - start) as usize..(found.end() - start) as usize);
        let skip = found.block.span(found.at).0;
        let record = found.segment.checked(found.block, found.at, &piece, skip)?;
        if each(at + step, Some(record)).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Scans one block, reading it at once if it is cold.
fn scan_block(
    segment: &Segment,
    block: &Block,
    from: Revision,
    to: Revision,
    each: &mut impl FnMut(Record) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Fault> {
    let (begin, end) = (block.lower_bound(from), block.lower_bound(to));
    if begin >= end {
        return Ok(ControlFlow::Continue(()));
    }
    let (start, length) = (
        block.span(begin).0,
        block.span(end - 1).1 - block.span(begin).0,
    );
    let bytes: Bytes = match &block.data {
        Some(data) => data.slice(start..start + length),
        None => segment.read_range(block.offset + start as u64, length, block.revision(begin).0)?,
    };
    for at in begin..end {
        if each(segment.checked(block, at, &bytes, start)?).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}
