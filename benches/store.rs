//! The store against a bare dashmap in one process, interleaved, printed as ratios of medians.
//!
//! `cargo bench -p slotmesh-benches --bench store [-- --quick]`
//!
//! Our side does what a node does for a slot it owns: CRC16 of the key, the slot's lock, expiry check, frequency, a handle to the value;
//! for a write also version, digest, byte accounting and the record. Dashmap keeps `Box<[u8]> -> Bytes` under the same hash
//! function and knows none of that. Values arrive as part of a larger frame on both sides and are copied once on each.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use ahash::RandomState;
use bytes::Bytes;
use dashmap::DashMap;
use slotmesh_benches::{KEY_BYTES, key, median, spread};
use slotmesh_slots::{Epoch, MonoTime, Slot};
use slotmesh_store::{Put, Store, StoreConfig};

const VALUE_BYTES: usize = 64;
const NOW: MonoTime = MonoTime::from_micros(1);
/// Length of the precomputed key sequence: longer than any cache, so that it does not repeat within reach.
const SEQUENCE: usize = 1 << 21;
/// Operations between two looks at the clock.
const BATCH: usize = 1_024;

/// One side of the comparison.
trait Side: Sync {
    fn get(&self, key: &[u8]) -> bool;
    fn put(&self, key: &[u8], value: &Bytes);
}

impl Side for Store {
    fn get(&self, key: &[u8]) -> bool {
        black_box(self.get(Slot::of_key(key), key, NOW)).is_some()
    }

    fn put(&self, key: &[u8], value: &Bytes) {
        let put = Put::new(Bytes::copy_from_slice(key), value.clone());
        let outcome = self.lock(Slot::of_key(key)).put(Epoch(1), put, NOW);
        let _ = black_box(outcome.expect("the entry fits"));
    }
}

struct Dashmap(DashMap<Box<[u8]>, Bytes, RandomState>);

impl Side for Dashmap {
    fn get(&self, key: &[u8]) -> bool {
        black_box(self.0.get(key).map(|value| Bytes::clone(&value))).is_some()
    }

    fn put(&self, key: &[u8], value: &Bytes) {
        black_box(self.0.insert(key.into(), Bytes::copy_from_slice(value)));
    }
}

/// How long the run takes.
struct Effort {
    rounds: usize,
    window: Duration,
    key_counts: [u32; 2],
}

/// What is measured in one line of the output.
struct Workload<'a> {
    sequence: &'a [u32],
    writes_percent: usize,
    threads: usize,
    window: Duration,
}

impl Workload<'_> {
    /// Million operations per second of all threads together.
    fn measure(&self, side: &dyn Side) -> f64 {
        let rates = thread::scope(|scope| {
            let thread = |index| scope.spawn(move || self.one_thread(side, index));
            let threads: Vec<_> = (0..self.threads).map(thread).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<f64>()
        });
        rates / 1e6
    }

    fn one_thread(&self, side: &dyn Side, index: usize) -> f64 {
        let frame = Bytes::from(vec![index as u8; 16 << 10]);
        let (mut position, mut done) = (index * self.sequence.len() / self.threads, 0_usize);
        let start = Instant::now();
        while start.elapsed() < self.window {
            for _ in 0..BATCH {
                position = (position + 1) % self.sequence.len();
                let key = key(self.sequence[position]);
                if done * 61 % 100 < self.writes_percent {
                    let at = done % 200 * VALUE_BYTES;
                    side.put(&key, &frame.slice(at..at + VALUE_BYTES));
                } else {
                    assert!(side.get(&key), "every key is there");
                }
                done += 1;
            }
        }
        done as f64 / start.elapsed().as_secs_f64()
    }
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let effort = if quick {
        Effort { rounds: 3, window: Duration::from_millis(25), key_counts: [100_000, 20_000] }
    } else {
        Effort { rounds: 7, window: Duration::from_millis(150), key_counts: [1_000_000, 20_000] }
    };
    println!(
        "Zipf 0.99, keys of {KEY_BYTES} B, values of {VALUE_BYTES} B, Mop/s, median of {} rounds",
        effort.rounds
    );
    for keys in effort.key_counts {
        compare(&effort, keys);
    }
}

fn compare(effort: &Effort, keys: u32) {
    let store = Store::new(StoreConfig { budget_bytes: 4 << 30, ..StoreConfig::default() });
    let dashmap = Dashmap(DashMap::with_hasher(RandomState::new()));
    let (theirs, ours) = (load(&dashmap, keys), load(&store, keys));
    println!("\n{keys} keys");
    // Later loads reuse what earlier ones freed: only the first tells how much memory an entry takes.
    if keys == effort.key_counts[0] {
        let counted = slotmesh_store::ENTRY_OVERHEAD_BYTES;
        println!(
            "bytes per entry beyond key and value: dashmap {theirs}, store {ours} (counts {counted})"
        );
    }
    println!(
        "{:>8} {:>8} {:>9} {:>9} {:>7}  ratio of each round: least / median / most",
        "writes", "threads", "dashmap", "store", "ratio"
    );
    let sequence = slotmesh_benches::zipf(keys, SEQUENCE);
    for writes_percent in [0, 5, 50] {
        for threads in [1, 2] {
            let workload =
                Workload { sequence: &sequence, writes_percent, threads, window: effort.window };
            line(effort, &workload, &dashmap, &store);
        }
    }
}

fn line(effort: &Effort, workload: &Workload<'_>, dashmap: &Dashmap, store: &Store) {
    let (mut theirs, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..effort.rounds {
        // Each goes first in half of the rounds.
        let (a, b) = if round % 2 == 0 {
            let a = workload.measure(dashmap);
            (a, workload.measure(store))
        } else {
            let b = workload.measure(store);
            (workload.measure(dashmap), b)
        };
        theirs.push(a);
        ours.push(b);
        ratios.push(b / a);
    }
    let (theirs, ours) = (median(&theirs), median(&ours));
    let [least, middle, most] = spread(&ratios);
    println!(
        "{:>7}% {:>8} {theirs:>9.2} {ours:>9.2} {:>7.2}  {least:.2} / {middle:.2} / {most:.2}",
        workload.writes_percent,
        workload.threads,
        ours / theirs
    );
}

/// Writes every key once; resident bytes per entry beyond the payload.
fn load(side: &dyn Side, keys: u32) -> i64 {
    let before = resident_bytes();
    let frame = Bytes::from(vec![1; VALUE_BYTES]);
    (0..keys).for_each(|number| side.put(&key(number), &frame));
    (resident_bytes() - before) / i64::from(keys) - (KEY_BYTES + VALUE_BYTES) as i64
}

/// Resident memory of this process; zero where there is no `/proc`.
fn resident_bytes() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<i64>().ok());
    pages.unwrap_or_default() * 4096
}
