//! Operations that decide by the value they find, and several at once.

use bytes::Bytes;
use slotmesh_slots::Effect;
use slotmesh_store::{
    ByteRange, Change, ExchangeOutcome, ExpireCondition, LengthOutcome, Mutation, Put, StoreError,
};

use super::{
    EXPIRE_CONDITIONS, Harness, Input, KEYS, Model, ModelEntry, VALUE_BYTES_MAX, class, redates,
};

impl Harness {
    fn before(&self, input: &Input) -> Option<ModelEntry> {
        self.models[usize::from(input.slot)].live(&input.key, self.now).cloned()
    }

    pub(super) fn append(&mut self, input: &Input) {
        let suffix = vec![b'A' + input.argument % 26; usize::from(input.size)];
        let mut guard = self.primary.lock(Self::slot(input.slot));
        let result = guard.append(self.epoch, &input.key, &suffix, self.now);
        drop(guard);
        let old = self.before(input).map_or_else(Bytes::new, |entry| entry.value);
        self.expect_rewritten(input, result, Some([&old[..], &suffix].concat()));
    }

    pub(super) fn set_range(&mut self, input: &Input) {
        let part = vec![b'A' + input.argument % 26; usize::from(input.condition % 8)];
        let offset = match input.argument {
            0 => u64::MAX,
            _ => u64::from(input.size) * 2,
        };
        let mut guard = self.primary.lock(Self::slot(input.slot));
        let result = guard.set_range(self.epoch, &input.key, offset, &part, self.now);
        drop(guard);
        let mut value = self.before(input).map_or_else(Vec::new, |entry| entry.value.to_vec());
        if part.is_empty() {
            return self.expect_rewritten(input, result, None);
        }
        if offset == u64::MAX {
            assert!(matches!(result, Err(StoreError::ValueTooLarge { .. })));
            return;
        }
        for (at, byte) in (offset as usize..).zip(part) {
            if value.len() <= at {
                value.resize(at + 1, 0);
            }
            value[at] = byte;
        }
        self.expect_rewritten(input, result, Some(value));
    }

    /// The key's value must have become this one, or stayed, with the deadline it had.
    fn expect_rewritten(
        &mut self,
        input: &Input,
        result: Result<LengthOutcome, StoreError>,
        value: Option<Vec<u8>>,
    ) {
        let before = self.before(input);
        if let Some(bytes) = value.as_ref().map(Vec::len).filter(|&len| len > VALUE_BYTES_MAX) {
            assert_eq!(result, Err(StoreError::ValueTooLarge { bytes, max: VALUE_BYTES_MAX }));
            return;
        }
        let outcome = result.unwrap();
        assert_eq!(outcome.existed, before.is_some());
        let Some(value) = value else {
            let held = before.as_ref().map(|entry| entry.version);
            assert_eq!((outcome.record, outcome.version), (None, held));
            assert_eq!(outcome.length, before.map_or(0, |entry| entry.value.len()));
            return;
        };
        assert_eq!(outcome.length, value.len());
        let class = class(before.as_ref());
        let deadline = before.and_then(|entry| entry.deadline);
        let value = value.into();
        let effect = Effect::Put { key: input.key.clone(), value, deadline, class };
        let version = self.expect(input.slot, outcome.record, &effect);
        assert_eq!(outcome.version, Some(version));
    }

    pub(super) fn get_range(&mut self, input: &Input) {
        let (start, end) = (i64::from(input.argument) - 128, i64::from(input.size) * 2 - 250);
        let guard = self.primary.lock(Self::slot(input.slot));
        let part = guard.get_range(&input.key, ByteRange { start, end }, self.now);
        drop(guard);
        let before = self.before(input);
        assert_eq!(part.is_some(), before.is_some());
        let (Some(part), Some(entry)) = (part, before) else { return };
        assert_eq!((part.version, part.deadline), (entry.version, entry.deadline));
        let len = entry.value.len() as i64;
        // An end before the value counts as its first byte, unless the start lies behind it there too.
        let wanted = |at: i64| {
            let from = if start < 0 { start + len } else { start };
            let to = if end < 0 { (end + len).max(0) } else { end };
            let crossed = start < 0 && end < 0 && start > end;
            !crossed && from <= at && at <= to
        };
        let expected: Vec<u8> =
            (0..len).filter(|&at| wanted(at)).map(|at| entry.value[at as usize]).collect();
        assert_eq!(part.value, expected, "{start} {end} of {len}");
    }

    pub(super) fn get_and_put(&mut self, input: &Input) {
        let (before, value) = (self.before(input), Self::value(input));
        let entry = before.as_ref().map(|entry| entry.version);
        let put = Put {
            class: Self::class(input),
            key: input.key.clone(),
            value: value.clone(),
            deadline: self.deadline(input.argument),
            condition: self.condition(input, entry),
            keep_deadline: input.argument.is_multiple_of(5),
        };
        let mut guard = self.primary.lock(Self::slot(input.slot));
        let result = guard.get_and_put(self.epoch, put.clone(), self.now);
        drop(guard);
        if value.len() > VALUE_BYTES_MAX {
            assert!(matches!(result, Err(StoreError::ValueTooLarge { .. })));
            return;
        }
        let holds = self.models[usize::from(input.slot)].holds(put.condition, &put.key, entry);
        let kept = before.as_ref().filter(|_| put.keep_deadline).map(|entry| entry.deadline);
        let deadline = kept.unwrap_or(put.deadline);
        let (key, class) = (put.key, put.class);
        let effect = holds.then_some(Effect::Put { key, value, deadline, class });
        self.expect_exchanged(input, result.unwrap(), effect);
    }

    pub(super) fn get_and_delete(&mut self, input: &Input) {
        let mut guard = self.primary.lock(Self::slot(input.slot));
        let outcome = guard.get_and_delete(self.epoch, &input.key, self.now).unwrap();
        drop(guard);
        let effect = Effect::Delete { key: input.key.clone() };
        self.expect_exchanged(input, outcome, Some(effect));
    }

    pub(super) fn get_and_expire(&mut self, input: &Input) {
        let deadline = self.deadline(input.argument);
        let mut guard = self.primary.lock(Self::slot(input.slot));
        let outcome = guard.get_and_expire(self.epoch, &input.key, deadline, self.now).unwrap();
        drop(guard);
        let before = self.before(input);
        let changes =
            before.is_some_and(|entry| redates(ExpireCondition::Always, entry.deadline, deadline));
        let effect = changes.then(|| self.redated(&input.key, deadline));
        self.expect_exchanged(input, outcome, effect);
    }

    fn expect_exchanged(
        &mut self,
        input: &Input,
        outcome: ExchangeOutcome,
        effect: Option<Effect>,
    ) {
        let before = self.before(input);
        let previous = outcome.previous.map(|entry| (entry.value, entry.version, entry.deadline));
        assert_eq!(previous, before.map(|entry| (entry.value, entry.version, entry.deadline)));
        assert_eq!(outcome.applied, effect.is_some());
        match effect {
            Some(effect) => drop(self.expect(input.slot, outcome.record, &effect)),
            None => assert_eq!(outcome.record, None),
        }
        let held = self.primary.lock(Self::slot(input.slot)).get(&input.key, self.now);
        // A value may be put with a deadline that is past already; its version is told all the same.
        if held.is_some() || !outcome.applied {
            assert_eq!(outcome.version, held.map(|entry| entry.version));
        }
    }

    pub(super) fn touch(&mut self, input: &Input) {
        let existed = self.primary.lock(Self::slot(input.slot)).touch(&input.key, self.now);
        assert_eq!(existed, self.before(input).is_some());
    }

    /// A procedure of the caller's: it puts the value it finds backwards, or does one of the others to it.
    pub(super) fn update(&mut self, input: &Input) {
        let before = self.before(input);
        let deadline = self.deadline(input.argument);
        let reversed = |value: &[u8]| -> Bytes { value.iter().rev().copied().collect() };
        let key = input.key.clone();
        let mut guard = self.primary.lock(Self::slot(input.slot));
        let outcome = guard.update(self.epoch, &input.key, self.now, |current| {
            match (input.condition % 4, current) {
                (0, Some(current)) => {
                    Change::Put { value: reversed(current.value()), deadline: current.deadline() }
                }
                (0 | 1, _) => Change::Delete,
                (2, _) => Change::Expire { deadline },
                _ => Change::Keep,
            }
        });
        drop(guard);
        let effect = match (input.condition % 4, &before) {
            (0, Some(entry)) => {
                let value = reversed(&entry.value);
                let (deadline, class) = (entry.deadline, entry.class);
                Some(Effect::Put { key, value, deadline, class })
            }
            (0 | 1, _) => Some(Effect::Delete { key }),
            (2, Some(_)) => Some(self.redated(&key, deadline)),
            _ => None,
        };
        let outcome = outcome.unwrap();
        assert_eq!(outcome.existed, before.is_some());
        match effect {
            Some(effect) => drop(self.expect(input.slot, outcome.record, &effect)),
            None => assert_eq!(outcome.record, None),
        }
        assert_eq!(outcome.version, self.before(input).map(|entry| entry.version));
    }

    /// Up to seven mutations of keys around the one at hand, now and then of the same.
    pub(super) fn transact(&mut self, input: &Input) {
        let mutations: Vec<_> = (0..input.size % 8).map(|at| self.mutation(input, at)).collect();
        let model = &self.models[usize::from(input.slot)];
        let too_large = mutations.iter().any(|mutation| match mutation {
            Mutation::Put(put) => put.value.len() > VALUE_BYTES_MAX,
            _ => false,
        });
        let failed = mutations.iter().position(|mutation| !self.may_happen(model, mutation));
        let slot = Self::slot(input.slot);
        let result = self.primary.lock(slot).transact(self.epoch, mutations.clone(), self.now);
        if too_large {
            assert!(matches!(result, Err(StoreError::ValueTooLarge { .. })));
            return;
        }
        let outcome = result.unwrap();
        assert_eq!(outcome.failed, failed);
        let mut records = outcome.records.into_iter();
        for mutation in mutations.into_iter().take_while(|_| failed.is_none()) {
            if let Some(effect) = self.effect(input.slot, mutation) {
                self.expect(input.slot, records.next(), &effect);
            }
        }
        assert_eq!(records.next(), None);
    }

    fn mutation(&self, input: &Input, at: u8) -> Mutation {
        // Different for every mutation, and for every input.
        let mixed = input.argument.wrapping_mul(31).wrapping_add(at.wrapping_mul(67)) ^ input.size;
        let key = match mixed % 4 {
            0 => input.key.clone(),
            _ => Bytes::from(format!("key{}", mixed % KEYS)),
        };
        let input = Input {
            kind: input.kind,
            slot: input.slot,
            key,
            argument: mixed,
            size: mixed ^ input.condition,
            // Mostly none, or hardly any transaction would happen.
            condition: if at < 6 { 8 } else { input.condition },
        };
        let entry = self.before(&input).map(|entry| entry.version);
        let (condition, key) = (self.condition(&input, entry), input.key.clone());
        let deadline = self.deadline(input.argument);
        match mixed / 4 % 8 {
            0..=4 => Mutation::Put(Put {
                class: Self::class(&input),
                key,
                value: Self::value(&input),
                deadline,
                condition,
                keep_deadline: mixed.is_multiple_of(5),
            }),
            5 | 6 => Mutation::Delete { key, condition },
            _ => {
                let condition =
                    EXPIRE_CONDITIONS[usize::from(input.condition) % EXPIRE_CONDITIONS.len()];
                Mutation::Expire { key, deadline, condition }
            }
        }
    }

    fn may_happen(&self, model: &Model, mutation: &Mutation) -> bool {
        let held = |key| model.live(key, self.now);
        match mutation {
            Mutation::Put(Put { key, condition, .. }) | Mutation::Delete { key, condition } => {
                model.holds(*condition, key, held(key).map(|entry| entry.version))
            }
            Mutation::Expire { key, deadline, condition } => {
                held(key).is_some_and(|entry| redates(*condition, entry.deadline, *deadline))
            }
        }
    }

    /// What a mutation whose condition held comes to after those before it.
    fn effect(&self, slot: u8, mutation: Mutation) -> Option<Effect> {
        let model = &self.models[usize::from(slot)];
        match mutation {
            Mutation::Put(Put { key, value, deadline, keep_deadline, class, .. }) => {
                let current = model.live(&key, self.now).filter(|_| keep_deadline);
                let deadline = current.map_or(deadline, |entry| entry.deadline);
                Some(Effect::Put { key, value, deadline, class })
            }
            Mutation::Delete { key, .. } => Some(Effect::Delete { key }),
            Mutation::Expire { key, deadline, .. } => {
                let current = model.live(&key, self.now)?.deadline;
                redates(ExpireCondition::Always, current, deadline)
                    .then(|| self.redated(&key, deadline))
            }
        }
    }
}
