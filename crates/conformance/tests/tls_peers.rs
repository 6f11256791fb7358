//! TLS between members: who comes in at the peer port, put to our server and to real etcd; and clusters of both that speak it.

use conformance::certs::{Ask, Folder};
use conformance::ctl::Ctl;
use conformance::need;
use conformance::programs::{self, Program};
use conformance::server::{Launch, Server, free_ports, http_get};
use conformance::suite::note;
use conformance::tls::{Client, World};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// How long a cluster may take until it serves.
const PATIENCE: Duration = Duration::from_secs(60);

fn flags(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// The flags of a member that has a certificate; a real etcd before 3.6 has another name for one of the rest.
fn peer_flags(world: &World, program: &Program, more: &[&str]) -> Vec<String> {
    let (cert, key) = (
        world.folder.text("server.pem"),
        world.folder.text("server-key.pem"),
    );
    let own = flags(&["--peer-cert-file", &cert, "--peer-key-file", &key]);
    let more = flags(more).into_iter().map(|flag| match flag.as_str() {
        "--peer-skip-client-san-verification" if program.name.starts_with("etcd") => {
            "--experimental-peer-skip-client-san-verification".to_owned()
        }
        _ => flag,
    });
    own.into_iter().chain(more).collect()
}

/// Whether a question on the peer port is answered.
fn is_heard(client: &Client, at: SocketAddr) -> Result<(), String> {
    match client.get(at, "/version") {
        Ok(reply) if reply.status == 200 => Ok(()),
        Ok(reply) => Err(format!("status {}", reply.status)),
        Err(why) => Err(why),
    }
}

#[test]
fn the_same_members_come_in_as_with_etcd() {
    let mut all = vec![need!("who comes in at the peer port", programs::quorate())];
    match programs::etcd_reference() {
        Ok(program) => all.push(program),
        Err(why) => note(&format!(
            "the peer port: not compared with real etcd: {why}"
        )),
    }
    let world = World::default();
    let issue = |ask: Ask| world.with(&world.authority.issue(&ask));
    let hosts = |hosts| {
        issue(Ask {
            hosts,
            ..Ask::default()
        })
    };
    let named = |common_name| {
        issue(Ask {
            common_name,
            ..Ask::default()
        })
    };
    let ca = world.folder.text("ca.pem");
    let revoked = world
        .folder
        .put("revoked.crl", world.authority.revoke(&[66]));
    let closed = ["--peer-client-cert-auth", "--peer-trusted-ca-file", &ca];
    let with = |more: &[&'static str]| [&closed[..], more].concat();
    let with_list = [&closed[..], &["--peer-crl-file", &revoked]].concat();
    let here = &["127.0.0.1"][..];
    let elsewhere = &["192.0.2.1"][..];
    let cases = [
        ("nothing is asked", vec![], world.client(), true),
        ("none is shown", with(&[]), world.client(), false),
        ("a good one", with(&[]), hosts(here), true),
        ("one without names", with(&[]), hosts(&[]), true),
        ("one of another address", with(&[]), hosts(elsewhere), false),
        (
            "one of a name of ours",
            with(&[]),
            hosts(&["localhost"]),
            true,
        ),
        (
            "one of another name",
            with(&[]),
            hosts(&["a.example.com"]),
            false,
        ),
        (
            "addresses are not looked at",
            with(&["--peer-skip-client-san-verification"]),
            hosts(elsewhere),
            true,
        ),
        (
            "a stranger's",
            with(&[]),
            world.with(&world.stranger.issue(&Ask::default())),
            false,
        ),
        (
            "one that has expired",
            with(&[]),
            issue(Ask {
                from: -9,
                until: -1,
                ..Ask::default()
            }),
            false,
        ),
        (
            "one for servers",
            with(&[]),
            issue(Ask {
                for_clients: false,
                ..Ask::default()
            }),
            false,
        ),
        ("not on the list", with_list.clone(), hosts(here), true),
        (
            "revoked",
            with_list,
            issue(Ask {
                serial: 66,
                ..Ask::default()
            }),
            false,
        ),
        (
            "an allowed name",
            with(&["--peer-cert-allowed-cn", "a,b"]),
            named("b"),
            true,
        ),
        (
            "another name than allowed",
            with(&["--peer-cert-allowed-cn", "a,b"]),
            named("c"),
            false,
        ),
        (
            "an allowed host",
            with(&[
                "--peer-cert-allowed-hostname",
                "b.example.com,a.example.com",
            ]),
            hosts(&["a.example.com", "127.0.0.1"]),
            true,
        ),
        (
            "another host than allowed",
            with(&["--peer-cert-allowed-hostname", "a.example.com"]),
            hosts(here),
            false,
        ),
    ];
    let mut wrong = Vec::new();
    for program in &all {
        let mut running: Option<(Vec<&str>, SocketAddr, Server)> = None;
        for (what, more, client, expected) in &cases {
            if running.as_ref().is_none_or(|(flags, ..)| flags != more) {
                let [port] = free_ports();
                let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                let server = Launch::new(program)
                    .flags(peer_flags(&world, program, more))
                    .flags([
                        format!("--listen-peer-urls=https://{at}"),
                        format!("--initial-advertise-peer-urls=https://{at}"),
                        format!("--initial-cluster=default=https://{at}"),
                    ])
                    .start();
                running = Some((more.clone(), at, server));
            }
            let at = running.as_ref().expect("just made").1;
            let got = is_heard(client, at);
            if got.is_ok() != *expected {
                wrong.push(format!("{}: {what}: {got:?}", program.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Three members on this machine that speak TLS to each other.
struct Cluster {
    members: Vec<Server>,
    clients: Vec<SocketAddr>,
    _data: Folder,
}

impl Cluster {
    /// `flags` says what a member is started with besides.
    fn start(programs: [&Program; 3], flags: impl Fn(usize) -> Vec<String>) -> Cluster {
        let data = Folder::default();
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (clients, peers): ([u16; 3], [u16; 3]) = (free_ports(), free_ports());
        let all: Vec<_> = (0..3)
            .map(|n| format!("m{n}=https://{}", at(peers[n])))
            .collect();
        let members = (0..3).map(|n| {
            let (client, peer) = (at(clients[n]), at(peers[n]));
            Launch::new(programs[n])
                .bare()
                .flags([
                    format!("--name=m{n}"),
                    format!("--data-dir={}", data.text(&format!("m{n}"))),
                    format!("--listen-client-urls=http://{client}"),
                    format!("--advertise-client-urls=http://{client}"),
                    format!("--listen-peer-urls=https://{peer}"),
                    format!("--initial-advertise-peer-urls=https://{peer}"),
                    format!("--initial-cluster={}", all.join(",")),
                ])
                .flags(flags(n))
                .spawn()
        });
        Cluster {
            members: members.collect(),
            clients: clients.map(at).to_vec(),
            _data: data,
        }
    }

    fn is_healthy(&self, n: usize) -> bool {
        http_get(self.clients[n], "/health").is_ok_and(|reply| reply.status == 200)
    }

    #[track_caller]
    fn wait_healthy(&self, of: &[usize]) {
        let begun = Instant::now();
        while !of.iter().all(|n| self.is_healthy(*n)) {
            let logs: Vec<_> = self.members.iter().map(Server::log).collect();
            assert!(begun.elapsed() < PATIENCE, "{}", logs.join("\n\n"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Writes through each of these and reads it through all of them.
    #[track_caller]
    fn exchange(&self, etcdctl: &Program, of: &[usize], value: &str) {
        let ctl = |n: usize| Ctl::new(etcdctl, self.clients[n].to_string());
        for writes in of {
            let key = format!("by-{writes}");
            let put = ctl(*writes).run(&["put", &key, value]);
            assert_eq!(put.code, 0, "{put:?}");
            for reads in of {
                let get = ctl(*reads).run(&["get", &key, "--print-value-only"]);
                assert_eq!(get.out.trim_end(), value, "{writes} {reads} {get:?}");
            }
        }
    }
}

#[test]
fn a_cluster_speaks_tls_and_its_certificates_and_authority_are_replaced() {
    let ours = need!("TLS between members", programs::quorate());
    let etcdctl = need!(
        "TLS between members",
        programs::peer("etcd-3.5.1", "etcdctl")
    );
    let world = World::default();
    let ca = world.folder.text("ca.pem");
    let closed = ["--peer-client-cert-auth", "--peer-trusted-ca-file", &ca];
    let mut cluster = Cluster::start([&ours; 3], |_| peer_flags(&world, &ours, &closed));
    cluster.wait_healthy(&[0, 1, 2]);
    cluster.exchange(&etcdctl, &[0, 1, 2], "one");

    // First everybody trusts both, then everybody shows a certificate of the new authority, then only that one is trusted.
    let (old, new) = (&world.authority, &world.stranger);
    world.folder.put("ca.pem", old.pem() + &new.pem());
    world.folder.put_pair("server", &new.issue(&Ask::default()));
    world.folder.put("ca.pem", new.pem());
    for n in 0..3 {
        cluster.members[n].kill();
        cluster.members[n].start_without_waiting().expect("again");
        cluster.wait_healthy(&[0, 1, 2]);
        cluster.exchange(&etcdctl, &[0, 1, 2], &format!("without {n}"));
    }
}

#[test]
fn a_member_that_nobody_vouches_for_is_not_heard() {
    let ours = need!("a stranger among members", programs::quorate());
    let etcdctl = need!(
        "a stranger among members",
        programs::peer("etcd-3.5.1", "etcdctl")
    );
    let world = World::default();
    let theirs = World::default();
    let ca = world.folder.text("ca.pem");
    let closed = ["--peer-client-cert-auth", "--peer-trusted-ca-file", &ca];
    let cluster = Cluster::start([&ours; 3], |n| match n {
        2 => peer_flags(&theirs, &ours, &closed),
        _ => peer_flags(&world, &ours, &closed),
    });
    cluster.wait_healthy(&[0, 1]);
    cluster.exchange(&etcdctl, &[0, 1], "two");
    assert!(!cluster.is_healthy(2));
    let log = cluster.members[0].log() + &cluster.members[1].log();
    assert!(
        log.contains("rejected connection on peer endpoint"),
        "{log}"
    );
}

#[test]
fn etcd_and_we_are_one_cluster_by_tls_given_or_generated() {
    let ours = need!("TLS with etcd's members", programs::quorate());
    let theirs = need!("TLS with etcd's members", programs::etcd_reference());
    let etcdctl = need!(
        "TLS with etcd's members",
        programs::peer("etcd-3.5.1", "etcdctl")
    );
    let world = World::default();
    let ca = world.folder.text("ca.pem");
    let closed = ["--peer-client-cert-auth", "--peer-trusted-ca-file", &ca];
    for generated in [false, true] {
        let programs = [&ours, &theirs, &ours];
        let cluster = Cluster::start(programs, |n| match generated {
            true => flags(&["--peer-auto-tls"]),
            false => peer_flags(&world, programs[n], &closed),
        });
        cluster.wait_healthy(&[0, 1, 2]);
        cluster.exchange(&etcdctl, &[0, 1, 2], "three");
    }
}
