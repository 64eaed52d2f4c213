use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use slotmesh_slots::NodeId;

/// What a node tells the others about itself; does not change while the process lives.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeInfo {
    /// The operator's name for it; need not be unique.
    pub name: String,
    /// Where its control endpoint listens (gossip, leases, consensus); the same number on TCP is its guard port.
    pub control: SocketAddr,
    /// Where its data lanes listen.
    pub lanes: Vec<SocketAddr>,
    /// Where Redis clients can reach it, if they can.
    pub resp: Option<SocketAddr>,
    /// Failure zone; replicas are placed in other zones than their primary where possible.
    pub zone: String,
    /// Whether it votes without ever holding slots, so that two others survive the loss of either.
    pub witness: bool,
    /// Its share of the slots is to the others' as their weights are; 0 counts as 1. By default what it may hold, in MiB.
    pub weight: u32,
}

/// What is decided about a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MemberState {
    /// Holds slots and receives new ones.
    Up,
    /// Gives its slots away and then leaves.
    Draining,
    /// Was not there when the cluster was reformed without a majority: its slots are taken over at once, then it is struck.
    Lost,
}

/// A decided member of the cluster. A node that left or died is no member any more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// What it told about itself.
    pub info: NodeInfo,
    /// What is decided about it.
    pub state: MemberState,
    /// The cluster version at which it joined: the lower, the older.
    pub joined: u64,
}

impl Member {
    /// Whether it is here to stay.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state == MemberState::Up
    }

    /// Whether it gives its slots away.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.state == MemberState::Draining
    }

    /// Whether a reform gave it up.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.state == MemberState::Lost
    }

    /// Whether it may receive slots.
    #[must_use]
    pub fn may_hold(&self) -> bool {
        self.is_up() && !self.info.witness
    }
}

/// Members in the order of their age, oldest first.
pub(crate) fn by_age<'a>(members: impl Iterator<Item = (&'a NodeId, &'a Member)>) -> Vec<NodeId> {
    let mut sorted: Vec<_> = members.map(|(node, member)| (member.joined, *node)).collect();
    sorted.sort_unstable();
    sorted.into_iter().map(|(_, node)| node).collect()
}
