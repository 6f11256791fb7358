//! Messages by request: for peers that do not read a stream of this member (yet).
//!
//! Source: upstream `server/etcdserver/api/rafthttp/pipeline.go`.

use std::rc::Rc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, StatusCode, header};
use prost::Message as _;
use proto::raftpb::Message;
use state::membership::id_to_hex;
use tokio::time::{Instant, timeout};

use super::body::Body;
use super::client::{Connection, Failure, cluster_of, precondition, read_short};
use super::headers::Refusal;
use super::report;
use super::running::Peer;

/// Requests to one peer at the same time. Source: upstream `connPerPipeline`.
pub const WORKERS: usize = 4;
/// How long a peer may take for a message; it answers when the message has reached its raft.
const ANSWER: Duration = Duration::from_secs(10);
/// A connection that was quiet for so long is not used again: the peer closes it about now.
const IDLE: Duration = Duration::from_secs(4);

/// Posts what comes for as long as the peer is one.
pub async fn post_for_ever(peer: Rc<Peer>) {
    let mut kept: Option<(Connection, Instant)> = None;
    while let Some(message) = peer.links().next_in_pipeline(peer.id).await {
        let usable = kept.take().filter(|(connection, used)| {
            connection.is_usable() && used.elapsed() < IDLE && peer.is_current(&connection.url)
        });
        let posted = post(&peer, usable.map(|(connection, _)| connection), &message).await;
        match posted {
            Ok(connection) => {
                peer.activate();
                kept = Some((connection, Instant::now()));
            }
            Err(why) => {
                if matches!(why, Failure::Removed) {
                    peer.context.tell_removed();
                }
                peer.deactivate("pipeline", "write", &why.to_string());
                peer.metrics.sent_failures.inc();
                report::unreachable(&peer.context.member, peer.id);
            }
        }
    }
}

async fn post(
    peer: &Peer,
    kept: Option<Connection>,
    message: &Message,
) -> Result<Connection, Failure> {
    let body = message.encode_to_vec();
    let bytes = body.len() as u64;
    let mut connection = match kept {
        Some(connection) => connection,
        None => peer.connect().await?,
    };
    let request = request(peer, "/raft", "application/protobuf", body.into());
    let url = connection.url.clone();
    let posted = async {
        let answer = timeout(ANSWER, connection.request(request))
            .await
            .unwrap_or(Err(Failure::Late("the peer did not answer in time")))?;
        check(peer, "/raft", answer).await
    };
    match posted.await {
        Ok(()) => {
            peer.metrics.sent_bytes.add(bytes);
            Ok(connection)
        }
        Err(why) => {
            peer.urls.borrow_mut().failed(&url);
            Err(why)
        }
    }
}

/// A POST as members make it.
pub fn request(peer: &Peer, path: &'static str, kind: &'static str, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(path);
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    peer.context.introduce(headers);
    request
}

/// What the answer to a POST means. Source: upstream `server/etcdserver/api/rafthttp/util.go`, `checkPostResponse`.
pub async fn check(
    peer: &Peer,
    path: &str,
    answer: http::Response<hyper::body::Incoming>,
) -> Result<(), Failure> {
    let (status, theirs) = (answer.status(), cluster_of(answer.headers()));
    let body = read_short(answer.into_body(), peer.context.timeouts.read).await?;
    match status {
        StatusCode::NO_CONTENT => Ok(()),
        StatusCode::FORBIDDEN => Err(Failure::Removed),
        StatusCode::PRECONDITION_FAILED => {
            let why = precondition(&body);
            let (_, remote) = peer.ids();
            match &why {
                Failure::Refused(Refusal::ClusterIdMismatch) => tracing::error!(
                    "remote-peer-id" = remote,
                    "remote-peer-cluster-id" = theirs,
                    "local-member-cluster-id" = id_to_hex(peer.context.own.cluster_id),
                    "request sent was ignored due to cluster ID mismatch"
                ),
                Failure::Refused(Refusal::IncompatibleVersion) => tracing::error!(
                    "remote-peer-id" = remote,
                    "request sent was ignored by peer"
                ),
                _ => {}
            }
            Err(why)
        }
        other => Err(Failure::Status(other, path.to_owned())),
    }
}
