//! `grpc.health.v1.Health`: the server as a whole, under the empty name, which is all that etcd registers.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use proto::error;
use proto::grpc::health::v1 as pb;
use proto::grpc::health::v1::health_check_response::ServingStatus;

use super::body::{Piece, Pieces};
use super::frame::{self, Messages};
use super::session::Session;
use super::status::Status;

pub async fn check(_session: &Session, request: pb::HealthCheckRequest) -> Result<Bytes, Status> {
    match status_of(&request.service) {
        ServingStatus::ServiceUnknown => Err(Status::from(&error::HEALTH_UNKNOWN_SERVICE)),
        status => Ok(frame::encode(&response(status))),
    }
}

pub async fn list(_session: &Session, _request: pb::HealthListRequest) -> Result<Bytes, Status> {
    let statuses = BTreeMap::from([(String::new(), response(status_of("")))]);
    Ok(frame::encode(&pb::HealthListResponse { statuses }))
}

/// Tells the status, which does not change while this process serves, and keeps the stream open.
pub async fn watch(
    session: &Session,
    method: usize,
    mut messages: Messages,
) -> Result<Pieces, Status> {
    let request: pb::HealthCheckRequest = frame::decode(messages.only().await?)?;
    session.member.metrics.methods[method].received.inc();
    let first = Piece::one(frame::encode(&response(status_of(&request.service))));
    let first = stream::once(async move {
        let _kept_open = messages;
        Ok(first)
    });
    Ok(Box::pin(first.chain(stream::pending())))
}

fn status_of(service: &str) -> ServingStatus {
    if service.is_empty() {
        ServingStatus::Serving
    } else {
        ServingStatus::ServiceUnknown
    }
}

fn response(status: ServingStatus) -> pb::HealthCheckResponse {
    pb::HealthCheckResponse {
        status: status as i32,
    }
}
