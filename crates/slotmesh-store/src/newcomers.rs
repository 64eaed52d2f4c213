use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use slotmesh_slots::Slot;

use crate::footprint::allocated;
use crate::pages::{position, tag};

/// The queue's share of all entries, as one in so many (S3-FIFO's tenth).
const SHARE: usize = 10;

/// Newcomers that are kept whatever the share, for small stores.
const QUEUE_MIN: usize = 64;

/// Tables of fingerprints side by side, so that threads that write to different slots seldom meet.
const LANES: usize = 16;

/// Fingerprints in a bucket, oldest last.
const WAYS: usize = 4;

/// The queue of entries that have yet to show whether they are used again, and what is remembered of those that were not.
///
/// Eight bytes for each newcomer and two for each fingerprint, of which there are about as many as entries once something
/// was evicted. One queue: several would each be in order and all together not, which costs points where the queue is short. Its
/// locks are taken under slots' locks and never the other way round.
#[derive(Debug, Default)]
pub(crate) struct Newcomers {
    queue: Mutex<VecDeque<Newcomer>>,
    len: AtomicUsize,
    /// Memory of all this.
    bytes: AtomicUsize,
    ghosts: [Mutex<Ghosts>; LANES],
}

/// Fingerprints of entries that were evicted.
#[derive(Debug, Default)]
struct Ghosts(Vec<[u16; WAYS]>);

/// Where an entry will be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Newcomer {
    pub(crate) slot: Slot,
    pub(crate) tag: u16,
    pub(crate) position: u32,
}

impl Newcomer {
    fn new(slot: Slot, hash: u64) -> Self {
        Self { slot, tag: tag(hash), position: position(hash) }
    }
}

const _: () = assert!(size_of::<Newcomer>() == 8);

impl Newcomers {
    /// Whether a new entry has to queue: it was not evicted a short time ago.
    pub(crate) fn admit(&self, slot: Slot, hash: u64, entries: usize) -> bool {
        let newcomer = Newcomer::new(slot, hash);
        if self.ghosts(newcomer).lock().forget(newcomer) {
            return false;
        }
        self.push(newcomer, entries);
        true
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

    /// Adds to the queue; what is too much for it leaves at its end, and is the eviction hand's then.
    pub(crate) fn push(&self, newcomer: Newcomer, entries: usize) {
        let mut queue = self.queue.lock();
        let before = queue_bytes(&queue);
        if queue.len() == queue.capacity() {
            // A quarter at a time: doubling would waste more than it saves.
            let more = QUEUE_MIN + queue.len() / 4;
            queue.reserve_exact(more);
        }
        queue.push_back(newcomer);
        // More than its share while nothing has to be evicted: they are all that eviction could choose from then.
        if queue.len() > (2 * entries / SHARE).max(QUEUE_MIN) {
            queue.pop_front();
        }
        self.resized(before, queue_bytes(&queue));
        self.len.store(queue.len(), Ordering::Relaxed);
    }

    /// Whether the queue is longer than its share.
    pub(crate) fn are_many(&self, entries: usize) -> bool {
        self.len.load(Ordering::Relaxed) * SHARE >= entries
    }

    /// The oldest.
    pub(crate) fn pop(&self) -> Option<Newcomer> {
        let mut queue = self.queue.lock();
        let newcomer = queue.pop_front();
        let before = queue_bytes(&queue);
        if queue.len() < queue.capacity() / 4 {
            let len = queue.len();
            queue.shrink_to(2 * len);
        }
        self.resized(before, queue_bytes(&queue));
        self.len.store(queue.len(), Ordering::Relaxed);
        newcomer
    }

    /// Keeps the fingerprint of one that goes.
    pub(crate) fn remember(&self, newcomer: Newcomer, entries: usize) {
        let mut ghosts = self.ghosts(newcomer).lock();
        let before = ghosts.bytes();
        ghosts.remember(newcomer, entries / LANES);
        self.resized(before, ghosts.bytes());
    }

    fn ghosts(&self, newcomer: Newcomer) -> &Mutex<Ghosts> {
        &self.ghosts[newcomer.slot.index() % LANES]
    }
}

fn queue_bytes(queue: &VecDeque<Newcomer>) -> usize {
    allocated(queue.capacity() * size_of::<Newcomer>())
}

impl Ghosts {
    fn bytes(&self) -> usize {
        allocated(self.0.capacity() * size_of::<[u16; WAYS]>())
    }

    fn remember(&mut self, newcomer: Newcomer, entries: usize) {
        let buckets = (entries / WAYS).max(1);
        let have = self.0.len();
        if buckets > have + have / 4 || buckets < have / 4 {
            // What was remembered is lost; it happens each time the store has grown by a quarter.
            self.0 = vec![[0; WAYS]; buckets];
        }
        if let Some(bucket) = self.bucket(newcomer) {
            bucket.copy_within(..WAYS - 1, 1);
            bucket[0] = fingerprint(newcomer);
        }
    }

    /// Whether the fingerprint was there; it is no more.
    fn forget(&mut self, newcomer: Newcomer) -> bool {
        let Some(bucket) = self.bucket(newcomer) else { return false };
        let Some(at) = bucket.iter().position(|&known| known == fingerprint(newcomer)) else {
            return false;
        };
        bucket.copy_within(at + 1.., at);
        bucket[WAYS - 1] = 0;
        true
    }

    fn bucket(&mut self, newcomer: Newcomer) -> Option<&mut [u16; WAYS]> {
        // Scaled, so that any number of buckets will do; the slot keeps those apart whose page is small.
        let at = (u64::from(newcomer.position) * self.0.len() as u64) >> u32::BITS;
        self.0.get_mut(at as usize)
    }
}

/// Never zero, which stands for nothing.
fn fingerprint(newcomer: Newcomer) -> u16 {
    newcomer.tag.max(1)
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
    fn the_oldest_leaves_first_and_the_queue_is_bounded() {
        let newcomers = Newcomers::default();
        for number in 0..1_000 {
            assert!(newcomers.admit(slot(7), hash(number), 300));
        }
        let full = newcomers.bytes();
        assert!(full >= QUEUE_MIN * 8);
        let first = newcomers.pop().unwrap();
        assert_eq!(first, Newcomer::new(slot(7), hash(1_000 - QUEUE_MIN as u64)));
        assert!(newcomers.are_many(630) && !newcomers.are_many(631));
        assert_eq!(std::iter::from_fn(|| newcomers.pop()).count(), QUEUE_MIN - 1);
        assert_eq!(newcomers.len.load(Ordering::Relaxed), 0);
        assert!(newcomers.bytes() < full / 4);
    }

    #[test]
    fn what_was_evicted_is_known_once_when_it_returns() {
        let newcomers = Newcomers::default();
        let numbers = 0..2_000_u64;
        for number in numbers.clone() {
            let newcomer = Newcomer::new(slot(number as u16 % 16_384), hash(number));
            newcomers.remember(newcomer, 4_000);
        }
        let known =
            |number: u64| !newcomers.admit(slot(number as u16 % 16_384), hash(number), 4_000);
        let first = { numbers.clone() }.filter(|&number| known(number)).count();
        assert!(first > 1_500, "{first}");
        let again = { numbers }.filter(|&number| known(number)).count();
        assert!(again < 20, "{again}");
        let strangers = (10_000..20_000).filter(|&number| known(number)).count();
        assert!(strangers < 20, "{strangers}");
    }
}
