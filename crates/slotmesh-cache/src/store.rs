//! Changes that the source gets too: before the cluster (write-through), or a moment after it (write-behind, see [`behind`](crate::behind)).
//!
//! Through the cache two writers change the source in an order that nobody else knows, so each puts its value into the cluster only if
//! nobody changed the key since before the source was asked. Where somebody did, the key is removed, and who reads it next loads what the
//! source has.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use slotmesh_node::{CallOptions, Condition, LoadTerms, Op, Reply};
use slotmesh_slots::Version;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::behind::Behind;
use crate::cache::{Cache, Inner, Written, odd_reply};
use crate::error::CacheError;
use crate::guard::Guard;
use crate::key::CacheKey;
use crate::load::{Asking, caught};
use crate::write::{PutUnderWay, Writing};

/// How long it is known at least that a value was removed which the source may have still.
const REMOVED: Duration = Duration::from_secs(60);

/// A change that the source is to get: [`CacheBuilder::writer`](crate::CacheBuilder::writer).
#[derive(Debug)]
#[non_exhaustive]
pub struct Change<K, V> {
    /// Of what.
    pub key: K,
    /// What it is now; `None` if it is no more.
    pub value: Option<Arc<V>>,
    /// The version that it has in the cluster, which grows with each change of a key: a source that keeps it can refuse what comes late from
    /// another node. `None` where the source is written first.
    pub version: Option<Version>,
}

/// A writer at work.
type Storing = Pin<Box<dyn Future<Output = Result<(), CacheError>> + Send>>;

/// What changes the source.
pub(crate) type OwnWriter<K, V> = Arc<dyn Fn(Vec<Change<K, V>>) -> Storing + Send + Sync>;

/// A writer's future as all writers' are.
pub(crate) fn erased<E>(storing: impl Future<Output = Result<(), E>> + Send + 'static) -> Storing
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    Box::pin(async move { storing.await.map_err(|it| CacheError::Store(Arc::from(it.into()))) })
}

/// What changes the source, and how long it may take.
pub(crate) struct Writer<K, V> {
    pub(crate) writer: OwnWriter<K, V>,
    pub(crate) limit: Duration,
    pub(crate) guard: Option<Arc<Guard>>,
}

impl<K: CacheKey, V: Send + Sync + 'static> Writer<K, V> {
    pub(crate) async fn write(&self, changes: Vec<Change<K, V>>) -> Result<(), CacheError> {
        let writer = Arc::clone(&self.writer);
        let put = changes.iter().filter(|change| change.value.is_some());
        let put = self.guard.as_ref().map(|it| it.hashes(put.map(|change| &change.key)));
        let storing = Box::pin(async move { writer(changes).await });
        let stored = timeout(self.limit, caught(storing, CacheError::StorePanicked)).await;
        let stored = stored.unwrap_or(Err(CacheError::StoreTimeout(self.limit)));
        // Also where it failed, as far as is known. Not before: a guard that is filled meanwhile may have asked the source already.
        let admitted = match (&self.guard, put) {
            (Some(guard), Some(hashes)) => guard.admit(hashes).await,
            _ => Ok(()),
        };
        stored.and(admitted)
    }
}

/// Where changes go.
pub(crate) enum Source<K, V> {
    Through(Writer<K, V>),
    Behind(Arc<Behind<K, V>>),
}

impl<K: CacheKey, V: Send + Sync + 'static> Cache<K, V> {
    /// Writes a value into the source and the cluster. By default the source is first, and its errors are returned; with
    /// [`write_behind`](crate::CacheBuilder::write_behind) it is the cluster, and the source gets it a moment later.
    ///
    /// Cancellation safe: what was begun goes on.
    ///
    /// # Errors
    /// Where the source is first: [`CacheError::Cluster`] before it was asked, or when what it took could not be put into the cluster, which may show
    /// the value before for as long as that lives; [`CacheError::Store`], [`CacheError::StorePanicked`] or [`CacheError::StoreTimeout`]
    /// when it did not take it, as far as is known: the cluster forgets the key then. Where it comes later: as for [`Cache::put`], and
    /// [`CacheError::TooManyUnwritten`]; the source gets nothing then. [`CacheError::NoWriter`].
    pub async fn store(&self, key: &K, value: impl Into<Arc<V>>) -> Result<Written, CacheError> {
        self.change(key, Some(value.into())).await
    }

    /// Removes a value from the source and the cluster; as [`Cache::store`]. Where the source comes later it is known in the cluster meanwhile that
    /// there is none, for a minute or [`negative_ttl`](crate::CacheBuilder::negative_ttl).
    ///
    /// # Errors
    /// As for [`Cache::store`].
    pub async fn delete(&self, key: &K) -> Result<Written, CacheError> {
        self.change(key, None).await
    }

    /// Writes many values by one call of the writer; in the order given. As [`Cache::store`] does each: where the source is first and fails, all
    /// of them get its error.
    pub async fn store_many<I, W>(&self, entries: I) -> Vec<Result<Written, CacheError>>
    where
        I: IntoIterator<Item = (K, W)>,
        W: Into<Arc<V>>,
    {
        self.change_many(entries.into_iter().map(|(key, it)| (key, Some(it.into()))).collect())
            .await
    }

    /// Waits until the source has all that was stored before by this process; at once where it is first. It may take as long as the source fails.
    ///
    /// Cancellation safe.
    pub async fn flush(&self) {
        if let (Some(Source::Behind(behind)), Ok(runtime)) =
            (&self.inner.source, Handle::try_current())
        {
            behind.flush(&runtime).await;
        }
    }

    async fn change(&self, key: &K, value: Option<Arc<V>>) -> Result<Written, CacheError> {
        let mut written = self.change_many(vec![(key.clone(), value)]).await;
        written.pop().unwrap_or(Err(CacheError::LoadAborted))
    }

    /// In a task, so that nobody who loses patience leaves one of the two unwritten.
    async fn change_many(
        &self,
        changes: Vec<(K, Option<Arc<V>>)>,
    ) -> Vec<Result<Written, CacheError>> {
        let all = |error: CacheError, count| (0..count).map(|_| Err(error.clone())).collect();
        let count = changes.len();
        if self.inner.source.is_none() {
            return all(CacheError::NoWriter, count);
        }
        let Ok(runtime) = Handle::try_current() else { return all(CacheError::LoadAborted, count) };
        let inner = Arc::clone(&self.inner);
        let task = runtime.clone().spawn(async move {
            match &inner.source {
                Some(Source::Through(writer)) => inner.store_through(writer, changes).await,
                Some(Source::Behind(behind)) => {
                    let stored = changes.into_iter();
                    join_all(stored.map(|it| inner.store_behind(behind, &runtime, it))).await
                }
                None => Vec::new(),
            }
        });
        task.await.unwrap_or_else(|_| all(CacheError::LoadAborted, count))
    }
}

/// A write of what the source has.
enum UnderWay<'a, K: CacheKey, V: Send + Sync + 'static> {
    Put(PutUnderWay<'a, K, V>),
    Delete(Writing<'a, K, V>),
}

impl<K: CacheKey, V: Send + Sync + 'static> UnderWay<'_, K, V> {
    fn end(self, reply: &Reply) -> Result<Written, CacheError> {
        match self {
            Self::Put(put) => put.end(reply),
            Self::Delete(writing) => writing.end_delete(reply),
        }
    }
}

impl<K: CacheKey, V: Send + Sync + 'static> Inner<K, V> {
    async fn store_through(
        &self,
        writer: &Writer<K, V>,
        changes: Vec<(K, Option<Arc<V>>)>,
    ) -> Vec<Result<Written, CacheError>> {
        let ops = changes.iter().map(|(key, _)| self.look_op(self.cluster_key(key))).collect();
        let before = self.execute_many(ops, CallOptions::default()).await;
        let before: Vec<_> = before.into_iter().map(|it| unchanged_since(&it?)).collect();
        let known = changes.iter().zip(&before).filter(|(_, before)| before.is_ok());
        let change = |(key, value): &(K, Option<Arc<V>>)| Change {
            key: key.clone(),
            value: value.clone(),
            version: None,
        };
        let to_store: Vec<_> = known.map(|(it, _)| change(it)).collect();
        let stored = match to_store.is_empty() {
            true => Ok(()),
            false => writer.write(to_store).await,
        };
        let mut begun = Vec::with_capacity(changes.len());
        for ((key, value), before) in changes.iter().zip(before) {
            begun.push(match (before, value) {
                (Err(error), _) => Err(error),
                (Ok(condition), Some(value)) if stored.is_ok() => {
                    let (value, ttl) = (Some(Arc::clone(value)), self.settings.ttl);
                    let put = self.begin_put(key, value, ttl, condition).await;
                    put.map(|(op, put)| (op, UnderWay::Put(put)))
                }
                // Removed, or nobody knows what the source has.
                (Ok(_), _) => {
                    let (op, writing) = self.begin_delete(key, Condition::Always);
                    Ok((op, UnderWay::Delete(writing)))
                }
            });
        }
        let written = self.end_many(begun, UnderWay::end).await;
        let ended = changes.iter().zip(written).map(|((key, _), written)| async {
            match (written, &stored) {
                (_, Err(error)) => Err(error.clone()),
                // Of two that change the source at once nobody knows who was the last.
                (Err(CacheError::Conflict { .. }), Ok(())) => self.forget(key).await,
                (Err(error), Ok(())) => {
                    let _counted = self.forget(key).await;
                    Err(error)
                }
                (written, Ok(())) => written,
            }
        });
        join_all(ended).await
    }

    /// Asks what there is before it is changed.
    fn look_op(&self, key: Bytes) -> Op {
        if self.backing.dates_gets() {
            return Op::Get { key };
        }
        // The lease to load says the same: whatever happens to the key ends it.
        let terms = LoadTerms { patience: Duration::ZERO, ..Asking::new(self).terms };
        Op::Load { key, by: None, terms }
    }

    async fn store_behind(
        &self,
        behind: &Arc<Behind<K, V>>,
        runtime: &Handle,
        (key, value): (K, Option<Arc<V>>),
    ) -> Result<Written, CacheError> {
        let room = behind.room(self.settings.load_timeout).await?;
        let settings = &self.settings;
        let ttl = match &value {
            Some(_) => settings.ttl,
            None => Some(settings.negative_ttl.map_or(REMOVED, |ttl| ttl.max(REMOVED))),
        };
        let written = match self.put(&key, value.clone(), ttl).await {
            Ok(written) => written,
            Err(error) => {
                // It may be there, and the source is not told.
                let _counted = self.forget(&key).await;
                return Err(error);
            }
        };
        behind.push(runtime, Change { key, value, version: written.version }, room);
        Ok(written)
    }

    /// What the source will get of this key.
    pub(crate) fn unwritten(&self, key: &K) -> Option<Option<Arc<V>>> {
        match &self.source {
            Some(Source::Behind(behind)) => behind.unwritten(key),
            _ => None,
        }
    }
}

/// What holds as long as the key was not changed.
fn unchanged_since(reply: &Reply) -> Result<Condition, CacheError> {
    match reply {
        Reply::Value(found) => Ok(Condition::Version(found.version)),
        Reply::Missing { slot } | Reply::MayLoad { slot } => Ok(Condition::FillSince(*slot)),
        // Somebody loads it, or failed to.
        Reply::LoadEnded(_) => Ok(Condition::FillSince(Version::default())),
        _ => Err(odd_reply()),
    }
}
