use std::time::Duration;

use slotmesh_slots::MonoTime;

/// The share of its time, in percent, for which a link may carry snapshots: all of it, or a part, so that calls which share
/// the network, the processors and the memory with it are not held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u8);

impl Share {
    /// No bound.
    pub const FULL: Self = Self(100);

    /// At least one percent, at most all.
    #[must_use]
    pub fn percent(percent: u8) -> Self {
        Self(percent.clamp(1, 100))
    }

    /// In percent.
    #[must_use]
    pub fn as_percent(self) -> u8 {
        self.0
    }

    /// How long to rest after having been busy so long.
    fn rest(self, busy: Duration) -> Duration {
        busy * u32::from(100 - self.0) / u32::from(self.0)
    }
}

/// When a link carries snapshots and when it rests: after it was busy for a while, in proportion to how long.
///
/// It is busy while a part of a snapshot is unacknowledged. So the share is one of what the link and both of its ends can do,
/// whatever that is, and nothing has to be known of them.
#[derive(Debug)]
pub(crate) struct Pace {
    /// What this node allows.
    own: Share,
    /// What the other one asks for.
    asked: Share,
    /// Since when it is busy, as far as that is not counted in `owed`.
    busy_since: Option<MonoTime>,
    owed: Duration,
    rest_until: Option<MonoTime>,
}

impl Pace {
    pub(crate) fn new(own: Share) -> Self {
        let asked = Share::FULL;
        Self { own, asked, busy_since: None, owed: Duration::ZERO, rest_until: None }
    }

    pub(crate) fn own(&self) -> Share {
        self.own
    }

    /// A rest under way is not cut short by another share: it is a short one.
    pub(crate) fn allow(&mut self, own: Share) {
        self.own = own;
    }

    pub(crate) fn ask(&mut self, asked: Share) {
        self.asked = asked;
    }

    pub(crate) fn rests(&self) -> bool {
        self.rest_until.is_some()
    }

    /// When the rest is over; [`Pace::wake`] ends it.
    pub(crate) fn rest_until(&self) -> Option<MonoTime> {
        self.rest_until
    }

    /// Ends a rest that is over.
    pub(crate) fn wake(&mut self, now: MonoTime) {
        self.rest_until.take_if(|until| now >= *until);
    }

    pub(crate) fn sent(&mut self, now: MonoTime) {
        self.busy_since.get_or_insert(now);
    }

    /// Parts were acknowledged; whether others are on their way still.
    pub(crate) fn acknowledged(&mut self, busy: bool, now: MonoTime) {
        let Some(since) = self.busy_since.take() else { return };
        self.busy_since = busy.then_some(now);
        self.owed += self.own.min(self.asked).rest(now.saturating_since(since));
        if self.owed >= REST_MIN && !self.rests() {
            self.rest_until = Some(now + self.owed.min(REST_MAX));
            self.owed = Duration::ZERO;
        }
    }
}

/// Shorter rests would be as long as a timer is late.
const REST_MIN: Duration = Duration::from_millis(4);

/// Longer rests do not make calls faster, and a link that stood still for another reason should not rest for as long.
const REST_MAX: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> MonoTime {
        MonoTime::from_micros(1_000 * millis)
    }

    #[test]
    fn a_full_share_never_rests() {
        let mut pace = Pace::new(Share::FULL);
        pace.sent(at(0));
        pace.acknowledged(false, at(60_000));
        assert!(!pace.rests());
    }

    #[test]
    fn a_quarter_rests_three_times_as_long_as_it_was_busy() {
        let mut pace = Pace::new(Share::percent(25));
        pace.sent(at(0));
        pace.sent(at(1));
        pace.acknowledged(true, at(1));
        assert!(!pace.rests(), "too short a rest");
        pace.acknowledged(true, at(2));
        assert_eq!(pace.rest_until(), Some(at(8)));
        pace.acknowledged(false, at(3));
        pace.wake(at(7));
        assert!(pace.rests());
        pace.wake(at(8));
        assert!(!pace.rests());
        pace.sent(at(10));
        pace.acknowledged(false, at(11));
        assert_eq!(pace.rest_until(), Some(at(17)), "also for the last part of before");
    }

    #[test]
    fn the_smaller_of_both_shares_counts() {
        let mut pace = Pace::new(Share::percent(50));
        pace.ask(Share::percent(20));
        pace.sent(at(0));
        pace.acknowledged(false, at(1));
        assert_eq!(pace.rest_until(), Some(at(5)));
    }

    #[test]
    fn a_link_that_stood_still_for_long_does_not_rest_for_as_long() {
        let mut pace = Pace::new(Share::percent(1));
        pace.sent(at(0));
        pace.acknowledged(false, at(60_000));
        assert_eq!(pace.rest_until(), Some(at(60_200)));
    }
}
