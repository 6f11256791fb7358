//! etcd's requests as a load sends them, encoded in place; and the few fields of answers a load reads.

use crate::stats::Nanos;
use crate::transport::pb::{self, Fields};

/// Marks values that carry the time of their put, so that events of other clients are not mistaken for ours.
const STAMP: &[u8; 8] = b"qbstamp1";

/// The smallest value that holds a stamp.
pub const STAMP_BYTES: usize = 16;

/// PutRequest.
pub fn put(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    pb::bytes(out, 1, key);
    pb::bytes(out, 2, value);
}

/// PutRequest whose value begins with the time it is sent.
pub fn put_stamped(out: &mut Vec<u8>, key: &[u8], value: &[u8], now: Nanos) {
    put(out, key, value);
    let start = out.len() - value.len();
    out[start..start + 8].copy_from_slice(STAMP);
    out[start + 8..start + 16].copy_from_slice(&now.to_be_bytes());
}

/// RangeRequest. An empty `range_end` means the one key.
pub fn range(out: &mut Vec<u8>, key: &[u8], range_end: &[u8], serializable: bool) {
    pb::bytes(out, 1, key);
    pb::bytes(out, 2, range_end);
    pb::uint(out, 7, u64::from(serializable));
}

/// RangeRequest for keys without their values.
pub fn range_keys_only(out: &mut Vec<u8>, key: &[u8], range_end: &[u8]) {
    range(out, key, range_end, false);
    pb::uint(out, 8, 1);
}

/// RangeRequest for the number of keys.
pub fn range_count(out: &mut Vec<u8>, key: &[u8], range_end: &[u8]) {
    range(out, key, range_end, false);
    pb::uint(out, 9, 1);
}

/// The transaction of a Kubernetes update: put if the key is still at `mod_revision`, else read it.
pub fn txn_update(out: &mut Vec<u8>, key: &[u8], value: &[u8], mod_revision: i64) {
    const TARGET_MOD: u64 = 2;
    pb::message(out, 1, |o| {
        pb::uint(o, 2, TARGET_MOD);
        pb::bytes(o, 3, key);
        // Part of a oneof, so it is written even when it is 0.
        pb::varint(o, 6 << 3);
        pb::varint(o, mod_revision as u64);
    });
    pb::message(out, 2, |o| pb::message(o, 2, |o| put(o, key, value)));
    pb::message(out, 3, |o| pb::message(o, 1, |o| range(o, key, &[], false)));
}

/// CompactionRequest.
pub fn compact(out: &mut Vec<u8>, revision: i64, physical: bool) {
    pb::uint(out, 1, revision as u64);
    pb::uint(out, 2, u64::from(physical));
}

/// LeaseGrantRequest with an id of the server's choice.
pub fn lease_grant(out: &mut Vec<u8>, ttl_s: i64) {
    pb::uint(out, 1, ttl_s as u64);
}

/// LeaseKeepAliveRequest.
pub fn lease_keep_alive(out: &mut Vec<u8>, id: i64) {
    pb::uint(out, 1, id as u64);
}

/// WatchRequest that creates a watcher.
pub fn watch_create(out: &mut Vec<u8>, key: &[u8], range_end: &[u8]) {
    pb::message(out, 1, |o| {
        pb::bytes(o, 1, key);
        pb::bytes(o, 2, range_end);
    });
}

/// AuthenticateRequest.
pub fn authenticate(out: &mut Vec<u8>, name: &str, password: &str) {
    pb::bytes(out, 1, name.as_bytes());
    pb::bytes(out, 2, password.as_bytes());
}

/// MemberAddRequest for a voter.
pub fn member_add(out: &mut Vec<u8>, peer_url: &str) {
    pb::bytes(out, 1, peer_url.as_bytes());
}

/// MemberRemoveRequest.
pub fn member_remove(out: &mut Vec<u8>, id: u64) {
    pb::uint(out, 1, id);
}

/// The member that answered, from an answer's header.
pub fn header_member(response: &[u8]) -> u64 {
    let header = Fields::last(response, 1).map_or(&[][..], |v| v.bytes());
    Fields::last(header, 2).map_or(0, |v| v.int() as u64)
}

/// The leader in a StatusResponse; 0 if the member knows none.
pub fn status_leader(response: &[u8]) -> u64 {
    Fields::last(response, 4).map_or(0, |v| v.int() as u64)
}

/// The revision in an answer's header; field 1 of every response.
pub fn header_revision(response: &[u8]) -> i64 {
    let header = Fields::last(response, 1).map_or(&[][..], |v| v.bytes());
    Fields::last(header, 3).map_or(0, |v| v.int())
}

/// Whether the comparison of a transaction held.
pub fn txn_succeeded(response: &[u8]) -> bool {
    Fields::last(response, 2).is_some_and(|v| v.int() != 0)
}

/// The key's mod_revision after a [`txn_update`]: the header's if it put, the key's own if it read, 0 if there is no key.
pub fn txn_mod_revision(response: &[u8]) -> i64 {
    if txn_succeeded(response) {
        return header_revision(response);
    }
    let op = Fields::last(response, 3).map_or(&[][..], |v| v.bytes());
    let range = Fields::last(op, 1).map_or(&[][..], |v| v.bytes());
    let kv = Fields::last(range, 2).map_or(&[][..], |v| v.bytes());
    Fields::last(kv, 3).map_or(0, |v| v.int())
}

/// The number of keys in the range, whether or not they are in the RangeResponse.
pub fn range_total(response: &[u8]) -> i64 {
    Fields::last(response, 4).map_or(0, |v| v.int())
}

/// The number of keys in a RangeResponse.
pub fn range_kvs(response: &[u8]) -> usize {
    Fields(response).filter(|(f, _)| *f == 2).count()
}

/// Calls `each` with key and mod_revision of every key of a RangeResponse.
pub fn range_mod_revisions(response: &[u8], mut each: impl FnMut(&[u8], i64)) {
    for (_, kv) in Fields(response).filter(|(f, _)| *f == 2) {
        let key = Fields::last(kv.bytes(), 1).map_or(&[][..], |v| v.bytes());
        each(key, Fields::last(kv.bytes(), 3).map_or(0, |v| v.int()));
    }
}

/// The id in a LeaseGrantResponse or LeaseKeepAliveResponse.
pub fn lease_id(response: &[u8]) -> i64 {
    Fields::last(response, 2).map_or(0, |v| v.int())
}

/// The remaining TTL in a LeaseKeepAliveResponse: 0 means that the lease is gone.
pub fn lease_ttl(response: &[u8]) -> i64 {
    Fields::last(response, 3).map_or(0, |v| v.int())
}

/// What a WatchResponse says, apart from its events.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct WatchNote {
    /// The watcher exists now.
    pub created: bool,
    /// The watcher was cancelled.
    pub canceled: bool,
}

/// Reads a WatchResponse and calls `each` with the stamp of every event's value: `None` if the event is not of a stamped put.
pub fn watch_response(response: &[u8], mut each: impl FnMut(Option<Nanos>)) -> WatchNote {
    let mut note = WatchNote::default();
    for (field, value) in Fields(response) {
        match field {
            3 => note.created = value.int() != 0,
            4 => note.canceled = value.int() != 0,
            11 => {
                let kv = Fields::last(value.bytes(), 2).map_or(&[][..], |v| v.bytes());
                let value = Fields::last(kv, 5).map_or(&[][..], |v| v.bytes());
                let stamp = value.strip_prefix(STAMP).and_then(|v| v.first_chunk());
                each(stamp.map(|s| u64::from_be_bytes(*s)));
            }
            _ => {}
        }
    }
    note
}

/// The token in an AuthenticateResponse.
pub fn auth_token(response: &[u8]) -> String {
    String::from_utf8_lossy(Fields::last(response, 2).map_or(&[][..], |v| v.bytes())).into_owned()
}
