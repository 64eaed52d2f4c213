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
use crate::flight::{Flight, Joined, Landing, Outcome};
use crate::key::CacheKey;
use crate::known::{Age, Known, Lifetime};
use crate::loaded::{Loaded, What};
use crate::near::{Cover, Lookup};
use crate::stats::Count;

/// A loader at work, with its types erased: only what is done before it differs between loaders.
pub(crate) type Loading<V> = Pin<Box<dyn Future<Output = Result<Loaded<V>, CacheError>> + Send>>;

/// A loader, which is told what is known already.
type Loader<V> = Box<dyn FnOnce(Option<Arc<V>>) -> Loading<V> + Send>;

/// The loader of a cache.
pub(crate) type OwnLoader<K, V> = Arc<dyn Fn(K) -> Loading<V> + Send + Sync>;

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

    async fn obtain(&self, key: &K, loader: impl FnOnce(K) -> Loader<V>) -> Outcome<V> {
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
        let flight = self.join(key, cluster_key, loader)?;
        let outcome = flight.outcome(inner.settings.soft_timeout);
        match inner.settings.hard_timeout {
            Some(limit) => {
                timeout(limit, outcome).await.unwrap_or(Err(CacheError::TimedOut(limit)))
            }
            None => outcome.await,
        }
    }

    /// The load of this key that is under way, or a new one.
    fn join(
        &self,
        key: &K,
        cluster_key: Bytes,
        loader: impl FnOnce(K) -> Loader<V>,
    ) -> Result<Arc<Flight<V>>, CacheError> {
        let inner = &self.inner;
        let outer = Chain::current();
        let cache = Arc::as_ptr(inner) as usize;
        if outer.as_ref().is_some_and(|outer| outer.contains(cache, &cluster_key)) {
            return Err(CacheError::Recursive);
        }
        let runtime = Handle::try_current().map_err(|_| CacheError::LoadAborted)?;
        match inner.flights.join(inner.hash(key), key)? {
            Joined::Other(flight) => {
                inner.counters.add(Count::Coalesced);
                Ok(flight)
            }
            Joined::Own(flight, landing) => {
                let chain = Chain::new(outer, cache, cluster_key.clone());
                let (inner, key) = (Arc::clone(inner), key.clone());
                let loader = loader(key.clone());
                runtime.spawn(Load { inner, key, cluster_key, chain, landing }.run(loader));
                Ok(flight)
            }
        }
    }
}

/// A loader's future as all loaders' are. Nothing of it runs before it is polled.
pub(crate) fn erased<V, L, E>(
    loading: impl Future<Output = Result<L, E>> + Send + 'static,
) -> Loading<V>
where
    L: Into<Loaded<V>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    Box::pin(async move {
        match loading.await {
            Ok(loaded) => Ok(loaded.into()),
            Err(error) => Err(CacheError::Load(Arc::from(error.into()))),
        }
    })
}

/// How long a question waits for another node's load before it is asked again: so long it may not be noticed that nobody answers.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long what is not fresh is shown without asking again, while another node loads it.
const RECHECK: Duration = Duration::from_secs(1);

/// What waiting for a turn comes to.
enum Turn<V> {
    Load(MayLoad<V>),
    /// There is nothing to load: somebody did, or it is not to be tried.
    Over(Outcome<V>),
}

/// The right to load.
struct MayLoad<V> {
    /// On which the value may be put; `None` where the cluster could not be asked.
    condition: Option<Condition>,
    spot: Spot,
    old: Option<Old<V>>,
}

/// What the cluster had when it was asked.
struct Old<V> {
    known: Known<V>,
    age: Age,
    spot: Spot,
    /// Before it was asked for.
    asked: Instant,
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
        let token = rand::random();
        match self.turn(token).await {
            Turn::Load(turn) => self.take_turn(turn, token, loader).await,
            Turn::Over(outcome) => self.landing.publish(outcome),
        }
    }

    /// Waits until the cluster has the value, or lets this node load it, or cannot be asked.
    async fn turn(&self, token: u64) -> Turn<V> {
        let inner = &*self.inner;
        let (began, limit) = (Instant::now(), inner.settings.load_timeout);
        let slot = Slot::of_key(&self.cluster_key);
        let mut old = None;
        let mut terms = LoadTerms {
            node: inner.node.id(),
            token,
            lasts: limit + inner.settings.cluster_timeout,
            patience: PATIENCE,
            stale: None,
        };
        loop {
            let (ticket, asked) = (inner.ticket(&self.key, slot), Instant::now());
            let (found, spot) = match inner.ask_to_load(&self.cluster_key, ticket, terms).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::debug!(%error, "loading without the cluster");
                    if old.is_none()
                        && let Some(spare) = inner.near_spare(&self.key)
                    {
                        self.landing.offer(spare);
                    }
                    let now = inner.ticket(&self.key, slot);
                    let spot = now.map(|ticket| (ticket, Cover::Nobody));
                    return Turn::Load(MayLoad { condition: None, spot, old });
                }
            };
            match found {
                Asked::Known(known) => {
                    let seen = Old { age: known.age(&inner.settings), known, spot, asked };
                    self.show(&seen);
                    if seen.age == Age::Fresh {
                        return Turn::Over(Ok(seen.known.value));
                    }
                    terms.stale = Some(seen.known.version);
                    old = Some(seen);
                }
                Asked::Unreadable(version) => terms.stale = Some(version),
                Asked::MayLoad(slot) => {
                    let since = Condition::FillSince(slot);
                    let condition = Some(terms.stale.map_or(since, Condition::Version));
                    return Turn::Load(MayLoad { condition, spot, old });
                }
                Asked::Ended(LoadEnd::Nothing) => {
                    inner.counters.add(Count::Miss);
                    return Turn::Over(Ok(None));
                }
                Asked::Ended(LoadEnd::Failed { message, retry_after }) => {
                    let message = String::from_utf8_lossy(&message);
                    let error = CacheError::LoadElsewhere(message.into());
                    return Turn::Over(self.in_place_of(error, old, retry_after));
                }
                Asked::Ended(LoadEnd::Released) => match old.take() {
                    Some(old) if old.age.is_shown() => {
                        self.keep_showing(&old, RECHECK);
                        return Turn::Over(Ok(old.known.value));
                    }
                    spare => old = spare,
                },
            }
            if began.elapsed() >= limit {
                let error = CacheError::LoadTimeout(limit);
                return Turn::Over(self.in_place_of(error, old, Duration::ZERO));
            }
        }
    }

    async fn take_turn(self, turn: MayLoad<V>, token: u64, loader: Loader<V>) {
        let inner = &*self.inner;
        let shown = turn.old.as_ref().is_some_and(|old| old.age.is_shown());
        inner.counters.add(if shown { Count::Refresh } else { Count::Miss });
        let known = turn.old.as_ref().and_then(|old| old.known.value.clone());
        let loaded = self.load(loader, known.clone()).await;
        let loaded = loaded.and_then(|loaded| {
            let value = match loaded.what {
                What::Value(value) => Some(Arc::new(value)),
                What::Missing => None,
                What::NotModified => Some(known.ok_or(CacheError::NothingKnown)?),
            };
            Ok((value, loaded.ttl, loaded.stored))
        });
        inner.counters.add(if loaded.is_ok() { Count::LoadOk } else { Count::LoadFailed });
        let end = match loaded {
            // Nobody waits for what follows. The flight lasts until it is done: whoever comes meanwhile is served by it, and would
            // find nothing in the cluster yet.
            Ok((value, ttl, stored)) => {
                self.landing.publish(Ok(value.clone()));
                let is_none = value.is_none();
                let lifetime = self.lifetime(is_none, ttl).filter(|_| stored);
                if let Some(lifetime) = lifetime {
                    let (key, whence) = (self.cluster_key.clone(), (turn.spot, turn.condition));
                    if inner.fill(&self.key, key, value, &lifetime, whence).await {
                        return;
                    }
                }
                if is_none { LoadEnd::Nothing } else { LoadEnd::Released }
            }
            Err(error) => {
                let shows_old = turn.old.as_ref().is_some_and(|old| old.age != Age::Over);
                let retry_after = inner.settings.retry_after(shows_old);
                let message = error.to_string().into();
                self.landing.publish(self.in_place_of(error, turn.old, retry_after));
                LoadEnd::Failed { message, retry_after }
            }
        };
        let is_gone = end == LoadEnd::Nothing;
        if turn.condition.is_some() {
            inner.end_load(self.cluster_key.clone(), token, end).await;
        }
        if is_gone && let Some(Condition::Version(old)) = turn.condition {
            inner.remove_old(self.cluster_key.clone(), old).await;
        }
    }

    /// How what was loaded is written; `None` if it is not.
    fn lifetime(&self, is_none: bool, ttl: Option<Duration>) -> Option<Lifetime> {
        let settings = &self.inner.settings;
        if ttl.is_some_and(|ttl| ttl.is_zero()) {
            return None;
        }
        match is_none {
            true => ttl.or(settings.negative_ttl).map(|ttl| Lifetime::of_nothing(ttl, settings)),
            false => Some(Lifetime::new(ttl.or(settings.ttl), settings)),
        }
    }

    /// Shows what the cluster has to those who wait, at once or when they will not wait any longer.
    fn show(&self, seen: &Old<V>) {
        let inner = &*self.inner;
        let value = || seen.known.value.clone();
        match seen.age {
            Age::Fresh => {
                inner.counters.add(Count::ClusterHit);
                inner.keep(&self.key, seen.spot, &seen.known);
            }
            Age::Due => self.landing.publish(Ok(value())),
            Age::Stale => {
                inner.counters.add(Count::StaleServed);
                self.landing.publish(Ok(value()));
            }
            Age::Spare => self.landing.offer(value()),
            Age::Over => {}
        }
    }

    /// What is shown where loading failed, for so long without trying again; the error if there is nothing.
    fn in_place_of(&self, error: CacheError, old: Option<Old<V>>, pause: Duration) -> Outcome<V> {
        let old = match old {
            Some(old) if old.age != Age::Over => old,
            // Where the cluster was not asked.
            _ => match self.inner.near_spare(&self.key) {
                Some(spare) => {
                    self.inner.counters.add(Count::StaleServed);
                    return Ok(spare);
                }
                None => return Err(error),
            },
        };
        if old.age == Age::Spare {
            self.inner.counters.add(Count::StaleServed);
        }
        tracing::debug!(%error, "showing what is known in place of a load");
        self.keep_showing(&old, pause);
        Ok(old.known.value)
    }

    /// Lets L1 show something old for so long from now on.
    fn keep_showing(&self, old: &Old<V>, pause: Duration) {
        let settings = &self.inner.settings;
        let fresh = old.known.shown(old.asked.elapsed() + pause, settings);
        self.inner.near_fill(&self.key, old.spot, fresh);
    }

    /// What the loader finds, within its time and on its turn.
    async fn load(
        &self,
        loader: Loader<V>,
        known: Option<Arc<V>>,
    ) -> Result<Loaded<V>, CacheError> {
        let inner = &*self.inner;
        let work = async {
            // A loader inside of another runs on the other's turn, or all turns could be held by those who wait for one.
            let _turn = match self.chain.is_nested() {
                true => None,
                false => Some(inner.turns.acquire().await.map_err(|_| CacheError::LoadAborted)?),
            };
            inner.counters.add(Count::LoadStarted);
            self.chain.clone().scope(caught(loader(known))).await
        };
        let limit = inner.settings.load_timeout;
        timeout(limit, work).await.unwrap_or(Err(CacheError::LoadTimeout(limit)))
    }
}

/// Turns a panic of the loader into an error. The loader is not polled again after one and its state is not looked at.
async fn caught<V>(mut loader: Loading<V>) -> Result<Loaded<V>, CacheError> {
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
