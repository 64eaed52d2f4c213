use std::collections::BTreeSet;

use rand::Rng;
use slotmesh_control::log::LogStatus;
use slotmesh_control::{Asked, Command, LEASE, Reform, ReformStep};
use slotmesh_slots::{Generation, MonoTime, NodeId};

use super::{Brain, NodeEvent, Output};
use crate::message::Message;
use crate::wire;

/// Why a reform was refused; nothing has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReformError {
    /// This node is no member of a cluster, so there is nothing to go on with.
    #[error("this node is no member of a cluster")]
    NoMember,
    /// A majority of the voters answers: what it decides must not be decided beside it.
    #[error("a majority of the voters answers")]
    MajorityAnswers,
}

impl Brain {
    /// Goes on without the majority, as an operator has it; see [`Reform`]. Returns at once: the state's generation tells
    /// when it is done. Asking again while it lasts changes nothing.
    ///
    /// # Errors
    /// See [`ReformError`].
    pub fn reform(&mut self, now: MonoTime) -> Result<(), ReformError> {
        let Some(ours) = self.generation.filter(|_| self.is_survivor(self.me)) else {
            return Err(ReformError::NoMember);
        };
        if self.reforming.bound_to().is_some() && !self.reforming.is_stranded(now) {
            return Ok(());
        }
        if !self.is_ungoverned(now) {
            return Err(ReformError::MajorityAnswers);
        }
        self.start_reform(ours, now);
        Ok(())
    }

    /// Begins, or carries on, what a lost majority needs.
    pub(super) fn tick_reform(&mut self, now: MonoTime) {
        self.note_voters();
        let Some(ours) = self.generation.filter(|_| !self.left) else { return };
        if self.reforming.is_founding() {
            return self.begin_log();
        }
        if self.reforming.is_asking()
            && (!self.is_ungoverned(now) || self.reforming.is_overdue(now))
        {
            self.cancel_reform();
        }
        let unheard = self.reforming.unheard(now);
        for &(node, generation) in &unheard {
            // Asks what became of it: a release may have been lost.
            self.send(node, Message::ReformPromise { generation, deltas: vec![] });
        }
        let is_gone = |(node, _): &(NodeId, Generation)| !self.peers.is_alive(*node);
        if unheard.iter().any(is_gone) && !self.reforming.is_asking() && self.sees_majority() {
            // The old generation goes on. So may the one that was promised, by somebody out of sight: with this node in both,
            // both would decide.
            return self.give_up(ours, now);
        }
        let survivors = self.survivors();
        if let Reform::After(patience) = self.config.reform
            && now.saturating_since(self.lease.governed) >= patience
            && self.is_ungoverned(now)
            && survivors.first() == Some(&self.me)
            && !self.view.members().keys().any(|node| self.peers.is_suspect(*node))
        {
            self.start_reform(ours, now);
        }
        if self.reforming.is_asking() {
            self.ask_survivors(&survivors, now);
        }
    }

    pub(super) fn handle_reform_ask(
        &mut self,
        from: NodeId,
        generation: Generation,
        version: u64,
        now: MonoTime,
    ) {
        let Some(ours) = self.generation.filter(|_| !self.left) else { return };
        let next =
            generation.supersedes(ours) && ours.reform.checked_add(1) == Some(generation.reform);
        if !next || !self.is_survivor(from) || !self.is_survivor(self.me) {
            return;
        }
        let willing = self.is_ungoverned(now);
        let Asked::Promised(released, asked) =
            self.reforming.handle_ask(from, generation, willing, now)
        else {
            return;
        };
        for node in released {
            if let Some(asked) = asked {
                self.send(node, Message::ReformRelease(asked));
            }
        }
        self.leave_log_for(generation);
        let deltas = self.deltas_since(version);
        self.send(from, Message::ReformPromise { generation, deltas });
    }

    pub(super) fn handle_reform_promise(
        &mut self,
        from: NodeId,
        generation: Generation,
        deltas: &[slotmesh_control::ClusterDelta],
        now: MonoTime,
    ) {
        if self.reforming.is_asking_for(generation) {
            for delta in deltas {
                self.advance(delta, now);
            }
            self.reforming.handle_promise(from, generation, now);
        } else if self.generation != Some(generation) {
            // It came late, or is repeated because nothing was heard since.
            self.send(from, Message::ReformRelease(generation));
        }
    }

    pub(super) fn handle_reform_release(&mut self, from: NodeId, generation: Generation) {
        self.reforming.handle_release(from, generation);
        self.return_to_log();
    }

    /// The majority is back, or this took too long: whoever promised is free again.
    fn cancel_reform(&mut self) {
        let Some(generation) = self.reforming.cancel() else { return };
        self.event(NodeEvent::ReformCancelled(generation));
        // Some may have promised whose answer is still under way.
        let survivors = self.survivors();
        self.send_all(survivors, Message::ReformRelease(generation));
        self.return_to_log();
    }

    /// Takes part in the old log again, as it was left, if this node owes nobody a promise not to.
    fn return_to_log(&mut self) {
        if self.reforming.return_to_log() {
            self.log_generation = self.generation;
            self.log = LogStatus::default();
            self.elections = true;
            self.outputs.push_back(Output::ResumeLog);
        }
    }

    /// A node of this generation is about.
    pub(super) fn meet_generation(
        &mut self,
        node: Option<NodeId>,
        theirs: Generation,
        now: MonoTime,
    ) {
        match self.generation {
            _ if self.left => {}
            None => {
                let best = self.peers.reported_generation().unwrap_or(theirs);
                self.consider_adopting(best, now);
            }
            Some(ours) if ours == theirs || ours.supersedes(theirs) => {}
            Some(_) if self.reforming.bound_to() == Some(theirs) => self.adopt(theirs, now),
            Some(ours) if theirs.supersedes(ours) => self.give_up(theirs, now),
            Some(_) => match node {
                Some(node) => self.event(NodeEvent::OtherGeneration { node, theirs }),
                None => self.peers.note_stranger(theirs),
            },
        }
    }

    /// A node at this address refused a connection because it is of this generation.
    pub fn handle_refused(&mut self, theirs: Generation, now: MonoTime) {
        self.meet_generation(None, theirs, now);
    }

    /// Serves nothing any more and has another node started in the place of this one.
    pub(super) fn give_up(&mut self, theirs: Generation, now: MonoTime) {
        if !self.left {
            self.end_here(now);
            self.event(NodeEvent::Superseded { theirs });
        }
    }

    /// This node is at its end, and another one is to be started in its place.
    pub(super) fn end_here(&mut self, now: MonoTime) {
        self.data.end_serving();
        self.left = true;
        self.leader = None;
        self.gossip.leave(now);
        self.outputs.push_back(Output::Rejoin);
    }

    fn start_reform(&mut self, ours: Generation, now: MonoTime) {
        let generation = ours.reformed(self.rng.random());
        if self.reforming.start(generation, now) {
            self.event(NodeEvent::Reforming(generation));
            let survivors = self.survivors();
            self.ask_survivors(&survivors, now);
        }
    }

    fn ask_survivors(&mut self, survivors: &BTreeSet<NodeId>, now: MonoTime) {
        match self.reforming.step(survivors, now) {
            Some(ReformStep::Ask(nodes, generation)) => {
                let version = self.view.version();
                for node in nodes {
                    self.send(node, Message::ReformAsk { generation, version });
                }
            }
            Some(ReformStep::LeaveLog(generation)) => self.leave_log_for(generation),
            Some(ReformStep::Found(survivors, generation)) => {
                self.begin_generation(&survivors, generation, now);
            }
            None => {}
        }
    }

    /// The promise: no part in the old generation's log, only in this one's. The old one is kept as it is.
    fn leave_log_for(&mut self, generation: Generation) {
        self.leader = None;
        self.lease.forget_leader();
        if self.log_generation == self.generation {
            self.outputs.push_back(Output::ParkLog);
        }
        self.start_log(generation, None);
    }

    /// All promised and all old leases are over.
    fn begin_generation(
        &mut self,
        survivors: &BTreeSet<NodeId>,
        generation: Generation,
        now: MonoTime,
    ) {
        let begin = Command::Reform { state: Box::new(self.view.reformed(generation, survivors)) };
        self.reform_command = Some(wire::encode(&begin));
        let voters = self.first_voters(survivors);
        self.outputs.push_back(Output::StartLog { generation, found_with: Some(voters) });
        self.adopt(generation, now);
        self.event(NodeEvent::Reformed { generation, survivors: survivors.len() });
    }

    /// Until the new log has its first command, proposes it, here or where the log has its leader.
    fn begin_log(&mut self) {
        if self.view.generation() == self.generation {
            return self.end_reform();
        }
        // Whatever generation they say they are of: this one reaches them one by one.
        let mut others: Vec<NodeId> = self.peers.alive().filter(|&node| node != self.me).collect();
        others.retain(|&node| self.is_survivor(node));
        for node in others {
            self.send(node, Message::Reformed);
        }
        let Some(begin) = self.reform_command.clone() else { return };
        if self.log.is_leader && self.log.caught_up {
            self.outputs.push_back(Output::Propose(begin));
        } else if let (Some(leader), Ok(command)) = (self.log.leader, wire::decode(&begin)) {
            self.send(leader, Message::Request(command));
        }
    }

    /// The state is the new generation's.
    pub(super) fn end_reform(&mut self) {
        self.reforming.done();
        self.reform_command = None;
    }

    /// Live members of this generation that no reform gave up, this node included.
    fn survivors(&self) -> BTreeSet<NodeId> {
        let alive = self.peers.with_generation(self.generation).filter(|n| self.peers.is_alive(*n));
        alive.chain([self.me]).filter(|&node| self.is_survivor(node)).collect()
    }

    /// Whether it is a member that no reform gave up.
    pub(super) fn is_survivor(&self, node: NodeId) -> bool {
        self.view.members().get(&node).is_some_and(|member| !member.is_lost())
    }

    /// Whether this node's own lease is over and it sees no majority of the voters.
    fn is_ungoverned(&self, now: MonoTime) -> bool {
        now.saturating_since(self.lease.governed) >= LEASE && !self.sees_majority()
    }

    /// Whether gossip finds a majority of the old generation's voters alive. Without any knowledge of them it may be.
    fn sees_majority(&self) -> bool {
        let here = |node: &&NodeId| **node == self.me || self.peers.is_alive(**node);
        let alive = self.known_voters.iter().filter(here).count();
        self.known_voters.is_empty() || alive * 2 > self.known_voters.len()
    }

    /// Remembers who votes, also when this node leaves the log.
    fn note_voters(&mut self) {
        if !self.reforming.has_left_log() {
            let known =
                if self.log.voters.is_empty() { self.lease.voters() } else { &self.log.voters };
            if !known.is_empty() {
                self.known_voters = known.to_vec();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use slotmesh_control::ClusterState;

    use super::*;
    use crate::brain::testing::{at, info, node, started};

    /// A node alone that founded its cluster, which was reformed once since.
    fn reformed_once() -> (Brain, Generation) {
        let (mut brain, now) = (started(1, vec![], 1, 0), at(0));
        let generation = Generation { cluster: 9 << 64, reform: 0 }.reformed(5);
        brain.meet_generation(None, generation, now);
        let mut state = ClusterState::new();
        let members = vec![(node(1), info(1))];
        let found = Command::Found { generation, replicas: 0, expect: 1, members };
        if let (_, Some(delta)) = state.apply(&found) {
            brain.handle_applied(&delta, now);
        }
        assert_eq!(brain.view().generation(), Some(generation));
        (brain, generation)
    }

    fn rejoins(brain: &mut Brain) -> bool {
        std::iter::from_fn(|| brain.poll_output()).any(|output| output == Output::Rejoin)
    }

    #[test]
    fn who_was_reformed_less_often_gives_way_and_equals_are_strangers() {
        let now = MonoTime::from_micros(2);
        let (mut brain, ours) = reformed_once();
        let before = Generation { cluster: 9 << 64, reform: 0 };
        brain.handle_refused(before, now);
        brain.handle_refused(ours, now);
        assert!(!rejoins(&mut brain) && !brain.met_other_generation());
        let aside = before.reformed(6);
        brain.handle_refused(aside, now);
        assert!(!rejoins(&mut brain) && brain.met_other_generation(), "the same counter");
        let another = Generation { cluster: 10 << 64, reform: 5 };
        brain.handle_refused(another, now);
        assert!(!rejoins(&mut brain), "another cluster, whatever it counts");
        brain.handle_refused(aside.reformed(7), now);
        assert!(rejoins(&mut brain) && brain.has_left());
    }

    #[test]
    fn nobody_goes_on_without_a_majority_that_answers_or_is_unknown() {
        let (mut brain, _) = reformed_once();
        let later = MonoTime::from_micros(60_000_000);
        assert_eq!(brain.reform(later), Err(ReformError::MajorityAnswers), "voters unknown");
        brain.known_voters = vec![NodeId::from_random(1), NodeId::from_random(2)];
        let soon = MonoTime::from_micros(500_000);
        assert_eq!(brain.reform(soon), Err(ReformError::MajorityAnswers), "may have a lease");
        assert_eq!(brain.reform(later), Ok(()));
        assert!(brain.reforming.bound_to().is_some(), "nobody else to ask");
    }
}
