//! `get_or_load`: one load per key and process at a time, in a task of the cache's own.
//!
//! The caller looks into L1, and into the slot if this node owns it. What is left goes through a flight: a spawned task
//! that asks the cluster, calls the loader, gives the outcome to all who wait, and fills the cluster. Callers only wait
//! for the outcome, so their deadlines cancel nothing, and a caller that comes late finds the load it needs under way.

use std::any::Any;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use slotmesh_slots::Slot;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::cache::{Cache, Found, Inner};
use crate::chain::Chain;
use crate::error::CacheError;
use crate::flight::{Joined, Landing, Outcome};
use crate::key::CacheKey;
use crate::near::Cover;
use crate::stats::Count;

/// The caller's loader, with its types erased: only what is done before it differs between loaders.
type Loader<V> = Pin<Box<dyn Future<Output = Result<Option<V>, CacheError>> + Send>>;

impl<K: CacheKey, V: Send + Sync + 'static> Cache<K, V> {
    /// Reads a value: from L1, else from the cluster, else from the loader, whose value is then cached. `None` from the
    /// loader says that there is no such value; that is not cached, so the next call loads again.
    ///
    /// Callers of one key share one load, which runs as a task on the runtime of the first of them and goes on when they
    /// are gone. All get its outcome, errors and panics included; the next call after a failure loads again. The loaded
    /// value is filled into the cluster only if nothing was written or invalidated there since the load began.
    ///
    /// When the cluster does not answer within `cluster_timeout` the loader is called all the same, and its value is
    /// kept in L1 only. Other nodes may load the same key at the same time.
    ///
    /// Cancellation safe: the load goes on, and the next call joins it.
    ///
    /// # Errors
    /// Only those of the load: [`CacheError::Load`], [`CacheError::LoadPanicked`], [`CacheError::LoadTimeout`],
    /// [`CacheError::LoadAborted`], [`CacheError::Recursive`] (a loader that asks for its own key; two that ask for each
    /// other's end by `load_timeout`), [`CacheError::TooManyLoads`]. Never the cluster's.
    pub async fn get_or_load<F, R, E>(&self, key: &K, loader: F) -> Outcome<V>
    where
        F: FnOnce(K) -> R + Send + 'static,
        R: Future<Output = Result<Option<V>, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let inner = &self.inner;
        if let Some(value) = inner.near_value(key) {
            return Ok(Some(value));
        }
        let cluster_key = inner.cluster_key(key);
        if let Some(value) = inner.read_here(key, &cluster_key) {
            return Ok(Some(value));
        }
        let outer = Chain::current();
        let cache = Arc::as_ptr(inner) as usize;
        if outer.as_ref().is_some_and(|outer| outer.contains(cache, &cluster_key)) {
            return Err(CacheError::Recursive);
        }
        let runtime = Handle::try_current().map_err(|_| CacheError::LoadAborted)?;
        let flight = match inner.flights.join(inner.hash(key), key)? {
            Joined::Other(flight) => {
                inner.counters.add(Count::Coalesced);
                flight
            }
            Joined::Own(flight, landing) => {
                let chain = Chain::new(outer, cache, cluster_key.clone());
                let load = Load {
                    inner: Arc::clone(inner),
                    key: key.clone(),
                    cluster_key,
                    chain,
                    landing,
                };
                let key = key.clone();
                let loader = async move {
                    loader(key).await.map_err(|error| CacheError::Load(Arc::from(error.into())))
                };
                runtime.spawn(load.run(Box::pin(loader)));
                flight
            }
        };
        flight.outcome().await
    }
}

/// A load under way.
struct Load<K: CacheKey, V> {
    inner: Arc<Inner<K, V>>,
    key: K,
    cluster_key: Bytes,
    chain: Chain,
    /// Last, so that it ends the flight after everything else is gone.
    landing: Landing<K, V>,
}

impl<K: CacheKey, V: Send + Sync + 'static> Load<K, V> {
    async fn run(self, loader: Loader<V>) {
        let inner = &*self.inner;
        let slot = Slot::of_key(&self.cluster_key);
        let ticket = inner.ticket(&self.key, slot);
        let timeout = Some(inner.settings.cluster_timeout);
        let (condition, spot) =
            match inner.read(&self.key, &self.cluster_key, ticket, timeout).await {
                Ok((Found::Value(value), _)) => return self.landing.publish(Ok(Some(value))),
                Ok((Found::Nothing(condition), spot)) => (Some(condition), spot),
                Err(error) => {
                    tracing::debug!(%error, "loading without the cluster");
                    let now = inner.ticket(&self.key, slot);
                    (None, now.map(|ticket| (ticket, Cover::Nobody)))
                }
            };
        inner.counters.add(Count::Miss);
        let outcome = self.load(loader).await;
        let succeeded = if outcome.is_ok() { Count::LoadOk } else { Count::LoadFailed };
        inner.counters.add(succeeded);
        // Nobody waits for the fill. The flight lasts until it is done: whoever comes meanwhile is served by it, and would
        // find nothing in the cluster yet.
        self.landing.publish(outcome.clone());
        if let Ok(Some(value)) = outcome {
            inner.fill(&self.key, self.cluster_key.clone(), value, spot, condition).await;
        }
    }

    /// The loader's outcome, within its time and on its turn.
    async fn load(&self, loader: Loader<V>) -> Outcome<V> {
        let inner = &*self.inner;
        let work = async {
            // A loader inside of another runs on the other's turn, or all turns could be held by those who wait for one.
            let _turn = match self.chain.is_nested() {
                true => None,
                false => Some(inner.turns.acquire().await.map_err(|_| CacheError::LoadAborted)?),
            };
            inner.counters.add(Count::LoadStarted);
            self.chain.clone().scope(caught(loader)).await
        };
        match timeout(inner.settings.load_timeout, work).await {
            Ok(loaded) => loaded.map(|value| value.map(Arc::new)),
            Err(_) => Err(CacheError::LoadTimeout(inner.settings.load_timeout)),
        }
    }
}

/// Turns a panic of the loader into an error. The loader is not polled again after one and its state is not looked at.
async fn caught<V>(mut loader: Loader<V>) -> Result<Option<V>, CacheError> {
    poll_fn(move |context| {
        let poll = AssertUnwindSafe(|| loader.as_mut().poll(context));
        catch_unwind(poll).unwrap_or_else(|panic| {
            Poll::Ready(Err(CacheError::LoadPanicked(message(&*panic).into())))
        })
    })
    .await
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
