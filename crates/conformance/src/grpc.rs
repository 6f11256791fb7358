//! A gRPC client small enough to misuse: any bytes as a message, any path, streams that are left half open.
//!
//! It never retries, balances, or repairs anything, so what a test sees is what the server sent. Start with [`Grpc::call`].

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use prost::Message;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long one call may take before the test gives up on the server.
const PATIENCE: Duration = Duration::from_secs(30);
/// Paths of the services.
pub const PUT: &str = "/etcdserverpb.KV/Put";
pub const RANGE: &str = "/etcdserverpb.KV/Range";
pub const DELETE_RANGE: &str = "/etcdserverpb.KV/DeleteRange";
pub const TXN: &str = "/etcdserverpb.KV/Txn";
pub const COMPACT: &str = "/etcdserverpb.KV/Compact";
pub const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
pub const LEASE_REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
pub const LEASE_TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
pub const LEASE_KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
pub const MEMBER_ADD: &str = "/etcdserverpb.Cluster/MemberAdd";
pub const MEMBER_LIST: &str = "/etcdserverpb.Cluster/MemberList";
pub const MEMBER_PROMOTE: &str = "/etcdserverpb.Cluster/MemberPromote";
pub const MEMBER_REMOVE: &str = "/etcdserverpb.Cluster/MemberRemove";
pub const MOVE_LEADER: &str = "/etcdserverpb.Maintenance/MoveLeader";
pub const DOWNGRADE: &str = "/etcdserverpb.Maintenance/Downgrade";
pub const STATUS: &str = "/etcdserverpb.Maintenance/Status";
pub const ALARM: &str = "/etcdserverpb.Maintenance/Alarm";
pub const HASH_KV: &str = "/etcdserverpb.Maintenance/HashKV";
pub const SNAPSHOT: &str = "/etcdserverpb.Maintenance/Snapshot";

/// gRPC status codes, as far as the tests name them.
pub mod code {
    pub const OK: i32 = 0;
    pub const UNKNOWN: i32 = 2;
    pub const INVALID_ARGUMENT: i32 = 3;
    pub const NOT_FOUND: i32 = 5;
    pub const RESOURCE_EXHAUSTED: i32 = 8;
    pub const OUT_OF_RANGE: i32 = 11;
    pub const UNIMPLEMENTED: i32 = 12;
    pub const INTERNAL: i32 = 13;
    pub const UNAVAILABLE: i32 = 14;
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The server answered with this status.
    Status { code: i32, message: String },
    /// The connection, not the call, failed.
    Transport(String),
}

impl Failure {
    /// The gRPC code, or -1 when the transport failed.
    pub fn code(&self) -> i32 {
        match self {
            Failure::Status { code, .. } => *code,
            Failure::Transport(_) => -1,
        }
    }

    /// The text of the status, or of the failed transport.
    pub fn message(&self) -> &str {
        match self {
            Failure::Status { message, .. } => message,
            Failure::Transport(text) => text,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Status { code, message } => write!(f, "code {code}: {message}"),
            Failure::Transport(text) => write!(f, "transport: {text}"),
        }
    }
}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        Failure::Transport(error.to_string())
    }
}

/// Runs `test` on a runtime of its own, as these suites are threads otherwise.
pub fn block_on<T>(test: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test)
}

/// One HTTP/2 connection.
#[derive(Clone)]
pub struct Grpc {
    requests: SendRequest<Bytes>,
    wants_leader: bool,
}

impl Grpc {
    /// Connects. The connection lives until every clone and stream is dropped.
    pub async fn connect(server: SocketAddr) -> Result<Grpc, Failure> {
        let transport = |e: std::io::Error| Failure::Transport(e.to_string());
        let stream = TcpStream::connect(server).await.map_err(transport)?;
        stream.set_nodelay(true).map_err(transport)?;
        let mut settings = h2::client::Builder::new();
        settings
            .initial_window_size(1 << 24)
            .initial_connection_window_size(1 << 26)
            .max_send_buffer_size(1 << 26);
        let (requests, connection) = settings.handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Grpc {
            requests,
            wants_leader: false,
        })
    }

    /// The same connection, whose calls want no answer from a member without a leader.
    pub fn wanting_leader(mut self) -> Grpc {
        self.wants_leader = true;
        self
    }

    /// A unary call.
    pub async fn call<Q: Message, R: Message + Default>(
        &self,
        path: &str,
        request: &Q,
    ) -> Result<R, Failure> {
        let bytes = self
            .call_bytes(path, request.encode_to_vec().into())
            .await?;
        R::decode(bytes)
            .map_err(|e| Failure::Transport(format!("{path}: the answer does not decode: {e}")))
    }

    /// A unary call whose message is any bytes at all.
    pub async fn call_bytes(&self, path: &str, message: Bytes) -> Result<Bytes, Failure> {
        let one = async {
            let mut stream = self.open(path).await?;
            stream.send_bytes(message).await?;
            stream.close_sending()?;
            let answer = stream.next_bytes().await?;
            // The status comes after the message; a status that is not OK wins.
            match stream.next_bytes().await? {
                None => answer
                    .ok_or_else(|| Failure::Transport(format!("{path}: OK without a message"))),
                Some(_) => Err(Failure::Transport(format!("{path}: two messages"))),
            }
        };
        tokio::time::timeout(PATIENCE, one)
            .await
            .unwrap_or_else(|_| {
                Err(Failure::Transport(format!(
                    "{path}: no answer in {PATIENCE:?}"
                )))
            })
    }

    /// Opens a call and sends nothing but its headers.
    pub async fn open(&self, path: &str) -> Result<Call, Failure> {
        let request = http::Request::post(format!("http://quorate{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("hasleader", self.wants_leader.to_string())
            .body(())
            .map_err(|e| Failure::Transport(e.to_string()))?;
        let mut requests = self.requests.clone().ready().await?;
        let (response, sending) = requests.send_request(request, false)?;
        Ok(Call {
            path: path.into(),
            response: Some(response),
            receiving: None,
            sending,
            buffer: BytesMut::new(),
        })
    }
}

/// A call in progress, with both directions open.
pub struct Call {
    path: String,
    response: Option<h2::client::ResponseFuture>,
    receiving: Option<RecvStream>,
    sending: SendStream<Bytes>,
    buffer: BytesMut,
}

impl Call {
    /// Sends one message.
    pub async fn send<Q: Message>(&mut self, request: &Q) -> Result<(), Failure> {
        self.send_bytes(request.encode_to_vec().into()).await
    }

    /// Sends any bytes as one message.
    pub async fn send_bytes(&mut self, message: Bytes) -> Result<(), Failure> {
        let mut framed = BytesMut::with_capacity(message.len() + 5);
        framed.put_u8(0);
        framed.put_u32(message.len() as u32);
        framed.put(message);
        self.send_raw(framed.freeze()).await
    }

    /// Sends bytes as they are, without gRPC's five-byte prefix.
    pub async fn send_raw(&mut self, mut bytes: Bytes) -> Result<(), Failure> {
        while !bytes.is_empty() {
            self.sending.reserve_capacity(bytes.len());
            match std::future::poll_fn(|cx| self.sending.poll_capacity(cx)).await {
                Some(Ok(0)) => continue,
                Some(Ok(room)) => self
                    .sending
                    .send_data(bytes.split_to(room.min(bytes.len())), false)?,
                // The server has answered and closed its side: what it said is read by `next`.
                Some(Err(_)) | None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Says that nothing more will be sent.
    pub fn close_sending(&mut self) -> Result<(), Failure> {
        // An error means that the server has finished the stream already; its answer tells more.
        let _ = self.sending.send_data(Bytes::new(), true);
        Ok(())
    }

    /// The next message; `None` at the end with status OK.
    pub async fn next<R: Message + Default>(&mut self) -> Result<Option<R>, Failure> {
        match tokio::time::timeout(PATIENCE, self.next_bytes()).await {
            Err(_) => Err(Failure::Transport(format!(
                "{}: nothing in {PATIENCE:?}",
                self.path
            ))),
            Ok(Err(failure)) => Err(failure),
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(bytes))) => R::decode(bytes)
                .map(Some)
                .map_err(|e| Failure::Transport(e.to_string())),
        }
    }

    /// The next message undecoded.
    pub async fn next_bytes(&mut self) -> Result<Option<Bytes>, Failure> {
        // Whoever gives up waiting for a message may ask for it again later, so nothing is taken before it is there.
        if let Some(response) = self.response.as_mut() {
            let answered = response.await;
            self.response = None;
            let (head, body) = answered?.into_parts();
            status_of(&head.headers)?;
            if head.status != 200 {
                return Err(Failure::Transport(format!(
                    "{}: HTTP status {}",
                    self.path, head.status
                )));
            }
            self.receiving = Some(body);
        }
        let Some(receiving) = self.receiving.as_mut() else {
            return Ok(None);
        };
        loop {
            if let Some(message) = split_message(&mut self.buffer) {
                return Ok(Some(message));
            }
            match receiving.data().await {
                Some(Ok(chunk)) => {
                    receiving.flow_control().release_capacity(chunk.len())?;
                    self.buffer.extend_from_slice(&chunk);
                }
                Some(Err(error)) => return Err(error.into()),
                None => break,
            }
        }
        if let Some(trailers) = receiving.trailers().await? {
            status_of(&trailers)?;
        }
        Ok(None)
    }
}

fn split_message(buffer: &mut BytesMut) -> Option<Bytes> {
    let header: [u8; 4] = buffer.get(1..5)?.try_into().ok()?;
    let size = u32::from_be_bytes(header) as usize;
    if buffer.len() < 5 + size {
        return None;
    }
    let _ = buffer.split_to(5);
    Some(buffer.split_to(size).freeze())
}

fn status_of(headers: &http::HeaderMap) -> Result<(), Failure> {
    let Some(code) = headers.get("grpc-status") else {
        return Ok(());
    };
    let code: i32 = code
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(code::UNKNOWN);
    if code == code::OK {
        return Ok(());
    }
    let message = headers
        .get("grpc-message")
        .map_or_else(String::new, |text| percent_decoded(text.as_bytes()));
    Err(Failure::Status { code, message })
}

fn percent_decoded(text: &[u8]) -> String {
    let mut plain = Vec::new();
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let digits = tail
            .get(..2)
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 16).ok());
        match (first, digits) {
            (b'%', Some(byte)) => {
                plain.push(byte);
                rest = &tail[2..];
            }
            _ => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}
