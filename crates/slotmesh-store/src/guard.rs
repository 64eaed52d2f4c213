use bytes::Bytes;
use slotmesh_slots::{Class, Effect, Epoch, MonoTime, Record, Seq, Slot, Version};

use crate::blob::INLINE_BYTES_MAX;
use crate::block;
use crate::cells::Locked;
use crate::condition::{Condition, Facts};
use crate::contents::SlotContents;
use crate::entry::{Entry, NEVER, STATE_UNIT, Stored, Usage};
use crate::error::StoreError;
use crate::garbage::Garbage;
use crate::history::Standing;
use crate::outcome::{DeleteOutcome, Put, PutOutcome};
use crate::pages::Place;
use crate::store::{ENTRY_OVERHEAD_BYTES, Store};

/// Exclusive access to one slot. Mutations return the record to replicate; append it to the log before dropping the
/// guard, and the log is in the slot's order. What mutations removed is freed after unlocking. Stays on its thread: it
/// cannot be held across an await of a future that moves.
#[derive(Debug)]
pub struct SlotGuard<'a> {
    pub(crate) store: &'a Store,
    slot: Slot,
    // Declared before `garbage`: fields drop in order, so the slot is unlocked before anything is freed.
    pub(crate) contents: Locked<'a>,
    pub(crate) garbage: Garbage<'a>,
}

impl<'a> SlotGuard<'a> {
    pub(crate) fn new(store: &'a Store, slot: Slot, contents: Locked<'a>) -> Self {
        Self { store, slot, contents, garbage: Garbage::new(store) }
    }

    /// The slot that is locked.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Version of the last mutation applied; the default (epoch 0, seq 0) before the first.
    #[must_use]
    pub fn version(&self) -> Version {
        self.contents.version
    }

    /// Sum over the entries of a fixed hash of key, value and version; deadlines are left out. Equal contents have
    /// equal digests on every node, whatever their history; zero when empty. It is at hand, or in a store with few entries counted from
    /// one page of at most 4 KiB.
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.contents.digest()
    }

    /// Number of entries, expired ones not yet removed included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.contents.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// What the slot's entries count against the byte budget.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.contents.bytes()
    }

    /// Seq of the slot's last delete, eviction, expiry or clear (of the installed snapshot if there was none since; zero
    /// when nothing was deleted in the slot's known history). The answer "absent" is committed once this seq is.
    #[must_use]
    pub fn last_delete(&self) -> Seq {
        self.contents.last_delete.seq
    }

    /// The key's entry, unless it has expired at `now`. Does not count as a use of it: [`Store::get`] does.
    #[must_use]
    pub fn get(&self, key: &[u8], now: MonoTime) -> Option<Entry> {
        let stored = self.contents.find_live(self.store.hash(key), key, now)?;
        Some(stored.entry())
    }

    /// All unexpired keys with their entries, in no particular order. Small values are copied, large ones shared.
    pub fn entries(&self, now: MonoTime) -> impl Iterator<Item = (Bytes, Entry)> + '_ {
        let live = self.contents.pages.iter().filter(move |stored| !stored.is_expired(now));
        live.map(|stored| (Bytes::copy_from_slice(stored.key()), stored.entry()))
    }

    /// Writes a value if the condition holds.
    ///
    /// # Errors
    /// When the key or the value is too large, the entry can never fit, there is no room for more that is never evicted, or
    /// the epoch is older than the slot's. Nothing changed then. A condition that fails is an outcome, not an error.
    pub fn put(&mut self, epoch: Epoch, put: Put, now: MonoTime) -> Result<PutOutcome, StoreError> {
        self.check_epoch(epoch)?;
        self.store.check_size(&put.key, &put.value)?;
        self.put_sized(epoch, put, now, Self::check_class)
    }

    /// As [`SlotGuard::put`] once size and epoch are checked.
    pub(crate) fn put_sized(
        &mut self,
        epoch: Epoch,
        put: Put,
        now: MonoTime,
        has_room: impl FnOnce(&Self, Class, Option<Place>, (&[u8], &[u8])) -> Result<(), StoreError>,
    ) -> Result<PutOutcome, StoreError> {
        let Put { key, value, deadline, condition, keep_deadline, class } = put;
        let (hash, place) = self.find(&key);
        let stored = place.and_then(|place| self.contents.pages.at(place));
        let current = stored.filter(|stored| !stored.is_expired(now));
        let existed = current.is_some();
        let deadline = match current {
            Some(current) if keep_deadline => current.expires_at(),
            _ => deadline.unwrap_or(NEVER),
        };
        let version = current.map(|current| current.version());
        if !condition.holds(&self.facts(stored, now)) {
            return Ok(PutOutcome { record: None, applied: false, version, existed });
        }
        has_room(self, class, place, (&key, &value))?;
        let record = self.write(epoch, (hash, place), (&key, &value), (deadline, class));
        let version = Some(record.version());
        Ok(PutOutcome { record: Some(record), applied: true, version, existed })
    }

    /// Removes the key's entry if the condition holds. Takes a seq and yields a record even if there was none: it is an
    /// invalidation, which caches elsewhere must learn of.
    ///
    /// # Errors
    /// When the key is too large or the epoch is older than the slot's. Nothing changed then.
    pub fn delete(
        &mut self,
        epoch: Epoch,
        key: &Bytes,
        condition: Condition,
        now: MonoTime,
    ) -> Result<DeleteOutcome, StoreError> {
        self.check_epoch(epoch)?;
        self.store.check_key(key)?;
        let hash = self.store.hash(key);
        let facts = self.facts(self.contents.pages.find(hash, key), now);
        let version = facts.entry;
        let existed = version.is_some();
        if !condition.holds(&facts) {
            return Ok(DeleteOutcome { record: None, applied: false, version, existed });
        }
        let record = Some(self.erase(epoch, hash, key));
        Ok(DeleteOutcome { record, applied: true, version: None, existed })
    }

    /// Removes all entries, in O(1) under the lock; they are freed after unlocking.
    ///
    /// # Errors
    /// When the epoch is older than the slot's. Nothing changed then.
    pub fn clear(&mut self, epoch: Epoch, _now: MonoTime) -> Result<Record, StoreError> {
        self.check_epoch(epoch)?;
        self.clear_next(epoch);
        Ok(self.record(Effect::Clear))
    }

    /// Changes nothing but the slot's version, for an answer that replicas are to keep.
    ///
    /// # Errors
    /// When the epoch is older than the slot's. Nothing changed then.
    pub fn note(&mut self, epoch: Epoch) -> Result<Record, StoreError> {
        self.check_epoch(epoch)?;
        self.nothing_next(epoch);
        Ok(self.record(Effect::Nothing))
    }

    /// Deletes the entry that [`Store::victim`] named; `None` when it is gone already, is never to be evicted, or the epoch is older
    /// than the slot's.
    pub fn evict(&mut self, epoch: Epoch, key: &Bytes, now: MonoTime) -> Option<Record> {
        self.remove_if(epoch, key, now, |class, expired| expired || class == Class::Cache)
    }

    /// Deletes the entry that [`Store::expired`] named, if it is still expired: it may have been written anew or persisted.
    pub fn evict_expired(&mut self, epoch: Epoch, key: &Bytes, now: MonoTime) -> Option<Record> {
        self.remove_if(epoch, key, now, |_, expired| expired)
    }

    fn remove_if(
        &mut self,
        epoch: Epoch,
        key: &Bytes,
        now: MonoTime,
        wanted: impl FnOnce(Class, bool) -> bool,
    ) -> Option<Record> {
        self.check_epoch(epoch).ok()?;
        let hash = self.store.hash(key);
        let stored = self.contents.pages.find(hash, key)?;
        let expired = stored.is_expired(now);
        if !wanted(stored.class(), expired) {
            return None;
        }
        self.store.count_removal(expired);
        Some(self.erase(epoch, hash, key))
    }

    pub(crate) fn check_epoch(&self, epoch: Epoch) -> Result<(), StoreError> {
        let have = self.contents.version;
        if epoch < have.epoch { Err(StoreError::StaleEpoch { have }) } else { Ok(()) }
    }

    /// What conditions look at, of a key whose entry is this, expired or not.
    pub(crate) fn facts(&self, stored: Option<Stored<'_>>, now: MonoTime) -> Facts {
        let SlotContents { version, last_delete, .. } = *self.contents;
        let entry = stored.filter(|stored| !stored.is_expired(now)).map(|stored| stored.version());
        Facts { entry, stored: stored.map(|stored| stored.version()), slot: version, last_delete }
    }

    /// The key's hash and where its entry is, expired or not.
    pub(crate) fn find(&self, key: &[u8]) -> (u64, Option<Place>) {
        let hash = self.store.hash(key);
        (hash, self.contents.pages.place(hash, key))
    }

    pub(crate) fn live(&self, place: Option<Place>, now: MonoTime) -> Option<Stored<'_>> {
        self.contents.pages.at(place?).filter(|stored| !stored.is_expired(now))
    }

    /// Whether there is room for an entry of the class at the place.
    pub(crate) fn check_class(
        &self,
        class: Class,
        place: Option<Place>,
        (key, value): (&[u8], &[u8]),
    ) -> Result<(), StoreError> {
        if class == Class::Cache {
            return Ok(());
        }
        let before = place.and_then(|place| self.contents.pages.at(place));
        let units = before.map_or(0, |before| before.state_units());
        let more = key.len() + value.len() + ENTRY_OVERHEAD_BYTES;
        self.store.check_state(more, units as usize * STATE_UNIT)
    }

    /// Stores the value as the next version. The record has copies or shares what is stored, so it does not keep the
    /// caller's buffer alive.
    #[inline]
    pub(crate) fn write(
        &mut self,
        epoch: Epoch,
        found: (u64, Option<Place>),
        (key, value): (&Bytes, &Bytes),
        (deadline, class): (MonoTime, Class),
    ) -> Record {
        let usage = match (found, class) {
            ((hash, None), Class::Cache) => self.store.admit(self.slot, hash),
            _ => Usage::default(),
        };
        self.put_next(epoch, found, (key, value), Standing { deadline, usage, class });
        let deadline = (deadline != NEVER).then_some(deadline);
        let (key, value) = if key.len() + value.len() <= INLINE_BYTES_MAX {
            block::pair(key, value)
        } else {
            let stored = self.contents.pages.find(found.0, key);
            let value = stored.map_or_else(|| value.clone(), |stored| stored.value());
            (Bytes::copy_from_slice(key), value)
        };
        self.record(Effect::Put { key, value, deadline, class })
    }

    /// Deletes as the next version, whether there is an entry or not.
    pub(crate) fn erase(&mut self, epoch: Epoch, hash: u64, key: &Bytes) -> Record {
        self.delete_next(epoch, hash, key);
        // A copy: the caller's key is mostly a slice of a frame, which the record would keep alive.
        self.record(Effect::Delete { key: Bytes::copy_from_slice(key) })
    }

    /// The record of the mutation that was just applied.
    pub(crate) fn record(&self, effect: Effect) -> Record {
        let Version { epoch, seq } = self.contents.version;
        Record { slot: self.slot, epoch, seq, effect, answer: None }
    }
}
