use slotmesh_slots::NodeId;

/// Why a call to the consensus engine failed. For proposals see
/// [`ProposeError`](slotmesh_control::log::ProposeError).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConsensusError {
    /// The settings contradict each other; all problems are listed. Nothing was started.
    #[error("consensus settings: {0}")]
    Config(String),
    /// The message speaks another version of the protocol. It was ignored; a retry cannot help.
    #[error("a consensus message of version {found}, this node speaks {expected}")]
    Version {
        /// The version in the message.
        found: u8,
        /// The version this node speaks.
        expected: u8,
    },
    /// The bytes are no message, or one that no correct peer sends. It was ignored; a retry cannot help.
    #[error("not a consensus message: {0}")]
    Malformed(&'static str),
    /// The message speaks in the name of another node than the one that sent it. It was ignored.
    #[error("node {from} sent a consensus message in another node's name")]
    WrongSender {
        /// Who sent it.
        from: NodeId,
    },
    /// The log was founded already, here or by a leader that reached this node. Nothing was changed.
    #[error("the control log has been initialized already")]
    AlreadyInitialized,
    /// The founder's voters are none, too many, or leave the founder out. Nothing was changed.
    #[error("bad founding voters: {0}")]
    BadVoters(&'static str),
    /// The engine was shut down, or met an error it could not survive. Only a new start, under a new identity, helps.
    #[error("the engine has stopped")]
    Stopped,
}

/// Why a message got no answer from a peer. The engine retries after a short pause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// No answer came in the given time.
    #[error("no answer in time")]
    Timeout,
    /// The peer cannot be reached, or refused.
    #[error("unreachable: {0}")]
    Unreachable(String),
}
