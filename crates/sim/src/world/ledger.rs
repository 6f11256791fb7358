//! What must hold at every step, whatever the clients see: one leader per term, the same entry at each index on every member, the same
//! changes at each revision, nothing that goes back.
//!
//! The changes that members publish, each checked against those of the others, are the canonical log of the checker.

use prost::Message as _;
use proto::mvccpb::KeyValue;
use proto::raftpb;
use replica::Status;
use state::membership::Membership;
use state::{Event, EventKind};
use std::collections::BTreeMap;

use super::edge::listed;
use crate::checker::history::{Change, MemberList, Revision};
use crate::trace::hash_of;

/// What is known of all members together.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    leaders: BTreeMap<u64, usize>,
    /// Hash of the entry at each index, from 1.
    entries: Vec<u64>,
    log: Vec<Revision>,
    /// Hash of the changes at each revision, from 2.
    changes: Vec<u64>,
    members: BTreeMap<usize, Progress>,
    /// The members of the cluster from each entry on that changed them, and when that was first seen.
    lists: BTreeMap<u64, (u64, Membership)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    applied: u64,
    committed: u64,
    term: u64,
}

impl Ledger {
    /// A member has begun a life in which `applied` entries are behind it.
    pub fn started(&mut self, member: usize, applied: u64) {
        self.members.insert(
            member,
            Progress {
                applied,
                ..Progress::default()
            },
        );
    }

    /// A member tells where it stands.
    pub fn standing(&mut self, member: usize, status: &Status) -> Result<(), String> {
        let id = member + 1;
        if status.is_leader {
            let leader = *self.leaders.entry(status.term).or_insert(member);
            if leader != member {
                return Err(format!(
                    "members {} and {id} both lead term {}",
                    leader + 1,
                    status.term
                ));
            }
        }
        let progress = self.members.entry(member).or_default();
        if status.term < progress.term {
            return Err(format!(
                "the term of member {id} went from {} to {}",
                progress.term, status.term
            ));
        }
        if status.committed < progress.committed {
            return Err(format!(
                "the commit index of member {id} went from {} to {}",
                progress.committed, status.committed
            ));
        }
        if status.applied > status.committed {
            return Err(format!(
                "member {id} applied {} beyond commit {}",
                status.applied, status.committed
            ));
        }
        progress.term = status.term;
        progress.committed = status.committed;
        Ok(())
    }

    /// A member has applied entries and published changes.
    pub fn applied(
        &mut self,
        member: usize,
        now_us: u64,
        entries: &[raftpb::Entry],
        events: &[Event],
        revision: i64,
    ) -> Result<(), String> {
        for entry in entries {
            self.entry(member, entry)?;
        }
        for group in events.chunk_by(|a, b| a.revision.main == b.revision.main) {
            self.revision(member, now_us, group)?;
        }
        let last = self.revision_last();
        if revision > last {
            return Err(format!(
                "member {} shows revision {revision}, but the last one published is {last}",
                member + 1
            ));
        }
        Ok(())
    }

    /// A member shows these members after having applied so many entries.
    pub fn lists(
        &mut self,
        member: usize,
        now_us: u64,
        index: u64,
        list: &Membership,
    ) -> Result<(), String> {
        let id = member + 1;
        let learners = list.conf_state().learners;
        let mut known = list.members.values();
        if let Some(wrong) = known.find(|m| m.is_learner != learners.contains(&m.id)) {
            return Err(format!(
                "member {id} lists member {} as learner: {}, and raft has it otherwise",
                wrong.id, wrong.is_learner
            ));
        }
        if let Some((_, (_, before))) = self.lists.range(..=index).next_back()
            && before == list
        {
            return Ok(());
        }
        if let Some((_, there)) = self.lists.get(&index) {
            return Err(format!(
                "after entry {index} member {id} lists {list:?}, another one {there:?}"
            ));
        }
        // Another member may have seen it first, after more entries.
        let mut seen_us = now_us;
        let later = self
            .lists
            .range(index..)
            .next()
            .map(|(at, list)| (*at, list.clone()));
        if let Some((at, (seen, _))) = later.filter(|(_, (_, later))| later == list) {
            self.lists.remove(&at);
            seen_us = seen_us.min(seen);
        }
        self.lists.insert(index, (seen_us, list.clone()));
        Ok(())
    }

    /// All lists of members in the order of the log.
    pub fn member_lists(&self) -> Vec<MemberList> {
        let told = |(index, (seen_us, list)): (&u64, &(u64, Membership))| MemberList {
            index: *index,
            seen_us: *seen_us,
            members: listed(list),
        };
        self.lists.iter().map(told).collect()
    }

    /// A member's state has been replaced by one that includes everything up to this entry.
    pub fn installed(&mut self, member: usize, index: u64, revision: i64) -> Result<(), String> {
        let (id, last, revision_last) = (member + 1, self.index_last(), self.revision_last());
        let progress = self.members.entry(member).or_default();
        if index <= progress.applied || index > last || revision > revision_last {
            return Err(format!(
                "member {id} installed a snapshot of entry {index} and revision {revision} after entry {}; the last known are {last} \
                 and {revision_last}",
                progress.applied
            ));
        }
        progress.applied = index;
        Ok(())
    }

    fn entry(&mut self, member: usize, entry: &raftpb::Entry) -> Result<(), String> {
        let (id, index) = (member + 1, entry.index());
        let progress = self.members.entry(member).or_default();
        if index != progress.applied + 1 {
            return Err(format!(
                "member {id} applied entry {index} after {}",
                progress.applied
            ));
        }
        progress.applied = index;
        let content = hash_of(&entry.encode_to_vec());
        let place = index as usize - 1;
        match self.entries.get(place) {
            None if place == self.entries.len() => self.entries.push(content),
            Some(known) if *known == content => {}
            Some(_) => {
                return Err(format!(
                    "member {id} applied another entry {index} than the one that was applied before: something committed was lost"
                ));
            }
            None => {
                return Err(format!(
                    "member {id} applied entry {index}, and nobody applied those before it"
                ));
            }
        }
        Ok(())
    }

    fn revision(&mut self, member: usize, now_us: u64, events: &[Event]) -> Result<(), String> {
        let (id, number) = (member + 1, events[0].revision.main);
        let mut content = 0u64;
        for event in events {
            content = content.rotate_left(7)
                ^ hash_of(&event.kv)
                ^ hash_of(&event.key)
                ^ u64::from(event.kind == EventKind::Put);
        }
        let place = usize::try_from(number - 2)
            .map_err(|_| format!("member {id} published revision {number}"))?;
        match self.changes.get(place) {
            Some(known) if *known == content => return Ok(()),
            Some(_) => {
                return Err(format!(
                    "member {id} published other changes at revision {number} than were published before"
                ));
            }
            None if place == self.changes.len() => {}
            None => {
                return Err(format!(
                    "member {id} published revision {number} after {}",
                    self.revision_last()
                ));
            }
        }
        let changes = events
            .iter()
            .map(change_of)
            .collect::<Result<Vec<_>, _>>()?;
        self.changes.push(content);
        self.log.push(Revision {
            number,
            seen_us: now_us,
            changes,
        });
        Ok(())
    }

    /// The last revision that anybody published; 1 before the first.
    pub fn revision_last(&self) -> i64 {
        self.log.len() as i64 + 1
    }

    /// The last entry that anybody applied.
    pub fn index_last(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The canonical log so far.
    pub fn log(&self) -> &[Revision] {
        &self.log
    }

    /// The canonical log.
    pub fn into_log(self) -> Vec<Revision> {
        self.log
    }
}

fn change_of(event: &Event) -> Result<Change, String> {
    let kv = KeyValue::decode(event.kv.clone())
        .map_err(|error| format!("an event does not decode: {error}"))?;
    if kv.key != event.key || kv.mod_revision != event.revision.main {
        return Err(format!(
            "an event of revision {} carries the pair {kv:?}",
            event.revision.main
        ));
    }
    let now = (event.kind == EventKind::Put).then_some(kv);
    Ok(Change {
        key: event.key.clone(),
        now,
    })
}
