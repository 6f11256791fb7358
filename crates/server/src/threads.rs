//! The threads of a member, each the owner of its data, and the channels between them.
//!
//! ```text
//!  clients --Input--> replica --LogJob--> log --------Persisted----+
//!     ^                  |  ^                                      |
//!     |                  |  +--------------------------------------+
//!     |                  +--ApplyJob--> apply --Applied--> replica
//!     +----answers----------------------/  |  \--Published--> watch hubs --> clients
//!                                          +--StoreJob--> store --StoreDone--> apply
//!                                          +--HashJob---> hash ---HashDone---> apply
//! ```
//!
//! Every thread drains its inbox, works, and passes on: batching without timers. While nothing waits, the step of the replica and a
//! brief batch are run by the thread that brings them, so that a lone put wakes two threads instead of five ([`Desk`],
//! [`ApplyDesk`]). What bounds the queues:
//!
//! | queue | bound | when full |
//! |---|---|---|
//! | clients to replica | [`INBOX_MAX`] | the client is told "too many requests" |
//! | peers to replica | [`INBOX_MAX`], and 64 MiB | the messages are dropped and counted; raft sends again |
//! | completions to replica | jobs in flight | the worker waits; the replica never waits for it |
//! | replica to log, to apply | what the replica admits | (can't be) |
//! | apply to store, to hash | one job | (can't be) |
//! | to a peer, per stream | 4096 messages, 64 MiB | the message is dropped, raft goes back to probing ([`crate::peer::links`]) |
//! | apply to a hub | [`HUB_QUEUE_MAX`] | the batch is not queued; the hub gets the newest view later and reads the rest there |

mod apply;
mod desk;
pub mod snapshots;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use replica::watch::{self, Hub};
use replica::workers::{
    ApplyWorker, LogJob, LogWorker, StoreDone, StoreError, StoreJob, StoreWorker,
};
use replica::{Input, MemberId, Now, Replica};
use state::{HashJob, ReadView};
use storage::datadir::Layout;
use storage::disk::Disk;
use storage::fault::Fault;
use storage::wal::{Spare, SpareJob};
use tokio::sync::oneshot;

use crate::calls::Mailbox;
use crate::inbox::Inbox;
use crate::member::Member;
use crate::metered::{self, Spent};

use apply::{Applier, ApplyDesk, ApplyInput, HubFeed, Todo};
use desk::Decider;
pub use desk::Desk;
use snapshots::SnapshotDoor;

/// Inputs that may wait for the replica.
pub const INBOX_MAX: usize = 32_768;
/// Batches that may wait for a hub.
const HUB_QUEUE_MAX: usize = 1_024;
/// Inputs taken at once, which bounds how long the first of them waits for the step.
const DRAIN_MAX: usize = 4_096;
/// How long to wait before something that met a full disk is tried again.
const NO_SPACE_RETRY: Duration = Duration::from_millis(500);

/// What a hub wants told to the streams of clients.
pub type HubInput = watch::Input<ReadView>;
/// Takes what a hub wants done, and sorts it to the threads of the streams.
pub type WatchSink = Arc<dyn Fn(Vec<watch::Effect>) + Send + Sync>;

/// What the log thread is told.
enum LogInput {
    Job(LogJob),
    Spare(Result<Spare, Fault>),
    Stop,
}

/// The ends of the channels that must exist before the member does.
pub struct Inboxes {
    replica: Arc<Desk>,
    hubs: Vec<Arc<Inbox<HubInput>>>,
}

impl Inboxes {
    pub fn new(hubs: usize) -> Self {
        let hubs = (0..hubs.max(1))
            .map(|_| Arc::new(Inbox::new(HUB_QUEUE_MAX)))
            .collect();
        Inboxes {
            replica: Arc::default(),
            hubs,
        }
    }

    pub fn replica(&self) -> Arc<Desk> {
        self.replica.clone()
    }

    pub fn hubs(&self) -> Vec<Arc<Inbox<HubInput>>> {
        self.hubs.clone()
    }
}

/// The parts that get a thread each.
pub struct Core {
    pub replica: Replica,
    pub log: LogWorker,
    pub apply: ApplyWorker,
    pub store: StoreWorker,
}

/// What the threads share with the edge.
pub struct Surroundings {
    pub member: Arc<Member>,
    /// By shard.
    pub mailboxes: Vec<Arc<Mailbox>>,
    pub watch_sink: WatchSink,
    pub watch_limits: watch::Limits,
    pub tick: Duration,
}

/// The running threads.
pub struct Threads {
    apply: Arc<ApplyDesk>,
    replica: Arc<Desk>,
    alarm: Alarm,
    log: Arc<Inbox<LogInput>>,
    hubs: Vec<Arc<Inbox<HubInput>>>,
    faults: Receiver<Fault>,
    handles: Vec<JoinHandle<()>>,
}

/// Where a thread reports that the member can't go on.
#[derive(Clone)]
struct Alarm {
    faults: Sender<Fault>,
    stopping: Arc<AtomicBool>,
}

impl Alarm {
    fn raise(&self, fault: Fault) {
        self.stopping.store(true, Ordering::Release);
        // Only the first fault is told; the channel has room for it, and nobody waits for more.
        let _ = self.faults.try_send(fault);
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

impl Threads {
    /// Starts everything that `core` consists of.
    ///
    /// # Errors
    /// The operating system refused a thread.
    pub fn start(core: Core, inboxes: Inboxes, around: Surroundings) -> std::io::Result<Self> {
        let Core {
            replica,
            log,
            apply,
            store,
        } = core;
        let (faults, fault_receiver) = bounded(1);
        let alarm = Alarm {
            faults,
            stopping: Arc::default(),
        };
        let log_inbox = Arc::new(Inbox::new(1));
        let (store_sender, store_inbox) = unbounded();
        let (hash_sender, hash_inbox) = unbounded();
        let (spare_sender, spare_inbox) = unbounded();
        let desk = inboxes.replica;
        let apply_desk = Arc::new(ApplyDesk::default());
        let view = apply.published().view;
        let clock = Instant::now();
        let mut threads = Threads {
            apply: apply_desk.clone(),
            replica: desk.clone(),
            alarm: alarm.clone(),
            log: log_inbox.clone(),
            hubs: inboxes.hubs.clone(),
            faults: fault_receiver,
            handles: Vec::new(),
        };

        let mut hubs = Vec::new();
        for (number, inbox) in inboxes.hubs.into_iter().enumerate() {
            hubs.push(HubFeed {
                inbox: inbox.clone(),
                missed: None,
                compacted: view.compact_revision(),
            });
            let hub = Hub::new(around.watch_limits.clone(), view.clone());
            let sink = around.watch_sink.clone();
            let (alarm, member) = (alarm.clone(), around.member.clone());
            threads.spawn("watch", move || {
                let tell = |stats| member.metrics.set_watch_stats(number, stats);
                run_hub(hub, &inbox, &sink, &alarm, clock, tell);
                inbox.close();
            })?;
        }
        apply_desk.seat(Applier {
            apply,
            replica: desk.clone(),
            store: store_sender,
            hash: hash_sender,
            hubs,
            member: around.member.clone(),
            mailboxes: around.mailboxes.clone(),
            alarm: alarm.clone(),
            todo: Todo::default(),
        });
        let applying = apply_desk.clone();
        threads.spawn("apply", move || applying.run())?;
        let (stored, store_alarm) = (apply_desk.clone(), alarm.clone());
        let member = around.member.clone();
        threads.spawn("store", move || {
            let tell = |took| member.metrics.backend_commit.observe(took);
            run_store(store, &store_inbox, &stored, &store_alarm, tell)
        })?;
        let (hashed, hash_alarm) = (apply_desk.clone(), alarm.clone());
        threads.spawn("hash", move || {
            run_hashes(&hash_inbox, &hashed, &hash_alarm)
        })?;
        let log = LogThread {
            log,
            inbox: log_inbox.clone(),
            spares: spare_sender,
            replica: desk.clone(),
            member: around.member.clone(),
            alarm: alarm.clone(),
        };
        threads.spawn("log", move || log.run())?;
        let installer = log_inbox.clone();
        threads.spawn("log-spare", move || {
            prepare_spares(&spare_inbox, &installer)
        })?;
        desk.seat(Decider {
            replica,
            log: log_inbox,
            apply: apply_desk,
            member: around.member,
            mailboxes: around.mailboxes,
            alarm: alarm.clone(),
            clock,
            effects: Vec::new(),
        });
        threads.spawn("replica", move || desk.run(around.tick, &alarm))?;
        Ok(threads)
    }

    fn spawn(
        &mut self,
        name: &'static str,
        body: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<()> {
        let handle = std::thread::Builder::new().name(name.into()).spawn(body)?;
        self.handles.push(handle);
        Ok(())
    }

    /// Receives the fault that stops the member, should there be one.
    pub fn faults(&self) -> Receiver<Fault> {
        self.faults.clone()
    }

    /// Where snapshots of other members come in; what is on its way lies in the member's directory.
    pub fn snapshot_door(&self, disk: Arc<dyn Disk>, layout: Layout) -> SnapshotDoor {
        let inside = (self.apply.clone(), self.replica.clone(), self.alarm.clone());
        SnapshotDoor::new(inside, (disk, layout))
    }

    /// Lets the edge ask for a pass that gives back space.
    pub fn defragmenter(&self) -> Defragmenter {
        Defragmenter(self.apply.clone())
    }

    /// Writes a last checkpoint, so that the next start has little to replay, and ends the threads. Everything that was
    /// acknowledged is durable already, so this is a courtesy with a deadline.
    pub fn stop(self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let (done, wait) = bounded(1);
        self.apply.tell(ApplyInput::Stop(done));
        let _ = wait.recv_timeout(patience);
        self.alarm.stopping.store(true, Ordering::Release);
        self.log.push(LogInput::Stop);
        self.hubs.iter().for_each(|hub| hub.close());
        for handle in self.handles {
            while !handle.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// Asks the apply thread to give back space.
#[derive(Clone)]
pub struct Defragmenter(Arc<ApplyDesk>);

impl Defragmenter {
    /// Starts a pass; the receiver hears when it is done, or that nothing will come when the member stops first.
    pub fn start(&self) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        // If the thread has ended, dropping `done` tells.
        self.0.tell(ApplyInput::Defragment(done));
        wait
    }
}

/// Makes jobs durable: all that wait, with one sync.
struct LogThread {
    log: LogWorker,
    inbox: Arc<Inbox<LogInput>>,
    spares: Sender<SpareJob>,
    replica: Arc<Desk>,
    member: Arc<Member>,
    alarm: Alarm,
}

impl LogThread {
    fn run(mut self) {
        if let Err(fault) = self.serve() {
            self.alarm.raise(fault);
        }
        self.inbox.close();
    }

    fn serve(&mut self) -> Result<(), Fault> {
        let mut is_reported = false;
        let mut spare_again = Instant::now();
        loop {
            let again = self.log.is_held().then(|| Instant::now() + NO_SPACE_RETRY);
            self.inbox.wait(again);
            let (mut inputs, mut jobs) = (Vec::new(), Vec::new());
            self.inbox.take(usize::MAX, &mut inputs);
            for input in inputs {
                match input {
                    LogInput::Job(job) => jobs.push(job),
                    LogInput::Spare(spare) => {
                        if let Some(fault) = self.log.install_spare(spare)? {
                            spare_again = Instant::now() + NO_SPACE_RETRY;
                            tracing::warn!(error = %fault, "no room for a spare log segment");
                        }
                    }
                    LogInput::Stop => return Ok(()),
                }
            }
            let began = Instant::now();
            metered::take_spent();
            let outcome = self.log.run(jobs)?;
            self.count(metered::take_spent());
            match outcome {
                None if !is_reported => {
                    tracing::error!(
                        "the disk is full: writes wait until there is room; reads go on"
                    );
                    is_reported = true;
                }
                None => {}
                Some(done) => {
                    is_reported = false;
                    warn_if_slow(began);
                    // The replica hears of it before any message that was held back leaves.
                    let persisted = Input::Persisted {
                        number: done.number,
                    };
                    match done.number {
                        0 => {}
                        // With more to write, the disk is what everybody waits for.
                        _ if !self.inbox.is_empty() => self.replica.leave(persisted),
                        _ => self.replica.report(persisted),
                    }
                    if !done.messages.is_empty() {
                        for peer in self.member.links.send(done.messages) {
                            self.replica.leave(Input::PeerUnreachable(MemberId(peer)));
                        }
                    }
                }
            }
            if Instant::now() >= spare_again
                && let Some(job) = self.log.spare_job()
            {
                // The preparing thread lives as long as this one.
                let _ = self.spares.send(job);
            }
        }
    }

    fn count(&self, spent: Spent) {
        let metrics = &self.member.metrics;
        if spent.writes > 0 {
            metrics.wal_write.observe(spent.writing);
            metrics.wal_write_bytes.add(spent.written_bytes);
        }
        if spent.syncs > 0 {
            metrics.wal_fsync.observe(spent.syncing);
        }
    }
}

/// Source of the threshold and the text: upstream `wal.warnSyncDuration`.
fn warn_if_slow(began: Instant) {
    let took = began.elapsed();
    if took > Duration::from_secs(1) {
        tracing::warn!(
            took = format!("{took:?}"),
            "expected-duration" = "1s",
            "slow fdatasync"
        );
    }
}

fn prepare_spares(jobs: &Receiver<SpareJob>, log: &Inbox<LogInput>) {
    for job in jobs {
        log.push(LogInput::Spare(job.run()));
    }
}

/// Writes to disk what the apply thread hands over, one job at a time.
fn run_store(
    mut store: StoreWorker,
    jobs: &Receiver<StoreJob>,
    apply: &ApplyDesk,
    alarm: &Alarm,
    committed: impl Fn(Duration),
) {
    for mut job in jobs {
        let began = Instant::now();
        let mut is_reported = false;
        let done = loop {
            match store.run(job) {
                Ok(done) => break done,
                Err(StoreError::Fault(fault)) => return alarm.raise(fault),
                Err(StoreError::NoSpace(again, fault)) => {
                    if !is_reported {
                        tracing::error!(error = %fault, "the disk is full: the checkpoint waits until there is room");
                        is_reported = true;
                    }
                    if alarm.is_stopping() {
                        return;
                    }
                    std::thread::sleep(NO_SPACE_RETRY);
                    job = *again;
                }
            }
        };
        match &done {
            StoreDone::Checkpoint(_) | StoreDone::Replaced(..) => committed(began.elapsed()),
            StoreDone::Rewrite(_) => {}
            StoreDone::RewriteAbandoned(fault) => {
                tracing::warn!(error = %fault, "no room to rewrite a segment; it stays as it is");
            }
        }
        apply.tell(ApplyInput::Stored(done));
    }
}

/// Computes the hashes of compactions, one at a time. They read everything, which is why nothing else waits for this thread.
fn run_hashes(jobs: &Receiver<HashJob>, apply: &ApplyDesk, alarm: &Alarm) {
    for job in jobs {
        match job.run() {
            Ok(done) => apply.tell(ApplyInput::Hashed(done)),
            Err(fault) => return alarm.raise(fault),
        }
    }
}

/// Runs a hub: everything that has gathered, then a slice of catching up, and so on.
fn run_hub(
    mut hub: Hub<ReadView>,
    inbox: &Inbox<HubInput>,
    sink: &WatchSink,
    alarm: &Alarm,
    clock: Instant,
    tell: impl Fn(watch::Stats),
) {
    let mut effects = Vec::new();
    let mut wants_turn = false;
    loop {
        if !wants_turn {
            tell(hub.stats());
            let deadline = hub.next_deadline();
            inbox.wait(deadline.map(|at| clock + Duration::from_micros(at.monotonic_us)));
        }
        let mut inputs = Vec::new();
        inbox.take(DRAIN_MAX, &mut inputs);
        if inputs.is_empty() {
            inputs.push(watch::Input::Tick);
        }
        for input in inputs {
            if let Err(fault) = hub.step(now_since(clock), input, &mut effects) {
                return alarm.raise(fault);
            }
        }
        wants_turn = effects
            .iter()
            .any(|effect| matches!(effect, watch::Effect::WantsTurn));
        if !effects.is_empty() {
            sink(std::mem::take(&mut effects));
        }
        if alarm.is_stopping() {
            return;
        }
    }
}

fn now_since(clock: Instant) -> Now {
    Now {
        monotonic_us: u64::try_from(clock.elapsed().as_micros()).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests;
