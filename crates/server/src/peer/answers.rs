//! Answers to what other members ask on the peer port outside of raft. Paths, codes and texts are etcd's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use prost::Message;
use proto::error::{self, RpcError};
use proto::etcdserverpb as pb;
use proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use replica::{Reply, Request as Question};
use serde_json::Value;
use state::membership::{Member as ClusterMember, id_to_hex};

use super::Body as OurBody;
use super::headers::CLUSTER_ID;
use crate::changes;
use crate::forward;
use crate::grpc::maintenance;
use crate::member::Member;

/// Most bytes of a question. Source: upstream `maxLeaseHTTPRequestSize`.
const QUESTION_MAX: usize = 64 << 10;
/// How long a question may take to arrive.
const QUESTION_PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer about a lease may wait for this member to be up to date. Source: upstream `applyTimeout`.
const LEASE_PATIENCE: Duration = Duration::from_secs(1);
const LEASE_TIMEOUT: &str = "waiting for node to catch up its applied index has timed out";
const LEASE_NOT_FOUND: &str = "lease not found";

type Answer = Response<OurBody>;
/// A refusal is an answer, too.
type Outcome = Result<Answer, Box<Answer>>;

/// Answers every path of the peer port that is not raft's.
pub async fn answer<B>(member: &Arc<Member>, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let need = |method: Method| match head.method == method {
        true => Ok(()),
        false => Err(not_allowed(&method)),
    };
    let outcome = match path {
        "/members" => need(Method::GET).map(|()| members(member)),
        "/version" => need(Method::GET).map(|()| version(member)),
        "/downgrade/enabled" => match need(Method::GET) {
            Ok(()) => downgrade_enabled(member).await,
            Err(refusal) => Err(refusal),
        },
        "/members/hashkv" => match need(Method::GET) {
            Ok(()) => hash_kv(member, head.headers.get(&CLUSTER_ID), body).await,
            Err(refusal) => Err(refusal),
        },
        // Here etcd does not say which method it wants.
        "/leases" | "/leases/internal" if head.method != Method::POST => {
            Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"))
        }
        "/leases" => renew(member, body).await,
        "/leases/internal" => time_to_live(member, body).await,
        _ => match path.strip_prefix("/members/promote/") {
            Some(id) => match need(Method::POST) {
                Ok(()) => promote(member, id).await,
                Err(refusal) => Err(refusal),
            },
            None => Err(refuse(StatusCode::NOT_FOUND, "404 page not found")),
        },
    };
    outcome.unwrap_or_else(|refusal| *refusal)
}

fn members(member: &Member) -> Answer {
    let list = member.view.load().members().list();
    with_cluster(member, json(list_of(&list)))
}

/// As Go's encoder writes a list of members, with a newline behind it.
fn list_of(members: &[ClusterMember]) -> Vec<u8> {
    if members.is_empty() {
        return b"null\n".to_vec();
    }
    let rows: Vec<Vec<u8>> = members.iter().map(ClusterMember::to_json).collect();
    [&b"["[..], &rows.join(&b','), b"]\n"].concat()
}

fn version(member: &Member) -> Answer {
    let decided = member.view.load().cluster_version().version;
    let cluster = decided.map_or("not_decided".to_owned(), |version| version.to_string());
    let storage = decided.map_or("unknown".to_owned(), |version| {
        version.minor_only().to_string()
    });
    let server = member.version_for_peers();
    json(format!(
        r#"{{"etcdserver":"{server}","etcdcluster":"{cluster}","storage":"{storage}"}}"#
    ))
}

async fn downgrade_enabled(member: &Arc<Member>) -> Outcome {
    if let Err(why) = member.ask(Question::ReadBarrier).await {
        let text = format!("failed linearized read: {}", why.text);
        let refusal = refuse(StatusCode::INTERNAL_SERVER_ERROR, &text);
        return Err(Box::new(with_cluster(member, *refusal)));
    }
    let view = member.view.load();
    let enabled = view.cluster_version().downgrade_target.is_some();
    let enabled = enabled.to_string();
    Ok(with_cluster(member, with_type("text/plain", enabled)))
}

async fn promote(member: &Arc<Member>, id: &str) -> Outcome {
    let Ok(number) = id.parse::<u64>() else {
        let text = format!("member {id} not found in cluster");
        let refusal = refuse(StatusCode::NOT_FOUND, &text);
        return Err(Box::new(with_cluster(member, *refusal)));
    };
    match changes::promote(member, number).await {
        Ok(members) => Ok(with_cluster(member, json(list_of(&members)))),
        Err(why) => {
            tracing::warn!(
                "member-id" = id_to_hex(number),
                error = why.text,
                "failed to promote a member"
            );
            Err(Box::new(with_cluster(member, *promotion_refusal(why))))
        }
    }
}

/// The texts are those of etcd's inner errors, which its members look for. Source: upstream `api/etcdhttp/peer.go`, `utils.go`.
fn promotion_refusal(why: &'static RpcError) -> Box<Answer> {
    match *why {
        error::MEMBER_NOT_FOUND => refuse(StatusCode::NOT_FOUND, "membership: ID not found"),
        error::MEMBER_NOT_LEARNER => refuse(
            StatusCode::PRECONDITION_FAILED,
            "membership: can only promote a learner member",
        ),
        error::LEARNER_NOT_READY => refuse(StatusCode::PRECONDITION_FAILED, why.text),
        _ => {
            let mut answer = json(r#"{"message":"Internal Server Error"}"#);
            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            Box::new(answer)
        }
    }
}

async fn hash_kv<B>(member: &Arc<Member>, cluster: Option<&HeaderValue>, body: B) -> Outcome
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if let Some(cluster) = cluster
        && !cluster.is_empty()
        && cluster.as_bytes() != id_to_hex(member.cluster_id).as_bytes()
    {
        return Err(refuse(
            StatusCode::PRECONDITION_FAILED,
            "cluster ID mismatch",
        ));
    }
    let body = whole(body).await?;
    let revision = serde_json::from_slice::<Value>(&body)
        .ok()
        .and_then(|value| match value.as_object()?.get("revision") {
            None => Some(0),
            Some(revision) => revision.as_i64(),
        })
        .ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "error unmarshalling request"))?;
    let hash = maintenance::hash_of(member, revision)
        .await
        .map_err(|status| {
            let text = status.message.trim_start_matches("etcdserver: ");
            refuse(StatusCode::BAD_REQUEST, text)
        })?;
    // By hand, because Go's order of fields is not the alphabet's. Zeros are left out, as Go does for these.
    let mut body = format!("{{\"header\":{{\"revision\":{}}}", hash.current_revision);
    for (name, number) in [
        ("hash", i64::from(hash.hash)),
        ("compact_revision", hash.compact_revision),
        ("hash_revision", hash.hash_revision),
    ] {
        if number != 0 {
            body += &format!(",\"{name}\":{number}");
        }
    }
    Ok(with_cluster(member, json(body + "}")))
}

async fn renew<B>(member: &Arc<Member>, body: B) -> Outcome
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let id = pb::LeaseKeepAliveRequest::decode(whole(body).await?)
        .map_err(|_| refuse(StatusCode::BAD_REQUEST, "error unmarshalling request"))?
        .id;
    let reply = up_to_date(member.ask(Question::LeaseRenew { id })).await?;
    match reply {
        Ok(Reply::LeaseRenewed { ttl_s: Some(ttl) }) => {
            let response = pb::LeaseKeepAliveResponse {
                id,
                ttl,
                ..Default::default()
            };
            Ok(protobuf(response.encode_to_vec()))
        }
        Ok(Reply::LeaseRenewed { ttl_s: None }) => {
            Err(refuse(StatusCode::NOT_FOUND, LEASE_NOT_FOUND))
        }
        Ok(_) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, "no renewal")),
        Err(why) => Err(refuse(StatusCode::BAD_REQUEST, lease_refusal(why))),
    }
}

async fn time_to_live<B>(member: &Arc<Member>, body: B) -> Outcome
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let request = LeaseInternalRequest::decode(whole(body).await?)
        .ok()
        .and_then(|request| request.lease_time_to_live_request)
        .ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "error unmarshalling request"))?;
    match up_to_date(forward::time_to_live_here(member, &request)).await? {
        Ok(Some(mut response)) => {
            // etcd's member looks into the header without asking whether there is one.
            response.header = Some(pb::ResponseHeader::default());
            let response = LeaseInternalResponse {
                lease_time_to_live_response: Some(response),
            };
            Ok(protobuf(response.encode_to_vec()))
        }
        Ok(None) => Err(refuse(StatusCode::NOT_FOUND, LEASE_NOT_FOUND)),
        Err(why) => Err(refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            lease_refusal(why),
        )),
    }
}

/// Waits for an answer about a lease for as long as whoever asks will wait.
async fn up_to_date<T>(
    question: impl Future<Output = Result<T, &'static RpcError>>,
) -> Result<Result<T, &'static RpcError>, Box<Answer>> {
    let late = |_| refuse(StatusCode::REQUEST_TIMEOUT, LEASE_TIMEOUT);
    tokio::time::timeout(LEASE_PATIENCE, question)
        .await
        .map_err(late)
}

fn lease_refusal(why: &'static RpcError) -> &'static str {
    match forward::is_not_leading(why) {
        true => error::NOT_PRIMARY.text,
        false => why.text,
    }
}

async fn whole<B>(body: B) -> Result<Bytes, Box<Answer>>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = std::pin::pin!(body);
    let body = Limited::new(body, QUESTION_MAX).collect();
    match tokio::time::timeout(QUESTION_PATIENCE, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(why)) if why.is::<http_body_util::LengthLimitError>() => Err(refuse(
            StatusCode::PAYLOAD_TOO_LARGE,
            "request body too large",
        )),
        Ok(Err(_)) | Err(_) => Err(refuse(StatusCode::BAD_REQUEST, "error reading body")),
    }
}

fn json(body: impl Into<Bytes>) -> Answer {
    with_type("application/json", body)
}

fn protobuf(body: Vec<u8>) -> Answer {
    with_type("application/protobuf", body)
}

fn with_type(kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(OurBody::from(body.into()));
    let kind = HeaderValue::from_static(kind);
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

fn with_cluster(member: &Member, mut answer: Answer) -> Answer {
    let id = HeaderValue::from_str(&id_to_hex(member.cluster_id)).expect("hex is ASCII");
    answer.headers_mut().insert(CLUSTER_ID, id);
    answer
}

/// As Go's `http.Error`: the text, and a newline.
fn refuse(status: StatusCode, text: &str) -> Box<Answer> {
    let mut answer = with_type("text/plain; charset=utf-8", format!("{text}\n"));
    let nosniff = HeaderValue::from_static("nosniff");
    answer
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    *answer.status_mut() = status;
    Box::new(answer)
}

fn not_allowed(method: &Method) -> Box<Answer> {
    let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    let allow = HeaderValue::from_str(method.as_str()).expect("a method is a token");
    answer.headers_mut().insert(header::ALLOW, allow);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[test]
    fn members_are_written_as_go_writes_them() {
        assert_eq!(list_of(&[]), b"null\n");
        let member = |id, is_learner| ClusterMember {
            id,
            peer_urls: Some(vec!["http://a:2380".to_owned()]),
            is_learner,
            ..ClusterMember::default()
        };
        assert_eq!(
            String::from_utf8(list_of(&[member(1, false), member(2, true)])).expect("text"),
            "[{\"id\":1,\"peerURLs\":[\"http://a:2380\"]},{\"id\":2,\"peerURLs\":[\"http://a:2380\"],\"isLearner\":true}]\n"
        );
    }

    #[tokio::test]
    async fn a_question_that_does_not_end_is_refused() {
        let body = Full::new(Bytes::from(vec![0; QUESTION_MAX + 1]));
        let refusal = whole(body).await.expect_err("too large");
        assert_eq!(refusal.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert!(whole(Full::new(Bytes::from_static(b"x"))).await.is_ok());
    }

    #[tokio::test]
    async fn a_member_of_etcd_finds_the_words_it_looks_for() {
        let not_ready = promotion_refusal(&error::LEARNER_NOT_READY);
        assert_eq!(not_ready.status(), StatusCode::PRECONDITION_FAILED);
        let body = not_ready
            .into_body()
            .collect()
            .await
            .expect("a text")
            .to_bytes();
        assert_eq!(
            body,
            "etcdserver: can only promote a learner member which is in sync with leader\n"
        );
        let unknown = promotion_refusal(&error::MEMBER_NOT_FOUND);
        assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    }
}
