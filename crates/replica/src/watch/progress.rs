//! Progress: telling a client that it has everything up to a revision.
//!
//! A progress message is an ordinary message of its stream's queue and is produced only when every watcher it speaks for
//! is synced, so that all their events are in the queue before it (etcd #15220).

use storage::planted;

use super::api::{Effect, Message, NO_WATCH_ID};
use super::registry::{Registry, State};
use super::slots::Slot;
use crate::Now;

/// What stands between a stream and its progress message.
enum Verdict {
    /// Nothing.
    Send,
    /// Events or credit that will come.
    Wait,
    /// A watcher of a future revision: there is nothing true to say.
    Drop,
}

impl Registry {
    /// Notes a manual request that came when the edge had seen `revision`. Several unanswered ones become one.
    ///
    /// etcd stays silent when a watcher is unsynced at that moment, and the client has to ask again. Here batches
    /// and turns may leave a watcher behind for an instant, so the answer is given as soon as it is true. Silence remains
    /// for a stream without watchers and for one that watches a future revision (etcd #20221).
    pub fn want_progress(&mut self, slot: Slot, revision: i64) {
        let stream = self.streams.get_mut(slot);
        let horizon = revision.max(self.revision);
        let future = |&watcher: &Slot| self.watchers.get(watcher).start_revision > horizon;
        if stream.watchers.is_empty() || stream.watchers.values().any(future) {
            return;
        }
        stream.progress_wanted = stream.progress_wanted.max(Some(revision));
        self.progress_wanted.insert(slot);
    }

    /// Answers the manual requests that can be answered now.
    pub fn answer_all_progress(&mut self, effects: &mut Vec<Effect>) {
        if self.progress_wanted.is_empty() {
            return;
        }
        for slot in self.progress_wanted.iter().copied().collect::<Vec<_>>() {
            self.answer_progress(slot, effects);
        }
    }

    /// Answers the stream's manual request if there is one and its time has come.
    pub fn answer_progress(&mut self, slot: Slot, effects: &mut Vec<Effect>) {
        match self.progress_verdict(slot) {
            Verdict::Wait => return,
            Verdict::Send => self.deliver_progress(slot, NO_WATCH_ID, effects),
            Verdict::Drop => {}
        }
        self.streams.get_mut(slot).progress_wanted = None;
        self.progress_wanted.remove(&slot);
    }

    fn progress_verdict(&self, slot: Slot) -> Verdict {
        let stream = self.streams.get(slot);
        let Some(wanted) = stream.progress_wanted else {
            return Verdict::Wait;
        };
        let behind = stream.behind > 0 && !planted!(ProgressOvertakesEvents);
        if self.revision < wanted || behind || !self.has_credit(stream) {
            return Verdict::Wait;
        }
        if stream.watchers.is_empty() {
            return Verdict::Drop;
        }
        let mut verdict = Verdict::Send;
        for &watcher in stream.watchers.values() {
            let watcher = self.watchers.get(watcher);
            if watcher.start_revision > self.revision {
                return Verdict::Drop;
            }
            let synced = matches!(watcher.state, State::Synced { .. });
            if !synced && !planted!(ProgressOvertakesEvents) {
                verdict = Verdict::Wait;
            }
        }
        verdict
    }

    /// Sends the periodic notifications that are due: one for each watcher that asked for them, is synced, and had no event
    /// since the last time. A stream without credit is left out until the next time: its client is busy reading.
    pub fn notify_progress(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some(&(due, slot)) = self.deadlines.first() {
            if due > now.monotonic_us {
                return;
            }
            self.deadlines.remove(&(due, slot));
            self.notify_stream(slot, effects);
            let stream = self.streams.get_mut(slot);
            stream.deadline_us = now.monotonic_us.saturating_add(stream.interval_us);
            self.deadlines.insert((stream.deadline_us, slot));
        }
    }

    fn notify_stream(&mut self, slot: Slot, effects: &mut Vec<Effect>) {
        let watchers: Vec<Slot> = self.streams.get(slot).watchers.values().copied().collect();
        for watcher in watchers {
            let watcher = self.watchers.get_mut(watcher);
            if !watcher.progress_notify {
                continue;
            }
            let quiet = std::mem::replace(&mut watcher.quiet, true);
            let synced = matches!(watcher.state, State::Synced { .. });
            let started = watcher.start_revision <= self.revision;
            let watch_id = watcher.watch_id;
            if quiet && synced && started && self.has_credit(self.streams.get(slot)) {
                self.deliver_progress(slot, watch_id, effects);
            }
        }
    }

    fn deliver_progress(&mut self, slot: Slot, watch_id: i64, effects: &mut Vec<Effect>) {
        let message = Message {
            header_revision: self.revision,
            watch_id,
            ..Message::default()
        };
        self.deliver(slot, message, effects);
    }
}
