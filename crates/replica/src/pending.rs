//! Proposals on their way: which call waits for which request id, and until when.

use std::collections::{BTreeMap, VecDeque};

use crate::{Now, Ticket};

/// Calls that wait for their proposal to be applied. Bounded by the admission of the replica, which asks [`Pending::len`].
#[derive(Debug, Default)]
pub(crate) struct Pending {
    waiting: BTreeMap<u64, Ticket>,
    /// In order of deadline, since all wait equally long. May name ids that are already answered.
    deadlines: VecDeque<(u64, u64)>,
}

impl Pending {
    pub fn insert(&mut self, id: u64, ticket: Ticket, deadline_us: u64) {
        let before = self.waiting.insert(id, ticket);
        assert!(before.is_none(), "request id {id:x} is already in flight");
        self.deadlines.push_back((deadline_us, id));
    }

    /// The call that waits for this request, if it came through this member and still waits.
    pub fn take(&mut self, id: u64) -> Option<Ticket> {
        self.waiting.remove(&id)
    }

    /// Removes and returns the calls whose time is up.
    pub fn expire(&mut self, now: Now) -> Vec<Ticket> {
        let mut expired = Vec::new();
        while let Some(&(deadline, id)) = self.deadlines.front() {
            if deadline > now.monotonic_us && self.waiting.contains_key(&id) {
                break;
            }
            self.deadlines.pop_front();
            expired.extend(self.waiting.remove(&id));
        }
        expired
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Now {
        Now { monotonic_us: us }
    }

    #[test]
    fn a_call_expires_at_its_deadline_and_not_before() {
        let mut pending = Pending::default();
        pending.insert(1, Ticket(10), 100);
        pending.insert(2, Ticket(20), 200);
        assert!(pending.expire(at(99)).is_empty());
        assert_eq!(pending.expire(at(100)), vec![Ticket(10)]);
        assert_eq!(pending.take(1), None);
        assert_eq!(pending.take(2), Some(Ticket(20)));
    }

    #[test]
    fn answered_calls_do_not_pile_up_in_the_deadlines() {
        let mut pending = Pending::default();
        for id in 0..100 {
            pending.insert(id, Ticket(id), 1000);
            pending.take(id);
        }
        assert!(pending.expire(at(1)).is_empty());
        assert_eq!((pending.len(), pending.deadlines.len()), (0, 0));
    }
}
