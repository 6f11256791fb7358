//! Clients that watch: one stream each, several watchers on it, read at their own pace, broken off and resumed anywhere.
//!
//! A *wish* is what a client wants to follow over the whole run; a watcher is one attempt. When an attempt ends, the next one starts
//! after what was received, as etcd's clients do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb as pb;
use replica::watch::{self, Effect, Message, NO_WATCH_ID, StreamId};
use state::ReadView;

use super::{Event, Moment, World};
use crate::checker::history::{Watch, WatchKind, WatchMessage};

/// Wishes a client has at most.
const WISHES_MAX: usize = 6;

/// All watching clients.
pub(super) struct Watching {
    clients: Vec<WatchClient>,
    streams: BTreeMap<u64, Stream>,
    stream_last: u64,
}

#[derive(Default)]
struct WatchClient {
    stream: Option<u64>,
    wishes: Vec<Wish>,
}

/// What a client wants to follow.
struct Wish {
    key: Bytes,
    range_end: Bytes,
    filters: Vec<i32>,
    prev_kv: bool,
    fragment: bool,
    progress_notify: bool,
    /// Where to go on; 0 is "from now on".
    next: i64,
    /// The record of the current attempt.
    record: Option<usize>,
}

/// A stream between a client and a member.
struct Stream {
    client: usize,
    member: usize,
    /// Messages that the member has sent and the client has not read.
    queue: VecDeque<Message>,
    /// Wishes whose creation is not answered yet, in order.
    creating: VecDeque<usize>,
    by_id: BTreeMap<i64, usize>,
    /// Watchers that compaction has ended. The client may cancel them before it learns of it, and is answered.
    overtaken: BTreeSet<i64>,
    reading: bool,
}

impl Watching {
    pub fn new(clients: usize) -> Watching {
        Watching {
            clients: (0..clients).map(|_| WatchClient::default()).collect(),
            streams: BTreeMap::new(),
            stream_last: 0,
        }
    }
}

impl World {
    // The member's side.

    pub(super) fn hub_input(&mut self, member: usize, input: watch::Input<ReadView>) {
        self.life(member).hub_inbox.push_back(input);
        self.wake_hub(member);
    }

    fn wake_hub(&mut self, member: usize) {
        let life = self.life(member);
        if !std::mem::replace(&mut life.hub_scheduled, true) {
            let delay = self.dice.watch.delay(5, 200);
            self.after(member, delay, Moment::Hub);
        }
    }

    /// The hub handles what has come in, then takes its turn if it asked for one.
    pub(super) fn hub_step(&mut self, member: usize) {
        let now = self.machines[member].clock.read(self.now_us);
        let life = self.life(member);
        life.hub_scheduled = false;
        let mut effects = Vec::new();
        let mut inputs = std::mem::take(&mut life.hub_inbox);
        if inputs.is_empty() && std::mem::take(&mut life.hub_wants_turn) {
            inputs.push_back(watch::Input::Tick);
        }
        for input in inputs {
            if let Err(fault) = life.hub.step(now, input, &mut effects) {
                return self.stopped(member, &fault);
            }
        }
        self.note(
            member,
            "hub",
            effects.len() as u64,
            self.machines[member].lives,
        );
        self.hub_effects(member, effects);
        if self.life(member).hub_wants_turn {
            self.wake_hub(member);
        }
        self.follow_hub_clock(member);
    }

    /// A progress notification is due.
    pub(super) fn hub_clock(&mut self, member: usize) {
        let now = self.machines[member].clock.read(self.now_us);
        let life = self.life(member);
        life.hub_clock_scheduled = false;
        if life.hub.next_deadline().is_some_and(|due| due <= now) {
            self.hub_input(member, watch::Input::Tick);
        } else {
            self.follow_hub_clock(member);
        }
    }

    fn follow_hub_clock(&mut self, member: usize) {
        let clock = self.machines[member].clock;
        let now = clock.read(self.now_us);
        let life = self.life(member);
        let Some(due) = life.hub.next_deadline() else {
            return;
        };
        if !std::mem::replace(&mut life.hub_clock_scheduled, true) {
            let wait = clock.takes(due.monotonic_us.saturating_sub(now.monotonic_us)) + 1_000;
            self.after(member, wait, Moment::HubClock);
        }
    }

    fn hub_effects(&mut self, member: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Deliver(StreamId(id), message) => self.on_the_way(id, message),
                Effect::Overrun(StreamId(id)) => self.break_stream(id),
                Effect::WantsTurn => self.life(member).hub_wants_turn = true,
            }
        }
    }

    fn on_the_way(&mut self, id: u64, message: Message) {
        let Some(stream) = self.watching.streams.get_mut(&id) else {
            return;
        };
        stream.queue.push_back(message);
        if !std::mem::replace(&mut stream.reading, true) {
            self.schedule_read(id);
        }
    }

    fn schedule_read(&mut self, stream: u64) {
        let lazy = self.is_safety_phase && self.dice.watch.chance(self.plan.lazy_watchers);
        let delay = if lazy {
            self.dice.watch.between(500_000, 5_000_000)
        } else {
            self.dice.watch.delay(50, 500)
        };
        self.schedule(delay, Event::WatchRead { stream });
    }

    // The client's side.

    /// The client reads a message.
    pub(super) fn watch_read(&mut self, id: u64) {
        let Some(stream) = self.watching.streams.get_mut(&id) else {
            return;
        };
        let member = stream.member;
        if self.machines[member].paused_until_us > self.now_us {
            let wait = self.machines[member].paused_until_us - self.now_us;
            return self.schedule(wait, Event::WatchRead { stream: id });
        }
        let Some(message) = stream.queue.pop_front() else {
            stream.reading = false;
            return;
        };
        let credit = watch::Input::Credit {
            stream: StreamId(id),
            messages: 1,
            bytes: message.size(),
        };
        self.hub_input(member, credit);
        self.note(
            member,
            "watched",
            message.header_revision as u64,
            message.event_count as u64,
        );
        self.received(id, &message);
        self.schedule_read(id);
    }

    fn received(&mut self, id: u64, message: &Message) {
        if message.watch_id == NO_WATCH_ID && !message.created && !message.canceled {
            let stream = &self.watching.streams[&id];
            let client = stream.client;
            for wish in stream.by_id.values().copied().collect::<Vec<_>>() {
                self.progress(client, wish, message.header_revision);
            }
            return;
        }
        let stream = self
            .watching
            .streams
            .get_mut(&id)
            .expect("the stream is read");
        let client = stream.client;
        if message.created {
            let Some(wish) = stream.creating.pop_front() else {
                return self.fail("a watcher was created that nobody asked for");
            };
            if message.canceled {
                return self.fail(format!(
                    "a valid watch was refused: {}",
                    message.cancel_reason
                ));
            }
            stream.by_id.insert(message.watch_id, wish);
            self.record(client, wish, message.header_revision, WatchKind::Created);
            let wish = &mut self.watching.clients[client].wishes[wish];
            if wish.next == 0 {
                wish.next = message.header_revision + 1;
            }
            return;
        }
        let Some(&wish) = stream.by_id.get(&message.watch_id) else {
            if message.canceled && stream.overtaken.remove(&message.watch_id) {
                return;
            }
            let watch_id = message.watch_id;
            return self.fail(format!(
                "a message came for watcher {watch_id}, which does not exist: {message:?}"
            ));
        };
        if message.canceled {
            stream.by_id.remove(&message.watch_id);
            if message.compact_revision > 0 {
                stream.overtaken.insert(message.watch_id);
            }
            let compact_revision = message.compact_revision;
            self.record(
                client,
                wish,
                message.header_revision,
                WatchKind::Canceled { compact_revision },
            );
            let wish = &mut self.watching.clients[client].wishes[wish];
            wish.record = None;
            // The oldest revision that can still be had.
            wish.next = wish.next.max(compact_revision);
        } else if message.event_count == 0 {
            self.progress(client, wish, message.header_revision);
        } else {
            self.events(client, wish, message);
        }
    }

    fn events(&mut self, client: usize, wish: usize, message: &Message) {
        let events = match pb::WatchResponse::decode(message.events.clone()) {
            Ok(response) => response.events,
            Err(error) => return self.fail(format!("a watch response does not decode: {error}")),
        };
        let last = events
            .last()
            .and_then(|event| event.kv.as_ref())
            .map_or(0, |kv| kv.mod_revision);
        let fragment = message.fragment;
        self.record(
            client,
            wish,
            message.header_revision,
            WatchKind::Events { events, fragment },
        );
        let wish = &mut self.watching.clients[client].wishes[wish];
        wish.next = if fragment { last } else { last + 1 };
    }

    fn progress(&mut self, client: usize, wish: usize, revision: i64) {
        self.record(client, wish, revision, WatchKind::Progress);
        let wish = &mut self.watching.clients[client].wishes[wish];
        wish.next = wish.next.max(revision + 1);
    }

    fn record(&mut self, client: usize, wish: usize, revision: i64, kind: WatchKind) {
        let Some(record) = self.watching.clients[client].wishes[wish].record else {
            return;
        };
        let time_us = self.now_us;
        self.history.watches[record].messages.push(WatchMessage {
            time_us,
            revision,
            kind,
        });
    }

    /// A watching client does something.
    pub(super) fn watch_next(&mut self, client: usize) {
        let pause = if self.is_safety_phase {
            self.dice.watch.delay(10_000, 1_000_000)
        } else {
            100_000
        };
        self.schedule(pause, Event::WatchNext { client });
        let Some(stream) = self.watching.clients[client].stream else {
            return self.open_stream(client);
        };
        let member = self.watching.streams[&stream].member;
        if self.machines[member].paused_until_us > self.now_us {
            return;
        }
        if !self.is_safety_phase {
            return self.watch_all(client, stream);
        }
        match self.dice.watch.below(100) {
            0..35 => self.wish(client, stream),
            35..55 => self.watch_all(client, stream),
            55..70 => self.ask_progress(member, stream),
            70..85 => self.cancel_one(member, client, stream),
            85..93 => {
                self.hub_input(
                    member,
                    watch::Input::Close {
                        stream: StreamId(stream),
                    },
                );
                self.break_stream(stream);
            }
            _ => {}
        }
    }

    fn open_stream(&mut self, client: usize) {
        let alive: Vec<usize> = (0..self.machines.len())
            .filter(|m| self.machines[*m].life.is_some())
            .collect();
        if alive.is_empty() {
            return;
        }
        let member = *self.dice.watch.pick(&alive);
        self.watching.stream_last += 1;
        let id = self.watching.stream_last;
        let stream = Stream {
            client,
            member,
            queue: VecDeque::new(),
            creating: VecDeque::new(),
            by_id: BTreeMap::new(),
            overtaken: BTreeSet::new(),
            reading: false,
        };
        self.watching.streams.insert(id, stream);
        self.watching.clients[client].stream = Some(id);
        let jitter = self.dice.watch.any() as u32;
        self.hub_input(
            member,
            watch::Input::Open {
                stream: StreamId(id),
                jitter,
            },
        );
        self.watch_all(client, id);
    }

    /// A new wish, from now, from the past, from the compaction, or from a revision that is still to come.
    fn wish(&mut self, client: usize, stream: u64) {
        let (newest, compacted, keys) = (
            self.workload.revision,
            self.workload.compacted,
            self.plan.keys,
        );
        if self.watching.clients[client].wishes.len() == WISHES_MAX {
            // An old one is forgotten, if it is not being watched.
            let wishes = &mut self.watching.clients[client].wishes;
            let Some(old) = wishes.iter().position(|wish| wish.record.is_none()) else {
                return;
            };
            if old + 1 != wishes.len() {
                return;
            }
            wishes.pop();
        }
        let dice = &mut self.dice.watch;
        let (key, range_end) = World::span(dice, keys);
        let next = match dice.below(10) {
            0..3 => 0,
            3..6 => compacted.max(1),
            6 | 7 => (newest - dice.below(20) as i64).max(1),
            8 => newest + dice.below(10) as i64,
            _ => 1,
        };
        let filters = if dice.chance(200) {
            vec![dice.below(2) as i32]
        } else {
            Vec::new()
        };
        let wish = Wish {
            key,
            range_end,
            filters,
            prev_kv: dice.chance(400),
            fragment: dice.chance(200),
            progress_notify: dice.chance(500),
            next,
            record: None,
        };
        self.watching.clients[client].wishes.push(wish);
        let wish = self.watching.clients[client].wishes.len() - 1;
        self.create(client, stream, wish);
    }

    /// Tries all wishes that have no watcher.
    fn watch_all(&mut self, client: usize, stream: u64) {
        for wish in 0..self.watching.clients[client].wishes.len() {
            if self.watching.clients[client].wishes[wish].record.is_none() {
                self.create(client, stream, wish);
            }
        }
    }

    fn create(&mut self, client: usize, id: u64, number: usize) {
        let member = self.watching.streams[&id].member;
        let wish = &mut self.watching.clients[client].wishes[number];
        let request = pb::WatchCreateRequest {
            key: wish.key.clone(),
            range_end: wish.range_end.clone(),
            start_revision: wish.next,
            progress_notify: wish.progress_notify,
            filters: wish.filters.clone(),
            prev_kv: wish.prev_kv,
            watch_id: 0,
            fragment: wish.fragment,
        };
        wish.record = Some(self.history.watches.len());
        self.history.watches.push(Watch {
            member: member as u64 + 1,
            call_us: self.now_us,
            create: request.clone(),
            messages: Vec::new(),
            must_reach_end: false,
        });
        self.watching
            .streams
            .get_mut(&id)
            .expect("the stream is open")
            .creating
            .push_back(number);
        let revision = self.life(member).view.revision();
        let stream = StreamId(id);
        self.hub_input(
            member,
            watch::Input::Create {
                stream,
                request,
                revision,
                refusal: None,
            },
        );
    }

    fn ask_progress(&mut self, member: usize, stream: u64) {
        let revision = self.life(member).view.revision();
        self.hub_input(
            member,
            watch::Input::Progress {
                stream: StreamId(stream),
                revision,
            },
        );
    }

    fn cancel_one(&mut self, member: usize, client: usize, id: u64) {
        let stream = &self.watching.streams[&id];
        let ids: Vec<i64> = stream.by_id.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let watch_id = *self.dice.watch.pick(&ids);
        self.note(member, "cancel", client as u64, watch_id as u64);
        self.hub_input(
            member,
            watch::Input::Cancel {
                stream: StreamId(id),
                watch_id,
            },
        );
    }

    /// The stream is over for the client; what it has not read is lost.
    fn break_stream(&mut self, id: u64) {
        let Some(stream) = self.watching.streams.remove(&id) else {
            return;
        };
        let client = &mut self.watching.clients[stream.client];
        client.stream = None;
        for wish in &mut client.wishes {
            wish.record = None;
        }
    }

    /// A member is gone, and its streams with it.
    pub(super) fn streams_broken(&mut self, member: usize) {
        let ids: Vec<u64> = self
            .watching
            .streams
            .iter()
            .filter(|(_, stream)| stream.member == member)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.break_stream(id);
        }
    }

    /// Whether every wish is being watched and nothing is on its way.
    pub(super) fn watchers_are_quiet(&self) -> bool {
        let streams = self
            .watching
            .streams
            .values()
            .all(|stream| stream.queue.is_empty() && stream.creating.is_empty());
        let wishes = self
            .watching
            .clients
            .iter()
            .flat_map(|client| &client.wishes);
        let hubs = self
            .machines
            .iter()
            .filter_map(|machine| machine.life.as_ref());
        let behind = hubs
            .map(|life| life.hub.stats().behind + life.hub_inbox.len())
            .sum::<usize>();
        streams && behind == 0 && wishes.into_iter().all(|wish| wish.record.is_some())
    }

    /// From now on every watcher that is alive has to have received everything.
    pub(super) fn watchers_must_be_done(&mut self) {
        for wish in self
            .watching
            .clients
            .iter()
            .flat_map(|client| &client.wishes)
        {
            if let Some(record) = wish.record {
                self.history.watches[record].must_reach_end = true;
            }
        }
    }
}
