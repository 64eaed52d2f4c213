use std::io;
use std::net::SocketAddr;

use slotmesh_control::Rebalance;
use slotmesh_core::DataError;
use slotmesh_transport::{BindError, IdentityError, RefusedReason};

/// Settings that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid settings: {}", .problems.join("; "))]
pub struct ConfigError {
    /// Every problem found.
    pub problems: Vec<String>,
}

/// Why a node did not start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A socket could not be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The guard port is taken: another process uses this address.
    #[error("another process holds the guard port {addr}: {source}")]
    Guard {
        /// The address.
        addr: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The certificate could not be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The thread ended before it was ready.
    #[error("a thread of the node ended before it was ready")]
    Ended,
}

/// Why an operation failed. Only [`Ambiguous`](Self::Ambiguous) leaves open whether a write happened; all others changed
/// nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpError {
    /// Nobody may serve the slot within the deadline: no cluster yet, no majority, or its owner is down and not replaced
    /// yet. A later retry helps. Serve from elsewhere meanwhile.
    #[error("no node may serve the slot now: {why}")]
    Unavailable {
        /// The last reason met.
        why: String,
    },
    /// The outcome of a write is unknown: it may have happened, happen yet, or never. Retrying may apply it twice.
    #[error("the outcome of the write is unknown: {why}")]
    Ambiguous {
        /// What was met.
        why: String,
    },
    /// The slot has fewer copies in sync than the write asks for; a retry helps once there are more.
    #[error("{have} copies are in sync, {wanted} are wanted")]
    TooFewCopies {
        /// Nodes that are, the primary included.
        have: u8,
        /// What the write asked for.
        wanted: u8,
    },
    /// Replicas or connections do not keep up; a retry after a pause helps.
    #[error("too much is under way")]
    Busy,
    /// The node's byte budget is full of what may not be evicted; a retry helps once some of it is removed or expires.
    #[error("the byte budget is full")]
    Full,
    /// The key, the value or the batch is too large; a retry cannot help.
    #[error("{bytes} bytes are too many, {max} are allowed")]
    TooLarge {
        /// Size of what was refused.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// The value to increment is no integer.
    #[error("value is not an integer or out of range")]
    NotAnInteger,
    /// The sum does not fit 64 bits.
    #[error("increment or decrement would overflow")]
    Overflow,
    /// The token of this write was another write's; nothing happened. Tokens are drawn anew for each.
    #[error("the token was used for another write")]
    TokenReused,
    /// The owner does not run this function: it has none of that name and version, or it took too long a moment ago. Nothing happened.
    #[error("the owner does not run this function")]
    NoFunction,
    /// The function failed; nothing was changed.
    #[error("the function failed: {why}")]
    FunctionFailed {
        /// What it says.
        why: String,
    },
    /// The owner belongs to another cluster or speaks another version; a retry cannot help until that is mended.
    #[error("the owner refuses this node: {0}")]
    Refused(RefusedReason),
    /// The node is shut down.
    #[error("the node is shut down")]
    Stopped,
}

impl OpError {
    /// Whether the same call may succeed after a pause, with nothing changed by the caller. Look at
    /// [`may_have_happened`](Self::may_have_happened) before a write is repeated.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. }
            | Self::Ambiguous { .. }
            | Self::TooFewCopies { .. }
            | Self::Busy
            | Self::Full => true,
            Self::TooLarge { .. }
            | Self::NotAnInteger
            | Self::Overflow
            | Self::TokenReused
            | Self::NoFunction
            | Self::FunctionFailed { .. }
            | Self::Refused(_)
            | Self::Stopped => false,
        }
    }

    /// Whether a write that failed so may have happened all the same, or happen yet.
    #[must_use]
    pub const fn may_have_happened(&self) -> bool {
        matches!(self, Self::Ambiguous { .. })
    }
}

/// Why the cluster did not decide what it was asked for. A retry is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The number cannot be had; nothing was asked.
    #[error("{asked} replicas cannot be had, 0 to {max} can")]
    OutOfRange {
        /// The number.
        asked: u8,
        /// The largest allowed.
        max: u8,
    },
    /// This node is in no cluster: it still looks for one, or it is a local one. Nothing was asked.
    #[error("this node is in no cluster")]
    NoCluster,
    /// Somebody else had the same thing decided otherwise meanwhile; whether this wish was granted before is unknown.
    #[error("another change came in between: {replicas} replicas are wanted now")]
    Superseded {
        /// What was decided last.
        replicas: u8,
    },
    /// Somebody else had the balance decided otherwise meanwhile; whether this wish was granted before is unknown.
    #[error("another change came in between: the balance is {rebalance:?} now")]
    Overruled {
        /// What was decided last.
        rebalance: Rebalance,
    },
    /// There is no such member. Nothing was asked.
    #[error("there is no such member")]
    NoMember,
    /// Nobody is left who could take the member's slots. Nothing was asked.
    #[error("no other member may take its slots")]
    LastMember,
    /// A majority of the voters answers, so nobody may go on without it. Nothing was begun.
    #[error("a majority of the voters answers")]
    MajorityAnswers,
    /// No decision within the time: no majority, or its leader is being replaced. It may come yet.
    #[error("nothing was decided in time; the change may come yet")]
    Undecided,
    /// The reform did not happen within the time: not all the nodes that this one sees promised it, or the majority is back. It
    /// was given up; ask again if it is still wanted.
    #[error(
        "nothing was reformed: not all nodes seen from here agreed in time, or the majority is back"
    )]
    NotReformed,
    /// The node is shut down.
    #[error("the node is shut down")]
    Stopped,
}

impl OpError {
    /// Whether the write may have happened.
    #[must_use]
    pub const fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Ambiguous { .. })
    }

    /// What a definite answer of the owner means to the caller; `None` for those that a retry elsewhere or later may
    /// turn into success.
    pub(crate) fn definite(error: &DataError) -> Option<Self> {
        match error {
            DataError::TooLarge { bytes, max } => Some(Self::TooLarge { bytes: *bytes, max: *max }),
            DataError::NotAnInteger => Some(Self::NotAnInteger),
            DataError::Overflow => Some(Self::Overflow),
            DataError::TokenReused => Some(Self::TokenReused),
            DataError::NoFunction => Some(Self::NoFunction),
            DataError::FunctionFailed { why } => Some(Self::FunctionFailed { why: why.clone() }),
            DataError::Full => Some(Self::Full),
            _ => None,
        }
    }
}
