use proto::raftpb::Entry;

use super::*;
use crate::disk::enumerate::{Limits, crash_states};
use crate::disk::{MemDisk, Open};
use crate::wal::Batch;

const ID: Identity = Identity {
    cluster_id: 0xc1,
    member_id: 0xa2,
};

fn layout() -> Layout {
    Layout::new("data", None)
}

fn split_layout() -> Layout {
    Layout::new("data", Some("log/wal".into()))
}

fn options() -> wal::Options {
    wal::Options::with_segment_bytes(4096, 4096)
}

fn acquire(disk: &MemDisk, layout: Layout) -> Result<DataDir, Fault> {
    DataDir::acquire(Arc::new(disk.clone()), layout, Permissions::Refuse)
}

/// A member with one entry in its log and one file in its store.
fn fill(disk: &MemDisk, wal: &mut Wal, store: &Path) -> Result<(), Fault> {
    let file = disk.open(&store.join("a"), Open::CreateNew).unwrap();
    file.write_at(0, &[1; 600]).unwrap();
    file.sync().unwrap();
    disk.sync_dir(store).unwrap();
    let entry = Entry {
        r#type: Some(0),
        term: Some(1),
        index: Some(1),
        data: None,
    };
    wal.append(&Batch {
        entries: &[entry],
        sync: true,
        ..Batch::default()
    })
}

fn create(disk: &MemDisk, layout: Layout) {
    let mut dir = acquire(disk, layout).unwrap();
    dir.create(ID, options(), |wal, store| fill(disk, wal, store))
        .unwrap();
}

fn fault(disk: &MemDisk, layout: Layout) -> Fault {
    acquire(disk, layout)
        .err()
        .expect("the directory is refused")
}

#[test]
fn a_member_that_was_created_is_found() {
    for layout in [layout(), split_layout()] {
        let disk = MemDisk::new();
        create(&disk, layout.clone());
        disk.crash(&mut |_: usize| 0);
        let dir = acquire(&disk, layout.clone()).unwrap();
        assert_eq!(dir.state(), State::Member);
        assert_eq!(dir.warnings(), [""; 0]);
        let (_, recovered) = dir.open_wal(options(), Some(ID)).unwrap();
        assert_eq!((recovered.identity, recovered.last_index), (ID, 1));
        assert_eq!(disk.list(&layout.store_dir()).unwrap(), ["a"]);
    }
}

#[test]
fn a_crash_during_creation_leaves_no_member_or_a_whole_one() {
    for layout in [layout(), split_layout()] {
        let disk = MemDisk::new();
        disk.record();
        create(&disk, layout.clone());
        let operations = disk.recording();
        let last = operations.len() - 1;
        let mut seen = [0; 2];
        for (at, (_, after)) in operations.into_iter().enumerate() {
            let limits = Limits {
                states_max: 1 << 8,
                seed: at as u64,
            };
            crash_states(&after, &limits, |crashed| {
                let whole = |crashed: &MemDisk| {
                    let dir = acquire(crashed, layout.clone()).unwrap();
                    let (_, recovered) = dir.open_wal(options(), Some(ID)).unwrap();
                    assert_eq!(recovered.last_index, 1);
                    assert_eq!(crashed.list(&layout.store_dir()).unwrap(), ["a"]);
                };
                let state = acquire(&crashed, layout.clone()).unwrap().state();
                seen[usize::from(state == State::Member)] += 1;
                if state == State::Fresh {
                    assert!(at < last, "creation had returned");
                    create(&crashed, layout.clone());
                    crashed.crash(&mut |_: usize| 0);
                }
                whole(&crashed);
            });
        }
        assert!(seen[0] > 50 && seen[1] > 0, "{seen:?}");
    }
}

#[test]
fn a_crash_while_the_rest_of_a_creation_is_thrown_away_is_survived() {
    let layout = split_layout();
    let disk = MemDisk::new();
    let mut dir = acquire(&disk, layout.clone()).unwrap();
    let stop = Fault::new(FaultKind::NoSpace, "stop here");
    let result = dir.create(ID, options(), |wal, store| {
        fill(&disk, wal, store)?;
        Err(stop.clone())
    });
    assert_eq!(result, Err(stop));
    drop(dir);
    disk.record();
    drop(acquire(&disk, layout.clone()).unwrap());
    for (_, after) in disk.recording() {
        crash_states(&after, &Limits::default(), |crashed| {
            assert_eq!(
                acquire(&crashed, layout.clone()).unwrap().state(),
                State::Fresh
            );
            create(&crashed, layout.clone());
        });
    }
}

#[test]
fn a_directory_in_use_is_refused() {
    let disk = MemDisk::new();
    let _held = acquire(&disk, layout()).unwrap();
    assert_eq!(fault(&disk, layout()).kind(), FaultKind::Locked);
}

#[test]
fn a_directory_that_others_may_enter_is_refused_in_etcds_words() {
    let disk = MemDisk::new();
    create(&disk, layout());
    disk.set_mode(Path::new("data"), 0o755).unwrap();
    let refused = fault(&disk, layout());
    assert_eq!(refused.kind(), FaultKind::Permission);
    let text = "directory \"data\" exist, but the permission is \"drwxr-xr-x\". The recommended permission is \"-rwx------\" to \
                prevent possible unprivileged access to the data";
    assert_eq!(
        refused.to_string(),
        format!("{text}; run chmod 700 \"data\".")
    );
    let warned = DataDir::acquire(Arc::new(disk.clone()), layout(), Permissions::Warn).unwrap();
    assert_eq!(warned.warnings(), [text]);
}

#[test]
fn a_disk_that_cannot_be_written_is_refused_for_what_it_is() {
    let disk = MemDisk::new();
    create(&disk, layout());
    disk.faults(|faults| faults.read_only = true);
    assert_eq!(fault(&disk, layout()).kind(), FaultKind::ReadOnly);

    let disk = MemDisk::new();
    disk.faults(|faults| faults.capacity_bytes = Some(1000));
    let mut dir = acquire(&disk, layout()).unwrap();
    let full = dir.create(ID, options(), |_, _| Ok(())).unwrap_err();
    assert_eq!(full.kind(), FaultKind::NoSpace);
    drop(dir);
    disk.faults(|faults| faults.capacity_bytes = None);
    create(&disk, layout());
}

#[test]
fn the_directory_of_another_member_or_cluster_is_refused() {
    let disk = MemDisk::new();
    create(&disk, layout());
    let dir = acquire(&disk, layout()).unwrap();
    let text = |expected| {
        let fault = dir.open_wal(options(), Some(expected)).err().unwrap();
        assert_eq!(fault.kind(), FaultKind::Identity);
        fault.to_string()
    };
    assert!(
        text(Identity {
            member_id: 0xbb,
            ..ID
        })
        .contains("another member (member a2 of cluster c1")
    );
    assert!(
        text(Identity {
            cluster_id: 0xbb,
            ..ID
        })
        .contains("another cluster")
    );
    dir.open_wal(options(), Some(ID)).unwrap();
}

#[test]
fn a_member_that_lost_its_log_or_its_store_is_refused() {
    let disk = MemDisk::new();
    create(&disk, layout());
    let lost = |path: &str| {
        let copy = disk.fork();
        remove_all(&copy, Path::new(path)).unwrap();
        fault(&copy, layout()).kind()
    };
    assert_eq!(lost("data/member/wal"), FaultKind::Gap);
    assert_eq!(lost("data/member/store"), FaultKind::Gap);

    let disk = MemDisk::new();
    create(&disk, split_layout());
    remove_all(&disk, Path::new("data/member")).unwrap();
    let refused = fault(&disk, split_layout());
    assert_eq!(refused.kind(), FaultKind::Gap);
    assert!(
        refused
            .to_string()
            .contains("a log in log/wal, but no member"),
        "{refused}"
    );
}

#[test]
fn what_etcd_left_is_recognised() {
    let with = |paths: &[&str]| {
        let disk = MemDisk::new();
        for path in paths {
            disk.create_dir_all(Path::new(path)).unwrap();
        }
        fault(&disk, layout())
    };
    assert_eq!(
        with(&["data/member/snap", "data/member/wal"]).kind(),
        FaultKind::Format
    );
    assert_eq!(with(&["data/proxy"]).kind(), FaultKind::Format);
    assert_eq!(
        with(&["data/proxy", "data/member"]).to_string(),
        "invalid datadir; both member and proxy directories exist"
    );
}

#[test]
fn what_nobody_knows_is_noted() {
    let disk = MemDisk::new();
    disk.create_dir_all(Path::new("data/what")).unwrap();
    let dir = acquire(&disk, layout()).unwrap();
    assert_eq!(
        dir.warnings(),
        ["found invalid file under data directory: data/what"]
    );
}

#[test]
fn a_file_in_place_of_the_directory_is_refused() {
    let disk = MemDisk::new();
    disk.open(Path::new("data"), Open::CreateNew).unwrap();
    assert_eq!(fault(&disk, layout()).kind(), FaultKind::Permission);
}

#[test]
fn a_creation_given_up_leaves_everything_as_it_was() {
    for (layout, existing) in [
        (layout(), None),
        (split_layout(), None),
        (split_layout(), Some("data")),
        (Layout::new("a/b/data", Some("a/b/log".into())), Some("a")),
    ] {
        let disk = MemDisk::new();
        if let Some(dir) = existing {
            disk.create_dir_all(Path::new(dir)).unwrap();
        }
        let before = disk.list(Path::new(".")).unwrap();
        let mut dir = acquire(&disk, layout.clone()).unwrap();
        let full = Fault::new(FaultKind::NoSpace, "full");
        let created = dir.create(ID, options(), |wal, store| {
            fill(&disk, wal, store)?;
            Err(full.clone())
        });
        assert_eq!(created, Err(full));
        dir.abandon().unwrap();
        assert_eq!(disk.list(Path::new(".")).unwrap(), before);
        if let Some(dir) = existing {
            assert_eq!(disk.list(Path::new(dir)).unwrap(), [""; 0]);
        }
        create(&disk, layout);
    }
}

#[test]
fn a_creation_given_up_for_its_last_sync_is_undone_too() {
    let disk = MemDisk::new();
    let mut dir = acquire(&disk, layout()).unwrap();
    let created = dir.create(ID, options(), |wal, store| {
        fill(&disk, wal, store)?;
        // The rename that makes it a member, and nothing behind it.
        disk.faults(|faults| faults.operations_left = Some(1));
        Ok(())
    });
    assert_eq!(created.unwrap_err().kind(), FaultKind::SyncFailed);
    disk.faults(|faults| faults.operations_left = None);
    assert!(disk.exists(&layout().member_dir()).unwrap());
    dir.abandon().unwrap();
    assert_eq!(disk.list(Path::new(".")).unwrap(), [""; 0]);
}

#[test]
fn a_refused_directory_gets_no_lock_file() {
    let disk = MemDisk::new();
    disk.create_dir_all(Path::new("data/member/snap")).unwrap();
    assert_eq!(fault(&disk, layout()).kind(), FaultKind::Format);
    assert_eq!(disk.list(Path::new("data")).unwrap(), ["member"]);
}

#[test]
fn the_log_of_another_member_is_not_thrown_away_with_an_unfinished_one() {
    let disk = MemDisk::new();
    let theirs = Layout::new("theirs", Some("log/theirs".into()));
    create(&disk, theirs.clone());
    // A creation that ends in a crash, and then a start that names the wrong log.
    let mut dir = acquire(&disk, split_layout()).unwrap();
    let full = Fault::new(FaultKind::NoSpace, "full");
    let _ = dir.create(ID, options(), |_, _| Err(full));
    drop(dir);
    let wrong = Layout::new("data", Some("log/theirs".into()));
    assert_eq!(fault(&disk, wrong).kind(), FaultKind::Gap);
    let found = acquire(&disk, theirs).unwrap();
    assert_eq!(found.open_wal(options(), Some(ID)).unwrap().1.last_index, 1);
    // With its own log it begins anew.
    create(&disk, split_layout());
}
