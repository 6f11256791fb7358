//! What requests do to users and roles. Each is whole or refused, with etcd's texts in etcd's order.

use std::sync::Arc;

use prost::Message;
use proto::authpb;
use proto::error;
use proto::etcdserverpb as pb;
use storage::catalog::Table;

use super::ranges::{Granted, affine};
use super::{ROOT, Store, User, password};
use crate::outcome::Rejected;
use crate::tables;

/// Names are keys in bbolt, which has none that are longer; etcd stops for good at a longer one.
const NAME_BYTES_MAX: usize = 32_768;

/// The rows that a change writes.
#[derive(Default)]
#[must_use]
pub(crate) struct Changes {
    /// Table, key, and the value that is not there any more if `None`.
    pub rows: Vec<(Table, Vec<u8>, Option<Vec<u8>>)>,
}

type Changed = Result<Changes, Rejected>;

impl Store {
    /// Permissions are checked from now on. Twice is once.
    pub(crate) fn enable(&mut self) -> Changed {
        if self.enabled {
            return Ok(Changes::default());
        }
        let Some(root) = self.user(ROOT) else {
            return refuse(&error::ROOT_USER_NOT_EXIST);
        };
        if !root.is_root() {
            return refuse(&error::ROOT_ROLE_NOT_EXIST);
        }
        self.enabled = true;
        Ok(Changes {
            rows: vec![enabled_row(true)],
        })
    }

    /// Permissions are not checked any more; users and roles stay.
    pub(crate) fn disable(&mut self) -> Changes {
        if !self.enabled {
            return Changes::default();
        }
        self.enabled = false;
        let mut changes = Changes {
            rows: vec![enabled_row(false)],
        };
        self.commit(&mut changes);
        changes
    }

    /// Adds a user. `index` is that of the entry; see [`password`].
    pub(crate) fn user_add(&mut self, request: &pb::AuthUserAddRequest, index: u64) -> Changed {
        check_name(&request.name, &error::USER_EMPTY)?;
        if self.user(&request.name).is_some() {
            return refuse(&error::USER_ALREADY_EXIST);
        }
        let options = request.options.unwrap_or_default();
        let mut hash = Vec::new();
        if !options.no_password {
            hash = self.hash(
                &request.name,
                &request.password,
                &request.hashed_password,
                index,
            )?;
        }
        let record = authpb::User {
            name: request.name.clone().into(),
            password: hash.into(),
            roles: Vec::new(),
            options: Some(options),
        };
        let mut changes = Changes::default();
        self.put_user(record, &mut changes);
        self.commit(&mut changes);
        Ok(changes)
    }

    /// Deletes a user.
    pub(crate) fn user_delete(&mut self, name: &str) -> Changed {
        if self.enabled && name == ROOT {
            return refuse(&error::INVALID_AUTH_MGMT);
        }
        if self.users.remove(name.as_bytes()).is_none() {
            return refuse(&error::USER_NOT_FOUND);
        }
        let mut changes = Changes {
            rows: vec![(Table::AuthUsers, name.into(), None)],
        };
        self.commit(&mut changes);
        Ok(changes)
    }

    /// Changes a password; that of a user who has none by definition stays none.
    pub(crate) fn user_change_password(
        &mut self,
        request: &pb::AuthUserChangePasswordRequest,
        index: u64,
    ) -> Changed {
        let mut record = self.user_record(&request.name)?;
        let mut hash = Vec::new();
        if !record.options.is_some_and(|options| options.no_password) {
            hash = self.hash(
                &request.name,
                &request.password,
                &request.hashed_password,
                index,
            )?;
        }
        record.password = hash.into();
        let mut changes = Changes::default();
        self.put_user(record, &mut changes);
        self.commit(&mut changes);
        Ok(changes)
    }

    /// Gives a user a role; one that the user has is no change. The role root need not exist.
    pub(crate) fn user_grant_role(&mut self, name: &str, role: &str) -> Changed {
        let mut record = self.user_record(name)?;
        if role != ROOT && self.role(role).is_none() {
            return refuse(&error::ROLE_NOT_FOUND);
        }
        let mut changes = Changes::default();
        if let Err(place) = record
            .roles
            .binary_search_by(|other| other.as_str().cmp(role))
        {
            record.roles.insert(place, role.to_owned());
            self.put_user(record, &mut changes);
            self.commit(&mut changes);
        }
        Ok(changes)
    }

    /// Takes a role from a user.
    pub(crate) fn user_revoke_role(&mut self, name: &str, role: &str) -> Changed {
        if self.enabled && name == ROOT && role == ROOT {
            return refuse(&error::INVALID_AUTH_MGMT);
        }
        let mut record = self.user_record(name)?;
        let count = record.roles.len();
        record.roles.retain(|other| other != role);
        if record.roles.len() == count {
            return refuse(&error::ROLE_NOT_GRANTED);
        }
        let mut changes = Changes::default();
        self.put_user(record, &mut changes);
        self.commit(&mut changes);
        Ok(changes)
    }

    /// Adds a role without permissions.
    pub(crate) fn role_add(&mut self, name: &str) -> Changed {
        check_name(name, &error::ROLE_EMPTY)?;
        if self.role(name).is_some() {
            return refuse(&error::ROLE_ALREADY_EXIST);
        }
        let mut changes = Changes::default();
        let record = authpb::Role {
            name: name.to_owned().into(),
            key_permission: Vec::new(),
        };
        self.put_role(record, &mut changes);
        self.commit(&mut changes);
        Ok(changes)
    }

    /// Deletes a role, and takes it from everybody who has it.
    pub(crate) fn role_delete(&mut self, name: &str) -> Changed {
        if self.enabled && name == ROOT {
            return refuse(&error::INVALID_AUTH_MGMT);
        }
        if self.roles.remove(name.as_bytes()).is_none() {
            return refuse(&error::ROLE_NOT_FOUND);
        }
        let mut changes = Changes {
            rows: vec![(Table::AuthRoles, name.into(), None)],
        };
        for mut record in self.users_with(name) {
            record.roles.retain(|other| other != name);
            self.put_user(record, &mut changes);
        }
        self.commit(&mut changes);
        Ok(changes)
    }

    /// Adds a permission to a role, or changes its type if the *first* of those that begin with the same key has the same end. If
    /// another of them has, the role gets that range a second time, as in etcd.
    pub(crate) fn role_grant_permission(
        &mut self,
        name: &str,
        permission: Option<&authpb::Permission>,
    ) -> Changed {
        let Some(permission) = permission else {
            return refuse(&error::PERMISSION_NOT_GIVEN);
        };
        if !is_valid_range(&permission.key, &permission.range_end) {
            return refuse(&error::INVALID_AUTH_MGMT);
        }
        let mut record = self.role_record(name)?;
        let permissions = &mut record.key_permission;
        let first = permissions.partition_point(|other| other.key < permission.key);
        match permissions.get_mut(first) {
            Some(other)
                if other.key == permission.key && other.range_end == permission.range_end =>
            {
                other.perm_type = permission.perm_type;
            }
            _ => {
                permissions.push(permission.clone());
                permissions.sort_by(|a, b| a.key.cmp(&b.key));
            }
        }
        Ok(self.replace_role(record))
    }

    /// Takes a range from a role.
    pub(crate) fn role_revoke_permission(
        &mut self,
        name: &str,
        key: &[u8],
        range_end: &[u8],
    ) -> Changed {
        let mut record = self.role_record(name)?;
        let count = record.key_permission.len();
        record
            .key_permission
            .retain(|permission| permission.key != key || permission.range_end != range_end);
        if record.key_permission.len() == count {
            return refuse(&error::PERMISSION_NOT_GRANTED);
        }
        Ok(self.replace_role(record))
    }

    /// Whether a token may be given out to this user, whose password the edge has checked.
    pub(crate) fn may_authenticate(&self, name: &str) -> Result<(), Rejected> {
        if !self.enabled {
            return refuse(&error::AUTH_NOT_ENABLED);
        }
        match self.user(name) {
            Some(user) if !user.has_no_password() => Ok(()),
            _ => refuse(&error::AUTH_FAILED),
        }
    }

    /// What the roles of a user come to.
    pub(super) fn granted(&self, record: &authpb::User) -> Granted {
        let roles = record.roles.iter().filter_map(|name| self.role(name));
        Granted::of(roles.flat_map(|role| &role.key_permission))
    }

    fn hash(
        &self,
        name: &str,
        password: &str,
        hashed: &str,
        index: u64,
    ) -> Result<Vec<u8>, Rejected> {
        password::to_store(password, hashed, name, index).ok_or(Rejected(&error::NO_PASSWORD_USER))
    }

    fn user_record(&self, name: &str) -> Result<authpb::User, Rejected> {
        let user = self.user(name).ok_or(Rejected(&error::USER_NOT_FOUND))?;
        Ok(user.record.clone())
    }

    fn role_record(&self, name: &str) -> Result<authpb::Role, Rejected> {
        let role = self.role(name).ok_or(Rejected(&error::ROLE_NOT_FOUND))?;
        Ok(role.clone())
    }

    fn users_with(&self, role: &str) -> Vec<authpb::User> {
        let users = self.users.values();
        let having = users.filter(|user| user.roles().iter().any(|other| other == role));
        having.map(|user| user.record.clone()).collect()
    }

    fn put_user(&mut self, record: authpb::User, changes: &mut Changes) {
        let name = record.name.to_vec();
        let row = record.encode_to_vec();
        changes
            .rows
            .push((Table::AuthUsers, name.clone(), Some(row)));
        let granted = self.granted(&record);
        self.users.insert(name, Arc::new(User { record, granted }));
    }

    fn put_role(&mut self, record: authpb::Role, changes: &mut Changes) {
        let name = record.name.to_vec();
        let row = record.encode_to_vec();
        changes
            .rows
            .push((Table::AuthRoles, name.clone(), Some(row)));
        self.roles.insert(name, Arc::new(record));
    }

    /// Puts a changed role, and works out anew what it comes to for who has it.
    fn replace_role(&mut self, record: authpb::Role) -> Changes {
        let name = super::text(&record.name);
        let mut changes = Changes::default();
        self.put_role(record, &mut changes);
        for record in self.users_with(&name) {
            let granted = self.granted(&record);
            let name = record.name.to_vec();
            self.users.insert(name, Arc::new(User { record, granted }));
        }
        self.commit(&mut changes);
        changes
    }

    fn commit(&mut self, changes: &mut Changes) {
        self.revision += 1;
        changes.rows.push(revision_row(self.revision));
    }
}

fn refuse<T>(error: &'static error::RpcError) -> Result<T, Rejected> {
    Err(Rejected(error))
}

fn check_name(name: &str, empty: &'static error::RpcError) -> Result<(), Rejected> {
    if name.is_empty() {
        return refuse(empty);
    }
    if name.len() > NAME_BYTES_MAX {
        return refuse(&error::REQUEST_TOO_LARGE);
    }
    Ok(())
}

/// A key, or a range that is not empty.
fn is_valid_range(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty() && (range_end.is_empty() || affine(key, range_end).is_lt() || range_end == [0])
}

fn enabled_row(enabled: bool) -> (Table, Vec<u8>, Option<Vec<u8>>) {
    (
        Table::Auth,
        tables::auth::AUTH_ENABLED.into(),
        Some(vec![u8::from(enabled)]),
    )
}

pub(super) fn revision_row(revision: u64) -> (Table, Vec<u8>, Option<Vec<u8>>) {
    (
        Table::Auth,
        tables::auth::AUTH_REVISION.into(),
        Some(revision.to_be_bytes().into()),
    )
}
