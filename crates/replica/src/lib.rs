//! replica
#![forbid(unsafe_code)]

pub mod watch;
