//! Users, roles and permissions as the cluster agrees on them.
//!
//! A [`Store`] is a function of the log like everything else here. It knows no clock and no randomness: hashes of passwords arrive
//! made ([`password`] has the one exception), and a token is what the entry says plus the entry's index. Who holds which token, and
//! for how long, is each member's own memory and lies in the server, which learns of tokens by facts
//! ([`crate::Fact::TokenAssigned`]).
//!
//! Start with [`Store`] for what there is, `change` for what requests do to it, and `permit` for who may do what. All of it lies in
//! every view, so that the edge asks the same questions of the same data. Source of the rules: upstream `server/auth/store.go`.

mod change;
mod odd;
mod password;
mod permit;
mod ranges;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::authpb;

pub(crate) use change::Changes;
pub use permit::Caller;
pub(crate) use permit::{check_lease, check_put};
use ranges::Granted;
pub(crate) use rows::{MissingRevision, restore};

/// The user that must exist, with the role of the same name, before authentication can be enabled; and that role, which may do
/// everything.
pub const ROOT: &str = "root";

/// Users, roles, and whether they count. A clone shares them.
#[derive(Clone, Default)]
pub struct Store {
    enabled: bool,
    revision: u64,
    users: BTreeMap<Vec<u8>, Arc<User>>,
    roles: BTreeMap<Vec<u8>, Arc<authpb::Role>>,
    /// Where etcd's answer depends on the shape of a tree, the shape is that of 3.7 and later; see [`odd`].
    is_3_7: bool,
}

/// A user as stored, and what the user's roles come to.
pub struct User {
    record: authpb::User,
    granted: Granted,
}

impl Store {
    /// The store before the first change. etcd counts from 1 and writes that down when it first starts.
    pub(crate) fn new() -> Store {
        Store {
            revision: 1,
            ..Store::default()
        }
    }

    /// Whether permissions are checked.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Grows with every change of users, roles and permissions, and when authentication is disabled. What was permitted at an older
    /// one has to be asked again.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The user of this name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name.as_bytes()).map(Arc::as_ref)
    }

    pub(crate) fn user_names(&self) -> Vec<String> {
        self.users.keys().map(|name| text(name)).collect()
    }

    pub(crate) fn role(&self, name: &str) -> Option<&authpb::Role> {
        self.roles.get(name.as_bytes()).map(Arc::as_ref)
    }

    pub(crate) fn role_names(&self) -> Vec<String> {
        self.roles.keys().map(|name| text(name)).collect()
    }

    /// The cluster has another version; see [`Store::is_3_7`].
    pub(crate) fn version_changed(&mut self, is_3_7: bool) {
        self.is_3_7 = is_3_7;
    }
}

impl User {
    /// The bcrypt hash of the password, in the form that begins with `$2`; empty, or anything, if none was given.
    #[must_use]
    pub fn password_hash(&self) -> &[u8] {
        &self.record.password
    }

    /// Whether the user can't have a password, and is known by a certificate only.
    #[must_use]
    pub fn has_no_password(&self) -> bool {
        self.record
            .options
            .is_some_and(|options| options.no_password)
    }

    /// Names of the user's roles, ascending.
    #[must_use]
    pub fn roles(&self) -> &[String] {
        &self.record.roles
    }

    /// Whether the user may do everything.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.record
            .roles
            .binary_search_by(|role| role.as_str().cmp(ROOT))
            .is_ok()
    }
}

/// Names are text in every request; only a file that 3.5 wrote can have other bytes.
fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
