//! Reading a key's entry and changing it in one step, under the slot's lock: what every operation is made of that decides by
//! the value it finds. Replicas never see the procedure, only the effect that it came to.

use bytes::Bytes;
use slotmesh_slots::{Class, Effect, Epoch, MonoTime, Record, Version};

use crate::entry::{Entry, NEVER, Stored};
use crate::error::StoreError;
use crate::guard::SlotGuard;
use crate::outcome::UpdateOutcome;
use crate::pages::Place;

/// The unexpired entry that a procedure finds, as it lies in the store.
#[derive(Clone, Copy, Debug)]
pub struct Current<'a>(Stored<'a>);

impl<'a> Current<'a> {
    /// The value's bytes.
    #[must_use]
    pub fn value(&self) -> &'a [u8] {
        self.0.value_bytes()
    }

    /// Version of the write that put it there.
    #[must_use]
    pub fn version(&self) -> Version {
        self.0.version()
    }

    /// When it expires; `None` is never.
    #[must_use]
    pub fn deadline(&self) -> Option<MonoTime> {
        self.0.deadline()
    }

    /// The entry to keep: a small value is copied, a large one shared.
    #[must_use]
    pub fn entry(&self) -> Entry {
        self.0.entry()
    }
}

/// What a procedure wants done to the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Keep,
    /// The key holds this from now on.
    Put {
        /// The value. Up to 64 KiB it is copied; a larger one keeps the buffer it is a part of alive.
        value: Bytes,
        /// When the entry expires; `None` is never. It is not taken over from the entry before.
        deadline: Option<MonoTime>,
    },
    /// The entry expires at another time; its value and its version stay. One that is past deletes it; without an entry
    /// nothing happens.
    Expire {
        /// The new deadline; `None` is never.
        deadline: Option<MonoTime>,
    },
    /// The key holds nothing from now on: an invalidation, recorded even if it held nothing before.
    Delete,
}

impl SlotGuard<'_> {
    /// Shows the key's entry to a procedure and does what that says, with nobody in between. The procedure runs under the
    /// slot's lock: it should take microseconds and must not lock a slot itself.
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use slotmesh_slots::{Epoch, MonoTime, Slot};
    /// # use slotmesh_store::{Change, Put, Store, StoreConfig};
    /// let store = Store::new(StoreConfig::default());
    /// let (key, now) = (Bytes::from("best"), MonoTime::ZERO);
    /// let mut guard = store.lock(Slot::of_key(&key));
    /// for score in ["70", "95", "80"] {
    ///     let outcome = guard.update(Epoch(1), &key, now, |current| match current {
    ///         Some(best) if best.value() >= score.as_bytes() => Change::Keep,
    ///         _ => Change::Put { value: Bytes::from(score), deadline: None },
    ///     })?;
    ///     assert_eq!(outcome.record.is_some(), score != "80");
    /// }
    /// assert_eq!(&guard.get(b"best", now).unwrap().value[..], b"95");
    /// # Ok::<(), slotmesh_store::StoreError>(())
    /// ```
    ///
    /// # Errors
    /// When what is to be put is too large, the key is, or the epoch is older than the slot's. Nothing changed then.
    pub fn update(
        &mut self,
        epoch: Epoch,
        key: &Bytes,
        now: MonoTime,
        procedure: impl FnOnce(Option<Current<'_>>) -> Change,
    ) -> Result<UpdateOutcome, StoreError> {
        self.try_update(epoch, key, now, |current| Ok(procedure(current)))
    }

    /// As [`SlotGuard::update`], for a procedure that may refuse.
    pub(crate) fn try_update(
        &mut self,
        epoch: Epoch,
        key: &Bytes,
        now: MonoTime,
        procedure: impl FnOnce(Option<Current<'_>>) -> Result<Change, StoreError>,
    ) -> Result<UpdateOutcome, StoreError> {
        self.check_epoch(epoch)?;
        let found = self.find(key);
        let current = self.live(found.1, now).map(Current);
        let before = current.as_ref().map(Current::version);
        // Changing a value does not change what kind of entry it is.
        let class = current.as_ref().map_or(Class::Cache, |current| current.0.class());
        let existed = before.is_some();
        let outcome = |record, version| Ok(UpdateOutcome { record, version, existed });
        match procedure(current)? {
            Change::Put { value, deadline } => {
                self.store.check_size(key, &value)?;
                let deadline = deadline.unwrap_or(NEVER);
                self.check_class(class, found.1, (key, &value))?;
                let record = self.write(epoch, found, (key, &value), (deadline, class));
                let version = record.version();
                outcome(Some(record), Some(version))
            }
            Change::Expire { deadline } if existed => {
                let record = self.redate(epoch, (found, key), deadline, now);
                let stays = matches!(record.effect, Effect::Expire { .. });
                let version = stays.then(|| record.version());
                outcome(Some(record), version)
            }
            Change::Keep | Change::Expire { .. } => outcome(None, before),
            Change::Delete => {
                self.store.check_key(key)?;
                outcome(Some(self.erase(epoch, found.0, key)), None)
            }
        }
    }

    /// Gives the entry that is there another deadline, or deletes it if that is past.
    fn redate(
        &mut self,
        epoch: Epoch,
        ((hash, _), key): ((u64, Option<Place>), &Bytes),
        deadline: Option<MonoTime>,
        now: MonoTime,
    ) -> Record {
        if deadline.is_some_and(|deadline| deadline <= now) {
            return self.erase(epoch, hash, key);
        }
        self.expire_next(epoch, hash, key, deadline);
        self.record(Effect::Expire { key: Bytes::copy_from_slice(key), deadline })
    }
}

#[cfg(test)]
mod tests {
    use slotmesh_slots::{Seq, Slot};

    use super::*;
    use crate::{Put, Store, StoreConfig};

    const NOW: MonoTime = MonoTime::from_micros(50);
    const LATER: MonoTime = MonoTime::from_micros(90);

    /// Carries a change out on a key that holds `v` until [`LATER`], or nothing; says what is recorded and held then.
    fn check(held: bool, change: &Change, expected: Option<&Effect>, after: Option<&str>) {
        let store = Store::new(StoreConfig::default());
        let key = Bytes::from_static(b"k");
        let mut guard = store.lock(Slot::of_key(&key));
        if held {
            let put = Put { deadline: Some(LATER), ..Put::new("k", "v") };
            let _ = guard.put(Epoch(1), put, NOW).unwrap();
        }
        let outcome = guard.update(Epoch(1), &key, NOW, |current| {
            let seen = current.map(|current| (current.value(), current.deadline()));
            assert_eq!(seen, held.then_some((&b"v"[..], Some(LATER))));
            assert_eq!(current.map(|current| current.version().seq), held.then_some(Seq(1)));
            change.clone()
        });
        let outcome = outcome.unwrap();
        assert_eq!(outcome.existed, held);
        assert_eq!(outcome.record.as_ref().map(|record| &record.effect), expected, "{change:?}");
        let entry = guard.get(&key, NOW);
        assert_eq!(outcome.version, entry.as_ref().map(|entry| entry.version));
        assert_eq!(entry.map(|entry| entry.value), after.map(|text| Bytes::from(text.to_owned())));
        drop(guard);
        store.check_invariants().unwrap();
    }

    #[test]
    fn every_change_does_what_it_says() {
        let key = || Bytes::from_static(b"k");
        check(true, &Change::Keep, None, Some("v"));
        check(false, &Change::Keep, None, None);
        for held in [true, false] {
            let value = Bytes::from_static(b"w");
            let put = Change::Put { value: value.clone(), deadline: None };
            let effect = Effect::Put { key: key(), value, deadline: None, class: Class::Cache };
            check(held, &put, Some(&effect), Some("w"));
            check(held, &Change::Delete, Some(&Effect::Delete { key: key() }), None);
        }
        let effect = Effect::Expire { key: key(), deadline: None };
        check(true, &Change::Expire { deadline: None }, Some(&effect), Some("v"));
        let past = Change::Expire { deadline: Some(NOW) };
        check(true, &past, Some(&Effect::Delete { key: key() }), None);
        check(false, &past, None, None);
    }

    #[test]
    fn an_expired_entry_is_not_shown() {
        let store = Store::new(StoreConfig::default());
        let key = Bytes::from_static(b"k");
        let mut guard = store.lock(Slot::of_key(&key));
        let put = Put { deadline: Some(NOW), ..Put::new("k", "v") };
        let _ = guard.put(Epoch(1), put, MonoTime::ZERO).unwrap();
        let outcome = guard.update(Epoch(1), &key, NOW, |current| {
            assert!(current.is_none());
            Change::Expire { deadline: None }
        });
        assert_eq!(outcome.unwrap().record, None);
    }

    #[test]
    fn a_refusal_changes_nothing() {
        let config = StoreConfig { value_bytes_max: 9, key_bytes_max: 4, ..StoreConfig::default() };
        let store = Store::new(config);
        let mut guard = store.lock(Slot::of_key(b"k"));
        let mut refused = |key: &'static str, change: Change| {
            guard.update(Epoch(1), &Bytes::from(key), NOW, |_| change).unwrap_err()
        };
        let large = Change::Put { value: Bytes::from(vec![0; 10]), deadline: None };
        assert_eq!(refused("k", large), StoreError::ValueTooLarge { bytes: 10, max: 9 });
        let put = Change::Put { value: Bytes::new(), deadline: None };
        let too_long = StoreError::KeyTooLarge { bytes: 5, max: 4 };
        assert_eq!(refused("kkkkk", put), too_long);
        assert_eq!(refused("kkkkk", Change::Delete), too_long);
        assert_eq!(guard.version(), Version::default());
    }
}
