//! Which entries take microseconds to apply, whatever the store holds.

use prost::Message as _;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{InternalRaftRequest, RequestOp};
use proto::raftpb::{self, EntryType};

/// Larger entries are not looked into; copying them is no longer a matter of microseconds.
const BYTES_MAX: usize = 16 << 10;
/// Comparisons and operations of a transaction, together.
const TXN_STEPS_MAX: usize = 16;

/// Whether the entry touches a few single keys and nothing else. What is not known for sure is not brief; the answer decides
/// on which thread the entry is applied, never what comes of it.
pub(crate) fn is_brief(entry: &raftpb::Entry) -> bool {
    let Some(data) = entry.data.as_ref().filter(|data| !data.is_empty()) else {
        return entry.r#type() == EntryType::EntryNormal;
    };
    if entry.r#type() != EntryType::EntryNormal || data.len() > BYTES_MAX {
        return false;
    }
    let Ok(request) = InternalRaftRequest::decode(data.clone()) else {
        return false;
    };
    if request.put.is_some() || request.lease_grant.is_some() {
        return true;
    }
    request.txn.is_some_and(|txn| {
        txn.compare.len() + txn.success.len() + txn.failure.len() <= TXN_STEPS_MAX
            && txn
                .compare
                .iter()
                .all(|compare| compare.range_end.is_empty())
            && txn.success.iter().chain(&txn.failure).all(touches_one_key)
    })
}

fn touches_one_key(operation: &RequestOp) -> bool {
    match &operation.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestRange(range)) => range.range_end.is_empty(),
        Some(Request::RequestDeleteRange(delete)) => delete.range_end.is_empty(),
        Some(Request::RequestTxn(_)) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::etcdserverpb::{
        CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest,
    };

    fn entry(request: &InternalRaftRequest) -> raftpb::Entry {
        raftpb::Entry {
            data: Some(request.encode_to_vec().into()),
            ..Default::default()
        }
    }

    fn txn(txn: TxnRequest) -> raftpb::Entry {
        entry(&InternalRaftRequest {
            txn: Some(txn),
            ..Default::default()
        })
    }

    fn operation(request: Request) -> RequestOp {
        RequestOp {
            request: Some(request),
        }
    }

    fn put(value_bytes: usize) -> PutRequest {
        PutRequest {
            key: "k".into(),
            value: vec![b'v'; value_bytes].into(),
            ..Default::default()
        }
    }

    fn delete(range_end: &'static str) -> Request {
        Request::RequestDeleteRange(DeleteRangeRequest {
            key: "a".into(),
            range_end: range_end.into(),
            ..Default::default()
        })
    }

    #[test]
    fn puts_and_the_entry_of_a_new_leader_are_brief() {
        let request = InternalRaftRequest {
            put: Some(put(100)),
            ..Default::default()
        };
        assert!(is_brief(&entry(&request)));
        assert!(is_brief(&raftpb::Entry::default()));
    }

    #[test]
    fn what_may_touch_any_number_of_keys_is_not() {
        let delete_all = InternalRaftRequest {
            delete_range: Some(DeleteRangeRequest {
                key: "a".into(),
                range_end: "b".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let compaction = InternalRaftRequest {
            compaction: Some(CompactionRequest::default()),
            ..Default::default()
        };
        let large = InternalRaftRequest {
            put: Some(put(BYTES_MAX)),
            ..Default::default()
        };
        for request in [delete_all, compaction, large] {
            assert!(!is_brief(&entry(&request)), "{request:?}");
        }
        let change = raftpb::Entry {
            r#type: Some(EntryType::EntryConfChange as i32),
            ..Default::default()
        };
        assert!(!is_brief(&change));
        let unknown = raftpb::Entry {
            data: Some(b"\xff\xff".as_slice().into()),
            ..Default::default()
        };
        assert!(!is_brief(&unknown));
    }

    #[test]
    fn a_transaction_is_brief_if_all_that_it_may_touch_is_single_keys() {
        let kubernetes = TxnRequest {
            compare: vec![Compare::default()],
            success: vec![operation(Request::RequestPut(put(10)))],
            failure: vec![operation(Request::RequestRange(RangeRequest::default()))],
        };
        assert!(is_brief(&txn(kubernetes.clone())));
        let wide = |change: &dyn Fn(&mut TxnRequest)| {
            let mut changed = kubernetes.clone();
            change(&mut changed);
            changed
        };
        let wide = [
            wide(&|t| t.compare[0].range_end = "z".into()),
            wide(&|t| t.success.push(operation(delete("z")))),
            wide(&|t| {
                let nested = Request::RequestTxn(TxnRequest::default());
                t.failure.push(operation(nested));
            }),
            wide(&|t| t.success = vec![operation(delete("")); TXN_STEPS_MAX]),
        ];
        for wide in wide {
            assert!(!is_brief(&txn(wide.clone())), "{wide:?}");
        }
    }
}
