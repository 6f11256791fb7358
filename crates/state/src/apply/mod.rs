//! What each kind of entry does. One file per family of requests.
//!
//! | entry | here |
//! |---|---|
//! | empty (a new leader's first) | [`Fact::TermStarted`] |
//! | range, put, delete, transaction, compaction | `kv` |
//! | lease grant, revoke, checkpoint | `lease` |
//! | alarm | `alarm` |
//! | configuration change, member attributes | `membership` |
//! | cluster version, downgrade | `version` |
//! | users, roles, authentication | `auth`; who may do what, also of the above: [`crate::auth`] |
//! | raw v2 request (3.5) | `v2`: member attributes and cluster version as above; reads and clock ticks nothing; writes are a fault |
//! | joint configuration change | a fault: etcd never proposes one and stops at it |
//! | anything else | a fault |
//!
//! A fault where the entry cannot be ignored: members that understand it change something, and a member that skipped it would
//! drift apart without anybody noticing. Source of the rules: upstream `server/etcdserver/apply`, `server/etcdserver/server.go`.

mod alarm;
mod auth;
mod kv;
mod lease;
mod membership;
mod v2;
mod version;

use prost::Message;
use proto::etcdserverpb::{InternalRaftRequest, Request as V2Request};
use proto::raftpb::{ConfChange, Entry, EntryType};
use storage::fault::{Fault, FaultKind};

use crate::State;
use crate::auth::Caller;
use crate::outcome::{Applied, Event, Fact, ReadError, Response};

/// What one entry yields, while it is being made.
#[derive(Default)]
pub(crate) struct Yield {
    pub events: Vec<Event>,
    pub facts: Vec<Fact>,
}

/// An answer, a rejection, or a fault.
type Answer = Result<Response, ReadError>;

/// Applies an entry that follows the last one.
pub(crate) fn entry(state: &mut State, entry: &Entry) -> Result<Applied, Fault> {
    let mut yields = Yield::default();
    let data = entry.data.clone().unwrap_or_default();
    let (request_id, answer) = match EntryType::try_from(entry.r#type.unwrap_or_default()) {
        Ok(EntryType::EntryNormal) if data.is_empty() => {
            yields.facts.push(Fact::TermStarted { term: entry.term() });
            (0, Ok(Response::None))
        }
        Ok(EntryType::EntryNormal) => match InternalRaftRequest::decode(data.clone()) {
            Ok(request) => normal(state, request, entry, &mut yields),
            // Members up to 3.5 write some requests as they were before 3.0. Their second field parses as no message.
            Err(_) => match V2Request::decode(data) {
                Ok(request) => (request.id(), v2::apply(state, &request, entry, &mut yields)),
                Err(error) => {
                    return Err(not_understood(
                        entry,
                        &format!("its content does not decode ({error})"),
                    ));
                }
            },
        },
        Ok(EntryType::EntryConfChange) => match ConfChange::decode(data) {
            Ok(change) => (change.id(), membership::change(state, change, &mut yields)),
            Err(error) => {
                return Err(not_understood(
                    entry,
                    &format!("its configuration change does not decode ({error})"),
                ));
            }
        },
        Ok(EntryType::EntryConfChangeV2) => {
            return Err(not_understood(
                entry,
                "joint configuration changes are not supported",
            ));
        }
        Err(_) => {
            return Err(not_understood(
                entry,
                &format!(
                    "entries of type {} are unknown",
                    entry.r#type.unwrap_or_default()
                ),
            ));
        }
    };
    let outcome = match answer {
        Ok(response) => Ok(response),
        Err(ReadError::Rejected(rejected)) => Err(rejected),
        Err(ReadError::Fault(fault)) => return Err(fault),
    };
    let Yield { events, facts } = yields;
    Ok(Applied {
        index: entry.index(),
        term: entry.term(),
        request_id,
        outcome,
        events,
        facts,
    })
}

/// The order of the cases is etcd's, for entries with more than one request, which nobody writes.
fn normal(
    state: &mut State,
    request: InternalRaftRequest,
    entry: &Entry,
    yields: &mut Yield,
) -> (u64, Answer) {
    let id = match request.id {
        0 => request.header.as_ref().map_or(0, |header| header.id),
        id => id,
    };
    let caller = Caller::of(request.header.as_ref());
    if auth::needs_root(&request)
        && let Err(rejected) = state.small.auth.may_administer(caller)
    {
        return (id, Err(rejected.into()));
    }
    let answer = if let Some(request) = &request.cluster_version_set {
        version::set(state, &request.ver, yields)
    } else if let Some(request) = &request.cluster_member_attr_set {
        membership::set_attributes(state, request, yields)
    } else if let Some(request) = &request.downgrade_info_set {
        version::downgrade(state, request, yields)
    } else if request.downgrade_version_test.is_some() {
        Ok(Response::None)
    } else if let Some(request) = &request.range {
        kv::range(state, request, caller)
    } else if let Some(request) = &request.put {
        kv::put(state, request, caller, yields)
    } else if let Some(request) = &request.delete_range {
        kv::delete_range(state, request, caller, yields)
    } else if let Some(request) = &request.txn {
        kv::txn(state, request, caller, yields)
    } else if let Some(request) = &request.compaction {
        kv::compaction(state, request, yields)
    } else if let Some(request) = &request.lease_grant {
        lease::grant(state, request, yields)
    } else if let Some(request) = &request.lease_revoke {
        lease::revoke(state, request, caller, yields)
    } else if let Some(request) = &request.lease_checkpoint {
        lease::checkpoint(state, request, yields)
    } else if let Some(request) = &request.alarm {
        alarm::apply(state, request, yields)
    } else if let Some(request) = &request.v2 {
        v2::apply(state, request, entry, yields)
    } else {
        auth::apply(state, &request, entry, yields)
    };
    (id, answer)
}

/// A fault that says which entry, why, and what to do.
fn not_understood(entry: &Entry, why: &str) -> Fault {
    Fault::new(
        FaultKind::Format,
        format!(
            "this member does not understand log entry {} of term {}: {why}; it cannot know what the other members do with it, and stops. \
             Upgrade this member, or remove it from the cluster.",
            entry.index(),
            entry.term()
        ),
    )
}
