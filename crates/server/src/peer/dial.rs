//! Connections to other members.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::config::{Config, Url};

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
}

impl Dialer {
    pub fn new(config: &Config) -> Self {
        Dialer {
            timeout: config.raft.peer_dial_timeout(),
        }
    }

    /// Connects to where `url` says; names are looked up each time.
    ///
    /// # Errors
    /// Nobody listens there, or it took too long.
    pub async fn dial(&self, url: &Url) -> io::Result<Stream> {
        if url.is_tls() {
            let why = "TLS between members is not available yet";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        let connect = async {
            match url.socket_path() {
                Some(path) => {
                    let stream = UnixStream::connect(path).await?;
                    Ok(Box::new(stream) as Stream)
                }
                None => {
                    let stream = TcpStream::connect(url.host_port()).await?;
                    prepare(&stream)?;
                    Ok(Box::new(stream) as Stream)
                }
            }
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "dial: i/o timeout");
        tokio::time::timeout(self.timeout, connect)
            .await
            .map_err(late)?
    }
}
