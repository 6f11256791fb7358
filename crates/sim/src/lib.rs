//! Whole clusters in one thread, in virtual time, under a seed.
//!
//! What it is: real members (`replica`, `state`, `storage`, their codecs and their files) on a simulated network, disk and clock, with
//! clients that call and watch, faults that happen to all of it, and a checker that places every answer at its revision. The
//! same seed gives the same run, to the byte.
//!
//! What it never does: it uses no async runtime, starts no thread, and reads no clock but the simulated one (`bin/` is the edge). It
//! does not run `server`: sockets, HTTP/2 and the threads of a real process are the business of `conformance`.
//!
//! Start with [`world::run`] for one world, [`plan`] for what a seed draws, [`checker::check`] for what a history must satisfy.
//! [`auth`] is apart: users and permissions, without a world around them.
#![forbid(unsafe_code)]

pub mod auth;
pub mod checker;
pub mod dice;
pub mod plan;
pub mod trace;
pub mod world;
