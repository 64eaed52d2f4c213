use std::time::Duration;

use slotmesh_control::WANTED_REPLICAS_MAX;
use slotmesh_core::ReformError;
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
        let Some(inputs) = &self.inner.inputs else { return Err(ControlError::NoCluster) };
        let mut status = self.watch_status();
        let round = status.borrow().cluster.replicas_round();
        if status.borrow().cluster.generation().is_none() {
            return Err(ControlError::NoCluster);
        }
        let deadline = Instant::now() + DECISION_TIMEOUT;
        while Instant::now() < deadline {
            let ask = Input::SetReplicas { replicas, round };
            timeout_at(deadline, inputs.send(ask))
                .await
                .map_err(|_| ControlError::Undecided)?
                .map_err(|_| ControlError::Stopped)?;
            let again = deadline.min(Instant::now() + ASK_INTERVAL);
            let decided = status.wait_for(|status| status.cluster.replicas_round() != round);
            let Ok(decided) = timeout_at(again, decided).await else { continue };
            let now = decided.map_err(|_| ControlError::Stopped)?.cluster.replicas();
            return match now == replicas {
                true => Ok(()),
                false => Err(ControlError::Superseded { replicas: now }),
            };
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
        let before = status.borrow().generation;
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
        timeout_at(deadline, asked).await.map_err(|_| ControlError::Undecided)??;
        let done = status.wait_for(|status| {
            let known = status.cluster.generation();
            status.generation != before && known == status.generation
        });
        let done = timeout_at(deadline, done).await.map_err(|_| ControlError::Undecided)?;
        done.map(|_| ()).map_err(|_| ControlError::Stopped)
    }
}

/// How long a reform may take: the promises, the end of all old leases and an election.
const REFORM_TIMEOUT: Duration = Duration::from_secs(8);
