//! What clients saw, and the canonical log of changes: the input of the checker. Nothing in it knows who produced it.

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::mvccpb;

/// Everything observed in one run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Calls, in order of their start.
    pub ops: Vec<Op>,
    /// Watchers, one per creation.
    pub watches: Vec<Watch>,
    /// All changes by revision, without gaps, beginning with revision 2.
    pub log: Vec<Revision>,
    /// All lists of members, in the order of the log.
    pub members: Vec<MemberList>,
    /// When a change of members was answered, and the entry that made it.
    pub member_changes: Vec<(u64, u64)>,
    /// How fast the fastest member's clock ran, in thousandths of true time. Leases may expire so much earlier.
    pub clock_rate_max: u64,
}

/// One revision of the key space.
#[derive(Clone, Debug, PartialEq)]
pub struct Revision {
    /// Its number.
    pub number: i64,
    /// When anybody could first have seen it, in microseconds of true time.
    pub seen_us: u64,
    /// Its changes, in order.
    pub changes: Vec<Change>,
}

/// The members from one entry of the log on.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberList {
    /// The first entry after which somebody had it.
    pub index: u64,
    /// When anybody could first have seen it.
    pub seen_us: u64,
    /// By ascending id.
    pub members: Vec<pb::Member>,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// What it is now; `None` if it was deleted.
    pub now: Option<mvccpb::KeyValue>,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Op {
    /// When it was sent, in microseconds of true time.
    pub call_us: u64,
    /// When the answer was there; `None` if there never was one: it may take effect at any later time.
    pub return_us: Option<u64>,
    /// The member asked, for messages.
    pub member: u64,
    /// What was asked.
    pub request: Request,
    /// What was answered.
    pub outcome: Outcome,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are etcd's")]
pub enum Request {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact { revision: i64 },
    LeaseGrant { id: i64, ttl_s: i64 },
    LeaseRevoke { id: i64 },
    LeaseKeepAlive { id: i64 },
    LeaseTimeToLive { id: i64 },
    Members,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// No answer: it may have happened, or will, or never.
    Unknown,
    /// It certainly did not happen.
    Failed,
    /// "No", as a replicated truth, with this text.
    Rejected(&'static str),
    /// As named.
    Range(pb::RangeResponse),
    /// As named.
    Put(pb::PutResponse),
    /// As named.
    Delete(pb::DeleteRangeResponse),
    /// As named.
    Txn(pb::TxnResponse),
    /// Done, when the store was at this revision.
    Compacted { revision: i64 },
    /// Granted, with the TTL that counts.
    LeaseGranted { ttl_s: i64, revision: i64 },
    /// Revoked.
    LeaseRevoked { revision: i64 },
    /// Renewed for so long; `None`: there is no such lease.
    LeaseAlive { ttl_s: Option<i64> },
    /// The members, by ascending id.
    Members(Vec<pb::Member>),
    /// Granted and remaining seconds; `None`: there is no such lease.
    LeaseTime { time: Option<(i64, i64)> },
}

impl Op {
    /// The store's revision that the answer names.
    #[must_use]
    pub fn revision(&self) -> Option<i64> {
        let header = match &self.outcome {
            Outcome::Range(response) => &response.header,
            Outcome::Put(response) => &response.header,
            Outcome::Delete(response) => &response.header,
            Outcome::Txn(response) => &response.header,
            Outcome::Compacted { revision }
            | Outcome::LeaseGranted { revision, .. }
            | Outcome::LeaseRevoked { revision } => return Some(*revision),
            _ => return None,
        };
        header.as_ref().map(|header| header.revision)
    }

    /// Whether the answer may be older than the call.
    #[must_use]
    pub fn may_be_stale(&self) -> bool {
        match &self.request {
            Request::Range(range) => range.serializable,
            Request::Txn(txn) => is_serializable(txn),
            _ => false,
        }
    }
}

/// A transaction of serializable ranges only, on whichever branch.
fn is_serializable(txn: &pb::TxnRequest) -> bool {
    use pb::request_op::Request as R;
    let mut ops = txn.success.iter().chain(&txn.failure);
    ops.all(|op| matches!(&op.request, Some(R::RequestRange(range)) if range.serializable))
}

/// One watcher, from its creation to its end.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The member asked, for messages.
    pub member: u64,
    /// When it was asked for.
    pub call_us: u64,
    /// What was asked for.
    pub create: pb::WatchCreateRequest,
    /// What came, in order.
    pub messages: Vec<WatchMessage>,
    /// It must have received everything up to the end of the log.
    pub must_reach_end: bool,
}

/// One message about one watcher.
#[derive(Clone, Debug)]
pub struct WatchMessage {
    /// When it came.
    pub time_us: u64,
    /// `header.revision`.
    pub revision: i64,
    /// What it is.
    pub kind: WatchKind,
}

/// Kinds of messages.
#[derive(Clone, Debug)]
pub enum WatchKind {
    /// The watcher exists.
    Created,
    /// Changes. `fragment`: more of the same revision follows.
    Events {
        /// What changed.
        events: Vec<mvccpb::Event>,
        /// More follows.
        fragment: bool,
    },
    /// Everything up to the header's revision was sent.
    Progress,
    /// The end; above 0: overtaken by this compaction.
    Canceled {
        /// Oldest revision that a new one may start from.
        compact_revision: i64,
    },
}
