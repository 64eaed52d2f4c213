use bincode::config::{self, Configuration, Limit, LittleEndian, Varint};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest value that [`Bincode`] decodes, and the most memory it reserves on the word of a length prefix: far above any
/// sensible cache value, far below what would hurt the process.
pub const DECODE_BYTES_MAX: usize = 64 << 20;

/// Turns values into bytes and back. Values come back from other processes, possibly of another version of the
/// application: `decode` must return an error, never panic, on bytes it does not understand. The cache keeps codecs
/// apart by their id and treats what cannot be decoded as a miss.
pub trait Codec<V>: Send + Sync + 'static {
    /// Tells this format from others; stored with each value. From 16 to 63: the others are for the codecs of this crate.
    fn id(&self) -> u8;

    /// Appends the value's bytes.
    ///
    /// # Errors
    /// When the value has no representation in this format.
    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Reads what [`encode`](Self::encode) wrote, all of it.
    ///
    /// # Errors
    /// When the bytes are anything else.
    fn decode(&self, bytes: &[u8]) -> Result<V, CodecError>;
}

/// Why a value could not be encoded or decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("codec: {0}")]
pub struct CodecError(String);

impl CodecError {
    /// An error with this reason.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// The default codec: compact and positional, so a changed type needs a new schema version
/// ([`CacheBuilder::version`](crate::CacheBuilder::version)). Decoding is bounded by [`DECODE_BYTES_MAX`] and refuses
/// bytes left over. Recursive types and collections of zero-sized elements are not bounded by that: give them a codec of
/// their own if writers are not trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bincode;

type Format = Configuration<LittleEndian, Varint, Limit<DECODE_BYTES_MAX>>;

const FORMAT: Format = config::standard().with_limit::<DECODE_BYTES_MAX>();

impl<V: Serialize + DeserializeOwned> Codec<V> for Bincode {
    fn id(&self) -> u8 {
        1
    }

    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<(), CodecError> {
        match bincode::serde::encode_into_std_write(value, out, FORMAT) {
            Ok(_) => Ok(()),
            Err(error) => Err(CodecError::new(error.to_string())),
        }
    }

    fn decode(&self, bytes: &[u8]) -> Result<V, CodecError> {
        let (value, read) = bincode::serde::decode_from_slice(bytes, FORMAT)
            .map_err(|error| CodecError::new(error.to_string()))?;
        if read == bytes.len() { Ok(value) } else { Err(CodecError::new("bytes left over")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_way_there_and_back() {
        let value = (7_u64, "seven".to_owned(), vec![Some(1_i32), None]);
        let mut bytes = Vec::new();
        Bincode.encode(&value, &mut bytes).unwrap();
        let decoded: (u64, String, Vec<Option<i32>>) = Bincode.decode(&bytes).unwrap();
        assert_eq!(decoded, value);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let check = |bytes: &[u8]| assert!(Codec::<String>::decode(&Bincode, bytes).is_err());
        check(&[]);
        check(&[5, b'a']);
        check(&[1, b'a', b'b']);
        check(&[1, 0xff]);
        // A length of 2^60: refused before anything is reserved.
        check(&[253, 0, 0, 0, 0, 0, 0, 0, 16]);
    }
}
