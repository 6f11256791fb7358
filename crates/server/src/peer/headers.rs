//! What members tell each other in headers, and who is refused for it.
//!
//! Source: upstream `server/etcdserver/api/rafthttp/{util,http}.go`. Where etcd panics on a version that it can't read, and
//! closes the connection, the request is refused as one of an incompatible version.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use state::membership::{id_from_hex, id_to_hex};

use state::version::Version;

use crate::config::Url;

pub const SERVER_FROM: HeaderName = HeaderName::from_static("x-server-from");
pub const SERVER_VERSION: HeaderName = HeaderName::from_static("x-server-version");
pub const MIN_CLUSTER_VERSION: HeaderName = HeaderName::from_static("x-min-cluster-version");
pub const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
pub const RAFT_TO: HeaderName = HeaderName::from_static("x-raft-to");
pub const PEER_URLS: HeaderName = HeaderName::from_static("x-peerurls");

/// The oldest version that this protocol can be spoken with. Source: upstream `api/version`, `MinClusterVersion`.
const MIN_CLUSTER: &str = "3.0.0";
/// What members say that say nothing.
const VERSION_BEFORE_HEADERS: &str = "2.0.0";

/// Why a request of another member is refused; the text is etcd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    IncompatibleVersion,
    ClusterIdMismatch,
}

impl Refusal {
    pub const ALL: [Refusal; 2] = [Refusal::IncompatibleVersion, Refusal::ClusterIdMismatch];

    pub fn text(self) -> &'static str {
        match self {
            Refusal::IncompatibleVersion => "incompatible version",
            Refusal::ClusterIdMismatch => "cluster ID mismatch",
        }
    }
}

/// What this member says of itself.
#[derive(Clone, Debug)]
pub struct Own {
    pub member_id: u64,
    pub cluster_id: u64,
    /// Peer URLs, for members that do not know this one yet.
    urls: Option<HeaderValue>,
}

impl Own {
    pub fn new(cluster_id: u64, member_id: u64, urls: &[Url]) -> Own {
        let urls: Vec<String> = urls.iter().map(Url::to_string).collect();
        Own {
            member_id,
            cluster_id,
            // A URL with bytes that no header can carry is left out; whoever needs it learns it from the log.
            urls: HeaderValue::from_str(&urls.join(",")).ok(),
        }
    }

    /// The cluster's id as a header.
    pub fn cluster(&self) -> HeaderValue {
        hex(self.cluster_id)
    }

    /// Adds what every request of this member carries, which tells that it is of `version`.
    pub fn introduce(&self, headers: &mut HeaderMap, version: Version) {
        headers.insert(SERVER_FROM, hex(self.member_id));
        headers.insert(SERVER_VERSION, version_value(version));
        headers.insert(MIN_CLUSTER_VERSION, HeaderValue::from_static(MIN_CLUSTER));
        headers.insert(CLUSTER_ID, self.cluster());
        if let Some(urls) = &self.urls {
            headers.insert(PEER_URLS, urls.clone());
        }
    }

    /// Whether a request comes from a member that this one, of version `local`, can speak with, of this cluster.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, headers: &HeaderMap, local: Version) -> Result<(), Refusal> {
        let version = |name: &HeaderName| {
            let text = match text_of(headers, name) {
                "" => VERSION_BEFORE_HEADERS,
                text => text,
            };
            minor_of(text).ok_or(Refusal::IncompatibleVersion)
        };
        let (remote, wanted) = (version(&SERVER_VERSION)?, version(&MIN_CLUSTER_VERSION)?);
        let local = (u64::from(local.major), u64::from(local.minor));
        let oldest = minor_of(MIN_CLUSTER).expect("our own version can be read");
        if remote < oldest || wanted > local {
            return Err(Refusal::IncompatibleVersion);
        }
        if text_of(headers, &CLUSTER_ID) != id_to_hex(self.cluster_id) {
            return Err(Refusal::ClusterIdMismatch);
        }
        Ok(())
    }
}

/// A version as members write it.
pub fn version_value(version: Version) -> HeaderValue {
    HeaderValue::from_str(&version.to_string()).expect("digits and dots")
}

/// An id as members write it.
pub fn hex(id: u64) -> HeaderValue {
    HeaderValue::from_str(&id_to_hex(id)).expect("digits")
}

/// A header's text; empty if there is none.
pub fn text_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("")
}

/// Who sent a request and where it can be reached, as far as it says so.
pub fn sender(headers: &HeaderMap) -> Option<(u64, Vec<Url>)> {
    let from = id_from_hex(text_of(headers, &SERVER_FROM)).filter(|id| *id != 0)?;
    let urls = urls_of(text_of(headers, &PEER_URLS))?;
    Some((from, urls))
}

/// Peer URLs as a header lists them; `None` if there is none or one cannot be read.
pub fn urls_of(text: &str) -> Option<Vec<Url>> {
    const URLS_MAX: usize = 16;
    let urls: Vec<Url> = text
        .split(',')
        .take(URLS_MAX)
        .map(Url::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    Some(urls)
}

/// Major and minor of a version like `3.7.0-rc.1+git`.
fn minor_of(text: &str) -> Option<(u64, u64)> {
    let numbers = text.split(['-', '+']).next()?;
    let mut parts = numbers.split('.').map(|part| {
        let is_plain = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        is_plain.then(|| part.parse::<u64>().ok()).flatten()
    });
    let (major, minor, _patch) = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> Version {
        Version::parse("3.7.1").expect("a version")
    }

    fn own() -> Own {
        let url = Url::parse("http://127.0.0.1:2380").expect("a URL");
        Own::new(0xab, 1, &[url])
    }

    /// The refusal of a request whose header `name` is changed to `value`, or left out.
    fn check(name: HeaderName, value: Option<&'static str>) -> Option<Refusal> {
        let mut headers = HeaderMap::new();
        own().introduce(&mut headers, local());
        match value {
            Some(value) => headers.insert(name, HeaderValue::from_static(value)),
            None => headers.remove(name),
        };
        own().check(&headers, local()).err()
    }

    #[test]
    fn members_of_this_cluster_and_of_a_version_in_reach_are_let_in() {
        let versions = [
            "3.0.0",
            "3.4.23",
            "3.5.1",
            "3.6.0-rc.1",
            "3.99.0+git",
            "4.0.0",
        ];
        for version in versions {
            assert_eq!(check(SERVER_VERSION, Some(version)), None, "{version}");
        }
        assert_eq!(check(MIN_CLUSTER_VERSION, Some("3.7.9")), None);
        assert_eq!(check(CLUSTER_ID, Some("ab")), None);
    }

    #[test]
    fn others_are_told_why_not() {
        let incompatible = Some(Refusal::IncompatibleVersion);
        for version in ["2.3.8", "", "3", "3.5", "3.5.x", "v3.5.1", "3.5.1.1", "+"] {
            assert_eq!(
                check(SERVER_VERSION, Some(version)),
                incompatible,
                "{version}"
            );
        }
        assert_eq!(check(SERVER_VERSION, None), incompatible);
        assert_eq!(check(MIN_CLUSTER_VERSION, Some("3.8.0")), incompatible);
        let mismatch = Some(Refusal::ClusterIdMismatch);
        for id in ["ac", "AB", "0ab", ""] {
            assert_eq!(check(CLUSTER_ID, Some(id)), mismatch, "{id}");
        }
        assert_eq!(check(CLUSTER_ID, None), mismatch);
    }

    #[test]
    fn a_sender_can_be_reached_only_with_an_id_and_urls_that_can_be_read() {
        let mut headers = HeaderMap::new();
        own().introduce(&mut headers, local());
        let (from, urls) = sender(&headers).expect("introduced");
        assert_eq!((from, urls.len()), (1, 1));
        for urls in ["", "ftp://a:1", "http://a:1,,"] {
            headers.insert(PEER_URLS, HeaderValue::from_static(urls));
            assert_eq!(sender(&headers), None, "{urls}");
        }
        headers.insert(
            PEER_URLS,
            HeaderValue::from_static("http://a:1,https://b:2"),
        );
        headers.insert(SERVER_FROM, HeaderValue::from_static("0"));
        assert_eq!(sender(&headers), None);
    }
}
