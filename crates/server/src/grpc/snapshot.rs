//! `Maintenance.Snapshot`: the whole state as etcd's backend file, streamed.
//!
//! Nothing is written to disk and nothing is held in memory but a few pages. A view is pinned, so clients go on writing
//! meanwhile. Two threads live for as long as the call: one walks the rows, one makes pages of them; each waits when the
//! client does not read. The file's size is known beforehand from the lengths of the rows.
//!
//! The hash at the end says that the file is whole, so it is sent only behind the last byte of the planned file. Whatever
//! ends the threads earlier ends the call with an error.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use futures_util::stream;
use proto::error::Code;
use proto::etcdserverpb::SnapshotResponse;
use sha2::{Digest, Sha256};
use state::{BUCKETS, ReadView};
use storage::bolt::{Planner, Row, Writer};
use storage::fault::{Fault, FaultKind};
use tokio::sync::mpsc;

use super::body::{Piece, Pieces};
use super::frame;
use super::status::Status;

/// As etcd cuts its file.
const BLOB_BYTES: usize = 32 << 10;
/// Blobs that may wait for a slow client.
const BLOBS_AHEAD: usize = 16;
/// Rows travel together until they come to this; so many loads may wait.
const LOAD_BYTES: usize = 64 << 10;
const LOADS_AHEAD: usize = 4;

/// Is shown a row: its bucket, key and value.
type Visit<'a> = dyn FnMut(&'static str, &[u8], &[u8]) -> ControlFlow<()> + 'a;

/// What a snapshot is made of.
pub trait Source: Send + Sync + 'static {
    /// As [`ReadView::rows`]: the same rows each time.
    fn rows(&self, visit: &mut Visit<'_>) -> Result<(), Fault>;
}

impl Source for ReadView {
    fn rows(&self, visit: &mut Visit<'_>) -> Result<(), Fault> {
        ReadView::rows(self, visit)
    }
}

/// A blob and how much of the file is left after it.
pub type Blob = Result<(Bytes, u64), Status>;
/// Starts a thread of a name.
type Spawn = fn(&'static str, Box<dyn FnOnce() + Send>) -> io::Result<()>;

/// The messages of a snapshot of `view`: blobs, then the SHA-256 of them all. `place` is dropped when the work has ended.
///
/// # Errors
/// No thread can be started.
pub fn stream_of(
    view: Arc<impl Source>,
    version: String,
    place: impl Send + 'static,
) -> Result<Pieces, Status> {
    stream_with(spawn, view, version, place)
}

fn spawn(name: &'static str, body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    let builder = std::thread::Builder::new().name(name.into());
    builder.spawn(body).map(drop)
}

/// The file alone, in pieces, each with the number of bytes behind it; it is whole when that is 0. For another member.
///
/// # Errors
/// No thread can be started.
pub fn file_of(
    view: Arc<impl Source>,
    place: impl Send + 'static,
) -> Result<mpsc::Receiver<Blob>, Status> {
    start(spawn, view, place)
}

fn start(
    spawn: Spawn,
    view: Arc<impl Source>,
    place: impl Send + 'static,
) -> Result<mpsc::Receiver<Blob>, Status> {
    let (blobs, inbox) = mpsc::channel(BLOBS_AHEAD);
    let body = Box::new(move || {
        if let Err(status) = write(spawn, &view, &blobs) {
            let _ = blobs.blocking_send(Err(status));
        }
        drop(place);
    });
    spawn("snapshot", body).map_err(|why| no_thread(&why))?;
    Ok(inbox)
}

fn stream_with(
    spawn: Spawn,
    view: Arc<impl Source>,
    version: String,
    place: impl Send + 'static,
) -> Result<Pieces, Status> {
    let reading = Some(Reading {
        inbox: start(spawn, view, place)?,
        hash: Sha256::new(),
        left: None,
    });
    Ok(Box::pin(stream::unfold(reading, move |reading| {
        next(reading, version.clone())
    })))
}

/// The receiving end of a snapshot.
struct Reading {
    inbox: mpsc::Receiver<Blob>,
    hash: Sha256,
    /// Bytes of the file that have not come yet; unknown before the first.
    left: Option<u64>,
}

async fn next(
    reading: Option<Reading>,
    version: String,
) -> Option<(Result<Piece, Status>, Option<Reading>)> {
    let mut reading = reading?;
    let (blob, remaining_bytes, after) = match (reading.inbox.recv().await, reading.left) {
        (Some(Ok((blob, left))), _) => {
            reading.hash.update(&blob);
            reading.left = Some(left);
            (blob, left, Some(reading))
        }
        (Some(Err(status)), _) => return Some((Err(status), None)),
        (None, Some(0)) => {
            let hash = reading.hash.finalize();
            (Bytes::copy_from_slice(&hash), 0, None)
        }
        (None, _) => {
            let why = "the snapshot ended before the file was complete";
            return Some((Err(Status::internal(why)), None));
        }
    };
    let message = SnapshotResponse {
        header: None,
        remaining_bytes,
        blob,
        version,
    };
    Some((Ok(Piece::one(frame::encode(&message))), after))
}

/// Sizes the file, then sends it until it is complete or nobody reads any more.
fn write(spawn: Spawn, view: &Arc<impl Source>, blobs: &mpsc::Sender<Blob>) -> Result<(), Status> {
    let mut planner = Planner::new(&BUCKETS);
    view.rows(&mut |bucket, key, value| {
        planner.row(place_of(bucket), key.len(), value.len());
        match blobs.is_closed() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })
    .map_err(unreadable)?;
    if blobs.is_closed() {
        return Ok(());
    }
    let (loads, inbox) = bounded(LOADS_AHEAD);
    let walked = view.clone();
    spawn("snapshot-rows", Box::new(move || walk(&*walked, &loads)))
        .map_err(|why| no_thread(&why))?;
    let mut writer = Writer::new(planner.finish(), Rows::new(inbox));
    while let Some(chunk) = writer.next_chunk(BLOB_BYTES).map_err(unreadable)? {
        if blobs
            .blocking_send(Ok((chunk, writer.remaining())))
            .is_err()
        {
            break;
        }
    }
    Ok(())
}

fn no_thread(why: &io::Error) -> Status {
    Status::internal(format!("no thread for the snapshot: {why}"))
}

fn unreadable(fault: Fault) -> Status {
    Status::new(Code::DataLoss, fault.to_string())
}

/// What the walking thread hands over.
enum Load {
    Rows(Vec<Row>),
    Failed(Fault),
    /// All rows were handed over.
    End,
}

fn walk(view: &impl Source, loads: &Sender<Load>) {
    let (mut rows, mut bytes) = (Vec::new(), 0);
    let walked = view.rows(&mut |bucket, key, value| {
        bytes += key.len() + value.len();
        rows.push(Row {
            bucket: place_of(bucket),
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(value),
        });
        if bytes < LOAD_BYTES {
            return ControlFlow::Continue(());
        }
        bytes = 0;
        match loads.send(Load::Rows(std::mem::take(&mut rows))) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    // If these can't be sent, nobody reads any more.
    let _ = loads.send(Load::Rows(rows));
    let _ = loads.send(walked.map_or_else(Load::Failed, |()| Load::End));
}

/// The rows as they arrive. They end only where the walking thread says so.
struct Rows {
    inbox: Receiver<Load>,
    load: std::vec::IntoIter<Row>,
    is_over: bool,
}

impl Rows {
    fn new(inbox: Receiver<Load>) -> Self {
        Rows {
            inbox,
            load: Vec::new().into_iter(),
            is_over: false,
        }
    }
}

impl Iterator for Rows {
    type Item = Result<Row, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.load.next() {
                return Some(Ok(row));
            }
            if self.is_over {
                return None;
            }
            let fault = match self.inbox.recv() {
                Ok(Load::Rows(rows)) => {
                    self.load = rows.into_iter();
                    continue;
                }
                Ok(Load::End) => None,
                Ok(Load::Failed(fault)) => Some(fault),
                Err(_) => Some(Fault::new(
                    FaultKind::ReadFailed,
                    "the rows of the snapshot ended early",
                )),
            };
            self.is_over = true;
            return fault.map(Err);
        }
    }
}

fn place_of(bucket: &str) -> usize {
    BUCKETS
        .iter()
        .position(|name| *name == bucket)
        .expect("rows come from the buckets that are listed")
}

#[cfg(test)]
mod tests;
