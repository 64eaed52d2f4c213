//! Caches over servers that share the slots.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(unreachable_pub, reason = "shared by tests, not an interface")]
mod servers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use servers::{PATIENCE, Server, cluster, until};
use slotmesh_cache::{Cache, CacheError, Caches, L1, Tier};
use slotmesh_redis::Redis;
use slotmesh_slots::Slot;

const BOUND: Duration = Duration::from_millis(100);

fn open(servers: &[Server]) -> Cache<u32, u64> {
    let addresses: Vec<_> = servers.iter().map(Server::address).collect();
    let redis = Redis::open_cluster(addresses.iter().map(String::as_str)).unwrap();
    redis.cache("sums").l1(L1::default().max_staleness(BOUND)).build().unwrap()
}

async fn got(cache: &Cache<u32, u64>, key: u32) -> Option<u64> {
    cache.get(&key).await.unwrap().as_deref().copied()
}

fn slot_of(key: u32) -> Slot {
    Slot::of_key(format!("sums:1:{key}").as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_live_where_their_slots_are_and_all_processes_find_them() {
    let servers = cluster();
    let (one, two) = (open(&servers), open(&servers[1..2]));
    for key in 0..60 {
        one.put(&key, u64::from(key)).await.unwrap();
    }
    for key in 0..60 {
        assert_eq!(got(&two, key).await, Some(u64::from(key)));
    }
    for server in &servers {
        assert_ne!(server.text(&["DBSIZE"]), "0");
    }
    let sums: Vec<_> = (0..60).collect();
    let loaded = two.load_many(&sums).await;
    assert!(loaded.iter().all(|it| matches!(it, Err(CacheError::NoLoader)) || it.is_ok()));
    for key in 0..60 {
        two.put(&key, 1_000 + u64::from(key)).await.unwrap();
        until("the write", async || got(&one, key).await == Some(1_000 + u64::from(key))).await;
    }
    let brace: Cache<String, u64> = {
        let redis = Redis::open_cluster([&*servers[0].address()]).unwrap();
        redis.cache("odd").build().unwrap()
    };
    for key in ["a{b}c", "}", "{}", "}l", "{", "a}{b}"] {
        brace.put(&key.to_owned(), 7).await.unwrap();
        assert_eq!(brace.get(&key.to_owned()).await.unwrap().as_deref(), Some(&7), "{key}");
        brace.invalidate(&key.to_owned()).await.unwrap();
        assert_eq!(brace.get(&key.to_owned()).await.unwrap(), None, "{key}");
    }
}

#[tokio::test]
async fn a_server_that_knows_of_no_slots_is_not_asked_for_them() {
    let (servers, blank) = (cluster(), Server::start(&["--cluster-enabled", "yes"]));
    let addresses = [blank.address(), servers[0].address()];
    let redis = Redis::open_cluster(addresses.iter().map(String::as_str)).unwrap();
    let cache: Cache<u32, u64> = redis.cache("sums").build().unwrap();
    for key in 0..20 {
        cache.put(&key, 7).await.unwrap();
        assert_eq!(got(&cache, key).await, Some(7));
    }
}

#[tokio::test]
async fn one_server_of_a_cluster_says_that_it_is_one() {
    let servers = cluster();
    let alone = Redis::open(&servers[0].address()).unwrap();
    let cache = alone.cache::<u32, u64>("sums").build().unwrap();
    let elsewhere = (0..).find(|key| slot_of(*key).number() > 5461).unwrap();
    let error = cache.put(&elsewhere, 1).await.unwrap_err().to_string();
    assert!(error.contains("to be opened as one"), "{error}");
}

fn id(server: &Server) -> String {
    server.text(&["CLUSTER", "MYID"])
}

/// Moves a slot as `redis-cli --cluster reshard` does.
fn reshard(slot: Slot, from: &Server, to: &Server, all: &[Server]) {
    let (slot, port) = (slot.number().to_string(), to.port.to_string());
    to.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
    from.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
    loop {
        let keys = from.ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "10"]);
        let keys: Vec<String> = redis::from_redis_value(keys).unwrap();
        let Some(key) = keys.first() else { break };
        from.ask(&["MIGRATE", "127.0.0.1", &port, key, "0", "1000"]);
        std::thread::sleep(Duration::from_millis(20));
    }
    for server in [to, from].into_iter().chain(all) {
        server.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(to)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_fails_no_call_and_serves_nothing_old() {
    let servers = cluster();
    let (writer, reader) = (open(&servers), open(&servers));
    let key = (0..).find(|key| slot_of(*key).number() < 5461).unwrap();
    writer.put(&key, 0).await.unwrap();
    let (done, acked) =
        (Arc::new(AtomicBool::new(false)), Arc::new(parking_lot::Mutex::new(vec![])));
    let writes = {
        let (done, acked) = (Arc::clone(&done), Arc::clone(&acked));
        tokio::spawn(async move {
            for value in 1.. {
                if done.load(Ordering::SeqCst) {
                    return value - 1;
                }
                writer.put(&key, value).await.unwrap();
                acked.lock().push((value, Instant::now()));
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            unreachable!("there are many numbers")
        })
    };
    let reads = {
        let (done, acked, reader) = (Arc::clone(&done), Arc::clone(&acked), reader.clone());
        tokio::spawn(async move {
            while !done.load(Ordering::SeqCst) {
                let began = Instant::now();
                let value = got(&reader, key).await.unwrap();
                let old = |(_, at): &&(u64, Instant)| *at + BOUND < began;
                let floor = acked.lock().iter().rev().find(old).map_or(0, |(value, _)| *value);
                assert!(value >= floor, "{value}, at least {floor}");
                tokio::task::yield_now().await;
            }
        })
    };
    let servers = tokio::task::spawn_blocking(move || {
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            reshard(slot_of(key), &servers[from], &servers[to], &servers);
        }
        servers
    })
    .await
    .unwrap();
    until("some writes after it", async || acked.lock().len() > 30).await;
    done.store(true, Ordering::SeqCst);
    let last = writes.await.unwrap();
    reads.await.unwrap();
    until("the last one", async || got(&reader, key).await == Some(last)).await;
    assert_eq!(servers[0].text(&["EXISTS", &format!("slotmesh{{sums:1:{key}}}")]), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_down_takes_its_slots_with_it_and_no_others() {
    let mut servers = cluster();
    for server in &servers {
        server.ask(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
    }
    let cache = open(&servers);
    let of = |range: std::ops::RangeInclusive<u16>| {
        (0..).find(|key| range.contains(&slot_of(*key).number())).unwrap()
    };
    let (lost, kept) = (of(0..=5460), of(5461..=10_922));
    for key in [lost, kept] {
        cache.put(&key, 7).await.unwrap();
        until("a value in L1", async || {
            let _value = cache.get(&key).await.unwrap();
            cache.peek(&key).await.unwrap().is_some_and(|it| it.tier == Tier::L1)
        })
        .await;
    }
    servers[0].kill();
    until("the news", async || cache.get(&lost).await.is_err()).await;
    let began = Instant::now();
    let loaded = cache.get_or_load(&lost, |_| async { Ok::<_, CacheError>(Some(8)) });
    assert_eq!(loaded.await.unwrap().as_deref(), Some(&8));
    assert!(began.elapsed() < PATIENCE / 4);
    cache.put(&kept, 9).await.unwrap();
    assert_eq!(got(&cache, kept).await, Some(9));
}

/// Of a slot that is about to move, what is there is here yet, and what is not is to be looked for at the other server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_can_be_read_written_removed_and_loaded_while_their_slot_is_between_two_servers() {
    let servers = cluster();
    let cache = open(&servers);
    let in_first = |key: &u32| slot_of(*key).number() < 5461;
    for (key, value) in (0..).filter(in_first).zip([1, 2, 3]) {
        cache.put(&key, value).await.unwrap();
        let slot = slot_of(key).number().to_string();
        servers[1].ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(&servers[0])]);
        servers[0].ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(&servers[1])]);
        let loaded = cache.get_or_load(&key, |_| async { Ok::<_, CacheError>(Some(77)) });
        assert_eq!(loaded.await.unwrap().as_deref(), Some(&value));
        cache.put(&key, value + 10).await.unwrap();
        assert_eq!(got(&cache, key).await, Some(value + 10));
        let added = cache.update(&key, |it| it.map(|it| it + 10)).await.unwrap();
        assert_eq!(added.as_deref(), Some(&(value + 20)));
        cache.invalidate(&key).await.unwrap();
        assert_eq!(got(&cache, key).await, None);
        let loaded = cache.get_or_load(&key, |_| async { Ok::<_, CacheError>(Some(88)) });
        assert_eq!(loaded.await.unwrap().as_deref(), Some(&88));
        cache.put(&key, 99).await.unwrap();
        assert_eq!(got(&cache, key).await, Some(99));
    }
}

#[tokio::test]
async fn what_is_stale_is_loaded_anew_while_its_slot_is_between_two_servers() {
    let servers = cluster();
    let addresses: Vec<_> = servers.iter().map(Server::address).collect();
    let redis = Redis::open_cluster(addresses.iter().map(String::as_str)).unwrap();
    let builder = redis.cache::<u32, u64>("sums").ttl(Duration::from_millis(20)).no_l1();
    let cache = builder.stale_if_error(Duration::from_secs(600)).build().unwrap();
    let key = (0..).find(|key| slot_of(*key).number() < 5461).unwrap();
    cache.put(&key, 1).await.unwrap();
    let slot = slot_of(key).number().to_string();
    servers[1].ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(&servers[0])]);
    servers[0].ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(&servers[1])]);
    until("its end", async || got(&cache, key).await.is_none()).await;
    let loaded = cache.get_or_load(&key, |_| async { Ok::<_, CacheError>(Some(2)) });
    let loaded = tokio::time::timeout(PATIENCE / 4, loaded).await;
    assert_eq!(loaded.unwrap().unwrap().as_deref(), Some(&2));
}
