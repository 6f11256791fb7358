//! Transactions: which branch is taken, whether all of it can be done, and doing it.
//!
//! 1. *Decide.* Every branch, nested ones included, is chosen against the state before the transaction.
//! 2. *Check.* Everything that could be refused is looked at before anything is changed. The check follows the order of
//!    execution, because an earlier operation may take away what a later one needs.
//! 3. *Execute.* Nothing can fail any more, except the disk.
//!
//! Source of the rules: upstream `server/etcdserver/txn/txn.go`.

use std::cmp::Ordering;

use bytes::Bytes;
use prost::Message;
use proto::error;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::SortTarget;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb::KeyValue;
use storage::fault::{Fault, FaultKind};
use storage::planted;

use super::read::{Keys, RangeResult, Reader};
use super::record;
use super::tree::KEY_SIZE_MAX;
use super::write::Writer;
use crate::lease;
use crate::outcome::{ReadError, header, reject};

/// The way through a transaction.
pub(crate) struct Plan<'a> {
    succeeded: bool,
    ops: &'a [pb::RequestOp],
    /// Plans of the nested transactions among `ops`, in order.
    nested: Vec<Plan<'a>>,
}

/// Decides all branches.
pub(crate) fn decide<'a>(reader: &Reader<'_>, txn: &'a pb::TxnRequest) -> Result<Plan<'a>, Fault> {
    let mut succeeded = true;
    for compare in &txn.compare {
        if !holds(reader, compare)? {
            succeeded = false;
            break;
        }
    }
    let ops = if succeeded {
        &txn.success
    } else {
        &txn.failure
    };
    let nested = ops.iter().filter_map(|op| match &op.request {
        Some(Request::RequestTxn(nested)) => Some(decide(reader, nested)),
        _ => None,
    });
    Ok(Plan {
        succeeded,
        ops,
        nested: nested.collect::<Result<_, _>>()?,
    })
}

/// Refuses what cannot be done. After this, executing the plan changes everything it names.
pub(crate) fn check(
    reader: &Reader<'_>,
    leases: &lease::Table,
    plan: &Plan<'_>,
) -> Result<(), ReadError> {
    check_ops(reader, leases, plan, &mut Vec::new())
}

/// Changes made by the operations before the one looked at.
enum Effect<'a> {
    Put(&'a [u8]),
    Deleted(Keys<'a>),
}

fn check_ops<'a>(
    reader: &Reader<'_>,
    leases: &lease::Table,
    plan: &Plan<'a>,
    done: &mut Vec<Effect<'a>>,
) -> Result<(), ReadError> {
    let mut nested = plan.nested.iter();
    for op in plan.ops {
        match &op.request {
            Some(Request::RequestRange(_)) if planted!(TxnAppliedInPart) => {}
            Some(Request::RequestRange(range)) => check_range(reader, range)?,
            Some(Request::RequestPut(put)) => {
                check_put(reader, leases, put)?;
                if (put.ignore_value || put.ignore_lease) && is_deleted(done, &put.key) {
                    // etcd up to 3.7 stops for good here: it looks at the state before the transaction only.
                    return reject(&error::KEY_NOT_FOUND);
                }
                done.push(Effect::Put(&put.key));
            }
            Some(Request::RequestDeleteRange(delete)) => {
                done.push(Effect::Deleted(Keys::new(&delete.key, &delete.range_end)));
            }
            Some(Request::RequestTxn(_)) => {
                let plan = nested.next().expect("each nested transaction has its plan");
                check_ops(reader, leases, plan, done)?;
            }
            None => return reject(&error::KEY_NOT_FOUND),
        }
    }
    Ok(())
}

/// Whether the last of the changes to `key` was a deletion.
fn is_deleted(done: &[Effect<'_>], key: &[u8]) -> bool {
    let last = done.iter().rev().find_map(|effect| match effect {
        Effect::Put(put) => (*put == key).then_some(false),
        Effect::Deleted(keys) => keys.contain(key).then_some(true),
    });
    last.unwrap_or(false)
}

/// Unlike a range outside, one in a transaction refuses a negative revision once it lies below the compacted one.
fn check_range(reader: &Reader<'_>, range: &pb::RangeRequest) -> Result<(), ReadError> {
    if SortTarget::try_from(range.sort_target).is_err() {
        return reject(&error::INVALID_SORT_OPTION);
    }
    match range.revision {
        0 => Ok(()),
        revision if revision > reader.revision => reject(&error::FUTURE_REV),
        revision if revision < reader.compacted => reject(&error::COMPACTED),
        _ => Ok(()),
    }
}

/// Refuses a put that cannot be done on the state of `reader`.
pub(crate) fn check_put(
    reader: &Reader<'_>,
    leases: &lease::Table,
    put: &pb::PutRequest,
) -> Result<(), ReadError> {
    if put.key.len() > KEY_SIZE_MAX || put.value.len() > VALUE_SIZE_MAX {
        return reject(&error::REQUEST_TOO_LARGE);
    }
    if put.lease != 0 && leases.get(put.lease).is_none() {
        return reject(&error::LEASE_NOT_FOUND);
    }
    let needs_old = put.ignore_value || put.ignore_lease;
    if needs_old && reader.count(Keys::One(&put.key), reader.revision) == 0 {
        return reject(&error::KEY_NOT_FOUND);
    }
    Ok(())
}

/// Largest value in bytes. Far above what a request may hold; a record has an upper bound.
const VALUE_SIZE_MAX: usize = 512 << 20;

/// Executes a checked plan.
pub(crate) fn execute(
    writer: &mut Writer<'_>,
    plan: &Plan<'_>,
) -> Result<pb::TxnResponse, ReadError> {
    let mut nested = plan.nested.iter();
    let mut responses = Vec::with_capacity(plan.ops.len());
    for op in plan.ops {
        let response = match &op.request {
            Some(Request::RequestRange(request)) => {
                Response::ResponseRange(range(writer, request)?)
            }
            Some(Request::RequestPut(request)) => Response::ResponsePut(put(writer, request)?),
            Some(Request::RequestDeleteRange(request)) => {
                Response::ResponseDeleteRange(delete(writer, request)?)
            }
            Some(Request::RequestTxn(_)) => {
                let plan = nested.next().expect("each nested transaction has its plan");
                Response::ResponseTxn(execute(writer, plan)?)
            }
            None => unreachable!("an empty operation does not pass the check"),
        };
        responses.push(pb::ResponseOp {
            response: Some(response),
        });
    }
    // The outermost header gets its revision at the end; nested ones stay at 0, as in etcd.
    Ok(pb::TxnResponse {
        header: header(0),
        succeeded: plan.succeeded,
        responses,
    })
}

/// A range that sees the changes made so far.
pub(crate) fn range(
    writer: &mut Writer<'_>,
    request: &pb::RangeRequest,
) -> Result<pb::RangeResponse, ReadError> {
    let result = with_reader(writer, |reader| reader.range(request))?;
    Ok(response_of(result)?)
}

/// A put that has been checked.
pub(crate) fn put(
    writer: &mut Writer<'_>,
    request: &pb::PutRequest,
) -> Result<pb::PutResponse, Fault> {
    let mut old = None;
    if request.prev_kv || request.ignore_value || request.ignore_lease {
        old = with_reader(writer, |reader| get(reader, &request.key))?;
    }
    let (mut value, mut lease) = (&request.value, request.lease);
    if let Some(old) = &old {
        value = if request.ignore_value {
            &old.value
        } else {
            value
        };
        lease = if request.ignore_lease {
            old.lease
        } else {
            lease
        };
    }
    writer.put(&request.key, value, lease);
    Ok(pb::PutResponse {
        header: header(writer.revision()),
        prev_kv: old.filter(|_| request.prev_kv),
    })
}

/// A deletion, of one key or many.
pub(crate) fn delete(
    writer: &mut Writer<'_>,
    request: &pb::DeleteRangeRequest,
) -> Result<pb::DeleteRangeResponse, Fault> {
    let keys = Keys::new(&request.key, &request.range_end);
    let mut prev_kvs = Vec::new();
    if request.prev_kv {
        prev_kvs = with_reader(writer, |reader| all(reader, keys))?;
    }
    let deleted = writer.delete(keys);
    Ok(pb::DeleteRangeResponse {
        header: header(writer.revision()),
        deleted,
        prev_kvs,
    })
}

/// Answers a transaction that only reads, on a view.
pub(crate) fn read_only(
    reader: &Reader<'_>,
    txn: &pb::TxnRequest,
) -> Result<pb::TxnResponse, ReadError> {
    let plan = decide(reader, txn)?;
    for op in plan.ops {
        match &op.request {
            Some(Request::RequestRange(range)) => check_range(reader, range)?,
            _ => return reject(&error::KEY_NOT_FOUND),
        }
    }
    let mut responses = Vec::with_capacity(plan.ops.len());
    for op in plan.ops {
        if let Some(Request::RequestRange(request)) = &op.request {
            let response = response_of(reader.range(request)?)?;
            responses.push(pb::ResponseOp {
                response: Some(Response::ResponseRange(response)),
            });
        }
    }
    Ok(pb::TxnResponse {
        header: header(reader.revision),
        succeeded: plan.succeeded,
        responses,
    })
}

/// The state inside the transaction, to read from.
fn with_reader<T>(writer: &Writer<'_>, read: impl FnOnce(&Reader<'_>) -> T) -> T {
    let segments = writer.store.segments.view();
    read(&Reader {
        revision: match planted!(TxnMissesItsOwnWrites) {
            true => writer.store.revision,
            false => writer.revision(),
        },
        ..writer.store.reader(&segments)
    })
}

fn get(reader: &Reader<'_>, key: &[u8]) -> Result<Option<KeyValue>, Fault> {
    match reader.index.get(key).and_then(|history| history.live()) {
        Some(stamp) => reader.key_value(stamp).map(Some),
        None => Ok(None),
    }
}

fn all(reader: &Reader<'_>, keys: Keys<'_>) -> Result<Vec<KeyValue>, Fault> {
    let mut stamps = Vec::new();
    reader.walk(keys, reader.revision, |_, stamp| {
        stamps.push(*stamp);
        true
    });
    stamps.iter().map(|stamp| reader.key_value(stamp)).collect()
}

/// A range result as a message.
pub(crate) fn response_of(result: RangeResult) -> Result<pb::RangeResponse, Fault> {
    let decode = |kv: Bytes| {
        KeyValue::decode(kv).map_err(|error| {
            Fault::new(
                FaultKind::Corrupted,
                format!("a stored record is not a key-value pair: {error}"),
            )
        })
    };
    Ok(pb::RangeResponse {
        header: header(result.revision),
        kvs: result
            .kvs
            .into_iter()
            .map(decode)
            .collect::<Result<_, _>>()?,
        more: result.more,
        count: result.count,
    })
}

/// A comparison holds if it holds for every key it names. Over no key at all it compares with an absent one: version, revisions and
/// lease 0, and no value, which compares as false.
fn holds(reader: &Reader<'_>, compare: &pb::Compare) -> Result<bool, Fault> {
    let mut stamps = Vec::new();
    let target = CompareTarget::try_from(compare.target);
    let reads = matches!(target, Ok(CompareTarget::Value | CompareTarget::Lease));
    let (mut found, mut holds) = (false, true);
    reader.walk(
        Keys::new(&compare.key, &compare.range_end),
        reader.revision,
        |_, stamp| {
            found = true;
            if reads {
                stamps.push(*stamp);
            } else {
                let number = match target {
                    Ok(CompareTarget::Version) => stamp.version,
                    Ok(CompareTarget::Create) => stamp.created,
                    Ok(CompareTarget::Mod) => stamp.main(),
                    _ => 0,
                };
                holds = agrees(compare, compare_number(compare, number));
            }
            holds
        },
    );
    if !found {
        return Ok(
            target != Ok(CompareTarget::Value) && agrees(compare, compare_number(compare, 0))
        );
    }
    for stamp in &stamps {
        let kv = record::decode(stamp.revision(), reader.record(stamp.revision())?)?;
        let ordering = match target {
            Ok(CompareTarget::Value) => kv.value.cmp(&wanted_value(compare)),
            _ => compare_number(compare, kv.lease),
        };
        if !agrees(compare, ordering) {
            return Ok(false);
        }
    }
    Ok(holds)
}

/// Compares with the number of the field that belongs to the target; another field, or none, counts as 0. A target that does not
/// exist is equal to anything.
fn compare_number(compare: &pb::Compare, number: i64) -> Ordering {
    let wanted = match (
        CompareTarget::try_from(compare.target),
        &compare.target_union,
    ) {
        (Ok(CompareTarget::Version), Some(TargetUnion::Version(wanted)))
        | (Ok(CompareTarget::Create), Some(TargetUnion::CreateRevision(wanted)))
        | (Ok(CompareTarget::Mod), Some(TargetUnion::ModRevision(wanted)))
        | (Ok(CompareTarget::Lease), Some(TargetUnion::Lease(wanted))) => *wanted,
        (Err(_), _) => number,
        _ => 0,
    };
    number.cmp(&wanted)
}

fn wanted_value(compare: &pb::Compare) -> Bytes {
    match &compare.target_union {
        Some(TargetUnion::Value(value)) => value.clone(),
        _ => Bytes::new(),
    }
}

/// A relation that does not exist holds always, as in etcd.
fn agrees(compare: &pb::Compare, ordering: Ordering) -> bool {
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}
