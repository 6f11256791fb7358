//! The consensus algorithm behind one door: raft-rs inside, etcd's own raft types outside.
//!
//! Two gaps of the library are closed here. Its election timeouts come from the thread's random generator, which no seed
//! can replay, so every draw is replaced by one of ours. Its numbers for configuration changes differ from etcd's
//! (`AddLearnerNode` is 2 there and 3 here, `UpdateNode` is unknown there), so changes go through it as bytes in a shell
//! and are translated when applied. Its additions to the wire (priority, snapshot requests) are never used: they collide with
//! fields that etcd gave another meaning.
//!
//! Another implementation may replace the library without touching any other module.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use proto::raftpb;
use raft::eraftpb;
use raft::{ProgressState, RawNode, ReadOnlyOption, SnapshotStatus, StateRole};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use storage::planted;

use crate::raft_log::RaftLog;

/// What the core is told once.
#[derive(Clone, Debug)]
pub(crate) struct CoreConfig {
    pub id: u64,
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    pub pre_vote: bool,
    /// Index and term of the last entry that the state had applied when this member started.
    pub applied: (u64, u64),
    pub seed: u64,
}

/// What the core wants done now. Everything in it belongs together.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    pub number: u64,
    pub must_sync: bool,
    pub entries: Vec<raftpb::Entry>,
    pub hard_state: Option<raftpb::HardState>,
    pub committed: Vec<raftpb::Entry>,
    /// May leave at once: a leader replicates while its own disk writes (raft thesis 10.2.1).
    pub messages: Vec<raftpb::Message>,
    /// May leave only when everything up to `number` is durable.
    pub messages_durable: Vec<raftpb::Message>,
    /// Read rounds that came back: context and the index to wait for.
    pub reads: Vec<(Bytes, u64)>,
    /// The log begins again behind the received snapshot of this index, term and configuration. There are no entries and
    /// nothing committed beside it.
    pub snapshot: Option<(u64, u64, raftpb::ConfState)>,
}

/// A leader tells a member, with a heartbeat, only of what that member has promised to hold. This one does not hold it: its disk has
/// lost something, or it is another, empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogLost {
    /// What the leader knows this member to have had.
    pub promised: u64,
    /// What it has.
    pub last: u64,
}

/// Where the core stands, for status and duties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub term: u64,
    pub leader: u64,
    pub is_leader: bool,
    pub committed: u64,
    pub last: u64,
    pub is_learner: bool,
    /// This member is the only voter, so nobody else can commit anything.
    pub is_sole_voter: bool,
}

/// Bytes of entries in one message; a larger entry goes alone.
const MESSAGE_BYTES_MAX: u64 = 512 << 10;
/// Messages with entries that a follower may have unanswered. When the window is full, entries gather and the next messages are fuller,
/// so both limits together are one of bytes (64 MiB for each follower), and a follower that is far away needs no more. etcd: 512 of 1 MiB.
const INFLIGHT_MAX: usize = 128;
/// How many times as much log is kept while a snapshot is on its way.
const SNAPSHOT_PATIENCE: u64 = 8;

pub(crate) struct RaftCore {
    node: RawNode<RaftLog>,
    seed: u64,
    election_ticks: usize,
    drawn_for: Option<(u64, u64)>,
    timeout_drawn: usize,
    /// Followers that were sent a snapshot and have not caught up since.
    recovering: BTreeSet<u64>,
    /// Questions for the read index, of this leader and of followers, that came before it had committed in its term. The library drops
    /// them, and who asked would ask again after half a second; etcd keeps them too.
    early_reads: Vec<eraftpb::Message>,
}

/// Questions that are kept; more are dropped, and asked again.
const EARLY_READS_MAX: usize = 1_024;

impl RaftCore {
    pub fn new(config: &CoreConfig, log: RaftLog) -> Result<Self, raft::Error> {
        let library = raft::Config {
            id: config.id,
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            applied: config.applied.0,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: INFLIGHT_MAX,
            check_quorum: true,
            pre_vote: config.pre_vote,
            max_committed_size_per_ready: 16 << 20,
            read_only_option: match planted!(StaleReadAfterPause) {
                true => ReadOnlyOption::LeaseBased,
                // A lease is counted in ticks, and a member that stood still has missed them.
                false => ReadOnlyOption::Safe,
            },
            ..raft::Config::default()
        };
        let silent = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&library, log, &silent)?;
        let mut core = RaftCore {
            node,
            seed: config.seed,
            election_ticks: config.election_ticks,
            drawn_for: None,
            timeout_drawn: 0,
            recovering: BTreeSet::new(),
            early_reads: Vec::new(),
        };
        let (index, term) = config.applied;
        core.node.mut_store().set_applied(index, term);
        core.redraw_timeout();
        Ok(core)
    }

    pub fn tick(&mut self) {
        self.node.tick();
        self.redraw_timeout();
    }

    /// Starts an election without waiting for a timeout.
    pub fn campaign(&mut self) {
        // A member that may not be elected (a learner, or with changes still to apply) stays what it is.
        let _ = self.node.campaign();
        self.redraw_timeout();
    }

    /// False when there is no leader to take it or the leader is busy handing over.
    pub fn propose(&mut self, data: Vec<u8>) -> bool {
        self.node.propose(Vec::new(), data).is_ok()
    }

    /// Proposes a membership change in etcd's encoding.
    pub fn propose_change(&mut self, data: Vec<u8>) -> bool {
        let mut entry = eraftpb::Entry::default();
        entry.set_entry_type(eraftpb::EntryType::EntryConfChange);
        entry.data = wrap_change(data.into());
        let mut message = eraftpb::Message::default();
        message.set_msg_type(eraftpb::MessageType::MsgPropose);
        message.from = self.node.raft.id;
        message.entries = vec![entry].into();
        self.node.raft.step(message).is_ok()
    }

    pub fn read_index(&mut self, context: Vec<u8>) {
        let mut message = eraftpb::Message::default();
        message.set_msg_type(eraftpb::MessageType::MsgReadIndex);
        message.entries = vec![eraftpb::Entry {
            data: context.into(),
            ..Default::default()
        }]
        .into();
        self.step(message);
    }

    /// Refused messages (unknown sender, stale term) are part of the protocol; there is nobody to tell.
    fn step(&mut self, message: eraftpb::Message) {
        let raft = &self.node.raft;
        let is_read = message.get_msg_type() == eraftpb::MessageType::MsgReadIndex;
        if is_read && raft.state == StateRole::Leader && !raft.commit_to_current_term() {
            if self.early_reads.len() < EARLY_READS_MAX {
                self.early_reads.push(message);
            }
            return;
        }
        let _ = self.node.raft.step(message);
    }

    /// Asks what could not be asked before, or forgets it with the leadership.
    fn ask_early_reads(&mut self) {
        let raft = &self.node.raft;
        let is_leader = raft.state == StateRole::Leader;
        if !self.early_reads.is_empty() && (!is_leader || raft.commit_to_current_term()) {
            for message in std::mem::take(&mut self.early_reads) {
                if is_leader {
                    self.step(message);
                }
            }
        }
    }

    /// Takes a message of a peer. Messages that only a member may tell itself are dropped, as are those for another member.
    ///
    /// # Errors
    /// [`LogLost`], and the message is not taken: with it, the library would panic (etcd does, #20269).
    pub fn receive(&mut self, message: &raftpb::Message) -> Result<(), LogLost> {
        let Some(message) = message_in(message) else {
            return Ok(());
        };
        // The library takes these for granted, and panics.
        let needs_entries = matches!(
            message.get_msg_type(),
            eraftpb::MessageType::MsgPropose | eraftpb::MessageType::MsgReadIndex
        );
        if needs_entries && message.entries.is_empty() {
            return Ok(());
        }
        let is_for_another = message.to != self.node.raft.id && !planted!(ForeignMessageTaken);
        if raft::raw_node::is_local_msg(message.get_msg_type()) || is_for_another {
            return Ok(());
        }
        let (raft, promised) = (&self.node.raft, message.commit);
        let last = raft.raft_log.last_index();
        let is_heartbeat = message.get_msg_type() == eraftpb::MessageType::MsgHeartbeat;
        if is_heartbeat && message.term >= raft.term && promised > last {
            return Err(LogLost { promised, last });
        }
        if message.get_msg_type() == eraftpb::MessageType::MsgReadIndex {
            self.step(message);
        } else {
            let _ = self.node.step(message);
        }
        self.redraw_timeout();
        Ok(())
    }

    pub fn report_unreachable(&mut self, peer: u64) {
        self.node.report_unreachable(peer);
    }

    /// Stops waiting for a leader whose process has ended: as if it had been silent for the election timeout. From then on this
    /// member votes for others, and stands for election itself after the rest of its drawn timeout. A wrong
    /// report costs one question: members that still hear the leader answer no to a pre-vote. Without pre-votes it could cost the
    /// leader its term, so it is ignored then.
    pub fn report_gone(&mut self, peer: u64) {
        let raft = &mut self.node.raft;
        if raft.pre_vote && raft.leader_id == peer && raft.state == StateRole::Follower {
            raft.election_elapsed = raft.election_elapsed.max(self.election_ticks);
        }
    }

    /// How the sending of a snapshot ended. Without this word raft sends nothing to that member any more.
    pub fn report_snapshot(&mut self, peer: u64, is_sent: bool) {
        let status = match is_sent {
            true => SnapshotStatus::Finish,
            false => SnapshotStatus::Failure,
        };
        self.node.report_snapshot(peer, status);
    }

    /// Whether raft has taken a snapshot, which the next ready will name.
    pub fn has_snapshot(&self) -> bool {
        self.node.snap().is_some()
    }

    pub fn transfer_leader(&mut self, target: u64) {
        self.node.transfer_leader(target);
    }

    /// The next bundle of work, or `None` when there is none.
    pub fn ready(&mut self) -> Option<Ready> {
        self.ask_early_reads();
        if !self.node.has_ready() {
            return None;
        }
        let mut rd = self.node.ready();
        let entries = rd.take_entries();
        let metadata = rd.snapshot().get_metadata();
        let snapshot = (!rd.snapshot().is_empty()).then(|| {
            let conf_state = conf_state_out(metadata.get_conf_state());
            (metadata.index, metadata.term, conf_state)
        });
        let ready = Ready {
            number: rd.number(),
            must_sync: rd.must_sync(),
            hard_state: rd.hs().map(hard_state_out),
            committed: rd.take_committed_entries().iter().map(entry_out).collect(),
            messages: rd.take_messages().iter().map(message_out).collect(),
            messages_durable: rd
                .take_persisted_messages()
                .iter()
                .map(message_out)
                .collect(),
            reads: rd
                .take_read_states()
                .into_iter()
                .map(|r| (r.request_ctx.into(), r.index))
                .collect(),
            entries: entries.iter().map(entry_out).collect(),
            snapshot,
        };
        if let Some((index, term, _)) = ready.snapshot {
            assert!(
                entries.is_empty() && ready.committed.is_empty(),
                "a snapshot comes alone"
            );
            self.node.mut_store().restart(index, term);
        }
        self.node.mut_store().append(&entries);
        self.node.advance_append_async(rd);
        Some(ready)
    }

    /// Everything up to the ready of this number is durable.
    pub fn persisted(&mut self, number: u64) {
        self.node.on_persist_ready(number);
    }

    /// The state has applied everything up to the entry of this index and term.
    pub fn applied(&mut self, index: u64, term: u64) {
        self.node.advance_apply_to(index);
        self.node.mut_store().set_applied(index, term);
    }

    /// Term of the last entry that is on this member's disk.
    pub fn durable_term(&self) -> u64 {
        let log = &self.node.raft.raft_log;
        log.term(log.persisted).unwrap_or(0)
    }

    /// Term of the last entry of the log; 0 of an empty one.
    pub fn last_term(&self) -> u64 {
        self.node.raft.raft_log.last_term()
    }

    /// The term, and whom this member has voted for in it; 0 for nobody.
    pub fn vote(&self) -> (u64, u64) {
        (self.node.raft.term, self.node.raft.vote)
    }

    /// Whether proposals have anywhere to go, at this moment: within a step the leader may be lost before the step is over.
    pub fn has_leader(&self) -> bool {
        self.node.raft.leader_id != raft::INVALID_ID
    }

    /// Whether this leader is handing over. Meanwhile it takes no proposals.
    pub fn is_transferring(&self) -> bool {
        self.node.raft.lead_transferee.is_some()
    }

    /// How far a member's log, and this leader's own, are known to go. `None` if this member does not lead or does not know the other.
    pub fn matched(&self, peer: u64) -> Option<(u64, u64)> {
        let raft = &self.node.raft;
        let matched = |id| raft.prs().get(id).map(|progress| progress.matched);
        (raft.state == StateRole::Leader)
            .then(|| Some((matched(peer)?, matched(raft.id)?)))
            .flatten()
    }

    /// The configuration as raft has it.
    pub fn conf_state(&self) -> raftpb::ConfState {
        conf_state_out(&self.node.raft.prs().conf().to_conf_state())
    }

    /// A committed membership change takes effect; one that the state rejected has node id 0 and changes nothing.
    pub fn apply_change(&mut self, change: &raftpb::ConfChange) -> Result<(), raft::Error> {
        self.node.apply_conf_change(&change_in(change))?;
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Leader && raft.prs().get(raft.id).is_none() {
            // The library would lead on and panic with its next entry.
            raft.become_follower(raft.term, 0);
        }
        Ok(())
    }

    /// Forgets log entries up to `wanted`, or up to `bound` as far as needed to hold at most `bytes_max`. A leader keeps what
    /// a known follower still lacks, within `bytes_max`, and [`SNAPSHOT_PATIENCE`] times as much for one that was sent a snapshot and
    /// has not caught up: what the snapshot does not hold must still be there when it has arrived, or the next one would be due at once,
    /// and so on (etcd #5317).
    pub fn cut_log(&mut self, wanted: u64, bound: u64, bytes_max: u64) {
        let raft = &self.node.raft;
        let (me, is_leader) = (raft.id, raft.state == StateRole::Leader);
        let normal = self.node.store().index_for_bytes(bytes_max);
        let recovering = &mut self.recovering;
        recovering.retain(|id| is_leader && raft.prs().get(*id).is_some());
        let slowest = raft
            .prs()
            .iter()
            .filter(|(id, _)| is_leader && **id != me)
            .map(|(id, p)| match p.state {
                ProgressState::Snapshot => {
                    recovering.insert(*id);
                    p.matched.max(p.pending_snapshot)
                }
                ProgressState::Probe | ProgressState::Replicate => {
                    // Who went away again is waited for no longer than others.
                    if p.matched >= normal || !p.recent_active {
                        recovering.remove(id);
                    }
                    p.matched
                }
            })
            .min();
        let patience = match recovering.is_empty() {
            true => 1,
            false => SNAPSHOT_PATIENCE,
        };
        let bytes_max = bytes_max.saturating_mul(patience);
        let forced = self.node.store().index_for_bytes(bytes_max).min(bound);
        let cut = slowest
            .map_or(wanted, |matched| matched.min(wanted))
            .max(forced);
        self.node.mut_store().cut(cut);
    }

    /// First index still held.
    pub fn first_index(&self) -> u64 {
        raft::Storage::first_index(self.node.store())
            .expect("the log in memory always has a first index")
    }

    pub fn standing(&self) -> Standing {
        let raft = &self.node.raft;
        let voters = raft.prs().conf().voters();
        let ids = voters.ids();
        Standing {
            term: raft.term,
            leader: raft.leader_id,
            is_leader: raft.state == StateRole::Leader,
            committed: raft.raft_log.committed,
            last: raft.raft_log.last_index(),
            is_learner: raft.prs().conf().learners().contains(&raft.id),
            is_sole_voter: ids.iter().count() == 1 && ids.contains(raft.id),
        }
    }

    /// Replaces whatever timeout the library may have drawn by one that depends on the seed, the term and the role alone.
    /// (Drawing from a generator instead would need to know *whether* the library drew, which can't be seen when it
    /// happens to draw the value that was set.)
    fn redraw_timeout(&mut self) {
        let raft = &mut self.node.raft;
        let drawn_for = (raft.term, raft.state as u64);
        if self.drawn_for != Some(drawn_for) {
            self.drawn_for = Some(drawn_for);
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ (drawn_for.0 << 3 | drawn_for.1));
            self.timeout_drawn =
                self.election_ticks + (rng.next_u64() % self.election_ticks as u64) as usize;
        }
        if raft.randomized_election_timeout() != self.timeout_drawn {
            raft.set_randomized_election_timeout(self.timeout_drawn);
        }
    }
}

pub(crate) fn entry_in(entry: &raftpb::Entry) -> eraftpb::Entry {
    let mut translated = eraftpb::Entry {
        term: entry.term(),
        index: entry.index(),
        data: entry.data.clone().unwrap_or_default(),
        ..eraftpb::Entry::default()
    };
    if entry.r#type() == raftpb::EntryType::EntryConfChange {
        translated.data = wrap_change(translated.data);
    }
    translated.set_entry_type(match entry.r#type() {
        raftpb::EntryType::EntryNormal => eraftpb::EntryType::EntryNormal,
        raftpb::EntryType::EntryConfChange => eraftpb::EntryType::EntryConfChange,
        raftpb::EntryType::EntryConfChangeV2 => eraftpb::EntryType::EntryConfChangeV2,
    });
    translated
}

fn entry_out(entry: &eraftpb::Entry) -> raftpb::Entry {
    let kind = match entry.get_entry_type() {
        eraftpb::EntryType::EntryNormal => raftpb::EntryType::EntryNormal,
        eraftpb::EntryType::EntryConfChange => raftpb::EntryType::EntryConfChange,
        eraftpb::EntryType::EntryConfChangeV2 => raftpb::EntryType::EntryConfChangeV2,
    };
    let data = match kind {
        raftpb::EntryType::EntryConfChange => unwrap_change(entry.data.clone()),
        _ => entry.data.clone(),
    };
    raftpb::Entry {
        r#type: Some(kind as i32),
        term: Some(entry.term),
        index: Some(entry.index),
        data: (!data.is_empty()).then_some(data),
    }
}

/// The library decodes the changes that are proposed to it, with numbers of its own, and drops a proposal with one that it does not
/// know: etcd's "add a learner" is 3, it has 0 to 2. All that it wants to see is a change, so inside it every change of the log is the
/// context of one that says nothing. What leaves [`RaftCore`], for the disk, the state or a peer, is as etcd wrote it.
fn wrap_change(data: Bytes) -> Bytes {
    let shell = raftpb::ConfChange {
        context: Some(data),
        ..Default::default()
    };
    shell.encode_to_vec().into()
}

fn unwrap_change(data: Bytes) -> Bytes {
    let shell = raftpb::ConfChange::decode(data).expect("every change in the log was wrapped");
    shell.context.unwrap_or_default()
}

fn hard_state_out(state: &eraftpb::HardState) -> raftpb::HardState {
    raftpb::HardState {
        term: Some(state.term),
        vote: Some(state.vote),
        commit: Some(state.commit),
    }
}

pub(crate) fn hard_state_in(state: &raftpb::HardState) -> eraftpb::HardState {
    eraftpb::HardState {
        term: state.term(),
        vote: state.vote(),
        commit: state.commit(),
        ..Default::default()
    }
}

pub(crate) fn conf_state_in(state: &raftpb::ConfState) -> eraftpb::ConfState {
    eraftpb::ConfState {
        voters: state.voters.clone(),
        learners: state.learners.clone(),
        voters_outgoing: state.voters_outgoing.clone(),
        learners_next: state.learners_next.clone(),
        auto_leave: state.auto_leave(),
        ..Default::default()
    }
}

fn conf_state_out(state: &eraftpb::ConfState) -> raftpb::ConfState {
    let sorted = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    raftpb::ConfState {
        voters: sorted(&state.voters),
        learners: sorted(&state.learners),
        voters_outgoing: sorted(&state.voters_outgoing),
        learners_next: sorted(&state.learners_next),
        auto_leave: Some(state.auto_leave),
    }
}

/// `None` for a type of message that this library does not know; those are never sent between members.
fn message_in(message: &raftpb::Message) -> Option<eraftpb::Message> {
    let kind = protobuf_message_type(message.r#type.unwrap_or_default())?;
    let mut translated = eraftpb::Message {
        to: message.to(),
        from: message.from(),
        term: message.term(),
        log_term: message.log_term(),
        index: message.index(),
        entries: message
            .entries
            .iter()
            .map(entry_in)
            .collect::<Vec<_>>()
            .into(),
        commit: message.commit(),
        reject: message.reject(),
        reject_hint: message.reject_hint(),
        context: message.context.clone().unwrap_or_default(),
        ..Default::default()
    };
    translated.set_msg_type(kind);
    // etcd sends an empty one with every message.
    if kind == eraftpb::MessageType::MsgSnapshot {
        let metadata = message.snapshot.as_ref()?.metadata.as_ref()?;
        let mut told = eraftpb::SnapshotMetadata {
            index: metadata.index(),
            term: metadata.term(),
            ..Default::default()
        };
        told.set_conf_state(conf_state_in(metadata.conf_state.as_ref()?));
        translated.mut_snapshot().set_metadata(told);
    }
    Some(translated)
}

fn message_out(message: &eraftpb::Message) -> raftpb::Message {
    raftpb::Message {
        r#type: Some(message.get_msg_type() as i32),
        to: Some(message.to),
        from: Some(message.from),
        term: Some(message.term),
        log_term: Some(message.log_term),
        index: Some(message.index),
        entries: message.entries.iter().map(entry_out).collect(),
        commit: Some(message.commit),
        reject: Some(message.reject),
        reject_hint: Some(message.reject_hint),
        context: (!message.context.is_empty()).then(|| message.context.clone()),
        snapshot: message.snapshot.as_ref().map(|snapshot| raftpb::Snapshot {
            data: None,
            metadata: Some(raftpb::SnapshotMetadata {
                conf_state: None,
                index: Some(snapshot.get_metadata().index),
                term: Some(snapshot.get_metadata().term),
            }),
        }),
        ..Default::default()
    }
}

fn protobuf_message_type(number: i32) -> Option<eraftpb::MessageType> {
    use eraftpb::MessageType as T;
    const BY_NUMBER: [T; 19] = [
        T::MsgHup,
        T::MsgBeat,
        T::MsgPropose,
        T::MsgAppend,
        T::MsgAppendResponse,
        T::MsgRequestVote,
        T::MsgRequestVoteResponse,
        T::MsgSnapshot,
        T::MsgHeartbeat,
        T::MsgHeartbeatResponse,
        T::MsgUnreachable,
        T::MsgSnapStatus,
        T::MsgCheckQuorum,
        T::MsgTransferLeader,
        T::MsgTimeoutNow,
        T::MsgReadIndex,
        T::MsgReadIndexResp,
        T::MsgRequestPreVote,
        T::MsgRequestPreVoteResponse,
    ];
    BY_NUMBER.get(usize::try_from(number).ok()?).copied()
}

fn change_in(change: &raftpb::ConfChange) -> eraftpb::ConfChange {
    let mut translated = eraftpb::ConfChange {
        node_id: change.node_id(),
        ..Default::default()
    };
    match change.r#type() {
        raftpb::ConfChangeType::ConfChangeAddNode => {
            translated.set_change_type(eraftpb::ConfChangeType::AddNode);
        }
        raftpb::ConfChangeType::ConfChangeRemoveNode if planted!(RemovedMemberCounts) => {
            translated.node_id = 0;
        }
        raftpb::ConfChangeType::ConfChangeRemoveNode => {
            translated.set_change_type(eraftpb::ConfChangeType::RemoveNode);
        }
        raftpb::ConfChangeType::ConfChangeAddLearnerNode => {
            translated.set_change_type(eraftpb::ConfChangeType::AddLearnerNode);
        }
        // New addresses of a member are no business of raft; node 0 makes it change nothing.
        raftpb::ConfChangeType::ConfChangeUpdateNode => translated.node_id = 0,
    }
    translated
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core(seed: u64) -> RaftCore {
        let config = CoreConfig {
            id: 1,
            election_ticks: 10,
            heartbeat_ticks: 1,
            pre_vote: true,
            applied: (0, 0),
            seed,
        };
        let conf = eraftpb::ConfState {
            voters: vec![1],
            ..Default::default()
        };
        let log = RaftLog::new(eraftpb::HardState::default(), conf, (0, 0), Vec::new());
        RaftCore::new(&config, log).expect("a valid configuration")
    }

    #[test]
    fn a_sole_voter_commits_only_what_is_durable() {
        let mut core = core(1);
        core.campaign();
        let first = core.ready().expect("an election to persist");
        assert!(core.propose(b"x".to_vec()));
        let second = core.ready().expect("a proposal to persist");
        assert!(first.committed.is_empty() && second.committed.is_empty());
        core.persisted(second.number);
        let third = core.ready().expect("commit after the sync");
        assert_eq!(
            third.committed.len(),
            2,
            "the empty entry of the term and the proposal"
        );
    }

    #[test]
    fn a_question_before_the_first_commit_of_a_term_is_answered_after_it() {
        let mut core = core(1);
        core.campaign();
        let elected = core.ready().expect("an election to persist");
        core.read_index(b"question".to_vec());
        assert!(core.ready().is_none_or(|ready| ready.reads.is_empty()));
        core.persisted(elected.number);
        let mut answered = Vec::new();
        while let Some(ready) = core.ready() {
            core.persisted(ready.number);
            answered.extend(ready.reads);
            ready
                .committed
                .iter()
                .for_each(|entry| core.applied(entry.index(), entry.term()));
        }
        assert_eq!(answered, [(Bytes::from_static(b"question"), 1)]);
    }

    #[test]
    fn an_empty_proposal_or_question_of_a_peer_is_dropped() {
        let mut core = core(1);
        core.campaign();
        while let Some(ready) = core.ready() {
            core.persisted(ready.number);
        }
        for kind in [
            raftpb::MessageType::MsgProp,
            raftpb::MessageType::MsgReadIndex,
        ] {
            let message = raftpb::Message {
                r#type: Some(kind as i32),
                from: Some(2),
                to: Some(1),
                ..Default::default()
            };
            assert_eq!(core.receive(&message), Ok(()));
        }
        assert!(core.ready().is_none());
    }

    #[test]
    fn timeouts_depend_on_the_seed_and_the_term_not_on_the_library() {
        let draws = |seed| {
            let mut core = core(seed);
            (0..20)
                .map(|term| {
                    core.node.raft.become_follower(term, 0);
                    core.redraw_timeout();
                    core.node.raft.randomized_election_timeout()
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
    }

    #[test]
    fn a_change_that_the_library_has_no_number_for_is_proposed_and_comes_out_as_it_went_in() {
        let mut core = core(1);
        core.campaign();
        let elected = core.ready().expect("an election to persist");
        core.persisted(elected.number);
        let mut change = raftpb::ConfChange {
            node_id: Some(9),
            ..Default::default()
        };
        change.set_type(raftpb::ConfChangeType::ConfChangeAddLearnerNode);
        while let Some(ready) = core.ready() {
            core.persisted(ready.number);
            ready
                .committed
                .iter()
                .for_each(|entry| core.applied(entry.index(), entry.term()));
        }
        assert!(core.propose_change(change.encode_to_vec()));
        let ready = core.ready().expect("the change to persist");
        let data = ready.entries[0].data.clone().expect("a change");
        assert_eq!(raftpb::ConfChange::decode(data), Ok(change));
        assert_eq!(entry_out(&entry_in(&ready.entries[0])), ready.entries[0]);
    }

    #[test]
    fn configuration_changes_are_translated_by_name_not_by_number() {
        let mut change = raftpb::ConfChange {
            node_id: Some(9),
            ..Default::default()
        };
        change.set_type(raftpb::ConfChangeType::ConfChangeAddLearnerNode);
        assert_eq!(
            change_in(&change).get_change_type(),
            eraftpb::ConfChangeType::AddLearnerNode
        );
        change.set_type(raftpb::ConfChangeType::ConfChangeUpdateNode);
        assert_eq!(change_in(&change).node_id, 0);
    }
}
