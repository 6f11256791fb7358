//! The peer port: who may come in, and what each path leads to.
//!
//! Status codes and texts are etcd's. What etcd leaves open has a limit here: connections, the time that a header or a piece of a
//! body may take, the size of a message, and the memory of all messages that are arriving together. Source: upstream
//! `server/etcdserver/api/rafthttp/http.go`, `server/etcdserver/api/etcdhttp/peer.go`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prost::Message as _;
use proto::raftpb::{Message, MessageType};
use replica::Input;
use state::membership::{id_from_hex, id_to_hex};
use tokio::time::{Instant, timeout, timeout_at};

use super::body::Body;
use super::codec::{self, Kind};
use super::headers::{self, CLUSTER_ID, RAFT_TO, SERVER_VERSION, text_of, version_value};
use super::running::{Context, Running};
use super::stream_out::StreamBody;
use super::timed::Timed;
use super::{answers, dial, probe, report, snapshot_in};
use crate::config::Url;
use crate::transport::listen::{Accepted, Listener};

/// Connections that may be open on one listener: two streams, four posts and a probe of each of some dozens of members. One more is
/// closed at once.
const CONNECTIONS_MAX: usize = 512;
/// How long a header may take, and a connection may be quiet between requests.
const HEADER: Duration = Duration::from_secs(10);
/// How long the body of a message may take.
const BODY: Duration = Duration::from_secs(60);
/// Largest body of a message.
const MESSAGE_MAX: usize = 64 << 20;
/// All bodies that are arriving, together.
const ARRIVING_MAX: usize = 256 << 20;

/// What the connections of one listener share.
struct Port {
    context: Rc<Context>,
    peers: Rc<RefCell<BTreeMap<u64, Running>>>,
    connections: Cell<usize>,
    /// Bytes of messages that are arriving.
    arriving: Cell<usize>,
    /// Snapshots that are arriving.
    snapshots: Cell<usize>,
}

/// Counts something for as long as it lives.
struct Held<'a> {
    of: &'a Cell<usize>,
    count: usize,
}

impl Held<'_> {
    /// Takes `more` as well, unless that is more than `max` together.
    fn add(&mut self, more: usize, max: usize) -> bool {
        let sum = self.of.get() + more;
        let is_room = sum <= max;
        if is_room {
            self.of.set(sum);
            self.count += more;
        }
        is_room
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.of.set(self.of.get() - self.count);
    }
}

fn held(of: &Cell<usize>) -> Held<'_> {
    Held { of, count: 0 }
}

/// Accepts connections for ever.
pub async fn accept_for_ever(
    listener: Listener,
    url: Url,
    context: Rc<Context>,
    peers: Rc<RefCell<BTreeMap<u64, Running>>>,
) {
    tracing::info!(address = listener.address(), url = %url, "serving peer traffic");
    let port = Rc::new(Port {
        context,
        peers,
        connections: Cell::new(0),
        arriving: Cell::new(0),
        snapshots: Cell::new(0),
    });
    loop {
        match listener.accept().await {
            Ok(accepted) => {
                let port = port.clone();
                tokio::task::spawn_local(async move { port.serve(accepted).await });
            }
            Err(why) => {
                tracing::warn!(error = %why, "a connection of a peer was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Port {
    async fn serve(&self, accepted: Accepted) {
        // Only who has come in counts below; how many may try has a bound of its own. What went wrong was told.
        let Ok(Some((stream, _))) = Box::pin(accepted.open()).await else {
            return;
        };
        let mut open = held(&self.connections);
        if !open.add(1, CONNECTIONS_MAX) {
            return;
        }
        if let Some(stream) = stream.tcp()
            && dial::prepare(stream).is_err()
        {
            return;
        }
        let io = TokioIo::new(Timed::new(stream, None, self.context.timeouts.write));
        let service = service_fn(|request| async {
            let answer = self.answer(request).await;
            Ok::<_, Infallible>(answer)
        });
        // What ends a connection is told where it matters: by the stream on it, or by the peer that dials.
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER)
            .serve_connection(io, service)
            .await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match request.uri().path() {
            "/raft" => self
                .message(request)
                .await
                .unwrap_or_else(|refusal| *refusal),
            "/raft/probing" => {
                let mut answer = Response::new(Body::from(probe::answer()));
                put_type(&mut answer, "text/plain; charset=utf-8");
                answer
            }
            "/raft/snapshot" => self
                .snapshot(request)
                .await
                .unwrap_or_else(|refusal| *refusal),
            path if path.starts_with("/raft/stream/") => {
                self.stream(&request).unwrap_or_else(|refusal| *refusal)
            }
            path if path.starts_with("/raft/") => error(StatusCode::NOT_FOUND, NOT_FOUND),
            _ => answers::answer(&self.context.member, request).await,
        }
    }

    /// A message that was posted.
    async fn message(&self, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
        let context = &self.context;
        allow(&request, Method::POST)?;
        let cluster = |refused: Refused| with(refused, CLUSTER_ID, context.own.cluster());
        self.check(&request).map_err(cluster)?;
        let from = self.sender(&request);
        let unreadable = |text| {
            tracing::warn!(
                "local-member-id" = id_to_hex(context.own.member_id),
                "remote-peer-id" = from.map(id_to_hex),
                "failed to read Raft message"
            );
            if let Some(from) = from {
                context.member.links.metrics(from).received_failures.inc();
            }
            cluster(Box::new(error(StatusCode::BAD_REQUEST, text)))
        };
        let body = self.read(request.into_body(), MESSAGE_MAX).await;
        let body = body.ok_or_else(|| unreadable("error reading raft message"))?;
        let bytes = body.len() as u64;
        let message =
            Message::decode(body).map_err(|_| unreadable("error unmarshalling raft message"))?;
        let metrics = context.member.links.metrics(message.from());
        metrics.received_bytes.add(bytes);
        self.admit(&message).map_err(cluster)?;
        // Snapshots have a path of their own, and without what follows there they mean nothing.
        let is_for_raft = codec::kind_of(&message) != MessageType::MsgSnap;
        if is_for_raft
            && report::received(&context.member, vec![Input::Peer(Box::new(message))]) > 0
        {
            metrics.received_failures.inc();
            let text = "error processing raft message";
            return Err(cluster(Box::new(error(
                StatusCode::INTERNAL_SERVER_ERROR,
                text,
            ))));
        }
        Ok(self.done())
    }

    /// A snapshot that was posted.
    async fn snapshot(&self, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
        let context = &self.context;
        allow(&request, Method::POST)?;
        let cluster = |refused: Refused| with(refused, CLUSTER_ID, context.own.cluster());
        self.check(&request).map_err(cluster)?;
        self.sender(&request);
        // One at a time: a leader that is refused comes again.
        let mut place = held(&self.snapshots);
        let mut forbidden = None;
        let admit = |message: &Message| {
            if let Err(refused) = self.admit(message) {
                forbidden = Some(refused);
                return Err((StatusCode::FORBIDDEN, String::new()));
            }
            if !place.add(1, 1) {
                let text = "failed to save KV snapshot (another one is arriving)".to_owned();
                return Err((StatusCode::INTERNAL_SERVER_ERROR, text));
            }
            Ok(())
        };
        if let Err((code, text)) = snapshot_in::receive(context, request, admit).await {
            let refused = forbidden.unwrap_or_else(|| Box::new(error(code, &text)));
            return Err(cluster(refused));
        }
        Ok(self.done())
    }

    /// The message was taken.
    fn done(&self) -> Response<Body> {
        let mut done = Response::new(Body::empty());
        *done.status_mut() = StatusCode::NO_CONTENT;
        let cluster = self.context.own.cluster();
        done.headers_mut().insert(CLUSTER_ID, cluster);
        done
    }

    /// A peer comes to read.
    fn stream(&self, request: &Request<Incoming>) -> Result<Response<Body>, Refused> {
        let (context, own) = (&self.context, &self.context.own);
        let version = context.member.version_for_peers();
        allow(request, Method::GET)?;
        let refused = |refused: Refused| {
            let refused = with(refused, CLUSTER_ID, own.cluster());
            with(refused, SERVER_VERSION, version_value(version))
        };
        let refuse = |code, text| refused(Box::new(error(code, text)));
        self.check(request).map_err(refused)?;
        let (kind, from) = request.uri().path()["/raft/stream/".len()..]
            .split_once('/')
            .and_then(|(kind, from)| Some((kind_named(kind)?, from)))
            .ok_or_else(|| refuse(StatusCode::NOT_FOUND, "invalid path"))?;
        let from =
            id_from_hex(from).ok_or_else(|| refuse(StatusCode::NOT_FOUND, "invalid from"))?;
        let (local, remote) = (id_to_hex(own.member_id), id_to_hex(from));
        if self.is_removed(from) {
            tracing::warn!(
                "local-member-id" = local,
                "remote-peer-id-from" = remote,
                "rejected stream from remote peer because it was removed"
            );
            return Err(refuse(StatusCode::GONE, "removed member"));
        }
        if !self.is_member(from) {
            let urls = headers::urls_of(text_of(request.headers(), &headers::PEER_URLS));
            self.note_stranger(from, urls.unwrap_or_default());
            tracing::warn!(
                "local-member-id" = local,
                "remote-peer-id-from" = remote,
                "cluster-id" = id_to_hex(own.cluster_id),
                "failed to find remote peer in cluster"
            );
            return Err(refuse(StatusCode::NOT_FOUND, "error sender not found"));
        }
        let to = text_of(request.headers(), &RAFT_TO);
        if to != local {
            tracing::warn!(
                "local-member-id" = local,
                "remote-peer-id-header" = to,
                "remote-peer-id-from" = remote,
                "ignored streaming request; ID mismatch"
            );
            return Err(refuse(StatusCode::PRECONDITION_FAILED, "to field mismatch"));
        }
        let body = StreamBody::attach(context.member.clone(), from, kind, context.timeouts.read)
            .ok_or_else(|| refuse(StatusCode::NOT_FOUND, "error sender not found"))?;
        if let Some(running) = self.peers.borrow().get(&from) {
            running.peer.has_come();
        }
        let mut answer = Response::new(Body::Stream(Box::new(body)));
        let headers = answer.headers_mut();
        headers.insert(SERVER_VERSION, version_value(version));
        headers.insert(CLUSTER_ID, own.cluster());
        Ok(answer)
    }

    /// Refuses who is of another cluster, or too old, or too new.
    fn check(&self, request: &Request<Incoming>) -> Result<(), Refused> {
        let own = &self.context.own;
        let version = self.context.member.version_for_peers();
        own.check(request.headers(), version).map_err(|refusal| {
            let headers = request.headers();
            tracing::warn!(
                "local-member-id" = id_to_hex(own.member_id),
                "local-member-cluster-id" = id_to_hex(own.cluster_id),
                "local-member-server-version" = version.to_string(),
                "remote-peer-server-name" = text_of(headers, &headers::SERVER_FROM),
                "remote-peer-server-version" = text_of(headers, &SERVER_VERSION),
                "remote-peer-cluster-id" = text_of(headers, &CLUSTER_ID),
                "request {}",
                refusal.text()
            );
            Box::new(error(StatusCode::PRECONDITION_FAILED, refusal.text()))
        })
    }

    /// Refuses a message of a member that was removed, or for another one. Source: upstream `EtcdServer.Process`.
    fn admit(&self, message: &Message) -> Result<(), Refused> {
        let local = self.context.own.member_id;
        let (from, to) = (message.from(), message.to());
        if self.is_removed(from) {
            tracing::warn!(
                "local-member-id" = id_to_hex(local),
                "removed-member-id" = id_to_hex(from),
                "rejected Raft message from removed member"
            );
            return Err(forbid("cannot process message from removed member"));
        }
        if to != local {
            tracing::warn!(
                "local-member-id" = id_to_hex(local),
                "mismatch-member-id" = id_to_hex(to),
                "rejected Raft message to mismatch member"
            );
            return Err(forbid("cannot process message to mismatch member"));
        }
        Ok(())
    }

    fn is_removed(&self, id: u64) -> bool {
        let view = self.context.member.view.load();
        view.members().removed.contains(&id)
    }

    fn is_member(&self, id: u64) -> bool {
        let peers = self.peers.borrow();
        peers.get(&id).is_some_and(|running| running.is_member)
    }

    /// Who says to have sent this, if it says where it is as well.
    fn sender(&self, request: &Request<Incoming>) -> Option<u64> {
        let (from, urls) = headers::sender(request.headers())?;
        self.note_stranger(from, urls);
        Some(from)
    }

    /// Remembers where a member is that this one has not heard of, so that it can be answered.
    fn note_stranger(&self, from: u64, urls: Vec<Url>) {
        let context = &self.context;
        let is_known = self.peers.borrow().contains_key(&from);
        if is_known || urls.is_empty() || from == context.own.member_id {
            return;
        }
        let mut strangers = context.strangers.borrow_mut();
        if strangers.len() < super::STRANGERS_MAX {
            strangers.push((from, urls));
            context.member.links.members_changed();
        }
    }

    /// A whole body; `None` if it is too large, too slow, or breaks off.
    async fn read(&self, mut body: Incoming, max: usize) -> Option<Bytes> {
        let mut arriving = held(&self.arriving);
        let (mut whole, mut only) = (BytesMut::new(), None);
        let until = Instant::now() + BODY;
        loop {
            let frame = timeout(self.context.timeouts.read, body.frame());
            let Some(frame) = timeout_at(until, frame).await.ok()?.ok()? else {
                return Some(only.unwrap_or_else(|| whole.freeze()));
            };
            let Ok(data) = frame.ok()?.into_data() else {
                continue;
            };
            if arriving.count + data.len() > max || !arriving.add(data.len(), ARRIVING_MAX) {
                return None;
            }
            // Nearly all messages come in one piece, which needs no copy.
            match only.take() {
                None if whole.is_empty() => only = Some(data),
                first => {
                    whole.extend_from_slice(&first.unwrap_or_default());
                    whole.extend_from_slice(&data);
                }
            }
        }
    }
}

/// A refusal is a whole answer, and seldom.
type Refused = Box<Response<Body>>;

const NOT_FOUND: &str = "404 page not found";

fn kind_named(name: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind.path() == name)
}

fn allow(request: &Request<Incoming>, method: Method) -> Result<(), Refused> {
    if *request.method() == method {
        return Ok(());
    }
    let mut refusal = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    let allowed = HeaderValue::from_str(method.as_str()).expect("a method's name");
    refusal.headers_mut().insert(header::ALLOW, allowed);
    Err(Box::new(refusal))
}

fn with(mut refused: Refused, name: header::HeaderName, value: HeaderValue) -> Refused {
    refused.headers_mut().insert(name, value);
    refused
}

/// As Go's `http.Error`: the text, and a newline.
pub fn error(code: StatusCode, text: &str) -> Response<Body> {
    let mut answer = Response::new(Body::from(format!("{text}\n")));
    *answer.status_mut() = code;
    put_type(&mut answer, "text/plain; charset=utf-8");
    let nosniff = HeaderValue::from_static("nosniff");
    answer
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    answer
}

/// As etcd's `httptypes.HTTPError`.
fn forbid(text: &str) -> Refused {
    let mut answer = Response::new(Body::from(format!("{{\"message\":\"{text}\"}}")));
    *answer.status_mut() = StatusCode::FORBIDDEN;
    put_type(&mut answer, "application/json");
    Box::new(answer)
}

fn put_type(answer: &mut Response<Body>, kind: &'static str) {
    let kind = HeaderValue::from_static(kind);
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
}
