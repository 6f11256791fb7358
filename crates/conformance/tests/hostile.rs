//! Hostile connections: garbage, HTTP/2 frames that break the rules or repeat for ever, streams left half open, ten
//! thousand idle connections. After each the server must serve, and its memory must stay within a bound.
//!
//! Frames are written by hand (RFC 9113 §4.1: length 24 bits, type, flags, stream 31 bits).

use conformance::grpc::{self, Grpc, block_on};
use conformance::need;
use conformance::programs;
use conformance::server::Server;
use conformance::suite::{Dice, note};
use proto::etcdserverpb as pb;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// How much one attack may make the server's memory grow, in KiB. Far above noise, far below what an attack wants.
const GROWTH_KIB: u64 = 64 * 1024;
/// What an idle connection may cost, in KiB. Real etcd: 29 to 33.
const IDLE_KIB: f64 = 40.0;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Header block of a put, without Huffman coding or the dynamic table (RFC 7541 §6.2.2).
fn put_headers() -> Vec<u8> {
    let mut block = vec![0x83, 0x86]; // :method POST, :scheme http
    for (name, value) in [
        (":path", grpc::PUT),
        (":authority", "hostile"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.push(0);
        block.push(name.len() as u8);
        block.extend(name.bytes());
        block.push(value.len() as u8);
        block.extend(value.bytes());
    }
    block
}

fn opened() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// What is sent on one connection: a name and the bytes.
fn attacks() -> Vec<(&'static str, Vec<u8>)> {
    let mut dice = Dice(1);
    let mut noise = |size: usize| (0..size).map(|_| dice.roll() as u8).collect::<Vec<u8>>();
    let headers = put_headers();
    let after_open = |frames: &[Vec<u8>]| [opened(), frames.concat()].concat();
    let request = |stream: u32, flags: u8| frame(HEADERS, flags, stream, &headers);
    let bomb = [
        vec![0x83, 0x86],
        vec![0x40, 1, b'x', 0x7f, 0x81, 0x1e],
        vec![b'y'; 4000],
        vec![0xbe; 60_000],
    ]
    .concat();
    vec![
        ("noise", noise(4096)),
        ("noise after the preface", [PREFACE, &noise(4096)].concat()),
        ("noise after the settings", after_open(&[noise(4096)])),
        (
            "a TLS hello on a plain port",
            [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &noise(500)].concat(),
        ),
        (
            "HTTP/1 with a header line of 1 MiB",
            [b"GET /health HTTP/1.1\r\nx: ".to_vec(), vec![b'a'; 1 << 20]].concat(),
        ),
        (
            "HTTP/1 with 100,000 header lines",
            [
                b"GET /health HTTP/1.1\r\n".to_vec(),
                b"a: b\r\n".repeat(100_000),
            ]
            .concat(),
        ),
        (
            "HTTP/1 nonsense",
            b"\r\n\r\n\0\0GET\tnothing\r\n\r\n".to_vec(),
        ),
        ("half a preface", PREFACE[..10].to_vec()),
        (
            "a frame of 16 MiB announced",
            after_open(&[vec![0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1]]),
        ),
        ("data on stream 0", after_open(&[frame(DATA, 0, 0, b"abc")])),
        (
            "data on an idle stream",
            after_open(&[frame(DATA, 0, 7, b"abc")]),
        ),
        (
            "headers on an even stream",
            after_open(&[request(2, END_HEADERS)]),
        ),
        (
            "streams that go backwards",
            after_open(&[request(9, END_HEADERS), request(3, END_HEADERS)]),
        ),
        (
            "continuation without headers",
            after_open(&[frame(CONTINUATION, 0, 1, b"")]),
        ),
        (
            "settings of a wrong length",
            after_open(&[frame(SETTINGS, 0, 0, &[1, 2, 3])]),
        ),
        (
            "settings with a window beyond 2^31",
            after_open(&[frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])]),
        ),
        (
            "window update of 0",
            after_open(&[frame(WINDOW_UPDATE, 0, 0, &[0; 4])]),
        ),
        (
            "window update past the end",
            after_open(&vec![
                frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]);
                3
            ]),
        ),
        (
            "unknown frame types",
            after_open(&vec![frame(0x77, 0xff, 5, &[9; 100]); 1000]),
        ),
        (
            "padding longer than the frame",
            after_open(&[frame(HEADERS, END_HEADERS | 8, 1, &[200, 1, 2])]),
        ),
        (
            "a header block that does not decode",
            after_open(&[frame(HEADERS, END_HEADERS, 1, &[0xff; 40])]),
        ),
        (
            "a header bomb: one large entry named 60,000 times",
            after_open(&bomb_frames(&bomb)),
        ),
        (
            "100,000 pings",
            after_open(&vec![frame(PING, 0, 0, &[7; 8]); 100_000]),
        ),
        (
            "100,000 settings",
            after_open(&vec![frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]); 100_000]),
        ),
        (
            "100,000 empty data frames",
            after_open(
                &[
                    vec![request(1, END_HEADERS)],
                    vec![frame(DATA, 0, 1, b""); 100_000],
                ]
                .concat(),
            ),
        ),
        (
            "20,000 streams opened and reset at once",
            after_open(
                &(0..20_000)
                    .map(|i| rapid_reset(i, &headers))
                    .collect::<Vec<_>>(),
            ),
        ),
        (
            "5,000 streams opened and left",
            after_open(
                &(0..5_000)
                    .map(|i| request(2 * i + 1, END_HEADERS))
                    .collect::<Vec<_>>(),
            ),
        ),
        (
            "headers continued for ever",
            after_open(
                &[
                    vec![frame(HEADERS, 0, 1, &headers)],
                    vec![frame(CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'b']); 50_000],
                ]
                .concat(),
            ),
        ),
        (
            "goaway, then a request",
            after_open(&[
                frame(GOAWAY, 0, 0, &[0; 8]),
                request(1, END_HEADERS | END_STREAM),
            ]),
        ),
        (
            "a message prefix of 4 GiB",
            after_open(&[
                request(1, END_HEADERS),
                frame(DATA, 0, 1, &[0, 255, 255, 255, 255, 1]),
            ]),
        ),
    ]
}

/// A header block cut into frames of 16 KiB.
fn bomb_frames(block: &[u8]) -> Vec<Vec<u8>> {
    let parts: Vec<&[u8]> = block.chunks(16_384).collect();
    let last = parts.len() - 1;
    let flags = |index: usize| if index == last { END_HEADERS } else { 0 };
    parts
        .iter()
        .enumerate()
        .map(|(i, part)| {
            frame(
                if i == 0 { HEADERS } else { CONTINUATION },
                flags(i),
                1,
                part,
            )
        })
        .collect()
}

fn rapid_reset(index: u32, headers: &[u8]) -> Vec<u8> {
    let stream = 2 * index + 1;
    [
        frame(HEADERS, END_HEADERS, stream, headers),
        frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
    ]
    .concat()
}

#[test]
fn a_hostile_connection_harms_nobody_else() {
    let suite = "hostile frames";
    let mut server = need!(
        suite,
        programs::quorate().map(|program| Server::start(&program))
    );
    serves(&server).expect("it serves before anything happened");
    let mut wrong = Vec::new();
    for (name, bytes) in attacks() {
        let before = server.resident_kib().unwrap_or(0);
        attack(server.socket(), &bytes);
        if let Err(error) = serves(&server) {
            wrong.push(format!("{name}: {error}"));
        }
        if !server.is_running() {
            wrong.push(format!("{name}: the server ended"));
            server.kill();
            server
                .start_again()
                .unwrap_or_else(|error| panic!("{error}"));
        }
        let after = server.resident_kib().unwrap_or(0);
        if after > before + GROWTH_KIB {
            wrong.push(format!(
                "{name}: resident memory went from {before} to {after} KiB"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Sends everything, as far as the server takes it, and reads what comes until it closes or is silent for 300 ms.
fn attack(server: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(server).expect("it listens");
    stream.set_nonblocking(true).expect("a socket");
    let mut sent = 0;
    let mut sink = [0; 65_536];
    let mut last = Instant::now();
    let started = last;
    while last.elapsed() < Duration::from_millis(300) && started.elapsed() < Duration::from_secs(10)
    {
        if sent < bytes.len() {
            match stream.write(&bytes[sent..]) {
                Ok(count) => (sent, last) = (sent + count, Instant::now()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
        match stream.read(&mut sink) {
            Ok(0) => return,
            Ok(_) => last = Instant::now(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1))
            }
            Err(_) => return,
        }
    }
}

/// A put and a range of its own connection, within 5 s.
fn serves(server: &Server) -> Result<(), String> {
    block_on(async {
        let work = async {
            let connection = Grpc::connect(server.socket())
                .await
                .map_err(|e| e.to_string())?;
            let put = pb::PutRequest {
                key: "alive".into(),
                value: "yes".into(),
                ..Default::default()
            };
            let _: pb::PutResponse = connection
                .call(grpc::PUT, &put)
                .await
                .map_err(|e| e.to_string())?;
            let range = pb::RangeRequest {
                key: "alive".into(),
                ..Default::default()
            };
            let answer: pb::RangeResponse = connection
                .call(grpc::RANGE, &range)
                .await
                .map_err(|e| e.to_string())?;
            if answer.kvs.len() == 1 {
                Ok(())
            } else {
                Err("the key is not there".to_string())
            }
        };
        tokio::time::timeout(Duration::from_secs(5), work)
            .await
            .unwrap_or_else(|_| Err("no answer in 5 s".into()))
    })
}

#[test]
fn streams_left_half_open_cost_little_and_hold_nobody_up() {
    let suite = "half-open streams";
    let server = need!(
        suite,
        programs::quorate().map(|program| Server::start(&program))
    );
    block_on(async {
        serves_on(&server).await;
        let before = server.resident_kib().expect("it runs");
        let mut left = Vec::new();
        for _ in 0..10 {
            let connection = Grpc::connect(server.socket()).await.expect("a connection");
            for index in 0..90 {
                let path =
                    [grpc::WATCH, grpc::PUT, "/etcdserverpb.Lease/LeaseKeepAlive"][index % 3];
                let mut stream = connection.open(path).await.expect("a stream");
                if index % 2 == 0 {
                    // Half of them say that nothing will come; the streaming ones stay open on the server's side or end.
                    stream.close_sending().expect("closed");
                }
                left.push((connection.clone(), stream));
            }
        }
        serves_on(&server).await;
        let growth = server
            .resident_kib()
            .expect("it runs")
            .saturating_sub(before);
        assert!(growth < 900 * 40, "900 half-open streams cost {growth} KiB");
        drop(left);
        serves_on(&server).await;
    });
}

async fn serves_on(server: &Server) {
    let connection = Grpc::connect(server.socket()).await.expect("a connection");
    let put = pb::PutRequest {
        key: "alive".into(),
        value: "yes".into(),
        ..Default::default()
    };
    let _: pb::PutResponse = connection.call(grpc::PUT, &put).await.expect("it serves");
}

/// Ten thousand connections, every second one with an HTTP/2 handshake: as many as the limit on open files allows.
#[test]
fn ten_thousand_idle_connections_cost_bounded_memory_each() {
    let suite = "idle connections";
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let _ = setrlimit(Resource::Nofile, raised);
    let possible = limit.maximum.unwrap_or(u64::MAX).saturating_sub(500);
    let count = possible.min(10_000);
    let server = need!(
        suite,
        programs::quorate().map(|program| Server::start(&program))
    );
    serves(&server).expect("it serves");
    let before = server.resident_kib().expect("it runs");
    let mut idle = Vec::new();
    for index in 0..count {
        let mut stream = TcpStream::connect(server.socket())
            .unwrap_or_else(|error| panic!("connection {index}: {error}"));
        if index % 2 == 0 {
            stream.write_all(&opened()).expect("the server reads");
        }
        idle.push(stream);
    }
    serves(&server).expect("it serves beside them");
    let after = server.resident_kib().expect("it runs");
    let each = after.saturating_sub(before) as f64 / count as f64;
    note(&format!(
        "hostile: {count} idle connections, {each:.1} KiB each, {after} KiB in all"
    ));
    assert!(
        each < IDLE_KIB,
        "an idle connection costs {each:.1} KiB ({before} -> {after} KiB for {count})"
    );
    drop(idle);
    serves(&server).expect("it serves after them");
}
