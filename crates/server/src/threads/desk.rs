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

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use proto::error::{self, RpcError};
use replica::{Effect, Input, MemberId, Replica, Ticket};

use super::apply::{ApplyDesk, ApplyInput};
use super::{Alarm, DRAIN_MAX, INBOX_MAX, LogInput, now_since};
use crate::calls::{self, Mailbox, shard_of};
use crate::inbox::{Inbox, Refused};
use crate::member::Member;
use crate::peer::codec;
use crate::questions::{self, Questions};

/// Bytes of peers' messages that may wait. More are dropped, which raft survives.
const PEER_BYTES_MAX: usize = 64 << 20;

/// Where inputs for the replica are handed in.
pub struct Desk {
    inbox: Inbox<Input>,
    /// How many bytes of messages wait in the inbox, or are about to.
    peer_bytes: AtomicUsize,
    /// Empty before the threads start and after they have ended. Held while a step runs and its effects leave; what leaves
    /// goes into channels that never block, or to the apply worker if that is free at once.
    decider: Mutex<Option<Decider>>,
}

impl Default for Desk {
    fn default() -> Self {
        Desk {
            inbox: Inbox::new(INBOX_MAX),
            peer_bytes: AtomicUsize::new(0),
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
        let Some([input]) = self.run_here([input], |decider| decider.replica.is_idle()) else {
            return Ok(());
        };
        self.inbox.offer(input).map_err(|why| match why {
            Refused::Full => &error::TOO_MANY_REQUESTS,
            Refused::Closed => &error::STOPPED,
        })
    }

    /// Hands in what a worker has completed. Never refused: there are no more of these than jobs in flight.
    pub(super) fn report(&self, input: Input) {
        if let Some([input]) = self.run_here([input], |_| true) {
            self.inbox.push(input);
        }
    }

    /// The same without running the step here, for a worker that has better things to do.
    pub fn leave(&self, input: Input) {
        self.inbox.push(input);
    }

    /// Hands in what a peer has sent. If nothing waits the step has been run when this returns. How many messages were dropped
    /// because too much waits.
    pub fn deliver(&self, inputs: Vec<Input>) -> usize {
        let Some(inputs) = self.run_here(inputs, |_| true) else {
            return 0;
        };
        let mut dropped = 0;
        for input in inputs {
            let weight = weight_of(&input);
            let waiting = self.peer_bytes.fetch_add(weight, Ordering::Relaxed);
            if waiting > PEER_BYTES_MAX || self.inbox.offer(input).is_err() {
                self.peer_bytes.fetch_sub(weight, Ordering::Relaxed);
                dropped += 1;
            }
        }
        dropped
    }

    /// Runs the step on this thread, unless something waits, somebody else is at it, or `may` says no. Gives the inputs back then.
    fn run_here<I: IntoIterator<Item = Input>>(
        &self,
        inputs: I,
        may: impl FnOnce(&Decider) -> bool,
    ) -> Option<I> {
        let mut decider = match self.decider.try_lock() {
            Ok(decider) => decider,
            Err(TryLockError::WouldBlock) => return Some(inputs),
            Err(TryLockError::Poisoned(_)) => panic!("a thread panicked in the middle of a step"),
        };
        match decider.as_mut() {
            Some(decider)
                if self.inbox.is_empty() && !decider.alarm.is_stopping() && may(decider) =>
            {
                decider.turn(inputs);
                None
            }
            _ => Some(inputs),
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
        let taken = inputs.iter().map(weight_of).sum();
        self.peer_bytes.fetch_sub(taken, Ordering::Relaxed);
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

/// What an input counts of [`PEER_BYTES_MAX`].
fn weight_of(input: &Input) -> usize {
    match input {
        Input::Peer(message) => codec::weight(message),
        _ => 0,
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

    /// Carries out the effects. Returns what has come of them at once.
    fn perform_all(&mut self) -> Vec<Input> {
        let mut answers = Answers::new(self.mailboxes.len());
        let (mut applied, mut messages) = (Vec::new(), Vec::new());
        let links = &self.member.links;
        for effect in self.effects.drain(..) {
            match effect {
                // A worker ends only when the member does, and then nobody waits.
                Effect::Persist(job) => self.log.push(LogInput::Job(job)),
                Effect::Apply(job) => applied.extend(self.apply.give(job).map(Input::Applied)),
                Effect::Checkpoint => self.apply.tell(ApplyInput::Checkpoint),
                Effect::Reply(ticket, answer) => answers.add(ticket, answer),
                Effect::Status(status) => self.member.raft.set(status),
                Effect::Send(_, message) => messages.push(*message),
                Effect::SendSnapshot(to, message) => {
                    if !links.send_snapshot(to.0, message) {
                        applied.push(Input::SnapshotSent { to, is_sent: false });
                    }
                }
                Effect::InstallSnapshot => self.apply.tell(ApplyInput::Install),
                Effect::DropSnapshot => self.apply.tell(ApplyInput::DropReceived),
                Effect::MembersChanged => links.members_changed(),
                Effect::AskPast => self.member.past_wanted.notify_one(),
                Effect::Removed => self.member.was_removed(),
                Effect::Stop(fault) => self.alarm.raise(fault),
            }
        }
        if !messages.is_empty() {
            let lost = links.send(messages).into_iter().map(MemberId);
            applied.extend(lost.map(Input::PeerUnreachable));
        }
        answers.post(&self.mailboxes, &self.member.questions);
        applied
    }
}

/// Answers on their way to those who asked, one delivery per thread.
pub(super) struct Answers {
    /// By connection thread.
    shards: Vec<Vec<(Ticket, calls::Answer)>>,
    others: Vec<(Ticket, calls::Answer)>,
}

impl Answers {
    pub fn new(shards: usize) -> Self {
        Answers {
            shards: (0..shards).map(|_| Vec::new()).collect(),
            others: Vec::new(),
        }
    }

    pub fn add(&mut self, ticket: Ticket, answer: calls::Answer) {
        match shard_of(ticket) {
            questions::SHARD => self.others.push((ticket, answer)),
            shard => self.shards[shard].push((ticket, answer)),
        }
    }

    pub fn post(self, mailboxes: &[Arc<Mailbox>], questions: &Questions) {
        for (answers, mailbox) in self.shards.into_iter().zip(mailboxes) {
            if !answers.is_empty() {
                mailbox.post(answers);
            }
        }
        for (ticket, answer) in self.others {
            questions.deliver(ticket, answer);
        }
    }
}
