use slotmesh_slots::{Epoch, MonoTime, Record, Seq, Slot};
use slotmesh_store::{ExpireCondition, Put, SlotGuard};

use super::gate::RoleWord;
use super::{Ack, DataPlane, Done};
use crate::request::{DataError, Op, Reply};

/// Writes are refused while the store is this much above its budget and nothing can be evicted: the rest of the
/// budget's promise is that memory stays bounded.
const OVERSHOOT_PERCENT: usize = 10;

/// A write that was applied on this node.
struct Written {
    role: RoleWord,
    reply: Reply,
    /// What the reply rests on: it may be told when this is committed.
    seq: Seq,
}

impl DataPlane {
    /// Carries the operation out as primary of its slot and calls `done` with the outcome: at once where nothing has to
    /// be waited for, else when the replicas have answered. Dropping whatever waits for `done` cancels nothing.
    pub fn execute(&self, op: Op, ack: Ack, done: Done) {
        let slot = op.slot();
        if let Op::Get { key } = &op {
            return self.read(slot, key, done);
        }
        match self.write(slot, op) {
            Err(error) => done(Err(error)),
            Ok(Written { role, reply, seq }) if ack == Ack::All => {
                self.when_committed(slot, role, seq, reply, done);
            }
            Ok(Written { role, reply, .. }) => done(match self.gate.confirm(slot, role) {
                Ok(_) => Ok(reply.with_copies(1)),
                Err(_) => Err(DataError::Ambiguous),
            }),
        }
    }

    fn write(&self, slot: Slot, op: Op) -> Result<Written, DataError> {
        self.gate.serving(slot)?;
        if !self.primary.credit(slot) {
            return Err(DataError::Busy);
        }
        self.make_room(slot)?;
        let written = {
            let mut guard = self.store.lock(slot);
            // Roles change under this lock only: from here on it is stable.
            let role = self.gate.serving(slot)?;
            let now = self.gate.confirm(slot, role)?;
            let (record, reply) = mutate(&mut guard, role, op, now)?;
            if let Some(record) = &record {
                self.append(record)?;
            }
            Written { role, reply, seq: guard.version().seq }
        };
        self.evict_surplus();
        Ok(written)
    }

    /// Hands a record to the log, under the slot's lock.
    pub(super) fn append(&self, record: &Record) -> Result<(), DataError> {
        // The role was checked under the same lock, so a refusal means the store and the log disagree: the write is
        // in the store and never acknowledged.
        self.primary.append(record).map_err(|_| DataError::Ambiguous)
    }

    fn make_room(&self, _slot: Slot) -> Result<(), DataError> {
        let limit = self.store.budget_bytes() / 100 * (100 + OVERSHOOT_PERCENT);
        if self.store.used_bytes() <= limit {
            return Ok(());
        }
        self.evict_surplus();
        if self.store.used_bytes() > limit { Err(DataError::Full) } else { Ok(()) }
    }
}

fn mutate(
    guard: &mut SlotGuard<'_>,
    role: RoleWord,
    op: Op,
    now: MonoTime,
) -> Result<(Option<Record>, Reply), DataError> {
    let (epoch, copies) = (role.epoch(), role.copies());
    match op {
        Op::Get { .. } => Err(DataError::Ambiguous),
        Op::Put { .. } => {
            put(guard, epoch, op, now).map(|(record, reply)| (record, reply.with_copies(copies)))
        }
        Op::Delete { key, condition } => {
            let outcome = guard.delete(epoch, &key, condition, now)?;
            let (applied, existed, version) = (outcome.applied, outcome.existed, outcome.version);
            Ok((outcome.record, Reply::Delete { applied, existed, version, copies }))
        }
        Op::Expire { key, ttl } => {
            let deadline = ttl.map(|ttl| now + ttl);
            let outcome = guard.expire(epoch, &key, deadline, ExpireCondition::Always, now)?;
            Ok((outcome.record, Reply::Expire { applied: outcome.applied }))
        }
        Op::Increment { key, delta } => {
            let outcome = guard.increment(epoch, &key, delta, now)?;
            let (value, version) = (outcome.value, outcome.version);
            Ok((outcome.record, Reply::Integer { value, version, copies }))
        }
        Op::Clear { .. } if guard.is_empty() => Ok((None, Reply::Cleared)),
        Op::Clear { .. } => Ok((Some(guard.clear(epoch, now)?), Reply::Cleared)),
    }
}

fn put(
    guard: &mut SlotGuard<'_>,
    epoch: Epoch,
    op: Op,
    now: MonoTime,
) -> Result<(Option<Record>, Reply), DataError> {
    let Op::Put { key, value, ttl, keep_ttl, condition } = op else {
        return Err(DataError::Ambiguous);
    };
    let deadline = ttl.map(|ttl| now + ttl);
    let put = Put { key, value, deadline, condition, keep_deadline: keep_ttl };
    let outcome = guard.put(epoch, put, now)?;
    let (applied, version, existed) = (outcome.applied, outcome.version, outcome.existed);
    Ok((outcome.record, Reply::Put { applied, version, existed, copies: 1 }))
}
