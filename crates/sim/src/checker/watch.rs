//! Rule 7: what a watcher received is exactly what happened, from its start on.

use bytes::Bytes;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::mvccpb::{Event, KeyValue, event::EventType};

use super::compaction::possible_before;
use super::history::{Change, History, Watch, WatchKind};
use super::model::Model;
use super::{Findings, last_of, revision_of};

/// Checks all watchers.
pub(super) fn check(history: &History, model: &Model, findings: &mut Findings) {
    let compacted_before = possible_before(history);
    for (number, watch) in history.watches.iter().enumerate() {
        let mut reader = Reader {
            history,
            model,
            watch,
            number,
            cursor: Cursor::default(),
            is_over: false,
        };
        if watch.create.start_revision > 0 {
            reader.cursor.revision = watch.create.start_revision;
        }
        for message in &watch.messages {
            reader.message(
                message.time_us,
                message.revision,
                &message.kind,
                &compacted_before,
                findings,
            );
        }
        if watch.must_reach_end && !reader.is_over && reader.cursor.revision > 0 {
            reader.nothing_left(last_of(history), "reliable", findings);
        }
    }
}

/// The next change that the watcher is due, if it matches: a revision and a place in it. Revision 0: not known yet.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    revision: i64,
    place: usize,
}

struct Reader<'a> {
    history: &'a History,
    model: &'a Model,
    watch: &'a Watch,
    number: usize,
    cursor: Cursor,
    is_over: bool,
}

impl<'a> Reader<'a> {
    fn message(
        &mut self,
        time_us: u64,
        revision: i64,
        kind: &WatchKind,
        compacted_before: &impl Fn(u64) -> i64,
        findings: &mut Findings,
    ) {
        if self.is_over {
            return;
        }
        match kind {
            WatchKind::Created if self.cursor.revision == 0 => self.cursor.revision = revision + 1,
            WatchKind::Created => {}
            WatchKind::Events { events, fragment } => {
                for event in events {
                    self.event(time_us, event, compacted_before, findings);
                }
                let last = events
                    .last()
                    .and_then(|event| event.kv.as_ref())
                    .map_or(0, |kv| kv.mod_revision);
                if revision < last {
                    self.wrong(
                        "header",
                        format!("a message at revision {revision} carries revision {last}"),
                        findings,
                    );
                }
                if !fragment && !self.is_over {
                    self.nothing_left(last, "atomic", findings);
                }
            }
            WatchKind::Progress => {
                if self.cursor.revision > 0 && revision + 1 >= self.cursor.revision {
                    self.nothing_left(revision, "bookmarkable", findings);
                } else if self.cursor.revision > revision + 1
                    && self.watch.create.start_revision <= revision
                {
                    self.wrong(
                        "bookmarkable",
                        format!("progress {revision} is below what was received"),
                        findings,
                    );
                }
                if revision > last_of(self.history) {
                    self.wrong(
                        "bookmarkable",
                        format!("progress {revision} does not exist"),
                        findings,
                    );
                }
            }
            WatchKind::Canceled { compact_revision } => {
                if *compact_revision > 0 {
                    self.overtaken(time_us, *compact_revision, compacted_before, findings);
                }
                self.is_over = true;
            }
        }
    }

    /// Canceled because of a compaction: only if it needed something that was compacted.
    fn overtaken(
        &mut self,
        time_us: u64,
        compact_revision: i64,
        compacted_before: &impl Fn(u64) -> i64,
        findings: &mut Findings,
    ) {
        if compact_revision > compacted_before(time_us) {
            self.wrong(
                "compaction",
                format!("canceled for a compaction at {compact_revision} that nobody asked for"),
                findings,
            );
        }
        if self.cursor.revision >= compact_revision {
            self.wrong(
                "compaction",
                format!(
                    "canceled for compaction {compact_revision}, but due {:?} only",
                    self.cursor
                ),
                findings,
            );
        }
    }

    fn event(
        &mut self,
        time_us: u64,
        event: &Event,
        compacted_before: &impl Fn(u64) -> i64,
        findings: &mut Findings,
    ) {
        let Some(kv) = &event.kv else {
            return self.wrong("event", "an event without a pair".to_owned(), findings);
        };
        let Some((revision, change)) = self.next_due(last_of(self.history)) else {
            return self.wrong(
                "unique",
                format!("received {kv:?}, but nothing is due"),
                findings,
            );
        };
        if kv.mod_revision != revision || kv.key != change.key {
            let rule = if kv.mod_revision < revision {
                "unique or ordered"
            } else {
                "reliable"
            };
            return self.wrong(
                rule,
                format!("received {kv:?}, but due is revision {revision}: {change:?}"),
                findings,
            );
        }
        let is_put = event.r#type == EventType::Put as i32;
        let expected = match &change.now {
            Some(now) => now.clone(),
            None => KeyValue {
                key: change.key.clone(),
                mod_revision: revision,
                ..Default::default()
            },
        };
        if is_put != change.now.is_some() || *kv != expected {
            self.wrong(
                "event",
                format!("received {event:?}, but it was {change:?}"),
                findings,
            );
        }
        let seen_us = revision_of(self.history, revision).map_or(0, |made| made.seen_us);
        if time_us < seen_us {
            self.wrong(
                "event",
                format!("received revision {revision} before it existed"),
                findings,
            );
        }
        self.previous(
            time_us,
            event,
            revision,
            &change.key,
            compacted_before,
            findings,
        );
        self.cursor.place += 1;
    }

    /// The previous value is there if asked for, and right; it may be missing if it was compacted. A creation has none, even if the
    /// same transaction deleted the key before.
    fn previous(
        &mut self,
        time_us: u64,
        event: &Event,
        revision: i64,
        key: &Bytes,
        compacted_before: &impl Fn(u64) -> i64,
        findings: &mut Findings,
    ) {
        let expected = self
            .model
            .get(key, revision - 1)
            .filter(|_| self.watch.create.prev_kv && !is_creation(event));
        let may_miss = compacted_before(time_us) > revision - 1;
        if event.prev_kv.as_ref() != expected && !(event.prev_kv.is_none() && may_miss) {
            self.wrong(
                "previous value",
                format!("received {event:?}, but before it was {expected:?}"),
                findings,
            );
        }
    }

    /// The next matching change at or after the cursor, up to a revision; the cursor moves to it.
    fn next_due(&mut self, up_to: i64) -> Option<(i64, &'a Change)> {
        while self.cursor.revision <= up_to {
            let changes = revision_of(self.history, self.cursor.revision)
                .map_or(&[][..], |made| &made.changes);
            while let Some(change) = changes.get(self.cursor.place) {
                if self.matches(change) {
                    return Some((self.cursor.revision, change));
                }
                self.cursor.place += 1;
            }
            self.cursor = Cursor {
                revision: self.cursor.revision + 1,
                place: 0,
            };
        }
        None
    }

    fn matches(&self, change: &Change) -> bool {
        let create = &self.watch.create;
        let (key, end) = (&create.key, &create.range_end);
        let within = match &end[..] {
            b"" => change.key == *key,
            b"\0" => change.key >= *key,
            _ => change.key >= *key && change.key < *end,
        };
        let filter = if change.now.is_some() {
            FilterType::Noput
        } else {
            FilterType::Nodelete
        };
        within && !create.filters.contains(&(filter as i32))
    }

    /// Everything up to a revision has been received.
    fn nothing_left(&mut self, up_to: i64, rule: &'static str, findings: &mut Findings) {
        if let Some((revision, change)) = self.next_due(up_to.min(last_of(self.history))) {
            self.wrong(
                rule,
                format!("at {up_to}, revision {revision} is missing: {change:?}"),
                findings,
            );
        }
    }

    /// One violation per watcher: what follows would only echo it.
    fn wrong(&mut self, rule: &'static str, detail: String, findings: &mut Findings) {
        if !std::mem::replace(&mut self.is_over, true) {
            let (number, member, create) = (self.number, self.watch.member, &self.watch.create);
            findings.add(
                "watch",
                format!("{rule}: watcher {number} on member {member} ({create:?}): {detail}"),
            );
        }
    }
}

fn is_creation(event: &Event) -> bool {
    let created = event.kv.as_ref().map(|kv| kv.create_revision);
    event.r#type == EventType::Put as i32 && created == event.kv.as_ref().map(|kv| kv.mod_revision)
}
