use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use slotmesh_coherence::{Readable, Stamp, Subscriber};
use slotmesh_slots::{MonoTime, Slot};

/// How old a value may be: no older than this may what is not known be.
pub(super) struct Bound {
    pub(super) subscriber: Arc<Subscriber>,
    micros: u64,
    withheld: AtomicU64,
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
        let micros = u64::try_from(max_staleness.as_micros()).unwrap_or(u64::MAX);
        Self { subscriber, micros, withheld: AtomicU64::new(0) }
    }

    /// How far behind their owners values may be that are served now.
    pub(super) fn staleness(&self, now: MonoTime) -> Duration {
        self.subscriber.staleness(Duration::from_micros(self.micros), now)
    }

    /// How often a value was not served because nothing was heard of its owner for too long.
    pub(super) fn withheld(&self) -> u64 {
        self.withheld.load(Ordering::Relaxed)
    }

    /// When nobody speaks any more for what was right at this time.
    pub(super) const fn after(&self, time: MonoTime) -> MonoTime {
        MonoTime::from_micros(time.as_micros().saturating_add(self.micros))
    }

    #[inline]
    pub(super) fn is_readable(&self, slot: Slot, stamp: Stamp, now: MonoTime) -> bool {
        let since = MonoTime::from_micros(now.as_micros().saturating_sub(self.micros));
        match self.subscriber.readable(slot, stamp, since) {
            Readable::Yes => true,
            Readable::No => false,
            Readable::NotNow => {
                self.withheld.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }
}
