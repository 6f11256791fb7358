//! The store worker: writes checkpoints and rewritten segments in the background.

use storage::catalog::Catalog;
use storage::checkpoint::{CheckpointDone, CheckpointJob};
use storage::fault::{Fault, FaultKind};
use storage::segments::{RewriteJob, Rewritten};

use crate::snapshots::Received;

/// One piece of background writing. It owns all it needs; the state may go on changing.
pub enum StoreJob {
    /// Make everything that was applied when the job was made durable.
    Checkpoint(CheckpointJob),
    /// Copy what lives of a mostly dead segment.
    Rewrite(RewriteJob),
    /// Let a received snapshot take the place of the store.
    Replace(Box<Received>),
}

/// A job that has ended, for [`super::ApplyWorker::stored`].
pub enum StoreDone {
    Checkpoint(CheckpointDone),
    Rewrite(Rewritten),
    /// There was no room for the copy; the segment stays as it is.
    RewriteAbandoned(Fault),
    /// The store is the received one.
    Replaced(Box<Received>, CheckpointDone),
}

/// Why a job has not ended.
pub enum StoreError {
    /// The disk is full. Run the job again later: nothing is lost meanwhile, because the log is cut only up to what a
    /// checkpoint holds.
    NoSpace(Box<StoreJob>, Fault),
    /// The member must stop.
    Fault(Fault),
}

/// Owner of the catalog.
pub struct StoreWorker {
    catalog: Catalog,
}

impl StoreWorker {
    pub(crate) fn new(catalog: Catalog) -> Self {
        StoreWorker { catalog }
    }

    /// Does the job.
    pub fn run(&mut self, job: StoreJob) -> Result<StoreDone, StoreError> {
        match job {
            StoreJob::Checkpoint(checkpoint) => match checkpoint.run(&mut self.catalog) {
                Ok(done) => Ok(StoreDone::Checkpoint(done)),
                Err(fault) if fault.kind() == FaultKind::NoSpace => Err(StoreError::NoSpace(
                    Box::new(StoreJob::Checkpoint(checkpoint)),
                    fault,
                )),
                Err(fault) => Err(StoreError::Fault(fault)),
            },
            StoreJob::Replace(received) => match received.job.run(&mut self.catalog) {
                Ok(done) => Ok(StoreDone::Replaced(received, done)),
                Err(fault) if fault.kind() == FaultKind::NoSpace => Err(StoreError::NoSpace(
                    Box::new(StoreJob::Replace(received)),
                    fault,
                )),
                Err(fault) => Err(StoreError::Fault(fault)),
            },
            StoreJob::Rewrite(rewrite) => match rewrite.run() {
                Ok(done) => Ok(StoreDone::Rewrite(done)),
                Err(fault) if fault.kind() == FaultKind::NoSpace => {
                    Ok(StoreDone::RewriteAbandoned(fault))
                }
                Err(fault) => Err(StoreError::Fault(fault)),
            },
        }
    }
}
