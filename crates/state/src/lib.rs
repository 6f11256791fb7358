//! What the cluster agrees on: keys and their history, leases, users and roles, members, alarms, the cluster version.
//!
//! What it is: a function of the log. [`State::apply`] takes the next entry and returns what came of it ([`Applied`]): the answer, the
//! events for watchers, and facts for whoever acts on them. The same entries give the same state and the same answers on every
//! member, byte for byte as etcd stores them, so that `HashKV` is equal in a cluster of both. After each batch the
//! worker publishes a [`ReadView`]; readers never block it.
//!
//! What it never does: it looks at no clock (a lease exists until an entry revokes it), rolls no dice, starts no thread, opens no socket, and
//! names no file; `storage` keeps its bytes. It trusts no entry: an older etcd may have proposed it, so nothing relies on
//! [`validate`], which is for the edge. It knows nothing of raft but the entry.
//!
//! Start with [`State`], then `mvcc`. To add a kind of request, begin at the table in `apply/mod.rs`.
#![forbid(unsafe_code)]

pub mod alarm;
mod apply;
pub mod auth;
pub mod lease;
pub mod membership;
pub mod mvcc;
mod outcome;
pub mod quota;
mod restore;
mod state;
mod tables;
pub mod validate;
pub mod version;
mod view;
mod walk;

pub use mvcc::hash::KvHash;
pub use mvcc::kept::{HashDone, HashJob};
pub use mvcc::read::RangeResult;
pub use outcome::{Applied, Event, EventKind, Fact, ReadError, Rejected, Response, Token};
pub use restore::{Importer, check_tables};
pub use state::{Params, State};
pub use storage::segments::Revision;
pub use view::{BUCKETS, EventPage, ReadView};
pub use walk::RowWalk;
