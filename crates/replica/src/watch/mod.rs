//! Watch: who is told of which change.
//!
//! A [`Hub`] owns the watchers of some client streams. It receives every applied batch and compares start revisions with
//! the last batch *it* has handled, never with what another thread has published meanwhile, so there is no moment between
//! "read the revision" and "register" in which an event could get lost (etcd #17529, #15271).
//!
//! What it promises for each watcher, whatever the client, the compactor and the leader do:
//!
//! - *ordered, unique, reliable*: every matching event from its start revision on, once, in order of revision;
//! - *atomic*: a revision is never split over messages, unless the client allowed fragments;
//! - *resumable*: a watcher is a cursor; a new one that starts after the last event received goes on exactly there, or is
//!   told that the revision is compacted;
//! - *bookmarkable*: after a progress message with revision r no event at or below r follows.
//!
//! How: a *synced* watcher gets the events of a batch as bytes that were encoded once for all who are due the same ones.
//! A stream may have a limited number of messages and bytes under way; without credit its watchers are *blocked* and keep
//! nothing but the revision they are due next. Those that are *behind* read history from the published view, a bounded
//! slice per turn, and share what they read. Synced watchers never wait for them.
//!
//! Bounded memory: what is under way is limited by stream and in total ([`Limits`]). When a limit is reached, watchers
//! fall behind; nothing is dropped, nobody else waits. Only a client that keeps sending requests without reading the
//! answers is ended ([`Effect::Overrun`]), and creations beyond [`Limits::watchers`] are refused. The edge does its part
//! by not reading requests of a stream while the stream's own queue holds more than a few messages.
//!
//! What it never does: it starts no thread, reads no clock, opens no socket, takes no lock. It doesn't check
//! permissions; the edge does, and passes its verdict along with the request so that answers keep their order.
//!
//! Running it: send [`Input`]s to [`Hub::step`] and do the [`Effect`]s. After [`Effect::WantsTurn`], send
//! [`Input::Tick`] once the inbox is empty. Several hubs may share the streams of a member; each gets every batch.
//!
//! Start with [`Hub::step`]; then `registry` for the states of a watcher. Source of the rules: upstream
//! `server/storage/mvcc/watchable_store.go`, `watcher.go`, `server/etcdserver/api/v3rpc/watch.go`.

mod api;
mod catch_up;
mod check;
mod encode;
mod history;
mod hub;
mod index;
mod progress;
mod registry;
mod slots;
#[cfg(test)]
mod tests;

pub use api::{Effect, Input, Limits, Message, NO_WATCH_ID, Stats, StreamId};
pub use history::{Event, EventKind, History};
pub use hub::Hub;
