//! The bytes of a segment file: header, records, footer. `docs/formats/segments.md` draws them.
//!
//! Pure functions between bytes and values. Nothing here reads a file, and no input can make it panic or allocate more
//! than the input is long.

use bytes::Bytes;
use prost::Message;

use super::{RecordMeta, Revision};

/// Bytes of the segment header.
pub(super) const HEADER_BYTES: u64 = 32;
/// Bytes of a record before its payload.
pub(super) const RECORD_HEADER_BYTES: usize = 20;
/// Bytes of the footer before its entries.
pub(super) const FOOTER_HEADER_BYTES: usize = 24;
/// The format version this program writes, and the newest it reads.
pub(super) const VERSION: u32 = 1;
/// The largest payload of a record. etcd's requests are limited to 1.5 MiB by default and to far less than this by gRPC.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1 << 30;

const HEADER_MAGIC: [u8; 8] = *b"QRTSEGMT";
const FOOTER_MAGIC: [u8; 8] = *b"QRTSEGFT";
const TOMBSTONE: u32 = 1 << 31;
/// The largest `sub` of a revision: the top bit of its field is the tombstone mark.
pub(super) const SUB_MAX: i64 = (TOMBSTONE - 1) as i64;

const FLAG_TOMBSTONE: u8 = 1;
const FLAG_SUB: u8 = 2;
const FLAG_LEASE: u8 = 4;
/// The key was created by this very record: `create_revision` equals the revision and `version` is 1.
const FLAG_FIRST: u8 = 8;
const FLAGS_ALL: u8 = 15;

/// Which file this is. A rewrite keeps the sequence and counts the generation up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentId {
    pub sequence: u64,
    pub generation: u32,
}

impl SegmentId {
    /// The file name, whose order by bytes is the order of sequences.
    pub(super) fn file_name(self) -> String {
        format!("seg-{:016x}-{:08x}.seg", self.sequence, self.generation)
    }

    /// The id a file name stands for; `None` if it is not a segment's.
    pub(super) fn parse(name: &str) -> Option<SegmentId> {
        let (sequence, generation) = name
            .strip_prefix("seg-")?
            .strip_suffix(".seg")?
            .split_once('-')?;
        let id = SegmentId {
            sequence: u64::from_str_radix(sequence, 16).ok()?,
            generation: u32::from_str_radix(generation, 16).ok()?,
        };
        (id.file_name() == name).then_some(id)
    }
}

/// The header of a segment. Its checksum seeds that of every record and of the footer, so bytes of another segment, of
/// another generation or of another member's file with the same name never pass for this one's.
pub(super) fn encode_header(id: SegmentId, salt: u32) -> ([u8; HEADER_BYTES as usize], u32) {
    let mut header = [0; HEADER_BYTES as usize];
    header[..8].copy_from_slice(&HEADER_MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&salt.to_le_bytes());
    header[16..24].copy_from_slice(&id.sequence.to_le_bytes());
    header[24..28].copy_from_slice(&id.generation.to_le_bytes());
    let seed = crc32c::crc32c(&header[..28]);
    header[28..].copy_from_slice(&seed.to_le_bytes());
    (header, seed)
}

/// What is wrong with a header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// A newer program wrote it.
    Version(u32),
    /// Not a header, or a damaged one.
    Damaged(&'static str),
    /// A sound header of another segment.
    Other(SegmentId),
}

/// Checks a header and returns the seed of the checksums that follow it.
pub(super) fn decode_header(bytes: &[u8], expected: SegmentId) -> Result<u32, HeaderError> {
    if bytes.len() < HEADER_BYTES as usize {
        return Err(HeaderError::Damaged("the file is shorter than a header"));
    }
    if bytes[..8] != HEADER_MAGIC {
        return Err(HeaderError::Damaged("it does not begin as a segment does"));
    }
    let seed = crc32c::crc32c(&bytes[..28]);
    if u32_at(bytes, 28) != seed {
        return Err(HeaderError::Damaged("header checksum mismatch"));
    }
    let version = u32_at(bytes, 8);
    if version != VERSION {
        return Err(HeaderError::Version(version));
    }
    let id = SegmentId {
        sequence: u64_at(bytes, 16),
        generation: u32_at(bytes, 24),
    };
    if id == expected {
        Ok(seed)
    } else {
        Err(HeaderError::Other(id))
    }
}

/// Appends one record, whose first byte will lie at `offset` of the file.
pub(super) fn encode_record(
    out: &mut Vec<u8>,
    seed: u32,
    offset: u64,
    revision: Revision,
    tombstone: bool,
    payload: &[u8],
) {
    debug_assert!(
        payload.len() <= PAYLOAD_BYTES_MAX
            && (0..=SUB_MAX).contains(&revision.sub)
            && revision.main >= 0
    );
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&(revision.main as u64).to_le_bytes());
    out.extend_from_slice(&pack_sub(revision.sub, tombstone).to_le_bytes());
    out.extend_from_slice(payload);
    let crc = record_crc(seed, offset, &out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

/// A record found in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHead {
    pub revision: Revision,
    pub tombstone: bool,
    pub payload_bytes: usize,
}

impl RecordHead {
    /// Bytes of the whole record.
    pub(super) fn record_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.payload_bytes
    }
}

/// Checks the record that begins `bytes` and lies at `offset` of the file. The error says what is wrong with it.
pub(super) fn decode_record(
    bytes: &[u8],
    seed: u32,
    offset: u64,
) -> Result<RecordHead, &'static str> {
    if bytes.len() < RECORD_HEADER_BYTES {
        return Err("a record header is cut short");
    }
    let payload_bytes = u32_at(bytes, 4) as usize;
    if payload_bytes > PAYLOAD_BYTES_MAX || bytes.len() - RECORD_HEADER_BYTES < payload_bytes {
        return Err("a record claims more bytes than there are");
    }
    if record_crc(seed, offset, &bytes[4..RECORD_HEADER_BYTES + payload_bytes]) != u32_at(bytes, 0)
        && !crate::planted!(DamageIsServed)
    {
        return Err("checksum mismatch");
    }
    let (sub, tombstone) = unpack_sub(u32_at(bytes, 16));
    let main = i64::try_from(u64_at(bytes, 8)).map_err(|_| "a revision is out of range")?;
    Ok(RecordHead {
        revision: Revision { main, sub },
        tombstone,
        payload_bytes,
    })
}

/// Where a record of these bytes says it ends, without believing its checksum. For [`super::verify()`], to go on behind damage.
pub(super) fn peek_record_bytes(bytes: &[u8]) -> Option<usize> {
    let payload = (bytes.len() >= RECORD_HEADER_BYTES).then(|| u32_at(bytes, 4) as usize)?;
    (payload <= bytes.len() - RECORD_HEADER_BYTES).then_some(RECORD_HEADER_BYTES + payload)
}

/// `sub` and the tombstone mark in one word.
pub(super) fn pack_sub(sub: i64, tombstone: bool) -> u32 {
    sub as u32 | if tombstone { TOMBSTONE } else { 0 }
}

/// The reverse of [`pack_sub`].
pub(super) fn unpack_sub(word: u32) -> (i64, bool) {
    (i64::from(word & !TOMBSTONE), word & TOMBSTONE != 0)
}

fn record_crc(seed: u32, offset: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &offset.to_le_bytes()), bytes)
}

/// The fields of `mvccpb.KeyValue` that the index needs, in etcd's field numbers; the value is skipped, not copied.
#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyMeta {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(int64, tag = "2")]
    pub create_revision: i64,
    #[prost(int64, tag = "4")]
    pub version: i64,
    #[prost(int64, tag = "6")]
    pub lease: i64,
}

impl KeyMeta {
    /// The record's description with the key borrowed from here.
    pub(super) fn as_meta(&self, revision: Revision, tombstone: bool) -> RecordMeta<'_> {
        RecordMeta {
            revision,
            tombstone,
            key: &self.key,
            create_revision: self.create_revision,
            version: self.version,
            lease: self.lease,
        }
    }
}

/// Writes the entries of a footer, one per record in order.
pub(super) struct FooterWriter {
    body: Vec<u8>,
    key: Vec<u8>,
    main: i64,
    records: u32,
}

impl FooterWriter {
    pub(super) fn new() -> FooterWriter {
        FooterWriter {
            body: vec![0; FOOTER_HEADER_BYTES],
            key: Vec::new(),
            main: 0,
            records: 0,
        }
    }

    /// Adds the next record: flags, revision as a difference, payload size, the key without what it shares with the one
    /// before, and what the index wants to know of the value.
    pub(super) fn push(&mut self, meta: &RecordMeta, payload_bytes: usize) {
        let Revision { main, sub } = meta.revision;
        let first = meta.create_revision == main && meta.version == 1;
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        self.body.push(
            flag(meta.tombstone, FLAG_TOMBSTONE)
                | flag(sub != 0, FLAG_SUB)
                | flag(meta.lease != 0, FLAG_LEASE)
                | flag(first, FLAG_FIRST),
        );
        put_varint(&mut self.body, main.wrapping_sub(self.main) as u64);
        if sub != 0 {
            put_varint(&mut self.body, sub as u64);
        }
        put_varint(&mut self.body, payload_bytes as u64);
        let shared = self
            .key
            .iter()
            .zip(meta.key)
            .take_while(|(a, b)| a == b)
            .count();
        put_varint(&mut self.body, shared as u64);
        put_varint(&mut self.body, (meta.key.len() - shared) as u64);
        self.body.extend_from_slice(&meta.key[shared..]);
        if !first {
            put_varint(&mut self.body, meta.create_revision as u64);
            put_varint(&mut self.body, meta.version as u64);
        }
        if meta.lease != 0 {
            put_varint(&mut self.body, meta.lease as u64);
        }
        self.key.truncate(shared);
        self.key.extend_from_slice(&meta.key[shared..]);
        self.main = main;
        self.records += 1;
    }

    /// The finished footer.
    pub(super) fn finish(mut self, seed: u32) -> Vec<u8> {
        let length = (self.body.len() - FOOTER_HEADER_BYTES) as u64;
        self.body[..8].copy_from_slice(&FOOTER_MAGIC);
        self.body[8..12].copy_from_slice(&self.records.to_le_bytes());
        self.body[16..24].copy_from_slice(&length.to_le_bytes());
        let crc = footer_crc(seed, &self.body);
        self.body[12..16].copy_from_slice(&crc.to_le_bytes());
        self.body
    }
}

/// Bytes of the footer that begins here, by its header alone (not yet checked); `None` if this is no footer header.
pub(super) fn footer_bytes(header: &[u8]) -> Option<u64> {
    (header.len() >= FOOTER_HEADER_BYTES && header[..8] == FOOTER_MAGIC)
        .then(|| u64_at(header, 16).saturating_add(FOOTER_HEADER_BYTES as u64))
}

/// Checks a footer and hands out its entries with their payload sizes. The error says what is wrong; entries handed out
/// before it came after a matching checksum, so only a defect of the writer can stop half way.
pub(super) fn decode_footer(
    bytes: &[u8],
    seed: u32,
    mut each: impl FnMut(&RecordMeta, usize),
) -> Result<u32, &'static str> {
    if footer_bytes(bytes) != Some(bytes.len() as u64) {
        return Err("there is no whole footer where one must be");
    }
    if footer_crc(seed, bytes) != u32_at(bytes, 12) {
        return Err("footer checksum mismatch");
    }
    let records = u32_at(bytes, 8);
    let mut at = Cursor {
        bytes,
        at: FOOTER_HEADER_BYTES,
    };
    let mut key = Vec::new();
    let mut main = 0i64;
    for _ in 0..records {
        let flags = at.byte()?;
        if flags & !FLAGS_ALL != 0 {
            return Err("a footer entry has unknown flags");
        }
        main = main.wrapping_add(at.varint()? as i64);
        let sub = if flags & FLAG_SUB != 0 {
            at.varint()? as i64
        } else {
            0
        };
        let payload_bytes = at.varint()?;
        let shared = at.varint()?;
        if shared > key.len() as u64
            || payload_bytes > PAYLOAD_BYTES_MAX as u64
            || !(0..=SUB_MAX).contains(&sub)
            || main < 0
        {
            return Err("a footer entry is out of range");
        }
        let suffix = at.varint()?;
        key.truncate(shared as usize);
        key.extend_from_slice(at.take(suffix)?);
        let (create_revision, version) = if flags & FLAG_FIRST != 0 {
            (main, 1)
        } else {
            (at.varint()? as i64, at.varint()? as i64)
        };
        let lease = if flags & FLAG_LEASE != 0 {
            at.varint()? as i64
        } else {
            0
        };
        let tombstone = flags & FLAG_TOMBSTONE != 0;
        each(
            &RecordMeta {
                revision: Revision { main, sub },
                tombstone,
                key: &key,
                create_revision,
                version,
                lease,
            },
            payload_bytes as usize,
        );
    }
    if at.at == bytes.len() {
        Ok(records)
    } else {
        Err("the footer has bytes behind its last entry")
    }
}

fn footer_crc(seed: u32, footer: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &footer[..12]), &footer[16..])
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn byte(&mut self) -> Result<u8, &'static str> {
        let byte = *self
            .bytes
            .get(self.at)
            .ok_or("a footer entry is cut short")?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a footer entry has an endless number")
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], &'static str> {
        let rest = &self.bytes[self.at..];
        if count > rest.len() as u64 {
            return Err("a footer entry is cut short");
        }
        self.at += count as usize;
        Ok(&rest[..count as usize])
    }
}

/// The caller has checked that the bytes are there.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

/// The caller has checked that the bytes are there.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(
        bytes[at..at + 8]
            .try_into()
            .expect("a slice of eight bytes"),
    )
}
