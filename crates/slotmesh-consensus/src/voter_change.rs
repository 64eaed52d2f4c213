//! Replacing the voters: newcomers learn, one joint change, leftovers go.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::{ChangeMembers, EmptyNode};
use slotmesh_control::log::ProposeError;
use tokio::time::timeout;

use crate::consensus::{Inner, refusal};
use crate::types::{Membership, Metrics, Types};

/// Pause before a change is tried again that the engine refused because an earlier one is not committed yet, as is the
/// case right after each election until the new leader's first entry is.
const IN_PROGRESS_PAUSE: Duration = Duration::from_millis(10);

type Written = Result<ClientWriteResponse<Types>, RaftError<u64, ClientWriteError<u64, EmptyNode>>>;

impl Inner {
    pub(crate) async fn set_voters(&self, wanted: BTreeSet<u64>) -> Result<(), ProposeError> {
        let _only = self.voter_change.try_lock().map_err(|_| ProposeError::VotersChanging)?;
        // Generous: an entry needs a round trip, and after an election the leader's first one must be committed before.
        let patience = self.config.election_max * 2;
        let changed = self.change(&wanted, patience).await;
        // Also on failure: a member that never answers must not be waited upon by snapshots for ever.
        let _ = timeout(patience, self.drop_learners()).await;
        changed
    }

    async fn change(&self, wanted: &BTreeSet<u64>, patience: Duration) -> Result<(), ProposeError> {
        let late = |_| ProposeError::Timeout;
        timeout(patience, self.add_learners(wanted)).await.map_err(late)??;
        self.caught_up(wanted).await?;
        timeout(patience, self.replace(wanted)).await.map_err(late)?
    }

    async fn add_learners(&self, wanted: &BTreeSet<u64>) -> Result<(), ProposeError> {
        let members: BTreeSet<u64> = self.membership().nodes().map(|(node, _)| *node).collect();
        for newcomer in wanted.difference(&members) {
            self.retry(|| self.raft.add_learner(*newcomer, EmptyNode::new(), false)).await?;
        }
        Ok(())
    }

    /// Waits until each of those who do not vote yet has all that was in the log at the start: one that votes without it would
    /// hold up commits until it has.
    async fn caught_up(&self, wanted: &BTreeSet<u64>) -> Result<(), ProposeError> {
        let goal = self.raft.metrics().borrow().last_log_index;
        let voting: BTreeSet<u64> = self.membership().voter_ids().collect();
        let learning: Vec<u64> = wanted.difference(&voting).copied().collect();
        let done = |metrics: &Metrics| match &metrics.replication {
            // No leader any more: the next step says so.
            None => true,
            Some(sent) => learning
                .iter()
                .all(|node| sent.get(node).copied().flatten().map(|last| last.index) >= goal),
        };
        let waited = self.raft.wait(Some(self.config.catch_up)).metrics(done, "newcomers").await;
        waited.map(|_| ()).map_err(|_| ProposeError::BadVoters { reason: "one does not catch up" })
    }

    async fn replace(&self, wanted: &BTreeSet<u64>) -> Result<(), ProposeError> {
        self.finish(wanted).await?;
        let now = self.membership();
        if now.get_joint_config().as_slice() == std::slice::from_ref(wanted) {
            return Ok(());
        }
        self.write_voters(wanted).await
    }

    /// Ends a change to other voters that was left half done. To go on from there at once would take this node, if that change leaves
    /// it out, through a joint phase in which it does not vote, and the engine panics at its end.
    async fn finish(&self, wanted: &BTreeSet<u64>) -> Result<(), ProposeError> {
        let now = self.membership();
        let [_, begun] = now.get_joint_config().as_slice() else { return Ok(()) };
        if begun == wanted {
            return Ok(());
        }
        self.write_voters(begun).await?;
        if begun.contains(&self.node.get()) { Ok(()) } else { Err(ProposeError::LeadershipLost) }
    }

    async fn write_voters(&self, voters: &BTreeSet<u64>) -> Result<(), ProposeError> {
        let written = self.retry(|| self.raft.change_membership(voters.clone(), false)).await;
        written.map_err(|error| match error {
            // The first of its two entries may be committed.
            ProposeError::NotLeader { .. } => ProposeError::LeadershipLost,
            error => error,
        })
    }

    async fn drop_learners(&self) -> Result<(), ProposeError> {
        let membership = self.membership();
        let learners: BTreeSet<u64> = membership.learner_ids().collect();
        if learners.is_empty() || !self.tenure.status().is_leader {
            return Ok(());
        }
        let change =
            || self.raft.change_membership(ChangeMembers::RemoveNodes(learners.clone()), false);
        self.retry(change).await
    }

    /// Until the change goes through, or fails for another reason than an unfinished earlier one; the caller sets the deadline.
    async fn retry<F: Future<Output = Written>>(
        &self,
        change: impl Fn() -> F,
    ) -> Result<(), ProposeError> {
        loop {
            match change().await {
                Ok(_) => return Ok(()),
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_),
                ))) => tokio::time::sleep(IN_PROGRESS_PAUSE).await,
                Err(error) => return Err(refusal(error)),
            }
        }
    }

    fn membership(&self) -> Membership {
        self.raft.metrics().borrow().membership_config.membership().clone()
    }
}
