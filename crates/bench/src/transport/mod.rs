//! A thin gRPC client over plain-text HTTP/2: bytes in, bytes out.
//!
//! A generator that shares its cores with the server must cost little per request, or it measures itself. General clients spend 10-20 us per call;
//! this one about one. It speaks what a gRPC client needs (RFC 9113 framing, both directions of flow control, full HPACK decoding, PING and SETTINGS
//! acknowledgements) and no more: no TLS, no server push, no priorities.
//!
//! [`http2::Conn`] is the protocol without a socket; [`hpack`] its header compression; [`pb`] the message encoding.

pub mod hpack;
pub mod http2;
pub mod pb;
