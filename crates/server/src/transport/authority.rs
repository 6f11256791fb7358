//! Names of servers that are no names: etcd's Go clients call a server at `unix:///run/etcd.sock` by the path of its file.
//!
//! A slash can't be part of `:authority`, so the HTTP library resets such a call before anybody here sees it. Go's library
//! takes it, and nobody looks at the name. So on Unix sockets the slashes are replaced on their way in, in the compressed
//! headers: `-` has as many bits as `/` and `%` in HPACK's code, so nothing moves and no table gets out of step.
//!
//! Source: RFC 7541, sections 5 and 6 and appendix B; RFC 9113, section 6.2.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pings::{HEADER_BYTES, KIND_HEADERS, PREFACE};

const FLAG_PADDED: u8 = 8;
const FLAG_PRIORITY: u8 = 0x20;
/// Frames above this are an error to the library, which need not wait for their end to say so.
const FRAME_BYTES_MAX: usize = 16 << 10;
/// `:authority` in the static table.
const AUTHORITY: usize = 1;
/// Read at once.
const READ_BYTES: usize = 8 << 10;

/// A stream whose incoming calls have names without slashes.
#[derive(Debug)]
pub struct Renaming<S> {
    stream: S,
    names: Names,
}

impl<S> Renaming<S> {
    pub fn new(stream: S) -> Self {
        Renaming {
            stream,
            names: Names::default(),
        }
    }
}

/// What has come in.
#[derive(Debug, Default)]
struct Names {
    /// What has come and was not handed on.
    bytes: Vec<u8>,
    /// As much of it may be.
    passed: usize,
    /// Bytes of the frame at the front that have not come yet and may pass.
    content_left: usize,
    state: State,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Preface,
    Frames,
    /// No HTTP/2: everything passes.
    Other,
}

impl Names {
    fn add(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
        loop {
            let rest = &mut self.bytes[self.passed..];
            if rest.is_empty() {
                return;
            }
            if self.state == State::Preface {
                if rest.len() < PREFACE.len() && PREFACE.starts_with(rest) {
                    return;
                }
                self.state = match rest.starts_with(PREFACE) {
                    true => State::Frames,
                    false => State::Other,
                };
                self.content_left = PREFACE.len();
                continue;
            }
            if self.state == State::Other {
                self.passed = self.bytes.len();
                return;
            }
            if self.content_left > 0 {
                let count = self.content_left.min(rest.len());
                self.content_left -= count;
                self.passed += count;
                continue;
            }
            let Some([l0, l1, l2, kind, flags, ..]) = rest.first_chunk::<HEADER_BYTES>() else {
                return;
            };
            let length = u32::from_be_bytes([0, *l0, *l1, *l2]) as usize;
            let end = HEADER_BYTES + length;
            if *kind == KIND_HEADERS && length <= FRAME_BYTES_MAX {
                if rest.len() < end {
                    return;
                }
                let flags = *flags;
                rename(flags, &mut rest[HEADER_BYTES..end]);
            }
            self.content_left = end;
        }
    }

    /// Hands out what may pass.
    fn take(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.passed.min(buf.remaining());
        buf.put_slice(&self.bytes[..count]);
        self.bytes.drain(..count);
        self.passed -= count;
    }
}

/// Replaces what can't be part of a name in the content of a frame of headers. Whatever is wrong with it is left to the
/// library to tell.
fn rename(flags: u8, content: &mut [u8]) {
    let mut at = 0;
    if flags & FLAG_PADDED != 0 {
        at += 1;
    }
    if flags & FLAG_PRIORITY != 0 {
        at += 5;
    }
    while let Some(&first) = content.get(at) {
        let prefix_bits = match first {
            0x80.. => 7,
            0x40..0x80 => 6,
            0x20..0x40 => 5,
            _ => 4,
        };
        let Some(index) = integer(content, &mut at, prefix_bits) else {
            return;
        };
        if matches!(first, 0x80.. | 0x20..0x40) {
            continue;
        }
        if index == 0 && string(content, &mut at).is_none() {
            return;
        }
        let Some((value, is_huffman)) = string(content, &mut at) else {
            return;
        };
        if index == AUTHORITY {
            let value = &mut content[value];
            match is_huffman {
                true => rename_huffman(value),
                false => value
                    .iter_mut()
                    .filter(|byte| matches!(byte, b'/' | b'%'))
                    .for_each(|byte| *byte = b'-'),
            }
        }
    }
}

/// A number whose first bits share a byte with something else.
fn integer(content: &[u8], at: &mut usize, prefix_bits: u32) -> Option<usize> {
    let mask = (1 << prefix_bits) - 1;
    let mut number = usize::from(*content.get(*at)?) & mask;
    *at += 1;
    if number < mask {
        return Some(number);
    }
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(*content.get(*at)?);
        *at += 1;
        number += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Where the bytes of a text are, and whether they are coded.
fn string(content: &[u8], at: &mut usize) -> Option<(std::ops::Range<usize>, bool)> {
    let is_huffman = content.get(*at)? & 0x80 != 0;
    let length = integer(content, at, 7)?;
    let end = at.checked_add(length).filter(|end| *end <= content.len())?;
    let place = *at..end;
    *at = end;
    Some((place, is_huffman))
}

/// How many codes of HPACK have one bit, two bits, and so on up to thirty. The codes of a length follow each other, and
/// those of the next length follow them.
const CODES: [u32; 30] = [
    0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29,
    0, 4,
];
const CODE_BITS: usize = 6;
const CODE_PERCENT: u32 = 0x15;
const CODE_DASH: u32 = 0x16;
const CODE_SLASH: u32 = 0x18;

fn rename_huffman(text: &mut [u8]) {
    let bits = text.len() * 8;
    let bit = |text: &[u8], at: usize| u32::from(text[at / 8] >> (7 - at % 8) & 1);
    let mut begin = 0;
    while begin < bits {
        let (mut code, mut first) = (0, 0);
        let mut length = 0;
        for count in CODES {
            if begin + length == bits {
                // What is left is padding.
                return;
            }
            code = code << 1 | bit(text, begin + length);
            length += 1;
            if code - first < count {
                break;
            }
            first = (first + count) << 1;
        }
        if length == CODE_BITS && matches!(code, CODE_PERCENT | CODE_SLASH) {
            for n in 0..CODE_BITS {
                let (at, shift) = ((begin + n) / 8, 7 - (begin + n) % 8);
                let new = (CODE_DASH >> (CODE_BITS - 1 - n) & 1) as u8;
                text[at] = text[at] & !(1 << shift) | new << shift;
            }
        }
        begin += length;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Renaming<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Renaming { stream, names } = self.get_mut();
        while names.passed == 0 {
            let mut data = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut data);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                // The end. The beginning of a frame is of no use to anybody, but it did come.
                names.passed = names.bytes.len();
                break;
            }
            names.add(read.filled());
        }
        names.take(buf);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Renaming<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a Go client sends for `:authority` `/tmp/surf_cap/long/path/c.sock`, coded, and for a plain `/a%2Fb`.
    fn headers(value: &[u8], is_huffman: bool) -> Vec<u8> {
        let mut content = vec![0x83, 0x86, 0x45, 1, b'/', 0x41];
        content.push(value.len() as u8 | u8::from(is_huffman) << 7);
        content.extend_from_slice(value);
        // A header with a name of its own, whose value keeps its slashes.
        content.extend_from_slice(b"\x40\x01x\x03a/b");
        let mut frame = vec![0, 0, content.len() as u8, KIND_HEADERS, 4, 0, 0, 0, 1];
        frame.extend_from_slice(&content);
        frame
    }

    /// What comes out when `data` comes in pieces of so many bytes.
    fn through(data: &[u8], piece: usize) -> Vec<u8> {
        let mut names = Names::default();
        let mut out = Vec::new();
        for data in data.chunks(piece) {
            names.add(data);
            out.extend(names.bytes.drain(..names.passed));
            names.passed = 0;
        }
        out
    }

    #[test]
    fn slashes_and_percent_signs_of_a_name_become_dashes_and_nothing_else_changes() {
        let other = [0, 0, 3, 0, 0, 0, 0, 0, 1, b'/', b'/', 0x41];
        let plain = [PREFACE, &headers(b"/a%2Fb", false), &other].concat();
        let expected = [PREFACE, &headers(b"-a-2Fb", false), &other].concat();
        // "/a/b" and "-a-b" in HPACK's code: 011000 00011 011000 100011, and dashes 010110.
        let coded = [0b0110_0000, 0b0110_1100, 0b0100_0111];
        let renamed = [0b0101_1000, 0b0110_1011, 0b0100_0111];
        let coded = [PREFACE, &headers(&coded, true), &other].concat();
        let coded_expected = [PREFACE, &headers(&renamed, true), &other].concat();
        for piece in 1..plain.len() {
            assert_eq!(through(&plain, piece), expected, "pieces of {piece}");
            assert_eq!(through(&coded, piece), coded_expected, "pieces of {piece}");
        }
    }

    #[test]
    fn http1_passes_as_it_is() {
        let request = b"GET /v2/keys HTTP/1.1\r\nHost: a/b\r\n\r\n";
        for piece in 1..request.len() {
            assert_eq!(through(request, piece), request);
        }
    }

    #[test]
    fn headers_that_make_no_sense_are_left_to_the_library() {
        for content in [
            &b"\x41"[..],
            b"\x41\xff\xff\xff\xff\xff\xff",
            b"\x41\x20ab",
            b"\x40\x05a",
            b"\xff\xff\xff\xff\xff\xff\x01",
            b"",
        ] {
            let mut changed = content.to_vec();
            rename(0, &mut changed);
            assert_eq!(changed, content);
            rename(FLAG_PADDED | FLAG_PRIORITY, &mut changed);
            assert_eq!(changed, content);
        }
        // All ones: the longest codes, and padding that is none.
        let mut text = [0xff; 9];
        rename_huffman(&mut text);
        assert_eq!(text, [0xff; 9]);
    }
}
