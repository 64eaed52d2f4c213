use std::collections::BTreeSet;
use std::time::Duration;

use rand::Rng;
use slotmesh_control::log::LogStatus;
use slotmesh_control::{Command, FoundingStep, fill_seats};
use slotmesh_slots::{Generation, MonoTime, NodeId};

use super::{Brain, NodeEvent, Output};
use crate::message::{Message, Meta};
use crate::wire;

/// How long a newcomer waits for a cluster of which nobody is heard of any more.
const JOIN_PATIENCE: Duration = Duration::from_secs(5);

/// How long a founder waits until its cluster is there: many times as long as its log takes to begin.
const FOUND_PATIENCE: Duration = Duration::from_secs(10);

impl Brain {
    /// Looks for a cluster to join, else for enough candidates to found one.
    pub(super) fn tick_founding(&mut self, now: MonoTime) {
        if self.left {
            return;
        }
        if let Some(reported) = self.peers.reported_generation() {
            self.consider_adopting(reported, now);
            if self.generation.is_some() {
                return;
            }
        }
        let candidates = self.candidates();
        self.say_waiting(candidates.len());
        if self.awaits_seeds(now) {
            return;
        }
        let rng = &mut self.rng;
        match self.founding.step(&candidates, || rng.random()) {
            Some(FoundingStep::Ask(nodes, generation)) => {
                for node in nodes {
                    self.send(node, Message::FoundAsk(generation));
                }
            }
            Some(FoundingStep::Release(nodes, generation)) => {
                for node in nodes {
                    self.send(node, Message::FoundRelease(generation));
                }
            }
            Some(FoundingStep::Remind(founder, generation)) => {
                self.send(founder, Message::FoundPromise(generation));
            }
            Some(FoundingStep::Found(members, generation)) => {
                self.found(&members, generation);
                // Cut off it may have lost the promises, to one who waits for its own in turn: as another node it has given none.
                self.wait_in_vain(FOUND_PATIENCE, generation, now);
            }
            None => {}
        }
    }

    fn wait_in_vain(&mut self, patience: Duration, generation: Generation, now: MonoTime) {
        let since = *self.in_vain_since.get_or_insert(now);
        if now.saturating_since(since) >= patience {
            self.end_here(now);
            self.event(NodeEvent::ClusterGone(generation));
        }
    }

    pub(super) fn handle_found_ask(&mut self, from: NodeId, generation: Generation, now: MonoTime) {
        let candidates = self.candidates();
        if self.generation.is_some()
            || self.awaits_seeds(now)
            || !self.founding.handle_ask(from, generation, &candidates)
        {
            return;
        }
        self.start_log(generation, None);
        self.send(from, Message::FoundPromise(generation));
    }

    pub(super) fn handle_found_promise(&mut self, from: NodeId, generation: Generation) {
        if !self.founding.handle_promise(from, generation) {
            self.send(from, Message::FoundRelease(generation));
        }
    }

    /// A live node belongs to this generation. Whoever promised another one waits for its founder first, and a founder for
    /// those who promised, as long as that is of use.
    pub(super) fn consider_adopting(&mut self, theirs: Generation, now: MonoTime) {
        let free = self.founding.bound_to().is_none_or(|bound| bound == theirs);
        let others: BTreeSet<NodeId> = self.peers.with_generation(Some(theirs)).collect();
        if free || self.founding.is_hopeless(|node| others.contains(&node)) {
            self.adopt(theirs, now);
        }
    }

    /// This node belongs to the generation from now on, for the rest of its life.
    pub(super) fn adopt(&mut self, generation: Generation, now: MonoTime) {
        self.generation = Some(generation);
        self.in_vain_since = None;
        self.lease.forget_leader();
        self.lease.governed = now;
        self.history.clear();
        if self.reforming.has_left_log() {
            self.outputs.push_back(Output::DropParkedLog);
        }
        self.start_log(generation, None);
        if self.view.members().contains_key(&self.me) {
            self.tell_generation(now);
        }
        self.event(NodeEvent::JoinedGeneration(generation));
    }

    /// Tells others of the generation. Only members do: newcomers would keep one alive among them whose members are all gone.
    pub(super) fn tell_generation(&mut self, now: MonoTime) {
        let Some(generation) = self.generation else { return };
        let meta = Meta { info: self.config.info.clone(), generation: Some(generation) };
        // The only error is metadata that is too large, and this grew by the generation alone: `new` had it checked.
        let _too_large = self.gossip.set_meta(wire::encode(&meta), now).is_err();
        self.outputs.push_back(Output::SetGeneration(generation));
    }

    /// A newcomer whose cluster is gone looks for another one: as another node, for it may have promised something.
    pub(super) fn tick_joining(&mut self, now: MonoTime) {
        let Some(generation) = self.generation.filter(|_| !self.left) else { return };
        let is_member = self.view.members().contains_key(&self.me);
        if is_member || self.leaving || self.peers.is_reported(generation) {
            self.in_vain_since = None;
            return;
        }
        self.wait_in_vain(JOIN_PATIENCE, generation, now);
    }

    fn candidates(&self) -> BTreeSet<NodeId> {
        self.peers.candidates().chain([self.me]).collect()
    }

    /// All promised: begin the log, and as soon as it works, make the founding its first command.
    fn found(&mut self, members: &BTreeSet<NodeId>, generation: Generation) {
        let voters = self.first_voters(members);
        self.start_log(generation, Some(voters));
        if !(self.log.is_leader && self.log.caught_up) {
            return;
        }
        let info = |node: NodeId| match node == self.me {
            true => Some(self.config.info.clone()),
            false => self.peers.info(node).cloned(),
        };
        let members = members.iter().filter_map(|&node| Some((node, info(node)?))).collect();
        let (replicas, expect) = (self.config.replicas, self.config.expect);
        let found = Command::Found { generation, replicas, expect, members };
        self.outputs.push_back(Output::Propose(wire::encode(&found)));
    }

    /// Who votes first: this node, which begins the log, and as many others as there are seats, of other zones first and witnesses last.
    pub(super) fn first_voters(&self, members: &BTreeSet<NodeId>) -> Vec<NodeId> {
        let seats = slotmesh_control::voter_seats(members.len(), self.config.replicas);
        let witness = |node: &NodeId| self.peers.info(*node).is_some_and(|info| info.witness);
        let mut others: Vec<NodeId> =
            members.iter().copied().filter(|&node| node != self.me).collect();
        others.sort_by_key(witness);
        let mut voters = BTreeSet::from([self.me]);
        let zone = |node| match node == self.me {
            true => Some(self.config.info.zone.as_str()),
            false => self.peers.info(node).map(|info| info.zone.as_str()),
        };
        fill_seats(&mut voters, seats, &others, zone);
        voters.into_iter().collect()
    }

    pub(super) fn start_log(&mut self, generation: Generation, found_with: Option<Vec<NodeId>>) {
        if self.log_generation != Some(generation) {
            self.log_generation = Some(generation);
            self.log = LogStatus::default();
            self.begins_log = found_with.is_some();
            // A new log stands for election until it is told otherwise.
            self.elections = true;
            self.outputs.push_back(Output::StartLog { generation, found_with });
            if !self.may_lead_log() {
                self.elections = false;
                self.outputs.push_back(Output::SetElections(false));
            }
        }
    }

    /// While gossip sees no majority of the voters, campaigning would only depose a healthy leader later.
    pub(super) fn gate_elections(&mut self) {
        let voters = &self.log.voters;
        let alive =
            voters.iter().filter(|&&node| node == self.me || self.peers.is_alive(node)).count();
        // While voters change the log tells of both sets together, and a majority of each may be few of them.
        let may_win = self.log.voters_changing || alive * 2 > voters.len();
        let enabled = voters.contains(&self.me) && may_win && self.may_lead_log();
        if enabled != self.elections && !voters.is_empty() {
            self.elections = enabled;
            self.outputs.push_back(Output::SetElections(enabled));
        }
    }

    /// Only who begins the log of a generation can write its first command: whoever else led it would lead it for nothing.
    fn may_lead_log(&self) -> bool {
        self.begins_log || self.generation == self.log_generation
    }

    fn say_waiting(&mut self, present: usize) {
        if self.waiting_said != Some(present) {
            self.waiting_said = Some(present);
            let expected = usize::from(self.config.expect.max(1));
            self.event(NodeEvent::WaitingForNodes { present, expected });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brain::testing::{addr, at, info, node, started};

    fn outputs(brain: &mut Brain) -> Vec<Output> {
        std::iter::from_fn(|| brain.poll_output()).collect()
    }

    /// One that joins the cluster of a member that it is connected to.
    fn joining() -> (Brain, Generation) {
        let mut brain = started(1, vec![addr(2)], 2, 1);
        let theirs = Generation { cluster: 8, reform: 0 };
        brain.handle_connected(node(2), addr(2), Some(theirs), at(0));
        assert_eq!(brain.generation(), Some(theirs));
        (brain, theirs)
    }

    #[test]
    fn only_members_tell_of_their_cluster() {
        let (mut brain, generation) = joining();
        let tells = |brain: &mut Brain| {
            outputs(brain).contains(&Output::SetGeneration(Generation { cluster: 8, reform: 0 }))
        };
        assert!(!tells(&mut brain));
        let mut cluster = slotmesh_control::ClusterState::new();
        let members = vec![(node(1), info(1)), (node(2), info(2))];
        let found = Command::Found { generation, replicas: 1, expect: 2, members };
        let (_, delta) = cluster.apply(&found);
        brain.advance(&delta.unwrap(), at(10));
        assert!(tells(&mut brain));
    }

    #[test]
    fn who_joins_a_cluster_that_is_gone_is_replaced() {
        let ends = |disconnected: u64, until: u64| {
            let (mut brain, _) = joining();
            for millis in (0..until).step_by(50) {
                if millis == disconnected {
                    brain.handle_disconnect(node(2), false, at(millis));
                }
                brain.handle_timeout(at(millis));
            }
            outputs(&mut brain).contains(&Output::Rejoin)
        };
        assert!(!ends(1_000, 6_000) && ends(1_000, 6_050));
        assert!(!ends(20_000, 20_000), "the member is there all the time");
    }

    #[test]
    fn a_founder_of_whose_cluster_nothing_comes_is_replaced() {
        let ends = |until: u64| {
            let mut brain = started(1, vec![], 1, 1);
            (0..until).step_by(50).for_each(|millis| brain.handle_timeout(at(millis)));
            outputs(&mut brain).contains(&Output::Rejoin)
        };
        assert!(!ends(10_000) && ends(10_100));
    }
}
