//! The frames of the two streams between members, and of the head of a snapshot.
//!
//! ```text
//! message stream     | size: u64 BE | raftpb.Message |              an empty MsgHeartbeat from 0 to 0 only keeps the link alive
//!
//! msgapp stream      | 0 |                                           keeps the link alive
//!                    | 1 | count: u64 BE | count x (size: u64 BE | raftpb.Entry) | commit: u64 BE |
//!                    | 2 | size: u64 BE | raftpb.Message |
//!
//! snapshot body      | size: u64 BE | raftpb.Message | the backend file, up to the end |
//! ```
//! A frame of kind 1 continues where the frame before it ended: both sides remember the term and the last index, and the rest of the
//! message follows from them. The memory is of one connection.
//!
//! What comes in is another member's, or somebody's who says so: nothing is allocated for what has not arrived, and
//! everything that is not exactly as above ends the connection. What goes out is as careful as can be, because etcd panics
//! on what it can't read. Source: upstream `server/etcdserver/api/rafthttp/{msg_codec,msgappv2_codec}.go`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;
use proto::raftpb::{Entry, Message, MessageType};

/// Most bytes of a message on a stream. Source: upstream `readBytesLimit`.
pub const STREAM_FRAME_MAX: u64 = 512 << 20;
/// Most bytes of the message before a snapshot. Source: upstream (3.6 and later) `snapshotLimitByte`.
pub const SNAPSHOT_MESSAGE_MAX: u64 = 64 << 20;

/// Which of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Log entries from a leader.
    MsgApp,
    /// Everything else, and entries too while there is no other stream.
    Message,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::MsgApp, Kind::Message];

    /// The last part but one of the path.
    pub fn path(self) -> &'static str {
        match self {
            Kind::MsgApp => "msgapp",
            Kind::Message => "message",
        }
    }

    /// As the log calls it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::MsgApp => "stream MsgApp v2",
            Kind::Message => "stream Message",
        }
    }
}

/// What a frame holds.
#[derive(Debug, PartialEq)]
pub enum Frame {
    /// The link lives.
    Alive,
    Message(Box<Message>),
}

/// Why a stream can't be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("failed to parse type {0} in msgappv2 stream")]
    FrameKind(u8),
    #[error("rafthttp: error limit exceeded")]
    TooLarge,
    #[error("a frame does not hold what it says")]
    Content,
    #[error("entries do not follow each other")]
    Gap,
}

const FRAME_ALIVE: u8 = 0;
const FRAME_ENTRIES: u8 = 1;
const FRAME_MESSAGE: u8 = 2;

/// The type of a message; one that is not known counts as a local one, which nobody takes from the network.
pub fn kind_of(message: &Message) -> MessageType {
    message
        .r#type
        .map_or(Ok(MessageType::MsgHup), MessageType::try_from)
        .unwrap_or(MessageType::MsgHup)
}

/// About how much memory a message takes, without walking through what it holds.
pub fn weight(message: &Message) -> usize {
    let entries = message.entries.iter();
    64 + entries
        .map(|entry| 48 + entry.data.as_ref().map_or(0, Bytes::len))
        .sum::<usize>()
}

/// Writes the frames of one connection.
#[derive(Debug)]
pub struct Encoder {
    kind: Kind,
    /// What the reader remembers: the term, and the last index.
    at: Option<(u64, u64)>,
}

impl Encoder {
    pub fn new(kind: Kind) -> Encoder {
        Encoder { kind, at: None }
    }

    /// Adds the frame of a message.
    pub fn message(&mut self, message: &Message, out: &mut BytesMut) {
        if self.kind == Kind::MsgApp {
            assert_eq!(
                kind_of(message),
                MessageType::MsgApp,
                "only entries go over their stream"
            );
            if self.continues(message) {
                return self.entries(message, out);
            }
            out.put_u8(FRAME_MESSAGE);
            self.at = follows(message);
        }
        put_message(message, out);
    }

    /// Adds the frame that says nothing.
    pub fn alive(&self, out: &mut BytesMut) {
        match self.kind {
            Kind::MsgApp => out.put_u8(FRAME_ALIVE),
            Kind::Message => put_message(&link_heartbeat(), out),
        }
    }

    /// Whether the reader can derive everything but entries and commit index.
    fn continues(&self, message: &Message) -> bool {
        let (term, index) = (message.term(), message.index());
        self.at == Some((term, index))
            && message.log_term() == term
            && message.context.is_none()
            && message
                .entries
                .iter()
                .zip(index + 1..)
                .all(|(entry, index)| entry.index() == index)
    }

    fn entries(&mut self, message: &Message, out: &mut BytesMut) {
        out.put_u8(FRAME_ENTRIES);
        out.put_u64(message.entries.len() as u64);
        for entry in &message.entries {
            let size = entry.encoded_len();
            out.reserve(size + 8);
            out.put_u64(size as u64);
            entry.encode(out).expect(GROWS);
        }
        out.put_u64(message.commit());
        self.at = Some((
            message.term(),
            message.index() + message.entries.len() as u64,
        ));
    }
}

/// Adds a message behind its size: a frame of the message stream, and the head of a snapshot.
pub fn put_message(message: &Message, out: &mut BytesMut) {
    let size = message.encoded_len();
    out.reserve(size + 8);
    out.put_u64(size as u64);
    message.encode(out).expect(GROWS);
}

const GROWS: &str = "a buffer that grows has room";

fn link_heartbeat() -> Message {
    Message {
        r#type: Some(MessageType::MsgHeartbeat as i32),
        to: Some(0),
        from: Some(0),
        ..Default::default()
    }
}

fn is_link_heartbeat(message: &Message) -> bool {
    kind_of(message) == MessageType::MsgHeartbeat && message.from() == 0 && message.to() == 0
}

/// Term and last index after a whole message.
fn follows(message: &Message) -> Option<(u64, u64)> {
    let last = message.entries.last();
    let index = last.map_or(message.index(), Entry::index);
    Some((message.term(), index))
}

/// Reads the frames of one connection, in whatever pieces they come.
#[derive(Debug)]
pub struct Decoder {
    kind: Kind,
    local: u64,
    remote: u64,
    at: Option<(u64, u64)>,
    /// The beginning of a frame whose rest has not come yet.
    partial: BytesMut,
    /// What has come behind it.
    rest: Bytes,
    scan: Scan,
}

/// How far the length of the frame at hand is known.
#[derive(Debug, Default)]
struct Scan {
    /// Bytes that were looked at: whole lengths and what they announce.
    at: usize,
    /// Entries whose length is still to come; `None` before their count is known.
    entries: Option<u64>,
}

/// What [`Scan::go_on`] found.
enum Extent {
    /// The frame has so many bytes.
    Whole(usize),
    /// It has at least so many.
    AtLeast(usize),
}

impl Decoder {
    /// Reads what `remote` sends to `local`.
    pub fn new(kind: Kind, local: u64, remote: u64) -> Decoder {
        Decoder {
            kind,
            local,
            remote,
            at: None,
            partial: BytesMut::new(),
            rest: Bytes::new(),
            scan: Scan::default(),
        }
    }

    /// Takes what has come. Everything that came before must have been read.
    pub fn feed(&mut self, piece: Bytes) {
        assert!(self.rest.is_empty(), "frames are left from before");
        self.rest = piece;
    }

    /// The next frame, or `None` until more has come.
    ///
    /// # Errors
    /// The connection can't be read on.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Malformed> {
        loop {
            let is_partial = !self.partial.is_empty();
            let seen = if is_partial {
                &self.partial[..]
            } else {
                &self.rest[..]
            };
            match self.scan.go_on(self.kind, seen)? {
                Extent::Whole(size) if size <= seen.len() => {
                    self.scan = Scan::default();
                    let frame = match is_partial {
                        true => self.partial.split_to(size).freeze(),
                        false => self.rest.split_to(size),
                    };
                    return self.parse(frame).map(Some);
                }
                Extent::Whole(size) | Extent::AtLeast(size) => {
                    if self.rest.is_empty() {
                        return Ok(None);
                    }
                    let wanted = if is_partial {
                        size - self.partial.len()
                    } else {
                        self.rest.len()
                    };
                    let taken = self.rest.split_to(wanted.min(self.rest.len()));
                    self.partial.extend_from_slice(&taken);
                }
            }
        }
    }

    fn parse(&mut self, mut frame: Bytes) -> Result<Frame, Malformed> {
        if self.kind == Kind::MsgApp {
            match frame.get_u8() {
                FRAME_ALIVE => return Ok(Frame::Alive),
                FRAME_ENTRIES => return self.parse_entries(frame),
                _ => {}
            }
        }
        frame.advance(8);
        let message = Message::decode(frame).map_err(|_| Malformed::Content)?;
        if is_link_heartbeat(&message) {
            return Ok(Frame::Alive);
        }
        if self.kind == Kind::MsgApp {
            if kind_of(&message) != MessageType::MsgApp {
                return Err(Malformed::Content);
            }
            self.at = follows(&message);
        }
        Ok(Frame::Message(Box::new(message)))
    }

    fn parse_entries(&mut self, mut frame: Bytes) -> Result<Frame, Malformed> {
        let (term, index) = self.at.ok_or(Malformed::Gap)?;
        // Bounded by the frame: every entry takes eight bytes at least.
        let count = frame.get_u64() as usize;
        let mut entries = Vec::with_capacity(count);
        for expected in (index + 1..).take(count) {
            let size = frame.get_u64() as usize;
            let entry = Entry::decode(frame.split_to(size)).map_err(|_| Malformed::Content)?;
            if entry.index() != expected {
                return Err(Malformed::Gap);
            }
            entries.push(entry);
        }
        self.at = Some((term, index + count as u64));
        Ok(Frame::Message(Box::new(Message {
            r#type: Some(MessageType::MsgApp as i32),
            to: Some(self.local),
            from: Some(self.remote),
            term: Some(term),
            log_term: Some(term),
            index: Some(index),
            commit: Some(frame.get_u64()),
            entries,
            ..Default::default()
        })))
    }
}

impl Scan {
    /// Finds out how long the frame is that `seen` begins with. Called again with more of the same frame, it goes on where it was.
    fn go_on(&mut self, kind: Kind, seen: &[u8]) -> Result<Extent, Malformed> {
        if kind == Kind::Message {
            return Ok(match length_at(seen, 0)? {
                Some(size) => Extent::Whole(8 + size),
                None => Extent::AtLeast(8),
            });
        }
        match seen.first() {
            None => Ok(Extent::AtLeast(1)),
            Some(&FRAME_ALIVE) => Ok(Extent::Whole(1)),
            Some(&FRAME_MESSAGE) => Ok(match length_at(seen, 1)? {
                Some(size) => Extent::Whole(9 + size),
                None => Extent::AtLeast(9),
            }),
            Some(&FRAME_ENTRIES) => self.entries(seen),
            Some(&kind) => Err(Malformed::FrameKind(kind)),
        }
    }

    fn entries(&mut self, seen: &[u8]) -> Result<Extent, Malformed> {
        let mut left = match self.entries {
            Some(left) => left,
            None => {
                let Some(count) = length_at(seen, 1)? else {
                    return Ok(Extent::AtLeast(9));
                };
                self.at = 9;
                count as u64
            }
        };
        while left > 0 {
            let Some(size) = length_at(seen, self.at)? else {
                break;
            };
            let at = self.at + 8 + size;
            if at as u64 > STREAM_FRAME_MAX {
                return Err(Malformed::TooLarge);
            }
            if at > seen.len() {
                break;
            }
            self.at = at;
            left -= 1;
        }
        self.entries = Some(left);
        if left == 0 {
            return Ok(Extent::Whole(self.at + 8));
        }
        let size = length_at(seen, self.at)?.unwrap_or(0);
        Ok(Extent::AtLeast(self.at + 8 + size))
    }
}

/// A length, if all of it is there.
fn length_at(seen: &[u8], at: usize) -> Result<Option<usize>, Malformed> {
    let Some(bytes) = seen.get(at..at + 8) else {
        return Ok(None);
    };
    let length = u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
    if length > STREAM_FRAME_MAX {
        return Err(Malformed::TooLarge);
    }
    Ok(Some(length as usize))
}

/// The size of the message before a snapshot.
///
/// # Errors
/// It is larger than any such message is.
pub fn message_size(size: u64) -> Result<usize, Malformed> {
    if size > SNAPSHOT_MESSAGE_MAX {
        return Err(Malformed::TooLarge);
    }
    Ok(size as usize)
}

#[cfg(test)]
mod tests;
