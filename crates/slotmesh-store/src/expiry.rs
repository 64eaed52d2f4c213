use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use slotmesh_slots::{MonoTime, SLOT_COUNT, Slot};

use crate::entry::NEVER;
use crate::pages::Pages;
use crate::store::Store;

/// Entries that one call of [`Store::expired`] looks at: about 50 us of work, in one slot at a time.
const SCAN_ENTRIES_MAX: usize = 4096;

/// A slot's search for expired entries: a cursor over its positions that learns the earliest deadline as it goes, so that
/// a slot without anything due is skipped without being locked.
#[derive(Debug)]
pub(crate) struct Sweep {
    /// No entry expires before this.
    earliest: MonoTime,
    /// Earliest deadline seen since the cursor was at zero; becomes `earliest` when it has passed all positions.
    seen: MonoTime,
    /// The next position to look at.
    cursor: u32,
    /// How many entries of the page there were named already.
    named: u32,
}

impl Sweep {
    /// At its start, in a slot where no entry expires before this.
    #[inline]
    pub(crate) fn new(earliest: MonoTime) -> Self {
        Self { earliest, ..Self::default() }
    }

    /// Whether the next search begins with the slot's first entry.
    pub(crate) fn is_at_start(&self) -> bool {
        (self.cursor, self.named) == (0, 0)
    }

    /// A bound from below for the slot's deadlines.
    pub(crate) fn earliest(&self) -> MonoTime {
        self.earliest
    }

    /// An entry with this deadline was added.
    pub(crate) fn note(&mut self, deadline: MonoTime) {
        self.earliest = self.earliest.min(deadline);
        self.seen = self.seen.min(deadline);
    }

    /// Looks at about `budget` entries and names up to `room` expired keys; returns how many entries it looked at.
    fn scan(
        &mut self,
        pages: &Pages,
        now: MonoTime,
        (budget, room): (usize, usize),
        mut found: impl FnMut(Bytes),
    ) -> usize {
        let (mut looked, mut left) = (0, room);
        while looked < budget && left > 0 {
            let (page, next) = pages.page_at(self.cursor);
            let earliest = page.iter().map(|stored| stored.expires_at()).min();
            self.seen = self.seen.min(earliest.unwrap_or(NEVER));
            looked += page.len() + 1;
            let skip = self.named as usize;
            for (at, stored) in page.iter().enumerate().skip(skip) {
                if left > 0 && stored.is_expired(now) {
                    found(Bytes::copy_from_slice(stored.key()));
                    self.named = at as u32 + 1;
                    left -= 1;
                }
            }
            if left == 0 && page.iter().skip(self.named as usize).any(|other| other.is_expired(now))
            {
                return looked;
            }
            self.named = 0;
            self.cursor = next.unwrap_or(0);
            if next.is_none() {
                (self.earliest, self.seen) = (self.seen, NEVER);
                break;
            }
        }
        looked
    }
}

impl Default for Sweep {
    fn default() -> Self {
        Self { earliest: NEVER, seen: NEVER, cursor: 0, named: 0 }
    }
}

/// About each slot's earliest deadline, readable without its lock: a scan of all slots reads 64 KiB in order.
#[derive(Debug)]
pub(crate) struct Deadlines {
    ticks: Box<[AtomicU32]>,
    /// The slot where the next search starts.
    cursor: AtomicU32,
}

impl Deadlines {
    pub(crate) fn new() -> Self {
        let never = || AtomicU32::new(u32::MAX);
        let ticks = std::iter::repeat_with(never).take(SLOT_COUNT).collect();
        Self { ticks, cursor: AtomicU32::new(0) }
    }

    /// Called under the slot's lock, so writes of one slot are ordered. Readers only take hints from here.
    #[inline]
    pub(crate) fn publish(&self, slot: Slot, earliest: MonoTime) {
        let (place, ticks) = (&self.ticks[slot.index()], ticks(earliest));
        if place.load(Ordering::Relaxed) != ticks {
            place.store(ticks, Ordering::Relaxed);
        }
    }

    /// Whether this is the slot's.
    pub(crate) fn is_published(&self, slot: Slot, earliest: MonoTime) -> bool {
        self.ticks[slot.index()].load(Ordering::Relaxed) == ticks(earliest)
    }

    /// No entry of the slot expires before; at most a tick too early.
    #[inline]
    pub(crate) fn of(&self, slot: Slot) -> MonoTime {
        match self.ticks[slot.index()].load(Ordering::Relaxed) {
            u32::MAX => NEVER,
            ticks => MonoTime::from_micros(u64::from(ticks) << TICK_BITS),
        }
    }
}

/// A tick is 2^16 microseconds: eight years of them fit four bytes.
const TICK_BITS: u32 = 16;

/// The tick that a time is in. Times that are too far away are in the last but one, the last being never.
#[inline]
fn ticks(time: MonoTime) -> u32 {
    if time == NEVER {
        return u32::MAX;
    }
    (time.as_micros() >> TICK_BITS).min(u64::from(u32::MAX - 1)) as u32
}

impl Store {
    /// Keys whose entries have expired, at most `limit`, in any slot; the slot's primary turns them into records with
    /// [`SlotGuard::evict_expired`](crate::SlotGuard::evict_expired). Work per call is bounded, and each call continues
    /// where the last ended, so an empty answer means "nothing found this time". Slots that are locked at the moment are
    /// skipped, so calling it while holding a guard is safe. Several threads may call it at once and may be told the
    /// same keys.
    #[must_use]
    pub fn expired(&self, now: MonoTime, limit: usize) -> Vec<(Slot, Bytes)> {
        self.due(&|_| true, now, (SLOT_COUNT, limit))
    }

    /// As [`Store::expired`], in the slots that `may_evict` accepts only: those this node is primary of.
    #[must_use]
    pub fn expired_where(
        &self,
        may_evict: &dyn Fn(Slot) -> bool,
        now: MonoTime,
        limit: usize,
    ) -> Vec<(Slot, Bytes)> {
        self.due(may_evict, now, (SLOT_COUNT, limit))
    }

    /// Expired keys in the next `slots` slots, at most `limit`.
    pub(crate) fn due(
        &self,
        may_evict: &dyn Fn(Slot) -> bool,
        now: MonoTime,
        (slots, limit): (usize, usize),
    ) -> Vec<(Slot, Bytes)> {
        let mut keys = Vec::new();
        let mut budget = SCAN_ENTRIES_MAX;
        let start = self.deadlines.cursor.load(Ordering::Relaxed);
        let mut end = start + slots as u32;
        for slot in circle(start).take(slots) {
            if self.deadlines.of(slot) > now || !may_evict(slot) {
                continue;
            }
            if keys.len() >= limit || budget == 0 {
                end = u32::from(slot.number());
                break;
            }
            let Some(mut contents) = self.try_slot(slot) else { continue };
            let contents = &mut *contents;
            let bounds = (budget, limit - keys.len());
            let found = |key| keys.push((slot, key));
            budget -= contents.sweep.scan(&contents.pages, now, bounds, found).min(budget);
            self.deadlines.publish(slot, contents.sweep.earliest());
        }
        self.deadlines.cursor.store(end % SLOT_COUNT as u32, Ordering::Relaxed);
        keys
    }
}

/// All slots once, from `start` around.
fn circle(start: u32) -> impl Iterator<Item = Slot> {
    let count = SLOT_COUNT as u32;
    (0..count).filter_map(move |step| Slot::new(((start + step) % count) as u16))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use slotmesh_slots::Epoch;

    use super::*;
    use crate::{Condition, ExpireCondition, Put, StoreConfig};

    const START: MonoTime = MonoTime::from_micros(1_000_000);

    fn seconds(count: u64) -> MonoTime {
        START + Duration::from_secs(count)
    }

    /// A store with entries `k0…` in the slot (or each in its own), entry `i` expiring at `deadline(i)`.
    fn store(one_slot: bool, count: u64, deadline: impl Fn(u64) -> Option<MonoTime>) -> Store {
        let store = Store::new(StoreConfig::default());
        for i in 0..count {
            let key = if one_slot { format!("{{t}}{i}") } else { format!("k{i}") };
            let put = Put { deadline: deadline(i), ..Put::new(key.clone(), "v") };
            let _ = store.lock(Slot::of_key(key.as_bytes())).put(Epoch(1), put, START).unwrap();
        }
        store
    }

    /// Removes what `expired` names until it names nothing `rounds` times in a row; returns how many keys it removed.
    fn drain(store: &Store, now: MonoTime, rounds: usize) -> usize {
        let (mut removed, mut idle) = (0, 0);
        while idle < rounds {
            let keys = store.expired(now, 100);
            assert!(keys.len() <= 100);
            idle = if keys.is_empty() { idle + 1 } else { 0 };
            for (slot, key) in keys {
                removed +=
                    usize::from(store.lock(slot).evict_expired(Epoch(1), &key, now).is_some());
            }
        }
        store.check_invariants().unwrap();
        removed
    }

    #[test]
    fn everything_due_is_found_and_nothing_else() {
        for one_slot in [true, false] {
            let deadline = |i| (i % 3 != 0).then(|| seconds(i % 3));
            let store = store(one_slot, 9_000, deadline);
            assert_eq!(drain(&store, START, 4), 0);
            assert_eq!(drain(&store, seconds(1), 8), 3_000);
            assert_eq!(drain(&store, seconds(2), 8), 3_000);
            assert_eq!(drain(&store, seconds(900), 8), 0);
            assert_eq!(store.len(), 3_000);
        }
    }

    #[test]
    fn a_slot_with_nothing_due_is_not_looked_at_again() {
        let store = store(true, 100, |i| Some(seconds(1 + i)));
        let slot = Slot::of_key(b"{t}");
        assert_eq!(drain(&store, seconds(1), 2), 1);
        assert!(store.deadlines.is_published(slot, seconds(2)));
    }

    #[test]
    fn a_deadline_set_behind_the_cursor_is_met() {
        let store = store(true, 9_000, |_| Some(seconds(900)));
        let slot = Slot::of_key(b"{t}");
        // An entry that was due makes the slot worth a look, but is gone before the cursor comes by.
        let (epoch, gone) = (Epoch(1), Bytes::from_static(b"{t}gone"));
        let put = Put { deadline: Some(seconds(1)), ..Put::new(gone.clone(), "v") };
        let _ = store.lock(slot).put(epoch, put, START).unwrap();
        let _ = store.lock(slot).delete(epoch, &gone, Condition::Always, START).unwrap();
        assert!(store.expired(seconds(2), 100).is_empty());
        let passed = {
            let contents = store.slot(slot);
            assert!(contents.sweep.cursor > 0, "stopped midway");
            let first = contents.pages.page_at(0).0.entry(0);
            Bytes::copy_from_slice(first.unwrap().key())
        };
        let mut guard = store.lock(slot);
        let always = ExpireCondition::Always;
        let _ = guard.expire(Epoch(1), &passed, Some(seconds(50)), always, START).unwrap();
        drop(guard);
        assert_eq!(drain(&store, seconds(2), 8), 0);
        assert_eq!(drain(&store, seconds(50), 8), 1);
    }

    #[test]
    fn keys_named_but_left_in_place_are_named_again() {
        let store = store(true, 10, |_| Some(seconds(1)));
        let named = || store.expired(seconds(2), 3).into_iter().map(|(_, key)| key);
        let keys: BTreeSet<_> = std::iter::repeat_with(named).take(20).flatten().collect();
        assert_eq!(keys.len(), 10);
    }

    #[test]
    fn a_locked_slot_is_skipped() {
        let store = store(true, 1, |_| Some(seconds(1)));
        let guard = store.lock(Slot::of_key(b"{t}"));
        assert!(store.expired(seconds(2), 10).is_empty());
        drop(guard);
        assert_eq!(store.expired(seconds(2), 10).len(), 1);
    }
}
