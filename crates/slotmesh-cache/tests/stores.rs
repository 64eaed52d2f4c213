//! Changes that the source gets too, before the cluster or after it.

// The lint knows `#[test]` functions only, not their helpers.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use slotmesh_cache::{Cache, CacheBuilder, CacheError, Caches, Change};
use slotmesh_node::Node;
use tokio::sync::Semaphore;
use tokio::time::timeout;

type Numbers = Cache<u8, u64>;
type Changes = Vec<Change<u8, u64>>;

const LONG: Duration = Duration::from_secs(3_600);
const PATIENCE: Duration = Duration::from_secs(20);

/// A source that takes changes as soon as it is let.
struct Source {
    has: Mutex<BTreeMap<u8, u64>>,
    /// The keys of each call.
    calls: Mutex<Vec<Vec<u8>>>,
    gate: Semaphore,
    is_down: AtomicBool,
    /// It takes no batch with this key in it.
    refuses: Option<u8>,
}

impl Source {
    fn new(refuses: Option<u8>) -> Arc<Self> {
        let (has, calls) = (Mutex::default(), Mutex::default());
        let (gate, is_down) = (Semaphore::new(1_000), AtomicBool::new(false));
        Arc::new(Self { has, calls, gate, is_down, refuses })
    }

    async fn take(self: Arc<Self>, changes: Changes) -> Result<(), &'static str> {
        let keys: Vec<u8> = changes.iter().map(|it| it.key).collect();
        self.calls.lock().push(keys.clone());
        let _open = self.gate.acquire().await.unwrap();
        if self.is_down.load(Ordering::SeqCst) || keys.iter().any(|key| Some(*key) == self.refuses)
        {
            return Err("the source is down");
        }
        for Change { key, value, .. } in changes {
            match value {
                Some(value) => drop(self.has.lock().insert(key, *value)),
                None => drop(self.has.lock().remove(&key)),
            }
        }
        Ok(())
    }

    fn cache(self: &Arc<Self>, node: &Node) -> CacheBuilder<u8, u64> {
        let (writes, loads) = (Arc::clone(self), Arc::clone(self));
        let builder = node.cache("numbers").writer(move |it| Arc::clone(&writes).take(it));
        builder.loader(move |key| {
            let found = loads.has.lock().get(&key).copied();
            async move { Ok::<_, CacheError>(found) }
        })
    }

    fn has(&self) -> Vec<(u8, u64)> {
        self.has.lock().iter().map(|(key, value)| (*key, *value)).collect()
    }

    fn calls(&self) -> Vec<Vec<u8>> {
        self.calls.lock().clone()
    }
}

fn local() -> Node {
    Node::local(8 << 20)
}

async fn get(cache: &Numbers, key: u8) -> Option<u64> {
    cache.get(&key).await.unwrap().as_deref().copied()
}

async fn load(cache: &Numbers, key: u8) -> Option<u64> {
    cache.load(&key).await.unwrap().as_deref().copied()
}

async fn until(mut condition: impl FnMut() -> bool) {
    let comes = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, comes).await.unwrap();
}

#[tokio::test]
async fn the_source_is_changed_first() {
    let (node, source) = (local(), Source::new(None));
    let cache = source.cache(&node).build().unwrap();
    cache.store(&1, 10).await.unwrap();
    assert_eq!((source.has(), get(&cache, 1).await), (vec![(1, 10)], Some(10)));
    let stored = cache.store_many([(2, 20), (3, 30)]).await;
    assert!(stored.iter().all(Result::is_ok));
    assert_eq!(source.calls(), [vec![1], vec![2, 3]]);
    cache.delete(&1).await.unwrap();
    assert_eq!((source.has(), get(&cache, 1).await), (vec![(2, 20), (3, 30)], None));
    // What it does not take is not shown, nor is what was there before: nobody knows what the source has.
    source.is_down.store(true, Ordering::SeqCst);
    let failed = cache.store(&2, 21).await;
    assert!(matches!(&failed, Err(CacheError::Store(why)) if why.to_string().contains("down")));
    assert_eq!(get(&cache, 2).await, None);
    assert_eq!(load(&cache, 2).await, Some(20));
    cache.flush().await;
}

#[tokio::test]
async fn of_two_that_change_the_source_at_once_no_loser_stays() {
    let (node, source) = (local(), Source::new(None));
    let cache = source.cache(&node).build().unwrap();
    cache.store(&1, 10).await.unwrap();
    source.gate.forget_permits(1_000);
    let both = [11, 12].map(|value| {
        let cache = cache.clone();
        tokio::spawn(async move { cache.store(&1, value).await })
    });
    // Both looked at the cluster before the source takes either.
    until(|| source.calls().len() == 3).await;
    source.gate.add_permits(1_000);
    for stored in both {
        stored.await.unwrap().unwrap();
    }
    let [(1, last)] = source.has()[..] else { panic!("{:?}", source.has()) };
    assert!(get(&cache, 1).await.is_none_or(|value| value == last));
    assert_eq!(load(&cache, 1).await, Some(last));
}

#[tokio::test]
async fn who_loses_patience_leaves_nothing_half_done() {
    let (node, source) = (local(), Source::new(None));
    let cache = source.cache(&node).build().unwrap();
    source.gate.forget_permits(1_000);
    let task = tokio::spawn({
        let cache = cache.clone();
        async move { cache.store(&1, 10).await }
    });
    until(|| source.calls().len() == 1).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    source.gate.add_permits(1_000);
    until(|| source.has() == [(1, 10)]).await;
    let comes = async {
        while get(&cache, 1).await != Some(10) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, comes).await.unwrap();
}

#[tokio::test]
async fn a_writer_that_panics_or_hangs_is_an_error() {
    let node = local();
    let builder = || node.cache::<u8, u64>("odd").load_timeout(Duration::from_millis(50));
    let panics = builder().writer(|changes: Changes| async move {
        assert!(changes.is_empty(), "no thanks");
        Ok::<_, CacheError>(())
    });
    let failed = panics.build().unwrap().store(&1, 1).await;
    assert!(matches!(&failed, Err(CacheError::StorePanicked(why)) if why.contains("no thanks")));
    let hangs = builder().writer(|_| std::future::pending::<Result<(), CacheError>>());
    let failed = hangs.build().unwrap().store(&1, 1).await;
    assert!(matches!(failed, Err(CacheError::StoreTimeout(_))));
    let none = node.cache::<u8, u64>("none").build().unwrap();
    assert!(matches!(none.store(&1, 1).await, Err(CacheError::NoWriter)));
    assert!(matches!(none.delete(&1).await, Err(CacheError::NoWriter)));
    let alone = node.cache::<u8, u64>("alone").write_behind(LONG).unwritten_max(0).build();
    let Err(CacheError::Settings { problems }) = alone else { panic!("must not be taken") };
    assert_eq!(problems.len(), 2, "{problems:?}");
}

#[tokio::test]
async fn the_last_change_of_each_key_comes_behind() {
    let (node, source) = (local(), Source::new(None));
    let cache = source.cache(&node).write_behind(LONG).build().unwrap();
    for value in 0..100 {
        cache.store(&1, value).await.unwrap();
    }
    cache.store(&2, 5).await.unwrap();
    cache.store(&3, 5).await.unwrap();
    cache.delete(&3).await.unwrap();
    assert_eq!((get(&cache, 1).await, get(&cache, 3).await), (Some(99), None));
    assert_eq!((source.calls().len(), cache.stats().unwritten), (0, 3));
    cache.flush().await;
    assert_eq!(source.has(), [(1, 99), (2, 5)]);
    assert_eq!(source.calls().len(), 1);
    let stats = cache.stats();
    assert_eq!((stats.unwritten, stats.written_behind, stats.write_failures), (0, 3, 0));
}

#[tokio::test]
async fn many_go_at_once_and_the_time_of_each_is_kept() {
    let (node, source) = (local(), Source::new(None));
    let cache = source.cache(&node).write_behind(LONG).write_batch_max(3).build().unwrap();
    let stored = cache.store_many((0..7).map(|key| (key, 1))).await;
    assert!(stored.iter().all(Result::is_ok));
    until(|| source.has().len() == 6).await;
    assert_eq!(cache.stats().unwritten, 1);
    let soon = source.cache(&node).write_behind(Duration::from_millis(20)).build().unwrap();
    soon.store(&9, 1).await.unwrap();
    until(|| source.has().len() == 7).await;
}

#[tokio::test]
async fn what_the_source_does_not_take_goes_again() {
    let (node, source) = (local(), Source::new(None));
    let cache = source.cache(&node).write_behind(Duration::ZERO).build().unwrap();
    source.is_down.store(true, Ordering::SeqCst);
    let stored = cache.store_many([(1, 1), (2, 2)]).await;
    assert!(stored.iter().all(Result::is_ok));
    until(|| cache.stats().write_failures >= 2).await;
    // A newer one takes its place meanwhile.
    cache.store(&1, 3).await.unwrap();
    source.is_down.store(false, Ordering::SeqCst);
    timeout(PATIENCE, cache.flush()).await.unwrap();
    assert_eq!(source.has(), [(1, 3), (2, 2)]);
}

#[tokio::test]
async fn one_that_is_never_taken_holds_up_no_other() {
    let (node, source) = (local(), Source::new(Some(2)));
    let cache = source.cache(&node).write_behind(LONG).build().unwrap();
    let stored = cache.store_many((0..6).map(|key| (key, 1))).await;
    assert!(stored.iter().all(Result::is_ok));
    assert!(timeout(Duration::from_millis(10), cache.flush()).await.is_err());
    until(|| source.has().len() == 5).await;
    assert_eq!(cache.stats().unwritten, 1);
}

#[tokio::test]
async fn what_is_not_written_yet_is_not_loaded() {
    let (node, source) = (local(), Source::new(None));
    source.has.lock().extend([(1, 1), (2, 2)]);
    let cache = source.cache(&node).write_behind(LONG).build().unwrap();
    cache.store(&1, 10).await.unwrap();
    cache.delete(&2).await.unwrap();
    for key in [1, 2] {
        cache.invalidate(&key).await.unwrap();
    }
    assert_eq!((load(&cache, 1).await, load(&cache, 2).await), (Some(10), None));
    for key in [1, 2] {
        cache.invalidate(&key).await.unwrap();
    }
    let old = |_| async { Ok::<_, CacheError>([(1, 1_u64), (2, 2)]) };
    let loaded = cache.get_or_load_many(&[1, 2], old).await;
    let loaded: Vec<_> = loaded.into_iter().map(|it| it.unwrap().as_deref().copied()).collect();
    assert_eq!(loaded, [Some(10), None]);
}

#[tokio::test]
async fn no_more_wait_than_find_room() {
    let (node, source) = (local(), Source::new(None));
    let builder = source.cache(&node).write_behind(LONG).unwritten_max(2);
    let cache = builder.load_timeout(Duration::from_millis(50)).build().unwrap();
    cache.store(&1, 1).await.unwrap();
    cache.store(&2, 1).await.unwrap();
    let refused = cache.store(&3, 1).await;
    assert!(matches!(refused, Err(CacheError::TooManyUnwritten { max: 2 })), "{refused:?}");
    assert_eq!(get(&cache, 3).await, None);
    cache.flush().await;
    cache.store(&3, 1).await.unwrap();
}

#[tokio::test]
async fn a_node_that_leaves_writes_first() {
    let (node, source) = (local(), Source::new(None));
    let cache = source.cache(&node).write_behind(LONG).build().unwrap();
    cache.store(&1, 1).await.unwrap();
    assert!(node.leave(PATIENCE).await);
    assert_eq!(source.has(), [(1, 1)]);
    // A source that is down keeps it for no longer than it was told to wait.
    source.is_down.store(true, Ordering::SeqCst);
    cache.store(&2, 2).await.unwrap();
    assert!(!node.leave(Duration::from_millis(50)).await);
    assert_eq!(cache.stats().unwritten, 1);
}

#[test]
fn what_one_runtime_leaves_another_one_writes() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (node, source) = (local(), Source::new(None));
    let cache = source.cache(&node).write_behind(Duration::ZERO).build().unwrap();
    source.gate.forget_permits(1_000);
    let first = runtime();
    first.block_on(async {
        cache.store(&1, 1).await.unwrap();
        until(|| source.calls().len() == 1).await;
    });
    drop(first);
    source.gate.add_permits(1_000);
    runtime().block_on(async { timeout(PATIENCE, cache.flush()).await.unwrap() });
    assert_eq!(source.has(), [(1, 1)]);
}
