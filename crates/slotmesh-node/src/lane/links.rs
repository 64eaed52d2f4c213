use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use slotmesh_core::DataPlane;
use slotmesh_slots::NodeId;
use slotmesh_transport::{FrameReceiver, FrameSender, StreamError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::handler::give_way;
use super::{LanePeers, kind};

/// How often the wanted links are compared with the open ones beside being told.
const REVIEW_INTERVAL: Duration = Duration::from_millis(50);

/// Pause before a lost link is opened again; the connection below has its own, growing one.
const REOPEN_PAUSE: Duration = Duration::from_millis(50);

/// Bytes taken from the replication engine per write: several batches, little enough that heartbeats do not wait.
const WRITE_BYTES: usize = 256 << 10;

/// Wakes the task of a link when there is something to write; set from any thread, so it only flags.
#[derive(Clone, Default)]
pub(crate) struct LinkWakers(Arc<RwLock<HashMap<NodeId, Arc<Notify>>>>);

impl LinkWakers {
    pub(crate) fn wake(&self, node: NodeId) {
        if let Some(waker) = self.0.read().get(&node) {
            waker.notify_one();
        }
    }

    pub(super) fn of(&self, node: NodeId) -> Arc<Notify> {
        Arc::clone(self.0.write().entry(node).or_default())
    }

    pub(super) fn forget(&self, node: NodeId) {
        self.0.write().remove(&node);
    }
}

/// Keeps a replication link open to every node that holds replicas of this node's slots.
pub(crate) struct Links {
    pub(crate) data: Arc<DataPlane>,
    pub(crate) peers: Arc<LanePeers>,
    pub(crate) wakers: LinkWakers,
    pub(crate) changed: Arc<Notify>,
}

impl Links {
    /// Runs until its task is dropped.
    pub(crate) async fn run(self) {
        let mut open: BTreeMap<NodeId, JoinHandle<()>> = BTreeMap::new();
        loop {
            self.data.note_links_thread();
            let wanted = self.data.replicas_wanted();
            open.retain(|node, task| {
                let keep = wanted.contains(node);
                if !keep {
                    task.abort();
                    self.wakers.forget(*node);
                    self.data.link_down(*node);
                }
                keep
            });
            for node in wanted {
                open.entry(node).or_insert_with(|| self.open(node));
            }
            self.peers.prune();
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(REVIEW_INTERVAL) => {}
            }
        }
    }

    fn open(&self, node: NodeId) -> JoinHandle<()> {
        let (data, peers) = (Arc::clone(&self.data), Arc::clone(&self.peers));
        let waker = self.wakers.of(node);
        tokio::spawn(async move {
            loop {
                if let Some(peer) = peers.peer(node)
                    && let Ok(stream) = peer.open_stream(kind::REPLICATION).await
                {
                    data.link_up(node);
                    let (sender, receiver) = stream.into_split();
                    tokio::select! {
                        _ = write(&data, node, &waker, sender) => {}
                        () = read(&data, node, receiver) => {}
                    }
                    data.link_down(node);
                }
                tokio::time::sleep(REOPEN_PAUSE).await;
            }
        })
    }
}

async fn write(
    data: &DataPlane,
    node: NodeId,
    waker: &Notify,
    mut sender: FrameSender,
) -> Result<(), StreamError> {
    loop {
        let frames = data.poll_link(node, WRITE_BYTES);
        if frames.is_empty() {
            output(data, node, waker).await;
            // Writers that are about to append get their turn first, so that their records share a frame.
            tokio::task::yield_now().await;
        } else {
            let bytes = frames.iter().map(bytes::Bytes::len).sum();
            sender.send_all(frames).await?;
            give_way(bytes).await;
        }
    }
}

/// Waits until there may be something to write.
async fn output(data: &DataPlane, node: NodeId, waker: &Notify) {
    let Some(until) = data.link_rests_until(node) else { return waker.notified().await };
    tokio::select! {
        () = waker.notified() => {}
        () = tokio::time::sleep(until.saturating_since(data.now())) => {}
    }
}

async fn read(data: &DataPlane, node: NodeId, mut receiver: FrameReceiver) {
    while let Ok(Some(frame)) = receiver.recv().await {
        if let Err(error) = data.handle_replica_frame(node, &frame) {
            tracing::warn!(%node, %error, "replication link closed");
            return;
        }
    }
}
