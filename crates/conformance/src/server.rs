//! A server in a folder of its own, on free ports: ours or real etcd, told apart by nothing but the program.
//!
//! A [`Server`] is killed by its process id when it is dropped; if the test is failing then, the end of its log is printed.
//! Nothing here talks gRPC: a server is ready when `/health` says so.

use crate::programs::Program;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take until it serves, or until it has stopped. Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to start and how.
pub struct Launch {
    program: Program,
    before: Vec<String>,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    data_dir: Option<PathBuf>,
    own_urls: bool,
    founding: bool,
    scheme: &'static str,
}

impl Launch {
    /// A single member with default settings.
    pub fn new(program: &Program) -> Self {
        Launch {
            program: program.clone(),
            before: Vec::new(),
            flags: Vec::new(),
            environment: Vec::new(),
            data_dir: None,
            own_urls: true,
            founding: true,
            scheme: "http",
        }
    }

    /// Further flags, after the standard ones.
    pub fn flags<I: IntoIterator<Item = S>, S: Into<String>>(mut self, flags: I) -> Self {
        self.flags.extend(flags.into_iter().map(Into::into));
        self
    }

    /// Arguments before the standard ones, for a program that starts another.
    pub fn before(mut self, arguments: impl IntoIterator<Item = String>) -> Self {
        self.before.extend(arguments);
        self
    }

    /// One environment variable.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// A data folder that is there already, instead of a fresh one.
    pub fn data_dir(mut self, folder: &Path) -> Self {
        self.data_dir = Some(folder.to_path_buf());
        self
    }

    /// Without the flags that say which cluster is founded, as one starts a member that exists.
    pub fn without_founding(mut self) -> Self {
        self.founding = false;
        self
    }

    /// Serves clients with TLS, whose flags are given besides. It is ready when its log says so.
    pub fn https(mut self) -> Self {
        self.scheme = "https";
        self
    }

    /// Only the flags given: no ports, no data folder. For tests of the command line.
    pub fn bare(mut self) -> Self {
        self.own_urls = false;
        self
    }

    /// Starts the server and waits until it is healthy. One that does not get there fails the test with the end of its log.
    pub fn start(self) -> Server {
        let mut server = self.spawn();
        server
            .wait_ready()
            .unwrap_or_else(|error| panic!("{error}"));
        server
    }

    /// Starts the server and does not wait.
    pub fn spawn(self) -> Server {
        let mut server = self.prepare();
        server.spawn().unwrap_or_else(|error| panic!("{error}"));
        server
    }

    /// Chooses ports and folders without starting anything: [`Server::start_again`] does.
    pub fn prepare(self) -> Server {
        let scratch = tempfile::Builder::new()
            .prefix("quorate-conformance-")
            .tempdir()
            .expect("a scratch folder");
        let data_dir = self
            .data_dir
            .clone()
            .unwrap_or_else(|| scratch.path().join("data"));
        let log = scratch.path().join("server.log");
        let [client, peer] = free_ports();
        Server {
            launch: self,
            child: None,
            client,
            peer,
            data_dir,
            log,
            log_begin: 0,
            _scratch: scratch,
        }
    }

    /// Runs the program to its end, as one does with a command line that it must refuse.
    pub fn run_to_end(self) -> Ended {
        let mut server = self.spawn();
        let status = server.wait_end().unwrap_or_else(|error| panic!("{error}"));
        Ended {
            status,
            output: server.log(),
        }
    }
}

/// How a program ended and all that it printed.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub output: String,
}

impl Ended {
    /// The exit status as a shell shows it: 128 + the signal for a program that a signal ended.
    pub fn shell_status(&self) -> i32 {
        shell_status(self.status)
    }
}

/// The exit status as a shell shows it.
pub fn shell_status(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// A running (or stopped) server.
pub struct Server {
    launch: Launch,
    child: Option<Child>,
    client: u16,
    peer: u16,
    data_dir: PathBuf,
    log: PathBuf,
    /// Where the log of the latest start begins.
    log_begin: usize,
    _scratch: tempfile::TempDir,
}

impl Server {
    /// Starts `program` as a single member with default settings and waits until it is healthy.
    pub fn start(program: &Program) -> Server {
        Launch::new(program).start()
    }

    /// `127.0.0.1:port` for clients.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.client)
    }

    /// `127.0.0.1:port` for other members.
    pub fn peer_address(&self) -> String {
        format!("127.0.0.1:{}", self.peer)
    }

    /// The address for clients as a socket address.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.client))
    }

    /// Name of the program, for messages.
    pub fn name(&self) -> &str {
        &self.launch.program.name
    }

    /// The data folder.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Everything printed so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// Ends it as a power cut would as far as the process is concerned: SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends `signal` and waits for the end.
    pub fn stop(&mut self, signal: Signal) -> Result<ExitStatus, String> {
        let child = self.child.as_ref().ok_or("the server is not running")?;
        let pid = Pid::from_child(child);
        kill_process(pid, signal).map_err(|e| format!("kill {pid:?}: {e}"))?;
        self.wait_end()
    }

    /// Starts it again on the same folder and ports, and waits until it is healthy.
    pub fn start_again(&mut self) -> Result<(), String> {
        self.start_without_waiting()?;
        self.wait_ready()
    }

    /// Starts it again on the same folder and ports.
    pub fn start_without_waiting(&mut self) -> Result<(), String> {
        assert!(self.child.is_none(), "stop it first");
        self.spawn()
    }

    /// The status with which the process ended by itself, as a shell shows it.
    pub fn exit_status(&mut self) -> Option<i32> {
        self.child
            .as_mut()?
            .try_wait()
            .ok()
            .flatten()
            .map(shell_status)
    }

    /// True while the process runs.
    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Waits until the process has ended by itself.
    pub fn wait_end(&mut self) -> Result<ExitStatus, String> {
        let until = Instant::now() + PATIENCE;
        let child = self.child.as_mut().ok_or("the server is not running")?;
        while Instant::now() < until {
            if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
                self.child = None;
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(format!(
            "{} still runs after {PATIENCE:?}; its log ends:\n{}",
            self.name(),
            self.log_tail()
        ))
    }

    /// Waits until `/health` answers 200.
    pub fn wait_ready(&mut self) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let is_ready = match self.launch.scheme {
                "http" => {
                    let health = http_get(self.socket(), "/health");
                    health.is_ok_and(|reply| reply.status == 200)
                }
                _ => {
                    let log = self.log();
                    let since = log.get(self.log_begin..).unwrap_or_default();
                    since.contains("ready to serve client requests")
                }
            };
            if is_ready {
                return Ok(());
            }
            if !self.is_running() {
                return Err(format!(
                    "{} ended before it served:\n{}",
                    self.name(),
                    self.log_tail()
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(format!(
            "{} was not ready after {PATIENCE:?}; its log ends:\n{}",
            self.name(),
            self.log_tail()
        ))
    }

    fn spawn(&mut self) -> Result<(), String> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(|e| format!("log file: {e}"))?;
        self.log_begin = self.log().len();
        let errors = output.try_clone().map_err(|e| format!("log file: {e}"))?;
        let launch = &self.launch;
        let mut command = Command::new(&launch.program.path);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD") {
                command.env_remove(name);
            }
        }
        command.args(&launch.before);
        if launch.own_urls {
            let client = format!("{}://127.0.0.1:{}", launch.scheme, self.client);
            let peer = format!("http://127.0.0.1:{}", self.peer);
            command.arg("--data-dir").arg(&self.data_dir);
            command.args([
                "--name",
                "default",
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ]);
            command.args(["--listen-peer-urls", &peer]);
            if launch.founding {
                command.args(["--initial-advertise-peer-urls", &peer]);
                command.args(["--initial-cluster", &format!("default={peer}")]);
            }
        }
        command
            .args(&launch.flags)
            .envs(launch.environment.iter().cloned());
        command.current_dir(self._scratch.path());
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command
            .spawn()
            .map_err(|e| format!("{}: {e}", launch.program.path.display()))?;
        self.child = Some(child);
        Ok(())
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            crate::suite::note(&format!(
                "the log of {} ends:\n{}",
                self.name(),
                self.log_tail()
            ));
        }
    }
}

/// An answer over HTTP/1.1.
#[derive(Debug, Clone)]
pub struct HttpReply {
    pub status: u16,
    /// Header lines as they came, without the status line.
    pub headers: Vec<String>,
    pub body: String,
}

impl HttpReply {
    /// The value of header `name`, if it came.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// `GET path`.
pub fn http_get(server: SocketAddr, path: &str) -> Result<HttpReply, String> {
    http(server, "GET", path, "")
}

/// One request on a connection of its own.
pub fn http(server: SocketAddr, method: &str, path: &str, body: &str) -> Result<HttpReply, String> {
    let mut stream =
        TcpStream::connect_timeout(&server, Duration::from_secs(2)).map_err(|e| e.to_string())?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .map_err(|e| e.to_string())?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    parse_reply(&bytes)
}

/// Reads an answer over HTTP/1.1 that is all there.
pub fn parse_reply(bytes: &[u8]) -> Result<HttpReply, String> {
    let split = bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .ok_or_else(|| format!("no HTTP answer in {} bytes", bytes.len()))?;
    let head = String::from_utf8_lossy(&bytes[..split]).into_owned();
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .ok_or_else(|| format!("status line: {status_line}"))?;
    let mut reply = HttpReply {
        status,
        headers: lines.map(str::to_string).collect(),
        body: String::new(),
    };
    let body = &bytes[split + 4..];
    let chunked = reply
        .header("transfer-encoding")
        .is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    reply.body = String::from_utf8_lossy(&if chunked {
        unchunk(body)
    } else {
        body.to_vec()
    })
    .into_owned();
    Ok(reply)
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|w| w == b"\r\n") {
        let size =
            usize::from_str_radix(String::from_utf8_lossy(&body[..end]).trim(), 16).unwrap_or(0);
        let chunk = &body[end + 2..];
        if size == 0 || chunk.len() < size {
            break;
        }
        whole.extend_from_slice(&chunk[..size]);
        body = chunk.get(size + 2..).unwrap_or_default();
    }
    whole
}

/// Ports that nobody listens on now, below the range from which the kernel takes ports of outgoing connections.
pub fn free_ports<const N: usize>() -> [u16; N] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut found = [0; N];
    for port in &mut found {
        *port = loop {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let candidate =
                20_000 + ((std::process::id().wrapping_mul(37) + step * 7) % 12_000) as u16;
            if TcpListener::bind((Ipv4Addr::LOCALHOST, candidate)).is_ok() {
                break candidate;
            }
        };
    }
    found
}
