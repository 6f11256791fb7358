//! The keys of one node, packed into one block of bytes that never changes.
//!
//! ```text
//!   block   [ heads: count × u32 | ends: count × u32 | prefix | suffix 0 | suffix 1 | .. ]        integers little endian
//! ```
//!
//! `prefix` begins every key of the block and is stored once. `ends[i]` is where suffix i ends, counted from the end of the prefix. `heads[i]`
//! is the first four bytes of suffix i as a big-endian number, zeros where it is shorter: a search compares numbers that lie side by side and
//! looks at a suffix only where the numbers are equal.
//!
//! A key that comes or goes makes a new block. That is a few copies of some kilobytes, and it leaves no slack behind.

use std::cmp::Ordering;
use std::sync::Arc;

/// Sorted, distinct keys. A clone shares the block.
#[derive(Clone)]
pub(super) struct Keys {
    block: Arc<[u8]>,
    count: u32,
    prefix_size: u32,
}

/// A key as it is stored: what it shares with its neighbours, and the rest.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a>(pub &'a [u8], pub &'a [u8]);

/// The block taken apart.
#[derive(Clone, Copy, Default)]
pub(super) struct View<'a> {
    heads: &'a [[u8; 4]],
    ends: &'a [[u8; 4]],
    pub prefix: &'a [u8],
    suffixes: &'a [u8],
}

impl Keys {
    pub fn empty() -> Self {
        Keys {
            block: Arc::from([]),
            count: 0,
            prefix_size: 0,
        }
    }

    /// Packs sorted keys, with the longest prefix they share.
    pub fn pack(keys: &[Parts<'_>]) -> Self {
        let (Some(first), Some(last)) = (keys.first(), keys.last()) else {
            return Self::empty();
        };
        // The keys are sorted: what the first and the last share, all share.
        let prefix_size = first.common(*last);
        let suffixes_size: usize = keys.iter().map(|key| key.len() - prefix_size).sum();
        let mut block = Vec::with_capacity(keys.len() * 8 + prefix_size + suffixes_size);
        for key in keys {
            block.extend_from_slice(&key.head(prefix_size));
        }
        let mut end = 0;
        for key in keys {
            end += key.len() - prefix_size;
            block.extend_from_slice(&offset(end));
        }
        block.extend(first.bytes().take(prefix_size));
        for key in keys {
            let Parts(a, b) = key.skip(prefix_size);
            block.extend_from_slice(a);
            block.extend_from_slice(b);
        }
        Self::new(block, keys.len(), prefix_size)
    }

    fn new(block: Vec<u8>, count: usize, prefix_size: usize) -> Self {
        let count = u32::try_from(count).expect("a node holds few keys");
        let prefix_size = u32::try_from(prefix_size).expect("a key is shorter than 4 GiB");
        Keys {
            block: Arc::from(block),
            count,
            prefix_size,
        }
    }

    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Bytes of all keys in full, the shared prefix counted for each: what the fill of a node is measured by. Unlike the size of the block it
    /// adds up when two nodes become one.
    pub fn full_size(&self) -> usize {
        let (count, prefix_size) = (self.count as usize, self.prefix_size as usize);
        (self.block.len() - count * 8 - prefix_size) + count * prefix_size
    }

    /// Bytes of the block, with its reference counts.
    pub fn memory_size(&self) -> usize {
        self.block.len() + 16
    }

    #[inline]
    pub fn view(&self) -> View<'_> {
        let count = self.count as usize;
        let (heads, rest) = self.block.split_at(count * 4);
        let (ends, rest) = rest.split_at(count * 4);
        let (prefix, suffixes) = rest.split_at(self.prefix_size as usize);
        View {
            heads: heads.as_chunks().0,
            ends: ends.as_chunks().0,
            prefix,
            suffixes,
        }
    }

    /// These keys with `key` before the one at `at`, where it belongs.
    pub fn with(&self, at: usize, key: &[u8]) -> Self {
        let view = self.view();
        let Some(suffix) = key.strip_prefix(view.prefix).filter(|_| self.count > 0) else {
            let mut keys: Vec<Parts<'_>> = view.parts().collect();
            keys.insert(at, Parts(key, &[]));
            return Self::pack(&keys);
        };
        let mut block = Vec::with_capacity(self.block.len() + 8 + suffix.len());
        block.extend_from_slice(view.heads[..at].as_flattened());
        block.extend_from_slice(&head(suffix).to_le_bytes());
        block.extend_from_slice(view.heads[at..].as_flattened());
        let start = view.start(at);
        block.extend_from_slice(view.ends[..at].as_flattened());
        block.extend_from_slice(&offset(start + suffix.len()));
        block.extend(
            view.ends[at..]
                .iter()
                .flat_map(|end| offset(number(*end) as usize + suffix.len())),
        );
        block.extend_from_slice(view.prefix);
        block.extend_from_slice(&view.suffixes[..start]);
        block.extend_from_slice(suffix);
        block.extend_from_slice(&view.suffixes[start..]);
        Self::new(block, self.len() + 1, self.prefix_size as usize)
    }

    /// These keys without the one at `at`. The prefix stays as it is, though the rest may share more.
    pub fn without(&self, at: usize) -> Self {
        if self.count == 1 {
            return Self::empty();
        }
        let view = self.view();
        let (start, end) = (view.start(at), number(view.ends[at]) as usize);
        let mut block = Vec::with_capacity(self.block.len());
        block.extend_from_slice(view.heads[..at].as_flattened());
        block.extend_from_slice(view.heads[at + 1..].as_flattened());
        block.extend_from_slice(view.ends[..at].as_flattened());
        block.extend(
            view.ends[at + 1..]
                .iter()
                .flat_map(|other| offset(number(*other) as usize - (end - start))),
        );
        block.extend_from_slice(view.prefix);
        block.extend_from_slice(&view.suffixes[..start]);
        block.extend_from_slice(&view.suffixes[end..]);
        Self::new(block, self.len() - 1, self.prefix_size as usize)
    }

    /// The keys before `cut` and those from `cut` on.
    pub fn cut(&self, cut: usize) -> (Self, Self) {
        let keys: Vec<Parts<'_>> = self.view().parts().collect();
        (Self::pack(&keys[..cut]), Self::pack(&keys[cut..]))
    }

    /// These keys, those of `middle`, and those of `right`, which lie above.
    pub fn joined(&self, middle: Option<&[u8]>, right: &Self) -> Self {
        let middle = middle.map(|key| Parts(key, &[]));
        let keys: Vec<Parts<'_>> = self
            .view()
            .parts()
            .chain(middle)
            .chain(right.view().parts())
            .collect();
        Self::pack(&keys)
    }
}

impl<'a> View<'a> {
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Where `key` is, or where it would be.
    #[inline]
    pub fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let common = self.prefix.len().min(key.len());
        match key[..common].cmp(&self.prefix[..common]) {
            Ordering::Less => Err(0),
            Ordering::Greater => Err(self.len()),
            // The key begins the prefix, so it lies below every key that has the whole prefix.
            Ordering::Equal if common < self.prefix.len() => Err(0),
            Ordering::Equal => self.search_suffix(&key[common..]),
        }
    }

    /// Index of the first key at or after `key`.
    #[inline]
    pub fn lower_bound(&self, key: &[u8]) -> usize {
        self.search(key).unwrap_or_else(|at| at)
    }

    #[inline]
    fn search_suffix(&self, suffix: &[u8]) -> Result<usize, usize> {
        let wanted = head(suffix);
        // Counting looks at more numbers than halving would, but several at a time and without a branch to guess.
        let below = self
            .heads
            .iter()
            .map(|head| usize::from(number(*head) < wanted))
            .sum();
        let same = self.heads[below..]
            .iter()
            .take_while(|head| number(**head) == wanted)
            .count();
        let (mut low, mut high) = (below, below + same);
        while low < high {
            let middle = low.midpoint(high);
            match self.suffix(middle).cmp(suffix) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    #[inline]
    fn start(&self, at: usize) -> usize {
        if at == 0 {
            0
        } else {
            number(self.ends[at - 1]) as usize
        }
    }

    /// The key at `at` without the prefix.
    #[inline]
    pub fn suffix(&self, at: usize) -> &'a [u8] {
        &self.suffixes[self.start(at)..number(self.ends[at]) as usize]
    }

    pub fn part(&self, at: usize) -> Parts<'a> {
        Parts(self.prefix, self.suffix(at))
    }

    pub fn parts(self) -> impl Iterator<Item = Parts<'a>> {
        (0..self.len()).map(move |at| self.part(at))
    }
}

impl<'a> Parts<'a> {
    pub fn len(self) -> usize {
        self.0.len() + self.1.len()
    }

    pub fn bytes(self) -> impl Iterator<Item = u8> {
        self.0.iter().chain(self.1).copied()
    }

    pub fn to_vec(self) -> Vec<u8> {
        [self.0, self.1].concat()
    }

    /// Number of leading bytes in which the two agree.
    pub fn common(self, other: Parts<'_>) -> usize {
        self.bytes()
            .zip(other.bytes())
            .take_while(|(a, b)| a == b)
            .count()
    }

    fn skip(self, count: usize) -> Parts<'a> {
        match count.checked_sub(self.0.len()) {
            None => Parts(&self.0[count..], self.1),
            Some(rest) => Parts(&self.1[rest..], &[]),
        }
    }

    /// The stored head of the suffix that begins at `start`.
    fn head(self, start: usize) -> [u8; 4] {
        let Parts(a, b) = self.skip(start);
        let head = if a.len() >= 4 || b.is_empty() {
            head(a)
        } else {
            let mut bytes = [0; 4];
            for (to, from) in bytes.iter_mut().zip(a.iter().chain(b)) {
                *to = *from;
            }
            u32::from_be_bytes(bytes)
        };
        head.to_le_bytes()
    }
}

/// The first four bytes as a number that sorts as they do; missing ones count as zero.
#[inline]
fn head(suffix: &[u8]) -> u32 {
    if let Some(bytes) = suffix.first_chunk::<4>() {
        return u32::from_be_bytes(*bytes);
    }
    suffix
        .iter()
        .zip([24, 16, 8])
        .fold(0, |head, (byte, shift)| head | (u32::from(*byte) << shift))
}

#[inline]
fn number(stored: [u8; 4]) -> u32 {
    u32::from_le_bytes(stored)
}

#[inline]
fn offset(position: usize) -> [u8; 4] {
    u32::try_from(position)
        .expect("the keys of a node stay below 4 GiB, because each is bounded")
        .to_le_bytes()
}
