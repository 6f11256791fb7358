//! Connections to other members.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::config::{Config, Url};
use crate::tls::{Connector, Side};

/// What a connection can do, whatever it runs over.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection to a member.
pub type Stream = Box<dyn Io>;

/// How long a connection is quiet before the kernel asks whether the other side is there. Source: Go's `net.Dialer`.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// What every connection between members has: nothing waits for more, and the kernel notices when the other side is gone.
///
/// # Errors
/// The connection has ended.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE)?;
    Ok(())
}

/// Opens connections to members.
#[derive(Clone, Debug)]
pub struct Dialer {
    timeout: Duration,
    connector: Connector,
}

impl Dialer {
    pub fn new(config: &Config, side: Arc<Side>) -> Self {
        Dialer {
            timeout: config.raft.peer_dial_timeout(),
            connector: Connector::new(side),
        }
    }

    /// Connects to where `url` says; names are looked up each time.
    ///
    /// # Errors
    /// Nobody listens there, it took too long, or its certificate is not good.
    pub async fn dial(&self, url: &Url) -> io::Result<Stream> {
        let connect = async {
            match url.socket_path() {
                Some(path) => {
                    let stream = UnixStream::connect(path).await?;
                    Ok::<Stream, io::Error>(Box::new(stream))
                }
                None => {
                    let stream = TcpStream::connect(url.host_port()).await?;
                    prepare(&stream)?;
                    Ok::<Stream, io::Error>(Box::new(stream))
                }
            }
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "dial: i/o timeout");
        let stream = tokio::time::timeout(self.timeout, connect)
            .await
            .map_err(late)??;
        // The handshake has a time of its own, as in etcd.
        match url.is_tls() {
            true => Ok(Box::new(self.connector.secure(url, stream).await?)),
            false => Ok(stream),
        }
    }
}
