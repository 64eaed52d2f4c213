//! The local tier (L1): decoded values of this process, bounded in entries and bytes, each for a short time.
//!
//! # Nothing old comes back
//!
//! A value read from the cluster or loaded is older than the moment it arrives: in between, this process may have written
//! or invalidated the key, and the old value must not come back. So whoever goes to fetch a value takes a [`Ticket`] before,
//! which counts the key's changes, and the value is taken in only if there were none since. Writers
//! count twice: before their write begins, with the entry removed, and when its outcome is known. A writer whose
//! own ticket is still good then leaves its value; when two writes overlapped nobody knows which came last, and
//! nothing is left.
//!
//! Of other writers' changes the slot's owner tells (`slotmesh-coherence`, and there is why nothing is served beyond the bound). What is
//! told counts as a change, and kills the entry unless that is as new. An entry is served only while its slot's owner was heard of lately,
//! and none whose slot was dropped since. Values that no owner speaks for, as those of an owner to which no stream is open yet, are
//! served until the bound is over, counted from before they were asked for: nobody can have overwritten them earlier.
//!
//! Telling runs under the slot's lock where this node owns it, so it neither drops a value, whose `Drop` may do anything, nor
//! waits for a lock that anybody holds for long.
//!
//! # A hit
//!
//! hashes the key, takes a shared lock, and reads one line of the index, the entry (24 bytes beside key and value), the key where
//! that is on the heap, and two words that say whether its owner was heard of. It counts in the `Arc`, and in the entry until that has been
//! read three times since the hand of eviction came by. There is no log of reads and no maintenance that a reader might have to do. Locks
//! are as many as entries allow and each on lines of its own, so that threads rarely meet at one; readers of one hot key meet at
//! its `Arc` anyway.
//!
//! Of some 30 ns with 64 k entries 20 are four locked instructions (lock, clone, unlock, drop), which quick_cache needs as well; 4 are
//! the clock, 1 the words of the owner, and the rest is the index's arithmetic and what larger entries cost in cache misses, which
//! with a million entries becomes the most. So reads are 0.6 to 0.8 times as fast as quick_cache's, which checks nothing, and 3 to 6
//! times as fast as moka's; `compare_near` prints all of it. What would make them faster has been left out:
//! * a front of each thread's own saves the lock for hot keys (research: 2x at 64 k entries), but holds values that were evicted, beyond
//!   the bound, and each removal would have to reach all of them;
//! * a spinning lock saves one of the four instructions, but whoever meets a preempted holder waits for the scheduler;
//! * entries aligned to cache lines save 1 ns and take 16 bytes more.
//!
//! # Memory
//!
//! For a key of 16 bytes in a box and a value of 32 in an `Arc` the allocator is asked for 122 bytes: 64 for those two, 48 for the entry, 5.3
//! for the index, 4.5 for the memory of evicted keys. Links in place of a hand would be 8 more.
//!
//! # What stays
//!
//! S3-FIFO (Yang, Zhang, Qiu, Yue and Rashmi: FIFO queues are all you need for cache eviction, SOSP 2023), whose small queue a duel of
//! simulations sizes (`duel`), and whose main queue takes new entries until it is full (`shard`). Over the eleven traces of
//! `compare_near_traces`, in 74 sizes, it is 0.2 points above the best of quick_cache, foyer's S3-FIFO and w-TinyLFU, and moka in the mean,
//! and at worst 2.3 points below that.

mod bound;
mod duel;
mod entry;
mod ghosts;
mod hash;
mod index;
mod packed;
mod shard;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use slotmesh_coherence::{KeyHasher, Sink, Subscriber, Watcher};
use slotmesh_slots::{MonoTime, NodeId, Seq, Slot, Version};

use self::bound::Bound;
pub use self::bound::Cover;
use self::duel::Duel;
pub(crate) use self::hash::hash_of;
use self::index::Index;
use self::shard::{Removed, Scene, Shard};
use crate::key::CacheKey;

/// Locks of an L1: enough that callers on a few dozen cores rarely meet.
const SHARDS_MAX: usize = 64;

/// With fewer entries than this per shard, the shards would fill too unevenly.
const ENTRIES_PER_SHARD_MIN: usize = 256;

/// With fewer bytes, too little would be too large for a shard.
const BYTES_PER_SHARD_MIN: usize = 256 << 10;

/// Of the bytes, the part that the duel may take at most; a smaller tier does without.
const DUEL_SHARE: usize = 32;

/// Bounds of an L1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries that it holds at most.
    pub entries: usize,
    /// Bytes that it takes at most, estimated, its own for each entry included.
    pub bytes: usize,
}

/// A value as it arrives.
#[derive(Debug)]
pub struct Fresh<V> {
    /// None if there is no such value, which is worth knowing too.
    pub value: Option<Arc<V>>,
    /// The version of the cluster's entry; the lowest one if the cluster did not take it.
    pub version: Version,
    /// How long it may be served, counted from its ticket.
    pub ttl: Duration,
    /// How long after that it may be served to who asks for stale values.
    pub stale_for: Duration,
    /// Its size and its key's when encoded, for want of knowing the sizes in memory.
    pub bytes: usize,
}

/// The state of a key at some moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    at: MonoTime,
    slot: Slot,
    /// Of the key's hash.
    changes: u64,
    /// Of the slot.
    generation: slotmesh_coherence::Ticket,
}

/// What is known of a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<V> {
    /// Its value.
    Value(Arc<V>),
    /// That it has none.
    Absent,
    /// Nothing.
    Nothing,
}

/// An entry as it is.
#[derive(Debug)]
pub struct InNear<V> {
    /// None if there is no such value.
    pub value: Option<Arc<V>>,
    /// The version of the cluster's entry; the lowest one if the cluster did not take it.
    pub version: Version,
    /// How long it will be served yet, at most.
    pub left: Duration,
}

impl<V> Lookup<V> {
    /// The value, if there is one.
    #[must_use]
    pub fn value(self) -> Option<Arc<V>> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Nothing => None,
        }
    }
}

/// The local tier.
pub struct Near<K, V> {
    shards: Box<[Locked<K, V>]>,
    duel: Option<Duel>,
    hasher: KeyHasher,
    bound: Bound,
}

/// On cache lines of its own, two of them, as processors fetch them in pairs.
#[repr(align(128))]
struct Locked<K, V>(RwLock<Shard<K, V>>);

impl<K: CacheKey, V> Near<K, V> {
    /// An empty one, which serves nothing that was overwritten longer ago than `max_staleness`, by what `subscriber` hears.
    /// To be registered with that.
    #[must_use]
    pub fn new(
        limits: Limits,
        hasher: KeyHasher,
        subscriber: Arc<Subscriber>,
        max_staleness: Duration,
    ) -> Self {
        let entries_for = |bytes: usize| limits.entries.min(bytes / Shard::<K, V>::OVERHEAD_BYTES);
        let duel = Some(limits.bytes / DUEL_SHARE).filter(|share| *share >= Duel::BYTES_MAX);
        let duel = duel.and_then(|_| Duel::new(entries_for(limits.bytes)));
        let bytes = limits.bytes - duel.as_ref().map_or(0, |_| Duel::BYTES_MAX);
        let entries = entries_for(bytes);
        let wanted = (entries / ENTRIES_PER_SHARD_MIN).min(bytes / BYTES_PER_SHARD_MIN);
        let count = 1 << wanted.clamp(1, SHARDS_MAX).ilog2();
        let each = (entries / count).min(Index::ENTRIES_MAX);
        let each = Limits { entries: each, bytes: bytes / count };
        let shards = (0..count).map(|_| Locked(RwLock::new(Shard::new(each)))).collect();
        Self { shards, duel, hasher, bound: Bound::new(subscriber, max_staleness) }
    }

    /// The value, if it is here and its time is not up.
    pub fn get(&self, key: &K, now: MonoTime) -> Option<Arc<V>> {
        self.lookup(key, now).value()
    }

    /// What is here and may be shown now. `now` is not before the true time.
    pub fn lookup(&self, key: &K, now: MonoTime) -> Lookup<V> {
        self.read(key, now, false)
    }

    /// What is here and may be shown now, without counting that as a use. `now` is not before the true time.
    pub fn peek(&self, key: &K, now: MonoTime) -> Option<InNear<V>> {
        let hash = self.hash(key);
        self.shard(hash).read().peek(key, hash, (&self.bound, now))
    }

    /// As [`Near::lookup`], but values as well whose time is up and which may be shown nevertheless.
    pub fn get_stale(&self, key: &K, now: MonoTime) -> Lookup<V> {
        self.read(key, now, true)
    }

    /// To be taken before the value is fetched from its slot. `now` is not after the true time.
    pub fn ticket(&self, key: &K, slot: Slot, now: MonoTime) -> Ticket {
        let hash = self.hash(key);
        self.ticket_at(hash, slot, now, &self.shard(hash).read())
    }

    /// What speaks for a value that the slot's owner answered with, telling of writes on this stream.
    #[must_use]
    pub fn admit(&self, ticket: Ticket, owner: NodeId, by: Watcher) -> Cover {
        let stamp = self.bound.subscriber.admit(ticket.slot, ticket.generation, owner, by);
        stamp.map_or(Cover::Nobody, Cover::Told)
    }

    /// What speaks for a value that this node writes, or is asked for as its slot's owner: nobody if it does not keep values of the slot yet.
    #[must_use]
    pub fn own_cover(&self, ticket: Ticket) -> Cover {
        let stamp = self.bound.subscriber.admit_own(ticket.slot, ticket.generation);
        stamp.map_or(Cover::Nobody, Cover::Told)
    }

    /// Takes in a value fetched with this ticket, if it is still good.
    pub fn fill(&self, key: &K, ticket: Ticket, fresh: Fresh<V>, cover: Cover) {
        let hash = self.hash(key);
        self.note(hash);
        let mut removed = Removed::new();
        let mut shard = self.shard(hash).write();
        if shard.is_good(hash, ticket, (fresh.version, cover)) {
            let scene = self.scene(ticket.at);
            shard.insert((key, hash), (ticket, cover), fresh, &scene, &mut removed);
        }
        drop(shard);
    }

    /// A write of this key begins: nothing fetched before it is taken in any more. `now` is not after the true time.
    pub fn begin_write(&self, key: &K, slot: Slot, now: MonoTime) -> Ticket {
        let hash = self.hash(key);
        let mut shard = self.shard(hash).write();
        let removed = shard.remove(key, hash, &self.hasher);
        shard.note_change(hash);
        let ticket = self.ticket_at(hash, slot, now, &shard);
        drop(shard);
        drop(removed);
        ticket
    }

    /// The write that began with this ticket has ended; `fresh` is what it wrote, if that is known.
    pub fn end_write(&self, key: &K, ticket: Ticket, fresh: Option<Fresh<V>>) {
        let hash = self.hash(key);
        let mut removed = Removed::new();
        let mut shard = self.shard(hash).write();
        let cover = self.own_cover(ticket);
        let alone = |version| shard.is_good(hash, ticket, (version, cover));
        let is_latest = fresh.as_ref().is_some_and(|fresh| alone(fresh.version));
        removed.extend(shard.remove(key, hash, &self.hasher));
        match fresh {
            Some(fresh) if is_latest => {
                let scene = self.scene(ticket.at);
                shard.insert((key, hash), (ticket, cover), fresh, &scene, &mut removed);
            }
            _ => removed.extend(fresh.and_then(|fresh| fresh.value)),
        }
        shard.note_change(hash);
        drop(shard);
    }

    /// Entries and estimated bytes.
    pub fn size(&self) -> (usize, usize) {
        let sizes = self.shards.iter().map(|shard| shard.0.read().size());
        sizes.fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1))
    }

    /// How often a value was withheld for the bound, and how far behind what is shown may be now.
    pub fn bounded(&self, now: MonoTime) -> (u64, Duration) {
        (self.bound.withheld(), self.bound.staleness(now))
    }

    fn read(&self, key: &K, now: MonoTime, stale: bool) -> Lookup<V> {
        let hash = self.hash(key);
        let (found, counted) = self.shard(hash).read().get(key, hash, (&self.bound, now), stale);
        if counted {
            self.note(hash);
        }
        found
    }

    fn note(&self, hash: u64) {
        if let Some(duel) = &self.duel {
            duel.note(hash);
        }
    }

    fn scene(&self, now: MonoTime) -> Scene<'_> {
        let small_share = self.duel.as_ref().map_or(Duel::SHARE_WITHOUT, Duel::small_share);
        Scene { hasher: &self.hasher, bound: &self.bound, now, small_share }
    }

    fn ticket_at(&self, hash: u64, slot: Slot, at: MonoTime, shard: &Shard<K, V>) -> Ticket {
        let generation = self.bound.subscriber.ticket(slot);
        Ticket { at, slot, changes: shard.changes(hash), generation }
    }

    fn hash(&self, key: &K) -> u64 {
        hash_of(&self.hasher, key)
    }

    fn shard(&self, hash: u64) -> &RwLock<Shard<K, V>> {
        &self.shards[hash as usize & (self.shards.len() - 1)].0
    }
}

impl<K: CacheKey, V: Send + Sync> Sink for Near<K, V> {
    fn invalidate(&self, slot: Slot, seq: Seq, hash: u64) {
        self.shard(hash).write().note_told((slot, seq), hash, &self.hasher);
    }
}

impl<K, V> std::fmt::Debug for Near<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Near").field("shards", &self.shards.len()).finish_non_exhaustive()
    }
}
