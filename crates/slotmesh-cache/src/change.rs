//! Looking at entries, and changing them on condition of what they are.

use std::sync::Arc;
use std::time::Duration;

use slotmesh_node::{CallOptions, Condition, Op, Reply};
use slotmesh_slots::Version;

use crate::cache::{Cache, Inner, Written, odd_reply};
use crate::error::CacheError;
use crate::key::CacheKey;
use crate::known::Known;

/// How often an update is tried when others come in between: each time one of them gets on, so that many get on slowly, but surely.
pub(crate) const ATTEMPTS: u32 = 1_000;

/// Where something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tier {
    /// In this process.
    L1,
    /// At the primary of its slot.
    Cluster,
}

/// What [`Cache::peek`] sees.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Peeked<V> {
    /// None if it is known that there is no such value.
    pub value: Option<Arc<V>>,
    /// Its version, for [`Cache::put_if`]; the lowest one if the cluster did not take it.
    pub version: Version,
    /// Where it was found.
    pub tier: Tier,
    /// How long it is fresh yet, in L1 until it is asked for again; `None` is for ever, zero if it is stale.
    pub fresh_for: Option<Duration>,
    /// Whether its time is up, so that it is shown by [`Cache::get_or_load`] alone, if at all.
    pub is_stale: bool,
}

impl<K: CacheKey, V: Send + Sync + 'static> Cache<K, V> {
    /// What is known of a key, in L1, else in the cluster: also a stale value, or that there is none. Loads nothing, takes nothing into L1,
    /// and counts in no statistics.
    ///
    /// Cancellation safe.
    ///
    /// # Errors
    /// As for [`Cache::get`].
    pub async fn peek(&self, key: &K) -> Result<Option<Peeked<V>>, CacheError> {
        let inner = &*self.inner;
        if let Some(here) = inner.near_peek(key) {
            let (value, version) = (here.value, here.version);
            let (tier, fresh_for) = (Tier::L1, Some(here.left));
            return Ok(Some(Peeked { value, version, tier, fresh_for, is_stale: false }));
        }
        let op = Op::Get { key: inner.cluster_key(key) };
        match inner.backing.execute(op, CallOptions::default()).await? {
            Reply::Value(found) => match inner.decode(&found) {
                Some(known) => Ok(inner.checked(known).await?.map(|known| inner.peeked(known))),
                None => Ok(None),
            },
            Reply::Missing { .. } => Ok(None),
            _ => Err(odd_reply()),
        }
    }

    /// Writes a value if the key has this version ([`Written::version`], [`Peeked::version`]), or holds nothing in the case of `None`. A value
    /// that is stale, and that there is none, are entries with a version too.
    ///
    /// Dropping the future leaves open whether the write happens. It happens once though it is retried.
    ///
    /// # Errors
    /// [`CacheError::Conflict`] with the version that the key has; else as for [`Cache::put`].
    pub async fn put_if(
        &self,
        key: &K,
        value: impl Into<Arc<V>>,
        version: Option<Version>,
    ) -> Result<Written, CacheError> {
        let inner = &*self.inner;
        let ttl = inner.settings.ttl;
        let (op, put) = inner.begin_put(key, Some(value.into()), ttl, has(version)).await?;
        put.end(&inner.execute(op, inner.once_options()).await?)
    }

    /// Changes a value by what it is: none in between is lost, whoever writes. `change` is called with the value, if there is a fresh one,
    /// and says what to write; `None` removes it. When somebody else was faster it is called again. It should be quick: the longer it takes,
    /// the more often. What was written is returned.
    ///
    /// Dropping the future leaves open whether the last change happens. It happens once though it is retried.
    ///
    /// # Errors
    /// [`CacheError::Contended`]; else as for [`Cache::put`].
    pub async fn update<F>(&self, key: &K, mut change: F) -> Result<Option<Arc<V>>, CacheError>
    where
        F: FnMut(Option<&V>) -> Option<V> + Send,
    {
        let inner = &*self.inner;
        let mut current = inner.current(key).await?;
        for _ in 0..ATTEMPTS {
            let version = current.as_ref().map(|current| current.version);
            let value = current.as_ref().and_then(|current| current.value.as_deref());
            let attempt = match (change(value), version) {
                (None, None) => return Ok(None),
                (None, Some(version)) => inner.remove(key, version).await?,
                (Some(value), version) => {
                    inner.replace(key, Arc::new(value), version, inner.settings.ttl).await?
                }
            };
            match attempt {
                Attempt::Done(value) => return Ok(value),
                Attempt::TooLate(now) => current = now,
            }
        }
        Err(CacheError::Contended { attempts: ATTEMPTS })
    }

    /// Lets a value live for so long from now on; false if there is no fresh one. It is read and written again, on condition that nobody
    /// changed it meanwhile.
    ///
    /// Dropping the future leaves open whether it happens.
    ///
    /// # Errors
    /// As for [`Cache::update`].
    pub async fn touch(&self, key: &K, ttl: Duration) -> Result<bool, CacheError> {
        let inner = &*self.inner;
        let mut current = inner.current(key).await?;
        for _ in 0..ATTEMPTS {
            let Some(Current { version, value: Some(value) }) = current else { return Ok(false) };
            match inner.replace(key, value, Some(version), Some(ttl)).await? {
                Attempt::Done(_) => return Ok(true),
                Attempt::TooLate(now) => current = now,
            }
        }
        Err(CacheError::Contended { attempts: ATTEMPTS })
    }
}

impl<K: CacheKey> Cache<K, i64> {
    /// Adds to a number; none counts as zero. It stays at the largest or smallest one when the sum is beyond. Each change begins a new
    /// lifetime.
    ///
    /// # Errors
    /// As for [`Cache::update`].
    pub async fn incr(&self, key: &K, by: i64) -> Result<i64, CacheError> {
        let sum = self.update(key, |number| Some(number.map_or(by, |it| it.saturating_add(by))));
        Ok(sum.await?.map_or(0, |sum| *sum))
    }
}

/// What a key holds, as its primary says.
pub(crate) struct Current<V> {
    pub(crate) version: Version,
    /// If there is a fresh one.
    pub(crate) value: Option<Arc<V>>,
}

/// What became of a change.
pub(crate) enum Attempt<V> {
    /// It is this now.
    Done(Option<Arc<V>>),
    /// Somebody else changed it to this.
    TooLate(Option<Current<V>>),
}

impl<K: CacheKey, V: Send + Sync + 'static> Inner<K, V> {
    fn peeked(&self, known: Known<V>) -> Peeked<V> {
        let is_stale = !known.age(&self.settings).is_fresh();
        let (fresh_for, tier) = (known.fresh_for(), Tier::Cluster);
        Peeked { value: known.value, version: known.version, tier, fresh_for, is_stale }
    }

    pub(crate) async fn current(&self, key: &K) -> Result<Option<Current<V>>, CacheError> {
        let op = Op::Get { key: self.cluster_key(key) };
        match self.execute(op, CallOptions::default()).await? {
            Reply::Value(found) => Ok(Some(self.fresh_of(&found).await?)),
            Reply::Missing { .. } => Ok(None),
            _ => Err(odd_reply()),
        }
    }

    async fn fresh_of(&self, found: &slotmesh_node::Value) -> Result<Current<V>, CacheError> {
        let known = match self.decode_last(found) {
            Some(known) => self.checked(known).await?,
            None => None,
        };
        let fresh = known.filter(|known| known.age(&self.settings).is_fresh());
        Ok(Current { version: found.version, value: fresh.and_then(|known| known.value) })
    }

    /// Writes over this version, or nothing.
    pub(crate) async fn replace(
        &self,
        key: &K,
        value: Arc<V>,
        version: Option<Version>,
        ttl: Option<Duration>,
    ) -> Result<Attempt<V>, CacheError> {
        let (op, put) = self.begin_put(key, Some(Arc::clone(&value)), ttl, has(version)).await?;
        match self.execute(with_previous(op), self.once_options()).await? {
            Reply::Previous { applied: true, copies, version, .. } => {
                put.done(copies, version);
                Ok(Attempt::Done(Some(value)))
            }
            Reply::Previous { applied: false, previous, .. } => {
                let now = match previous {
                    Some(found) => Some(self.fresh_of(&found).await?),
                    None => None,
                };
                Ok(Attempt::TooLate(now))
            }
            _ => Err(odd_reply()),
        }
    }

    /// Removes this version.
    pub(crate) async fn remove(&self, key: &K, version: Version) -> Result<Attempt<V>, CacheError> {
        let (op, writing) = self.begin_delete(key, Condition::Version(version));
        let reply = self.execute(op, self.once_options()).await?;
        writing.end(None);
        match reply {
            // Gone by itself is as good.
            Reply::Delete { applied, version, .. } if applied || version.is_none() => {
                Ok(Attempt::Done(None))
            }
            Reply::Delete { .. } => Ok(Attempt::TooLate(self.current(key).await?)),
            _ => Err(odd_reply()),
        }
    }

    pub(crate) fn once_options(&self) -> CallOptions {
        CallOptions { ack: self.settings.ack, ..CallOptions::once() }
    }
}

const fn has(version: Option<Version>) -> Condition {
    match version {
        Some(version) => Condition::Version(version),
        None => Condition::Absent,
    }
}

/// A put that also answers what was there.
fn with_previous(put: Op) -> Op {
    match put {
        Op::Put { key, value, ttl, keep_ttl, condition, class } => {
            Op::GetAndPut { key, value, ttl, keep_ttl, condition, class }
        }
        other => other,
    }
}
