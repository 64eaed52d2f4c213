use bytes::Bytes;

use crate::codec::{Codec, CodecError};

/// Bytes and text as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raw;

const ID: u8 = 2;

impl Codec<Bytes> for Raw {
    fn id(&self) -> u8 {
        ID
    }

    fn encode(&self, value: &Bytes, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(value);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Bytes, CodecError> {
        Ok(Bytes::copy_from_slice(bytes))
    }
}

impl Codec<Vec<u8>> for Raw {
    fn id(&self) -> u8 {
        ID
    }

    fn encode(&self, value: &Vec<u8>, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(value);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
        Ok(bytes.to_vec())
    }
}

impl Codec<String> for Raw {
    fn id(&self) -> u8 {
        ID
    }

    fn encode(&self, value: &String, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(value.as_bytes());
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<String, CodecError> {
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned).map_err(|error| CodecError::new(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_as_they_are() {
        let mut out = Vec::new();
        Codec::<String>::encode(&Raw, &"añn".to_owned(), &mut out).unwrap();
        assert_eq!(out, "añn".as_bytes());
        assert_eq!(Codec::<Bytes>::decode(&Raw, &out).unwrap(), "añn");
        assert_eq!(Codec::<Vec<u8>>::decode(&Raw, &out).unwrap(), "añn".as_bytes());
        assert!(Codec::<String>::decode(&Raw, &[0xff]).is_err());
    }
}
