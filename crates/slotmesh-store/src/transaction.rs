use bytes::Bytes;
use slotmesh_slots::{Class, Epoch, MonoTime, Record};

use crate::condition::Condition;
use crate::error::StoreError;
use crate::guard::SlotGuard;
use crate::lifetime::ExpireCondition;
use crate::outcome::Put;
use crate::store::ENTRY_OVERHEAD_BYTES;

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// See [`SlotGuard::put`].
    Put(Put),
    /// See [`SlotGuard::delete`].
    Delete {
        /// The key.
        key: Bytes,
        /// What must hold.
        condition: Condition,
    },
    /// See [`SlotGuard::expire`]. Counts as one whose condition failed when there is nothing to change.
    Expire {
        /// The key.
        key: Bytes,
        /// The new deadline; `None` is never.
        deadline: Option<MonoTime>,
        /// What must hold.
        condition: ExpireCondition,
    },
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct TransactOutcome {
    /// The records to replicate, in the order of the mutations; none when a condition failed.
    pub records: Vec<Record>,
    /// The first mutation whose condition failed, counted from zero; then nothing was changed.
    pub failed: Option<usize>,
}

impl SlotGuard<'_> {
    /// Makes all the changes, or none: first every size and every condition is checked, against the slot as it is; then all
    /// are carried out in their order. A condition therefore does not see what an earlier change of the same
    /// transaction did to its key; the deadline to keep, and the entry to expire, do.
    ///
    /// The keys must be of this slot; how many there are is up to the caller, who holds the lock all the while.
    ///
    /// # Errors
    /// When a key or a value is too large, an entry can never fit, there is no room for more that is never evicted, or the epoch
    /// is older than the slot's. Nothing changed
    /// then. A condition that fails is an outcome, not an error.
    pub fn transact(
        &mut self,
        epoch: Epoch,
        mutations: Vec<Mutation>,
        now: MonoTime,
    ) -> Result<TransactOutcome, StoreError> {
        self.check_epoch(epoch)?;
        mutations.iter().try_for_each(|mutation| self.check_mutation_size(mutation))?;
        self.check_states(&mutations)?;
        let failed = mutations.iter().position(|mutation| !self.may_happen(mutation, now));
        let mut records = Vec::new();
        if failed.is_none() {
            records.reserve_exact(mutations.len());
            for mutation in mutations {
                records.extend(self.carry_out(epoch, mutation, now)?);
            }
        }
        Ok(TransactOutcome { records, failed })
    }

    fn check_mutation_size(&self, mutation: &Mutation) -> Result<(), StoreError> {
        match mutation {
            Mutation::Put(put) => self.store.check_size(&put.key, &put.value),
            Mutation::Delete { key, .. } | Mutation::Expire { key, .. } => {
                self.store.check_key(key)
            }
        }
    }

    /// Whether there is room for all of it that is never to be evicted.
    fn check_states(&self, mutations: &[Mutation]) -> Result<(), StoreError> {
        let more = mutations.iter().map(|mutation| match mutation {
            Mutation::Put(put) if put.class == Class::State => {
                put.key.len() + put.value.len() + ENTRY_OVERHEAD_BYTES
            }
            _ => 0,
        });
        self.store.check_state(more.sum(), 0)
    }

    fn may_happen(&self, mutation: &Mutation, now: MonoTime) -> bool {
        let stored = |key: &Bytes| self.contents.pages.find(self.store.hash(key), key);
        match mutation {
            Mutation::Put(Put { key, condition, .. }) | Mutation::Delete { key, condition } => {
                condition.holds(&self.facts(stored(key), now))
            }
            Mutation::Expire { key, deadline, condition } => {
                let current = stored(key).filter(|current| !current.is_expired(now));
                current.is_some_and(|current| condition.holds(current.deadline(), *deadline))
            }
        }
    }

    /// What was checked cannot be refused any more.
    fn carry_out(
        &mut self,
        epoch: Epoch,
        mutation: Mutation,
        now: MonoTime,
    ) -> Result<Option<Record>, StoreError> {
        Ok(match mutation {
            Mutation::Put(put) => {
                let put = Put { condition: Condition::Always, ..put };
                self.put_sized(epoch, put, now, |_, _, _, _| Ok(()))?.record
            }
            Mutation::Delete { key, .. } => {
                self.delete(epoch, &key, Condition::Always, now)?.record
            }
            Mutation::Expire { key, deadline, .. } => {
                self.expire(epoch, &key, deadline, ExpireCondition::Always, now)?.record
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use slotmesh_slots::{Effect, Seq, Slot, Version};

    use super::*;
    use crate::{Store, StoreConfig};

    const EPOCH: Epoch = Epoch(1);
    const NOW: MonoTime = MonoTime::from_micros(10);
    const LATER: MonoTime = MonoTime::from_micros(20);

    fn put(key: &'static str, condition: Condition) -> Mutation {
        Mutation::Put(Put { condition, ..Put::new(key, "new") })
    }

    fn delete(key: &'static str, condition: Condition) -> Mutation {
        Mutation::Delete { key: Bytes::from(key), condition }
    }

    fn expire(key: &'static str, deadline: Option<MonoTime>) -> Mutation {
        let condition = ExpireCondition::Always;
        Mutation::Expire { key: Bytes::from(key), deadline, condition }
    }

    /// Carries it out where `{t}a` and `{t}b` hold something: which kinds of effects are recorded, or which mutation failed.
    fn check(mutations: Vec<Mutation>, expected: Result<Result<&str, usize>, StoreError>) {
        let config = StoreConfig { value_bytes_max: 9, key_bytes_max: 9, ..StoreConfig::default() };
        let store = Store::new(config);
        let mut guard = store.lock(Slot::of_key(b"{t}"));
        for key in ["{t}a", "{t}b"] {
            let _ = guard.put(EPOCH, Put::new(key, "old"), NOW).unwrap();
        }
        let digest = guard.digest();
        let outcome = guard.transact(EPOCH, mutations, NOW);
        let shown = outcome.map(|outcome| {
            let seqs = outcome.records.iter().map(|record| record.seq.0);
            assert!(seqs.eq(3..3 + outcome.records.len() as u64), "in order");
            let kinds = outcome.records.iter().map(|record| match record.effect {
                Effect::Put { .. } => 'p',
                Effect::Delete { .. } => 'd',
                Effect::Expire { .. } => 'e',
                Effect::Clear => 'c',
                Effect::Nothing => 'n',
            });
            outcome.failed.map_or(Ok(kinds.collect::<String>()), Err)
        });
        let none = !matches!(shown, Ok(Ok(_)));
        assert_eq!(shown, expected.map(|expected| expected.map(str::to_owned)));
        if none {
            assert_eq!((guard.digest(), guard.version().seq), (digest, Seq(2)), "nothing changed");
        }
        drop(guard);
        store.check_invariants().unwrap();
    }

    #[test]
    fn all_happens_in_order_or_nothing_does() {
        let all = || {
            vec![
                put("{t}a", Condition::Present),
                delete("{t}b", Condition::Always),
                put("{t}c", Condition::Absent),
                expire("{t}a", Some(LATER)),
            ]
        };
        check(all(), Ok(Ok("pdpe")));
        check(Vec::new(), Ok(Ok("")));
        for failing in [
            put("{t}a", Condition::Absent),
            delete("{t}z", Condition::Present),
            expire("{t}z", Some(LATER)),
            expire("{t}a", None),
        ] {
            check([all(), vec![failing]].concat(), Ok(Err(4)));
        }
        let large = Mutation::Put(Put::new("{t}a", vec![0; 10]));
        let too_large = StoreError::ValueTooLarge { bytes: 10, max: 9 };
        check([all(), vec![large]].concat(), Err(too_large));
        for failing in [delete("{t}aaaaaaa", Condition::Always), expire("{t}aaaaaaa", None)] {
            let too_long = StoreError::KeyTooLarge { bytes: 10, max: 9 };
            check([all(), vec![failing]].concat(), Err(too_long));
        }
    }

    #[test]
    fn conditions_see_the_slot_as_it_was() {
        check(vec![put("{t}c", Condition::Absent), put("{t}c", Condition::Absent)], Ok(Ok("pp")));
        check(
            vec![delete("{t}a", Condition::Present), put("{t}a", Condition::Present)],
            Ok(Ok("dp")),
        );
        check(vec![put("{t}c", Condition::Always), expire("{t}c", Some(LATER))], Ok(Err(1)));
        // Gone by the time its turn comes.
        check(vec![delete("{t}a", Condition::Always), expire("{t}a", Some(LATER))], Ok(Ok("d")));
    }

    #[test]
    fn an_old_epoch_is_refused() {
        let store = Store::new(StoreConfig::default());
        let mut guard = store.lock(Slot::of_key(b"k"));
        let _ = guard.put(Epoch(2), Put::new("k", "v"), NOW).unwrap();
        let have = Version::new(Epoch(2), Seq(1));
        let outcome = guard.transact(EPOCH, Vec::new(), NOW);
        assert_eq!(outcome, Err(StoreError::StaleEpoch { have }));
    }
}
