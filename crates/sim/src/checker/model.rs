//! What the key space must look like at each revision, and what each request must answer there. Written from etcd's documentation
//! of behaviour, not from the implementation it checks: a map from keys to all their versions.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as InTxn;
use proto::etcdserverpb::response_op::Response as OutOfTxn;
use proto::mvccpb::KeyValue;

use super::history::{Change, Revision};

/// A version of a key, or its deletion, and the revision that made it.
type Version = (i64, Option<KeyValue>);

/// All versions of all keys.
#[derive(Clone, Debug, Default)]
pub struct Model {
    keys: BTreeMap<Bytes, Vec<Version>>,
    /// Keys now attached to each lease.
    attached: BTreeMap<i64, BTreeSet<Bytes>>,
    /// Changes of the request being tried.
    tried: Vec<Change>,
}

/// What a request would do.
#[derive(Debug, Default)]
pub struct Tried<R> {
    /// Its answer, without headers.
    pub response: R,
    /// Its changes, in order.
    pub changes: Vec<Change>,
}

impl Model {
    /// Takes over what the log says about a revision.
    pub fn follow(&mut self, revision: &Revision) {
        for change in &revision.changes {
            self.set(revision.number, change);
        }
    }

    /// The keys attached to a lease.
    #[must_use]
    pub fn keys_of(&self, lease: i64) -> Vec<Bytes> {
        self.attached
            .get(&lease)
            .map(|keys| keys.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// The key at a revision.
    #[must_use]
    pub fn get(&self, key: &[u8], at: i64) -> Option<&KeyValue> {
        let versions = self.keys.get(key)?;
        let newer = versions.partition_point(|(revision, _)| *revision <= at);
        versions[..newer].last()?.1.as_ref()
    }

    /// What a put at `revision` answers and changes, when nothing newer is known.
    pub fn put(&mut self, request: &pb::PutRequest, revision: i64) -> Tried<pb::PutResponse> {
        self.attempt(revision, |model| model.do_put(request, revision))
    }

    /// The same for a deletion.
    pub fn delete(
        &mut self,
        request: &pb::DeleteRangeRequest,
        revision: i64,
    ) -> Tried<pb::DeleteRangeResponse> {
        self.attempt(revision, |model| model.do_delete(request, revision))
    }

    /// The same for a transaction.
    pub fn txn(&mut self, request: &pb::TxnRequest, revision: i64) -> Tried<pb::TxnResponse> {
        self.attempt(revision, |model| {
            let plan = model.decide(request, revision - 1);
            model.do_txn(request, &plan, &mut 0, revision)
        })
    }

    /// What a range answers when the newest revision is `now`.
    #[must_use]
    pub fn range(&self, request: &pb::RangeRequest, now: i64) -> pb::RangeResponse {
        let at = if request.revision > 0 {
            request.revision
        } else {
            now
        };
        let mut found: Vec<&KeyValue> = self.span(&request.key, &request.range_end, at);
        let count = found.len() as i64;
        if request.count_only {
            return pb::RangeResponse {
                count,
                ..Default::default()
            };
        }
        let within = |number: i64, low: i64, high: i64| {
            (low == 0 || number >= low) && (high == 0 || number <= high)
        };
        found.retain(|kv| {
            within(
                kv.mod_revision,
                request.min_mod_revision,
                request.max_mod_revision,
            ) && within(
                kv.create_revision,
                request.min_create_revision,
                request.max_create_revision,
            )
        });
        sort(&mut found, request);
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let more = limit > 0 && found.len() > limit;
        if more {
            found.truncate(limit);
        }
        let kvs = found
            .into_iter()
            .map(|kv| {
                if request.keys_only {
                    without_value(kv)
                } else {
                    kv.clone()
                }
            })
            .collect();
        pb::RangeResponse {
            header: None,
            kvs,
            more,
            count,
        }
    }

    /// Runs `action`, notes its changes, and takes them back.
    fn attempt<R>(&mut self, revision: i64, action: impl FnOnce(&mut Model) -> R) -> Tried<R> {
        self.tried.clear();
        let response = action(self);
        let changes = std::mem::take(&mut self.tried);
        for change in changes.iter().rev() {
            self.unset(revision, &change.key);
        }
        Tried { response, changes }
    }

    fn change(&mut self, revision: i64, key: Bytes, now: Option<KeyValue>) {
        let change = Change { key, now };
        self.set(revision, &change);
        self.tried.push(change);
    }

    fn set(&mut self, revision: i64, change: &Change) {
        let key = &change.key;
        if let Some(old) = self.get(key, revision).map(|kv| kv.lease) {
            self.detach(old, key);
        }
        if let Some(new) = &change.now {
            self.attach(new.lease, key);
        }
        self.keys
            .entry(key.clone())
            .or_default()
            .push((revision, change.now.clone()));
    }

    fn unset(&mut self, revision: i64, key: &Bytes) {
        if let Some(lease) = self.get(key, revision).map(|kv| kv.lease) {
            self.detach(lease, key);
        }
        if let Some(versions) = self.keys.get_mut(key) {
            versions.pop();
        }
        if let Some(lease) = self.get(key, revision).map(|kv| kv.lease) {
            self.attach(lease, key);
        }
    }

    fn attach(&mut self, lease: i64, key: &Bytes) {
        if lease != 0 {
            self.attached.entry(lease).or_default().insert(key.clone());
        }
    }

    fn detach(&mut self, lease: i64, key: &Bytes) {
        if let Some(keys) = self.attached.get_mut(&lease) {
            keys.remove(key);
        }
    }

    /// The pairs from `key` to before `range_end`, at a revision, in key order.
    fn span(&self, key: &Bytes, range_end: &Bytes, at: i64) -> Vec<&KeyValue> {
        if range_end.is_empty() {
            return self.get(key, at).into_iter().collect();
        }
        let keys = self.keys.range(key.clone()..).map(|(key, _)| key);
        keys.take_while(|key| range_end[..] == *b"\0" || *key < range_end)
            .filter_map(|key| self.get(key, at))
            .collect()
    }

    fn do_put(&mut self, request: &pb::PutRequest, revision: i64) -> pb::PutResponse {
        let old = self.get(&request.key, revision).cloned();
        let kept = old.as_ref();
        let now = KeyValue {
            key: request.key.clone(),
            create_revision: kept.map_or(revision, |old| old.create_revision),
            mod_revision: revision,
            version: kept.map_or(1, |old| old.version + 1),
            value: kept
                .filter(|_| request.ignore_value)
                .map_or(request.value.clone(), |old| old.value.clone()),
            lease: kept
                .filter(|_| request.ignore_lease)
                .map_or(request.lease, |old| old.lease),
        };
        self.change(revision, request.key.clone(), Some(now));
        pb::PutResponse {
            header: None,
            prev_kv: old.filter(|_| request.prev_kv),
        }
    }

    fn do_delete(
        &mut self,
        request: &pb::DeleteRangeRequest,
        revision: i64,
    ) -> pb::DeleteRangeResponse {
        let old: Vec<KeyValue> = self
            .span(&request.key, &request.range_end, revision)
            .into_iter()
            .cloned()
            .collect();
        for kv in &old {
            self.change(revision, kv.key.clone(), None);
        }
        pb::DeleteRangeResponse {
            header: None,
            deleted: old.len() as i64,
            prev_kvs: if request.prev_kv { old } else { Vec::new() },
        }
    }

    /// Which branches are taken, in the order in which the transactions are met.
    fn decide(&self, request: &pb::TxnRequest, at: i64) -> Vec<bool> {
        let succeeded = request
            .compare
            .iter()
            .all(|compare| self.holds(compare, at));
        let mut plan = vec![succeeded];
        for op in if succeeded {
            &request.success
        } else {
            &request.failure
        } {
            if let Some(InTxn::RequestTxn(nested)) = &op.request {
                plan.extend(self.decide(nested, at));
            }
        }
        plan
    }

    fn do_txn(
        &mut self,
        request: &pb::TxnRequest,
        plan: &[bool],
        at: &mut usize,
        revision: i64,
    ) -> pb::TxnResponse {
        let succeeded = plan.get(*at).copied().unwrap_or(false);
        *at += 1;
        let mut responses = Vec::new();
        for op in if succeeded {
            &request.success
        } else {
            &request.failure
        } {
            let response = match &op.request {
                Some(InTxn::RequestRange(range)) => {
                    OutOfTxn::ResponseRange(self.range(range, revision))
                }
                Some(InTxn::RequestPut(put)) => OutOfTxn::ResponsePut(self.do_put(put, revision)),
                Some(InTxn::RequestDeleteRange(delete)) => {
                    OutOfTxn::ResponseDeleteRange(self.do_delete(delete, revision))
                }
                Some(InTxn::RequestTxn(nested)) => {
                    OutOfTxn::ResponseTxn(self.do_txn(nested, plan, at, revision))
                }
                None => continue,
            };
            responses.push(pb::ResponseOp {
                response: Some(response),
            });
        }
        pb::TxnResponse {
            header: None,
            succeeded,
            responses,
        }
    }

    fn holds(&self, compare: &pb::Compare, at: i64) -> bool {
        let found = self.span(&compare.key, &compare.range_end, at);
        let absent = KeyValue::default();
        let is_absent = found.is_empty();
        if is_absent && compare.target == CompareTarget::Value as i32 {
            return false;
        }
        let all = if is_absent { vec![&absent] } else { found };
        all.into_iter().all(|kv| {
            let ordering = match &compare.target_union {
                Some(TargetUnion::Version(wanted)) => kv.version.cmp(wanted),
                Some(TargetUnion::CreateRevision(wanted)) => kv.create_revision.cmp(wanted),
                Some(TargetUnion::ModRevision(wanted)) => kv.mod_revision.cmp(wanted),
                Some(TargetUnion::Value(wanted)) => kv.value.cmp(wanted),
                Some(TargetUnion::Lease(wanted)) => kv.lease.cmp(wanted),
                None => Ordering::Equal,
            };
            match CompareResult::try_from(compare.result) {
                Ok(CompareResult::Equal) => ordering.is_eq(),
                Ok(CompareResult::Greater) => ordering.is_gt(),
                Ok(CompareResult::Less) => ordering.is_lt(),
                Ok(CompareResult::NotEqual) => ordering.is_ne(),
                Err(_) => true,
            }
        })
    }
}

fn without_value(kv: &KeyValue) -> KeyValue {
    KeyValue {
        value: Bytes::new(),
        lease: 0,
        ..kv.clone()
    }
}

/// Sorting keeps the order of keys among equals. A field to sort by, with no order given, means ascending.
fn sort(found: &mut [&KeyValue], request: &pb::RangeRequest) {
    let descending = request.sort_order == SortOrder::Descend as i32;
    let by = |order: fn(&KeyValue, &KeyValue) -> Ordering| {
        move |a: &&KeyValue, b: &&KeyValue| if descending { order(b, a) } else { order(a, b) }
    };
    match SortTarget::try_from(request.sort_target) {
        Ok(SortTarget::Key) => found.sort_by(by(|a, b| a.key.cmp(&b.key))),
        Ok(SortTarget::Version) => found.sort_by(by(|a, b| a.version.cmp(&b.version))),
        Ok(SortTarget::Create) => {
            found.sort_by(by(|a, b| a.create_revision.cmp(&b.create_revision)))
        }
        Ok(SortTarget::Mod) => found.sort_by(by(|a, b| a.mod_revision.cmp(&b.mod_revision))),
        Ok(SortTarget::Value) => found.sort_by(by(|a, b| a.value.cmp(&b.value))),
        Err(_) => {}
    }
}

/// A response to a transaction without the headers in it, for comparison.
pub fn strip_headers(response: &mut pb::TxnResponse) {
    response.header = None;
    for op in &mut response.responses {
        match &mut op.response {
            Some(OutOfTxn::ResponseRange(range)) => range.header = None,
            Some(OutOfTxn::ResponsePut(put)) => put.header = None,
            Some(OutOfTxn::ResponseDeleteRange(delete)) => delete.header = None,
            Some(OutOfTxn::ResponseTxn(txn)) => strip_headers(txn),
            None => {}
        }
    }
}
