//! Ranges over the key space at one revision.
//!
//! The index alone decides which versions a range returns: filters, order and limit look at revisions and versions, which it has.
//! Only then are values read, and only those that are returned; sorting by value is the exception.
//! Source of the rules: upstream `server/etcdserver/txn/range.go`, `server/storage/mvcc/kvstore_txn.go`.

use std::ops::ControlFlow;

use bytes::Bytes;
use prost::Message;
use proto::error;
use proto::etcdserverpb::RangeRequest;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::mvccpb::KeyValue;
use storage::fault::{Fault, FaultKind};
use storage::segments::{Revision, SegmentsView};

use super::history::{History, Stamp};
use super::past::Queue;
use super::record;
use super::tree::{End, Tree};
use crate::outcome::{ReadError, reject};

/// What a range found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeResult {
    /// The store's revision when the range ran, not the one it asked for: what the header shows.
    pub revision: i64,
    /// Each an encoded `mvccpb.KeyValue`.
    pub kvs: Vec<Bytes>,
    /// The limit cut something off.
    pub more: bool,
    /// Keys in the range, whatever limit and filters say.
    pub count: i64,
}

/// Which keys: one, or from here to there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys<'a> {
    One(&'a [u8]),
    Range(&'a [u8], End<'a>),
}

impl<'a> Keys<'a> {
    /// etcd's convention: no end is one key, the end `\0` is no end.
    pub(crate) fn new(key: &'a [u8], range_end: &'a [u8]) -> Keys<'a> {
        match range_end {
            [] => Keys::One(key),
            [0] => Keys::Range(key, End::Unbounded),
            end => Keys::Range(key, End::Key(end)),
        }
    }

    pub(crate) fn contain(&self, key: &[u8]) -> bool {
        match *self {
            Keys::One(one) => one == key,
            Keys::Range(from, End::Key(end)) => from <= key && key < end,
            Keys::Range(from, End::Unbounded) => from <= key,
        }
    }
}

/// The key space as a read sees it. The index must hold nothing newer than `revision`.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub index: &'a Tree<History>,
    pub past: &'a Queue,
    pub segments: &'a SegmentsView,
    /// Newest revision that exists.
    pub revision: i64,
    /// Reads below this one are refused; -1 before the first compaction.
    pub compacted: i64,
}

/// A version chosen by a range. The key is kept only where it will be wanted.
struct Pick {
    stamp: Stamp,
    key: Vec<u8>,
}

impl Reader<'_> {
    /// Answers a range request. The sort target must be one that exists.
    pub(crate) fn range(&self, request: &RangeRequest) -> Result<RangeResult, ReadError> {
        let at = self.revision_for(request.revision)?;
        let Ok(target) = SortTarget::try_from(request.sort_target) else {
            return reject(&error::INVALID_SORT_OPTION);
        };
        let keys = Keys::new(&request.key, &request.range_end);
        if request.count_only {
            let count = self.count(keys, at);
            return Ok(RangeResult {
                revision: self.revision,
                kvs: Vec::new(),
                more: false,
                count,
            });
        }
        let mut picks = self.pick(keys, at, request);
        if target == SortTarget::Value {
            return self.range_by_value(&picks, keys, at, request);
        }
        sort(&mut picks, target, request.sort_order);
        let more = cut(&mut picks, request.limit);
        let count = if more || has_filters(request) {
            self.count(keys, at)
        } else {
            picks.len() as i64
        };
        let kvs = if request.keys_only {
            from_index(&picks)
        } else {
            self.records(&picks)?
        };
        Ok(RangeResult {
            revision: self.revision,
            kvs,
            more,
            count,
        })
    }

    /// The version of `key` at `at`, encoded; `at` must be readable.
    pub(crate) fn get(&self, key: &[u8], at: i64) -> Result<Option<Bytes>, Fault> {
        match self
            .index
            .get(key)
            .and_then(|history| history.live_at(self.past, at))
        {
            Some(stamp) => self.record(stamp.revision()).map(Some),
            None => Ok(None),
        }
    }

    /// Number of keys at `at`: O(log n) for the current revision, a walk for an older one.
    pub(crate) fn count(&self, keys: Keys<'_>, at: i64) -> i64 {
        match keys {
            Keys::One(key) => i64::from(
                self.index
                    .get(key)
                    .is_some_and(|history| history.live_at(self.past, at).is_some()),
            ),
            Keys::Range(from, end) if at >= self.revision => {
                self.index.weight_range(from, end) as i64
            }
            Keys::Range(from, end) => {
                let mut cursor = self.index.range(from, end);
                let mut count = 0;
                while let Some(history) = cursor.next_value() {
                    count += i64::from(history.live_at(self.past, at).is_some());
                }
                count
            }
        }
    }

    /// Calls `visit` with each key and its version at `at`, in key order, until it answers `false`.
    pub(crate) fn walk(
        &self,
        keys: Keys<'_>,
        at: i64,
        mut visit: impl FnMut(&[u8], &Stamp) -> bool,
    ) {
        match keys {
            Keys::One(key) => {
                if let Some(stamp) = self
                    .index
                    .get(key)
                    .and_then(|history| history.live_at(self.past, at))
                {
                    visit(key, stamp);
                }
            }
            Keys::Range(from, end) => {
                let mut cursor = self.index.range(from, end);
                while let Some(history) = cursor.next_value() {
                    if let Some(stamp) = history.live_at(self.past, at)
                        && !visit(cursor.key(), stamp)
                    {
                        return;
                    }
                }
            }
        }
    }

    /// The stored bytes of a version that the index names.
    pub(crate) fn record(&self, revision: Revision) -> Result<Bytes, Fault> {
        match self.segments.read(revision)? {
            Some(record) => Ok(record.kv),
            None => Err(missing_record(revision)),
        }
    }

    /// A version, decoded.
    pub(crate) fn key_value(&self, stamp: &Stamp) -> Result<KeyValue, Fault> {
        record::decode(stamp.revision(), self.record(stamp.revision())?)
    }

    /// Which revision a request for `revision` reads: 0 and below is the newest.
    pub(crate) fn revision_for(&self, revision: i64) -> Result<i64, ReadError> {
        match revision {
            revision if revision > self.revision => reject(&error::FUTURE_REV),
            revision if revision <= 0 => Ok(self.revision),
            revision
                if revision < self.compacted && !storage::planted!(CompactedRevisionIsRead) =>
            {
                reject(&error::COMPACTED)
            }
            revision => Ok(revision),
        }
    }

    /// The versions that pass the filters, in key order; one more than the limit where the limit comes before the order.
    ///
    /// That is so without an order, even with a target that will then be sorted by: etcd sorts the first few keys only.
    fn pick(&self, keys: Keys<'_>, at: i64, request: &RangeRequest) -> Vec<Pick> {
        let by_key = is_key_order(request);
        let limit_first =
            by_key || (request.sort_order == SortOrder::None as i32 && !has_filters(request));
        let most = match usize::try_from(request.limit) {
            Ok(limit) if limit > 0 && limit_first => limit.saturating_add(1),
            _ => usize::MAX,
        };
        let wants_key = request.keys_only;
        let mut picks = Vec::new();
        self.walk(keys, at, |key, stamp| {
            if passes(stamp, request) {
                let key = if wants_key { key.to_vec() } else { Vec::new() };
                picks.push(Pick { stamp: *stamp, key });
            }
            picks.len() < most
        });
        picks
    }

    /// Sorting by value has to read them all.
    fn range_by_value(
        &self,
        picks: &[Pick],
        keys: Keys<'_>,
        at: i64,
        request: &RangeRequest,
    ) -> Result<RangeResult, ReadError> {
        let mut kvs = picks
            .iter()
            .map(|pick| self.key_value(&pick.stamp))
            .collect::<Result<Vec<_>, _>>()?;
        match SortOrder::try_from(request.sort_order) {
            Ok(SortOrder::Descend) => kvs.sort_by(|a, b| b.value.cmp(&a.value)),
            Ok(_) => kvs.sort_by(|a, b| a.value.cmp(&b.value)),
            Err(_) => {}
        }
        let more = cut(&mut kvs, request.limit);
        let encode = |mut kv: KeyValue| {
            if request.keys_only {
                kv.value = Bytes::new();
            }
            Bytes::from(kv.encode_to_vec())
        };
        let kvs = kvs.into_iter().map(encode).collect();
        Ok(RangeResult {
            revision: self.revision,
            kvs,
            more,
            count: self.count(keys, at),
        })
    }

    /// The stored bytes of all picked versions; neighbours on disk come with one read.
    fn records(&self, picks: &[Pick]) -> Result<Vec<Bytes>, Fault> {
        let revisions: Vec<Revision> = picks.iter().map(|pick| pick.stamp.revision()).collect();
        let mut kvs = Vec::with_capacity(picks.len());
        let mut missing = None;
        self.segments
            .read_many(&revisions, |at, record| match record {
                Some(record) => {
                    kvs.push(record.kv);
                    ControlFlow::Continue(())
                }
                None => {
                    missing = Some(revisions[at]);
                    ControlFlow::Break(())
                }
            })?;
        match missing {
            Some(revision) => Err(missing_record(revision)),
            None => Ok(kvs),
        }
    }
}

/// Keys alone need no values. The lease is left out with them (3.7).
fn from_index(picks: &[Pick]) -> Vec<Bytes> {
    let encode = |Pick { stamp, key }: &Pick| {
        record::encode_key_only(key, stamp.created, stamp.main(), stamp.version)
    };
    picks.iter().map(encode).collect()
}

fn missing_record(revision: Revision) -> Fault {
    let Revision { main, sub } = revision;
    Fault::new(
        FaultKind::Gap,
        format!(
            "revision {main}.{sub} is in the key index, but no segment holds it; the member cannot go on. \
             Remove it from the cluster and add it again, or restore from a snapshot."
        ),
    )
}

/// Whether the answer comes in the order of keys, ascending. A target other than the key counts as ascending even where no
/// order is asked for.
fn is_key_order(request: &RangeRequest) -> bool {
    let by_key = request.sort_target == SortTarget::Key as i32;
    by_key
        && (request.sort_order == SortOrder::None as i32
            || request.sort_order == SortOrder::Ascend as i32)
}

/// Whether any of the four revision filters is set.
pub(crate) fn has_filters(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

/// The filters include their bounds; a bound of 0 is none.
fn passes(stamp: &Stamp, request: &RangeRequest) -> bool {
    let (modified, created) = (stamp.main(), stamp.created);
    (request.max_mod_revision == 0 || modified <= request.max_mod_revision)
        && (request.min_mod_revision == 0 || modified >= request.min_mod_revision)
        && (request.max_create_revision == 0 || created <= request.max_create_revision)
        && (request.min_create_revision == 0 || created >= request.min_create_revision)
}

/// An order that does not exist sorts nothing, as in etcd before 3.6, which let it through.
fn sort(picks: &mut [Pick], target: SortTarget, order: i32) {
    let Ok(order) = SortOrder::try_from(order) else {
        return;
    };
    let field = |pick: &Pick| match target {
        SortTarget::Version => pick.stamp.version,
        SortTarget::Create => pick.stamp.created,
        SortTarget::Mod => pick.stamp.main(),
        // Keys are in order already, and values are sorted elsewhere.
        SortTarget::Key | SortTarget::Value => 0,
    };
    match (target, order) {
        (SortTarget::Key, SortOrder::Descend) => picks.reverse(),
        (SortTarget::Key, _) => {}
        (_, SortOrder::Descend) => picks.sort_by_key(|pick| std::cmp::Reverse(field(pick))),
        (_, SortOrder::None | SortOrder::Ascend) => picks.sort_by_key(field),
    }
}

/// Cuts to the limit; true if something was cut off.
fn cut<T>(found: &mut Vec<T>, limit: i64) -> bool {
    match usize::try_from(limit) {
        Ok(limit) if limit > 0 && found.len() > limit => {
            found.truncate(limit);
            true
        }
        _ => false,
    }
}
