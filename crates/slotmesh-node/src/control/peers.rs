use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use slotmesh_slots::NodeId;
use slotmesh_transport::{CallError, Disconnect, Endpoint, Peer};

/// A connection that nobody used for this long is given up.
const UNUSED_FOR: Duration = Duration::from_secs(60);

/// The control connections by address. Who is at an address is known from its certificate once it is connected.
pub(crate) struct ControlPeers {
    endpoint: Endpoint,
    known: Mutex<HashMap<SocketAddr, (Peer, Instant)>>,
    addrs: Mutex<HashMap<NodeId, SocketAddr>>,
}

impl ControlPeers {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, known: Mutex::default(), addrs: Mutex::default() }
    }

    /// Where the node was last known to listen.
    pub(crate) fn note(&self, node: NodeId, addr: SocketAddr) {
        self.addrs.lock().insert(node, addr);
    }

    /// Sends a one-way message or drops it: only to the node that is meant, which its certificate tells.
    pub(crate) fn send(&self, to: NodeId, addr: SocketAddr, kind: u8, body: Bytes) {
        let peer = self.peer(addr);
        match peer.info() {
            Some(info) if info.node != to => {}
            // Lost messages are sent again by whoever wants them to arrive; this one starts the connection.
            _ => drop(peer.send(kind, body)),
        }
    }

    pub(crate) fn datagram(&self, addr: SocketAddr, body: Bytes) {
        // Gossip lives with loss; the first one to an address starts its connection.
        drop(self.peer(addr).datagram(body));
    }

    pub(crate) async fn call(
        &self,
        to: NodeId,
        kind: u8,
        body: Bytes,
        budget: Duration,
    ) -> Result<Bytes, CallError> {
        let addr = self.addrs.lock().get(&to).copied();
        let Some(addr) = addr else { return Err(CallError::NotConnected(Disconnect::Connecting)) };
        let peer = self.peer(addr);
        let answer = peer.call(kind, body, budget).await?;
        // Another process may have taken the address over.
        match peer.info() {
            Some(info) if info.node == to => Ok(answer),
            _ => Err(CallError::Lost(Disconnect::Restarted)),
        }
    }

    /// Gives up connections that were not used for long.
    pub(crate) fn prune(&self) {
        self.known.lock().retain(|_, (_, used)| used.elapsed() < UNUSED_FOR);
    }

    fn peer(&self, addr: SocketAddr) -> Peer {
        let mut known = self.known.lock();
        let (peer, used) =
            known.entry(addr).or_insert_with(|| (self.endpoint.peer(addr, None), Instant::now()));
        *used = Instant::now();
        peer.clone()
    }
}
