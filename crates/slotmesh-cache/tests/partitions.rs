//! Caches of one name on three nodes that are cut off from each other, both ways and one way, and of which one is killed: what was
//! overwritten is not served beyond the bound by anybody, whether or not it hears of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use slotmesh_cache::{Cache, Caches, L1};
use slotmesh_node::Node;
use slotmesh_node::testing::Cluster;

const BOUND: Duration = Duration::from_millis(50);

/// Each has one writer, whose values grow.
const KEYS: usize = 45;

/// How long each state of the network lasts: shorter and longer than leases and silences.
const EPISODES_MS: [u64; 8] = [80, 250, 600, 40, 1_200, 300, 150, 900];

fn counts(node: &Node) -> Cache<usize, u64> {
    node.cache("counts").l1(L1::default().max_staleness(BOUND)).build().unwrap()
}

/// The values of a key that were acknowledged, and when.
type OfKey = Vec<(u64, Instant)>;

/// What was acknowledged of each key.
#[derive(Clone)]
struct Acked(Arc<Mutex<Vec<OfKey>>>);

impl Acked {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(vec![Vec::new(); KEYS])))
    }

    fn note(&self, key: usize, value: u64) {
        self.0.lock()[key].push((value, Instant::now()));
    }

    /// What every read that began then has to show at least.
    fn floor(&self, key: usize, began: Instant) -> u64 {
        let acked = self.0.lock();
        let old = |(_, at): &&(u64, Instant)| *at + BOUND < began;
        acked[key].iter().rev().find(old).map_or(0, |(value, _)| *value)
    }
}

/// Writes its share of the keys until told to stop; writes may fail.
async fn write(cache: Cache<usize, u64>, share: usize, acked: Acked, done: Arc<AtomicBool>) {
    let keys = (share..KEYS).step_by(3);
    for (value, key) in (1..).zip(keys.cycle()) {
        if done.load(Ordering::Relaxed) {
            return;
        }
        if cache.put(&key, value).await.is_ok() {
            acked.note(key, value);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Reads all keys until told to stop; reads may fail, and count if they do not.
async fn read(
    cache: Cache<usize, u64>,
    acked: Acked,
    done: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
) {
    for key in (0..KEYS).cycle() {
        if done.load(Ordering::Relaxed) {
            return;
        }
        let began = Instant::now();
        if let Ok(found) = cache.get(&key).await {
            let (value, floor) = (found.map_or(0, |value| *value), acked.floor(key, began));
            assert!(value >= floor, "{key} shows {value}, {floor} was acknowledged long ago");
            reads.fetch_add(1, Ordering::Relaxed);
        }
        if key == 0 {
            assert!(cache.stats().staleness < BOUND);
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_cut_off_serves_nothing_old() {
    let mut cluster = Cluster::start(3).await.unwrap();
    let caches: Vec<_> = cluster.nodes().map(|(_, node)| counts(node)).collect();
    let (acked, done) = (Acked::new(), Arc::new(AtomicBool::new(false)));
    let mut tasks = Vec::new();
    let mut reads = Vec::new();
    for (share, cache) in caches.iter().enumerate() {
        tasks.push(tokio::spawn(write(cache.clone(), share, acked.clone(), Arc::clone(&done))));
        // Of readers two, so that not all wait for an owner out of reach.
        for _ in 0..2 {
            reads.push(Arc::new(AtomicU64::new(0)));
            let count = Arc::clone(&reads[reads.len() - 1]);
            let (acked, done) = (acked.clone(), Arc::clone(&done));
            tasks.push(tokio::spawn(read(cache.clone(), acked, done, count)));
        }
    }
    for (episode, lasts) in EPISODES_MS.into_iter().enumerate() {
        let (one, other) = (episode % 3, (episode + 1) % 3);
        match episode % 4 {
            0 => cluster.cut(one, other),
            1 => cluster.partition(&[one]),
            2 => {
                cluster.cut(one, other);
                cluster.cut(one, (episode + 2) % 3);
            }
            _ => cluster.cut(other, one),
        }
        tokio::time::sleep(Duration::from_millis(lasts)).await;
        cluster.heal();
        // It may or may not have come to rest when the next cut comes.
        tokio::time::sleep(Duration::from_millis(lasts % 250)).await;
    }
    cluster.settle().await.unwrap();
    cluster.kill(2).await;
    cluster.settle().await.unwrap();
    tokio::time::sleep(4 * BOUND).await;
    done.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    let ended = Instant::now() + 2 * BOUND;
    for cache in &caches[..2] {
        for key in 0..KEYS {
            let value = cache.get(&key).await.unwrap().map_or(0, |value| *value);
            assert!(value >= acked.floor(key, ended), "{key} lost what was acknowledged");
        }
        let stats = cache.stats();
        assert!(stats.l1_hits > 1_000, "L1 serves: {stats:?}");
        assert!(stats.l1_withheld > 0, "the bound never mattered: {stats:?}");
    }
    for count in reads {
        assert!(count.load(Ordering::Relaxed) > 1_000, "nearly nothing was read");
    }
}
