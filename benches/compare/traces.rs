//! Hit ratios of the store as a bounded cache on recorded traces, beside S3-FIFO, LRU and the caches that a Rust program would use
//! instead, all of the same number of entries.
//!
//! `cargo bench -p slotmesh-benches-compare --bench compare_traces -- FOLDER`
//!
//! The first lines of `benches/traces.rs` say which files of the folder it takes.
//!
//! All evict as they do when nobody asks otherwise: moka by TinyLFU, quick_cache by its Clock-PRO, which it calls S3-FIFO. Only foyer
//! is told: w-TinyLFU, which its documentation calls the default, while its builder takes LRU. A shard evicts by itself, so those
//! that divide their room, quick_cache and foyer, have one shard: the bound is the whole cache's, as it is in the others.
//!
//! moka has what it was given until its tasks have run, which they do by themselves after 64 writes; those are a window beyond the
//! bound, and a small cache has more hits by it. So `run_pending_tasks` follows every write. After every write each rival is checked to
//! hold no more than it may.

use ahash::RandomState;
use slotmesh_benches::traces::{self, Lru, S3Fifo, Size, Trace, store_hits};
use slotmesh_benches_compare::bounded::{foyer_lfu, hits, moka, quick_cache};

const NAMES: [&str; 6] = ["store", "S3-FIFO", "LRU", "moka", "quick_cache", "foyer"];

/// Which of [`NAMES`] the others are compared with.
const REFERENCE: usize = 1;

/// Hit ratios of all in percent, on one trace with one size.
type Cell = [f64; NAMES.len()];

/// Every entry counts the same.
const UNIT: Size = |_| 1;

fn replay(trace: &Trace, entries: usize) -> Cell {
    let keys = &trace.keys[..];
    // Always the same one, so that a rival has the same ratios in every run.
    let hasher = || RandomState::with_seeds(1, 2, 3, 4);
    let cell = [
        store_hits((entries, UNIT), keys),
        S3Fifo::new(entries, UNIT).hits(keys),
        Lru::new(entries, UNIT).hits(keys),
        hits(&moka(entries, hasher()), entries, keys),
        hits(&quick_cache(entries, hasher()), entries, keys),
        hits(&foyer_lfu(entries, hasher()), entries, keys),
    ];
    cell.map(|hits| trace.percent(hits))
}

fn main() {
    let Some(folder) = traces::folder() else { return };
    let traces = traces::read_all(&folder);
    let names = NAMES.map(|name| format!(" {name:>11}")).concat();
    println!("{:>37} {:>9} {:>8}{names}", "hits in % of trace", "requests", "entries");
    let mut cells = Vec::new();
    for trace in traces {
        for entries in trace.capacities() {
            let cell = replay(&trace, entries);
            let ratios = cell.map(|percent| format!(" {percent:>11.2}")).concat();
            println!("{:>37} {:>9} {entries:>8}{ratios}", trace.name, trace.keys.len());
            cells.push(cell);
        }
    }
    assert!(!cells.is_empty(), "no trace in {}", folder.display());
    summarize(&cells);
}

/// Prints the last lines: each one's mean, and what lies between it and the reference in points.
fn summarize(cells: &[Cell]) {
    let of_all = |value: &dyn Fn(&Cell, usize) -> f64, fold: fn(&[f64]) -> f64| -> Cell {
        std::array::from_fn(|side| {
            fold(&cells.iter().map(|cell| value(cell, side)).collect::<Vec<f64>>())
        })
    };
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let worst = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    let less_reference = |cell: &Cell, side: usize| cell[side] - cell[REFERENCE];
    let means = of_all(&|cell, side| cell[side], mean).map(|mean| format!(" {mean:>11.2}"));
    println!("{:>56}{}", format!("mean of {} cells", cells.len()), means.concat());
    for (what, fold) in [("mean", mean as fn(&[f64]) -> f64), ("worst", worst)] {
        let points = of_all(&less_reference, fold).map(|points| format!(" {points:>+11.2}"));
        println!("{:>56}{}", format!("less {}, {what}", NAMES[REFERENCE]), points.concat());
    }
}
