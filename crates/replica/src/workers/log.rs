//! The log worker: one write and one sync for all jobs that wait.

use proto::raftpb;
use storage::fault::{Fault, FaultKind};
use storage::wal::{Batch, Marker, Spare, SpareJob, Wal};

/// Entries and hard state to make durable, and what may happen only then.
#[derive(Debug, Default)]
pub struct LogJob {
    /// Handed back in [`crate::Input::Persisted`]; 0 for a job that nobody waits for.
    pub number: u64,
    pub entries: Vec<raftpb::Entry>,
    pub hard_state: Option<raftpb::HardState>,
    /// False when nothing in the job has to survive a crash (a commit index alone).
    pub must_sync: bool,
    /// A checkpoint is durable, and entries up to the given index are not wanted any more.
    pub release: Option<Box<(Marker, u64)>>,
    /// A received snapshot is in place: the log begins again behind it. Such a job has no entries.
    pub restart: Option<Box<Marker>>,
    /// Messages that may leave once the job is durable, and not before.
    pub messages: Vec<raftpb::Message>,
}

/// What a drained batch of jobs came to.
#[derive(Debug, Default)]
pub struct LogDone {
    /// The highest job number: everything up to it is durable. 0 when no job had one.
    pub number: u64,
    /// May leave now, after the replica has been told.
    pub messages: Vec<raftpb::Message>,
}

/// Owner of the write-ahead log.
pub struct LogWorker {
    wal: Wal,
    /// A commit index that was not worth a write of its own. It goes out with the next entries; after a crash the leader,
    /// or an election, finds it again.
    commit: Option<raftpb::HardState>,
    /// Jobs that met a full disk, in order. New ones queue behind them.
    held: Vec<LogJob>,
    /// The newest checkpoint that the log has not been cut to, because its marker found no room or its entry is still to be
    /// written.
    release: Option<Box<(Marker, u64)>>,
    /// What is durable of the jobs given together with those that are held.
    done: LogDone,
}

impl LogWorker {
    pub(crate) fn new(wal: Wal) -> Self {
        LogWorker {
            wal,
            commit: None,
            held: Vec::new(),
            release: None,
            done: LogDone::default(),
        }
    }

    /// Makes the jobs durable, in order. `None` while the disk is full: the jobs are kept, nothing is acknowledged, and
    /// [`LogWorker::retry`] tries again.
    ///
    /// # Errors
    /// A failed write or sync: what is on the disk is unknown, the member must stop.
    pub fn run(
        &mut self,
        jobs: impl IntoIterator<Item = LogJob>,
    ) -> Result<Option<LogDone>, Fault> {
        self.held.extend(jobs);
        self.retry()
    }

    /// Whether jobs wait for space on the disk.
    pub fn is_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Tries again what met a full disk.
    ///
    /// Segments that a checkpoint has made superfluous are room for what waits, so they are given back before the disk is
    /// called full; else a member could hold a durable checkpoint and a full log for ever.
    pub fn retry(&mut self) -> Result<Option<LogDone>, Fault> {
        while !self.held.is_empty() {
            // A restart stands alone: what was to be written before is not to be merged with what comes after.
            let restart = self.held.iter().position(|job| job.restart.is_some());
            let written = match restart {
                Some(0) => self.restart()?,
                Some(at) => self.write_first(at)?,
                None => self.write_first(self.held.len())?,
            };
            if !written {
                return Ok(None);
            }
        }
        Ok(Some(std::mem::take(&mut self.done)))
    }

    /// Lets the log begin again, as the first job says. False if the disk is full.
    fn restart(&mut self) -> Result<bool, Fault> {
        let job = &mut self.held[0];
        assert!(job.entries.is_empty(), "a restart has no entries");
        let marker = job.restart.take().expect("the job is a restart");
        let hard_state = job.hard_state.take();
        let batch = Batch {
            hard_state: hard_state.as_ref(),
            marker: Some(&marker),
            sync: true,
            ..Batch::default()
        };
        let mut written = self.wal.append(&batch);
        if self.is_full(&written) && self.give_back()? > 0 {
            written = self.wal.append(&batch);
        }
        if self.is_full(&written) {
            let job = &mut self.held[0];
            (job.restart, job.hard_state) = (Some(marker), hard_state);
            return Ok(false);
        }
        written?;
        self.wal.release(marker.index)?;
        // What is known from before says less than the marker: a commit index, and a checkpoint that the log was not cut to.
        self.commit = None;
        self.release = None;
        self.take_done(1)?;
        Ok(true)
    }

    /// Writes the first `count` jobs with one write and one sync. False if the disk is full.
    fn write_first(&mut self, count: usize) -> Result<bool, Fault> {
        let merged = Merged::of(&self.held[..count], self.commit.take());
        let mut written = self.write(&merged);
        if self.is_full(&written) {
            for job in &mut self.held[..count] {
                self.release = job.release.take().or(self.release.take());
            }
            if self.give_back()? > 0 {
                written = self.write(&merged);
            }
        }
        if self.is_full(&written) {
            self.commit = merged.hard_state;
            return Ok(false);
        }
        written?;
        if !merged.is_written() {
            self.commit = merged.hard_state;
        }
        self.take_done(count)?;
        Ok(true)
    }

    /// The first `count` jobs are durable.
    fn take_done(&mut self, count: usize) -> Result<(), Fault> {
        for job in self.held.drain(..count) {
            self.done.number = self.done.number.max(job.number);
            self.done.messages.extend(job.messages);
            self.release = job.release.or(self.release.take());
        }
        self.give_back()?;
        Ok(())
    }

    /// Cuts the log to the newest checkpoint, if it can, and says how many segments that gave back. Without room for the
    /// marker it is tried again with the next jobs: nobody waits for it.
    fn give_back(&mut self) -> Result<usize, Fault> {
        let last = self.wal.last_index();
        let Some(release) = self.release.take_if(|release| release.0.index <= last) else {
            return Ok(0);
        };
        let batch = Batch {
            marker: Some(&release.0),
            sync: true,
            ..Batch::default()
        };
        let marked = self.wal.append(&batch);
        if self.is_full(&marked) {
            self.release = Some(release);
            return Ok(0);
        }
        marked.and_then(|()| self.wal.release(release.1))
    }

    /// Whether it failed for want of room alone, with the log as it was.
    fn is_full(&self, result: &Result<(), Fault>) -> bool {
        result
            .as_ref()
            .is_err_and(|fault| fault.kind() == FaultKind::NoSpace)
            && self.wal.poisoned().is_none()
    }

    fn write(&mut self, merged: &Merged) -> Result<(), Fault> {
        if !merged.is_written() {
            return Ok(());
        }
        let (last, earlier) = merged
            .runs
            .split_last()
            .map_or((&[][..], &[][..]), |(last, rest)| (&last[..], rest));
        let mut hard_state = merged.hard_state.as_ref();
        for run in earlier {
            self.wal.append(&Batch {
                hard_state: hard_state.take(),
                entries: run,
                ..Batch::default()
            })?;
        }
        self.wal.append(&Batch {
            hard_state,
            entries: last,
            sync: merged.must_sync,
            ..Batch::default()
        })
    }

    /// A spare segment to prepare in the background, when one is needed. Ask after every run.
    pub fn spare_job(&mut self) -> Option<SpareJob> {
        self.wal.spare_job()
    }

    /// Takes a prepared spare. A full disk is not a reason to stop: it is returned as `Ok(Some(..))` to be reported, and the
    /// next [`LogWorker::spare_job`] asks again.
    pub fn install_spare(&mut self, spare: Result<Spare, Fault>) -> Result<Option<Fault>, Fault> {
        match self.wal.install_spare(spare) {
            Ok(()) => Ok(None),
            Err(fault) if fault.kind() == FaultKind::NoSpace => Ok(Some(fault)),
            Err(fault) => Err(fault),
        }
    }
}

/// All jobs as what has to be written: the last hard state, and runs of consecutive entries. There is one run unless raft
/// replaced a tail between two jobs.
#[derive(Debug, Default)]
struct Merged {
    hard_state: Option<raftpb::HardState>,
    runs: Vec<Vec<raftpb::Entry>>,
    must_sync: bool,
}

impl Merged {
    fn of(jobs: &[LogJob], commit: Option<raftpb::HardState>) -> Self {
        let mut merged = Merged {
            hard_state: commit,
            ..Merged::default()
        };
        for job in jobs {
            merged.must_sync |= job.must_sync;
            merged.hard_state = job.hard_state.or(merged.hard_state);
            let Some(first) = job.entries.first() else {
                continue;
            };
            match merged.runs.last_mut() {
                Some(run) if run.last().map(|e| e.index() + 1) == Some(first.index()) => {
                    run.extend(job.entries.iter().cloned());
                }
                _ => merged.runs.push(job.entries.clone()),
            }
        }
        merged
    }

    fn is_written(&self) -> bool {
        self.must_sync || !self.runs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::sync::Arc;
    use storage::disk::MemDisk;
    use storage::wal::{Identity, Options};

    const DIR: &str = "wal";

    fn options() -> Options {
        Options::with_segment_bytes(4096, 4096)
    }

    fn log(disk: &MemDisk) -> LogWorker {
        let identity = Identity {
            cluster_id: 1,
            member_id: 2,
        };
        let wal = Wal::create(Arc::new(disk.clone()), Path::new(DIR), options(), identity);
        LogWorker::new(wal.expect("an empty disk"))
    }

    fn entries(number: u64, indexes: std::ops::RangeInclusive<u64>, bytes: usize) -> LogJob {
        let entry = |index| raftpb::Entry {
            r#type: Some(0),
            term: Some(1),
            index: Some(index),
            data: Some(vec![7; bytes].into()),
        };
        LogJob {
            number,
            entries: indexes.map(entry).collect(),
            must_sync: true,
            ..LogJob::default()
        }
    }

    fn checkpoint(index: u64) -> LogJob {
        let marker = Marker {
            index,
            term: 1,
            ..Marker::default()
        };
        LogJob {
            release: Some(Box::new((marker, index))),
            ..LogJob::default()
        }
    }

    /// No file may become longer, and none new.
    fn fill(disk: &MemDisk) {
        disk.faults(|faults| faults.capacity_bytes = Some(0));
    }

    fn last_index(disk: &MemDisk) -> u64 {
        let opened = Wal::open(Arc::new(disk.fork()), Path::new(DIR), options());
        opened.expect("a sound log").1.last_index
    }

    #[test]
    fn a_checkpoint_makes_room_for_what_waits_on_a_full_disk() {
        let disk = MemDisk::new();
        let mut log = log(&disk);
        for index in 1..=12 {
            let done = log
                .run([entries(index, index..=index, 1000)])
                .expect("room");
            assert_eq!(done.expect("room").number, index);
        }
        fill(&disk);
        let mut held = None;
        for index in 13..40 {
            if log
                .run([entries(index, index..=index, 1000)])
                .expect("no fault")
                .is_none()
            {
                held = Some(index);
                break;
            }
        }
        let held = held.expect("the disk is full");
        assert!(log.retry().expect("no fault").is_none() && log.is_held());
        // The space is there: in segments that the checkpoint makes superfluous.
        let done = log.run([checkpoint(9)]).expect("no fault");
        assert_eq!(done.expect("room again").number, held);
        assert!(!log.is_held());
        assert_eq!(last_index(&disk), held);
    }

    #[test]
    fn a_checkpoint_without_room_for_its_marker_does_not_stop_the_member() {
        let disk = MemDisk::new();
        let mut log = log(&disk);
        // Fills the only segment to where no marker fits.
        let mut last = 0;
        for bytes in [3000, 700, 80, 30, 1] {
            fill(&disk);
            while log
                .run([entries(last + 1, last + 1..=last + 1, bytes)])
                .expect("no fault")
                .is_some()
            {
                last += 1;
            }
            log.held.clear();
        }
        let done = log
            .run([checkpoint(last)])
            .expect("a full disk is no fault");
        assert!(done.is_some() && !log.is_held());
        assert!(
            log.release.is_some(),
            "there was room for the marker, so this shows nothing"
        );
        // It is not forgotten: with room it is written before anything else needs it.
        disk.faults(|faults| faults.capacity_bytes = None);
        assert!(
            log.run([entries(9, last + 1..=last + 1, 10)])
                .expect("room")
                .is_some()
        );
        let opened = Wal::open(Arc::new(disk.fork()), Path::new(DIR), options());
        let marker = opened.expect("a sound log").1.marker.expect("the marker");
        assert_eq!(marker.index, last);
    }
}
