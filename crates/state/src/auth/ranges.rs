//! What a user's roles come to: the keys that may be read, and those that may be written.
//!
//! etcd keeps the intervals of all permissions in a tree and asks whether they cover the range of a request. For a range from a key
//! to a larger one that is the same as asking whether one of the joined intervals holds it, which is what is done here. The rest
//! (ranges that end before they begin) goes to [`super::odd`].

use std::cmp::Ordering;

use proto::authpb::{self, permission::Type};

use super::odd;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Keys from `begin` up to but not including `end`, compared as [`affine`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub begin: Vec<u8>,
    pub end: Vec<u8>,
}

/// The permissions of one user, merged.
#[derive(Clone, Default)]
pub(super) struct Granted {
    read: Ranges,
    write: Ranges,
}

#[derive(Clone, Default)]
struct Ranges {
    /// As the roles list them, which is the order in which etcd builds its tree.
    listed: Vec<Interval>,
    /// Joined and ascending. `None` if an interval ends before it begins, as 3.5.1 let them be granted.
    joined: Option<Vec<Interval>>,
}

impl Interval {
    /// The range of a request or permission: a key, a range, or everything from a key on.
    pub(super) fn new(key: &[u8], range_end: &[u8]) -> Interval {
        let end = match range_end {
            [] => [key, &[0]].concat(),
            [0] => Vec::new(),
            end => end.to_vec(),
        };
        Interval {
            begin: key.to_vec(),
            end,
        }
    }

    fn is_proper(&self) -> bool {
        affine(&self.begin, &self.end).is_lt()
    }
}

/// Compares bounds: no bytes at all stand for the end of all keys. Source: upstream `pkg/adt`, `BytesAffineComparable`.
pub(super) fn affine(a: &[u8], b: &[u8]) -> Ordering {
    match (a, b) {
        ([], []) => Ordering::Equal,
        ([], _) => Ordering::Greater,
        (_, []) => Ordering::Less,
        (a, b) => a.cmp(b),
    }
}

impl Granted {
    /// Of all these permissions, role by role in the user's order.
    pub(super) fn of<'a>(permissions: impl Iterator<Item = &'a authpb::Permission>) -> Granted {
        let (mut read, mut write) = (Vec::new(), Vec::new());
        for permission in permissions {
            let interval = Interval::new(&permission.key, &permission.range_end);
            match Type::try_from(permission.perm_type) {
                Ok(Type::Readwrite) => {
                    read.push(interval.clone());
                    write.push(interval);
                }
                Ok(Type::Read) => read.push(interval),
                Ok(Type::Write) => write.push(interval),
                // A type of a later version permits nothing, as in etcd.
                Err(_) => {}
            }
        }
        Granted {
            read: Ranges::of(read),
            write: Ranges::of(write),
        }
    }

    /// Whether all keys from `key` to `range_end` may be accessed, in etcd's convention for the end. `is_3_7` matters only for odd
    /// ranges.
    pub(super) fn covers(
        &self,
        access: Access,
        key: &[u8],
        range_end: &[u8],
        is_3_7: bool,
    ) -> bool {
        let ranges = match access {
            Access::Read => &self.read,
            Access::Write => &self.write,
        };
        let asked = Interval::new(key, range_end);
        match &ranges.joined {
            Some(joined) if asked.is_proper() => holds(joined, &asked),
            _ => {
                let tree = odd::Tree::of(&ranges.listed, is_3_7);
                if range_end.is_empty() {
                    tree.intersects(&asked)
                } else {
                    tree.contains(&asked)
                }
            }
        }
    }
}

impl Ranges {
    fn of(listed: Vec<Interval>) -> Ranges {
        let joined = listed
            .iter()
            .all(Interval::is_proper)
            .then(|| join(&listed));
        Ranges { listed, joined }
    }
}

/// The same keys in as few intervals as possible, ascending.
fn join(listed: &[Interval]) -> Vec<Interval> {
    let mut sorted = listed.to_vec();
    sorted.sort_by(|a, b| affine(&a.begin, &b.begin));
    let mut joined: Vec<Interval> = Vec::new();
    for interval in sorted {
        match joined.last_mut() {
            Some(last) if affine(&interval.begin, &last.end).is_le() => {
                if affine(&interval.end, &last.end).is_gt() {
                    last.end = interval.end;
                }
            }
            _ => joined.push(interval),
        }
    }
    joined
}

fn holds(joined: &[Interval], asked: &Interval) -> bool {
    let after = joined.partition_point(|interval| affine(&interval.begin, &asked.begin).is_le());
    after > 0 && affine(&asked.end, &joined[after - 1].end).is_le()
}
