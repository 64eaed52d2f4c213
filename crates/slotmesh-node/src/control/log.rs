use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
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

/// The control log that this node takes part in, if any, shared with the handler of incoming messages.
#[derive(Clone, Default)]
pub(crate) struct LogSlot(Arc<Mutex<Option<Log>>>);

#[derive(Clone)]
struct Log {
    generation: Generation,
    consensus: Consensus,
    machine: Arc<Mutex<ControlMachine>>,
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
        self.stop().await;
        let machine = Arc::new(Mutex::new(ControlMachine::new()));
        let wire = Arc::new(Wire { peers, generation });
        let clock: slotmesh_consensus::Clock = Arc::new(|| BootClock.now());
        let config = ConsensusConfig {
            election_min: slotmesh_core::ELECTION_MIN,
            ..ConsensusConfig::default()
        };
        let consensus = Consensus::start(node, config, wire, Arc::clone(&machine), clock).await?;
        *self.0.lock() = Some(Log { generation, consensus: consensus.clone(), machine });
        if let Some(voters) = found_with {
            consensus.initialize(voters).await?;
        }
        Ok(())
    }

    pub(crate) async fn stop(&self) {
        let old = self.0.lock().take();
        if let Some(log) = old {
            log.consensus.shutdown().await;
        }
    }

    pub(crate) fn consensus(&self) -> Option<Consensus> {
        self.0.lock().as_ref().map(|log| log.consensus.clone())
    }

    /// Wakes when the log has news after this one, the first time at once.
    pub(crate) fn watch(&self) -> Option<watch::Receiver<LogStatus>> {
        self.0.lock().as_ref().map(|log| log.consensus.watch())
    }

    /// The status first, then everything applied: so a leader that is caught up has handed over what its predecessors
    /// committed.
    pub(crate) fn read(&self) -> Option<(LogStatus, Vec<ClusterDelta>)> {
        let log = self.0.lock().clone()?;
        let status = log.consensus.status();
        let deltas = log.machine.lock().take_deltas().collect();
        Some((status, deltas))
    }

    /// Answers a consensus message, if it belongs to this node's log.
    pub(crate) fn handle(&self, from: NodeId, request: &Request, reply: Reply) {
        let mut input = Reader::shared(&request.body);
        let (Ok(cluster), Ok(reform)) = (input.u128(), input.u32()) else { return };
        let body = input.rest();
        let log = self.0.lock().clone();
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
        Box::pin(async move {
            peers.call(to, kind::CONSENSUS, out.finish(), budget).await.map_err(|error| match error
            {
                slotmesh_transport::CallError::Deadline => WireError::Timeout,
                error => WireError::Unreachable(error.to_string()),
            })
        })
    }
}
