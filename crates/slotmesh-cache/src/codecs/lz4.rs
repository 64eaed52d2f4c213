use lz4_flex::block::{compress_into, decompress, get_maximum_output_size};

use crate::codec::{Codec, CodecError, DECODE_BYTES_MAX};

/// Compresses what another codec makes of values, where that is long, with LZ4: several hundred megabytes a second, and for text mostly
/// a half to a third of the size. What does not get smaller stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lz4<C> {
    codec: C,
    above: usize,
}

/// Added to the other codec's id.
const ID_BIT: u8 = 0x40;

/// First byte: as the other codec made it, or compressed, with its length before.
const PLAIN: u8 = 0;
const COMPRESSED: u8 = 1;

const LENGTH_BYTES: usize = 4;

impl<C> Lz4<C> {
    /// For values of which the codec makes more than so many bytes; below a few hundred it rarely pays.
    pub const fn new(codec: C, above: usize) -> Self {
        Self { codec, above }
    }
}

impl<V, C: Codec<V>> Codec<V> for Lz4<C> {
    fn id(&self) -> u8 {
        self.codec.id() | ID_BIT
    }

    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let at = out.len();
        out.push(PLAIN);
        self.codec.encode(value, out)?;
        let plain = out.split_off(at + 1);
        let length = u32::try_from(plain.len()).ok().filter(|_| plain.len() <= DECODE_BYTES_MAX);
        if let Some(length) = length.filter(|_| plain.len() > self.above) {
            let begin = at + 1 + LENGTH_BYTES;
            out.extend_from_slice(&length.to_le_bytes());
            out.resize(begin + get_maximum_output_size(plain.len()), 0);
            let written = compress_into(&plain, &mut out[begin..])
                .map_err(|error| CodecError::new(error.to_string()))?;
            if written + LENGTH_BYTES < plain.len() {
                out[at] = COMPRESSED;
                out.truncate(begin + written);
                return Ok(());
            }
            out.truncate(at + 1);
        }
        out.extend_from_slice(&plain);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<V, CodecError> {
        match bytes.split_first() {
            Some((&PLAIN, plain)) => self.codec.decode(plain),
            Some((&COMPRESSED, rest)) => {
                let (length, compressed) = rest
                    .split_first_chunk::<LENGTH_BYTES>()
                    .ok_or_else(|| CodecError::new("too short to be compressed"))?;
                let length = u32::from_le_bytes(*length) as usize;
                if length > DECODE_BYTES_MAX || length > longest(compressed.len()) {
                    return Err(CodecError::new("longer than it can be"));
                }
                let plain = decompress(compressed, length)
                    .map_err(|error| CodecError::new(error.to_string()))?;
                if plain.len() != length {
                    return Err(CodecError::new("shorter than it says"));
                }
                self.codec.decode(&plain)
            }
            _ => Err(CodecError::new("neither plain nor compressed")),
        }
    }
}

/// So many bytes can become no more than this: a byte of LZ4 stands for 255 at most.
const fn longest(compressed: usize) -> usize {
    compressed.saturating_mul(255)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codecs::{Bincode, Raw};

    const CODEC: Lz4<Raw> = Lz4::new(Raw, 100);

    fn encoded(value: &[u8]) -> Vec<u8> {
        let mut out = b"before".to_vec();
        CODEC.encode(&value.to_vec(), &mut out).unwrap();
        assert_eq!(out[..6], *b"before");
        out.split_off(6)
    }

    fn decoded(bytes: &[u8]) -> Option<Vec<u8>> {
        CODEC.decode(bytes).ok()
    }

    #[test]
    fn what_is_long_and_gets_shorter_is_compressed() {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let noise: Vec<u8> = (0..1_000).map(|_| random()).collect();
        for (value, length) in [
            (vec![7; 100], Some(101)),
            (vec![7; 101], None),
            (vec![7; 1 << 20], None),
            (noise.clone(), Some(noise.len() + 1)),
            (Vec::new(), Some(1)),
        ] {
            let bytes = encoded(&value);
            match length {
                Some(length) => assert_eq!((bytes[0], bytes.len()), (PLAIN, length)),
                None => assert!(bytes[0] == COMPRESSED && bytes.len() < value.len() / 3),
            }
            assert_eq!(decoded(&bytes), Some(value));
        }
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let bytes = encoded(&[7; 1_000]);
        for length in 0..bytes.len() {
            assert_eq!(decoded(&bytes[..length]), None);
        }
        for (at, bit) in (1..5).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut other = bytes.clone();
            other[at] ^= 1 << bit;
            assert_eq!(decoded(&other), None);
        }
        assert_eq!(decoded(&[2, 1]), None);
        // Four billion bytes of nothing.
        assert_eq!(decoded(&[COMPRESSED, 0xff, 0xff, 0xff, 0xff, 0]), None);
    }

    #[test]
    fn it_is_not_mistaken_for_what_it_compresses() {
        assert_eq!(Codec::<u8>::id(&Lz4::new(Bincode, 0)), 0x41);
        assert_ne!(Codec::<Vec<u8>>::id(&Raw), Codec::<Vec<u8>>::id(&CODEC));
    }
}
