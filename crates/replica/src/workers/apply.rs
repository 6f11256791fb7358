//! The apply worker: owns the replicated state, applies in order, publishes once per batch.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use proto::raftpb;
use state::{Applied, Event, Fact, HashDone, HashJob, ReadView, State};
use storage::fault::Fault;
use storage::wal::Marker;

use crate::Ticket;
use crate::snapshots::{Incoming, Received};
use crate::workers::{StoreDone, StoreJob};

/// Committed entries in log order, each with the call that waits for it here, if any.
#[derive(Debug, Default)]
pub struct ApplyJob {
    pub entries: Vec<(raftpb::Entry, Option<Ticket>)>,
    /// A few entries that touch a few keys, while no other job is with the apply worker: takes microseconds, so whoever has the job may run the
    /// worker there and then instead of waking its thread.
    pub is_brief: bool,
}

/// What the replica learns of a batch.
#[derive(Debug, Default)]
pub struct ApplyDone {
    /// Index and term of the last entry applied.
    pub index: u64,
    pub term: u64,
    /// The newest revision.
    pub revision: i64,
    pub facts: Vec<Fact>,
    /// Size of the entries, which paces checkpoints.
    pub bytes: u64,
    /// Jobs that were applied as this batch.
    pub jobs: usize,
}

/// The state as everybody may read it, and the changes since the last publication.
#[derive(Clone)]
pub struct Published {
    pub view: ReadView,
    pub events: Arc<[Event]>,
}

/// The answer to a waiting call.
#[derive(Debug)]
pub struct Answer {
    pub ticket: Ticket,
    pub applied: Box<Applied>,
}

/// What a batch came to. The order in which it leaves matters: publish, then answer, so that whoever has an answer finds
/// its effect in the view; then tell the replica, so that a read waiting for the index finds it too.
pub struct ApplyOutput {
    pub published: Published,
    pub answers: Vec<Answer>,
    pub done: ApplyDone,
}

/// A received snapshot has become the state: what the replica learns of it.
pub struct Installed {
    /// The state.
    pub view: ReadView,
}

impl fmt::Debug for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Installed({:?})", self.view.applied())
    }
}

/// What follows from a state that has been replaced, in the order of [`ApplyOutput`].
pub struct Replaced {
    /// Further ahead than any events told.
    pub published: Published,
    /// Calls that waited for a physical compaction; the new state has only what is left of it.
    pub answers: Vec<Answer>,
    pub done: Installed,
}

/// What a job of the store worker came to.
pub enum Stored {
    /// For the replica, as [`crate::Input::Checkpointed`].
    Checkpoint(Marker),
    /// Files have changed, or not; nothing follows.
    Rewrite,
    /// The state is another one.
    Replaced(Box<Replaced>),
}

/// Owner of the replicated state.
pub struct ApplyWorker {
    state: State,
    store_busy: bool,
    is_replacing: bool,
    /// What the checkpoint under way stands for.
    marker: Option<Marker>,
    is_hashing: bool,
    /// Compactions that are answered only when their work is done, with their revisions, which ascend. Bounded by the calls
    /// that the replica admits.
    physical: VecDeque<(i64, Answer)>,
}

/// What a slice of background work came to.
#[derive(Debug)]
pub struct Maintained {
    /// There is more to do.
    pub more: bool,
    /// Physical compactions whose work is done.
    pub answers: Vec<Answer>,
}

impl ApplyWorker {
    pub(crate) fn new(state: State) -> Self {
        ApplyWorker {
            state,
            store_busy: false,
            is_replacing: false,
            marker: None,
            is_hashing: false,
            physical: VecDeque::new(),
        }
    }

    /// Applies all jobs as one batch.
    ///
    /// # Errors
    /// A fault means that this member's state can't be trusted to follow the log any more; it must stop.
    pub fn apply(
        &mut self,
        jobs: impl IntoIterator<Item = ApplyJob>,
    ) -> Result<ApplyOutput, Fault> {
        let mut answers = Vec::new();
        let mut events = Vec::new();
        let mut done = ApplyDone::default();
        let mut done_jobs = 0;
        let jobs = jobs.into_iter().inspect(|_| done_jobs += 1);
        for (entry, ticket) in jobs.flat_map(|job| job.entries) {
            let mut applied = self.state.apply(&entry)?;
            assert_eq!(
                applied.index,
                entry.index(),
                "the state applied another entry than it was given"
            );
            done.bytes += entry.data.as_ref().map_or(0, |data| data.len() as u64) + ENTRY_OVERHEAD;
            events.append(&mut applied.events);
            let physical = applied.facts.iter().find_map(|fact| match fact {
                Fact::Compacted {
                    revision,
                    physical: true,
                } => Some(*revision),
                _ => None,
            });
            done.facts.append(&mut applied.facts);
            if let Some(ticket) = ticket {
                let answer = Answer {
                    ticket,
                    applied: Box::new(applied),
                };
                match physical {
                    Some(revision) => self.physical.push_back((revision, answer)),
                    None => answers.push(answer),
                }
            }
        }
        (done.index, done.term) = self.state.applied();
        done.jobs = done_jobs;
        let view = self.state.view();
        done.revision = view.revision();
        Ok(ApplyOutput {
            published: Published {
                view,
                events: events.into(),
            },
            answers,
            done,
        })
    }

    /// The state as it is now, without new events.
    pub fn published(&self) -> Published {
        Published {
            view: self.state.view(),
            events: Arc::new([]),
        }
    }

    /// Work for the store worker that makes everything applied so far durable; `None` while one is under way.
    pub fn checkpoint(&mut self) -> Option<StoreJob> {
        if self.store_busy {
            return None;
        }
        self.store_busy = true;
        let (index, term) = self.state.applied();
        let conf_state = self.state.view().members().conf_state();
        self.marker = Some(Marker {
            index,
            term,
            conf_state,
            restart: false,
        });
        Some(StoreJob::Checkpoint(self.state.checkpoint()))
    }

    /// Begins to receive the snapshot that `message` announces. `None` while another takes the place of the state; whoever has one
    /// that is received and neither installed nor dropped does not ask.
    ///
    /// # Errors
    /// A fault, if the directory cannot be used: this member must stop.
    pub fn receive(&self, message: raftpb::Message) -> Result<Option<Incoming>, Fault> {
        if self.is_replacing {
            return Ok(None);
        }
        Incoming::begin(message, &self.state).map(Some)
    }

    /// Work for the store worker that puts a received snapshot in the place of the state; `None`, and the snapshot stays where
    /// it is, while other work is under way. Nothing may be given to [`ApplyWorker::apply`] before it has come back.
    pub fn install(&mut self, received: &mut Option<Received>) -> Option<StoreJob> {
        if self.store_busy {
            return None;
        }
        let received = received.take()?;
        (self.store_busy, self.is_replacing) = (true, true);
        Some(StoreJob::Replace(Box::new(received)))
    }

    /// Takes back a job that has ended.
    pub fn stored(&mut self, done: StoreDone) -> Stored {
        self.store_busy = false;
        match done {
            StoreDone::Checkpoint(done) => {
                self.state.checkpointed(done);
                let marker = self.marker.take();
                Stored::Checkpoint(marker.expect("a checkpoint was begun with a marker"))
            }
            StoreDone::Rewrite(done) => {
                self.state.rewritten(done);
                Stored::Rewrite
            }
            StoreDone::RewriteAbandoned(_) => {
                self.state.rewrite_abandoned();
                Stored::Rewrite
            }
            StoreDone::Replaced(received, done) => {
                self.is_replacing = false;
                let before = self.state.applied().0;
                self.state = received.state;
                self.state.checkpointed(done);
                let after = self.state.applied().0;
                assert!(after > before, "a snapshot of {after} replaced {before}");
                let published = self.published();
                Stored::Replaced(Box::new(Replaced {
                    answers: self.physical.drain(..).map(|(_, answer)| answer).collect(),
                    done: Installed {
                        view: published.view.clone(),
                    },
                    published,
                }))
            }
        }
    }

    /// Whether [`ApplyWorker::maintain`] has anything to do: something is to be tidied away, or a call waits to hear that
    /// nothing is.
    #[must_use]
    pub fn needs_maintenance(&self) -> bool {
        self.state.needs_maintenance() || self.has_finished_compaction()
    }

    /// A slice of background work after a compaction: trims at most `budget` keys of the index. A physical compaction is
    /// answered when its own work is done, whatever later ones have added.
    pub fn maintain(&mut self, budget: usize) -> Maintained {
        let more = self.state.maintain(budget);
        let mut answers = Vec::new();
        while self.has_finished_compaction()
            && let Some((_, answer)) = self.physical.pop_front()
        {
            answers.push(answer);
        }
        Maintained { more, answers }
    }

    /// Whether the oldest compaction that somebody waits for is done.
    fn has_finished_compaction(&self) -> bool {
        let is_done =
            |revision| self.state.is_tidy(revision) && !self.state.is_hash_wanted(revision);
        let oldest = self.physical.front();
        oldest.is_some_and(|(revision, _)| is_done(*revision))
    }

    /// The hash of a compaction to compute on another thread; `None` while that is under way, or if there is none.
    pub fn hash_job(&mut self) -> Option<HashJob> {
        if self.is_hashing {
            return None;
        }
        let job = self.state.hash_job()?;
        self.is_hashing = true;
        Some(job)
    }

    /// Takes back the result of a [`HashJob`]. [`ApplyWorker::needs_maintenance`] may be true now.
    pub fn hashed(&mut self, done: &HashDone) {
        self.is_hashing = false;
        self.state.hashed(done);
    }

    /// Closes the segment that is being written, if something in it is dead: after the next checkpoint a rewrite can reach it too.
    pub fn seal_early(&mut self) {
        self.state.seal_early();
    }

    /// A mostly dead segment to rewrite, when the store worker is idle.
    pub fn rewrite(&mut self, live_share_max: f64) -> Option<StoreJob> {
        if self.store_busy {
            return None;
        }
        let job = self.state.rewrite(live_share_max)?;
        self.store_busy = true;
        Some(StoreJob::Rewrite(job))
    }

    /// Read access to what only the owner can see.
    pub fn state(&self) -> &State {
        &self.state
    }
}

/// What an entry costs beside its data.
const ENTRY_OVERHEAD: u64 = 32;

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use proto::etcdserverpb as pb;
    use storage::disk::MemDisk;
    use storage::segments::SegmentsOptions;

    use super::*;

    fn worker() -> ApplyWorker {
        let disk = Arc::new(MemDisk::new());
        let options = SegmentsOptions::default();
        let state = State::create(state::Params::default(), disk, "data", options);
        ApplyWorker::new(state.expect("an empty disk"))
    }

    /// Puts `a` until the store is at `revision`.
    fn put_until(worker: &mut ApplyWorker, revision: i64) {
        while worker.published().view.revision() < revision {
            let put = pb::PutRequest {
                key: "a".into(),
                ..Default::default()
            };
            let request = pb::InternalRaftRequest {
                put: Some(put),
                ..Default::default()
            };
            assert!(apply(worker, request, None).is_empty());
        }
    }

    fn compact(worker: &mut ApplyWorker, revision: i64, waits: Option<Ticket>) -> Vec<Ticket> {
        let compaction = Some(pb::CompactionRequest {
            revision,
            physical: waits.is_some(),
        });
        let request = pb::InternalRaftRequest {
            compaction,
            ..Default::default()
        };
        apply(worker, request, waits)
    }

    fn apply(
        worker: &mut ApplyWorker,
        request: pb::InternalRaftRequest,
        ticket: Option<Ticket>,
    ) -> Vec<Ticket> {
        let entry = raftpb::Entry {
            term: Some(1),
            index: Some(worker.state().applied().0 + 1),
            data: Some(request.encode_to_vec().into()),
            ..Default::default()
        };
        let job = ApplyJob {
            entries: vec![(entry, ticket)],
            is_brief: false,
        };
        let output = worker.apply([job]).expect("no fault");
        output.answers.into_iter().map(|a| a.ticket).collect()
    }

    fn hash_all(worker: &mut ApplyWorker) {
        while let Some(job) = worker.hash_job() {
            worker.hashed(&job.run().expect("no fault"));
        }
    }

    fn maintain(worker: &mut ApplyWorker, budget: usize) -> Vec<Ticket> {
        let maintained = worker.maintain(budget);
        maintained.answers.into_iter().map(|a| a.ticket).collect()
    }

    /// Such a call was answered only when a later compaction had something to tidy (difftest seed 77, episode 22).
    #[test]
    fn a_physical_compaction_is_answered_even_when_there_is_nothing_to_tidy() {
        let mut worker = worker();
        put_until(&mut worker, 2);
        assert!(compact(&mut worker, 2, Some(Ticket(7))).is_empty());
        assert!(!worker.needs_maintenance(), "the hash is not there");
        hash_all(&mut worker);
        assert!(worker.needs_maintenance());
        assert_eq!(maintain(&mut worker, 10), [Ticket(7)]);
        assert!(!worker.needs_maintenance());
    }

    #[test]
    fn a_physical_compaction_does_not_wait_for_the_work_of_later_ones() {
        let mut worker = worker();
        put_until(&mut worker, 20);
        // Three versions are dead at 5.
        assert!(compact(&mut worker, 5, Some(Ticket(1))).is_empty());
        assert!(compact(&mut worker, 19, None).is_empty());
        assert!(compact(&mut worker, 20, Some(Ticket(2))).is_empty());
        hash_all(&mut worker);
        assert!(maintain(&mut worker, 2).is_empty());
        assert_eq!(maintain(&mut worker, 1), [Ticket(1)]);
        assert_eq!(maintain(&mut worker, 100), [Ticket(2)]);
        assert!(!worker.needs_maintenance());
    }
}
