//! The streams on which this node hears of writes to slots whose values it keeps, and tells others of writes to its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use slotmesh_coherence::{FrameError, Subscriber, Watcher};
use slotmesh_core::DataPlane;
use slotmesh_slots::NodeId;
use slotmesh_transport::{FrameReceiver, FrameSender, FrameStream, StreamError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::links::LinkWakers;
use super::{LanePeers, kind};
use crate::coarse::CoarseClock;

/// How often the wanted streams are compared with the open ones beside being told.
const REVIEW_INTERVAL: Duration = Duration::from_millis(50);

/// Pause before a lost stream is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(50);

/// A stream of whose slots nobody asks for so long is closed: the peer tells of no more writes then.
const IDLE: Duration = Duration::from_secs(10);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the connection broke: {0}")]
    Stream(#[from] StreamError),
    #[error("the other side sends what it must not: {0}")]
    Frame(#[from] FrameError),
    #[error("the other side closed it")]
    Closed,
    #[error("nobody asks")]
    Idle,
    #[error("it took too little of what was to be told")]
    Behind,
}

/// Keeps a stream open to every node that values are kept of, and vouches for those of this node's own slots.
pub(crate) struct Watches {
    pub(crate) data: Arc<DataPlane>,
    pub(crate) subscriber: Arc<Subscriber>,
    pub(crate) clock: CoarseClock,
    pub(crate) peers: Arc<LanePeers>,
    /// Woken when a stream to the node, or a ping, is wanted.
    pub(crate) pings: LinkWakers,
    pub(crate) changed: Arc<Notify>,
}

impl Watches {
    /// Runs until its task is dropped.
    pub(crate) async fn run(self) {
        tokio::join!(self.keep_streams(), self.vouch());
    }

    async fn keep_streams(&self) {
        let mut open: BTreeMap<NodeId, JoinHandle<()>> = BTreeMap::new();
        loop {
            open.retain(|_, task| !task.is_finished());
            for node in self.subscriber.retain(|node| self.peers.is_member(node)) {
                self.pings.forget(node);
                // It hears for one that is forgotten; should the node come back, another one does.
                if let Some(task) = open.remove(&node) {
                    task.abort();
                }
            }
            for node in self.subscriber.wanted() {
                open.entry(node).or_insert_with(|| self.open(node));
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep(REVIEW_INTERVAL) => {}
            }
        }
    }

    /// As often as a peer is pinged.
    async fn vouch(&self) {
        let asked = self.pings.of(self.data.node());
        loop {
            if self.subscriber.wants_voucher() {
                self.data.vouch(&self.subscriber, self.clock.at_least());
                sleep(self.subscriber.ping_interval().unwrap_or(IDLE)).await;
            } else {
                asked.notified().await;
            }
        }
    }

    fn open(&self, node: NodeId) -> JoinHandle<()> {
        let (subscriber, clock) = (Arc::clone(&self.subscriber), self.clock);
        let (peers, pings) = (Arc::clone(&self.peers), self.pings.of(node));
        tokio::spawn(async move {
            let listener = Listener { subscriber, clock, node, pings };
            let ended = if let Some(peer) = peers.peer(node)
                && let Ok(stream) = peer.open_stream(kind::WATCH).await
            {
                listener.hear(stream).await
            } else {
                Ended::Closed
            };
            tracing::debug!(%node, %ended, "no longer hears of its writes");
            sleep(REOPEN_PAUSE).await;
        })
    }
}

/// The end of a stream that hears.
struct Listener {
    subscriber: Arc<Subscriber>,
    clock: CoarseClock,
    node: NodeId,
    pings: Arc<Notify>,
}

/// When pings went, and when they were last wanted.
struct Rhythm {
    pinged: Instant,
    asked: Instant,
}

impl Rhythm {
    /// Nothing was sent yet, so the first ping may go at once.
    fn new() -> Self {
        let now = Instant::now();
        Self { pinged: now.checked_sub(IDLE).unwrap_or(now), asked: now }
    }
}

impl Listener {
    /// Hears of the peer's writes until the stream ends.
    async fn hear(&self, stream: FrameStream) -> Ended {
        let Some((by, hello)) = self.subscriber.open(self.node) else { return Ended::Closed };
        let (mut sender, mut receiver) = stream.into_split();
        let ended = tokio::select! {
            ended = self.ping(hello, &mut sender) => ended,
            ended = self.take(by, &mut receiver) => ended,
        };
        self.subscriber.close(self.node, by);
        ended
    }

    async fn ping(&self, hello: Bytes, sender: &mut FrameSender) -> Ended {
        let mut rhythm = Rhythm::new();
        let mut next = Ok(hello);
        loop {
            match next {
                Ok(frame) => {
                    if let Err(error) = sender.send(frame).await {
                        return error.into();
                    }
                }
                Err(ended) => return ended,
            }
            next = self.next_ping(&mut rhythm).await;
        }
    }

    async fn take(&self, by: Watcher, receiver: &mut FrameReceiver) -> Ended {
        loop {
            let frame = match receiver.recv().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ended::Closed,
                Err(error) => return error.into(),
            };
            let now = self.clock.at_most();
            if let Err(error) = self.subscriber.handle_frame(self.node, by, &frame, now) {
                return error.into();
            }
        }
    }

    /// Waits until a ping is wanted and may go. Cancellation safe.
    async fn next_ping(&self, rhythm: &mut Rhythm) -> Result<Bytes, Ended> {
        loop {
            let interval = self.subscriber.ping_interval().unwrap_or(IDLE);
            sleep_until(rhythm.pinged + interval).await;
            if let Some(ping) = self.subscriber.poll_ping(self.node, self.clock.at_least()) {
                rhythm.pinged = Instant::now();
                rhythm.asked = rhythm.pinged;
                return Ok(ping);
            }
            tokio::select! {
                () = self.pings.notified() => {}
                () = sleep_until(rhythm.asked + IDLE) => return Err(Ended::Idle),
            }
        }
    }
}

/// The end of a stream that tells: another node opened it.
pub(super) async fn tell(
    data: Arc<DataPlane>,
    frames: LinkWakers,
    node: NodeId,
    stream: FrameStream,
) {
    let (mut sender, mut receiver) = stream.into_split();
    let Ok(Some(hello)) = receiver.recv().await else { return };
    let by = match data.watcher_open(node, &hello) {
        Ok(by) => by,
        Err(error) => return tracing::warn!(%node, %error, "does not tell of its writes"),
    };
    let waker = frames.of(node);
    let ended = tokio::select! {
        ended = write(&data, by, &waker, &mut sender) => ended,
        ended = answer_pings(&data, by, &mut receiver) => ended,
    };
    tracing::debug!(%node, %ended, "no longer tells of its writes");
    data.watcher_close(by);
    // It may have taken a wake that was for the next stream.
    waker.notify_one();
}

async fn write(data: &DataPlane, by: Watcher, waker: &Notify, sender: &mut FrameSender) -> Ended {
    loop {
        match data.poll_watcher(by) {
            None => return Ended::Behind,
            Some(frames) if frames.is_empty() => {
                waker.notified().await;
                // Writers that are about to write get their turn first, so that their records share a frame.
                tokio::task::yield_now().await;
            }
            Some(frames) => {
                if let Err(error) = sender.send_all(frames).await {
                    return error.into();
                }
            }
        }
    }
}

async fn answer_pings(data: &DataPlane, by: Watcher, receiver: &mut FrameReceiver) -> Ended {
    loop {
        match receiver.recv().await {
            Ok(Some(frame)) => {
                if let Err(error) = data.handle_watcher_frame(by, &frame) {
                    return error.into();
                }
            }
            Ok(None) => return Ended::Closed,
            Err(error) => return error.into(),
        }
    }
}
