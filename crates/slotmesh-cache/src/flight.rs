use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hashbrown::HashTable;
use parking_lot::Mutex;
use slotmesh_slots::Version;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::error::CacheError;
use crate::key::CacheKey;
use crate::question::Question;

/// Locks among which the keys under way are spread: enough that callers on a few dozen cores rarely meet.
const SHARDS: usize = 16;

/// What a load comes to, for each of its waiters.
pub(crate) type Outcome<V> = Result<Option<Arc<V>>, CacheError>;

/// How far a load is.
enum Progress<V> {
    /// Nothing to show.
    UnderWay,
    /// Under way, and there is this to show to who will not wait any longer.
    Spare(Option<Arc<V>>),
    /// It is under way or rests, and this is shown meanwhile.
    Shown(Old<V>),
    /// It has an outcome.
    Landed(Outcome<V>),
}

/// Something that is to be loaded anew, as the cluster had it a while ago.
pub(crate) struct Old<V> {
    pub(crate) value: Option<Arc<V>>,
    pub(crate) version: Version,
    /// Before it was asked for.
    pub(crate) asked: Instant,
}

impl<V> Clone for Old<V> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), version: self.version, asked: self.asked }
    }
}

/// A load under way, and those who wait for it. It goes on without any.
pub(crate) struct Flight<V> {
    progress: watch::Sender<Progress<V>>,
    /// As long as a caller asks it.
    pub(crate) question: Question,
}

impl<V> Flight<V> {
    fn new() -> Self {
        Self { progress: watch::Sender::new(Progress::UnderWay), question: Question::default() }
    }

    /// Waits for the outcome, or after this time for something to show in its place. Cancellation safe: the load goes on.
    pub(crate) async fn outcome(&self, soft_timeout: Option<Duration>) -> Outcome<V> {
        let mut progress = self.progress.subscribe();
        let mut is_impatient = false;
        if let Some(patience) = soft_timeout {
            let is_over = |it: &Progress<V>| matches!(it, Progress::Shown(_) | Progress::Landed(_));
            let landed = progress.wait_for(is_over);
            is_impatient = timeout(patience, landed).await.is_err();
        }
        let is_enough = |progress: &Progress<V>| match progress {
            Progress::UnderWay => false,
            Progress::Spare(_) => is_impatient,
            Progress::Shown(_) | Progress::Landed(_) => true,
        };
        let shown = progress.wait_for(is_enough).await;
        match shown.as_deref() {
            Ok(Progress::Landed(outcome)) => outcome.clone(),
            Ok(Progress::Spare(value) | Progress::Shown(Old { value, .. })) => Ok(value.clone()),
            _ => Err(CacheError::LoadAborted),
        }
    }

    /// The version of what is shown in place of an outcome, if that was asked for longer ago than this.
    pub(crate) fn shown_since(&self, bound: Duration) -> Option<Version> {
        match &*self.progress.borrow() {
            Progress::Shown(old) if old.asked.elapsed() >= bound => Some(old.version),
            _ => None,
        }
    }

    /// What is shown was the same when it was asked for at this time.
    pub(crate) fn is_still(&self, version: Version, asked: Instant) {
        self.progress.send_if_modified(|progress| {
            if let Progress::Shown(old) = progress
                && old.version == version
            {
                old.asked = old.asked.max(asked);
            }
            // Nobody waits for that.
            false
        });
    }
}

/// The loads of a cache that are under way, by their key's hash and key.
pub(crate) struct Flights<K, V> {
    shards: [Mutex<Shard<K, V>>; SHARDS],
    /// Counts those too that were forgotten and have not landed.
    under_way: AtomicUsize,
    max: usize,
}

type Shard<K, V> = HashTable<UnderWay<K, V>>;

struct UnderWay<K, V> {
    hash: u64,
    key: K,
    flight: Arc<Flight<V>>,
    /// Whether what it loads may be outdated, so that nobody joins it any more.
    forgotten: bool,
    /// It has landed, and shows something old until then: it is not to be tried again before.
    rests_until: Option<Instant>,
}

impl<K, V> UnderWay<K, V> {
    fn is_over(&self, now: Instant) -> bool {
        self.forgotten || self.rests_until.is_some_and(|until| until <= now)
    }
}

/// What [`Flights::join`] came to.
pub(crate) enum Joined<K: CacheKey, V> {
    /// Someone else's load.
    Other(Arc<Flight<V>>),
    /// A new one: the caller carries it out.
    Own(Arc<Flight<V>>, Landing<K, V>),
}

impl<K: CacheKey, V> Flights<K, V> {
    pub(crate) fn new(max: usize) -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        Self { shards, under_way: AtomicUsize::new(0), max }
    }

    /// Joins the load of this key, or begins one, `counted` among those that there may be.
    pub(crate) fn join(
        self: &Arc<Self>,
        hash: u64,
        key: &K,
        counted: bool,
    ) -> Result<Joined<K, V>, CacheError> {
        let now = Instant::now();
        // Dropped after the lock.
        let mut rested = Vec::new();
        let mut shard = self.shard(hash).lock();
        take_rested(&mut shard, now, &mut rested);
        let is = |other: &UnderWay<K, V>| other.key == *key;
        let found = shard.find_mut(hash, is);
        if let Some(known) = found.as_ref().filter(|known| !known.is_over(now)) {
            return Ok(Joined::Other(Arc::clone(&known.flight)));
        }
        if counted && self.under_way.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            return Err(CacheError::TooManyLoads { max: self.max });
        }
        let flight = Arc::new(Flight::new());
        let (flights, own) = (Arc::clone(self), Arc::clone(&flight));
        let landing = Landing { flights, hash, flight: own, counted, rests: false };
        let (key, own) = (key.clone(), Arc::clone(&flight));
        let new = UnderWay { hash, key, flight: own, forgotten: false, rests_until: None };
        let replaced = match found {
            Some(known) => Some(std::mem::replace(known, new)),
            None => {
                shard.insert_unique(hash, new, |other| other.hash);
                None
            }
        };
        drop(shard);
        drop(replaced);
        Ok(Joined::Own(flight, landing))
    }

    /// Lets nobody join the load of a key with this hash any more, because what it loads may be outdated: those who wait still get it.
    /// Drops nothing, for it may be called under a slot's lock.
    pub(crate) fn forget(&self, hash: u64) {
        if let Some(known) = self.shard(hash).lock().find_mut(hash, |other| other.hash == hash) {
            known.forgotten = true;
        }
    }

    /// As [`Flights::forget`], of all keys.
    pub(crate) fn forget_all(&self) {
        for shard in &self.shards {
            shard.lock().iter_mut().for_each(|known| known.forgotten = true);
        }
    }

    fn remove(&self, hash: u64, is: impl FnMut(&UnderWay<K, V>) -> bool) {
        let mut shard = self.shard(hash).lock();
        if let Ok(found) = shard.find_entry(hash, is) {
            let (removed, _) = found.remove();
            drop(shard);
            drop(removed);
        }
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard<K, V>> {
        // The tables use the hash's top and bottom bits.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }
}

/// Those that have rested long enough and were not asked for again go before the table grows for them.
fn take_rested<K, V>(shard: &mut Shard<K, V>, now: Instant, rested: &mut Vec<UnderWay<K, V>>) {
    if !shard.is_empty() && shard.len() == shard.capacity() {
        let over = |it: &mut UnderWay<K, V>| it.rests_until.is_some() && it.is_over(now);
        rested.extend(shard.extract_if(over));
    }
}

/// The duty to end a load: whatever becomes of the task that has it, the waiters get an outcome and the key is free.
pub(crate) struct Landing<K: CacheKey, V> {
    flights: Arc<Flights<K, V>>,
    hash: u64,
    flight: Arc<Flight<V>>,
    counted: bool,
    rests: bool,
}

impl<K: CacheKey, V> Landing<K, V> {
    /// Gives the waiters, and those who join from now on, the outcome.
    pub(crate) fn publish(&self, outcome: Outcome<V>) {
        self.flight.progress.send_replace(Progress::Landed(outcome));
    }

    /// Shows something old, until there is an outcome.
    pub(crate) fn show(&self, old: Old<V>) {
        self.flight.progress.send_replace(Progress::Shown(old));
    }

    /// Ends, and lets something old be shown for so long before anybody tries again.
    pub(crate) fn rest(mut self, old: Old<V>, pause: Duration) {
        self.show(old);
        let mut shard = self.flights.shard(self.hash).lock();
        let is = |other: &UnderWay<K, V>| Arc::ptr_eq(&other.flight, &self.flight);
        if let Some(known) = shard.find_mut(self.hash, is) {
            known.rests_until = Instant::now().checked_add(pause);
        }
        drop(shard);
        self.rests = true;
    }

    /// Gives something to those who will not wait for the outcome, of which there is none yet.
    pub(crate) fn offer(&self, spare: Option<Arc<V>>) {
        self.flight.progress.send_replace(Progress::Spare(spare));
    }
}

impl<K: CacheKey, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        let abort = |progress: &mut Progress<V>| {
            let open = matches!(progress, Progress::UnderWay | Progress::Spare(_));
            if open {
                *progress = Progress::Landed(Err(CacheError::LoadAborted));
            }
            open
        };
        self.flight.progress.send_if_modified(abort);
        if !self.rests {
            // After `forget` the key may have another load by now.
            self.flights.remove(self.hash, |other| Arc::ptr_eq(&other.flight, &self.flight));
        }
        self.flights.under_way.fetch_sub(usize::from(self.counted), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(flights: &Arc<Flights<u8, u8>>) -> Landing<u8, u8> {
        match flights.join(7, &1, true) {
            Ok(Joined::Own(_, landing)) => landing,
            _ => panic!("not a new flight"),
        }
    }

    fn other(flights: &Arc<Flights<u8, u8>>) -> Arc<Flight<u8>> {
        match flights.join(7, &1, true) {
            Ok(Joined::Other(flight)) => flight,
            _ => panic!("not a flight to join"),
        }
    }

    #[tokio::test]
    async fn a_flight_is_shared_until_it_lands() {
        let flights = Arc::new(Flights::new(9));
        let landing = own(&flights);
        let waiter = other(&flights);
        landing.publish(Ok(Some(Arc::new(5))));
        let late = other(&flights);
        drop(landing);
        assert_eq!(waiter.outcome(None).await.unwrap().as_deref(), Some(&5));
        assert_eq!(late.outcome(None).await.unwrap().as_deref(), Some(&5));
        own(&flights);
    }

    #[tokio::test]
    async fn a_dropped_landing_leaves_nobody_waiting() {
        let flights = Arc::new(Flights::new(9));
        let landing = own(&flights);
        let waiter = other(&flights);
        drop(landing);
        assert!(matches!(waiter.outcome(None).await, Err(CacheError::LoadAborted)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_spare_is_for_those_who_have_waited_long_enough() {
        let flights = Arc::new(Flights::new(9));
        let landing = own(&flights);
        let waiter = other(&flights);
        let (soft, patience) = (Duration::from_millis(10), Duration::from_secs(1));
        let outcome = |soft| timeout(patience, waiter.outcome(soft));
        assert!(outcome(Some(soft)).await.is_err(), "there is none");
        landing.offer(Some(Arc::new(4)));
        assert_eq!(outcome(Some(soft)).await.unwrap().unwrap().as_deref(), Some(&4));
        assert!(outcome(None).await.is_err(), "it waits for the outcome");
        landing.publish(Ok(None));
        assert_eq!(outcome(Some(soft)).await.unwrap().unwrap(), None);
    }

    #[test]
    fn a_forgotten_flight_does_not_free_its_successor() {
        let flights = Arc::new(Flights::new(9));
        let first = own(&flights);
        flights.forget(7);
        let second = own(&flights);
        drop(first);
        other(&flights);
        drop(second);
        own(&flights);
    }

    #[tokio::test(start_paused = true)]
    async fn who_rests_is_joined_for_a_while_and_then_tried_again() {
        let flights = Arc::new(Flights::new(1));
        let old = |value| {
            let version = Version::default();
            Old { value: Some(Arc::new(value)), version, asked: Instant::now() }
        };
        let pause = Duration::from_secs(1);
        own(&flights).rest(old(4), pause);
        tokio::time::advance(pause / 2).await;
        let resting = other(&flights);
        assert_eq!(resting.outcome(None).await.unwrap().as_deref(), Some(&4));
        assert_eq!(resting.shown_since(pause / 2), Some(Version::default()));
        resting.is_still(Version::default(), Instant::now());
        assert_eq!(resting.shown_since(pause / 2), None);
        tokio::time::advance(pause / 2).await;
        own(&flights).rest(old(5), pause);
        // Nobody joins it any more after a write.
        flights.forget(7);
        drop(own(&flights));
        // Those that nobody asks for again do not pile up.
        for hash in 0..100_000 {
            match flights.join(hash, &(hash as u8), true) {
                Ok(Joined::Own(_, landing)) => landing.rest(old(6), pause),
                _ => panic!("nobody has this one"),
            }
            tokio::time::advance(pause / 100).await;
        }
        let resting: usize = flights.shards.iter().map(|shard| shard.lock().len()).sum();
        assert!(resting < 2_000, "{resting}");
    }

    #[test]
    fn there_are_only_so_many() {
        let flights = Arc::new(Flights::<u8, u8>::new(1));
        let landing = own(&flights);
        assert!(matches!(flights.join(8, &2, true), Err(CacheError::TooManyLoads { max: 1 })));
        assert!(matches!(flights.join(9, &3, false), Ok(Joined::Own(..))), "part of another");
        drop(landing);
        assert!(matches!(flights.join(8, &2, true), Ok(Joined::Own(..))));
    }
}
