//! Snapshots that arrive: the message, then a backend file, which is kept on disk while it comes.
//!
//! ```text
//!   the connection --pieces--> a thread: file --all there--> the same thread: rows beside the store --> replica
//! ```
//! One arrives at a time. At most [`PIECES_AHEAD`] pieces wait between connection and disk, so a disk that is slower than the network holds
//! the network up. The file has no name, so what breaks off leaves nothing behind. Source: upstream
//! `server/etcdserver/api/rafthttp/http.go`, `snapshotHandler`.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message as _;
use proto::raftpb::{Message, MessageType};
use state::membership::id_to_hex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::codec::{self, Malformed};
use super::running::Context;
use crate::threads::snapshots::{NotTaken, SnapshotDoor};

/// Pieces of a file that may wait for the disk. A piece is what one read of the connection brings.
const PIECES_AHEAD: usize = 16;

/// Why a snapshot was not taken: status and text.
pub type Refusal = (StatusCode, String);

/// Takes the snapshot that a request brings. The caller has checked who it comes from.
///
/// # Errors
/// What the sender is told, in etcd's words where etcd has some.
pub async fn receive(
    context: &Context,
    request: Request<Incoming>,
    admit: impl FnOnce(&Message) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let began = Instant::now();
    let mut body = Pieces {
        body: request.into_body(),
        rest: Bytes::new(),
        patience: context.timeouts.read,
    };
    let message = body.message().await.map_err(|why| {
        tracing::warn!(
            "local-member-id" = id_to_hex(context.own.member_id),
            error = why,
            "failed to decode Raft message"
        );
        let text = format!("failed to decode raft message ({why})");
        (StatusCode::BAD_REQUEST, text)
    })?;
    let from = message.from();
    let metrics = context.member.links.metrics(from);
    metrics.received_bytes.add(message.encoded_len() as u64);
    if codec::kind_of(&message) != MessageType::MsgSnap {
        metrics.snapshots_received.failed.inc();
        let text = "wrong raft message type".to_owned();
        return Err((StatusCode::BAD_REQUEST, text));
    }
    admit(&message)?;
    let _under_way = metrics.snapshots_received.begin();
    let index = index_of(&message);
    let tell = |text: &'static str, bytes: u64| {
        tracing::info!(
            "local-member-id" = id_to_hex(context.own.member_id),
            "remote-snapshot-sender-id" = id_to_hex(from),
            "incoming-snapshot-index" = index,
            "incoming-snapshot-size-bytes" = bytes,
            took = format!("{:?}", began.elapsed()),
            "{text}"
        );
    };
    tell("receiving database snapshot", 0);
    match save(context, body, message).await {
        Ok(bytes) => {
            tell("received and saved database snapshot", bytes);
            metrics.received_bytes.add(bytes);
            metrics.snapshots_received.succeeded.inc();
            metrics.snapshots_received.took.observe(began.elapsed());
            Ok(())
        }
        Err(why) => {
            tracing::warn!(
                "local-member-id" = id_to_hex(context.own.member_id),
                "remote-snapshot-sender-id" = id_to_hex(from),
                "incoming-snapshot-index" = index,
                error = why,
                "failed to save incoming database snapshot"
            );
            metrics.snapshots_received.failed.inc();
            let text = format!("failed to save KV snapshot ({why})");
            Err((StatusCode::INTERNAL_SERVER_ERROR, text))
        }
    }
}

/// The last entry that an announced snapshot includes.
pub fn index_of(message: &Message) -> u64 {
    let metadata = message.snapshot.as_ref().and_then(|s| s.metadata.as_ref());
    metadata.map_or(0, |metadata| metadata.index())
}

/// The body of a request, in the pieces in which it comes.
struct Pieces {
    body: Incoming,
    rest: Bytes,
    patience: Duration,
}

impl Pieces {
    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        if !self.rest.is_empty() {
            return Ok(Some(std::mem::take(&mut self.rest)));
        }
        loop {
            let frame = timeout(self.patience, self.body.frame()).await;
            let frame = frame.map_err(|_| "the sender has stopped".to_owned())?;
            let Some(frame) = frame else {
                return Ok(None);
            };
            let frame = frame.map_err(|why| format!("the connection broke: {why}"))?;
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
            {
                return Ok(Some(data));
            }
        }
    }

    /// Reads `size` bytes, and leaves what comes behind them for later.
    async fn exactly(&mut self, size: usize) -> Result<Bytes, String> {
        let mut whole = BytesMut::new();
        while whole.len() < size {
            let ended = match whole.is_empty() {
                true => "EOF",
                false => "unexpected EOF",
            };
            let mut piece = self.next().await?.ok_or(ended)?;
            let taken = piece.split_to(piece.len().min(size - whole.len()));
            whole.extend_from_slice(&taken);
            self.rest = piece;
        }
        Ok(whole.freeze())
    }

    async fn message(&mut self) -> Result<Message, String> {
        let mut head = self.exactly(8).await?;
        let size = codec::message_size(head.get_u64());
        let size = size.map_err(|why: Malformed| why.to_string())?;
        let message = self.exactly(size).await?;
        Message::decode(message).map_err(|why| why.to_string())
    }
}

/// Writes what comes to a file, and hands it in when it is whole. How many bytes it had.
async fn save(context: &Context, mut body: Pieces, message: Message) -> Result<u64, String> {
    let door = context.snapshots.clone();
    let (pieces, inbox) = mpsc::channel(PIECES_AHEAD);
    let (done, outcome) = oneshot::channel();
    std::thread::Builder::new()
        .name("snapshot-in".into())
        .spawn(move || {
            // If nobody waits any more, nobody needs to know.
            let _ = done.send(write(&door, inbox, message));
        })
        .map_err(|why| format!("no thread for the snapshot: {why}"))?;
    loop {
        let piece = body.next().await?;
        let is_end = piece.is_none();
        // A thread that has given up says why.
        if pieces.send(piece).await.is_err() || is_end {
            break;
        }
    }
    outcome
        .await
        .unwrap_or_else(|_| Err("the member stops".to_owned()))
}

/// `None` among the pieces is the end; without it, the sender broke off.
fn write(
    door: &Arc<SnapshotDoor>,
    mut pieces: mpsc::Receiver<Option<Bytes>>,
    message: Message,
) -> Result<u64, String> {
    let mut file = door.arrival().map_err(|fault| fault.to_string())?;
    loop {
        match pieces.blocking_recv() {
            Some(Some(piece)) => file.append(&piece).map_err(|fault| fault.to_string())?,
            Some(None) => break,
            None => return Err("the sender broke off".to_owned()),
        }
    }
    let bytes = file.bytes();
    door.take(message, &file).map_err(|why| match why {
        NotTaken::Busy => "another snapshot is being put in place".to_owned(),
        NotTaken::Stopping => "the member stops".to_owned(),
        NotTaken::Refused(fault) => fault.to_string(),
    })?;
    Ok(bytes)
}
