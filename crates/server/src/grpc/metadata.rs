//! What a call says about itself in its headers.

use std::time::Duration;

use http::HeaderMap;
use proto::error;

use super::status::Status;

/// The headers that matter.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// How long the client waits.
    pub timeout: Option<Duration>,
    /// The client wants no answer from a member without a leader.
    pub wants_leader: bool,
    /// The version of the client's library, when it tells.
    pub client_version: Option<String>,
}

impl Metadata {
    /// Reads and checks the headers of a call.
    ///
    /// # Errors
    /// What grpc-go and etcd answer to a timeout that is none, to an encoding this server has not, and to a version that
    /// is not UTF-8.
    pub fn read(headers: &HeaderMap) -> Result<Self, Status> {
        let timeout = match headers.get("grpc-timeout") {
            Some(value) => Some(timeout(value.as_bytes()).ok_or_else(|| {
                let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
                Status::internal(format!("malformed grpc-timeout: {text:?}"))
            })?),
            None => None,
        };
        if let Some(encoding) = headers.get("grpc-encoding")
            && encoding != "identity"
            && !encoding.is_empty()
        {
            let encoding = String::from_utf8_lossy(encoding.as_bytes()).into_owned();
            let why = format!("grpc: Decompressor is not installed for grpc-encoding {encoding:?}");
            return Err(Status::unimplemented(why));
        }
        let client_version = match headers.get("client-api-version") {
            None => None,
            Some(value) => match std::str::from_utf8(value.as_bytes()) {
                Ok(version) => Some(version.to_owned()),
                Err(_) => return Err(Status::from(&error::INVALID_CLIENT_API_VERSION)),
            },
        };
        Ok(Metadata {
            timeout,
            wants_leader: headers
                .get("hasleader")
                .is_some_and(|value| value == "true"),
            client_version,
        })
    }
}

/// Up to eight digits and a unit. Source: gRPC over HTTP/2, "Timeout".
fn timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    let plain = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    if !plain {
        return None;
    }
    let count = digits
        .iter()
        .fold(0, |count, digit| count * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(count * 3600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn read(name: &'static str, value: &[u8]) -> Result<Metadata, Status> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_bytes(value).expect("a value"));
        Metadata::read(&headers)
    }

    #[test]
    fn timeouts_are_digits_and_a_unit_and_nothing_else() {
        assert_eq!(timeout(b"15S"), Some(Duration::from_secs(15)));
        assert_eq!(
            timeout(b"99999999H"),
            Some(Duration::from_secs(99_999_999 * 3600))
        );
        for wrong in ["", "S", "1", "-1S", "1s", "123456789n", "1 S"] {
            assert_eq!(timeout(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn a_compressed_call_is_refused_with_the_name_of_the_encoding() {
        let refused = read("grpc-encoding", b"gzip").expect_err("no gzip here");
        assert_eq!(
            refused.message,
            "grpc: Decompressor is not installed for grpc-encoding \"gzip\""
        );
        assert!(read("grpc-encoding", b"identity").is_ok());
    }

    #[test]
    fn a_client_version_must_be_utf8() {
        assert!(read("client-api-version", "3.7ü".as_bytes()).is_ok());
        let refused = read("client-api-version", b"\xff\xfe").expect_err("not UTF-8");
        assert_eq!(refused, Status::from(&error::INVALID_CLIENT_API_VERSION));
    }
}
