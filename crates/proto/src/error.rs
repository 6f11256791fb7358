//! Every error text a client may see, with its gRPC code: one table.
//!
//! Clients in all languages tell errors apart by the text, so each byte here is part of the
//! protocol. [`ALL`] lists the whole table. A constant bears etcd's name: `ErrGRPCCompacted`
//! is [`COMPACTED`]. Codes are those of 3.7.
//!
//! Two traps. A code of [`Code::Unknown`] is no oversight: etcd answers so, and dashboards and
//! retry rules rely on it. And two constants of etcd's catalogue are never sent by etcd,
//! [`MEMBER_NOT_ENOUGH_STARTED`] and [`REQUEST_TOO_MANY_REQUESTS`]; their doubles with code
//! Unknown are.
//!
//! Texts that carry numbers are made where they arise and are not here.
//! Source: upstream `api/v3rpc/rpctypes/error.go`, `server/etcdserver/api/v3rpc/util.go`.

use std::fmt;

/// gRPC status codes by their numbers on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names are gRPC's")]
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// All codes in order of their numbers.
    pub const ALL: [Code; 17] = [
        Code::Ok,
        Code::Canceled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    /// The number sent as `grpc-status`.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The code of a received number; numbers gRPC does not define count as Unknown.
    pub fn from_number(number: u32) -> Code {
        usize::try_from(number)
            .ok()
            .and_then(|index| Code::ALL.get(index).copied())
            .unwrap_or(Code::Unknown)
    }

    /// The name Go prints, which also labels the gRPC metrics: `OutOfRange`, `OK`.
    pub const fn name(self) -> &'static str {
        match self {
            Code::Ok => "OK",
            Code::Canceled => "Canceled",
            Code::Unknown => "Unknown",
            Code::InvalidArgument => "InvalidArgument",
            Code::DeadlineExceeded => "DeadlineExceeded",
            Code::NotFound => "NotFound",
            Code::AlreadyExists => "AlreadyExists",
            Code::PermissionDenied => "PermissionDenied",
            Code::ResourceExhausted => "ResourceExhausted",
            Code::FailedPrecondition => "FailedPrecondition",
            Code::Aborted => "Aborted",
            Code::OutOfRange => "OutOfRange",
            Code::Unimplemented => "Unimplemented",
            Code::Internal => "Internal",
            Code::Unavailable => "Unavailable",
            Code::DataLoss => "DataLoss",
            Code::Unauthenticated => "Unauthenticated",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One row of the table. Displays as its text, which is also the `grpc-message`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RpcError {
    /// The `grpc-status`.
    pub code: Code,
    /// The whole text, prefix included.
    pub text: &'static str,
}

impl RpcError {
    /// The form Go prints for a status, `rpc error: code = OutOfRange desc = …`. Watch
    /// cancel reasons about permissions use it, all others the bare text.
    pub fn long_text(&self) -> String {
        format!("rpc error: code = {} desc = {}", self.code, self.text)
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

impl std::error::Error for RpcError {}

/// Makes a constant of each row and [`ALL`] of all.
macro_rules! table {
    ($($(#[doc = $doc:literal])* $name:ident = $code:ident $text:literal;)*) => {
        $(
            #[doc = concat!("`", stringify!($code), "`, `", $text, "`.")]
            $(#[doc = ""] #[doc = $doc])*
            pub const $name: RpcError = RpcError { code: Code::$code, text: $text };
        )*
        /// The whole table.
        pub static ALL: &[RpcError] = &[$($name),*];
    };
}

table! {
    // Keys, transactions, revisions.
    EMPTY_KEY = InvalidArgument "etcdserver: key is not provided";
    /// Also the answer to a transaction that holds an empty operation.
    KEY_NOT_FOUND = InvalidArgument "etcdserver: key not found";
    VALUE_PROVIDED = InvalidArgument "etcdserver: value is provided";
    LEASE_PROVIDED = InvalidArgument "etcdserver: lease is provided";
    TOO_MANY_OPS = InvalidArgument "etcdserver: too many operations in txn request";
    DUPLICATE_KEY = InvalidArgument "etcdserver: duplicate key given in txn request";
    /// Since 3.6.
    INVALID_SORT_OPTION = InvalidArgument "etcdserver: invalid sort option";
    COMPACTED = OutOfRange "etcdserver: mvcc: required revision has been compacted";
    FUTURE_REV = OutOfRange "etcdserver: mvcc: required revision is a future revision";
    NO_SPACE = ResourceExhausted "etcdserver: mvcc: database space exceeded";
    REQUEST_TOO_LARGE = InvalidArgument "etcdserver: request is too large";
    /// etcd never sends it, see [`TOO_MANY_REQUESTS`]; here it refuses what is above a bound of our own.
    REQUEST_TOO_MANY_REQUESTS = ResourceExhausted "etcdserver: too many requests";
    /// More than 5000 committed entries wait to be applied.
    TOO_MANY_REQUESTS = Unknown "etcdserver: too many requests";
    RANGE_STREAM_SORT = Unimplemented "RangeStream does not support custom sort orders";
    RANGE_STREAM_FILTER = Unimplemented "RangeStream does not support revision filters";
    RANGE_STREAM_PROXY = Unimplemented "RangeStream is not supported by the gRPC proxy";

    // Leases.
    LEASE_NOT_FOUND = NotFound "etcdserver: requested lease not found";
    LEASE_EXIST = FailedPrecondition "etcdserver: lease already exists";
    LEASE_TTL_TOO_LARGE = OutOfRange "etcdserver: too large lease TTL";
    /// Keepalive at a leader that cannot confirm its leadership.
    NOT_PRIMARY = Unknown "not a primary lessor";

    // Watch streams as a whole; for single watchers see the cancel reasons below.
    WATCH_CANCELED = Canceled "etcdserver: watch canceled";

    // Membership.
    MEMBER_EXIST = FailedPrecondition "etcdserver: member ID already exist";
    PEER_URL_EXIST = FailedPrecondition "etcdserver: Peer URLs already exists";
    /// Never sent; see [`NOT_ENOUGH_STARTED_MEMBERS`].
    MEMBER_NOT_ENOUGH_STARTED = FailedPrecondition "etcdserver: re-configuration failed due to not enough started members";
    /// The change would leave too few started members for a quorum.
    NOT_ENOUGH_STARTED_MEMBERS = Unknown "etcdserver: re-configuration failed due to not enough started members";
    MEMBER_BAD_URLS = InvalidArgument "etcdserver: given member URLs are invalid";
    MEMBER_NOT_FOUND = NotFound "etcdserver: member not found";
    MEMBER_NOT_LEARNER = FailedPrecondition "etcdserver: can only promote a learner member";
    LEARNER_NOT_READY = FailedPrecondition "etcdserver: can only promote a learner member which is in sync with leader";
    TOO_MANY_LEARNERS = FailedPrecondition "etcdserver: too many learner members in cluster";
    CLUSTER_ID_MISMATCH = FailedPrecondition "etcdserver: cluster ID mismatch";

    // Users, roles, tokens.
    ROOT_USER_NOT_EXIST = FailedPrecondition "etcdserver: root user does not exist";
    ROOT_ROLE_NOT_EXIST = FailedPrecondition "etcdserver: root user does not have root role";
    USER_ALREADY_EXIST = FailedPrecondition "etcdserver: user name already exists";
    USER_EMPTY = InvalidArgument "etcdserver: user name is empty";
    USER_NOT_FOUND = FailedPrecondition "etcdserver: user name not found";
    ROLE_ALREADY_EXIST = FailedPrecondition "etcdserver: role name already exists";
    ROLE_NOT_FOUND = FailedPrecondition "etcdserver: role name not found";
    ROLE_EMPTY = InvalidArgument "etcdserver: role name is empty";
    AUTH_FAILED = InvalidArgument "etcdserver: authentication failed, invalid user ID or password";
    PERMISSION_NOT_GIVEN = InvalidArgument "etcdserver: permission not given";
    PERMISSION_DENIED = PermissionDenied "etcdserver: permission denied";
    ROLE_NOT_GRANTED = FailedPrecondition "etcdserver: role is not granted to the user";
    PERMISSION_NOT_GRANTED = FailedPrecondition "etcdserver: permission is not granted to the role";
    AUTH_NOT_ENABLED = FailedPrecondition "etcdserver: authentication is not enabled";
    INVALID_AUTH_TOKEN = Unauthenticated "etcdserver: invalid auth token";
    INVALID_AUTH_MGMT = InvalidArgument "etcdserver: invalid auth management";
    AUTH_OLD_REVISION = InvalidArgument "etcdserver: revision of auth store is old";
    NO_PASSWORD_USER = Unknown "auth: authentication failed, password was given for no password user";
    INVALID_AUTH_OPTS = Unknown "auth: invalid auth options";
    INVALID_AUTH_METHOD = Unknown "auth: invalid auth signature method";
    MISSING_KEY = Unknown "auth: missing key data";
    KEY_MISMATCH = Unknown "auth: public and private keys don't match";
    VERIFY_ONLY = Unknown "auth: token signing attempted with verify-only key";

    // The cluster and this member's place in it.
    NO_LEADER = Unavailable "etcdserver: no leader";
    NOT_LEADER = FailedPrecondition "etcdserver: not leader";
    LEADER_CHANGED = Unavailable "etcdserver: leader changed";
    /// Code Unavailable before 3.6.
    NOT_CAPABLE = FailedPrecondition "etcdserver: not capable";
    STOPPED = Unavailable "etcdserver: server stopped";
    TIMEOUT = Unavailable "etcdserver: request timed out";
    TIMEOUT_DUE_TO_LEADER_FAIL = Unavailable "etcdserver: request timed out, possibly due to previous leader failure";
    TIMEOUT_DUE_TO_CONNECTION_LOST = Unavailable "etcdserver: request timed out, possibly due to connection lost";
    TIMEOUT_WAIT_APPLIED_INDEX = Unavailable "etcdserver: request timed out, waiting for the applied index took too long";
    TIMEOUT_LEADER_TRANSFER = Unknown "etcdserver: request timed out, leader transfer took too long";
    UNHEALTHY = Unavailable "etcdserver: unhealthy cluster";
    CORRUPT = DataLoss "etcdserver: corrupt cluster";
    /// Code Unavailable before 3.6.
    NOT_SUPPORTED_FOR_LEARNER = FailedPrecondition "etcdserver: rpc not supported for learner";
    BAD_LEADER_TRANSFEREE = FailedPrecondition "etcdserver: bad leader transferee";
    /// Since 3.6: the `client-api-version` metadata is not UTF-8.
    INVALID_CLIENT_API_VERSION = InvalidArgument "etcdserver: invalid client api version";
    /// An alarm or downgrade action that does not exist.
    UNKNOWN_METHOD = Unknown "etcdserver: unknown method";

    // Downgrade.
    WRONG_DOWNGRADE_VERSION_FORMAT = InvalidArgument "etcdserver: wrong downgrade target version format";
    INVALID_DOWNGRADE_TARGET_VERSION = InvalidArgument "etcdserver: invalid downgrade target version";
    /// Code Unavailable before 3.6.
    CLUSTER_VERSION_UNAVAILABLE = FailedPrecondition "etcdserver: cluster version not found during downgrade";
    DOWNGRADE_IN_PROCESS = FailedPrecondition "etcdserver: cluster has a downgrade job in progress";
    NO_INFLIGHT_DOWNGRADE = FailedPrecondition "etcdserver: no inflight downgrade job";

    // The caller went away or ran out of time.
    /// The server gave the request up; not the text for a client that did.
    CANCELED = Canceled "etcdserver: request canceled";
    /// Client side only; a server answers [`CONTEXT_DEADLINE_EXCEEDED`].
    DEADLINE_EXCEEDED = DeadlineExceeded "etcdserver: context deadline exceeded";
    CONTEXT_CANCELED = Canceled "context canceled";
    CONTEXT_DEADLINE_EXCEEDED = DeadlineExceeded "context deadline exceeded";

    // Elections.
    ELECTION_MISSING_LEADER_KEY = Unknown "\"leader\" field must be provided";
    ELECTION_NO_LEADER = Unknown "election: no leader";
    ELECTION_NOT_LEADER = Unknown "election: not leader";

    // gRPC's own services.
    HEALTH_UNKNOWN_SERVICE = NotFound "unknown service";
}

/// Cancel reason of a watcher whose key does not lie before its range end.
pub const WATCH_REASON_EMPTY_RANGE: &str = "mvcc: watcher range is empty";

/// Cancel reason of a watcher with an id already in use on its stream.
pub const WATCH_REASON_DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_never_sent_errors_share_their_text() {
        let mut shared = Vec::new();
        for (index, error) in ALL.iter().enumerate() {
            if ALL[..index].iter().any(|other| other.text == error.text) {
                shared.push(*error);
            }
        }
        assert_eq!(shared, [TOO_MANY_REQUESTS, NOT_ENOUGH_STARTED_MEMBERS]);
    }

    #[test]
    fn a_mapped_error_has_the_prefix_and_an_unprefixed_one_is_a_known_trap() {
        let bare: Vec<&str> = ALL
            .iter()
            .filter(|error| !error.text.starts_with("etcdserver: "))
            .map(|error| error.text)
            .collect();
        assert_eq!(bare.len(), 16, "{bare:?}");
        for error in ALL {
            assert_ne!(error.code, Code::Ok);
            assert_eq!(error.text.trim(), error.text);
            assert!(
                error.text.is_ascii() && !error.text.contains('%'),
                "sent unescaped"
            );
        }
    }

    #[test]
    fn codes_carry_grpc_numbers_both_ways() {
        for (number, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(code.number()), number);
            assert_eq!(Code::from_number(u32::from(code.number())), code);
        }
        assert_eq!(Code::from_number(17), Code::Unknown);
        assert_eq!(Code::from_number(u32::MAX), Code::Unknown);
    }

    #[test]
    fn texts_and_codes_are_those_clients_match_on() {
        let expected = [
            (
                COMPACTED,
                11,
                "etcdserver: mvcc: required revision has been compacted",
            ),
            (NO_SPACE, 8, "etcdserver: mvcc: database space exceeded"),
            (MEMBER_EXIST, 9, "etcdserver: member ID already exist"),
            (PEER_URL_EXIST, 9, "etcdserver: Peer URLs already exists"),
            (LEASE_NOT_FOUND, 5, "etcdserver: requested lease not found"),
            (INVALID_AUTH_TOKEN, 16, "etcdserver: invalid auth token"),
            (CORRUPT, 15, "etcdserver: corrupt cluster"),
            (NO_LEADER, 14, "etcdserver: no leader"),
            (TOO_MANY_REQUESTS, 2, "etcdserver: too many requests"),
            (CANCELED, 1, "etcdserver: request canceled"),
        ];
        for (error, number, text) in expected {
            assert_eq!((error.code.number(), error.text), (number, text));
        }
    }

    #[test]
    fn the_long_text_is_gos() {
        assert_eq!(
            PERMISSION_DENIED.long_text(),
            "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
        );
    }
}
