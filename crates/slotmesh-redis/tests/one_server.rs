//! Caches over one server: the same rules as over a cluster of ours, between processes that share nothing else.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(unreachable_pub, reason = "shared by tests, not an interface")]
mod servers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use redis::Value;
use servers::{PATIENCE, Server, until};
use slotmesh_cache::{Cache, CacheError, Caches, L1, Tier};
use slotmesh_node::OpError;
use slotmesh_redis::{OpenError, Redis};
use tokio::sync::Semaphore;

const BOUND: Duration = Duration::from_millis(100);

/// What a source was told.
type Rows = parking_lot::Mutex<Vec<(u32, Option<String>)>>;

/// As of another process.
fn open(server: &Server) -> Redis {
    Redis::open(&server.address()).unwrap()
}

fn texts(redis: &Redis) -> Cache<u32, String> {
    redis.cache("texts").build().unwrap()
}

async fn got(cache: &Cache<u32, String>, key: u32) -> Option<String> {
    cache.get(&key).await.unwrap().map(|value| (*value).clone())
}

/// Reads until the value lies in L1: with the first reads the server begins to tell of writes.
async fn warm(cache: &Cache<u32, String>, key: u32) {
    until("a value in L1", async || {
        let _value = cache.get(&key).await.unwrap();
        cache.peek(&key).await.unwrap().is_some_and(|it| it.tier == Tier::L1)
    })
    .await;
}

#[tokio::test]
async fn values_are_written_read_changed_and_removed() {
    let server = Server::start(&[]);
    let (one, two) = (texts(&open(&server)), texts(&open(&server)));
    assert_eq!(got(&one, 1).await, None);
    let written = one.put(&1, "a".to_owned()).await.unwrap();
    assert_eq!(written.copies, 1);
    assert_eq!(got(&two, 1).await.as_deref(), Some("a"));
    let conflict = two.put_if(&1, "b".to_owned(), None).await;
    assert!(
        matches!(conflict, Err(CacheError::Conflict { version }) if version == written.version)
    );
    let second = two.put_if(&1, "b".to_owned(), written.version).await.unwrap();
    assert!(second.version > written.version);
    until("the write of another process", async || got(&one, 1).await.as_deref() == Some("b"))
        .await;
    let longer = one.update(&1, |text| text.map(|text| format!("{text}{text}"))).await.unwrap();
    assert_eq!(longer.as_deref().map(String::as_str), Some("bb"));
    assert_eq!(one.update(&1, |_| None).await.unwrap(), None);
    assert_eq!(got(&one, 1).await, None);
    one.put_with(&2, "short".to_owned(), Duration::from_millis(80)).await.unwrap();
    assert!(one.touch(&2, Duration::from_secs(60)).await.unwrap());
    one.put_with(&3, "short".to_owned(), Duration::from_millis(80)).await.unwrap();
    until("its end", async || got(&two, 3).await.is_none()).await;
    assert_eq!(got(&two, 2).await.as_deref(), Some("short"));
    two.invalidate(&2).await.unwrap();
    until("its removal", async || got(&one, 2).await.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_are_added_to_by_many_and_none_is_lost() {
    let server = Server::start(&[]);
    let cache = || open(&server).cache::<u32, i64>("sums").build().unwrap();
    let adders = (0..4).map(|number| {
        let cache = cache();
        let add = cache.function("add", 1, |sum: &mut Option<i64>, by: i64| {
            *sum.get_or_insert_default() += by;
        });
        tokio::spawn(async move {
            for _ in 0..50 {
                match number % 2 {
                    0 => drop(cache.incr(&1, 1).await.unwrap()),
                    _ => add.call(&1, &1).await.unwrap(),
                }
            }
        })
    });
    for adder in adders.collect::<Vec<_>>() {
        adder.await.unwrap();
    }
    assert_eq!(cache().get(&1).await.unwrap().as_deref(), Some(&200));
}

/// Of each key the values that were acknowledged, and when.
type Acked = parking_lot::Mutex<Vec<Vec<(u64, Instant)>>>;

/// What a read that began then has to show at least.
fn floor(acked: &Acked, key: u64, began: Instant) -> u64 {
    let acked = acked.lock();
    let old = |(_, at): &&(u64, Instant)| *at + BOUND < began;
    acked[key as usize].iter().rev().find(old).map_or(0, |(value, _)| *value)
}

/// Two processes write keys of their own and read all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_overwritten_is_served_beyond_the_bound() {
    const KEYS: u64 = 20;
    let server = Server::start(&[]);
    let acked = Arc::new(Acked::new(vec![Vec::new(); KEYS as usize]));
    let done = Arc::new(AtomicBool::new(false));
    let (mut writers, mut readers) = (Vec::new(), Vec::new());
    for mine in 0..2 {
        let l1 = L1::default().max_staleness(BOUND);
        let cache = open(&server).cache::<u64, u64>("numbers").l1(l1).build().unwrap();
        let (reader, seen, done) = (cache.clone(), Arc::clone(&acked), Arc::clone(&done));
        readers.push(tokio::spawn(async move {
            for round in 0.. {
                if done.load(Ordering::SeqCst) {
                    break;
                }
                let (key, began) = (round % KEYS, Instant::now());
                let value = reader.get(&key).await.unwrap().map_or(0, |value| *value);
                let floor = floor(&seen, key, began);
                assert!(value >= floor, "{value} of {key}, at least {floor}");
                tokio::task::yield_now().await;
            }
            reader.stats().l1_hits
        }));
        let acked = Arc::clone(&acked);
        writers.push(tokio::spawn(async move {
            for value in 1..=600 {
                let key = (value * 7 % KEYS) / 2 * 2 + mine;
                cache.put(&key, value).await.unwrap();
                acked.lock()[key as usize].push((value, Instant::now()));
                let own = cache.get(&key).await.unwrap();
                assert_eq!(own.as_deref(), Some(&value), "the own write of {key}");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.await.unwrap() > 1_000, "L1 was of use");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_key_is_loaded_once_by_all_processes() {
    let server = Server::start(&[]);
    let loads = Arc::new(AtomicU32::new(0));
    let mut callers = Vec::new();
    for _ in 0..3 {
        let cache = texts(&open(&server));
        for _ in 0..50 {
            let (cache, loads) = (cache.clone(), Arc::clone(&loads));
            callers.push(tokio::spawn(async move {
                let loaded = cache.get_or_load(&7, |_| async move {
                    loads.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    Ok::<_, CacheError>(Some("loaded".to_owned()))
                });
                loaded.await.unwrap().unwrap()
            }));
        }
    }
    for caller in callers {
        assert_eq!(*caller.await.unwrap(), "loaded");
    }
    assert_eq!(loads.load(Ordering::SeqCst), 1);
}

/// One process loads; another one asks meanwhile.
async fn load_and_wait(
    outcome: Result<Option<String>, &'static str>,
) -> [Result<Option<Arc<String>>, CacheError>; 2] {
    let server = Server::start(&[]);
    let (one, two) = (texts(&open(&server)), texts(&open(&server)));
    let (begun, go_on) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let loader = {
        let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
        async move {
            begun.add_permits(1);
            let _go = go_on.acquire().await.unwrap();
            outcome
        }
    };
    let first = tokio::spawn(async move { one.get_or_load(&1, |_| loader).await });
    let _begun = begun.acquire().await.unwrap();
    let second = tokio::spawn(async move {
        let asked = || async { Err::<Option<String>, _>("it was to be loaded once") };
        two.get_or_load(&1, move |_| asked()).await
    });
    // It waits, or will: the lease is there.
    until("a lease", async || server.text(&["EXISTS", "slotmesh{texts:1:1}l"]) == "1").await;
    go_on.add_permits(1);
    [first.await.unwrap(), second.await.unwrap()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_the_load_of_another_process_is_told_its_value() {
    let both = load_and_wait(Ok(Some("value".to_owned()))).await;
    assert!(both.iter().all(|it| it.as_ref().unwrap().as_deref().unwrap() == "value"));
}

#[tokio::test]
async fn a_slow_load_never_overwrites_what_was_written_or_removed_meanwhile() {
    let server = Server::start(&[]);
    let (one, two) = (texts(&open(&server)), texts(&open(&server)));
    for written in [Some("newer"), None] {
        let key = u32::from(written.is_some());
        let writer = two.clone();
        let loaded = one.get_or_load(&key, move |key| async move {
            match written {
                Some(text) => writer.put(&key, text.to_owned()).await.unwrap(),
                None => writer.invalidate(&key).await.unwrap(),
            };
            Ok::<_, CacheError>(Some("older".to_owned()))
        });
        assert_eq!(
            *loaded.await.unwrap().unwrap(),
            "older",
            "what was loaded is shown to who asked"
        );
        until("the end of the flight", async || got(&one, key).await.as_deref() == written).await;
        assert_eq!(got(&two, key).await.as_deref(), written);
    }
}

#[tokio::test]
async fn nobody_joins_a_load_that_began_before_an_invalidation_of_another_process() {
    let server = Server::start(&[]);
    let (one, two) = (texts(&open(&server)), texts(&open(&server)));
    // From here on it is told of writes.
    one.put(&0, "other".to_owned()).await.unwrap();
    warm(&one, 0).await;
    let go_on = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&go_on);
    let older = {
        let one = one.clone();
        let loader = |_| async move {
            let _go = waits.acquire().await.unwrap();
            Ok::<_, CacheError>(Some("older".to_owned()))
        };
        tokio::spawn(async move { one.get_or_load(&1, loader).await })
    };
    until("its lease", async || server.text(&["EXISTS", "slotmesh{texts:1:1}l"]) == "1").await;
    two.invalidate(&1).await.unwrap();
    until("a load of its own", async || {
        let newer =
            one.get_or_load(&1, |_| async { Ok::<_, CacheError>(Some("newer".to_owned())) });
        let newer = tokio::time::timeout(BOUND, newer).await;
        newer.is_ok_and(|newer| *newer.unwrap().unwrap() == "newer")
    })
    .await;
    go_on.add_permits(1);
    assert_eq!(*older.await.unwrap().unwrap().unwrap(), "older");
    assert_eq!(got(&two, 1).await.as_deref(), Some("newer"));
}

#[tokio::test]
async fn a_failed_load_rests_for_all_processes() {
    let server = Server::start(&[]);
    let cache = |redis: &Redis| {
        let builder = redis.cache::<u32, String>("texts");
        builder.error_backoff(Duration::from_secs(60)).build().unwrap()
    };
    let (one, two) = (cache(&open(&server)), cache(&open(&server)));
    let failed = one.get_or_load(&1, |_| async { Err::<Option<String>, _>("no database") });
    assert!(matches!(failed.await, Err(CacheError::Load(_))));
    until("the word of it", async || {
        let asked =
            two.get_or_load(&1, |_| async { Ok::<_, CacheError>(Some("asked".to_owned())) });
        match asked.await {
            Err(CacheError::LoadElsewhere(why)) => why.contains("no database"),
            // The end of the load was not there yet.
            Err(other) => panic!("{other}"),
            Ok(_) => false,
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_stands_still_bounds_what_is_served_and_fails_no_load() {
    let server = Server::start(&[]);
    let redis = open(&server);
    let cache = texts(&redis);
    cache.put(&1, "kept".to_owned()).await.unwrap();
    warm(&cache, 1).await;
    server.signal("-STOP");
    let stopped = Instant::now();
    until("the bound", async || {
        cache.peek(&1).await.map_or(true, |it| it.is_none_or(|it| it.tier != Tier::L1))
    })
    .await;
    assert!(stopped.elapsed() < PATIENCE / 2, "{:?}", stopped.elapsed());
    let loaded =
        cache.get_or_load(&2, |_| async { Ok::<_, CacheError>(Some("loaded".to_owned())) });
    assert_eq!(*loaded.await.unwrap().unwrap(), "loaded");
    let refused = cache.get(&3).await;
    assert!(
        matches!(refused, Err(CacheError::Cluster(OpError::Unavailable { .. }))),
        "{refused:?}"
    );
    let unknown = cache.put(&3, "perhaps".to_owned()).await;
    assert!(matches!(
        unknown,
        Err(CacheError::Cluster(OpError::Ambiguous { .. } | OpError::Unavailable { .. }))
    ));
    server.signal("-CONT");
    until("its return", async || redis.ping().await.is_ok()).await;
    assert_eq!(got(&cache, 1).await.as_deref(), Some("kept"));
}

#[tokio::test]
async fn a_server_that_comes_back_empty_takes_what_was_kept_with_it() {
    let mut server = Server::start(&[]);
    let redis = open(&server);
    let cache = texts(&redis);
    cache.put(&1, "kept".to_owned()).await.unwrap();
    warm(&cache, 1).await;
    server.kill();
    until("the news", async || redis.ping().await.is_err()).await;
    let began = Instant::now();
    let loaded =
        cache.get_or_load(&2, |_| async { Ok::<_, CacheError>(Some("loaded".to_owned())) });
    assert_eq!(*loaded.await.unwrap().unwrap(), "loaded");
    assert!(began.elapsed() < PATIENCE / 4, "nobody waits for a server that is down");
    let _again = Server::start_at(server.port, &[]);
    until("its return", async || redis.ping().await.is_ok()).await;
    assert_eq!(got(&cache, 1).await, None);
}

#[tokio::test]
async fn a_connection_that_is_lost_is_made_again_however_seldom_pings_go() {
    let server = Server::start(&[]);
    let l1 = L1::default().max_staleness(Duration::from_secs(3_600));
    let cache = open(&server).cache::<u32, String>("texts").l1(l1).build().unwrap();
    for key in 0..3 {
        cache.put(&key, "kept".to_owned()).await.unwrap();
        warm(&cache, key).await;
        server.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
        let began = Instant::now();
        until("a connection", async || cache.put(&9, "new".to_owned()).await.is_ok()).await;
        assert!(began.elapsed() < PATIENCE / 4, "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_server_that_is_a_replica_now_speaks_for_nothing() {
    let (server, other) = (Server::start(&[]), Server::start(&[]));
    let redis = open(&server);
    let cache = texts(&redis);
    cache.put(&1, "kept".to_owned()).await.unwrap();
    warm(&cache, 1).await;
    server.ask(&["REPLICAOF", "127.0.0.1", &other.port.to_string()]);
    until("the bound", async || cache.get(&1).await.is_err()).await;
    let loaded =
        cache.get_or_load(&1, |_| async { Ok::<_, CacheError>(Some("loaded".to_owned())) });
    assert_eq!(*loaded.await.unwrap().unwrap(), "loaded");
    server.ask(&["REPLICAOF", "NO", "ONE"]);
    until("its return", async || redis.ping().await.is_ok()).await;
    cache.put(&1, "again".to_owned()).await.unwrap();
    assert_eq!(got(&cache, 1).await.as_deref(), Some("again"));
}

/// While a script runs for long a server answers some before it tells others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_busy_with_a_script_vouches_for_nothing() {
    let server = Server::start(&["--busy-reply-threshold", "50"]);
    let cache = texts(&open(&server));
    cache.put(&1, "kept".to_owned()).await.unwrap();
    warm(&cache, 1).await;
    let mut busy = server.connection();
    let runs = std::thread::spawn(move || {
        redis::cmd("EVAL").arg("while true do end").arg(0).query::<Value>(&mut busy).is_err()
    });
    until("the bound", async || {
        cache.peek(&1).await.map_or(true, |it| it.is_none_or(|it| it.tier != Tier::L1))
    })
    .await;
    server.ask(&["SCRIPT", "KILL"]);
    assert!(runs.join().unwrap());
    until("its return", async || got(&cache, 1).await.as_deref() == Some("kept")).await;
}

#[tokio::test]
async fn a_caller_that_is_polled_no_more_keeps_no_other_process_from_loading() {
    let server = Server::start(&[]);
    let (one, two) = (texts(&open(&server)), texts(&open(&server)));
    let mut first =
        Box::pin(one.get_or_load(&1, |_| async { Ok::<_, CacheError>(Some("one".to_owned())) }));
    assert!((&mut first).now_or_never().is_none());
    // Long enough for whatever it asked.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let second = two.get_or_load(&1, |_| async { Ok::<_, CacheError>(Some("two".to_owned())) });
    let second = tokio::time::timeout(Duration::from_secs(5), second).await;
    assert_eq!(*second.unwrap().unwrap().unwrap(), "two");
    assert_eq!(*first.await.unwrap().unwrap(), "two");
}

#[tokio::test]
async fn what_others_remove_from_the_server_leaves_the_local_tier() {
    let server = Server::start(&[]);
    let cache = texts(&open(&server));
    let removals: [&[&str]; 3] =
        [&["DEL", "slotmesh{texts:1:1}"], &["PEXPIRE", "slotmesh{texts:1:1}", "1"], &["FLUSHALL"]];
    for removal in removals {
        cache.put(&1, "kept".to_owned()).await.unwrap();
        warm(&cache, 1).await;
        server.ask(removal);
        until(removal[0], async || got(&cache, 1).await.is_none()).await;
    }
}

#[tokio::test]
async fn what_is_no_value_of_ours_is_a_miss_or_an_error() {
    let server = Server::start(&[]);
    let cache = texts(&open(&server));
    let name = "slotmesh{texts:1:1}";
    for foreign in ["", "short", "eight by", "eight bytes and more"] {
        server.ask(&["SET", name, foreign]);
        until(foreign, async || got(&cache, 1).await.is_none()).await;
        let loaded =
            cache.get_or_load(&1, |_| async { Ok::<_, CacheError>(Some("new".to_owned())) });
        assert_eq!(*loaded.await.unwrap().unwrap(), "new");
        cache.put(&1, "mine".to_owned()).await.unwrap();
        assert_eq!(got(&cache, 1).await.as_deref(), Some("mine"));
    }
    for foreign in ["eight by", "\u{7f}eight bytes and more"] {
        server.ask(&["SET", name, foreign]);
        let (first, second) = (
            cache.put(&1, "a".to_owned()).await.unwrap(),
            cache.put(&1, "b".to_owned()).await.unwrap(),
        );
        assert!(first.version < second.version, "{first:?} {second:?}");
    }
    server.ask(&["DEL", name]);
    server.ask(&["RPUSH", name, "a list"]);
    until("an error", async || cache.get(&1).await.is_err()).await;
    let refused = cache.put(&1, "mine".to_owned()).await;
    assert!(
        matches!(refused, Err(CacheError::Cluster(OpError::Unavailable { .. }))),
        "{refused:?}"
    );
    let loaded = cache.get_or_load(&1, |_| async { Ok::<_, CacheError>(Some("new".to_owned())) });
    assert_eq!(*loaded.await.unwrap().unwrap(), "new");
    server.ask(&["DEL", name]);
    server.ask(&["SET", "slotmesh{texts:1:2}l", "no lease"]);
    let loaded = cache.get_or_load(&2, |_| async { Ok::<_, CacheError>(Some("new".to_owned())) });
    assert_eq!(*loaded.await.unwrap().unwrap(), "new");
    assert_eq!(got(&cache, 2).await.as_deref(), Some("new"));
}

#[tokio::test]
async fn a_full_server_says_so() {
    let server = Server::start(&["--maxmemory", "1", "--maxmemory-policy", "noeviction"]);
    let cache = texts(&open(&server));
    let full = cache.put(&1, "x".repeat(100)).await;
    assert!(matches!(full, Err(CacheError::Cluster(OpError::Full))), "{full:?}");
    cache.invalidate(&1).await.unwrap();
    let loaded = cache.get_or_load(&1, |_| async { Ok::<_, CacheError>(Some("new".to_owned())) });
    assert_eq!(*loaded.await.unwrap().unwrap(), "new");
}

#[tokio::test]
async fn addresses_and_settings_that_cannot_work_are_errors() {
    let wrong = |error| matches!(error, Err(OpenError::Address { number: 1, .. }));
    for address in ["", "127.0.0.1:6379:1", "http://127.0.0.1", "redis://:secret@:no"] {
        let error = Redis::open(address).map(drop);
        assert!(wrong(error.clone()), "{address} {error:?}");
        assert!(!error.unwrap_err().to_string().contains("secret"));
    }
    let none: [&str; 0] = [];
    assert_eq!(Redis::open_cluster(none).map(drop), Err(OpenError::NoAddress));
    let named = Redis::builder().namespace("a{b").open("redis://127.0.0.1");
    assert_eq!(named.map(drop), Err(OpenError::Namespace));
    let timeless = Redis::builder().timeout(Duration::ZERO).open("redis://127.0.0.1");
    assert_eq!(timeless.map(drop), Err(OpenError::Timeout));
    let server = Server::start(&["--requirepass", "right"]);
    let redis = open(&server);
    until("a refusal", async || match redis.ping().await {
        Err(OpError::Unavailable { why }) => why.to_lowercase().contains("auth"),
        other => panic!("{other:?}"),
    })
    .await;
    let address = format!("redis://:right@127.0.0.1:{}", server.port);
    Redis::open(&address).unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn applications_that_share_a_server_share_nothing_else() {
    let server = Server::start(&[]);
    let named = |space| Redis::builder().namespace(space).open(&server.address()).unwrap();
    let (one, two) = (texts(&named("one")), texts(&named("two")));
    one.put(&1, "one".to_owned()).await.unwrap();
    assert_eq!(got(&two, 1).await, None);
}

#[tokio::test]
async fn tags_guards_and_sources_work_as_over_a_cluster() {
    let server = Server::start(&[]);
    let tagged = |redis: &Redis| {
        let builder = redis.cache::<u32, String>("tagged");
        builder.tags(|text: &String| [text[..1].to_owned()]).build().unwrap()
    };
    let (one, two) = (tagged(&open(&server)), tagged(&open(&server)));
    for (key, text) in [(1, "ab"), (2, "ac"), (3, "bc")] {
        one.put(&key, text.to_owned()).await.unwrap();
    }
    two.invalidate_tag("a").await.unwrap();
    until("the mark", async || got(&one, 1).await.is_none() && got(&one, 2).await.is_none()).await;
    assert_eq!(got(&one, 3).await.as_deref(), Some("bc"));

    let guarded =
        |redis: &Redis| redis.cache::<u32, String>("guarded").guard(1_000).build().unwrap();
    let (one, two) = (guarded(&open(&server)), guarded(&open(&server)));
    let filled = one.fill_guard(|| async { Ok::<_, CacheError>([1, 2, 3]) }).await.unwrap();
    assert_eq!(filled, 3);
    until("the filter", async || {
        let unknown =
            two.get_or_load(&77, |_| async { Ok::<_, CacheError>(Some("found".to_owned())) });
        unknown.await.unwrap().is_none()
    })
    .await;

    let redis = open(&server);
    let source: Arc<Rows> = Arc::default();
    let written = Arc::clone(&source);
    let through = redis.cache::<u32, String>("through").writer(move |changes| {
        let written = Arc::clone(&written);
        async move {
            let changes = changes.into_iter();
            written.lock().extend(changes.map(|it| (it.key, it.value.map(|it| (*it).clone()))));
            Ok::<_, CacheError>(())
        }
    });
    let through = through.build().unwrap();
    through.store(&1, "new".to_owned()).await.unwrap();
    assert_eq!(*source.lock(), [(1, Some("new".to_owned()))]);
    assert_eq!(got(&through, 1).await.as_deref(), Some("new"), "kept though nothing was there");
    through.store(&1, "newer".to_owned()).await.unwrap();
    assert_eq!(got(&through, 1).await.as_deref(), Some("newer"));
}
