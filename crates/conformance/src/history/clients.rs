//! Clients that call: they draw requests, wait for each answer before the next call, and note what they asked and what they got.
//!
//! Every put writes a value that no other put writes, so that a change can be traced to the call that made it.

use super::*;
use crate::grpc;
use proto::error;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as InTxn;

/// Leases that clients remember.
const LEASES_MAX: usize = 12;
/// No watcher starts so many revisions back.
const FAR_BEHIND: i64 = 4_000;
/// How long connecting may take: to a host that is cut off it would take minutes.
const CONNECT: Duration = Duration::from_secs(2);
/// "No" that is the same on all members.
const REPLICATED: [&error::RpcError; 4] = [
    &error::COMPACTED,
    &error::FUTURE_REV,
    &error::KEY_NOT_FOUND,
    &error::LEASE_NOT_FOUND,
];
/// "No" of one member, given before anything was proposed.
const REFUSED: [&str; 1] = ["etcdserver: too many requests"];

/// Calls until it is told to stop.
pub(super) async fn work(shared: Arc<Shared>, mut dice: Dice) {
    let mut member = shared.some_member(&mut dice);
    let mut connection: Option<Grpc> = None;
    while !shared.stop_calling.load(Ordering::Relaxed) {
        let think = shared.workload.think.as_micros() as u64;
        tokio::time::sleep(Duration::from_micros(dice.below(think.max(1)))).await;
        if dice.below(100) == 0 || !shared.serves(member) {
            connection = None;
            member = shared.some_member(&mut dice);
        }
        let Some(open) = connection_to(member, &mut connection).await else {
            member = shared.some_member(&mut dice);
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let Some(_call) = Calling::begin(&shared) else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let number = shared.call_begins(member, &mut dice);
        let request = shared.seen().ops[number].request.clone();
        let patience = shared.workload.patience;
        let answer = match tokio::time::timeout(patience, ask(&open, &request)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Transport("out of patience".into())),
        };
        let outcome = answer.unwrap_or_else(|failure| outcome_of(&request, &failure));
        let is_settled = !matches!(outcome, Outcome::Unknown | Outcome::Failed);
        shared.call_ends(number, outcome);
        if !is_settled {
            connection = None;
            member = shared.some_member(&mut dice);
        }
    }
}

/// A call under way, counted as long as it lives.
struct Calling<'a>(&'a Shared);

impl Calling<'_> {
    /// Nothing while all shall be silent.
    fn begin(shared: &Shared) -> Option<Calling<'_>> {
        shared.calling.fetch_add(1, Ordering::SeqCst);
        let calling = Calling(shared);
        (!shared.hold.load(Ordering::SeqCst)).then_some(calling)
    }
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.0.calling.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn connection_to(member: SocketAddr, open: &mut Option<Grpc>) -> Option<Grpc> {
    if open.is_none() {
        let connecting = Grpc::connect(member);
        *open = tokio::time::timeout(CONNECT, connecting).await.ok()?.ok();
    }
    open.clone()
}

async fn ask(connection: &Grpc, request: &Request) -> Result<Outcome, Failure> {
    Ok(match request {
        Request::Range(range) => Outcome::Range(connection.call(grpc::RANGE, range).await?),
        Request::Put(put) => Outcome::Put(connection.call(grpc::PUT, put).await?),
        Request::Delete(delete) => {
            Outcome::Delete(connection.call(grpc::DELETE_RANGE, delete).await?)
        }
        Request::Txn(txn) => Outcome::Txn(connection.call(grpc::TXN, txn).await?),
        Request::Compact { revision } => {
            let compact = pb::CompactionRequest {
                revision: *revision,
                physical: false,
            };
            let answer: pb::CompactionResponse = connection.call(grpc::COMPACT, &compact).await?;
            Outcome::Compacted {
                revision: revision_in(&answer.header),
            }
        }
        Request::LeaseGrant { id, ttl_s } => {
            let grant = pb::LeaseGrantRequest {
                id: *id,
                ttl: *ttl_s,
            };
            let answer: pb::LeaseGrantResponse = connection.call(grpc::LEASE_GRANT, &grant).await?;
            Outcome::LeaseGranted {
                ttl_s: answer.ttl,
                revision: revision_in(&answer.header),
            }
        }
        Request::LeaseRevoke { id } => {
            let revoke = pb::LeaseRevokeRequest { id: *id };
            let answer: pb::LeaseRevokeResponse =
                connection.call(grpc::LEASE_REVOKE, &revoke).await?;
            Outcome::LeaseRevoked {
                revision: revision_in(&answer.header),
            }
        }
        Request::LeaseKeepAlive { id } => {
            let mut stream = connection.open(grpc::LEASE_KEEP_ALIVE).await?;
            stream.send(&pb::LeaseKeepAliveRequest { id: *id }).await?;
            let answer: Option<pb::LeaseKeepAliveResponse> = stream.next().await?;
            let ttl_s = answer.map(|answer| answer.ttl);
            let ttl_s = ttl_s.ok_or_else(|| Failure::Transport("the stream ended".into()))?;
            Outcome::LeaseAlive {
                ttl_s: (ttl_s > 0).then_some(ttl_s),
            }
        }
        Request::Members => {
            let list = pb::MemberListRequest { linearizable: true };
            let answer: pb::MemberListResponse = connection.call(grpc::MEMBER_LIST, &list).await?;
            Outcome::Members(answer.members)
        }
        Request::LeaseTimeToLive { id } => {
            let look = pb::LeaseTimeToLiveRequest {
                id: *id,
                keys: false,
            };
            let answer: pb::LeaseTimeToLiveResponse =
                connection.call(grpc::LEASE_TIME_TO_LIVE, &look).await?;
            // An expired lease may remain until its end is agreed upon; -1 is none.
            Outcome::LeaseTime {
                time: (answer.granted_ttl > 0).then_some((answer.granted_ttl, answer.ttl)),
            }
        }
    })
}

fn revision_in(header: &Option<pb::ResponseHeader>) -> i64 {
    header.as_ref().map_or(0, |header| header.revision)
}

/// What a failed call means: an answer "no", certainly nothing, or nobody knows.
fn outcome_of(request: &Request, failure: &Failure) -> Outcome {
    if let Failure::Status { code, message } = failure {
        if let Some(error) = REPLICATED.iter().find(|error| error.text == message) {
            return Outcome::Rejected(error.text);
        }
        if REFUSED.contains(&message.as_str()) || *code == code::UNIMPLEMENTED {
            return Outcome::Failed;
        }
    }
    match request {
        Request::Range(_) | Request::LeaseTimeToLive { .. } | Request::Members => Outcome::Failed,
        _ => Outcome::Unknown,
    }
}

impl Shared {
    /// Notes a call that is about to be made.
    fn call_begins(&self, member: SocketAddr, dice: &mut Dice) -> usize {
        let member = self.number_of(member);
        let mut seen = self.seen();
        let request = Draw {
            seen: &mut seen,
            dice,
            workload: &self.workload,
        }
        .request();
        let call_us = self.now_us();
        seen.ops.push(Op {
            call_us,
            return_us: None,
            member,
            request,
            outcome: Outcome::Unknown,
        });
        seen.ops.len() - 1
    }

    /// Notes its answer.
    fn call_ends(&self, number: usize, outcome: Outcome) {
        let now_us = self.now_us();
        let mut seen = self.seen();
        let op = &mut seen.ops[number];
        op.return_us = (outcome != Outcome::Unknown).then_some(now_us);
        op.outcome = outcome;
        let op = op.clone();
        seen.acknowledged += usize::from(is_acknowledged(&op));
        seen.learn(&op);
    }
}

impl Seen {
    fn learn(&mut self, op: &Op) {
        let revision = op.revision().unwrap_or(0);
        self.revision = self.revision.max(revision);
        match (&op.outcome, &op.request) {
            (Outcome::Range(response), _) => {
                for kv in &response.kvs {
                    self.known
                        .insert(kv.key.clone(), (kv.mod_revision, kv.version));
                }
            }
            (Outcome::Delete(response), _) if response.deleted > 0 => self.deleted_at = revision,
            (Outcome::LeaseGranted { .. }, Request::LeaseGrant { id, .. }) => {
                if self.leases.len() == LEASES_MAX {
                    self.leases.remove(0);
                }
                self.leases.push(*id);
            }
            (
                Outcome::LeaseRevoked { .. } | Outcome::LeaseAlive { ttl_s: None },
                Request::LeaseRevoke { id } | Request::LeaseKeepAlive { id },
            ) => self.leases.retain(|known| known != id),
            _ => {}
        }
    }
}

/// Draws requests from what is known.
struct Draw<'a> {
    seen: &'a mut Seen,
    dice: &'a mut Dice,
    workload: &'a Workload,
}

impl Draw<'_> {
    fn chance(&mut self, of_1000: u64) -> bool {
        self.dice.below(1000) < of_1000
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.dice.below(from.len() as u64) as usize]
    }

    fn request(&mut self) -> Request {
        if self.chance(self.workload.compactions) {
            return self.compaction();
        }
        if self.chance(self.workload.leases) {
            return self.lease_call();
        }
        match self.dice.below(100) {
            0..40 => Request::Put(self.put()),
            40..52 => Request::Delete(self.delete()),
            52..80 => Request::Range(self.range()),
            80..95 => Request::Txn(self.txn(1)),
            _ => Request::Txn(self.read_txn()),
        }
    }

    /// Never above what a watcher of everything has received: the log must stay complete.
    fn compaction(&mut self) -> Request {
        let logged = self.seen.log.len() as i64 + 1;
        let revision = match self.dice.below(3) {
            _ if self.workload.spares_old_etcd => logged - FAR_BEHIND,
            // A watcher that starts there must still see the deletion.
            0 if self.seen.deleted_at > 0 => self.seen.deleted_at,
            1 => logged,
            _ => logged - self.dice.below(200) as i64,
        };
        let revision = revision.min(logged).max(1);
        self.seen.compacted = self.seen.compacted.max(revision);
        Request::Compact { revision }
    }

    fn lease_call(&mut self) -> Request {
        let known = self.seen.leases.clone();
        if known.is_empty() || self.chance(250) {
            self.seen.lease_last += 1;
            let ttl_s = self.pick(&[2, 2, 3, 5, 10, 60]);
            return Request::LeaseGrant {
                id: self.seen.lease_last,
                ttl_s,
            };
        }
        let id = self.pick(&known);
        match self.dice.below(10) {
            0..6 => Request::LeaseKeepAlive { id },
            6..8 => Request::LeaseTimeToLive { id },
            _ => Request::LeaseRevoke { id },
        }
    }

    fn key(&mut self) -> Bytes {
        key(self.dice, self.workload.keys)
    }

    fn put(&mut self) -> pb::PutRequest {
        self.seen.values += 1;
        let mut value = format!("v{}.", self.seen.values).into_bytes();
        let length = self.dice.below(self.workload.value_bytes.max(1)) as usize;
        value.resize(value.len().max(length), b'.');
        let leases = self.seen.leases.clone();
        let lease = match leases.is_empty() || !self.chance(200) {
            true => 0,
            false => self.pick(&leases),
        };
        pb::PutRequest {
            key: self.key(),
            value: value.into(),
            lease,
            prev_kv: self.chance(300),
            ..Default::default()
        }
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let (key, range_end) = match self.chance(150) {
            true => span(self.dice, self.workload.keys),
            false => (self.key(), Bytes::new()),
        };
        pb::DeleteRangeRequest {
            key,
            range_end,
            prev_kv: self.chance(300),
        }
    }

    fn range(&mut self) -> pb::RangeRequest {
        let (key, range_end) = span(self.dice, self.workload.keys);
        let newest = self.seen.revision;
        let revision = match self.chance(200) {
            true => (newest - self.dice.below(30) as i64 + 3).max(0),
            false => 0,
        };
        let mut range = pb::RangeRequest {
            key,
            range_end,
            revision,
            serializable: self.chance(250),
            ..Default::default()
        };
        if self.chance(300) {
            range.limit = 1 + self.dice.below(5) as i64;
        }
        // By key only: several keys may have the same revision, and which of them comes first is nowhere promised.
        if self.chance(150) {
            range.sort_target = SortTarget::Key as i32;
            range.sort_order = self.pick(&[SortOrder::Ascend, SortOrder::Descend]) as i32;
        }
        range.count_only = self.chance(80);
        range
    }

    /// Distinct keys, because a transaction may change a key only once.
    fn txn(&mut self, depth: u64) -> pb::TxnRequest {
        let compare = (0..self.dice.below(3)).map(|_| self.compare()).collect();
        let mut success = self.ops(depth);
        let failure = self.ops(depth);
        if success.is_empty() && failure.is_empty() {
            success.push(op(InTxn::RequestPut(self.put())));
        }
        pb::TxnRequest {
            compare,
            success,
            failure,
        }
    }

    fn ops(&mut self, depth: u64) -> Vec<pb::RequestOp> {
        let mut taken: Vec<Bytes> = Vec::new();
        let mut ops = Vec::new();
        for _ in 0..self.dice.below(4) {
            let request = match self.dice.below(10) {
                0..5 => {
                    let put = self.put();
                    if taken.contains(&put.key) {
                        continue;
                    }
                    taken.push(put.key.clone());
                    InTxn::RequestPut(put)
                }
                5..7 => {
                    let key = self.key();
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
                    let mut range = self.range();
                    // A member that is behind refuses what a later one accepts, and nobody can tell which was asked.
                    range.revision = 0;
                    range.serializable = false;
                    InTxn::RequestRange(range)
                }
                _ if depth > 0 && taken.is_empty() => {
                    let nested = self.txn(depth - 1);
                    return vec![op(InTxn::RequestTxn(nested))];
                }
                _ => continue,
            };
            ops.push(op(request));
        }
        ops
    }

    fn read_txn(&mut self) -> pb::TxnRequest {
        let serializable = self.chance(300);
        let compare = (0..self.dice.below(2)).map(|_| self.compare()).collect();
        let mut ranges = |count| -> Vec<pb::RequestOp> {
            let one = |_| {
                let mut range = self.range();
                range.revision = 0;
                range.serializable = serializable;
                op(InTxn::RequestRange(range))
            };
            (0..count).map(one).collect()
        };
        pb::TxnRequest {
            compare,
            success: ranges(2),
            failure: ranges(1),
        }
    }

    fn compare(&mut self) -> pb::Compare {
        let key = self.key();
        let (modified, version) = self.seen.known.get(&key).copied().unwrap_or_default();
        let (target, value) = match self.dice.below(5) {
            0 | 1 => (CompareTarget::Mod, TargetUnion::ModRevision(modified)),
            2 => (CompareTarget::Version, TargetUnion::Version(version)),
            3 => (CompareTarget::Create, TargetUnion::CreateRevision(modified)),
            _ => (
                CompareTarget::Value,
                TargetUnion::Value(Bytes::from_static(b"v")),
            ),
        };
        let results = [
            CompareResult::Equal,
            CompareResult::Equal,
            CompareResult::Greater,
            CompareResult::Less,
            CompareResult::NotEqual,
        ];
        let range_end = match self.chance(100) {
            true => Bytes::from_static(b"\0"),
            false => Bytes::new(),
        };
        pb::Compare {
            result: self.pick(&results) as i32,
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

/// Keys live under two prefixes, so that ranges can name one of them.
fn key(dice: &mut Dice, keys: u64) -> Bytes {
    let number = dice.below(keys);
    let prefix = if number.is_multiple_of(2) { "a" } else { "b" };
    format!("{prefix}/{number:02}").into()
}

/// Key and end: one key mostly, a prefix, a stretch, or everything.
pub(super) fn span(dice: &mut Dice, keys: u64) -> (Bytes, Bytes) {
    match dice.below(10) {
        0..5 => (key(dice, keys), Bytes::new()),
        5 | 6 => (Bytes::from_static(b"a/"), Bytes::from_static(b"a0")),
        7 => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        _ => {
            let (from, to) = (key(dice, keys), key(dice, keys));
            if from < to {
                (from, to)
            } else {
                (from, Bytes::from_static(b"\0"))
            }
        }
    }
}
