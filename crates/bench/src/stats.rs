//! What a run measured: latencies, throughput, errors, stalls.
//!
//! Latencies are nanoseconds in an HDR histogram (three digits, up to ten minutes). In an open loop they count from the moment the request was *due*, so a
//! server that stalls is charged for the requests that could not be sent meanwhile ("coordinated omission").

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Nanoseconds since the program's first look at the clock.
pub type Nanos = u64;

/// Longest latency the histogram tells apart: ten minutes. Longer ones count as this.
const LATENCY_MAX: Nanos = 600_000_000_000;

/// The part of time that is measured: `start` included, `end` excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// End of the warm-up.
    pub start: Nanos,
    /// End of the measurement.
    pub end: Nanos,
}

impl Window {
    /// Whether `at` is measured.
    pub fn contains(&self, at: Nanos) -> bool {
        (self.start..self.end).contains(&at)
    }
}

/// What one thread measured; several are added up.
#[derive(Debug)]
pub struct Stats {
    /// What counts.
    pub window: Window,
    /// Operations completed within the window.
    pub ops: u64,
    /// Bytes of their answers.
    pub bytes: u64,
    /// Watch events received within the window.
    pub events: u64,
    /// Latency of operations.
    pub latency: Histogram<u64>,
    /// Latency of watch events, from the put's send.
    pub event_latency: Histogram<u64>,
    /// Errors by code, within and outside the window.
    pub errors: BTreeMap<String, Failure>,
    /// Longest time within the window during which nothing completed.
    pub gap_max: Nanos,
    last: Nanos,
}

/// How often an error was seen, with one example of its message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Times seen.
    pub count: u64,
    /// The first message seen.
    pub example: String,
}

impl Stats {
    /// Nothing measured yet.
    pub fn new(window: Window) -> Stats {
        let histogram = || {
            Histogram::new_with_bounds(1_000, LATENCY_MAX, 3)
                .expect("the bounds are valid for three digits")
        };
        Stats {
            window,
            ops: 0,
            bytes: 0,
            events: 0,
            latency: histogram(),
            event_latency: histogram(),
            errors: BTreeMap::new(),
            gap_max: 0,
            last: window.start,
        }
    }

    /// An operation was due at `due` and completed at `now`. `open` says that due times come from a schedule: then an operation belongs to the window it was
    /// due in, however late its answer; otherwise to the window it completed in.
    pub fn completed(&mut self, due: Nanos, now: Nanos, open: bool, bytes: u64) {
        if self.window.contains(now) {
            self.ops += 1;
            self.bytes += bytes;
            self.gap_max = self.gap_max.max(now.saturating_sub(self.last));
            self.last = self.last.max(now);
        }
        if self.window.contains(if open { due } else { now }) {
            self.latency.saturating_record(now.saturating_sub(due));
        }
    }

    /// An operation failed or was never answered: it counts as an error, and its time as latency if it was due in the window.
    pub fn failed(&mut self, due: Nanos, now: Nanos, code: &str, message: &str) {
        if !self.errors.contains_key(code) {
            self.errors.insert(
                code.to_owned(),
                Failure {
                    count: 0,
                    example: message.to_owned(),
                },
            );
        }
        if let Some(failure) = self.errors.get_mut(code) {
            failure.count += 1;
        }
        if self.window.contains(due) {
            self.latency.saturating_record(now.saturating_sub(due));
        }
    }

    /// A watch event arrived at `now` for a put sent at `sent`.
    pub fn event(&mut self, sent: Nanos, now: Nanos) {
        if self.window.contains(now) {
            self.events += 1;
            self.event_latency
                .saturating_record(now.saturating_sub(sent));
        }
    }

    /// The window is over: a silence at its end counts as well, unless the run ended because all was done.
    pub fn close(&mut self) {
        if self.ops > 0 && self.window.end < Nanos::MAX {
            self.gap_max = self.gap_max.max(self.window.end.saturating_sub(self.last));
        }
    }

    /// Adds what another thread measured over the same window.
    pub fn add(&mut self, other: &Stats) {
        self.ops += other.ops;
        self.bytes += other.bytes;
        self.events += other.events;
        self.latency
            .add(&other.latency)
            .expect("both histograms have the same bounds");
        self.event_latency
            .add(&other.event_latency)
            .expect("both histograms have the same bounds");
        for (code, failure) in &other.errors {
            let sum = self.errors.entry(code.clone()).or_insert_with(|| Failure {
                count: 0,
                example: failure.example.clone(),
            });
            sum.count += failure.count;
        }
        self.gap_max = self.gap_max.max(other.gap_max);
    }
}

/// Quantiles of a histogram, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Values recorded.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// The largest value: the longest an operation had to wait.
    pub max: f64,
}

impl Quantiles {
    /// `None` for an empty histogram.
    pub fn of(histogram: &Histogram<u64>) -> Option<Quantiles> {
        if histogram.is_empty() {
            return None;
        }
        let us = |q: f64| histogram.value_at_quantile(q) as f64 / 1e3;
        Some(Quantiles {
            count: histogram.len(),
            mean: histogram.mean() / 1e3,
            p50: us(0.5),
            p90: us(0.9),
            p99: us(0.99),
            p999: us(0.999),
            max: histogram.max() as f64 / 1e3,
        })
    }
}

/// When the requests of an open loop are due: evenly spaced, whatever the answers do.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    start: Nanos,
    /// Requests per second of the whole run.
    rate: f64,
    /// This thread takes every `of`-th request, starting with number `offset`.
    offset: u64,
    of: u64,
    next: u64,
}

impl Schedule {
    /// The share of thread `offset` of `of` in a schedule of `rate` requests per second that begins at `start`.
    pub fn new(start: Nanos, rate: f64, offset: u64, of: u64) -> Schedule {
        Schedule {
            start,
            rate,
            offset,
            of,
            next: 0,
        }
    }

    /// When the next request is due.
    pub fn due(&self) -> Nanos {
        let number = self.next * self.of + self.offset;
        self.start + (number as f64 * 1e9 / self.rate) as u64
    }

    /// Moves on to the request after.
    pub fn advance(&mut self) {
        self.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_stall_in_an_open_loop_is_charged_to_every_request_due_meanwhile() {
        let mut schedule = Schedule::new(0, 1000.0, 0, 1);
        let mut stats = Stats::new(Window {
            start: 0,
            end: 2_000 * MS,
        });
        // One second of service in 0.1 ms each, then one second in which nothing is answered, then everything at once.
        while schedule.due() < 2_000 * MS {
            let due = schedule.due();
            stats.completed(
                due,
                if due < 1_000 * MS {
                    due + MS / 10
                } else {
                    2_000 * MS
                },
                true,
                0,
            );
            schedule.advance();
        }
        let q = Quantiles::of(&stats.latency).unwrap();
        assert_eq!(q.count, 2_000);
        assert!(q.p50 < 150.0, "half were served in time: {q:?}");
        assert!(
            (q.p90 - 800_000.0).abs() < 2_000.0,
            "the p90 lies at four fifths of the stall: {q:?}"
        );
        assert!((q.max - 1_000_000.0).abs() < 1_000.0, "{q:?}");
    }

    #[test]
    fn threads_share_one_schedule_without_overlap() {
        let mut due: Vec<u64> = Vec::new();
        for thread in 0..3 {
            let mut s = Schedule::new(5, 300.0, thread, 3);
            for _ in 0..100 {
                due.push(s.due());
                s.advance();
            }
        }
        due.sort_unstable();
        assert_eq!(due[0], 5);
        for (i, pair) in due.windows(2).enumerate() {
            assert!(
                (3_333_333..=3_333_334).contains(&(pair[1] - pair[0])),
                "at {i}: {pair:?}"
            );
        }
    }

    #[test]
    fn only_the_window_counts() {
        let mut stats = Stats::new(Window {
            start: 100 * MS,
            end: 200 * MS,
        });
        stats.completed(90 * MS, 99 * MS, false, 1);
        stats.completed(95 * MS, 101 * MS, false, 1);
        stats.completed(190 * MS, 200 * MS, false, 1);
        assert_eq!((stats.ops, stats.latency.len()), (1, 1));
        // An open loop's request belongs to where it was due.
        stats.completed(199 * MS, 500 * MS, true, 1);
        stats.completed(99 * MS, 150 * MS, true, 1);
        assert_eq!((stats.ops, stats.latency.len()), (2, 2));
    }

    #[test]
    fn the_longest_gap_includes_both_ends_of_the_window() {
        let mut stats = Stats::new(Window {
            start: 0,
            end: 1_000 * MS,
        });
        for at in [300, 310, 500] {
            stats.completed(at * MS - 1, at * MS, false, 0);
        }
        assert_eq!(stats.gap_max, 300 * MS);
        stats.close();
        assert_eq!(stats.gap_max, 500 * MS);
    }

    #[test]
    fn errors_are_counted_by_code_and_add_up() {
        let window = Window { start: 0, end: 10 };
        let (mut a, mut b) = (Stats::new(window), Stats::new(window));
        a.failed(1, 2, "UNAVAILABLE", "no leader");
        b.failed(1, 2, "UNAVAILABLE", "stopping");
        b.failed(1, 2, "RST_STREAM 7", "");
        a.add(&b);
        assert_eq!(
            a.errors["UNAVAILABLE"],
            Failure {
                count: 2,
                example: "no leader".into()
            }
        );
        assert_eq!(a.errors["RST_STREAM 7"].count, 1);
        assert_eq!(a.latency.len(), 3);
    }
}
