//! Nodes: what a change does to them, how they split and how they grow together again.
//!
//! Two rules bound the fill, and [`check`](super::Tree::check) knows them. Too much: a leaf with more than [`LEAF_MAX`] entries, or more than
//! [`LEAF_BYTES_MAX`] of keys in more than one entry, splits; so does an inner node with more than [`INNER_MAX`] children. Too little: two
//! neighbouring leaves of one parent that fit into three quarters of one become one, and an empty leaf goes; an inner node below the root with fewer than
//! [`INNER_MIN`] children takes from a neighbour or joins it. Leaves have no lower bound of their own, because their blocks and vectors are
//! of exact size: a leaf with few entries wastes next to nothing.

use std::sync::Arc;

use super::keys::{Keys, Parts};
use super::{Change, Weight};

pub(super) const LEAF_MAX: usize = 64;
/// Counts keys in full, see [`Keys::full_size`].
pub(super) const LEAF_BYTES_MAX: usize = 16 << 10;
pub(super) const LEAF_JOIN_MAX: usize = LEAF_MAX / 4 * 3;
pub(super) const LEAF_BYTES_JOIN_MAX: usize = LEAF_BYTES_MAX / 4 * 3;
pub(super) const INNER_MAX: usize = 16;
pub(super) const INNER_MIN: usize = 4;
/// Room left for values to come when a leaf's vector grows. Doubling would waste more than growing again costs.
const VALUES_SPARE: usize = 4;

const _: () = assert!(
    INNER_MIN * 2 <= INNER_MAX / 2 + 1,
    "the halves of an inner node must not be too small"
);

pub(super) enum Node<V> {
    Leaf(Arc<Leaf<V>>),
    Inner(Arc<Inner<V>>),
}

/// A subtree with its sums, as its parent holds it.
pub(super) struct Child<V> {
    pub node: Node<V>,
    pub len: u64,
    pub weight: u64,
}

#[derive(Clone)]
pub(super) struct Leaf<V> {
    pub keys: Keys,
    pub values: Vec<V>,
}

/// `separators[i]` lies above every key of `children[i]` and at or below every key of `children[i + 1]`.
pub(super) struct Inner<V> {
    pub separators: Keys,
    pub children: Vec<Child<V>>,
}

/// What a change did below: the difference in the sums, and whether the parent has to look.
pub(super) struct Effect<V> {
    pub delta: Delta,
    pub shape: Shape<V>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Delta {
    pub len: i64,
    pub weight: i64,
}

pub(super) enum Shape<V> {
    Same,
    /// The node has another number of children, or fewer entries: it may be too small.
    Resized,
    /// The node was too large; these follow it, each with the separator before it. They are part of what the parent counted for the node.
    Split(Vec<Sibling<V>>),
}

pub(super) struct Sibling<V> {
    pub separator: Vec<u8>,
    pub child: Child<V>,
}

impl<V> Clone for Node<V> {
    fn clone(&self) -> Self {
        match self {
            Node::Leaf(leaf) => Node::Leaf(Arc::clone(leaf)),
            Node::Inner(inner) => Node::Inner(Arc::clone(inner)),
        }
    }
}

impl<V> Clone for Child<V> {
    fn clone(&self) -> Self {
        Child {
            node: self.node.clone(),
            len: self.len,
            weight: self.weight,
        }
    }
}

impl<V> Clone for Inner<V> {
    fn clone(&self) -> Self {
        Inner {
            separators: self.separators.clone(),
            children: self.children.clone(),
        }
    }
}

impl<V: Clone + Weight> Node<V> {
    /// The leaf where `key` is or would be.
    pub fn leaf_for(&self, key: &[u8]) -> &Leaf<V> {
        let mut node = self;
        loop {
            match node {
                Node::Leaf(leaf) => return leaf,
                Node::Inner(inner) => node = &inner.children[inner.child_for(key)].node,
            }
        }
    }

    /// Sum of the weights of the entries below `key`.
    pub fn weight_before(&self, key: &[u8]) -> u64 {
        let (mut node, mut sum) = (self, 0);
        loop {
            match node {
                Node::Leaf(leaf) => {
                    let at = leaf.keys.view().lower_bound(key);
                    return sum + leaf.values[..at].iter().map(V::weight).sum::<u64>();
                }
                Node::Inner(inner) => {
                    let at = inner.child_for(key);
                    sum += inner.children[..at]
                        .iter()
                        .map(|child| child.weight)
                        .sum::<u64>();
                    node = &inner.children[at].node;
                }
            }
        }
    }

    pub fn alter(
        &mut self,
        key: &[u8],
        change: impl FnOnce(Option<&mut V>) -> Change<V>,
    ) -> Effect<V> {
        match self {
            Node::Leaf(leaf) => Leaf::alter(leaf, key, change),
            Node::Inner(inner) => Arc::make_mut(inner).alter(key, change),
        }
    }
}

impl<V: Clone + Weight> Child<V> {
    pub fn leaf(leaf: Leaf<V>) -> Self {
        let len = leaf.values.len() as u64;
        let weight = leaf.values.iter().map(V::weight).sum();
        Child {
            node: Node::Leaf(Arc::new(leaf)),
            len,
            weight,
        }
    }

    pub fn inner(inner: Inner<V>) -> Self {
        let len = inner.children.iter().map(|child| child.len).sum();
        let weight = inner.children.iter().map(|child| child.weight).sum();
        Child {
            node: Node::Inner(Arc::new(inner)),
            len,
            weight,
        }
    }

    pub fn add(&mut self, delta: Delta) {
        self.len = self
            .len
            .checked_add_signed(delta.len)
            .expect("a subtree counts the entry it lost");
        self.weight = self
            .weight
            .checked_add_signed(delta.weight)
            .expect("a subtree weighs the entry it lost");
    }
}

impl<V: Clone + Weight> Leaf<V> {
    pub fn empty() -> Self {
        Leaf {
            keys: Keys::empty(),
            values: Vec::new(),
        }
    }

    fn alter(
        this: &mut Arc<Self>,
        key: &[u8],
        change: impl FnOnce(Option<&mut V>) -> Change<V>,
    ) -> Effect<V> {
        match this.keys.view().search(key) {
            Ok(at) => Arc::make_mut(this).alter_found(at, change),
            Err(at) => match change(None) {
                Change::Keep | Change::Remove => Effect {
                    delta: Delta::default(),
                    shape: Shape::Same,
                },
                Change::Put(value) => Self::insert(this, at, key, value),
            },
        }
    }

    fn alter_found(
        &mut self,
        at: usize,
        change: impl FnOnce(Option<&mut V>) -> Change<V>,
    ) -> Effect<V> {
        let slot = &mut self.values[at];
        let before = signed(slot.weight());
        match change(Some(slot)) {
            Change::Keep => {}
            Change::Put(value) => *slot = value,
            Change::Remove => {
                self.keys = self.keys.without(at);
                self.values.remove(at);
                if self.values.capacity() - self.values.len() > 2 * VALUES_SPARE {
                    self.values.shrink_to_fit();
                }
                return Effect {
                    delta: Delta {
                        len: -1,
                        weight: -before,
                    },
                    shape: Shape::Resized,
                };
            }
        }
        let delta = Delta {
            len: 0,
            weight: signed(slot.weight()) - before,
        };
        Effect {
            delta,
            shape: Shape::Same,
        }
    }

    fn insert(this: &mut Arc<Self>, at: usize, key: &[u8], value: V) -> Effect<V> {
        let delta = Delta {
            len: 1,
            weight: signed(value.weight()),
        };
        let keys = this.keys.with(at, key);
        match Arc::get_mut(this) {
            Some(leaf) => {
                leaf.keys = keys;
                if leaf.values.len() == leaf.values.capacity() {
                    leaf.values.reserve_exact(VALUES_SPARE);
                }
                leaf.values.insert(at, value);
            }
            None => {
                let mut values = Vec::with_capacity(this.values.len() + VALUES_SPARE);
                values.extend_from_slice(&this.values[..at]);
                values.push(value);
                values.extend_from_slice(&this.values[at..]);
                *this = Arc::new(Leaf { keys, values });
            }
        }
        if !this.too_large() {
            return Effect {
                delta,
                shape: Shape::Same,
            };
        }
        let appended = at + 1 == this.values.len();
        let leaf = Arc::get_mut(this).expect("the leaf was copied a moment ago");
        Effect {
            delta,
            shape: Shape::Split(leaf.split(appended)),
        }
    }

    pub fn too_large(&self) -> bool {
        self.values.len() > LEAF_MAX
            || (self.values.len() > 1 && self.keys.full_size() > LEAF_BYTES_MAX)
    }

    /// Whether the two should be one leaf.
    pub fn should_join(&self, right: &Self) -> bool {
        let count = self.values.len() + right.values.len();
        let size = self.keys.full_size() + right.keys.full_size();
        self.values.is_empty()
            || right.values.is_empty()
            || (count <= LEAF_JOIN_MAX && size <= LEAF_BYTES_JOIN_MAX)
    }

    /// Keeps a first part that is not too large and returns the rest as siblings: one, or two when a long key has to stand alone.
    fn split(&mut self, appended: bool) -> Vec<Sibling<V>> {
        let mut siblings = Vec::new();
        let cut = if appended {
            self.cut_after_append()
        } else {
            self.cut_in_the_middle()
        };
        let mut right = self.cut(cut);
        if self.too_large() {
            siblings = self.split(false);
        }
        let rest = if right.too_large() {
            right.split(false)
        } else {
            Vec::new()
        };
        let last = match siblings.last() {
            Some(Sibling {
                child:
                    Child {
                        node: Node::Leaf(leaf),
                        ..
                    },
                ..
            }) => leaf,
            _ => &*self,
        };
        siblings.push(Sibling {
            separator: separator(last, &right),
            child: Child::leaf(right),
        });
        siblings.extend(rest);
        siblings
    }

    /// Keys that arrive in order fill one leaf after the other, so the left one should stay nearly full.
    fn cut_after_append(&self) -> usize {
        let count = self.values.len();
        (count - count / 8).clamp(1, count - 1)
    }

    /// Halves the leaf by what counts towards its limits, entries and bytes alike.
    fn cut_in_the_middle(&self) -> usize {
        let per_entry = LEAF_BYTES_MAX / LEAF_MAX;
        let count = self.values.len();
        let total = self.keys.full_size() + count * per_entry;
        let mut before = 0;
        let cut = self.keys.view().parts().position(|key| {
            before += key.len() + per_entry;
            before * 2 >= total
        });
        cut.map_or(count / 2, |at| at + 1).clamp(1, count - 1)
    }

    fn cut(&mut self, cut: usize) -> Self {
        let values = self.values.split_off(cut);
        self.values.shrink_to_fit();
        let (left, right) = self.keys.cut(cut);
        self.keys = left;
        Leaf {
            keys: right,
            values,
        }
    }

    fn joined(&self, right: &Self) -> Self {
        let mut values = Vec::with_capacity(self.values.len() + right.values.len());
        values.extend_from_slice(&self.values);
        values.extend_from_slice(&right.values);
        Leaf {
            keys: self.keys.joined(None, &right.keys),
            values,
        }
    }
}

impl<V: Clone + Weight> Inner<V> {
    /// A new root over a node that has split.
    pub fn over(first: Child<V>, siblings: Vec<Sibling<V>>) -> Self {
        let mut inner = Inner {
            separators: Keys::empty(),
            children: vec![first],
        };
        inner.adopt(0, siblings);
        inner
    }

    #[inline]
    pub fn child_for(&self, key: &[u8]) -> usize {
        match self.separators.view().search(key) {
            Ok(at) => at + 1,
            Err(at) => at,
        }
    }

    fn alter(&mut self, key: &[u8], change: impl FnOnce(Option<&mut V>) -> Change<V>) -> Effect<V> {
        let at = self.child_for(key);
        let child = &mut self.children[at];
        let Effect { delta, shape } = child.node.alter(key, change);
        child.add(delta);
        let last = match shape {
            Shape::Same => {
                return Effect {
                    delta,
                    shape: Shape::Same,
                };
            }
            Shape::Resized => at + 1,
            Shape::Split(siblings) => {
                let last = at + siblings.len() + 1;
                self.adopt(at, siblings);
                last
            }
        };
        self.mend(at.saturating_sub(1), last);
        let shape = if self.children.len() > INNER_MAX {
            Shape::Split(vec![self.split()])
        } else {
            Shape::Resized
        };
        Effect { delta, shape }
    }

    /// Takes in what the child at `at` has split off.
    fn adopt(&mut self, at: usize, siblings: Vec<Sibling<V>>) {
        for (place, Sibling { separator, child }) in (at..).zip(siblings) {
            let split = &mut self.children[at];
            split.len -= child.len;
            split.weight -= child.weight;
            self.separators = self.separators.with(place, &separator);
            self.children.insert(place + 1, child);
        }
    }

    /// Joins or evens out neighbours between the children `first` and `last` where one is too small.
    fn mend(&mut self, first: usize, mut last: usize) {
        let mut at = first;
        while at < last && at + 1 < self.children.len() {
            if self.mend_pair(at) {
                last -= 1;
            } else {
                at += 1;
            }
        }
    }

    /// True when the children at `at` and after it have become one.
    fn mend_pair(&mut self, at: usize) -> bool {
        let (joined, sibling) = match (&self.children[at].node, &self.children[at + 1].node) {
            (Node::Leaf(left), Node::Leaf(right)) if left.should_join(right) => {
                (Child::leaf(left.joined(right)), None)
            }
            (Node::Inner(left), Node::Inner(right)) if left.too_small() || right.too_small() => {
                let mut joined = left.joined(&self.separators.view().part(at).to_vec(), right);
                let sibling = (joined.children.len() > INNER_MAX).then(|| joined.split());
                (Child::inner(joined), sibling)
            }
            (Node::Leaf(_), Node::Inner(_)) | (Node::Inner(_), Node::Leaf(_)) => {
                unreachable!("all leaves lie at one depth")
            }
            _ => return false,
        };
        self.children[at] = joined;
        self.separators = self.separators.without(at);
        match sibling {
            Some(Sibling { separator, child }) => {
                self.separators = self.separators.with(at, &separator);
                self.children[at + 1] = child;
                false
            }
            None => {
                self.children.remove(at + 1);
                true
            }
        }
    }

    fn too_small(&self) -> bool {
        self.children.len() < INNER_MIN
    }

    /// One node of both. Leaves that now have the same parent are held to the rule for neighbours.
    fn joined(&self, separator: &[u8], right: &Self) -> Self {
        let mut children = Vec::with_capacity(self.children.len() + right.children.len());
        children.extend_from_slice(&self.children);
        children.extend_from_slice(&right.children);
        let mut joined = Inner {
            separators: self.separators.joined(Some(separator), &right.separators),
            children,
        };
        let seam = self.children.len() - 1;
        joined.mend(seam, seam + 1);
        joined
    }

    /// Keeps the first half of the children.
    fn split(&mut self) -> Sibling<V> {
        let cut = self.children.len() / 2;
        let children = self.children.split_off(cut);
        self.children.shrink_to_fit();
        let separator = self.separators.view().part(cut - 1).to_vec();
        let (left, right) = self.separators.cut(cut);
        self.separators = left.without(cut - 1);
        Sibling {
            separator,
            child: Child::inner(Inner {
                separators: right,
                children,
            }),
        }
    }
}

/// The shortest key above everything in `left` and not above anything in `right`.
pub(super) fn separator<V>(left: &Leaf<V>, right: &Leaf<V>) -> Vec<u8> {
    let (left, right) = (left.keys.view(), right.keys.view());
    separator_of(left.part(left.len() - 1), right.part(0))
}

pub(super) fn separator_of(below: Parts<'_>, above: Parts<'_>) -> Vec<u8> {
    let size = below.common(above) + 1;
    assert!(
        size <= above.len(),
        "keys out of order: a separator needs a key above the one before it"
    );
    above.bytes().take(size).collect()
}

fn signed(weight: u64) -> i64 {
    i64::try_from(weight).expect("weights stay far below 2^63")
}
