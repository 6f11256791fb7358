use bytes::Bytes;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

use super::*;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn put_op(key: &str) -> RequestOp {
    op(Request::RequestPut(PutRequest {
        key: bytes(key),
        ..Default::default()
    }))
}

fn delete_op(key: &str, range_end: &str) -> RequestOp {
    op(Request::RequestDeleteRange(DeleteRangeRequest {
        key: bytes(key),
        range_end: bytes(range_end),
        ..Default::default()
    }))
}

fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    op(Request::RequestTxn(TxnRequest {
        compare: Vec::new(),
        success,
        failure,
    }))
}

/// The answer to a transaction that has these operations in one branch, either of them.
fn answer(ops: Vec<RequestOp>) -> &'static str {
    let text = |checked: Checked| checked.map_or_else(|error| error.text, |()| "ok");
    let success = text(txn(
        &TxnRequest {
            success: ops.clone(),
            ..Default::default()
        },
        TXN_OPS_MAX,
    ));
    assert_eq!(
        success,
        text(txn(
            &TxnRequest {
                failure: ops,
                ..Default::default()
            },
            TXN_OPS_MAX
        ))
    );
    success
}

const DUPLICATE: &str = error::DUPLICATE_KEY.text;

#[test]
fn the_first_error_is_etcds() {
    let range_of = |key: &str, sort_order, sort_target| {
        range(&RangeRequest {
            key: bytes(key),
            sort_order,
            sort_target,
            ..Default::default()
        })
    };
    assert_eq!(range_of("", 9, 9), Err(&error::EMPTY_KEY));
    assert_eq!(range_of("a", 9, 0), Err(&error::INVALID_SORT_OPTION));
    assert_eq!(range_of("a", 0, -1), Err(&error::INVALID_SORT_OPTION));
    assert_eq!(range_of("a", 2, 4), Ok(()));
    let all_wrong = PutRequest {
        value: bytes("v"),
        lease: 1,
        ignore_value: true,
        ignore_lease: true,
        ..Default::default()
    };
    assert_eq!(put(&all_wrong), Err(&error::EMPTY_KEY));
    assert_eq!(
        put(&PutRequest {
            key: bytes("k"),
            ..all_wrong.clone()
        }),
        Err(&error::VALUE_PROVIDED)
    );
    assert_eq!(
        put(&PutRequest {
            key: bytes("k"),
            value: Bytes::new(),
            ..all_wrong
        }),
        Err(&error::LEASE_PROVIDED)
    );
}

#[test]
fn one_change_per_key_and_branch() {
    assert_eq!(answer(vec![put_op("a"), put_op("b")]), "ok");
    assert_eq!(answer(vec![put_op("a"), put_op("a")]), DUPLICATE);
    assert_eq!(answer(vec![put_op("b"), delete_op("a", "c")]), DUPLICATE);
    assert_eq!(answer(vec![delete_op("b", ""), put_op("b")]), DUPLICATE);
    assert_eq!(answer(vec![delete_op("a", "b"), put_op("b")]), "ok");
    assert_eq!(
        answer(vec![
            delete_op("a", "c"),
            delete_op("b", "d"),
            delete_op("b", "")
        ]),
        "ok"
    );
    assert_eq!(
        answer(vec![delete_op("c", "a"), put_op("b")]),
        "ok",
        "an empty range covers nothing"
    );
}

#[test]
fn a_deletion_without_end_or_with_an_end_before_its_start_covers_nothing_as_in_etcd() {
    assert_eq!(answer(vec![delete_op("a", "\0"), put_op("zz")]), "ok");
    assert_eq!(answer(vec![delete_op("\0", "\0"), put_op("k3")]), "ok");
    assert_eq!(answer(vec![delete_op("a", "\0"), put_op("a")]), "ok");
    assert_eq!(answer(vec![delete_op("c", "abc"), put_op("c")]), "ok");
    assert_eq!(answer(vec![delete_op("c", "c"), put_op("c")]), "ok");
    assert_eq!(answer(vec![delete_op("a", ""), put_op("a")]), DUPLICATE);
    assert_eq!(answer(vec![delete_op("a", "b"), put_op("a")]), DUPLICATE);
}

#[test]
fn nested_branches_exclude_each_other_but_not_their_siblings() {
    assert_eq!(
        answer(vec![nested(vec![put_op("a")], vec![put_op("a")])]),
        "ok"
    );
    assert_eq!(
        answer(vec![nested(vec![put_op("a")], vec![]), put_op("a")]),
        DUPLICATE
    );
    assert_eq!(
        answer(vec![
            nested(vec![put_op("a")], vec![]),
            nested(vec![], vec![put_op("a")])
        ]),
        DUPLICATE
    );
    assert_eq!(
        answer(vec![nested(vec![delete_op("a", "c")], vec![]), put_op("b")]),
        DUPLICATE
    );
    assert_eq!(
        answer(vec![nested(vec![delete_op("a", "")], vec![put_op("a")])]),
        "ok"
    );
    assert_eq!(
        answer(vec![
            delete_op("a", ""),
            nested(vec![nested(vec![put_op("a")], vec![])], vec![])
        ]),
        DUPLICATE
    );
}

#[test]
fn nested_transactions_share_what_is_left_of_the_limit() {
    let request = TxnRequest {
        success: vec![nested(vec![put_op("a"), put_op("b")], vec![]), put_op("c")],
        ..Default::default()
    };
    assert_eq!(txn(&request, 4), Ok(()));
    assert_eq!(txn(&request, 3), Err(&error::TOO_MANY_OPS));
    let compares = TxnRequest {
        compare: vec![Compare::default(); 3],
        ..Default::default()
    };
    assert_eq!(txn(&compares, 2), Err(&error::TOO_MANY_OPS));
    assert_eq!(txn(&compares, 3), Err(&error::EMPTY_KEY));
}

#[test]
fn an_empty_operation_has_no_key() {
    assert_eq!(
        answer(vec![RequestOp::default()]),
        error::KEY_NOT_FOUND.text
    );
}

#[test]
fn a_transaction_without_operations_counts_as_serializable() {
    let range = |serializable| {
        op(Request::RequestRange(RangeRequest {
            key: bytes("a"),
            serializable,
            ..Default::default()
        }))
    };
    let of = |ops: Vec<RequestOp>| {
        let request = TxnRequest {
            failure: ops,
            ..Default::default()
        };
        (is_read_only(&request), is_serializable(&request))
    };
    assert_eq!(of(vec![]), (true, true));
    assert_eq!(of(vec![range(true), range(false)]), (true, false));
    assert_eq!(of(vec![nested(vec![range(true)], vec![])]), (false, false));
}

#[test]
fn unknown_alarm_actions_are_refused() {
    let action = |action| {
        alarm(&pb::AlarmRequest {
            action,
            ..Default::default()
        })
    };
    assert_eq!(
        (action(2), action(34)),
        (Ok(()), Err(&error::UNKNOWN_METHOD))
    );
}
