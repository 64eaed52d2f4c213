use std::borrow::Cow;
use std::io::Write;

use bytes::{BufMut, Bytes, BytesMut};

/// Which of the two versions a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// What every client begins with.
    #[default]
    Resp2,
    /// Asked for with `HELLO 3`.
    Resp3,
}

impl Protocol {
    /// The version's number.
    #[must_use]
    pub const fn number(self) -> i64 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// A reply, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A short word such as `OK`.
    Simple(Cow<'static, str>),
    /// A refusal: an upper-case code, a blank and a text.
    Error(String),
    /// A number.
    Integer(i64),
    /// Bytes.
    Bulk(Bytes),
    /// Text for people; a bulk string in RESP2.
    Text(String),
    /// Nothing.
    Null,
    /// A sequence.
    Array(Vec<Self>),
    /// Pairs; a flat sequence in RESP2.
    Map(Vec<(Self, Self)>),
}

impl Frame {
    /// The usual answer to what has no other.
    pub const OK: Self = Self::Simple(Cow::Borrowed("OK"));

    /// A refusal.
    pub fn error(text: impl Into<String>) -> Self {
        Self::Error(text.into())
    }

    /// Bytes, copied.
    pub fn bulk(bytes: impl AsRef<[u8]>) -> Self {
        Self::Bulk(Bytes::copy_from_slice(bytes.as_ref()))
    }

    /// Bulk strings.
    pub(crate) fn bulks<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Array(words.into_iter().map(Self::bulk).collect())
    }

    /// Appends the frame as this version of the protocol has it. Line ends within words and errors become blanks.
    pub fn encode(&self, protocol: Protocol, out: &mut BytesMut) {
        let resp3 = protocol == Protocol::Resp3;
        match self {
            Self::Simple(word) => put_line(out, b'+', word),
            Self::Error(text) => put_line(out, b'-', text),
            Self::Integer(number) => put_header(out, b':', *number),
            Self::Bulk(bytes) => put_bulk(out, bytes),
            Self::Text(text) if resp3 => {
                put_header(out, b'=', text.len() as i64 + 4);
                out.put_slice(b"txt:");
                out.put_slice(text.as_bytes());
                out.put_slice(b"\r\n");
            }
            Self::Text(text) => put_bulk(out, text.as_bytes()),
            Self::Null if resp3 => out.put_slice(b"_\r\n"),
            Self::Null => out.put_slice(b"$-1\r\n"),
            Self::Array(items) => {
                put_header(out, b'*', items.len() as i64);
                items.iter().for_each(|item| item.encode(protocol, out));
            }
            Self::Map(pairs) => {
                let (kind, count) = if resp3 { (b'%', 1) } else { (b'*', 2) };
                put_header(out, kind, pairs.len() as i64 * count);
                for (key, value) in pairs {
                    key.encode(protocol, out);
                    value.encode(protocol, out);
                }
            }
        }
    }

    /// Roughly how many bytes the frame takes when encoded, or a little more.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Bulk(bytes) => bytes.len() + 32,
            Self::Text(text) | Self::Error(text) => text.len() + 32,
            _ => 32,
        }
    }
}

fn put_line(out: &mut BytesMut, kind: u8, text: &str) {
    out.put_u8(kind);
    let clean = |byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte };
    out.extend(text.bytes().map(clean));
    out.put_slice(b"\r\n");
}

fn put_bulk(out: &mut BytesMut, bytes: &[u8]) {
    out.reserve(bytes.len() + 32);
    put_header(out, b'$', bytes.len() as i64);
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

fn put_header(out: &mut BytesMut, kind: u8, number: i64) {
    out.put_u8(kind);
    // Lengths and small numbers are most of what is ever sent.
    if let (0..=9, Ok(digit)) = (number, u8::try_from(number)) {
        out.put_u8(b'0' + digit);
    } else {
        let mut digits = [0; 20];
        let mut rest = digits.as_mut_slice();
        // Twenty places hold any 64-bit number, so this cannot fail.
        let failed = write!(rest, "{number}").is_err();
        let used = 20 - rest.len();
        debug_assert!(!failed);
        out.put_slice(digits.get(..used).unwrap_or_default());
    }
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(frame: &Frame, resp2: &str, resp3: &str) {
        for (protocol, expected) in [(Protocol::Resp2, resp2), (Protocol::Resp3, resp3)] {
            let mut out = BytesMut::new();
            frame.encode(protocol, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected, "{frame:?}");
        }
    }

    #[test]
    fn frames_look_as_specified() {
        check(&Frame::OK, "+OK\r\n", "+OK\r\n");
        check(&Frame::error("ERR a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n");
        for number in [0, 7, 10, -1, i64::MAX, i64::MIN] {
            let expected = format!(":{number}\r\n");
            check(&Frame::Integer(number), &expected, &expected);
        }
        check(&Frame::bulk("a\r\n"), "$3\r\na\r\n\r\n", "$3\r\na\r\n\r\n");
        check(&Frame::Null, "$-1\r\n", "_\r\n");
        check(&Frame::Text("hi".into()), "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n");
        check(&Frame::bulks(["a"]), "*1\r\n$1\r\na\r\n", "*1\r\n$1\r\na\r\n");
        let map = Frame::Map(vec![(Frame::Integer(1), Frame::Null)]);
        check(&map, "*2\r\n:1\r\n$-1\r\n", "%1\r\n:1\r\n_\r\n");
    }
}
