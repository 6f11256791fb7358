//! The black box: the same tests against our binary and against real etcd, and the rules of the repository as tests.
//!
//! This library is the harness: where the programs are ([`programs`]), a server in a fresh folder on free ports
//! ([`server`]), a gRPC client small enough to send what no proper client would ([`grpc`]), `etcdctl` ([`ctl`]), the tools for snapshot files
//! ([`snapshots`]), whole clusters of real processes and what can happen to them ([`cluster`]), clients whose histories are judged ([`history`]),
//! certificates and a TLS client ([`certs`], [`tls`]), and the rule
//! that a suite says why it did not run ([`suite`]). It never looks inside the product: only argv, ports, files and exit codes.
//! The crates of ours that it names are `proto`, for the messages on the wire, and `sim`, for its checker of histories and nothing else.
//!
//! Start with `tests/`, one file per suite: each can be run alone (`cargo test -p conformance --test etcdctl`).
//!
//! | variable | meaning |
//! |---|---|
//! | `QUORATE_BIN` | the server to test; without it the binary that cargo built beside the test |
//! | `QUORATE_PEERS` | what `scripts/install-peers.sh` filled; without it `target/peers` |
//! | `QUORATE_DIFFTEST_DIR` | the differential tester; without it `../shared/tools/difftest` beside the repository |
//! | `QUORATE_REQUIRE_ALL=1` | a suite that cannot run fails instead of being skipped (CI) |
//! | `QUORATE_OPS`, `QUORATE_ROUNDS`, `QUORATE_SEED` | more or less work, and the seed to repeat |
//! | `QUORATE_BLACKBOX_SECONDS`, `QUORATE_KILLS`, `QUORATE_POWER_CUTS` | how long the black box runs |
//! | `QUORATE_UNDER_TEST` | the folder of a real etcd that the black box shall test instead of our server |
//! | `QUORATE_REFERENCE` | the folder of the real etcd to compare with, for instance `etcd-3.5.1` |

#![forbid(unsafe_code)]

pub mod certs;
pub mod cluster;
pub mod ctl;
pub mod grpc;
pub mod history;
pub mod programs;
pub mod server;
pub mod snapshots;
pub mod suite;
pub mod tls;
