use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::RwLock;
use slotmesh_slots::NodeId;
use slotmesh_transport::{Endpoint, Peer};

use super::Directory;

/// How often a lane looks for connections to nodes that are gone.
const PRUNE_INTERVAL: Duration = Duration::from_secs(1);

/// One lane's connections to the other nodes' lanes.
pub(crate) struct LanePeers {
    lane: usize,
    endpoint: Endpoint,
    directory: Arc<ArcSwap<Directory>>,
    known: RwLock<BTreeMap<NodeId, (SocketAddr, Peer)>>,
}

impl LanePeers {
    pub(crate) fn new(lane: usize, endpoint: Endpoint, directory: Arc<ArcSwap<Directory>>) -> Self {
        Self { lane, endpoint, directory, known: RwLock::default() }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The connection to the node; `None` when it is no member as far as this node knows.
    pub(crate) fn peer(&self, node: NodeId) -> Option<Peer> {
        if let Some((_, peer)) = self.known.read().get(&node) {
            return Some(peer.clone());
        }
        let addr = self.directory.load().lane(node, self.lane)?;
        let mut known = self.known.write();
        let (_, peer) =
            known.entry(node).or_insert_with(|| (addr, self.endpoint.peer(addr, Some(node))));
        Some(peer.clone())
    }

    /// Whether the node is a member as far as this node knows.
    pub(crate) fn is_member(&self, node: NodeId) -> bool {
        self.directory.load().contains(node)
    }

    /// As [`LanePeers::prune`], again and again.
    pub(crate) async fn keep_pruned(&self) {
        loop {
            self.prune();
            tokio::time::sleep(PRUNE_INTERVAL).await;
        }
    }

    /// Gives up connections to nodes that are no members any more.
    pub(crate) fn prune(&self) {
        let directory = self.directory.load();
        self.known.write().retain(|node, _| directory.contains(*node));
    }
}
