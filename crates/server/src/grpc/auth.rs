//! `etcdserverpb.Auth`, as a cluster without users answers it.
//!
//! Users and roles can't be made yet, and with that one exception every answer is what etcd gives where there are none. The
//! answers come from the log, like etcd's.

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb as pb;
use state::Response;

use super::frame;
use super::kv::unexpected;
use super::route::not_yet;
use super::session::Session;
use super::status::Status;

/// Puts a request through the log.
macro_rules! proposed {
    ($($name:ident($request:ident) as $field:ident $(-> $response:ident)?;)*) => {$(
        pub async fn $name(session: &Session, request: pb::$request) -> Result<Bytes, Status> {
            let request = pb::InternalRaftRequest { $field: Some(request), ..Default::default() };
            match session.response(request).await? {
                $(Response::$response(mut response) => {
                    session.member.complete(&mut response.header);
                    Ok(encode(&response))
                })?
                other => Err(unexpected(&other)),
            }
        }
    )*};
}

proposed! {
    enable(AuthEnableRequest) as auth_enable;
    disable(AuthDisableRequest) as auth_disable -> AuthDisable;
    status(AuthStatusRequest) as auth_status -> AuthStatus;
    user_get(AuthUserGetRequest) as auth_user_get;
    user_list(AuthUserListRequest) as auth_user_list -> AuthUserList;
    user_delete(AuthUserDeleteRequest) as auth_user_delete;
    user_grant_role(AuthUserGrantRoleRequest) as auth_user_grant_role;
    user_revoke_role(AuthUserRevokeRoleRequest) as auth_user_revoke_role;
    role_get(AuthRoleGetRequest) as auth_role_get;
    role_list(AuthRoleListRequest) as auth_role_list -> AuthRoleList;
    role_delete(AuthRoleDeleteRequest) as auth_role_delete;
    role_grant_permission(AuthRoleGrantPermissionRequest) as auth_role_grant_permission;
    role_revoke_permission(AuthRoleRevokePermissionRequest) as auth_role_revoke_permission;
}

/// Refused before the log, which keeps passwords out of it.
pub async fn authenticate(
    _session: &Session,
    _request: pb::AuthenticateRequest,
) -> Result<Bytes, Status> {
    Err(Status::from(&proto::error::AUTH_NOT_ENABLED))
}

/// There is no user whose password could be changed; etcd would put the hash of the new one into its log first.
pub async fn user_change_password(
    _session: &Session,
    _request: pb::AuthUserChangePasswordRequest,
) -> Result<Bytes, Status> {
    Err(Status::from(&proto::error::USER_NOT_FOUND))
}

pub async fn user_add(
    _session: &Session,
    request: pb::AuthUserAddRequest,
) -> Result<Bytes, Status> {
    if request.name.is_empty() {
        return Err(Status::from(&proto::error::USER_EMPTY));
    }
    Err(not_yet("UserAdd"))
}

pub async fn role_add(
    _session: &Session,
    request: pb::AuthRoleAddRequest,
) -> Result<Bytes, Status> {
    if request.name.is_empty() {
        return Err(Status::from(&proto::error::ROLE_EMPTY));
    }
    Err(not_yet("RoleAdd"))
}

fn encode<M: Message>(response: &M) -> Bytes {
    frame::encode(response)
}
