use bytes::Bytes;

/// A key and its value in the same allocation as their reference count, as records carry them: `Bytes` made of a `Vec` keep
/// the count in a second one. The length is fixed per type, so there is one type per size class and the rest of it is padding.
struct Block<const SIZE: usize> {
    used: u16,
    bytes: [u8; SIZE],
}

impl<const SIZE: usize> Block<SIZE> {
    fn join(key: &[u8], value: &[u8]) -> Bytes {
        let mut bytes = [0; SIZE];
        let used = key.len() + value.len();
        bytes[..key.len()].copy_from_slice(key);
        bytes[key.len()..used].copy_from_slice(value);
        Bytes::from_owner(Self { used: used as u16, bytes })
    }
}

impl<const SIZE: usize> AsRef<[u8]> for Block<SIZE> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.used)]
    }
}

/// Picks the smallest of the listed sizes that holds the key and the value.
macro_rules! smallest_block {
    ($key:expr, $value:expr, $($size:literal)+) => {
        match $key.len() + $value.len() {
            $(0..=$size => Some(Block::<$size>::join($key, $value)),)+
            _ => None,
        }
    };
}

/// The key and the value as parts of one buffer of their own.
pub(crate) fn pair(key: &[u8], value: &[u8]) -> (Bytes, Bytes) {
    let mut joined = join(key, value);
    // Half the counting of references that two slices would take.
    let value = joined.split_off(key.len());
    (joined, value)
}

fn join(key: &[u8], value: &[u8]) -> Bytes {
    // Sixteen bytes apart up to 256, then at most an eighth, each less the 18 of count, length and malloc's header.
    let block = smallest_block!(key, value,
        30 46 62 78 94 110 126 142 158 174 190 206 222 238 254 286 318 350 382 414 446 478 510 574);
    block.unwrap_or_else(|| Bytes::from([key, value].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_comes_back() {
        for len in 0..1_500_usize {
            let (key, value) = (vec![b'k'; len / 3], vec![b'v'; len - len / 3]);
            assert_eq!(pair(&key, &value), (Bytes::from(key), Bytes::from(value)));
        }
    }
}
