//! What comes into a hub and what goes out: the border between the watch core and the edge that owns the client streams.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use proto::etcdserverpb::WatchCreateRequest;

use super::history::Event;

/// A client stream, named by the edge. Never reused while messages of its predecessor may still be on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// The watch id of messages that speak for no single watcher: manual progress and refused creations.
pub const NO_WATCH_ID: i64 = -1;

/// Something the hub is told. Inputs about a stream that is not open are ignored: closing races with everything.
#[derive(Debug)]
pub enum Input<V> {
    /// Entries were applied: `view` is the state after them and `events` are their changes, in order of revision, each
    /// revision complete. A `view` that is further ahead than `events` explain (a snapshot was installed) is fine: all
    /// watchers then fall behind and read the missing part from the view. Every hub gets every one of these, in order.
    Published { view: V, events: Arc<[Event]> },
    /// A client stream begins. `jitter` is any random number; it spreads the stream's progress notifications over a
    /// tenth of the interval, so that streams opened together do not notify together.
    Open { stream: StreamId, jitter: u32 },
    /// A client asks for a watcher. `revision` is the revision this member had published when the edge received the
    /// request; a watch from "now" begins after it. `refusal` is the edge's verdict on permission: `None`, or the
    /// reason to give (`RpcError::long_text`). It travels here because clients match creations to answers by order.
    Create {
        stream: StreamId,
        request: WatchCreateRequest,
        revision: i64,
        refusal: Option<Cow<'static, str>>,
    },
    /// A client ends one watcher. An id that is not in use is ignored, as etcd does.
    Cancel { stream: StreamId, watch_id: i64 },
    /// A client asks how far the whole stream is. `revision` as in [`Input::Create`]: the answer is not below it.
    Progress { stream: StreamId, revision: i64 },
    /// The edge handed `messages` messages, whose [`Message::size`]s add up to `bytes`, to the transport.
    Credit {
        stream: StreamId,
        messages: usize,
        bytes: usize,
    },
    /// The stream has ended, whoever ended it. Nothing is delivered to it afterwards.
    Close { stream: StreamId },
    /// Do what time and idleness allow: due progress notifications, and one bounded slice of catch-up. Wanted after
    /// [`Effect::WantsTurn`] (soon) and at [`Hub::next_deadline`](super::Hub::next_deadline).
    Tick,
}

/// Something the hub wants done.
#[derive(Debug)]
pub enum Effect {
    /// Append this message to the stream's queue. The messages of one stream leave in the order given.
    Deliver(StreamId, Message),
    /// End the stream with `TOO_MANY_REQUESTS`: its client sends requests but does not read the answers. The hub has
    /// forgotten it already.
    Overrun(StreamId),
    /// Watchers are behind and could read on: send [`Input::Tick`] once the inbox is empty. At most one per step.
    WantsTurn,
}

/// One `WatchResponse`, all but the parts only the edge knows (cluster and member id, raft term).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// `header.revision`. For events: the watcher has received everything up to it, unless `fragment` is set or the
    /// next message repeats it. For progress: every watcher it speaks for has received everything up to it. 0 when the
    /// watcher was overtaken by compaction.
    pub header_revision: i64,
    /// The watcher, or [`NO_WATCH_ID`].
    pub watch_id: i64,
    /// The answer to a creation. With `canceled` set too, the creation was refused.
    pub created: bool,
    /// The watcher is gone.
    pub canceled: bool,
    /// Above 0 when compaction overtook the watcher: the oldest revision a new one may start from.
    pub compact_revision: i64,
    /// Why a creation was refused; empty otherwise.
    pub cancel_reason: Cow<'static, str>,
    /// More of the same response follows in the next message of this watcher.
    pub fragment: bool,
    /// `events` (field 11) as they appear inside an encoded `WatchResponse`, tags and lengths included; shared between
    /// all watchers that are due the same events.
    pub events: Bytes,
    /// How many events `events` holds.
    pub event_count: usize,
}

impl Message {
    /// What the message counts for in the stream's budget of bytes; to be given back with [`Input::Credit`].
    pub fn size(&self) -> usize {
        MESSAGE_OVERHEAD + self.events.len()
    }
}

/// What an encoded message has besides its events, rounded up: header, ids, flags and framing.
pub(super) const MESSAGE_OVERHEAD: usize = 64;

/// How much a hub may hold and do. The defaults suit a member with some thousand streams.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Messages a stream may have between [`Effect::Deliver`] and [`Input::Credit`]. When they are used up, its watchers
    /// fall behind and keep nothing but a cursor. etcd's channel holds 128 as well.
    pub stream_messages: usize,
    /// The same in bytes. A single message may exceed it, as a revision is never split without the client's consent.
    pub stream_bytes: usize,
    /// Bytes of all streams of this hub together; beyond it only idle streams get a message. Events shared by several
    /// streams count for each, so this is an upper bound of what is held.
    pub total_bytes: usize,
    /// Answers to requests that a stream may have unread beyond `stream_messages` before it is ended with
    /// [`Effect::Overrun`]. The edge should stop reading requests long before.
    pub stream_answers: usize,
    /// Watchers of this hub; further creations are refused with etcd's "too many requests".
    pub watchers: usize,
    /// Events of several revisions share a message up to this size, and clients that allow fragments get them cut to it.
    /// etcd: max-request-bytes + 512 KiB.
    pub message_bytes: usize,
    /// Events read in one slice of catch-up.
    pub slice_events: usize,
    /// Bytes read in one slice of catch-up.
    pub slice_bytes: usize,
    /// Time between progress notifications of a quiet watcher, in microseconds, before jitter. 0: never.
    pub progress_interval_us: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            stream_messages: 128,
            stream_bytes: 4 << 20,
            total_bytes: 256 << 20,
            stream_answers: 4096,
            watchers: 1 << 20,
            message_bytes: 2 << 20,
            slice_events: 2048,
            slice_bytes: 1 << 20,
            progress_interval_us: 600_000_000,
        }
    }
}

/// Counts for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Open streams (`etcd_debugging_mvcc_watch_stream_total`).
    pub streams: usize,
    /// Watchers that were created and not canceled (`etcd_debugging_mvcc_watcher_total`).
    pub watchers: usize,
    /// Watchers that are behind (`etcd_debugging_mvcc_slow_watcher_total`).
    pub behind: usize,
    /// Events delivered and not yet given back by a credit are not counted one by one; this is their size in bytes.
    pub outstanding_bytes: usize,
    /// Events delivered since the start (`etcd_debugging_mvcc_events_total`).
    pub events: u64,
    /// Messages delivered since the start.
    pub messages: u64,
}
