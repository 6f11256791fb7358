//! Snapshots on their way to members that fell behind: the message, then the backend file, made while it is sent.
//!
//! Source: upstream `server/etcdserver/api/rafthttp/snapshot_sender.go`.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proto::raftpb::Message;
use replica::{Input, MemberId};
use state::membership::id_to_hex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::body::Body;
use super::client::Failure;
use super::running::Peer;
use super::snapshot_in::index_of;
use super::{codec, pipeline, report};
use crate::threads::snapshots::{Outgoing, outgoing};

/// How long the peer may take to read the file and take it in, after the last byte has gone or while none does. The writing of every piece has
/// its own, shorter limit.
const PATIENCE: Duration = Duration::from_secs(600);
const PATH: &str = "/raft/snapshot";

/// Sends what raft asks for, for as long as the peer is one.
pub async fn send_for_ever(peer: Rc<Peer>) {
    while let Some(message) = peer.links().next_snapshot(peer.id).await {
        // Whatever happens, also if this task ends here, raft hears how it went: it sends nothing else until then.
        let mut told = Told {
            peer: peer.clone(),
            is_sent: false,
        };
        let began = Instant::now();
        let sent = &peer.metrics.snapshots_sent;
        let _under_way = sent.begin();
        match send(&peer, *message).await {
            Ok(()) => {
                told.is_sent = true;
                sent.succeeded.inc();
                sent.took.observe(began.elapsed());
                peer.activate();
            }
            Err(why) => {
                sent.failed.inc();
                peer.metrics.sent_failures.inc();
                if matches!(why, Failure::Removed) {
                    peer.context.tell_removed();
                }
                peer.deactivate("sendMsgSnap", "post", &why.to_string());
                report::unreachable(&peer.context.member, peer.id);
            }
        }
    }
}

struct Told {
    peer: Rc<Peer>,
    is_sent: bool,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.peer.context.member.report(Input::SnapshotSent {
            to: MemberId(self.peer.id),
            is_sent: self.is_sent,
        });
    }
}

async fn send(peer: &Peer, message: Message) -> Result<(), Failure> {
    let view = peer.context.member.view.load_full();
    let Outgoing { message, file } =
        outgoing(view, message).map_err(|status| Failure::Content(status.message.into()))?;
    let index = index_of(&message);
    let tell = |text: &'static str, error: Option<String>| {
        tracing::info!(
            "snapshot-index" = index,
            "remote-peer-id" = id_to_hex(peer.id),
            error,
            "{text}"
        );
    };
    tell("sending database snapshot", None);
    let posted = post(peer, &message, file).await;
    match &posted {
        Ok(()) => tell("sent database snapshot", None),
        Err(why) => tell("failed to send database snapshot", Some(why.to_string())),
    }
    posted
}

async fn post(
    peer: &Peer,
    message: &Message,
    mut file: mpsc::Receiver<crate::grpc::snapshot::Blob>,
) -> Result<(), Failure> {
    let mut connection = peer.connect().await?;
    let url = connection.url.clone();
    let (pieces, body) = mpsc::channel(1);
    let request = pipeline::request(peer, PATH, "application/octet-stream", Body::Pieces(body));
    let feeding = async {
        let mut head = BytesMut::new();
        codec::put_message(message, &mut head);
        let mut left = None;
        let mut next = Some(Ok(head.freeze()));
        while let Some(piece) = next {
            let is_over = piece.is_err();
            let bytes = piece.as_ref().map_or(0, Bytes::len);
            if pieces.send(piece).await.is_err() || is_over {
                return;
            }
            peer.metrics.sent_bytes.add(bytes as u64);
            next = match file.recv().await {
                Some(Ok((piece, behind))) => {
                    left = Some(behind);
                    Some(Ok(piece))
                }
                // What has not come to its end must not look whole.
                Some(Err(status)) => Some(Err(io::Error::other(status.message))),
                None if left == Some(0) => None,
                None => Some(Err(io::Error::other("the snapshot ended too early"))),
            };
        }
        drop(pieces);
    };
    let answering = async {
        let answer = timeout(PATIENCE, connection.request(request))
            .await
            .unwrap_or(Err(Failure::Late("the peer did not answer in time")))?;
        pipeline::check(peer, PATH, answer).await
    };
    // The answer may come before the file has gone, when it is a refusal.
    let answered = {
        tokio::pin!(feeding, answering);
        tokio::select! {
            answered = &mut answering => answered,
            () = &mut feeding => answering.await,
        }
    };
    if answered.is_err() {
        peer.urls.borrow_mut().failed(&url);
    }
    answered
}
