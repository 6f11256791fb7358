//! The black box: the same tests against our binary and against real etcd, and the rules of the repository as tests.
//!
//! This library is the harness: where the programs are ([`programs`]), a server in a fresh folder on free ports
//! ([`server`]), a gRPC client small enough to send what no proper client would ([`grpc`]), `etcdctl` ([`ctl`]), the tools for snapshot files
//! ([`snapshots`]), and the rule
//! that a suite says why it did not run ([`suite`]). It never looks inside the product: only argv, ports, files and exit codes.
//! The one crate of ours that it names is `proto`, for the messages on the wire.
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
//! | `QUORATE_REFERENCE` | the folder of the real etcd to compare with, for instance `etcd-3.5.1` |

#![forbid(unsafe_code)]

pub mod ctl;
pub mod grpc;
pub mod programs;
pub mod server;
pub mod snapshots;
pub mod suite;
