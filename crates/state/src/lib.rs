//! state
#![forbid(unsafe_code)]

pub mod mvcc;
