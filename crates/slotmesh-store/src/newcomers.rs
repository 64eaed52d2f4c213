use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use slotmesh_slots::Slot;

use crate::footprint::allocated;
use crate::pages::{position, tag};

/// The queue's share of all entries, as one in so many (S3-FIFO's tenth).
const SHARE: usize = 10;

/// Newcomers that are kept whatever the share, for small stores.
const QUEUE_MIN: usize = 64;

/// Newcomers in one piece of the queue's memory at most, 3 KiB: it grows and shrinks by those, and is never copied.
const CHUNK_MAX: usize = 512;

/// Tables of fingerprints side by side, so that threads that write seldom meet.
const LANES: usize = 16;

/// Fingerprints in a bucket, the last one first: sixteen bytes, which lie in one cache line. With fewer, what is remembered for
/// long in one bucket is soon forgotten in another.
const WAYS: usize = 8;

/// Fingerprints that are kept, as a part of the number of entries: S3-FIFO has nine tenths; a little more made up for what hashing
/// loses on most recorded traces.
const GHOSTS: (usize, usize) = (15, 16);

/// The queue of entries that have yet to show whether they are used again, and what is remembered of those that were not.
///
/// Six bytes for each newcomer and two for each fingerprint, of which there are nearly as many as entries once
/// something was evicted: 2.5 bytes an entry. One queue: several would each be in order and all together not, which costs points where the queue is short. Its
/// locks are taken under slots' locks and never the other way round.
#[derive(Debug, Default)]
pub(crate) struct Newcomers {
    queue: Mutex<Queue>,
    len: AtomicUsize,
    /// Memory of all this.
    bytes: AtomicUsize,
    ghosts: [Mutex<Ghosts>; LANES],
}

/// First in, first out.
#[derive(Debug, Default)]
struct Queue {
    /// All full but the last.
    chunks: VecDeque<Vec<Newcomer>>,
    /// How many of the first were taken.
    taken: usize,
    len: usize,
    /// Memory of the chunks.
    chunk_bytes: usize,
}

/// Fingerprints of entries that were evicted.
#[derive(Debug, Default)]
struct Ghosts(Vec<[u16; WAYS]>);

/// What becomes of a new entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It queues.
    Queues,
    /// It was evicted a short time ago, and is used again.
    Returns,
    /// The queue is full, which it never is while it is what evictions are taken from.
    Crowded,
}

/// Where an entry will be found: the slot's number, as many bits of its position as fit beside that, and its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Newcomer([u16; 3]);

/// Bits of a position that are kept. Pages hold some KiB, so those of a slot are told apart up to a few GiB.
const POSITION_BITS: u32 = 18;

impl Newcomer {
    fn new(slot: Slot, hash: u64) -> Self {
        let place = u32::from(slot.number()) << POSITION_BITS
            | position(hash) >> (u32::BITS - POSITION_BITS);
        Self([(place >> u16::BITS) as u16, place as u16, tag(hash)])
    }

    fn place(self) -> u32 {
        u32::from(self.0[0]) << u16::BITS | u32::from(self.0[1])
    }

    pub(crate) fn slot(self) -> Option<Slot> {
        Slot::new((self.place() >> POSITION_BITS) as u16)
    }

    /// Its own is one of these.
    pub(crate) fn positions(self) -> RangeInclusive<u32> {
        let first = self.place() << (u32::BITS - POSITION_BITS);
        first..=first | u32::MAX >> POSITION_BITS
    }

    pub(crate) fn tag(self) -> u16 {
        self.0[2]
    }
}

const _: () = assert!(size_of::<Newcomer>() == 6);

impl Newcomers {
    /// Takes a new entry into the queue, unless it has to pass by.
    pub(crate) fn admit(&self, slot: Slot, hash: u64, entries: usize) -> Admission {
        if self.ghosts(hash).lock().forget(hash) {
            return Admission::Returns;
        }
        // Half as many again as its share: it is longer than that only while nothing is evicted.
        let len_max = (entries / SHARE * 3 / 2).max(QUEUE_MIN);
        let mut queue = self.queue.lock();
        if queue.len >= len_max {
            return Admission::Crowded;
        }
        self.change(&mut queue, |queue| queue.push(Newcomer::new(slot, hash)));
        Admission::Queues
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Notes that a part of the memory is of another size now.
    fn resized(&self, before: usize, now: usize) {
        if before != now {
            // A difference may be negative: adding with wrap-around subtracts.
            self.bytes.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
        }
    }

    fn change<T>(&self, queue: &mut Queue, change: impl FnOnce(&mut Queue) -> T) -> T {
        let before = queue.bytes();
        let result = change(queue);
        self.resized(before, queue.bytes());
        self.len.store(queue.len, Ordering::Relaxed);
        result
    }

    /// Puts one back that could not be looked at.
    pub(crate) fn requeue(&self, newcomer: Newcomer) {
        self.change(&mut self.queue.lock(), |queue| queue.push(newcomer));
    }

    /// Whether the queue is longer than its share.
    pub(crate) fn are_many(&self, entries: usize) -> bool {
        self.len.load(Ordering::Relaxed) * SHARE >= entries
    }

    /// The oldest.
    pub(crate) fn pop(&self) -> Option<Newcomer> {
        self.change(&mut self.queue.lock(), Queue::pop)
    }

    /// Keeps the fingerprint of one that goes.
    pub(crate) fn remember(&self, hash: u64, entries: usize) {
        let mut ghosts = self.ghosts(hash).lock();
        let before = ghosts.bytes();
        ghosts.remember(hash, entries * GHOSTS.0 / GHOSTS.1 / LANES);
        self.resized(before, ghosts.bytes());
    }

    fn ghosts(&self, hash: u64) -> &Mutex<Ghosts> {
        // By the hash, since all of a store may lie in one slot; its lower bits, since the upper ones say which bucket.
        &self.ghosts[position(hash) as usize % LANES]
    }
}

impl Queue {
    fn bytes(&self) -> usize {
        allocated(self.chunks.capacity() * size_of::<Vec<Newcomer>>()) + self.chunk_bytes
    }

    fn push(&mut self, newcomer: Newcomer) {
        match self.chunks.back_mut() {
            Some(last) if last.len() < last.capacity() => last.push(newcomer),
            _ => {
                let mut chunk = Vec::with_capacity(self.len.clamp(QUEUE_MIN, CHUNK_MAX));
                chunk.push(newcomer);
                self.chunk_bytes += chunk_bytes(&chunk);
                self.chunks.push_back(chunk);
            }
        }
        self.len += 1;
    }

    fn pop(&mut self) -> Option<Newcomer> {
        let first = self.chunks.front()?;
        let newcomer = *first.get(self.taken)?;
        (self.taken, self.len) = (self.taken + 1, self.len - 1);
        if self.taken == first.len() {
            self.chunk_bytes -= chunk_bytes(first);
            self.chunks.pop_front();
            self.taken = 0;
        }
        Some(newcomer)
    }
}

fn chunk_bytes(chunk: &Vec<Newcomer>) -> usize {
    allocated(chunk.capacity() * size_of::<Newcomer>())
}

impl Ghosts {
    fn bytes(&self) -> usize {
        allocated(self.0.capacity() * size_of::<[u16; WAYS]>())
    }

    fn remember(&mut self, hash: u64, entries: usize) {
        let buckets = (entries / WAYS).max(1);
        let have = self.0.len();
        if buckets > have + have / 4 || buckets < have - have / 4 {
            self.resize(buckets);
        }
        if let Some(bucket) = self.bucket(hash) {
            bucket.copy_within(..WAYS - 1, 1);
            bucket[0] = fingerprint(hash);
        }
    }

    /// Which of an old bucket's fingerprints belong to which new one is not known: each that may hold some of them gets the
    /// last ones, so about half of what was remembered still is. Strangers among them are forgotten in time.
    fn resize(&mut self, buckets: usize) {
        let have = self.0.len();
        let merged = |at: usize| {
            let mut bucket = [0; WAYS];
            let olds = &self.0[at * have / buckets..((at + 1) * have).div_ceil(buckets)];
            let known = (0..WAYS).flat_map(|way| olds.iter().map(move |old| old[way]));
            for (place, known) in bucket.iter_mut().zip(known.filter(|&known| known != 0)) {
                *place = known;
            }
            bucket
        };
        self.0 = (0..buckets).map(merged).collect();
    }

    /// Whether the fingerprint was there; it is no more.
    fn forget(&mut self, hash: u64) -> bool {
        let Some(bucket) = self.bucket(hash) else { return false };
        let Some(at) = bucket.iter().position(|&known| known == fingerprint(hash)) else {
            return false;
        };
        bucket.copy_within(at + 1.., at);
        bucket[WAYS - 1] = 0;
        true
    }

    fn bucket(&mut self, hash: u64) -> Option<&mut [u16; WAYS]> {
        // Scaled, so that any number of buckets will do.
        let at = (u64::from(position(hash)) * self.0.len() as u64) >> u32::BITS;
        self.0.get_mut(at as usize)
    }
}

/// Never zero, which stands for nothing.
fn fingerprint(hash: u64) -> u16 {
    tag(hash).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(number: u16) -> Slot {
        Slot::new(number).unwrap()
    }

    fn hash(number: u64) -> u64 {
        (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn a_newcomer_is_found_where_it_was_put() {
        for (number, hash) in [(0, 0), (16_383, u64::MAX), (77, hash(5))] {
            let newcomer = Newcomer::new(slot(number), hash);
            assert_eq!((newcomer.slot(), newcomer.tag()), (Some(slot(number)), tag(hash)));
            let positions = newcomer.positions();
            assert!(positions.contains(&position(hash)), "{positions:?}");
            assert_eq!(positions.end() - positions.start(), (1 << 14) - 1);
        }
    }

    #[test]
    fn the_oldest_leaves_first_and_the_queue_is_bounded() {
        let newcomers = Newcomers::default();
        for number in 0..3_000 {
            let admission = newcomers.admit(slot(7), hash(number), 10_000);
            assert_eq!(admission == Admission::Queues, number < 1_500, "{number}");
        }
        let full = newcomers.bytes();
        assert!((1_500 * 6..1_500 * 7).contains(&full), "{full}");
        assert!(newcomers.are_many(15_000) && !newcomers.are_many(15_001));
        for number in 0..1_500 {
            assert_eq!(newcomers.pop(), Some(Newcomer::new(slot(7), hash(number))));
        }
        assert_eq!((newcomers.pop(), newcomers.len.load(Ordering::Relaxed)), (None, 0));
        assert!(newcomers.bytes() < full / 4);
    }

    #[test]
    fn what_was_evicted_is_known_once_when_it_returns() {
        let newcomers = Newcomers::default();
        let numbers = 0..2_000_u64;
        { numbers.clone() }.for_each(|number| newcomers.remember(hash(number), 4_000));
        let known =
            |number: u64| newcomers.admit(slot(7), hash(number), 4_000) == Admission::Returns;
        let first = { numbers.clone() }.filter(|&number| known(number)).count();
        assert!(first > 1_800, "{first}");
        let again = { numbers }.filter(|&number| known(number)).count();
        assert!(again < 20, "{again}");
        let strangers = (10_000..20_000).filter(|&number| known(number)).count();
        assert!(strangers < 20, "{strangers}");
    }

    #[test]
    fn a_store_that_grows_or_shrinks_does_not_forget_all() {
        for entries in [5_200, 9_000, 1_500] {
            let newcomers = Newcomers::default();
            (0..4_000).for_each(|number| newcomers.remember(hash(number), 4_000));
            (4_000..4_100).for_each(|number| newcomers.remember(hash(number), entries));
            let known = |number: &u64| {
                newcomers.admit(slot(7), hash(*number), entries) == Admission::Returns
            };
            let last = (3_700..4_100).filter(known).count();
            assert!(last > 300, "{last} of 400 when there are {entries} entries");
            let room = entries * 2 + LANES * 32 + 3_000;
            assert!(newcomers.bytes() < room, "{} bytes", newcomers.bytes());
        }
    }
}
