use std::collections::BTreeMap;
use std::ops::Bound;

use super::keys::Parts;
use super::node::{INNER_MAX, LEAF_BYTES_MAX, LEAF_MAX, separator_of};
use super::{Change, End, Tree, Weight};

/// A value whose lowest bit says whether it is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Value(u64);

impl Weight for Value {
    fn weight(&self) -> u64 {
        self.0 & 1
    }
}

type Model = BTreeMap<Vec<u8>, Value>;

struct Random(u64);

impl Random {
    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn end_of(end: Option<&Vec<u8>>) -> End<'_> {
    end.map_or(End::Unbounded, |key| End::Key(key))
}

fn walk(tree: &Tree<Value>, from: &[u8], end: End<'_>) -> Vec<(Vec<u8>, Value)> {
    let mut cursor = tree.range(from, end);
    let mut entries = Vec::new();
    while let Some((key, value)) = cursor.next() {
        entries.push((key.to_vec(), *value));
    }
    assert!(
        cursor.next_value().is_none(),
        "a finished cursor stays finished"
    );
    entries
}

fn model_range(model: &Model, from: &[u8], end: Option<&Vec<u8>>) -> Vec<(Vec<u8>, Value)> {
    let upper = end.map_or(Bound::Unbounded, |key| Bound::Excluded(key.as_slice()));
    if end.is_some_and(|end| end.as_slice() <= from) {
        return Vec::new();
    }
    model
        .range::<[u8], _>((Bound::Included(from), upper))
        .map(|(key, value)| (key.clone(), *value))
        .collect()
}

/// The tree keeps its rules and holds what the model holds.
fn assert_same(tree: &Tree<Value>, model: &Model) {
    tree.check().unwrap();
    assert_eq!(tree.len(), model.len() as u64);
    assert_eq!(
        tree.weight(),
        model.values().map(Value::weight).sum::<u64>()
    );
    assert_eq!(
        walk(tree, b"", End::Unbounded),
        model_range(model, b"", None)
    );
}

fn assert_range_same(tree: &Tree<Value>, model: &Model, from: &[u8], end: Option<&Vec<u8>>) {
    let expected = model_range(model, from, end);
    assert_eq!(
        tree.weight_range(from, end_of(end)),
        expected
            .iter()
            .map(|(_, value)| value.weight())
            .sum::<u64>()
    );
    assert_eq!(walk(tree, from, end_of(end)), expected);
}

/// A way to draw keys; each stresses another part of the nodes.
type Keys = fn(&mut Random) -> Vec<u8>;

fn short_keys(random: &mut Random) -> Vec<u8> {
    let size = random.below(4);
    (0..size)
        .map(|_| b"\0ab\xff"[usize::try_from(random.below(4)).unwrap()])
        .collect()
}

fn numbered_keys(random: &mut Random) -> Vec<u8> {
    format!(
        "/registry/{}/ns{:02}/{:05}",
        ["pods", "events", "secrets"][usize::try_from(random.below(3)).unwrap()],
        random.below(20),
        random.below(400)
    )
    .into_bytes()
}

fn wild_keys(random: &mut Random) -> Vec<u8> {
    random
        .below(6000)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .to_be_bytes()
        .to_vec()
}

/// Mostly short, some as long as a quarter of a leaf, a few longer than one.
fn long_keys(random: &mut Random) -> Vec<u8> {
    let number = random.below(800);
    let size = match number % 16 {
        0 => LEAF_BYTES_MAX + 100,
        1 | 2 => LEAF_BYTES_MAX / 4,
        3 => 700,
        _ => 0,
    };
    let mut key = vec![b'x'; size];
    let place = usize::try_from(number % 7).unwrap().min(key.len());
    key.splice(
        place..place,
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes(),
    );
    key
}

/// Random changes, with phases that mostly add and phases that mostly remove, snapshots taken on the way.
fn run_against_model(seed: u64, keys: Keys, steps: u64) {
    let mut random = Random(seed);
    let (mut tree, mut model) = (Tree::new(), Model::new());
    let mut snapshots: Vec<(Tree<Value>, Model)> = Vec::new();
    for step in 0..steps {
        let removes_of_ten = if (step / (steps / 4)).is_multiple_of(2) {
            2
        } else {
            7
        };
        let (key, value) = (keys(&mut random), Value(random.next()));
        if random.below(10) < removes_of_ten {
            assert_eq!(tree.remove(&key), model.remove(&key));
        } else {
            assert_eq!(tree.insert(&key, value), model.insert(key.clone(), value));
        }
        assert_eq!(tree.get(&key), model.get(&key));
        if random.below(steps / 12) == 0 {
            snapshots.push((tree.clone(), model.clone()));
        }
        if step % (steps / 40) == 0 {
            tree.check().unwrap();
            let (from, end) = (keys(&mut random), keys(&mut random));
            assert_range_same(&tree, &model, &from, Some(&end));
            assert_range_same(&tree, &model, &from, None);
        }
    }
    assert_same(&tree, &model);
    for (tree, model) in &snapshots {
        assert_same(tree, model);
    }
    remove_all(tree, model, &mut random);
}

fn remove_all(mut tree: Tree<Value>, mut model: Model, random: &mut Random) {
    let mut keys: Vec<Vec<u8>> = model.keys().cloned().collect();
    let mut left = keys.len();
    while !keys.is_empty() {
        let key = keys.swap_remove(usize::try_from(random.below(keys.len() as u64)).unwrap());
        assert_eq!(tree.remove(&key), model.remove(&key));
        if keys.len() * 4 < left * 3 {
            left = keys.len();
            assert_same(&tree, &model);
        }
    }
    assert_same(&tree, &model);
    assert!(tree.is_empty());
}

#[test]
fn a_tree_answers_as_a_sorted_map_does_and_snapshots_never_change() {
    for seed in 0..3 {
        run_against_model(seed, short_keys, 2_000);
        run_against_model(seed, numbered_keys, 20_000);
        run_against_model(seed, wild_keys, 20_000);
        run_against_model(seed, long_keys, 3_000);
    }
}

#[test]
fn ascending_and_descending_inserts_keep_every_rule() {
    for descending in [false, true] {
        let (mut tree, mut model) = (Tree::new(), Model::new());
        for number in 0..10_000_u32 {
            let number = if descending { 10_000 - number } else { number };
            let key = format!("key-{number:08}").into_bytes();
            tree.insert(&key, Value(u64::from(number)));
            model.insert(key, Value(u64::from(number)));
        }
        assert_same(&tree, &model);
        while let Some((key, value)) = if descending {
            model.pop_last()
        } else {
            model.pop_first()
        } {
            assert_eq!(tree.remove(&key), Some(value));
            if model.len() % 1_000 == 0 {
                assert_same(&tree, &model);
            }
        }
    }
}

#[test]
fn an_empty_tree_finds_nothing() {
    let mut tree = Tree::<Value>::new();
    assert_eq!(tree.get(b""), None);
    assert_eq!(tree.remove(b"a"), None);
    assert_eq!(tree.weight_range(b"", End::Unbounded), 0);
    assert_eq!(tree.weight_range(b"b", End::Key(b"a")), 0);
    assert_same(&tree, &Model::new());
    assert_same(
        &Tree::from_sorted(Vec::<(Vec<u8>, Value)>::new()),
        &Model::new(),
    );
}

#[test]
fn the_empty_key_is_a_key() {
    let mut tree = Tree::new();
    tree.insert(b"a", Value(3));
    tree.insert(b"", Value(1));
    assert_eq!(
        walk(&tree, b"", End::Unbounded),
        vec![(vec![], Value(1)), (b"a".to_vec(), Value(3))]
    );
    assert_eq!(tree.weight_range(b"", End::Key(b"\0")), 1);
    assert_eq!(tree.remove(b""), Some(Value(1)));
    assert_eq!(tree.get(b""), None);
}

#[test]
fn a_key_and_its_extension_by_zeros_are_different() {
    let keys: [&[u8]; 6] = [
        b"a",
        b"a\0",
        b"a\0\0",
        b"a\0\0\0\0",
        b"a\0\0\0\0\0",
        b"a\0\0\0\x01",
    ];
    let mut tree = Tree::new();
    for (key, number) in keys.iter().zip(0..) {
        tree.insert(key, Value(number));
    }
    for (key, number) in keys.iter().zip(0..) {
        assert_eq!(tree.get(key), Some(&Value(number)));
    }
    assert_eq!(tree.get(b"a\0\0\0"), None);
    tree.check().unwrap();
}

#[test]
fn keys_of_a_mebibyte_fit() {
    let (mut tree, mut model) = (Tree::new(), Model::new());
    for number in 0..40_u8 {
        let mut key = vec![b'k'; 1 << 20];
        key[usize::from(number) * 20_000] = number;
        tree.insert(&key, Value(u64::from(number)));
        model.insert(key, Value(u64::from(number)));
    }
    assert_same(&tree, &model);
    while let Some((key, value)) = model.pop_first() {
        assert_eq!(tree.remove(&key), Some(value));
    }
    assert_same(&tree, &model);
}

#[test]
fn a_long_key_stands_alone_between_the_halves_it_parts() {
    let (mut tree, mut model) = (Tree::new(), Model::new());
    for number in 0..LEAF_MAX {
        let key = format!("{number:03}").into_bytes();
        tree.insert(&key, Value(1));
        model.insert(key, Value(1));
    }
    let key = [b"031".as_slice(), &vec![0; LEAF_BYTES_MAX]].concat();
    tree.insert(&key, Value(1));
    model.insert(key.clone(), Value(1));
    assert_same(&tree, &model);
    assert_eq!(tree.weight_range(b"031", End::Key(b"032")), 2);
    tree.remove(&key);
    model.remove(&key);
    assert_same(&tree, &model);
}

#[test]
fn a_tree_built_from_sorted_entries_equals_one_built_by_inserts() {
    let leaf = LEAF_MAX as u64;
    for count in [
        1,
        2,
        leaf - 1,
        leaf,
        leaf + 1,
        leaf * INNER_MAX as u64,
        14 * 54 + 1,
        14 * 54 * 2 + 1,
        20_000,
    ] {
        let model: Model = (0..count)
            .map(|number| (format!("/k/{number:09}").into_bytes(), Value(number)))
            .collect();
        let tree = Tree::from_sorted(model.iter().map(|(key, value)| (key, *value)));
        assert_same(&tree, &model);
        remove_all(tree, model, &mut Random(count));
    }
}

#[test]
fn a_built_tree_takes_changes_and_long_keys() {
    for keys in [long_keys as Keys, wild_keys] {
        let mut random = Random(7);
        let mut model: Model = (0..3_000)
            .map(|_| (keys(&mut random), Value(random.next())))
            .collect();
        let mut tree = Tree::from_sorted(model.iter().map(|(key, value)| (key, *value)));
        let (before, model_before) = (tree.clone(), model.clone());
        assert_same(&tree, &model);
        for _ in 0..3_000 {
            let (key, value) = (keys(&mut random), Value(random.next()));
            assert_eq!(tree.insert(&key, value), model.insert(key, value));
            let key = keys(&mut random);
            assert_eq!(tree.remove(&key), model.remove(&key));
        }
        assert_same(&tree, &model);
        assert_same(&before, &model_before);
    }
}

#[test]
#[should_panic(expected = "keys out of order")]
fn building_refuses_keys_out_of_order() {
    let _ = Tree::from_sorted([("a", Value(0)), ("c", Value(0)), ("b", Value(0))]);
}

#[test]
#[should_panic(expected = "keys out of order")]
fn building_refuses_a_key_twice() {
    let _ = Tree::from_sorted([("a", Value(0)), ("a", Value(0))]);
}

#[test]
fn alter_sees_the_entry_and_does_what_it_returns() {
    let mut tree = Tree::new();
    tree.alter(b"a", |found| {
        assert_eq!(found, None);
        Change::Keep
    });
    assert_eq!(tree.len(), 0);
    tree.alter(b"a", |_| Change::Put(Value(1)));
    assert_eq!((tree.len(), tree.weight()), (1, 1));
    let snapshot = tree.clone();
    tree.alter(b"a", |found| {
        *found.unwrap() = Value(2);
        Change::Keep
    });
    assert_eq!((tree.len(), tree.weight()), (1, 0));
    tree.alter(b"a", |found| {
        assert_eq!(found, Some(&mut Value(2)));
        Change::Put(Value(5))
    });
    assert_eq!(
        (tree.len(), tree.weight(), tree.get(b"a")),
        (1, 1, Some(&Value(5)))
    );
    tree.alter(b"a", |_| Change::Remove);
    tree.alter(b"a", |_| Change::Remove);
    assert_eq!((tree.len(), tree.weight()), (0, 0));
    assert_eq!(snapshot.get(b"a"), Some(&Value(1)));
    tree.check().unwrap();
}

#[test]
fn a_cursor_resumes_where_it_is_sent_and_keeps_its_end() {
    let model: Model = (0..1_000_u64)
        .map(|number| (format!("{number:04}").into_bytes(), Value(number)))
        .collect();
    let tree = Tree::from_sorted(model.iter().map(|(key, value)| (key, *value)));
    let mut cursor = tree.range(b"0100", End::Key(b"0900"));
    assert_eq!(cursor.next(), Some((b"0100".as_slice(), &Value(100))));
    cursor.seek(b"0100\0");
    assert_eq!(cursor.next_value(), Some(&Value(101)));
    assert_eq!(cursor.key(), b"0101");
    cursor.seek(b"0898x");
    assert_eq!(cursor.next_value(), Some(&Value(899)));
    assert_eq!(cursor.next(), None);
    cursor.seek(b"0950");
    assert_eq!(cursor.next(), None);
    cursor.seek(b"");
    assert_eq!(cursor.next_value(), Some(&Value(0)));
}

#[test]
fn removing_gives_memory_back() {
    let model: Model = (0..50_000_u64)
        .map(|number| {
            (
                format!("/registry/{number:012}").into_bytes(),
                Value(number),
            )
        })
        .collect();
    let mut tree = Tree::from_sorted(model.iter().map(|(key, value)| (key, *value)));
    let full = tree.memory_bytes();
    for (key, value) in &model {
        if value.0 % 10 != 0 {
            tree.remove(key);
        }
    }
    tree.check().unwrap();
    assert!(
        tree.memory_bytes() * 6 < full,
        "{} of {full} bytes are left for a tenth of the keys",
        tree.memory_bytes()
    );
}

#[test]
fn a_separator_is_no_longer_than_it_must_be() {
    for (below, above, expected) in [
        ("abc", "abd", "abd"),
        ("a", "bcd", "b"),
        ("a", "abc", "ab"),
        ("", "abc", "a"),
    ] {
        let separator = separator_of(Parts(below.as_bytes(), b""), Parts(b"", above.as_bytes()));
        assert_eq!(separator, expected.as_bytes());
    }
}

#[test]
fn a_tree_can_be_read_on_other_threads() {
    fn shareable<T: Send + Sync>(_: &T) {}
    shareable(&Tree::<Value>::new());
}
