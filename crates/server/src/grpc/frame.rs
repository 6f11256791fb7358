//! Messages on an HTTP/2 stream: a flag byte, four bytes of length, the message.
//!
//! Reading never allocates more than what has arrived, never accepts more than the limit, and hands out slices of what
//! the connection received, without copying, when a message arrived in one piece.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::Body as _;
use hyper::body::Incoming;
use prost::Message;
use proto::error::Code;

use super::compression::{self, Encoding};
use super::status::Status;

pub const PREFIX_BYTES: usize = 5;

/// The messages that a client sends in one call.
pub struct Messages {
    body: Incoming,
    buffer: BytesMut,
    /// The last chunk, while nothing had to be pieced together.
    chunk: Bytes,
    bytes_max: usize,
    encoding: Encoding,
    is_over: bool,
}

impl Messages {
    /// `bytes_max` limits one message, compressed or not. etcd: `max-request-bytes` and 512 KiB.
    pub fn new(body: Incoming, bytes_max: usize, encoding: Encoding) -> Self {
        Messages {
            body,
            buffer: BytesMut::new(),
            chunk: Bytes::new(),
            bytes_max,
            encoding,
            is_over: false,
        }
    }

    /// The next message; `Ok(None)` when the client has said all it will.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The one message of a unary call. grpc-go answers a second or a missing one the same way.
    pub async fn only(&mut self) -> Result<Bytes, Status> {
        match self.next().await? {
            Some(message) => Ok(message),
            None => Err(Status::internal(
                "cardinality violation: received no request message from non-client-streaming RPC",
            )),
        }
    }

    /// As [`Messages::next`], for callers that are polled themselves.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            if let Some(message) = self.take_message()? {
                return Poll::Ready(Ok(Some(message)));
            }
            if self.is_over {
                return Poll::Ready(self.end());
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => self.is_over = true,
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.add(data);
                    }
                }
                Some(Err(why)) => return Poll::Ready(Err(aborted(&why))),
            }
        }
    }

    /// The body, when the caller wants no more messages. `None` when the client has said all it will.
    pub fn into_rest(self) -> Option<Incoming> {
        (!self.body.is_end_stream()).then_some(self.body)
    }

    fn add(&mut self, data: Bytes) {
        if self.buffer.is_empty() && self.chunk.is_empty() {
            self.chunk = data;
            return;
        }
        if !self.chunk.is_empty() {
            self.buffer
                .extend_from_slice(&std::mem::take(&mut self.chunk));
        }
        self.buffer.extend_from_slice(&data);
    }

    fn take_message(&mut self) -> Result<Option<Bytes>, Status> {
        let available: &[u8] = if self.chunk.is_empty() {
            &self.buffer
        } else {
            &self.chunk
        };
        let Some((is_compressed, length)) = prefix(available, self.bytes_max, self.encoding)?
        else {
            return Ok(None);
        };
        if available.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        let message = if self.chunk.is_empty() {
            self.buffer.advance(PREFIX_BYTES);
            self.buffer.split_to(length).freeze()
        } else {
            self.chunk.advance(PREFIX_BYTES);
            self.chunk.split_to(length)
        };
        if is_compressed {
            return compression::decompress(&message, self.bytes_max).map(Some);
        }
        Ok(Some(message))
    }

    fn end(&self) -> Result<Option<Bytes>, Status> {
        if self.buffer.is_empty() && self.chunk.is_empty() {
            Ok(None)
        } else {
            Err(Status::internal("unexpected EOF"))
        }
    }
}

/// Whether the message at the start of `data` is compressed, and its length, when its prefix is complete.
fn prefix(
    data: &[u8],
    bytes_max: usize,
    encoding: Encoding,
) -> Result<Option<(bool, usize)>, Status> {
    let Some(prefix) = data.first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    match (prefix[0], encoding) {
        (0, _) | (1, Encoding::Gzip) => {}
        (1, Encoding::Identity) => {
            let why = "grpc: compressed flag set with identity or empty encoding";
            return Err(Status::internal(why));
        }
        (flag, _) => {
            return Err(Status::internal(format!(
                "grpc: received unexpected payload format {flag}"
            )));
        }
    }
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if length > bytes_max {
        let why = format!("grpc: received message larger than max ({length} vs. {bytes_max})");
        return Err(Status::new(Code::ResourceExhausted, why));
    }
    Ok(Some((prefix[0] == 1, length)))
}

fn aborted(why: &hyper::Error) -> Status {
    Status::new(
        Code::Canceled,
        format!("the client's stream ended early: {why}"),
    )
}

/// Decodes a request as grpc-go would, down to the wording of a failure.
pub fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message)
        .map_err(|why| Status::internal(format!("grpc: error unmarshalling request: {why}")))
}

/// A message with its prefix, in one piece.
pub fn encode<M: Message>(message: &M) -> Bytes {
    let mut framed = BytesMut::new();
    append(&mut framed, message);
    framed.freeze()
}

/// Adds a message with its prefix to others.
pub fn append<M: Message>(framed: &mut BytesMut, message: &M) {
    let length = message.encoded_len();
    framed.reserve(PREFIX_BYTES + length);
    put_prefix(framed, length);
    message.encode(framed).expect("the buffer grows as needed");
}

/// Starts a frame for a message of `length` bytes that the caller appends.
pub fn put_prefix(framed: &mut BytesMut, length: usize) {
    let length = u32::try_from(length).expect("responses are bounded far below 4 GiB");
    framed.put_u8(0);
    framed.put_u32(length);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_read() {
        for flag in [0, 1] {
            let refused = prefix(&[flag, 0xff, 0xff, 0xff, 0xff], 100, Encoding::Gzip)
                .expect_err("too large");
            assert_eq!(refused.code, Code::ResourceExhausted);
            assert_eq!(
                refused.message,
                "grpc: received message larger than max (4294967295 vs. 100)"
            );
        }
    }

    #[test]
    fn a_compressed_message_of_a_call_that_named_no_encoding_is_refused_and_so_is_an_unknown_flag()
    {
        let read = |flag, encoding| prefix(&[flag, 0, 0, 0, 7], 100, encoding);
        assert!(read(1, Encoding::Identity).is_err());
        assert_eq!(read(1, Encoding::Gzip), Ok(Some((true, 7))));
        assert_eq!(read(0, Encoding::Gzip), Ok(Some((false, 7))));
        assert!(read(9, Encoding::Gzip).is_err());
    }

    #[test]
    fn an_incomplete_prefix_waits_for_more() {
        let read = |data| prefix(data, 100, Encoding::Identity);
        assert_eq!(read(&[0, 0, 0]), Ok(None));
        assert_eq!(read(&[0, 0, 0, 0, 7]), Ok(Some((false, 7))));
    }
}
