//! What the local tier saves, and how soon it hears of other nodes' writes: `cargo run --release --example near`.
//!
//! Three nodes in this process, on loopback, as a test of your own would start them (`slotmesh::testing`). One reads the same hundred keys over
//! and over; another overwrites some of them.

use std::error::Error;
use std::time::{Duration, Instant};

use slotmesh::testing::Cluster;
use slotmesh::{Cache, CacheBuilder, Caches, L1, Node};

const KEYS: u64 = 100;
const READS: u64 = 20_000;
const WRITES: u64 = 200;

fn prices(node: &Node) -> CacheBuilder<u64, u64> {
    node.cache::<u64, u64>("prices")
}

/// Time of a read in the mean.
async fn read(cache: &Cache<u64, u64>) -> Result<Duration, Box<dyn Error>> {
    let began = Instant::now();
    for number in 0..READS {
        cache.get(&(number % KEYS)).await?;
    }
    Ok(began.elapsed() / READS as u32)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::start(3).await?;
    let bound = Duration::from_millis(100);
    let near = prices(cluster.node(0)).l1(L1::bytes(1 << 20).max_staleness(bound)).build()?;
    let far = prices(cluster.node(0)).no_l1().build()?;
    let writer = prices(cluster.node(1)).no_l1().build()?;
    for key in 0..KEYS {
        writer.put(&key, 0).await?;
    }
    println!(
        "a read takes {:?} without a local tier, for two of three keys are elsewhere",
        read(&far).await?
    );
    println!("and {:?} with one", read(&near).await?);

    let mut late = Vec::new();
    for price in 1..=WRITES {
        let key = price % KEYS;
        writer.put(&key, price).await?;
        let written = Instant::now();
        while near.get(&key).await?.as_deref() != Some(&price) {
            assert!(written.elapsed() <= bound, "older than it may be");
            tokio::task::yield_now().await;
        }
        late.push(written.elapsed());
    }
    late.sort_unstable();
    let (median, longest) = (late[late.len() / 2], late[late.len() - 1]);
    println!(
        "a write was seen by the other node {median:?} after it was acknowledged, {longest:?} at the longest"
    );
    println!("what it shows at this moment is at most {:?} old", near.stats().staleness);
    Ok(())
}
