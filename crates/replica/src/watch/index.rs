//! Which interests does a key meet? Single keys in an ordered map, intervals in a balanced tree.
//!
//! A lookup costs O(log n + hits), so ten thousand watchers on ten thousand keys or prefixes cost an event no more than a
//! few dozen comparisons. The tree is a treap ordered by start of interval; every node knows the furthest end below it, which
//! lets a lookup skip subtrees that end before the key. Its priorities come from a counter, not from keys, so nobody can
//! choose keys that unbalance it, and it is the same tree for the same history of calls.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;

use super::slots::{Slot, Slots};

/// What part of the key space a watcher looks at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Span {
    /// This key only.
    Key(Bytes),
    /// From the first to before the second; without a second, to the end of the key space.
    Interval(Bytes, End),
}

impl Span {
    pub fn holds(&self, key: &[u8]) -> bool {
        match self {
            Span::Key(only) => &only[..] == key,
            Span::Interval(start, end) => &start[..] <= key && end.is_after(key),
        }
    }
}

/// The end of an interval, excluded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Before(Bytes),
    Never,
}

impl End {
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => &end[..] > key,
            End::Never => true,
        }
    }
}

/// The values (slots of interests) by span. Several values may share a span.
#[derive(Debug)]
pub(super) struct Index {
    keys: BTreeMap<Bytes, Vec<Slot>>,
    nodes: Slots<Node>,
    root: Option<Slot>,
    /// Feeds the priorities.
    counter: u64,
}

#[derive(Debug)]
struct Node {
    start: Bytes,
    end: End,
    /// The furthest end in this subtree.
    reach: End,
    priority: u64,
    left: Option<Slot>,
    right: Option<Slot>,
    values: Vec<Slot>,
}

impl Index {
    pub fn new() -> Index {
        Index {
            keys: BTreeMap::new(),
            nodes: Slots::new(),
            root: None,
            counter: 0,
        }
    }

    pub fn insert(&mut self, span: &Span, value: Slot) {
        match span {
            Span::Key(key) => self.keys.entry(key.clone()).or_default().push(value),
            Span::Interval(start, end) => match self.find(start, end) {
                Some(node) => self.nodes.get_mut(node).values.push(value),
                None => self.insert_node(start, end, value),
            },
        }
    }

    /// Removes a value that was inserted under this very span.
    pub fn remove(&mut self, span: &Span, value: Slot) {
        match span {
            Span::Key(key) => {
                let values = self.keys.get_mut(key).expect("the key was inserted");
                remove_value(values, value);
                if values.is_empty() {
                    self.keys.remove(key);
                }
            }
            Span::Interval(start, end) => {
                let node = self.find(start, end).expect("the interval was inserted");
                let values = &mut self.nodes.get_mut(node).values;
                remove_value(values, value);
                if values.is_empty() {
                    let (below, rest) = self.split(self.root, start, end, false);
                    let (found, above) = self.split(rest, start, end, true);
                    assert_eq!(found, Some(node), "a split isolates one interval");
                    self.nodes.remove(node);
                    self.root = self.merge(below, above);
                }
            }
        }
    }

    /// Calls `hit` for every value whose span holds `key`, each once.
    pub fn stab(&self, key: &[u8], mut hit: impl FnMut(Slot)) {
        if let Some(values) = self.keys.get(key) {
            values.iter().copied().for_each(&mut hit);
        }
        self.stab_below(self.root, key, &mut hit);
    }

    fn stab_below(&self, mut at: Option<Slot>, key: &[u8], hit: &mut impl FnMut(Slot)) {
        while let Some(slot) = at {
            let node = self.nodes.get(slot);
            if !node.reach.is_after(key) {
                return;
            }
            self.stab_below(node.left, key, hit);
            if &node.start[..] > key {
                return;
            }
            if node.end.is_after(key) {
                node.values.iter().copied().for_each(&mut *hit);
            }
            at = node.right;
        }
    }

    fn find(&self, start: &Bytes, end: &End) -> Option<Slot> {
        let mut at = self.root;
        while let Some(slot) = at {
            let node = self.nodes.get(slot);
            at = match (start, end).cmp(&(&node.start, &node.end)) {
                Ordering::Less => node.left,
                Ordering::Greater => node.right,
                Ordering::Equal => return Some(slot),
            };
        }
        None
    }

    fn insert_node(&mut self, start: &Bytes, end: &End, value: Slot) {
        self.counter += 1;
        let node = self.nodes.insert(Node {
            start: start.clone(),
            end: end.clone(),
            reach: end.clone(),
            priority: scramble(self.counter),
            left: None,
            right: None,
            values: vec![value],
        });
        let (below, above) = self.split(self.root, start, end, false);
        let below = self.merge(below, Some(node));
        self.root = self.merge(below, above);
    }

    /// Splits a subtree into the intervals before (start, end) and those after; the interval itself goes to the first
    /// part if `including`.
    fn split(
        &mut self,
        at: Option<Slot>,
        start: &Bytes,
        end: &End,
        including: bool,
    ) -> (Option<Slot>, Option<Slot>) {
        let Some(slot) = at else {
            return (None, None);
        };
        let node = self.nodes.get(slot);
        let first = match (&node.start, &node.end).cmp(&(start, end)) {
            Ordering::Less => true,
            Ordering::Equal => including,
            Ordering::Greater => false,
        };
        if first {
            let (left, right) = self.split(node.right, start, end, including);
            self.nodes.get_mut(slot).right = left;
            self.update_reach(slot);
            (Some(slot), right)
        } else {
            let (left, right) = self.split(node.left, start, end, including);
            self.nodes.get_mut(slot).left = right;
            self.update_reach(slot);
            (left, Some(slot))
        }
    }

    /// Joins two subtrees, all of the first before all of the second.
    fn merge(&mut self, first: Option<Slot>, second: Option<Slot>) -> Option<Slot> {
        let (Some(a), Some(b)) = (first, second) else {
            return first.or(second);
        };
        if self.nodes.get(a).priority > self.nodes.get(b).priority {
            let right = self.merge(self.nodes.get(a).right, second);
            self.nodes.get_mut(a).right = right;
            self.update_reach(a);
            first
        } else {
            let left = self.merge(first, self.nodes.get(b).left);
            self.nodes.get_mut(b).left = left;
            self.update_reach(b);
            second
        }
    }

    fn update_reach(&mut self, slot: Slot) {
        let node = self.nodes.get(slot);
        let children = [node.left, node.right];
        let reach = children
            .into_iter()
            .flatten()
            .map(|child| &self.nodes.get(child).reach)
            .chain([&node.end])
            .max()
            .expect("a node has an end")
            .clone();
        self.nodes.get_mut(slot).reach = reach;
    }
}

fn remove_value(values: &mut Vec<Slot>, value: Slot) {
    let place = values
        .iter()
        .position(|&v| v == value)
        .expect("the value was inserted under this span");
    values.remove(place);
}

/// A bijection that spreads consecutive numbers over the whole range (splitmix64).
fn scramble(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> Bytes {
        Bytes::from(format!("{:02}", n % 100))
    }

    fn hits(index: &Index, at: &[u8]) -> Vec<Slot> {
        let mut found = Vec::new();
        index.stab(at, |slot| found.push(slot));
        found.sort_unstable();
        found
    }

    #[test]
    fn an_interval_holds_its_start_but_not_its_end() {
        let mut index = Index::new();
        index.insert(
            &Span::Interval(Bytes::from("b"), End::Before(Bytes::from("d"))),
            7,
        );
        index.insert(&Span::Interval(Bytes::from("c"), End::Never), 8);
        index.insert(&Span::Key(Bytes::from("b")), 9);
        assert_eq!(hits(&index, b"a"), [] as [Slot; 0]);
        assert_eq!(hits(&index, b"b"), [7, 9]);
        assert_eq!(hits(&index, b"c\xff"), [7, 8]);
        assert_eq!(hits(&index, b"d"), [8]);
        assert_eq!(hits(&index, b"\xff\xff"), [8]);
    }

    #[test]
    fn the_index_agrees_with_a_list_of_spans_through_inserts_and_removals() {
        let mut index = Index::new();
        let mut list: Vec<(Span, Slot)> = Vec::new();
        for round in 0..3000u64 {
            let dice = scramble(round);
            if dice % 5 < 2 && !list.is_empty() {
                let (span, value) = list.swap_remove((dice >> 8) as usize % list.len());
                index.remove(&span, value);
            } else {
                let start = key(dice >> 8);
                let span = match dice % 3 {
                    0 => Span::Key(start),
                    1 => Span::Interval(start, End::Never),
                    _ => {
                        let end = Bytes::from(format!("{}{}", key(dice >> 16).escape_ascii(), "~"));
                        if end <= start {
                            continue;
                        }
                        Span::Interval(start, End::Before(end))
                    }
                };
                index.insert(&span, round as Slot);
                list.push((span, round as Slot));
            }
            let at = key(dice >> 24);
            let mut want: Vec<Slot> = list
                .iter()
                .filter(|(span, _)| span.holds(&at))
                .map(|(_, value)| *value)
                .collect();
            want.sort_unstable();
            assert_eq!(hits(&index, &at), want, "round {round}");
        }
        for (span, value) in list {
            index.remove(&span, value);
        }
        assert!(index.root.is_none() && index.keys.is_empty() && index.nodes.len() == 0);
    }

    #[test]
    fn sorted_insertion_does_not_make_a_deep_tree() {
        let mut index = Index::new();
        for n in 0..10_000u32 {
            let start = Bytes::from(format!("{n:05}"));
            let end = Bytes::from(format!("{n:05}~"));
            index.insert(&Span::Interval(start, End::Before(end)), n);
        }
        fn depth(index: &Index, at: Option<Slot>) -> usize {
            at.map_or(0, |slot| {
                let node = index.nodes.get(slot);
                1 + depth(index, node.left).max(depth(index, node.right))
            })
        }
        assert!(
            depth(&index, index.root) < 60,
            "depth {}",
            depth(&index, index.root)
        );
        assert_eq!(hits(&index, b"01234/x"), [1234]);
    }
}
