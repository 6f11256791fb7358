//! Users and roles, of which this version has none.
//!
//! As long as nobody can make one, the answers to all requests about them are those of an etcd that has none, exactly, and this file
//! is the proof that nobody can: the two requests that would make the first user or role are faults. The edge refuses them, so
//! they come only from a leader that runs etcd, whose cluster then has what this member cannot keep.

use proto::error;
use proto::etcdserverpb as pb;
use proto::raftpb::Entry;

use super::{Answer, not_understood};
use crate::State;
use crate::outcome::{Response, header, reject};

/// The auth store's revision before its first change.
const REVISION: u64 = 1;

/// Also the place where entries end up that have no request this version knows.
pub(super) fn apply(state: &State, request: &pb::InternalRaftRequest, entry: &Entry) -> Answer {
    let header = header(state.store.revision);
    if request.authenticate.is_some() {
        reject(&error::AUTH_NOT_ENABLED)
    } else if request.auth_enable.is_some() {
        reject(&error::ROOT_USER_NOT_EXIST)
    } else if request.auth_disable.is_some() {
        Ok(Response::AuthDisable(pb::AuthDisableResponse { header }))
    } else if request.auth_status.is_some() {
        Ok(Response::AuthStatus(pb::AuthStatusResponse {
            header,
            enabled: false,
            auth_revision: REVISION,
        }))
    } else if let Some(add) = &request.auth_user_add {
        if add.name.is_empty() {
            return reject(&error::USER_EMPTY);
        }
        Err(not_understood(entry, "it adds a user, and this version has no users").into())
    } else if request.auth_user_delete.is_some()
        || request.auth_user_change_password.is_some()
        || request.auth_user_grant_role.is_some()
        || request.auth_user_get.is_some()
        || request.auth_user_revoke_role.is_some()
    {
        reject(&error::USER_NOT_FOUND)
    } else if let Some(add) = &request.auth_role_add {
        if add.name.is_empty() {
            return reject(&error::ROLE_EMPTY);
        }
        Err(not_understood(entry, "it adds a role, and this version has no roles").into())
    } else if let Some(grant) = &request.auth_role_grant_permission {
        grant_permission(grant)
    } else if request.auth_role_get.is_some()
        || request.auth_role_revoke_permission.is_some()
        || request.auth_role_delete.is_some()
    {
        reject(&error::ROLE_NOT_FOUND)
    } else if request.auth_user_list.is_some() {
        Ok(Response::AuthUserList(pb::AuthUserListResponse {
            header,
            users: Vec::new(),
        }))
    } else if request.auth_role_list.is_some() {
        Ok(Response::AuthRoleList(pb::AuthRoleListResponse {
            header,
            roles: Vec::new(),
        }))
    } else {
        Err(not_understood(entry, "it holds no request that this version knows").into())
    }
}

fn grant_permission(request: &pb::AuthRoleGrantPermissionRequest) -> Answer {
    match &request.perm {
        None => reject(&error::PERMISSION_NOT_GIVEN),
        Some(permission) if !is_valid_range(&permission.key, &permission.range_end) => {
            reject(&error::INVALID_AUTH_MGMT)
        }
        Some(_) => reject(&error::ROLE_NOT_FOUND),
    }
}

/// A key, or a range that is not empty.
fn is_valid_range(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty() && (range_end.is_empty() || key < range_end || range_end == [0])
}
