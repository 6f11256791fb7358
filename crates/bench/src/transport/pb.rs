//! The protobuf wire format, as far as a load generator needs it: append fields to a buffer, walk the fields of a message.
//!
//! Written by hand so that a request is encoded in place, behind its frame header, without an allocation. It knows no message; those are in
//! [`crate::load::messages`], whose tests compare with the generated types.

/// Appends a varint.
pub fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a number field; a zero is left out, as proto3 does.
pub fn uint(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        varint(out, u64::from(field << 3));
        varint(out, value);
    }
}

/// Appends a bytes field; an empty one is left out.
pub fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    if !value.is_empty() {
        varint(out, u64::from(field << 3 | 2));
        varint(out, value.len() as u64);
        out.extend_from_slice(value);
    }
}

/// Appends a message field whose content `fill` writes.
pub fn message(out: &mut Vec<u8>, field: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    varint(out, u64::from(field << 3 | 2));
    let start = out.len();
    fill(out);
    let len = out.len() - start;
    varint(out, len as u64);
    let prefix = out.len() - start - len;
    // The length was written behind the content because it was not known; turn it to the front.
    out[start..].rotate_right(prefix);
}

/// The value of a field, borrowed from the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// A varint.
    Uint(u64),
    /// Bytes, a string or a message.
    Bytes(&'a [u8]),
    /// Four or eight bytes of fixed size; etcd has none that matter here.
    Fixed,
}

impl<'a> Value<'a> {
    /// The bytes, or nothing if the field is a number.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Value::Bytes(b) => b,
            _ => &[],
        }
    }

    /// The number as etcd's int64, or 0 if the field is not one.
    pub fn int(self) -> i64 {
        match self {
            Value::Uint(v) => v as i64,
            _ => 0,
        }
    }
}

/// Walks the fields of a message. Stops silently where the message is damaged: a load generator then misses a value and counts an error.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u32, Value<'a>);

    fn next(&mut self) -> Option<(u32, Value<'a>)> {
        let key = self.varint()?;
        let field = u32::try_from(key >> 3).ok()?;
        let value = match key & 7 {
            0 => Value::Uint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return None,
        };
        Some((field, value))
    }
}

impl<'a> Fields<'a> {
    /// The last value of `field`, as protobuf wants it for a field that is not repeated.
    pub fn last(message: &'a [u8], field: u32) -> Option<Value<'a>> {
        Fields(message)
            .filter(|(f, _)| *f == field)
            .map(|(_, v)| v)
            .last()
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (i, &byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.0 = &self.0[i + 1..];
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_messages_carry_their_length_in_front() {
        let mut out = Vec::new();
        message(&mut out, 3, |o| {
            uint(o, 1, 300);
            bytes(o, 2, &[7; 200]);
        });
        let inner = Fields::last(&out, 3).unwrap().bytes();
        assert_eq!(inner.len(), 3 + 2 + 1 + 200);
        assert_eq!(Fields::last(inner, 1), Some(Value::Uint(300)));
        assert_eq!(Fields::last(inner, 2), Some(Value::Bytes(&[7; 200])));
    }

    #[test]
    fn damaged_messages_end_the_walk() {
        for bad in [&[0x0a, 0x05, 1][..], &[0x80], &[0x0b], &[0xff; 11]] {
            assert_eq!(Fields(bad).count(), 0, "{bad:02x?}");
        }
    }
}
