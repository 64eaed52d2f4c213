use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use prefetch_index::prefetch_index;
use slotmesh_slots::{SLOT_COUNT, Slot};

use crate::contents::SlotContents;
use crate::expiry::Deadlines;
use crate::footprint::allocated;
use crate::packed::{Packed, Small, Unaligned};

/// The slots behind their locks. A small store has them packed in narrow cells, which a lock unpacks and its end packs again. Once what
/// is in a store is much more than wide cells take, it has those, and each slot moves when it is locked next.
#[derive(Debug)]
pub(crate) struct Cells {
    narrow: Box<[Mutex<Packed>]>,
    wide: OnceLock<Box<[WideCell]>>,
    /// How many slots have a box.
    boxed: AtomicUsize,
}

/// A slot on cache lines of its own, so that writers of neighbours do not disturb each other; `None` until it has moved here.
#[derive(Debug, Default)]
#[repr(align(64))]
struct WideCell(Mutex<Option<SlotContents>>);

const _: () = assert!(size_of::<Mutex<Packed>>() == 24 && size_of::<WideCell>() == 128);

/// Memory of the narrow cells.
pub(crate) const NARROW_BYTES: usize = SLOT_COUNT * size_of::<Mutex<Packed>>();

/// Memory of the wide cells.
const WIDE_BYTES: usize = SLOT_COUNT * size_of::<WideCell>();

/// Entries have to take so much before there are wide cells.
pub(crate) const WIDE_FROM_BYTES: usize = 8 * WIDE_BYTES;

/// A slot that is locked.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    held: Held<'a>,
    cells: &'a Cells,
}

#[derive(Debug)]
enum Held<'a> {
    Wide(MappedMutexGuard<'a, SlotContents>),
    /// Unpacked.
    Narrow(MutexGuard<'a, Packed>, SlotContents),
    Boxed(MutexGuard<'a, Packed>),
}

impl Cells {
    pub(crate) fn new() -> Self {
        let narrow = std::iter::repeat_with(Mutex::default).take(SLOT_COUNT).collect();
        Self { narrow, wide: OnceLock::new(), boxed: AtomicUsize::new(0) }
    }

    /// Memory beyond that of the narrow cells.
    pub(crate) fn bytes(&self) -> usize {
        let boxes = self.boxed.load(Ordering::Relaxed) * allocated(size_of::<SlotContents>());
        if self.is_wide() { boxes + WIDE_BYTES } else { boxes }
    }

    #[inline]
    pub(crate) fn is_wide(&self) -> bool {
        self.wide.get().is_some()
    }

    /// Makes the wide cells, if there are none.
    #[cold]
    pub(crate) fn widen(&self) {
        let cells = || std::iter::repeat_with(WideCell::default).take(SLOT_COUNT).collect();
        self.wide.get_or_init(cells);
    }

    /// Has the processor fetch what a lock of the slot needs first.
    #[inline]
    pub(crate) fn prefetch(&self, slot: Slot) {
        match self.wide.get() {
            Some(wide) => prefetch_index(&**wide, slot.index()),
            None => prefetch_index(&*self.narrow, slot.index()),
        }
    }

    /// Waits for the slot. Deadlines are those published of the slots.
    #[inline]
    pub(crate) fn lock(&self, slot: Slot, deadlines: &Deadlines) -> Locked<'_> {
        if let Some(wide) = self.wide.get() {
            return self.enter_wide(wide, slot, deadlines);
        }
        let packed = self.narrow[slot.index()].lock();
        if let (Packed::Gone, Some(wide)) = (&*packed, self.wide.get()) {
            drop(packed);
            return self.enter_wide(wide, slot, deadlines);
        }
        self.unpack(packed, slot, deadlines)
    }

    /// Locks the slot unless somebody has it.
    #[inline]
    pub(crate) fn try_lock(&self, slot: Slot, deadlines: &Deadlines) -> Option<Locked<'_>> {
        if let Some(wide) = self.wide.get() {
            let mut cell = wide[slot.index()].0.try_lock()?;
            if cell.is_none() {
                let packed = self.narrow[slot.index()].try_lock()?;
                *cell = Some(self.move_out(packed, slot, deadlines));
            }
            let contents = MutexGuard::try_map(cell, Option::as_mut).ok()?;
            return Some(Locked { held: Held::Wide(contents), cells: self });
        }
        let packed = self.narrow[slot.index()].try_lock()?;
        let is_gone = matches!(*packed, Packed::Gone);
        (!is_gone).then(|| self.unpack(packed, slot, deadlines))
    }

    /// As [`Cells::lock`] for a slot that is in a wide cell already; `None` for any other.
    #[inline]
    pub(crate) fn lock_wide(&self, slot: Slot) -> Option<MappedMutexGuard<'_, SlotContents>> {
        let cell = self.wide.get()?[slot.index()].0.lock();
        MutexGuard::try_map(cell, Option::as_mut).ok()
    }

    /// As [`Cells::lock_wide`], unless somebody has it locked.
    #[inline]
    pub(crate) fn try_lock_wide(&self, slot: Slot) -> Option<MappedMutexGuard<'_, SlotContents>> {
        let cell = self.wide.get()?[slot.index()].0.try_lock()?;
        MutexGuard::try_map(cell, Option::as_mut).ok()
    }

    /// The slot's cell, where it is packed unless it has a box or has moved; `None` when there are wide cells.
    #[inline]
    pub(crate) fn lock_packed(&self, slot: Slot) -> Option<MutexGuard<'_, Packed>> {
        (!self.is_wide()).then(|| self.narrow[slot.index()].lock())
    }

    #[inline]
    fn enter_wide<'a>(
        &'a self,
        wide: &'a [WideCell],
        slot: Slot,
        deadlines: &Deadlines,
    ) -> Locked<'a> {
        let cell = wide[slot.index()].0.lock();
        let contents = MutexGuard::map(cell, |cell| {
            // Waits for who has it in its narrow cell.
            let move_out = || self.move_out(self.narrow[slot.index()].lock(), slot, deadlines);
            cell.get_or_insert_with(move_out)
        });
        Locked { held: Held::Wide(contents), cells: self }
    }

    /// What the slot's narrow cell has, and has no more.
    #[cold]
    fn move_out(
        &self,
        mut packed: MutexGuard<'_, Packed>,
        slot: Slot,
        deadlines: &Deadlines,
    ) -> SlotContents {
        let packed = std::mem::replace(&mut *packed, Packed::Gone);
        if matches!(packed, Packed::Boxed(_)) {
            self.boxed.fetch_sub(1, Ordering::Relaxed);
        }
        let mut contents = packed.unpack(deadlines.of(slot));
        contents.count_digest();
        contents
    }

    #[inline]
    fn unpack<'a>(
        &'a self,
        mut packed: MutexGuard<'a, Packed>,
        slot: Slot,
        deadlines: &Deadlines,
    ) -> Locked<'a> {
        let held = if let Packed::Boxed(_) = *packed {
            Held::Boxed(packed)
        } else {
            let small = std::mem::replace(&mut *packed, Packed::Gone);
            Held::Narrow(packed, small.unpack(deadlines.of(slot)))
        };
        Locked { held, cells: self }
    }

    #[cold]
    fn to_box(&self, contents: &mut SlotContents) -> Packed {
        self.boxed.fetch_add(1, Ordering::Relaxed);
        let mut contents = Box::new(std::mem::take(contents));
        contents.count_digest();
        Packed::Boxed(Unaligned::new(contents))
    }
}

impl Deref for Locked<'_> {
    type Target = SlotContents;

    #[inline]
    fn deref(&self) -> &SlotContents {
        match &self.held {
            Held::Wide(contents) => contents,
            Held::Narrow(_, contents) => contents,
            Held::Boxed(packed) => match &**packed {
                Packed::Boxed(contents) => contents.get(),
                Packed::Small(_) | Packed::Gone => unreachable!("nobody else changes it"),
            },
        }
    }
}

impl DerefMut for Locked<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut SlotContents {
        match &mut self.held {
            Held::Wide(contents) => contents,
            Held::Narrow(_, contents) => contents,
            Held::Boxed(packed) => match &mut **packed {
                Packed::Boxed(contents) => contents.get_mut(),
                Packed::Small(_) | Packed::Gone => unreachable!("nobody else changes it"),
            },
        }
    }
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        match &mut self.held {
            Held::Wide(_) => {}
            Held::Narrow(packed, contents) => {
                **packed = match Small::pack(contents) {
                    Some(small) => Packed::Small(small),
                    None => self.cells.to_box(contents),
                };
            }
            Held::Boxed(packed) => {
                if let Packed::Boxed(contents) = &mut **packed
                    && let Some(small) = Small::pack(contents.get_mut())
                {
                    **packed = Packed::Small(small);
                    self.cells.boxed.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use slotmesh_slots::{Class, Epoch, MonoTime, Seq, Version};

    use super::*;
    use crate::{Condition, Put, SlotSnapshot, Store, StoreConfig};

    const NOW: MonoTime = MonoTime::from_micros(1);

    fn store() -> (Store, Slot) {
        (Store::new(StoreConfig::default()), Slot::of_key(b"{t}"))
    }

    fn put(store: &Store, slot: Slot, epoch: u32, put: Put) {
        let _ = store.lock(slot).put(Epoch(epoch), put, NOW).unwrap();
    }

    fn is_boxed(store: &Store) -> bool {
        let boxed = store.cells.boxed.load(Ordering::Relaxed);
        assert!(boxed < 2);
        boxed == 1
    }

    #[test]
    fn what_is_unusual_has_a_box_until_it_is_usual_again() {
        let (store, slot) = store();
        let key = Bytes::from_static(b"{t}k");
        put(&store, slot, 1, Put::new(key.clone(), "v"));
        put(&store, slot, 1, Put { class: Class::State, ..Put::new("{t}state", "v") });
        assert!(!is_boxed(&store));
        // A large value.
        put(&store, slot, 1, Put::new(key.clone(), vec![1; 600]));
        assert!(is_boxed(&store));
        let digest = store.lock(slot).digest();
        put(&store, slot, 1, Put::new(key.clone(), "v"));
        assert!(!is_boxed(&store) && store.lock(slot).digest() != digest);
        // A view, until it was read.
        let mut view = store.lock(slot).view();
        assert!(is_boxed(&store));
        while store.read_view(&mut view).unwrap().is_some() {}
        assert!(!is_boxed(&store) && store.read_view(&mut view).unwrap().is_none());
        // One that was let go, until somebody looks.
        let view = store.lock(slot).view();
        assert!(is_boxed(&store));
        drop(view);
        assert!(store.get(slot, &key, NOW).is_some() && !is_boxed(&store));
        // Many entries.
        let keys: Vec<_> = (0..500).map(|number| Bytes::from(format!("{{t}}{number}"))).collect();
        keys.iter().for_each(|key| put(&store, slot, 1, Put::new(key.clone(), "v")));
        assert!(is_boxed(&store));
        for key in &keys {
            let _ = store.lock(slot).delete(Epoch(1), key, Condition::Always, NOW).unwrap();
        }
        assert!(!is_boxed(&store));
        assert_eq!(store.lock(slot).len(), 2);
        store.check_invariants().unwrap();
    }

    #[test]
    fn any_history_survives_packing() {
        let versions = [(0, 0), (1, 1), (65_535, (1 << 40) - 1), (65_536, 5), (7, 1 << 40)];
        for (epoch, seq) in versions.into_iter().chain([(u32::MAX, u64::MAX - 9)]) {
            for (later, deletes) in
                [(0, true), (1, false), (63, false), (64, false), (70_000, true)]
            {
                let (store, slot) = store();
                let version = Version::new(Epoch(epoch), Seq(seq));
                let nothing = SlotSnapshot { version, ..SlotSnapshot::default() };
                drop(store.lock(slot).install(store.prepare(slot, &nothing)));
                assert_eq!(store.lock(slot).version(), version);
                let epoch = epoch.saturating_add(later);
                put(&store, slot, epoch, Put::new("{t}k", "v"));
                if deletes {
                    let key = Bytes::from_static(b"{t}x");
                    let always = Condition::Always;
                    let _ = store.lock(slot).delete(Epoch(epoch), &key, always, NOW).unwrap();
                }
                let last = if deletes { seq + 2 } else { seq + 1 };
                let guard = store.lock(slot);
                assert_eq!(guard.version(), Version::new(Epoch(epoch), Seq(last)));
                assert_eq!(guard.last_delete(), Seq(if deletes { last } else { seq }));
                drop(guard);
                store.check_invariants().unwrap();
            }
        }
    }

    #[test]
    fn a_panic_under_the_lock_loses_nothing() {
        let (store, slot) = store();
        put(&store, slot, 1, Put::new("{t}k", "v"));
        let panics = || {
            let mut guard = store.lock(slot);
            let _ = guard.put(Epoch(1), Put::new("{t}other", "v"), NOW).unwrap();
            panic!("on purpose");
        };
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        assert_eq!(store.lock(slot).len(), 2);
        store.check_invariants().unwrap();
    }

    #[test]
    fn slots_move_to_wide_cells_one_by_one() {
        let (store, slot) = store();
        let keys: Vec<_> = (0..5_000).map(|number| Bytes::from(format!("k{number}"))).collect();
        let write = |key: &Bytes| put(&store, Slot::of_key(key), 1, Put::new(key.clone(), "v"));
        keys.iter().for_each(write);
        put(&store, slot, 1, Put::new("{t}large", vec![1; 600]));
        let digest = store.lock(slot).digest();
        let held = store.lock(slot);
        store.expect_many();
        // Who has it in its narrow cell keeps it until the end.
        assert!(store.try_slot(slot).is_none() && held.digest() == digest);
        drop(held);
        assert_eq!(store.try_slot(slot).map(|contents| contents.digest()), Some(digest));
        assert_eq!(store.cells.bytes(), WIDE_BYTES);
        let wanted: Vec<_> = keys.iter().map(|key| (Slot::of_key(key), &key[..])).collect();
        assert!(store.get_many(&wanted, NOW).iter().all(|entry| entry.is_some()));
        store.check_invariants().unwrap();
    }
}
