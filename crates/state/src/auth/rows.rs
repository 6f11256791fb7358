//! The store from the rows of its three tables.

use std::sync::Arc;

use prost::Message;
use proto::authpb;
use storage::catalog::Table;
use storage::fault::Fault;

use super::{Store, User};
use crate::restore::damaged;
use crate::tables::{self, Rows};

/// Says that no revision was stored. A file has none only if no member has ever started with it; the first that does writes 1.
pub(crate) struct MissingRevision(pub bool);

/// Reads users and roles as a checkpoint or etcd's file has them. `is_3_7` is whether the cluster runs 3.7 or later.
///
/// # Errors
/// A fault that names table and key: a member that took users for absent would let everybody in.
pub(crate) fn restore(rows: &Rows, is_3_7: bool) -> Result<(Store, MissingRevision), Fault> {
    let mut store = Store::new();
    store.is_3_7 = is_3_7;
    let mut missing = MissingRevision(true);
    for (key, value) in of(rows, Table::Auth) {
        if key == tables::auth::AUTH_ENABLED {
            // As etcd reads it: anything but a single 1 is off. It writes nothing else than 0 and 1.
            store.enabled = match value {
                [1] => true,
                [0] => false,
                _ => return Err(damaged(Table::Auth, key, "the value is neither 0 nor 1")),
            };
        } else if key == tables::auth::AUTH_REVISION {
            let bytes = value
                .try_into()
                .map_err(|_| damaged(Table::Auth, key, "the value has not 8 bytes"))?;
            store.revision = u64::from_be_bytes(bytes);
            missing.0 = false;
        }
    }
    for (key, value) in of(rows, Table::AuthRoles) {
        let role =
            authpb::Role::decode(value).map_err(|error| damaged(Table::AuthRoles, key, error))?;
        if role.name != key {
            return Err(damaged(
                Table::AuthRoles,
                key,
                "the row is about another role",
            ));
        }
        store.roles.insert(key.to_vec(), Arc::new(role));
    }
    for (key, value) in of(rows, Table::AuthUsers) {
        let record =
            authpb::User::decode(value).map_err(|error| damaged(Table::AuthUsers, key, error))?;
        if record.name != key {
            return Err(damaged(
                Table::AuthUsers,
                key,
                "the row is about another user",
            ));
        }
        let granted = store.granted(&record);
        store
            .users
            .insert(key.to_vec(), Arc::new(User { record, granted }));
    }
    Ok((store, missing))
}

fn of(rows: &Rows, table: Table) -> impl Iterator<Item = (&[u8], &[u8])> {
    crate::restore::of(rows, table)
}
