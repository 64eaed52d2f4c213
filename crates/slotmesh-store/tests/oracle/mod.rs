//! The store against an oracle that a reader can check by eye: one `BTreeMap` per slot. Shared by the model test and the
//! fuzz target; every operation is six bytes, so any input is a sequence of operations.

// The lint knows `#[test]` functions only, not what they call.
#![allow(clippy::unwrap_used)]

mod procedures;
mod walks;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use slotmesh_slots::{Class, Effect, Epoch, MonoTime, Record, Seq, Slot, Version};
use slotmesh_store::{
    ApplyError, Condition, ENTRY_OVERHEAD_BYTES, ExpireCondition, Put, Store, StoreConfig,
    StoreError,
};

/// Bytes of input that make one operation.
pub(crate) const OPERATION_BYTES: usize = 6;
const SLOTS: u8 = 3;
const KEYS: u8 = 250;
/// Enough for values that do not fit a page, and for all keys together to need several pages.
const VALUE_BYTES_MAX: usize = 560;
/// What an entry takes beyond key and value, without its place in an index.
const HEAD_BYTES: usize = 16;

const EXPIRE_CONDITIONS: [ExpireCondition; 8] = [
    ExpireCondition::Always,
    ExpireCondition::Unset,
    ExpireCondition::Set,
    ExpireCondition::Later,
    ExpireCondition::Earlier,
    ExpireCondition::SetAndEarlier,
    ExpireCondition::Always,
    ExpireCondition::Always,
];

/// Whether an entry's deadline changes, case by case.
fn redates(condition: ExpireCondition, old: Option<MonoTime>, new: Option<MonoTime>) -> bool {
    match (condition, old, new) {
        (_, None, None) => false,
        (ExpireCondition::Always, ..) => true,
        (ExpireCondition::Unset, old, _) => old.is_none(),
        (ExpireCondition::Set, old, _) => old.is_some(),
        (ExpireCondition::Later, Some(old), new) => new.is_none_or(|new| new > old),
        (ExpireCondition::Later, None, _) => false,
        (ExpireCondition::Earlier | ExpireCondition::SetAndEarlier, Some(old), new) => {
            new.is_some_and(|new| new < old)
        }
        (condition, None, Some(_)) => condition == ExpireCondition::Earlier,
    }
}

/// One slot as the oracle sees it.
#[derive(Default)]
struct Model {
    entries: BTreeMap<Bytes, ModelEntry>,
    version: Version,
    last_delete: Version,
}

#[derive(Clone)]
struct ModelEntry {
    value: Bytes,
    version: Version,
    deadline: Option<MonoTime>,
    class: Class,
}

/// The class of an entry whose value is changed.
fn class(before: Option<&ModelEntry>) -> Class {
    before.map_or(Class::Cache, |entry| entry.class)
}

impl Model {
    fn live(&self, key: &Bytes, now: MonoTime) -> Option<&ModelEntry> {
        self.entries.get(key).filter(|entry| entry.deadline.is_none_or(|at| at > now))
    }

    fn advance(&mut self, epoch: Epoch) -> Version {
        if self.version == Version::default() {
            self.last_delete = Version::new(epoch, Seq(0));
        }
        self.version = Version::new(epoch, self.version.seq.next());
        self.version
    }

    fn holds(&self, condition: Condition, key: &Bytes, entry: Option<Version>) -> bool {
        match condition {
            Condition::Always => true,
            Condition::Absent => entry.is_none(),
            Condition::Present => entry.is_some(),
            Condition::Version(version) => entry == Some(version),
            Condition::FillSince(since) => {
                let later = self.entries.get(key).is_some_and(|stored| stored.version > since);
                entry.is_none() && !later && (self.last_delete..=self.version).contains(&since)
            }
        }
    }

    /// Carries out an effect the primary decided.
    fn carry_out(&mut self, epoch: Epoch, effect: Effect) {
        let version = self.advance(epoch);
        match effect {
            Effect::Put { key, value, deadline, class } => {
                self.entries.insert(key, ModelEntry { value, version, deadline, class });
            }
            Effect::Delete { key } => {
                self.entries.remove(&key);
                self.last_delete = version;
            }
            Effect::Expire { key, deadline } => {
                self.entries.entry(key).and_modify(|entry| {
                    (entry.deadline, entry.version) = (deadline, version);
                });
            }
            Effect::Clear => {
                self.entries.clear();
                self.last_delete = version;
            }
            Effect::Nothing => {}
        }
    }

    /// The least that the entries can take, and the most: pages are half full at least, but for small ones.
    fn bytes(&self) -> RangeInclusive<usize> {
        let entries = self.entries.iter();
        let payload: usize = entries.map(|(key, entry)| key.len() + entry.value.len()).sum();
        let count = self.entries.len();
        payload + count * HEAD_BYTES..=2 * (payload + count * ENTRY_OVERHEAD_BYTES) + 800
    }
}

/// A primary, a replica that is fed its records, and the oracle.
pub(crate) struct Harness {
    primary: Store,
    replica: Store,
    models: Vec<Model>,
    watched: Option<walks::Watched>,
    now: MonoTime,
    epoch: Epoch,
}

/// An operation's input bytes by meaning.
struct Input {
    kind: u8,
    slot: u8,
    key: Bytes,
    argument: u8,
    size: u8,
    condition: u8,
}

impl Harness {
    /// Three empty slots on both nodes.
    pub(crate) fn new() -> Self {
        let config = StoreConfig {
            budget_bytes: 1 << 20,
            value_bytes_max: VALUE_BYTES_MAX,
            key_bytes_max: 64,
            ..StoreConfig::default()
        };
        Self {
            primary: Store::new(config.clone()),
            replica: Store::new(config),
            watched: None,
            models: (0..SLOTS).map(|_| Model::default()).collect(),
            now: MonoTime::from_micros(1_000_000),
            epoch: Epoch(1),
        }
    }

    /// Runs all operations of the input, checks after each and everything at the end. Panics at the first difference.
    pub(crate) fn run(input: &[u8]) {
        let mut harness = Self::new();
        for operation in input.chunks_exact(OPERATION_BYTES) {
            harness.step(operation);
        }
        harness.finish();
    }

    fn step(&mut self, bytes: &[u8]) {
        let input = Input {
            kind: bytes[0] % 56,
            slot: bytes[1] % SLOTS,
            key: Bytes::from(format!("key{}", bytes[2] % KEYS)),
            argument: bytes[3],
            size: bytes[4],
            condition: bytes[5],
        };
        match input.kind {
            0..=11 => self.put(&input),
            12..=15 => self.delete(&input),
            16..=18 => self.expire(&input),
            19..=22 => self.increment(&input),
            // Seldom, so that slots fill.
            23 if input.argument < 6 => self.clear(&input),
            23 if input.argument < 30 => self.note(&input),
            24 => self.now = self.now + Duration::from_millis(u64::from(input.argument)),
            25 => self.evict(),
            26 => self.sweep(input.argument),
            27 => self.reinstall(&input),
            28 => self.refuse(&input),
            29 if input.argument < 40 => self.epoch = self.epoch.next(),
            30 if input.argument < 4 => self.reset(&input),
            31 if input.argument < 8 => self.primary.expect_many(),
            31 if input.argument < 16 => self.replica.expect_many(),
            32..=33 => self.append(&input),
            34..=35 => self.set_range(&input),
            36 => self.get_range(&input),
            37..=38 => self.get_and_put(&input),
            39 => self.get_and_delete(&input),
            40..=41 => self.get_and_expire(&input),
            42 => self.touch(&input),
            43..=44 => self.update(&input),
            45..=46 => self.transact(&input),
            47 => self.scan(&input),
            48..=55 => self.watch(&input),
            _ => {}
        }
        self.compare(&input);
    }

    fn slot(number: u8) -> Slot {
        Slot::new(u16::from(number) * 8_000).unwrap()
    }

    fn deadline(&self, argument: u8) -> Option<MonoTime> {
        match argument % 4 {
            0 => None,
            // One that is past or now, too.
            _ => Some(
                self.now.saturating_sub(Duration::from_millis(2))
                    + Duration::from_millis(u64::from(argument / 4)),
            ),
        }
    }

    fn condition(&self, input: &Input, entry: Option<Version>) -> Condition {
        let model = &self.models[usize::from(input.slot)];
        match input.condition % 16 {
            0 => Condition::Absent,
            1 => Condition::Present,
            2 => Condition::Version(entry.unwrap_or_default()),
            3 => Condition::Version(model.version),
            4 => Condition::FillSince(model.version),
            5 | 6 => {
                let back = u64::from(input.condition / 16);
                let seq = Seq(model.version.seq.0.saturating_sub(back));
                Condition::FillSince(Version::new(model.version.epoch, seq))
            }
            7 => Condition::FillSince(Version::new(self.epoch, model.version.seq.next())),
            _ => Condition::Always,
        }
    }

    fn value(input: &Input) -> Bytes {
        match input.size % 4 {
            0 => Bytes::from((i64::from(input.argument) - 100).to_string()),
            1 => Bytes::from(i64::MAX.to_string()),
            _ => Bytes::from(vec![b'a' + input.argument % 26; usize::from(input.size) * 2 + 60]),
        }
    }

    /// One in eight is never evicted.
    fn class(input: &Input) -> Class {
        if input.size % 8 == 3 { Class::State } else { Class::Cache }
    }

    fn put(&mut self, input: &Input) {
        let (model, value) = (usize::from(input.slot), Self::value(input));
        let before = self.models[model].live(&input.key, self.now).cloned();
        let entry = before.as_ref().map(|entry| entry.version);
        let put = Put {
            class: Self::class(input),
            key: input.key.clone(),
            value: value.clone(),
            deadline: self.deadline(input.argument),
            condition: self.condition(input, entry),
            keep_deadline: input.argument.is_multiple_of(5),
        };
        let result =
            self.primary.lock(Self::slot(input.slot)).put(self.epoch, put.clone(), self.now);
        if value.len() > VALUE_BYTES_MAX {
            assert!(matches!(result, Err(StoreError::ValueTooLarge { .. })));
            return;
        }
        let outcome = result.unwrap();
        assert_eq!(outcome.existed, before.is_some());
        assert_eq!(outcome.applied, self.models[model].holds(put.condition, &put.key, entry));
        if !outcome.applied {
            assert_eq!((outcome.record, outcome.version), (None, entry));
            return;
        }
        let kept = before.filter(|_| put.keep_deadline).map(|entry| entry.deadline);
        let deadline = kept.unwrap_or(put.deadline);
        let effect = Effect::Put { key: put.key, value, deadline, class: put.class };
        let version = self.expect(input.slot, outcome.record, &effect);
        assert_eq!(outcome.version, Some(version));
    }

    fn delete(&mut self, input: &Input) {
        let model = &self.models[usize::from(input.slot)];
        let entry = model.live(&input.key, self.now).map(|entry| entry.version);
        let condition = self.condition(input, entry);
        let holds = model.holds(condition, &input.key, entry);
        let outcome = self.primary.lock(Self::slot(input.slot));
        let outcome = { outcome }.delete(self.epoch, &input.key, condition, self.now).unwrap();
        assert_eq!((outcome.existed, outcome.applied), (entry.is_some(), holds));
        if holds {
            assert_eq!(outcome.version, None);
            self.expect(input.slot, outcome.record, &Effect::Delete { key: input.key.clone() });
        } else {
            assert_eq!((outcome.record, outcome.version), (None, entry));
        }
    }

    fn expire(&mut self, input: &Input) {
        let deadline = self.deadline(input.argument);
        let condition = EXPIRE_CONDITIONS[usize::from(input.condition) % EXPIRE_CONDITIONS.len()];
        let before = self.models[usize::from(input.slot)].live(&input.key, self.now).cloned();
        let mut guard = self.primary.lock(Self::slot(input.slot));
        let outcome = guard.expire(self.epoch, &input.key, deadline, condition, self.now).unwrap();
        drop(guard);
        let held = before.as_ref().map(|before| before.version);
        assert_eq!(outcome.previous, before.as_ref().and_then(|before| before.deadline));
        if !before.is_some_and(|before| redates(condition, before.deadline, deadline)) {
            assert_eq!((outcome.record, outcome.applied, outcome.version), (None, false, held));
            return;
        }
        assert!(outcome.applied);
        let effect = self.redated(&input.key, deadline);
        let stays = matches!(effect, Effect::Expire { .. });
        assert_eq!(outcome.version, outcome.record.as_ref().map(Record::version).filter(|_| stays));
        self.expect(input.slot, outcome.record, &effect);
    }

    /// What a new deadline of an entry comes to.
    fn redated(&self, key: &Bytes, deadline: Option<MonoTime>) -> Effect {
        let key = key.clone();
        let is_past = deadline.is_some_and(|at| at <= self.now);
        if is_past { Effect::Delete { key } } else { Effect::Expire { key, deadline } }
    }

    fn increment(&mut self, input: &Input) {
        let delta = i64::from(input.argument) - 50;
        let before = self.models[usize::from(input.slot)].live(&input.key, self.now).cloned();
        let mut guard = self.primary.lock(Self::slot(input.slot));
        let result = guard.increment(self.epoch, &input.key, delta, self.now);
        drop(guard);
        let text = before.as_ref().map_or(&b"0"[..], |entry| &entry.value);
        let current = std::str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok());
        // As Redis: neither a plus nor leading zeros.
        let current = current.filter(|current| current.to_string().as_bytes() == text);
        let Some(current) = current else {
            assert_eq!(result, Err(StoreError::NotAnInteger));
            return;
        };
        let Some(sum) = current.checked_add(delta) else {
            assert_eq!(result, Err(StoreError::Overflow));
            return;
        };
        let outcome = result.unwrap();
        assert_eq!((outcome.value, outcome.existed), (sum, before.is_some()));
        let class = class(before.as_ref());
        let deadline = before.and_then(|entry| entry.deadline);
        let value = Bytes::from(sum.to_string());
        let effect = Effect::Put { key: input.key.clone(), value, deadline, class };
        let version = self.expect(input.slot, outcome.record, &effect);
        assert_eq!(outcome.version, version);
    }

    fn clear(&mut self, input: &Input) {
        let record = self.primary.lock(Self::slot(input.slot)).clear(self.epoch, self.now);
        self.expect(input.slot, Some(record.unwrap()), &Effect::Clear);
    }

    fn note(&mut self, input: &Input) {
        let record = self.primary.lock(Self::slot(input.slot)).note(self.epoch);
        self.expect(input.slot, Some(record.unwrap()), &Effect::Nothing);
    }

    fn evict(&mut self) {
        let Some((slot, key)) = self.primary.victim(&|_| true, self.now) else {
            let now = self.now;
            let stays = |entry: &ModelEntry| {
                entry.class == Class::State && entry.deadline.is_none_or(|at| at > now)
            };
            assert!(self.models.iter().flat_map(|model| model.entries.values()).all(stays));
            return;
        };
        let record = self.primary.lock(slot).evict(self.epoch, &key, self.now);
        self.expect((slot.number() / 8_000) as u8, Some(record.unwrap()), &Effect::Delete { key });
    }

    fn sweep(&mut self, argument: u8) {
        let limit = usize::from(argument % 8);
        let expired = self.primary.expired(self.now, limit);
        assert!(expired.len() <= limit);
        for (slot, key) in expired {
            let number = (slot.number() / 8_000) as u8;
            assert!(self.models[usize::from(number)].live(&key, self.now).is_none());
            let record = self.primary.lock(slot).evict_expired(self.epoch, &key, self.now);
            self.expect(number, Some(record.unwrap()), &Effect::Delete { key });
        }
    }

    /// The replica loses its slot and gets it back as a snapshot; with some luck the primary too, as after a move.
    fn reinstall(&mut self, input: &Input) {
        let slot = Self::slot(input.slot);
        let snapshot = self.primary.lock(slot).snapshot();
        drop(self.replica.lock(slot).reset());
        assert_eq!(self.replica.lock(slot).version(), Version::default());
        let prepared = self.replica.prepare(slot, &snapshot);
        drop(self.replica.lock(slot).install(prepared));
        if input.argument.is_multiple_of(2) {
            let model = &mut self.models[usize::from(input.slot)];
            model.last_delete = model.version;
            self.replaced(input.slot);
            let prepared = self.primary.prepare(slot, &snapshot);
            drop(self.primary.lock(slot).install(prepared));
        }
    }

    /// Records that do not follow, and mutations of an old primary, change nothing.
    fn refuse(&mut self, input: &Input) {
        let slot = Self::slot(input.slot);
        let mut guard = self.replica.lock(slot);
        let have = guard.version();
        let mut record = Record {
            slot,
            epoch: self.epoch,
            seq: Seq(have.seq.0 + u64::from(input.argument % 4)),
            effect: Effect::Clear,
            answer: None,
        };
        if record.seq != have.seq.next() {
            assert_eq!(guard.apply(&record), Err(ApplyError::Gap { have }));
        }
        if have.epoch > Epoch(0) {
            (record.epoch, record.seq) = (Epoch(have.epoch.0 - 1), have.seq.next());
            assert_eq!(guard.apply(&record), Err(ApplyError::StaleEpoch { have }));
            let stale = Err(StoreError::StaleEpoch { have });
            assert_eq!(guard.increment(record.epoch, &input.key, 1, self.now), stale);
            assert_eq!(guard.evict(record.epoch, &input.key, self.now), None);
        }
    }

    fn reset(&mut self, input: &Input) {
        self.replaced(input.slot);
        for store in [&self.primary, &self.replica] {
            drop(store.lock(Self::slot(input.slot)).reset());
        }
        self.models[usize::from(input.slot)] = Model::default();
    }

    /// The primary must have recorded this effect as the slot's next; feeds it to the replica and the oracle.
    fn expect(&mut self, slot: u8, record: Option<Record>, effect: &Effect) -> Version {
        let record = record.unwrap();
        let model = &mut self.models[usize::from(slot)];
        model.carry_out(self.epoch, effect.clone());
        assert_eq!((record.slot, record.version()), (Self::slot(slot), model.version));
        assert_eq!(&record.effect, effect);
        self.replica.lock(record.slot).apply(&record).unwrap();
        record.version()
    }

    /// What is O(1) to compare, and the key at hand.
    fn compare(&self, input: &Input) {
        let (slot, model) = (Self::slot(input.slot), &self.models[usize::from(input.slot)]);
        let digest = self.primary.lock(slot).digest();
        for store in [&self.primary, &self.replica] {
            let guard = store.lock(slot);
            assert_eq!((guard.version(), guard.digest()), (model.version, digest));
            assert_eq!(guard.len(), model.entries.len());
            let (bytes, range) = (guard.bytes(), model.bytes());
            assert!(
                range.contains(&bytes),
                "{bytes} not in {range:?} with {} entries",
                guard.len()
            );
            drop(guard);
            let read = store.get(slot, &input.key, self.now);
            let expected = model.live(&input.key, self.now);
            assert_eq!(read.is_some(), expected.is_some());
            if let (Some(read), Some(expected)) = (read, expected) {
                assert_eq!(read.value, expected.value);
                assert_eq!((read.version, read.deadline), (expected.version, expected.deadline));
            }
        }
        assert_eq!(self.primary.lock(slot).last_delete(), model.last_delete.seq);
    }

    fn finish(&mut self) {
        for store in [&self.primary, &self.replica] {
            store.check_invariants().unwrap();
            for number in 0..SLOTS {
                let bytes = store.lock(Self::slot(number)).bytes();
                let range = self.models[usize::from(number)].bytes();
                assert!(range.contains(&bytes), "{bytes} not in {range:?}");
            }
        }
        for number in 0..SLOTS {
            let (slot, model) = (Self::slot(number), &self.models[usize::from(number)]);
            let snapshot = self.primary.lock(slot).snapshot();
            let mut keys: Vec<_> = snapshot.entries.iter().map(|entry| entry.key.clone()).collect();
            keys.sort_unstable();
            assert!(keys.iter().eq(model.entries.keys()));
            let live = self.primary.lock(slot).entries(self.now).count();
            assert_eq!(live, keys.iter().filter(|key| model.live(key, self.now).is_some()).count());
            let prepared = self.replica.prepare(slot, &snapshot);
            drop(self.replica.lock(slot).install(prepared));
            assert_eq!(self.replica.lock(slot).digest(), snapshot.digest);
        }
        self.empty();
    }

    /// Eviction takes all that it may. When the rest is gone, in whatever way, nothing is counted any more.
    fn empty(&mut self) {
        while let Some((slot, key)) = self.primary.victim(&|_| true, self.now) {
            assert!(self.primary.lock(slot).evict(self.epoch, &key, self.now).is_some());
        }
        for number in 0..SLOTS {
            let (slot, model) = (Self::slot(number), &self.models[usize::from(number)]);
            let stays = |key: &&Bytes| {
                model.live(key, self.now).is_some_and(|entry| entry.class == Class::State)
            };
            let mut left = self.primary.lock(slot).snapshot().entries;
            left.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            assert!(left.iter().all(|entry| entry.class == Class::State));
            assert!(model.entries.keys().filter(stays).eq(left.iter().map(|entry| &entry.key)));
            drop(self.primary.lock(slot).clear(self.epoch, self.now).unwrap());
        }
        (0..SLOTS).for_each(|number| drop(self.replica.lock(Self::slot(number)).reset()));
        for store in [&self.primary, &self.replica] {
            assert_eq!((store.stats().entry_bytes, store.len()), (0, 0));
        }
        let digests = (0..SLOTS).map(|number| self.primary.lock(Self::slot(number)).digest());
        assert!({ digests }.all(|digest| digest == 0));
    }
}
