//! A TLS client small enough to misuse: any version, any suite, any certificate, or a handshake that stops in the middle.

use crate::certs::{Ask, Authority, Folder, Issued};
use crate::server::{HttpReply, parse_reply};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion, crypto, version,
};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How to connect.
#[derive(Clone)]
pub struct Client {
    trusted: String,
    shown: Option<Issued>,
    versions: Vec<&'static SupportedProtocolVersion>,
    /// IANA names; all without any.
    suites: Vec<&'static str>,
    protocols: Vec<&'static str>,
}

/// What was agreed on.
#[derive(Debug, PartialEq, Eq)]
pub struct Agreed {
    pub version: String,
    pub suite: String,
    pub protocol: Option<String>,
}

impl Client {
    /// Trusts an authority and shows nothing.
    pub fn trusting(authority: &Authority) -> Client {
        Client {
            trusted: authority.pem(),
            shown: None,
            versions: vec![&version::TLS13, &version::TLS12],
            suites: Vec::new(),
            protocols: Vec::new(),
        }
    }

    /// Shows a certificate.
    pub fn showing(mut self, issued: &Issued) -> Client {
        self.shown = Some(issued.clone());
        self
    }

    /// Speaks TLS 1.2 alone.
    pub fn only_12(mut self) -> Client {
        self.versions = vec![&version::TLS12];
        self
    }

    /// Speaks TLS 1.3 alone.
    pub fn only_13(mut self) -> Client {
        self.versions = vec![&version::TLS13];
        self
    }

    /// Offers this suite of TLS 1.2 alone.
    pub fn suite(mut self, name: &'static str) -> Client {
        self.suites = vec![name];
        self
    }

    /// Offers these protocols.
    pub fn protocols(mut self, names: &[&'static str]) -> Client {
        self.protocols = names.to_vec();
        self
    }

    /// `GET path` by HTTP/1.1. With TLS 1.3 the server may refuse a certificate only now.
    pub fn get(&self, server: SocketAddr, path: &str) -> Result<HttpReply, String> {
        let mut stream = self.connect(server)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
        let text = |why: std::io::Error| why.to_string();
        stream.write_all(request.as_bytes()).map_err(text)?;
        let mut bytes = Vec::new();
        match stream.read_to_end(&mut bytes) {
            // Go does not always say goodbye.
            Err(why) if bytes.is_empty() => return Err(why.to_string()),
            _ => {}
        }
        parse_reply(&bytes)
    }

    /// Whether the server answers that it is well.
    pub fn is_in(&self, server: SocketAddr) -> Result<(), String> {
        match self.get(server, "/health") {
            Ok(reply) if reply.status == 200 => Ok(()),
            Ok(reply) => Err(format!("status {}", reply.status)),
            Err(why) => Err(why),
        }
    }

    /// Does the handshake and says what was agreed on.
    pub fn agree(&self, server: SocketAddr) -> Result<Agreed, String> {
        let stream = self.connect(server)?;
        let session = &stream.conn;
        let protocol = session.alpn_protocol();
        Ok(Agreed {
            version: format!("{:?}", session.protocol_version().expect("agreed")),
            suite: format!(
                "{:?}",
                session.negotiated_cipher_suite().expect("agreed").suite()
            ),
            protocol: protocol.map(|name| String::from_utf8_lossy(name).into_owned()),
        })
    }

    /// Does the handshake.
    pub fn connect(
        &self,
        server: SocketAddr,
    ) -> Result<rustls::StreamOwned<ClientConnection, TcpStream>, String> {
        let socket = TcpStream::connect_timeout(&server, PATIENCE).map_err(|e| e.to_string())?;
        socket
            .set_read_timeout(Some(PATIENCE))
            .map_err(|e| e.to_string())?;
        let name = ServerName::from(server.ip());
        let session =
            ClientConnection::new(Arc::new(self.config()), name).map_err(|e| e.to_string())?;
        let mut stream = rustls::StreamOwned::new(session, socket);
        while stream.conn.is_handshaking() {
            stream
                .conn
                .complete_io(&mut stream.sock)
                .map_err(|e| e.to_string())?;
        }
        Ok(stream)
    }

    fn config(&self) -> ClientConfig {
        let mut provider = crypto::aws_lc_rs::default_provider();
        if !self.suites.is_empty() {
            provider.cipher_suites.retain(|suite| {
                let name = format!("{:?}", suite.suite());
                self.suites.contains(&name.as_str())
            });
        }
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.trusted.as_bytes()) {
            roots
                .add(certificate.expect("a certificate"))
                .expect("a root");
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&self.versions)
            .expect("a version with a suite")
            .with_root_certificates(roots);
        let mut config = match &self.shown {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let chain = CertificateDer::pem_slice_iter(issued.certificate.as_bytes());
                let chain = chain.collect::<Result<_, _>>().expect("certificates");
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        config.alpn_protocols = self
            .protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        config
    }
}

/// An authority, another one, and a server's files.
pub struct World {
    pub folder: Folder,
    pub authority: Authority,
    pub stranger: Authority,
}

impl Default for World {
    fn default() -> World {
        let world = World {
            folder: Folder::default(),
            authority: Authority::new("the authority"),
            stranger: Authority::new("a stranger"),
        };
        let server = world.authority.issue(&Ask::default());
        world.folder.put_pair("server", &server);
        world.folder.put("ca.pem", world.authority.pem());
        world
    }
}

impl World {
    /// The flags of a server that asks nobody for a certificate.
    pub fn open(&self) -> Vec<String> {
        vec![
            "--cert-file".into(),
            self.folder.text("server.pem"),
            "--key-file".into(),
            self.folder.text("server-key.pem"),
        ]
    }

    /// The flags of a server that asks everybody.
    pub fn closed(&self) -> Vec<String> {
        let more = ["--client-cert-auth".into(), "--trusted-ca-file".into()];
        [self.open().as_slice(), &more, &[self.folder.text("ca.pem")]].concat()
    }

    /// Who trusts the authority and shows nothing.
    pub fn client(&self) -> Client {
        Client::trusting(&self.authority)
    }

    /// The same with a certificate.
    pub fn with(&self, issued: &Issued) -> Client {
        self.client().showing(issued)
    }

    /// etcdctl's flags, with the name of a pair in the folder.
    pub fn ctl_flags(&self, pair: Option<&str>) -> Vec<String> {
        let mut flags = vec!["--cacert".to_owned(), self.folder.text("ca.pem")];
        if let Some(name) = pair {
            flags.extend(["--cert".into(), self.folder.text(&format!("{name}.pem"))]);
            flags.extend(["--key".into(), self.folder.text(&format!("{name}-key.pem"))]);
        }
        flags
    }
}
