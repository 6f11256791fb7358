//! A state from what was stored: by this member's last checkpoint, or by an etcd in a backend file.
//!
//! Tables are read strictly: what contradicts itself or is not understood stops the member before it can act on it. Start with
//! [`state`] for the first way and [`Importer`] for the second.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::AlarmMember;
use proto::leasepb;
use proto::raftpb::ConfState;
use storage::catalog::{Table, Tables as StoredTables};
use storage::checkpoint::CheckpointJob;
use storage::disk::Disk;
use storage::fault::{Fault, FaultKind};
use storage::planted;
use storage::segments::{RecordMeta, Revision, Segments, SegmentsOptions};

use crate::lease::{self, Lease};
use crate::membership::{self, Member, Membership};
use crate::mvcc::Store;
use crate::mvcc::load::Loader;
use crate::mvcc::record;
use crate::tables::{self, Rows, Tables};
use crate::version::{ClusterVersion, Version};
use crate::view::Small;
use crate::{Params, State, alarm, auth};

/// Puts the parts together: segments with a loader that has seen all their records, and the rows of all tables.
pub(crate) fn state(
    params: Params,
    segments: Segments,
    loader: Loader,
    mut rows: Rows,
    applied: (u64, u64),
) -> Result<State, Fault> {
    let version = version_of(&rows)?;
    let (auth, missing) = auth_of(&rows, &version)?;
    let small = Small {
        members: members_of(&rows)?,
        version,
        alarms: alarms_of(&rows)?,
        auth,
    };
    let leases = leases_of(&rows)?;
    let compacted = compacted_revision(&rows)?;
    rows.retain(|(table, _), _| *table != Table::Lease);
    let mut state = State::new(params, Store::new(segments), Tables::restore(rows));
    if missing.0 {
        let revision = small.auth.revision().to_be_bytes();
        let key = tables::auth::AUTH_REVISION;
        state.tables.set(Table::Auth, key, revision);
    }
    (state.leases, state.small, state.applied) = (leases, Arc::new(small), applied);
    loader.finish(&mut state.store, compacted, &mut state.leases)?;
    Ok(state)
}

/// Checks that the tables of a checkpoint can be read, as [`State::open`] will: for offline tools. Changes nothing and does
/// not look at the segments.
///
/// # Errors
/// A fault that names table and key.
pub fn check_tables(stored: &StoredTables) -> Result<(), Fault> {
    let rows = rows_of(stored);
    members_of(&rows)?;
    auth_of(&rows, &version_of(&rows)?)?;
    leases_of(&rows)?;
    alarms_of(&rows)?;
    compacted_revision(&rows)?;
    Ok(())
}

/// The rows of all tables in the catalog.
pub(crate) fn rows_of(stored: &StoredTables) -> Rows {
    let mut rows = Rows::new();
    for table in Table::ALL
        .into_iter()
        .filter(|table| *table != Table::Local)
    {
        rows.extend(
            stored
                .iter(table)
                .map(|(key, value)| ((table, key.to_vec()), value.to_vec())),
        );
    }
    rows
}

/// Takes the rows of an etcd backend file, one after the other, and makes a state of them: for a snapshot from a peer, and for a
/// restore. What [`crate::ReadView::rows`] gives out, this takes in.
pub struct Importer {
    params: Params,
    segments: Segments,
    loader: Loader,
    rows: Rows,
    applied: (u64, u64),
    /// Records are written to files whenever so many bytes have gathered, so that a large file does not fill the memory.
    flush_bytes: u64,
}

impl Importer {
    /// Begins with nothing, in a directory of its own (whose catalog has been opened before: where there are segments, a missing
    /// catalog counts as lost) or with `options.sequence_first` above all sequences of the store to be replaced.
    ///
    /// # Errors
    /// A fault, if the directory cannot be used.
    pub fn new(
        params: Params,
        disk: Arc<dyn Disk>,
        dir: impl Into<PathBuf>,
        options: SegmentsOptions,
    ) -> Result<Importer, Fault> {
        let segments = Segments::open(disk, dir, &[], options)?;
        Ok(Importer::into(params, segments))
    }

    /// Begins with nothing beside the files of a living state, which this one may replace. One at a time.
    ///
    /// # Errors
    /// A fault, if the directory cannot be used.
    pub fn beside(state: &State) -> Result<Importer, Fault> {
        let segments = state.store.segments.successor()?;
        Ok(Importer::into(state.params.clone(), segments))
    }

    fn into(params: Params, segments: Segments) -> Importer {
        Importer {
            flush_bytes: segments.options().segment_bytes,
            params,
            segments,
            loader: Loader::default(),
            rows: Rows::new(),
            applied: (0, 0),
        }
    }

    /// Takes the next row. Rows of the bucket `key` come in order. Unknown buckets are passed over, as etcd does with them.
    ///
    /// # Errors
    /// A fault, if the row is not what its bucket holds, or the disk fails.
    pub fn row(&mut self, bucket: &str, key: &[u8], value: Bytes) -> Result<(), Fault> {
        if bucket == "key" {
            return self.record(key, value);
        }
        let known = Table::ALL
            .into_iter()
            .filter(|table| *table != Table::Local);
        let Some(table) = known.into_iter().find(|table| table.name() == bucket) else {
            return Ok(());
        };
        let is_compaction = [
            tables::meta::SCHEDULED_COMPACT_REV,
            tables::meta::FINISHED_COMPACT_REV,
        ]
        .contains(&key);
        if storage::planted!(SnapshotForgetsCompaction) && is_compaction {
            return Ok(());
        }
        if table == Table::Meta && key == tables::meta::CONSISTENT_INDEX {
            self.applied.0 = number(key, &value)?;
        } else if table == Table::Meta && key == tables::meta::TERM {
            self.applied.1 = number(key, &value)?;
        } else {
            self.rows.insert((table, key.to_vec()), value.to_vec());
        }
        Ok(())
    }

    /// Index and term of the last entry that the rows include, as far as they have said; the row that tells comes last.
    #[must_use]
    pub fn applied(&self) -> (u64, u64) {
        self.applied
    }

    /// Adds what the rows did not say of their last entry: a file of etcd 3.4 knows neither the term nor the configuration.
    pub fn complete(&mut self, term: u64, conf_state: &ConfState) {
        if self.applied.1 == 0 {
            self.applied.1 = term;
        }
        self.rows
            .entry((Table::Meta, tables::meta::CONF_STATE.to_vec()))
            .or_insert_with(|| membership::conf_state_to_json(conf_state));
    }

    /// Makes the records so far durable, so that little is left to do for the checkpoint.
    ///
    /// # Errors
    /// A fault, if the disk fails.
    pub fn flush(&mut self) -> Result<(), Fault> {
        let flushed = self.segments.flush().run()?;
        self.segments.flushed(flushed);
        Ok(())
    }

    /// Gives up, and removes what was written.
    ///
    /// # Errors
    /// A fault, if the disk fails.
    pub fn abandon(self) -> Result<(), Fault> {
        self.segments.discard()
    }

    /// The state, and the checkpoint that makes it durable in place of whatever the catalog held; nothing else may be written
    /// before that has run.
    ///
    /// # Errors
    /// As [`State::open`].
    pub fn finish(self) -> Result<(State, CheckpointJob), Fault> {
        let changes = self
            .rows
            .iter()
            .map(|((table, key), value)| (*table, key.clone(), Some(value.clone())))
            .collect();
        let mut state = state(
            self.params,
            self.segments,
            self.loader,
            self.rows,
            self.applied,
        )?;
        let job = CheckpointJob::replacing(state.store.segments.flush(), self.applied, changes);
        Ok((state, job))
    }

    fn record(&mut self, key: &[u8], kv: Bytes) -> Result<(), Fault> {
        let (revision, tombstone) = revision_of(key)?;
        let pair = record::decode(revision, kv.clone())?;
        let meta = RecordMeta {
            revision,
            tombstone,
            key: &pair.key,
            create_revision: pair.create_revision,
            version: pair.version,
            lease: pair.lease,
        };
        self.loader.push(&meta)?;
        self.segments.append(revision, tombstone, kv);
        if self.segments.unflushed_bytes() >= self.flush_bytes {
            self.flush()?;
        }
        Ok(())
    }
}

/// The key of a row in the bucket `key`: see [`crate::mvcc`].
pub(crate) fn revision_of(key: &[u8]) -> Result<(Revision, bool), Fault> {
    let number = |from: usize| {
        key.get(from..from + 8)
            .and_then(|bytes| bytes.try_into().ok())
            .map(i64::from_be_bytes)
    };
    match (number(0), key.get(8), number(9), key.get(17..)) {
        (Some(main), Some(b'_'), Some(sub), Some(rest @ ([] | [b't']))) => {
            Ok((Revision { main, sub }, !rest.is_empty()))
        }
        _ => Err(Fault::new(
            FaultKind::Corrupted,
            format!(
                "the bucket key has a row \"{}\", which is no revision; the file is damaged or not etcd's.",
                key.escape_ascii()
            ),
        )),
    }
}

fn number(key: &[u8], value: &[u8]) -> Result<u64, Fault> {
    let bytes = value
        .try_into()
        .map_err(|_| damaged(Table::Meta, key, "the value has not 8 bytes"))?;
    Ok(u64::from_be_bytes(bytes))
}

pub(crate) fn of(rows: &Rows, table: Table) -> impl Iterator<Item = (&[u8], &[u8])> {
    let from = rows
        .range((table, Vec::new())..)
        .take_while(move |((other, _), _)| *other == table);
    from.map(|((_, key), value)| (key.as_slice(), value.as_slice()))
}

fn get<'a>(rows: &'a Rows, table: Table, key: &[u8]) -> Option<&'a [u8]> {
    rows.get(&(table, key.to_vec())).map(Vec::as_slice)
}

fn alarms_of(rows: &Rows) -> Result<alarm::Table, Fault> {
    let mut alarms = alarm::Table::default();
    for (key, _) in of(rows, Table::Alarm) {
        let alarm = AlarmMember::decode(key).map_err(|error| damaged(Table::Alarm, key, error))?;
        alarms.raise(alarm.member_id, alarm.alarm);
    }
    Ok(alarms)
}

fn leases_of(rows: &Rows) -> Result<lease::Table, Fault> {
    let mut leases = lease::Table::default();
    for (key, value) in of(rows, Table::Lease) {
        let lease =
            leasepb::Lease::decode(value).map_err(|error| damaged(Table::Lease, key, error))?;
        if key != lease::row_key(lease.id) {
            return Err(damaged(Table::Lease, key, "the row is about another lease"));
        }
        leases.restore(
            lease.id,
            Lease {
                ttl_s: lease.ttl,
                remaining_s: lease.remaining_ttl,
            },
        );
    }
    Ok(leases)
}

fn members_of(rows: &Rows) -> Result<Membership, Fault> {
    let mut members = Vec::new();
    for (key, value) in of(rows, Table::Members) {
        let member =
            Member::from_json(value).map_err(|error| damaged(Table::Members, key, error))?;
        if key != membership::id_to_hex(member.id).as_bytes() {
            return Err(damaged(
                Table::Members,
                key,
                "the row is about another member",
            ));
        }
        members.push(member);
    }
    let mut removed = Vec::new();
    for (key, _) in of(rows, Table::MembersRemoved) {
        let id = std::str::from_utf8(key)
            .ok()
            .and_then(membership::id_from_hex);
        removed.push(
            id.ok_or_else(|| damaged(Table::MembersRemoved, key, "the key is no member id"))?,
        );
    }
    let key = tables::meta::CONF_STATE;
    let conf_state = match get(rows, Table::Meta, key) {
        Some(json) => membership::conf_state_from_json(json)
            .map_err(|error| damaged(Table::Meta, key, error))?,
        None => ConfState::default(),
    };
    if !conf_state.voters_outgoing.is_empty() || !conf_state.learners_next.is_empty() {
        return Err(damaged(
            Table::Meta,
            key,
            "a joint configuration is not supported",
        ));
    }
    Ok(Membership::restore(members, removed, &conf_state))
}

fn version_of(rows: &Rows) -> Result<ClusterVersion, Fault> {
    let mut version = ClusterVersion::default();
    let key = tables::cluster::CLUSTER_VERSION;
    if let Some(text) = get(rows, Table::Cluster, key) {
        let parsed = std::str::from_utf8(text).ok().and_then(Version::parse);
        version.version =
            Some(parsed.ok_or_else(|| damaged(Table::Cluster, key, "the value is no version"))?);
    }
    let key = tables::cluster::DOWNGRADE;
    if let Some(json) = get(rows, Table::Cluster, key) {
        version.downgrade_target = membership::downgrade_from_json(json)
            .map_err(|error| damaged(Table::Cluster, key, error))?;
    }
    Ok(version)
}

/// The later of the two markers: what was scheduled before a restart is in force after it.
fn compacted_revision(rows: &Rows) -> Result<i64, Fault> {
    let mut compacted = -1;
    for key in [
        tables::meta::SCHEDULED_COMPACT_REV,
        tables::meta::FINISHED_COMPACT_REV,
    ] {
        if let Some(value) = get(rows, Table::Meta, key) {
            let main = value.first_chunk().map(|main| i64::from_be_bytes(*main));
            let main = main
                .filter(|main| *main >= 0)
                .ok_or_else(|| damaged(Table::Meta, key, "the value is no revision"))?;
            compacted = compacted.max(main);
        }
    }
    Ok(compacted)
}

fn auth_of(
    rows: &Rows,
    version: &ClusterVersion,
) -> Result<(auth::Store, auth::MissingRevision), Fault> {
    let (store, missing) = auth::restore(rows, version.is_at_least(3, 7))?;
    if planted!(AuthNotRestored) {
        return Ok((auth::Store::new(), missing));
    }
    Ok((store, missing))
}

pub(crate) fn damaged(table: Table, key: &[u8], what: impl std::fmt::Display) -> Fault {
    Fault::new(
        FaultKind::Corrupted,
        format!(
            "table {}, key \"{}\": {what}; the member cannot start. Remove it from the cluster and add it again, or restore from a snapshot.",
            table.name(),
            key.escape_ascii()
        ),
    )
}
