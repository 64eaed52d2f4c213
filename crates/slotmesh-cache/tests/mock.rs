//! The stand-in for the cluster does what users' tests want of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use futures_util::FutureExt;
use slotmesh_cache::testing::Mock;
use slotmesh_cache::{CacheError, Caches};
use slotmesh_node::OpError;
use tokio::time::{Instant, advance, timeout};

#[tokio::test]
async fn caches_of_one_mock_share_it_and_keep_what_they_read() {
    let mock = Mock::new();
    let (one, two) = (mock.cache::<u8, u8>("numbers"), mock.cache::<u8, u8>("numbers"));
    let (one, two) = (one.build().unwrap(), two.build().unwrap());
    one.put(&1, 7).await.unwrap();
    assert_eq!(two.get(&1).await.unwrap().as_deref(), Some(&7));
    let before = mock.calls();
    assert_eq!(two.get(&1).await.unwrap().as_deref(), Some(&7));
    assert_eq!(mock.calls(), before, "it lies in L1");
    one.put(&1, 8).await.unwrap();
    assert_eq!(two.get(&1).await.unwrap().as_deref(), Some(&8), "which is told of writes");
    assert_eq!(
        Mock::new().cache::<u8, u8>("numbers").build().unwrap().get(&1).await.unwrap(),
        None
    );
}

#[tokio::test(start_paused = true)]
async fn it_fails_and_delays_at_will_and_time_is_the_tests() {
    let mock = Mock::new();
    let cache =
        mock.cache::<u8, u8>("numbers").no_l1().ttl(Duration::from_secs(60)).build().unwrap();
    cache.put(&1, 7).await.unwrap();
    mock.cut_off();
    assert!(matches!(cache.get(&1).await, Err(CacheError::Cluster(OpError::Unavailable { .. }))));
    let loaded = cache.get_or_load(&1, |_| async { Ok::<_, CacheError>(Some(9)) });
    assert_eq!(loaded.await.unwrap().as_deref(), Some(&9));
    mock.heal();
    assert_eq!(cache.get(&1).await.unwrap().as_deref(), Some(&7));
    mock.delay(Duration::from_millis(300));
    let began = Instant::now();
    assert_eq!(cache.get(&1).await.unwrap().as_deref(), Some(&7));
    assert_eq!(began.elapsed(), Duration::from_millis(300));
    mock.delay(Duration::from_secs(5));
    assert!(matches!(cache.put(&1, 8).await, Err(CacheError::Cluster(OpError::Ambiguous { .. }))));
    mock.delay(Duration::ZERO);
    assert_eq!(cache.get(&1).await.unwrap().as_deref(), Some(&8), "it happened");
    advance(Duration::from_secs(61)).await;
    assert_eq!(cache.get(&1).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_polled_no_more_holds_up_nobody() {
    for is_dropped in [false, true] {
        let mock = Mock::new();
        let cache = mock.cache::<u8, u8>("numbers").no_l1().build().unwrap();
        mock.delay(Duration::from_millis(50));
        let load = |number| {
            cache.get_or_load(&1, move |_| async move { Ok::<_, CacheError>(Some(number)) })
        };
        let mut first = Box::pin(load(1));
        // It asks, and is polled no more.
        assert!((&mut first).now_or_never().is_none());
        let first = (!is_dropped).then_some(first);
        let second = timeout(Duration::from_secs(5), load(2)).await;
        assert_eq!(second.unwrap().unwrap().as_deref(), Some(&1));
        if let Some(first) = first {
            assert_eq!(first.await.unwrap().as_deref(), Some(&1));
        }
        assert_eq!(cache.stats().loads_started, 1);
    }
}
