//! Configuration changes, and what members publish about themselves.

use proto::error;
use proto::membershippb::ClusterMemberAttrSetRequest;
use proto::raftpb::ConfChange;
use storage::catalog::Table;

use super::{Answer, Yield};
use crate::State;
use crate::membership::{Changed, Member, id_to_hex};
use crate::outcome::{Fact, Response, reject};
use crate::tables::meta;

/// Raft is told of every change. One that no longer holds goes to it without a node, which changes nothing.
pub(super) fn change(state: &mut State, change: ConfChange, yields: &mut Yield) -> Answer {
    let context = match state
        .small
        .members
        .validate(&change, state.params.learners_max)
    {
        Ok(context) => context,
        Err(rejected) => {
            let change = ConfChange {
                node_id: Some(0),
                ..change
            };
            yields.facts.push(Fact::ConfChanged {
                change,
                conf_state: state.small.members.conf_state(),
            });
            return Err(rejected.into());
        }
    };
    let changed = state.small_mut().members.change(&change, context);
    let fact = match changed {
        Changed::Added(member) => Fact::MemberAdded(store(state, member)),
        Changed::Updated(member) => Fact::MemberUpdated(store(state, member)),
        Changed::Promoted(member) => Fact::MemberPromoted(store(state, member)),
        Changed::Removed(id) => {
            let key = id_to_hex(id);
            state.tables.remove(Table::Members, key.clone());
            state.tables.set(Table::MembersRemoved, key, "removed");
            Fact::MemberRemoved { id }
        }
    };
    state.tables.set(
        Table::Meta,
        meta::CONF_STATE,
        state.small.members.conf_state_json(),
    );
    yields.facts.push(Fact::ConfChanged {
        change,
        conf_state: state.small.members.conf_state(),
    });
    yields.facts.push(fact);
    Ok(Response::Members(state.small.members.list()))
}

/// A member tells its name and client URLs. One that was removed meanwhile is passed over; one that never was stops etcd, and is refused.
pub(super) fn set_attributes(
    state: &mut State,
    request: &ClusterMemberAttrSetRequest,
    yields: &mut Yield,
) -> Answer {
    match &request.member_attributes {
        Some(attributes) => publish(
            state,
            request.member_id,
            attributes.name.clone(),
            attributes.client_urls.clone(),
            yields,
        ),
        None => reject(&error::MEMBER_NOT_FOUND),
    }
}

/// As [`set_attributes`], whatever form the request had.
pub(super) fn publish(
    state: &mut State,
    id: u64,
    name: String,
    client_urls: Vec<String>,
    yields: &mut Yield,
) -> Answer {
    if state.small.members.removed.contains(&id) {
        return Ok(Response::None);
    }
    let Some(member) = state.small_mut().members.members.get_mut(&id) else {
        return reject(&error::MEMBER_NOT_FOUND);
    };
    (member.name, member.client_urls) = (name, client_urls);
    let member = member.clone();
    yields
        .facts
        .push(Fact::MemberAttributesSet(store(state, member)));
    Ok(Response::None)
}

fn store(state: &mut State, member: Member) -> Member {
    state
        .tables
        .set(Table::Members, id_to_hex(member.id), member.to_json());
    member
}
