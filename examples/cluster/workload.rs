//! What one node does: plays its third of the trace through `get_or_load`, updates profiles, writes entries that must
//! survive, and checks every value it reads.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use slotmesh::{Cache, CallOptions, Node, OpError, PutOptions};

use crate::Failure;
use crate::histogram::Histogram;
use crate::protocol::{Tick, Total, unix_ms};
use crate::source::{PROFILES, Source, object};

/// Requests under way at a time in each node.
const TASKS: usize = 24;

/// Every so many requests of a task one reads a profile, one updates a profile, one writes an entry that must survive.
const PROFILE_EVERY: usize = 10;
const UPDATE_EVERY: usize = 101;
const LEDGER_EVERY: usize = 53;

/// L1 may serve an overwritten value for a tenth of a second; the check allows it, and half a second for the update's own round.
const STALENESS_ALLOWED: Duration = Duration::from_millis(600);

/// How often the acknowledged versions are read from the source.
const FLOOR_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) struct Workload {
    pub(crate) node: Node,
    pub(crate) objects: Cache<u32, String>,
    pub(crate) profiles: Cache<u32, u64>,
    pub(crate) source: Arc<Mutex<Source>>,
    pub(crate) trace: Arc<Vec<u32>>,
    pub(crate) index: usize,
    /// Names the process, so that a replacement writes other ledger entries than its predecessor.
    pub(crate) writer: u64,
    pub(crate) ledger: Mutex<File>,
    /// One update at a time: two of the same profile could otherwise reach the cache in the wrong order.
    updating: tokio::sync::Mutex<()>,
    counts: Counts,
    floors: Mutex<VecDeque<(Instant, Vec<u64>)>>,
    latencies: Mutex<Histogram>,
    stopped: AtomicBool,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    loads: AtomicU64,
    acked: AtomicU64,
    wrong: AtomicU64,
    errors: AtomicU64,
    written: AtomicU64,
}

/// What a workload is made of.
pub(crate) struct Parts {
    pub(crate) node: Node,
    pub(crate) objects: Cache<u32, String>,
    pub(crate) profiles: Cache<u32, u64>,
    pub(crate) dir: PathBuf,
    pub(crate) index: usize,
    pub(crate) trace: Vec<u32>,
}

impl Workload {
    pub(crate) fn new(parts: Parts) -> Result<Arc<Self>, Failure> {
        let writer = parts.node.id().get();
        let ledger = File::create(ledger_path(&parts.dir, writer))?;
        Ok(Arc::new(Self {
            node: parts.node,
            objects: parts.objects,
            profiles: parts.profiles,
            source: Arc::new(Mutex::new(Source::open(&parts.dir.join("source.sqlite"))?)),
            trace: Arc::new(parts.trace),
            index: parts.index,
            writer,
            ledger: Mutex::new(ledger),
            updating: tokio::sync::Mutex::default(),
            counts: Counts::default(),
            floors: Mutex::default(),
            latencies: Mutex::default(),
            stopped: AtomicBool::new(false),
        }))
    }

    pub(crate) fn start(self: &Arc<Self>) {
        for task in 0..TASKS {
            tokio::spawn(Arc::clone(self).play(task));
        }
        tokio::spawn(Arc::clone(self).read_floors());
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn tick(&self, last: &mut Tick) -> Tick {
        let now = Tick {
            unix_ms: unix_ms(),
            requests: self.counts.requests.load(Ordering::Relaxed),
            errors: self.counts.errors.load(Ordering::Relaxed),
            loads: self.counts.loads.load(Ordering::Relaxed),
            ..Tick::default()
        };
        let tick = Tick {
            unix_ms: now.unix_ms,
            requests: now.requests - last.requests,
            errors: now.errors - last.errors,
            loads: now.loads - last.loads,
            buckets: self.latencies.lock().take(),
        };
        *last = now;
        tick
    }

    pub(crate) fn total(&self) -> Total {
        let (objects, profiles) = (self.objects.stats(), self.profiles.stats());
        Total {
            requests: self.counts.requests.load(Ordering::Relaxed),
            l1_hits: objects.l1_hits + profiles.l1_hits,
            cluster_hits: objects.cluster_hits + profiles.cluster_hits,
            loads: self.counts.loads.load(Ordering::Relaxed),
            acked_writes: self.counts.acked.load(Ordering::Relaxed),
            wrong_values: self.counts.wrong.load(Ordering::Relaxed),
            errors: self.counts.errors.load(Ordering::Relaxed),
        }
    }

    async fn play(self: Arc<Self>, task: usize) {
        // Task t of node n takes each (3 × TASKS)th access, so that the nodes share the trace.
        let mut at = self.index + 3 * task;
        let mut turn = task;
        while !self.stopped.load(Ordering::Relaxed) {
            turn += 1;
            let began = Instant::now();
            let result = if turn.is_multiple_of(UPDATE_EVERY) {
                self.update(turn).await
            } else if turn.is_multiple_of(LEDGER_EVERY) {
                self.write_ledger().await
            } else if turn.is_multiple_of(PROFILE_EVERY) {
                self.read_profile((turn as u32).wrapping_mul(2_654_435_761) % PROFILES).await
            } else {
                at = (at + 3 * TASKS) % self.trace.len();
                self.read_object(self.trace[at]).await
            };
            self.counts.requests.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = result {
                self.counts.errors.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%error, "request failed");
            }
            self.latencies.lock().record(began.elapsed().as_secs_f64() * 1e6);
            tokio::task::yield_now().await;
        }
    }

    async fn read_object(self: &Arc<Self>, key: u32) -> Result<(), Failure> {
        let this = Arc::clone(self);
        let load = move |key: u32| async move {
            this.counts.loads.fetch_add(1, Ordering::Relaxed);
            this.source.lock().object(key)
        };
        let value = self.objects.get_or_load(&key, load).await?;
        self.check(value.is_some_and(|value| *value == object(key)), || format!("object {key}"));
        Ok(())
    }

    async fn read_profile(self: &Arc<Self>, key: u32) -> Result<(), Failure> {
        let began = Instant::now();
        let this = Arc::clone(self);
        let load = move |key: u32| async move {
            this.counts.loads.fetch_add(1, Ordering::Relaxed);
            this.source.lock().profile(key).map(Some)
        };
        let value = self.profiles.get_or_load(&key, load).await?;
        let version = value.map_or(0, |version| *version);
        let floor = self.floor(key, began);
        let fine = version >= floor && version <= self.source.lock().profile(key)?;
        self.check(fine, || format!("profile {key}: version {version}, at least {floor} expected"));
        Ok(())
    }

    /// Updates one of this node's profiles in the source, then in the cache, until that has acknowledged it.
    async fn update(&self, turn: usize) -> Result<(), Failure> {
        let mine = (turn as u32).wrapping_mul(40_503) % (PROFILES / 3);
        let key = mine * 3 + self.index as u32;
        let _alone = self.updating.lock().await;
        let version = self.source.lock().update(key)?;
        self.profiles.put(&key, version).await?;
        self.source.lock().acknowledged(key, version)?;
        Ok(())
    }

    /// Writes an entry that is nowhere but in the cluster, and notes it once it is acknowledged.
    async fn write_ledger(&self) -> Result<(), Failure> {
        let number = self.counts.written.fetch_add(1, Ordering::Relaxed);
        let (key, value) = ledger_entry(self.writer, number);
        let call = CallOptions { timeout: Some(Duration::from_secs(3)), ..CallOptions::default() };
        self.node.put(key, value, PutOptions { call, ..PutOptions::default() }).await?;
        // Written through at once: a killed process keeps what it noted.
        writeln!(self.ledger.lock(), "{number}")?;
        self.counts.acked.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn check(&self, fine: bool, what: impl FnOnce() -> String) {
        if !fine {
            self.counts.wrong.fetch_add(1, Ordering::Relaxed);
            tracing::error!("wrong value: {}", what());
        }
    }

    /// The version of a profile that was acknowledged so long before the read began that no L1 may still hold an older one.
    fn floor(&self, key: u32, began: Instant) -> u64 {
        let floors = self.floors.lock();
        let old = floors.iter().rev().find(|(at, _)| *at + STALENESS_ALLOWED <= began);
        old.and_then(|(_, versions)| versions.get(key as usize).copied()).unwrap_or(0)
    }

    async fn read_floors(self: Arc<Self>) {
        while !self.stopped.load(Ordering::Relaxed) {
            let read = self.source.lock().floors();
            if let Ok(versions) = read {
                let mut floors = self.floors.lock();
                floors.push_back((Instant::now(), versions));
                let kept =
                    (STALENESS_ALLOWED.as_millis() / FLOOR_INTERVAL.as_millis()) as usize * 2;
                if floors.len() > kept {
                    floors.pop_front();
                }
            }
            tokio::time::sleep(FLOOR_INTERVAL).await;
        }
    }
}

fn ledger_path(dir: &Path, writer: u64) -> PathBuf {
    dir.join(format!("acked-{writer:016x}"))
}

fn ledger_entry(writer: u64, number: u64) -> (String, String) {
    (format!("ledger:{writer:016x}:{number}"), format!("{writer:016x}/{number}"))
}

/// Reads every write that any process noted as acknowledged; returns how many there are and how many are gone or wrong.
pub(crate) async fn verify(node: &Node, dir: &Path) -> Result<(u64, u64), Failure> {
    let (mut acked, mut lost) = (0, 0);
    for file in std::fs::read_dir(dir)? {
        let path = file?.path();
        let name =
            path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(writer) = name.strip_prefix("acked-") else { continue };
        let writer = u64::from_str_radix(writer, 16)?;
        for line in std::fs::read_to_string(&path)?.lines() {
            // The last line of a killed process may be cut; it was acknowledged all the same, but which one is unknown.
            let Ok(number) = line.parse() else { continue };
            let (key, expected) = ledger_entry(writer, number);
            let found = read_patiently(node, key.as_bytes()).await?;
            acked += 1;
            lost += u64::from(found.as_deref() != Some(expected.as_bytes()));
        }
    }
    Ok((acked, lost))
}

async fn read_patiently(node: &Node, key: &[u8]) -> Result<Option<Vec<u8>>, OpError> {
    let mut tries = 0;
    loop {
        match node.get(key).await {
            Ok(value) => return Ok(value.map(|value| value.value.to_vec())),
            Err(_) if tries < 5 => tries += 1,
            Err(error) => return Err(error),
        }
    }
}
