//! Whether a member with an empty log is a new one, or one that has lost what it held.
//!
//! A member that promised to hold entries, or voted, and forgets it, breaks what the others rely on: it could vote a second time in a
//! term, help to elect one who lacks what it helped to commit, or confirm a leader that is none. Its log cannot tell it: that of a new
//! member is as empty. So a member whose log holds nothing but what every founder writes itself takes part among its equals
//! only. Whoever shows that the cluster has a past is not heard before the others were asked whether this member was part of it.
//!
//! ```text
//!   log as at a founding --a leader or a candidate with more--> ask --> nobody knows it: go on
//!            |                                                     |--> it has started before: stop, and say what to do
//!            | elects, or follows whom it elected                  `--> too few answer: say nothing, ask again
//!            v
//!   log with an entry of a leader: settled, also after a restart
//! ```
//! What a member did is known by its client URLs: it publishes them when it has taken the first entry of a leader. Its name is no sign:
//! founders know each other's from the start. See decision 0010 for what this can't notice.

use proto::raftpb::{Message, MessageType};
use state::membership::Member;
use storage::fault::{Fault, FaultKind};

use crate::MemberId;

/// What the others know of a member that has nothing in its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Past {
    /// It has never taken part, or nothing depends on what it held: it is new.
    Nothing,
    /// It has taken part before, and what it held is lost.
    Started,
    /// Too few answer to tell.
    #[default]
    Unknown,
}

/// Judges by the lists of members that other members gave (etcd's `GET /members` on the peer port), each with who gave it.
///
/// That a member has started is committed before it may matter, so a quorum knows it, perhaps with the lost member in it. Therefore
/// "no" counts only from so many voters that every quorum with this member in it has another one among them.
#[must_use]
pub fn judge(me: MemberId, answers: &[(MemberId, Vec<Member>)]) -> Past {
    let of_me = |members: &&Member| members.id == me.0;
    let known = || {
        answers
            .iter()
            .filter_map(|(_, list)| list.iter().find(of_me))
    };
    if known().any(|member| !member.client_urls.is_empty()) {
        return Past::Started;
    }
    // Nobody counts what a learner holds.
    if known().any(|member| member.is_learner) {
        return Past::Nothing;
    }
    let voters = |list: &Vec<Member>| {
        list.iter()
            .filter(|m| !m.is_learner || m.id == me.0)
            .count()
    };
    let count = answers.iter().map(|(_, list)| voters(list)).max();
    let Some(count) = count.filter(|count| *count > 0) else {
        return Past::Unknown;
    };
    let quorum = count / 2 + 1;
    let is_voter = |(who, list): &&(MemberId, Vec<Member>)| {
        *who != me
            && list
                .iter()
                .any(|member| member.id == who.0 && !member.is_learner)
    };
    match answers.iter().filter(is_voter).count() > count - quorum {
        true => Past::Nothing,
        false => Past::Unknown,
    }
}

/// What a member says that has lost what it held.
pub(crate) fn lost(me: MemberId) -> Fault {
    Fault::new(
        FaultKind::Gap,
        format!(
            "the cluster knows this member ({:x}) as one that has started before, but its data directory is empty: its log is lost, and \
             with an empty one it could vote twice. Remove the member from the cluster (member remove), then add it again (member add) \
             and start it with an empty data directory and --initial-cluster-state=existing.",
            me.0
        ),
    )
}

/// Whether a message to a member whose log is as at a founding shows that the cluster has a past. `vote` is whom this member has voted
/// for in its `term`: of that one it knows that it had a log like its own.
pub(crate) fn is_shown(message: &Message, term: u64, vote: u64) -> bool {
    use MessageType as T;
    match message.r#type() {
        T::MsgVote | T::MsgPreVote => message.log_term() > FOUNDING_TERM,
        T::MsgApp | T::MsgHeartbeat | T::MsgSnap | T::MsgTimeoutNow => {
            (message.from(), message.term()) != (vote, term)
        }
        _ => false,
    }
}

/// The term of the entries that every founder writes itself. No leader has it.
pub(crate) const FOUNDING_TERM: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    /// Members 1 to 3, of which `me` (3) has published this, and has this role. All know each other's names, as founders do.
    fn list(client_url: &str, is_learner: bool) -> Vec<Member> {
        let member = |id: u64| Member {
            id,
            name: format!("m{id}"),
            ..Member::default()
        };
        let published = (!client_url.is_empty()).then(|| client_url.to_owned());
        let me = Member {
            client_urls: published.into_iter().collect(),
            is_learner,
            ..member(3)
        };
        vec![member(1), member(2), me]
    }

    fn judged(answers: &[(u64, Vec<Member>)]) -> Past {
        let answers: Vec<_> = answers
            .iter()
            .map(|(who, list)| (MemberId(*who), list.clone()))
            .collect();
        judge(MemberId(3), &answers)
    }

    #[test]
    fn one_who_knows_what_it_published_is_enough() {
        let answers = [(1, list("", false)), (2, list("http://m3", false))];
        assert_eq!(judged(&answers), Past::Started);
        assert_eq!(judged(&answers[1..]), Past::Started);
    }

    #[test]
    fn a_new_member_needs_one_of_every_quorum_that_it_may_have_been_in() {
        let answers = [(1, list("", false)), (2, list("", false))];
        assert_eq!(judged(&answers), Past::Nothing);
        assert_eq!(judged(&answers[..1]), Past::Unknown);
        assert_eq!(judged(&[]), Past::Unknown);
        // Of two members the other one is in every quorum.
        let pair = vec![list("", false)[0].clone(), list("", false)[2].clone()];
        assert_eq!(judged(&[(1, pair)]), Past::Nothing);
    }

    #[test]
    fn what_a_learner_held_does_not_matter() {
        assert_eq!(judged(&[(1, list("", true))]), Past::Nothing);
        // A learner that had started is not let in with an empty log either: whoever promotes it would count on what it had.
        assert_eq!(judged(&[(1, list("http://m3", true))]), Past::Started);
    }

    #[test]
    fn what_a_learner_says_is_no_answer_of_a_quorum() {
        let mut members = list("", false);
        members[1].is_learner = true;
        members.push(Member {
            id: 4,
            ..Member::default()
        });
        let answers = [(1, members.clone()), (2, members)];
        assert_eq!(judged(&answers), Past::Unknown);
    }

    #[test]
    fn an_equal_candidate_and_the_leader_it_became_show_no_past() {
        let message = |kind: MessageType, log_term| Message {
            r#type: Some(kind as i32),
            from: Some(2),
            term: Some(5),
            log_term: Some(log_term),
            ..Message::default()
        };
        let shown = |kind, log_term, vote| is_shown(&message(kind, log_term), 5, vote);
        assert!(!shown(MessageType::MsgVote, 1, 0) && shown(MessageType::MsgVote, 4, 0));
        assert!(!shown(MessageType::MsgApp, 1, 2) && shown(MessageType::MsgApp, 1, 1));
        assert!(shown(MessageType::MsgHeartbeat, 0, 0));
        assert!(!shown(MessageType::MsgVoteResp, 0, 0));
    }
}
