use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::EmptyNode;

use super::*;

const ME: u64 = 1;

/// Acknowledgements are given as (peer, sent at); the clock stands at 1000.
#[track_caller]
fn check(configs: &[&[u64]], acks: &[(u64, u64)], expected: Option<u64>) {
    let (tenure, vote) = leading(configs);
    for (peer, sent) in acks {
        tenure.acknowledged(*peer, &vote, MonoTime::from_micros(*sent));
    }
    assert_eq!(tenure.status().quorum_acked.map(MonoTime::as_micros), expected);
}

fn membership(configs: &[&[u64]]) -> Membership {
    let configs: Configs = configs.iter().map(|set| set.iter().copied().collect()).collect();
    let nodes: BTreeSet<u64> = configs.iter().flatten().copied().collect();
    let nodes: BTreeMap<u64, EmptyNode> =
        nodes.into_iter().map(|n| (n, EmptyNode::new())).collect();
    Membership::new(configs, nodes)
}

fn leading(configs: &[&[u64]]) -> (Tenure, Vote) {
    let tenure = Tenure::new(NodeId::new(ME).unwrap(), Arc::new(|| MonoTime::from_micros(1000)));
    tenure.voters_logged(0, &membership(configs));
    let vote = Vote::new_committed(3, ME);
    tenure.vote_saved(&vote);
    (tenure, vote)
}

#[test]
fn the_claim_is_the_newest_time_a_majority_answered() {
    check(&[&[1]], &[], Some(1000));
    check(&[&[1, 2]], &[], None);
    check(&[&[1, 2]], &[(2, 10)], Some(10));
    check(&[&[1, 2, 3]], &[], None);
    check(&[&[1, 2, 3]], &[(2, 10)], Some(10));
    check(&[&[1, 2, 3]], &[(2, 10), (3, 20)], Some(20));
    check(&[&[1, 2, 3, 4]], &[(2, 10), (3, 20)], Some(10));
    check(&[&[1, 2, 3, 4, 5]], &[(2, 10)], None);
    check(&[&[1, 2, 3, 4, 5]], &[(2, 10), (3, 20), (4, 30), (5, 40)], Some(30));
}

#[test]
fn a_change_of_voters_needs_a_majority_of_both_sets() {
    check(&[&[1, 2, 3], &[1, 4, 5]], &[(2, 10), (3, 20)], None);
    check(&[&[1, 2, 3], &[1, 4, 5]], &[(2, 40), (5, 20)], Some(20));
    check(&[&[1], &[2, 3]], &[(2, 10)], None);
    check(&[&[1], &[2, 3]], &[(2, 10), (3, 20)], Some(10));
}

#[test]
fn those_who_do_not_vote_do_not_count() {
    check(&[&[1, 2, 3]], &[(7, 10), (8, 10)], None);
}

#[test]
fn a_node_that_does_not_vote_any_more_claims_nothing() {
    check(&[&[2, 3]], &[(2, 10), (3, 20)], None);
}

#[test]
fn a_late_answer_does_not_take_the_claim_back() {
    check(&[&[1, 2]], &[(2, 20), (2, 10)], Some(20));
}

#[test]
fn answers_to_an_earlier_vote_do_not_count() {
    let (tenure, old) = leading(&[&[1, 2]]);
    tenure.acknowledged(2, &old, MonoTime::from_micros(10));
    let new = Vote::new_committed(4, ME);
    tenure.vote_saved(&new);
    assert_eq!(tenure.status().quorum_acked, None);
    tenure.acknowledged(2, &old, MonoTime::from_micros(20));
    assert_eq!(tenure.status().quorum_acked, None);
    tenure.acknowledged(2, &new, MonoTime::from_micros(30));
    tenure.acknowledged(2, &old, MonoTime::from_micros(40));
    assert_eq!(tenure.status().quorum_acked, Some(MonoTime::from_micros(30)));
}

#[test]
fn a_vote_for_another_ends_the_claim_at_once() {
    let (tenure, vote) = leading(&[&[1, 2, 3]]);
    tenure.acknowledged(2, &vote, MonoTime::from_micros(999));
    assert!(tenure.status().is_leader);
    tenure.vote_saved(&Vote::new(4, 3));
    let status = tenure.status();
    assert_eq!((status.is_leader, status.leader, status.quorum_acked), (false, None, None));
    assert_eq!((status.term, status.leader_since), (4, None));
    tenure.vote_saved(&Vote::new_committed(4, 3));
    assert_eq!(tenure.status().leader, NodeId::new(3));
}

#[test]
fn a_candidate_is_no_leader() {
    let (tenure, _) = leading(&[&[1]]);
    tenure.vote_saved(&Vote::new(4, ME));
    let status = tenure.status();
    assert_eq!((status.is_leader, status.leader, status.quorum_acked), (false, None, None));
}

#[test]
fn voters_are_those_of_the_last_logged_set_that_was_not_taken_back() {
    let voters = |tenure: &Tenure| -> Vec<u64> {
        tenure.status().voters.iter().map(|voter| voter.get()).collect()
    };
    let (tenure, _) = leading(&[&[1, 2]]);
    tenure.voters_logged(5, &membership(&[&[1, 2], &[2, 3]]));
    assert!(tenure.status().voters_changing);
    assert_eq!(voters(&tenure), [1, 2, 3]);
    tenure.truncated(5);
    assert_eq!(voters(&tenure), [1, 2]);
    tenure.voters_restored(9, 8, &membership(&[&[4]]));
    assert_eq!(voters(&tenure), [4]);
    tenure.voters_logged(12, &membership(&[&[5]]));
    tenure.voters_restored(10, 8, &membership(&[&[4]]));
    assert_eq!(voters(&tenure), [5]);
    for index in 20..60 {
        tenure.voters_logged(index, &membership(&[&[index]]));
    }
    assert!(tenure.seen.lock().memberships.len() <= MEMBERSHIPS_KEPT);
    assert_eq!(voters(&tenure), [59]);
}

#[test]
fn a_change_of_voters_ends_when_its_last_entry_is_applied() {
    let (tenure, vote) = leading(&[&[1]]);
    let at = |index| LogId::new(openraft::CommittedLeaderId::new(vote.leader_id().term, ME), index);
    tenure.applied(at(4));
    assert!(!tenure.status().voters_changing);
    tenure.voters_logged(5, &membership(&[&[1], &[1, 2]]));
    tenure.applied(at(5));
    assert!(tenure.status().voters_changing, "both sets have to agree");
    tenure.voters_logged(6, &membership(&[&[1, 2]]));
    assert!(tenure.status().voters_changing, "nobody but this node may know of it");
    tenure.applied(at(6));
    assert!(!tenure.status().voters_changing);
}

#[test]
fn a_leader_has_caught_up_with_the_first_entry_of_its_term() {
    let (tenure, vote) = leading(&[&[1]]);
    let at = |term, index| LogId::new(openraft::CommittedLeaderId::new(term, ME), index);
    tenure.applied(at(2, 7));
    assert!(!tenure.status().caught_up);
    tenure.applied(at(vote.leader_id().term, 8));
    let status = tenure.status();
    assert!(status.caught_up);
    assert_eq!(status.last_applied, 8);
}

#[test]
fn leadership_is_dated_when_the_vote_is_stored() {
    let clock = Arc::new(AtomicU64::new(50));
    let read = Arc::clone(&clock);
    let clock_of = Arc::new(move || MonoTime::from_micros(read.load(Ordering::Relaxed)));
    let tenure = Tenure::new(NodeId::new(ME).unwrap(), clock_of);
    tenure.voters_logged(0, &membership(&[&[1]]));
    tenure.vote_saved(&Vote::new_committed(1, ME));
    clock.store(90, Ordering::Relaxed);
    assert_eq!(tenure.status().leader_since, Some(MonoTime::from_micros(50)));
    assert_eq!(tenure.status().quorum_acked, Some(MonoTime::from_micros(90)));
    tenure.stop();
    assert_eq!(tenure.status().leader_since, None);
    assert_eq!(tenure.status().quorum_acked, None);
}
