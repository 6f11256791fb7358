//! A checkpoint: the order in which what is in memory becomes what a restart begins with.
//!
//! 1. The segments are written and synced, as far as they go.
//! 2. One commit of the catalog names the applied index, the tables and the ends of the segments.
//! 3. Files that no commit names any more are removed.
//!
//! A crash before 2 leaves the checkpoint before this one, complete; a crash after 2 leaves this one, and perhaps files
//! that the next open removes. After it has returned, the raft log may be cut up to the applied index, and not before.
//!
//! It never decides when to run, nor on which thread. Start with [`CheckpointJob::run`].

#[cfg(test)]
mod tests;

use crate::catalog::{Catalog, Commit, Op, REPLACES_LOG, Table, position_bytes};
use crate::fault::Fault;
use crate::segments::{FlushJob, Flushed};

/// One checkpoint, as a value that owns what it will write.
pub struct CheckpointJob {
    flush: FlushJob,
    commit: Commit,
}

/// A checkpoint that is durable.
pub struct CheckpointDone {
    /// For [`crate::segments::Segments::flushed`].
    pub flushed: Flushed,
    /// Index and term up to which the raft log is no longer needed for this member's restart.
    pub applied: (u64, u64),
}

impl CheckpointJob {
    /// A checkpoint of everything up to the entry `applied` (index, term): what `flush` holds, and the changes of the
    /// tables since the last checkpoint.
    pub fn new(flush: FlushJob, applied: (u64, u64), ops: Vec<Op>) -> CheckpointJob {
        let segments = flush.ends().to_vec();
        CheckpointJob {
            flush,
            commit: Commit {
                applied,
                clear: false,
                ops,
                segments,
            },
        }
    }

    /// The same, for a store that replaces another (a snapshot from a peer): the tables hold `ops` and nothing else.
    pub fn replacing(flush: FlushJob, applied: (u64, u64), ops: Vec<Op>) -> CheckpointJob {
        let job = CheckpointJob::new(flush.sweeping(), applied, ops);
        CheckpointJob {
            commit: Commit {
                clear: true,
                ..job.commit
            },
            ..job
        }
    }

    /// Notes in the same commit that the raft log of before is void unless it has the applied entry. Catalog and log are two
    /// files: a crash between the commit and the log's marker is finished by the next start, which tells it from a log that
    /// has lost its end by this note ([`crate::catalog::Recovered::replaces_log`]).
    #[must_use]
    pub fn replacing_log(mut self) -> CheckpointJob {
        let position = position_bytes(self.commit.applied);
        self.commit
            .ops
            .push((Table::Local, REPLACES_LOG.to_vec(), Some(position)));
        self
    }

    /// Index and term this checkpoint will stand for.
    pub fn applied(&self) -> (u64, u64) {
        self.commit.applied
    }

    /// Bytes of records it will write.
    pub fn bytes(&self) -> u64 {
        self.flush.bytes()
    }

    /// Runs the three steps.
    ///
    /// # Errors
    /// Of kind [`crate::fault::FaultKind::NoSpace`] if the disk is full: the checkpoint before this one stands, nothing
    /// acknowledged is lost (the raft log has it); keep the job and run it again when there is room. Any other [`Fault`] is
    /// final: the member stops.
    pub fn run(&self, catalog: &mut Catalog) -> Result<CheckpointDone, Fault> {
        let flushed = self.flush.run()?;
        if crate::planted!(IndexApartFromData) {
            catalog.commit(&Commit {
                applied: catalog.applied(),
                ..self.commit.clone()
            })?;
        }
        if crate::planted!(OldFileRemovedFirst) {
            self.flush.remove_obsolete()?;
        }
        catalog.commit(&self.commit)?;
        self.flush.remove_obsolete()?;
        Ok(CheckpointDone {
            flushed,
            applied: self.commit.applied,
        })
    }
}
