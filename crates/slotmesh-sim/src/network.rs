use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use slotmesh_slots::MonoTime;

/// What a way carries: nodes have sockets of their own for control, and one a lane for calls and replication.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Plane {
    Control,
    Lanes,
}

/// A way from one address to another.
pub(crate) type Way = (Plane, usize, usize);

/// Which messages arrive, and when. Nodes are numbered by their address.
pub(crate) struct Network {
    /// How many partitions block a way.
    blocked: BTreeMap<Way, u32>,
    /// Extra delay of slow addresses.
    slow: BTreeMap<usize, Duration>,
    /// Addresses that hear late what the brains of others tell them.
    late: BTreeMap<usize, Duration>,
    pub(crate) loss: f64,
    /// Share of messages of which the network or a sender that hears no answer makes two.
    pub(crate) twice: f64,
    /// What every message takes at least.
    latency: Duration,
    rng: StdRng,
}

/// A small share of the messages is late.
const LATE_SHARE: f64 = 0.01;

/// How much later than the first a second one may come that was sent again on a new connection.
const SENT_AGAIN: Duration = Duration::from_secs(1);

/// Share of the second ones that were.
const SENT_AGAIN_SHARE: f64 = 0.2;

impl Network {
    pub(crate) fn new(loss: f64, latency: Duration, rng: StdRng) -> Self {
        let (blocked, slow, late) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { blocked, slow, late, loss, twice: 0.0, latency, rng }
    }

    pub(crate) fn block(&mut self, way: Way) {
        *self.blocked.entry(way).or_default() += 1;
    }

    pub(crate) fn unblock(&mut self, way: Way) {
        let count = self.blocked.entry(way).or_default();
        *count = count.saturating_sub(1);
    }

    pub(crate) fn slow_down(&mut self, node: usize, by: Option<Duration>) {
        match by {
            Some(by) => self.slow.insert(node, by),
            None => self.slow.remove(&node),
        };
    }

    pub(crate) fn make_late(&mut self, node: usize, by: Option<Duration>) {
        match by {
            Some(by) => self.late.insert(node, by),
            None => self.late.remove(&node),
        };
    }

    /// How much longer than anything else the messages of other brains take to this address.
    pub(crate) fn lateness(&self, node: usize) -> Duration {
        self.late.get(&node).copied().unwrap_or_default()
    }

    /// Whether anything gets from one to the other.
    pub(crate) fn is_open(&self, (plane, from, to): Way) -> bool {
        self.blocked.get(&(plane, from, to)).is_none_or(|count| *count == 0)
    }

    /// Whether both hear each other.
    pub(crate) fn is_linked(&self, plane: Plane, a: usize, b: usize) -> bool {
        self.is_open((plane, a, b)) && self.is_open((plane, b, a))
    }

    /// How long a message takes that does not get lost.
    pub(crate) fn delay(&mut self, from: usize, to: usize) -> Duration {
        let late = self.rng.random_bool(LATE_SHARE);
        let micros = self.rng.random_range(if late { 5_000..120_000 } else { 100..2_000u64 });
        let mut extra = self.latency;
        for node in [from, to] {
            if let Some(by) = self.slow.get(&node) {
                extra += by.mul_f64(self.rng.random_range(0.1..1.0));
            }
        }
        Duration::from_micros(micros) + extra
    }

    /// When a message that may get lost arrives.
    pub(crate) fn carry(&mut self, way: Way, now: MonoTime) -> Option<MonoTime> {
        let lost = self.loss > 0.0 && self.rng.random_bool(self.loss);
        let (_, from, to) = way;
        (!lost && self.is_open(way)).then(|| now + self.delay(from, to))
    }

    /// When a message that is on its way arrives once more, should it do so.
    pub(crate) fn carry_again(&mut self, way: Way, now: MonoTime) -> Option<MonoTime> {
        if self.twice == 0.0 || !self.rng.random_bool(self.twice) {
            return None;
        }
        let again = self.rng.random_bool(SENT_AGAIN_SHARE);
        let wait = SENT_AGAIN.mul_f64(if again { self.rng.random_range(0.0..1.0) } else { 0.0 });
        self.carry(way, now).map(|at| at + wait)
    }
}
