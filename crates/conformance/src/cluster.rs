//! Several servers as one cluster: ours, real etcd, or a mix, each a process of its own with a folder of its own, on loopback ports or each in a
//! network namespace of its own.
//!
//! A [`Cluster`] ends its processes by their ids when it is dropped, then takes down its disks and namespaces, also after a panic; if the test is
//! failing then, the end of each member's log is printed. Start with [`Plan::start`].

pub mod admin;
pub mod disk;
pub mod network;

use crate::cluster::disk::Disk;
use crate::cluster::network::Network;
use crate::programs::Program;
use crate::server::{free_ports, http_get};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a member may take until it serves, until it has ended, or until a change of membership is accepted.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// Ports in a namespace, where every member has its own address.
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// What to found.
pub struct Plan {
    programs: Vec<Program>,
    flags: Vec<String>,
    network: Option<Network>,
    disk: Disk,
}

impl Plan {
    /// One member for each program, on loopback ports.
    pub fn new(programs: &[Program]) -> Plan {
        Plan {
            programs: programs.to_vec(),
            flags: Vec::new(),
            network: None,
            disk: Disk::Folder,
        }
    }

    /// Further flags for every member.
    pub fn flags<S: Into<String>>(mut self, flags: impl IntoIterator<Item = S>) -> Plan {
        self.flags.extend(flags.into_iter().map(Into::into));
        self
    }

    /// Every member in a namespace of this network.
    pub fn network(mut self, network: Network) -> Plan {
        self.network = Some(network);
        self
    }

    /// What every member's data lies on.
    pub fn disk(mut self, disk: Disk) -> Plan {
        self.disk = disk;
        self
    }

    /// Founds the cluster and waits until every member serves.
    pub fn start(self) -> Result<Cluster, String> {
        let mut cluster = Cluster {
            members: Vec::new(),
            flags: self.flags,
            disk: self.disk,
            network: self.network,
            made: 0,
            scratch: tempfile::Builder::new()
                .prefix("quorate-cluster-")
                .tempdir()
                .map_err(|e| format!("a scratch folder: {e}"))?,
        };
        for program in &self.programs {
            let member = cluster.new_member(program)?;
            cluster.members.push(member);
        }
        let founders = cluster.urls();
        for member in &mut cluster.members {
            member.initial_cluster.clone_from(&founders);
            member.spawn(&cluster.flags)?;
        }
        for index in 0..cluster.members.len() {
            cluster.wait_ready(index)?;
        }
        Ok(cluster)
    }
}

/// A cluster of processes. Members are named by their place; who was removed leaves a place that stays empty.
pub struct Cluster {
    members: Vec<Member>,
    flags: Vec<String>,
    disk: Disk,
    network: Option<Network>,
    made: usize,
    scratch: tempfile::TempDir,
}

/// One process and what it needs to be started again.
struct Member {
    name: String,
    program: Program,
    client: SocketAddr,
    peer: SocketAddr,
    namespace: Option<String>,
    folder: PathBuf,
    disk: Option<disk::Mounted>,
    log: PathBuf,
    initial_cluster: String,
    joins: bool,
    child: Option<Child>,
    removed: bool,
}

impl Cluster {
    /// Places of the members that belong to the cluster, running or not.
    pub fn present(&self) -> Vec<usize> {
        (0..self.members.len())
            .filter(|index| !self.members[*index].removed)
            .collect()
    }

    /// Places of the members whose process runs.
    pub fn running(&self) -> Vec<usize> {
        let present = self.present().into_iter();
        present
            .filter(|index| self.members[*index].child.is_some())
            .collect()
    }

    /// Where a member serves clients.
    pub fn address(&self, member: usize) -> SocketAddr {
        self.members[member].client
    }

    /// `host:port` of every member that belongs to the cluster.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.present()
            .into_iter()
            .map(|index| self.address(index))
            .collect()
    }

    /// The program that a member runs.
    pub fn program(&self, member: usize) -> &Program {
        &self.members[member].program
    }

    /// The network, if the members have one of their own.
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// Everything that a member has printed.
    pub fn log(&self, member: usize) -> String {
        self.members[member].log()
    }

    /// SIGKILL.
    pub fn kill(&mut self, member: usize) {
        self.members[member].kill();
    }

    /// SIGTERM, and waits for the end. The exit status as a shell shows it.
    pub fn stop(&mut self, member: usize) -> Result<i32, String> {
        self.signal(member, Signal::TERM)?;
        self.wait_end(member)
    }

    /// Waits until a member has ended by itself. The exit status as a shell shows it.
    pub fn wait_end(&mut self, member: usize) -> Result<i32, String> {
        let until = Instant::now() + PATIENCE;
        let member = &mut self.members[member];
        while Instant::now() < until {
            let child = member.child.as_mut().ok_or("it is not running")?;
            if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
                member.child = None;
                return Ok(crate::server::shell_status(status));
            }
            std::thread::sleep(LOOK);
        }
        Err(format!(
            "{} still runs after {PATIENCE:?}:\n{}",
            member.name,
            member.log_tail()
        ))
    }

    /// Stops the process from running (SIGSTOP) until [`Cluster::resume`].
    pub fn pause(&self, member: usize) -> Result<(), String> {
        self.signal(member, Signal::STOP)
    }

    /// Lets it run again.
    pub fn resume(&self, member: usize) -> Result<(), String> {
        self.signal(member, Signal::CONT)
    }

    /// Starts a member again on what it has, and does not wait.
    pub fn start(&mut self, member: usize) -> Result<(), String> {
        self.members[member].spawn(&self.flags)
    }

    /// Starts it again and waits until it serves.
    pub fn start_again(&mut self, member: usize) -> Result<(), String> {
        self.start(member)?;
        self.wait_ready(member)
    }

    /// Removes everything that a member which is not running has.
    pub fn wipe(&mut self, member: usize) -> Result<(), String> {
        let member = &self.members[member];
        assert!(member.child.is_none(), "stop it first");
        let folder = member.data_dir();
        std::fs::remove_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))
    }

    /// Whether the process has ended, by itself or by a signal.
    pub fn has_ended(&mut self, member: usize) -> bool {
        self.members[member].has_ended()
    }

    /// Waits until `/health` answers 200: then there is a leader and reads go through.
    pub fn wait_ready(&mut self, member: usize) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        let member = &mut self.members[member];
        while Instant::now() < until {
            if http_get(member.client, "/health").is_ok_and(|reply| reply.status == 200) {
                return Ok(());
            }
            if member.has_ended() {
                return Err(format!(
                    "{} ended before it served:\n{}",
                    member.name,
                    member.log_tail()
                ));
            }
            std::thread::sleep(LOOK);
        }
        Err(format!(
            "{} did not serve within {PATIENCE:?}:\n{}",
            member.name,
            member.log_tail()
        ))
    }

    /// Adds a voter or a learner that runs `program`, asking member `through`, and starts it. Does not wait: a learner is not healthy before it is
    /// promoted.
    pub fn add(
        &mut self,
        program: &Program,
        learner: bool,
        through: usize,
    ) -> Result<usize, String> {
        let mut member = self.new_member(program)?;
        let url = member.peer_url();
        admin::persist(PATIENCE, || {
            admin::member_add(self.address(through), &url, learner)
        })
        .map_err(|failure| format!("adding {url}: {failure}"))?;
        member.joins = true;
        member.initial_cluster = format!("{},{}={url}", self.urls(), member.name);
        member.spawn(&self.flags)?;
        self.members.push(member);
        Ok(self.members.len() - 1)
    }

    /// Makes a learner a voter as soon as the leader finds that it has caught up, and waits until it serves.
    pub fn promote(&mut self, member: usize, through: usize) -> Result<(), String> {
        let id = self.id(member)?;
        admin::persist(PATIENCE, || {
            admin::member_promote(self.address(through), id)
        })
        .map_err(|failure| format!("promoting {}: {failure}", self.members[member].name))?;
        self.wait_ready(member)
    }

    /// Removes a member, asking member `through`. Its process may be running; it ends by itself then.
    pub fn remove(&mut self, member: usize, through: usize) -> Result<(), String> {
        let id = self.id_by(member, through)?;
        admin::persist(PATIENCE, || admin::member_remove(self.address(through), id))
            .map_err(|failure| format!("removing {}: {failure}", self.members[member].name))?;
        self.members[member].removed = true;
        Ok(())
    }

    /// The id that a running member has.
    pub fn id(&self, member: usize) -> Result<u64, String> {
        let status = admin::persist(PATIENCE, || admin::status(self.address(member)))
            .map_err(|failure| format!("status of {}: {failure}", self.members[member].name))?;
        Ok(status.header.map_or(0, |header| header.member_id))
    }

    /// The id of a member as another one knows it.
    pub fn id_by(&self, member: usize, through: usize) -> Result<u64, String> {
        let url = self.members[member].peer_url();
        let list = admin::persist(PATIENCE, || admin::member_list(self.address(through)))
            .map_err(|failure| format!("member list: {failure}"))?;
        let found = list.iter().find(|known| known.peer_ur_ls.contains(&url));
        found
            .map(|known| known.id)
            .ok_or_else(|| format!("{url} is not in {list:?}"))
    }

    /// The leader that all running members agree on; waits for the agreement.
    pub fn leader(&self) -> Result<usize, String> {
        let until = Instant::now() + PATIENCE;
        let running = self.running();
        loop {
            let views: Vec<_> = running
                .iter()
                .map(|index| admin::status(self.address(*index)))
                .collect();
            let known: Vec<(u64, u64)> = views
                .iter()
                .flatten()
                .map(|s| (s.leader, s.header.as_ref().map_or(0, |h| h.member_id)))
                .collect();
            let agreed =
                known.len() == views.len() && known.iter().all(|k| k.0 != 0 && k.0 == known[0].0);
            if let (true, Some(place)) = (agreed, known.iter().position(|k| k.1 == known[0].0)) {
                return Ok(running[place]);
            }
            if Instant::now() > until {
                return Err(format!("no leader that all agree on: {views:?}"));
            }
            std::thread::sleep(LOOK * 5);
        }
    }

    /// Hands the lead to a member and waits until all agree.
    pub fn lead(&self, member: usize) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        let id = self.id(member)?;
        loop {
            let leader = self.leader()?;
            if leader == member {
                return Ok(());
            }
            let moved = admin::move_leader(self.address(leader), id);
            if Instant::now() > until {
                return Err(format!("the lead does not move to {id:x}: {moved:?}"));
            }
            std::thread::sleep(LOOK * 5);
        }
    }

    /// Compares these members at one revision, the newest that the first of them knows, once all have reached it. Nobody may compact meanwhile. Learners
    /// refuse it.
    pub fn compare_hashes(&self, members: &[usize]) -> Result<(i64, u32), String> {
        let through = *members.first().ok_or("nobody to compare")?;
        let revision = admin::persist(PATIENCE, || admin::revision(self.address(through)))
            .map_err(|failure| format!("reading the revision: {failure}"))?;
        let mut hashes = Vec::new();
        for member in members.iter().copied() {
            // A member that is behind calls it a future revision.
            let hash = admin::persist(PATIENCE, || admin::hash_kv(self.address(member), revision))
                .map_err(|failure| {
                    format!(
                        "HashKV of {} at {revision}: {failure}",
                        self.members[member].name
                    )
                })?;
            hashes.push((member, hash));
        }
        let first = hashes.first().map_or((0, 0), |(_, hash)| *hash);
        // Who was compacted further hashes less: that is no difference.
        let same = hashes
            .iter()
            .all(|(_, hash)| hash.1 != first.1 || *hash == first);
        if !same {
            return Err(format!(
                "members differ at revision {revision}: (member, (hash, compacted)): {hashes:?}"
            ));
        }
        Ok((revision, first.0))
    }

    /// Waits until a member has applied what another one has applied now. For learners too.
    pub fn wait_in_step(&self, member: usize, with: usize) -> Result<(), String> {
        let ask = |index: usize| admin::persist(PATIENCE, || admin::status(self.address(index)));
        let goal = ask(with).map_err(|failure| format!("status: {failure}"))?;
        let until = Instant::now() + PATIENCE;
        loop {
            let reached = admin::status(self.address(member));
            if reached
                .as_ref()
                .is_ok_and(|status| status.raft_applied_index >= goal.raft_applied_index)
            {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!(
                    "{} does not catch up with {goal:?}: {reached:?}\n{}",
                    self.members[member].name,
                    self.members[member].log_tail()
                ));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Compares the keys of a member that is in step with those of another one. For learners too, which refuse to hash. Nobody may compact meanwhile.
    pub fn compare_keys(&self, member: usize, with: usize) -> Result<(), String> {
        let revision = admin::persist(PATIENCE, || admin::revision(self.address(with)))
            .map_err(|failure| format!("reading the revision: {failure}"))?;
        let keys = |index: usize| {
            admin::persist(PATIENCE, || admin::keys_at(self.address(index), revision))
                .map_err(|failure| format!("keys at {revision}: {failure}"))
        };
        match keys(member)? == keys(with)? {
            true => Ok(()),
            false => Err(format!(
                "{} shows other keys at revision {revision}",
                self.members[member].name
            )),
        }
    }

    /// Cuts the power of these members: what was not synced is gone, and the processes as well.
    pub fn cut_power(&mut self, members: &[usize]) -> Result<(), String> {
        let disks: Vec<&disk::Mounted> = members
            .iter()
            .filter_map(|index| self.members[*index].disk.as_ref())
            .collect();
        assert_eq!(
            disks.len(),
            members.len(),
            "these have no disk of their own"
        );
        disk::cut_power(&disks)?;
        for index in members {
            self.kill(*index);
            let disk = self.members[*index].disk.as_mut();
            disk.expect("checked above").power_again()?;
        }
        Ok(())
    }

    /// Leaves no room on a member's disk.
    pub fn fill_disk(&self, member: usize) -> Result<(), String> {
        let disk = self.members[member].disk.as_ref();
        disk.ok_or("it has no disk of its own")?.fill()
    }

    /// Takes away what filled it.
    pub fn free_disk(&self, member: usize) -> Result<(), String> {
        let disk = self.members[member].disk.as_ref();
        disk.ok_or("it has no disk of its own")?.free()
    }

    fn signal(&self, member: usize, signal: Signal) -> Result<(), String> {
        let child = self.members[member].child.as_ref();
        let pid = Pid::from_child(child.ok_or("it is not running")?);
        kill_process(pid, signal).map_err(|e| format!("signal to {pid:?}: {e}"))
    }

    /// `name=url,...` of all that belong to the cluster.
    fn urls(&self) -> String {
        let present = self.present().into_iter().map(|index| {
            let member = &self.members[index];
            format!("{}={}", member.name, member.peer_url())
        });
        present.collect::<Vec<_>>().join(",")
    }

    fn new_member(&mut self, program: &Program) -> Result<Member, String> {
        self.made += 1;
        let name = format!("m{}", self.made);
        let (client, peer, namespace) = match &mut self.network {
            Some(network) => {
                let host = network.add_host()?;
                let address = network.address(host);
                let namespace = network.namespace(host);
                (
                    SocketAddr::from((address, CLIENT_PORT)),
                    SocketAddr::from((address, PEER_PORT)),
                    Some(namespace),
                )
            }
            None => {
                let [client, peer] = free_ports();
                (
                    SocketAddr::from((Ipv4Addr::LOCALHOST, client)),
                    SocketAddr::from((Ipv4Addr::LOCALHOST, peer)),
                    None,
                )
            }
        };
        let folder = self.scratch.path().join(&name);
        std::fs::create_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let disk = self.disk.mount(&folder)?;
        Ok(Member {
            log: self.scratch.path().join(format!("{name}.log")),
            name,
            program: program.clone(),
            client,
            peer,
            namespace,
            folder,
            disk,
            initial_cluster: String::new(),
            joins: false,
            child: None,
            removed: false,
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            member.kill();
            if std::thread::panicking() {
                eprintln!(
                    "--- {} ({}) ends with:\n{}",
                    member.name,
                    member.program.name,
                    member.log_tail()
                );
            }
        }
    }
}

impl Member {
    fn peer_url(&self) -> String {
        format!("http://{}", self.peer)
    }

    fn data_dir(&self) -> PathBuf {
        let root = self.disk.as_ref().map(disk::Mounted::folder);
        root.unwrap_or(&self.folder).join("data")
    }

    fn spawn(&mut self, flags: &[String]) -> Result<(), String> {
        assert!(self.child.is_none(), "stop it first");
        let log = || File::options().create(true).append(true).open(&self.log);
        let (out, err) = (log().map_err(text)?, log().map_err(text)?);
        let mut command = self.command();
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD") {
                command.env_remove(name);
            }
        }
        let client = format!("http://{}", self.client);
        let peer = self.peer_url();
        command.args(["--name", &self.name]);
        command.arg("--data-dir").arg(self.data_dir());
        command.args(["--listen-client-urls", &client]);
        command.args(["--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer]);
        command.args(["--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &self.initial_cluster]);
        let state = if self.joins { "existing" } else { "new" };
        command.args(["--initial-cluster-state", state]);
        command.args(flags);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = command
            .spawn()
            .map_err(|e| format!("{}: {e}", self.program.path.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// The program, within its namespace. `nsenter` becomes the program, so the process id is the program's own.
    fn command(&self) -> Command {
        match &self.namespace {
            None => Command::new(&self.program.path),
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command
                    .arg(format!("--net={}", network::path(namespace).display()))
                    .arg(&self.program.path);
                command
            }
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn has_ended(&mut self) -> bool {
        match &mut self.child {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => true,
        }
    }

    fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

/// Runs a tool of the system that must succeed; its message otherwise.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> Result<String, String> {
    let done = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    Err(format!(
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&done.stderr).trim()
    ))
}

/// A path as an argument.
pub(crate) fn as_text(path: &Path) -> &str {
    path.to_str().expect("scratch folders have plain names")
}
