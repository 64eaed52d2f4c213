//! The local tier (L1): decoded values of this process, bounded in entries and bytes, each for a short time.
//!
//! A value read from the cluster or loaded is older than the moment it arrives: in between, this process may have written
//! or invalidated the key, and the old value must not come back. So whoever goes to fetch a value takes a [`Ticket`] before,
//! which is the key's write stamp, and the value is taken in only if the stamp is still the same. Writers
//! raise the stamp twice: before their write begins, with the entry removed, and when its outcome is known. A writer whose
//! own ticket is still good then leaves its value; when two writes overlapped nobody knows which came last, and
//! nothing is left.
//!
//! Other nodes' writes are not seen until the entry's time is up.

mod shard;
mod sieve;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use slotmesh_slots::{MonoTime, Version};

use self::shard::{Hasher, Removed, Shard};
use crate::key::CacheKey;

/// Locks of an L1: enough that callers on a few dozen cores rarely meet.
const SHARDS_MAX: usize = 16;

/// With fewer entries than this per shard, the shards would fill too unevenly.
const ENTRIES_PER_SHARD_MIN: usize = 256;

/// Bounds of an L1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
}

/// A value as it arrives.
pub(crate) struct Fresh<V> {
    pub(crate) value: Arc<V>,
    /// The version of the cluster's entry; the lowest one if the cluster did not take it.
    pub(crate) version: Version,
    /// How long it may be served.
    pub(crate) ttl: Duration,
    /// Its size when encoded, for want of knowing its size in memory.
    pub(crate) bytes: usize,
}

/// The write stamp of a key at some moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket(u64);

/// The local tier.
pub(crate) struct Near<K, V> {
    shards: Box<[RwLock<Shard<K, V>>]>,
    hasher: Hasher,
}

impl<K: CacheKey, V> Near<K, V> {
    pub(crate) fn new(limits: Limits) -> Self {
        let wanted = (limits.entries / ENTRIES_PER_SHARD_MIN).clamp(1, SHARDS_MAX);
        let count = 1 << wanted.ilog2();
        let each = Limits { entries: limits.entries / count, bytes: limits.bytes / count };
        let shards = (0..count).map(|_| RwLock::new(Shard::new(each))).collect();
        Self { shards, hasher: Hasher::new() }
    }

    /// The value, if it is here and its time is not up.
    pub(crate) fn get(&self, key: &K, now: MonoTime) -> Option<Arc<V>> {
        let hash = self.hasher.hash_one(key);
        self.shard(hash).read().get(key, hash, now)
    }

    /// To be taken before the value is fetched.
    pub(crate) fn ticket(&self, key: &K) -> Ticket {
        let hash = self.hasher.hash_one(key);
        self.shard(hash).read().ticket(hash)
    }

    /// Takes in a value fetched with this ticket, if it is still good.
    pub(crate) fn fill(&self, key: &K, ticket: Ticket, fresh: Fresh<V>, now: MonoTime) {
        let hash = self.hasher.hash_one(key);
        let mut removed = Removed::new();
        {
            let mut shard = self.shard(hash).write();
            if shard.ticket(hash) == ticket {
                shard.insert(key, hash, fresh, now, &mut removed);
            }
        }
    }

    /// A write of this key begins: nothing fetched before it is taken in any more.
    pub(crate) fn begin_write(&self, key: &K) -> Ticket {
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shard(hash).write();
        let removed = shard.remove(key, hash);
        let ticket = shard.stamp(hash);
        drop(shard);
        drop(removed);
        ticket
    }

    /// The write that began with this ticket has ended; `fresh` is what it wrote, if that is known.
    pub(crate) fn end_write(
        &self,
        key: &K,
        ticket: Ticket,
        fresh: Option<Fresh<V>>,
        now: MonoTime,
    ) {
        let hash = self.hasher.hash_one(key);
        let mut removed = Removed::new();
        let mut shard = self.shard(hash).write();
        let alone = shard.ticket(hash) == ticket;
        removed.extend(shard.remove(key, hash));
        if let Some(fresh) = fresh.filter(|_| alone) {
            shard.insert(key, hash, fresh, now, &mut removed);
        }
        shard.stamp(hash);
        drop(shard);
    }

    /// Entries and estimated bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        let sizes = self.shards.iter().map(|shard| shard.read().size());
        sizes.fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1))
    }

    fn shard(&self, hash: u64) -> &RwLock<Shard<K, V>> {
        &self.shards[(hash >> 32) as usize & (self.shards.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotmesh_slots::{Epoch, Seq};

    const TTL: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> MonoTime {
        MonoTime::from_micros(millis * 1_000)
    }

    fn near(entries: usize, bytes: usize) -> Near<u32, u64> {
        Near::new(Limits { entries, bytes })
    }

    fn fresh(value: u64, seq: u64) -> Fresh<u64> {
        let version = Version::new(Epoch(1), Seq(seq));
        Fresh { value: Arc::new(value), version, ttl: TTL, bytes: 8 }
    }

    fn check(near: &Near<u32, u64>, key: u32, now: MonoTime, expected: Option<u64>) {
        assert_eq!(near.get(&key, now).as_deref().copied(), expected);
    }

    #[test]
    fn a_value_is_served_until_its_time_is_up() {
        let near = near(10, 10_000);
        near.fill(&1, near.ticket(&1), fresh(5, 1), at(0));
        check(&near, 1, at(999), Some(5));
        check(&near, 1, at(1_000), None);
        near.fill(&2, near.ticket(&2), fresh(6, 2), at(1_000));
        assert_eq!(near.size().0, 1, "the expired one was cleared away");
    }

    #[test]
    fn a_slow_read_does_not_bring_back_what_was_overwritten_or_invalidated() {
        let near = near(10, 10_000);
        let (before, write) = (near.ticket(&1), near.begin_write(&1));
        let during = near.ticket(&1);
        near.fill(&1, before, fresh(5, 1), at(0));
        check(&near, 1, at(0), None);
        near.end_write(&1, write, None, at(0));
        near.fill(&1, during, fresh(5, 1), at(0));
        check(&near, 1, at(0), None);
        near.fill(&1, near.ticket(&1), fresh(7, 3), at(0));
        check(&near, 1, at(0), Some(7));
    }

    #[test]
    fn a_read_during_a_write_is_erased_by_its_end() {
        let near = near(10, 10_000);
        let write = near.begin_write(&1);
        near.fill(&1, near.ticket(&1), fresh(5, 1), at(0));
        check(&near, 1, at(0), Some(5));
        near.end_write(&1, write, None, at(0));
        check(&near, 1, at(0), None);
    }

    #[test]
    fn of_overlapping_writes_none_is_kept() {
        for first_ends_first in [true, false] {
            let near = near(10, 10_000);
            let (a, b) = (near.begin_write(&1), near.begin_write(&1));
            let mut ends = [(a, fresh(5, 2)), (b, fresh(6, 1))];
            if !first_ends_first {
                ends.reverse();
            }
            for (ticket, fresh) in ends {
                near.end_write(&1, ticket, Some(fresh), at(0));
            }
            check(&near, 1, at(0), None);
        }
        let near = near(10, 10_000);
        let alone = near.begin_write(&1);
        near.end_write(&1, alone, Some(fresh(5, 2)), at(0));
        check(&near, 1, at(0), Some(5));
    }

    #[test]
    fn an_older_version_does_not_replace_a_newer_one() {
        let near = near(10, 10_000);
        let (slow, fast) = (near.ticket(&1), near.ticket(&1));
        near.fill(&1, fast, fresh(6, 2), at(0));
        near.fill(&1, slow, fresh(5, 1), at(0));
        check(&near, 1, at(0), Some(6));
        near.fill(&1, slow, fresh(5, 1), at(2_000));
        check(&near, 1, at(2_000), Some(5));
    }

    #[test]
    fn it_stays_within_its_bounds() {
        for (entries, bytes) in [(10, 1 << 20), (5_000, 20_000), (1, 1_000), (3_000, 0)] {
            let near = near(entries, bytes);
            for key in 0..20_000 {
                near.fill(&key, near.ticket(&key), fresh(1, 1), at(0));
                check(&near, key, at(0), (bytes > 0).then_some(1));
            }
            let (held, size) = near.size();
            assert!(held <= entries && size <= bytes, "{held} entries, {size} bytes");
            assert!(bytes == 0 || held > 0);
        }
    }

    #[test]
    fn what_is_read_survives_a_scan() {
        let near = near(100, 1 << 20);
        let fill = |key| near.fill(&key, near.ticket(&key), fresh(1, 1), at(0));
        (0..50).for_each(fill);
        for key in 1_000..3_000 {
            fill(key);
            check(&near, key % 50, at(0), Some(1));
        }
    }
}
