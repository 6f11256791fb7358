//! What a response's body is made of.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use proto::error::{self, Code};
use tokio::time::Sleep;

use super::account::Account;
use super::compression::Compressor;
use super::leadership::Wish;
use super::status::{Status, ok_trailers};
use crate::member::Member;

/// A piece of a response: framed messages, or a part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    pub data: Bytes,
    /// How many messages end in it.
    pub messages: usize,
}

impl Piece {
    /// One whole message with its prefix.
    pub fn one(data: Bytes) -> Self {
        Piece { data, messages: 1 }
    }
}

/// Messages that are produced while the client reads.
pub type Pieces = Pin<Box<dyn Stream<Item = Result<Piece, Status>>>>;

/// The body of any response of this server.
pub enum Body {
    Empty,
    /// A whole HTTP answer.
    Full(Option<Bytes>),
    /// One framed message, then trailers. The request's body is kept until the end: dropping it earlier would reset a
    /// stream whose client has not closed its side yet.
    Unary {
        message: Option<Bytes>,
        trailers: Option<HeaderMap>,
        _request: Option<Incoming>,
    },
    /// Framed messages until the stream ends, then trailers.
    Stream(Box<Streaming>),
}

/// A streaming call.
pub struct Streaming {
    pieces: Pieces,
    account: Account<Arc<Member>>,
    deadline: Option<Pin<Box<Sleep>>>,
    wish: Option<Wish>,
    compressor: Option<Compressor>,
    is_over: bool,
}

impl Streaming {
    pub fn new(
        pieces: Pieces,
        account: Account<Arc<Member>>,
        deadline: Option<Pin<Box<Sleep>>>,
        wish: Option<Wish>,
        compressor: Option<Compressor>,
    ) -> Self {
        Streaming {
            pieces,
            account,
            deadline,
            wish,
            compressor,
            is_over: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let outcome = match self.pieces.as_mut().poll_next(cx) {
            Poll::Ready(Some(Ok(piece))) => {
                self.account.sent(piece.messages, piece.data.len());
                let Some(compressor) = &mut self.compressor else {
                    return Poll::Ready(Some(Frame::data(piece.data)));
                };
                let data = compressor.add(&piece.data);
                if data.is_empty() {
                    // The rest of the message is the next piece.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                return Poll::Ready(Some(Frame::data(data)));
            }
            Poll::Ready(Some(Err(status))) => Err(status),
            Poll::Ready(None) => Ok(()),
            Poll::Pending if self.is_late(cx) => {
                Err(Status::from(&error::CONTEXT_DEADLINE_EXCEEDED))
            }
            Poll::Pending if self.has_lost_leader(cx) => Err(Status::from(&error::NO_LEADER)),
            Poll::Pending => return Poll::Pending,
        };
        self.is_over = true;
        self.account.end(
            outcome
                .as_ref()
                .map_or_else(|status| status.code, |()| Code::Ok),
        );
        let trailers = outcome.map_or_else(|status| status.trailers(), |()| ok_trailers());
        Poll::Ready(Some(Frame::trailers(trailers)))
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let deadline = self.deadline.as_mut();
        deadline.is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready())
    }

    fn has_lost_leader(&self, cx: &mut Context<'_>) -> bool {
        let wish = self.wish.as_ref();
        wish.is_some_and(|wish| wish.poll_lost(cx).is_ready())
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = match &mut *self {
            Body::Empty => None,
            Body::Full(data) => data.take().map(Frame::data),
            Body::Unary {
                message, trailers, ..
            } => match message.take() {
                Some(data) => Some(Frame::data(data)),
                None => trailers.take().map(Frame::trailers),
            },
            Body::Stream(stream) => std::task::ready!(stream.poll(cx)),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(data) => data.is_none(),
            Body::Unary {
                message, trailers, ..
            } => message.is_none() && trailers.is_none(),
            Body::Stream(stream) => stream.is_over,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(data) => SizeHint::with_exact(data.as_ref().map_or(0, |d| d.len() as u64)),
            _ => SizeHint::default(),
        }
    }
}
