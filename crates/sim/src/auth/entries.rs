//! Random entries about few keys, users and roles, so that they meet.

use bytes::Bytes;
use proto::authpb;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;

use super::model::{KEYS, Model};
use crate::dice::Dice;

const USERS: [&str; 3] = ["root", "u", "v"];
const ROLES: [&str; 3] = ["root", "p", "q"];
const LEASES: [i64; 2] = [1, 2];

/// An entry by somebody. As long as permissions are not checked, mostly one that leads to where they are.
pub fn draw(dice: &mut Dice, model: &Model) -> pb::InternalRaftRequest {
    let mut request = pb::InternalRaftRequest::default();
    let about_keys = if model.enabled { 600 } else { 100 };
    if dice.chance(about_keys) {
        keys(dice, &mut request);
    } else {
        users(dice, model, &mut request);
    }
    let name = if dice.chance(300) {
        ""
    } else {
        *dice.pick(&USERS)
    };
    // Who changes users is mostly root, else nothing would change.
    let changes_users = request.put.is_none() && request.txn.is_none();
    let name = if changes_users && dice.chance(700) {
        "root"
    } else {
        name
    };
    let is_old = dice.chance(60);
    request.header = Some(pb::RequestHeader {
        id: 1,
        username: name.to_owned(),
        auth_revision: match name {
            "" => 0,
            _ => model.revision() - u64::from(is_old),
        },
    });
    request
}

fn keys(dice: &mut Dice, request: &mut pb::InternalRaftRequest) {
    let id = *dice.pick(&LEASES);
    match dice.below(12) {
        0 => request.lease_grant = Some(pb::LeaseGrantRequest { id, ttl: 60 }),
        1 => request.lease_revoke = Some(pb::LeaseRevokeRequest { id }),
        2 => request.range = Some(range(dice)),
        3 => request.delete_range = Some(delete(dice)),
        4..=6 => request.put = Some(put(dice)),
        _ => request.txn = Some(txn(dice, 2)),
    }
}

fn users(dice: &mut Dice, model: &Model, request: &mut pb::InternalRaftRequest) {
    let name = (*dice.pick(&USERS)).to_owned();
    let role = (*dice.pick(&ROLES)).to_owned();
    let is_ready = model
        .users
        .get("root")
        .is_some_and(|roles| roles.contains("root"));
    match dice.below(if model.enabled { 40 } else { 30 }) {
        0..=5 => request.auth_user_add = Some(user(name)),
        6..=11 => {
            let user = name;
            request.auth_user_grant_role = Some(pb::AuthUserGrantRoleRequest { user, role });
        }
        12..=14 => request.auth_role_add = Some(pb::AuthRoleAddRequest { name: role }),
        15..=21 => {
            let (key, range_end) = bounds(dice);
            let perm = Some(authpb::Permission {
                perm_type: dice.below(3) as i32,
                key,
                range_end,
            });
            request.auth_role_grant_permission =
                Some(pb::AuthRoleGrantPermissionRequest { name: role, perm });
        }
        22 | 23 => {
            let (key, range_end) = bounds(dice);
            let revoke = pb::AuthRoleRevokePermissionRequest {
                role,
                key,
                range_end,
            };
            request.auth_role_revoke_permission = Some(revoke);
        }
        24 => request.auth_user_delete = Some(pb::AuthUserDeleteRequest { name }),
        25 => {
            request.auth_user_revoke_role = Some(pb::AuthUserRevokeRoleRequest { name, role });
        }
        26 => request.auth_role_delete = Some(pb::AuthRoleDeleteRequest { role }),
        27 if is_ready || dice.chance(100) => request.auth_enable = Some(Default::default()),
        28 => request.auth_status = Some(Default::default()),
        29 if dice.chance(200) => request.auth_disable = Some(Default::default()),
        30 | 31 => {
            request.authenticate = Some(pb::InternalAuthenticateRequest {
                name,
                password: String::new(),
                simple_token: "token".to_owned(),
            });
        }
        32 => {
            request.auth_user_change_password = Some(pb::AuthUserChangePasswordRequest {
                name,
                ..Default::default()
            });
        }
        _ => request.auth_user_add = Some(user(name)),
    }
}

fn user(name: String) -> pb::AuthUserAddRequest {
    pb::AuthUserAddRequest {
        name,
        hashed_password: "aGFzaA==".to_owned(),
        ..Default::default()
    }
}

fn key(dice: &mut Dice) -> Bytes {
    Bytes::copy_from_slice(&[*dice.pick(&KEYS)])
}

/// A key, everything from a key on, or a range that does not end before it begins.
fn bounds(dice: &mut Dice) -> (Bytes, Bytes) {
    let (first, second) = (key(dice), key(dice));
    match dice.below(4) {
        0 | 1 => (first, Bytes::new()),
        2 if first < second => (first, second),
        2 => (first, Bytes::new()),
        _ if dice.chance(150) => (first, Bytes::from_static(&[0])),
        _ if second < first => (second, first),
        _ => (first, Bytes::new()),
    }
}

fn range(dice: &mut Dice) -> pb::RangeRequest {
    let (key, range_end) = bounds(dice);
    pb::RangeRequest {
        key,
        range_end,
        ..Default::default()
    }
}

fn delete(dice: &mut Dice) -> pb::DeleteRangeRequest {
    let (key, range_end) = bounds(dice);
    pb::DeleteRangeRequest {
        key,
        range_end,
        prev_kv: dice.chance(300),
    }
}

fn put(dice: &mut Dice) -> pb::PutRequest {
    pb::PutRequest {
        key: key(dice),
        lease: if dice.chance(300) {
            *dice.pick(&LEASES)
        } else {
            0
        },
        prev_kv: dice.chance(200),
        ..Default::default()
    }
}

/// The comparison, if there is one, always holds: no key has a negative version.
fn txn(dice: &mut Dice, depth: u32) -> pb::TxnRequest {
    let mut txn = pb::TxnRequest::default();
    if dice.chance(300) {
        let (key, range_end) = bounds(dice);
        txn.compare.push(pb::Compare {
            result: pb::compare::CompareResult::Greater as i32,
            target: pb::compare::CompareTarget::Version as i32,
            key,
            range_end,
            target_union: Some(pb::compare::TargetUnion::Version(-1)),
        });
    }
    for _ in 0..dice.between(1, 2) {
        let op = op(dice, depth);
        txn.success.push(op);
    }
    if dice.chance(200) {
        let op = op(dice, depth);
        txn.failure.push(op);
    }
    txn
}

fn op(dice: &mut Dice, depth: u32) -> pb::RequestOp {
    let request = match dice.below(4) {
        0 => Request::RequestRange(range(dice)),
        1 => Request::RequestDeleteRange(delete(dice)),
        2 if depth > 0 => Request::RequestTxn(txn(dice, depth - 1)),
        _ => Request::RequestPut(put(dice)),
    };
    pb::RequestOp {
        request: Some(request),
    }
}
