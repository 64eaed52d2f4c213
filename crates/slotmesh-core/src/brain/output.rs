use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use slotmesh_control::AbsenceEvent;
use slotmesh_slots::{Generation, NodeId};

/// What the brain wants done; its driver carries it out and reports back through the `handle_*` methods.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Output {
    /// Send this gossip datagram; it may get lost.
    Datagram {
        /// The receiver's control endpoint.
        to: SocketAddr,
        /// At most 1,200 bytes.
        body: Bytes,
    },
    /// Send this control message; it may get lost with its connection.
    Send {
        /// The receiver.
        to: NodeId,
        /// Its control endpoint.
        addr: SocketAddr,
        /// The message for its [`Brain::handle_message`](crate::Brain::handle_message).
        body: Bytes,
    },
    /// Propose this command to the local control log, then call
    /// [`Brain::handle_proposed`](crate::Brain::handle_proposed), whatever came of it.
    Propose(Bytes),
    /// Take part in the control log of this generation and no other; a log of another one is stopped.
    StartLog {
        /// The generation.
        generation: Generation,
        /// Set on the founder alone: begin the log with these voters.
        found_with: Option<Vec<NodeId>>,
    },
    /// Take no part in the running log from now on, as if its process were stopped, but keep it beside the one that is started
    /// next. One that is kept already stays it.
    ParkLog,
    /// Stop the running log and take part in the one that was kept, where it was left.
    ResumeLog,
    /// Stop the log that was kept.
    DropParkedLog,
    /// Change the log's voters to these, then call [`Brain::handle_voters_set`](crate::Brain::handle_voters_set).
    SetVoters(Vec<NodeId>),
    /// Whether the local log may campaign.
    SetElections(bool),
    /// This node belongs to this generation now: connections say so from here on.
    SetGeneration(Generation),
    /// This node's generation was superseded while it was away: it serves nothing any more. Drop it with all that it holds,
    /// and start another one, with another identity, in its place.
    Rejoin,
    /// Try to connect to the node's guard port, then call
    /// [`Brain::handle_guard`](crate::Brain::handle_guard).
    ProbeGuard {
        /// The node.
        node: NodeId,
        /// Its guard port.
        addr: SocketAddr,
    },
    /// Something an operator wants to know.
    Event(NodeEvent),
}

/// What happened, for logs, metrics and the event list.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NodeEvent {
    /// Still looking for a cluster: this many candidates of those expected are here.
    WaitingForNodes {
        /// Candidates seen, this node included.
        present: usize,
        /// Candidates needed to found.
        expected: usize,
    },
    /// This node belongs to a cluster now.
    JoinedGeneration(Generation),
    /// The cluster that this node was joining is gone, all of it, or the one that it was to found was given up: another node is to be
    /// started in this one's place.
    ClusterGone(Generation),
    /// A member does not reach another that the leader, which says so, hears: neither copies the other's slots, and they do not both
    /// vote where others are there.
    OutOfReach {
        /// The member.
        node: NodeId,
        /// The other.
        other: NodeId,
    },
    /// A node of another generation of the same cluster name is about. The two never merge.
    OtherGeneration {
        /// Who.
        node: NodeId,
        /// Its generation.
        theirs: Generation,
    },
    /// The majority is lost, and this node asks the others that it sees to go on without it.
    Reforming(Generation),
    /// The majority is back, or not all that are seen promised in time: nothing was reformed, and nothing will be until this is
    /// asked for again.
    ReformCancelled(Generation),
    /// This node goes on with these survivors, without the majority of the voters there were.
    Reformed {
        /// The new generation.
        generation: Generation,
        /// Who goes on.
        survivors: usize,
    },
    /// The others went on without this node: it gives up what it holds and joins them as a new one.
    Superseded {
        /// Their generation.
        theirs: Generation,
    },
    /// The node is a member now.
    MemberAdded(NodeId),
    /// The node is no member any more.
    MemberRemoved(NodeId),
    /// Gossip found no answer from the node.
    Suspected(NodeId),
    /// This node leads the control plane now.
    Leading,
    /// This node leads the control plane no more.
    NotLeading,
    /// The node's lease is over and its slots are being taken over.
    FailoverStarted {
        /// The failed primary.
        node: NodeId,
        /// How many slots it was primary of.
        slots: usize,
    },
    /// All slots of the failed primary have another one.
    FailoverDone {
        /// The failed primary.
        node: NodeId,
        /// From the decision to the commit.
        took: Duration,
    },
    /// Copies were lost with the node: whether they are waited for, and why no more.
    CopiesLost {
        /// Who had them.
        node: NodeId,
        /// What becomes of them.
        event: AbsenceEvent,
    },
    /// Nodes begin to exchange heavy slots for light ones, because loads are apart.
    Exchanging {
        /// Primary roles that are handed over.
        roles: usize,
        /// Copies that are made in the place of others.
        copies: usize,
    },
    /// Slots restarted empty because no copy was left.
    SlotsLost(u64),
    /// This process did not run for this long.
    Paused(Duration),
    /// This node gave everything away and is no member any more.
    Left,
}
