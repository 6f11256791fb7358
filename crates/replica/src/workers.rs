//! The workers: plain structs that own their data and turn a job into a completion.
//!
//! The server gives each a thread, the simulator runs them from its event queue. [`LogWorker`] makes entries durable,
//! [`ApplyWorker`] owns the replicated state, [`StoreWorker`] writes it to disk in the background.

mod apply;
mod log;
mod store;

pub use apply::{
    Answer, ApplyDone, ApplyJob, ApplyOutput, ApplyWorker, Installed, Maintained, Published,
    Replaced, Stored,
};
pub use log::{LogDone, LogJob, LogWorker};
pub use store::{StoreDone, StoreError, StoreJob, StoreWorker};
