//! The bytes of a catalog file: a header, then frames. `docs/formats/catalog.md` draws them.
//!
//! A frame's head has a checksum of its own, so that a length is believed only if it is sound and so that a sound frame
//! behind a damaged one can be found. The payload's checksum is chained: it covers everything since the header, so a frame
//! stands only on the very frames before it.

use bytes::Bytes;
use prost::Message;

use super::{Commit, Table};
use crate::segments::SegmentEnd;

/// Bytes of the file header.
pub(super) const HEADER_BYTES: usize = 32;
/// Bytes of a frame before its payload.
pub(super) const HEAD_BYTES: usize = 20;
/// The format version this program writes, and the newest it reads.
pub(super) const VERSION: u32 = 1;
/// The largest payload of a frame.
pub(super) const PAYLOAD_BYTES_MAX: u64 = 1 << 30;

const MAGIC: [u8; 8] = *b"QRTCATLG";

/// The payload of a frame: some changes, and, if the frame is a commit, what it makes valid. Frames without a mark occur
/// only in the base that a generation begins with.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Frame {
    #[prost(message, optional, tag = "1")]
    pub mark: Option<Mark>,
    #[prost(bool, tag = "2")]
    pub clear: bool,
    #[prost(message, repeated, tag = "3")]
    pub ops: Vec<FrameOp>,
}

/// What a commit makes valid.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Mark {
    #[prost(uint64, tag = "1")]
    pub index: u64,
    #[prost(uint64, tag = "2")]
    pub term: u64,
    #[prost(message, repeated, tag = "3")]
    pub segments: Vec<FrameSegment>,
}

/// A [`SegmentEnd`].
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct FrameSegment {
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    #[prost(uint32, tag = "2")]
    pub generation: u32,
    #[prost(uint64, tag = "3")]
    pub end: u64,
    #[prost(uint32, tag = "4")]
    pub records: u32,
    #[prost(bool, tag = "5")]
    pub sealed: bool,
}

/// An [`super::Op`].
#[derive(Clone, PartialEq, Message)]
pub(super) struct FrameOp {
    #[prost(uint32, tag = "1")]
    pub table: u32,
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub value: Option<Bytes>,
}

impl Frame {
    pub(super) fn commit(commit: &Commit, mark: Mark) -> Frame {
        let mut frame = Frame {
            mark: Some(mark),
            clear: commit.clear,
            ops: Vec::with_capacity(commit.ops.len()),
        };
        for (table, key, value) in &commit.ops {
            frame.push(*table, key, value.as_deref());
        }
        frame
    }

    pub(super) fn push(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) {
        self.ops.push(FrameOp {
            table: table as u32,
            key: Bytes::copy_from_slice(key),
            value: value.map(Bytes::copy_from_slice),
        });
    }
}

impl Mark {
    pub(super) fn of(commit: &Commit) -> Mark {
        let segments = commit.segments.iter().map(|end| {
            let SegmentEnd {
                sequence,
                generation,
                end,
                records,
                sealed,
            } = *end;
            FrameSegment {
                sequence,
                generation,
                end,
                records,
                sealed,
            }
        });
        Mark {
            index: commit.applied.0,
            term: commit.applied.1,
            segments: segments.collect(),
        }
    }

    pub(super) fn segment_ends(&self) -> Vec<SegmentEnd> {
        let ends = self.segments.iter().map(|segment| {
            let FrameSegment {
                sequence,
                generation,
                end,
                records,
                sealed,
            } = *segment;
            SegmentEnd {
                sequence,
                generation,
                end,
                records,
                sealed,
            }
        });
        ends.collect()
    }
}

/// Where the chain of frames stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameWriter {
    /// The header's checksum: seeds the heads.
    seed: u32,
    /// The checksum of the last payload, or the seed.
    chain: u32,
    /// The number of the next frame, from 1.
    number: u64,
}

/// A sound head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub payload_bytes: u64,
    pub number: u64,
    crc: u32,
}

/// What is wrong with a file header.
pub(super) enum HeaderError {
    Version(u32),
    Damaged(&'static str),
}

impl FrameWriter {
    /// The header of a generation, and the chain that begins with it.
    pub(super) fn begin(generation: u64) -> ([u8; HEADER_BYTES], FrameWriter) {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[16..24].copy_from_slice(&generation.to_le_bytes());
        let seed = crc32c::crc32c(&header[..28]);
        header[28..].copy_from_slice(&seed.to_le_bytes());
        (
            header,
            FrameWriter {
                seed,
                chain: seed,
                number: 1,
            },
        )
    }

    /// Checks the header of a generation.
    pub(super) fn resume(header: &[u8], generation: u64) -> Result<FrameWriter, HeaderError> {
        if header.len() < HEADER_BYTES || header[..8] != MAGIC {
            return Err(HeaderError::Damaged("it does not begin as a catalog does"));
        }
        if crc32c::crc32c(&header[..28]) != u32_at(header, 28) {
            return Err(HeaderError::Damaged("header checksum mismatch"));
        }
        let version = u32_at(header, 8);
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let (expected, writer) = FrameWriter::begin(generation);
        if header[..HEADER_BYTES] != expected {
            return Err(HeaderError::Damaged(
                "it is the header of another generation",
            ));
        }
        Ok(writer)
    }

    /// The next frame's bytes, and the chain behind it.
    ///
    /// # Panics
    /// If the payload is larger than the format's limit, far beyond what a checkpoint may gather.
    pub(super) fn frame(&self, frame: &Frame) -> (Vec<u8>, FrameWriter) {
        let payload_bytes = frame.encoded_len();
        assert!(
            payload_bytes as u64 <= PAYLOAD_BYTES_MAX,
            "a commit of {payload_bytes} bytes"
        );
        let mut bytes = Vec::with_capacity(HEAD_BYTES + payload_bytes);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(payload_bytes as u32).to_le_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        frame.encode(&mut bytes).expect("a vector grows");
        let chain = crc32c::crc32c_append(self.chain, &bytes[HEAD_BYTES..]);
        bytes[16..20].copy_from_slice(&chain.to_le_bytes());
        let head = crc32c::crc32c_append(self.seed, &bytes[4..HEAD_BYTES]);
        bytes[..4].copy_from_slice(&head.to_le_bytes());
        (
            bytes,
            FrameWriter {
                chain,
                number: self.number + 1,
                ..*self
            },
        )
    }

    /// The head at the beginning of these bytes, if it is sound, whatever its number.
    pub(super) fn head(&self, bytes: &[u8]) -> Option<Head> {
        let head = bytes.get(..HEAD_BYTES)?;
        if crc32c::crc32c_append(self.seed, &head[4..]) != u32_at(head, 0) {
            return None;
        }
        let payload_bytes = u64::from(u32_at(head, 4));
        let number = u64::from_le_bytes(head[8..16].try_into().expect("a slice of eight bytes"));
        (payload_bytes <= PAYLOAD_BYTES_MAX).then_some(Head {
            payload_bytes,
            number,
            crc: u32_at(head, 16),
        })
    }

    /// The number that the next frame must have.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Checks a payload against its head and returns the chain behind it.
    pub(super) fn accept(&self, head: &Head, payload: &[u8]) -> Option<FrameWriter> {
        let chain = crc32c::crc32c_append(self.chain, payload);
        (head.number == self.number && chain == head.crc).then_some(FrameWriter {
            chain,
            number: self.number + 1,
            ..*self
        })
    }
}

/// The caller has checked that the bytes are there.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}
