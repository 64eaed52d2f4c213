//! What a value looks like in the cluster: a header that says how to read it, then the codec's bytes. Whatever does not
//! carry exactly the expected header, or does not decode, is a miss: never an error and never a wrong value, because
//! two versions of an application share the cluster during every deployment.
//!
//! Layout: magic and format (1 byte), codec id (1), schema version (4, little endian), payload.

use crate::codec::{Codec, CodecError};

/// First byte of every value; another layout would take another. No text begins with it: it is no UTF-8.
const MAGIC: u8 = 0xc5;

const HEADER_BYTES: usize = 6;

/// The value with its header.
pub(crate) fn seal<V: 'static>(
    codec: &dyn Codec<V>,
    schema: u32,
    value: &V,
) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(&header(codec.id(), schema));
    codec.encode(value, &mut out)?;
    Ok(out)
}

/// The value behind the header, if both are as expected.
pub(crate) fn open<V: 'static>(codec: &dyn Codec<V>, schema: u32, bytes: &[u8]) -> Option<V> {
    let payload = bytes.strip_prefix(&header(codec.id(), schema))?;
    codec.decode(payload).ok()
}

fn header(codec: u8, schema: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = schema.to_le_bytes();
    [MAGIC, codec, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Bincode;

    fn check(bytes: &[u8], expected: Option<&str>) {
        let opened: Option<String> = open(&Bincode, 2, bytes);
        assert_eq!(opened.as_deref(), expected);
    }

    #[test]
    fn only_the_expected_header_opens() {
        let sealed = seal(&Bincode, 2, &"ann".to_owned()).unwrap();
        assert_eq!(sealed, [0xc5, 1, 2, 0, 0, 0, 3, b'a', b'n', b'n']);
        check(&sealed, Some("ann"));
        for index in 0..HEADER_BYTES {
            let mut other = sealed.clone();
            other[index] ^= 1;
            check(&other, None);
        }
        for length in 0..sealed.len() {
            check(&sealed[..length], None);
        }
        check(b"plain text written by a Redis client", None);
    }
}
