//! The rules of gRPC over HTTP/2, before and after the functions that answer.
//!
//! What is refused here, and how, is what grpc-go does under etcd: the texts are its texts. The order of checks that etcd
//! makes: learner, client version, leader. Source: upstream `server/etcdserver/api/v3rpc/interceptor.go`; grpc-go
//! `server.go`, `internal/transport/http2_server.go`.

use std::future::Future;
use std::time::Duration;

use http::{HeaderValue, Method as HttpMethod, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use proto::error::{self, Code};
use proto::methods::{self, Kind};

use super::access;
use super::account::Account;
use super::body::{Body, Streaming};
use super::compression::{Compressor, Encoding};
use super::frame::Messages;
use super::metadata::Metadata;
use super::route;
use super::session::Session;
use super::status::{Status, ok_trailers};

/// Whether a request is for here: HTTP/2, and either of gRPC's content type or for a gRPC path.
pub fn is_grpc<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2
        && (has_content_type(request) || methods::find(request.uri().path()).is_some())
}

fn has_content_type<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let rest = kind.and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"));
    matches!(rest, Some([] | [b'+' | b';', ..]))
}

/// Answers a gRPC call, good or bad.
pub async fn serve(session: &Session, request: Request<Incoming>) -> Response<Body> {
    if !has_content_type(&request) {
        let kind = request
            .headers()
            .get(header::CONTENT_TYPE)
            .map_or(&b""[..], |kind| kind.as_bytes());
        let why = format!(
            "invalid gRPC request content-type {:?}",
            String::from_utf8_lossy(kind)
        );
        return at_http_level(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Status::new(Code::InvalidArgument, why),
        );
    }
    if request.method() != HttpMethod::POST {
        let why = format!(
            "Received a HEADERS frame with :method {:?} which should be POST",
            request.method().as_str()
        );
        return at_http_level(StatusCode::METHOD_NOT_ALLOWED, Status::internal(why));
    }
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let Some(method) = methods::ALL.iter().position(|method| method.path == path) else {
        return refuse(unknown(path));
    };
    let metadata = match Metadata::read(&head.headers) {
        Ok(metadata) => metadata,
        Err(status) => return refuse(status),
    };
    let kind = methods::ALL[method].kind;
    let member = &session.member;
    member
        .metrics
        .client_request(kind, metadata.client_version.as_deref());
    let bytes_max = member.limits.message_bytes_max();
    let messages = Messages::new(body, bytes_max, metadata.encoding);
    if kind == Kind::Unary {
        unary(session, method, metadata, messages).await
    } else {
        stream(session, method, metadata, messages).await
    }
}

/// The common case: one message in, one out.
async fn unary(
    session: &Session,
    method: usize,
    metadata: Metadata,
    mut messages: Messages,
) -> Response<Body> {
    let account = Account::begin(&*session.member, method);
    let call = async {
        need_voter(session, method, &LEARNERS_ANSWER)?;
        need_leader(session, &metadata)?;
        access::admit(session, method)?;
        let request = messages.only().await?;
        account.received(request.len());
        // On the heap, so that a stream which has not asked yet costs little.
        Box::pin(route::unary(session, methods::ALL[method].path, request)).await
    };
    match before(metadata.timeout, call).await {
        Ok(message) => {
            account.end(Code::Ok);
            account.sent(1, message.len());
            let message = match metadata.encoding {
                Encoding::Identity => message,
                Encoding::Gzip => Compressor::default().add(&message),
            };
            let body = Body::Unary {
                message: Some(message),
                trailers: Some(ok_trailers()),
                _request: messages.into_rest(),
            };
            encoded(body, metadata.encoding)
        }
        Err(status) => {
            account.end(status.code);
            refuse(status)
        }
    }
}

async fn stream(
    session: &Session,
    method: usize,
    metadata: Metadata,
    messages: Messages,
) -> Response<Body> {
    let account = Account::begin(session.member.clone(), method);
    let may = need_voter(session, method, &[SNAPSHOT])
        .and_then(|()| need_leader(session, &metadata))
        .and_then(|()| access::admit(session, method));
    let opened = match may {
        Ok(()) => {
            let open = Box::pin(route::stream(session, method, messages));
            before(metadata.timeout, open).await
        }
        Err(status) => Err(status),
    };
    match opened {
        Ok(pieces) => {
            let deadline = metadata
                .timeout
                .map(|timeout| Box::pin(tokio::time::sleep(timeout)));
            let wish = metadata.wants_leader.then(|| session.leadership.wish());
            let compressor = (metadata.encoding == Encoding::Gzip).then(Compressor::default);
            let streaming = Streaming::new(pieces, account, deadline, wish, compressor);
            encoded(Body::Stream(Box::new(streaming)), metadata.encoding)
        }
        Err(status) => {
            account.end(status.code);
            refuse(status)
        }
    }
}

/// What a learner answers; of ranges only those that are content with what it has, see [`super::kv::range`].
const LEARNERS_ANSWER: [&str; 2] = ["/etcdserverpb.Maintenance/Status", "/etcdserverpb.KV/Range"];
const SNAPSHOT: &str = "/etcdserverpb.Maintenance/Snapshot";

/// Refuses what a learner does not do. Source: upstream `server/etcdserver/api/v3rpc/util.go`, `isRPCSupportedForLearner`.
fn need_voter(session: &Session, method: usize, learners_answer: &[&str]) -> Result<(), Status> {
    if session.member.raft.is_learner() && !learners_answer.contains(&methods::ALL[method].path) {
        return Err(Status::from(&error::NOT_SUPPORTED_FOR_LEARNER));
    }
    Ok(())
}

fn need_leader(session: &Session, metadata: &Metadata) -> Result<(), Status> {
    if metadata.wants_leader && !session.member.raft.has_leader() {
        return Err(Status::from(&error::NO_LEADER));
    }
    Ok(())
}

/// Gives a call up when its client has. A call that is answered at once needs no timer.
async fn before<T>(
    timeout: Option<Duration>,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match timeout {
        None => call.await,
        Some(timeout) => {
            let outcome = tokio::time::timeout(timeout, call).await;
            outcome.unwrap_or_else(|_| Err(Status::from(&error::CONTEXT_DEADLINE_EXCEEDED)))
        }
    }
}

/// Why a path leads nowhere.
fn unknown(path: &str) -> Status {
    let Some((service, method)) = path.strip_prefix('/').unwrap_or(path).rsplit_once('/') else {
        return Status::unimplemented(format!("malformed method name: {path:?}"));
    };
    if methods::ALL.iter().any(|known| known.service == service) {
        Status::unimplemented(format!("unknown method {method} for service {service}"))
    } else {
        Status::unimplemented(format!("unknown service {service}"))
    }
}

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

fn answer(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    response
}

/// An answer whose messages use the encoding of the request.
fn encoded(body: Body, encoding: Encoding) -> Response<Body> {
    let mut response = answer(body);
    if encoding == Encoding::Gzip {
        let gzip = HeaderValue::from_static("gzip");
        response.headers_mut().insert("grpc-encoding", gzip);
    }
    response
}

/// A call that fails before its first message: headers and trailers in one.
fn refuse(status: Status) -> Response<Body> {
    let mut response = answer(Body::Empty);
    let headers = response.headers_mut();
    status.write_to(headers);
    if status.code == Code::Unimplemented {
        headers.insert(
            "grpc-accept-encoding",
            HeaderValue::from_static("identity,gzip"),
        );
    }
    response
}

fn at_http_level(code: StatusCode, status: Status) -> Response<Body> {
    let mut response = refuse(status);
    *response.status_mut() = code;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_nowhere_are_told_apart_in_grpc_gos_words() {
        let text = |path| unknown(path).message.into_owned();
        assert_eq!(
            text("/etcdserverpb.KV/Nonsense"),
            "unknown method Nonsense for service etcdserverpb.KV"
        );
        assert_eq!(
            text("/no.such.Service/Put"),
            "unknown service no.such.Service"
        );
        assert_eq!(text("/a/b/c"), "unknown service a/b");
        assert_eq!(text("/nothing"), "malformed method name: \"/nothing\"");
        assert_eq!(text("/"), "malformed method name: \"/\"");
    }

    #[test]
    fn only_grpcs_content_types_are_grpc() {
        let request = |kind: &str| {
            Request::builder()
                .version(Version::HTTP_2)
                .uri("/x")
                .header("content-type", kind)
                .body(())
                .expect("a request")
        };
        for yes in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;x=y",
        ] {
            assert!(is_grpc(&request(yes)), "{yes}");
        }
        for no in ["application/grpcs", "application/json", ""] {
            assert!(!is_grpc(&request(no)), "{no}");
        }
    }
}
