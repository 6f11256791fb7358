//! From events to bytes, once: every watcher that is due the same events gets the same buffer.
//!
//! What is made is the repeated field `events` (11) of a `WatchResponse`; the edge puts the other fields in front.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
use storage::fault::Fault;

use super::history::{Event, EventKind, History};

/// Field 11 of `WatchResponse`, length-delimited.
const TAG_EVENT: u8 = 11 << 3 | 2;
/// Fields 1 (enum), 2 and 3 (messages) of `mvccpb.Event`.
const TAG_TYPE: u8 = 1 << 3;
const TAG_KV: u8 = 2 << 3 | 2;
const TAG_PREV_KV: u8 = 3 << 3 | 2;
/// `mvccpb.Event.EventType.DELETE`; PUT is 0 and not written.
const TYPE_DELETE: u8 = 1;

/// Events of whole revisions, encoded for one message.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub first_revision: i64,
    pub last_revision: i64,
    pub events: Bytes,
    pub count: usize,
}

/// What a watcher wants of a batch: with previous versions or not, and which events by position.
type Selection = (bool, Box<[u32]>);

/// A run of events that are about to be delivered, with everything that was already encoded of them.
pub(super) struct Batch<'a, V> {
    events: &'a [Event],
    view: &'a V,
    bytes_max: usize,
    /// By event: the key's previous version, if somebody asked already.
    previous: Vec<Option<Option<Bytes>>>,
    made: BTreeMap<Selection, Rc<[Chunk]>>,
}

impl<'a, V: History> Batch<'a, V> {
    /// `view` answers for previous versions; messages hold up to `bytes_max` bytes of events, or one revision.
    pub fn new(events: &'a [Event], view: &'a V, bytes_max: usize) -> Batch<'a, V> {
        assert!(
            events.is_sorted_by(|a, b| a.revision < b.revision),
            "events are in order of revision"
        );
        Batch {
            events,
            view,
            bytes_max,
            previous: vec![None; events.len()],
            made: BTreeMap::new(),
        }
    }

    pub fn events(&self) -> &'a [Event] {
        self.events
    }

    /// The main revision of an event of the batch.
    pub fn revision(&self, hit: u32) -> i64 {
        self.events[hit as usize].revision.main
    }

    /// Encodes the events at the positions `hits` (ascending), with previous versions if asked.
    pub fn encode(&mut self, hits: &[u32], prev_kv: bool) -> Result<Rc<[Chunk]>, Fault> {
        let key = (prev_kv, Box::from(hits));
        if let Some(chunks) = self.made.get(&key) {
            return Ok(chunks.clone());
        }
        if prev_kv {
            self.look_up_previous(hits)?;
        }
        let mut chunks = Vec::new();
        let mut rest = hits;
        while !rest.is_empty() {
            let (count, bytes) = self.measure(rest, prev_kv);
            chunks.push(self.encode_chunk(&rest[..count], bytes, prev_kv));
            rest = &rest[count..];
        }
        let chunks: Rc<[Chunk]> = chunks.into();
        self.made.insert(key, chunks.clone());
        Ok(chunks)
    }

    /// A previous version is given only while it can be read: at `mod_revision - 1`, unless that is compacted. A creation has
    /// none. Source: upstream `v3rpc/watch.go`, `IsCreateEvent`.
    fn look_up_previous(&mut self, hits: &[u32]) -> Result<(), Fault> {
        for &hit in hits {
            let place = &mut self.previous[hit as usize];
            if place.is_some() {
                continue;
            }
            let event = &self.events[hit as usize];
            let at = event.revision.main - 1;
            let is_readable = at > 0 && at >= self.view.compact_revision();
            *place = Some(if is_readable && !event.is_creation {
                self.view.get(&event.key, at)?
            } else {
                None
            });
        }
        Ok(())
    }

    /// How many of `hits` fit one message, and their encoded size. Revisions stay whole, and one always fits.
    fn measure(&self, hits: &[u32], prev_kv: bool) -> (usize, usize) {
        let mut taken = (0, 0);
        let mut bytes = 0;
        for (n, &hit) in hits.iter().enumerate() {
            let begins_revision = n > 0 && self.revision(hit) != self.revision(hits[n - 1]);
            if begins_revision {
                taken = (n, bytes);
            }
            let body = self.body_size(hit, prev_kv);
            bytes += 1 + varint_size(body) + body;
            if bytes > self.bytes_max && taken.0 > 0 {
                return taken;
            }
        }
        (hits.len(), bytes)
    }

    fn encode_chunk(&self, hits: &[u32], bytes: usize, prev_kv: bool) -> Chunk {
        let mut out = BytesMut::with_capacity(bytes);
        for &hit in hits {
            out.put_u8(TAG_EVENT);
            put_varint(&mut out, self.body_size(hit, prev_kv));
            let event = &self.events[hit as usize];
            if event.kind == EventKind::Delete {
                out.put_u8(TAG_TYPE);
                out.put_u8(TYPE_DELETE);
            }
            put_message(&mut out, TAG_KV, &event.kv);
            if let Some(previous) = self.previous(hit, prev_kv) {
                put_message(&mut out, TAG_PREV_KV, previous);
            }
        }
        assert_eq!(out.len(), bytes, "events are as long as measured");
        Chunk {
            first_revision: self.revision(hits[0]),
            last_revision: self.revision(hits[hits.len() - 1]),
            events: out.freeze(),
            count: hits.len(),
        }
    }

    fn body_size(&self, hit: u32, prev_kv: bool) -> usize {
        let event = &self.events[hit as usize];
        let kind = match event.kind {
            EventKind::Put => 0,
            EventKind::Delete => 2,
        };
        let previous = self.previous(hit, prev_kv).map_or(0, message_size);
        kind + message_size(&event.kv) + previous
    }

    fn previous(&self, hit: u32, prev_kv: bool) -> Option<&Bytes> {
        if !prev_kv {
            return None;
        }
        self.previous[hit as usize].as_ref()?.as_ref()
    }
}

/// Cuts the encoded events of one message into parts of less than `bytes_max`, at least one event each. The parts share
/// the buffer.
pub(super) fn fragments(events: &Bytes, bytes_max: usize) -> Vec<(Bytes, usize)> {
    let mut parts = Vec::new();
    let (mut start, mut end, mut count) = (0, 0, 0);
    while end < events.len() {
        let next = end + event_size(&events[end..]);
        if count > 0 && next - start >= bytes_max {
            parts.push((events.slice(start..end), count));
            (start, count) = (end, 0);
        }
        end = next;
        count += 1;
    }
    parts.push((events.slice(start..end), count));
    parts
}

/// The length of the encoded event at the front, tag and length included.
fn event_size(bytes: &[u8]) -> usize {
    assert_eq!(bytes[0], TAG_EVENT, "what is cut here was encoded here");
    let (mut size, mut shift) = (0, 0);
    for (n, byte) in bytes[1..].iter().enumerate() {
        size |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return 1 + n + 1 + size;
        }
        shift += 7;
    }
    unreachable!("what is cut here was encoded here, with a complete length");
}

fn message_size(body: &Bytes) -> usize {
    1 + varint_size(body.len()) + body.len()
}

fn put_message(out: &mut BytesMut, tag: u8, body: &Bytes) {
    out.put_u8(tag);
    put_varint(out, body.len());
    out.put_slice(body);
}

fn varint_size(n: usize) -> usize {
    let bits = (usize::BITS - (n | 1).leading_zeros()) as usize;
    bits.div_ceil(7)
}

fn put_varint(out: &mut BytesMut, mut n: usize) {
    while n >= 0x80 {
        out.put_u8(n as u8 | 0x80);
        n >>= 7;
    }
    out.put_u8(n as u8);
}
