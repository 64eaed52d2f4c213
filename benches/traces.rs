//! Recorded cache traces, and what hit ratios on them are measured with: the store as a bounded cache, S3-FIFO and LRU.
//!
//! Traces are the files of a folder whose format their name tells: `*.lis.zst` (ARC), `*.trace.gz` (LIRS), `cache2k-*.xz`,
//! `corda-*.gz`, `adapt_size-*.xz`, `*.oracleGeneral.bin`; zstd, xz and gzip unpack them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Command;

use ahash::RandomState;
use bytes::Bytes;
use slotmesh_slots::{Epoch, Slot};
use slotmesh_store::{Put, Store, StoreConfig};

use crate::maps::NOW;

/// Cache sizes as parts of the trace's different keys, in per mille.
const SIZES: [usize; 5] = [10, 30, 100, 200, 400];

/// The least cache that is measured: in a smaller one chance decides.
const LEAST_CAPACITY: usize = 100;

/// What a key takes of a cache's capacity.
pub type Size = fn(u64) -> usize;

/// What somebody recorded.
#[derive(Debug)]
pub struct Trace {
    /// The file's.
    pub name: String,
    /// What was read, in that order.
    pub keys: Vec<u64>,
}

impl Trace {
    /// Capacities of caches to replay it against, the least first; none when it has few keys.
    #[must_use]
    pub fn capacities(&self) -> Vec<usize> {
        let different = self.keys.iter().collect::<HashSet<_, RandomState>>().len();
        let sizes = SIZES.iter().map(|per_mille| different * per_mille / 1000);
        sizes.filter(|&capacity| capacity >= LEAST_CAPACITY).collect()
    }

    /// All powers of two from 512 up to the number of different keys.
    #[must_use]
    pub fn powers(&self) -> Vec<usize> {
        let different = self.keys.iter().collect::<HashSet<_, RandomState>>().len();
        (9..usize::BITS)
            .map(|power| 1 << power)
            .take_while(|&entries| entries < different)
            .collect()
    }

    /// So many hits as a part of all reads, in percent.
    #[must_use]
    pub fn percent(&self, hits: usize) -> f64 {
        hits as f64 * 100.0 / self.keys.len() as f64
    }
}

/// The folder that the program's arguments name; tells its user when there is none.
#[must_use]
pub fn folder() -> Option<PathBuf> {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    if folder.is_none() {
        println!("give it a folder of traces; the first lines of the source say which");
    }
    folder.map(PathBuf::from)
}

/// The traces of a folder by name, each read when its turn comes. Other files are passed by.
///
/// # Panics
/// When the folder or a trace cannot be read, or what unpacks it is not installed.
pub fn read_all(folder: &Path) -> impl Iterator<Item = Trace> {
    let entries = std::fs::read_dir(folder).expect("a folder of traces");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    paths.into_iter().filter_map(|path| {
        let keys = read(&path)?;
        Some(Trace { name: path.file_name()?.to_str()?.to_owned(), keys })
    })
}

/// The keys of a trace; `None` when the name tells no known format.
fn read(path: &Path) -> Option<Vec<u64>> {
    let name = path.file_name()?.to_str()?;
    let unpacked = |program: &str| {
        let output = Command::new(program).arg("-dc").arg(path).output();
        output
            .unwrap_or_else(|error| panic!("{program} is needed to unpack traces: {error}"))
            .stdout
    };
    let integers = |bytes: Vec<u8>, width: usize| -> Vec<u64> {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        bytes.chunks_exact(width).map(number).collect()
    };
    if name.ends_with(".lis.zst") {
        return Some(lines(&unpacked("zstd"), |line| {
            let mut words = line.split(' ').map(|word| word.parse::<u64>().unwrap_or(0));
            let (start, count) = (words.next().unwrap_or(0), words.next().unwrap_or(1));
            (start..start + count).collect()
        }));
    }
    if name.starts_with("cache2k") && name.ends_with(".xz") {
        return Some(integers(unpacked("xz"), 4));
    }
    if name.starts_with("corda") && name.ends_with(".gz") {
        return Some(integers(unpacked("gzip"), 8));
    }
    if name.starts_with("adapt_size") && name.ends_with(".xz") {
        let hash = RandomState::with_seeds(1, 2, 3, 4);
        let key = |line: &str| line.split_once(' ').map(|(_, key)| hash.hash_one(key));
        return Some(lines(&unpacked("xz"), |line| key(line).into_iter().collect()));
    }
    if name.starts_with("lirs") && name.ends_with(".gz") {
        return Some(lines(&unpacked("gzip"), |line| line.trim().parse().into_iter().collect()));
    }
    if name.ends_with(".oracleGeneral.bin") {
        let bytes = std::fs::read(path).expect("a readable trace");
        let key = |record: &[u8]| u64::from_le_bytes(std::array::from_fn(|i| record[4 + i]));
        return Some(bytes.chunks_exact(24).map(key).collect());
    }
    None
}

fn lines(bytes: &[u8], keys: impl Fn(&str) -> Vec<u64>) -> Vec<u64> {
    String::from_utf8_lossy(bytes).lines().flat_map(keys).collect()
}

/// Hits of the store, which is kept at its capacity as its caller keeps it below the budget.
///
/// # Panics
/// When the store does not take a small entry or names no victim.
#[must_use]
pub fn store_hits((capacity, size): (usize, Size), keys: &[u64]) -> usize {
    let store = Store::new(StoreConfig::default());
    let (mut hits, mut used) = (0, 0);
    for &number in keys {
        let key = number.to_be_bytes();
        let slot = Slot::of_key(&key);
        if store.get(slot, &key, NOW).is_some() {
            hits += 1;
            continue;
        }
        let put = Put::new(Bytes::copy_from_slice(&key), Bytes::new());
        let _ = store.lock(slot).put(Epoch(1), put, NOW).expect("a small entry");
        used += size(number);
        while used > capacity {
            let (slot, key) = store.victim(&|_| true, NOW).expect("there are entries");
            store.lock(slot).evict(Epoch(1), &key, NOW).expect("it was named just now");
            used -= size(u64::from_be_bytes(key[..].try_into().expect("eight bytes")));
        }
    }
    hits
}

/// The least recently used goes.
#[derive(Debug)]
pub struct Lru {
    capacity: usize,
    size: Size,
    taken: usize,
    used: HashMap<u64, usize, RandomState>,
    order: VecDeque<(u64, usize)>,
}

impl Lru {
    /// An empty one that holds `capacity`.
    #[must_use]
    pub fn new(capacity: usize, size: Size) -> Self {
        Self { capacity, size, taken: 0, used: HashMap::default(), order: VecDeque::new() }
    }

    /// How many of the keys are in it when read, each being put in when it is not.
    #[must_use]
    pub fn hits(mut self, keys: &[u64]) -> usize {
        let mut hits = 0;
        for (time, &key) in keys.iter().enumerate() {
            if self.used.insert(key, time).is_some() {
                hits += 1;
            } else {
                self.taken += (self.size)(key);
            }
            self.order.push_back((key, time));
            while self.taken > self.capacity {
                let (key, time) = self.order.pop_front().expect("every key is in it");
                if self.used.get(&key) == Some(&time) {
                    self.used.remove(&key);
                    self.taken -= (self.size)(key);
                }
            }
        }
        hits
    }
}

/// S3-FIFO as its authors describe it (Yang, Zhang, Qiu, Yue and Rashmi: FIFO queues are all you need for cache eviction, SOSP
/// 2023, algorithm 1): a small queue of a tenth, a ghost queue as long as the main one.
#[derive(Debug)]
pub struct S3Fifo {
    small_max: usize,
    main_max: usize,
    size: Size,
    small: Queue,
    main: Queue,
    /// With the time of eviction: one that came back and went again is there twice.
    ghosts: VecDeque<(u64, u64)>,
    /// Of those that have not come back.
    ghosts_taken: usize,
    evictions: u64,
    known: HashMap<u64, Known, RandomState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Cached(u8),
    Ghost(u64),
}

/// A queue with the sum of its keys' sizes.
#[derive(Debug, Default)]
struct Queue {
    keys: VecDeque<u64>,
    taken: usize,
}

impl Queue {
    fn push(&mut self, key: u64, size: Size) {
        self.keys.push_back(key);
        self.taken += size(key);
    }

    fn pop(&mut self, size: Size) -> Option<u64> {
        let key = self.keys.pop_front()?;
        self.taken -= size(key);
        Some(key)
    }
}

impl S3Fifo {
    /// An empty one that holds `capacity`.
    #[must_use]
    pub fn new(capacity: usize, size: Size) -> Self {
        let small_max = (capacity / 10).max(1);
        Self {
            small_max,
            main_max: capacity - small_max,
            size,
            small: Queue::default(),
            main: Queue::default(),
            ghosts: VecDeque::new(),
            ghosts_taken: 0,
            evictions: 0,
            known: HashMap::default(),
        }
    }

    /// How many of the keys are in it when read, each being put in when it is not.
    #[must_use]
    pub fn hits(mut self, keys: &[u64]) -> usize {
        keys.iter().filter(|&&key| self.read(key)).count()
    }

    fn read(&mut self, key: u64) -> bool {
        if let Some(Known::Cached(uses)) = self.known.get_mut(&key) {
            *uses = (*uses + 1).min(3);
            return true;
        }
        let size = (self.size)(key);
        while self.small.taken + self.main.taken + size > self.small_max + self.main_max {
            if self.small.taken >= self.small_max { self.evict_small() } else { self.evict_main() }
        }
        if let Some(Known::Ghost(_)) = self.known.insert(key, Known::Cached(0)) {
            self.ghosts_taken -= size;
            self.main.push(key, self.size);
        } else {
            self.small.push(key, self.size);
        }
        false
    }

    fn evict_small(&mut self) {
        while let Some(key) = self.small.pop(self.size) {
            if let Some(Known::Cached(uses)) = self.known.get_mut(&key)
                && *uses > 1
            {
                *uses = 0;
                self.main.push(key, self.size);
                while self.main.taken > self.main_max {
                    self.evict_main();
                }
                continue;
            }
            return self.remember(key);
        }
    }

    fn remember(&mut self, key: u64) {
        self.evictions += 1;
        self.known.insert(key, Known::Ghost(self.evictions));
        self.ghosts.push_back((key, self.evictions));
        self.ghosts_taken += (self.size)(key);
        while self.ghosts_taken > self.main_max {
            let (oldest, time) = self.ghosts.pop_front().expect("it is not empty");
            if self.known.get(&oldest) == Some(&Known::Ghost(time)) {
                self.known.remove(&oldest);
                self.ghosts_taken -= (self.size)(oldest);
            }
        }
    }

    fn evict_main(&mut self) {
        let Some(mut key) = self.main.pop(self.size) else {
            // A large key may need more than the main queue has.
            return self.evict_small();
        };
        while let Some(Known::Cached(uses)) = self.known.get_mut(&key)
            && *uses > 0
        {
            *uses -= 1;
            self.main.push(key, self.size);
            key = self.main.pop(self.size).expect("one was pushed");
        }
        self.known.remove(&key);
    }
}
