//! Hit ratios of the store as a bounded cache on recorded traces, beside S3-FIFO and LRU of the same number of entries.
//!
//! `cargo bench -p slotmesh-benches --bench store_traces -- FOLDER [--mixed]`
//!
//! The first lines of `benches/traces.rs` say which files of the folder it takes.
//!
//! With `--mixed` the keys have sizes, from 1 to 64 and most of them small, and a cache has so many units as it else has entries.

use ahash::RandomState;
use slotmesh_benches::spread;
use slotmesh_benches::traces::{self, Lru, S3Fifo, Size, Trace, store_hits};

fn main() {
    let size = if std::env::args().any(|argument| argument == "--mixed") { mixed } else { |_| 1 };
    let Some(folder) = traces::folder() else { return };
    let traces = traces::read_all(&folder);
    println!(
        "{:>34} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "trace", "requests", "entries", "store %", "S3-FIFO", "LRU", "points"
    );
    let differences: Vec<f64> = traces.flat_map(|trace| replay(&trace, size)).collect();
    assert!(!differences.is_empty(), "no trace in {}", folder.display());
    let [worst, middle, best] = spread(&differences);
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    println!(
        "store less S3-FIFO, in points: mean {mean:+.2}, median {middle:+.2}, worst {worst:+.2}, best {best:+.2}, {} cells",
        differences.len()
    );
}

/// Half of the keys have size 1, a quarter 2 and so on.
fn mixed(key: u64) -> usize {
    let hash = RandomState::with_seeds(5, 6, 7, 8).hash_one(key);
    1 << hash.trailing_zeros().min(6)
}

fn replay(trace: &Trace, size: Size) -> Vec<f64> {
    let (name, keys) = (&trace.name, &trace.keys[..]);
    { trace.capacities() }
        .into_iter()
        .map(|entries| {
            let lru = trace.percent(Lru::new(entries, size).hits(keys));
            let s3 = trace.percent(S3Fifo::new(entries, size).hits(keys));
            let ours = trace.percent(store_hits((entries, size), keys));
            println!(
                "{name:>34} {:>9} {entries:>8} {ours:>8.2} {s3:>8.2} {lru:>8.2} {:>+8.2}",
                keys.len(),
                ours - s3
            );
            ours - s3
        })
        .collect()
}
