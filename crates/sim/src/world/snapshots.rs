//! Snapshots between members: rows in slices over a stream that may break anywhere, as a connection does.
//!
//! A slice is sent when the one before it was taken. What gets lost, or meets a member that is down, ends the stream: the sender notices
//! after a time, the receiver when the next stream begins.

use bytes::Bytes;
use proto::raftpb;
use replica::snapshots::{Outgoing, ends_member};
use replica::{Input, MemberId};
use std::collections::BTreeMap;
use storage::fault::Fault;

use super::{Event, World};

/// How long a sender waits for a slice to be taken.
const PATIENCE_US: u64 = 3_000_000;

/// All streams that senders know of.
#[derive(Default)]
pub(super) struct Streams {
    streams: BTreeMap<u64, Stream>,
    last: u64,
    /// Snapshots that were sent whole, and those that replaced a store.
    pub sent: u64,
    pub installed: u64,
}

struct Stream {
    from: usize,
    /// The life of the sender.
    life: u64,
    to: usize,
    outgoing: Outgoing,
    /// Slices sent.
    step: u64,
    is_ending: bool,
}

/// What travels.
#[derive(Debug)]
pub(super) enum Slice {
    Begin(Box<raftpb::Message>),
    Rows(Vec<(&'static str, Bytes, Bytes)>),
    /// With the number of rows.
    End(u64),
}

impl World {
    /// A leader has a snapshot to send.
    pub(super) fn send_snapshot(&mut self, from: usize, message: raftpb::Message) {
        let to = message.to() as usize - 1;
        let life = self.machines[from].lives;
        let outgoing = Outgoing::new(self.life(from).view.clone(), message);
        let announced = outgoing.message().clone();
        let streams = &mut self.snapshots;
        streams.last += 1;
        let id = streams.last;
        let stream = Stream {
            from,
            life,
            to,
            outgoing,
            step: 0,
            is_ending: false,
        };
        streams.streams.insert(id, stream);
        self.note(from, "snapshot begins", id, to as u64 + 1);
        self.send_slice(id, Slice::Begin(Box::new(announced)));
    }

    fn send_slice(&mut self, id: u64, slice: Slice) {
        let stream = self
            .snapshots
            .streams
            .get_mut(&id)
            .expect("the stream is open");
        stream.step += 1;
        let (from, to, step) = (stream.from, stream.to, stream.step);
        self.schedule(PATIENCE_US, Event::SnapshotLate { stream: id, step });
        if let Some(delay) = self.slice_delay(from, to) {
            self.schedule(delay, Event::SnapshotSlice { stream: id, slice });
        }
    }

    /// How long a slice is on its way, or an answer to one; `None` if it gets lost.
    fn slice_delay(&mut self, from: usize, to: usize) -> Option<u64> {
        let (least, typical) = (self.plan.network.least_us, self.plan.network.typical_us);
        let loss = if self.is_safety_phase {
            self.plan.network.loss
        } else {
            0
        };
        if !self.links.is_open(from, to) || self.dice.snapshots.chance(loss) {
            return None;
        }
        Some(self.dice.snapshots.delay(least, typical))
    }

    /// A slice arrives.
    pub(super) fn snapshot_slice(&mut self, id: u64, slice: Slice) {
        let Some(stream) = self.snapshots.streams.get(&id) else {
            return;
        };
        let to = stream.to;
        if self.machines[to].life.is_none() {
            return;
        }
        if self.machines[to].paused_until_us > self.now_us {
            let wait = self.machines[to].paused_until_us - self.now_us;
            return self.schedule(wait, Event::SnapshotSlice { stream: id, slice });
        }
        match self.take_slice(to, id, slice) {
            Ok(is_taken) => self.answer_slice(id, is_taken),
            Err(fault) if ends_member(&fault) => self.stopped(to, &fault),
            Err(_) => {
                self.note(to, "snapshot refused", id, 0);
                self.abandon_incoming(to);
                if self.machines[to].life.is_some() {
                    self.answer_slice(id, false);
                }
            }
        }
    }

    fn take_slice(&mut self, to: usize, id: u64, slice: Slice) -> Result<bool, Fault> {
        let life = self.life(to);
        match slice {
            Slice::Begin(message) => {
                if life.received.is_some() {
                    return Ok(false);
                }
                if let Some((_, incoming)) = life.incoming.take() {
                    incoming.abandon()?;
                }
                let incoming = life.apply.receive(*message)?;
                life.incoming = incoming.map(|incoming| (id, incoming));
                Ok(life.incoming.is_some())
            }
            Slice::Rows(rows) => {
                let Some((_, incoming)) = life.incoming.as_mut().filter(|(of, _)| *of == id) else {
                    return Ok(false);
                };
                for (bucket, key, value) in rows {
                    incoming.row(bucket, &key, value)?;
                }
                Ok(true)
            }
            Slice::End(count) => {
                let Some((_, incoming)) = life.incoming.take_if(|(of, _)| *of == id) else {
                    return Ok(false);
                };
                let (received, message) = incoming.finish(count)?;
                life.received = Some(received);
                self.note(to, "snapshot received", id, count);
                self.input(to, Input::SnapshotReceived(Box::new(message)));
                Ok(true)
            }
        }
    }

    fn abandon_incoming(&mut self, member: usize) {
        let Some((_, incoming)) = self.life(member).incoming.take() else {
            return;
        };
        if let Err(fault) = incoming.abandon() {
            self.stopped(member, &fault);
        }
    }

    /// The snapshot that was received is of no use.
    pub(super) fn drop_snapshot(&mut self, member: usize) {
        self.note(member, "snapshot dropped", 0, 0);
        let received = self.life(member).received.take();
        let received = received.expect("a snapshot is dropped once");
        if let Err(fault) = received.discard() {
            self.stopped(member, &fault);
        }
    }

    fn answer_slice(&mut self, id: u64, is_taken: bool) {
        let stream = &self.snapshots.streams[&id];
        let (from, to) = (stream.from, stream.to);
        if let Some(delay) = self.slice_delay(to, from) {
            let stream = id;
            self.schedule(delay, Event::SnapshotAnswer { stream, is_taken });
        }
    }

    /// The sender learns whether its slice was taken.
    pub(super) fn snapshot_answer(&mut self, id: u64, is_taken: bool) {
        let Some(stream) = self.snapshots.streams.get_mut(&id) else {
            return;
        };
        let (from, life) = (stream.from, stream.life);
        let machine = &self.machines[from];
        if machine.paused_until_us > self.now_us {
            let wait = machine.paused_until_us - self.now_us;
            let stream = id;
            return self.schedule(wait, Event::SnapshotAnswer { stream, is_taken });
        }
        if machine.lives != life || machine.life.is_none() || !is_taken || stream.is_ending {
            return self.end_stream(id, is_taken);
        }
        let mut rows = Vec::new();
        let visited = stream
            .outgoing
            .rows(self.plan.snapshot_bytes, |bucket, key, value| {
                let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                rows.push((bucket, key, value));
            });
        let slice = match visited {
            Err(fault) => return self.stopped(from, &fault),
            Ok(true) => Slice::Rows(rows),
            Ok(false) => {
                stream.is_ending = true;
                Slice::End(stream.outgoing.count())
            }
        };
        self.send_slice(id, slice);
    }

    /// The sender has waited long enough.
    pub(super) fn snapshot_late(&mut self, id: u64, step: u64) {
        let Some(stream) = self.snapshots.streams.get(&id) else {
            return;
        };
        if stream.step != step {
            return;
        }
        let machine = &self.machines[stream.from];
        if machine.paused_until_us > self.now_us {
            let wait = machine.paused_until_us - self.now_us;
            return self.schedule(wait, Event::SnapshotLate { stream: id, step });
        }
        self.end_stream(id, false);
    }

    fn end_stream(&mut self, id: u64, is_sent: bool) {
        let stream = self.snapshots.streams.remove(&id);
        let Stream { from, life, to, .. } = stream.expect("the stream is open");
        let machine = &self.machines[from];
        if machine.lives != life || machine.life.is_none() {
            return;
        }
        self.snapshots.sent += u64::from(is_sent);
        self.note(from, "snapshot ends", id, u64::from(is_sent));
        let to = MemberId(to as u64 + 1);
        self.input(from, Input::SnapshotSent { to, is_sent });
    }
}
