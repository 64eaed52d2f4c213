use std::time::Duration;

use rand::Rng;

/// Pauses between attempts: doubling from [`BACKOFF_MIN`] to [`BACKOFF_MAX`], each cut by a random part of up to half so
/// that nodes which lost the same peer do not return in step.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

/// First pause: a restarted process needs about this long to listen again.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// Longest pause; dialling never ends, so that every partition heals.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(30);

impl Backoff {
    /// The next attempt succeeded.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause before the next attempt.
    pub(crate) fn pause(&mut self, rng: &mut impl Rng) -> Duration {
        let full = BACKOFF_MIN.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(rng.random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn doubles_with_jitter_up_to_the_longest_and_starts_again_after_success() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::default();
        for doubled in 0..100 {
            let full = BACKOFF_MIN.saturating_mul(1 << doubled.min(16)).min(BACKOFF_MAX);
            let pause = backoff.pause(&mut rng);
            assert!(pause >= full / 2 && pause <= full, "pause {doubled}: {pause:?}");
        }
        backoff.reset();
        assert!(backoff.pause(&mut rng) <= BACKOFF_MIN);
    }
}
