use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashTable;
use slotmesh_slots::{MonoTime, Version};

use super::sieve::Sieve;
use super::{Fresh, Limits, Ticket};
use crate::key::CacheKey;

/// Write stamps of a shard; keys share them by hash. Sharing costs a lost fill now and then, never a wrong one.
const STAMPS: usize = 64;

/// Expired entries that an insertion clears away: more than one, so that they become fewer.
const CLEARED_PER_INSERT: usize = 4;

/// What an entry takes beside its key's and value's own bytes: the place in the queue, the index, two allocations.
const ENTRY_OVERHEAD_BYTES: usize = 128;

pub(super) struct Shard<K, V> {
    index: HashTable<u32>,
    queue: Sieve<Entry<K, V>>,
    stamps: [u64; STAMPS],
    bytes: usize,
    limits: Limits,
}

struct Entry<K, V> {
    key: K,
    hash: u64,
    value: Arc<V>,
    version: Version,
    deadline: MonoTime,
    bytes: usize,
}

/// Entries taken out, to be dropped when the lock is no longer held.
pub(super) type Removed<V> = Vec<Arc<V>>;

impl<K: CacheKey, V> Shard<K, V> {
    pub(super) fn new(limits: Limits) -> Self {
        let index = HashTable::new();
        Self { index, queue: Sieve::new(), stamps: [0; STAMPS], bytes: 0, limits }
    }

    pub(super) fn size(&self) -> (usize, usize) {
        (self.queue.len(), self.bytes)
    }

    pub(super) fn get(&self, key: &K, hash: u64, now: MonoTime) -> Option<Arc<V>> {
        let at = self.find(key, hash)?;
        let entry = self.queue.get(at).filter(|entry| entry.deadline > now)?;
        let value = Arc::clone(&entry.value);
        self.queue.visit(at);
        Some(value)
    }

    pub(super) fn ticket(&self, hash: u64) -> Ticket {
        Ticket(self.stamps[stamp_of(hash)])
    }

    /// Makes every ticket for this key so far worthless, and gives out a new one.
    pub(super) fn stamp(&mut self, hash: u64) -> Ticket {
        self.stamps[stamp_of(hash)] += 1;
        self.ticket(hash)
    }

    pub(super) fn remove(&mut self, key: &K, hash: u64) -> Option<Arc<V>> {
        let at = self.find(key, hash)?;
        self.remove_at(at)
    }

    /// Takes the value in, unless the entry that is there is newer.
    pub(super) fn insert(
        &mut self,
        key: &K,
        hash: u64,
        fresh: Fresh<V>,
        now: MonoTime,
        removed: &mut Removed<V>,
    ) {
        if let Some(at) = self.find(key, hash) {
            let newer =
                |entry: &&Entry<K, V>| entry.deadline > now && entry.version > fresh.version;
            if self.queue.get(at).filter(newer).is_some() {
                return removed.push(fresh.value);
            }
            removed.extend(self.remove_at(at));
        }
        self.clear_expired(now, removed);
        let bytes = fresh.bytes.saturating_add(ENTRY_OVERHEAD_BYTES + size_of::<K>());
        if bytes > self.limits.bytes || self.limits.entries == 0 {
            return removed.push(fresh.value);
        }
        while self.queue.len() >= self.limits.entries || self.bytes + bytes > self.limits.bytes {
            let Some(victim) = self.queue.victim() else { break };
            removed.extend(self.remove_at(victim));
        }
        let Fresh { value, version, ttl, .. } = fresh;
        let entry = Entry { key: key.clone(), hash, value, version, deadline: now + ttl, bytes };
        let at = self.queue.push(entry);
        self.bytes += bytes;
        let queue = &self.queue;
        self.index.insert_unique(hash, at, |&at| queue.get(at).map_or(0, |entry| entry.hash));
    }

    /// Entries live equally long, or shorter: the oldest ones expire first.
    fn clear_expired(&mut self, now: MonoTime, removed: &mut Removed<V>) {
        for _ in 0..CLEARED_PER_INSERT {
            let Some(oldest) = self.queue.oldest() else { return };
            if self.queue.get(oldest).is_some_and(|entry| entry.deadline > now) {
                return;
            }
            removed.extend(self.remove_at(oldest));
        }
    }

    fn remove_at(&mut self, at: u32) -> Option<Arc<V>> {
        let entry = self.queue.remove(at)?;
        if let Ok(indexed) = self.index.find_entry(entry.hash, |&other| other == at) {
            indexed.remove();
        }
        self.bytes -= entry.bytes;
        Some(entry.value)
    }

    fn find(&self, key: &K, hash: u64) -> Option<u32> {
        let same = |&at: &u32| self.queue.get(at).is_some_and(|entry| entry.key == *key);
        self.index.find(hash, same).copied()
    }
}

/// Which stamp a key has. Shards go by the upper half of the hash, the index by its ends.
const fn stamp_of(hash: u64) -> usize {
    (hash >> 16) as usize % STAMPS
}

/// One hash function for all shards.
pub(super) type Hasher = RandomState;
