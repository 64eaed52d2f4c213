//! The promises of `get_or_load`.

// The lint knows `#[test]` functions only, not their helpers.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use slotmesh_cache::{Cache, CacheError, Caches, L1};
use slotmesh_node::{ClusterSecret, Node, NodeConfig, OpError};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

type Users = Cache<u32, String>;

fn users() -> (Node, Users) {
    let node = Node::local(8 << 20);
    let cache = node.cache("users").build().unwrap();
    (node, cache)
}

async fn load(cache: &Users, value: &'static str) -> Result<Option<Arc<String>>, CacheError> {
    cache.get_or_load(&1, move |_| async move { Ok::<_, Infallible>(Some(value.to_owned())) }).await
}

/// Waits for a condition, and not for ever if it never comes.
async fn until(condition: impl Fn() -> bool) {
    let comes = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), comes).await.unwrap();
}

/// Begins a load in a task of its own; it ends with the value sent.
async fn begin(
    cache: &Users,
) -> (oneshot::Sender<&'static str>, tokio::task::JoinHandle<Option<Arc<String>>>) {
    let (sender, receiver) = oneshot::channel();
    let (begun, has_begun) = oneshot::channel();
    let cache = cache.clone();
    let waiter = tokio::spawn(async move {
        let loader = |_| async move {
            begun.send(()).unwrap();
            receiver.await.map(|value: &str| Some(value.to_owned()))
        };
        cache.get_or_load(&1, loader).await.unwrap()
    });
    has_begun.await.unwrap();
    (sender, waiter)
}

fn check(found: impl Into<Option<Arc<String>>>, expected: Option<&str>) {
    assert_eq!(found.into().as_deref().map(String::as_str), expected);
}

/// Callers whose deadlines are half of what a load takes: it runs once, to its end, and serves all who are still there.
#[tokio::test(start_paused = true)]
async fn impatient_callers_share_one_load() {
    let (_node, cache) = users();
    let finished = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..20)
        .map(|caller| {
            let (cache, finished) = (cache.clone(), Arc::clone(&finished));
            tokio::spawn(async move {
                sleep(Duration::from_millis(20) * caller).await;
                let load = cache.get_or_load(&1, move |_| async move {
                    // A millisecond less than 200, so that no deadline falls on the end of the load.
                    sleep(Duration::from_millis(199)).await;
                    finished.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, Infallible>(Some("ann".to_owned()))
                });
                matches!(timeout(Duration::from_millis(100), load).await, Ok(Ok(Some(_))))
            })
        })
        .collect();
    let mut served = 0;
    for caller in callers {
        served += usize::from(caller.await.unwrap());
    }
    let stats = cache.stats();
    assert_eq!((stats.loads_started, stats.loads_ok, finished.load(Ordering::Relaxed)), (1, 1, 1));
    assert_eq!(served, 15, "the first five deadlines end before the load");
    assert_eq!((stats.coalesced, stats.l1_hits), (9, 10));
}

#[tokio::test]
async fn a_dropped_leader_changes_nothing() {
    let (_node, cache) = users();
    let (sender, leader) = begin(&cache).await;
    let joined = tokio::spawn({
        let cache = cache.clone();
        async move { load(&cache, "wrong").await.unwrap() }
    });
    until(|| cache.stats().coalesced > 0).await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    sender.send("ann").unwrap();
    check(joined.await.unwrap(), Some("ann"));
    assert_eq!(cache.stats().loads_started, 1);
}

#[tokio::test]
async fn a_failure_is_shared_and_not_kept() {
    let (_node, cache) = users();
    let gate = Arc::new(Semaphore::new(0));
    let callers: Vec<_> = (0..10)
        .map(|_| {
            let (cache, gate) = (cache.clone(), Arc::clone(&gate));
            tokio::spawn(async move {
                let failing = move |_| async move {
                    let _open = gate.acquire().await;
                    Err::<Option<String>, _>("the source is down")
                };
                cache.get_or_load(&1, failing).await
            })
        })
        .collect();
    until(|| cache.stats().coalesced >= 9).await;
    gate.add_permits(1);
    for caller in callers {
        let error = caller.await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "the loader failed: the source is down");
    }
    assert_eq!((cache.stats().loads_started, cache.stats().loads_failed), (1, 1));
    check(load(&cache, "ann").await.unwrap(), Some("ann"));
}

#[tokio::test]
async fn a_panic_is_an_error_and_no_poison() {
    let (_node, cache) = users();
    async fn panics(_: u32) -> Result<Option<String>, Infallible> {
        panic!("out of luck")
    }
    let error = cache.get_or_load(&1, panics).await.unwrap_err();
    assert!(matches!(&error, CacheError::LoadPanicked(why) if &**why == "out of luck"), "{error}");
    check(load(&cache, "ann").await.unwrap(), Some("ann"));
}

#[tokio::test]
async fn nothing_loaded_is_nothing_cached() {
    let (_node, cache) = users();
    for _ in 0..2 {
        let nothing = cache.get_or_load(&1, |_| async { Ok::<_, Infallible>(None) }).await;
        check(nothing.unwrap(), None);
    }
    assert_eq!(cache.stats().loads_ok, 2);
}

#[tokio::test]
async fn a_loaded_value_is_shared_with_other_nodes() {
    let (node, cache) = users();
    check(load(&cache, "ann").await.unwrap(), Some("ann"));
    check(load(&cache, "wrong").await.unwrap(), Some("ann"));
    let other: Users = node.cache("users").build().unwrap();
    check(load(&other, "wrong").await.unwrap(), Some("ann"));
    assert_eq!((other.stats().loads_started, other.stats().cluster_hits), (0, 1));
}

#[tokio::test]
async fn a_slow_load_does_not_overwrite_a_newer_put() {
    for own in [true, false] {
        let (node, cache) = users();
        let (sender, waiter) = begin(&cache).await;
        let writer = if own { cache.clone() } else { node.cache("users").build().unwrap() };
        writer.put(&1, "new".to_owned()).await.unwrap();
        sender.send("old").unwrap();
        check(waiter.await.unwrap(), Some("old"));
        until(|| cache.stats().fills_refused > 0).await;
        check(cache.get(&1).await.unwrap(), Some("new"));
        check(writer.get(&1).await.unwrap(), Some("new"));
    }
}

#[tokio::test]
async fn a_slow_load_does_not_undo_an_invalidation() {
    for own in [true, false] {
        let (node, cache) = users();
        let (sender, waiter) = begin(&cache).await;
        // The key holds nothing, and yet the invalidation counts.
        let writer: Users = if own { cache.clone() } else { node.cache("users").build().unwrap() };
        writer.invalidate(&1).await.unwrap();
        sender.send("old").unwrap();
        check(waiter.await.unwrap(), Some("old"));
        until(|| cache.stats().fills_refused > 0).await;
        check(cache.get(&1).await.unwrap(), None);
        check(load(&cache, "new").await.unwrap(), Some("new"));
    }
}

#[tokio::test]
async fn a_call_after_an_own_invalidation_does_not_join_an_older_load() {
    let (_node, cache) = users();
    let (sender, waiter) = begin(&cache).await;
    cache.invalidate(&1).await.unwrap();
    check(load(&cache, "new").await.unwrap(), Some("new"));
    sender.send("old").unwrap();
    check(waiter.await.unwrap(), Some("old"));
    check(load(&cache, "wrong").await.unwrap(), Some("new"));
}

#[tokio::test]
async fn a_loader_of_its_own_key_gets_an_error() {
    let (node, cache) = users();
    let pages: Cache<u32, String> = node.cache("pages").build().unwrap();
    let (inner, middle) = (cache.clone(), pages.clone());
    let own = move |_| async move {
        let through = move |_| async move { load(&inner, "wrong").await.map(|_| None::<String>) };
        middle.get_or_load(&1, through).await.map(|_| None::<String>)
    };
    let error = cache.get_or_load(&1, own).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the loader failed: the loader failed: a loader loads its own key"
    );
    check(load(&cache, "ann").await.unwrap(), Some("ann"));
}

#[tokio::test]
async fn a_load_within_a_load_needs_no_turn() {
    let node = Node::local(8 << 20);
    let cache: Users = node.cache("users").max_concurrent_loads(1).build().unwrap();
    let inner = cache.clone();
    let outer = move |_| async move {
        load(&inner, "ann").await.map(|user| user.map(|user| user.repeat(2)))
    };
    check(cache.get_or_load(&2, outer).await.unwrap(), Some("annann"));
}

#[tokio::test(start_paused = true)]
async fn only_so_many_loaders_run_at_once() {
    let node = Node::local(8 << 20);
    let cache: Users = node.cache("users").max_concurrent_loads(3).build().unwrap();
    let running = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let callers: Vec<_> = (0..30)
        .map(|key| {
            let (cache, running) = (cache.clone(), Arc::clone(&running));
            tokio::spawn(async move {
                let loader = move |_| async move {
                    let now = running.0.fetch_add(1, Ordering::Relaxed) + 1;
                    running.1.fetch_max(now, Ordering::Relaxed);
                    sleep(Duration::from_millis(10)).await;
                    running.0.fetch_sub(1, Ordering::Relaxed);
                    Ok::<_, Infallible>(Some(String::new()))
                };
                cache.get_or_load(&key, loader).await.unwrap();
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(running.1.load(Ordering::Relaxed), 3);
    assert_eq!(cache.stats().loads_ok, 30);
}

#[tokio::test(start_paused = true)]
async fn a_loader_that_takes_too_long_is_ended() {
    let node = Node::local(8 << 20);
    let limit = Duration::from_secs(3);
    let cache: Users = node.cache("users").load_timeout(limit).build().unwrap();
    let never = |_| std::future::pending::<Result<Option<String>, Infallible>>();
    let error = cache.get_or_load(&1, never).await.unwrap_err();
    assert!(matches!(error, CacheError::LoadTimeout(after) if after == limit), "{error}");
    check(load(&cache, "ann").await.unwrap(), Some("ann"));
}

#[test]
fn a_load_ends_with_the_runtime_that_carries_it() {
    let (_node, cache) = users();
    let other = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (_sender, _waiter) = runtime.block_on(begin(&cache));
    let joined = other.spawn({
        let cache = cache.clone();
        async move { load(&cache, "wrong").await }
    });
    other.block_on(async {
        until(|| cache.stats().coalesced > 0).await;
    });
    drop(runtime);
    let error = other.block_on(joined).unwrap().unwrap_err();
    assert!(matches!(error, CacheError::LoadAborted), "{error}");
    check(other.block_on(load(&cache, "ann")).unwrap(), Some("ann"));
}

/// A node that waits in vain for a second one.
async fn alone() -> Node {
    let mut config = NodeConfig::new(ClusterSecret::new("a secret of enough bytes").unwrap());
    config.expect = 2;
    config.seeds = vec!["127.0.0.1:9".parse().unwrap()];
    config.ready.call_timeout = Duration::from_millis(300);
    Node::start(config).await.unwrap()
}

#[tokio::test]
async fn without_the_cluster_the_loader_serves_in_bounded_time_and_l1_after_it() {
    let node = alone().await;
    let cache: Users = node
        .cache("users")
        .cluster_timeout(Duration::from_millis(50))
        .l1(L1::default().max_staleness(Duration::from_secs(60)))
        .build()
        .unwrap();
    let begun = std::time::Instant::now();
    check(load(&cache, "ann").await.unwrap(), Some("ann"));
    // Fifty milliseconds asked for; the rest is for a busy machine.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    until(|| cache.stats().l1_entries > 0).await;
    check(load(&cache, "wrong").await.unwrap(), Some("ann"));
    assert_eq!((cache.stats().loads_started, cache.stats().l1_hits), (1, 1));
    let unavailable = |error| matches!(error, CacheError::Cluster(OpError::Unavailable { .. }));
    assert!(unavailable(cache.put(&1, "bob".to_owned()).await.unwrap_err()));
    assert!(unavailable(cache.invalidate(&1).await.unwrap_err()));
    assert!(unavailable(cache.get(&2).await.unwrap_err()));
    check(load(&cache, "cid").await.unwrap(), Some("cid"));
    node.stop().await;
    assert!(matches!(cache.get(&2).await, Err(CacheError::Cluster(OpError::Stopped))));
    check(load(&cache, "wrong").await.unwrap(), Some("cid"));
}

/// Nothing is loaded that the cluster was not asked for, alone or in a batch.
#[tokio::test]
async fn a_strict_cache_fails_without_the_cluster() {
    let node = alone().await;
    let cache: Users =
        node.cache("users").cluster_timeout(Duration::from_millis(50)).strict().build().unwrap();
    let unavailable = |error| matches!(error, CacheError::Cluster(OpError::Unavailable { .. }));
    assert!(unavailable(load(&cache, "ann").await.unwrap_err()));
    let loader = |_: Vec<u32>| async move {
        Ok::<_, CacheError>(HashMap::from([(1, "ann".to_owned()), (2, "bob".to_owned())]))
    };
    for outcome in cache.get_or_load_many(&[1, 2], loader).await {
        assert!(unavailable(outcome.unwrap_err()));
    }
    assert_eq!(cache.stats().loads_started, 0);
}
