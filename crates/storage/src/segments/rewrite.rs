//! Getting space back: sealed segments that are mostly dead are written again without the dead.
//!
//! The new file has the sequence of the first it replaces and a generation one higher. Small neighbours are merged on the
//! way. Old files stay until a commit names the new one, so a crash at any point finds either the old or the new complete.
//!
//! **Dead tombstones stay while anything dead is left in an older segment.** Marks are not kept on disk: a restart replays
//! what the files hold and compacts. Were a tombstone dropped while an older version of its key still lies, dead, in
//! another file, the key would come back to life at that restart. So that such tombstones do not pile up behind an old
//! segment with a few dead records, the oldest one is rewritten, however live, once they outweigh a segment.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::block::{Block, BlockBuilder, Segment};
use super::flush::{create, decode_meta, poisoned};
use super::format::{self, FooterWriter, HEADER_BYTES, RECORD_HEADER_BYTES, SegmentId};
use super::paced::PacedFile;
use super::{Ledger, Record, Segments};
use crate::disk::Disk;
use crate::fault::{Fault, FaultKind};

/// So many small neighbours are merged even if nothing in them is dead, and at most so many in one job.
const CROWD: usize = 8;

/// One rewrite. Immutable; [`RewriteJob::run`] may be called on any thread, while appends, reads and flushes go on.
pub struct RewriteJob {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    sources: Vec<Source>,
    /// Whether dead tombstones must stay.
    pub(super) tombstones_stay: bool,
    id: SegmentId,
    salt: u32,
    poison: Arc<OnceLock<Fault>>,
}

/// A segment to be replaced, with the marks as they were when the job was made. Later marks are carried over.
struct Source {
    segment: Arc<Segment>,
    ledger: Ledger,
}

/// A rewrite that is on disk. Give it to [`Segments::rewritten`].
pub struct Rewritten {
    job: RewriteJob,
    segment: Segment,
    footer: u64,
}

impl Segments {
    /// Picks what is most worth rewriting among sealed, flushed segments: the one with the least live share, if that is at
    /// most `live_share_max` (0 to 1). Segments without a live record are dropped at once, without a job; their files go
    /// with the next checkpoint, as do those a rewrite replaces.
    ///
    /// `None` if there is nothing to gain, or a rewrite is under way. One job at a time: it must come back through
    /// [`Segments::rewritten`] or [`Segments::rewrite_abandoned`].
    pub fn rewrite(&mut self, live_share_max: f64) -> Option<RewriteJob> {
        if self.rewrite_in_flight {
            return None;
        }
        self.drop_dead();
        self.file_bytes = self.count_files();
        let picked = self.pick(live_share_max)?;
        let older_dead = self.ledgers[..picked.start]
            .iter()
            .any(|ledger| ledger.dead_bytes > 0);
        let first = self.frozen[picked.start].id;
        let generation = first.generation.max(self.generation_floor).checked_add(1)?;
        let sources = picked
            .map(|at| Source {
                segment: self.frozen[at].clone(),
                ledger: self.ledgers[at].clone(),
            })
            .collect();
        self.rewrite_in_flight = true;
        Some(RewriteJob {
            disk: self.disk.clone(),
            dir: self.dir.clone(),
            sources,
            tombstones_stay: older_dead,
            id: SegmentId {
                sequence: first.sequence,
                generation,
            },
            salt: self.options.salt,
            poison: self.poison.clone(),
        })
    }

    /// Puts the new segment in the place of the old ones. Views taken before keep reading the old files; the next
    /// [`Segments::flush`] names the new one and lists the old ones as obsolete.
    pub fn rewritten(&mut self, rewritten: Rewritten) {
        assert!(self.rewrite_in_flight, "a rewrite comes back once");
        self.rewrite_in_flight = false;
        let Rewritten {
            job,
            segment,
            footer,
        } = rewritten;
        let first = job.sources[0].segment.id;
        let start = self
            .frozen
            .iter()
            .position(|segment| segment.id == first)
            .expect("what is being rewritten is not dropped");
        let end = start + job.sources.len();
        let mut ledger = Ledger {
            flushed: segment.end(),
            sealed: true,
            footer: Some(footer),
            ..Ledger::default()
        };
        let mut ordinal = 0;
        for (source, now) in job.sources.iter().zip(&self.ledgers[start..end]) {
            for (block, at) in job.kept(source) {
                if now.is_dead(block.ordinal + at as u32) {
                    let (start, end) = block.span(at);
                    ledger.mark(ordinal, block.revision(at).1, (end - start) as u64);
                }
                ordinal += 1;
            }
        }
        assert_eq!(
            ordinal,
            segment.records(),
            "the new segment has exactly the kept records"
        );
        let frozen = Arc::make_mut(&mut self.frozen);
        for (old, source) in frozen[start..end].iter().zip(&job.sources) {
            assert_eq!(
                old.id, source.segment.id,
                "the replaced segments are still neighbours"
            );
            self.obsolete.push(old.path.clone());
        }
        if ordinal == 0 {
            self.obsolete.push(segment.path.clone());
        }
        frozen.splice(start..end, (ordinal > 0).then(|| Arc::new(segment)));
        self.ledgers
            .splice(start..end, (ordinal > 0).then_some(ledger));
        self.file_bytes = self.count_files();
    }

    /// Gives up a rewrite, say because the disk is full. Nothing has changed.
    pub fn rewrite_abandoned(&mut self) {
        self.rewrite_in_flight = false;
    }

    /// Drops flushed segments in which nothing is live, as far as the rule about tombstones lets.
    fn drop_dead(&mut self) {
        let mut older_dead = false;
        let mut at = 0;
        while at < self.frozen.len() {
            let (segment, ledger) = (&self.frozen[at], &self.ledgers[at]);
            let wholly = ledger.footer.is_some() && ledger.dead_bytes == record_bytes(segment);
            if wholly && (!older_dead || ledger.dead_tombstone_bytes == 0) {
                self.obsolete.push(segment.path.clone());
                Arc::make_mut(&mut self.frozen).remove(at);
                self.ledgers.remove(at);
            } else {
                older_dead |= ledger.dead_bytes > 0;
                at += 1;
            }
        }
    }

    /// The range of segments to rewrite.
    fn pick(&self, live_share_max: f64) -> Option<std::ops::Range<usize>> {
        let mut best: Option<(f64, usize)> = None;
        let mut oldest = None;
        let mut waiting_tombstones = 0;
        for (at, (segment, ledger)) in self.frozen.iter().zip(&self.ledgers).enumerate() {
            let stay = if oldest.is_some() {
                ledger.dead_tombstone_bytes
            } else {
                0
            };
            waiting_tombstones += stay;
            let gain = ledger.dead_bytes - stay;
            if ledger.dead_bytes > 0 {
                oldest = oldest.or(Some(at));
            }
            let share = 1.0 - gain as f64 / record_bytes(segment).max(1) as f64;
            if ledger.footer.is_some()
                && gain > 0
                && share <= live_share_max
                && best.is_none_or(|(least, _)| share < least)
            {
                best = Some((share, at));
            }
        }
        let waiting = oldest.filter(|at| {
            waiting_tombstones > self.options.segment_bytes && self.ledgers[*at].footer.is_some()
        });
        match best.map(|(_, at)| at).or(waiting) {
            Some(at) => Some(self.with_small_neighbours(at)),
            None => self.crowd(),
        }
    }

    fn kept_bytes(&self, at: usize) -> u64 {
        record_bytes(&self.frozen[at]) - self.ledgers[at].dead_bytes
    }

    fn with_small_neighbours(&self, at: usize) -> std::ops::Range<usize> {
        let (mut start, mut end, mut bytes) = (at, at + 1, self.kept_bytes(at));
        let fits = |at: usize, bytes: u64| {
            // Not the unsealed one: its dead are counted before their block is closed, its bytes only then.
            self.ledgers[at].footer?;
            let kept = self.kept_bytes(at);
            let small = kept <= self.options.segment_bytes / 4
                && bytes + kept <= self.options.segment_bytes;
            small.then_some(kept)
        };
        // Not too many at once, so that a job stays a slice of work.
        while end - start < CROWD
            && let Some(kept) = start.checked_sub(1).and_then(|left| fits(left, bytes))
        {
            (start, bytes) = (start - 1, bytes + kept);
        }
        while end - start < CROWD
            && end < self.frozen.len()
            && let Some(kept) = fits(end, bytes)
        {
            (end, bytes) = (end + 1, bytes + kept);
        }
        start..end
    }

    /// Many small neighbours, if there are.
    fn crowd(&self) -> Option<std::ops::Range<usize>> {
        let small = |at: usize| {
            self.ledgers[at].footer.is_some()
                && self.kept_bytes(at) <= self.options.segment_bytes / CROWD as u64
        };
        (0..(self.frozen.len() + 1).saturating_sub(CROWD))
            .find(|start| (*start..start + CROWD).all(small))
            .map(|start| start..start + CROWD)
    }
}

fn record_bytes(segment: &Segment) -> u64 {
    segment.end() - HEADER_BYTES
}

impl RewriteJob {
    /// Bytes of the segments it reads.
    pub fn bytes(&self) -> u64 {
        self.sources
            .iter()
            .map(|source| record_bytes(&source.segment))
            .sum()
    }

    /// Writes the new file and syncs it and its directory. Every record that is kept is checked on the way.
    ///
    /// # Errors
    /// [`FaultKind::NoSpace`] if the disk is full: the unfinished file is removed again, call
    /// [`Segments::rewrite_abandoned`]. Any other [`Fault`] is final.
    pub fn run(self) -> Result<Rewritten, Fault> {
        Segments::check_poison(&self.poison)?;
        let poison = self.poison.clone();
        let path = self.dir.join(self.id.file_name());
        let written = self.write(&path);
        if let Err(fault) = &written
            && fault.kind() == FaultKind::NoSpace
        {
            // If this fails too, the next open removes the file: no catalog names it.
            let _ = self.disk.remove(&path);
        }
        let (segment, footer) = written.map_err(|fault| poisoned(&poison, fault))?;
        Ok(Rewritten {
            job: self,
            segment,
            footer,
        })
    }

    /// The records that stay, in order.
    fn kept<'a>(&'a self, source: &'a Source) -> impl Iterator<Item = (&'a Arc<Block>, usize)> {
        source
            .segment
            .blocks
            .iter()
            .flat_map(|block| (0..block.len()).map(move |at| (block, at)))
            .filter(|(block, at)| {
                !source.ledger.is_dead(block.ordinal + *at as u32)
                    || (self.tombstones_stay && block.revision(*at).1)
            })
    }

    fn write(&self, path: &std::path::Path) -> Result<(Segment, u64), Fault> {
        let file = create(&*self.disk, path)?;
        let (header, seed) = format::encode_header(self.id, self.salt);
        let mut file = PacedFile::new(file, path);
        file.write_at(0, &header)?;
        let mut out = Output {
            file,
            seed,
            blocks: Vec::new(),
            builder: BlockBuilder::new(0, HEADER_BYTES),
            data: Vec::new(),
            footer: FooterWriter::new(),
        };
        for source in &self.sources {
            let segment = &source.segment;
            let mut current: Option<(u32, bytes::Bytes)> = None;
            for (block, at) in self.kept(source) {
                let bytes = match &current {
                    Some((ordinal, bytes)) if *ordinal == block.ordinal => bytes,
                    _ => {
                        &current
                            .insert((block.ordinal, segment.block_bytes(block)?))
                            .1
                    }
                };
                let record = segment.checked(block, at, bytes, 0)?;
                let meta = decode_meta(segment, block.offset + block.span(at).0 as u64, &record)?;
                out.push(&record, &meta)?;
            }
        }
        out.close_block()?;
        let Output {
            mut file,
            blocks,
            footer,
            builder,
            ..
        } = out;
        let footer = footer.finish(seed);
        file.write_at(builder.offset(), &footer)?;
        let file = file.finish()?;
        let segment = Segment {
            id: self.id,
            seed,
            salt: self.salt,
            path: path.to_path_buf(),
            blocks,
            file: Some(file),
        };
        self.disk
            .sync_dir(&self.dir)
            .map_err(|error| Fault::sync_failed(self.dir.display(), &error))?;
        Ok((segment, footer.len() as u64))
    }
}

/// The file being written.
struct Output<'a> {
    file: PacedFile<'a>,
    seed: u32,
    blocks: Vec<Arc<Block>>,
    builder: BlockBuilder,
    data: Vec<u8>,
    footer: FooterWriter,
}

impl Output<'_> {
    fn push(&mut self, record: &Record, meta: &format::KeyMeta) -> Result<(), Fault> {
        let record_bytes = RECORD_HEADER_BYTES + record.kv.len();
        if !self.builder.takes(record.revision, record_bytes) {
            self.close_block()?;
        }
        let offset = self.builder.offset() + self.builder.bytes() as u64;
        format::encode_record(
            &mut self.data,
            self.seed,
            offset,
            record.revision,
            record.tombstone,
            &record.kv,
        );
        self.builder
            .push(record.revision, record.tombstone, record_bytes);
        self.footer.push(
            &meta.as_meta(record.revision, record.tombstone),
            record.kv.len(),
        );
        Ok(())
    }

    fn close_block(&mut self) -> Result<(), Fault> {
        if self.builder.is_empty() {
            return Ok(());
        }
        self.file.write_at(self.builder.offset(), &self.data)?;
        let next = BlockBuilder::new(
            self.builder.next_ordinal(),
            self.builder.offset() + self.data.len() as u64,
        );
        self.blocks
            .push(std::mem::replace(&mut self.builder, next).finish(None));
        self.data.clear();
        Ok(())
    }
}
