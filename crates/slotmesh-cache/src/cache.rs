use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use slotmesh_coherence::{KeyHasher, Watcher};
use slotmesh_node::{
    CallOptions, CoarseClock, Condition, LoadEnd, LoadTerms, Op, OpError, Reply, Value,
};
use slotmesh_slots::{Class, Slot, Version};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::backing::Backing;
use crate::batch::ManyLoader;
use crate::builder::Settings;
use crate::codec::{Codec, CodecError};
use crate::envelope;
use crate::error::CacheError;
use crate::flight::Flights;
use crate::guard::Guard;
use crate::key::CacheKey;
use crate::known::{Age, Known, Lifetime};
use crate::load::OwnLoader;
use crate::marks::{Marks, Stamp, TagsOf};
use crate::near::{Cover, InNear, Lookup, Ticket, hash_of};
use crate::stats::{CacheStats, Count, Counters};
use crate::store::Source;
use crate::tier::{FOR_EVER, Shown, Tier};

/// Of the time until a value that is due to be loaded anew is stale, the part for which L1 keeps it where nobody loads it.
const DUE_SHARE: u32 = 4;

/// Loads that may wait for their turn for each one that may run: further callers get an error instead of piling up.
const WAITING_PER_LOAD: usize = 64;

/// A typed cache. Cheap to clone; clones share L1 and the loads under way. Holds its node: the node runs as long as one
/// of its caches exists.
///
/// All methods need a tokio runtime with timers around them.
pub struct Cache<K: CacheKey, V> {
    pub(crate) inner: Arc<Inner<K, V>>,
}

/// The loaders that a cache was built with, of one key and of many.
pub(crate) type OwnLoaders<K, V> = (Option<OwnLoader<K, V>>, Option<ManyLoader<K, V>>);

/// What only some caches have: tags, a guard, and a source that they change.
pub(crate) type More<K, V> = (Option<TagsOf<V>>, Option<Arc<Guard>>, Option<Source<K, V>>);

/// What a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// How many nodes hold it. With two or more it survives the crash of any one of them.
    pub copies: u8,
    /// The version that the key has now, if it has a value: for [`Cache::put_if`].
    pub version: Option<Version>,
}

pub(crate) struct Inner<K: CacheKey, V> {
    pub(crate) backing: Backing,
    pub(crate) settings: Settings,
    codec: Arc<dyn Codec<V>>,
    pub(crate) loader: Option<OwnLoader<K, V>>,
    pub(crate) loader_many: Option<ManyLoader<K, V>>,
    /// `name:version:`, with which all keys begin.
    prefix: Box<[u8]>,
    hasher: KeyHasher,
    near: Option<Arc<Tier<K, V>>>,
    pub(crate) marks: Option<Marks<V>>,
    pub(crate) guard: Option<Arc<Guard>>,
    pub(crate) source: Option<Source<K, V>>,
    pub(crate) flights: Arc<Flights<K, V>>,
    pub(crate) turns: Semaphore,
    pub(crate) counters: Counters,
    /// L1's time.
    clock: CoarseClock,
}

/// Where a value that is asked for goes in L1, if there is one: its ticket, and who speaks for it.
pub(crate) type Spot = Option<(Ticket, Cover)>;

/// What the cluster says to who asks for a value, and loads it if it may.
pub(crate) enum Asked<V> {
    /// What can be read.
    Known(Known<V>),
    /// One of this version that cannot be read.
    Unreadable(Version),
    /// To load it: nobody has put it there at this version of the slot.
    MayLoad(Version),
    /// Somebody else's load came to this.
    Ended(LoadEnd),
}

/// What was loaded, and how it is kept.
pub(crate) struct Fill<V> {
    pub(crate) value: Option<Arc<V>>,
    pub(crate) lifetime: Lifetime,
    /// The time of the marks before it was loaded.
    pub(crate) at: Option<u64>,
    /// Tags that the loader added.
    pub(crate) tags: Vec<String>,
}

impl<K: CacheKey, V: Send + Sync + 'static> Cache<K, V> {
    pub(crate) fn new(
        backing: Backing,
        settings: Settings,
        codec: Arc<dyn Codec<V>>,
        (loader, loader_many): OwnLoaders<K, V>,
        (tags, guard, source): More<K, V>,
    ) -> Self {
        let loads = settings.concurrent_loads_max.min(Semaphore::MAX_PERMITS);
        let prefix = settings.prefix();
        let hasher = KeyHasher::new(backing.key_seed(), &prefix);
        let flights = Arc::new(Flights::new(loads.saturating_mul(1 + WAITING_PER_LOAD)));
        let tier = |l1| Tier::new(&backing, l1, hasher, &flights, tags.is_some());
        let near = settings.l1.map(tier);
        let marks = tags.map(|tags| Marks::new(&backing, &settings, tags, hasher));
        let inner = Inner {
            clock: backing.clock(),
            backing,
            codec,
            loader,
            loader_many,
            prefix: prefix.into(),
            hasher,
            near,
            marks,
            guard,
            source,
            flights,
            turns: Semaphore::new(loads),
            counters: Counters::default(),
            settings,
        };
        Self { inner: Arc::new(inner) }
    }

    /// One that another cache keeps something in.
    pub(crate) fn within(backing: &Backing, settings: Settings, codec: impl Codec<V>) -> Self {
        Self::new(backing.clone(), settings, Arc::new(codec), (None, None), (None, None, None))
    }

    /// Reads a value: from L1, else from the cluster. A value of another schema version or codec counts as none.
    ///
    /// Cancellation safe.
    ///
    /// # Errors
    /// [`CacheError::Cluster`] when L1 has it not and no primary answers within the node's call timeout.
    pub async fn get(&self, key: &K) -> Result<Option<Arc<V>>, CacheError> {
        let inner = &*self.inner;
        let cluster_key = match inner.get_at_hand(key) {
            Ok(value) => return Ok(value),
            Err(cluster_key) => cluster_key,
        };
        let ticket = inner.ticket(key, Slot::of_key(&cluster_key));
        let op = Inner::<K, V>::read_op(cluster_key, ticket);
        let reply = inner.execute(op, CallOptions::default()).await?;
        let found = inner.checked_found(inner.read_reply(ticket, reply)?).await?;
        Ok(inner.show_or_miss(key, found))
    }

    /// Writes a value that lives as long as the cache's `ttl` says. This process sees it from the return on, other nodes'
    /// L1 after at most their [`max_staleness`](crate::L1::max_staleness). Loads under way neither overwrite it nor are joined any more.
    ///
    /// Dropping the future leaves open whether the write happens.
    ///
    /// # Errors
    /// [`CacheError::Cluster`], and [`CacheError::Encode`]. A write whose outcome is unknown is tried again until the
    /// node's call timeout, so it may end as the last of several writers though it began first.
    pub async fn put(&self, key: &K, value: impl Into<Arc<V>>) -> Result<Written, CacheError> {
        self.inner.put(key, Some(value.into()), self.inner.settings.ttl).await
    }

    /// Writes a value that lives this long.
    ///
    /// # Errors
    /// As for [`Cache::put`].
    pub async fn put_with(
        &self,
        key: &K,
        value: impl Into<Arc<V>>,
        ttl: Duration,
    ) -> Result<Written, CacheError> {
        self.inner.put(key, Some(value.into()), Some(ttl)).await
    }

    /// Removes a value, here and in the cluster. Call it after the source was changed: loads under way that may have
    /// read the source before are not cached and not joined any more.
    ///
    /// Dropping the future leaves open whether it happens.
    ///
    /// # Errors
    /// [`CacheError::Cluster`]; the value may still be there then.
    pub async fn invalidate(&self, key: &K) -> Result<Written, CacheError> {
        self.inner.forget(key).await
    }

    /// Counts of what this cache did in this process.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let now = self.inner.clock.at_most();
        let near = self.inner.near.as_ref().map(|tier| (tier.size(), tier.bounded(now)));
        let ((l1_entries, l1_bytes), (l1_withheld, staleness)) = near.unwrap_or_default();
        let (written_behind, write_failures, unwritten) = match &self.inner.source {
            Some(Source::Behind(behind)) => behind.counts(),
            _ => (0, 0, 0),
        };
        CacheStats {
            l1_withheld,
            staleness,
            l1_entries,
            l1_bytes,
            written_behind,
            write_failures,
            unwritten,
            ..self.inner.counters.snapshot()
        }
    }
}

impl<K: CacheKey, V> Clone for Cache<K, V> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<K: CacheKey, V> std::fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

impl<K: CacheKey, V: Send + Sync + 'static> Inner<K, V> {
    /// The key as the cluster has it.
    pub(crate) fn cluster_key(&self, key: &K) -> Bytes {
        let mut out = Vec::with_capacity(self.prefix.len() + 24);
        out.extend_from_slice(&self.prefix);
        key.write(&mut out);
        out.into()
    }

    /// With which all keys begin.
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    pub(crate) fn codec(&self) -> Arc<dyn Codec<V>> {
        Arc::clone(&self.codec)
    }

    pub(crate) fn near_lookup(&self, key: &K) -> Lookup<V> {
        let Some(tier) = &self.near else { return Lookup::Nothing };
        let found = tier.lookup(key, self.clock.at_most(), self.marks.as_ref());
        if !matches!(found, Lookup::Nothing) {
            self.counters.add(Count::L1Hit);
        }
        found
    }

    /// What L1 has, without counting that as a use.
    pub(crate) fn near_peek(&self, key: &K) -> Option<InNear<V>> {
        self.near.as_ref()?.peek(key, self.clock.at_most(), self.marks.as_ref())
    }

    /// What may be shown in want of better, where the cluster cannot be asked.
    pub(crate) fn near_spare(&self, key: &K) -> Option<Option<Arc<V>>> {
        let marks = self.marks.as_ref();
        match self.near.as_ref()?.spare(key, self.clock.at_most(), marks) {
            Lookup::Value(value) => Some(Some(value)),
            Lookup::Absent => Some(None),
            Lookup::Nothing => None,
        }
    }

    /// What there is, if this node is the key's primary and can tell without waiting.
    pub(crate) fn known_here(&self, key: &K, cluster_key: &Bytes) -> Option<(Known<V>, Spot)> {
        let slot = Slot::of_key(cluster_key);
        if !self.backing.owns(slot) {
            return None;
        }
        let spot = self.own_spot(key, slot);
        let known = self.decode(&self.backing.get_now(cluster_key)??)?;
        Some((self.checked_at_hand(known)?, spot))
    }

    /// What there is now, also for L1; `None` if its time is up.
    fn show(&self, key: &K, spot: Spot, known: Known<V>) -> Option<Option<Arc<V>>> {
        let fresh = match known.age(&self.settings) {
            Age::Fresh => known.fresh(&self.settings, self.near_ttl_max()),
            // Not for all of what is left: who loads should find it due.
            Age::Due => {
                let some = (known.fresh_for()? / DUE_SHARE).min(self.near_ttl_max());
                known.shown(some, &self.settings)
            }
            Age::Stale | Age::Spare | Age::Over => return None,
        };
        self.counters.add(Count::ClusterHit);
        self.near_fill(key, spot, fresh);
        Some(known.value)
    }

    /// What can be told without waiting, or else the key as the cluster has it.
    pub(crate) fn get_at_hand(&self, key: &K) -> Result<Option<Arc<V>>, Bytes> {
        match self.near_lookup(key) {
            Lookup::Value(value) => return Ok(Some(value)),
            Lookup::Absent => return Ok(None),
            Lookup::Nothing => {}
        }
        let cluster_key = self.cluster_key(key);
        let here = self.known_here(key, &cluster_key);
        here.and_then(|(known, spot)| self.show(key, spot, known)).ok_or(cluster_key)
    }

    /// Asks the cluster for a value.
    pub(crate) fn read_op(key: Bytes, ticket: Option<Ticket>) -> Op {
        match ticket {
            Some(_) => Op::Watch { key, by: None },
            None => Op::Get { key },
        }
    }

    pub(crate) fn read_reply(
        &self,
        ticket: Option<Ticket>,
        reply: Reply,
    ) -> Result<Option<(Known<V>, Spot)>, CacheError> {
        let (reply, spot) = self.spot(ticket, reply);
        match reply {
            Reply::Value(found) => Ok(self.decode_last(&found).map(|known| (known, spot))),
            Reply::Missing { .. } => Ok(None),
            _ => Err(odd_reply()),
        }
    }

    /// What the cluster has, if it may be shown.
    pub(crate) fn show_or_miss(&self, key: &K, found: Option<(Known<V>, Spot)>) -> Option<Arc<V>> {
        let value = found.and_then(|(known, spot)| self.show(key, spot, known));
        if value.is_none() {
            self.counters.add(Count::Miss);
        }
        value.flatten()
    }

    /// Asks the cluster for a value, and to load where there is nothing, or what these terms call stale.
    pub(crate) fn load_op(&self, key: Bytes, ticket: Option<Ticket>, terms: LoadTerms) -> Op {
        // Each owner is told its own.
        let by = ticket.map(|_| self.backing.subscriber().own());
        Op::Load { key, by, terms }
    }

    /// How that is asked by one who will wait for so long.
    pub(crate) fn load_options(&self, patience: Duration) -> CallOptions {
        let timeout = Some(self.settings.cluster_timeout + patience);
        CallOptions { timeout, ..CallOptions::default() }
    }

    pub(crate) fn load_reply(
        &self,
        ticket: Option<Ticket>,
        reply: Reply,
    ) -> Result<(Asked<V>, Spot), CacheError> {
        let (reply, spot) = self.spot(ticket, reply);
        let asked = match reply {
            Reply::Value(found) => match self.decode_last(&found) {
                Some(known) => Asked::Known(known),
                None => Asked::Unreadable(found.version),
            },
            Reply::MayLoad { slot } => Asked::MayLoad(slot),
            Reply::LoadEnded(end) => Asked::Ended(end),
            _ => return Err(odd_reply()),
        };
        Ok((asked, spot))
    }

    /// Says what became of a load that wrote nothing. Where that is not heard, others wait until the lease is over.
    pub(crate) async fn end_load(&self, cluster_key: Bytes, token: u64, end: LoadEnd) {
        let op = Op::EndLoad { key: cluster_key, token, end };
        let timeout = Some(self.settings.cluster_timeout);
        let _heard = self.execute(op, CallOptions { timeout, ..CallOptions::default() }).await;
    }

    /// What an owner answered, and where it goes.
    fn spot(&self, ticket: Option<Ticket>, reply: Reply) -> (Reply, Spot) {
        match (reply, &self.near) {
            (Reply::Watched { owner, stream, found }, Some(tier)) => {
                let by = Watcher { node: self.backing.id(), stream };
                let cover = |ticket| (ticket, tier.admit(ticket, owner, by));
                (*found, ticket.map(cover))
            }
            (reply, _) => (reply, ticket.map(|ticket| (ticket, Cover::Nobody))),
        }
    }

    /// Where something that this node says of its own slot goes, before it is asked.
    fn own_spot(&self, key: &K, slot: Slot) -> Spot {
        let tier = self.near.as_ref()?;
        // Before the ticket: what was told of before is no news.
        let _told = self.backing.watch_own(slot);
        let ticket = tier.ticket(key, slot, self.clock.at_least());
        Some((ticket, tier.own_cover(ticket)))
    }

    /// Puts what was loaded where nothing was, if nothing came in between; whether it did. Whoever loaded it has it already: a
    /// failure is only counted.
    pub(crate) async fn fill(
        &self,
        key: &K,
        cluster_key: Bytes,
        fill: Fill<V>,
        (spot, condition): (Spot, Option<Condition>),
    ) -> bool {
        let Fill { value, lifetime, at, tags } = fill;
        let stamp = match self.stamp(at, value.as_deref(), &tags).await {
            Ok(stamp) if stamp.is_some() || self.marks.is_none() => stamp,
            // What cannot be told to be gone later is not kept.
            _ => return false,
        };
        let Ok(sealed) = self.seal(value.as_deref(), &lifetime, stamp.as_ref()) else {
            self.counters.add(Count::Undecodable);
            return false;
        };
        let bytes = sealed.len() + cluster_key.len();
        let version = match condition {
            // The cluster could not be asked, so it cannot be filled safely either: L1 alone takes the load off the source.
            None => Version::default(),
            Some(condition) => {
                let put = Op::Put {
                    key: cluster_key,
                    value: sealed.into(),
                    ttl: lifetime.kept,
                    keep_ttl: false,
                    condition,
                    class: Class::Cache,
                };
                match self.execute(put, self.fill_options()).await {
                    Ok(Reply::Put { applied: true, version, .. }) => version.unwrap_or_default(),
                    Ok(_) => {
                        self.counters.add(Count::FillRefused);
                        return false;
                    }
                    Err(_) => Version::default(),
                }
            }
        };
        let (left, times) = (lifetime.kept, lifetime.times);
        self.keep(key, spot, &Known { value, version, left, times, bytes, stamp });
        version != Version::default()
    }

    /// Removes what was there, of this version, because it is no more. Where that fails it may be shown until its time is up.
    pub(crate) async fn remove_old(&self, cluster_key: Bytes, old: Version) {
        let op = Op::Delete { key: cluster_key, condition: Condition::Version(old) };
        let _counted = self.execute(op, self.fill_options()).await;
    }

    /// A turn of those that may load at once.
    pub(crate) async fn turn_to_load(&self) -> Result<SemaphorePermit<'_>, CacheError> {
        self.turns.acquire().await.map_err(|_| CacheError::LoadAborted)
    }

    pub(crate) fn ticket(&self, key: &K, slot: Slot) -> Option<Ticket> {
        let tier = self.near.as_ref()?;
        Some(tier.ticket(key, slot, self.clock.at_least()))
    }

    pub(crate) fn seal(
        &self,
        value: Option<&V>,
        lifetime: &Lifetime,
        stamp: Option<&Stamp>,
    ) -> Result<Vec<u8>, CodecError> {
        envelope::seal(&*self.codec, self.settings.schema, value, lifetime.times, stamp)
    }

    pub(crate) fn decode(&self, found: &Value) -> Option<Known<V>> {
        let opened = envelope::open(&*self.codec, self.settings.schema, &found.value)?;
        Some(Known {
            value: opened.value.map(Arc::new),
            version: found.version,
            left: found.ttl,
            times: opened.times,
            bytes: found.value.len() + self.prefix.len(),
            stamp: opened.stamp,
        })
    }

    /// As [`Inner::decode`], where nobody else is asked when it cannot be read.
    pub(crate) fn decode_last(&self, found: &Value) -> Option<Known<V>> {
        let known = self.decode(found);
        if known.is_none() {
            self.counters.add(Count::Undecodable);
        }
        known
    }

    /// Takes into L1 what is fresh.
    pub(crate) fn keep(&self, key: &K, spot: Spot, known: &Known<V>) {
        self.near_fill(key, spot, known.fresh(&self.settings, self.near_ttl_max()));
    }

    pub(crate) fn near_fill(&self, key: &K, spot: Spot, shown: Shown<V>) {
        if let (Some(tier), Some((ticket, cover))) = (&self.near, spot) {
            tier.fill(key, ticket, shown, cover);
        }
    }

    pub(crate) fn near_ttl_max(&self) -> Duration {
        self.near.as_ref().map_or(FOR_EVER, |tier| tier.ttl_max)
    }

    pub(crate) fn hash(&self, key: &K) -> u64 {
        hash_of(&self.hasher, key)
    }

    pub(crate) async fn execute(&self, op: Op, options: CallOptions) -> Result<Reply, CacheError> {
        self.answered(self.backing.execute(op, options).await)
    }

    pub(crate) fn answered(&self, outcome: Result<Reply, OpError>) -> Result<Reply, CacheError> {
        if outcome.is_err() {
            self.counters.add(Count::ClusterError);
        }
        Ok(outcome?)
    }

    fn fill_options(&self) -> CallOptions {
        CallOptions {
            ack: self.settings.ack,
            timeout: Some(self.settings.cluster_timeout),
            // A retry could undo what came after the first attempt.
            retry_ambiguous: false,
            once: false,
        }
    }

    /// A write of this key begins, in L1: see [`Near::begin_write`](crate::near::Near::begin_write).
    pub(crate) fn near_begin_write(&self, key: &K, cluster_key: &[u8]) -> Option<Ticket> {
        let tier = self.near.as_ref()?;
        let slot = Slot::of_key(cluster_key);
        // So that what is written can stay, if this node owns the slot; others tell only of slots that were read.
        let _told = self.backing.watch_own(slot);
        Some(tier.begin_write(key, slot, self.clock.at_least()))
    }

    /// It has ended; `written` is what it wrote, if that is known.
    pub(crate) fn near_end_write(&self, key: &K, ticket: Ticket, written: Option<Shown<V>>) {
        if let Some(tier) = &self.near {
            tier.end_write(key, ticket, written.filter(|_| self.backing.dates_gets()));
        }
    }

    pub(crate) fn write_options(&self) -> CallOptions {
        CallOptions { ack: self.settings.ack, retry_ambiguous: true, ..CallOptions::default() }
    }
}

pub(crate) fn odd_reply() -> CacheError {
    OpError::Ambiguous { why: "the owner answered something else".to_owned() }.into()
}
