//! The threads of a member, each the owner of its data, and the channels between them.
//!
//! ```text
//!  clients --Input--> replica --LogJob--> log --------Persisted----+
//!     ^                  |  ^                                      |
//!     |                  |  +--------------------------------------+
//!     |                  +--ApplyJob--> apply --Applied--> replica
//!     +----answers----------------------/  |  \--Published--> watch hubs --> clients
//!                                          +--StoreJob--> store --StoreDone--> apply
//! ```
//!
//! Every thread drains its inbox, works, and passes on: batching without timers. What bounds the queues:
//!
//! | queue | bound | when full |
//! |---|---|---|
//! | clients to replica | [`INBOX_MAX`] | the client is told "too many requests" |
//! | completions to replica | jobs in flight | the worker waits; the replica never waits for it |
//! | replica to log, to apply | what the replica admits | (can't be) |
//! | apply to store | one job | (can't be) |
//! | apply to a hub | [`HUB_QUEUE_MAX`] | the batch is not queued; the hub gets the newest view later and reads the rest there |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, unbounded};
use replica::watch::{self, Hub};
use replica::workers::{
    Answer, ApplyJob, ApplyWorker, LogJob, LogWorker, Published, StoreDone, StoreError, StoreJob,
    StoreWorker,
};
use replica::{Effect, Input, Now, Replica, Reply, Ticket};
use state::ReadView;
use storage::fault::Fault;
use storage::wal::{Spare, SpareJob};

use crate::calls::{self, Mailbox, shard_of};
use crate::member::Member;

/// Inputs that may wait for the replica.
pub const INBOX_MAX: usize = 32_768;
/// Batches that may wait for a hub.
const HUB_QUEUE_MAX: usize = 1_024;
/// Inputs taken at once, which bounds how long the first of them waits for the step.
const DRAIN_MAX: usize = 4_096;
/// Keys that the background pass after a compaction looks at before the inbox is looked at again: about a millisecond.
const MAINTAIN_KEYS: usize = 2_000;
/// A sealed segment whose share of live bytes is at most this is rewritten.
const REWRITE_SHARE: f64 = 0.5;
/// The same while somebody has asked for all space that can be had.
const DEFRAGMENT_SHARE: f64 = 0.95;
/// How long to wait before something that met a full disk is tried again.
const NO_SPACE_RETRY: Duration = Duration::from_millis(500);

/// What a hub wants told to the streams of clients.
pub type HubInput = watch::Input<ReadView>;
/// Takes what a hub wants done, and sorts it to the threads of the streams.
pub type WatchSink = Arc<dyn Fn(Vec<watch::Effect>) + Send + Sync>;

/// What the apply thread is told.
enum ApplyInput {
    Job(ApplyJob),
    Checkpoint,
    Stored(StoreDone),
    /// Give back all space that can be given back, then say so.
    Defragment(Sender<()>),
    /// Write a last checkpoint, say so, and end.
    Stop(Sender<()>),
}

/// What the log thread is told.
enum LogInput {
    Job(LogJob),
    Spare(Result<Spare, Fault>),
    Stop,
}

/// The ends of the channels that must exist before the member does.
pub struct Inboxes {
    replica: (Sender<Input>, Receiver<Input>),
    hubs: Vec<(Sender<HubInput>, Receiver<HubInput>)>,
}

impl Inboxes {
    pub fn new(hubs: usize) -> Self {
        let hubs = (0..hubs.max(1)).map(|_| bounded(HUB_QUEUE_MAX)).collect();
        Inboxes {
            replica: bounded(INBOX_MAX),
            hubs,
        }
    }

    pub fn replica(&self) -> Sender<Input> {
        self.replica.0.clone()
    }

    pub fn hubs(&self) -> Vec<Sender<HubInput>> {
        self.hubs.iter().map(|(sender, _)| sender.clone()).collect()
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
    apply: Sender<ApplyInput>,
    log: Sender<LogInput>,
    stopping: Arc<AtomicBool>,
    faults: Receiver<Fault>,
    /// The threads that write to disk, and the replica.
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
        let stopping = Arc::new(AtomicBool::new(false));
        let alarm = Alarm {
            faults,
            stopping: stopping.clone(),
        };
        let (log_sender, log_inbox) = unbounded();
        let (apply_sender, apply_inbox) = unbounded();
        let (store_sender, store_inbox) = unbounded();
        let (spare_sender, spare_inbox) = unbounded();
        let (to_replica, replica_inbox) = inboxes.replica;
        let view = apply.published().view;
        let clock = Instant::now();
        let mut threads = Threads {
            apply: apply_sender.clone(),
            log: log_sender.clone(),
            stopping,
            faults: fault_receiver,
            handles: Vec::new(),
        };

        let decide = ReplicaThread {
            replica,
            inbox: replica_inbox,
            log: log_sender.clone(),
            apply: apply_sender.clone(),
            member: around.member.clone(),
            mailboxes: around.mailboxes.clone(),
            alarm: alarm.clone(),
            tick: around.tick,
            clock,
        };
        threads.spawn("replica", move || decide.run())?;
        let log = LogThread {
            log,
            inbox: log_inbox,
            spares: spare_sender,
            replica: to_replica.clone(),
            alarm: alarm.clone(),
        };
        threads.spawn("log", move || log.run())?;
        threads.spawn("log-spare", move || {
            prepare_spares(&spare_inbox, &log_sender)
        })?;
        let mut hub_senders = Vec::new();
        for (sender, inbox) in inboxes.hubs {
            let hub = Hub::new(around.watch_limits.clone(), view.clone());
            let sink = around.watch_sink.clone();
            let alarm = alarm.clone();
            threads.spawn("watch", move || run_hub(hub, &inbox, &sink, &alarm, clock))?;
            hub_senders.push(HubFeed {
                sender,
                missed: None,
                compacted: view.compact_revision(),
            });
        }
        let apply = ApplyThread {
            apply,
            inbox: apply_inbox,
            replica: to_replica,
            store: store_sender,
            hubs: hub_senders,
            member: around.member,
            mailboxes: around.mailboxes,
            alarm: alarm.clone(),
            is_sweeping: true,
            is_storing: false,
            checkpoint_wanted: false,
            defragmentation: Defragmentation::default(),
            stopping: None,
        };
        threads.spawn("apply", move || apply.run())?;
        threads.spawn("store", move || {
            run_store(store, &store_inbox, &apply_sender, &alarm)
        })?;
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

    /// Lets the edge ask for a pass that gives back space.
    pub fn defragmenter(&self) -> Defragmenter {
        Defragmenter(self.apply.clone())
    }

    /// Writes a last checkpoint, so that the next start has little to replay, and ends the threads. Everything that was
    /// acknowledged is durable already, so this is a courtesy with a deadline.
    pub fn stop(self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let (done, wait) = bounded(1);
        if self.apply.send(ApplyInput::Stop(done)).is_ok() {
            let _ = wait.recv_timeout(patience);
        }
        self.stopping.store(true, Ordering::Release);
        let _ = self.log.send(LogInput::Stop);
        for handle in self.handles {
            while !handle.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// Asks the apply thread to give back space.
#[derive(Clone)]
pub struct Defragmenter(Sender<ApplyInput>);

impl Defragmenter {
    /// Starts a pass; the receiver hears when it is done, or is disconnected when the member stops first.
    pub fn start(&self) -> Receiver<()> {
        let (done, wait) = bounded(1);
        // If the thread has ended, dropping `done` tells.
        let _ = self.0.send(ApplyInput::Defragment(done));
        wait
    }
}

/// Runs the deciding part: one step for everything that has gathered.
struct ReplicaThread {
    replica: Replica,
    inbox: Receiver<Input>,
    log: Sender<LogInput>,
    apply: Sender<ApplyInput>,
    member: Arc<Member>,
    mailboxes: Vec<Arc<Mailbox>>,
    alarm: Alarm,
    tick: Duration,
    clock: Instant,
}

impl ReplicaThread {
    fn run(mut self) {
        let mut effects = Vec::new();
        let mut next_tick = Instant::now() + self.tick;
        let mut inputs = Vec::new();
        // The first step lets a member that is alone elect itself without waiting for anything.
        loop {
            self.replica
                .step(now_since(self.clock), inputs.drain(..), &mut effects);
            self.perform_all(&mut effects);
            match self.inbox.recv_deadline(next_tick) {
                Ok(input) => inputs.push(input),
                Err(RecvTimeoutError::Timeout) => {
                    inputs.push(Input::Tick);
                    // A process that was paused does not make up for missed ticks.
                    next_tick = Instant::now() + self.tick;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            inputs.extend(self.inbox.try_iter().take(DRAIN_MAX));
            if Instant::now() >= next_tick {
                inputs.push(Input::Tick);
                next_tick = Instant::now() + self.tick;
            }
            if self.alarm.is_stopping() {
                return;
            }
        }
    }

    fn perform_all(&mut self, effects: &mut Vec<Effect>) {
        let mut answers = Answers::new(self.mailboxes.len());
        for effect in effects.drain(..) {
            match effect {
                // The workers end only when the member does, and then nobody waits.
                Effect::Persist(job) => drop(self.log.send(LogInput::Job(job))),
                Effect::Apply(job) => drop(self.apply.send(ApplyInput::Job(job))),
                Effect::Checkpoint => drop(self.apply.send(ApplyInput::Checkpoint)),
                Effect::Reply(ticket, answer) => answers.add(ticket, answer),
                Effect::Status(status) => self.member.raft.set(status),
                // Members speak to each other from the next version on; a single one has nobody to tell.
                Effect::Send(peer, _) => {
                    tracing::debug!(peer = format!("{:x}", peer.0), "no way to this peer")
                }
                Effect::Stop(fault) => self.alarm.raise(fault),
            }
        }
        answers.post(&self.mailboxes);
    }
}

/// Answers on their way to the threads of their calls, one delivery per thread.
struct Answers(Vec<Vec<(Ticket, calls::Answer)>>);

impl Answers {
    fn new(shards: usize) -> Self {
        Answers((0..shards).map(|_| Vec::new()).collect())
    }

    fn add(&mut self, ticket: Ticket, answer: calls::Answer) {
        self.0[shard_of(ticket)].push((ticket, answer));
    }

    fn post(self, mailboxes: &[Arc<Mailbox>]) {
        for (answers, mailbox) in self.0.into_iter().zip(mailboxes) {
            if !answers.is_empty() {
                mailbox.post(answers);
            }
        }
    }
}

/// Makes jobs durable: all that wait, with one sync.
struct LogThread {
    log: LogWorker,
    inbox: Receiver<LogInput>,
    spares: Sender<SpareJob>,
    replica: Sender<Input>,
    alarm: Alarm,
}

impl LogThread {
    fn run(mut self) {
        if let Err(fault) = self.serve() {
            self.alarm.raise(fault);
        }
    }

    fn serve(&mut self) -> Result<(), Fault> {
        let mut is_reported = false;
        let mut spare_again = Instant::now();
        loop {
            let first = if self.log.is_held() {
                match self.inbox.recv_timeout(NO_SPACE_RETRY) {
                    Ok(input) => Some(input),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            } else {
                match self.inbox.recv() {
                    Ok(input) => Some(input),
                    Err(_) => return Ok(()),
                }
            };
            let mut jobs = Vec::new();
            for input in first.into_iter().chain(self.inbox.try_iter()) {
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
            match self.log.run(jobs)? {
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
                    if done.number > 0
                        && self
                            .replica
                            .send(Input::Persisted {
                                number: done.number,
                            })
                            .is_err()
                    {
                        return Ok(());
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

fn prepare_spares(jobs: &Receiver<SpareJob>, log: &Sender<LogInput>) {
    for job in jobs {
        if log.send(LogInput::Spare(job.run())).is_err() {
            return;
        }
    }
}

/// Owns the state: applies, publishes, answers, and tidies up while nothing else is to be done.
struct ApplyThread {
    apply: ApplyWorker,
    inbox: Receiver<ApplyInput>,
    replica: Sender<Input>,
    store: Sender<StoreJob>,
    hubs: Vec<HubFeed>,
    member: Arc<Member>,
    mailboxes: Vec<Arc<Mailbox>>,
    alarm: Alarm,
    /// A background pass over the index may have something left.
    is_sweeping: bool,
    is_storing: bool,
    checkpoint_wanted: bool,
    defragmentation: Defragmentation,
    /// Who hears of the last checkpoint, once the member is to stop.
    stopping: Option<Sender<()>>,
}

/// How far the giving back of space is that somebody waits for.
#[derive(Default)]
struct Defragmentation {
    waiting: Vec<Sender<()>>,
    /// Nothing is left to rewrite; the files that were replaced go with the next checkpoint.
    is_rewritten: bool,
}

impl ApplyThread {
    fn run(mut self) {
        if let Err(fault) = self.serve() {
            self.alarm.raise(fault);
        }
    }

    fn serve(&mut self) -> Result<(), Fault> {
        loop {
            let first = if self.is_sweeping {
                self.inbox.try_recv().ok()
            } else {
                match self.inbox.recv() {
                    Ok(input) => Some(input),
                    Err(_) => return Ok(()),
                }
            };
            let mut jobs = Vec::new();
            let inbox = self.inbox.clone();
            for input in first.into_iter().chain(inbox.try_iter()) {
                self.take(input, &mut jobs);
            }
            if !jobs.is_empty() {
                self.apply_batch(jobs)?;
                self.is_sweeping = self.apply.state().needs_maintenance();
            } else if self.is_sweeping {
                self.sweep();
            }
            self.offer_store_work();
            if self.is_done_stopping() {
                return Ok(());
            }
        }
    }

    fn take(&mut self, input: ApplyInput, jobs: &mut Vec<ApplyJob>) {
        match input {
            ApplyInput::Job(job) => jobs.push(job),
            ApplyInput::Checkpoint => self.checkpoint_wanted = true,
            ApplyInput::Stored(done) => {
                self.is_storing = false;
                if let Some(marker) = self.apply.stored(done) {
                    let _ = self.replica.send(Input::Checkpointed(marker));
                    if std::mem::take(&mut self.defragmentation.is_rewritten) {
                        for done in self.defragmentation.waiting.drain(..) {
                            let _ = done.try_send(());
                        }
                    }
                }
                self.publish_view();
            }
            ApplyInput::Defragment(done) => self.defragmentation.waiting.push(done),
            ApplyInput::Stop(done) => {
                self.checkpoint_wanted = true;
                self.stopping = Some(done);
            }
        }
    }

    fn apply_batch(&mut self, jobs: Vec<ApplyJob>) -> Result<(), Fault> {
        let output = self.apply.apply(jobs)?;
        self.publish(output.published);
        self.answer(output.answers);
        // The replica lets waiting reads go on when it hears of this, so the view must be out before.
        let _ = self.replica.send(Input::Applied(output.done));
        Ok(())
    }

    fn publish(&mut self, published: Published) {
        self.member.view.store(Arc::new(published.view.clone()));
        for hub in &mut self.hubs {
            hub.feed(&published);
        }
    }

    /// Files have changed, keys have not: readers get the new view, watchers need not hear of it.
    fn publish_view(&mut self) {
        self.member
            .view
            .store(Arc::new(self.apply.published().view));
    }

    fn answer(&self, answers: Vec<Answer>) {
        let mut sorted = Answers::new(self.mailboxes.len());
        for Answer { ticket, applied } in answers {
            sorted.add(ticket, Ok(Reply::Applied(applied)));
        }
        sorted.post(&self.mailboxes);
    }

    fn sweep(&mut self) {
        let swept = self.apply.maintain(MAINTAIN_KEYS);
        self.is_sweeping = swept.more;
        if !swept.more {
            self.publish_view();
            self.answer(swept.answers);
        }
    }

    /// Gives the store thread its next job: a checkpoint that is due, else a segment worth rewriting.
    fn offer_store_work(&mut self) {
        if self.is_storing {
            return;
        }
        let is_defragmenting = !self.defragmentation.waiting.is_empty();
        let mut job = if self.checkpoint_wanted {
            self.checkpoint_wanted = false;
            self.apply.checkpoint()
        } else if self.is_sweeping {
            None
        } else {
            self.apply.rewrite(if is_defragmenting {
                DEFRAGMENT_SHARE
            } else {
                REWRITE_SHARE
            })
        };
        if job.is_none() && is_defragmenting && !self.is_sweeping && self.stopping.is_none() {
            self.defragmentation.is_rewritten = true;
            job = self.apply.checkpoint();
        }
        if let Some(job) = job {
            self.is_storing = self.store.send(job).is_ok();
        }
    }

    fn is_done_stopping(&mut self) -> bool {
        let is_done = self.stopping.is_some() && !self.is_storing && !self.checkpoint_wanted;
        if is_done && let Some(done) = self.stopping.take() {
            let _ = done.try_send(());
        }
        is_done
    }
}

/// The way to one hub.
struct HubFeed {
    sender: Sender<HubInput>,
    /// The newest view that found the queue full. Its events are read from the view by then.
    missed: Option<ReadView>,
    /// Up to where the hub knows that history is gone.
    compacted: i64,
}

impl HubFeed {
    fn feed(&mut self, published: &Published) {
        let compacted = published.view.compact_revision();
        if published.events.is_empty() && self.missed.is_none() && compacted == self.compacted {
            return;
        }
        self.compacted = compacted;
        let events = if self.missed.is_some() {
            Arc::from([])
        } else {
            published.events.clone()
        };
        let input = watch::Input::Published {
            view: published.view.clone(),
            events,
        };
        self.missed = match self.sender.try_send(input) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => None,
            Err(TrySendError::Full(_)) => Some(published.view.clone()),
        };
    }
}

/// Writes to disk what the apply thread hands over, one job at a time.
fn run_store(
    mut store: StoreWorker,
    jobs: &Receiver<StoreJob>,
    apply: &Sender<ApplyInput>,
    alarm: &Alarm,
) {
    for mut job in jobs {
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
        if let StoreDone::RewriteAbandoned(fault) = &done {
            tracing::warn!(error = %fault, "no room to rewrite a segment; it stays as it is");
        }
        if apply.send(ApplyInput::Stored(done)).is_err() {
            return;
        }
    }
}

/// Runs a hub: everything that has gathered, then a slice of catching up, and so on.
fn run_hub(
    mut hub: Hub<ReadView>,
    inbox: &Receiver<HubInput>,
    sink: &WatchSink,
    alarm: &Alarm,
    clock: Instant,
) {
    let mut effects = Vec::new();
    let mut wants_turn = false;
    loop {
        let first = if wants_turn {
            inbox.try_recv().ok()
        } else {
            wait_for_hub_input(&hub, inbox, clock)
        };
        let mut inputs: Vec<HubInput> = first
            .into_iter()
            .chain(inbox.try_iter().take(DRAIN_MAX))
            .collect();
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

/// The next input, or nothing when the hub has something to do at a certain time and the time has come.
fn wait_for_hub_input(
    hub: &Hub<ReadView>,
    inbox: &Receiver<HubInput>,
    clock: Instant,
) -> Option<HubInput> {
    match hub.next_deadline() {
        None => inbox.recv().ok(),
        Some(deadline) => inbox
            .recv_deadline(clock + Duration::from_micros(deadline.monotonic_us))
            .ok(),
    }
}

fn now_since(clock: Instant) -> Now {
    Now {
        monotonic_us: u64::try_from(clock.elapsed().as_micros()).unwrap_or(u64::MAX),
    }
}
