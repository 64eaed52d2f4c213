mod before_leaving;
mod decisions;
mod local;
mod operations;
mod start;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use slotmesh_coherence::Subscriber;
use slotmesh_core::DataStats;
use slotmesh_slots::{MonoTime, NodeId, Slot};
use slotmesh_transport::Endpoint;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use self::before_leaving::BeforeLeaving;
pub use self::decisions::REFORM_TIMEOUT;
use crate::client::Router;
use crate::coarse::CoarseClock;
use crate::control::Input;
use crate::status::{NodeStatus, Phase};

/// A running node, and the handle to the cluster it is in. Cheap to clone; the node stops when the last clone is dropped,
/// without giving its slots away first: see [`Node::leave`].
///
/// The async methods need a tokio runtime with timers around them; the node's own work happens on its own threads.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    id: NodeId,
    addr: Option<SocketAddr>,
    router: Arc<Router>,
    inputs: Option<mpsc::Sender<Input>>,
    endpoints: Vec<Endpoint>,
    status: watch::Receiver<Arc<NodeStatus>>,
    stop: watch::Sender<bool>,
    ready_cap: Duration,
    max_memory_bytes: usize,
    started: MonoTime,
    clock: CoarseClock,
    was_safe: Mutex<bool>,
    before_leaving: BeforeLeaving,
}

impl Node {
    /// This node's identity, new with each start.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// Where its control endpoint listens; `None` for a local node.
    #[must_use]
    pub fn addr(&self) -> Option<SocketAddr> {
        self.inner.addr
    }

    /// What it knows of itself and the cluster. Whether it has a lease is told as of this moment: a process that was stopped for long
    /// knows nothing new yet.
    #[must_use]
    pub fn status(&self) -> Arc<NodeStatus> {
        let status = self.inner.status.borrow().clone();
        if status.phase == Phase::Serving && !self.inner.router.data.may_serve() {
            return Arc::new(NodeStatus { phase: Phase::CutOff, ..NodeStatus::clone(&status) });
        }
        status
    }

    /// Wakes whenever the status changes.
    #[must_use]
    pub fn watch_status(&self) -> watch::Receiver<Arc<NodeStatus>> {
        self.inner.status.clone()
    }

    /// Waits until the status fulfils the condition; false when the node stopped first. Cancellation safe.
    pub async fn wait_until(&self, mut condition: impl FnMut(&NodeStatus) -> bool) -> bool {
        self.watch_status().wait_for(|status| condition(status)).await.is_ok()
    }

    /// Whether traffic may be sent to this node: it serves and, at first, all of the cluster's copies have been in sync once
    /// since it started (so that a rolling replacement waits), or that took too long.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let status = self.status();
        if status.phase != Phase::Serving || status.met_other_generation {
            return false;
        }
        let mut was_safe = self.inner.was_safe.lock();
        if !*was_safe {
            let waited = self.inner.router.data.now().saturating_since(self.inner.started);
            *was_safe = status.is_complete() || waited >= self.inner.ready_cap;
        }
        *was_safe
    }

    /// What this node hears of others' writes, for those who keep values: they register with it, read with
    /// [`Op::Watch`](slotmesh_core::Op::Watch), and keep what [`Reply::Watched`](slotmesh_core::Reply::Watched) answers for as long as it says.
    #[must_use]
    pub fn subscriber(&self) -> &Arc<Subscriber> {
        &self.inner.router.subscriber
    }

    /// Has [`Node::subscriber`] told of the writes to a slot that this node is primary of, so that values of it can be kept; false if
    /// it is not. Before the value is read or written.
    #[must_use]
    pub fn watch_own(&self, slot: Slot) -> bool {
        let Router { data, subscriber, .. } = &*self.inner.router;
        let (ticket, by) = (subscriber.ticket(slot), subscriber.own());
        data.owner(slot).0 == Some(by.node)
            && data.subscribe(slot, by)
            && subscriber.admit(slot, ticket, by.node, by).is_some()
    }

    /// The clock by which [`Subscriber`] measures.
    #[must_use]
    pub fn clock(&self) -> CoarseClock {
        self.inner.clock
    }

    /// The seed of [`slotmesh_coherence::key_hash`] in this cluster, which users should not know.
    #[must_use]
    pub fn key_seed(&self) -> u64 {
        self.inner.router.data.key_seed()
    }

    /// Numbers of this node's data plane.
    #[must_use]
    pub fn stats(&self) -> DataStats {
        self.inner.router.data.stats()
    }

    /// The byte budget of everything this node stores.
    #[must_use]
    pub fn max_memory_bytes(&self) -> usize {
        self.inner.max_memory_bytes
    }

    /// Entries in the slots that this node is primary of.
    #[must_use]
    pub fn primary_entries(&self) -> u64 {
        self.inner.router.data.primary_entries()
    }

    /// The primary of a slot as far as this node knows.
    #[must_use]
    pub fn owner(&self, slot: Slot) -> Option<NodeId> {
        self.inner.router.data.owner(slot).0
    }

    /// Gives all slots away, primaries first, leaves the cluster and stops. Waits at most this long for the first part;
    /// true when everything was given away in time. What was not is taken over by the others as after a crash, only
    /// sooner, because they are told.
    pub async fn leave(&self, within: Duration) -> bool {
        let given = self.hand_over(within).await;
        if self.inner.inputs.is_some() {
            self.end(true).await;
        }
        given
    }

    /// The first part of [`Node::leave`]: gives all slots away and leaves the cluster, and still carries calls to the others, so that
    /// those under way are answered. Waits at most this long, also for what was asked for by [`Node::before_leaving`]; true when all of that
    /// was done in time. [`Node::leave`], which is soon over then, has to follow.
    ///
    /// Cancellation safe: what was begun goes on.
    pub async fn hand_over(&self, within: Duration) -> bool {
        let prepared = self.inner.before_leaving.all();
        let left = async {
            let Some(inputs) = &self.inner.inputs else { return true };
            inputs.send(Input::Leave).await.is_ok()
                && self.wait_until(|status| is_over(status.phase)).await
        };
        let both = async { tokio::join!(prepared, left).1 };
        tokio::time::timeout(within, both).await.unwrap_or(false)
    }

    /// Has [`Node::hand_over`] and [`Node::leave`] wait for this, within their time, while slots are given away; once for each call. For what
    /// would be lost with the process.
    pub fn before_leaving<F>(&self, work: F)
    where
        F: Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync + 'static,
    {
        self.inner.before_leaving.add(work);
    }

    /// Stops at once. The others notice as they would notice a crash; use [`Node::leave`] to spare them that. The addresses
    /// are free again when the last clone of this handle, and of what was made from it, is dropped.
    pub async fn stop(&self) {
        self.end(false).await;
    }

    async fn end(&self, leaving: bool) {
        // Only who serves nothing any more may say that it leaves: others act on it at once.
        self.inner.router.data.end_serving();
        // Nor may it keep its lease, also where nobody waits for the end.
        let _stopped = StopOnDrop(&self.inner.stop);
        let mut closing = JoinSet::new();
        for endpoint in self.inner.endpoints.clone() {
            closing.spawn(async move { endpoint.close(leaving).await });
        }
        while closing.join_next().await.is_some() {}
        self.end_threads().await;
    }

    /// Stops without a word to anybody.
    #[cfg(feature = "testing")]
    pub(crate) async fn crash(&self) {
        self.inner.router.data.end_serving();
        self.end_threads().await;
    }

    async fn end_threads(&self) {
        self.inner.stop.send_replace(true);
        if self.inner.inputs.is_some() {
            // False when the control thread has ended already: then the status is as it was left.
            let _ = self.wait_until(|status| status.phase == Phase::Left).await;
        }
    }
}

struct StopOnDrop<'a>(&'a watch::Sender<bool>);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// Whether nothing is left to give away.
const fn is_over(phase: Phase) -> bool {
    matches!(phase, Phase::Left | Phase::Superseded)
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.inner.id)
            .field("addr", &self.inner.addr)
            .finish_non_exhaustive()
    }
}
