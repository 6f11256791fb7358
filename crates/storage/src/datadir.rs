//! The data directory of a member: who may use it, what is in it, and how it comes into being.
//!
//! ```text
//!   <data-dir>/lock                held by the process that uses the directory
//!   <data-dir>/member/wal/         the raft log (or elsewhere: --wal-dir)
//!   <data-dir>/member/store/       segments and catalog
//!   <data-dir>/member.tmp/         a member being created; becomes member/ in one rename
//! ```
//!
//! A member exists when `member/` exists, and then it is whole: everything in it was durable before it got its name. A crash
//! during creation leaves `member.tmp/`, which says that its log is unfinished too (and where it is, in `wal-dir`, if that is
//! elsewhere); the next start throws both away. A log without either is the rest of a member that lost its store, and is refused: a member
//! that starts empty under an old name could vote twice.
//!
//! Whose directory it is stands in the log ([`crate::wal::Identity`]). This module never decides who this member should be,
//! and never touches the contents of the store. Start with [`DataDir::acquire`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{self, Disk, Lock, Open, parent_of};
use crate::fault::{Fault, FaultKind};
use crate::wal::{self, Identity, Recovered, Wal};

/// Where things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    data_dir: PathBuf,
    wal_dir: Option<PathBuf>,
}

impl Layout {
    /// The layout of `--data-dir`, and of `--wal-dir` if it is given.
    pub fn new(data_dir: impl Into<PathBuf>, wal_dir: Option<PathBuf>) -> Layout {
        Layout {
            data_dir: data_dir.into(),
            wal_dir,
        }
    }

    /// The data directory itself.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The directory whose existence means that there is a member.
    pub fn member_dir(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    /// The directory of segments and catalog.
    pub fn store_dir(&self) -> PathBuf {
        self.member_dir().join("store")
    }

    /// The directory of the raft log.
    pub fn wal_dir(&self) -> PathBuf {
        self.wal_dir
            .clone()
            .unwrap_or_else(|| self.member_dir().join("wal"))
    }

    fn staging_dir(&self) -> PathBuf {
        self.data_dir.join("member.tmp")
    }

    fn staging_wal_dir(&self) -> PathBuf {
        self.wal_dir
            .clone()
            .unwrap_or_else(|| self.staging_dir().join("wal"))
    }
}

/// The file in an unfinished member that names its log's directory, if that lies elsewhere.
const WAL_DIR_NAME: &str = "wal-dir";

/// What to do about a directory that others than its owner may enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permissions {
    /// Refuse it.
    Refuse,
    /// Note it in [`DataDir::warnings`], as etcd does.
    Warn,
}

/// Whether there is a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// None yet: [`DataDir::create`] makes one.
    Fresh,
    /// There is one: [`DataDir::open_wal`] opens its log.
    Member,
}

/// A data directory that is ours until this is dropped.
pub struct DataDir {
    disk: Arc<dyn Disk>,
    layout: Layout,
    state: State,
    warnings: Vec<String>,
    made: Made,
    _lock: Box<dyn Lock>,
}

/// A directory that is ours, and what is in it.
struct Prepared {
    state: State,
    warnings: Vec<String>,
    lock: Box<dyn Lock>,
}

/// What [`DataDir::acquire`] brought into being, innermost first.
#[derive(Default)]
struct Made {
    dirs: Vec<PathBuf>,
    lock: Option<PathBuf>,
}

impl Made {
    /// Notes the directories that are missing on the way to `dir`.
    fn will_make(&mut self, disk: &dyn Disk, dir: &Path) {
        let mut at = dir;
        while !at.as_os_str().is_empty() && matches!(disk.exists(at), Ok(false)) {
            self.dirs.push(at.to_path_buf());
            at = parent_of(at);
        }
    }

    /// Takes it back. What others have put there meanwhile stays, and with it the directories around it.
    fn undo(&self, disk: &dyn Disk) {
        if let Some(lock) = &self.lock {
            let _ = disk.remove(lock);
        }
        for dir in &self.dirs {
            let _ = disk.remove(dir);
        }
    }
}

impl DataDir {
    /// Creates the data directory if there is none, checks it and takes its lock. Faults, each of its own kind:
    ///
    /// - `Permission`: others may enter it (if so wished), or we may not;
    /// - `ReadOnly`, `NoSpace`: it cannot be written;
    /// - `Locked`: another process uses it;
    /// - `Format`: it holds the data of an etcd, or of an etcd proxy;
    /// - `Gap`: a member without its log or store, or a log without its member.
    pub fn acquire(
        disk: Arc<dyn Disk>,
        layout: Layout,
        permissions: Permissions,
    ) -> Result<DataDir, Fault> {
        let mut made = Made::default();
        let acquired = prepare(&*disk, &layout, permissions, &mut made);
        match acquired {
            Ok(Prepared {
                state,
                warnings,
                lock,
            }) => Ok(DataDir {
                disk,
                layout,
                state,
                warnings,
                made,
                _lock: lock,
            }),
            Err(fault) => {
                made.undo(&*disk);
                Err(fault)
            }
        }
    }

    /// Whether there is a member.
    pub fn state(&self) -> State {
        self.state
    }

    /// What an operator should know, though it does not stop the member.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Where things are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Makes the member: an empty log for `identity` and an empty store directory, which `fill` may fill (a restored
    /// snapshot does; a new member leaves both empty). `fill` must leave both durable; the last batch it appends needs
    /// `sync`. A crash at any point leaves no member or a whole one.
    ///
    /// Panics if there is a member already.
    pub fn create(
        &mut self,
        identity: Identity,
        options: wal::Options,
        fill: impl FnOnce(&mut Wal, &Path) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        assert_eq!(
            self.state,
            State::Fresh,
            "a member is created where there is none"
        );
        let (staging, member) = (self.layout.staging_dir(), self.layout.member_dir());
        // From here on the log belongs to something unfinished, durably, before the first byte of it is written.
        create_dir(&*self.disk, &staging)?;
        name_wal_dir(&*self.disk, &self.layout)?;
        let store = staging.join("store");
        create_dir(&*self.disk, &store)?;
        let mut wal = Wal::create(
            Arc::clone(&self.disk),
            &self.layout.staging_wal_dir(),
            options,
            identity,
        )?;
        fill(&mut wal, &store)?;
        drop(wal);
        self.disk
            .rename(&staging, &member)
            .map_err(|error| Fault::write_failed(member.display(), &error))?;
        sync_dir(&*self.disk, &self.layout.data_dir)?;
        self.state = State::Member;
        Ok(())
    }

    /// Gives up a creation that failed: removes what it has written, and whatever [`DataDir::acquire`] had made, so that
    /// everything is as it was before. Nothing depends on it: what is left, if this fails too, the next acquisition discards.
    ///
    /// # Errors
    /// A fault, if something cannot be removed.
    ///
    /// # Panics
    /// If there is a member.
    pub fn abandon(self) -> Result<(), Fault> {
        assert_eq!(self.state, State::Fresh, "a member is not thrown away");
        let (staging, member) = (self.layout.staging_dir(), self.layout.member_dir());
        let failed = |error: io::Error| Fault::write_failed(member.display(), &error);
        if self.disk.exists(&member).map_err(failed)? {
            // It had got its name, and then the sync of that name failed.
            self.disk.rename(&member, &staging).map_err(failed)?;
        }
        discard_unfinished(&*self.disk, &self.layout)?;
        // Still under the lock, which is only let go behind this.
        self.made.undo(&*self.disk);
        Ok(())
    }

    /// Opens the member's log. If `expected` is given and the log belongs to someone else, the fault is of kind `Identity`
    /// and nothing was changed.
    ///
    /// Panics if there is no member.
    pub fn open_wal(
        &self,
        options: wal::Options,
        expected: Option<Identity>,
    ) -> Result<(Wal, Recovered), Fault> {
        assert_eq!(
            self.state,
            State::Member,
            "a log is opened where there is a member"
        );
        let dir = self.layout.wal_dir();
        if let Some(expected) = expected {
            let found = Wal::identity_of(&*self.disk, &dir)?;
            check_identity(&self.layout, found, expected)?;
        }
        Wal::open(Arc::clone(&self.disk), &dir, options)
    }
}

/// The fault of a data directory that belongs to somebody else.
pub fn check_identity(layout: &Layout, found: Identity, expected: Identity) -> Result<(), Fault> {
    if found == expected {
        return Ok(());
    }
    let whose = match found.cluster_id == expected.cluster_id {
        true => "another member",
        false => "another cluster",
    };
    Err(Fault::new(
        FaultKind::Identity,
        format!(
            "data directory {}: belongs to {whose} (member {:x} of cluster {:x}; this is member {:x} of cluster {:x}); \
             start with the data directory of this member, or with an empty one.",
            layout.data_dir.display(),
            found.member_id,
            found.cluster_id,
            expected.member_id,
            expected.cluster_id,
        ),
    ))
}

/// The steps of [`DataDir::acquire`].
fn prepare(
    disk: &dyn Disk,
    layout: &Layout,
    permissions: Permissions,
    made: &mut Made,
) -> Result<Prepared, Fault> {
    let mut warnings = Vec::new();
    let wal_dir = layout.wal_dir.iter();
    for dir in std::iter::once(&layout.data_dir).chain(wal_dir) {
        let mut missing = Made::default();
        missing.will_make(disk, dir);
        // A log directory inside the data directory goes before it.
        made.dirs.splice(0..0, missing.dirs);
        prepare_dir(disk, dir, permissions, &mut warnings)?;
    }
    let path = lock_path(layout);
    let has_lock = disk
        .exists(&path)
        .map_err(|error| no_access(&layout.data_dir, &error))?;
    let lock = take_lock(disk, layout)?;
    if !has_lock {
        made.lock = Some(path);
    }
    check_foreign(disk, layout, &mut warnings)?;
    let state = find_state(disk, layout)?;
    if state == State::Fresh {
        discard_unfinished(disk, layout)?;
    }
    Ok(Prepared {
        state,
        warnings,
        lock,
    })
}

fn lock_path(layout: &Layout) -> PathBuf {
    layout.data_dir.join("lock")
}

/// Creates the directory if needed, makes its name durable, and checks who may enter it.
fn prepare_dir(
    disk: &dyn Disk,
    dir: &Path,
    permissions: Permissions,
    warnings: &mut Vec<String>,
) -> Result<(), Fault> {
    let existed = disk.exists(dir).map_err(|error| no_access(dir, &error))?;
    if existed && !disk.is_dir(dir).map_err(|error| no_access(dir, &error))? {
        return Err(Fault::new(
            FaultKind::Permission,
            format!(
                "data directory {}: is not a directory; name another one or move the file away.",
                dir.display()
            ),
        ));
    }
    match disk::create_dir_durable(disk, dir) {
        Ok(()) => {}
        // A directory that somebody made for us, in one that we may not read: its name is theirs to keep.
        Err(error) if existed && error.kind() == io::ErrorKind::PermissionDenied => {
            warnings.push(format!(
                "cannot sync the directory that holds {}: {error}",
                dir.display()
            ));
        }
        Err(error) => return Err(no_access(dir, &error)),
    }
    let mode = disk.mode(dir).map_err(|error| no_access(dir, &error))?;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    // The words are upstream's: client/pkg/fileutil/fileutil.go, CheckDirPermission.
    let text = format!(
        "directory \"{}\" exist, but the permission is \"d{}\". The recommended permission is \"-rwx------\" to prevent \
         possible unprivileged access to the data",
        dir.display(),
        mode_letters(mode),
    );
    match permissions {
        Permissions::Warn => warnings.push(text),
        Permissions::Refuse => {
            let text = format!("{text}; run chmod 700 \"{}\".", dir.display());
            return Err(Fault::new(FaultKind::Permission, text));
        }
    }
    Ok(())
}

fn take_lock(disk: &dyn Disk, layout: &Layout) -> Result<Box<dyn Lock>, Fault> {
    let path = lock_path(layout);
    disk.lock(&path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => Fault::new(
            FaultKind::Locked,
            format!(
                "data directory {}: used by another process (it holds {}); stop that one, or name another directory.",
                layout.data_dir.display(),
                path.display()
            ),
        ),
        _ => no_access(&layout.data_dir, &error),
    })
}

/// Refuses what etcd left here, and notes what nobody of us did.
fn check_foreign(
    disk: &dyn Disk,
    layout: &Layout,
    warnings: &mut Vec<String>,
) -> Result<(), Fault> {
    let data_dir = &layout.data_dir;
    let names = disk
        .list(data_dir)
        .map_err(|error| no_access(data_dir, &error))?;
    let has = |name: &str| names.iter().any(|found| found == name);
    let foreign = |text: String| Err(Fault::new(FaultKind::Format, text));
    if has("proxy") && has("member") {
        return foreign("invalid datadir; both member and proxy directories exist".to_string());
    }
    if has("proxy") {
        return foreign(format!(
            "data directory {}: belongs to an etcd proxy; name another directory.",
            data_dir.display()
        ));
    }
    let upstream = layout.member_dir().join("snap");
    if disk
        .exists(&upstream)
        .map_err(|error| no_access(&upstream, &error))?
    {
        return foreign(format!(
            "data directory {}: holds the data of an etcd member, which is not read here; let this member join the cluster with \
             an empty directory, or restore from a snapshot.",
            data_dir.display()
        ));
    }
    for name in names {
        if !["member", "member.tmp", "lock", "fixtures", ".touch"].contains(&name.as_str()) {
            warnings.push(format!(
                "found invalid file under data directory: {}",
                data_dir.join(name).display()
            ));
        }
    }
    Ok(())
}

fn find_state(disk: &dyn Disk, layout: &Layout) -> Result<State, Fault> {
    let exists = |path: &Path| disk.exists(path).map_err(|error| no_access(path, &error));
    let has_log = Wal::exists(disk, &layout.wal_dir())?;
    let object = format!("data directory {}", layout.data_dir.display());
    if exists(&layout.member_dir())? {
        if !has_log {
            let detail = format!(
                "there is a member, but no log in {}",
                layout.wal_dir().display()
            );
            return Err(Fault::gap(object, detail));
        }
        if !exists(&layout.store_dir())? {
            let detail = format!(
                "there is a log, but no store in {}",
                layout.store_dir().display()
            );
            return Err(Fault::gap(object, detail));
        }
        // A killed process may have left the name unsynced; from now on we rely on it.
        sync_dir(disk, &layout.data_dir)?;
        return Ok(State::Member);
    }
    if has_log && !is_log_unfinished(disk, layout)? {
        let detail = format!(
            "there is a log in {}, but no member",
            layout.wal_dir().display()
        );
        return Err(Fault::gap(object, detail));
    }
    Ok(State::Fresh)
}

/// Notes in the unfinished member where its log will be, durably, if that is elsewhere. A later start with another log
/// directory must not take the log of some other member for the rest of this creation, and throw it away.
fn name_wal_dir(disk: &dyn Disk, layout: &Layout) -> Result<(), Fault> {
    let Some(wal_dir) = &layout.wal_dir else {
        return Ok(());
    };
    let staging = layout.staging_dir();
    let path = staging.join(WAL_DIR_NAME);
    let failed = |error: io::Error| Fault::write_failed(path.display(), &error);
    let file = disk.open(&path, Open::Create).map_err(failed)?;
    file.write_at(0, wal_dir.to_string_lossy().as_bytes())
        .map_err(failed)?;
    file.sync()
        .map_err(|error| Fault::sync_failed(path.display(), &error))?;
    sync_dir(disk, &staging)
}

/// Whether the log belongs to a creation that did not end. A log inside the data directory always does, if that is unfinished.
fn is_log_unfinished(disk: &dyn Disk, layout: &Layout) -> Result<bool, Fault> {
    let staging = layout.staging_dir();
    let exists = |path: &Path| disk.exists(path).map_err(|error| no_access(path, &error));
    let path = staging.join(WAL_DIR_NAME);
    let Some(wal_dir) = &layout.wal_dir else {
        return exists(&staging);
    };
    if !exists(&path)? {
        return Ok(false);
    }
    let read_failed = |error: io::Error| Fault::read_failed(path.display(), &error);
    let file = disk.open(&path, Open::Read).map_err(read_failed)?;
    let expected = wal_dir.to_string_lossy();
    // One byte more, so that a longer name is not taken for this one.
    let mut named = vec![0; expected.len() + 1];
    let read = disk::read_full_at(&*file, 0, &mut named).map_err(read_failed)?;
    Ok(named[..read] == *expected.as_bytes())
}

/// Removes what an interrupted creation left: the log first, since `member.tmp` is what says that it is unfinished.
fn discard_unfinished(disk: &dyn Disk, layout: &Layout) -> Result<(), Fault> {
    let staging = layout.staging_dir();
    if !disk
        .exists(&staging)
        .map_err(|error| no_access(&staging, &error))?
    {
        return Ok(());
    }
    if let Some(wal_dir) = &layout.wal_dir
        && is_log_unfinished(disk, layout)?
    {
        Wal::discard(disk, wal_dir)?;
        sync_dir(disk, wal_dir)?;
    }
    remove_all(disk, &staging).map_err(|error| Fault::write_failed(staging.display(), &error))?;
    sync_dir(disk, &layout.data_dir)
}

/// Removes a directory and what is in it. Nothing of it is deep.
fn remove_all(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    if disk.is_dir(path)? {
        for name in disk.list(path)? {
            remove_all(disk, &path.join(name))?;
        }
    }
    disk.remove(path)
}

fn create_dir(disk: &dyn Disk, dir: &Path) -> Result<(), Fault> {
    disk::create_dir_durable(disk, dir).map_err(|error| Fault::write_failed(dir.display(), &error))
}

fn sync_dir(disk: &dyn Disk, dir: &Path) -> Result<(), Fault> {
    disk.sync_dir(dir)
        .map_err(|error| Fault::sync_failed(dir.display(), &error))
}

/// The directory cannot be used: why, in upstream's words where it has them.
fn no_access(dir: &Path, error: &io::Error) -> Fault {
    let why = format!("cannot access data directory: {}: {error}", dir.display());
    let (kind, advice) = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => (
            FaultKind::ReadOnly,
            "remount the file system writable, or name another directory",
        ),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (FaultKind::NoSpace, "free some space")
        }
        io::ErrorKind::PermissionDenied => (
            FaultKind::Permission,
            "give it to the user that runs this process",
        ),
        io::ErrorKind::NotADirectory => (
            FaultKind::Permission,
            "a file stands where a directory should be; name another directory",
        ),
        _ => (
            FaultKind::ReadFailed,
            "check the disk, or name another directory",
        ),
    };
    let parent = parent_of(dir).display();
    Fault::new(kind, format!("{why}; {advice} (it lies in {parent})."))
}

/// `rwxr-xr-x`.
fn mode_letters(mode: u32) -> String {
    "rwxrwxrwx"
        .chars()
        .enumerate()
        .map(|(bit, letter)| {
            if mode & (0o400 >> bit) != 0 {
                letter
            } else {
                '-'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
