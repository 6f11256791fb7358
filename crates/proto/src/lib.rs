//! The wire vocabulary of etcd 3.7: every message a client, a peer or a log file may hold,
//! the service methods, and the error texts clients match on.
//!
//! The messages are compiled from `protos/*.proto`. Field numbers and enum values are
//! etcd's and fixed for ever; names follow them in Rust spelling (`ID` is `id`, `peerURLs`
//! is `peer_ur_ls`). All `bytes` fields are [`bytes::Bytes`]: decoding from `Bytes` shares
//! the input. Fields are written in ascending order of number, and proto3 zeros are left
//! out, which makes stored records byte-identical to etcd's.
//!
//! The proto2 messages ([`raftpb`], [`walpb`], [`snappb`], [`etcdserverpb::Request`] and
//! [`etcdserverpb::Metadata`]) keep presence as `Option`; their getters (`entry.term()`)
//! read absent as zero, as etcd does. Up to 3.6 etcd writes the zeros, from 3.7 on only
//! what is set: draw no distinction from presence. Only `prev_exist` and `refresh` of a v2
//! request have three states.
//!
//! This crate knows shapes and texts, no rules: it never checks, orders or applies a
//! request, and it knows no transport.
//!
//! Start with [`etcdserverpb::InternalRaftRequest`] for what the members agree on, and
//! with [`methods`] and [`error`] for what clients see.
//!
//! Decoding refuses nesting deeper than 100 messages, strings that are not UTF-8, and
//! truncated or mistyped fields; it skips unknown fields. `Debug` output never shows
//! passwords, password hashes or tokens.
#![forbid(unsafe_code)]

mod debug;
pub mod error;
pub mod methods;

/// Declares modules of generated code.
macro_rules! generated {
    ($($(#[$doc:meta])* $name:ident = $package:literal;)*) => {$(
        $(#[$doc])*
        #[allow(missing_docs, clippy::all)]
        pub mod $name {
            include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
        }
    )*};
}

generated! {
    /// The client API, the payload of raft entries, and the remains of v2.
    etcdserverpb = "etcdserverpb";
    /// Stored key versions and watch events.
    mvccpb = "mvccpb";
    /// Stored users and roles.
    authpb = "authpb";
    /// Membership facts in the raft log.
    membershippb = "membershippb";
    /// The stored lease record and lease queries between members.
    leasepb = "leasepb";
    /// Raft messages, entries and configuration changes.
    raftpb = "raftpb";
    /// Records of etcd's write-ahead log files.
    walpb = "walpb";
    /// Envelope of etcd's snapshot files.
    snappb = "snappb";
    /// The lock service.
    v3lockpb = "v3lockpb";
    /// The election service.
    v3electionpb = "v3electionpb";
}

/// The standard gRPC services.
pub mod grpc {
    /// The health service.
    pub mod health {
        generated! {
            /// Version 1, the only one.
            v1 = "grpc.health.v1";
        }
    }
}
