//! Random histories against a naive oracle.
//!
//! The oracle knows the whole, never compacted history. For every watch it keeps one number, how many of the matching
//! events have arrived, and checks each message against it: ordered, unique, reliable and resumable are one comparison
//! (the next events are exactly the next ones), atomic and bookmarkable are one more each.

use super::*;
use proto::etcdserverpb::watch_create_request::FilterType;

struct Dice(u64);

impl Dice {
    /// A number below `n`.
    fn roll(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }

    fn key(&mut self) -> String {
        ["a", "aa", "ab", "b", "ba", "c", "d", "d\0"][self.roll(8) as usize].to_owned()
    }
}

/// What the oracle knows of one watch.
struct Watch {
    request: WatchCreateRequest,
    /// First revision the watch is due.
    start: i64,
    /// The last event received.
    last: Revision,
    /// The last progress received.
    bookmark: i64,
    /// In the middle of a fragmented response.
    fragmented: bool,
}

impl Watch {
    fn matches(&self, event: &Event) -> bool {
        let request = &self.request;
        let key = match &request.key[..] {
            b"" => b"\0",
            key => key,
        };
        let in_range = match &request.range_end[..] {
            b"" => event.key == key,
            b"\0" => &event.key[..] >= key,
            end => &event.key[..] >= key && &event.key[..] < end,
        };
        let filter = match event.kind {
            EventKind::Put => FilterType::Noput,
            EventKind::Delete => FilterType::Nodelete,
        };
        in_range && event.revision.main >= self.start && !request.filters.contains(&(filter as i32))
    }

    /// The events still to come, of those that have happened.
    fn missing<'a>(&'a self, log: &'a [Event]) -> impl Iterator<Item = &'a Event> {
        log.iter()
            .filter(|event| event.revision > self.last && self.matches(event))
    }
}

struct Model {
    bed: Bed,
    dice: Dice,
    /// Creations without an answer, by stream, in order.
    asked: BTreeMap<u64, Vec<(WatchCreateRequest, i64)>>,
    watches: BTreeMap<(u64, i64), Watch>,
    /// Highest header of a manual progress, by stream.
    opened: u64,
    messages_checked: usize,
}

impl Model {
    fn new(seed: u64) -> Model {
        let mut dice = Dice(seed);
        let limits = Limits {
            stream_messages: 1 + dice.roll(6) as usize,
            stream_bytes: 200 + dice.roll(2000) as usize,
            total_bytes: 500 + dice.roll(5000) as usize,
            stream_answers: 1000,
            message_bytes: 80 + dice.roll(400) as usize,
            slice_events: 1 + dice.roll(20) as usize,
            slice_bytes: 1 + dice.roll(500) as usize,
            progress_interval_us: 1000,
            ..Limits::default()
        };
        Model {
            bed: Bed::with(limits),
            dice,
            asked: BTreeMap::new(),
            watches: BTreeMap::new(),
            opened: 0,
            messages_checked: 0,
        }
    }

    fn act(&mut self) {
        match self.dice.roll(24) {
            0..8 => self.write(),
            8..12 => self.bed.publish(),
            12 => self.compact(),
            13 if self.dice.one_in(4) => self.bed.publish_jump(),
            14 if self.asked.len() < 4 => {
                self.opened += 1;
                self.asked.insert(self.opened, Vec::new());
                self.bed.open(self.opened);
            }
            15 if self.dice.one_in(10) => self.close(),
            16 | 17 => self.create(),
            18 if self.dice.one_in(3) => self.cancel(),
            19 => {
                let stream = self.stream();
                self.bed.progress(stream);
            }
            20 => {
                self.bed.now.monotonic_us += self.dice.roll(400);
                self.bed.step(Input::Tick);
            }
            21 if self.bed.wants_turn => self.bed.step(Input::Tick),
            22 | 23 => {
                let (stream, count) = (self.stream(), 1 + self.dice.roll(5) as usize);
                self.read(stream, count);
            }
            _ => {}
        }
    }

    fn stream(&mut self) -> u64 {
        let nth = self.dice.roll(self.asked.len().max(1) as u64) as usize;
        self.asked.keys().nth(nth).copied().unwrap_or(0)
    }

    fn write(&mut self) {
        let mut ops: BTreeMap<String, Op> = BTreeMap::new();
        for _ in 0..1 + self.dice.roll(3) * self.dice.roll(2) {
            let key = self.dice.key();
            let op = match self.dice.one_in(3) {
                true => delete(&key),
                false => put(&key, &"v".repeat(self.dice.roll(40) as usize)),
            };
            ops.insert(key, op);
        }
        self.bed.store.txn(&ops.into_values().collect::<Vec<_>>());
    }

    fn compact(&mut self) {
        if self.dice.one_in(3) {
            let room = self.bed.store.revision - self.bed.store.compacted;
            self.bed.store.compacted += self.dice.roll(room as u64 + 1) as i64;
            self.bed.publish();
        }
    }

    fn close(&mut self) {
        let stream = self.stream();
        self.bed.step(Input::Close {
            stream: StreamId(stream),
        });
        self.bed.queues.remove(&StreamId(stream));
        self.asked.remove(&stream);
        self.watches.retain(|(s, _), _| *s != stream);
    }

    fn create(&mut self) {
        let stream = self.stream();
        let Some(asked) = self.asked.get_mut(&stream) else {
            return;
        };
        let revision = self.bed.store.revision;
        let start_revision = match self.dice.roll(4) {
            0 => 0,
            1 => revision + 1,
            2 => (revision - self.dice.roll(30) as i64).max(1),
            _ => revision + self.dice.roll(10) as i64,
        };
        let (key, end) = (self.dice.key(), self.dice.key());
        let mut request = match self.dice.roll(4) {
            0 => on(&key),
            1 => all(),
            2 => range(&key, "\0"),
            _ => range(&key, &end),
        };
        request.start_revision = start_revision;
        request.prev_kv = self.dice.one_in(3);
        request.fragment = self.dice.one_in(4);
        request.progress_notify = self.dice.one_in(2);
        if self.dice.one_in(5) {
            request.filters = vec![self.dice.roll(2) as i32];
        }
        asked.push((request.clone(), revision));
        self.bed.create_at(stream, request, revision);
    }

    fn cancel(&mut self) {
        let nth = self.dice.roll(self.watches.len().max(1) as u64) as usize;
        if let Some(&(stream, watch_id)) = self.watches.keys().nth(nth) {
            self.bed.cancel(stream, watch_id);
        }
    }

    /// Reads and checks some messages.
    fn read(&mut self, stream: u64, count: usize) -> usize {
        let messages = self.bed.read(stream, count);
        for message in &messages {
            self.check(stream, message);
        }
        self.messages_checked += messages.len();
        messages.len()
    }

    fn check(&mut self, stream: u64, message: &Message) {
        let text = line(message);
        if message.created {
            self.check_created(stream, message);
        } else if message.canceled {
            let watch = self.watches.remove(&(stream, message.watch_id));
            // After the notice of compaction the client's own cancel is answered as well.
            if message.compact_revision > 0 {
                let watch = watch.expect("only a live watch is overtaken");
                let next = watch.start.max(watch.last.main + 1).max(watch.bookmark + 1);
                assert!(next < message.compact_revision, "{text}: was due {next}");
                assert_eq!(message.header_revision, 0);
            }
        } else if message.event_count == 0 {
            self.check_progress(stream, message);
        } else {
            self.check_events(stream, message);
        }
    }

    fn check_created(&mut self, stream: u64, message: &Message) {
        let (request, revision) = self
            .asked
            .get_mut(&stream)
            .expect("only open streams are read")
            .remove(0);
        let empty = !request.range_end.is_empty()
            && &request.range_end[..] != b"\0"
            && request.range_end <= request.key;
        assert_eq!(message.canceled, empty, "{request:?}");
        if empty {
            return;
        }
        assert!(message.header_revision >= revision);
        let start = match request.start_revision {
            0 => message.header_revision + 1,
            start => start,
        };
        let watch = Watch {
            request,
            start,
            last: Revision::default(),
            bookmark: 0,
            fragmented: false,
        };
        let before = self.watches.insert((stream, message.watch_id), watch);
        assert!(before.is_none(), "the id was free");
    }

    /// Bookmarkable: nothing at or below the revision is missing.
    fn check_progress(&mut self, stream: u64, message: &Message) {
        let log = self.bed.store.log.borrow();
        let at = message.header_revision;
        for ((_, id), watch) in self
            .watches
            .range_mut((stream, i64::MIN)..=(stream, i64::MAX))
        {
            if message.watch_id != NO_WATCH_ID && message.watch_id != *id {
                continue;
            }
            let early = watch
                .missing(&log)
                .take_while(|event| event.revision.main <= at)
                .count();
            assert_eq!(early, 0, "progress at {at} overtook events of watch {id}");
            assert!(
                at >= watch.request.start_revision,
                "progress before the start"
            );
            assert!(at >= watch.bookmark, "progress went back");
            assert!(!watch.fragmented, "progress within a response");
            watch.bookmark = at;
        }
    }

    fn check_events(&mut self, stream: u64, message: &Message) {
        let log = self.bed.store.log.borrow();
        let text = line(message);
        let watch = self
            .watches
            .get_mut(&(stream, message.watch_id))
            .unwrap_or_else(|| panic!("{text}: no such watch"));
        let missing: Vec<&Event> = watch.missing(&log).collect();
        let events = events_of(message);
        for (event, want) in events.iter().zip(&missing) {
            let kv = event.kv.as_ref().expect("an event has a kv");
            assert_eq!(Bytes::from(kv.encode_to_vec()), want.kv, "{text}");
            let delete = event.r#type() == mvccpb::event::EventType::Delete;
            assert_eq!(delete, want.kind == EventKind::Delete, "{text}");
            let before = self.bed.store.get(&want.key, want.revision.main - 1);
            let before = before.filter(|_| !want.is_creation);
            let previous = event
                .prev_kv
                .as_ref()
                .map(|kv| Bytes::from(kv.encode_to_vec()));
            if !watch.request.prev_kv {
                assert_eq!(previous, None, "{text}");
            } else if previous.is_some() || want.revision.main > self.bed.store.compacted {
                assert_eq!(previous, before, "{text}");
            }
        }
        assert!(events.len() <= missing.len(), "{text}: more than happened");
        let last = missing[events.len() - 1].revision;
        if let Some(next) = missing.get(events.len())
            && !message.fragment
        {
            assert!(next.revision.main > last.main, "{text}: a split revision");
        }
        assert!(!message.fragment || watch.request.fragment, "{text}");
        assert!(last.main > watch.bookmark, "{text}: below a bookmark");
        assert!(message.header_revision >= last.main, "{text}");
        watch.fragmented = message.fragment;
        watch.last = last;
    }

    /// Lets everybody read until nothing comes any more; then nothing may be missing.
    fn finish(&mut self) {
        self.bed.publish();
        loop {
            self.bed.settle();
            let streams: Vec<u64> = self.asked.keys().copied().collect();
            let read: usize = streams
                .into_iter()
                .map(|stream| self.read(stream, usize::MAX))
                .sum();
            if read == 0 {
                break;
            }
        }
        let log = self.bed.store.log.borrow();
        for ((stream, id), watch) in &self.watches {
            assert_eq!(watch.missing(&log).count(), 0, "stream {stream} watch {id}");
            assert!(!watch.fragmented);
        }
        assert!(
            self.asked.values().all(Vec::is_empty),
            "an unanswered creation"
        );
        assert_eq!(self.bed.hub.stats().behind, 0);
        assert_eq!(self.bed.hub.stats().outstanding_bytes, 0);
        assert_eq!(self.bed.hub.stats().watchers, self.watches.len());
    }
}

#[test]
fn every_watch_gets_exactly_its_events_whatever_happens() {
    let mut messages = 0;
    for seed in 0..64 {
        let mut model = Model::new(seed);
        for _ in 0..1500 {
            model.act();
        }
        model.finish();
        messages += model.messages_checked;
    }
    assert!(
        messages > 15_000,
        "only {messages} messages: the dice are loaded"
    );
}
