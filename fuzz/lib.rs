//! Inputs and oracles shared by the fuzz targets.

/// Endless bytes drawn from a seed, always the same ones (FNV-1a, then xorshift64).
///
/// A plain build has no coverage feedback, so libFuzzer stays with inputs of a few bytes: targets take them as a seed.
pub fn noise(seed: &[u8]) -> impl Iterator<Item = u8> + use<> {
    let fold = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let mut state = seed.iter().fold(0xcbf2_9ce4_8422_2325, fold) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    })
}
