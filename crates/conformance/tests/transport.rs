//! What lies below the calls: compressed messages, pings, deadlines. Each claim is put to real etcd as well, if it is here.

use bytes::{BufMut, Bytes, BytesMut};
use conformance::ctl::Ctl;
use conformance::grpc::{self, Grpc, block_on};
use conformance::need;
use conformance::programs;
use conformance::server::{Launch, Server, http_get};
use conformance::suite::note;
use flate2::read::{GzDecoder, GzEncoder};
use h2::client::SendRequest;
use prost::Message;
use proto::etcdserverpb as pb;
use rustix::process::Signal;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Ours, and real etcd where it is.
fn servers(suite: &str) -> Option<Vec<Server>> {
    let ours = match programs::quorate() {
        Ok(program) => Server::start(&program),
        Err(why) => {
            conformance::suite::skip(suite, &why);
            return None;
        }
    };
    let mut all = vec![ours];
    match programs::etcd_reference() {
        Ok(program) => all.push(Server::start(&program)),
        Err(why) => note(&format!("{suite}: not compared with real etcd: {why}")),
    }
    Some(all)
}

/// What came back: the `grpc-encoding`, the messages with their flags, the status and its text.
#[derive(Debug, Default)]
struct Answer {
    encoding: Option<String>,
    messages: Vec<(u8, Bytes)>,
    status: String,
    text: String,
}

async fn connect(server: SocketAddr) -> SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(server)
        .await
        .expect("a connection");
    let (requests, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    requests.ready().await.expect("ready")
}

async fn call(server: SocketAddr, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
    let mut request = http::Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut requests = connect(server).await;
    let request = request.body(()).expect("a request");
    let (response, mut sending) = requests.send_request(request, false).expect("sent");
    // A server that refuses by the headers alone may have closed the stream already.
    let _ = sending.send_data(body, true);
    let answer = tokio::time::timeout(Duration::from_secs(20), read(response));
    answer.await.expect("an answer in time")
}

async fn read(response: h2::client::ResponseFuture) -> Answer {
    let (head, mut body) = response.await.expect("headers").into_parts();
    let text = |headers: &http::HeaderMap, name: &str| {
        let value = headers.get(name);
        value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let mut data = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.expect("data");
        let _ = body.flow_control().release_capacity(chunk.len());
        data.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await.expect("trailers");
    let trailers = trailers.unwrap_or_else(|| head.headers.clone());
    let mut answer = Answer {
        encoding: text(&head.headers, "grpc-encoding"),
        status: text(&trailers, "grpc-status").unwrap_or_default(),
        text: text(&trailers, "grpc-message").unwrap_or_default(),
        ..Default::default()
    };
    while data.len() >= 5 {
        let flag = data[0];
        let length = u32::from_be_bytes([data[1], data[2], data[3], data[4]]) as usize;
        let _ = data.split_to(5);
        answer.messages.push((flag, data.split_to(length).freeze()));
    }
    answer
}

fn framed(flag: u8, message: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(flag);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    framed.freeze()
}

fn gzip(message: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut encoder = GzEncoder::new(message, flate2::Compression::best());
    encoder.read_to_end(&mut packed).expect("memory");
    packed
}

fn gunzip(message: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let read = GzDecoder::new(message).read_to_end(&mut plain);
    read.expect("gzip data");
    plain
}

const GZIP: &[(&str, &str)] = &[("grpc-encoding", "gzip")];

#[test]
fn a_client_that_compresses_is_answered_compressed() {
    let Some(servers) = servers("compressed calls") else {
        return;
    };
    for server in servers {
        block_on(async {
            let put = pb::PutRequest {
                key: "a".into(),
                value: vec![b'v'; 100_000].into(),
                ..Default::default()
            };
            let packed = framed(1, &gzip(&put.encode_to_vec()));
            assert!(packed.len() < 1000);
            let answer = call(server.socket(), grpc::PUT, GZIP, packed).await;
            assert_eq!(answer.status, "0", "{}: {answer:?}", server.name());

            let range = pb::RangeRequest {
                key: "a".into(),
                ..Default::default()
            };
            // A message of such a call may still be plain.
            let plain = framed(0, &range.encode_to_vec());
            let answer = call(server.socket(), grpc::RANGE, GZIP, plain).await;
            assert_eq!(
                answer.encoding.as_deref(),
                Some("gzip"),
                "{}",
                server.name()
            );
            let [(1, message)] = &answer.messages[..] else {
                panic!("{}: {answer:?}", server.name());
            };
            assert!(message.len() < 1000);
            let response = pb::RangeResponse::decode(&gunzip(message)[..]).expect("a response");
            assert_eq!(response.kvs[0].value.len(), 100_000);

            // A stream of many messages.
            let snapshot = framed(1, &gzip(&pb::SnapshotRequest {}.encode_to_vec()));
            let answer = call(server.socket(), grpc::SNAPSHOT, GZIP, snapshot).await;
            assert_eq!(answer.status, "0", "{}", server.name());
            let mut file = Vec::new();
            for (flag, message) in &answer.messages {
                assert_eq!(*flag, 1);
                let message = pb::SnapshotResponse::decode(&gunzip(message)[..]);
                file.extend_from_slice(&message.expect("a response").blob);
            }
            assert_eq!(file.len() % 4096, 32, "pages and a hash: {}", server.name());
        });
    }
}

#[test]
fn what_cannot_be_decompressed_is_refused_with_a_bound() {
    let Some(servers) = servers("bad compressed calls") else {
        return;
    };
    for server in servers {
        block_on(async {
            let socket = server.socket();
            let zeros = gzip(&vec![0; 200 << 20]);
            let refused = call(socket, grpc::PUT, GZIP, framed(1, &zeros)).await;
            assert_eq!(refused.status, "8", "{}: {refused:?}", server.name());
            let no_gzip = call(socket, grpc::PUT, GZIP, framed(1, b"this is no gzip")).await;
            assert_eq!(no_gzip.status, "13", "{}: {no_gzip:?}", server.name());
            let unnamed = call(socket, grpc::PUT, &[], framed(1, &gzip(b""))).await;
            assert_eq!(
                (&*unnamed.status, &*unnamed.text),
                (
                    "13",
                    "grpc: compressed flag set with identity or empty encoding"
                ),
                "{}",
                server.name()
            );
            let snappy = [("grpc-encoding", "snappy")];
            let unknown = call(socket, grpc::PUT, &snappy, framed(1, b"?")).await;
            assert_eq!(
                (&*unknown.status, &*unknown.text),
                (
                    "12",
                    "grpc: Decompressor is not installed for grpc-encoding \"snappy\""
                ),
                "{}",
                server.name()
            );
        });
        if server.name() == "quorate" {
            let resident = server.resident_kib().expect("it runs");
            assert!(
                resident < 150 << 10,
                "{resident} KiB after a bomb of 200 MiB"
            );
        }
    }
}

const PING: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
const GOAWAY: u8 = 7;

/// Preface and settings.
fn begin() -> Vec<u8> {
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..]].concat()
}

/// Pings without a call until the server hangs up. Returns what it said last and how many pings that took.
fn ping_until_sent_away(server: SocketAddr) -> (Option<(u32, Vec<u8>)>, usize) {
    let mut stream = TcpStream::connect(server).expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("an option");
    stream.write_all(&begin()).expect("sent");
    for count in 1..=20 {
        if stream.write_all(PING).is_err() {
            return (None, count);
        }
        // The answer to this ping, or goodbye.
        loop {
            let mut header = [0; 9];
            if stream.read_exact(&mut header).is_err() {
                return (None, count);
            }
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let mut content = vec![0; length];
            stream.read_exact(&mut content).expect("a whole frame");
            match (header[3], header[4]) {
                (GOAWAY, _) => {
                    let code = u32::from_be_bytes([content[4], content[5], content[6], content[7]]);
                    let mut rest = Vec::new();
                    assert_eq!(stream.read_to_end(&mut rest).ok(), Some(0), "it hangs up");
                    return (Some((code, content[8..].to_vec())), count);
                }
                (6, 1) => break,
                _ => {}
            }
        }
    }
    (None, 0)
}

#[test]
fn a_client_that_pings_for_nothing_is_sent_away_at_the_fourth() {
    let Some(servers) = servers("pings") else {
        return;
    };
    for server in servers {
        let (goodbye, count) = ping_until_sent_away(server.socket());
        assert_eq!(
            goodbye,
            Some((11, b"too_many_pings".to_vec())),
            "{}",
            server.name()
        );
        // grpc-go answers the fourth before it says goodbye, so that a fifth may be on its way.
        assert!((4..=5).contains(&count), "{}: {count}", server.name());
    }
}

#[test]
fn a_silent_client_is_pinged_and_hung_up_on_when_it_does_not_answer() {
    let program = need!("server pings", programs::quorate());
    let flags = [
        "--grpc-keepalive-interval=1s",
        "--grpc-keepalive-timeout=1s",
    ];
    let server = Launch::new(&program).flags(flags).start();
    for answers in [true, false] {
        let mut stream = TcpStream::connect(server.socket()).expect("a connection");
        let patience = Some(Duration::from_millis(500));
        stream.set_read_timeout(patience).expect("an option");
        stream.write_all(&begin()).expect("sent");
        let (begun, mut pinged, mut is_open) = (Instant::now(), 0, true);
        while is_open && begun.elapsed() < Duration::from_secs(5) {
            let mut header = [0; 9];
            match stream.read_exact(&mut header) {
                Ok(()) => {
                    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
                    let mut content = vec![0; length];
                    stream.read_exact(&mut content).expect("a whole frame");
                    if (header[3], header[4]) == (6, 0) {
                        pinged += 1;
                        if answers {
                            header[4] = 1;
                            stream
                                .write_all(&[&header[..], &content].concat())
                                .expect("sent");
                        }
                    }
                }
                Err(why) => {
                    is_open = matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                }
            }
        }
        assert!(pinged > 0, "answers: {answers}");
        assert_eq!(is_open, answers, "{:?}", begun.elapsed());
    }
}

#[test]
fn etcdctl_finds_a_server_behind_a_unix_socket_by_its_path() {
    let program = need!("unix sockets", programs::quorate());
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("client.sock");
    let url = format!("unix://{}", socket.display());
    let data_dir = folder.path().join("data").display().to_string();
    let flags = [
        format!("--data-dir={data_dir}"),
        format!("--listen-client-urls={url},unix://localhost:1"),
        "--advertise-client-urls=http://127.0.0.1:1".into(),
    ];
    let mut server = Launch::new(&program).bare().flags(flags).spawn();
    let begun = Instant::now();
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(30) && server.is_running());
        std::thread::sleep(Duration::from_millis(10));
    }
    for peer in ["etcd-3.5.1", "etcd-3.4"] {
        let etcdctl = match programs::peer(peer, "etcdctl") {
            Ok(etcdctl) => etcdctl,
            Err(why) => {
                conformance::suite::skip("etcdctl over unix sockets", &why);
                continue;
            }
        };
        let ctl = Ctl::new(&etcdctl, url.clone());
        for n in 0..3 {
            let put = ctl.run(&["put", "a", &n.to_string()]);
            assert_eq!(put.code, 0, "{peer}: {put:?}");
        }
        let got = ctl.run(&["get", "a"]);
        assert_eq!(got.out, "a\n2\n", "{peer}: {got:?}");
    }
    server.stop(Signal::TERM).expect("stopped");
    assert!(!socket.exists());
}

#[test]
fn a_deadline_is_kept_and_a_bad_one_refused() {
    let Some(servers) = servers("deadlines") else {
        return;
    };
    let mut words = None;
    for server in servers {
        block_on(async {
            let socket = server.socket();
            // The request never comes, so that only the deadline can end the call.
            let begun = Instant::now();
            let mut requests = connect(socket).await;
            let request = http::Request::post(format!("http://localhost{}", grpc::WATCH))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header("grpc-timeout", "300m")
                .body(())
                .expect("a request");
            let (response, _sending) = requests.send_request(request, false).expect("sent");
            let answer = async {
                let (head, mut body) = response.await?.into_parts();
                assert!(body.data().await.transpose()?.is_none());
                // A call that ends before its first message may have headers and trailers in one.
                let trailers = body.trailers().await?;
                Ok::<_, h2::Error>(trailers.unwrap_or(head.headers))
            };
            let answer = tokio::time::timeout(Duration::from_secs(10), answer).await;
            let took = begun.elapsed();
            assert!(took >= Duration::from_millis(250), "{took:?}");
            match answer.expect("in time") {
                Ok(trailers) => {
                    assert_eq!(trailers["grpc-status"], "4", "{}", server.name());
                }
                // grpc-go resets the stream if its timer is quicker than the handler.
                Err(reset) => assert!(reset.is_reset(), "{}: {reset}", server.name()),
            }
            let mut texts = Vec::new();
            for bad in ["", "5", "123456789S", "5x", "-1S", "1.5S"] {
                let range = framed(0, &pb::RangeRequest::default().encode_to_vec());
                let headers = [("grpc-timeout", bad)];
                let refused = call(socket, grpc::RANGE, &headers, range).await;
                assert_eq!(refused.status, "13", "{}: {bad:?}", server.name());
                texts.push((bad, refused.text));
            }
            let known = words.get_or_insert_with(|| texts.clone());
            assert_eq!(&texts, known, "{}", server.name());
        });
    }
}

/// What a request came to: HTTP status, gRPC status, its text.
type Came = (u16, Option<String>, Option<String>);

/// Sends a request with an empty message and reads the answer to its end.
async fn came_to(server: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Came {
    let mut request = http::Request::builder()
        .method(method)
        .uri(format!("http://localhost{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut requests = connect(server).await;
    let request = request.body(()).expect("a request");
    let (response, mut sending) = requests.send_request(request, false).expect("sent");
    let _ = sending.send_data(framed(0, b""), true);
    let answer = tokio::time::timeout(Duration::from_secs(5), response).await;
    let response = match answer {
        Err(_) => return (0, None, Some("no answer".into())),
        Ok(Ok(response)) => response,
        Ok(Err(reset)) => return (0, None, Some(format!("{:?}", reset.reason()))),
    };
    let (head, mut body) = response.into_parts();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.expect("data");
        let _ = body.flow_control().release_capacity(chunk.len());
    }
    let trailers = body.trailers().await.expect("trailers").unwrap_or_default();
    let text = |name: &str| {
        let value = trailers.get(name).or_else(|| head.headers.get(name));
        value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    (
        head.status.as_u16(),
        text("grpc-status"),
        text("grpc-message"),
    )
}

/// What it is, its path, its headers.
type OddRequest<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>);

#[test]
fn odd_requests_come_to_the_same_as_with_real_etcd() {
    let suite = "odd requests";
    let ours = Server::start(&need!(suite, programs::quorate()));
    let theirs = Server::start(&need!(suite, programs::etcd_reference()));
    let grpc = ("content-type", "application/grpc");
    let large = "x".repeat(12 << 10);
    let large = [grpc, ("te", "trailers"), ("x-large", large.as_str())];
    let mut cases: Vec<OddRequest> = Vec::new();
    for kind in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc+json",
        "application/grpc;charset=utf-8",
        "application/grpcx",
        "application/json",
        "text/html",
        "",
    ] {
        let headers = vec![("content-type", kind), ("te", "trailers")];
        cases.push(("POST", grpc::RANGE, headers));
    }
    cases.push(("POST", grpc::RANGE, vec![("te", "trailers")]));
    cases.push(("POST", grpc::RANGE, vec![grpc]));
    cases.push(("POST", grpc::RANGE, large.into()));
    for path in [
        "/",
        "/x",
        "//",
        "/etcdserverpb.KV/",
        "/etcdserverpb.KV",
        "/etcdserverpb.KV/range",
        "/etcdserverpb.KV/Range/",
        "/no.such.Service/Range",
        "/a/b/c",
    ] {
        cases.push(("POST", path, vec![grpc, ("te", "trailers")]));
    }
    for method in ["GET", "PUT"] {
        cases.push((method, grpc::RANGE, vec![grpc, ("te", "trailers")]));
    }
    let mut wrong = Vec::new();
    block_on(async {
        for (method, path, headers) in &cases {
            let our = came_to(ours.socket(), method, path, headers).await;
            let their = came_to(theirs.socket(), method, path, headers).await;
            if our != their {
                let headers = &headers[..headers.len().min(2)];
                wrong.push(format!(
                    "{method} {path} {headers:?}: {our:?}, not {their:?}"
                ));
            }
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The value of a metric without labels.
fn metric(server: &Server, name: &str) -> f64 {
    let page = http_get(server.socket(), "/metrics").expect("a page").body;
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|rest| rest.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {name}"))
}

/// Waits until a metric is what it should be.
fn wait_for(server: &Server, name: &str, value: f64) {
    let begun = Instant::now();
    while metric(server, name) != value {
        let is = metric(server, name);
        assert!(begun.elapsed() < Duration::from_secs(20), "{name} is {is}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_stream_that_is_reset_takes_its_thousands_of_watchers_with_it() {
    const WATCHERS: usize = 5_000;
    let watchers = "etcd_debugging_mvcc_watcher_total";
    let server = Server::start(&need!("many watchers", programs::quorate()));
    wait_for(&server, watchers, 0.0);
    let before = server.resident_kib().expect("it runs");
    block_on(async {
        let connection = Grpc::connect(server.socket()).await.expect("a connection");
        let mut stream = connection.open(grpc::WATCH).await.expect("a stream");
        for n in 0..WATCHERS {
            let create = pb::WatchCreateRequest {
                key: format!("k{}", n % 100).into(),
                ..Default::default()
            };
            let create = pb::watch_request::RequestUnion::CreateRequest(create);
            let request = pb::WatchRequest {
                request_union: Some(create),
            };
            stream.send(&request).await.expect("sent");
            let created: Option<pb::WatchResponse> = stream.next().await.expect("an answer");
            assert!(created.is_some_and(|created| created.created));
        }
        wait_for(&server, watchers, WATCHERS as f64);
        let put = pb::PutRequest {
            key: "k7".into(),
            ..Default::default()
        };
        let _: pb::PutResponse = connection.call(grpc::PUT, &put).await.expect("put");
        // One in a hundred watches the key.
        for _ in 0..WATCHERS / 100 {
            let event: Option<pb::WatchResponse> = stream.next().await.expect("an event");
            assert_eq!(event.map(|event| event.events.len()), Some(1));
        }
        // Dropped in the middle: RST_STREAM.
        drop(stream);
        wait_for(&server, watchers, 0.0);
        let _: pb::PutResponse = connection.call(grpc::PUT, &put).await.expect("put");
    });
    let grown = server
        .resident_kib()
        .expect("it runs")
        .saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB for {WATCHERS} watchers");
}

#[test]
fn calls_beyond_the_bound_of_long_ones_are_refused_and_reset_ones_make_room() {
    let server = Server::start(&need!("many snapshots", programs::quorate()));
    block_on(async {
        let connection = Grpc::connect(server.socket()).await.expect("a connection");
        // More than the windows of a connection hold, so that a snapshot that nobody reads waits.
        for n in 0..40 {
            let put = pb::PutRequest {
                key: format!("k{n}").into(),
                value: vec![n; 1 << 20].into(),
                ..Default::default()
            };
            let _: pb::PutResponse = connection.call(grpc::PUT, &put).await.expect("put");
        }
        let mut waiting = Vec::new();
        for _ in 0..16 {
            let mut stream = connection.open(grpc::SNAPSHOT).await.expect("a stream");
            stream.send(&pb::SnapshotRequest {}).await.expect("sent");
            stream.close_sending().expect("closed");
            waiting.push(stream);
        }
        let refused = {
            let mut stream = connection.open(grpc::SNAPSHOT).await.expect("a stream");
            stream.send(&pb::SnapshotRequest {}).await.expect("sent");
            stream.next_bytes().await.expect_err("one too many")
        };
        assert_eq!(refused.code(), grpc::code::RESOURCE_EXHAUSTED);
        assert_eq!(refused.message(), "etcdserver: too many requests");
        // Reads go on beside them.
        let range = pb::RangeRequest {
            key: "k1".into(),
            keys_only: true,
            ..Default::default()
        };
        let _: pb::RangeResponse = connection.call(grpc::RANGE, &range).await.expect("a range");
        drop(waiting);
        let begun = Instant::now();
        loop {
            let mut stream = connection.open(grpc::SNAPSHOT).await.expect("a stream");
            stream.send(&pb::SnapshotRequest {}).await.expect("sent");
            match stream.next_bytes().await {
                Ok(first) => {
                    assert!(first.is_some());
                    break;
                }
                Err(refused) => assert!(
                    begun.elapsed() < Duration::from_secs(20),
                    "{refused}: no place is given back"
                ),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}
