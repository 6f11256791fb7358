//! Requests that no proper client sends: each has a clear error in etcd's words, nothing is changed by it, and the server
//! goes on. Texts and codes: upstream `api/v3rpc/rpctypes/error.go`.

use bytes::Bytes;
use conformance::grpc::{self, Failure, Grpc, block_on, code};
use conformance::need;
use conformance::programs;
use conformance::server::Server;
use prost::Message;
use proto::etcdserverpb as pb;

/// What the server must answer.
enum Expected {
    /// This code and, somewhere in it, this text.
    Refused(i32, &'static str),
    /// Any error at all: etcd's own depends on its protobuf library.
    AnyError,
    Accepted,
}
use Expected::{Accepted, AnyError, Refused};

impl Expected {
    fn holds_for(&self, answer: &Result<Bytes, Failure>) -> bool {
        match (self, answer) {
            (Refused(code, text), Err(Failure::Status { code: c, message })) => {
                c == code && message.contains(text)
            }
            (AnyError, Err(Failure::Status { .. })) | (Accepted, Ok(_)) => true,
            _ => false,
        }
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused(code, text) => write!(f, "code {code}: …{text}…"),
            AnyError => f.write_str("an error"),
            Accepted => f.write_str("an answer"),
        }
    }
}

struct Case {
    name: &'static str,
    path: &'static str,
    request: Vec<u8>,
    expected: Expected,
}

fn case(name: &'static str, path: &'static str, request: impl Message, expected: Expected) -> Case {
    Case {
        name,
        path,
        request: request.encode_to_vec(),
        expected,
    }
}

fn raw(name: &'static str, path: &'static str, request: &[u8], expected: Expected) -> Case {
    Case {
        name,
        path,
        request: request.to_vec(),
        expected,
    }
}

#[test]
fn senseless_requests_are_refused_in_etcds_words() {
    let suite = "bad requests";
    let program = need!(suite, programs::quorate());
    let mut server = Server::start(&program);
    let mut wrong = Vec::new();
    let mut before = block_on(fill(&server));
    for case in kv_cases()
        .into_iter()
        .chain(txn_cases())
        .chain(other_cases())
        .chain(undecodable_cases())
    {
        // Each on a connection of its own, so that one that ends the server is not confused with the next.
        let answer = block_on(async {
            let connection = Grpc::connect(server.socket()).await?;
            connection.call_bytes(case.path, case.request.into()).await
        });
        if !case.expected.holds_for(&answer) {
            wrong.push(format!(
                "{}: wanted {}, got {}",
                case.name,
                case.expected,
                told(&answer)
            ));
        }
        if matches!(answer, Err(Failure::Transport(_))) && server.wait_ready().is_err() {
            wrong.push(format!("{}: the server ended", case.name));
            server = Server::start(&program);
            before = block_on(fill(&server));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of the answers are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    let after = block_on(async {
        everything(&Grpc::connect(server.socket()).await.expect("a connection")).await
    });
    assert_eq!(after, before, "refused requests changed something");
}

/// Three keys, and what the store then holds.
async fn fill(server: &Server) -> (Vec<(Bytes, Bytes, i64)>, i64) {
    let connection = Grpc::connect(server.socket()).await.expect("a connection");
    for (key, value) in [("k1", "x"), ("k2", "y"), ("k3", "z")] {
        put(&connection, key, value).await.expect("a plain put");
    }
    everything(&connection).await
}

fn range(edit: impl FnOnce(&mut pb::RangeRequest)) -> pb::RangeRequest {
    let mut request = pb::RangeRequest {
        key: "k1".into(),
        ..Default::default()
    };
    edit(&mut request);
    request
}

fn put_request(edit: impl FnOnce(&mut pb::PutRequest)) -> pb::PutRequest {
    let mut request = pb::PutRequest {
        key: "k1".into(),
        ..Default::default()
    };
    edit(&mut request);
    request
}

fn kv_cases() -> Vec<Case> {
    let invalid = code::INVALID_ARGUMENT;
    let large = Bytes::from(vec![b'v'; 1_600_000]);
    vec![
        case(
            "range without a key",
            grpc::RANGE,
            pb::RangeRequest::default(),
            Refused(invalid, "etcdserver: key is not provided"),
        ),
        case(
            "range, unknown sort order",
            grpc::RANGE,
            range(|r| r.sort_order = 9),
            Refused(invalid, "etcdserver: invalid sort option"),
        ),
        case(
            "range, unknown sort target",
            grpc::RANGE,
            range(|r| r.sort_target = 9),
            Refused(invalid, "etcdserver: invalid sort option"),
        ),
        case(
            "range, negative sort target",
            grpc::RANGE,
            range(|r| r.sort_target = -1),
            Refused(invalid, "etcdserver: invalid sort option"),
        ),
        case(
            "range, negative revision is the current one",
            grpc::RANGE,
            range(|r| r.revision = -7),
            Accepted,
        ),
        case(
            "range, negative limit is none",
            grpc::RANGE,
            range(|r| r.limit = -7),
            Accepted,
        ),
        case(
            "range, smallest limit",
            grpc::RANGE,
            range(|r| r.limit = i64::MIN),
            Accepted,
        ),
        case(
            "range, largest limit",
            grpc::RANGE,
            range(|r| r.limit = i64::MAX),
            Accepted,
        ),
        case(
            "range, future revision",
            grpc::RANGE,
            range(|r| r.revision = i64::MAX),
            Refused(
                code::OUT_OF_RANGE,
                "etcdserver: mvcc: required revision is a future revision",
            ),
        ),
        case(
            "range backwards is empty",
            grpc::RANGE,
            range(|r| r.range_end = "a".into()),
            Accepted,
        ),
        case(
            "put without a key",
            grpc::PUT,
            pb::PutRequest::default(),
            Refused(invalid, "etcdserver: key is not provided"),
        ),
        case(
            "put, value and ignore_value",
            grpc::PUT,
            put_request(|r| (r.value, r.ignore_value) = ("v".into(), true)),
            Refused(invalid, "etcdserver: value is provided"),
        ),
        case(
            "put, lease and ignore_lease",
            grpc::PUT,
            put_request(|r| (r.lease, r.ignore_lease) = (1, true)),
            Refused(invalid, "etcdserver: lease is provided"),
        ),
        case(
            "put, ignore_value of a missing key",
            grpc::PUT,
            put_request(|r| (r.key, r.ignore_value) = ("missing".into(), true)),
            Refused(invalid, "etcdserver: key not found"),
        ),
        case(
            "put, unknown lease",
            grpc::PUT,
            put_request(|r| r.lease = 4711),
            Refused(code::NOT_FOUND, "etcdserver: requested lease not found"),
        ),
        case(
            "put, negative lease",
            grpc::PUT,
            put_request(|r| r.lease = -1),
            Refused(code::NOT_FOUND, "etcdserver: requested lease not found"),
        ),
        case(
            "put, large value",
            grpc::PUT,
            put_request(|r| r.value = large.clone()),
            Refused(invalid, "etcdserver: request is too large"),
        ),
        case(
            "put, large key",
            grpc::PUT,
            put_request(|r| r.key = large.clone()),
            Refused(invalid, "etcdserver: request is too large"),
        ),
        case(
            "put, larger than a message may be",
            grpc::PUT,
            put_request(|r| r.value = Bytes::from(vec![b'v'; 3 << 20])),
            Refused(
                code::RESOURCE_EXHAUSTED,
                "grpc: received message larger than max (",
            ),
        ),
        case(
            "delete without a key",
            grpc::DELETE_RANGE,
            pb::DeleteRangeRequest::default(),
            Refused(invalid, "etcdserver: key is not provided"),
        ),
        case(
            "compact, negative",
            grpc::COMPACT,
            pb::CompactionRequest {
                revision: -5,
                physical: false,
            },
            Refused(
                code::OUT_OF_RANGE,
                "etcdserver: mvcc: required revision has been compacted",
            ),
        ),
        case(
            "compact the future",
            grpc::COMPACT,
            pb::CompactionRequest {
                revision: i64::MAX,
                physical: true,
            },
            Refused(
                code::OUT_OF_RANGE,
                "etcdserver: mvcc: required revision is a future revision",
            ),
        ),
    ]
}

fn txn(success: Vec<pb::request_op::Request>) -> pb::TxnRequest {
    let success = success
        .into_iter()
        .map(|request| pb::RequestOp {
            request: Some(request),
        })
        .collect();
    pb::TxnRequest {
        success,
        ..Default::default()
    }
}

fn nested(depth: usize) -> pb::TxnRequest {
    (0..depth).fold(pb::TxnRequest::default(), |inner, _| {
        txn(vec![pb::request_op::Request::RequestTxn(inner)])
    })
}

fn txn_cases() -> Vec<Case> {
    use pb::request_op::Request::{RequestDeleteRange, RequestPut, RequestRange};
    let invalid = code::INVALID_ARGUMENT;
    let delete = |key: &'static str, end: &'static str| {
        RequestDeleteRange(pb::DeleteRangeRequest {
            key: key.into(),
            range_end: end.into(),
            ..Default::default()
        })
    };
    let many: Vec<_> = (0..129)
        .map(|i| RequestPut(put_request(|r| r.key = format!("many{i}").into())))
        .collect();
    let odd_compare = |compare: pb::Compare| pb::TxnRequest {
        compare: vec![compare],
        ..Default::default()
    };
    vec![
        case(
            "txn, 129 operations",
            grpc::TXN,
            txn(many),
            Refused(invalid, "etcdserver: too many operations in txn request"),
        ),
        case(
            "txn, one key twice",
            grpc::TXN,
            txn(vec![
                RequestPut(put_request(|_| ())),
                RequestPut(put_request(|_| ())),
            ]),
            Refused(invalid, "etcdserver: duplicate key given in txn request"),
        ),
        case(
            "txn that stops real etcd: delete everything, then put what was deleted with ignore_value",
            grpc::TXN,
            txn(vec![
                delete("\0", "\0"),
                RequestPut(put_request(|r| r.ignore_value = true)),
            ]),
            Refused(invalid, "etcdserver: key not found"),
        ),
        case(
            "txn that stops real etcd: delete from a key on, then put with ignore_lease",
            grpc::TXN,
            txn(vec![
                delete("a", "\0"),
                RequestPut(put_request(|r| {
                    (r.value, r.ignore_lease) = ("y".into(), true)
                })),
            ]),
            Refused(invalid, "etcdserver: key not found"),
        ),
        case(
            "txn, empty operation",
            grpc::TXN,
            pb::TxnRequest {
                success: vec![pb::RequestOp { request: None }],
                ..Default::default()
            },
            Refused(invalid, "etcdserver: key not found"),
        ),
        case(
            "txn, range without a key",
            grpc::TXN,
            txn(vec![RequestRange(pb::RangeRequest::default())]),
            Refused(invalid, "etcdserver: key is not provided"),
        ),
        case(
            "txn, unknown sort target inside",
            grpc::TXN,
            txn(vec![RequestRange(range(|r| r.sort_target = 77))]),
            Refused(invalid, "etcdserver: invalid sort option"),
        ),
        case(
            "txn, compare without a key",
            grpc::TXN,
            odd_compare(pb::Compare::default()),
            Refused(invalid, "etcdserver: key is not provided"),
        ),
        case(
            "txn, unknown compare target",
            grpc::TXN,
            odd_compare(pb::Compare {
                key: "k1".into(),
                target: 99,
                ..Default::default()
            }),
            Accepted,
        ),
        case(
            "txn, unknown compare result",
            grpc::TXN,
            odd_compare(pb::Compare {
                key: "k1".into(),
                result: 99,
                ..Default::default()
            }),
            Accepted,
        ),
        case("txn, nested 30 deep", grpc::TXN, nested(30), Accepted),
        case(
            "txn, nested deeper than a stack",
            grpc::TXN,
            nested(1500),
            AnyError,
        ),
    ]
}

fn other_cases() -> Vec<Case> {
    vec![
        case(
            "lease, too large a TTL",
            grpc::LEASE_GRANT,
            pb::LeaseGrantRequest {
                ttl: 9_000_000_001,
                id: 0,
            },
            Refused(code::OUT_OF_RANGE, "etcdserver: too large lease TTL"),
        ),
        case(
            "lease, largest TTL",
            grpc::LEASE_GRANT,
            pb::LeaseGrantRequest {
                ttl: i64::MAX,
                id: 0,
            },
            Refused(code::OUT_OF_RANGE, "etcdserver: too large lease TTL"),
        ),
        case(
            "lease, negative TTL is raised",
            grpc::LEASE_GRANT,
            pb::LeaseGrantRequest {
                ttl: i64::MIN,
                id: 77,
            },
            Accepted,
        ),
        case(
            "lease, id taken",
            grpc::LEASE_GRANT,
            pb::LeaseGrantRequest { ttl: 10, id: 77 },
            Refused(9, "etcdserver: lease already exists"),
        ),
        case(
            "lease, revoke it",
            grpc::LEASE_REVOKE,
            pb::LeaseRevokeRequest { id: 77 },
            Accepted,
        ),
        case(
            "lease, revoke what is not there",
            grpc::LEASE_REVOKE,
            pb::LeaseRevokeRequest { id: -3 },
            Refused(code::NOT_FOUND, "etcdserver: requested lease not found"),
        ),
        case(
            "alarm, unknown action",
            grpc::ALARM,
            pb::AlarmRequest {
                action: 34,
                ..Default::default()
            },
            Refused(code::UNKNOWN, "etcdserver: unknown method"),
        ),
        case(
            "alarm, activate nothing",
            grpc::ALARM,
            pb::AlarmRequest {
                action: 1,
                ..Default::default()
            },
            Accepted,
        ),
        case(
            "hash of the future",
            grpc::HASH_KV,
            pb::HashKvRequest { revision: i64::MAX },
            Refused(
                code::OUT_OF_RANGE,
                "etcdserver: mvcc: required revision is a future revision",
            ),
        ),
        raw(
            "unknown method",
            "/etcdserverpb.KV/Nonsense",
            b"",
            Refused(code::UNIMPLEMENTED, ""),
        ),
        raw(
            "unknown service",
            "/no.such.Service/Put",
            b"",
            Refused(code::UNIMPLEMENTED, ""),
        ),
        raw("no method at all", "/", b"", AnyError),
    ]
}

fn undecodable_cases() -> Vec<Case> {
    vec![
        raw(
            "a field cut short",
            grpc::PUT,
            &[0x0a, 0x7f, b'k'],
            AnyError,
        ),
        raw(
            "a length of 2^63",
            grpc::PUT,
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
            AnyError,
        ),
        raw(
            "a varint without end",
            grpc::RANGE,
            &[
                0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            ],
            AnyError,
        ),
        raw("the wrong wire type", grpc::PUT, &[0x08, 0x01], AnyError),
        raw("field number 0", grpc::PUT, &[0x02, 0x00], AnyError),
        // key "k1", then field 900 with five bytes: unknown fields are skipped, as protobuf asks.
        raw(
            "an unknown field",
            grpc::RANGE,
            &[0x0a, 0x02, b'k', b'1', 0xa2, 0x38, 0x05, 1, 2, 3, 4, 5],
            Accepted,
        ),
        // MemberAdd's peerURLs are text.
        raw(
            "bad UTF-8 where text is due",
            "/etcdserverpb.Cluster/MemberAdd",
            &[0x0a, 0x02, 0xff, 0xfe],
            AnyError,
        ),
    ]
}

#[test]
fn gaps_in_the_framing_are_refused_without_waiting_or_allocating() {
    let suite = "bad framing";
    let server = need!(
        suite,
        programs::quorate().map(|program| Server::start(&program))
    );
    block_on(async {
        let connection = Grpc::connect(server.socket()).await.expect("a connection");
        put(&connection, "k", "v").await.expect("a put");
        let before = server.resident_kib().expect("it runs");
        // A message that claims 4 GiB, of which two bytes come: refused at the header, or at the end of the stream.
        for _ in 0..50 {
            let mut stream = connection.open(grpc::PUT).await.expect("a stream");
            stream
                .send_raw(Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1, 2]))
                .await
                .expect("sent");
            stream.close_sending().expect("closed");
            let answer = stream.next_bytes().await;
            assert!(matches!(answer, Err(Failure::Status { .. })), "{answer:?}");
        }
        // A compressed message without a compression: flag 1.
        let mut stream = connection.open(grpc::PUT).await.expect("a stream");
        stream
            .send_raw(Bytes::from_static(&[1, 0, 0, 0, 1, 0]))
            .await
            .expect("sent");
        stream.close_sending().expect("closed");
        assert!(matches!(
            stream.next_bytes().await,
            Err(Failure::Status { .. })
        ));
        // No message at all, and half a header.
        for start in [&[][..], &[0, 0, 0]] {
            let mut stream = connection.open(grpc::PUT).await.expect("a stream");
            stream
                .send_raw(Bytes::from_static(start))
                .await
                .expect("sent");
            stream.close_sending().expect("closed");
            assert!(
                matches!(stream.next_bytes().await, Err(Failure::Status { .. })),
                "{start:?}"
            );
        }
        let after = server.resident_kib().expect("it runs");
        assert!(
            after < before + 64 * 1024,
            "resident memory went from {before} to {after} KiB"
        );
        put(&connection, "k", "w")
            .await
            .expect("the connection still works");
    });
}

#[test]
fn poison_for_real_etcd_survives_a_restart() {
    let suite = "poison and restart";
    let program = need!(suite, programs::quorate());
    let mut server = Server::start(&program);
    block_on(async {
        let connection = Grpc::connect(server.socket()).await.expect("a connection");
        put(&connection, "k1", "v").await.expect("a put");
        for case in txn_cases().into_iter().chain(other_cases()) {
            let _ = connection.call_bytes(case.path, case.request.into()).await;
        }
        put(&connection, "k2", "still here")
            .await
            .expect("it goes on");
    });
    server.kill();
    server
        .start_again()
        .unwrap_or_else(|error| panic!("{error}"));
    block_on(async {
        let connection = Grpc::connect(server.socket()).await.expect("a connection");
        assert_eq!(everything(&connection).await.0.len(), 2);
    });
}

#[test]
fn odd_watch_requests_cancel_that_watch_and_not_the_stream() {
    let suite = "bad watch requests";
    let server = need!(
        suite,
        programs::quorate().map(|program| Server::start(&program))
    );
    block_on(async {
        let connection = Grpc::connect(server.socket()).await.expect("a connection");
        put(&connection, "k", "1").await.expect("a put");
        let mut stream = connection.open(grpc::WATCH).await.expect("a stream");
        let mut ask = async |create: pb::WatchCreateRequest| {
            let request = pb::WatchRequest {
                request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
            };
            stream.send(&request).await.expect("sent");
            stream
                .next::<pb::WatchResponse>()
                .await
                .expect("an answer")
                .expect("the stream is open")
        };
        let plain = || pb::WatchCreateRequest {
            key: "k".into(),
            ..Default::default()
        };
        let good = ask(pb::WatchCreateRequest {
            watch_id: 5,
            ..plain()
        })
        .await;
        assert!(
            good.created && !good.canceled && good.watch_id == 5,
            "{good:?}"
        );
        let negative = ask(pb::WatchCreateRequest {
            start_revision: -1,
            ..plain()
        })
        .await;
        assert!(
            negative.created && negative.canceled && negative.watch_id == -1,
            "{negative:?}"
        );
        let twice = ask(pb::WatchCreateRequest {
            watch_id: 5,
            ..plain()
        })
        .await;
        assert!(
            twice.canceled && twice.cancel_reason.contains("duplicate watch ID"),
            "{twice:?}"
        );
        let backwards = ask(pb::WatchCreateRequest {
            range_end: "a".into(),
            ..plain()
        })
        .await;
        assert!(
            backwards.canceled && backwards.watch_id == -1,
            "{backwards:?}"
        );
        let filtered = ask(pb::WatchCreateRequest {
            filters: vec![77, -1],
            ..plain()
        })
        .await;
        assert!(
            filtered.created && !filtered.canceled,
            "unknown filters are ignored: {filtered:?}"
        );
        // A request with nothing in it, a cancel of what is not there: no answer, and the stream goes on.
        stream
            .send(&pb::WatchRequest {
                request_union: None,
            })
            .await
            .expect("sent");
        let cancel = pb::watch_request::RequestUnion::CancelRequest(pb::WatchCancelRequest {
            watch_id: 999,
        });
        stream
            .send(&pb::WatchRequest {
                request_union: Some(cancel),
            })
            .await
            .expect("sent");
        put(&connection, "k", "2").await.expect("a put");
        let mut told = Vec::new();
        while told.len() < 2 {
            let response: pb::WatchResponse = stream
                .next()
                .await
                .expect("an event")
                .expect("the stream is open");
            told.extend(response.events.iter().map(|_| response.watch_id));
        }
        told.sort_unstable();
        assert_eq!(
            told,
            [filtered.watch_id.min(5), filtered.watch_id.max(5)],
            "both live watches see the put"
        );
    });
}

async fn put(
    connection: &Grpc,
    key: &'static str,
    value: &'static str,
) -> Result<pb::PutResponse, Failure> {
    let request = pb::PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    };
    connection.call(grpc::PUT, &request).await
}

/// All keys with their revisions, and the store's revision.
async fn everything(connection: &Grpc) -> (Vec<(Bytes, Bytes, i64)>, i64) {
    let request = pb::RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..Default::default()
    };
    let answer: pb::RangeResponse = connection
        .call(grpc::RANGE, &request)
        .await
        .expect("a range");
    let kvs = answer
        .kvs
        .into_iter()
        .map(|kv| (kv.key, kv.value, kv.mod_revision))
        .collect();
    (kvs, answer.header.map_or(0, |header| header.revision))
}

fn told(answer: &Result<Bytes, Failure>) -> String {
    match answer {
        Ok(bytes) => format!("an answer of {} bytes", bytes.len()),
        Err(failure) => failure.to_string(),
    }
}
