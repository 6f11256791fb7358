//! `defrag --data-dir`: gives space back that a compaction has freed, on a data directory that no member uses.
//!
//! Does what a member does by itself in the background, to the end: drops what is dead, rewrites segments that are partly
//! dead, and makes that durable with one checkpoint. The raft log is not touched. A crash leaves the store as it was before or
//! as it is after.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use state::{Params, State};
use storage::catalog::Catalog;
use storage::datadir::{self, DataDir, Layout, Permissions};
use storage::disk::OsDisk;
use storage::fault::{Fault, FaultKind};
use storage::segments::SegmentsOptions;

use crate::{Failure, os_error};

/// Segments with a larger share of live bytes are left alone, as by `Maintenance.Defragment`.
const LIVE_SHARE_MAX: f64 = 0.95;
/// How often a lock is tried that another process holds.
const LOCK_EVERY: Duration = Duration::from_millis(50);

pub(crate) fn run(data_dir: &Path, timeout: Duration) -> Result<(), Failure> {
    defragment(data_dir, timeout).map_err(|why| {
        let data_dir = data_dir.display();
        format!("Failed to defragment etcd data[{data_dir}] ({why})").into()
    })
}

fn defragment(data_dir: &Path, timeout: Duration) -> Result<(), String> {
    let layout = Layout::new(data_dir, None);
    let store = layout.store_dir();
    let snap = layout.member_dir().join("snap");
    if snap.exists() {
        return Err(format!(
            "{} is the data of an etcd member; use etcd's own tool",
            snap.display()
        ));
    }
    std::fs::metadata(&store).map_err(|error| os_error("stat", &store, &error))?;
    let text = |fault: Fault| fault.to_string();
    let held = acquire(&layout, timeout).map_err(text)?;
    assert_eq!(
        held.state(),
        datadir::State::Member,
        "there is a store, so there is a member"
    );
    let disk = Arc::new(OsDisk);
    let (mut catalog, recovered) = Catalog::open(disk.clone(), &store).map_err(text)?;
    let Some(recovered) = recovered else {
        // Nothing has been stored outside of the log yet.
        return Ok(());
    };
    let options = SegmentsOptions::default();
    let mut state =
        State::open(Params::default(), recovered, disk, &store, options).map_err(text)?;
    while state.maintain(usize::MAX) {}
    // Only sealed segments that are on disk are rewritten.
    state.seal_early();
    let sealed = state.checkpoint().run(&mut catalog).map_err(text)?;
    state.checkpointed(sealed);
    while let Some(job) = state.rewrite(LIVE_SHARE_MAX) {
        let rewritten = job.run().map_err(text)?;
        state.rewritten(rewritten);
    }
    let done = state.checkpoint().run(&mut catalog).map_err(text)?;
    state.checkpointed(done);
    Ok(())
}

/// Takes the directory, waiting for whoever uses it; a timeout of zero waits without end.
fn acquire(layout: &Layout, timeout: Duration) -> Result<DataDir, Fault> {
    let began = Instant::now();
    loop {
        match DataDir::acquire(Arc::new(OsDisk), layout.clone(), Permissions::Warn) {
            Err(fault)
                if fault.kind() == FaultKind::Locked
                    && (timeout.is_zero() || began.elapsed() < timeout) =>
            {
                std::thread::sleep(LOCK_EVERY);
            }
            result => return result,
        }
    }
}
