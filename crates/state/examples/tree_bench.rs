//! Measures the key index's tree: `cargo run --release -p state --example tree_bench [keys]` (default one million).
//!
//! Each rate is that of one thread over all keys in random order. Two shapes of 64-byte keys: `random` shares no prefix, `registry` is
//! what a Kubernetes API server writes. The value has 40 bytes, as the key index's has.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and its own memory"
)]

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Instant;

use state::mvcc::tree::{Change, End, Tree, Weight};

#[derive(Clone, Copy)]
struct Value([u64; 5]);

impl Weight for Value {
    fn weight(&self) -> u64 {
        self.0[0] & 1
    }
}

/// splitmix64.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn random_keys(count: usize, seed: &mut u64) -> Vec<[u8; 64]> {
    let mut draw = || std::array::from_fn(|_| random(seed).to_le_bytes()[0]);
    (0..count).map(|_| draw()).collect()
}

fn registry_keys(count: usize, seed: &mut u64) -> Vec<[u8; 64]> {
    let mut draw = || {
        let namespace = random(seed) % 200;
        let pod = random(seed);
        let text = format!(
            "/registry/pods/namespace-{namespace:04}/deployment-{:06}-{pod:016x}xyz",
            pod % 1000
        );
        <[u8; 64]>::try_from(&text.as_bytes()[..64]).expect("64 bytes were cut")
    };
    (0..count).map(|_| draw()).collect()
}

fn shuffle<T>(items: &mut [T], seed: &mut u64) {
    for at in (1..items.len()).rev() {
        let other = random(seed) % (at as u64 + 1);
        items.swap(at, usize::try_from(other).expect("an index"));
    }
}

fn resident_bytes() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(f64::NAN);
    pages * 4096.0
}

/// Runs `work` and prints how many times a second it did what it says it did.
fn rate(name: &str, work: impl FnOnce() -> usize) {
    let start = Instant::now();
    let count = work();
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "  {name:<44} {:>10.0} k/s   {seconds:.3} s",
        count as f64 / seconds / 1e3
    );
}

fn update(tree: &mut Tree<Value>, key: &[u8]) {
    tree.alter(key, |found| {
        let value = found.expect("every key is there");
        value.0[1] += 1;
        Change::Keep
    });
}

fn bench(keys: &mut [[u8; 64]], seed: &mut u64) {
    let count = keys.len();
    let per_key = |bytes: f64| bytes / count as f64;
    let before = resident_bytes();
    let mut tree = Tree::new();
    rate("insert", || {
        for key in &*keys {
            tree.insert(key, Value([1; 5]));
        }
        count
    });
    let (own, resident) = (
        per_key(tree.memory_bytes() as f64),
        per_key(resident_bytes() - before),
    );
    println!("  bytes per key after inserts: {own:.0} own, {resident:.0} resident");
    tree.check().expect("a sound tree");
    shuffle(keys, seed);
    rate("get", || {
        keys.iter().filter(|key| tree.get(*key).is_some()).count()
    });
    rate("update, no snapshot", || {
        keys.iter().for_each(|key| update(&mut tree, key));
        count
    });
    // Readers hold the last snapshot, or the last hundred.
    for (every, held) in [(1, 1), (16, 1), (16, 100), (256, 1)] {
        let mut snapshots = VecDeque::new();
        rate(
            &format!("update, snapshot per {every}, {held} held"),
            || {
                for (number, key) in keys.iter().enumerate() {
                    update(&mut tree, key);
                    if number % every == 0 {
                        snapshots.push_back(tree.clone());
                        if snapshots.len() > held {
                            snapshots.pop_front();
                        }
                    }
                }
                count
            },
        );
    }
    reads(&tree, keys);
    rebuild(&tree, keys);
}

fn reads(tree: &Tree<Value>, keys: &[[u8; 64]]) {
    rate("scan, keys and values", || {
        let mut cursor = tree.range(b"", End::Unbounded);
        let mut seen = 0;
        while let Some((key, value)) = cursor.next() {
            seen += black_box(1 + usize::from(key.is_empty() && value.0[0] > 1));
        }
        seen
    });
    rate("scan, values", || {
        let mut cursor = tree.range(b"", End::Unbounded);
        let mut seen = 0;
        while let Some(value) = cursor.next_value() {
            seen += black_box(1 + usize::from(value.0[0] > 1));
        }
        seen
    });
    rate("ranges of 1000 (entries)", || {
        keys.iter()
            .take(2_000)
            .map(|from| {
                let mut cursor = tree.range(from, End::Unbounded);
                (0..1000).filter(|_| cursor.next().is_some()).count()
            })
            .sum()
    });
    rate("weight_range", || {
        let pairs = keys.as_chunks::<2>().0;
        black_box(
            pairs
                .iter()
                .map(|[from, end]| tree.weight_range(from, End::Key(end)))
                .sum::<u64>(),
        );
        pairs.len()
    });
}

fn rebuild(tree: &Tree<Value>, keys: &[[u8; 64]]) {
    let mut sorted = keys.to_vec();
    sorted.sort_unstable();
    let before = resident_bytes();
    let mut built = Tree::new();
    rate("from_sorted", || {
        built = Tree::from_sorted(sorted.iter().map(|key| (key, Value([1; 5]))));
        sorted.len()
    });
    let own = built.memory_bytes() as f64 / sorted.len() as f64;
    println!(
        "  bytes per key after from_sorted: {own:.0} own, {:.0} resident",
        (resident_bytes() - before) / sorted.len() as f64
    );
    assert_eq!(built.weight(), tree.weight());
    let mut tree = tree.clone();
    rate("remove, a snapshot held", || {
        keys.iter()
            .filter(|key| tree.remove(*key).is_some())
            .count()
    });
}

fn main() {
    let count = std::env::args()
        .nth(1)
        .map_or(1_000_000, |count| count.parse().expect("a number of keys"));
    let mut seed = 1;
    for (name, make) in [
        (
            "random",
            random_keys as fn(usize, &mut u64) -> Vec<[u8; 64]>,
        ),
        ("registry", registry_keys),
    ] {
        println!("{count} {name} keys");
        bench(&mut make(count, &mut seed), &mut seed);
    }
}
