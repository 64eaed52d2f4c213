use bytes::Bytes;
use parking_lot::MappedMutexGuard;
use slotmesh_slots::{MonoTime, Slot};

use crate::blob::INLINE_BYTES_MAX;
use crate::contents::SlotContents;
use crate::entry::{Entry, Stored};
use crate::store::Store;

/// Keys whose memory is fetched at the same time: about as many cache misses as a core can wait for at once.
const AT_ONCE: usize = 16;

/// Room for the small values of so many keys before it has to grow.
const VALUES_BYTES: usize = 1 << 10;

const _: () = assert!(AT_ONCE * INLINE_BYTES_MAX <= u16::MAX as usize && AT_ONCE <= 32);

impl Store {
    /// The entries of many keys, in their order, as [`Store::get`] for each but several times as fast where they are not in
    /// the processor's caches: the memory of sixteen keys is fetched at a time, step by step, instead of waiting for each.
    ///
    /// Each key is read at a moment of its own; other threads may write in between. Small values of up to sixteen neighbours share
    /// an allocation, of 8 KiB at most.
    #[must_use]
    pub fn get_many(&self, keys: &[(Slot, &[u8])], now: MonoTime) -> Vec<Option<Entry>> {
        if !self.cells.is_wide() {
            // Then it is in the caches.
            return keys.iter().map(|(slot, key)| self.get(*slot, key, now)).collect();
        }
        let mut found = Vec::with_capacity(keys.len());
        for group in keys.chunks(AT_ONCE) {
            self.read_group(group, now, &mut found);
        }
        found
    }

    /// Each step has the processor fetch for all keys what the next one needs.
    fn read_group(&self, group: &[(Slot, &[u8])], now: MonoTime, found: &mut Vec<Option<Entry>>) {
        let mut hashes = [0; AT_ONCE];
        for ((slot, key), hash) in group.iter().zip(&mut hashes) {
            self.prefetch(*slot);
            *hash = self.hash(key);
        }
        // Never waits with a lock in its hands, so it cannot be part of a deadlock: a slot that is locked at the moment, perhaps for
        // another key of the group, has its turn at the end.
        let mut locked = [const { None::<MappedMutexGuard<'_, SlotContents>> }; AT_ONCE];
        for (((slot, _), hash), locked) in group.iter().zip(hashes).zip(&mut locked) {
            *locked = self.cells.try_lock_wide(*slot);
            if let Some(contents) = locked {
                contents.pages.prefetch_index(hash);
            }
        }
        let mut places = [0; AT_ONCE];
        for ((contents, hash), place) in locked.iter().zip(hashes).zip(&mut places) {
            if let Some(contents) = contents {
                *place = contents.pages.prefetch_entry(hash);
            }
        }
        let first = found.len();
        let mut values = Values::default();
        let mut left_out = 0_u32;
        for (number, (_, key)) in group.iter().enumerate() {
            let Some(mut contents) = locked[number].take() else {
                left_out |= 1 << number;
                found.push(None);
                continue;
            };
            let stored = contents.pages.find_and_touch_from(places[number], hashes[number], key);
            let live = stored.filter(|stored| !stored.is_expired(now));
            found.push(live.map(|stored| stored.entry_with(values.value(number, &stored))));
        }
        values.hand_out(&mut found[first..]);
        while left_out != 0 {
            let number = left_out.trailing_zeros() as usize;
            let (slot, key) = group[number];
            found[first + number] = self.read(slot, hashes[number], key, now);
            left_out &= left_out - 1;
        }
    }
}

/// Small values of neighbours, in one allocation: one each would take as long as all the rest.
#[derive(Default)]
struct Values {
    bytes: Vec<u8>,
    /// Where each value is.
    places: [(u16, u16); AT_ONCE],
}

impl Values {
    /// The value, if it is shared; else it is copied and handed out at the end.
    #[inline]
    fn value(&mut self, number: usize, stored: &Stored<'_>) -> Bytes {
        if stored.is_blob() {
            return stored.value();
        }
        let value = stored.value_bytes();
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(VALUES_BYTES);
        }
        self.places[number] = (self.bytes.len() as u16, value.len() as u16);
        self.bytes.extend_from_slice(value);
        Bytes::new()
    }

    #[inline]
    fn hand_out(self, found: &mut [Option<Entry>]) {
        if self.bytes.is_empty() {
            return;
        }
        let bytes = Bytes::from(self.bytes);
        for (entry, (start, len)) in found.iter_mut().zip(self.places) {
            if let Some(entry) = entry
                && len > 0
            {
                entry.value = bytes.slice(usize::from(start)..usize::from(start + len));
            }
        }
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
