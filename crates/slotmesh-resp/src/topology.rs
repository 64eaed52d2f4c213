use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use slotmesh_node::{Member, Node, NodeStatus};
use slotmesh_slots::{NodeId, NodeList, Slot};

/// The cluster as Redis clients see it: who answers for which slots, at which address.
///
/// A primary that announces no Redis address is represented by the node that is asked, which forwards: the slots that a
/// client learns always cover all that are served.
pub(crate) struct Topology {
    pub(crate) me: NodeId,
    pub(crate) status: Arc<NodeStatus>,
    /// Where the client reached this node.
    reached: SocketAddr,
}

/// First and last slot of neighbours.
pub(crate) type Span = (Slot, Slot);

/// Neighbouring slots with the same holders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: Slot,
    pub(crate) last: Slot,
    pub(crate) primary: NodeId,
    /// In-sync replicas that clients can reach, by identity.
    pub(crate) replicas: Vec<NodeId>,
}

/// Slots with the same holders.
pub(crate) struct Shard {
    pub(crate) primary: NodeId,
    pub(crate) replicas: Vec<NodeId>,
    pub(crate) ranges: Vec<Span>,
}

impl Topology {
    pub(crate) fn new(node: &Node, reached: SocketAddr) -> Self {
        Self { me: node.id(), status: node.status(), reached }
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (NodeId, &Member)> {
        self.status.cluster.members().iter().map(|(node, member)| (*node, member))
    }

    /// Where clients reach a node, if they do.
    pub(crate) fn address(&self, node: NodeId) -> Option<SocketAddr> {
        let announced = self.status.cluster.members().get(&node).and_then(|m| m.info.resp);
        announced.or_else(|| (node == self.me).then_some(self.reached))
    }

    /// The slots that are served, in order.
    pub(crate) fn ranges(&self) -> Vec<Range> {
        let mut ranges: Vec<Range> = Vec::new();
        let mut last_held: Option<(NodeId, NodeList)> = None;
        for (slot, state) in self.status.cluster.table().iter() {
            let Some(primary) = state.primary else {
                last_held = None;
                continue;
            };
            let held = (primary, state.in_sync);
            match ranges.last_mut() {
                Some(range) if last_held == Some(held) => range.last = slot,
                _ => ranges.push(self.range(slot, primary, &state.in_sync)),
            }
            last_held = Some(held);
        }
        ranges
    }

    fn range(&self, slot: Slot, primary: NodeId, in_sync: &NodeList) -> Range {
        let primary = if self.address(primary).is_some() { primary } else { self.me };
        let reachable = |node: &NodeId| *node != primary && self.address(*node).is_some();
        let mut replicas: Vec<NodeId> = in_sync.iter().filter(reachable).collect();
        replicas.sort_unstable();
        Range { first: slot, last: slot, primary, replicas }
    }

    pub(crate) fn shards(&self) -> Vec<Shard> {
        let mut shards: BTreeMap<(NodeId, Vec<NodeId>), Vec<Span>> = BTreeMap::new();
        for range in self.ranges() {
            let held = shards.entry((range.primary, range.replicas)).or_default();
            held.push((range.first, range.last));
        }
        let shard = |((primary, replicas), ranges)| Shard { primary, replicas, ranges };
        shards.into_iter().map(shard).collect()
    }

    /// The ranges of each node that answers for slots, whoever has their replicas.
    pub(crate) fn by_primary(&self) -> BTreeMap<NodeId, Vec<Span>> {
        let mut held: BTreeMap<NodeId, Vec<Span>> = BTreeMap::new();
        for range in self.ranges() {
            let spans = held.entry(range.primary).or_default();
            match spans.last_mut() {
                Some((_, last)) if last.index() + 1 == range.first.index() => *last = range.last,
                _ => spans.push((range.first, range.last)),
            }
        }
        held
    }
}

/// A node's identity with as many digits as Redis' have.
pub(crate) fn redis_id(node: NodeId) -> String {
    format!("{:0>40}", node.to_string())
}

#[cfg(test)]
mod tests {
    use slotmesh_node::{ClusterState, NodeInfo};
    use slotmesh_slots::{Generation, SLOT_COUNT, SlotState};

    use super::*;

    fn id(number: u64) -> NodeId {
        NodeId::from_random(number)
    }

    fn info(number: u16, resp: bool) -> NodeInfo {
        let addr = |port| SocketAddr::from(([127, 0, 0, 1], port));
        NodeInfo {
            name: format!("n{number}"),
            control: addr(7000 + number),
            lanes: Vec::new(),
            resp: resp.then(|| addr(6400 + number)),
            zone: String::new(),
            witness: false,
            weight: 1,
        }
    }

    /// Three members, the last without a Redis address; slots by thirds, replicas at the next member, the last slot of all
    /// without a primary.
    fn topology() -> Topology {
        let members = [(1, true), (2, true), (3, false)];
        let mut cluster = ClusterState::new();
        let mut delta = cluster.full_delta();
        delta.generation = Some(Generation { cluster: 1, reform: 0 });
        for (number, resp) in members {
            let state = slotmesh_node::MemberState::Up;
            let member = Member { info: info(number, resp), state, joined: 1 };
            delta.members.push((id(number.into()), Some(member)));
        }
        let third = SLOT_COUNT / 3 + 1;
        let held = |slot: Slot| {
            let number = (slot.index() / third) as u64;
            let in_sync = [id((number + 1) % 3 + 1)].into_iter().collect();
            SlotState { primary: Some(id(number + 1)), in_sync, ..SlotState::default() }
        };
        let slots = Slot::all().take(SLOT_COUNT - 1).map(|slot| (slot, held(slot)));
        delta.table = cluster.table().delta_to(1, slots);
        assert!(cluster.advance(&delta));
        let mut status = (*Node::local(1 << 20).status()).clone();
        status.cluster = Arc::new(cluster);
        let reached = SocketAddr::from(([127, 0, 0, 1], 9999));
        Topology { me: id(1), status: Arc::new(status), reached }
    }

    #[test]
    fn primaries_without_an_address_are_represented_by_the_node_asked() {
        let topology = topology();
        let ranges = topology.ranges();
        let seen: Vec<_> = ranges.iter().map(|r| (r.primary, r.replicas.clone())).collect();
        // The second third's replica and the last third's primary are the one that nobody reaches.
        assert_eq!(seen, [(id(1), vec![id(2)]), (id(2), vec![]), (id(1), vec![])]);
        assert_eq!(
            ranges[2].last.index(),
            SLOT_COUNT - 2,
            "the slot without a primary is left out"
        );
        assert_eq!(ranges[0].last.index() + 1, ranges[1].first.index());
        assert_eq!(topology.shards().len(), 3);
        let held = topology.by_primary();
        assert_eq!(held.keys().copied().collect::<Vec<_>>(), [id(1), id(2)]);
        assert_eq!(held[&id(1)].len(), 2);
    }

    #[test]
    fn addresses_are_those_announced() {
        let topology = topology();
        assert_eq!(topology.address(id(2)).unwrap().port(), 6402);
        assert_eq!(topology.address(id(3)), None);
        let alone = Topology { me: id(3), ..topology };
        assert_eq!(alone.address(id(3)).unwrap().port(), 9999, "where the client came in");
    }

    #[test]
    fn identities_have_forty_digits() {
        assert_eq!(redis_id(id(0xab)), format!("{}ab", "0".repeat(38)));
    }
}
