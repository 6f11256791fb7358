//! Watch streams of one connection thread, and their way to the hubs and back.
//!
//! Hubs run on threads of their own and know a stream by its number. Every connection thread has a [`Mailbox`] that they post
//! deliveries to, a batch at a time with one wake, and [`Streams`], the streams of its own connections. A stream is bound
//! to one hub for life, so its messages keep their order.
//!
//! ```text
//! 63    56 55                          0
//! +-------+-----------------------------+
//! | shard | number of the stream        |
//! +-------+-----------------------------+
//! ```
//!
//! How much lies here is bounded by the hub: a stream gets no more than `Limits::stream_messages` and
//! `Limits::stream_bytes` until it gives credit back. Credit for what went to the transport is gathered: waking a hub for
//! each message would cost more than the message. It goes back when a quarter of the budget has gathered, and otherwise
//! with [`Streams::return_credit`], soon, because a hub that is short of memory serves only streams that owe nothing.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proto::error::{self, RpcError};
use proto::etcdserverpb::WatchCreateRequest;
use replica::watch::{Input, Message, StreamId};
use state::ReadView;
use tokio::sync::Notify;

use crate::inbox::Inbox;

/// What a hub is told.
pub type HubInput = Input<ReadView>;

/// Something a hub has for a stream.
#[derive(Debug)]
pub enum Delivery {
    Message(Message),
    /// The hub has given the stream up: its client does not read.
    Overrun,
}

/// The hubs of the member.
pub struct Hubs {
    /// One for each hub. A connection thread may wait here for room; a hub never waits for a connection thread, so that ends.
    pub inboxes: Vec<Arc<Inbox<HubInput>>>,
}

impl Hubs {
    fn tell(&self, hub: usize, input: HubInput) -> Result<(), &'static RpcError> {
        self.inboxes[hub].send(input).map_err(|_| &error::STOPPED)
    }
}

/// Where deliveries for one connection thread arrive. Bounded by what the hubs let streams have under way.
#[derive(Default)]
pub struct Mailbox {
    /// Held only to push or swap; nothing else is locked meanwhile.
    deliveries: Mutex<Vec<(StreamId, Delivery)>>,
    notify: Notify,
}

impl Mailbox {
    /// Adds deliveries, in order, and wakes the thread once.
    pub fn post(&self, deliveries: impl IntoIterator<Item = (StreamId, Delivery)>) {
        self.deliveries
            .lock()
            .expect("no thread panics while it holds a mailbox")
            .extend(deliveries);
        self.notify.notify_one();
    }

    /// All deliveries that have come; waits for the first.
    pub async fn take(&self) -> Vec<(StreamId, Delivery)> {
        loop {
            let taken = std::mem::take(
                &mut *self
                    .deliveries
                    .lock()
                    .expect("no thread panics while it holds a mailbox"),
            );
            if !taken.is_empty() {
                return taken;
            }
            self.notify.notified().await;
        }
    }
}

/// Which thread a stream belongs to.
pub fn shard_of(stream: StreamId) -> usize {
    (stream.0 >> SHARD_SHIFT) as usize
}

const SHARD_SHIFT: u32 = 56;
/// Credit is returned at once when so much of it has gathered: a quarter of the hub's defaults.
const OWED_MESSAGES_MAX: usize = 32;
const OWED_BYTES_MAX: usize = 1 << 20;
/// Credit waits no longer than this.
const OWED_FOR: Duration = Duration::from_millis(20);

/// The watch streams of one connection thread.
pub struct Streams {
    shard: u64,
    hubs: Arc<Hubs>,
    state: RefCell<State>,
    /// Some stream has begun to owe credit.
    owing: Notify,
}

#[derive(Default)]
struct State {
    open: BTreeMap<StreamId, Queue>,
    /// Streams that owe credit. May name a stream twice, or one that is gone.
    owing: Vec<StreamId>,
    /// Streams ever opened: numbers are not used twice.
    count: u64,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Message>,
    /// Why the stream ends once its messages are taken.
    end: Option<&'static RpcError>,
    waker: Option<Waker>,
    hub: usize,
    owed: Owed,
}

/// Credit that has not gone back to the hub yet.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    messages: usize,
    bytes: usize,
}

impl Queue {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Streams {
    /// `shard` must be below 256, and the number under which the thread's mailbox is known.
    pub fn new(shard: usize, hubs: Arc<Hubs>) -> Rc<Self> {
        assert!(
            shard < 256,
            "a stream's number has eight bits for the thread"
        );
        assert!(!hubs.inboxes.is_empty(), "a member has at least one hub");
        Rc::new(Streams {
            shard: shard as u64,
            hubs,
            state: RefCell::default(),
            owing: Notify::new(),
        })
    }

    /// Opens a stream at one of the hubs, in turn.
    ///
    /// # Errors
    /// The member has stopped.
    pub fn open(self: &Rc<Self>) -> Result<Stream, &'static RpcError> {
        let (id, hub) = {
            let state = &mut *self.state.borrow_mut();
            state.count += 1;
            let id = StreamId(self.shard << SHARD_SHIFT | state.count);
            // The shard takes part, so that the first streams of several threads go to different hubs.
            let hub = ((state.count + self.shard) % self.hubs.inboxes.len() as u64) as usize;
            let queue = Queue {
                hub,
                ..Queue::default()
            };
            state.open.insert(id, queue);
            (id, hub)
        };
        // Numbers that follow each other give jitters far apart: multiplication by 2^32 divided by the golden ratio.
        let jitter = (id.0 as u32).wrapping_mul(0x9e37_79b9);
        let stream = Stream {
            streams: self.clone(),
            id,
            hub,
        };
        stream.tell(Input::Open { stream: id, jitter })?;
        Ok(stream)
    }

    /// Hands deliveries to their streams. Those for streams that are gone are dropped.
    pub fn deliver(&self, deliveries: Vec<(StreamId, Delivery)>) {
        let state = &mut *self.state.borrow_mut();
        for (id, delivery) in deliveries {
            let Some(queue) = state.open.get_mut(&id) else {
                continue;
            };
            match delivery {
                Delivery::Message(message) => queue.messages.push_back(message),
                Delivery::Overrun => queue.end = Some(&error::TOO_MANY_REQUESTS),
            }
            queue.wake();
        }
    }

    /// Returns gathered credit, for ever. Runs beside the connections of the thread.
    pub async fn return_credit(&self) {
        loop {
            self.owing.notified().await;
            tokio::time::sleep(OWED_FOR).await;
            self.return_owed();
        }
    }

    fn return_owed(&self) {
        let state = &mut *self.state.borrow_mut();
        for stream in std::mem::take(&mut state.owing) {
            if let Some(queue) = state.open.get_mut(&stream) {
                let owed = std::mem::take(&mut queue.owed);
                // When the hub is gone, nobody waits for credit.
                let _ = self.give_back(stream, queue.hub, owed);
            }
        }
    }

    fn give_back(&self, stream: StreamId, hub: usize, owed: Owed) -> Result<(), &'static RpcError> {
        let Owed { messages, bytes } = owed;
        if messages == 0 {
            return Ok(());
        }
        let credit = Input::Credit {
            stream,
            messages,
            bytes,
        };
        self.hubs.tell(hub, credit)
    }

    /// Ends every stream: the member has stopped.
    pub fn fail_all(&self) {
        for queue in self.state.borrow_mut().open.values_mut() {
            queue.end.get_or_insert(&error::STOPPED);
            queue.wake();
        }
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.state.borrow().open.len()
    }
}

/// An open stream. Dropping it closes it at its hub.
pub struct Stream {
    streams: Rc<Streams>,
    id: StreamId,
    hub: usize,
}

impl Stream {
    /// Asks for a watcher; see [`Input::Create`].
    pub fn create(
        &self,
        request: WatchCreateRequest,
        revision: i64,
    ) -> Result<(), &'static RpcError> {
        self.tell(Input::Create {
            stream: self.id,
            request,
            revision,
            refusal: None,
        })
    }

    /// Ends a watcher.
    pub fn cancel(&self, watch_id: i64) -> Result<(), &'static RpcError> {
        self.tell(Input::Cancel {
            stream: self.id,
            watch_id,
        })
    }

    /// Asks how far the stream is; see [`Input::Progress`].
    pub fn progress(&self, revision: i64) -> Result<(), &'static RpcError> {
        self.tell(Input::Progress {
            stream: self.id,
            revision,
        })
    }

    /// Messages that wait to be taken.
    pub fn queued(&self) -> usize {
        let state = self.streams.state.borrow();
        state
            .open
            .get(&self.id)
            .map_or(0, |queue| queue.messages.len())
    }

    /// Takes messages for the transport: at least one, and more while they are below `bytes_max` together. Waits for the
    /// first. `taken` must be empty.
    ///
    /// # Errors
    /// Why the stream has ended, once everything before is taken.
    pub fn poll_take(
        &self,
        cx: &mut Context<'_>,
        bytes_max: usize,
        taken: &mut Vec<Message>,
    ) -> Poll<Result<(), &'static RpcError>> {
        let state = &mut *self.streams.state.borrow_mut();
        let queue = state
            .open
            .get_mut(&self.id)
            .expect("a stream is in the table until it is dropped");
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(message) = queue.messages.pop_front()
        {
            bytes += message.size();
            taken.push(message);
        }
        if taken.is_empty() {
            return match queue.end {
                Some(why) => Poll::Ready(Err(why)),
                None => {
                    queue.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        if queue.owed.messages == 0 {
            state.owing.push(self.id);
            self.streams.owing.notify_one();
        }
        queue.owed.messages += taken.len();
        queue.owed.bytes += bytes;
        if queue.owed.messages < OWED_MESSAGES_MAX && queue.owed.bytes < OWED_BYTES_MAX {
            return Poll::Ready(Ok(()));
        }
        let owed = std::mem::take(&mut queue.owed);
        Poll::Ready(self.streams.give_back(self.id, self.hub, owed))
    }

    fn tell(&self, input: HubInput) -> Result<(), &'static RpcError> {
        self.streams.hubs.tell(self.hub, input)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.streams.state.borrow_mut().open.remove(&self.id);
        // When the hub is gone, so is the stream there.
        let _ = self.tell(Input::Close { stream: self.id });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams() -> (Rc<Streams>, Arc<Inbox<HubInput>>) {
        let hub = Arc::new(Inbox::new(100));
        let hubs = Arc::new(Hubs {
            inboxes: vec![hub.clone()],
        });
        (Streams::new(5, hubs), hub)
    }

    fn told(hub: &Inbox<HubInput>) -> Vec<HubInput> {
        let mut told = Vec::new();
        hub.take(usize::MAX, &mut told);
        told
    }

    fn message(watch_id: i64) -> Message {
        Message {
            watch_id,
            ..Message::default()
        }
    }

    fn take(stream: &Stream, bytes_max: usize) -> Poll<Result<Vec<i64>, &'static RpcError>> {
        let mut taken = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        let outcome = stream.poll_take(&mut cx, bytes_max, &mut taken);
        outcome.map_ok(|()| taken.iter().map(|message| message.watch_id).collect())
    }

    #[test]
    fn messages_are_taken_in_order_and_their_credit_goes_back_together() {
        let (streams, hub) = streams();
        let stream = streams.open().expect("the hub lives");
        assert_eq!(shard_of(stream.id), 5);
        assert!(matches!(told(&hub)[..], [Input::Open { .. }]));
        assert!(take(&stream, 1000).is_pending());
        let deliver = |n| (stream.id, Delivery::Message(message(n)));
        streams.deliver((1..=3).map(deliver).collect());
        let two = message(1).size() + 1;
        assert_eq!(take(&stream, two), Poll::Ready(Ok(vec![1, 2])));
        assert_eq!(stream.queued(), 1);
        assert_eq!(take(&stream, two), Poll::Ready(Ok(vec![3])));
        assert!(hub.is_empty(), "credit is gathered");
        streams.return_owed();
        assert_eq!(credit(&hub), (3, 3 * message(1).size()));
    }

    #[test]
    fn much_credit_goes_back_at_once() {
        let (streams, hub) = streams();
        let stream = streams.open().expect("the hub lives");
        assert!(matches!(told(&hub)[..], [Input::Open { .. }]));
        let deliver = |n| (stream.id, Delivery::Message(message(n)));
        streams.deliver((0..OWED_MESSAGES_MAX as i64).map(deliver).collect());
        assert!(take(&stream, usize::MAX).is_ready());
        assert_eq!(credit(&hub).0, OWED_MESSAGES_MAX);
    }

    fn credit(hub: &Inbox<HubInput>) -> (usize, usize) {
        match told(hub)[..] {
            [
                Input::Credit {
                    messages, bytes, ..
                },
            ] => (messages, bytes),
            _ => panic!("something other than credit"),
        }
    }

    #[test]
    fn an_overrun_ends_the_stream_after_what_came_before_it() {
        let (streams, _hub) = streams();
        let stream = streams.open().expect("the hub lives");
        streams.deliver(vec![
            (stream.id, Delivery::Message(message(1))),
            (stream.id, Delivery::Overrun),
        ]);
        assert_eq!(take(&stream, 1000), Poll::Ready(Ok(vec![1])));
        assert_eq!(
            take(&stream, 1000),
            Poll::Ready(Err(&error::TOO_MANY_REQUESTS))
        );
    }

    #[test]
    fn a_dropped_stream_is_closed_at_its_hub_and_late_messages_find_nobody() {
        let (streams, hub) = streams();
        let stream = streams.open().expect("the hub lives");
        let id = stream.id;
        drop(stream);
        streams.deliver(vec![(id, Delivery::Message(message(1)))]);
        assert_eq!(streams.count(), 0);
        let told = told(&hub);
        assert!(matches!(told.last(), Some(Input::Close { stream }) if *stream == id));
    }
}
