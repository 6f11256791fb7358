//! The catalog: everything small that a member keeps, and the one commit that says how far all the rest is valid.
//!
//! Leases, users, roles, members, alarms and markers live here in tables named as etcd's buckets, held in memory and kept
//! on disk as a log of commits. One [`Commit`] names the applied raft index, the changes of the tables, and the end of each
//! segment ([`SegmentEnd`]): after a crash all of that is there or none of it. When garbage outweighs content the log is
//! written anew as the next *generation* and swapped in with one rename.
//!
//! What it never does: it is not on the path of a request. Durability of a put is the raft log's; a commit here happens in
//! the background, after the segments it names are synced ([`crate::checkpoint`]), and lets the raft log be cut.
//!
//! Bytes depend on commits alone, in order: no clock, no random iteration, so a seed replays every crash
//! (`docs/decisions/0002-catalog-as-a-log.md`). The format is drawn in `docs/formats/catalog.md`.
//!
//! Start with [`Catalog::open`] and [`Catalog::commit`].

mod format;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, File, Open};
use crate::fault::{Fault, FaultKind};
use crate::segments::SegmentEnd;
use format::{Frame, FrameWriter, Mark};

/// A table, named as the etcd bucket whose content it holds.
///
/// The numbers are on disk: a new table gets a new number, an old number is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    /// `meta`: consistent index, compaction markers, conf state, storage version.
    Meta = 1,
    /// `lease`.
    Lease = 2,
    /// `auth`.
    Auth = 3,
    /// `authUsers`.
    AuthUsers = 4,
    /// `authRoles`.
    AuthRoles = 5,
    /// `members`.
    Members = 6,
    /// `members_removed`.
    MembersRemoved = 7,
    /// `cluster`.
    Cluster = 8,
    /// `alarm`.
    Alarm = 9,
    /// The tree of the v2 API, which etcd keeps outside bbolt.
    V2 = 10,
    /// What concerns this member's own files and nobody else: never part of a hash or of a snapshot.
    Local = 11,
}

impl Table {
    /// All tables, in the order of their numbers.
    pub const ALL: [Table; 11] = [
        Table::Meta,
        Table::Lease,
        Table::Auth,
        Table::AuthUsers,
        Table::AuthRoles,
        Table::Members,
        Table::MembersRemoved,
        Table::Cluster,
        Table::Alarm,
        Table::V2,
        Table::Local,
    ];

    /// etcd's name of the bucket.
    pub fn name(self) -> &'static str {
        match self {
            Table::Meta => "meta",
            Table::Lease => "lease",
            Table::Auth => "auth",
            Table::AuthUsers => "authUsers",
            Table::AuthRoles => "authRoles",
            Table::Members => "members",
            Table::MembersRemoved => "members_removed",
            Table::Cluster => "cluster",
            Table::Alarm => "alarm",
            Table::V2 => "v2",
            Table::Local => "local",
        }
    }

    fn from_number(number: u32) -> Option<Table> {
        Table::ALL.into_iter().find(|table| *table as u32 == number)
    }
}

/// The content of all tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    maps: BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Bytes of keys and values, with a little for each pair.
    bytes: u64,
}

/// What a pair costs on disk beside its bytes, about.
const PAIR_BYTES: u64 = 8;

impl Tables {
    /// The value of a key.
    pub fn get(&self, table: Table, key: &[u8]) -> Option<&[u8]> {
        self.maps.get(&table)?.get(key).map(Vec::as_slice)
    }

    /// All pairs of a table, by key.
    pub fn iter(&self, table: Table) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.maps
            .get(&table)
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    /// The number of pairs in a table.
    pub fn len(&self, table: Table) -> usize {
        self.maps.get(&table).map_or(0, BTreeMap::len)
    }

    /// Whether no table has anything.
    pub fn is_empty(&self) -> bool {
        self.maps.values().all(BTreeMap::is_empty)
    }

    fn apply(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) {
        let map = self.maps.entry(table).or_default();
        let old = match value {
            Some(value) => {
                self.bytes += key.len() as u64 + value.len() as u64 + PAIR_BYTES;
                map.insert(key.to_vec(), value.to_vec())
            }
            None => map.remove(key),
        };
        if let Some(old) = old {
            self.bytes -= key.len() as u64 + old.len() as u64 + PAIR_BYTES;
        }
    }
}

/// One change of a table: the key's new value, or `None` to remove it.
pub type Op = (Table, Vec<u8>, Option<Vec<u8>>);

/// What becomes durable together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Index and term of the last raft entry whose effects are in the tables and segments. Never goes back.
    pub applied: (u64, u64),
    /// Whether the tables are emptied before `ops`: a store replaced by a snapshot from a peer.
    pub clear: bool,
    /// Changes of tables, in order.
    pub ops: Vec<Op>,
    /// How far each segment is valid, in order. Replaces the list of the commit before.
    pub segments: Vec<SegmentEnd>,
}

/// What the last commit has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// As in [`Commit::applied`].
    pub applied: (u64, u64),
    /// As in [`Commit::segments`]; for [`crate::segments::Segments::open`].
    pub segments: Vec<SegmentEnd>,
    /// All tables.
    pub tables: Tables,
}

impl Recovered {
    /// Whether the store, as it is, came from another member and replaced the one before it
    /// ([`crate::checkpoint::CheckpointJob::replacing_log`]). A raft log that does not have the applied entry is then
    /// older than the store, and void; without this it has lost something.
    pub fn replaces_log(&self) -> bool {
        self.tables.get(Table::Local, REPLACES_LOG) == Some(&position_bytes(self.applied)[..])
    }
}

/// Key in [`Table::Local`] of the position (index, term; 8 bytes each, big endian) whose store replaced the log.
pub(crate) const REPLACES_LOG: &[u8] = b"replaces_log";

pub(crate) fn position_bytes((index, term): (u64, u64)) -> Vec<u8> {
    [index.to_be_bytes(), term.to_be_bytes()].concat()
}

/// The catalog, owned by the one thread that commits.
pub struct Catalog {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    generation: u64,
    file: Arc<dyn File>,
    writer: FrameWriter,
    /// The offset behind the last good frame.
    end: u64,
    /// The offset behind the base this generation began with.
    base_end: u64,
    tables: Tables,
    mark: Option<Mark>,
    poison: Option<Fault>,
    /// [`GARBAGE_BYTES_MIN`], but for tests.
    pub(crate) garbage_bytes_min: u64,
}

/// A generation may carry so much garbage whatever its content.
const GARBAGE_BYTES_MIN: u64 = 1 << 20;
/// About how many bytes of pairs one frame of a base holds.
const BASE_FRAME_BYTES: u64 = 256 << 10;

impl Catalog {
    /// Opens the newest generation in `dir` and returns what its last commit says, or `None` if there never was one. A
    /// torn last commit, which nobody was told of, is cut. Creates the directory and an empty catalog if there is none.
    ///
    /// # Errors
    /// A [`Fault`] that names file and byte if anything but the last commit is damaged; one of kind [`FaultKind::Gap`] if
    /// there is no catalog but `dir` has segments, which a new catalog would disown.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: impl Into<PathBuf>,
    ) -> Result<(Catalog, Option<Recovered>), Fault> {
        let dir = dir.into();
        crate::disk::create_dir_durable(&*disk, &dir)
            .map_err(|error| Fault::write_failed(dir.display(), &error))?;
        let generations = read::generations(&*disk, &dir)?;
        let Some(newest) = generations.newest else {
            let catalog = Catalog::create(disk, dir)?;
            return Ok((catalog, None));
        };
        let path = log_path(&dir, newest);
        let file = disk
            .open(&path, Open::Write)
            .map_err(|error| Fault::read_failed(path.display(), &error))?;
        let log = read::read_log(&*file, &path, newest)?;
        if log.len > log.end {
            file.set_len(log.end)
                .map_err(|error| Fault::write_failed(path.display(), &error))?;
        }
        // If a failed sync was the end of the process before, the system takes the last commit for written, though it is not:
        // only what is written again is synced.
        file.write_at(log.end - log.last.len() as u64, &log.last)
            .map_err(|error| Fault::write_failed(path.display(), &error))?;
        // Also without a torn end: a killed process leaves a commit that we can read and a power cut would take away, and what a
        // start does with it (a log that begins again behind it) must not outlive it.
        file.sync()
            .map_err(|error| Fault::sync_failed(path.display(), &error))?;
        for name in &generations.strays {
            let stray = dir.join(name);
            disk.remove(&stray)
                .map_err(|error| Fault::write_failed(stray.display(), &error))?;
        }
        let read::Log {
            tables,
            mark,
            writer,
            end,
            base_end,
            ..
        } = log;
        let recovered = mark.as_ref().map(|mark| recovered(mark, &tables));
        let catalog = Catalog {
            disk,
            dir,
            generation: newest,
            file,
            writer,
            end,
            base_end,
            tables,
            mark,
            poison: None,
            garbage_bytes_min: GARBAGE_BYTES_MIN,
        };
        Ok((catalog, recovered))
    }

    /// What the last commit says, without changing anything on disk: for offline tools.
    ///
    /// # Errors
    /// As [`Catalog::open`]; [`FaultKind::Gap`] also if there is no catalog at all.
    pub fn inspect(disk: &dyn Disk, dir: &Path) -> Result<Option<Recovered>, Fault> {
        let Some(newest) = read::generations(disk, dir)?.newest else {
            return Err(Fault::gap(
                format_args!("catalog in {}", dir.display()),
                "there is none",
            ));
        };
        let path = log_path(dir, newest);
        let file = disk
            .open(&path, Open::Read)
            .map_err(|error| Fault::read_failed(path.display(), &error))?;
        let log = read::read_log(&*file, &path, newest)?;
        Ok(log.mark.as_ref().map(|mark| recovered(mark, &log.tables)))
    }

    /// Makes a commit durable: one write, one sync. The segments it names must be synced before.
    ///
    /// When garbage outweighs content, the catalog then also writes its next generation.
    ///
    /// # Errors
    /// [`FaultKind::NoSpace`] if the disk is full: nothing has changed, the same commit may be tried again. Any other
    /// [`Fault`] is final: every later commit returns it again.
    ///
    /// # Panics
    /// If the applied index goes back.
    pub fn commit(&mut self, commit: &Commit) -> Result<(), Fault> {
        if let Some(fault) = &self.poison {
            return Err(fault.clone());
        }
        let before = self.mark.as_ref().map_or(0, |mark| mark.index);
        assert!(
            commit.clear || commit.applied.0 >= before,
            "applied index goes back from {before} to {}",
            commit.applied.0
        );
        let result = self.write_commit(commit);
        self.keep_poison(result)?;
        if self.end - self.base_end > self.garbage_bytes_min + self.tables.bytes {
            let result = self.next_generation();
            match self.keep_poison(result) {
                // The commit itself is durable; the next one tries again.
                Err(fault) if fault.kind() == FaultKind::NoSpace => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// The tables as of the last commit.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Index and term of the last commit, zeros before the first.
    pub fn applied(&self) -> (u64, u64) {
        self.mark
            .as_ref()
            .map_or((0, 0), |mark| (mark.index, mark.term))
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.end
    }

    /// How often the catalog was written anew.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn create(disk: Arc<dyn Disk>, dir: PathBuf) -> Result<Catalog, Fault> {
        let made = write_generation(&*disk, &dir, 1, &Tables::default(), None)?;
        let Made { file, writer, end } = made;
        Ok(Catalog {
            disk,
            dir,
            generation: 1,
            file,
            writer,
            end,
            base_end: end,
            tables: Tables::default(),
            mark: None,
            poison: None,
            garbage_bytes_min: GARBAGE_BYTES_MIN,
        })
    }

    fn write_commit(&mut self, commit: &Commit) -> Result<(), Fault> {
        let path = log_path(&self.dir, self.generation);
        let mark = Mark::of(commit);
        let (bytes, writer) = self.writer.frame(&Frame::commit(commit, mark.clone()));
        if let Err(error) = self.file.write_at(self.end, &bytes) {
            // Best effort: a leftover would be taken for a torn commit and cut, or overwritten by the next.
            let _ = self.file.set_len(self.end);
            return Err(Fault::write_failed(path.display(), &error));
        }
        self.file
            .sync()
            .map_err(|error| Fault::sync_failed(path.display(), &error))?;
        self.writer = writer;
        self.end += bytes.len() as u64;
        if commit.clear {
            self.tables = Tables::default();
        }
        for (table, key, value) in &commit.ops {
            self.tables.apply(*table, key, value.as_deref());
        }
        self.mark = Some(mark);
        Ok(())
    }

    fn next_generation(&mut self) -> Result<(), Fault> {
        let old = log_path(&self.dir, self.generation);
        let made = write_generation(
            &*self.disk,
            &self.dir,
            self.generation + 1,
            &self.tables,
            self.mark.as_ref(),
        )?;
        self.generation += 1;
        Made {
            file: self.file,
            writer: self.writer,
            end: self.end,
        } = made;
        self.base_end = self.end;
        self.disk
            .remove(&old)
            .map_err(|error| Fault::write_failed(old.display(), &error))
    }

    fn keep_poison(&mut self, result: Result<(), Fault>) -> Result<(), Fault> {
        if let Err(fault) = &result
            && fault.kind() != FaultKind::NoSpace
        {
            self.poison = Some(fault.clone());
        }
        result
    }
}

fn recovered(mark: &Mark, tables: &Tables) -> Recovered {
    Recovered {
        applied: (mark.index, mark.term),
        segments: mark.segment_ends(),
        tables: tables.clone(),
    }
}

fn log_path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("catalog-{generation:016x}.log"))
}

fn new_path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("catalog-{generation:016x}.new"))
}

/// A generation that is complete and durable under its name.
struct Made {
    file: Arc<dyn File>,
    writer: FrameWriter,
    end: u64,
}

/// Writes a whole generation beside the log, syncs it, and only then gives it its name: whatever has a log's name is
/// complete.
fn write_generation(
    disk: &dyn Disk,
    dir: &Path,
    generation: u64,
    tables: &Tables,
    mark: Option<&Mark>,
) -> Result<Made, Fault> {
    let (new, log) = (new_path(dir, generation), log_path(dir, generation));
    let result = fill_generation(disk, &new, generation, tables, mark);
    if let Err(fault) = &result
        && fault.kind() == FaultKind::NoSpace
    {
        // If this fails too, the next open removes the file.
        let _ = disk.remove(&new);
    }
    let made = result?;
    disk.rename(&new, &log)
        .map_err(|error| Fault::write_failed(log.display(), &error))?;
    disk.sync_dir(dir)
        .map_err(|error| Fault::sync_failed(dir.display(), &error))?;
    Ok(made)
}

fn fill_generation(
    disk: &dyn Disk,
    path: &Path,
    generation: u64,
    tables: &Tables,
    mark: Option<&Mark>,
) -> Result<Made, Fault> {
    let failed = |error: std::io::Error| Fault::write_failed(path.display(), &error);
    let file = disk.open(path, Open::Create).map_err(failed)?;
    file.set_len(0).map_err(failed)?;
    let (header, mut writer) = FrameWriter::begin(generation);
    file.write_at(0, &header).map_err(failed)?;
    let mut end = header.len() as u64;
    let mut put = |frame: &Frame| {
        let (bytes, next) = writer.frame(frame);
        file.write_at(end, &bytes)?;
        writer = next;
        end += bytes.len() as u64;
        Ok(())
    };
    let (mut frame, mut frame_bytes) = (Frame::default(), 0);
    for table in Table::ALL {
        for (key, value) in tables.iter(table) {
            frame.push(table, key, Some(value));
            frame_bytes += (key.len() + value.len()) as u64 + PAIR_BYTES;
            if frame_bytes >= BASE_FRAME_BYTES {
                put(&std::mem::take(&mut frame)).map_err(failed)?;
                frame_bytes = 0;
            }
        }
    }
    if let Some(mark) = mark {
        frame.mark = Some(mark.clone());
        put(&frame).map_err(failed)?;
    }
    file.sync()
        .map_err(|error| Fault::sync_failed(path.display(), &error))?;
    Ok(Made { file, writer, end })
}
