//! The peer port: what strangers, liars and slow ones are told, and that members of both kinds form one cluster.
//!
//! A raw client speaks to real etcd and to ours; statuses, texts and the headers that peers heed must be the same. Source of the
//! protocol: upstream `server/etcdserver/api/rafthttp`.

use conformance::grpc::{Grpc, STATUS, block_on};
use conformance::need;
use conformance::programs;
use conformance::server::Server;
use conformance::suite::note;
use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::raftpb::{Message, MessageType};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Nobody has this id.
const STRANGER: u64 = 0x99;
/// Headers of an answer that peers heed.
const HEEDED: [&str; 3] = ["x-etcd-cluster-id", "allow", "content-type"];

/// A member and what it is called.
struct Target {
    server: Server,
    address: SocketAddr,
    cluster: String,
    id: u64,
}

impl Target {
    fn start(program: &programs::Program) -> Target {
        let server = Server::start(program);
        let address = server.peer_address().parse().expect("an address");
        let socket = server.socket();
        let status: pb::StatusResponse = block_on(async {
            let client = Grpc::connect(socket).await.expect("connected");
            let asked = client.call(STATUS, &pb::StatusRequest::default()).await;
            asked.expect("a status")
        });
        let header = status.header.expect("a header");
        Target {
            server,
            address,
            cluster: format!("{:x}", header.cluster_id),
            id: header.member_id,
        }
    }

    /// What a member that is none sends with every request, as far as it is true.
    fn headers(&self) -> Vec<(&'static str, String)> {
        vec![
            ("X-Server-From", format!("{STRANGER:x}")),
            ("X-Server-Version", "3.5.0".into()),
            ("X-Min-Cluster-Version", "3.0.0".into()),
            ("X-Etcd-Cluster-ID", self.cluster.clone()),
            ("X-Raft-To", format!("{:x}", self.id)),
        ]
    }

    /// A message from a stranger to this member.
    fn message(&self, kind: MessageType) -> Message {
        Message {
            r#type: Some(kind as i32),
            to: Some(self.id),
            from: Some(STRANGER),
            term: Some(1),
            ..Default::default()
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect_timeout(&self.address, PATIENCE).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    /// The answer to one request: status, the headers that peers heed, and the body, with this member's ids made the same for all.
    fn ask(&self, ask: &Ask) -> String {
        let mut stream = self.connect();
        let mut headers = self.headers();
        for (name, value) in &ask.changed {
            headers.retain(|(known, _)| known != name);
            if let Some(value) = value {
                headers.push((name, value.clone()));
            }
        }
        let mut request = format!("{} {} HTTP/1.1\r\nHost: peer\r\n", ask.method, ask.path);
        for (name, value) in &headers {
            request += &format!("{name}: {value}\r\n");
        }
        let body = (ask.body)(self);
        request += &format!(
            "Connection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let sent = stream.write_all(&[request.as_bytes(), &body].concat());
        let mut answer = Vec::new();
        if sent.is_err() || stream.read_to_end(&mut answer).is_err() {
            return "no answer".into();
        }
        self.normalised(&answer)
    }

    fn normalised(&self, answer: &[u8]) -> String {
        let text = String::from_utf8_lossy(answer).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            return "no answer".into();
        };
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let mut headers: Vec<String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .filter(|(name, _)| HEEDED.contains(&name.as_str()))
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        headers.sort();
        let shown = format!("{} {headers:?} {body:?}", status.unwrap_or("?"));
        shown.replace(&self.cluster, "<cluster>")
    }
}

/// A request, and what is to be changed in the headers of an honest one.
struct Ask {
    name: &'static str,
    method: &'static str,
    path: &'static str,
    changed: Vec<(&'static str, Option<String>)>,
    body: fn(&Target) -> Vec<u8>,
}

fn ask(name: &'static str, method: &'static str, path: &'static str) -> Ask {
    Ask {
        name,
        method,
        path,
        changed: Vec::new(),
        body: |_| Vec::new(),
    }
}

impl Ask {
    fn with(mut self, name: &'static str, value: &str) -> Ask {
        self.changed.push((name, Some(value.into())));
        self
    }

    fn without(mut self, name: &'static str) -> Ask {
        self.changed.push((name, None));
        self
    }

    fn body(mut self, body: fn(&Target) -> Vec<u8>) -> Ask {
        self.body = body;
        self
    }
}

/// A message behind its size.
fn framed(message: &Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    [&(bytes.len() as u64).to_be_bytes()[..], &bytes].concat()
}

fn asks() -> Vec<Ask> {
    const MESSAGE: &str = "/raft/stream/message/99";
    const MSGAPP: &str = "/raft/stream/msgapp/99";
    let mut asks = vec![
        ask("message: another method", "PUT", "/raft"),
        ask("message: garbage", "POST", "/raft").body(|_| b"\xff\xff\xff".to_vec()),
        ask("message: cut off inside", "POST", "/raft").body(|to| {
            let mut bytes = to.message(MessageType::MsgVote).encode_to_vec();
            bytes.pop();
            bytes
        }),
        ask("message: an old vote of a stranger", "POST", "/raft")
            .body(|to| to.message(MessageType::MsgVote).encode_to_vec()),
        ask("snapshot: another method", "GET", "/raft/snapshot"),
        ask("snapshot: nothing", "POST", "/raft/snapshot"),
        ask("snapshot: half a size", "POST", "/raft/snapshot").body(|_| vec![0; 4]),
        ask("snapshot: half a message", "POST", "/raft/snapshot")
            .body(|_| vec![0, 0, 0, 0, 0, 0, 0, 9, 8]),
        ask("snapshot: beyond every limit", "POST", "/raft/snapshot").body(|_| vec![0xff; 64]),
        ask("snapshot: not one", "POST", "/raft/snapshot")
            .body(|to| framed(&to.message(MessageType::MsgApp))),
        ask("stream: of a stranger", "GET", MESSAGE),
        ask("stream: of a stranger", "GET", MSGAPP),
        ask("stream: no such kind", "GET", "/raft/stream/other/99"),
        ask("stream: no id", "GET", "/raft/stream/message/xyz"),
        ask("stream: another method", "POST", MESSAGE),
        ask("no such path below raft", "GET", "/raft/other"),
        ask("no such path", "GET", "/other"),
    ];
    for (name, method, path) in [
        ("message", "POST", "/raft"),
        ("snapshot", "POST", "/raft/snapshot"),
        ("stream", "GET", MESSAGE),
    ] {
        asks.extend([
            ask(name, method, path).with("X-Etcd-Cluster-ID", "abc"),
            ask(name, method, path).without("X-Etcd-Cluster-ID"),
            ask(name, method, path).with("X-Server-Version", "2.3.0"),
            ask(name, method, path).without("X-Server-Version"),
            ask(name, method, path).with("X-Min-Cluster-Version", "9.9.0"),
        ]);
    }
    asks
}

#[test]
fn strangers_and_liars_are_told_what_etcd_tells_them() {
    let etcd = need!("peers", programs::etcd("etcd-late"));
    let quorate = need!("peers", programs::quorate());
    let targets = [etcd, quorate].map(|program| Target::start(&program));
    let asks = asks();
    // etcd takes its time to close a connection, so all are open together.
    let answers: Vec<[String; 2]> = std::thread::scope(|scope| {
        let asking: Vec<_> = asks
            .iter()
            .map(|ask| scope.spawn(|| targets.each_ref().map(|target| target.ask(ask))))
            .collect();
        let answers = asking.into_iter();
        answers.map(|asked| asked.join().expect("asked")).collect()
    });
    let mut different = Vec::new();
    for (ask, [theirs, ours]) in asks.iter().zip(answers) {
        if theirs != ours {
            let what = format!("{} {} {:?}", ask.method, ask.path, ask.changed);
            let name = ask.name;
            different.push(format!(
                "{name}: {what}\n  etcd:    {theirs}\n  quorate: {ours}"
            ));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// etcd means to say so, too, and its members understand it; what leaves it is a 500, because the type of its error misses the interface that
/// it is asked for. Source: upstream `EtcdServer.Process`, `writerToResponse`.
#[test]
fn a_message_for_another_member_is_forbidden() {
    let quorate = need!("peers", programs::quorate());
    let target = Target::start(&quorate);
    let message = ask("for somebody else", "POST", "/raft").body(|to| {
        let mut message = to.message(MessageType::MsgVote);
        message.to = Some(to.id + 1);
        message.encode_to_vec()
    });
    let answer = target.ask(&message);
    assert!(answer.starts_with("403"), "{answer}");
    assert!(answer.contains("cannot process message to mismatch member"));
}

/// A connection that sends slowly, or stops in the middle, is closed in bounded time, and none of them is in anybody's way.
#[test]
fn slow_and_broken_connections_are_closed_and_harm_nobody() {
    let quorate = need!("peers", programs::quorate());
    let target = Target::start(&quorate);
    let honest: String = target
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let head = |path: &str, length: u64| {
        format!("POST {path} HTTP/1.1\r\nHost: p\r\n{honest}Content-Length: {length}\r\n\r\n")
    };
    let half_a_message = head("/raft", 1000) + "half";
    let half_a_snapshot = head("/raft/snapshot", 1 << 30);
    let mut half_a_snapshot = half_a_snapshot.into_bytes();
    half_a_snapshot.extend(framed(&Message {
        snapshot: Some(Default::default()),
        ..target.message(MessageType::MsgSnap)
    }));
    let attacks: [(&str, Vec<u8>); 5] = [
        ("nothing", Vec::new()),
        ("half a header", b"GET /raft/stream/message/99 HTT".to_vec()),
        ("half a message", half_a_message.into_bytes()),
        ("half a snapshot", half_a_snapshot),
        ("no HTTP", vec![0x16; 4096]),
    ];
    let before = target.server.resident_kib().expect("it runs");
    let began = Instant::now();
    let mut open: Vec<(&str, TcpStream)> = Vec::new();
    for _ in 0..40 {
        for (name, bytes) in &attacks {
            let mut stream = target.connect();
            let _ = stream.write_all(bytes);
            open.push((name, stream));
        }
    }
    let mut slow = target.connect();
    // One byte now and then, for ever: no single read is late, the header as a whole is.
    let closed_after = (0..60).find(|_| {
        std::thread::sleep(Duration::from_millis(500));
        slow.write_all(b"G").is_err() || is_closed(&mut slow)
    });
    assert!(closed_after.is_some(), "a header may not take for ever");
    for (name, stream) in &mut open {
        let left = PATIENCE.saturating_sub(began.elapsed());
        let left = left.max(Duration::from_secs(1));
        stream.set_read_timeout(Some(left)).expect("a timeout");
        let ended = stream.read_to_end(&mut Vec::new());
        let is_open = ended
            .is_err_and(|why| matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
        assert!(!is_open, "{name}: still open after {:?}", began.elapsed());
    }
    let grown = target.server.resident_kib().expect("it runs");
    let grown = grown.saturating_sub(before);
    note(&format!("peers: slow connections cost {grown} KiB"));
    assert!(grown < 64 * 1024, "{grown} KiB more");
    let fine = ask("after it all", "GET", "/raft/stream/message/99");
    assert!(target.ask(&fine).starts_with("404"), "it serves on");
}

fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).expect("non-blocking");
    let read = stream.read(&mut [0; 256]);
    stream.set_nonblocking(false).expect("blocking");
    match read {
        Ok(count) => count == 0,
        Err(why) => why.kind() != ErrorKind::WouldBlock,
    }
}

#[test]
fn a_probe_is_answered_as_etcd_answers_it() {
    let etcd = need!("peers", programs::etcd("etcd-late"));
    let quorate = need!("peers", programs::quorate());
    for program in [etcd, quorate] {
        let target = Target::start(&program);
        let answer = target.ask(&ask("probe", "GET", "/raft/probing"));
        let start =
            "200 [\"content-type=text/plain; charset=utf-8\"] \"{\\\"OK\\\":true,\\\"Now\\\":\\\"2";
        assert!(answer.starts_with(start), "{}: {answer}", program.name);
    }
}
