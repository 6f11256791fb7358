//! The way in: every TLS connection of every listener comes through [`Acceptor::handshake`].
//!
//! The order: the first byte (who speaks no TLS is sent away without an answer, as by etcd), a turn at the gate, fresh files,
//! the handshake with all checks of the certificate, and where etcd does that the address the certificate must be good for.
//! All of it within [`PATIENCE`] of the connection's beginning.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::gate::{Bounds, Gate, Knock};
use super::hosts::Names;
use super::side::Side;

/// How long a handshake may take, from the moment that the connection is accepted. Source: upstream `tlsHandshakeTimeout`.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What Go calls it.
const TIMED_OUT: &str = "i/o timeout";

/// Whether the address of who connects must be in the certificate. etcd looks at it for members and for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    Checked,
    Any,
}

/// Takes TLS connections of one listener in.
#[derive(Debug)]
pub struct Acceptor {
    side: Arc<Side>,
    gate: Arc<Gate>,
    address: Address,
}

impl Acceptor {
    /// For one listener, which may have so many connections.
    ///
    /// # Errors
    /// The side has no certificate to show.
    pub fn new(
        side: Arc<Side>,
        address: Address,
        connections_max: usize,
    ) -> Result<Arc<Self>, String> {
        if !side.has_certificate() {
            return Err("KeyFile and CertFile are not presented".to_owned());
        }
        Ok(Arc::new(Acceptor {
            address: match side.skips_addresses() {
                true => Address::Any,
                false => address,
            },
            side,
            gate: Gate::new(Bounds::of(connections_max)),
        }))
    }

    /// Waits until the listener may accept one more.
    pub async fn room(&self) {
        self.gate.room().await;
    }

    /// Counts a connection that was accepted, and is to be called at once then. `None`: it is to be closed.
    pub fn knock(&self, from: Option<IpAddr>) -> Option<Knock> {
        let knock = self.gate.knock(from);
        if knock.is_none() {
            self.side.counts.refused.inc();
        }
        knock
    }

    /// A connection has not shown what it wants until its time was up.
    pub fn was_late(&self, from: Option<SocketAddr>) {
        self.side.counts.timed_out.inc();
        self.side.tell_rejected(from, None, TIMED_OUT);
    }

    /// A connection began with something that is no TLS.
    pub fn was_plain(&self, from: Option<SocketAddr>) {
        self.side.counts.failed.inc();
        let why = "tls: first record does not look like a TLS handshake";
        self.side.tell_rejected(from, None, why);
    }

    /// Makes a connection secure that was `accepted` then; also says who the other one is, if a certificate was demanded.
    /// A failure is logged and counted here; `None` is all there is to know.
    pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: S,
        from: Option<SocketAddr>,
        knock: Knock,
        accepted: std::time::Instant,
    ) -> Option<(TlsStream<S>, Option<Names>)> {
        let deadline = Instant::from_std(accepted) + PATIENCE;
        let secured = timeout_at(deadline, self.secure(socket, from, &knock)).await;
        match secured {
            Ok(Ok(secured)) => {
                self.side.counts.succeeded.inc();
                Some(secured)
            }
            Ok(Err(Refusal { why, names })) => {
                self.side.counts.failed.inc();
                self.side.tell_rejected(from, names.as_ref(), &why);
                None
            }
            Err(_) => {
                self.was_late(from);
                None
            }
        }
    }

    async fn secure<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: S,
        from: Option<SocketAddr>,
        knock: &Knock,
    ) -> Result<(TlsStream<S>, Option<Names>), Refusal> {
        let pass = knock.enter().await;
        let loaded = self.side.fresh().await;
        let config = loaded.server.clone();
        let config = config.expect("an acceptor is made for a side with a certificate");
        let stream = TlsAcceptor::from(config)
            .accept(socket)
            .await
            .map_err(|why| Refusal::from(why.to_string()))?;
        let certificates = stream.get_ref().1.peer_certificates();
        let certificate = certificates.and_then(|certificates| certificates.first());
        let names = match certificate.map(|certificate| Names::of(certificate)) {
            None => None,
            Some(Some(names)) => Some(names),
            Some(None) => return Err(Refusal::from("the certificate cannot be read".to_owned())),
        };
        if let (Address::Checked, Some(names), Some(from)) = (self.address, &names, from)
            && let Err(why) = names.check_address(from.ip()).await
        {
            let names = Some(names.clone());
            return Err(Refusal { why, names });
        }
        drop(pass);
        Ok((stream.into(), names))
    }
}

struct Refusal {
    why: String,
    names: Option<Names>,
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Refusal { why, names: None }
    }
}
