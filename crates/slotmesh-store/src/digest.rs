use slotmesh_slots::Version;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Hash of a value as it enters the entry's digest. Kept in the entry, so that removing a large value never reads it.
pub(crate) fn value_hash(value: &[u8]) -> u64 {
    xxh3_64(value)
}

/// Hash of a key as it enters the entry's digest; an overwrite takes it once for both entries.
pub(crate) fn key_hash(key: &[u8]) -> u128 {
    xxh3_128(key)
}

/// Digest of one entry. A slot's digest is the wrapping sum over its entries: order does not matter and adding or
/// removing one costs O(1). XXH3 is specified bit by bit and seedless here, and so is what mixes its results with the version
/// (folded multiplication, as in wyhash), so equal contents give equal digests on every node, platform and build. It
/// detects lost and corrupted entries; it is no defence against forged ones. Deadlines are left out because they are
/// counted on each node's own clock.
pub(crate) fn entry_digest(key_hash: u128, value_hash: u64, version: Version) -> u128 {
    let (low, high) = (key_hash as u64, (key_hash >> 64) as u64);
    let (epoch, seq) = (u64::from(version.epoch.0), version.seq.0);
    let first = folded(low ^ value_hash, seq ^ PATTERN[0]);
    let second = folded(high ^ epoch ^ PATTERN[1], value_hash.rotate_left(32) ^ seq);
    let low = folded(first ^ PATTERN[2], second ^ high);
    u128::from(low) << 64 | u128::from(folded(second ^ PATTERN[3], first ^ epoch))
}

/// A slot's digest as far as it is kept. Two halves, so that it needs no more alignment than its neighbours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum([u64; 2]);

/// A sum that happens to be this is only counted anew.
const UNKNOWN: u128 = u128::MAX;

impl Sum {
    /// Of a slot with few entries: it is counted when somebody asks.
    pub(crate) const UNKNOWN: Self = Self::new(UNKNOWN);

    pub(crate) const fn new(sum: u128) -> Self {
        Self([sum as u64, (sum >> 64) as u64])
    }

    #[inline]
    pub(crate) fn get(self) -> Option<u128> {
        let [low, high] = self.0;
        let sum = u128::from(high) << 64 | u128::from(low);
        (sum != UNKNOWN).then_some(sum)
    }

    /// Subtracts one entry's digest and adds another's, if there is a sum.
    #[inline]
    pub(crate) fn change(&mut self, entries: impl FnOnce() -> (u128, u128)) {
        if let Some(sum) = self.get() {
            let (less, more) = entries();
            *self = Self::new(sum.wrapping_sub(less).wrapping_add(more));
        }
    }
}

/// Odd numbers without a pattern: the fractional part of the square roots of 2, 3, 5 and 7, as SHA-512 uses them.
const PATTERN: [u64; 4] =
    [0x6a09_e667_f3bc_c909, 0xbb67_ae85_84ca_a73b, 0x3c6e_f372_fe94_f82b, 0xa54f_f53a_5f1d_36f1];

/// Both halves of the product, one over the other.
const fn folded(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotmesh_slots::{Epoch, Seq};

    fn digest(key: &str, value: &str, epoch: u32, seq: u64) -> u128 {
        let version = Version::new(Epoch(epoch), Seq(seq));
        entry_digest(key_hash(key.as_bytes()), value_hash(value.as_bytes()), version)
    }

    #[test]
    fn every_field_counts() {
        let base = digest("k", "v", 1, 2);
        for other in [
            digest("l", "v", 1, 2),
            digest("k", "w", 1, 2),
            digest("k", "v", 2, 2),
            digest("k", "v", 1, 3),
            digest("kv", "", 1, 2),
        ] {
            assert_ne!(base, other);
        }
    }

    /// Nodes of different builds compare digests: the function may never change without a new protocol version.
    #[test]
    fn the_function_is_fixed() {
        assert_eq!(xxh3_64(b""), 0x2d06_8005_38d3_94c2, "XXH3's own vector");
        assert_eq!(xxh3_128(b""), 0x99aa_06d3_0147_98d8_6001_c324_468d_497f, "XXH3's own vector");
        assert_eq!(
            digest("user:42", "Ada", 3, 77),
            19_790_157_877_375_718_296_292_792_743_351_774_204
        );
    }
}
