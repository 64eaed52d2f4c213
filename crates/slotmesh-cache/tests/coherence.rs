//! Caches of one name on three nodes, over real sockets: what one of them writes the others do not serve the old value of for long.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(unreachable_pub, reason = "shared by tests, not an interface")]
#[path = "../../slotmesh-node/tests/nodes/mod.rs"]
mod nodes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nodes::{PATIENCE, cluster};
use parking_lot::Mutex;
use slotmesh_cache::{Cache, CacheError, Caches, L1};
use slotmesh_node::{Ack, Node, OpError};

const BOUND: Duration = Duration::from_millis(50);
const KEYS: u64 = 40;

fn counts(node: &Node) -> Cache<u64, u64> {
    node.cache("counts").l1(L1::default().max_staleness(BOUND)).build().unwrap()
}

/// What was acknowledged of each key, and when.
#[derive(Default)]
struct Acked(Mutex<Vec<Vec<(u64, Instant)>>>);

impl Acked {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(vec![Vec::new(); KEYS as usize])))
    }

    /// What every read that began then has to show at least.
    fn floor(&self, key: u64, began: Instant) -> u64 {
        let acked = self.0.lock();
        let old = |(_, at): &&(u64, Instant)| *at + BOUND < began;
        acked[key as usize].iter().rev().find(old).map_or(0, |(value, _)| *value)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_says_how_many_copies_its_writes_need() {
    let nodes = cluster(3).await;
    let cache = |name, ack| nodes[0].cache::<u64, u64>(name).ack(ack).build().unwrap();
    for (name, ack, copies) in
        [("all", Ack::All, 2), ("two", Ack::AtLeast(2), 2), ("one", Ack::Primary, 1)]
    {
        let cache = cache(name, ack);
        for key in 0..20 {
            assert_eq!(cache.put(&key, key).await.unwrap().copies, copies, "{name}");
        }
    }
    let demanding = cache("three", Ack::AtLeast(3));
    // Each is refused only when its time is over.
    for key in 0..2 {
        let refused = demanding.put(&key, key).await;
        let too_few = OpError::TooFewCopies { have: 2, wanted: 3 };
        assert!(
            matches!(&refused, Err(CacheError::Cluster(why)) if *why == too_few),
            "{refused:?}"
        );
        assert_eq!(demanding.get(&key).await.unwrap(), None, "nothing happened");
    }
}

/// Each node writes a third of the keys and reads all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_l1_serves_what_was_overwritten_beyond_the_bound_and_ones_own_writes_show_at_once() {
    let nodes = cluster(3).await;
    let caches: Vec<_> = nodes.iter().map(counts).collect();
    let (acked, done) = (Acked::new(), Arc::new(AtomicBool::new(false)));
    let mut writers = Vec::new();
    for (index, cache) in caches.iter().enumerate() {
        let (cache, acked) = (cache.clone(), Arc::clone(&acked));
        writers.push(tokio::spawn(async move {
            for value in 1..=400 {
                let key = (value * 7) % KEYS / 3 * 3 + index as u64;
                if key >= KEYS {
                    continue;
                }
                cache.put(&key, value).await.unwrap();
                acked.0.lock()[key as usize].push((value, Instant::now()));
                let own = cache.get(&key).await.unwrap();
                assert_eq!(own.as_deref(), Some(&value), "the own write of {key}");
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }));
    }
    let mut readers = Vec::new();
    for cache in caches.clone() {
        let (acked, done) = (Arc::clone(&acked), Arc::clone(&done));
        readers.push(tokio::spawn(async move {
            let mut round = 0;
            while !done.load(Ordering::Relaxed) {
                let (key, began) = (round % KEYS, Instant::now());
                let value = cache.get(&key).await.unwrap().map_or(0, |value| *value);
                let floor = acked.floor(key, began);
                assert!(value >= floor, "{key} shows {value}, {floor} was acknowledged long ago");
                round += 1;
                if round % 64 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    for cache in &caches {
        let stats = cache.stats();
        assert!(stats.l1_hits > 10 * stats.cluster_hits, "L1 serves: {stats:?}");
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_reaches_loads_under_way_on_other_nodes() {
    let nodes = cluster(2).await;
    let (here, there) = (counts(&nodes[0]), counts(&nodes[1]));
    for key in 0..20 {
        here.get_or_load(&key, |_| async { Ok::<_, CacheError>(Some(0)) }).await.unwrap();
        there.get(&key).await.unwrap();
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        here.invalidate(&key).await.unwrap();
        let loading = here.clone();
        let slow = tokio::spawn(async move {
            let load = |_| async move {
                released.await.unwrap();
                Ok::<_, CacheError>(Some(1))
            };
            loading.get_or_load(&key, load).await
        });
        tokio::time::timeout(PATIENCE, async {
            while here.stats().loads_started < 3 * key + 2 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        there.invalidate(&key).await.unwrap();
        // Within the bound it may still join the load that began before.
        tokio::time::sleep(BOUND).await;
        let load = |_| async { Ok::<_, CacheError>(Some(2)) };
        let newer = tokio::time::timeout(PATIENCE, here.get_or_load(&key, load)).await.unwrap();
        assert_eq!(newer.unwrap().as_deref(), Some(&2), "{key}");
        release.send(()).unwrap();
        assert_eq!(slow.await.unwrap().unwrap().as_deref(), Some(&1));
        // The newer load's value is being put into the cluster; the older one's is not taken there.
        let found = async {
            loop {
                if let Some(found) = here.get(&key).await.unwrap() {
                    return found;
                }
            }
        };
        assert_eq!(*tokio::time::timeout(PATIENCE, found).await.unwrap(), 2, "{key}");
    }
    for node in nodes {
        node.stop().await;
    }
}
