//! `Maintenance.Snapshot`: the whole state as etcd's backend file, streamed.
//!
//! Nothing is written to disk and nothing is held in memory but a few pages. A view is pinned, so clients go on writing
//! meanwhile. Two threads live for as long as the call: one walks the rows, one makes pages of them; each waits when the
//! client does not read. The file's size is known beforehand from the lengths of the rows.

use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use futures_util::stream;
use proto::etcdserverpb::SnapshotResponse;
use sha2::{Digest, Sha256};
use state::{BUCKETS, ReadView};
use std::ops::ControlFlow;
use storage::bolt::{Planner, Row, Writer};
use storage::fault::Fault;
use tokio::sync::mpsc;

use super::body::{Piece, Pieces};
use super::frame;
use super::status::Status;
use proto::error::Code;

/// As etcd cuts its file.
const BLOB_BYTES: usize = 32 << 10;
/// Blobs and rows that may wait for a slow client.
const BLOBS_AHEAD: usize = 16;
const ROWS_AHEAD: usize = 256;

/// A blob and how much of the file is left after it.
type Blob = Result<(Bytes, u64), Fault>;

/// The messages of a snapshot of `view`: blobs, then the SHA-256 of them all.
///
/// # Errors
/// No thread can be started.
pub fn stream_of(view: Arc<ReadView>, version: String) -> Result<Pieces, Status> {
    let (blobs, inbox) = mpsc::channel(BLOBS_AHEAD);
    std::thread::Builder::new()
        .name("snapshot".into())
        .spawn(move || write(&view, &blobs))
        .map_err(|why| Status::internal(format!("no thread for the snapshot: {why}")))?;
    let state = Some((inbox, Sha256::new()));
    Ok(Box::pin(stream::unfold(state, move |state| {
        next(state, version.clone())
    })))
}

type Unfolded = Option<(mpsc::Receiver<Blob>, Sha256)>;

async fn next(state: Unfolded, version: String) -> Option<(Result<Piece, Status>, Unfolded)> {
    let (mut inbox, mut hash) = state?;
    let (blob, remaining_bytes, after) = match inbox.recv().await {
        Some(Ok((blob, remaining))) => {
            hash.update(&blob);
            (blob, remaining, Some((inbox, hash)))
        }
        Some(Err(fault)) => {
            return Some((Err(Status::new(Code::DataLoss, fault.to_string())), None));
        }
        None => (Bytes::copy_from_slice(&hash.finalize()), 0, None),
    };
    let message = SnapshotResponse {
        header: None,
        remaining_bytes,
        blob,
        version,
    };
    Some((
        Ok(Piece {
            data: frame::encode(&message),
            messages: 1,
        }),
        after,
    ))
}

/// Sizes the file, then sends it until it is complete or nobody reads any more.
fn write(view: &Arc<ReadView>, blobs: &mpsc::Sender<Blob>) {
    let mut planner = Planner::new(&BUCKETS);
    let planned = view.rows(|bucket, key, value| {
        planner.row(place_of(bucket), key.len(), value.len());
        ControlFlow::Continue(())
    });
    if let Err(fault) = planned {
        let _ = blobs.blocking_send(Err(fault));
        return;
    }
    let (rows, inbox) = bounded(ROWS_AHEAD);
    let walked = view.clone();
    let walker = std::thread::Builder::new()
        .name("snapshot-rows".into())
        .spawn(move || walk(&walked, &rows));
    if walker.is_err() {
        return;
    }
    let mut writer = Writer::new(planner.finish(), Rows(inbox));
    while let Some(chunk) = writer.next_chunk(BLOB_BYTES).transpose() {
        let blob = chunk.map(|chunk| (chunk, writer.remaining()));
        let is_over = blob.is_err();
        if blobs.blocking_send(blob).is_err() || is_over {
            return;
        }
    }
}

fn walk(view: &ReadView, rows: &Sender<Result<Row, Fault>>) {
    let walked = view.rows(|bucket, key, value| {
        let row = Row {
            bucket: place_of(bucket),
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(value),
        };
        match rows.send(Ok(row)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    if let Err(fault) = walked {
        let _ = rows.send(Err(fault));
    }
}

struct Rows(Receiver<Result<Row, Fault>>);

impl Iterator for Rows {
    type Item = Result<Row, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.recv().ok()
    }
}

fn place_of(bucket: &str) -> usize {
    BUCKETS
        .iter()
        .position(|name| *name == bucket)
        .expect("rows come from the buckets that are listed")
}
