//! Whole clusters in one thread, in virtual time, under a seed.
#![forbid(unsafe_code)]

pub mod checker;
pub mod dice;
pub mod plan;
pub mod trace;
pub mod world;
