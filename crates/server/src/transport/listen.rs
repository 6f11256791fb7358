//! Listening: TCP addresses and Unix sockets, and connections of either kind, in clear or with TLS.
//!
//! A socket's file is made with the permissions that the umask leaves, as in etcd, and removed when the listener is dropped.
//! A file that an ended process left behind is replaced; one that is no socket, or on which somebody still listens, is an
//! error, where etcd would take it away.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsStream;

use super::authority::Renaming;
use crate::config::Url;
use crate::tls::{Acceptor, Knock, Names, PATIENCE};

/// Connections that the kernel may hold until they are accepted.
const BACKLOG: u32 = 4096;

/// What the configuration says about listening sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketOptions {
    pub reuse_port: bool,
}

/// Where connections come in.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    security: Security,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// What a listener asks of its connections.
#[derive(Clone, Debug, Default)]
pub enum Security {
    /// Everything is in clear.
    #[default]
    Plain,
    /// TLS and nothing else; who speaks in clear is sent away without an answer, as by etcd.
    Tls(Arc<Acceptor>),
    /// Both, told apart by the first byte: an `http` and an `https` URL name the same place.
    Either(Arc<Acceptor>),
}

impl Security {
    fn acceptor(&self) -> Option<&Arc<Acceptor>> {
        match self {
            Security::Plain => None,
            Security::Tls(acceptor) | Security::Either(acceptor) => Some(acceptor),
        }
    }
}

/// A connection that may travel to another thread.
#[derive(Debug)]
pub struct Accepted {
    socket: AcceptedSocket,
    pub(crate) from: Option<SocketAddr>,
    secured: Option<Secured>,
}

#[derive(Debug)]
enum AcceptedSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// What a connection needs to become TLS.
#[derive(Debug)]
struct Secured {
    acceptor: Arc<Acceptor>,
    knock: Knock,
    accepted: Instant,
    may_be_plain: bool,
}

/// A connection on the thread that serves it, or one that we have made.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(Renaming<UnixStream>),
    Tls(Box<TlsStream<TcpStream>>),
    TlsUnix(Box<Renaming<TlsStream<UnixStream>>>),
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Remote {
    /// `None` at a Unix socket.
    pub address: Option<SocketAddr>,
    pub is_tls: bool,
    /// What the certificate says that it has shown and that was verified; `None` if none was demanded.
    pub certificate: Option<Names>,
}

impl Listener {
    /// Listens where `url` says.
    ///
    /// # Errors
    /// In Go's words, because scripts look for them in the log.
    pub async fn bind(url: &Url, options: SocketOptions) -> Result<Self, String> {
        let socket = match url.socket_path() {
            Some(path) => bind_file(Path::new(&path))
                .map_err(|why| format!("listen unix {path}: bind: {}", in_gos_words(&why))),
            None => bind_address(url.host_port(), options)
                .await
                .map(Socket::Tcp)
                .map_err(|why| {
                    let address = url.host_port();
                    format!("listen tcp {address}: bind: {}", in_gos_words(&why))
                }),
        };
        Ok(Listener {
            socket: socket?,
            security: Security::Plain,
        })
    }

    /// Asks this of all connections from now on.
    pub fn secure(&mut self, security: Security) {
        self.security = security;
    }

    /// The next connection; with TLS, when there is room for one more handshake. Those of an address that has too many under way are
    /// closed and counted, and hold nobody up.
    ///
    /// # Errors
    /// There was none: it has gone, or no file is left for it.
    pub async fn accept(&self) -> io::Result<Accepted> {
        loop {
            if let Some(accepted) = self.accept_one().await? {
                return Ok(accepted);
            }
        }
    }

    async fn accept_one(&self) -> io::Result<Option<Accepted>> {
        let acceptor = self.security.acceptor();
        if let Some(acceptor) = acceptor {
            acceptor.room().await;
        }
        let (socket, from) = match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                stream.set_nodelay(true)?;
                (AcceptedSocket::Tcp(stream.into_std()?), Some(from))
            }
            Socket::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                (AcceptedSocket::Unix(stream.into_std()?), None)
            }
        };
        let secured = match acceptor {
            None => None,
            Some(acceptor) => {
                let Some(knock) = acceptor.knock(from.map(|from| from.ip())) else {
                    return Ok(None);
                };
                Some(Secured {
                    knock,
                    acceptor: acceptor.clone(),
                    accepted: Instant::now(),
                    may_be_plain: matches!(self.security, Security::Either(_)),
                })
            }
        };
        Ok(Some(Accepted {
            socket,
            from,
            secured,
        }))
    }

    /// The address as the log tells it, with the port that was chosen, or the file.
    pub fn address(&self) -> String {
        match &self.socket {
            Socket::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|why| why.to_string(), |address| address.to_string()),
            Socket::Unix(_, file) => file.path.display().to_string(),
        }
    }
}

impl Accepted {
    /// Takes the connection over on the thread that will serve it, and makes it secure if that is asked for. Ends within
    /// [`PATIENCE`] of the connection's beginning.
    ///
    /// `None`: it did not come to that, which has been told where it matters.
    pub async fn open(self) -> io::Result<Option<(Stream, Remote)>> {
        let address = self.from;
        let opened = match (self.socket, self.secured) {
            (AcceptedSocket::Tcp(stream), None) => {
                Opened::Plain(Stream::Tcp(TcpStream::from_std(stream)?))
            }
            (AcceptedSocket::Unix(stream), None) => {
                Opened::Plain(Stream::unix(UnixStream::from_std(stream)?))
            }
            (AcceptedSocket::Tcp(stream), Some(secured)) => {
                let opened = secured.open(TcpStream::from_std(stream)?, address).await?;
                opened.map(Stream::Tcp, |stream| Stream::Tls(Box::new(stream)))
            }
            (AcceptedSocket::Unix(stream), Some(secured)) => {
                let opened = secured.open(UnixStream::from_std(stream)?, None).await?;
                opened.map(Stream::unix, Stream::tls_unix)
            }
        };
        let (stream, is_tls, certificate) = match opened {
            Opened::Plain(stream) => (stream, false, None),
            Opened::Tls(stream, certificate) => (stream, true, certificate),
            Opened::Gone => return Ok(None),
        };
        let remote = Remote {
            address,
            is_tls,
            certificate,
        };
        Ok(Some((stream, remote)))
    }
}

/// What has become of a connection.
enum Opened<P, T> {
    Plain(P),
    Tls(T, Option<Names>),
    Gone,
}

impl<P, T> Opened<P, T> {
    fn map<S>(self, plain: impl FnOnce(P) -> S, tls: impl FnOnce(T) -> S) -> Opened<S, S> {
        match self {
            Opened::Plain(stream) => Opened::Plain(plain(stream)),
            Opened::Tls(stream, names) => Opened::Tls(tls(stream), names),
            Opened::Gone => Opened::Gone,
        }
    }
}

/// The first byte of TLS: the kind of a record that carries a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

impl Secured {
    /// Looks at the first byte and does what it asks for, if that may be.
    async fn open<S: Peek + AsyncRead + AsyncWrite + Unpin>(
        self,
        stream: S,
        from: Option<SocketAddr>,
    ) -> io::Result<Opened<S, TlsStream<S>>> {
        let deadline = tokio::time::Instant::from_std(self.accepted) + PATIENCE;
        let acceptor = &self.acceptor;
        let first = match tokio::time::timeout_at(deadline, stream.first_byte()).await {
            Ok(first) => first?,
            Err(_) => {
                acceptor.was_late(from);
                return Ok(Opened::Gone);
            }
        };
        Ok(match first {
            Some(TLS_HANDSHAKE) => {
                let begun = self.accepted;
                match acceptor.handshake(stream, from, self.knock, begun).await {
                    Some((stream, names)) => Opened::Tls(stream, names),
                    None => Opened::Gone,
                }
            }
            Some(_) if self.may_be_plain => Opened::Plain(stream),
            Some(_) => {
                acceptor.was_plain(from);
                Opened::Gone
            }
            None => Opened::Gone,
        })
    }
}

/// Looking at what has come without taking it.
trait Peek {
    /// The first byte that comes; `None` if none will.
    async fn first_byte(&self) -> io::Result<Option<u8>>;
}

impl Peek for TcpStream {
    async fn first_byte(&self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        let count = self.peek(&mut byte).await?;
        Ok((count > 0).then_some(byte[0]))
    }
}

impl Peek for UnixStream {
    async fn first_byte(&self) -> io::Result<Option<u8>> {
        let peek = || {
            let mut byte = [0];
            let (count, _) = rustix::net::recv(self.as_fd(), &mut byte, RecvFlags::PEEK)?;
            Ok((count > 0).then_some(byte[0]))
        };
        loop {
            self.ready(Interest::READABLE).await?;
            match self.try_io(Interest::READABLE, peek) {
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }
}

async fn bind_address(host_port: &str, options: SocketOptions) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    for address in tokio::net::lookup_host(host_port).await? {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // Go sets this on every listening socket; without it a restart would wait for old connections to fade.
        socket.set_reuseaddr(true)?;
        if options.reuse_port {
            socket.set_reuseport(true)?;
        }
        match socket.bind(address).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(why) => last = why,
        }
    }
    Err(last)
}

fn bind_file(path: &Path) -> io::Result<Socket> {
    remove_left_over(path)?;
    let listener = UnixListener::bind(path)?;
    let file = SocketFile::of(path)?;
    Ok(Socket::Unix(listener, file))
}

/// Takes away the socket of a process that has ended.
fn remove_left_over(path: &Path) -> io::Result<()> {
    let is_socket = match std::fs::symlink_metadata(path) {
        Ok(found) => found.file_type().is_socket(),
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(why),
    };
    let in_use = io::ErrorKind::AddrInUse;
    if !is_socket {
        return Err(in_use.into());
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(why) if why.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(in_use.into()),
        // Somebody listens whom we may not ask, or who has no time.
        Err(why) => Err(why),
    }
}

/// The file of a Unix socket, ours until somebody puts another in its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and number of the file.
    id: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(SocketFile {
            path: path.to_owned(),
            id: file_id(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if file_id(&self.path).is_ok_and(|id| id == self.id) {
            // If that fails, the next start will do it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn file_id(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

fn in_gos_words(why: &io::Error) -> String {
    match why.kind() {
        io::ErrorKind::AddrInUse => "address already in use".to_owned(),
        io::ErrorKind::AddrNotAvailable => "cannot assign requested address".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        _ => why.to_string(),
    }
}

impl Stream {
    /// A connection through a Unix socket.
    pub fn unix(stream: UnixStream) -> Self {
        Stream::Unix(Renaming::new(stream))
    }

    /// The same with TLS.
    pub fn tls_unix(stream: TlsStream<UnixStream>) -> Self {
        Stream::TlsUnix(Box::new(Renaming::new(stream)))
    }

    /// The TCP connection below, if it is one, for its options.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Stream::Tcp(stream) => Some(stream),
            Stream::Tls(stream) => Some(stream.get_ref().0),
            Stream::Unix(_) | Stream::TlsUnix(_) => None,
        }
    }
}

/// The same call on whatever kind it is.
macro_rules! each_kind {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Tcp($inner) => $call,
            Stream::Unix($inner) => $call,
            Stream::Tls($inner) => $call,
            Stream::TlsUnix($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each_kind!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        each_kind!(self, stream => Pin::new(stream).poll_write(cx, data))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_kind!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_kind!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn bind(path: &Path) -> Result<Listener, String> {
        let url = Url::parse(&format!("unix://{}", path.display())).expect("a URL");
        Listener::bind(&url, SocketOptions::default()).await
    }

    #[tokio::test]
    async fn a_socket_carries_bytes_and_its_file_goes_with_the_listener() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let listener = bind(&path).await.expect("bound");
        assert_eq!(listener.address(), path.display().to_string());
        let mut client = UnixStream::connect(&path).await.expect("connected");
        let accepted = listener.accept().await.expect("accepted");
        let (mut server, _) = accepted.open().await.expect("taken over").expect("open");
        client.write_all(b"ping").await.expect("sent");
        let mut got = [0; 4];
        server.read_exact(&mut got).await.expect("read");
        assert_eq!(&got, b"ping");
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_left_over_socket_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        // Dropping the standard library's listener leaves the file, as a killed process does.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        let listener = bind(&path).await.expect("replaced");
        let refused = bind(&path).await.expect_err("in use");
        assert!(
            refused.ends_with("bind: address already in use"),
            "{refused}"
        );
        assert!(UnixStream::connect(&path).await.is_ok());
        drop(listener);
        std::fs::write(&path, "precious").expect("a file");
        assert!(bind(&path).await.is_err());
        assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
    }

    #[tokio::test]
    async fn a_file_that_somebody_put_in_its_place_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let listener = bind(&path).await.expect("bound");
        std::fs::remove_file(&path).expect("removed");
        let successor = bind(&path).await.expect("bound again");
        drop(listener);
        assert!(UnixStream::connect(&path).await.is_ok());
        drop(successor);
        assert!(!path.exists());
    }
}
