//! Several servers as one cluster: found, pause, find the leader, end it, replace a member whose disk is gone.

use crate::engine::{Client, Target};
use crate::load::messages;
use crate::procfs;
use crate::servers::{Place, Server, Spec};
use crate::transport::http2::Method;
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a cluster may take until it has a leader on which all agree, or until it writes again.
const AGREEMENT: Duration = Duration::from_secs(60);
/// A question to a member whose answer decides nothing but whether to ask again.
const SHORT: Duration = Duration::from_millis(250);
/// How long a cluster rests after it was resumed or a member came back, before it is measured.
const SETTLE: Duration = Duration::from_secs(1);

/// The members of one cluster.
pub struct Cluster {
    spec: Spec,
    servers: Vec<Server>,
}

/// One who replaced another: how long it took from the start of its process.
#[derive(Debug, Clone, Copy)]
pub struct Replaced {
    /// To the first linearizable read that it answered: then it has everything.
    pub in_step: Duration,
}

impl Cluster {
    /// Founds a cluster of `size` members under `parent` and waits until all serve and agree on a leader.
    pub fn found(spec: &Spec, parent: &Path, size: usize) -> Result<Cluster> {
        let mut servers = Vec::new();
        for place in Place::founders(size)? {
            servers.push(Server::launch(spec, parent, place)?);
        }
        for server in &mut servers {
            server.wait_ready()?;
        }
        let cluster = Cluster {
            spec: spec.clone(),
            servers,
        };
        cluster.agreed_leader()?;
        Ok(cluster)
    }

    /// All members, for clients that spread over them.
    pub fn target(&self) -> Target {
        self.target_without(None)
    }

    /// All members but one.
    pub fn target_without(&self, absent: Option<usize>) -> Target {
        let present = (0..self.servers.len()).filter(|i| Some(*i) != absent);
        Target {
            endpoints: present.map(|i| self.servers[i].endpoint()).collect(),
            token: None,
        }
    }

    /// One member.
    pub fn target_of(&self, member: usize) -> Target {
        Target {
            endpoints: vec![self.servers[member].endpoint()],
            token: None,
        }
    }

    /// Process ids of all members.
    pub fn pids(&self) -> Vec<u32> {
        self.servers.iter().map(Server::pid).collect()
    }

    /// Stops all processes from running (SIGSTOP).
    pub fn pause(&mut self) -> Result<()> {
        self.servers.iter_mut().try_for_each(Server::pause)
    }

    /// Lets them run again and waits until they are one cluster as before: their connections may have run into deadlines.
    pub fn resume(&mut self) -> Result<()> {
        self.servers.iter_mut().try_for_each(Server::resume)?;
        std::thread::sleep(SETTLE / 2);
        self.agreed_leader()?;
        self.wait_writes(None)?;
        std::thread::sleep(SETTLE / 2);
        Ok(())
    }

    /// A follower; always the same one under the same leader.
    pub fn follower(&self) -> Result<usize> {
        Ok((self.agreed_leader()? + 1) % self.servers.len())
    }

    /// The leader on which all members agree.
    pub fn agreed_leader(&self) -> Result<usize> {
        let deadline = Instant::now() + AGREEMENT;
        loop {
            let views: Result<Vec<(u64, u64)>> = self.servers.iter().map(view).collect();
            if let Ok(views) = &views
                && views.iter().all(|v| v.1 != 0 && v.1 == views[0].1)
                && let Some(leader) = views.iter().position(|v| v.0 == views[0].1)
            {
                return Ok(leader);
            }
            ensure!(
                Instant::now() < deadline,
                "{}: no leader on which all agree within {} s: {views:?}",
                self.spec.name,
                AGREEMENT.as_secs()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a write through one of the members succeeds, the absent one not asked.
    pub fn wait_writes(&self, absent: Option<usize>) -> Result<()> {
        let endpoints = self.target_without(absent).endpoints;
        let deadline = Instant::now() + AGREEMENT;
        for endpoint in endpoints.iter().cycle() {
            // A write that went to a leader that is gone is not answered for seconds: ask anew instead.
            let wrote = Client::connect(endpoint, None, SHORT).and_then(|mut client| {
                client.call(Method::Put, |o| messages::put(o, b"again", b"1"))
            });
            let Err(error) = wrote else { return Ok(()) };
            if Instant::now() > deadline {
                bail!(
                    "{}: no write within {} s: {error:#}",
                    self.spec.name,
                    AGREEMENT.as_secs()
                );
            }
        }
        bail!("{}: nobody is left to write to", self.spec.name)
    }

    /// Ends a member with SIGKILL.
    pub fn kill(&mut self, member: usize) -> Result<()> {
        self.servers[member].kill()
    }

    /// Ends a member with SIGTERM and waits for its end.
    pub fn stop(&mut self, member: usize) -> Result<()> {
        self.servers[member].stop()
    }

    /// Starts a member again that was ended, and waits until it serves and all agree.
    pub fn start_again(&mut self, member: usize) -> Result<()> {
        self.servers[member].start_again()?;
        self.servers[member].wait_ready()?;
        self.agreed_leader()?;
        std::thread::sleep(SETTLE);
        Ok(())
    }

    /// Replaces a member as operators do when its disk is gone: remove it, add another under its URL, start that with nothing. Returns when the new one has
    /// caught up.
    pub fn replace(&mut self, member: usize) -> Result<Replaced> {
        let leader = self.agreed_leader()?;
        let (id, _) = view(&self.servers[member])?;
        let mut client = Client::connect(
            &self.servers[leader].endpoint(),
            None,
            Duration::from_secs(30),
        )?;
        change(&mut client, Method::MemberRemove, |o| {
            messages::member_remove(o, id)
        })?;
        self.servers[member].kill()?;
        let url = self.servers[member].peer_url();
        change(&mut client, Method::MemberAdd, |o| {
            messages::member_add(o, &url)
        })?;
        let begin = Instant::now();
        self.servers[member].start_empty()?;
        self.servers[member].wait_ready()?;
        Ok(Replaced {
            in_step: begin.elapsed(),
        })
    }

    /// CPU that all processes used over `time` of doing nothing, in percent of one core.
    pub fn cpu_percent(&self, time: Duration) -> Result<f64> {
        let (begin, before) = (Instant::now(), procfs::fine_cpu_ns(&self.pids())?);
        std::thread::sleep(time);
        let used = procfs::fine_cpu_ns(&self.pids())?.saturating_sub(before);
        Ok(used as f64 / begin.elapsed().as_nanos() as f64 * 100.0)
    }
}

/// Changes the membership. Members refuse that until they have been connected for a while; an operator would try again.
fn change(client: &mut Client, method: Method, encode: impl Fn(&mut Vec<u8>)) -> Result<()> {
    let deadline = Instant::now() + AGREEMENT;
    while let Err(error) = client.call(method, &encode) {
        if Instant::now() > deadline {
            return Err(error).context("changing the membership");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// A member's own id, and whom it takes for the leader.
fn view(server: &Server) -> Result<(u64, u64)> {
    let status = Client::connect(&server.endpoint(), None, Duration::from_secs(5))?
        .call(Method::Status, |_| {})?;
    Ok((
        messages::header_member(&status),
        messages::status_leader(&status),
    ))
}
