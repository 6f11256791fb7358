//! HPACK (RFC 7541): header blocks of requests out, of responses in.
//!
//! The encoder knows only the few headers a gRPC request has and indexes each once, so that a repeated request costs about seven bytes. The decoder is
//! complete (dynamic table, table size updates, Huffman), because servers use all of it; it hands every header to a closure and keeps none.
//! It never allocates for an indexed header and refuses what does not parse: after an error the connection's state is lost.
//!
//! Start with [`Encoder::request`] and [`Decoder::decode`].

use std::collections::VecDeque;

/// A header block that does not follow RFC 7541; the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Size of the dynamic table both sides start with (RFC 7541 appendix C, RFC 9113 6.5.2).
const TABLE_BYTES_DEFAULT: usize = 4096;
/// What RFC 7541 4.1 adds to name and value for each entry.
const ENTRY_OVERHEAD: usize = 32;

/// Encodes request headers, using the peer's dynamic table while the peer allows the default size.
pub struct Encoder {
    authority: String,
    token: Option<String>,
    /// Position of each header in the order of insertion; `None` before its first use.
    inserted: Vec<Option<usize>>,
    count: usize,
    indexing: bool,
    /// The peer shrank its table: the next block must begin by saying that we use none of it (RFC 7541 4.2).
    announce_empty: bool,
}

impl Encoder {
    /// `token` is sent as the `token` header of etcd's authentication when present.
    pub fn new(authority: &str, token: Option<&str>) -> Encoder {
        Encoder {
            authority: authority.to_owned(),
            token: token.map(str::to_owned),
            inserted: Vec::new(),
            count: 0,
            indexing: true,
            announce_empty: false,
        }
    }

    /// Takes the peer's SETTINGS_HEADER_TABLE_SIZE. A smaller table than the default ends indexing for this connection: our few entries then go as literals.
    pub fn peer_table_size(&mut self, size: usize) {
        if size < TABLE_BYTES_DEFAULT && self.indexing {
            self.indexing = false;
            self.announce_empty = true;
        }
    }

    /// Appends the header block of a request for `path`. `slot` is a small number that identifies `path`, so that it need not be compared.
    pub fn request(&mut self, slot: usize, path: &str, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.announce_empty) {
            out.push(0x20);
        }
        out.extend_from_slice(&[0x83, 0x86]); // :method POST, :scheme http
        let authority = std::mem::take(&mut self.authority);
        let token = self.token.take();
        self.header(slot + 5, Name::Index(4), path.as_bytes(), out);
        self.header(0, Name::Index(1), authority.as_bytes(), out);
        self.header(1, Name::Index(31), b"application/grpc", out);
        self.header(2, Name::Literal(b"te"), b"trailers", out);
        self.header(3, Name::Index(58), b"quorate-bench", out);
        if let Some(token) = &token {
            self.header(4, Name::Literal(b"token"), token.as_bytes(), out);
        }
        self.authority = authority;
        self.token = token;
    }

    fn header(&mut self, slot: usize, name: Name<'_>, value: &[u8], out: &mut Vec<u8>) {
        if self.inserted.len() <= slot {
            self.inserted.resize(slot + 1, None);
        }
        if let (true, Some(at)) = (self.indexing, self.inserted[slot]) {
            integer(out, 0x80, 7, 62 + (self.count - 1 - at));
            return;
        }
        let (flag, bits) = if self.indexing { (0x40, 6) } else { (0x00, 4) };
        match name {
            Name::Index(index) => integer(out, flag, bits, index),
            Name::Literal(text) => {
                out.push(flag);
                string(out, text);
            }
        }
        string(out, value);
        if self.indexing {
            self.inserted[slot] = Some(self.count);
            self.count += 1;
        }
    }
}

enum Name<'a> {
    Index(usize),
    Literal(&'a [u8]),
}

/// RFC 7541 5.1: an integer whose first byte shares `flag` and holds `bits` bits of it.
fn integer(out: &mut Vec<u8>, flag: u8, bits: u32, value: usize) {
    let limit = (1usize << bits) - 1;
    if value < limit {
        out.push(flag | value as u8);
        return;
    }
    out.push(flag | limit as u8);
    let mut rest = value - limit;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// RFC 7541 5.2, always without Huffman: our headers are sent once each.
fn string(out: &mut Vec<u8>, text: &[u8]) {
    integer(out, 0x00, 7, text.len());
    out.extend_from_slice(text);
}

/// Decodes the header blocks of one connection, in their order.
pub struct Decoder {
    /// Newest first, as RFC 7541 numbers them.
    table: VecDeque<Entry>,
    size: usize,
    size_max: usize,
}

struct Entry {
    name: Box<[u8]>,
    value: Box<[u8]>,
}

impl Entry {
    fn size(&self) -> usize {
        self.name.len() + self.value.len() + ENTRY_OVERHEAD
    }
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder {
            table: VecDeque::new(),
            size: 0,
            size_max: TABLE_BYTES_DEFAULT,
        }
    }
}

impl Decoder {
    /// Calls `each(name, value)` for every header of `block`, which must be whole (all CONTINUATION frames joined).
    pub fn decode(
        &mut self,
        block: &[u8],
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Malformed> {
        let mut rest = block;
        while let Some(&first) = rest.first() {
            if first & 0x80 != 0 {
                let index = read_integer(&mut rest, 7)?;
                let (name, value) = self.entry(index)?;
                each(name, value);
            } else if first & 0xc0 == 0x40 {
                let entry = self.literal(&mut rest, 6)?;
                each(&entry.name, &entry.value);
                self.insert(entry);
            } else if first & 0xe0 == 0x20 {
                let size = read_integer(&mut rest, 5)?;
                if size > TABLE_BYTES_DEFAULT {
                    return Err(Malformed("table size above what was allowed"));
                }
                self.size_max = size;
                self.evict(0);
            } else {
                let entry = self.literal(&mut rest, 4)?;
                each(&entry.name, &entry.value);
            }
        }
        Ok(())
    }

    fn literal(&self, rest: &mut &[u8], bits: u32) -> Result<Entry, Malformed> {
        let index = read_integer(rest, bits)?;
        let name = if index == 0 {
            read_string(rest)?
        } else {
            self.entry(index)?.0.into()
        };
        Ok(Entry {
            name,
            value: read_string(rest)?,
        })
    }

    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), Malformed> {
        if let Some((name, value)) = index.checked_sub(1).and_then(|i| STATIC.get(i)) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let dynamic = index
            .checked_sub(STATIC.len() + 1)
            .and_then(|i| self.table.get(i));
        dynamic
            .map(|e| (&*e.name, &*e.value))
            .ok_or(Malformed("index outside the tables"))
    }

    /// An entry larger than the whole table empties it and is not kept (RFC 7541 4.4).
    fn insert(&mut self, entry: Entry) {
        let size = entry.size();
        self.evict(size);
        if size <= self.size_max {
            self.size += size;
            self.table.push_front(entry);
        }
    }

    fn evict(&mut self, room: usize) {
        while self.size + room > self.size_max {
            let Some(oldest) = self.table.pop_back() else {
                return;
            };
            self.size -= oldest.size();
        }
    }
}

fn read_integer(rest: &mut &[u8], bits: u32) -> Result<usize, Malformed> {
    let (&first, mut tail) = rest.split_first().ok_or(Malformed("integer cut short"))?;
    let limit = (1usize << bits) - 1;
    let mut value = first as usize & limit;
    if value == limit {
        let mut shift = 0;
        loop {
            let (&byte, after) = tail.split_first().ok_or(Malformed("integer cut short"))?;
            tail = after;
            value += (byte as usize & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 21 {
                return Err(Malformed("integer too large"));
            }
        }
    }
    *rest = tail;
    Ok(value)
}

fn read_string(rest: &mut &[u8]) -> Result<Box<[u8]>, Malformed> {
    let coded = rest.first().is_some_and(|b| b & 0x80 != 0);
    let len = read_integer(rest, 7)?;
    let (text, tail) = rest
        .split_at_checked(len)
        .ok_or(Malformed("string cut short"))?;
    *rest = tail;
    if coded {
        huffman(text)
    } else {
        Ok(text.into())
    }
}

/// Decodes bit by bit with the canonical code that [`HUFFMAN_BITS`] defines. Slow, and rarely needed: servers index what they repeat.
fn huffman(coded: &[u8]) -> Result<Box<[u8]>, Malformed> {
    let code = &*CANONICAL;
    let mut out = Vec::with_capacity(coded.len() * 2);
    let (mut word, mut bits) = (0u32, 0usize);
    for byte in coded {
        for shift in (0..8).rev() {
            word = word << 1 | u32::from(byte >> shift & 1);
            bits += 1;
            if bits > 30 {
                return Err(Malformed("no such Huffman code"));
            }
            let offset = word.wrapping_sub(code.first[bits]);
            if offset < code.count[bits] {
                let symbol = code.symbols[(code.start[bits] + offset) as usize];
                // 256 is the end of the string, which must not be sent.
                out.push(u8::try_from(symbol).map_err(|_| Malformed("Huffman end of string"))?);
                (word, bits) = (0, 0);
            }
        }
    }
    // The padding is at most seven of the end symbol's leading bits, all ones.
    if bits > 7 || word != (1 << bits) - 1 {
        return Err(Malformed("Huffman padding"));
    }
    Ok(out.into())
}

struct Canonical {
    first: [u32; 31],
    count: [u32; 31],
    start: [u32; 31],
    symbols: Vec<u16>,
}

/// The codes in order of length, then symbol: that is how the code of RFC 7541 appendix B is built, so its lengths suffice.
static CANONICAL: std::sync::LazyLock<Canonical> = std::sync::LazyLock::new(|| {
    let mut code = Canonical {
        first: [0; 31],
        count: [0; 31],
        start: [0; 31],
        symbols: Vec::new(),
    };
    let mut next = 0;
    for bits in 1..=30 {
        next <<= 1;
        code.first[bits] = next;
        code.start[bits] = code.symbols.len() as u32;
        code.symbols
            .extend((0..257u16).filter(|&s| usize::from(HUFFMAN_BITS[s as usize]) == bits));
        code.count[bits] = code.symbols.len() as u32 - code.start[bits];
        next += code.count[bits];
    }
    code
});

/// Length in bits of each symbol's code, RFC 7541 appendix B; the last is the end of the string.
#[rustfmt::skip]
const HUFFMAN_BITS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// RFC 7541 appendix A.
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"), (":scheme", "http"), (":scheme", "https"),
    (":status", "200"), (":status", "204"), (":status", "206"), (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"),
    ("accept-charset", ""), ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""), ("content-disposition", ""),
    ("content-encoding", ""), ("content-language", ""), ("content-length", ""), ("content-location", ""), ("content-range", ""), ("content-type", ""),
    ("cookie", ""), ("date", ""), ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""), ("location", ""), ("max-forwards", ""),
    ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""), ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""),
    ("set-cookie", ""), ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        digits
            .chunks(2)
            .map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap())
            .collect()
    }

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, Malformed> {
        let mut seen = Vec::new();
        decoder.decode(block, |n, v| {
            seen.push(format!(
                "{}={}",
                String::from_utf8_lossy(n),
                String::from_utf8_lossy(v)
            ))
        })?;
        Ok(seen)
    }

    /// RFC 7541 C.6: three responses, Huffman coded, with a table of 256 bytes that must evict.
    #[test]
    fn responses_of_the_rfc_decode_with_huffman_and_eviction() {
        let mut d = Decoder {
            size_max: 256,
            ..Decoder::default()
        };
        let first = "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3";
        let seen = decode(&mut d, &hex(first)).unwrap();
        assert_eq!(
            seen,
            [
                ":status=302",
                "cache-control=private",
                "date=Mon, 21 Oct 2013 20:13:21 GMT",
                "location=https://www.example.com"
            ]
        );
        assert_eq!(d.size, 222);
        let seen = decode(&mut d, &hex("4883 640e ffc1 c0bf")).unwrap();
        assert_eq!(seen[0], ":status=307");
        assert_eq!(seen[3], "location=https://www.example.com");
        let third = "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960
                     d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07";
        let seen = decode(&mut d, &hex(third)).unwrap();
        assert_eq!(
            seen[5],
            "set-cookie=foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
        );
        assert_eq!(d.size, 215);
    }

    #[test]
    fn a_repeated_request_is_a_few_bytes_and_means_the_same() {
        let mut e = Encoder::new("127.0.0.1:2379", Some("secret"));
        let mut d = Decoder::default();
        let mut block = Vec::new();
        e.request(0, "/etcdserverpb.KV/Put", &mut block);
        let first = decode(&mut d, &block).unwrap();
        assert!(
            first.contains(&":path=/etcdserverpb.KV/Put".to_owned())
                && first.contains(&"token=secret".to_owned()),
            "{first:?}"
        );
        block.clear();
        e.request(3, "/etcdserverpb.KV/Txn", &mut block);
        assert!(
            decode(&mut d, &block)
                .unwrap()
                .contains(&":path=/etcdserverpb.KV/Txn".to_owned())
        );
        block.clear();
        e.request(0, "/etcdserverpb.KV/Put", &mut block);
        assert_eq!(block.len(), 8);
        assert_eq!(decode(&mut d, &block).unwrap(), first);
    }

    #[test]
    fn a_peer_with_a_small_table_gets_literals() {
        let mut e = Encoder::new("h", None);
        let mut d = Decoder::default();
        e.request(0, "/a", &mut Vec::new());
        e.peer_table_size(0);
        for _ in 0..2 {
            let mut block = Vec::new();
            e.request(0, "/a", &mut block);
            let seen = decode(&mut d, &block).unwrap();
            assert_eq!(
                seen[..4],
                [":method=POST", ":scheme=http", ":path=/a", ":authority=h"]
            );
            assert_eq!(d.table.len(), 0);
        }
    }

    #[test]
    fn hostile_blocks_are_refused() {
        let cases: [(&[u8], &str); 6] = [
            (&[0xff, 0x00], "index outside the tables"),
            (&[0x80], "index outside the tables"),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "integer too large"),
            (&[0x40, 0x7f, 0x20], "string cut short"),
            (&[0x3f, 0xe2, 0x1f], "table size above what was allowed"),
            (&[0x40, 0x81, 0x00, 0x00], "Huffman padding"),
        ];
        for (block, why) in cases {
            assert_eq!(
                decode(&mut Decoder::default(), block),
                Err(Malformed(why)),
                "{block:02x?}"
            );
        }
    }
}
