use slotmesh_arena::SpanId;

use crate::home::Resident;
use crate::store::Store;

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
            let home = self.home(resident.slot);
            let (page, _) = contents.pages.page_at_mut(resident.position);
            match resident.tag {
                None => page.leave(span, home.site(resident.position)),
                Some(tag) => page.blob_leaves(span, tag, home),
            }
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
}
