//! Automatic compaction: history is kept for a time or for a number of revisions.
//!
//! Source of the rules: upstream `server/etcdserver/api/v3compactor`.

use std::collections::VecDeque;

use crate::Now;

const MINUTE_US: u64 = 60_000_000;

/// How much history to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    Off,
    /// The revisions of the last so many microseconds.
    Periodic {
        retention_us: u64,
    },
    /// The last so many revisions.
    Revision {
        retention: i64,
    },
}

/// Samples revisions over time and says what may go.
#[derive(Debug)]
pub(super) struct Compactor {
    mode: AutoCompaction,
    /// Revisions, one per sampling interval, oldest first. Bounded by the number of intervals in the retention.
    samples: VecDeque<i64>,
    sample_due_us: u64,
    compact_due_us: u64,
    compacted: i64,
    is_running: bool,
}

impl Compactor {
    pub fn new(mode: AutoCompaction) -> Self {
        Compactor {
            mode,
            samples: VecDeque::new(),
            sample_due_us: 0,
            compact_due_us: 0,
            compacted: 0,
            is_running: false,
        }
    }

    pub fn resume(&mut self, now: Now) {
        self.is_running = true;
        self.samples.clear();
        self.sample_due_us = now.monotonic_us;
        self.compact_due_us = now.monotonic_us + self.first_wait_us();
    }

    pub fn pause(&mut self) {
        self.is_running = false;
    }

    /// The revision to compact at, when it is time.
    pub fn tick(&mut self, now: Now, revision: i64) -> Option<i64> {
        if !self.is_running {
            return None;
        }
        let target = match self.mode {
            AutoCompaction::Off => None,
            AutoCompaction::Periodic { retention_us } => self.periodic(now, revision, retention_us),
            AutoCompaction::Revision { retention } => self.by_revision(now, revision, retention),
        };
        let target = target.filter(|target| *target > self.compacted && *target > 0)?;
        self.compacted = target;
        Some(target)
    }

    fn periodic(&mut self, now: Now, revision: i64, retention_us: u64) -> Option<i64> {
        let interval = sample_interval_us(retention_us);
        if now.monotonic_us >= self.sample_due_us {
            self.sample_due_us = now.monotonic_us + interval;
            self.samples.push_back(revision);
            let kept = usize::try_from(retention_us / interval)
                .unwrap_or(usize::MAX)
                .saturating_add(1);
            while self.samples.len() > kept {
                self.samples.pop_front();
            }
        }
        if now.monotonic_us < self.compact_due_us {
            return None;
        }
        self.compact_due_us = now.monotonic_us + compact_interval_us(retention_us);
        self.samples.front().copied()
    }

    fn by_revision(&mut self, now: Now, revision: i64, retention: i64) -> Option<i64> {
        if now.monotonic_us < self.compact_due_us {
            return None;
        }
        self.compact_due_us = now.monotonic_us + 5 * MINUTE_US;
        Some(revision - retention)
    }

    fn first_wait_us(&self) -> u64 {
        match self.mode {
            AutoCompaction::Off => 0,
            AutoCompaction::Periodic { retention_us } => retention_us,
            AutoCompaction::Revision { .. } => 5 * MINUTE_US,
        }
    }
}

/// Compactions are at most an hour apart, however long the retention.
fn compact_interval_us(retention_us: u64) -> u64 {
    retention_us.min(60 * MINUTE_US)
}

fn sample_interval_us(retention_us: u64) -> u64 {
    (compact_interval_us(retention_us) / 10).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks once a minute with a revision that grows by 10 a minute; returns (minute, compacted revision).
    fn run(mode: AutoCompaction, minutes: u64) -> Vec<(u64, i64)> {
        let mut compactor = Compactor::new(mode);
        compactor.resume(Now { monotonic_us: 0 });
        (0..minutes)
            .filter_map(|minute| {
                let now = Now {
                    monotonic_us: minute * MINUTE_US,
                };
                compactor
                    .tick(now, 1 + 10 * minute as i64)
                    .map(|revision| (minute, revision))
            })
            .collect()
    }

    #[test]
    fn periodic_compaction_keeps_the_retention() {
        let hour = AutoCompaction::Periodic {
            retention_us: 60 * MINUTE_US,
        };
        assert_eq!(run(hour, 190), vec![(60, 1), (120, 601), (180, 1201)]);
    }

    #[test]
    fn revision_compaction_keeps_the_last_revisions() {
        assert_eq!(
            run(AutoCompaction::Revision { retention: 40 }, 12),
            vec![(5, 11), (10, 61)]
        );
    }

    #[test]
    fn off_means_off() {
        assert!(run(AutoCompaction::Off, 10_000).is_empty());
    }
}
