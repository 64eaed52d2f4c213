use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lets one log line per [`LOG_INTERVAL`] through and counts the others: strangers who knock must not fill the disk.
#[derive(Debug, Default)]
pub(crate) struct LogLimiter(Mutex<LogState>);

#[derive(Debug, Default)]
struct LogState {
    last: Option<Instant>,
    suppressed: u64,
}

const LOG_INTERVAL: Duration = Duration::from_secs(1);

impl LogLimiter {
    /// How many lines were left out since the last one, if this one may be written.
    pub(crate) fn allow(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        let too_soon =
            state.last.is_some_and(|last| now.saturating_duration_since(last) < LOG_INTERVAL);
        if too_soon {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_interval_tells_how_many_were_left_out() {
        let limiter = LogLimiter::default();
        let now = Instant::now();
        assert_eq!(limiter.allow(now), Some(0));
        assert_eq!(limiter.allow(now), None);
        assert_eq!(limiter.allow(now + LOG_INTERVAL / 2), None);
        assert_eq!(limiter.allow(now + LOG_INTERVAL), Some(2));
    }
}
