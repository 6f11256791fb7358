//! Several members of one cluster on loopback ports, started by hand and one by one: for tests of how clusters begin and change.

#![allow(dead_code, reason = "each test takes what it needs")]

use conformance::ctl::{Answer, Ctl};
use conformance::programs::Program;
use conformance::server::{free_ports, http_get};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a member may take for anything. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Members of one program. They are killed by their ids when this is dropped.
pub struct Several {
    program: Program,
    scratch: tempfile::TempDir,
    pub members: Vec<One>,
}

/// One member, running or not.
pub struct One {
    pub name: String,
    pub client: u16,
    pub peer: u16,
    folder: PathBuf,
    child: Option<Child>,
}

impl Several {
    /// Chooses ports and names `m0`, `m1`, ...; nothing runs yet.
    pub fn new(program: &Program, count: usize) -> Several {
        let ports = (0..count).map(|_| free_ports()).collect();
        Several::at(program, ports)
    }

    /// The same with these ports for clients and peers.
    pub fn at(program: &Program, ports: Vec<[u16; 2]>) -> Several {
        let scratch = tempfile::Builder::new()
            .prefix("quorate-several-")
            .tempdir()
            .expect("a scratch folder");
        let mut several = Several {
            program: program.clone(),
            scratch,
            members: Vec::new(),
        };
        for ports in ports {
            several.add_at(ports);
        }
        several
    }

    /// One more, which does not run yet either.
    pub fn add(&mut self) -> usize {
        self.add_at(free_ports())
    }

    fn add_at(&mut self, [client, peer]: [u16; 2]) -> usize {
        let name = format!("m{}", self.members.len());
        let folder = self.scratch.path().join(&name);
        std::fs::create_dir(&folder).expect("a folder");
        self.members.push(One {
            name,
            client,
            peer,
            folder,
            child: None,
        });
        self.members.len() - 1
    }

    /// `--initial-cluster` of all members that there are now.
    pub fn initial_cluster(&self) -> String {
        let pairs: Vec<_> = self
            .members
            .iter()
            .map(|one| format!("{}={}", one.name, one.peer_url()))
            .collect();
        pairs.join(",")
    }

    /// Starts a member with its own flags, and with these.
    pub fn start(&mut self, member: usize, flags: &[&str]) {
        let program = self.program.path.clone();
        let one = &mut self.members[member];
        assert!(one.child.is_none(), "{} runs already", one.name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(one.folder.join("log"))
            .expect("a log file");
        let client = format!("http://127.0.0.1:{}", one.client);
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD") {
                command.env_remove(name);
            }
        }
        command
            .args(["--name", &one.name, "--data-dir"])
            .arg(one.data_dir())
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &one.peer_url()])
            .args(["--initial-advertise-peer-urls", &one.peer_url()])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        one.child = Some(command.spawn().expect("the program starts"));
    }

    /// Founds a cluster of all members and waits until each serves.
    pub fn found(&mut self, flags: &[&str]) {
        let cluster = self.initial_cluster();
        for member in 0..self.members.len() {
            let flags = [&["--initial-cluster", &cluster], flags].concat();
            self.start(member, &flags);
        }
        for member in 0..self.members.len() {
            self.wait_ready(member);
        }
    }

    /// Waits until `/health` answers 200.
    pub fn wait_ready(&mut self, member: usize) {
        let until = Instant::now() + PATIENCE;
        while !self.is_healthy(member) {
            let one = &mut self.members[member];
            let name = one.name.clone();
            assert!(one.is_running(), "{name} ended:\n{}", self.tail(member));
            assert!(
                Instant::now() < until,
                "{name} is not ready:\n{}",
                self.tail(member)
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn is_healthy(&self, member: usize) -> bool {
        let reply = http_get(self.members[member].socket(), "/health");
        reply.is_ok_and(|reply| reply.status == 200)
    }

    /// Waits for the end of a member: the code with which it exits, or 128 and the signal.
    pub fn wait_end(&mut self, member: usize) -> i32 {
        let until = Instant::now() + PATIENCE;
        loop {
            let child = self.members[member].child.as_mut().expect("it was started");
            if let Some(status) = child.try_wait().expect("it can be waited for") {
                self.members[member].child = None;
                return conformance::server::shell_status(status);
            }
            assert!(Instant::now() < until, "still runs:\n{}", self.tail(member));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until its log has a line with this, and returns the first.
    pub fn wait_log(&self, member: usize, part: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let log = self.log(member);
            if let Some(line) = log.lines().find(|line| line.contains(part)) {
                return line.to_owned();
            }
            assert!(
                Instant::now() < until,
                "no {part:?} in the log:\n{}",
                self.tail(member)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn signal(&self, member: usize, signal: Signal) {
        let child = self.members[member].child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("it is ours");
    }

    pub fn kill(&mut self, member: usize) {
        self.signal(member, Signal::KILL);
        self.wait_end(member);
    }

    /// Removes the data of a member that does not run.
    pub fn wipe(&mut self, member: usize) {
        let one = &self.members[member];
        assert!(one.child.is_none(), "{} runs", one.name);
        std::fs::remove_dir_all(one.data_dir()).expect("the folder is there");
    }

    pub fn log(&self, member: usize) -> String {
        let bytes = std::fs::read(self.members[member].folder.join("log"));
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }

    pub fn tail(&self, member: usize) -> String {
        let log = self.log(member);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// `etcdctl` that talks to one member.
    pub fn ctl(&self, program: &Program, member: usize) -> Ctl {
        Ctl::new(program, self.members[member].socket().to_string())
    }

    /// Repeats a command until it succeeds.
    pub fn insist(&self, program: &Program, member: usize, args: &[&str]) -> Answer {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = self.ctl(program, member).run(args);
            if answer.code == 0 {
                return answer;
            }
            assert!(Instant::now() < until, "{args:?}: {answer:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The member that leads, as member `asked` sees it.
    pub fn leader(&self, program: &Program, asked: usize) -> usize {
        let until = Instant::now() + PATIENCE;
        loop {
            let all: Vec<_> = self
                .members
                .iter()
                .map(|m| m.socket().to_string())
                .collect();
            let ctl = Ctl::new(program, all.join(","));
            let status = ctl.run(&["endpoint", "status"]);
            let leads = |line: &&str| line.split(", ").nth(4) == Some("true");
            let found = status.out.lines().find(leads).and_then(|line| {
                let address = line.split(", ").next()?;
                self.members
                    .iter()
                    .position(|one| one.socket().to_string() == address)
            });
            if let Some(found) = found {
                return found;
            }
            assert!(Instant::now() < until, "no leader: {}", self.tail(asked));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl One {
    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer)
    }

    pub fn socket(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.client))
    }

    pub fn peer_socket(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.peer))
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub fn is_running(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Several {
    fn drop(&mut self) {
        for one in &mut self.members {
            if let Some(mut child) = one.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if std::thread::panicking() {
            for member in 0..self.members.len() {
                let note = format!("the log of m{member} ends:\n{}", self.tail(member));
                conformance::suite::note(&note);
            }
        }
    }
}
