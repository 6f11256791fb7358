//! Listening: TCP addresses and Unix sockets, and connections of either kind.
//!
//! A socket's file is made with the permissions that the umask leaves, as in etcd, and removed when the listener is dropped.
//! A file that an ended process left behind is replaced; one that is no socket, or on which somebody still listens, is an
//! error, where etcd would take it away.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use super::authority::Renaming;
use crate::config::Url;

/// Connections that the kernel may hold until they are accepted.
const BACKLOG: u32 = 4096;

/// What the configuration says about listening sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketOptions {
    pub reuse_port: bool,
}

/// Where connections come in.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A connection that may travel to another thread.
#[derive(Debug)]
pub enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// A connection on the thread that serves it.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(Renaming<UnixStream>),
}

impl Listener {
    /// Listens where `url` says.
    ///
    /// # Errors
    /// In Go's words, because scripts look for them in the log.
    pub async fn bind(url: &Url, options: SocketOptions) -> Result<Self, String> {
        match url.socket_path() {
            Some(path) => bind_file(Path::new(&path))
                .map_err(|why| format!("listen unix {path}: bind: {}", in_gos_words(&why))),
            None => bind_address(url.host_port(), options)
                .await
                .map(Listener::Tcp)
                .map_err(|why| {
                    let address = url.host_port();
                    format!("listen tcp {address}: bind: {}", in_gos_words(&why))
                }),
        }
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Accepted::Tcp(stream.into_std()?))
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(Accepted::Unix(stream.into_std()?))
            }
        }
    }

    /// The address as the log tells it, with the port that was chosen, or the file.
    pub fn address(&self) -> String {
        match self {
            Listener::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|why| why.to_string(), |address| address.to_string()),
            Listener::Unix(_, file) => file.path.display().to_string(),
        }
    }
}

impl Accepted {
    /// Takes the connection over on the thread that will serve it.
    pub fn into_stream(self) -> io::Result<Stream> {
        match self {
            Accepted::Tcp(stream) => TcpStream::from_std(stream).map(Stream::Tcp),
            Accepted::Unix(stream) => {
                UnixStream::from_std(stream).map(|stream| Stream::Unix(Renaming::new(stream)))
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

fn bind_file(path: &Path) -> io::Result<Listener> {
    remove_left_over(path)?;
    let listener = UnixListener::bind(path)?;
    let file = SocketFile::of(path)?;
    Ok(Listener::Unix(listener, file))
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

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, data),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
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
        let mut server = accepted.into_stream().expect("taken over");
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
