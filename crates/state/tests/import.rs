//! A state that goes out as the rows of a backend file and comes in again.

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use common::{Member, put};
use prost::Message;
use proto::etcdserverpb as pb;
use proto::membershippb::ClusterVersionSetRequest;
use proto::raftpb::{ConfChange, ConfChangeType, EntryType};
use state::{Importer, Params, State};
use storage::catalog::Catalog;
use storage::disk::MemDisk;
use storage::fault::FaultKind;
use storage::segments::SegmentsOptions;

type Rows = Vec<(&'static str, Vec<u8>, Vec<u8>)>;

fn rows(state: &State) -> Rows {
    let mut rows = Rows::new();
    let visit = |bucket: &'static str, key: &[u8], value: &[u8]| {
        rows.push((bucket, key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    state.view().rows(visit).expect("sound data");
    rows
}

fn importer(disk: &Arc<MemDisk>) -> Importer {
    let params = Params {
        quota_bytes: None,
        ..Params::default()
    };
    Importer::new(params, disk.clone(), "copy", SegmentsOptions::default()).expect("an empty disk")
}

/// A member with some of everything.
fn example() -> Member {
    let mut member = Member::new();
    let context = r#"{"id":1,"peerURLs":["http://a:1"],"isPromote":false}"#;
    let change = ConfChange {
        id: Some(5),
        r#type: Some(ConfChangeType::ConfChangeAddNode as i32),
        node_id: Some(1),
        context: Some(common::bytes(context)),
    };
    member.entry(EntryType::EntryConfChange, change.encode_to_vec().into());
    let cluster_version_set = Some(ClusterVersionSetRequest {
        ver: "3.7.0".into(),
    });
    member.request(&pb::InternalRaftRequest {
        cluster_version_set,
        ..Default::default()
    });
    let alarm = Some(pb::AlarmRequest {
        action: 1,
        member_id: 1,
        alarm: 2,
    });
    member.grant(5, 60);
    for count in 0..200 {
        member.op(put(
            &format!("key-{}", count % 30),
            "value",
            if count % 3 == 0 { 5 } else { 0 },
        ));
    }
    member.delete("key-1", "key-15");
    member.compact(150);
    member.put("key-1", "again");
    member.request(&pb::InternalRaftRequest {
        alarm,
        ..Default::default()
    });
    member
}

#[test]
fn what_goes_out_comes_in_again() {
    let member = example();
    let disk = Arc::new(MemDisk::new());
    let mut importer = importer(&disk);
    for (bucket, key, value) in rows(&member.state) {
        importer
            .row(bucket, &key, Bytes::from(value))
            .expect("our own rows");
    }
    let (mut copy, job) = importer.finish().expect("our own rows");
    let (mut catalog, _) = Catalog::open(disk.clone(), "copy").expect("a sound disk");
    copy.checkpointed(job.run(&mut catalog).expect("a sound disk"));

    let (_, recovered) = Catalog::open(disk.clone(), "copy").expect("a sound disk");
    let params = copy.params().clone();
    let reopened = State::open(
        params,
        recovered.expect("a commit"),
        disk,
        "copy",
        SegmentsOptions::default(),
    )
    .expect("sound data");
    for copy in [&copy, &reopened] {
        assert_eq!(rows(copy), rows(&member.state));
        let (copy, view) = (copy.view(), member.state.view());
        assert_eq!(
            copy.hash_kv(0).expect("sound data"),
            view.hash_kv(0).expect("sound data")
        );
        assert_eq!(
            copy.hash().expect("sound data"),
            view.hash().expect("sound data")
        );
        assert_eq!(
            (copy.revision(), copy.compact_revision(), copy.applied()),
            (view.revision(), 150, view.applied())
        );
        assert_eq!(copy.leases().keys(5), view.leases().keys(5));
        assert_eq!(
            (copy.members(), copy.alarms(), copy.cluster_version()),
            (view.members(), view.alarms(), view.cluster_version())
        );
    }
}

#[test]
fn damaged_rows_are_faults() {
    let cases: [(&str, &[u8], &[u8]); 12] = [
        ("key", b"short", b""),
        ("key", b"\0\0\0\0\0\0\0\x02-\0\0\0\0\0\0\0\0", b""),
        ("key", b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0x", b""),
        ("key", b"\xff\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0", b""),
        ("key", b"\0\0\0\0\0\0\0\x02_\xff\0\0\0\0\0\0\0", b""),
        ("key", b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0", b"\xff"),
        ("meta", b"consistent_index", b"1"),
        (
            "meta",
            b"scheduledCompactRev",
            b"\xff\xff\xff\xff\xff\xff\xff\xff_",
        ),
        ("lease", b"\0\0\0\0\0\0\0\x05", b"\x08\x06"),
        ("members", b"1", b"{\"id\":2}"),
        ("members_removed", b"no id", b"removed"),
        ("cluster", b"clusterVersion", b"three"),
    ];
    for (bucket, key, value) in cases {
        let mut importer = importer(&Arc::new(MemDisk::new()));
        let fault = match importer.row(bucket, key, Bytes::copy_from_slice(value)) {
            Err(fault) => fault,
            Ok(()) => importer
                .finish()
                .err()
                .unwrap_or_else(|| panic!("{bucket} {} was taken", key.escape_ascii())),
        };
        assert_eq!(fault.kind(), FaultKind::Corrupted, "{fault}");
    }
}

#[test]
fn records_out_of_order_are_a_fault() {
    let mut importer = importer(&Arc::new(MemDisk::new()));
    let row = b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0";
    importer
        .row("key", row, Bytes::from_static(b"\n\x01a"))
        .expect("the first row");
    assert!(
        importer
            .row("key", row, Bytes::from_static(b"\n\x01a"))
            .is_err()
    );
}

#[test]
fn users_that_make_no_sense_are_refused() {
    for (bucket, key, value) in [
        ("auth", &b"authEnabled"[..], &[2][..]),
        ("auth", b"authRevision", b"1"),
        ("authUsers", b"root", b""),
        ("authUsers", b"root", b"\xff"),
        ("authRoles", b"root", b"\n\x01r"),
    ] {
        let mut importer = importer(&Arc::new(MemDisk::new()));
        importer
            .row(bucket, key, Bytes::copy_from_slice(value))
            .expect("a row");
        assert_eq!(
            importer.finish().err().map(|fault| fault.kind()),
            Some(FaultKind::Corrupted),
            "{bucket}"
        );
    }
}
