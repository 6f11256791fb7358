//! Runs loads against a server: connections, threads, the event loop, the phases of a run.
//!
//! Each thread owns its connections and waits for them with epoll; there is no async runtime and no lock between threads while a run is measured. A thread reads
//! what a connection has, lets the load answer, and writes once.
//!
//! Start with [`run`]; [`Client`] is the blocking counterpart for set-up work.

use crate::load::keys::Keyspace;
use crate::load::{Load, Shared};
pub use crate::stats::Nanos;
use crate::stats::{Schedule, Stats, Window};
use crate::transport::http2::{Body, Broken, Conn, Events, Method, Outcome};
use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the answers to what was sent may take after the end of a run, unless a plan says otherwise.
pub const DRAIN: Duration = Duration::from_secs(10);
/// How long connecting and preparing may take.
const PREPARE: Duration = Duration::from_secs(60);
/// Longest sleep of a thread, so that it notices the end of the run.
const TICK: Nanos = 20_000_000;
const READ_BYTES: usize = 256 * 1024;

/// Nanoseconds since the first call in this process.
pub fn now() -> Nanos {
    static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);
    BASE.elapsed().as_nanos() as Nanos
}

/// Where the server is and as whom to speak to it.
#[derive(Debug, Clone)]
pub struct Target {
    /// `host:port`, used in turn by the connections.
    pub endpoints: Vec<String>,
    /// Token of an authenticated user.
    pub token: Option<String>,
}

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// After a warm-up and a measured time.
    Elapsed {
        /// Not measured.
        warmup: Duration,
        /// Measured.
        measure: Duration,
    },
    /// When every load has nothing more to send and all is answered.
    Done,
    /// When the closure given to [`run`] returns.
    Told,
}

/// What [`run`] shall do.
pub struct Plan {
    /// The server.
    pub target: Target,
    /// One per connection.
    pub loads: Vec<Box<dyn Load>>,
    /// Indices into `loads` that take part in the open loop.
    pub open: Vec<usize>,
    /// Requests per second of the open loop.
    pub rate: Option<f64>,
    /// Generator threads.
    pub threads: usize,
    /// The end.
    pub until: Until,
    /// The keys.
    pub keys: Keyspace,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Start of all random choices.
    pub seed: u64,
    /// What is known of the keys' mod_revisions.
    pub mod_revisions: Vec<i64>,
    /// Whether all keys are known to be there, so that an answer without them is wrong.
    pub verify: bool,
    /// How long the answers to what was sent may take after the end.
    pub drain: Duration,
}

/// What a run yields.
pub struct Outcomes {
    /// All threads together.
    pub stats: Stats,
    /// Transactions whose comparison failed.
    pub conflicts: u64,
}

/// A moment of a run, reported to the closure given to [`run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The measurement begins.
    Begin,
    /// The measurement is over. Not reported for [`Until::Told`], where the return from `Begin` is the end.
    End,
}

/// Runs the plan. `at` is called on this thread at the moments of the run; what it does takes the generator's own CPU, so it should be little.
pub fn run(plan: Plan, mut at: impl FnMut(Moment)) -> Result<Outcomes> {
    let until = plan.until;
    let (warmup, measure) = match until {
        Until::Elapsed { warmup, measure } => (nanos(warmup), nanos(measure)),
        _ => (0, 0),
    };
    let end = Arc::new(AtomicU64::new(Nanos::MAX));
    let threads = start_threads(plan, warmup, &end)?;
    let start = now() + 5_000_000;
    if let Until::Elapsed { .. } = until {
        end.store(start + warmup + measure, Ordering::Release);
    }
    for thread in &threads {
        // A thread that is gone reports why when it is joined.
        let _ = thread.go.send(start);
    }
    sleep_until(start + warmup);
    at(Moment::Begin);
    match until {
        Until::Elapsed { .. } => {
            sleep_until(start + warmup + measure);
            at(Moment::End);
        }
        Until::Told => end.store(now(), Ordering::Release),
        Until::Done => {}
    }
    let mut outcomes: Option<Outcomes> = None;
    for thread in threads {
        let part = thread
            .handle
            .join()
            .map_err(|_| anyhow!("a generator thread panicked"))??;
        match &mut outcomes {
            None => outcomes = Some(part),
            Some(all) => {
                all.stats.add(&part.stats);
                all.conflicts += part.conflicts;
            }
        }
    }
    if until == Until::Done {
        end.store(now(), Ordering::Release);
        at(Moment::End);
    }
    let mut outcomes = outcomes.context("a run needs at least one connection")?;
    outcomes.stats.window = Window {
        start: start + warmup,
        end: end.load(Ordering::Acquire),
    };
    Ok(outcomes)
}

/// A generator thread that is prepared and waits to be told when to start.
struct Thread {
    go: mpsc::Sender<Nanos>,
    handle: JoinHandle<Result<Outcomes>>,
}

/// Starts the threads with their shares of the connections, and returns when all are prepared or one could not be. In the latter case the others end, because
/// nobody is left to tell them when to start.
fn start_threads(plan: Plan, warmup: Nanos, end: &Arc<AtomicU64>) -> Result<Vec<Thread>> {
    let count = plan.threads.clamp(1, plan.loads.len().max(1));
    let mut shares: Vec<Vec<(usize, Box<dyn Load>)>> = (0..count).map(|_| Vec::new()).collect();
    for (i, load) in plan.loads.into_iter().enumerate() {
        shares[i % count].push((i, load));
    }
    let (prepared, ready) = mpsc::channel::<Result<()>>();
    let mut threads = Vec::new();
    for (number, share) in shares.into_iter().enumerate() {
        let (go, started) = mpsc::channel();
        let (target, open, prepared, end) = (
            plan.target.clone(),
            plan.open.clone(),
            prepared.clone(),
            end.clone(),
        );
        let stats = Stats::new(Window {
            start: 0,
            end: Nanos::MAX,
        });
        let mut shared = Shared::new(
            stats,
            plan.keys,
            plan.value_bytes,
            plan.seed + number as u64,
            plan.mod_revisions.clone(),
        );
        shared.verify = plan.verify;
        let until_done = plan.until == Until::Done;
        let (rate, drain) = (plan.rate, nanos(plan.drain));
        let work = move || -> Result<Outcomes> {
            let mut worker = match Worker::prepare(&target, share, &open, shared) {
                Ok(worker) => worker,
                Err(error) => {
                    let _ = prepared.send(Err(error));
                    bail!("not prepared");
                }
            };
            let _ = prepared.send(Ok(()));
            let start = started.recv().context("the run was given up")?;
            worker.shared.stats = Stats::new(Window {
                start: start + warmup,
                end: Nanos::MAX,
            });
            worker.schedule =
                rate.map(|rate| Schedule::new(start, rate, number as u64, count as u64));
            worker.run(start, &end, until_done, drain)
        };
        let handle = std::thread::Builder::new()
            .name(format!("load-{number}"))
            .spawn(work)
            .context("cannot start a thread")?;
        threads.push(Thread { go, handle });
    }
    for _ in 0..count {
        ready
            .recv_timeout(PREPARE)
            .map_err(|_| anyhow!("connections were not ready within {} s", PREPARE.as_secs()))??;
    }
    Ok(threads)
}

fn nanos(duration: Duration) -> Nanos {
    duration.as_nanos() as Nanos
}

fn sleep_until(at: Nanos) {
    let left = at.saturating_sub(now());
    if left > 0 {
        std::thread::sleep(Duration::from_nanos(left));
    }
}

/// One thread's connections.
struct Worker {
    epoll: OwnedFd,
    peers: Vec<Peer>,
    /// Indices of the peers in the open loop.
    open: Vec<usize>,
    turn: usize,
    schedule: Option<Schedule>,
    shared: Shared,
    scratch: Vec<u8>,
}

struct Peer {
    socket: TcpStream,
    conn: Conn,
    load: Box<dyn Load>,
    /// Begin of a frame that has not come whole.
    partial: Vec<u8>,
    /// Bytes of `conn.out` already written.
    written: usize,
    /// Waiting until the socket takes more.
    blocked: bool,
    dead: bool,
    /// Has something to write though no event brought us here.
    dirty: bool,
}

struct Relay<'a> {
    load: &'a mut dyn Load,
    shared: &'a mut Shared,
}

impl Events for Relay<'_> {
    fn message(&mut self, conn: &mut Conn, token: u32, message: &[u8]) {
        self.load.message(conn, self.shared, token, message);
    }
    fn end(&mut self, conn: &mut Conn, token: u32, outcome: Outcome) {
        self.load.end(conn, self.shared, token, outcome);
    }
}

impl Worker {
    /// Connects, and lets the loads open their streams until all are confirmed.
    fn prepare(
        target: &Target,
        loads: Vec<(usize, Box<dyn Load>)>,
        open: &[usize],
        shared: Shared,
    ) -> Result<Worker> {
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?;
        let mut worker = Worker {
            epoll,
            peers: Vec::new(),
            open: Vec::new(),
            turn: 0,
            schedule: None,
            shared,
            scratch: vec![0; READ_BYTES],
        };
        for (number, load) in loads {
            if open.contains(&number) {
                worker.open.push(worker.peers.len());
            }
            let endpoint = &target.endpoints[number % target.endpoints.len()];
            let socket = connect(endpoint)?;
            socket.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(worker.peers.len() as u64);
            epoll::add(&worker.epoll, &socket, data, epoll::EventFlags::IN)?;
            let conn = Conn::new(endpoint, target.token.as_deref());
            worker.peers.push(Peer {
                socket,
                conn,
                load,
                partial: Vec::new(),
                written: 0,
                blocked: false,
                dead: false,
                dirty: true,
            });
            worker.flush_dirty();
        }
        let deadline = Instant::now() + PREPARE;
        worker.pump_until(deadline, |peer| peer.conn.ready())?;
        for peer in &mut worker.peers {
            peer.load
                .prepare(&mut peer.conn, &mut worker.shared)
                .map_err(|e| anyhow!(e))?;
            peer.dirty = true;
        }
        worker.flush_dirty();
        worker.pump_until(deadline, |peer| peer.load.prepared())?;
        Ok(worker)
    }

    fn pump_until(&mut self, deadline: Instant, done: impl Fn(&Peer) -> bool) -> Result<()> {
        let mut first = 0;
        loop {
            while self.peers.get(first).is_some_and(&done) {
                first += 1;
            }
            if first == self.peers.len() {
                return Ok(());
            }
            if let Some((code, failure)) = self.shared.stats.errors.first_key_value() {
                bail!("while preparing: {code}: {}", failure.example);
            }
            if Instant::now() > deadline {
                bail!("the server did not answer within {} s", PREPARE.as_secs());
            }
            self.wait(TICK)?;
        }
    }

    fn run(
        mut self,
        start: Nanos,
        end: &AtomicU64,
        until_done: bool,
        drain: Nanos,
    ) -> Result<Outcomes> {
        sleep_until(start);
        self.shared.now = now();
        for peer in &mut self.peers {
            peer.load.start(&mut peer.conn, &mut self.shared);
            peer.dirty = true;
        }
        self.flush_dirty();
        loop {
            let at = now();
            let ends = end.load(Ordering::Relaxed);
            self.shared.now = at;
            self.shared.stats.window.end = ends;
            self.shared.stopping = at >= ends;
            // Before asking whether anything is left: a thread that wakes late still owes what was due before the end. Leaving that
            // out would flatter a server exactly when the machine is busy.
            let due = self.fire_due(at, ends);
            let idle = self.shared.in_flight == 0;
            if (until_done || self.shared.stopping) && idle || at >= ends.saturating_add(drain) {
                break;
            }
            self.wait(due.saturating_sub(at).min(TICK))?;
        }
        self.shared.now = now();
        for peer in &mut self.peers {
            peer.load.abandon(&mut self.shared);
        }
        self.shared.stats.close();
        Ok(Outcomes {
            stats: self.shared.stats,
            conflicts: self.shared.conflicts,
        })
    }

    /// Sends what the schedule wants by `at` and returns when the next is due.
    fn fire_due(&mut self, at: Nanos, ends: Nanos) -> Nanos {
        let Some(mut schedule) = self.schedule else {
            return Nanos::MAX;
        };
        while schedule.due() <= at && schedule.due() < ends {
            let alive = (0..self.open.len())
                .map(|i| self.open[(self.turn + i) % self.open.len()])
                .find(|&i| !self.peers[i].dead);
            self.turn += 1;
            match alive {
                Some(i) => {
                    let peer = &mut self.peers[i];
                    peer.load
                        .fire(&mut peer.conn, &mut self.shared, schedule.due());
                    peer.dirty = true;
                }
                None => self.shared.stats.failed(
                    schedule.due(),
                    at,
                    "no connection",
                    "every connection was lost",
                ),
            }
            schedule.advance();
        }
        self.schedule = Some(schedule);
        self.flush_dirty();
        if schedule.due() < ends {
            schedule.due()
        } else {
            Nanos::MAX
        }
    }

    /// Waits for connections, at most `timeout`, and serves those that have something.
    fn wait(&mut self, timeout: Nanos) -> Result<()> {
        if timeout < TICK {
            // epoll's own timeout is in milliseconds; a schedule needs better.
            let timeout = Timespec {
                tv_sec: 0,
                tv_nsec: timeout as _,
            };
            let mut fds = [PollFd::new(&self.epoll, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&timeout)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(error).context("poll"),
            }
        }
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: timeout.min(TICK) as _,
        };
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 64];
        let count = match epoll::wait(&self.epoll, &mut events, Some(&timeout)) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error).context("epoll_wait"),
        };
        for event in &events[..count] {
            let data = event.data;
            self.serve(data.u64() as usize)?;
        }
        Ok(())
    }

    fn serve(&mut self, index: usize) -> Result<()> {
        let peer = &mut self.peers[index];
        if peer.dead {
            return Ok(());
        }
        if let Err(why) = peer.read(&mut self.scratch, &mut self.shared) {
            peer.die(&why, &mut self.shared);
        }
        peer.flush(&self.epoll, index, &mut self.shared);
        Ok(())
    }

    fn flush_dirty(&mut self) {
        for (index, peer) in self.peers.iter_mut().enumerate() {
            if std::mem::take(&mut peer.dirty) {
                peer.flush(&self.epoll, index, &mut self.shared);
            }
        }
    }
}

impl Peer {
    fn read(&mut self, scratch: &mut [u8], shared: &mut Shared) -> Result<(), String> {
        let kept = self.partial.len();
        scratch[..kept].copy_from_slice(&self.partial);
        let count = match self.socket.read(&mut scratch[kept..]) {
            Ok(0) => return Err("the server closed the connection".into()),
            Ok(count) => count,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(e) => return Err(e.to_string()),
        };
        shared.now = now();
        let bytes = &scratch[..kept + count];
        let mut relay = Relay {
            load: &mut *self.load,
            shared,
        };
        let used = self
            .conn
            .feed(bytes, &mut relay)
            .map_err(|e: Broken| e.to_string())?;
        self.partial.clear();
        self.partial.extend_from_slice(&bytes[used..]);
        Ok(())
    }

    fn flush(&mut self, epoll: &OwnedFd, index: usize, shared: &mut Shared) {
        while !self.dead && self.written < self.conn.out.len() {
            match self.socket.write(&self.conn.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => self.die(&e.to_string(), shared),
            }
        }
        let blocked = !self.dead && self.written < self.conn.out.len();
        if !blocked {
            self.conn.out.clear();
            self.written = 0;
        }
        if blocked != self.blocked && !self.dead {
            self.blocked = blocked;
            let flags = if blocked {
                epoll::EventFlags::IN | epoll::EventFlags::OUT
            } else {
                epoll::EventFlags::IN
            };
            // Cannot fail for a descriptor that is registered; if it did, the connection would only be slow to resume.
            let _ = epoll::modify(
                epoll,
                &self.socket,
                epoll::EventData::new_u64(index as u64),
                flags,
            );
        }
    }

    fn die(&mut self, why: &str, shared: &mut Shared) {
        self.dead = true;
        shared
            .stats
            .failed(shared.now, shared.now, "connections lost", why);
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let mut relay = Relay {
            load: &mut *self.load,
            shared,
        };
        self.conn.lose(&mut relay);
        self.conn.out.clear();
    }
}

fn connect(endpoint: &str) -> Result<TcpStream> {
    let mut last = None;
    for address in endpoint
        .to_socket_addrs()
        .with_context(|| format!("{endpoint}: not an address"))?
    {
        match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error).with_context(|| format!("cannot connect to {endpoint}")),
        None => bail!("{endpoint}: no such host"),
    }
}

/// A blocking connection for single requests, outside any measurement.
pub struct Client {
    socket: TcpStream,
    conn: Conn,
    buffer: Vec<u8>,
}

#[derive(Default)]
struct Answer {
    message: Vec<u8>,
    outcome: Option<Outcome>,
}

impl Events for Answer {
    fn message(&mut self, _: &mut Conn, _: u32, message: &[u8]) {
        self.message = message.to_vec();
    }
    fn end(&mut self, _: &mut Conn, _: u32, outcome: Outcome) {
        self.outcome = Some(outcome);
    }
}

impl Client {
    /// Connects to `endpoint` (host:port). A request may take up to `timeout`.
    pub fn connect(endpoint: &str, token: Option<&str>, timeout: Duration) -> Result<Client> {
        let socket = connect(endpoint)?;
        socket.set_read_timeout(Some(timeout))?;
        Ok(Client {
            socket,
            conn: Conn::new(endpoint, token),
            buffer: Vec::new(),
        })
    }

    /// One request and its answer.
    pub fn call(&mut self, method: Method, encode: impl FnOnce(&mut Vec<u8>)) -> Result<Vec<u8>> {
        self.conn.call(method, 0, Body::Deliver, encode);
        let mut answer = Answer::default();
        let mut chunk = vec![0; 64 * 1024];
        loop {
            self.socket.write_all(&self.conn.out)?;
            self.conn.out.clear();
            match answer.outcome.take() {
                None => {}
                Some(Outcome::Ok { .. }) => return Ok(answer.message),
                Some(other) => {
                    let (code, message) = crate::load::describe(&other);
                    bail!("{method:?}: {code}: {message}");
                }
            }
            let count = self
                .socket
                .read(&mut chunk)
                .with_context(|| format!("{method:?}: no answer"))?;
            if count == 0 {
                bail!("{method:?}: the server closed the connection");
            }
            self.buffer.extend_from_slice(&chunk[..count]);
            let used = self.conn.feed(&self.buffer, &mut answer)?;
            self.buffer.drain(..used);
        }
    }
}
