//! Building a tree from sorted entries, bottom up.

use super::keys::{Keys, Parts};
use super::node::{Child, INNER_MAX, Inner, LEAF_BYTES_MAX, LEAF_MAX, Leaf, Sibling, separator_of};
use super::{KEY_SIZE_MAX, Tree, Weight};

/// Leaves are filled to nine tenths, so that the first insertions after a restart do not split every one.
const FILL_ENTRIES: usize = LEAF_MAX / 10 * 9;
const FILL_BYTES: usize = LEAF_BYTES_MAX / 10 * 9;
const FILL_CHILDREN: usize = INNER_MAX - INNER_MAX / 10;

/// Takes entries in strictly ascending order of their keys. Memory beyond the finished nodes is that of one leaf.
pub struct Builder<V> {
    /// Finished leaves, each with the separator before it; that of the first is empty.
    leaves: Vec<Sibling<V>>,
    separator: Vec<u8>,
    /// Keys of the leaf in progress, one after the other.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    values: Vec<V>,
}

impl<V: Clone + Weight> Default for Builder<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: Clone + Weight> Builder<V> {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Builder {
            leaves: Vec::new(),
            separator: Vec::new(),
            bytes: Vec::new(),
            ends: Vec::new(),
            values: Vec::new(),
        }
    }

    /// Adds the next entry.
    ///
    /// # Panics
    /// When `key` does not lie above the one before it, or is longer than [`KEY_SIZE_MAX`].
    pub fn push(&mut self, key: &[u8], value: V) {
        assert!(
            key.len() <= KEY_SIZE_MAX,
            "key of {} bytes, at most {KEY_SIZE_MAX} fit",
            key.len()
        );
        if let Some(last) = self.last_key() {
            assert!(
                last < key,
                "keys out of order: {:?} after {:?}",
                key.escape_ascii().to_string(),
                last.escape_ascii().to_string()
            );
            if self.values.len() == FILL_ENTRIES || self.bytes.len() + key.len() > FILL_BYTES {
                let next = separator_of(Parts(last, &[]), Parts(key, &[]));
                self.close_leaf(next);
            }
        }
        if self.values.is_empty() {
            self.values.reserve_exact(FILL_ENTRIES);
        }
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
        self.values.push(value);
    }

    /// The tree of everything pushed.
    #[must_use]
    pub fn finish(mut self) -> Tree<V> {
        if self.values.is_empty() {
            return Tree::new();
        }
        self.close_leaf(Vec::new());
        let mut level = self.leaves;
        while level.len() > 1 {
            level = parents(level);
        }
        let root = level.pop().expect("a level has at least one node");
        Tree { root: root.child }
    }

    fn last_key(&self) -> Option<&[u8]> {
        let end = *self.ends.last()?;
        let start = self
            .ends
            .len()
            .checked_sub(2)
            .map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start..end])
    }

    fn close_leaf(&mut self, next_separator: Vec<u8>) {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let keys: Vec<Parts<'_>> = starts
            .zip(&self.ends)
            .map(|(start, end)| Parts(&self.bytes[start..*end], &[]))
            .collect();
        let keys = Keys::pack(&keys);
        let mut values = std::mem::take(&mut self.values);
        values.shrink_to_fit();
        let separator = std::mem::replace(&mut self.separator, next_separator);
        self.leaves.push(Sibling {
            separator,
            child: Child::leaf(Leaf { keys, values }),
        });
        self.bytes.clear();
        self.ends.clear();
    }
}

/// Spreads the nodes of one level evenly over as many parents as they need.
fn parents<V: Clone + Weight>(level: Vec<Sibling<V>>) -> Vec<Sibling<V>> {
    let count = level.len();
    let parent_count = if count <= INNER_MAX {
        1
    } else {
        count.div_ceil(FILL_CHILDREN)
    };
    let mut rest = level.into_iter();
    (0..parent_count)
        .map(|at| {
            let size = count * (at + 1) / parent_count - count * at / parent_count;
            let (mut separators, children): (Vec<Vec<u8>>, Vec<Child<V>>) = rest
                .by_ref()
                .take(size)
                .map(|Sibling { separator, child }| (separator, child))
                .unzip();
            // The first separator stands between this parent and the one before it.
            let separator = separators.remove(0);
            let parts: Vec<Parts<'_>> = separators.iter().map(|key| Parts(key, &[])).collect();
            Sibling {
                separator,
                child: Child::inner(Inner {
                    separators: Keys::pack(&parts),
                    children,
                }),
            }
        })
        .collect()
}
