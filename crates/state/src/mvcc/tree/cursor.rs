//! Walking a range forward.

use super::Weight;
use super::keys::View;
use super::node::{Inner, Leaf, Node};

/// Where a range ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End<'a> {
    /// Before this key.
    Key(&'a [u8]),
    /// After the last key.
    Unbounded,
}

/// A place between two entries of a tree. [`Tree::range`](super::Tree::range) makes one.
///
/// It lends keys instead of allocating them, which is why it is no `Iterator`:
/// `while let Some((key, value)) = cursor.next() { .. }`. Where the key is not wanted, [`Cursor::next_value`] saves putting it together.
pub struct Cursor<'t, V> {
    root: &'t Node<V>,
    end: End<'t>,
    /// The inner nodes above the leaf, each with the child the cursor is in.
    path: Vec<(&'t Inner<V>, usize)>,
    keys: View<'t>,
    values: &'t [V],
    /// The next entry of the leaf, and the first one that is beyond the range.
    at: usize,
    stop: usize,
    /// Room to put a key together.
    key: Vec<u8>,
}

impl<'t, V: Clone + Weight> Cursor<'t, V> {
    pub(super) fn new(root: &'t Node<V>, from: &[u8], end: End<'t>) -> Self {
        let mut cursor = Cursor {
            root,
            end,
            path: Vec::with_capacity(8),
            keys: View::default(),
            values: &[],
            at: 0,
            stop: 0,
            key: Vec::new(),
        };
        cursor.seek(from);
        cursor
    }

    /// Moves before the first entry at or after `key`, forward or back; the end of the range stays.
    pub fn seek(&mut self, key: &[u8]) {
        self.path.clear();
        let mut node = self.root;
        loop {
            match node {
                Node::Leaf(leaf) => {
                    self.enter(leaf);
                    self.at = self.keys.lower_bound(key);
                    return;
                }
                Node::Inner(inner) => {
                    let at = inner.child_for(key);
                    self.path.push((inner, at));
                    node = &inner.children[at].node;
                }
            }
        }
    }

    /// The next entry.
    #[expect(clippy::should_implement_trait, reason = "an Iterator cannot lend")]
    pub fn next(&mut self) -> Option<(&[u8], &'t V)> {
        let value = self.next_value()?;
        Some((self.key(), value))
    }

    /// The next entry's value. [`Cursor::key`] then tells its key.
    #[inline]
    pub fn next_value(&mut self) -> Option<&'t V> {
        while self.at >= self.stop {
            // A leaf that was not walked to its own end holds the end of the range.
            if self.stop < self.values.len() || !self.next_leaf() {
                return None;
            }
        }
        self.at += 1;
        Some(&self.values[self.at - 1])
    }

    /// The key of the entry that [`Cursor::next_value`] has just returned. Means nothing after a `None` or a [`Cursor::seek`].
    ///
    /// # Panics
    /// Perhaps, when asked where it means nothing.
    pub fn key(&mut self) -> &[u8] {
        let current = self
            .at
            .checked_sub(1)
            .expect("the cursor has returned an entry");
        self.key.clear();
        self.key.extend_from_slice(self.keys.prefix);
        self.key.extend_from_slice(self.keys.suffix(current));
        &self.key
    }

    fn next_leaf(&mut self) -> bool {
        while let Some((inner, at)) = self.path.pop() {
            let Some(child) = inner.children.get(at + 1) else {
                continue;
            };
            self.path.push((inner, at + 1));
            let mut node = &child.node;
            loop {
                match node {
                    Node::Leaf(leaf) => {
                        self.enter(leaf);
                        return true;
                    }
                    Node::Inner(inner) => {
                        self.path.push((inner, 0));
                        node = &inner.children[0].node;
                    }
                }
            }
        }
        false
    }

    fn enter(&mut self, leaf: &'t Leaf<V>) {
        self.keys = leaf.keys.view();
        self.values = &leaf.values;
        self.at = 0;
        self.stop = match self.end {
            End::Key(end) => self.keys.lower_bound(end),
            End::Unbounded => leaf.values.len(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tree;
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Value(u32);

    impl Weight for Value {
        fn weight(&self) -> u64 {
            1
        }
    }

    /// Each leaf beyond the end looks empty to the cursor; without a stop it would walk them all.
    #[test]
    fn a_cursor_stops_in_the_leaf_that_holds_its_end() {
        let tree =
            Tree::from_sorted((0..10_000).map(|number| (format!("{number:05}"), Value(number))));
        let mut cursor = tree.range(b"", End::Key(b"00010"));
        while cursor.next_value().is_some() {}
        assert_eq!(cursor.values.first(), Some(&Value(0)));
    }
}
