//! A view is the slot as it was; a scan names all that stays. Whatever is written meanwhile.

// The lint knows `#[test]` functions only, not what they call.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use slotmesh_slots::{Epoch, MonoTime, Slot};
use slotmesh_store::{
    Condition, ExpireCondition, Put, ScanCursor, SlotSnapshot, SlotView, SnapshotEntry, Store,
    StoreConfig,
};

const NOW: MonoTime = MonoTime::from_micros(1);
const EPOCH: Epoch = Epoch(1);

fn slot() -> Slot {
    Slot::new(9).unwrap()
}

fn key(number: u16) -> Bytes {
    // One in sixteen too long for its page.
    let len = if number.is_multiple_of(16) { 700 } else { usize::from(number % 20) };
    Bytes::from([&number.to_le_bytes()[..], &vec![b'k'; len]].concat())
}

fn put(store: &Store, number: u16, size: u16) {
    let deadline = size.is_multiple_of(3).then_some(MonoTime::from_micros(u64::from(size) + 2));
    let value = vec![size as u8; usize::from(size) % 900];
    let put = Put { deadline, ..Put::new(key(number), value) };
    let _ = store.lock(slot()).put(EPOCH, put, NOW).unwrap();
}

fn delete(store: &Store, number: u16) {
    let mut guard = store.lock(slot());
    let _ = guard.delete(EPOCH, &key(number), Condition::Always, NOW).unwrap();
}

/// All of it at once, in the order of keys.
fn whole(store: &Store) -> SlotSnapshot {
    sorted(store.lock(slot()).snapshot())
}

fn sorted(mut snapshot: SlotSnapshot) -> SlotSnapshot {
    snapshot.entries.sort_by(|a, b| a.key.cmp(&b.key));
    snapshot
}

/// A view and what it has to turn out to be.
struct Watched {
    expected: SlotSnapshot,
    view: SlotView,
    entries: Vec<SnapshotEntry>,
}

impl Watched {
    fn new(store: &Store) -> Self {
        let expected = whole(store);
        Self { expected, view: store.lock(slot()).view(), entries: Vec::new() }
    }

    /// Reads some more; true once it was complete and right.
    fn step(&mut self, store: &Store) -> bool {
        if let Some(more) = store.read_view(&mut self.view).unwrap() {
            self.entries.extend(more);
            return false;
        }
        assert_eq!(self.view.len(), self.entries.len());
        let (version, digest) = (self.view.version(), self.view.digest());
        let entries = std::mem::take(&mut self.entries);
        let read = sorted(SlotSnapshot { version, digest, entries });
        assert!(read == self.expected, "{} of {}", read.entries.len(), self.expected.entries.len());
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_view_is_the_slot_at_its_version(
        steps in prop::collection::vec((0..40_u8, 0..400_u16, any::<u16>()), 1..1_500)
    ) {
        let store = Store::new(StoreConfig::default());
        let mut views: Vec<Watched> = Vec::new();
        (0..400).for_each(|number| put(&store, number, number));
        for (kind, number, argument) in steps {
            match kind {
                0 => drop(store.lock(slot()).clear(EPOCH, NOW)),
                1 if views.len() < 3 => views.push(Watched::new(&store)),
                2 if !views.is_empty() => drop(views.swap_remove(usize::from(argument) % views.len())),
                3..=6 => views.retain_mut(|view| !view.step(&store)),
                7..=10 => {
                    let deadline = (argument > 99).then(|| MonoTime::from_micros(argument.into()));
                    let _ = store
                        .lock(slot())
                        .expire(EPOCH, &key(number), deadline, ExpireCondition::default(), NOW)
                        .unwrap();
                }
                11..=20 => delete(&store, number),
                // Most of a slot at once, so that pages get few enough to be merged.
                21 => (number..400).for_each(|number| delete(&store, number)),
                _ => put(&store, number, argument),
            }
        }
        while !views.is_empty() {
            views.retain_mut(|view| !view.step(&store));
        }
        store.check_invariants().unwrap();
        // What was put aside is given back.
        prop_assert_eq!(store.stats().view_bytes, 0);
    }
}

#[test]
fn small_pages_are_not_merged_under_a_view() {
    let store = Store::new(StoreConfig::default());
    (0..2_000).for_each(|number| put(&store, number, 100));
    let first = Watched::new(&store);
    // Nothing is merged while somebody looks, so this leaves many small pages.
    (100..2_000).for_each(|number| delete(&store, number));
    drop(first);
    let mut second = Watched::new(&store);
    for number in 0..100 {
        delete(&store, number);
        if number % 16 == 15 {
            assert!(!second.step(&store));
        }
    }
    while !second.step(&store) {}
    store.check_invariants().unwrap();
}

#[test]
fn what_is_put_aside_counts_until_it_is_read_or_the_view_is_dropped() {
    for read in [true, false] {
        let store = Store::new(StoreConfig::default());
        (0..2_000).for_each(|number| put(&store, number, 100));
        let mut watched = Watched::new(&store);
        // What lies unused between pages is not theirs.
        let taken = || store.used_bytes() - store.stats().slack_bytes;
        let before = taken();
        (0..2_000).for_each(|number| put(&store, number, 100));
        assert!(taken() > before + before / 2);
        while read && !watched.step(&store) {}
        drop(watched);
        store.release_retired();
        assert_eq!(store.stats().view_bytes, 0);
        assert!(taken() < before + before / 10);
        // Only a write learns that nobody looks any more: then small pages are merged again.
        (0..2_000).for_each(|number| delete(&store, number));
        assert_eq!(store.stats().entry_bytes, 0);
    }
}

#[test]
fn a_slot_that_was_replaced_ends_its_views() {
    let store = Store::new(StoreConfig::default());
    (0..500).for_each(|number| put(&store, number, 100));
    let view = || store.lock(slot()).view();
    let (mut first, mut second) = (view(), view());
    assert!(store.read_view(&mut first).unwrap().is_some());
    drop(store.lock(slot()).reset());
    assert!(store.read_view(&mut first).is_err());
    let mut third = view();
    let nothing = store.prepare(slot(), &SlotSnapshot::default());
    drop(store.lock(slot()).install(nothing));
    assert!(store.read_view(&mut second).is_err() && store.read_view(&mut third).is_err());
    assert_eq!(store.read_view(&mut view()).unwrap(), None);
}

#[test]
fn a_scan_names_once_what_is_there_all_the_time() {
    let store = Store::new(StoreConfig::default());
    let stays = |number: u16| number.is_multiple_of(3);
    (0..3_000).filter(|&number| stays(number)).for_each(|number| put(&store, number, 91));
    let mut named: BTreeMap<Bytes, usize> = BTreeMap::new();
    let (mut cursor, mut steps) = (Some(ScanCursor::default()), 0);
    while let Some(from) = cursor {
        let scan = store.scan(slot(), from, NOW);
        for (key, entry) in scan.entries {
            assert_eq!(store.get(slot(), &key, NOW).map(|now| now.value), Some(entry.value));
            *named.entry(key).or_default() += 1;
        }
        assert_eq!(from, ScanCursor::from_u32(from.to_u32()));
        cursor = scan.next;
        steps += 1;
        // It grows threefold in the first half of the walk and shrinks again in the second.
        for number in (0..9_000).filter(|&number| !stays(number)) {
            match steps % 16 {
                3 => put(&store, number, 80),
                11 => delete(&store, number),
                _ => break,
            }
        }
    }
    assert!(steps > 16, "{steps} steps");
    for number in (0..3_000).filter(|&number| stays(number)) {
        assert_eq!(named.get(&key(number)), Some(&1));
    }
    let (start, later) = (ScanCursor::default(), MonoTime::from_micros(1_000_000));
    drop(store.lock(slot()).clear(EPOCH, NOW));
    put(&store, 1, 90);
    assert_eq!(store.scan(slot(), start, NOW).entries.len(), 1);
    assert!(store.scan(slot(), start, later).entries.is_empty());
}

/// Memory of a small store is from elsewhere and in other sizes than that of a large one.
#[test]
fn a_view_is_exact_while_the_store_grows_and_shrinks() {
    let config = StoreConfig { budget_bytes: 1 << 30, ..StoreConfig::default() };
    for (begins_large, entries) in [(false, 40), (true, 40), (false, 2_000), (true, 2_000)] {
        let store = Store::new(config.clone());
        let filler = |number| Slot::new(10 + number).unwrap();
        let fill = || {
            for number in 0..8_000_u16 {
                let put = Put::new(format!("filler{number}"), vec![7; 480]);
                let _ = store.lock(filler(number)).put(Epoch(1), put, NOW).unwrap();
            }
        };
        let empty = || {
            (0..8_000).for_each(|number| drop(store.lock(filler(number)).reset()));
            store.release_retired();
        };
        if begins_large {
            fill();
        }
        (0..entries).for_each(|number| put(&store, number, 60));
        let mut watched = [Watched::new(&store), Watched::new(&store)];
        if begins_large {
            empty()
        } else {
            fill()
        }
        // Read as it is, and put aside first.
        assert!(!watched[0].step(&store));
        (0..entries).for_each(|number| put(&store, number, 61));
        for watched in &mut watched {
            while !watched.step(&store) {}
        }
        store.check_invariants().unwrap();
    }
}
