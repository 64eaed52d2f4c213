use rustix::time::{ClockId, clock_gettime};
use slotmesh_core::Clock;
use slotmesh_slots::MonoTime;

/// The kernel's monotonic clock that also counts while the host is suspended: a lease must not outlive a suspend.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> MonoTime {
        let time = clock_gettime(ClockId::Boottime);
        MonoTime::from_micros(
            time.tv_sec.cast_unsigned() * 1_000_000 + time.tv_nsec.cast_unsigned() / 1_000,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_goes_back() {
        let mut last = BootClock.now();
        for _ in 0..1_000 {
            let now = BootClock.now();
            assert!(now >= last);
            last = now;
        }
    }
}
