//! Who is served while authentication is enabled.
//!
//! This version keeps users and roles and applies what others log about them, but it can't check tokens yet. So nobody is
//! served who would have to show one: a call is refused unless it stands in [`OPEN`].

use proto::error::Code;
use proto::methods;

use super::session::Session;
use super::status::Status;

/// Calls that etcd answers without credentials. Everything else is refused, what a later version adds as well.
const OPEN: &[&str] = &[
    "/etcdserverpb.Auth/AuthStatus",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/List",
    "/grpc.health.v1.Health/Watch",
];

/// Refuses a call that would need credentials, before anything of it is read.
pub fn admit(session: &Session, method: usize) -> Result<(), Status> {
    let is_open = || OPEN.contains(&methods::ALL[method].path);
    if !session.member.view.load().auth().is_enabled() || is_open() {
        return Ok(());
    }
    Err(Status::new(
        Code::PermissionDenied,
        "quorate: authentication is enabled, and this version can't check credentials yet; ask an etcd member",
    ))
}
