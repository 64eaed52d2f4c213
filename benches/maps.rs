//! What the store and its rivals are measured with: one trait over all of them, one loop, one way to weigh them.

use std::hint::black_box;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ahash::RandomState;
use bytes::Bytes;
use dashmap::DashMap;
use slotmesh_slots::{Epoch, MonoTime, Slot};
use slotmesh_store::{Put, Store, StoreConfig};

use crate::{KEY_BYTES, key};

/// Bytes of a value where nothing else is said.
pub const VALUE_BYTES: usize = 64;

/// The time at which all is done.
pub const NOW: MonoTime = MonoTime::from_micros(1);

/// Operations between two looks at the clock.
pub const BATCH: usize = 1_024;

/// Makes a benchmark load one side and print what an entry takes.
const MEMORY_FLAG: &str = "--memory";

/// One side of the comparison.
pub trait Side: Sync {
    /// Takes a handle to the value; whether there was one.
    fn get(&self, key: &[u8]) -> bool;

    /// Copies the value, which is part of a larger frame. Only the store heeds the deadline.
    fn put(&self, key: &[u8], value: &Bytes, deadline: Option<MonoTime>);
}

impl Side for Store {
    fn get(&self, key: &[u8]) -> bool {
        black_box(self.get(Slot::of_key(key), key, NOW)).is_some()
    }

    fn put(&self, key: &[u8], value: &Bytes, deadline: Option<MonoTime>) {
        let put = Put { deadline, ..Put::new(Bytes::copy_from_slice(key), value.clone()) };
        let outcome = self.lock(Slot::of_key(key)).put(Epoch(1), put, NOW);
        let _ = black_box(outcome.expect("the entry fits"));
    }
}

/// The map that most would use.
#[derive(Debug, Default)]
pub struct Dashmap(DashMap<Box<[u8]>, Bytes, RandomState>);

impl Side for Dashmap {
    fn get(&self, key: &[u8]) -> bool {
        black_box(self.0.get(key).map(|value| Bytes::clone(&value))).is_some()
    }

    fn put(&self, key: &[u8], value: &Bytes, _: Option<MonoTime>) {
        black_box(self.0.insert(key.into(), Bytes::copy_from_slice(value)));
    }
}

/// A store with room for everything.
#[must_use]
pub fn new_store() -> Store {
    Store::new(StoreConfig { budget_bytes: 8 << 30, ..StoreConfig::default() })
}

/// What is measured in one line of the output.
#[derive(Debug)]
pub struct Workload<'a> {
    /// The keys, by number.
    pub sequence: &'a [u32],
    /// Writes among a hundred operations.
    pub writes_percent: usize,
    /// Threads that work at the same time.
    pub threads: usize,
    /// How long they do.
    pub window: Duration,
}

impl Workload<'_> {
    /// Million operations per second of all threads together.
    ///
    /// # Panics
    /// When a key is not there.
    #[must_use]
    pub fn measure(&self, side: &dyn Side) -> f64 {
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
                    side.put(&key, &frame.slice(at..at + VALUE_BYTES), None);
                } else {
                    assert!(side.get(&key), "every key is there");
                }
                done += 1;
            }
        }
        done as f64 / start.elapsed().as_secs_f64()
    }
}

/// What an entry takes in memory beyond key and value, by a process of this program of its own: what others freed would be
/// used again in this one. That process must call [`weighed`] first.
///
/// # Panics
/// When there can be no other process.
#[must_use]
pub fn memory(name: &str, keys: u32, value_bytes: usize, deadlines: bool) -> String {
    let program = std::env::current_exe().expect("own path");
    let numbers = [keys.to_string(), value_bytes.to_string(), deadlines.to_string()];
    let output = Command::new(program).args([MEMORY_FLAG, name]).args(numbers).output();
    String::from_utf8(output.expect("another process").stdout).expect("a number").trim().to_owned()
}

/// Whether this is the other process of [`memory`]; then it has done its work.
///
/// # Panics
/// When the arguments are not those of [`memory`].
#[must_use]
pub fn weighed(side: impl FnOnce(&str, u32) -> Box<dyn Side>) -> bool {
    let arguments: Vec<String> = std::env::args().skip_while(|word| word != MEMORY_FLAG).collect();
    let [_, name, keys, value_bytes, deadlines] = &arguments[..] else { return false };
    let keys: u32 = keys.parse().expect("a number");
    let value_bytes: usize = value_bytes.parse().expect("a number");
    let deadline = (deadlines == "true").then(|| NOW + Duration::from_secs(86_400));
    let frame = Bytes::from(vec![1; value_bytes]);
    // Its own memory while empty counts too.
    let before = resident_bytes();
    let side = side(name, keys);
    (0..keys).for_each(|number| side.put(&key(number), &frame, deadline));
    let taken = resident_bytes() - before;
    println!("{}", taken / i64::from(keys) - (KEY_BYTES + value_bytes) as i64);
    true
}

/// Resident memory of this process without what is mapped from files, such as the program itself, which is loaded as it is used;
/// zero where there is no `/proc`.
#[must_use]
pub fn resident_bytes() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = |field| statm.split(' ').nth(field).and_then(|pages| pages.parse::<i64>().ok());
    (pages(1).unwrap_or_default() - pages(2).unwrap_or_default()) * 4096
}
