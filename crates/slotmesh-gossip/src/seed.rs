use std::net::SocketAddr;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use slotmesh_slots::{MonoTime, NodeId};

/// Seed addresses a node keeps: a DNS name rarely gives more, and each is retried for ever.
pub const SEEDS_MAX: usize = 64;
/// First wait after a seed was tried: a lost datagram costs little, and a seed that starts at the same moment is soon found.
const BACKOFF_MIN: Duration = Duration::from_millis(200);

/// An address tried for ever while no living member stands for it.
#[derive(Debug)]
pub(crate) struct Seed {
    pub(crate) addr: SocketAddr,
    pub(crate) next: MonoTime,
    backoff: Duration,
    token: u32,
    /// Who answered there: its own address may be spelled differently.
    pub(crate) answered_by: Option<NodeId>,
    /// It is this node itself under another name.
    own: bool,
}

/// All seeds.
#[derive(Debug, Default)]
pub(crate) struct Seeds(Vec<Seed>);

impl Seeds {
    pub(crate) fn add(&mut self, addr: SocketAddr, now: MonoTime) {
        if self.0.len() < SEEDS_MAX && self.0.iter().all(|seed| seed.addr != addr) {
            let backoff = BACKOFF_MIN;
            self.0.push(Seed { addr, next: now, backoff, token: 0, answered_by: None, own: false });
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<MonoTime> {
        self.0.iter().filter(|seed| !seed.own).map(|seed| seed.next).min()
    }

    /// The first seed whose time has come, as its position.
    pub(crate) fn due(&self, now: MonoTime) -> Option<(usize, &Seed)> {
        self.0.iter().enumerate().find(|(_, seed)| !seed.own && seed.next <= now)
    }

    /// A living member stands for the seed: look again later, and start over quickly if it is gone then.
    pub(crate) fn satisfied(&mut self, index: usize, interval: Duration, now: MonoTime) {
        if let Some(seed) = self.0.get_mut(index) {
            seed.backoff = BACKOFF_MIN.min(interval);
            seed.next = now + interval;
        }
    }

    /// The seed is being tried with this token; the wait doubles up to `interval`, with jitter against a chorus.
    pub(crate) fn tried(
        &mut self,
        index: usize,
        token: u32,
        interval: Duration,
        rng: &mut StdRng,
        now: MonoTime,
    ) {
        if let Some(seed) = self.0.get_mut(index) {
            seed.token = token;
            seed.next = now + seed.backoff.mul_f64(rng.random_range(0.75..1.25));
            seed.backoff = (seed.backoff * 2).min(interval);
        }
    }

    pub(crate) fn answered(&mut self, token: u32, node: NodeId) {
        if let Some(seed) = self.0.iter_mut().find(|seed| token != 0 && seed.token == token) {
            seed.answered_by = Some(node);
        }
    }

    /// The datagram that tried this seed came back to its sender.
    pub(crate) fn is_own(&mut self, token: u32) {
        if let Some(seed) = self.0.iter_mut().find(|seed| token != 0 && seed.token == token) {
            seed.own = true;
        }
    }
}
