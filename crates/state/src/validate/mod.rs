//! What the edge refuses before a request is proposed: pure functions on decoded requests, with etcd's errors in etcd's
//! order.
//!
//! A request that passes may still be refused when it is applied, and an entry in the log may never have passed here (an older
//! etcd may lead). Applying therefore relies on none of this.
//! Source of the rules: upstream `server/etcdserver/api/v3rpc/key.go`, `server/etcdserver/v3_server.go`.

use std::collections::BTreeSet;

use proto::error::{self, RpcError};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;

use crate::mvcc::read::{Keys, has_filters};
use crate::mvcc::tree::End;

/// Operations that one transaction may have by default.
pub const TXN_OPS_MAX: usize = 128;

type Checked = Result<(), &'static RpcError>;

/// A range needs a key, and an order that exists.
///
/// # Errors
/// EmptyKey, InvalidSortOption.
pub fn range(request: &pb::RangeRequest) -> Checked {
    if request.key.is_empty() {
        return Err(&error::EMPTY_KEY);
    }
    if SortOrder::try_from(request.sort_order).is_err()
        || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(&error::INVALID_SORT_OPTION);
    }
    Ok(())
}

/// A streamed range comes in key order and has no filters.
///
/// # Errors
/// As [`range`], and two that say what streaming does not support.
pub fn range_stream(request: &pb::RangeRequest) -> Checked {
    range(request)?;
    let default_order = request.sort_order == SortOrder::None as i32
        || (request.sort_target == SortTarget::Key as i32
            && request.sort_order == SortOrder::Ascend as i32);
    if !default_order {
        return Err(&error::RANGE_STREAM_SORT);
    }
    if has_filters(request) {
        return Err(&error::RANGE_STREAM_FILTER);
    }
    Ok(())
}

/// A put needs a key, and may not give what it asks to be ignored.
///
/// # Errors
/// EmptyKey, ValueProvided, LeaseProvided.
pub fn put(request: &pb::PutRequest) -> Checked {
    if request.key.is_empty() {
        return Err(&error::EMPTY_KEY);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(&error::VALUE_PROVIDED);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(&error::LEASE_PROVIDED);
    }
    Ok(())
}

/// A deletion needs a key.
///
/// # Errors
/// EmptyKey.
pub fn delete_range(request: &pb::DeleteRangeRequest) -> Checked {
    if request.key.is_empty() {
        Err(&error::EMPTY_KEY)
    } else {
        Ok(())
    }
}

/// A transaction has a limited number of operations, all of them valid, and no two in one branch that change the same key, unless
/// both delete.
///
/// `ops_max` is the server's setting; nested transactions share what the outer ones leave of it.
///
/// # Errors
/// TooManyOps, EmptyKey, KeyNotFound (for an empty operation), DuplicateKey, and those of the operations.
pub fn txn(request: &pb::TxnRequest, ops_max: usize) -> Checked {
    txn_ops(request, ops_max)?;
    changes(&request.success)?;
    changes(&request.failure)?;
    Ok(())
}

/// Whether a transaction can be answered from a view: all its operations, in both branches, are ranges. A nested
/// transaction counts as writing.
#[must_use]
pub fn is_read_only(request: &pb::TxnRequest) -> bool {
    let mut ops = request.success.iter().chain(&request.failure);
    ops.all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether a transaction may be answered from a view that is behind: all its operations are serializable ranges. One without
/// any operation counts as such, in etcd too.
#[must_use]
pub fn is_serializable(request: &pb::TxnRequest) -> bool {
    let mut ops = request.success.iter().chain(&request.failure);
    ops.all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

/// An alarm request needs an action that exists; etcd up to 3.5 stops for good at one that does not.
///
/// # Errors
/// UnknownMethod.
pub fn alarm(request: &pb::AlarmRequest) -> Checked {
    match pb::alarm_request::AlarmAction::try_from(request.action) {
        Ok(_) => Ok(()),
        Err(_) => Err(&error::UNKNOWN_METHOD),
    }
}

fn txn_ops(request: &pb::TxnRequest, ops_max: usize) -> Checked {
    let count = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    if count > ops_max {
        return Err(&error::TOO_MANY_OPS);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(&error::EMPTY_KEY);
    }
    let mut ops = request.success.iter().chain(&request.failure);
    ops.try_for_each(|op| match &op.request {
        Some(Request::RequestRange(request)) => range(request),
        Some(Request::RequestPut(request)) => put(request),
        Some(Request::RequestDeleteRange(request)) => delete_range(request),
        Some(Request::RequestTxn(request)) => txn_ops(request, ops_max - count),
        None => Err(&error::KEY_NOT_FOUND),
    })
}

/// What the operations of a branch change.
#[derive(Default)]
struct Changes<'a> {
    puts: BTreeSet<&'a [u8]>,
    /// Start and end, as asked for; an empty end stands for a single key.
    deletions: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Changes<'a> {
    fn deletes(&self, key: &[u8]) -> bool {
        let covers = |&(from, end): &(&[u8], &[u8])| match end {
            [] => from == key,
            end => from <= key && key < end,
        };
        self.deletions.iter().any(covers)
    }

    /// Adds a put that nothing else of the branch may touch.
    fn put(&mut self, key: &'a [u8]) -> Checked {
        if self.deletes(key) || !self.puts.insert(key) {
            return Err(&error::DUPLICATE_KEY);
        }
        Ok(())
    }
}

/// Collects what a branch changes and refuses two changes of one key: first this level's deletions, then the nested branches,
/// then this level's puts.
///
/// A deletion up to `\0`, which means "without end", is compared as a string like any other, so that it covers nothing. That
/// is etcd's mistake (it lets through what then stops an etcd for good), and clients rely on it when they
/// delete everything and put something in one transaction. Here nothing depends on this check: applying refuses what
/// can't be done, whatever came through.
fn changes(ops: &[pb::RequestOp]) -> Result<Changes<'_>, &'static RpcError> {
    let mut all = Changes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            all.deletions.push((&delete.key, &delete.range_end));
        }
    }
    for op in ops {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            nested_changes(&mut all, nested)?;
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request {
            all.put(&put.key)?;
        }
    }
    Ok(all)
}

/// Only one of the two branches will run: they may put the same keys.
fn nested_changes<'a>(all: &mut Changes<'a>, nested: &'a pb::TxnRequest) -> Checked {
    let success = changes(&nested.success)?;
    let failure = changes(&nested.failure)?;
    for key in &success.puts {
        all.put(key)?;
    }
    for key in &failure.puts {
        if all.deletes(key) || (!all.puts.insert(key) && !success.puts.contains(key)) {
            return Err(&error::DUPLICATE_KEY);
        }
    }
    all.deletions.extend(success.deletions);
    all.deletions.extend(failure.deletions);
    Ok(())
}

/// Whether a range is empty by its bounds, whatever keys exist.
#[must_use]
pub fn is_empty_range(key: &[u8], range_end: &[u8]) -> bool {
    matches!(Keys::new(key, range_end), Keys::Range(from, End::Key(end)) if end <= from)
}

#[cfg(test)]
mod tests;
