//! Changes that the source gets a moment after the cluster (write-behind): a bounded queue in the process that made them, which keeps of each
//! key the last one.
//!
//! One task writes at a time, so that of one key nothing overtakes. What the source refuses goes again, alone, so that one change which it
//! never takes does not hold up the others.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use slotmesh_slots::Version;
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::error::CacheError;
use crate::key::CacheKey;
use crate::store::{Change, Writer};

/// The pause after the first failure; it doubles with each that follows, up to the longest.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How changes go to the source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// How long a change waits for others to go with it, and for later ones of its key that take its place.
    pub(crate) delay: Duration,
    pub(crate) batch_max: usize,
    pub(crate) unwritten_max: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self { delay: Duration::from_secs(1), batch_max: 100, unwritten_max: 10_000 }
    }
}

/// The changes of one cache that the source has not got yet.
pub(crate) struct Behind<K, V> {
    writer: Writer<K, V>,
    pace: Pace,
    room: Arc<Semaphore>,
    queue: Mutex<Queue<K, V>>,
    /// The task has something to do sooner than it thought.
    wake: Notify,
    /// Something was written.
    progress: Notify,
    written: AtomicU64,
    failures: AtomicU64,
}

struct Queue<K, V> {
    waiting: HashMap<K, Unwritten<V>>,
    /// The keys of those that wait, in the order of their turns.
    turns: BTreeMap<u64, K>,
    /// What is being written.
    in_hand: HashMap<K, Unwritten<V>>,
    /// Of the next change.
    next: u64,
    /// Changes before this one do not wait for their time.
    hurry_until: u64,
    runs: bool,
}

struct Unwritten<V> {
    value: Option<Arc<V>>,
    version: Option<Version>,
    turn: u64,
    /// When it came, or the first one of its key in whose place it is.
    number: u64,
    since: Instant,
    has_failed: bool,
    _room: OwnedSemaphorePermit,
}

/// Room for a change.
pub(crate) struct Room(OwnedSemaphorePermit);

impl<K: CacheKey, V: Send + Sync + 'static> Behind<K, V> {
    pub(crate) fn new(writer: Writer<K, V>, pace: Pace) -> Arc<Self> {
        let queue = Queue {
            waiting: HashMap::new(),
            turns: BTreeMap::new(),
            in_hand: HashMap::new(),
            next: 0,
            hurry_until: 0,
            runs: false,
        };
        Arc::new(Self {
            writer,
            pace,
            room: Arc::new(Semaphore::new(pace.unwritten_max.min(Semaphore::MAX_PERMITS))),
            queue: Mutex::new(queue),
            wake: Notify::new(),
            progress: Notify::new(),
            written: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }

    /// Waits for room for one more change. Cancellation safe.
    pub(crate) async fn room(&self, patience: Duration) -> Result<Room, CacheError> {
        match timeout(patience, Arc::clone(&self.room).acquire_owned()).await {
            Ok(Ok(room)) => Ok(Room(room)),
            _ => Err(CacheError::TooManyUnwritten { max: self.pace.unwritten_max }),
        }
    }

    /// Takes a change that the cluster has, in place of an older one of its key.
    pub(crate) fn push(self: &Arc<Self>, runtime: &Handle, change: Change<K, V>, Room(room): Room) {
        let Change { key, value, version } = change;
        let mut queue = self.queue.lock();
        let Queue { waiting, in_hand, .. } = &*queue;
        let newest = waiting.get(&key).or(in_hand.get(&key)).and_then(|it| it.version);
        if newest > version {
            return;
        }
        if let Some(was) = queue.waiting.get_mut(&key) {
            was.value = value;
            was.version = version;
            return;
        }
        let (number, since) = (queue.next, Instant::now());
        queue.next += 1;
        queue.turns.insert(number, key.clone());
        let turn = number;
        let it = Unwritten { value, version, turn, number, since, has_failed: false, _room: room };
        queue.waiting.insert(key, it);
        let is_full = queue.waiting.len() >= self.pace.batch_max;
        self.keep_running(&mut queue, runtime);
        drop(queue);
        if is_full {
            self.wake.notify_one();
        }
    }

    /// What the source will get of this key.
    pub(crate) fn unwritten(&self, key: &K) -> Option<Option<Arc<V>>> {
        let queue = self.queue.lock();
        let it = queue.waiting.get(key).or_else(|| queue.in_hand.get(key));
        it.map(|it| it.value.clone())
    }

    /// Waits until the source has all that was pushed before. Cancellation safe.
    pub(crate) async fn flush(self: &Arc<Self>, runtime: &Handle) {
        let until = {
            let mut queue = self.queue.lock();
            queue.hurry_until = queue.next;
            queue.next
        };
        self.wake.notify_one();
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            {
                let mut queue = self.queue.lock();
                if !queue.has_before(until) {
                    return;
                }
                // The runtime that it ran on may be gone.
                self.keep_running(&mut queue, runtime);
            }
            progress.await;
        }
    }

    /// Written, failed attempts, and what is not written yet.
    pub(crate) fn counts(&self) -> (u64, u64, usize) {
        let queue = self.queue.lock();
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.written), of(&self.failures), queue.waiting.len() + queue.in_hand.len())
    }

    fn keep_running(self: &Arc<Self>, queue: &mut Queue<K, V>, runtime: &Handle) {
        if !queue.runs && !queue.waiting.is_empty() {
            queue.runs = true;
            drop(runtime.spawn(Arc::clone(self).run()));
        }
    }

    /// Writes until nothing is left.
    async fn run(self: Arc<Self>) {
        let mut running = Running { behind: &*self, is_over: false };
        let mut failures: u32 = 0;
        while let Some(changes) = self.due().await {
            let (count, outcome) = (changes.len(), self.writer.write(changes).await);
            match outcome {
                Ok(()) => {
                    failures = 0;
                    self.written.fetch_add(count as u64, Ordering::Relaxed);
                    self.queue.lock().in_hand.clear();
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    let pause = (PAUSE * 2_u32.saturating_pow(failures - 1)).min(PAUSE_MAX);
                    tracing::warn!(%error, count, ?pause, "the source did not take changes");
                    self.queue.lock().give_back();
                    self.rest(pause).await;
                }
            }
            self.progress.notify_waiters();
        }
        running.is_over = true;
    }

    /// Waits for the next changes whose time has come; `None` when there are none at all, and this task's run is over.
    async fn due(&self) -> Option<Vec<Change<K, V>>> {
        loop {
            let due = {
                let mut queue = self.queue.lock();
                let Some(due) = queue.due(self.pace) else {
                    queue.runs = false;
                    return None;
                };
                if due <= Instant::now() {
                    return Some(queue.take(self.pace.batch_max));
                }
                due
            };
            let _early =
                timeout(due.saturating_duration_since(Instant::now()), self.wake.notified()).await;
        }
    }

    /// Rests after a failure, unless somebody who waits for all to be written comes.
    async fn rest(&self, pause: Duration) {
        let hurried = self.queue.lock().hurry_until;
        let hurry = async {
            while self.queue.lock().hurry_until == hurried {
                self.wake.notified().await;
            }
        };
        let _early = timeout(pause, hurry).await;
    }
}

impl<K: CacheKey, V> Queue<K, V> {
    /// When the first of those that wait is to be written.
    fn due(&self, pace: Pace) -> Option<Instant> {
        let (turn, key) = self.turns.first_key_value()?;
        let first = self.waiting.get(key)?;
        let at_once = self.waiting.len() >= pace.batch_max || *turn < self.hurry_until;
        Some(if at_once || first.has_failed { first.since } else { first.since + pace.delay })
    }

    /// The next ones: many, or one that failed before.
    fn take(&mut self, most: usize) -> Vec<Change<K, V>> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some((turn, key)) = self.turns.first_key_value().map(|(t, k)| (*t, k.clone()))
            && let Some(failed) = self.waiting.get(&key).map(|it| it.has_failed)
        {
            if failed && !taken.is_empty() {
                break;
            }
            self.turns.remove(&turn);
            if let Some(it) = self.waiting.remove(&key) {
                let (value, version) = (it.value.clone(), it.version);
                taken.push(Change { key: key.clone(), value, version });
                self.in_hand.insert(key, it);
            }
            if failed {
                break;
            }
        }
        taken
    }

    /// What was not written waits again, unless there is something newer of its key: in its turn, and after all others if it was alone.
    #[expect(
        clippy::iter_over_hash_type,
        reason = "each goes back to the turn it had, whatever the order"
    )]
    fn give_back(&mut self) {
        let alone = self.in_hand.len() == 1;
        for (key, mut it) in std::mem::take(&mut self.in_hand) {
            if let Some(newer) = self.waiting.get_mut(&key) {
                newer.number = it.number;
                continue;
            }
            it.has_failed = true;
            if alone {
                it.turn = self.next;
                self.next += 1;
            }
            self.turns.insert(it.turn, key.clone());
            self.waiting.insert(key, it);
        }
    }

    /// Whether anything that came before is not written.
    fn has_before(&self, number: u64) -> bool {
        self.waiting.values().chain(self.in_hand.values()).any(|it| it.number < number)
    }
}

/// The task at work. Where its runtime drops it, another one goes on.
struct Running<'a, K: CacheKey, V> {
    behind: &'a Behind<K, V>,
    is_over: bool,
}

impl<K: CacheKey, V> Drop for Running<'_, K, V> {
    fn drop(&mut self) {
        if !self.is_over {
            let mut queue = self.behind.queue.lock();
            queue.give_back();
            queue.runs = false;
            drop(queue);
            self.behind.progress.notify_waiters();
        }
    }
}
