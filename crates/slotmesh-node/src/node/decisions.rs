use std::sync::Arc;
use std::time::Duration;

use slotmesh_control::{ClusterState, REFORM_ASKS_FOR, Rebalance, WANTED_REPLICAS_MAX};
use slotmesh_core::ReformError;
use slotmesh_slots::NodeId;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::Node;
use crate::control::Input;
use crate::error::ControlError;

/// How long a decision may take: several elections of a leader.
const DECISION_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the cluster is asked again meanwhile: messages get lost, and leaders change.
const ASK_INTERVAL: Duration = Duration::from_millis(200);

impl Node {
    /// Has the cluster want this many copies beside the primary, 0 to 3, and returns when that is committed. The copies
    /// are made, or surplus ones dropped, afterwards: [`NodeStatus::safe_slots`](crate::NodeStatus::safe_slots) and
    /// [`NodeStatus::copying_slots`](crate::NodeStatus::copying_slots) tell how far that is. A slot never has fewer copies
    /// meanwhile than before or than are wanted, whichever is less.
    ///
    /// Cancellation safe: once dropped nothing more is asked, and what was asked may still be decided.
    ///
    /// # Errors
    /// See [`ControlError`]; a retry is harmless.
    pub async fn set_replicas(&self, replicas: u8) -> Result<(), ControlError> {
        if replicas > WANTED_REPLICAS_MAX {
            return Err(ControlError::OutOfRange { asked: replicas, max: WANTED_REPLICAS_MAX });
        }
        let round = self.status().cluster.replicas_round();
        let ask = || Input::SetReplicas { replicas, round };
        let cluster = self.decide(ask, |cluster| cluster.replicas_round() != round).await?;
        match cluster.replicas() {
            now if now == replicas => Ok(()),
            now => Err(ControlError::Superseded { replicas: now }),
        }
    }

    /// Has no slots moved for balance alone any more, to newcomers or from nodes that have more than their share; returns when that is
    /// committed, so it outlasts the leader. What is under way ends as it would. Lost copies are still made again, another
    /// number of copies is brought about, and nodes that leave give their slots away.
    /// [`NodeStatus::progress`](crate::NodeStatus::progress) tells how much is to be done.
    ///
    /// Cancellation safe as [`Node::set_replicas`] is.
    ///
    /// # Errors
    /// See [`ControlError`]; a retry is harmless.
    pub async fn pause_rebalance(&self) -> Result<(), ControlError> {
        self.set_rebalance(Rebalance::Paused).await
    }

    /// As [`Node::pause_rebalance`], and what is under way for balance ends at once: its copies are dropped, frozen slots stay
    /// where they are.
    ///
    /// # Errors
    /// See [`ControlError`]; a retry is harmless.
    pub async fn abort_rebalance(&self) -> Result<(), ControlError> {
        self.set_rebalance(Rebalance::Aborted).await
    }

    /// Ends what [`Node::pause_rebalance`] or [`Node::abort_rebalance`] began.
    ///
    /// # Errors
    /// See [`ControlError`]; a retry is harmless.
    pub async fn resume_rebalance(&self) -> Result<(), ControlError> {
        self.set_rebalance(Rebalance::On).await
    }

    async fn set_rebalance(&self, rebalance: Rebalance) -> Result<(), ControlError> {
        let round = self.status().cluster.rebalance_round();
        let ask = || Input::SetRebalance { rebalance, round };
        let cluster = self.decide(ask, |cluster| cluster.rebalance_round() != round).await?;
        match cluster.rebalance() {
            now if now == rebalance => Ok(()),
            now => Err(ControlError::Overruled { rebalance: now }),
        }
    }

    /// Has a member, this one or another, give all its slots away, primaries first, and then leave; returns when that is decided.
    /// The drained node is [`Phase::Draining`](crate::Phase::Draining) until it is [`Phase::Left`](crate::Phase::Left): `slotmesh
    /// serve` ends then, an application has to stop its [`Node`]. It cannot be taken back. [`Node::leave`] does the same for this
    /// node and waits for it.
    ///
    /// Cancellation safe as [`Node::set_replicas`] is.
    ///
    /// # Errors
    /// [`ControlError::NoMember`] if there is no such member, [`ControlError::LastMember`] if nobody is left to take its slots; see
    /// [`ControlError`]. A retry is harmless.
    pub async fn drain(&self, node: NodeId) -> Result<(), ControlError> {
        let cluster = Arc::clone(&self.status().cluster);
        if cluster.generation().is_none() {
            return Err(ControlError::NoCluster);
        }
        if !cluster.members().contains_key(&node) {
            return Err(ControlError::NoMember);
        }
        let goes = |cluster: &ClusterState| {
            cluster.members().get(&node).is_none_or(|member| member.is_draining())
        };
        // Others may be drained meanwhile: then it is the last one by the time it is decided.
        let decided = |cluster: &ClusterState| goes(cluster) || !cluster.has_heir(node);
        let shown = match decided(&cluster) {
            true => cluster,
            false => self.decide(|| Input::Drain(node), decided).await?,
        };
        if goes(&shown) { Ok(()) } else { Err(ControlError::LastMember) }
    }

    /// Asks until the cluster state shows a decision, and gives that state.
    async fn decide(
        &self,
        ask: impl Fn() -> Input,
        decided: impl Fn(&ClusterState) -> bool,
    ) -> Result<Arc<ClusterState>, ControlError> {
        let Some(inputs) = &self.inner.inputs else { return Err(ControlError::NoCluster) };
        let mut status = self.watch_status();
        if status.borrow().cluster.generation().is_none() {
            return Err(ControlError::NoCluster);
        }
        let deadline = Instant::now() + DECISION_TIMEOUT;
        while Instant::now() < deadline {
            timeout_at(deadline, inputs.send(ask()))
                .await
                .map_err(|_| ControlError::Undecided)?
                .map_err(|_| ControlError::Stopped)?;
            let again = deadline.min(Instant::now() + ASK_INTERVAL);
            let shown = status.wait_for(|status| decided(&status.cluster));
            let Ok(shown) = timeout_at(again, shown).await else { continue };
            return Ok(Arc::clone(&shown.map_err(|_| ControlError::Stopped)?.cluster));
        }
        Err(ControlError::Undecided)
    }

    /// Has the nodes that this one sees go on without the others, and returns when they do. Meant for an operator who
    /// knows that a majority of the voters is lost for good: what only the lost ones had is gone, their members are struck,
    /// and slots without a copy start again empty (`lost_slots`). Where the others live on as well, cut off, both sides serve
    /// until they meet; then those whose generation was reformed less often give up what they have.
    ///
    /// Cancellation safe: what was begun goes on.
    ///
    /// # Errors
    /// [`ControlError::MajorityAnswers`] as long as this node holds a lease or sees a majority of the voters; see
    /// [`ControlError`].
    pub async fn reform(&self) -> Result<(), ControlError> {
        let Some(inputs) = &self.inner.inputs else { return Err(ControlError::NoCluster) };
        let mut status = self.watch_status();
        let (before, cancelled) = {
            let status = status.borrow();
            (status.generation, status.reforms_cancelled)
        };
        let deadline = Instant::now() + REFORM_TIMEOUT;
        let (answer, answered) = oneshot::channel();
        let asked = async {
            inputs.send(Input::Reform(answer)).await.map_err(|_| ControlError::Stopped)?;
            match answered.await.map_err(|_| ControlError::Stopped)? {
                Ok(()) => Ok(()),
                Err(ReformError::MajorityAnswers) => Err(ControlError::MajorityAnswers),
                Err(_) => Err(ControlError::NoCluster),
            }
        };
        timeout_at(deadline, asked).await.map_err(|_| ControlError::NotReformed)??;
        let done = status.wait_for(|status| {
            let known = status.cluster.generation();
            let done = status.generation != before && known == status.generation;
            done || status.reforms_cancelled != cancelled
        });
        let done = timeout_at(deadline, done).await.map_err(|_| ControlError::NotReformed)?;
        let done = done.map_err(|_| ControlError::Stopped)?;
        if done.generation == before { Err(ControlError::NotReformed) } else { Ok(()) }
    }
}

/// How long a reform may take: the promises, the end of all old leases and an election. The promises are asked for no longer than
/// `REFORM_ASKS_FOR`. Nothing else that is asked of a node takes as long, so whoever answers for a node has to wait a little
/// longer than this.
pub const REFORM_TIMEOUT: Duration = REFORM_ASKS_FOR.saturating_add(Duration::from_secs(2));
