use slotmesh_slots::{Epoch, NodeId, Slot};

/// What the primary side wants the caller to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum PrimaryEvent {
    /// A replica promised a higher epoch and refuses this primary, which may have been deposed.
    Refused {
        /// The slot.
        slot: Slot,
        /// The replica.
        node: NodeId,
        /// What it promised.
        promised: Epoch,
    },
    /// Propose to take a replica out of the slot, one that counts: it is silent, refused, or lacks data. Acknowledgements
    /// wait until [`Primary::set_slot`](crate::Primary::set_slot) shows it gone. Comes again while true.
    Shrink {
        /// The slot.
        slot: Slot,
        /// The epoch the proposal is conditional on.
        epoch: Epoch,
        /// The replica.
        node: NodeId,
    },
    /// Propose to add a complete copy to the in-sync set. Comes again until `set_slot` shows an outcome; until then
    /// acknowledgements wait for that replica too, for any of the proposals may have been committed.
    Grow {
        /// The slot.
        slot: Slot,
        /// The epoch the proposal is conditional on.
        epoch: Epoch,
        /// The round it is conditional on.
        round: u32,
        /// The replica.
        node: NodeId,
    },
    /// Call [`Primary::snapshot`](crate::Primary::snapshot) under the store's slot lock. One at a time per replica.
    NeedSnapshot {
        /// The replica to fill.
        replica: NodeId,
        /// The slot.
        slot: Slot,
    },
    /// The replica's node holds too much: evict so many bytes from slots that it copies
    /// ([`Primary::slots_copied_by`](crate::Primary::slots_copied_by)). Says how it stands now, not what came on top.
    Pressure {
        /// The replica.
        replica: NodeId,
        /// This primary's part.
        bytes: u64,
    },
    /// Call [`Primary::compare`](crate::Primary::compare) under the store's slot lock: an in-sync replica reported the
    /// slot's last version, so its digest can be checked.
    Compare {
        /// The replica.
        replica: NodeId,
        /// The slot.
        slot: Slot,
    },
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Every in-sync replica has it. The caller still checks lease and epoch before it answers.
    Committed,
    /// The slot changed its epoch or its primary first, or too many waited already: the write may survive or not.
    Ambiguous,
    /// This node was not the slot's primary when asked.
    NotOwner,
}

/// Called once with the outcome of a write, outside all of the engine's locks.
pub(crate) type Done = Box<dyn FnOnce(Outcome) + Send>;
