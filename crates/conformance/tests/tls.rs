//! TLS towards clients: who comes in and who does not, put to our server and to real etcd; files that change under it; and
//! handshakes that do not end.

use conformance::certs::{Ask, Folder, Issued};
use conformance::ctl::Ctl;
use conformance::need;
use conformance::programs::{self, Program};
use conformance::server::{Launch, free_ports, http_get};
use conformance::suite::note;
use conformance::tls::{Client, World};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

/// Ours, and real etcd where it is.
fn programs(suite: &str) -> Option<Vec<Program>> {
    let mut all = match programs::quorate() {
        Ok(program) => vec![program],
        Err(why) => {
            conformance::suite::skip(suite, &why);
            return None;
        }
    };
    match programs::etcd_reference() {
        Ok(program) => all.push(program),
        Err(why) => note(&format!("{suite}: not compared with real etcd: {why}")),
    }
    Some(all)
}

/// Flags, and clients with whether they come in.
struct Setup {
    what: &'static str,
    flags: Vec<String>,
    clients: Vec<(&'static str, Client, bool)>,
}

fn setups(world: &World) -> Vec<Setup> {
    let (authority, stranger) = (&world.authority, &world.stranger);
    let issue = |ask: Ask| world.with(&authority.issue(&ask));
    let good = || issue(Ask::default());
    let flag = |flags: Vec<String>, more: &[&str]| -> Vec<String> {
        flags
            .into_iter()
            .chain(more.iter().map(|text| (*text).to_owned()))
            .collect()
    };
    world
        .folder
        .put("revoked.crl", authority.revoke(&[66, 0x8001]));
    let revoked = world.folder.text("revoked.crl");
    let host = |host: &'static str| {
        issue(Ask {
            hosts: &[host][..],
            ..Ask::default()
        })
    };
    vec![
        Setup {
            what: "a certificate and nothing else",
            flags: world.open(),
            clients: vec![
                ("without a certificate", world.client(), true),
                ("TLS 1.2", world.client().only_12(), true),
                ("TLS 1.3", world.client().only_13(), true),
                (
                    "HTTP/1.1 by ALPN",
                    world.client().protocols(&["http/1.1"]),
                    true,
                ),
                (
                    "an unknown protocol",
                    world.client().protocols(&["spdy/3"]),
                    false,
                ),
                (
                    "a certificate nobody asked for",
                    world.with(&stranger.itself()),
                    true,
                ),
                (
                    "who trusts another authority",
                    Client::trusting(stranger),
                    false,
                ),
            ],
        },
        Setup {
            what: "client certificates",
            flags: world.closed(),
            clients: vec![
                ("none", world.client(), false),
                ("none, TLS 1.2", world.client().only_12(), false),
                ("a good one", good(), true),
                ("a good one, TLS 1.2", good().only_12(), true),
                (
                    "one without names",
                    issue(Ask {
                        hosts: &[],
                        ..Ask::default()
                    }),
                    true,
                ),
                ("one of another address", host("192.0.2.1"), true),
                (
                    "one that has expired",
                    issue(Ask {
                        from: -9,
                        until: -1,
                        ..Ask::default()
                    }),
                    false,
                ),
                (
                    "one of the future",
                    issue(Ask {
                        from: 1,
                        until: 9,
                        ..Ask::default()
                    }),
                    false,
                ),
                (
                    "one for servers",
                    issue(Ask {
                        for_clients: false,
                        ..Ask::default()
                    }),
                    false,
                ),
                (
                    "one for anything",
                    issue(Ask {
                        for_clients: false,
                        for_servers: false,
                        ..Ask::default()
                    }),
                    true,
                ),
                (
                    "a stranger's",
                    world.with(&stranger.issue(&Ask::default())),
                    false,
                ),
                ("the authority's own", world.with(&authority.itself()), true),
                (
                    "one of an authority between",
                    world.with(&authority.intermediate("between").issue(&Ask::default())),
                    true,
                ),
                (
                    "one without the authority between",
                    {
                        let issued = authority.intermediate("between").issue(&Ask::default());
                        let first = issued
                            .certificate
                            .split_inclusive("-----END CERTIFICATE-----\n");
                        let first = first.take(1).collect();
                        world.with(&Issued {
                            certificate: first,
                            ..issued
                        })
                    },
                    false,
                ),
            ],
        },
        Setup {
            what: "an authority alone asks for certificates, too",
            flags: flag(
                world.open(),
                &["--trusted-ca-file", &world.folder.text("ca.pem")],
            ),
            clients: vec![
                ("none", world.client(), false),
                ("a good one", good(), true),
            ],
        },
        Setup {
            what: "revoked certificates",
            flags: flag(world.closed(), &["--client-crl-file", &revoked]),
            clients: vec![
                ("a good one", good(), true),
                (
                    "a revoked one",
                    issue(Ask {
                        serial: 66,
                        ..Ask::default()
                    }),
                    false,
                ),
                (
                    "a revoked one, TLS 1.2",
                    issue(Ask {
                        serial: 66,
                        ..Ask::default()
                    })
                    .only_12(),
                    false,
                ),
                (
                    "a revoked one with a high bit",
                    issue(Ask {
                        serial: 0x8001,
                        ..Ask::default()
                    }),
                    false,
                ),
            ],
        },
        Setup {
            what: "allowed host names",
            flags: flag(
                world.closed(),
                &["--client-cert-allowed-hostname", "a.example.com,192.0.2.9"],
            ),
            clients: vec![
                ("that name", host("a.example.com"), true),
                ("a wildcard over it", host("*.example.com"), true),
                ("that address", host("192.0.2.9"), true),
                ("another name", host("b.example.com"), false),
                (
                    "the name as common name",
                    issue(Ask {
                        common_name: "a.example.com",
                        hosts: &[],
                        ..Ask::default()
                    }),
                    false,
                ),
            ],
        },
        Setup {
            what: "TLS 1.3 at least",
            flags: flag(world.open(), &["--tls-min-version", "TLS1.3"]),
            clients: vec![
                ("TLS 1.2", world.client().only_12(), false),
                ("TLS 1.3", world.client().only_13(), true),
            ],
        },
        Setup {
            what: "TLS 1.2 at most",
            flags: flag(world.open(), &["--tls-max-version", "TLS1.2"]),
            clients: vec![
                ("TLS 1.2", world.client().only_12(), true),
                ("TLS 1.3", world.client().only_13(), false),
            ],
        },
        Setup {
            what: "a list of suites",
            flags: flag(
                world.open(),
                &[
                    "--cipher-suites",
                    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
                ],
            ),
            clients: vec![
                (
                    "one of them",
                    suite(world, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
                    true,
                ),
                (
                    "the one with an old name",
                    suite(world, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
                    true,
                ),
                (
                    "another",
                    suite(world, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
                    false,
                ),
                (
                    "TLS 1.3, which the list is not about",
                    world.client().only_13(),
                    true,
                ),
            ],
        },
    ]
}

fn suite(world: &World, name: &'static str) -> Client {
    world.client().only_12().suite(name)
}

#[test]
fn the_same_connections_come_in_as_with_etcd() {
    let Some(programs) = programs("who comes in") else {
        return;
    };
    let world = World::default();
    let mut wrong = Vec::new();
    for setup in setups(&world) {
        for program in &programs {
            let server = Launch::new(program)
                .https()
                .flags(setup.flags.clone())
                .start();
            for (what, client, expected) in &setup.clients {
                let got = client.is_in(server.socket());
                if got.is_ok() != *expected {
                    wrong.push(format!("{}: {}, {what}: {got:?}", program.name, setup.what));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn metrics_by_tls_want_a_certificate_of_the_address_as_with_etcd() {
    let Some(programs) = programs("metrics by TLS") else {
        return;
    };
    let world = World::default();
    let issue = |ask: Ask| world.with(&world.authority.issue(&ask));
    let revoked = world
        .folder
        .put("revoked.crl", world.authority.revoke(&[66]));
    for program in &programs {
        let [port] = free_ports();
        let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut flags = world.closed();
        flags.extend(["--listen-metrics-urls".into(), format!("https://{metrics}")]);
        flags.extend(["--client-crl-file".into(), revoked.clone()]);
        let _server = Launch::new(program).https().flags(flags).start();
        for (what, client, expected) in [
            ("none", world.client(), false),
            ("the address", issue(Ask::default()), true),
            (
                "nobody",
                issue(Ask {
                    hosts: &[],
                    ..Ask::default()
                }),
                true,
            ),
            (
                "another address",
                issue(Ask {
                    hosts: &["192.0.2.1"],
                    ..Ask::default()
                }),
                false,
            ),
            (
                "a name of it",
                issue(Ask {
                    hosts: &["localhost"],
                    ..Ask::default()
                }),
                true,
            ),
            (
                "revoked",
                issue(Ask {
                    serial: 66,
                    ..Ask::default()
                }),
                false,
            ),
        ] {
            let got = client.is_in(metrics);
            assert_eq!(got.is_ok(), expected, "{}: {what}: {got:?}", program.name);
        }
    }
}

#[test]
fn http2_and_http1_are_agreed_on() {
    let Some(programs) = programs("ALPN") else {
        return;
    };
    let world = World::default();
    for program in &programs {
        let server = Launch::new(program).https().flags(world.open()).start();
        let agree = |protocols: &[&'static str]| {
            let agreed = world.client().protocols(protocols).agree(server.socket());
            agreed.expect("a handshake").protocol
        };
        assert_eq!(agree(&["h2"]).as_deref(), Some("h2"), "{}", program.name);
        assert_eq!(agree(&["http/1.1", "h2"]).as_deref(), Some("h2"));
        assert_eq!(agree(&[]), None);
    }
}

#[test]
fn http_and_https_share_a_port_when_both_are_named_and_only_then() {
    let Some(programs) = programs("one port for both") else {
        return;
    };
    let world = World::default();
    for program in &programs {
        let only = Launch::new(program).https().flags(world.open()).start();
        world.client().is_in(only.socket()).expect("TLS");
        let mut clear = TcpStream::connect(only.socket()).expect("there");
        clear
            .write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            .expect("sent");
        let mut got = Vec::new();
        let _ = clear.read_to_end(&mut got);
        assert_eq!(got, b"", "{}", program.name);

        let [port] = free_ports();
        let both = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let urls = format!("http://{both},https://{both}");
        let more = ["--listen-client-urls".to_owned(), urls];
        let _server = Launch::new(program)
            .https()
            .flags([world.open().as_slice(), &more].concat())
            .start();
        world
            .client()
            .is_in(both)
            .unwrap_or_else(|why| panic!("{}: {why}", program.name));
        let reply = http_get(both, "/health").expect("in clear");
        assert_eq!(reply.status, 200, "{}", program.name);
    }
}

#[test]
fn etcdctl_of_both_versions_works_and_needs_its_certificate() {
    let program = need!("etcdctl by TLS", programs::quorate());
    let world = World::default();
    world
        .folder
        .put_pair("client", &world.authority.issue(&Ask::default()));
    world
        .folder
        .put_pair("stranger", &world.stranger.issue(&Ask::default()));
    let server = Launch::new(&program).https().flags(world.closed()).start();
    for folder in ["etcd-3.4", "etcd-3.5.1"] {
        let etcdctl = need!("etcdctl by TLS", programs::peer(folder, "etcdctl"));
        let ctl = Ctl::new(&etcdctl, format!("https://{}", server.address()));
        let good = world.ctl_flags(Some("client"));
        let put = ctl.run_flagged(&good, &["put", "a", folder]);
        assert_eq!((put.code, put.out.as_str()), (0, "OK\n"), "{put:?}");
        let get = ctl.run_flagged(&good, &["get", "a"]);
        assert_eq!(get.out, format!("a\n{folder}\n"));
        let large = "v".repeat(1 << 20);
        let flags: Vec<_> = good.iter().map(String::as_str).collect();
        let put = ctl.run_with(&[flags.as_slice(), &["put", "large"]].concat(), &large);
        assert_eq!(put.code, 0, "{put:?}");
        let get = ctl.run_flagged(&good, &["get", "large", "--print-value-only"]);
        assert_eq!(get.out.trim_end().len(), large.len());
        for pair in [None, Some("stranger")] {
            let flags = world.ctl_flags(pair);
            let put = ctl.run_flagged(
                &flags,
                &["put", "a", "b", "--dial-timeout=1s", "--command-timeout=2s"],
            );
            assert_ne!(put.code, 0, "{pair:?} {put:?}");
        }
    }
}

#[test]
fn a_generated_certificate_serves_and_stays() {
    let Some(programs) = programs("generated certificates") else {
        return;
    };
    for program in &programs {
        let etcdctl = need!(
            "generated certificates",
            programs::peer("etcd-3.5.1", "etcdctl")
        );
        let mut server = Launch::new(program)
            .https()
            .flags(["--auto-tls", "--self-signed-cert-validity=2"])
            .start();
        let path = server.data_dir().join("fixtures/client/cert.pem");
        let made = std::fs::read(&path).unwrap_or_else(|why| panic!("{}: {why}", program.name));
        let key = std::fs::read_to_string(path.with_file_name("key.pem")).expect("a key");
        assert!(key.contains("PRIVATE KEY-----"));
        let ctl = Ctl::new(&etcdctl, format!("https://{}", server.address()));
        let put = ctl.run(&[
            "--insecure-transport=false",
            "--insecure-skip-tls-verify",
            "put",
            "a",
            "b",
        ]);
        assert_eq!(put.code, 0, "{put:?}");
        // It is good for where it is served, for who trusts it.
        let trusted = path.display().to_string();
        let put = ctl.run(&["--cacert", &trusted, "put", "a", "c"]);
        assert_eq!(put.code, 0, "{}: {put:?}", program.name);
        server.kill();
        server.start_again().expect("again");
        assert_eq!(
            std::fs::read(&path).expect("there"),
            made,
            "{}",
            program.name
        );
    }
}

/// A directory that etcd made its certificate in is taken over with it.
#[test]
fn a_certificate_that_etcd_generated_is_used() {
    let program = need!("etcd's certificate", programs::quorate());
    let etcd = need!("etcd's certificate", programs::etcd_reference());
    let theirs = Launch::new(&etcd).https().flags(["--auto-tls"]).start();
    let fixtures = theirs.data_dir().join("fixtures/client");
    let folder = Folder::default();
    let ours = folder.path("data/fixtures/client");
    std::fs::create_dir_all(&ours).expect("created");
    for name in ["cert.pem", "key.pem"] {
        std::fs::copy(fixtures.join(name), ours.join(name)).expect("copied");
    }
    let server = Launch::new(&program)
        .https()
        .data_dir(&folder.path("data"))
        .flags(["--auto-tls"])
        .start();
    let etcdctl = need!(
        "etcd's certificate",
        programs::peer("etcd-3.5.1", "etcdctl")
    );
    let ctl = Ctl::new(&etcdctl, format!("https://{}", server.address()));
    let put = ctl.run(&[
        "--insecure-transport=false",
        "--insecure-skip-tls-verify",
        "put",
        "a",
        "b",
    ]);
    assert_eq!(put.code, 0, "{put:?}");
}

#[test]
fn a_start_that_cannot_serve_ends_with_etcds_words() {
    let Some(programs) = programs("TLS mistakes") else {
        return;
    };
    let world = World::default();
    let folder = &world.folder;
    let (_, other_key) = folder.put_pair("other", &world.authority.issue(&Ask::default()));
    let cert = folder.text("server.pem");
    let key = folder.text("server-key.pem");
    let empty = folder.put("empty.pem", "");
    let missing = folder.text("missing.pem");
    for (flags, words) in [
        (
            vec![],
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://",
        ),
        (
            vec!["--cert-file", &cert],
            "KeyFile and CertFile must both be present[key: , cert: ",
        ),
        (
            vec!["--cert-file", &cert, "--key-file", &other_key],
            "tls: private key does not match public key",
        ),
        (
            vec!["--cert-file", &empty, "--key-file", &key],
            "tls: failed to find any PEM data in certificate input",
        ),
        (
            vec!["--cert-file", &missing, "--key-file", &key],
            "missing.pem: no such file or directory",
        ),
        (
            vec![
                "--cert-file",
                &cert,
                "--key-file",
                &key,
                "--trusted-ca-file",
                &missing,
            ],
            "missing.pem: no such file or directory",
        ),
        (
            vec![
                "--cert-file",
                &cert,
                "--key-file",
                &key,
                "--client-cert-file",
                &cert,
            ],
            "ClientKeyFile and ClientCertFile must both be present or both absent: key: , cert: ",
        ),
        (
            vec![
                "--cert-file",
                &cert,
                "--key-file",
                &key,
                "--cipher-suites",
                "ROT13",
            ],
            "unexpected TLS cipher suite \"ROT13\"",
        ),
    ] {
        for program in &programs {
            let flags: Vec<_> = flags.iter().map(|flag| (*flag).to_owned()).collect();
            let ended = Launch::new(program)
                .https()
                .flags(flags.clone())
                .run_to_end();
            let plain = ended.output.replace("\\\"", "\"");
            assert_ne!(ended.shell_status(), 0, "{} {flags:?}", program.name);
            assert!(plain.contains(words), "{} {flags:?}\n{plain}", program.name);
        }
    }
}
