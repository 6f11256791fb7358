//! A naive model of the key space and the leases, written from etcd's rules and sharing nothing with the crate.
//!
//! All versions of all keys lie in one list in the order they were written. Every question walks the whole list.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use proto::error::{self, RpcError};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb::KeyValue;

type Refused = &'static RpcError;

#[derive(Clone)]
pub struct Row {
    pub main: i64,
    pub sub: i64,
    /// A deletion has only the key.
    pub deleted: bool,
    pub kv: KeyValue,
}

#[derive(Clone)]
pub struct Model {
    pub rows: Vec<Row>,
    pub revision: i64,
    pub compacted: i64,
    /// Id to granted TTL.
    pub leases: BTreeMap<i64, i64>,
    /// The last compactions: revision, the one before, hash.
    pub hashes: Vec<(i64, i64, u32)>,
    /// Changes of the transaction in progress.
    sub: i64,
}

impl Model {
    pub fn new() -> Model {
        Model {
            rows: Vec::new(),
            revision: 1,
            compacted: -1,
            leases: BTreeMap::new(),
            hashes: Vec::new(),
            sub: 0,
        }
    }

    /// Runs one request as a transaction of its own.
    pub fn run(&mut self, request: &Request) -> Result<Response, Refused> {
        let before = self.clone();
        self.sub = 0;
        let result = self.top(request);
        match result {
            Ok(_) => self.revision = self.seen(),
            Err(_) => *self = before,
        }
        self.sub = 0;
        result
    }

    fn top(&mut self, request: &Request) -> Result<Response, Refused> {
        match request {
            Request::RequestTxn(txn) => {
                let path = self.path(txn);
                self.check(txn, &mut path.iter(), &mut Vec::new())?;
                let mut response = self.execute(txn, &mut path.iter())?;
                response.header = header(self.seen());
                Ok(Response::ResponseTxn(response))
            }
            Request::RequestPut(put) => {
                self.check_put(put)?;
                self.do_op(request)
            }
            _ => self.do_op(request),
        }
    }

    pub fn grant(&mut self, id: i64, ttl: i64) -> Result<i64, Refused> {
        match () {
            () if id == 0 => Err(&error::LEASE_NOT_FOUND),
            () if ttl > 9_000_000_000 => Err(&error::LEASE_TTL_TOO_LARGE),
            () if self.leases.contains_key(&id) => Err(&error::LEASE_EXIST),
            () => {
                self.leases.insert(id, ttl.max(2));
                Ok(ttl.max(2))
            }
        }
    }

    pub fn revoke(&mut self, id: i64) -> Result<(), Refused> {
        if self.leases.remove(&id).is_none() {
            return Err(&error::LEASE_NOT_FOUND);
        }
        self.sub = 0;
        for kv in self
            .at(self.revision)
            .into_iter()
            .filter(|kv| kv.lease == id)
        {
            self.write_delete(&kv.key);
        }
        self.revision = self.seen();
        self.sub = 0;
        Ok(())
    }

    pub fn lease_keys(&self, id: i64) -> Vec<Vec<u8>> {
        let held = self
            .at(self.revision)
            .into_iter()
            .filter(|kv| id != 0 && kv.lease == id);
        held.map(|kv| kv.key.to_vec()).collect()
    }

    /// Takes rows away at once, as etcd does in the end.
    pub fn compact(&mut self, at: i64) -> Result<(), Refused> {
        if at <= self.compacted {
            return Err(&error::COMPACTED);
        }
        if at > self.revision {
            return Err(&error::FUTURE_REV);
        }
        let newest = self.newest_to(at);
        let stays = |row: &Row| {
            let is_newest = newest.get(&row.kv.key) == Some(&(row.main, row.sub));
            row.main > at || (is_newest && (!row.deleted || row.main == at))
        };
        let keep = self.rows.iter().filter(|row| row.main <= at && stays(row));
        let keep = keep.map(|row| (row.main, row.sub)).collect();
        let hash = self.hash_rows(at, &keep);
        self.hashes.push((at, self.compacted, hash));
        if self.hashes.len() > 10 {
            self.hashes.remove(0);
        }
        self.compacted = at;
        self.rows.retain(stays);
        Ok(())
    }

    /// The hash up to a revision, and the compaction it depends on.
    pub fn hash(&self, revision: i64) -> Result<(u32, i64), Refused> {
        let kept = self.hashes.iter().find(|(at, ..)| *at == revision);
        if let Some((_, before, hash)) = kept.filter(|_| revision > 0) {
            return Ok((*hash, *before));
        }
        if revision > 0 && revision < self.compacted {
            return Err(&error::COMPACTED);
        }
        if revision > self.revision {
            return Err(&error::FUTURE_REV);
        }
        let upto = if revision == 0 {
            self.revision
        } else {
            revision
        };
        let newest = self.newest_to(upto);
        let live =
            |row: &&Row| !row.deleted && newest.get(&row.kv.key) == Some(&(row.main, row.sub));
        let keep: BTreeSet<(i64, i64)> = self
            .rows
            .iter()
            .filter(live)
            .map(|row| (row.main, row.sub))
            .collect();
        Ok((self.hash_rows(upto, &keep), self.compacted))
    }

    fn hash_rows(&self, upto: i64, keep: &BTreeSet<(i64, i64)>) -> u32 {
        let mut hashed = b"key".to_vec();
        for row in self.rows.iter().filter(|row| row.main <= upto) {
            if row.main <= self.compacted
                && !keep.is_empty()
                && !keep.contains(&(row.main, row.sub))
            {
                continue;
            }
            if row.deleted && row.main == self.compacted {
                continue;
            }
            hashed.extend(row.main.to_be_bytes());
            hashed.push(b'_');
            hashed.extend(row.sub.to_be_bytes());
            hashed.extend(row.deleted.then_some(b't'));
            hashed.extend(row.kv.encode_to_vec());
        }
        crc32c::crc32c(&hashed)
    }

    pub fn range(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Refused> {
        let revision = self.seen();
        let at = match request.revision {
            at if at > revision => return Err(&error::FUTURE_REV),
            at if at <= 0 => revision,
            at if at < self.compacted => return Err(&error::COMPACTED),
            at => at,
        };
        let mut kvs = self.within(&request.key, &request.range_end, at);
        let count = kvs.len() as i64;
        let mut response = pb::RangeResponse {
            header: header(revision),
            count,
            ..Default::default()
        };
        if request.count_only {
            return Ok(response);
        }
        let filtered = [
            request.max_mod_revision,
            request.min_mod_revision,
            request.max_create_revision,
            request.min_create_revision,
        ];
        let no_order =
            request.sort_order == 0 || (request.sort_target == 0 && request.sort_order == 1);
        if request.limit > 0 && no_order && filtered == [0; 4] {
            kvs.truncate(request.limit as usize + 1);
        }
        kvs.retain(|kv| filtered[0] == 0 || kv.mod_revision <= filtered[0]);
        kvs.retain(|kv| kv.mod_revision >= filtered[1]);
        kvs.retain(|kv| filtered[2] == 0 || kv.create_revision <= filtered[2]);
        kvs.retain(|kv| kv.create_revision >= filtered[3]);
        match request.sort_target {
            1 => kvs.sort_by_key(|kv| kv.version * sign(request)),
            2 => kvs.sort_by_key(|kv| kv.create_revision * sign(request)),
            3 => kvs.sort_by_key(|kv| kv.mod_revision * sign(request)),
            4 if request.sort_order == 2 => kvs.sort_by(|a, b| b.value.cmp(&a.value)),
            4 => kvs.sort_by(|a, b| a.value.cmp(&b.value)),
            _ if request.sort_order == 2 => kvs.reverse(),
            _ => {}
        }
        if request.limit > 0 && kvs.len() > request.limit as usize {
            kvs.truncate(request.limit as usize);
            response.more = true;
        }
        if request.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                kv.lease = if request.sort_target == 4 {
                    kv.lease
                } else {
                    0
                };
            }
        }
        response.kvs = kvs;
        Ok(response)
    }

    /// The newest version of each key at or below `at`.
    fn newest_to(&self, at: i64) -> BTreeMap<Bytes, (i64, i64)> {
        self.rows
            .iter()
            .filter(|row| row.main <= at)
            .map(|row| (row.kv.key.clone(), (row.main, row.sub)))
            .collect()
    }

    /// All pairs that exist at `at`, in key order.
    fn at(&self, at: i64) -> Vec<KeyValue> {
        let mut pairs = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.main <= at) {
            if row.deleted {
                pairs.remove(&row.kv.key);
            } else {
                pairs.insert(row.kv.key.clone(), row.kv.clone());
            }
        }
        pairs.into_values().collect()
    }

    fn within(&self, key: &Bytes, end: &Bytes, at: i64) -> Vec<KeyValue> {
        let inside = |kv: &KeyValue| match &end[..] {
            b"" => kv.key == key,
            b"\0" => kv.key >= key,
            end => kv.key >= key && &kv.key[..] < end,
        };
        self.at(at).into_iter().filter(inside).collect()
    }

    fn seen(&self) -> i64 {
        self.revision + i64::from(self.sub > 0)
    }

    fn current(&self, key: &Bytes) -> Option<KeyValue> {
        self.within(key, &Bytes::new(), self.seen()).pop()
    }

    fn write(&mut self, deleted: bool, kv: KeyValue) {
        self.rows.push(Row {
            main: self.revision + 1,
            sub: self.sub,
            deleted,
            kv,
        });
        self.sub += 1;
    }

    fn write_delete(&mut self, key: &Bytes) {
        self.write(
            true,
            KeyValue {
                key: key.clone(),
                ..Default::default()
            },
        );
    }

    fn check_put(&self, put: &pb::PutRequest) -> Result<(), Refused> {
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(&error::LEASE_NOT_FOUND);
        }
        if (put.ignore_value || put.ignore_lease) && self.current(&put.key).is_none() {
            return Err(&error::KEY_NOT_FOUND);
        }
        Ok(())
    }

    /// Whether each transaction, outermost first, takes its first branch.
    fn path(&self, txn: &pb::TxnRequest) -> Vec<bool> {
        let taken = txn.compare.iter().all(|compare| self.holds(compare));
        let mut path = vec![taken];
        for op in if taken { &txn.success } else { &txn.failure } {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                path.extend(self.path(nested));
            }
        }
        path
    }

    fn check(
        &self,
        txn: &pb::TxnRequest,
        path: &mut dyn Iterator<Item = &bool>,
        changed: &mut Vec<(Vec<u8>, Option<Vec<u8>>)>,
    ) -> Result<(), Refused> {
        let taken = *path.next().expect("a branch");
        for op in if taken { &txn.success } else { &txn.failure } {
            match op.request.as_ref().ok_or(&error::KEY_NOT_FOUND)? {
                Request::RequestRange(range) if range.revision > self.revision => {
                    return Err(&error::FUTURE_REV);
                }
                Request::RequestRange(range)
                    if range.revision != 0 && range.revision < self.compacted =>
                {
                    return Err(&error::COMPACTED);
                }
                Request::RequestPut(put) => {
                    self.check_put(put)?;
                    let touches = |(from, end): &&(Vec<u8>, Option<Vec<u8>>)| match end {
                        None => put.key == from,
                        Some(end) if end.is_empty() => put.key == from,
                        Some(end) if end == b"\0" => put.key >= from,
                        Some(end) => put.key >= from && put.key < end,
                    };
                    let last = changed.iter().rev().find(touches);
                    if (put.ignore_value || put.ignore_lease)
                        && last.is_some_and(|(_, end)| end.is_some())
                    {
                        return Err(&error::KEY_NOT_FOUND);
                    }
                    changed.push((put.key.to_vec(), None));
                }
                Request::RequestDeleteRange(delete) => {
                    changed.push((delete.key.to_vec(), Some(delete.range_end.to_vec())));
                }
                Request::RequestTxn(nested) => self.check(nested, path, changed)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn execute(
        &mut self,
        txn: &pb::TxnRequest,
        path: &mut dyn Iterator<Item = &bool>,
    ) -> Result<pb::TxnResponse, Refused> {
        let succeeded = *path.next().expect("a branch");
        let mut responses = Vec::new();
        for op in if succeeded {
            &txn.success
        } else {
            &txn.failure
        } {
            let request = op.request.as_ref().expect("checked");
            let response = match request {
                Request::RequestTxn(nested) => Response::ResponseTxn(self.execute(nested, path)?),
                _ => self.do_op(request)?,
            };
            responses.push(pb::ResponseOp {
                response: Some(response),
            });
        }
        Ok(pb::TxnResponse {
            header: header(0),
            succeeded,
            responses,
        })
    }

    fn do_op(&mut self, request: &Request) -> Result<Response, Refused> {
        Ok(match request {
            Request::RequestRange(range) => Response::ResponseRange(self.range(range)?),
            Request::RequestPut(put) => {
                let old = self.current(&put.key);
                if (put.ignore_value || put.ignore_lease) && old.is_none() {
                    // Deleted earlier in this very transaction: the whole of it is refused.
                    return Err(&error::KEY_NOT_FOUND);
                }
                let mut kv = KeyValue {
                    key: put.key.clone(),
                    value: put.value.clone(),
                    lease: put.lease,
                    ..Default::default()
                };
                kv.mod_revision = self.revision + 1;
                (kv.create_revision, kv.version) =
                    old.as_ref().map_or((kv.mod_revision, 1), |old| {
                        (old.create_revision, old.version + 1)
                    });
                if let Some(old) = &old {
                    kv.value = if put.ignore_value {
                        old.value.clone()
                    } else {
                        kv.value
                    };
                    kv.lease = if put.ignore_lease {
                        old.lease
                    } else {
                        kv.lease
                    };
                }
                self.write(false, kv);
                Response::ResponsePut(pb::PutResponse {
                    header: header(self.seen()),
                    prev_kv: old.filter(|_| put.prev_kv),
                })
            }
            Request::RequestDeleteRange(delete) => {
                let old = self.within(&delete.key, &delete.range_end, self.seen());
                old.iter().for_each(|kv| self.write_delete(&kv.key));
                let deleted = old.len() as i64;
                let prev_kvs = if delete.prev_kv { old } else { Vec::new() };
                Response::ResponseDeleteRange(pb::DeleteRangeResponse {
                    header: header(self.seen()),
                    deleted,
                    prev_kvs,
                })
            }
            Request::RequestTxn(_) => unreachable!("nested transactions are executed elsewhere"),
        })
    }

    fn holds(&self, compare: &pb::Compare) -> bool {
        let pairs = self.within(&compare.key, &compare.range_end, self.revision);
        if pairs.is_empty() {
            return compare.target != 3 && agrees(compare, &KeyValue::default());
        }
        pairs.iter().all(|kv| agrees(compare, kv))
    }
}

fn agrees(compare: &pb::Compare, kv: &KeyValue) -> bool {
    let (have, want) = match (compare.target, &compare.target_union) {
        (3, union) => {
            let want = if let Some(TargetUnion::Value(value)) = union {
                value.clone()
            } else {
                Bytes::new()
            };
            return relation(compare.result, kv.value.cmp(&want));
        }
        (0, Some(TargetUnion::Version(want))) => (kv.version, *want),
        (1, Some(TargetUnion::CreateRevision(want))) => (kv.create_revision, *want),
        (2, Some(TargetUnion::ModRevision(want))) => (kv.mod_revision, *want),
        (4, Some(TargetUnion::Lease(want))) => (kv.lease, *want),
        (0, _) => (kv.version, 0),
        (1, _) => (kv.create_revision, 0),
        (2, _) => (kv.mod_revision, 0),
        (4, _) => (kv.lease, 0),
        _ => (0, 0),
    };
    relation(compare.result, have.cmp(&want))
}

fn relation(result: i32, ordering: std::cmp::Ordering) -> bool {
    match result {
        0 => ordering.is_eq(),
        1 => ordering.is_gt(),
        2 => ordering.is_lt(),
        3 => ordering.is_ne(),
        _ => true,
    }
}

fn sign(request: &pb::RangeRequest) -> i64 {
    if request.sort_order == 2 { -1 } else { 1 }
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        revision,
        ..Default::default()
    })
}
