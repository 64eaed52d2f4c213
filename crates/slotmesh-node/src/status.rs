use std::collections::BTreeSet;
use std::sync::Arc;

use slotmesh_control::{ClusterState, Progress};
use slotmesh_slots::{Generation, NodeId, Slot, SlotState};

/// Where a node stands in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Looks for its cluster, waits for enough others to found one, or for its first lease.
    Joining,
    /// Member, with a lease: may serve what it owns.
    Serving,
    /// Member of a cluster whose majority it cannot reach: refuses writes.
    CutOff,
    /// Gives its slots away.
    Draining,
    /// The others went on without it while it was cut off, and it met them again: it serves nothing any more, and another
    /// node has to be started in its place. `slotmesh serve` does that by itself.
    Superseded,
    /// Is no member any more, or was stopped.
    Left,
}

/// What a node knows of itself and its cluster, at one moment.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Its identity, new with each start.
    pub node: NodeId,
    /// Where it stands.
    pub phase: Phase,
    /// The generation it belongs to.
    pub generation: Option<Generation>,
    /// The decided cluster state.
    pub cluster: Arc<ClusterState>,
    /// Whether it leads the control plane.
    pub leading: bool,
    /// Who leads it, as far as this node has heard.
    pub leader: Option<NodeId>,
    /// Other nodes that gossip finds alive.
    pub alive_peers: usize,
    /// Members that gossip does not find alive: copies that they hold do not count for safety.
    pub absent: BTreeSet<NodeId>,
    /// Whether it met a node of another founding of its cluster: an operator has to look.
    pub met_other_generation: bool,
    /// Who votes in the control plane, as far as this node has heard.
    pub voters: Vec<NodeId>,
    /// Whether the control plane has all its voters, and they reach each other: it survives the loss of any one node, as far as there are
    /// members for that.
    pub all_voters: bool,
    /// Whether it has known of more than one member that may hold slots, since it started.
    pub knew_others: bool,
    /// Failovers this node saw finished since it started, as leader.
    pub failovers: u64,
    /// Reforms that this node began and gave up since it started.
    pub reforms_cancelled: u64,
}

impl NodeStatus {
    /// How many slots have a primary.
    #[must_use]
    pub fn owned_slots(&self) -> usize {
        self.cluster.table().iter().filter(|(_, held)| held.primary.is_some()).count()
    }

    /// How many slots have a primary and all wanted copies in sync, as far as there are members to hold them, and are not
    /// being handed over.
    #[must_use]
    pub fn safe_slots(&self) -> usize {
        let table = self.cluster.table();
        table.iter().filter(|(_, held)| self.is_slot_safe(held)).count()
    }

    /// How many slots are having a copy made.
    #[must_use]
    pub fn copying_slots(&self) -> usize {
        self.cluster.table().iter().filter(|(_, held)| !held.copying.is_empty()).count()
    }

    /// How many slots are being handed to another primary.
    #[must_use]
    pub fn moving_slots(&self) -> usize {
        self.cluster.table().iter().filter(|(_, held)| held.moving_to.is_some()).count()
    }

    /// How much is to be done until every slot is where it should be.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress::of(&self.cluster)
    }

    /// The first slot that is not safe, to see what is missing.
    #[must_use]
    pub fn first_unsafe_slot(&self) -> Option<(Slot, SlotState)> {
        let mut slots = self.cluster.table().iter();
        slots.find(|(_, held)| !self.is_slot_safe(held)).map(|(slot, held)| (slot, *held))
    }

    fn is_slot_safe(&self, held: &SlotState) -> bool {
        let others = self.cluster.holders().count().saturating_sub(1);
        let wanted = usize::from(self.cluster.replicas()).min(others);
        let is_here = |node: &NodeId| !self.absent.contains(node);
        let copies = held.in_sync.iter().filter(is_here).count();
        held.primary.is_some_and(|node| is_here(&node))
            && copies >= wanted
            && held.moving_to.is_none()
    }

    /// Whether any one node may be taken away, as far as this node knows: [`is_complete`](Self::is_complete), and there are copies, if
    /// they are wanted and there was ever another node for them.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        self.is_complete() && !self.is_alone()
    }

    /// Whether only one member is left that holds slots, where copies are wanted: all data goes with it.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.knew_others && self.cluster.replicas() > 0 && self.cluster.holders().count() <= 1
    }

    /// Whether all is as it should be, as far as there are members for it: this node reaches the cluster's majority, every slot
    /// has its copies in sync, nothing moves, and the control plane has all its voters, which reach each other.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let reached = self.phase == Phase::Serving && self.all_voters;
        reached && self.copying_slots() == 0 && self.safe_slots() == slotmesh_slots::SLOT_COUNT
    }
}
