//! How a member comes to life: from an empty directory, or from what a former life left behind.
//!
//! ```text
//! catalog (applied index, tables, ends of segments) --> State
//! write-ahead log (hard state, entries)             --> RaftCore, which hands everything committed after the applied
//!                                                       index to the apply worker again
//! ```
//! A new member of a new cluster writes one configuration entry per initial member into its own log, the same on all of
//! them, and counts them as committed: that is how etcd bootstraps, and it makes the membership part of the log.

use std::collections::BTreeSet;
use std::sync::Arc;

use prost::Message as _;
use proto::raftpb;
use state::membership::{ChangeContext, Member};
use state::{Params as StateParams, State};
use storage::catalog::{Catalog, Recovered};
use storage::datadir::{self, DataDir, Layout, Permissions};
use storage::disk::Disk;
use storage::fault::{Fault, FaultKind};
use storage::planted;
use storage::segments::SegmentsOptions;
use storage::wal::{self, Batch, Identity, Marker, Wal};

use crate::duties::Duties;
use crate::ids::RequestIds;
use crate::past::{self, Past};
use crate::raft_core::{CoreConfig, RaftCore, conf_state_in, entry_in, hard_state_in};
use crate::raft_log::RaftLog;
use crate::step::{Config, Replica, request_id};
use crate::workers::{ApplyWorker, LogWorker, StoreWorker};

/// What a member must be told to start.
#[derive(Clone)]
pub struct Params {
    /// Where log and store are.
    pub layout: Layout,
    /// What to do about a directory that others may enter.
    pub permissions: Permissions,
    /// Who the member is in a new cluster. A directory that belongs to another is refused.
    pub identity: Identity,
    /// Members of a new cluster, this one among them; none for a member that was added to a running one, which learns of all from the
    /// others. Ignored when the directory holds a member already.
    pub initial_members: Vec<Member>,
    /// What the others said of this member before it started, if its directory is new; see [`crate::past`]. `Unknown` is always safe.
    pub past: Past,
    /// Whether the member is to go on as the only one of its cluster, with the data it has. For when the others are lost for good; never
    /// while they live.
    pub force_new_cluster: bool,
    pub config: Config,
    pub state: StateParams,
    pub wal: wal::Options,
    pub segments: SegmentsOptions,
    /// Unix time in milliseconds. Should be later than at any start before; if it is not, what the log still holds is heeded.
    pub wall_ms: u64,
}

/// A member, ready to be driven.
pub struct Booted {
    pub replica: Replica,
    pub log: LogWorker,
    pub apply: ApplyWorker,
    pub store: StoreWorker,
    pub ids: Arc<RequestIds>,
    /// Keeps the directory ours; drop it last.
    pub data_dir: DataDir,
    /// Whether the directory was new.
    pub is_new: bool,
}

/// Opens or creates the member in its directories.
///
/// # Errors
/// Whatever makes the member unable to start, with what to do about it: damage, a foreign identity, a full disk, a log
/// and a store that do not belong together.
pub fn start(disk: Arc<dyn Disk>, params: Params) -> Result<Booted, Fault> {
    let mut data_dir = DataDir::acquire(disk.clone(), params.layout.clone(), params.permissions)?;
    let is_new = data_dir.state() == datadir::State::Fresh;
    if is_new && params.past == Past::Started {
        return Err(past::lost(params.config.member));
    }
    if is_new {
        data_dir.create(params.identity, params.wal.clone(), |wal, _| {
            found(wal, &params.initial_members)
        })?;
    }
    let (mut wal, mut log) = data_dir.open_wal(params.wal.clone(), Some(params.identity))?;
    let store_dir = params.layout.store_dir();
    let (catalog, recovered) = Catalog::open(disk.clone(), &store_dir)?;
    let replaces_log = recovered.as_ref().is_some_and(Recovered::replaces_log);
    let state = match recovered {
        Some(recovered) => State::open(
            params.state.clone(),
            recovered,
            disk,
            &store_dir,
            params.segments,
        )?,
        None => State::create(params.state.clone(), disk, &store_dir, params.segments)?,
    };
    refuse_removed(&params, &state)?;
    if replaces_log && !planted!(InstallLeftHalfDone) && !holds(&log, state.applied()) {
        finish_install(&mut wal, &mut log, &state)?;
    }
    if params.force_new_cluster {
        go_on_alone(params.config.member.0, &mut wal, &mut log, &state)?;
    }
    let ids = Arc::new(RequestIds::new(params.config.member, params.wall_ms));
    for id in log.entries.iter().filter_map(request_id) {
        ids.skip_past(id);
    }
    let core = start_raft(&params, &state, log)?;
    let duties = start_duties(&params, &state);
    let view = state.view();
    let mut replica = Replica::new(
        params.config,
        core,
        duties,
        ids.clone(),
        state.applied().0,
        view.revision(),
        params.past,
    );
    replica.campaign_if_alone();
    Ok(Booted {
        replica,
        log: LogWorker::new(wal),
        apply: ApplyWorker::new(state),
        store: StoreWorker::new(catalog),
        ids,
        data_dir,
        is_new,
    })
}

/// Writes the first entries of a new cluster into the log of a member that is being created.
fn found(wal: &mut Wal, members: &[Member]) -> Result<(), Fault> {
    let (hard_state, entries) = bootstrap(members);
    wal.append(&Batch {
        hard_state: Some(&hard_state),
        entries: &entries,
        sync: true,
        ..Batch::default()
    })
}

/// The first entries of a new cluster: one configuration change per member, by ascending id, in term 1 and committed.
/// Source: upstream `server/etcdserver/bootstrap.go`, raft `RawNode.Bootstrap`.
fn bootstrap(members: &[Member]) -> (raftpb::HardState, Vec<raftpb::Entry>) {
    let mut members = members.to_vec();
    members.sort_by_key(|member| member.id);
    let entries: Vec<_> = members
        .into_iter()
        .zip(1..)
        .map(|(member, index)| bootstrap_entry(member, index))
        .collect();
    let hard_state = raftpb::HardState {
        term: Some(1),
        vote: Some(0),
        commit: Some(entries.len() as u64),
    };
    (hard_state, entries)
}

fn bootstrap_entry(member: Member, index: u64) -> raftpb::Entry {
    let node_id = Some(member.id);
    let context = ChangeContext {
        member,
        is_promote: false,
    }
    .to_json();
    let change = raftpb::ConfChange {
        r#type: Some(raftpb::ConfChangeType::ConfChangeAddNode as i32),
        node_id,
        context: Some(context.into()),
        ..Default::default()
    };
    change_entry(&change, 1, index)
}

fn change_entry(change: &raftpb::ConfChange, term: u64, index: u64) -> raftpb::Entry {
    raftpb::Entry {
        r#type: Some(raftpb::EntryType::EntryConfChange as i32),
        term: Some(term),
        index: Some(index),
        data: Some(change.encode_to_vec().into()),
    }
}

/// Counts the whole log as committed, and adds to it the removal of every other member. What the log holds behind the known commit index
/// may have been acknowledged by the leader that is lost; etcd drops it, here it stays.
///
/// Source: upstream `server/etcdserver/bootstrap.go`, `AppendAndCommitEntries`; `server/storage/util.go`, `CreateConfigChangeEnts`.
fn go_on_alone(
    me: u64,
    wal: &mut Wal,
    log: &mut wal::Recovered,
    state: &State,
) -> Result<(), Fault> {
    let (applied, applied_term) = state.applied();
    let mut term = log.hard_state.term().max(applied_term);
    let mut index = log.last_index.max(applied);
    term = log
        .entries
        .last()
        .map_or(term, |last| term.max(last.term()));
    let mut entries = Vec::new();
    for change in changes_to_be_alone(me, state, &log.entries) {
        index += 1;
        entries.push(change_entry(&change, term, index));
    }
    let hard_state = raftpb::HardState {
        term: Some(term),
        commit: Some(index),
        ..log.hard_state
    };
    wal.append(&Batch {
        hard_state: Some(&hard_state),
        entries: &entries,
        sync: true,
        ..Batch::default()
    })?;
    log.hard_state = hard_state;
    log.entries.extend(entries);
    log.last_index = index;
    Ok(())
}

/// What makes this member the only one, after everything in the log. It becomes a voter first: a configuration without any is none.
fn changes_to_be_alone(
    me: u64,
    state: &State,
    entries: &[raftpb::Entry],
) -> Vec<raftpb::ConfChange> {
    use raftpb::ConfChangeType as Kind;
    let view = state.view();
    let conf_state = view.members().conf_state();
    let mut voters: BTreeSet<u64> = conf_state.voters.into_iter().collect();
    let mut all: BTreeSet<u64> = view.members().members.keys().copied().collect();
    all.extend(&voters);
    all.extend(conf_state.learners);
    let is_new = |entry: &&raftpb::Entry| {
        entry.index() > state.applied().0 && entry.r#type() == raftpb::EntryType::EntryConfChange
    };
    let changes = entries.iter().filter(is_new).filter_map(|entry| {
        raftpb::ConfChange::decode(entry.data.clone().unwrap_or_default()).ok()
    });
    for change in changes {
        let id = change.node_id();
        match change.r#type() {
            Kind::ConfChangeAddNode => {
                all.insert(id);
                voters.insert(id);
            }
            Kind::ConfChangeAddLearnerNode => {
                all.insert(id);
            }
            Kind::ConfChangeRemoveNode => {
                all.remove(&id);
                voters.remove(&id);
            }
            Kind::ConfChangeUpdateNode => {}
        }
    }
    let change = |kind: Kind, id: u64, context: Vec<u8>| raftpb::ConfChange {
        r#type: Some(kind as i32),
        node_id: Some(id),
        context: (!context.is_empty()).then(|| context.into()),
        ..Default::default()
    };
    let mut changes = Vec::new();
    if !voters.contains(&me) {
        let context = ChangeContext {
            member: Member {
                id: me,
                peer_urls: Some(vec!["http://localhost:2380".to_owned()]),
                ..Member::default()
            },
            is_promote: all.contains(&me),
        };
        changes.push(change(Kind::ConfChangeAddNode, me, context.to_json()));
    }
    let others = all.into_iter().filter(|id| *id != me);
    changes.extend(others.map(|id| change(Kind::ConfChangeRemoveNode, id, Vec::new())));
    changes
}

/// A member that was removed would only be a nuisance, and under its id it may never come back.
fn refuse_removed(params: &Params, state: &State) -> Result<(), Fault> {
    let me = params.config.member.0;
    if !state.view().members().removed.contains(&me) {
        return Ok(());
    }
    Err(Fault::new(
        FaultKind::Identity,
        format!(
            "the member has been permanently removed from the cluster (member {me:x}, data directory {}); empty the directory, then \
             add a new member (member add) and start it with --initial-cluster-state=existing.",
            params.layout.data_dir().display()
        ),
    ))
}

/// Whether the log is not older than this entry: it has it, or a marker at or behind it.
fn holds(log: &wal::Recovered, (index, term): (u64, u64)) -> bool {
    let is_marked = log
        .marker
        .as_ref()
        .is_some_and(|marker| marker.index >= index);
    let is_entry = |entry: &raftpb::Entry| (entry.index(), entry.term()) == (index, term);
    is_marked || log.entries.iter().any(is_entry)
}

/// The last life ended between the two steps that put a received snapshot in place: the store is the new one, the log still the
/// old one. Takes the second step, as the replica would have.
fn finish_install(wal: &mut Wal, log: &mut wal::Recovered, state: &State) -> Result<(), Fault> {
    let (index, term) = state.applied();
    let marker = Marker {
        index,
        term,
        conf_state: state.view().members().conf_state(),
        restart: true,
    };
    wal.append(&Batch {
        marker: Some(&marker),
        sync: true,
        ..Batch::default()
    })?;
    log.entries.clear();
    log.last_index = index;
    log.marker = Some(Marker {
        restart: false,
        ..marker
    });
    Ok(())
}

/// Raft, standing where the state stands. The log in memory begins with the first entry that is left on disk; the entry
/// before it is known by its term alone.
fn start_raft(params: &Params, state: &State, log: wal::Recovered) -> Result<RaftCore, Fault> {
    let (applied, applied_term) = state.applied();
    if log.last_index < applied {
        return Err(Fault::gap(
            format_args!("write-ahead log {}", params.layout.wal_dir().display()),
            format_args!(
                "it ends at entry {}, but the store has applied entry {applied}",
                log.last_index
            ),
        ));
    }
    let mut entries: Vec<_> = log.entries.iter().map(entry_in).collect();
    let base = match entries.first() {
        None => (applied, applied_term),
        Some(first) if first.index == 1 => (0, 0),
        Some(first) if first.index == applied + 1 => (applied, applied_term),
        Some(first) if first.index <= applied => {
            let base = (first.index, first.term);
            entries.remove(0);
            base
        }
        Some(first) => {
            return Err(Fault::gap(
                format_args!("write-ahead log {}", params.layout.wal_dir().display()),
                format_args!(
                    "it begins with entry {}, but the store has applied only entry {applied}",
                    first.index
                ),
            ));
        }
    };
    let mut hard_state = hard_state_in(&log.hard_state);
    // A commit index alone is not synced; whatever was applied was committed. One beyond the log, in which it stands behind the entries, came
    // with a snapshot that was not in place yet: it will come again.
    let last = base.0 + entries.len() as u64;
    hard_state.commit = hard_state.commit.min(last).max(applied);
    let conf_state = conf_state_in(&state.view().members().conf_state());
    let config = CoreConfig {
        id: params.config.member.0,
        election_ticks: usize::try_from(params.config.election_ticks)
            .expect("election ticks are few"),
        heartbeat_ticks: 1,
        pre_vote: params.config.pre_vote,
        applied: (applied, applied_term),
        seed: params.config.seed,
    };
    let log = RaftLog::new(hard_state, conf_state, base, entries);
    RaftCore::new(&config, log).map_err(|why| {
        Fault::new(
            FaultKind::Corrupted,
            format!("raft refuses what was recovered: {why}. Restore this member from a snapshot."),
        )
    })
}

fn start_duties(params: &Params, state: &State) -> Duties {
    let mut duties = Duties::new(params.config.duties.clone());
    duties.restore(&state.view());
    duties
}
