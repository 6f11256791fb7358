//! The claims of this module, on a disk that forgets.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use prost::Message;

use super::*;
use crate::disk::MemDisk;
use crate::fault::FaultKind;

const DIR: &str = "member/segments";

fn small() -> SegmentsOptions {
    SegmentsOptions {
        segment_bytes: 2000,
        hot_bytes: 0,
        salt: 7,
        sequence_first: 1,
    }
}

fn rev(main: i64) -> Revision {
    Revision { main, sub: 0 }
}

/// An encoded `mvccpb.KeyValue`.
fn kv(key: &str, create: i64, main: i64, version: i64, value: &[u8]) -> Bytes {
    proto::mvccpb::KeyValue {
        key: key.as_bytes().to_vec().into(),
        create_revision: create,
        mod_revision: main,
        version,
        value: value.to_vec().into(),
        lease: 0,
    }
    .encode_to_vec()
    .into()
}

fn tombstone(key: &str) -> Bytes {
    proto::mvccpb::KeyValue {
        key: key.as_bytes().to_vec().into(),
        ..Default::default()
    }
    .encode_to_vec()
    .into()
}

fn put(segments: &mut Segments, main: i64, key: &str) {
    segments.append(rev(main), false, kv(key, main, main, 1, &[main as u8; 100]));
}

fn create(disk: &MemDisk, options: SegmentsOptions) -> Segments {
    Segments::create(Arc::new(disk.clone()), DIR, options).unwrap()
}

/// Flushes and forgets as a checkpoint does; returns the ends a catalog would have.
fn flush(disk: &MemDisk, segments: &mut Segments) -> Vec<SegmentEnd> {
    let job = segments.flush();
    let flushed = job.run().unwrap();
    for path in job.obsolete() {
        disk.remove(path).unwrap();
    }
    segments.flushed(flushed);
    segments.check();
    job.ends().to_vec()
}

fn reopen(
    disk: &MemDisk,
    ends: &[SegmentEnd],
    options: SegmentsOptions,
) -> Result<Segments, Fault> {
    let segments = Segments::open(Arc::new(disk.clone()), DIR, ends, options)?;
    segments.check();
    Ok(segments)
}

fn mains(view: &SegmentsView, from: i64, to: i64) -> Vec<i64> {
    let mut seen = Vec::new();
    view.scan(rev(from), rev(to), |record| {
        seen.push(record.revision.main);
        ControlFlow::Continue(())
    })
    .unwrap();
    seen
}

#[test]
fn what_was_appended_is_read_hot_cold_and_after_a_restart() {
    let disk = MemDisk::new();
    let mut segments = create(&disk, small());
    for main in 2..100 {
        put(&mut segments, main, &format!("key-{main}"));
    }
    let hot = segments.view();
    let ends = flush(&disk, &mut segments);
    assert!(ends.len() > 3, "the sample spans segments: {ends:?}");
    assert!(
        segments.hot_bytes() < 2200,
        "only the unsealed segment stays hot"
    );
    let cold = segments.view();
    let again = reopen(&disk, &ends, small()).unwrap().view();
    for view in [hot, cold, again] {
        for main in 2..100 {
            let record = view.read(rev(main)).unwrap().unwrap();
            assert_eq!(
                record.kv,
                kv(&format!("key-{main}"), main, main, 1, &[main as u8; 100])
            );
            assert!(!record.tombstone);
        }
        assert_eq!(view.read(rev(1)).unwrap(), None);
        assert_eq!(view.read(rev(100)).unwrap(), None);
        assert_eq!(view.read(Revision { main: 50, sub: 1 }).unwrap(), None);
        assert_eq!(mains(&view, 0, 1000), (2..100).collect::<Vec<_>>());
        assert_eq!(mains(&view, 40, 60), (40..60).collect::<Vec<_>>());
    }
}
