//! The nodes of one run and their clients.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slotmesh_consensus::{Consensus, ConsensusConfig};
use slotmesh_control::log::{LogMachine, ProposeError, RestoreError};
use slotmesh_slots::NodeId;
use tokio::time::{Instant, sleep};

use super::clocks::Rate;
use super::oracle::{Oracle, Sight, Voters, claims, unknown};
use super::wire::{Air, End, Peer};
use crate::fabric::{Journal, node};

/// What a call may take beyond its deadline: a tick of the timer.
const TICK: Duration = Duration::from_millis(2);

/// How far apart clocks run, in parts per million to either side: five percent between the fastest and the slowest.
const SKEW: u64 = 25_000;

/// A journal that the oracle reads along.
struct Watched {
    node: NodeId,
    journal: Journal,
    air: Arc<Air>,
}

impl LogMachine for Watched {
    fn apply(&mut self, index: u64, command: &[u8]) -> Vec<u8> {
        self.air.oracle.apply(self.node, index, command);
        self.air.trace((self.node, index, command));
        self.journal.apply(index, command)
    }

    fn snapshot(&self) -> Vec<u8> {
        self.journal.snapshot()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        self.journal.restore(snapshot)?;
        self.air.oracle.restore(self.node, &self.journal.entries);
        Ok(())
    }
}

/// The settings of a run. openraft draws the patience of each node out of a range at its start, by a generator that takes no
/// seed; so the seed draws it here, and leaves openraft a range of one.
#[derive(Clone, Copy)]
struct Patience {
    shortest: u64,
    spread: u64,
}

pub struct World {
    pub air: Arc<Air>,
    patience: Patience,
    origin: Instant,
    next_node: Mutex<u64>,
    next_command: Mutex<u64>,
    /// A leader that was asked to leave itself out, until a change of voters has succeeded.
    pub leaver: Mutex<Option<NodeId>>,
    /// Held by who changes the voters.
    pub changing: Arc<tokio::sync::Mutex<()>>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let origin = Instant::now();
        let patience = Patience {
            shortest: rng.random_range(200..260),
            spread: [10, 40, 90][rng.random_range(0..3)],
        };
        let oracle = Oracle::new(origin, Duration::from_millis(patience.shortest));
        let air = Arc::new(Air::new(rng, oracle));
        Self {
            air,
            patience,
            origin,
            next_node: Mutex::new(1),
            next_command: Mutex::new(1),
            leaver: Mutex::default(),
            changing: Arc::default(),
        }
    }

    /// Draws from a range.
    pub fn draw(&self, range: std::ops::Range<u64>) -> u64 {
        self.air.net.lock().rng.random_range(range)
    }

    pub fn pick<T: Copy>(&self, of: &[T]) -> Option<T> {
        let last = of.len().checked_sub(1)? as u64;
        of.get(self.draw(0..last + 1) as usize).copied()
    }

    fn config(&self) -> ConsensusConfig {
        let patience = self.patience.shortest + self.draw(0..self.patience.spread);
        ConsensusConfig {
            election_min: Duration::from_millis(patience),
            election_max: Duration::from_millis(patience + 1),
            snapshot_after: 25,
            snapshot_keep: 5,
            log_bytes_max: 16 * 1024,
            proposals_max: 8,
            catch_up: Duration::from_millis(1500),
            snapshot_timeout: Duration::from_millis(500),
            ..ConsensusConfig::default()
        }
    }

    /// Starts a node that nobody knows of yet.
    pub async fn start(&self) -> NodeId {
        // Ticks of nodes that start together would fall together for ever, as no true clock has it.
        sleep(Duration::from_millis(self.draw(1..75))).await;
        let node = {
            let mut next = self.next_node.lock();
            *next += 1;
            node(*next - 1)
        };
        let rate = Rate::new(self.origin, self.draw(1_000_000 - SKEW..1_000_001 + SKEW));
        let air = Arc::clone(&self.air);
        let machine = Watched { node, journal: Journal::default(), air: Arc::clone(&air) };
        let machine = Arc::new(Mutex::new(machine));
        let wire = Arc::new(End { from: node, air });
        let started = Consensus::start(node, self.config(), wire, machine, rate.clock()).await;
        let peer = Peer { consensus: started.unwrap(), rate };
        self.air.net.lock().peers.insert(node, peer);
        node
    }

    pub async fn found(&self, voters: u64) {
        let mut founders = Vec::new();
        for _ in 0..voters {
            founders.push(self.start().await);
        }
        self.air.oracle.founded(founders.iter().copied().collect());
        if let Some(first) = self.at(founders[0]) {
            first.initialize(founders).await.unwrap();
        }
    }

    pub fn at(&self, node: NodeId) -> Option<Consensus> {
        self.air.net.lock().peers.get(&node).map(|peer| peer.consensus.clone())
    }

    pub fn live(&self) -> Vec<NodeId> {
        self.air.net.lock().peers.keys().copied().collect()
    }

    /// The node that leads with a quorum behind it.
    pub fn leader(&self) -> Option<NodeId> {
        let net = self.air.net.lock();
        let claims = |(node, peer): (&NodeId, &Peer)| {
            let status = peer.consensus.status();
            claims(&Sight { node: *node, rate: peer.rate, status }).then_some(*node)
        };
        net.peers.iter().find_map(claims)
    }

    /// Everybody that believes to lead.
    pub fn believers(&self) -> Vec<NodeId> {
        let net = self.air.net.lock();
        let leads = |peer: &Peer| peer.consensus.status().is_leader;
        net.peers.iter().filter(|(_, peer)| leads(peer)).map(|(node, _)| *node).collect()
    }

    /// Whether every set of voters that may be in force keeps a majority without this node, and without a leader that leaves:
    /// once that has logged the set without itself it stands no more, and votes for nobody who lacks that entry.
    pub fn can_lose(&self, node: NodeId) -> bool {
        let leaver = *self.leaver.lock();
        let stays = |other: &NodeId| *other != node && Some(*other) != leaver;
        let live: BTreeSet<NodeId> = self.live().into_iter().filter(stays).collect();
        let majority = |voters: &Voters| voters.intersection(&live).count() * 2 > voters.len();
        self.air.oracle.possible_voters().iter().all(majority)
    }

    /// Takes the node away without a word.
    pub async fn crash(&self, node: NodeId) {
        let gone = self.air.net.lock().peers.remove(&node);
        if let Some(gone) = gone {
            self.air.trace(("crash", node));
            let runs = gone.consensus.watch().has_changed().is_ok();
            self.air.oracle.ensure(runs, || format!("the engine of {node} had died"));
            gone.consensus.shutdown().await;
        }
    }

    /// Proposes a command of its own there, and holds the node to what it says of it.
    pub async fn propose(&self, at: NodeId, deadline: Duration) -> bool {
        let Some(consensus) = self.at(at) else { return false };
        let id = {
            let mut next = self.next_command.lock();
            *next += 1;
            *next
        };
        let size = if self.draw(0..20) == 0 { 4000 } else { self.draw(0..100) };
        let command = [&id.to_be_bytes()[..], &vec![0; size as usize]].concat();
        let started = Instant::now();
        let outcome = consensus.propose(command, deadline).await;
        self.air.trace((at, id, format!("{outcome:?}")));
        self.air.oracle.ensure(started.elapsed() <= deadline + TICK, || {
            format!("a proposal at {at} took {:?}, not {deadline:?}", started.elapsed())
        });
        self.judge(at, id, &outcome);
        outcome.is_ok()
    }

    fn judge(&self, at: NodeId, id: u64, outcome: &Result<Vec<u8>, ProposeError>) {
        let oracle = &self.air.oracle;
        match outcome {
            Ok(outcome) => oracle.acknowledge(id, outcome),
            Err(error) => {
                oracle.count(match error {
                    ProposeError::NotLeader { .. } => "proposal refused: not leader",
                    ProposeError::NoQuorum => "proposal refused: no quorum",
                    ProposeError::Busy => "proposal refused: busy",
                    ProposeError::Timeout => "proposal unknown: deadline",
                    ProposeError::LeadershipLost => "proposal unknown: taken back",
                    ProposeError::Stopped => "proposal unknown: stopped",
                    _ => "proposal: another error",
                });
                if !unknown(error) {
                    oracle.refuse(id);
                }
                let stopped = *error == ProposeError::Stopped;
                oracle.ensure(!stopped || self.at(at).is_none(), || format!("{at} stopped"));
            }
        }
    }

    /// Asks the leader for these voters.
    pub async fn set_voters(&self, wanted: &Voters) -> Option<Result<(), ProposeError>> {
        let leader = self.leader()?;
        let consensus = self.at(leader)?;
        if !wanted.contains(&leader) {
            if !self.can_lose(leader) {
                return None;
            }
            *self.leaver.lock() = Some(leader);
        }
        let config = self.config();
        let deadline = config.catch_up
            + 6 * Duration::from_millis(self.patience.shortest + self.patience.spread);
        self.air.oracle.begin_change(wanted.clone());
        let started = Instant::now();
        let outcome = consensus.set_voters(wanted.iter().copied().collect()).await;
        self.air.trace((leader, wanted, format!("{outcome:?}")));
        self.air.oracle.end_change(&outcome);
        if outcome.is_ok() {
            *self.leaver.lock() = None;
        }
        self.air.oracle.ensure(started.elapsed() <= deadline + TICK, || {
            format!("a change of voters took {:?}, not {deadline:?}", started.elapsed())
        });
        Some(outcome)
    }
}
