//! From memory to files: a flush is a value that owns what it will write.
//!
//! The order that makes it safe: records, footer, file sync, directory sync; then the catalog's commit, which alone makes
//! the new ends valid; then [`Segments::flushed`], after which memory may forget. A flush that was written but never
//! committed leaves bytes beyond the named ends, which the next open cuts.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::block::Segment;
use super::format::{self, FooterWriter, HEADER_BYTES, KeyMeta, SegmentId};
use super::paced::PacedFile;
use super::{SegmentEnd, Segments};
use crate::disk::{Disk, File, Open};
use crate::fault::{Fault, FaultKind};
use prost::Message;

/// What a flush has to write. Immutable; [`FlushJob::run`] may be called on any thread.
pub struct FlushJob {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    writes: Vec<Write>,
    ends: Vec<SegmentEnd>,
    obsolete: Vec<PathBuf>,
    /// Whether every file that the ends do not name is obsolete.
    sweeps: bool,
    poison: Arc<OnceLock<Fault>>,
}

/// One segment's part of a flush.
struct Write {
    segment: Arc<Segment>,
    /// What is synced already; 0 if the file is to be created.
    from: u64,
    seal: bool,
}

/// What a flush has written and synced. Give it to [`Segments::flushed`] once the catalog has committed.
pub struct Flushed {
    done: Vec<Done>,
}

struct Done {
    id: SegmentId,
    file: Arc<dyn File>,
    end: u64,
    footer: Option<u64>,
}

impl Segments {
    /// Everything appended since the last flush, as a job that writes it. The catalog must commit [`FlushJob::ends`] after
    /// the job has run, and then remove [`FlushJob::obsolete`]; [`crate::checkpoint::CheckpointJob`] does all of it.
    ///
    /// # Panics
    /// If the previous flush has not come back through [`Segments::flushed`].
    pub fn flush(&mut self) -> FlushJob {
        assert!(!self.flush_in_flight, "one flush at a time");
        self.flush_in_flight = true;
        self.freeze();
        let mut writes = Vec::new();
        let mut ends = Vec::new();
        for (segment, ledger) in self.frozen.iter().zip(&self.ledgers) {
            if segment.records() == 0 {
                continue;
            }
            ends.push(SegmentEnd {
                sequence: segment.id.sequence,
                generation: segment.id.generation,
                end: segment.end(),
                records: segment.records(),
                sealed: ledger.sealed,
            });
            let seal = ledger.sealed && ledger.footer.is_none();
            if seal || ledger.flushed < segment.end() {
                writes.push(Write {
                    segment: segment.clone(),
                    from: ledger.flushed,
                    seal,
                });
            }
        }
        FlushJob {
            disk: self.disk.clone(),
            dir: self.dir.clone(),
            writes,
            ends,
            obsolete: std::mem::take(&mut self.obsolete),
            sweeps: false,
            poison: self.poison.clone(),
        }
    }

    /// Takes note of a finished flush: what is beyond the hot budget leaves memory.
    pub fn flushed(&mut self, flushed: Flushed) {
        assert!(self.flush_in_flight, "a flush comes back once");
        self.flush_in_flight = false;
        let frozen = Arc::make_mut(&mut self.frozen);
        for done in flushed.done {
            let at = frozen
                .iter()
                .position(|segment| segment.id == done.id)
                .expect("what is being flushed is not rewritten or dropped");
            let ledger = &mut self.ledgers[at];
            assert!(
                ledger.flushed <= done.end && done.end <= frozen[at].end(),
                "a flush only goes forward"
            );
            ledger.flushed = done.end;
            ledger.footer = ledger.footer.or(done.footer);
            if frozen[at].file.is_none() {
                Arc::make_mut(&mut frozen[at]).file = Some(done.file);
            }
        }
        self.file_bytes = self.count_files();
        self.cool();
    }

    /// Lets the oldest hot blocks go until the budget holds.
    pub(super) fn cool(&mut self) {
        let mut hot = 0;
        for (segment, ledger) in Arc::make_mut(&mut self.frozen)
            .iter_mut()
            .zip(&self.ledgers)
            .rev()
        {
            let bytes: u64 = segment
                .blocks
                .iter()
                .filter(|block| block.data.is_some())
                .map(|block| u64::from(block.bytes))
                .sum();
            hot += bytes;
            if bytes == 0 || hot <= self.options.hot_bytes || ledger.footer.is_none() {
                continue;
            }
            let mut over = hot - self.options.hot_bytes;
            for block in &mut Arc::make_mut(segment).blocks {
                if over == 0 {
                    break;
                }
                if block.data.is_some() {
                    over = over.saturating_sub(u64::from(block.bytes));
                    *block = Arc::new(block.cooled());
                }
            }
        }
    }
}

impl FlushJob {
    /// How far each segment is valid once this job has run: for the commit.
    pub fn ends(&self) -> &[SegmentEnd] {
        &self.ends
    }

    /// Files that the commit of [`FlushJob::ends`] makes unnecessary. They must stay until it is durable.
    pub fn obsolete(&self) -> &[PathBuf] {
        &self.obsolete
    }

    /// Bytes of records to write.
    pub fn bytes(&self) -> u64 {
        self.writes
            .iter()
            .map(|write| write.segment.end() - write.from)
            .sum()
    }

    /// Writes and syncs. Repeating it writes the same bytes to the same places.
    ///
    /// # Errors
    /// [`FaultKind::NoSpace`] if the disk is full: nothing acknowledged is affected (the raft log has it); keep the job and
    /// run it again when there is room. Any other [`Fault`] is final, for this job and every later one of the same store.
    pub fn run(&self) -> Result<Flushed, Fault> {
        Segments::check_poison(&self.poison)?;
        self.write_all()
            .map_err(|fault| poisoned(&self.poison, fault))
    }

    /// The same job for segments that replace all others in their directory, which may have grown since they were begun:
    /// whatever the ends do not name is obsolete.
    #[must_use]
    pub fn sweeping(self) -> FlushJob {
        FlushJob {
            sweeps: true,
            ..self
        }
    }

    /// Removes the files of [`FlushJob::obsolete`]. Only after the commit that names [`FlushJob::ends`] is durable. The
    /// removal itself need not be: the next open removes files that no commit names.
    ///
    /// # Errors
    /// A [`Fault`] if a file that is there cannot be removed.
    pub fn remove_obsolete(&self) -> Result<(), Fault> {
        for path in &self.obsolete {
            remove_if_there(&*self.disk, path)?;
        }
        if !self.sweeps {
            return Ok(());
        }
        let names = self
            .disk
            .list(&self.dir)
            .map_err(|error| Fault::read_failed(self.dir.display(), &error))?;
        for name in names {
            let Some(id) = SegmentId::parse(&name) else {
                continue;
            };
            let is_named =
                |end: &SegmentEnd| (end.sequence, end.generation) == (id.sequence, id.generation);
            if !self.ends.iter().any(is_named) {
                remove_if_there(&*self.disk, &self.dir.join(name))?;
            }
        }
        Ok(())
    }

    fn write_all(&self) -> Result<Flushed, Fault> {
        let mut done = Vec::with_capacity(self.writes.len());
        for write in &self.writes {
            done.push(write.run(&*self.disk)?);
        }
        if self.writes.iter().any(|write| write.from == 0) {
            self.disk
                .sync_dir(&self.dir)
                .map_err(|error| Fault::sync_failed(self.dir.display(), &error))?;
        }
        Ok(Flushed { done })
    }
}

impl Write {
    fn run(&self, disk: &dyn Disk) -> Result<Done, Fault> {
        let segment = &self.segment;
        let file = match &segment.file {
            Some(file) => file.clone(),
            None => create(disk, &segment.path)?,
        };
        let mut file = PacedFile::new(file, &segment.path);
        if self.from == 0 {
            let (header, _) = format::encode_header(segment.id, segment.salt);
            file.write_at(0, &header)?;
        }
        let from = self.from.max(HEADER_BYTES);
        for block in segment
            .blocks
            .iter()
            .filter(|block| block.offset + u64::from(block.bytes) > from)
        {
            let data = block
                .data
                .as_ref()
                .expect("what is not flushed stays in memory");
            let skip = from.saturating_sub(block.offset);
            file.write_at(block.offset + skip, &data[skip as usize..])?;
        }
        let footer = if self.seal {
            let footer = build_footer(segment)?;
            file.write_at(segment.end(), &footer)?;
            Some(footer.len() as u64)
        } else {
            None
        };
        Ok(Done {
            id: segment.id,
            file: file.finish()?,
            end: segment.end(),
            footer,
        })
    }
}

pub(super) fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<(), Fault> {
    match disk.remove(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Fault::write_failed(path.display(), &error))
        }
        _ => Ok(()),
    }
}

/// An empty file for a new segment, whatever an earlier attempt left under its name.
pub(super) fn create(disk: &dyn Disk, path: &Path) -> Result<Arc<dyn File>, Fault> {
    let file = disk
        .open(path, Open::Create)
        .map_err(|error| Fault::write_failed(path.display(), &error))?;
    file.set_len(0)
        .map_err(|error| Fault::write_failed(path.display(), &error))?;
    Ok(file)
}

/// Remembers a final fault, so that nothing is written after it.
pub(super) fn poisoned(poison: &OnceLock<Fault>, fault: Fault) -> Fault {
    if fault.kind() != FaultKind::NoSpace {
        // Another job may have been first; then its fault stays the one that is told.
        let _ = poison.set(fault.clone());
    }
    fault
}

/// The footer of a segment whose records are all in memory.
fn build_footer(segment: &Segment) -> Result<Vec<u8>, Fault> {
    let mut footer = FooterWriter::new();
    for block in &segment.blocks {
        let data = block
            .data
            .as_ref()
            .expect("a segment that is being sealed is in memory");
        for at in 0..block.len() {
            let record = segment.checked(block, at, data, 0)?;
            let meta = decode_meta(segment, block.offset + block.span(at).0 as u64, &record)?;
            footer.push(
                &meta.as_meta(record.revision, record.tombstone),
                record.kv.len(),
            );
        }
    }
    Ok(footer.finish(segment.seed))
}

/// The index's part of a record's payload.
pub(super) fn decode_meta(
    segment: &Segment,
    offset: u64,
    record: &super::Record,
) -> Result<KeyMeta, Fault> {
    let payload: Bytes = record.kv.clone();
    KeyMeta::decode(payload)
        .map_err(|_| segment.damaged(offset, record.revision, "the record is no key-value"))
}
