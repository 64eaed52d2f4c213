use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use slotmesh_node::{Ack, Node};

use crate::cache::Cache;
use crate::codec::{Bincode, Codec};
use crate::error::CacheError;
use crate::key::CacheKey;
use crate::near::Limits;

/// Adds caches to a node.
pub trait Caches {
    /// Begins a cache of this name; all nodes that use the name, and the schema version, share its entries. Build it once
    /// and clone it: each build has an L1 of its own.
    fn cache<K: CacheKey, V>(&self, name: &str) -> CacheBuilder<K, V>;
}

impl Caches for Node {
    fn cache<K: CacheKey, V>(&self, name: &str) -> CacheBuilder<K, V> {
        CacheBuilder {
            node: self.clone(),
            settings: Settings::new(name),
            codec: Bincode,
            types: PhantomData,
        }
    }
}

/// Settings of a cache to be.
#[must_use]
pub struct CacheBuilder<K, V, C = Bincode> {
    node: Node,
    settings: Settings,
    codec: C,
    types: PhantomData<fn(K) -> V>,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) schema: u32,
    pub(crate) ttl: Option<Duration>,
    pub(crate) ack: Ack,
    pub(crate) l1: Option<L1>,
    pub(crate) load_timeout: Duration,
    pub(crate) concurrent_loads_max: usize,
    pub(crate) cluster_timeout: Duration,
    pub(crate) error_backoff: Duration,
}

impl Settings {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            schema: 1,
            ttl: None,
            ack: Ack::All,
            l1: Some(L1::default()),
            load_timeout: Duration::from_secs(30),
            concurrent_loads_max: 128,
            cluster_timeout: Duration::from_millis(250),
            error_backoff: Duration::ZERO,
        }
    }

    fn check(self) -> Result<Self, CacheError> {
        let mut problems = Vec::new();
        let mut check = |fine: bool, problem: &str| {
            if !fine {
                problems.push(problem.to_owned());
            }
        };
        // `:` ends the name in the cluster's keys, and braces would put the whole cache into one slot.
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        let named = (1..=NAME_BYTES_MAX).contains(&self.name.len());
        check(named, "a name has 1 to 64 bytes");
        check(self.name.chars().all(plain), "a name has letters, digits, '-', '_', '.' and '/'");
        check(self.ttl.is_none_or(|ttl| !ttl.is_zero()), "ttl must not be zero");
        let l1 = self.l1.unwrap_or_default();
        check(l1.ttl.is_none_or(|ttl| !ttl.is_zero()), "the ttl of L1 must not be zero; see no_l1");
        let often = l1.max_staleness >= MAX_STALENESS_LEAST;
        check(often, "max_staleness must be at least 20 ms; see no_l1");
        check(!self.load_timeout.is_zero(), "load_timeout must not be zero");
        check(!self.cluster_timeout.is_zero(), "cluster_timeout must not be zero");
        check(self.concurrent_loads_max > 0, "max_concurrent_loads must be at least 1");
        let few = l1.limits.entries <= L1_ENTRIES_MAX;
        check(few, "L1 has at most 2^30 entries");
        if problems.is_empty() { Ok(self) } else { Err(CacheError::Settings { problems }) }
    }
}

/// A name is part of every key.
const NAME_BYTES_MAX: usize = 64;

/// Positions in L1 have 32 bits.
const L1_ENTRIES_MAX: usize = 1 << 30;

/// Pings go three times as often, and the clock's steps take up to 10 ms off.
const MAX_STALENESS_LEAST: Duration = Duration::from_millis(20);

/// How a cache keeps decoded values in its process (L1), beside those in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct L1 {
    pub(crate) limits: Limits,
    pub(crate) max_staleness: Duration,
    pub(crate) ttl: Option<Duration>,
}

impl Default for L1 {
    /// 10,000 entries and 32 MiB.
    fn default() -> Self {
        Self {
            limits: Limits { entries: 10_000, bytes: 32 << 20 },
            max_staleness: Duration::from_millis(100),
            ttl: None,
        }
    }
}

impl L1 {
    /// Up to so many entries, and 32 MiB. Uneven hashing may keep it a little below.
    pub fn entries(entries: usize) -> Self {
        Self::default().max_entries(entries)
    }

    /// Up to so many bytes, and as many entries as find room in them.
    pub fn bytes(bytes: usize) -> Self {
        Self::default().max_entries(L1_ENTRIES_MAX).max_bytes(bytes)
    }

    /// Bound in entries.
    pub fn max_entries(mut self, entries: usize) -> Self {
        self.limits.entries = entries;
        self
    }

    /// Bound in bytes, estimated from the encoded sizes, with what L1 itself takes for each entry. An entry above a 128th of it may not
    /// find room.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.limits.bytes = bytes;
        self
    }

    /// How long a write of another node may stay unseen here after it was acknowledged, 100 ms by default, whatever happens to
    /// nodes and network: who hears nothing of a slot's owner for so long asks it. Mostly it is seen within a millisecond. At least 20 ms,
    /// of which the steps of the clock, 1 to 10 ms, are taken off; owners that values are kept of are pinged three times as often.
    pub fn max_staleness(mut self, bound: Duration) -> Self {
        self.max_staleness = bound;
        self
    }

    /// How long a value is kept without asking for it again, whatever its own lifetime; as long as that by default.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

impl<K: CacheKey, V, C> CacheBuilder<K, V, C> {
    /// Version of the values' schema, 1 by default. Raise it when the type changes: versions do not see each other's
    /// entries, so both run side by side during a deployment.
    pub fn version(mut self, schema: u32) -> Self {
        self.settings.schema = schema;
        self
    }

    /// How long an entry lives in the cluster; for ever (until evicted) by default.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.settings.ttl = Some(ttl);
        self
    }

    /// When a write counts as done: by default when all in-sync replicas have it.
    pub fn ack(mut self, ack: Ack) -> Self {
        self.settings.ack = ack;
        self
    }

    /// How values are kept in this process.
    pub fn l1(mut self, l1: L1) -> Self {
        self.settings.l1 = Some(l1);
        self
    }

    /// Keeps no values in this process beside the cluster's own: every read is linearizable.
    pub fn no_l1(mut self) -> Self {
        self.settings.l1 = None;
        self
    }

    /// How long a loader may take, its wait for a turn included, before it is dropped and its waiters get an error;
    /// 30 s by default.
    pub fn load_timeout(mut self, timeout: Duration) -> Self {
        self.settings.load_timeout = timeout;
        self
    }

    /// How many loaders of this cache may run at once in this process, 128 by default: protects the source. Loads asked for
    /// by a loader run on its turn.
    pub fn max_concurrent_loads(mut self, max: usize) -> Self {
        self.settings.concurrent_loads_max = max;
        self
    }

    /// How long [`Cache::get_or_load`] waits for the cluster before it turns to the loader, 250 ms by default. Shorter
    /// bounds the delay while an owner is down; too short loads what the cluster has.
    pub fn cluster_timeout(mut self, timeout: Duration) -> Self {
        self.settings.cluster_timeout = timeout;
        self
    }

    /// How long no node calls the loader of a key again after it failed; until then callers get its error. None by default: those who
    /// wait at the time share the error, and the next call loads again.
    pub fn error_backoff(mut self, pause: Duration) -> Self {
        self.settings.error_backoff = pause;
        self
    }

    /// How values become bytes; [`Bincode`] by default.
    pub fn codec<D>(self, codec: D) -> CacheBuilder<K, V, D> {
        CacheBuilder { node: self.node, settings: self.settings, codec, types: PhantomData }
    }

    /// The cache.
    ///
    /// # Errors
    /// [`CacheError::Settings`] with all problems.
    pub fn build(self) -> Result<Cache<K, V>, CacheError>
    where
        V: Send + Sync + 'static,
        C: Codec<V>,
    {
        Ok(Cache::new(self.node, self.settings.check()?, Arc::new(self.codec)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_told_at_once() {
        let node = Node::local(1 << 20);
        let build = |name: &str| node.cache::<u8, u8>(name).ttl(Duration::ZERO).build();
        for (name, count) in
            [("users", 1), ("", 2), ("a:b", 2), ("{all}", 2), (&*"x".repeat(65), 2)]
        {
            match build(name) {
                Err(CacheError::Settings { problems }) => {
                    assert_eq!(problems.len(), count, "{name}")
                }
                _ => panic!("{name} must not be taken"),
            }
        }
    }
}
