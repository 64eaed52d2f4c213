//! Carries the engine's messages over the caller's wire, each with a deadline, and notes for the tenure which appends
//! were acknowledged.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::EmptyNode;
use openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use slotmesh_control::log::leader_speaks;
use slotmesh_slots::NodeId;

use crate::WireError;
use crate::message::{Reply, Request};
use crate::tenure::Tenure;
use crate::types::{Types, identity};

/// Pause between attempts while a peer cannot be reached; the engine's own 500 ms would outlast an election.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How the engine's messages reach the other voters; the node implements it over its transport.
pub trait RaftWire: Send + Sync + 'static {
    /// Sends `body` to [`Consensus::handle`](crate::Consensus::handle) of `to` and returns its answer.
    ///
    /// `budget` is the time left; an answer that comes later is of no use. A message may be lost, repeated or overtaken.
    /// The answer must come from `to` itself. The future is dropped when the engine loses interest.
    ///
    /// # Errors
    /// When no answer came: also when `handle` failed there.
    fn call(
        &self,
        to: NodeId,
        body: Bytes,
        budget: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, WireError>> + Send>>;
}

/// Makes the links to peers.
pub(crate) struct Links {
    pub(crate) wire: Arc<dyn RaftWire>,
    pub(crate) tenure: Arc<Tenure>,
    pub(crate) election_max: Duration,
}

impl RaftNetworkFactory<Types> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Link {
        let (wire, tenure) = (Arc::clone(&self.wire), Arc::clone(&self.tenure));
        Link { target, wire, tenure, election_max: self.election_max }
    }
}

/// The way to one peer.
pub(crate) struct Link {
    target: u64,
    wire: Arc<dyn RaftWire>,
    tenure: Arc<Tenure>,
    election_max: Duration,
}

type CallError<E = RaftError<u64>> = RPCError<u64, EmptyNode, E>;

impl Link {
    async fn call(&self, request: &Request, option: &RPCOption) -> Result<Reply, WireError> {
        let to = identity(self.target).ok_or_else(|| unreachable("no such node"))?;
        // As a leader; votes are asked for by who does not lead.
        if !leader_speaks(self.tenure.unanswered(), self.election_max) {
            return Err(unreachable("no majority answers this leader, so it keeps silent"));
        }
        let body = request.encode().map_err(|problem| unreachable(&problem.to_string()))?;
        let budget = option.hard_ttl();
        let reply = tokio::time::timeout(budget, self.wire.call(to, body, budget)).await;
        let reply = reply.map_err(|_| WireError::Timeout)??;
        Reply::decode(&reply).map_err(|problem| unreachable(&problem.to_string()))
    }
}

fn unreachable(why: &str) -> WireError {
    WireError::Unreachable(why.to_owned())
}

/// As the engine wants it: it pauses before the next attempt.
fn failed<E: std::error::Error>(problem: &WireError) -> CallError<E> {
    RPCError::Unreachable(Unreachable::new(problem))
}

fn unfit<E: std::error::Error>() -> CallError<E> {
    failed(&unreachable("an answer that does not fit the request"))
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, CallError> {
        let vote = rpc.vote;
        let from_start = rpc.prev_log_id.is_none();
        let sent = self.tenure.now();
        let reply = self.call(&Request::Append(rpc), &option).await.map_err(|e| failed(&e))?;
        let Reply::Append(reply) = reply else { return Err(unfit()) };
        match &reply {
            AppendEntriesResponse::Success => self.tenure.acknowledged(self.target, &vote, sent),
            // Neither can be true, and the engine relies on it.
            AppendEntriesResponse::Conflict if from_start => return Err(unfit()),
            AppendEntriesResponse::HigherVote(higher) if *higher <= vote => return Err(unfit()),
            _ => {}
        }
        Ok(reply)
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, CallError<RaftError<u64, InstallSnapshotError>>> {
        let reply = self.call(&Request::Snapshot(rpc), &option).await.map_err(|e| failed(&e))?;
        match reply {
            Reply::Snapshot(reply) => Ok(reply),
            Reply::SnapshotRestart(mismatch) => {
                let source = RaftError::APIError(mismatch.into());
                Err(RPCError::RemoteError(RemoteError::new(self.target, source)))
            }
            Reply::Append(_) | Reply::Vote(_) => Err(unfit()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, CallError> {
        let reply = self.call(&Request::Vote(rpc), &option).await.map_err(|e| failed(&e))?;
        let Reply::Vote(reply) = reply else { return Err(unfit()) };
        Ok(reply)
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY_PAUSE))
    }
}
