//! gzip on single messages, for clients that ask for it.
//!
//! As grpc-go under etcd: a call names the encoding of its messages, each message says whether it uses it, and responses
//! use the encoding of the request. What a client sends is decompressed only up to the limit of a message. Texts of
//! failures: grpc-go `rpc_util.go`, Go `compress/gzip`.

use std::io::{self, Read, Write};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use proto::error::Code;

use super::frame::PREFIX_BYTES;
use super::status::Status;

/// Larger messages are sent as they are: compressing them would hold up the other connections of the thread.
const COMPRESSED_MAX: usize = 1 << 20;

/// How the messages of a call may be encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Identity,
    Gzip,
}

impl Encoding {
    /// What `grpc-encoding` says; `None` is an encoding that is not known here.
    pub fn of(name: &[u8]) -> Option<Self> {
        match name {
            b"" | b"identity" => Some(Encoding::Identity),
            b"gzip" => Some(Encoding::Gzip),
            _ => None,
        }
    }
}

/// A message as it was before its client compressed it.
///
/// # Errors
/// It is no gzip data, or becomes larger than `bytes_max`.
pub fn decompress(data: &[u8], bytes_max: usize) -> Result<Bytes, Status> {
    let failed = |why: String| Status::internal(format!("grpc: failed to {why}"));
    match data {
        [] => return Err(failed("decompress the message: EOF".into())),
        // Go reads the ten bytes of the header first.
        [0x1f, 0x8b, 8, ..] if data.len() >= 10 => {}
        [0x1f, 0x8b, ..] if data.len() < 10 => {
            return Err(failed("decompress the message: unexpected EOF".into()));
        }
        _ => {
            return Err(failed(
                "decompress the message: gzip: invalid header".into(),
            ));
        }
    }
    // Grows with what comes out, so that a claim of the client reserves nothing.
    let mut message = Vec::new();
    MultiGzDecoder::new(data)
        .take(bytes_max as u64 + 1)
        .read_to_end(&mut message)
        .map_err(|why| failed(format!("read decompressed data: {}", in_gos_words(&why))))?;
    if message.len() > bytes_max {
        let why = format!("grpc: received message after decompression larger than max {bytes_max}");
        return Err(Status::new(Code::ResourceExhausted, why));
    }
    Ok(message.into())
}

fn in_gos_words(why: &io::Error) -> String {
    match why.kind() {
        io::ErrorKind::UnexpectedEof => "unexpected EOF".to_owned(),
        _ => format!("gzip: {why}"),
    }
}

/// Framed messages, each compressed. `data` may end in the middle of a message, whose rest comes with the next call.
#[derive(Default)]
pub struct Compressor {
    begun: BytesMut,
}

impl Compressor {
    /// What can be sent after this.
    pub fn add(&mut self, data: &Bytes) -> Bytes {
        self.begun.extend_from_slice(data);
        let mut framed = BytesMut::new();
        while let Some(prefix) = self.begun.first_chunk::<PREFIX_BYTES>() {
            let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
            let end = PREFIX_BYTES + length as usize;
            if self.begun.len() < end {
                break;
            }
            append(&mut framed, &self.begun[..end]);
            self.begun.advance(end);
        }
        framed.freeze()
    }
}

/// Adds one framed message, compressed if it is worth it. An empty one stays as it is, as in grpc-go.
fn append(framed: &mut BytesMut, message: &[u8]) {
    let payload = &message[PREFIX_BYTES..];
    if payload.is_empty() || payload.len() > COMPRESSED_MAX {
        framed.extend_from_slice(message);
        return;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let written = encoder.write_all(payload).and_then(|()| encoder.finish());
    let compressed = written.expect("memory takes what is written to it");
    framed.put_u8(1);
    framed.put_u32(u32::try_from(compressed.len()).expect("about as long as the payload"));
    framed.extend_from_slice(&compressed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::frame::put_prefix;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).expect("memory");
        encoder.finish().expect("memory")
    }

    fn text(data: &[u8]) -> String {
        decompress(data, 1000)
            .expect_err("refused")
            .message
            .into_owned()
    }

    #[test]
    fn a_message_comes_out_as_it_went_in_up_to_the_limit() {
        let message = vec![b'a'; 1000];
        assert_eq!(decompress(&gzip(&message), 1000).expect("fits"), message);
        let refused = decompress(&gzip(&[b'a'; 1001]), 1000).expect_err("too large");
        assert_eq!(refused.code, Code::ResourceExhausted);
        assert_eq!(
            refused.message,
            "grpc: received message after decompression larger than max 1000"
        );
    }

    #[test]
    fn a_gigabyte_in_a_megabyte_is_not_unpacked() {
        let begun = std::time::Instant::now();
        let bomb = gzip(&vec![0; 64 << 20]);
        let made = begun.elapsed();
        let begun = std::time::Instant::now();
        assert!(decompress(&bomb, 2 << 20).is_err());
        // A thirty-second part of the work of making it; the claim is that it stops, with room for a busy machine.
        assert!(begun.elapsed() < made, "{:?} of {made:?}", begun.elapsed());
    }

    #[test]
    fn bad_data_is_refused_in_grpc_gos_words() {
        assert_eq!(text(b""), "grpc: failed to decompress the message: EOF");
        assert_eq!(
            text(b"no gzip at all"),
            "grpc: failed to decompress the message: gzip: invalid header"
        );
        let whole = gzip(b"some text");
        assert_eq!(
            text(&whole[..whole.len() - 9]),
            "grpc: failed to read decompressed data: unexpected EOF"
        );
        let mut damaged = whole.clone();
        let at = damaged.len() - 8;
        damaged[at] ^= 1;
        assert!(text(&damaged).starts_with("grpc: failed to read decompressed data: "));
    }

    #[test]
    fn responses_are_compressed_one_by_one_wherever_the_pieces_are_cut() {
        let messages: [&[u8]; 3] = [b"first first first", b"", &[7; COMPRESSED_MAX + 1]];
        let mut framed = BytesMut::new();
        for message in messages {
            put_prefix(&mut framed, message.len());
            framed.extend_from_slice(message);
        }
        let framed = framed.freeze();
        for cut in [1, 5, 21, 22, 26, 27, framed.len()] {
            let mut compressor = Compressor::default();
            let mut out = BytesMut::new();
            out.extend_from_slice(&compressor.add(&framed.slice(..cut)));
            out.extend_from_slice(&compressor.add(&framed.slice(cut..)));
            for (message, flag) in messages.into_iter().zip([1, 0, 0]) {
                assert_eq!(out.get_u8(), flag);
                let length = out.get_u32() as usize;
                let data = out.split_to(length);
                match flag {
                    1 => assert_eq!(decompress(&data, 100).expect("ours"), message),
                    _ => assert_eq!(data, message),
                }
            }
            assert!(out.is_empty());
        }
    }
}
