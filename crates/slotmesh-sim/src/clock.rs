use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use slotmesh_core::Clock;
use slotmesh_slots::MonoTime;

/// Parts per million, the unit of clock rates.
const MILLION: u64 = 1_000_000;

/// The monotonic clock of one node: it starts anywhere and runs a little fast or slow against the world's time.
#[derive(Debug)]
pub(crate) struct NodeClock {
    now: AtomicU64,
    offset_micros: u64,
    rate_ppm: u64,
    stopped: AtomicBool,
}

impl NodeClock {
    pub(crate) fn new(offset_micros: u64, rate_ppm: u64) -> Self {
        let now = AtomicU64::new(offset_micros);
        Self { now, offset_micros, rate_ppm, stopped: AtomicBool::new(false) }
    }

    /// The node's time at this time of the world.
    pub(crate) fn local(&self, world: MonoTime) -> MonoTime {
        // Worlds live for minutes: the product is far from overflowing.
        let run = world.as_micros() * self.rate_ppm / MILLION;
        MonoTime::from_micros(self.offset_micros + run)
    }

    /// The first time of the world at which the node's time is at least `local`.
    pub(crate) fn world(&self, local: MonoTime) -> MonoTime {
        let run = u128::from(local.as_micros().saturating_sub(self.offset_micros));
        let micros = (run * u128::from(MILLION)).div_ceil(u128::from(self.rate_ppm));
        MonoTime::from_micros(micros as u64)
    }

    pub(crate) fn set(&self, world: MonoTime) {
        if !self.stopped.load(Ordering::Relaxed) {
            self.now.store(self.local(world).as_micros(), Ordering::Relaxed);
        }
    }

    /// Makes it a clock that is cached by a process and stands still while that is stopped: a seeded bug.
    pub(crate) fn stop(&self, stopped: bool) {
        self.stopped.store(stopped, Ordering::Relaxed);
    }
}

impl Clock for NodeClock {
    fn now(&self) -> MonoTime {
        MonoTime::from_micros(self.now.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_over_at_the_time_that_was_computed_for_it() {
        for rate in [975_000, 1_000_000, 1_025_000] {
            let clock = NodeClock::new(77, rate);
            for local in [77, 78, 1_000_003, 123_456_789] {
                let local = MonoTime::from_micros(local);
                let world = clock.world(local);
                assert!(clock.local(world) >= local, "{rate} {local:?}");
                let before = world.saturating_sub(std::time::Duration::from_micros(2));
                assert!(clock.local(before) <= local, "{rate} {local:?}");
            }
        }
    }
}
