//! Versions that are not the newest of their key: one queue for all keys.
//!
//! ```text
//!   index:  key ──► History { newest, older: 17 }                                  Copy, so that copying a leaf is copying bytes
//!   past:   ┌ 9 ┬ 10 ┬ 11 ┬ .. ┬ 17 ┬ 18 ┐   17: { a version, until: its successor's revision, older: 11, jump: .. }
//!           first                    next
//! ```
//!
//! A version comes here when its successor is written. So the queue is ordered by the revision up to which each version was the newest, and
//! what a compaction makes unreachable is exactly a beginning of the queue: compacting means taking from the front, in time
//! proportional to what dies and not to what lives. A link to something taken away counts as none.
//!
//! Versions of one key are linked backwards, with a second link that jumps further: a read of an old revision takes O(log n)
//! steps (Myers, "An applicative random-access stack", 1983).
//!
//! A clone is O(1) and never changes. Slots are set once, and nobody can reach a slot that was set after its clone was taken.

use std::sync::{Arc, OnceLock};

use super::history::Stamp;
use super::tree::{Tree, Weight};

/// A version and its neighbours in time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Past {
    pub stamp: Stamp,
    /// The main revision at which the next version replaced this one.
    pub until: i64,
    /// The version before, and one further back; [`NONE`] if there is none.
    older: u64,
    jump: u64,
    /// Number of versions before this one since the first that was linked.
    depth: u64,
}

/// No version.
pub(crate) const NONE: u64 = 0;

/// The queue.
#[derive(Clone)]
pub(crate) struct Queue {
    /// Full blocks by their number, 8 bytes big endian.
    full: Tree<Full>,
    /// The block of `next`.
    open: Arc<Block>,
    first: u64,
    next: u64,
}

/// Versions in a block.
const BLOCK: u64 = 512;

struct Block {
    slots: Box<[OnceLock<Past>]>,
}

#[derive(Clone)]
struct Full(Arc<Block>);

impl Weight for Full {
    fn weight(&self) -> u64 {
        0
    }
}

impl Block {
    fn new() -> Arc<Block> {
        Arc::new(Block {
            slots: (0..BLOCK).map(|_| OnceLock::new()).collect(),
        })
    }
}

impl Default for Queue {
    fn default() -> Queue {
        // Place 0 is never used: it says "none".
        Queue {
            full: Tree::new(),
            open: Block::new(),
            first: 1,
            next: 1,
        }
    }
}

impl Queue {
    /// Adds a version that was replaced at revision `until`, whose own predecessor is at `older`, and returns its place.
    pub(crate) fn push(&mut self, stamp: Stamp, until: i64, older: u64) -> u64 {
        let (jump, depth) = match self.get(older) {
            Some(before) => (self.jump_over(older, before), before.depth + 1),
            None => (NONE, 0),
        };
        let at = self.next;
        let past = Past {
            stamp,
            until,
            older,
            jump,
            depth,
        };
        assert!(
            self.open.slots[slot(at)].set(past).is_ok(),
            "place {at} of the past is taken"
        );
        self.next += 1;
        if self.next.is_multiple_of(BLOCK) {
            let full = std::mem::replace(&mut self.open, Block::new());
            self.full.insert(&block_key(at), Full(full));
        }
        at
    }

    /// The oldest version, if it was replaced at or before revision `until`.
    pub(crate) fn front(&self, until: i64) -> Option<&Past> {
        self.get(self.first).filter(|past| past.until <= until)
    }

    /// Takes the oldest version away.
    pub(crate) fn pop(&mut self) {
        assert!(self.first < self.next, "the past is empty");
        self.first += 1;
        if self.first.is_multiple_of(BLOCK) {
            self.full.remove(&block_key(self.first - 1));
        }
    }

    /// The newest version at or below revision `at` among the one at `place` and those before it.
    pub(crate) fn newest_to(&self, place: u64, at: i64) -> Option<&Stamp> {
        let mut past = self.get(place)?;
        while past.stamp.main() > at {
            past = match self.get(past.jump).filter(|jump| jump.stamp.main() > at) {
                Some(jump) => jump,
                None => self.get(past.older)?,
            };
        }
        Some(&past.stamp)
    }

    fn get(&self, place: u64) -> Option<&Past> {
        if place < self.first || place >= self.next {
            return None;
        }
        let block = if place / BLOCK == self.next / BLOCK {
            &self.open
        } else {
            let Full(block) = self
                .full
                .get(&block_key(place))
                .expect("full blocks stay until all of them is taken");
            block
        };
        Some(
            block.slots[slot(place)]
                .get()
                .expect("every place below the next is set"),
        )
    }

    /// Where the successor of `before`, which is at `place`, jumps to.
    fn jump_over(&self, place: u64, before: &Past) -> u64 {
        let Some(near) = self.get(before.jump) else {
            return place;
        };
        match self.get(near.jump) {
            Some(far) if before.depth - near.depth == near.depth - far.depth => near.jump,
            _ => place,
        }
    }
}

fn slot(place: u64) -> usize {
    (place % BLOCK) as usize
}

fn block_key(place: u64) -> [u8; 8] {
    (place / BLOCK).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use storage::segments::Revision;

    use super::*;

    fn put(main: i64) -> Stamp {
        Stamp::put(Revision { main, sub: 0 }, main, 1, false)
    }

    /// Versions 1 to `count` of one key, all but the newest in the past.
    fn chain(count: i64) -> (Queue, u64) {
        let mut queue = Queue::default();
        let newest = (1..count).fold(NONE, |older, main| queue.push(put(main), main + 1, older));
        (queue, newest)
    }

    #[test]
    fn every_version_of_a_long_chain_is_found_in_few_steps() {
        let (queue, newest) = chain(20_000);
        for at in 1..20_000 {
            let mut steps = 0;
            let mut past = queue.get(newest).expect("the newest");
            while past.stamp.main() > at {
                steps += 1;
                past = match queue.get(past.jump).filter(|jump| jump.stamp.main() > at) {
                    Some(jump) => jump,
                    None => queue.get(past.older).expect("an older one"),
                };
            }
            assert!(steps < 60, "{steps} steps to version {at}");
            assert_eq!(queue.newest_to(newest, at).map(Stamp::main), Some(at));
        }
        assert!(queue.newest_to(newest, 0).is_none());
    }

    #[test]
    fn what_is_taken_from_the_front_is_as_if_it_never_was() {
        let (mut queue, newest) = chain(2000);
        let clone = queue.clone();
        while queue.front(1500).is_some() {
            queue.pop();
        }
        assert_eq!(queue.next - queue.first, 500);
        assert!(queue.newest_to(newest, 1499).is_none());
        assert_eq!(queue.newest_to(newest, 1500).map(Stamp::main), Some(1500));
        assert_eq!(
            clone.newest_to(newest, 7).map(Stamp::main),
            Some(7),
            "a clone does not change"
        );
        assert!(
            queue.full.len() <= 2,
            "{} blocks are left",
            queue.full.len()
        );
    }

    #[test]
    fn a_queue_that_was_emptied_takes_more() {
        let (mut queue, _) = chain(600);
        while queue.front(i64::MAX).is_some() {
            queue.pop();
        }
        let first = queue.push(put(1000), 1001, 5);
        let second = queue.push(put(1001), 1002, first);
        assert_eq!(queue.newest_to(second, 1000).map(Stamp::main), Some(1000));
        assert!(queue.newest_to(second, 999).is_none(), "place 5 is gone");
    }
}
