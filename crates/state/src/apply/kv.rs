//! Ranges, puts, deletions, transactions and compactions.

use proto::etcdserverpb as pb;
use storage::catalog::Table;
use storage::planted;
use storage::segments::Revision;

use super::{Answer, Yield};
use crate::State;
use crate::alarm::Effect;
use crate::auth::{self, Caller};
use crate::mvcc::hash::revision_key;
use crate::mvcc::txn;
use crate::mvcc::write::Writer;
use crate::outcome::{Fact, ReadError, Response, header};
use crate::quota;
use crate::tables::meta;

/// A range that went through the log, as those of old members with authentication do.
pub(super) fn range(state: &mut State, request: &pb::RangeRequest, caller: Caller<'_>) -> Answer {
    state.small.alarms.refuses(Effect::Touches)?;
    let auth = &state.small.auth;
    auth.may_read(caller, &request.key, &request.range_end)?;
    let segments = state.store.segments.view();
    let result = state.store.reader(&segments).range(request)?;
    Ok(Response::Range(txn::response_of(result)?))
}

pub(super) fn put(
    state: &mut State,
    request: &pb::PutRequest,
    caller: Caller<'_>,
    yields: &mut Yield,
) -> Answer {
    state.small.alarms.refuses(Effect::Grows)?;
    auth::check_put(&state.small.auth, caller, state.leases.as_view(), request)?;
    let room = quota::has_room(state, quota::put_cost(request));
    let segments = state.store.segments.view();
    txn::check_put(&state.store.reader(&segments), &state.leases, request)?;
    let mut writer = Writer::new(&mut state.store, &mut state.leases, &mut yields.events);
    let response = txn::put(&mut writer, request)?;
    writer.finish();
    quota::answer(state, room, Response::Put(response), yields)
}

pub(super) fn delete_range(
    state: &mut State,
    request: &pb::DeleteRangeRequest,
    caller: Caller<'_>,
    yields: &mut Yield,
) -> Answer {
    state.small.alarms.refuses(Effect::Touches)?;
    state.small.auth.may_delete(caller, request)?;
    let mut writer = Writer::new(&mut state.store, &mut state.leases, &mut yields.events);
    let response = txn::delete(&mut writer, request)?;
    writer.finish();
    Ok(Response::DeleteRange(response))
}

pub(super) fn txn(
    state: &mut State,
    request: &pb::TxnRequest,
    caller: Caller<'_>,
    yields: &mut Yield,
) -> Answer {
    let cost = quota::txn_cost(request);
    state.small.alarms.refuses(if cost > 0 {
        Effect::Grows
    } else {
        Effect::Touches
    })?;
    let auth = &state.small.auth;
    auth.may_txn(caller, state.leases.as_view(), request)?;
    let room = quota::has_room(state, cost);
    let segments = state.store.segments.view();
    let reader = state.store.reader(&segments);
    let plan = txn::decide(&reader, request)?;
    txn::check(&reader, &state.leases, &plan)?;
    let mut writer = Writer::new(&mut state.store, &mut state.leases, &mut yields.events);
    let mut response = match txn::execute(&mut writer, &plan) {
        Ok(response) => response,
        Err(error) if planted!(TxnAppliedInPart) => {
            writer.finish();
            return Err(error);
        }
        Err(error) => return Err(must_not_be_refused(error)),
    };
    response.header = header(writer.finish());
    quota::answer(state, room, Response::Txn(response), yields)
}

pub(super) fn compaction(
    state: &mut State,
    request: &pb::CompactionRequest,
    yields: &mut Yield,
) -> Answer {
    state.small.alarms.refuses(Effect::Touches)?;
    let revision = request.revision;
    state.store.compact(revision)?;
    // Nobody can see a difference between "scheduled" and "finished" here: reads, hashes and snapshots leave out at once what the sweep
    // takes away later. So both markers move together, equally on every member.
    let marker = revision_key(Revision {
        main: revision,
        sub: 0,
    });
    state
        .tables
        .set(Table::Meta, meta::SCHEDULED_COMPACT_REV, marker);
    state
        .tables
        .set(Table::Meta, meta::FINISHED_COMPACT_REV, marker);
    yields.facts.push(Fact::Compacted {
        revision,
        physical: request.physical,
    });
    Ok(Response::Compaction(pb::CompactionResponse {
        header: header(state.store.revision),
    }))
}

/// After the check, only the disk can fail.
fn must_not_be_refused(error: ReadError) -> ReadError {
    if let ReadError::Rejected(rejected) = &error {
        panic!("a checked transaction was refused halfway: {rejected}");
    }
    error
}
