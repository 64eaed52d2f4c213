use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use slotmesh_slots::NodeId;
use slotmesh_transport::{ClusterSecret, Endpoint, Hello, Identity, Peer, TransportConfig};
use tokio::sync::watch;
use tokio::time::Instant;

use super::ledger::Ledger;
use super::net::Net;
use super::recorder::{Recorder, Shared};
use super::socket::VirtualSocket;

/// What closing an endpoint may take, with the lateness of a timer.
const CLOSE_MAX: Duration = Duration::from_millis(1000 + 2);

/// One life at an address: an endpoint, its handler, and its handles to the other places.
pub struct Process {
    pub id: NodeId,
    pub endpoint: Endpoint,
    pub handler: Arc<Recorder>,
    pub socket: Arc<VirtualSocket>,
    handles: Mutex<BTreeMap<u8, Handle>>,
    running: AtomicBool,
    /// Changes when all handles are given up, with everything that goes on through them.
    upset: watch::Sender<u32>,
}

/// How this process reaches a place.
#[derive(Clone)]
pub struct Handle {
    pub peer: Peer,
    /// The node that must answer there, if it matters.
    pub expect: Option<NodeId>,
}

/// Whom a handle is wanted for.
#[derive(Clone, Copy)]
pub struct Whereabouts {
    pub place: u8,
    pub addr: SocketAddr,
    /// Who was there last.
    pub node: NodeId,
}

impl Process {
    pub fn start(
        net: &Arc<Net>,
        addr: SocketAddr,
        id: NodeId,
        config: TransportConfig,
        ledger: &Arc<Ledger>,
    ) -> Arc<Self> {
        let socket = net.plug(addr);
        let handler = Recorder::new(id, ledger.clone());
        let shared = Arc::new(Shared(handler.clone()));
        let secret = ClusterSecret::new("one secret of enough bytes").unwrap();
        let identity = Identity::from_secret(&secret, id).unwrap();
        let hello = Hello {
            cluster: "orders".into(),
            node: id,
            generation: None,
            lane: 0,
            info: bytes::Bytes::new(),
        };
        let endpoint =
            Endpoint::bind_on(addr, socket.clone(), &identity, hello, config, shared).unwrap();
        Arc::new(Self {
            id,
            endpoint,
            handler,
            socket,
            handles: Mutex::default(),
            running: AtomicBool::new(true),
            upset: watch::Sender::new(0),
        })
    }

    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// The load on this process begins nothing more.
    pub fn stop(&self) {
        self.running.store(false, Ordering::Relaxed);
    }

    /// The handle to a place; a new one, if there is none, expects who is there now, or nobody in particular.
    pub fn handle(&self, at: Whereabouts, rng: &mut StdRng) -> Handle {
        let mut handles = self.handles.lock();
        let open = || {
            let expect = rng.random_bool(0.8).then_some(at.node);
            Handle { peer: self.endpoint.peer(at.addr, expect), expect }
        };
        handles.entry(at.place).or_insert_with(open).clone()
    }

    /// Drops the handle to a place if it expects somebody else than is there.
    pub fn refresh(&self, at: Whereabouts) {
        let mut handles = self.handles.lock();
        let stale = |handle: &Handle| handle.expect.is_some_and(|node| node != at.node);
        if handles.get(&at.place).is_some_and(stale) {
            handles.remove(&at.place);
        }
    }

    /// Drops all handles and what goes on through them.
    pub fn reopen(&self) {
        self.handles.lock().clear();
        self.upset.send_modify(|count| *count += 1);
    }

    pub fn redial(&self) {
        for handle in self.handles.lock().values() {
            handle.peer.redial();
        }
    }

    /// Closes the endpoint, which takes no longer than its peers are given to confirm.
    pub async fn close(&self, ledger: &Ledger, leaving: bool) {
        ledger.tally.note(if leaving { "process left" } else { "process closed" });
        if leaving {
            ledger.leaves(self.id);
        }
        let started = Instant::now();
        self.endpoint.close(leaving).await;
        let elapsed = started.elapsed();
        ledger.expect(elapsed <= CLOSE_MAX, || format!("a close took {elapsed:?}"));
    }

    /// Waits until all handles are given up.
    pub async fn upset(&self) {
        let mut upset = self.upset.subscribe();
        // It fails only with the process.
        let _ = upset.changed().await;
    }
}
