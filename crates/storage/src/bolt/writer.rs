//! Writing a file from rows, a piece at a time, front to back.

use bytes::{BufMut, Bytes, BytesMut};

use super::layout::{Content, Layout, LeafElement, Page, Piece};
use super::{
    ELEMENT_BUCKET, ELEMENT_BYTES, FLAG_BRANCH, FLAG_FREELIST, FLAG_LEAF, FLAG_META, HEADER_BYTES,
    Meta, PAGE_BYTES,
};
use crate::fault::Fault;

/// One row of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The bucket, as its place among the names.
    pub bucket: usize,
    /// Rows of a bucket come by ascending key, no key twice.
    pub key: Bytes,
    /// Shorter than 2 GiB.
    pub value: Bytes,
}

/// The first page of data; the two metas and the free list lie before it.
const FIRST_PAGE: u64 = 3;
const FREELIST_PAGE: u64 = 2;

/// Sizes a file: it is told the lengths of all rows, in the order in which they will be written.
pub struct Planner {
    assembly: Assembly<usize>,
}

/// The shape of a file: its size and its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    names: Vec<Vec<u8>>,
    root: u64,
    pages: u64,
}

impl Planner {
    /// A file with these buckets, each of which will exist, rows or not. Names must ascend.
    ///
    /// # Panics
    /// If there is no name, or names do not ascend.
    pub fn new<N: AsRef<[u8]>>(names: &[N]) -> Planner {
        let names: Vec<Vec<u8>> = names.iter().map(|name| name.as_ref().to_vec()).collect();
        assert!(!names.is_empty(), "a file without buckets");
        assert!(
            names.windows(2).all(|pair| pair[0] < pair[1]),
            "the names of buckets ascend"
        );
        Planner {
            assembly: Assembly::new(names),
        }
    }

    /// The next row is so long.
    pub fn row(&mut self, bucket: usize, key_bytes: usize, value_bytes: usize) {
        self.assembly
            .row(bucket, key_bytes, value_bytes, &mut |_| {});
    }

    /// That was the last row.
    pub fn finish(mut self) -> Plan {
        let root = self.assembly.finish(&mut |_| {});
        Plan {
            pages: self.assembly.layout.next_page(),
            names: self.assembly.names,
            root,
        }
    }
}

impl Plan {
    /// The exact size of the file.
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE_BYTES as u64
    }
}

/// Writes a file: ask it for one chunk after the other.
///
/// In memory: one page per level of the tree, the rows of the open leaf, and the chunk. A row larger than a page is held
/// whole, as its source does anyway.
pub struct Writer<R> {
    plan: Plan,
    rows: R,
    assembly: Assembly<Bytes>,
    last: Option<(usize, Bytes)>,
    /// What is encoded and has not left yet.
    out: BytesMut,
    left: u64,
    is_complete: bool,
    fault: Option<Fault>,
}

impl<R: Iterator<Item = Result<Row, Fault>>> Writer<R> {
    /// A writer of the file that was planned from these very rows.
    pub fn new(plan: Plan, rows: R) -> Writer<R> {
        let mut out = BytesMut::with_capacity(16 * PAGE_BYTES);
        for txid in 0..2 {
            let meta = Meta {
                page_bytes: PAGE_BYTES as u32,
                root: plan.root,
                freelist: FREELIST_PAGE,
                pages: plan.pages,
                txid,
            };
            header(&mut out, txid, FLAG_META, 0, 1);
            out.put_slice(&meta.encode());
            out.resize((txid as usize + 1) * PAGE_BYTES, 0);
        }
        header(&mut out, FREELIST_PAGE, FLAG_FREELIST, 0, 1);
        out.resize(FIRST_PAGE as usize * PAGE_BYTES, 0);
        Writer {
            left: plan.bytes(),
            assembly: Assembly::new(plan.names.clone()),
            plan,
            rows,
            last: None,
            out,
            is_complete: false,
            fault: None,
        }
    }

    /// Bytes that have not been handed out yet.
    pub fn remaining(&self) -> u64 {
        self.left
    }

    /// The next `bytes_max` bytes of the file; fewer at its end, and `None` behind it. Reads rows only as far as needed.
    ///
    /// # Errors
    /// The fault of the rows' source; again at every later call.
    ///
    /// # Panics
    /// If the rows are not those of the plan, or do not ascend.
    pub fn next_chunk(&mut self, bytes_max: usize) -> Result<Option<Bytes>, Fault> {
        assert!(bytes_max > 0, "an empty chunk would say that all is done");
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        while self.out.len() < bytes_max && !self.is_complete {
            match self.rows.next() {
                Some(Ok(row)) => self.row(row),
                Some(Err(fault)) => {
                    self.fault = Some(fault.clone());
                    return Err(fault);
                }
                None => self.finish(),
            }
        }
        if self.out.is_empty() {
            return Ok(None);
        }
        let chunk = self.out.split_to(bytes_max.min(self.out.len())).freeze();
        self.left = self
            .left
            .checked_sub(chunk.len() as u64)
            .expect("the file is as long as planned: its rows are those of the plan");
        Ok(Some(chunk))
    }

    fn row(&mut self, Row { bucket, key, value }: Row) {
        if let Some((last_bucket, last_key)) = &self.last {
            assert!(
                bucket > *last_bucket || key > *last_key,
                "rows of bucket {bucket} do not ascend"
            );
        }
        self.last = Some((bucket, key.clone()));
        let out = &mut self.out;
        self.assembly
            .row(bucket, key, value, &mut |page| encode(&page, out));
    }

    fn finish(&mut self) {
        let out = &mut self.out;
        let root = self.assembly.finish(&mut |page| encode(&page, out));
        let pages = self.assembly.layout.next_page();
        assert!(
            (root, pages) == (self.plan.root, self.plan.pages),
            "the rows are not those of the plan: {pages} pages instead of {}",
            self.plan.pages
        );
        self.is_complete = true;
    }
}

/// Trees one behind the other, and at the end the tree that names them.
struct Assembly<P> {
    names: Vec<Vec<u8>>,
    layout: Layout<P>,
    /// The root page of each finished bucket; `None` if it is empty.
    roots: Vec<Option<u64>>,
}

impl<P: Piece> Assembly<P> {
    fn new(names: Vec<Vec<u8>>) -> Assembly<P> {
        Assembly {
            names,
            layout: Layout::new(FIRST_PAGE),
            roots: Vec::new(),
        }
    }

    fn row(&mut self, bucket: usize, key: P, value: P, out: &mut impl FnMut(Page<P>)) {
        assert!(
            (self.roots.len()..self.names.len()).contains(&bucket),
            "a row of bucket {bucket} while bucket {} of {} is written",
            self.roots.len(),
            self.names.len()
        );
        while self.roots.len() < bucket {
            self.close_bucket(out);
        }
        let element = LeafElement {
            key,
            value,
            is_bucket: false,
        };
        self.layout.push(element, out);
    }

    fn close_bucket(&mut self, out: &mut impl FnMut(Page<P>)) {
        let root = match self.layout.is_empty() {
            true => None,
            false => Some(self.layout.finish(out)),
        };
        self.roots.push(root);
    }

    /// Closes the remaining buckets and writes the tree of their names. Returns its root.
    fn finish(&mut self, out: &mut impl FnMut(Page<P>)) -> u64 {
        while self.roots.len() < self.names.len() {
            self.close_bucket(out);
        }
        for (name, root) in self.names.iter().zip(&self.roots) {
            let element = LeafElement {
                key: P::of(name),
                value: P::of(&bucket_value(*root)),
                is_bucket: true,
            };
            self.layout.push(element, out);
        }
        self.layout.finish(out)
    }
}

/// The value under a bucket's name: its root page and a sequence, which etcd does not use. An empty bucket has no page; an
/// empty leaf stands in its value.
fn bucket_value(root: Option<u64>) -> Vec<u8> {
    let mut value = BytesMut::with_capacity(32);
    value.put_u64_le(root.unwrap_or(0));
    value.put_u64_le(0);
    if root.is_none() {
        header(&mut value, 0, FLAG_LEAF, 0, 1);
    }
    value.to_vec()
}

fn header(out: &mut BytesMut, id: u64, flags: u16, count: usize, pages: u64) {
    out.put_u64_le(id);
    out.put_u16_le(flags);
    out.put_u16_le(u16::try_from(count).expect("a page holds at most a few hundred elements"));
    out.put_u32_le(u32::try_from(pages - 1).expect("a page holds one large row at most"));
}

/// Header, elements, then keys and values in the same order; an element says how far from itself its key begins.
fn encode(page: &Page<Bytes>, out: &mut BytesMut) {
    let end = out.len() + page.pages as usize * PAGE_BYTES;
    out.reserve(page.pages as usize * PAGE_BYTES);
    match &page.content {
        Content::Leaf(elements) => {
            header(out, page.id, FLAG_LEAF, elements.len(), page.pages);
            let mut position = elements.len() * ELEMENT_BYTES;
            for element in elements {
                out.put_u32_le(if element.is_bucket { ELEMENT_BUCKET } else { 0 });
                out.put_u32_le(narrow(position));
                out.put_u32_le(narrow(element.key.len()));
                out.put_u32_le(narrow(element.value.len()));
                position = position - ELEMENT_BYTES + element.key.len() + element.value.len();
            }
            for element in elements {
                out.put_slice(&element.key);
                out.put_slice(&element.value);
            }
        }
        Content::Branch(elements) => {
            header(out, page.id, FLAG_BRANCH, elements.len(), page.pages);
            let mut position = elements.len() * ELEMENT_BYTES;
            for element in elements {
                out.put_u32_le(narrow(position));
                out.put_u32_le(narrow(element.key.len()));
                out.put_u64_le(element.page);
                position = position - ELEMENT_BYTES + element.key.len();
            }
            for element in elements {
                out.put_slice(&element.key);
            }
        }
    }
    assert!(
        (end - page.pages as usize * PAGE_BYTES + HEADER_BYTES..=end).contains(&out.len()),
        "page {} is longer than planned",
        page.id
    );
    out.resize(end, 0);
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("a row is shorter than 2 GiB")
}
