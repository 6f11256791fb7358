//! Linearizable reads: one round of raft for all that wait.
//!
//! ```text
//! waiting --(round starts)--> round --(index known)--> confirmed --(applied >= index)--> answered
//! ```
//! A read that arrives while a round is under way waits for the next one: the running round may have been confirmed by
//! the others before the read began. A round that does not come back is asked again with a context of its own, because
//! raft drops the question while there is no leader, or none that has committed in its term.

use std::collections::VecDeque;

use bytes::Bytes;
use storage::planted;

use crate::{Now, Ticket};

/// How long a round may take before it is asked again. Source: upstream `readIndexRetryTime`.
const RETRY_US: u64 = 500_000;

/// What a read that has become answerable was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Only the certainty that the published view is fresh.
    Barrier,
    /// To keep this lease alive, which only a leader whose leadership is confirmed may do.
    LeaseRenew(i64),
    /// To learn how long this lease still has.
    LeaseTime(i64),
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    ticket: Ticket,
    wanted: Wanted,
    deadline_us: u64,
}

#[derive(Debug)]
struct Round {
    context: u64,
    asked_us: u64,
    reads: Vec<Waiting>,
}

/// All reads of this member that are not answered yet.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: Vec<Waiting>,
    round: Option<Round>,
    confirmed: VecDeque<(u64, Vec<Waiting>)>,
    /// In all three stages together.
    count: usize,
}

impl Reads {
    pub fn add(&mut self, ticket: Ticket, wanted: Wanted, deadline_us: u64) {
        self.count += 1;
        let waiting = match &mut self.round {
            Some(running) if planted!(ReadJoinsRunningRound) => &mut running.reads,
            _ => &mut self.waiting,
        };
        waiting.push(Waiting {
            ticket,
            wanted,
            deadline_us,
        });
    }

    /// Reads that are not answered yet, those that only wait for the state to catch up included: a slow apply must not let them
    /// pile up without bound.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether a round should be asked for now: the first one, or one that is overdue.
    pub fn wants_round(&self, now: Now) -> bool {
        match &self.round {
            None => !self.waiting.is_empty(),
            Some(round) => now.monotonic_us >= round.asked_us + RETRY_US,
        }
    }

    /// Starts (or asks again) a round under a context that was never used before.
    pub fn start_round(&mut self, now: Now, context: u64) -> Vec<u8> {
        let mut reads = self.round.take().map(|r| r.reads).unwrap_or_default();
        reads.append(&mut self.waiting);
        self.round = Some(Round {
            context,
            asked_us: now.monotonic_us,
            reads,
        });
        context.to_be_bytes().to_vec()
    }

    /// A round came back: its reads may be answered once `index` is applied. Late answers to earlier contexts are ignored.
    pub fn confirm(&mut self, context: &Bytes, index: u64) {
        let expected = self.round.as_ref().map(|r| r.context.to_be_bytes());
        if expected.as_ref().map(|c| &c[..]) != Some(&context[..]) {
            return;
        }
        let round = self.round.take().expect("a round whose context matched");
        self.confirmed.push_back((index, round.reads));
    }

    /// Reads whose index has been applied.
    pub fn take_ready(&mut self, applied: u64) -> Vec<(Ticket, Wanted)> {
        let mut ready = Vec::new();
        while self
            .confirmed
            .front()
            .is_some_and(|(index, _)| *index <= applied || planted!(ReadBeforeItIsApplied))
        {
            let (_, reads) = self.confirmed.pop_front().expect("the front was just seen");
            ready.extend(reads.into_iter().map(|r| (r.ticket, r.wanted)));
        }
        self.count -= ready.len();
        ready
    }

    /// The leader changed: whoever waits for a round is told to try again. Source: upstream `errLeaderChanged`.
    pub fn leader_changed(&mut self) -> Vec<Ticket> {
        let round = self.round.take().map(|r| r.reads).unwrap_or_default();
        self.count -= round.len();
        round.iter().map(|r| r.ticket).collect()
    }

    /// Reads whose time is up.
    pub fn expire(&mut self, now: Now) -> Vec<Ticket> {
        let mut expired = Vec::new();
        let mut keep = |reads: &mut Vec<Waiting>| {
            reads.retain(|read| {
                let alive = read.deadline_us > now.monotonic_us;
                if !alive {
                    expired.push(read.ticket);
                }
                alive
            });
        };
        keep(&mut self.waiting);
        if let Some(round) = &mut self.round {
            keep(&mut round.reads);
        }
        for (_, reads) in &mut self.confirmed {
            keep(reads);
        }
        self.count -= expired.len();
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Now {
        Now { monotonic_us: us }
    }

    #[test]
    fn a_read_that_arrives_during_a_round_waits_for_the_next() {
        let mut reads = Reads::default();
        reads.add(Ticket(1), Wanted::Barrier, 1000);
        let context = Bytes::from(reads.start_round(at(0), 7));
        reads.add(Ticket(2), Wanted::Barrier, 1000);
        reads.confirm(&context, 5);
        assert!(reads.take_ready(4).is_empty());
        assert_eq!(reads.take_ready(5), vec![(Ticket(1), Wanted::Barrier)]);
        assert!(reads.wants_round(at(1)));
    }

    #[test]
    fn an_answer_to_an_earlier_context_confirms_nothing() {
        let mut reads = Reads::default();
        reads.add(Ticket(1), Wanted::Barrier, u64::MAX);
        let old = Bytes::from(reads.start_round(at(0), 7));
        assert!(reads.wants_round(at(RETRY_US)));
        reads.start_round(at(RETRY_US), 8);
        reads.confirm(&old, 5);
        assert!(reads.take_ready(u64::MAX).is_empty());
    }

    #[test]
    fn every_read_counts_until_it_is_answered() {
        let mut reads = Reads::default();
        (1..=4).for_each(|n| reads.add(Ticket(n), Wanted::Barrier, if n == 4 { 10 } else { 99 }));
        let context = Bytes::from(reads.start_round(at(0), 7));
        reads.confirm(&context, 5);
        assert_eq!(reads.len(), 4, "confirmed, but not applied");
        assert_eq!(reads.expire(at(10)), vec![Ticket(4)]);
        assert_eq!(reads.len(), 3);
        assert_eq!(reads.take_ready(5).len(), 3);
        reads.add(Ticket(5), Wanted::Barrier, 99);
        reads.start_round(at(11), 8);
        assert_eq!(reads.len(), 1);
        assert_eq!(reads.leader_changed(), vec![Ticket(5)]);
        assert_eq!(reads.len(), 0);
    }

    #[test]
    fn reads_expire_wherever_they_wait() {
        let mut reads = Reads::default();
        reads.add(Ticket(1), Wanted::Barrier, 10);
        let context = Bytes::from(reads.start_round(at(0), 7));
        reads.confirm(&context, 99);
        reads.add(Ticket(2), Wanted::Barrier, 10);
        assert_eq!(reads.expire(at(10)), vec![Ticket(2), Ticket(1)]);
    }
}
