//! The clocks of leases. Only the leader's run; everybody keeps the list, so that a new leader can start them.
//!
//! A hashed timing wheel: a slot per 100 ms, in which a lease lies where its time was *first* known to end. Keeping a lease
//! alive only moves its own deadline, so it costs a look-up; when the wheel comes to it, the lease is moved on. A lease
//! whose time ends after more than a turn of the wheel is looked at once a turn.
//!
//! A lease is never expired early: its time starts when the leader learns of it, which is after the client was promised
//! it, and a new leader starts all of them anew with an election timeout on top (upstream `Promote`).

use std::collections::BTreeMap;

use storage::planted;

use crate::Now;

const SLOT_US: u64 = 100_000;
const SLOTS: u64 = 1024;
/// Revokes proposed per tick, so that a storm of expiries does not starve the clients' requests.
const REVOKES_PER_TICK_MAX: usize = 1_000;
/// When a proposed revoke has not been applied after this long it is proposed again.
const RETRY_US: u64 = 3_000_000;
/// With more leases than this, a new leader spreads their expiry. Source: upstream `leaseRevokeRate` (1000 a second),
/// of which three quarters are planned for.
const SPREAD_ABOVE: usize = 1_000;
const SPREAD_PER_SECOND: u64 = 750;

#[derive(Debug)]
struct Clock {
    ttl_s: i64,
    /// What a checkpoint left of the time; 0 means all of it.
    remaining_s: i64,
    /// Meaningful only while this member leads.
    deadline_us: u64,
    /// A revoke is under way until then.
    revoking_until_us: u64,
}

/// All leases of the cluster, as their clocks.
#[derive(Debug)]
pub(super) struct Leases {
    clocks: BTreeMap<i64, Clock>,
    /// `None` while another member leads.
    wheel: Option<Wheel>,
    extend_us: u64,
}

#[derive(Debug)]
struct Wheel {
    slots: Vec<Vec<i64>>,
    /// The next slot time to look at, in units of [`SLOT_US`].
    position: u64,
    /// Leases whose time is up and whose revoke waits for its turn.
    due: Vec<i64>,
}

impl Leases {
    pub fn new(extend_us: u64) -> Self {
        Leases {
            clocks: BTreeMap::new(),
            wheel: None,
            extend_us,
        }
    }

    pub fn known(&mut self, id: i64, ttl_s: i64, remaining_s: i64) {
        let clock = Clock {
            ttl_s,
            remaining_s,
            deadline_us: u64::MAX,
            revoking_until_us: 0,
        };
        self.clocks.insert(id, clock);
    }

    pub fn granted(&mut self, now: Now, id: i64, ttl_s: i64) {
        self.known(id, ttl_s, 0);
        if self.wheel.is_some() {
            self.start(now, id, 0);
        }
    }

    pub fn revoked(&mut self, id: i64) {
        self.clocks.remove(&id);
    }

    pub fn checkpointed(&mut self, id: i64, remaining_s: i64) {
        if let Some(clock) = self.clocks.get_mut(&id) {
            clock.remaining_s = remaining_s;
        }
    }

    /// Starts every clock: what was left of it, an election timeout for the time nobody was watching, and a spread.
    pub fn promote(&mut self, now: Now) {
        self.wheel = Some(Wheel::new(now));
        let ids: Vec<i64> = self.clocks.keys().copied().collect();
        let spread = ids.len() > SPREAD_ABOVE;
        for (n, id) in ids.into_iter().enumerate() {
            let delay = if spread {
                n as u64 * 1_000_000 / SPREAD_PER_SECOND
            } else {
                0
            };
            self.start(now, id, self.extend_us + delay);
        }
    }

    pub fn demote(&mut self) {
        if !planted!(OldLeaderRevokesLeases) {
            self.wheel = None;
        }
    }

    fn start(&mut self, now: Now, id: i64, extra_us: u64) {
        let clock = self
            .clocks
            .get_mut(&id)
            .expect("only leases on the list are started");
        let seconds = if clock.remaining_s > 0 {
            clock.remaining_s
        } else {
            clock.ttl_s
        };
        let before_us = clock.deadline_us;
        clock.deadline_us = now
            .monotonic_us
            .saturating_add(micros(seconds))
            .saturating_add(extra_us);
        if planted!(LeaseClocksRunOn) {
            clock.deadline_us = clock.deadline_us.min(before_us);
        }
        clock.revoking_until_us = 0;
        if let Some(wheel) = &mut self.wheel {
            wheel.put(clock.deadline_us, id);
        }
    }

    /// Leases to revoke now, each at most once per [`RETRY_US`].
    pub fn expired(&mut self, now: Now) -> Vec<i64> {
        let Some(wheel) = &mut self.wheel else {
            return Vec::new();
        };
        for id in wheel.turn_to(now) {
            let Some(clock) = self.clocks.get(&id) else {
                continue;
            };
            let look_again_us = clock.deadline_us.max(clock.revoking_until_us);
            if look_again_us > now.monotonic_us {
                wheel.put(look_again_us, id);
            } else {
                wheel.due.push(id);
            }
        }
        let count = wheel.due.len().min(REVOKES_PER_TICK_MAX);
        let mut revoke: Vec<i64> = wheel.due.drain(..count).collect();
        revoke.retain(|id| {
            let Some(clock) = self.clocks.get_mut(id) else {
                return false;
            };
            let is_due = clock.deadline_us <= now.monotonic_us;
            if is_due {
                clock.revoking_until_us = now.monotonic_us + RETRY_US;
            }
            wheel.put(clock.deadline_us.max(clock.revoking_until_us), *id);
            is_due
        });
        revoke
    }

    pub fn renew(&mut self, now: Now, id: i64) -> Option<i64> {
        self.wheel.as_ref()?;
        let clock = self.clocks.get_mut(&id)?;
        // A revoke may be in the log already: the lease can't be promised any more.
        if clock.deadline_us <= now.monotonic_us {
            return None;
        }
        clock.deadline_us = now.monotonic_us.saturating_add(micros(clock.ttl_s));
        clock.remaining_s = 0;
        Some(clock.ttl_s)
    }

    pub fn time(&self, now: Now, id: i64) -> Option<(i64, i64)> {
        let clock = self.clocks.get(&id)?;
        let left_us = clock.deadline_us.saturating_sub(now.monotonic_us);
        Some((
            clock.ttl_s,
            i64::try_from(left_us / 1_000_000).unwrap_or(i64::MAX),
        ))
    }
}

fn micros(seconds: i64) -> u64 {
    u64::try_from(seconds)
        .unwrap_or(0)
        .saturating_mul(1_000_000)
}

impl Wheel {
    fn new(now: Now) -> Self {
        let slots = (0..SLOTS).map(|_| Vec::new()).collect();
        Wheel {
            slots,
            position: now.monotonic_us / SLOT_US,
            due: Vec::new(),
        }
    }

    /// Puts a lease where its time ends, or a full turn ahead when that is further away.
    fn put(&mut self, deadline_us: u64, id: i64) {
        // One slot later than the deadline's own, so that the deadline has passed when the slot is looked at.
        let wanted = (deadline_us / SLOT_US).saturating_add(1);
        let slot = wanted.clamp(self.position, self.position + SLOTS - 1);
        self.slots[(slot % SLOTS) as usize].push(id);
    }

    /// Empties the slots whose time has come.
    fn turn_to(&mut self, now: Now) -> Vec<i64> {
        let target = now.monotonic_us / SLOT_US + 1;
        let turns = target.saturating_sub(self.position).min(SLOTS);
        let mut reached = Vec::new();
        for slot in 0..turns {
            reached.append(&mut self.slots[((self.position + slot) % SLOTS) as usize]);
        }
        self.position = self.position.max(target);
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn at(us: u64) -> Now {
        Now { monotonic_us: us }
    }

    fn leader() -> Leases {
        let mut leases = Leases::new(SECOND);
        leases.promote(at(0));
        leases
    }

    /// Ticks every 100 ms and returns when the lease was first revoked.
    fn expiry(leases: &mut Leases, from: u64, until: u64) -> Option<u64> {
        (from / SLOT_US..until / SLOT_US)
            .map(|n| n * SLOT_US)
            .find(|us| !leases.expired(at(*us)).is_empty())
    }

    #[test]
    fn a_lease_expires_within_a_slot_after_its_time_and_never_before() {
        for ttl in [1, 2, 60, 200, 1000] {
            let mut leases = leader();
            leases.granted(at(30_000), 7, ttl);
            let expired = expiry(&mut leases, 0, 2_000 * SECOND).expect("expires");
            let due = 30_000 + ttl as u64 * SECOND;
            assert!(
                expired >= due && expired <= due + 2 * SLOT_US,
                "ttl {ttl}: due {due}, expired {expired}"
            );
        }
    }

    #[test]
    fn keeping_alive_moves_the_end() {
        let mut leases = leader();
        leases.granted(at(0), 7, 2);
        assert_eq!(leases.renew(at(SECOND), 7), Some(2));
        assert_eq!(expiry(&mut leases, SECOND, 3 * SECOND), None);
        assert!(expiry(&mut leases, 3 * SECOND, 4 * SECOND).is_some());
    }

    #[test]
    fn a_lease_whose_time_is_up_can_not_be_renewed() {
        let mut leases = leader();
        leases.granted(at(0), 7, 2);
        assert_eq!(leases.renew(at(2 * SECOND), 7), None);
    }

    #[test]
    fn a_revoke_that_is_not_applied_is_proposed_again() {
        let mut leases = leader();
        leases.granted(at(0), 7, 1);
        let first = expiry(&mut leases, 0, 5 * SECOND).expect("expires");
        let second = expiry(&mut leases, first + SLOT_US, first + 10 * SECOND).expect("again");
        assert!(second >= first + RETRY_US);
        leases.revoked(7);
        assert_eq!(
            expiry(&mut leases, second + SLOT_US, second + 10 * SECOND),
            None
        );
    }

    #[test]
    fn a_new_leader_grants_every_lease_its_time_and_an_election_timeout() {
        let mut leases = Leases::new(SECOND);
        leases.known(7, 5, 0);
        leases.promote(at(100 * SECOND));
        assert_eq!(leases.time(at(100 * SECOND), 7), Some((5, 6)));
        assert_eq!(expiry(&mut leases, 100 * SECOND, 106 * SECOND), None);
    }

    #[test]
    fn a_member_that_does_not_lead_expires_nothing() {
        let mut leases = leader();
        leases.granted(at(0), 7, 1);
        leases.demote();
        assert_eq!(expiry(&mut leases, 0, 10 * SECOND), None);
        assert_eq!(leases.renew(at(0), 7), None);
    }

    #[test]
    fn expiring_leases_are_revoked_in_bounded_batches() {
        let mut leases = leader();
        (0..2_500).for_each(|id| leases.granted(at(0), id, 1));
        let sizes: Vec<usize> = (0..20)
            .map(|n| leases.expired(at(n * SLOT_US)).len())
            .collect();
        assert!(sizes.iter().all(|n| *n <= REVOKES_PER_TICK_MAX));
        assert_eq!(sizes.iter().sum::<usize>(), 2_500);
    }
}
