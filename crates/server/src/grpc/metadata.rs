//! What a call says about itself in its headers.

use std::time::Duration;

use http::HeaderMap;
use proto::error;

use super::compression::Encoding;
use super::status::Status;

/// The headers that matter.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// How long the client waits.
    pub timeout: Option<Duration>,
    /// How messages may be compressed, those of the client and ours.
    pub encoding: Encoding,
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
            Some(value) => {
                let text = String::from_utf8_lossy(value.as_bytes());
                let malformed = |why| Status::internal(format!("malformed grpc-timeout: {why}"));
                Some(timeout(&text).map_err(malformed)?)
            }
            None => None,
        };
        let encoding = match headers.get("grpc-encoding") {
            Some(value) => Encoding::of(value.as_bytes()).ok_or_else(|| {
                let name = String::from_utf8_lossy(value.as_bytes()).into_owned();
                Status::unimplemented(format!(
                    "grpc: Decompressor is not installed for grpc-encoding {name:?}"
                ))
            })?,
            None => Encoding::Identity,
        };
        let client_version = match headers.get("client-api-version") {
            None => None,
            Some(value) => match std::str::from_utf8(value.as_bytes()) {
                Ok(version) => Some(version.to_owned()),
                Err(_) => return Err(Status::from(&error::INVALID_CLIENT_API_VERSION)),
            },
        };
        Ok(Metadata {
            timeout,
            encoding,
            wants_leader: headers
                .get("hasleader")
                .is_some_and(|value| value == "true"),
            client_version,
        })
    }
}

/// Up to eight digits and a unit, or what is wrong in grpc-go's words. Source: gRPC over HTTP/2, "Timeout".
fn timeout(text: &str) -> Result<Duration, String> {
    if text.len() < 2 {
        return Err(format!("transport: timeout string is too short: {text:?}"));
    }
    if text.len() > 9 {
        return Err(format!("transport: timeout string is too long: {text:?}"));
    }
    let unit: fn(u64) -> Duration = match text.as_bytes()[text.len() - 1] {
        b'H' => |count| Duration::from_secs(count * 3600),
        b'M' => |count| Duration::from_secs(count * 60),
        b'S' => Duration::from_secs,
        b'm' => Duration::from_millis,
        b'u' => Duration::from_micros,
        b'n' => Duration::from_nanos,
        _ => {
            return Err(format!(
                "transport: timeout unit is not recognized: {text:?}"
            ));
        }
    };
    let digits = &text[..text.len() - 1];
    // Not every number that Rust reads is one to gRPC: no sign.
    match digits.parse() {
        Ok(count) if digits.bytes().all(|digit| digit.is_ascii_digit()) => Ok(unit(count)),
        _ => Err(format!(
            "strconv.ParseUint: parsing {digits:?}: invalid syntax"
        )),
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
        assert_eq!(timeout("15S"), Ok(Duration::from_secs(15)));
        assert_eq!(
            timeout("99999999H"),
            Ok(Duration::from_secs(99_999_999 * 3600))
        );
        for wrong in [
            "",
            "S",
            "1",
            "-1S",
            "+1S",
            "1s",
            "123456789n",
            "1 S",
            "1\u{fc}",
        ] {
            assert!(timeout(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_encoding_is_known_or_refused_by_its_name() {
        let refused = read("grpc-encoding", b"snappy").expect_err("no snappy here");
        assert_eq!(
            refused.message,
            "grpc: Decompressor is not installed for grpc-encoding \"snappy\""
        );
        let encoding = |name| read("grpc-encoding", name).expect("known").encoding;
        assert_eq!(encoding(b"identity"), Encoding::Identity);
        assert_eq!(encoding(b"gzip"), Encoding::Gzip);
    }

    #[test]
    fn a_client_version_must_be_utf8() {
        assert!(read("client-api-version", "3.7ü".as_bytes()).is_ok());
        let refused = read("client-api-version", b"\xff\xfe").expect_err("not UTF-8");
        assert_eq!(refused, Status::from(&error::INVALID_CLIENT_API_VERSION));
    }
}
