//! All randomness of a simulated world: one generator per concern, so that a change in one does not shift the others.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A seeded generator for one concern (network, disk, clocks, workload, faults).
///
/// Integers only: the draws must be the same on every machine.
#[derive(Debug)]
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// The generator of `concern` in the world of `seed`.
    #[must_use]
    pub fn new(seed: u64, concern: u64) -> Dice {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&concern.to_le_bytes());
        Dice(ChaCha8Rng::from_seed(bytes))
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number from 0 to below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The bias of a remainder is far below anything a simulation could notice.
        self.any() % end.max(1)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True `per_mille` times out of a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of the elements; there must be one.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        assert!(!from.is_empty(), "there is nothing to pick from");
        &from[self.below(from.len() as u64) as usize]
    }

    /// A delay: mostly around `typical`, one in sixty-four ten times as long, never below `least`.
    pub fn delay(&mut self, least: u64, typical: u64) -> u64 {
        let body = (self.below(typical + 1) + self.below(typical + 1)).max(1);
        least + if self.below(64) == 0 { body * 10 } else { body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_and_concerns_do_not_share() {
        let draw = |seed, concern| {
            let mut dice = Dice::new(seed, concern);
            (0..100).map(|_| dice.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7, 1), draw(7, 1));
        assert_ne!(draw(7, 1), draw(7, 2));
        assert_ne!(draw(7, 1), draw(8, 1));
    }
}
