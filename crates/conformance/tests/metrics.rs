//! `/metrics` beside real etcd's: the same names, types, labels and buckets, and the same counts after the same operations.

use conformance::grpc::{self, Grpc, block_on};
use conformance::need;
use conformance::programs;
use conformance::server::{Launch, Server, http_get};
use proto::etcdserverpb as pb;
use std::collections::{BTreeMap, BTreeSet};

/// What real etcd counts and we have not, by the beginnings of the names.
const ABSENT: &[&str] = &[
    // The Go runtime, and a counter of its web library.
    "go_",
    "promhttp_metric_handler_requests_in_flight",
    // bbolt's commits, and pauses of a compaction that has none here.
    "etcd_debugging_disk_backend_commit_",
    "etcd_debugging_mvcc_db_compaction_",
    "etcd_debugging_mvcc_index_compaction_pause_",
    // Snapshot files of the v2 store, and the store itself.
    "etcd_snap_",
    "etcd_debugging_snap_",
    "etcd_debugging_store_",
    // The proxy is another program.
    "etcd_grpc_proxy_",
    // Gone since 3.6.
    "etcd_debugging_mvcc_range_total",
    // By operation; not counted yet.
    "etcd_server_apply_duration_seconds",
];

/// Counts that must be equal after the same operations.
const EQUAL: &[&str] = &[
    "etcd_mvcc_put_total",
    "etcd_mvcc_delete_total",
    "etcd_mvcc_txn_total",
    "etcd_debugging_mvcc_total_put_size_in_bytes",
    "etcd_debugging_mvcc_keys_total",
    "etcd_debugging_mvcc_current_revision",
    "etcd_debugging_mvcc_compact_revision",
    "etcd_debugging_mvcc_watch_stream_total",
    "etcd_debugging_mvcc_watcher_total",
    "etcd_debugging_mvcc_slow_watcher_total",
    "etcd_debugging_lease_granted_total",
    "etcd_debugging_lease_revoked_total",
    "etcd_debugging_lease_ttl_total_sum",
    "etcd_server_has_leader",
    "etcd_server_is_leader",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_proposals_pending",
    "etcd_server_quota_backend_bytes",
    "etcd_server_read_indexes_failed_total",
    "grpc_server_started_total{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}",
    "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}",
    "grpc_server_handled_total{grpc_code=\"InvalidArgument\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}",
    "grpc_server_handling_seconds_count{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}",
    "grpc_server_msg_sent_total{grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"}",
    "grpc_server_msg_received_total{grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"}",
];

/// What must have been counted by then, though not equally.
const ALIVE: &[&str] = &[
    "etcd_disk_wal_fsync_duration_seconds_count",
    "etcd_disk_wal_write_duration_seconds_count",
    "etcd_disk_wal_write_bytes_total",
    "etcd_mvcc_range_total",
    "etcd_debugging_mvcc_events_total",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_hash_rev_duration_seconds_count",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_start_time_seconds",
];

struct Page {
    types: BTreeMap<String, String>,
    values: BTreeMap<String, f64>,
}

impl Page {
    fn of(server: &Server) -> Page {
        let reply = http_get(server.socket(), "/metrics").expect("a page");
        assert_eq!(reply.status, 200);
        let mut page = Page {
            types: BTreeMap::new(),
            values: BTreeMap::new(),
        };
        for line in reply.body.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type");
                page.types.insert(name.into(), kind.into());
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').expect("a value");
                let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
                let before = page.values.insert(name.into(), value);
                assert_eq!(before, None, "twice: {line}");
            }
        }
        page
    }

    fn value(&self, name: &str) -> f64 {
        *self.values.get(name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// The names of labels of each name, and the bounds of buckets.
    fn labels(&self) -> BTreeMap<&str, BTreeSet<String>> {
        let mut labels = BTreeMap::<&str, BTreeSet<String>>::new();
        for name in self.values.keys() {
            let (name, text) = name.split_once('{').unwrap_or((name, ""));
            let entry = labels.entry(name).or_default();
            for label in text.trim_end_matches('}').split("\",") {
                let (label, value) = label.split_once('=').unwrap_or((label, ""));
                entry.insert(match label {
                    "le" => format!("le={}", value.trim_matches('"')),
                    label => label.to_owned(),
                });
            }
        }
        labels
    }
}

fn is_absent(name: &str) -> bool {
    ABSENT.iter().any(|absent| name.starts_with(absent))
}

#[test]
fn the_page_has_etcds_names_types_and_labels_and_counts_the_same() {
    let suite = "metrics beside etcd's";
    let launch = |program| Launch::new(&program).flags(["--metrics=extensive"]).start();
    let ours = launch(need!(suite, programs::quorate()));
    let theirs = launch(need!(suite, programs::etcd_reference()));
    let watches = block_on(async { [operate(&ours).await, operate(&theirs).await] });
    let (our_page, their_page) = (Page::of(&ours), Page::of(&theirs));
    drop(watches);

    let mut wrong = Vec::new();
    for (name, kind) in &their_page.types {
        if !is_absent(name) && our_page.types.get(name) != Some(kind) {
            wrong.push(format!(
                "{name}: {:?}, not {kind}",
                our_page.types.get(name)
            ));
        }
    }
    let our_labels = our_page.labels();
    for (name, labels) in their_page.labels() {
        if !is_absent(name) && our_labels.get(name) != Some(&labels) {
            let ours = our_labels.get(name);
            wrong.push(format!("{name} has the labels {ours:?}, not {labels:?}"));
        }
    }
    for name in EQUAL {
        let (ours, theirs) = (our_page.value(name), their_page.value(name));
        if ours != theirs {
            wrong.push(format!("{name}: {ours}, not {theirs}"));
        }
    }
    for name in ALIVE {
        if our_page.value(name) <= 0.0 {
            wrong.push(format!("{name} is not counted"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Some of everything. Returns the watch, which is still open.
async fn operate(server: &Server) -> grpc::Call {
    let connection = Grpc::connect(server.socket()).await.expect("a connection");
    let put = |key: &str, value: &str| pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    };
    let mut watch = connection.open(grpc::WATCH).await.expect("a stream");
    let create = pb::WatchCreateRequest {
        key: "a".into(),
        ..Default::default()
    };
    let create = pb::watch_request::RequestUnion::CreateRequest(create);
    let create = pb::WatchRequest {
        request_union: Some(create),
    };
    watch.send(&create).await.expect("sent");
    let created: Option<pb::WatchResponse> = watch.next().await.expect("an answer");
    assert!(created.is_some_and(|created| created.created));

    for (key, value) in [("a", "1"), ("b", "22"), ("c", "333")] {
        let _: pb::PutResponse = connection
            .call(grpc::PUT, &put(key, value))
            .await
            .expect("put");
    }
    let event: Option<pb::WatchResponse> = watch.next().await.expect("an event");
    assert_eq!(event.map(|event| event.events.len()), Some(1));
    let refused: Result<pb::PutResponse, _> = connection.call(grpc::PUT, &put("", "")).await;
    assert!(refused.is_err());
    let delete = pb::DeleteRangeRequest {
        key: "c".into(),
        ..Default::default()
    };
    let _: pb::DeleteRangeResponse = connection
        .call(grpc::DELETE_RANGE, &delete)
        .await
        .expect("deleted");
    let ops = ["x", "y"].map(|key| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(put(key, "v"))),
    });
    let txn = pb::TxnRequest {
        success: ops.into(),
        ..Default::default()
    };
    let _: pb::TxnResponse = connection.call(grpc::TXN, &txn).await.expect("a txn");
    let range = pb::RangeRequest {
        key: "a".into(),
        ..Default::default()
    };
    let _: pb::RangeResponse = connection.call(grpc::RANGE, &range).await.expect("a range");
    let grant = pb::LeaseGrantRequest { ttl: 1000, id: 7 };
    let _: pb::LeaseGrantResponse = connection
        .call(grpc::LEASE_GRANT, &grant)
        .await
        .expect("granted");
    let revoke = pb::LeaseRevokeRequest { id: 7 };
    let _: pb::LeaseRevokeResponse = connection
        .call(grpc::LEASE_REVOKE, &revoke)
        .await
        .expect("revoked");
    let compact = pb::CompactionRequest {
        revision: 4,
        physical: true,
    };
    let _: pb::CompactionResponse = connection
        .call(grpc::COMPACT, &compact)
        .await
        .expect("compacted");
    let hash = pb::HashKvRequest::default();
    let _: pb::HashKvResponse = connection.call(grpc::HASH_KV, &hash).await.expect("hashed");
    for path in ["/livez", "/readyz", "/metrics"] {
        let reply = http_get(server.socket(), path).expect("an answer");
        assert_eq!(reply.status, 200, "{path}");
    }
    watch
}
