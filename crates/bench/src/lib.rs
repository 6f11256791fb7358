//! The load generator `quorate-bench`: any etcd endpoint, closed or open loop, and two servers side by side.
//!
//! It never links a server: what it measures it reaches over the network, and what it knows about the process (CPU, memory) it reads from `/proc`. Linux only.
//! It shares the machine with what it measures, so its own cost per request is kept to about a microsecond ([`transport`]).
//!
//! Start with [`workload::run`] for one run ([`engine`] is its event loop), [`compare`] for two servers in turn, [`members`] for two clusters, [`figures`] for what they are held to.

#![forbid(unsafe_code)]

pub mod args;
pub mod cluster;
pub mod compare;
pub mod engine;
pub mod figures;
pub mod load;
pub mod members;
pub mod plot;
pub mod procfs;
pub mod report;
pub mod servers;
pub mod stats;
pub mod table;
pub mod transport;
pub mod workload;
