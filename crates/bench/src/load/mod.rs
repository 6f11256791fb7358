//! The loads: what each connection asks, one behaviour per file section.
//!
//! A [`Load`] drives one connection. It is told when to begin, when an answer came and, in an open loop, when a request is due; it starts requests on the
//! connection it is handed and records what it measured. It never touches a socket or a clock: [`crate::engine`] does.

pub mod keys;
pub mod messages;

use crate::stats::{Nanos, Stats};
use crate::transport::http2::{Body, Conn, Method, Outcome};
use keys::{KEYS_PER_PREFIX, Keyspace, Random, Values, prefix_end};
use std::ops::Range;

/// The state that all loads of one thread share.
pub struct Shared {
    /// What was measured.
    pub stats: Stats,
    /// Time of the event being handled.
    pub now: Nanos,
    /// Requests sent and not yet answered.
    pub in_flight: usize,
    /// The measurement is over: answers are awaited, nothing new is sent.
    pub stopping: bool,
    /// Transactions whose comparison failed.
    pub conflicts: u64,
    /// The keys are known to be there: an answer too short to hold them is an error.
    pub verify: bool,
    keys: Keyspace,
    values: Values,
    random: Random,
    /// The last known mod_revision of every key, for [`Op::Txn`].
    mod_revisions: Vec<i64>,
    key: Vec<u8>,
}

impl Shared {
    /// The least bytes of an answer with so many keys, if they are known to be there.
    fn expected(&self, keys: u64) -> u64 {
        if self.verify {
            keys * self.keys.key_bytes as u64
        } else {
            0
        }
    }

    /// `mod_revisions` may be shorter than the key space; the rest is unknown and learnt from the first conflict.
    pub fn new(
        stats: Stats,
        keys: Keyspace,
        value_bytes: usize,
        seed: u64,
        mod_revisions: Vec<i64>,
    ) -> Shared {
        let mut random = Random::new(seed);
        let values = Values::new(value_bytes, &mut random);
        Shared {
            stats,
            now: 0,
            in_flight: 0,
            stopping: false,
            conflicts: 0,
            verify: false,
            keys,
            values,
            random,
            mod_revisions,
            key: Vec::new(),
        }
    }

    /// The request ended without success.
    fn failed(&mut self, due: Nanos, outcome: &Outcome) {
        let (code, message) = describe(outcome);
        self.stats.failed(due, self.now, &code, message);
    }
}

/// The behaviour of one connection.
pub trait Load: Send {
    /// Before anything is measured: open streams. An error stops the run.
    fn prepare(&mut self, _conn: &mut Conn, _shared: &mut Shared) -> Result<(), String> {
        Ok(())
    }
    /// Whether all that [`Load::prepare`] began has been confirmed.
    fn prepared(&self) -> bool {
        true
    }
    /// The run begins: a closed loop sends its first requests.
    fn start(&mut self, _conn: &mut Conn, _shared: &mut Shared) {}
    /// A request of the open loop is due.
    fn fire(&mut self, _conn: &mut Conn, _shared: &mut Shared, _due: Nanos) {}
    /// A message came for the call started with `token`.
    fn message(&mut self, _conn: &mut Conn, _shared: &mut Shared, _token: u32, _message: &[u8]) {}
    /// The call started with `token` ended.
    fn end(&mut self, conn: &mut Conn, shared: &mut Shared, token: u32, outcome: Outcome);
    /// The run is over: what is still unanswered counts as an error.
    fn abandon(&mut self, _shared: &mut Shared) {}
}

/// One kind of unary request.
#[derive(Debug, Clone)]
pub enum Op {
    /// Put a random key.
    Put,
    /// Put a random key, with the time in the value for the watchers of [`Watchers`].
    PutStamped,
    /// Put each key of the range once, in order, then stop.
    PutEach(Range<u64>),
    /// Read a random key.
    Get {
        /// From the member's own state, without asking for the leader's.
        serializable: bool,
    },
    /// Read all keys of a random prefix of 1000.
    GetPrefix {
        /// As above.
        serializable: bool,
    },
    /// Kubernetes' update of a random key: put if unchanged since last seen, else read.
    Txn,
    /// Reads and puts of random keys.
    Mixed {
        /// How many of 100 requests read.
        read_percent: u8,
    },
    /// Grant a lease.
    LeaseGrant {
        /// Its time to live, seconds.
        ttl_s: i64,
    },
}

/// Unary requests, by a number of clients that each wait for their answer (closed loop), or as they are due (open loop).
pub struct Unary {
    op: Op,
    /// Clients of the closed loop; 0 in an open loop.
    clients: u32,
    calls: Vec<Call>,
    free: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Call {
    due: Nanos,
    key: u64,
    /// Fewer bytes than this cannot be the whole answer.
    bytes_min: u64,
    /// Not yet answered.
    active: bool,
}

impl Unary {
    /// `clients` is 0 for an open loop.
    pub fn new(op: Op, clients: u32) -> Unary {
        Unary {
            op,
            clients,
            calls: Vec::new(),
            free: Vec::new(),
        }
    }

    fn send(&mut self, conn: &mut Conn, shared: &mut Shared, due: Nanos) {
        let key = match &mut self.op {
            Op::PutEach(range) => match range.next() {
                Some(key) => key,
                None => return,
            },
            Op::GetPrefix { .. } => shared.random.below(shared.keys.prefixes()),
            Op::LeaseGrant { .. } => 0,
            _ => shared.random.below(shared.keys.count),
        };
        let call = Call {
            due,
            key,
            bytes_min: 0,
            active: true,
        };
        let token = match self.free.pop() {
            Some(token) => {
                self.calls[token as usize] = call;
                token
            }
            None => {
                self.calls.push(call);
                self.calls.len() as u32 - 1
            }
        };
        shared.in_flight += 1;
        let bytes_min = self.request(conn, shared, token, key);
        self.calls[token as usize].bytes_min = bytes_min;
    }

    /// Starts the call and returns how many bytes its answer must have at least.
    fn request(&self, conn: &mut Conn, shared: &mut Shared, token: u32, index: u64) -> u64 {
        let random_percent = shared.random.below(100);
        match self.op {
            Op::GetPrefix { serializable } => {
                shared.keys.prefix(index, &mut shared.key);
                let (key, end) = (&shared.key, prefix_end(&shared.key));
                conn.call(Method::Range, token, Body::Count, |o| {
                    messages::range(o, key, &end, serializable)
                });
                shared.expected(KEYS_PER_PREFIX)
            }
            Op::LeaseGrant { ttl_s } => {
                conn.call(Method::LeaseGrant, token, Body::Count, |o| {
                    messages::lease_grant(o, ttl_s)
                });
                0
            }
            Op::Get { serializable } => get(conn, shared, token, index, serializable),
            Op::Mixed { read_percent } if random_percent < u64::from(read_percent) => {
                get(conn, shared, token, index, false)
            }
            _ => self.write(conn, shared, token, index),
        }
    }

    fn write(&self, conn: &mut Conn, shared: &mut Shared, token: u32, index: u64) -> u64 {
        shared.keys.key(index, &mut shared.key);
        let value = shared.values.pick(&mut shared.random);
        let (key, now) = (&shared.key, shared.now);
        match self.op {
            Op::Txn => {
                let seen = shared.mod_revisions.get(index as usize).copied();
                conn.call(Method::Txn, token, Body::Deliver, |o| {
                    messages::txn_update(o, key, value, seen.unwrap_or(0))
                });
            }
            Op::PutStamped => conn.call(Method::Put, token, Body::Count, |o| {
                messages::put_stamped(o, key, value, now)
            }),
            _ => conn.call(Method::Put, token, Body::Count, |o| {
                messages::put(o, key, value)
            }),
        }
        0
    }
}

fn get(conn: &mut Conn, shared: &mut Shared, token: u32, index: u64, serializable: bool) -> u64 {
    shared.keys.key(index, &mut shared.key);
    let key = &shared.key;
    conn.call(Method::Range, token, Body::Count, |o| {
        messages::range(o, key, &[], serializable)
    });
    shared.expected(1)
}

impl Load for Unary {
    fn start(&mut self, conn: &mut Conn, shared: &mut Shared) {
        for _ in 0..self.clients {
            self.send(conn, shared, shared.now);
        }
    }

    fn fire(&mut self, conn: &mut Conn, shared: &mut Shared, due: Nanos) {
        self.send(conn, shared, due);
    }

    fn message(&mut self, _: &mut Conn, shared: &mut Shared, token: u32, message: &[u8]) {
        // Only transactions ask for their messages.
        let index = self.calls[token as usize].key as usize;
        shared.conflicts += u64::from(!messages::txn_succeeded(message));
        if shared.mod_revisions.len() <= index {
            shared.mod_revisions.resize(index + 1, 0);
        }
        // Answers to two transactions on one key may come in any order; the later revision is the truth.
        let seen = &mut shared.mod_revisions[index];
        *seen = (*seen).max(messages::txn_mod_revision(message));
    }

    fn end(&mut self, conn: &mut Conn, shared: &mut Shared, token: u32, outcome: Outcome) {
        let call = self.calls[token as usize];
        self.calls[token as usize].active = false;
        self.free.push(token);
        shared.in_flight -= 1;
        let lost = outcome == Outcome::Lost;
        match outcome {
            Outcome::Ok { bytes } if bytes < call.bytes_min => {
                let why = "the answer is too short to hold the keys that are there";
                shared
                    .stats
                    .failed(call.due, shared.now, "wrong answer", why);
            }
            Outcome::Ok { bytes } => {
                shared
                    .stats
                    .completed(call.due, shared.now, self.clients == 0, bytes)
            }
            other => shared.failed(call.due, &other),
        }
        if self.clients > 0 && !shared.stopping && !lost {
            self.send(conn, shared, shared.now);
        }
    }

    fn abandon(&mut self, shared: &mut Shared) {
        for call in self.calls.iter().filter(|c| c.active) {
            shared.stats.failed(
                call.due,
                shared.now,
                "unanswered",
                "no answer before the end of the run",
            );
        }
    }
}

/// What watchers watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// All of them the first prefix of 1000 keys.
    Prefix,
    /// Each the key of its own number.
    OwnKey,
}

/// Watchers, each on a stream of its own. They measure the time from the put's send to their event.
pub struct Watchers {
    watched: Watched,
    numbers: Range<u64>,
    created: u64,
}

impl Watchers {
    /// The watchers of one connection have consecutive numbers among all watchers.
    pub fn new(watched: Watched, numbers: Range<u64>) -> Watchers {
        Watchers {
            watched,
            numbers,
            created: 0,
        }
    }
}

impl Load for Watchers {
    fn prepare(&mut self, conn: &mut Conn, shared: &mut Shared) -> Result<(), String> {
        for number in self.numbers.clone() {
            let Some(stream) = conn.open(Method::Watch, 0) else {
                return Err("the server allows fewer streams on one connection than watchers were asked for; use more --connections".into());
            };
            let end = match self.watched {
                Watched::Prefix => {
                    shared.keys.prefix(0, &mut shared.key);
                    prefix_end(&shared.key)
                }
                Watched::OwnKey => {
                    shared.keys.key(number, &mut shared.key);
                    Vec::new()
                }
            };
            conn.send(stream, |o| messages::watch_create(o, &shared.key, &end));
        }
        Ok(())
    }

    fn prepared(&self) -> bool {
        self.created == self.numbers.end - self.numbers.start
    }

    fn message(&mut self, _: &mut Conn, shared: &mut Shared, _: u32, message: &[u8]) {
        let (stats, now) = (&mut shared.stats, shared.now);
        let note = messages::watch_response(message, |stamp| {
            if let Some(sent) = stamp {
                stats.event(sent, now);
            }
        });
        self.created += u64::from(note.created);
        if note.canceled {
            stats.failed(
                now,
                now,
                "watch cancelled",
                "the server cancelled a watcher",
            );
        }
    }

    fn end(&mut self, _: &mut Conn, shared: &mut Shared, _: u32, outcome: Outcome) {
        shared.failed(shared.now, &outcome);
    }
}

/// Keepalives: each client has a stream and asks again when its answer came, going round the leases it was given.
pub struct KeepAlives {
    leases: Vec<i64>,
    clients: Vec<Client>,
}

struct Client {
    stream: u32,
    sent: Nanos,
    next: usize,
    waiting: bool,
}

impl KeepAlives {
    /// `leases` must not be empty.
    pub fn new(leases: Vec<i64>, clients: u32) -> KeepAlives {
        assert!(!leases.is_empty(), "keepalives need a lease");
        let clients = (0..clients)
            .map(|i| Client {
                stream: 0,
                sent: 0,
                next: i as usize,
                waiting: false,
            })
            .collect();
        KeepAlives { leases, clients }
    }

    fn ask(&mut self, conn: &mut Conn, shared: &mut Shared, token: u32) {
        let client = &mut self.clients[token as usize];
        let lease = self.leases[client.next % self.leases.len()];
        client.next += 1;
        client.sent = shared.now;
        client.waiting = true;
        shared.in_flight += 1;
        conn.send(client.stream, |o| messages::lease_keep_alive(o, lease));
    }
}

impl Load for KeepAlives {
    fn prepare(&mut self, conn: &mut Conn, _: &mut Shared) -> Result<(), String> {
        for (token, client) in self.clients.iter_mut().enumerate() {
            client.stream = conn
                .open(Method::LeaseKeepAlive, token as u32)
                .ok_or("the server allows fewer streams on one connection than clients were asked for; use more --connections")?;
        }
        Ok(())
    }

    fn start(&mut self, conn: &mut Conn, shared: &mut Shared) {
        for token in 0..self.clients.len() as u32 {
            self.ask(conn, shared, token);
        }
    }

    fn message(&mut self, conn: &mut Conn, shared: &mut Shared, token: u32, message: &[u8]) {
        let client = &mut self.clients[token as usize];
        client.waiting = false;
        shared.in_flight -= 1;
        if messages::lease_ttl(message) > 0 {
            shared
                .stats
                .completed(client.sent, shared.now, false, message.len() as u64);
        } else {
            shared.stats.failed(
                client.sent,
                shared.now,
                "lease gone",
                "a keepalive was answered with TTL 0",
            );
        }
        if !shared.stopping {
            self.ask(conn, shared, token);
        }
    }

    fn end(&mut self, _: &mut Conn, shared: &mut Shared, token: u32, outcome: Outcome) {
        let client = &mut self.clients[token as usize];
        shared.in_flight -= usize::from(std::mem::take(&mut client.waiting));
        shared.failed(shared.now, &outcome);
    }
}

/// A connection that is only there.
pub struct Idle;

impl Load for Idle {
    fn end(&mut self, _: &mut Conn, shared: &mut Shared, _: u32, outcome: Outcome) {
        shared.failed(shared.now, &outcome);
    }
}

/// The name under which a failure is counted, and its message.
pub fn describe(outcome: &Outcome) -> (String, &str) {
    match outcome {
        Outcome::Ok { .. } => (
            "ended".into(),
            "the server ended a stream that was to stay open",
        ),
        Outcome::Status(code, message) => (code_name(*code).into(), message),
        Outcome::Reset(code) => (format!("RST_STREAM {code}"), "the server reset the stream"),
        Outcome::NotGrpc(status) => (format!("HTTP {status}"), "the answer was not gRPC"),
        Outcome::Lost => (
            "connection lost".into(),
            "the connection went away before the answer",
        ),
    }
}

fn code_name(code: u32) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES
        .get(code as usize)
        .copied()
        .unwrap_or("status above 16")
}

#[cfg(test)]
mod tests;
