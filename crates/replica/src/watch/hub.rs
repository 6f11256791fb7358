//! The hub itself: one `match` over the inputs, the answers to requests, and the way of a published batch.

use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use proto::error::{self, WATCH_REASON_DUPLICATE_ID, WATCH_REASON_EMPTY_RANGE};
use proto::etcdserverpb::WatchCreateRequest;
use proto::etcdserverpb::watch_create_request::FilterType;
use storage::fault::Fault;
use storage::planted;

use super::api::{Effect, Input, Limits, Message, Stats, StreamId};
use super::encode::Batch;
use super::history::{Event, History};
use super::index::{End, Span};
use super::registry::{InterestKey, Registry, State, Stream, Watcher};
use super::slots::Slot;
use crate::Now;

/// The watchers of some client streams. A member may run several hubs; each owns its streams and sees every batch.
///
/// See the [module](super) for the rules it keeps.
#[derive(Debug)]
pub struct Hub<V> {
    /// The state at `registry.revision`; also the source of history and previous versions.
    pub(super) view: V,
    pub(super) registry: Registry,
}

impl<V: History> Hub<V> {
    /// A hub that has seen everything up to `view`. The next [`Input::Published`] must continue there, or jump ahead.
    pub fn new(limits: Limits, view: V) -> Hub<V> {
        let revision = view.revision();
        Hub {
            view,
            registry: Registry::new(limits, revision),
        }
    }

    /// Handles one input. `now` must not go back. Effects are appended; those of one step belong after those of the
    /// step before. A fault (history that cannot be read) means that the member must stop.
    pub fn step(
        &mut self,
        now: Now,
        input: Input<V>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Fault> {
        match input {
            Input::Published { view, events } => self.publish(view, &events, effects)?,
            Input::Open { stream, jitter } => self.open(now, stream, jitter),
            Input::Create {
                stream,
                request,
                revision,
                refusal,
            } => {
                if let Some(stream) = self.stream(stream) {
                    self.create(stream, request, revision, refusal, effects);
                }
            }
            Input::Cancel { stream, watch_id } => {
                if let Some(stream) = self.stream(stream) {
                    self.cancel(stream, watch_id, effects);
                }
            }
            Input::Progress { stream, revision } => {
                if let Some(stream) = self.stream(stream) {
                    self.registry.want_progress(stream, revision);
                    self.registry.answer_progress(stream, effects);
                }
            }
            Input::Credit {
                stream,
                messages,
                bytes,
            } => {
                if let Some(stream) = self.stream(stream) {
                    self.registry.credit(stream, messages, bytes);
                    self.registry.answer_progress(stream, effects);
                }
            }
            Input::Close { stream } => {
                if let Some(stream) = self.stream(stream) {
                    self.registry.remove_stream(stream);
                }
            }
            Input::Tick => {
                self.registry.notify_progress(now, effects);
                self.catch_up(effects)?;
            }
        }
        if !self.registry.behind.is_empty() {
            effects.push(Effect::WantsTurn);
        }
        Ok(())
    }

    /// When the next [`Input::Tick`] is due for progress notifications. Changes with `Open`, `Close` and `Tick` only.
    pub fn next_deadline(&self) -> Option<Now> {
        let (monotonic_us, _) = *self.registry.deadlines.first()?;
        Some(Now { monotonic_us })
    }

    /// The last revision this hub has handled.
    pub fn revision(&self) -> i64 {
        self.registry.revision
    }

    /// Counts for metrics; O(1).
    pub fn stats(&self) -> Stats {
        self.registry.stats()
    }

    fn stream(&self, id: StreamId) -> Option<Slot> {
        self.registry.stream_slots.get(&id).copied()
    }

    // Batches.

    fn publish(
        &mut self,
        view: V,
        events: &Arc<[Event]>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Fault> {
        let (seen, now) = (self.registry.revision, view.revision());
        assert!(
            now >= seen,
            "the published revision went back from {seen} to {now}"
        );
        assert!(
            view.compact_revision() >= self.view.compact_revision(),
            "the published compaction went back"
        );
        self.view = view;
        if continues(seen, now, events) {
            let mut batch = Batch::new(events, &self.view, self.registry.limits.message_bytes);
            self.registry.fan_out(&mut batch, effects)?;
            self.registry.revision = now;
        } else if now > seen {
            self.registry.skip_to(now);
        }
        self.registry.wake_waiting();
        self.registry.answer_all_progress(effects);
        Ok(())
    }

    // Requests.

    fn open(&mut self, now: Now, id: StreamId, jitter: u32) {
        let interval = self.registry.limits.progress_interval_us;
        let spread = (u128::from(interval / 10) * u128::from(jitter)) >> 32;
        let interval_us =
            interval + u64::try_from(spread).expect("less than a u64 before the shift");
        let deadline_us = now.monotonic_us.saturating_add(interval_us);
        let slot = self.registry.streams.insert(Stream {
            id,
            watchers: Default::default(),
            overtaken: BTreeSet::new(),
            next_id: 0,
            out_messages: 0,
            out_bytes: 0,
            blocked: VecDeque::new(),
            behind: 0,
            progress_wanted: None,
            deadline_us,
            interval_us,
        });
        let taken = self.registry.stream_slots.insert(id, slot);
        assert_eq!(taken, None, "stream {id:?} is opened twice");
        if interval > 0 {
            self.registry.deadlines.insert((deadline_us, slot));
        }
    }

    /// The checks are in etcd's order: revision, permission, range, id.
    /// Source: upstream `server/etcdserver/api/v3rpc/watch.go`, recvLoop; `server/storage/mvcc/watcher.go`, Watch.
    fn create(
        &mut self,
        slot: Slot,
        request: WatchCreateRequest,
        revision: i64,
        refusal: Option<Cow<'static, str>>,
        effects: &mut Vec<Effect>,
    ) {
        let registry = &mut self.registry;
        // What the client is told as "now", and where a watch from now begins. The edge may have seen more than this hub
        // has handled, and the client may have been told of it; the hub may also be ahead of what the edge saw.
        let now = revision.max(registry.revision);
        if request.start_revision < 0 {
            return registry.refuse(slot, now, Cow::Borrowed(error::COMPACTED.text), effects);
        }
        if let Some(reason) = refusal {
            return registry.refuse(slot, now, reason, effects);
        }
        let Some(span) = span(&request) else {
            return registry.refuse(slot, now, Cow::Borrowed(WATCH_REASON_EMPTY_RANGE), effects);
        };
        let Some(watch_id) = registry.streams.get_mut(slot).claim_id(request.watch_id) else {
            return registry.refuse(slot, now, Cow::Borrowed(WATCH_REASON_DUPLICATE_ID), effects);
        };
        if registry.watchers.len() + registry.overtaken >= registry.limits.watchers {
            let reason = Cow::Borrowed(error::TOO_MANY_REQUESTS.text);
            return registry.refuse(slot, now, reason, effects);
        }
        let key = InterestKey {
            span,
            no_put: request.filters.contains(&(FilterType::Noput as i32)),
            no_delete: request.filters.contains(&(FilterType::Nodelete as i32)),
            prev_kv: request.prev_kv,
        };
        let watcher = Watcher {
            stream: slot,
            interest: 0,
            watch_id,
            start_revision: request.start_revision,
            state: State::Waiting { next: 0 },
            fragment: request.fragment,
            progress_notify: request.progress_notify,
            quiet: true,
        };
        let next = match request.start_revision {
            0 => now + 1,
            start => start,
        };
        registry.add_watcher(watcher, key, next);
        let message = Message {
            header_revision: now,
            watch_id,
            created: true,
            ..Message::default()
        };
        registry.answer(slot, message, effects);
    }

    fn cancel(&mut self, slot: Slot, watch_id: i64, effects: &mut Vec<Effect>) {
        let registry = &mut self.registry;
        let stream = registry.streams.get_mut(slot);
        if let Some(&watcher) = stream.watchers.get(&watch_id) {
            registry.remove_watcher(watcher);
        } else if stream.overtaken.remove(&watch_id) {
            registry.overtaken -= 1;
        } else {
            return;
        }
        let message = Message {
            header_revision: registry.revision,
            watch_id,
            canceled: true,
            ..Message::default()
        };
        registry.answer(slot, message, effects);
    }
}

/// Whether `events` are all that happened from `seen` to `now`. Every revision has at least one event, so a gap shows.
fn continues(seen: i64, now: i64, events: &[Event]) -> bool {
    let mut last = seen;
    for event in events {
        let main = event.revision.main;
        let fits = main == last + 1 || (main == last && last > seen);
        if !fits {
            return false;
        }
        last = main;
    }
    last == now
}

/// The part of the key space a request means, `None` if it is empty.
fn span(request: &WatchCreateRequest) -> Option<Span> {
    // Copies: the request's own buffer is larger than the keys and should not live as long as the watcher.
    let key = match &request.key[..] {
        b"" => Bytes::from_static(b"\0"),
        key => Bytes::copy_from_slice(key),
    };
    match &request.range_end[..] {
        b"" => Some(Span::Key(key)),
        b"\0" => Some(Span::Interval(key, End::Never)),
        end if &key[..] < end => Some(Span::Interval(
            key,
            End::Before(Bytes::copy_from_slice(end)),
        )),
        _ => None,
    }
}

impl Stream {
    /// The id for a new watcher: the requested one, or for 0 the next that is free. `None` if it is in use.
    fn claim_id(&mut self, requested: i64) -> Option<i64> {
        let in_use = |id| self.watchers.contains_key(&id) || self.overtaken.contains(&id);
        if requested != 0 {
            return (!in_use(requested)).then_some(requested);
        }
        while in_use(self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        Some(id)
    }
}

impl Registry {
    /// Delivers a batch that continues at the hub's revision to the synced watchers.
    fn fan_out<V: History>(
        &mut self,
        batch: &mut Batch<V>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Fault> {
        let mut touched = Vec::new();
        for (n, event) in (0u32..).zip(batch.events()) {
            let interests = &mut self.interests;
            self.index.stab(&event.key, |slot| {
                let interest = interests.get_mut(slot);
                if interest.synced.is_empty() || !interest.key.accepts(event.kind) {
                    return;
                }
                if interest.hits.is_empty() {
                    touched.push(slot);
                }
                interest.hits.push(n);
            });
        }
        for slot in touched {
            let interest = self.interests.get_mut(slot);
            let chunks = batch.encode(&interest.hits, interest.key.prev_kv)?;
            interest.hits.clear();
            let mut place = 0;
            while let Some(&watcher) = self.interests.get(slot).synced.get(place) {
                match self.deliver_chunks(watcher, &chunks, None, effects) {
                    None => place += 1,
                    Some(_) if planted!(SlowWatcherLosesEvents) => place += 1,
                    Some(next) => {
                        // Another watcher takes this place.
                        self.unsettle(watcher);
                        self.block(watcher, next);
                    }
                }
            }
        }
        Ok(())
    }

    /// Jumps to a revision whose events were not told, as after the installation of a snapshot: all watchers that had
    /// everything are behind now and continue where they were (etcd #15271). Those that wait for a revision ahead keep
    /// waiting for it, and never get an older one (etcd #20221).
    fn skip_to(&mut self, revision: i64) {
        let next = self.revision + 1;
        self.revision = revision;
        if planted!(SnapshotSkipsEvents) {
            return;
        }
        let synced: Vec<Slot> = self
            .watchers
            .iter()
            .filter(|(_, watcher)| matches!(watcher.state, State::Synced { .. }))
            .map(|(slot, _)| slot)
            .collect();
        for slot in synced {
            self.unsettle(slot);
            self.settle(slot, next);
        }
    }

    /// Wakes the watchers whose first revision is the hub's next one, or lies within the batch it has just handled; the
    /// latter read their part from history.
    fn wake_waiting(&mut self) {
        while let Some(&(next, slot)) = self.waiting.first() {
            if next > self.revision + 1 {
                return;
            }
            self.unsettle(slot);
            self.settle(slot, next);
        }
    }

    /// Cancels a watcher that has been overtaken by compaction. The stream has credit.
    pub(super) fn cancel_overtaken(
        &mut self,
        slot: Slot,
        compact_revision: i64,
        effects: &mut Vec<Effect>,
    ) {
        let watcher = self.watchers.get(slot);
        let (stream, watch_id) = (watcher.stream, watcher.watch_id);
        self.remove_watcher(slot);
        self.streams.get_mut(stream).overtaken.insert(watch_id);
        self.overtaken += 1;
        let message = Message {
            watch_id,
            canceled: true,
            compact_revision,
            ..Message::default()
        };
        self.deliver(stream, message, effects);
    }
}
