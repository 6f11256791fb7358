//! The hand-written messages against the generated ones, and the loads against a connection without a server.

use super::*;
use crate::load::keys::Keyspace;
use crate::stats::Window;

fn shared() -> Shared {
    let stats = Stats::new(Window {
        start: 0,
        end: 1_000,
    });
    Shared::new(
        stats,
        Keyspace {
            count: 5_000,
            key_bytes: 24,
        },
        64,
        1,
        Vec::new(),
    )
}

#[test]
fn a_closed_loop_keeps_one_request_per_client_in_flight() {
    let mut conn = Conn::new("h", None);
    let mut s = shared();
    let mut load = Unary::new(Op::Put, 3);
    load.start(&mut conn, &mut s);
    assert_eq!(s.in_flight, 3);
    s.now = 500;
    load.end(&mut conn, &mut s, 1, Outcome::Ok { bytes: 9 });
    assert_eq!((s.in_flight, s.stats.ops, s.stats.bytes), (3, 1, 9));
    load.end(&mut conn, &mut s, 2, Outcome::Status(14, "x".into()));
    assert_eq!((s.in_flight, s.stats.ops), (3, 1));
    s.stopping = true;
    load.end(&mut conn, &mut s, 0, Outcome::Ok { bytes: 0 });
    assert_eq!((s.in_flight, s.stats.ops), (2, 2));
    load.abandon(&mut s);
    assert_eq!(s.stats.errors["unanswered"].count, 2);
    assert_eq!(s.stats.errors["UNAVAILABLE"].count, 1);
}

#[test]
fn filling_puts_each_key_once_and_ends() {
    let mut conn = Conn::new("h", None);
    let mut s = shared();
    let mut load = Unary::new(Op::PutEach(10..15), 2);
    load.start(&mut conn, &mut s);
    let mut answered = 0;
    while s.in_flight > 0 {
        let token = load.calls.iter().position(|c| c.active).unwrap();
        load.end(&mut conn, &mut s, token as u32, Outcome::Ok { bytes: 0 });
        answered += 1;
    }
    assert_eq!(answered, 5);
}

#[test]
fn an_open_loop_sends_when_due_and_not_after_an_answer() {
    let mut conn = Conn::new("h", None);
    let mut s = shared();
    let mut load = Unary::new(Op::Get { serializable: true }, 0);
    load.start(&mut conn, &mut s);
    assert_eq!(s.in_flight, 0);
    s.now = 300;
    load.fire(&mut conn, &mut s, 100);
    s.now = 900;
    load.end(&mut conn, &mut s, 0, Outcome::Ok { bytes: 0 });
    assert_eq!((s.in_flight, s.stats.latency.len()), (0, 1));
}

mod wire {
    use super::super::messages::{self, WatchNote};
    use bytes::Bytes;
    use prost::Message;
    use proto::etcdserverpb as pb;
    use proto::mvccpb::{Event, KeyValue};

    fn encode(fill: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        let mut out = Vec::new();
        fill(&mut out);
        out.into()
    }

    #[test]
    fn requests_are_what_the_generated_types_decode() {
        let put = pb::PutRequest::decode(encode(|o| messages::put(o, b"k", b"v"))).unwrap();
        assert_eq!(
            put,
            pb::PutRequest {
                key: "k".into(),
                value: "v".into(),
                ..Default::default()
            }
        );
        let range =
            pb::RangeRequest::decode(encode(|o| messages::range(o, b"a", b"b", true))).unwrap();
        assert_eq!(
            range,
            pb::RangeRequest {
                key: "a".into(),
                range_end: "b".into(),
                serializable: true,
                ..Default::default()
            }
        );
        let range =
            pb::RangeRequest::decode(encode(|o| messages::range_keys_only(o, b"a", b"b"))).unwrap();
        assert_eq!(
            range,
            pb::RangeRequest {
                key: "a".into(),
                range_end: "b".into(),
                keys_only: true,
                ..Default::default()
            }
        );
        let compact =
            pb::CompactionRequest::decode(encode(|o| messages::compact(o, 77, true))).unwrap();
        assert_eq!(
            compact,
            pb::CompactionRequest {
                revision: 77,
                physical: true
            }
        );
        let grant =
            pb::LeaseGrantRequest::decode(encode(|o| messages::lease_grant(o, 60))).unwrap();
        assert_eq!(grant, pb::LeaseGrantRequest { ttl: 60, id: 0 });
        let alive =
            pb::LeaseKeepAliveRequest::decode(encode(|o| messages::lease_keep_alive(o, -5)))
                .unwrap();
        assert_eq!(alive, pb::LeaseKeepAliveRequest { id: -5 });
        let auth = pb::AuthenticateRequest::decode(encode(|o| messages::authenticate(o, "n", "p")))
            .unwrap();
        assert_eq!(
            auth,
            pb::AuthenticateRequest {
                name: "n".into(),
                password: "p".into()
            }
        );
    }

    #[test]
    fn the_update_transaction_compares_puts_and_reads_the_same_key() {
        for revision in [0, 300] {
            let txn = pb::TxnRequest::decode(encode(|o| {
                messages::txn_update(o, b"k", &[7; 300], revision)
            }))
            .unwrap();
            let put = pb::PutRequest {
                key: "k".into(),
                value: vec![7; 300].into(),
                ..Default::default()
            };
            let get = pb::RangeRequest {
                key: "k".into(),
                ..Default::default()
            };
            let compare = pb::Compare {
                target: pb::compare::CompareTarget::Mod as i32,
                key: "k".into(),
                target_union: Some(pb::compare::TargetUnion::ModRevision(revision)),
                ..Default::default()
            };
            assert_eq!(txn.compare, [compare]);
            assert_eq!(
                txn.success,
                [pb::RequestOp {
                    request: Some(pb::request_op::Request::RequestPut(put))
                }]
            );
            assert_eq!(
                txn.failure,
                [pb::RequestOp {
                    request: Some(pb::request_op::Request::RequestRange(get))
                }]
            );
        }
    }

    #[test]
    fn a_watcher_is_created_on_its_range() {
        let watch =
            pb::WatchRequest::decode(encode(|o| messages::watch_create(o, b"a", b"b"))).unwrap();
        let Some(pb::watch_request::RequestUnion::CreateRequest(create)) = watch.request_union
        else {
            panic!("{watch:?}")
        };
        assert_eq!(
            create,
            pb::WatchCreateRequest {
                key: "a".into(),
                range_end: "b".into(),
                ..Default::default()
            }
        );
    }

    #[test]
    fn the_revision_after_a_transaction_is_read_from_either_branch() {
        let header = Some(pb::ResponseHeader {
            revision: 90,
            ..Default::default()
        });
        let put = pb::TxnResponse {
            header,
            succeeded: true,
            responses: vec![],
        };
        assert_eq!(messages::txn_mod_revision(&put.encode_to_vec()), 90);
        let kv = KeyValue {
            key: "k".into(),
            mod_revision: 41,
            ..Default::default()
        };
        let range = pb::RangeResponse {
            kvs: vec![kv],
            count: 1,
            ..Default::default()
        };
        let response = pb::response_op::Response::ResponseRange(range.clone());
        let read = pb::TxnResponse {
            header,
            succeeded: false,
            responses: vec![pb::ResponseOp {
                response: Some(response),
            }],
        };
        assert_eq!(messages::txn_mod_revision(&read.encode_to_vec()), 41);
        assert!(!messages::txn_succeeded(&read.encode_to_vec()));
        assert_eq!(messages::range_total(&range.encode_to_vec()), 1);
        assert_eq!(messages::range_kvs(&range.encode_to_vec()), 1);
        let mut seen = Vec::new();
        messages::range_mod_revisions(&range.encode_to_vec(), |key, revision| {
            seen.push((key.to_vec(), revision))
        });
        assert_eq!(seen, [(b"k".to_vec(), 41)]);
    }

    #[test]
    fn events_give_back_the_time_of_their_put() {
        let put = pb::PutRequest::decode(encode(|o| {
            messages::put_stamped(o, b"k", &[1; 40], 123_456)
        }))
        .unwrap();
        assert_eq!(put.value.len(), 40);
        let event = |value: Bytes| Event {
            kv: Some(KeyValue {
                key: "k".into(),
                value,
                ..Default::default()
            }),
            ..Default::default()
        };
        let response = pb::WatchResponse {
            created: true,
            events: vec![event(put.value), event("else".into())],
            ..Default::default()
        };
        let mut stamps = Vec::new();
        let note = messages::watch_response(&response.encode_to_vec(), |s| stamps.push(s));
        assert_eq!(stamps, [Some(123_456), None]);
        assert_eq!(
            note,
            WatchNote {
                created: true,
                canceled: false
            }
        );
    }
}
