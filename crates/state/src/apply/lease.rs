//! Granting, revoking and checkpointing leases.

use prost::Message;
use proto::error;
use proto::etcdserverpb as pb;
use storage::catalog::Table;
use storage::planted;

use super::{Answer, Yield};
use crate::State;
use crate::alarm::Effect;
use crate::auth::{self, Caller};
use crate::lease::{Lease, row_key, row_of};
use crate::mvcc::read::Keys;
use crate::mvcc::write::Writer;
use crate::outcome::{Fact, Response, header, reject};
use crate::quota;

pub(super) fn grant(
    state: &mut State,
    request: &pb::LeaseGrantRequest,
    yields: &mut Yield,
) -> Answer {
    state.small.alarms.refuses(Effect::Grows)?;
    let room = quota::has_room(state, quota::LEASE_COST);
    let (id, lease) = (
        request.id,
        state
            .leases
            .grant(request.id, request.ttl, state.params.lease_ttl_min_s)?,
    );
    store(state, id, lease);
    yields.facts.push(Fact::LeaseGranted {
        id,
        ttl_s: lease.ttl_s,
    });
    let response = pb::LeaseGrantResponse {
        header: header(state.store.revision),
        id,
        ttl: lease.ttl_s,
        error: String::new(),
    };
    quota::answer(state, room, Response::LeaseGrant(response), yields)
}

/// Deletes the lease's keys in one revision, in order, so that every member writes the same records.
pub(super) fn revoke(
    state: &mut State,
    request: &pb::LeaseRevokeRequest,
    caller: Caller<'_>,
    yields: &mut Yield,
) -> Answer {
    state.small.alarms.refuses(Effect::Touches)?;
    let id = request.id;
    if !planted!(PermissionByKind) {
        auth::check_lease(&state.small.auth, caller, state.leases.as_view(), id)?;
    }
    if state.leases.get(id).is_none() {
        return reject(&error::LEASE_NOT_FOUND);
    }
    let keys = state.leases.keys(id);
    let mut writer = Writer::new(&mut state.store, &mut state.leases, &mut yields.events);
    for key in &keys {
        let deleted = writer.delete(Keys::One(key));
        assert_eq!(
            deleted, 1,
            "a key attached to lease {id:016x} does not exist"
        );
    }
    let revision = writer.finish();
    state.leases.remove(id);
    state.tables.note(Table::Lease, row_key(id), None);
    yields.facts.push(Fact::LeaseRevoked { id });
    Ok(Response::LeaseRevoke(pb::LeaseRevokeResponse {
        header: header(revision),
    }))
}

/// Notes how long leases had left. Leases that are gone meanwhile are passed over.
pub(super) fn checkpoint(
    state: &mut State,
    request: &pb::LeaseCheckpointRequest,
    yields: &mut Yield,
) -> Answer {
    let persist = state.params.lease_checkpoint_persist || state.small.version.is_at_least(3, 6);
    for checkpoint in &request.checkpoints {
        let (id, remaining_s) = (checkpoint.id, checkpoint.remaining_ttl);
        let Some(lease) = state.leases.checkpoint(id, remaining_s) else {
            continue;
        };
        if persist {
            store(state, id, lease);
        }
        yields
            .facts
            .push(Fact::LeaseCheckpointed { id, remaining_s });
    }
    Ok(Response::LeaseCheckpoint(pb::LeaseCheckpointResponse {
        header: header(state.store.revision),
    }))
}

fn store(state: &mut State, id: i64, lease: Lease) {
    state.tables.note(
        Table::Lease,
        row_key(id),
        Some(row_of(id, lease).encode_to_vec()),
    );
}
