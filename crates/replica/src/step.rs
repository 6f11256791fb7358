//! The member as a state machine: inputs and time in, effects out.
//!
//! [`Replica::step`] takes everything that has happened since the last call, lets raft think, and says what to do. It never
//! waits: durable writes, applying and sending are effects whose completion comes back as input. Batching is structure
//! here: whatever has gathered in the inbox becomes one write, one sync and one apply batch.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use proto::error::{self, RpcError};
use proto::{etcdserverpb, raftpb};
use state::Fact;
use storage::fault::{Fault, FaultKind};
use storage::planted;
use storage::wal::Marker;

use crate::brief;
use crate::duties::{self, Duties};
use crate::ids::RequestIds;
use crate::past::{self, Past};
use crate::pending::Pending;
use crate::raft_core::{LogLost, RaftCore, Ready, Standing};
use crate::reads::{Reads, Wanted};
use crate::workers::{ApplyDone, ApplyJob, LogJob};
use crate::{Effect, Input, MemberId, Now, Reply, Request, Ticket, members};

mod doubt;
mod installing;

/// Knobs of one member that its deciding part needs.
#[derive(Clone, Debug)]
pub struct Config {
    pub member: MemberId,
    /// Ticks without a leader before an election; a tick is one heartbeat interval.
    pub election_ticks: u64,
    /// Length of a tick.
    pub tick_us: u64,
    pub pre_vote: bool,
    /// How long a call may wait. etcd: 5 s and two election timeouts.
    pub request_timeout_us: u64,
    /// Log entries kept behind a checkpoint for followers that lag.
    pub log_keep_entries: u64,
    /// The same as a limit of memory, which wins.
    pub log_keep_bytes: u64,
    /// A checkpoint is due after so much time with changes ...
    pub checkpoint_every_us: u64,
    /// ... or so many bytes of applied entries.
    pub checkpoint_bytes: u64,
    pub duties: duties::Config,
    /// Everything random in this member follows from it.
    pub seed: u64,
}

/// Where the member stands; the edge keeps the newest for status calls, metrics and health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub term: u64,
    /// 0 while there is none.
    pub leader: u64,
    pub is_leader: bool,
    pub is_learner: bool,
    pub committed: u64,
    pub applied: u64,
    pub proposals_pending: u64,
    /// Leases that ran out while this member led, and that it therefore proposed to revoke.
    pub leases_expired: u64,
    /// The published view may be read as linearizable without asking: this member leads, it is the only voter, and it has
    /// applied everything that any term before its own committed. Nobody else can commit, and a write is answered only
    /// after the view that holds it is published.
    pub reads_are_local: bool,
}

/// Proposals of this member that may wait at once; more are refused with etcd's "too many requests".
const PENDING_MAX: usize = 20_000;
/// Committed entries that may wait to be applied before proposals are refused. Source: upstream `maxGapBetweenApplyAndCommitIndex`.
const APPLY_GAP_MAX: u64 = 5_000;
/// Messages with proposals of other members that may wait for a leader.
const FORWARDED_MAX: usize = 4_096;
/// Reads that may wait at once.
const READS_MAX: usize = 100_000;
/// Apply jobs in flight: one being applied, one queued behind it so that the worker never idles.
const APPLY_JOBS_MAX: usize = 2;
/// Most entries in one apply job, which bounds how long a published view stays unpublished.
const APPLY_JOB_ENTRIES_MAX: usize = 4_096;
/// Most entries in a job that may be applied on the spot.
const BRIEF_ENTRIES_MAX: usize = 8;

/// How long a member that was removed stays, so that the others learn of it before the one that may be their leader is gone. Source:
/// upstream `stopWithDelay`.
const FAREWELL_US: u64 = 1_000_000;

/// The deciding part of one member.
pub struct Replica {
    config: Config,
    core: RaftCore,
    ids: Arc<RequestIds>,
    pending: Pending,
    reads: Reads,
    duties: Duties,
    /// Proposals that no leader has taken yet.
    stalled: VecDeque<Stalled>,
    /// Set while the log is as at a founding and nobody has said that this member is new; see [`past`].
    newcomer: Option<Newcomer>,
    /// Proposals of other members that came while nobody could take them, with the time until which they may wait.
    forwarded: VecDeque<(Box<raftpb::Message>, u64)>,
    transfer: Option<(Ticket, MemberId, u64)>,
    apply_backlog: VecDeque<raftpb::Entry>,
    apply_jobs: usize,
    persist_jobs: VecDeque<u64>,
    applied: u64,
    revision: i64,
    /// The last index of the log when this member became leader; once applied, all earlier terms are.
    lead_from: u64,
    /// When this member applied its own removal.
    removed_us: Option<u64>,
    checkpoint: CheckpointClock,
    leases_expired: u64,
    /// A snapshot whose rows are on the disk and of which raft does not know yet.
    received: Option<Box<raftpb::Message>>,
    /// Snapshots on their way, by receiver; of several only the end of the last one counts.
    sending: BTreeMap<u64, u32>,
    installing: Option<Installing>,
    status: Status,
    standing: Standing,
    stopped: bool,
}

#[derive(Debug)]
struct Stalled {
    data: Vec<u8>,
    kind: Proposal,
    deadline_us: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proposal {
    Normal,
    Change,
}

/// A snapshot that raft has taken and that is being put in place. Raft stands still meanwhile: its log begins behind entries that
/// the state does not have yet, so it could not even tell whether it may stand for election. It is a matter of one commit.
#[derive(Debug)]
struct Installing {
    position: (u64, u64),
    /// Of the ready that ends it.
    number: u64,
    /// What lets the log begin again, and who is told, once the store is in place.
    job: Option<LogJob>,
}

/// A member that may have lost what it held.
#[derive(Debug, Default)]
struct Newcomer {
    /// When the others were asked last.
    asked_us: Option<u64>,
}

/// How long a question for the past is not repeated.
const ASK_AGAIN_US: u64 = 1_000_000;

/// When the next checkpoint is due.
#[derive(Debug, Default)]
struct CheckpointClock {
    running: bool,
    /// Highest applied index at the last one that was started.
    index: u64,
    started_us: u64,
    bytes: u64,
}

impl Replica {
    pub(crate) fn new(
        config: Config,
        core: RaftCore,
        duties: Duties,
        ids: Arc<RequestIds>,
        applied: u64,
        revision: i64,
        past: Past,
    ) -> Self {
        let standing = core.standing();
        let is_newcomer = core.last_term() <= past::FOUNDING_TERM
            && !standing.is_sole_voter
            && past != Past::Nothing;
        Replica {
            newcomer: is_newcomer.then(Newcomer::default),
            config,
            core,
            ids,
            pending: Pending::default(),
            reads: Reads::default(),
            duties,
            stalled: VecDeque::new(),
            forwarded: VecDeque::new(),
            transfer: None,
            apply_backlog: VecDeque::new(),
            apply_jobs: 0,
            persist_jobs: VecDeque::new(),
            applied,
            revision,
            lead_from: u64::MAX,
            removed_us: None,
            checkpoint: CheckpointClock {
                index: applied,
                ..CheckpointClock::default()
            },
            leases_expired: 0,
            received: None,
            sending: BTreeMap::new(),
            installing: None,
            status: Status::default(),
            standing,
            stopped: false,
        }
    }

    /// A member that is the only voter need not wait for an election timeout to learn that nobody else leads.
    pub(crate) fn campaign_if_alone(&mut self) {
        if self.standing.is_sole_voter {
            self.core.campaign();
        }
    }

    /// Takes what happened, in order, and adds what is to be done to `effects`, in order.
    ///
    /// After an [`Effect::Stop`] the member does nothing more, whatever comes in.
    pub fn step(
        &mut self,
        now: Now,
        inputs: impl IntoIterator<Item = Input>,
        effects: &mut Vec<Effect>,
    ) {
        for input in inputs {
            if self.stopped {
                return;
            }
            self.take(now, input, effects);
        }
        if !self.stopped {
            self.drive(now, effects);
        }
    }

    /// Whether nothing is on its way to the log or to be applied, so that waiting would gather nothing.
    pub fn is_idle(&self) -> bool {
        self.persist_jobs.is_empty() && self.apply_jobs == 0 && self.apply_backlog.is_empty()
    }

    /// Where the member stands after the last step.
    pub fn status(&self) -> Status {
        self.status
    }

    fn take(&mut self, now: Now, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Tick => self.tick(now, effects),
            Input::Client(ticket, request) => self.client(now, ticket, request, effects),
            // Lost on the way, as it were.
            Input::Peer(_) if self.installing.is_some() => {}
            // A snapshot comes with its rows, or not at all.
            Input::Peer(message) if message.r#type() == raftpb::MessageType::MsgSnap => {}
            Input::Peer(message) if self.is_doubtful(&message) => self.ask_past(now, effects),
            Input::Peer(message) if self.must_wait(&message) => self.keep_forwarded(now, message),
            Input::Peer(message) => {
                if let Err(lost) = self.core.receive(&message) {
                    self.log_is_lost(lost, effects);
                }
            }
            Input::PeerUnreachable(peer) => self.core.report_unreachable(peer.0),
            Input::PeerGone(peer) => self.core.report_gone(peer.0),
            Input::Persisted { number } => {
                let had_taken_part = self.has_taken_part();
                self.persisted(number);
                if !had_taken_part && self.has_taken_part() {
                    self.do_duties(now);
                }
            }
            Input::Applied(done) => self.batch_applied(now, done, effects),
            Input::Checkpointed(marker) => self.checkpointed(marker, effects),
            Input::SnapshotSent { to, is_sent } => self.snapshot_sent(to.0, is_sent),
            Input::SnapshotReceived(message) if self.is_doubtful(&message) => {
                self.ask_past(now, effects);
                effects.push(Effect::DropSnapshot);
            }
            Input::SnapshotReceived(message) => {
                // While the log of the one before is being written, the next may have come.
                assert!(
                    self.received.is_none(),
                    "a second snapshot came before the first was done with"
                );
                self.received = Some(message);
            }
            Input::Installed(installed) => self.installed(&installed, effects),
            Input::Past(past) => self.past_is(past, effects),
        }
    }

    fn tick(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self
            .removed_us
            .is_some_and(|removed| now.monotonic_us >= removed + FAREWELL_US)
        {
            self.stopped = true;
            effects.push(Effect::Removed);
            return;
        }
        if self.installing.is_some() {
            return self.expire(now, effects);
        }
        self.core.tick();
        self.follow_leadership(now, effects);
        self.expire(now, effects);
        self.do_duties(now);
        self.start_checkpoint_if_due(now, effects);
    }

    /// Whether an entry of a leader is in the log, for good.
    fn has_taken_part(&self) -> bool {
        self.core.durable_term() > past::FOUNDING_TERM
    }

    fn do_duties(&mut self, now: Now) {
        // Who publishes itself has taken part. That must not be known of it before its disk knows: see [`past`]. Without a leader
        // everything would be asked for in vain, and only asked for again after a time.
        if !self.has_taken_part() || self.standing.leader == 0 {
            return;
        }
        for proposal in self.duties.tick(now, self.revision) {
            self.leases_expired += u64::from(proposal.request.lease_revoke.is_some());
            self.propose_own(proposal);
        }
    }

    fn client(&mut self, now: Now, ticket: Ticket, request: Request, effects: &mut Vec<Effect>) {
        let deadline_us = now.monotonic_us + self.config.request_timeout_us;
        match request {
            Request::Propose { id, data } => {
                self.propose(id, data, Proposal::Normal, ticket, deadline_us, effects);
            }
            Request::ChangeMembers { change } => {
                if members::is_promotion(&change)
                    && let Err(why) = self.check_promotion(change.node_id())
                {
                    effects.push(Effect::Reply(ticket, Err(why)));
                    return;
                }
                let id = change.id();
                self.propose(
                    id,
                    change.encode_to_vec(),
                    Proposal::Change,
                    ticket,
                    deadline_us,
                    effects,
                );
            }
            Request::ReadBarrier => self.read(ticket, Wanted::Barrier, deadline_us, effects),
            Request::LeaseRenew { id } => {
                self.lease(now, ticket, Wanted::LeaseRenew(id), deadline_us, effects)
            }
            Request::LeaseTimeToLive { id } => {
                self.lease(now, ticket, Wanted::LeaseTime(id), deadline_us, effects)
            }
            Request::MoveLeader { target } => {
                self.move_leader(ticket, target, deadline_us, effects)
            }
        }
    }

    /// A learner that lags would be a voter that can't help to commit. Only its leader knows.
    fn check_promotion(&self, learner: u64) -> Result<(), &'static RpcError> {
        if !self.standing.is_leader {
            return Err(match self.standing.leader {
                0 => &error::NO_LEADER,
                _ => &error::NOT_LEADER,
            });
        }
        let (matched, own) = self.core.matched(learner).ok_or(&error::MEMBER_NOT_FOUND)?;
        match members::is_ready(matched, own) || planted!(LaggingLearnerPromoted) {
            true => Ok(()),
            false => Err(&error::LEARNER_NOT_READY),
        }
    }

    fn propose(
        &mut self,
        id: u64,
        data: Vec<u8>,
        kind: Proposal,
        ticket: Ticket,
        deadline_us: u64,
        effects: &mut Vec<Effect>,
    ) {
        let gap = self.standing.committed.saturating_sub(self.applied);
        if gap > APPLY_GAP_MAX || self.pending.len() >= PENDING_MAX {
            effects.push(Effect::Reply(ticket, Err(&error::TOO_MANY_REQUESTS)));
            return;
        }
        self.pending.insert(id, ticket, deadline_us);
        self.offer(Stalled {
            data,
            kind,
            deadline_us,
        });
    }

    /// Whether this is a proposal of another member that raft would drop: whoever sent it takes this member for the leader, which hands over
    /// or has just done so. Its caller would wait for its whole time.
    fn must_wait(&self, message: &raftpb::Message) -> bool {
        message.r#type() == raftpb::MessageType::MsgProp
            && (!self.core.has_leader() || self.core.is_transferring())
    }

    /// Beyond the bound proposals are lost, as on the way.
    fn keep_forwarded(&mut self, now: Now, message: Box<raftpb::Message>) {
        if self.forwarded.len() < FORWARDED_MAX {
            let deadline_us = now.monotonic_us + self.config.request_timeout_us;
            self.forwarded.push_back((message, deadline_us));
        }
    }

    /// Gives a proposal to raft, or keeps it until there is a leader. Earlier ones that wait go first.
    fn offer(&mut self, proposal: Stalled) {
        let is_still =
            self.installing.is_some() || !self.core.has_leader() || self.core.is_transferring();
        if !self.stalled.is_empty() || is_still {
            self.stalled.push_back(proposal);
            return;
        }
        self.hand_to_raft(proposal);
    }

    fn hand_to_raft(&mut self, proposal: Stalled) {
        let Stalled { data, kind, .. } = proposal;
        // One that raft drops here, because the leader has just gone, times out for its caller, as in etcd.
        let _ = match kind {
            Proposal::Normal => self.core.propose(data),
            Proposal::Change => self.core.propose_change(data),
        };
    }

    /// Proposes a duty's request. Nobody waits for it. What only a leader may ask for is dropped unless this member can
    /// put it into its own log at once: it must not travel to a successor (etcd #12528, #15247).
    fn propose_own(&mut self, proposal: duties::Proposal) {
        let may = if proposal.leader_only && !planted!(OldLeaderRevokesLeases) {
            self.standing.is_leader
        } else {
            self.standing.leader != 0
        };
        if !may {
            return;
        }
        let id = self.ids.next();
        let mut request = proposal.request;
        let header = request.header.take().unwrap_or_default();
        request.header = Some(etcdserverpb::RequestHeader { id, ..header });
        self.hand_to_raft(Stalled {
            data: request.encode_to_vec(),
            kind: Proposal::Normal,
            deadline_us: 0,
        });
    }

    fn read(
        &mut self,
        ticket: Ticket,
        wanted: Wanted,
        deadline_us: u64,
        effects: &mut Vec<Effect>,
    ) {
        if self.reads.len() >= READS_MAX {
            effects.push(Effect::Reply(ticket, Err(&error::TOO_MANY_REQUESTS)));
            return;
        }
        self.reads.add(ticket, wanted, deadline_us);
    }

    /// Lease clocks are the leader's; a leader must know that it still is one before it answers from them.
    fn lease(
        &mut self,
        now: Now,
        ticket: Ticket,
        wanted: Wanted,
        deadline_us: u64,
        effects: &mut Vec<Effect>,
    ) {
        if !self.standing.is_leader {
            let refusal = if self.standing.leader == 0 {
                &error::NO_LEADER
            } else {
                &error::NOT_LEADER
            };
            effects.push(Effect::Reply(ticket, Err(refusal)));
            return;
        }
        if planted!(KeepAliveUnconfirmed) {
            effects.push(Effect::Reply(ticket, self.answer_read(now, wanted)));
            return;
        }
        self.read(ticket, wanted, deadline_us, effects);
    }

    fn move_leader(
        &mut self,
        ticket: Ticket,
        target: MemberId,
        deadline_us: u64,
        effects: &mut Vec<Effect>,
    ) {
        if !self.standing.is_leader {
            effects.push(Effect::Reply(ticket, Err(&error::NOT_LEADER)));
        } else if target == self.config.member {
            effects.push(Effect::Reply(ticket, Ok(Reply::LeaderMoved)));
        } else if self.transfer.is_some() {
            effects.push(Effect::Reply(ticket, Err(&error::TOO_MANY_REQUESTS)));
        } else {
            self.core.transfer_leader(target.0);
            self.transfer = Some((ticket, target, deadline_us));
        }
    }

    fn persisted(&mut self, number: u64) {
        while self.persist_jobs.front().is_some_and(|n| *n <= number) {
            self.persist_jobs.pop_front();
        }
        self.core.persisted(number);
        self.finish_install(number);
    }

    fn batch_applied(&mut self, now: Now, done: ApplyDone, effects: &mut Vec<Effect>) {
        assert!(
            (1..=self.apply_jobs).contains(&done.jobs),
            "a batch of {} jobs came back, {} were sent",
            done.jobs,
            self.apply_jobs
        );
        assert!(
            done.index > self.applied,
            "applied index went from {} to {}",
            self.applied,
            done.index
        );
        self.apply_jobs -= done.jobs;
        self.applied = done.index;
        self.revision = done.revision;
        self.checkpoint.bytes += done.bytes;
        let is_change = |fact: &Fact| matches!(fact, Fact::ConfChanged { .. });
        if done.facts.iter().any(is_change) {
            effects.push(Effect::MembersChanged);
        }
        for fact in &done.facts {
            if let Fact::ConfChanged { change, .. } = fact
                && let Err(why) = self.core.apply_change(change)
            {
                let message = format!(
                    "raft can't take the committed membership change {change:?} ({why}); this member no longer agrees \
                         with its cluster. Remove it and add it again."
                );
                self.stop(Fault::new(FaultKind::Corrupted, message), effects);
                return;
            }
            if matches!(fact, Fact::MemberRemoved { id } if *id == self.config.member.0) {
                self.removed_us = Some(now.monotonic_us);
            }
            self.duties.observe(now, fact);
        }
        self.core.applied(done.index, done.term);
        // The last configuration entry of a new member's own log may just have made it the only voter.
        let standing = self.core.standing();
        if standing.is_sole_voter && standing.leader == 0 {
            self.core.campaign();
        }
    }

    fn checkpointed(&mut self, marker: Marker, effects: &mut Vec<Effect>) {
        self.checkpoint.running = false;
        let keep_from = marker.index.saturating_sub(self.config.log_keep_entries);
        self.core
            .cut_log(keep_from, marker.index, self.config.log_keep_bytes);
        let release = self.core.first_index().saturating_sub(1).min(marker.index);
        effects.push(Effect::Persist(LogJob {
            release: Some(Box::new((marker, release))),
            ..LogJob::default()
        }));
    }

    fn start_checkpoint_if_due(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let clock = &mut self.checkpoint;
        let elapsed = now.monotonic_us.saturating_sub(clock.started_us);
        let due = elapsed >= self.config.checkpoint_every_us
            || clock.bytes >= self.config.checkpoint_bytes;
        if clock.running || clock.index == self.applied || !due || self.installing.is_some() {
            return;
        }
        *clock = CheckpointClock {
            running: true,
            index: self.applied,
            started_us: now.monotonic_us,
            bytes: 0,
        };
        effects.push(Effect::Checkpoint);
    }

    fn expire(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let why = self.timeout_error();
        for ticket in self.pending.expire(now) {
            effects.push(Effect::Reply(ticket, Err(why)));
        }
        for ticket in self.reads.expire(now) {
            effects.push(Effect::Reply(ticket, Err(&error::TIMEOUT)));
        }
        self.stalled.retain(|p| p.deadline_us > now.monotonic_us);
        self.forwarded
            .retain(|(_, deadline_us)| *deadline_us > now.monotonic_us);
        if self
            .transfer
            .is_some_and(|(_, _, deadline)| deadline <= now.monotonic_us)
        {
            let (ticket, ..) = self.transfer.take().expect("a transfer was just seen");
            effects.push(Effect::Reply(ticket, Err(&error::TIMEOUT_LEADER_TRANSFER)));
        }
    }

    fn timeout_error(&self) -> &'static RpcError {
        if self.standing.leader == 0 {
            &error::TIMEOUT_DUE_TO_LEADER_FAIL
        } else {
            &error::TIMEOUT
        }
    }

    /// Lets raft turn what came in into work, and passes everything on that has become possible.
    fn drive(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.installing.is_some() {
            return self.report_status(effects);
        }
        self.offer_snapshot(effects);
        self.follow_leadership(now, effects);
        if self.reads.wants_round(now) {
            let context = self.reads.start_round(now, self.ids.next());
            self.core.read_index(context);
        }
        while self.installing.is_none()
            && let Some(ready) = self.core.ready()
        {
            self.perform(ready, effects);
        }
        self.follow_leadership(now, effects);
        self.send_apply_jobs(effects);
        self.answer_reads(now, effects);
        self.report_status(effects);
    }

    fn perform(&mut self, mut ready: Ready, effects: &mut Vec<Effect>) {
        for message in std::mem::take(&mut ready.messages) {
            if message.r#type() == raftpb::MessageType::MsgSnap {
                *self.sending.entry(message.to()).or_default() += 1;
            }
            effects.push(send(message));
        }
        for (context, index) in std::mem::take(&mut ready.reads) {
            self.reads.confirm(&context, index);
        }
        if let Some(snapshot) = ready.snapshot.take() {
            return self.install(ready, snapshot, effects);
        }
        self.apply_backlog.extend(ready.committed);
        let nothing_to_write = ready.entries.is_empty() && ready.hard_state.is_none();
        if nothing_to_write && self.persist_jobs.is_empty() {
            self.core.persisted(ready.number);
            for message in ready.messages_durable {
                effects.push(send(message));
            }
            return;
        }
        self.persist_jobs.push_back(ready.number);
        let (mut messages, mut early) = (ready.messages_durable, Vec::new());
        if planted!(PromiseBeforeSync) {
            std::mem::swap(&mut messages, &mut early);
        }
        effects.push(Effect::Persist(LogJob {
            number: ready.number,
            entries: ready.entries,
            hard_state: ready.hard_state,
            must_sync: ready.must_sync,
            messages,
            ..LogJob::default()
        }));
        for message in early {
            effects.push(send(message));
        }
        if planted!(AnswerBeforeSync) {
            self.core.persisted(ready.number);
        }
    }

    fn follow_leadership(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let before = std::mem::replace(&mut self.standing, self.core.standing());
        let after = self.standing;
        if (before.leader, before.term) != (after.leader, after.term) && before.leader != 0 {
            for ticket in self.reads.leader_changed() {
                effects.push(Effect::Reply(ticket, Err(&error::LEADER_CHANGED)));
            }
        }
        if before.is_leader != after.is_leader {
            self.lead_from = if after.is_leader {
                after.last
            } else {
                u64::MAX
            };
            self.duties.leadership(now, after.is_leader);
            if after.is_leader {
                self.do_duties(now);
            }
        }
        // While the leadership is handed over, proposals wait for whoever has it then: raft would drop them.
        if after.leader != 0 && !self.core.is_transferring() {
            for proposal in std::mem::take(&mut self.stalled) {
                self.hand_to_raft(proposal);
            }
            for (message, _) in std::mem::take(&mut self.forwarded) {
                let taken = self.core.receive(&message);
                assert_eq!(
                    taken,
                    Ok(()),
                    "a proposal speaks of nothing that was promised"
                );
            }
        }
        if let Some((ticket, target, _)) = self.transfer
            && after.leader == target.0
        {
            self.transfer = None;
            effects.push(Effect::Reply(ticket, Ok(Reply::LeaderMoved)));
        }
    }

    fn send_apply_jobs(&mut self, effects: &mut Vec<Effect>) {
        while self.apply_jobs < APPLY_JOBS_MAX && !self.apply_backlog.is_empty() {
            let count = self.apply_backlog.len().min(APPLY_JOB_ENTRIES_MAX);
            let entries: Vec<_> = self
                .apply_backlog
                .drain(..count)
                .map(|entry| {
                    let ticket = request_id(&entry).and_then(|id| self.pending.take(id));
                    (entry, ticket)
                })
                .collect();
            self.apply_jobs += 1;
            let is_brief = self.apply_jobs == 1
                && entries.len() <= BRIEF_ENTRIES_MAX
                && entries.iter().all(|(entry, _)| brief::is_brief(entry));
            effects.push(Effect::Apply(ApplyJob { entries, is_brief }));
        }
    }

    fn answer_reads(&mut self, now: Now, effects: &mut Vec<Effect>) {
        for (ticket, wanted) in self.reads.take_ready(self.applied) {
            effects.push(Effect::Reply(ticket, self.answer_read(now, wanted)));
        }
    }

    /// The clocks of leases stand still while another member leads. A member that lost the leadership while the question
    /// waited must not answer from them: "no such lease" would make a client give up a lease that lives.
    fn answer_read(&mut self, now: Now, wanted: Wanted) -> Result<Reply, &'static RpcError> {
        match wanted {
            Wanted::Barrier => Ok(Reply::ReadReady),
            _ if !self.standing.is_leader => Err(&error::NOT_PRIMARY),
            Wanted::LeaseRenew(id) => Ok(Reply::LeaseRenewed {
                ttl_s: self.duties.lease_renew(now, id),
            }),
            Wanted::LeaseTime(id) => Ok(Reply::LeaseTime {
                time: self.duties.lease_time(now, id),
            }),
        }
    }

    fn report_status(&mut self, effects: &mut Vec<Effect>) {
        let standing = self.core.standing();
        let status = Status {
            term: standing.term,
            leader: standing.leader,
            is_leader: standing.is_leader,
            is_learner: standing.is_learner,
            committed: standing.committed,
            applied: self.applied,
            proposals_pending: self.pending.len() as u64,
            leases_expired: self.leases_expired,
            reads_are_local: standing.is_leader
                && standing.is_sole_voter
                && self.applied >= self.lead_from,
        };
        if status != self.status {
            self.status = status;
            effects.push(Effect::Status(status));
        }
    }

    /// Going on could mean to vote a second time in a term, or for somebody who lacks what this member helped to commit.
    fn log_is_lost(&mut self, lost: LogLost, effects: &mut Vec<Effect>) {
        let LogLost { promised, last } = lost;
        let message = format!(
            "this member ({:x}) has told the cluster that it holds the log up to entry {promised}, but its log ends at entry {last}: its \
             data directory was emptied, replaced or set back. Remove the member from the cluster (member remove), empty its data \
             directory, and add it again (member add) with --initial-cluster-state=existing.",
            self.config.member.0
        );
        self.stop(Fault::new(FaultKind::Gap, message), effects);
    }

    fn stop(&mut self, fault: Fault, effects: &mut Vec<Effect>) {
        self.stopped = true;
        effects.push(Effect::Stop(fault));
    }
}

fn send(message: raftpb::Message) -> Effect {
    let to = MemberId(message.to());
    if message.r#type() == raftpb::MessageType::MsgSnap {
        return Effect::SendSnapshot(to, Box::new(message));
    }
    Effect::Send(to, Box::new(message))
}

/// The id by which the proposer of an entry recognises it, read without decoding the request itself.
pub(crate) fn request_id(entry: &raftpb::Entry) -> Option<u64> {
    let data = entry.data.as_ref()?;
    match entry.r#type() {
        raftpb::EntryType::EntryNormal => header_id(data.clone()),
        raftpb::EntryType::EntryConfChange => raftpb::ConfChange::decode(data.clone()).ok()?.id,
        raftpb::EntryType::EntryConfChangeV2 => None,
    }
}

/// `InternalRaftRequest.header.ID`; the header is field 100.
fn header_id(mut data: Bytes) -> Option<u64> {
    const HEADER: u32 = 100;
    use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
    while !data.is_empty() {
        let (tag, wire_type) = decode_key(&mut data).ok()?;
        if tag == HEADER && wire_type == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut data).ok()?).ok()?;
            if length > data.len() {
                return None;
            }
            return etcdserverpb::RequestHeader::decode(data.split_to(length))
                .ok()
                .map(|h| h.id);
        }
        skip_field(wire_type, tag, &mut data, DecodeContext::default()).ok()?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_found_without_decoding_the_request() {
        let request = etcdserverpb::InternalRaftRequest {
            header: Some(etcdserverpb::RequestHeader {
                id: 77,
                ..Default::default()
            }),
            put: Some(etcdserverpb::PutRequest {
                key: "k".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let entry = raftpb::Entry {
            data: Some(request.encode_to_vec().into()),
            ..Default::default()
        };
        assert_eq!(request_id(&entry), Some(77));
    }

    #[test]
    fn bytes_that_are_no_request_have_no_id() {
        for bytes in [&b"\xff\xff\xff"[..], b"\xa2\x06\x7f", b""] {
            assert_eq!(header_id(Bytes::from_static(bytes)), None);
        }
    }
}
