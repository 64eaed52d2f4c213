//! A node that is told to leave: drained, then struck, then gone.

use std::time::Duration;

use slotmesh_control::{Command, Member, MemberState};
use slotmesh_slots::{MonoTime, NodeId};

use super::{Brain, NodeEvent};

/// How long a node that leaves waits for another heir when the last one has crashed: as a rule it is started again.
const HEIR_WAIT: Duration = Duration::from_secs(10);

impl Brain {
    pub(super) fn tick_leave(&mut self, now: MonoTime) {
        if !self.leaving || self.left {
            return;
        }
        let Some(member) = self.view.members().get(&self.me) else {
            if !self.is_voter() || !self.vote_may_be_needed(now) {
                self.leave_now(now);
            }
            return;
        };
        if !self.view.has_heir(self.me) {
            // The last that holds anything. Whoever is about may be giving its slots to this node, or has to hear that it has left;
            // and while a witness is there, or when the heir crashed a moment ago, another one may come.
            let awaited = |lost| now.saturating_since(lost) < HEIR_WAIT;
            let drains = member.is_draining();
            if !self.sees_others(drains) && !self.heir_lost.is_some_and(awaited) {
                self.leave_now(now);
            }
        } else if member.state == MemberState::Up {
            self.request(Command::Drain { node: self.me }, now);
        }
    }

    /// What the members that have just changed mean to one that leaves. `heirs` could take its slots before.
    pub(super) fn see_heirs(&mut self, heirs: &[NodeId], now: MonoTime) {
        let members = self.view.members();
        if self.view.has_heir(self.me) {
            self.heir_lost = None;
        } else if heirs.iter().any(|heir| !members.get(heir).is_some_and(Member::is_draining)) {
            self.heir_lost = Some(now);
        }
    }

    /// Those who stay might be too few without a voter that has left: one of them may have failed just now. Where none of them is about one
    /// may come back.
    fn vote_may_be_needed(&mut self, now: MonoTime) -> bool {
        let mut stay = self.view.members().iter().filter(|(_, member)| !member.is_draining());
        if stay.any(|(node, _)| !self.peers.is_absent(*node)) || self.stayers_seen.is_none() {
            self.stayers_seen = Some(now);
        }
        self.stayers_seen.is_some_and(|seen| now.saturating_since(seen) < HEIR_WAIT)
    }

    /// Whether anybody else of this cluster is about, or comes to join it; who leaves as this node does is nobody to wait for.
    fn sees_others(&self, drains: bool) -> bool {
        let leaves = |node| self.view.members().get(&node).is_some_and(Member::is_draining);
        let others =
            self.peers.with_generation(self.generation).filter(|&it| !(drains && leaves(it)));
        let mut others = others.chain(self.peers.candidates());
        others.any(|node| node != self.me && self.peers.is_alive(node))
    }

    pub(super) fn leave_now(&mut self, now: MonoTime) {
        if !self.left {
            self.left = true;
            self.gossip.leave(now);
            self.drain_gossip(now);
            self.event(NodeEvent::Left);
        }
    }
}

#[cfg(test)]
mod tests {
    use slotmesh_control::log::LogStatus;
    use slotmesh_slots::Generation;

    use super::*;
    use crate::brain::testing::{at, info, node, started};

    /// One of two members.
    fn member() -> Brain {
        let mut brain = started(1, vec![], 2, 1);
        let generation = Generation { cluster: 9, reform: 0 };
        brain.adopt(generation, at(0));
        let members = (1..=2).map(|number| (node(number), info(number))).collect();
        decide(&mut brain, &Command::Found { generation, replicas: 1, expect: 2, members }, 0);
        brain
    }

    fn decide(brain: &mut Brain, command: &Command, now: u64) {
        let (_, delta) = brain.view.clone().apply(command);
        brain.handle_applied(&delta.unwrap(), at(now));
    }

    fn has_left(brain: &mut Brain, now: u64) -> bool {
        brain.tick_leave(at(now));
        brain.has_left()
    }

    #[test]
    fn another_heir_is_awaited_when_the_last_one_was_struck() {
        let mut brain = member();
        brain.leave(at(0));
        decide(&mut brain, &Command::Drain { node: node(1) }, 10);
        decide(&mut brain, &Command::RemoveMember { node: node(2) }, 20);
        assert!(!has_left(&mut brain, 10_019), "it may be started again");
        decide(&mut brain, &Command::AddMember { node: node(3), info: info(3) }, 10_019);
        assert!(!has_left(&mut brain, 20_000), "there is an heir");
        decide(&mut brain, &Command::RemoveMember { node: node(3) }, 20_000);
        assert!(!has_left(&mut brain, 29_999));
        assert!(has_left(&mut brain, 30_000));
    }

    #[test]
    fn nobody_is_awaited_where_the_others_left() {
        let mut brain = member();
        decide(&mut brain, &Command::Drain { node: node(2) }, 10);
        decide(&mut brain, &Command::RemoveMember { node: node(2) }, 20);
        brain.leave(at(30));
        assert!(brain.has_left());
    }

    /// As when a cluster is stopped a moment after a crash: nobody has anything to give to anybody.
    #[test]
    fn those_that_all_leave_do_not_wait_for_each_other() {
        let mut brain = member();
        let other = NodeId::from_random(2);
        let meta = crate::message::Meta { info: info(2), generation: brain.generation };
        brain.handle_peer(other, info(2).control, meta, at(0));
        decide(&mut brain, &Command::AddMember { node: node(3), info: info(3) }, 1);
        brain.leave(at(2));
        decide(&mut brain, &Command::Drain { node: node(1) }, 2);
        decide(&mut brain, &Command::Drain { node: node(2) }, 3);
        decide(&mut brain, &Command::RemoveMember { node: node(3) }, 4);
        assert!(brain.peers.is_alive(other));
        assert!(!has_left(&mut brain, 10_003), "an heir may come");
        assert!(has_left(&mut brain, 10_004));
    }

    /// It has nothing that they could take, only a vote.
    #[test]
    fn who_was_struck_waits_for_those_who_stay_while_they_may_come_back() {
        let mut brain = member();
        let other = NodeId::from_random(2);
        let meta = crate::message::Meta { info: info(2), generation: brain.generation };
        brain.handle_peer(other, info(2).control, meta, at(0));
        let led =
            LogStatus { caught_up: true, voters: vec![node(1), other], ..LogStatus::default() };
        brain.handle_log_status(led, at(0));
        brain.leave(at(3));
        decide(&mut brain, &Command::Drain { node: node(1) }, 4);
        decide(&mut brain, &Command::RemoveMember { node: node(1) }, 5);
        assert!(brain.is_voter() && brain.peers.is_alive(other));
        assert!(!has_left(&mut brain, 20_000), "one that stays may need its vote");
        brain.peers.prove_death(other);
        assert!(!has_left(&mut brain, 29_999), "it may come back");
        assert!(has_left(&mut brain, 30_000));
    }

    /// The log of two was lost with the other one, and an operator has this one go on.
    #[test]
    fn an_heir_is_awaited_after_a_reform_too() {
        let mut brain = member();
        brain.leave(at(0));
        let reform = Generation { cluster: 9, reform: 1 };
        let state = brain.view.reformed(reform, &[node(1)].into());
        let command = Command::Reform { state: Box::new(state) };
        brain.adopt(reform, at(10));
        let (_, delta) = slotmesh_control::ClusterState::new().apply(&command);
        brain.handle_applied(&delta.unwrap(), at(10));
        assert!(!brain.view.has_heir(node(1)), "{:?}", brain.view.members());
        assert!(!has_left(&mut brain, 10_009));
        assert!(has_left(&mut brain, 10_010));
    }

    #[test]
    fn who_led_until_it_was_decided_that_it_votes_no_more_need_not_be_told() {
        let left = |changing| {
            let mut brain = member();
            let led = |is_leader, voters: &[u64], voters_changing| LogStatus {
                is_leader,
                caught_up: true,
                leader_since: Some(at(0)),
                voters: voters.iter().copied().map(node).collect(),
                voters_changing,
                ..LogStatus::default()
            };
            brain.handle_log_status(led(true, &[1, 2], false), at(0));
            brain.leave(at(0));
            decide(&mut brain, &Command::Drain { node: node(1) }, 10);
            decide(&mut brain, &Command::RemoveMember { node: node(1) }, 20);
            assert!(!has_left(&mut brain, 30), "it votes");
            brain.handle_log_status(led(false, &[2], changing), at(40));
            has_left(&mut brain, 50)
        };
        assert!(left(false));
        assert!(!left(true), "the others may be too few without it");
    }
}
