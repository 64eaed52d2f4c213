//! Values whose time is up, or nearly: what is shown meanwhile, and who loads them anew. And that there is no value.

// The lint knows `#[test]` functions only, not their helpers.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use slotmesh_cache::{Cache, CacheBuilder, CacheError, Caches, Loaded};
use slotmesh_node::Node;
use tokio::sync::Semaphore;
use tokio::time::timeout;

type Numbers = Cache<u8, u64>;

/// Long enough never to be over in a test, and short enough to be over in one.
const LONG: Duration = Duration::from_secs(3_600);
const SHORT: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_secs(20);

/// A source that gives 1, 2, 3 and so on, as soon as it is let.
struct Source {
    asked: AtomicUsize,
    gate: Semaphore,
}

impl Source {
    fn open() -> Arc<Self> {
        Arc::new(Self { asked: AtomicUsize::new(0), gate: Semaphore::new(1_000) })
    }

    fn close(&self) {
        self.gate.forget_permits(1_000);
    }

    fn reopen(&self) {
        self.gate.add_permits(1_000);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn ask(self: Arc<Self>) -> Result<Option<u64>, CacheError> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let _open = self.gate.acquire().await.unwrap();
        Ok(Some(number as u64))
    }
}

fn numbers(node: &Node) -> CacheBuilder<u8, u64> {
    node.cache("numbers").ttl(LONG)
}

fn local() -> Node {
    Node::local(8 << 20)
}

async fn load(cache: &Numbers, source: &Arc<Source>) -> Result<Option<u64>, CacheError> {
    let source = Arc::clone(source);
    let loaded = cache.get_or_load(&1, move |_| source.ask());
    Ok(timeout(PATIENCE, loaded).await.unwrap()?.as_deref().copied())
}

async fn fails(cache: &Numbers, asked: &Arc<AtomicUsize>) -> Result<Option<u64>, CacheError> {
    let asked = Arc::clone(asked);
    let loader = move |_| async move {
        asked.fetch_add(1, Ordering::SeqCst);
        Err::<Option<u64>, _>("the source is down")
    };
    Ok(cache.get_or_load(&1, loader).await?.as_deref().copied())
}

async fn get(cache: &Numbers) -> Option<u64> {
    cache.get(&1).await.unwrap().as_deref().copied()
}

/// Asks again and again until this comes.
async fn until<R: Future<Output = bool>>(mut condition: impl FnMut() -> R) {
    let comes = async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, comes).await.unwrap();
}

/// Waits until the value is not fresh any more.
async fn is_over(cache: &Numbers) {
    until(|| async { get(cache).await.is_none() }).await;
}

#[tokio::test]
async fn that_there_is_no_value_is_kept() {
    let node = local();
    let asked = Arc::new(AtomicUsize::new(0));
    let ask = |cache: Numbers| {
        let asked = Arc::clone(&asked);
        async move {
            let none = |_| async move {
                asked.fetch_add(1, Ordering::SeqCst);
                Ok::<_, CacheError>(None)
            };
            assert_eq!(cache.get_or_load(&1, none).await.unwrap(), None);
        }
    };
    let build = || numbers(&node).negative_ttl(LONG);
    // In L1, and in the cluster.
    let first = build().build().unwrap();
    for cache in
        [first.clone(), first.clone(), build().build().unwrap(), build().no_l1().build().unwrap()]
    {
        ask(cache.clone()).await;
        assert_eq!(get(&cache).await, None);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    // Until there is one.
    first.put(&1, 5).await.unwrap();
    assert_eq!(get(&first).await, Some(5));
    assert_eq!(load(&build().build().unwrap(), &Source::open()).await.unwrap(), Some(5));
    // What was known is not after an invalidation.
    first.invalidate(&1).await.unwrap();
    ask(first.clone()).await;
    first.invalidate(&1).await.unwrap();
    assert_eq!(load(&first, &Source::open()).await.unwrap(), Some(1));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn that_there_is_no_value_is_asked_again_when_its_time_is_up() {
    let node = local();
    let cache = numbers(&node).negative_ttl(SHORT).build().unwrap();
    let none = |_| async { Ok::<Option<u64>, CacheError>(None) };
    until(|| async {
        assert_eq!(cache.get_or_load(&1, none).await.unwrap(), None);
        cache.stats().loads_ok == 3
    })
    .await;
    // Its own lifetime, where the cache has none for it.
    let plain = numbers(&node).build().unwrap();
    let none = |_| async { Ok::<_, CacheError>(Loaded::missing().ttl(LONG)) };
    until(|| async {
        plain.get_or_load(&1, none).await.unwrap();
        plain.stats().l1_hits == 3
    })
    .await;
    assert!(plain.stats().loads_ok <= 1, "the first may be the other cache's");
}

#[tokio::test]
async fn a_value_is_loaded_anew_before_its_time_is_up_and_nobody_waits() {
    let node = local();
    let cache = numbers(&node).refresh_at(1e-6).build().unwrap();
    let source = Source::open();
    assert_eq!(load(&cache, &source).await.unwrap(), Some(1));
    source.close();
    until(|| async {
        assert_eq!(load(&cache, &source).await.unwrap(), Some(1));
        source.asked() == 2
    })
    .await;
    for _ in 0..10 {
        assert_eq!(load(&cache, &source).await.unwrap(), Some(1), "shown while it is loaded");
    }
    assert_eq!((get(&cache).await, source.asked()), (Some(1), 2));
    source.reopen();
    until(|| async { load(&cache, &source).await.unwrap() >= Some(2) }).await;
    assert!(cache.stats().refreshes > 0 && cache.stats().stale_served == 0);
}

#[tokio::test]
async fn a_stale_value_is_shown_while_it_is_loaded_anew() {
    let node = local();
    let cache = numbers(&node).ttl(SHORT).stale_while_revalidate(LONG).build().unwrap();
    let source = Source::open();
    assert_eq!(load(&cache, &source).await.unwrap(), Some(1));
    source.close();
    is_over(&cache).await;
    until(|| async {
        assert_eq!(load(&cache, &source).await.unwrap(), Some(1));
        source.asked() == 2
    })
    .await;
    for _ in 0..10 {
        assert_eq!(load(&cache, &source).await.unwrap(), Some(1));
    }
    assert_eq!(source.asked(), 2);
    assert_eq!(get(&cache).await, None, "it is stale");
    assert!(cache.stats().stale_served > 0);
    source.reopen();
    until(|| async { load(&cache, &source).await.unwrap() >= Some(2) }).await;
    // What was invalidated is no stale value.
    is_over(&cache).await;
    cache.invalidate(&1).await.unwrap();
    let error = fails(&cache, &Arc::default()).await.unwrap_err();
    assert!(matches!(error, CacheError::Load(_)), "{error}");
}

#[tokio::test]
async fn a_stale_value_is_shown_where_its_load_fails() {
    let node = local();
    let build = || numbers(&node).ttl(SHORT).stale_if_error(LONG).error_backoff(LONG);
    let (cache, other) = (build().build().unwrap(), build().no_l1().build().unwrap());
    assert_eq!(load(&cache, &Source::open()).await.unwrap(), Some(1));
    is_over(&cache).await;
    let asked = Arc::new(AtomicUsize::new(0));
    for _ in 0..10 {
        assert_eq!(fails(&cache, &asked).await.unwrap(), Some(1));
        assert_eq!(fails(&other, &asked).await.unwrap(), Some(1), "known to all");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "it is not to be tried again");
    assert!(cache.stats().stale_served == 1 && other.stats().stale_served == 1);
    assert_eq!((get(&cache).await, get(&other).await), (None, None), "it is stale all the same");
    assert!(cache.peek(&1).await.unwrap().unwrap().is_stale);
    // Who does not want stale values gets the error.
    let strict = numbers(&node).no_l1().build().unwrap();
    let error = fails(&strict, &asked).await.unwrap_err();
    assert!(matches!(error, CacheError::LoadElsewhere(_)), "{error}");
    cache.put(&1, 7).await.unwrap();
    assert_eq!(fails(&cache, &asked).await.unwrap(), Some(7));
}

/// While it is shown, and while it is loaded anew, which takes long.
#[tokio::test]
async fn what_was_overwritten_or_invalidated_is_not_shown_as_stale() {
    let node = local();
    let build = || numbers(&node).ttl(SHORT).stale_while_revalidate(LONG).error_backoff(LONG);
    let (source, writer) = (Source::open(), numbers(&node).no_l1().build().unwrap());
    for (cache, fails_first) in [
        (build().no_l1().build().unwrap(), false),
        (build().no_l1().build().unwrap(), true),
        (build().build().unwrap(), false),
        (build().build().unwrap(), true),
    ] {
        cache.put(&1, 100).await.unwrap();
        is_over(&cache).await;
        source.close();
        match fails_first {
            true => assert_eq!(fails(&cache, &Arc::default()).await.unwrap(), Some(100)),
            false => assert_eq!(load(&cache, &source).await.unwrap(), Some(100)),
        }
        writer.put(&1, 200).await.unwrap();
        assert_eq!(load(&cache, &source).await.unwrap(), Some(200));
        cache.put(&1, 100).await.unwrap();
        is_over(&cache).await;
        assert_eq!(fails(&cache, &Arc::default()).await.unwrap(), Some(100));
        writer.invalidate(&1).await.unwrap();
        source.reopen();
        assert!(load(&cache, &source).await.unwrap() < Some(100), "the source's");
    }
}

/// Its load began before, and fails.
#[tokio::test]
async fn what_was_invalidated_meanwhile_is_not_shown_for_a_load_that_failed() {
    let node = local();
    let build = || numbers(&node).ttl(SHORT).stale_if_error(LONG).no_l1();
    let (cache, writer) = (build().build().unwrap(), build().build().unwrap());
    let (begun, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    for invalidates in [false, true] {
        cache.put(&1, 100).await.unwrap();
        is_over(&cache).await;
        let (begins, opens) = (Arc::clone(&begun), Arc::clone(&gate));
        let failing = move |_| async move {
            begins.add_permits(1);
            opens.acquire().await.unwrap().forget();
            Err::<Option<u64>, _>("the source is down")
        };
        let call = tokio::spawn({
            let cache = cache.clone();
            async move { cache.get_or_load(&1, failing).await }
        });
        begun.acquire().await.unwrap().forget();
        if invalidates {
            writer.invalidate(&1).await.unwrap();
        }
        gate.add_permits(1);
        let shown = timeout(PATIENCE, call).await.unwrap().unwrap();
        assert_eq!(shown.is_err(), invalidates);
    }
}

#[tokio::test]
async fn a_failed_load_is_tried_again_after_its_pause() {
    let node = local();
    let cache =
        numbers(&node).ttl(SHORT).stale_if_error(LONG).error_backoff(SHORT).build().unwrap();
    assert_eq!(load(&cache, &Source::open()).await.unwrap(), Some(1));
    is_over(&cache).await;
    let asked = Arc::new(AtomicUsize::new(0));
    until(|| async {
        assert_eq!(fails(&cache, &asked).await.unwrap(), Some(1));
        asked.load(Ordering::SeqCst) == 3
    })
    .await;
    let source = Source::open();
    source.asked.store(1, Ordering::SeqCst);
    until(|| async { load(&cache, &source).await.unwrap() == Some(2) }).await;
}

#[tokio::test]
async fn a_load_that_takes_long_makes_way_for_a_stale_value() {
    let node = local();
    let build = || numbers(&node).ttl(SHORT).stale_if_error(LONG);
    let cache = build().soft_timeout(SHORT).build().unwrap();
    let source = Source::open();
    assert_eq!(load(&cache, &source).await.unwrap(), Some(1));
    is_over(&cache).await;
    source.close();
    assert_eq!(load(&cache, &source).await.unwrap(), Some(1));
    assert_eq!(load(&cache, &source).await.unwrap(), Some(1));
    assert_eq!(source.asked(), 2);
    source.reopen();
    until(|| async { load(&cache, &source).await.unwrap() >= Some(2) }).await;
}

#[tokio::test]
async fn nobody_waits_longer_than_the_hard_timeout() {
    let node = local();
    let cache = numbers(&node).hard_timeout(SHORT).build().unwrap();
    let source = Source::open();
    source.close();
    let error = load(&cache, &source).await.unwrap_err();
    assert!(matches!(error, CacheError::TimedOut(SHORT)), "{error}");
    source.reopen();
    until(|| async { load(&cache, &source).await.is_ok_and(|value| value == Some(1)) }).await;
    assert_eq!(source.asked(), 1);
}

#[tokio::test]
async fn a_loader_may_say_that_what_is_known_was_not_modified() {
    let node = local();
    let cache = numbers(&node).ttl(SHORT).stale_if_error(LONG).build().unwrap();
    let unmodified = |known: Option<u64>| {
        let cache = cache.clone();
        async move {
            let loader = move |_, old: Option<Arc<u64>>| async move {
                assert_eq!(old.as_deref().copied(), known);
                Ok::<_, CacheError>(Loaded::not_modified().ttl(LONG))
            };
            cache.get_or_reload(&1, loader).await
        }
    };
    let error = unmodified(None).await.unwrap_err();
    assert!(matches!(error, CacheError::NothingKnown), "{error}");
    assert_eq!(load(&cache, &Source::open()).await.unwrap(), Some(1));
    is_over(&cache).await;
    assert_eq!(unmodified(Some(1)).await.unwrap().as_deref(), Some(&1));
    until(|| async { get(&cache).await == Some(1) }).await;
}

#[tokio::test]
async fn what_is_no_more_is_not_shown_as_stale() {
    let node = local();
    let cache = numbers(&node).ttl(SHORT).stale_if_error(LONG).build().unwrap();
    assert_eq!(load(&cache, &Source::open()).await.unwrap(), Some(1));
    is_over(&cache).await;
    let gone = |_| async { Ok::<Option<u64>, CacheError>(None) };
    assert_eq!(cache.get_or_load(&1, gone).await.unwrap(), None);
    until(|| async { fails(&cache, &Arc::default()).await.is_err() }).await;
}

#[tokio::test]
async fn a_loader_decides_how_long_its_value_lives_and_whether_it_is_stored() {
    let node = local();
    let cache = numbers(&node).build().unwrap();
    let brief = |_| async { Ok::<_, CacheError>(Loaded::value(3).ttl(SHORT)) };
    assert_eq!(cache.get_or_load(&1, brief).await.unwrap().as_deref(), Some(&3));
    is_over(&cache).await;
    for loaded in [Loaded::value(4).no_store(), Loaded::value(4).ttl(Duration::ZERO)] {
        let unstored = |_| async { Ok::<_, CacheError>(loaded) };
        assert_eq!(cache.get_or_load(&1, unstored).await.unwrap().as_deref(), Some(&4));
        assert_eq!(get(&cache).await, None);
    }
}

#[tokio::test]
async fn a_cache_may_have_a_loader_of_its_own() {
    let node = local();
    let cache = numbers(&node).build().unwrap();
    assert!(matches!(cache.load(&1).await, Err(CacheError::NoLoader)));
    let twice = |key| async move { Ok::<_, CacheError>(Some(u64::from(key) * 2)) };
    let cache = numbers(&node).loader(twice).build().unwrap();
    for _ in 0..2 {
        assert_eq!(cache.load(&21).await.unwrap().as_deref(), Some(&42));
    }
    assert_eq!(cache.stats().loads_started, 1);
}

/// A clock that stands still is the test's: time passes at its word, and however long the test takes, nothing ages by itself.
#[tokio::test(start_paused = true)]
async fn a_test_moves_the_time_on_by_hand() {
    let node = local();
    let near = node.cache("near").ttl(SHORT).build().unwrap();
    let far = node.cache("far").ttl(SHORT).no_l1().build().unwrap();
    for cache in [far, near] {
        let source = Source::open();
        assert_eq!(load(&cache, &source).await.unwrap(), Some(1));
        let began = std::time::Instant::now();
        // Several rounds of whoever removes what is over.
        while began.elapsed() < 5 * SHORT {
            std::thread::yield_now();
        }
        tokio::time::advance(SHORT - Duration::from_millis(1)).await;
        assert_eq!(cache.get(&1).await.unwrap().as_deref(), Some(&1));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(cache.get(&1).await.unwrap(), None);
        tokio::time::advance(LONG).await;
        assert_eq!(load(&cache, &source).await.unwrap(), Some(2));
    }
}
