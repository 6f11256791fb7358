//! Every crash of checkpoints, rewrites, removals and changes of the catalog's generation, and what is found after it.
//!
//! The scenario writes a short history with deletes and compactions, as the state machine does. After each operation on
//! the disk every crash state (or a seeded sample) is opened again. The claims:
//!
//! - the catalog stands at a checkpoint that was made, and none that was acknowledged is lost;
//! - every record that is live at that checkpoint is there, intact, and a restart brings nothing dead back to life;
//! - going on from there and crashing again changes none of this.
//!
//! Variants with a planted defect must be caught by the same enumeration: else it would prove nothing.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::*;
use crate::catalog::{Recovered, Table};
use crate::disk::enumerate::{Limits, crash_states};
use crate::disk::{Disk, File, Lock, MemDisk, Open};
use crate::segments::{Revision, Segments, SegmentsOptions};

const DIR: &str = "member/store";
const BATCH: u64 = 7;

fn options() -> SegmentsOptions {
    SegmentsOptions {
        segment_bytes: 700,
        hot_bytes: 0,
        salt: 1,
        sequence_first: 1,
    }
}

// The history: entry `n` makes revision `n`, which puts or deletes one of five keys.

fn rev(n: u64) -> Revision {
    Revision {
        main: n as i64,
        sub: 0,
    }
}

fn key(n: u64) -> String {
    format!("key-{}", n * n % 5)
}

fn deletes(n: u64) -> bool {
    n.is_multiple_of(3)
}

fn kv(n: u64) -> Bytes {
    let mut kv = proto::mvccpb::KeyValue {
        key: key(n).into_bytes().into(),
        ..Default::default()
    };
    if !deletes(n) {
        kv.mod_revision = n as i64;
        kv.value = vec![n as u8; 60].into();
    }
    kv.encode_to_vec().into()
}

/// The revisions at or before `applied` that a compaction at `compacted` leaves, out of `present`.
fn live(present: &[u64], compacted: u64) -> Vec<u64> {
    let mut newest = BTreeMap::new();
    for &n in present.iter().filter(|n| **n <= compacted) {
        newest.insert(key(n), n);
    }
    present
        .iter()
        .copied()
        .filter(|n| *n > compacted || (newest[&key(*n)] == *n && !deletes(*n)))
        .collect()
}

/// One member's store, driven as the state machine drives it.
struct Store {
    segments: Segments,
    catalog: Catalog,
    applied: u64,
    compacted: u64,
}

type Wrap = fn(MemDisk) -> Arc<dyn Disk>;
type Run = fn(&CheckpointJob, &mut Catalog) -> Result<CheckpointDone, Fault>;

impl Store {
    fn open(disk: Arc<dyn Disk>) -> Result<Store, String> {
        let (mut catalog, recovered) =
            Catalog::open(disk.clone(), DIR).map_err(|fault| fault.to_string())?;
        catalog.garbage_bytes_min = 100;
        let Recovered {
            applied,
            segments: ends,
            tables,
        } = recovered.unwrap_or(Recovered {
            applied: (0, 0),
            segments: Vec::new(),
            tables: Default::default(),
        });
        let mut present = Vec::new();
        let segments = Segments::open_with(disk, DIR, &ends, options(), |meta| {
            present.push(meta.revision.main as u64)
        });
        let mut segments = segments.map_err(|fault| fault.to_string())?;
        let compacted = tables
            .get(Table::Meta, b"compacted")
            .map_or(0, |value| u64::from_le_bytes(value.try_into().unwrap()));
        let (applied, expected) = (
            applied.0,
            live(&(1..=applied.0).collect::<Vec<_>>(), compacted),
        );
        let found = live(&present, compacted);
        if found != expected {
            return Err(format!(
                "at {applied}, compacted at {compacted}: live {found:?}, expected {expected:?}"
            ));
        }
        let view = segments.view();
        for n in expected {
            let record = view
                .read(rev(n))
                .map_err(|fault| fault.to_string())?
                .ok_or(format!("revision {n} is gone"))?;
            if record.kv != kv(n) || record.tombstone != deletes(n) {
                return Err(format!("revision {n} is not what was written"));
            }
        }
        let through: Vec<Revision> = found
            .iter()
            .filter(|n| **n <= compacted)
            .map(|n| rev(*n))
            .collect();
        segments.keep_only(rev(compacted), &through);
        segments.check();
        Ok(Store {
            segments,
            catalog,
            applied,
            compacted,
        })
    }

    /// Applies a batch, compacts behind it, rewrites if worthwhile, and makes a checkpoint.
    fn round(&mut self, run: Run) -> Result<(), Fault> {
        for n in self.applied + 1..=self.applied + BATCH {
            self.segments.append(rev(n), deletes(n), kv(n));
        }
        self.applied += BATCH;
        self.compacted = self.applied - BATCH / 2;
        let all: Vec<u64> = (1..=self.applied).collect();
        let live = live(&all, self.compacted);
        for n in all.iter().filter(|n| live.binary_search(n).is_err()) {
            self.segments.mark_dead(rev(*n));
        }
        self.segments.check();
        if let Some(job) = self.segments.rewrite(0.8) {
            let rewritten = job.run()?;
            self.segments.rewritten(rewritten);
        }
        let ops = vec![(
            Table::Meta,
            b"compacted".to_vec(),
            Some(self.compacted.to_le_bytes().to_vec()),
        )];
        let job = CheckpointJob::new(self.segments.flush(), (self.applied, 1), ops);
        let done = run(&job, &mut self.catalog)?;
        assert_eq!(done.applied, (self.applied, 1));
        self.segments.flushed(done.flushed);
        self.segments.check();
        Ok(())
    }
}

/// Runs `rounds` checkpoints on a recording disk, then opens every crash of it. Returns how many states were looked at, and
/// what was wrong with those that were wrong.
fn crash_everywhere(wrap: Wrap, run: Run, rounds: u64) -> (u64, Vec<String>, u64) {
    let disk = MemDisk::new();
    disk.record();
    let mut acknowledged = vec![(0, 0)];
    let mut store = Store::open(wrap(disk.clone())).unwrap();
    for _ in 0..rounds {
        store.round(run).unwrap();
        acknowledged.push((disk.recorded(), store.applied));
    }
    let (mut states, mut bad) = (0, Vec::new());
    for (at, (op, after)) in disk.recording().into_iter().enumerate() {
        let least = acknowledged
            .iter()
            .rfind(|(recorded, _)| *recorded <= at + 1)
            .unwrap()
            .1;
        let limits = Limits {
            states_max: 256,
            seed: at as u64,
        };
        crash_states(&after, &limits, |crashed| {
            states += 1;
            let again = states % 16 == 0;
            if let Err(what) = check_recovery(&crashed, least, again.then_some((wrap, run))) {
                bad.push(format!("after operation {at} {op:?}: {what}"));
            }
        });
    }
    (states, bad, store.catalog.generation())
}

/// Opens a crashed disk; with `again`, also goes on, and crashes that everywhere.
fn check_recovery(disk: &MemDisk, least: u64, again: Option<(Wrap, Run)>) -> Result<(), String> {
    disk.record();
    let mut store = Store::open(again.map_or_else(
        || Arc::new(disk.clone()) as Arc<dyn Disk>,
        |(wrap, _)| wrap(disk.clone()),
    ))?;
    if store.applied < least || !store.applied.is_multiple_of(BATCH) {
        return Err(format!("opened at {}, acknowledged {least}", store.applied));
    }
    let Some((_, run)) = again else { return Ok(()) };
    let opened = store.applied;
    store.round(run).map_err(|fault| fault.to_string())?;
    let named = store.segments.count();
    let files = disk
        .list(Path::new(DIR))
        .unwrap()
        .iter()
        .filter(|name| name.ends_with(".seg"))
        .count();
    if files > named {
        return Err(format!("{files} segment files for {named} segments"));
    }
    let acknowledged_at = disk.recorded();
    let mut result = Ok(());
    for (at, (_, after)) in disk.recording().into_iter().enumerate() {
        let least = if at + 1 >= acknowledged_at {
            store.applied
        } else {
            opened
        };
        crash_states(
            &after,
            &Limits {
                states_max: 4,
                seed: at as u64,
            },
            |crashed| {
                if let Err(what) = check_recovery(&crashed, least, None) {
                    result = Err(format!("crashed again: {what}"));
                }
            },
        );
    }
    result
}

fn honest(disk: MemDisk) -> Arc<dyn Disk> {
    Arc::new(disk)
}

#[test]
fn no_crash_loses_a_checkpoint_or_damages_what_it_names() {
    let (states, bad, generation) = crash_everywhere(honest, CheckpointJob::run, 20);
    assert!(
        generation > 2,
        "the scenario reaches generation {generation}"
    );
    assert!(states > 2000, "only {states} states");
    assert!(
        bad.is_empty(),
        "{} of {states} states: {}",
        bad.len(),
        bad[0]
    );
}

#[test]
fn a_commit_before_the_segments_are_synced_is_caught() {
    let run: Run = |job, catalog| {
        catalog.commit(&job.commit)?;
        let flushed = job.flush.run()?;
        job.flush.remove_obsolete()?;
        Ok(CheckpointDone {
            flushed,
            applied: job.commit.applied,
        })
    };
    assert!(!crash_everywhere(honest, run, 4).1.is_empty());
}

#[test]
fn a_removal_before_the_commit_is_caught() {
    let run: Run = |job, catalog| {
        let flushed = job.flush.run()?;
        job.flush.remove_obsolete()?;
        catalog.commit(&job.commit)?;
        Ok(CheckpointDone {
            flushed,
            applied: job.commit.applied,
        })
    };
    assert!(!crash_everywhere(honest, run, 6).1.is_empty());
}

#[test]
fn an_acknowledgement_before_the_commit_is_caught() {
    // The commit of the job before is made when the next one runs.
    let run: Run = |job, catalog| {
        let flushed = job.flush.run()?;
        let applied = job.commit.applied;
        if catalog.applied().0 + 2 * BATCH <= applied.0 {
            catalog.commit(&job.commit)?;
        }
        Ok(CheckpointDone { flushed, applied })
    };
    assert!(!crash_everywhere(honest, run, 12).1.is_empty());
}

#[test]
fn a_disk_that_skips_directory_syncs_is_caught() {
    let wrap = |disk: MemDisk| Arc::new(Careless { disk, files: false }) as Arc<dyn Disk>;
    assert!(!crash_everywhere(wrap, CheckpointJob::run, 6).1.is_empty());
}

#[test]
fn a_disk_that_skips_file_syncs_is_caught() {
    let wrap = |disk: MemDisk| Arc::new(Careless { disk, files: true }) as Arc<dyn Disk>;
    assert!(!crash_everywhere(wrap, CheckpointJob::run, 6).1.is_empty());
}

#[test]
fn a_full_disk_postpones_a_checkpoint_and_loses_nothing() {
    let disk = MemDisk::new();
    let mut store = Store::open(Arc::new(disk.clone())).unwrap();
    store.round(CheckpointJob::run).unwrap();
    for n in store.applied + 1..=store.applied + BATCH {
        store.segments.append(rev(n), deletes(n), kv(n));
    }
    store.applied += BATCH;
    let used: u64 = 700;
    let job = CheckpointJob::new(store.segments.flush(), (store.applied, 1), Vec::new());
    let mut done = None;
    // Ever more room: the job is refused at every place where the disk can be full, and then works as if nothing was.
    for capacity in used.. {
        disk.faults(|faults| faults.capacity_bytes = Some(capacity));
        match job.run(&mut store.catalog) {
            Ok(finished) => {
                done = Some(finished);
                break;
            }
            Err(fault) => assert_eq!(fault.kind(), crate::fault::FaultKind::NoSpace, "{fault}"),
        }
        let copy = disk.fork();
        copy.faults(|faults| faults.capacity_bytes = None);
        copy.crash(&mut |options: usize| options - 1);
        let reopened = Store::open(Arc::new(copy)).unwrap();
        assert!(reopened.applied == BATCH || reopened.applied == 2 * BATCH);
    }
    store.segments.flushed(done.unwrap().flushed);
    drop(store);
    assert_eq!(Store::open(Arc::new(disk)).unwrap().applied, 2 * BATCH);
}

#[test]
fn after_a_failed_sync_nothing_is_written_any_more() {
    let disk = MemDisk::new();
    let mut store = Store::open(Arc::new(disk.clone())).unwrap();
    store.segments.append(rev(1), deletes(1), kv(1));
    let job = CheckpointJob::new(store.segments.flush(), (1, 1), Vec::new());
    disk.faults(|faults| faults.failing_syncs = 1);
    let fault = job.run(&mut store.catalog).err().unwrap();
    assert_eq!(fault.kind(), crate::fault::FaultKind::SyncFailed);
    let operations = disk.operations();
    assert_eq!(job.run(&mut store.catalog).err().unwrap(), fault);
    assert_eq!(disk.operations(), operations);
}

#[test]
fn a_view_taken_before_rewrites_reads_on_from_the_files_they_replaced() {
    let disk = MemDisk::new();
    let mut store = Store::open(Arc::new(disk.clone())).unwrap();
    store.round(CheckpointJob::run).unwrap();
    store.round(CheckpointJob::run).unwrap();
    let view = store.segments.view();
    let mut before = Vec::new();
    view.scan(rev(0), rev(1000), |record| {
        before.push(record);
        ControlFlow::Continue(())
    })
    .unwrap();
    for _ in 0..5 {
        store.round(CheckpointJob::run).unwrap();
    }
    let mut after = Vec::new();
    view.scan(rev(0), rev(1000), |record| {
        after.push(record);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(before, after);
    assert!(
        store
            .segments
            .view()
            .read(before[0].revision)
            .unwrap()
            .is_none(),
        "the first one is long dead and gone"
    );
}

/// A disk that says it has synced, and has not: directories always, segment files too with `files`.
struct Careless {
    disk: MemDisk,
    files: bool,
}

struct CarelessFile(Arc<dyn File>);

impl Disk for Careless {
    fn create_dir_all(&self, path: &Path) -> std::io::Result<()> {
        self.disk.create_dir_all(path)
    }
    fn open(&self, path: &Path, how: Open) -> std::io::Result<Arc<dyn File>> {
        let file = self.disk.open(path, how)?;
        let careless = self.files && path.extension().is_some_and(|extension| extension == "seg");
        Ok(if careless {
            Arc::new(CarelessFile(file))
        } else {
            file
        })
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> std::io::Result<()> {
        self.disk.remove(path)
    }
    fn list(&self, dir: &Path) -> std::io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn exists(&self, path: &Path) -> std::io::Result<bool> {
        self.disk.exists(path)
    }
    fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
        if self.files {
            self.disk.sync_dir(dir)
        } else {
            Ok(())
        }
    }
    fn lock(&self, path: &Path) -> std::io::Result<Box<dyn Lock>> {
        self.disk.lock(path)
    }
    fn free_space(&self, path: &Path) -> std::io::Result<u64> {
        self.disk.free_space(path)
    }
    fn mode(&self, path: &Path) -> std::io::Result<u32> {
        self.disk.mode(path)
    }
    fn is_dir(&self, path: &Path) -> std::io::Result<bool> {
        self.disk.is_dir(path)
    }
}

impl File for CarelessFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }
    fn sync(&self) -> std::io::Result<()> {
        Ok(())
    }
}
