//! Bucket hashes of the membership: two nodes compare 64 numbers instead of all members.

use slotmesh_slots::NodeId;

/// Buckets of a digest: 512 bytes, and a set of buckets is one `u64`.
pub(crate) const BUCKETS: usize = 64;

/// Hashes of the living members by bucket, order-independent. Dead ones are left out because nodes forget them at
/// different times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digest(pub(crate) Box<[u64; BUCKETS]>);

impl Digest {
    pub(crate) fn empty() -> Self {
        Self(Box::new([0; BUCKETS]))
    }

    pub(crate) fn add(&mut self, node: NodeId, incarnation: u64) {
        if let Some(bucket) = self.0.get_mut(bucket(node)) {
            *bucket ^= mix(node.get() ^ mix(incarnation));
        }
    }

    /// The buckets in which the two differ, one bit each.
    pub(crate) fn difference(&self, other: &Self) -> u64 {
        let pairs = self.0.iter().zip(other.0.iter()).enumerate();
        pairs.filter(|(_, (a, b))| a != b).fold(0, |mask, (index, _)| mask | 1 << index)
    }
}

pub(crate) fn in_mask(node: NodeId, mask: u64) -> bool {
    mask >> bucket(node) & 1 == 1
}

fn bucket(node: NodeId) -> usize {
    (mix(node.get()) >> 58) as usize
}

/// The finalizer of SplitMix64: every input bit reaches every output bit. Part of the wire format.
const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_a_changed_incarnation_marks_its_bucket() {
        let nodes = (1..200).map(NodeId::from_random);
        let (mut left, mut right) = (Digest::empty(), Digest::empty());
        nodes.clone().for_each(|n| left.add(n, 1));
        nodes.rev().for_each(|n| right.add(n, 1));
        assert_eq!(left.difference(&right), 0);
        let node = NodeId::from_random(500);
        left.add(node, 3);
        right.add(node, 4);
        let mask = left.difference(&right);
        assert_eq!(mask.count_ones(), 1);
        assert!(in_mask(node, mask));
    }
}
