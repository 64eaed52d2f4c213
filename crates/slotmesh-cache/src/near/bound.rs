use std::sync::Arc;
use std::time::Duration;

use slotmesh_coherence::{Readable, Stamp, Subscriber};
use slotmesh_slots::{MonoTime, Slot};

/// How old a value may be: no older than this may what is not known be.
pub(super) struct Bound {
    pub(super) subscriber: Arc<Subscriber>,
    micros: u64,
}

/// What speaks for a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cover {
    /// Its slot's owner tells of every write, and the value belongs to this generation of the slot.
    Told(Stamp),
    /// Nobody, so it is served no longer than the bound, counted from before it was asked for.
    Nobody,
}

impl Bound {
    pub(super) fn new(subscriber: Arc<Subscriber>, max_staleness: Duration) -> Self {
        Self { subscriber, micros: u64::try_from(max_staleness.as_micros()).unwrap_or(u64::MAX) }
    }

    /// When nobody speaks any more for what was right at this time.
    pub(super) const fn after(&self, time: MonoTime) -> MonoTime {
        MonoTime::from_micros(time.as_micros().saturating_add(self.micros))
    }

    #[inline]
    pub(super) fn is_readable(&self, slot: Slot, stamp: Stamp, now: MonoTime) -> bool {
        let since = MonoTime::from_micros(now.as_micros().saturating_sub(self.micros));
        self.subscriber.readable(slot, stamp, since) == Readable::Yes
    }
}
