//! `snapshot restore`: a data directory of a new cluster, with the data of a snapshot and the members of the flags.
//!
//! The rows come over as they are, but for the members, raft's configuration and the applied index. The log begins with one
//! configuration entry per member, the same on all of them, and the store has applied these: the member starts as one that
//! has been founded with the others and then been given the data.
//!
//! All or nothing: what is created has another name until it is whole, a failure removes it, and what a killed restore has
//! left is removed by the next one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::raftpb;
use state::membership::{self, ChangeContext, Member};
use state::{Importer, Params};
use storage::bolt::Reader;
use storage::catalog::Catalog;
use storage::datadir::{DataDir, Layout, Permissions};
use storage::disk::OsDisk;
use storage::fault::{Fault, FaultKind};
use storage::segments::SegmentsOptions;
use storage::wal::{self, Batch, Identity, Wal};

use crate::Failure;
use crate::etcdutl::Restore;
use crate::initial_cluster;
use crate::snapshot_file::{SnapshotFile, Stop, feed};

/// Term of the entries a cluster is founded with.
const FOUNDING_TERM: u64 = 1;

pub(crate) fn run(flags: &Restore) -> Result<(), Failure> {
    let [path] = flags.file.as_slice() else {
        return Err(Failure::bad_args(
            "snapshot restore requires exactly one argument",
        ));
    };
    if (flags.bump_revision > 0) != flags.mark_compacted {
        return Err(Failure::bad_args(
            "--mark-compacted required if --revision-bump > 0",
        ));
    }
    let (members, own) = initial_cluster::members(
        &flags.initial_cluster,
        &flags.initial_cluster_token,
        &flags.name,
        &flags.initial_advertise_peer_urls,
    )?;
    // A script may well pass the empty value of a variable; it means the default.
    let given = |dir: &Option<PathBuf>| dir.clone().filter(|dir| !dir.as_os_str().is_empty());
    let default_dir = || PathBuf::from(format!("{}.etcd", flags.name));
    let data_dir = given(&flags.data_dir).unwrap_or_else(default_dir);
    let wal_dir = given(&flags.wal_dir);
    let layout = Layout::new(&data_dir, wal_dir.clone());
    refuse_used(&layout, wal_dir.as_deref())?;
    let say = |what: &str| {
        let [path, wal_dir, data_dir] =
            [path, &layout.wal_dir(), &data_dir].map(|path| path.display().to_string());
        eprintln!(
            "info\t{what}\t{{\"path\": {path:?}, \"wal-dir\": {wal_dir:?}, \"data-dir\": {data_dir:?}}}"
        );
    };
    say("restoring snapshot");
    let file = SnapshotFile::open(path)?;
    if !flags.skip_hash_check {
        file.check_hash()?;
    }
    let reader = file.reader()?;
    let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
    let founding = Founding {
        identity: Identity {
            cluster_id: membership::cluster_id(&ids),
            member_id: own,
        },
        members,
        bump: flags.bump_revision,
    };
    create(layout.clone(), &founding, &reader)?;
    say("restored snapshot");
    Ok(())
}

/// What the new member begins with besides the rows of the file.
struct Founding {
    identity: Identity,
    members: Vec<Member>,
    /// By how much the newest revision is raised; everything up to there is then compacted. 0 is not at all.
    bump: u64,
}

fn create(layout: Layout, founding: &Founding, reader: &Reader) -> Result<(), Failure> {
    let mut data_dir = DataDir::acquire(Arc::new(OsDisk), layout, Permissions::Warn)?;
    for warning in data_dir.warnings() {
        eprintln!("warn\t{warning}");
    }
    let created = data_dir.create(founding.identity, wal::Options::default(), |wal, store| {
        fill_store(store, founding, reader)?;
        fill_log(wal, &founding.members)
    });
    if let Err(fault) = created {
        let cleared = data_dir.abandon();
        let left = cleared.map_or_else(
            |left| format!("\nand it could not be cleaned up: {left}"),
            |()| String::new(),
        );
        return Err(format!("{fault}{left}").into());
    }
    Ok(())
}

/// Writes the store and its one checkpoint.
fn fill_store(store: &Path, founding: &Founding, reader: &Reader) -> Result<(), Fault> {
    let Founding {
        identity,
        members,
        bump,
    } = founding;
    let options = SegmentsOptions {
        salt: identity.member_id as u32,
        ..SegmentsOptions::default()
    };
    let disk = Arc::new(OsDisk);
    // Before the first segment: where there are segments, a missing catalog is one that was lost.
    let (mut catalog, _) = Catalog::open(disk.clone(), store)?;
    let mut importer = Importer::new(Params::default(), disk, store, options)?;
    let mut newest = 0;
    feed(reader, |bucket, key, value| {
        if is_of_the_old_cluster(bucket, key) {
            return Ok(());
        }
        if let ("key", Some(main)) = (bucket, key.first_chunk()) {
            newest = i64::from_be_bytes(*main);
        }
        importer.row(bucket, key, value).map_err(Stop)
    })
    .map_err(|Stop(fault)| fault)?;
    if *bump > 0 {
        let bumped = bumped(newest, *bump)?;
        // An empty record, as etcd's tool makes it, so that the hash of the history is equal to that of members it restored.
        importer.row("key", &bumped, Bytes::new())?;
        importer.row(
            "meta",
            b"scheduledCompactRev",
            Bytes::copy_from_slice(&bumped),
        )?;
    }
    let applied = members.len() as u64;
    let mut voters: Vec<u64> = members.iter().map(|member| member.id).collect();
    voters.sort_unstable();
    let voters: Vec<String> = voters.iter().map(u64::to_string).collect();
    let conf_state = format!("{{\"voters\":[{}],\"auto_leave\":false}}", voters.join(","));
    let own: [(&[u8], Bytes); 3] = [
        (b"confState", conf_state.into()),
        (b"consistent_index", applied.to_be_bytes().to_vec().into()),
        (b"term", FOUNDING_TERM.to_be_bytes().to_vec().into()),
    ];
    for (key, value) in own {
        importer.row("meta", key, value)?;
    }
    for member in members {
        let key = membership::id_to_hex(member.id);
        importer.row("members", key.as_bytes(), member.to_json().into())?;
    }
    let (_, job) = importer.finish()?;
    job.run(&mut catalog)?;
    Ok(())
}

/// The row key of the revision that lies `bump` above `newest`.
fn bumped(newest: i64, bump: u64) -> Result<[u8; 17], Fault> {
    let main = newest.checked_add_unsigned(bump).ok_or_else(|| {
        let why = format!("--bump-revision {bump}: revision {newest} and this are beyond the largest revision there is");
        Fault::new(FaultKind::Format, why)
    })?;
    let mut key = [0; 17];
    key[..8].copy_from_slice(&main.to_be_bytes());
    key[8] = b'_';
    Ok(key)
}

/// Rows that speak of who was a member, and of a log that is no more.
fn is_of_the_old_cluster(bucket: &str, key: &[u8]) -> bool {
    match bucket {
        "members" | "members_removed" => true,
        "meta" => [&b"confState"[..], b"consistent_index", b"term"].contains(&key),
        _ => false,
    }
}

/// The entries a cluster is founded with, committed.
fn fill_log(wal: &mut Wal, members: &[Member]) -> Result<(), Fault> {
    let entries: Vec<_> = members
        .iter()
        .zip(1..)
        .map(|(member, index)| founding_entry(member, index))
        .collect();
    let hard_state = raftpb::HardState {
        term: Some(FOUNDING_TERM),
        vote: Some(0),
        commit: Some(entries.len() as u64),
    };
    wal.append(&Batch {
        hard_state: Some(&hard_state),
        entries: &entries,
        sync: true,
        ..Batch::default()
    })
}

fn founding_entry(member: &Member, index: u64) -> raftpb::Entry {
    let context = ChangeContext {
        member: member.clone(),
        is_promote: false,
    };
    let change = raftpb::ConfChange {
        r#type: Some(raftpb::ConfChangeType::ConfChangeAddNode as i32),
        node_id: Some(member.id),
        context: Some(context.to_json().into()),
        ..Default::default()
    };
    raftpb::Entry {
        r#type: Some(raftpb::EntryType::EntryConfChange as i32),
        term: Some(FOUNDING_TERM),
        index: Some(index),
        data: Some(change.encode_to_vec().into()),
    }
}

/// A restore goes to a directory that is new or empty, or holds nothing but what a restore that was killed has left.
fn refuse_used(layout: &Layout, wal_dir: Option<&Path>) -> Result<(), String> {
    let data_dir = layout.data_dir();
    let mut is_unfinished = false;
    if data_dir.exists() {
        let refused = || {
            format!(
                "data-dir {:?} not empty or could not be read",
                data_dir.display().to_string()
            )
        };
        for entry in std::fs::read_dir(data_dir).map_err(|_| refused())? {
            let name = entry.map_err(|_| refused())?.file_name();
            is_unfinished |= name == "member.tmp";
            if name != "member.tmp" && name != "lock" {
                return Err(refused());
            }
        }
    }
    match wal_dir {
        // A kill between the two directories leaves an empty one, and there is nothing in it to lose.
        Some(dir) if dir.exists() && !is_unfinished && !is_empty(dir) => {
            Err(format!("wal-dir {:?} exists", dir.display().to_string()))
        }
        _ => Ok(()),
    }
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}
