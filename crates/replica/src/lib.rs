//! What one member decides: a deterministic state machine around raft, and the workers that bind it to storage and state.
//!
//! Time, randomness and the results of I/O come in as [`Input`]s; everything the member wants done goes out as [`Effect`]s.
//! This crate never opens a socket, starts a thread, reads a clock or rolls a dice of its own, so the server runs it on
//! threads and the simulator runs whole clusters of it in one thread, under a seed.
//!
//! Start with [`Replica::step`], then [`workers`] for what its effects lead to, [`snapshots`] for members that fell behind, [`boot`] for how a member comes to life, and
//! [`watch`] for who is told of which change.
#![forbid(unsafe_code)]

pub mod boot;
mod brief;
pub mod duties;
pub mod ids;
pub mod members;
pub mod past;
mod pending;
pub mod ports;
mod raft_core;
mod raft_log;
mod reads;
pub mod snapshots;
mod step;
pub mod watch;
pub mod workers;

pub use ports::{Effect, Input, MemberId, Now, Ports, Reply, Request, Ticket};
pub use step::{Config, Replica, Status};
