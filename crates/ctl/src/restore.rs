//! `snapshot restore`: a data directory of a new cluster, with the data of a snapshot and the members of the flags.
//!
//! The rows come over as they are, but for the members, raft's configuration and the applied index. The log begins with one
//! configuration entry per member, the same on all of them, and the store has applied these: the member starts as one that
//! has been founded with the others and then been given the data.

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

use crate::Restore;
use crate::snapshot::{SnapshotFile, feed};

/// Term of the entries a cluster is founded with.
const FOUNDING_TERM: u64 = 1;

pub(crate) fn run(flags: &Restore) -> Result<(), String> {
    let members = members_of(&flags.initial_cluster, &flags.initial_cluster_token)?;
    let own = own_member(&members, flags)?;
    let data_dir = flags
        .data_dir
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{}.etcd", flags.name)));
    refuse_used(&data_dir, flags.wal_dir.as_deref())?;
    let file = SnapshotFile::open(&flags.file)?;
    if !flags.skip_hash_check {
        file.check_hash()?;
    }
    let reader = file.reader()?;
    // A damaged file is refused before anything is created.
    feed(&reader, |_, _, _| Ok(()))?;
    let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
    let identity = Identity {
        cluster_id: membership::cluster_id(&ids),
        member_id: own,
    };
    let layout = Layout::new(&data_dir, flags.wal_dir.clone());
    create(layout, identity, &members, &reader).map_err(|fault| fault.to_string())
}

fn create(
    layout: Layout,
    identity: Identity,
    members: &[Member],
    reader: &Reader,
) -> Result<(), Fault> {
    let mut data_dir = DataDir::acquire(Arc::new(OsDisk), layout, Permissions::Warn)?;
    data_dir.create(identity, wal::Options::default(), |wal, store| {
        fill_store(store, identity, members, reader)?;
        fill_log(wal, members)
    })
}

/// Writes the store and its one checkpoint.
fn fill_store(
    store: &Path,
    identity: Identity,
    members: &[Member],
    reader: &Reader,
) -> Result<(), Fault> {
    let options = SegmentsOptions {
        salt: identity.member_id as u32,
        ..SegmentsOptions::default()
    };
    let disk = Arc::new(OsDisk);
    let mut importer = Importer::new(Params::default(), disk.clone(), store, options)?;
    let mut fault = None;
    let fed = feed(reader, |bucket, key, value| {
        if is_of_the_old_cluster(bucket, key) {
            return Ok(());
        }
        importer.row(bucket, key, value).map_err(|why| {
            let text = why.to_string();
            fault = Some(why);
            text
        })
    });
    if let Err(why) = fed {
        return Err(fault.unwrap_or_else(|| Fault::new(FaultKind::Corrupted, why)));
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
    let (mut catalog, _) = Catalog::open(disk, store)?;
    job.run(&mut catalog)?;
    Ok(())
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

/// The members of `--initial-cluster`, by ascending id. A name may come several times, once per URL.
fn members_of(cluster: &str, token: &str) -> Result<Vec<Member>, String> {
    let mut members: Vec<Member> = Vec::new();
    for pair in cluster.split(',').filter(|pair| !pair.trim().is_empty()) {
        let (name, url) = pair
            .trim()
            .split_once('=')
            .filter(|(name, url)| !name.is_empty() && url.contains("://"))
            .ok_or_else(|| format!("--initial-cluster: \"{pair}\" is not NAME=URL"))?;
        let taken = members
            .iter()
            .any(|m| m.peer_urls().iter().any(|u| u == url));
        if taken {
            return Err(format!("initial cluster {cluster} has duplicate url"));
        }
        match members.iter_mut().find(|member| member.name == name) {
            Some(member) => member
                .peer_urls
                .get_or_insert_default()
                .push(url.to_owned()),
            None => members.push(Member {
                name: name.to_owned(),
                peer_urls: Some(vec![url.to_owned()]),
                ..Member::default()
            }),
        }
    }
    for member in &mut members {
        member.peer_urls.get_or_insert_default().sort_unstable();
        member.id = membership::member_id(member.peer_urls(), token, None);
    }
    members.sort_by_key(|member| member.id);
    match members.is_empty() {
        true => Err("--initial-cluster names no member".into()),
        false => Ok(members),
    }
}

/// The id of the member that is restored here.
fn own_member(members: &[Member], flags: &Restore) -> Result<u64, String> {
    let own = members
        .iter()
        .find(|member| member.name == flags.name)
        .ok_or_else(|| {
            format!(
                "couldn't find local name \"{}\" in the initial cluster configuration",
                flags.name
            )
        })?;
    let mut advertised: Vec<&str> = flags.initial_advertise_peer_urls.split(',').collect();
    advertised.sort_unstable();
    if own.peer_urls() != advertised {
        return Err(format!(
            "--initial-cluster has {}={} but missing from --initial-advertise-peer-urls={}",
            flags.name,
            own.peer_urls().join(","),
            flags.initial_advertise_peer_urls
        ));
    }
    Ok(own.id)
}

/// A restore goes to a directory that is new or empty.
fn refuse_used(data_dir: &Path, wal_dir: Option<&Path>) -> Result<(), String> {
    let is_empty =
        |dir: &Path| std::fs::read_dir(dir).is_ok_and(|mut names| names.next().is_none());
    if data_dir.exists() && !is_empty(data_dir) {
        return Err(format!(
            "data-dir {:?} not empty or could not be read",
            data_dir.display().to_string()
        ));
    }
    match wal_dir {
        Some(dir) if dir.exists() => Err(format!("wal-dir {:?} exists", dir.display().to_string())),
        _ => Ok(()),
    }
}
