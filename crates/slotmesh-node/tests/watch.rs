//! What a node that keeps others' values hears of their writes, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(unreachable_pub, reason = "shared by tests, not an interface")]
mod nodes;

use std::sync::Arc;
use std::time::{Duration, Instant};

use nodes::{PATIENCE, cluster};
use parking_lot::Mutex;
use slotmesh_coherence::{Readable, Sink, Stamp, Watcher, key_hash};
use slotmesh_node::{CallOptions, Node, Op, PutOptions, Reply};
use slotmesh_slots::{Seq, Slot, Version};

const BOUND: Duration = Duration::from_millis(100);

/// A local tier for one key.
struct Tier {
    hash: u64,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    value: Option<(Version, Stamp)>,
    invalidated: u64,
}

impl Sink for Tier {
    fn invalidate(&self, _slot: Slot, seq: Seq, hash: u64) {
        let mut kept = self.kept.lock();
        if hash == self.hash {
            kept.invalidated += 1;
            kept.value.take_if(|(version, _)| version.seq < seq);
        }
    }
}

const KEY: &[u8] = b"watched";

/// The value that the tier may serve now.
fn served(node: &Node, tier: &Tier) -> Option<Version> {
    let kept = tier.kept.lock();
    let since = node.clock().at_most().saturating_sub(BOUND);
    let readable = |stamp| node.subscriber().readable(Slot::of_key(KEY), stamp, since);
    kept.value.filter(|(_, stamp)| readable(*stamp) == Readable::Yes).map(|(version, _)| version)
}

/// Reads from the owner and keeps what may be kept.
async fn fill(node: &Node, tier: &Tier) {
    let slot = Slot::of_key(KEY);
    let ticket = node.subscriber().ticket(slot);
    let invalidated = tier.kept.lock().invalidated;
    let op = Op::Watch { key: KEY.into(), by: None };
    let Ok(Reply::Watched { owner, stream, found }) =
        node.execute(op, CallOptions::default()).await
    else {
        return;
    };
    let Reply::Value(value) = *found else { return };
    let by = Watcher { node: node.id(), stream };
    let stamp = node.subscriber().admit(slot, ticket, owner, by);
    let mut kept = tier.kept.lock();
    if let Some(stamp) = stamp.filter(|_| kept.invalidated == invalidated) {
        kept.value = Some((value.version, stamp));
    }
}

/// Each node keeps the key, its owner among them, while another one writes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_serves_what_was_overwritten_beyond_the_bound() {
    let nodes = cluster(3).await;
    let tier = |node: &Node| {
        let hash = key_hash(node.key_seed(), KEY);
        Arc::new(Tier { hash, kept: Mutex::default() })
    };
    let tiers: Vec<Arc<Tier>> = nodes.iter().map(tier).collect();
    for (node, tier) in nodes.iter().zip(&tiers) {
        node.subscriber().register(&(Arc::clone(tier) as Arc<dyn Sink>), BOUND);
    }
    let acked: Arc<Mutex<Vec<(Version, Instant)>>> = Arc::default();
    let (writer, written) = (nodes[1].clone(), Arc::clone(&acked));
    let writes = tokio::spawn(async move {
        for number in 0..150 {
            let put = writer.put(KEY, number.to_string(), PutOptions::default()).await.unwrap();
            let Reply::Put { version: Some(version), .. } = put else { panic!("{put:?}") };
            written.lock().push((version, Instant::now()));
            // Some of the values are served before they are overwritten.
            tokio::time::sleep(Duration::from_millis(if number % 10 == 0 { 150 } else { 2 })).await;
        }
    });
    let mut hits = vec![0; nodes.len()];
    while !writes.is_finished() {
        for (index, (node, tier)) in nodes.iter().zip(&tiers).enumerate() {
            let began = Instant::now();
            let Some(version) = served(node, tier) else {
                fill(node, tier).await;
                continue;
            };
            hits[index] += 1;
            let overwritten = acked.lock().iter().find(|(other, _)| *other > version).copied();
            if let Some((other, at)) = overwritten {
                let age = began.saturating_duration_since(at);
                assert!(age <= BOUND, "node {index} serves {version:?}, {age:?} after {other:?}");
            }
        }
        tokio::task::yield_now().await;
    }
    writes.await.unwrap();
    assert!(hits.iter().all(|hits| *hits > 100), "each tier serves: {hits:?}");
    // Nothing is written any more: all come to serve the last one.
    let last = acked.lock().last().unwrap().0;
    let all = async {
        for (node, tier) in nodes.iter().zip(&tiers) {
            while served(node, tier) != Some(last) {
                fill(node, tier).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
    for node in nodes {
        node.stop().await;
    }
}
