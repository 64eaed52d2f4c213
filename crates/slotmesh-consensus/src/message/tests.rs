use std::collections::{BTreeMap, BTreeSet};

use openraft::{CommittedLeaderId, EmptyNode};
use proptest::prelude::*;

use super::*;
use crate::types::StoredMembership;

const LEADER: u64 = 3;

fn from() -> NodeId {
    NodeId::new(LEADER).unwrap()
}

fn at(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, LEADER), index)
}

fn membership(voters: &[u64]) -> Membership {
    let set: BTreeSet<u64> = voters.iter().copied().collect();
    let nodes: BTreeMap<u64, EmptyNode> = set.iter().map(|n| (*n, EmptyNode::new())).collect();
    Membership::new(vec![set], nodes)
}

fn append() -> AppendEntriesRequest<Types> {
    let entry = |index, payload| Entry { log_id: at(4, index), payload };
    AppendEntriesRequest {
        vote: Vote::new_committed(4, LEADER),
        prev_log_id: Some(at(2, 6)),
        entries: vec![
            entry(7, EntryPayload::Blank),
            entry(8, EntryPayload::Normal(Bytes::from_static(b"command"))),
            entry(9, EntryPayload::Membership(membership(&[1, 2, 3]))),
        ],
        leader_commit: Some(at(2, 5)),
    }
}

fn snapshot() -> InstallSnapshotRequest<Types> {
    InstallSnapshotRequest {
        vote: Vote::new_committed(4, LEADER),
        meta: SnapshotMeta {
            last_log_id: Some(at(3, 9)),
            last_membership: StoredMembership::new(Some(at(3, 2)), membership(&[1, 3])),
            snapshot_id: String::from("a-1"),
        },
        offset: 10,
        data: vec![1, 2, 3],
        done: true,
    }
}

fn vote() -> VoteRequest<u64> {
    VoteRequest::new(Vote::new(4, LEADER), Some(at(3, 9)))
}

fn requests() -> [Request; 3] {
    [Request::Append(append()), Request::Vote(vote()), Request::Snapshot(snapshot())]
}

#[track_caller]
fn refuses(request: &Request) {
    let sent = request.encode().unwrap();
    assert!(Request::decode(from(), &sent).is_err());
}

fn refuses_append(change: impl Fn(&mut AppendEntriesRequest<Types>)) {
    let mut request = append();
    change(&mut request);
    refuses(&Request::Append(request));
}

fn refuses_snapshot(change: impl Fn(&mut InstallSnapshotRequest<Types>)) {
    let mut request = snapshot();
    change(&mut request);
    refuses(&Request::Snapshot(request));
}

#[test]
fn requests_survive_the_wire() {
    for request in requests() {
        let sent = request.encode().unwrap();
        let got = Request::decode(from(), &sent).unwrap();
        assert_eq!(got.encode().unwrap(), sent);
    }
}

#[test]
fn replies_survive_the_wire() {
    let higher = AppendEntriesResponse::HigherVote(Vote::new(9, 2));
    let mismatch = SnapshotMismatch {
        expect: openraft::SnapshotSegmentId { id: String::from("a"), offset: 0 },
        got: openraft::SnapshotSegmentId { id: String::from("a"), offset: 5 },
    };
    let replies = [
        Reply::Append(AppendEntriesResponse::Success),
        Reply::Append(AppendEntriesResponse::Conflict),
        Reply::Append(higher),
        Reply::Vote(VoteResponse::new(Vote::default(), None, false)),
        Reply::Vote(VoteResponse::new(Vote::new(4, 3), Some(at(3, 9)), true)),
        Reply::Snapshot(InstallSnapshotResponse { vote: Vote::new_committed(4, 3) }),
        Reply::SnapshotRestart(mismatch),
    ];
    for reply in replies {
        let sent = reply.encode().unwrap();
        let got = Reply::decode(&sent).unwrap();
        assert_eq!(got.encode().unwrap(), sent);
    }
    let partial = Reply::Append(AppendEntriesResponse::PartialSuccess(None));
    assert!(Reply::decode(&partial.encode().unwrap()).is_err());
}

#[test]
fn a_node_speaks_for_itself_only() {
    let sent = Request::Vote(vote()).encode().unwrap();
    let other = NodeId::new(8).unwrap();
    let refused = Request::decode(other, &sent).err();
    assert_eq!(refused, Some(ConsensusError::WrongSender { from: other }));
}

#[test]
fn votes_must_fit_their_request() {
    refuses_append(|request| request.vote = Vote::new(4, LEADER));
    refuses_append(|request| request.vote = Vote::new_committed(0, LEADER));
    refuses_append(|request| request.vote = Vote::new_committed(u64::MAX, LEADER));
    refuses_append(|request| request.vote = Vote::new_committed(4, 0));
    refuses_snapshot(|request| request.vote = Vote::new(4, LEADER));
    refuses(&Request::Vote(VoteRequest::new(Vote::new_committed(4, LEADER), None)));
    refuses(&Request::Vote(VoteRequest::new(Vote::new(4, LEADER), Some(at(5, 1)))));
}

#[test]
fn entries_must_continue_the_log() {
    refuses_append(|request| request.entries[1].log_id.index = 9);
    refuses_append(|request| request.prev_log_id = None);
    refuses_append(|request| request.prev_log_id = Some(at(4, u64::MAX)));
    refuses_append(|request| request.prev_log_id = Some(at(5, 6)));
    refuses_append(|request| request.entries[2].log_id = at(3, 9));
    refuses_append(|request| request.entries[0].log_id = at(5, 7));
    refuses_append(|request| request.leader_commit = Some(at(5, 1)));
}

#[test]
fn voters_must_be_members() {
    let with = |payload: Membership| {
        refuses_append(move |request| {
            request.entries[2].payload = EntryPayload::Membership(payload.clone());
        });
    };
    with(Membership::new(Vec::new(), BTreeMap::from([(1, EmptyNode::new())])));
    with(membership(&[]));
    with(membership(&[0, 1]));
    with(membership(&(1..=10).collect::<Vec<_>>()));
    let sets = (1..=3).map(|n| BTreeSet::from([n])).collect();
    with(Membership::new(sets, BTreeMap::from([(1, EmptyNode::new())])));
}

#[test]
fn snapshots_must_be_of_something_and_bounded() {
    refuses_snapshot(|request| request.offset = u64::MAX);
    refuses_snapshot(|request| request.offset = SNAPSHOT_BYTES_MAX - 2);
    refuses_snapshot(|request| request.meta.last_log_id = None);
    refuses_snapshot(|request| request.meta.last_log_id = Some(at(3, 1)));
    refuses_snapshot(|request| request.meta.last_membership = StoredMembership::default());
    refuses_snapshot(|request| request.meta.snapshot_id = "x".repeat(SNAPSHOT_NAME_MAX + 1));
}

#[test]
fn a_made_up_length_asks_for_no_memory() {
    // A snapshot name of 2^60 bytes.
    let mut message = Request::Snapshot(snapshot()).encode().unwrap().to_vec();
    let name = message.windows(4).position(|bytes| bytes == b"\x03a-1").unwrap();
    message.splice(name..=name, [&[253u8][..], &(1u64 << 60).to_le_bytes()].concat());
    assert!(Request::decode(from(), &message).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]

    #[test]
    fn garbage_never_panics(kind in 0u8..=255, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let message = [&[VERSION, kind][..], &body].concat();
        let _ = Request::decode(from(), &message);
        let _ = Reply::decode(&message);
    }

    #[test]
    fn what_decodes_encodes_to_the_same_meaning(
        which in 0usize..3, position in 2usize..60, byte in any::<u8>(), cut in 0usize..4,
    ) {
        let mut message = requests()[which].encode().unwrap().to_vec();
        let position = position % message.len();
        message[position] = byte;
        message.truncate(message.len() - cut);
        if let Ok(request) = Request::decode(from(), &message) {
            let again = Request::decode(from(), &request.encode().unwrap()).unwrap();
            prop_assert_eq!(again.encode().unwrap(), request.encode().unwrap());
        }
    }
}
