//! The reading end of a stream: this member goes to the peer and reads what the peer has for it.
//!
//! Source: upstream `server/etcdserver/api/rafthttp/stream.go`, `streamReader`.

use std::rc::Rc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use replica::Input;
use state::membership::id_to_hex;
use tokio::time::{Instant, sleep, timeout};

use super::body::Body;
use super::client::{Connection, Failure, cluster_of, precondition, read_short};
use super::codec::{Decoder, Frame, Kind};
use super::headers::{RAFT_TO, Refusal, hex};
use super::report;
use super::running::Peer;

/// The least time between two attempts. Source: upstream `DialRetryFrequency`.
const RETRY: Duration = Duration::from_millis(100);
/// The most, for a peer that has been away for some time. It is tried at once when it comes by itself.
const RETRY_MAX: Duration = Duration::from_millis(500);

/// Reads for as long as the peer is one, whatever happens to connections.
pub async fn read_for_ever(peer: Rc<Peer>, kind: Kind) {
    let (local, remote) = peer.ids();
    tracing::info!(
        "stream-reader-type" = kind.name(),
        "local-member-id" = local,
        "remote-peer-id" = remote,
        "started stream reader with remote peer"
    );
    let mut retry = RETRY;
    let mut was_connected = false;
    loop {
        let began = Instant::now();
        match dial(&peer, kind).await {
            Err(why) => {
                if matches!(why, Failure::Removed) {
                    peer.context.tell_removed();
                }
                // Not a partition, which is silent: a process that has ended. If it led, nobody has to wait for it.
                if was_connected && why.is_refused() {
                    was_connected = false;
                    report::gone(&peer.context.member, peer.id);
                }
                peer.deactivate(kind.name(), "dial", &why.to_string());
                retry = (retry + retry / 4).min(RETRY_MAX);
            }
            Ok((connection, answer)) => {
                retry = RETRY;
                was_connected = true;
                peer.activate();
                tracing::info!(
                    "stream-reader-type" = kind.name(),
                    "local-member-id" = local,
                    "remote-peer-id" = remote,
                    "established TCP streaming connection with remote peer"
                );
                let why = read(&peer, kind, answer.into_body()).await;
                drop(connection);
                let error = why.as_ref().map_or("EOF".to_owned(), Failure::to_string);
                tracing::warn!(
                    "stream-reader-type" = kind.name(),
                    "local-member-id" = local,
                    "remote-peer-id" = remote,
                    error,
                    "lost TCP streaming connection with remote peer"
                );
                if let Some(why) = why {
                    peer.deactivate(kind.name(), "read", &why.to_string());
                }
            }
        }
        let left = retry.saturating_sub(began.elapsed());
        tokio::select! {
            () = sleep(left) => {}
            () = peer.came_by_itself(kind) => sleep(RETRY.saturating_sub(began.elapsed())).await,
        }
    }
}

async fn dial(peer: &Peer, kind: Kind) -> Result<(Connection, Response<Incoming>), Failure> {
    let url = peer.urls.borrow().pick().ok_or(Failure::NoUrl)?;
    let dialed = dial_at(peer, kind, url.clone()).await;
    if dialed.is_err() {
        peer.urls.borrow_mut().failed(&url);
    }
    dialed
}

async fn dial_at(
    peer: &Peer,
    kind: Kind,
    url: crate::config::Url,
) -> Result<(Connection, Response<Incoming>), Failure> {
    let context = &peer.context;
    let timeouts = context.timeouts;
    let mut connection =
        Connection::open(url, &context.dialer, timeouts, Some(timeouts.read)).await?;
    let path = format!("/raft/stream/{}/{}", kind.path(), peer.ids().0);
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = path.parse().expect("a path of letters and digits");
    context.introduce(request.headers_mut());
    request.headers_mut().insert(RAFT_TO, hex(peer.id));
    let answer = timeout(timeouts.read, connection.request(request))
        .await
        .unwrap_or(Err(Failure::Late("the peer did not answer in time")))?;
    match answer.status() {
        StatusCode::OK => Ok((connection, answer)),
        StatusCode::GONE => Err(Failure::Removed),
        StatusCode::NOT_FOUND => {
            let (local, remote) = peer.ids();
            Err(Failure::Unknown(remote, local))
        }
        StatusCode::PRECONDITION_FAILED => {
            let theirs = cluster_of(answer.headers());
            let why = precondition(&read_short(answer.into_body(), timeouts.read).await?);
            tell_refused(peer, &why, &theirs);
            Err(why)
        }
        other => Err(Failure::StreamStatus(other.as_u16())),
    }
}

fn tell_refused(peer: &Peer, why: &Failure, theirs: &str) {
    let (local, remote) = peer.ids();
    match why {
        Failure::Refused(Refusal::IncompatibleVersion) => tracing::warn!(
            "local-member-id" = local,
            "remote-peer-id" = remote,
            error = %why,
            "request sent was ignored by remote peer due to server version incompatibility"
        ),
        Failure::Refused(Refusal::ClusterIdMismatch) => tracing::warn!(
            "remote-peer-id" = remote,
            "remote-peer-cluster-id" = theirs,
            "local-member-id" = local,
            "local-member-cluster-id" = id_to_hex(peer.context.own.cluster_id),
            error = %why,
            "request sent was ignored by remote peer due to cluster ID mismatch"
        ),
        _ => {}
    }
}

/// Reads until the stream ends; why, unless the peer ended it.
async fn read(peer: &Peer, kind: Kind, mut body: Incoming) -> Option<Failure> {
    let mut decoder = Decoder::new(kind, peer.context.own.member_id, peer.id);
    while let Some(frame) = body.frame().await {
        let piece = match frame {
            Ok(frame) => frame.into_data().ok()?,
            Err(why) => return Some(why.into()),
        };
        peer.metrics.received_bytes.add(piece.len() as u64);
        decoder.feed(piece);
        let (mut messages, mut malformed) = (Vec::new(), None);
        loop {
            match decoder.next_frame() {
                Ok(Some(Frame::Message(message))) => messages.push(Input::Peer(message)),
                Ok(Some(Frame::Alive)) => {}
                Ok(None) => break,
                Err(why) => {
                    malformed = Some(why);
                    break;
                }
            }
        }
        if !messages.is_empty() {
            hand_over(peer, messages);
        }
        if let Some(why) = malformed {
            return Some(Failure::Content(why.to_string()));
        }
    }
    None
}

fn hand_over(peer: &Peer, messages: Vec<Input>) {
    let dropped = report::received(&peer.context.member, messages);
    if dropped > 0 {
        peer.metrics.received_failures.add(dropped as u64);
        let (local, remote) = peer.ids();
        tracing::warn!(
            "local-member-id" = local,
            "remote-peer-id" = remote,
            dropped,
            "dropped internal Raft message since receiving buffer is full (overloaded network)"
        );
    }
}
