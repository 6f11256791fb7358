//! etcd's gRPC services: plain functions from a decoded request to a reply, one module a service.
//!
//! Start with [`Service`], then `serve` for the rules of gRPC, and `route` for which function answers which method.

mod access;
mod account;
mod auth;
pub mod body;
mod cluster;
mod compression;
pub mod frame;
mod health;
mod keepalive;
pub mod kv;
mod leadership;
mod lease;
pub mod maintenance;
mod metadata;
mod range_stream;
mod route;
mod serve;
pub mod session;
pub(crate) mod snapshot;
pub mod status;
mod watch;

use std::rc::Rc;

use ::http::{Request, Response};
use hyper::body::Incoming;

use crate::http;
use crate::transport::{Caller, Handler, Speaks};
use body::Body;
use session::Session;

/// Answers everything that comes in on the connections of one thread.
pub struct Service {
    session: Session,
}

impl Service {
    pub fn new(session: Session) -> Rc<Self> {
        Rc::new(Service { session })
    }
}

impl Handler for Service {
    async fn handle(
        self: Rc<Self>,
        request: Request<Incoming>,
        caller: Rc<Caller>,
    ) -> Response<Body> {
        if caller.speaks == Speaks::Both && serve::is_grpc(&request) {
            serve::serve(&self.session, request).await
        } else {
            Box::pin(http::answer(&self.session, request, &caller)).await
        }
    }
}
