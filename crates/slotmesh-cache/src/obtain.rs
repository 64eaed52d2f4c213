//! `get_or_load`: what a caller does. It looks into L1, and into the slot if this node owns it; what is left goes through a flight that it joins
//! or begins.

use std::error::Error;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{Either, select};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use crate::cache::Cache;
use crate::chain::Chain;
use crate::error::CacheError;
use crate::flight::{Flight, Joined, Outcome};
use crate::key::CacheKey;
use crate::known::Age;
use crate::load::{Boarded, Load, Loader, erased};
use crate::loaded::Loaded;
use crate::near::Lookup;
use crate::stats::Count;

impl<K: CacheKey, V: Send + Sync + 'static> Cache<K, V> {
    /// Reads a value: from L1, else from the cluster, else from the loader, whose value is then cached. The loader returns an `Option`, of
    /// which `None` says that there is no such value, or a [`Loaded`], which can say more. That there is none is kept for
    /// [`negative_ttl`](crate::CacheBuilder::negative_ttl).
    ///
    /// Callers of one key share one load, on all nodes, which runs as a task on the runtime of the first of them and goes on when they
    /// are gone. All get its outcome, errors and panics included; the next call after a failure loads again, unless
    /// [`error_backoff`](crate::CacheBuilder::error_backoff) says otherwise. The loaded
    /// value is filled into the cluster only if nothing was written or invalidated there since the load began; who comes after an
    /// invalidation begins another load. A second one may also begin when the slot's primary fails, or this process after a while when
    /// another one's loader was lost with it.
    ///
    /// A value whose time is up, or nearly, may be shown while it is loaded anew, or if that fails: see
    /// [`refresh_at`](crate::CacheBuilder::refresh_at), [`stale_while_revalidate`](crate::CacheBuilder::stale_while_revalidate) and
    /// [`stale_if_error`](crate::CacheBuilder::stale_if_error).
    ///
    /// When the cluster does not answer within `cluster_timeout` the loader is called all the same, and its value is
    /// kept in L1 only.
    ///
    /// Cancellation safe: the load goes on, and the next call joins it.
    ///
    /// # Errors
    /// Only those of the load: [`CacheError::Load`], [`CacheError::LoadElsewhere`], [`CacheError::LoadPanicked`], [`CacheError::LoadTimeout`],
    /// [`CacheError::LoadAborted`], [`CacheError::Recursive`] (a loader that asks for its own key; two that ask for each
    /// other's end by `load_timeout`), [`CacheError::TooManyLoads`], [`CacheError::NothingKnown`]; and [`CacheError::TimedOut`] after
    /// [`hard_timeout`](crate::CacheBuilder::hard_timeout). Never the cluster's.
    pub async fn get_or_load<F, R, L, E>(&self, key: &K, loader: F) -> Outcome<V>
    where
        F: FnOnce(K) -> R + Send + 'static,
        R: Future<Output = Result<L, E>> + Send + 'static,
        L: Into<Loaded<V>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.obtain(key, |key| Box::new(move |_| erased(async move { loader(key).await }))).await
    }

    /// As [`Cache::get_or_load`], with a loader that is also told what is known already, however old that is, so that it can ask whether
    /// it was modified and return [`Loaded::not_modified`].
    ///
    /// # Errors
    /// As [`Cache::get_or_load`].
    pub async fn get_or_reload<F, R, L, E>(&self, key: &K, loader: F) -> Outcome<V>
    where
        F: FnOnce(K, Option<Arc<V>>) -> R + Send + 'static,
        R: Future<Output = Result<L, E>> + Send + 'static,
        L: Into<Loaded<V>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let loader = |key| -> Loader<V> {
            Box::new(move |known| erased(async move { loader(key, known).await }))
        };
        self.obtain(key, loader).await
    }

    /// As [`Cache::get_or_load`], with the cache's own [`loader`](crate::CacheBuilder::loader).
    ///
    /// # Errors
    /// As [`Cache::get_or_load`], and [`CacheError::NoLoader`].
    pub async fn load(&self, key: &K) -> Outcome<V> {
        let loader = self.inner.loader.clone().ok_or(CacheError::NoLoader)?;
        self.obtain(key, |key| Box::new(move |_| Box::pin(async move { loader(key).await }))).await
    }

    pub(crate) async fn obtain(&self, key: &K, loader: impl FnOnce(K) -> Loader<V>) -> Outcome<V> {
        let cluster_key = match self.at_hand(key) {
            Ok(value) => return Ok(value),
            Err(cluster_key) => cluster_key,
        };
        let (runtime, outer) = surroundings()?;
        let (flight, own) = self.join(key, &cluster_key, outer.as_ref(), true)?;
        if let Some(load) = own {
            return self.ask(&flight, (load, loader(key.clone())), runtime).await;
        }
        match self.look_again(key, &cluster_key, &flight).await {
            Seen::Still => self.wait_for(&flight).await,
            Seen::Other(value) => Ok(value),
            Seen::Nothing => match self.join(key, &cluster_key, outer.as_ref(), true)? {
                (flight, Some(load)) => {
                    self.ask(&flight, (load, loader(key.clone())), runtime).await
                }
                (flight, None) => self.wait_for(&flight).await,
            },
        }
    }

    /// As the first caller of a load.
    async fn ask(
        &self,
        flight: &Flight<V>,
        (load, loader): (Load<K, V>, Loader<V>),
        runtime: Handle,
    ) -> Outcome<V> {
        let asking = Box::pin(load.ask(loader, runtime.clone()));
        let caller = flight.question.by(asking, runtime);
        let (asked, outcome) = (pin!(caller.ask()), pin!(self.wait_for(flight)));
        match select(asked, outcome).await {
            Either::Left(((), outcome)) => outcome.await,
            Either::Right((outcome, _)) => outcome,
        }
    }

    pub(crate) async fn wait_for(&self, flight: &Flight<V>) -> Outcome<V> {
        let settings = &self.inner.settings;
        let outcome = flight.outcome(settings.soft_timeout);
        match settings.hard_timeout {
            Some(limit) => {
                timeout(limit, outcome).await.unwrap_or(Err(CacheError::TimedOut(limit)))
            }
            None => outcome.await,
        }
    }

    /// Whether what a flight shows in place of an outcome is what the cluster has, for one that came so late that it may not be told of
    /// writes since.
    pub(crate) async fn look_again(
        &self,
        key: &K,
        cluster_key: &Bytes,
        flight: &Flight<V>,
    ) -> Seen<V> {
        let inner = &*self.inner;
        let Some(version) = flight.shown_since(inner.bound()) else { return Seen::Still };
        let asked = Instant::now();
        let found = inner.read_again(key, cluster_key).await;
        match found {
            Ok(Some((known, spot))) if known.age(&inner.settings) == Age::Fresh => {
                inner.keep(key, spot, &known);
                return Seen::Other(known.value);
            }
            Ok(Some((known, _)))
                if known.version == version && known.age(&inner.settings) != Age::Over =>
            {
                flight.is_still(version, asked);
                return Seen::Still;
            }
            _ => {}
        }
        inner.flights.forget(inner.hash(key));
        Seen::Nothing
    }

    /// What can be told without waiting, or else the key as the cluster has it.
    pub(crate) fn at_hand(&self, key: &K) -> Result<Option<Arc<V>>, Bytes> {
        let inner = &self.inner;
        match inner.near_lookup(key) {
            Lookup::Value(value) => return Ok(Some(value)),
            Lookup::Absent => return Ok(None),
            Lookup::Nothing => {}
        }
        let cluster_key = inner.cluster_key(key);
        if let Some((known, spot)) = inner.known_here(key, &cluster_key)
            && known.age(&inner.settings) == Age::Fresh
        {
            inner.counters.add(Count::ClusterHit);
            inner.keep(key, spot, &known);
            return Ok(known.value);
        }
        if inner.is_denied_at_hand(key) {
            return Ok(None);
        }
        Err(cluster_key)
    }

    /// The load of this key that is under way; a new one is for the caller to carry out.
    pub(crate) fn join(
        &self,
        key: &K,
        cluster_key: &Bytes,
        outer: Option<&Chain>,
        counted: bool,
    ) -> Result<Boarded<K, V>, CacheError> {
        let inner = &self.inner;
        let cache = Arc::as_ptr(inner) as usize;
        if outer.is_some_and(|outer| outer.contains(cache, cluster_key)) {
            return Err(CacheError::Recursive);
        }
        match inner.flights.join(inner.hash(key), key, counted)? {
            Joined::Other(flight) => {
                inner.counters.add(Count::Coalesced);
                flight.question.hand_over();
                Ok((flight, None))
            }
            Joined::Own(flight, landing) => {
                let chain = Chain::new(outer.cloned(), cache, cluster_key.clone());
                let (inner, key) = (Arc::clone(inner), key.clone());
                let cluster_key = cluster_key.clone();
                Ok((flight, Some(Load { inner, key, cluster_key, chain, landing })))
            }
        }
    }
}

/// What a late caller finds in place of what a flight shows.
pub(crate) enum Seen<V> {
    /// The same, or nothing was shown, or it was read a moment ago.
    Still,
    /// This.
    Other(Option<Arc<V>>),
    /// Nothing that may be shown.
    Nothing,
}

/// What carries a load, and the load that asks for it.
pub(crate) fn surroundings() -> Result<(Handle, Option<Chain>), CacheError> {
    let runtime = Handle::try_current().map_err(|_| CacheError::LoadAborted)?;
    Ok((runtime, Chain::current()))
}
