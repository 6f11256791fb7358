//! Which function answers which method.

use std::pin::Pin;

use bytes::Bytes;
use prost::Message;
use proto::methods;

use super::body::Pieces;
use super::frame::{self, Messages};
use super::session::Session;
use super::status::Status;
use super::{auth, cluster, health, keepalive, kv, lease, maintenance, range_stream, watch};

/// Answers a unary method of the table. What clients call all the time is answered in place; the rest is boxed, so that
/// a frequent call does not carry the room of a rare one.
pub async fn unary(session: &Session, path: &str, message: Bytes) -> Result<Bytes, Status> {
    match path {
        "/etcdserverpb.KV/Range" => kv::range(session, frame::decode(message)?).await,
        "/etcdserverpb.KV/Put" => kv::put(session, frame::decode(message)?).await,
        "/etcdserverpb.KV/DeleteRange" => kv::delete_range(session, frame::decode(message)?).await,
        "/etcdserverpb.KV/Txn" => kv::txn(session, frame::decode(message)?).await,
        _ => rare(session, path, message).await,
    }
}

fn rare<'a>(
    session: &'a Session,
    path: &str,
    message: Bytes,
) -> Pin<Box<dyn Future<Output = Result<Bytes, Status>> + 'a>> {
    match path {
        "/etcdserverpb.KV/Compact" => call(session, message, kv::compact),
        "/etcdserverpb.Lease/LeaseGrant" => call(session, message, lease::grant),
        "/etcdserverpb.Lease/LeaseRevoke" => call(session, message, lease::revoke),
        "/etcdserverpb.Lease/LeaseTimeToLive" => call(session, message, lease::time_to_live),
        "/etcdserverpb.Lease/LeaseLeases" => call(session, message, lease::leases),
        "/etcdserverpb.Cluster/MemberList" => call(session, message, cluster::member_list),
        "/etcdserverpb.Cluster/MemberAdd" => call(session, message, cluster::member_add),
        "/etcdserverpb.Cluster/MemberRemove" => call(session, message, cluster::member_remove),
        "/etcdserverpb.Cluster/MemberUpdate" => call(session, message, cluster::member_update),
        "/etcdserverpb.Cluster/MemberPromote" => call(session, message, cluster::member_promote),
        "/etcdserverpb.Maintenance/Alarm" => call(session, message, maintenance::alarm),
        "/etcdserverpb.Maintenance/Status" => call(session, message, maintenance::status),
        "/etcdserverpb.Maintenance/Defragment" => call(session, message, maintenance::defragment),
        "/etcdserverpb.Maintenance/Hash" => call(session, message, maintenance::hash),
        "/etcdserverpb.Maintenance/HashKV" => call(session, message, maintenance::hash_kv),
        "/etcdserverpb.Maintenance/MoveLeader" => call(session, message, maintenance::move_leader),
        "/etcdserverpb.Maintenance/Downgrade" => call(session, message, maintenance::downgrade),
        "/etcdserverpb.Auth/AuthEnable" => call(session, message, auth::enable),
        "/etcdserverpb.Auth/AuthDisable" => call(session, message, auth::disable),
        "/etcdserverpb.Auth/AuthStatus" => call(session, message, auth::status),
        "/etcdserverpb.Auth/Authenticate" => call(session, message, auth::authenticate),
        "/etcdserverpb.Auth/UserAdd" => call(session, message, auth::user_add),
        "/etcdserverpb.Auth/UserGet" => call(session, message, auth::user_get),
        "/etcdserverpb.Auth/UserList" => call(session, message, auth::user_list),
        "/etcdserverpb.Auth/UserDelete" => call(session, message, auth::user_delete),
        "/etcdserverpb.Auth/UserChangePassword" => {
            call(session, message, auth::user_change_password)
        }
        "/etcdserverpb.Auth/UserGrantRole" => call(session, message, auth::user_grant_role),
        "/etcdserverpb.Auth/UserRevokeRole" => call(session, message, auth::user_revoke_role),
        "/etcdserverpb.Auth/RoleAdd" => call(session, message, auth::role_add),
        "/etcdserverpb.Auth/RoleGet" => call(session, message, auth::role_get),
        "/etcdserverpb.Auth/RoleList" => call(session, message, auth::role_list),
        "/etcdserverpb.Auth/RoleDelete" => call(session, message, auth::role_delete),
        "/etcdserverpb.Auth/RoleGrantPermission" => {
            call(session, message, auth::role_grant_permission)
        }
        "/etcdserverpb.Auth/RoleRevokePermission" => {
            call(session, message, auth::role_revoke_permission)
        }
        "/grpc.health.v1.Health/Check" => call(session, message, health::check),
        "/grpc.health.v1.Health/List" => call(session, message, health::list),
        other => Box::pin(std::future::ready(Err(not_yet(other)))),
    }
}

/// Opens a streaming method, given by its position in the table.
pub async fn stream(
    session: &Session,
    method: usize,
    messages: Messages,
) -> Result<Pieces, Status> {
    match methods::ALL[method].path {
        "/etcdserverpb.Watch/Watch" => watch::watch(session, method, messages),
        "/etcdserverpb.Lease/LeaseKeepAlive" => {
            Ok(keepalive::keep_alive(session, method, messages))
        }
        "/etcdserverpb.KV/RangeStream" => {
            range_stream::range_stream(session, method, messages).await
        }
        "/etcdserverpb.Maintenance/Snapshot" => {
            maintenance::snapshot(session, method, messages).await
        }
        "/grpc.health.v1.Health/Watch" => health::watch(session, method, messages).await,
        other => Err(not_yet(other)),
    }
}

/// Decodes and calls.
fn call<'a, Q, F>(
    session: &'a Session,
    message: Bytes,
    handler: F,
) -> Pin<Box<dyn Future<Output = Result<Bytes, Status>> + 'a>>
where
    Q: Message + Default + 'a,
    F: AsyncFnOnce(&'a Session, Q) -> Result<Bytes, Status> + 'a,
{
    Box::pin(async move { handler(session, frame::decode(message)?).await })
}

/// A method of etcd's that this version does not serve; `docs/compat.md` lists them.
pub fn not_yet(path: &str) -> Status {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    Status::unimplemented(format!("quorate: {name} is not available yet"))
}
