//! What goes wrong, and when. One fault at a time begins; several may last at the same time.

use std::collections::BTreeMap;

use storage::disk::{Disk as _, MemDisk};

use super::machine::{Life, Work};
use super::{Event, Mend, Moment, World};
use crate::checker::history::Outcome;
use crate::plan::RATE;

/// More than any simulated disk will hold.
const BOUNDLESS: u64 = 1 << 50;

/// Which member can send to which.
#[derive(Debug)]
pub(super) struct Links {
    blocked: Vec<Vec<bool>>,
    partition: u64,
    counts: BTreeMap<&'static str, u64>,
}

impl Links {
    pub fn new(members: usize) -> Links {
        Links {
            blocked: vec![vec![false; members]; members],
            partition: 0,
            counts: BTreeMap::new(),
        }
    }

    /// One more member, connected with all.
    pub fn grow(&mut self) {
        self.blocked.iter_mut().for_each(|row| row.push(false));
        self.blocked.push(vec![false; self.blocked.len() + 1]);
    }

    pub fn is_open(&self, from: usize, to: usize) -> bool {
        !self.blocked[from][to]
    }

    pub fn open_all(&mut self) {
        for row in &mut self.blocked {
            row.fill(false);
        }
    }

    /// How often each fault happened.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        self.counts
            .iter()
            .map(|(name, count)| (*name, *count))
            .collect()
    }

    pub fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }
}

/// Faults to choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Crash,
    Blackout,
    Kill,
    Partition,
    Pause,
    FailedSync,
    FullDisk,
    SlowDisk,
    Drift,
    BitRot,
    Wipe,
    ClockJump,
}

impl World {
    pub(super) fn schedule_fault(&mut self) {
        let gap = self.plan.fault_gap_us;
        let wait = self.dice.faults.between(gap / 4, gap * 2);
        self.schedule(wait, Event::Fault);
    }

    pub(super) fn draw_clock(&mut self, member: usize) {
        let rate = if self.plan.faults.drift && self.is_safety_phase {
            self.dice.clock.between(*RATE.start(), *RATE.end())
        } else {
            1000
        };
        self.machines[member].clock.set_rate(self.now_us, rate);
    }

    /// A fault begins.
    pub(super) fn fault(&mut self) {
        if !self.is_safety_phase {
            return;
        }
        self.schedule_fault();
        let on = self.plan.faults;
        let kinds = [
            (on.crash, Fault::Crash),
            (on.blackout, Fault::Blackout),
            (on.kill, Fault::Kill),
            (on.partition, Fault::Partition),
            (on.pause, Fault::Pause),
            (on.failed_sync, Fault::FailedSync),
            (on.full_disk, Fault::FullDisk),
            (on.slow_disk, Fault::SlowDisk),
            (on.drift, Fault::Drift),
            (on.bit_rot, Fault::BitRot),
            (on.wipe, Fault::Wipe),
            (on.clock_jump, Fault::ClockJump),
        ];
        let kinds: Vec<Fault> = kinds
            .into_iter()
            .filter(|(on, _)| *on)
            .map(|(_, fault)| fault)
            .collect();
        if kinds.is_empty() {
            return;
        }
        let fault = *self.dice.faults.pick(&kinds);
        let member = self.choose_member();
        match fault {
            Fault::Crash => self.end_soon(member, Moment::PowerCut),
            Fault::Blackout => self.blackout(),
            Fault::Kill => self.end_soon(member, Moment::Kill),
            Fault::Partition => self.partition(),
            Fault::Pause => self.pause(member),
            Fault::FailedSync => self.fail_sync(member),
            Fault::FullDisk => self.fill_disk(member),
            Fault::SlowDisk => {
                self.links.count("slow disk");
                self.machines[member].slow_until_us =
                    self.now_us + self.dice.faults.between(500_000, 8_000_000);
            }
            Fault::Drift => self.draw_clock(member),
            Fault::BitRot => self.rot(member),
            Fault::Wipe => self.wipe(member),
            Fault::ClockJump => self.jump_clock(member),
        }
    }

    /// Any member, the leader more often than the others.
    fn choose_member(&mut self) -> usize {
        let leader = self
            .machines
            .iter()
            .position(|m| m.life.as_ref().is_some_and(|life| life.status.is_leader));
        match leader {
            Some(leader) if self.dice.faults.chance(400) => leader,
            _ => self.dice.faults.below(self.machines.len() as u64) as usize,
        }
    }

    /// Ends a life at once, or while the log or the store is being written, which chance alone would seldom meet.
    fn end_soon(&mut self, member: usize, how: Moment) {
        let work = *self
            .dice
            .faults
            .pick(&[None, None, Some(Work::Log), Some(Work::Store)]);
        match work {
            Some(work) => self.machines[member].ends_at_work = Some((work, how)),
            None if how == Moment::Kill => self.kill(member),
            None => self.crash(member),
        }
    }

    pub(super) fn crash(&mut self, member: usize) {
        if self.machines[member].life.is_none() {
            return;
        }
        self.links.count("crash");
        self.note(member, "power cut", 0, 0);
        self.work_in_part(member);
        self.cut_power(member);
        let down = self.dice.faults.delay(50_000, 2_000_000);
        self.schedule(down, Event::Mend(Mend::Restart(member)));
    }

    /// Several members lose power at the same moment, perhaps all.
    fn blackout(&mut self) {
        self.links.count("blackout");
        for member in 0..self.machines.len() {
            if self.machines[member].life.is_some() && self.dice.faults.chance(700) {
                self.note(member, "blackout", 0, 0);
                self.work_in_part(member);
                self.cut_power(member);
                let down = self.dice.faults.delay(50_000, 2_000_000);
                self.schedule(down, Event::Mend(Mend::Restart(member)));
            }
        }
    }

    pub(super) fn kill(&mut self, member: usize) {
        if self.machines[member].life.is_none() {
            return;
        }
        self.links.count("kill");
        self.note(member, "kill", 0, 0);
        // A failed sync ends in a power cut here, as `stopped` does it. That the next process may still read from the cache of the
        // system what the disk has lost (seed 24 met it in the catalog) is a fault of its own and not simulated.
        self.machines[member]
            .disk
            .faults(|faults| faults.failing_syncs = 0);
        self.work_in_part(member);
        self.cut_off(member);
        let down = self.dice.faults.delay(20_000, 1_000_000);
        self.schedule(down, Event::Mend(Mend::Restart(member)));
    }

    /// The workers get some way into what they were doing when the power goes, or the process.
    fn work_in_part(&mut self, member: usize) {
        let disk = self.machines[member].disk.clone();
        let (log_first, log_operations, store_operations) = (
            self.dice.disk.chance(500),
            self.dice.disk.below(5),
            self.dice.disk.below(14),
        );
        let life = self.life(member);
        let (jobs, store) = (life.log_running.take(), life.store_running.take());
        let (mut jobs, mut store) = (jobs, store);
        // Whatever they answer, nobody is there any more to hear it.
        let mut log = |life: &mut Life| {
            disk.faults(|faults| faults.operations_left = Some(log_operations));
            jobs.iter_mut()
                .for_each(|jobs| drop(life.log.run(std::mem::take(jobs))));
        };
        let mut keep = |life: &mut Life| {
            disk.faults(|faults| faults.operations_left = Some(store_operations));
            store
                .take()
                .into_iter()
                .for_each(|job| drop(life.store.run(job)));
        };
        if log_first {
            log(life);
            keep(life);
        } else {
            keep(life);
            log(life);
        }
    }

    /// The power goes: what was not synced is lost, in part.
    pub(super) fn cut_power(&mut self, member: usize) {
        self.end_life(member);
        let style = self.dice.disk.below(4);
        let dice = &mut self.dice.disk;
        let disk = &self.machines[member].disk;
        disk.crash(&mut |options: usize| match style {
            0 => 0,
            1 => options - 1,
            _ => dice.below(options as u64) as usize,
        });
    }

    /// The process ends and the machine runs on: what was written is still there to read, synced or not.
    pub(super) fn cut_off(&mut self, member: usize) {
        let disk = &self.machines[member].disk;
        disk.faults(|faults| faults.operations_left = None);
        disk.kill();
        self.end_life(member);
    }

    pub(super) fn end_life(&mut self, member: usize) {
        let machine = &mut self.machines[member];
        machine.paused_until_us = 0;
        let Some(life) = machine.life.take() else {
            return;
        };
        for op in life.tickets.into_values() {
            let delay = self.dice.network.delay(20, 300);
            self.schedule(
                delay,
                Event::Return {
                    op,
                    outcome: Outcome::Unknown,
                },
            );
        }
        self.streams_broken(member);
    }

    fn pause(&mut self, member: usize) {
        self.links.count("pause");
        self.note(member, "pause", 0, 0);
        let length = self.dice.faults.between(300_000, 6_000_000);
        self.machines[member].paused_until_us = self.now_us + length;
    }

    /// The clock of a member goes forward by up to half a minute at once. Its ticks do not: they are counted, not timed.
    fn jump_clock(&mut self, member: usize) {
        self.links.count("clock jump");
        let by_us = self.dice.faults.between(100_000, 30_000_000);
        self.note(member, "clock jumps", by_us, 0);
        self.machines[member].clock.jump(by_us);
    }

    /// A member loses its disk and is started with an empty one, as the same member. It must not take part any more.
    fn wipe(&mut self, member: usize) {
        if self.machines[member].is_impaired()
            || !self.can_do_without(member)
            || !self.is_known_as_started(member)
        {
            return;
        }
        self.links.count("wipe");
        self.cut_power(member);
        self.note(member, "disk emptied", 0, 0);
        let machine = &mut self.machines[member];
        machine.disk = MemDisk::new();
        machine.is_wiped = true;
        machine.is_full = false;
        let down = self.dice.faults.delay(50_000, 2_000_000);
        self.schedule(down, Event::Mend(Mend::Restart(member)));
    }

    fn fail_sync(&mut self, member: usize) {
        if self.machines[member].life.is_none() {
            return;
        }
        self.links.count("failed sync");
        self.note(member, "next sync fails", 0, 0);
        self.machines[member].expects_end = true;
        self.machines[member]
            .disk
            .faults(|faults| faults.failing_syncs = 1);
    }

    fn fill_disk(&mut self, member: usize) {
        if self.machines[member].is_full {
            return;
        }
        self.links.count("full disk");
        self.note(member, "disk is full", 0, 0);
        let room = self.dice.faults.below(8_192);
        let machine = &mut self.machines[member];
        machine.is_full = true;
        machine.expects_end = true;
        machine
            .disk
            .faults(|faults| faults.capacity_bytes = Some(BOUNDLESS));
        let used = BOUNDLESS - machine.disk.free_space("/".as_ref()).unwrap_or(BOUNDLESS);
        machine
            .disk
            .faults(|faults| faults.capacity_bytes = Some(used + room));
        let length = self.dice.faults.between(500_000, 8_000_000);
        self.schedule(length, Event::Mend(Mend::FullDisk(member)));
    }

    /// Some messages between members get lost: those of one member, between two groups, or in one direction.
    fn partition(&mut self) {
        let members = self.machines.len();
        if members < 2 {
            return;
        }
        self.links.count("partition");
        self.links.open_all();
        self.links.partition += 1;
        let alone = self.choose_member();
        let dice = &mut self.dice.faults;
        let style = dice.below(4);
        let side: Vec<bool> = (0..members)
            .map(|m| {
                if style < 2 {
                    m == alone
                } else {
                    dice.chance(500)
                }
            })
            .collect();
        let one_way = dice.chance(350);
        for (from, row) in self.links.blocked.iter_mut().enumerate() {
            for (to, blocked) in row.iter_mut().enumerate() {
                *blocked = if one_way {
                    side[from] && !side[to]
                } else {
                    side[from] != side[to]
                };
            }
        }
        let partition = self.links.partition;
        self.note(alone, "partition", style, u64::from(one_way));
        let length = self.dice.faults.delay(200_000, 4_000_000);
        self.schedule(length, Event::Mend(Mend::Partition(partition)));
    }

    /// A fault ends.
    pub(super) fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::Restart(member) => {
                let machine = &self.machines[member];
                if machine.life.is_none() && !machine.is_spare && !machine.is_removed {
                    self.restart(member);
                }
            }
            Mend::Partition(partition) => {
                if partition == self.links.partition {
                    self.links.open_all();
                }
            }
            Mend::FullDisk(member) => self.make_room(member),
        }
    }

    fn make_room(&mut self, member: usize) {
        self.machines[member].is_full = false;
        self.machines[member]
            .disk
            .faults(|faults| faults.capacity_bytes = None);
    }

    /// Starts a member; now and then the power goes again while it recovers, or soon after.
    fn restart(&mut self, member: usize) {
        if self.machines[member].is_lost {
            return;
        }
        self.machines[member]
            .disk
            .faults(|faults| faults.failing_syncs = 0);
        let again = self.is_safety_phase && self.plan.faults.crash && self.dice.faults.chance(100);
        if again {
            let operations = self.dice.disk.below(8);
            self.machines[member]
                .disk
                .faults(|faults| faults.operations_left = Some(operations));
            self.links.count("crash at start");
        }
        self.boot(member);
        if again && self.machines[member].life.is_some() {
            return self.crash(member);
        }
        let soon = self.is_safety_phase && self.plan.faults.crash && self.dice.faults.chance(250);
        if soon && self.machines[member].life.is_some() {
            let delay = self.dice.faults.between(0, 300_000);
            self.after(member, delay, Moment::PowerCut);
        }
    }

    /// Whether the power was to go during this start.
    pub(super) fn boot_is_cut(&self, member: usize) -> bool {
        let mut cut = false;
        self.machines[member]
            .disk
            .faults(|faults| cut = faults.operations_left.is_some());
        cut
    }

    /// Ends all faults, for the liveness phase.
    pub(super) fn mend_all(&mut self) {
        self.is_safety_phase = false;
        self.links.open_all();
        self.start_members();
        for member in 0..self.machines.len() {
            self.draw_clock(member);
            self.make_room(member);
            let machine = &mut self.machines[member];
            machine.slow_until_us = 0;
            machine.ends_at_work = None;
            machine.disk.faults(|faults| faults.failing_syncs = 0);
            // Whoever stands still goes on at its time: at most some seconds from now.
            if machine.life.is_none() {
                self.schedule(0, Event::Mend(Mend::Restart(member)));
            }
        }
    }
}
