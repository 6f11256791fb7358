//! Who belongs to the cluster, as the log says: members, their addresses, the ids that were removed for ever, and raft's
//! configuration that follows from all this.
//!
//! A change is checked again when it is applied, against the members of that moment; one that no longer holds is answered
//! "no" and changes nothing. This module knows no health, no connections and no quorum: those checks are made before a change is
//! proposed. Start with [`Membership::validate`]. Source of the rules: upstream `server/etcdserver/api/membership/cluster.go`.

mod json;
mod v2_store;

use std::collections::{BTreeMap, BTreeSet};

use proto::error;
use proto::raftpb::{ConfChange, ConfChangeType, ConfState};
use sha1::{Digest, Sha1};

use crate::outcome::Rejected;

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its id, for ever.
    pub id: u64,
    /// Where other members reach it. `None` is JSON's `null`, which etcd writes for a promotion.
    pub peer_urls: Option<Vec<String>>,
    /// It receives the log, but has no vote.
    pub is_learner: bool,
    /// Empty until the member has started and published itself.
    pub name: String,
    /// Where clients reach it; empty until published.
    pub client_urls: Vec<String>,
}

impl Member {
    /// The peer URLs; none where there are none.
    #[must_use]
    pub fn peer_urls(&self) -> &[String] {
        self.peer_urls.as_deref().unwrap_or_default()
    }

    /// Whether the member has ever published itself.
    #[must_use]
    pub fn is_started(&self) -> bool {
        !self.name.is_empty()
    }

    /// The bytes of its table row, as Go's JSON encoder writes them.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        json::write_member(self, None)
    }

    /// Reads a table row.
    ///
    /// # Errors
    /// What is wrong with the JSON.
    pub fn from_json(bytes: &[u8]) -> Result<Member, String> {
        json::read_context(bytes).map(|context| context.member)
    }
}

/// The context of a configuration change: the member, and whether this promotes a learner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeContext {
    /// The member to add, update or promote.
    pub member: Member,
    /// "Add" means here: make a voter of this learner.
    pub is_promote: bool,
}

impl ChangeContext {
    /// The bytes that go into the change, as Go's JSON encoder writes them.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        json::write_member(&self.member, Some(self.is_promote))
    }

    /// Reads the context of a change.
    ///
    /// # Errors
    /// What is wrong with the JSON.
    pub fn from_json(bytes: &[u8]) -> Result<ChangeContext, String> {
        json::read_context(bytes)
    }
}

/// The id of a member: the first 8 bytes of SHA-1 over its sorted peer URLs, the cluster token, and, for a member added to a running
/// cluster, the time in seconds since 1970. The token of a member added at run time is empty.
#[must_use]
pub fn member_id(peer_urls: &[String], token: &str, unix_s: Option<i64>) -> u64 {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let time = unix_s
        .map(|seconds| seconds.to_string())
        .unwrap_or_default();
    id_of(&[urls.concat().as_bytes(), token.as_bytes(), time.as_bytes()].concat())
}

/// The id of a cluster: the first 8 bytes of SHA-1 over the ids of the members it starts with, in ascending order.
#[must_use]
pub fn cluster_id(member_ids: &[u64]) -> u64 {
    let mut ids = member_ids.to_vec();
    ids.sort_unstable();
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
    id_of(&bytes)
}

fn id_of(bytes: &[u8]) -> u64 {
    let digest: [u8; 20] = Sha1::digest(bytes).into();
    let (first, _) = digest
        .split_first_chunk()
        .expect("a SHA-1 digest has 20 bytes");
    u64::from_be_bytes(*first)
}

/// An id as etcd writes it into keys and paths.
#[must_use]
pub fn id_to_hex(id: u64) -> String {
    format!("{id:x}")
}

/// Reads what [`id_to_hex`] writes.
#[must_use]
pub fn id_from_hex(text: &str) -> Option<u64> {
    // Rust would also take a sign.
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// The members and what follows from them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Membership {
    /// By id.
    pub members: BTreeMap<u64, Member>,
    /// Ids that may never come back.
    pub removed: BTreeSet<u64>,
    /// Ids that raft counts as voters. They follow the changes, not the members: a backup restored under new members starts
    /// with members, while raft's configuration comes from the changes in the log.
    voters: BTreeSet<u64>,
    learners: BTreeSet<u64>,
}

/// A configuration of raft as Go's JSON encoder writes it into the meta table.
pub(crate) fn conf_state_to_json(conf_state: &ConfState) -> Vec<u8> {
    json::write_conf_state(conf_state)
}

/// The members as etcd's version 2 store, for a snapshot that an etcd may receive. `version` is that of the cluster.
#[must_use]
pub fn v2_store(members: &Membership, version: Option<&str>) -> Vec<u8> {
    v2_store::write(members, version)
}

/// What applying a valid change did.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Changed {
    Added(Member),
    Removed(u64),
    Updated(Member),
    Promoted(Member),
}

impl Membership {
    /// All members by ascending id.
    #[must_use]
    pub fn list(&self) -> Vec<Member> {
        self.members.values().cloned().collect()
    }

    /// The member with this id.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&Member> {
        self.members.get(&id)
    }

    /// Raft's configuration.
    #[must_use]
    pub fn conf_state(&self) -> ConfState {
        ConfState {
            voters: self.voters.iter().copied().collect(),
            learners: self.learners.iter().copied().collect(),
            auto_leave: Some(false),
            ..Default::default()
        }
    }

    /// [`Membership::conf_state`] as Go's JSON encoder writes it into the meta table.
    #[must_use]
    pub fn conf_state_json(&self) -> Vec<u8> {
        json::write_conf_state(&self.conf_state())
    }

    /// Checks a change as etcd does when it applies one, and when it replays one.
    ///
    /// # Errors
    /// Why the change must not be made.
    pub fn validate(
        &self,
        change: &ConfChange,
        learners_max: usize,
    ) -> Result<ChangeContext, Rejected> {
        let id = change.node_id();
        if self.removed.contains(&id) {
            return Err(Rejected(&error::MEMBER_NOT_FOUND));
        }
        let kind = ConfChangeType::try_from(change.r#type.unwrap_or_default());
        match kind {
            Ok(ConfChangeType::ConfChangeRemoveNode) => {
                self.existing(id)?;
                Ok(ChangeContext::default())
            }
            Ok(ConfChangeType::ConfChangeUpdateNode) => {
                self.existing(id)?;
                let context = context_of(change)?;
                self.check_urls_unused(id, context.member.peer_urls())?;
                Ok(context)
            }
            Ok(ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode) => {
                let context = context_of(change)?;
                if context.is_promote {
                    if !self.existing(id)?.is_learner {
                        return Err(Rejected(&error::MEMBER_NOT_LEARNER));
                    }
                    return Ok(context);
                }
                if self.members.contains_key(&id) {
                    return Err(Rejected(&error::MEMBER_EXIST));
                }
                self.check_urls_unused(id, context.member.peer_urls())?;
                let as_learner = kind == Ok(ConfChangeType::ConfChangeAddLearnerNode);
                if context.member.is_learner && as_learner && self.learner_count() >= learners_max {
                    return Err(Rejected(&error::TOO_MANY_LEARNERS));
                }
                Ok(context)
            }
            // No member proposes this; etcd stops for good.
            Err(_) => Err(Rejected(&error::UNKNOWN_METHOD)),
        }
    }

    /// Makes a change that [`Membership::validate`] has passed.
    pub(crate) fn change(&mut self, change: &ConfChange, context: ChangeContext) -> Changed {
        let id = change.node_id();
        match change.r#type() {
            ConfChangeType::ConfChangeRemoveNode => {
                self.voters.remove(&id);
                self.learners.remove(&id);
                self.members.remove(&id);
                self.removed.insert(id);
                Changed::Removed(id)
            }
            ConfChangeType::ConfChangeUpdateNode => {
                let member = self
                    .members
                    .get_mut(&id)
                    .expect("a member to update has been found");
                // Only the peer URLs: whoever is a learner stays one.
                member.peer_urls = context.member.peer_urls;
                if storage::planted!(UpdatePromotes) {
                    member.is_learner = false;
                }
                Changed::Updated(member.clone())
            }
            ConfChangeType::ConfChangeAddLearnerNode if !context.is_promote => {
                self.learners.insert(id);
                self.add(context.member)
            }
            ConfChangeType::ConfChangeAddNode if !context.is_promote => {
                self.voters.insert(id);
                self.add(context.member)
            }
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode => {
                self.learners.remove(&id);
                self.voters.insert(id);
                let member = self
                    .members
                    .get_mut(&id)
                    .expect("a member to promote has been found");
                member.is_learner = false;
                Changed::Promoted(member.clone())
            }
        }
    }

    /// Puts back what was read from disk.
    pub(crate) fn restore(
        members: Vec<Member>,
        removed: Vec<u64>,
        conf_state: &ConfState,
    ) -> Membership {
        Membership {
            members: members
                .into_iter()
                .map(|member| (member.id, member))
                .collect(),
            removed: removed.into_iter().collect(),
            voters: conf_state.voters.iter().copied().collect(),
            learners: conf_state.learners.iter().copied().collect(),
        }
    }

    fn add(&mut self, member: Member) -> Changed {
        self.members.insert(member.id, member.clone());
        Changed::Added(member)
    }

    fn learner_count(&self) -> usize {
        self.members
            .values()
            .filter(|member| member.is_learner)
            .count()
    }

    fn existing(&self, id: u64) -> Result<&Member, Rejected> {
        self.members
            .get(&id)
            .ok_or(Rejected(&error::MEMBER_NOT_FOUND))
    }

    fn check_urls_unused(&self, id: u64, urls: &[String]) -> Result<(), Rejected> {
        let mut others = self.members.values().filter(|member| member.id != id);
        let used = others.any(|member| member.peer_urls().iter().any(|url| urls.contains(url)));
        if used {
            Err(Rejected(&error::PEER_URL_EXIST))
        } else {
            Ok(())
        }
    }
}

/// Reads raft's configuration from the meta table.
pub(crate) fn conf_state_from_json(bytes: &[u8]) -> Result<ConfState, String> {
    json::read_conf_state(bytes)
}

/// The downgrade record of the cluster table: its target, if a downgrade is on.
pub(crate) fn downgrade_to_json(target: Option<&str>) -> Vec<u8> {
    json::write_downgrade(target)
}

/// Reads what [`downgrade_to_json`] writes.
pub(crate) fn downgrade_from_json(bytes: &[u8]) -> Result<Option<String>, String> {
    json::read_downgrade(bytes)
}

/// The context, which must be about the member that the change names. etcd stops for good where it is not.
fn context_of(change: &ConfChange) -> Result<ChangeContext, Rejected> {
    let bytes = change.context.as_deref().unwrap_or_default();
    match json::read_context(bytes) {
        Ok(context) if context.member.id == change.node_id() => Ok(context),
        _ => Err(Rejected(&error::MEMBER_BAD_URLS)),
    }
}

#[cfg(test)]
mod tests;
