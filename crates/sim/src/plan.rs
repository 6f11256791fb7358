//! What one seed simulates: sizes, rates and which faults are on. Each seed draws its own ("swarm testing"), because a fault that is
//! always on hides what happens without it.

use crate::dice::Dice;

/// What the caller decides; the seed draws the rest.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Everything that is random follows from it.
    pub seed: u64,
    /// Simulated length of the safety phase in seconds.
    pub seconds: u64,
    /// Number of members; `None` lets the seed draw 1, 3 (mostly), 5 or 7.
    pub members: Option<usize>,
    /// Whether faults happen.
    pub faults: bool,
    /// What the world is mostly about.
    pub theme: Theme,
}

/// What a world is mostly about. A seed draws everything from everything; a theme makes what it names frequent, for a look at it or a
/// hunt for something that has to do with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Theme {
    /// Nothing in particular.
    #[default]
    Any,
    /// Members that fall behind what the others keep of the log.
    Snapshots,
    /// Members that come and go, and lose their disks.
    Members,
    /// Leases, and leaders that change.
    Leases,
}

/// The network between members.
#[derive(Clone, Debug)]
pub struct Network {
    /// Shortest time on the way, in microseconds.
    pub least_us: u64,
    /// Typical additional time; differences reorder messages.
    pub typical_us: u64,
    /// Messages lost, per thousand.
    pub loss: u64,
    /// Messages delivered twice, per thousand.
    pub duplicate: u64,
    /// Messages that come to another member, per thousand.
    pub misled: u64,
}

/// Which faults may happen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Power cuts: unsynced sectors and directory entries are lost in any subset.
    pub crash: bool,
    /// Several members lose power at once.
    pub blackout: bool,
    /// Killed processes: what was written stays, synced or not.
    pub kill: bool,
    /// Partitions: one member cut off, halves, one direction only.
    pub partition: bool,
    /// A member stands still for seconds.
    pub pause: bool,
    /// A sync fails.
    pub failed_sync: bool,
    /// A disk is full for some seconds.
    pub full_disk: bool,
    /// A log sync takes up to seconds.
    pub slow_disk: bool,
    /// One bit of a file flips.
    pub bit_rot: bool,
    /// A disk is emptied.
    pub wipe: bool,
    /// A clock goes forward by up to half a minute at once.
    pub clock_jump: bool,
    /// Clocks run between 0.7 and 1.4 times as fast as they should.
    pub drift: bool,
}

/// One world.
#[derive(Clone, Debug)]
pub struct Plan {
    /// As in [`Options`].
    pub seed: u64,
    /// Number of members.
    pub members: usize,
    /// Length of the safety phase, in microseconds.
    pub safety_us: u64,
    /// The network between members.
    pub network: Network,
    /// Which faults may happen.
    pub faults: Faults,
    /// Mean time between two faults, in microseconds.
    pub fault_gap_us: u64,
    /// Clients that call one after the other.
    pub clients: usize,
    /// Mean time between an answer and the next call of a client, in microseconds.
    pub think_us: u64,
    /// Number of keys in use.
    pub keys: u64,
    /// Longest value in bytes.
    pub value_bytes: u64,
    /// Calls that are compactions, per thousand.
    pub compactions: u64,
    /// Calls about leases, per thousand.
    pub leases: u64,
    /// Clients that watch.
    pub watchers: usize,
    /// Watchers that stop reading now and then, per thousand of their decisions.
    pub lazy_watchers: u64,
    /// Typical time of a log sync, in microseconds.
    pub sync_us: u64,
    /// Typical time of a checkpoint, in microseconds.
    pub checkpoint_us: u64,
    /// Time between checkpoints, in microseconds.
    pub checkpoint_every_us: u64,
    /// Index keys tidied in one slice.
    pub sweep: usize,
    /// Size of a log segment.
    pub wal_segment_bytes: u64,
    /// Size of a data segment.
    pub segment_bytes: u64,
    /// Messages a watch stream may have under way.
    pub stream_messages: usize,
    /// Events in one slice of a watcher's catch-up.
    pub slice_events: usize,
    /// Time between progress notifications.
    pub progress_us: u64,
    /// Whether members ask around before they start an election.
    pub pre_vote: bool,
    /// Size of a watch message from which on events go into several.
    pub message_bytes: usize,
    /// Whether clients hurry now and then, so that many calls are under way at once.
    pub bursts: bool,
    /// Calls for which a client goes to another member, per thousand.
    pub moves: u64,
    /// Log entries kept behind a checkpoint for members that were away.
    pub log_keep_entries: u64,
    /// The same in bytes, which wins. With few, whoever was away needs a snapshot.
    pub log_keep_bytes: u64,
    /// Rows that travel in one slice of a snapshot.
    pub snapshot_bytes: usize,
    /// Mean time between two requests to move the leadership, in microseconds; 0 for none.
    pub transfer_us: u64,
    /// Mean time between two requests to change the members, in microseconds; 0 for none.
    pub change_us: u64,
}

/// Length of a tick by a true clock.
pub const TICK_US: u64 = 100_000;
/// Ticks without a leader before an election.
pub const ELECTION_TICKS: u64 = 10;
/// Clock rates, in thousandths.
pub const RATE: std::ops::RangeInclusive<u64> = 700..=1400;

impl Plan {
    /// What the seed wants.
    #[must_use]
    pub fn draw(options: &Options) -> Plan {
        let dice = &mut Dice::new(options.seed, 0);
        let members = options
            .members
            .unwrap_or_else(|| *dice.pick(&[1, 3, 3, 3, 3, 5]));
        let on = |dice: &mut Dice, chance| dice.chance(chance) && options.faults;
        let faults = Faults {
            crash: on(dice, 750),
            blackout: on(dice, 400),
            kill: on(dice, 400),
            partition: on(dice, 600),
            pause: on(dice, 500),
            failed_sync: on(dice, 300),
            full_disk: on(dice, 250),
            slow_disk: on(dice, 300),
            drift: on(dice, 400),
            bit_rot: false,
            wipe: false,
            clock_jump: false,
        };
        let mut plan = Plan {
            seed: options.seed,
            members,
            safety_us: options.seconds * 1_000_000,
            network: Network {
                least_us: dice.between(20, 500),
                typical_us: *dice.pick(&[100, 500, 2_000, 10_000]),
                loss: if on(dice, 500) {
                    dice.between(1, 100)
                } else {
                    0
                },
                duplicate: if on(dice, 500) {
                    dice.between(1, 50)
                } else {
                    0
                },
                misled: 0,
            },
            faults,
            fault_gap_us: dice.between(500_000, 6_000_000),
            clients: dice.between(2, 6) as usize,
            think_us: dice.between(100_000, 600_000),
            keys: *dice.pick(&[3, 8, 20, 60]),
            value_bytes: *dice.pick(&[30, 30, 200, 3_000]),
            compactions: *dice.pick(&[5, 20, 60]),
            leases: *dice.pick(&[0, 100, 200]),
            watchers: dice.between(1, 4) as usize,
            lazy_watchers: *dice.pick(&[0, 50, 200]),
            sync_us: *dice.pick(&[100, 500, 3_000]),
            checkpoint_us: *dice.pick(&[1_000, 20_000, 300_000]),
            checkpoint_every_us: *dice.pick(&[300_000, 1_000_000, 5_000_000]),
            sweep: *dice.pick(&[1, 10, 1_000]),
            wal_segment_bytes: *dice.pick(&[8 << 10, 32 << 10, 128 << 10]),
            segment_bytes: *dice.pick(&[1 << 10, 8 << 10, 64 << 10]),
            stream_messages: *dice.pick(&[2, 8, 128]),
            slice_events: *dice.pick(&[1, 5, 100]),
            progress_us: *dice.pick(&[700_000, 5_000_000]),
            pre_vote: dice.chance(800),
            message_bytes: *dice.pick(&[300, 4_000, 2 << 20]),
            bursts: dice.chance(500),
            moves: *dice.pick(&[100, 500]),
            log_keep_entries: *dice.pick(&[0, 5, 100, 1 << 20]),
            log_keep_bytes: *dice.pick(&[500, 2_000, 10_000, 1 << 30]),
            snapshot_bytes: *dice.pick(&[100, 1_000, 10_000, 1 << 20]),
            transfer_us: *dice.pick(&[0, 0, 3_000_000, 20_000_000]),
            change_us: 0,
        };
        plan.faults.bit_rot = on(dice, 200);
        // Drawn last, so that what was drawn before stays as it was for the seeds that are known.
        if members == 5 && options.members.is_none() && dice.chance(300) {
            plan.members = 7;
        }
        plan.change_us = *dice.pick(&[0, 0, 5_000_000, 15_000_000]);
        plan.faults.wipe = on(dice, 250);
        plan.faults.clock_jump = on(dice, 150);
        plan.network.misled = if on(dice, 250) {
            dice.between(1, 20)
        } else {
            0
        };
        plan.lean_to(options.theme);
        plan
    }

    fn lean_to(&mut self, theme: Theme) {
        let theme_members = match theme {
            Theme::Any => return,
            Theme::Snapshots => {
                self.log_keep_entries = self.log_keep_entries.min(5);
                self.log_keep_bytes = self.log_keep_bytes.min(2_000);
                self.checkpoint_every_us = 300_000;
                self.think_us = self.think_us.min(200_000);
                self.compactions = 60;
                self.watchers = 4;
                self.leases = self.leases.max(100);
                self.faults.partition = true;
                self.faults.crash = true;
                self.faults.wipe = false;
                self.faults.bit_rot = false;
                // Long on their way, while leaders change.
                self.snapshot_bytes = self.snapshot_bytes.min(1_000);
                self.transfer_us = 4_000_000;
                3
            }
            Theme::Members => {
                self.change_us = 4_000_000;
                self.faults.wipe = true;
                self.faults.partition = true;
                3
            }
            Theme::Leases => {
                self.leases = 500;
                self.transfer_us = 4_000_000;
                // Leaders that do not know that they are none any more, and clients that still ask them.
                self.faults = Faults {
                    pause: true,
                    partition: true,
                    drift: self.faults.drift,
                    ..Faults::default()
                };
                self.fault_gap_us = 1_500_000;
                self.think_us = 100_000;
                self.clients = 6;
                self.moves = 500;
                3
            }
        };
        self.members = self.members.max(theme_members);
        self.fault_gap_us = self.fault_gap_us.min(2_500_000);
    }
}
