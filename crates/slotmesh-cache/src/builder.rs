use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use slotmesh_node::{Ack, Node};
use slotmesh_slots::Class;
use tokio::runtime::Handle;

use crate::backing::{Backing, Remote};
use crate::behind::{Behind, Pace};
use crate::cache::{Cache, OwnLoaders};
use crate::codec::{Bincode, Codec};
use crate::error::CacheError;
use crate::guard::{self, Guard};
use crate::key::CacheKey;
use crate::loaded::Loaded;
use crate::marks::TagsOf;
use crate::near::Limits;
use crate::store::{Change, OwnWriter, Source, Writer};
use crate::{batch, load, store};

/// Adds caches to a node.
pub trait Caches {
    /// Begins a cache of this name; all nodes that use the name, and the schema version, share its entries. Build it once
    /// and clone it: each build has an L1 of its own.
    fn cache<K: CacheKey, V>(&self, name: &str) -> CacheBuilder<K, V>;
}

impl Caches for Node {
    fn cache<K: CacheKey, V>(&self, name: &str) -> CacheBuilder<K, V> {
        CacheBuilder::new(Backing::Node(self.clone()), name)
    }
}

impl<K: CacheKey, V> CacheBuilder<K, V> {
    fn new(backing: Backing, name: &str) -> Self {
        Self {
            backing,
            settings: Settings::new(name),
            codec: Bincode,
            loaders: (None, None),
            writer: None,
            tags: None,
        }
    }

    /// Begins a cache over something that stands in a node's place.
    #[doc(hidden)]
    pub fn over(remote: Arc<dyn Remote>, name: &str) -> Self {
        Self::new(Backing::Remote(remote), name)
    }
}

/// Settings of a cache to be.
#[must_use]
pub struct CacheBuilder<K, V, C = Bincode> {
    backing: Backing,
    settings: Settings,
    codec: C,
    loaders: OwnLoaders<K, V>,
    writer: Option<OwnWriter<K, V>>,
    tags: Option<TagsOf<V>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) schema: u32,
    pub(crate) ttl: Option<Duration>,
    pub(crate) negative_ttl: Option<Duration>,
    pub(crate) jitter: f64,
    pub(crate) refresh_at: Option<f64>,
    pub(crate) stale_while_revalidate: Duration,
    pub(crate) stale_if_error: Duration,
    pub(crate) ack: Ack,
    pub(crate) class: Class,
    pub(crate) l1: Option<L1>,
    pub(crate) load_timeout: Duration,
    pub(crate) soft_timeout: Option<Duration>,
    pub(crate) hard_timeout: Option<Duration>,
    pub(crate) concurrent_loads_max: usize,
    pub(crate) cluster_timeout: Duration,
    pub(crate) strict: bool,
    pub(crate) error_backoff: Option<Duration>,
    pub(crate) write_behind: Option<Pace>,
    pub(crate) guard: Option<usize>,
}

impl Settings {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            schema: 1,
            ttl: None,
            negative_ttl: None,
            jitter: 0.0,
            refresh_at: None,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            ack: Ack::All,
            class: Class::Cache,
            l1: Some(L1::default()),
            load_timeout: Duration::from_secs(30),
            soft_timeout: None,
            hard_timeout: None,
            concurrent_loads_max: 128,
            cluster_timeout: Duration::from_millis(250),
            strict: false,
            error_backoff: None,
            write_behind: None,
            guard: None,
        }
    }

    /// `name:version:`, with which all keys begin.
    pub(crate) fn prefix(&self) -> Vec<u8> {
        format!("{}:{}:", self.name, self.schema).into_bytes()
    }

    /// None so long that sums of them, or what an entry carries, would not hold it.
    fn limit_times(&mut self) {
        for stale in [&mut self.stale_while_revalidate, &mut self.stale_if_error] {
            *stale = (*stale).min(STALE_MAX);
        }
        self.load_timeout = self.load_timeout.min(TIME_MAX);
        self.cluster_timeout = self.cluster_timeout.min(TIME_MAX);
        for time in [
            &mut self.ttl,
            &mut self.negative_ttl,
            &mut self.soft_timeout,
            &mut self.hard_timeout,
            &mut self.error_backoff,
        ] {
            *time = time.map(|time| time.min(TIME_MAX));
        }
    }

    /// How long a value may be shown in want of better after its time is up.
    pub(crate) fn stale_for(&self) -> Duration {
        self.stale_while_revalidate.max(self.stale_if_error)
    }

    /// How long a load is not tried again after it failed, where something is shown in its place or not.
    pub(crate) fn retry_after(&self, shows_old: bool) -> Duration {
        let pause = if shows_old { BACKOFF_OF_SHOWN } else { Duration::ZERO };
        self.error_backoff.unwrap_or(pause)
    }

    pub(crate) fn check(mut self, has_writer: bool) -> Result<Self, CacheError> {
        self.limit_times();
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
        let given = |time: Option<Duration>| time.is_none_or(|time| !time.is_zero());
        check(given(self.ttl), "ttl must not be zero");
        check(given(self.negative_ttl), "negative_ttl must not be zero; it is none by default");
        check((0.0..1.0).contains(&self.jitter), "jitter is a part of the ttl, from 0 to below 1");
        let part = self.refresh_at.is_none_or(|at| at > 0.0 && at < 1.0);
        check(part, "refresh_at is a part of the ttl, between 0 and 1");
        let l1 = self.l1.unwrap_or_default();
        check(given(l1.ttl), "the ttl of L1 must not be zero; see no_l1");
        let often = l1.max_staleness >= MAX_STALENESS_LEAST;
        check(often, "max_staleness must be at least 20 ms; see no_l1");
        check(!self.load_timeout.is_zero(), "load_timeout must not be zero");
        check(given(self.hard_timeout), "hard_timeout must not be zero");
        check(!self.cluster_timeout.is_zero(), "cluster_timeout must not be zero");
        check(self.concurrent_loads_max > 0, "max_concurrent_loads must be at least 1");
        if let Some(pace) = self.write_behind {
            check(has_writer, "write_behind needs a writer");
            check(pace.batch_max > 0, "write_batch_max must be at least 1");
            check(pace.unwritten_max > 0, "unwritten_max must be at least 1");
        }
        let guarded = self.guard.is_none_or(|keys| (1..=guard::KEYS_MAX).contains(&keys));
        check(guarded, "a guard is for 1 to 2^32 keys");
        let few = l1.limits.entries <= L1_ENTRIES_MAX;
        check(few, "L1 has at most 2^30 entries");
        if problems.is_empty() { Ok(self) } else { Err(CacheError::Settings { problems }) }
    }
}

/// How long what is known is shown after a failed load before it is tried again, unless that is set.
const BACKOFF_OF_SHOWN: Duration = Duration::from_secs(1);

/// Times above it are taken for this: ten years.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// How long anything can be stale: what an entry carries in milliseconds, 49 days.
const STALE_MAX: Duration = Duration::from_millis(u32::MAX as u64);

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

    /// How long an entry lives; for ever (until evicted) by default.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.settings.ttl = Some(ttl);
        self
    }

    /// How long it is known that there is no value after a loader said so. By default that is not kept: the next call loads again. Such
    /// entries are small, and take an eighth of L1 at most.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.settings.negative_ttl = Some(ttl);
        self
    }

    /// Lets each entry live shorter than its `ttl` by a random part of it, up to this one (0.1 is a tenth), so that what was written
    /// together is not loaded anew together.
    pub fn jitter(mut self, part: f64) -> Self {
        self.settings.jitter = part;
        self
    }

    /// From which part of its lifetime on (0.8, say) a value that is asked for by [`Cache::get_or_load`] is loaded anew, while callers still get it: one load in
    /// the cluster, and no caller waits for it. What nobody asks for is not loaded. Costs 8 bytes an entry.
    pub fn refresh_at(mut self, part: f64) -> Self {
        self.settings.refresh_at = Some(part);
        self
    }

    /// For how long after its time is up [`Cache::get_or_load`] shows a value at once while it is loaded anew; see
    /// [`stale_if_error`](Self::stale_if_error), which it is part of where both are set. [`Cache::get`] shows no stale values.
    pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.settings.stale_while_revalidate = window;
        self
    }

    /// For how long after its time is up, 49 days at most, [`Cache::get_or_load`] shows a value when the load fails, or takes longer than
    /// [`soft_timeout`](Self::soft_timeout). The cluster keeps values for so much longer. What was invalidated or overwritten is not
    /// shown, beyond what [`L1::max_staleness`] allows. The load is tried again after [`error_backoff`](Self::error_backoff).
    pub fn stale_if_error(mut self, window: Duration) -> Self {
        self.settings.stale_if_error = window;
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

    /// How long a caller of [`Cache::get_or_load`] waits for a load where there is a stale value to show instead
    /// ([`stale_if_error`](Self::stale_if_error)); until the load fails by default. The load goes on.
    pub fn soft_timeout(mut self, timeout: Duration) -> Self {
        self.settings.soft_timeout = Some(timeout);
        self
    }

    /// How long a caller of [`Cache::get_or_load`] waits at most, for the cluster and the load together, before it gets
    /// [`CacheError::TimedOut`]. The load goes on, and serves who comes next. By default that may be twice the `load_timeout` and a few times
    /// `cluster_timeout`: another node's load is waited for, and if nothing comes of that this one's own begins.
    pub fn hard_timeout(mut self, timeout: Duration) -> Self {
        self.settings.hard_timeout = Some(timeout);
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

    /// Loads nothing that the cluster was not asked for: where it does not answer in time [`Cache::get_or_load`] shows what
    /// [`stale_if_error`](Self::stale_if_error) allows, or fails with [`CacheError::Cluster`]. Without it such a read is served by the loader, so all nodes
    /// load for themselves while they are cut off: right for most sources, and too much for some.
    pub fn strict(mut self) -> Self {
        self.settings.strict = true;
        self
    }

    /// How long no node calls the loader of a key again after it failed; until then callers get its error, or what
    /// is known. A second where something known can be shown, and none otherwise: those who wait at the time share the error, and the next call loads again.
    pub fn error_backoff(mut self, pause: Duration) -> Self {
        self.settings.error_backoff = Some(pause);
        self
    }

    /// What [`Cache::load`] loads with, as [`Cache::get_or_load`] does with what it is given.
    pub fn loader<F, R, L, E>(mut self, loader: F) -> Self
    where
        F: Fn(K) -> R + Send + Sync + 'static,
        R: Future<Output = Result<L, E>> + Send + 'static,
        L: Into<Loaded<V>>,
        E: Into<Box<dyn Error + Send + Sync>>,
        V: 'static,
    {
        self.loaders.0 = Some(Arc::new(move |key| load::erased(loader(key))));
        self
    }

    /// What [`Cache::load_many`] loads with, as [`Cache::get_or_load_many`] does with what it is given.
    pub fn loader_many<F, R, M, L, E>(mut self, loader: F) -> Self
    where
        F: Fn(Vec<K>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<M, E>> + Send + 'static,
        M: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.loaders.1 = Some(Arc::new(move |keys| batch::erased(loader(keys))));
        self
    }

    /// What [`Cache::store`] and [`Cache::delete`] change the source with (write-through): it is called with one change, or with many that go together,
    /// before the cluster is. It may take [`load_timeout`](Self::load_timeout).
    pub fn writer<F, R, E>(mut self, writer: F) -> Self
    where
        F: Fn(Vec<Change<K, V>>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.writer = Some(Arc::new(move |changes| store::erased(writer(changes))));
        self
    }

    /// Has the source get changes so long after the cluster (write-behind), many by one call of the [`writer`](Self::writer), and of each key the
    /// last one only. A crash of this process loses those that wait; [`Node::leave`] and [`Cache::flush`] write them first. What the source does not take
    /// goes again, after pauses of 0.1 to 30 s, until it does: a writer that is given what can never be written should put that aside and
    /// return `Ok`. While a change waits, other nodes that find nothing in the cluster, because it was evicted, load what the source has.
    pub fn write_behind(mut self, delay: Duration) -> Self {
        self.pace().delay = delay.min(TIME_MAX);
        self
    }

    /// How many changes go to the source by one call, 100 by default; as soon as there are so many none of them waits.
    pub fn write_batch_max(mut self, changes: usize) -> Self {
        self.pace().batch_max = changes;
        self
    }

    /// How many changes may wait for the source, 10,000 by default, before [`Cache::store`] waits for room.
    pub fn unwritten_max(mut self, changes: usize) -> Self {
        self.pace().unwritten_max = changes;
        self
    }

    fn pace(&mut self) -> &mut Pace {
        self.settings.write_behind.get_or_insert_default()
    }

    /// Gives values tags, by which [`Cache::invalidate_tag`] removes them together, and lets [`Cache::clear`] and [`Cache::expire_all`] work; `|_|
    /// []` where only those are wanted. A read then looks at the marks of the whole cache and of each tag: in L1 some 40 ns for each, and
    /// where a mark is not there yet, or there is no L1, a read of the cluster for each. Set it on all nodes: those without show what was
    /// invalidated, and what they write is not shown by the others. A value has 255 tags at most.
    pub fn tags<F, I, T>(mut self, tags: F) -> Self
    where
        F: Fn(&V) -> I + Send + Sync + 'static,
        I: IntoIterator<Item = T>,
        T: Into<String>,
    {
        self.tags = Some(Arc::new(move |value| tags(value).into_iter().map(Into::into).collect()));
        self
    }

    /// Keeps loads of keys that the source does not have away from it, on all nodes: by a Bloom filter of those that it has, which
    /// [`Cache::fill_guard`] fills, and each write and invalidation of this cache keeps up. For so many keys three of a thousand that are missing
    /// pass; more keys let more pass. Until it is filled all do.
    ///
    /// It takes two bytes a key in the cluster, and the same in each L1 as far as keys are asked for. The first write of a key sets its bits,
    /// which takes two round trips more. Who loads a key that another node has just written first may be told that there is none, for
    /// [`max_staleness`](L1::max_staleness) at most. What only the cluster has, and the source does not, is found by [`Cache::get`] alone. Set it on
    /// all nodes: what those without write may be taken for missing.
    pub fn guard(mut self, keys: usize) -> Self {
        self.settings.guard = Some(keys);
        self
    }

    /// How values become bytes; [`Bincode`] by default.
    pub fn codec<D>(self, codec: D) -> CacheBuilder<K, V, D> {
        let Self { backing, settings, loaders, writer, tags, .. } = self;
        CacheBuilder { backing, settings, codec, loaders, writer, tags }
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
        let settings = self.settings.check(self.writer.is_some())?;
        let limit = settings.load_timeout;
        let guard = settings.guard.map(|keys| Arc::new(Guard::new(&self.backing, &settings, keys)));
        let writer = self.writer.map(|writer| Writer { writer, limit, guard: guard.clone() });
        let source = writer.map(|writer| match settings.write_behind {
            Some(pace) => Source::Behind(Behind::new(writer, pace)),
            None => Source::Through(writer),
        });
        if let Some(Source::Behind(behind)) = &source {
            flush_before_closing(&self.backing, behind);
        }
        let codec = Arc::new(self.codec);
        let more = (self.tags, guard, source);
        Ok(Cache::new(self.backing, settings, codec, self.loaders, more))
    }
}

/// While anything is left of the cache; what waits keeps itself.
fn flush_before_closing<K: CacheKey, V: Send + Sync + 'static>(
    backing: &Backing,
    behind: &Arc<Behind<K, V>>,
) {
    let behind = Arc::downgrade(behind);
    backing.before_closing(Box::new(move || {
        let (behind, runtime) = (behind.upgrade(), Handle::try_current());
        Box::pin(async move {
            if let (Some(behind), Ok(runtime)) = (behind, runtime) {
                behind.flush(&runtime).await;
            }
        })
    }));
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
