use std::array;

/// Slots of a bucket: a cache line of them.
const WIDTH: usize = 16;

/// Per mille of the slots that are meant to be taken. Simulated: at 750 no insertion in 100,000 finds both its buckets full, at 850 half
/// a per cent does.
const LOAD_PER_MILLE: usize = 750;

/// A key goes into its second bucket when its first has this many and the second fewer. With 14 a fifth of the keys are there; with 16
/// a tenth, but then 1 in 100 insertions finds both full.
const FULL_ENOUGH: usize = 14;

/// Where entries are, by hash: buckets of a cache line, and for each key two that it may be in (Azar, Broder, Karlin and Upfal, STOC
/// 1994). So a lookup reads one line mostly, and a removal leaves nothing behind.
///
/// A slot has four bytes: the position of an entry in as many bits as the capacity needs, and as much of the hash as is left. It is made
/// at its full size, so that no insertion has to rebuild it.
#[derive(Debug)]
pub(super) struct Index {
    buckets: Box<[Bucket]>,
    /// Bits of a position.
    bits: u32,
}

#[derive(Clone, Debug)]
#[repr(align(64))]
struct Bucket([u32; WIDTH]);

/// Both buckets of a key were full: the position that had to go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Displaced(pub(super) u32);

impl Index {
    /// Bytes for each entry of the capacity.
    pub(super) const BYTES_PER_ENTRY: usize = (size_of::<u32>() * 1000).div_ceil(LOAD_PER_MILLE);

    /// For positions below `entries`.
    pub(super) fn new(entries: usize) -> Self {
        let buckets = (entries * 1000).div_ceil(LOAD_PER_MILLE * WIDTH).max(1);
        let bits = u32::BITS - (entries as u32).leading_zeros();
        Self { buckets: vec![Bucket([0; WIDTH]); buckets].into(), bits }
    }

    /// The first of this hash's entries that `is` accepts. Few others are shown to it.
    pub(super) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = self.tag(hash);
        let (first, second) = self.homes(hash);
        let bucket = &self.buckets[first];
        if let Some(at) = self.find_in(bucket, tag, &mut is) {
            return Some(at);
        }
        self.find_in(&self.buckets[second], tag, &mut is)
    }

    /// Adds an entry that is not there; its key must have no other.
    pub(super) fn insert(&mut self, hash: u64, at: u32) -> Option<Displaced> {
        let slot = self.tag(hash) | (at + 1);
        let (first, second) = self.homes(hash);
        let taken = |home: usize| self.buckets[home].0.iter().filter(|slot| **slot != 0).count();
        let (in_first, in_second) = (taken(first), taken(second));
        let home = if in_first >= FULL_ENOUGH && in_second < in_first { second } else { first };
        if let Some(free) = self.buckets[home].0.iter_mut().find(|slot| **slot == 0) {
            *free = slot;
            return None;
        }
        // Any will do; the hash picks one.
        let place = &mut self.buckets[first].0[(hash >> 7) as usize % WIDTH];
        let displaced = std::mem::replace(place, slot);
        Some(Displaced((displaced & self.positions()) - 1))
    }

    pub(super) fn remove(&mut self, hash: u64, at: u32) {
        let slot = self.tag(hash) | (at + 1);
        let (first, second) = self.homes(hash);
        for home in [first, second] {
            if let Some(found) = self.buckets[home].0.iter_mut().find(|found| **found == slot) {
                *found = 0;
                return;
            }
        }
    }

    fn find_in(&self, bucket: &Bucket, tag: u32, is: &mut impl FnMut(u32) -> bool) -> Option<u32> {
        let positions = self.positions();
        // All are compared at once, which the compiler makes into a few vector instructions.
        let same: [bool; WIDTH] = array::from_fn(|i| (bucket.0[i] & !positions) == tag);
        let mut matches = same.iter().rev().fold(0_u32, |mask, same| mask << 1 | u32::from(*same));
        while matches != 0 {
            let position = bucket.0[matches.trailing_zeros() as usize % WIDTH] & positions;
            // Zero is a free slot.
            if position != 0 && is(position - 1) {
                return Some(position - 1);
            }
            matches &= matches - 1;
        }
        None
    }

    /// Shards go by the lowest bits of the hash, so these are of no use here.
    fn homes(&self, hash: u64) -> (usize, usize) {
        let below = |part: u32| ((u64::from(part) * self.buckets.len() as u64) >> 32) as usize;
        // Fibonacci hashing, for the upper bits decide.
        (below((hash >> 32) as u32), below((hash as u32).wrapping_mul(0x9e37_79b1)))
    }

    const fn tag(&self, hash: u64) -> u32 {
        (hash as u32).rotate_right(6) & !self.positions()
    }

    const fn positions(&self) -> u32 {
        (1 << self.bits) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Good enough for a hash, and its own inverse needs none.
    fn hash(number: u32) -> u64 {
        u64::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    }

    #[test]
    fn a_full_index_finds_all_and_only_what_it_has() {
        for entries in [1, 5, 16, 1_000, 20_000] {
            let mut index = Index::new(entries);
            for at in 0..entries as u32 {
                assert_eq!(index.insert(hash(at), at), None, "{at} of {entries}");
            }
            let mut shown = 0;
            for at in 0..entries as u32 {
                let is = |found| {
                    shown += 1;
                    found == at
                };
                assert_eq!(index.find(hash(at), is), Some(at));
            }
            assert!(shown <= entries + entries / 2, "{shown} for {entries}");
            for at in (0..entries as u32).step_by(2) {
                index.remove(hash(at), at);
            }
            for at in 0..entries as u32 {
                let expected = (at % 2 == 1).then_some(at);
                assert_eq!(index.find(hash(at), |found| found == at), expected);
            }
        }
    }

    #[test]
    fn what_finds_no_room_takes_somebodys() {
        let mut index = Index::new(100);
        let hash = 5 | 1 << 63;
        let displaced: Vec<u32> = (0..40)
            .filter_map(|at| index.insert(hash, at).map(|Displaced(position)| position))
            .collect();
        assert_eq!(displaced.len(), 40 - 2 * WIDTH);
        for at in 0..40 {
            assert_eq!(index.find(hash, |found| found == at).is_none(), displaced.contains(&at));
        }
    }
}
