//! A persistent ordered map from byte strings to small values, which can count: the container of the MVCC key index.
//!
//! One writer changes it. Whenever it likes, the writer clones the tree, which copies one pointer, and hands the clone to readers; a clone
//! never changes again, so readers range over it for as long as they like and nobody waits. A change copies the nodes on the way to its
//! key that some clone still holds, and edits in place those that none does.
//!
//! ```text
//!              Tree { root, len, weight }
//!                        │
//!         Inner { separators, children [{ node, len, weight }] }      2..=16 children (4 at least, below the root)
//!            │                 │                │
//!   Leaf { keys, values }   Leaf             Leaf                     up to 64 entries; long keys leave fewer
//! ```
//!
//! Three things make the copies cheap and the memory small. The keys of a node lie in one immutable packed block, shared by every copy of the
//! node until a key comes or goes, so an update of a value copies no key (`keys.rs` draws the block). Values lie in one
//! vector, no pointer per entry. Inner nodes are narrow, because copying one counts up a reference in every child.
//!
//! Each inner node knows how many entries lie below each child and what they weigh, so that [`Tree::weight_range`] answers in O(log n).
//! The key index gives a live key the weight 1 and a deleted one 0; that is etcd's `count` without a walk.
//!
//! The tree knows nothing of revisions, never looks at a clock and has no failure but a broken invariant. Start with [`Tree::alter`]
//! and [`Tree::range`].

mod build;
mod check;
mod cursor;
mod keys;
mod node;
#[cfg(test)]
mod tests;

pub use build::Builder;
pub use cursor::{Cursor, End};
use node::{Child, Inner, Node, Shape};

/// Longest key in bytes. Keeps the 32-bit offsets of a node valid; far above what a request may hold.
pub const KEY_SIZE_MAX: usize = 128 << 20;

/// What an entry adds to the sums of [`Tree::weight`] and [`Tree::weight_range`].
pub trait Weight {
    /// Must depend on the value alone: the sums are taken when the value is stored.
    fn weight(&self) -> u64;
}

/// What [`Tree::alter`] shall do with the entry its closure has seen.
#[derive(Debug)]
pub enum Change<V> {
    /// Leave the entry as the closure left it; an absent one stays absent.
    Keep,
    /// Store this value, whether there was one or not.
    Put(V),
    /// Drop the entry; an absent one stays absent.
    Remove,
}

/// The map. See the module's text for how it shares memory with its clones.
pub struct Tree<V> {
    root: Child<V>,
}

impl<V> Clone for Tree<V> {
    /// O(1): the clone shares every node.
    fn clone(&self) -> Self {
        Tree {
            root: self.root.clone(),
        }
    }
}

impl<V: Clone + Weight> Default for Tree<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: Clone + Weight> Tree<V> {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Tree {
            root: Child::leaf(node::Leaf::empty()),
        }
    }

    /// Builds a tree from entries in strictly ascending order of their keys, nodes nearly full. O(n).
    ///
    /// # Panics
    /// When a key does not lie above the one before it.
    #[must_use]
    pub fn from_sorted<K: AsRef<[u8]>>(entries: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut builder = Builder::new();
        for (key, value) in entries {
            builder.push(key.as_ref(), value);
        }
        builder.finish()
    }

    /// Number of entries, whatever their weight.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.root.len
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.root.len == 0
    }

    /// Sum of the weights of all entries.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.root.weight
    }

    /// The value under `key`.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&V> {
        let leaf = self.root.node.leaf_for(key);
        let at = leaf.keys.view().search(key).ok()?;
        Some(&leaf.values[at])
    }

    /// Finds, changes, stores or removes the entry of `key` in one descent.
    ///
    /// The closure sees the value, to edit in place, or `None`; what it returns is done. The weight is taken anew afterwards. An alteration
    /// that changes nothing may still copy the nodes on its way, so ask [`Tree::get`] first where that is the common case.
    ///
    /// # Panics
    /// When `key` is longer than [`KEY_SIZE_MAX`], which the caller has refused long before.
    pub fn alter(&mut self, key: &[u8], change: impl FnOnce(Option<&mut V>) -> Change<V>) {
        assert!(
            key.len() <= KEY_SIZE_MAX,
            "key of {} bytes, at most {KEY_SIZE_MAX} fit",
            key.len()
        );
        let effect = self.root.node.alter(key, change);
        self.root.add(effect.delta);
        match effect.shape {
            Shape::Same => {}
            Shape::Resized => self.lower_root(),
            Shape::Split(siblings) => {
                let root = self.root.clone();
                self.root = Child::inner(Inner::over(root, siblings));
            }
        }
    }

    /// Stores `value` under `key` and returns what was there.
    pub fn insert(&mut self, key: &[u8], value: V) -> Option<V> {
        let mut old = None;
        self.alter(key, |found| match found {
            Some(slot) => {
                old = Some(std::mem::replace(slot, value));
                Change::Keep
            }
            None => Change::Put(value),
        });
        old
    }

    /// Removes the entry of `key` and returns its value.
    pub fn remove(&mut self, key: &[u8]) -> Option<V> {
        let mut old = None;
        self.alter(key, |found| {
            old = found.cloned();
            Change::Remove
        });
        old
    }

    /// A cursor before the first entry at or after `from`, which ends before `end`.
    #[must_use]
    pub fn range<'t>(&'t self, from: &[u8], end: End<'t>) -> Cursor<'t, V> {
        Cursor::new(&self.root.node, from, end)
    }

    /// Sum of the weights of the entries at or after `from` and before `end`. O(log n).
    #[must_use]
    pub fn weight_range(&self, from: &[u8], end: End<'_>) -> u64 {
        let to = match end {
            End::Key(end) if end <= from => return 0,
            End::Key(end) => self.root.node.weight_before(end),
            End::Unbounded => self.root.weight,
        };
        to - self.root.node.weight_before(from)
    }

    /// A root with one child says nothing: the child becomes the root.
    fn lower_root(&mut self) {
        while let Node::Inner(inner) = &self.root.node
            && inner.children.len() == 1
        {
            let only: Child<V> = inner.children[0].clone();
            assert_eq!(
                (only.len, only.weight),
                (self.root.len, self.root.weight),
                "the root's sums are not its only child's"
            );
            self.root = only;
        }
    }
}
