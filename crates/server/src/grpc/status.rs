//! The outcome of a call as gRPC tells it: a code and a message in the trailers.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};
use proto::error::{Code, RpcError};

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    pub message: Cow<'static, str>,
}

pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

impl Status {
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Status {
            code,
            message: message.into(),
        }
    }

    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Status::new(Code::Internal, message)
    }

    pub fn unimplemented(message: impl Into<Cow<'static, str>>) -> Self {
        Status::new(Code::Unimplemented, message)
    }

    /// Trailers with this outcome.
    pub fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(2);
        self.write_to(&mut trailers);
        trailers
    }

    /// The trailers (or, for a call that failed before its first message, the headers) that carry this outcome.
    pub fn write_to(&self, headers: &mut HeaderMap) {
        headers.insert(
            GRPC_STATUS,
            HeaderValue::from(u16::from(self.code.number())),
        );
        if !self.message.is_empty() {
            let encoded = percent_encode(&self.message);
            let value =
                HeaderValue::from_str(&encoded).expect("percent-encoded text is visible ASCII");
            headers.insert(GRPC_MESSAGE, value);
        }
    }
}

impl From<&'static RpcError> for Status {
    fn from(error: &'static RpcError) -> Self {
        Status::new(error.code, error.text)
    }
}

/// Trailers of a call that succeeded.
pub fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    trailers
}

/// gRPC's encoding of messages: everything outside printable ASCII, and the percent sign, as `%XX`.
fn percent_encode(text: &str) -> Cow<'_, str> {
    let is_plain = |b: u8| (b' '..=b'~').contains(&b) && b != b'%';
    if text.bytes().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if is_plain(byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    Cow::Owned(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_outside_ascii_are_percent_encoded() {
        let mut headers = HeaderMap::new();
        Status::new(Code::Unknown, "50% für\n").write_to(&mut headers);
        assert_eq!(headers[GRPC_MESSAGE], "50%25 f%C3%BCr%0A");
        assert_eq!(headers[GRPC_STATUS], "2");
    }

    #[test]
    fn a_catalogue_error_keeps_its_code_and_text() {
        let status = Status::from(&proto::error::COMPACTED);
        assert_eq!(status.code, Code::OutOfRange);
        assert_eq!(
            status.message,
            "etcdserver: mvcc: required revision has been compacted"
        );
    }
}
