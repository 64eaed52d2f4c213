//! The store against a bare dashmap in one process, interleaved, printed as ratios of medians; and what an entry takes in
//! memory on each side, each in a process of its own.
//!
//! `cargo bench -p slotmesh-benches --bench store [-- --quick]`
//!
//! Our side does what a node does for a slot it owns: CRC16 of the key, the slot's lock, expiry check, frequency, a handle to the value;
//! for a write also version, digest, byte accounting and the record. Dashmap keeps `Box<[u8]> -> Bytes` under the same hash
//! function and knows none of that. Values arrive as part of a larger frame on both sides and are copied once on each.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use slotmesh_benches::maps::{
    BATCH, Dashmap, NOW, Side, VALUE_BYTES, Workload, memory as memory_of, new_store, weighed,
};
use slotmesh_benches::{KEY_BYTES, key, median, ratios, spread};
use slotmesh_slots::{Epoch, MonoTime, Slot};
use slotmesh_store::{Put, Store};

/// Length of the precomputed key sequence: longer than any cache, so that it does not repeat within reach.
const SEQUENCE: usize = 1 << 21;
/// How long the run takes.
struct Effort {
    rounds: usize,
    window: Duration,
    key_counts: [u32; 2],
}

fn main() {
    if weighed(|name, _| side(name)) {
        return;
    }
    let quick = std::env::args().any(|argument| argument == "--quick");
    let effort = if quick {
        Effort { rounds: 3, window: Duration::from_millis(25), key_counts: [100_000, 20_000] }
    } else {
        Effort { rounds: 7, window: Duration::from_millis(150), key_counts: [1_000_000, 20_000] }
    };
    memory(effort.key_counts);
    stalls(effort.key_counts[0]);
    views(&effort);
    println!(
        "\nkeys of {KEY_BYTES} B, values of {VALUE_BYTES} B, Mop/s, median of {} rounds",
        effort.rounds
    );
    for keys in effort.key_counts {
        compare(&effort, keys);
    }
}

fn memory([many, few]: [u32; 2]) {
    println!("resident bytes per entry beyond key and value");
    println!("{:>9} {:>7} {:>9} {:>7}", "entries", "value", "dashmap", "store");
    for (keys, value_bytes, ttl) in
        [(many, 64, false), (many, 64, true), (many, 1024, true), (few, 64, true)]
    {
        let take = |side| memory_of(side, keys, value_bytes, ttl);
        let note = if ttl { "store with deadlines" } else { "" };
        let (theirs, ours) = (take("dashmap"), take("store"));
        println!("{keys:>9} {value_bytes:>7} {theirs:>9} {ours:>7}  {note}");
    }
}

/// How long single steps take in one slot that holds everything: growing, beside as many entries in all slots and in a
/// dashmap, the search for expired entries, dropping it.
fn stalls(keys: u32) {
    let (store, spread_out, dashmap) = (new_store(), new_store(), Dashmap::default());
    let (slot, frame) = (Slot::of_key(b"{t}"), Bytes::from(vec![1; VALUE_BYTES]));
    let deadline = Some(MonoTime::from_micros(1_000));
    let numbers: Vec<u32> = (0..keys).collect();
    let line = |name: &str, put: &dyn Fn(u32)| {
        let puts = Latencies::once(&numbers, put);
        let [p99, p999, longest] = [0.99, 0.999, 1.0].map(|share| puts.at(share));
        println!("{name:>24}: put p99 {p99:.1}, p99.9 {p999:.1}, longest {longest:.0}");
    };
    println!("\n{keys} new entries, in us");
    line("dashmap", &|number| dashmap.put(&key(number), &frame, None));
    line("store, all slots", &|number| spread_out.put(&key(number), &frame, deadline));
    line("store, one slot", &|number| {
        let put = Put { deadline, ..Put::new(key(number).to_vec(), frame.clone()) };
        let _ = black_box(store.lock(slot).put(Epoch(1), put, NOW));
    });
    let later = MonoTime::from_micros(2_000);
    let searches = || drop(black_box(store.expired(later, 100)));
    let searches = Latencies::once(&numbers[..64], |_| searches());
    let mut dropped = None;
    let drop_locked = Latencies::once_mut(|| dropped = Some(store.lock(slot).reset()));
    let free = Latencies::once_mut(|| drop(dropped.take()));
    println!(
        "{:>24}: a search for expired entries {:.0}, longest {:.0}; dropping it {drop_locked:.1}, and freeing it unlocked {free:.0}",
        "that slot",
        searches.at(0.5),
        searches.at(1.0),
    );
}

/// Overwrites, alone and while another thread reads all slots as a whole one after the other, again and again: with the
/// entries in all slots or in one.
fn views(effort: &Effort) {
    for (name, one) in [("all slots", None), ("one slot", Some(Slot::of_key(b"{t}")))] {
        let (store, keys) = (new_store(), effort.key_counts[0]);
        let slot_of = |key: &[u8]| one.unwrap_or_else(|| Slot::of_key(key));
        let frame = Bytes::from(vec![1; VALUE_BYTES]);
        let put = |number: u32| {
            let key = key(number);
            let put = Put::new(key.to_vec(), frame.clone());
            let _ = black_box(store.lock(slot_of(&key)).put(Epoch(1), put, NOW));
        };
        (0..keys).for_each(put);
        let sequence = slotmesh_benches::uniform(keys, SEQUENCE);
        let (mut alone, mut beside, mut longest) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..effort.rounds {
            alone.push(Latencies::of(&sequence, 4 * effort.window, put).rate());
            let puts = beside_reader(&store, || Latencies::of(&sequence, 4 * effort.window, put));
            beside.push(puts.rate());
            longest.push(puts.at(0.9999));
        }
        println!(
            "overwrites in {name} while that is read as a whole: {:.2} of their speed alone, p99.99 {:.0} us",
            median(&beside) / median(&alone),
            median(&longest)
        );
    }
}

/// Does the work while another thread reads the store, slot by slot and round and round.
fn beside_reader<R>(store: &Store, work: impl FnOnce() -> R) -> R {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut entries = 0;
            for slot in std::iter::repeat_with(Slot::all).flatten() {
                let mut view = store.lock(slot).view();
                while let Some(part) = store.read_view(&mut view).expect("it stays") {
                    entries += part.len();
                }
                if done.load(Ordering::Relaxed) {
                    return entries;
                }
            }
            entries
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().expect("no panic") > 0);
        result
    })
}

/// How long each of many operations took, in us.
struct Latencies(Vec<f64>);

impl Latencies {
    fn of(sequence: &[u32], window: Duration, operation: impl Fn(u32)) -> Self {
        let start = Instant::now();
        let numbers = sequence.iter().cycle().take_while(|_| start.elapsed() < window);
        Self::sorted(numbers.map(|&number| Self::once_mut(|| operation(number))).collect())
    }

    fn once(sequence: &[u32], operation: impl Fn(u32)) -> Self {
        let each = sequence.iter().map(|&number| Self::once_mut(|| operation(number)));
        Self::sorted(each.collect())
    }

    fn sorted(mut micros: Vec<f64>) -> Self {
        micros.sort_by(f64::total_cmp);
        Self(micros)
    }

    /// How long this takes, in us.
    fn once_mut(step: impl FnOnce()) -> f64 {
        let start = Instant::now();
        step();
        start.elapsed().as_secs_f64() * 1e6
    }

    fn rate(&self) -> f64 {
        self.0.len() as f64 / self.0.iter().sum::<f64>()
    }

    fn at(&self, share: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * share) as usize]
    }
}

fn side(name: &str) -> Box<dyn Side> {
    match name {
        "store" => Box::new(new_store()),
        _ => Box::new(Dashmap::default()),
    }
}

fn compare(effort: &Effort, keys: u32) {
    let store = new_store();
    let dashmap = Dashmap::default();
    let frame = Bytes::from(vec![1; VALUE_BYTES]);
    for side in [&dashmap as &dyn Side, &store] {
        (0..keys).for_each(|number| side.put(&key(number), &frame, None));
    }
    println!(
        "\n{keys} keys\n{:>8} {:>7} {:>8} {:>9} {:>9} {:>7}  ratio of each round: least / median / most",
        "", "writes", "threads", "dashmap", "store", "ratio"
    );
    let uniform = slotmesh_benches::uniform(keys, SEQUENCE);
    let zipf = slotmesh_benches::zipf(keys, SEQUENCE);
    for (name, sequence) in [("Zipf", &zipf), ("uniform", &uniform)] {
        for writes_percent in [0, 5, 50] {
            for threads in [1, 2] {
                let window = effort.window;
                let workload = Workload { sequence, writes_percent, threads, window };
                line(effort, name, &workload, [&dashmap, &store]);
            }
        }
    }
    batches(effort, &store, &uniform);
}

/// Many reads at once against one after the other, of the same store.
fn batches(effort: &Effort, store: &Store, sequence: &[u32]) {
    let rate = |at_once: usize| {
        let (start, mut done) = (Instant::now(), 0);
        for numbers in sequence.as_chunks::<16>().0.iter().cycle() {
            let keys = numbers.map(key);
            let keys = keys.each_ref().map(|key| (Slot::of_key(key), &key[..]));
            if at_once > 1 {
                black_box(store.get_many(&keys, NOW));
            } else {
                for (slot, key) in &keys {
                    black_box(store.get(*slot, key, NOW));
                }
            }
            done += keys.len();
            if done % BATCH == 0 && start.elapsed() > effort.window {
                break;
            }
        }
        done as f64 / start.elapsed().as_secs_f64() / 1e6
    };
    let rounds = (0..effort.rounds).map(|_| (rate(1), rate(16)));
    let (single, many): (Vec<f64>, Vec<f64>) = rounds.unzip();
    println!(
        "uniform reads, one thread: one by one {:.2} Mop/s, get_many of 16 {:.2} Mop/s, {}",
        median(&single),
        median(&many),
        ratios(&many, &single)
    );
}

fn line(effort: &Effort, name: &str, workload: &Workload<'_>, [dashmap, store]: [&dyn Side; 2]) {
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
        "{:>8} {:>6}% {:>8} {theirs:>9.2} {ours:>9.2} {:>7.2}  {least:.2} / {middle:.2} / {most:.2}",
        name,
        workload.writes_percent,
        workload.threads,
        ours / theirs
    );
}
