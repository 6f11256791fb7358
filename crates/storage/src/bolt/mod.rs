//! etcd's bbolt file: the format in which snapshots come and go. It is never the live store.
//!
//! What it is: a [`Writer`] that produces a file from rows in order, a piece at a time and without a temporary file, and a
//! [`Reader`] that trusts nothing it reads. The exact size of a file follows from the lengths of its rows ([`Planner`]), so
//! it is known before the first byte leaves.
//!
//! What it never does: it changes no file in place, keeps no free list, and knows nothing of what the rows mean.
//!
//! ```text
//!   page 0  meta      page 1  meta      page 2  free list, empty
//!   page 3··          leaves and branches of each bucket, a branch behind the pages it points to
//!   last page         the leaf that names the buckets
//! ```
//!
//! Start with [`Planner`] and [`Writer`], or with [`Reader::open`]. The bytes are drawn in `docs/formats/bolt.md`.
//! Source of the format: bbolt `internal/common/page.go`, `meta.go`, `bucket.go`.

mod layout;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::{Entry, Reader};
pub use writer::{Plan, Planner, Row, Writer};

/// Bytes of a page in the files we write. Those we read say their own.
pub const PAGE_BYTES: usize = 4096;

/// Bytes of the header of a page.
const HEADER_BYTES: usize = 16;
/// Bytes of an element of a leaf or a branch, without its key and value.
const ELEMENT_BYTES: usize = 16;
/// Bytes of the meta record behind the header of its page, checksum included.
const META_BYTES: usize = 64;

const FLAG_BRANCH: u16 = 1;
const FLAG_LEAF: u16 = 2;
const FLAG_META: u16 = 4;
const FLAG_FREELIST: u16 = 0x10;
/// Flag of a leaf element whose value is a bucket.
const ELEMENT_BUCKET: u32 = 1;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// What a meta page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meta {
    page_bytes: u32,
    /// The page of the root bucket.
    root: u64,
    freelist: u64,
    /// The number of pages in use: the first page id that is not.
    pages: u64,
    /// Of two valid metas the one with the higher transaction counts.
    txid: u64,
}

impl Meta {
    fn encode(&self) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.page_bytes.to_le_bytes());
        // 12..16 flags; 24..32 the sequence of the root bucket: both unused.
        bytes[16..24].copy_from_slice(&self.root.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.freelist.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.pages.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.txid.to_le_bytes());
        let sum = fnv1a(&bytes[..56]);
        bytes[56..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The meta in `bytes`, or what is wrong with it.
    fn decode(bytes: &[u8; META_BYTES]) -> Result<Meta, String> {
        if u32_at(bytes, 0) != MAGIC {
            return Err("no magic number".into());
        }
        if u32_at(bytes, 4) != VERSION {
            return Err(format!(
                "format version {}, not {VERSION}",
                u32_at(bytes, 4)
            ));
        }
        if u64_at(bytes, 56) != fnv1a(&bytes[..56]) {
            return Err("the checksum is wrong".into());
        }
        Ok(Meta {
            page_bytes: u32_at(bytes, 8),
            root: u64_at(bytes, 16),
            freelist: u64_at(bytes, 32),
            pages: u64_at(bytes, 40),
            txid: u64_at(bytes, 48),
        })
    }
}

/// FNV-1a with 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The number at `at`, which the caller knows to lie within `bytes`.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// As [`u16_at`].
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

/// As [`u16_at`].
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
