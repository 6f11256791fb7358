//! The state against a naive model: every answer, every event, every hash, through restarts, compactions and rewrites.

mod common;
#[path = "model/reference.rs"]
mod reference;

use std::ops::ControlFlow;

use bytes::Bytes;
use common::{Member, bytes, op};
use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op;
use proto::mvccpb::KeyValue;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use reference::Model;
use state::{Applied, EventKind, ReadError, Response};

const KEYS: [&str; 9] = ["", "a", "b", "c", "ca", "cb", "d", "e\0", "\u{ff}"];
const ENDS: [&str; 8] = ["", "", "", "\0", "c", "cb", "d", "z"];

#[test]
fn every_answer_is_the_models() {
    for seed in 0..4 {
        Run::new(seed).operations(25_000);
    }
}

struct Run {
    member: Member,
    model: Model,
    /// The last compaction before the last checkpoint.
    checkpointed: i64,
    random: ChaCha8Rng,
}

impl Run {
    fn new(seed: u64) -> Run {
        Run {
            member: Member::new(),
            model: Model::new(),
            checkpointed: -1,
            random: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    fn operations(&mut self, count: usize) {
        for _ in 0..count {
            match self.below(1000) {
                0..300 => self.change(|run| run.put()),
                300..400 => self.change(|run| run.delete()),
                400..560 => self.change(|run| run.txn(3)),
                560..860 => self.read(),
                860..880 => self.grant(),
                880..895 => self.revoke(),
                895..915 => self.compact(),
                915..935 => self.hash(),
                935..990 => self.maintain(),
                990..993 => self.events(),
                993..996 => self.rows(),
                996..998 => self.checkpoint(),
                998 => self.rewrite(),
                _ => self.restart(),
            }
        }
        self.restart();
        self.rows();
    }

    fn change(&mut self, make: impl FnOnce(&mut Run) -> Request) {
        let request = make(self);
        let before = self.model.revision;
        let expected = self.model.run(&request).map_err(|error| error.text);
        let Applied {
            outcome, events, ..
        } = self.member.op(request.clone());
        let actual = outcome
            .map_err(|rejected| rejected.0.text)
            .map(|response| match response {
                Response::Range(response) => response_op::Response::ResponseRange(response),
                Response::Put(response) => response_op::Response::ResponsePut(response),
                Response::DeleteRange(response) => {
                    response_op::Response::ResponseDeleteRange(response)
                }
                Response::Txn(response) => response_op::Response::ResponseTxn(response),
                other => panic!("an answer to something else: {other:?}"),
            });
        assert_eq!(actual, expected, "{request:?}");
        self.assert_events(&events, before);
    }

    /// The events are the rows that the model has written since.
    fn assert_events(&self, events: &[state::Event], after: i64) {
        let rows: Vec<_> = self
            .model
            .rows
            .iter()
            .filter(|row| row.main > after)
            .collect();
        assert_eq!(events.len(), rows.len());
        for (event, row) in events.iter().zip(rows) {
            assert_eq!(
                (event.revision.main, event.revision.sub),
                (row.main, row.sub)
            );
            assert_eq!(
                (event.kind == EventKind::Delete, &event.key),
                (row.deleted, &row.kv.key)
            );
            let sent = KeyValue {
                mod_revision: row.main,
                ..row.kv.clone()
            };
            assert_eq!(event.kv, sent.encode_to_vec());
        }
    }

    fn read(&mut self) {
        let request = self.range();
        let expected = self.model.range(&request).map_err(|error| error.text);
        let view = self.member.state.view();
        let actual = view
            .range(&request)
            .map_err(text)
            .map(|result| pb::RangeResponse {
                header: Some(pb::ResponseHeader {
                    revision: result.revision,
                    ..Default::default()
                }),
                kvs: result
                    .kvs
                    .into_iter()
                    .map(|kv| KeyValue::decode(kv).expect("a pair"))
                    .collect(),
                more: result.more,
                count: result.count,
            });
        assert_eq!(actual, expected, "{request:?}");
    }

    fn grant(&mut self) {
        let (id, ttl) = (
            self.below(12) as i64 - 2,
            self.pick(&[-1, 0, 1, 60, 9_000_000_000, 9_000_000_001]),
        );
        let expected = self.model.grant(id, ttl).map_err(|error| error.text);
        let outcome = self
            .member
            .grant(id, ttl)
            .outcome
            .map_err(|rejected| rejected.0.text);
        let granted = outcome.map(|response| match response {
            Response::LeaseGrant(response) => response.ttl,
            other => panic!("an answer to something else: {other:?}"),
        });
        assert_eq!(granted, expected);
    }

    fn revoke(&mut self) {
        let id = self.below(12) as i64 - 2;
        let (keys, before) = (self.model.lease_keys(id), self.model.revision);
        assert_eq!(self.member.state.view().leases().keys(id), keys);
        let expected = self.model.revoke(id).map_err(|error| error.text);
        let applied = self.member.revoke(id);
        assert_eq!(
            applied
                .outcome
                .map(|_| ())
                .map_err(|rejected| rejected.0.text),
            expected
        );
        self.assert_events(&applied.events, before);
    }

    fn compact(&mut self) {
        let lowest = self.model.compacted.max(self.model.revision - 40) - 1;
        let revision = lowest + self.below((self.model.revision - lowest + 3) as u64) as i64;
        let expected = self.model.compact(revision).map_err(|error| error.text);
        let outcome = self.member.compact(revision).outcome;
        assert_eq!(
            outcome.map(|_| ()).map_err(|rejected| rejected.0.text),
            expected
        );
    }

    fn hash(&mut self) {
        let past = self.below(12) as usize;
        let revision = match self.model.hashes.get(past) {
            Some((compacted, ..)) => *compacted,
            None => self.revision(),
        };
        let actual = self
            .member
            .state
            .view()
            .hash_kv(revision)
            .map(|hash| (hash.hash, hash.compact_revision))
            .map_err(text);
        assert_eq!(
            actual,
            self.model.hash(revision).map_err(|error| error.text),
            "hash at {revision}"
        );
    }

    fn maintain(&mut self) {
        let budget = self.below(4) as usize;
        let view = self.member.state.view();
        let before = view.hash_kv(0).expect("the current revision").hash;
        self.member.state.maintain(budget);
        if budget == 3
            && let Some(job) = self.member.state.hash_job()
        {
            self.member.state.hashed(&job.run().expect("sound data"));
        }
        assert_eq!(
            view.hash_kv(0).expect("the current revision").hash,
            before,
            "tidying changed a view"
        );
    }

    fn checkpoint(&mut self) {
        self.checkpointed = self.model.compacted;
        self.member.checkpoint();
    }

    fn rewrite(&mut self) {
        while self.member.state.maintain(100) {}
        self.checkpoint();
        self.member.rewrite();
    }

    fn restart(&mut self) {
        let before = self.member.state.view();
        self.member.restart();
        let checkpointed = self.checkpointed;
        let replayed = |(compacted, ..): &(i64, i64, u32)| *compacted > checkpointed;
        self.model.hashes.retain(replayed);
        let after = self.member.state.view();
        assert_eq!(after.applied(), before.applied());
        assert_eq!(after.revision(), before.revision());
        assert_eq!(after.compact_revision(), before.compact_revision());
        assert_eq!(
            after.hash().expect("sound data"),
            before.hash().expect("sound data")
        );
        assert_eq!(after.leases().all(), before.leases().all());
        for (id, _) in before.leases().all() {
            assert_eq!(after.leases().keys(id), before.leases().keys(id));
        }
    }

    /// History from any revision on comes in pages that leave nothing out and tear nothing apart.
    fn events(&mut self) {
        let view = self.member.state.view();
        let mut from = self.revision().max(1);
        if from < self.model.compacted {
            assert!(view.events(from, i64::MAX, 10, 1000).is_err());
            return;
        }
        let expected: Vec<_> = self
            .model
            .rows
            .iter()
            .filter(|row| row.main >= from)
            .map(|row| (row.main, row.sub))
            .collect();
        let mut actual = Vec::new();
        while from <= view.revision() {
            let page = view.events(from, i64::MAX, 3, 200).expect("readable");
            assert!(page.next_revision > from);
            actual.extend(
                page.events
                    .iter()
                    .map(|event| (event.revision.main, event.revision.sub)),
            );
            from = page.next_revision;
        }
        actual.retain(|revision| revision.0 > self.model.compacted || expected.contains(revision));
        assert_eq!(actual, expected);
    }

    /// The key bucket holds what the model has not compacted.
    fn rows(&mut self) {
        let mut actual = Vec::new();
        let view = self.member.state.view();
        let result = view.rows(|bucket, key, value| {
            if bucket == "key" {
                actual.push((key.to_vec(), value.to_vec()));
            }
            ControlFlow::Continue(())
        });
        result.expect("sound data");
        let row = |row: &reference::Row| {
            let mut key = [&row.main.to_be_bytes()[..], b"_", &row.sub.to_be_bytes()].concat();
            key.extend(row.deleted.then_some(b't'));
            (key, row.kv.encode_to_vec())
        };
        assert_eq!(actual, self.model.rows.iter().map(row).collect::<Vec<_>>());
    }

    fn put(&mut self) -> Request {
        let (ignore_value, ignore_lease) = (self.below(8) == 0, self.below(8) == 0);
        let size = self.below(40) as usize;
        let value = if ignore_value {
            Bytes::new()
        } else {
            Bytes::from(vec![b'a' + size as u8 % 3; size])
        };
        let lease = if ignore_lease || self.below(2) == 0 {
            0
        } else {
            self.below(10) as i64 - 1
        };
        Request::RequestPut(pb::PutRequest {
            key: self.key(),
            value,
            lease,
            prev_kv: self.below(2) == 0,
            ignore_value,
            ignore_lease,
        })
    }

    fn delete(&mut self) -> Request {
        let (key, range_end) = self.keys();
        Request::RequestDeleteRange(pb::DeleteRangeRequest {
            key,
            range_end,
            prev_kv: self.below(2) == 0,
        })
    }

    /// Now and then one that the edge would have refused: whatever decodes may be in the log.
    fn txn(&mut self, depth: u64) -> Request {
        let compare = (0..self.below(3)).map(|_| self.compare()).collect();
        let mut branch = || (0..self.below(4)).map(|_| op(self.op(depth))).collect();
        let (success, failure) = (branch(), branch());
        let txn = pb::TxnRequest {
            compare,
            success,
            failure,
        };
        if state::validate::txn(&txn, 1000).is_err() && self.below(20) > 0 {
            return self.put();
        }
        Request::RequestTxn(txn)
    }

    fn op(&mut self, depth: u64) -> Request {
        match self.below(if depth > 0 { 8 } else { 6 }) {
            0..3 => self.put(),
            3 => self.delete(),
            4 | 5 => Request::RequestRange(self.range()),
            _ => self.txn(depth - 1),
        }
    }

    fn compare(&mut self) -> pb::Compare {
        let (key, range_end) = self.keys();
        let number = self.pick(&[0, 0, 1, 2, self.model.revision, self.model.revision - 5]);
        let target_union = match self.below(6) {
            0 => Some(TargetUnion::Version(number)),
            1 => Some(TargetUnion::CreateRevision(number)),
            2 => Some(TargetUnion::ModRevision(number)),
            3 => Some(TargetUnion::Value(Bytes::from(vec![
                b'b';
                self.below(3) as usize
            ]))),
            4 => Some(TargetUnion::Lease(self.below(10) as i64 - 1)),
            _ => None,
        };
        // Mostly the target of the union, and now and then another, or one that does not exist.
        let target = match &target_union {
            Some(TargetUnion::Version(_)) => 0,
            Some(TargetUnion::CreateRevision(_)) => 1,
            Some(TargetUnion::ModRevision(_)) => 2,
            Some(TargetUnion::Value(_)) => 3,
            _ => 4,
        };
        let target = if self.below(10) == 0 {
            self.below(7) as i32
        } else {
            target
        };
        pb::Compare {
            result: self.below(5) as i32,
            target,
            key,
            range_end,
            target_union,
        }
    }

    fn range(&mut self) -> pb::RangeRequest {
        let (key, range_end) = self.keys();
        let rarely = |run: &mut Run| if run.below(6) == 0 { run.revision() } else { 0 };
        let filters = [rarely(self), rarely(self), rarely(self), rarely(self)];
        pb::RangeRequest {
            key,
            range_end,
            limit: self.pick(&[0, 0, 1, 2, 3, -1, i64::MAX]),
            revision: if self.below(3) == 0 {
                self.revision()
            } else {
                0
            },
            sort_order: self.below(4) as i32 % 3,
            sort_target: self.pick(&[0, 0, 1, 2, 3, 4]),
            serializable: false,
            keys_only: self.below(5) == 0,
            count_only: self.below(8) == 0,
            min_mod_revision: filters[0],
            max_mod_revision: filters[1],
            min_create_revision: filters[2],
            max_create_revision: filters[3],
        }
    }

    fn key(&mut self) -> Bytes {
        bytes(self.pick(&KEYS))
    }

    fn keys(&mut self) -> (Bytes, Bytes) {
        (self.key(), bytes(self.pick(&ENDS)))
    }

    /// A revision around those that exist.
    fn revision(&mut self) -> i64 {
        let near = [self.model.compacted, self.model.revision];
        let chosen = self.pick(&near) + self.below(5) as i64 - 2;
        self.pick(&[chosen, chosen, chosen, self.model.revision - 15, 0])
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.next_u64() % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

fn text(error: ReadError) -> &'static str {
    match error {
        ReadError::Rejected(rejected) => rejected.0.text,
        ReadError::Fault(fault) => panic!("{fault}"),
    }
}
