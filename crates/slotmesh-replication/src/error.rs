use slotmesh_slots::{DecodeError, Epoch, NodeId, Version};

/// Why a frame could not be handled. The link is of no use any more: close it and open a new one. Work handed out or
/// acknowledged before stays valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The frame is malformed.
    #[error("malformed replication frame: {0}")]
    Decode(#[from] DecodeError),
    /// The peer speaks another version of the link protocol; a retry cannot help.
    #[error("replication link of protocol version {0}, which is not spoken here")]
    Version(u8),
    /// There is no open link to that node.
    #[error("no open replication link with {0}")]
    NotOpen(NodeId),
    /// The peer broke the protocol.
    #[error("replication protocol violated: {0}")]
    Protocol(&'static str),
    /// More work is outstanding than a correct peer and a live caller ever leave.
    #[error("replication link has too much outstanding work")]
    Overflow,
}

/// Why a record was not taken over. Nothing changed here; the caller's store and the log disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// This node is not the slot's primary at the record's epoch.
    #[error("not the primary of that slot at that epoch")]
    NotPrimary,
    /// The record's seq does not follow the slot's last version.
    #[error("record does not follow {last}")]
    Gap {
        /// The last version of the slot's log.
        last: Version,
    },
}

/// A promise could not be given because a higher one was given before. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("already promised epoch {}", .promised.0)]
pub struct AlreadyHigher {
    /// The epoch promised before.
    pub promised: Epoch,
}

/// Why the caller could not carry out a [`ReplicaAction`](crate::ReplicaAction). The slot takes nothing more from the
/// link until the primary has asked anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// [`Replica::admits`](crate::Replica::admits) said no.
    #[error("overtaken by a promise or a newer attachment")]
    Overtaken,
    /// The digest does not match, or the store refused: the copy cannot be trusted.
    #[error("the copy does not match or could not be stored")]
    Corrupt,
}
