//! The deciding part of a member and whose thread runs it.
//!
//! It has a thread of its own, which runs it whenever its inbox has something. But waking a sleeping thread can cost as much as
//! a sync of the log, and a lone put would pay it at every station of its way. So whoever brings an input to a [`Desk`] at which nothing
//! waits runs the step itself, there and then: a connection thread proposes, and the log thread, back from its sync, lets
//! the entry be applied and answered. Under load something always waits, the inbox takes over, and steps are as large as ever.
//!
//! The rule that keeps the order: an input is taken directly only while the lock is held *and* the inbox is empty, and the owning
//! thread empties the inbox only while it holds the lock. So no input overtakes another, and effects leave in the order of
//! the steps that had them, because they leave under the lock too.

use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use proto::error::{self, RpcError};
use replica::past::Past;
use replica::{Effect, Input, Replica, Ticket};
use storage::fault::{Fault, FaultKind};

use super::apply::{ApplyDesk, ApplyInput};
use super::{Alarm, INBOX_MAX, LogInput, now_since};
use crate::calls::{self, Mailbox, shard_of};
use crate::inbox::{Inbox, Refused};
use crate::member::Member;

/// Inputs taken at once, which bounds how long the first of them waits for the step.
const DRAIN_MAX: usize = 4_096;

/// Where inputs for the replica are handed in.
pub struct Desk {
    inbox: Inbox<Input>,
    /// Empty before the threads start and after they have ended. Held while a step runs and its effects leave; what leaves
    /// goes into channels that never block, or to the apply worker if that is free at once.
    decider: Mutex<Option<Decider>>,
}

impl Default for Desk {
    fn default() -> Self {
        Desk {
            inbox: Inbox::new(INBOX_MAX),
            decider: Mutex::new(None),
        }
    }
}

impl Desk {
    /// Hands in what a client asks. If the member has nothing else under way, the step has been run when this returns.
    ///
    /// # Errors
    /// Too many inputs wait, or the member has stopped.
    pub fn offer(&self, input: Input) -> Result<(), &'static RpcError> {
        let Some(input) = self.run_here(input, |decider| decider.replica.is_idle()) else {
            return Ok(());
        };
        self.inbox.offer(input).map_err(|why| match why {
            Refused::Full => &error::TOO_MANY_REQUESTS,
            Refused::Closed => &error::STOPPED,
        })
    }

    /// Hands in what a worker has completed. Never refused: there are no more of these than jobs in flight.
    pub(super) fn report(&self, input: Input) {
        if let Some(input) = self.run_here(input, |_| true) {
            self.inbox.push(input);
        }
    }

    /// The same without running the step here, for a worker that has better things to do.
    pub(super) fn leave(&self, input: Input) {
        self.inbox.push(input);
    }

    /// Runs the step on this thread, unless something waits, somebody else is at it, or `may` says no. Gives the input back then.
    fn run_here(&self, input: Input, may: impl FnOnce(&Decider) -> bool) -> Option<Input> {
        let mut decider = match self.decider.try_lock() {
            Ok(decider) => decider,
            Err(TryLockError::WouldBlock) => return Some(input),
            Err(TryLockError::Poisoned(_)) => panic!("a thread panicked in the middle of a step"),
        };
        match decider.as_mut() {
            Some(decider)
                if self.inbox.is_empty() && !decider.alarm.is_stopping() && may(decider) =>
            {
                decider.turn([input]);
                None
            }
            _ => Some(input),
        }
    }

    /// Seats the deciding part. From now on inputs lead to effects.
    pub(super) fn seat(&self, decider: Decider) {
        *self.lock() = Some(decider);
    }

    /// Runs steps for what gathers in the inbox, and the ticks, until the member stops.
    pub(super) fn run(&self, tick: Duration, alarm: &Alarm) {
        let mut next_tick = Instant::now() + tick;
        let mut inputs = Vec::new();
        // The first step lets a member that is alone elect itself without waiting for anything.
        self.turn(&mut inputs);
        while !alarm.is_stopping() {
            // Taking the input here already, without the lock, would let another overtake it.
            self.inbox.wait(Some(next_tick));
            if Instant::now() >= next_tick {
                inputs.push(Input::Tick);
                // A process that was paused does not make up for missed ticks.
                next_tick = Instant::now() + tick;
            }
            self.turn(&mut inputs);
        }
        // What the deciding part holds of the member goes with it, and the member holds this desk.
        *self.lock() = None;
        self.inbox.close();
    }

    fn turn(&self, inputs: &mut Vec<Input>) {
        let mut decider = self.lock();
        self.inbox.take(DRAIN_MAX, inputs);
        if let Some(decider) = decider.as_mut() {
            decider.turn(inputs.drain(..));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Decider>> {
        self.decider
            .lock()
            .expect("no thread panics in the middle of a step")
    }
}

/// The replica and the ways that its effects take.
pub(super) struct Decider {
    pub replica: Replica,
    pub log: Arc<Inbox<LogInput>>,
    pub apply: Arc<ApplyDesk>,
    pub member: Arc<Member>,
    pub mailboxes: Vec<Arc<Mailbox>>,
    pub alarm: Alarm,
    pub clock: Instant,
    pub effects: Vec<Effect>,
}

impl Decider {
    /// One step, what follows from it, and a further step for each batch that was applied on the way.
    fn turn(&mut self, inputs: impl IntoIterator<Item = Input>) {
        self.replica
            .step(now_since(self.clock), inputs, &mut self.effects);
        let mut applied = self.perform_all();
        while !applied.is_empty() {
            self.replica
                .step(now_since(self.clock), applied, &mut self.effects);
            applied = self.perform_all();
        }
    }

    /// Carries out the effects. Returns what the apply worker did at once.
    fn perform_all(&mut self) -> Vec<Input> {
        let mut answers = Answers::new(self.mailboxes.len());
        let mut applied = Vec::new();
        for effect in self.effects.drain(..) {
            match effect {
                // A worker ends only when the member does, and then nobody waits.
                Effect::Persist(job) => self.log.push(LogInput::Job(job)),
                Effect::Apply(job) => applied.extend(self.apply.give(job).map(Input::Applied)),
                Effect::Checkpoint => self.apply.tell(ApplyInput::Checkpoint),
                Effect::Reply(ticket, answer) => answers.add(ticket, answer),
                Effect::Status(status) => self.member.raft.set(status),
                // Members speak to each other from the next version on; a single one has nobody to tell.
                Effect::Send(peer, _) => {
                    tracing::debug!(peer = format!("{:x}", peer.0), "no way to this peer")
                }
                Effect::SendSnapshot(to, _) => {
                    applied.push(Input::SnapshotSent { to, is_sent: false })
                }
                Effect::InstallSnapshot => self.apply.tell(ApplyInput::Install),
                Effect::DropSnapshot => self.apply.tell(ApplyInput::DropReceived),
                Effect::MembersChanged => {}
                Effect::AskPast => applied.push(Input::Past(Past::Unknown)),
                Effect::Removed => self.alarm.raise(Fault::new(
                    FaultKind::Identity,
                    "the member has been permanently removed from the cluster; empty its data directory.",
                )),
                Effect::Stop(fault) => self.alarm.raise(fault),
            }
        }
        answers.post(&self.mailboxes);
        applied
    }
}

/// Answers on their way to the threads of their calls, one delivery per thread.
pub(super) struct Answers(Vec<Vec<(Ticket, calls::Answer)>>);

impl Answers {
    pub fn new(shards: usize) -> Self {
        Answers((0..shards).map(|_| Vec::new()).collect())
    }

    pub fn add(&mut self, ticket: Ticket, answer: calls::Answer) {
        self.0[shard_of(ticket)].push((ticket, answer));
    }

    pub fn post(self, mailboxes: &[Arc<Mailbox>]) {
        for (answers, mailbox) in self.0.into_iter().zip(mailboxes) {
            if !answers.is_empty() {
                mailbox.post(answers);
            }
        }
    }
}
