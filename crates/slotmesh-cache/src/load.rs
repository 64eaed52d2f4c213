//! Loads: one per key at a time, in a task of the cache's own; in this process by a flight that all callers join, in the cluster by a lease of
//! the slot's primary, for which other nodes' flights wait.
//!
//! A flight asks the cluster, by its first caller's hand or in a task ([`question`](crate::question)), and then is a task that calls the loader, gives
//! the outcome to all who wait, and fills the cluster. Callers' deadlines cancel nothing, and one that comes late finds the load it needs
//! under way.
//!
//! Something old that may be shown meanwhile is shown by the flight, and by none of the tiers: so `get` never sees it, and who comes later than the
//! bound of L1 looks whether the cluster still has it. After a failure the flight rests in its place until the load may be tried again.

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

use crate::cache::{Asked, Fill, Inner, Spot};
use crate::chain::Chain;
use crate::error::CacheError;
use crate::flight::{Flight, Landing, Old, Outcome};
use crate::key::CacheKey;
use crate::known::{Age, Known, Lifetime};
use crate::loaded::{Loaded, What};
use crate::near::{Cover, Ticket};
use crate::stats::Count;

/// A loader at work, with its types erased: only what is done before it differs between loaders.
pub(crate) type Loading<V> = Pin<Box<dyn Future<Output = Result<Loaded<V>, CacheError>> + Send>>;

/// A loader, which is told what is known already.
pub(crate) type Loader<V> = Box<dyn FnOnce(Option<Arc<V>>) -> Loading<V> + Send>;

/// The loader of a cache.
pub(crate) type OwnLoader<K, V> = Arc<dyn Fn(K) -> Loading<V> + Send + Sync>;

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

/// What the guard says in the source's place: not kept, for the guard says it again.
pub(crate) fn denied<V>() -> Loaded<V> {
    Loaded::missing().no_store()
}

/// How long what is not fresh is shown without asking again, while another node loads it.
const RECHECK: Duration = Duration::from_secs(1);

/// A load on its way to its turn.
pub(crate) struct Asking<V> {
    pub(crate) terms: LoadTerms,
    old: Option<Found<V>>,
    began: Instant,
}

impl<V> Asking<V> {
    pub(crate) fn new<K: CacheKey>(inner: &Inner<K, V>) -> Self {
        let settings = &inner.settings;
        let terms = LoadTerms {
            node: inner.backing.id(),
            token: rand::random(),
            lasts: settings.load_timeout + settings.cluster_timeout,
            patience: inner.backing.patience().min(settings.load_timeout),
            stale: None,
        };
        Self { terms, old: None, began: Instant::now() }
    }
}

/// What waiting for a turn comes to.
pub(crate) enum Turn<V> {
    Load(MayLoad<V>),
    /// There is nothing to load: somebody did, or it is not to be tried.
    Over(Ending<V>),
}

/// How a load ends.
pub(crate) enum Ending<V> {
    Outcome(Outcome<V>),
    /// This is shown, for so long before anybody tries again.
    Rest(Old<V>, Duration),
}

/// The right to load.
pub(crate) struct MayLoad<V> {
    /// On which the value may be put; `None` where the cluster could not be asked.
    condition: Option<Condition>,
    spot: Spot,
    old: Option<Found<V>>,
    /// Why the loader is not called, where the cluster could not be asked and the cache is strict.
    pub(crate) refused: Option<CacheError>,
}

impl<V> MayLoad<V> {
    /// What is known already.
    pub(crate) fn known(&self) -> Option<Arc<V>> {
        self.old.as_ref()?.known.value.clone()
    }
}

/// What the cluster had when it was asked.
struct Found<V> {
    known: Known<V>,
    age: Age,
    /// Before it was asked for.
    asked: Instant,
}

impl<V> Found<V> {
    fn old(&self) -> Old<V> {
        Old { value: self.known.value.clone(), version: self.known.version, asked: self.asked }
    }
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
    /// Asks the cluster, and loads what it has not.
    pub(crate) async fn run(self, loader: Loader<V>) {
        let mut asking = Asking::new(&self.inner);
        match self.turn(&mut asking).await {
            Turn::Load(turn) => self.carry_out((asking.terms.token, turn), loader).await,
            Turn::Over(ending) => self.end(ending),
        }
    }

    /// Reads what the cluster has, and has a task ask to load what it has not: others wait for who may load, and so for no caller.
    pub(crate) async fn ask(self, loader: Loader<V>, runtime: Handle) {
        let (inner, asked) = (&*self.inner, Instant::now());
        let error = match inner.read_again(&self.key, &self.cluster_key).await {
            Ok(Some((known, spot))) if known.age(&inner.settings) == Age::Fresh => {
                inner.counters.add(Count::ClusterHit);
                inner.keep(&self.key, spot, &known);
                return self.landing.publish(Ok(known.value));
            }
            Ok(_) => return drop(runtime.spawn(self.run(loader))),
            Err(error) => error,
        };
        let mut asking = Asking::new(inner);
        match self.hear(&mut asking, Err(error), asked) {
            Some(Turn::Load(turn)) => {
                drop(runtime.spawn(self.carry_out((asking.terms.token, turn), loader)));
            }
            Some(Turn::Over(ending)) => self.end(ending),
            None => drop(runtime.spawn(self.run(loader))),
        }
    }

    async fn carry_out(self, (token, mut turn): (u64, MayLoad<V>), loader: Loader<V>) {
        let (at, loaded) = match turn.refused.take() {
            Some(error) => (None, Err(error)),
            None if self.inner.is_denied(&self.key).await => (None, Ok(denied())),
            None => {
                // Before the source is asked. Without it what is loaded is not kept.
                let at = self.inner.mark_time().await.ok().flatten();
                (at, self.load(loader, turn.known()).await)
            }
        };
        self.land(turn, (token, at), loaded).await;
    }

    pub(crate) fn end(self, ending: Ending<V>) {
        match ending {
            Ending::Outcome(outcome) => self.landing.publish(outcome),
            Ending::Rest(old, pause) => self.landing.rest(old, pause),
        }
    }

    /// Waits until the cluster has the value, or lets this node load it, or cannot be asked.
    async fn turn(&self, asking: &mut Asking<V>) -> Turn<V> {
        loop {
            let (ticket, asked) = (self.ticket(), Instant::now());
            let op = self.inner.load_op(self.cluster_key.clone(), ticket, asking.terms);
            let answer =
                self.inner.execute(op, self.inner.load_options(asking.terms.patience)).await;
            let answer = answer.and_then(|reply| self.inner.load_reply(ticket, reply));
            let answer = match answer {
                Ok(answer) => self.inner.checked_asked(answer).await,
                Err(error) => Err(error),
            };
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
                let (old, refused) = (asking.old.take(), inner.settings.strict.then_some(error));
                return Some(Turn::Load(MayLoad { condition: None, spot, old, refused }));
            }
        };
        match found {
            Asked::Known(known) => {
                let found = Found { age: known.age(&inner.settings), known, asked };
                if found.age == Age::Fresh {
                    inner.counters.add(Count::ClusterHit);
                    inner.keep(&self.key, spot, &found.known);
                    return Some(Turn::Over(Ending::Outcome(Ok(found.known.value))));
                }
                self.show(&found);
                asking.terms.stale = Some(found.known.version);
                asking.old = Some(found);
            }
            Asked::Unreadable(version) => asking.terms.stale = Some(version),
            Asked::MayLoad(slot) => {
                let since = Condition::FillSince(slot);
                let condition = Some(asking.terms.stale.map_or(since, Condition::Version));
                let old = asking.old.take();
                return Some(Turn::Load(MayLoad { condition, spot, old, refused: None }));
            }
            Asked::Ended(LoadEnd::Nothing) => {
                inner.counters.add(Count::Miss);
                return Some(Turn::Over(Ending::Outcome(Ok(None))));
            }
            Asked::Ended(LoadEnd::Failed { message, retry_after }) => {
                let message = String::from_utf8_lossy(&message);
                let error = CacheError::LoadElsewhere(message.into());
                return Some(Turn::Over(self.in_place_of(error, asking.old.take(), retry_after)));
            }
            Asked::Ended(LoadEnd::Released) => {
                if let Some(found) = asking.old.take_if(|found| found.age.is_shown()) {
                    return Some(Turn::Over(self.rest(&found, RECHECK)));
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
        (token, at): (u64, Option<u64>),
        loaded: Result<Loaded<V>, CacheError>,
    ) {
        let inner = &*self.inner;
        let shown = turn.old.as_ref().is_some_and(|old| old.age.is_shown());
        inner.counters.add(if shown { Count::Refresh } else { Count::Miss });
        let loaded = loaded.and_then(|loaded| {
            let value = match loaded.what {
                What::Value(value) => Some(Arc::new(value)),
                What::Missing => None,
                What::Shared(value) => value,
                What::NotModified => Some(turn.known().ok_or(CacheError::NothingKnown)?),
                What::Failed(error) => return Err(error),
            };
            Ok((value, loaded.ttl, loaded.stored, loaded.tags))
        });
        let end = match loaded {
            // Nobody waits for what follows. The flight lasts until it is done: whoever comes meanwhile is served by it, and would
            // find nothing in the cluster yet.
            Ok((value, ttl, stored, tags)) => {
                self.landing.publish(Ok(value.clone()));
                let is_none = value.is_none();
                let lifetime = self.lifetime(is_none, ttl).filter(|_| stored);
                if let Some(lifetime) = lifetime {
                    let (key, whence) = (self.cluster_key.clone(), (turn.spot, turn.condition));
                    let fill = Fill { value, lifetime, at, tags };
                    if inner.fill(&self.key, key, fill, whence).await {
                        return;
                    }
                }
                if is_none { LoadEnd::Nothing } else { LoadEnd::Released }
            }
            Err(error) => return self.fail(turn, token, error).await,
        };
        let is_gone = end == LoadEnd::Nothing;
        // Where it was not heard whether there is a lease, it ends in any case.
        let end = if turn.condition.is_some() { end } else { LoadEnd::Released };
        inner.end_load(self.cluster_key.clone(), token, end).await;
        if is_gone && let Some(Condition::Version(old)) = turn.condition {
            inner.remove_old(self.cluster_key.clone(), old).await;
        }
    }

    /// Gives an error to those who wait, or what is shown in its place.
    async fn fail(self, turn: MayLoad<V>, token: u64, error: CacheError) {
        let inner = &*self.inner;
        let old = match turn.old {
            Some(found) => self.still(found).await,
            None => None,
        };
        let shows_old = old.as_ref().is_some_and(|found| found.age != Age::Over);
        let retry_after = inner.settings.retry_after(shows_old);
        let message = error.to_string().into();
        let ending = self.in_place_of(error, old, retry_after);
        match &ending {
            Ending::Outcome(outcome) => self.landing.publish(outcome.clone()),
            Ending::Rest(old, _) => self.landing.show(old.clone()),
        }
        let end = match turn.condition {
            Some(_) => LoadEnd::Failed { message, retry_after },
            None => LoadEnd::Released,
        };
        inner.end_load(self.cluster_key.clone(), token, end).await;
        if let Ending::Rest(..) = ending {
            self.end(ending);
        }
    }

    /// What the cluster has now of something that was found before a load which took its time.
    async fn still(&self, found: Found<V>) -> Option<Found<V>> {
        let inner = &*self.inner;
        if found.asked.elapsed() < inner.bound() {
            return Some(found);
        }
        let asked = Instant::now();
        let (known, spot) = inner.read_again(&self.key, &self.cluster_key).await.ok()??;
        let age = known.age(&inner.settings);
        if age == Age::Fresh {
            inner.keep(&self.key, spot, &known);
        }
        Some(Found { known, age, asked })
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

    /// Shows what is to be loaded anew to those who wait, at once or when they will not wait any longer.
    fn show(&self, found: &Found<V>) {
        match found.age {
            Age::Due => self.landing.show(found.old()),
            Age::Stale => {
                self.inner.counters.add(Count::StaleServed);
                self.landing.show(found.old());
            }
            Age::Spare => self.landing.offer(found.known.value.clone()),
            Age::Fresh | Age::Over => {}
        }
    }

    /// What is shown where loading failed, for so long without trying again; the error if there is nothing.
    fn in_place_of(
        &self,
        error: CacheError,
        found: Option<Found<V>>,
        pause: Duration,
    ) -> Ending<V> {
        match found {
            Some(found) if found.age == Age::Fresh => Ending::Outcome(Ok(found.known.value)),
            Some(found) if found.age != Age::Over => {
                if found.age == Age::Spare {
                    self.inner.counters.add(Count::StaleServed);
                }
                tracing::debug!(%error, "showing what is known in place of a load");
                self.rest(&found, pause)
            }
            // Where the cluster was not asked.
            _ => match self.inner.near_spare(&self.key) {
                Some(spare) => {
                    self.inner.counters.add(Count::StaleServed);
                    Ending::Outcome(Ok(spare))
                }
                None => Ending::Outcome(Err(error)),
            },
        }
    }

    /// Shows something for so long, as far as it may be.
    fn rest(&self, found: &Found<V>, pause: Duration) -> Ending<V> {
        let most = found.known.shown_for(&self.inner.settings).unwrap_or(pause);
        Ending::Rest(found.old(), pause.min(most))
    }

    /// What the loader finds, within its time and on its turn.
    async fn load(
        &self,
        loader: Loader<V>,
        known: Option<Arc<V>>,
    ) -> Result<Loaded<V>, CacheError> {
        let inner = &*self.inner;
        // The source has what was before.
        if let Some(value) = inner.unwritten(&self.key) {
            return Ok(Loaded::shared(value));
        }
        let work = async {
            // A loader inside of another runs on the other's turn, or all turns could be held by those who wait for one.
            let _turn = match self.chain.is_nested() {
                true => None,
                false => Some(inner.turn_to_load().await?),
            };
            inner.counters.add(Count::LoadStarted);
            self.chain.clone().scope(caught(loader(known), CacheError::LoadPanicked)).await
        };
        inner.in_time(work).await
    }
}

impl<K: CacheKey, V: Send + Sync + 'static> Inner<K, V> {
    /// For how long something that was read may be shown to others without looking again.
    pub(crate) fn bound(&self) -> Duration {
        self.settings.l1.map_or(Duration::ZERO, |l1| l1.max_staleness)
    }

    /// What the cluster has.
    pub(crate) async fn read_again(
        &self,
        key: &K,
        cluster_key: &Bytes,
    ) -> Result<Option<(Known<V>, Spot)>, CacheError> {
        let ticket = self.ticket(key, Slot::of_key(cluster_key));
        let op = Self::read_op(cluster_key.clone(), ticket);
        let reply = self.execute(op, self.load_options(Duration::ZERO)).await?;
        self.checked_found(self.read_reply(ticket, reply)?).await
    }

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

/// Turns a panic of the loader into this error. The loader is not polled again after one and its state is not looked at.
pub(crate) async fn caught<T>(
    mut loader: Pin<Box<dyn Future<Output = Result<T, CacheError>> + Send>>,
    panicked: fn(Arc<str>) -> CacheError,
) -> Result<T, CacheError> {
    poll_fn(move |context| {
        let poll = AssertUnwindSafe(|| loader.as_mut().poll(context));
        catch_unwind(poll)
            .unwrap_or_else(|panic| Poll::Ready(Err(panicked(message(&*panic).into()))))
    })
    .await
}

/// What a panic says.
pub(crate) fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
