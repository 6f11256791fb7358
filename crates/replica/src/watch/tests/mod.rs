//! A hub on a bench: a store small enough to check by eye, streams whose messages print as one line each.

mod claims;
mod limits;
mod model;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use proto::mvccpb;
use storage::fault::Fault;
use storage::segments::Revision;

use super::*;
use crate::Now;

/// A change to be made.
#[derive(Clone, Debug)]
enum Op {
    Put(String, String),
    Delete(String),
}

fn put(key: &str, value: &str) -> Op {
    Op::Put(key.into(), value.into())
}

fn delete(key: &str) -> Op {
    Op::Delete(key.into())
}

/// The whole history of a store, never compacted, and views of it that refuse to show what compaction took.
#[derive(Debug, Default)]
struct Store {
    log: Rc<RefCell<Vec<Event>>>,
    live: BTreeMap<String, mvccpb::KeyValue>,
    revision: i64,
    compacted: i64,
}

#[derive(Clone, Debug)]
struct View {
    log: Rc<RefCell<Vec<Event>>>,
    revision: i64,
    compacted: i64,
}

impl Store {
    /// An empty store, at revision 1 as etcd's.
    fn new() -> Store {
        Store {
            revision: 1,
            ..Store::default()
        }
    }

    /// Applies a transaction. Deletes of absent keys change nothing; if nothing changes there is no revision.
    fn txn(&mut self, ops: &[Op]) {
        let main = self.revision + 1;
        let mut sub = 0;
        for op in ops {
            let (kind, key, kv) = match op {
                Op::Put(key, value) => {
                    let old = self.live.get(key).cloned().unwrap_or_default();
                    let kv = mvccpb::KeyValue {
                        key: Bytes::from(key.clone()),
                        value: Bytes::from(value.clone()),
                        create_revision: if old.version > 0 {
                            old.create_revision
                        } else {
                            main
                        },
                        mod_revision: main,
                        version: old.version + 1,
                        lease: 0,
                    };
                    self.live.insert(key.clone(), kv.clone());
                    (EventKind::Put, key, kv)
                }
                Op::Delete(key) => {
                    if self.live.remove(key).is_none() {
                        continue;
                    }
                    let kv = mvccpb::KeyValue {
                        key: Bytes::from(key.clone()),
                        mod_revision: main,
                        ..Default::default()
                    };
                    (EventKind::Delete, key, kv)
                }
            };
            self.log.borrow_mut().push(Event {
                revision: Revision { main, sub },
                kind,
                is_creation: kv.create_revision == main,
                key: Bytes::from(key.clone()),
                kv: Bytes::from(kv.encode_to_vec()),
            });
            sub += 1;
        }
        if sub > 0 {
            self.revision = main;
        }
    }

    fn view(&self) -> View {
        View {
            log: self.log.clone(),
            revision: self.revision,
            compacted: self.compacted,
        }
    }

    /// All events of these main revisions.
    fn events(&self, revisions: Range<i64>) -> Vec<Event> {
        let log = self.log.borrow();
        log.iter()
            .filter(|event| revisions.contains(&event.revision.main))
            .cloned()
            .collect()
    }

    /// The version of a key at a revision, compacted or not.
    fn get(&self, key: &[u8], at: i64) -> Option<Bytes> {
        find(&self.log.borrow(), key, at)
    }
}

fn find(log: &[Event], key: &[u8], at: i64) -> Option<Bytes> {
    let last = log
        .iter()
        .rfind(|event| event.revision.main <= at && event.key == key)?;
    (last.kind == EventKind::Put).then(|| last.kv.clone())
}

impl History for View {
    fn revision(&self) -> i64 {
        self.revision
    }

    fn compact_revision(&self) -> i64 {
        self.compacted
    }

    fn events(
        &self,
        from: i64,
        to: i64,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Event>, i64), Fault> {
        assert!(from >= self.compacted, "{from} is compacted");
        assert!(from <= to && to <= self.revision, "{from} to {to}");
        let log = self.log.borrow();
        let mut events = Vec::new();
        let mut bytes = 0;
        for event in log
            .iter()
            .filter(|e| (from..=to).contains(&e.revision.main))
        {
            let main = event.revision.main;
            let begins = events
                .last()
                .is_some_and(|last: &Event| last.revision.main < main);
            if begins && (events.len() >= events_max || bytes >= bytes_max) {
                return Ok((events, main));
            }
            bytes += event.kv.len();
            events.push(event.clone());
        }
        Ok((events, to + 1))
    }

    fn get(&self, key: &[u8], at: i64) -> Result<Option<Bytes>, Fault> {
        assert!(at >= self.compacted && at <= self.revision, "{at}");
        Ok(find(&self.log.borrow(), key, at))
    }
}

/// A store, a hub, and the queues of its streams.
struct Bed {
    store: Store,
    hub: Hub<View>,
    now: Now,
    /// What was delivered and neither read by the test nor given back as credit.
    queues: BTreeMap<StreamId, Vec<Message>>,
    overrun: Vec<StreamId>,
    wants_turn: bool,
}

impl Bed {
    fn new() -> Bed {
        Bed::with(Limits::default())
    }

    fn with(limits: Limits) -> Bed {
        Bed::over(Store::new(), limits)
    }

    fn over(store: Store, limits: Limits) -> Bed {
        let hub = Hub::new(limits, store.view());
        Bed {
            store,
            hub,
            now: Now::default(),
            queues: BTreeMap::new(),
            overrun: Vec::new(),
            wants_turn: false,
        }
    }

    /// A bed with these transactions done and stream 1 open.
    fn after(txns: &[&[Op]]) -> Bed {
        let mut store = Store::new();
        txns.iter().for_each(|ops| store.txn(ops));
        let mut bed = Bed::over(store, Limits::default());
        bed.open(1);
        bed
    }

    fn step(&mut self, input: Input<View>) {
        let mut effects = Vec::new();
        self.hub
            .step(self.now, input, &mut effects)
            .expect("the bench has no faults");
        self.hub.check();
        self.wants_turn = false;
        for effect in effects {
            match effect {
                Effect::Deliver(stream, message) => {
                    self.queues.entry(stream).or_default().push(message);
                }
                Effect::Overrun(stream) => self.overrun.push(stream),
                Effect::WantsTurn => {
                    assert!(!self.wants_turn, "asked twice in one step");
                    self.wants_turn = true;
                }
            }
        }
    }

    fn open(&mut self, stream: u64) {
        self.step(Input::Open {
            stream: StreamId(stream),
            jitter: 0,
        });
    }

    fn create(&mut self, stream: u64, request: WatchCreateRequest) {
        self.create_at(stream, request, self.store.revision);
    }

    fn create_at(&mut self, stream: u64, request: WatchCreateRequest, revision: i64) {
        self.step(Input::Create {
            stream: StreamId(stream),
            request,
            revision,
            refusal: None,
        });
    }

    fn cancel(&mut self, stream: u64, watch_id: i64) {
        self.step(Input::Cancel {
            stream: StreamId(stream),
            watch_id,
        });
    }

    fn progress(&mut self, stream: u64) {
        self.step(Input::Progress {
            stream: StreamId(stream),
            revision: self.store.revision,
        });
    }

    /// Applies a transaction and publishes it.
    fn txn(&mut self, ops: &[Op]) {
        self.store.txn(ops);
        self.publish();
    }

    /// Publishes what was applied since the last time, as one batch.
    fn publish(&mut self) {
        let seen = self.hub.revision();
        let events = self.store.events(seen + 1..self.store.revision + 1);
        self.step(Input::Published {
            view: self.store.view(),
            events: events.into(),
        });
    }

    /// Publishes the state without the events that led to it, as after the installation of a snapshot.
    fn publish_jump(&mut self) {
        self.step(Input::Published {
            view: self.store.view(),
            events: Arc::new([]),
        });
    }

    fn compact(&mut self, at: i64) {
        self.store.compacted = at;
        self.publish();
    }

    /// Ticks until nobody is behind who could read on.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.wants_turn {
                return;
            }
            self.step(Input::Tick);
        }
        panic!("catch-up does not end");
    }

    /// What the stream's queue holds, without reading it.
    fn queued(&self, stream: u64) -> usize {
        self.queues.get(&StreamId(stream)).map_or(0, Vec::len)
    }

    /// Takes up to `count` messages from the stream's queue and gives the credit back.
    fn read(&mut self, stream: u64, count: usize) -> Vec<Message> {
        let Some(queue) = self.queues.get_mut(&StreamId(stream)) else {
            return Vec::new();
        };
        let count = count.min(queue.len());
        let messages: Vec<Message> = queue.drain(..count).collect();
        self.step(Input::Credit {
            stream: StreamId(stream),
            messages: messages.len(),
            bytes: messages.iter().map(Message::size).sum(),
        });
        messages
    }

    /// Settles, and reads everything the stream gets, one line each.
    fn lines(&mut self, stream: u64) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            self.settle();
            let messages = self.read(stream, usize::MAX);
            if messages.is_empty() {
                return lines;
            }
            lines.extend(messages.iter().map(line));
        }
    }
}

/// The events of a message, decoded as a client would.
fn events_of(message: &Message) -> Vec<mvccpb::Event> {
    let response = WatchResponse::decode(message.events.clone()).expect("events are well-formed");
    assert_eq!(response.events.len(), message.event_count);
    response.events
}

/// One line for one message: `kind watch_id @header_revision: details`.
fn line(message: &Message) -> String {
    let id = message.watch_id;
    let at = message.header_revision;
    match (message.created, message.canceled) {
        (true, false) => format!("created {id} @{at}"),
        (true, true) => format!("refused {id} @{at}: {}", message.cancel_reason),
        (false, true) if message.compact_revision > 0 => {
            format!("compacted {id} @{at}: {}", message.compact_revision)
        }
        (false, true) => format!("canceled {id} @{at}"),
        (false, false) if message.event_count == 0 => format!("progress {id} @{at}"),
        (false, false) => {
            let events: Vec<String> = events_of(message).iter().map(event_text).collect();
            let more = if message.fragment { " .." } else { "" };
            format!("events {id} @{at}: {}{more}", events.join(", "))
        }
    }
}

fn event_text(event: &mvccpb::Event) -> String {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let kv = event.kv.as_ref().expect("an event has a kv");
    let head = match event.r#type() {
        mvccpb::event::EventType::Put => format!("{}={}", text(&kv.key), text(&kv.value)),
        mvccpb::event::EventType::Delete => {
            assert_eq!(
                (kv.create_revision, kv.version, kv.value.len(), kv.lease),
                (0, 0, 0, 0),
                "a delete has a key and a mod_revision only"
            );
            format!("{} deleted", text(&kv.key))
        }
    };
    let was = match &event.prev_kv {
        Some(previous) => format!(" was {}", text(&previous.value)),
        None => String::new(),
    };
    format!("{head}{was} #{}", kv.mod_revision)
}

/// A watcher of one key.
fn on(key: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: Bytes::from(key.to_owned()),
        ..Default::default()
    }
}

/// A watcher of `[key, end)`.
fn range(key: &str, end: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: Bytes::from(key.to_owned()),
        range_end: Bytes::from(end.to_owned()),
        ..Default::default()
    }
}

/// A watcher of all keys.
fn all() -> WatchCreateRequest {
    range("", "\0")
}

fn from(start_revision: i64, request: WatchCreateRequest) -> WatchCreateRequest {
    WatchCreateRequest {
        start_revision,
        ..request
    }
}
