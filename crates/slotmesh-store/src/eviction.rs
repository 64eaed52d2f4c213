use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use slotmesh_slots::{MonoTime, Slot};

use crate::contents::SlotContents;
use crate::store::Store;

/// Entries that one call of [`Store::victim`] passes before it settles for the least used one seen: about 20 us.
const ENTRIES_MAX: usize = 1024;
/// Empty table places that it passes at most: about 100 us. Only a slot of which tens of thousands of entries went in a
/// row has that many; the next call goes on from there.
const EMPTY_PLACES_MAX: usize = 1 << 16;
/// Slots in which one call looks for an expired entry first: 1 KiB of deadlines.
const EXPIRED_SLOTS: usize = 128;
/// Times the hand goes round a nearly empty store: an entry of the highest frequency is cold after three passes.
const ROUNDS_MAX: usize = 4;

/// Where the eviction hand stands: slot in the upper, place in its table in the lower half. Concurrent callers may
/// overwrite each other's steps; a hand that jumps only evicts in another order.
#[derive(Debug)]
pub(crate) struct Hand(AtomicU64);

impl Hand {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn load(&self) -> (usize, usize) {
        let hand = self.0.load(Ordering::Relaxed);
        ((hand >> 32) as usize, (hand & u64::from(u32::MAX)) as usize)
    }

    fn store(&self, slot: usize, place: usize) {
        self.0.store((slot as u64) << 32 | place as u64 & u64::from(u32::MAX), Ordering::Relaxed);
    }
}

/// One call's walk of the hand.
struct Walk {
    now: MonoTime,
    entries_left: usize,
    empty_left: usize,
    /// The least used entry passed, with its frequency.
    best: Option<(u8, Slot, Bytes)>,
}

impl Walk {
    /// Passes a slot's entries from `place` on; stops at a cold or expired one or when the work is done, and returns the
    /// next place.
    fn pass(&mut self, slot: Slot, contents: &SlotContents, mut place: usize) -> Option<usize> {
        let places = contents.table.places();
        while place < places && !self.is_over() {
            let stored = contents.table.at(place);
            place += 1;
            let Some(stored) = stored else {
                self.empty_left -= 1;
                continue;
            };
            self.entries_left -= 1;
            let frequency = if stored.is_expired(self.now) { 0 } else { stored.frequency() };
            if self.best.as_ref().is_none_or(|(least, ..)| frequency < *least) {
                self.best = Some((frequency, slot, stored.key_handle()));
            }
            if frequency == 0 {
                return Some(place);
            }
            stored.cool();
        }
        self.is_over().then_some(place)
    }

    fn is_over(&self) -> bool {
        self.entries_left == 0 || self.empty_left == 0
    }

    fn victim(self) -> Option<(Slot, Bytes)> {
        self.best.map(|(_, slot, key)| (slot, key))
    }
}

impl Store {
    /// The next entry to evict among the slots that `may_evict` accepts (those this node is primary of), for
    /// [`SlotGuard::evict`](crate::SlotGuard::evict). `None` when nothing was found this time.
    ///
    /// CLOCK with a frequency of two bits (as Corbató's, with the counter of S3-FIFO's main queue): a new entry starts
    /// at zero, so one that is never read again goes at the hand's first pass, and a scan cannot push out what is in
    /// use. Expired entries go first. Work per call is bounded. Slots that are locked at the moment are skipped, so calling it while holding a
    /// guard is safe. Several threads may call it at once and may be told the same key.
    #[must_use]
    pub fn victim(&self, may_evict: &dyn Fn(Slot) -> bool, now: MonoTime) -> Option<(Slot, Bytes)> {
        if let Some(found) = self.due(may_evict, now, (EXPIRED_SLOTS, 1)).pop() {
            return Some(found);
        }
        let (mut index, mut place) = self.hand.load();
        let mut walk =
            Walk { now, entries_left: ENTRIES_MAX, empty_left: EMPTY_PLACES_MAX, best: None };
        let mut rounds = 0;
        while rounds < ROUNDS_MAX {
            let Some(slot) = self.occupancy.next(index) else {
                rounds += 1;
                (index, place) = (0, 0);
                continue;
            };
            if slot.index() != index {
                place = 0;
            }
            index = slot.index();
            if may_evict(slot)
                && let Some(contents) = self.cell(slot).try_lock()
                && let Some(next) = walk.pass(slot, &contents, place)
            {
                self.hand.store(index, next);
                return walk.victim();
            }
            (index, place) = (index + 1, 0);
        }
        walk.victim()
    }
}

#[cfg(test)]
mod tests {
    use slotmesh_slots::Epoch;

    use super::*;
    use crate::{Put, StoreConfig};

    const NOW: MonoTime = MonoTime::from_micros(5);

    fn put(store: &Store, key: &str, deadline: Option<MonoTime>) -> Slot {
        let slot = Slot::of_key(key.as_bytes());
        let put = Put { deadline, ..Put::new(key.to_owned(), "v") };
        let _ = store.lock(slot).put(Epoch(1), put, MonoTime::ZERO).unwrap();
        slot
    }

    fn evict_one(store: &Store, may_evict: &dyn Fn(Slot) -> bool) -> Option<Bytes> {
        let (slot, key) = store.victim(may_evict, NOW)?;
        assert!(store.lock(slot).evict(Epoch(1), &key, NOW).is_some());
        Some(key)
    }

    #[test]
    fn everything_can_be_evicted_and_then_there_is_no_victim() {
        // Unread entries go in the hand's order, so a table is emptied from its start; read ones go here and there.
        for (spread, reads_max) in [("", 0), ("{t}", 0), ("", 7), ("{t}", 7)] {
            let store = Store::new(StoreConfig::default());
            for i in 0..3_000 {
                let key = format!("{spread}{i}");
                let slot = put(&store, &key, None);
                for _ in 0..i.min(reads_max) {
                    store.get(slot, key.as_bytes(), NOW).unwrap();
                }
            }
            for _ in 0..3_000 {
                assert!(evict_one(&store, &|_| true).is_some());
            }
            assert_eq!((store.len(), store.used_bytes()), (0, 0));
            assert!(store.victim(&|_| true, NOW).is_none());
        }
    }

    #[test]
    fn an_overwritten_entry_keeps_its_standing() {
        for i in 0..30 {
            let (store, hot) = (Store::new(StoreConfig::default()), format!("{{t}}hot{i}"));
            let slot = put(&store, &hot, None);
            put(&store, &format!("{{t}}cold{i}"), None);
            store.get(slot, hot.as_bytes(), NOW).unwrap();
            put(&store, &hot, None);
            assert_ne!(evict_one(&store, &|_| true).unwrap(), hot);
        }
    }

    #[test]
    fn expired_entries_go_first() {
        let store = Store::new(StoreConfig::default());
        let slot = put(&store, "{t}expired", Some(NOW));
        store.get(slot, b"{t}expired", MonoTime::ZERO).unwrap();
        (0..500).for_each(|i| {
            put(&store, &format!("{{t}}{i}"), None);
        });
        // The window of slots searched for expired entries may take a round to come by.
        let first: Vec<_> = (0..200).filter_map(|_| evict_one(&store, &|_| true)).collect();
        assert!(first.iter().any(|key| key == "{t}expired"));
    }

    #[test]
    fn only_accepted_slots_lose_entries() {
        let store = Store::new(StoreConfig::default());
        let (a, b) = (put(&store, "a", None), put(&store, "b", Some(NOW)));
        assert_eq!(evict_one(&store, &|slot| slot == a).as_deref(), Some(&b"a"[..]));
        assert_eq!(evict_one(&store, &|slot| slot == a), None);
        assert_eq!(store.lock(b).len(), 1);
    }

    #[test]
    fn a_locked_slot_is_skipped() {
        let store = Store::new(StoreConfig::default());
        let guard = store.lock(put(&store, "a", None));
        assert!(store.victim(&|_| true, NOW).is_none());
        drop(guard);
        assert!(store.victim(&|_| true, NOW).is_some());
    }
}
