use bytes::Bytes;
use slotmesh_slots::{Epoch, MonoTime};

use crate::error::StoreError;
use crate::guard::SlotGuard;
use crate::lifetime::ExpireCondition;
use crate::outcome::{ExchangeOutcome, Put, UpdateOutcome};
use crate::update::{Change, Current};

impl SlotGuard<'_> {
    /// As [`SlotGuard::put`], and returns what the key held before, also when the condition failed.
    ///
    /// # Errors
    /// As for [`SlotGuard::put`].
    pub fn get_and_put(
        &mut self,
        epoch: Epoch,
        put: Put,
        now: MonoTime,
    ) -> Result<ExchangeOutcome, StoreError> {
        let previous = self.get(&put.key, now);
        let outcome = self.put(epoch, put, now)?;
        let (record, applied, version) = (outcome.record, outcome.applied, outcome.version);
        Ok(ExchangeOutcome { record, applied, previous, version })
    }

    /// As an unconditional [`SlotGuard::delete`], and returns what the key held before. An invalidation, recorded even if
    /// it held nothing.
    ///
    /// # Errors
    /// As for [`SlotGuard::delete`].
    pub fn get_and_delete(
        &mut self,
        epoch: Epoch,
        key: &Bytes,
        now: MonoTime,
    ) -> Result<ExchangeOutcome, StoreError> {
        self.exchange(epoch, key, now, |_| Change::Delete)
    }

    /// As an unconditional [`SlotGuard::expire`], and returns what the key held before, with the deadline it had.
    ///
    /// # Errors
    /// As for [`SlotGuard::expire`].
    pub fn get_and_expire(
        &mut self,
        epoch: Epoch,
        key: &Bytes,
        deadline: Option<MonoTime>,
        now: MonoTime,
    ) -> Result<ExchangeOutcome, StoreError> {
        self.exchange(epoch, key, now, |current| {
            let previous = current.and_then(|current| current.deadline());
            let changes = ExpireCondition::Always.holds(previous, deadline);
            if changes { Change::Expire { deadline } } else { Change::Keep }
        })
    }

    fn exchange(
        &mut self,
        epoch: Epoch,
        key: &Bytes,
        now: MonoTime,
        change: impl FnOnce(Option<Current<'_>>) -> Change,
    ) -> Result<ExchangeOutcome, StoreError> {
        let mut previous = None;
        let outcome = self.update(epoch, key, now, |current| {
            previous = current.as_ref().map(Current::entry);
            change(current)
        })?;
        let UpdateOutcome { record, version, .. } = outcome;
        Ok(ExchangeOutcome { applied: record.is_some(), record, previous, version })
    }
}

#[cfg(test)]
mod tests {
    use slotmesh_slots::Slot;

    use super::*;
    use crate::{Condition, Store, StoreConfig};

    const EPOCH: Epoch = Epoch(1);
    const NOW: MonoTime = MonoTime::from_micros(10);
    const LATER: MonoTime = MonoTime::from_micros(20);

    type Exchange<'a> = &'a dyn Fn(&mut SlotGuard<'_>) -> Result<ExchangeOutcome, StoreError>;

    /// Does it to a key that holds `old` until [`LATER`] and to one that holds nothing: whether it is applied, and what the
    /// key holds afterwards.
    fn check(exchange: Exchange<'_>, (held, after): (bool, &str), (missing, then): (bool, &str)) {
        for (is_held, applied, after) in [(true, held, after), (false, missing, then)] {
            let store = Store::new(StoreConfig::default());
            let mut guard = store.lock(Slot::of_key(b"k"));
            if is_held {
                let put = Put { deadline: Some(LATER), ..Put::new("k", "old") };
                let _ = guard.put(EPOCH, put, NOW).unwrap();
            }
            let before = guard.get(b"k", NOW);
            let outcome = exchange(&mut guard).unwrap();
            assert_eq!((outcome.applied, outcome.record.is_some()), (applied, applied));
            assert_eq!(outcome.previous, before);
            let entry = guard.get(b"k", NOW);
            assert_eq!(outcome.version, entry.as_ref().map(|entry| entry.version));
            let shown = entry.map(|entry| {
                let value = String::from_utf8_lossy(&entry.value).into_owned();
                format!("{value} {:?}", entry.deadline.map(MonoTime::as_micros))
            });
            assert_eq!(shown.unwrap_or_default(), after);
        }
    }

    #[test]
    fn what_was_there_comes_back() {
        let put = |condition| Put { condition, ..Put::new("k", "new") };
        let key = &Bytes::from_static(b"k");
        check(
            &|guard| guard.get_and_put(EPOCH, put(Condition::Always), NOW),
            (true, "new None"),
            (true, "new None"),
        );
        check(
            &|guard| guard.get_and_put(EPOCH, put(Condition::Absent), NOW),
            (false, "old Some(20)"),
            (true, "new None"),
        );
        check(&|guard| guard.get_and_delete(EPOCH, key, NOW), (true, ""), (true, ""));
        check(
            &|guard| guard.get_and_expire(EPOCH, key, None, NOW),
            (true, "old None"),
            (false, ""),
        );
        check(&|guard| guard.get_and_expire(EPOCH, key, Some(NOW), NOW), (true, ""), (false, ""));
    }

    #[test]
    fn without_a_deadline_there_is_none_to_take_away() {
        let store = Store::new(StoreConfig::default());
        let mut guard = store.lock(Slot::of_key(b"k"));
        let _ = guard.put(EPOCH, Put::new("k", "v"), NOW).unwrap();
        let key = Bytes::from_static(b"k");
        let outcome = guard.get_and_expire(EPOCH, &key, None, NOW).unwrap();
        assert_eq!((outcome.record, outcome.applied), (None, false));
        assert_eq!(outcome.previous, guard.get(&key, NOW));
    }

    #[test]
    fn a_large_value_comes_back_without_a_copy() {
        let store = Store::new(StoreConfig::default());
        let value = Bytes::from(vec![1; 200_000]);
        let mut guard = store.lock(Slot::of_key(b"k"));
        let _ = guard.put(EPOCH, Put::new("k", value.clone()), NOW).unwrap();
        let outcome = guard.get_and_delete(EPOCH, &Bytes::from_static(b"k"), NOW).unwrap();
        assert_eq!(outcome.previous.unwrap().value.as_ptr(), value.as_ptr());
    }
}
