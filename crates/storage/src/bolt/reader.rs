//! Reading a file that anybody may have made.
//!
//! Every number is checked before it is used: no page is read twice (so there are no cycles), none lies outside the file,
//! nothing points outside its page, keys ascend. Memory: one leaf, the children of the branches above it, and one bit per page.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::{
    ELEMENT_BUCKET, ELEMENT_BYTES, FLAG_BRANCH, FLAG_LEAF, HEADER_BYTES, META_BYTES, Meta, u16_at,
    u32_at, u64_at,
};
use crate::disk::{self, File};
use crate::fault::{Fault, FaultKind};

/// What a walk meets, in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A bucket begins. Empty ones do, too.
    Bucket(&'a [u8]),
    /// A row of the bucket that began last.
    Row {
        /// The bucket's name.
        bucket: &'a [u8],
        /// Ascends within the bucket.
        key: &'a [u8],
        /// May be empty.
        value: &'a [u8],
    },
}

/// An open file. Its rows are checked as they are read.
pub struct Reader {
    file: Arc<dyn File>,
    name: String,
    meta: Meta,
}

/// Page sizes that bbolt may have used: those of the machines it runs on.
const PAGE_BYTES_MIN: u32 = 512;
const PAGE_BYTES_MAX: u32 = 64 << 10;
/// A node (a page with its overflow pages) holds a row and its neighbours; etcd's largest request is far below.
const NODE_BYTES_MAX: u64 = 1 << 30;
/// etcd has ten buckets.
const BUCKETS_MAX: usize = 1024;
/// bbolt's limit on keys.
const KEY_BYTES_MAX: usize = 32 << 10;
/// Each level at least doubles the leaves.
const DEPTH_MAX: usize = 64;

/// A bucket's name and the value that says where it is.
type NameAndValue = (Vec<u8>, Vec<u8>);

impl Reader {
    /// Opens the first `len` bytes of `file` (a snapshot carries a hash behind them). `name` is what faults call it.
    ///
    /// # Errors
    /// A fault of kind `Corrupted` if this is no bbolt file or it is cut off; `ReadFailed` from the disk.
    pub fn open(file: Arc<dyn File>, name: impl Into<String>, len: u64) -> Result<Reader, Fault> {
        let name = name.into();
        let meta = find_meta(&*file, &name, len)?;
        let size = meta.pages.checked_mul(u64::from(meta.page_bytes));
        if size.is_none_or(|size| size > len) {
            return Err(damaged(
                &name,
                format_args!(
                    "it has {} pages of {} bytes, but only {len} bytes are there",
                    meta.pages, meta.page_bytes
                ),
            ));
        }
        Ok(Reader { file, name, meta })
    }

    /// Bytes of all pages in use, and those of the metas. The file may be longer.
    pub fn bytes(&self) -> u64 {
        self.meta.pages * u64::from(self.meta.page_bytes)
    }

    /// The file's name, as given to [`Reader::open`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Hands out all buckets and their rows in order, until `visit` breaks.
    ///
    /// # Errors
    /// A fault of kind `Corrupted` that names the page, or `ReadFailed` from the disk. What came before it has been handed out.
    pub fn for_each(
        &self,
        mut visit: impl FnMut(Entry<'_>) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        let mut walk = Walk::new(self);
        for (bucket, value) in walk.buckets()? {
            if visit(Entry::Bucket(&bucket)).is_break() {
                return Ok(());
            }
            let mut row = |key: &[u8], value: &[u8]| {
                visit(Entry::Row {
                    bucket: &bucket,
                    key,
                    value,
                })
            };
            if walk.bucket(&bucket, &value, &mut row)?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn damaged(&self, what: impl std::fmt::Display) -> Fault {
        damaged(&self.name, what)
    }
}

/// One walk over the file, and the pages it has seen.
struct Walk<'a> {
    reader: &'a Reader,
    seen: Vec<u64>,
    /// The key before, of the current tree.
    last_key: Option<Vec<u8>>,
}

/// A page with its overflow pages, or the leaf inside a bucket's value. Its element table lies within its bytes.
struct Node {
    id: u64,
    is_leaf: bool,
    count: usize,
    bytes: Bytes,
}

impl<'a> Walk<'a> {
    fn new(reader: &'a Reader) -> Walk<'a> {
        let words = (reader.meta.pages / 64 + 1) as usize;
        Walk {
            reader,
            seen: vec![0; words],
            last_key: None,
        }
    }

    /// Names and values of all buckets.
    fn buckets(&mut self) -> Result<Vec<NameAndValue>, Fault> {
        let reader = self.reader;
        let mut buckets = Vec::new();
        let _ = self.tree(reader.meta.root, &mut |page, flags, key, value| {
            if flags != ELEMENT_BUCKET {
                return Err(reader.damaged(format_args!(
                    "page {page}: the root has something that is not a bucket"
                )));
            }
            if buckets.len() == BUCKETS_MAX {
                return Err(reader.damaged(format_args!("it has more than {BUCKETS_MAX} buckets")));
            }
            buckets.push((key.to_vec(), value.to_vec()));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(buckets)
    }

    /// The rows of one bucket.
    fn bucket(
        &mut self,
        name: &[u8],
        value: &[u8],
        row: &mut impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Fault> {
        let reader = self.reader;
        let mut each = |page: u64, flags: u32, key: &[u8], value: &[u8]| match flags {
            0 => Ok(row(key, value)),
            _ => Err(reader.damaged(format_args!(
                "page {page}: bucket \"{}\" holds a bucket, which etcd never has",
                name.escape_ascii()
            ))),
        };
        if value.len() < 16 {
            return Err(reader.damaged(format_args!(
                "bucket \"{}\" has no root",
                name.escape_ascii()
            )));
        }
        let root = u64_at(value, 0);
        if root != 0 {
            return self.tree(root, &mut each);
        }
        let node = self.inline_node(name, &value[16..])?;
        self.last_key = None;
        self.leaf(&node, &mut each)
    }

    /// Walks a tree from its root. `each` gets page, flags, key and value.
    fn tree(
        &mut self,
        root: u64,
        each: &mut impl FnMut(u64, u32, &[u8], &[u8]) -> Result<ControlFlow<()>, Fault>,
    ) -> Result<ControlFlow<()>, Fault> {
        self.last_key = None;
        // Children that are still to be visited, the next one last, per level.
        let mut path = vec![vec![root]];
        while let Some(level) = path.last_mut() {
            let Some(id) = level.pop() else {
                path.pop();
                continue;
            };
            let node = self.node(id)?;
            if node.is_leaf {
                if self.leaf(&node, each)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                continue;
            }
            if path.len() == DEPTH_MAX {
                return Err(self.reader.damaged(format_args!(
                    "page {id}: the tree has more than {DEPTH_MAX} levels"
                )));
            }
            path.push(self.children(&node)?);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The pages below a branch, last first.
    fn children(&self, node: &Node) -> Result<Vec<u64>, Fault> {
        if node.count == 0 {
            return Err(self
                .reader
                .damaged(format_args!("page {}: a branch without children", node.id)));
        }
        let ids = (0..node.count).rev().map(|at| {
            let element = HEADER_BYTES + at * ELEMENT_BYTES;
            u64_at(&node.bytes, element + 8)
        });
        Ok(ids.collect())
    }

    fn leaf(
        &mut self,
        node: &Node,
        each: &mut impl FnMut(u64, u32, &[u8], &[u8]) -> Result<ControlFlow<()>, Fault>,
    ) -> Result<ControlFlow<()>, Fault> {
        for at in 0..node.count {
            let element = HEADER_BYTES + at * ELEMENT_BYTES;
            let number = |offset| u32_at(&node.bytes, element + offset) as usize;
            let (flags, position) = (u32_at(&node.bytes, element), number(4));
            let (key_bytes, value_bytes) = (number(8), number(12));
            // Four numbers below 2³² on a machine of 64 bits cannot overflow.
            let begin = element + position;
            let rows = node
                .bytes
                .get(begin..begin + key_bytes + value_bytes)
                .filter(|_| key_bytes <= KEY_BYTES_MAX);
            let Some((key, value)) = rows.map(|row| row.split_at(key_bytes)) else {
                return Err(self.reader.damaged(format_args!(
                    "page {}: element {at} points outside its page",
                    node.id
                )));
            };
            self.check_order(node.id, at, key)?;
            if each(node.id, flags, key, value)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn check_order(&mut self, page: u64, at: usize, key: &[u8]) -> Result<(), Fault> {
        match &mut self.last_key {
            Some(last) if key <= last.as_slice() => Err(self.reader.damaged(format_args!(
                "page {page}: the key of element {at} is not above the one before it"
            ))),
            Some(last) => {
                last.clear();
                last.extend_from_slice(key);
                Ok(())
            }
            None => {
                self.last_key = Some(key.to_vec());
                Ok(())
            }
        }
    }

    /// Reads a page with its overflow pages.
    fn node(&mut self, id: u64) -> Result<Node, Fault> {
        let (reader, page_bytes) = (self.reader, u64::from(self.reader.meta.page_bytes));
        let pages = reader.meta.pages;
        if !(2..pages).contains(&id) {
            return Err(reader.damaged(format_args!(
                "page {id} is pointed to, but there are {pages} pages"
            )));
        }
        let mut header = [0; HEADER_BYTES];
        self.read(id * page_bytes, &mut header)?;
        let span = u64::from(u32_at(&header, 12)) + 1;
        if u64_at(&header, 0) != id || span > pages - id {
            return Err(reader.damaged(format_args!(
                "page {id}: its header is that of page {} with {span} pages, of {pages} in the file",
                u64_at(&header, 0)
            )));
        }
        self.mark_seen(id, span)?;
        let size = span * page_bytes;
        if size > NODE_BYTES_MAX {
            return Err(reader.damaged(format_args!(
                "page {id}: {size} bytes, and {NODE_BYTES_MAX} are read at most"
            )));
        }
        let mut bytes = vec![0; size as usize];
        self.read(id * page_bytes, &mut bytes)?;
        self.checked(id, bytes.into())
    }

    /// The leaf inside a bucket's value.
    fn inline_node(&self, name: &[u8], bytes: &[u8]) -> Result<Node, Fault> {
        if bytes.len() < HEADER_BYTES || u16_at(bytes, 8) != FLAG_LEAF {
            return Err(self.reader.damaged(format_args!(
                "bucket \"{}\" is neither a page nor a leaf of its own",
                name.escape_ascii()
            )));
        }
        self.checked(0, Bytes::copy_from_slice(bytes))
    }

    /// Checks kind and element table; `bytes` has a header.
    fn checked(&self, id: u64, bytes: Bytes) -> Result<Node, Fault> {
        let is_leaf = match u16_at(&bytes, 8) {
            FLAG_LEAF => true,
            FLAG_BRANCH => false,
            flags => {
                return Err(self.reader.damaged(format_args!(
                    "page {id}: neither a leaf nor a branch (flags {flags:#x})"
                )));
            }
        };
        let count = usize::from(u16_at(&bytes, 10));
        if HEADER_BYTES + count * ELEMENT_BYTES > bytes.len() {
            return Err(self.reader.damaged(format_args!(
                "page {id}: {count} elements do not fit into {} bytes",
                bytes.len()
            )));
        }
        Ok(Node {
            id,
            is_leaf,
            count,
            bytes,
        })
    }

    /// Notes the pages `id..id + span`, which lie within the file.
    fn mark_seen(&mut self, id: u64, span: u64) -> Result<(), Fault> {
        for page in id..id + span {
            let word = &mut self.seen[(page / 64) as usize];
            let bit = 1 << (page % 64);
            if *word & bit != 0 {
                return Err(self
                    .reader
                    .damaged(format_args!("page {page} is pointed to twice")));
            }
            *word |= bit;
        }
        Ok(())
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        disk::read_exact_at(&*self.reader.file, offset, buffer)
            .map_err(|error| read_failed(&self.reader.name, offset, &error))
    }
}

/// The valid meta with the higher transaction. The second one lies one page further; if the first is damaged, its place is
/// tried for each page size there is.
fn find_meta(file: &dyn File, name: &str, len: u64) -> Result<Meta, Fault> {
    let first = read_meta(file, name, len, 0)?;
    let mut found = first.clone().ok();
    let sizes: Vec<u32> = match &found {
        Some(meta) => vec![meta.page_bytes],
        None => (9..=16).map(|bits| 1 << bits).collect(),
    };
    for page_bytes in sizes {
        if let Ok(meta) = read_meta(file, name, len, u64::from(page_bytes))?
            && meta.page_bytes == page_bytes
            && found.is_none_or(|found| meta.txid > found.txid)
        {
            found = Some(meta);
        }
    }
    match (found, first) {
        (Some(meta), _) => Ok(meta),
        (None, Err(what)) => Err(damaged(
            name,
            format_args!("neither of its two meta pages is valid (the first: {what})"),
        )),
        (None, Ok(_)) => unreachable!("the first meta was taken if it was valid"),
    }
}

/// The meta of the page at `offset`, or what is wrong with it.
fn read_meta(
    file: &dyn File,
    name: &str,
    len: u64,
    offset: u64,
) -> Result<Result<Meta, String>, Fault> {
    let mut bytes = [0; META_BYTES];
    if offset + (HEADER_BYTES + META_BYTES) as u64 > len {
        return Ok(Err(format!("the file has only {len} bytes")));
    }
    let at = offset + HEADER_BYTES as u64;
    disk::read_exact_at(file, at, &mut bytes).map_err(|error| read_failed(name, at, &error))?;
    let meta = Meta::decode(&bytes).and_then(|meta| {
        let size = meta.page_bytes;
        let is_size = size.is_power_of_two() && (PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&size);
        is_size
            .then_some(meta)
            .ok_or_else(|| format!("pages of {size} bytes"))
    });
    Ok(meta)
}

fn damaged(name: &str, what: impl std::fmt::Display) -> Fault {
    Fault::new(
        FaultKind::Corrupted,
        format!("{name}: {what}; the file is damaged, or it is not a bbolt file."),
    )
}

fn read_failed(name: &str, offset: u64, error: &std::io::Error) -> Fault {
    Fault::new(
        FaultKind::ReadFailed,
        format!("{name}: cannot be read at byte {offset}: {error}"),
    )
}
