//! TLS towards clients while time goes by: files that change under the server, certificates that end, handshakes that do not.

use conformance::certs::{Ask, Authority};
use conformance::ctl::Ctl;
use conformance::grpc::block_on;
use conformance::need;
use conformance::programs;
use conformance::server::Launch;
use conformance::tls::{Client, World};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

#[test]
fn changed_files_count_at_once_and_open_connections_go_on() {
    let program = need!("changed TLS files", programs::quorate());
    let etcdctl = need!("changed TLS files", programs::peer("etcd-3.5.1", "etcdctl"));
    let world = World::default();
    let (old, new) = (&world.authority, &world.stranger);
    world.folder.put_pair(
        "client",
        &old.issue(&Ask {
            serial: 5,
            ..Ask::default()
        }),
    );
    let crl = world.folder.put("revoked.crl", old.revoke(&[]));
    let flags = [
        world.closed().as_slice(),
        &["--client-crl-file".into(), crl],
    ]
    .concat();
    let server = Launch::new(&program).https().flags(flags).start();
    let at = server.socket();
    let client = |trusted: &Authority, by: &Authority, serial| {
        Client::trusting(trusted).showing(&by.issue(&Ask {
            serial,
            ..Ask::default()
        }))
    };
    let ctl = Ctl::new(&etcdctl, format!("https://{}", server.address()));
    let good = world.ctl_flags(Some("client"));
    let watch = good
        .iter()
        .map(String::as_str)
        .chain(["watch", "a"])
        .collect::<Vec<_>>();
    let watch = ctl.follow(&watch);
    let put = |value: &str| {
        ctl.run_flagged(
            &good,
            &[
                "put",
                "a",
                value,
                "--dial-timeout=1s",
                "--command-timeout=2s",
            ],
        )
    };
    // Until the watch is there.
    let begun = Instant::now();
    while watch.line(Duration::from_millis(200)).is_none() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", put("x"));
        put("before");
    }

    // The list: the client of the watch is no longer good.
    world.folder.put("revoked.crl", old.revoke_pem(&[5]));
    client(old, old, 6).is_in(at).expect("another is");
    assert!(client(old, old, 5).is_in(at).is_err());
    assert_ne!(put("refused").code, 0);

    // Certificate and key: of another authority, and not at the same time.
    let issued = new.issue(&Ask::default());
    world.folder.put("server.pem", &issued.certificate);
    client(old, old, 6).is_in(at).expect("the old pair is kept");
    assert!(
        server
            .log()
            .contains("TLS files have changed and cannot be used")
    );
    assert!(
        server
            .log()
            .contains("private key does not match public key")
    );
    world.folder.put("server-key.pem", &issued.key);
    client(new, old, 6).is_in(at).expect("the new pair");
    assert!(client(old, old, 6).is_in(at).is_err());

    // The authorities: both, then the new alone.
    assert!(client(new, new, 6).is_in(at).is_err());
    world
        .folder
        .put("ca.pem", format!("{}{}", old.pem(), new.pem()));
    client(new, old, 6).is_in(at).expect("still");
    client(new, new, 6).is_in(at).expect("now");
    world.folder.put("ca.pem", new.pem());
    assert!(client(new, old, 6).is_in(at).is_err());

    // The watch has lived through all of it.
    world.folder.put_pair("client", &new.issue(&Ask::default()));
    assert_eq!(put("after").code, 0);
    let mut lines = Vec::new();
    while !lines.contains(&"after".to_owned()) {
        lines.push(watch.line(Duration::from_secs(10)).expect("the event"));
    }

    let page = client(new, new, 6)
        .get(at, "/metrics")
        .expect("metrics")
        .body;
    let value = |name: &str| -> f64 {
        let line = page.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("{name} is not there"));
        line.rsplit(' ')
            .next()
            .and_then(|text| text.parse().ok())
            .expect("a number")
    };
    assert_eq!(value("etcd_network_tls_files_stale{side=\"client\"}"), 0.0);
    assert!(value("etcd_network_tls_reloads_total{side=\"client\",result=\"succeeded\"}") >= 4.0);
    assert!(value("etcd_network_tls_reloads_total{side=\"client\",result=\"failed\"}") >= 1.0);
    assert!(value("etcd_network_tls_handshakes_total{side=\"client\",result=\"failed\"}") >= 5.0);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    let left_days = |kind: &str| {
        let name = format!(
            "etcd_network_tls_not_after_timestamp_seconds{{side=\"client\",kind=\"{kind}\"}}"
        );
        (value(&name) - now.as_secs_f64()) / 86_400.0
    };
    assert!((29.9..30.1).contains(&left_days("certificate")));
    assert!((0.9..1.1).contains(&left_days("crl")));
    assert!(left_days("ca") > 1000.0);
}

#[test]
fn what_ends_soon_is_told_in_the_log() {
    let program = need!("certificates that end", programs::quorate());
    let world = World::default();
    let soon = world.authority.issue(&Ask {
        until: 3,
        ..Ask::default()
    });
    world.folder.put_pair("server", &soon);
    let server = Launch::new(&program).https().flags(world.closed()).start();
    let log = server.log();
    let line = log
        .lines()
        .find(|line| line.contains("a certificate expires soon"));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    assert!(
        line.contains("server.pem") && line.contains("not-after"),
        "{line}"
    );
    assert!(!log.contains("a trusted CA certificate expires soon"));
}

#[test]
fn handshakes_that_do_not_end_are_cut_and_hold_up_nobody_else() {
    let program = need!("slow handshakes", programs::quorate());
    let world = World::default();
    let server = Launch::new(&program).https().flags(world.closed()).start();
    let good = world.with(&world.authority.issue(&Ask::default()));
    let begun = Instant::now();
    let slow: Vec<_> = block_on(async {
        let mut slow = Vec::new();
        for n in 0..700 {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            let from = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0));
            socket.bind(from).expect("any address of the loopback");
            let stream = socket.connect(server.socket()).await.expect("accepted");
            // The beginning of a record; every third says nothing at all.
            if n % 3 != 0 {
                stream.try_write(&[0x16, 3, 1, 2, 0, 1]).expect("sent");
            }
            slow.push(stream.into_std().expect("a socket"));
        }
        slow
    });
    for _ in 0..5 {
        let asked = Instant::now();
        good.is_in(server.socket())
            .expect("another address is let in");
        assert!(
            asked.elapsed() < Duration::from_secs(2),
            "{:?}",
            asked.elapsed()
        );
    }
    for mut stream in slow {
        stream.set_nonblocking(false).expect("set");
        let patience = Duration::from_secs(20).saturating_sub(begun.elapsed());
        let patience = patience.max(Duration::from_millis(1));
        stream.set_read_timeout(Some(patience)).expect("set");
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => panic!("still open"),
            _ => {}
        }
    }
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(8), "cut too soon: {took:?}");
    let page = good.get(server.socket(), "/metrics").expect("metrics").body;
    let cut = "etcd_network_tls_handshakes_total{side=\"client\",result=\"timed_out\"} 700";
    assert!(
        page.contains(cut),
        "{}",
        lines_with(&page, "_tls_handshakes_")
    );
    let told = server
        .log()
        .matches("rejected connection on client endpoint")
        .count();
    assert!((1..=40).contains(&told), "{told} lines for 700 connections");
}

fn lines_with(page: &str, part: &str) -> String {
    let lines = page.lines().filter(|line| line.contains(part));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn many_clients_of_one_address_come_in_at_once() {
    let program = need!("a burst of handshakes", programs::quorate());
    let world = World::default();
    let server = Launch::new(&program).https().flags(world.open()).start();
    let client = world.client();
    let at = server.socket();
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let client = client.clone();
            std::thread::spawn(move || {
                // All kept open until the end.
                (0..25)
                    .map(|_| client.connect(at))
                    .collect::<Result<Vec<_>, _>>()
            })
        })
        .collect();
    let open: Vec<_> = threads
        .into_iter()
        .flat_map(|thread| thread.join().expect("no panic").expect("all get in"))
        .collect();
    assert_eq!(open.len(), 400);
    client.is_in(at).expect("one more");
}
