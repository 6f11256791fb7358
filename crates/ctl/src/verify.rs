//! `quorate verify`: every byte of a data directory that no member uses, without changing any.
//!
//! Says what is there, names everything that is damaged by file and byte, and ends with a failure if anything is. What a start
//! would refuse is found here too: a part that is missing, a log and a store that do not belong together.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use storage::catalog::{Catalog, Recovered};
use storage::datadir::Layout;
use storage::disk::{Disk, Lock, OsDisk};
use storage::segments;
use storage::wal::{Tail, Verified as Log, Wal};

use crate::{Failure, os_error};

#[derive(Parser)]
#[command(
    name = "quorate verify",
    about = "Checks every byte of a data directory that no member uses, and changes none",
    after_help = "Exit codes: 0 sound, 1 damaged or not to be read, 2 wrong arguments."
)]
struct Verify {
    /// The data directory
    data_dir: PathBuf,
    /// The WAL directory, if it lies elsewhere
    #[arg(long)]
    wal_dir: Option<PathBuf>,
}

/// How often progress is told, the first time after this long.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let named = std::iter::once("quorate verify").chain(args.iter().map(String::as_str));
    let given = match Verify::try_parse_from(named) {
        Ok(given) => given,
        Err(error) if !error.use_stderr() => {
            print!("{error}");
            return Ok(());
        }
        Err(error) => {
            return Err(Failure {
                text: error
                    .to_string()
                    .trim_start_matches("error: ")
                    .trim_end()
                    .to_owned(),
                code: 2,
            });
        }
    };
    let layout = Layout::new(&given.data_dir, given.wal_dir);
    let _held = reserve(&layout)?;
    let mut damage = Vec::new();
    let log = note(&mut damage, Wal::verify(&OsDisk, &layout.wal_dir()));
    if let Some(log) = &log {
        tell_log(log);
    }
    match Catalog::inspect(&OsDisk, &layout.store_dir()) {
        Ok(None) => println!("catalog  no checkpoint yet"),
        Ok(Some(recovered)) => {
            check_store(&layout.store_dir(), &recovered, &mut damage);
            if let Some(log) = &log {
                damage.extend(gap(&layout.wal_dir(), log, recovered.applied.0));
            }
        }
        Err(fault) => damage.push(fault.to_string()),
    }
    for what in &damage {
        println!("DAMAGE   {what}");
    }
    match damage.len() {
        0 => Ok(()),
        1 => Err("1 place is damaged".to_owned().into()),
        count => Err(format!("{count} places are damaged").into()),
    }
}

/// Makes sure that there is a member of ours and nobody uses it.
fn reserve(layout: &Layout) -> Result<Option<Box<dyn Lock>>, String> {
    let data_dir = layout.data_dir();
    let kind = std::fs::metadata(data_dir).map_err(|error| os_error("stat", data_dir, &error))?;
    if !kind.is_dir() {
        return Err(format!("{}: is not a directory", data_dir.display()));
    }
    let exists = |path: &Path| {
        OsDisk
            .exists(path)
            .map_err(|error| os_error("stat", path, &error))
    };
    if exists(&layout.member_dir().join("snap"))? {
        return Err(format!(
            "{}: holds the data of an etcd member; etcdutl snapshot status looks into its member/snap/db",
            data_dir.display()
        ));
    }
    if !exists(&layout.member_dir())? {
        let unfinished = match exists(&data_dir.join("member.tmp"))? {
            true => " (member.tmp is one whose creation did not end; the next start begins anew)",
            false => "",
        };
        return Err(format!(
            "{}: there is no member{unfinished}",
            data_dir.display()
        ));
    }
    let lock = data_dir.join("lock");
    if !exists(&lock)? {
        // A copy, which nobody uses. The lock would be something new in it.
        return Ok(None);
    }
    match OsDisk.lock(&lock) {
        Ok(held) => Ok(Some(held)),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Err(format!(
            "{}: used by another process (it holds {}); stop that one first, or verify a copy",
            data_dir.display(),
            lock.display()
        )),
        Err(error) => {
            eprintln!(
                "warn\t{}; going on without it",
                os_error("lock", &lock, &error)
            );
            Ok(None)
        }
    }
}

fn tell_log(log: &Log) {
    let entries = log.entries.map_or_else(
        || "no entries".to_owned(),
        |(first, last)| format!("entries {first} to {last}"),
    );
    println!(
        "log      member {:x} of cluster {:x}: {} segments, {entries}",
        log.identity.member_id,
        log.identity.cluster_id,
        log.segments.len(),
    );
    if let Tail::Torn { segment, byte } = &log.tail {
        println!(
            "log      {segment}: a torn write behind byte {byte}, which nobody was told of; the next start cuts it"
        );
    }
}

fn check_store(store: &Path, recovered: &Recovered, damage: &mut Vec<String>) {
    println!("catalog  checkpoint of entry {}", recovered.applied.0);
    note(damage, state::check_tables(&recovered.tables));
    let all: u64 = recovered.segments.iter().map(|end| end.end).sum();
    let mut told = Instant::now();
    let seen = segments::verify(&OsDisk, store, &recovered.segments, |so_far| {
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            eprintln!("checked {} of {} MB", so_far.bytes >> 20, all >> 20);
        }
    });
    println!(
        "store    {} segments, {} sound records, {} bytes",
        seen.segments, seen.records, seen.bytes
    );
    damage.extend(seen.damage.iter().map(ToString::to_string));
}

/// What is missing between the log and the store, which a start refuses.
fn gap(wal_dir: &Path, log: &Log, applied: u64) -> Option<String> {
    let covered = log.marker.as_ref().map_or(0, |marker| marker.index);
    let last = log.entries.map_or(covered, |(_, last)| last);
    let first = log.entries.map_or(covered + 1, |(first, _)| first);
    let object = format!("write-ahead log {}", wal_dir.display());
    if last < applied {
        return Some(format!(
            "{object}: it ends at entry {last}, but the store has applied entry {applied}"
        ));
    }
    (first > applied + 1).then(|| {
        format!(
            "{object}: it begins with entry {first}, but the store has applied only entry {applied}"
        )
    })
}

/// The value, or the fault among the damage.
fn note<T>(damage: &mut Vec<String>, result: Result<T, storage::fault::Fault>) -> Option<T> {
    result.map_err(|fault| damage.push(fault.to_string())).ok()
}
