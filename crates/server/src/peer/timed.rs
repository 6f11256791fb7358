//! Connections whose other side may not keep us waiting.
//!
//! Source of the rule: upstream `client/pkg/transport/timeout_{conn,transport}.go`: every read and every write has a deadline of its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A connection, whatever it is made of.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// A connection that fails when a write does not get on, or nothing comes, for too long.
pub struct Timed<T> {
    inner: T,
    read: Option<Patience>,
    write: Patience,
}

struct Patience {
    limit: Duration,
    /// When it began to wait; moves with everything that comes or goes.
    since: Instant,
    is_waiting: bool,
    alarm: Pin<Box<Sleep>>,
}

impl<T> Timed<T> {
    /// With `read`, silence is an error too.
    pub fn new(inner: T, read: Option<Duration>, write: Duration) -> Timed<T> {
        Timed {
            inner,
            read: read.map(Patience::new),
            write: Patience::new(write),
        }
    }
}

impl Patience {
    fn new(limit: Duration) -> Patience {
        Patience {
            limit,
            since: Instant::now(),
            is_waiting: false,
            alarm: Box::pin(tokio::time::sleep(limit)),
        }
    }

    /// Passes on what became of a read or a write, or says that it has taken too long.
    fn heed<V>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<V>>,
    ) -> Poll<io::Result<V>> {
        if outcome.is_ready() {
            self.is_waiting = false;
            return outcome;
        }
        if !self.is_waiting {
            self.is_waiting = true;
            self.since = Instant::now();
        }
        // The alarm is moved only when it rings: nearly always it rings for nothing, and seldom.
        while self.alarm.as_mut().poll_alarm(cx).is_ready() {
            let until = self.since + self.limit;
            if Instant::now() >= until {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.alarm.as_mut().reset(until);
        }
        Poll::Pending
    }
}

/// `Future::poll` under a name that does not clash with the traits of reading and writing.
trait PollAlarm {
    fn poll_alarm(self, cx: &mut Context<'_>) -> Poll<()>;
}

impl PollAlarm for Pin<&mut Sleep> {
    fn poll_alarm(self, cx: &mut Context<'_>) -> Poll<()> {
        std::future::Future::poll(self, cx)
    }
}

impl<T: Duplex> AsyncRead for Timed<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.inner).poll_read(cx, buf);
        match &mut this.read {
            Some(patience) => patience.heed(cx, outcome),
            None => outcome,
        }
    }
}

impl<T: Duplex> AsyncWrite for Timed<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.inner).poll_write(cx, data);
        this.write.heed(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.inner).poll_write_vectored(cx, pieces);
        this.write.heed(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.inner).poll_flush(cx);
        this.write.heed(cx, outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.inner).poll_shutdown(cx);
        this.write.heed(cx, outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const LIMIT: Duration = Duration::from_millis(60);

    #[tokio::test]
    async fn silence_is_an_error_only_where_something_must_come() {
        let (near, _far) = duplex(64);
        let mut patient = Timed::new(near, None, LIMIT);
        let mut byte = [0];
        let waited = tokio::time::timeout(3 * LIMIT, patient.read(&mut byte)).await;
        assert!(waited.is_err(), "still waiting");
        let (near, mut far) = duplex(64);
        let mut timed = Timed::new(near, Some(LIMIT), LIMIT);
        for _ in 0..3 {
            tokio::time::sleep(LIMIT / 2).await;
            far.write_all(b"x").await.expect("written");
            timed.read_exact(&mut byte).await.expect("came in time");
        }
        let began = Instant::now();
        let why = timed.read(&mut byte).await.expect_err("nothing came");
        assert_eq!(why.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= LIMIT);
    }

    #[tokio::test]
    async fn a_write_that_gets_on_may_take_any_time() {
        let (near, mut far) = duplex(8);
        let mut timed = Timed::new(near, None, LIMIT);
        let reader = async {
            let mut eight = [0; 8];
            for _ in 0..5 {
                tokio::time::sleep(LIMIT / 2).await;
                far.read_exact(&mut eight).await.expect("read");
            }
        };
        let (written, ()) = tokio::join!(timed.write_all(&[0; 48]), reader);
        written.expect("it got on");
        let why = timed.write_all(&[0; 9]).await.expect_err("nobody reads");
        assert_eq!(why.kind(), io::ErrorKind::TimedOut);
    }
}
