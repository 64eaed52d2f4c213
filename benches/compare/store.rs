//! The store beside the maps and caches that a Rust program would use instead: speed in one process, interleaved; memory in a
//! process for each.
//!
//! `cargo bench -p slotmesh-benches-compare --bench compare_store [-- --quick]`
//!
//! All hold `Bytes` under `Box<[u8]>` with the same hash function; the store also keeps versions, a digest, byte counts and what
//! eviction needs. Caches have room for everything. A read takes a handle to the value, a write copies it out of a larger frame.

use std::hint::black_box;
use std::time::Duration;

use ahash::RandomState;
use bytes::Bytes;
use slotmesh_benches::maps::{Dashmap, Side, VALUE_BYTES, Workload, memory, new_store, weighed};
use slotmesh_benches::{key, median, uniform, zipf};
use slotmesh_slots::MonoTime;

const SEQUENCE: usize = 1 << 21;
/// As many as a small cache has, besides the many.
const FEW_KEYS: u32 = 20_000;
const NAMES: [&str; 7] = ["store", "dashmap", "moka", "quick_cache", "foyer", "papaya", "scc"];

type Key = Box<[u8]>;

struct Moka(moka::sync::Cache<Key, Bytes, RandomState>);

impl Side for Moka {
    fn get(&self, key: &[u8]) -> bool {
        black_box(self.0.get(key)).is_some()
    }

    fn put(&self, key: &[u8], value: &Bytes, _: Option<MonoTime>) {
        self.0.insert(key.into(), Bytes::copy_from_slice(value));
    }
}

struct QuickCache(quick_cache::sync::Cache<Key, Bytes, quick_cache::UnitWeighter, RandomState>);

impl Side for QuickCache {
    fn get(&self, key: &[u8]) -> bool {
        black_box(self.0.get(key)).is_some()
    }

    fn put(&self, key: &[u8], value: &Bytes, _: Option<MonoTime>) {
        self.0.insert(key.into(), Bytes::copy_from_slice(value));
    }
}

struct Foyer(foyer_memory::Cache<Key, Bytes, RandomState>);

impl Side for Foyer {
    fn get(&self, key: &[u8]) -> bool {
        black_box(self.0.get(key).map(|entry| entry.value().clone())).is_some()
    }

    fn put(&self, key: &[u8], value: &Bytes, _: Option<MonoTime>) {
        black_box(self.0.insert(key.into(), Bytes::copy_from_slice(value)));
    }
}

struct Papaya(papaya::HashMap<Key, Bytes, RandomState>);

impl Side for Papaya {
    fn get(&self, key: &[u8]) -> bool {
        black_box(self.0.pin().get(key).cloned()).is_some()
    }

    fn put(&self, key: &[u8], value: &Bytes, _: Option<MonoTime>) {
        self.0.pin().insert(key.into(), Bytes::copy_from_slice(value));
    }
}

struct Scc(scc::HashMap<Key, Bytes, RandomState>);

impl Side for Scc {
    fn get(&self, key: &[u8]) -> bool {
        black_box(self.0.read_sync(key, |_, value| value.clone())).is_some()
    }

    fn put(&self, key: &[u8], value: &Bytes, _: Option<MonoTime>) {
        black_box(self.0.upsert_sync(key.into(), Bytes::copy_from_slice(value)));
    }
}

fn side(name: &str, keys: u32) -> Box<dyn Side> {
    let hasher = RandomState::new();
    // Caches that divide their room among shards need some to spare.
    let capacity = keys as usize * 2;
    match name {
        "store" => Box::new(new_store()),
        "dashmap" => Box::new(Dashmap::default()),
        "moka" => {
            let builder = moka::sync::Cache::builder().max_capacity(capacity as u64);
            Box::new(Moka(builder.build_with_hasher(hasher)))
        }
        "quick_cache" => Box::new(QuickCache(quick_cache::sync::Cache::with(
            capacity,
            capacity as u64,
            quick_cache::UnitWeighter,
            hasher,
            quick_cache::sync::DefaultLifecycle::default(),
        ))),
        "foyer" => {
            let builder = foyer_memory::CacheBuilder::new(capacity).with_hash_builder(hasher);
            Box::new(Foyer(builder.build()))
        }
        "papaya" => Box::new(Papaya(papaya::HashMap::with_hasher(hasher))),
        "scc" => Box::new(Scc(scc::HashMap::with_hasher(hasher))),
        other => panic!("there is no side {other}"),
    }
}

fn main() {
    if weighed(side) {
        return;
    }
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (keys, rounds, millis) = if quick { (100_000, 3, 25) } else { (1_000_000, 5, 100) };
    println!("{:>30} {}", "", NAMES.map(|name| format!("{name:>12}")).concat());
    for (entries, value_bytes) in [(keys, VALUE_BYTES), (keys, 1024), (FEW_KEYS, VALUE_BYTES)] {
        let taken = NAMES.map(|name| format!("{:>12}", memory(name, entries, value_bytes, false)));
        println!("{:>30} {}", format!("bytes, {entries} of {value_bytes} B"), taken.concat());
    }
    for keys in [keys, FEW_KEYS] {
        let frame = Bytes::from(vec![1; VALUE_BYTES]);
        let sides = NAMES.map(|name| {
            let side = side(name, keys);
            (0..keys).for_each(|number| side.put(&key(number), &frame, None));
            side
        });
        for (name, sequence) in
            [("Zipf", zipf(keys, SEQUENCE)), ("uniform", uniform(keys, SEQUENCE))]
        {
            for (writes_percent, threads) in [(0, 1), (0, 2), (50, 2)] {
                let window = Duration::from_millis(millis);
                let workload = Workload { sequence: &sequence, writes_percent, threads, window };
                let mut rates = NAMES.map(|_| Vec::new());
                for _ in 0..rounds {
                    for (side, rates) in sides.iter().zip(&mut rates) {
                        rates.push(workload.measure(&**side));
                    }
                }
                let what = format!("{keys} {name} {writes_percent}% {threads}T");
                let rates = rates.map(|rates| format!("{:>12.2}", median(&rates)));
                println!("{:>30} {}", format!("Mop/s, {what}"), rates.concat());
            }
        }
    }
}
