use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use slotmesh_slots::{Class, MonoTime, Slot};

use crate::contents::SlotContents;
use crate::entry::Usage;
use crate::newcomers::{Admission, Newcomer};
use crate::page::Page;
use crate::pages::{Pages, position};
use crate::store::Store;

/// Entries that one call of [`Store::victim`] passes before it settles for the least used one seen: about 20 us.
const ENTRIES_MAX: usize = 1024;
/// Uses that make a newcomer one of the main entries.
const PROMOTING_USES: u8 = 2;
/// Slots that one call passes because nothing in them may be evicted: about 10 us.
const REFUSED_MAX: usize = 1024;
/// Newcomers that one call looks at.
const NEWCOMERS_MAX: usize = 256;
/// Pages that one newcomer is looked for in. It is one unless a slot holds GiB, and this many are enough for 16 GiB.
const PAGES_MAX: usize = 8;
/// Stands for the frequency of an entry in the queue of newcomers: the hand names it only if there is nothing else.
const YOUNG: u8 = u8::MAX;
/// Slots in which one call looks for an expired entry first: 1 KiB of deadlines.
const EXPIRED_SLOTS: usize = 128;
/// Times the hand goes round a nearly empty store: an entry of the highest frequency is cold after three passes.
const ROUNDS_MAX: usize = 4;

/// Where the eviction hand stands: slot, position in it and entry of the page there. Concurrent callers may overwrite each
/// other's steps; a hand that jumps only evicts in another order.
#[derive(Debug)]
pub(crate) struct Hand(AtomicU64);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Spot {
    slot: usize,
    position: u32,
    at: usize,
}

/// Bits of the hand for the entry within a page. One that has more loses its place in it.
const AT_BITS: u32 = 18;

/// Slots and positions in them.
const ROUND: u64 = 1 << (u64::BITS - AT_BITS);

impl Hand {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn load(&self) -> Spot {
        let hand = self.0.load(Ordering::Relaxed);
        let (rest, at) = (hand >> AT_BITS, hand & ((1 << AT_BITS) - 1));
        Spot { slot: (rest >> u32::BITS) as usize, position: rest as u32, at: at as usize }
    }

    /// Whether the hand comes by within half a round. Whoever joins the main entries then gets one use in advance: in a queue
    /// it would stay for a whole round, and so it does for between a half and one and a half.
    pub(crate) fn is_near(&self, slot: Slot, position: u32) -> bool {
        let hand = self.0.load(Ordering::Relaxed) >> AT_BITS;
        let there = u64::from(slot.number()) << u32::BITS | u64::from(position);
        there.wrapping_sub(hand) & (ROUND - 1) < ROUND / 2
    }

    fn store(&self, spot: Spot) {
        let at = spot.at as u64 & ((1 << AT_BITS) - 1);
        let rest = (spot.slot as u64) << u32::BITS | u64::from(spot.position);
        self.0.store(rest << AT_BITS | at, Ordering::Relaxed);
    }
}

/// One call's walk of the hand.
struct Walk {
    now: MonoTime,
    entries_left: usize,
    /// The least used entry passed, with its frequency.
    best: Option<(u8, Slot, Bytes)>,
}

impl Walk {
    /// Passes a slot's entries from the spot on; stops at a cold or expired one or when the work is done, and returns the
    /// next spot.
    fn pass(&mut self, slot: Slot, contents: &mut SlotContents, mut spot: Spot) -> Option<Spot> {
        loop {
            let (page, next) = contents.pages.page_at_mut(spot.position);
            while spot.at < page.len() {
                self.entries_left -= 1;
                if self.look(slot, page, spot.at) {
                    // The one behind takes its place.
                    return Some(spot);
                }
                spot.at += 1;
                if self.entries_left == 0 {
                    return Some(spot);
                }
            }
            spot = Spot { position: next?, at: 0, ..spot };
        }
    }

    /// Looks at an entry, which ages it; whether none better can be found.
    fn look(&mut self, slot: Slot, page: &mut Page, at: usize) -> bool {
        let Some(stored) = page.entry(at) else { return false };
        if stored.is_expired(self.now) {
            self.suggest(0, slot, stored.key());
            return true;
        }
        if stored.class() == Class::State {
            return false;
        }
        if stored.is_young() {
            // It waits in the queue of newcomers, which is a turn of its own.
            self.suggest(YOUNG, slot, stored.key());
            return false;
        }
        let frequency = stored.frequency();
        self.suggest(frequency, slot, stored.key());
        page.cool(at);
        frequency == 0
    }

    fn suggest(&mut self, frequency: u8, slot: Slot, key: &[u8]) {
        if self.best.as_ref().is_none_or(|(least, ..)| frequency < *least) {
            self.best = Some((frequency, slot, Bytes::copy_from_slice(key)));
        }
    }
}

impl Store {
    /// The next entry to evict among the slots that `may_evict` accepts (those this node is primary of), for
    /// [`SlotGuard::evict`](crate::SlotGuard::evict). `None` when nothing was found this time.
    ///
    /// S3-FIFO (Yang, Zhang, Qiu, Yue and Rashmi, SOSP 2023) with CLOCK for its main queue: new entries queue in a small FIFO of a tenth of
    /// the store, where those that are not read again go at its end, so a scan cannot push out what is in use; the others
    /// are the hand's, which passes each as often as it was used. One whose fingerprint is still known comes back without queueing. Expired entries
    /// go first. Work per call is bounded. Slots that are locked at the moment are skipped, so calling it while holding a
    /// guard is safe. Several threads may call it at once and may be told the same key.
    #[must_use]
    pub fn victim(&self, may_evict: &dyn Fn(Slot) -> bool, now: MonoTime) -> Option<(Slot, Bytes)> {
        self.release_retired();
        if let Some(found) = self.due(may_evict, now, (EXPIRED_SLOTS, 1)).pop() {
            return Some(found);
        }
        if self.newcomers.are_many(self.len())
            && let Some(found) = self.unused_newcomer(may_evict, now)
        {
            return Some(found);
        }
        let (frequency, slot, key) = self.passed_by_hand(may_evict, now)?;
        if frequency == YOUNG
            && let Some(found) = self.unused_newcomer(may_evict, now)
        {
            return Some(found);
        }
        Some((slot, key))
    }

    /// How a new entry begins.
    pub(crate) fn admit(&self, slot: Slot, hash: u64) -> Usage {
        match self.newcomers.admit(slot, hash, self.len()) {
            Admission::Queues => Usage::YOUNG,
            Admission::Returns if self.hand.is_near(slot, position(hash)) => {
                Usage::default().touched()
            }
            // While a store fills, all are newcomers. Those that find the queue full go when the hand first comes by, if they
            // were not used until then.
            Admission::Returns | Admission::Crowded => Usage::default(),
        }
    }

    /// The oldest newcomer that was hardly used since it came; those before it that were are newcomers no more.
    fn unused_newcomer(
        &self,
        may_evict: &dyn Fn(Slot) -> bool,
        now: MonoTime,
    ) -> Option<(Slot, Bytes)> {
        for _ in 0..NEWCOMERS_MAX {
            let newcomer = self.newcomers.pop()?;
            let Some(slot) = newcomer.slot() else { continue };
            let is_evictable = may_evict(slot);
            let Some(mut contents) = self.try_slot(slot) else {
                self.newcomers.requeue(newcomer);
                continue;
            };
            let Some((position, at)) = find(newcomer, &contents.pages) else { continue };
            let (page, _) = contents.pages.page_at_mut(position);
            let Some(stored) = page.entry(at) else { continue };
            let (frequency, is_expired) = (stored.frequency(), stored.is_expired(now));
            if is_evictable && (frequency < PROMOTING_USES || is_expired) {
                let key = Bytes::copy_from_slice(stored.key());
                // It has left the queue, so it is the hand's if the caller does not take it.
                page.grow_up(at);
                drop(contents);
                self.newcomers.remember(self.hash(&key), self.len());
                return Some((slot, key));
            }
            page.grow_up(at);
            if self.hand.is_near(slot, position) {
                page.touch(at);
            }
        }
        None
    }

    /// The least used entry that the hand comes by, with its frequency.
    fn passed_by_hand(
        &self,
        may_evict: &dyn Fn(Slot) -> bool,
        now: MonoTime,
    ) -> Option<(u8, Slot, Bytes)> {
        let mut spot = self.hand.load();
        let mut walk = Walk { now, entries_left: ENTRIES_MAX, best: None };
        let (mut rounds, mut refused) = (0, 0);
        while rounds < ROUNDS_MAX && refused < REFUSED_MAX {
            let Some(slot) = self.occupancy.next(spot.slot) else {
                rounds += 1;
                spot = Spot::default();
                continue;
            };
            if slot.index() != spot.slot {
                spot = Spot { slot: slot.index(), ..Spot::default() };
            }
            if !may_evict(slot) {
                refused += 1;
            } else if let Some(mut contents) = self.try_slot(slot)
                && let Some(next) = walk.pass(slot, &mut contents, spot)
            {
                self.hand.store(next);
                return walk.best;
            }
            spot = Spot { slot: slot.index() + 1, ..Spot::default() };
        }
        self.hand.store(spot);
        walk.best
    }
}

/// A position in the newcomer's page, and which entry of that it is.
fn find(newcomer: Newcomer, pages: &Pages) -> Option<(u32, usize)> {
    let positions = newcomer.positions();
    let mut position = *positions.start();
    for _ in 0..PAGES_MAX {
        let (page, next) = pages.page_at(position);
        if let Some(at) = page.find_young(newcomer.tag()) {
            return Some((position, at));
        }
        position = next.filter(|next| positions.contains(next))?;
    }
    None
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
            assert_eq!((store.len(), store.stats().entry_bytes), (0, 0));
            assert!(store.victim(&|_| true, NOW).is_none());
        }
    }

    #[test]
    fn a_search_among_what_others_own_is_short_and_goes_on() {
        let store = Store::new(StoreConfig::default());
        (0..20_000).for_each(|i| {
            put(&store, &format!("{i}"), None);
        });
        let mine = Slot::of_key(b"mine");
        let (mut searches, mut asked) = (0, 0);
        let found = loop {
            let seen = std::cell::Cell::new(0);
            let allowed = |slot: Slot| {
                seen.set(seen.get() + 1);
                slot == mine
            };
            let found = store.victim(&allowed, NOW);
            (searches, asked) = (searches + 1, asked.max(seen.get()));
            if found.is_some() || searches == 100 {
                break found;
            }
        };
        assert_eq!(found.map(|(slot, _)| slot), Some(mine));
        assert!(asked <= REFUSED_MAX + 2 * NEWCOMERS_MAX + EXPIRED_SLOTS, "{asked}");
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
    fn the_hand_passes_newcomers_by_until_they_leave_the_queue() {
        let store = Store::new(StoreConfig::default());
        // The first of these find room in the queue, the others do not.
        (0..600).for_each(|i| {
            put(&store, &format!("{{t}}{i}"), None);
        });
        let young = || {
            let contents = store.slot(Slot::of_key(b"{t}"));
            contents.pages.iter().filter(|stored| stored.is_young()).count()
        };
        let queued = young();
        assert!((60..=90).contains(&queued), "{queued}");
        for _ in 0..20 {
            assert_ne!(store.passed_by_hand(&|_| true, NOW).unwrap().0, YOUNG);
        }
        assert_eq!(young(), queued);
        // Whoever is named has left the queue; so has, unnamed, who may not be evicted here.
        store.unused_newcomer(&|_| true, NOW).unwrap();
        assert_eq!(young(), queued - 1);
        assert!(store.unused_newcomer(&|_| false, NOW).is_none());
        assert_eq!(young(), 0);
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
