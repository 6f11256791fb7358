//! What the server part of a member does with a call: check it, propose it or read, and turn the reply into an answer.

use prost::Message as _;
use proto::error::{self, RpcError};
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;
use replica::{Input, Reply, Request as Ask, Ticket};
use state::{Applied, RangeResult, ReadError, ReadView, Response, validate};

use state::membership::{Member, Membership};

use super::{Event, World};
use crate::checker::history::{Outcome, Request};

/// Times a call about a lease is passed on to whom a member takes for the leader.
const HOPS_MAX: u8 = 3;
/// Most operations in a transaction. etcd's default.
const TXN_OPS_MAX: usize = 128;

impl World {
    /// A call arrives at a member.
    pub(super) fn call(&mut self, member: usize, op: usize) {
        let machine = &self.machines[member];
        if machine.life.is_none() {
            return self.answer(member, op, Outcome::Failed);
        }
        if machine.paused_until_us > self.now_us {
            let wait = machine.paused_until_us - self.now_us;
            return self.schedule(wait, Event::Call { member, op });
        }
        self.note(member, "call", op as u64, 0);
        let request = self.history.ops[op].request.clone();
        match proposal(&request) {
            Some(Ok(proposal)) => self.propose(member, op, proposal),
            Some(Err(_)) => self.answer(member, op, Outcome::Failed),
            None => self.look(member, op, &request),
        }
    }

    fn propose(&mut self, member: usize, op: usize, mut request: pb::InternalRaftRequest) {
        let id = self.life(member).ids.next();
        request.header = Some(pb::RequestHeader {
            id,
            ..Default::default()
        });
        let data = request.encode_to_vec();
        self.ask(member, op, Ask::Propose { id, data });
    }

    /// A call that changes nothing, or only the leader's clocks.
    fn look(&mut self, member: usize, op: usize, request: &Request) {
        match request {
            Request::LeaseKeepAlive { id } => self.ask(member, op, Ask::LeaseRenew { id: *id }),
            Request::LeaseTimeToLive { id } => {
                self.ask(member, op, Ask::LeaseTimeToLive { id: *id })
            }
            _ => {
                let may_be_stale = self.history.ops[op].may_be_stale();
                if may_be_stale || self.life(member).status.reads_are_local {
                    self.read(member, op);
                } else {
                    self.ask(member, op, Ask::ReadBarrier);
                }
            }
        }
    }

    fn ask(&mut self, member: usize, op: usize, request: Ask) {
        let life = self.life(member);
        life.ticket_last += 1;
        let ticket = Ticket(life.ticket_last);
        life.tickets.insert(ticket, op);
        self.input(member, Input::Client(ticket, request));
    }

    /// Reads the published view.
    fn read(&mut self, member: usize, op: usize) {
        let view = self.life(member).view.clone();
        match read(&view, &self.history.ops[op].request) {
            Ok(outcome) => self.answer(member, op, outcome),
            Err(ReadError::Rejected(rejected)) => {
                self.answer(member, op, Outcome::Rejected(rejected.0.text))
            }
            Err(ReadError::Fault(fault)) => self.stopped(member, &fault),
        }
    }

    /// The member answers.
    pub(super) fn answered(
        &mut self,
        member: usize,
        ticket: Ticket,
        answer: Result<Reply, &'static RpcError>,
    ) {
        if self.life(member).asides.remove(&ticket) {
            return self.aside_answered(member, ticket, answer);
        }
        let Some(op) = self.life(member).tickets.remove(&ticket) else {
            self.fail(format!(
                "member {} answers a call twice: {answer:?}",
                member + 1
            ));
            return;
        };
        match answer {
            Ok(Reply::ReadReady) => self.read(member, op),
            Ok(Reply::Applied(applied)) => self.answer(member, op, outcome_of(*applied)),
            Ok(Reply::LeaseRenewed { ttl_s }) => {
                self.answer(member, op, Outcome::LeaseAlive { ttl_s })
            }
            Ok(Reply::LeaseTime { time }) => self.answer(member, op, Outcome::LeaseTime { time }),
            Ok(Reply::LeaderMoved) => self.answer(member, op, Outcome::Failed),
            Err(why) => self.refused(member, op, why),
        }
    }

    fn refused(&mut self, member: usize, op: usize, why: &'static RpcError) {
        let request = &self.history.ops[op].request;
        let is_proposal = matches!(proposal(request), Some(Ok(_)));
        let is_lease = matches!(
            request,
            Request::LeaseKeepAlive { .. } | Request::LeaseTimeToLive { .. }
        );
        if is_lease && why.text == error::NOT_LEADER.text {
            return self.pass_on(member, op);
        }
        let is_never_proposed = why.text == error::TOO_MANY_REQUESTS.text;
        let outcome = if is_proposal && !is_never_proposed {
            Outcome::Unknown
        } else {
            Outcome::Failed
        };
        self.answer(member, op, outcome);
    }

    /// Only the leader knows the time that leases have.
    fn pass_on(&mut self, member: usize, op: usize) {
        let leader = self.life(member).status.leader;
        let hops = self.workload.hop(op);
        let to = (leader as usize).wrapping_sub(1);
        if hops > HOPS_MAX
            || to >= self.machines.len()
            || to == member
            || !self.links.is_open(member, to)
        {
            return self.answer(member, op, Outcome::Failed);
        }
        let delay = self
            .dice
            .network
            .delay(self.plan.network.least_us, self.plan.network.typical_us);
        self.schedule(delay, Event::Call { member: to, op });
    }

    /// Sends an answer to the client.
    pub(super) fn answer(&mut self, member: usize, op: usize, outcome: Outcome) {
        self.note(member, "answer", op as u64, 0);
        let delay = self.dice.network.delay(20, 300);
        self.schedule(delay, Event::Return { op, outcome });
    }
}

/// What goes into the log for a call; `None` for one that is read.
fn proposal(request: &Request) -> Option<Result<pb::InternalRaftRequest, &'static RpcError>> {
    let mut proposal = pb::InternalRaftRequest::default();
    let checked = match request {
        Request::Put(put) => {
            proposal.put = Some(put.clone());
            validate::put(put)
        }
        Request::Delete(delete) => {
            proposal.delete_range = Some(delete.clone());
            validate::delete_range(delete)
        }
        Request::Txn(txn) => {
            if validate::is_read_only(txn) {
                return None;
            }
            proposal.txn = Some(txn.clone());
            validate::txn(txn, TXN_OPS_MAX)
        }
        Request::Compact { revision } => {
            // Half of them wait until the work is done; which ones follows from the revision, as good as any dice.
            proposal.compaction = Some(pb::CompactionRequest {
                revision: *revision,
                physical: revision % 2 == 0,
            });
            Ok(())
        }
        Request::LeaseGrant { id, ttl_s } => {
            proposal.lease_grant = Some(pb::LeaseGrantRequest {
                id: *id,
                ttl: *ttl_s,
            });
            Ok(())
        }
        Request::LeaseRevoke { id } => {
            proposal.lease_revoke = Some(pb::LeaseRevokeRequest { id: *id });
            Ok(())
        }
        Request::Range(_)
        | Request::LeaseKeepAlive { .. }
        | Request::LeaseTimeToLive { .. }
        | Request::Members => return None,
    };
    Some(checked.map(|()| proposal))
}

fn read(view: &ReadView, request: &Request) -> Result<Outcome, ReadError> {
    Ok(match request {
        Request::Range(range) => Outcome::Range(range_response(view.range(range)?)),
        Request::Txn(txn) => Outcome::Txn(view.txn(txn)?),
        Request::Members => Outcome::Members(listed(view.members())),
        _ => Outcome::Failed,
    })
}

/// The members as a client is told of them.
pub(super) fn listed(members: &Membership) -> Vec<pb::Member> {
    let told = |member: Member| pb::Member {
        id: member.id,
        name: member.name,
        peer_ur_ls: member.peer_urls.unwrap_or_default(),
        client_ur_ls: member.client_urls,
        is_learner: member.is_learner,
    };
    members.list().into_iter().map(told).collect()
}

/// The answer to a range as a client decodes it.
pub(super) fn range_response(result: RangeResult) -> pb::RangeResponse {
    let decode = |kv: &bytes::Bytes| KeyValue::decode(kv.clone()).expect("a stored pair decodes");
    pb::RangeResponse {
        header: Some(pb::ResponseHeader {
            revision: result.revision,
            ..Default::default()
        }),
        kvs: result.kvs.iter().map(decode).collect(),
        more: result.more,
        count: result.count,
    }
}

fn outcome_of(applied: Applied) -> Outcome {
    let revision_of =
        |header: &Option<pb::ResponseHeader>| header.as_ref().map_or(0, |header| header.revision);
    match applied.outcome {
        Err(rejected) => Outcome::Rejected(rejected.0.text),
        Ok(Response::Range(response)) => Outcome::Range(response),
        Ok(Response::Put(response)) => Outcome::Put(response),
        Ok(Response::DeleteRange(response)) => Outcome::Delete(response),
        Ok(Response::Txn(response)) => Outcome::Txn(response),
        Ok(Response::Compaction(response)) => Outcome::Compacted {
            revision: revision_of(&response.header),
        },
        Ok(Response::LeaseGrant(response)) => Outcome::LeaseGranted {
            ttl_s: response.ttl,
            revision: revision_of(&response.header),
        },
        Ok(Response::LeaseRevoke(response)) => Outcome::LeaseRevoked {
            revision: revision_of(&response.header),
        },
        Ok(_) => Outcome::Unknown,
    }
}
