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
/// removing one costs O(1). XXH3 is specified bit by bit and seedless here, so equal contents give equal digests on every
/// node, platform and build. It detects lost and corrupted entries; it is no defence against forged ones. Deadlines
/// are left out because they are counted on each node's own clock.
pub(crate) fn entry_digest(key_hash: u128, value_hash: u64, version: Version) -> u128 {
    let mut fields = [0; 36];
    fields[..16].copy_from_slice(&key_hash.to_le_bytes());
    fields[16..24].copy_from_slice(&value_hash.to_le_bytes());
    fields[24..28].copy_from_slice(&version.epoch.0.to_le_bytes());
    fields[28..].copy_from_slice(&version.seq.0.to_le_bytes());
    xxh3_128(&fields)
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
            152_679_507_293_889_470_138_293_878_412_873_936_875
        );
    }
}
