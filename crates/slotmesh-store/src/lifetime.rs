use bytes::Bytes;
use slotmesh_slots::{Epoch, MonoTime};

use crate::entry::NEVER;
use crate::error::StoreError;
use crate::guard::SlotGuard;
use crate::outcome::ExpireOutcome;
use crate::update::Change;

/// What must hold of an entry's deadline for it to be changed; no deadline is later than any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ExpireCondition {
    /// Nothing.
    #[default]
    Always,
    /// It has none (`NX` in Redis).
    Unset,
    /// It has one (`XX`).
    Set,
    /// The new one is later (`GT`): never so when it has none.
    Later,
    /// The new one is earlier (`LT`): always so when it has none.
    Earlier,
    /// It has one and the new one is earlier (`XX LT`).
    SetAndEarlier,
}

impl ExpireCondition {
    /// Whether an entry's deadline is to be changed. From none to none is no change, whatever the condition.
    pub(crate) fn holds(self, current: Option<MonoTime>, new: Option<MonoTime>) -> bool {
        if current.is_none() && new.is_none() {
            return false;
        }
        let is_set = current.is_some();
        let (current, new) = (current.unwrap_or(NEVER), new.unwrap_or(NEVER));
        match self {
            Self::Always => true,
            Self::Unset => !is_set,
            Self::Set => is_set,
            Self::Later => new > current,
            Self::Earlier => !is_set || new < current,
            Self::SetAndEarlier => is_set && new < current,
        }
    }
}

impl SlotGuard<'_> {
    /// Changes when the key's entry expires, if the condition holds; `None` is never, and is applied only to an entry that
    /// has a deadline. One at or before `now` deletes the entry. Its value stays; its version is a new one, as with any change, so that a reader
    /// knows what to wait for. Without an entry nothing happens and there is no record.
    ///
    /// # Errors
    /// When the epoch is older than the slot's. Nothing changed then.
    pub fn expire(
        &mut self,
        epoch: Epoch,
        key: &Bytes,
        deadline: Option<MonoTime>,
        condition: ExpireCondition,
        now: MonoTime,
    ) -> Result<ExpireOutcome, StoreError> {
        let mut previous = None;
        let outcome = self.update(epoch, key, now, |current| match current {
            Some(current) => {
                previous = current.deadline();
                let holds = condition.holds(previous, deadline);
                if holds { Change::Expire { deadline } } else { Change::Keep }
            }
            None => Change::Keep,
        })?;
        let (record, version) = (outcome.record, outcome.version);
        Ok(ExpireOutcome { applied: record.is_some(), record, version, previous })
    }

    /// Counts as a use of the key's entry, as [`Store::get`](crate::Store::get) does; whether there is one.
    pub fn touch(&mut self, key: &[u8], now: MonoTime) -> bool {
        let stored = self.contents.pages.find_and_touch(self.store.hash(key), key);
        stored.is_some_and(|stored| !stored.is_expired(now))
    }
}

#[cfg(test)]
mod tests {
    use slotmesh_slots::Slot;

    use super::*;
    use crate::{Put, Store, StoreConfig};

    const EPOCH: Epoch = Epoch(1);
    const NOW: MonoTime = MonoTime::from_micros(10);

    fn at(micros: u64) -> Option<MonoTime> {
        Some(MonoTime::from_micros(micros))
    }

    /// On an entry with deadline 20, and on one without.
    fn check(condition: ExpireCondition, new: Option<MonoTime>, with: bool, without: bool) {
        for (current, expected) in [(at(20), with), (None, without)] {
            let store = Store::new(StoreConfig::default());
            let key = Bytes::from_static(b"k");
            let mut guard = store.lock(Slot::of_key(&key));
            let put = Put { deadline: current, ..Put::new("k", "v") };
            let written = guard.put(EPOCH, put, NOW).unwrap().version;
            let outcome = guard.expire(EPOCH, &key, new, condition, NOW).unwrap();
            assert_eq!(outcome.applied, expected, "{condition:?} {current:?} {new:?}");
            assert_eq!((outcome.record.is_some(), outcome.previous), (expected, current));
            let left = guard.get(&key, NOW);
            assert_eq!(outcome.version, left.as_ref().map(|entry| entry.version));
            let deadline = if expected { new } else { current };
            let deadline = deadline.filter(|&at| at != NEVER);
            let stays = deadline.is_none_or(|at| at > NOW);
            let version = if expected { Some(guard.version()) } else { written };
            let expected = stays.then_some((version, deadline));
            assert_eq!(left.map(|entry| (Some(entry.version), entry.deadline)), expected);
        }
    }

    #[test]
    fn no_deadline_is_later_than_any() {
        use ExpireCondition::{Always, Earlier, Later, Set, SetAndEarlier, Unset};
        for (new, always) in [(at(19), true), (at(20), true), (at(21), true), (at(10), true)] {
            check(Always, new, always, always);
            check(Unset, new, false, true);
            check(Set, new, true, false);
            check(Later, new, new > at(20), false);
            check(Earlier, new, new < at(20), true);
            check(SetAndEarlier, new, new < at(20), false);
        }
        let saturated = at(u64::MAX);
        check(Always, saturated, true, true);
        check(Earlier, saturated, false, true);
    }

    #[test]
    fn only_what_has_a_deadline_can_lose_it() {
        use ExpireCondition::{Always, Earlier, Later, Set, SetAndEarlier, Unset};
        for (condition, with) in
            [(Always, true), (Set, true), (Later, true), (Unset, false), (Earlier, false)]
        {
            check(condition, None, with, false);
        }
        check(SetAndEarlier, None, false, false);
    }

    #[test]
    fn a_touched_entry_is_evicted_later() {
        let store = Store::new(StoreConfig::default());
        let mut guard = store.lock(Slot::of_key(b"{t}"));
        for key in ["{t}a", "{t}b"] {
            let _ = guard.put(EPOCH, Put { deadline: at(30), ..Put::new(key, "v") }, NOW).unwrap();
        }
        let version = guard.version();
        assert!(guard.touch(b"{t}a", NOW) && !guard.touch(b"{t}c", NOW));
        assert!(!guard.touch(b"{t}b", MonoTime::from_micros(30)), "expired");
        assert!(guard.touch(b"{t}a", NOW));
        assert_eq!(guard.version(), version, "no record");
        let frequency = |key| guard.live(guard.find(key).1, NOW).unwrap().frequency();
        assert_eq!((frequency(b"{t}a"), frequency(b"{t}b")), (2, 1));
    }
}
