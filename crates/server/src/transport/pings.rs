//! Clients that ping too often, found and sent away as grpc-go does.
//!
//! The HTTP/2 library answers pings and tells nobody. But every byte of a connection passes [`Incoming`], which follows the
//! frames by their headers alone: nine bytes each, the rest is skipped. Source: grpc-go `internal/transport/http2_server.go`,
//! `handlePing`; RFC 9113, sections 3.4, 4.1 and 6.8.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes};
use http_body::{Body, Frame, SizeHint};

/// What every HTTP/2 client says first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The header of a frame.
pub(super) const HEADER_BYTES: usize = 9;
const KIND_DATA: u8 = 0;
const KIND_PING: u8 = 6;
const KIND_GOAWAY: u8 = 7;
pub(super) const KIND_HEADERS: u8 = 1;
const FLAG_ACK: u8 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;
/// Pings that came too early before the client is sent away by the next one.
const STRIKES_MAX: u32 = 2;
/// Without a call under way a client has no reason to ping more often than this.
const IDLE_GAP: Duration = Duration::from_secs(2 * 60 * 60);

/// What the calls of a connection tell about it.
#[derive(Debug, Default)]
pub struct Activity {
    /// Calls under way.
    calls: Cell<usize>,
    /// A client that has been sent something may ping: to measure, or because it has a new call.
    has_sent: Cell<bool>,
}

/// One call under way.
pub struct OpenCall(Rc<Activity>);

impl OpenCall {
    pub fn begin(activity: &Rc<Activity>) -> Self {
        activity.calls.set(activity.calls.get() + 1);
        OpenCall(activity.clone())
    }

    /// The response; the call is under way as long as there is something of it.
    pub fn watch<B>(self, body: B) -> Watched<B> {
        Watched { body, _call: self }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.calls.set(self.0.calls.get() - 1);
    }
}

/// A response's body, with the call that it belongs to.
pub struct Watched<B> {
    body: B,
    _call: OpenCall,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a client sends, as far as its pings matter.
#[derive(Debug)]
pub struct Incoming {
    speaks: Protocol,
    /// The newest stream that the client has opened.
    newest_stream: u32,
    strikes: Strikes,
    activity: Rc<Activity>,
}

#[derive(Debug)]
enum Protocol {
    /// So many bytes of the preface have come.
    Undecided(usize),
    Http1,
    Http2(Frames),
}

impl Incoming {
    /// `gap` is the shortest time between two pings of a client with a call under way.
    pub fn new(gap: Duration, activity: Rc<Activity>) -> Self {
        Incoming {
            speaks: Protocol::Undecided(0),
            newest_stream: 0,
            strikes: Strikes {
                gap,
                last: None,
                count: 0,
            },
            activity,
        }
    }

    /// Whether the client has said enough to tell what it speaks.
    pub fn is_decided(&self) -> bool {
        !matches!(self.speaks, Protocol::Undecided(_))
    }

    /// Follows what has come. Returns whether the client has pinged too often by now.
    pub fn received(&mut self, mut data: &[u8], now: Instant) -> bool {
        if let Protocol::Undecided(seen) = self.speaks {
            let rest = &PREFACE[seen..];
            let count = rest.len().min(data.len());
            let (begin, behind) = data.split_at(count);
            data = behind;
            self.speaks = match (begin == &rest[..count], count == rest.len()) {
                (false, _) => Protocol::Http1,
                (true, false) => Protocol::Undecided(seen + count),
                (true, true) => Protocol::Http2(Frames::default()),
            };
        }
        let Protocol::Http2(frames) = &mut self.speaks else {
            return false;
        };
        let mut is_too_often = false;
        frames.follow(data, |header| match header.kind {
            KIND_PING if header.flags & FLAG_ACK == 0 => {
                is_too_often |= self.strikes.ping(now, &self.activity);
            }
            KIND_HEADERS => self.newest_stream = self.newest_stream.max(header.stream),
            _ => {}
        });
        is_too_often
    }

    /// The frame that sends such a client away.
    pub fn goaway(&self) -> Vec<u8> {
        let why = b"too_many_pings";
        let mut frame = Vec::with_capacity(HEADER_BYTES + 8 + why.len());
        frame.put_uint(8 + why.len() as u64, 3);
        frame.put_u8(KIND_GOAWAY);
        frame.put_u8(0);
        frame.put_u32(0);
        frame.put_u32(self.newest_stream);
        frame.put_u32(ENHANCE_YOUR_CALM);
        frame.extend_from_slice(why);
        frame
    }
}

/// What is sent to a client, as far as its pings matter: whatever of a response goes out lets them start anew. The library
/// makes many frames of one piece of a response, and a client that measures the way pings between them.
#[derive(Debug)]
pub struct Outgoing {
    frames: Frames,
    activity: Rc<Activity>,
}

impl Outgoing {
    /// The other direction of the same connection.
    pub fn beside(incoming: &Incoming) -> Self {
        Outgoing {
            frames: Frames::default(),
            activity: incoming.activity.clone(),
        }
    }

    /// Follows what is sent.
    pub fn sent(&mut self, data: &[u8]) {
        self.frames.follow(data, |header| {
            if matches!(header.kind, KIND_DATA | KIND_HEADERS) {
                self.activity.has_sent.set(true);
            }
        });
    }

    /// Whether a frame could begin here.
    pub fn is_between(&self) -> bool {
        self.frames.header_bytes == 0 && self.frames.content_left == 0
    }
}

/// How often a client has pinged too early since it was last sent something.
#[derive(Debug)]
struct Strikes {
    gap: Duration,
    last: Option<Instant>,
    count: u32,
}

impl Strikes {
    /// A ping has come. Returns whether it was one too many.
    fn ping(&mut self, now: Instant, activity: &Activity) -> bool {
        let last = self.last.replace(now);
        if activity.has_sent.take() {
            self.count = 0;
            return false;
        }
        let gap = match activity.calls.get() {
            0 => IDLE_GAP,
            _ => self.gap,
        };
        if last.is_some_and(|last| now.duration_since(last) < gap) {
            self.count += 1;
        }
        self.count > STRIKES_MAX
    }
}

/// The header of a frame, without its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Where one direction of a connection stands between the frames.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; HEADER_BYTES],
    /// Bytes of the header that have come.
    header_bytes: usize,
    /// Bytes of the frame's content that have not.
    content_left: usize,
}

impl Frames {
    fn follow(&mut self, mut data: &[u8], mut found: impl FnMut(Header)) {
        while !data.is_empty() {
            let skipped = self.content_left.min(data.len());
            self.content_left -= skipped;
            data = &data[skipped..];
            match data.split_first_chunk::<HEADER_BYTES>() {
                // Nearly always: a whole header.
                Some((header, rest)) if self.header_bytes == 0 => {
                    self.header = *header;
                    self.header_bytes = HEADER_BYTES;
                    data = rest;
                }
                _ => {
                    let count = (HEADER_BYTES - self.header_bytes).min(data.len());
                    self.header[self.header_bytes..][..count].copy_from_slice(&data[..count]);
                    self.header_bytes += count;
                    data = &data[count..];
                }
            }
            if self.header_bytes == HEADER_BYTES {
                let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = self.header;
                self.content_left = u32::from_be_bytes([0, l0, l1, l2]) as usize;
                self.header_bytes = 0;
                found(Header {
                    kind,
                    flags,
                    stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const PING_ACK: &[u8] = &[0, 0, 8, 6, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    /// Its content looks like a ping.
    const DATA: &[u8] = &[0, 0, 9, 0, 0, 0, 0, 0, 5, 0, 0, 8, 6, 0, 0, 0, 0, 0];
    const HEADERS: &[u8] = &[0, 0, 1, 1, 4, 0, 0, 0, 5, 0x82];

    fn client() -> (Incoming, Rc<Activity>) {
        let activity = Rc::<Activity>::default();
        let incoming = Incoming::new(Duration::from_secs(5), activity.clone());
        (incoming, activity)
    }

    /// Whether each of the pings, `gap_s` apart, was one too many.
    fn pings(incoming: &mut Incoming, gap_s: u64, count: u64) -> Vec<bool> {
        let base = Instant::now();
        (0..count)
            .map(|n| incoming.received(PING, base + Duration::from_secs(n * gap_s)))
            .collect()
    }

    #[test]
    fn the_fourth_ping_in_a_row_is_too_many_with_and_without_a_call() {
        let (mut idle, _) = client();
        assert!(!idle.received(PREFACE, Instant::now()));
        assert_eq!(pings(&mut idle, 60, 4), [false, false, false, true]);
        let (mut busy, activity) = client();
        let _call = OpenCall::begin(&activity);
        assert!(!busy.received(PREFACE, Instant::now()));
        assert_eq!(pings(&mut busy, 5, 20), [false; 20]);
        let (mut busy, activity) = client();
        let _call = OpenCall::begin(&activity);
        assert!(!busy.received(PREFACE, Instant::now()));
        assert_eq!(pings(&mut busy, 4, 4), [false, false, false, true]);
    }

    #[test]
    fn whoever_is_sent_something_starts_anew() {
        let (mut incoming, activity) = client();
        incoming.received(PREFACE, Instant::now());
        let mut outgoing = Outgoing::beside(&incoming);
        let _call = OpenCall::begin(&activity).watch(());
        for part in [HEADERS, DATA].into_iter().cycle().take(100) {
            assert_eq!(pings(&mut incoming, 0, 3), [false; 3]);
            // However the library cuts its writes.
            part.chunks(4).for_each(|piece| outgoing.sent(piece));
        }
        for nothing in [SETTINGS, PING_ACK] {
            outgoing.sent(nothing);
        }
        assert_eq!(pings(&mut incoming, 0, 4), [false, false, false, true]);
    }

    #[test]
    fn frames_are_told_apart_however_they_arrive() {
        let stream = [
            PREFACE, SETTINGS, HEADERS, DATA, PING_ACK, DATA, PING, PING, PING, PING,
        ]
        .concat();
        for piece in 1..stream.len() {
            let (mut incoming, _) = client();
            let first = stream
                .chunks(piece)
                .position(|data| incoming.received(data, Instant::now()));
            // The last byte of the last header says it; the eight behind it don't matter.
            assert_eq!(first, Some((stream.len() - 9) / piece), "pieces of {piece}");
            assert_eq!(incoming.newest_stream, 5);
        }
    }

    #[test]
    fn http1_is_not_taken_for_frames() {
        let (mut incoming, _) = client();
        assert!(!incoming.received(b"PR", Instant::now()));
        assert!(!incoming.is_decided());
        assert!(!incoming.received(b"OPFIND / HTTP/1.1\r\n", Instant::now()));
        assert!(incoming.is_decided());
        for _ in 0..10 {
            assert!(!incoming.received(PING, Instant::now()));
        }
    }

    #[test]
    fn the_goodbye_names_the_newest_stream_and_the_reason() {
        let (mut incoming, _) = client();
        incoming.received(&[PREFACE, HEADERS].concat(), Instant::now());
        let mut expected = vec![0, 0, 22, 7, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 11];
        expected.extend_from_slice(b"too_many_pings");
        assert_eq!(incoming.goaway(), expected);
    }
}
