//! The state machine: its parts, how it starts, and how it is made durable.
//!
//! One worker owns it, feeds it entries in log order ([`State::apply`]), publishes a view after each batch, and gives it a slice of time for tidying
//! now and then ([`State::maintain`]). What an entry does stands in [`crate::apply`](crate).

use std::path::PathBuf;
use std::sync::Arc;

use proto::raftpb::Entry;
use storage::catalog::{Recovered, Table};
use storage::checkpoint::{CheckpointDone, CheckpointJob};
use storage::disk::Disk;
use storage::fault::{Fault, FaultKind};
use storage::segments::{RewriteJob, Rewritten, Segments, SegmentsOptions};

use crate::apply;
use crate::auth;
use crate::lease;
use crate::mvcc::Store;
use crate::mvcc::kept::{HashDone, HashJob};
use crate::mvcc::load::Loader;
use crate::outcome::Applied;
use crate::restore;
use crate::tables::{self, Tables};
use crate::version::Version;
use crate::view::{ReadView, Small};

/// What etcd lets each member decide by its configuration although it is used when applying. All members must agree on the first four.
#[derive(Clone, Debug)]
pub struct Params {
    /// Shorter TTLs are raised to this many seconds: one and a half election timeouts, rounded up.
    pub lease_ttl_min_s: i64,
    /// Whether checkpoints of leases are stored before the cluster version is 3.6, from when on they always are.
    pub lease_checkpoint_persist: bool,
    /// Learners the cluster may have at a time.
    pub learners_max: usize,
    /// The version this member implements. It stops if the cluster agrees on a newer one.
    pub version: Version,
    /// Above so many bytes of files a write is answered "no space". `None` is no quota. May differ between members.
    pub quota_bytes: Option<u64>,
}

impl Default for Params {
    /// etcd 3.7 with default settings.
    fn default() -> Params {
        Params {
            lease_ttl_min_s: 2,
            lease_checkpoint_persist: false,
            learners_max: 1,
            version: Version::new(3, 7, 1),
            quota_bytes: Some(2 << 30),
        }
    }
}

/// Everything the cluster agrees on.
pub struct State {
    pub(crate) params: Params,
    pub(crate) store: Store,
    pub(crate) leases: lease::Table,
    pub(crate) tables: Tables,
    pub(crate) small: Arc<Small>,
    /// Index and term of the last entry applied.
    pub(crate) applied: (u64, u64),
    /// Set by the first fault; nothing is applied after it, because an entry may be applied in part.
    fault: Option<Fault>,
}

impl State {
    /// The state before the first entry.
    ///
    /// # Errors
    /// A fault, if the segments' directory cannot be used.
    pub fn create(
        params: Params,
        disk: Arc<dyn Disk>,
        dir: impl Into<PathBuf>,
        options: SegmentsOptions,
    ) -> Result<State, Fault> {
        let segments = Segments::create(disk, dir, options)?;
        let mut tables = Tables::default();
        // etcd's auth store counts from 1 and writes that down when it first starts.
        tables.set(Table::Auth, tables::auth::AUTH_REVISION, 1u64.to_be_bytes());
        let mut state = State::new(params, Store::new(segments), tables);
        state.small_mut().auth = auth::Store::new();
        Ok(state)
    }

    /// The state as of the last checkpoint.
    ///
    /// # Errors
    /// A fault, if what was stored is damaged, contradicts itself, or holds what this version does not understand.
    pub fn open(
        params: Params,
        recovered: Recovered,
        disk: Arc<dyn Disk>,
        dir: impl Into<PathBuf>,
        options: SegmentsOptions,
    ) -> Result<State, Fault> {
        let Recovered {
            applied,
            segments: ends,
            tables,
        } = recovered;
        let mut loader = Loader::default();
        let mut first_fault = None;
        let segments = Segments::open_with(disk, dir, &ends, options, |meta| {
            if let Err(fault) = loader.push(meta) {
                first_fault.get_or_insert(fault);
            }
        })?;
        if let Some(fault) = first_fault {
            return Err(fault);
        }
        let rows = restore::rows_of(&tables);
        restore::state(params, segments, loader, rows, applied)
    }

    pub(crate) fn new(params: Params, store: Store, tables: Tables) -> State {
        State {
            params,
            store,
            leases: lease::Table::default(),
            tables,
            small: Arc::default(),
            applied: (0, 0),
            fault: None,
        }
    }

    /// Applies the next entry of the log.
    ///
    /// Total: whatever the entry holds, the answer is an [`Applied`], the same on every member. What a client may not do is a
    /// rejection in [`Applied::outcome`].
    ///
    /// # Errors
    /// A fault: a stored record cannot be read, the entry does not follow the last one, or this version does not
    /// understand it and so cannot know what the others do with it. The member must stop; every later call returns the
    /// same fault.
    pub fn apply(&mut self, entry: &Entry) -> Result<Applied, Fault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let result = self
            .check_follows(entry)
            .and_then(|()| apply::entry(self, entry));
        match &result {
            Ok(_) => self.applied = (entry.index(), entry.term()),
            Err(fault) => self.fault = Some(fault.clone()),
        }
        result
    }

    /// Index and term of the last entry applied.
    #[must_use]
    pub fn applied(&self) -> (u64, u64) {
        self.applied
    }

    /// The state as it is now. O(1).
    #[must_use]
    pub fn view(&self) -> ReadView {
        ReadView {
            index: self.store.index.clone(),
            past: self.store.past.clone(),
            segments: self.store.segments.view(),
            file_bytes: self.store.segments.total_bytes(),
            live_bytes: self.store.segments.live_bytes(),
            revision: self.store.revision,
            compacted: self.store.compacted,
            applied: self.applied,
            leases: self.leases.view(),
            small: Arc::clone(&self.small),
            rows: self.tables.rows(),
            hashes: self.store.hashes.clone(),
        }
    }

    /// Tidies up after a compaction, taking up to `budget` dead versions away. True if more is left.
    pub fn maintain(&mut self, budget: usize) -> bool {
        self.store.tidy(budget)
    }

    /// Whether [`State::maintain`] has anything to do.
    #[must_use]
    pub fn needs_maintenance(&self) -> bool {
        !self.store.is_tidy(self.store.compacted)
    }

    /// The next hash of a compaction to compute, for another thread. Hand the result to [`State::hashed`] before asking again;
    /// else the same job comes again.
    #[must_use]
    pub fn hash_job(&self) -> Option<HashJob> {
        self.store.hashes.next_job()
    }

    /// Keeps the hash of a compaction, and lets go of the view that it was taken from.
    pub fn hashed(&mut self, done: &HashDone) {
        self.store.hashes.done(done);
    }

    /// Whether the hash of the compaction at `revision` is still to be computed. One that is no longer kept is not.
    #[must_use]
    pub fn is_hash_wanted(&self, revision: i64) -> bool {
        self.store.hashes.is_wanted(revision)
    }

    /// Whether everything that the compaction at `revision` made unreachable has been tidied away.
    #[must_use]
    pub fn is_tidy(&self, revision: i64) -> bool {
        self.store.is_tidy(revision)
    }

    /// Everything applied so far, as a job that makes it durable; run it on another thread. One at a time: hand the result to
    /// [`State::checkpointed`] before asking for the next.
    #[must_use]
    pub fn checkpoint(&mut self) -> CheckpointJob {
        let changes = self.tables.take_changes();
        CheckpointJob::new(self.store.segments.flush(), self.applied, changes)
    }

    /// Takes note that a checkpoint is durable. The log may then be cut up to its index.
    pub fn checkpointed(&mut self, done: CheckpointDone) {
        self.store.segments.flushed(done.flushed);
    }

    /// A job that rewrites the sealed segment with the smallest share of live bytes, if that share is at most `live_share_max`. Run it
    /// on another thread, and hand the result to [`State::rewritten`] or, if it failed for lack of space, call [`State::rewrite_abandoned`].
    pub fn rewrite(&mut self, live_share_max: f64) -> Option<RewriteJob> {
        self.store.segments.rewrite(live_share_max)
    }

    /// Closes the segment that is being written, if something in it is dead, so that after the next checkpoint
    /// [`State::rewrite`] can give back that space too.
    pub fn seal_early(&mut self) {
        self.store.segments.seal_early();
    }

    /// Puts a rewritten segment into place. The old file goes with the next checkpoint.
    pub fn rewritten(&mut self, rewritten: Rewritten) {
        self.store.segments.rewritten(rewritten);
    }

    /// A rewrite did not come to an end.
    pub fn rewrite_abandoned(&mut self) {
        self.store.segments.rewrite_abandoned();
    }

    /// Gives up a state that no commit has named, and removes its files.
    ///
    /// # Errors
    /// A fault, if the disk fails.
    pub fn discard(self) -> Result<(), Fault> {
        self.store.segments.discard()
    }

    /// The segments, for sizes and statistics.
    #[must_use]
    pub fn segments(&self) -> &Segments {
        &self.store.segments
    }

    /// Bytes of memory that the key index takes, those it shares with views included. Walks the inner nodes: for statistics, not for
    /// every request.
    #[must_use]
    pub fn index_bytes(&self) -> u64 {
        self.store.index.memory_bytes()
    }

    /// The member's settings.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Changes what every view carries; copies it only if a view holds it.
    pub(crate) fn small_mut(&mut self) -> &mut Small {
        Arc::make_mut(&mut self.small)
    }

    fn check_follows(&self, entry: &Entry) -> Result<(), Fault> {
        let (index, term) = self.applied;
        if entry.index() == index + 1 && entry.term() >= term {
            return Ok(());
        }
        Err(Fault::new(
            FaultKind::Gap,
            format!(
                "entry {} of term {} was to be applied after entry {index} of term {term}; the log and the applied state do not belong \
                 together. Remove this member from the cluster and add it again, or restore from a snapshot.",
                entry.index(),
                entry.term()
            ),
        ))
    }
}
