//! The running member as the connection threads see it: where to put questions, and what is published for reading.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use proto::error::RpcError;
use proto::etcdserverpb::ResponseHeader;
use proto::raftpb;
use replica::ids::RequestIds;
use replica::{Input, Status};
use state::ReadView;
use tokio::sync::oneshot;

use crate::long_calls::LongCalls;
use crate::metrics::{Counter, Metrics};
use crate::peer::links::Links;
use crate::threads::Desk;

/// What clients are limited to.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest proposal, and what responses are cut to where they may be cut.
    pub request_bytes_max: usize,
    pub txn_ops_max: usize,
    /// `None` is no quota.
    pub quota_bytes: Option<u64>,
}

impl Limits {
    /// Largest message a client may send. Source: upstream `grpcOverheadBytes`.
    pub fn message_bytes_max(&self) -> usize {
        self.request_bytes_max + (512 << 10)
    }
}

/// What the configuration says that answers to clients show or depend on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The quota as `Status` and the metrics tell it; the default one when none is set.
    pub quota_shown: u64,
    /// Streams that want a leader end after three of these without one.
    pub election_timeout: Duration,
    /// Host names that plain HTTP/1 may ask for. Empty, or with `*`: any.
    pub host_whitelist: Vec<String>,
    /// Origins that browsers may come from. Empty, or with `*`: any.
    pub cors: Vec<String>,
    /// Whether the time that calls take is counted by method.
    pub extensive: bool,
    /// Batches and ranges that take longer are logged.
    pub warning_apply: Duration,
    /// So are unary calls.
    pub warning_unary_request: Duration,
    /// The whole configuration as `/debug/vars` shows it.
    pub command_line: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            quota_shown: crate::config::QUOTA_BYTES_DEFAULT,
            election_timeout: Duration::from_secs(1),
            host_whitelist: Vec::new(),
            cors: Vec::new(),
            extensive: false,
            warning_apply: Duration::from_millis(100),
            warning_unary_request: Duration::from_millis(300),
            command_line: Vec::new(),
        }
    }
}

/// What only the owner of the store can do. Whoever runs the threads sets it.
pub trait Maintenance: Send + Sync {
    /// Gives space back now, and says when that is done; the sender is dropped when the member stops first. Must not block.
    fn defragment(&self) -> oneshot::Receiver<()>;
}

/// Shared by all threads that serve clients.
pub struct Member {
    pub cluster_id: u64,
    pub member_id: u64,
    pub ids: Arc<RequestIds>,
    pub limits: Limits,
    /// The newest state that may be read.
    pub view: ArcSwap<ReadView>,
    pub raft: RaftStatus,
    pub metrics: Metrics,
    pub long_calls: LongCalls,
    /// The ways to the other members.
    pub links: Arc<Links>,
    /// Set once, before anything is served.
    pub hooks: OnceLock<Box<dyn Maintenance>>,
    settings: OnceLock<Settings>,
    desk: Arc<Desk>,
}

impl Member {
    pub fn new(
        (cluster_id, member_id): (u64, u64),
        ids: Arc<RequestIds>,
        limits: Limits,
        view: ReadView,
        desk: Arc<Desk>,
    ) -> Arc<Self> {
        let view = ArcSwap::from_pointee(view);
        Arc::new(Member {
            cluster_id,
            member_id,
            ids,
            limits,
            view,
            raft: RaftStatus::default(),
            metrics: Metrics::default(),
            long_calls: LongCalls::default(),
            links: Arc::new(Links::new(member_id)),
            hooks: OnceLock::new(),
            settings: OnceLock::new(),
            desk,
        })
    }

    /// Sets what the configuration says. Only the first call counts; it comes before anything is served.
    pub fn configure(&self, settings: Settings) {
        let _ = self.settings.set(settings);
    }

    /// What the configuration says, or defaults.
    pub fn settings(&self) -> &Settings {
        self.settings.get_or_init(Settings::default)
    }

    /// Hands something in for the replica, or refuses when too much waits there.
    pub fn tell(&self, input: Input) -> Result<(), &'static RpcError> {
        self.desk.offer(input)
    }

    /// Hands in what a peer has sent, in order. How many messages were dropped because too much waits already.
    pub fn deliver(&self, messages: Vec<raftpb::Message>) -> usize {
        self.desk.deliver(messages)
    }

    /// Hands in what the replica must hear of, and of which there is no more than it has asked for.
    pub fn report(&self, input: Input) {
        self.desk.leave(input);
    }

    /// A header as every answer carries it.
    pub fn header(&self, revision: i64) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision,
            raft_term: self.raft.get().term,
        })
    }

    /// Fills in what the applied answer could not know; a revision of 0 becomes the current one.
    pub fn complete(&self, header: &mut Option<ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |h| h.revision);
        let revision = if revision == 0 {
            self.view.load().revision()
        } else {
            revision
        };
        *header = self.header(revision);
    }

    /// Whether the files leave room for a request of this cost.
    pub fn has_room(&self, cost: u64) -> bool {
        self.limits
            .quota_bytes
            .is_none_or(|quota| self.view.load().file_bytes() + cost < quota)
    }
}

/// The replica's status, readable without a lock. Fields may come from two neighbouring moments; nobody relies on more
/// than one of them at a time.
#[derive(Default)]
pub struct RaftStatus {
    term: AtomicU64,
    leader: AtomicU64,
    is_leader: AtomicBool,
    is_learner: AtomicBool,
    committed: AtomicU64,
    applied: AtomicU64,
    proposals_pending: AtomicU64,
    leases_expired: AtomicU64,
    reads_are_local: AtomicBool,
    leaders_seen: Counter,
}

impl RaftStatus {
    pub fn set(&self, status: Status) {
        if status.leader != 0 && status.leader != self.leader.load(Ordering::Relaxed) {
            self.leaders_seen.inc();
        }
        self.term.store(status.term, Ordering::Relaxed);
        self.leader.store(status.leader, Ordering::Relaxed);
        self.is_leader.store(status.is_leader, Ordering::Relaxed);
        self.is_learner.store(status.is_learner, Ordering::Relaxed);
        self.committed.store(status.committed, Ordering::Relaxed);
        self.applied.store(status.applied, Ordering::Relaxed);
        self.proposals_pending
            .store(status.proposals_pending, Ordering::Relaxed);
        self.leases_expired
            .store(status.leases_expired, Ordering::Relaxed);
        self.reads_are_local
            .store(status.reads_are_local, Ordering::Release);
    }

    pub fn get(&self) -> Status {
        Status {
            term: self.term.load(Ordering::Relaxed),
            leader: self.leader.load(Ordering::Relaxed),
            is_leader: self.is_leader.load(Ordering::Relaxed),
            is_learner: self.is_learner.load(Ordering::Relaxed),
            committed: self.committed.load(Ordering::Relaxed),
            applied: self.applied.load(Ordering::Relaxed),
            proposals_pending: self.proposals_pending.load(Ordering::Relaxed),
            leases_expired: self.leases_expired.load(Ordering::Relaxed),
            reads_are_local: self.reads_are_local.load(Ordering::Acquire),
        }
    }

    /// Changes to another leader so far.
    pub fn leaders_seen(&self) -> u64 {
        self.leaders_seen.get()
    }

    /// Whether there is a leader.
    pub fn has_leader(&self) -> bool {
        self.leader.load(Ordering::Relaxed) != 0
    }

    /// Whether the published view is linearizable right now; see [`Status::reads_are_local`].
    pub fn reads_are_local(&self) -> bool {
        self.reads_are_local.load(Ordering::Acquire)
    }
}
