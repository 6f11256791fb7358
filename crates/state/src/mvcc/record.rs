//! The bytes of one stored version: `mvccpb.KeyValue`, encoded once and shared by the segment, the watchers and the answers.
//!
//! ```text
//!   put        key · create_revision · mod_revision · version · value · lease        (fields 1 to 6, zeros left out)
//!   tombstone  key                                                                    as stored, and as hashed
//!              key · mod_revision                                                     as sent to watchers
//! ```
//!
//! The stored tombstone is the beginning of the one that is sent, so one buffer serves both.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use proto::mvccpb::KeyValue;
use storage::fault::{Fault, FaultKind};
use storage::segments::Revision;

/// What goes into the record of a put.
pub(crate) struct Put<'a> {
    pub key: &'a [u8],
    pub value: &'a [u8],
    pub created: i64,
    pub modified: i64,
    pub version: i64,
    pub lease: i64,
}

/// An encoded record, and where its key lies.
pub(crate) struct Encoded {
    pub kv: Bytes,
    pub key: Bytes,
}

pub(crate) fn encode_put(put: &Put<'_>) -> Encoded {
    let size = bytes_size(put.key)
        + number_size(put.created)
        + number_size(put.modified)
        + number_size(put.version)
        + bytes_size(put.value)
        + number_size(put.lease);
    let mut out = BytesMut::with_capacity(size);
    write_bytes(&mut out, 1, put.key);
    let key_end = out.len();
    write_number(&mut out, 2, put.created);
    write_number(&mut out, 3, put.modified);
    write_number(&mut out, 4, put.version);
    write_bytes(&mut out, 5, put.value);
    write_number(&mut out, 6, put.lease);
    assert_eq!(
        out.len(),
        size,
        "the record has not the size that was reckoned"
    );
    let kv = out.freeze();
    let key = kv.slice(key_end - put.key.len()..key_end);
    Encoded { kv, key }
}

/// A tombstone as stored, and as sent to watchers.
pub(crate) fn encode_tombstone(key: &[u8], modified: i64) -> (Bytes, Encoded) {
    let stored = bytes_size(key);
    let mut out = BytesMut::with_capacity(stored + number_size(modified));
    write_bytes(&mut out, 1, key);
    write_number(&mut out, 3, modified);
    let kv = out.freeze();
    let key = kv.slice(stored - key.len()..stored);
    (kv.slice(..stored), Encoded { kv, key })
}

/// A version without its value and lease, as a range for keys only answers from the index (3.7).
pub(crate) fn encode_key_only(key: &[u8], created: i64, modified: i64, version: i64) -> Bytes {
    encode_put(&Put {
        key,
        value: &[],
        created,
        modified,
        version,
        lease: 0,
    })
    .kv
}

/// Decodes a stored record; its key and value share the record's memory.
pub(crate) fn decode(revision: Revision, kv: Bytes) -> Result<KeyValue, Fault> {
    KeyValue::decode(kv).map_err(|error| {
        Fault::new(
            FaultKind::Corrupted,
            format!(
                "the record of revision {}.{} is not a key-value pair ({error}), though its checksum is right; \
                 the member cannot go on. Remove it from the cluster and add it again, or restore from a snapshot.",
                revision.main, revision.sub
            ),
        )
    })
}

fn bytes_size(bytes: &[u8]) -> usize {
    if bytes.is_empty() {
        0
    } else {
        1 + encoded_len_varint(bytes.len() as u64) + bytes.len()
    }
}

fn number_size(number: i64) -> usize {
    if number == 0 {
        0
    } else {
        1 + encoded_len_varint(number as u64)
    }
}

fn write_bytes(out: &mut BytesMut, field: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.put_u8(field << 3 | 2);
        encode_varint(bytes.len() as u64, out);
        out.put_slice(bytes);
    }
}

fn write_number(out: &mut BytesMut, field: u8, number: i64) {
    if number != 0 {
        out.put_u8(field << 3);
        encode_varint(number as u64, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_protobuf_encoder() {
        for (key, value, lease) in [
            (&b"k"[..], &b"v"[..], 0),
            (b"", b"", -1),
            (&[7; 300], &[0; 70_000], 1 << 40),
            (b"k", b"", 0),
        ] {
            let put = Put {
                key,
                value,
                created: 2,
                modified: 300,
                version: 0,
                lease,
            };
            let message = KeyValue {
                key: Bytes::copy_from_slice(key),
                value: Bytes::copy_from_slice(value),
                create_revision: 2,
                mod_revision: 300,
                version: 0,
                lease,
            };
            let encoded = encode_put(&put);
            assert_eq!(encoded.kv, message.encode_to_vec());
            assert_eq!(encoded.key, key);
        }
    }

    #[test]
    fn a_stored_tombstone_has_the_key_alone_and_a_sent_one_the_revision_too() {
        let (stored, sent) = encode_tombstone(b"key", 9);
        let key = Bytes::from_static(b"key");
        assert_eq!(
            stored,
            KeyValue {
                key: key.clone(),
                ..Default::default()
            }
            .encode_to_vec()
        );
        assert_eq!(
            sent.kv,
            KeyValue {
                key: key.clone(),
                mod_revision: 9,
                ..Default::default()
            }
            .encode_to_vec()
        );
        assert_eq!(sent.key, key);
    }
}
