use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use slotmesh_consensus::{Consensus, ConsensusConfig, RaftWire, WireError};
use slotmesh_control::ClusterDelta;
use slotmesh_control::log::LogStatus;
use slotmesh_core::{Clock, ControlMachine};
use slotmesh_slots::{Generation, NodeId, Reader, Writer};
use slotmesh_transport::{Reply, Request};
use tokio::sync::watch;

use super::{ControlPeers, kind};
use crate::clock::BootClock;

/// The control log that this node takes part in, if any, shared with the handler of incoming messages; and one that it may
/// go back to.
#[derive(Clone, Default)]
pub(crate) struct LogSlot(Arc<Mutex<Logs>>);

#[derive(Default)]
struct Logs {
    running: Option<Log>,
    parked: Option<Log>,
}

#[derive(Clone)]
struct Log {
    generation: Generation,
    consensus: Consensus,
    machine: Arc<Mutex<ControlMachine>>,
    /// Nothing is sent for it.
    is_parked: Arc<AtomicBool>,
}

impl LogSlot {
    /// Starts the log of this generation in the place of another one.
    pub(crate) async fn start(
        &self,
        node: NodeId,
        generation: Generation,
        found_with: Option<Vec<NodeId>>,
        peers: Arc<ControlPeers>,
    ) -> Result<(), slotmesh_consensus::ConsensusError> {
        self.stop_running().await;
        let machine = Arc::new(Mutex::new(ControlMachine::new()));
        let is_parked = Arc::new(AtomicBool::new(false));
        let wire = Arc::new(Wire { peers, generation, is_parked: Arc::clone(&is_parked) });
        let clock: slotmesh_consensus::Clock = Arc::new(|| BootClock.now());
        let config = ConsensusConfig {
            election_min: slotmesh_core::ELECTION_MIN,
            ..ConsensusConfig::default()
        };
        let consensus = Consensus::start(node, config, wire, Arc::clone(&machine), clock).await?;
        let log = Log { generation, consensus: consensus.clone(), machine, is_parked };
        self.0.lock().running = Some(log);
        if let Some(voters) = found_with {
            consensus.initialize(voters).await?;
        }
        Ok(())
    }

    /// Stops all logs.
    pub(crate) async fn stop(&self) {
        self.stop_running().await;
        self.drop_parked().await;
    }

    async fn stop_running(&self) {
        let old = self.0.lock().running.take();
        if let Some(log) = old {
            log.consensus.shutdown().await;
        }
    }

    /// Cuts the running log off and keeps it, unless one is kept already: then it runs on until another is started.
    pub(crate) fn park(&self) {
        let mut logs = self.0.lock();
        if logs.parked.is_none()
            && let Some(log) = logs.running.take()
        {
            log.is_parked.store(true, Ordering::Release);
            log.consensus.set_elections(false);
            logs.parked = Some(log);
        }
    }

    /// Takes part in the log that was kept, instead of the running one.
    pub(crate) async fn resume(&self) {
        self.stop_running().await;
        let mut logs = self.0.lock();
        if let Some(log) = logs.parked.take() {
            log.is_parked.store(false, Ordering::Release);
            log.consensus.set_elections(true);
            logs.running = Some(log);
        }
    }

    pub(crate) async fn drop_parked(&self) {
        let parked = self.0.lock().parked.take();
        if let Some(log) = parked {
            log.consensus.shutdown().await;
        }
    }

    pub(crate) fn consensus(&self) -> Option<Consensus> {
        self.0.lock().running.as_ref().map(|log| log.consensus.clone())
    }

    /// Wakes when the log has news after this one, the first time at once.
    pub(crate) fn watch(&self) -> Option<watch::Receiver<LogStatus>> {
        self.0.lock().running.as_ref().map(|log| log.consensus.watch())
    }

    /// The status first, then everything applied: so a leader that is caught up has handed over what its predecessors
    /// committed.
    pub(crate) fn read(&self) -> Option<(LogStatus, Vec<ClusterDelta>)> {
        let log = self.0.lock().running.clone()?;
        let status = log.consensus.status();
        let deltas = log.machine.lock().take_deltas().collect();
        Some((status, deltas))
    }

    /// Answers a consensus message, if it belongs to this node's log.
    pub(crate) fn handle(&self, from: NodeId, request: &Request, reply: Reply) {
        let mut input = Reader::shared(&request.body);
        let (Ok(cluster), Ok(reform)) = (input.u128(), input.u32()) else { return };
        let body = input.rest();
        let log = self.0.lock().running.clone();
        let Some(log) = log.filter(|log| log.generation == (Generation { cluster, reform })) else {
            return;
        };
        tokio::spawn(async move {
            match log.consensus.handle(from, body).await {
                Ok(answer) => reply.send(answer),
                // Dropping the reply tells the caller that there is none.
                Err(error) => tracing::debug!(%from, %error, "consensus message not answered"),
            }
        });
    }
}

/// Carries consensus messages over the control connections.
struct Wire {
    peers: Arc<ControlPeers>,
    generation: Generation,
    is_parked: Arc<AtomicBool>,
}

impl RaftWire for Wire {
    fn call(
        &self,
        to: NodeId,
        body: Bytes,
        budget: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, WireError>> + Send>> {
        let mut out = Writer::with_capacity(20 + body.len());
        out.u128(self.generation.cluster);
        out.u32(self.generation.reform);
        out.raw(&body);
        let peers = Arc::clone(&self.peers);
        let is_parked = self.is_parked.load(Ordering::Acquire);
        Box::pin(async move {
            if is_parked {
                return Err(WireError::Unreachable("the log is parked".to_owned()));
            }
            peers.call(to, kind::CONSENSUS, out.finish(), budget).await.map_err(|error| match error
            {
                slotmesh_transport::CallError::Deadline => WireError::Timeout,
                error => WireError::Unreachable(error.to_string()),
            })
        })
    }
}
