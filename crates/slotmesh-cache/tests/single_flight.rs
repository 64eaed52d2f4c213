//! Caches of one name on three nodes: of all who miss a key at the same time one loads it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(unreachable_pub, reason = "shared by tests, not an interface")]
#[path = "../../slotmesh-node/tests/nodes/mod.rs"]
mod nodes;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nodes::{PATIENCE, cluster};
use slotmesh_cache::{Cache, CacheBuilder, CacheError, Caches};
use slotmesh_node::Node;
use slotmesh_slots::Slot;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

type Numbers = Cache<u64, u64>;

/// A source that answers when it is let, and counts how often it was asked.
#[derive(Default)]
struct Source {
    asked: AtomicUsize,
    gate: Option<Semaphore>,
    broken: bool,
}

impl Source {
    fn open() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn closed() -> Arc<Self> {
        Arc::new(Self { gate: Some(Semaphore::new(0)), ..Self::default() })
    }

    fn broken() -> Arc<Self> {
        Arc::new(Self { broken: true, ..Self::default() })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn let_go(&self) {
        self.gate.iter().for_each(|gate| gate.add_permits(Semaphore::MAX_PERMITS / 2));
    }

    async fn ask(self: Arc<Self>, key: u64) -> Result<Option<u64>, String> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match &self.gate {
            Some(gate) => drop(gate.acquire().await.unwrap()),
            // Long enough for all who are to wait for it.
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        if self.broken { Err("the source is down".to_owned()) } else { Ok(Some(key * 2)) }
    }
}

/// On a busy machine an answer may take long, and without one a cache loads by itself.
fn numbers(node: &Node) -> CacheBuilder<u64, u64> {
    node.cache("numbers").cluster_timeout(Duration::from_secs(5))
}

async fn load(cache: Numbers, key: u64, source: Arc<Source>) -> Result<Option<u64>, CacheError> {
    let loaded = cache.get_or_load(&key, move |key| source.ask(key)).await?;
    Ok(loaded.as_deref().copied())
}

/// So many callers on each of these.
fn call(caches: &[Numbers], each: usize, key: u64, source: &Arc<Source>) -> JoinSet<Loaded> {
    let mut calls = JoinSet::new();
    for cache in caches {
        (0..each).for_each(|_| drop(calls.spawn(load(cache.clone(), key, Arc::clone(source)))));
    }
    calls
}

type Loaded = Result<Option<u64>, CacheError>;

async fn all(calls: JoinSet<Loaded>) -> Vec<Loaded> {
    timeout(PATIENCE, calls.join_all()).await.unwrap()
}

async fn until(condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, met).await.unwrap();
}

/// A key that this node owns.
fn key_of(node: &Node) -> u64 {
    let owned = |key: &u64| {
        node.owner(Slot::of_key(format!("numbers:1:{key}").as_bytes())) == Some(node.id())
    };
    (0..).find(owned).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_callers_on_three_nodes_load_once() {
    let nodes = cluster(3).await;
    let caches: Vec<Numbers> = nodes.iter().map(|it| numbers(it).build().unwrap()).collect();
    for key in nodes.iter().map(key_of) {
        let source = Source::open();
        let values = all(call(&caches, 100, key, &source)).await;
        assert!(values.into_iter().all(|value| value.unwrap() == Some(key * 2)));
        assert_eq!(source.asked(), 1, "{key}");
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_is_shared_by_all_nodes_and_not_tried_again_too_soon() {
    let nodes = cluster(2).await;
    let build = |node| numbers(node).error_backoff(Duration::from_secs(600)).build().unwrap();
    let caches: Vec<Numbers> = nodes.iter().map(build).collect();
    let source = Source::broken();
    for value in all(call(&caches, 10, 1, &source)).await {
        let error = value.unwrap_err();
        assert!(error.to_string().contains("the source is down"), "{error}");
    }
    assert_eq!(source.asked(), 1);
    let error = load(caches[0].clone(), 1, Arc::clone(&source)).await.unwrap_err();
    assert!(matches!(error, CacheError::LoadElsewhere(_)), "{error}");
    assert_eq!(source.asked(), 1);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_another_nodes_load_hears_that_there_is_nothing_or_that_it_was_invalidated() {
    let nodes = cluster(2).await;
    let caches: Vec<Numbers> = nodes.iter().map(|it| numbers(it).build().unwrap()).collect();
    // Nothing there: nobody else asks the source.
    let (source, key) = (Source::closed(), key_of(&nodes[0]));
    let (asking, gate) = (Arc::clone(&source), caches[0].clone());
    let first = tokio::spawn(async move {
        let nothing = |key| async move { asking.ask(key).await.map(|_| None) };
        gate.get_or_load(&key, nothing).await
    });
    until(|| source.asked() == 1).await;
    let other = Source::broken();
    let waiting = tokio::spawn(load(caches[1].clone(), key, Arc::clone(&other)));
    // Several times as long as one question waits.
    let asks = timeout(Duration::from_millis(400), until(|| other.asked() > 0)).await;
    assert!(asks.is_err(), "it waits");
    source.let_go();
    assert_eq!(first.await.unwrap().unwrap(), None);
    assert_eq!(timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap(), None);
    assert_eq!(other.asked(), 0);
    // Invalidated: what is being loaded may be outdated, so who waits loads itself.
    let source = Source::closed();
    let first = tokio::spawn(load(caches[0].clone(), key, Arc::clone(&source)));
    until(|| source.asked() == 1).await;
    let newer = Source::open();
    let waiting = tokio::spawn(load(caches[1].clone(), key, Arc::clone(&newer)));
    let invalidated = async {
        while newer.asked() == 0 {
            caches[1].invalidate(&key).await.unwrap();
        }
    };
    timeout(PATIENCE, invalidated).await.unwrap();
    assert!(!first.is_finished());
    source.let_go();
    timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
    first.await.unwrap().unwrap();
    for node in nodes {
        node.stop().await;
    }
}

/// The new primary knows nothing of the lease, and the loader may have been the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_primary_costs_one_more_load() {
    let mut nodes = cluster(3).await;
    let caches: Vec<Numbers> = nodes.iter().map(|it| numbers(it).build().unwrap()).collect();
    let (source, key) = (Source::closed(), key_of(&nodes[2]));
    let calls = call(&caches[..2], 20, key, &source);
    until(|| source.asked() == 1).await;
    drop(caches.into_iter().nth(2));
    nodes.pop().unwrap().stop().await;
    let owner = |node: &Node| node.owner(Slot::of_key(format!("numbers:1:{key}").as_bytes()));
    until(|| owner(&nodes[0]).is_some_and(|it| nodes.iter().any(|node| node.id() == it))).await;
    source.let_go();
    let values = all(calls).await;
    assert!(values.into_iter().all(|value| value.unwrap() == Some(key * 2)));
    assert!(source.asked() <= 2, "{}", source.asked());
    for node in nodes {
        node.stop().await;
    }
}

/// With a source that is down for long: everybody gets what is known, and one caller in the cluster tries for each pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_down_is_tried_once_a_pause_while_all_nodes_show_what_they_know() {
    let nodes = cluster(3).await;
    let (ttl, pause) = (Duration::from_millis(50), Duration::from_millis(400));
    let build = |node| {
        let stale = numbers(node).ttl(ttl).stale_if_error(Duration::from_secs(3_600));
        stale.error_backoff(pause).build().unwrap()
    };
    let caches: Vec<Numbers> = nodes.iter().map(build).collect();
    let keys: Vec<u64> = nodes.iter().map(key_of).collect();
    for key in &keys {
        assert_eq!(load(caches[0].clone(), *key, Source::open()).await.unwrap(), Some(key * 2));
    }
    for key in keys {
        let source = Source::broken();
        // Once all see that its time is up.
        for cache in &caches {
            while timeout(PATIENCE, cache.get(&key)).await.unwrap().unwrap().is_some() {
                tokio::task::yield_now().await;
            }
        }
        let began = Instant::now();
        while source.asked() < 4 {
            for value in all(call(&caches, 5, key, &source)).await {
                assert_eq!(value.unwrap(), Some(key * 2));
            }
            assert!(began.elapsed() < PATIENCE, "it is not tried again");
            // The first at once, and each takes 50 ms before it fails.
            let tries = 1 + began.elapsed().as_millis() / pause.as_millis();
            assert!(source.asked() as u128 <= tries, "{} in {tries} pauses", source.asked());
        }
    }
    for node in nodes {
        node.stop().await;
    }
}

/// One node loads it anew, and no caller on any node waits for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_value_is_loaded_anew_by_one_node_and_shown_by_all() {
    let nodes = cluster(3).await;
    let build = |node| {
        let stale = numbers(node).ttl(Duration::from_millis(50));
        stale.stale_while_revalidate(Duration::from_secs(3_600)).build().unwrap()
    };
    let caches: Vec<Numbers> = nodes.iter().map(build).collect();
    for key in nodes.iter().map(key_of) {
        load(caches[0].clone(), key, Source::open()).await.unwrap();
        for cache in &caches {
            while timeout(PATIENCE, cache.get(&key)).await.unwrap().unwrap().is_some() {
                tokio::task::yield_now().await;
            }
        }
        let source = Source::closed();
        for _ in 0..5 {
            for value in all(call(&caches, 5, key, &source)).await {
                assert_eq!(value.unwrap(), Some(key * 2));
            }
        }
        until(|| source.asked() > 0).await;
        assert_eq!(source.asked(), 1);
        source.let_go();
    }
    for node in nodes {
        node.stop().await;
    }
}
