//! What one member does: connections, protocols, configuration, logs, metrics, and the threads on which the rest runs.
//!
//! The only crate that reads a clock, rolls dice, opens sockets and starts threads. It decides nothing that the cluster has to agree on and
//! knows no format on disk: a request is decoded, checked, and handed to `replica`; what comes back is encoded.
//!
//! Start with [`run::run`] for the life of a member, [`threads`] for who works where, [`grpc::route`] for what a request leads to.

pub mod bootstrap;
pub mod calls;
pub mod changes;
pub mod config;
pub mod forward;
pub mod grpc;
pub mod http;
pub mod inbox;
pub mod logging;
pub mod long_calls;
pub mod member;
pub mod metered;
pub mod metrics;
pub mod monitor;
pub mod peer;
pub mod questions;
pub mod run;
pub mod threads;
pub mod tls;
pub mod transport;
pub mod watching;
