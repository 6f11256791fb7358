//! Records: how they are encoded into a buffer, chained, checked and decoded. No files here.
//!
//! A record is a 24-byte header, a payload, and zeros up to the next multiple of 8. All numbers are little-endian.
//!
//! ```text
//!        0       1       2       3       4       5       6       7
//!   0 | payload length               | tag of the segment            |
//!   8 | bytes synced when written    | kind  | 0     | header check  |
//!  16 | checksum of the record before| checksum of this record       |
//!  24 | payload ...                                                   |
//! ```
//!
//! The checksum is CRC-32C over bytes 0..20 and the payload, so it covers the checksum of the record before. The header
//! check is CRC-32C over bytes 0..14 and 16..20, folded to 16 bits: when a record is bad, it tells whether its length can be
//! believed.

use bytes::Bytes;
use prost::Message;
use proto::raftpb::{ConfState, Entry, HardState};

use super::{Identity, Marker};

/// The format version in every segment header.
pub(super) const FORMAT_VERSION: u32 = 1;
pub(super) const HEADER_BYTES: usize = 24;
const CHECKSUM_AT: usize = 20;
const MAGIC: &[u8; 8] = b"QUORWAL\n";
const OPENING_BYTES: usize = 80;
const HARD_STATE_BYTES: usize = 24;
const ENTRIES_HEAD_BYTES: usize = 16;
const ENTRY_HEAD_BYTES: usize = 16;
const MARKER_HEAD_BYTES: usize = 24;
const FLAG_ZEROED: u32 = 1;
const FLAG_RESTART: u32 = 1;

const _: () = assert!(
    HEADER_BYTES.is_multiple_of(8),
    "a record starts at a multiple of 8, and so does its payload"
);

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Opening = 1,
    HardState = 2,
    Marker = 3,
    Entries = 4,
}

/// What links a record to the one before it and to its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// Tag of the segment, never 0.
    pub(super) tag: u32,
    /// Checksum of the record before.
    pub(super) previous: u32,
}

/// The header of a record as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) payload_bytes: u32,
    pub(super) tag: u32,
    pub(super) synced: u32,
    pub(super) kind: u8,
    reserved: u8,
    /// Whether the header check was right.
    intact: bool,
    pub(super) previous: u32,
    pub(super) checksum: u32,
}

/// The header of a segment, its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    pub(super) identity: Identity,
    pub(super) sequence: u64,
    /// The index that the next entry has if no older one is overwritten.
    pub(super) first_index: u64,
    pub(super) salt: u64,
    /// Length of the file when the segment was opened; it was durable then.
    pub(super) file_bytes: u64,
    /// Where the chain of the segment before ends, and its last checksum. Both 0 in the first segment.
    pub(super) previous_end: u64,
    pub(super) previous_checksum: u32,
    /// Whether the file held only zeros before the opening was written.
    pub(super) zeroed: bool,
}

impl Opening {
    /// The tag of all records in the segment. Never 0, so that zeros are never a record.
    pub(super) fn tag(&self) -> u32 {
        tag(self.salt)
    }
}

pub(super) fn tag(salt: u64) -> u32 {
    ((salt ^ (salt >> 32)) as u32) | 1
}

/// A salt that differs from segment to segment, and between two histories of one segment, without randomness: a hash
/// (splitmix64's finalizer) of whose log it is, which segment, and what came before.
pub(super) fn salt(identity: Identity, sequence: u64, previous_checksum: u32) -> u64 {
    [
        identity.cluster_id,
        identity.member_id,
        sequence,
        previous_checksum.into(),
    ]
    .into_iter()
    .fold(0, |hash, word| {
        let mut z = (hash ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

// ---- encoding ----

/// Appends records to a buffer and keeps the chain.
pub(super) struct Encoder<'a> {
    pub(super) buffer: &'a mut Vec<u8>,
    pub(super) chain: Chain,
    /// What the records say of how much was synced.
    pub(super) synced: u32,
}

impl Encoder<'_> {
    pub(super) fn opening(&mut self, opening: &Opening) {
        self.record(Kind::Opening, |buffer| {
            buffer.extend_from_slice(MAGIC);
            buffer.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
            buffer.extend_from_slice(&(if opening.zeroed { FLAG_ZEROED } else { 0 }).to_le_bytes());
            let words = [
                opening.identity.cluster_id,
                opening.identity.member_id,
                opening.sequence,
                opening.first_index,
                opening.salt,
                opening.file_bytes,
                opening.previous_end,
                opening.previous_checksum.into(),
            ];
            for word in words {
                buffer.extend_from_slice(&word.to_le_bytes());
            }
        });
    }

    pub(super) fn hard_state(&mut self, state: &HardState) {
        self.record(Kind::HardState, |buffer| {
            for word in [state.term(), state.vote(), state.commit()] {
                buffer.extend_from_slice(&word.to_le_bytes());
            }
        });
    }

    pub(super) fn marker(&mut self, marker: &Marker) {
        self.record(Kind::Marker, |buffer| {
            buffer.extend_from_slice(&marker.index.to_le_bytes());
            buffer.extend_from_slice(&marker.term.to_le_bytes());
            buffer
                .extend_from_slice(&(if marker.restart { FLAG_RESTART } else { 0 }).to_le_bytes());
            buffer.extend_from_slice(&(marker.conf_state.encoded_len() as u32).to_le_bytes());
            marker.conf_state.encode_raw(buffer);
        });
    }

    /// `entries` must not be empty and must have consecutive indexes.
    pub(super) fn entries(&mut self, entries: &[Entry]) {
        let first = entries.first().map_or(0, Entry::index);
        self.record(Kind::Entries, |buffer| {
            buffer.extend_from_slice(&first.to_le_bytes());
            buffer.extend_from_slice(&(entries.len() as u32).to_le_bytes());
            buffer.extend_from_slice(&[0; 4]);
            for (entry, index) in entries.iter().zip(first..) {
                assert_eq!(
                    entry.index(),
                    index,
                    "entries of one batch have consecutive indexes"
                );
                let data = entry.data.as_deref().unwrap_or_default();
                let kind =
                    u8::try_from(entry.r#type.unwrap_or(0)).expect("entry types are small numbers");
                buffer.extend_from_slice(&(data.len() as u32).to_le_bytes());
                buffer.extend_from_slice(&[kind, 0, 0, 0]);
                buffer.extend_from_slice(&entry.term().to_le_bytes());
                buffer.extend_from_slice(data);
            }
        });
    }

    fn record(&mut self, kind: Kind, payload: impl FnOnce(&mut Vec<u8>)) {
        let start = self.buffer.len();
        assert!(
            start.is_multiple_of(8),
            "records start at multiples of 8, not at {start}"
        );
        self.buffer.extend_from_slice(&[0; HEADER_BYTES]);
        payload(self.buffer);
        let end = self.buffer.len();
        let header = Header {
            payload_bytes: u32::try_from(end - start - HEADER_BYTES)
                .expect("append bounds a batch below 1 GiB"),
            tag: self.chain.tag,
            synced: self.synced,
            kind: kind as u8,
            reserved: 0,
            intact: true,
            previous: self.chain.previous,
            checksum: 0,
        };
        self.buffer[start..start + HEADER_BYTES].copy_from_slice(&header.to_bytes());
        let checksum = checksum(&self.buffer[start..end]);
        self.buffer[start + CHECKSUM_AT..start + HEADER_BYTES]
            .copy_from_slice(&checksum.to_le_bytes());
        self.buffer.resize(end.next_multiple_of(8), 0);
        self.chain.previous = checksum;
    }
}

/// Bytes that a hard state takes in the log.
pub(super) const HARD_STATE_RECORD_BYTES: u64 = (HEADER_BYTES + HARD_STATE_BYTES) as u64;

/// Bytes that this marker takes in the log.
pub(super) fn marker_record_bytes(marker: &Marker) -> u64 {
    padded((MARKER_HEAD_BYTES + marker.conf_state.encoded_len()) as u64)
}

/// Bytes that these entries take in the log.
pub(super) fn entries_record_bytes(entries: &[Entry]) -> u64 {
    let data =
        |entry: &Entry| (ENTRY_HEAD_BYTES + entry.data.as_ref().map_or(0, Bytes::len)) as u64;
    padded(ENTRIES_HEAD_BYTES as u64 + entries.iter().map(data).sum::<u64>())
}

/// Bytes of a record with a payload of this size.
pub(super) fn padded(payload_bytes: u64) -> u64 {
    (HEADER_BYTES as u64 + payload_bytes).next_multiple_of(8)
}

// ---- decoding ----

/// The checksum of a record (header and payload, without the padding).
pub(super) fn checksum(record: &[u8]) -> u32 {
    let head = record.get(..CHECKSUM_AT).unwrap_or_default();
    crc32c::crc32c_append(
        crc32c::crc32c(head),
        record.get(HEADER_BYTES..).unwrap_or_default(),
    )
}

fn header_check(bytes: &[u8; HEADER_BYTES]) -> [u8; 2] {
    let (head, previous) = (&bytes[..14], &bytes[16..CHECKSUM_AT]);
    let sum = crc32c::crc32c_append(crc32c::crc32c(head), previous);
    ((sum ^ (sum >> 16)) as u16).to_le_bytes()
}

impl Header {
    pub(super) fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Header {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Header {
            payload_bytes: word(0),
            tag: word(4),
            synced: word(8),
            kind: bytes[12],
            reserved: bytes[13],
            intact: header_check(bytes) == [bytes[14], bytes[15]],
            previous: word(16),
            checksum: word(20),
        }
    }

    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.tag.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.synced.to_le_bytes());
        bytes[12] = self.kind;
        bytes[13] = self.reserved;
        bytes[16..20].copy_from_slice(&self.previous.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.checksum.to_le_bytes());
        let check = header_check(&bytes);
        bytes[14..16].copy_from_slice(&check);
        bytes
    }

    /// Whether the header is one of this segment's, whatever the checksum of the whole record says.
    pub(super) fn is_plausible(&self, tag: u32) -> bool {
        let known = Kind::from_byte(self.kind).is_some() && self.reserved == 0;
        self.intact && self.tag == tag && known && self.payload_bytes > 0
    }

    /// Bytes of the record with its padding.
    pub(super) fn record_bytes(&self) -> u64 {
        padded(self.payload_bytes.into())
    }
}

impl Kind {
    pub(super) fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Opening, Kind::HardState, Kind::Marker, Kind::Entries]
            .into_iter()
            .find(|&kind| kind as u8 == byte)
    }
}

/// Why an opening was not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadOpening {
    /// Not a file of ours, or damaged.
    Damaged,
    /// A file of ours with a format version that is not known here.
    Format(u32),
}

pub(super) fn decode_opening(payload: &[u8]) -> Result<Opening, BadOpening> {
    let mut at = Cursor(payload);
    if at.take(8) != Some(MAGIC) {
        return Err(BadOpening::Damaged);
    }
    let version = at.u32().ok_or(BadOpening::Damaged)?;
    if version != FORMAT_VERSION {
        return Err(BadOpening::Format(version));
    }
    if payload.len() != OPENING_BYTES {
        return Err(BadOpening::Damaged);
    }
    let read = |at: &mut Cursor| {
        Some(Opening {
            zeroed: at.u32()? & FLAG_ZEROED != 0,
            identity: Identity {
                cluster_id: at.u64()?,
                member_id: at.u64()?,
            },
            sequence: at.u64()?,
            first_index: at.u64()?,
            salt: at.u64()?,
            file_bytes: at.u64()?,
            previous_end: at.u64()?,
            previous_checksum: u32::try_from(at.u64()?).ok()?,
        })
    };
    read(&mut at).ok_or(BadOpening::Damaged)
}

/// Whether these bytes begin like the payload of an opening of ours.
pub(super) fn has_magic(payload: &[u8]) -> bool {
    payload.starts_with(MAGIC)
}

pub(super) fn decode_hard_state(payload: &[u8]) -> Option<HardState> {
    let mut at = Cursor(payload);
    let state = HardState {
        term: Some(at.u64()?),
        vote: Some(at.u64()?),
        commit: Some(at.u64()?),
    };
    at.0.is_empty().then_some(state)
}

pub(super) fn decode_marker(payload: &[u8]) -> Option<Marker> {
    let mut at = Cursor(payload);
    let (index, term, flags, conf_bytes) = (at.u64()?, at.u64()?, at.u32()?, at.u32()?);
    let conf_state = ConfState::decode(at.take(conf_bytes as usize)?).ok()?;
    at.0.is_empty().then_some(Marker {
        index,
        term,
        conf_state,
        restart: flags & FLAG_RESTART != 0,
    })
}

/// Decodes entries; their data share one copy of the payload.
pub(super) fn decode_entries(payload: &[u8]) -> Option<Vec<Entry>> {
    let mut at = Cursor(payload);
    let (first, count, zero) = (at.u64()?, at.u32()?, at.u32()?);
    // The count is bounded by what the payload can hold before anything is allocated.
    if zero != 0 || count == 0 || count as usize > at.0.len() / ENTRY_HEAD_BYTES || first == 0 {
        return None;
    }
    let shared = Bytes::copy_from_slice(payload);
    let mut entries = Vec::with_capacity(count as usize);
    for offset in 0..u64::from(count) {
        let (data_bytes, kind, term) = (at.u32()?, at.u32()?, at.u64()?);
        let start = payload.len() - at.0.len();
        let data = at.take(data_bytes as usize)?;
        entries.push(Entry {
            r#type: Some(i32::from(u8::try_from(kind).ok()?)),
            term: Some(term),
            index: Some(first.checked_add(offset)?),
            data: (!data.is_empty()).then(|| shared.slice(start..start + data.len())),
        });
    }
    at.0.is_empty().then_some(entries)
}

/// Reads numbers off the front of a slice; `None` when it is too short.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_one(buffer: &[u8]) -> (Header, Vec<u8>) {
        let header = Header::from_bytes(buffer[..HEADER_BYTES].try_into().unwrap());
        let record = &buffer[..HEADER_BYTES + header.payload_bytes as usize];
        assert_eq!(checksum(record), header.checksum);
        assert_eq!(header.record_bytes(), buffer.len() as u64);
        (header, record[HEADER_BYTES..].to_vec())
    }

    fn encode(write: impl FnOnce(&mut Encoder)) -> Vec<u8> {
        let mut buffer = Vec::new();
        write(&mut Encoder {
            buffer: &mut buffer,
            chain: Chain {
                tag: 7,
                previous: 9,
            },
            synced: 0,
        });
        buffer
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let state = HardState {
            term: Some(3),
            vote: Some(2),
            commit: Some(1),
        };
        assert_eq!(
            decode_hard_state(&decode_one(&encode(|e| e.hard_state(&state))).1),
            Some(state)
        );

        let conf_state = ConfState {
            voters: vec![1, 2],
            ..ConfState::default()
        };
        let marker = Marker {
            index: 4,
            term: 2,
            conf_state,
            restart: true,
        };
        let bytes = encode(|e| e.marker(&marker));
        assert_eq!(bytes.len() as u64, marker_record_bytes(&marker));
        assert_eq!(decode_marker(&decode_one(&bytes).1), Some(marker));

        let entry = |index, data: &'static [u8]| Entry {
            r#type: Some(1),
            term: Some(5),
            index: Some(index),
            data: (!data.is_empty()).then(|| Bytes::from_static(data)),
        };
        let entries = vec![entry(7, b"seven"), entry(8, b""), entry(9, b"nine")];
        let bytes = encode(|e| e.entries(&entries));
        assert_eq!(bytes.len() as u64, entries_record_bytes(&entries));
        let (header, payload) = decode_one(&bytes);
        assert_eq!((header.tag, header.previous), (7, 9));
        assert_eq!(decode_entries(&payload), Some(entries));
    }

    #[test]
    fn a_count_larger_than_the_payload_allocates_nothing() {
        let mut payload = vec![0; 32];
        payload[0] = 1;
        payload[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode_entries(&payload), None);
    }

    #[test]
    fn no_payload_of_any_length_panics() {
        for len in 0..200 {
            for byte in [0, 1, 0xff] {
                let payload = vec![byte; len];
                let _ = (
                    decode_entries(&payload),
                    decode_marker(&payload),
                    decode_hard_state(&payload),
                );
                let _ = decode_opening(&payload);
            }
        }
    }

    #[test]
    fn salts_differ_by_every_ingredient() {
        let id = |cluster_id, member_id| Identity {
            cluster_id,
            member_id,
        };
        let base = salt(id(1, 2), 3, 4);
        for other in [
            salt(id(2, 2), 3, 4),
            salt(id(1, 1), 3, 4),
            salt(id(1, 2), 4, 4),
            salt(id(1, 2), 3, 5),
        ] {
            assert_ne!(base, other);
            assert_ne!(tag(base), tag(other));
        }
    }
}
