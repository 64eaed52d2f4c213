//! Looking at entries, and changing them on condition of what they are.

// The lint knows `#[test]` functions only, not their helpers.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub, reason = "shared by tests, not an interface")]
#[path = "../../slotmesh-node/tests/nodes/mod.rs"]
mod nodes;

use std::time::Duration;

use nodes::{PATIENCE, cluster};
use slotmesh_cache::{Cache, CacheBuilder, CacheError, Caches, Tier};
use slotmesh_node::Node;
use tokio::time::timeout;

type Numbers = Cache<u8, i64>;

const LONG: Duration = Duration::from_secs(3_600);
const SHORT: Duration = Duration::from_millis(30);

fn numbers(node: &Node) -> CacheBuilder<u8, i64> {
    node.cache("numbers")
}

fn local() -> Node {
    Node::local(8 << 20)
}

async fn get(cache: &Numbers) -> Option<i64> {
    cache.get(&1).await.unwrap().as_deref().copied()
}

async fn is_over(cache: &Numbers) {
    let over = async {
        while get(cache).await.is_some() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, over).await.unwrap();
}

#[tokio::test]
async fn a_value_is_written_on_condition_of_its_version() {
    let node = local();
    let (cache, other) = (numbers(&node).build().unwrap(), numbers(&node).build().unwrap());
    let first = cache.put_if(&1, 1, None).await.unwrap();
    assert!(first.version.is_some());
    let taken = cache.put_if(&1, 2, None).await.unwrap_err();
    assert!(matches!(taken, CacheError::Conflict { version } if version == first.version));
    let second = other.put_if(&1, 2, first.version).await.unwrap();
    assert_eq!((get(&cache).await, get(&other).await), (Some(2), Some(2)));
    let late = cache.put_if(&1, 3, first.version).await.unwrap_err();
    assert!(matches!(late, CacheError::Conflict { version } if version == second.version));
    assert_eq!((get(&cache).await, get(&other).await), (Some(2), Some(2)));
    cache.invalidate(&1).await.unwrap();
    let gone = cache.put_if(&1, 3, second.version).await.unwrap_err();
    assert!(matches!(gone, CacheError::Conflict { version: None }));
}

#[tokio::test]
async fn an_update_sees_what_is_there() {
    let node = local();
    let cache = numbers(&node).ttl(SHORT).stale_if_error(LONG).build().unwrap();
    let nothing = cache.update(&1, |value| value.map(|_| panic!("there is none"))).await;
    assert_eq!(nothing.unwrap(), None);
    let first = cache.update(&1, |value| Some(value.map_or(1, |_| panic!("there is none")))).await;
    assert_eq!(first.unwrap().as_deref(), Some(&1));
    // What is stale is there no more, and is written over.
    is_over(&cache).await;
    let again = cache.update(&1, |value| Some(value.map_or(2, |_| panic!("it is stale")))).await;
    assert_eq!(
        (again.unwrap().as_deref(), get(&cache).await.is_none_or(|it| it == 2)),
        (Some(&2), true)
    );
    let plain = numbers(&node).build().unwrap();
    plain.put(&1, 5).await.unwrap();
    assert_eq!(
        plain.update(&1, |value| value.map(|it| it * 3)).await.unwrap().as_deref(),
        Some(&15)
    );
    assert_eq!(get(&plain).await, Some(15));
    assert_eq!(plain.update(&1, |_| None).await.unwrap(), None);
    assert_eq!(get(&plain).await, None);
    plain.put(&1, i64::MAX).await.unwrap();
    assert_eq!(plain.incr(&1, 1).await.unwrap(), i64::MAX);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_from_all_nodes_lose_nothing() {
    const EACH: i64 = 50;
    let nodes = cluster(3).await;
    let caches: Vec<Numbers> = nodes.iter().map(|node| numbers(node).build().unwrap()).collect();
    let calls = caches.iter().cloned().flat_map(|cache| [cache.clone(), cache]).map(|cache| {
        tokio::spawn(async move {
            for _ in 0..EACH {
                cache.incr(&1, 1).await.unwrap();
            }
        })
    });
    for call in calls.collect::<Vec<_>>() {
        timeout(PATIENCE, call).await.unwrap().unwrap();
    }
    for cache in &caches {
        assert_eq!(cache.incr(&1, 0).await.unwrap(), 6 * EACH);
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn peeking_tells_where_something_is_and_how_long() {
    let node = local();
    let cache = numbers(&node).ttl(LONG).build().unwrap();
    assert!(cache.peek(&1).await.unwrap().is_none());
    let written = cache.put(&1, 7).await.unwrap();
    let other = numbers(&node).ttl(LONG).build().unwrap();
    for (cache, tier) in [(&cache, Tier::L1), (&other, Tier::Cluster), (&other, Tier::Cluster)] {
        let peeked = cache.peek(&1).await.unwrap().unwrap();
        assert_eq!((peeked.value.as_deref(), peeked.tier), (Some(&7), tier));
        assert_eq!(Some(peeked.version), written.version);
        assert!(!peeked.is_stale && peeked.fresh_for.unwrap() <= LONG);
        assert!(peeked.fresh_for.unwrap() > LONG / 2);
    }
    assert_eq!(other.stats(), Default::default(), "peeking counts nowhere");
    // Stale values, and that there is none.
    let brief = numbers(&node).ttl(SHORT).stale_if_error(LONG).negative_ttl(LONG).build().unwrap();
    brief.put(&1, 8).await.unwrap();
    is_over(&brief).await;
    let stale = brief.peek(&1).await.unwrap().unwrap();
    assert_eq!((stale.value.as_deref(), stale.fresh_for), (Some(&8), Some(Duration::ZERO)));
    assert!(stale.is_stale);
    let none = |_| async { Ok::<Option<i64>, CacheError>(None) };
    assert_eq!(brief.get_or_load(&2, none).await.unwrap(), None);
    assert_eq!(brief.peek(&2).await.unwrap().unwrap().value, None);
}

#[tokio::test]
async fn a_touched_value_lives_on() {
    let node = local();
    let cache = numbers(&node).ttl(SHORT).build().unwrap();
    assert!(!cache.touch(&1, LONG).await.unwrap());
    let lives = async {
        loop {
            cache.put(&1, 1).await.unwrap();
            if cache.touch(&1, LONG).await.unwrap() {
                return cache.peek(&1).await.unwrap().unwrap().fresh_for.unwrap();
            }
        }
    };
    assert!(timeout(PATIENCE, lives).await.unwrap() > LONG / 2);
    assert_eq!(get(&cache).await, Some(1));
    assert!(cache.touch(&1, SHORT).await.unwrap());
    is_over(&cache).await;
}
