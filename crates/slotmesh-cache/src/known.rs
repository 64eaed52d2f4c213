//! How long what is known of a key is shown, and when it is loaded anew.
//!
//! An entry is written to be **fresh** for its time to live, then **stale** for as long as its cache's settings say; the cluster keeps it
//! for both. Of what is left of that, and the [`Times`] that the entry carries, each reader works out by its own settings what to do with
//! it, so no clocks are compared and nodes of different versions may differ.

use std::sync::Arc;
use std::time::Duration;

use slotmesh_slots::Version;

use crate::builder::{Settings, TIME_MAX};
use crate::envelope::Times;
use crate::marks::Stamp;
use crate::near::Fresh;
use crate::tier::Shown;

/// A value, or that there is none, as the cluster has it.
pub(crate) struct Known<V> {
    /// None says that there is no such value.
    pub(crate) value: Option<Arc<V>>,
    pub(crate) version: Version,
    /// How long the cluster still keeps it; `None` is for ever.
    pub(crate) left: Option<Duration>,
    pub(crate) times: Times,
    /// Its size and its key's when encoded.
    pub(crate) bytes: usize,
    /// If its cache has marks.
    pub(crate) stamp: Option<Stamp>,
}

/// What is to be done with something that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// Shown.
    Fresh,
    /// Shown, and loaded anew meanwhile, before its time is up.
    Due,
    /// Its time is up: shown, and loaded anew meanwhile.
    Stale,
    /// Loaded anew, and shown only if that fails or takes long.
    Spare,
    /// Loaded anew.
    Over,
}

impl Age {
    /// Whether its time is not up yet.
    pub(crate) const fn is_fresh(self) -> bool {
        matches!(self, Self::Fresh | Self::Due)
    }

    /// Whether nobody need wait for anything better.
    pub(crate) const fn is_shown(self) -> bool {
        matches!(self, Self::Fresh | Self::Due | Self::Stale)
    }
}

impl<V> Known<V> {
    pub(crate) fn age(&self, settings: &Settings) -> Age {
        let Some(left) = self.left else { return Age::Fresh };
        if let Some(fresh) = left.checked_sub(self.times.stale).filter(|fresh| !fresh.is_zero()) {
            return if fresh > self.refreshed_within(settings) { Age::Fresh } else { Age::Due };
        }
        let since = self.times.stale - left;
        if since < settings.stale_while_revalidate {
            Age::Stale
        } else if since < settings.stale_if_error {
            Age::Spare
        } else {
            Age::Over
        }
    }

    /// How long it is fresh yet; `None` is for ever.
    pub(crate) fn fresh_for(&self) -> Option<Duration> {
        self.left.map(|left| left.saturating_sub(self.times.stale))
    }

    /// How long it is shown unless it is loaded anew; `None` is for ever.
    pub(crate) fn shown_for(&self, settings: &Settings) -> Option<Duration> {
        let most = self.times.stale.min(settings.stale_for());
        self.left.map(|left| left.saturating_sub(self.times.stale - most))
    }

    /// Its time is up.
    pub(crate) fn expire(&mut self) {
        let stale = self.times.stale;
        self.left = Some(self.left.map_or(stale, |left| left.min(stale)));
    }

    /// For L1: served until somebody has to do something about it.
    pub(crate) fn fresh(&self, settings: &Settings, ttl_max: Duration) -> Shown<V> {
        let until_due = |left: Duration| {
            left.saturating_sub(self.times.stale).saturating_sub(self.refreshed_within(settings))
        };
        let ttl = self.left.map_or(ttl_max, |left| until_due(left).min(ttl_max));
        self.shown(ttl, settings)
    }

    /// For L1: served for so long, whatever its age.
    pub(crate) fn shown(&self, ttl: Duration, settings: &Settings) -> Shown<V> {
        let all = self.shown_for(settings).unwrap_or(ttl);
        let ttl = ttl.min(all);
        let stale_for = if settings.stale_for().is_zero() { Duration::ZERO } else { all - ttl };
        let (value, version, bytes) = (self.value.clone(), self.version, self.bytes);
        let fresh = Fresh { value, version, ttl, stale_for, bytes };
        Shown { fresh, stamp: self.stamp.clone() }
    }

    /// From how long before its time is up it is loaded anew.
    fn refreshed_within(&self, settings: &Settings) -> Duration {
        settings.refresh_at.map_or(Duration::ZERO, |at| times(self.times.fresh, 1.0 - at))
    }
}

/// How a value of this cache is written.
pub(crate) struct Lifetime {
    /// How long the cluster keeps it; `None` is for ever.
    pub(crate) kept: Option<Duration>,
    pub(crate) times: Times,
}

impl Lifetime {
    /// Of what is to be fresh for so long, less the jitter; `None` is for ever.
    pub(crate) fn new(ttl: Option<Duration>, settings: &Settings) -> Self {
        let Some(ttl) = ttl else { return Self { kept: None, times: Times::default() } };
        let ttl = jittered(ttl, settings);
        let fresh = if settings.refresh_at.is_some() { ttl } else { Duration::ZERO };
        let times = Times { fresh, stale: settings.stale_for() };
        Self { kept: Some(ttl + times.stale), times }
    }

    /// That there is no value: neither stale nor loaded anew before its time is up.
    pub(crate) fn of_nothing(ttl: Duration, settings: &Settings) -> Self {
        let kept = jittered(ttl, settings);
        Self { kept: Some(kept), times: Times::default() }
    }
}

fn jittered(ttl: Duration, settings: &Settings) -> Duration {
    times(ttl.min(TIME_MAX), 1.0 - settings.jitter * rand::random::<f64>())
}

/// This part of a time, at least a millisecond: what is written with none would not be there at all.
fn times(time: Duration, part: f64) -> Duration {
    let least = Duration::from_millis(1).min(time);
    Duration::try_from_secs_f64(time.as_secs_f64() * part).unwrap_or(time).max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// Fresh for 100 s, loaded anew in the last 20; then shown for 10 s, then spare for 50.
    fn settings() -> Settings {
        Settings {
            ttl: Some(secs(100)),
            refresh_at: Some(0.8),
            stale_while_revalidate: secs(10),
            stale_if_error: secs(60),
            ..Settings::new("it")
        }
    }

    fn known(left: Option<Duration>, times: Times) -> Known<u8> {
        Known { value: None, version: Version::default(), left, times, bytes: 1, stamp: None }
    }

    fn written() -> Lifetime {
        Lifetime::new(Some(secs(100)), &settings())
    }

    #[test]
    fn it_goes_through_all_ages() {
        let Lifetime { kept, times } = written();
        assert_eq!((kept, times), (Some(secs(160)), Times { fresh: secs(100), stale: secs(60) }));
        for (left, age, in_l1) in [
            (160, Age::Fresh, 80),
            (81, Age::Fresh, 1),
            (80, Age::Due, 0),
            (61, Age::Due, 0),
            (60, Age::Stale, 0),
            (51, Age::Stale, 0),
            (50, Age::Spare, 0),
            (1, Age::Spare, 0),
            (0, Age::Over, 0),
        ] {
            let known = known(Some(secs(left)), times);
            assert_eq!(known.age(&settings()), age, "{left}");
            let fresh = known.fresh(&settings(), secs(1_000)).fresh;
            assert_eq!((fresh.ttl, fresh.ttl + fresh.stale_for), (secs(in_l1), secs(left)));
        }
        assert_eq!(known(None, Times::default()).age(&settings()), Age::Fresh);
    }

    #[test]
    fn each_reader_goes_by_its_own_settings() {
        let times = written().times;
        let plain = Settings::new("it");
        let age = |left| known(Some(secs(left)), times).age(&plain);
        assert_eq!(
            [age(160), age(61), age(60), age(1)].map(|age| age == Age::Fresh),
            [true, true, false, false]
        );
        assert_eq!(age(60), Age::Over);
        let fresh = known(Some(secs(61)), times).fresh(&plain, secs(1_000)).fresh;
        assert_eq!((fresh.ttl, fresh.stale_for), (secs(1), Duration::ZERO));
        // Written by one that knows of no stale values.
        let known = known(Some(secs(1)), Times::default());
        assert_eq!(known.age(&settings()), Age::Fresh);
    }

    #[test]
    fn what_may_be_stale_for_ever_is_fresh_no_longer_than_it_should() {
        for stale_if_error in [secs(60 * 24 * 3_600), Duration::MAX] {
            let settings = Settings { stale_if_error, ..Settings::new("it") }.check(true).unwrap();
            let Lifetime { kept, times } = Lifetime::new(Some(secs(60)), &settings);
            let sealed = crate::envelope::seal(&crate::codec::Bincode, 1, Some(&1_u8), times, None);
            let opened = crate::envelope::open::<u8>(&crate::codec::Bincode, 1, &sealed.unwrap());
            let read = known(kept, opened.unwrap().times);
            assert_eq!(read.fresh_for(), Some(secs(60)));
            assert!(read.shown_for(&settings) > Some(secs(40 * 24 * 3_600)));
        }
    }

    #[test]
    fn what_expires_early_is_stale_for_as_long() {
        for (left, age) in
            [(Some(secs(160)), Age::Stale), (Some(secs(30)), Age::Spare), (None, Age::Stale)]
        {
            let mut known =
                known(left, if left.is_some() { written().times } else { Times::default() });
            known.expire();
            assert_eq!(known.age(&settings()), age);
            assert_eq!(known.age(&Settings::new("it")), Age::Over);
        }
    }

    #[test]
    fn jitter_makes_it_shorter_by_its_share_at_most() {
        let jittered = Settings { jitter: 0.5, ..Settings::new("it") };
        for _ in 0..1_000 {
            let kept = Lifetime::new(Some(secs(100)), &jittered).kept.unwrap();
            assert!((secs(50)..=secs(100)).contains(&kept), "{kept:?}");
            let kept = Lifetime::of_nothing(Duration::MAX, &jittered).kept.unwrap();
            assert!(kept >= TIME_MAX / 2);
            assert!(
                !Lifetime::of_nothing(Duration::from_millis(1), &jittered).kept.unwrap().is_zero()
            );
        }
        assert_eq!(Lifetime::new(None, &jittered).kept, None);
    }
}
