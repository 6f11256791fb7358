//! A member: the real replica, its workers and its watch hub, with events in the place of threads.
//!
//! A worker takes all jobs that wait, and does them when their time has passed. A member that dies in between leaves them undone, or
//! (`faults`) done in part.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use prost::Message as _;
use proto::raftpb;
use replica::boot::{self, Booted, Params};
use replica::duties::{self, AutoCompaction};
use replica::ids::RequestIds;
use replica::snapshots::{Incoming, Received};
use replica::watch::{self, Hub};
use replica::workers::{
    ApplyJob, ApplyWorker, LogDone, LogJob, LogWorker, Replaced, StoreError, StoreJob, StoreWorker,
    Stored,
};
use replica::{Config, Effect, Input, MemberId, Now, Replica, Reply, Status, Ticket};
use state::membership::Member;
use state::{HashJob, ReadView};
use storage::datadir::{DataDir, Layout, Permissions};
use storage::disk::MemDisk;
use storage::fault::{Fault, FaultKind};
use storage::segments::SegmentsOptions;
use storage::wal::{self, Identity, SpareJob};

use super::{Event, Mend, Moment, World};
use crate::plan::{ELECTION_TICKS, TICK_US};

/// A computer: what outlives a member's process.
pub(super) struct Machine {
    pub id: u64,
    pub disk: MemDisk,
    pub life: Option<Life>,
    /// Lives so far; the current one's number.
    pub lives: u64,
    pub clock: Clock,
    /// The life ends so when its worker next has something to write.
    pub ends_at_work: Option<(Work, Moment)>,
    /// Nothing of the member runs before.
    pub paused_until_us: u64,
    /// Syncs are slow until then.
    pub slow_until_us: u64,
    /// A fault was injected that explains the end of the current life.
    pub expects_end: bool,
    pub is_full: bool,
    /// The file in which a bit has flipped.
    pub rotten: Option<String>,
    /// The member has noticed that; it will not start again.
    pub is_lost: bool,
    /// Its disk was emptied after it had taken part.
    pub is_wiped: bool,
    /// When it was first started.
    pub began_us: Option<u64>,
    /// It was bought, and belongs to nobody yet.
    pub is_spare: bool,
    /// Its member was removed, for ever.
    pub is_removed: bool,
}

/// A worker that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Log,
    Store,
}

/// A clock that runs at its own rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    true_us: u64,
    local_us: u64,
    /// Thousandths.
    pub rate: u64,
}

/// A process.
pub(super) struct Life {
    pub replica: Replica,
    pub log: LogWorker,
    pub apply: ApplyWorker,
    pub store: StoreWorker,
    pub ids: Arc<RequestIds>,
    pub view: ReadView,
    pub hub: Hub<ReadView>,
    pub status: Status,
    /// Holds the lock of the directory for as long as the process lives.
    pub _data_dir: DataDir,
    pub inbox: VecDeque<Input>,
    pub steps_scheduled: bool,
    pub log_waiting: Vec<LogJob>,
    pub log_running: Option<Vec<LogJob>>,
    pub spare: Option<SpareJob>,
    pub apply_waiting: Vec<ApplyJob>,
    pub apply_running: bool,
    pub store_running: Option<StoreJob>,
    pub checkpoint_wanted: bool,
    /// A snapshot that is arriving, with the number of its stream.
    pub incoming: Option<(u64, Incoming)>,
    /// One that has arrived.
    pub received: Option<Received>,
    pub install_wanted: bool,
    pub maintain_scheduled: bool,
    pub hash_running: Option<HashJob>,
    pub hub_inbox: VecDeque<watch::Input<ReadView>>,
    pub hub_scheduled: bool,
    pub hub_wants_turn: bool,
    pub hub_clock_scheduled: bool,
    pub tickets: BTreeMap<Ticket, usize>,
    /// Calls that nobody's history has: to hand over the leadership, to change members.
    pub asides: BTreeSet<Ticket>,
    pub ticket_last: u64,
}

impl Machine {
    /// It will not come back as it was, or its member knows already that it does not.
    pub fn is_impaired(&self) -> bool {
        self.rotten.is_some() || self.is_lost || self.is_wiped
    }

    pub fn new(id: u64, disk: MemDisk) -> Machine {
        Machine {
            id,
            disk,
            life: None,
            lives: 0,
            ends_at_work: None,
            clock: Clock {
                true_us: 0,
                local_us: id * 1_000_000_000,
                rate: 1000,
            },
            paused_until_us: 0,
            slow_until_us: 0,
            expects_end: false,
            is_full: false,
            rotten: None,
            is_lost: false,
            is_wiped: false,
            began_us: None,
            is_spare: false,
            is_removed: false,
        }
    }
}

impl Clock {
    pub fn read(&self, true_us: u64) -> Now {
        Now {
            monotonic_us: self.local_us + (true_us - self.true_us) * self.rate / 1000,
        }
    }

    /// Goes forward at once.
    pub fn jump(&mut self, local_us: u64) {
        self.local_us += local_us;
    }

    pub fn set_rate(&mut self, true_us: u64, rate: u64) {
        self.local_us = self.read(true_us).monotonic_us;
        self.true_us = true_us;
        self.rate = rate;
    }

    /// How long a stretch of local time takes.
    pub fn takes(&self, local_us: u64) -> u64 {
        local_us * 1000 / self.rate
    }
}

impl World {
    /// Starts a member's process.
    pub(super) fn boot(&mut self, member: usize) {
        let params = self.params(member);
        let machine = &mut self.machines[member];
        assert!(machine.life.is_none(), "a member is started twice");
        machine.lives += 1;
        machine.expects_end = machine.is_full || machine.is_impaired();
        machine.began_us.get_or_insert(self.now_us);
        match boot::start(Arc::new(machine.disk.clone()), params) {
            Ok(booted) => self.begin(member, booted),
            Err(fault) => self.boot_failed(member, &fault),
        }
    }

    fn boot_failed(&mut self, member: usize, fault: &Fault) {
        if self.is_lost_to(member, fault) {
            return;
        }
        if fault.kind() == FaultKind::Identity && self.was_removed(member) {
            return self.removed(member);
        }
        let machine = &self.machines[member];
        let id = machine.id;
        if !machine.expects_end && !self.boot_is_cut(member) {
            self.fail(format!("member {id} does not start: {fault}"));
            return;
        }
        self.note(member, "boot failed", 0, 0);
        self.cut_power(member);
        let wait = self.dice.faults.between(100_000, 2_000_000);
        self.schedule(wait, Event::Mend(Mend::Restart(member)));
    }

    fn begin(&mut self, member: usize, booted: Booted) {
        let limits = watch::Limits {
            stream_messages: self.plan.stream_messages,
            slice_events: self.plan.slice_events,
            message_bytes: self.plan.message_bytes,
            progress_interval_us: self.plan.progress_us,
            ..watch::Limits::default()
        };
        let Booted {
            replica,
            log,
            apply,
            store,
            ids,
            data_dir,
            ..
        } = booted;
        let view = apply.published().view;
        let (applied, revision) = (view.applied().0, view.revision());
        let hub = Hub::new(limits, view.clone());
        let status = replica.status();
        self.note(member, "start", applied, revision as u64);
        let machine = &mut self.machines[member];
        let life = machine.lives;
        machine.life = Some(Life {
            replica,
            log,
            apply,
            store,
            ids,
            view,
            hub,
            status,
            _data_dir: data_dir,
            inbox: VecDeque::new(),
            steps_scheduled: false,
            log_waiting: Vec::new(),
            log_running: None,
            spare: None,
            apply_waiting: Vec::new(),
            apply_running: false,
            store_running: None,
            checkpoint_wanted: false,
            incoming: None,
            received: None,
            install_wanted: false,
            maintain_scheduled: false,
            hash_running: None,
            hub_inbox: VecDeque::new(),
            hub_scheduled: false,
            hub_wants_turn: false,
            hub_clock_scheduled: false,
            tickets: BTreeMap::new(),
            asides: BTreeSet::new(),
            ticket_last: 0,
        });
        self.ledger.started(member, applied);
        let first_tick = self.dice.clock.below(TICK_US);
        self.schedule(first_tick, Event::Life(member, life, Moment::Tick));
        self.schedule(0, Event::Life(member, life, Moment::Step));
        self.wants_maintenance(member);
        self.prepare_spare(member);
    }

    fn params(&mut self, member: usize) -> Params {
        let past = self.past_at_start(member);
        let plan = &self.plan;
        let machine = &self.machines[member];
        let id = machine.id;
        // Who came later learns of all from the others.
        let founders = if id <= plan.members as u64 {
            plan.members as u64
        } else {
            0
        };
        let initial_members = (1..=founders)
            .map(|id| Member {
                id,
                peer_urls: Some(vec![format!("http://10.0.0.{id}:2380")]),
                ..Member::default()
            })
            .collect();
        Params {
            layout: Layout::new("data", None),
            permissions: Permissions::Refuse,
            identity: Identity {
                cluster_id: 77,
                member_id: id,
            },
            past,
            force_new_cluster: false,
            initial_members,
            config: Config {
                member: MemberId(id),
                election_ticks: ELECTION_TICKS,
                tick_us: TICK_US,
                pre_vote: plan.pre_vote,
                request_timeout_us: 7_000_000,
                log_keep_entries: plan.log_keep_entries,
                log_keep_bytes: plan.log_keep_bytes,
                checkpoint_every_us: plan.checkpoint_every_us,
                checkpoint_bytes: 1 << 20,
                duties: duties::Config {
                    member: MemberId(id),
                    name: format!("m{id}"),
                    client_urls: vec![format!("http://10.0.0.{id}:2379")],
                    cluster_version: Some("3.7.0".into()),
                    election_us: TICK_US * ELECTION_TICKS,
                    auto_compaction: AutoCompaction::Off,
                },
                seed: plan.seed ^ (id << 40) ^ (machine.lives << 48),
            },
            state: state::Params {
                quota_bytes: None,
                ..state::Params::default()
            },
            wal: wal::Options::with_segment_bytes(
                plan.wal_segment_bytes,
                plan.wal_segment_bytes.min(4 << 10),
            ),
            segments: SegmentsOptions {
                segment_bytes: plan.segment_bytes,
                hot_bytes: plan.segment_bytes,
                salt: id as u32,
                ..SegmentsOptions::default()
            },
            wall_ms: 1_700_000_000_000 + self.now_us / 1000 + machine.lives,
        }
    }

    /// Something happens in a member, unless it is over or stands still.
    pub(super) fn moment(&mut self, member: usize, life: u64, moment: Moment) {
        let machine = &self.machines[member];
        if machine.lives != life || machine.life.is_none() {
            return;
        }
        if machine.paused_until_us > self.now_us {
            // One tick as well: who stood still does not make up for those that it missed.
            let wait = machine.paused_until_us - self.now_us;
            self.schedule(wait, Event::Life(member, life, moment));
            return;
        }
        match moment {
            Moment::Tick if self.is_told_of_its_removal(member) => self.removed(member),
            Moment::Tick => {
                let next = machine.clock.takes(TICK_US);
                self.schedule(next, Event::Life(member, life, Moment::Tick));
                self.input(member, Input::Tick);
            }
            Moment::Step => self.step(member),
            Moment::Logged => self.logged(member),
            Moment::LogRetry => self.log_retry(member),
            Moment::SpareReady => self.spare_ready(member),
            Moment::Applied => self.applied(member),
            Moment::Stored => self.stored(member),
            Moment::StoreRetry => self.after(member, 1, Moment::Stored),
            Moment::Maintain => self.maintain(member),
            Moment::Hashed => self.hashed(member),
            Moment::Hub => self.hub_step(member),
            Moment::HubClock => self.hub_clock(member),
            Moment::Past => self.past_answered(member),
            Moment::PowerCut | Moment::Kill if !self.is_safety_phase => {}
            Moment::PowerCut => self.crash(member),
            Moment::Kill => self.kill(member),
        }
    }

    pub(super) fn after(&mut self, member: usize, delay_us: u64, moment: Moment) {
        let life = self.machines[member].lives;
        self.schedule(delay_us, Event::Life(member, life, moment));
    }

    /// The life of a member that is known to be alive.
    pub(super) fn life(&mut self, member: usize) -> &mut Life {
        self.machines[member]
            .life
            .as_mut()
            .expect("the member is alive")
    }

    pub(super) fn input(&mut self, member: usize, input: Input) {
        let life = self.life(member);
        life.inbox.push_back(input);
        if !std::mem::replace(&mut life.steps_scheduled, true) {
            let delay = self.dice.clock.between(5, 60);
            self.after(member, delay, Moment::Step);
        }
    }

    pub(super) fn deliver(&mut self, member: usize, bytes: Vec<u8>) {
        let machine = &self.machines[member];
        if machine.life.is_none() {
            return;
        }
        if machine.paused_until_us > self.now_us {
            let wait = machine.paused_until_us - self.now_us;
            self.schedule(wait, Event::Deliver(member, bytes));
            return;
        }
        match raftpb::Message::decode(bytes.as_slice()) {
            Ok(message) => self.input(member, Input::Peer(Box::new(message))),
            Err(error) => self.fail(format!(
                "a message between members does not decode: {error}"
            )),
        }
    }

    fn step(&mut self, member: usize) {
        let now = self.machines[member].clock.read(self.now_us);
        let life = self.life(member);
        life.steps_scheduled = false;
        let mut effects = Vec::new();
        let inputs = std::mem::take(&mut life.inbox);
        let count = inputs.len() as u64;
        life.replica.step(now, inputs, &mut effects);
        let status = life.replica.status();
        self.note(member, "step", count, effects.len() as u64);
        if let Err(why) = self.ledger.standing(member, &status) {
            self.fail(why);
        }
        for effect in effects {
            if self.machines[member].life.is_none() {
                return;
            }
            self.perform(member, effect);
        }
    }

    fn perform(&mut self, member: usize, effect: Effect) {
        match effect {
            Effect::Persist(job) => {
                self.life(member).log_waiting.push(job);
                self.start_logging(member);
            }
            Effect::Apply(job) => {
                self.life(member).apply_waiting.push(job);
                self.start_applying(member);
            }
            Effect::Send(_, message) => self.send(member, &message),
            Effect::Reply(ticket, answer) => self.answered(member, ticket, answer),
            Effect::Status(status) => {
                self.note(
                    member,
                    if status.is_leader { "leads" } else { "follows" },
                    status.term,
                    status.committed,
                );
                self.life(member).status = status;
            }
            Effect::Checkpoint => {
                self.life(member).checkpoint_wanted = true;
                self.start_storing(member);
            }
            Effect::SendSnapshot(_, message) => self.send_snapshot(member, *message),
            Effect::InstallSnapshot => {
                self.life(member).install_wanted = true;
                self.start_storing(member);
            }
            Effect::DropSnapshot => self.drop_snapshot(member),
            Effect::AskPast => self.ask_past(member),
            // The network of the simulation knows everybody.
            Effect::MembersChanged => {}
            Effect::Removed => self.removed(member),
            Effect::Stop(fault) => self.stopped(member, &fault),
        }
    }

    /// A member says that it can't go on. It may, if something was done to it.
    pub(super) fn stopped(&mut self, member: usize, fault: &Fault) {
        if self.is_lost_to(member, fault) {
            return;
        }
        let machine = &self.machines[member];
        if !machine.expects_end {
            let id = machine.id;
            self.fail(format!("member {id} stops without a cause: {fault}"));
            return;
        }
        self.note(member, "stopped", 0, 0);
        // With or without the machine: what a failed sync has lost may still be there to read.
        match self.dice.disk.chance(500) {
            true => self.cut_power(member),
            false => self.cut_off(member),
        }
        let wait = self.dice.faults.between(100_000, 3_000_000);
        self.schedule(wait, Event::Mend(Mend::Restart(member)));
    }

    // The log worker.

    fn start_logging(&mut self, member: usize) {
        let life = self.life(member);
        if life.log_running.is_some() || life.log_waiting.is_empty() {
            return;
        }
        let jobs = std::mem::take(&mut life.log_waiting);
        let syncs = jobs.iter().any(|job| job.must_sync);
        life.log_running = Some(jobs);
        let mut delay = self.dice.disk.between(5, 30);
        if syncs {
            delay += self.dice.disk.delay(50, self.plan.sync_us);
            if self.machines[member].slow_until_us > self.now_us {
                delay += self.dice.disk.between(10_000, 3_000_000);
            }
        }
        self.end_at_work(member, Work::Log, delay);
        self.after(member, delay, Moment::Logged);
    }

    /// If the life is to end while this worker writes, it ends now: within `delay_us`.
    fn end_at_work(&mut self, member: usize, work: Work, delay_us: u64) {
        let ends = &mut self.machines[member].ends_at_work;
        if let Some((_, moment)) = ends.take_if(|(ends, _)| *ends == work) {
            let delay = self.dice.faults.below(delay_us);
            self.after(member, delay, moment);
        }
    }

    fn logged(&mut self, member: usize) {
        let life = self.life(member);
        let jobs = life.log_running.take().expect("jobs are running");
        let outcome = life.log.run(jobs);
        self.log_outcome(member, outcome);
    }

    fn log_retry(&mut self, member: usize) {
        let life = self.life(member);
        if life.log_running.is_some() {
            return;
        }
        let outcome = life.log.retry();
        self.log_outcome(member, outcome);
    }

    fn log_outcome(&mut self, member: usize, outcome: Result<Option<LogDone>, Fault>) {
        match outcome {
            Ok(Some(done)) => {
                self.note(member, "logged", done.number, done.messages.len() as u64);
                self.input(
                    member,
                    Input::Persisted {
                        number: done.number,
                    },
                );
                for message in &done.messages {
                    self.send(member, message);
                }
                self.prepare_spare(member);
                self.start_logging(member);
            }
            Ok(None) => {
                self.note(member, "log held", 0, 0);
                self.after(member, 200_000, Moment::LogRetry);
                self.start_logging(member);
            }
            Err(fault) => self.stopped(member, &fault),
        }
    }

    fn prepare_spare(&mut self, member: usize) {
        let life = self.life(member);
        if life.spare.is_some() {
            return;
        }
        life.spare = life.log.spare_job();
        if life.spare.is_some() {
            let delay = self.dice.disk.delay(200, 5_000);
            self.after(member, delay, Moment::SpareReady);
        }
    }

    fn spare_ready(&mut self, member: usize) {
        let life = self.life(member);
        let Some(job) = life.spare.take() else { return };
        let spare = job.run();
        match life.log.install_spare(spare) {
            Ok(None) => {}
            Ok(Some(_full)) => self.note(member, "no room for a spare", 0, 0),
            Err(fault) => self.stopped(member, &fault),
        }
    }

    // The apply worker.

    fn start_applying(&mut self, member: usize) {
        let life = self.life(member);
        if life.apply_running || life.apply_waiting.is_empty() {
            return;
        }
        life.apply_running = true;
        let delay = self.dice.disk.delay(5, 100);
        self.after(member, delay, Moment::Applied);
    }

    fn applied(&mut self, member: usize) {
        let life = self.life(member);
        life.apply_running = false;
        let jobs = std::mem::take(&mut life.apply_waiting);
        let entries: Vec<_> = jobs
            .iter()
            .flat_map(|job| &job.entries)
            .map(|(entry, _)| entry.clone())
            .collect();
        let output = match life.apply.apply(jobs) {
            Ok(output) => output,
            Err(fault) => return self.stopped(member, &fault),
        };
        life.view = output.published.view.clone();
        let view = &life.view;
        let (index, revision) = (output.done.index, view.revision());
        if let Err(why) = self.ledger.applied(
            member,
            self.now_us,
            &entries,
            &output.published.events,
            revision,
        ) {
            self.fail(why);
            return;
        }
        let published = output.published;
        let list = published.view.members();
        if let Err(why) = self.ledger.lists(member, self.now_us, index, list) {
            return self.fail(why);
        }
        self.note(member, "applied", index, revision as u64);
        self.hub_input(
            member,
            watch::Input::Published {
                view: published.view,
                events: published.events,
            },
        );
        for answer in output.answers {
            self.answered(member, answer.ticket, Ok(Reply::Applied(answer.applied)));
        }
        self.input(member, Input::Applied(output.done));
        self.wants_maintenance(member);
        self.start_hashing(member);
        self.start_applying(member);
    }

    fn wants_maintenance(&mut self, member: usize) {
        let slow = self.plan.sweep == 1 && self.is_safety_phase;
        let life = self.life(member);
        if life.maintain_scheduled || !life.apply.needs_maintenance() {
            return;
        }
        life.maintain_scheduled = true;
        let delay = self.dice.disk.delay(100, if slow { 20_000 } else { 2_000 });
        self.after(member, delay, Moment::Maintain);
    }

    fn maintain(&mut self, member: usize) {
        let sweep = self.plan.sweep;
        let life = self.life(member);
        life.maintain_scheduled = false;
        let maintained = life.apply.maintain(sweep);
        if !maintained.more {
            // What a sweep has left behind in a view, readers see from the next publication on.
            let published = life.apply.published();
            life.view = published.view;
        }
        for answer in maintained.answers {
            self.answered(member, answer.ticket, Ok(Reply::Applied(answer.applied)));
        }
        self.wants_maintenance(member);
        self.start_storing(member);
    }

    /// The hash of a compaction, which another thread computes.
    fn start_hashing(&mut self, member: usize) {
        let life = self.life(member);
        let Some(job) = life.apply.hash_job() else {
            return;
        };
        life.hash_running = Some(job);
        let delay = self.dice.disk.delay(100, 2_000);
        self.after(member, delay, Moment::Hashed);
    }

    fn hashed(&mut self, member: usize) {
        let life = self.life(member);
        let Some(job) = life.hash_running.take() else {
            return;
        };
        match job.run() {
            Ok(done) => life.apply.hashed(&done),
            Err(fault) => return self.stopped(member, &fault),
        }
        life.view = life.apply.published().view;
        self.wants_maintenance(member);
        self.start_hashing(member);
    }

    // The store worker.

    fn start_storing(&mut self, member: usize) {
        let typical = self.plan.checkpoint_us;
        let life = self.life(member);
        if life.store_running.is_some() {
            return;
        }
        let job = if std::mem::take(&mut life.install_wanted) {
            life.apply.install(&mut life.received)
        } else if std::mem::take(&mut life.checkpoint_wanted) {
            life.apply.checkpoint()
        } else {
            life.apply.rewrite(0.5)
        };
        let Some(job) = job else { return };
        life.store_running = Some(job);
        let delay = self.dice.disk.delay(100, typical);
        self.end_at_work(member, Work::Store, delay);
        self.after(member, delay, Moment::Stored);
    }

    fn stored(&mut self, member: usize) {
        let life = self.life(member);
        let Some(job) = life.store_running.take() else {
            return;
        };
        match life.store.run(job) {
            Ok(done) => {
                match life.apply.stored(done) {
                    Stored::Checkpoint(marker) => {
                        self.note(member, "stored", 1, marker.index);
                        self.input(member, Input::Checkpointed(marker));
                    }
                    Stored::Rewrite => self.note(member, "stored", 0, 0),
                    Stored::Replaced(replaced) => self.replaced(member, *replaced),
                }
                self.start_storing(member);
            }
            Err(StoreError::NoSpace(job, _)) => {
                self.life(member).store_running = Some(*job);
                self.note(member, "store held", 0, 0);
                self.after(member, 300_000, Moment::StoreRetry);
            }
            Err(StoreError::Fault(fault)) => {
                debug_assert_ne!(fault.kind(), FaultKind::NoSpace, "a full disk is no fault");
                self.stopped(member, &fault);
            }
        }
    }

    /// A snapshot has become the state.
    fn replaced(&mut self, member: usize, replaced: Replaced) {
        let Replaced {
            published,
            answers,
            done,
        } = replaced;
        let view = published.view.clone();
        let (index, revision) = (view.applied().0, view.revision());
        self.life(member).view = view;
        self.snapshots.installed += 1;
        self.note(member, "installed", index, revision as u64);
        if let Err(why) = self.ledger.installed(member, index, revision) {
            return self.fail(why);
        }
        let list = published.view.members();
        if let Err(why) = self.ledger.lists(member, self.now_us, index, list) {
            return self.fail(why);
        }
        self.hub_input(
            member,
            watch::Input::Published {
                view: published.view,
                events: published.events,
            },
        );
        for answer in answers {
            self.answered(member, answer.ticket, Ok(Reply::Applied(answer.applied)));
        }
        self.input(member, Input::Installed(done));
        self.wants_maintenance(member);
    }
}
