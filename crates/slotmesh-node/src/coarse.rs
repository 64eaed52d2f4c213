//! The clock of local tiers.
//!
//! Each hit looks at it, so it is the kernel's coarse one: 4 ns where std's takes 23 (`compare_near` prints both). The kernel moves it
//! on, no thread of ours, so it is right at once after the process was stopped. It lags by up to its resolution (1 to 10 ms); so
//! there are two readings, of which the true time lies between, and each use takes the one that makes an entry live shorter.
//! While the host is suspended it stands still, unlike the clock of leases.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};
use slotmesh_core::Clock;
use slotmesh_slots::MonoTime;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::clock::BootClock;

/// A clock that begins when it is made, for many readings.
#[derive(Clone, Copy, Debug)]
pub struct CoarseClock(Source);

#[derive(Clone, Copy, Debug)]
enum Source {
    /// The kernel's coarse clock: its reading at the beginning, and by how much it may lag.
    Coarse { origin_micros: u64, lag: Duration },
    /// tokio's, when it is stopped: a test moves it on by hand.
    Tokio { origin: Instant },
}

impl CoarseClock {
    /// Begins now. Takes tokio's clock if that stands still.
    #[must_use]
    pub fn start() -> Self {
        let origin = Instant::now();
        let began = std::time::Instant::now();
        // The clocks have nanoseconds: one that runs shows it within this time.
        while began.elapsed() < Duration::from_micros(1) {}
        if origin.elapsed().is_zero() {
            return Self(Source::Tokio { origin });
        }
        let lag = Duration::from_micros(micros(&clock_getres(ClockId::MonotonicCoarse)));
        Self(Source::Coarse { origin_micros: coarse_micros(), lag })
    }

    /// It is not earlier than this: for the beginning of a term.
    #[must_use]
    pub fn at_least(&self) -> MonoTime {
        match self.0 {
            Source::Coarse { origin_micros, .. } => {
                MonoTime::from_micros(coarse_micros().saturating_sub(origin_micros))
            }
            Source::Tokio { origin } => MonoTime::ZERO + origin.elapsed(),
        }
    }

    /// It is not later than this: for the end of a term.
    #[must_use]
    pub fn at_most(&self) -> MonoTime {
        match self.0 {
            Source::Coarse { lag, .. } => self.at_least() + lag,
            Source::Tokio { .. } => self.at_least(),
        }
    }

    /// The exact clock beside it, for the store of a node without a network: stopped where this one is.
    pub(crate) fn exact(&self) -> Arc<dyn Clock> {
        match self.0 {
            Source::Coarse { .. } => Arc::new(BootClock),
            Source::Tokio { origin } => Arc::new(StoppedClock { origin, seen: AtomicU64::new(0) }),
        }
    }
}

/// A test's clock. Only threads of a runtime can read it; for others it stands where it was seen last.
struct StoppedClock {
    origin: Instant,
    seen: AtomicU64,
}

impl Clock for StoppedClock {
    fn now(&self) -> MonoTime {
        if Handle::try_current().is_ok() {
            let micros = self.origin.elapsed().as_micros() as u64;
            self.seen.fetch_max(micros, Ordering::Relaxed);
        }
        MonoTime::from_micros(self.seen.load(Ordering::Relaxed))
    }
}

fn coarse_micros() -> u64 {
    micros(&clock_gettime(ClockId::MonotonicCoarse))
}

const fn micros(time: &Timespec) -> u64 {
    time.tv_sec.cast_unsigned() * 1_000_000 + time.tv_nsec.cast_unsigned() / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_true_time_lies_between_its_readings() {
        let before = std::time::Instant::now();
        let clock = CoarseClock::start();
        let started = std::time::Instant::now();
        while started.elapsed() < Duration::from_millis(20) {
            let least = clock.at_least();
            let passed = before.elapsed();
            // It began at a reading that lagged as well, by 10 ms at most.
            let most = MonoTime::ZERO + passed + Duration::from_millis(10);
            assert!(least <= most, "{least:?} {passed:?}");
            let passed = started.elapsed();
            let most = clock.at_most();
            assert!(most >= MonoTime::ZERO + passed, "{most:?} {passed:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tests_clock_is_taken() {
        let clock = CoarseClock::start();
        assert_eq!(clock.at_most(), MonoTime::ZERO);
        tokio::time::advance(Duration::from_millis(3)).await;
        assert_eq!(
            (clock.at_least(), clock.at_most()),
            (clock.at_most(), MonoTime::from_micros(3_000))
        );
    }
}
