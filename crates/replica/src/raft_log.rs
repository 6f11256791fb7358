//! The part of the raft log that raft may still ask for, in memory.
//!
//! Durability is the write-ahead log's business ([`storage::wal`]); this is its readable shadow. It starts at a base
//! position whose term is known and whose entry is gone, as after a checkpoint, and is cut from the front by [`RaftLog::cut`].

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

/// Entries `base.0 + 1 ..= last`, without gaps.
#[derive(Debug, Default)]
pub struct RaftLog {
    hard_state: HardState,
    conf_state: ConfState,
    /// Index and term of the position just before the first entry.
    base: (u64, u64),
    entries: VecDeque<Entry>,
    bytes: u64,
    /// Index and term of the newest entry that the state has applied: what a snapshot made now stands for, at least.
    applied: (u64, u64),
}

impl RaftLog {
    /// What recovery found: `entries` must follow `base` without a gap.
    pub fn new(
        hard_state: HardState,
        conf_state: ConfState,
        base: (u64, u64),
        entries: Vec<Entry>,
    ) -> Self {
        let mut log = RaftLog {
            hard_state,
            conf_state,
            base,
            ..RaftLog::default()
        };
        log.append(&entries);
        log
    }

    /// Adds entries, replacing any conflicting tail, exactly as the write-ahead log is told to.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let last = self.base.0 + self.entries.len() as u64;
        assert!(
            first.index > self.base.0,
            "append at {} at or below the base {}",
            first.index,
            self.base.0
        );
        assert!(
            first.index <= last + 1,
            "append at {} leaves a gap after {last}",
            first.index
        );
        while self.base.0 + self.entries.len() as u64 >= first.index {
            let dropped = self
                .entries
                .pop_back()
                .expect("the tail being replaced is not empty");
            self.bytes -= size(&dropped);
        }
        for entry in entries {
            self.bytes += size(entry);
            self.entries.push_back(entry.clone());
        }
    }

    /// Begins again behind a snapshot: nothing of before counts.
    pub fn restart(&mut self, index: u64, term: u64) {
        self.entries.clear();
        self.bytes = 0;
        self.base = (index, term);
    }

    /// The state has applied everything up to this entry.
    pub fn set_applied(&mut self, index: u64, term: u64) {
        self.applied = (index, term);
    }

    /// Forgets everything up to and including `index`.
    pub fn cut(&mut self, index: u64) {
        while self.base.0 < index {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            assert_eq!(entry.index, self.base.0 + 1, "the log is contiguous");
            self.bytes -= size(&entry);
            self.base = (entry.index, entry.term);
        }
    }

    /// The highest index that may be cut so that at most `bytes` remain in memory.
    pub fn index_for_bytes(&self, bytes: u64) -> u64 {
        let mut left = self.bytes;
        let mut index = self.base.0;
        for entry in &self.entries {
            if left <= bytes {
                break;
            }
            left -= size(entry);
            index = entry.index;
        }
        index
    }

    /// Index of the last entry, or of the base when there is none.
    pub fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    fn position(&self, index: u64) -> usize {
        (index - self.base.0 - 1) as usize
    }
}

fn size(entry: &Entry) -> u64 {
    entry.data.len() as u64 + 64
}

impl Storage for RaftLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(
            self.hard_state.clone(),
            self.conf_state.clone(),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        assert!(
            high <= self.last() + 1,
            "entries up to {high} asked, the log ends at {}",
            self.last()
        );
        let max = max_size.into().unwrap_or(u64::MAX);
        let mut taken = Vec::with_capacity((high - low).min(1024) as usize);
        let mut bytes = 0;
        for entry in self.entries.range(self.position(low)..self.position(high)) {
            bytes += size(entry);
            if bytes > max && !taken.is_empty() {
                break;
            }
            taken.push(entry.clone());
        }
        Ok(taken)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.0 {
            return Ok(self.base.1);
        }
        if index < self.base.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        match self.entries.get(self.position(index)) {
            Some(entry) => Ok(entry.term),
            None => Err(Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let (index, term) = self.applied;
        if index == 0 || index < self.base.0 {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        // A promise only: the rows, and the configuration, are added by who sends them.
        let metadata = SnapshotMetadata {
            index,
            term,
            ..SnapshotMetadata::default()
        };
        let mut snapshot = Snapshot::default();
        snapshot.set_metadata(metadata);
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            index,
            term,
            data: vec![0; 10].into(),
            ..Entry::default()
        }
    }

    fn log() -> RaftLog {
        RaftLog::new(
            HardState::default(),
            ConfState::default(),
            (4, 2),
            vec![entry(5, 2), entry(6, 2), entry(7, 3)],
        )
    }

    #[test]
    fn the_base_has_a_term_and_no_entry() {
        let log = log();
        assert_eq!(log.term(4).expect("base"), 2);
        assert!(matches!(
            log.term(3),
            Err(Error::Store(StorageError::Compacted))
        ));
        assert!(
            log.entries(4, 6, None, GetEntriesContext::empty(false))
                .is_err()
        );
    }

    #[test]
    fn a_conflicting_append_replaces_the_tail() {
        let mut log = log();
        log.append(&[entry(6, 4)]);
        assert_eq!((log.last(), log.term(6).expect("replaced")), (6, 4));
    }

    #[test]
    fn cutting_keeps_the_term_of_the_last_entry_cut() {
        let mut log = log();
        log.cut(6);
        assert_eq!(
            (
                log.first_index().expect("first"),
                log.term(6).expect("base")
            ),
            (7, 2)
        );
        log.cut(3);
        assert_eq!(log.first_index().expect("first"), 7);
    }

    #[test]
    fn a_snapshot_is_promised_of_what_is_applied_and_never_of_less_than_the_base() {
        let mut log = log();
        assert!(
            log.snapshot(0, 2).is_err(),
            "nothing is known to be applied"
        );
        log.set_applied(5, 2);
        let promised = log.snapshot(0, 2).expect("applied");
        assert_eq!(promised.get_metadata().index, 5);
        log.cut(6);
        assert!(log.snapshot(0, 2).is_err());
    }

    #[test]
    fn a_restarted_log_has_nothing_but_its_base() {
        let mut log = log();
        log.restart(9, 4);
        assert_eq!((log.last(), log.term(9).expect("base")), (9, 4));
        assert!(log.term(7).is_err());
        log.append(&[entry(10, 4)]);
        assert_eq!(log.last(), 10);
    }

    #[test]
    #[should_panic(expected = "leaves a gap")]
    fn a_gap_is_refused() {
        log().append(&[entry(9, 3)]);
    }
}
