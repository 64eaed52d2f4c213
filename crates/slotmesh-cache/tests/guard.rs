//! Keys that the source does not have are known by a filter.

// The lint knows `#[test]` functions only, not their helpers.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub, reason = "shared by tests, not an interface")]
#[path = "../../slotmesh-node/tests/nodes/mod.rs"]
mod nodes;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nodes::{PATIENCE, cluster};
use parking_lot::Mutex;
use slotmesh_cache::{Cache, CacheBuilder, CacheError, Caches, L1};
use slotmesh_node::{Node, Op};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

type Numbers = Cache<u64, u64>;

const BOUND: Duration = Duration::from_millis(100);

/// A source, and what it was asked for.
#[derive(Clone, Default)]
struct Source(Arc<Mutex<(BTreeSet<u64>, Vec<u64>)>>);

impl Source {
    fn of(keys: impl IntoIterator<Item = u64>) -> Self {
        let source = Self::default();
        source.0.lock().0.extend(keys);
        source
    }

    fn insert(&self, key: u64) {
        self.0.lock().0.insert(key);
    }

    fn remove(&self, key: u64) {
        self.0.lock().0.remove(&key);
    }

    fn keys(&self) -> BTreeSet<u64> {
        self.0.lock().0.clone()
    }

    fn asked(&self) -> Vec<u64> {
        std::mem::take(&mut self.0.lock().1)
    }

    fn build(&self, cache: CacheBuilder<u64, u64>) -> Numbers {
        let (one, many) = (self.clone(), self.clone());
        let loader = move |key| {
            let source = one.clone();
            async move { Ok::<_, CacheError>(source.find(key)) }
        };
        let loader_many = move |keys: Vec<u64>| {
            let source = many.clone();
            async move {
                let found = keys.into_iter().filter_map(|key| Some((key, source.find(key)?)));
                Ok::<_, CacheError>(found.collect::<Vec<_>>())
            }
        };
        cache.loader(loader).loader_many(loader_many).build().unwrap()
    }

    fn find(&self, key: u64) -> Option<u64> {
        let (keys, asked) = &mut *self.0.lock();
        asked.push(key);
        keys.contains(&key).then_some(key)
    }

    async fn fill(&self, cache: &Numbers) -> Result<usize, CacheError> {
        cache.fill_guard(|| async { Ok::<_, CacheError>(self.keys()) }).await
    }
}

fn numbers(node: &Node) -> CacheBuilder<u64, u64> {
    node.cache("numbers").guard(2_000)
}

fn local() -> Node {
    Node::local(8 << 20)
}

async fn load(cache: &Numbers, key: u64) -> Option<u64> {
    cache.load(&key).await.unwrap().as_deref().copied()
}

/// How many of a thousand keys that the source never had it was asked for.
async fn passed(cache: &Numbers, source: &Source) -> usize {
    source.asked();
    for key in 10_000..11_000 {
        assert_eq!(load(cache, key).await, None);
    }
    source.asked().len()
}

#[tokio::test(start_paused = true)]
async fn what_the_source_does_not_have_it_is_not_asked_for() {
    for build in [numbers, |node: &Node| numbers(node).no_l1()] {
        let (node, source) = (local(), Source::of(0..2_000));
        let cache = source.build(build(&node));
        assert_eq!(passed(&cache, &source).await, 1_000, "nothing is known yet");
        assert_eq!(source.fill(&cache).await.unwrap(), 2_000);
        assert!(passed(&cache, &source).await < 20);
        let others: Vec<u64> = (20_000..20_500).chain(0..100).collect();
        let found = cache.load_many(&others).await;
        let found = found.into_iter().filter_map(|it| it.unwrap());
        assert!(found.map(|it| *it).eq(0..100));
        assert!((100..120).contains(&source.asked().len()));
        for key in 0..2_000 {
            assert_eq!(load(&cache, key).await, Some(key));
        }
        assert!(cache.stats().guarded > 1_400);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_written_or_invalidated_may_be_there() {
    let node = local();
    let source = Source::of([]);
    let cache = source.build(numbers(&node));
    source.fill(&cache).await.unwrap();
    let hidden = async |key: u64| {
        source.insert(key);
        assert_eq!(load(&cache, key).await, None, "nobody told of {key}");
    };
    let is_there = async |key: u64| {
        assert_eq!(load(&cache, key).await, Some(key));
        // Also when the cluster does not have it any more.
        let of_cluster = format!("numbers:1:{key}").into_bytes();
        let op = Op::Delete { key: of_cluster.into(), condition: Default::default() };
        node.execute(op, Default::default()).await.unwrap();
        assert_eq!(load(&cache, key).await, Some(key));
    };
    for key in 0..7 {
        hidden(key).await;
    }
    cache.invalidate(&0).await.unwrap();
    cache.invalidate_many(&[1]).await.pop().unwrap().unwrap();
    cache.put(&2, 2).await.unwrap();
    cache.put_many([(3, 3)]).await.pop().unwrap().unwrap();
    cache.put_if(&4, 4, None).await.unwrap();
    cache.update(&5, |_| Some(5)).await.unwrap();
    for key in 0..6 {
        is_there(key).await;
    }
    assert_eq!(load(&cache, 6).await, None);
}

#[tokio::test(start_paused = true)]
async fn what_goes_to_the_source_through_the_cache_may_be_there() {
    for behind in [false, true] {
        let node = local();
        let source = Source::of([]);
        let writes = source.clone();
        let written = numbers(&node).no_l1().writer(move |changes| {
            changes.iter().for_each(|change| writes.insert(change.key));
            async { Ok::<_, CacheError>(()) }
        });
        let cache = source.build(match behind {
            true => written.write_behind(Duration::from_millis(1)),
            false => written,
        });
        source.fill(&cache).await.unwrap();
        cache.store(&1, 1).await.unwrap();
        for stored in cache.store_many([(2, 2), (3, 3)]).await {
            stored.unwrap();
        }
        cache.flush().await;
        node.clear().await.unwrap();
        // What is lost with the cluster lets everything through.
        assert_eq!(passed(&cache, &source).await, 1_000);
        source.fill(&cache).await.unwrap();
        cache.store(&4, 4).await.unwrap();
        cache.flush().await;
        let op = Op::Delete { key: "numbers:1:4".into(), condition: Default::default() };
        node.execute(op, Default::default()).await.unwrap();
        for key in 1..5 {
            assert_eq!(load(&cache, key).await, Some(key));
        }
        assert_eq!(load(&cache, 5).await, None);
    }
}

/// What comes while the source's keys are read is in the new filter, and what went away is not.
#[tokio::test(start_paused = true)]
async fn a_filter_is_made_anew_under_way() {
    let node = local();
    let source = Source::of(0..100);
    let cache = source.build(numbers(&node));
    source.fill(&cache).await.unwrap();
    source.remove(50);
    let filled = cache.fill_guard(|| async {
        let keys = source.keys();
        source.insert(200);
        cache.invalidate(&200).await?;
        source.insert(201);
        Ok::<_, CacheError>(keys)
    });
    assert_eq!(filled.await.unwrap(), 99);
    source.asked();
    assert_eq!((load(&cache, 200).await, load(&cache, 201).await), (Some(200), None));
    assert_eq!((load(&cache, 99).await, load(&cache, 50).await), (Some(99), None));
    assert_eq!(source.asked(), [200, 99]);
    cache.invalidate(&201).await.unwrap();
    assert_eq!(load(&cache, 201).await, Some(201));
}

#[tokio::test(start_paused = true)]
async fn of_two_that_fill_it_the_later_one_does() {
    let node = local();
    let source = Source::of(0..10);
    let (cache, other) = (source.build(numbers(&node)), source.build(numbers(&node)));
    let (begun, begins) = oneshot::channel();
    let (go_on, goes_on) = oneshot::channel::<()>();
    let first = {
        let (cache, keys) = (cache.clone(), source.keys());
        tokio::spawn(async move {
            let keys = || async move {
                begun.send(()).unwrap();
                goes_on.await.unwrap();
                Ok::<_, CacheError>(keys)
            };
            cache.fill_guard(keys).await
        })
    };
    timeout(PATIENCE, begins).await.unwrap().unwrap();
    source.insert(10);
    assert_eq!(source.fill(&other).await.unwrap(), 11);
    go_on.send(()).unwrap();
    assert!(matches!(first.await.unwrap(), Err(CacheError::GuardReplaced)));
    assert_eq!((load(&cache, 10).await, load(&other, 11).await), (Some(10), None));
    // One that fails, or is given up, changes nothing, and stands in nobody's way.
    let fails = cache.fill_guard(|| async { Err::<Vec<u64>, _>("the source is down") });
    assert!(matches!(fails.await, Err(CacheError::Load(_))));
    let given_up = cache.fill_guard(std::future::pending::<Result<Vec<u64>, CacheError>>);
    assert!(timeout(Duration::from_secs(1), given_up).await.is_err());
    assert_eq!((load(&cache, 9).await, load(&cache, 12).await), (Some(9), None));
    source.insert(12);
    assert_eq!(source.fill(&cache).await.unwrap(), 12);
    assert_eq!(load(&cache, 12).await, Some(12));
}

#[tokio::test(start_paused = true)]
async fn a_guard_has_to_be_asked_for() {
    let node = local();
    let cache = node.cache::<u64, u64>("numbers").build().unwrap();
    let filled = cache.fill_guard(|| async { Ok::<_, CacheError>(vec![1]) });
    assert!(matches!(filled.await, Err(CacheError::NoGuard)));
    let none = node.cache::<u64, u64>("numbers").guard(0).build();
    assert!(matches!(none, Err(CacheError::Settings { .. })));
}

/// All nodes know of one that fills it, and of what others write, within the bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_share_it() {
    let nodes = cluster(3).await;
    let source = Source::of(0..1_000);
    let build = |node| source.build(numbers(node).l1(L1::default().max_staleness(BOUND)));
    let caches: Vec<Numbers> = nodes.iter().map(build).collect();
    // So that they know the head that there was.
    for cache in &caches {
        assert_eq!(load(cache, 5_000).await, None);
    }
    // Others write meanwhile: nothing of that may be missing.
    let writer = {
        let (cache, source) = (caches[1].clone(), source.clone());
        tokio::spawn(async move {
            for key in 2_000..2_300 {
                source.insert(key);
                cache.invalidate(&key).await.unwrap();
                sleep(Duration::from_millis(3)).await;
            }
        })
    };
    for cache in [&caches[0], &caches[2]] {
        let filled = cache.fill_guard(|| async {
            let keys = source.keys();
            // A source takes its time.
            sleep(Duration::from_millis(100)).await;
            Ok::<_, CacheError>(keys)
        });
        filled.await.unwrap();
    }
    writer.await.unwrap();
    sleep(BOUND).await;
    for cache in &caches {
        for key in (0..1_000).step_by(7).chain(2_000..2_300) {
            assert_eq!(load(cache, key).await, Some(key));
        }
    }
    for cache in &caches {
        assert!(passed(cache, &source).await < 20);
    }
    for node in nodes {
        node.stop().await;
    }
}
