//! Collects what a connection writes until its task yields, then hands it to the kernel in one call.
//!
//! The HTTP/2 library flushes after every response. With a thousand small answers on a connection that is a thousand
//! system calls, and they cost more than everything else the server does (docs/decisions, "collected writes"). Here a
//! flush only marks that there is something to send; [`Collected`] wraps the connection's future and sends when the
//! future has nothing more to do.
//!
//! As all bytes pass here, here is also where a client that pings too often is found and sent away, see [`super::pings`].

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pings::{Incoming, Outgoing};

/// Above this much unsent data a write waits for the socket, which is how a slow reader slows its own connection down.
const BUFFER_MAX: usize = 256 << 10;
/// A buffer that has grown beyond this is given back when it is empty, so that idle connections stay small.
const BUFFER_KEPT: usize = 16 << 10;

/// The stream as the HTTP library sees it.
pub struct CollectingIo<S>(Rc<RefCell<Inner<S>>>);

/// Drives a connection and sends what it has written each time it pauses.
pub struct Collected<S, F> {
    io: Rc<RefCell<Inner<S>>>,
    connection: Pin<Box<F>>,
}

struct Inner<S> {
    stream: S,
    incoming: Incoming,
    outgoing: Outgoing,
    /// The client was told to go, so nothing more is read or written.
    is_dismissed: bool,
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that are sent already.
    sent: usize,
}

/// Splits a stream into the side for the library and a function that makes the driver around the library's future.
pub fn collect<S, F>(
    stream: S,
    incoming: Incoming,
    serve: impl FnOnce(CollectingIo<S>) -> F,
) -> Collected<S, F>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future,
{
    let io = Rc::new(RefCell::new(Inner {
        stream,
        outgoing: Outgoing::beside(&incoming),
        incoming,
        is_dismissed: false,
        buffer: Vec::new(),
        sent: 0,
    }));
    let connection = Box::pin(serve(CollectingIo(io.clone())));
    Collected { io, connection }
}

impl<S, F> Collected<S, F> {
    /// The library's future, to tell it to finish.
    pub fn connection(self: Pin<&mut Self>) -> Pin<&mut F> {
        self.get_mut().connection.as_mut()
    }

    /// Whether the client has said enough to tell which protocol it speaks.
    pub fn is_decided(&self) -> bool {
        self.io.borrow().incoming.is_decided()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, F> Collected<S, F> {
    /// Sends the rest to a client that was told to go, and waits until it has hung up. Closing at once would reset the
    /// connection if the client has said something meanwhile, and it would not read why it had to go.
    pub async fn dismiss(self: Pin<&mut Self>) {
        if !self.io.borrow().is_dismissed {
            return;
        }
        std::future::poll_fn(|cx| {
            let inner = &mut *self.io.borrow_mut();
            ready!(inner.poll_send(cx))?;
            ready!(Pin::new(&mut inner.stream).poll_shutdown(cx))?;
            let mut ignored = [0; 1024];
            loop {
                let mut buf = ReadBuf::new(&mut ignored);
                ready!(Pin::new(&mut inner.stream).poll_read(cx, &mut buf))?;
                if buf.filled().is_empty() {
                    return Poll::Ready(io::Result::Ok(()));
                }
            }
        })
        .await
        // It is gone, one way or the other.
        .unwrap_or_default();
    }
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    fn unsent(&self) -> usize {
        self.buffer.len() - self.sent
    }

    /// Sends until everything is sent or the socket is full.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.buffer.len() {
            let count =
                ready!(Pin::new(&mut self.stream).poll_write(cx, &self.buffer[self.sent..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        self.sent = 0;
        if self.buffer.capacity() > BUFFER_KEPT {
            self.buffer = Vec::new();
        } else {
            self.buffer.clear();
        }
        // A socket has nothing to flush; TLS may still hold what it has encrypted.
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, F: Future> Future for Collected<S, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let outcome = this.connection.as_mut().poll(cx);
        // A failed send shows up in the library's next read or write; a connection that has finished has sent all it will.
        let _ = this.io.borrow_mut().poll_send(cx);
        outcome
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CollectingIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut inner.stream).poll_read(cx, buf))?;
        let data = &buf.filled()[before..];
        if !inner.is_dismissed && inner.incoming.received(data, Instant::now()) {
            inner.is_dismissed = true;
            // In the middle of a frame the client could not read it.
            if inner.outgoing.is_between() {
                inner.buffer.extend_from_slice(&inner.incoming.goaway());
            }
        }
        if inner.is_dismissed {
            return Poll::Ready(Err(io::Error::other("got too many pings from the client")));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CollectingIo<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.unsent() >= BUFFER_MAX {
            ready!(inner.poll_send(cx))?;
        }
        if inner.is_dismissed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let before = inner.buffer.len();
        for slice in slices {
            inner.outgoing.sent(slice);
            inner.buffer.extend_from_slice(slice);
        }
        Poll::Ready(Ok(inner.buffer.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        ready!(inner.poll_send(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn any() -> Incoming {
        Incoming::new(Duration::ZERO, Rc::default())
    }

    /// Counts writes that reach the stream.
    struct Counting<S>(S, Rc<RefCell<usize>>);

    impl<S: AsyncWrite + Unpin> AsyncWrite for Counting<S> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            data: &[u8],
        ) -> Poll<io::Result<usize>> {
            *self.1.borrow_mut() += 1;
            Pin::new(&mut self.0).poll_write(cx, data)
        }
        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    impl<S: AsyncRead + Unpin> AsyncRead for Counting<S> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    #[tokio::test]
    async fn many_flushed_writes_become_one_and_nothing_is_lost() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let writes = Rc::new(RefCell::new(0));
        collect(Counting(ours, writes.clone()), any(), |mut io| async move {
            for n in 0..100u8 {
                io.write_all(&[n]).await.expect("collected");
                io.flush().await.expect("marked");
            }
        })
        .await;
        let mut got = [0; 100];
        theirs.read_exact(&mut got).await.expect("all bytes");
        assert_eq!(got.to_vec(), (0..100).collect::<Vec<u8>>());
        assert_eq!(*writes.borrow(), 1);
    }

    #[tokio::test]
    async fn more_than_the_buffer_waits_for_a_slow_reader_and_arrives_whole() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 10);
        let writer = collect(ours, any(), |mut io| async move {
            io.write_all(&vec![7; 3 * BUFFER_MAX])
                .await
                .expect("written");
            io.shutdown().await.expect("sent");
        });
        let reader = async {
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).await.expect("read");
            got.len()
        };
        let (_, count) = tokio::join!(writer, reader);
        assert_eq!(count, 3 * BUFFER_MAX);
    }
}
