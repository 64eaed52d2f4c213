use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use slotmesh_slots::MonoTime;

/// Which messages arrive, and when. Nodes are numbered by their address.
pub(crate) struct Network {
    /// How many partitions block the way from one address to another.
    blocked: BTreeMap<(usize, usize), u32>,
    /// Extra delay of slow addresses.
    slow: BTreeMap<usize, Duration>,
    pub(crate) loss: f64,
    rng: StdRng,
}

/// A small share of the messages is late.
const LATE_SHARE: f64 = 0.01;

impl Network {
    pub(crate) fn new(loss: f64, rng: StdRng) -> Self {
        Self { blocked: BTreeMap::new(), slow: BTreeMap::new(), loss, rng }
    }

    pub(crate) fn block(&mut self, from: usize, to: usize) {
        *self.blocked.entry((from, to)).or_default() += 1;
    }

    pub(crate) fn unblock(&mut self, from: usize, to: usize) {
        let count = self.blocked.entry((from, to)).or_default();
        *count = count.saturating_sub(1);
    }

    pub(crate) fn slow_down(&mut self, node: usize, by: Option<Duration>) {
        match by {
            Some(by) => self.slow.insert(node, by),
            None => self.slow.remove(&node),
        };
    }

    /// Whether anything gets from one to the other.
    pub(crate) fn is_open(&self, from: usize, to: usize) -> bool {
        self.blocked.get(&(from, to)).is_none_or(|count| *count == 0)
    }

    /// Whether both hear each other.
    pub(crate) fn is_linked(&self, a: usize, b: usize) -> bool {
        self.is_open(a, b) && self.is_open(b, a)
    }

    /// How long a message takes that does not get lost.
    pub(crate) fn delay(&mut self, from: usize, to: usize) -> Duration {
        let late = self.rng.random_bool(LATE_SHARE);
        let micros = self.rng.random_range(if late { 5_000..120_000 } else { 100..2_000u64 });
        let mut extra = Duration::ZERO;
        for node in [from, to] {
            if let Some(by) = self.slow.get(&node) {
                extra += by.mul_f64(self.rng.random_range(0.1..1.0));
            }
        }
        Duration::from_micros(micros) + extra
    }

    /// When a message that may get lost arrives.
    pub(crate) fn carry(&mut self, from: usize, to: usize, now: MonoTime) -> Option<MonoTime> {
        let lost = self.loss > 0.0 && self.rng.random_bool(self.loss);
        (!lost && self.is_open(from, to)).then(|| now + self.delay(from, to))
    }
}
