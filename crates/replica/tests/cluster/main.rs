//! Whole members on a disk in memory, driven by hand: every effect is carried out at once, in order, and time is moved by
//! the test. Faults are the simulator's business; here stands what must hold when nothing goes wrong.

mod harness;

use std::sync::Arc;

use prost::Message as _;
use proto::error;
use proto::etcdserverpb as pb;
use proto::raftpb;
use replica::boot::{self, Params};
use replica::past::Past;
use replica::snapshots::Outgoing;
use replica::workers::Stored;
use replica::{Effect, Input, MemberId, Now, Reply, Request, Ticket};
use storage::disk::{Disk, MemDisk};

use harness::*;

#[test]
fn a_single_member_serves_without_waiting_for_a_tick() {
    let disk = MemDisk::new();
    let mut cluster = Cluster::new(&[disk], 1);
    cluster.settle();
    assert_eq!(cluster.leader(), Some(1));
    assert_eq!(cluster.put(1, "a", "1", 0), 2);
    assert_eq!(cluster.get(1, "a").as_deref(), Some("1"));
    assert!(cluster.nodes[&1].replica.status().reads_are_local);
}

#[test]
fn a_member_publishes_itself_and_the_cluster_gets_a_version() {
    let mut cluster = Cluster::new(&[MemDisk::new()], 1);
    cluster.settle();
    cluster.tick(2);
    let view = &cluster.nodes[&1].view;
    let member = view.members().get(1).expect("a member");
    assert_eq!((member.name.as_str(), member.client_urls.len()), ("m1", 1));
    assert!(view.cluster_version().version.is_some());
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart_without_warning() {
    let disk = MemDisk::new();
    let mut cluster = Cluster::new(std::slice::from_ref(&disk), 1);
    cluster.settle();
    for n in 0..500 {
        cluster.put(1, &format!("k{}", n % 50), &n.to_string(), 0);
        if n % 100 == 0 {
            cluster.tick(11);
        }
    }
    let revision = cluster.nodes[&1].view.revision();
    drop(cluster);
    let mut again = Cluster::new(&[disk], 2);
    again.settle();
    assert_eq!(again.nodes[&1].view.revision(), revision);
    assert_eq!(again.get(1, "k49").as_deref(), Some("499"));
    assert_eq!(again.put(1, "more", "x", 0), revision + 1);
}

#[test]
fn three_members_agree_and_any_of_them_takes_writes() {
    let disks = [MemDisk::new(), MemDisk::new(), MemDisk::new()];
    let mut cluster = Cluster::new(&disks, 1);
    let leader = cluster.elect();
    let follower = leader % 3 + 1;
    cluster.put(leader, "a", "1", 0);
    cluster.put(follower, "b", "2", 0);
    cluster.tick(2);
    let hashes: Vec<u32> = cluster
        .nodes
        .values()
        .map(|node| node.view.hash_kv(0).expect("hash").hash)
        .collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    assert_eq!(cluster.get(follower, "a").as_deref(), Some("1"));
    assert!(matches!(
        cluster.ask(follower, Request::ReadBarrier),
        Ok(Reply::ReadReady)
    ));
}

#[test]
fn the_leadership_moves_on_request() {
    let (mut cluster, leader) = three_with_a_write();
    let target = leader % 3 + 1;
    assert!(matches!(
        cluster.ask(
            leader,
            Request::MoveLeader {
                target: MemberId(target)
            }
        ),
        Ok(Reply::LeaderMoved)
    ));
    assert_eq!(cluster.leader(), Some(target));
    cluster.put(target, "a", "2", 0);
}

#[test]
fn members_do_not_wait_for_a_leader_whose_process_has_ended() {
    let (mut cluster, gone) = three_with_a_write();
    cluster.nodes.remove(&gone);
    for node in cluster.nodes.values_mut() {
        node.inbox.push_back(Input::PeerGone(MemberId(gone)));
    }
    let waited = (0..50).find(|_| {
        cluster.tick(1);
        cluster.leader().is_some()
    });
    // Drawn from one to two election timeouts, of which one needs no waiting.
    assert!(waited.expect("a new leader") < ELECTION_TICKS, "{waited:?}");
    let leader = cluster.elect();
    cluster.put(leader, "a", "2", 0);
}

#[test]
fn a_leader_that_is_wrongly_called_gone_keeps_its_term() {
    let (mut cluster, leader) = three_with_a_write();
    let term = cluster.nodes[&leader].replica.status().term;
    for _ in 0..10 {
        let misled = leader % 3 + 1;
        let node = cluster.nodes.get_mut(&misled).expect("a member");
        node.inbox.push_back(Input::PeerGone(MemberId(leader)));
        cluster.tick(3);
    }
    assert_eq!(cluster.leader(), Some(leader));
    assert_eq!(cluster.nodes[&leader].replica.status().term, term);
}

#[test]
fn a_lease_expires_with_its_keys_and_not_while_it_is_kept_alive() {
    let mut cluster = Cluster::new(&[MemDisk::new()], 1);
    cluster.settle();
    let grant = pb::LeaseGrantRequest { id: 7, ttl: 3 };
    cluster.propose(
        1,
        pb::InternalRaftRequest {
            lease_grant: Some(grant),
            ..Default::default()
        },
    );
    cluster.put(1, "a", "1", 7);
    for _ in 0..5 {
        cluster.tick(20);
        assert!(matches!(
            cluster.ask(1, Request::LeaseRenew { id: 7 }),
            Ok(Reply::LeaseRenewed { ttl_s: Some(3) })
        ));
    }
    cluster.tick(29);
    assert!(cluster.get(1, "a").is_some());
    cluster.tick(4);
    assert!(cluster.get(1, "a").is_none());
    assert!(matches!(
        cluster.ask(1, Request::LeaseRenew { id: 7 }),
        Ok(Reply::LeaseRenewed { ttl_s: None })
    ));
}

#[test]
fn the_log_is_cut_only_behind_a_checkpoint_and_a_restart_finds_the_rest() {
    let disk = MemDisk::new();
    let mut cluster = Cluster::new(std::slice::from_ref(&disk), 1);
    cluster.settle();
    for n in 0..2_000 {
        cluster.put(1, "k", &format!("{n:0200}"), 0);
        if n % 50 == 0 {
            cluster.tick(11);
        }
    }
    drop(cluster);
    let names = disk.list("data/member/wal".as_ref()).expect("lists");
    assert!(names.len() < 8, "segments are recycled: {names:?}");
    let again = Cluster::new(&[disk], 2);
    assert_eq!(again.nodes[&1].view.members().list().len(), 1);
}

/// Three members, of which the third has missed more than the others have kept.
fn with_one_behind() -> (Cluster, [MemDisk; 3], u64) {
    let disks = [MemDisk::new(), MemDisk::new(), MemDisk::new()];
    let mut cluster = Cluster::new(&disks, 1);
    cluster.elect();
    cluster.tick(3);
    cluster.nodes.remove(&3);
    let leader = cluster.elect();
    cluster.tick(30);
    let leader = cluster.leader().unwrap_or(leader);
    for n in 0..60 {
        cluster.put(leader, &format!("k{}", n % 7), &"v".repeat(300), 0);
        cluster.tick(1);
    }
    (cluster, disks, leader)
}

#[test]
fn a_member_that_fell_behind_is_brought_back_by_a_snapshot() {
    let (mut cluster, disks, leader) = with_one_behind();
    let behind = open(&disks[2], 3, 3, 2);
    let before = behind.view.applied().0;
    cluster.nodes.insert(3, behind);
    cluster.tick(20);
    let (there, here) = (cluster.nodes[&leader].view.clone(), &cluster.nodes[&3].view);
    assert!(
        here.applied().0 > before + 60,
        "not from the log: it is cut"
    );
    assert_eq!(here.applied(), there.applied());
    assert_eq!(here.hash().expect("sound"), there.hash().expect("sound"));
    // It goes on from there, also after a restart, and with the leadership.
    cluster.put(leader, "k1", "after", 0);
    assert_eq!(cluster.get(3, "k1").as_deref(), Some("after"));
    cluster.nodes.remove(&3);
    cluster.nodes.insert(3, open(&disks[2], 3, 3, 3));
    cluster.tick(20);
    let leader = cluster.elect();
    let moved = cluster.ask(
        leader,
        Request::MoveLeader {
            target: MemberId(3),
        },
    );
    assert!(
        leader == 3 || matches!(moved, Ok(Reply::LeaderMoved)),
        "{moved:?}"
    );
    cluster.put(3, "k2", "led", 0);
    assert_eq!(cluster.get(1, "k2").as_deref(), Some("led"));
}

/// What the leader would send to the third member now.
fn outgoing(cluster: &Cluster, leader: u64) -> Outgoing {
    let leading = &cluster.nodes[&leader];
    let message = raftpb::Message {
        r#type: Some(raftpb::MessageType::MsgSnap as i32),
        to: Some(3),
        from: Some(leader),
        term: Some(leading.replica.status().term),
        snapshot: Some(raftpb::Snapshot::default()),
        ..Default::default()
    };
    Outgoing::new(leading.view.clone(), message)
}

/// Receives and installs a snapshot step by step, until the disk refuses: then the member is dead. True if it never did.
fn is_installed(node: &mut Node, now: Now, mut outgoing: Outgoing) -> bool {
    let Ok(Some(mut incoming)) = node.apply.receive(outgoing.message().clone()) else {
        return false;
    };
    let mut is_taken = true;
    while outgoing
        .rows(1_000, |bucket, key, value| {
            let value = value.to_vec().into();
            is_taken = is_taken && incoming.row(bucket, key, value).is_ok();
        })
        .expect("readable")
    {
        if !is_taken {
            return false;
        }
    }
    let Ok((received, message)) = incoming.finish(outgoing.count()) else {
        return false;
    };
    let mut effects = Vec::new();
    let received_input = Input::SnapshotReceived(Box::new(message));
    node.replica.step(now, [received_input], &mut effects);
    let is_wanted = |effect: &Effect| matches!(effect, Effect::InstallSnapshot);
    assert!(effects.iter().any(is_wanted), "{effects:?}");
    let job = node.apply.install(&mut Some(received)).expect("idle");
    let Ok(done) = node.store.run(job) else {
        return false;
    };
    let Stored::Replaced(replaced) = node.apply.stored(done) else {
        panic!("a snapshot was installed")
    };
    effects.clear();
    node.replica
        .step(now, [Input::Installed(replaced.done)], &mut effects);
    for effect in effects {
        let Effect::Persist(job) = effect else {
            continue;
        };
        let Ok(Some(done)) = node.log.run([job]) else {
            return false;
        };
        let persisted = Input::Persisted {
            number: done.number,
        };
        node.replica.step(now, [persisted], &mut Vec::new());
    }
    true
}

/// At every operation of the disk the power may go. The next start finds the state of before or the one of the snapshot, complete,
/// and the member comes back to the others from either; also if the catalog names the new store and the log has not heard of it.
#[test]
fn a_crash_anywhere_in_an_installation_leaves_one_state_or_the_other() {
    let mut seen = (0, 0);
    for operations in 0.. {
        assert!(operations < 1_000, "the installation never ends");
        for style in 0..3 {
            let (mut cluster, disks, leader) = with_one_behind();
            let mut node = open(&disks[2], 3, 3, 2);
            let before = node.view.applied().0;
            let outgoing = outgoing(&cluster, leader);
            let after = cluster.nodes[&leader].view.applied().0;
            disks[2].faults(|faults| faults.operations_left = Some(operations));
            let is_done = is_installed(&mut node, cluster.now, outgoing);
            drop(node);
            let mut dice = operations;
            disks[2].crash(&mut |options| match style {
                0 => 0,
                1 => options - 1,
                _ => {
                    dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (dice >> 33) as usize % options
                }
            });
            let node = open(&disks[2], 3, 3, 3);
            let found = node.view.applied().0;
            assert!(
                found == after || (found == before && !is_done),
                "entry {found} after a crash {operations} operations into an installation of {after} over {before}"
            );
            seen.0 += u64::from(found == before);
            seen.1 += u64::from(found == after && !is_done);
            cluster.nodes.insert(3, node);
            cluster.put(leader, "k1", "after", 0);
            cluster.tick(20);
            assert_eq!(cluster.get(3, "k1").as_deref(), Some("after"));
            if is_done && style == 2 {
                assert!(seen.0 > 0 && seen.1 > 0, "not both were met: {seen:?}");
                return;
            }
        }
    }
}

#[test]
fn a_learner_joins_empty_catches_up_and_is_promoted_then_not_before() {
    use raftpb::ConfChangeType::{ConfChangeAddLearnerNode as Learner, ConfChangeAddNode as Voter};
    let (mut cluster, disks, leader) = with_one_behind();
    let other = 3 - leader;
    let added = cluster.change(leader, Learner, 4, false).expect("added");
    assert_eq!(added.len(), 4);
    let again = cluster.change(leader, Learner, 5, false);
    assert_eq!(again, Err(error::TOO_MANY_LEARNERS.text));
    // It lags as long as it has not started.
    let early = cluster.change(leader, Voter, 4, true);
    assert_eq!(early, Err(error::LEARNER_NOT_READY.text));
    let elsewhere = cluster.change(other, Voter, 4, true);
    assert_eq!(elsewhere, Err(error::NOT_LEADER.text));
    let unknown = cluster.change(leader, Voter, 9, true);
    assert_eq!(unknown, Err(error::MEMBER_NOT_FOUND.text));

    let disk = MemDisk::new();
    cluster.nodes.insert(4, open(&disk, 4, 0, 2));
    cluster.tick(20);
    assert_eq!(
        cluster.nodes[&4].view.applied(),
        cluster.nodes[&leader].view.applied()
    );
    assert!(cluster.nodes[&4].replica.status().is_learner);
    let promoted = cluster.change(leader, Voter, 4, true).expect("in sync");
    assert!(promoted.iter().all(|member| !member.is_learner));
    let twice = cluster.change(leader, Voter, 4, true);
    assert_eq!(twice, Err(error::MEMBER_NOT_LEARNER.text));
    // Its vote counts: three of four are a quorum, and the third of old is still down.
    cluster.put(leader, "k1", "four", 0);
    cluster.nodes.remove(&4);
    cluster.nodes.insert(4, open(&disk, 4, 0, 3));
    cluster.tick(5);
    cluster.nodes.insert(3, open(&disks[2], 3, 3, 2));
    cluster.tick(20);
    for id in 1..=4 {
        assert_eq!(
            cluster.get(id, "k1").as_deref(),
            Some("four"),
            "member {id}"
        );
    }
}

#[test]
fn a_removed_member_stops_and_does_not_start_again_and_the_others_go_on() {
    use raftpb::ConfChangeType::ConfChangeRemoveNode as Remove;
    let disks = [MemDisk::new(), MemDisk::new(), MemDisk::new()];
    let mut cluster = Cluster::new(&disks, 1);
    // The leader itself, which has to stay until the others know.
    let leader = cluster.elect();
    cluster.tick(12);
    let left = cluster
        .change(leader, Remove, leader, false)
        .expect("removed");
    assert_eq!(left.len(), 2);
    cluster.tick(5);
    assert!(!cluster.nodes[&leader].is_removed, "not at once");
    cluster.tick(20);
    let gone = cluster.nodes.remove(&leader).expect("a member");
    assert!(gone.is_removed);
    drop(gone);
    let disk: Arc<dyn Disk> = Arc::new(disks[leader as usize - 1].clone());
    let refused = boot::start(disk, params(leader, 3, 2)).err();
    let why = refused.map(|fault| fault.to_string()).unwrap_or_default();
    assert!(
        why.contains("permanently removed from the cluster"),
        "{why}"
    );
    let next = (0..50)
        .find_map(|_| {
            cluster.tick(1);
            cluster.leader()
        })
        .expect("two of two lead on");
    cluster.put(next, "a", "two", 0);
    let again = cluster.change(next, Remove, leader, false);
    assert_eq!(again, Err(error::MEMBER_NOT_FOUND.text));
}

/// etcd #20269, #3504: there the leader's heartbeat is a panic.
#[test]
#[should_panic(expected = "but its log ends at entry 3: its data directory was emptied")]
fn a_member_that_comes_back_with_an_empty_disk_is_told_what_to_do() {
    let disks = [MemDisk::new(), MemDisk::new(), MemDisk::new()];
    let mut cluster = Cluster::new(&disks, 1);
    let leader = cluster.elect();
    let wiped = if leader == 3 { 2 } else { 3 };
    cluster.put(leader, "a", "1", 0);
    cluster.tick(3);
    cluster.nodes.remove(&wiped);
    cluster
        .nodes
        .insert(wiped, open(&MemDisk::new(), wiped, 3, 2));
    cluster.tick(20);
}

/// Two members of three with some history, and the third, which is started when they have it and knows nothing.
fn with_a_late_one() -> (Cluster, u64) {
    let disks = [MemDisk::new(), MemDisk::new(), MemDisk::new()];
    let mut cluster = Cluster::new(&disks, 1);
    cluster.nodes.remove(&3);
    let leader = cluster.elect();
    cluster.tick(3);
    cluster.put(leader, "a", "1", 0);
    let params = Params {
        past: Past::Unknown,
        ..params(3, 3, 2)
    };
    cluster.nodes.insert(3, open_with(&MemDisk::new(), params));
    (cluster, leader)
}

#[test]
fn a_member_with_an_empty_log_asks_before_it_answers_anybody_with_a_past() {
    let (mut cluster, leader) = with_a_late_one();
    cluster.tick(30);
    let here = cluster.nodes[&3].replica.status();
    assert_eq!((here.leader, here.committed), (0, 3), "it has heard nobody");
    assert!(cluster.asked_past.contains(&3));
    assert!(
        cluster.asked_past.len() <= 4,
        "once a second: {:?}",
        cluster.asked_past
    );
    // Too few have answered; then enough, and it is new.
    for past in [Past::Unknown, Past::Nothing] {
        let node = cluster.nodes.get_mut(&3).expect("a member");
        node.inbox.push_back(Input::Past(past));
        cluster.tick(20);
        let knows = cluster.get(3, "a").is_some();
        assert_eq!(knows, past == Past::Nothing);
    }
    assert_eq!(cluster.leader(), Some(leader));
}

#[test]
#[should_panic(expected = "the cluster knows this member (3) as one that has started before")]
fn a_member_that_has_lost_its_disk_stops_when_it_hears_of_its_past() {
    let (mut cluster, _) = with_a_late_one();
    let node = cluster.nodes.get_mut(&3).expect("a member");
    node.inbox.push_back(Input::Past(Past::Started));
    cluster.tick(1);
}

#[test]
fn a_member_that_has_lost_its_disk_does_not_start_if_it_is_known_before() {
    let disk = MemDisk::new();
    let params = Params {
        past: Past::Started,
        ..params(3, 3, 2)
    };
    let Err(refused) = boot::start(Arc::new(disk.clone()), params) else {
        panic!("it has a past")
    };
    assert!(refused.message().contains("member remove"), "{refused}");
    assert!(!disk.exists("data/member".as_ref()).expect("works"));
}

/// etcd #5317: a follower that takes longer for a snapshot than the log is kept for needs the next one when it has it, and so on.
#[test]
fn what_is_written_while_a_snapshot_travels_needs_no_second_one() {
    let (mut cluster, disks, leader) = with_one_behind();
    cluster.held = Some(Vec::new());
    cluster.nodes.insert(3, open(&disks[2], 3, 3, 2));
    cluster.tick(5);
    assert_eq!(cluster.snapshots_sent, 1);
    let write = |cluster: &mut Cluster, count: u64| {
        for n in 0..count {
            cluster.put(leader, &format!("k{n}"), &"w".repeat(300), 0);
            cluster.tick(1);
        }
    };
    // More than the log is kept for (4 KiB), over several checkpoints.
    write(&mut cluster, 40);
    let (from, mut outgoing) = cluster.held.take().expect("held").remove(0);
    cluster.deliver_snapshot(from, 3, &mut outgoing);
    cluster.settle();
    // It has the snapshot, and not yet what comes behind it.
    cluster.deaf = Some(3);
    write(&mut cluster, 8);
    cluster.deaf = None;
    cluster.tick(20);
    let (there, here) = (&cluster.nodes[&leader].view, &cluster.nodes[&3].view);
    assert_eq!(here.applied(), there.applied());
    assert_eq!(cluster.snapshots_sent, 1, "it needed another one");
}

/// Proposals that raft would drop while the leadership is handed over go to whoever has it then.
#[test]
fn a_write_during_a_transfer_waits_for_the_new_leader() {
    let disks = [MemDisk::new(), MemDisk::new(), MemDisk::new()];
    let mut cluster = Cluster::new(&disks, 1);
    let leader = cluster.elect();
    cluster.tick(3);
    let target = leader % 3 + 1;
    // The answer of the target is still to come when the write arrives.
    cluster.deaf = Some(target);
    cluster.put(leader, "a", "1", 0);
    let node = cluster.nodes.get_mut(&leader).expect("a member");
    let moved = Request::MoveLeader {
        target: MemberId(target),
    };
    node.inbox.push_back(Input::Client(Ticket(900), moved));
    let id = node.ids.next();
    let request = pb::InternalRaftRequest {
        header: Some(pb::RequestHeader {
            id,
            ..Default::default()
        }),
        put: Some(pb::PutRequest {
            key: "b".into(),
            value: "2".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let data = request.encode_to_vec();
    node.inbox
        .push_back(Input::Client(Ticket(901), Request::Propose { id, data }));
    cluster.settle();
    assert_eq!(cluster.get(leader, "b"), None, "raft takes none now");
    cluster.deaf = None;
    cluster.tick(3);
    let answers = &mut cluster.nodes.get_mut(&leader).expect("a member").answers;
    assert!(matches!(
        answers.remove(&Ticket(900)),
        Some(Ok(Reply::LeaderMoved))
    ));
    assert!(matches!(
        answers.remove(&Ticket(901)),
        Some(Ok(Reply::Applied(_)))
    ));
    assert_eq!(cluster.get(target, "b").as_deref(), Some("2"));
}

/// Under load the apply worker takes the jobs that wait as one batch. A job that was never counted as done would leave the member
/// busy for good.
#[test]
fn jobs_that_were_applied_as_one_batch_are_all_done() {
    let mut cluster = Cluster::new(&[MemDisk::new()], 1);
    cluster.settle();
    cluster.tick(2);
    let now = cluster.now;
    let node = cluster.nodes.get_mut(&1).expect("a member");
    let mut jobs = Vec::new();
    for n in 0..2 {
        let id = node.ids.next();
        let request = pb::InternalRaftRequest {
            header: Some(pb::RequestHeader {
                id,
                ..Default::default()
            }),
            put: Some(pb::PutRequest {
                key: "a".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let data = request.encode_to_vec();
        let mut inputs = vec![Input::Client(
            Ticket(100 + n),
            Request::Propose { id, data },
        )];
        while !inputs.is_empty() {
            let mut effects = Vec::new();
            node.replica.step(now, inputs.drain(..), &mut effects);
            for effect in effects {
                match effect {
                    Effect::Persist(job) => {
                        let done = node.log.run([job]).expect("the disk works");
                        let number = done.expect("the disk has room").number;
                        inputs.push(Input::Persisted { number });
                    }
                    Effect::Apply(job) => jobs.push(job),
                    _ => {}
                }
            }
        }
    }
    assert_eq!(jobs.len(), 2);
    let done = node.apply.apply(jobs).expect("applies").done;
    node.replica
        .step(now, [Input::Applied(done)], &mut Vec::new());
    assert!(node.replica.is_idle());
}
