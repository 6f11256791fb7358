//! What watching costs a hub, without network: `cargo run --release -p replica --example watch_bench`.
//!
//! Prints nanoseconds of CPU per delivered event, for batches as a busy and as a quiet member publishes them. The consumer
//! drops each message and gives its credit back, which is the least an edge does. Time is that of the thread on the CPU
//! (Linux only), so other load on the machine hardly shows.
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark measures; the hub it measures does not"
)]

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb::WatchCreateRequest;
use proto::mvccpb::KeyValue;
use replica::Now;
use replica::watch::{Effect, Event, EventKind, History, Hub, Input, Limits, StreamId};
use storage::fault::Fault;
use storage::segments::Revision;

/// A history of puts in memory: revision n is event n - 2.
#[derive(Clone)]
struct View {
    log: Arc<Vec<Event>>,
    revision: i64,
}

impl History for View {
    fn revision(&self) -> i64 {
        self.revision
    }

    fn compact_revision(&self) -> i64 {
        0
    }

    fn events(
        &self,
        from: i64,
        to: i64,
        events_max: usize,
        _bytes_max: usize,
    ) -> Result<(Vec<Event>, i64), Fault> {
        let next = (to + 1).min(from + events_max as i64);
        let events = self.log[from as usize - 2..next as usize - 2].to_vec();
        Ok((events, next))
    }

    fn get(&self, _key: &[u8], _at: i64) -> Result<Option<Bytes>, Fault> {
        Ok(None)
    }
}

fn put(main: i64, key: String) -> Event {
    let kv = KeyValue {
        key: key.into(),
        value: vec![b'v'; 100].into(),
        create_revision: main,
        mod_revision: main,
        version: 1,
        lease: 0,
    };
    Event {
        revision: Revision { main, sub: 0 },
        kind: EventKind::Put,
        key: kv.key.clone(),
        kv: kv.encode_to_vec().into(),
    }
}

/// Nanoseconds this thread has run.
fn cpu_ns() -> u64 {
    let line = std::fs::read_to_string("/proc/thread-self/schedstat").expect("this is Linux");
    let first = line.split(' ').next().expect("a line has a first word");
    first.parse().expect("the first word is a number")
}

struct Bench {
    hub: Hub<View>,
    log: Arc<Vec<Event>>,
    effects: Vec<Effect>,
    /// Messages and bytes by stream, to be given back.
    owed: Vec<(usize, usize)>,
    events: usize,
    messages: usize,
    wants_turn: bool,
}

impl Bench {
    fn new(log: Arc<Vec<Event>>, streams: usize, revision: i64) -> Bench {
        let view = View {
            log: log.clone(),
            revision,
        };
        let mut bench = Bench {
            hub: Hub::new(Limits::default(), view),
            log,
            effects: Vec::new(),
            owed: vec![(0, 0); streams],
            events: 0,
            messages: 0,
            wants_turn: false,
        };
        for stream in 0..streams {
            bench.step(Input::Open {
                stream: StreamId(stream as u64),
                jitter: 0,
            });
        }
        bench
    }

    fn step(&mut self, input: Input<View>) {
        self.hub
            .step(Now::default(), input, &mut self.effects)
            .expect("memory does not fail");
    }

    fn create(&mut self, stream: usize, key: &str, end: &str, start_revision: i64) {
        self.step(Input::Create {
            stream: StreamId(stream as u64),
            request: WatchCreateRequest {
                key: Bytes::from(key.to_owned()),
                range_end: Bytes::from(end.to_owned()),
                start_revision,
                ..Default::default()
            },
            revision: 1,
            refusal: None,
        });
    }

    fn publish(&mut self, revision: i64) {
        let from = self.hub.revision() as usize - 1;
        let events: Arc<[Event]> = self.log[from..revision as usize - 1].into();
        let view = View {
            log: self.log.clone(),
            revision,
        };
        self.step(Input::Published { view, events });
    }

    /// The consumer: drops the messages, gives credit back once per stream.
    fn drain(&mut self) {
        self.wants_turn = false;
        let mut touched = Vec::new();
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Deliver(StreamId(stream), message) => {
                    let owed = &mut self.owed[stream as usize];
                    if owed.0 == 0 {
                        touched.push(stream);
                    }
                    *owed = (owed.0 + 1, owed.1 + message.size());
                    self.events += message.event_count;
                    self.messages += 1;
                }
                Effect::WantsTurn => self.wants_turn = true,
                Effect::Overrun(stream) => panic!("{stream:?} is overrun"),
            }
        }
        for stream in touched {
            let (messages, bytes) = std::mem::take(&mut self.owed[stream as usize]);
            self.step(Input::Credit {
                stream: StreamId(stream),
                messages,
                bytes,
            });
        }
        self.wants_turn |= !self.effects.is_empty();
    }

    fn report(&self, what: &str, began: u64) {
        let ns = (cpu_ns() - began) as f64;
        println!(
            "{what:<58} {:>10} events {:>9} messages {:>8.1} ns/event {:>8.1} ns/message",
            self.events,
            self.messages,
            ns / self.events as f64,
            ns / self.messages as f64,
        );
    }
}

/// 100 watchers of one prefix, each on its own stream.
fn fan_out(puts: i64, batch: i64) {
    let log: Vec<Event> = (2..puts + 2)
        .map(|n| put(n, format!("/registry/pods/{:06}", n % 100_000)))
        .collect();
    let mut bench = Bench::new(Arc::new(log), 100, 1);
    for stream in 0..100 {
        bench.create(stream, "/registry/pods/", "/registry/pods0", 0);
    }
    bench.drain();
    (bench.events, bench.messages) = (0, 0);
    let began = cpu_ns();
    let mut revision = 1;
    while revision < puts + 1 {
        revision = (revision + batch).min(puts + 1);
        bench.publish(revision);
        bench.drain();
    }
    assert_eq!(bench.events as i64, puts * 100);
    bench.report(
        &format!("100 watchers of one prefix, batches of {batch}"),
        began,
    );
}

/// 10,000 watchers, each on its own stream and key (or prefix); each put meets one.
fn own_keys(puts: i64, end: &str) {
    let log: Vec<Event> = (2..puts + 2)
        .map(|n| put(n, format!("/leases/{:05}", (n * 7919) % 10_000)))
        .collect();
    let mut bench = Bench::new(Arc::new(log), 10_000, 1);
    let began = cpu_ns();
    for stream in 0..10_000 {
        let key = format!("/leases/{stream:05}");
        let end = if end.is_empty() {
            String::new()
        } else {
            format!("{key}{end}")
        };
        bench.create(stream, &key, &end, 0);
    }
    println!(
        "10,000 watchers created in {:.1} ms",
        (cpu_ns() - began) as f64 / 1e6
    );
    bench.drain();
    (bench.events, bench.messages) = (0, 0);
    let began = cpu_ns();
    for revision in 2..puts + 2 {
        bench.publish(revision);
        bench.drain();
    }
    assert_eq!(bench.events as i64, puts);
    let what = if end.is_empty() { "key" } else { "prefix" };
    bench.report(
        &format!("10,000 watchers on a {what} of their own, batches of 1"),
        began,
    );
}

/// Watchers that start at the beginning of a long history.
fn catch_up(puts: i64, watchers: usize) {
    let log: Vec<Event> = (2..puts + 2)
        .map(|n| put(n, format!("/registry/pods/{:06}", n % 100_000)))
        .collect();
    let mut bench = Bench::new(Arc::new(log), watchers, puts + 1);
    for stream in 0..watchers {
        bench.create(stream, "/registry/", "/registry0", 2);
    }
    bench.drain();
    (bench.events, bench.messages) = (0, 0);
    let began = cpu_ns();
    let mut longest = 0;
    bench.wants_turn = true;
    while bench.wants_turn {
        let turn = cpu_ns();
        bench.step(Input::Tick);
        longest = longest.max((cpu_ns() - turn) / 1000);
        bench.drain();
    }
    assert_eq!(bench.events, puts as usize * watchers);
    bench.report(
        &format!("{watchers} watchers {puts} revisions behind, longest turn {longest} us"),
        began,
    );
}

fn main() {
    fan_out(1_000_000, 64);
    fan_out(100_000, 8);
    fan_out(100_000, 1);
    own_keys(200_000, "");
    own_keys(200_000, "~");
    catch_up(500_000, 1);
    catch_up(100_000, 100);
}
