//! What other members may ask for besides raft's messages.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::Body;
use super::serve::error;
use crate::member::Member;

/// Answers a request of another member that is not about raft's messages.
pub async fn answer(_member: &Arc<Member>, _request: Request<Incoming>) -> Response<Body> {
    error(StatusCode::NOT_FOUND, "404 page not found")
}
