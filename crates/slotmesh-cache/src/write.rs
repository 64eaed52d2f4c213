//! Writes, from before they begin to after their outcome is known.

use std::sync::Arc;
use std::time::Duration;

use slotmesh_node::{Condition, Op, Reply};
use slotmesh_slots::Version;

use crate::cache::{Inner, Written, odd_reply};
use crate::error::CacheError;
use crate::key::CacheKey;
use crate::known::{Known, Lifetime};
use crate::marks::Stamp;
use crate::near::Ticket;
use crate::tier::Shown;

impl<K: CacheKey, V: Send + Sync + 'static> Inner<K, V> {
    pub(crate) async fn put(
        &self,
        key: &K,
        value: Option<Arc<V>>,
        ttl: Option<Duration>,
    ) -> Result<Written, CacheError> {
        let (op, put) = self.begin_put(key, value, ttl, Condition::Always).await?;
        put.end(&self.execute(op, self.write_options()).await?)
    }

    /// `None` is that there is no such value.
    pub(crate) async fn begin_put<'a>(
        &'a self,
        key: &'a K,
        value: Option<Arc<V>>,
        ttl: Option<Duration>,
        condition: Condition,
    ) -> Result<(Op, PutUnderWay<'a, K, V>), CacheError> {
        if value.is_some() {
            self.admit(key).await?;
        }
        let stamp = self.stamp_now(value.as_deref()).await?;
        let lifetime = match (&value, ttl) {
            (None, Some(ttl)) => Lifetime::of_nothing(ttl, &self.settings),
            _ => Lifetime::new(ttl, &self.settings),
        };
        let sealed = self.seal(value.as_deref(), &lifetime, stamp.as_ref());
        let sealed = sealed.map_err(CacheError::Encode)?;
        let cluster_key = self.cluster_key(key);
        let bytes = sealed.len() + cluster_key.len();
        let writing = Writing::begin(self, key, &cluster_key);
        let op = Op::Put {
            key: cluster_key,
            value: sealed.into(),
            ttl: lifetime.kept,
            keep_ttl: false,
            condition,
            class: self.settings.class,
        };
        Ok((op, PutUnderWay { writing, value, lifetime, bytes, stamp }))
    }

    /// Removes a value, whatever it is: the source may have another one.
    pub(crate) async fn forget(&self, key: &K) -> Result<Written, CacheError> {
        self.admit(key).await?;
        let (op, writing) = self.begin_delete(key, Condition::Always);
        writing.end_delete(&self.execute(op, self.write_options()).await?)
    }

    pub(crate) fn begin_delete<'a>(
        &'a self,
        key: &'a K,
        condition: Condition,
    ) -> (Op, Writing<'a, K, V>) {
        let cluster_key = self.cluster_key(key);
        let writing = Writing::begin(self, key, &cluster_key);
        (Op::Delete { key: cluster_key, condition }, writing)
    }
}

/// A write under way. However it ends, also by being dropped, L1 keeps nothing that may be older than it, and loads that
/// may have begun before are not joined any more.
pub(crate) struct Writing<'a, K: CacheKey, V: Send + Sync + 'static> {
    inner: &'a Inner<K, V>,
    key: &'a K,
    ticket: Option<Ticket>,
    written: Option<Shown<V>>,
}

impl<'a, K: CacheKey, V: Send + Sync + 'static> Writing<'a, K, V> {
    pub(crate) fn begin(inner: &'a Inner<K, V>, key: &'a K, cluster_key: &[u8]) -> Self {
        let ticket = inner.near_begin_write(key, cluster_key);
        inner.flights.forget(inner.hash(key));
        Self { inner, key, ticket, written: None }
    }

    pub(crate) fn end(mut self, written: Option<Shown<V>>) {
        self.written = written;
    }

    pub(crate) fn end_delete(self, reply: &Reply) -> Result<Written, CacheError> {
        self.end(None);
        match *reply {
            Reply::Delete { copies, .. } => Ok(Written { copies, version: None }),
            _ => Err(odd_reply()),
        }
    }
}

impl<K: CacheKey, V: Send + Sync + 'static> Drop for Writing<'_, K, V> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.inner.near_end_write(self.key, ticket, self.written.take());
        }
        self.inner.flights.forget(self.inner.hash(self.key));
    }
}

/// A put under way.
pub(crate) struct PutUnderWay<'a, K: CacheKey, V: Send + Sync + 'static> {
    writing: Writing<'a, K, V>,
    value: Option<Arc<V>>,
    lifetime: Lifetime,
    bytes: usize,
    stamp: Option<Stamp>,
}

impl<K: CacheKey, V: Send + Sync + 'static> PutUnderWay<'_, K, V> {
    pub(crate) fn end(self, reply: &Reply) -> Result<Written, CacheError> {
        match *reply {
            Reply::Put { applied: true, copies, version, .. } => Ok(self.done(copies, version)),
            Reply::Put { applied: false, version, .. } => Err(CacheError::Conflict { version }),
            _ => Err(odd_reply()),
        }
    }

    /// It was written.
    pub(crate) fn done(self, copies: u8, version: Option<Version>) -> Written {
        let Self { writing, value, lifetime, bytes, stamp } = self;
        let (left, times) = (lifetime.kept, lifetime.times);
        let known = version.map(|version| Known { value, version, left, times, bytes, stamp });
        let inner = writing.inner;
        writing.end(known.map(|it| it.fresh(&inner.settings, inner.near_ttl_max())));
        Written { copies, version }
    }
}
