//! One HTTP/2 client connection carrying gRPC calls, as a state machine: no socket, no clock.
//!
//! The owner feeds it what was read ([`Conn::feed`]) and writes out what it left in [`Conn::out`]. Answers are handed to an [`Events`] while feeding, and the
//! receiver may start new calls right there; all of it leaves in one write.
//!
//! Bounds: a frame is at most 16 KiB (what we advertise), a header block 64 KiB, a message 64 MiB. Requests beyond the peer's limits (windows, concurrent
//! streams) wait in queues that the caller bounds by how many calls it starts.

use super::hpack::{Decoder, Encoder, Malformed};
use std::collections::{HashMap, VecDeque};

/// What opens a connection: RFC 9113 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
const GRPC_HEAD: usize = 5;
const FRAME_BYTES_MAX: usize = 16 * 1024;
const HEADER_BLOCK_BYTES_MAX: usize = 64 * 1024;
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Window of a connection and a stream before anything is said: RFC 9113 6.9.2.
const WINDOW_DEFAULT: u32 = 65_535;
/// Our windows: large enough that no answer of a load waits for us.
const CONN_WINDOW: u32 = 64 << 20;
const STREAM_WINDOW: u32 = 4 << 20;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// A method of etcd's services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// KV.Range
    Range,
    /// KV.Put
    Put,
    /// KV.Txn
    Txn,
    /// KV.Compact
    Compact,
    /// Watch.Watch, a stream both ways.
    Watch,
    /// Lease.LeaseGrant
    LeaseGrant,
    /// Lease.LeaseKeepAlive, a stream both ways.
    LeaseKeepAlive,
    /// Maintenance.Status
    Status,
    /// Auth.Authenticate
    Authenticate,
    /// Cluster.MemberAdd
    MemberAdd,
    /// Cluster.MemberRemove
    MemberRemove,
}

impl Method {
    fn path(self) -> &'static str {
        match self {
            Method::Range => "/etcdserverpb.KV/Range",
            Method::Put => "/etcdserverpb.KV/Put",
            Method::Txn => "/etcdserverpb.KV/Txn",
            Method::Compact => "/etcdserverpb.KV/Compact",
            Method::Watch => "/etcdserverpb.Watch/Watch",
            Method::LeaseGrant => "/etcdserverpb.Lease/LeaseGrant",
            Method::LeaseKeepAlive => "/etcdserverpb.Lease/LeaseKeepAlive",
            Method::Status => "/etcdserverpb.Maintenance/Status",
            Method::Authenticate => "/etcdserverpb.Auth/Authenticate",
            Method::MemberAdd => "/etcdserverpb.Cluster/MemberAdd",
            Method::MemberRemove => "/etcdserverpb.Cluster/MemberRemove",
        }
    }
}

/// What to do with the messages of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// Hand each to [`Events::message`].
    Deliver,
    /// Only count the bytes: the caller does not look inside, so nothing is copied.
    Count,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// gRPC status 0.
    Ok {
        /// Bytes of the answer's DATA frames.
        bytes: u64,
    },
    /// Another gRPC status, with its message.
    Status(u32, String),
    /// The stream was reset with this HTTP/2 error code.
    Reset(u32),
    /// The answer was not gRPC: an HTTP status other than 200, or no status at all.
    NotGrpc(u32),
    /// The connection went away first.
    Lost,
}

/// Receives what a connection hears.
pub trait Events {
    /// One whole message of the call that was started with `token`.
    fn message(&mut self, conn: &mut Conn, token: u32, message: &[u8]);
    /// The call is over; nothing more follows for it.
    fn end(&mut self, conn: &mut Conn, token: u32, outcome: Outcome);
}

/// The connection cannot be used any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The peer broke the protocol.
    Protocol(&'static str),
    /// The peer said GOAWAY with this error code.
    GoAway(u32),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Protocol(what) => write!(f, "HTTP/2 protocol error: {what}"),
            Broken::GoAway(code) => write!(
                f,
                "the server closed the connection (GOAWAY, error code {code})"
            ),
        }
    }
}

impl std::error::Error for Broken {}

impl From<Malformed> for Broken {
    fn from(error: Malformed) -> Broken {
        Broken::Protocol(error.0)
    }
}

struct Stream {
    token: u32,
    body: Body,
    /// How many bytes the peer still takes on this stream; may be negative after a change of settings.
    window: i64,
    /// Received and not yet given back by WINDOW_UPDATE.
    unacked: u32,
    bytes: u64,
    /// Begin of a message whose end has not come yet.
    partial: Vec<u8>,
    http_status: u32,
    grpc_status: Option<u32>,
    grpc_message: Vec<u8>,
}

struct Blocked {
    stream: u32,
    data: Vec<u8>,
    sent: usize,
    end: bool,
}

struct Waiting {
    method: Method,
    token: u32,
    body: Body,
    message: Vec<u8>,
}

/// A client connection. See the module's documentation.
pub struct Conn {
    /// What must be written to the socket next. The owner clears it once written.
    pub out: Vec<u8>,
    encoder: Encoder,
    decoder: Decoder,
    streams: HashMap<u32, Stream, std::hash::BuildHasherDefault<IdHasher>>,
    next_id: u32,
    window: i64,
    unacked: u32,
    peer_stream_window: i64,
    peer_frame_max: usize,
    peer_streams_max: usize,
    peer_ready: bool,
    /// Request bodies that wait for a window, in order.
    blocked: VecDeque<Blocked>,
    /// Calls that wait for a free stream, in order.
    waiting: VecDeque<Waiting>,
    /// Stream, END_STREAM and the bytes so far of a header block that CONTINUATION frames go on with.
    block: Option<(u32, bool, Vec<u8>)>,
}

impl Conn {
    /// A connection to `authority` (host:port) whose opening bytes are already in [`Conn::out`].
    pub fn new(authority: &str, token: Option<&str>) -> Conn {
        let mut conn = Conn {
            out: Vec::with_capacity(4096),
            encoder: Encoder::new(authority, token),
            decoder: Decoder::default(),
            streams: HashMap::default(),
            next_id: 1,
            window: i64::from(WINDOW_DEFAULT),
            unacked: 0,
            peer_stream_window: i64::from(WINDOW_DEFAULT),
            peer_frame_max: FRAME_BYTES_MAX,
            peer_streams_max: 100,
            peer_ready: false,
            blocked: VecDeque::new(),
            waiting: VecDeque::new(),
            block: None,
        };
        conn.out.extend_from_slice(PREFACE);
        frame_head(&mut conn.out, 12, SETTINGS, 0, 0);
        for (id, value) in [(2u16, 0), (4, STREAM_WINDOW)] {
            conn.out.extend_from_slice(&id.to_be_bytes());
            conn.out.extend_from_slice(&value.to_be_bytes());
        }
        conn.window_update(0, CONN_WINDOW - WINDOW_DEFAULT);
        conn
    }

    /// Whether the peer's first SETTINGS have come, so that its limits are known.
    pub fn ready(&self) -> bool {
        self.peer_ready
    }

    /// Starts a unary call. `encode` appends the request message; `token` comes back with the answer.
    pub fn call(
        &mut self,
        method: Method,
        token: u32,
        body: Body,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        if self.streams.len() >= self.peer_streams_max || !self.waiting.is_empty() {
            let mut message = Vec::new();
            encode(&mut message);
            self.waiting.push_back(Waiting {
                method,
                token,
                body,
                message,
            });
            return;
        }
        let id = self.start(method, token, body);
        self.data(id, true, encode);
    }

    /// Opens a stream both ways and returns its id for [`Conn::send`]; `None` if the peer allows no more streams on one connection.
    pub fn open(&mut self, method: Method, token: u32) -> Option<u32> {
        if self.streams.len() >= self.peer_streams_max {
            return None;
        }
        Some(self.start(method, token, Body::Deliver))
    }

    /// Sends one message on a stream from [`Conn::open`].
    pub fn send(&mut self, stream: u32, encode: impl FnOnce(&mut Vec<u8>)) {
        self.data(stream, false, encode);
    }

    /// Ends every call that is still open, because the connection is gone.
    pub fn lose(&mut self, events: &mut impl Events) {
        let open: Vec<u32> = std::mem::take(&mut self.streams)
            .into_values()
            .map(|s| s.token)
            .collect();
        let waiting: Vec<u32> = std::mem::take(&mut self.waiting)
            .into_iter()
            .map(|w| w.token)
            .collect();
        self.blocked.clear();
        for token in open.into_iter().chain(waiting) {
            events.end(self, token, Outcome::Lost);
        }
    }

    /// Takes bytes from the socket and returns how many were used; the rest is the begin of a frame and must come again, with more behind it.
    pub fn feed(&mut self, bytes: &[u8], events: &mut impl Events) -> Result<usize, Broken> {
        let mut used = 0;
        while let Some(head) = bytes[used..].first_chunk::<FRAME_HEAD>() {
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            if len > FRAME_BYTES_MAX {
                return Err(Broken::Protocol("frame larger than allowed"));
            }
            let Some(payload) = bytes.get(used + FRAME_HEAD..used + FRAME_HEAD + len) else {
                break;
            };
            let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            self.frame(head[3], head[4], stream, payload, events)?;
            used += FRAME_HEAD + len;
        }
        Ok(used)
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        events: &mut impl Events,
    ) -> Result<(), Broken> {
        if self.block.is_some() != (kind == CONTINUATION) {
            return Err(Broken::Protocol("CONTINUATION out of place"));
        }
        match kind {
            DATA => self.on_data(flags, stream, payload, events),
            HEADERS => self.on_headers(flags, stream, payload, events),
            CONTINUATION => self.on_continuation(flags, stream, payload, events),
            RST_STREAM => {
                let code = be_u32(payload)?;
                if let Some(s) = self.streams.remove(&stream) {
                    self.finish(stream, s.token, Outcome::Reset(code), events);
                }
                Ok(())
            }
            SETTINGS if flags & ACK == 0 => self.on_settings(payload),
            PUSH_PROMISE => Err(Broken::Protocol("PUSH_PROMISE was not allowed")),
            PING if flags & ACK == 0 => {
                frame_head(&mut self.out, payload.len(), PING, ACK, 0);
                self.out.extend_from_slice(payload);
                Ok(())
            }
            GOAWAY => Err(Broken::GoAway(payload.get(4..).map_or(Ok(0), be_u32)?)),
            WINDOW_UPDATE => self.on_window_update(stream, payload),
            _ => Ok(()),
        }
    }

    fn on_data(
        &mut self,
        flags: u8,
        id: u32,
        payload: &[u8],
        events: &mut impl Events,
    ) -> Result<(), Broken> {
        let len = payload.len() as u32;
        self.unacked += len;
        if self.unacked > CONN_WINDOW / 2 {
            self.window_update(0, self.unacked);
            self.unacked = 0;
        }
        let data = unpad(flags, payload)?;
        // A stream we no longer know was reset; its bytes still count for the connection's window.
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let token = stream.token;
        stream.bytes += data.len() as u64;
        stream.unacked += len;
        if flags & END_STREAM == 0 && stream.unacked > STREAM_WINDOW / 2 {
            let give = std::mem::take(&mut stream.unacked);
            self.window_update(id, give);
        }
        if self
            .streams
            .get(&id)
            .is_some_and(|s| s.body == Body::Deliver)
        {
            self.deliver(id, token, data, events)?;
        }
        if flags & END_STREAM != 0
            && let Some(s) = self.streams.remove(&id)
        {
            self.finish(id, token, Outcome::NotGrpc(s.http_status), events);
        }
        Ok(())
    }

    /// Cuts DATA into gRPC messages. Whole ones are handed on from the read buffer, only a remainder is copied.
    fn deliver(
        &mut self,
        id: u32,
        token: u32,
        data: &[u8],
        events: &mut impl Events,
    ) -> Result<(), Broken> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let mut partial = std::mem::take(&mut stream.partial);
        let mut rest = data;
        if !partial.is_empty() {
            partial.extend_from_slice(data);
            rest = &partial;
        }
        while let Some(head) = rest.first_chunk::<GRPC_HEAD>() {
            let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            if head[0] != 0 {
                return Err(Broken::Protocol(
                    "compressed message though none was asked for",
                ));
            }
            if len > MESSAGE_BYTES_MAX {
                return Err(Broken::Protocol("gRPC message larger than 64 MiB"));
            }
            let Some(message) = rest.get(GRPC_HEAD..GRPC_HEAD + len) else {
                break;
            };
            events.message(self, token, message);
            rest = &rest[GRPC_HEAD + len..];
        }
        let keep = if partial.is_empty() || rest.is_empty() {
            rest.to_vec()
        } else {
            let start = partial.len() - rest.len();
            partial.drain(..start);
            partial
        };
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.partial = keep;
        }
        Ok(())
    }

    fn on_headers(
        &mut self,
        flags: u8,
        id: u32,
        payload: &[u8],
        events: &mut impl Events,
    ) -> Result<(), Broken> {
        let mut block = unpad(flags, payload)?;
        if flags & PRIORITY != 0 {
            block = block
                .get(5..)
                .ok_or(Broken::Protocol("HEADERS too short"))?;
        }
        if flags & END_HEADERS == 0 {
            self.block = Some((id, flags & END_STREAM != 0, block.to_vec()));
            return Ok(());
        }
        self.on_block(id, flags & END_STREAM != 0, block, events)
    }

    fn on_continuation(
        &mut self,
        flags: u8,
        id: u32,
        payload: &[u8],
        events: &mut impl Events,
    ) -> Result<(), Broken> {
        let Some((stream, end, mut block)) = self.block.take() else {
            return Ok(());
        };
        if stream != id || block.len() + payload.len() > HEADER_BLOCK_BYTES_MAX {
            return Err(Broken::Protocol(
                "CONTINUATION of another stream, or header block too large",
            ));
        }
        block.extend_from_slice(payload);
        if flags & END_HEADERS == 0 {
            self.block = Some((stream, end, block));
            return Ok(());
        }
        self.on_block(stream, end, &block, events)
    }

    fn on_block(
        &mut self,
        id: u32,
        end: bool,
        block: &[u8],
        events: &mut impl Events,
    ) -> Result<(), Broken> {
        // Even the headers of an unknown stream must pass through the decoder: they change its table.
        let mut stream = self.streams.get_mut(&id);
        self.decoder.decode(block, |name, value| {
            let Some(stream) = &mut stream else { return };
            match name {
                b":status" => stream.http_status = number(value).unwrap_or(0),
                b"grpc-status" => stream.grpc_status = number(value),
                b"grpc-message" => stream.grpc_message = value.to_vec(),
                _ => {}
            }
        })?;
        if end && let Some(s) = self.streams.remove(&id) {
            let outcome = match (s.http_status, s.grpc_status) {
                (200, Some(0)) => Outcome::Ok { bytes: s.bytes },
                (_, Some(status)) => Outcome::Status(
                    status,
                    String::from_utf8_lossy(&s.grpc_message).into_owned(),
                ),
                (http, None) => Outcome::NotGrpc(http),
            };
            self.finish(id, s.token, outcome, events);
        }
        Ok(())
    }

    fn finish(&mut self, id: u32, token: u32, outcome: Outcome, events: &mut impl Events) {
        if !self.blocked.is_empty() {
            self.blocked.retain(|b| b.stream != id);
        }
        events.end(self, token, outcome);
        self.start_waiting();
    }

    fn start_waiting(&mut self) {
        while self.streams.len() < self.peer_streams_max {
            let Some(w) = self.waiting.pop_front() else {
                return;
            };
            let id = self.start(w.method, w.token, w.body);
            self.data(id, true, |out| out.extend_from_slice(&w.message));
        }
    }

    fn on_settings(&mut self, payload: &[u8]) -> Result<(), Broken> {
        for entry in payload.chunks_exact(6) {
            let value = be_u32(&entry[2..])?;
            match u16::from_be_bytes([entry[0], entry[1]]) {
                1 => self.encoder.peer_table_size(value as usize),
                3 => self.peer_streams_max = value as usize,
                4 => {
                    let change = i64::from(value) - self.peer_stream_window;
                    self.peer_stream_window = i64::from(value);
                    self.streams.values_mut().for_each(|s| s.window += change);
                }
                5 => self.peer_frame_max = (value as usize).max(FRAME_BYTES_MAX),
                _ => {}
            }
        }
        if !self.peer_ready && !payload.chunks_exact(6).any(|e| e[..2] == [0, 3]) {
            // Before SETTINGS we assumed a modest limit; without one the peer has none.
            self.peer_streams_max = usize::MAX;
        }
        self.peer_ready = true;
        frame_head(&mut self.out, 0, SETTINGS, ACK, 0);
        self.send_blocked();
        self.start_waiting();
        Ok(())
    }

    fn on_window_update(&mut self, id: u32, payload: &[u8]) -> Result<(), Broken> {
        let more = i64::from(be_u32(payload)? & 0x7fff_ffff);
        if id == 0 {
            self.window += more;
        } else if let Some(stream) = self.streams.get_mut(&id) {
            stream.window += more;
        }
        self.send_blocked();
        Ok(())
    }

    fn start(&mut self, method: Method, token: u32, body: Body) -> u32 {
        let id = self.next_id;
        assert!(
            id < 1 << 31,
            "a connection has 2^30 requests; start more connections or a shorter run"
        );
        self.next_id += 2;
        let head = self.out.len();
        frame_head(&mut self.out, 0, HEADERS, END_HEADERS, id);
        self.encoder
            .request(method as usize, method.path(), &mut self.out);
        let len = self.out.len() - head - FRAME_HEAD;
        set_len(&mut self.out[head..], len);
        let window = self.peer_stream_window;
        let stream = Stream {
            token,
            body,
            window,
            unacked: 0,
            bytes: 0,
            partial: Vec::new(),
            http_status: 0,
            grpc_status: None,
            grpc_message: Vec::new(),
        };
        self.streams.insert(id, stream);
        id
    }

    /// Appends one gRPC message as DATA: in place when it fits the windows (nearly always), else through the queue.
    fn data(&mut self, id: u32, end: bool, encode: impl FnOnce(&mut Vec<u8>)) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let head = self.out.len();
        frame_head(&mut self.out, 0, DATA, if end { END_STREAM } else { 0 }, id);
        self.out.extend_from_slice(&[0; GRPC_HEAD]);
        encode(&mut self.out);
        let framed = self.out.len() - head - FRAME_HEAD;
        let message = (framed - GRPC_HEAD) as u32;
        self.out[head + FRAME_HEAD + 1..head + FRAME_HEAD + GRPC_HEAD]
            .copy_from_slice(&message.to_be_bytes());
        if framed as i64 <= self.window.min(stream.window)
            && framed <= self.peer_frame_max
            && self.blocked.is_empty()
        {
            set_len(&mut self.out[head..], framed);
            self.window -= framed as i64;
            stream.window -= framed as i64;
            return;
        }
        let data = self.out[head + FRAME_HEAD..].to_vec();
        self.out.truncate(head);
        self.blocked.push_back(Blocked {
            stream: id,
            data,
            sent: 0,
            end,
        });
        self.send_blocked();
    }

    /// Sends queued bodies as far as the windows allow. Strictly in order: a body whose stream is full holds the ones behind it, which is fair enough.
    fn send_blocked(&mut self) {
        while let Some(b) = self.blocked.front_mut() {
            let Some(stream) = self.streams.get_mut(&b.stream) else {
                self.blocked.pop_front();
                continue;
            };
            let room = self
                .window
                .min(stream.window)
                .min(self.peer_frame_max as i64);
            let chunk = (b.data.len() - b.sent).min(room.max(0) as usize);
            if chunk == 0 {
                return;
            }
            let last = b.sent + chunk == b.data.len();
            frame_head(
                &mut self.out,
                chunk,
                DATA,
                if last && b.end { END_STREAM } else { 0 },
                b.stream,
            );
            self.out.extend_from_slice(&b.data[b.sent..b.sent + chunk]);
            self.window -= chunk as i64;
            stream.window -= chunk as i64;
            b.sent += chunk;
            if last {
                self.blocked.pop_front();
            }
        }
    }

    fn window_update(&mut self, stream: u32, more: u32) {
        frame_head(&mut self.out, 4, WINDOW_UPDATE, 0, stream);
        self.out.extend_from_slice(&more.to_be_bytes());
    }
}

/// Stream ids are small odd numbers handed out by us: multiplying spreads them well enough, and nobody hostile chooses them.
#[derive(Default)]
struct IdHasher(u64);

impl std::hash::Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u32(u32::from(*b)));
    }
    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

fn frame_head(out: &mut Vec<u8>, len: usize, kind: u8, flags: u8, stream: u32) {
    let [_, a, b, c] = (len as u32).to_be_bytes();
    let [w, x, y, z] = stream.to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags, w, x, y, z]);
}

fn set_len(frame: &mut [u8], len: usize) {
    frame[..3].copy_from_slice(&(len as u32).to_be_bytes()[1..]);
}

fn be_u32(payload: &[u8]) -> Result<u32, Broken> {
    payload
        .first_chunk()
        .map(|b| u32::from_be_bytes(*b))
        .ok_or(Broken::Protocol("frame too short"))
}

fn unpad(flags: u8, payload: &[u8]) -> Result<&[u8], Broken> {
    if flags & PADDED == 0 {
        return Ok(payload);
    }
    let (&pad, rest) = payload
        .split_first()
        .ok_or(Broken::Protocol("padding without its length"))?;
    let len = rest
        .len()
        .checked_sub(usize::from(pad))
        .ok_or(Broken::Protocol("more padding than frame"))?;
    Ok(&rest[..len])
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
