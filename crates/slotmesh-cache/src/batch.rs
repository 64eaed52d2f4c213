//! Many keys in one call: those of one owner go in one frame, and those that nobody has are loaded by one call of the loader.
//!
//! Each key has a flight of its own, as for single loads, so that calls which overlap load nothing twice. A batch takes the leases of
//! its keys without waiting for any, and loads those it gets: two batches that each wait for what the other one loads would wait for ever. Keys
//! that others are loading follow one by one, each with a call of its own if it comes to that.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join, join_all, join3};
use slotmesh_node::{CallOptions, Condition, Op, OpError, Reply};
use slotmesh_slots::Slot;
use tokio::time::Instant;

use crate::cache::{Cache, Inner, Written};
use crate::chain::Chain;
use crate::error::CacheError;
use crate::flight::{Flight, Outcome};
use crate::key::CacheKey;
use crate::load;
use crate::load::{Asking, Load, MayLoad, Turn, caught};
use crate::loaded::Loaded;
use crate::obtain::{Seen, surroundings};
use crate::stats::Count;
use crate::write::{PutUnderWay, Writing};

/// What a loader of many keys finds; of the others there is none.
type Found<K, V> = Vec<(K, Loaded<V>)>;

/// A loader of many keys at work.
pub(crate) type LoadingMany<K, V> =
    Pin<Box<dyn Future<Output = Result<Found<K, V>, CacheError>> + Send>>;

/// A loader of many keys.
pub(crate) type ManyLoader<K, V> = Arc<dyn Fn(Vec<K>) -> LoadingMany<K, V> + Send + Sync>;

/// Questions of one load that are asked together with those of others, before it goes on by itself: the second is about an entry that is stale.
const ROUNDS: usize = 2;

impl<K: CacheKey, V: Send + Sync + 'static> Cache<K, V> {
    /// Reads many values, as [`Cache::get`] does each; in the order of the keys.
    ///
    /// Cancellation safe.
    pub async fn get_many(&self, keys: &[K]) -> Vec<Result<Option<Arc<V>>, CacheError>> {
        let inner = &*self.inner;
        let mut found = Vec::with_capacity(keys.len());
        let (mut asked, mut ops) = (Vec::new(), Vec::new());
        for (at, key) in keys.iter().enumerate() {
            found.push(inner.get_at_hand(key).map_err(|cluster_key| {
                let ticket = inner.ticket(key, Slot::of_key(&cluster_key));
                ops.push(Inner::<K, V>::read_op(cluster_key, ticket));
                asked.push((at, ticket));
                unanswered()
            }));
        }
        let answers = inner.execute_many(ops, CallOptions::default()).await;
        for ((at, ticket), answer) in asked.into_iter().zip(answers) {
            let known = match answer.and_then(|reply| inner.read_reply(ticket, reply)) {
                Ok(known) => inner.checked_found(known).await,
                Err(error) => Err(error),
            };
            found[at] = known.map(|known| inner.show_or_miss(&keys[at], known));
        }
        found
    }

    /// Writes many values, as [`Cache::put`] does each; in the order given. They are no transaction: each succeeds or fails alone. Of two
    /// with the same key either may come last.
    pub async fn put_many<I, W>(&self, entries: I) -> Vec<Result<Written, CacheError>>
    where
        I: IntoIterator<Item = (K, W)>,
        W: Into<Arc<V>>,
    {
        let inner = &*self.inner;
        let entries: Vec<(K, Arc<V>)> =
            entries.into_iter().map(|(key, value)| (key, value.into())).collect();
        let mut begun = Vec::with_capacity(entries.len());
        if let Err(error) = inner.admit_many(entries.iter().map(|(key, _)| key)).await {
            return entries.iter().map(|_| Err(error.clone())).collect();
        }
        for (key, value) in &entries {
            let (value, ttl) = (Some(Arc::clone(value)), inner.settings.ttl);
            begun.push(inner.begin_put(key, value, ttl, Condition::Always).await);
        }
        inner.end_many(begun, PutUnderWay::end).await
    }

    /// Removes many values, as [`Cache::invalidate`] does each; in the order of the keys.
    pub async fn invalidate_many(&self, keys: &[K]) -> Vec<Result<Written, CacheError>> {
        let inner = &*self.inner;
        if let Err(error) = inner.admit_many(keys.iter()).await {
            return keys.iter().map(|_| Err(error.clone())).collect();
        }
        let begin = |key| Ok(inner.begin_delete(key, Condition::Always));
        inner.end_many(keys.iter().map(begin).collect(), Writing::end_delete).await
    }

    /// Reads many values, as [`Cache::get_or_load`] does each, and loads those that are nowhere by one call of the loader; in the order of the
    /// keys. Of what the loader does not return there is no value. It is called for single keys too: for each that another node or call was
    /// loading, without success.
    ///
    /// Cancellation safe: the loads go on.
    pub async fn get_or_load_many<F, R, M, L, E>(&self, keys: &[K], loader: F) -> Vec<Outcome<V>>
    where
        F: Fn(Vec<K>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<M, E>> + Send + 'static,
        M: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.obtain_many(keys, || Arc::new(move |keys| erased(loader(keys)))).await
    }

    /// As [`Cache::get_or_load_many`], with the cache's own [`loader_many`](crate::CacheBuilder::loader_many); without one each gets
    /// [`CacheError::NoLoader`].
    pub async fn load_many(&self, keys: &[K]) -> Vec<Outcome<V>> {
        match &self.inner.loader_many {
            Some(loader) => self.obtain_many(keys, || Arc::clone(loader)).await,
            None => keys.iter().map(|_| Err(CacheError::NoLoader)).collect(),
        }
    }

    async fn obtain_many(
        &self,
        keys: &[K],
        loader: impl FnOnce() -> ManyLoader<K, V>,
    ) -> Vec<Outcome<V>> {
        let mut loads = Vec::new();
        let begun: Vec<_> = keys.iter().map(|key| self.begin(key, &mut loads)).collect();
        let loader = loader();
        let again = &loader;
        if !loads.is_empty() {
            match surroundings() {
                Ok((runtime, outer)) => {
                    let (inner, loader) = (Arc::clone(&self.inner), Arc::clone(&loader));
                    drop(runtime.spawn(Batch { inner, outer, loader }.run(loads)));
                }
                // Their flights end with this error.
                Err(_) => loads.clear(),
            }
        }
        let outcomes = keys.iter().zip(begun).map(|(key, begun)| async move {
            match begun {
                Begun::Over(outcome) => outcome,
                Begun::Loads(flight) => self.wait_for(&flight).await,
                // By itself, if what is shown there is too old.
                Begun::Joins(flight, cluster_key) => {
                    match self.look_again(key, &cluster_key, &flight).await {
                        Seen::Still => self.wait_for(&flight).await,
                        Seen::Other(value) => Ok(value),
                        Seen::Nothing => self.load_alone(key, again).await,
                    }
                }
            }
        });
        join_all(outcomes).await
    }

    async fn load_alone(&self, key: &K, loader: &ManyLoader<K, V>) -> Outcome<V> {
        let loader = Arc::clone(loader);
        self.obtain(key, |key| Box::new(move |_| Box::pin(load_one(loader, key)))).await
    }

    fn begin(&self, key: &K, loads: &mut Vec<Load<K, V>>) -> Begun<V> {
        let cluster_key = match self.at_hand(key) {
            Ok(value) => return Begun::Over(Ok(value)),
            Err(cluster_key) => cluster_key,
        };
        // A batch is one load.
        match self.join(key, &cluster_key, Chain::current().as_ref(), loads.is_empty()) {
            Ok((flight, Some(load))) => {
                loads.push(load);
                Begun::Loads(flight)
            }
            Ok((flight, None)) => Begun::Joins(flight, cluster_key),
            Err(error) => Begun::Over(Err(error)),
        }
    }
}

/// A key of a batch.
enum Begun<V> {
    Over(Outcome<V>),
    /// The batch loads it.
    Loads(Arc<Flight<V>>),
    /// Somebody else does.
    Joins(Arc<Flight<V>>, Bytes),
}

/// The loader of a batch, and what it is inside of.
struct Batch<K: CacheKey, V> {
    inner: Arc<Inner<K, V>>,
    outer: Option<Chain>,
    loader: ManyLoader<K, V>,
}

impl<K: CacheKey, V: Send + Sync + 'static> Batch<K, V> {
    async fn run(self, loads: Vec<Load<K, V>>) {
        let (mine, others) = self.turns(loads).await;
        let (mine, refused) = mine.into_iter().partition(|(_, turn, _)| turn.refused.is_none());
        let (mine, denied) = self.guarded(mine).await;
        let others = others.into_iter().map(|load| {
            let (loader, key) = (Arc::clone(&self.loader), load.key.clone());
            load.run(Box::new(move |_| Box::pin(load_one(loader, key))))
        });
        let denied = denied
            .into_iter()
            .map(|(load, turn, token)| load.land(turn, (token, None), Ok(load::denied())));
        let ended = join(Self::refuse(refused), join_all(denied));
        join3(self.load(mine), ended, join_all(others)).await;
    }

    /// Those whose keys the source may have, and the others.
    async fn guarded(&self, mine: Vec<Turned<K, V>>) -> (Vec<Turned<K, V>>, Vec<Turned<K, V>>) {
        let is_denied =
            join_all(mine.iter().map(|(load, ..)| self.inner.is_denied(&load.key))).await;
        let mut is_denied = is_denied.into_iter();
        mine.into_iter().partition(|_| is_denied.next() == Some(false))
    }

    /// Ends loads for which the loader is not to be called.
    async fn refuse(refused: Vec<Turned<K, V>>) {
        let landed = refused.into_iter().filter_map(|(load, mut turn, token)| {
            let error = turn.refused.take()?;
            Some(load.land(turn, (token, None), Err(error)))
        });
        join_all(landed).await;
    }

    /// The loads that may begin, and those that somebody else carries out.
    async fn turns(&self, loads: Vec<Load<K, V>>) -> (Vec<Turned<K, V>>, Vec<Load<K, V>>) {
        let mut mine = Vec::new();
        let begin = |load| {
            let mut asking = Asking::new(&self.inner);
            asking.terms.patience = Duration::ZERO;
            (load, asking)
        };
        let mut asking: Vec<_> = loads.into_iter().map(begin).collect();
        for _ in 0..ROUNDS {
            let asked = Instant::now();
            let tickets: Vec<_> = asking.iter().map(|(load, _)| load.ticket()).collect();
            let ops = asking.iter().zip(&tickets).map(|((load, asking), ticket)| {
                self.inner.load_op(load.cluster_key.clone(), *ticket, asking.terms)
            });
            // Many take longer.
            let patience = self.inner.settings.cluster_timeout * (asking.len() / 1_000) as u32;
            let options = self.inner.load_options(patience);
            let answers = self.inner.execute_many(ops.collect(), options).await;
            let mut again = Vec::new();
            for (((load, mut asking), ticket), answer) in
                asking.into_iter().zip(tickets).zip(answers)
            {
                let answer = match answer.and_then(|reply| self.inner.load_reply(ticket, reply)) {
                    Ok(answer) => self.inner.checked_asked(answer).await,
                    Err(error) => Err(error),
                };
                match load.hear(&mut asking, answer, asked) {
                    Some(Turn::Over(ending)) => load.end(ending),
                    Some(Turn::Load(turn)) => mine.push((load, turn, asking.terms.token)),
                    None => again.push((load, asking)),
                }
            }
            asking = again;
            if asking.is_empty() {
                break;
            }
        }
        (mine, asking.into_iter().map(|(load, _)| load).collect())
    }

    /// Calls the loader for these, and gives each what was found.
    async fn load(&self, mine: Vec<Turned<K, V>>) {
        if mine.is_empty() {
            return;
        }
        let keys: Vec<K> = mine.iter().map(|(load, ..)| load.key.clone()).collect();
        let cache = Arc::as_ptr(&self.inner) as usize;
        let inside = mine.iter().fold(self.outer.clone(), |outer, (load, ..)| {
            Some(Chain::new(outer, cache, load.cluster_key.clone()))
        });
        let at = self.inner.mark_time().await.ok().flatten();
        let loader = &self.loader;
        let work = async {
            let _turn = match self.outer {
                Some(_) => None,
                None => Some(self.inner.turn_to_load().await?),
            };
            self.inner.counters.add(Count::LoadStarted);
            let loader = Arc::clone(loader);
            let loading = Box::pin(async move { loader(keys).await });
            let loading = caught(loading, CacheError::LoadPanicked);
            match inside {
                Some(inside) => inside.scope(loading).await,
                None => loading.await,
            }
        };
        let mut found: Result<HashMap<K, Loaded<V>>, CacheError> =
            self.inner.in_time(work).await.map(|found| found.into_iter().collect());
        let landed = mine.into_iter().map(|(load, turn, token)| {
            let loaded = match &mut found {
                _ if let Some(value) = self.inner.unwritten(&load.key) => Ok(Loaded::shared(value)),
                Ok(found) => Ok(found.remove(&load.key).unwrap_or_else(Loaded::missing)),
                Err(error) => Err(error.clone()),
            };
            load.land(turn, (token, at), loaded)
        });
        join_all(landed).await;
    }
}

/// A load that may begin, and its token.
type Turned<K, V> = (Load<K, V>, MayLoad<V>, u64);

async fn load_one<K: CacheKey, V>(
    loader: ManyLoader<K, V>,
    key: K,
) -> Result<Loaded<V>, CacheError> {
    let found = loader(vec![key.clone()]).await?;
    let found = found.into_iter().find(|(found, _)| *found == key);
    Ok(found.map_or_else(Loaded::missing, |(_, loaded)| loaded))
}

/// A loader's future as all loaders' are. Nothing of it runs before it is polled.
pub(crate) fn erased<K, V, M, L, E>(
    loading: impl Future<Output = Result<M, E>> + Send + 'static,
) -> LoadingMany<K, V>
where
    M: IntoIterator<Item = (K, L)>,
    L: Into<Loaded<V>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    Box::pin(async move {
        match loading.await {
            Ok(found) => Ok(found.into_iter().map(|(key, loaded)| (key, loaded.into())).collect()),
            Err(error) => Err(CacheError::Load(Arc::from(error.into()))),
        }
    })
}

impl<K: CacheKey, V: Send + Sync + 'static> Inner<K, V> {
    pub(crate) async fn execute_many(
        &self,
        ops: Vec<Op>,
        options: CallOptions,
    ) -> Vec<Result<Reply, CacheError>> {
        if ops.is_empty() {
            return Vec::new();
        }
        let answers = self.backing.execute_many(ops, options).await;
        let count = |answer: Result<Reply, OpError>| {
            if answer.is_err() {
                self.counters.add(Count::ClusterError);
            }
            Ok(answer?)
        };
        answers.into_iter().map(count).collect()
    }

    /// Carries out writes that have begun, together.
    pub(crate) async fn end_many<W>(
        &self,
        begun: Vec<Result<(Op, W), CacheError>>,
        end: impl Fn(W, &Reply) -> Result<Written, CacheError>,
    ) -> Vec<Result<Written, CacheError>> {
        let (mut ops, mut writes) = (Vec::new(), Vec::new());
        for begun in begun {
            writes.push(begun.map(|(op, write)| {
                ops.push(op);
                write
            }));
        }
        let mut answers = self.execute_many(ops, self.write_options()).await.into_iter();
        let mut end = |write: Result<W, CacheError>| {
            let write = write?;
            end(write, &answers.next().unwrap_or_else(|| Err(unanswered()))?)
        };
        writes.into_iter().map(&mut end).collect()
    }
}

fn unanswered() -> CacheError {
    OpError::Ambiguous { why: "no answer among those of its batch".to_owned() }.into()
}
