use std::time::Duration;

use slotmesh_core::Ack;
use slotmesh_slots::Class;
use slotmesh_store::Condition;

/// How an operation is carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallOptions {
    /// When a write counts as done.
    pub ack: Ack,
    /// How long the operation may take, retries included; the node's default when `None`.
    pub timeout: Option<Duration>,
    /// Retry writes whose outcome is unknown, if carrying them out twice has the same effect as once. Right for caches,
    /// where the last value counts; wrong where another write may come in between and must not be undone.
    pub retry_ambiguous: bool,
    /// Retry writes whose outcome is unknown so that they are carried out once all the same: each has a random token by which its
    /// slot's primary, or whoever becomes that, knows a repetition and answers as before. That keeps some two hundred bytes in
    /// the slot for a minute, or for less where many such writes come. [`Op::once`](slotmesh_core::Op::once) takes a token of the
    /// caller's own.
    pub once: bool,
}

impl CallOptions {
    /// The usual ones, but for writes that are carried out once though they are retried.
    #[must_use]
    pub fn once() -> Self {
        Self { once: true, ..Self::default() }
    }
}

/// How an entry is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// How long the entry lives from now on; `None` is for ever.
    pub ttl: Option<Duration>,
    /// Keep the lifetime of the entry that is replaced.
    pub keep_ttl: bool,
    /// What must hold for the write to happen.
    pub condition: Condition,
    /// Never evict the entry to make room for others: for what cannot be loaded again. It takes memory until it is deleted
    /// or expires; once such entries take nine tenths of the budget, more of them are refused. It stays so while its value is
    /// changed, until it is written anew without this.
    pub never_evict: bool,
    /// How the write is carried out.
    pub call: CallOptions,
}

impl PutOptions {
    pub(crate) fn class(&self) -> Class {
        if self.never_evict { Class::State } else { Class::Cache }
    }
}
