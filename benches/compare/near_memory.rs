//! Bytes that the local tier and its rivals ask the allocator for, for each entry of a full cache.
//!
//! `cargo bench -p slotmesh-benches-compare --bench compare_near_memory`
//!
//! Keys are 16 bytes in a box, values 32 bytes: in an `Arc`, or, for quick_cache as it was weighed before, in `Bytes`. Everything is
//! counted: key, value, and what the cache has beside its entries.

use std::alloc::System;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use bytes::Bytes;
use slotmesh_benches::key;
use slotmesh_cache::near::{Cover, Fresh, Limits, Near};
use slotmesh_coherence::{KeyHasher, Subscriber};
use slotmesh_slots::{MonoTime, NodeId, Slot, Version};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

type Key = Box<[u8]>;
type Value = [u8; 32];

/// What has been asked for and not given back.
fn held() -> isize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated as isize - stats.bytes_deallocated as isize
}

/// How many keys are put into room for how many.
#[derive(Clone, Copy)]
struct Load {
    keys: u32,
    room: usize,
}

impl Load {
    /// Makes a cache, fills it, and prints what it holds.
    fn weigh<C>(
        self,
        name: &str,
        make: impl FnOnce(usize) -> C,
        put: impl Fn(&C, Key),
        len: impl Fn(&C) -> usize,
    ) {
        let before = held();
        let cache = make(self.room);
        (0..self.keys).for_each(|number| put(&cache, key(number).as_slice().into()));
        let (bytes, entries) = (held() - before, len(&cache));
        let each = bytes as f64 / entries as f64;
        println!("{name:>22} {:>9} {entries:>9} {each:>9.1}", self.room);
    }
}

fn ours(load: Load) {
    // One for all local tiers of a node.
    let me = NodeId::new(1).expect("not zero");
    let subscriber = Arc::new(Subscriber::new(me, Box::new(|_| {})));
    let make = |entries| {
        let limits = Limits { entries, bytes: 1 << 40 };
        let (hasher, hour) = (KeyHasher::new(1, b"bench:1:"), Duration::from_secs(3_600));
        Near::new(limits, hasher, Arc::clone(&subscriber), hour)
    };
    let put = |near: &Near<Key, Value>, key: Key| {
        let ticket = near.ticket(&key, Slot::of_key(&key), MonoTime::ZERO);
        let fresh = Fresh {
            value: Some(Arc::new([1; 32])),
            version: Version::default(),
            ttl: Duration::from_secs(1),
            stale_for: Duration::ZERO,
            bytes: 48,
        };
        near.fill(&key, ticket, fresh, Cover::Nobody);
    };
    load.weigh("local tier", make, put, |near| near.size().0);
}

fn quick_cache<V: Clone>(load: Load, name: &str, value: impl Fn() -> V) {
    let make = |entries| {
        quick_cache::sync::Cache::with(
            entries,
            entries as u64,
            quick_cache::UnitWeighter,
            RandomState::new(),
            quick_cache::sync::DefaultLifecycle::default(),
        )
    };
    let put = |cache: &quick_cache::sync::Cache<Key, V, _, _>, key| cache.insert(key, value());
    load.weigh(name, make, put, quick_cache::sync::Cache::len);
}

fn foyer(load: Load) {
    let make = |entries| {
        foyer_memory::CacheBuilder::new(entries)
            .with_eviction_config(foyer_memory::S3FifoConfig::default())
            .with_hash_builder(RandomState::new())
            .build()
    };
    let put = |cache: &foyer_memory::Cache<Key, Arc<Value>, RandomState>, key| {
        drop(cache.insert(key, Arc::new([1; 32])));
    };
    load.weigh("foyer S3", make, put, foyer_memory::Cache::entries);
}

fn moka(load: Load) {
    let make = |entries| {
        let builder = moka::sync::Cache::builder().max_capacity(entries as u64);
        builder.build_with_hasher(RandomState::new())
    };
    let put = |cache: &moka::sync::Cache<Key, Arc<Value>, RandomState>, key| {
        cache.insert(key, Arc::new([1; 32]));
    };
    let len = |cache: &moka::sync::Cache<Key, Arc<Value>, RandomState>| {
        cache.run_pending_tasks();
        cache.entry_count() as usize
    };
    load.weigh("moka", make, put, len);
}

fn main() {
    println!("{:>22} {:>9} {:>9} {:>9}", "bytes asked for", "room", "entries", "per entry");
    for (keys, room) in [(1_000_000, 1_250_000), (1_500_000, 1_000_000), (20_000, 10_000)] {
        let load = Load { keys, room };
        ours(load);
        quick_cache(load, "quick_cache, Arc", || Arc::new([1_u8; 32]));
        quick_cache(load, "quick_cache, Bytes", || Bytes::copy_from_slice(&[1; 32]));
        foyer(load);
        moka(load);
    }
}
