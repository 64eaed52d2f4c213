//! The local tier beside the caches that a Rust program would use instead, in one process, interleaved: reads by one and two threads,
//! and how long a read takes while another thread inserts.
//!
//! `cargo bench -p slotmesh-benches-compare --bench compare_near [-- --quick]`
//!
//! Reads take an `Arc` of 64 bytes under a number or under 16 bytes, drawn by Zipf's law with exponent 0.99, all there: every cache has
//! room for twice as many. The local tier looks at its clock each time and checks deadline, generation and when the slot's owner was
//! last heard of; the others check nothing. Inserts are of new keys into a full cache, 250,000 in a second.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ahash::RandomState;
use slotmesh_benches::{key, ratios, spread, zipf};
use slotmesh_cache::CacheKey;
use slotmesh_cache::near::{Fresh, Limits, Near};
use slotmesh_coherence::{KeyHasher, Publisher, Subscriber};
use slotmesh_node::CoarseClock;
use slotmesh_slots::{MonoTime, NodeId, Slot, Version};

const NAMES: [&str; 4] = ["local tier", "quick_cache", "foyer S3", "moka"];
const SEQUENCE: usize = 1 << 21;
/// Reads between two looks at the clock.
const BATCH: usize = 1_024;

type Value = Arc<[u64; 8]>;

/// What both kinds of keys are.
trait Key: CacheKey {
    fn of(number: u32) -> Self;
}

impl Key for u64 {
    fn of(number: u32) -> Self {
        number.into()
    }
}

impl Key for Box<[u8]> {
    fn of(number: u32) -> Self {
        key(number).as_slice().into()
    }
}

trait Side<K>: Sync {
    fn get(&self, key: &K) -> Option<Value>;
    fn put(&self, key: K, value: Value);
}

struct Ours<K> {
    near: Near<K, [u64; 8]>,
    clock: CoarseClock,
}

impl<K: Key> Ours<K> {
    fn new(entries: usize) -> Self {
        let me = NodeId::new(1).expect("not zero");
        let subscriber = Arc::new(Subscriber::new(me, Box::new(|_| {})));
        let publisher = Publisher::new(Box::new(|_| {}));
        publisher.attach(Arc::clone(&subscriber));
        for slot in Slot::all() {
            let (ticket, by) = (subscriber.ticket(slot), subscriber.own());
            let admitted = publisher.subscribe(slot, by)
                && subscriber.admit(slot, ticket, by.node, by).is_some();
            assert!(admitted, "the slot is watched");
        }
        subscriber.vouch(MonoTime::from_micros(u64::MAX));
        let limits = Limits { entries, bytes: 1 << 40 };
        let (hasher, bound) = (KeyHasher::new(1, b"bench:1:"), Duration::from_millis(100));
        let near = Near::new(limits, hasher, subscriber, bound);
        Self { near, clock: CoarseClock::start() }
    }
}

impl<K: Key> Side<K> for Ours<K> {
    fn get(&self, key: &K) -> Option<Value> {
        self.near.get(key, self.clock.at_most())
    }

    fn put(&self, key: K, value: Value) {
        let now = self.clock.at_least();
        let ticket = self.near.ticket(&key, key.with_text(Slot::of_key), now);
        let fresh = Fresh {
            value: Some(value),
            version: Version::default(),
            ttl: Duration::from_secs(100_000),
            stale_for: Duration::ZERO,
            bytes: 80,
        };
        self.near.fill(&key, ticket, fresh, self.near.own_cover(ticket));
    }
}

struct QuickCache<K: Key>(
    quick_cache::sync::Cache<K, Value, quick_cache::UnitWeighter, RandomState>,
);

impl<K: Key> Side<K> for QuickCache<K> {
    fn get(&self, key: &K) -> Option<Value> {
        self.0.get(key)
    }

    fn put(&self, key: K, value: Value) {
        self.0.insert(key, value);
    }
}

struct Foyer<K: Key>(foyer_memory::Cache<K, Value, RandomState>);

impl<K: Key> Side<K> for Foyer<K> {
    fn get(&self, key: &K) -> Option<Value> {
        self.0.get(key).map(|entry| entry.value().clone())
    }

    fn put(&self, key: K, value: Value) {
        drop(self.0.insert(key, value));
    }
}

struct Moka<K: Key>(moka::sync::Cache<K, Value, RandomState>);

impl<K: Key> Side<K> for Moka<K> {
    fn get(&self, key: &K) -> Option<Value> {
        self.0.get(key)
    }

    fn put(&self, key: K, value: Value) {
        self.0.insert(key, value);
    }
}

fn sides<K: Key>(entries: usize) -> [Box<dyn Side<K>>; NAMES.len()] {
    let hasher = RandomState::new;
    let quick = quick_cache::sync::Cache::with(
        entries,
        entries as u64,
        quick_cache::UnitWeighter,
        hasher(),
        quick_cache::sync::DefaultLifecycle::default(),
    );
    let foyer = foyer_memory::CacheBuilder::new(entries)
        .with_eviction_config(foyer_memory::S3FifoConfig::default())
        .with_hash_builder(hasher())
        .build();
    let moka = moka::sync::Cache::builder().max_capacity(entries as u64);
    [
        Box::new(Ours::new(entries)),
        Box::new(QuickCache(quick)),
        Box::new(Foyer(foyer)),
        Box::new(Moka(moka.build_with_hasher(hasher()))),
    ]
}

fn fill<K: Key>(side: &dyn Side<K>, numbers: u32) {
    (0..numbers).for_each(|number| side.put(K::of(number), Arc::new([u64::from(number); 8])));
}

/// Million reads per second of all threads together.
fn reads<K: Key>(side: &dyn Side<K>, sequence: &[K], threads: usize, window: Duration) -> f64 {
    thread::scope(|scope| {
        let reader = |index| {
            scope.spawn(move || {
                let (mut position, mut done) = (index * sequence.len() / threads, 0_usize);
                let start = Instant::now();
                while start.elapsed() < window {
                    for _ in 0..BATCH {
                        position = (position + 1) % sequence.len();
                        assert!(black_box(side.get(&sequence[position])).is_some(), "it is there");
                    }
                    done += BATCH;
                }
                done as f64 / start.elapsed().as_secs_f64() / 1e6
            })
        };
        let threads: Vec<_> = (0..threads).map(reader).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    })
}

fn throughput<K: Key>(what: &str, numbers: u32, rounds: usize, window: Duration) {
    let sides = sides::<K>(numbers as usize * 2);
    sides.iter().for_each(|side| fill(&**side, numbers));
    let sequence: Vec<K> = zipf(numbers, SEQUENCE).into_iter().map(K::of).collect();
    for threads in [1, 2] {
        let mut rates = NAMES.map(|_| Vec::new());
        for _ in 0..rounds {
            for (side, rates) in sides.iter().zip(&mut rates) {
                rates.push(reads(&**side, &sequence, threads, window));
            }
        }
        let medians = rates.each_ref().map(|rates| format!("{:>12.2}", spread(rates)[1])).concat();
        println!("{:>28}{medians}", format!("{what} {numbers} {threads}T, Mop/s"));
        for (name, others) in NAMES.iter().zip(&rates).skip(1) {
            println!("{:>28} {}", format!("to {name}"), ratios(&rates[0], others));
        }
    }
}

/// Nanoseconds of a read at the 50th, 99th and 99.9th of a hundred, with a thread beside that inserts.
fn latencies(side: &dyn Side<u64>, sequence: &[u64], next: &mut u32, window: Duration) -> [f64; 3] {
    let done = AtomicBool::new(false);
    let mut nanos = Vec::with_capacity(1 << 24);
    thread::scope(|scope| {
        let (done, from) = (&done, *next);
        let writer = scope.spawn(move || {
            let (start, mut written) = (Instant::now(), 0);
            while !done.load(Ordering::Relaxed) {
                // A quarter of a million in a second.
                while u128::from(written) * 4 < start.elapsed().as_micros() {
                    side.put(u64::from(from + written), Arc::new([0; 8]));
                    written += 1;
                }
                thread::yield_now();
            }
            written
        });
        let start = Instant::now();
        let mut keys = sequence.iter().cycle();
        while start.elapsed() < window {
            for key in keys.by_ref().take(BATCH) {
                let before = Instant::now();
                black_box(side.get(key));
                nanos.push(before.elapsed().as_nanos() as f64);
            }
        }
        done.store(true, Ordering::Relaxed);
        *next = from + writer.join().expect("no panic");
    });
    nanos.sort_by(f64::total_cmp);
    [0.5, 0.99, 0.999].map(|part| nanos[(nanos.len() as f64 * part) as usize])
}

fn tail(rounds: usize, window: Duration) {
    const ENTRIES: u32 = 1 << 18;
    let sides = sides::<u64>(ENTRIES as usize);
    sides.iter().for_each(|side| fill(&**side, ENTRIES));
    let sequence: Vec<u64> = zipf(ENTRIES, SEQUENCE).into_iter().map(u64::from).collect();
    let mut next = ENTRIES;
    let mut all = NAMES.map(|_| [const { Vec::new() }; 3]);
    for _ in 0..rounds {
        for (side, all) in sides.iter().zip(&mut all) {
            let measured = latencies(&**side, &sequence, &mut next, window);
            all.iter_mut().zip(measured).for_each(|(all, nanos)| all.push(nanos));
        }
    }
    for (index, name) in ["p50", "p99", "p99.9"].iter().enumerate() {
        let cells = all.each_ref().map(|all| {
            let [least, middle, most] = spread(&all[index]);
            format!("  {middle:.0} ({least:.0} to {most:.0})")
        });
        println!("{:>28}{}", format!("{name} beside inserts, ns"), cells.concat());
    }
}

/// Nanoseconds of one call.
fn time<T>(call: impl Fn() -> T) -> f64 {
    const CALLS: u32 = 1 << 20;
    let start = Instant::now();
    for _ in 0..CALLS {
        black_box(call());
    }
    start.elapsed().as_nanos() as f64 / f64::from(CALLS)
}

fn clocks() {
    let clock = CoarseClock::start();
    let (ours, std) = (time(|| clock.at_most()), time(Instant::now));
    println!("a look at the local tier's clock {ours:.1} ns, at std's {std:.1} ns");
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (rounds, window) = if quick { (5, 100) } else { (15, 200) };
    let window = Duration::from_millis(window);
    clocks();
    println!("{:>28}{}", "", NAMES.map(|name| format!("{name:>12}")).concat());
    for numbers in [1 << 16, 1_000_000] {
        throughput::<u64>("number", numbers, rounds, window);
        throughput::<Box<[u8]>>("16 B", numbers, rounds, window);
    }
    tail(rounds, window * 2);
}
