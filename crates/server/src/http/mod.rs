//! Plain HTTP on the client port: versions, health, metrics. Everything else is not found.
//!
//! Start with [`answer`]; `access` decides who may ask, `health` what is well. Source: upstream
//! `server/etcdserver/api/etcdhttp`, `server/embed/serve.go`.

mod access;
mod health;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::json;

use crate::config::VERSION_ETCD;
use crate::grpc::body::Body;
use crate::grpc::session::Session;
use crate::member::Member;
use crate::metrics::{self, FileLimit};
use crate::transport::{Caller, Speaks};

/// Answers a request that is not gRPC.
pub async fn answer<B>(session: &Session, request: Request<B>, caller: &Caller) -> Response<Body> {
    let settings = session.member.settings();
    // A page that has rebound a name cannot show a certificate for it, so with TLS any name will do.
    let allowed = access::need_host(&request).and_then(|()| match caller.remote.is_tls {
        true => Ok(()),
        false => access::check_host(settings, &request),
    });
    if let Err(refusal) = allowed {
        return *refusal;
    }
    let mut response = if request.method() == Method::OPTIONS {
        Response::new(Body::Empty)
    } else {
        route(session, &request, caller.speaks).await
    };
    access::add_cors(settings, request.headers(), response.headers_mut());
    response
}

async fn route<B>(session: &Session, request: &Request<B>, speaks: Speaks) -> Response<Body> {
    let member = &session.member;
    let query = Query::of(request);
    match request.uri().path() {
        "/metrics" => match get(request) {
            Ok(()) => with_type(
                "text/plain; version=0.0.4; charset=utf-8",
                metrics::page(member),
            ),
            Err(refusal) => *refusal,
        },
        "/health" => match get(request) {
            Ok(()) => health::health(session, &query).await,
            Err(refusal) => *refusal,
        },
        path if health::is_check(path) => match get(request) {
            Ok(()) => health::check(session, path, &query).await,
            Err(refusal) => *refusal,
        },
        "/version" if speaks == Speaks::Both => match get(request) {
            Ok(()) => version(member),
            Err(refusal) => *refusal,
        },
        "/debug/vars" if speaks == Speaks::Both => variables(member),
        _ => error(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

/// Only GET may ask.
fn get<B>(request: &Request<B>) -> Result<(), Box<Response<Body>>> {
    if request.method() == Method::GET {
        return Ok(());
    }
    let mut refusal = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    let allow = HeaderValue::from_static("GET");
    refusal.headers_mut().insert(header::ALLOW, allow);
    Err(Box::new(refusal))
}

fn version(member: &Member) -> Response<Body> {
    let decided = member.view.load().cluster_version().version;
    let cluster = decided.map_or("not_decided".to_owned(), |version| version.to_string());
    let storage = decided.map_or("unknown".to_owned(), |version| {
        version.minor_only().to_string()
    });
    // By hand, because etcd's order of fields is not the alphabet's.
    let body = format!(
        r#"{{"etcdserver":"{VERSION_ETCD}","etcdcluster":"{cluster}","storage":"{storage}"}}"#
    );
    with_type("application/json", body)
}

/// A few of the variables that etcd shows here, in its shape.
fn variables(member: &Member) -> Response<Body> {
    let raft = member.raft.get();
    let body = json!({
        "cmdline": member.settings().command_line,
        "file_descriptor_limit": FileLimit::now().max,
        "raft.status": {
            "id": format!("{:x}", member.member_id),
            "term": raft.term,
            "lead": format!("{:x}", raft.leader),
            "commit": raft.committed,
            "applied": raft.applied,
            "raftState": if raft.is_leader { "StateLeader" } else { "StateFollower" },
        },
    });
    with_type("application/json; charset=utf-8", body.to_string())
}

fn with_type(kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::Full(Some(body.into())));
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// As Go's `http.Error`: the text, and a newline.
fn error(code: StatusCode, text: &str) -> Response<Body> {
    let mut response = with_type("text/plain; charset=utf-8", format!("{text}\n"));
    let nosniff = HeaderValue::from_static("nosniff");
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    *response.status_mut() = code;
    response
}

/// What follows the question mark, decoded.
#[derive(Debug, Default)]
struct Query(Vec<(String, String)>);

impl Query {
    fn of<B>(request: &Request<B>) -> Self {
        Query::parse(request.uri().query().unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescape(name), unescape(value))
        });
        Query(decoded.collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// The first value.
    fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    fn includes(&self, name: &str, value: &str) -> bool {
        self.0.iter().any(|pair| pair.0 == name && pair.1 == value)
    }
}

/// Undoes `%XX` and `+`. What is no escape stays as it is.
fn unescape(text: &str) -> String {
    let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte, hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                plain.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                plain.push(if byte == b'+' { b' ' } else { byte });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_decoded_and_may_repeat_names() {
        let query = Query::parse("exclude=NOSPACE&exclude=a%2Bb+c&verbose&x=%zz");
        assert!(query.includes("exclude", "NOSPACE") && query.includes("exclude", "a+b c"));
        assert!(query.has("verbose") && !query.has("VERBOSE"));
        assert_eq!(query.get("x"), "%zz");
    }
}
