use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Codec, CodecError};

/// The [postcard] format: as compact and positional as [`Bincode`](super::Bincode), with a specification of its wire format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Postcard;

impl<V: Serialize + DeserializeOwned> Codec<V> for Postcard {
    fn id(&self) -> u8 {
        4
    }

    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let all = postcard::to_extend(value, std::mem::take(out));
        *out = all.map_err(|error| CodecError::new(error.to_string()))?;
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<V, CodecError> {
        let (value, rest) =
            postcard::take_from_bytes(bytes).map_err(|error| CodecError::new(error.to_string()))?;
        if rest.is_empty() { Ok(value) } else { Err(CodecError::new("bytes left over")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_way_there_and_back() {
        let value = (7_u64, "seven".to_owned(), vec![Some(1_i32), None]);
        let mut bytes = vec![1, 2];
        Postcard.encode(&value, &mut bytes).unwrap();
        assert_eq!(bytes[..2], [1, 2], "it is appended");
        let decoded: (u64, String, Vec<Option<i32>>) = Postcard.decode(&bytes[2..]).unwrap();
        assert_eq!(decoded, value);
        bytes.push(0);
        assert!(Codec::<(u64, String, Vec<Option<i32>>)>::decode(&Postcard, &bytes[2..]).is_err());
        // A length of 2^60: refused before anything is reserved.
        let long = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
        assert!(Codec::<Vec<u64>>::decode(&Postcard, &long).is_err());
    }
}
