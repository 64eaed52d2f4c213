//! Values that are invalidated together.

// The lint knows `#[test]` functions only, not their helpers.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub, reason = "shared by tests, not an interface")]
#[path = "../../slotmesh-node/tests/nodes/mod.rs"]
mod nodes;

use std::sync::Arc;
use std::time::{Duration, Instant};

use nodes::{PATIENCE, cluster};
use slotmesh_cache::{Cache, CacheBuilder, CacheError, Caches, L1, Loaded};
use slotmesh_node::{Node, PutOptions};
use tokio::sync::Semaphore;
use tokio::time::timeout;

type Numbers = Cache<u64, u64>;

const LONG: Duration = Duration::from_secs(3_600);
const BOUND: Duration = Duration::from_millis(100);

/// Even ones and odd ones, and those that three divides.
fn tags(value: &u64) -> Vec<String> {
    let parity = if value.is_multiple_of(2) { "even" } else { "odd" };
    let mut tags = vec![parity.to_owned()];
    if value.is_multiple_of(3) {
        tags.push("three".to_owned());
    }
    tags
}

fn numbers(node: &Node) -> CacheBuilder<u64, u64> {
    node.cache("numbers").tags(tags)
}

fn local() -> Node {
    Node::local(8 << 20)
}

/// Which of the first ten are there.
async fn there(cache: &Numbers) -> Vec<u64> {
    let keys: Vec<u64> = (0..10).collect();
    let found = cache.get_many(&keys).await;
    let there = keys.into_iter().zip(found).filter(|(_, found)| found.as_ref().unwrap().is_some());
    there.map(|(key, _)| key).collect()
}

async fn fill(cache: &Numbers) {
    for written in cache.put_many((0..10).map(|key| (key, key))).await {
        written.unwrap();
    }
}

async fn one(cache: &Numbers, key: u64) -> Option<u64> {
    cache.get(&key).await.unwrap().as_deref().copied()
}

async fn load(cache: &Numbers, key: u64, value: u64) -> Result<Option<u64>, CacheError> {
    let loaded = cache.get_or_load(&key, move |_| async move { Ok::<_, CacheError>(Some(value)) });
    Ok(loaded.await?.as_deref().copied())
}

#[tokio::test]
async fn a_tag_takes_its_values_with_it() {
    let node = local();
    for build in [numbers, |node: &Node| numbers(node).no_l1()] {
        let (cache, other) = (build(&node).build().unwrap(), build(&node).build().unwrap());
        fill(&cache).await;
        for _ in 0..2 {
            assert_eq!(there(&cache).await.len(), 10);
            assert_eq!(there(&other).await.len(), 10);
        }
        cache.invalidate_tag("even").await.unwrap();
        for _ in 0..2 {
            assert_eq!(there(&cache).await, [1, 3, 5, 7, 9]);
            assert_eq!(there(&other).await, [1, 3, 5, 7, 9]);
        }
        other.invalidate_tag("three").await.unwrap();
        assert_eq!(there(&cache).await, [1, 5, 7]);
        cache.invalidate_tag("nobody's").await.unwrap();
        assert_eq!(there(&cache).await, [1, 5, 7]);
        // What comes later stays.
        cache.put(&2, 2).await.unwrap();
        assert_eq!(load(&cache, 6, 6).await.unwrap(), Some(6));
        assert_eq!(load(&cache, 7, 70).await.unwrap(), Some(7));
        assert_eq!(there(&other).await, [1, 2, 5, 6, 7]);
        cache.clear().await.unwrap();
        assert_eq!((there(&cache).await, there(&other).await), (vec![], vec![]));
        fill(&other).await;
        assert_eq!(there(&cache).await.len(), 10);
        cache.clear().await.unwrap();
    }
}

#[tokio::test]
async fn a_load_that_began_before_is_gone_already() {
    let node = local();
    let cache = numbers(&node).build().unwrap();
    // So that there are marks: who sets them takes what is older for gone.
    fill(&cache).await;
    cache.invalidate_many(&[2, 3]).await;
    let (begun, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let load_slowly = |key| {
        let (cache, begun, gate) = (cache.clone(), Arc::clone(&begun), Arc::clone(&gate));
        tokio::spawn(async move {
            let loader = move |key| async move {
                begun.add_permits(1);
                gate.acquire().await.unwrap().forget();
                Ok::<_, CacheError>(Some(key))
            };
            timeout(PATIENCE, cache.get_or_load(&key, loader)).await.unwrap()
        })
    };
    for clear in [false, true] {
        let loads = [load_slowly(2), load_slowly(3)];
        begun.acquire_many(2).await.unwrap().forget();
        match clear {
            true => cache.clear().await.unwrap(),
            false => cache.invalidate_tag("even").await.unwrap(),
        }
        // Nobody joins it any more, for it may be outdated.
        assert_eq!(load(&cache, 2, 22).await.unwrap(), Some(22));
        gate.add_permits(2);
        for load in loads {
            assert!(load.await.unwrap().unwrap().is_some(), "who waited gets it");
        }
        assert_eq!(one(&cache, 2).await, Some(22));
        let kept = if clear { None } else { Some(3) };
        assert_eq!(one(&cache, 3).await, kept);
        cache.invalidate_many(&[2, 3]).await;
    }
}

#[tokio::test]
async fn loaders_add_tags_and_that_there_is_none_has_some_too() {
    let node = local();
    let cache = numbers(&node).negative_ttl(LONG).build().unwrap();
    let tagged = |_| async { Ok::<_, CacheError>(Loaded::value(1).tags(["mine", "odd"])) };
    let nothing = |_| async { Ok::<_, CacheError>(Loaded::missing().tags(["mine"])) };
    let calls = async || {
        let before = cache.stats().loads_started;
        assert_eq!(cache.get_or_load(&1, tagged).await.unwrap().as_deref(), Some(&1));
        assert_eq!(cache.get_or_load(&2, nothing).await.unwrap(), None);
        cache.stats().loads_started - before
    };
    assert_eq!((calls().await, calls().await, calls().await), (2, 0, 0));
    cache.invalidate_tag("mine").await.unwrap();
    assert_eq!((calls().await, calls().await), (2, 0));
    cache.clear().await.unwrap();
    assert_eq!((calls().await, calls().await), (2, 0));
}

#[tokio::test]
async fn what_is_expired_early_is_stale() {
    let node = local();
    let build = || numbers(&node).stale_if_error(LONG).error_backoff(Duration::ZERO);
    let (cache, timed) = (build().build().unwrap(), build().ttl(LONG).build().unwrap());
    let fails = |cache: &Numbers, key: u64| {
        let down = |_| async { Err::<Option<u64>, _>("the source is down") };
        let cache = cache.clone();
        async move { Ok::<_, CacheError>(cache.get_or_load(&key, down).await?.as_deref().copied()) }
    };
    for (key, cache) in [(1, &cache), (2, &timed)] {
        cache.put(&key, key).await.unwrap();
        assert_eq!(one(cache, key).await, Some(key));
    }
    timed.expire_all().await.unwrap();
    for (key, cache) in [(1, &cache), (2, &timed)] {
        assert_eq!(one(cache, key).await, None);
        assert_eq!(fails(cache, key).await.unwrap(), Some(key), "shown in want of better");
        assert!(cache.peek(&key).await.unwrap().unwrap().is_stale);
        assert_eq!(load(cache, key, key + 10).await.unwrap(), Some(key + 10));
        assert_eq!(one(cache, key).await, Some(key + 10));
    }
    timed.clear().await.unwrap();
    assert!(fails(&cache, 1).await.is_err(), "what is gone is no stale value");
}

#[tokio::test]
async fn changes_and_looks_know_of_marks() {
    let node = local();
    let cache = numbers(&node).build().unwrap();
    fill(&cache).await;
    cache.invalidate_tag("even").await.unwrap();
    assert!(cache.peek(&2).await.unwrap().is_none() && cache.peek(&3).await.unwrap().is_some());
    let twice = |value: Option<&u64>| value.map(|value| value * 2);
    assert_eq!(cache.update(&2, twice).await.unwrap(), None);
    assert_eq!(cache.update(&3, twice).await.unwrap().as_deref(), Some(&6));
    assert_eq!(one(&cache, 3).await, Some(6));
    cache.invalidate_tag("even").await.unwrap();
    assert_eq!(one(&cache, 3).await, None);
}

/// As at a deployment that begins to use tags.
#[tokio::test]
async fn what_has_no_tags_is_not_there_for_those_who_have() {
    let node = local();
    let (plain, tagged) = (node.cache::<u64, u64>("numbers").build().unwrap(), numbers(&node));
    let tagged = tagged.build().unwrap();
    assert!(matches!(plain.clear().await, Err(CacheError::NoTags)));
    assert!(matches!(plain.invalidate_tag("even").await, Err(CacheError::NoTags)));
    plain.put(&2, 2).await.unwrap();
    assert_eq!(one(&tagged, 2).await, None);
    assert_eq!(load(&tagged, 2, 4).await.unwrap(), Some(4));
    let fresh = node.cache::<u64, u64>("numbers").build().unwrap();
    assert_eq!((one(&tagged, 2).await, one(&fresh, 2).await), (Some(4), Some(4)));
}

/// Whoever lost the marks, as when all copies of their slots were lost, cannot tell what is invalidated.
#[tokio::test]
async fn where_marks_are_lost_everything_is_loaded_again() {
    let node = local();
    let cache = numbers(&node).no_l1().build().unwrap();
    fill(&cache).await;
    cache.invalidate_tag("even").await.unwrap();
    assert_eq!(there(&cache).await, [1, 3, 5, 7, 9]);
    let keep: Vec<_> = {
        let mut kept = Vec::new();
        for key in 0..10 {
            let name = format!("numbers:1:{key}").into_bytes();
            kept.push((name.clone(), node.get(&name).await.unwrap().unwrap().value));
        }
        kept
    };
    node.clear().await.unwrap();
    for (name, value) in keep {
        node.put(name, value, PutOptions::default()).await.unwrap();
    }
    assert!(there(&cache).await.is_empty());
    fill(&cache).await;
    assert_eq!(there(&cache).await.len(), 10);
}

/// Nothing that was acknowledged as gone is shown on any node beyond the bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_hear_of_it_within_the_bound() {
    let nodes = cluster(3).await;
    let build = |node| numbers(node).l1(L1::default().max_staleness(BOUND)).build().unwrap();
    let caches: Vec<Numbers> = nodes.iter().map(build).collect();
    for round in 0..30 {
        for cache in &caches {
            for key in 0..10 {
                load(cache, key, key).await.unwrap();
            }
        }
        let (by, began) = (&caches[round % 3], Instant::now());
        let gone: Vec<u64> = match round % 3 {
            0 => {
                by.clear().await.unwrap();
                (0..10).collect()
            }
            1 => {
                by.invalidate_tag("even").await.unwrap();
                vec![0, 2, 4, 6, 8]
            }
            _ => {
                by.invalidate_tag("three").await.unwrap();
                vec![0, 3, 6, 9]
            }
        };
        let stays: Vec<u64> = (0..10).filter(|key| !gone.contains(key)).collect();
        assert_eq!(there(by).await, stays, "at once where it was asked for");
        let acked = Instant::now();
        for cache in &caches {
            let seen = loop {
                let asked = Instant::now();
                let seen = there(cache).await;
                if seen == stays || asked > acked + BOUND {
                    break seen;
                }
                assert!(began.elapsed() < PATIENCE);
            };
            assert_eq!(seen, stays, "round {round}");
        }
    }
    for node in nodes {
        node.stop().await;
    }
}
