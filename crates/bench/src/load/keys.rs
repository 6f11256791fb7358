//! The key space: numbered keys of one size, in prefixes of 1000.
//!
//! Key 1,234,567 of size 32 is `/bench/00001234/567/............`: the keys of one thousand share a prefix and follow each other, so that a range over a prefix
//! reads exactly 1000 of them.

/// Keys under one prefix.
pub const KEYS_PER_PREFIX: u64 = 1000;

/// The smallest key size: the part that holds the number.
pub const KEY_BYTES_MIN: usize = 19;

const PREFIX_BYTES: usize = 16;

/// The size and number of the keys of a load.
#[derive(Debug, Clone, Copy)]
pub struct Keyspace {
    /// Number of keys; at most 10^11.
    pub count: u64,
    /// Bytes of a key.
    pub key_bytes: usize,
}

impl Keyspace {
    /// Writes key number `index` into `out`, replacing what was there.
    pub fn key(&self, index: u64, out: &mut Vec<u8>) {
        self.prefix(index / KEYS_PER_PREFIX, out);
        digits(index % KEYS_PER_PREFIX, 3, out);
        if self.key_bytes > KEY_BYTES_MIN {
            out.push(b'/');
            out.resize(self.key_bytes, b'.');
        }
    }

    /// Writes the prefix of thousand number `thousand`.
    pub fn prefix(&self, thousand: u64, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(b"/bench/");
        digits(thousand, 8, out);
        out.push(b'/');
        debug_assert_eq!(out.len(), PREFIX_BYTES);
    }

    /// Number of prefixes that are full.
    pub fn prefixes(&self) -> u64 {
        (self.count / KEYS_PER_PREFIX).max(1)
    }
}

/// The end of the range of all keys with this prefix: the prefix with its last byte one higher. The prefix must not end in 0xff.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// The number of a key that [`Keyspace::key`] wrote.
pub fn index_of(key: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(key.get(7..KEY_BYTES_MIN)?).ok()?;
    let (thousand, rest) = text.split_once('/')?;
    Some(thousand.parse::<u64>().ok()? * KEYS_PER_PREFIX + rest.parse::<u64>().ok()?)
}

fn digits(mut value: u64, width: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + width, b'0');
    for byte in out[start..].iter_mut().rev() {
        *byte = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// A small fast generator (xorshift64*), so that a seed repeats a load's choices.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Any seed will do.
    pub fn new(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        random
    }

    /// 64 random bits.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// Values of one size, cut from random bytes so that neither side can compress them away.
#[derive(Debug, Clone)]
pub struct Values {
    pool: Vec<u8>,
    bytes: usize,
}

impl Values {
    /// Values of `bytes` bytes.
    pub fn new(bytes: usize, random: &mut Random) -> Values {
        let pool = (0..bytes + 64 * 1024)
            .map(|_| random.next() as u8)
            .collect();
        Values { pool, bytes }
    }

    /// One value.
    pub fn pick(&self, random: &mut Random) -> &[u8] {
        let at = random.below(64 * 1024) as usize;
        &self.pool[at..at + self.bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_size_and_sort_as_they_are_numbered() {
        for key_bytes in [KEY_BYTES_MIN, 32, 64] {
            let keys = Keyspace {
                count: 3_000_000,
                key_bytes,
            };
            let (mut last, mut key) = (Vec::new(), Vec::new());
            for index in [0, 1, 9, 10, 999, 1000, 1001, 999_999, 1_000_000, 2_999_999] {
                keys.key(index, &mut key);
                assert_eq!(key.len(), key_bytes);
                assert_eq!(index_of(&key), Some(index));
                assert!(key > last, "{}", String::from_utf8_lossy(&key));
                last.clone_from(&key);
            }
        }
    }

    #[test]
    fn a_prefix_range_holds_exactly_its_thousand() {
        let keys = Keyspace {
            count: 10_000,
            key_bytes: 24,
        };
        let (mut prefix, mut key) = (Vec::new(), Vec::new());
        keys.prefix(7, &mut prefix);
        let end = prefix_end(&prefix);
        let inside = (0..10_000).filter(|&i| {
            keys.key(i, &mut key);
            key >= prefix && key < end
        });
        assert_eq!(inside.collect::<Vec<_>>(), (7000..8000).collect::<Vec<_>>());
    }

    #[test]
    fn random_choices_are_even_and_repeat_with_the_seed() {
        let (mut a, mut b) = (Random::new(7), Random::new(7));
        let mut hits = [0u32; 10];
        for _ in 0..10_000 {
            let x = a.below(10);
            assert_eq!(x, b.below(10));
            hits[x as usize] += 1;
        }
        assert!(hits.iter().all(|h| (850..1150).contains(h)), "{hits:?}");
    }
}
