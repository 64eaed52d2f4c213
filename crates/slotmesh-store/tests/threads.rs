//! Many threads on few slots: nothing is lost, counted wrongly or deadlocked.

// The lint knows `#[test]` functions only, not what they call.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::thread;

use bytes::Bytes;
use slotmesh_slots::{Effect, Epoch, MonoTime, Record, Slot};
use slotmesh_store::{Condition, Put, Store, StoreConfig};

const NOW: MonoTime = MonoTime::from_micros(1);
const THREADS: u64 = 4;
const ROUNDS: u64 = 5_000;

fn slot(number: u64) -> Slot {
    Slot::new((number % 4) as u16).unwrap()
}

#[test]
fn records_taken_under_the_lock_are_in_order_and_rebuild_the_store() {
    let (store, replica) = (Store::new(StoreConfig::default()), Store::new(StoreConfig::default()));
    let log = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, log) = (&store, &log);
            scope.spawn(move || (0..ROUNDS).for_each(|round| mutate(store, log, thread, round)));
        }
    });
    let log: Vec<Record> = log.into_inner().unwrap();
    for record in &log {
        replica.lock(record.slot).apply(record).unwrap();
    }
    for number in 0..4 {
        let (ours, copy) = (store.lock(slot(number)), replica.lock(slot(number)));
        assert_eq!((ours.version(), ours.digest()), (copy.version(), copy.digest()));
    }
    store.check_invariants().unwrap();
    assert_eq!(store.len(), replica.len());
    let counter = store.get(slot(0), b"counter", NOW).unwrap();
    assert_eq!(&counter.value[..], (THREADS * ROUNDS).to_string().as_bytes());
}

/// One increment that must not get lost, and a mutation among reads, victims and sweeps of the others.
fn mutate(store: &Store, log: &Mutex<Vec<Record>>, thread: u64, round: u64) {
    let append = |record: Option<Record>| log.lock().unwrap().extend(record);
    {
        let mut guard = store.lock(slot(0));
        let counter = Bytes::from_static(b"counter");
        append(guard.increment(Epoch(1), &counter, 1, NOW).unwrap().record);
    }
    let number = thread * 7 + round * 13;
    let key = Bytes::from(format!("key{}", number % 200));
    let slot = slot(number % 200);
    let read = store.get(slot, &key, NOW);
    assert!(read.is_none_or(|entry| entry.value.iter().all(|&byte| byte == entry.value[0])));
    let mut guard = store.lock(slot);
    match number % 5 {
        0..=2 => {
            let put = Put::new(key, vec![thread as u8; 1 + (number % 90) as usize]);
            append(guard.put(Epoch(1), put, NOW).unwrap().record);
        }
        3 => append(guard.delete(Epoch(1), &key, Condition::Present, NOW).unwrap().record),
        _ => {
            drop(guard);
            let victim = store.victim(&|slot| slot.number() != 0, NOW);
            assert!(store.expired(NOW, 3).is_empty());
            if let Some((slot, key)) = victim {
                let mut guard = store.lock(slot);
                append(guard.evict(Epoch(1), &key, NOW));
            }
        }
    }
}

#[test]
fn handles_outlive_what_they_were_read_from() {
    let store = Store::new(StoreConfig::default());
    let _ = store.lock(slot(0)).put(Epoch(1), Put::new("k", "first"), NOW).unwrap();
    let read = store.get(slot(0), b"k", NOW).unwrap();
    let snapshot = store.lock(slot(0)).snapshot();
    let record = store.lock(slot(0)).put(Epoch(1), Put::new("k", "second"), NOW).unwrap().record;
    drop(store.lock(slot(0)).reset());
    assert_eq!((&read.value[..], &snapshot.entries[0].value[..]), (&b"first"[..], &b"first"[..]));
    assert!(matches!(record.unwrap().effect, Effect::Put { value, .. } if value == "second"));
}
