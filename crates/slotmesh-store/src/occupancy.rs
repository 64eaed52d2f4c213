use std::sync::atomic::{AtomicU64, Ordering};

use slotmesh_slots::{SLOT_COUNT, Slot};

const WORDS: usize = SLOT_COUNT / 64;

/// Which slots hold entries, readable without their locks: the eviction hand skips 64 empty slots at a step.
#[derive(Debug)]
pub(crate) struct Occupancy([AtomicU64; WORDS]);

impl Occupancy {
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// Called under the slot's lock when it becomes empty or stops being so; neighbours share a word, hence the atomics.
    pub(crate) fn set(&self, slot: Slot, occupied: bool) {
        let (word, bit) = (&self.0[slot.index() / 64], 1 << (slot.index() % 64));
        if occupied {
            word.fetch_or(bit, Ordering::Relaxed);
        } else {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    pub(crate) fn contains(&self, slot: Slot) -> bool {
        self.0[slot.index() / 64].load(Ordering::Relaxed) >> (slot.index() % 64) & 1 == 1
    }

    /// The first occupied slot at or after `from`, without going round.
    pub(crate) fn next(&self, from: usize) -> Option<Slot> {
        let mut index = from;
        while index < SLOT_COUNT {
            let rest = self.0[index / 64].load(Ordering::Relaxed) >> (index % 64);
            if rest != 0 {
                return Slot::new((index + rest.trailing_zeros() as usize) as u16);
            }
            index = (index / 64 + 1) * 64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_finds_exactly_the_set_slots() {
        let occupancy = Occupancy::new();
        let numbers = [0, 1, 63, 64, 200, 16_383];
        for number in numbers {
            occupancy.set(Slot::new(number).unwrap(), true);
        }
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(slot) = occupancy.next(from) {
            found.push(slot.number());
            from = slot.index() + 1;
        }
        assert_eq!(found, numbers);
        occupancy.set(Slot::new(63).unwrap(), false);
        assert_eq!(occupancy.next(2).map(Slot::number), Some(64));
        assert_eq!(occupancy.next(SLOT_COUNT), None);
    }
}
