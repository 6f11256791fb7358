//! The owner of the replicated state: applies, publishes, answers, and tidies up after compactions.
//!
//! It has a thread of its own. A brief batch that finds it idle is applied by the thread that brings it; see [`super::Desk`] for
//! why, and for the rule that keeps the order.

use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Instant, SystemTime};

use crossbeam_channel::Sender;
use proto::raftpb;
use replica::snapshots::{Incoming, Received};
use replica::watch;
use replica::workers::{
    Answer, ApplyDone, ApplyJob, ApplyWorker, Published, Replaced, StoreDone, StoreJob, Stored,
};
use replica::{Input, Reply};
use state::{HashDone, HashJob, ReadView};
use storage::fault::Fault;
use storage::wal::Marker;
use tokio::sync::oneshot;

use super::desk::Answers;
use super::{Alarm, Desk, HubInput};
use crate::calls::Mailbox;
use crate::inbox::{Inbox, Refused};
use crate::member::Member;

/// Keys that the background pass after a compaction looks at before the inbox is looked at again, those aside that changed
/// meanwhile: about a millisecond.
const MAINTAIN_KEYS: usize = 2_000;
/// A sealed segment whose share of live bytes is at most this is rewritten.
const REWRITE_SHARE: f64 = 0.5;
/// The same while somebody has asked for all space that can be had.
const DEFRAGMENT_SHARE: f64 = 0.95;
/// What the apply thread is told.
pub(super) enum ApplyInput {
    Job(ApplyJob),
    Checkpoint,
    Stored(StoreDone),
    Hashed(HashDone),
    /// Begin to receive the snapshot that this message announces, and hand back where its rows go: `None` if it must come again
    /// later.
    Receive(
        Box<raftpb::Message>,
        oneshot::Sender<Result<Option<Incoming>, Fault>>,
    ),
    /// All rows of it are durable; the replica is told next.
    Received(Box<Received>),
    /// Put the received snapshot in the place of the state.
    Install,
    /// The received snapshot is of no use.
    DropReceived,
    /// Give back all space that can be given back, then say so.
    Defragment(oneshot::Sender<()>),
    /// There is something to tidy up.
    Wake,
    /// Write a last checkpoint, say so, and end.
    Stop(Sender<()>),
}

/// Where jobs for the apply worker are handed in. What waits here is bounded by what the replica admits and by the one job
/// that the store thread may have.
pub(super) struct ApplyDesk {
    inbox: Inbox<ApplyInput>,
    /// Empty before the threads start. The replica's desk may be locked by the same thread, which then came from there; the
    /// way back is a channel, or a step if that desk is free.
    applier: Mutex<Option<Applier>>,
}

impl Default for ApplyDesk {
    fn default() -> Self {
        ApplyDesk {
            inbox: Inbox::new(1),
            applier: Mutex::new(None),
        }
    }
}

impl ApplyDesk {
    /// Hands in a batch. A brief one that finds the worker idle is applied, published and answered when this returns, and what
    /// the replica is to know of it comes back; otherwise the replica hears of it through its inbox.
    pub fn give(&self, job: ApplyJob) -> Option<ApplyDone> {
        let mut seat = if job.is_brief { self.try_lock() } else { None };
        let applier = seat.as_mut().and_then(|seat| seat.as_mut());
        let Some(applier) = applier.filter(|_| self.inbox.is_empty()) else {
            self.tell(ApplyInput::Job(job));
            return None;
        };
        match applier.apply_batch(vec![job]) {
            Ok(done) => {
                applier.offer_work();
                if applier.todo.is_sweeping {
                    self.tell(ApplyInput::Wake);
                }
                Some(done)
            }
            Err(fault) => {
                applier.alarm.raise(fault);
                // Nothing is applied after a fault.
                if let Some(seat) = &mut seat {
                    **seat = None;
                }
                None
            }
        }
    }

    /// Leaves something for the worker's thread. Once that has ended, whoever waits for an answer finds their channel closed.
    pub fn tell(&self, input: ApplyInput) {
        self.inbox.push(input);
    }

    /// Seats the worker.
    pub fn seat(&self, applier: Applier) {
        *self.lock() = Some(applier);
    }

    /// Works until the member stops.
    pub fn run(&self) {
        self.work();
        self.inbox.close();
    }

    fn work(&self) {
        let mut is_sweeping = true;
        loop {
            if !is_sweeping {
                // Taking the job here already, without the lock, would let another overtake it.
                self.inbox.wait(None);
            }
            let mut seat = self.lock();
            let Some(applier) = seat.as_mut() else {
                return;
            };
            let is_over = applier.turn(&self.inbox).unwrap_or_else(|fault| {
                applier.alarm.raise(fault);
                true
            });
            if is_over {
                // What the worker holds of the member goes with it.
                *seat = None;
                return;
            }
            is_sweeping = applier.todo.is_sweeping;
        }
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Option<Applier>>> {
        match self.applier.try_lock() {
            Ok(seat) => Some(seat),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => panic!("a thread panicked while it applied"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Applier>> {
        self.applier
            .lock()
            .expect("no thread panics while it applies")
    }
}

/// The worker, the ways of what comes out of it, and what is still to be done.
pub(super) struct Applier {
    pub apply: ApplyWorker,
    pub replica: Arc<Desk>,
    pub store: Sender<StoreJob>,
    pub hash: Sender<HashJob>,
    pub hubs: Vec<HubFeed>,
    pub member: Arc<Member>,
    pub mailboxes: Vec<Arc<Mailbox>>,
    pub alarm: Alarm,
    pub todo: Todo,
}

/// What an [`Applier`] does besides applying.
#[derive(Default)]
pub(super) struct Todo {
    /// A background pass over the index may have something left.
    is_sweeping: bool,
    /// Changes since the last slice of that pass, or since before it began.
    changes: usize,
    is_storing: bool,
    checkpoint_wanted: bool,
    /// A snapshot of another member, durable beside the state. One at a time: the next is not begun before this one is gone.
    received: Option<Received>,
    /// It is to replace the state.
    install_wanted: bool,
    defragmentation: Defragmentation,
    /// Who hears of the last checkpoint, once the member is to stop.
    stopping: Option<Sender<()>>,
}

/// How far the giving back of space is that somebody waits for.
#[derive(Default)]
struct Defragmentation {
    /// As many as there are calls under way, which `long_calls` bounds.
    waiting: Vec<oneshot::Sender<()>>,
    /// The segment that was being written when the last of them asked is closed, so that its space comes back too.
    is_sealed: bool,
    /// Nothing is left to rewrite; the files that were replaced go with the next checkpoint.
    is_rewritten: bool,
}

impl Applier {
    /// Takes what waits and applies it, then tidies up a little. True when it has written its last checkpoint.
    ///
    /// A slice of tidying follows every batch and takes more away than can have been added since the one before, so that a
    /// compaction comes to an end under any load.
    fn turn(&mut self, inbox: &Inbox<ApplyInput>) -> Result<bool, Fault> {
        let (mut inputs, mut jobs) = (Vec::new(), Vec::new());
        inbox.take(usize::MAX, &mut inputs);
        for input in inputs {
            self.take(input, &mut jobs)?;
        }
        if !jobs.is_empty() {
            let done = self.apply_batch(jobs)?;
            self.replica.report(Input::Applied(done));
        }
        if self.todo.is_sweeping {
            self.sweep();
        }
        self.offer_work();
        Ok(self.is_done_stopping())
    }

    fn take(&mut self, input: ApplyInput, jobs: &mut Vec<ApplyJob>) -> Result<(), Fault> {
        match input {
            ApplyInput::Job(job) => jobs.push(job),
            ApplyInput::Checkpoint => self.todo.checkpoint_wanted = true,
            ApplyInput::Stored(done) => {
                self.todo.is_storing = false;
                match self.apply.stored(done) {
                    Stored::Checkpoint(marker) => self.checkpointed(marker),
                    Stored::Rewrite => {}
                    Stored::Replaced(replaced) => self.replaced(*replaced),
                }
                // Files have changed, keys have not: readers get the new view, watchers need not hear of it.
                self.publish_view(&self.apply.published());
            }
            ApplyInput::Receive(message, reply) => {
                let incoming = match self.todo.received {
                    None => self.apply.receive(*message),
                    Some(_) => Ok(None),
                };
                if let Err(Ok(Some(incoming))) = reply.send(incoming) {
                    // Nobody waits any more.
                    incoming.abandon()?;
                }
            }
            ApplyInput::Received(received) => {
                if let Some(earlier) = self.todo.received.replace(*received) {
                    earlier.discard()?;
                }
            }
            ApplyInput::Install => self.todo.install_wanted = true,
            ApplyInput::DropReceived => {
                if let Some(received) = self.todo.received.take() {
                    received.discard()?;
                }
            }
            ApplyInput::Hashed(done) => {
                self.apply.hashed(&done);
                // A view that does without what was hashed.
                self.publish_view(&self.apply.published());
                self.todo.is_sweeping = self.apply.needs_maintenance();
            }
            ApplyInput::Wake => self.todo.is_sweeping = true,
            ApplyInput::Defragment(done) => {
                // Those whose clients have gone make room.
                let waiting = &mut self.todo.defragmentation.waiting;
                waiting.retain(|done| !done.is_closed());
                waiting.push(done);
                self.todo.defragmentation.is_sealed = false;
            }
            ApplyInput::Stop(done) => {
                self.todo.checkpoint_wanted = true;
                self.todo.stopping = Some(done);
            }
        }
        Ok(())
    }

    fn checkpointed(&mut self, marker: Marker) {
        self.replica.report(Input::Checkpointed(marker));
        if std::mem::take(&mut self.todo.defragmentation.is_rewritten) {
            for done in self.todo.defragmentation.waiting.drain(..) {
                let _ = done.send(());
            }
        }
    }

    /// The state is another one. Watchers read from it what they have missed.
    fn replaced(&mut self, replaced: Replaced) {
        let Replaced {
            published,
            answers,
            done,
        } = replaced;
        self.publish_view(&published);
        self.answer(answers);
        for hub in &mut self.hubs {
            hub.skip_to(&published);
        }
        self.todo.is_sweeping = self.apply.needs_maintenance();
        self.replica.report(Input::Installed(done));
    }

    /// Applies, publishes, answers, tells the hubs. The view is out before anybody hears of what is in it: callers, and the replica, which
    /// lets waiting reads go on. The hubs come last, because callers wait and watchers wait for others: what a caller then asks of a
    /// hub names the revision it knows of, and the hub waits for that.
    fn apply_batch(&mut self, jobs: Vec<ApplyJob>) -> Result<ApplyDone, Fault> {
        let began = Instant::now();
        let entries: usize = jobs.iter().map(|job| job.entries.len()).sum();
        let output = self.apply.apply(jobs)?;
        self.warn_if_slow(began, entries);
        self.member.metrics.applied(&output.published.events);
        self.publish_view(&output.published);
        self.answer(output.answers);
        for hub in &mut self.hubs {
            hub.feed(&output.published);
        }
        if !self.todo.is_sweeping {
            self.todo.changes = 0;
        }
        self.todo.changes += output.published.events.len();
        self.todo.is_sweeping = self.apply.needs_maintenance();
        Ok(output.done)
    }

    /// Source of the text and the names: upstream `server/etcdserver/txn/util.go`.
    fn warn_if_slow(&self, began: Instant, entries: usize) {
        let (took, expected) = (began.elapsed(), self.member.settings().warning_apply);
        if took > expected {
            self.member.metrics.slow_applies.inc();
            tracing::warn!(
                took = format!("{took:?}"),
                "expected-duration" = format!("{expected:?}"),
                prefix = "",
                entries,
                "apply request took too long"
            );
        }
    }

    fn publish_view(&self, published: &Published) {
        self.member.view.store(Arc::new(published.view.clone()));
    }

    fn answer(&self, answers: Vec<Answer>) {
        let mut sorted = Answers::new(self.mailboxes.len());
        for Answer { ticket, applied } in answers {
            sorted.add(ticket, Ok(Reply::Applied(applied)));
        }
        sorted.post(&self.mailboxes, &self.member.questions);
    }

    fn sweep(&mut self) {
        // A change can leave two things: the version that it replaces, and itself if it is a deletion.
        let budget = MAINTAIN_KEYS + 2 * std::mem::take(&mut self.todo.changes);
        let swept = self.apply.maintain(budget);
        self.todo.is_sweeping = swept.more;
        if !swept.more || !swept.answers.is_empty() {
            // Files have changed, keys have not: readers get the new view, watchers need not hear of it.
            self.publish_view(&self.apply.published());
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let now_s = now.map_or(0, |now| now.as_secs());
            self.member.metrics.compaction_last.set(now_s);
            self.answer(swept.answers);
        }
    }

    fn offer_work(&mut self) {
        if let Some(job) = self.apply.hash_job() {
            // That thread ends after this one.
            let _ = self.hash.send(job);
        }
        self.offer_store_work();
    }

    /// Gives the store thread its next job: a checkpoint that is due, else a segment worth rewriting.
    fn offer_store_work(&mut self) {
        if self.todo.is_storing {
            return;
        }
        let is_defragmenting = !self.todo.defragmentation.waiting.is_empty();
        let mut job = if self.todo.install_wanted {
            self.todo.install_wanted = false;
            self.apply.install(&mut self.todo.received)
        } else if self.todo.checkpoint_wanted {
            self.todo.checkpoint_wanted = false;
            self.apply.checkpoint()
        } else if self.todo.is_sweeping {
            None
        } else if is_defragmenting
            && !std::mem::replace(&mut self.todo.defragmentation.is_sealed, true)
        {
            self.apply.seal_early();
            self.apply.checkpoint()
        } else {
            self.apply.rewrite(if is_defragmenting {
                DEFRAGMENT_SHARE
            } else {
                REWRITE_SHARE
            })
        };
        if job.is_none()
            && is_defragmenting
            && !self.todo.is_sweeping
            && self.todo.stopping.is_none()
        {
            self.todo.defragmentation.is_rewritten = true;
            job = self.apply.checkpoint();
        }
        if let Some(job) = job {
            self.todo.is_storing = self.store.send(job).is_ok();
        }
    }

    fn is_done_stopping(&mut self) -> bool {
        let is_done =
            self.todo.stopping.is_some() && !self.todo.is_storing && !self.todo.checkpoint_wanted;
        if is_done && let Some(done) = self.todo.stopping.take() {
            let _ = done.try_send(());
        }
        is_done
    }
}

/// The way to one hub.
pub(super) struct HubFeed {
    pub inbox: Arc<Inbox<HubInput>>,
    /// The newest view that found the queue full. Its events are read from the view by then.
    pub missed: Option<ReadView>,
    /// Up to where the hub knows that history is gone.
    pub compacted: i64,
}

impl HubFeed {
    /// The view is further ahead than any events told.
    fn skip_to(&mut self, published: &Published) {
        self.missed = Some(published.view.clone());
        self.feed(published);
    }

    fn feed(&mut self, published: &Published) {
        let compacted = published.view.compact_revision();
        if published.events.is_empty() && self.missed.is_none() && compacted == self.compacted {
            return;
        }
        self.compacted = compacted;
        let events = if self.missed.is_some() {
            Arc::from([])
        } else {
            published.events.clone()
        };
        let input = watch::Input::Published {
            view: published.view.clone(),
            events,
        };
        self.missed = match self.inbox.offer(input) {
            Ok(()) | Err(Refused::Closed) => None,
            Err(Refused::Full) => Some(published.view.clone()),
        };
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::unbounded;
    use futures_util::FutureExt;
    use prost::Message as _;
    use proto::{etcdserverpb as pb, raftpb};

    use replica::Ticket;

    use super::super::tests::{Parts, parts};
    use super::*;

    /// Puts of one key.
    fn puts(after: u64, count: u64) -> ApplyInput {
        let put = pb::PutRequest {
            key: "a".into(),
            ..Default::default()
        };
        let request = pb::InternalRaftRequest {
            put: Some(put),
            ..Default::default()
        };
        let entries = (after + 1..=after + count).map(|index| (entry(index, &request), None));
        ApplyInput::Job(ApplyJob {
            entries: entries.collect(),
            is_brief: false,
        })
    }

    fn entry(index: u64, request: &pb::InternalRaftRequest) -> raftpb::Entry {
        raftpb::Entry {
            term: Some(1),
            index: Some(index),
            data: Some(request.encode_to_vec().into()),
            ..Default::default()
        }
    }

    /// Tidying had its turn only when no batch was there.
    #[test]
    fn a_compaction_ends_under_a_load_that_never_pauses() {
        let Parts { booted, member, .. } = parts();
        let mailbox = Arc::new(Mailbox::default());
        let (hash, hash_jobs) = unbounded();
        let mut applier = Applier {
            apply: booted.apply,
            replica: Arc::default(),
            store: unbounded().0,
            hash,
            hubs: Vec::new(),
            member: member.clone(),
            mailboxes: vec![mailbox.clone()],
            alarm: Alarm {
                faults: unbounded().0,
                stopping: Arc::default(),
            },
            todo: Todo::default(),
        };
        let inbox = Inbox::new(1);
        let mut turn = |input| {
            inbox.push(input);
            applier.turn(&inbox).expect("no fault");
            for job in hash_jobs.try_iter() {
                inbox.push(ApplyInput::Hashed(job.run().expect("no fault")));
            }
            applier.apply.state().applied().0
        };
        let dead = 5 * MAINTAIN_KEYS as u64;
        let mut applied = turn(puts(0, dead));
        let compaction = pb::InternalRaftRequest {
            compaction: Some(pb::CompactionRequest {
                revision: member.view.load().revision(),
                physical: true,
            }),
            ..Default::default()
        };
        let entries = vec![(entry(applied + 1, &compaction), Some(Ticket(0)))];
        let mut next = ApplyInput::Job(ApplyJob {
            entries,
            is_brief: false,
        });
        for number in 1..=5 {
            assert!(mailbox.take().now_or_never().is_none(), "turn {number}");
            applied = turn(next);
            next = puts(applied, 1);
        }
        assert!(mailbox.take().now_or_never().is_some());
    }
}
