//! Clusters of several members, ours and real etcd's side by side: who may come, who must go, who leads, and what any member answers for
//! the others.

mod several;

use conformance::grpc::{self, Failure, Grpc};
use conformance::need;
use conformance::programs::{self, Program};
use conformance::server::{http, http_get};
use conformance::suite::note;
use proto::etcdserverpb as pb;
use rustix::process::Signal;
use several::Several;
use std::time::{Duration, Instant};

const SUITE: &str = "cluster";
/// How long members must have been connected before a change of them is thought safe, and a little.
const SETTLED: Duration = Duration::from_millis(5_500);

/// What was asked, and what came back, without what differs from run to run.
struct Transcript<'a> {
    several: &'a Several,
    ctl: &'a Program,
    lines: Vec<String>,
    /// Ids and what they are called instead.
    names: Vec<(String, String)>,
}

impl Transcript<'_> {
    /// Asks through one member.
    fn ask(&mut self, member: usize, command: &str) {
        let words: Vec<&str> = command.split(' ').collect();
        let answer = self.several.ctl(self.ctl, member).run(&words);
        // Retries are told there as well, with their times.
        let errors = answer.err.lines().filter(|line| line.starts_with("Error:"));
        let mut lines: Vec<String> = answer
            .out
            .lines()
            .chain(errors)
            .map(|line| self.plain(line))
            .collect();
        if command.starts_with("member list") {
            lines.sort();
        }
        // The first variable names what the operator called the member, the second lists all by id.
        lines.retain(|line| !line.starts_with("ETCD_INITIAL_CLUSTER="));
        let name = &self.several.members[member].name;
        self.lines.push(self.plain(&format!("{name}> {command}")));
        self.lines.extend(lines);
    }

    /// From now on this id has a name.
    fn name(&mut self, id: &str, name: &str) {
        self.names.push((id.to_owned(), format!("<{name}>")));
    }

    fn plain(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for (index, one) in self.several.members.iter().enumerate() {
            line = line.replace(&format!(", m{index}, "), &format!(", {}, ", one.name));
            line = line.replace(&one.peer_url(), &format!("<{}-peer>", one.name));
            line = line.replace(&one.socket().to_string(), &format!("<{}>", one.name));
        }
        for (id, name) in &self.names {
            line = line.replace(id, name);
        }
        conformance::ctl::normalised(&line, &[])
            .trim_end()
            .to_owned()
    }
}

/// The id of a member by its place in `member list`, in hex.
fn id_of(several: &Several, ctl: &Program, asked: usize, member: usize) -> String {
    let list = several.insist(ctl, asked, &["member", "list"]).out;
    let url = several.members[member].peer_url();
    let line = list.lines().find(|line| line.contains(&url));
    let line = line.unwrap_or_else(|| panic!("{url} is not in {list}"));
    line.split(", ").next().expect("an id").to_owned()
}

/// A cluster of three gets a learner, makes a voter of it, and loses members again.
fn come_and_go(program: &Program, ctl: &Program) -> Vec<String> {
    let mut several = Several::new(program, 3);
    several.found(&[]);
    let leader = several.leader(ctl, 0);
    let (follower, other) = match leader {
        0 => (1, 2),
        1 => (0, 2),
        _ => (0, 1),
    };
    std::thread::sleep(SETTLED);
    // From here on a name says what a member is, not where it is.
    several.members[leader].name = "leader".into();
    several.members[follower].name = "follower".into();
    several.members[other].name = "other".into();
    let url = several.members[leader].peer_url();
    let learner = several.add();
    let learner_url = several.members[learner].peer_url();
    several.members[learner].name = "m3".into();
    let cluster = format!("{},m3={learner_url}", founders(&several));
    let add = [
        "member",
        "add",
        "m3",
        "--learner",
        "--peer-urls",
        &learner_url,
    ];
    let added = several.insist(ctl, follower, &add);
    assert_eq!(added.code, 0);
    let ids: Vec<_> = (0..4).map(|m| id_of(&several, ctl, leader, m)).collect();
    let mut script = Transcript {
        several: &several,
        ctl,
        lines: Vec::new(),
        names: Vec::new(),
    };
    for (member, name) in [
        (leader, "leader"),
        (follower, "follower"),
        (other, "other"),
        (learner, "learner"),
    ] {
        script.name(&ids[member], name);
    }
    script.ask(follower, "member list");
    script.ask(leader, &format!("member add x --peer-urls {url}"));
    script.ask(leader, "member add x --peer-urls http://127.0.0.1");
    script.ask(
        follower,
        "member add x --learner --peer-urls http://127.0.0.1:1",
    );
    // It has not even started.
    script.ask(leader, &format!("member promote {}", ids[learner]));
    script.ask(follower, &format!("member promote {}", ids[learner]));
    script.ask(follower, &format!("member promote {}", ids[other]));
    script.ask(follower, "member promote abc");
    script.ask(follower, "member remove abc");
    script.ask(follower, "member update abc --peer-urls http://127.0.0.1:1");
    script.ask(leader, &format!("move-leader {}", ids[learner]));
    script.ask(leader, "move-leader abc");
    script.ask(follower, &format!("move-leader {}", ids[other]));
    let (mut lines, names) = (script.lines, script.names);
    several.start(
        learner,
        &[
            "--initial-cluster",
            &cluster,
            "--initial-cluster-state",
            "existing",
        ],
    );
    let until = Instant::now() + several::PATIENCE;
    while several
        .ctl(ctl, learner)
        .run(&["get", "k", "--consistency=s"])
        .code
        != 0
    {
        assert!(Instant::now() < until, "{}", several.tail(learner));
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut script = Transcript {
        several: &several,
        ctl,
        lines: Vec::new(),
        names,
    };
    // A learner answers what does not need the others.
    script.ask(learner, "get k");
    script.ask(learner, "put k v");
    script.ask(learner, "lease list");
    script.ask(learner, "member list");
    script.ask(learner, "alarm list");
    let promote = ["member", "promote", &ids[learner]];
    let promoted = several.insist(ctl, follower, &promote);
    script.lines.push(script.plain(promoted.out.trim()));
    script.ask(leader, &format!("member promote {}", ids[learner]));
    script.ask(learner, "put k v");
    script.ask(learner, "get k");
    script.ask(other, "member list");
    script.ask(
        other,
        &format!("member update {} --peer-urls {learner_url}", ids[learner]),
    );
    script.ask(
        other,
        &format!("member update {} --peer-urls {url}", ids[learner]),
    );
    script.ask(follower, &format!("member remove {}", ids[learner]));
    script.ask(follower, &format!("member remove {}", ids[learner]));
    lines.extend(std::mem::take(&mut script.lines));
    let code = several.wait_end(learner);
    lines.push(format!("the removed member exits with {code}"));
    // Its directory is of no use any more.
    several.start(learner, &["--initial-cluster", &cluster]);
    let code = several.wait_end(learner);
    assert!(
        several
            .log(learner)
            .contains("the member has been permanently removed from the cluster"),
        "{}",
        several.tail(learner)
    );
    lines.push(format!("started again it ends: {}", code >= 0));
    lines
}

fn founders(several: &Several) -> String {
    let pairs = several.members[..3].iter().zip(["m0", "m1", "m2"]);
    let pairs: Vec<_> = pairs
        .map(|(one, name)| format!("{name}={}", one.peer_url()))
        .collect();
    pairs.join(",")
}

#[test]
fn members_come_and_go_as_in_etcd() {
    let (ours, etcd) = (
        need!(SUITE, programs::quorate()),
        need!(SUITE, programs::etcd_reference()),
    );
    let ctl = need!(SUITE, programs::peer("etcd-3.5.1", "etcdctl"));
    let wanted = come_and_go(&etcd, &ctl);
    let found = come_and_go(&ours, &ctl);
    assert_eq!(wanted, found);
    note(&format!("{SUITE}: {} lines are equal", found.len()));
}

/// What any member answers for the others, with what it says about itself.
fn through_any(program: &Program, ctl: &Program) -> Vec<String> {
    let mut several = Several::new(program, 3);
    several.found(&[]);
    let leader = several.leader(ctl, 0);
    let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);
    for (member, name) in [(leader, "leader"), (follower, "follower"), (other, "other")] {
        several.members[member].name = name.into();
    }
    let granted = several
        .insist(ctl, follower, &["lease", "grant", "600"])
        .out;
    let lease = granted.split(' ').nth(1).expect("an id").to_owned();
    let mut script = Transcript {
        several: &several,
        ctl,
        lines: Vec::new(),
        names: Vec::new(),
    };
    script.name(&lease, "lease");
    for (writer, reader) in [(leader, follower), (follower, other), (other, leader)] {
        script.ask(writer, &format!("put --lease={lease} k{writer} v"));
        script.ask(reader, &format!("get k{writer}"));
        script.ask(reader, &format!("lease keep-alive --once {lease}"));
        script.ask(reader, &format!("lease timetolive {lease} --keys"));
        script.ask(reader, "lease keep-alive --once 123");
        script.ask(reader, "lease timetolive 123");
        script.ask(reader, "compact 1");
        script.ask(reader, "put x y -w json");
    }
    script.ask(follower, &format!("lease revoke {lease}"));
    script.ask(other, "get --prefix k");
    script.ask(follower, "member list -w json");
    let mut lines = script.lines;
    for (index, line) in lines.iter_mut().enumerate() {
        // Where keys have the place of their writer in their names.
        for (member, name) in [(leader, "l"), (follower, "f"), (other, "o")] {
            *line = line.replace(&format!("k{member}"), &format!("k{name}"));
        }
        if line.contains("attached keys") {
            // Sorted by the old names.
            let mut sorted: Vec<char> = line.chars().collect();
            sorted.sort_unstable();
            *line = sorted.into_iter().collect();
        }
        if line.starts_with("{\"header\"") && line.contains("\"members\"") {
            let value: serde_json::Value = serde_json::from_str(&several_json(line)).expect("JSON");
            *line = format!(
                "{index}: {} members",
                value["members"].as_array().map_or(0, Vec::len)
            );
        }
    }
    lines
}

/// Undoes what made the line no JSON.
fn several_json(line: &str) -> String {
    line.replace("<id>", "0")
        .replace("<leader>", "leader")
        .replace("<follower>", "follower")
}

#[test]
fn any_member_answers_for_all() {
    let (ours, etcd) = (
        need!(SUITE, programs::quorate()),
        need!(SUITE, programs::etcd_reference()),
    );
    let ctl = need!(SUITE, programs::peer("etcd-3.5.1", "etcdctl"));
    assert_eq!(through_any(&etcd, &ctl), through_any(&ours, &ctl));
}

/// Puts a key, and how long it took.
async fn put(member: &Grpc) -> (Result<pb::PutResponse, Failure>, Duration) {
    let begun = Instant::now();
    let request = pb::PutRequest {
        key: "k".into(),
        value: "v".into(),
        ..Default::default()
    };
    let outcome = member.call(grpc::PUT, &request).await;
    (outcome, begun.elapsed())
}

#[test]
fn a_leader_that_stops_hands_over_and_nobody_fails_or_waits_long() {
    let program = need!(SUITE, programs::quorate());
    let ctl = need!(SUITE, programs::peer("etcd-3.5.1", "etcdctl"));
    let mut several = Several::new(&program, 3);
    several.found(&[]);
    let mut longest = Duration::ZERO;
    for _ in 0..3 {
        let leader = several.leader(&ctl, 0);
        let writer = several.members[(leader + 1) % 3].socket();
        let writing = std::thread::spawn(move || {
            grpc::block_on(async {
                let member = Grpc::connect(writer).await.expect("a connection");
                let until = Instant::now() + Duration::from_secs(2);
                let mut longest = Duration::ZERO;
                while Instant::now() < until {
                    let (outcome, took) = put(&member).await;
                    outcome.expect("no put fails");
                    longest = longest.max(took);
                }
                longest
            })
        });
        std::thread::sleep(Duration::from_millis(500));
        several.signal(leader, Signal::TERM);
        assert_eq!(several.wait_end(leader), 128 + 15);
        several.wait_log(leader, "leadership transfer finished");
        longest = longest.max(writing.join().expect("the writer"));
        several.start(leader, &[]);
        several.wait_ready(leader);
    }
    note(&format!(
        "{SUITE}: the longest put while a leader stops took {longest:?}"
    ));
    // Without the handing over it is an election timeout at least.
    assert!(longest < Duration::from_millis(800), "{longest:?}");
}

/// What a member that has lost the others says: text and code.
fn alone(program: &Program, ctl: &Program) -> Vec<String> {
    let mut several = Several::new(program, 3);
    several.found(&[]);
    let stays = (several.leader(ctl, 0) + 1) % 3;
    let server = several.members[stays].socket();
    let mut lines = Vec::new();
    grpc::block_on(async {
        let member = Grpc::connect(server).await.expect("a connection");
        let wanting = member.clone().wanting_leader();
        // A stream that wants a leader, and one that does not mind.
        let mut watches = Vec::new();
        for member in [&wanting, &member] {
            let mut watch = member.open(grpc::WATCH).await.expect("a stream");
            let create = pb::WatchCreateRequest {
                key: "k".into(),
                ..Default::default()
            };
            let create = pb::WatchRequest {
                request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
            };
            watch.send(&create).await.expect("it is sent");
            let created: Option<pb::WatchResponse> = watch.next().await.expect("an answer");
            assert!(created.expect("a message").created);
            watches.push(watch);
        }
        for other in [(stays + 1) % 3, (stays + 2) % 3] {
            several.kill(other);
        }
        let mut minding = watches.remove(0);
        let lost: Result<Option<pb::WatchResponse>, _> = minding.next().await;
        let lost = lost.expect_err("the stream ends");
        lines.push(format!("watch: {} {}", lost.code(), lost.message()));
        let ask = async |member: &Grpc, serializable| {
            let request = pb::RangeRequest {
                key: "k".into(),
                serializable,
                ..Default::default()
            };
            let outcome: Result<pb::RangeResponse, _> = member.call(grpc::RANGE, &request).await;
            outcome.map_or_else(
                |why| format!("{} {}", why.code(), why.message()),
                |_| "an answer".to_owned(),
            )
        };
        lines.push(format!(
            "get, wanting a leader: {}",
            ask(&wanting, true).await
        ));
        lines.push(format!("get, serializable: {}", ask(&member, true).await));
        lines.push(format!("get: {}", ask(&member, false).await));
        let (outcome, _) = put(&member).await;
        let why = outcome.expect_err("no quorum");
        lines.push(format!("put: {} {}", why.code(), why.message()));
        let still = tokio::time::timeout(
            Duration::from_millis(100),
            watches[0].next::<pb::WatchResponse>(),
        );
        lines.push(format!("the other watch goes on: {}", still.await.is_err()));
    });
    let health = http_get(server, "/health").expect("an answer");
    lines.push(format!("health: {} {}", health.status, health.body));
    let status = several
        .ctl(ctl, stays)
        .run(&["endpoint", "status", "-w", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status.out).expect("JSON");
    lines.push(format!("status: {}", status[0]["Status"]["errors"]));
    let metrics = http_get(server, "/metrics").expect("an answer").body;
    for name in ["etcd_server_has_leader", "etcd_server_is_leader"] {
        let line = metrics.lines().find(|line| line.starts_with(name));
        lines.push(line.unwrap_or(name).to_owned());
    }
    lines
}

#[test]
fn a_member_that_has_lost_the_others_says_so_in_etcds_words() {
    let (ours, etcd) = (
        need!(SUITE, programs::quorate()),
        need!(SUITE, programs::etcd_reference()),
    );
    let ctl = need!(SUITE, programs::peer("etcd-3.5.1", "etcdctl"));
    assert_eq!(alone(&etcd, &ctl), alone(&ours, &ctl));
}

/// The paths of the peer port that are not raft's: status, headers that matter, body.
fn peer_port(program: &Program, ctl: &Program) -> Vec<String> {
    let mut several = Several::new(program, 1);
    several.found(&[]);
    several.insist(ctl, 0, &["put", "k", "v"]);
    let server = several.members[0].peer_socket();
    let granted = grpc::block_on(async {
        let member = Grpc::connect(several.members[0].socket()).await?;
        // An id whose bytes are text, because the requests here are.
        let request = pb::LeaseGrantRequest { id: 9, ttl: 600 };
        member
            .call::<_, pb::LeaseGrantResponse>(grpc::LEASE_GRANT, &request)
            .await
    });
    assert_eq!(granted.expect("a lease").id, 9);
    // Field 1, a number; for the other path wrapped in field 1.
    let renewal = |id| prost::Message::encode_to_vec(&pb::LeaseKeepAliveRequest { id });
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let wrapped = |id| [vec![0x0a, renewal(id).len() as u8], renewal(id)].concat();
    let mut lines = Vec::new();
    for (method, path, body) in [
        ("GET", "/members", String::new()),
        ("POST", "/members", String::new()),
        ("GET", "/members/", String::new()),
        ("GET", "/version", String::new()),
        ("PUT", "/version", String::new()),
        ("GET", "/downgrade/enabled", String::new()),
        ("GET", "/members/hashkv", "{\"revision\":2}".to_owned()),
        ("GET", "/members/hashkv", "{\"revision\":9}".to_owned()),
        ("GET", "/members/hashkv", "nonsense".to_owned()),
        ("POST", "/members/hashkv", String::new()),
        ("POST", "/members/promote/7", String::new()),
        ("POST", "/members/promote/x", String::new()),
        ("GET", "/members/promote/7", String::new()),
        ("POST", "/leases", text(renewal(7))),
        ("POST", "/leases", text(renewal(9))),
        ("POST", "/leases/internal", text(wrapped(9))),
        ("POST", "/leases", "\u{7f}".to_owned()),
        ("GET", "/leases", String::new()),
        ("POST", "/leases/internal", text(wrapped(7))),
        ("POST", "/leases", "x".repeat(70_000)),
        ("GET", "/nothing", String::new()),
    ] {
        let reply = http(server, method, path, &body).expect("an answer");
        let kind = reply.header("content-type").unwrap_or("-").to_owned();
        let cluster = reply.header("x-etcd-cluster-id").is_some();
        let allow = reply.header("allow").unwrap_or("-").to_owned();
        let mut body = reply.body.replace(&several.members[0].peer_url(), "<peer>");
        body = body.replace(&several.members[0].socket().to_string(), "<client>");
        if path == "/version" && reply.status == 200 {
            let value: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            let is_text = |name: &str| value[name].is_string();
            body = format!("{} {}", is_text("etcdserver"), is_text("etcdcluster"));
        }
        let body = conformance::ctl::normalised(&body, &[]);
        lines.push(format!(
            "{method} {path}: {} {kind} cluster={cluster} allow={allow} {body:?}",
            reply.status
        ));
    }
    lines
}

#[test]
fn the_peer_port_answers_what_etcds_does() {
    let (ours, etcd) = (
        need!(SUITE, programs::quorate()),
        need!(SUITE, programs::etcd_reference()),
    );
    let ctl = need!(SUITE, programs::peer("etcd-3.5.1", "etcdctl"));
    let (wanted, found) = (peer_port(&etcd, &ctl), peer_port(&ours, &ctl));
    for (wanted, found) in wanted.iter().zip(&found) {
        // Later releases bound the bodies.
        if wanted.starts_with("POST /leases: 4") && found.starts_with("POST /leases: 413") {
            continue;
        }
        // hash_revision is a field of 3.6, and later releases end without a newline.
        let wanted = match wanted.contains("hashkv") {
            true => wanted.replace("}\\n\"", "}\""),
            false => wanted.clone(),
        };
        let without = |line: &str| match line.split_once(",\\\"hash_revision\\\"") {
            Some((before, _)) => format!("{before}}}\""),
            None => line.to_owned(),
        };
        assert_eq!(wanted, without(found));
    }
}

/// A downgrade is announced, takes place, and is over, without a restart: a member can speak any version.
#[test]
fn a_downgrade_lowers_the_clusters_version_by_one() {
    let program = need!(SUITE, programs::quorate());
    let ctl = need!(SUITE, programs::peer("etcd-3.5.1", "etcdctl"));
    let mut several = Several::new(&program, 3);
    several.found(&[]);
    let cluster = |several: &Several| {
        let reply = http_get(several.members[0].socket(), "/version").expect("an answer");
        let value: serde_json::Value = serde_json::from_str(&reply.body).expect("JSON");
        value["etcdcluster"].as_str().unwrap_or_default().to_owned()
    };
    let wait = |several: &Several, wanted: &str| {
        let until = Instant::now() + several::PATIENCE;
        while cluster(several) != wanted {
            assert!(
                Instant::now() < until,
                "{} is not {wanted}",
                cluster(several)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    wait(&several, "3.7.0");
    let downgrade = |several: &Several, action, version: &str| {
        let request = pb::DowngradeRequest {
            action,
            version: version.to_owned(),
        };
        let server = several.members[1].socket();
        let outcome: Result<pb::DowngradeResponse, _> = grpc::block_on(async {
            let member = Grpc::connect(server).await?;
            member.call(grpc::DOWNGRADE, &request).await
        });
        outcome.map_or_else(|why| why.message().to_owned(), |done| done.version)
    };
    const ENABLE: i32 = pb::downgrade_request::DowngradeAction::Enable as i32;
    const CANCEL: i32 = pb::downgrade_request::DowngradeAction::Cancel as i32;
    assert_eq!(
        downgrade(&several, ENABLE, "3.5"),
        "etcdserver: invalid downgrade target version"
    );
    let none = "etcdserver: no inflight downgrade job";
    assert_eq!(downgrade(&several, CANCEL, ""), none);
    assert_eq!(downgrade(&several, ENABLE, "3.6"), "3.7");
    wait(&several, "3.6.0");
    for member in 0..3 {
        let reply = http_get(several.members[member].peer_socket(), "/version");
        let body = reply.expect("an answer").body;
        assert!(body.contains("\"etcdserver\":\"3.6.0\""), "{body}");
    }
    // It ends by itself: no member is left that only speaks the newer version.
    several.wait_log(several.leader(&ctl, 0), "the cluster has been downgraded");
    let until = Instant::now() + several::PATIENCE;
    while downgrade(&several, CANCEL, "") != none {
        assert!(Instant::now() < until, "the downgrade does not end");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(cluster(&several), "3.6.0");
}
