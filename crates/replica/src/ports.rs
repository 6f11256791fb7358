//! The border between a member and the world: what comes in, what goes out, and the one trait that carries effects out.
//!
//! Order is promised only within one channel. Two rules depend on it and both sides of the border keep them:
//! a worker hands its completion to the replica *before* the messages that it was holding back leave the member, and
//! completions of one worker arrive in the order in which its jobs were given.

use proto::error::RpcError;
use proto::raftpb;
use state::Applied;
use storage::fault::Fault;
use storage::wal::Marker;

use crate::past::Past;
use crate::workers::{ApplyDone, ApplyJob, Installed, LogJob};

/// A member of the cluster, by the id that etcd derives from its peer URLs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// A call that waits for an answer. Whoever issues tickets never reuses one while its answer is outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// The time as the edge read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Microseconds of a clock that never goes back; its zero has no meaning.
    pub monotonic_us: u64,
}

/// What a client may ask of this member; the edge has decoded and validated it.
#[derive(Debug)]
pub enum Request {
    /// Put `data`, an encoded `InternalRaftRequest` whose header carries `id`, into the log. Answered with
    /// [`Reply::Applied`] once this member has applied it.
    Propose { id: u64, data: Vec<u8> },
    /// Add, remove, update or promote a member. Answered with [`Reply::Applied`]. The edge has asked [`crate::members::may_change`];
    /// a promotion is for the leader alone.
    ChangeMembers { change: raftpb::ConfChange },
    /// Answered with [`Reply::ReadReady`] when the published view holds everything that was committed when the question came.
    ReadBarrier,
    /// Keep a lease alive. Only the leader's clock counts.
    LeaseRenew { id: i64 },
    /// How long a lease still has. Only the leader's clock counts.
    LeaseTimeToLive { id: i64 },
    /// Hand the leadership to another voter; answered when it has moved.
    MoveLeader { target: MemberId },
}

/// An answer to a [`Request`].
#[derive(Debug)]
pub enum Reply {
    /// The entry was applied; a rejection by the replicated state is inside.
    Applied(Box<Applied>),
    /// The view published now may be read.
    ReadReady,
    /// The granted time to live in seconds, or `None` for a lease that does not exist or has expired.
    LeaseRenewed { ttl_s: Option<i64> },
    /// Granted and remaining seconds, or `None` for a lease that does not exist.
    LeaseTime { time: Option<(i64, i64)> },
    /// The leadership has moved.
    LeaderMoved,
}

/// Everything that can happen to a member.
#[derive(Debug)]
pub enum Input {
    /// One heartbeat interval has passed.
    Tick,
    /// A client asks.
    Client(Ticket, Request),
    /// Another member sent this.
    Peer(Box<raftpb::Message>),
    /// Messages to this member can't be delivered at the moment.
    PeerUnreachable(MemberId),
    /// This member was connected and now nobody listens where it did: its process has ended, and with it whatever it was.
    PeerGone(MemberId),
    /// The log worker has made everything up to this ready number durable.
    Persisted { number: u64 },
    /// The apply worker has applied a batch.
    Applied(ApplyDone),
    /// A checkpoint is durable: the log before it may be cut.
    Checkpointed(Marker),
    /// The sending of a snapshot to a member has ended, well or not. Comes once for each [`Effect::SendSnapshot`].
    SnapshotSent { to: MemberId, is_sent: bool },
    /// All rows of a snapshot, announced by this message, are on this member's disk ([`crate::snapshots::Received`]). The next one comes
    /// only after this one was [installed](Input::Installed) or [dropped](Effect::DropSnapshot).
    SnapshotReceived(Box<raftpb::Message>),
    /// The received snapshot has replaced the store, durably.
    Installed(Installed),
    /// The answer to [`Effect::AskPast`].
    Past(Past),
}

/// Everything that a member wants done.
#[derive(Debug)]
pub enum Effect {
    /// Make durable, then report [`Input::Persisted`], then let the job's messages leave.
    Persist(LogJob),
    /// Apply in order, publish, answer, then report [`Input::Applied`].
    Apply(ApplyJob),
    /// Deliver to a peer, or drop.
    Send(MemberId, Box<raftpb::Message>),
    /// Answer a client. An error here is *unavailable*: this member, now.
    Reply(Ticket, Result<Reply, &'static RpcError>),
    /// The members of the cluster are others now, or have other addresses; the published view knows them. Connect to new ones, drop
    /// those that were removed.
    MembersChanged,
    /// The raft status changed; readers of it see the new one from now on.
    Status(crate::Status),
    /// Write a checkpoint of the applied state in the background, then report [`Input::Checkpointed`].
    Checkpoint,
    /// Send this member a snapshot: `message` is what raft has to say to it, to be completed with what is sent
    /// ([`crate::snapshots::Outgoing`]). Must end in [`Input::SnapshotSent`], within a time, whatever happens: the member gets
    /// nothing else until then.
    SendSnapshot(MemberId, Box<raftpb::Message>),
    /// Put the received snapshot in the place of the store, then report [`Input::Installed`].
    InstallSnapshot,
    /// The received snapshot is of no use; remove it.
    DropSnapshot,
    /// Somebody speaks of a past, and this member's log has none: ask the other members how they list it ([`crate::past::judge`]), and
    /// report [`Input::Past`] within some seconds, whatever happens. Until then it says nothing.
    AskPast,
    /// This member was removed from its cluster, for ever: stop, without an error. Its data directory is of no use any more.
    Removed,
    /// This member can't go on.
    Stop(Fault),
}

/// Where effects go. The server implements it with channels, the simulator with its event queue.
pub trait Ports {
    /// Carries out one effect. Must not block on the member that called it.
    fn perform(&mut self, effect: Effect);
}
