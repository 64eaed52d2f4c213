//! Invalidating many values at once, without touching any: by **marks** that readers look at.
//!
//! A cache that was built with [`tags`](crate::CacheBuilder::tags) keeps a clock in the cluster, which moves with each such invalidation,
//! and a mark for each tag and for the whole cache: the time before which whatever was asked for is gone, and before which it is
//! expired. An entry carries its tags and the clock's time from *before* it was loaded, so that a load which began before an invalidation
//! ends as gone already. Clock and marks are values of a cache of their own, so they are replicated as all others are, kept in L1, and
//! seen there within the same bound.
//!
//! A mark that is missing, because it is new or expired or was lost, is set to the clock's time by whoever looks for it first: what is older
//! is loaded again, which is never wrong. A lost clock begins with the wall clock's time, which is later than it was.
//!
//! The idea of marks that readers compare is FusionCache's; there they are times of wall clocks, which nodes may disagree on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use slotmesh_coherence::KeyHasher;
use slotmesh_slots::Class;

use crate::backing::Backing;
use crate::builder::{L1, Settings};
use crate::cache::{Asked, Cache, Inner, Spot};
use crate::codec::Bincode;
use crate::error::CacheError;
use crate::key::CacheKey;
use crate::known::Known;

/// What gives the tags of a value.
pub(crate) type TagsOf<V> = Arc<dyn Fn(&V) -> Vec<String> + Send + Sync>;

/// When an entry was asked for, by the cache's clock, and the hashes of its tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) at: u64,
    pub(crate) tags: Box<[u64]>,
}

/// What the marks say of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Holds,
    /// Its time is up, as if its lifetime were over.
    Expired,
    Gone,
}

impl Standing {
    /// What it leaves of an entry.
    pub(crate) fn of<V>(self, mut known: Known<V>) -> Option<Known<V>> {
        match self {
            Self::Holds => {}
            Self::Expired => known.expire(),
            Self::Gone => return None,
        }
        Some(known)
    }
}

/// Before which time entries are gone, and before which they are expired. Of the clock: its time.
type Mark = (u64, u64);

const CLOCK: u64 = 0;
const ALL: u64 = 1;
/// Tags have the numbers from here on.
const TAGS: u64 = 2;

/// Marks that L1 keeps; those that are in use hardly are more.
const MARKS_IN_L1: usize = 16_384;

/// Marks live so many times as long as the entries that they are about, and for an hour at least: when one is over, what is older and
/// has its tag is loaded again.
const LIVES: u32 = 10;
const LIFE_MIN: Duration = Duration::from_secs(60 * 60);

/// How long they live where entries live for ever.
const LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The clock and the marks of a cache.
pub(crate) struct Marks<V> {
    marks: Cache<u64, Mark>,
    tags: TagsOf<V>,
    hasher: KeyHasher,
}

/// Boxed: a cache's futures have these in them, and these have a cache's.
type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, CacheError>> + Send + 'a>>;

impl<V> Marks<V> {
    pub(crate) fn new(
        backing: &Backing,
        of: &Settings,
        tags: TagsOf<V>,
        hasher: KeyHasher,
    ) -> Self {
        let lives = |ttl: Duration| ttl.saturating_add(of.stale_for()).saturating_mul(LIVES);
        let settings = Settings {
            // No other cache's: names have no such sign.
            name: format!("{}#", of.name),
            schema: of.schema,
            ttl: Some(of.ttl.map_or(LIFE, lives).max(LIFE_MIN)),
            // A cold mark at its primary may be a hot one in all L1.
            class: Class::State,
            l1: of.l1.map(|l1| L1::entries(MARKS_IN_L1).max_staleness(l1.max_staleness)),
            ..Settings::new("")
        };
        Self { marks: Cache::within(backing, settings, Bincode), tags, hasher }
    }

    /// The clock's time, or an earlier one.
    pub(crate) fn now(&self) -> Boxed<'_, u64> {
        Box::pin(async move {
            match self.marks.get(&CLOCK).await? {
                Some(clock) => Ok(clock.0),
                None => self.clock(|known| known.unwrap_or_else(wall)).await,
            }
        })
    }

    /// For an entry that was asked for at this time.
    pub(crate) fn stamp(&self, at: u64, value: Option<&V>, more: &[String]) -> Stamp {
        let own = value.map(|value| (self.tags)(value)).unwrap_or_default();
        let mut tags: Vec<u64> = own.iter().chain(more).map(|tag| self.number(tag)).collect();
        tags.sort_unstable();
        tags.dedup();
        Stamp { at, tags: tags.into() }
    }

    /// What can be told without waiting.
    pub(crate) fn at_hand(&self, stamp: &Stamp) -> Option<Standing> {
        let mut standing = Standing::Holds;
        for mark in marks_of(stamp) {
            let mark = *self.marks.inner.get_at_hand(&mark).ok()??;
            standing = worse(standing, stamp, mark);
        }
        Some(standing)
    }

    pub(crate) fn standing<'a>(&'a self, stamp: &'a Stamp) -> Boxed<'a, Standing> {
        Box::pin(async move {
            let mut standing = Standing::Holds;
            for number in marks_of(stamp) {
                let mark = match self.marks.get(&number).await? {
                    Some(mark) => *mark,
                    None => self.establish(number).await?,
                };
                standing = worse(standing, stamp, mark);
            }
            Ok(standing)
        })
    }

    /// All entries with this tag that were asked for before are gone.
    pub(crate) fn drop_tag(&self, tag: &str) -> Boxed<'_, ()> {
        self.raise(self.number(tag), |mark, now| (mark.0.max(now), mark.1))
    }

    /// All entries that were asked for before are gone.
    pub(crate) fn drop_all(&self) -> Boxed<'_, ()> {
        self.raise(ALL, |mark, now| (mark.0.max(now), mark.1))
    }

    /// All entries that were asked for before are expired.
    pub(crate) fn expire_all(&self) -> Boxed<'_, ()> {
        self.raise(ALL, |mark, now| (mark.0, mark.1.max(now)))
    }

    fn raise(&self, number: u64, change: fn(Mark, u64) -> Mark) -> Boxed<'_, ()> {
        Box::pin(async move {
            let now = self.clock(|known| known.map_or(0, |it| it + 1).max(wall())).await?;
            // Where there is none, what is older is gone: who looks for it would find the same.
            let raised = |mark: Option<&Mark>| change(mark.copied().unwrap_or((now, 0)), now);
            self.marks.update(&number, |mark| Some(raised(mark))).await?;
            Ok(())
        })
    }

    /// Sets a mark that is not there.
    async fn establish(&self, number: u64) -> Result<Mark, CacheError> {
        let now = self.clock(|known| known.unwrap_or_else(wall)).await?;
        let mark = self.marks.update(&number, |mark| Some(mark.copied().unwrap_or((now, 0))));
        Ok(mark.await?.map_or((now, 0), |mark| *mark))
    }

    async fn clock(&self, tick: fn(Option<u64>) -> u64) -> Result<u64, CacheError> {
        let clock = self.marks.update(&CLOCK, |clock| Some((tick(clock.map(|it| it.0)), 0)));
        Ok(clock.await?.map_or(0, |clock| clock.0))
    }

    fn number(&self, tag: &str) -> u64 {
        self.hasher.text(tag.as_bytes()).max(TAGS)
    }
}

impl<K: CacheKey, V: Send + Sync + 'static> Cache<K, V> {
    /// Removes all values with this tag ([`CacheBuilder::tags`](crate::CacheBuilder::tags)), on all nodes, in two writes, however many they
    /// are: those that were asked for or written before it was called are not shown any more, also where their load ends later. L1 of other
    /// nodes shows them for [`max_staleness`](crate::L1::max_staleness) at most, and callers there may join a load that began before. They
    /// take up memory until they are evicted, expire or are written anew.
    ///
    /// Dropping the future leaves open whether it happens.
    ///
    /// # Errors
    /// [`CacheError::NoTags`], and [`CacheError::Cluster`]; the values may still be there then.
    pub async fn invalidate_tag(&self, tag: &str) -> Result<(), CacheError> {
        let marks = self.inner.marks.as_ref().ok_or(CacheError::NoTags)?;
        self.inner.flights.forget_all();
        marks.drop_tag(tag).await?;
        self.inner.flights.forget_all();
        Ok(())
    }

    /// Removes all values, as [`Cache::invalidate_tag`] does those with a tag.
    ///
    /// # Errors
    /// As for [`Cache::invalidate_tag`].
    pub async fn clear(&self) -> Result<(), CacheError> {
        let marks = self.inner.marks.as_ref().ok_or(CacheError::NoTags)?;
        self.inner.flights.forget_all();
        marks.drop_all().await?;
        self.inner.flights.forget_all();
        Ok(())
    }

    /// Lets the time of all values be up, as [`Cache::clear`] does, but so that they may be shown as stale ones are
    /// ([`stale_if_error`](crate::CacheBuilder::stale_if_error)).
    ///
    /// # Errors
    /// As for [`Cache::invalidate_tag`].
    pub async fn expire_all(&self) -> Result<(), CacheError> {
        let marks = self.inner.marks.as_ref().ok_or(CacheError::NoTags)?;
        marks.expire_all().await
    }
}

impl<K: CacheKey, V: Send + Sync + 'static> Inner<K, V> {
    /// What the marks leave of something that the cluster has. Without a stamp it was written by a node that knows of no marks.
    pub(crate) async fn checked(&self, known: Known<V>) -> Result<Option<Known<V>>, CacheError> {
        let standing = match self.subject(&known) {
            Ok((marks, stamp)) => marks.standing(stamp).await?,
            Err(standing) => standing,
        };
        Ok(standing.of(known))
    }

    /// The same, if it can be told without waiting.
    pub(crate) fn checked_at_hand(&self, known: Known<V>) -> Option<Known<V>> {
        let standing = match self.subject(&known) {
            Ok((marks, stamp)) => marks.at_hand(stamp)?,
            Err(standing) => standing,
        };
        standing.of(known)
    }

    /// The marks that an entry is subject to, or else how it stands.
    fn subject<'a>(&'a self, known: &'a Known<V>) -> Result<(&'a Marks<V>, &'a Stamp), Standing> {
        match (&self.marks, &known.stamp) {
            (None, _) => Err(Standing::Holds),
            (Some(marks), Some(stamp)) => Ok((marks, stamp)),
            (Some(_), None) => Err(Standing::Gone),
        }
    }

    pub(crate) async fn checked_found(
        &self,
        found: Option<(Known<V>, Spot)>,
    ) -> Result<Option<(Known<V>, Spot)>, CacheError> {
        let Some((known, spot)) = found else { return Ok(None) };
        Ok(self.checked(known).await?.map(|known| (known, spot)))
    }

    /// What an owner answered to who asks to load.
    pub(crate) async fn checked_asked(
        &self,
        (asked, spot): (Asked<V>, Spot),
    ) -> Result<(Asked<V>, Spot), CacheError> {
        let Asked::Known(known) = asked else { return Ok((asked, spot)) };
        let version = known.version;
        let checked = self.checked(known).await?;
        Ok((checked.map_or(Asked::Unreadable(version), Asked::Known), spot))
    }

    /// The time of the marks, to be taken before something is loaded or written: whatever is marked later does not spare it. `None` if there
    /// are no marks.
    pub(crate) async fn mark_time(&self) -> Result<Option<u64>, CacheError> {
        match &self.marks {
            Some(marks) => marks.now().await.map(Some),
            None => Ok(None),
        }
    }

    /// The stamp of something that was asked for at this time.
    pub(crate) async fn stamp(
        &self,
        at: Option<u64>,
        value: Option<&V>,
        more: &[String],
    ) -> Result<Option<Stamp>, CacheError> {
        let (Some(marks), Some(at)) = (&self.marks, at) else { return Ok(None) };
        let stamp = marks.stamp(at, value, more);
        // So that its marks are there: who looks for them after the next invalidation of something else would take it for older than that.
        marks.standing(&stamp).await?;
        Ok(Some(stamp))
    }

    /// The stamp of something that is written now.
    pub(crate) async fn stamp_now(&self, value: Option<&V>) -> Result<Option<Stamp>, CacheError> {
        let at = self.mark_time().await?;
        self.stamp(at, value, &[]).await
    }
}

fn marks_of(stamp: &Stamp) -> impl Iterator<Item = u64> + '_ {
    [ALL].into_iter().chain(stamp.tags.iter().copied())
}

fn worse(standing: Standing, stamp: &Stamp, (gone, expired): Mark) -> Standing {
    if standing == Standing::Gone || stamp.at < gone {
        Standing::Gone
    } else if standing == Standing::Expired || stamp.at < expired {
        Standing::Expired
    } else {
        Standing::Holds
    }
}

/// Microseconds since 1970.
fn wall() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_mark_counts() {
        let stamp = Stamp { at: 5, tags: [9].into() };
        assert_eq!(marks_of(&stamp).collect::<Vec<_>>(), [ALL, 9]);
        let standing = |marks: &[Mark]| {
            marks.iter().fold(Standing::Holds, |standing, mark| worse(standing, &stamp, *mark))
        };
        assert_eq!(standing(&[(5, 0), (3, 5)]), Standing::Holds);
        assert_eq!(standing(&[(5, 6), (0, 0)]), Standing::Expired);
        assert_eq!(standing(&[(6, 0), (0, 0)]), Standing::Gone);
        assert_eq!(standing(&[(6, 0), (0, 6)]), Standing::Gone);
        assert_eq!(standing(&[(0, 6), (6, 0)]), Standing::Gone);
    }
}
