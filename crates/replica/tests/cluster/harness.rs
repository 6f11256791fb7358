//! The members, their disks and the hand that carries out what they want done.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::raftpb;
use replica::boot::{self, Booted, Params};
use replica::duties::{self, AutoCompaction};
use replica::ids::RequestIds;
use replica::past::Past;
use replica::snapshots::{Outgoing, Received};
use replica::workers::{ApplyWorker, LogWorker, StoreDone, StoreWorker, Stored};
use replica::{Config, Effect, Input, MemberId, Now, Replica, Reply, Request, Ticket};
use state::membership::{ChangeContext, Member};
use state::{ReadView, Response};
use storage::datadir::{DataDir, Layout, Permissions};
use storage::disk::{Disk, MemDisk};
use storage::segments::SegmentsOptions;
use storage::wal::{self, Identity};

pub const ELECTION_TICKS: u64 = 10;
pub const TICK_US: u64 = 100_000;

pub struct Node {
    pub replica: Replica,
    pub log: LogWorker,
    pub apply: ApplyWorker,
    pub store: StoreWorker,
    pub ids: Arc<RequestIds>,
    pub view: ReadView,
    pub received: Option<Received>,
    pub is_removed: bool,
    pub _data_dir: DataDir,
    pub inbox: VecDeque<Input>,
    pub answers: BTreeMap<Ticket, Result<Reply, &'static proto::error::RpcError>>,
}

pub struct Cluster {
    pub nodes: BTreeMap<u64, Node>,
    pub now: Now,
    pub tickets: u64,
    /// Snapshots that are on their way for as long as this is there, with their senders.
    pub held: Option<Vec<(u64, Outgoing)>>,
    pub snapshots_sent: u32,
    /// Hears nothing.
    pub deaf: Option<u64>,
    pub asked_past: Vec<u64>,
}

pub fn params(me: u64, size: u64, wall_ms: u64) -> Params {
    let initial_members = (1..=size)
        .map(|id| Member {
            id,
            peer_urls: Some(vec![format!("http://10.0.0.{id}:2380")]),
            ..Member::default()
        })
        .collect();
    Params {
        layout: Layout::new("data", None),
        permissions: Permissions::Refuse,
        identity: Identity {
            cluster_id: 77,
            member_id: me,
        },
        past: Past::Nothing,
        force_new_cluster: false,
        initial_members,
        config: Config {
            member: MemberId(me),
            election_ticks: ELECTION_TICKS,
            tick_us: TICK_US,
            pre_vote: true,
            request_timeout_us: 7_000_000,
            log_keep_entries: 10,
            log_keep_bytes: 4 << 10,
            checkpoint_every_us: 1_000_000,
            checkpoint_bytes: 1 << 20,
            duties: duties::Config {
                member: MemberId(me),
                name: format!("m{me}"),
                client_urls: vec![format!("http://10.0.0.{me}:2379")],
                cluster_version: Some("3.7.0".into()),
                election_us: 1_000_000,
                auto_compaction: AutoCompaction::Off,
            },
            seed: me,
        },
        state: state::Params::default(),
        wal: wal::Options::with_segment_bytes(64 << 10, 4 << 10),
        segments: SegmentsOptions {
            segment_bytes: 16 << 10,
            hot_bytes: 16 << 10,
            ..SegmentsOptions::default()
        },
        wall_ms,
    }
}

pub fn open(disk: &MemDisk, me: u64, size: u64, wall_ms: u64) -> Node {
    open_with(disk, params(me, size, wall_ms))
}

pub fn open_with(disk: &MemDisk, params: Params) -> Node {
    disk.create_dir_all("data/wal".as_ref()).expect("directory");
    disk.create_dir_all("data/store".as_ref())
        .expect("directory");
    let booted = boot::start(Arc::new(disk.clone()), params).expect("starts");
    let Booted {
        replica,
        log,
        apply,
        store,
        ids,
        data_dir,
        ..
    } = booted;
    let view = apply.published().view;
    Node {
        replica,
        log,
        apply,
        store,
        ids,
        view,
        received: None,
        is_removed: false,
        _data_dir: data_dir,
        inbox: VecDeque::new(),
        answers: BTreeMap::new(),
    }
}

impl Node {
    pub fn install(&mut self) {
        let job = self.apply.install(&mut self.received).expect("idle");
        let Ok(done) = self.store.run(job) else {
            panic!("the disk works")
        };
        let Stored::Replaced(replaced) = self.apply.stored(done) else {
            panic!("a snapshot was installed")
        };
        self.view = replaced.published.view;
        self.inbox.push_back(Input::Installed(replaced.done));
    }
}

impl Cluster {
    pub fn new(disks: &[MemDisk], wall_ms: u64) -> Self {
        let size = disks.len() as u64;
        let nodes = disks
            .iter()
            .zip(1..)
            .map(|(disk, id)| (id, open(disk, id, size, wall_ms)))
            .collect();
        Cluster {
            nodes,
            now: Now::default(),
            tickets: 0,
            held: None,
            snapshots_sent: 0,
            deaf: None,
            asked_past: Vec::new(),
        }
    }

    /// Carries out everything that is to be done until nothing is.
    pub fn settle(&mut self) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for round in 0.. {
            assert!(round < 10_000, "the members never come to rest");
            let mut effects_done = 0;
            for id in &ids {
                effects_done += self.step(*id);
            }
            if effects_done == 0 {
                return;
            }
        }
    }

    pub fn step(&mut self, id: u64) -> usize {
        let node = self.nodes.get_mut(&id).expect("a member");
        let mut effects = Vec::new();
        node.replica
            .step(self.now, node.inbox.drain(..), &mut effects);
        let count = effects.len();
        for effect in effects {
            self.perform(id, effect);
        }
        count
    }

    pub fn perform(&mut self, id: u64, effect: Effect) {
        let node = self.nodes.get_mut(&id).expect("a member");
        match effect {
            Effect::Persist(job) => {
                let done = node
                    .log
                    .run([job])
                    .expect("the disk works")
                    .expect("the disk has room");
                if let Some(spare) = node.log.spare_job() {
                    assert!(
                        node.log
                            .install_spare(spare.run())
                            .expect("the disk works")
                            .is_none()
                    );
                }
                node.inbox.push_back(Input::Persisted {
                    number: done.number,
                });
                for message in done.messages {
                    self.send(message);
                }
            }
            Effect::Apply(job) => {
                let output = node.apply.apply([job]).expect("applies");
                node.view = output.published.view;
                for answer in output.answers {
                    node.answers
                        .insert(answer.ticket, Ok(Reply::Applied(answer.applied)));
                }
                node.inbox.push_back(Input::Applied(output.done));
                while let Some(job) = node.apply.hash_job() {
                    node.apply.hashed(&job.run().expect("the disk works"));
                }
                while node.apply.needs_maintenance() {
                    for answer in node.apply.maintain(1000).answers {
                        node.answers
                            .insert(answer.ticket, Ok(Reply::Applied(answer.applied)));
                    }
                }
            }
            Effect::Send(_, message) => self.send(*message),
            Effect::Reply(ticket, answer) => {
                node.answers.insert(ticket, answer);
            }
            Effect::Checkpoint => {
                let job = node.apply.checkpoint().expect("one at a time");
                let Ok(done) = node.store.run(job) else {
                    panic!("the disk works")
                };
                assert!(matches!(done, StoreDone::Checkpoint(_)));
                let Stored::Checkpoint(marker) = node.apply.stored(done) else {
                    panic!("a checkpoint has a marker")
                };
                node.inbox.push_back(Input::Checkpointed(marker));
            }
            Effect::Status(_) => {}
            Effect::SendSnapshot(to, message) => {
                let mut outgoing = Outgoing::new(node.view.clone(), *message);
                self.snapshots_sent += 1;
                match &mut self.held {
                    Some(held) => held.push((id, outgoing)),
                    None => self.deliver_snapshot(id, to.0, &mut outgoing),
                }
            }
            Effect::InstallSnapshot => node.install(),
            Effect::DropSnapshot => {
                let received = node.received.take().expect("dropped once");
                received.discard().expect("the disk works");
            }
            Effect::MembersChanged => {}
            Effect::AskPast => self.asked_past.push(id),
            Effect::Removed => node.is_removed = true,
            Effect::Stop(fault) => panic!("member {id} stopped: {fault}"),
        }
    }

    pub fn deliver_snapshot(&mut self, from: u64, to: u64, outgoing: &mut Outgoing) {
        let is_sent = self.receive_snapshot(to, outgoing);
        let to = MemberId(to);
        let node = self.nodes.get_mut(&from).expect("a member");
        node.inbox.push_back(Input::SnapshotSent { to, is_sent });
    }

    /// All rows at once; false if there is nobody to take them.
    pub fn receive_snapshot(&mut self, to: u64, outgoing: &mut Outgoing) -> bool {
        let Some(node) = self
            .nodes
            .get_mut(&to)
            .filter(|node| node.received.is_none())
        else {
            return false;
        };
        let incoming = node.apply.receive(outgoing.message().clone());
        let Some(mut incoming) = incoming.expect("the disk works") else {
            return false;
        };
        let mut rows = Vec::new();
        while outgoing
            .rows(100, |bucket, key, value| {
                rows.push((bucket, key.to_vec(), value.to_vec()));
            })
            .expect("readable")
        {
            for (bucket, key, value) in rows.drain(..) {
                incoming
                    .row(bucket, &key, value.into())
                    .expect("our own rows");
            }
        }
        let (received, message) = incoming.finish(outgoing.count()).expect("complete");
        node.received = Some(received);
        node.inbox
            .push_back(Input::SnapshotReceived(Box::new(message)));
        true
    }

    /// Delivers at once, through the encoding, as it would travel.
    pub fn send(&mut self, message: raftpb::Message) {
        let decoded = raftpb::Message::decode(message.encode_to_vec().as_slice()).expect("decodes");
        if self.deaf == Some(decoded.to()) {
            return;
        }
        if let Some(node) = self.nodes.get_mut(&decoded.to()) {
            node.inbox.push_back(Input::Peer(Box::new(decoded)));
        }
    }

    pub fn tick(&mut self, count: u64) {
        for _ in 0..count {
            self.now.monotonic_us += TICK_US;
            for node in self.nodes.values_mut() {
                node.inbox.push_back(Input::Tick);
            }
            self.settle();
        }
    }

    pub fn leader(&self) -> Option<u64> {
        self.nodes
            .iter()
            .find(|(_, node)| node.replica.status().is_leader)
            .map(|(id, _)| *id)
    }

    pub fn elect(&mut self) -> u64 {
        for _ in 0..50 {
            self.settle();
            if let Some(leader) = self.leader() {
                return leader;
            }
            self.tick(1);
        }
        panic!("no leader after 50 ticks");
    }

    pub fn ask(
        &mut self,
        id: u64,
        request: Request,
    ) -> Result<Reply, &'static proto::error::RpcError> {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.nodes
            .get_mut(&id)
            .expect("a member")
            .inbox
            .push_back(Input::Client(ticket, request));
        self.settle();
        self.nodes
            .get_mut(&id)
            .expect("a member")
            .answers
            .remove(&ticket)
            .expect("an answer")
    }

    pub fn put(&mut self, id: u64, key: &str, value: &str, lease: i64) -> i64 {
        let put = pb::PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            lease,
            ..Default::default()
        };
        match self.propose(
            id,
            pb::InternalRaftRequest {
                put: Some(put),
                ..Default::default()
            },
        ) {
            Response::Put(response) => response.header.expect("a header").revision,
            other => panic!("unexpected {other:?}"),
        }
    }

    pub fn propose(&mut self, id: u64, mut request: pb::InternalRaftRequest) -> Response {
        let request_id = self.nodes[&id].ids.next();
        request.header = Some(pb::RequestHeader {
            id: request_id,
            ..Default::default()
        });
        let data = request.encode_to_vec();
        match self
            .ask(
                id,
                Request::Propose {
                    id: request_id,
                    data,
                },
            )
            .expect("accepted")
        {
            Reply::Applied(applied) => applied.outcome.expect("not rejected"),
            other => panic!("unexpected {other:?}"),
        }
    }

    pub fn change(
        &mut self,
        asked: u64,
        kind: raftpb::ConfChangeType,
        id: u64,
        is_promote: bool,
    ) -> Result<Vec<Member>, &'static str> {
        let member = Member {
            id,
            peer_urls: (!is_promote).then(|| vec![format!("http://10.0.0.{id}:2380")]),
            is_learner: kind == raftpb::ConfChangeType::ConfChangeAddLearnerNode,
            ..Member::default()
        };
        let context = ChangeContext { member, is_promote };
        let change = raftpb::ConfChange {
            id: Some(self.nodes[&asked].ids.next()),
            r#type: Some(kind as i32),
            node_id: Some(id),
            context: Some(context.to_json().into()),
        };
        match self.ask(asked, Request::ChangeMembers { change }) {
            Err(why) => Err(why.text),
            Ok(Reply::Applied(applied)) => match applied.outcome {
                Ok(Response::Members(members)) => Ok(members),
                Err(rejected) => Err(rejected.0.text),
                other => panic!("unexpected {other:?}"),
            },
            other => panic!("unexpected {other:?}"),
        }
    }

    pub fn get(&self, id: u64, key: &str) -> Option<String> {
        let view = &self.nodes[&id].view;
        let bytes = view
            .get(key.as_bytes(), view.revision())
            .expect("readable")?;
        let kv = proto::mvccpb::KeyValue::decode(bytes).expect("decodes");
        Some(String::from_utf8(kv.value.to_vec()).expect("text"))
    }
}

/// Three members, the one that leads, and what it was given to write: "1" under "a".
pub fn three_with_a_write() -> (Cluster, u64) {
    let disks = [MemDisk::new(), MemDisk::new(), MemDisk::new()];
    let mut cluster = Cluster::new(&disks, 1);
    let leader = cluster.elect();
    cluster.put(leader, "a", "1", 0);
    (cluster, leader)
}
