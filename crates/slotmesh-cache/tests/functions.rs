//! Functions that run where a value is, or where that cannot be, at their callers.

// The lint knows `#[test]` functions only, not their helpers.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use slotmesh_cache::testing::Mock;
use slotmesh_cache::{Cache, CacheBuilder, CacheError, Caches, Function, L1, Peeked};
use slotmesh_node::testing::Cluster;
use slotmesh_node::{FUNCTION_BUDGET, Node, OpError};
use slotmesh_slots::Version;

type Lists = Cache<u64, Vec<u64>>;
type Push = Function<u64, Vec<u64>, u64, usize>;

fn lists(node: &Node) -> CacheBuilder<u64, Vec<u64>> {
    node.cache("lists")
}

fn local() -> Node {
    Node::local(8 << 20)
}

/// Adds a number to a list, and says how many there are; zero empties it, and one that is there already changes nothing.
fn push(list: &mut Option<Vec<u64>>, number: u64) -> usize {
    if number == 0 {
        *list = None;
        return 0;
    }
    let list = list.get_or_insert_default();
    if !list.contains(&number) {
        list.push(number);
    }
    list.len()
}

fn pushes(lists: &Lists) -> Push {
    lists.function("push", 1, push)
}

async fn get(lists: &Lists) -> Option<Vec<u64>> {
    lists.get(&1).await.unwrap().map(|list| list.to_vec())
}

fn version_of(peeked: Option<Peeked<Vec<u64>>>) -> Version {
    peeked.unwrap().version
}

/// Does all that a function can do, and checks that it comes to the same wherever it runs.
async fn check(lists: Lists) {
    let push = pushes(&lists);
    for (input, output, left) in
        [(0, 0, None), (7, 1, Some(vec![7])), (8, 2, Some(vec![7, 8])), (0, 0, None)]
    {
        assert_eq!(push.call(&1, &input).await.unwrap(), output);
        assert_eq!(get(&lists).await, left, "at once where it was called");
    }
    push.call(&1, &7).await.unwrap();
    let before = version_of(lists.peek(&1).await.unwrap());
    assert_eq!(push.call(&1, &7).await.unwrap(), 1);
    assert_eq!(version_of(lists.peek(&1).await.unwrap()), before, "what stays is not written");
    lists.put(&1, vec![5]).await.unwrap();
    assert_eq!(push.clone().call(&1, &6).await.unwrap(), 2);
    let ttl = Duration::from_millis(30);
    lists.put_with(&1, vec![5], ttl).await.unwrap();
    while get(&lists).await.is_some() {
        tokio::task::yield_now().await;
    }
    assert_eq!(push.call(&1, &6).await.unwrap(), 1, "what is over is not seen");
    let numbers: Vec<u64> = (1..=40).collect();
    let many = numbers.iter().map(|number| push.call(&2, number));
    assert!(join_all(many).await.iter().all(Result::is_ok));
    let list = lists.get(&2).await.unwrap().unwrap();
    assert_eq!(list.iter().sum::<u64>(), 820, "none is lost: {list:?}");
}

#[tokio::test]
async fn it_does_the_same_at_the_primary_and_at_the_caller() {
    check(lists(&local()).build().unwrap()).await;
    check(lists(&local()).stale_if_error(Duration::from_secs(60)).build().unwrap()).await;
    check(lists(&local()).tags(|_| ["all"]).build().unwrap()).await;
    check(lists(&local()).no_l1().guard(100).build().unwrap()).await;
    check(Mock::new().cache("lists").build().unwrap()).await;
}

#[tokio::test]
async fn what_was_invalidated_together_is_not_seen() {
    let node = local();
    let lists = lists(&node).tags(|_| ["all"]).build().unwrap();
    let push = pushes(&lists);
    push.call(&1, &7).await.unwrap();
    lists.clear().await.unwrap();
    assert_eq!(push.call(&1, &8).await.unwrap(), 1);
    assert_eq!(get(&lists).await, Some(vec![8]));
}

#[tokio::test]
async fn a_panic_changes_nothing_and_is_told() {
    for tags in [false, true] {
        let node = local();
        let builder = lists(&node);
        let builder = if tags { builder.tags(|_| ["all"]) } else { builder };
        let lists = builder.build().unwrap();
        let odd = lists.function("odd", 1, |list: &mut Option<Vec<u64>>, number: u64| {
            *list = None;
            assert!(number % 2 == 1, "{number} is even");
            number
        });
        lists.put(&1, vec![1]).await.unwrap();
        let failed = odd.call(&1, &4).await.unwrap_err();
        let CacheError::Cluster(OpError::FunctionFailed { why }) = failed else {
            panic!("{failed}")
        };
        assert!(why.contains("4 is even"), "{why}");
        assert_eq!(get(&lists).await, Some(vec![1]));
        assert_eq!(odd.call(&1, &5).await.unwrap(), 5);
        assert_eq!(get(&lists).await, None);
    }
}

#[tokio::test]
async fn one_that_takes_too_long_is_run_by_its_callers() {
    let node = local();
    let lists = lists(&node).build().unwrap();
    let runs = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&runs);
    let slow = lists.function("slow", 1, move |list: &mut Option<Vec<u64>>, (): ()| {
        counted.fetch_add(1, Ordering::SeqCst);
        let until = std::time::Instant::now() + FUNCTION_BUDGET * 2;
        while std::time::Instant::now() < until {}
        list.get_or_insert_default().push(1);
    });
    slow.call(&1, &()).await.unwrap();
    assert_eq!((get(&lists).await, runs.load(Ordering::SeqCst)), (Some(vec![1]), 2));
    slow.call(&1, &()).await.unwrap();
    assert_eq!((get(&lists).await, runs.load(Ordering::SeqCst)), (Some(vec![1, 1]), 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_counts_once_though_nodes_have_other_versions_and_one_is_killed() {
    const KEYS: u64 = 30;
    let mut cluster = Cluster::start(3).await.unwrap();
    cluster.settle().await.unwrap();
    let runs_here = Arc::new(AtomicU64::new(0));
    let bump = |at: usize, version| {
        let counts: Cache<u64, u64> = cluster.node(at).cache("counts").build().unwrap();
        let runs = Arc::clone(&runs_here);
        counts.function("bump", version, move |count: &mut Option<u64>, by: u64| {
            runs.fetch_add(u64::from(at == 2), Ordering::Relaxed);
            *count.get_or_insert_default() += by;
            count.unwrap_or_default()
        })
    };
    // The second one is of another release: it has the first version too, but not the other way round.
    let (first, second, third) = (bump(0, 1), bump(1, 2), bump(2, 1));
    let old = bump(1, 1);
    let all = |calls: &[&Function<u64, u64, u64, u64>]| {
        let calls: Vec<_> = calls.iter().map(|&call| call.clone()).collect();
        async move {
            let one = |key: u64| {
                let calls = calls.clone();
                async move { join_all(calls.iter().map(|call| call.call(&key, &1))).await }
            };
            let done = join_all((0..KEYS).map(one)).await;
            done.into_iter().flatten().filter(Result::is_ok).count() as u64
        }
    };
    assert_eq!(all(&[&first, &second, &third]).await, 3 * KEYS);
    let at_the_owner = runs_here.load(Ordering::Relaxed);
    assert!(at_the_owner > 0, "the third node ran some for the first");
    let under_way = tokio::spawn(all(&[&first, &old, &first, &old]));
    cluster.kill(2).await;
    let counted = 3 * KEYS + under_way.await.unwrap();
    assert_eq!(counted, 7 * KEYS, "those that met the crash go on elsewhere");
    let counts: Cache<u64, u64> = cluster.node(0).cache("counts").no_l1().build().unwrap();
    let mut sum = 0;
    for key in 0..KEYS {
        sum += *counts.get(&key).await.unwrap().unwrap();
    }
    assert_eq!(sum, counted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_nodes_see_what_a_function_did_within_the_bound() {
    const BOUND: Duration = Duration::from_millis(100);
    let cluster = Cluster::start(3).await.unwrap();
    cluster.settle().await.unwrap();
    let near =
        |at: usize| lists(cluster.node(at)).l1(L1::default().max_staleness(BOUND)).build().unwrap();
    let (one, other) = (near(0), near(1));
    let (push, _there) = (pushes(&one), pushes(&other));
    let _third = pushes(&near(2));
    for key in 0..20 {
        push.call(&key, &1).await.unwrap();
        assert_eq!(other.get(&key).await.unwrap().unwrap().len(), 1);
        push.call(&key, &2).await.unwrap();
        assert_eq!(one.get(&key).await.unwrap().unwrap().len(), 2, "its own at once");
        let acknowledged = tokio::time::Instant::now();
        while other.get(&key).await.unwrap().unwrap().len() < 2 {
            assert!(acknowledged.elapsed() <= BOUND, "too late");
        }
    }
}
