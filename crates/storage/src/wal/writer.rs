//! The writing side: append, roll, release, and the spares.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::raftpb::{Entry, HardState};

use super::record::{self, Chain, Encoder, Opening};
use super::recover::{self, Scanned, Verified};
use super::segment::{self, Name, Spare, SpareJob, Start, display, segment_name};
use super::{Batch, Identity, Marker, Options, Recovered, planted};
use crate::disk::{self, Disk, File, Open};
use crate::fault::{Fault, FaultKind};

/// A batch larger than this is a mistake of the caller: positions in a segment are 32-bit numbers.
pub(super) const BATCH_BYTES_MAX: u64 = 1 << 30;
/// A segment that must hold a batch larger than itself grows in steps of this.
const GROWTH_BYTES: u64 = 4096;

/// The raft log of one member. One writer owns it; see the module's documentation for the rules it keeps.
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    identity: Identity,
    active: Active,
    /// Whole segments before the active one, oldest first.
    older: VecDeque<Older>,
    spares: Vec<Spare>,
    spare_number_next: u64,
    spare_job_out: bool,
    hard_state: Option<HardState>,
    marker: Option<Marker>,
    last_index: u64,
    /// Reused for every batch.
    buffer: Vec<u8>,
    poisoned: Option<Fault>,
}

/// The segment that is written.
struct Active {
    file: Arc<dyn File>,
    name: String,
    sequence: u64,
    /// Where its first record behind the opening starts.
    opening_end: u64,
    /// Where the next record goes.
    end: u64,
    /// Everything below is durable.
    synced_end: u64,
    /// Allocated bytes; a record ends at or below this.
    file_bytes: u64,
    chain: Chain,
}

/// A segment that is whole and synced.
struct Older {
    name: String,
    file_bytes: u64,
    /// No entry in it that still counts has a higher index.
    last_index: u64,
}

/// How much can be written before the disk is asked for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes left in the active segment.
    pub active_bytes: u64,
    /// Spares that are ready. With none, the next roll needs [`Options::head_bytes`] of free space.
    pub spares: usize,
    /// Segments on disk, the active one included.
    pub segments: usize,
    /// Bytes of all segments and spares.
    pub total_bytes: u64,
}

impl Wal {
    /// Starts an empty log in `dir`, which is created if needed and must not hold one. Takes a few milliseconds: only a
    /// small first segment is allocated. A crash at any point leaves either no log (call again) or an empty one.
    ///
    /// The caller syncs nothing; `dir` and its name are durable on return.
    pub fn create(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        identity: Identity,
    ) -> Result<Wal, Fault> {
        disk::create_dir_durable(&*disk, dir)
            .map_err(|error| Fault::write_failed(dir.display(), &error))?;
        for name in disk
            .list(dir)
            .map_err(|error| Fault::read_failed(dir.display(), &error))?
        {
            match Name::parse(&name) {
                Name::Segment { .. } => {
                    return Err(Fault::new(
                        FaultKind::Identity,
                        format!(
                            "{}: holds a log already ({name}); a new one needs an empty directory.",
                            dir.display()
                        ),
                    ));
                }
                Name::Spare { .. } | Name::Unfinished => remove(&*disk, &dir.join(name))?,
                Name::Other => {}
            }
        }
        let (tmp, file) = fill_in_a_hurry(&*disk, dir, 0, options.head_bytes)?;
        let spare = Spare {
            file,
            name: tmp,
            bytes: options.head_bytes,
            zeroed: true,
        };
        let opening = Opening {
            identity,
            sequence: 0,
            first_index: 1,
            salt: if planted!(options, NoSalt) {
                0
            } else {
                record::salt(identity, 0, 0)
            },
            file_bytes: spare.bytes,
            previous_end: 0,
            previous_checksum: 0,
            zeroed: true,
        };
        let mut buffer = Vec::new();
        let start = Start {
            opening,
            hard_state: None,
            marker: None,
        };
        let (end, chain) =
            segment::open_segment(&*disk, dir, &options, &spare, &start, &mut buffer)?;
        Ok(Wal {
            disk,
            dir: dir.into(),
            options,
            identity,
            active: Active::new(spare, &start.opening, end, chain),
            older: VecDeque::new(),
            spares: Vec::new(),
            spare_number_next: 1,
            spare_job_out: false,
            hard_state: None,
            marker: None,
            last_index: 0,
            buffer,
            poisoned: None,
        })
    }

    /// Opens the log in `dir` and returns what it holds.
    ///
    /// A torn tail is cut: everything behind the last good record is overwritten with zeros and synced before this returns,
    /// and so is whatever a killed process had written and not synced. Damage anywhere else, a missing segment, or a log
    /// of an unknown format is a fault that names file, byte, record and last good index; nothing is changed then.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
    ) -> Result<(Wal, Recovered), Fault> {
        let Scanned {
            recovered,
            mut segments,
            spares,
            unfinished,
        } = recover::scan(&*disk, dir, &options)?;
        let last = segments.pop().expect("a scan without segments is a fault");
        let name = display(&last.name);
        let file = disk
            .open(&dir.join(&last.name), Open::Write)
            .map_err(|e| Fault::write_failed(&name, &e))?;
        let wiped = match planted!(options, NoTailWipe) {
            true => Ok(()),
            false => wipe(&*file, last.end, last.file_bytes),
        };
        wiped.map_err(|error| Fault::write_failed(&name, &error))?;
        // Also without a torn tail: a killed process leaves bytes that we can read and a power cut would take away. If it
        // was a failed sync that it died of, the system takes them for written: only what is written again is synced.
        if !crate::planted!(LostTailTrusted) {
            write_again(&*file, last.synced_end, last.end)
                .map_err(|error| Fault::write_failed(&name, &error))?;
        }
        if !crate::planted!(UnsyncedTailTrusted) {
            file.sync()
                .map_err(|error| Fault::sync_failed(&name, &error))?;
        }
        disk.sync_dir(dir)
            .map_err(|error| Fault::sync_failed(dir.display(), &error))?;

        let mut wal = Wal {
            active: Active {
                file,
                sequence: last.opening.sequence,
                opening_end: last.opening_end,
                end: last.end,
                synced_end: last.end,
                file_bytes: last.file_bytes,
                chain: last.chain,
                name: last.name,
            },
            older: VecDeque::new(),
            spares: Vec::new(),
            spare_number_next: spares.last().map_or(0, |number| number.wrapping_add(1)),
            spare_job_out: false,
            hard_state: (recovered.hard_state != HardState::default())
                .then_some(recovered.hard_state),
            marker: recovered.marker.clone(),
            last_index: recovered.last_index,
            buffer: Vec::new(),
            poisoned: None,
            identity: recovered.identity,
            disk,
            dir: dir.into(),
            options,
        };
        let followers = segments
            .iter()
            .skip(1)
            .map(|next| next.opening.first_index)
            .chain([last.opening.first_index]);
        wal.older = (segments.iter().zip(followers))
            .map(|(old, next)| Older {
                name: old.name.clone(),
                file_bytes: old.file_bytes,
                last_index: next - 1,
            })
            .collect();
        wal.adopt_spares(&spares, &unfinished)?;
        Ok((wal, recovered))
    }

    /// Reads the whole log and checks it as [`Wal::open`] would, without changing anything. For a log that no process uses.
    pub fn verify(disk: &dyn Disk, dir: &Path) -> Result<Verified, Fault> {
        recover::verify(disk, dir)
    }

    /// Whether `dir` holds a log, perhaps a damaged one.
    pub fn exists(disk: &dyn Disk, dir: &Path) -> Result<bool, Fault> {
        match disk.list(dir) {
            Ok(names) => Ok(names
                .iter()
                .any(|name| matches!(Name::parse(name), Name::Segment { .. }))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Fault::read_failed(dir.display(), &error)),
        }
    }

    /// Whose log is in `dir`, read from its newest segment; nothing else is checked.
    pub fn identity_of(disk: &dyn Disk, dir: &Path) -> Result<Identity, Fault> {
        recover::identity(disk, dir)
    }

    /// Removes every file of the log in `dir`, for a log whose creation was interrupted. Not durable until the caller has
    /// synced the directory.
    pub(crate) fn discard(disk: &dyn Disk, dir: &Path) -> Result<(), Fault> {
        for name in disk
            .list(dir)
            .map_err(|error| Fault::read_failed(dir.display(), &error))?
        {
            if Name::parse(&name) != Name::Other {
                remove(disk, &dir.join(name))?;
            }
        }
        Ok(())
    }

    /// Writes a batch with one write, and if it asks for it makes it durable with one sync. `Ok` for a batch with `sync`
    /// is the member's promise that it survives every crash.
    ///
    /// Two kinds of failure:
    ///
    /// - [`FaultKind::NoSpace`] while [`Wal::poisoned`] is `None`: the segment is full and the disk has no room for the next.
    ///   Nothing of the batch was written, everything before it is safe, and the same call may be repeated after space was
    ///   freed or [`Wal::release`] made some. The member is *unavailable* for writes meanwhile, not broken.
    /// - Anything else: what is on the disk is unknown. The log is poisoned, every later call returns the same fault, and
    ///   the member stops.
    ///
    /// Panics if the batch contradicts the log (a gap, a term that falls, an overwritten snapshot): the caller is wrong.
    pub fn append(&mut self, batch: &Batch) -> Result<(), Fault> {
        self.check_poisoned()?;
        self.check_batch(batch);
        let early = self.early_state(batch);
        let bytes = batch_bytes(batch, early.as_ref());
        if bytes > 0 {
            self.make_room(bytes)?;
            self.write(batch, early.as_ref(), bytes)?;
        }
        if batch.sync && !planted!(self.options, AckBeforeSync) {
            self.sync()
        } else {
            Ok(())
        }
    }

    /// Makes everything appended so far durable.
    pub fn sync(&mut self) -> Result<(), Fault> {
        self.check_poisoned()?;
        if self.active.synced_end == self.active.end {
            return Ok(());
        }
        if let Err(error) = self.active.file.sync()
            && !crate::planted!(FailedSyncForgotten)
        {
            return Err(self.poison(Fault::sync_failed(display(&self.active.name), &error)));
        }
        self.active.synced_end = self.active.end;
        Ok(())
    }

    /// Gives back the segments that hold only entries up to `index`, which must not be beyond the last marker. Up to
    /// [`Options::spares_max`] of them become spares, the others are removed. Returns how many segments went.
    ///
    /// The marker is made durable first, and each segment is gone durably before the next one goes, so that a crash leaves
    /// a log without holes.
    pub fn release(&mut self, index: u64) -> Result<usize, Fault> {
        self.check_poisoned()?;
        let covered = self.marker.as_ref().map_or(0, |marker| marker.index);
        assert!(
            index <= covered,
            "release up to {index} beyond the last marker {covered}"
        );
        let mut released = 0;
        while self
            .older
            .front()
            .is_some_and(|old| old.last_index <= index)
        {
            if !planted!(self.options, ReleaseBeforeSync) {
                self.sync()?;
            }
            let old = self.older.pop_front().expect("just seen");
            if let Err(fault) = self.retire(old) {
                return Err(self.poison(fault));
            }
            released += 1;
        }
        Ok(released)
    }

    /// The job of preparing the next spare, if there is none and no job is under way. Run it elsewhere and hand its result to
    /// [`Wal::install_spare`]. Ask after each append; it costs nothing.
    pub fn spare_job(&mut self) -> Option<SpareJob> {
        if !self.spares.is_empty() || self.spare_job_out || self.poisoned.is_some() {
            return None;
        }
        self.spare_job_out = true;
        let number = self.next_spare_number();
        let bytes = self.options.segment_bytes;
        Some(SpareJob {
            disk: Arc::clone(&self.disk),
            dir: self.dir.clone(),
            number,
            bytes,
        })
    }

    /// Takes the result of a [`SpareJob`]. A full disk is not a reason to stop: the fault is returned for the caller to
    /// report, and the next [`Wal::spare_job`] tries again, so the caller should wait a while before it asks. Any other
    /// fault poisons the log.
    pub fn install_spare(&mut self, result: Result<Spare, Fault>) -> Result<(), Fault> {
        self.spare_job_out = false;
        match result {
            Ok(spare) if self.spares.len() < self.options.spares_max.max(1) => {
                self.spares.push(spare);
                Ok(())
            }
            Ok(spare) => {
                remove(&*self.disk, &self.dir.join(&spare.name)).map_err(|fault| self.poison(fault))
            }
            Err(fault) if fault.kind() == FaultKind::NoSpace => Err(fault),
            Err(fault) => Err(self.poison(fault)),
        }
    }

    /// The fault that made this log unusable, if one did.
    pub fn poisoned(&self) -> Option<&Fault> {
        self.poisoned.as_ref()
    }

    /// Whose log it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The index of the last entry appended, or of the marker behind which the log starts again.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// How much can still be written; for metrics, and to raise the alarm before the disk is full.
    pub fn space(&self) -> Space {
        let segments =
            self.older.iter().map(|old| old.file_bytes).sum::<u64>() + self.active.file_bytes;
        Space {
            active_bytes: self.active.file_bytes - self.active.end,
            spares: self.spares.len(),
            segments: self.older.len() + 1,
            total_bytes: segments + self.spares.iter().map(|spare| spare.bytes).sum::<u64>(),
        }
    }

    fn write(&mut self, batch: &Batch, early: Option<&HardState>, bytes: u64) -> Result<(), Fault> {
        let active = &mut self.active;
        let synced = u32::try_from(active.synced_end).expect("a segment is smaller than 4 GiB");
        self.buffer.clear();
        let mut encoder = Encoder {
            buffer: &mut self.buffer,
            chain: active.chain,
            synced,
        };
        if let Some(state) = early {
            encoder.hard_state(state);
        }
        if let Some(marker) = batch.marker {
            encoder.marker(marker);
        }
        if !batch.entries.is_empty() {
            encoder.entries(batch.entries);
        }
        if let Some(state) = late_state(batch, early) {
            encoder.hard_state(state);
        }
        let chain = encoder.chain;
        assert_eq!(
            self.buffer.len() as u64,
            bytes,
            "a batch takes the room that was made for it"
        );
        if let Err(error) = active.file.write_at(active.end, &self.buffer) {
            let fault = Fault::write_failed(display(&active.name), &error);
            return Err(self.poison(fault));
        }
        active.end += bytes;
        active.chain = chain;
        self.remember(batch);
        Ok(())
    }

    /// The hard state that stands before marker and entries: term and vote as they will be, the commit index no further than
    /// what the log keeps of its present entries. If it had to be lowered, the full one follows behind ([`late_state`]).
    ///
    /// A crash may keep the first records of a batch and lose the rest. A commit index that had survived without the entries
    /// it speaks of would, one append later, call other entries committed.
    fn early_state(&self, batch: &Batch) -> Option<HardState> {
        let state = batch.hard_state?;
        let kept = batch.entries.first().map_or(self.last_index, |first| {
            self.last_index.min(first.index() - 1)
        });
        Some(HardState {
            commit: Some(state.commit().min(kept)),
            ..*state
        })
    }

    fn remember(&mut self, batch: &Batch) {
        if let Some(state) = batch.hard_state {
            self.hard_state = Some(*state);
        }
        if let Some(marker) = batch.marker {
            self.marker = Some(Marker {
                restart: false,
                ..marker.clone()
            });
            if marker.restart {
                self.last_index = marker.index;
            }
        }
        if let Some(last) = batch.entries.last() {
            self.last_index = last.index();
        }
    }

    fn check_batch(&self, batch: &Batch) {
        let mut last = self.last_index;
        let mut covered = self.marker.as_ref().map_or(0, |marker| marker.index);
        if let Some(marker) = batch.marker {
            if marker.restart {
                last = marker.index;
            }
            assert!(
                marker.index <= last,
                "marker at {} beyond the last index {last}",
                marker.index
            );
            assert!(
                marker.index >= covered,
                "marker at {} before the last one at {covered}",
                marker.index
            );
            covered = marker.index;
        }
        if let Some(first) = batch.entries.first().map(Entry::index) {
            assert!(
                first <= last + 1,
                "entries from {first} do not follow index {last}"
            );
            assert!(first > 0, "entries begin at index 1");
            assert!(
                first > covered,
                "entries from {first} overwrite the snapshot at {covered}"
            );
            last = batch.entries.last().map_or(last, Entry::index);
        }
        if let Some(state) = batch.hard_state {
            let old = self.hard_state.as_ref().map_or(0, HardState::term);
            assert!(
                state.term() >= old,
                "term falls from {old} to {}",
                state.term()
            );
            assert!(
                state.commit() <= last,
                "commit {} beyond last index {last}",
                state.commit()
            );
        }
    }

    /// Makes sure that `bytes` fit behind the end, in this segment or the next.
    fn make_room(&mut self, bytes: u64) -> Result<(), Fault> {
        assert!(
            bytes <= BATCH_BYTES_MAX,
            "a batch of {bytes} bytes; at most {BATCH_BYTES_MAX} are possible"
        );
        if self.active.end + bytes <= self.active.file_bytes {
            return Ok(());
        }
        if self.active.end > self.active.opening_end {
            self.roll()?;
        }
        if self.active.end + bytes > self.active.file_bytes {
            self.grow(self.active.end + bytes)?;
        }
        Ok(())
    }

    /// Allocates more of the active segment, which is still empty: its first batch is larger than it.
    fn grow(&mut self, end: u64) -> Result<(), Fault> {
        let active = &mut self.active;
        let end = end.next_multiple_of(GROWTH_BYTES);
        match segment::write_zeros(&*active.file, active.file_bytes, end) {
            Ok(()) => {
                active.file_bytes = end;
                Ok(())
            }
            Err(error) => {
                let fault = Fault::write_failed(display(&active.name), &error);
                Err(self.poison_unless_full(fault))
            }
        }
    }

    /// Closes the active segment and opens the next: in a spare, or if none is ready in a small new file.
    fn roll(&mut self) -> Result<(), Fault> {
        if !planted!(self.options, NoSyncAtRoll) {
            self.sync()?;
        }
        let mut spare = match self.spares.pop() {
            Some(spare) => spare,
            None => self.spare_in_a_hurry()?,
        };
        let sequence = self.active.sequence + 1;
        let previous_checksum = self.active.chain.previous;
        let salted = record::salt(self.identity, sequence, previous_checksum);
        let opening = Opening {
            identity: self.identity,
            sequence,
            first_index: self.last_index + 1,
            salt: if planted!(self.options, NoSalt) {
                0
            } else {
                salted
            },
            file_bytes: spare.bytes,
            previous_end: self.active.end,
            previous_checksum,
            zeroed: spare.zeroed,
        };
        let start = Start {
            opening,
            hard_state: self.hard_state.as_ref(),
            marker: self.marker.as_ref(),
        };
        match segment::open_segment(
            &*self.disk,
            &self.dir,
            &self.options,
            &spare,
            &start,
            &mut self.buffer,
        ) {
            Ok((end, chain)) => {
                let active = Active::new(spare, &start.opening, end, chain);
                let old = std::mem::replace(&mut self.active, active);
                let last_index = self.last_index;
                self.older.push_back(Older {
                    name: old.name,
                    file_bytes: old.file_bytes,
                    last_index,
                });
                Ok(())
            }
            Err(fault) => {
                // If the disk was full it keeps its name and serves the next attempt, but its first bytes are written.
                spare.zeroed = false;
                self.spares.push(spare);
                Err(self.poison_unless_full(fault))
            }
        }
    }

    fn spare_in_a_hurry(&mut self) -> Result<Spare, Fault> {
        let number = self.next_spare_number();
        let bytes = self.options.head_bytes;
        match fill_in_a_hurry(&*self.disk, &self.dir, number, bytes) {
            Ok((name, file)) => Ok(Spare {
                file,
                name,
                bytes,
                zeroed: true,
            }),
            Err(fault) => Err(self.poison_unless_full(fault)),
        }
    }

    /// Makes a released segment a spare or removes it, durably.
    fn retire(&mut self, old: Older) -> Result<(), Fault> {
        let path = self.dir.join(&old.name);
        let keep = self.spares.len() < self.options.spares_max
            && old.file_bytes == self.options.segment_bytes;
        if keep {
            let name = segment::spare_name(self.next_spare_number());
            let to = self.dir.join(&name);
            self.disk
                .rename(&path, &to)
                .map_err(|e| Fault::write_failed(display(&old.name), &e))?;
            let file = self
                .disk
                .open(&to, Open::Write)
                .map_err(|e| Fault::write_failed(to.display(), &e))?;
            self.spares.push(Spare {
                file,
                name,
                bytes: old.file_bytes,
                zeroed: false,
            });
        } else {
            remove(&*self.disk, &path)?;
        }
        self.disk
            .sync_dir(&self.dir)
            .map_err(|error| Fault::sync_failed(self.dir.display(), &error))
    }

    /// Takes over the spares that the last process left, and removes what is of no use.
    fn adopt_spares(&mut self, spares: &[u64], unfinished: &[String]) -> Result<(), Fault> {
        for name in unfinished {
            remove(&*self.disk, &self.dir.join(name))?;
        }
        for &number in spares {
            let name = segment::spare_name(number);
            let path = self.dir.join(&name);
            let file = self
                .disk
                .open(&path, Open::Write)
                .map_err(|e| Fault::write_failed(path.display(), &e))?;
            let bytes = file
                .len()
                .map_err(|e| Fault::read_failed(path.display(), &e))?;
            if bytes == self.options.segment_bytes
                && self.spares.len() < self.options.spares_max.max(1)
            {
                // What it holds is unknown: a crash may have left the opening of a segment that never got its name.
                self.spares.push(Spare {
                    file,
                    name,
                    bytes,
                    zeroed: false,
                });
            } else {
                drop(file);
                remove(&*self.disk, &path)?;
            }
        }
        Ok(())
    }

    fn next_spare_number(&mut self) -> u64 {
        let number = self.spare_number_next;
        self.spare_number_next = number.wrapping_add(1);
        number
    }

    fn check_poisoned(&self) -> Result<(), Fault> {
        match &self.poisoned {
            Some(fault) => Err(fault.clone()),
            None => Ok(()),
        }
    }

    fn poison(&mut self, fault: Fault) -> Fault {
        self.poisoned.get_or_insert(fault).clone()
    }

    fn poison_unless_full(&mut self, fault: Fault) -> Fault {
        if fault.kind() == FaultKind::NoSpace {
            fault
        } else {
            self.poison(fault)
        }
    }
}

impl Active {
    fn new(spare: Spare, opening: &Opening, end: u64, chain: Chain) -> Active {
        Active {
            file: spare.file,
            name: segment_name(opening.sequence, opening.first_index),
            sequence: opening.sequence,
            opening_end: end,
            end,
            synced_end: end,
            file_bytes: spare.bytes,
            chain,
        }
    }
}

/// The hard state behind marker and entries, if the one before them could not say all.
fn late_state<'a>(batch: &Batch<'a>, early: Option<&HardState>) -> Option<&'a HardState> {
    batch
        .hard_state
        .filter(|state| early.is_some_and(|early| early.commit() < state.commit()))
}

fn batch_bytes(batch: &Batch, early: Option<&HardState>) -> u64 {
    let states = u64::from(early.is_some()) + u64::from(late_state(batch, early).is_some());
    let marker = batch.marker.map_or(0, record::marker_record_bytes);
    let entries = if batch.entries.is_empty() {
        0
    } else {
        record::entries_record_bytes(batch.entries)
    };
    states * record::HARD_STATE_RECORD_BYTES + marker + entries
}

/// A small zeroed file under a temporary name, prepared by the caller itself.
fn fill_in_a_hurry(
    disk: &dyn Disk,
    dir: &Path,
    number: u64,
    bytes: u64,
) -> Result<(String, Arc<dyn File>), Fault> {
    let name = format!("{number:016x}.tmp");
    let path = dir.join(&name);
    match segment::fill(disk, &path, bytes) {
        Ok(file) => Ok((name, file)),
        Err(fault) => {
            // Gives the space back; if even this fails, the next start removes the file.
            let _ = disk.remove(&path);
            Err(fault)
        }
    }
}

/// Writes what is there from `start` to `end` once more.
fn write_again(file: &dyn File, start: u64, end: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; (64 << 10).min(end.saturating_sub(start) as usize)];
    let mut at = start;
    while at < end {
        let wanted = buffer.len().min((end - at) as usize);
        let n = disk::read_full_at(file, at, &mut buffer[..wanted])?;
        if n == 0 {
            break;
        }
        file.write_at(at, &buffer[..n])?;
        at += n as u64;
    }
    Ok(())
}

/// Overwrites everything from `start` to the end of the file with zeros, where it is not zero already.
fn wipe(file: &dyn File, start: u64, file_bytes: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; (64 << 10).min(file_bytes.saturating_sub(start) as usize)];
    let mut at = start;
    while at < file_bytes {
        let n = disk::read_full_at(file, at, &mut buffer)?;
        if n == 0 {
            break;
        }
        if buffer.iter().take(n).any(|&byte| byte != 0) {
            segment::write_zeros(file, at, at + n as u64)?;
        }
        at += n as u64;
    }
    Ok(())
}

fn remove(disk: &dyn Disk, path: &Path) -> Result<(), Fault> {
    disk.remove(path)
        .map_err(|error| Fault::write_failed(path.display(), &error))
}
