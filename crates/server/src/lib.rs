//! server

pub mod config;
pub mod logging;
