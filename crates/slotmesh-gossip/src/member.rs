use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use slotmesh_slots::NodeId;

/// What this node believes about a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberState {
    /// It answers, as far as anybody told.
    Alive,
    /// Somebody got no answer; it may still refute.
    Suspect,
    /// It did not refute in time, or another process answers at its address.
    Dead,
    /// It said that it leaves.
    Left,
}

impl MemberState {
    /// Whether it still takes part: alive or suspect.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// One process of the cluster, as this node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its identity, new with each process start.
    pub node: NodeId,
    /// Where it receives datagrams; answers go there.
    pub addr: SocketAddr,
    /// How often it renewed what it says of itself (refutations and changes of metadata). Only itself raises it.
    pub incarnation: u64,
    /// What this node believes about it.
    pub state: MemberState,
    /// What it says of itself, opaque here, at most [`META_MAX`](crate::META_MAX) bytes. A newer incarnation replaces it.
    pub meta: Bytes,
}

/// What the application's own traffic tells about a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Evidence {
    /// It answered a request: counts like the answer to a probe.
    Replied,
    /// A connection to it broke: suspicion starts at once.
    ConnectionLost,
    /// Its host refused the connection or reset it statelessly: suspicion starts at once.
    Refused,
    /// It said that it leaves, for example by the reason of closing its connection.
    Departed,
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The receiver.
    pub to: SocketAddr,
    /// At most [`DATAGRAM_MAX`](crate::DATAGRAM_MAX) bytes.
    pub bytes: Bytes,
}

/// A change in what this node believes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A node is alive that was unknown, or was believed dead or departed.
    Joined(Member),
    /// The address or metadata of a living member changed.
    Changed(Member),
    /// Somebody got no answer from it. Evidence, not a verdict.
    Suspected(NodeId),
    /// The suspicion was wrong.
    Refuted(NodeId),
    /// It did not refute in time, or another process answers at its address. Evidence, not a verdict.
    Died(NodeId),
    /// It said that it leaves.
    Left(NodeId),
    /// This node's own timers came this much too late: it was stopped, or its thread was blocked. It judges nobody by
    /// that time.
    Paused(Duration),
}
