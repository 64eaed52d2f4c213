use bytes::Bytes;
use slotmesh_slots::{Class, MonoTime, Record, Version};

use crate::condition::Condition;
use crate::entry::Entry;

/// A write, for [`SlotGuard::put`](crate::SlotGuard::put).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The key.
    pub key: Bytes,
    /// The value. Up to 64 KiB it is copied; a larger one keeps the buffer it is a part of alive.
    pub value: Bytes,
    /// When the entry expires; `None` is never. One that is past already stores an entry that nobody sees.
    pub deadline: Option<MonoTime>,
    /// What must hold for the write to happen.
    pub condition: Condition,
    /// Keep the deadline (or its absence) of the entry that is replaced; `deadline` then counts only when there is none.
    pub keep_deadline: bool,
    /// Whether the entry may be evicted.
    pub class: Class,
}

impl Put {
    /// An unconditional write without a deadline.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
            deadline: None,
            condition: Condition::Always,
            keep_deadline: false,
            class: Class::Cache,
        }
    }
}

/// What a put did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct PutOutcome {
    /// The record to replicate; none when the condition failed.
    pub record: Option<Record>,
    /// Whether the condition held and the value was written.
    pub applied: bool,
    /// Version of the entry that the key holds now: the new one, or the one that made the condition fail.
    pub version: Option<Version>,
    /// Whether the key held an unexpired entry before.
    pub existed: bool,
}

/// What a delete did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct DeleteOutcome {
    /// The record to replicate; none when the condition failed. There is one also when nothing was there to delete.
    pub record: Option<Record>,
    /// Whether the condition held.
    pub applied: bool,
    /// Version of the entry that the key holds now: the one that made the condition fail, or none.
    pub version: Option<Version>,
    /// Whether the key held an unexpired entry before.
    pub existed: bool,
}

/// What a change of deadline did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct ExpireOutcome {
    /// The record to replicate: of the new deadline, or of a delete when that is past already. None when nothing was applied.
    pub record: Option<Record>,
    /// Whether the key held an unexpired entry on which the condition held: its deadline is now changed (or it is gone).
    pub applied: bool,
    /// Version of the entry that the key holds now.
    pub version: Option<Version>,
    /// The deadline before.
    pub previous: Option<MonoTime>,
}

/// What an increment did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct IncrementOutcome {
    /// The record to replicate: a put of the sum. Always there; an option only so that all outcomes look alike.
    pub record: Option<Record>,
    /// The sum.
    pub value: i64,
    /// Version of the entry now.
    pub version: Version,
    /// Whether the key held an unexpired entry before; otherwise the increment counted from zero.
    pub existed: bool,
}

/// What a procedure did, for [`SlotGuard::update`](crate::SlotGuard::update).
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct UpdateOutcome {
    /// The record to replicate; none when nothing changed.
    pub record: Option<Record>,
    /// Version of the entry that the key holds now.
    pub version: Option<Version>,
    /// Whether the key held an unexpired entry before.
    pub existed: bool,
}

/// What a change that also reads did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct ExchangeOutcome {
    /// The record to replicate; none when nothing changed.
    pub record: Option<Record>,
    /// Whether the change happened.
    pub applied: bool,
    /// The entry that the key held before.
    pub previous: Option<Entry>,
    /// Version of the entry that the key holds now.
    pub version: Option<Version>,
}

/// What a change of a part of a value did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct LengthOutcome {
    /// The record to replicate: a put of the whole value. None when there was nothing to write.
    pub record: Option<Record>,
    /// Length of the value now, in bytes; zero when the key holds nothing.
    pub length: usize,
    /// Version of the entry that the key holds now.
    pub version: Option<Version>,
    /// Whether the key held an unexpired entry before.
    pub existed: bool,
}
