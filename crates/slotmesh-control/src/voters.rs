use std::collections::BTreeSet;
use std::time::Duration;

use slotmesh_slots::NodeId;

use crate::member::by_age;
use crate::state::ClusterState;

/// How long a voter must be dead before another takes its place; leaving ones are replaced at once.
pub const VOTER_REPLACE_AFTER: Duration = Duration::from_secs(5);

/// How many of so many members vote, witnesses counted: 1 of up to two, 3 of up to nine, 5 above. Where two replicas or more are wanted, data is to
/// survive two nodes that die at once, so the majority has to as well: then 5 of five members vote already.
#[must_use]
pub fn voter_seats(members: usize, replicas: u8) -> usize {
    match members {
        0..=2 => 1,
        5..=9 if replicas >= 2 => 5,
        3..=9 => 3,
        _ => 5,
    }
}

/// Who should vote: as many as [`voter_seats`] says. Voters stay as long as they are usable; free seats go to zones that
/// have no voter yet, then to the oldest member, and to witnesses where the others are too few. Where all is in order otherwise and a zone has more
/// voters than it needs, one of them makes way, the leader last: else the loss of that zone could take the majority with it.
///
/// `usable` tells whether a member may vote: not draining and not dead for [`VOTER_REPLACE_AFTER`]; `reached` whether it may get a seat that it
/// has not: one that the leader does not hear would not catch up, and the change would fail. Returns `current` unless at least one
/// seat changes. Where a seat cannot be filled yet it stays as it is, for of two voters none may fail; except that who is no member any
/// more is let go.
#[must_use]
pub fn voters(
    state: &ClusterState,
    current: &BTreeSet<NodeId>,
    leader: Option<NodeId>,
    usable: impl Fn(NodeId) -> bool,
    reached: impl Fn(NodeId) -> bool,
) -> BTreeSet<NodeId> {
    let mut candidates = by_age(state.members().iter().filter(|(node, _)| usable(**node)));
    if candidates.is_empty() {
        return current.clone();
    }
    // Without any holder of slots there is nothing to vote about, so a single seat is one of theirs.
    candidates.sort_by_key(|node| state.members()[node].info.witness);
    let seats = voter_seats(candidates.len(), state.replicas());
    let mut chosen: BTreeSet<NodeId> =
        candidates.iter().copied().filter(|node| current.contains(node)).take(seats).collect();
    // While nobody votes anybody may begin.
    let reached = |node| current.is_empty() || reached(node);
    let free: Vec<NodeId> = candidates.into_iter().filter(|node| reached(*node)).collect();
    let zone = |node| state.members().get(&node).map(|member| member.info.zone.as_str());
    fill_seats(&mut chosen, seats, &free, zone);
    if chosen == *current && chosen.len() == seats {
        spread(&mut chosen, &free, leader, zone);
    }
    let stay = current.iter().all(|node| state.members().contains_key(node));
    if chosen.len() < seats && stay { current.clone() } else { chosen }
}

/// Gives the seats that are free to these, in their order, but first to those of zones that have none.
pub fn fill_seats<Z: PartialEq>(
    chosen: &mut BTreeSet<NodeId>,
    seats: usize,
    candidates: &[NodeId],
    zone: impl Fn(NodeId) -> Z,
) {
    while chosen.len() < seats {
        let free = || candidates.iter().copied().filter(|node| !chosen.contains(node));
        let taken = |node: &NodeId| voters_in(chosen, &zone, &zone(*node)) > 0;
        let Some(next) = free().find(|node| !taken(node)).or_else(|| free().next()) else { break };
        chosen.insert(next);
    }
}

/// Has one voter make way for one of a zone that has two fewer.
fn spread<Z: PartialEq>(
    chosen: &mut BTreeSet<NodeId>,
    candidates: &[NodeId],
    leader: Option<NodeId>,
    zone: impl Fn(NodeId) -> Z,
) {
    let crowd = |node: NodeId| voters_in(chosen, &zone, &zone(node));
    let others = chosen.iter().copied().filter(|node| Some(*node) != leader);
    let Some(last) = others.max_by_key(|&node| crowd(node)) else { return };
    let free = candidates.iter().copied().filter(|node| !chosen.contains(node));
    let Some(first) = free.min_by_key(|&node| crowd(node)) else { return };
    if crowd(first) + 1 < crowd(last) {
        chosen.remove(&last);
        chosen.insert(first);
    }
}

fn voters_in<Z: PartialEq>(
    chosen: &BTreeSet<NodeId>,
    zone: impl Fn(NodeId) -> Z,
    here: &Z,
) -> usize {
    chosen.iter().filter(|&&node| zone(node) == *here).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::{founded, info, node, witness};

    fn check(members: u64, current: &[u64], unusable: &[u64], expected: &[u64]) {
        let state = founded(members, 1);
        let current = current.iter().map(|&n| node(n)).collect();
        let usable = |n| !unusable.iter().any(|&u| node(u) == n);
        let chosen = voters(&state, &current, None, usable, |_| true);
        assert_eq!(chosen, expected.iter().map(|&n| node(n)).collect());
    }

    #[test]
    fn seats_follow_the_number_of_members() {
        check(1, &[], &[], &[1]);
        check(2, &[], &[], &[1]);
        check(3, &[], &[], &[1, 2, 3]);
        check(9, &[], &[], &[1, 2, 3]);
        check(10, &[], &[], &[1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_majority_survives_as_many_crashes_as_the_data() {
        assert_eq!([3, 4, 5, 9, 10].map(|members| voter_seats(members, 2)), [3, 3, 5, 5, 5]);
        let none = BTreeSet::new();
        assert_eq!(voters(&founded(5, 2), &none, None, |_| true, |_| true).len(), 5);
    }

    #[test]
    fn a_witness_votes_where_the_others_are_too_few() {
        let mut state = founded(2, 1);
        let add = |state: &mut ClusterState, node, info| {
            state.apply(&crate::Command::AddMember { node, info });
        };
        add(&mut state, node(9), witness(9));
        let check = |state: &ClusterState, current: &[u64], gone: u64, expected: &[u64]| {
            let set = |nodes: &[u64]| nodes.iter().map(|&n| node(n)).collect::<BTreeSet<_>>();
            let usable = |n| n != node(gone);
            assert_eq!(voters(state, &set(current), None, usable, |_| true), set(expected));
        };
        check(&state, &[1], 99, &[1, 2, 9]);
        check(&state, &[1, 2, 9], 1, &[2]);
        check(&state, &[1, 2, 9], 9, &[1]);
        check(&state, &[], 1, &[2]);
        add(&mut state, node(3), info(3));
        check(&state, &[], 99, &[1, 2, 3]);
        check(&state, &[1, 2, 9], 99, &[1, 2, 9]);
        check(&state, &[1, 2, 3], 3, &[1, 2, 9]);
    }

    #[test]
    fn a_seat_goes_to_one_that_the_leader_hears() {
        let mut state = founded(5, 1);
        let chosen = |state: &ClusterState, current: &[u64], heard: &[u64]| {
            let current = current.iter().map(|&n| node(n)).collect();
            let heard: BTreeSet<_> = heard.iter().map(|&n| node(n)).collect();
            voters(state, &current, None, |n| n != node(1), |n| heard.contains(&n))
        };
        let set = |nodes: &[u64]| nodes.iter().map(|&n| node(n)).collect::<BTreeSet<_>>();
        assert_eq!(chosen(&state, &[1, 2, 3], &[2, 5]), set(&[2, 3, 5]));
        assert_eq!(chosen(&state, &[1, 2, 3], &[2]), set(&[1, 2, 3]), "nobody can take the seat");
        assert_eq!(chosen(&state, &[2], &[2, 3]), set(&[2]), "two are worse than one");
        state.apply(&crate::Command::RemoveMember { node: node(1) });
        assert_eq!(chosen(&state, &[1, 2, 3], &[2]), set(&[2, 3]), "it is gone");
    }

    #[test]
    fn only_unusable_voters_are_replaced() {
        check(5, &[3, 4, 5], &[], &[3, 4, 5]);
        check(5, &[3, 4, 5], &[4], &[1, 3, 5]);
        check(3, &[1, 2, 3], &[1, 2, 3], &[1, 2, 3]);
    }

    #[test]
    fn no_zone_has_the_majority_where_that_can_be() {
        let check = |zones: &[&str], current: &[u64], leader: u64, expected: &[u64]| {
            let numbers = 1..=zones.len() as u64;
            let named = |n: u64| {
                let zone = zones[n as usize - 1].to_owned();
                (node(n), crate::NodeInfo { zone, witness: n == 9, ..info(n) })
            };
            let mut state = ClusterState::new();
            state.apply(&crate::Command::Found {
                generation: slotmesh_slots::Generation { cluster: 1, reform: 0 },
                replicas: 1,
                expect: 1,
                members: numbers.map(named).collect(),
            });
            let set = |nodes: &[u64]| nodes.iter().map(|&n| node(n)).collect::<BTreeSet<_>>();
            let chosen = voters(&state, &set(current), Some(node(leader)), |_| true, |_| true);
            assert_eq!(chosen, set(expected), "{zones:?} {current:?}");
        };
        check(&["a", "a", "b", "b", "c"], &[], 1, &[1, 3, 5]);
        check(&["a", "a", "b", "b", "c"], &[1, 3, 4], 4, &[1, 4, 5]);
        check(&["a", "a", "b", "b", "c"], &[1, 3, 4], 3, &[1, 3, 5]);
        check(&["a", "a", "b", "b", "c"], &[1, 3, 5], 3, &[1, 3, 5]);
        check(&["a", "a", "a", "b", "c"], &[1, 2, 3], 1, &[1, 2, 4]);
        check(&["a", "a", "a", "b", "c"], &[1, 2, 4], 2, &[2, 4, 5]);
        // Nothing better is there.
        check(&["a", "a", "b", "b"], &[1, 2, 3], 1, &[1, 2, 3]);
        check(&["", "", "", ""], &[1, 2, 3], 1, &[1, 2, 3]);
    }
}
