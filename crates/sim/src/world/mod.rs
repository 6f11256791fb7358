//! A cluster, its network, its disks and its clients in one thread, in virtual time.
//!
//! Everything that happens is an [`Event`] in one queue, ordered by time and, at equal times, by when it was scheduled. Nothing is
//! concurrent; races are orders of events, and the seed draws the order. The members are the real ones: [`replica::boot::start`] on a
//! [`MemDisk`], the real workers, the real codecs. What the server does with threads and channels, this does with events: the
//! rules of [`replica::ports`] about order hold here as there.
//!
//! | file | what |
//! |---|---|
//! | `machine` | a member and its workers: inputs, effects, jobs |
//! | `edge` | what a member's server part does with a call |
//! | `clients` | who calls, what, and what is noted of it |
//! | `watchers` | clients that watch, slowly or not, and resume |
//! | `snapshots` | members that fell behind, and what is sent to them |
//! | `members` | who is added, promoted, removed |
//! | `faults`, `rot` | what goes wrong, and when |
//! | `ledger` | what must hold at every step |
//! | `ending` | the liveness phase, and the comparison at the end |

mod clients;
mod edge;
mod ending;
mod faults;
mod ledger;
mod machine;
mod members;
mod rot;
mod snapshots;
mod watchers;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};

use prost::Message as _;
use proto::raftpb;
use replica::Ticket;
use storage::disk::MemDisk;

use crate::checker::history::{History, Outcome};
use crate::dice::Dice;
use crate::plan::{Options, Plan, RATE};
use crate::trace::{Step, Trace};
use clients::{Client, Workload};
use faults::Links;
use ledger::Ledger;
use machine::Machine;
use snapshots::{Slice, Streams};
use watchers::Watching;

/// What may happen.
#[derive(Debug)]
enum Event {
    /// Something in the life of a member; dropped if that life is over.
    Life(usize, u64, Moment),
    /// A message between members arrives, encoded.
    Deliver(usize, Vec<u8>),
    /// A part of a snapshot arrives.
    SnapshotSlice { stream: u64, slice: Slice },
    /// The sender of a snapshot learns whether its last slice was taken.
    SnapshotAnswer { stream: u64, is_taken: bool },
    /// The sender of a snapshot has waited long enough for an answer to this slice.
    SnapshotLate { stream: u64, step: u64 },
    /// A call arrives at a member.
    Call { member: usize, op: usize },
    /// The answer arrives at the client.
    Return { op: usize, outcome: Outcome },
    /// The client has waited long enough.
    GiveUp { op: usize },
    /// The client makes its next call.
    Next { client: usize },
    /// A watching client does something.
    WatchNext { client: usize },
    /// A watching client reads from its stream.
    WatchRead { stream: u64 },
    /// The next fault happens.
    Fault,
    /// Somebody asks the leader to hand over.
    Transfer,
    /// Somebody asks the leader for a change of members.
    Change,
    /// A fault ends.
    Mend(Mend),
}

/// What happens inside a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Tick,
    /// The replica looks at its inbox.
    Step,
    Logged,
    LogRetry,
    SpareReady,
    Applied,
    Stored,
    StoreRetry,
    Maintain,
    Hashed,
    Hub,
    HubClock,
    Past,
    PowerCut,
    Kill,
}

/// What ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mend {
    /// The member starts again.
    Restart(usize),
    /// The network is whole, if no newer partition has begun since.
    Partition(u64),
    /// The disk has room.
    FullDisk(usize),
}

struct Scheduled {
    at_us: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        (self.at_us, self.order) == (other.at_us, other.order)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    /// The earliest is the greatest, as a heap wants it.
    fn cmp(&self, other: &Scheduled) -> Ordering {
        (other.at_us, other.order).cmp(&(self.at_us, self.order))
    }
}

/// One generator per concern.
struct DiceBox {
    network: Dice,
    disk: Dice,
    clock: Dice,
    workload: Dice,
    watch: Dice,
    faults: Dice,
    snapshots: Dice,
    transfers: Dice,
    members: Dice,
}

/// The simulated world.
pub struct World {
    plan: Plan,
    now_us: u64,
    order: u64,
    queue: BinaryHeap<Scheduled>,
    dice: DiceBox,
    machines: Vec<Machine>,
    links: Links,
    workload: Workload,
    clients: Vec<Client>,
    watching: Watching,
    snapshots: Streams,
    /// Members whose removal (true) or promotion (false) was asked for and may still happen.
    changes_asked: BTreeMap<u64, bool>,
    /// By member, life and ticket: promotions that were asked for, the learner and what the leader had committed.
    promotions: BTreeMap<(usize, u64, Ticket), (u64, u64)>,
    ledger: Ledger,
    history: History,
    trace: Trace,
    /// Faults may happen, clients make mistakes.
    is_safety_phase: bool,
    /// No member is left.
    is_over: bool,
    failure: Option<String>,
}

/// What a run came to.
pub struct Run {
    /// Hash of everything that happened.
    pub trace_hash: u64,
    /// Number of steps.
    pub steps: u64,
    /// Number of members.
    pub members: usize,
    /// Simulated time from the first event to the last, in microseconds.
    pub simulated_us: u64,
    /// What clients saw.
    pub history: History,
    /// Faults that happened, by kind.
    pub faults: Vec<(&'static str, u64)>,
    /// Snapshots that were sent whole, and those that replaced a store.
    pub snapshots: (u64, u64),
    /// What went wrong, if anything.
    pub failure: Option<String>,
    /// The last steps, as text.
    pub tail: String,
}

/// Runs one world to its end.
#[must_use]
pub fn run(options: &Options) -> Run {
    let mut world = World::new(Plan::draw(options));
    world.start();
    world.safety_phase();
    if world.failure.is_none() && !world.is_over {
        world.liveness_phase();
    }
    let mut history = world.history;
    history.members = world.ledger.member_lists();
    history.log = world.ledger.into_log();
    history.clock_rate_max = match world.plan.faults {
        faults if faults.clock_jump => u64::MAX,
        faults if faults.drift => *RATE.end(),
        _ => 1000,
    };
    Run {
        trace_hash: world.trace.hash(),
        steps: world.trace.steps(),
        members: world.plan.members,
        simulated_us: world.now_us,
        history,
        faults: world.links.counts(),
        snapshots: (world.snapshots.sent, world.snapshots.installed),
        failure: world.failure,
        tail: world.trace.to_string(),
    }
}

/// Whether others rely on what the sender holds, or on its having heard them.
fn is_promise(message: &raftpb::Message) -> bool {
    use raftpb::MessageType as T;
    match message.r#type() {
        T::MsgAppResp | T::MsgVoteResp | T::MsgPreVoteResp => !message.reject(),
        kind => kind == T::MsgHeartbeatResp,
    }
}

impl World {
    fn new(plan: Plan) -> World {
        let seed = plan.seed;
        World {
            now_us: 0,
            order: 0,
            queue: BinaryHeap::new(),
            dice: DiceBox {
                network: Dice::new(seed, 1),
                disk: Dice::new(seed, 2),
                clock: Dice::new(seed, 3),
                workload: Dice::new(seed, 4),
                watch: Dice::new(seed, 5),
                faults: Dice::new(seed, 6),
                snapshots: Dice::new(seed, 7),
                transfers: Dice::new(seed, 8),
                members: Dice::new(seed, 9),
            },
            machines: (1..=plan.members as u64)
                .map(|id| Machine::new(id, MemDisk::new()))
                .collect(),
            links: Links::new(plan.members),
            workload: Workload::default(),
            clients: (0..plan.clients).map(|_| Client::default()).collect(),
            watching: Watching::new(plan.watchers),
            snapshots: Streams::default(),
            changes_asked: BTreeMap::new(),
            promotions: BTreeMap::new(),
            ledger: Ledger::default(),
            history: History::default(),
            trace: Trace::default(),
            is_safety_phase: true,
            is_over: false,
            failure: None,
            plan,
        }
    }

    fn start(&mut self) {
        for member in 0..self.machines.len() {
            self.draw_clock(member);
            self.boot(member);
        }
        for client in 0..self.clients.len() {
            let wait = self.dice.workload.below(self.plan.think_us);
            self.schedule(wait, Event::Next { client });
        }
        for client in 0..self.plan.watchers {
            let wait = self.dice.watch.below(500_000);
            self.schedule(wait, Event::WatchNext { client });
        }
        self.schedule_fault();
        self.schedule_transfer();
        self.schedule_change();
    }

    fn safety_phase(&mut self) {
        self.run_until(self.plan.safety_us);
    }

    /// Handles events up to a moment, or until something is wrong.
    fn run_until(&mut self, until_us: u64) {
        while self.failure.is_none() && !self.is_over {
            match self.queue.peek() {
                Some(next) if next.at_us <= until_us => {}
                _ => {
                    self.now_us = until_us;
                    return;
                }
            }
            let Some(next) = self.queue.pop() else { return };
            assert!(next.at_us >= self.now_us, "time goes forward");
            self.now_us = next.at_us;
            self.handle(next.event);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Life(member, life, moment) => self.moment(member, life, moment),
            Event::Deliver(member, bytes) => self.deliver(member, bytes),
            Event::SnapshotSlice { stream, slice } => self.snapshot_slice(stream, slice),
            Event::SnapshotAnswer { stream, is_taken } => self.snapshot_answer(stream, is_taken),
            Event::SnapshotLate { stream, step } => self.snapshot_late(stream, step),
            Event::Call { member, op } => self.call(member, op),
            Event::Return { op, outcome } => self.returned(op, outcome),
            Event::GiveUp { op } => self.returned(op, Outcome::Unknown),
            Event::Next { client } => self.next_call(client),
            Event::WatchNext { client } => self.watch_next(client),
            Event::WatchRead { stream } => self.watch_read(stream),
            Event::Fault => self.fault(),
            Event::Transfer => self.transfer(),
            Event::Change => self.change_members(),
            Event::Mend(mend) => self.mend(mend),
        }
    }

    fn schedule(&mut self, after_us: u64, event: Event) {
        self.order += 1;
        self.queue.push(Scheduled {
            at_us: self.now_us + after_us,
            order: self.order,
            event,
        });
    }

    fn note(&mut self, member: usize, what: &'static str, a: u64, b: u64) {
        self.trace.add(Step {
            time_us: self.now_us,
            member: member as u64 + 1,
            what,
            numbers: (a, b),
        });
    }

    fn fail(&mut self, why: impl Into<String>) {
        if self.failure.is_none() {
            let seconds = self.now_us as f64 / 1e6;
            self.failure = Some(format!("after {seconds:.6} s: {}", why.into()));
        }
    }

    /// Puts a message on its way to another member, or loses it.
    fn send(&mut self, from: usize, message: &raftpb::Message) {
        let Some(to) = usize::try_from(message.to())
            .ok()
            .and_then(|id| id.checked_sub(1))
        else {
            return;
        };
        if to >= self.machines.len() {
            return;
        }
        let network = &self.plan.network;
        let (least, typical) = (network.least_us, network.typical_us);
        let (loss, duplicate) = if self.is_safety_phase {
            (network.loss, network.duplicate)
        } else {
            (0, 0)
        };
        if self.machines[from].is_wiped && is_promise(message) {
            let kind = message.r#type();
            return self.fail(format!(
                "member {} has lost its disk and takes part: {kind:?}",
                from + 1
            ));
        }
        if !self.links.is_open(from, to) || self.dice.network.chance(loss) {
            self.note(
                from,
                "lost",
                to as u64 + 1,
                message.r#type.unwrap_or_default() as u64,
            );
            return;
        }
        let bytes = message.encode_to_vec();
        self.trace.add_bytes(&bytes);
        // A proposal that a follower passes on is the one message that raft can't tell from its own repetition: it would be
        // applied twice. Peers talk through streams that never repeat, and etcd relies on that as well.
        let is_proposal = message.r#type() == raftpb::MessageType::MsgProp;
        if !is_proposal && self.dice.network.chance(duplicate) {
            let delay = self.dice.network.delay(least, typical * 4);
            self.schedule(delay, Event::Deliver(to, bytes.clone()));
        }
        let delay = self.dice.network.delay(least, typical);
        let misled = self.is_safety_phase && self.dice.network.chance(self.plan.network.misled);
        let to = match misled {
            // An address that belongs to another member by now.
            true => self.dice.network.below(self.machines.len() as u64) as usize,
            false => to,
        };
        self.schedule(delay, Event::Deliver(to, bytes));
    }
}
