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
/// A slot has four bytes: a tag of one and a position of three. The tags lie together, so that eight are compared at once with the
/// arithmetic of a word; one in 20 lookups is shown an entry of another key by them. It is made at its full size, so that no
/// insertion has to rebuild it.
#[derive(Debug)]
pub(super) struct Index {
    buckets: Box<[Bucket]>,
}

/// The positions of its slots, then their tags; a tag of zero is a free slot.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct Bucket([u8; 4 * WIDTH]);

/// Both buckets of a key were full: the position that had to go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Displaced(pub(super) u32);

impl Index {
    /// Bytes for each entry of the capacity.
    pub(super) const BYTES_PER_ENTRY: usize = (size_of::<u32>() * 1000).div_ceil(LOAD_PER_MILLE);

    /// Positions have three bytes.
    pub(super) const ENTRIES_MAX: usize = 1 << 24;

    /// For positions below `entries`.
    pub(super) fn new(entries: usize) -> Self {
        let buckets = (entries * 1000).div_ceil(LOAD_PER_MILLE * WIDTH).max(1);
        Self { buckets: vec![Bucket([0; 4 * WIDTH]); buckets].into() }
    }

    /// The first of this hash's entries that `is` accepts. Few others are shown to it.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = tag(hash);
        let (first, second) = self.homes(hash);
        let slot = self.buckets[first].find(tag, &mut is);
        slot.or_else(|| self.buckets[second].find(tag, &mut is)).map(|(_, at)| at)
    }

    /// Adds an entry that is not there; its key must have no other.
    pub(super) fn insert(&mut self, hash: u64, at: u32) -> Option<Displaced> {
        let (first, second) = self.homes(hash);
        let (in_first, in_second) = (self.buckets[first].taken(), self.buckets[second].taken());
        let home = if in_first >= FULL_ENOUGH && in_second < in_first { second } else { first };
        let bucket = &mut self.buckets[home];
        if let Some((free, _)) = bucket.find(0, &mut |_| true) {
            bucket.set(free, tag(hash), at);
            return None;
        }
        // Any will do; the hash picks one.
        let victim = (hash >> 7) as usize % WIDTH;
        let displaced = Displaced(bucket.position(victim));
        bucket.set(victim, tag(hash), at);
        Some(displaced)
    }

    pub(super) fn remove(&mut self, hash: u64, at: u32) {
        let (first, second) = self.homes(hash);
        for home in [first, second] {
            let bucket = &mut self.buckets[home];
            if let Some((slot, _)) = bucket.find(tag(hash), &mut |found| found == at) {
                return bucket.set(slot, 0, 0);
            }
        }
    }

    /// Shards go by the lowest bits of the hash, so these are of no use here.
    #[inline]
    fn homes(&self, hash: u64) -> (usize, usize) {
        let below = |part: u32| ((u64::from(part) * self.buckets.len() as u64) >> 32) as usize;
        // Fibonacci hashing, for the upper bits decide.
        (below((hash >> 32) as u32), below((hash as u32).wrapping_mul(0x9e37_79b1)))
    }
}

/// Not by the bits that shards go by, nor zero.
const fn tag(hash: u64) -> u8 {
    let tag = (hash >> 8) as u8;
    if tag == 0 { 1 } else { tag }
}

/// A one in each byte.
const ONES: u64 = 0x0101_0101_0101_0101;

impl Bucket {
    /// The first slot with this tag whose position `is` accepts, and that.
    #[inline]
    fn find(&self, tag: u8, is: &mut impl FnMut(u32) -> bool) -> Option<(usize, u32)> {
        // The upper bit of each byte of the tags that is the same, those of the second word one bit lower.
        let wanted = u64::from(tag) * ONES;
        let mut same = zeroes(self.tags(0) ^ wanted) | zeroes(self.tags(1) ^ wanted) >> 1;
        while same != 0 {
            let bit = same.trailing_zeros() as usize;
            // Seven is odd and of the first word, six of the second; a branch would be mispredicted half the time.
            let slot = (bit >> 3) + ((!bit & 1) << 3);
            let at = self.position(slot);
            // What is above the same may be found although it differs by one.
            if self.0[3 * WIDTH + slot] == tag && is(at) {
                return Some((slot, at));
            }
            same &= same - 1;
        }
        None
    }

    fn taken(&self) -> usize {
        self.0[3 * WIDTH..].iter().filter(|tag| **tag != 0).count()
    }

    fn set(&mut self, slot: usize, tag: u8, at: u32) {
        self.0[3 * WIDTH + slot] = tag;
        self.0[3 * slot..3 * slot + 3].copy_from_slice(&at.to_le_bytes()[..3]);
    }

    #[inline]
    fn position(&self, slot: usize) -> u32 {
        let [low, middle, high] = [0, 1, 2].map(|byte| u32::from(self.0[3 * slot + byte]));
        low | middle << 8 | high << 16
    }

    #[inline]
    fn tags(&self, word: usize) -> u64 {
        let at = 3 * WIDTH + 8 * word;
        u64::from_le_bytes(std::array::from_fn(|byte| self.0[at + byte]))
    }
}

/// The upper bit of each byte that is zero, and perhaps of one above such a byte (Hacker's Delight, 6-1).
#[inline]
const fn zeroes(bytes: u64) -> u64 {
    bytes.wrapping_sub(ONES) & !bytes & (ONES << 7)
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
