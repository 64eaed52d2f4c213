use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ahash::RandomState;
use slotmesh_arena::Arena;
use slotmesh_slots::{MonoTime, SLOT_COUNT, Slot};

use crate::cells::{Cells, Locked, NARROW_BYTES, WIDE_FROM_BYTES};
use crate::config::{KEY_BYTES_LIMIT, StoreConfig};
use crate::contents::SlotContents;
use crate::entry::{Entry, Stored};
use crate::error::StoreError;
use crate::eviction::Hand;
use crate::expiry::Deadlines;
use crate::guard::SlotGuard;
use crate::home::Home;
use crate::newcomers::Newcomers;
use crate::occupancy::Occupancy;
use crate::packed::Packed;
use crate::pages::tag;
use crate::retired::Retired;

/// About what an entry takes beyond its key and value, in bytes: its head of 10 (16 with a deadline), 6 of index, room for its
/// page to grow and what the allocator adds. [`Store::used_bytes`] is exact; this is for judging sizes beforehand.
pub const ENTRY_OVERHEAD_BYTES: usize = 40;

/// Memory that a store takes while it is empty, in bytes: the slots' headers and side tables. Not part of
/// [`Store::used_bytes`], which counts what its entries make it take.
pub const FIXED_BYTES: usize = NARROW_BYTES + SLOT_COUNT * size_of::<u32>() + SLOT_COUNT / 8;

/// While entries take less, memory for them is the global allocator's: what it loses among so few is no more than that again, and the
/// arena would lose more.
const HEAP_BYTES_MAX: usize = 5 << 19;

/// In a store that may take less than this, it is so however much they take: spans that are used in part, one for each size, would be
/// too large a share of it.
const ARENA_BUDGET_BYTES_MIN: usize = 16 << 20;

/// What entries that are never evicted may take of the budget; the rest is for the free room of their pages.
const STATE_PERCENT: usize = 90;

/// The 16384 slots of a node. Every method may be called from any thread; see the crate's page for how mutation works.
#[derive(Debug)]
pub struct Store {
    pub(crate) cells: Cells,
    /// Keyed per store, so that nobody outside can aim keys at one bucket.
    hasher: RandomState,
    pub(crate) arena: Arena,
    pub(crate) config: StoreConfig,
    pub(crate) totals: Arc<Totals>,
    pub(crate) deadlines: Deadlines,
    pub(crate) occupancy: Occupancy,
    pub(crate) hand: Hand,
    pub(crate) newcomers: Newcomers,
    pub(crate) retired: Retired,
}

/// Counters that every mutation writes, away from what every read reads.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Totals {
    bytes: AtomicUsize,
    /// Of pages that views have put aside.
    pub(crate) view_bytes: AtomicUsize,
    /// Of those that are never evicted.
    state_bytes: AtomicUsize,
    entries: AtomicUsize,
    /// The caller's.
    side_bytes: AtomicUsize,
    evicted: AtomicU64,
    expired: AtomicU64,
}

/// Counters of a [`Store`] at one moment; while others write, not all of the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct StoreStats {
    /// Entries, expired ones not yet removed included.
    pub entries: usize,
    /// See [`Store::used_bytes`].
    pub used_bytes: usize,
    /// Of them: pages and large values of the slots' entries.
    pub entry_bytes: usize,
    /// Of them: pages put aside for a [`SlotView`](crate::SlotView).
    pub view_bytes: usize,
    /// Large values that were removed while somebody still holds them; beyond [`StoreConfig::log_bytes`] they are of those, too.
    pub retired_bytes: usize,
    /// Of them: memory that lies unused between pages and large values, as of when it last changed by much.
    pub slack_bytes: usize,
    /// Of them: entries that are never evicted, without the free room of their pages.
    pub state_bytes: usize,
    /// See [`Store::budget_bytes`].
    pub budget_bytes: usize,
    /// Live entries removed by [`SlotGuard::evict`] on this node as primary.
    pub evicted: u64,
    /// Expired entries removed by [`SlotGuard::evict`] and [`SlotGuard::evict_expired`] on this node as primary.
    pub expired: u64,
}

impl Store {
    /// An empty store. Takes [`FIXED_BYTES`] of memory at once and nothing per slot until its first entry.
    #[must_use]
    pub fn new(mut config: StoreConfig) -> Self {
        config.key_bytes_max = config.key_bytes_max.min(KEY_BYTES_LIMIT);
        let arena = Arena::new();
        arena.use_heap(true);
        Self {
            cells: Cells::new(),
            hasher: match config.hash_seed {
                Some(seed) => RandomState::with_seeds(seed, 1, 2, 3),
                None => RandomState::new(),
            },
            arena,
            config,
            totals: Arc::default(),
            deadlines: Deadlines::new(),
            occupancy: Occupancy::new(),
            hand: Hand::new(),
            newcomers: Newcomers::default(),
            retired: Retired::default(),
        }
    }

    /// The key's entry, unless it has expired at `now`. Waits for the slot's lock, which no one holds for long; never call
    /// it while holding a guard of the same slot ([`SlotGuard::get`] is for that).
    #[must_use]
    pub fn get(&self, slot: Slot, key: &[u8], now: MonoTime) -> Option<Entry> {
        // On its way while the key is hashed.
        self.prefetch(slot);
        self.read(slot, self.hash(key), key, now, |stored| stored.entry())
    }

    /// Has the processor fetch what a read of the slot needs first, while the caller does something else.
    #[inline]
    pub fn prefetch(&self, slot: Slot) {
        self.cells.prefetch(slot);
    }

    /// What somebody makes of the entry under the slot's lock.
    #[inline]
    pub(crate) fn read<R>(
        &self,
        slot: Slot,
        hash: u64,
        key: &[u8],
        now: MonoTime,
        take: impl FnOnce(Stored<'_>) -> R,
    ) -> Option<R> {
        let live = |stored: Stored<'_>| (!stored.is_expired(now)).then(|| take(stored));
        // Neither of the usual cases needs what a lock of the whole slot does.
        if let Some(mut contents) = self.cells.lock_wide(slot) {
            return contents.pages.find_and_touch(hash, key).and_then(live);
        }
        if let Some(mut packed) = self.cells.lock_packed(slot)
            && let Packed::Small(small) = &mut *packed
        {
            return small.find_and_touch(tag(hash), key).and_then(live);
        }
        self.slot(slot).pages.find_and_touch(hash, key).and_then(live)
    }

    /// Takes the two megabytes for slots with many entries now, not only when entries take 16 MiB: it saves
    /// whoever writes at that time a fraction of a millisecond. They count in [`Store::used_bytes`].
    pub fn expect_many(&self) {
        self.cells.widen();
    }

    /// Locks a slot, for every mutation and for reads that must be consistent with each other. Waits for other holders;
    /// a thread must not hold two guards at once.
    pub fn lock(&self, slot: Slot) -> SlotGuard<'_> {
        SlotGuard::new(self, slot, self.slot(slot))
    }

    /// Memory that the entries take: pages with their free room, large values, memory that lies unused between them, what slots take
    /// because of them, the queue of newcomers and the fingerprints, pages put aside for a [`SlotView`](crate::SlotView), and large values
    /// that were removed while somebody still holds them, but for [`StoreConfig::log_bytes`] of them; and
    /// [`Store::set_side_bytes`]. What is taken whether there are
    /// entries or not is [`FIXED_BYTES`].
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        let views = self.totals.view_bytes.load(Ordering::Relaxed);
        let retired = self.retired.bytes().saturating_sub(self.config.log_bytes);
        let entries = self.entry_bytes() + self.cells.bytes() + self.newcomers.bytes();
        let side = self.totals.side_bytes.load(Ordering::Relaxed);
        entries + views + retired + side + self.arena.slack_bytes()
    }

    /// Has the budget hold for so many bytes of the caller's, too, which go with the entries.
    pub fn set_side_bytes(&self, bytes: usize) {
        self.totals.side_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn entry_bytes(&self) -> usize {
        self.totals.bytes.load(Ordering::Relaxed)
    }

    /// The configured budget in bytes.
    #[must_use]
    pub fn budget_bytes(&self) -> usize {
        self.config.budget_bytes
    }

    /// What eviction has to bring below the budget: [`Store::used_bytes`] without what goes by itself, which evicting would only add
    /// to: pages put aside for views up to an eighth of the budget, and memory that lies unused between pages and large values
    /// beyond an eighth of what they take, while they are being moved together.
    #[must_use]
    pub fn pressure_bytes(&self) -> usize {
        let views = self.totals.view_bytes.load(Ordering::Relaxed);
        let slack = self.arena.slack_bytes().saturating_sub(self.entry_bytes() / 8);
        let slack = if self.arena.is_sparse() { slack } else { 0 };
        self.used_bytes().saturating_sub(views.min(self.budget_bytes() / 8) + slack)
    }

    /// Whether that is more than the budget, so that the caller should evict.
    #[must_use]
    pub fn over_budget(&self) -> bool {
        self.pressure_bytes() > self.budget_bytes()
    }

    /// Number of entries, expired ones not yet removed included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.totals.entries.load(Ordering::Relaxed)
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counters for metrics.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        StoreStats {
            entries: self.len(),
            used_bytes: self.used_bytes(),
            entry_bytes: self.entry_bytes(),
            view_bytes: self.totals.view_bytes.load(Ordering::Relaxed),
            retired_bytes: self.retired.bytes(),
            slack_bytes: self.arena.slack_bytes(),
            state_bytes: self.state_bytes(),
            budget_bytes: self.budget_bytes(),
            evicted: self.totals.evicted.load(Ordering::Relaxed),
            expired: self.totals.expired.load(Ordering::Relaxed),
        }
    }

    /// Waits for the slot.
    #[inline]
    pub(crate) fn slot(&self, slot: Slot) -> Locked<'_> {
        self.cells.lock(slot, &self.deadlines)
    }

    /// The slot, unless somebody has it locked.
    #[inline]
    pub(crate) fn try_slot(&self, slot: Slot) -> Option<Locked<'_>> {
        self.cells.try_lock(slot, &self.deadlines)
    }

    pub(crate) fn home(&self, slot: Slot) -> Home<'_> {
        Home { arena: &self.arena, hasher: &self.hasher, slot }
    }

    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Whether an entry of this size may be written at all.
    pub(crate) fn check_size(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.check_key(key)?;
        let max = self.config.value_bytes_max;
        if value.len() > max {
            return Err(StoreError::ValueTooLarge { bytes: value.len(), max });
        }
        let bytes = key.len() + value.len() + ENTRY_OVERHEAD_BYTES;
        let budget = self.config.budget_bytes;
        if bytes > budget { Err(StoreError::Full { bytes, budget }) } else { Ok(()) }
    }

    /// Whether entries that are never evicted may take so many bytes, in the place of some that they take already.
    pub(crate) fn check_state(&self, more: usize, before: usize) -> Result<(), StoreError> {
        let room = self.config.budget_bytes.saturating_sub(self.arena.slack_bytes());
        let (have, max) = (self.state_bytes(), room / 100 * STATE_PERCENT);
        if more > before && have + more - before > max {
            return Err(StoreError::StateFull { have, max });
        }
        Ok(())
    }

    pub(crate) fn state_bytes(&self) -> usize {
        self.totals.state_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn check_key(&self, key: &[u8]) -> Result<(), StoreError> {
        let max = self.config.key_bytes_max;
        if key.len() > max {
            return Err(StoreError::KeyTooLarge { bytes: key.len(), max });
        }
        Ok(())
    }

    /// Has cells and arena be as suits what the store holds, once it has grown. How much that is is only asked for before, since every
    /// writer writes there.
    #[inline]
    pub(crate) fn grow(&self) {
        if self.arena.uses_heap()
            && self.config.budget_bytes >= ARENA_BUDGET_BYTES_MIN
            && self.entry_bytes() >= HEAP_BYTES_MAX
        {
            self.arena.use_heap(false);
        }
        if !self.cells.is_wide() && self.entry_bytes() >= WIDE_FROM_BYTES {
            self.cells.widen();
        }
    }

    /// As [`Store::grow`] once it has become much smaller.
    pub(crate) fn shrink(&self) {
        if !self.arena.uses_heap() && self.entry_bytes() < HEAP_BYTES_MAX / 4 {
            self.arena.use_heap(true);
        }
    }

    /// Brings the totals and hints up to date after a mutation; called under the slot's lock.
    pub(crate) fn settle(&self, slot: Slot, contents: &SlotContents, before: Size) {
        let now = Size::of(contents);
        add_difference(&self.totals.bytes, before.bytes, now.bytes);
        add_difference(&self.totals.entries, before.entries, now.entries);
        add_difference(&self.totals.state_bytes, before.state_bytes, now.state_bytes);
        if (now.entries == 0) != (before.entries == 0) {
            self.occupancy.set(slot, now.entries != 0);
        }
        self.deadlines.publish(slot, contents.sweep.earliest());
    }

    pub(crate) fn count_removal(&self, expired: bool) {
        let counter = if expired { &self.totals.expired } else { &self.totals.evicted };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a slot adds to the totals.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    bytes: usize,
    entries: usize,
    state_bytes: usize,
}

impl Size {
    pub(crate) fn of(contents: &SlotContents) -> Self {
        let (bytes, entries) = (contents.bytes(), contents.len());
        Self { bytes, entries, state_bytes: contents.state_bytes() }
    }
}

/// A difference may be negative: adding with wrap-around subtracts. Not written in vain, others share the line.
fn add_difference(total: &AtomicUsize, before: usize, now: usize) {
    if now != before {
        total.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_store_is_small() {
        let store = Store::new(StoreConfig::default());
        assert_eq!((store.used_bytes(), store.len(), store.is_empty()), (0, 0, true));
        const { assert!(FIXED_BYTES < 3 << 20) };
    }
}
