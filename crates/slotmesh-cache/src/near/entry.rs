use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use slotmesh_coherence::Stamp;
use slotmesh_slots::{Epoch, MonoTime, Seq, Slot, Version};

use super::bound::{Bound, Cover};
use super::packed::Packing;

/// Reads that are counted: what S3-FIFO has two bits for.
pub(super) const USES_MAX: u64 = 3;

/// Bytes in steps of 16, rounded up by less than a 256th, to 134 MB.
const WEIGHT: Packing = Packing { mantissa: 8, bits: 12 };
const WEIGHT_UNIT_BYTES: usize = 16;

/// How long a stale value may be served, in steps of 64 ms, rounded down by less than a 16th, to 9 hours.
const STALE: Packing = Packing { mantissa: 4, bits: 8 };
const STALE_UNIT_MILLIS: u64 = 64;

/// Milliseconds for 34 years, after which nothing is taken in any more.
const FRESH_BITS: u32 = 40;

/// A million writes of one slot each second for 17 years; a version beyond is not taken in.
const SEQ_BITS: u32 = 49;

// Layout of `Entry::life`, from the lowest bit.
const QUEUE_AT: u32 = 2;
const WEIGHT_AT: u32 = 4;
const STALE_AT: u32 = 16;
const FRESH_AT: u32 = 24;

// Layout of `Entry::origin`.
const SLOT_AT: u32 = SEQ_BITS;
const SLOT_MASK: u16 = (1 << 14) - 1;
const TOLD: u64 = 1 << 63;

/// A place for an entry: 24 bytes beside key and value, so that a whole one fits a cache line. Vacant without a key.
#[derive(Debug)]
pub(super) struct Entry<K, V> {
    key: Option<K>,
    /// None says that there is no such value.
    value: Option<Arc<V>>,
    /// Uses (2 bits), queue (2), weight (12), stale time (8), fresh until (40). Only uses change while it is shared.
    life: AtomicU64,
    /// Generation (32), epoch (32).
    stamp: u64,
    /// Position in the slot's history (49 bits), slot (14), whether its owner tells of writes. Of a vacant one: the next vacant one.
    origin: u64,
}

/// Which queue an entry is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// New ones, on trial.
    Small,
    /// Those that were read again.
    Main,
    /// Those that say that there is no value.
    Absent,
}

/// What an entry is made of, packed already.
#[derive(Debug)]
pub(super) struct Terms {
    life: u64,
    stamp: u64,
    origin: u64,
}

impl Terms {
    /// None when something does not fit: too large, or a number that no cluster reaches.
    pub(super) fn new(
        (slot, cover): (Slot, Cover),
        version: Version,
        bytes: usize,
        (fresh_until, stale_for): (MonoTime, Duration),
    ) -> Option<Self> {
        let weight = WEIGHT.at_least(bytes.div_ceil(WEIGHT_UNIT_BYTES) as u64)?;
        let millis = fresh_until.as_micros() / 1_000;
        let stale_millis = u64::try_from(stale_for.as_millis()).unwrap_or(u64::MAX);
        let stale = STALE.at_most(stale_millis / STALE_UNIT_MILLIS);
        let Version { epoch, seq } = version;
        let fits = millis >> FRESH_BITS == 0 && seq.0 >> SEQ_BITS == 0;
        let (told, Stamp(generation)) = match cover {
            Cover::Told(stamp) => (TOLD, stamp),
            Cover::Nobody => (0, Stamp(0)),
        };
        fits.then_some(Self {
            life: weight << WEIGHT_AT | stale << STALE_AT | millis << FRESH_AT,
            stamp: u64::from(generation) << 32 | u64::from(epoch.0),
            origin: told | u64::from(slot.number()) << SLOT_AT | seq.0,
        })
    }

    /// Bytes that it counts for.
    pub(super) const fn weight(&self) -> usize {
        weight(self.life)
    }
}

impl<K, V> Entry<K, V> {
    pub(super) fn new(
        key: K,
        value: Option<Arc<V>>,
        terms: &Terms,
        (queue, uses): (Queue, u64),
    ) -> Self {
        let queue = match queue {
            Queue::Small => 0,
            Queue::Main => 1,
            Queue::Absent => 2,
        };
        let life = AtomicU64::new(terms.life | queue << QUEUE_AT | uses);
        Self { key: Some(key), value, life, stamp: terms.stamp, origin: terms.origin }
    }

    /// Makes it vacant and the first of the vacant ones, before `next`. Gives back its key and value.
    pub(super) fn vacate(&mut self, next: u32) -> (Option<K>, Option<Arc<V>>) {
        self.origin = u64::from(next);
        (self.key.take(), self.value.take())
    }

    /// The vacant one after this vacant one.
    pub(super) const fn next_vacant(&self) -> u32 {
        self.origin as u32
    }

    pub(super) const fn key(&self) -> Option<&K> {
        self.key.as_ref()
    }

    pub(super) const fn value(&self) -> Option<&Arc<V>> {
        self.value.as_ref()
    }

    /// Counts a read; false if it made no difference.
    pub(super) fn touch(&self) -> bool {
        let life = self.life.load(Ordering::Relaxed);
        // Reading first keeps the cache line of a hot entry shared between cores. One of two reads at once may get lost.
        life & USES_MAX != USES_MAX
            && self
                .life
                .compare_exchange(life, life + 1, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    pub(super) fn uses(&self) -> u64 {
        self.life() & USES_MAX
    }

    /// Takes one use away, if there is one.
    pub(super) fn age(&mut self) -> bool {
        let life = self.life.get_mut();
        // With a branch: rustc 1.95 drops the subtraction of `u64::from(used)` where this is inlined into the loop of the hand.
        if *life & USES_MAX == 0 {
            return false;
        }
        *life -= 1;
        true
    }

    pub(super) fn queue(&self) -> Queue {
        match self.life() >> QUEUE_AT & 3 {
            0 => Queue::Small,
            1 => Queue::Main,
            _ => Queue::Absent,
        }
    }

    /// From the small queue into the main one, where it begins without uses.
    pub(super) fn promote(&mut self) {
        let life = self.life.get_mut();
        *life = *life & !(0b1111) | 1 << QUEUE_AT;
    }

    /// Bytes that it counts for.
    pub(super) fn weight(&self) -> usize {
        weight(self.life())
    }

    pub(super) fn fresh_until(&self) -> MonoTime {
        MonoTime::from_micros((self.life() >> FRESH_AT) * 1_000)
    }

    pub(super) fn stale_until(&self) -> MonoTime {
        let units = STALE.number(self.life() >> STALE_AT & 0xff);
        self.fresh_until() + Duration::from_millis(units * STALE_UNIT_MILLIS)
    }

    pub(super) fn version(&self) -> Version {
        Version::new(Epoch(self.stamp as u32), Seq(self.origin & ((1 << SEQ_BITS) - 1)))
    }

    pub(super) fn is_of(&self, slot: Slot) -> bool {
        self.slot() == slot
    }

    /// Whether what it says has this place in its slot's history, or a later one, as its owner counts.
    pub(super) fn is_as_new_as(&self, seq: Seq) -> bool {
        self.is_told() && self.version().seq >= seq
    }

    /// Lets nobody see it any more. It stays where it is until something takes its place.
    pub(super) fn kill(&mut self) {
        *self.life.get_mut() &= (1 << STALE_AT) - 1;
    }

    /// Whether what it says can still be known to be right, or not for long to be wrong.
    #[inline]
    pub(super) fn is_readable(&self, bound: &Bound, now: MonoTime) -> bool {
        !self.is_told() || bound.is_readable(self.slot(), self.generation(), now)
    }

    /// Whether it will never be read again.
    pub(super) fn is_over(&self, bound: &Bound, now: MonoTime) -> bool {
        let dropped = self.is_told() && bound.subscriber.is_dropped(self.slot(), self.generation());
        dropped || now >= self.stale_until()
    }

    const fn is_told(&self) -> bool {
        self.origin & TOLD != 0
    }

    fn slot(&self) -> Slot {
        Slot::new((self.origin >> SLOT_AT) as u16 & SLOT_MASK).expect("14 bits of a slot")
    }

    const fn generation(&self) -> Stamp {
        Stamp((self.stamp >> 32) as u32)
    }

    fn life(&self) -> u64 {
        self.life.load(Ordering::Relaxed)
    }
}

const fn weight(life: u64) -> usize {
    WEIGHT.number(life >> WEIGHT_AT & 0xfff) as usize * WEIGHT_UNIT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(seq: u64, bytes: usize, until: u64, stale: Duration) -> Option<Terms> {
        let slot = (Slot::new(16_383).unwrap(), Cover::Told(Stamp(u32::MAX)));
        let version = Version::new(Epoch(u32::MAX), Seq(seq));
        Terms::new(slot, version, bytes, (MonoTime::from_micros(until * 1_000), stale))
    }

    #[test]
    fn all_of_it_comes_out_as_it_went_in() {
        let stale = Duration::from_millis(640);
        let (seq, until) = ((1 << 49) - 1, (1 << 40) - 1);
        let terms = terms(seq, 4_097, until, stale).unwrap();
        let mut entry = Entry::new(1_u64, Some(Arc::new(2_u8)), &terms, (Queue::Small, 0));
        assert_eq!(entry.version(), Version::new(Epoch(u32::MAX), Seq(seq)));
        assert_eq!(
            (entry.slot(), entry.generation()),
            (Slot::new(16_383).unwrap(), Stamp(u32::MAX))
        );
        assert!(entry.is_as_new_as(Seq(seq)) && !entry.is_as_new_as(Seq(seq + 1)));
        assert_eq!(entry.fresh_until(), MonoTime::from_micros(until * 1_000));
        assert_eq!(entry.stale_until(), entry.fresh_until() + stale);
        assert!((4_097..=4_128).contains(&entry.weight()) && entry.weight() == terms.weight());
        assert_eq!((0..5).filter(|_| entry.touch()).count(), 3);
        assert!((0..2).all(|_| entry.age()) && entry.uses() == 1);
        entry.promote();
        assert!(entry.queue() == Queue::Main && !entry.age());
        assert_eq!(entry.weight(), terms.weight());
        entry.kill();
        assert_eq!((entry.stale_until(), entry.weight()), (MonoTime::ZERO, terms.weight()));
        assert_eq!(entry.vacate(7), (Some(1), Some(Arc::new(2))));
        assert_eq!((entry.next_vacant(), entry.key()), (7, None));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(terms(1 << 49, 1, 1, Duration::ZERO).is_none());
        assert!(terms(1, 1, 1 << 40, Duration::ZERO).is_none());
        assert!(terms(1, 135 << 20, 1, Duration::ZERO).is_none());
        assert!(terms(1, 1, 1, Duration::MAX).is_some());
    }

    #[test]
    fn it_is_small() {
        assert_eq!(size_of::<Entry<Box<[u8]>, [u8; 32]>>(), 48);
        assert_eq!(size_of::<Entry<String, String>>(), 56);
        assert_eq!(size_of::<Entry<u64, String>>(), 48);
    }
}
