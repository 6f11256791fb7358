//! Questions to other members over their peer port. Nobody is trusted with more than a bounded answer in bounded time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use serde_json::Value;
use state::membership::{Member, id_from_hex};

use super::dial::Dialer;
use super::headers::CLUSTER_ID;
use crate::config::Url;

/// Most bytes of an answer that holds a few numbers or words.
const SMALL_MAX: usize = 64 << 10;
/// Most bytes of a list of members.
const MEMBERS_MAX: usize = 4 << 20;
/// Most bytes of a lease with all its keys. Source: upstream `maxLeaseHTTPResponseSize`.
const LEASE_MAX: usize = 100 << 20;
/// Connections kept per member after their question was answered; what is asked beyond opens a connection and closes it.
const IDLE_MAX: usize = 16;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The URL of the member is none.
    #[error("{0}")]
    Url(String),
    /// No connection.
    #[error("{0}")]
    Dial(#[from] std::io::Error),
    /// The connection broke, or spoke no HTTP.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// The time was up.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// The answer was larger than any honest one.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The member said no, or something that makes no sense.
    #[error("{status}: {text}")]
    Refused { status: StatusCode, text: String },
}

/// A cluster as one of its members describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteCluster {
    pub id: u64,
    /// By ascending id.
    pub members: Vec<Member>,
}

/// The versions that a member tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    pub server: String,
    /// `not_decided` while there is none.
    pub cluster: String,
}

/// Asks other members. Cheap to clone; all clones share the connections that are kept.
#[derive(Clone, Debug)]
pub struct Asker {
    dialer: Dialer,
    /// By URL. Locked only to put in or take out.
    idle: Arc<Mutex<BTreeMap<String, Vec<Sender>>>>,
}

/// A connection that a question may be sent on.
type Sender = SendRequest<Full<Bytes>>;

struct Question<'a> {
    method: Method,
    url: &'a str,
    path: &'a str,
    headers: HeaderMap,
    body: Bytes,
    patience: Duration,
    bytes_max: usize,
    /// Whether the connection is kept for the next question. Such a question may reach the member twice.
    keep: bool,
}

struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Asker {
    pub fn new(dialer: Dialer) -> Self {
        Asker {
            dialer,
            idle: Arc::default(),
        }
    }

    /// `GET /members` of one member.
    pub async fn members(&self, url: &str, patience: Duration) -> Result<RemoteCluster, AskError> {
        let mut question = Question::get(url, "/members", patience);
        question.bytes_max = MEMBERS_MAX;
        let answered = self.ask(question).await?.ok()?;
        let nonsense = |why: String| answered.refusal(&why);
        let id = answered
            .headers
            .get(&CLUSTER_ID)
            .and_then(|id| id_from_hex(id.to_str().ok()?))
            .ok_or_else(|| nonsense("failed to parse cluster ID".to_owned()))?;
        let mut members = read_members(&answered.body).map_err(nonsense)?;
        members.sort_by_key(|member| member.id);
        Ok(RemoteCluster { id, members })
    }

    /// `GET /version` of a member, at the first of its URLs that answers.
    pub async fn version(&self, urls: &[String], patience: Duration) -> Result<Versions, AskError> {
        let answered = self.first(urls, "/version", patience).await?;
        let value: Value = serde_json::from_slice(&answered.body)
            .map_err(|why| answered.refusal(&why.to_string()))?;
        let text = |name| {
            let text = value.get(name).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        Ok(Versions {
            server: text("etcdserver"),
            cluster: text("etcdcluster"),
        })
    }

    /// `GET /downgrade/enabled` of a member.
    pub async fn downgrade_enabled(
        &self,
        urls: &[String],
        patience: Duration,
    ) -> Result<bool, AskError> {
        let answered = self.first(urls, "/downgrade/enabled", patience).await?;
        match &answered.body[..] {
            b"true" => Ok(true),
            b"false" => Ok(false),
            _ => Err(answered.refusal("neither true nor false")),
        }
    }

    /// `POST /members/promote/<id>` to the leader.
    pub async fn promote(
        &self,
        url: &str,
        id: u64,
        patience: Duration,
    ) -> Result<Vec<Member>, AskError> {
        let path = format!("/members/promote/{id}");
        let mut question = Question::get(url, &path, patience);
        question.method = Method::POST;
        question.bytes_max = MEMBERS_MAX;
        let answered = self.ask(question).await?.ok()?;
        read_members(&answered.body).map_err(|why| answered.refusal(&why))
    }

    /// `POST /leases` to the leader: the granted time to live, or `None` for a lease that it does not have.
    pub async fn renew(
        &self,
        url: &str,
        id: i64,
        patience: Duration,
    ) -> Result<Option<i64>, AskError> {
        let body = pb::LeaseKeepAliveRequest { id }.encode_to_vec();
        let question = Question::protobuf(url, "/leases", body, patience);
        let answered = self.ask(question).await?;
        if answered.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let answered = answered.ok()?;
        match pb::LeaseKeepAliveResponse::decode(answered.body.clone()) {
            Ok(response) if response.id == id => Ok(Some(response.ttl)),
            _ => Err(answered.refusal("lease: renew id mismatch")),
        }
    }

    /// `POST /leases/internal` to the leader: what it knows of the lease, or `None`.
    pub async fn time_to_live(
        &self,
        url: &str,
        request: pb::LeaseTimeToLiveRequest,
        patience: Duration,
    ) -> Result<Option<pb::LeaseTimeToLiveResponse>, AskError> {
        let id = request.id;
        let body = LeaseInternalRequest {
            lease_time_to_live_request: Some(request),
        };
        let mut question =
            Question::protobuf(url, "/leases/internal", body.encode_to_vec(), patience);
        question.bytes_max = LEASE_MAX;
        let answered = self.ask(question).await?;
        if answered.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let answered = answered.ok()?;
        let decoded = LeaseInternalResponse::decode(answered.body.clone())
            .ok()
            .and_then(|response| response.lease_time_to_live_response);
        match decoded {
            Some(response) if response.id == id => Ok(Some(response)),
            _ => Err(answered.refusal("lease: TTL id mismatch")),
        }
    }

    /// The first answer of status 200 from any of a member's URLs; otherwise why the last one gave none.
    async fn first(
        &self,
        urls: &[String],
        path: &str,
        patience: Duration,
    ) -> Result<Answered, AskError> {
        let mut last = AskError::Url("the member has no peer URL".to_owned());
        for url in urls {
            let answered = self.ask(Question::get(url, path, patience)).await;
            match answered.and_then(Answered::ok) {
                Ok(answered) => return Ok(answered),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    async fn ask(&self, question: Question<'_>) -> Result<Answered, AskError> {
        let patience = question.patience;
        tokio::time::timeout(patience, self.ask_on_some_connection(question))
            .await
            .unwrap_or(Err(AskError::Late(patience)))
    }

    async fn ask_on_some_connection(&self, question: Question<'_>) -> Result<Answered, AskError> {
        if question.keep
            && let Some(mut kept) = self.kept(question.url)
        {
            // One that was closed meanwhile, by a restart or for lack of use, is no reason to fail.
            if let Ok(answered) = ask_on(&mut kept, &question).await {
                self.keep(question.url, kept);
                return Ok(answered);
            }
        }
        let url = Url::parse(question.url).map_err(AskError::Url)?;
        let stream = TokioIo::new(self.dialer.dial(&url).await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        // It ends when the sender is dropped or the member closes it; an error shows at the sender.
        tokio::spawn(connection);
        let answered = ask_on(&mut sender, &question).await?;
        if question.keep {
            self.keep(question.url, sender);
        }
        Ok(answered)
    }

    fn kept(&self, url: &str) -> Option<Sender> {
        let mut idle = self
            .idle
            .lock()
            .expect("no thread panics while it holds connections");
        let kept = idle.get_mut(url)?;
        kept.retain(|sender| !sender.is_closed());
        kept.pop()
    }

    fn keep(&self, url: &str, sender: Sender) {
        let mut idle = self
            .idle
            .lock()
            .expect("no thread panics while it holds connections");
        let kept = idle.entry(url.to_owned()).or_default();
        if kept.len() < IDLE_MAX && !sender.is_closed() {
            kept.push(sender);
        }
    }
}

async fn ask_on(sender: &mut Sender, question: &Question<'_>) -> Result<Answered, AskError> {
    sender.ready().await?;
    let response = sender.send_request(question.request()?).await?;
    let (head, body) = response.into_parts();
    if body.size_hint().lower() > question.bytes_max as u64 {
        return Err(AskError::TooLarge(question.bytes_max));
    }
    let body = Limited::new(body, question.bytes_max).collect().await;
    let body = body.map_err(|why| match why.downcast::<hyper::Error>() {
        Ok(why) => AskError::Http(*why),
        Err(_) => AskError::TooLarge(question.bytes_max),
    })?;
    Ok(Answered {
        status: head.status,
        headers: head.headers,
        body: body.to_bytes(),
    })
}

impl<'a> Question<'a> {
    fn get(url: &'a str, path: &'a str, patience: Duration) -> Self {
        Question {
            method: Method::GET,
            url,
            path,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            patience,
            bytes_max: SMALL_MAX,
            keep: false,
        }
    }

    fn protobuf(url: &'a str, path: &'a str, body: Vec<u8>, patience: Duration) -> Self {
        let mut question = Question::get(url, path, patience);
        question.method = Method::POST;
        let kind = header::HeaderValue::from_static("application/protobuf");
        question.headers.insert(header::CONTENT_TYPE, kind);
        question.body = body.into();
        question.keep = true;
        question
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, AskError> {
        let host = Url::parse(self.url).map_err(AskError::Url)?;
        let host = match host.is_socket() {
            true => "localhost",
            false => host.host_port(),
        };
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(self.path)
            .header(header::HOST, host)
            .body(Full::new(self.body.clone()))
            .map_err(|why| AskError::Url(why.to_string()))?;
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
    }
}

impl Answered {
    fn ok(self) -> Result<Answered, AskError> {
        match self.status {
            StatusCode::OK => Ok(self),
            _ => Err(self.refusal("")),
        }
    }

    /// A refusal with the member's words, or with what is wrong with them.
    fn refusal(&self, why: &str) -> AskError {
        let text = match why {
            "" => String::from_utf8_lossy(&self.body).trim_end().to_owned(),
            why => why.to_owned(),
        };
        AskError::Refused {
            status: self.status,
            text,
        }
    }
}

impl AskError {
    /// The member's words if it refused with this status.
    pub fn refused_with(&self, wanted: StatusCode) -> Option<&str> {
        match self {
            AskError::Refused { status, text } if *status == wanted => Some(text),
            _ => None,
        }
    }
}

fn read_members(body: &[u8]) -> Result<Vec<Member>, String> {
    let values: Option<Vec<Value>> = serde_json::from_slice(body).map_err(|why| why.to_string())?;
    let member = |value: &Value| Member::from_json(value.to_string().as_bytes());
    values.unwrap_or_default().iter().map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A member that gives each connection one of these answers, whatever it is asked.
    async fn member(answers: &[String]) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let answers = answers.to_vec();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                if answer.is_empty() {
                    std::future::pending::<()>().await;
                }
            }
        });
        url
    }

    fn ok(header: &str, body: &str) -> String {
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\n{header}Content-Length: {length}\r\n\r\n{body}")
    }

    fn asker() -> Asker {
        let config = crate::config::Config::default();
        let (tls, _) = crate::tls::Sides::load(&config).expect("no files");
        Asker::new(Dialer::new(&config, tls.members.clone()))
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn members_come_with_the_id_of_their_cluster() {
        let list =
            r#"[{"id":9,"peerURLs":["http://a:1"],"name":"a"},{"id":2,"peerURLs":["http://b:1"]}]"#;
        let url = member(&[ok("X-Etcd-Cluster-Id: ebb44d8d1f09e651\r\n", list)]).await;
        let cluster = asker().members(&url, PATIENCE).await.expect("an answer");
        assert_eq!(cluster.id, 0xebb4_4d8d_1f09_e651);
        let ids: Vec<u64> = cluster.members.iter().map(|member| member.id).collect();
        assert_eq!(ids, [2, 9]);
    }

    #[tokio::test]
    async fn a_member_that_knows_nobody_yet_says_null() {
        let url = member(&[ok("X-Etcd-Cluster-Id: 1\r\n", "null\n")]).await;
        let cluster = asker().members(&url, PATIENCE).await.expect("an answer");
        assert_eq!(cluster.members, []);
    }

    #[tokio::test]
    async fn an_answer_without_end_is_cut_and_one_that_never_comes_is_given_up() {
        let endless = "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n".to_owned();
        let chunk = format!("ffff\r\n{}\r\n", "x".repeat(0xffff));
        let chunked = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}",
            chunk.repeat(3)
        );
        let url = member(&[endless, chunked]).await;
        for _ in 0..2 {
            let outcome = asker().version(std::slice::from_ref(&url), PATIENCE).await;
            assert!(matches!(outcome, Err(AskError::TooLarge(_))), "{outcome:?}");
        }
        let url = member(&[String::new()]).await;
        let outcome = asker().version(&[url], Duration::from_millis(50)).await;
        assert!(matches!(outcome, Err(AskError::Late(_))), "{outcome:?}");
    }

    #[tokio::test]
    async fn a_kept_connection_that_was_closed_is_replaced() {
        let gone = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned();
        let url = member(&[ok("", "\x10\x07\x18\x3c"), gone]).await;
        let asker = asker();
        let first = asker.renew(&url, 7, PATIENCE).await.expect("an answer");
        assert_eq!(first, Some(60));
        let second = asker.renew(&url, 7, PATIENCE).await;
        assert_eq!(second.expect("another connection"), None);
    }
}
