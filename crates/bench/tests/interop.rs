//! The thin HTTP/2 client against a server built on hyper, whose HPACK and flow control are not ours: real sockets on a free port, small sizes.

use bench::engine::{self, Client, Moment, Plan, Target, Until};
use bench::load::keys::Keyspace;
use bench::load::{Load, Op, Unary, messages};
use bench::transport::http2::Method;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use proto::etcdserverpb as pb;
use std::convert::Infallible;
use std::time::Duration;

/// Starts a server that allows `streams` streams per connection, and returns its address. It answers a Put with the size of its value as revision, a Range
/// with as many bytes as the key says, anything else with UNIMPLEMENTED. It lives as long as the test's process.
fn server(streams: u32) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                http.max_concurrent_streams(streams);
                tokio::spawn(http.serve_connection(TokioIo::new(socket), service_fn(answer)));
            }
        });
    });
    address
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let path = request.uri().path().to_owned();
    assert_eq!(request.headers()["content-type"], "application/grpc");
    assert_eq!(request.headers()["te"], "trailers");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let message = body.slice(5..);
    let (status, reply) = match path.rsplit('/').next() {
        Some("Put") => {
            let put = pb::PutRequest::decode(message).unwrap();
            let header = pb::ResponseHeader {
                revision: put.value.len() as i64,
                ..Default::default()
            };
            (
                "0",
                pb::PutResponse {
                    header: Some(header),
                    prev_kv: None,
                }
                .encode_to_vec(),
            )
        }
        Some("Range") => {
            let size = String::from_utf8_lossy(&pb::RangeRequest::decode(message).unwrap().key)
                .parse()
                .unwrap_or(0);
            let kv = proto::mvccpb::KeyValue {
                value: vec![7; size].into(),
                ..Default::default()
            };
            (
                "0",
                pb::RangeResponse {
                    kvs: vec![kv],
                    ..Default::default()
                }
                .encode_to_vec(),
            )
        }
        _ => ("12", Vec::new()),
    };
    let mut framed = vec![0];
    framed.extend_from_slice(&(reply.len() as u32).to_be_bytes());
    framed.extend_from_slice(&reply);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    trailers.insert("grpc-message", "not here".parse().unwrap());
    let body = Full::new(Bytes::from(framed)).with_trailers(async move { Some(Ok(trailers)) });
    Ok(Response::builder()
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap())
}

fn plan(address: &str, loads: Vec<Box<dyn Load>>, value_bytes: usize) -> Plan {
    Plan {
        target: Target {
            endpoints: vec![address.to_owned()],
            token: None,
        },
        loads,
        open: Vec::new(),
        rate: None,
        threads: 2,
        until: Until::Done,
        keys: Keyspace {
            count: 3_000,
            key_bytes: 24,
        },
        value_bytes,
        seed: 1,
        mod_revisions: Vec::new(),
        verify: false,
        drain: bench::engine::DRAIN,
    }
}

#[test]
fn bodies_larger_than_every_window_pass_in_both_directions() {
    let mut client = Client::connect(&server(200), None, Duration::from_secs(20)).unwrap();
    for size in [0, 1, 16_379, 16_380, 65_530, 1_000_000] {
        let reply = client
            .call(Method::Put, |o| messages::put(o, b"k", &vec![1; size]))
            .unwrap();
        assert_eq!(messages::header_revision(&reply), size as i64);
    }
    for size in ["1", "70000", "9000000"] {
        let reply = client
            .call(Method::Range, |o| {
                messages::range(o, size.as_bytes(), &[], false)
            })
            .unwrap();
        assert!(reply.len() > size.parse::<usize>().unwrap());
        assert_eq!(messages::range_kvs(&reply), 1);
    }
}

#[test]
fn a_status_other_than_ok_is_an_error_with_its_message() {
    let mut client = Client::connect(&server(200), None, Duration::from_secs(20)).unwrap();
    for _ in 0..3 {
        let error = client
            .call(Method::Compact, |o| messages::compact(o, 1, false))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "Compact: UNIMPLEMENTED: not here");
    }
}

#[test]
fn more_clients_than_streams_are_all_served() {
    let address = server(3);
    let loads = (0..4)
        .map(|i| Box::new(Unary::new(Op::PutEach(i * 500..(i + 1) * 500), 10)) as Box<dyn Load>)
        .collect();
    let mut moments = Vec::new();
    let outcomes =
        engine::run(plan(&address, loads, 2_000), |moment| moments.push(moment)).unwrap();
    assert_eq!(outcomes.stats.ops, 2_000);
    assert!(
        outcomes.stats.errors.is_empty(),
        "{:?}",
        outcomes.stats.errors
    );
    assert_eq!(outcomes.stats.latency.len(), 2_000);
    assert_eq!(moments, [Moment::Begin, Moment::End]);
}

#[test]
fn an_open_loop_keeps_its_rate_and_answers_every_request() {
    let address = server(200);
    let loads = (0..3)
        .map(|_| Box::new(Unary::new(Op::Put, 0)) as Box<dyn Load>)
        .collect();
    let until = Until::Elapsed {
        warmup: Duration::ZERO,
        measure: Duration::from_millis(500),
    };
    let plan = Plan {
        open: vec![0, 1, 2],
        rate: Some(400.0),
        until,
        ..plan(&address, loads, 100)
    };
    let outcomes = engine::run(plan, |_| {}).unwrap();
    assert_eq!(
        outcomes.stats.latency.len(),
        200,
        "every request of the schedule has its latency"
    );
    assert!(
        outcomes.stats.errors.is_empty(),
        "{:?}",
        outcomes.stats.errors
    );
}

#[test]
fn an_answer_without_the_keys_that_are_there_is_an_error() {
    let address = server(200);
    let load = Unary::new(
        Op::Get {
            serializable: false,
        },
        1,
    );
    let until = Until::Elapsed {
        warmup: Duration::ZERO,
        measure: Duration::from_millis(50),
    };
    // The server takes a key for a size; ours is none, so it answers with an empty value and no key.
    let plan = Plan {
        verify: true,
        drain: bench::engine::DRAIN,
        until,
        ..plan(&address, vec![Box::new(load)], 100)
    };
    let outcomes = engine::run(plan, |_| {}).unwrap();
    assert_eq!(outcomes.stats.ops, 0);
    assert!(outcomes.stats.errors["wrong answer"].count > 0);
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let loads = vec![Box::new(Unary::new(Op::Put, 1)) as Box<dyn Load>];
    let error = format!(
        "{:#}",
        engine::run(plan(&address, loads, 10), |_| {})
            .err()
            .unwrap()
    );
    assert!(
        error.contains(&format!("cannot connect to {address}")),
        "{error}"
    );
}
