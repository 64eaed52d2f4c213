use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::EmptyNode;
use openraft::error::{ClientWriteError, InitializeError, InstallSnapshotError, RaftError};
use parking_lot::Mutex;
use slotmesh_control::log::{LogMachine, LogStatus, ProposeError};
use slotmesh_slots::{MonoTime, NodeId};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use crate::follower::Follower;
use crate::log_store::{LogSize, LogStore};
use crate::machine::Machine;
use crate::message::{APPEND_BYTES_MAX, Reply, Request, VOTERS_MAX};
use crate::network::Links;
use crate::tenure::Tenure;
use crate::types::{Raft, identity};
use crate::{ConsensusConfig, ConsensusError, RaftWire};

/// Reads the node's monotonic clock, the one its leases are measured on. Must not block.
pub type Clock = Arc<dyn Fn() -> MonoTime + Send + Sync>;

/// A node's handle to the replicated control log; clones share one engine.
///
/// Every method may be called from any task of the runtime it was started on. Dropping a future never harms the log: what
/// was proposed may still be applied.
#[derive(Clone)]
pub struct Consensus {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) node: NodeId,
    pub(crate) config: ConsensusConfig,
    pub(crate) raft: Raft,
    pub(crate) tenure: Arc<Tenure>,
    pub(crate) proposals: Semaphore,
    /// Held by the one change of voters that may be in progress.
    pub(crate) voter_change: tokio::sync::Mutex<()>,
    store: LogStore,
    status: watch::Receiver<LogStatus>,
    follower: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Consensus {
    /// Starts the log of this node, without voters: it waits to be founded by [`initialize`](Self::initialize), or to be
    /// added by a leader's [`set_voters`](Self::set_voters).
    ///
    /// Spawns on the current tokio runtime, which should be one that nothing else holds up. `machine` is locked for each
    /// applied command and each snapshot; readers should hold it briefly.
    ///
    /// # Errors
    /// [`ConsensusError::Config`] when the settings contradict each other.
    pub async fn start<M: LogMachine>(
        node: NodeId,
        config: ConsensusConfig,
        wire: Arc<dyn RaftWire>,
        machine: Arc<Mutex<M>>,
        clock: Clock,
    ) -> Result<Self, ConsensusError> {
        let engine = Arc::new(config.engine()?);
        let tenure = Arc::new(Tenure::new(node, clock));
        let store = LogStore::new(Arc::clone(&tenure));
        let election_max = config.election_max;
        let links = Links { wire, tenure: Arc::clone(&tenure), election_max };
        let machine = Machine::new(node.get(), machine, Arc::clone(&tenure));
        let raft = Raft::new(node.get(), engine, links, store.clone(), machine)
            .await
            .map_err(|_| ConsensusError::Stopped)?;
        let (publish, status) = watch::channel(tenure.status());
        let follower = Follower {
            raft: raft.clone(),
            tenure: Arc::clone(&tenure),
            store: store.clone(),
            log_bytes_max: config.log_bytes_max,
            snapshot_keep: config.snapshot_keep,
            status: publish,
        };
        let inner = Inner {
            node,
            proposals: Semaphore::new(config.proposals_max),
            voter_change: tokio::sync::Mutex::default(),
            config,
            raft,
            tenure,
            store,
            status,
            follower: tokio::spawn(follower.run()).abort_handle(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Founds the log with these voters, of whom this node must be one. Exactly one node does it, once: two founders with
    /// different voters would make two logs. Returns before a leader is elected.
    ///
    /// # Errors
    /// [`ConsensusError::AlreadyInitialized`] when this node has a log already, [`ConsensusError::BadVoters`],
    /// [`ConsensusError::Stopped`].
    pub async fn initialize(&self, voters: Vec<NodeId>) -> Result<(), ConsensusError> {
        let voters = voter_set(&voters).map_err(ConsensusError::BadVoters)?;
        let members: BTreeMap<u64, EmptyNode> =
            voters.into_iter().map(|voter| (voter, EmptyNode::new())).collect();
        self.inner.raft.initialize(members).await.map_err(|error| match error {
            RaftError::APIError(InitializeError::NotAllowed(_)) => {
                ConsensusError::AlreadyInitialized
            }
            RaftError::APIError(InitializeError::NotInMembers(_)) => {
                ConsensusError::BadVoters("the founder is not among them")
            }
            RaftError::Fatal(_) => ConsensusError::Stopped,
        })
    }

    /// Answers a message that a peer sent through its [`RaftWire`]; `from` is the authenticated sender.
    ///
    /// # Errors
    /// [`ConsensusError::Malformed`], [`ConsensusError::Version`] and [`ConsensusError::WrongSender`] for what no correct
    /// peer sends, which changes nothing; [`ConsensusError::Stopped`].
    pub async fn handle(&self, from: NodeId, body: Bytes) -> Result<Bytes, ConsensusError> {
        if from == self.inner.node {
            // Taken for true, it would make this node a leader that nobody elected.
            return Err(ConsensusError::WrongSender { from });
        }
        let mut request = Request::decode(from, &body)?;
        if !self.inner.store.admits(&mut request) {
            return Err(ConsensusError::Malformed("an entry in the place of a committed one"));
        }
        let raft = &self.inner.raft;
        let reply = match request {
            Request::Append(request) => raft.append_entries(request).await.map(Reply::Append),
            Request::Vote(request) => raft.vote(request).await.map(Reply::Vote),
            Request::Snapshot(request) => match raft.install_snapshot(request).await {
                Err(RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch))) => {
                    Ok(Reply::SnapshotRestart(mismatch))
                }
                Err(RaftError::Fatal(fatal)) => Err(RaftError::Fatal(fatal)),
                Ok(reply) => Ok(Reply::Snapshot(reply)),
            },
        };
        reply.map_err(|_| ConsensusError::Stopped)?.encode()
    }

    /// Proposes a command and waits until this node has applied it, at most until `deadline` from now; returns the
    /// machine's outcome. Only the leader can: any other node refuses at once.
    ///
    /// # Errors
    /// See [`ProposeError`]. On its `Timeout` and `LeadershipLost`, and when the future is dropped, the command may yet be applied.
    pub async fn propose(
        &self,
        command: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, ProposeError> {
        if command.len() > APPEND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: command.len(), limit: APPEND_BYTES_MAX });
        }
        self.require_quorum()?;
        let _place = self.inner.proposals.try_acquire().map_err(|_| ProposeError::Busy)?;
        let truncations = self.inner.store.truncations();
        // Without a quorum the engine keeps the writer waiting for ever.
        let write = self.inner.raft.client_write(Bytes::from(command));
        let written = tokio::time::timeout(deadline, write).await;
        let written = written.map_err(|_| ProposeError::Timeout)?;
        written.map(|written| written.data).map_err(|error| match refusal(error) {
            // Refused, or taken back: the engine says the same of both.
            ProposeError::NotLeader { .. } if self.inner.store.truncations() > truncations => {
                ProposeError::LeadershipLost
            }
            error => error,
        })
    }

    /// Replaces the set of voters by this one: newcomers first receive the log, then one joint change is committed. Only
    /// the leader can, one change at a time. When it leaves itself out, it leads until the change is committed; the others then elect.
    /// It should do so only while the others are a majority of the old voters: a leader that has logged its own leaving stands no
    /// more and votes for nobody who lacks that entry, so if it is cut off at that moment, nobody can win without them.
    ///
    /// Takes at most about [`ConsensusConfig::catch_up`] plus six maximal election times. Newcomers must run a [`Consensus`] that was
    /// never founded.
    ///
    /// # Errors
    /// See [`ProposeError`]. After its `Timeout` and `LeadershipLost`, and when the future is dropped, the change may yet happen or stay half done
    /// ([`LogStatus::voters_changing`]): calling this again on the leader completes it.
    pub async fn set_voters(&self, voters: Vec<NodeId>) -> Result<(), ProposeError> {
        let wanted = voter_set(&voters).map_err(|reason| ProposeError::BadVoters { reason })?;
        self.require_quorum()?;
        self.inner.set_voters(wanted).await
    }

    /// What this node knows of the log and may claim of its leadership, as of now.
    #[must_use]
    pub fn status(&self) -> LogStatus {
        self.inner.tenure.status()
    }

    /// Wakes on each change of leader, term, voters or applied entries. What it holds is as old as that change: for
    /// [`LogStatus::quorum_acked`] ask [`status`](Self::status).
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<LogStatus> {
        self.inner.status.clone()
    }

    /// Whether this node may stand for election. A node that was cut off for long would depose a healthy leader on its
    /// return; so it should not stand while it does not see a majority of voters. On at the start.
    pub fn set_elections(&self, enabled: bool) {
        self.inner.raft.runtime_config().elect(enabled);
    }

    /// What the log holds in memory, for the node's metrics.
    #[must_use]
    pub fn log_size(&self) -> LogSize {
        self.inner.store.size()
    }

    /// Stops the log of this node and waits until it has; every other call fails from then on.
    pub async fn shutdown(&self) {
        self.inner.tenure.stop();
        // Fails only when the engine's task panicked, and then it has stopped too.
        let _ = self.inner.raft.shutdown().await;
    }

    /// The log of an isolated leader would grow with each proposal, so it must hear from its voters to accept any.
    fn require_quorum(&self) -> Result<(), ProposeError> {
        let status = self.status();
        if !status.is_leader {
            return Err(ProposeError::NotLeader { leader: status.leader });
        }
        let heard = status.quorum_acked.max(status.leader_since).unwrap_or_default();
        let silence = self.inner.tenure.now().saturating_since(heard);
        if silence > self.inner.config.election_max { Err(ProposeError::NoQuorum) } else { Ok(()) }
    }
}

fn voter_set(voters: &[NodeId]) -> Result<BTreeSet<u64>, &'static str> {
    let voters: BTreeSet<u64> = voters.iter().map(|voter| voter.get()).collect();
    match voters.len() {
        0 => Err("there are none"),
        1..=VOTERS_MAX => Ok(voters),
        _ => Err("there are too many"),
    }
}

/// Why the engine refused a write.
pub(crate) fn refusal(error: RaftError<u64, ClientWriteError<u64, EmptyNode>>) -> ProposeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
            ProposeError::NotLeader { leader: to.leader_id.and_then(identity) }
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(_)) => {
            ProposeError::VotersChanging
        }
        RaftError::Fatal(_) => ProposeError::Stopped,
    }
}
