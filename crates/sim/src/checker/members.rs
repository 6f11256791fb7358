//! Rule 8: a list of members is one that there was, neither older than what was known before the call nor newer than the answer.

use proto::etcdserverpb as pb;

use super::Findings;
use super::history::{History, Outcome};

/// Checks all answered lists. Lists in the log may repeat; then the answer may be any of them, and proves the earliest only.
pub(super) fn check(history: &History, findings: &mut Findings) {
    // What was certainly known at a time: (when, place in the log).
    let mut floors: Vec<(u64, usize)> = history
        .member_changes
        .iter()
        .filter_map(|(answered_us, index)| {
            let place = history
                .members
                .iter()
                .rposition(|list| list.index <= *index)?;
            Some((*answered_us, place))
        })
        .collect();
    let answered = |(number, op): (usize, &super::history::Op)| match &op.outcome {
        Outcome::Members(list) => Some((number, op.call_us, op.return_us?, list.clone())),
        _ => None,
    };
    let lists: Vec<_> = history
        .ops
        .iter()
        .enumerate()
        .filter_map(answered)
        .collect();
    let mut judged = Vec::new();
    for (number, call_us, return_us, list) in lists {
        let places = places_of(history, &list, return_us);
        let (Some(first), Some(last)) = (places.first(), places.last()) else {
            findings.add(
                "members: never so",
                format!("call {number} was told of members that there never were: {list:?}"),
            );
            continue;
        };
        floors.push((return_us, *first));
        judged.push((number, call_us, *last));
    }
    for (number, call_us, last) in judged {
        let known = floors.iter().filter(|(when, _)| *when < call_us);
        if let Some(floor) = known
            .map(|(_, place)| *place)
            .max()
            .filter(|floor| last < *floor)
        {
            findings.add(
                "members: stale",
                format!(
                    "call {number} was told of the members of entry {}, but those of entry {} were known before it",
                    history.members[last].index, history.members[floor].index
                ),
            );
        }
    }
}

/// Where in the log of members this list stands, as far as anybody could have seen it.
fn places_of(history: &History, list: &[pb::Member], return_us: u64) -> Vec<usize> {
    let is_it =
        |known: &super::history::MemberList| known.members == list && known.seen_us <= return_us;
    let places = history.members.iter().enumerate();
    places
        .filter(|(_, known)| is_it(known))
        .map(|(place, _)| place)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::history::{MemberList, Op, Request};
    use super::*;

    fn list(ids: &[u64]) -> Vec<pb::Member> {
        let member = |id: &u64| pb::Member {
            id: *id,
            ..Default::default()
        };
        ids.iter().map(member).collect()
    }

    fn op(call_us: u64, return_us: u64, ids: &[u64]) -> Op {
        Op {
            call_us,
            return_us: Some(return_us),
            member: 1,
            request: Request::Members,
            outcome: Outcome::Members(list(ids)),
        }
    }

    fn rules(ops: Vec<Op>) -> Vec<&'static str> {
        let known = |index, seen_us, ids: &[u64]| MemberList {
            index,
            seen_us,
            members: list(ids),
        };
        let history = History {
            ops,
            members: vec![known(3, 0, &[1, 2, 3]), known(9, 50, &[1, 2])],
            member_changes: vec![(60, 9)],
            ..History::default()
        };
        let mut findings = Findings::default();
        check(&history, &mut findings);
        findings.0.iter().map(|found| found.rule).collect()
    }

    #[test]
    fn a_list_may_be_as_old_as_the_last_answer_before_the_call() {
        assert!(rules(vec![op(10, 20, &[1, 2, 3]), op(55, 70, &[1, 2, 3])]).is_empty());
        assert!(rules(vec![op(61, 70, &[1, 2])]).is_empty());
        assert_eq!(rules(vec![op(61, 70, &[1, 2, 3])]), ["members: stale"]);
        let seen_by_another = vec![op(50, 52, &[1, 2]), op(53, 55, &[1, 2, 3])];
        assert_eq!(rules(seen_by_another), ["members: stale"]);
    }

    #[test]
    fn a_list_that_never_was_or_not_yet_is_found() {
        assert_eq!(rules(vec![op(10, 20, &[2, 3])]), ["members: never so"]);
        assert_eq!(rules(vec![op(10, 20, &[1, 2])]), ["members: never so"]);
    }
}
