//! Who calls: clients that wait for each answer before the next call, and note what they saw.
//!
//! Every put writes a value that no other put writes, so that a change can be traced to the call that made it.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as InTxn;

use replica::{Input, MemberId, Request as Ask, Ticket};

use super::machine::Life;
use super::{Event, World};
use crate::checker::history::{Op, Outcome, Request};

/// Longest time a client waits.
const PATIENCE_US: u64 = 9_000_000;
/// In a burst, one second of so many, clients think so much shorter.
const BURST_EVERY: u64 = 20;
/// Leases that clients remember.
const LEASES_MAX: usize = 12;

/// One client.
#[derive(Debug, Default)]
pub(super) struct Client {
    member: usize,
    /// The call under way.
    pub op: Option<usize>,
}

/// What all clients know together.
#[derive(Debug, Default)]
pub(super) struct Workload {
    calls: Vec<CallNote>,
    values: u64,
    leases: Vec<i64>,
    lease_last: i64,
    /// The highest revision that any answer has shown.
    pub revision: i64,
    /// The last revision that deleted something, as far as answers tell.
    pub deleted_at: i64,
    /// The highest compaction that was answered.
    pub compacted: i64,
    /// Last known mod revision and version of keys.
    known: BTreeMap<Bytes, (i64, i64)>,
    /// No new calls.
    pub is_over: bool,
    /// Answers that were not failures.
    pub successes: u64,
}

#[derive(Clone, Copy, Debug)]
struct CallNote {
    client: usize,
    done: bool,
    hops: u8,
}

impl Workload {
    /// Counts how often a call was passed on.
    pub fn hop(&mut self, op: usize) -> u8 {
        self.calls[op].hops += 1;
        self.calls[op].hops
    }

    fn learn(&mut self, op: &Op) {
        self.revision = self.revision.max(op.revision().unwrap_or(0));
        match &op.outcome {
            Outcome::Range(response) => {
                for kv in &response.kvs {
                    self.known
                        .insert(kv.key.clone(), (kv.mod_revision, kv.version));
                }
            }
            Outcome::Delete(response) if response.deleted > 0 => {
                self.deleted_at = op.revision().unwrap_or(self.deleted_at);
            }
            Outcome::Compacted { .. } => {
                if let Request::Compact { revision } = op.request {
                    self.compacted = self.compacted.max(revision);
                }
            }
            Outcome::LeaseGranted { .. } => {
                if let Request::LeaseGrant { id, .. } = op.request {
                    if self.leases.len() == LEASES_MAX {
                        self.leases.remove(0);
                    }
                    self.leases.push(id);
                }
            }
            Outcome::LeaseRevoked { .. } | Outcome::LeaseAlive { ttl_s: None } => {
                if let Request::LeaseRevoke { id } | Request::LeaseKeepAlive { id } = op.request {
                    self.leases.retain(|known| *known != id);
                }
            }
            _ => {}
        }
        if !matches!(op.outcome, Outcome::Unknown | Outcome::Failed) {
            self.successes += 1;
        }
    }
}

impl World {
    /// A client makes its next call.
    pub(super) fn next_call(&mut self, client: usize) {
        if self.workload.is_over || self.clients[client].op.is_some() {
            return;
        }
        if self.dice.workload.chance(self.plan.moves) {
            self.clients[client].member =
                self.dice.workload.below(self.machines.len() as u64) as usize;
        }
        let request = self.draw_request();
        let member = self.clients[client].member;
        let op = self.history.ops.len();
        self.history.ops.push(Op {
            call_us: self.now_us,
            return_us: None,
            member: member as u64 + 1,
            request,
            outcome: Outcome::Unknown,
        });
        self.workload.calls.push(CallNote {
            client,
            done: false,
            hops: 0,
        });
        self.clients[client].op = Some(op);
        let delay = self.dice.network.delay(20, 300);
        self.schedule(delay, Event::Call { member, op });
        self.schedule(PATIENCE_US, Event::GiveUp { op });
    }

    pub(super) fn schedule_transfer(&mut self) {
        let mean = self.plan.transfer_us;
        if mean > 0 && self.plan.members > 1 {
            let wait = self.dice.transfers.between(mean / 4, mean * 2);
            self.schedule(wait, Event::Transfer);
        }
    }

    /// Somebody asks the leader to hand over to any other member, however far behind or dead it is.
    pub(super) fn transfer(&mut self) {
        if !self.is_safety_phase {
            return;
        }
        self.schedule_transfer();
        let (members, now_us) = (self.machines.len() as u64, self.now_us);
        let target = MemberId(self.dice.transfers.between(1, members));
        let leader = self.machines.iter().position(|machine| {
            let leads = |life: &Life| life.status.is_leader;
            machine.paused_until_us <= now_us && machine.life.as_ref().is_some_and(leads)
        });
        let Some(leader) = leader else { return };
        let life = self.life(leader);
        life.ticket_last += 1;
        let ticket = Ticket(life.ticket_last);
        life.asides.insert(ticket);
        self.note(leader, "is asked to hand over", target.0, 0);
        self.input(leader, Input::Client(ticket, Ask::MoveLeader { target }));
    }

    /// An answer, or the end of patience.
    pub(super) fn returned(&mut self, op: usize, outcome: Outcome) {
        let note = &mut self.workload.calls[op];
        if std::mem::replace(&mut note.done, true) {
            return;
        }
        let client = note.client;
        let is_known = outcome != Outcome::Unknown;
        let record = &mut self.history.ops[op];
        record.return_us = is_known.then_some(self.now_us);
        record.outcome = outcome;
        let revision = record.revision().unwrap_or(0);
        self.workload.learn(record);
        self.note(
            record_member(&self.history.ops[op]),
            "return",
            op as u64,
            revision as u64,
        );
        self.clients[client].op = None;
        if !is_known || self.history.ops[op].outcome == Outcome::Failed {
            self.clients[client].member =
                self.dice.workload.below(self.machines.len() as u64) as usize;
        }
        let hurry = self.plan.bursts && (self.now_us / 1_000_000).is_multiple_of(BURST_EVERY);
        let (least, typical) = match hurry {
            true => (50, self.plan.think_us / BURST_EVERY),
            false => (1_000, self.plan.think_us),
        };
        let think = self.dice.workload.delay(least, typical);
        self.schedule(think, Event::Next { client });
    }

    fn draw_request(&mut self) -> Request {
        let (compactions, leases) = (self.plan.compactions, self.plan.leases);
        if self.dice.workload.chance(compactions) {
            return self.draw_compaction();
        }
        if self.dice.workload.chance(leases) {
            return self.draw_lease_call();
        }
        if self.plan.change_us > 0 && self.dice.workload.chance(40) {
            return Request::Members;
        }
        match self.dice.workload.below(100) {
            0..40 => Request::Put(self.draw_put()),
            40..52 => Request::Delete(self.draw_delete()),
            52..80 => Request::Range(self.draw_range()),
            80..95 => Request::Txn(self.draw_txn(1)),
            _ => Request::Txn(self.draw_read_txn()),
        }
    }

    fn draw_compaction(&mut self) -> Request {
        let (revision, deleted_at) = (self.workload.revision, self.workload.deleted_at);
        let revision = match self.dice.workload.below(4) {
            0 => revision,
            // A watcher that starts there must still see the deletion (etcd #19179).
            1 | 2 if deleted_at > 0 => deleted_at,
            _ => revision - self.dice.workload.below(20) as i64,
        };
        Request::Compact {
            revision: revision.max(1),
        }
    }

    fn draw_lease_call(&mut self) -> Request {
        let known = self.workload.leases.clone();
        if known.is_empty() || self.dice.workload.chance(250) {
            self.workload.lease_last += 1;
            let ttl_s = *self.dice.workload.pick(&[1, 2, 3, 5, 10, 60]);
            return Request::LeaseGrant {
                id: self.workload.lease_last,
                ttl_s,
            };
        }
        let id = *self.dice.workload.pick(&known);
        match self.dice.workload.below(10) {
            0..6 => Request::LeaseKeepAlive { id },
            6..8 => Request::LeaseTimeToLive { id },
            _ => Request::LeaseRevoke { id },
        }
    }

    /// Keys live under two prefixes, so that ranges can name one of them.
    pub(super) fn key(dice: &mut crate::dice::Dice, keys: u64) -> Bytes {
        let number = dice.below(keys);
        Bytes::from(format!(
            "{}/{number:02}",
            if number.is_multiple_of(2) { "a" } else { "b" }
        ))
    }

    fn draw_key(&mut self) -> Bytes {
        World::key(&mut self.dice.workload, self.plan.keys)
    }

    /// Key and end: one key mostly, a prefix, a stretch, or everything.
    pub(super) fn span(dice: &mut crate::dice::Dice, keys: u64) -> (Bytes, Bytes) {
        match dice.below(10) {
            0..5 => (World::key(dice, keys), Bytes::new()),
            5 | 6 => (Bytes::from_static(b"a/"), Bytes::from_static(b"a0")),
            7 => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
            _ => {
                let (from, to) = (World::key(dice, keys), World::key(dice, keys));
                if from < to {
                    (from, to)
                } else {
                    (from, Bytes::from_static(b"\0"))
                }
            }
        }
    }

    fn draw_put(&mut self) -> pb::PutRequest {
        self.workload.values += 1;
        let number = self.workload.values;
        let length = self.dice.workload.below(self.plan.value_bytes) as usize;
        let mut value = format!("v{number}.").into_bytes();
        value.resize(value.len().max(length), b'.');
        let leases = self.workload.leases.clone();
        let lease = if !leases.is_empty() && self.dice.workload.chance(300) {
            *self.dice.workload.pick(&leases)
        } else {
            0
        };
        let key = self.draw_key();
        let ignore_lease = lease == 0 && self.dice.workload.chance(50);
        pb::PutRequest {
            key,
            value: value.into(),
            lease,
            prev_kv: self.dice.workload.chance(300),
            ignore_value: false,
            ignore_lease,
        }
    }

    fn draw_delete(&mut self) -> pb::DeleteRangeRequest {
        let (key, range_end) = if self.dice.workload.chance(200) {
            World::span(&mut self.dice.workload, self.plan.keys)
        } else {
            (self.draw_key(), Bytes::new())
        };
        pb::DeleteRangeRequest {
            key,
            range_end,
            prev_kv: self.dice.workload.chance(300),
        }
    }

    fn draw_range(&mut self) -> pb::RangeRequest {
        let (key, range_end) = World::span(&mut self.dice.workload, self.plan.keys);
        let newest = self.workload.revision;
        let dice = &mut self.dice.workload;
        let revision = if dice.chance(200) {
            (newest - dice.below(30) as i64 + 3).max(0)
        } else {
            0
        };
        let mut range = pb::RangeRequest {
            key,
            range_end,
            revision,
            serializable: dice.chance(250),
            ..Default::default()
        };
        if dice.chance(300) {
            range.limit = dice.between(1, 5) as i64;
        }
        if dice.chance(150) {
            range.sort_target = dice
                .pick(&[
                    SortTarget::Key,
                    SortTarget::Mod,
                    SortTarget::Create,
                    SortTarget::Version,
                ])
                .to_owned() as i32;
            range.sort_order = dice
                .pick(&[SortOrder::Ascend, SortOrder::Descend])
                .to_owned() as i32;
        }
        range.count_only = dice.chance(80);
        range.keys_only = !range.count_only && dice.chance(80);
        if dice.chance(50) {
            range.min_mod_revision = (newest - 10).max(0);
        }
        range
    }

    /// Distinct keys, because a transaction may change a key only once.
    fn draw_txn(&mut self, depth: u64) -> pb::TxnRequest {
        let compare = (0..self.dice.workload.below(3))
            .map(|_| self.draw_compare())
            .collect();
        let mut success = self.draw_ops(depth);
        let failure = self.draw_ops(depth);
        if success.is_empty() && failure.is_empty() {
            success.push(op(InTxn::RequestPut(self.draw_put())));
        }
        pb::TxnRequest {
            compare,
            success,
            failure,
        }
    }

    fn draw_ops(&mut self, depth: u64) -> Vec<pb::RequestOp> {
        let mut taken = Vec::new();
        let mut ops = Vec::new();
        for _ in 0..self.dice.workload.below(4) {
            let request = match self.dice.workload.below(10) {
                0..5 => {
                    let put = self.draw_put();
                    if taken.contains(&put.key) {
                        continue;
                    }
                    taken.push(put.key.clone());
                    InTxn::RequestPut(put)
                }
                5..7 => {
                    let key = self.draw_key();
                    if taken.contains(&key) {
                        continue;
                    }
                    taken.push(key.clone());
                    InTxn::RequestDeleteRange(pb::DeleteRangeRequest {
                        key,
                        prev_kv: true,
                        ..Default::default()
                    })
                }
                7..9 => {
                    let mut range = self.draw_range();
                    range.serializable = false;
                    InTxn::RequestRange(range)
                }
                _ if depth > 0 && taken.is_empty() => {
                    // Alone with its changes: its branches may name any key.
                    let nested = self.draw_txn(depth - 1);
                    return vec![op(InTxn::RequestTxn(nested))];
                }
                _ => continue,
            };
            ops.push(op(request));
        }
        ops
    }

    fn draw_read_txn(&mut self) -> pb::TxnRequest {
        let serializable = self.dice.workload.chance(300);
        let compare = (0..self.dice.workload.below(2))
            .map(|_| self.draw_compare())
            .collect();
        let mut ranges = |count| -> Vec<pb::RequestOp> {
            (0..count)
                .map(|_| {
                    let mut range = self.draw_range();
                    range.serializable = serializable;
                    op(InTxn::RequestRange(range))
                })
                .collect()
        };
        pb::TxnRequest {
            compare,
            success: ranges(2),
            failure: ranges(1),
        }
    }

    fn draw_compare(&mut self) -> pb::Compare {
        let key = self.draw_key();
        let (modified, version) = self.workload.known.get(&key).copied().unwrap_or_default();
        let dice = &mut self.dice.workload;
        let (target, value) = match dice.below(5) {
            0 | 1 => (CompareTarget::Mod, TargetUnion::ModRevision(modified)),
            2 => (CompareTarget::Version, TargetUnion::Version(version)),
            3 => (CompareTarget::Create, TargetUnion::CreateRevision(modified)),
            _ => (
                CompareTarget::Value,
                TargetUnion::Value(Bytes::from_static(b"v")),
            ),
        };
        let result = *dice.pick(&[
            CompareResult::Equal,
            CompareResult::Equal,
            CompareResult::Greater,
            CompareResult::Less,
            CompareResult::NotEqual,
        ]);
        let range_end = if dice.chance(100) {
            Bytes::from_static(b"\0")
        } else {
            Bytes::new()
        };
        pb::Compare {
            result: result as i32,
            target: target as i32,
            key,
            range_end,
            target_union: Some(value),
        }
    }
}

fn op(request: InTxn) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

fn record_member(op: &Op) -> usize {
    op.member as usize - 1
}
