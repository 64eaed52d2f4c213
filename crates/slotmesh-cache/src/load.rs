//! `get_or_load`: one load per key at a time, in a task of the cache's own; in this process by a flight that all callers join, in the
//! cluster by a lease of the slot's primary, for which other nodes' flights wait.
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
use std::time::Duration;

use bytes::Bytes;
use slotmesh_node::{Condition, LoadEnd, LoadTerms};
use slotmesh_slots::Slot;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use crate::cache::{Asked, Cache, Inner, Spot};
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
    /// Callers of one key share one load, on all nodes, which runs as a task on the runtime of the first of them and goes on when they
    /// are gone. All get its outcome, errors and panics included; the next call after a failure loads again, unless
    /// [`error_backoff`](crate::CacheBuilder::error_backoff) says otherwise. The loaded
    /// value is filled into the cluster only if nothing was written or invalidated there since the load began; who comes after an
    /// invalidation begins another load. A second one may also begin when the slot's primary fails, or this process after a while when
    /// another one's loader was lost with it.
    ///
    /// When the cluster does not answer within `cluster_timeout` the loader is called all the same, and its value is
    /// kept in L1 only.
    ///
    /// Cancellation safe: the load goes on, and the next call joins it.
    ///
    /// # Errors
    /// Only those of the load: [`CacheError::Load`], [`CacheError::LoadElsewhere`], [`CacheError::LoadPanicked`], [`CacheError::LoadTimeout`],
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

/// How long a question waits for another node's load before it is asked again: so long it may not be noticed that nobody answers.
const PATIENCE: Duration = Duration::from_millis(100);

/// The right to load.
struct Turn {
    /// On which the value may be put; `None` where the cluster could not be asked.
    condition: Option<Condition>,
    spot: Spot,
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
        let token = rand::random();
        let turn = match self.turn(token).await {
            Ok(turn) => turn,
            Err(outcome) => return self.landing.publish(outcome),
        };
        inner.counters.add(Count::Miss);
        let outcome = self.load(loader).await;
        let succeeded = if outcome.is_ok() { Count::LoadOk } else { Count::LoadFailed };
        inner.counters.add(succeeded);
        // Nobody waits for the fill. The flight lasts until it is done: whoever comes meanwhile is served by it, and would
        // find nothing in the cluster yet.
        self.landing.publish(outcome.clone());
        let end = match outcome {
            Ok(Some(value)) => {
                let key = self.cluster_key.clone();
                match inner.fill(&self.key, key, value, turn.spot, turn.condition).await {
                    true => return,
                    false => LoadEnd::Released,
                }
            }
            Ok(None) => LoadEnd::Nothing,
            Err(error) => {
                let (message, retry_after) =
                    (error.to_string().into(), inner.settings.error_backoff);
                LoadEnd::Failed { message, retry_after }
            }
        };
        if turn.condition.is_some() {
            inner.end_load(self.cluster_key.clone(), token, end).await;
        }
    }

    /// Waits until the cluster has the value, or lets this node load it, or cannot be asked.
    async fn turn(&self, token: u64) -> Result<Turn, Outcome<V>> {
        let inner = &*self.inner;
        let (began, limit) = (Instant::now(), inner.settings.load_timeout);
        let slot = Slot::of_key(&self.cluster_key);
        let mut terms = LoadTerms {
            node: inner.node.id(),
            token,
            lasts: limit + inner.settings.cluster_timeout,
            patience: PATIENCE,
            stale: None,
        };
        loop {
            let ticket = inner.ticket(&self.key, slot);
            let asked = inner.ask_to_load(&self.key, &self.cluster_key, ticket, terms).await;
            let (asked, spot) = match asked {
                Ok(asked) => asked,
                Err(error) => {
                    tracing::debug!(%error, "loading without the cluster");
                    let now = inner.ticket(&self.key, slot);
                    let spot = now.map(|ticket| (ticket, Cover::Nobody));
                    return Ok(Turn { condition: None, spot });
                }
            };
            match asked {
                Asked::Value(value) => return Err(Ok(Some(value))),
                Asked::Unreadable(version) => terms.stale = Some(version),
                Asked::MayLoad(slot) => {
                    let since = Condition::FillSince(slot);
                    let condition = Some(terms.stale.map_or(since, Condition::Version));
                    return Ok(Turn { condition, spot });
                }
                Asked::Ended(LoadEnd::Nothing) => {
                    inner.counters.add(Count::Miss);
                    return Err(Ok(None));
                }
                Asked::Ended(LoadEnd::Failed { message, .. }) => {
                    let message = String::from_utf8_lossy(&message);
                    return Err(Err(CacheError::LoadElsewhere(message.into())));
                }
                Asked::Ended(LoadEnd::Released) => {}
            }
            if began.elapsed() >= limit {
                return Err(Err(CacheError::LoadTimeout(limit)));
            }
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
