//! The quota: how much a request may add, and what is answered when the files are too large.
//!
//! A write over the quota is applied all the same, because the other members may have room; only its answer is "no space", and the
//! member proposes an alarm that then stops such writes everywhere. Source of the rules: upstream `server/storage/quota.go`,
//! `apply/quota.go`.

use proto::error;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;

use crate::State;
use crate::apply::Yield;
use crate::outcome::{Fact, ReadError, Response, reject};

/// What a key is reckoned to need beside its bytes and those of its value.
const KV_OVERHEAD: u64 = 256;
/// What a lease is reckoned to need.
pub const LEASE_COST: u64 = 64;

/// Bytes a put is reckoned to add.
#[must_use]
pub fn put_cost(request: &pb::PutRequest) -> u64 {
    KV_OVERHEAD + request.key.len() as u64 + request.value.len() as u64
}

/// Bytes a transaction is reckoned to add: the dearer of its branches, nested ones included. 0 if it has no put.
#[must_use]
pub fn txn_cost(request: &pb::TxnRequest) -> u64 {
    let branch = |ops: &[pb::RequestOp]| ops.iter().map(op_cost).sum::<u64>();
    branch(&request.success).max(branch(&request.failure))
}

fn op_cost(op: &pb::RequestOp) -> u64 {
    match &op.request {
        Some(Request::RequestPut(put)) => put_cost(put),
        Some(Request::RequestTxn(txn)) => txn_cost(txn),
        _ => 0,
    }
}

/// Whether a request of this cost stays within the quota, judged before it is applied.
pub(crate) fn has_room(state: &State, cost: u64) -> bool {
    match state.params.quota_bytes {
        Some(quota) if cost > 0 => state.store.segments.total_bytes() + cost < quota,
        _ => true,
    }
}

/// The answer to a request that was applied.
pub(crate) fn answer(
    state: &State,
    room: bool,
    response: Response,
    yields: &mut Yield,
) -> Result<Response, ReadError> {
    if room {
        return Ok(response);
    }
    if !state.small.alarms.is_on(pb::AlarmType::Nospace) {
        yields.facts.push(Fact::QuotaExceeded);
    }
    reject(&error::NO_SPACE)
}
