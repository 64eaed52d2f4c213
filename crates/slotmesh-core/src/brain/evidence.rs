use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use slotmesh_control::NodeInfo;
use slotmesh_gossip::Event;
use slotmesh_slots::{Generation, MonoTime, NodeId};

use super::{Brain, NodeEvent, TICK};
use crate::message::Meta;
use crate::wire;

/// How long a refused guard port counts as a witness.
const REFUSAL_COUNTS_FOR: Duration = Duration::from_secs(3);

/// Proofs of death kept; identities are never reused, so old ones only take room.
const PROOFS_MAX: usize = 1024;

/// How long a node of another generation counts as being about after it was heard of: whoever is there is heard of with each
/// attempt to connect, and those are at most 30 s and what an attempt takes apart.
const STRANGER_COUNTS_FOR: Duration = Duration::from_secs(45);

/// What gossip and the connections tell about the other nodes: evidence, not decisions.
#[derive(Debug, Default)]
pub(super) struct Peers {
    known: BTreeMap<NodeId, Peer>,
    proven_dead: BTreeSet<NodeId>,
    guard_refused: BTreeMap<NodeId, MonoTime>,
    guard_asked: BTreeMap<NodeId, MonoTime>,
    /// Generations that nodes told when they connected, until gossip tells of them.
    hosts: BTreeMap<NodeId, Generation>,
    strangers: BTreeMap<NodeId, Stranger>,
    foreign: Option<Stranger>,
}

/// A generation with which ours has nothing in common, and for how many looks it still counts.
#[derive(Debug, Clone, Copy)]
struct Stranger {
    generation: Generation,
    looks_left: u32,
}

impl Stranger {
    fn met(generation: Generation) -> Self {
        Self { generation, looks_left: (STRANGER_COUNTS_FOR.as_millis() / TICK.as_millis()) as u32 }
    }

    /// Whether it still counts after one more look.
    fn lasts(&mut self) -> bool {
        self.looks_left = self.looks_left.saturating_sub(1);
        self.looks_left > 0
    }
}

#[derive(Debug)]
struct Peer {
    addr: SocketAddr,
    info: NodeInfo,
    generation: Option<Generation>,
    health: Health,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Alive,
    Suspect,
    Gone { since: MonoTime },
}

impl Peers {
    pub(super) fn alive(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.known.iter().filter(|(_, peer)| peer.health == Health::Alive).map(|(node, _)| *node)
    }

    pub(super) fn is_alive(&self, node: NodeId) -> bool {
        self.known.get(&node).is_some_and(|peer| peer.health == Health::Alive)
    }

    /// Gossip gave it up, or it is proven dead.
    pub(super) fn is_gone(&self, node: NodeId) -> bool {
        self.is_proven_dead(node) || self.gone_since(node).is_some()
    }

    /// It is gone, or was never heard of: it may have died before this node came, and then gossip has nothing to give up.
    pub(super) fn is_absent(&self, node: NodeId) -> bool {
        self.is_gone(node) || !self.known.contains_key(&node)
    }

    /// Gossip knew it alive, and does not any more.
    pub(super) fn is_failing(&self, node: NodeId) -> bool {
        self.known.get(&node).is_some_and(|peer| peer.health != Health::Alive)
    }

    pub(super) fn gone_since(&self, node: NodeId) -> Option<MonoTime> {
        match self.known.get(&node)?.health {
            Health::Gone { since } => Some(since),
            Health::Alive | Health::Suspect => None,
        }
    }

    pub(super) fn is_proven_dead(&self, node: NodeId) -> bool {
        self.proven_dead.contains(&node)
    }

    pub(super) fn prove_death(&mut self, node: NodeId) {
        if self.proven_dead.len() >= PROOFS_MAX {
            self.proven_dead.pop_first();
        }
        self.proven_dead.insert(node);
    }

    /// Whether anybody beside the leader's ledger noticed that the node fails.
    pub(super) fn is_witnessed(&self, node: NodeId, now: MonoTime) -> bool {
        let unwell = self.known.get(&node).is_none_or(|peer| peer.health != Health::Alive);
        let refused = self.guard_refused.get(&node);
        unwell || refused.is_some_and(|at| now.saturating_since(*at) < REFUSAL_COUNTS_FOR)
    }

    pub(super) fn guard_answered(&mut self, node: NodeId, refused: bool, now: MonoTime) {
        self.guard_asked.remove(&node);
        if refused {
            self.guard_refused.insert(node, now);
        } else {
            self.guard_refused.remove(&node);
        }
    }

    /// Whether to ask the guard port: true once per `every`.
    pub(super) fn ask_guard(&mut self, node: NodeId, every: Duration, now: MonoTime) -> bool {
        let due = self.guard_asked.get(&node).is_none_or(|at| now.saturating_since(*at) >= every);
        if due {
            self.guard_asked.insert(node, now);
        }
        due
    }

    pub(super) fn addr(&self, node: NodeId) -> Option<SocketAddr> {
        self.known.get(&node).map(|peer| peer.addr)
    }

    pub(super) fn info(&self, node: NodeId) -> Option<&NodeInfo> {
        self.known.get(&node).map(|peer| &peer.info)
    }

    /// Live nodes that belong to no cluster yet.
    pub(super) fn candidates(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.with_generation(None)
    }

    /// Those that gossip has not given up.
    fn live(&self) -> impl Iterator<Item = (&NodeId, &Peer)> {
        self.known.iter().filter(|(_, peer)| !matches!(peer.health, Health::Gone { .. }))
    }

    pub(super) fn with_generation(
        &self,
        wanted: Option<Generation>,
    ) -> impl Iterator<Item = NodeId> + '_ {
        self.live().filter(move |(_, peer)| peer.generation == wanted).map(|(node, _)| *node)
    }

    /// Whether a live node is known there.
    pub(super) fn lives_at(&self, addr: SocketAddr) -> bool {
        self.live().any(|(_, peer)| peer.addr == addr)
    }

    /// The node said when it connected to which generation it belongs.
    pub(super) fn note_host(&mut self, node: NodeId, theirs: Generation) {
        if self.hosts.len() < PROOFS_MAX {
            self.hosts.insert(node, theirs);
        }
    }

    /// The connection to the node broke.
    pub(super) fn forget_host(&mut self, node: NodeId) {
        self.hosts.remove(&node);
    }

    /// A generation that a live node reports. Of several the lowest, but of one cluster's the one reformed last.
    pub(super) fn reported_generation(&self) -> Option<Generation> {
        let told = || self.hosts.values().copied();
        let reported = || self.live().filter_map(|(_, peer)| peer.generation).chain(told());
        let latest = |ours: &Generation| !reported().any(|other| other.supersedes(*ours));
        reported().filter(latest).min()
    }

    /// Whether a live node reports this generation.
    pub(super) fn is_reported(&self, generation: Generation) -> bool {
        self.with_generation(Some(generation)).next().is_some()
            || self.hosts.values().any(|theirs| *theirs == generation)
    }

    /// Members about which gossip is not sure yet.
    pub(super) fn is_suspect(&self, node: NodeId) -> bool {
        self.known.get(&node).is_some_and(|peer| peer.health == Health::Suspect)
    }

    /// A generation that neither joins ours nor makes us join it, met without knowing whose it is.
    pub(super) fn note_stranger(&mut self, theirs: Generation) {
        self.foreign = Some(Stranger::met(theirs));
    }

    pub(super) fn note_generation(&mut self, node: NodeId, theirs: Option<Generation>) {
        if let Some(theirs) = theirs.filter(|_| self.strangers.len() < PROOFS_MAX) {
            self.strangers.insert(node, Stranger::met(theirs));
        }
    }

    /// One look at the time: strangers that were not heard of for long are gone.
    pub(super) fn tick_strangers(&mut self) {
        self.strangers.retain(|_, stranger| stranger.lasts());
        if self.foreign.as_mut().is_some_and(|stranger| !stranger.lasts()) {
            self.foreign = None;
        }
    }

    pub(super) fn met_other_generation(&self, ours: Option<Generation>) -> bool {
        let told = self.live().filter_map(|(_, peer)| peer.generation);
        let met = self.strangers.values().chain(&self.foreign).map(|stranger| stranger.generation);
        let mut theirs = told.chain(met);
        // Nodes of a generation that ours supersedes join us by themselves.
        let strange = |ours: Generation, theirs| theirs != ours && !ours.supersedes(theirs);
        ours.is_some_and(|ours| theirs.any(|theirs| strange(ours, theirs)))
    }

    /// A node is alive at this address. That says nothing of another one known there: a rumour of the older may come after
    /// the news of the newer.
    fn put(&mut self, node: NodeId, addr: SocketAddr, meta: Meta) {
        let Meta { info, generation } = meta;
        self.known.insert(node, Peer { addr, info, generation, health: Health::Alive });
    }

    fn set_health(&mut self, node: NodeId, health: Health) {
        if let Some(peer) = self.known.get_mut(&node) {
            peer.health = health;
        }
    }
}

impl Brain {
    /// Turns what gossip learnt into evidence.
    pub(super) fn drain_gossip(&mut self, now: MonoTime) {
        while let Some(event) = self.gossip.poll_event() {
            match event {
                Event::Joined(member) | Event::Changed(member) => {
                    if let Ok(meta) = wire::decode::<Meta>(&member.meta) {
                        self.handle_peer(member.node, member.addr, meta, now);
                    }
                }
                Event::Suspected(node) => {
                    self.peers.set_health(node, Health::Suspect);
                    self.event(NodeEvent::Suspected(node));
                }
                Event::Refuted(node) => self.peers.set_health(node, Health::Alive),
                Event::Died(node) | Event::Left(node) => {
                    self.peers.set_health(node, Health::Gone { since: now });
                }
                Event::Paused(by) => self.event(NodeEvent::Paused(by)),
                _ => {}
            }
        }
    }

    pub(super) fn handle_peer(
        &mut self,
        node: NodeId,
        addr: SocketAddr,
        meta: Meta,
        now: MonoTime,
    ) {
        let theirs = meta.generation;
        self.peers.put(node, addr, meta);
        if let Some(theirs) = theirs {
            self.meet_generation(Some(node), theirs, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_that_is_not_heard_of_any_more_is_forgotten_and_one_that_comes_back_is_not() {
        let ours = Generation { cluster: 1, reform: 0 };
        let theirs = Generation { cluster: 2, reform: 0 };
        let looks = |seconds: u128| (1..=seconds * 1_000 / TICK.as_millis()).map(drop);
        for meet in [
            |peers: &mut Peers, theirs| peers.note_stranger(theirs),
            |peers: &mut Peers, theirs| peers.note_generation(NodeId::from_random(1), Some(theirs)),
        ] {
            let mut peers = Peers::default();
            for _twice in 0..2 {
                meet(&mut peers, theirs);
                looks(30).for_each(|()| peers.tick_strangers());
                meet(&mut peers, theirs);
                // As long as attempts to connect can be apart.
                looks(34).for_each(|()| peers.tick_strangers());
                assert!(peers.met_other_generation(Some(ours)));
                looks(11).for_each(|()| peers.tick_strangers());
                assert!(!peers.met_other_generation(Some(ours)));
            }
        }
    }
}
