//! Which row goes to which page. The lengths of keys and values decide, nothing else: so a pass over lengths alone gives
//! the very pages that a pass over the bytes gives later.
//!
//! Pages are closed in the order of the file: a leaf when the next row does not fit, a branch when it is full, behind the
//! pages it points to. In memory: one open page per level.

use bytes::Bytes;

use super::{ELEMENT_BYTES, HEADER_BYTES, PAGE_BYTES};

/// A key or a value, or only its length.
pub(super) trait Piece: Clone {
    fn of(bytes: &[u8]) -> Self;
    fn size(&self) -> usize;
}

impl Piece for usize {
    fn of(bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn size(&self) -> usize {
        *self
    }
}

impl Piece for Bytes {
    fn of(bytes: &[u8]) -> Bytes {
        Bytes::copy_from_slice(bytes)
    }

    fn size(&self) -> usize {
        self.len()
    }
}

/// One row of a leaf.
pub(super) struct LeafElement<P> {
    pub key: P,
    pub value: P,
    /// The value is the header of a bucket.
    pub is_bucket: bool,
}

/// A page below a branch: its first key and its id.
pub(super) struct BranchElement<P> {
    pub key: P,
    pub page: u64,
}

pub(super) enum Content<P> {
    Leaf(Vec<LeafElement<P>>),
    Branch(Vec<BranchElement<P>>),
}

/// A page that is complete. It is the next one in the file.
pub(super) struct Page<P> {
    pub id: u64,
    /// How many pages it takes: more than one if a row is larger than a page.
    pub pages: u64,
    pub content: Content<P>,
}

/// One tree after the other, in pages.
pub(super) struct Layout<P> {
    next_page: u64,
    leaf: Vec<LeafElement<P>>,
    leaf_bytes: usize,
    /// Open branches, the one above the leaves first.
    branches: Vec<Vec<BranchElement<P>>>,
}

impl<P: Piece> Layout<P> {
    pub(super) fn new(first_page: u64) -> Layout<P> {
        Layout {
            next_page: first_page,
            leaf: Vec::new(),
            leaf_bytes: HEADER_BYTES,
            branches: Vec::new(),
        }
    }

    /// The id of the next page to be closed.
    pub(super) fn next_page(&self) -> u64 {
        self.next_page
    }

    /// Whether the current tree has no row yet.
    pub(super) fn is_empty(&self) -> bool {
        self.leaf.is_empty() && self.branches.is_empty()
    }

    /// Adds the next row of the current tree. What a large row leaves of its last page is filled with rows that fit.
    pub(super) fn push(&mut self, element: LeafElement<P>, out: &mut impl FnMut(Page<P>)) {
        let bytes = ELEMENT_BYTES + element.key.size() + element.value.size();
        let room = pages_of(self.leaf_bytes) as usize * PAGE_BYTES;
        if !self.leaf.is_empty() && self.leaf_bytes + bytes > room {
            self.close_leaf(out);
        }
        self.leaf_bytes += bytes;
        self.leaf.push(element);
    }

    /// Closes the current tree, which has rows, and returns the id of its root.
    ///
    /// Each branch gets at least two children: bbolt refuses to work on a child whose parent has no other.
    pub(super) fn finish(&mut self, out: &mut impl FnMut(Page<P>)) -> u64 {
        assert!(!self.is_empty(), "a tree without rows has no pages");
        self.close_leaf(out);
        let mut level = 0;
        loop {
            let is_top = level + 1 == self.branches.len();
            let items = &self.branches[level];
            if let ([root], true) = (items.as_slice(), is_top) {
                let root = root.page;
                self.branches.clear();
                return root;
            }
            let fit = fitting(items);
            if items.len() > fit && fit > 2 {
                let count = items.len() - 2;
                self.close_branch(level, count, out);
            }
            let rest = self.branches[level].len();
            self.close_branch(level, rest, out);
            level += 1;
        }
    }

    fn close_leaf(&mut self, out: &mut impl FnMut(Page<P>)) {
        let elements = std::mem::take(&mut self.leaf);
        let bytes = std::mem::replace(&mut self.leaf_bytes, HEADER_BYTES);
        let key = elements
            .first()
            .map(|element| element.key.clone())
            .expect("a leaf is closed only with rows");
        let id = self.close(bytes, Content::Leaf(elements), out);
        self.push_up(0, BranchElement { key, page: id }, out);
    }

    /// Closes the first `count` children of a branch, at least two, as a page.
    fn close_branch(&mut self, level: usize, count: usize, out: &mut impl FnMut(Page<P>)) {
        assert!(count >= 2, "a branch with {count} children");
        let elements: Vec<_> = self.branches[level].drain(..count).collect();
        let key = elements[0].key.clone();
        let bytes = HEADER_BYTES + elements.iter().map(branch_bytes).sum::<usize>();
        let id = self.close(bytes, Content::Branch(elements), out);
        self.push_up(level + 1, BranchElement { key, page: id }, out);
    }

    fn close(&mut self, bytes: usize, content: Content<P>, out: &mut impl FnMut(Page<P>)) -> u64 {
        let (id, pages) = (self.next_page, pages_of(bytes));
        self.next_page += pages;
        out(Page { id, pages, content });
        id
    }

    /// Adds a child. A branch is closed only when two children are there for the one behind it, so that the last branch of
    /// a level never has only one.
    fn push_up(&mut self, level: usize, element: BranchElement<P>, out: &mut impl FnMut(Page<P>)) {
        if self.branches.len() == level {
            self.branches.push(Vec::new());
        }
        let items = &mut self.branches[level];
        items.push(element);
        let fit = fitting(items);
        if items.len() >= fit + 2 {
            self.close_branch(level, fit, out);
        }
    }
}

/// How many of the first children fit into a page; two always do, if need be with a longer page.
fn fitting<P: Piece>(items: &[BranchElement<P>]) -> usize {
    let mut bytes = HEADER_BYTES;
    let fit = items.iter().take_while(|item| {
        bytes += branch_bytes(item);
        bytes <= PAGE_BYTES
    });
    fit.count().max(2).min(items.len())
}

fn branch_bytes<P: Piece>(element: &BranchElement<P>) -> usize {
    ELEMENT_BYTES + element.key.size()
}

fn pages_of(bytes: usize) -> u64 {
    bytes.div_ceil(PAGE_BYTES) as u64
}
