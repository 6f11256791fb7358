//! The hub over the real state: what a watcher reads from history is what it would have been told live.

use std::sync::Arc;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::WatchResponse;
use proto::mvccpb;
use proto::raftpb::{Entry, EntryType};

use prost::Message as _;
use replica::Now;
use replica::watch::{Effect, Hub, Input, Limits, Message, StreamId};
use state::{Params, ReadView, State};
use storage::disk::MemDisk;
use storage::segments::SegmentsOptions;

const STREAM: StreamId = StreamId(1);

/// A state and a hub that is told of all its batches.
struct Bed {
    state: State,
    index: u64,
    hub: Hub<ReadView>,
    received: Vec<Message>,
}

impl Bed {
    fn new() -> Bed {
        let options = SegmentsOptions {
            segment_bytes: 4 << 10,
            hot_bytes: 8 << 10,
            salt: 7,
            sequence_first: 1,
        };
        let params = Params {
            quota_bytes: None,
            ..Params::default()
        };
        let state = State::create(params, Arc::new(MemDisk::new()), "data", options)
            .expect("an empty disk");
        let limits = Limits {
            // Nothing here reads, so nothing gives credit back.
            stream_messages: 10_000,
            slice_events: 16,
            ..Limits::default()
        };
        let hub = Hub::new(limits, state.view());
        let mut bed = Bed {
            state,
            index: 0,
            hub,
            received: Vec::new(),
        };
        bed.step(Input::Open {
            stream: STREAM,
            jitter: 0,
        });
        bed
    }

    fn step(&mut self, input: Input<ReadView>) -> bool {
        let mut effects = Vec::new();
        self.hub
            .step(Now::default(), input, &mut effects)
            .expect("a disk in memory does not fail");
        self.hub.check();
        let mut wants_turn = false;
        for effect in effects {
            match effect {
                Effect::Deliver(_, message) => self.received.push(message),
                Effect::WantsTurn => wants_turn = true,
                Effect::Overrun(stream) => panic!("{stream:?} is overrun"),
            }
        }
        wants_turn
    }

    /// Applies one request and publishes what it did.
    fn apply(&mut self, request: pb::InternalRaftRequest) {
        self.index += 1;
        let entry = Entry {
            r#type: Some(EntryType::EntryNormal as i32),
            term: Some(2),
            index: Some(self.index),
            data: Some(request.encode_to_vec().into()),
        };
        let applied = self.state.apply(&entry).expect("no fault");
        assert!(applied.outcome.is_ok(), "{:?}", applied.outcome);
        let view = self.state.view();
        self.step(Input::Published {
            view,
            events: applied.events.into(),
        });
    }

    fn put(&mut self, key: &str, value: &str) {
        self.apply(pb::InternalRaftRequest {
            put: Some(pb::PutRequest {
                key: key.to_owned().into(),
                value: value.to_owned().into(),
                ..Default::default()
            }),
            ..Default::default()
        });
    }

    fn delete(&mut self, key: &str, end: &str) {
        self.apply(pb::InternalRaftRequest {
            delete_range: Some(pb::DeleteRangeRequest {
                key: key.to_owned().into(),
                range_end: end.to_owned().into(),
                ..Default::default()
            }),
            ..Default::default()
        });
    }

    /// Compacts, and takes away all that the compaction frees.
    fn compact(&mut self, revision: i64) {
        self.apply(pb::InternalRaftRequest {
            compaction: Some(pb::CompactionRequest {
                revision,
                physical: false,
            }),
            ..Default::default()
        });
        while self.state.maintain(1000) {}
        let view = self.state.view();
        self.step(Input::Published {
            view,
            events: Arc::new([]),
        });
    }

    /// A new watcher of all keys; returns all it is told until it is synced, its creation aside.
    fn watch_from(&mut self, start_revision: i64) -> Vec<Message> {
        let before = self.received.len();
        let mut wants_turn = self.step(Input::Create {
            stream: STREAM,
            request: pb::WatchCreateRequest {
                key: "\0".into(),
                range_end: "\0".into(),
                start_revision,
                prev_kv: true,
                ..Default::default()
            },
            revision: self.hub.revision(),
            refusal: None,
        });
        while wants_turn {
            wants_turn = self.step(Input::Tick);
        }
        let told = self.received.split_off(before);
        assert!(told[0].created && !told[0].canceled);
        told[1..].to_vec()
    }
}

fn events(messages: &[Message]) -> Vec<mvccpb::Event> {
    messages
        .iter()
        .flat_map(|message| {
            WatchResponse::decode(message.events.clone())
                .expect("events are well-formed")
                .events
        })
        .collect()
}

/// `key#mod_revision`, with a `-` for a delete.
fn names(messages: &[Message]) -> Vec<String> {
    let name = |event: &mvccpb::Event| {
        let kv = event.kv.as_ref().expect("an event has a kv");
        let sign = match event.r#type() {
            mvccpb::event::EventType::Put => "",
            mvccpb::event::EventType::Delete => "-",
        };
        format!(
            "{sign}{}#{}",
            String::from_utf8_lossy(&kv.key),
            kv.mod_revision
        )
    };
    events(messages).iter().map(name).collect()
}

#[test]
fn history_tells_exactly_what_was_told_live() {
    let mut bed = Bed::new();
    assert_eq!(bed.watch_from(0), []);
    bed.received.clear();
    for n in 0..300 {
        bed.put(&format!("k{}", n % 37), &"v".repeat(n % 200));
        if n % 11 == 0 {
            bed.delete(&format!("k{}", n % 5), &format!("k{}~", n % 5));
        }
    }
    let live = std::mem::take(&mut bed.received);
    let read = bed.watch_from(2);
    assert!(live.len() > 300 && read.len() > 10);
    assert_eq!(events(&live), events(&read));
    assert!(events(&read).iter().any(|event| event.prev_kv.is_some()));
}

/// etcd #18089 and #19179, all the way through compaction and the removal of what it freed.
#[test]
fn the_delete_at_the_compacted_revision_outlives_the_compaction_for_watchers() {
    let mut bed = Bed::new();
    bed.put("a", "1"); // 2
    bed.put("b", "1"); // 3
    bed.delete("a", ""); // 4
    bed.put("b", "2"); // 5
    bed.compact(4);
    assert_eq!(names(&bed.watch_from(4)), ["-a#4", "b#5"]);
    assert_eq!(names(&bed.watch_from(5)), ["b#5"]);
    let told = bed.watch_from(3);
    assert_eq!(told.len(), 1);
    assert!(told[0].canceled);
    assert_eq!((told[0].compact_revision, told[0].header_revision), (4, 0));
}
