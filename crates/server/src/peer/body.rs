//! What the bodies of requests and answers between members are made of.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

use super::stream_out::StreamBody;

/// A body that this member sends.
pub enum Body {
    /// All at once; `None` for nothing (more).
    Full(Option<Bytes>),
    /// Frames for as long as the connection lives.
    Stream(Box<StreamBody>),
    /// Pieces that somebody makes meanwhile. An error breaks the connection, so that nobody takes the half for the whole.
    Pieces(mpsc::Receiver<io::Result<Bytes>>),
}

impl Body {
    pub fn empty() -> Body {
        Body::Full(None)
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(whole: T) -> Body {
        Body::Full(Some(whole.into()))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Body::Full(whole) => Poll::Ready(whole.take().map(|whole| Ok(Frame::data(whole)))),
            Body::Stream(stream) => stream
                .poll(cx)
                .map(|piece| piece.map(|p| Ok(Frame::data(p)))),
            Body::Pieces(pieces) => pieces
                .poll_recv(cx)
                .map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(whole) => SizeHint::with_exact(whole.as_ref().map_or(0, Bytes::len) as u64),
            Body::Stream(_) | Body::Pieces(_) => SizeHint::default(),
        }
    }
}
