//! Who may do what. Asked by effect: every key that a request would read or change, however deep in a transaction, and every key that
//! would go with a lease.
//!
//! The rules are those of 3.7 and of the newest patches of 3.5 and 3.6, whatever the version of the cluster: see
//! `docs/decisions/0009-auth-entries.md`. Source: upstream `server/auth/store.go`, `isOpPermitted` and `IsAdminPermitted`, and
//! `server/etcdserver/apply/auth.go`.

use proto::error;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use storage::planted;

use super::Store;
use super::ranges::Access;
use crate::lease;
use crate::outcome::Rejected;

/// Who asks, and what revision of the auth store the question was made at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller<'a> {
    /// The name; empty for nobody.
    pub user: &'a str,
    /// 0 for nobody.
    pub revision: u64,
}

type Permitted = Result<(), Rejected>;

impl<'a> Caller<'a> {
    /// Nobody, which is enough as long as authentication is off.
    pub const NOBODY: Caller<'static> = Caller {
        user: "",
        revision: 0,
    };

    /// Who the header of an entry names. Entries of members before 3.0 have none.
    #[must_use]
    pub fn of(header: Option<&'a pb::RequestHeader>) -> Caller<'a> {
        header.map_or(Caller::NOBODY, |header| Caller {
            user: &header.username,
            revision: header.auth_revision,
        })
    }
}

impl Store {
    /// Whether the caller may read all of a range, in etcd's convention for its end.
    ///
    /// # Errors
    /// UserEmpty, AuthOldRevision, PermissionDenied.
    pub fn may_read(&self, caller: Caller<'_>, key: &[u8], range_end: &[u8]) -> Permitted {
        self.may(caller, Access::Read, key, range_end)
    }

    /// Whether the caller may change all of a range.
    ///
    /// # Errors
    /// As [`Store::may_read`].
    pub fn may_write(&self, caller: Caller<'_>, key: &[u8], range_end: &[u8]) -> Permitted {
        self.may(caller, Access::Write, key, range_end)
    }

    /// Whether the caller has the role root. An old revision does not matter.
    ///
    /// # Errors
    /// UserEmpty, UserNotFound, PermissionDenied.
    pub fn may_administer(&self, caller: Caller<'_>) -> Permitted {
        if !self.enabled {
            return Ok(());
        }
        if caller.user.is_empty() {
            return Err(Rejected(&error::USER_EMPTY));
        }
        match self.user(caller.user) {
            None => Err(Rejected(&error::USER_NOT_FOUND)),
            Some(user) if user.is_root() => Ok(()),
            Some(_) => Err(Rejected(&error::PERMISSION_DENIED)),
        }
    }

    /// Whether the caller may see the roles of a user: root, or that user.
    ///
    /// # Errors
    /// As [`Store::may_administer`].
    pub(crate) fn may_see_user(&self, caller: Caller<'_>, name: &str) -> Permitted {
        let outcome = self.may_administer(caller);
        if name == caller.user { Ok(()) } else { outcome }
    }

    /// Whether the caller may see the permissions of a role: root, or who has it.
    ///
    /// # Errors
    /// As [`Store::may_administer`].
    pub(crate) fn may_see_role(&self, caller: Caller<'_>, name: &str) -> Permitted {
        let has_role = self
            .user(caller.user)
            .is_some_and(|user| user.roles().iter().any(|role| role == name));
        if has_role {
            return Ok(());
        }
        self.may_administer(caller)
    }

    /// Whether the caller may do all that a transaction could do, whichever way it goes.
    ///
    /// # Errors
    /// As [`Store::may_read`].
    pub fn may_txn(
        &self,
        caller: Caller<'_>,
        leases: &lease::View,
        txn: &pb::TxnRequest,
    ) -> Permitted {
        if !self.enabled {
            return Ok(());
        }
        for compare in &txn.compare {
            self.may_read(caller, &compare.key, &compare.range_end)?;
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match &op.request {
                Some(Request::RequestRange(range)) => {
                    self.may_read(caller, &range.key, &range.range_end)?;
                }
                Some(Request::RequestPut(put)) => check_put(self, caller, leases, put)?,
                Some(Request::RequestDeleteRange(delete)) => {
                    // In this order, which is not that of a deletion outside.
                    if delete.prev_kv {
                        self.may_read(caller, &delete.key, &delete.range_end)?;
                    }
                    self.may_write(caller, &delete.key, &delete.range_end)?;
                }
                Some(Request::RequestTxn(_)) if planted!(PermissionByKind) => {}
                Some(Request::RequestTxn(nested)) => self.may_txn(caller, leases, nested)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Whether the caller may delete a range and, if it asks so, see what was there.
    ///
    /// # Errors
    /// As [`Store::may_read`].
    pub fn may_delete(&self, caller: Caller<'_>, delete: &pb::DeleteRangeRequest) -> Permitted {
        self.may_write(caller, &delete.key, &delete.range_end)?;
        if delete.prev_kv && !planted!(PermissionByKind) {
            self.may_read(caller, &delete.key, &delete.range_end)?;
        }
        Ok(())
    }

    fn may(&self, caller: Caller<'_>, access: Access, key: &[u8], range_end: &[u8]) -> Permitted {
        if !self.enabled {
            return Ok(());
        }
        if caller.revision == 0 {
            return Err(Rejected(&error::USER_EMPTY));
        }
        if caller.revision < self.revision {
            return Err(Rejected(&error::AUTH_OLD_REVISION));
        }
        let is_permitted = self.user(caller.user).is_some_and(|user| {
            user.is_root() || user.granted.covers(access, key, range_end, self.is_3_7)
        });
        if is_permitted {
            Ok(())
        } else {
            Err(Rejected(&error::PERMISSION_DENIED))
        }
    }
}

/// A put needs its key, the keys that its lease has (who can't revoke the lease may not add to it either), and to read the key if
/// the old value is wanted.
pub(crate) fn check_put(
    store: &Store,
    caller: Caller<'_>,
    leases: &lease::View,
    put: &pb::PutRequest,
) -> Permitted {
    store.may_write(caller, &put.key, &[])?;
    if planted!(PermissionByKind) {
        return Ok(());
    }
    check_lease(store, caller, leases, put.lease)?;
    if put.prev_kv {
        store.may_read(caller, &put.key, &[])?;
    }
    Ok(())
}

/// Revoking a lease deletes its keys.
pub(crate) fn check_lease(
    store: &Store,
    caller: Caller<'_>,
    leases: &lease::View,
    id: i64,
) -> Permitted {
    if !store.enabled || leases.get(id).is_none() || store.may_administer(caller).is_ok() {
        return Ok(());
    }
    for key in leases.keys(id) {
        store.may_write(caller, &key, &[])?;
    }
    Ok(())
}
