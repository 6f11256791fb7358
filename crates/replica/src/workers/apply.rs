//! The apply worker: owns the replicated state, applies in order, publishes once per batch.

use std::sync::Arc;

use proto::raftpb;
use state::{Applied, Event, Fact, ReadView, State};
use storage::fault::Fault;
use storage::wal::Marker;

use crate::Ticket;
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

/// Owner of the replicated state.
pub struct ApplyWorker {
    state: State,
    store_busy: bool,
    /// What the checkpoint under way stands for.
    marker: Option<Marker>,
    /// Compactions that are answered only when their work is done.
    physical: Vec<Answer>,
}

/// What a slice of background work came to.
#[derive(Debug)]
pub struct Maintained {
    /// There is more to do.
    pub more: bool,
    pub answers: Vec<Answer>,
}

impl ApplyWorker {
    pub(crate) fn new(state: State) -> Self {
        ApplyWorker {
            state,
            store_busy: false,
            marker: None,
            physical: Vec::new(),
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
        for (entry, ticket) in jobs.into_iter().flat_map(|job| job.entries) {
            let mut applied = self.state.apply(&entry)?;
            assert_eq!(
                applied.index,
                entry.index(),
                "the state applied another entry than it was given"
            );
            done.bytes += entry.data.as_ref().map_or(0, |data| data.len() as u64) + ENTRY_OVERHEAD;
            events.append(&mut applied.events);
            let is_physical = applied
                .facts
                .iter()
                .any(|f| matches!(f, Fact::Compacted { physical: true, .. }));
            done.facts.append(&mut applied.facts);
            if let Some(ticket) = ticket {
                let answer = Answer {
                    ticket,
                    applied: Box::new(applied),
                };
                if is_physical {
                    self.physical.push(answer)
                } else {
                    answers.push(answer)
                }
            }
        }
        // A compaction that left nothing to take away is complete as it is; no pass will come by and say so.
        if !self.state.needs_maintenance() {
            answers.append(&mut self.physical);
        }
        (done.index, done.term) = self.state.applied();
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

    /// Takes back a job that has ended. For a checkpoint, the marker goes to the replica as
    /// [`crate::Input::Checkpointed`].
    pub fn stored(&mut self, done: StoreDone) -> Option<Marker> {
        self.store_busy = false;
        match done {
            StoreDone::Checkpoint(done) => {
                self.state.checkpointed(done);
                self.marker.take()
            }
            StoreDone::Rewrite(done) => {
                self.state.rewritten(done);
                None
            }
            StoreDone::RewriteAbandoned(_) => {
                self.state.rewrite_abandoned();
                None
            }
        }
    }

    /// A slice of background work after a compaction: trims at most `budget` keys of the index. When the last of it is
    /// done, the calls that wait for a physical compaction are answered.
    pub fn maintain(&mut self, budget: usize) -> Maintained {
        let more = self.state.maintain(budget);
        let answers = if more {
            Vec::new()
        } else {
            std::mem::take(&mut self.physical)
        };
        Maintained { more, answers }
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
