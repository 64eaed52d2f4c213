//! The port of the control log: what it drives, what a node knows of its leadership, and how a proposal can fail.
//!
//! The log carries opaque bytes, so that the engine behind it can be exchanged: consensus among voters in production, a
//! model with injected faults in the simulator.

use std::time::Duration;

use slotmesh_slots::{MonoTime, NodeId};

/// What the log drives: every voter applies the same commands in the same order.
pub trait LogMachine: Send + 'static {
    /// Applies the command at `index` and returns the outcome's bytes, which go to the proposer.
    ///
    /// Deterministic: reads no clock and no random number. Never panics: a command it cannot read has an outcome that
    /// says so. Indexes rise, with gaps (the log also carries entries of its own).
    fn apply(&mut self, index: u64, command: &[u8]) -> Vec<u8>;

    /// The whole state as bytes, as of the last applied command.
    fn snapshot(&self) -> Vec<u8>;

    /// Replaces the whole state by that of a snapshot; on an error the state is as it was.
    ///
    /// # Errors
    /// When the bytes are not a snapshot of this machine.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError>;
}

/// A snapshot that the machine could not read. The log of this node stops: it cannot follow the others any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot cannot be restored: {reason}")]
pub struct RestoreError {
    /// What was wrong with it.
    pub reason: String,
}

/// What a node knows of the log and of its leadership.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStatus {
    /// The leader of the latest term this node heard of; it may be gone by now.
    pub leader: Option<NodeId>,
    /// Whether this node believes itself the leader. A leader that was cut off goes on believing it: what may rest on
    /// leadership without a commit rests on [`quorum_acked`](Self::quorum_acked).
    pub is_leader: bool,
    /// The latest term this node heard of. Two nodes may lead one term, the second after the first.
    pub term: u64,
    /// When this node became leader of this term, read after a majority had voted for it; `None` on any other.
    pub leader_since: Option<MonoTime>,
    /// Whether the leader has applied an entry of its own term, hence everything that earlier leaders committed.
    /// Decisions taken from the machine's state before that are decisions on old news. False on any other node.
    pub caught_up: bool,
    /// When the last heartbeat that a quorum acknowledged was *sent*, on this node's clock: no other node can have been
    /// elected before this point plus the maximal election time, unless this node gave its claim up before: it voted for the
    /// other itself, or left the voters. So the claim is good for the moment at which it was asked for. It stops at once when
    /// the quorum falls silent. `None` when this node is no leader, or no quorum has answered it yet.
    pub quorum_acked: Option<MonoTime>,
    /// Who votes, sorted; while a change is in progress both the old and the new ones. Empty before founding.
    pub voters: Vec<NodeId>,
    /// Whether a change of voters was begun and its end is not known here to be committed: until then those who were voters may be
    /// needed still. Who comes to lead such a log has to change the voters again, for nobody else ends it.
    pub voters_changing: bool,
    /// Index of the last applied entry; zero before the first.
    pub last_applied: u64,
}

/// Whether a leader sends anything when no majority has answered it for so long, where followers campaign after `election_max` at the
/// latest. Those who hear a leader elect no other, although it may hear none of them; so it falls silent now and then, for long
/// enough that they do.
#[must_use]
pub fn leader_speaks(unanswered: Duration, election_max: Duration) -> bool {
    let (speaks, hushes) = (election_max * 2, election_max * 4);
    unanswered.as_micros() % (speaks + hushes).as_micros().max(1) < speaks.as_micros()
}

/// Why a proposal has no outcome. Only [`Timeout`](Self::Timeout), [`LeadershipLost`](Self::LeadershipLost) and
/// [`Stopped`](Self::Stopped) leave open whether it was, or will be, applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Another node leads, or nobody does; nothing was proposed. Ask the hinted leader.
    #[error("this node does not lead the control log (leader: {leader:?})")]
    NotLeader {
        /// The leader this node knows of, if any.
        leader: Option<NodeId>,
    },
    /// This node leads, but no majority of voters answers it; nothing was proposed. Retry later, or another voter.
    #[error("no majority of the voters answers this leader")]
    NoQuorum,
    /// Too many proposals wait already; nothing was proposed. Retry later.
    #[error("too many proposals wait for the control log")]
    Busy,
    /// Another change of voters is in progress; nothing was proposed. Retry when it is over.
    #[error("another change of voters is in progress")]
    VotersChanging,
    /// The wanted voters are none, too many, or contain one that never answered; the voters are as they were.
    #[error("these voters cannot be set: {reason}")]
    BadVoters {
        /// What was wrong with them.
        reason: &'static str,
    },
    /// The command is larger than an entry may be; nothing was proposed. A retry cannot help.
    #[error("the command has {bytes} bytes, {limit} are allowed")]
    TooLarge {
        /// Size of the command.
        bytes: usize,
        /// The largest allowed size.
        limit: usize,
    },
    /// The deadline came first: the outcome is unknown. A retry is harmless because commands are compare-and-set.
    #[error("the deadline came before the outcome")]
    Timeout,
    /// This node ceased to lead before the outcome, which is unknown: what another leader had taken back here may still be in
    /// the log of a third, which leads one day (Raft §5.4.2, figure 8). A retry is harmless because commands are compare-and-set.
    #[error("the leadership ended before the outcome")]
    LeadershipLost,
    /// The log of this node was stopped: the outcome is unknown.
    #[error("the control log of this node has stopped")]
    Stopped,
}
