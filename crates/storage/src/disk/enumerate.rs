//! Every crash that an unsynced disk can have: the tool behind the crash tests of this crate.
//!
//! A test runs its code on a [`MemDisk`] that records ([`MemDisk::record`]), then asks [`crash_states`] for each disk that
//! a power cut after each step could have left. If there are too many, a seeded sample is drawn that always contains the
//! extremes and the orderly ones: nothing, everything, each prefix, each single loss, each single survivor.
//!
//! ```
//! use std::path::Path;
//! use storage::disk::{Disk, MemDisk, Open, enumerate::{Limits, crash_states}};
//!
//! let disk = MemDisk::new();
//! let file = disk.open(Path::new("a"), Open::CreateNew).unwrap();
//! disk.sync_dir(Path::new(".")).unwrap();
//! file.write_at(0, &[1; 1024]).unwrap();
//! let mut states = 0;
//! crash_states(&disk, &Limits::default(), |crashed| {
//!     assert!(crashed.exists(Path::new("a")).unwrap());
//!     states += 1;
//! });
//! assert_eq!(states, 2 * 2 * 2); // two sectors and one length
//! ```

use super::memory::{Chooser, MemDisk};

/// How many crash states to visit.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// All states are visited if there are at most this many; otherwise about this many, drawn with `seed`.
    pub states_max: u64,
    /// Seed of the sample.
    pub seed: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            states_max: 1 << 12,
            seed: 1,
        }
    }
}

/// Calls `visit` with a copy of the disk as each possible crash would leave it. Returns how many were visited.
pub fn crash_states(disk: &MemDisk, limits: &Limits, mut visit: impl FnMut(MemDisk)) -> u64 {
    let options = unsynced(disk);
    let total = options
        .iter()
        .try_fold(1u64, |total, &options| total.checked_mul(options as u64));
    let mut run = |choices: &[usize]| {
        let copy = disk.fork();
        let mut script = Script {
            choices,
            asked: Vec::new(),
        };
        copy.crash(&mut script);
        let asked = script.asked;
        visit(copy);
        asked
    };
    match total {
        Some(total) if total <= limits.states_max => every(limits, &mut run),
        _ => sample(&options, limits, &mut run),
    }
}

/// The number of outcomes of each thing that is not synced, in the order in which a crash asks, when all survives.
pub fn unsynced(disk: &MemDisk) -> Vec<usize> {
    let mut options = Vec::new();
    disk.fork().crash(&mut |n: usize| {
        options.push(n);
        n - 1
    });
    options
}

/// A small generator for tests and samples (splitmix64): the same numbers for the same seed, everywhere.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a number below nothing");
        self.draw() % bound
    }
}

impl Chooser for Rng {
    fn choose(&mut self, options: usize) -> usize {
        self.below(options as u64) as usize
    }
}

/// Answers from a list, zeros beyond its end, and notes what was asked.
struct Script<'a> {
    choices: &'a [usize],
    asked: Vec<(usize, usize)>,
}

impl Chooser for Script<'_> {
    fn choose(&mut self, options: usize) -> usize {
        let choice = self
            .choices
            .get(self.asked.len())
            .copied()
            .unwrap_or(0)
            .min(options - 1);
        self.asked.push((choice, options));
        choice
    }
}

/// Visits all answers in order, the last question turning fastest. What is asked may depend on earlier answers: a file
/// whose name did not survive is not asked about.
fn every(limits: &Limits, run: &mut impl FnMut(&[usize]) -> Vec<(usize, usize)>) -> u64 {
    let mut choices: Vec<usize> = Vec::new();
    let mut visited = 0;
    loop {
        let asked = run(&choices);
        visited += 1;
        let Some(at) = asked
            .iter()
            .rposition(|&(choice, options)| choice + 1 < options)
        else {
            return visited;
        };
        // A few states more than estimated are fine (see above), an endless loop would not be.
        if visited > limits.states_max.saturating_mul(4) {
            return visited;
        }
        choices.clear();
        choices.extend(asked[..at].iter().map(|&(choice, _)| choice));
        choices.push(asked[at].0 + 1);
    }
}

fn sample(
    options: &[usize],
    limits: &Limits,
    run: &mut impl FnMut(&[usize]) -> Vec<(usize, usize)>,
) -> u64 {
    let mut rng = Rng(limits.seed);
    let last: Vec<usize> = options.iter().map(|options| options - 1).collect();
    let mut visited = 0;
    let mut visit = |choices: &[usize]| {
        run(choices);
        visited += 1;
    };
    visit(&vec![0; last.len()]);
    visit(&last);
    // The orderly states, thinned out if there are very many of them.
    let step = (3 * last.len() as u64 / limits.states_max.max(1) + 1) as usize;
    for at in (0..last.len()).step_by(step) {
        let mut prefix = last.clone();
        prefix[at..].fill(0);
        visit(&prefix);
        let mut loss = last.clone();
        loss[at] = 0;
        visit(&loss);
        let mut survivor = vec![0; last.len()];
        survivor[at] = last[at];
        visit(&survivor);
    }
    let mut choices = vec![0; last.len()];
    let drawn = limits
        .states_max
        .saturating_sub(2 + 3 * last.len().div_ceil(step) as u64);
    for _ in 0..drawn {
        // How much survives differs from state to state: a fair coin alone would never lose nearly all or nearly nothing.
        let survive_of_8 = rng.below(9);
        for (choice, &options) in choices.iter_mut().zip(options) {
            *choice = if rng.below(8) < survive_of_8 {
                1 + rng.below(options as u64 - 1) as usize
            } else {
                0
            };
        }
        visit(&choices);
    }
    visited
}
