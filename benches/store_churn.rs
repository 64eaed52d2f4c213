//! What the process takes beside what the store counts, while sizes of values change: a bounded cache under random
//! writes and deletes, with small values, then large ones, then tiny ones, again and again.
//!
//! `cargo bench -p slotmesh-benches --bench store_churn [-- SECONDS [MIB]]`, a minute and 200 MiB unless said

use std::time::{Duration, Instant};

use bytes::Bytes;
use slotmesh_benches::key;
use slotmesh_benches::maps::{NOW, resident_bytes};
use slotmesh_slots::{Epoch, Slot};
use slotmesh_store::{Condition, FIXED_BYTES, Put, Store, StoreConfig};

/// Keys for each mebibyte.
const KEYS: u64 = 10_000;
/// Least and most bytes of a value in each phase.
const PHASES: [(u64, u64); 3] = [(0, 200), (50, 1_050), (0, 60)];
/// Phases in a run: each kind of size comes back once.
const PHASE_COUNT: u32 = 6;

fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse().ok());
    let phase_length = Duration::from_secs(numbers.next().unwrap_or(60)) / PHASE_COUNT;
    let mebibytes = numbers.next().unwrap_or(200);
    let before = resident_bytes();
    let budget_bytes = (mebibytes as usize) << 20;
    let store = Store::new(StoreConfig { budget_bytes, ..StoreConfig::default() });
    let mut random = Random(88_172_645_463_325_252);
    println!("MiB: {:>10} {:>9} {:>9} {:>7}", "values", "counted", "resident", "ratio");
    for phase in 0..PHASE_COUNT {
        let (least, most) = PHASES[phase as usize % PHASES.len()];
        let (start, mut writes) = (Instant::now(), 0);
        while start.elapsed() < phase_length {
            for _ in 0..1_000 {
                write(&store, &mut random, mebibytes * KEYS, (least, most));
            }
            writes += 1_000;
        }
        let counted = (store.used_bytes() + FIXED_BYTES) as f64 / f64::from(1 << 20);
        let resident = (resident_bytes() - before) as f64 / f64::from(1 << 20);
        let values = format!("{least}-{most} B");
        println!(
            "{values:>15} {counted:>9.0} {resident:>9.0} {:>7.2}  after {writes} writes, {} entries",
            resident / counted,
            store.len()
        );
    }
}

fn write(store: &Store, random: &mut Random, keys: u64, (least, most): (u64, u64)) {
    let number = key(random.below(keys) as u32);
    let value = Bytes::from(vec![1; (least + random.below(most - least)) as usize]);
    let put = Put::new(Bytes::copy_from_slice(&number), value);
    let _ = store.lock(Slot::of_key(&number)).put(Epoch(1), put, NOW).expect("it fits");
    while store.over_budget() {
        let (slot, key) = store.victim(&|_| true, NOW).expect("something can go");
        store.lock(slot).evict(Epoch(1), &key, NOW).expect("it is there");
    }
    if random.below(10) == 0 {
        let key = Bytes::copy_from_slice(&key(random.below(keys) as u32));
        let mut guard = store.lock(Slot::of_key(&key));
        let _ = guard.delete(Epoch(1), &key, Condition::Always, NOW).expect("it may go");
    }
}

/// Xorshift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
