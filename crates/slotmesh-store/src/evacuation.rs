use slotmesh_arena::SpanId;

use crate::home::Resident;
use crate::store::{Size, Store};

/// What one call moves, about two microseconds of copying.
const BYTES_MAX: usize = 8 << 10;

/// What a block costs beside the copying, as bytes.
const BLOCK_COST: usize = 1 << 10;

impl Store {
    /// Moves a few pages and large values together, so that the memory between them becomes whole and can be used for others.
    /// Who changes a slot does it after unlocking, whenever the arena says so; what is locked or read at the moment stays.
    #[cold]
    pub(crate) fn evacuate(&self) {
        let Some(mut evacuation) = self.arena.evacuation() else { return };
        let mut left = BYTES_MAX;
        while left > 0
            && let Some(span) = evacuation.span()
            && let Some(owner) = evacuation.next_owner()
        {
            left = left.saturating_sub(evacuation.block_bytes() + BLOCK_COST);
            if let Some(resident) = Resident::of(owner) {
                self.leave(span, resident);
            }
        }
    }

    fn leave(&self, span: SpanId, resident: Resident) {
        if let Some(mut contents) = self.try_slot(resident.slot) {
            let (home, before) = (self.home(resident.slot), Size::of(&contents));
            contents.pages.change(resident.position, |page| match resident.tag {
                None => page.leave(span, home.site(resident.position)),
                Some(tag) => page.blob_leaves(span, tag, home),
            });
            self.settle(resident.slot, &contents, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use slotmesh_slots::{Epoch, MonoTime, Slot};

    use crate::{Condition, Put, Store, StoreConfig};

    const NOW: MonoTime = MonoTime::from_micros(1);
    const KEYS: usize = 60_000;

    fn key(number: usize) -> (Slot, Bytes) {
        let key = Bytes::from(format!("key{number}"));
        (Slot::of_key(&key), key)
    }

    /// Pages of many sizes and large values of 600 to 1,600 bytes, so many that they are in spans of the arena.
    #[test]
    fn what_is_left_moves_together() {
        let store = Store::new(StoreConfig { budget_bytes: 1 << 30, ..StoreConfig::default() });
        let value = |number: usize| match number % 3 {
            0 => vec![number as u8; 600 + number % 1_000],
            _ => vec![number as u8; number % 300],
        };
        for number in 0..KEYS {
            let (slot, key) = key(number);
            let _ = store.lock(slot).put(Epoch(1), Put::new(key, value(number)), NOW).unwrap();
        }
        let held: Vec<_> = (0..KEYS).step_by(3_000).map(key).collect();
        let held: Vec<_> =
            held.iter().filter_map(|(slot, key)| store.get(*slot, key, NOW)).collect();
        let full = store.stats();
        for number in (0..KEYS).filter(|number| number % 10 != 0) {
            let (slot, key) = key(number);
            let _ = store.lock(slot).delete(Epoch(1), &key, Condition::Always, NOW).unwrap();
        }
        // What nobody writes any more moves too, bit by bit.
        let mut before = usize::MAX;
        while store.arena.is_sparse() {
            (0..1_000).for_each(|_| store.release_retired());
            let slack = store.stats().slack_bytes;
            assert!(slack < before, "nothing moves any more at {slack}");
            before = slack;
        }
        let left = store.stats();
        let freed = full.entry_bytes - left.entry_bytes;
        // Not all of it: each of a hundred sizes in use has a span that is only used in part.
        assert!(
            left.entry_bytes * 6 < full.entry_bytes && left.slack_bytes * 2 < freed,
            "{left:?}"
        );
        for number in (0..KEYS).step_by(10) {
            let (slot, key) = key(number);
            assert_eq!(store.get(slot, &key, NOW).unwrap().value, value(number));
        }
        store.check_invariants().unwrap();
        assert_eq!(held.len(), KEYS / 3_000);
    }

    /// Once little is left the memory for it is the global allocator's, where a block takes another size than in the arena.
    #[test]
    fn what_moves_to_the_other_allocator_is_counted_as_it_is_there() {
        let store = Store::new(StoreConfig { budget_bytes: 64 << 20, ..StoreConfig::default() });
        let many: Vec<_> = (0..20_000).map(key).collect();
        let value = |number: usize| vec![number as u8; 2_000];
        for (number, (slot, key)) in many.iter().enumerate() {
            let put = Put::new(key.clone(), value(number));
            let _ = store.lock(*slot).put(Epoch(1), put, NOW).unwrap();
        }
        let delete_but = |every: usize| {
            for (_, (slot, key)) in many.iter().enumerate().filter(|(at, _)| at % every != 0) {
                let _ = store.lock(*slot).delete(Epoch(1), key, Condition::Always, NOW).unwrap();
            }
        };
        delete_but(120);
        store.release_retired();
        assert!(store.arena.uses_heap());
        delete_but(1_000);
        (0..1_000).for_each(|_| store.release_retired());
        store.check_invariants().unwrap();
        delete_but(usize::MAX);
        let (slot, key) = &many[0];
        let _ = store.lock(*slot).delete(Epoch(1), key, Condition::Always, NOW).unwrap();
        assert_eq!((store.len(), store.entry_bytes()), (0, 0));
    }
}
