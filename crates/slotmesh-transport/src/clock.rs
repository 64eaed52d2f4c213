use std::time::Instant;

/// The time on the runtime's clock, which tests may pause. Without tokio's `test-util`, that is in every build but
/// those of tests, it is [`Instant::now`] and nothing more.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
