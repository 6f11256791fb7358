//! The way out: connections to other members become secure here.
//!
//! As etcd's: the member at an `https` URL must show a certificate that an authority of `--peer-trusted-ca-file` signed (of the
//! system, without that file), that is good for the host of the URL, and that satisfies what is asked of those who connect:
//! allowed names, revocation. It is shown ours when it asks.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, TlsStream};

use super::side::Side;
use crate::config::Url;

/// How long it may take. Source: upstream `NewTransport`, `TLSHandshakeTimeout`.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes connections secure that we have made.
#[derive(Clone, Debug)]
pub struct Connector {
    side: Arc<Side>,
}

impl Connector {
    pub fn new(side: Arc<Side>) -> Self {
        Connector { side }
    }

    /// Makes a fresh connection to where `url` says secure. For an `https` or `unixs` URL; others need none of it.
    ///
    /// # Errors
    /// The other side speaks no TLS, took too long, or has a certificate that is not good; the text names no URL.
    pub async fn secure<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        url: &Url,
        stream: S,
    ) -> io::Result<TlsStream<S>> {
        let host = url.hostname();
        let host = host.strip_suffix('.').unwrap_or(host);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| io::Error::other(format!("no certificate can be good for {host:?}")))?;
        let secure = async {
            let loaded = self.side.fresh().await;
            let connector = TlsConnector::from(loaded.client.clone());
            connector.connect(name, stream).await
        };
        match tokio::time::timeout(PATIENCE, secure).await {
            Ok(secured) => secured.map(TlsStream::from),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "net/http: TLS handshake timeout",
            )),
        }
    }
}
