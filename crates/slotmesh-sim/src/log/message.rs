use std::collections::BTreeSet;

use bytes::Bytes;
use slotmesh_slots::{MonoTime, NodeId};

use super::entries::Voters;

pub(crate) type NodeSet = BTreeSet<NodeId>;

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) term: u64,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The first entry of a reign.
    Begin,
    Command(Bytes),
    /// Who votes from here on: while `next` is set, a majority of both is needed (joint consensus, Raft §6).
    Voters {
        current: NodeSet,
        next: Option<NodeSet>,
    },
}

/// The place of an entry: its term and its index, which begins at one.
pub(crate) type Place = (u64, u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogMessage {
    Vote {
        term: u64,
        last: Place,
    },
    VoteReply {
        term: u64,
        granted: bool,
    },
    Append {
        term: u64,
        before: Place,
        entries: Vec<Entry>,
        commit: u64,
        sent: MonoTime,
    },
    /// The whole state after this entry, for a log that lacks entries which are kept no more.
    Install {
        term: u64,
        last: Place,
        voters: Voters,
        state: Bytes,
        sent: MonoTime,
    },
    AppendReply {
        term: u64,
        matched: Result<u64, u64>,
        sent: MonoTime,
    },
}

impl LogMessage {
    pub(super) fn term(&self) -> u64 {
        match self {
            Self::Vote { term, .. }
            | Self::VoteReply { term, .. }
            | Self::Append { term, .. }
            | Self::Install { term, .. }
            | Self::AppendReply { term, .. } => *term,
        }
    }
}
