//! Who deleted what? A deletion carries no value that names its call, so several calls without an answer, and the end of a lease,
//! may each explain it. Each cause explains at most one deletion; an assignment that leaves none unexplained is looked for.

use std::collections::{BTreeMap, BTreeSet};

/// A revision that only deletes, and what may have caused it.
#[derive(Clone, Debug)]
pub(super) struct Deletion {
    pub revision: i64,
    /// Calls without an answer.
    pub calls: Vec<usize>,
    /// The lease of which these were all keys.
    pub lease: Option<i64>,
    /// Whether that lease can have ended there, as far as time and other calls tell.
    pub may_be_lease: bool,
}

/// What explains a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// A call without an answer.
    Call(usize),
    /// The end of a lease.
    Lease(i64),
}

/// Which leases are taken for a cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Leases {
    None,
    /// Those that can have ended there.
    Plausible,
    /// Whatever is wrong with it, as the last resort.
    Any,
}

/// A cause for each deletion, none twice; `None` where there is none left. Calls explain as many as they can, so that a lease
/// is said to have ended only where nothing else explains it; those that no lease can explain have the first choice. (A
/// bipartite matching by augmenting paths.)
pub(super) fn assign(deletions: &[Deletion]) -> Vec<Option<Cause>> {
    let mut taken = BTreeMap::new();
    let mut left: Vec<usize> = (0..deletions.len()).collect();
    left.sort_by_key(|number| deletions[*number].may_be_lease);
    for leases in [Leases::None, Leases::Plausible, Leases::Any] {
        left.retain(|number| !find(deletions, *number, leases, &mut taken, &mut BTreeSet::new()));
    }
    let mut causes = vec![None; deletions.len()];
    for (cause, number) in taken {
        causes[number] = Some(cause);
    }
    causes
}

/// Gives a deletion a cause that is free, or one whose owner can have another.
fn find(
    deletions: &[Deletion],
    number: usize,
    leases: Leases,
    taken: &mut BTreeMap<Cause, usize>,
    seen: &mut BTreeSet<Cause>,
) -> bool {
    let deletion = &deletions[number];
    let calls = deletion.calls.iter().map(|call| Cause::Call(*call));
    let may_be_lease =
        leases == Leases::Any || leases == Leases::Plausible && deletion.may_be_lease;
    let lease = deletion.lease.filter(|_| may_be_lease).map(Cause::Lease);
    for cause in calls.chain(lease) {
        if !seen.insert(cause) {
            continue;
        }
        let owner = taken.get(&cause).copied();
        if owner.is_none_or(|owner| find(deletions, owner, leases, taken, seen)) {
            taken.insert(cause, number);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deletion(calls: &[usize], lease: Option<i64>) -> Deletion {
        Deletion {
            revision: 0,
            calls: calls.to_vec(),
            lease,
            may_be_lease: lease.is_some(),
        }
    }

    #[test]
    fn a_call_that_explains_two_deletions_is_left_to_the_one_that_has_no_other() {
        let causes = assign(&[deletion(&[1, 2], Some(7)), deletion(&[1], Some(8))]);
        assert_eq!(causes, [Some(Cause::Call(2)), Some(Cause::Call(1))]);
    }

    #[test]
    fn a_lease_that_lives_on_did_not_end_although_it_could_explain_a_deletion() {
        let lives_on = Deletion {
            may_be_lease: false,
            ..deletion(&[1], Some(8))
        };
        let causes = assign(&[deletion(&[1], Some(7)), lives_on]);
        assert_eq!(causes, [Some(Cause::Lease(7)), Some(Cause::Call(1))]);
    }

    #[test]
    fn nothing_is_moved_to_a_lease_that_lives_on_while_another_can_have_ended() {
        let lives_on = Deletion {
            may_be_lease: false,
            ..deletion(&[1], Some(54))
        };
        let causes = assign(&[
            lives_on,
            deletion(&[1, 2], Some(101)),
            deletion(&[1, 2], None),
        ]);
        assert_eq!(causes[0], Some(Cause::Call(1)));
        assert_eq!(causes[1], Some(Cause::Lease(101)));
    }

    #[test]
    fn a_lease_ends_where_no_call_is_left_and_only_once() {
        let causes = assign(&[
            deletion(&[1], None),
            deletion(&[1], Some(7)),
            deletion(&[], Some(7)),
        ]);
        assert_eq!(causes[0], Some(Cause::Call(1)));
        assert_eq!(causes[1..].iter().flatten().count(), 1, "{causes:?}");
    }
}
