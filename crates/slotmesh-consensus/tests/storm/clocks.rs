//! Clocks that go a little faster or slower than the runtime's paused one.

use std::sync::Arc;

use slotmesh_consensus::Clock;
use slotmesh_slots::MonoTime;
use tokio::time::Instant;

/// What every node's clock shows at the start, so that no time is zero.
const START_MICROS: u64 = 1_000_000;

/// A node's clock: parts per million of the true rate.
#[derive(Clone, Copy)]
pub struct Rate {
    origin: Instant,
    ppm: u64,
}

impl Rate {
    pub fn new(origin: Instant, ppm: u64) -> Self {
        Self { origin, ppm }
    }

    pub fn now(self) -> MonoTime {
        let micros = self.origin.elapsed().as_micros() as u64;
        MonoTime::from_micros(START_MICROS + micros * self.ppm / 1_000_000)
    }

    pub fn clock(self) -> Clock {
        Arc::new(move || self.now())
    }

    /// The true time, in microseconds since the origin, at which this clock showed that.
    pub fn truly(self, shown: MonoTime) -> u64 {
        (shown.as_micros() - START_MICROS) * 1_000_000 / self.ppm
    }
}
