use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ahash::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::error::CacheError;
use crate::key::CacheKey;

/// Locks among which the keys under way are spread: enough that callers on a few dozen cores rarely meet.
const SHARDS: usize = 16;

/// What a load comes to, for each of its waiters.
pub(crate) type Outcome<V> = Result<Option<Arc<V>>, CacheError>;

/// A load under way, and those who wait for it. It goes on without any.
pub(crate) struct Flight<V>(watch::Sender<Option<Outcome<V>>>);

impl<V> Flight<V> {
    /// Waits for the outcome. Cancellation safe: the load goes on.
    pub(crate) async fn outcome(&self) -> Outcome<V> {
        let mut outcome = self.0.subscribe();
        match outcome.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            _ => Err(CacheError::LoadAborted),
        }
    }
}

/// The loads of a cache that are under way, by key.
pub(crate) struct Flights<K, V> {
    shards: [Mutex<Shard<K, V>>; SHARDS],
    hasher: RandomState,
    /// Counts those too that were forgotten and have not landed.
    under_way: AtomicUsize,
    max: usize,
}

type Shard<K, V> = HashMap<K, Arc<Flight<V>>, RandomState>;

/// What [`Flights::join`] came to.
pub(crate) enum Joined<K: CacheKey, V> {
    /// Someone else's load.
    Other(Arc<Flight<V>>),
    /// A new one: the caller carries it out.
    Own(Arc<Flight<V>>, Landing<K, V>),
}

impl<K: CacheKey, V> Flights<K, V> {
    pub(crate) fn new(max: usize) -> Self {
        let hasher = RandomState::new();
        let shard = |_| Mutex::new(HashMap::with_hasher(hasher.clone()));
        let shards = std::array::from_fn(shard);
        Self { shards, hasher, under_way: AtomicUsize::new(0), max }
    }

    /// Joins the load of this key, or begins one.
    pub(crate) fn join(self: &Arc<Self>, key: &K) -> Result<Joined<K, V>, CacheError> {
        let mut shard = self.shard(key).lock();
        if let Some(flight) = shard.get(key) {
            return Ok(Joined::Other(Arc::clone(flight)));
        }
        if self.under_way.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            return Err(CacheError::TooManyLoads { max: self.max });
        }
        let flight = Arc::new(Flight(watch::Sender::new(None)));
        shard.insert(key.clone(), Arc::clone(&flight));
        let landing =
            Landing { flights: Arc::clone(self), key: key.clone(), flight: Arc::clone(&flight) };
        Ok(Joined::Own(flight, landing))
    }

    /// Lets nobody join this key's load any more, because what it loads may be outdated: those who wait still get it.
    pub(crate) fn forget(&self, key: &K) {
        let forgotten = self.shard(key).lock().remove(key);
        drop(forgotten);
    }

    fn shard(&self, key: &K) -> &Mutex<Shard<K, V>> {
        // The maps use the hash's top and bottom bits.
        &self.shards[(self.hasher.hash_one(key) >> 32) as usize % SHARDS]
    }
}

/// The duty to end a load: whatever becomes of the task that has it, the waiters get an outcome and the key is free.
pub(crate) struct Landing<K: CacheKey, V> {
    flights: Arc<Flights<K, V>>,
    key: K,
    flight: Arc<Flight<V>>,
}

impl<K: CacheKey, V> Landing<K, V> {
    /// Gives the waiters, and those who join from now on, the outcome.
    pub(crate) fn publish(&self, outcome: Outcome<V>) {
        self.flight.0.send_replace(Some(outcome));
    }
}

impl<K: CacheKey, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        let abort = |outcome: &mut Option<Outcome<V>>| {
            let open = outcome.is_none();
            if open {
                *outcome = Some(Err(CacheError::LoadAborted));
            }
            open
        };
        self.flight.0.send_if_modified(abort);
        let mut shard = self.flights.shard(&self.key).lock();
        // After `forget` the key may have another load by now.
        if shard.get(&self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            shard.remove(&self.key);
        }
        drop(shard);
        self.flights.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(flights: &Arc<Flights<u8, u8>>) -> Landing<u8, u8> {
        match flights.join(&1) {
            Ok(Joined::Own(_, landing)) => landing,
            _ => panic!("not a new flight"),
        }
    }

    fn other(flights: &Arc<Flights<u8, u8>>) -> Arc<Flight<u8>> {
        match flights.join(&1) {
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
        assert_eq!(waiter.outcome().await.unwrap().as_deref(), Some(&5));
        assert_eq!(late.outcome().await.unwrap().as_deref(), Some(&5));
        own(&flights);
    }

    #[tokio::test]
    async fn a_dropped_landing_leaves_nobody_waiting() {
        let flights = Arc::new(Flights::new(9));
        let landing = own(&flights);
        let waiter = other(&flights);
        drop(landing);
        assert!(matches!(waiter.outcome().await, Err(CacheError::LoadAborted)));
    }

    #[test]
    fn a_forgotten_flight_does_not_free_its_successor() {
        let flights = Arc::new(Flights::new(9));
        let first = own(&flights);
        flights.forget(&1);
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
        assert!(matches!(flights.join(&2), Err(CacheError::TooManyLoads { max: 1 })));
        drop(landing);
        assert!(matches!(flights.join(&2), Ok(Joined::Own(..))));
    }
}
