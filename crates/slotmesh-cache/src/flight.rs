use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashTable;
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
        let flight = Arc::new(Flight(watch::Sender::new(None)));
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
