//! Servers as child processes: start on free ports and a fresh directory, wait until ready, pause, restart, stop.
//!
//! A server is ended by its own process id and its directory removed when the value is dropped, also after an error; and on SIGINT and SIGTERM after
//! [`clean_up_on_signal`].

use crate::engine::{self, Client, Nanos, Target};
use crate::load::messages;
use crate::transport::http2::Method;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Process ids and directories of the servers that run, for [`clean_up_on_signal`].
static RUNNING: Mutex<Vec<(u32, PathBuf)>> = Mutex::new(Vec::new());

const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(60);

/// How a server is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// What reports call it.
    pub name: String,
    /// Program and arguments; blanks separate, quotes and backslashes protect. With `{client}`, `{peer}` (ports), `{dir}`, `{name}`, `{cluster}` or `{state}`
    /// in it they are filled in; without any, etcd's usual flags are appended.
    pub command: String,
}

/// What one member is told about itself and the others.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// Its port for clients.
    pub client: u16,
    /// Its port for other members.
    pub peer: u16,
    /// `name=url,...` of all members, itself included.
    pub cluster: String,
    /// Whether it joins members that are there already.
    pub joins: bool,
}

impl Place {
    /// One for each of `count` members that will found a cluster, on ports that were free a moment ago.
    pub fn founders(count: usize) -> Result<Vec<Place>> {
        let ports = free_ports(count)?;
        let name = |i: usize| {
            if count == 1 {
                "bench".to_owned()
            } else {
                format!("bench-{}", i + 1)
            }
        };
        let urls: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(i, (_, peer))| format!("{}=http://127.0.0.1:{peer}", name(i)))
            .collect();
        let cluster = urls.join(",");
        let places = ports.iter().enumerate().map(|(i, (client, peer))| Place {
            name: name(i),
            client: *client,
            peer: *peer,
            cluster: cluster.clone(),
            joins: false,
        });
        Ok(places.collect())
    }
}

impl Spec {
    /// Program and arguments for a server at this place in this directory.
    pub fn arguments(&self, place: &Place, dir: &Path) -> Result<Vec<String>> {
        const PLACEHOLDERS: [&str; 6] = [
            "{client}",
            "{peer}",
            "{dir}",
            "{name}",
            "{cluster}",
            "{state}",
        ];
        let mut words = split_words(&self.command)?;
        ensure!(
            !words.is_empty(),
            "the command of server {} is empty",
            self.name
        );
        let state = if place.joins { "existing" } else { "new" };
        let values = [
            place.client.to_string(),
            place.peer.to_string(),
            dir.display().to_string(),
            place.name.clone(),
            place.cluster.clone(),
            state.to_owned(),
        ];
        if PLACEHOLDERS.iter().any(|p| self.command.contains(p)) {
            for word in &mut words {
                for (placeholder, value) in PLACEHOLDERS.iter().zip(&values) {
                    *word = word.replace(placeholder, value);
                }
            }
            return Ok(words);
        }
        let client = format!("http://127.0.0.1:{}", place.client);
        let peer = format!("http://127.0.0.1:{}", place.peer);
        let flags = [
            ("--name", values[3].clone()),
            ("--data-dir", values[2].clone()),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer.clone()),
            ("--initial-cluster", place.cluster.clone()),
            ("--initial-cluster-state", state.to_owned()),
            ("--quota-backend-bytes", (8u64 << 30).to_string()),
            ("--log-level", "error".to_owned()),
        ];
        for (flag, value) in flags {
            // What the user chose stays.
            if !words
                .iter()
                .any(|w| w == flag || w.starts_with(&format!("{flag}=")))
            {
                words.extend([flag.to_owned(), value]);
            }
        }
        Ok(words)
    }
}

/// A running server.
pub struct Server {
    spec: Spec,
    child: Child,
    place: Place,
    dir: TempDir,
    paused: bool,
}

/// How long a restart took.
#[derive(Debug, Clone, Copy)]
pub struct Restart {
    /// From SIGTERM to the end of the process.
    pub stop: Duration,
    /// From the start of the process to the first answer to a linearizable read.
    pub ready: Duration,
}

impl Server {
    /// Starts a server of its own in a fresh directory under `parent` and waits until it answers a linearizable read.
    pub fn start(spec: &Spec, parent: &Path) -> Result<Server> {
        let place = Place::founders(1)?.remove(0);
        let mut server = Server::launch(spec, parent, place)?;
        server.wait_ready()?;
        Ok(server)
    }

    /// Starts a member in a fresh directory under `parent` and does not wait: founders wait for each other.
    pub fn launch(spec: &Spec, parent: &Path, place: Place) -> Result<Server> {
        let dir = tempfile::Builder::new()
            .prefix("quorate-bench-")
            .tempdir_in(parent)
            .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
        let child = spawn(spec, &place, dir.path())?;
        Ok(Server {
            spec: spec.clone(),
            child,
            place,
            dir,
            paused: false,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub fn target(&self) -> Target {
        Target {
            endpoints: vec![self.endpoint()],
            token: None,
        }
    }

    /// `host:port` for clients.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.place.client)
    }

    /// Its URL for other members.
    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.place.peer)
    }

    /// Stops the process from running at all (SIGSTOP), so that nothing it does in the background disturbs the other server.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)?;
        self.paused = true;
        Ok(())
    }

    /// Lets it run again.
    pub fn resume(&mut self) -> Result<()> {
        if std::mem::take(&mut self.paused) {
            self.signal(Signal::CONT)?;
        }
        Ok(())
    }

    /// Ends the process in order and starts it again on the same directory.
    pub fn restart(&mut self) -> Result<Restart> {
        let begin = Instant::now();
        self.stop()?;
        let stop = begin.elapsed();
        let begin = Instant::now();
        self.start_again()?;
        self.wait_ready()?;
        Ok(Restart {
            stop,
            ready: begin.elapsed(),
        })
    }

    /// Starts the ended process again on the same directory and does not wait.
    pub fn start_again(&mut self) -> Result<()> {
        self.child = spawn(&self.spec, &self.place, self.dir.path())?;
        Ok(())
    }

    /// Starts the ended process again without anything it had, as a member that joins the others; does not wait.
    pub fn start_empty(&mut self) -> Result<()> {
        let data = data_path(self.dir.path());
        std::fs::remove_dir_all(&data)
            .with_context(|| format!("cannot remove {}", data.display()))?;
        self.place.joins = true;
        self.start_again()
    }

    /// Ends the process with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        forget(self.child.id());
        self.paused = false;
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends the process with SIGTERM and waits for it.
    pub fn stop(&mut self) -> Result<()> {
        self.resume()?;
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + STOP;
        while self.child.try_wait()?.is_none() {
            ensure!(
                Instant::now() < deadline,
                "{} did not end within {} s of SIGTERM",
                self.spec.name,
                STOP.as_secs()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        forget(self.child.id());
        Ok(())
    }

    /// Waits until it answers a linearizable read.
    pub fn wait_ready(&mut self) -> Result<()> {
        let timeout = START;
        let deadline = engine::now() + timeout.as_nanos() as Nanos;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended while starting ({status}); its output:\n{}",
                    self.spec.name,
                    self.log_tail()
                );
            }
            let Err(error) = self.read_one(timeout) else {
                return Ok(());
            };
            if engine::now() > deadline {
                bail!(
                    "{} was not ready within {} s: {error:#}; its output:\n{}",
                    self.spec.name,
                    timeout.as_secs(),
                    self.log_tail()
                );
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn read_one(&self, timeout: Duration) -> Result<()> {
        Client::connect(&self.endpoint(), None, timeout)?
            .call(Method::Range, |o| messages::range(o, b"ready", &[], false))?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid =
            Pid::from_raw(self.child.id() as i32).context("a child has a process id above 0")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.spec.name))
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read(log_path(self.dir.path())).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(4000)..]).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        forget(self.child.id());
        // SIGKILL ends a paused process as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(spec: &Spec, place: &Place, dir: &Path) -> Result<Child> {
    let words = spec.arguments(place, &data_path(dir))?;
    let log = File::options()
        .create(true)
        .append(true)
        .open(log_path(dir))?;
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {}", words[0]))?;
    running().push((child.id(), dir.to_owned()));
    Ok(child)
}

/// Ends this process on SIGINT or SIGTERM, but first the servers it started, and removes their directories.
pub fn clean_up_on_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let mut signals = {
        let _inside = runtime.enter();
        [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        ]
    };
    let wait = move || {
        let [interrupt, terminate] = &mut signals;
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        for (pid, dir) in running().drain(..) {
            if let Some(pid) = Pid::from_raw(pid as i32) {
                let _ = kill_process(pid, Signal::KILL);
            }
            let _ = std::fs::remove_dir_all(dir);
        }
        std::process::exit(130);
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(wait)?;
    Ok(())
}

/// The list stays usable after a panic elsewhere: it is only pushed to and cut.
fn running() -> MutexGuard<'static, Vec<(u32, PathBuf)>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process has ended: its id may soon be another's.
fn forget(pid: u32) {
    running().retain(|r| r.0 != pid);
}

fn log_path(dir: &Path) -> PathBuf {
    dir.join("output.log")
}

fn data_path(dir: &Path) -> PathBuf {
    dir.join("data")
}

/// Pairs of ports that were free a moment ago.
fn free_ports(pairs: usize) -> Result<Vec<(u16, u16)>> {
    // All held until all are known, so that none is given twice.
    let listeners: Vec<TcpListener> = (0..2 * pairs)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<std::io::Result<_>>()?;
    let ports: Vec<u16> = listeners
        .iter()
        .map(|l| Ok(l.local_addr()?.port()))
        .collect::<std::io::Result<_>>()?;
    Ok(ports.chunks(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Splits a command as a shell would, without expanding anything.
fn split_words(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word
                .get_or_insert_default()
                .push(chars.next().context("a backslash ends the command")?),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    ensure!(quote.is_none(), "a quote is not closed in: {text}");
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(command: &str) -> Vec<String> {
        let spec = Spec {
            name: "x".into(),
            command: command.into(),
        };
        let place = Place {
            name: "bench".into(),
            client: 1234,
            peer: 1235,
            cluster: "bench=http://127.0.0.1:1235".into(),
            joins: false,
        };
        spec.arguments(&place, Path::new("/d")).unwrap()
    }

    #[test]
    fn a_plain_command_gets_etcds_flags_unless_it_has_them() {
        let words = arguments("/bin/etcd --log-level=warn --name me");
        assert_eq!(words[0], "/bin/etcd");
        let flag = |name: &str| {
            words
                .iter()
                .position(|w| w == name)
                .map(|i| words[i + 1].as_str())
        };
        assert_eq!(flag("--data-dir"), Some("/d"));
        assert_eq!(
            flag("--initial-cluster"),
            Some("bench=http://127.0.0.1:1235")
        );
        assert_eq!(flag("--name"), Some("me"));
        assert_eq!(flag("--log-level"), None);
    }

    #[test]
    fn placeholders_replace_the_flags() {
        assert_eq!(
            arguments("srv -p {client} --dir={dir}/x '{name} y' {state}"),
            ["srv", "-p", "1234", "--dir=/d/x", "bench y", "new"]
        );
    }

    #[test]
    fn words_are_split_as_a_shell_would() {
        assert_eq!(
            split_words(r#" a "b c"  d\ e '' 'x'"y" "#).unwrap(),
            ["a", "b c", "d e", "", "xy"]
        );
        assert!(split_words("a 'b").is_err());
        assert!(split_words("a\\").is_err());
    }

    #[test]
    fn a_server_that_ends_while_starting_is_an_error_with_its_output() {
        let spec = Spec {
            name: "broken".into(),
            command: "sh -c 'echo no such flag {client}; exit 3'".into(),
        };
        let error = format!(
            "{:#}",
            Server::start(&spec, &std::env::temp_dir()).err().unwrap()
        );
        assert!(
            error.contains("broken ended while starting") && error.contains("no such flag"),
            "{error}"
        );
    }
}
