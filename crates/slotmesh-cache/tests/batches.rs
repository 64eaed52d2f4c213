//! Many keys in one call.

// The lint knows `#[test]` functions only, not their helpers.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub, reason = "shared by tests, not an interface")]
#[path = "../../slotmesh-node/tests/nodes/mod.rs"]
mod nodes;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use nodes::{PATIENCE, cluster};
use slotmesh_cache::{Cache, CacheBuilder, CacheError, Caches, Loaded};
use slotmesh_node::Node;
use tokio::sync::Semaphore;
use tokio::time::timeout;

type Numbers = Cache<u64, u64>;

fn numbers(node: &Node) -> CacheBuilder<u64, u64> {
    node.cache("numbers")
}

fn local() -> Numbers {
    numbers(&Node::local(8 << 20)).build().unwrap()
}

/// Doubles keys, has none above 1,000, and remembers what it was asked for.
#[derive(Clone, Default)]
struct Source(Arc<Mutex<Vec<Vec<u64>>>>);

impl Source {
    async fn ask(self, keys: Vec<u64>) -> Result<HashMap<u64, u64>, CacheError> {
        self.0.lock().unwrap().push(keys.clone());
        // So that calls overlap.
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        Ok(keys.into_iter().filter(|key| *key <= 1_000).map(|key| (key, key * 2)).collect())
    }

    /// What it was asked for, each time, sorted.
    fn asked(&self) -> Vec<Vec<u64>> {
        let mut asked = self.0.lock().unwrap().clone();
        asked.iter_mut().for_each(|keys| keys.sort_unstable());
        asked
    }
}

async fn load(cache: &Numbers, keys: &[u64], source: &Source) -> Vec<Option<u64>> {
    let source = source.clone();
    let loaded = cache.get_or_load_many(keys, move |keys| source.clone().ask(keys));
    let loaded = timeout(PATIENCE, loaded).await.unwrap();
    loaded.into_iter().map(|value| value.unwrap().as_deref().copied()).collect()
}

fn twice(keys: &[u64]) -> Vec<Option<u64>> {
    keys.iter().map(|key| Some(key * 2)).collect()
}

#[tokio::test]
async fn many_are_written_read_and_removed_in_order() {
    let cache = local();
    let read = async |keys: &[u64]| -> Vec<Option<u64>> {
        let found = cache.get_many(keys).await;
        found.into_iter().map(|value| value.unwrap().as_deref().copied()).collect()
    };
    let keys: Vec<u64> = (0..500).collect();
    let written = cache.put_many(keys.iter().map(|key| (*key, key * 2))).await;
    assert!(written.len() == 500 && written.into_iter().all(|it| it.unwrap().copies == 1));
    for _ in 0..2 {
        assert_eq!(read(&keys).await, twice(&keys));
    }
    assert_eq!(read(&[7, 900, 3, 7]).await, [Some(14), None, Some(6), Some(14)]);
    let gone = cache.invalidate_many(&[3, 900]).await;
    assert!(gone.len() == 2 && gone.iter().all(Result::is_ok));
    assert_eq!(read(&[7, 3]).await, [Some(14), None]);
    assert!(cache.get_many(&[]).await.is_empty());
}

#[tokio::test]
async fn what_is_nowhere_is_loaded_by_one_call() {
    let (cache, source) = (local(), Source::default());
    for key in (0..100).step_by(3) {
        cache.put(&key, key * 2).await.unwrap();
    }
    let keys: Vec<u64> = (0..100).collect();
    for _ in 0..2 {
        assert_eq!(load(&cache, &keys, &source).await, twice(&keys));
    }
    let missing: Vec<u64> = keys.into_iter().filter(|key| key % 3 != 0).collect();
    assert_eq!(source.asked(), [missing]);
    assert_eq!(cache.stats().loads_started, 1);
    assert_eq!(load(&cache, &[500, 2_000, 500], &source).await, [Some(1_000), None, Some(1_000)]);
    assert_eq!(source.asked()[1..], [[500, 2_000]]);
}

#[tokio::test]
async fn loads_under_way_are_joined() {
    let cache = local();
    let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let single = tokio::spawn({
        let (cache, gate, begun) = (cache.clone(), Arc::clone(&gate), Arc::clone(&begun));
        async move {
            let loader = move |_| async move {
                begun.add_permits(1);
                let _open = gate.acquire().await;
                Ok::<_, CacheError>(Some(77))
            };
            cache.get_or_load(&5, loader).await
        }
    });
    drop(begun.acquire().await.unwrap());
    let source = Source::default();
    let many = load(&cache, &[4, 5, 6], &source);
    let (many, ()) = tokio::join!(many, async {
        while source.asked().is_empty() {
            tokio::task::yield_now().await;
        }
        gate.add_permits(1);
    });
    assert_eq!(many, [Some(8), Some(77), Some(12)]);
    assert_eq!(source.asked(), [[4, 6]]);
    assert_eq!(single.await.unwrap().unwrap().as_deref(), Some(&77));
}

#[tokio::test]
async fn keys_fail_together_or_alone() {
    let cache = local();
    let down = |_| async { Err::<Vec<(u64, u64)>, _>("the source is down") };
    for outcome in cache.get_or_load_many(&[1, 2], down).await {
        assert!(matches!(outcome, Err(CacheError::Load(_))));
    }
    let panics = |_| async { panic!("by plan") as Result<Vec<(u64, u64)>, CacheError> };
    for outcome in cache.get_or_load_many(&[1, 2], panics).await {
        assert!(matches!(outcome, Err(CacheError::LoadPanicked(_))));
    }
    let half = |_| async {
        Ok::<_, CacheError>(vec![(1, Loaded::value(1_u64)), (2, Loaded::failed("bad row"))])
    };
    let outcomes = cache.get_or_load_many(&[1, 2, 3], half).await;
    assert_eq!(outcomes[0].as_ref().unwrap().as_deref(), Some(&1));
    assert!(matches!(&outcomes[1], Err(CacheError::Load(error)) if error.to_string() == "bad row"));
    assert_eq!(outcomes[2].as_ref().unwrap(), &None);
    assert!(matches!(cache.load_many(&[1, 9]).await[..], [Err(CacheError::NoLoader), _]));
}

/// A batch takes one turn, so it is one load.
#[tokio::test]
async fn a_batch_may_be_larger_than_the_bound_of_loads() {
    let cache = numbers(&Node::local(8 << 20)).max_concurrent_loads(1).build().unwrap();
    let (keys, source) = ((0..1_000).collect::<Vec<u64>>(), Source::default());
    assert_eq!(load(&cache, &keys, &source).await, twice(&keys));
    assert_eq!(source.asked().len(), 1);
}

#[tokio::test]
async fn a_loader_of_many_may_not_load_its_own_keys() {
    let cache = local();
    let inner = cache.clone();
    let recursive = move |keys: Vec<u64>| {
        let inner = inner.clone();
        async move {
            let wrong = inner.get_or_load(&keys[0], |_| async { Ok::<_, CacheError>(Some(1)) });
            assert!(matches!(wrong.await, Err(CacheError::Recursive)));
            let other = inner.get_or_load(&99, |_| async { Ok::<_, CacheError>(Some(1)) });
            assert_eq!(other.await.unwrap().as_deref(), Some(&1));
            Ok::<_, CacheError>(keys.into_iter().map(|key| (key, key)))
        }
    };
    let loaded = timeout(PATIENCE, cache.get_or_load_many(&[1, 2], recursive)).await.unwrap();
    assert!(loaded.into_iter().all(|value| value.unwrap().is_some()));
}

/// Each would wait for the other one's if it kept what it has while it waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_cross_on_several_nodes_load_each_key_once() {
    let nodes = cluster(3).await;
    let source = Source::default();
    let build = |node| {
        let source = source.clone();
        let patient = numbers(node).cluster_timeout(PATIENCE);
        patient.loader_many(move |keys| source.clone().ask(keys)).build().unwrap()
    };
    let caches: Vec<Numbers> = nodes.iter().map(build).collect();
    for round in 0..5 {
        let keys: Vec<u64> = (round * 100..round * 100 + 60).collect();
        let calls = caches.iter().enumerate().map(|(at, cache)| {
            let (cache, mut keys) = (cache.clone(), keys.clone());
            keys.rotate_left(at * 20);
            tokio::spawn(async move {
                let loaded = timeout(PATIENCE, cache.load_many(&keys)).await.unwrap();
                let loaded: Vec<_> =
                    loaded.into_iter().map(|it| it.unwrap().as_deref().copied()).collect();
                assert_eq!(loaded, twice(&keys));
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
        let mut asked = source.asked().concat();
        asked.retain(|key| keys.contains(key));
        asked.sort_unstable();
        assert_eq!(asked, keys);
    }
    for node in nodes {
        node.stop().await;
    }
}
