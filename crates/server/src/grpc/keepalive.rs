//! `etcdserverpb.Lease/LeaseKeepAlive`: answers in the order of the questions, many of which may be under way.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use futures_util::Stream;
use proto::error::{self, RpcError};
use proto::etcdserverpb as pb;
use replica::{Input, Reply, Request};
use tokio::task::JoinHandle;

use super::body::{Piece, Pieces};
use super::frame::{self, Messages};
use super::session::Session;
use super::status::Status;
use crate::calls::Call;
use crate::forward;
use crate::member::Member;

/// Questions of one stream that may wait for their answers; further ones stay in the connection.
const UNDER_WAY_MAX: usize = 128;
/// Answers are handed over when they come to this.
const PIECE_BYTES: usize = 16 << 10;

/// Serves a stream of keepalives. A lease that does not exist is answered with a TTL of 0.
pub fn keep_alive(session: &Session, method: usize, messages: Messages) -> Pieces {
    Box::pin(KeepAlives {
        session: session.clone(),
        method,
        messages,
        under_way: VecDeque::new(),
        is_over: false,
        failed: None,
    })
}

struct KeepAlives {
    session: Session,
    method: usize,
    messages: Messages,
    under_way: VecDeque<UnderWay>,
    /// The client will ask no more.
    is_over: bool,
    /// Why the stream ends once the answers before are sent.
    failed: Option<Status>,
}

struct UnderWay {
    id: i64,
    /// Taken before the question: what the answer says may be older than the renewal, never newer.
    header: Option<pb::ResponseHeader>,
    renewal: Renewal,
}

/// Where a question is.
enum Renewal {
    /// This member leads, or thinks so.
    Here(Call),
    /// With the leader. Questions of one stream are all asked at once.
    Forwarded(JoinHandle<Result<Option<i64>, &'static RpcError>>),
}

impl Renewal {
    fn begin(session: &Session, id: i64) -> Result<Self, Status> {
        let member = &session.member;
        if !member.raft.get().is_leader {
            return Ok(Renewal::forwarded(member, id));
        }
        let call = session.calls.open();
        member.tell(Input::Client(call.ticket(), Request::LeaseRenew { id }))?;
        Ok(Renewal::Here(call))
    }

    fn forwarded(member: &Arc<Member>, id: i64) -> Self {
        let member = member.clone();
        Renewal::Forwarded(tokio::spawn(
            async move { forward::renew(&member, id).await },
        ))
    }

    /// The TTL that the client is told. A leader that is none any more asks its successor.
    fn poll(
        &mut self,
        member: &Arc<Member>,
        id: i64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<i64, Status>> {
        loop {
            match self {
                Renewal::Here(call) => match ready!(Pin::new(call).poll(cx)) {
                    Ok(Reply::LeaseRenewed { ttl_s }) => {
                        return Poll::Ready(Ok(ttl_s.unwrap_or(0)));
                    }
                    Ok(other) => {
                        return Poll::Ready(Err(Status::internal(format!(
                            "a renewal was answered with {other:?}"
                        ))));
                    }
                    Err(why) if forward::is_not_leading(why) => {
                        *self = Renewal::forwarded(member, id);
                    }
                    Err(why) => return Poll::Ready(Err(Status::from(why))),
                },
                Renewal::Forwarded(task) => {
                    return Poll::Ready(match ready!(Pin::new(task).poll(cx)) {
                        Ok(Ok(ttl_s)) => Ok(ttl_s.unwrap_or(0)),
                        Ok(Err(why)) => Err(Status::from(why)),
                        Err(_) => Err(Status::from(&error::STOPPED)),
                    });
                }
            }
        }
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        if let Renewal::Forwarded(task) = self {
            task.abort();
        }
    }
}

impl KeepAlives {
    fn member(&self) -> &Arc<Member> {
        &self.session.member
    }

    /// Takes the client's questions while there is room.
    fn poll_questions(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        while !self.is_over && self.under_way.len() < UNDER_WAY_MAX {
            let Poll::Ready(message) = self.messages.poll_next(cx)? else {
                break;
            };
            let Some(message) = message else {
                self.is_over = true;
                break;
            };
            self.member().metrics.methods[self.method].received.inc();
            let pb::LeaseKeepAliveRequest { id } = frame::decode(message)?;
            let header = self.member().header(self.member().view.load().revision());
            let renewal = Renewal::begin(&self.session, id)?;
            self.under_way.push_back(UnderWay {
                id,
                header,
                renewal,
            });
        }
        Ok(())
    }

    /// Collects the answers that have come, from the front.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Piece {
        let mut data = BytesMut::new();
        let mut messages = 0;
        while self.failed.is_none()
            && data.len() < PIECE_BYTES
            && let Some(front) = self.under_way.front_mut()
            && let Poll::Ready(answer) = front.renewal.poll(&self.session.member, front.id, cx)
        {
            let UnderWay { id, header, .. } =
                self.under_way.pop_front().expect("the front was just seen");
            match answer {
                Ok(ttl) => {
                    self.member().metrics.leases_renewed.add(u64::from(ttl > 0));
                    frame::append(&mut data, &pb::LeaseKeepAliveResponse { header, id, ttl });
                    messages += 1;
                }
                Err(status) => self.failed = Some(status),
            }
        }
        Piece {
            data: data.freeze(),
            messages,
        }
    }
}

impl Stream for KeepAlives {
    type Item = Result<Piece, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.failed.is_none()
            && let Err(status) = self.poll_questions(cx)
        {
            self.failed = Some(status);
        }
        let piece = self.poll_answers(cx);
        if piece.messages > 0 {
            return Poll::Ready(Some(Ok(piece)));
        }
        if let Some(status) = self.failed.take() {
            self.under_way.clear();
            return Poll::Ready(Some(Err(status)));
        }
        if self.is_over && self.under_way.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}
