//! Reading history for those who are behind: one bounded slice per turn, shared by all watchers it passes.
//!
//! Cursors are sorted. A turn reads from the next cursor above the last slice's end (or from the lowest, when there is none
//! above), and every watcher whose cursor lies within the slice takes part and moves to its end. So watchers far apart
//! take turns, and watchers that meet stay together and share one scan from then on.

use storage::fault::Fault;

use super::api::Effect;
use super::encode::Batch;
use super::history::{Event, History};
use super::hub::Hub;
use super::index::Span;
use super::registry::Registry;
use super::slots::Slot;

/// Cancellations for compaction in one turn.
const CANCELS_MAX: usize = 1024;

/// With up to so many interests in a slice, each event is compared with each; with more, the index is asked.
const COMPARED_MAX: usize = 8;

/// A watcher in a slice of catch-up, ordered so that those that share their events are neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Participant {
    interest: Slot,
    next: i64,
    watcher: Slot,
}

impl<V: History> Hub<V> {
    /// One slice.
    pub(super) fn catch_up(&mut self, effects: &mut Vec<Effect>) -> Result<(), Fault> {
        let registry = &mut self.registry;
        let compacted = self.view.compact_revision();
        registry.cancel_all_overtaken(compacted, effects);
        let Some(from) = registry.next_cursor() else {
            return Ok(());
        };
        if from < compacted {
            return Ok(());
        }
        let (to, limits) = (registry.revision, &registry.limits);
        let (events, next) = self.view.events(
            from,
            to,
            limits.slice_events.max(1),
            limits.slice_bytes.max(1),
        )?;
        assert!(
            from < next && next <= to + 1,
            "a slice from {from} ends before {next}, beyond {to}"
        );
        let mut batch = Batch::new(&events, &self.view, limits.message_bytes);
        let participants = registry.take_participants(from, next);
        registry.swept = from..next;
        registry.deliver_slice(&mut batch, &participants, next, effects)?;
        Ok(())
    }
}

impl Registry {
    /// The cursor whose turn it is.
    fn next_cursor(&self) -> Option<i64> {
        let at_or_above = |revision| Some(self.behind.range((revision, 0)..).next()?.0);
        let lowest = self.behind.first()?.0;
        let Some(above) = at_or_above(self.swept.end.saturating_add(1)) else {
            return Some(lowest);
        };
        // Those who were just served go on at once if that takes them past the next ones, who then join them.
        let reach = self
            .swept
            .end
            .saturating_add(self.swept.end - self.swept.start);
        if above < reach {
            return at_or_above(self.swept.end);
        }
        Some(above)
    }

    /// A watcher that needs a revision below the compaction can't have it. One that starts exactly there can, deletes
    /// included (etcd #19179).
    fn cancel_all_overtaken(&mut self, compacted: i64, effects: &mut Vec<Effect>) {
        for _ in 0..CANCELS_MAX {
            let Some(&(next, slot)) = self.behind.first() else {
                return;
            };
            if next >= compacted {
                return;
            }
            let stream = self.watchers.get(slot).stream;
            if self.has_credit(self.streams.get(stream)) {
                self.cancel_overtaken(slot, compacted, effects);
            } else {
                self.unsettle(slot);
                self.block(slot, next);
            }
        }
    }

    /// Takes the watchers with cursors from `from` to before `to` out of the set, sorted by interest.
    fn take_participants(&mut self, from: i64, to: i64) -> Vec<Participant> {
        let taken: Vec<(i64, Slot)> = self.behind.range((from, 0)..(to, 0)).copied().collect();
        let mut participants = Vec::with_capacity(taken.len());
        for (next, watcher) in taken {
            self.unsettle(watcher);
            participants.push(Participant {
                interest: self.watchers.get(watcher).interest,
                next,
                watcher,
            });
        }
        participants.sort_unstable();
        participants
    }

    /// Delivers the events of a slice that ends before `next`, and puts every participant where its cursor is then.
    fn deliver_slice<V: History>(
        &mut self,
        batch: &mut Batch<V>,
        participants: &[Participant],
        next: i64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Fault> {
        self.find_hits(batch.events(), participants);
        for group in participants.chunk_by(|a, b| (a.interest, a.next) == (b.interest, b.next)) {
            let first = group[0];
            let interest = self.interests.get(first.interest);
            let due = interest
                .hits
                .partition_point(|&hit| batch.revision(hit) < first.next);
            let chunks = batch.encode(&interest.hits[due..], interest.key.prev_kv)?;
            for participant in group {
                let header = Some(self.revision);
                match self.deliver_chunks(participant.watcher, &chunks, header, effects) {
                    None => self.settle(participant.watcher, next),
                    Some(blocked_at) => self.block(participant.watcher, blocked_at),
                }
            }
        }
        for participant in participants {
            let interest = self.interests.get_mut(participant.interest);
            interest.hits.clear();
            interest.marked = false;
            let stream = self.watchers.get(participant.watcher).stream;
            self.unblock(stream);
            self.answer_progress(stream, effects);
        }
        Ok(())
    }

    /// Notes at each participating interest which events it is due.
    fn find_hits(&mut self, events: &[Event], participants: &[Participant]) {
        let mut interests: Vec<Slot> = participants.iter().map(|p| p.interest).collect();
        interests.dedup();
        for &slot in &interests {
            self.interests.get_mut(slot).marked = true;
        }
        // The spans are copied (two handles each), so that the interests can be changed meanwhile.
        let few: Vec<(Slot, Span)> = interests
            .iter()
            .take(COMPARED_MAX)
            .map(|&slot| (slot, self.interests.get(slot).key.span.clone()))
            .collect();
        for (n, event) in (0u32..).zip(events) {
            let all = &mut self.interests;
            let mut hit = |slot: Slot| {
                let interest = all.get_mut(slot);
                if interest.marked && interest.key.accepts(event.kind) {
                    interest.hits.push(n);
                }
            };
            if interests.len() > COMPARED_MAX {
                self.index.stab(&event.key, hit);
            } else {
                for (slot, span) in &few {
                    if span.holds(&event.key) {
                        hit(*slot);
                    }
                }
            }
        }
    }
}
