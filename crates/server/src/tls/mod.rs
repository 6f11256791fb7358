//! TLS towards clients and between members: certificates from files that may change, etcd's checks, handshakes in bounded number.
//!
//! A [`Side`] is what one kind of connection needs: a certificate to serve with, one to connect with, whom to trust, and what
//! else a certificate must satisfy. It notices when its files change; connections that are open go on with what they began
//! with. Listeners take connections in through an [`Acceptor`], members are dialed through a [`Connector`]: nothing else makes
//! a TLS connection, so that no check can be forgotten at one of them (GHSA-3wh4-j44w-pg92 is what happens otherwise).
//!
//! Start with [`Sides::load`]. Source of the rules: upstream `client/pkg/transport/listener.go`, `listener_tls.go`,
//! `server/embed/etcd.go`; Go `crypto/tls`, `crypto/x509`.

mod accept;
mod connect;
mod files;
mod gate;
mod hosts;
mod loaded;
mod self_signed;
mod side;
mod suites;
#[cfg(test)]
mod tests;
mod verify;

use std::sync::Arc;

use crate::config::Config;
use crate::logging::Note;

pub use accept::{Acceptor, Address, PATIENCE};
pub use connect::Connector;
pub use gate::Knock;
pub use hosts::Names;
pub use side::{Counts, Side};
pub use suites::not_offered;

/// Whom a [`Side`] talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Clients: the client port, and metrics.
    Clients,
    /// Other members.
    Members,
}

impl Role {
    /// As metrics and the log call it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Clients => "client",
            Role::Members => "peer",
        }
    }

    /// What may be spoken over TLS. Members speak HTTP/1.1 alone; whoever offers HTTP/2 as well must not get it.
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Role::Clients => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Role::Members => vec![b"http/1.1".to_vec()],
        }
    }
}

/// TLS of a member.
#[derive(Debug)]
pub struct Sides {
    pub clients: Arc<Side>,
    pub members: Arc<Side>,
}

impl Sides {
    /// Reads all files, and makes certificates where that is asked for and there are none. Also returns what to log.
    ///
    /// # Errors
    /// A file that cannot be read or does not hold what it should, with its name; in Go's words where etcd has some.
    pub fn load(config: &Config) -> Result<(Arc<Self>, Vec<Note>), String> {
        let mut notes = Vec::new();
        let clients = Side::load(Role::Clients, config, &mut notes)?;
        let members = Side::load(Role::Members, config, &mut notes)?;
        Ok((Arc::new(Sides { clients, members }), notes))
    }

    /// Looks after the files of both sides, for ever: what has changed without a handshake to notice it, and what will expire.
    pub async fn watch(&self) {
        tokio::join!(self.clients.watch(), self.members.watch());
    }

    /// Both, for the metrics.
    pub fn each(&self) -> [&Side; 2] {
        [&self.clients, &self.members]
    }
}
