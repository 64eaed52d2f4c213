use std::collections::BTreeSet;

use slotmesh_control::{Claim, ClusterDelta, ClusterState};
use slotmesh_replication::{PrimarySlot, ReplicaSlot};
use slotmesh_slots::{Epoch, MonoTime, NodeId, NodeList, Slot, SlotState, Version};

use super::DataPlane;
use super::gate::RoleWord;

impl DataPlane {
    /// Takes over the table of `view` where `delta` changed it.
    pub fn apply_view(&self, view: &ClusterState, delta: &ClusterDelta, now: MonoTime) {
        let mut owned = false;
        if delta.table.from == 0 {
            for (slot, held) in view.table().iter() {
                owned |= self.apply_slot(slot, held, now);
            }
        } else {
            for (slots, held) in &delta.table.changes {
                slots.iter().for_each(|slot| owned |= self.apply_slot(slot, held, now));
            }
        }
        self.gate.set_version(view.version());
        if owned {
            *self.replicas.lock() = self.replicas_in(view);
        }
        self.sweep_loads(|node| !view.members().contains_key(&node));
        self.pump(now);
    }

    /// Who copies this node's slots. Neighbours mostly have the same copies, so they are looked at once.
    fn replicas_in(&self, view: &ClusterState) -> BTreeSet<NodeId> {
        let (mut replicas, mut before) = (BTreeSet::new(), (NodeList::EMPTY, NodeList::EMPTY));
        for (_, held) in view.table().iter() {
            if held.primary == Some(self.me) && (held.in_sync, held.copying) != before {
                before = (held.in_sync, held.copying);
                replicas.extend(held.replicas());
            }
        }
        replicas
    }

    /// The lease lasts until then, unless it lasts longer already.
    pub fn extend_lease(&self, until: MonoTime) {
        self.gate.extend_lease(until);
    }

    /// This node answers nothing any more, for good: it may then tell others that it leaves.
    pub fn end_serving(&self) {
        self.gate.end();
    }

    /// Promises, for each slot, to take nothing below the epoch after the named one, and says how far the slot is.
    /// Slots for which more was promised before are left out.
    #[must_use]
    pub fn promise(&self, claims: &[Claim]) -> Vec<(Slot, Version)> {
        let promise = |&(slot, epoch): &Claim| {
            let guard = self.store.lock(slot);
            let next = Epoch(epoch.0.checked_add(1)?);
            self.replica.promise(slot, next).ok()?;
            Some((slot, guard.version()))
        };
        claims.iter().filter_map(promise).collect()
    }

    /// Whether the table names, or named before, this node as the slot's primary.
    pub(super) fn apply_slot(&self, slot: Slot, held: &SlotState, now: MonoTime) -> bool {
        let owned = [self.gate.owner(slot), held.primary].contains(&Some(self.me));
        self.gate.set_owner(slot, held.primary);
        self.note_move(slot, held);
        // What the slot held, if its history ended; freed after the lock is.
        let _ended = {
            let mut guard = self.store.lock(slot);
            let holds = guard.version() != Version::default();
            let ended = holds && guard.version().epoch < held.origin;
            self.note_dropped(slot, holds && !ended && !held.involves(self.me), now);
            let ended = ended.then(|| {
                self.answers.forget(slot);
                guard.reset()
            });
            self.gate.set_history(slot, held.epoch, held.base);
            self.set_role(slot, held, guard.version(), now);
            ended
        };
        owned
    }

    /// Under the slot's lock. What a slot held is not freed at once when the table drops this node: a later table may
    /// have brought it back already, and a primary that knows that one may have filled it.
    fn note_dropped(&self, slot: Slot, dropped: bool, now: MonoTime) {
        let mut slots = self.dropped.lock();
        if dropped {
            slots.insert(slot, now);
        } else {
            slots.remove(&slot);
        }
    }

    /// The table was the latest at this time: whoever filled a dropped slot before did so by an older one.
    pub(crate) fn forget_dropped(&self, current: MonoTime) {
        let over = |since: &MonoTime| *since < current;
        let slots: Vec<Slot> = {
            let slots = self.dropped.lock();
            slots.iter().filter(|(_, since)| over(since)).map(|(slot, _)| *slot).collect()
        };
        for slot in slots {
            let mut guard = self.store.lock(slot);
            let mut slots = self.dropped.lock();
            if slots.get(&slot).is_some_and(over) {
                slots.remove(&slot);
                drop(slots);
                self.answers.forget(slot);
                let contents = guard.reset();
                drop(guard);
                drop(contents);
            }
        }
    }

    /// Under the slot's lock.
    fn set_role(&self, slot: Slot, held: &SlotState, version: Version, now: MonoTime) {
        let serves = held.primary == Some(self.me) && version.seq >= held.base;
        let moving = held.moving_to.is_some();
        let (in_sync, copying) = (held.in_sync, held.copying);
        let copies = held.primary.map_or(0, |_| in_sync.len() + 1);
        let role = match serves {
            true => RoleWord::primary(held.epoch, copies, moving),
            false => RoleWord::not_primary(copies),
        };
        let before = self.gate.role(slot);
        self.note_reign(slot, before, role);
        // Never serve before the log is ready, never log after serving ended. And what the log counts as committed because a copy was struck
        // has fewer of them.
        if !serves || (role.same_reign(before) && role.copies() < before.copies()) {
            self.gate.set_role(slot, role);
        }
        // Also where this node has no part: it may be filled by a primary that knows a later table.
        let replica = ReplicaSlot { epoch: held.epoch, primary: held.primary };
        self.replica.set_slot(slot, Some(replica));
        let primary = serves.then_some(PrimarySlot {
            epoch: held.epoch,
            in_sync,
            copying,
            moving,
            round: held.round,
            base: held.base,
        });
        self.primary.set_slot(slot, primary, version, now);
        if serves {
            self.gate.set_role(slot, role);
        }
    }

    fn note_move(&self, slot: Slot, held: &SlotState) {
        let mut moves = self.moves.lock();
        if held.primary == Some(self.me) && held.moving_to.is_some() {
            moves.entry(slot).or_insert((held.epoch, None)).0 = held.epoch;
        } else {
            moves.remove(&slot);
        }
    }
}
