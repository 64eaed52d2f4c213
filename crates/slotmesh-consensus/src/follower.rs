//! Follows the engine: publishes changes of status, and keeps the log within its bytes.

use std::sync::Arc;

use slotmesh_control::log::LogStatus;
use tokio::sync::watch;

use crate::log_store::LogStore;
use crate::tenure::Tenure;
use crate::types::{Metrics, Raft};

/// What runs beside the engine for as long as it does.
pub(crate) struct Follower {
    pub(crate) raft: Raft,
    pub(crate) tenure: Arc<Tenure>,
    pub(crate) store: LogStore,
    pub(crate) log_bytes_max: usize,
    pub(crate) status: watch::Sender<LogStatus>,
}

impl Follower {
    pub(crate) async fn run(self) {
        let mut metrics = self.raft.metrics();
        loop {
            let seen = metrics.borrow_and_update().clone();
            if seen.running_state.is_err() {
                break;
            }
            self.publish();
            self.compact(&seen).await;
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

    /// The engine counts entries; few large ones need this. A voter that still wants a purged entry gets the snapshot.
    async fn compact(&self, seen: &Metrics) {
        if self.store.size().command_bytes <= self.log_bytes_max {
            return;
        }
        // An error means that the engine stops, which the loop sees next.
        if seen.last_applied > seen.snapshot {
            let _ = self.raft.trigger().snapshot().await;
        } else if let Some(snapshot) = seen.snapshot.filter(|last| Some(*last) > seen.purged) {
            let _ = self.raft.trigger().purge_log(snapshot.index).await;
        }
    }
}
