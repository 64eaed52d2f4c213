//! What a cache's settings do to the database behind it, with each and without: `cargo run --release --example protection`.
//!
//! The database is a counter that takes 20 ms for a query. One process without a network; on a cluster the same holds for all
//! nodes together.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use slotmesh::{Cache, CacheBuilder, CacheError, Caches, Node};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// What a query takes.
const QUERY: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Database {
    queries: AtomicUsize,
    is_down: AtomicBool,
}

impl Database {
    /// There are users up to a thousand.
    async fn find(self: Arc<Self>, id: u64) -> Result<Option<u64>, &'static str> {
        self.queries.fetch_add(1, Ordering::Relaxed);
        sleep(QUERY).await;
        match self.is_down.load(Ordering::Relaxed) {
            true => Err("the database is down"),
            false => Ok((id <= 1_000).then_some(id * 2)),
        }
    }

    fn queries(&self) -> usize {
        self.queries.swap(0, Ordering::Relaxed)
    }
}

type Users = Cache<u64, u64>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let node = Node::local(64 << 20);
    println!("{:58} {:>9} {:>9}", "", "without", "with");
    same_key(&node).await?;
    nobody(&node).await?;
    never_seen(&node).await?;
    all_at_once(&node).await?;
    waiting(&node).await?;
    down(&node).await?;
    Ok(())
}

/// Each a cache of its own.
fn users(node: &Node, name: &str) -> CacheBuilder<u64, u64> {
    node.cache(name)
}

async fn load(users: &Users, id: u64, database: &Arc<Database>) -> Result<Option<u64>, CacheError> {
    let database = Arc::clone(database);
    Ok(users.get_or_load(&id, move |id| database.find(id)).await?.as_deref().copied())
}

fn row(what: &str, without: &dyn ToString, with: &dyn ToString) {
    println!("{what:58} {:>9} {:>9}", without.to_string(), with.to_string());
}

/// A hot key that is not there: read, and if there is nothing query and write, by hand and by the cache.
async fn same_key(node: &Node) -> Result<(), Box<dyn Error>> {
    let (users, database) = (users(node, "same").build()?, Arc::<Database>::default());
    let mut callers = JoinSet::new();
    for _ in 0..200 {
        let (users, database) = (users.clone(), Arc::clone(&database));
        callers.spawn(async move {
            if users.get(&1).await.is_ok_and(|found| found.is_none())
                && let Ok(Some(value)) = database.find(1).await
            {
                drop(users.put(&1, value).await);
            }
        });
    }
    callers.join_all().await;
    let by_hand = database.queries();
    users.invalidate(&1).await?;
    let mut callers = JoinSet::new();
    for _ in 0..200 {
        let (users, database) = (users.clone(), Arc::clone(&database));
        callers.spawn(async move { load(&users, 1, &database).await });
    }
    callers.join_all().await;
    row("queries of 200 callers of one missing key: single flight", &by_hand, &database.queries());
    Ok(())
}

/// Keys that do not exist, asked for again and again.
async fn nobody(node: &Node) -> Result<(), Box<dyn Error>> {
    let mut queries = Vec::new();
    for cache in [
        users(node, "forgetful").build()?,
        users(node, "negative").negative_ttl(Duration::from_secs(60)).build()?,
    ] {
        let database = Arc::<Database>::default();
        for _ in 0..10 {
            let mut callers = JoinSet::new();
            for id in 2_001..2_101 {
                let (cache, database) = (cache.clone(), Arc::clone(&database));
                callers.spawn(async move { load(&cache, id, &database).await });
            }
            callers.join_all().await;
        }
        queries.push(database.queries());
    }
    row("queries for 100 keys that do not exist: negative_ttl", &queries[0], &queries[1]);
    Ok(())
}

/// Keys that do not exist, each another one.
async fn never_seen(node: &Node) -> Result<(), Box<dyn Error>> {
    let mut queries = Vec::new();
    let guarded = users(node, "guarded").guard(1_000).build()?;
    guarded.fill_guard(|| async { Ok::<_, CacheError>(1..=1_000) }).await?;
    for cache in [users(node, "open").negative_ttl(Duration::from_secs(60)).build()?, guarded] {
        let database = Arc::<Database>::default();
        let mut callers = JoinSet::new();
        for id in 2_001..4_001 {
            let (cache, database) = (cache.clone(), Arc::clone(&database));
            callers.spawn(async move { load(&cache, id, &database).await });
        }
        callers.join_all().await;
        queries.push(database.queries());
    }
    row("queries for 2000 keys that do not exist, once each: guard", &queries[0], &queries[1]);
    Ok(())
}

/// A thousand keys that were written together: the most queries in a tenth of a second.
async fn all_at_once(node: &Node) -> Result<(), Box<dyn Error>> {
    let ttl = Duration::from_millis(1_500);
    let mut most = Vec::new();
    for cache in [
        users(node, "together").ttl(ttl).build()?,
        users(node, "apart").ttl(ttl).jitter(0.5).build()?,
    ] {
        let database = Arc::<Database>::default();
        cache.put_many((1..=1_000).map(|id| (id, id * 2))).await;
        let (began, mut peak) = (Instant::now(), 0);
        while began.elapsed() < ttl + Duration::from_millis(300) {
            let until = sleep(Duration::from_millis(100));
            let ids: Vec<u64> = (1..=1_000).collect();
            let mut callers = JoinSet::new();
            for id in ids {
                let (cache, database) = (cache.clone(), Arc::clone(&database));
                callers.spawn(async move { load(&cache, id, &database).await });
            }
            callers.join_all().await;
            until.await;
            peak = peak.max(database.queries());
        }
        most.push(peak);
    }
    row("most queries in 0.1 s, 1000 keys written together: jitter", &most[0], &most[1]);
    Ok(())
}

/// One hot key: how long the slowest caller waits while it expires again and again.
async fn waiting(node: &Node) -> Result<(), Box<dyn Error>> {
    let ttl = Duration::from_millis(200);
    let mut slowest = Vec::new();
    for cache in [
        users(node, "late").ttl(ttl).build()?,
        users(node, "early").ttl(ttl).refresh_at(0.5).build()?,
    ] {
        let database = Arc::<Database>::default();
        load(&cache, 1, &database).await?;
        let (began, mut longest) = (Instant::now(), Duration::ZERO);
        while began.elapsed() < ttl * 6 {
            let call = Instant::now();
            load(&cache, 1, &database).await?;
            longest = longest.max(call.elapsed());
            tokio::task::yield_now().await;
        }
        slowest.push(format!("{:.1} ms", longest.as_secs_f64() * 1e3));
    }
    row("longest wait for a hot key: refresh_at", &slowest[0], &slowest[1]);
    Ok(())
}

/// The database is down for two seconds: failed calls for 100 keys that were read before, and the queries that it gets.
async fn down(node: &Node) -> Result<(), Box<dyn Error>> {
    let ttl = Duration::from_millis(300);
    let (mut failures, mut queries) = (Vec::new(), Vec::new());
    for cache in [
        users(node, "strict").ttl(ttl).build()?,
        users(node, "lenient")
            .ttl(ttl)
            .stale_if_error(Duration::from_secs(3_600))
            .error_backoff(Duration::from_millis(500))
            .build()?,
    ] {
        let database = Arc::<Database>::default();
        for id in 1..=100 {
            load(&cache, id, &database).await?;
        }
        database.is_down.store(true, Ordering::Relaxed);
        database.queries();
        let (began, mut failed) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(2) {
            let mut callers = JoinSet::new();
            for id in 1..=100 {
                let (cache, database) = (cache.clone(), Arc::clone(&database));
                callers.spawn(async move { load(&cache, id, &database).await });
            }
            failed += callers.join_all().await.into_iter().filter(Result::is_err).count();
            sleep(Duration::from_millis(10)).await;
        }
        failures.push(failed);
        queries.push(database.queries());
    }
    row("failed calls, database down for 2 s: stale_if_error", &failures[0], &failures[1]);
    row("  its queries meanwhile: error_backoff", &queries[0], &queries[1]);
    Ok(())
}
