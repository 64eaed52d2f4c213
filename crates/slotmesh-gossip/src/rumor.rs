use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use slotmesh_slots::NodeId;

use crate::wire::{Packet, RUMOR_MIN, Rumor};

/// Rumours looked at for one datagram: enough to fill it with the shortest ones, so that a few long ones at the head
/// cannot make the search long.
const SCAN_MAX: usize = 96;

type Turn = (u32, Reverse<u64>, NodeId);

/// News still to be spread: the newest rumour per node, the least often sent first, and of these the newest first.
///
/// Bounded by the roster: it holds rumours about members and about this node only.
#[derive(Debug, Default)]
pub(crate) struct RumorQueue {
    by_node: BTreeMap<NodeId, (Rumor, Turn)>,
    turns: BTreeSet<Turn>,
    order: u64,
}

impl RumorQueue {
    /// Adds news; an older rumour about the same node is dropped.
    pub(crate) fn push(&mut self, rumor: Rumor) {
        self.order += 1;
        let turn = (0, Reverse(self.order), rumor.node);
        self.remove(rumor.node);
        self.turns.insert(turn);
        self.by_node.insert(rumor.node, (rumor, turn));
    }

    pub(crate) fn remove(&mut self, node: NodeId) {
        if let Some((_, turn)) = self.by_node.remove(&node) {
            self.turns.remove(&turn);
        }
    }

    /// Appends as much news as fits; what was sent `limit` times is dropped.
    pub(crate) fn fill(&mut self, packet: &mut Packet, limit: u32) {
        let mut sent = Vec::new();
        for turn in self.turns.iter().take(SCAN_MAX) {
            if packet.room() < RUMOR_MIN {
                break;
            }
            if self.by_node.get(&turn.2).is_some_and(|(rumor, _)| packet.push(rumor)) {
                sent.push(*turn);
            }
        }
        for turn in sent {
            self.count(turn, limit);
        }
    }

    fn count(&mut self, turn: Turn, limit: u32) {
        self.turns.remove(&turn);
        let again = (turn.0 + 1, turn.1, turn.2);
        if again.0 >= limit {
            self.by_node.remove(&turn.2);
        } else if let Some(entry) = self.by_node.get_mut(&turn.2) {
            entry.1 = again;
            self.turns.insert(again);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.by_node.keys().copied()
    }

    pub(crate) fn check_invariants(&self) {
        assert_eq!(self.by_node.len(), self.turns.len(), "one turn per rumour");
        assert!(self.by_node.values().all(|(_, turn)| self.turns.contains(turn)), "turns match");
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::wire::{Body, Claim, Header};

    fn packet() -> Packet {
        let header = Header {
            sender: NodeId::from_random(1),
            incarnation: 1,
            addr: SocketAddr::from(([10, 0, 0, 1], 1)),
            target: None,
            want_self: false,
            leaving: false,
        };
        Packet::new(&header, &Body::Gossip)
    }

    fn rumor(node: u64) -> Rumor {
        Rumor { node: NodeId::from_random(node), incarnation: 1, claim: Claim::Left }
    }

    #[test]
    fn each_rumour_is_sent_the_limit_of_times() {
        let mut queue = RumorQueue::default();
        (1..=200).for_each(|node| queue.push(rumor(node)));
        let (mut datagrams, mut bytes) = (0, 0);
        while !queue.is_empty() {
            let mut packet = packet();
            let room = packet.room();
            queue.fill(&mut packet, 3);
            queue.check_invariants();
            datagrams += 1;
            bytes += room - packet.room();
        }
        assert_eq!(bytes, 200 * 3 * RUMOR_MIN);
        assert!(datagrams < 12, "datagrams are filled: {datagrams}");
    }

    #[test]
    fn newer_news_of_a_node_replaces_the_older() {
        let mut queue = RumorQueue::default();
        queue.push(rumor(1));
        queue.push(Rumor { incarnation: 2, ..rumor(1) });
        queue.check_invariants();
        let mut packet = packet();
        let room = packet.room();
        queue.fill(&mut packet, 1);
        assert_eq!(room - packet.room(), RUMOR_MIN);
        assert!(queue.is_empty());
    }
}
