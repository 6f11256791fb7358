//! What single entries do, where etcd's rules surprise, and what stops a member.

mod common;

use bytes::Bytes;
use common::{Member, bytes, delete, op, put, range, txn};
use prost::Message;
use proto::error;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use proto::membershippb;
use proto::raftpb::{ConfChange, ConfChangeType, EntryType};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use state::version::Version;
use state::{Applied, EventKind, Fact, Params, ReadError, Response};
use storage::fault::FaultKind;

fn refused(applied: &Applied) -> &'static str {
    applied
        .outcome
        .as_ref()
        .map_or_else(|rejected| rejected.0.text, |_| "not refused")
}

/// Asserts that a request is refused and leaves everything as it was.
fn assert_refused(member: &mut Member, request: Request, error: &error::RpcError) {
    let before = member.state.view();
    let applied = member.op(request);
    let after = member.state.view();
    assert_eq!(refused(&applied), error.text);
    assert!(applied.events.is_empty());
    assert_eq!(after.revision(), before.revision());
    assert_eq!(
        after.hash().expect("sound data"),
        before.hash().expect("sound data")
    );
}

fn put_ignoring(key: &str, value: bool, lease: bool) -> Request {
    Request::RequestPut(pb::PutRequest {
        key: bytes(key),
        ignore_value: value,
        ignore_lease: lease,
        ..Default::default()
    })
}

fn raft(fill: impl FnOnce(&mut pb::InternalRaftRequest)) -> pb::InternalRaftRequest {
    let mut request = pb::InternalRaftRequest {
        id: 7,
        ..Default::default()
    };
    fill(&mut request);
    request
}

fn alarm(action: i32, member_id: u64, kind: pb::AlarmType) -> pb::InternalRaftRequest {
    raft(|request| {
        request.alarm = Some(pb::AlarmRequest {
            action,
            member_id,
            alarm: kind as i32,
        })
    })
}

fn conf_change(member: &mut Member, kind: ConfChangeType, id: u64, context: &str) -> Applied {
    let change = ConfChange {
        id: Some(5),
        r#type: Some(kind as i32),
        node_id: Some(id),
        context: Some(bytes(context)),
    };
    member.entry(EntryType::EntryConfChange, change.encode_to_vec().into())
}

#[test]
fn a_fresh_store_is_at_revision_1_and_not_compacted() {
    let mut member = Member::new();
    let view = member.state.view();
    assert_eq!((view.revision(), view.compact_revision()), (1, -1));
    let applied = member.put("a", "1");
    assert_eq!((applied.index, applied.term, applied.request_id), (1, 2, 1));
    assert_eq!(member.state.view().revision(), 2);
    assert_eq!(view.revision(), 1, "a view does not change");
    assert_eq!(refused(&member.compact(-1)), error::COMPACTED.text);
    assert_eq!(refused(&member.compact(3)), error::FUTURE_REV.text);
    assert_eq!(refused(&member.compact(0)), "not refused");
}

#[test]
fn a_deletion_that_finds_nothing_takes_no_revision() {
    let mut member = Member::new();
    let Ok(Response::DeleteRange(response)) = member.delete("a", "z").outcome else {
        panic!("refused")
    };
    assert_eq!(
        (
            response.deleted,
            response.header.map(|header| header.revision)
        ),
        (0, Some(1))
    );
}

/// Two operations that stop etcd up to 3.5.30 for good, because it checks the second against the state before the first.
#[test]
fn a_put_that_needs_what_the_transaction_deleted_is_refused_whole() {
    for deletion in [("\0", "\0"), ("a", "\0"), ("a", "z"), ("k3", "")] {
        for (value, lease) in [(true, false), (false, true), (true, true)] {
            let mut member = Member::new();
            member.put("k3", "x");
            let ops = vec![
                put("k9", "new", 0),
                delete(deletion.0, deletion.1),
                put_ignoring("k3", value, lease),
            ];
            assert_refused(
                &mut member,
                txn(vec![], ops.clone(), vec![]),
                &error::KEY_NOT_FOUND,
            );
            let nested = txn(vec![], vec![delete(deletion.0, deletion.1)], vec![]);
            assert_refused(
                &mut member,
                txn(vec![], vec![nested, ops[2].clone()], vec![]),
                &error::KEY_NOT_FOUND,
            );
        }
    }
}

#[test]
fn a_put_that_needs_what_the_transaction_has_put_again_is_done() {
    let mut member = Member::new();
    member.put("k", "x");
    let applied = member.op(txn(
        vec![],
        vec![
            delete("k", ""),
            put("k", "y", 0),
            put_ignoring("k", true, false),
        ],
        vec![],
    ));
    assert_eq!(refused(&applied), "not refused");
    let view = member.state.view();
    let kv = view.range(&range("k", "")).expect("readable").kvs.remove(0);
    let kv = proto::mvccpb::KeyValue::decode(kv).expect("a pair");
    assert_eq!(
        (&kv.value[..], kv.version, kv.create_revision),
        (&b"y"[..], 2, 3)
    );
}

#[test]
fn a_sort_target_that_does_not_exist_is_refused_before_anything_is_changed() {
    let mut member = Member::new();
    let strange = Request::RequestRange(pb::RangeRequest {
        sort_target: 9,
        ..range("a", "")
    });
    assert_refused(&mut member, strange.clone(), &error::INVALID_SORT_OPTION);
    assert_refused(
        &mut member,
        txn(vec![], vec![put("a", "1", 0), strange], vec![]),
        &error::INVALID_SORT_OPTION,
    );
    let order = Request::RequestRange(pb::RangeRequest {
        sort_order: 9,
        ..range("a", "")
    });
    assert_eq!(
        refused(&member.op(txn(vec![], vec![put("a", "1", 0), order], vec![]))),
        "not refused",
        "older members do it too"
    );
}

#[test]
fn an_empty_operation_is_refused() {
    let mut member = Member::new();
    let ops = pb::TxnRequest {
        success: vec![op(put("a", "1", 0)), pb::RequestOp::default()],
        ..Default::default()
    };
    assert_refused(&mut member, Request::RequestTxn(ops), &error::KEY_NOT_FOUND);
}

#[test]
fn a_transaction_is_refused_whole_if_one_lease_does_not_exist() {
    let mut member = Member::new();
    member.grant(5, 60);
    assert_refused(
        &mut member,
        txn(vec![], vec![put("a", "1", 5), put("b", "1", 6)], vec![]),
        &error::LEASE_NOT_FOUND,
    );
    assert!(member.state.view().leases().keys(5).is_empty());
}

/// etcd #18667: reading a compacted revision in a transaction must not leave half of it done.
#[test]
fn a_transaction_that_reads_a_compacted_revision_is_refused_whole() {
    let mut member = Member::new();
    (0..5).for_each(|_| drop(member.put("a", "1")));
    member.compact(4);
    let at = |revision| {
        Request::RequestRange(pb::RangeRequest {
            revision,
            ..range("a", "")
        })
    };
    for revision in [3, 1, -7] {
        assert_refused(
            &mut member,
            txn(vec![], vec![put("b", "1", 0), at(revision)], vec![]),
            &error::COMPACTED,
        );
    }
    assert_refused(
        &mut member,
        txn(vec![], vec![put("b", "1", 0), at(7)], vec![]),
        &error::FUTURE_REV,
    );
    assert_eq!(
        refused(&member.op(txn(vec![], vec![put("b", "1", 0), at(4)], vec![]))),
        "not refused"
    );
}

/// etcd #19179.
#[test]
fn compaction_keeps_the_version_a_watcher_may_start_from() {
    let mut member = Member::new();
    member.put("a", "1");
    member.delete("a", "");
    member.compact(3);
    while member.state.maintain(1) {}
    member.checkpoint();
    member.rewrite();
    member.restart();
    let view = member.state.view();
    let page = view.events(3, 3, 10, 1000).expect("readable");
    let kinds: Vec<_> = page
        .events
        .iter()
        .map(|event| (event.revision.main, event.kind))
        .collect();
    assert_eq!(
        (kinds, page.next_revision),
        (vec![(3, EventKind::Delete)], 4)
    );
    assert!(
        matches!(view.events(2, 3, 10, 1000), Err(ReadError::Rejected(rejected)) if rejected.0 == &error::COMPACTED)
    );
}

/// etcd #17780.
#[test]
fn the_revision_does_not_go_back_when_everything_is_deleted_and_compacted() {
    let mut member = Member::new();
    (0..2000).for_each(|count| drop(member.put(&format!("key-{count}"), "some value")));
    member.delete("\0", "\0");
    member.put("last", "");
    member.delete("last", "");
    let revision = member.state.view().revision();
    member.compact(revision - 1);
    member.compact(revision);
    while member.state.maintain(100) {}
    member.checkpoint();
    let before = member.state.segments().total_bytes();
    member.rewrite();
    member.checkpoint();
    let after = member.state.segments().total_bytes();
    assert!(after * 4 < before, "of {before} bytes, {after} are left");
    member.restart();
    let view = member.state.view();
    assert_eq!(
        (view.revision(), view.compact_revision()),
        (revision, revision)
    );
    member.put("next", "");
    assert_eq!(member.state.view().revision(), revision + 1);
}

#[test]
fn without_space_only_what_adds_data_is_refused() {
    let mut member = Member::new();
    member.grant(5, 60);
    member.put("a", "1");
    let applied = member.request(&alarm(1, 3, pb::AlarmType::Nospace));
    assert_eq!(applied.facts, [Fact::AlarmRaised { member: 3, kind: 1 }]);
    assert!(
        member
            .request(&alarm(1, 3, pb::AlarmType::Nospace))
            .facts
            .is_empty(),
        "it was on already"
    );
    let adding = [
        put("b", "1", 0),
        txn(
            vec![],
            vec![],
            vec![txn(vec![], vec![put("b", "1", 0)], vec![])],
        ),
    ];
    for request in adding {
        assert_refused(&mut member, request, &error::NO_SPACE);
    }
    assert_eq!(refused(&member.grant(6, 60)), error::NO_SPACE.text);
    assert_eq!(
        refused(&member.op(txn(vec![], vec![delete("a", "")], vec![]))),
        "not refused"
    );
    assert_eq!(refused(&member.compact(2)), "not refused");
    assert_eq!(refused(&member.revoke(5)), "not refused");
    member.checkpoint();
    member.restart();
    assert_eq!(
        refused(&member.put("b", "1")),
        error::NO_SPACE.text,
        "an alarm survives a restart"
    );
    assert_eq!(
        member.request(&alarm(2, 3, pb::AlarmType::Nospace)).facts,
        [Fact::AlarmCleared { member: 3, kind: 1 }]
    );
    assert_eq!(refused(&member.put("b", "1")), "not refused");
}

#[test]
fn with_corrupt_data_nearly_everything_is_refused() {
    let mut member = Member::new();
    member.grant(5, 60);
    member.request(&alarm(1, 0, pb::AlarmType::Corrupt));
    for request in [
        put("a", "1", 0),
        delete("a", ""),
        txn(vec![], vec![], vec![]),
        Request::RequestRange(range("a", "")),
    ] {
        assert_refused(&mut member, request, &error::CORRUPT);
    }
    for applied in [member.compact(1), member.grant(6, 60), member.revoke(5)] {
        assert_eq!(refused(&applied), error::CORRUPT.text);
    }
}

#[test]
fn alarms_take_strange_requests_calmly() {
    let mut member = Member::new();
    assert_eq!(
        refused(&member.request(&alarm(34, 0, pb::AlarmType::Nospace))),
        error::UNKNOWN_METHOD.text
    );
    let Ok(Response::Alarm(response)) = member.request(&alarm(1, 1, pb::AlarmType::None)).outcome
    else {
        panic!("refused")
    };
    assert!(response.alarms.is_empty());
    member.request(&alarm(1, 1, pb::AlarmType::Nospace));
    let Ok(Response::Alarm(response)) = member.request(&alarm(0, 0, pb::AlarmType::None)).outcome
    else {
        panic!("refused")
    };
    assert_eq!(
        response.alarms,
        [pb::AlarmMember {
            member_id: 1,
            alarm: 1
        }]
    );
}

#[test]
fn a_write_over_the_quota_is_done_and_answered_no_space() {
    let mut member = Member::with(Params {
        quota_bytes: Some(1000),
        ..Params::default()
    });
    member.put("a", "1");
    let applied = member.put("b", &"v".repeat(2000));
    assert_eq!(
        (refused(&applied), applied.facts),
        (error::NO_SPACE.text, vec![Fact::QuotaExceeded])
    );
    assert_eq!(applied.events.len(), 1);
    assert_eq!(member.state.view().revision(), 3);
    assert_eq!(
        member.grant(9, 60).facts,
        [Fact::LeaseGranted { id: 9, ttl_s: 60 }, Fact::QuotaExceeded]
    );
    assert_eq!(refused(&member.delete("b", "")), "not refused");
    member.request(&alarm(1, 3, pb::AlarmType::Nospace));
    assert!(
        member.put("c", "1").facts.is_empty(),
        "the alarm is on already"
    );
}

#[test]
fn revoking_a_lease_deletes_its_keys_in_one_revision_in_order() {
    let mut member = Member::new();
    member.grant(5, 60);
    for key in ["c", "a", "b"] {
        member.op(put(key, "1", 5));
    }
    member.op(put("b", "2", 0));
    let applied = member.revoke(5);
    let events: Vec<_> = applied
        .events
        .iter()
        .map(|event| (&event.key[..], event.revision.main, event.revision.sub))
        .collect();
    assert_eq!(events, [(&b"a"[..], 6, 0), (b"c", 6, 1)]);
    assert_eq!(applied.facts, [Fact::LeaseRevoked { id: 5 }]);
    let Ok(Response::LeaseRevoke(response)) = applied.outcome else {
        panic!("refused")
    };
    assert_eq!(response.header.map(|header| header.revision), Some(6));
    assert_eq!(refused(&member.revoke(5)), error::LEASE_NOT_FOUND.text);
}

#[test]
fn checkpoints_of_leases_are_stored_from_cluster_version_3_6_on() {
    for (version, stored) in [("3.5.0", 0), ("3.6.0", 7)] {
        let mut member = Member::new();
        let set = membershippb::ClusterVersionSetRequest {
            ver: version.into(),
        };
        member.request(&raft(|request| request.cluster_version_set = Some(set)));
        member.grant(5, 60);
        let checkpoints = vec![
            pb::LeaseCheckpoint {
                id: 5,
                remaining_ttl: 7,
            },
            pb::LeaseCheckpoint {
                id: 6,
                remaining_ttl: 7,
            },
        ];
        let request = raft(|request| {
            request.lease_checkpoint = Some(pb::LeaseCheckpointRequest { checkpoints })
        });
        assert_eq!(
            member.request(&request).facts,
            [Fact::LeaseCheckpointed {
                id: 5,
                remaining_s: 7
            }]
        );
        member.checkpoint();
        member.restart();
        assert_eq!(
            member
                .state
                .view()
                .leases()
                .get(5)
                .map(|lease| lease.remaining_s),
            Some(stored)
        );
    }
}

#[test]
fn members_come_and_go_and_raft_is_told_of_every_change() {
    let mut member = Member::new();
    conf_change(
        &mut member,
        ConfChangeType::ConfChangeAddNode,
        1,
        r#"{"id":1,"peerURLs":["http://a:1"],"name":"a"}"#,
    );
    let learner = r#"{"id":2,"peerURLs":["http://b:1"],"isLearner":true,"isPromote":false}"#;
    let applied = conf_change(
        &mut member,
        ConfChangeType::ConfChangeAddLearnerNode,
        2,
        learner,
    );
    let Ok(Response::Members(list)) = &applied.outcome else {
        panic!("refused")
    };
    assert_eq!((applied.request_id, list.len()), (5, 2));
    let [
        Fact::ConfChanged { change, conf_state },
        Fact::MemberAdded(added),
    ] = &applied.facts[..]
    else {
        panic!("{:?}", applied.facts)
    };
    assert_eq!(
        (change.node_id(), &conf_state.learners[..], added.id),
        (2, &[2][..], 2)
    );

    let applied = conf_change(&mut member, ConfChangeType::ConfChangeRemoveNode, 9, "");
    assert_eq!(refused(&applied), error::MEMBER_NOT_FOUND.text);
    let [Fact::ConfChanged { change, .. }] = &applied.facts[..] else {
        panic!("{:?}", applied.facts)
    };
    assert_eq!(
        change.node_id(),
        0,
        "raft takes a change of nobody as no change"
    );

    let attributes = membershippb::Attributes {
        name: "b".into(),
        client_urls: vec!["http://b:2".into()],
    };
    let set = membershippb::ClusterMemberAttrSetRequest {
        member_id: 2,
        member_attributes: Some(attributes),
    };
    member.request(&raft(|request| request.cluster_member_attr_set = Some(set)));
    conf_change(&mut member, ConfChangeType::ConfChangeRemoveNode, 1, "");
    member.checkpoint();
    member.restart();
    let view = member.state.view();
    assert!(
        view.members().removed.contains(&1)
            && view
                .members()
                .get(2)
                .is_some_and(|member| member.name == "b")
    );
    assert_eq!(view.members().conf_state().learners, [2]);
    assert_eq!(
        refused(&conf_change(
            &mut member,
            ConfChangeType::ConfChangeAddNode,
            1,
            "{}"
        )),
        error::MEMBER_NOT_FOUND.text
    );
}

#[test]
fn requests_of_3_5_publish_members_and_versions() {
    let mut member = Member::new();
    conf_change(
        &mut member,
        ConfChangeType::ConfChangeAddNode,
        0xab,
        r#"{"id":171,"peerURLs":["http://a:1"]}"#,
    );
    let mut v2 = |method: &str, path: &str, value: &str| {
        let request = pb::Request {
            id: Some(77),
            method: Some(method.into()),
            path: Some(bytes(path)),
            val: Some(bytes(value)),
            ..Default::default()
        };
        member.entry(EntryType::EntryNormal, request.encode_to_vec().into())
    };
    let published = v2(
        "PUT",
        "/0/members/ab/attributes",
        r#"{"name":"a","clientURLs":["http://a:2"]}"#,
    );
    let [Fact::MemberAttributesSet(set)] = &published.facts[..] else {
        panic!("{published:?}")
    };
    assert_eq!(
        (published.request_id, set.id, set.name.as_str()),
        (77, 0xab, "a")
    );
    assert_eq!(
        v2("PUT", "/0/version", "3.5.0").facts,
        [Fact::ClusterVersionSet(Version::new(3, 5, 0))]
    );
    assert!(v2("SYNC", "", "").facts.is_empty());
}

#[test]
fn a_member_stops_at_what_it_cannot_ignore() {
    let newer = membershippb::ClusterVersionSetRequest {
        ver: "3.8.0".into(),
    };
    let newer = raft(|request| request.cluster_version_set = Some(newer)).encode_to_vec();
    let v2_put = pb::Request {
        method: Some("PUT".into()),
        path: Some(bytes("/1/key")),
        ..Default::default()
    }
    .encode_to_vec();
    let cases = [
        (EntryType::EntryNormal, newer, "3.8.0"),
        (EntryType::EntryNormal, v2_put, "/1/key"),
        (EntryType::EntryNormal, vec![0xff; 9], "does not decode"),
        // A request of a later version: only fields that are unknown here.
        (
            EntryType::EntryNormal,
            vec![0xc2, 0xbb, 0x01, 0x00],
            "this member does not understand",
        ),
        (EntryType::EntryConfChangeV2, vec![], "joint"),
        (EntryType::EntryConfChange, vec![0xff], "does not decode"),
    ];
    for (kind, data, text) in cases {
        let mut member = Member::new();
        let entry = proto::raftpb::Entry {
            r#type: Some(kind as i32),
            term: Some(1),
            index: Some(1),
            data: Some(data.into()),
        };
        let fault = member.state.apply(&entry).expect_err(text);
        assert!(
            fault.kind() == FaultKind::Format && fault.to_string().contains(text),
            "{fault}"
        );
        assert_eq!(member.state.applied(), (0, 0));
        let again = member.state.apply(&entry).expect_err("a fault is final");
        assert_eq!(again.to_string(), fault.to_string());
    }
}

#[test]
fn entries_must_follow_each_other() {
    let mut member = Member::new();
    let entry = proto::raftpb::Entry {
        index: Some(2),
        term: Some(1),
        ..Default::default()
    };
    assert_eq!(
        member
            .state
            .apply(&entry)
            .expect_err("entry 1 is missing")
            .kind(),
        FaultKind::Gap
    );
}

#[test]
fn without_users_every_question_about_them_has_etcds_answer() {
    let mut member = Member::new();
    let mut answer = |fill: fn(&mut pb::InternalRaftRequest)| refused(&member.request(&raft(fill)));
    assert_eq!(
        answer(|request| request.auth_enable = Some(Default::default())),
        error::ROOT_USER_NOT_EXIST.text
    );
    assert_eq!(
        answer(|request| request.authenticate = Some(Default::default())),
        error::AUTH_NOT_ENABLED.text
    );
    assert_eq!(
        answer(|request| request.auth_user_add = Some(Default::default())),
        error::USER_EMPTY.text
    );
    assert_eq!(
        answer(|request| request.auth_user_delete = Some(Default::default())),
        error::USER_NOT_FOUND.text
    );
    assert_eq!(
        answer(|request| request.auth_role_grant_permission = Some(Default::default())),
        error::PERMISSION_NOT_GIVEN.text
    );
    assert_eq!(
        answer(|request| request.auth_role_get = Some(Default::default())),
        error::ROLE_NOT_FOUND.text
    );
    assert_eq!(
        answer(|request| request.auth_disable = Some(Default::default())),
        "not refused"
    );
    let Ok(Response::AuthStatus(status)) = member
        .request(&raft(|request| {
            request.auth_status = Some(Default::default())
        }))
        .outcome
    else {
        panic!("refused")
    };
    assert_eq!((status.enabled, status.auth_revision), (false, 1));
}

#[test]
fn a_new_leaders_entry_says_that_its_term_has_begun() {
    let mut member = Member::new();
    let applied = member.entry(EntryType::EntryNormal, Bytes::new());
    assert_eq!(
        (applied.facts, applied.request_id),
        (vec![Fact::TermStarted { term: 2 }], 0)
    );
    assert_eq!(member.state.applied(), (1, 2));
}

#[test]
fn the_file_has_every_row_in_order() {
    let mut member = Member::new();
    member.grant(5, 60);
    member.op(put("a", "1", 5));
    member.delete("a", "");
    let mut rows = Vec::new();
    let view = member.state.view();
    let visit = |bucket: &'static str, key: &[u8], value: &[u8]| {
        rows.push((
            bucket,
            key.escape_ascii().to_string(),
            value.escape_ascii().to_string(),
        ));
        std::ops::ControlFlow::Continue(())
    };
    view.rows(visit).expect("sound data");
    let expected = [
        ("auth", "authRevision", r"\x00\x00\x00\x00\x00\x00\x00\x01"),
        (
            "key",
            r"\x00\x00\x00\x00\x00\x00\x00\x02_\x00\x00\x00\x00\x00\x00\x00\x00",
            r"\n\x01a\x10\x02\x18\x02 \x01*\x011\x300\x05",
        ),
        (
            "key",
            r"\x00\x00\x00\x00\x00\x00\x00\x03_\x00\x00\x00\x00\x00\x00\x00\x00t",
            r"\n\x01a",
        ),
        (
            "lease",
            r"\x00\x00\x00\x00\x00\x00\x00\x05",
            r"\x08\x05\x10<",
        ),
        (
            "meta",
            "consistent_index",
            r"\x00\x00\x00\x00\x00\x00\x00\x03",
        ),
        ("meta", "term", r"\x00\x00\x00\x00\x00\x00\x00\x02"),
    ];
    let expected =
        expected.map(|(bucket, key, value)| (bucket, key.to_owned(), value.replace(r"\x300", "0")));
    assert_eq!(rows, expected);
}

#[test]
fn a_transaction_that_only_reads_is_answered_from_a_view() {
    let mut member = Member::new();
    member.put("a", "1");
    let view = member.state.view();
    let of = |revision| pb::TxnRequest {
        success: vec![op(Request::RequestRange(pb::RangeRequest {
            revision,
            ..range("a", "")
        }))],
        ..Default::default()
    };
    let response = view.txn(&of(0)).expect("readable");
    assert_eq!(
        (
            response.succeeded,
            response.header.map(|header| header.revision),
            response.responses.len()
        ),
        (true, Some(2), 1)
    );
    assert!(
        matches!(view.txn(&of(3)), Err(ReadError::Rejected(rejected)) if rejected.0 == &error::FUTURE_REV)
    );
}

/// Damaged and strange requests: an answer or a fault, never a panic.
#[test]
fn nothing_in_an_entry_makes_apply_panic() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let samples = [
        raft(|request| {
            request.put = Some(pb::PutRequest {
                key: bytes("a"),
                value: bytes("b"),
                lease: 5,
                ..Default::default()
            })
        }),
        raft(|request| {
            request.txn = match txn(
                vec![pb::Compare::default()],
                vec![put("a", "1", 0), delete("", "\0")],
                vec![],
            ) {
                Request::RequestTxn(txn) => Some(txn),
                _ => None,
            }
        }),
        raft(|request| {
            request.range = Some(pb::RangeRequest {
                limit: 1,
                sort_target: 4,
                sort_order: 2,
                ..range("a", "\0")
            })
        }),
        raft(|request| {
            request.compaction = Some(pb::CompactionRequest {
                revision: 3,
                physical: true,
            })
        }),
        raft(|request| request.lease_grant = Some(pb::LeaseGrantRequest { ttl: 5, id: 5 })),
        raft(|request| request.lease_revoke = Some(pb::LeaseRevokeRequest { id: 5 })),
        alarm(1, 1, pb::AlarmType::None),
    ];
    let mut member = Member::new();
    let mut faults = 0;
    for round in 0..20_000 {
        let mut data = samples[round % samples.len()].encode_to_vec();
        for _ in 0..random.next_u64() % 3 {
            let at = random.next_u64() as usize % data.len();
            data[at] = random.next_u64() as u8;
        }
        let index = member.log.last().map_or(0, |entry| entry.index()) + 1;
        let entry = proto::raftpb::Entry {
            term: Some(1),
            index: Some(index),
            data: Some(data.into()),
            ..Default::default()
        };
        member.log.push(entry.clone());
        if member.state.apply(&entry).is_err() {
            faults += 1;
            member = Member::new();
        }
    }
    assert!((100..19_000).contains(&faults), "{faults} faults");
}
