//! Request ids, unique in the cluster without asking anybody.
//!
//! ```text
//! 63      48 47                       8 7       0
//! +---------+--------------------------+---------+
//! | member  | milliseconds at start    | counter |
//! +---------+--------------------------+---------+
//! ```
//! The counter carries into the milliseconds, so a process may issue more than 256 ids in its first millisecond.
//! Source: upstream `pkg/idutil`, which every member of a mixed cluster follows.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::MemberId;

/// A generator of request ids, shared by all who propose.
#[derive(Debug)]
pub struct RequestIds {
    prefix: u64,
    suffix: AtomicU64,
}

impl RequestIds {
    /// `wall_ms` is the Unix time in milliseconds when the process started; a restarted member must pass a later one.
    pub fn new(member: MemberId, wall_ms: u64) -> Self {
        let prefix = member.0 << 48;
        let suffix = (wall_ms << 8) & SUFFIX_MASK;
        RequestIds {
            prefix,
            suffix: AtomicU64::new(suffix),
        }
    }

    /// Never issues `id` again, nor one before it, should it be of this member. A clock that was set back before a restart would
    /// otherwise let a new request carry the id of one that still waits in the log, and be answered with what comes of that.
    pub fn skip_past(&self, id: u64) {
        if id & !SUFFIX_MASK == self.prefix {
            self.suffix.fetch_max(id & SUFFIX_MASK, Ordering::Relaxed);
        }
    }

    /// An id that no request of this cluster has carried.
    pub fn next(&self) -> u64 {
        let suffix = self.suffix.fetch_add(1, Ordering::Relaxed) + 1;
        self.prefix | (suffix & SUFFIX_MASK)
    }
}

const SUFFIX_MASK: u64 = (1 << 48) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_carry_the_low_bits_of_the_member_and_count_up() {
        let ids = RequestIds::new(MemberId(0xdead_0000_0000_12ab), 0x1234);
        assert_eq!(ids.next(), 0x12ab_0000_0012_3401);
        assert_eq!(ids.next(), 0x12ab_0000_0012_3402);
    }

    #[test]
    fn ids_of_a_former_life_are_not_issued_again_though_the_clock_was_set_back() {
        let before = RequestIds::new(MemberId(1), 1_000);
        let last = before.next();
        let after = RequestIds::new(MemberId(1), 900);
        after.skip_past(last);
        assert!(after.next() > last);
        let other = RequestIds::new(MemberId(2), 5);
        other.skip_past(last);
        assert_eq!(other.next(), RequestIds::new(MemberId(2), 5).next());
    }

    #[test]
    fn ids_stay_unique_when_the_counter_overflows_into_the_time() {
        let ids = RequestIds::new(MemberId(1), 5);
        let drawn: std::collections::BTreeSet<u64> = (0..1000).map(|_| ids.next()).collect();
        assert_eq!(drawn.len(), 1000);
    }
}
