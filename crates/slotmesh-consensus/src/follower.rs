//! Follows the engine: publishes changes of status, and keeps the log within its bytes.

use std::sync::Arc;

use slotmesh_control::log::LogStatus;
use tokio::sync::watch;

use crate::log_store::LogStore;
use crate::tenure::Tenure;
use crate::types::{LogId, Metrics, Raft};

/// How far the engine has come (what it applied, what is in its snapshot, what it purged), and whether the log is too large.
type Standing = ([Option<LogId>; 3], bool);

/// What runs beside the engine for as long as it does.
pub(crate) struct Follower {
    pub(crate) raft: Raft,
    pub(crate) tenure: Arc<Tenure>,
    pub(crate) store: LogStore,
    pub(crate) log_bytes_max: usize,
    pub(crate) snapshot_keep: u64,
    pub(crate) status: watch::Sender<LogStatus>,
}

impl Follower {
    pub(crate) async fn run(self) {
        let mut metrics = self.raft.metrics();
        let mut asked = None;
        loop {
            let seen = metrics.borrow_and_update().clone();
            if seen.running_state.is_err() {
                break;
            }
            self.publish();
            self.compact(&seen, &mut asked).await;
            if metrics.changed().await.is_err() {
                break;
            }
        }
        self.tenure.stop();
        self.publish();
    }

    /// The time of the last acknowledgement changes with each heartbeat and wakes nobody.
    fn publish(&self) {
        let now = self.tenure.status();
        self.status.send_if_modified(|then| {
            let changed = LogStatus { quorum_acked: then.quorum_acked, ..now.clone() } != *then;
            *then = now;
            changed
        });
    }

    /// Has a snapshot taken when the log is too large (the engine counts entries, and few large ones need this), and purges
    /// behind the snapshot. A voter that still wants a purged entry gets the snapshot.
    ///
    /// Each question makes the engine report anew, which ends here again; and what a peer is being sent is purged only later. So
    /// it is asked once for each standing: asked on every report, this loop and the engine kept each other busy until then.
    async fn compact(&self, seen: &Metrics, asked: &mut Option<Standing>) {
        let large = self.store.size().command_bytes > self.log_bytes_max;
        let standing = ([seen.last_applied, seen.snapshot, seen.purged], large);
        if asked.replace(standing) == Some(standing) {
            return;
        }
        // An error means that the engine stops, which the loop sees next.
        if large && seen.last_applied > seen.snapshot {
            let _ = self.raft.trigger().snapshot().await;
        } else if let Some(index) = self.purgeable(seen, large) {
            let _ = self.raft.trigger().purge_log(index).await;
        }
    }

    /// The last entry that need not be kept, if it is still there.
    fn purgeable(&self, seen: &Metrics, large: bool) -> Option<u64> {
        let keep = if large { 0 } else { self.snapshot_keep };
        let index = seen.snapshot?.index.checked_sub(keep);
        index.filter(|index| seen.purged.is_none_or(|purged| purged.index < *index))
    }
}
