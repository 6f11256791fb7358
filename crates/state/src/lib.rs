//! state

pub mod mvcc;
