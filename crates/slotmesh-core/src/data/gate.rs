use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use slotmesh_slots::{Epoch, MonoTime, NodeId, SLOT_COUNT, Seq, Slot};

use super::Clock;
use crate::request::DataError;

/// What decides, without a lock, whether this node may answer for a slot: its role, its lease and the clock.
///
/// A role is written only under the store's slot lock, so it is stable for whoever holds that lock. Whoever does not
/// reads it before and checks it after looking at the store. The lease is checked last, against the kernel's clock
/// at that moment: a process that was stopped in between must not answer (ARCHITECTURE.md).
pub(super) struct Gate {
    clock: Arc<dyn Clock>,
    lease_until: AtomicU64,
    /// Set once this node stops serving for good.
    ended: AtomicBool,
    roles: Box<[AtomicU64]>,
    owners: Box<[AtomicU64]>,
    /// The slots' epochs in the table, and the seqs at which they were last handed over.
    epochs: Box<[AtomicU64]>,
    bases: Box<[AtomicU64]>,
    version: AtomicU64,
}

/// This node's role in a slot: packed epoch, number of in-sync copies, frozen and primary flags. Where it is not primary, the number of
/// copies alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct RoleWord(u64);

const PRIMARY: u64 = 1;
const FROZEN: u64 = 2;
const COPIES_SHIFT: u32 = 8;
const EPOCH_SHIFT: u32 = 16;

impl RoleWord {
    pub(super) fn primary(epoch: Epoch, copies: usize, frozen: bool) -> Self {
        let frozen = if frozen { FROZEN } else { 0 };
        Self(u64::from(epoch.0) << EPOCH_SHIFT | (copies as u64) << COPIES_SHIFT | frozen | PRIMARY)
    }

    pub(super) const fn not_primary(copies: usize) -> Self {
        Self((copies as u64) << COPIES_SHIFT)
    }

    pub(super) const fn epoch(self) -> Epoch {
        Epoch((self.0 >> EPOCH_SHIFT) as u32)
    }

    /// Copies that hold every acknowledged write, the primary's included.
    pub(super) const fn copies(self) -> u8 {
        (self.0 >> COPIES_SHIFT) as u8
    }

    pub(super) const fn is_primary(self) -> bool {
        self.0 & PRIMARY != 0
    }

    pub(super) const fn is_frozen(self) -> bool {
        self.0 & FROZEN != 0
    }

    /// Whether both are the same reign: primary of the same epoch.
    pub(super) fn same_reign(self, other: Self) -> bool {
        self.is_primary() && other.is_primary() && self.epoch() == other.epoch()
    }
}

impl Gate {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let zeros = || (0..SLOT_COUNT).map(|_| AtomicU64::new(0)).collect();
        Self {
            clock,
            lease_until: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            roles: zeros(),
            owners: zeros(),
            epochs: zeros(),
            bases: zeros(),
            version: AtomicU64::new(0),
        }
    }

    pub(super) fn now(&self) -> MonoTime {
        self.clock.now()
    }

    pub(super) fn role(&self, slot: Slot) -> RoleWord {
        RoleWord(self.roles[slot.index()].load(Ordering::Acquire))
    }

    /// Under the store's slot lock.
    pub(super) fn set_role(&self, slot: Slot, role: RoleWord) {
        self.roles[slot.index()].store(role.0, Ordering::Release);
    }

    pub(super) fn owner(&self, slot: Slot) -> Option<NodeId> {
        NodeId::new(self.owners[slot.index()].load(Ordering::Relaxed))
    }

    pub(super) fn set_owner(&self, slot: Slot, owner: Option<NodeId>) {
        self.owners[slot.index()].store(owner.map_or(0, NodeId::get), Ordering::Relaxed);
    }

    /// What the table says of the slot, before its role changes.
    pub(super) fn set_history(&self, slot: Slot, epoch: Epoch, base: Seq) {
        self.bases[slot.index()].store(base.0, Ordering::Relaxed);
        self.epochs[slot.index()].store(u64::from(epoch.0), Ordering::Release);
    }

    pub(super) fn set_version(&self, version: u64) {
        self.version.store(version, Ordering::Release);
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn extend_lease(&self, until: MonoTime) {
        self.lease_until.fetch_max(until.as_micros(), Ordering::AcqRel);
    }

    /// Nothing is answered from here on.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(super) fn lease_until(&self) -> MonoTime {
        MonoTime::from_micros(self.lease_until.load(Ordering::Acquire))
    }

    /// The role in which this node may begin to serve the slot.
    pub(super) fn serving(&self, slot: Slot) -> Result<RoleWord, DataError> {
        let role = self.role(slot);
        if !role.is_primary() {
            return Err(self.not_owner(slot));
        }
        if role.is_frozen() { Err(DataError::Moving) } else { Ok(role) }
    }

    /// Whether an answer found in this role may be given: the reign is the same and the lease lasts. Returns the time
    /// of the check.
    pub(super) fn confirm(&self, slot: Slot, role: RoleWord) -> Result<MonoTime, DataError> {
        self.confirm_at(slot, role, self.clock.now())
    }

    /// As [`Gate::confirm`], by a clock that was read after all that is to be answered was found.
    pub(super) fn confirm_at(
        &self,
        slot: Slot,
        role: RoleWord,
        now: MonoTime,
    ) -> Result<MonoTime, DataError> {
        if !self.is_leased_at(now) {
            return Err(DataError::NoLease);
        }
        if !self.role(slot).same_reign(role) {
            return Err(self.not_owner(slot));
        }
        Ok(now)
    }

    /// Whether a write may be acknowledged that every in-sync copy has: the reign is the same, or it ended in a way that
    /// surely kept the write: this node stayed primary, or the slot was handed over with it.
    pub(super) fn confirm_write(&self, slot: Slot, role: RoleWord, seq: Seq) -> bool {
        let now = self.role(slot);
        let stayed = now.is_primary() && now.epoch() == role.epoch().next() && self.has_lease();
        stayed || self.confirm(slot, role).is_ok() || self.was_handed_over(slot, role, seq)
    }

    /// Whether the reign ended by handing the slot over at a seq that includes the write: then every in-sync copy had it.
    /// Without the lease nothing is told: somebody else may have begun the slot anew since.
    pub(super) fn was_handed_over(&self, slot: Slot, role: RoleWord, seq: Seq) -> bool {
        let epoch = self.epochs[slot.index()].load(Ordering::Acquire);
        let base = self.bases[slot.index()].load(Ordering::Relaxed);
        epoch == u64::from(role.epoch().next().0) && seq.0 <= base && self.has_lease()
    }

    pub(super) fn has_lease(&self) -> bool {
        self.is_leased_at(self.clock.now())
    }

    fn is_leased_at(&self, now: MonoTime) -> bool {
        now < self.lease_until() && !self.has_ended()
    }

    pub(super) fn not_owner(&self, slot: Slot) -> DataError {
        DataError::NotOwner { owner: self.owner(slot), version: self.version() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct TestClock(AtomicU64);

    impl Clock for TestClock {
        fn now(&self) -> MonoTime {
            MonoTime::from_micros(self.0.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn a_write_outlives_its_reign_only_where_it_was_surely_kept() {
        let gate = Gate::new(Arc::new(TestClock(AtomicU64::new(1_000))));
        let slot = Slot::of_key(b"foo");
        let role = RoleWord::primary(Epoch(7), 2, true);
        gate.extend_lease(MonoTime::from_micros(9_000));
        let ended = |epoch, base, now| {
            gate.set_history(slot, Epoch(epoch), Seq(base));
            gate.set_role(slot, now);
            gate.confirm_write(slot, role, Seq(40))
        };
        let gone = RoleWord::default();
        assert!(ended(8, 40, gone), "handed over with the write");
        assert!(!ended(8, 39, gone), "handed over before it, or failed over");
        assert!(!ended(9, 40, gone), "more happened than one handing over");
        assert!(ended(8, 0, RoleWord::primary(Epoch(8), 1, false)), "the move was aborted");
        assert!(!ended(9, 0, RoleWord::primary(Epoch(9), 1, false)), "primary again, later");
    }

    #[test]
    fn an_answer_needs_the_lease_and_the_same_reign_at_the_moment_it_is_given() {
        let clock = Arc::new(TestClock(AtomicU64::new(1_000)));
        let gate = Gate::new(clock.clone());
        let slot = Slot::of_key(b"foo");
        assert!(matches!(gate.serving(slot), Err(DataError::NotOwner { .. })));
        gate.set_role(slot, RoleWord::primary(Epoch(7), 2, false));
        let role = gate.serving(slot).unwrap();
        assert_eq!((role.epoch(), role.copies()), (Epoch(7), 2));
        assert_eq!(gate.confirm(slot, role), Err(DataError::NoLease));
        gate.extend_lease(MonoTime::from_micros(1_000) + Duration::from_millis(800));
        assert!(gate.confirm(slot, role).is_ok());
        gate.set_role(slot, RoleWord::primary(Epoch(7), 1, true));
        assert!(gate.confirm(slot, role).is_ok(), "a replica left, a freeze began: the same reign");
        assert_eq!(gate.serving(slot), Err(DataError::Moving));
        gate.set_role(slot, RoleWord::primary(Epoch(8), 1, false));
        assert!(gate.confirm(slot, role).is_err(), "another epoch");
        let role = gate.serving(slot).unwrap();
        clock.0.store(1_000 + 800_000, Ordering::Relaxed);
        assert_eq!(gate.confirm(slot, role), Err(DataError::NoLease), "stopped in between");
    }
}
