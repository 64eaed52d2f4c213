use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use slotmesh_slots::{Generation, NodeId};

use crate::disconnect::Disconnect;
use crate::frame::FrameType;
use crate::link::Link;
use crate::stream::FrameStream;

/// Who is at the other end of a connection, as its certificate and hello say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// The node, proved by its certificate.
    pub node: NodeId,
    /// Where its packets come from; the port is the one it listens on when it dials from there.
    pub addr: SocketAddr,
    /// Its generation when the connection was made.
    pub generation: Option<Generation>,
    /// Which of its I/O threads this is.
    pub lane: u8,
    /// What else its hello said.
    pub info: Bytes,
    /// Whether this side dialled: then calls go out on it; else requests come in.
    pub dialled: bool,
}

/// What an endpoint does with what peers send.
///
/// All methods run on the endpoint's runtime, most of them inside the task that reads the connection: while one runs,
/// nothing else of that connection is read, and on a current-thread runtime nothing else happens at all. Hand long work
/// to other threads. Bodies are slices of receive buffers of up to 64 KiB: copy what is kept.
pub trait Handler: Send + Sync + 'static {
    /// A request. Answer through `reply` now or later, from any thread.
    fn request(&self, from: &PeerInfo, request: Request, reply: Reply);

    /// A one-way message.
    fn message(&self, from: &PeerInfo, kind: u8, body: Bytes) {
        let _ = (from, kind, body);
    }

    /// A datagram; some get lost, and their order means nothing.
    fn datagram(&self, from: &PeerInfo, body: Bytes) {
        let _ = (from, body);
    }

    /// The peer opened a stream of this kind. Dropping it refuses it.
    fn stream(&self, from: &PeerInfo, kind: u8, stream: FrameStream) {
        let _ = (from, kind, stream);
    }

    /// A connection stands, in either direction; comes before anything else of it.
    fn connected(&self, peer: &PeerInfo) {
        let _ = peer;
    }

    /// A connection that stood has ended; comes once, after everything that its reader delivered.
    fn disconnected(&self, peer: &PeerInfo, why: &Disconnect) {
        let _ = (peer, why);
    }

    /// An attempt to connect, of either side, was refused before a connection stood.
    fn refused(&self, addr: SocketAddr, why: &Disconnect) {
        let _ = (addr, why);
    }

    /// An attempt of this side ended without a connection, for whatever reason; more of them follow.
    fn unanswered(&self, addr: SocketAddr, why: &Disconnect) {
        let _ = (addr, why);
    }
}

/// A request as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What the application makes of the body.
    pub kind: u8,
    /// The request's bytes.
    pub body: Bytes,
    /// How long the caller still waits, counted from its sending; the way here is not taken off.
    pub budget: Duration,
}

/// The right to answer one request, once. Dropped unanswered, it tells the caller so.
pub struct Reply {
    link: Option<Arc<Link>>,
    id: u32,
}

impl Reply {
    pub(crate) fn new(link: Arc<Link>, id: u32) -> Self {
        Self { link: Some(link), id }
    }

    /// Answers. A body above the peer's limit would end the connection, so it is withheld and counts as dropped; the same
    /// happens when the peer does not read its answers and too many bytes wait for it.
    pub fn send(mut self, body: Bytes) {
        self.answer(FrameType::Reply, 0, body);
    }

    /// Answers with a status that the application defines; the caller gets it as an error.
    pub fn status(mut self, status: u8, body: Bytes) {
        self.answer(FrameType::Status, status, body);
    }

    /// Tells the caller that the request was not looked at because this side has too much to do.
    pub fn busy(mut self) {
        self.answer(FrameType::Busy, 0, Bytes::new());
    }

    /// Whether the connection is still there; an answer is pointless when it is not.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_open())
    }

    fn answer(&mut self, frame_type: FrameType, tag: u8, body: Bytes) {
        if let Some(link) = self.link.take() {
            link.reply(frame_type, tag, self.id, body);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.answer(FrameType::Dropped, 0, Bytes::new());
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({})", self.id)
    }
}
