//! Streams, watchers and interests, and the moves of a watcher between its states.
//!
//! ```text
//!              create                         publish reaches `next`
//!    ┌───────────┼──────────────┐          ┌──────────────────────────┐
//!    ▼           ▼              ▼          │                          │
//!  Behind ──► Synced         Waiting ──────┴──► Synced, or Behind when the batch went past `next`
//!    │  ▲ end of    │
//!    │  │ history   │ no credit: the cursor stays where the undelivered event is
//!    ▼  │           ▼
//!  Blocked ◄────────┘          Blocked ──► Behind when the stream has credit again
//! ```
//!
//! A watcher that is not synced is nothing but a cursor: the revision it is due next.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use storage::planted;

use super::api::{Effect, Limits, Message, Stats, StreamId};
use super::encode::{Chunk, fragments};
use super::history::EventKind;
use super::index::{Index, Span};
use super::slots::{Slot, Slots};

/// Everything a hub knows but the view.
#[derive(Debug)]
pub(super) struct Registry {
    pub limits: Limits,
    /// The last revision this hub has handled. Start revisions are compared with this one and no other.
    pub revision: i64,
    pub streams: Slots<Stream>,
    pub stream_slots: BTreeMap<StreamId, Slot>,
    pub watchers: Slots<Watcher>,
    pub interests: Slots<Interest>,
    interest_slots: BTreeMap<InterestKey, Slot>,
    pub index: Index,
    /// Watchers that could read history now, by cursor.
    pub behind: BTreeSet<(i64, Slot)>,
    /// Watchers of a future revision, by that revision.
    pub waiting: BTreeSet<(i64, Slot)>,
    /// The revisions of the last slice of catch-up; the next one goes to whoever comes after it.
    pub swept: Range<i64>,
    /// When which stream's progress notifications are due.
    pub deadlines: BTreeSet<(u64, Slot)>,
    /// Streams with an unanswered manual progress request.
    pub progress_wanted: BTreeSet<Slot>,
    /// Ids held by watchers that compaction overtook, of all streams.
    pub overtaken: usize,
    pub outstanding_bytes: usize,
    pub behind_count: usize,
    pub events: u64,
    pub messages: u64,
}

/// A client stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub id: StreamId,
    pub watchers: BTreeMap<i64, Slot>,
    /// Ids of watchers that compaction overtook. The client still owns them: it cancels them and gets its answer.
    pub overtaken: BTreeSet<i64>,
    /// Where the search for an automatic id begins.
    pub next_id: i64,
    /// Delivered and not yet given back.
    pub out_messages: usize,
    pub out_bytes: usize,
    /// Watchers that have something to receive, but no credit; first come, first served.
    pub blocked: VecDeque<Slot>,
    /// How many watchers are behind or blocked.
    pub behind: usize,
    /// A manual progress request, to be answered with at least this revision.
    pub progress_wanted: Option<i64>,
    pub deadline_us: u64,
    pub interval_us: u64,
}

/// A watcher. Sixty-four bytes, the rest is shared.
#[derive(Debug)]
pub(super) struct Watcher {
    pub stream: Slot,
    pub interest: Slot,
    pub watch_id: i64,
    /// As requested: 0 is "now".
    pub start_revision: i64,
    pub state: State,
    pub fragment: bool,
    pub progress_notify: bool,
    /// No event since the last progress notification fell due.
    pub quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Has everything up to the hub's revision; `place` is its position among the synced watchers of its interest.
    Synced { place: u32 },
    /// Wants nothing before `next`, which is further ahead than the hub's next revision.
    Waiting { next: i64 },
    /// Reads history from `next` on.
    Behind { next: i64 },
    /// Has an event at `next` or later to receive, but its stream has no credit.
    Blocked { next: i64 },
}

/// What watchers have in common that get the same events: they share matching and encoding.
#[derive(Debug)]
pub(super) struct Interest {
    pub key: InterestKey,
    /// All its watchers, in whatever state.
    pub members: usize,
    pub synced: Vec<Slot>,
    /// Scratch of one delivery: positions of the matching events.
    pub hits: Vec<u32>,
    /// Scratch of one slice of catch-up: takes part.
    pub marked: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct InterestKey {
    pub span: Span,
    pub no_put: bool,
    pub no_delete: bool,
    pub prev_kv: bool,
}

impl InterestKey {
    pub fn accepts(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }
}

impl Registry {
    pub fn new(limits: Limits, revision: i64) -> Registry {
        Registry {
            limits,
            revision,
            streams: Slots::new(),
            stream_slots: BTreeMap::new(),
            watchers: Slots::new(),
            interests: Slots::new(),
            interest_slots: BTreeMap::new(),
            index: Index::new(),
            behind: BTreeSet::new(),
            waiting: BTreeSet::new(),
            swept: 0..0,
            deadlines: BTreeSet::new(),
            progress_wanted: BTreeSet::new(),
            overtaken: 0,
            outstanding_bytes: 0,
            behind_count: 0,
            events: 0,
            messages: 0,
        }
    }

    pub fn stats(&self) -> Stats {
        Stats {
            streams: self.streams.len(),
            watchers: self.watchers.len(),
            behind: self.behind_count,
            outstanding_bytes: self.outstanding_bytes,
            events: self.events,
            messages: self.messages,
        }
    }

    // Watchers.

    /// Adds a watcher whose id is free on its stream. `next` is the first revision it is due.
    pub fn add_watcher(&mut self, mut watcher: Watcher, key: InterestKey, next: i64) {
        let interest = self.join_interest(key);
        watcher.interest = interest;
        let (stream, watch_id) = (watcher.stream, watcher.watch_id);
        let slot = self.watchers.insert(watcher);
        let taken = self.streams.get_mut(stream).watchers.insert(watch_id, slot);
        assert_eq!(taken, None, "watch id {watch_id} is unique on its stream");
        self.settle(slot, next);
    }

    /// Puts a watcher that is in no set into the one where a cursor at `next` belongs.
    pub fn settle(&mut self, slot: Slot, mut next: i64) {
        if planted!(FutureWatchGetsOldEvents) {
            next = next.min(self.revision + 1);
        }
        if next > self.revision + 1 {
            self.watchers.get_mut(slot).state = State::Waiting { next };
            self.waiting.insert((next, slot));
        } else if next == self.revision + 1 {
            let watcher = self.watchers.get_mut(slot);
            let synced = &mut self.interests.get_mut(watcher.interest).synced;
            let place = u32::try_from(synced.len()).expect("watchers are limited");
            watcher.state = State::Synced { place };
            synced.push(slot);
        } else {
            let watcher = self.watchers.get_mut(slot);
            watcher.state = State::Behind { next };
            self.behind.insert((next, slot));
            self.streams.get_mut(watcher.stream).behind += 1;
            self.behind_count += 1;
        }
    }

    /// Notes that a watcher that is in no set has something to receive at `next` and no credit for it.
    pub fn block(&mut self, slot: Slot, next: i64) {
        let watcher = self.watchers.get_mut(slot);
        watcher.state = State::Blocked { next };
        let stream = self.streams.get_mut(watcher.stream);
        assert!(
            stream.out_messages > 0,
            "a stream that owes nothing has credit, else nobody would wake its watchers"
        );
        stream.blocked.push_back(slot);
        stream.behind += 1;
        self.behind_count += 1;
    }

    /// Takes a watcher out of the set its state says it is in; the caller puts it elsewhere or removes it.
    pub fn unsettle(&mut self, slot: Slot) {
        let watcher = self.watchers.get(slot);
        let stream = self.streams.get_mut(watcher.stream);
        match watcher.state {
            State::Synced { place } => {
                let interest = watcher.interest;
                self.leave_synced(interest, place);
            }
            State::Waiting { next } => {
                let found = self.waiting.remove(&(next, slot));
                assert!(found, "a waiting watcher is in the set of them");
            }
            State::Behind { next } => {
                let found = self.behind.remove(&(next, slot));
                assert!(found, "a watcher that is behind is in the set of them");
                stream.behind -= 1;
                self.behind_count -= 1;
            }
            State::Blocked { .. } => {
                let place = stream.blocked.iter().position(|&other| other == slot);
                stream
                    .blocked
                    .remove(place.expect("a blocked watcher is in its stream's queue"));
                stream.behind -= 1;
                self.behind_count -= 1;
            }
        }
    }

    fn leave_synced(&mut self, interest: Slot, place: u32) {
        let synced = &mut self.interests.get_mut(interest).synced;
        synced.swap_remove(place as usize);
        if let Some(&moved) = synced.get(place as usize) {
            self.watchers.get_mut(moved).state = State::Synced { place };
        }
    }

    /// Forgets a watcher.
    pub fn remove_watcher(&mut self, slot: Slot) {
        self.unsettle(slot);
        let watcher = self.watchers.remove(slot);
        let stream = self.streams.get_mut(watcher.stream);
        stream.watchers.remove(&watcher.watch_id);
        self.leave_interest(watcher.interest);
    }

    fn join_interest(&mut self, key: InterestKey) -> Slot {
        let slot = match self.interest_slots.get(&key) {
            Some(&slot) => slot,
            None => {
                let slot = self.interests.insert(Interest {
                    key: key.clone(),
                    members: 0,
                    synced: Vec::new(),
                    hits: Vec::new(),
                    marked: false,
                });
                self.index.insert(&key.span, slot);
                self.interest_slots.insert(key, slot);
                slot
            }
        };
        self.interests.get_mut(slot).members += 1;
        slot
    }

    fn leave_interest(&mut self, slot: Slot) {
        let interest = self.interests.get_mut(slot);
        interest.members -= 1;
        if interest.members > 0 {
            return;
        }
        assert!(interest.synced.is_empty(), "nobody is left to be synced");
        let interest = self.interests.remove(slot);
        self.index.remove(&interest.key.span, slot);
        self.interest_slots.remove(&interest.key);
    }

    // Streams and their credit.

    /// Forgets a stream, its watchers and what it owes.
    pub fn remove_stream(&mut self, slot: Slot) {
        let stream = self.streams.get(slot);
        for watcher in stream.watchers.values().copied().collect::<Vec<_>>() {
            self.remove_watcher(watcher);
        }
        let stream = self.streams.remove(slot);
        self.stream_slots.remove(&stream.id);
        self.deadlines.remove(&(stream.deadline_us, slot));
        self.progress_wanted.remove(&slot);
        self.outstanding_bytes -= stream.out_bytes;
        self.overtaken -= stream.overtaken.len();
    }

    /// Whether the stream may get another message that can wait.
    pub fn has_credit(&self, stream: &Stream) -> bool {
        stream.out_messages == 0
            || (stream.out_messages < self.limits.stream_messages
                && stream.out_bytes < self.limits.stream_bytes
                && self.outstanding_bytes < self.limits.total_bytes)
    }

    /// Takes back credit and, when half of it is there, lets blocked watchers read on. Not earlier, so that each of them
    /// finds enough new events to fill a message.
    pub fn credit(&mut self, slot: Slot, messages: usize, bytes: usize) {
        let stream = self.streams.get_mut(slot);
        assert!(
            messages <= stream.out_messages && bytes <= stream.out_bytes,
            "{messages} messages and {bytes} bytes given back, {} and {} are out",
            stream.out_messages,
            stream.out_bytes
        );
        stream.out_messages -= messages;
        stream.out_bytes -= bytes;
        self.outstanding_bytes -= bytes;
        if stream.out_messages <= self.limits.stream_messages / 2
            && stream.out_bytes <= self.limits.stream_bytes / 2
        {
            self.unblock(slot);
        }
    }

    /// Lets as many blocked watchers of the stream read on as there are messages it may get.
    pub fn unblock(&mut self, slot: Slot) {
        loop {
            let stream = self.streams.get(slot);
            let runnable = stream.behind - stream.blocked.len();
            let room = self.limits.stream_messages.max(1) > stream.out_messages + runnable;
            if stream.blocked.is_empty() || !room || !self.has_credit(stream) {
                return;
            }
            let watcher = stream.blocked[0];
            let State::Blocked { next } = self.watchers.get(watcher).state else {
                unreachable!("the queue holds blocked watchers only");
            };
            self.unsettle(watcher);
            self.settle(watcher, next);
        }
    }

    // Messages.

    /// Delivers what a client is owed for a request, with or without credit. Ends the stream when it never reads.
    pub fn answer(&mut self, slot: Slot, message: Message, effects: &mut Vec<Effect>) {
        let stream = self.streams.get(slot);
        if stream.out_messages >= self.limits.stream_messages + self.limits.stream_answers {
            let id = stream.id;
            self.remove_stream(slot);
            effects.push(Effect::Overrun(id));
            return;
        }
        self.deliver(slot, message, effects);
    }

    /// Refuses a creation: no watcher, no id.
    pub fn refuse(
        &mut self,
        stream: Slot,
        revision: i64,
        reason: Cow<'static, str>,
        effects: &mut Vec<Effect>,
    ) {
        let message = Message {
            header_revision: revision,
            watch_id: super::NO_WATCH_ID,
            created: true,
            canceled: true,
            cancel_reason: reason,
            ..Message::default()
        };
        self.answer(stream, message, effects);
    }

    /// Delivers chunks to one watcher while its stream has credit. Returns the revision of the first event that found
    /// none. `header`: the revision to show; by default that of the message's last event.
    pub fn deliver_chunks(
        &mut self,
        watcher: Slot,
        chunks: &[Chunk],
        header: Option<i64>,
        effects: &mut Vec<Effect>,
    ) -> Option<i64> {
        let watcher = self.watchers.get_mut(watcher);
        let (stream, watch_id, fragment) = (watcher.stream, watcher.watch_id, watcher.fragment);
        watcher.quiet &= chunks.is_empty();
        for chunk in chunks {
            if !self.has_credit(self.streams.get(stream)) {
                let again = planted!(EventsAreRepeated);
                let chunk = if again { &chunks[0] } else { chunk };
                return Some(chunk.first_revision);
            }
            let message = Message {
                header_revision: header.unwrap_or(chunk.last_revision),
                watch_id,
                events: chunk.events.clone(),
                event_count: chunk.count,
                ..Message::default()
            };
            if fragment && message.size() >= self.limits.message_bytes {
                self.deliver_fragments(stream, message, effects);
            } else {
                self.deliver(stream, message, effects);
            }
        }
        None
    }

    fn deliver_fragments(&mut self, stream: Slot, whole: Message, effects: &mut Vec<Effect>) {
        let bytes_max = self
            .limits
            .message_bytes
            .saturating_sub(super::api::MESSAGE_OVERHEAD);
        let parts = fragments(&whole.events, bytes_max);
        let last = parts.len() - 1;
        for (n, (events, event_count)) in parts.into_iter().enumerate() {
            let part = Message {
                fragment: n < last,
                events,
                event_count,
                ..whole.clone()
            };
            self.deliver(stream, part, effects);
        }
    }

    pub fn deliver(&mut self, slot: Slot, message: Message, effects: &mut Vec<Effect>) {
        let stream = self.streams.get_mut(slot);
        let size = message.size();
        stream.out_messages += 1;
        stream.out_bytes += size;
        self.outstanding_bytes += size;
        self.messages += 1;
        self.events += message.event_count as u64;
        effects.push(Effect::Deliver(stream.id, message));
    }
}
