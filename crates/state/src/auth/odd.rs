//! Ranges that end before they begin.
//!
//! No key lies in such a range, so it reads and changes nothing, but a client may ask for it all the same, in a transaction that does
//! something else besides. Whether that transaction is permitted has to be the same on every member, and etcd's answer for such a
//! range depends on the shape of its tree of intervals. So here is that tree: a red-black tree that also knows the largest end below
//! each node (Cormen et al., *Introduction to Algorithms*, chapters 13 and 14.3), into which intervals are put in etcd's order. It is
//! built when it is needed, which is next to never.
//!
//! Source of the questions: upstream `pkg/adt/interval_tree.go`, `Contains` and `Intersects`.

use std::cmp::Ordering;

use super::ranges::{Interval, affine};

/// The place of a node; [`NONE`] is no node.
type Place = usize;

const NONE: Place = usize::MAX;

struct Node<'a> {
    interval: &'a Interval,
    /// The largest end in this subtree.
    end_max: &'a [u8],
    /// Left, right.
    children: [Place; 2],
    parent: Place,
    is_red: bool,
}

const LEFT: usize = 0;
const RIGHT: usize = 1;

/// Intervals by their begin.
pub(super) struct Tree<'a> {
    nodes: Vec<Node<'a>>,
    root: Place,
}

impl<'a> Tree<'a> {
    /// Puts the intervals in, in this order. Among those that begin alike, 3.7 and later order by the end as well; before, the later
    /// one went to the right.
    pub(super) fn of(listed: &'a [Interval], by_end: bool) -> Tree<'a> {
        let mut tree = Tree {
            nodes: Vec::with_capacity(listed.len()),
            root: NONE,
        };
        for interval in listed {
            tree.insert(interval, by_end);
        }
        tree
    }

    /// Whether an interval overlaps the one asked for, on the one path that etcd looks at.
    pub(super) fn intersects(&self, asked: &Interval) -> bool {
        let mut at = self.root;
        while at != NONE
            && overlap(
                asked,
                &self.nodes[at].interval.begin,
                &self.nodes[at].interval.end,
            )
            .is_ne()
        {
            let left = self.nodes[at].children[LEFT];
            let goes_left = left != NONE && affine(self.nodes[left].end_max, &asked.begin).is_gt();
            at = self.nodes[at].children[if goes_left { LEFT } else { RIGHT }];
        }
        at != NONE
    }

    /// Whether the intervals that overlap the one asked for cover it.
    pub(super) fn contains(&self, asked: &Interval) -> bool {
        let mut found = Vec::new();
        self.visit(self.root, asked, &mut found);
        let Some(first) = found.first() else {
            return false;
        };
        let mut end: &[u8] = &first.end;
        for interval in &found {
            if affine(end, &interval.begin).is_lt() {
                return false;
            }
            if affine(&interval.end, end).is_gt() {
                end = &interval.end;
            }
        }
        affine(end, &asked.end).is_ge() && affine(&first.begin, &asked.begin).is_le()
    }

    fn visit(&self, at: Place, asked: &Interval, found: &mut Vec<&'a Interval>) {
        let Some(node) = self.nodes.get(at) else {
            return;
        };
        match overlap(asked, &node.interval.begin, &node.interval.end) {
            Ordering::Less => self.visit(node.children[LEFT], asked, found),
            Ordering::Greater => {
                let whole = Interval {
                    begin: node.interval.begin.clone(),
                    end: node.end_max.to_vec(),
                };
                if overlap(&whole, &asked.begin, &asked.end).is_eq() {
                    self.visit(node.children[LEFT], asked, found);
                    self.visit(node.children[RIGHT], asked, found);
                }
            }
            Ordering::Equal => {
                self.visit(node.children[LEFT], asked, found);
                found.push(node.interval);
                self.visit(node.children[RIGHT], asked, found);
            }
        }
    }

    fn insert(&mut self, interval: &'a Interval, by_end: bool) {
        let (mut parent, mut side, mut at) = (NONE, LEFT, self.root);
        while at != NONE {
            let other = self.nodes[at].interval;
            let order = match affine(&interval.begin, &other.begin) {
                Ordering::Equal if by_end => affine(&interval.end, &other.end),
                order => order,
            };
            side = if order.is_lt() { LEFT } else { RIGHT };
            parent = at;
            at = self.nodes[at].children[side];
        }
        let place = self.nodes.len();
        self.nodes.push(Node {
            interval,
            end_max: &interval.end,
            children: [NONE, NONE],
            parent,
            is_red: true,
        });
        if parent == NONE {
            self.root = place;
        } else {
            self.nodes[parent].children[side] = place;
        }
        let mut at = parent;
        while at != NONE {
            self.measure(at);
            at = self.nodes[at].parent;
        }
        self.balance(place);
    }

    /// No red node may have a red parent, and the root is black.
    fn balance(&mut self, mut at: Place) {
        while self.is_red(self.nodes[at].parent) {
            let parent = self.nodes[at].parent;
            // The root is black, so a red parent has a parent.
            let above = self.nodes[parent].parent;
            let side = self.side(parent);
            let uncle = self.nodes[above].children[1 - side];
            if self.is_red(uncle) {
                self.nodes[uncle].is_red = false;
                self.nodes[parent].is_red = false;
                self.nodes[above].is_red = true;
                at = above;
                continue;
            }
            if self.side(at) != side {
                at = parent;
                self.rotate(at, side);
            }
            let parent = self.nodes[at].parent;
            self.nodes[parent].is_red = false;
            self.nodes[above].is_red = true;
            self.rotate(above, 1 - side);
        }
        let root = self.root;
        self.nodes[root].is_red = false;
    }

    /// Moves `at` down to `side`, and its child on the other side into its place.
    fn rotate(&mut self, at: Place, side: usize) {
        let up = self.nodes[at].children[1 - side];
        let middle = self.nodes[up].children[side];
        let parent = self.nodes[at].parent;
        if parent == NONE {
            self.root = up;
        } else {
            let side = self.side(at);
            self.nodes[parent].children[side] = up;
        }
        self.nodes[up].parent = parent;
        self.nodes[up].children[side] = at;
        self.nodes[at].parent = up;
        self.nodes[at].children[1 - side] = middle;
        if middle != NONE {
            self.nodes[middle].parent = at;
        }
        self.measure(at);
        self.measure(up);
    }

    fn measure(&mut self, at: Place) {
        let mut end_max: &'a [u8] = &self.nodes[at].interval.end;
        for child in self.nodes[at].children {
            if child != NONE && affine(self.nodes[child].end_max, end_max).is_gt() {
                end_max = self.nodes[child].end_max;
            }
        }
        self.nodes[at].end_max = end_max;
    }

    fn is_red(&self, at: Place) -> bool {
        self.nodes.get(at).is_some_and(|node| node.is_red)
    }

    fn side(&self, at: Place) -> usize {
        let parent = self.nodes[at].parent;
        usize::from(self.nodes[parent].children[RIGHT] == at)
    }
}

/// Where one interval lies to another: before, behind, or (equal) overlapping. For intervals that end before they begin this is no
/// order, which is why the shape of the tree matters.
fn overlap(one: &Interval, begin: &[u8], end: &[u8]) -> Ordering {
    if affine(&one.begin, begin).is_lt() && affine(&one.end, begin).is_le() {
        Ordering::Less
    } else if affine(&one.begin, end).is_ge() {
        Ordering::Greater
    } else {
        Ordering::Equal
    }
}
