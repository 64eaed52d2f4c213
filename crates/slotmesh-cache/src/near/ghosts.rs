/// Keys of a bucket: a cache line of them.
const WIDTH: usize = 16;

/// Into how many steps of age the memory's length is divided at most: few enough that a remembered key is replaced long before
/// the sixteen bits of its age come round.
const STEPS: u32 = 8192;

/// Keys that were evicted a short time ago, as S3-FIFO remembers them: by sixteen bits of their hash and the time, counted in keys
/// remembered, at which they went. Four bytes a key; the oldest of a bucket makes room.
///
/// One in 4,000 keys is taken for one that it is not and gets a place in the main queue that it may not deserve.
#[derive(Debug)]
pub(super) struct Ghosts {
    /// Print in the upper half, age in the lower; zero is free. There are none before the first eviction.
    buckets: Box<[[u32; WIDTH]]>,
    length: u32,
    step: u32,
    remembered: u32,
}

impl Ghosts {
    /// Bytes for each key of its length; a fifth is spare, or buckets that many keys fall into would forget early.
    pub(super) const BYTES_PER_KEY: usize = size_of::<u32>() * 5 / 4;

    /// Remembers the last `length` keys.
    pub(super) fn new(length: usize) -> Self {
        let length = length as u32;
        Self { buckets: Box::new([]), length, step: (length / STEPS).max(1), remembered: 0 }
    }

    pub(super) fn remember(&mut self, hash: u64) {
        if self.buckets.is_empty() {
            let buckets = (self.length as usize * 5 / 4).div_ceil(WIDTH).max(1);
            self.buckets = vec![[0; WIDTH]; buckets].into();
        }
        let (home, print) = self.place(hash);
        let now = self.now();
        self.remembered = self.remembered.wrapping_add(1);
        // A free one counts as older than all.
        let age = |word: &u32| {
            if *word == 0 { u32::MAX } else { u32::from(now.wrapping_sub(*word as u16)) }
        };
        let oldest = self.buckets[home].iter_mut().max_by_key(|word| age(word));
        if let Some(oldest) = oldest {
            *oldest = print << 16 | u32::from(now);
        }
    }

    /// Whether it is remembered; it is forgotten by that.
    pub(super) fn take(&mut self, hash: u64) -> bool {
        if self.buckets.is_empty() {
            return false;
        }
        let (home, print) = self.place(hash);
        let (now, length) = (self.now(), self.length / self.step);
        let is = |word: &u32| {
            *word != 0 && *word >> 16 == print && u32::from(now.wrapping_sub(*word as u16)) < length
        };
        match self.buckets[home].iter_mut().find(|word| is(word)) {
            Some(word) => {
                *word = 0;
                true
            }
            None => false,
        }
    }

    const fn now(&self) -> u16 {
        (self.remembered / self.step) as u16
    }

    fn place(&self, hash: u64) -> (usize, u32) {
        let home = ((hash >> 32) * self.buckets.len() as u64) >> 32;
        // Not the bits that a shard is chosen by.
        (home as usize, (hash >> 8) as u32 & 0xffff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u64) -> u64 {
        (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    }

    #[test]
    fn the_last_ones_are_remembered_once() {
        let mut ghosts = Ghosts::new(10_000);
        (0..50_000).for_each(|number| ghosts.remember(hash(number)));
        let mut known =
            |from: u64, to: u64| (from..to).filter(|&number| ghosts.take(hash(number))).count();
        assert!(known(0, 39_000) < 40, "what is long gone is forgotten");
        let last = known(41_000, 50_000);
        // A bucket that many keys fall into forgets early.
        assert!(last > 8_000, "{last}");
        assert!(known(41_000, 50_000) < 10, "each is taken once");
    }

    #[test]
    fn a_short_memory_is_exact() {
        let mut ghosts = Ghosts::new(10);
        (0..16).for_each(|number| ghosts.remember(hash(number)));
        let known = (0..16).filter(|&number| ghosts.take(hash(number)));
        assert_eq!(known.collect::<Vec<_>>(), (7..16).collect::<Vec<_>>());
    }
}
