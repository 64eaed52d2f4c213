use slotmesh_slots::{Slot, Version};

/// Why a mutation on a primary was refused. Nothing changed and no record was made, in every case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The key is longer than the store takes; a retry cannot help.
    #[error("key of {bytes} bytes is longer than the {max} allowed")]
    KeyTooLarge {
        /// Length of the key.
        bytes: usize,
        /// The configured bound.
        max: usize,
    },
    /// The value is longer than the store takes; a retry cannot help.
    #[error("value of {bytes} bytes is longer than the {max} allowed")]
    ValueTooLarge {
        /// Length of the value.
        bytes: usize,
        /// The configured bound.
        max: usize,
    },
    /// The entry alone is larger than the whole budget, so no eviction can make room; a retry cannot help.
    #[error("entry of {bytes} bytes can never fit the budget of {budget}")]
    Full {
        /// What the entry would count, overhead included.
        bytes: usize,
        /// The configured budget.
        budget: usize,
    },
    /// Entries that are never evicted take all the memory they may; a retry helps once some were deleted or expired.
    #[error("entries that are never evicted take {have} bytes, of {max} at most")]
    StateFull {
        /// What they take.
        have: usize,
        /// What they may.
        max: usize,
    },
    /// The slot has seen a mutation of a later epoch: the caller is no longer its primary. A retry helps after it has
    /// looked up the slot's owner.
    #[error("slot is at version {have} already, a later epoch")]
    StaleEpoch {
        /// The slot's version.
        have: Version,
    },
    /// The value to increment is not a decimal integer of 64 bits.
    #[error("value is not an integer or out of range")]
    NotAnInteger,
    /// The sum does not fit 64 bits.
    #[error("increment or decrement would overflow")]
    Overflow,
}

/// Why a record was not applied to a replica's slot. Nothing changed, in every case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The record belongs to another slot; the caller mixed them up, a retry cannot help.
    #[error("record of slot {record} applied to slot {guard}")]
    WrongSlot {
        /// Slot of the record.
        record: Slot,
        /// Slot that is locked.
        guard: Slot,
    },
    /// The record is not the one that follows `have`: older ones are applied already, newer ones need the records
    /// between (or a snapshot) first.
    #[error("record does not follow version {have}")]
    Gap {
        /// The slot's version.
        have: Version,
    },
    /// The record comes from a primary that has been replaced; it must never be applied.
    #[error("record is of an epoch before that of version {have}")]
    StaleEpoch {
        /// The slot's version.
        have: Version,
    },
}

/// A slot was replaced or reset while a [`SlotView`](crate::SlotView) of it was read. Nothing changed; take a new view if this
/// node still owns the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("slot {slot} was replaced while it was read")]
pub struct SnapshotGone {
    /// The slot.
    pub slot: Slot,
}
