//! How members begin, ours and real etcd's side by side: a static cluster whose members come one after the other, one that joins, and the
//! mistakes that stop them.

mod several;

use conformance::programs::{self, Program};
use conformance::server::free_ports;
use conformance::suite::note;
use conformance::{allowed, need};
use several::Several;
use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SUITE: &str = "bootstrap";

/// Why the program stopped: the last fatal line of its log.
fn why(several: &Several, member: usize) -> String {
    let log = several.log(member);
    let fatal = log
        .lines()
        .rfind(|line| line.contains("\"level\":\"fatal\""));
    let fatal = fatal.unwrap_or_else(|| panic!("no fatal line:\n{}", several.tail(member)));
    let line: serde_json::Value = serde_json::from_str(fatal).expect("a line of JSON");
    // etcd tells what it was doing, and why that failed beside it.
    let text = line.get("error").or_else(|| line.get("msg"));
    text.and_then(|text| text.as_str())
        .unwrap_or_default()
        .to_owned()
}

/// Starts a member that can't, and returns why and its exit code.
fn mistake(several: &mut Several, member: usize, flags: &[&str]) -> (String, i32) {
    several.start(member, flags);
    let code = several.wait_end(member);
    (why(several, member), code)
}

/// The same steps for both programs, on the same ports, one after the other.
fn compare(steps: impl Fn(&mut Several) -> Vec<(String, i32)>, ports: Vec<[u16; 2]>) {
    let ours = need!(SUITE, programs::quorate());
    let etcd = need!(SUITE, programs::etcd_reference());
    let run = |program: &Program| steps(&mut Several::at(program, ports.clone()));
    let (etcds, ours) = (run(&etcd), run(&ours));
    assert_eq!(etcds.len(), ours.len());
    for ((wanted, wanted_code), (found, code)) in etcds.into_iter().zip(ours) {
        assert!(
            found.starts_with(&wanted),
            "etcd says   {wanted}\nquorate says {found}"
        );
        assert_eq!(wanted_code, code, "the exit code of {wanted}");
        note(&format!("{SUITE}: {found}"));
    }
}

#[test]
fn mistakes_of_a_new_cluster_stop_with_etcds_words() {
    let ports = vec![free_ports(), free_ports()];
    compare(
        |several| {
            let (own, other) = (several.members[0].peer_url(), several.members[1].peer_url());
            let mut stop = |cluster: String| mistake(several, 0, &["--initial-cluster", &cluster]);
            vec![
                // The own name is not there.
                stop(format!("a={own},b={other}")),
                // Another URL than the one that is advertised.
                stop(format!("m0={other}")),
                // One URL for two.
                stop(format!("m0={own},b={own}")),
                stop(String::new()),
            ]
        },
        ports,
    );
}

#[test]
fn mistakes_of_joining_stop_with_etcds_words() {
    let ctl = need!(SUITE, programs::peer("etcd-3.5.1", "etcdctl"));
    let ports = vec![free_ports(), free_ports(), free_ports()];
    compare(
        |several| {
            let urls: Vec<_> = several.members.iter().map(|one| one.peer_url()).collect();
            let mut told = Vec::new();
            // Nobody is there.
            let both = format!("m0={},m1={}", urls[0], urls[1]);
            let existing = |cluster: &str| -> Vec<String> {
                [
                    "--initial-cluster",
                    cluster,
                    "--initial-cluster-state",
                    "existing",
                ]
                .map(str::to_owned)
                .to_vec()
            };
            let mut join = |several: &mut Several, cluster: &str| {
                let flags = existing(cluster);
                let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
                told.push(mistake(several, 1, &flags));
            };
            join(several, &both);
            several.start(0, &["--initial-cluster", &format!("m0={}", urls[0])]);
            several.wait_ready(0);
            // It was not added.
            join(several, &both);
            // It was added with another URL.
            let added = several.insist(&ctl, 0, &["member", "add", "m1", "--peer-urls", &urls[2]]);
            assert_eq!(added.code, 0);
            join(several, &both);
            // The id of the added member depends on the second, and the order of members on the ids.
            for (text, _) in &mut told {
                if let Some((before, after)) = text.split_once(" Members:[") {
                    let (_, why) = after.split_once("]}: ").expect("and why");
                    let why = why.split("existing member (").map(|part| {
                        let id = part.split_once(", [http");
                        id.map_or(part.to_owned(), |(_, rest)| format!("<id>, [http{rest}"))
                    });
                    let why: Vec<String> = why.collect();
                    *text = format!("{before}: {}", why.join("existing member ("));
                }
            }
            told
        },
        ports,
    );
}

#[test]
fn a_founding_member_that_was_wiped_is_told_so_and_what_to_do() {
    let ports = vec![free_ports(), free_ports(), free_ports()];
    compare(
        |several| {
            several.found(&[]);
            several.kill(2);
            several.wipe(2);
            let cluster = several.initial_cluster();
            vec![mistake(several, 2, &["--initial-cluster", &cluster])]
        },
        ports,
    );
}

/// What a wiped member is told must work.
#[test]
fn a_wiped_member_comes_back_as_another_one() {
    let program = need!(SUITE, programs::quorate());
    let ctl = need!(SUITE, programs::peer("etcd-3.5.1", "etcdctl"));
    let mut several = Several::new(&program, 3);
    several.found(&[]);
    several.insist(&ctl, 0, &["put", "k", "v"]);
    several.kill(2);
    several.wipe(2);
    let cluster = several.initial_cluster();
    let (told, _) = mistake(&mut several, 2, &["--initial-cluster", &cluster]);
    let id = told.split(' ').nth(1).expect("an id").to_owned();
    several.insist(&ctl, 0, &["member", "remove", &id]);
    let url = several.members[2].peer_url();
    several.insist(&ctl, 0, &["member", "add", "m2", "--peer-urls", &url]);
    let existing = [
        "--initial-cluster",
        &cluster,
        "--initial-cluster-state",
        "existing",
    ];
    several.start(2, &existing);
    several.wait_ready(2);
    assert_eq!(several.insist(&ctl, 2, &["get", "k"]).out, "k\nv\n");
    // The flags of the first start are not in the way of the next.
    several.kill(2);
    several.start(2, &existing);
    several.wait_ready(2);
    several.kill(2);
    several.start(2, &["--initial-cluster", &cluster]);
    several.wait_ready(2);
}

/// Members of one name and address, but of two clusters by their tokens, never serve each other.
#[test]
fn a_member_of_another_cluster_is_refused_by_both_sides() {
    let program = need!(SUITE, programs::quorate());
    let mut several = Several::new(&program, 2);
    let cluster = several.initial_cluster();
    several.start(0, &["--initial-cluster", &cluster]);
    let other = [
        "--initial-cluster",
        &cluster,
        "--initial-cluster-token",
        "x",
    ];
    several.start(1, &other);
    for member in 0..2 {
        several.wait_log(member, "cluster ID mismatch");
        assert!(!several.is_healthy(member));
    }
}

/// A member starts again with its own directory whatever the flags say of the others by then.
#[test]
fn the_survivor_of_a_lost_cluster_goes_on_alone_if_told_to() {
    let program = need!(SUITE, programs::quorate());
    let ctl = need!(SUITE, programs::peer("etcd-3.5.1", "etcdctl"));
    let mut several = Several::new(&program, 3);
    several.found(&[]);
    several.insist(&ctl, 0, &["put", "k", "v"]);
    for member in 0..3 {
        several.kill(member);
    }
    several.start(1, &["--force-new-cluster"]);
    several.wait_ready(1);
    let list = several.insist(&ctl, 1, &["member", "list"]).out;
    assert_eq!(list.lines().count(), 1, "{list}");
    assert!(list.contains(", m1, "), "{list}");
    assert_eq!(several.insist(&ctl, 1, &["get", "k"]).out, "k\nv\n");
    several.insist(&ctl, 1, &["put", "k", "w"]);
    // The flag may stay; it finds nobody to remove.
    several.kill(1);
    several.start(1, &["--force-new-cluster"]);
    several.wait_ready(1);
    assert_eq!(several.insist(&ctl, 1, &["get", "k"]).out, "k\nw\n");
    // And the cluster grows again.
    several.wipe(2);
    let url = several.members[2].peer_url();
    several.insist(&ctl, 1, &["member", "add", "m2", "--peer-urls", &url]);
    let cluster = format!("m1={},m2={url}", several.members[1].peer_url());
    several.start(
        2,
        &[
            "--initial-cluster",
            &cluster,
            "--initial-cluster-state",
            "existing",
        ],
    );
    several.wait_ready(2);
    assert_eq!(several.insist(&ctl, 2, &["get", "k"]).out, "k\nw\n");
}

/// The configuration of the walkthrough, but for the remarks behind the values.
const ETCD_CONF: &str = r#"
#[Member]
ETCD_DATA_DIR="DATA"
ETCD_LISTEN_PEER_URLS="http://OWN:2380"
ETCD_LISTEN_CLIENT_URLS="http://0.0.0.0:2379"
ETCD_NAME="NAME"
ETCD_SNAPSHOT_COUNT="100000"
ETCD_HEARTBEAT_INTERVAL="100"
ETCD_ELECTION_TIMEOUT="1000"
#[Clustering]
ETCD_INITIAL_ADVERTISE_PEER_URLS="http://OWN:2380"
ETCD_ADVERTISE_CLIENT_URLS="http://0.0.0.0:2379"
ETCD_INITIAL_CLUSTER="etcd1=http://192.168.126.135:2380,etcd2=http://192.168.126.136:2380"
ETCD_INITIAL_CLUSTER_TOKEN="etcd-cluster"
ETCD_INITIAL_CLUSTER_STATE="new"
"#;

/// The two machines of the walkthrough: a namespace each, with its very address.
#[test]
fn two_machines_start_from_their_environment_files_with_the_ids_of_the_walkthrough() {
    let program = need!(SUITE, programs::quorate());
    let ctl = need!(SUITE, programs::peer("etcd-3.5.1", "etcdctl"));
    let machines = allowed!(SUITE, Machines::make());
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = Unit::start(&machines, 0, &program, folder.path());
    assert_eq!(
        first.told(Duration::from_secs(3)),
        None,
        "ready without its second member:\n{}",
        first.log()
    );
    let second = Unit::start(&machines, 1, &program, folder.path());
    for unit in [&first, &second] {
        let told = unit.told(several::PATIENCE);
        assert_eq!(told.as_deref(), Some("READY=1"), "{}", unit.log());
    }
    let list = machines.ctl(0, &ctl, &["member", "list"]);
    assert_eq!(
        list,
        "168ae043a1f52da5, started, etcd2, http://192.168.126.136:2380, http://0.0.0.0:2379, false\n\
         e3bf8bcaa9f960b4, started, etcd1, http://192.168.126.135:2380, http://0.0.0.0:2379, false\n"
    );
    assert_eq!(machines.ctl(0, &ctl, &["put", "k", "v"]), "OK\n");
    assert_eq!(machines.ctl(1, &ctl, &["get", "k"]), "k\nv\n");
    let status = machines.ctl(1, &ctl, &["endpoint", "status", "-w", "json"]);
    // In decimal: ebb44d8d1f09e651.
    assert!(
        status.contains("\"cluster_id\":16984285363227453009"),
        "{status}"
    );
    // Which the first one is again after it has gone.
    drop(first);
    first = Unit::start(&machines, 0, &program, folder.path());
    assert_eq!(first.told(several::PATIENCE).as_deref(), Some("READY=1"));
    assert_eq!(machines.ctl(0, &ctl, &["get", "k"]), "k\nv\n");
}

/// Two network namespaces with a cable between them.
struct Machines {
    names: [String; 2],
}

const ADDRESSES: [&str; 2] = ["192.168.126.135", "192.168.126.136"];

impl Machines {
    fn make() -> Result<Machines, String> {
        let own = std::process::id();
        let machines = Machines {
            names: [format!("qboot{own}a"), format!("qboot{own}b")],
        };
        let [a, b] = &machines.names;
        for name in [a, b] {
            ip(&["netns", "add", name])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        ip(&[
            "-n", a, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", b,
        ])?;
        for (name, address) in machines.names.iter().zip(ADDRESSES) {
            let address = format!("{address}/24");
            ip(&["-n", name, "address", "add", &address, "dev", "cable"])?;
            ip(&["-n", name, "link", "set", "cable", "up"])?;
        }
        Ok(machines)
    }

    /// Runs `etcdctl` on a machine, against its own member.
    fn ctl(&self, machine: usize, program: &Program, args: &[&str]) -> String {
        let done = Command::new("ip")
            .args(["netns", "exec", &self.names[machine]])
            .arg(&program.path)
            .args(["--endpoints", "127.0.0.1:2379"])
            .args(args)
            .env("ETCDCTL_API", "3")
            .output()
            .expect("ip runs");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        assert!(done.status.success(), "{args:?}: {}", text(done.stderr));
        text(done.stdout)
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

fn ip(args: &[&str]) -> Result<(), String> {
    let done = Command::new("ip")
        .args(args)
        .output()
        .map_err(|why| format!("ip: {why}"))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
    }
}

/// A member as systemd runs it: its configuration in its environment, and a socket to say that it is ready.
struct Unit {
    child: Child,
    ready: UnixDatagram,
    log: std::path::PathBuf,
}

impl Unit {
    fn start(machines: &Machines, machine: usize, program: &Program, folder: &Path) -> Unit {
        let name = format!("etcd{}", machine + 1);
        let socket = folder.join(format!("{name}.ready"));
        let _ = std::fs::remove_file(&socket);
        let ready = UnixDatagram::bind(&socket).expect("a socket");
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log).expect("a log");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &machines.names[machine]]);
        command.arg(&program.path).env("NOTIFY_SOCKET", &socket);
        let data = folder.join(&name).display().to_string();
        for line in ETCD_CONF.lines().filter(|line| line.starts_with("ETCD_")) {
            let (variable, value) = line.split_once('=').expect("a variable");
            let value = value
                .trim_matches('"')
                .replace("DATA", &data)
                .replace("OWN", ADDRESSES[machine])
                .replace("NAME", &name);
            command.env(variable, value);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .expect("ip runs");
        Unit { child, ready, log }
    }

    /// What the member tells systemd within this time.
    fn told(&self, patience: Duration) -> Option<String> {
        self.ready.set_read_timeout(Some(patience)).expect("a time");
        let mut text = [0; 64];
        let size = self.ready.recv(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text[..size]).into_owned())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // `ip` has become the member.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
