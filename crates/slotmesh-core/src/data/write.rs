use std::time::Duration;

use bytes::Bytes;
use slotmesh_coherence::key_hash;
use slotmesh_slots::{Answer, Class, Epoch, MonoTime, Record, Seq, Slot, Token};
use slotmesh_store::{
    Condition, DeleteOutcome, ExchangeOutcome, LengthOutcome, Put, PutOutcome, SlotGuard,
    StoreError,
};

use super::answers::{self, Given, Known};
use super::functions::{Call, CallEffect, Called};
use super::gate::RoleWord;
use super::read::{is_expired, value};
use super::{Ack, DataPlane, Done};
use crate::request::{DataError, Op, Reply, Value};

/// Writes are refused while the store is this much above its budget and nothing can be evicted: the rest of the
/// budget's promise is that memory stays bounded.
const OVERSHOOT_PERCENT: usize = 10;

/// A write that was carried out, or refused, on this node.
struct Written {
    role: RoleWord,
    /// An error rests on what is stored, too: that it is no integer, say.
    reply: Result<Reply, DataError>,
    /// What the reply rests on: it may be told when this is committed.
    seq: Seq,
}

/// What makes a write one that is carried out once.
struct Once {
    token: Token,
    purpose: u64,
    age: Option<Duration>,
}

impl Once {
    /// The operation without its token, and the token.
    fn of(op: Op) -> (Op, Option<Self>) {
        match op {
            Op::Once { token, age, op } => {
                let purpose = op.purpose();
                (*op, Some(Self { token, purpose, age }))
            }
            op => (op, None),
        }
    }

    fn answer(self, reply: &Reply) -> Answer {
        answers::answer((self.token, self.purpose), reply.to_bytes())
    }
}

impl DataPlane {
    /// Carries the operation out as primary of its slot and calls `done` with the outcome: at once where nothing has to
    /// be waited for, else when the replicas have answered. Dropping whatever waits for `done` cancels nothing.
    pub fn execute(&self, op: Op, ack: Ack, done: Done) {
        let slot = op.slot();
        if let Op::Get { key } = &op {
            return self.read(slot, key, done);
        }
        if let Op::Watch { key, by } = &op {
            return self.watch(slot, key, *by, done);
        }
        let op = match op {
            Op::Load { key, by, terms } => return self.load(slot, key, by, terms, done),
            Op::EndLoad { key, token, end } => {
                return done(Ok(self.end_load(slot, &key, token, end)));
            }
            op => op,
        };
        if let Some(key) = op.read_key().cloned() {
            let done = move |found: Result<Reply, _>| done(found.map(|found| op.answer(found)));
            return self.read(slot, &key, Box::new(done));
        }
        match self.write(slot, op, ack.copies_min()) {
            Err(error) => done(Err(error)),
            Ok(Written { role, reply, seq }) if ack != Ack::Primary => {
                self.when_committed((slot, role, seq), reply, ack.copies_min(), done);
            }
            Ok(Written { role, reply, .. }) => done(match self.gate.confirm(slot, role) {
                Ok(_) => reply.map(|reply| reply.with_copies(1)),
                Err(_) => Err(DataError::Ambiguous),
            }),
        }
    }

    fn write(&self, slot: Slot, op: Op, copies_min: u8) -> Result<Written, DataError> {
        let role = self.gate.serving(slot)?;
        let (op, once) = Once::of(op);
        // What was carried out before is answered although a write would be refused now.
        if let Some(once) = &once
            && let Some(written) = self.answered(slot, role, once)?
        {
            return Ok(written);
        }
        if !self.primary.credit(slot) {
            return Err(DataError::Busy);
        }
        // What frees memory is never refused for want of it.
        if op.may_grow() {
            self.make_room()?;
        }
        let written = {
            let mut guard = self.store.lock(slot);
            // Roles change under this lock only: from here on it is stable.
            let role = self.gate.serving(slot)?;
            let now = self.gate.confirm(slot, role)?;
            if let Some(once) = &once
                && let Some(written) = self.answered(slot, role, once)?
            {
                return Ok(written);
            }
            if role.copies() < copies_min {
                let (have, wanted) = (role.copies(), copies_min);
                return Err(DataError::TooFewCopies { have, wanted });
            }
            let clears = matches!(op, Op::Clear { .. });
            let refusable = op.may_be_refused().cloned();
            let (mut record, reply) = match self.mutate(&mut guard, role, op, now) {
                Ok((record, reply)) => (record, Ok(reply)),
                Err(error) if error.rests_on_what_is_stored() => (None, Err(error)),
                Err(error) => return Err(error),
            };
            if clears {
                // Also where the slot is empty: what was evicted may be kept by watchers.
                self.publisher.drop_slot(slot);
                self.loads.slot_changed(slot);
            }
            let is_refused = record.is_none();
            if let Some(record) = &record {
                self.publish(record);
            }
            if is_refused && let Some(key) = &refusable {
                self.remove_if_over(&mut guard, role, key, now);
                if guard.get(key, MonoTime::ZERO).is_none() {
                    // Somebody may keep what was evicted, and this says that it is no more.
                    let hash = || key_hash(self.key_seed, key);
                    self.publisher.publish(slot, guard.version().seq, hash);
                }
            }
            if let Some(once) = once
                && let Ok(reply) = &reply
            {
                // An attempt that was sent before may arrive later, when it would not be refused: here or, if there was one,
                // wherever the slot is by then.
                if is_refused && once.age.is_some() {
                    record = Some(guard.note(role.epoch())?);
                }
                let answer = once.answer(reply);
                self.answers.keep(slot, guard.version().seq, &answer, now);
                if let Some(record) = &mut record {
                    record.answer = Some(Box::new(answer));
                }
            }
            if let Some(record) = &record {
                self.append(record)?;
            }
            Written { role, reply, seq: guard.version().seq }
        };
        self.evict_surplus();
        self.answer_loads();
        Ok(written)
    }

    /// The write, if it was carried out before.
    fn answered(
        &self,
        slot: Slot,
        role: RoleWord,
        once: &Once,
    ) -> Result<Option<Written>, DataError> {
        let Once { token, purpose, age } = *once;
        match self.answers.find(slot, (token, purpose), age, self.gate.now()) {
            Known::New => Ok(None),
            Known::TooLate => Err(DataError::Ambiguous),
            Known::Reused => Err(DataError::TokenReused),
            Known::Answered(Given { seq, reply, .. }) => {
                let reply = Reply::from_bytes(&reply).ok_or(DataError::Ambiguous)?;
                Ok(Some(Written { role, reply: Ok(reply.with_copies(role.copies())), seq }))
            }
        }
    }

    /// Carries a write out, under the slot's lock.
    fn mutate(
        &self,
        guard: &mut SlotGuard<'_>,
        role: RoleWord,
        op: Op,
        now: MonoTime,
    ) -> Result<Told, DataError> {
        let epoch = role.epoch();
        let deadline = |ttl: Option<Duration>| ttl.map(|ttl| now + ttl);
        let (record, reply) = match op {
            Op::Get { .. }
            | Op::GetRange { .. }
            | Op::Touch { .. }
            | Op::Watch { .. }
            | Op::Load { .. }
            | Op::EndLoad { .. }
            | Op::Once { .. } => return Err(DataError::Ambiguous),
            Op::Put { key, value, ttl, keep_ttl: keep_deadline, condition, class } => {
                let put =
                    Put { key, value, deadline: deadline(ttl), condition, keep_deadline, class };
                told_put(guard.put(epoch, put, now)?)
            }
            Op::GetAndPut { key, value, ttl, keep_ttl: keep_deadline, condition, class } => {
                let put =
                    Put { key, value, deadline: deadline(ttl), condition, keep_deadline, class };
                told_exchange(guard.get_and_put(epoch, put, now)?, now)
            }
            Op::Delete { key, condition } => {
                told_delete(guard.delete(epoch, &key, condition, now)?)
            }
            Op::GetAndDelete { key } => told_exchange(guard.get_and_delete(epoch, &key, now)?, now),
            Op::Expire { key, ttl, condition } => {
                let outcome = guard.expire(epoch, &key, deadline(ttl), condition, now)?;
                (outcome.record, Reply::Expire { applied: outcome.applied })
            }
            Op::GetAndExpire { key, ttl } => {
                told_exchange(guard.get_and_expire(epoch, &key, deadline(ttl), now)?, now)
            }
            Op::Increment { key, delta } => {
                let outcome = guard.increment(epoch, &key, delta, now)?;
                let (value, version) = (outcome.value, outcome.version);
                (outcome.record, Reply::Integer { value, version, copies: 1 })
            }
            Op::Append { key, value } => told_length(guard.append(epoch, &key, &value, now)?),
            Op::SetRange { key, offset, value } => {
                told_length(guard.set_range(epoch, &key, offset, &value, now)?)
            }
            Op::Call { key, function, version, input, class } => {
                let entry = guard.get(&key, MonoTime::ZERO);
                let entry = entry.filter(|entry| !is_expired(entry, now));
                let entry = entry.map(|entry| value(entry, now));
                let call = Call::new(&key, entry.as_ref(), &input);
                let called = self.functions.run((&function, version), call, &|| self.gate.now())?;
                told_call(guard, epoch, (key, class, entry), called, now)?
            }
            Op::Clear { .. } if guard.is_empty() => (None, Reply::Cleared),
            Op::Clear { .. } => (Some(guard.clear(epoch, now)?), Reply::Cleared),
        };
        Ok((record, reply.with_copies(role.copies())))
    }

    /// Hands a record to the log, under the slot's lock.
    pub(super) fn append(&self, record: &Record) -> Result<(), DataError> {
        // The role was checked under the same lock, so a refusal means the store and the log disagree: the write is
        // in the store and never acknowledged.
        self.primary.append(record).map_err(|_| DataError::Ambiguous)
    }

    fn make_room(&self) -> Result<(), DataError> {
        if !self.is_far_over_budget() {
            return Ok(());
        }
        let before = self.store.pressure_bytes();
        self.evict_surplus();
        // As long as room can be made for it, a write adds nothing.
        if self.store.pressure_bytes() < before || !self.is_far_over_budget() {
            return Ok(());
        }
        if !self.replica.has_primaries() {
            return Err(DataError::Full);
        }
        // What others are to evict will go soon; and what they did evict may lie unused until it was moved together, which is no
        // reason to refuse this node's own writes.
        let stats = self.store.stats();
        let entries = stats.used_bytes.saturating_sub(stats.slack_bytes);
        if entries <= stats.budget_bytes { Ok(()) } else { Err(DataError::Busy) }
    }

    pub(super) fn is_far_over_budget(&self) -> bool {
        let limit = self.store.budget_bytes() / 100 * (100 + OVERSHOOT_PERCENT);
        self.store.pressure_bytes() > limit
    }
}

/// A record to replicate and the reply to whoever asked.
type Told = (Option<Record>, Reply);

fn told_put(outcome: PutOutcome) -> Told {
    let PutOutcome { record, applied, version, existed } = outcome;
    (record, Reply::Put { applied, version, existed, copies: 1 })
}

fn told_delete(outcome: DeleteOutcome) -> Told {
    let DeleteOutcome { record, applied, version, existed } = outcome;
    (record, Reply::Delete { applied, existed, version, copies: 1 })
}

fn told_length(outcome: LengthOutcome) -> Told {
    let LengthOutcome { record, length, version, .. } = outcome;
    (record, Reply::Length { bytes: length as u64, version, copies: 1 })
}

fn told_exchange(outcome: ExchangeOutcome, now: MonoTime) -> Told {
    let ExchangeOutcome { record, applied, previous, version } = outcome;
    let previous = previous.map(|entry| value(entry, now));
    (record, Reply::Previous { previous, applied, version, copies: 1 })
}

fn told_call(
    guard: &mut SlotGuard<'_>,
    epoch: Epoch,
    (key, class, entry): (Bytes, Class, Option<Value>),
    Called { effect, output }: Called,
    now: MonoTime,
) -> Result<Told, StoreError> {
    let condition = Condition::Always;
    let (record, version) = match effect {
        CallEffect::Keep => (None, entry.map(|entry| entry.version)),
        CallEffect::Put { value, ttl } => {
            let deadline = ttl.map(|ttl| now + ttl);
            let put = Put { key, value, deadline, condition, keep_deadline: false, class };
            let PutOutcome { record, version, .. } = guard.put(epoch, put, now)?;
            (record, version)
        }
        CallEffect::Delete => (guard.delete(epoch, &key, condition, now)?.record, None),
    };
    let changed = record.is_some();
    Ok((record, Reply::Called { output, changed, version, copies: 1 }))
}
