//! The bytes on the wire and on disk, worked out by hand from the encoding rules.
//!
//! Where a test says "3.5", the bytes are what etcd up to 3.6 writes: proto2 fields are
//! there even when zero.

use bytes::Bytes;
use prost::Message;

use proto::{etcdserverpb as pb, leasepb, membershippb, mvccpb, raftpb, snappb, walpb};

#[test]
fn a_stored_key_value_has_ascending_fields_and_no_zeros() {
    let full = mvccpb::KeyValue {
        key: "a".into(),
        create_revision: 1,
        mod_revision: 2,
        version: 3,
        value: "b".into(),
        lease: 300,
    };
    assert_bytes(
        &full,
        b"\x0a\x01a\x10\x01\x18\x02\x20\x03\x2a\x01b\x30\xac\x02",
    );

    let unleased = mvccpb::KeyValue { lease: 0, ..full };
    assert_bytes(&unleased, b"\x0a\x01a\x10\x01\x18\x02\x20\x03\x2a\x01b");

    let tombstone = mvccpb::KeyValue {
        key: "a".into(),
        ..Default::default()
    };
    assert_bytes(&tombstone, b"\x0a\x01a");
}

#[test]
fn a_range_request_numbers_its_fields_1_to_13() {
    let request = pb::RangeRequest {
        key: "a".into(),
        range_end: "b".into(),
        limit: 1,
        revision: 2,
        sort_order: pb::range_request::SortOrder::Descend.into(),
        sort_target: pb::range_request::SortTarget::Value.into(),
        serializable: true,
        keys_only: true,
        count_only: true,
        min_mod_revision: 3,
        max_mod_revision: 4,
        min_create_revision: 5,
        max_create_revision: 6,
    };
    assert_bytes(
        &request,
        b"\x0a\x01a\x12\x01b\x18\x01\x20\x02\x28\x02\x30\x04\x38\x01\x40\x01\x48\x01\
          \x50\x03\x58\x04\x60\x05\x68\x06",
    );
}

#[test]
fn a_compare_puts_its_range_end_at_64_and_writes_a_zero_target() {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    let absent = pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: "k".into(),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(0)),
    };
    assert_bytes(&absent, b"\x10\x01\x1a\x01k\x28\x00");

    let range = pb::Compare {
        result: CompareResult::NotEqual.into(),
        target: CompareTarget::Value.into(),
        key: "k".into(),
        range_end: "l".into(),
        target_union: Some(TargetUnion::Value("v".into())),
    };
    assert_bytes(&range, b"\x08\x03\x10\x03\x1a\x01k\x3a\x01v\x82\x04\x01l");
}

#[test]
fn a_watch_response_puts_its_events_at_11() {
    let response = pb::WatchResponse {
        watch_id: -1,
        compact_revision: 5,
        cancel_reason: "r".into(),
        fragment: true,
        events: vec![mvccpb::Event {
            r#type: mvccpb::event::EventType::Delete.into(),
            kv: Some(mvccpb::KeyValue::default()),
            prev_kv: None,
        }],
        ..Default::default()
    };
    assert_bytes(
        &response,
        b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x28\x05\x32\x01r\x38\x01\
          \x5a\x04\x08\x01\x12\x00",
    );
}

#[test]
fn a_raft_request_puts_its_header_at_100_and_the_rest_where_it_belongs() {
    let header = Some(pb::RequestHeader {
        id: 1,
        username: "u".into(),
        auth_revision: 3,
    });
    let put = pb::InternalRaftRequest {
        header: header.clone(),
        put: Some(pb::PutRequest {
            key: "k".into(),
            value: "v".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_bytes(
        &put,
        b"\x22\x06\x0a\x01k\x12\x01v\xa2\x06\x07\x08\x01\x12\x01u\x18\x03",
    );

    let enable = pb::InternalRaftRequest {
        auth_enable: Some(pb::AuthEnableRequest {}),
        ..Default::default()
    };
    assert_bytes(&enable, b"\xc2\x3e\x00");

    let published = pb::InternalRaftRequest {
        cluster_member_attr_set: Some(membershippb::ClusterMemberAttrSetRequest {
            member_id: 7,
            member_attributes: Some(membershippb::Attributes {
                name: "n".into(),
                client_urls: vec!["u".into()],
            }),
        }),
        ..Default::default()
    };
    assert_bytes(
        &published,
        b"\xaa\x51\x0a\x08\x07\x12\x06\x0a\x01n\x12\x01u",
    );

    let probe = pb::InternalRaftRequest {
        downgrade_version_test: Some(pb::DowngradeVersionTestRequest { ver: "3".into() }),
        ..Default::default()
    };
    assert_bytes(&probe, b"\xe2\xea\x04\x03\x0a\x013");
}

#[test]
fn a_stored_lease_has_capital_names_and_plain_numbers() {
    let lease = leasepb::Lease {
        id: 1,
        ttl: 2,
        remaining_ttl: 3,
    };
    assert_bytes(&lease, b"\x08\x01\x10\x02\x18\x03");
}

#[test]
fn a_raft_entry_has_type_first_and_term_before_index() {
    let entry = raftpb::Entry {
        r#type: Some(raftpb::EntryType::EntryConfChange.into()),
        term: Some(5),
        index: Some(7),
        data: Some("d".into()),
    };
    assert_bytes(&entry, b"\x08\x01\x10\x05\x18\x07\x22\x01d");

    // The zeros of 3.5 are kept when present and not made up when absent.
    let zeros = raftpb::Entry {
        r#type: Some(0),
        term: Some(5),
        index: Some(7),
        data: None,
    };
    assert_bytes(&zeros, b"\x08\x00\x10\x05\x18\x07");
    let sparse = raftpb::Entry::decode(&b"\x10\x05\x18\x07"[..]).expect("well formed");
    assert_eq!(sparse.r#type(), zeros.r#type());
    assert_eq!(sparse.data(), zeros.data());
}

#[test]
fn a_heartbeat_of_3_5_with_all_its_zeros_reads_like_a_sparse_one() {
    let conf_state = b"\x0a\x02\x28\x00";
    let metadata = [&b"\x12\x08"[..], conf_state, b"\x10\x00\x18\x00"].concat();
    let snapshot = [&b"\x4a\x0a"[..], &metadata].concat();
    let message = [
        &b"\x08\x08\x10\x02\x18\x01\x20\x05\x28\x00\x30\x00\x40\x06"[..],
        &snapshot,
        b"\x50\x00\x58\x00",
    ]
    .concat();

    let full = raftpb::Message::decode(&message[..]).expect("as 3.5 writes it");
    let sparse = raftpb::Message::decode(&b"\x08\x08\x10\x02\x18\x01\x20\x05\x40\x06"[..])
        .expect("as 3.7 writes it");
    for read in [&full, &sparse] {
        assert_eq!(read.r#type(), raftpb::MessageType::MsgHeartbeat);
        assert_eq!(
            (read.to(), read.from(), read.term(), read.commit()),
            (2, 1, 5, 6)
        );
        assert_eq!(
            (read.index(), read.log_term(), read.reject_hint()),
            (0, 0, 0)
        );
        assert!(!read.reject() && read.context().is_empty() && read.entries.is_empty());
    }
    let metadata = full.snapshot.and_then(|snapshot| snapshot.metadata);
    assert_eq!(metadata.map(|metadata| metadata.index()), Some(0));
    assert_eq!(sparse.snapshot, None);
}

#[test]
fn a_raft_message_keeps_14_for_responses_and_13_for_vote() {
    // Numbers other raft implementations use differently: sending a varint at 14 makes
    // an etcd peer drop the connection.
    let message = raftpb::Message {
        vote: Some(5),
        responses: vec![raftpb::Message::default()],
        ..Default::default()
    };
    assert_bytes(&message, b"\x68\x05\x72\x00");
    assert!(raftpb::Message::decode(&b"\x70\x01"[..]).is_err());
}

#[test]
fn a_conf_change_has_its_id_first_and_learners_are_3() {
    let change = raftpb::ConfChange {
        id: Some(1),
        r#type: Some(raftpb::ConfChangeType::ConfChangeAddLearnerNode.into()),
        node_id: Some(2),
        context: Some("{}".into()),
    };
    assert_bytes(&change, b"\x08\x01\x10\x03\x18\x02\x22\x02{}");
}

#[test]
fn repeated_numbers_of_a_conf_state_are_written_one_by_one() {
    // proto2: not packed. Packed ones are accepted as well.
    let state = raftpb::ConfState {
        voters: vec![1, 2],
        auto_leave: Some(false),
        ..Default::default()
    };
    assert_bytes(&state, b"\x08\x01\x08\x02\x28\x00");
    let packed = raftpb::ConfState::decode(&b"\x0a\x02\x01\x02\x28\x00"[..]);
    assert_eq!(packed, Ok(state));
}

#[test]
fn etcds_files_hold_these_records() {
    let record = walpb::Record {
        r#type: Some(4),
        crc: Some(0xffff_ffff),
        data: None,
    };
    assert_bytes(&record, b"\x08\x04\x10\xff\xff\xff\xff\x0f");
    let mark = walpb::Snapshot {
        index: Some(1),
        term: Some(2),
        conf_state: Some(raftpb::ConfState::default()),
    };
    assert_bytes(&mark, b"\x08\x01\x10\x02\x1a\x00");
    let metadata = pb::Metadata {
        node_id: Some(1),
        cluster_id: Some(2),
    };
    assert_bytes(&metadata, b"\x08\x01\x10\x02");
    let hard_state = raftpb::HardState {
        term: Some(1),
        vote: Some(0),
        commit: Some(3),
    };
    assert_bytes(&hard_state, b"\x08\x01\x10\x00\x18\x03");
    let envelope = snappb::Snapshot {
        crc: Some(1),
        data: Some("d".into()),
    };
    assert_bytes(&envelope, b"\x08\x01\x12\x01d");
}

#[test]
fn a_bare_v2_request_does_not_parse_as_a_raft_request() {
    for method in ["PUT", "POST", "DELETE", "QGET", "SYNC", ""] {
        let request = v2_request(method);
        let bytes = request.encode_to_vec();
        assert!(
            pb::InternalRaftRequest::decode(&bytes[..]).is_err(),
            "{method}"
        );
        assert_eq!(pb::Request::decode(&bytes[..]), Ok(request), "{method}");
    }
}

#[test]
fn a_publication_of_3_5_is_read_field_by_field() {
    let bytes = b"\x08\x07\x12\x03PUT\x1a\x02/0\x22\x02{}\x28\x00\x32\x00\x38\x00\x48\x00\
        \x50\x00\x58\x00\x60\x00\x68\x00\x70\x00\x78\x00\x80\x01\x00";
    let request = pb::Request::decode(&bytes[..]).expect("as 3.5 writes it");
    assert_eq!((request.id(), request.method()), (7, "PUT"));
    assert_eq!((request.path(), request.val()), (&b"/0"[..], &b"{}"[..]));
    assert_eq!((request.prev_exist, request.refresh), (None, None));
    assert!(pb::InternalRaftRequest::decode(&bytes[..]).is_err());
}

#[test]
fn a_wrapped_v2_request_is_read_from_field_2() {
    let wrapped = pb::InternalRaftRequest {
        id: 1,
        v2: Some(Box::new(v2_request("PUT"))),
        ..Default::default()
    };
    let bytes = wrapped.encode_to_vec();
    assert_eq!(&bytes[..3], b"\x08\x01\x12");
    assert_eq!(pb::InternalRaftRequest::decode(&bytes[..]), Ok(wrapped));
}

#[test]
fn a_v2_request_may_hold_bytes_that_are_not_text() {
    let request = pb::Request {
        path: Some(Bytes::from_static(b"/1/\xff")),
        val: Some(Bytes::from_static(b"\xfe")),
        ..v2_request("PUT")
    };
    let bytes = request.encode_to_vec();
    assert_eq!(pb::Request::decode(&bytes[..]), Ok(request));
}

#[test]
fn unknown_fields_are_skipped() {
    let bytes = b"\x82\x7d\x01x\x0a\x01a\x88\x7d\x05";
    let request = pb::PutRequest::decode(&bytes[..]).expect("2000 and 2001 are unknown");
    assert_eq!(request.key, "a");

    let unknown_only = pb::InternalRaftRequest::decode(&b"\x82\x7d\x01x"[..]);
    assert_eq!(unknown_only, Ok(pb::InternalRaftRequest::default()));
}

#[test]
fn decoding_from_bytes_shares_the_input() {
    let put = pb::PutRequest {
        value: vec![b'v'; 1000].into(),
        ..Default::default()
    };
    let input = Bytes::from(put.encode_to_vec());
    let value = pb::PutRequest::decode(input.clone())
        .expect("well formed")
        .value;
    assert!(input.as_ptr_range().contains(&value.as_ptr()));
}

#[test]
fn cut_off_input_is_refused_or_shorter_but_never_a_panic() {
    let txn = pb::InternalRaftRequest {
        txn: Some(nested_txn(3)),
        ..Default::default()
    };
    let bytes = txn.encode_to_vec();
    for length in 1..bytes.len() {
        assert!(pb::InternalRaftRequest::decode(&bytes[..length]).is_err());
    }
    // A length far beyond the input is found out before anything is allocated.
    assert!(pb::PutRequest::decode(&b"\x0a\xff\xff\xff\xff\x07"[..]).is_err());
}

#[test]
fn nesting_is_bounded() {
    let fine = nested_txn(40).encode_to_vec();
    assert!(pb::TxnRequest::decode(&fine[..]).is_ok());
    let deep = nested_txn(200).encode_to_vec();
    assert!(pb::TxnRequest::decode(&deep[..]).is_err());
}

/// The message has exactly these bytes, and they read back as the message.
fn assert_bytes<M: Message + Default + PartialEq + std::fmt::Debug>(message: &M, bytes: &[u8]) {
    assert_eq!(
        message.encode_to_vec().escape_ascii().to_string(),
        bytes.escape_ascii().to_string()
    );
    assert_eq!(M::decode(bytes).as_ref(), Ok(message));
}

/// As 3.5 writes one: zeros present, except the two fields with three states.
fn v2_request(method: &str) -> pb::Request {
    pb::Request {
        id: Some(7),
        method: Some(method.into()),
        path: Some("/0/members/1/attributes".into()),
        val: Some("{}".into()),
        dir: Some(false),
        prev_value: Some(Bytes::new()),
        prev_index: Some(0),
        prev_exist: None,
        expiration: Some(0),
        wait: Some(false),
        since: Some(0),
        recursive: Some(false),
        sorted: Some(false),
        quorum: Some(false),
        time: Some(0),
        stream: Some(false),
        refresh: None,
    }
}

fn nested_txn(depth: usize) -> pb::TxnRequest {
    let inner = (depth > 0).then(|| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestTxn(nested_txn(depth - 1))),
    });
    pb::TxnRequest {
        success: inner.into_iter().collect(),
        ..Default::default()
    }
}
