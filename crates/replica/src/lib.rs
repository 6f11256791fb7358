//! replica
#![forbid(unsafe_code)]
