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
    pub release: Option<(Marker, u64)>,
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
}

impl LogWorker {
    pub(crate) fn new(wal: Wal) -> Self {
        LogWorker {
            wal,
            commit: None,
            held: Vec::new(),
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
    pub fn retry(&mut self) -> Result<Option<LogDone>, Fault> {
        let merged = Merged::of(&self.held, self.commit.take());
        if let Err(fault) = self.write(&merged) {
            if fault.kind() == FaultKind::NoSpace && self.wal.poisoned().is_none() {
                self.commit = merged.hard_state;
                return Ok(None);
            }
            return Err(fault);
        }
        if !merged.is_written() {
            self.commit = merged.hard_state;
        }
        let mut done = LogDone::default();
        for job in std::mem::take(&mut self.held) {
            done.number = done.number.max(job.number);
            done.messages.extend(job.messages);
            if let Some((marker, index)) = job.release {
                let marker = Batch {
                    marker: Some(&marker),
                    sync: true,
                    ..Batch::default()
                };
                self.wal.append(&marker)?;
                self.wal.release(index)?;
            }
        }
        Ok(Some(done))
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
