use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::blob::Blob;
use crate::store::Store;

/// Values that one look takes up: a few microseconds.
const LOOK: usize = 256;

/// Values still held that end a look.
const HELD_MAX: usize = 16;

/// Large values that were removed while somebody else still held them: they take memory until all others let go, so they
/// count against the budget until then. The store holds on to them to know.
#[derive(Debug, Default)]
pub(crate) struct Retired {
    blobs: Mutex<VecDeque<Blob>>,
    bytes: AtomicUsize,
}

impl Retired {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Takes a removed value; one that nobody else holds is freed at once.
    pub(crate) fn add(&self, blob: Blob) {
        if blob.is_shared() {
            self.bytes.fetch_add(blob.as_ref().footprint(), Ordering::Relaxed);
            self.blobs.lock().push_back(blob);
        }
    }

    /// Frees some of what nobody else holds any more, oldest first.
    fn release(&self) {
        if self.bytes() == 0 {
            return;
        }
        let (mut free, mut held) = (Vec::new(), 0);
        let mut blobs = self.blobs.lock();
        for _ in 0..LOOK.min(blobs.len()) {
            let Some(blob) = blobs.pop_front() else { break };
            if blob.is_shared() {
                blobs.push_back(blob);
                held += 1;
                // Those behind were removed later still.
                if held == HELD_MAX {
                    break;
                }
            } else {
                self.bytes.fetch_sub(blob.as_ref().footprint(), Ordering::Relaxed);
                free.push(blob);
            }
        }
        if blobs.len() < blobs.capacity() / 4 {
            blobs.shrink_to_fit();
        }
        drop(blobs);
    }
}

impl Store {
    /// Frees large values that were removed while they were read and that nobody holds any more; until then they count in
    /// [`Store::used_bytes`]. Bounded work: call it regularly. [`Store::victim`] does it too.
    pub fn release_retired(&self) {
        self.retired.release();
        self.shrink();
        if self.arena.is_sparse() {
            self.evacuate();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use slotmesh_slots::{Epoch, MonoTime, Slot};

    use super::*;
    use crate::{Condition, Put, StoreConfig};

    const NOW: MonoTime = MonoTime::from_micros(1);

    fn check(value_bytes: usize, counted: bool) {
        let (store, key) = (Store::new(StoreConfig::default()), Bytes::from_static(b"k"));
        let slot = Slot::of_key(&key);
        let put = Put::new(key.clone(), vec![1; value_bytes]);
        let _ = store.lock(slot).put(Epoch(1), put, NOW).unwrap();
        let held = store.get(slot, &key, NOW).unwrap().value;
        let _ = store.lock(slot).delete(Epoch(1), &key, Condition::Always, NOW).unwrap();
        let is_counted = || store.stats().retired_bytes >= value_bytes;
        assert_eq!(is_counted(), counted, "{value_bytes}");
        store.release_retired();
        assert_eq!(is_counted(), counted, "{value_bytes}");
        drop(held);
        store.release_retired();
        assert!(store.retired.bytes() == 0 && store.retired.blobs.lock().is_empty());
    }

    #[test]
    fn what_is_held_counts_until_it_is_let_go() {
        // Small ones were copied to the reader; of the large ones the last shares the writer's buffer.
        for (bytes, counted) in [(100, false), (1_000, true), (100_000, true)] {
            check(bytes, counted);
        }
    }

    #[test]
    fn what_a_log_holds_is_not_the_budget_s() {
        let store = Store::new(StoreConfig { log_bytes: 60_000, ..StoreConfig::default() });
        let slot = Slot::of_key(b"k");
        let put = Put::new("k", vec![1; 100_000]);
        let outcome = store.lock(slot).put(Epoch(1), put, NOW).unwrap();
        drop(store.lock(slot).clear(Epoch(1), NOW).unwrap());
        let _ = store.lock(slot).put(Epoch(1), Put::new("k", vec![1; 100_000]), NOW).unwrap();
        let second = store.get(slot, b"k", NOW).unwrap();
        let key = Bytes::from_static(b"k");
        let _ = store.lock(slot).delete(Epoch(1), &key, Condition::Always, NOW).unwrap();
        assert!((40_000..42_000).contains(&store.used_bytes()), "{}", store.used_bytes());
        drop((outcome, second));
    }

    #[test]
    fn what_a_value_has_in_common_with_others_does_not_hold_it() {
        let buffer = Bytes::from(vec![1; 200_000]);
        let long_key = Bytes::from(vec![b'k'; 600]);
        let values = [buffer.slice(..100_000), buffer.slice(100_000..), buffer.clone()];
        let store = Store::new(StoreConfig::default());
        let values = values.into_iter().chain([Bytes::from_static(&[0; 70_000]), Bytes::new()]);
        for (number, value) in values.enumerate() {
            let key = if value.is_empty() { long_key.clone() } else { format!("k{number}").into() };
            for _ in 0..3 {
                let put = Put::new(key.clone(), value.clone());
                let _ = store.lock(Slot::of_key(&key)).put(Epoch(1), put, NOW).unwrap();
            }
            let mut guard = store.lock(Slot::of_key(&key));
            let _ = guard.delete(Epoch(1), &key, Condition::Always, NOW).unwrap();
        }
        assert_eq!((store.stats().entry_bytes, store.retired.bytes()), (0, 0));
    }

    #[test]
    fn what_nobody_holds_is_freed_at_once() {
        let (store, key) = (Store::new(StoreConfig::default()), Bytes::from_static(b"k"));
        for _ in 0..100 {
            let put = Put::new(key.clone(), vec![1; 100_000]);
            let _ = store.lock(Slot::of_key(&key)).put(Epoch(1), put, NOW).unwrap();
        }
        assert!(store.used_bytes() < 110_000);
    }
}
