use std::collections::BTreeMap;
use std::net::SocketAddr;

use slotmesh_control::ClusterState;
use slotmesh_slots::NodeId;

/// Where the members' lanes listen.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Directory(BTreeMap<NodeId, Vec<SocketAddr>>);

impl Directory {
    pub(crate) fn of(cluster: &ClusterState) -> Self {
        let lanes = |(node, member): (&NodeId, &slotmesh_control::Member)| {
            (*node, member.info.lanes.clone())
        };
        Self(cluster.members().iter().map(lanes).collect())
    }

    /// The node's lane that fits ours of this number.
    pub(crate) fn lane(&self, node: NodeId, lane: usize) -> Option<SocketAddr> {
        let lanes = self.0.get(&node)?;
        lanes.get(lane % lanes.len().max(1)).copied()
    }

    pub(crate) fn contains(&self, node: NodeId) -> bool {
        self.0.contains_key(&node)
    }
}
