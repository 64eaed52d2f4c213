//! Hit ratios of the local tier on recorded traces beside those of the caches that a Rust program would use instead, all with room for
//! the same number of entries; for each size, how far it is behind the best of them.
//!
//! `cargo bench -p slotmesh-benches-compare --bench compare_near_traces -- FOLDER`
//!
//! Sizes are all powers of two from 512 up to the number of different keys. The rivals are as in `compare_traces`, each in one shard;
//! the local tier is as an application has it, in shards.

use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use slotmesh_benches::traces::{self, Trace};
use slotmesh_benches_compare::bounded::{
    Bounded, foyer_lfu, foyer_s3fifo, hits, moka, quick_cache,
};
use slotmesh_cache::near::{Cover, Fresh, Limits, Near};
use slotmesh_coherence::{KeyHasher, Subscriber};
use slotmesh_slots::{MonoTime, NodeId, Slot, Version};

const NAMES: [&str; 5] = ["local tier", "quick_cache", "foyer S3", "foyer LFU", "moka"];

/// Ours first.
type Cell = [f64; NAMES.len()];

/// Everything happens at once; nothing expires.
const NOW: MonoTime = MonoTime::ZERO;

struct Ours(Near<u64, ()>);

impl Ours {
    fn new(entries: usize) -> Self {
        // Bytes are no bound here.
        let limits = Limits { entries, bytes: 1 << 40 };
        let me = NodeId::new(1).expect("not zero");
        let subscriber = Arc::new(Subscriber::new(me, Box::new(|_| {})));
        let (hasher, hour) = (KeyHasher::new(1, b"traces:1:"), Duration::from_secs(3_600));
        Self(Near::new(limits, hasher, subscriber, hour))
    }
}

impl Bounded for Ours {
    fn get(&self, key: u64) -> bool {
        self.0.get(&key, NOW).is_some()
    }

    fn put(&self, key: u64) {
        let slot = Slot::new(0).expect("the first slot");
        let fresh = Fresh {
            value: Some(Arc::new(())),
            version: Version::default(),
            ttl: Duration::from_secs(1),
            stale_for: Duration::ZERO,
            bytes: 0,
        };
        self.0.fill(&key, self.0.ticket(&key, slot, NOW), fresh, Cover::Nobody);
    }

    fn len(&self) -> usize {
        self.0.size().0
    }
}

fn replay(trace: &Trace, entries: usize) -> Cell {
    let keys = &trace.keys[..];
    let hasher = || RandomState::with_seeds(1, 2, 3, 4);
    let cell = [
        hits(&Ours::new(entries), entries, keys),
        hits(&quick_cache(entries, hasher()), entries, keys),
        hits(&foyer_s3fifo(entries, hasher()), entries, keys),
        hits(&foyer_lfu(entries, hasher()), entries, keys),
        hits(&moka(entries, hasher()), entries, keys),
    ];
    cell.map(|hits| trace.percent(hits))
}

/// Points by which the first is behind the best of the others; below zero when it is ahead.
fn gap(cell: &Cell) -> f64 {
    cell[1..].iter().copied().fold(f64::NEG_INFINITY, f64::max) - cell[0]
}

fn main() {
    let Some(folder) = traces::folder() else { return };
    let names = NAMES.map(|name| format!(" {name:>11}")).concat();
    println!("{:>37} {:>9} {:>8}{names} {:>7}", "hits in % of trace", "requests", "entries", "gap");
    let mut gaps = Vec::new();
    for trace in traces::read_all(&folder) {
        for entries in trace.powers() {
            let cell = replay(&trace, entries);
            let ratios = cell.map(|percent| format!(" {percent:>11.2}")).concat();
            let (name, requests) = (&trace.name, trace.keys.len());
            println!("{name:>37} {requests:>9} {entries:>8}{ratios} {:>+7.2}", gap(&cell));
            gaps.push(gap(&cell));
        }
    }
    assert!(!gaps.is_empty(), "no trace in {}", folder.display());
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let behind = gaps.iter().map(|gap| gap.max(0.0)).sum::<f64>() / gaps.len() as f64;
    let worst = gaps.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    println!(
        "gap to the best of the others in {} cells: mean {mean:+.2}, mean without those ahead {behind:.2}, worst {worst:+.2}",
        gaps.len()
    );
}
