use std::cell::Cell;
use std::fmt::Write as _;
use std::hash::Hash;

use bytes::Bytes;

/// A key of a cache. What it writes becomes the readable part of the key in the cluster: `users:2:42` for the key 42 of
/// the cache `users` with schema version 2, so that any Redis client finds it.
///
/// Two different keys of one type must write different text. `{…}` in the text is a hash tag as in Redis Cluster: only
/// what is between the braces decides the slot.
pub trait CacheKey: Clone + Eq + Hash + Send + Sync + 'static {
    /// Appends the key's text.
    fn write(&self, out: &mut Vec<u8>);

    /// Hands the key's text to `read`. The local tier finds keys by their text, so every read does this once; a key that has its text
    /// at hand, or can write it on the stack, should do better than this default, which writes it into a buffer of the thread.
    fn with_text<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        thread_local! {
            static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
        }
        let mut text = BUFFER.take();
        text.clear();
        self.write(&mut text);
        let outcome = read(&text);
        // A single huge key should not occupy the thread for ever.
        if text.capacity() <= BUFFER_BYTES_MAX {
            BUFFER.set(text);
        }
        outcome
    }

    /// The number whose decimal digits the text is, where that is known without looking at it; the local tier then needs no text.
    fn number(&self) -> Option<u64> {
        None
    }
}

/// What a thread keeps for the texts of keys.
const BUFFER_BYTES_MAX: usize = 4096;

macro_rules! decimal {
    ($($integer:ty),*) => {$(
        /// In decimal.
        impl CacheKey for $integer {
            fn write(&self, out: &mut Vec<u8>) {
                let mut digits = Digits::default();
                // Digits takes any integer: it cannot fail.
                let _ = write!(digits, "{self}");
                out.extend_from_slice(digits.as_bytes());
            }

            fn number(&self) -> Option<u64> {
                u64::try_from(*self).ok()
            }
        }
    )*};
}

decimal!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize);

/// As it is.
impl CacheKey for String {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn with_text<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        read(self.as_bytes())
    }
}

/// As it is.
impl CacheKey for &'static str {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn with_text<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        read(self.as_bytes())
    }
}

/// As they are.
impl CacheKey for Vec<u8> {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn with_text<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        read(self)
    }
}

/// As they are.
impl CacheKey for Box<[u8]> {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn with_text<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        read(self)
    }
}

/// As they are.
impl CacheKey for Bytes {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn with_text<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        read(self)
    }
}

/// In the text form of a UUID: `67e55044-10b1-426f-9247-bb680e5fe0c8`.
impl CacheKey for [u8; 16] {
    fn write(&self, out: &mut Vec<u8>) {
        for (index, byte) in self.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                out.push(b'-');
            }
            out.extend([byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]));
        }
    }
}

macro_rules! tuple {
    ($($part:ident $index:tt),+) => {
        /// The parts with `:` between them; `:` and `%` inside of a part become `%3A` and `%25`.
        impl<$($part: CacheKey),+> CacheKey for ($($part,)+) {
            fn write(&self, out: &mut Vec<u8>) {
                $(
                    write_escaped(&self.$index, out);
                    out.push(b':');
                )+
                out.pop();
            }
        }
    };
}

tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);

/// Writes a part so that the separator stays unmistakable.
fn write_escaped(part: &impl CacheKey, out: &mut Vec<u8>) {
    let start = out.len();
    part.write(out);
    if !out[start..].iter().any(|byte| matches!(byte, b':' | b'%')) {
        return;
    }
    let plain = out.split_off(start);
    for byte in plain {
        match byte {
            b':' => out.extend_from_slice(b"%3A"),
            b'%' => out.extend_from_slice(b"%25"),
            byte => out.push(byte),
        }
    }
}

/// Room for the digits of any integer, without the heap.
struct Digits {
    bytes: [u8; DIGITS_MAX],
    length: usize,
}

/// `i128::MIN` has 39 digits and a sign.
const DIGITS_MAX: usize = 40;

impl Digits {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Default for Digits {
    fn default() -> Self {
        Self { bytes: [0; DIGITS_MAX], length: 0 }
    }
}

impl std::fmt::Write for Digits {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        let room = self.bytes.get_mut(self.length..end).ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &impl CacheKey, expected: &str) {
        let mut out = Vec::new();
        key.write(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected);
        key.with_text(|text| assert_eq!(text, out));
    }

    #[test]
    fn keys_are_readable() {
        check(&42_u64, "42");
        check(&0_u8, "0");
        check(&u128::MAX, "340282366920938463463374607431768211455");
        check(&(u128::from(u64::MAX) + 1), "18446744073709551616");
        check(&isize::MIN, "-9223372036854775808");
        check(&i128::MIN, "-170141183460469231731687303715884105728");
        check(&"ann@example.org".to_owned(), "ann@example.org");
        check(&"a:b", "a:b");
        check(&Bytes::from_static(b"raw"), "raw");
        check(&(7_u8, "page".to_owned(), -1_i32), "7:page:-1");
        let uuid: [u8; 16] = 0x67e5_5044_10b1_426f_9247_bb68_0e5f_e0c8_u128.to_be_bytes();
        check(&uuid, "67e55044-10b1-426f-9247-bb680e5fe0c8");
    }

    #[test]
    fn parts_of_a_tuple_stay_apart() {
        check(&("a:b".to_owned(), "c".to_owned()), "a%3Ab:c");
        check(&("a".to_owned(), "b:c".to_owned()), "a:b%3Ac");
        check(&("a%3Ab".to_owned(), "c".to_owned()), "a%253Ab:c");
        check(&(String::new(), String::new()), ":");
        check(&(("a".to_owned(), 1_u8), 2_u8), "a%3A1:2");
    }
}
