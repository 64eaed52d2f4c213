//! openraft's type parameters, chosen once.

use std::collections::BTreeSet;

use bytes::Bytes;
use openraft::EmptyNode;
use slotmesh_slots::NodeId;

openraft::declare_raft_types!(
    /// A log of opaque commands among nodes known by number; where they live is the transport's knowledge.
    pub(crate) Types:
        D = Bytes,
        R = Vec<u8>,
        NodeId = u64,
        Node = EmptyNode,
        Entry = openraft::Entry<Types>,
        SnapshotData = std::io::Cursor<Vec<u8>>,
);

pub(crate) type Raft = openraft::Raft<Types>;
pub(crate) type Entry = openraft::Entry<Types>;
pub(crate) type Snapshot = openraft::Snapshot<Types>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type Membership = openraft::Membership<u64, EmptyNode>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, EmptyNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, EmptyNode>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type Metrics = openraft::RaftMetrics<u64, EmptyNode>;

/// One set of voters, or two while a change is in progress: a quorum is a majority of each.
pub(crate) type Configs = Vec<BTreeSet<u64>>;

/// The identity behind openraft's number; zero is never one (messages that contain it are refused).
pub(crate) fn identity(number: u64) -> Option<NodeId> {
    NodeId::new(number)
}
