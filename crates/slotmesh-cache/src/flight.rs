use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hashbrown::HashTable;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::error::CacheError;
use crate::key::CacheKey;

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
    /// It has an outcome, which may be followed by a newer one.
    Landed(Outcome<V>),
}

/// A load under way, and those who wait for it. It goes on without any.
pub(crate) struct Flight<V>(watch::Sender<Progress<V>>);

impl<V> Flight<V> {
    /// Waits for the outcome, or after this time for something to show in its place. Cancellation safe: the load goes on.
    pub(crate) async fn outcome(&self, soft_timeout: Option<Duration>) -> Outcome<V> {
        let mut progress = self.0.subscribe();
        let mut is_impatient = false;
        if let Some(patience) = soft_timeout {
            let landed = progress.wait_for(|progress| matches!(progress, Progress::Landed(_)));
            is_impatient = timeout(patience, landed).await.is_err();
        }
        let is_enough = |progress: &Progress<V>| match progress {
            Progress::UnderWay => false,
            Progress::Spare(_) => is_impatient,
            Progress::Landed(_) => true,
        };
        let shown = progress.wait_for(is_enough).await;
        match shown.as_deref() {
            Ok(Progress::Landed(outcome)) => outcome.clone(),
            Ok(Progress::Spare(value)) => Ok(value.clone()),
            _ => Err(CacheError::LoadAborted),
        }
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

    /// Joins the load of this key, or begins one.
    pub(crate) fn join(self: &Arc<Self>, hash: u64, key: &K) -> Result<Joined<K, V>, CacheError> {
        let mut shard = self.shard(hash).lock();
        let is = |other: &UnderWay<K, V>| other.key == *key;
        let found = shard.find_mut(hash, is);
        if let Some(known) = found.as_ref().filter(|known| !known.forgotten) {
            return Ok(Joined::Other(Arc::clone(&known.flight)));
        }
        if self.under_way.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            return Err(CacheError::TooManyLoads { max: self.max });
        }
        let flight = Arc::new(Flight(watch::Sender::new(Progress::UnderWay)));
        let landing = Landing { flights: Arc::clone(self), hash, flight: Arc::clone(&flight) };
        let (key, own) = (key.clone(), Arc::clone(&flight));
        let new = UnderWay { hash, key, flight: own, forgotten: false };
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

/// The duty to end a load: whatever becomes of the task that has it, the waiters get an outcome and the key is free.
pub(crate) struct Landing<K: CacheKey, V> {
    flights: Arc<Flights<K, V>>,
    hash: u64,
    flight: Arc<Flight<V>>,
}

impl<K: CacheKey, V> Landing<K, V> {
    /// Gives the waiters, and those who join from now on, the outcome.
    pub(crate) fn publish(&self, outcome: Outcome<V>) {
        self.flight.0.send_replace(Progress::Landed(outcome));
    }

    /// Gives something to those who will not wait for the outcome, of which there is none yet.
    pub(crate) fn offer(&self, spare: Option<Arc<V>>) {
        self.flight.0.send_replace(Progress::Spare(spare));
    }
}

impl<K: CacheKey, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        let abort = |progress: &mut Progress<V>| {
            let open = !matches!(progress, Progress::Landed(_));
            if open {
                *progress = Progress::Landed(Err(CacheError::LoadAborted));
            }
            open
        };
        self.flight.0.send_if_modified(abort);
        // After `forget` the key may have another load by now.
        self.flights.remove(self.hash, |other| Arc::ptr_eq(&other.flight, &self.flight));
        self.flights.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(flights: &Arc<Flights<u8, u8>>) -> Landing<u8, u8> {
        match flights.join(7, &1) {
            Ok(Joined::Own(_, landing)) => landing,
            _ => panic!("not a new flight"),
        }
    }

    fn other(flights: &Arc<Flights<u8, u8>>) -> Arc<Flight<u8>> {
        match flights.join(7, &1) {
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

    #[test]
    fn there_are_only_so_many() {
        let flights = Arc::new(Flights::<u8, u8>::new(1));
        let landing = own(&flights);
        assert!(matches!(flights.join(8, &2), Err(CacheError::TooManyLoads { max: 1 })));
        drop(landing);
        assert!(matches!(flights.join(8, &2), Ok(Joined::Own(..))));
    }
}
