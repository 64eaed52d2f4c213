//! Voters in one process, joined by links that can be cut.

// Each test file and the benchmark use a part of it.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use slotmesh_consensus::{Clock, Consensus, ConsensusConfig, RaftWire, WireError};
use slotmesh_control::log::{LogMachine, ProposeError, RestoreError};
use slotmesh_slots::{MonoTime, NodeId};

/// How long a condition may take to come true, by the test's clock.
const PATIENCE: Duration = Duration::from_secs(20);

/// One way, in each direction.
const DELAY: Duration = Duration::from_micros(250);

pub fn node(number: u64) -> NodeId {
    NodeId::new(number).unwrap()
}

/// Remembers every command and its index; the outcome is its position, from one.
#[derive(Default)]
pub struct Journal {
    pub entries: Vec<(u64, Vec<u8>)>,
    pub restored: usize,
}

impl LogMachine for Journal {
    fn apply(&mut self, index: u64, command: &[u8]) -> Vec<u8> {
        self.entries.push((index, command.to_vec()));
        (self.entries.len() as u64).to_be_bytes().to_vec()
    }

    fn snapshot(&self) -> Vec<u8> {
        let framed = |(index, command): &(u64, Vec<u8>)| {
            [&index.to_be_bytes()[..], &(command.len() as u32).to_be_bytes(), command].concat()
        };
        self.entries.iter().flat_map(framed).collect()
    }

    fn restore(&mut self, mut snapshot: &[u8]) -> Result<(), RestoreError> {
        let mut entries = Vec::new();
        while let Some((index, rest)) = snapshot.split_first_chunk() {
            let (len, rest) = rest.split_first_chunk().unwrap();
            let (command, rest) = rest.split_at(u32::from_be_bytes(*len) as usize);
            entries.push((u64::from_be_bytes(*index), command.to_vec()));
            snapshot = rest;
        }
        self.entries = entries;
        self.restored += 1;
        Ok(())
    }
}

#[derive(Default)]
struct Links {
    peers: BTreeMap<NodeId, Consensus>,
    /// From, to.
    cut: BTreeSet<(NodeId, NodeId)>,
    delay: Duration,
}

struct Wire {
    from: NodeId,
    links: Arc<Mutex<Links>>,
}

impl Wire {
    async fn cross(links: &Mutex<Links>, from: NodeId, to: NodeId) -> Option<Consensus> {
        let delay = links.lock().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if links.lock().cut.contains(&(from, to)) {
            // Silence, not an error: what a black hole does.
            std::future::pending::<()>().await;
        }
        links.lock().peers.get(&to).cloned()
    }
}

impl RaftWire for Wire {
    fn call(
        &self,
        to: NodeId,
        body: Bytes,
        _budget: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, WireError>> + Send>> {
        let (from, links) = (self.from, Arc::clone(&self.links));
        Box::pin(async move {
            let gone = || WireError::Unreachable(String::from("gone"));
            let peer = Self::cross(&links, from, to).await.ok_or_else(gone)?;
            let answer = peer.handle(from, body).await.map_err(|_| gone())?;
            Self::cross(&links, to, from).await.ok_or_else(gone)?;
            Ok(answer)
        })
    }
}

/// Reaches nobody.
pub struct Nowhere;

impl RaftWire for Nowhere {
    fn call(
        &self,
        _to: NodeId,
        _body: Bytes,
        _budget: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, WireError>> + Send>> {
        Box::pin(async { Err(WireError::Timeout) })
    }
}

pub struct Cluster {
    links: Arc<Mutex<Links>>,
    pub journals: BTreeMap<NodeId, Arc<Mutex<Journal>>>,
    config: ConsensusConfig,
    clock: Clock,
}

impl Cluster {
    pub fn new(config: ConsensusConfig) -> Self {
        let origin = tokio::time::Instant::now();
        let clock: Clock = Arc::new(move || {
            MonoTime::from_micros(origin.elapsed().as_micros() as u64 + 1_000_000)
        });
        let links = Arc::new(Mutex::new(Links { delay: DELAY, ..Links::default() }));
        Self { links, journals: BTreeMap::new(), config, clock }
    }

    /// A cluster founded by node 1 that has a leader.
    pub async fn founded(voters: u64, config: ConsensusConfig) -> Self {
        Self::founded_with_delay(voters, config, DELAY).await
    }

    pub async fn founded_with_delay(voters: u64, config: ConsensusConfig, delay: Duration) -> Self {
        let mut cluster = Self::new(config);
        cluster.links.lock().delay = delay;
        for number in 1..=voters {
            cluster.start(number).await;
        }
        cluster.at(node(1)).initialize((1..=voters).map(node).collect()).await.unwrap();
        cluster.leader().await;
        cluster
    }

    /// Starts a node without voters.
    pub async fn start(&mut self, number: u64) -> NodeId {
        let id = node(number);
        let wire = Arc::new(Wire { from: id, links: Arc::clone(&self.links) });
        let journal = Arc::new(Mutex::new(Journal::default()));
        let (config, clock) = (self.config.clone(), Arc::clone(&self.clock));
        let consensus =
            Consensus::start(id, config, wire, Arc::clone(&journal), clock).await.unwrap();
        self.links.lock().peers.insert(id, consensus);
        self.journals.insert(id, journal);
        id
    }

    pub fn now(&self) -> MonoTime {
        (self.clock)()
    }

    pub fn at(&self, id: NodeId) -> Consensus {
        self.links.lock().peers[&id].clone()
    }

    pub fn commands(&self, id: NodeId) -> Vec<Vec<u8>> {
        let journal = self.journals[&id].lock();
        journal.entries.iter().map(|(_, command)| command.clone()).collect()
    }

    pub fn is_up(&self, id: NodeId) -> bool {
        self.links.lock().peers.contains_key(&id)
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.links.lock().peers.keys().copied().collect()
    }

    /// Silences every link of this node, both ways.
    pub fn cut(&self, id: NodeId) {
        for other in self.nodes() {
            self.links.lock().cut.extend([(id, other), (other, id)]);
        }
    }

    pub fn cut_link(&self, from: NodeId, to: NodeId) {
        self.links.lock().cut.insert((from, to));
    }

    pub fn heal(&self) {
        self.links.lock().cut.clear();
    }

    /// Takes the node away without a word.
    pub async fn crash(&self, id: NodeId) {
        let gone = self.links.lock().peers.remove(&id).unwrap();
        gone.shutdown().await;
    }

    /// Takes every node away.
    pub async fn stop(&self) {
        for id in self.nodes() {
            self.crash(id).await;
        }
    }

    /// Waits for a leader with a quorum behind it, in the newest term.
    pub async fn leader(&self) -> NodeId {
        let leader = || {
            let now = self.now();
            let heard = |id: &NodeId| {
                let status = self.at(*id).status();
                let fresh =
                    status.quorum_acked.is_some_and(|at| now - at < Duration::from_millis(150));
                (status.caught_up && fresh).then_some((status.term, *id))
            };
            self.nodes().iter().filter_map(heard).max().map(|found| found.1)
        };
        until("a leader", || leader().is_some()).await;
        leader().unwrap()
    }

    /// Proposes through whoever leads until it is applied; repeats what was not.
    pub async fn commit(&self, command: &[u8]) -> Vec<u8> {
        loop {
            let leader = self.at(self.leader().await);
            match leader.propose(command.to_vec(), Duration::from_secs(1)).await {
                Ok(outcome) => return outcome,
                Err(ProposeError::NotLeader { .. } | ProposeError::NoQuorum) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Waits until these nodes have applied exactly these commands.
    pub async fn applied(&self, nodes: &[NodeId], commands: &[Vec<u8>]) {
        let same = || nodes.iter().all(|id| self.commands(*id) == commands);
        until("the same commands everywhere", same).await;
    }
}

/// Waits until the condition holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"));
}
