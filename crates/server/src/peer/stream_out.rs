//! The writing end of a stream: the answer to a peer that came to read, which goes on for as long as the connection does.
//!
//! Everything that waits becomes one piece, and so one write. Source: upstream
//! `server/etcdserver/api/rafthttp/stream.go`, `streamWriter`.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proto::raftpb::Message;
use state::membership::id_to_hex;
use tokio::time::{Interval, MissedTickBehavior};

use super::codec::{Encoder, Kind};
use super::links::{Links, Taken};
use super::metrics::PeerMetrics;
use super::report;
use crate::member::Member;

/// One connection on which a peer reads.
pub struct StreamBody {
    member: Arc<Member>,
    peer: u64,
    kind: Kind,
    generation: u64,
    encoder: Encoder,
    metrics: Arc<PeerMetrics>,
    /// A reader that hears nothing for the read timeout gives up, so three times as often there must be something.
    alive: Interval,
    /// Whether something was written since the last of these.
    is_fresh: bool,
    taken: Vec<Message>,
    /// Where pieces are made; used again once they are written.
    out: BytesMut,
}

impl StreamBody {
    /// The peer has come to read. `None` if it is not known (any more).
    pub(super) fn attach(
        member: Arc<Member>,
        peer: u64,
        kind: Kind,
        read_timeout: Duration,
    ) -> Option<StreamBody> {
        let links = &member.links;
        let generation = links.attach(peer, kind)?;
        links.activate(peer);
        let (local, remote) = (id_to_hex(member.member_id), id_to_hex(peer));
        tracing::info!(
            from = local,
            to = remote,
            "stream-type" = kind.name(),
            "set message encoder"
        );
        tracing::info!(
            "stream-writer-type" = kind.name(),
            "local-member-id" = local,
            "remote-peer-id" = remote,
            "established TCP streaming connection with remote peer"
        );
        let mut alive = tokio::time::interval(read_timeout / 3);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        alive.reset();
        let metrics = links.metrics(peer);
        Some(StreamBody {
            member,
            peer,
            kind,
            generation,
            encoder: Encoder::new(kind),
            metrics,
            alive,
            is_fresh: false,
            taken: Vec::new(),
            out: BytesMut::new(),
        })
    }

    fn links(&self) -> &Links {
        &self.member.links
    }

    /// What is to be written next, or `None` when the stream has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut taken = std::mem::take(&mut self.taken);
        let place = (self.peer, self.kind, self.generation);
        let found = self.links().take(place, cx.waker(), &mut taken);
        let mut out = std::mem::take(&mut self.out);
        for message in taken.drain(..) {
            self.encoder.message(&message, &mut out);
        }
        self.taken = taken;
        match found {
            Taken::Some => self.is_fresh = true,
            Taken::Closed => return Poll::Ready(None),
            Taken::Nothing => {
                while self.alive.poll_tick(cx).is_ready() {
                    if !std::mem::take(&mut self.is_fresh) && out.is_empty() {
                        self.encoder.alive(&mut out);
                    }
                }
                if out.is_empty() {
                    self.out = out;
                    return Poll::Pending;
                }
            }
        }
        self.metrics.sent_bytes.add(out.len() as u64);
        let piece = out.split().freeze();
        self.out = out;
        Poll::Ready(Some(piece))
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        let (was_current, has_lost) = self.links().detach(self.peer, self.kind, self.generation);
        let (local, remote) = (id_to_hex(self.member.member_id), id_to_hex(self.peer));
        let text = match was_current {
            true => "lost TCP streaming connection with remote peer",
            false => "closed TCP streaming connection with remote peer",
        };
        tracing::warn!(
            "stream-writer-type" = self.kind.name(),
            "local-member-id" = local,
            "remote-peer-id" = remote,
            "{text}"
        );
        if was_current {
            self.links().deactivate(
                self.peer,
                self.kind.name(),
                "write",
                "the connection was closed",
            );
        }
        if has_lost {
            self.metrics.sent_failures.inc();
            report::unreachable(&self.member, self.peer);
        }
    }
}
