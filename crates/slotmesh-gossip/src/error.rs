use std::net::SocketAddr;

use slotmesh_slots::DecodeError;

/// Why an input was refused. Nothing changed in any of these cases.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GossipError {
    /// The datagram is not one of ours, or was cut or damaged. Sending it again cannot help.
    #[error("malformed gossip datagram from {from}: {reason}")]
    Malformed {
        /// Where the datagram came from.
        from: SocketAddr,
        /// What is wrong with it.
        reason: DecodeError,
    },
    /// The datagram speaks another version of the protocol.
    #[error("gossip datagram from {from} speaks version {found}, this node {ours}")]
    Version {
        /// Where the datagram came from.
        from: SocketAddr,
        /// The version it names.
        found: u8,
        /// The version this node speaks.
        ours: u8,
    },
    /// The datagram is longer than any that a node sends.
    #[error("gossip datagram from {from} has {len} bytes")]
    TooLong {
        /// Where the datagram came from.
        from: SocketAddr,
        /// Its length in bytes.
        len: usize,
    },
    /// The metadata does not fit; shorten it.
    #[error("metadata of {len} bytes is above the limit of {max}")]
    MetaTooLong {
        /// Length in bytes of what was given.
        len: usize,
        /// Longest metadata in bytes.
        max: usize,
    },
    /// This node has left; it announces nothing any more.
    #[error("this node has left the cluster")]
    HasLeft,
}
