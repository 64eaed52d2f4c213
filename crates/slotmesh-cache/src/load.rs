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
use crate::near::{Cover, Lookup, Ticket};
use crate::stats::Count;

/// A loader at work, with its types erased: only what is done before it differs between loaders.
pub(crate) type Loading<V> = Pin<Box<dyn Future<Output = Result<Loaded<V>, CacheError>> + Send>>;

/// A loader, which is told what is known already.
pub(crate) type Loader<V> = Box<dyn FnOnce(Option<Arc<V>>) -> Loading<V> + Send>;

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
        let cluster_key = match self.at_hand(key) {
            Ok(value) => return Ok(value),
            Err(cluster_key) => cluster_key,
        };
        let (runtime, outer) = surroundings()?;
        let (flight, own) = self.join(key, cluster_key, outer)?;
        if let Some(load) = own {
            runtime.spawn(load.run(loader(key.clone())));
        }
        self.within_hard_timeout(flight.outcome(self.inner.settings.soft_timeout)).await
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
        Err(cluster_key)
    }

    /// The load of this key that is under way; a new one is for the caller to carry out.
    pub(crate) fn join(
        &self,
        key: &K,
        cluster_key: Bytes,
        outer: Option<Chain>,
    ) -> Result<Boarded<K, V>, CacheError> {
        let inner = &self.inner;
        let cache = Arc::as_ptr(inner) as usize;
        if outer.as_ref().is_some_and(|outer| outer.contains(cache, &cluster_key)) {
            return Err(CacheError::Recursive);
        }
        match inner.flights.join(inner.hash(key), key)? {
            Joined::Other(flight) => {
                inner.counters.add(Count::Coalesced);
                Ok((flight, None))
            }
            Joined::Own(flight, landing) => {
                let chain = Chain::new(outer, cache, cluster_key.clone());
                let (inner, key) = (Arc::clone(inner), key.clone());
                Ok((flight, Some(Load { inner, key, cluster_key, chain, landing })))
            }
        }
    }

    pub(crate) async fn within_hard_timeout<T>(
        &self,
        outcome: impl Future<Output = Result<T, CacheError>>,
    ) -> Result<T, CacheError> {
        match self.inner.settings.hard_timeout {
            Some(limit) => {
                timeout(limit, outcome).await.unwrap_or(Err(CacheError::TimedOut(limit)))
            }
            None => outcome.await,
        }
    }
}

/// What carries a load, and the load that asks for it.
pub(crate) fn surroundings() -> Result<(Handle, Option<Chain>), CacheError> {
    let runtime = Handle::try_current().map_err(|_| CacheError::LoadAborted)?;
    Ok((runtime, Chain::current()))
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

/// A load on its way to its turn.
pub(crate) struct Asking<V> {
    pub(crate) terms: LoadTerms,
    old: Option<Old<V>>,
    began: Instant,
}

impl<V> Asking<V> {
    pub(crate) fn new<K: CacheKey>(inner: &Inner<K, V>) -> Self {
        let settings = &inner.settings;
        let terms = LoadTerms {
            node: inner.node.id(),
            token: rand::random(),
            lasts: settings.load_timeout + settings.cluster_timeout,
            patience: PATIENCE,
            stale: None,
        };
        Self { terms, old: None, began: Instant::now() }
    }
}

/// What waiting for a turn comes to.
pub(crate) enum Turn<V> {
    Load(MayLoad<V>),
    /// There is nothing to load: somebody did, or it is not to be tried.
    Over(Outcome<V>),
}

/// The right to load.
pub(crate) struct MayLoad<V> {
    /// On which the value may be put; `None` where the cluster could not be asked.
    condition: Option<Condition>,
    spot: Spot,
    old: Option<Old<V>>,
}

impl<V> MayLoad<V> {
    /// What is known already.
    pub(crate) fn known(&self) -> Option<Arc<V>> {
        self.old.as_ref()?.known.value.clone()
    }
}

/// What the cluster had when it was asked.
struct Old<V> {
    known: Known<V>,
    age: Age,
    spot: Spot,
    /// Before it was asked for.
    asked: Instant,
}

/// A flight, and its load if it is a new one.
pub(crate) type Boarded<K, V> = (Arc<Flight<V>>, Option<Load<K, V>>);

/// A load under way.
pub(crate) struct Load<K: CacheKey, V> {
    pub(crate) inner: Arc<Inner<K, V>>,
    pub(crate) key: K,
    pub(crate) cluster_key: Bytes,
    pub(crate) chain: Chain,
    /// Last, so that it ends the flight after everything else is gone.
    pub(crate) landing: Landing<K, V>,
}

impl<K: CacheKey, V: Send + Sync + 'static> Load<K, V> {
    pub(crate) async fn run(self, loader: Loader<V>) {
        let mut asking = Asking::new(&self.inner);
        match self.turn(&mut asking).await {
            Turn::Load(turn) => {
                let loaded = self.load(loader, turn.known()).await;
                self.land(turn, asking.terms.token, loaded).await;
            }
            Turn::Over(outcome) => self.landing.publish(outcome),
        }
    }

    /// Waits until the cluster has the value, or lets this node load it, or cannot be asked.
    async fn turn(&self, asking: &mut Asking<V>) -> Turn<V> {
        loop {
            let (ticket, asked) = (self.ticket(), Instant::now());
            let op = self.inner.load_op(self.cluster_key.clone(), ticket, asking.terms);
            let answer = self.inner.execute(op, self.inner.load_options(PATIENCE)).await;
            let answer = answer.and_then(|reply| self.inner.load_reply(ticket, reply));
            if let Some(turn) = self.hear(asking, answer, asked) {
                return turn;
            }
        }
    }

    /// What an answer to a question asked at this time comes to; `None` is to ask again.
    pub(crate) fn hear(
        &self,
        asking: &mut Asking<V>,
        answer: Result<(Asked<V>, Spot), CacheError>,
        asked: Instant,
    ) -> Option<Turn<V>> {
        let inner = &*self.inner;
        let (found, spot) = match answer {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "loading without the cluster");
                if asking.old.is_none()
                    && let Some(spare) = inner.near_spare(&self.key)
                {
                    self.landing.offer(spare);
                }
                let spot = self.ticket().map(|ticket| (ticket, Cover::Nobody));
                return Some(Turn::Load(MayLoad { condition: None, spot, old: asking.old.take() }));
            }
        };
        match found {
            Asked::Known(known) => {
                let seen = Old { age: known.age(&inner.settings), known, spot, asked };
                self.show(&seen);
                if seen.age == Age::Fresh {
                    return Some(Turn::Over(Ok(seen.known.value)));
                }
                asking.terms.stale = Some(seen.known.version);
                asking.old = Some(seen);
            }
            Asked::Unreadable(version) => asking.terms.stale = Some(version),
            Asked::MayLoad(slot) => {
                let since = Condition::FillSince(slot);
                let condition = Some(asking.terms.stale.map_or(since, Condition::Version));
                return Some(Turn::Load(MayLoad { condition, spot, old: asking.old.take() }));
            }
            Asked::Ended(LoadEnd::Nothing) => {
                inner.counters.add(Count::Miss);
                return Some(Turn::Over(Ok(None)));
            }
            Asked::Ended(LoadEnd::Failed { message, retry_after }) => {
                let message = String::from_utf8_lossy(&message);
                let error = CacheError::LoadElsewhere(message.into());
                return Some(Turn::Over(self.in_place_of(error, asking.old.take(), retry_after)));
            }
            Asked::Ended(LoadEnd::Released) => {
                if let Some(old) = asking.old.take_if(|old| old.age.is_shown()) {
                    self.keep_showing(&old, RECHECK);
                    return Some(Turn::Over(Ok(old.known.value)));
                }
            }
        }
        let limit = inner.settings.load_timeout;
        (asking.began.elapsed() >= limit).then(|| {
            let error = CacheError::LoadTimeout(limit);
            Turn::Over(self.in_place_of(error, asking.old.take(), Duration::ZERO))
        })
    }

    /// To be taken before the cluster is asked.
    pub(crate) fn ticket(&self) -> Option<Ticket> {
        self.inner.ticket(&self.key, Slot::of_key(&self.cluster_key))
    }

    /// Gives what was loaded to those who wait, and to the cluster.
    pub(crate) async fn land(
        self,
        turn: MayLoad<V>,
        token: u64,
        loaded: Result<Loaded<V>, CacheError>,
    ) {
        let inner = &*self.inner;
        let shown = turn.old.as_ref().is_some_and(|old| old.age.is_shown());
        inner.counters.add(if shown { Count::Refresh } else { Count::Miss });
        let loaded = loaded.and_then(|loaded| {
            let value = match loaded.what {
                What::Value(value) => Some(Arc::new(value)),
                What::Missing => None,
                What::NotModified => Some(turn.known().ok_or(CacheError::NothingKnown)?),
                What::Failed(error) => return Err(error),
            };
            Ok((value, loaded.ttl, loaded.stored))
        });
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
                false => Some(inner.turn_to_load().await?),
            };
            inner.counters.add(Count::LoadStarted);
            self.chain.clone().scope(caught(loader(known))).await
        };
        inner.in_time(work).await
    }
}

impl<K: CacheKey, V: Send + Sync + 'static> Inner<K, V> {
    /// The outcome of a loader, unless it takes too long.
    pub(crate) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, CacheError>>,
    ) -> Result<T, CacheError> {
        let limit = self.settings.load_timeout;
        let loaded = timeout(limit, work).await.unwrap_or(Err(CacheError::LoadTimeout(limit)));
        self.counters.add(if loaded.is_ok() { Count::LoadOk } else { Count::LoadFailed });
        loaded
    }
}

/// Turns a panic of the loader into an error. The loader is not polled again after one and its state is not looked at.
pub(crate) async fn caught<T>(
    mut loader: Pin<Box<dyn Future<Output = Result<T, CacheError>> + Send>>,
) -> Result<T, CacheError> {
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
