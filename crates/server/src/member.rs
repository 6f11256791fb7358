//! The running member as the connection threads see it: where to put questions, and what is published for reading.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use proto::error::{self, RpcError};
use proto::etcdserverpb::ResponseHeader;
use replica::ids::RequestIds;
use replica::{Input, Request, Status};
use state::ReadView;
use state::version::Version;
use tokio::sync::{Notify, oneshot, watch};

use crate::calls::Answer;
use crate::config::VERSION_ETCD;
use crate::long_calls::LongCalls;
use crate::metrics::{Counter, Metrics};
use crate::peer::ask::Asker;
use crate::peer::links::Links;
use crate::questions::Questions;
use crate::threads::Desk;
use crate::tls::Sides;

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
    /// How long anything may take that other members are needed for.
    pub request_timeout: Duration,
    /// Whether changes of the members are refused that put the quorum at risk.
    pub strict_reconfig: bool,
    /// The version that other members are told; `None` for the own one, or that of a cluster that has agreed on less.
    pub version_for_peers: Option<Version>,
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
            request_timeout: Duration::from_secs(7),
            strict_reconfig: true,
            version_for_peers: None,
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
    /// Asks other members. Set once, before anything is served.
    pub asker: OnceLock<Asker>,
    /// Who waits for an answer of the core outside of the connection threads.
    pub questions: Questions,
    /// One permit once this member has learnt that it was removed from its cluster.
    pub removed: Notify,
    /// Set once, before anything is served; the metrics tell of it.
    pub tls: OnceLock<Arc<Sides>>,
    /// One permit when the core wants to know what the others know of this member; the answer is [`Input::Past`].
    pub past_wanted: Notify,
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
            asker: OnceLock::new(),
            questions: Questions::default(),
            removed: Notify::new(),
            tls: OnceLock::new(),
            past_wanted: Notify::new(),
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
    pub fn deliver(&self, messages: Vec<Input>) -> usize {
        self.desk.deliver(messages)
    }

    /// Hands in what the replica must hear of, and of which there is no more than it has asked for.
    pub fn report(&self, input: Input) {
        self.desk.leave(input);
    }

    /// Asks the core from anywhere, and waits.
    pub async fn ask(&self, request: Request) -> Answer {
        let question = self.questions.open()?;
        self.tell(Input::Client(question.ticket(), request))?;
        question.answer().await
    }

    /// For how long another member has been reached without a break; `None` if it is not reached now.
    pub fn connected_for(&self, id: u64) -> Option<Duration> {
        self.links.active_since(id).map(|since| since.elapsed())
    }

    /// Why a request that began at `begun` has timed out, as far as can be told. Other errors stay what they are.
    ///
    /// Source: upstream `server/etcdserver/v3_server.go`, `parseProposeCtxErr`.
    pub fn why_late(&self, why: &'static RpcError, begun: Instant) -> &'static RpcError {
        if *why != error::TIMEOUT && *why != error::TIMEOUT_DUE_TO_LEADER_FAIL {
            return why;
        }
        let election = self.settings().election_timeout;
        if let Some(led_since) = self.raft.led_since()
            && begun < led_since
            && begun + 2 * election > led_since
        {
            return &error::TIMEOUT_DUE_TO_LEADER_FAIL;
        }
        // It was never proposed to anybody, which etcd tells in Go's own words.
        if self.raft.is_leaderless_since(begun) {
            return &error::CONTEXT_DEADLINE_EXCEEDED;
        }
        let (leader, age) = (self.raft.get().leader, begun.elapsed());
        let is_connected = |id| self.connected_for(id).is_some_and(|time| time >= age);
        let lost = if leader == 0 {
            false
        } else if leader == self.member_id {
            let view = self.view.load();
            let all = &view.members().members;
            let others = all.keys().filter(|id| **id != self.member_id);
            let connected = 1 + others.filter(|id| is_connected(**id)).count();
            connected < all.len() / 2 + 1
        } else {
            !is_connected(leader)
        };
        match lost {
            true => &error::TIMEOUT_DUE_TO_CONNECTION_LOST,
            false => &error::TIMEOUT,
        }
    }

    /// The version that other members are told.
    ///
    /// They decide with it which version the cluster rises to, and a cluster that has risen never takes an older member again. So a member
    /// of a cluster that has agreed on an older version tells that one, and the cluster stays where it is until the operator says otherwise.
    pub fn version_for_peers(&self) -> Version {
        let agreed = self.view.load().cluster_version().version;
        told_version(self.settings().version_for_peers, agreed)
    }

    /// This member was removed from its cluster; it is to stop.
    pub fn was_removed(&self) {
        self.removed.notify_one();
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

fn told_version(fixed: Option<Version>, agreed: Option<Version>) -> Version {
    let own = Version::parse(VERSION_ETCD).expect("our own version is one");
    // 3.0.0 is what a leader sets that does not know all versions yet.
    let is_old = |agreed: &Version| *agreed < own.minor_only() && agreed.minor > 0;
    fixed.or(agreed.filter(is_old)).unwrap_or(own)
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
    /// When this member last became leader. Held only to read or write it.
    led_since: Mutex<Option<Instant>>,
    /// Since when there is no leader, if there was one. Held only to read or write it.
    leaderless_since: Mutex<Option<Instant>>,
    /// Term and leader, for those who wait for a change.
    leaders: watch::Sender<(u64, u64)>,
}

impl RaftStatus {
    pub fn set(&self, status: Status) {
        let leader_before = self.leader.load(Ordering::Relaxed);
        let before = (self.term.load(Ordering::Relaxed), leader_before);
        let now = (status.term, status.leader);
        if status.leader != 0 && status.leader != leader_before {
            self.leaders_seen.inc();
        }
        if status.is_leader && !self.is_leader.load(Ordering::Relaxed) {
            *lock(&self.led_since) = Some(Instant::now());
        }
        match (leader_before, status.leader) {
            (before, 0) if before != 0 => *lock(&self.leaderless_since) = Some(Instant::now()),
            (0, leader) if leader != 0 => *lock(&self.leaderless_since) = None,
            _ => {}
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
        // Most changes are of an index, and nobody waits for those here.
        if before != now {
            self.leaders.send_replace(now);
        }
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

    /// Tells of each change of term or leader.
    pub fn leaders(&self) -> watch::Receiver<(u64, u64)> {
        self.leaders.subscribe()
    }

    /// When this member last became leader.
    pub fn led_since(&self) -> Option<Instant> {
        *lock(&self.led_since)
    }

    /// Whether there has been no leader since then.
    pub fn is_leaderless_since(&self, then: Instant) -> bool {
        !self.has_leader() && lock(&self.leaderless_since).is_none_or(|since| since <= then)
    }

    /// Changes to another leader so far.
    pub fn leaders_seen(&self) -> u64 {
        self.leaders_seen.get()
    }

    /// Whether this member has no vote.
    pub fn is_learner(&self) -> bool {
        self.is_learner.load(Ordering::Relaxed)
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

fn lock(time: &Mutex<Option<Instant>>) -> std::sync::MutexGuard<'_, Option<Instant>> {
    time.lock().expect("no thread panics while it holds a time")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_cluster_is_told_its_own_version_and_a_new_one_ours() {
        let own = Version::parse(VERSION_ETCD).expect("a version");
        let version = |minor| Some(Version::new(3, minor, 0));
        assert_eq!(told_version(None, None), own);
        assert_eq!(told_version(None, version(0)), own);
        assert_eq!(told_version(None, version(5)), Version::new(3, 5, 0));
        assert_eq!(told_version(None, version(7)), own);
        assert_eq!(told_version(Some(own), version(5)), own);
        assert_eq!(told_version(version(6), None), Version::new(3, 6, 0));
    }
}
