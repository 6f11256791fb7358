//! What applying an entry yields: the answer, the events for watchers, and the facts for whoever acts on them.
//!
//! Nothing here decides anything. Start with [`Applied`].

use std::fmt;

use bytes::Bytes;
use proto::error::RpcError;
use proto::etcdserverpb as pb;
use proto::raftpb;
use storage::fault::Fault;
use storage::segments::Revision;

use crate::membership::Member;

/// The result of applying one entry.
///
/// Every member computes the same `events`, `facts` and `outcome` from the same log. The one exception is the
/// quota: whether a write found the member over its own quota ([`Fact::QuotaExceeded`], with the answer "no space") depends
/// on the size of this member's files, as in etcd. The data written is the same all the same.
#[derive(Debug)]
pub struct Applied {
    /// Raft index of the entry.
    pub index: u64,
    /// Raft term of the entry.
    pub term: u64,
    /// The id under which the proposer waits; 0 when nobody can be waiting.
    pub request_id: u64,
    /// The answer for the proposer.
    pub outcome: Result<Response, Rejected>,
    /// Changes of keys, in revision order; all have the same main revision.
    pub events: Vec<Event>,
    /// What has become true, in order.
    pub facts: Vec<Fact>,
}

/// A request was answered "no", identically on every member.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rejected(pub &'static RpcError);

impl fmt::Debug for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rejected({:?}, {:?})", self.0.code, self.0.text)
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.text)
    }
}

impl std::error::Error for Rejected {}

/// The answer to an applied request.
///
/// Headers carry the revision only; whoever sends the answer fills in cluster id, member id and term. Answers about
/// members and alarms have no revision, as in etcd.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// The entry has no answer: a new leader's empty entry, a member's attributes, a version.
    None,
    /// A range that went through the log.
    Range(pb::RangeResponse),
    /// Put.
    Put(pb::PutResponse),
    /// Delete.
    DeleteRange(pb::DeleteRangeResponse),
    /// Transaction.
    Txn(pb::TxnResponse),
    /// Compaction; the index is trimmed and space returned later, by [`crate::State::maintain`].
    Compaction(pb::CompactionResponse),
    /// Lease granted.
    LeaseGrant(pb::LeaseGrantResponse),
    /// Lease revoked.
    LeaseRevoke(pb::LeaseRevokeResponse),
    /// Remaining TTLs noted.
    LeaseCheckpoint(pb::LeaseCheckpointResponse),
    /// Alarms read, raised or cleared.
    Alarm(pb::AlarmResponse),
    /// A membership change was made; the members after it, by ascending id.
    Members(Vec<Member>),
    /// Permissions are checked from now on.
    AuthEnable(pb::AuthEnableResponse),
    /// They are not.
    AuthDisable(pb::AuthDisableResponse),
    /// Whether they are.
    AuthStatus(pb::AuthStatusResponse),
    /// A token was given out.
    Authenticate(pb::AuthenticateResponse),
    /// User added.
    AuthUserAdd(pb::AuthUserAddResponse),
    /// User deleted.
    AuthUserDelete(pb::AuthUserDeleteResponse),
    /// A user's roles.
    AuthUserGet(pb::AuthUserGetResponse),
    /// Password changed.
    AuthUserChangePassword(pb::AuthUserChangePasswordResponse),
    /// The user has the role.
    AuthUserGrantRole(pb::AuthUserGrantRoleResponse),
    /// The user has it no more.
    AuthUserRevokeRole(pb::AuthUserRevokeRoleResponse),
    /// The names of all users.
    AuthUserList(pb::AuthUserListResponse),
    /// Role added.
    AuthRoleAdd(pb::AuthRoleAddResponse),
    /// Role deleted.
    AuthRoleDelete(pb::AuthRoleDeleteResponse),
    /// A role's permissions.
    AuthRoleGet(pb::AuthRoleGetResponse),
    /// The names of all roles.
    AuthRoleList(pb::AuthRoleListResponse),
    /// The role has the permission.
    AuthRoleGrantPermission(pb::AuthRoleGrantPermissionResponse),
    /// The role has it no more.
    AuthRoleRevokePermission(pb::AuthRoleRevokePermissionResponse),
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The key got a value.
    Put,
    /// The key was deleted, by request or with its lease.
    Delete,
}

/// One change of one key, encoded once for all watchers. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which change, and its place within the transaction.
    pub revision: Revision,
    /// Put or delete.
    pub kind: EventKind,
    /// A put of a key that did not exist then. The transaction itself may have deleted it, so there can be an older version all
    /// the same.
    pub is_creation: bool,
    /// The key; a slice of `kv`.
    pub key: Bytes,
    /// Encoded `mvccpb.KeyValue` as watchers receive it: complete for a put; key and mod_revision for a delete.
    pub kv: Bytes,
}

/// Something that has become true by applying an entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A new leader's empty entry was applied: everything of earlier terms is.
    TermStarted {
        /// The term that has begun.
        term: u64,
    },
    /// A lease exists.
    LeaseGranted {
        /// Its id.
        id: i64,
        /// Its TTL in seconds, after raising to the minimum.
        ttl_s: i64,
    },
    /// A lease is gone, and its keys with it.
    LeaseRevoked {
        /// Its id.
        id: i64,
    },
    /// The leader's note of how long a lease had left.
    LeaseCheckpointed {
        /// Its id.
        id: i64,
        /// Seconds left; 0 means "the full TTL".
        remaining_s: i64,
    },
    /// Revisions below this one cannot be read any more.
    Compacted {
        /// The compacted revision.
        revision: i64,
        /// The proposer waits until the space is given back.
        physical: bool,
    },
    /// A member was added.
    MemberAdded(Member),
    /// A member was removed, for ever.
    MemberRemoved {
        /// Its id.
        id: u64,
    },
    /// A member has new peer URLs.
    MemberUpdated(Member),
    /// A learner has become a voter.
    MemberPromoted(Member),
    /// A member has published its name and client URLs.
    MemberAttributesSet(Member),
    /// Hand this change to raft. A change that was rejected has node id 0, which raft takes as "no change", but must be
    /// handed over as well.
    ConfChanged {
        /// What raft is to apply.
        change: raftpb::ConfChange,
        /// Raft's configuration after it, which raft must agree with.
        conf_state: raftpb::ConfState,
    },
    /// An alarm is on.
    AlarmRaised {
        /// The member that has the trouble.
        member: u64,
        /// `pb::AlarmType` as a number.
        kind: i32,
    },
    /// An alarm is off.
    AlarmCleared {
        /// The member that had the trouble.
        member: u64,
        /// `pb::AlarmType` as a number.
        kind: i32,
    },
    /// The write was applied, but the files exceed the quota: this member should propose a NOSPACE alarm for itself. Reported
    /// only while no NOSPACE alarm is on.
    QuotaExceeded,
    /// The members have agreed on a cluster version.
    ClusterVersionSet(crate::version::Version),
    /// A downgrade was announced (`Some` target) or called off.
    DowngradeSet(Option<String>),
    /// Users, roles or permissions have changed, or whether they count.
    AuthChanged {
        /// Whether permissions are checked.
        enabled: bool,
        /// The auth store's revision after it.
        revision: u64,
    },
    /// A user has been given a token. Every member remembers it, for as long as it is configured to.
    TokenAssigned(Token),
    /// Tokens given out so far are good no more.
    TokensRevoked {
        /// Those of one user; `None` is everybody's.
        user: Option<String>,
    },
}

/// Who has it may act as the user. Not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The user's name.
    pub user: String,
    /// The token.
    pub token: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Why a read has no result.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The answer is "no", with etcd's text.
    #[error("{0}")]
    Rejected(Rejected),
    /// This member's data is damaged.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<Rejected> for ReadError {
    fn from(rejected: Rejected) -> ReadError {
        ReadError::Rejected(rejected)
    }
}

/// Shorthand for an answer "no".
pub(crate) fn reject<T>(error: &'static RpcError) -> Result<T, ReadError> {
    Err(ReadError::Rejected(Rejected(error)))
}

/// A header that carries only the revision.
pub(crate) fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        revision,
        ..Default::default()
    })
}
