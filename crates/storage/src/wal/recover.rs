//! The reading side: from files to what they promise, and the judgement of a tail.
//!
//! # Torn or damaged
//!
//! The chain of the last segment ends where no further record follows. What lies there is one of three things:
//!
//! - Nothing: zeros, or stale bytes of a recycled file.
//! - The torn remains of writes that were never acknowledged. Any subset of their sectors may be there, in any order. This
//!   is what a crash leaves; it is cut.
//! - Damage: the record was durable and is not readable any more. Cutting it would break a promise without a word, so
//!   the log refuses to open.
//!
//! Damage shows itself in one of these ways, none of which a crash can produce:
//!
//! 1. A later record of the same segment is intact and says that the bad place had been synced before it was written.
//! 2. The bad record, or its bad header, lies within one sector and belongs to this segment. A sector is written whole or not
//!    at all.
//! 3. The segment was zero-filled, and every sector of the bad record, or of its bad header, holds something. What is torn
//!    misses at least one sector, and a missing sector is zero.
//!
//! What is left undetected is a last record, acknowledged but with none behind it, damaged exactly as if it were torn (a whole
//! sector gone, or in a recycled segment also less). The next commit index written makes it rule 1.

use std::io;
use std::path::Path;
use std::sync::Arc;

use proto::raftpb::{Entry, HardState};

use super::record::{self, BadOpening, Chain, HEADER_BYTES, Header, Kind, Opening};
use super::segment::{Name, display};
use super::{Identity, Marker, Options, Recovered, planted};
use crate::disk::{self, Disk, File, Open, SECTOR_BYTES};
use crate::fault::{Fault, FaultKind};

/// Files are read in pieces of this size, or of one record if that is larger.
const WINDOW_BYTES: u64 = 256 << 10;
/// When looking for intact records behind a bad one, at most so many times the file's size is checksummed.
const SEARCH_EFFORT: u64 = 16;

/// How the log ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing of this segment lies behind the last record.
    Clean,
    /// Something was written behind the last good record and never acknowledged.
    Torn {
        /// The file.
        segment: String,
        /// Where the last good record ends.
        byte: u64,
    },
}

/// What [`super::Wal::verify`] found in a sound log.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Whose log it is.
    pub identity: Identity,
    /// For each segment, oldest first: file name, number of records, bytes used, bytes allocated.
    pub segments: Vec<(String, u64, u64, u64)>,
    /// The last hard state.
    pub hard_state: HardState,
    /// The last marker, if any.
    pub marker: Option<Marker>,
    /// Indexes of the first and last entry, if there are entries.
    pub entries: Option<(u64, u64)>,
    /// How the log ended.
    pub tail: Tail,
}

/// Everything a scan of the directory finds. Nothing has been changed.
pub(super) struct Scanned {
    pub(super) recovered: Recovered,
    /// Never empty; the last one is the active one.
    pub(super) segments: Vec<Segment>,
    /// Numbers of the spare files.
    pub(super) spares: Vec<u64>,
    /// Names of unfinished files.
    pub(super) unfinished: Vec<String>,
}

/// One segment as scanned.
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) opening: Opening,
    /// Where the opening (header and the copies of hard state and marker) ends.
    pub(super) opening_end: u64,
    /// Where the chain ends, and its state there.
    pub(super) end: u64,
    pub(super) chain: Chain,
    /// Up to here its records say that it is synced.
    pub(super) synced_end: u64,
    pub(super) file_bytes: u64,
    records: u64,
}

pub(super) fn verify(disk: &dyn Disk, dir: &Path) -> Result<Verified, Fault> {
    let Scanned {
        recovered,
        segments,
        ..
    } = scan(disk, dir, &Options::default())?;
    Ok(Verified {
        identity: recovered.identity,
        segments: segments
            .into_iter()
            .map(|s| (s.name, s.records, s.end, s.file_bytes))
            .collect(),
        hard_state: recovered.hard_state,
        marker: recovered.marker,
        entries: recovered
            .entries
            .first()
            .zip(recovered.entries.last())
            .map(|(a, b)| (a.index(), b.index())),
        tail: recovered.tail,
    })
}

pub(super) fn identity(disk: &dyn Disk, dir: &Path) -> Result<Identity, Fault> {
    let files = list(disk, dir)?;
    let Some((_, name)) = files.segments.last() else {
        return Err(Fault::gap(dir.display(), "the log has no segment"));
    };
    let file = disk
        .open(&dir.join(name), Open::Read)
        .map_err(|e| Fault::read_failed(display(name), &e))?;
    Ok(Scanner::new(name, file, &Options::default())?
        .opening()?
        .identity)
}

/// Reads all segments in order.
pub(super) fn scan(disk: &dyn Disk, dir: &Path, options: &Options) -> Result<Scanned, Fault> {
    let files = list(disk, dir)?;
    let mut log = Log::default();
    let mut segments: Vec<Segment> = Vec::new();
    let mut tail = Tail::Clean;
    for (position, (sequence, name)) in files.segments.iter().enumerate() {
        let file = disk
            .open(&dir.join(name), Open::Read)
            .map_err(|e| Fault::read_failed(display(name), &e))?;
        let mut scanner = Scanner::new(name, file, options)?;
        let opening = scanner.opening()?;
        check_opening(
            name,
            *sequence,
            &opening,
            segments.first(),
            segments.last(),
            &log,
        )?;
        log.begin(&opening);
        let segment = scanner.records(&opening, &mut log)?;
        if position + 1 == files.segments.len() {
            tail = scanner.judge_tail(&segment, log.last_index)?;
        }
        segments.push(segment);
    }
    let Some(first) = segments.first() else {
        return Err(Fault::gap(dir.display(), "the log has no segment"));
    };
    let identity = first.opening.identity;
    let recovered = log.finish(&display(&first.name), identity, tail, files.ignored)?;
    Ok(Scanned {
        recovered,
        segments,
        spares: files.spares,
        unfinished: files.unfinished,
    })
}

#[derive(Default)]
struct Files {
    segments: Vec<(u64, String)>,
    spares: Vec<u64>,
    unfinished: Vec<String>,
    ignored: Vec<String>,
}

fn list(disk: &dyn Disk, dir: &Path) -> Result<Files, Fault> {
    let mut files = Files::default();
    for name in disk
        .list(dir)
        .map_err(|error| Fault::read_failed(dir.display(), &error))?
    {
        match Name::parse(&name) {
            Name::Segment { sequence, .. } => files.segments.push((sequence, name)),
            Name::Spare { number } => files.spares.push(number),
            Name::Unfinished => files.unfinished.push(name),
            Name::Other => files.ignored.push(name),
        }
    }
    files.segments.sort();
    for pair in files.segments.windows(2) {
        let [(before, before_name), (after, after_name)] = pair else {
            continue;
        };
        if before == after {
            return Err(Fault::corrupted(
                dir.display(),
                format!("{before_name} and {after_name} claim the same place in the log"),
            ));
        }
        if before.checked_add(1) != Some(*after) {
            let missing = format!("{:016x}", before + 1);
            return Err(Fault::gap(
                dir.display(),
                format!(
                    "the log segment {missing}-*.wal between {before_name} and {after_name} is missing"
                ),
            ));
        }
    }
    Ok(files)
}

/// Checks the opening of a segment against its name and the segments before it.
fn check_opening(
    name: &str,
    sequence: u64,
    opening: &Opening,
    first: Option<&Segment>,
    before: Option<&Segment>,
    log: &Log,
) -> Result<(), Fault> {
    if opening.sequence != sequence
        || super::segment::segment_name(sequence, opening.first_index) != *name
    {
        let says = super::segment::segment_name(opening.sequence, opening.first_index);
        return Err(Fault::corrupted(
            display(name),
            format!("the file says it is {says}; it was renamed or copied"),
        ));
    }
    let (Some(first), Some(before)) = (first, before) else {
        return Ok(());
    };
    if opening.identity != first.opening.identity {
        return Err(Fault::new(
            FaultKind::Identity,
            format!(
                "{}: belongs to member {:x} of cluster {:x}, the segments before it to member {:x} of cluster {:x}; \
                 put the right file back.",
                display(name),
                opening.identity.member_id,
                opening.identity.cluster_id,
                first.opening.identity.member_id,
                first.opening.identity.cluster_id,
            ),
        ));
    }
    if (opening.previous_end, opening.previous_checksum) != (before.end, before.chain.previous) {
        let detail = format!(
            "checksum mismatch {}",
            place(before.end, before.records, log.last_index)
        );
        return Err(Fault::corrupted(display(&before.name), detail));
    }
    if log.last_index.checked_add(1) != Some(opening.first_index) {
        let detail = format!(
            "begins at index {}, the segment before it ends at {}",
            opening.first_index, log.last_index
        );
        return Err(Fault::corrupted(display(name), detail));
    }
    Ok(())
}

fn place(byte: u64, record: u64, last_index: u64) -> String {
    format!("at byte {byte} (record {record}, last good index {last_index})")
}

/// Reads one segment.
struct Scanner<'a> {
    name: &'a str,
    window: Window,
    options: &'a Options,
}

impl<'a> Scanner<'a> {
    fn new(name: &'a str, file: Arc<dyn File>, options: &'a Options) -> Result<Scanner<'a>, Fault> {
        let file_bytes = file
            .len()
            .map_err(|error| Fault::read_failed(display(name), &error))?;
        // Positions are 32-bit numbers; no file of ours is longer.
        if file_bytes > u64::from(u32::MAX) {
            return Err(Fault::corrupted(
                display(name),
                format!("{file_bytes} bytes is longer than any segment"),
            ));
        }
        Ok(Scanner {
            name,
            window: Window {
                file,
                file_bytes,
                start: 0,
                buffer: Vec::new(),
            },
            options,
        })
    }

    /// Reads the header of the segment, which was durable before the file got its name.
    fn opening(&mut self) -> Result<Opening, Fault> {
        let head = self.get(0, HEADER_BYTES.min(self.window.file_bytes as usize))?;
        // Upstream's log begins with a frame length and a record of type 4 (server/storage/wal/encoder.go).
        let upstream = head.get(8..10) == Some(&[0x08, 0x04]);
        let Some(header) = head.first_chunk().map(Header::from_bytes) else {
            return Err(self.bad_opening(false));
        };
        let record_bytes = HEADER_BYTES as u64 + u64::from(header.payload_bytes);
        if header.kind != Kind::Opening as u8
            || record_bytes > self.window.file_bytes
            || record_bytes > 4096
        {
            return Err(self.bad_opening(upstream));
        }
        let record = self.get(0, record_bytes as usize)?;
        let payload = record.get(HEADER_BYTES..).unwrap_or_default();
        if !record::has_magic(payload) || record::checksum(record) != header.checksum {
            return Err(self.bad_opening(upstream));
        }
        let opening = match record::decode_opening(payload) {
            Ok(opening) => opening,
            Err(BadOpening::Damaged) => return Err(self.bad_opening(false)),
            Err(BadOpening::Format(found)) => {
                return Err(Fault::format(
                    display(self.name),
                    found.into(),
                    record::FORMAT_VERSION.into(),
                ));
            }
        };
        if header.tag != opening.tag() || header.previous != opening.previous_checksum {
            return Err(self.bad_opening(false));
        }
        if self.window.file_bytes < opening.file_bytes {
            let detail = format!(
                "{} bytes long, was created with {}",
                self.window.file_bytes, opening.file_bytes
            );
            return Err(Fault::corrupted(display(self.name), detail));
        }
        Ok(opening)
    }

    fn bad_opening(&self, upstream: bool) -> Fault {
        if upstream {
            return Fault::new(
                FaultKind::Format,
                format!(
                    "{}: looks like a log of etcd, which is not read here; start this member with an empty data directory and let \
                     it join the cluster, or restore from a snapshot.",
                    display(self.name)
                ),
            );
        }
        Fault::corrupted(
            display(self.name),
            "checksum mismatch at byte 0 (record 0, the segment's header)",
        )
    }

    /// Reads records from the opening on, as far as the chain goes.
    fn records(&mut self, opening: &Opening, log: &mut Log) -> Result<Segment, Fault> {
        let mut chain = Chain {
            tag: opening.tag(),
            previous: opening.previous_checksum,
        };
        let (mut at, mut records, mut opening_end, mut synced_end) = (0, 0, 0, 0);
        while let Some((header, payload)) = self.record(at, chain)? {
            let fits = match (records, Kind::from_byte(header.kind)) {
                (0, Some(Kind::Opening)) => Ok(()),
                (_, Some(Kind::HardState)) => log.hard_state(payload),
                (_, Some(Kind::Marker)) => log.marker(payload),
                (_, Some(Kind::Entries)) => log.entries(payload),
                _ => Err("a header in the middle".to_string()),
            };
            if let Err(why) = fits {
                let detail = format!("{why} {}", place(at, records, log.last_index));
                return Err(Fault::corrupted(display(self.name), detail));
            }
            // Records of the opening were written together and claim nothing synced; the first batch claims them.
            if header.synced == 0 {
                opening_end = at + header.record_bytes();
            }
            synced_end = synced_end.max(u64::from(header.synced));
            chain.previous = header.checksum;
            at += header.record_bytes();
            records += 1;
        }
        Ok(Segment {
            name: self.name.to_string(),
            opening: *opening,
            opening_end,
            end: at,
            chain,
            synced_end,
            file_bytes: self.window.file_bytes,
            records,
        })
    }

    /// The record at `at` if it is whole and the next in the chain.
    fn record(&mut self, at: u64, chain: Chain) -> Result<Option<(Header, &[u8])>, Fault> {
        let Some(header) = self.header(at)? else {
            return Ok(None);
        };
        let next = header.previous == chain.previous || planted!(self.options, NoSalt);
        if !header.is_plausible(chain.tag) || !next || !self.fits(at, &header) {
            return Ok(None);
        }
        let record = self.get(at, HEADER_BYTES + header.payload_bytes as usize)?;
        if record::checksum(record) != header.checksum && !crate::planted!(TornRecordBelieved) {
            return Ok(None);
        }
        Ok(Some((
            header,
            record.get(HEADER_BYTES..).unwrap_or_default(),
        )))
    }

    fn header(&mut self, at: u64) -> Result<Option<Header>, Fault> {
        if at + HEADER_BYTES as u64 > self.window.file_bytes {
            return Ok(None);
        }
        Ok(self
            .get(at, HEADER_BYTES)?
            .first_chunk()
            .map(Header::from_bytes))
    }

    fn fits(&self, at: u64, header: &Header) -> bool {
        at + HEADER_BYTES as u64 + u64::from(header.payload_bytes) <= self.window.file_bytes
    }

    /// Decides whether what lies behind the chain is nothing, torn, or damage (a fault). See the module's documentation.
    fn judge_tail(&mut self, segment: &Segment, last_index: u64) -> Result<Tail, Fault> {
        let tag = segment.chain.tag;
        let damage = |why: &str| {
            let detail = format!(
                "checksum mismatch {}: {why}",
                place(segment.end, segment.records, last_index)
            );
            Err(Fault::corrupted(display(&segment.name), detail))
        };
        let bad = self.header(segment.end)?;
        let in_one_sector = |bytes: u64| sector(segment.end) == sector(segment.end + bytes - 1);
        let header_bytes = HEADER_BYTES as u64;
        match bad.filter(|bad| bad.is_plausible(tag) && bad.previous == segment.chain.previous) {
            Some(bad) if in_one_sector(bad.record_bytes()) => {
                return damage("the record lies in one sector and cannot be torn");
            }
            Some(bad)
                if segment.opening.zeroed
                    && self.every_sector_holds_something(segment.end, bad.record_bytes())? =>
            {
                return damage("no sector of the record is missing, so it is not torn");
            }
            None if segment.opening.zeroed
                && self.every_sector_holds_something(segment.end, header_bytes)? =>
            {
                return damage("the record's header was written and is not readable");
            }
            None if bad.is_some_and(|bad| bad.tag == tag) && in_one_sector(header_bytes) => {
                return damage("the record's header lies in one sector and cannot be torn");
            }
            _ => {}
        }
        match self.search(segment, tag)? {
            Found::Proof(at) => damage(&format!(
                "the record at byte {at} says that this one had been synced"
            )),
            Found::TooMuch => damage("what follows cannot be told apart from records"),
            Found::Remains => Ok(Tail::Torn {
                segment: segment.name.clone(),
                byte: segment.end,
            }),
            Found::Nothing => Ok(Tail::Clean),
        }
    }

    /// Whether each sector touched by `at..at + bytes` has a byte other than zero in that range. What is beyond the end of
    /// the file is zero.
    fn every_sector_holds_something(&mut self, at: u64, bytes: u64) -> Result<bool, Fault> {
        let mut start = at;
        while start < at + bytes {
            let end = ((sector(start) + 1) * SECTOR_BYTES as u64).min(at + bytes);
            let readable = end.min(self.window.file_bytes).saturating_sub(start) as usize;
            if self.get(start, readable)?.iter().all(|&byte| byte == 0) {
                return Ok(false);
            }
            start = end;
        }
        Ok(true)
    }

    /// Looks behind the end of the chain for records of this segment, and for one that proves damage.
    fn search(&mut self, segment: &Segment, tag: u32) -> Result<Found, Fault> {
        let mut found = Found::Nothing;
        let mut effort = self.window.file_bytes.saturating_mul(SEARCH_EFFORT);
        let mut at = segment.end;
        while at + HEADER_BYTES as u64 <= self.window.file_bytes {
            let piece_bytes = (self.window.file_bytes - at).min(4096) as usize;
            let piece = self.get(at, piece_bytes)?;
            let Some(offset) = (0..piece_bytes)
                .step_by(8)
                .find(|&o| piece.get(o + 4..o + 8) == Some(&tag.to_le_bytes()))
            else {
                at += piece_bytes as u64;
                continue;
            };
            at += offset as u64;
            let Some(header) = self.header(at)? else {
                break;
            };
            if header.is_plausible(tag) {
                found = Found::Remains;
                if u64::from(header.synced) > segment.end && self.fits(at, &header) {
                    effort = effort.saturating_sub(header.record_bytes());
                    if effort == 0 {
                        return Ok(Found::TooMuch);
                    }
                    let record = self.get(at, HEADER_BYTES + header.payload_bytes as usize)?;
                    if record::checksum(record) == header.checksum {
                        return Ok(Found::Proof(at));
                    }
                }
            }
            at += 8;
        }
        Ok(found)
    }

    fn get(&mut self, at: u64, bytes: usize) -> Result<&[u8], Fault> {
        let name = self.name;
        self.window
            .get(at, bytes)
            .map_err(|error| Fault::read_failed(display(name), &error))
    }
}

enum Found {
    Nothing,
    Remains,
    Proof(u64),
    TooMuch,
}

fn sector(byte: u64) -> u64 {
    byte / SECTOR_BYTES as u64
}

/// A piece of a file in memory.
struct Window {
    file: Arc<dyn File>,
    file_bytes: u64,
    start: u64,
    buffer: Vec<u8>,
}

impl Window {
    /// The bytes `at..at + bytes`, which must lie in the file.
    fn get(&mut self, at: u64, bytes: usize) -> io::Result<&[u8]> {
        let inside = at
            .checked_sub(self.start)
            .filter(|offset| offset + bytes as u64 <= self.buffer.len() as u64);
        let offset = match inside {
            Some(offset) => offset as usize,
            None => {
                let size = (bytes as u64)
                    .max(WINDOW_BYTES)
                    .min(self.file_bytes.saturating_sub(at));
                self.buffer.resize(size as usize, 0);
                self.start = at;
                if let Err(error) = disk::read_exact_at(&*self.file, at, &mut self.buffer) {
                    self.buffer.clear();
                    return Err(error);
                }
                0
            }
        };
        self.buffer
            .get(offset..offset + bytes)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// The log as the records so far tell it.
#[derive(Default)]
struct Log {
    hard_state: HardState,
    marker: Option<Marker>,
    entries: Vec<Entry>,
    last_index: u64,
    begun: bool,
}

impl Log {
    fn begin(&mut self, opening: &Opening) {
        if !std::mem::replace(&mut self.begun, true) {
            self.last_index = opening.first_index.saturating_sub(1);
        }
    }

    fn hard_state(&mut self, payload: &[u8]) -> Result<(), String> {
        let state = record::decode_hard_state(payload).ok_or("unreadable hard state")?;
        if state.term() < self.hard_state.term() {
            return Err(format!(
                "term falls from {} to {}",
                self.hard_state.term(),
                state.term()
            ));
        }
        // A batch names a commit index only behind the entries it covers.
        if state.commit() > self.last_index {
            return Err(format!(
                "commit index {} beyond the log's end {}",
                state.commit(),
                self.last_index
            ));
        }
        self.hard_state = state;
        Ok(())
    }

    fn marker(&mut self, payload: &[u8]) -> Result<(), String> {
        let marker = record::decode_marker(payload).ok_or("unreadable snapshot marker")?;
        if marker.restart {
            self.entries.clear();
            self.last_index = marker.index;
        }
        if marker.index > self.last_index {
            return Err(format!(
                "snapshot marker at index {} beyond the log's end {}",
                marker.index, self.last_index
            ));
        }
        if let Some(entry) = self
            .entry(marker.index)
            .filter(|entry| entry.term() != marker.term)
        {
            return Err(format!(
                "snapshot marker with term {}, the entry has {}",
                marker.term,
                entry.term()
            ));
        }
        self.marker = Some(Marker {
            restart: false,
            ..marker
        });
        Ok(())
    }

    fn entries(&mut self, payload: &[u8]) -> Result<(), String> {
        let new = record::decode_entries(payload).ok_or("unreadable entries")?;
        let Some(first) = new.first().map(Entry::index) else {
            return Ok(());
        };
        if first > self.last_index.saturating_add(1) {
            return Err(format!(
                "entries from {first} do not follow index {}",
                self.last_index
            ));
        }
        let covered = self.marker.as_ref().map_or(0, |marker| marker.index);
        if first <= covered {
            return Err(format!(
                "entries from {first} overwrite the snapshot at {covered}"
            ));
        }
        let committed = self.hard_state.commit();
        for entry in new.iter().take_while(|entry| entry.index() <= committed) {
            if self
                .entry(entry.index())
                .is_some_and(|old| old.term() != entry.term())
            {
                return Err(format!(
                    "entry {} of term {} overwrites a committed one",
                    entry.index(),
                    entry.term()
                ));
            }
        }
        let kept = self
            .entries
            .first()
            .map_or(0, |oldest| first.saturating_sub(oldest.index()));
        self.entries
            .truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        self.last_index = new.last().map_or(self.last_index, Entry::index);
        self.entries.extend(new);
        Ok(())
    }

    fn entry(&self, index: u64) -> Option<&Entry> {
        let offset = index.checked_sub(self.entries.first()?.index())?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    fn finish(
        mut self,
        object: &str,
        identity: Identity,
        tail: Tail,
        ignored: Vec<String>,
    ) -> Result<Recovered, Fault> {
        let covered = self.marker.as_ref().map_or(0, |marker| marker.index);
        let first = self
            .entries
            .first()
            .map_or(self.last_index.saturating_add(1), Entry::index);
        if first > covered.saturating_add(1) {
            let detail = format!(
                "the log begins at index {first}, the last snapshot marker is at {covered}; older segments are missing"
            );
            return Err(Fault::gap(object, detail));
        }
        if self.hard_state != HardState::default() || covered > 0 {
            // The marker of a received snapshot may have survived without the commit index behind it.
            self.hard_state.commit = Some(self.hard_state.commit().max(covered));
        }
        Ok(Recovered {
            identity,
            hard_state: self.hard_state,
            marker: self.marker,
            entries: self.entries,
            last_index: self.last_index,
            tail,
            ignored,
        })
    }
}
