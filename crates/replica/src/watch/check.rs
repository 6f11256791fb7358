//! Does the hub contradict itself? For tests and the simulator; O(everything).

use super::history::History;
use super::hub::Hub;
use super::registry::{Registry, State};
use super::slots::Slot;

impl<V: History> Hub<V> {
    /// Asserts every relation between the parts of the hub. O(watchers); for tests and the simulator.
    pub fn check(&self) {
        assert_eq!(self.view.revision(), self.registry.revision);
        self.registry.check();
    }
}

impl Registry {
    fn check(&self) {
        let mut counted = (0, 0);
        for (slot, watcher) in self.watchers.iter() {
            let stream = self.streams.get(watcher.stream);
            assert_eq!(stream.watchers.get(&watcher.watch_id), Some(&slot));
            assert!(!stream.overtaken.contains(&watcher.watch_id));
            match watcher.state {
                State::Synced { place } => {
                    let synced = &self.interests.get(watcher.interest).synced;
                    assert_eq!(synced.get(place as usize), Some(&slot));
                }
                State::Waiting { next } => {
                    assert!(next > self.revision + 1, "waits for the past");
                    assert!(self.waiting.contains(&(next, slot)));
                    counted.0 += 1;
                }
                State::Behind { next } => {
                    assert!(next <= self.revision, "behind, but not behind {next}");
                    assert!(self.behind.contains(&(next, slot)));
                    counted.1 += 1;
                }
                State::Blocked { next } => {
                    assert!(next <= self.revision, "blocked in the future at {next}");
                    assert!(stream.blocked.contains(&slot));
                }
            }
        }
        assert_eq!(counted, (self.waiting.len(), self.behind.len()));
        for (slot, _) in self.streams.iter() {
            self.check_stream(slot);
        }
        for (_, interest) in self.interests.iter() {
            assert!(interest.members >= interest.synced.len().max(1));
            assert!(interest.hits.is_empty() && !interest.marked);
        }
        let sum = |f: fn(&super::registry::Stream) -> usize| -> usize {
            self.streams.iter().map(|(_, stream)| f(stream)).sum()
        };
        assert_eq!(self.outstanding_bytes, sum(|s| s.out_bytes));
        assert_eq!(self.overtaken, sum(|s| s.overtaken.len()));
        assert_eq!(self.behind_count, sum(|s| s.behind));
        assert_eq!(self.watchers.len(), sum(|s| s.watchers.len()));
    }

    fn check_stream(&self, slot: Slot) {
        let stream = self.streams.get(slot);
        assert_eq!(self.stream_slots.get(&stream.id), Some(&slot));
        let lagging = stream
            .watchers
            .values()
            .map(|&watcher| self.watchers.get(watcher).state)
            .filter(|state| matches!(state, State::Behind { .. } | State::Blocked { .. }))
            .count();
        assert_eq!(stream.behind, lagging);
        let runnable = stream.behind - stream.blocked.len();
        if !stream.blocked.is_empty() {
            assert!(
                stream.out_messages > 0 || runnable > 0,
                "nobody will wake the blocked watchers of {:?}",
                stream.id
            );
        }
        assert_eq!(
            stream.progress_wanted.is_some(),
            self.progress_wanted.contains(&slot)
        );
    }
}
