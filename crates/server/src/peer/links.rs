//! What is to go to each peer: the queues between the threads that have messages and the one that sends them.
//!
//! Whoever has messages hands in all of them at once; they are sorted to the queues of their peers under one lock, and the
//! tasks that write are woken after it. The lock is never held while anything is encoded, written or decided.
//!
//! A queue is bounded in messages and in bytes (what is queued shares its bytes with the raft log). When it is full the message is
//! dropped, counted, and raft is told that the peer can't be reached: it goes back to probing, and sends again from where the peer
//! is. So a peer that reads slowly costs a bounded amount of memory and nobody's time.
//!
//! Which queue a message takes is etcd's rule: log entries take their own stream, everything else the other one, and while a
//! stream is down its messages take the next: the other stream, then the pipeline. Source: upstream
//! `server/etcdserver/api/rafthttp/peer.go`, `pick`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Instant;

use proto::raftpb::{Message, MessageType};
use state::membership::id_to_hex;
use tokio::sync::Notify;

use super::codec::{self, Kind};
use super::metrics::PeerMetrics;

/// Messages that may wait for one stream. Source: upstream `streamBufSize`.
const STREAM_MESSAGES_MAX: usize = 4_096;
/// Messages that may wait for the pipeline. Source: upstream `pipelineBufSize`.
const PIPELINE_MESSAGES_MAX: usize = 64;
/// Bytes that may wait in one queue.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Messages and bytes that a writer takes at once.
const TAKE_MESSAGES: usize = 512;
const TAKE_BYTES: usize = 256 << 10;

/// The ways to all peers.
pub struct Links {
    local: u64,
    /// Held to sort, take or look; nothing else is locked meanwhile.
    links: Mutex<BTreeMap<u64, Link>>,
    /// Rings when the membership may have changed.
    pub(super) members_changed: Notify,
}

/// The way to one peer.
struct Link {
    streams: [Stream; 2],
    pipeline: Queue,
    pipeline_bell: Arc<Notify>,
    snapshot: Option<Box<Message>>,
    snapshot_bell: Arc<Notify>,
    /// Since when the peer is connected.
    active_since: Option<Instant>,
    metrics: Arc<PeerMetrics>,
}

/// A stream to a peer. It is open while the peer reads it.
#[derive(Default)]
struct Stream {
    queue: Queue,
    /// Counts the connections; the newest is the one that is read.
    generation: u64,
    is_open: bool,
    writer: Option<Waker>,
}

struct Queue {
    messages: VecDeque<Message>,
    bytes: usize,
    messages_max: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Queue::new(STREAM_MESSAGES_MAX)
    }
}

impl Queue {
    fn new(messages_max: usize) -> Queue {
        Queue {
            messages: VecDeque::new(),
            bytes: 0,
            messages_max,
        }
    }

    /// False if there is no room. A message that is alone always has.
    fn push(&mut self, message: Message) -> bool {
        let weight = codec::weight(&message);
        let is_full = self.messages.len() >= self.messages_max
            || (self.bytes + weight > QUEUE_BYTES_MAX && !self.messages.is_empty());
        if !is_full {
            self.bytes += weight;
            self.messages.push_back(message);
        }
        !is_full
    }

    fn pop(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.bytes -= codec::weight(&message);
        Some(message)
    }

    fn clear(&mut self) -> bool {
        let had_some = !self.messages.is_empty();
        self.messages.clear();
        self.bytes = 0;
        had_some
    }
}

/// What a writer finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Messages, in order.
    Some,
    /// None; the writer is woken when there are.
    Nothing,
    /// Another connection has taken the place of this one, or the peer is gone.
    Closed,
}

impl Links {
    /// No peers yet.
    pub fn new(local: u64) -> Links {
        Links {
            local,
            links: Mutex::default(),
            members_changed: Notify::new(),
        }
    }

    /// Sends messages, each to whom it names. Returns those that can't be reached at the moment, each once.
    #[must_use]
    pub fn send(&self, messages: impl IntoIterator<Item = Message>) -> Vec<u64> {
        let (mut unreachable, mut writers) = (Vec::new(), Vec::new());
        let mut links = self.lock();
        for message in messages {
            let to = message.to();
            // A member that this one does not know yet, or not any more. Raft tries again.
            let Some(link) = links.get_mut(&to) else {
                continue;
            };
            let kind = codec::kind_of(&message);
            assert_ne!(kind, MessageType::MsgSnap, "snapshots have their own way");
            let is_sent = match link.pick(kind) {
                Some(stream) => {
                    writers.extend(stream.writer.take());
                    stream.queue.push(message)
                }
                None => {
                    link.pipeline_bell.notify_one();
                    link.pipeline.push(message)
                }
            };
            if !is_sent {
                link.metrics.sent_failures.inc();
                if !unreachable.contains(&to) {
                    unreachable.push(to);
                    link.tell_full(self.local, to, kind);
                }
            }
        }
        drop(links);
        writers.into_iter().for_each(Waker::wake);
        unreachable
    }

    /// Leaves a snapshot to be sent. False if the peer is not known.
    #[must_use]
    pub fn send_snapshot(&self, to: u64, message: Box<Message>) -> bool {
        let mut links = self.lock();
        let Some(link) = links.get_mut(&to) else {
            return false;
        };
        // Raft asks for the next only when it has heard of the one before.
        link.snapshot = Some(message);
        link.snapshot_bell.notify_one();
        true
    }

    /// The membership may have changed: peers come, go or move.
    pub fn members_changed(&self) {
        self.members_changed.notify_one();
    }

    /// Since when a peer is connected; `None` if it is not, or not known.
    pub fn active_since(&self, id: u64) -> Option<Instant> {
        self.lock().get(&id).and_then(|link| link.active_since)
    }

    /// What is counted of each peer, whether it is connected, by id.
    pub(crate) fn counts(&self) -> Vec<(u64, bool, Arc<PeerMetrics>)> {
        let links = self.lock();
        links
            .iter()
            .map(|(id, link)| (*id, link.active_since.is_some(), link.metrics.clone()))
            .collect()
    }

    /// A peer is known from now on. One that is known already stays as it is.
    pub(super) fn open(&self, id: u64) {
        self.lock().entry(id).or_insert_with(|| Link {
            streams: Default::default(),
            pipeline: Queue::new(PIPELINE_MESSAGES_MAX),
            pipeline_bell: Arc::default(),
            snapshot: None,
            snapshot_bell: Arc::default(),
            active_since: None,
            metrics: Arc::default(),
        });
    }

    /// A peer is not known any more. What waited for it is dropped.
    pub(super) fn close(&self, id: u64) {
        let link = self.lock().remove(&id);
        let writers = link.into_iter().flat_map(|link| link.streams);
        writers
            .filter_map(|stream| stream.writer)
            .for_each(Waker::wake);
    }

    /// What is counted of a peer; of one that is gone, something that nobody reads any more.
    pub(super) fn metrics(&self, id: u64) -> Arc<PeerMetrics> {
        let links = self.lock();
        links
            .get(&id)
            .map_or_else(Arc::default, |link| link.metrics.clone())
    }

    /// The peer has connected to read a stream: the number of the connection. An older one ends.
    pub(super) fn attach(&self, id: u64, kind: Kind) -> Option<u64> {
        let (generation, writer) = {
            let mut links = self.lock();
            let stream = links.get_mut(&id)?.stream(kind);
            stream.generation += 1;
            stream.is_open = true;
            (stream.generation, stream.writer.take())
        };
        // The connection before this one finds that it is not meant any more.
        writer.into_iter().for_each(Waker::wake);
        Some(generation)
    }

    /// A connection has ended. Whether it was the one in use, and whether messages were lost with it.
    pub(super) fn detach(&self, id: u64, kind: Kind, generation: u64) -> (bool, bool) {
        let mut links = self.lock();
        let Some(link) = links.get_mut(&id) else {
            return (false, false);
        };
        let stream = link.stream(kind);
        if stream.generation != generation {
            return (false, false);
        }
        stream.is_open = false;
        stream.writer = None;
        (true, stream.queue.clear())
    }

    /// Moves what waits for a stream into `taken`, up to what is good to write at once.
    pub(super) fn take(
        &self,
        (id, kind, generation): (u64, Kind, u64),
        writer: &Waker,
        taken: &mut Vec<Message>,
    ) -> Taken {
        let mut links = self.lock();
        let Some(stream) = links.get_mut(&id).map(|link| link.stream(kind)) else {
            return Taken::Closed;
        };
        if stream.generation != generation {
            return Taken::Closed;
        }
        let before = stream.queue.bytes;
        while before - stream.queue.bytes < TAKE_BYTES
            && taken.len() < TAKE_MESSAGES
            && let Some(message) = stream.queue.pop()
        {
            taken.push(message);
        }
        if !taken.is_empty() {
            return Taken::Some;
        }
        match &stream.writer {
            Some(known) if known.will_wake(writer) => {}
            _ => stream.writer = Some(writer.clone()),
        }
        Taken::Nothing
    }

    /// Waits for a message for the pipeline. `None` when the peer is gone.
    pub(super) async fn next_in_pipeline(&self, id: u64) -> Option<Message> {
        loop {
            let bell = {
                let mut links = self.lock();
                let link = links.get_mut(&id)?;
                if let Some(message) = link.pipeline.pop() {
                    if !link.pipeline.messages.is_empty() {
                        link.pipeline_bell.notify_one();
                    }
                    return Some(message);
                }
                link.pipeline_bell.clone()
            };
            bell.notified().await;
        }
    }

    /// Waits for a snapshot to send. `None` when the peer is gone.
    pub(super) async fn next_snapshot(&self, id: u64) -> Option<Box<Message>> {
        loop {
            let bell = {
                let mut links = self.lock();
                let link = links.get_mut(&id)?;
                if let Some(message) = link.snapshot.take() {
                    return Some(message);
                }
                link.snapshot_bell.clone()
            };
            bell.notified().await;
        }
    }

    /// The peer answers.
    pub(super) fn activate(&self, id: u64) {
        let mut links = self.lock();
        let Some(link) = links.get_mut(&id) else {
            return;
        };
        if link.active_since.is_none() {
            link.active_since = Some(Instant::now());
            drop(links);
            tracing::info!("peer-id" = id_to_hex(id), "peer became active");
        }
    }

    /// The peer does not answer: `action` failed on `source`.
    pub(super) fn deactivate(&self, id: u64, source: &str, action: &str, why: &str) {
        let mut links = self.lock();
        let Some(link) = links.get_mut(&id) else {
            return;
        };
        let error = || format!("failed to {action} {} on {source} ({why})", id_to_hex(id));
        if link.active_since.take().is_some() {
            link.metrics.disconnected.inc();
            drop(links);
            tracing::warn!(
                "peer-id" = id_to_hex(id),
                error = error(),
                "peer became inactive (message send to peer failed)"
            );
        } else {
            drop(links);
            tracing::debug!(
                "peer-id" = id_to_hex(id),
                error = error(),
                "peer deactivated again"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Link>> {
        self.links
            .lock()
            .expect("no thread panics while it holds the links")
    }
}

impl Link {
    /// The stream that a message takes, or `None` for the pipeline.
    fn pick(&mut self, kind: MessageType) -> Option<&mut Stream> {
        let [app, message] = &mut self.streams;
        if kind == MessageType::MsgApp && app.is_open {
            return Some(app);
        }
        message.is_open.then_some(message)
    }

    fn stream(&mut self, kind: Kind) -> &mut Stream {
        let [app, message] = &mut self.streams;
        match kind {
            Kind::MsgApp => app,
            Kind::Message => message,
        }
    }

    /// Told once per batch; a peer that is down fills its pipeline again and again, which is told at a lower level.
    fn tell_full(&self, local: u64, to: u64, kind: MessageType) {
        let is_active = self.active_since.is_some();
        let text = "dropped internal Raft message since sending buffer is full";
        macro_rules! tell {
            ($level:ident) => {
                tracing::$level!(
                    "message-type" = kind.as_str_name(),
                    "local-member-id" = id_to_hex(local),
                    "remote-peer-id" = id_to_hex(to),
                    "remote-peer-active" = is_active,
                    "{text}"
                )
            };
        }
        match is_active {
            true => tell!(warn),
            false => tell!(debug),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures_util::FutureExt;
    use proto::raftpb::Entry;

    const PEER: u64 = 2;

    fn links() -> Links {
        let links = Links::new(1);
        links.open(PEER);
        links
    }

    fn message(kind: MessageType, index: u64) -> Message {
        Message {
            r#type: Some(kind as i32),
            to: Some(PEER),
            from: Some(1),
            index: Some(index),
            ..Default::default()
        }
    }

    fn with_bytes(bytes: usize) -> Message {
        let entry = Entry {
            data: Some(Bytes::from(vec![0; bytes])),
            ..Default::default()
        };
        Message {
            entries: vec![entry],
            ..message(MessageType::MsgApp, 1)
        }
    }

    fn taken(links: &Links, kind: Kind, generation: u64) -> Option<Vec<u64>> {
        let mut taken = Vec::new();
        let found = links.take((PEER, kind, generation), Waker::noop(), &mut taken);
        (found != Taken::Closed).then(|| taken.iter().map(Message::index).collect())
    }

    fn piped(links: &Links) -> Vec<u64> {
        let next = || links.next_in_pipeline(PEER).now_or_never().flatten();
        std::iter::from_fn(next).map(|m| m.index()).collect()
    }

    #[test]
    fn entries_take_their_stream_and_what_has_none_takes_the_next() {
        let (app, vote) = (MessageType::MsgApp, MessageType::MsgVote);
        let links = links();
        let send = |index| {
            let both = [message(app, index), message(vote, index + 1)];
            assert!(links.send(both).is_empty());
        };
        send(10);
        assert_eq!(piped(&links), [10, 11]);
        let one = links.attach(PEER, Kind::Message).expect("known");
        send(20);
        assert_eq!(taken(&links, Kind::Message, one), Some(vec![20, 21]));
        let two = links.attach(PEER, Kind::MsgApp).expect("known");
        send(30);
        assert_eq!(taken(&links, Kind::MsgApp, two), Some(vec![30]));
        assert_eq!(taken(&links, Kind::Message, one), Some(vec![31]));
        links.detach(PEER, Kind::Message, one);
        send(40);
        assert_eq!(piped(&links), [41]);
    }

    #[test]
    fn a_new_connection_ends_the_one_before_and_inherits_what_waits() {
        let links = links();
        let old = links.attach(PEER, Kind::MsgApp).expect("known");
        assert!(links.send([message(MessageType::MsgApp, 1)]).is_empty());
        let new = links.attach(PEER, Kind::MsgApp).expect("known");
        assert_eq!(taken(&links, Kind::MsgApp, old), None);
        assert_eq!(links.detach(PEER, Kind::MsgApp, old), (false, false));
        assert_eq!(taken(&links, Kind::MsgApp, new), Some(vec![1]));
        assert_eq!(links.detach(PEER, Kind::MsgApp, new), (true, false));
        assert_eq!(links.attach(7, Kind::MsgApp), None, "nobody knows 7");
    }

    #[test]
    fn a_full_queue_drops_and_names_the_peer_once() {
        let links = links();
        let many = || (0..100).map(|index| message(MessageType::MsgVote, index));
        assert_eq!(links.send(many()), [PEER]);
        assert_eq!(piped(&links).len(), PIPELINE_MESSAGES_MAX);
        assert!(links.send(many().take(64)).is_empty(), "room again");
    }

    #[test]
    fn a_queue_is_bounded_in_bytes_but_takes_one_message_of_any_size() {
        let links = links();
        let generation = links.attach(PEER, Kind::MsgApp).expect("known");
        assert!(links.send([with_bytes(2 * QUEUE_BYTES_MAX)]).is_empty());
        assert_eq!(links.send([with_bytes(1)]), [PEER]);
        assert_eq!(taken(&links, Kind::MsgApp, generation), Some(vec![1]));
        assert_eq!(links.lock()[&PEER].streams[0].queue.bytes, 0);
        assert!(links.send([with_bytes(1)]).is_empty());
    }

    #[test]
    fn a_writer_that_waits_is_woken_and_one_without_a_peer_ends() {
        let links = links();
        let generation = links.attach(PEER, Kind::Message).expect("known");
        assert_eq!(taken(&links, Kind::Message, generation), Some(vec![]));
        assert!(links.lock()[&PEER].streams[1].writer.is_some());
        assert!(links.send([message(MessageType::MsgVote, 1)]).is_empty());
        assert!(links.lock()[&PEER].streams[1].writer.is_none());
        links.close(PEER);
        assert_eq!(taken(&links, Kind::Message, generation), None);
        assert_eq!(
            links.next_in_pipeline(PEER).now_or_never(),
            Some(None),
            "gone"
        );
    }

    #[test]
    fn messages_to_strangers_are_dropped_in_silence() {
        let stranger = Message {
            to: Some(9),
            ..message(MessageType::MsgApp, 1)
        };
        assert!(links().send([stranger]).is_empty());
    }
}
