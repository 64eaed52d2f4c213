use slotmesh_slots::{MonoTime, Slot};

use crate::entry::Entry;
use crate::store::Store;

/// Keys whose memory is fetched at the same time: about as many cache misses as a core can wait for at once.
const AT_ONCE: usize = 16;

impl Store {
    /// The entries of many keys, in their order, as [`Store::get`] for each but several times as fast where they are not in
    /// the processor's caches: the memory of sixteen keys is fetched at a time, step by step, instead of waiting for each.
    ///
    /// Each key is read at a moment of its own; other threads may write in between.
    #[must_use]
    pub fn get_many(&self, keys: &[(Slot, &[u8])], now: MonoTime) -> Vec<Option<Entry>> {
        let mut found = Vec::with_capacity(keys.len());
        for group in keys.chunks(AT_ONCE) {
            let mut hashes = [0; AT_ONCE];
            for ((slot, key), hash) in group.iter().zip(&mut hashes) {
                self.prefetch(*slot);
                *hash = self.hash(key);
            }
            let hashed = || group.iter().zip(hashes);
            for ((slot, _), hash) in hashed() {
                self.cell(*slot).lock().pages.prefetch_index(hash);
            }
            for ((slot, _), hash) in hashed() {
                self.cell(*slot).lock().pages.prefetch_entry(hash);
            }
            found.extend(hashed().map(|((slot, key), hash)| self.read(*slot, hash, key, now)));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use slotmesh_slots::Epoch;

    use super::*;
    use crate::{Put, StoreConfig};

    #[test]
    fn a_batch_finds_what_single_reads_find() {
        let (store, now) = (Store::new(StoreConfig::default()), MonoTime::from_micros(7));
        // Many slots with few entries, and one of many pages.
        let keys: Vec<Bytes> = (0..1_000)
            .map(|i| Bytes::from(format!("k{i}")))
            .chain((0..1_000).map(|i| Bytes::from(format!("{{t}}{i}"))))
            .collect();
        for (i, key) in keys.iter().enumerate() {
            let deadline = (i % 7 == 0).then_some(now);
            let put = Put { deadline, ..Put::new(key.clone(), vec![i as u8; i % 700]) };
            if i % 5 != 0 {
                let _ = store.lock(Slot::of_key(key)).put(Epoch(1), put, MonoTime::ZERO).unwrap();
            }
        }
        let wanted: Vec<_> = keys.iter().map(|key| (Slot::of_key(key), &key[..])).collect();
        for len in [0, 1, 15, 16, 17, 2_000] {
            let found = store.get_many(&wanted[..len], now);
            let single = wanted[..len].iter().map(|(slot, key)| store.get(*slot, key, now));
            assert!(found.iter().cloned().eq(single));
            assert!(len < 17 || found.iter().any(Option::is_some));
        }
    }
}
