//! The threads of a whole member, on a disk in memory, under callers that hand in from many sides at once.

use std::collections::BTreeSet;
use std::sync::mpsc;

use prost::Message as _;
use proto::etcdserverpb as pb;
use replica::boot::{self, Booted, Params};
use replica::duties::{self, AutoCompaction};
use replica::{Config, MemberId, Reply, Request, Ticket};
use state::{Applied, Response};
use storage::datadir::{Layout, Permissions};
use storage::disk::{Disk, MemDisk};
use storage::segments::SegmentsOptions;
use storage::wal::{self, Identity};

use super::*;
use crate::member::Limits;

/// Far more than stopping takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running member, one mailbox per caller, and what is kept until the end.
struct Running {
    threads: Threads,
    member: Arc<Member>,
    mailboxes: Vec<Arc<Mailbox>>,
    _data_dir: storage::datadir::DataDir,
}

/// What a member is made of before it runs.
pub(super) struct Parts {
    pub booted: Booted,
    pub inboxes: Inboxes,
    pub member: Arc<Member>,
}

pub(super) fn parts() -> Parts {
    let disk = MemDisk::new();
    for dir in ["data/wal", "data/store"] {
        disk.create_dir_all(dir.as_ref()).expect("a directory");
    }
    let booted = boot::start(Arc::new(disk), params()).expect("a new member starts");
    let inboxes = Inboxes::new(1);
    let limits = Limits {
        request_bytes_max: 1 << 20,
        txn_ops_max: 128,
        quota_bytes: None,
    };
    let view = booted.apply.published().view;
    let member = Member::new((77, 1), booted.ids.clone(), limits, view, inboxes.replica());
    Parts {
        booted,
        inboxes,
        member,
    }
}

fn start(callers: usize) -> Running {
    let Parts {
        booted,
        inboxes,
        member,
    } = parts();
    let mailboxes: Vec<Arc<Mailbox>> = (0..callers).map(|_| Arc::default()).collect();
    let core = Core {
        replica: booted.replica,
        log: booted.log,
        apply: booted.apply,
        store: booted.store,
    };
    let around = Surroundings {
        member: member.clone(),
        mailboxes: mailboxes.clone(),
        watch_sink: Arc::new(|_| {}),
        watch_limits: watch::Limits::default(),
        tick: Duration::from_millis(5),
    };
    let threads = Threads::start(core, inboxes, around).expect("threads");
    Running {
        threads,
        member,
        mailboxes,
        _data_dir: booted.data_dir,
    }
}

fn params() -> Params {
    Params {
        layout: Layout::new("data", None),
        permissions: Permissions::Refuse,
        identity: Identity {
            cluster_id: 77,
            member_id: 1,
        },
        past: replica::past::Past::Nothing,
        force_new_cluster: false,
        initial_members: vec![state::membership::Member {
            id: 1,
            peer_urls: Some(vec!["http://127.0.0.1:2380".into()]),
            ..Default::default()
        }],
        config: Config {
            member: MemberId(1),
            election_ticks: 10,
            tick_us: 5_000,
            pre_vote: true,
            request_timeout_us: 60_000_000,
            log_keep_entries: 100,
            log_keep_bytes: 1 << 20,
            checkpoint_every_us: 10_000,
            checkpoint_bytes: 16 << 10,
            duties: duties::Config {
                member: MemberId(1),
                name: "m1".into(),
                client_urls: Vec::new(),
                cluster_version: Some("3.7.0".into()),
                election_us: 50_000,
                auto_compaction: AutoCompaction::Off,
            },
            seed: 1,
        },
        state: state::Params::default(),
        wal: wal::Options::with_segment_bytes(256 << 10, 4 << 10),
        segments: SegmentsOptions::default(),
        wall_ms: 1,
    }
}

/// Hands in a request and waits for what the replicated state says to it.
fn call(
    running: &Running,
    caller: usize,
    number: u64,
    request: pb::InternalRaftRequest,
) -> Applied {
    let id = running.member.ids.next();
    let header = Some(pb::RequestHeader {
        id,
        ..Default::default()
    });
    let data = pb::InternalRaftRequest { header, ..request }.encode_to_vec();
    let ticket = Ticket((caller as u64) << 56 | number);
    running
        .member
        .tell(Input::Client(ticket, Request::Propose { id, data }))
        .expect("there is room");
    let answers = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("an event loop")
        .block_on(running.mailboxes[caller].take());
    match <[_; 1]>::try_from(answers) {
        Ok([(to, Ok(Reply::Applied(applied)))]) if to == ticket => *applied,
        other => panic!("caller {caller} got {other:?}"),
    }
}

fn put(key: &str) -> pb::InternalRaftRequest {
    pb::InternalRaftRequest {
        put: Some(pb::PutRequest {
            key: key.to_owned().into(),
            value: "v".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn revision(applied: &Applied) -> i64 {
    match &applied.outcome {
        Ok(Response::Put(put)) => put.header.as_ref().expect("a header").revision,
        other => panic!("not the answer to a put: {other:?}"),
    }
}

#[test]
fn callers_from_many_threads_get_one_answer_each_and_their_own_order() {
    const CALLERS: usize = 4;
    const PUTS: u64 = 300;
    let running = start(CALLERS);
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (running, tell) = (&running, tell.clone());
            scope.spawn(move || {
                let mut last = 0;
                for number in 0..PUTS {
                    // Now and then nothing waits and the step runs here, mostly it does not.
                    let seen = revision(&call(running, caller, number, put(&format!("k{caller}"))));
                    assert!(seen > last, "revision {seen} after {last}");
                    assert!(
                        running.member.view.load().revision() >= seen,
                        "answered before it could be read"
                    );
                    last = seen;
                    tell.send(seen).expect("the test listens");
                }
            });
        }
    });
    drop(tell);
    let seen: BTreeSet<i64> = told.iter().collect();
    let all = CALLERS as i64 * PUTS as i64;
    assert_eq!(seen.len() as i64, all, "no revision was given twice");
    assert_eq!((seen.first(), seen.last()), (Some(&2), Some(&(all + 1))));
    assert!(running.threads.faults().is_empty());
    running.threads.stop(PATIENCE);
}

#[test]
fn what_comes_after_the_end_is_told_that_the_member_has_stopped() {
    let running = start(1);
    call(&running, 0, 0, put("a"));
    let (member, defragmenter) = (running.member.clone(), running.threads.defragmenter());
    let began = Instant::now();
    running.threads.stop(PATIENCE);
    assert!(began.elapsed() < PATIENCE, "a thread did not end by itself");
    let request = Request::LeaseRenew { id: 1 };
    let told = member.tell(Input::Client(Ticket(9), request));
    assert_eq!(told, Err(&proto::error::STOPPED));
    assert!(
        defragmenter.start().blocking_recv().is_err(),
        "nobody is left to do it"
    );
}

#[test]
fn a_physical_compaction_is_answered_even_if_it_has_nothing_to_take_away() {
    let running = start(1);
    let compact = |revision| pb::InternalRaftRequest {
        compaction: Some(pb::CompactionRequest {
            revision,
            physical: true,
        }),
        ..Default::default()
    };
    for (number, key) in ["a", "b", "a"].into_iter().enumerate() {
        call(&running, 0, number as u64, put(key));
    }
    // The first of them drops nothing, the second the first version of `a`.
    for (number, revision) in [(3, 2), (4, 4)] {
        let answered = call(&running, 0, number, compact(revision));
        assert!(answered.outcome.is_ok(), "{answered:?}");
    }
    running.threads.stop(PATIENCE);
}

#[test]
fn defragmentation_gives_back_the_space_of_a_store_smaller_than_one_segment() {
    let running = start(1);
    for number in 0..200 {
        call(&running, 0, number, put("a"));
    }
    let compaction = pb::InternalRaftRequest {
        compaction: Some(pb::CompactionRequest {
            revision: 200,
            physical: true,
        }),
        ..Default::default()
    };
    call(&running, 0, 200, compaction);
    let before = running.member.view.load().file_bytes();
    running
        .threads
        .defragmenter()
        .start()
        .blocking_recv()
        .expect("the pass ends");
    let after = running.member.view.load().file_bytes();
    assert!(after * 10 < before, "{after} bytes of {before} are left");
    call(&running, 0, 201, put("b"));
    assert_eq!(running.member.view.load().revision(), 202);
    running.threads.stop(PATIENCE);
}
