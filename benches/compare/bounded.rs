//! Caches with a bound in entries, by one trait, for hit ratios.

use ahash::RandomState;

/// A rival with a bound.
pub trait Bounded {
    /// Whether the key is there.
    fn get(&self, key: u64) -> bool;

    /// Puts it in, after which the bound holds.
    fn put(&self, key: u64);

    /// Entries that it has.
    fn len(&self) -> usize;

    /// Whether it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// TinyLFU.
#[derive(Debug)]
pub struct Moka(moka::sync::Cache<u64, (), RandomState>);

impl Bounded for Moka {
    fn get(&self, key: u64) -> bool {
        self.0.get(&key).is_some()
    }

    fn put(&self, key: u64) {
        self.0.insert(key, ());
        self.0.run_pending_tasks();
    }

    fn len(&self) -> usize {
        self.0.entry_count() as usize
    }
}

/// Clock-PRO, which it calls S3-FIFO.
pub struct QuickCache(quick_cache::sync::Cache<u64, (), quick_cache::UnitWeighter, RandomState>);

impl Bounded for QuickCache {
    fn get(&self, key: u64) -> bool {
        self.0.get(&key).is_some()
    }

    fn put(&self, key: u64) {
        self.0.insert(key, ());
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// As it is told.
pub struct Foyer(foyer_memory::Cache<u64, (), RandomState>);

impl Bounded for Foyer {
    fn get(&self, key: u64) -> bool {
        self.0.get(&key).is_some()
    }

    fn put(&self, key: u64) {
        drop(self.0.insert(key, ()));
    }

    fn len(&self) -> usize {
        self.0.entries()
    }
}

/// moka with room for so many.
#[must_use]
pub fn moka(entries: usize, hasher: RandomState) -> Moka {
    let builder = moka::sync::Cache::builder().max_capacity(entries as u64);
    Moka(builder.build_with_hasher(hasher))
}

/// quick_cache with room for so many, in one shard.
///
/// # Panics
/// When it refuses its own options.
#[must_use]
pub fn quick_cache(entries: usize, hasher: RandomState) -> QuickCache {
    let options = quick_cache::OptionsBuilder::new()
        .shards(1)
        .estimated_items_capacity(entries)
        .weight_capacity(entries as u64)
        .build()
        .expect("both capacities are set");
    QuickCache(quick_cache::sync::Cache::with_options(
        options,
        quick_cache::UnitWeighter,
        hasher,
        quick_cache::sync::DefaultLifecycle::default(),
    ))
}

/// foyer by w-TinyLFU with room for so many, in one shard.
#[must_use]
pub fn foyer_lfu(entries: usize, hasher: RandomState) -> Foyer {
    foyer(entries, foyer_memory::LfuConfig::default().into(), hasher)
}

/// foyer by S3-FIFO with room for so many, in one shard.
#[must_use]
pub fn foyer_s3fifo(entries: usize, hasher: RandomState) -> Foyer {
    foyer(entries, foyer_memory::S3FifoConfig::default().into(), hasher)
}

fn foyer(entries: usize, eviction: foyer_memory::EvictionConfig, hasher: RandomState) -> Foyer {
    let builder = foyer_memory::CacheBuilder::new(entries)
        .with_shards(1)
        .with_eviction_config(eviction)
        .with_hash_builder(hasher);
    Foyer(builder.build())
}

/// How many of the keys are there when read, each being put in when it is not.
///
/// # Panics
/// When it holds more than it may.
pub fn hits(cache: &impl Bounded, entries: usize, keys: &[u64]) -> usize {
    let read = |key: u64| {
        let there = cache.get(key);
        if !there {
            cache.put(key);
            assert!(cache.len() <= entries, "{} entries in room for {entries}", cache.len());
        }
        there
    };
    keys.iter().filter(|&&key| read(key)).count()
}
