//! Requests to other members, and the URLs at which they are.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::body::Body;
use super::dial::Dialer;
use super::headers::{CLUSTER_ID, Refusal, text_of};
use super::timed::Timed;
use crate::config::Url;

/// Most bytes of an answer that is not a stream.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The peer URLs of a member, and the one in use.
#[derive(Debug)]
pub struct Urls {
    urls: Vec<Url>,
    picked: usize,
}

/// Shared by everything that dials one peer.
pub type Picker = Rc<RefCell<Urls>>;

impl Urls {
    pub fn new(urls: Vec<Url>) -> Urls {
        Urls { urls, picked: 0 }
    }

    pub fn all(&self) -> &[Url] {
        &self.urls
    }

    pub fn update(&mut self, urls: Vec<Url>) {
        if self.urls != urls {
            *self = Urls::new(urls);
        }
    }

    /// The URL in use; a member without any cannot be reached.
    pub fn pick(&self) -> Option<Url> {
        self.urls.get(self.picked).cloned()
    }

    /// A URL did not work: the next one is used, unless that was decided already.
    pub fn failed(&mut self, url: &Url) {
        if self.urls.get(self.picked) == Some(url) {
            self.picked = (self.picked + 1) % self.urls.len();
        }
    }
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub read: Duration,
    pub write: Duration,
}

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("the member has no peer URL that can be used")]
    NoUrl,
    #[error("dial {0}: {1}")]
    Dial(String, io::Error),
    #[error("{0}")]
    Connection(#[from] hyper::Error),
    #[error("{0}")]
    Late(&'static str),
    /// The text is etcd's.
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    #[error("{}", .0.text())]
    Refused(Refusal),
    #[error("unhandled error {0:?} when precondition failed")]
    Precondition(String),
    #[error("peer {0} failed to find local node {1}")]
    Unknown(String, String),
    #[error("unexpected http status {0} while posting to {1:?}")]
    Status(StatusCode, String),
    #[error("unhandled http status {0}")]
    StreamStatus(u16),
    #[error("{0}")]
    Content(String),
}

impl Failure {
    /// Whether the peer's machine answered that nobody listens there.
    pub fn is_refused(&self) -> bool {
        matches!(self, Failure::Dial(_, why) if why.kind() == io::ErrorKind::ConnectionRefused)
    }
}

/// A connection on which one request after the other can be made. Ends when it is dropped.
pub struct Connection {
    pub url: Url,
    requests: SendRequest<Body>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Connects. With `silence` set, an answer that pauses for longer breaks the connection.
    ///
    /// # Errors
    /// Nobody answers there.
    pub async fn open(
        url: Url,
        dialer: &Dialer,
        timeouts: Timeouts,
        silence: Option<Duration>,
    ) -> Result<Connection, Failure> {
        let io = dialer
            .dial(&url)
            .await
            .map_err(|why| Failure::Dial(url.to_string(), why))?;
        let io = TokioIo::new(Timed::new(io, silence, timeouts.write));
        let (requests, connection) = http1::handshake(io).await?;
        // An error of the connection comes out of the request that it belongs to.
        let driver = tokio::task::spawn_local(async {
            let _ = connection.await;
        });
        Ok(Connection {
            url,
            requests,
            driver,
        })
    }

    /// Whether another request can be made.
    pub fn is_usable(&self) -> bool {
        !self.requests.is_closed()
    }

    /// Makes a request and waits for the head of its answer.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn request(
        &mut self,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, Failure> {
        let host = match self.url.is_socket() {
            true => "localhost",
            false => self.url.host_port(),
        };
        if let Ok(host) = host.parse() {
            request.headers_mut().insert(header::HOST, host);
        }
        self.requests.ready().await?;
        Ok(self.requests.send_request(request).await?)
    }
}

/// Reads an answer that is short.
///
/// # Errors
/// The connection broke, the answer takes longer than `within`, or it is not short.
pub async fn read_short(body: Incoming, within: Duration) -> Result<Bytes, Failure> {
    let reading = async {
        let (mut body, mut whole) = (body, BytesMut::new());
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                if whole.len() + data.len() > ANSWER_BYTES_MAX {
                    return Err(Failure::Content("the answer is too long".to_owned()));
                }
                whole.extend_from_slice(&data);
            }
        }
        Ok(whole.freeze())
    };
    timeout(within, reading)
        .await
        .unwrap_or(Err(Failure::Late("the answer did not end in time")))
}

/// What a refusal with 412 means, by its text.
pub fn precondition(body: &[u8]) -> Failure {
    let text = String::from_utf8_lossy(body);
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let refusal = Refusal::ALL
        .into_iter()
        .find(|refusal| refusal.text() == text);
    refusal.map_or_else(|| Failure::Precondition(text.to_owned()), Failure::Refused)
}

/// The cluster that an answer comes from, as it says.
pub fn cluster_of(headers: &HeaderMap) -> String {
    text_of(headers, &CLUSTER_ID).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    #[test]
    fn the_next_url_is_picked_once_whoever_says_that_one_failed() {
        let (one, two) = (url("http://a:1"), url("http://b:2"));
        let mut urls = Urls::new(vec![one.clone(), two.clone()]);
        assert_eq!(urls.pick(), Some(one.clone()));
        urls.failed(&one);
        urls.failed(&one);
        assert_eq!(urls.pick(), Some(two.clone()));
        urls.update(vec![one.clone(), two.clone()]);
        assert_eq!(urls.pick(), Some(two.clone()), "nothing has changed");
        urls.failed(&two);
        assert_eq!(urls.pick(), Some(one.clone()));
        urls.update(vec![two.clone()]);
        assert_eq!(urls.pick(), Some(two));
        assert_eq!(Urls::new(vec![]).pick(), None);
    }

    #[test]
    fn the_texts_of_refusals_are_understood() {
        let known = precondition(b"cluster ID mismatch\n");
        assert!(matches!(
            known,
            Failure::Refused(Refusal::ClusterIdMismatch)
        ));
        let other = precondition(b"to field mismatch\n");
        assert_eq!(
            other.to_string(),
            "unhandled error \"to field mismatch\" when precondition failed"
        );
    }
}
