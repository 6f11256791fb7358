//! Does the whole tree keep its rules, and how much memory does it take? Both walk every node.

use std::mem::size_of;

use super::keys::Parts;
use super::node::{Child, INNER_MAX, INNER_MIN, Inner, Leaf, Node};
use super::{Tree, Weight};

/// The bounds the separators above a node set for its keys.
#[derive(Clone, Copy)]
struct Bounds<'a> {
    low: Option<Parts<'a>>,
    high: Option<Parts<'a>>,
}

impl<V: Clone + Weight> Tree<V> {
    /// Checks every rule of the structure: order, separators, fill, sums, depth. O(n), for tests and offline tools.
    ///
    /// # Errors
    /// Says which rule is broken.
    pub fn check(&self) -> Result<(), String> {
        if let Node::Inner(root) = &self.root.node {
            ensure(root.children.len() >= 2, || "the root has one child".into())?;
        }
        check_child(
            &self.root,
            Bounds {
                low: None,
                high: None,
            },
            true,
        )
        .map(drop)
    }

    /// Bytes this tree keeps allocated, without the allocator's own and counting what it shares with clones. O(nodes).
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        size_of::<Self>() as u64 + node_bytes(&self.root.node)
    }
}

/// Returns the height of the subtree.
fn check_child<V: Clone + Weight>(
    child: &Child<V>,
    bounds: Bounds<'_>,
    root: bool,
) -> Result<usize, String> {
    let (len, weight, height) = match &child.node {
        Node::Leaf(leaf) => {
            check_leaf(leaf, bounds, root)?;
            (
                leaf.values.len() as u64,
                leaf.values.iter().map(V::weight).sum(),
                0,
            )
        }
        Node::Inner(inner) => {
            let height = check_inner(inner, bounds, root)?;
            let sum = |of: fn(&Child<V>) -> u64| inner.children.iter().map(of).sum::<u64>();
            (sum(|child| child.len), sum(|child| child.weight), height)
        }
    };
    ensure(child.len == len, || {
        format!("a subtree of {len} entries is counted as {}", child.len)
    })?;
    ensure(child.weight == weight, || {
        format!(
            "a subtree that weighs {weight} is noted as {}",
            child.weight
        )
    })?;
    Ok(height)
}

fn check_leaf<V: Clone + Weight>(
    leaf: &Leaf<V>,
    bounds: Bounds<'_>,
    root: bool,
) -> Result<(), String> {
    let keys = leaf.keys.view();
    ensure(keys.len() == leaf.values.len(), || {
        format!("{} keys for {} values", keys.len(), leaf.values.len())
    })?;
    ensure(root || keys.len() > 0, || "an empty leaf".into())?;
    ensure(!leaf.too_large(), || {
        format!(
            "a leaf of {} entries and {} bytes",
            keys.len(),
            leaf.keys.full_size()
        )
    })?;
    check_keys(keys.parts(), bounds)
}

fn check_inner<V: Clone + Weight>(
    inner: &Inner<V>,
    bounds: Bounds<'_>,
    root: bool,
) -> Result<usize, String> {
    let (separators, count) = (inner.separators.view(), inner.children.len());
    ensure(separators.len() + 1 == count, || {
        format!("{} separators for {count} children", separators.len())
    })?;
    ensure(count <= INNER_MAX && (root || count >= INNER_MIN), || {
        format!("an inner node with {count} children")
    })?;
    check_keys(separators.parts(), bounds)?;
    let mut height = None;
    for (at, child) in inner.children.iter().enumerate() {
        let low = at
            .checked_sub(1)
            .map(|at| separators.part(at))
            .or(bounds.low);
        let high = if at + 1 < count {
            Some(separators.part(at))
        } else {
            bounds.high
        };
        let below = check_child(child, Bounds { low, high }, false)?;
        ensure(height.is_none_or(|height| height == below), || {
            "leaves at different depths".into()
        })?;
        height = Some(below);
    }
    for pair in inner.children.windows(2) {
        if let (Node::Leaf(left), Node::Leaf(right)) = (&pair[0].node, &pair[1].node) {
            let counts = (left.values.len(), right.values.len());
            ensure(!left.should_join(right), || {
                format!("neighbouring leaves of {counts:?} entries should be one")
            })?;
        }
    }
    Ok(height.unwrap_or(0) + 1)
}

/// Strictly ascending, from the lower bound on, below the upper one.
fn check_keys<'a>(keys: impl Iterator<Item = Parts<'a>>, bounds: Bounds<'_>) -> Result<(), String> {
    let mut before: Option<Vec<u8>> = None;
    for key in keys {
        let key = key.to_vec();
        let name = || key.escape_ascii().to_string();
        ensure(before.as_ref().is_none_or(|before| *before < key), || {
            format!("key {} out of order", name())
        })?;
        ensure(bounds.low.is_none_or(|low| low.to_vec() <= key), || {
            format!("key {} below its separator", name())
        })?;
        ensure(bounds.high.is_none_or(|high| key < high.to_vec()), || {
            format!("key {} not below its separator", name())
        })?;
        before = Some(key);
    }
    Ok(())
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn node_bytes<V: Clone + Weight>(node: &Node<V>) -> u64 {
    const COUNTS: usize = 2 * size_of::<usize>();
    match node {
        Node::Leaf(leaf) => {
            (COUNTS
                + size_of::<Leaf<V>>()
                + leaf.keys.memory_size()
                + leaf.values.capacity() * size_of::<V>()) as u64
        }
        Node::Inner(inner) => {
            let own = COUNTS
                + size_of::<Inner<V>>()
                + inner.separators.memory_size()
                + inner.children.capacity() * size_of::<Child<V>>();
            own as u64
                + inner
                    .children
                    .iter()
                    .map(|child| node_bytes(&child.node))
                    .sum::<u64>()
        }
    }
}
