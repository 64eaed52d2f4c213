use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use slotmesh_slots::NodeId;
use tokio::sync::{Notify, watch};

use crate::backoff::Backoff;
use crate::clock;
use crate::disconnect::Disconnect;
use crate::drive::ReadyLink;
use crate::endpoint::EndpointInner;
use crate::error::{BusyAt, CallError};
use crate::frame::FrameType;
use crate::handler::PeerInfo;
use crate::link::Link;
use crate::stream::FrameStream;

/// Largest body of [`Peer::datagram`], in bytes: with the headers below it fits a 1,280 byte packet, the least that IPv6
/// links carry.
pub const DATAGRAM_BYTES_MAX: usize = 1200;

/// What an attempt has left after its peer was heard from: where both sides dial at once, each hears from the other half a
/// round trip before its own attempt succeeds.
const MOMENT: Duration = Duration::from_millis(25);

/// A handle to one process: calls, messages, datagrams and streams go out through it.
///
/// Cheap to clone; usable from any thread and any async executor while the endpoint's runtime runs. The connection is
/// made at the first use and kept, with growing pauses between attempts while the peer cannot be reached (50 ms to 30 s),
/// until the last clone is dropped.
#[derive(Clone)]
pub struct Peer(Arc<PeerHandle>);

impl Peer {
    pub(crate) fn new(handle: Arc<PeerHandle>) -> Self {
        Self(handle)
    }

    /// Sends a request and waits for its answer, at most `budget` (and up to 10 ms longer).
    ///
    /// While the first connection or the next attempt is being made it waits for that, within the budget; between
    /// attempts it fails at once. `budget` travels with the request, and a peer that finds it used up does not execute it.
    ///
    /// Cancellation safe: dropping the future forgets the answer; the request may be executed nevertheless.
    ///
    /// # Errors
    /// [`CallError`] says for each case whether the request may have been executed.
    pub async fn call(&self, kind: u8, body: Bytes, budget: Duration) -> Result<Bytes, CallError> {
        if let Some(link) = self.0.link() {
            return link.call(kind, body, budget)?.answer().await;
        }
        let started = clock::now();
        let link = self.0.connect(budget).await?;
        let left = budget.saturating_sub(clock::now().saturating_duration_since(started));
        link.call(kind, body, left)?.answer().await
    }

    /// Queues a one-way message. Messages of one peer arrive in order, mixed with its calls, or are lost with the
    /// connection. Never waits.
    ///
    /// # Errors
    /// `NotConnected` (and a connection is then being made), `Busy`, `TooLarge`; nothing was sent.
    pub fn send(&self, kind: u8, body: Bytes) -> Result<(), CallError> {
        self.0.link_now()?.send(FrameType::Message, kind, body)
    }

    /// Sends an unreliable datagram of at most [`DATAGRAM_BYTES_MAX`] bytes; until the path is known to bear packets
    /// of that size, the larger ones go reliably. Never waits; when too many wait, the oldest give way.
    ///
    /// # Errors
    /// `NotConnected` (and a connection is then being made), `Busy`, `TooLarge`; nothing was sent.
    pub fn datagram(&self, body: Bytes) -> Result<(), CallError> {
        if body.len() > DATAGRAM_BYTES_MAX {
            return Err(CallError::TooLarge { bytes: body.len(), max: DATAGRAM_BYTES_MAX });
        }
        let link = self.0.link_now()?;
        let fits = link.connection.max_datagram_size().is_some_and(|max| body.len() <= max);
        if !fits {
            return link.send(FrameType::Datagram, 0, body);
        }
        link.connection.send_datagram(body).map_err(|error| match error {
            quinn::SendDatagramError::ConnectionLost(error) => CallError::unconnected(error.into()),
            _ => CallError::NotConnected(Disconnect::Lost),
        })
    }

    /// Opens an ordered stream; the peer's handler gets its other end. Cancellation safe.
    ///
    /// # Errors
    /// `NotConnected` or `Refused` without a connection within the handshake time-out; `Busy` when the peer grants no
    /// further stream within that time.
    pub async fn open_stream(&self, kind: u8) -> Result<FrameStream, CallError> {
        let limit = self.0.endpoint.config.handshake_timeout;
        let link = self.0.connect(limit).await?;
        let lost = |error: quinn::ConnectionError| CallError::unconnected(error.into());
        let opened = self.0.within(limit, link.connection.open_bi()).await;
        let (mut send, recv) = opened.ok_or(CallError::Busy(BusyAt::Peer))?.map_err(lost)?;
        // Not yet limited by flow control, so this does not wait.
        send.write_all(&[kind])
            .await
            .map_err(|_| CallError::NotConnected(self.last_error().unwrap_or(Disconnect::Lost)))?;
        Ok(FrameStream::new(kind, send, recv, link.config.stream_frame_bytes_max))
    }

    /// Starts to connect, or the next attempt at once and without the grown pause, also beside one that is under way: for
    /// callers who know that the peer is back. It happens by itself when the peer connects to this endpoint.
    pub fn redial(&self) {
        if !self.0.want() {
            self.0.redial();
        }
    }

    /// Whether a connection stands.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.0.link().is_some()
    }

    /// Who answered, while a connection stands.
    #[must_use]
    pub fn info(&self) -> Option<PeerInfo> {
        self.0.link().map(|link| link.info.clone())
    }

    /// Why there is no connection; `None` while one stands or before the first attempt has ended.
    #[must_use]
    pub fn last_error(&self) -> Option<Disconnect> {
        self.0.phase.borrow().why().cloned()
    }

    /// The address that this handle dials.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.0.addr
    }

    /// Counters of the connection that stands.
    #[must_use]
    pub fn stats(&self) -> Option<LinkStats> {
        let stats = self.0.link()?.connection.stats();
        Some(LinkStats {
            send_calls: stats.udp_tx.ios,
            sent_packets: stats.udp_tx.datagrams,
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            lost_packets: stats.path.lost_packets,
            round_trip: stats.path.rtt,
            mtu_bytes: stats.path.current_mtu,
        })
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({}, {:?})", self.0.addr, self.0.expect)
    }
}

/// Counters of one connection since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkStats {
    /// Calls to the system that sent something; each can send several packets.
    pub send_calls: u64,
    /// UDP packets sent.
    pub sent_packets: u64,
    /// Bytes sent inside UDP packets.
    pub sent_bytes: u64,
    /// Bytes received inside UDP packets.
    pub received_bytes: u64,
    /// Packets that were taken for lost.
    pub lost_packets: u64,
    /// Best estimate of the time there and back.
    pub round_trip: Duration,
    /// Largest UDP payload that the path is known to bear.
    pub mtu_bytes: u16,
}

/// What all clones of a peer's handle share. Dropped, it ends the connection.
pub(crate) struct PeerHandle {
    endpoint: Arc<EndpointInner>,
    addr: SocketAddr,
    expect: Option<NodeId>,
    dialler: Arc<Dialler>,
    phase: watch::Receiver<Phase>,
}

/// The part of a handle that its dialling task holds.
struct Dialler {
    link: Mutex<Option<Arc<Link>>>,
    phase: watch::Sender<Phase>,
    wanted: AtomicBool,
    abandoned: AtomicBool,
    /// Ends the pause between attempts, or has another attempt begun beside the one under way.
    nudge: Notify,
}

#[derive(Clone, Debug)]
enum Phase {
    /// Nobody has used the handle yet.
    Idle,
    /// An attempt is under way; with what ended the one before.
    Dialling(Option<Disconnect>),
    Up,
    Down(Disconnect),
}

impl Phase {
    /// Why there is no connection, where that is known.
    const fn why(&self) -> Option<&Disconnect> {
        match self {
            Self::Down(why) => Some(why),
            Self::Dialling(before) => before.as_ref(),
            Self::Idle | Self::Up => None,
        }
    }
}

impl PeerHandle {
    pub(crate) fn new(
        endpoint: Arc<EndpointInner>,
        addr: SocketAddr,
        expect: Option<NodeId>,
    ) -> Arc<Self> {
        let (sender, phase) = watch::channel(Phase::Idle);
        let dialler = Arc::new(Dialler {
            link: Mutex::new(None),
            phase: sender,
            wanted: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            nudge: Notify::new(),
        });
        Arc::new(Self { endpoint, addr, expect, dialler, phase })
    }

    pub(crate) fn redial(&self) {
        self.dialler.nudge.notify_one();
    }

    /// That node has just connected from the peer's address, so it listens there: nobody need wait for the next attempt, or for
    /// one whose packets went to a process that is gone, or for a connection to such a one to be found dead, whose packets QUIC
    /// repeats after seconds only.
    pub(crate) fn heard(&self, node: NodeId) {
        if !self.dialler.wanted.load(Ordering::Acquire) {
            return;
        }
        match self.link() {
            Some(link) if link.info.node == node => return,
            Some(link) => drop(link.end(&Disconnect::Restarted)),
            None => {}
        }
        self.redial();
    }

    fn link(&self) -> Option<Arc<Link>> {
        self.dialler.link.lock().clone()
    }

    /// The link, or why there is none; in that case one is being made.
    fn link_now(&self) -> Result<Arc<Link>, CallError> {
        self.link().ok_or_else(|| {
            self.want();
            // The dialling task may not have seen it yet.
            if self.endpoint.is_closing() {
                return CallError::NotConnected(Disconnect::Closed);
            }
            self.unconnected()
        })
    }

    fn unconnected(&self) -> CallError {
        let why = self.phase.borrow().why().cloned();
        CallError::unconnected(why.unwrap_or(Disconnect::Connecting))
    }

    /// Waits for an attempt that is under way.
    async fn connect(&self, limit: Duration) -> Result<Arc<Link>, CallError> {
        if let Some(link) = self.link() {
            return Ok(link);
        }
        self.want();
        let mut phase = self.phase.clone();
        let settled = phase.wait_for(|phase| matches!(phase, Phase::Up | Phase::Down(_)));
        if self.within(limit, settled).await.is_none() {
            return Err(self.unconnected());
        }
        self.link_now()
    }

    /// Starts the dialling task if nobody has; true if nobody had.
    fn want(&self) -> bool {
        let first = !self.dialler.wanted.swap(true, Ordering::AcqRel);
        if first {
            let endpoint = self.endpoint.clone();
            let (addr, expect) = (self.addr, self.expect);
            self.endpoint.runtime.spawn(self.dialler.clone().run(endpoint, addr, expect));
        }
        first
    }

    /// Waits for a future with the endpoint's timer, so that callers need no runtime of their own; `None` when the time
    /// is over.
    async fn within<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        let timer = {
            let _runtime = self.endpoint.runtime.enter();
            tokio::time::sleep(limit)
        };
        tokio::select! {
            biased;
            output = future => Some(output),
            () = timer => None,
        }
    }
}

impl Drop for PeerHandle {
    fn drop(&mut self) {
        self.dialler.abandoned.store(true, Ordering::Release);
        if let Some(link) = self.dialler.link.lock().take() {
            link.end(&Disconnect::Closed);
        }
        self.dialler.nudge.notify_one();
    }
}

struct ClosedOnDrop<'a>(&'a watch::Sender<Phase>);

impl Drop for ClosedOnDrop<'_> {
    fn drop(&mut self) {
        self.0.send_replace(Phase::Down(Disconnect::Closed));
    }
}

impl Dialler {
    async fn run(
        self: Arc<Self>,
        endpoint: Arc<EndpointInner>,
        addr: SocketAddr,
        expect: Option<NodeId>,
    ) {
        // Also when the runtime ends around it: who waits for a connection must not wait on.
        let _closed = ClosedOnDrop(&self.phase);
        let mut backoff = Backoff::default();
        while !self.is_over(&endpoint) {
            let before = self.phase.borrow().why().cloned();
            self.phase.send_replace(Phase::Dialling(before));
            let why = match self.attempt(&endpoint, addr, expect).await {
                Ok(ready) => {
                    backoff.reset();
                    self.work(ready, &endpoint).await
                }
                Err(why) => why,
            };
            tracing::debug!(%addr, %why, "no connection to peer");
            self.phase.send_replace(Phase::Down(why));
            if self.is_over(&endpoint) {
                break;
            }
            let pause = backoff.pause(&mut rand::rng());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.nudge.notified() => backoff.reset(),
            }
        }
    }

    /// One attempt to connect. When it turns out meanwhile that somebody listens at the address, its packets may have gone to
    /// a process that is gone, and QUIC repeats them after seconds only: unless it succeeds in a moment another one is begun
    /// beside it. It is not given up for that: two who dial each other over a slow path would give up for ever.
    async fn attempt(
        &self,
        endpoint: &EndpointInner,
        addr: SocketAddr,
        expect: Option<NodeId>,
    ) -> Result<ReadyLink, Disconnect> {
        let mut first = None;
        let mut last = Box::pin(endpoint.dial(addr, expect));
        loop {
            tokio::select! {
                outcome = &mut last => return outcome,
                outcome = settled(&mut first) => match outcome {
                    Ok(ready) => return Ok(ready),
                    Err(_) => first = None,
                },
                () = self.nudged(endpoint) => {
                    if self.is_over(endpoint) {
                        return Err(Disconnect::Closed);
                    }
                    let before = std::mem::replace(&mut last, Box::pin(endpoint.dial(addr, expect)));
                    first.get_or_insert(before);
                }
            }
        }
    }

    /// Waits until the peer was heard from and a moment has passed, or all is over.
    async fn nudged(&self, endpoint: &EndpointInner) {
        self.nudge.notified().await;
        if !self.is_over(endpoint) {
            tokio::time::sleep(MOMENT).await;
        }
    }

    /// Gives the link out until it ends.
    async fn work(&self, ready: ReadyLink, endpoint: &EndpointInner) -> Disconnect {
        let link = ready.link.clone();
        *self.link.lock() = Some(link.clone());
        if self.is_over(endpoint) {
            link.end(&Disconnect::Closed);
        }
        self.phase.send_replace(Phase::Up);
        let why = ready.run(endpoint.handler.clone()).await;
        *self.link.lock() = None;
        why
    }

    fn is_over(&self, endpoint: &EndpointInner) -> bool {
        self.abandoned.load(Ordering::Acquire) || endpoint.is_closing()
    }
}

/// The outcome of the attempt, if there is one.
async fn settled<T>(attempt: &mut Option<Pin<Box<impl Future<Output = T>>>>) -> T {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}
