use bytes::Bytes;
use parking_lot::MappedMutexGuard;
use slotmesh_slots::{Class, MonoTime, Slot, Version};

use crate::blob::INLINE_BYTES_MAX;
use crate::contents::SlotContents;
use crate::entry::{Entry, Stored};
use crate::store::Store;

/// Keys whose memory is fetched at the same time: about as many cache misses as a core can wait for at once.
const AT_ONCE: usize = 16;

/// Room for the small value of each key before more is taken, and for all of them at most.
const VALUE_BYTES: usize = 64;
const VALUES_BYTES_MAX: usize = 64 << 10;

const _: () = assert!(AT_ONCE <= 32 && INLINE_BYTES_MAX < SHARED as usize);

/// What [`Store::get_many`] found, in the order of the keys. It has the small values in one piece of memory of its own and handles to
/// the large ones, so an entry that is only looked at costs no allocation.
#[derive(Debug, Default)]
pub struct Batch {
    found: Vec<Option<Found>>,
    copied: Vec<u8>,
    shared: Vec<Bytes>,
}

#[derive(Clone, Copy, Debug)]
struct Found {
    version: Version,
    deadline: Option<MonoTime>,
    class: Class,
    /// Bytes of the value, or [`SHARED`].
    len: u16,
    /// Where it begins, or its number among the shared ones.
    at: usize,
}

/// Stands for the length of a value that is shared.
const SHARED: u16 = u16::MAX;

/// An entry of a [`Batch`].
#[derive(Clone, Copy, Debug)]
pub struct EntryRef<'a> {
    /// As [`Entry::value`].
    pub value: &'a [u8],
    /// As [`Entry::version`].
    pub version: Version,
    /// As [`Entry::deadline`].
    pub deadline: Option<MonoTime>,
    /// As [`Entry::class`].
    pub class: Class,
    shared: Option<&'a Bytes>,
}

impl EntryRef<'_> {
    /// The entry by itself; a small value is copied.
    #[must_use]
    pub fn to_entry(&self) -> Entry {
        let Self { version, deadline, class, .. } = *self;
        let value = self.shared.cloned().unwrap_or_else(|| Bytes::copy_from_slice(self.value));
        Entry { value, version, deadline, class }
    }
}

impl Batch {
    fn with_room(keys: usize) -> Self {
        Self {
            found: Vec::with_capacity(keys),
            copied: Vec::with_capacity((keys * VALUE_BYTES).min(VALUES_BYTES_MAX)),
            shared: Vec::new(),
        }
    }

    /// How many keys were asked for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The entry of the key with this number, counted from zero.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<EntryRef<'_>> {
        self.found.get(number)?.as_ref().map(|found| self.entry(found))
    }

    /// The entry of each key, one after the other.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Option<EntryRef<'_>>> {
        self.found.iter().map(|found| found.as_ref().map(|found| self.entry(found)))
    }

    fn entry(&self, found: &Found) -> EntryRef<'_> {
        let Found { version, deadline, class, len, at } = *found;
        let shared = (len == SHARED).then(|| &self.shared[at]);
        let value = match shared {
            Some(shared) => shared,
            None => &self.copied[at..at + usize::from(len)],
        };
        EntryRef { value, version, deadline, class, shared }
    }

    /// Takes the value over.
    #[inline]
    fn take(&mut self, stored: &Stored<'_>) -> Found {
        let (version, deadline, class) = (stored.version(), stored.deadline(), stored.class());
        if stored.is_blob() {
            self.shared.push(stored.value());
            return Found { version, deadline, class, len: SHARED, at: self.shared.len() - 1 };
        }
        let (value, at) = (stored.in_page(), self.copied.len());
        self.copied.extend_from_slice(value);
        Found { version, deadline, class, len: value.len() as u16, at }
    }
}

impl Store {
    /// The entries of many keys, in their order, as [`Store::get`] for each but several times as fast where they are not in
    /// the processor's caches: the memory of sixteen keys is fetched at a time, step by step, instead of waiting for each.
    ///
    /// Each key is read at a moment of its own; other threads may write in between.
    #[must_use]
    pub fn get_many(&self, keys: &[(Slot, &[u8])], now: MonoTime) -> Batch {
        let mut batch = Batch::with_room(keys.len());
        if self.cells.is_wide() {
            for group in keys.chunks(AT_ONCE) {
                self.read_group(group, now, &mut batch);
            }
        } else {
            // Then they are in the caches.
            for (slot, key) in keys {
                let found =
                    self.read(*slot, self.hash(key), key, now, |stored| batch.take(&stored));
                batch.found.push(found);
            }
        }
        batch
    }

    /// Each step has the processor fetch for all keys what the next one needs.
    fn read_group(&self, group: &[(Slot, &[u8])], now: MonoTime, batch: &mut Batch) {
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
        let first = batch.found.len();
        let mut left_out = 0_u32;
        for (number, (_, key)) in group.iter().enumerate() {
            let found = if let Some(mut contents) = locked[number].take() {
                let stored =
                    contents.pages.find_and_touch_from(places[number], hashes[number], key);
                stored.filter(|stored| !stored.is_expired(now)).map(|stored| batch.take(&stored))
            } else {
                left_out |= 1 << number;
                None
            };
            batch.found.push(found);
        }
        while left_out != 0 {
            let number = left_out.trailing_zeros() as usize;
            let (slot, key) = group[number];
            let found = self.read(slot, hashes[number], key, now, |stored| batch.take(&stored));
            batch.found[first + number] = found;
            left_out &= left_out - 1;
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
            assert!(found.iter().map(|entry| entry.map(|entry| entry.to_entry())).eq(single));
            assert!(len < 17 || found.iter().any(|entry| entry.is_some()));
            assert_eq!((found.len(), found.is_empty()), (len, len == 0));
            assert!(found.get(len).is_none());
        }
    }
}
