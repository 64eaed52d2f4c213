//! Every refusal is typed and changes nothing.

// The lint knows `#[test]` functions only, not what they call.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use slotmesh_slots::{Effect, Epoch, MonoTime, Record, Seq, Slot, Version};
use slotmesh_store::{
    ApplyError, Change, Condition, ENTRY_OVERHEAD_BYTES, ExpireCondition, KEY_BYTES_LIMIT, Put,
    Store, StoreConfig, StoreError,
};

const NOW: MonoTime = MonoTime::from_micros(9);
const EPOCH: Epoch = Epoch(3);

fn slot() -> Slot {
    Slot::of_key(b"k")
}

fn store() -> Store {
    let config = StoreConfig {
        budget_bytes: 940,
        value_bytes_max: 900,
        key_bytes_max: 50,
        ..StoreConfig::default()
    };
    let store = Store::new(config);
    let _ = store.lock(slot()).put(EPOCH, Put::new("k", "v"), NOW).unwrap();
    store
}

fn check(put: Put, expected: &StoreError) {
    let store = store();
    assert_eq!(store.lock(slot()).put(EPOCH, put, NOW).as_ref(), Err(expected));
    assert_eq!(store.lock(slot()).version().seq, Seq(1));
    assert_eq!(store.len(), 1);
    store.check_invariants().unwrap();
}

#[test]
fn sizes() {
    let (key, value) = (vec![b'k'; 51], vec![b'v'; 901]);
    check(Put::new(key, "v"), &StoreError::KeyTooLarge { bytes: 51, max: 50 });
    check(Put::new("k", value), &StoreError::ValueTooLarge { bytes: 901, max: 900 });
    let bytes = 1 + 900 + ENTRY_OVERHEAD_BYTES;
    check(Put::new("k", vec![b'v'; 900]), &StoreError::Full { bytes, budget: 940 });
}

#[test]
fn the_key_limit_caps_the_configuration() {
    let store = Store::new(StoreConfig { key_bytes_max: usize::MAX, ..StoreConfig::default() });
    let put = |len| store.lock(slot()).put(EPOCH, Put::new(vec![b'k'; len], "v"), NOW);
    assert!(put(KEY_BYTES_LIMIT).is_ok());
    assert!(matches!(put(KEY_BYTES_LIMIT + 1), Err(StoreError::KeyTooLarge { .. })));
}

#[test]
fn an_old_epoch_is_refused_by_every_mutation() {
    let store = store();
    let mut guard = store.lock(slot());
    let (old, key, have) = (Epoch(2), Bytes::from_static(b"k"), guard.version());
    let stale = StoreError::StaleEpoch { have };
    assert_eq!(guard.put(old, Put::new("k", "w"), NOW).unwrap_err(), stale);
    assert_eq!(guard.delete(old, &key, Condition::Always, NOW).unwrap_err(), stale);
    assert_eq!(guard.expire(old, &key, None, ExpireCondition::Always, NOW).unwrap_err(), stale);
    assert_eq!(guard.increment(old, &key, 1, NOW).unwrap_err(), stale);
    assert_eq!(guard.update(old, &key, NOW, |_| Change::Delete).unwrap_err(), stale);
    assert_eq!(guard.append(old, &key, b"w", NOW).unwrap_err(), stale);
    assert_eq!(guard.set_range(old, &key, 0, b"w", NOW).unwrap_err(), stale);
    assert_eq!(guard.get_and_put(old, Put::new("k", "w"), NOW).unwrap_err(), stale);
    assert_eq!(guard.get_and_delete(old, &key, NOW).unwrap_err(), stale);
    assert_eq!(guard.get_and_expire(old, &key, None, NOW).unwrap_err(), stale);
    assert_eq!(guard.clear(old, NOW).unwrap_err(), stale);
    assert_eq!(guard.evict(old, &key, NOW), None);
    assert_eq!(guard.evict_expired(old, &key, NOW), None);
    assert_eq!((guard.version(), guard.len()), (have, 1));
}

#[test]
fn a_persisted_entry_is_not_expired_away() {
    let store = store();
    let mut guard = store.lock(slot());
    let key = Bytes::from_static(b"k");
    assert_eq!(guard.evict_expired(EPOCH, &key, NOW), None);
    let later = MonoTime::from_micros(20);
    let _ = guard.expire(EPOCH, &key, Some(later), ExpireCondition::Always, NOW).unwrap();
    assert_eq!(guard.get(&key, later), None, "hidden though still there");
    assert_eq!(guard.len(), 1);
    assert!(guard.evict_expired(EPOCH, &key, later).is_some());
}

#[test]
fn records_of_another_slot_or_at_the_end_of_counting_are_refused() {
    let store = store();
    let other = Slot::new(slot().number() ^ 1).unwrap();
    let record =
        Record { slot: other, epoch: EPOCH, seq: Seq(2), effect: Effect::Clear, answer: None };
    let mut guard = store.lock(slot());
    assert_eq!(guard.apply(&record), Err(ApplyError::WrongSlot { record: other, guard: slot() }));
    let mut snapshot = guard.snapshot();
    snapshot.version = Version::new(EPOCH, Seq(u64::MAX));
    drop(guard.install(store.prepare(slot(), &snapshot)));
    let have = guard.version();
    let record =
        Record { slot: slot(), epoch: EPOCH, seq: Seq(0), effect: Effect::Clear, answer: None };
    assert_eq!(guard.apply(&record), Err(ApplyError::Gap { have }));
    assert!(guard.put(EPOCH, Put::new("k", "w"), NOW).is_ok(), "no panic at the last seq");
}

#[test]
fn a_large_value_is_handed_out_without_a_copy() {
    let store = Store::new(StoreConfig::default());
    let value = Bytes::from(vec![1; 200_000]);
    let _ = store.lock(slot()).put(EPOCH, Put::new("k", value.clone()), NOW).unwrap();
    let (a, b) = (store.get(slot(), b"k", NOW).unwrap(), store.get(slot(), b"k", NOW).unwrap());
    assert_eq!(a.value.as_ptr(), b.value.as_ptr());
    assert_eq!(a.value.as_ptr(), value.as_ptr());
}
