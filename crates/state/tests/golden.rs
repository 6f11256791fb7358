//! Transcripts of real etcd: the same requests give the same revisions and the same hashes.
//!
//! `golden/record.py` makes a transcript and describes its lines. The workload is random and has everything that changes keys: puts with
//! and without leases, `ignore_value` and `ignore_lease`, deletions of ranges, nested transactions with all compares, compactions at every place,
//! revoked leases. Between them it asks for `HashKV` at many revisions.

mod common;

use bytes::Bytes;
use common::{Member, bytes, op};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use serde_json::Value;
use state::Applied;

#[test]
fn revisions_and_hashes_are_those_of_etcd_3_5_30() {
    replay(include_str!("golden/etcd-3.5.30-seed-1.jsonl"), |_, _| {});
}

/// This one asks for hashes at compactions, too: etcd keeps the last ten.
#[test]
fn the_hashes_of_past_compactions_are_those_of_etcd_3_5_30() {
    let transcript = include_str!("golden/etcd-3.5.30-seed-2.jsonl");
    replay(transcript, |_, _| {});
    replay(transcript, |member, line| {
        if line % 3 == 0 {
            member.state.maintain(2);
        }
        if line % 7 == 0
            && let Some(job) = member.state.hash_job()
        {
            member.state.hashed(&job.run().expect("sound data"));
        }
        if line % 50 == 0 {
            while member.state.maintain(5) {}
            member.checkpoint();
            member.rewrite();
        }
    });
}

#[test]
fn hashes_do_not_depend_on_how_far_tidying_has_come() {
    replay(
        include_str!("golden/etcd-3.5.30-seed-1.jsonl"),
        |member, line| {
            if line % 3 == 0 {
                member.state.maintain(2);
            }
            if line % 50 == 0 {
                while member.state.maintain(5) {}
                member.checkpoint();
                member.rewrite();
            }
            if line % 70 == 0 {
                member.restart();
            }
        },
    );
}

fn replay(transcript: &str, mut between: impl FnMut(&mut Member, usize)) {
    let mut member = Member::new();
    for (line, text) in transcript.lines().enumerate() {
        let (request, answer) = text.split_once(" => ").expect("a request and an answer");
        let request: Value = serde_json::from_str(request).expect("JSON");
        let answer: Value = serde_json::from_str(answer).expect("JSON");
        assert_eq!(
            run(&mut member, &request),
            answer,
            "line {}: {text}",
            line + 1
        );
        between(&mut member, line);
    }
}

fn run(member: &mut Member, request: &Value) -> Value {
    let (kind, args) = request
        .as_object()
        .and_then(|object| object.iter().next())
        .expect("one request");
    let number = |at: usize| args[at].as_i64().expect("a number");
    let applied = match kind.as_str() {
        "hash" => {
            let hash = member.state.view().hash_kv(number(0));
            return hash.map_or(Value::from("error"), |hash| {
                Value::from(vec![i64::from(hash.hash), hash.compact_revision])
            });
        }
        "grant" => member.grant(number(0), number(1)),
        "revoke" => member.revoke(number(0)),
        "compact" => member.compact(number(0)),
        _ => {
            let request = request_of(request);
            if refused_at_the_edge(&request) {
                return Value::from("error");
            }
            member.op(request)
        }
    };
    let Applied { outcome, .. } = applied;
    outcome.map_or(Value::from("error"), |_| {
        Value::from(member.state.view().revision())
    })
}

fn refused_at_the_edge(request: &Request) -> bool {
    let checked = match request {
        Request::RequestRange(request) => state::validate::range(request),
        Request::RequestPut(request) => state::validate::put(request),
        Request::RequestDeleteRange(request) => state::validate::delete_range(request),
        Request::RequestTxn(request) => state::validate::txn(request, state::validate::TXN_OPS_MAX),
    };
    checked.is_err()
}

fn request_of(request: &Value) -> Request {
    let (kind, args) = request
        .as_object()
        .and_then(|object| object.iter().next())
        .expect("one request");
    let text = |at: usize| bytes(args[at].as_str().expect("a text"));
    match kind.as_str() {
        "put" => {
            let flags = args[3].as_i64().expect("flags");
            Request::RequestPut(pb::PutRequest {
                key: text(0),
                value: text(1),
                lease: args[2].as_i64().expect("a lease"),
                prev_kv: false,
                ignore_value: flags & 1 != 0,
                ignore_lease: flags & 2 != 0,
            })
        }
        "delete" => Request::RequestDeleteRange(pb::DeleteRangeRequest {
            key: text(0),
            range_end: text(1),
            prev_kv: false,
        }),
        "txn" => {
            let list = |name: &str| args[name].as_array().expect("a list").iter();
            let ops = |name| list(name).map(|request| op(request_of(request))).collect();
            Request::RequestTxn(pb::TxnRequest {
                compare: list("if").map(compare_of).collect(),
                success: ops("then"),
                failure: ops("else"),
            })
        }
        other => panic!("unknown request {other}"),
    }
}

fn compare_of(compare: &Value) -> pb::Compare {
    let text = |at: usize| compare[at].as_str().expect("a text");
    let number = || compare[4].as_i64().expect("a number");
    let result = CompareResult::from_str_name(text(1)).expect("a result");
    let (target, union) = match text(0) {
        "version" => (CompareTarget::Version, TargetUnion::Version(number())),
        "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number())),
        "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number())),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number())),
        _ => (
            CompareTarget::Value,
            TargetUnion::Value(Bytes::copy_from_slice(text(4).as_bytes())),
        ),
    };
    pb::Compare {
        result: result as i32,
        target: target as i32,
        key: bytes(text(2)),
        range_end: bytes(text(3)),
        target_union: Some(union),
    }
}
