//! server

pub mod calls;
pub mod config;
pub mod grpc;
pub mod http;
pub mod logging;
pub mod member;
pub mod metrics;
pub mod run;
pub mod threads;
pub mod transport;
pub mod watching;
