//! Multi-version key space: what the cluster stores under each key, at every revision not yet compacted.

pub mod tree;
