//! The shipped trace; see `examples/traces/README.md` for its origin and licence.

use std::io::Read;

use crate::Failure;

static PACKED: &[u8] = include_bytes!("../traces/orm-busy.gz");

/// The keys in the order they were accessed.
pub(crate) fn load() -> Result<Vec<u32>, Failure> {
    let mut planes = Vec::new();
    flate2::read::GzDecoder::new(PACKED).read_to_end(&mut planes)?;
    let count = planes.len() / 3;
    let (low, rest) = planes.split_at(count);
    let (middle, high) = rest.split_at(count);
    let keys = low.iter().zip(middle).zip(high);
    Ok(keys.map(|((&low, &middle), &high)| u32::from_le_bytes([low, middle, high, 0])).collect())
}
