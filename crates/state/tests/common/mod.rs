//! A state on a disk in memory, and short ways to write requests.
#![allow(dead_code, reason = "each test uses its part")]

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use proto::raftpb::{Entry, EntryType};
use state::{Applied, Params, State};
use storage::catalog::Catalog;
use storage::disk::MemDisk;
use storage::segments::SegmentsOptions;

/// A state, the log it has seen, and its disk.
pub struct Member {
    pub state: State,
    pub log: Vec<Entry>,
    pub params: Params,
    disk: Arc<MemDisk>,
    catalog: Catalog,
}

/// Small enough that a test has many segments and reads cold ones.
const OPTIONS: SegmentsOptions = SegmentsOptions {
    segment_bytes: 16 << 10,
    hot_bytes: 24 << 10,
    salt: 7,
    sequence_first: 1,
};

impl Member {
    pub fn new() -> Member {
        Member::with(Params {
            quota_bytes: None,
            ..Params::default()
        })
    }

    pub fn with(params: Params) -> Member {
        let disk = Arc::new(MemDisk::new());
        let (catalog, recovered) = Catalog::open(disk.clone(), "data").expect("an empty disk");
        assert!(recovered.is_none());
        let state =
            State::create(params.clone(), disk.clone(), "data", OPTIONS).expect("an empty disk");
        Member {
            state,
            log: Vec::new(),
            params,
            disk,
            catalog,
        }
    }

    /// Appends an entry to the log and applies it.
    pub fn entry(&mut self, kind: EntryType, data: Bytes) -> Applied {
        let index = self.log.last().map_or(0, Entry::index) + 1;
        let entry = Entry {
            r#type: Some(kind as i32),
            term: Some(2),
            index: Some(index),
            data: Some(data),
        };
        self.log.push(entry.clone());
        self.state.apply(&entry).expect("no fault")
    }

    pub fn request(&mut self, request: &pb::InternalRaftRequest) -> Applied {
        self.entry(EntryType::EntryNormal, request.encode_to_vec().into())
    }

    pub fn op(&mut self, request: Request) -> Applied {
        let mut raft = pb::InternalRaftRequest {
            header: Some(pb::RequestHeader {
                id: 1,
                ..Default::default()
            }),
            ..Default::default()
        };
        match request {
            Request::RequestRange(request) => raft.range = Some(request),
            Request::RequestPut(request) => raft.put = Some(request),
            Request::RequestDeleteRange(request) => raft.delete_range = Some(request),
            Request::RequestTxn(request) => raft.txn = Some(request),
        }
        self.request(&raft)
    }

    pub fn put(&mut self, key: &str, value: &str) -> Applied {
        self.op(put(key, value, 0))
    }

    pub fn delete(&mut self, key: &str, end: &str) -> Applied {
        self.op(delete(key, end))
    }

    pub fn compact(&mut self, revision: i64) -> Applied {
        let compaction = Some(pb::CompactionRequest {
            revision,
            physical: false,
        });
        self.request(&pb::InternalRaftRequest {
            compaction,
            ..Default::default()
        })
    }

    pub fn grant(&mut self, id: i64, ttl: i64) -> Applied {
        let lease_grant = Some(pb::LeaseGrantRequest { id, ttl });
        self.request(&pb::InternalRaftRequest {
            lease_grant,
            ..Default::default()
        })
    }

    pub fn revoke(&mut self, id: i64) -> Applied {
        let lease_revoke = Some(pb::LeaseRevokeRequest { id });
        self.request(&pb::InternalRaftRequest {
            lease_revoke,
            ..Default::default()
        })
    }

    pub fn checkpoint(&mut self) {
        let job = self.state.checkpoint();
        let done = job.run(&mut self.catalog).expect("the disk is sound");
        self.state.checkpointed(done);
    }

    /// Rewrites segments until none is worth it.
    pub fn rewrite(&mut self) -> usize {
        let mut count = 0;
        while let Some(job) = self.state.rewrite(0.7) {
            self.state.rewritten(job.run().expect("the disk is sound"));
            self.checkpoint();
            count += 1;
        }
        count
    }

    /// Stops and starts: what the last checkpoint holds, and the log after it.
    pub fn restart(&mut self) {
        let (catalog, recovered) =
            Catalog::open(self.disk.clone(), "data").expect("the catalog is sound");
        self.catalog = catalog;
        self.state = match recovered {
            Some(recovered) => State::open(
                self.params.clone(),
                recovered,
                self.disk.clone(),
                "data",
                OPTIONS,
            ),
            None => State::create(self.params.clone(), self.disk.clone(), "data", OPTIONS),
        }
        .expect("the data is sound");
        let (index, _) = self.state.applied();
        for entry in &self.log[index as usize..] {
            self.state.apply(entry).expect("no fault");
        }
    }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn put(key: &str, value: &str, lease: i64) -> Request {
    Request::RequestPut(pb::PutRequest {
        key: bytes(key),
        value: bytes(value),
        lease,
        ..Default::default()
    })
}

pub fn delete(key: &str, end: &str) -> Request {
    Request::RequestDeleteRange(pb::DeleteRangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        prev_kv: true,
    })
}

pub fn range(key: &str, end: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        ..Default::default()
    }
}

pub fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

pub fn txn(compare: Vec<pb::Compare>, success: Vec<Request>, failure: Vec<Request>) -> Request {
    let ops = |requests: Vec<Request>| requests.into_iter().map(op).collect();
    Request::RequestTxn(pb::TxnRequest {
        compare,
        success: ops(success),
        failure: ops(failure),
    })
}
