//! Users, roles and permissions in the plainest way.

use std::collections::{BTreeMap, BTreeSet};

use proto::authpb::permission::Type;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;

/// All keys that are used have one letter.
pub const KEYS: [u8; 8] = *b"abcdefgh";

/// A key and an end, as requests have them.
type Range = (Vec<u8>, Vec<u8>);

/// What the members should have.
#[derive(Default)]
pub struct Model {
    pub enabled: bool,
    /// Without the 1 that etcd begins with.
    changes: u64,
    /// Names, and their roles.
    pub users: BTreeMap<String, BTreeSet<String>>,
    /// Names, and their permissions: range and type.
    pub roles: BTreeMap<String, BTreeMap<Range, i32>>,
    /// Keys, and their leases; 0 is none.
    keys: BTreeMap<u8, i64>,
    leases: BTreeSet<i64>,
}

/// Who asks, as the header of an entry says.
type Header<'a> = (&'a str, u64);

impl Model {
    pub fn keys(&self) -> Vec<u8> {
        self.keys.keys().copied().collect()
    }

    pub fn revision(&self) -> u64 {
        1 + self.changes
    }

    /// Whether the request is to be done rather than refused; does it.
    pub fn apply(&mut self, request: &pb::InternalRaftRequest) -> bool {
        let header = request.header.as_ref();
        let header = header.map_or(("", 0), |header| (&*header.username, header.auth_revision));
        if let Some(put) = &request.put {
            self.one(header, Request::RequestPut(put.clone()))
        } else if let Some(delete) = &request.delete_range {
            self.one(header, Request::RequestDeleteRange(delete.clone()))
        } else if let Some(range) = &request.range {
            self.one(header, Request::RequestRange(range.clone()))
        } else if let Some(txn) = &request.txn {
            let may = self.may(header, &Request::RequestTxn(txn.clone()));
            let may = may && self.leases_exist(&txn.success);
            if may {
                self.execute(&txn.success);
            }
            may
        } else if let Some(grant) = &request.lease_grant {
            self.leases.insert(grant.id)
        } else if let Some(revoke) = &request.lease_revoke {
            let may = self.leases.contains(&revoke.id) && self.may_lease(header, revoke.id);
            if may {
                self.leases.remove(&revoke.id);
                self.keys.retain(|_, lease| *lease != revoke.id);
            }
            may
        } else {
            self.administer(header, request)
        }
    }

    fn one(&mut self, header: Header<'_>, request: Request) -> bool {
        let ops = [pb::RequestOp {
            request: Some(request.clone()),
        }];
        let may = self.may(header, &request) && self.leases_exist(&ops);
        if may {
            self.execute(&ops);
        }
        may
    }

    fn may(&self, header: Header<'_>, request: &Request) -> bool {
        let read = |key: &[u8], end: &[u8]| self.may_all(header, Type::Read, key, end);
        let write = |key: &[u8], end: &[u8]| self.may_all(header, Type::Write, key, end);
        match request {
            Request::RequestRange(range) => read(&range.key, &range.range_end),
            Request::RequestPut(put) => {
                write(&put.key, b"")
                    && self.may_lease(header, put.lease)
                    && (!put.prev_kv || read(&put.key, b""))
            }
            Request::RequestDeleteRange(delete) => {
                let (key, end) = (&delete.key, &delete.range_end);
                write(key, end) && (!delete.prev_kv || read(key, end))
            }
            Request::RequestTxn(txn) => {
                let mut ops = txn.success.iter().chain(&txn.failure);
                let mut compares = txn.compare.iter();
                compares.all(|compare| read(&compare.key, &compare.range_end))
                    && ops.all(|op| op.request.as_ref().is_some_and(|op| self.may(header, op)))
            }
        }
    }

    fn may_lease(&self, header: Header<'_>, id: i64) -> bool {
        let mut attached = self
            .keys
            .iter()
            .filter(|(_, lease)| **lease == id && id != 0);
        self.is_root(header.0)
            || attached.all(|(key, _)| self.may_all(header, Type::Write, &[*key], b""))
    }

    fn is_root(&self, name: &str) -> bool {
        !self.enabled
            || self
                .users
                .get(name)
                .is_some_and(|roles| roles.contains("root"))
    }

    fn may_all(&self, (name, revision): Header<'_>, kind: Type, key: &[u8], end: &[u8]) -> bool {
        if !self.enabled {
            return true;
        }
        let Some(roles) = self.users.get(name) else {
            return false;
        };
        if revision < self.revision() {
            return false;
        }
        let permissions = roles
            .iter()
            .filter_map(|role| self.roles.get(role))
            .flatten();
        let granted: BTreeSet<usize> = permissions
            .filter(|(_, given)| **given == Type::Readwrite as i32 || **given == kind as i32)
            .flat_map(|((key, end), _)| places(key, end))
            .collect();
        roles.contains("root") || places(key, end).all(|place| granted.contains(&place))
    }

    fn leases_exist(&self, ops: &[pb::RequestOp]) -> bool {
        ops.iter().all(|op| match &op.request {
            Some(Request::RequestPut(put)) => put.lease == 0 || self.leases.contains(&put.lease),
            Some(Request::RequestTxn(txn)) => self.leases_exist(&txn.success),
            _ => true,
        })
    }

    /// Comparisons are drawn so that they hold.
    fn execute(&mut self, ops: &[pb::RequestOp]) {
        for op in ops {
            match &op.request {
                Some(Request::RequestPut(put)) => {
                    self.keys.insert(put.key[0], put.lease);
                }
                Some(Request::RequestDeleteRange(delete)) => {
                    let gone: BTreeSet<usize> = places(&delete.key, &delete.range_end).collect();
                    self.keys
                        .retain(|key, _| !gone.contains(&place_of(&[*key])));
                }
                Some(Request::RequestTxn(txn)) => self.execute(&txn.success),
                _ => {}
            }
        }
    }

    /// Whether a request about users or roles is to be done; does it.
    fn administer(&mut self, (name, _): Header<'_>, request: &pb::InternalRaftRequest) -> bool {
        if request.auth_status.is_some() {
            return true;
        }
        if let Some(authenticate) = &request.authenticate {
            return self.enabled && self.users.contains_key(&authenticate.name);
        }
        if !self.is_root(name) {
            return false;
        }
        let before = (self.users.clone(), self.roles.clone(), self.enabled);
        let is_done = self.change(request);
        let is_enabling = !before.2 && self.enabled;
        // To grant a permission once more counts as a change.
        let counts = before != (self.users.clone(), self.roles.clone(), self.enabled)
            || request.auth_role_grant_permission.is_some()
            || request.auth_user_change_password.is_some();
        self.changes += u64::from(is_done && counts && !is_enabling);
        is_done
    }

    fn change(&mut self, request: &pb::InternalRaftRequest) -> bool {
        let enabled = self.enabled;
        let kept = |name: &str| enabled && name == "root";
        if request.auth_enable.is_some() {
            let may = self
                .users
                .get("root")
                .is_some_and(|roles| roles.contains("root"));
            self.enabled |= may;
            may
        } else if request.auth_disable.is_some() {
            self.enabled = false;
            true
        } else if let Some(add) = &request.auth_user_add {
            let is_new = !self.users.contains_key(&add.name);
            self.users.entry(add.name.clone()).or_default();
            is_new
        } else if let Some(change) = &request.auth_user_change_password {
            self.users.contains_key(&change.name)
        } else if let Some(delete) = &request.auth_user_delete {
            !kept(&delete.name) && self.users.remove(&delete.name).is_some()
        } else if let Some(grant) = &request.auth_user_grant_role {
            let exists = grant.role == "root" || self.roles.contains_key(&grant.role);
            let roles = self.users.get_mut(&grant.user).filter(|_| exists);
            roles
                .map(|roles| roles.insert(grant.role.clone()))
                .is_some()
        } else if let Some(revoke) = &request.auth_user_revoke_role {
            let is_kept = kept(&revoke.name) && revoke.role == "root";
            let roles = self.users.get_mut(&revoke.name).filter(|_| !is_kept);
            roles.is_some_and(|roles| roles.remove(&revoke.role))
        } else if let Some(add) = &request.auth_role_add {
            let is_new = !self.roles.contains_key(&add.name);
            self.roles.entry(add.name.clone()).or_default();
            is_new
        } else if let Some(delete) = &request.auth_role_delete {
            let is_gone = !kept(&delete.role) && self.roles.remove(&delete.role).is_some();
            if is_gone {
                let users = self.users.values_mut();
                users.for_each(|roles| {
                    roles.remove(&delete.role);
                });
            }
            is_gone
        } else if let Some(grant) = &request.auth_role_grant_permission {
            let permission = grant.perm.clone().unwrap_or_default();
            let range = (permission.key.to_vec(), permission.range_end.to_vec());
            let role = self.roles.get_mut(&grant.name);
            role.map(|role| role.insert(range, permission.perm_type))
                .is_some()
        } else if let Some(revoke) = &request.auth_role_revoke_permission {
            let range = (revoke.key.to_vec(), revoke.range_end.to_vec());
            let role = self.roles.get_mut(&revoke.role);
            role.is_some_and(|role| role.remove(&range).is_some())
        } else {
            true
        }
    }
}

/// A range as the places it has. An even place is a key of one letter, an odd one all keys between that and the next; the last
/// is for everything behind.
fn places(key: &[u8], end: &[u8]) -> std::ops::Range<usize> {
    let from = place_of(key);
    match end {
        [] => from..from + 1,
        [0] => from..2 * KEYS.len() + 2,
        end => from..place_of(end).max(from),
    }
}

fn place_of(key: &[u8]) -> usize {
    2 * usize::from(key[0] - b'a')
}
