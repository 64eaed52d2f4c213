//! Eviction keeps what is in use, and the budget.

// The lint knows `#[test]` functions only, not what they call.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;

use bytes::Bytes;
use slotmesh_slots::{Class, Epoch, MonoTime, Slot};
use slotmesh_store::{ENTRY_OVERHEAD_BYTES, Put, Store, StoreConfig, StoreError};

const NOW: MonoTime = MonoTime::from_micros(1);
const VALUE: &[u8] = &[7; 100];
const CAPACITY: usize = 2_000;
/// Keys are eight bytes.
const ENTRY_BYTES: usize = 8 + VALUE.len() + ENTRY_OVERHEAD_BYTES;

/// A cache in front of a source, as the layers above use the store.
struct Cache {
    store: Store,
    spread: fn(u32) -> Slot,
    value_bytes: fn(u32) -> usize,
    misses: Cell<usize>,
}

impl Cache {
    fn new(spread: fn(u32) -> Slot, value_bytes: fn(u32) -> usize) -> Self {
        let config = StoreConfig { budget_bytes: CAPACITY * ENTRY_BYTES, ..StoreConfig::default() };
        Self { store: Store::new(config), spread, value_bytes, misses: Cell::new(0) }
    }

    /// Whether the key was there; it is afterwards.
    fn read(&self, number: u32) -> bool {
        let (key, slot) = (format!("{number:08}"), (self.spread)(number));
        if self.store.get(slot, key.as_bytes(), NOW).is_some() {
            return true;
        }
        self.misses.set(self.misses.get() + 1);
        let put = Put::new(key, vec![7; (self.value_bytes)(number)]);
        let _ = self.store.lock(slot).put(Epoch(1), put, NOW).unwrap();
        while self.store.over_budget() {
            let (slot, key) = self.store.victim(&|_| true, NOW).unwrap();
            self.store.lock(slot).evict(Epoch(1), &key, NOW).unwrap();
        }
        assert!(self.store.pressure_bytes() <= self.store.budget_bytes());
        false
    }
}

fn over_many_slots(number: u32) -> Slot {
    Slot::new((number.wrapping_mul(2_654_435_761) >> 18) as u16).unwrap()
}

/// From ten bytes to those that have an allocation of their own, 90 in the mean.
fn mixed(number: u32) -> usize {
    if number.is_multiple_of(32) { 1_500 } else { [10, 20, 40, 100][number as usize % 4] }
}

/// Between any two uses of a hot key, a scan brings as many new keys as fill a third of the store.
fn check_scan(spread: fn(u32) -> Slot, value_bytes: fn(u32) -> usize) {
    const HOT: u32 = CAPACITY as u32 / 2;
    let cache = Cache::new(spread, value_bytes);
    let (mut hits, mut reads, mut scanned) = (0, 0, 1_000_000);
    for round in 0..60 {
        for key in 0..HOT {
            let hit = cache.read(key);
            if round >= 10 {
                (hits, reads) = (hits + u32::from(hit), reads + 1);
            }
            if key % 3 != 0 {
                cache.read(scanned);
                scanned += 1;
            }
        }
    }
    let ratio = f64::from(hits) / f64::from(reads);
    assert!(ratio > 0.98, "the hot half of the store was hit only {ratio:.3} of the time");
    cache.store.check_invariants().unwrap();
    // Every miss stored one entry, and each of them is there or was counted out.
    assert_eq!(cache.store.stats().evicted as usize + cache.store.len(), cache.misses.get());
}

#[test]
fn a_hot_set_survives_a_scan_over_many_slots() {
    check_scan(over_many_slots, |_| VALUE.len());
}

#[test]
fn a_hot_set_of_mixed_sizes_survives_a_scan_of_such() {
    check_scan(over_many_slots, mixed);
    check_scan(|_| Slot::new(77).unwrap(), mixed);
}

#[test]
fn a_hot_set_survives_a_scan_in_one_slot() {
    check_scan(|_| Slot::new(77).unwrap(), |_| VALUE.len());
}

#[test]
fn a_store_full_of_hot_keys_still_yields_victims() {
    let cache = Cache::new(|number| Slot::new((number % 16_384) as u16).unwrap(), |_| VALUE.len());
    for key in 0..CAPACITY as u32 {
        for _ in 0..5 {
            cache.read(key);
        }
    }
    for key in 0..500 {
        cache.read(1_000_000 + key);
    }
    let len = cache.store.len();
    assert!((CAPACITY * 9 / 10..=CAPACITY * 11 / 10).contains(&len), "{len}");
}

#[test]
fn what_is_never_evicted_stays_and_has_a_bound() {
    let store = Store::new(StoreConfig { budget_bytes: 100_000, ..StoreConfig::default() });
    let put = |key: String, class| {
        let slot = Slot::of_key(key.as_bytes());
        let put = Put { class, ..Put::new(key, Bytes::from_static(VALUE)) };
        let refused = store.lock(slot).put(Epoch(1), put, NOW).err();
        while store.over_budget() {
            let Some((slot, key)) = store.victim(&|_| true, NOW) else { break };
            store.lock(slot).evict(Epoch(1), &key, NOW).unwrap();
        }
        refused
    };
    (0..300).for_each(|number| assert_eq!(put(format!("state{number}"), Class::State), None));
    (0..5_000).for_each(|number| assert_eq!(put(format!("cache{number}"), Class::Cache), None));
    let held = |number: u32| {
        let key = format!("state{number}");
        store.get(Slot::of_key(key.as_bytes()), key.as_bytes(), NOW).is_some()
    };
    assert!((0..300).all(held) && !store.over_budget());
    let stats = store.stats();
    assert!(stats.evicted > 4_000 && stats.entries > 400, "{stats:?}");
    // Cached entries make way for them until nine tenths of the budget are taken.
    let refused = (300..1_000).find_map(|number| put(format!("state{number}"), Class::State));
    assert!(matches!(refused, Some(StoreError::StateFull { max: 90_000, .. })), "{refused:?}");
    let state_bytes = store.stats().state_bytes;
    assert!((80_000..=90_000).contains(&state_bytes), "{state_bytes}");
    // Not one of them goes, and one that is there may be written again.
    let slot = Slot::of_key(b"state7");
    assert!(store.lock(slot).evict(Epoch(1), &Bytes::from_static(b"state7"), NOW).is_none());
    assert_eq!(put("state7".to_owned(), Class::State), None);
    assert!((0..300).all(held));
    // As a cached entry it is one like others.
    let _ = store.lock(slot).put(Epoch(1), Put::new("state7", "v"), NOW).unwrap();
    assert!(store.stats().state_bytes < state_bytes);
    assert!(store.lock(slot).evict(Epoch(1), &Bytes::from_static(b"state7"), NOW).is_some());
    store.check_invariants().unwrap();
}
