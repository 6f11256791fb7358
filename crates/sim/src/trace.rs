//! What happened, as a hash of everything and the text of the end.
//!
//! Two runs of one seed must have the same hash; a run that fails shows its tail.

use std::collections::VecDeque;
use std::fmt;

/// Events kept for the text.
const TAIL: usize = 400;

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Simulated time in microseconds.
    pub time_us: u64,
    /// The member concerned, 0 for none.
    pub member: u64,
    /// What.
    pub what: &'static str,
    /// Two numbers that say more.
    pub numbers: (u64, u64),
}

/// The trace of one run.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    steps: u64,
    tail: VecDeque<Step>,
}

impl Default for Trace {
    fn default() -> Trace {
        Trace {
            hash: 0xcbf2_9ce4_8422_2325,
            steps: 0,
            tail: VecDeque::with_capacity(TAIL),
        }
    }
}

impl Trace {
    /// Adds a step.
    pub fn add(&mut self, step: Step) {
        let Step {
            time_us,
            member,
            what,
            numbers: (a, b),
        } = step;
        for number in [time_us, member, a, b] {
            self.mix(number);
        }
        for byte in what.bytes() {
            self.mix(u64::from(byte));
        }
        self.steps += 1;
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(step);
    }

    /// Adds the content of something, without a line of text.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        self.mix(hash_of(bytes));
    }

    /// The hash of everything so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Number of steps so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    fn mix(&mut self, number: u64) {
        self.hash = (self.hash.rotate_left(23) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A hash that is the same everywhere; not against adversaries.
#[must_use]
pub fn hash_of(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64 ^ bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash =
            (hash.rotate_left(23) ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    hash ^ (hash >> 29)
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.tail {
            let (a, b) = step.numbers;
            let (seconds, micros) = (step.time_us / 1_000_000, step.time_us % 1_000_000);
            writeln!(
                f,
                "{seconds:>5}.{micros:06} m{} {} {a} {b}",
                step.member, step.what
            )?;
        }
        Ok(())
    }
}
