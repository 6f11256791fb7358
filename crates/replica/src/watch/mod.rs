//! Watch: who is told of which change.
//!
//! A [`Hub`] owns watchers by key and by interval. It receives every applied batch and compares start revisions with the
//! last batch *it* has seen, never with what another thread has published meanwhile, so there is no moment between
//! "read the revision" and "register" in which an event could get lost (etcd #17529, #15271).

mod api;
mod history;

pub use api::{Effect, Input, Limits, Message, NO_WATCH_ID, Stats, StreamId};
pub use history::{Event, EventKind, History};
