//! The messages between voters: `version, kind, body`, and the one place that knows their encoding.
//!
//! Peers are authenticated, but not trusted to be correct: a message is decoded within a size limit, and what decodes is
//! checked against everything the engine takes for granted, because the engine would panic or give in to it.

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::error::SnapshotMismatch;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use slotmesh_slots::NodeId;

use crate::ConsensusError;
use crate::types::{Entry, LogId, Membership, SnapshotMeta, Types, Vote};

/// Version of the messages; raised when one changes its meaning or encoding.
const VERSION: u8 = 1;

/// Bytes of a message at most, both ways; longer ones are refused unread. An append, or a piece of a snapshot, plus what
/// surrounds it.
pub const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Bytes of commands in one append at most, and of one command. A reform puts the state of all slots into one: some 700 KiB where no two
/// of them are alike.
pub(crate) const APPEND_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a snapshot that travel in one message.
pub(crate) const SNAPSHOT_CHUNK_BYTES: usize = 256 * 1024;

/// Bytes of a snapshot at most. The state of 16384 slots takes well below 1 MiB; the rest is margin.
const SNAPSHOT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Voters in one set at most. More cost commits and win nothing: five survive two losses.
pub(crate) const VOTERS_MAX: usize = 9;

/// Nodes in one membership at most: two sets of voters, and as many newcomers on their way in.
const MEMBERS_MAX: usize = 4 * VOTERS_MAX;

/// Terms and indexes at most: a million elections a second for years, and no sum of them overflows.
const NUMBER_MAX: u64 = 1 << 56;

/// Characters of a snapshot's name at most; ours take about 60.
const SNAPSHOT_NAME_MAX: usize = 128;

mod kind {
    pub(super) const APPEND: u8 = 1;
    pub(super) const VOTE: u8 = 2;
    pub(super) const SNAPSHOT: u8 = 3;
    pub(super) const APPEND_REPLY: u8 = 129;
    pub(super) const VOTE_REPLY: u8 = 130;
    pub(super) const SNAPSHOT_REPLY: u8 = 131;
    pub(super) const SNAPSHOT_RESTART: u8 = 132;
}

pub(crate) enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<u64>),
    Snapshot(InstallSnapshotRequest<Types>),
}

pub(crate) enum Reply {
    Append(AppendEntriesResponse<u64>),
    Vote(VoteResponse<u64>),
    Snapshot(InstallSnapshotResponse<u64>),
    /// The receiver lacks the beginning of this snapshot.
    SnapshotRestart(SnapshotMismatch),
}

type Checked = Result<(), ConsensusError>;

impl Request {
    pub(crate) fn encode(&self) -> Result<Bytes, ConsensusError> {
        match self {
            Self::Append(request) => encode(kind::APPEND, request),
            Self::Vote(request) => encode(kind::VOTE, request),
            Self::Snapshot(request) => encode(kind::SNAPSHOT, request),
        }
    }

    pub(crate) fn decode(from: NodeId, message: &[u8]) -> Result<Self, ConsensusError> {
        let (kind, body) = open(message)?;
        let request = match kind {
            kind::APPEND => Self::Append(decode(body)?),
            kind::VOTE => Self::Vote(decode(body)?),
            kind::SNAPSHOT => Self::Snapshot(decode(body)?),
            _ => return Err(ConsensusError::Malformed("unknown kind of request")),
        };
        request.check()?;
        if request.vote().leader_id().node_id == from.get() {
            Ok(request)
        } else {
            Err(ConsensusError::WrongSender { from })
        }
    }

    fn vote(&self) -> &Vote {
        match self {
            Self::Append(request) => &request.vote,
            Self::Vote(request) => &request.vote,
            Self::Snapshot(request) => &request.vote,
        }
    }

    fn check(&self) -> Checked {
        check_vote(self.vote())?;
        let leads = !matches!(self, Self::Vote(_));
        ensure(self.vote().is_committed() == leads, "a vote that does not fit the kind")?;
        match self {
            Self::Append(request) => check_append(request),
            Self::Vote(request) => check_log_id(request.last_log_id.as_ref(), &request.vote),
            Self::Snapshot(request) => check_snapshot(request),
        }
    }
}

impl Reply {
    pub(crate) fn encode(&self) -> Result<Bytes, ConsensusError> {
        match self {
            Self::Append(reply) => encode(kind::APPEND_REPLY, reply),
            Self::Vote(reply) => encode(kind::VOTE_REPLY, reply),
            Self::Snapshot(reply) => encode(kind::SNAPSHOT_REPLY, reply),
            Self::SnapshotRestart(reply) => encode(kind::SNAPSHOT_RESTART, reply),
        }
    }

    pub(crate) fn decode(message: &[u8]) -> Result<Self, ConsensusError> {
        let (kind, body) = open(message)?;
        let reply = match kind {
            kind::APPEND_REPLY => Self::Append(decode(body)?),
            kind::VOTE_REPLY => Self::Vote(decode(body)?),
            kind::SNAPSHOT_REPLY => Self::Snapshot(decode(body)?),
            kind::SNAPSHOT_RESTART => Self::SnapshotRestart(decode(body)?),
            _ => return Err(ConsensusError::Malformed("unknown kind of reply")),
        };
        reply.check()?;
        Ok(reply)
    }

    fn check(&self) -> Checked {
        match self {
            Self::Append(AppendEntriesResponse::HigherVote(vote)) => check_vote(vote),
            // No peer of ours takes an append in part.
            Self::Append(AppendEntriesResponse::PartialSuccess(_)) => {
                Err(ConsensusError::Malformed("a partial success"))
            }
            Self::Append(_) | Self::SnapshotRestart(_) => Ok(()),
            Self::Vote(reply) => {
                check_vote_or_none(&reply.vote)?;
                reply.last_log_id.as_ref().map_or(Ok(()), check_position)
            }
            Self::Snapshot(reply) => check_vote_or_none(&reply.vote),
        }
    }
}

fn ensure(holds: bool, otherwise: &'static str) -> Checked {
    if holds { Ok(()) } else { Err(ConsensusError::Malformed(otherwise)) }
}

fn check_vote(vote: &Vote) -> Checked {
    let holder = vote.leader_id();
    ensure(holder.term > 0 && holder.term < NUMBER_MAX, "a term out of range")?;
    ensure(holder.node_id != 0, "a vote for nobody")
}

/// As [`check_vote`], but a node that never voted says so with term zero.
fn check_vote_or_none(vote: &Vote) -> Checked {
    if *vote == Vote::default() { Ok(()) } else { check_vote(vote) }
}

fn check_position(id: &LogId) -> Checked {
    ensure(id.index < NUMBER_MAX, "an index out of range")?;
    ensure(id.leader_id.term < NUMBER_MAX, "a term out of range")
}

/// A leader or candidate holds no entry of a term after its own.
fn check_log_id(id: Option<&LogId>, vote: &Vote) -> Checked {
    let Some(id) = id else { return Ok(()) };
    check_position(id)?;
    ensure(id.leader_id <= *vote.leader_id(), "an entry from a later term")
}

fn check_append(request: &AppendEntriesRequest<Types>) -> Checked {
    check_log_id(request.prev_log_id.as_ref(), &request.vote)?;
    check_log_id(request.leader_commit.as_ref(), &request.vote)?;
    let mut before = request.prev_log_id;
    for entry in &request.entries {
        check_entry(entry, before, &request.vote)?;
        before = Some(entry.log_id);
    }
    let sent = request.entries.iter().map(|entry| entry.log_id).chain(request.prev_log_id);
    let mut commit = sent.zip(std::iter::repeat(request.leader_commit));
    ensure(commit.all(|(id, commit)| commit.is_none_or(|commit| same_log(id, commit))), "two logs")
}

/// Whether one log can have both: terms never fall along it, and a place holds one entry.
pub(crate) fn same_log(a: LogId, b: LogId) -> bool {
    // Ids compare by term first.
    a.index.cmp(&b.index) == a.cmp(&b)
}

fn check_entry(entry: &Entry, before: Option<LogId>, vote: &Vote) -> Checked {
    check_log_id(Some(&entry.log_id), vote)?;
    ensure(entry.log_id.index == before.map_or(0, |id| id.index + 1), "a hole between entries")?;
    ensure(before.is_none_or(|id| id.leader_id <= entry.log_id.leader_id), "terms that fall")?;
    match &entry.payload {
        EntryPayload::Blank => Ok(()),
        EntryPayload::Normal(command) => {
            ensure(command.len() <= APPEND_BYTES_MAX, "a command too large")
        }
        EntryPayload::Membership(membership) => check_membership(membership),
    }
}

fn check_membership(membership: &Membership) -> Checked {
    let configs = membership.get_joint_config();
    ensure((1..=2).contains(&configs.len()), "neither one nor two sets of voters")?;
    ensure(membership.nodes().count() <= MEMBERS_MAX, "too many members")?;
    ensure(membership.nodes().all(|(node, _)| *node != 0), "a member without identity")?;
    for config in configs {
        ensure((1..=VOTERS_MAX).contains(&config.len()), "no voters, or too many")?;
        let known = config.iter().all(|voter| membership.get_node(voter).is_some());
        ensure(known, "a voter that is no member")?;
    }
    Ok(())
}

fn check_snapshot(request: &InstallSnapshotRequest<Types>) -> Checked {
    let end = request.offset.checked_add(request.data.len() as u64);
    ensure(end.is_some_and(|end| end <= SNAPSHOT_BYTES_MAX), "a snapshot too large")?;
    check_snapshot_meta(&request.meta, &request.vote)
}

fn check_snapshot_meta(meta: &SnapshotMeta, vote: &Vote) -> Checked {
    ensure(meta.snapshot_id.len() <= SNAPSHOT_NAME_MAX, "a snapshot's name too long")?;
    ensure(meta.last_log_id.is_some(), "a snapshot of nothing")?;
    check_log_id(meta.last_log_id.as_ref(), vote)?;
    let logged = meta.last_membership.log_id();
    ensure(*logged <= meta.last_log_id, "voters from beyond the snapshot")?;
    check_membership(meta.last_membership.membership())
}

fn open(message: &[u8]) -> Result<(u8, &[u8]), ConsensusError> {
    ensure(message.len() <= MESSAGE_BYTES_MAX, "too long")?;
    let [version, kind, body @ ..] = message else {
        return Err(ConsensusError::Malformed("shorter than its head"));
    };
    if *version != VERSION {
        return Err(ConsensusError::Version { found: *version, expected: VERSION });
    }
    Ok((*kind, body))
}

fn encode<T: Serialize>(kind: u8, body: &T) -> Result<Bytes, ConsensusError> {
    let mut message = vec![VERSION, kind];
    bincode::serde::encode_into_std_write(body, &mut message, bincode::config::standard())
        .map_err(|_| ConsensusError::Malformed("not encodable"))?;
    ensure(message.len() <= MESSAGE_BYTES_MAX, "too long to send")?;
    Ok(Bytes::from(message))
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, ConsensusError> {
    // The limit counts what the decoder reserves, so a made-up length cannot ask for memory.
    let config = bincode::config::standard().with_limit::<MESSAGE_BYTES_MAX>();
    let (message, read) = bincode::serde::decode_from_slice(body, config)
        .map_err(|_| ConsensusError::Malformed("not decodable"))?;
    ensure(read == body.len(), "bytes after the end")?;
    Ok(message)
}

#[cfg(test)]
mod tests;
