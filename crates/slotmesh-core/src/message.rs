use serde::{Deserialize, Serialize};
use slotmesh_control::{Claim, ClusterDelta, Command, LoadReport, NodeInfo};
use slotmesh_slots::{Generation, NodeId, Slot, Version};

/// A control message with the generation of its sender; one of another generation is refused.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) generation: Option<Generation>,
    pub(crate) message: Message,
}

/// What brains tell each other beside gossip, consensus and data. Sent one way and at most once: whoever waits for an
/// answer asks again.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// A candidate founder asks for the promise of this generation.
    FoundAsk(Generation),
    /// The promise is given.
    FoundPromise(Generation),
    /// The candidate founder gives the promise back.
    FoundRelease(Generation),
    /// The majority is lost: promise to leave the old generation's log for this new one.
    ReformAsk {
        generation: Generation,
        /// The cluster version that the sender has.
        version: u64,
    },
    /// The promise is given; with what the receiver's cluster state lacks, in order.
    ReformPromise { generation: Generation, deltas: Vec<ClusterDelta> },
    /// The one who asked gives way to another.
    ReformRelease(Generation),
    /// Says nothing but the generation that stands beside it.
    Reformed,
    /// Asks the leader for a lease, and for what the sender's cluster state lacks.
    Ping(Ping),
    /// Answers a ping.
    Pong(Pong),
    /// The leader tells what was just committed.
    Update(ClusterDelta),
    /// The leader fails a primary over: promise the epoch after each claim and say how far you are.
    Promise(Vec<Claim>),
    /// The promises that were given.
    Promised(Vec<(Slot, Version)>),
    /// What the sender's slots hold, for the leader.
    Loads(LoadReport),
    /// Please propose this; it is a compare-and-set and is sent again while it is wanted.
    Request(Command),
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Ping {
    /// The sender's clock at sending, only to be echoed.
    pub(crate) sent_micros: u64,
    /// The cluster version the sender has applied.
    pub(crate) version: u64,
    /// How long the sender has not heard a leader answer.
    pub(crate) unheard_micros: u64,
    /// Members of which it hears nothing: replicas of its slots, and voters.
    pub(crate) silent: Vec<NodeId>,
    /// Set while the sender is no member as far as it knows.
    pub(crate) join: Option<NodeInfo>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Pong {
    pub(crate) sent_micros: u64,
    /// Set when a lease was granted: it counts once the receiver has applied this cluster version.
    pub(crate) granted: Option<u64>,
    pub(crate) leader: Option<NodeId>,
    pub(crate) voters: Vec<NodeId>,
    pub(crate) voters_changing: bool,
    /// Some of them do not reach each other.
    pub(crate) voters_apart: bool,
    /// What the sender of the ping lacks, in order.
    pub(crate) deltas: Vec<ClusterDelta>,
}

/// What gossip carries about each node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) info: NodeInfo,
    /// The cluster it belongs to; `None` while it looks for one.
    pub(crate) generation: Option<Generation>,
}
