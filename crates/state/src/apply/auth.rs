//! Users, roles and authentication.
//!
//! What a request does stands in [`crate::auth`]; here it is checked that the caller may ask for it, the rows are written, and the
//! answer is made. Source of the order: upstream `server/etcdserver/apply/auth.go`.

use proto::authpb::{Permission, permission};
use proto::etcdserverpb as pb;
use proto::raftpb::Entry;

use super::{Answer, Yield, not_understood};
use crate::State;
use crate::auth::{Caller, Changes, ROOT};
use crate::outcome::{Fact, Rejected, Response, Token, header};

/// Whether only root may ask for it, once authentication is enabled. Asked before anything else is looked at, as etcd does.
pub(super) fn needs_root(request: &pb::InternalRaftRequest) -> bool {
    request.auth_enable.is_some()
        || request.auth_disable.is_some()
        || request.auth_user_add.is_some()
        || request.auth_user_delete.is_some()
        || request.auth_user_change_password.is_some()
        || request.auth_user_grant_role.is_some()
        || request.auth_user_revoke_role.is_some()
        || request.auth_role_add.is_some()
        || request.auth_role_grant_permission.is_some()
        || request.auth_role_revoke_permission.is_some()
        || request.auth_role_delete.is_some()
        || request.auth_user_list.is_some()
        || request.auth_role_list.is_some()
}

/// Also the place where entries end up that have no request this version knows.
pub(super) fn apply(
    state: &mut State,
    request: &pb::InternalRaftRequest,
    entry: &Entry,
    yields: &mut Yield,
) -> Answer {
    let header = header(state.store.revision);
    let index = entry.index();
    if let Some(request) = &request.authenticate {
        authenticate(state, request, index, yields)
    } else if request.auth_enable.is_some() {
        change(state, yields, None, |auth| auth.enable())?;
        Ok(Response::AuthEnable(pb::AuthEnableResponse { header }))
    } else if request.auth_disable.is_some() {
        disable(state, yields);
        Ok(Response::AuthDisable(pb::AuthDisableResponse { header }))
    } else if request.auth_status.is_some() {
        let auth = &state.small.auth;
        Ok(Response::AuthStatus(pb::AuthStatusResponse {
            header,
            enabled: auth.is_enabled(),
            auth_revision: auth.revision(),
        }))
    } else if let Some(request) = &request.auth_user_add {
        change(state, yields, None, |auth| auth.user_add(request, index))?;
        Ok(Response::AuthUserAdd(pb::AuthUserAddResponse { header }))
    } else if let Some(pb::AuthUserDeleteRequest { name }) = &request.auth_user_delete {
        change(state, yields, Some(name), |auth| auth.user_delete(name))?;
        Ok(Response::AuthUserDelete(pb::AuthUserDeleteResponse {
            header,
        }))
    } else if let Some(request) = &request.auth_user_change_password {
        change(state, yields, Some(&request.name), |auth| {
            auth.user_change_password(request, index)
        })?;
        let response = pb::AuthUserChangePasswordResponse { header };
        Ok(Response::AuthUserChangePassword(response))
    } else if let Some(pb::AuthUserGrantRoleRequest { user, role }) = &request.auth_user_grant_role
    {
        change(state, yields, None, |auth| auth.user_grant_role(user, role))?;
        let response = pb::AuthUserGrantRoleResponse { header };
        Ok(Response::AuthUserGrantRole(response))
    } else if let Some(get) = &request.auth_user_get {
        user_get(state, Caller::of(request.header.as_ref()), &get.name)
    } else if let Some(pb::AuthUserRevokeRoleRequest { name, role }) =
        &request.auth_user_revoke_role
    {
        change(state, yields, None, |auth| {
            auth.user_revoke_role(name, role)
        })?;
        let response = pb::AuthUserRevokeRoleResponse { header };
        Ok(Response::AuthUserRevokeRole(response))
    } else if request.auth_user_list.is_some() {
        let users = state.small.auth.user_names();
        Ok(Response::AuthUserList(pb::AuthUserListResponse {
            header,
            users,
        }))
    } else {
        roles(state, request, entry, yields)
    }
}

fn roles(
    state: &mut State,
    request: &pb::InternalRaftRequest,
    entry: &Entry,
    yields: &mut Yield,
) -> Answer {
    let header = header(state.store.revision);
    if let Some(pb::AuthRoleAddRequest { name }) = &request.auth_role_add {
        change(state, yields, None, |auth| auth.role_add(name))?;
        Ok(Response::AuthRoleAdd(pb::AuthRoleAddResponse { header }))
    } else if let Some(pb::AuthRoleGrantPermissionRequest { name, perm }) =
        &request.auth_role_grant_permission
    {
        change(state, yields, None, |auth| {
            auth.role_grant_permission(name, perm.as_ref())
        })?;
        let response = pb::AuthRoleGrantPermissionResponse { header };
        Ok(Response::AuthRoleGrantPermission(response))
    } else if let Some(get) = &request.auth_role_get {
        role_get(state, Caller::of(request.header.as_ref()), &get.role)
    } else if let Some(revoke) = &request.auth_role_revoke_permission {
        change(state, yields, None, |auth| {
            auth.role_revoke_permission(&revoke.role, &revoke.key, &revoke.range_end)
        })?;
        let response = pb::AuthRoleRevokePermissionResponse { header };
        Ok(Response::AuthRoleRevokePermission(response))
    } else if let Some(pb::AuthRoleDeleteRequest { role }) = &request.auth_role_delete {
        change(state, yields, None, |auth| auth.role_delete(role))?;
        Ok(Response::AuthRoleDelete(pb::AuthRoleDeleteResponse {
            header,
        }))
    } else if request.auth_role_list.is_some() {
        let roles = state.small.auth.role_names();
        Ok(Response::AuthRoleList(pb::AuthRoleListResponse {
            header,
            roles,
        }))
    } else {
        Err(not_understood(entry, "it holds no request that this version knows").into())
    }
}

/// Makes a change and writes its rows. The tokens of `logged_out` end with it.
fn change(
    state: &mut State,
    yields: &mut Yield,
    logged_out: Option<&String>,
    make: impl FnOnce(&mut crate::auth::Store) -> Result<Changes, Rejected>,
) -> Result<(), Rejected> {
    // On a copy, which a refusal leaves behind untouched: it shares all users and roles.
    let mut auth = state.small.auth.clone();
    let changes = make(&mut auth)?;
    if changes.rows.is_empty() {
        return Ok(());
    }
    for (table, key, value) in changes.rows {
        match value {
            Some(value) => state.tables.set(table, key, value),
            None => state.tables.remove(table, key),
        }
    }
    yields.facts.push(Fact::AuthChanged {
        enabled: auth.is_enabled(),
        revision: auth.revision(),
    });
    if let Some(user) = logged_out {
        yields.facts.push(Fact::TokensRevoked {
            user: Some(user.clone()),
        });
    }
    state.small_mut().auth = auth;
    Ok(())
}

/// Ends all tokens with it.
fn disable(state: &mut State, yields: &mut Yield) {
    let was_enabled = state.small.auth.is_enabled();
    change(state, yields, None, |auth| Ok(auth.disable())).expect("disabling is never refused");
    if was_enabled {
        yields.facts.push(Fact::TokensRevoked { user: None });
    }
}

/// The edge has checked the password, and retries if users have changed since. The token is the random part that the edge
/// has drawn, and the index of the entry, which makes it unlike any other and tells a member that is behind to wait for it. An edge that
/// gives out tokens of another kind draws nothing, and nothing is remembered.
fn authenticate(
    state: &State,
    request: &pb::InternalAuthenticateRequest,
    index: u64,
    yields: &mut Yield,
) -> Answer {
    state.small.auth.may_authenticate(&request.name)?;
    let token = format!("{}.{index}", request.simple_token);
    if !request.simple_token.is_empty() {
        yields.facts.push(Fact::TokenAssigned(Token {
            user: request.name.clone(),
            token: token.clone(),
        }));
    }
    Ok(Response::Authenticate(pb::AuthenticateResponse {
        header: header(state.store.revision),
        token,
    }))
}

fn user_get(state: &State, caller: Caller<'_>, name: &str) -> Answer {
    let auth = &state.small.auth;
    auth.may_see_user(caller, name)?;
    let user = auth
        .user(name)
        .ok_or(Rejected(&proto::error::USER_NOT_FOUND))?;
    Ok(Response::AuthUserGet(pb::AuthUserGetResponse {
        header: header(state.store.revision),
        roles: user.roles().to_vec(),
    }))
}

/// The role root is answered as what it may do, whatever it was granted: since 3.6.
fn role_get(state: &State, caller: Caller<'_>, name: &str) -> Answer {
    let auth = &state.small.auth;
    auth.may_see_role(caller, name)?;
    let role = auth
        .role(name)
        .ok_or(Rejected(&proto::error::ROLE_NOT_FOUND))?;
    let perm = if name == ROOT {
        vec![Permission {
            perm_type: permission::Type::Readwrite as i32,
            key: bytes::Bytes::new(),
            range_end: bytes::Bytes::from_static(&[0]),
        }]
    } else {
        role.key_permission.clone()
    };
    Ok(Response::AuthRoleGet(pb::AuthRoleGetResponse {
        header: header(state.store.revision),
        perm,
    }))
}
