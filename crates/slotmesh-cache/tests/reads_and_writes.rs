//! Get, put and invalidate over a node: tiers, versions of schemas and codecs, lifetimes, and errors of the cluster.

// The lint knows `#[test]` functions only, not their helpers.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use slotmesh_cache::codecs::{Json, Lz4, Raw};
use slotmesh_cache::{Cache, CacheBuilder, CacheError, Caches, Codec, CodecError, L1};
use slotmesh_node::{CallOptions, Node, OpError, PutOptions};

fn node() -> Node {
    Node::local(8 << 20)
}

fn users(node: &Node) -> CacheBuilder<u32, String> {
    node.cache("users")
}

async fn check(cache: &Cache<u32, String>, key: u32, expected: Option<&str>) {
    let found = cache.get(&key).await.unwrap();
    assert_eq!(found.as_deref().map(String::as_str), expected);
}

#[tokio::test]
async fn what_is_put_is_read_until_it_is_invalidated() {
    let node = node();
    let cache = users(&node).build().unwrap();
    check(&cache, 1, None).await;
    assert_eq!(cache.put(&1, "ann".to_owned()).await.unwrap().copies, 1);
    check(&cache, 1, Some("ann")).await;
    cache.put(&1, "bob".to_owned()).await.unwrap();
    check(&cache, 1, Some("bob")).await;
    check(&cache, 2, None).await;
    cache.invalidate(&1).await.unwrap();
    check(&cache, 1, None).await;
    let stats = cache.stats();
    assert_eq!((stats.l1_hits, stats.cluster_hits, stats.misses), (2, 0, 3));
}

#[tokio::test]
async fn caches_of_one_name_share_the_cluster() {
    let node = node();
    let (a, b) = (users(&node).build().unwrap(), users(&node).build().unwrap());
    a.put(&1, "ann".to_owned()).await.unwrap();
    check(&b, 1, Some("ann")).await;
    check(&b, 1, Some("ann")).await;
    assert_eq!((b.stats().cluster_hits, b.stats().l1_hits), (1, 1));
    assert!(b.stats().l1_bytes > 3 && b.stats().l1_entries == 1);
}

#[tokio::test]
async fn whatever_else_writes_in_this_process_is_seen_at_once() {
    let node = node();
    let (a, b) = (users(&node).build().unwrap(), users(&node).build().unwrap());
    a.put(&1, "ann".to_owned()).await.unwrap();
    check(&a, 1, Some("ann")).await;
    b.put(&1, "bob".to_owned()).await.unwrap();
    check(&a, 1, Some("bob")).await;
    check(&a, 1, Some("bob")).await;
    assert_eq!((a.stats().l1_hits, a.stats().cluster_hits), (2, 1));
    node.delete("users:1:1", CallOptions::default()).await.unwrap();
    check(&a, 1, None).await;
    check(&b, 1, None).await;
}

#[tokio::test(start_paused = true)]
async fn l1_asks_again_when_it_is_told_to() {
    let node = node();
    let l1 = L1::default().ttl(Duration::from_millis(500));
    let cache = users(&node).l1(l1).build().unwrap();
    cache.put(&1, "ann".to_owned()).await.unwrap();
    tokio::time::advance(Duration::from_millis(499)).await;
    check(&cache, 1, Some("ann")).await;
    assert_eq!(cache.stats().cluster_hits, 0);
    tokio::time::advance(Duration::from_millis(2)).await;
    check(&cache, 1, Some("ann")).await;
    assert_eq!(cache.stats().cluster_hits, 1);
}

#[tokio::test]
async fn keys_are_readable_in_the_cluster() {
    let node = node();
    users(&node).version(2).build().unwrap().put(&42, "ann".to_owned()).await.unwrap();
    let value = node.get(b"users:2:42").await.unwrap().unwrap();
    assert!(value.value.ends_with(b"ann"));
    assert_eq!(value.ttl, None);
}

#[tokio::test]
async fn an_entry_lives_as_long_as_its_cache_or_its_put_says() {
    let node = node();
    let cache = users(&node).ttl(Duration::from_secs(60)).build().unwrap();
    cache.put(&1, "ann".to_owned()).await.unwrap();
    cache.put_with(&2, "bob".to_owned(), Duration::from_secs(7)).await.unwrap();
    for (key, seconds) in [("users:1:1", 60), ("users:1:2", 7)] {
        let ttl = node.get(key.as_bytes()).await.unwrap().unwrap().ttl.unwrap();
        assert!(ttl > Duration::from_secs(seconds - 1) && ttl <= Duration::from_secs(seconds));
    }
    cache.put_with(&3, "cid".to_owned(), Duration::from_millis(20)).await.unwrap();
    while cache.get(&3).await.unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Text as it is.
struct Plain;

impl Codec<String> for Plain {
    fn id(&self) -> u8 {
        200
    }

    fn encode(&self, value: &String, out: &mut Vec<u8>) -> Result<(), CodecError> {
        if value == "unwritable" {
            return Err(CodecError::new("no"));
        }
        out.extend_from_slice(value.as_bytes());
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<String, CodecError> {
        String::from_utf8(bytes.to_vec()).map_err(|error| CodecError::new(error.to_string()))
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_a_miss_and_is_replaced() {
    let node = node();
    let cache = users(&node).codec(Plain).build().unwrap();
    cache.put(&1, "ann".to_owned()).await.unwrap();
    check(&cache, 1, Some("ann")).await;
    let other = users(&node).build().unwrap();
    check(&other, 1, None).await;
    assert_eq!(other.stats().undecodable, 1);
    let numbers = node.cache::<u32, u64>("users").build().unwrap();
    assert_eq!(numbers.get(&1).await.unwrap(), None);
    // Not ours at all: written by a Redis client.
    node.put("users:1:2", "plain text", PutOptions::default()).await.unwrap();
    check(&other, 2, None).await;
    for key in [1, 2] {
        let load = |_| async { Ok::<_, CacheError>(Some("bob".to_owned())) };
        let loaded = other.get_or_load(&key, load).await.unwrap();
        assert_eq!(loaded.unwrap().as_str(), "bob");
        check(&users(&node).build().unwrap(), key, Some("bob")).await;
    }
}

#[tokio::test]
async fn schema_versions_do_not_see_each_other() {
    let node = node();
    let old = users(&node).version(1).build().unwrap();
    let new = node.cache::<u32, (u8, u8)>("users").version(2).build().unwrap();
    old.put(&1, "ann".to_owned()).await.unwrap();
    assert_eq!(new.get(&1).await.unwrap(), None);
    new.put(&1, (1, 2)).await.unwrap();
    check(&old, 1, Some("ann")).await;
}

#[tokio::test]
async fn writes_tell_why_they_failed() {
    let node = node();
    let cache = users(&node).codec(Plain).build().unwrap();
    let unwritable = cache.put(&1, "unwritable".to_owned()).await;
    assert!(matches!(unwritable, Err(CacheError::Encode(_))));
    cache.put(&1, "ann".to_owned()).await.unwrap();
    node.stop().await;
    check(&cache, 1, Some("ann")).await;
    let stopped = |error| matches!(error, CacheError::Cluster(OpError::Stopped));
    assert!(stopped(cache.put(&1, "bob".to_owned()).await.unwrap_err()));
    assert!(stopped(cache.get(&1).await.unwrap_err()), "a failed put leaves nothing in L1");
    assert!(stopped(cache.invalidate(&1).await.unwrap_err()));
}

#[tokio::test]
async fn a_full_l1_stays_within_its_bounds() {
    let node = node();
    let cache = users(&node).l1(L1::entries(100).max_bytes(1 << 20)).build().unwrap();
    for key in 0..1_000 {
        cache.put(&key, "x".repeat(100)).await.unwrap();
    }
    let stats = cache.stats();
    assert!((50..=100).contains(&stats.l1_entries), "{stats:?}");
    assert!((100 * stats.l1_entries..=1 << 20).contains(&stats.l1_bytes), "{stats:?}");
}

/// As when an application changes its codec: neither reads what the other wrote, and both can go on.
#[tokio::test]
async fn another_codec_is_a_miss() {
    let node = node();
    let text = "to be or not to be ".repeat(20);
    let plain = node.cache::<u8, String>("texts").codec(Raw).no_l1().build().unwrap();
    let short = node.cache::<u8, String>("texts").codec(Lz4::new(Raw, 64)).no_l1().build().unwrap();
    let json = node.cache::<u8, String>("texts").codec(Json).no_l1().build().unwrap();
    let caches = [plain, short, json];
    for (at, cache) in caches.iter().enumerate() {
        cache.put(&1, text.clone()).await.unwrap();
        for (other_at, other) in caches.iter().enumerate() {
            let found = other.get(&1).await.unwrap();
            assert_eq!(found.as_deref(), (at == other_at).then_some(&text));
        }
    }
    assert!(caches.iter().all(|cache| cache.stats().undecodable == 2));
    let bytes = node.get(b"texts:1:1").await.unwrap().unwrap().value.len();
    caches[1].put(&1, text).await.unwrap();
    let compressed = node.get(b"texts:1:1").await.unwrap().unwrap().value.len();
    assert!(compressed * 4 < bytes, "{compressed} of {bytes}");
}
