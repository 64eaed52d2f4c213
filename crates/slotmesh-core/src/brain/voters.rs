//! Who votes, as the leader chooses.

use std::collections::BTreeSet;
use std::time::Duration;

use slotmesh_control::{LEASE, Member, VOTER_REPLACE_AFTER, voters};
use slotmesh_slots::{MonoTime, NodeId};

use super::{Brain, Output};

/// Of so many any one may fail.
const VOTERS_ENOUGH: usize = 3;

/// How often voters may change; openraft dislikes more.
const VOTERS_INTERVAL: Duration = Duration::from_secs(1);

impl Brain {
    /// Whether the others who vote are too few to decide without it.
    pub(super) fn is_needed(&self, node: NodeId) -> bool {
        let voters = &self.log.voters;
        let others = self.alive_among(voters.iter().filter(|other| **other != node));
        self.log.voters_changing || (voters.contains(&node) && others * 2 <= voters.len())
    }

    pub(super) fn choose_voters(&mut self, now: MonoTime) {
        let Some(leader) = &self.leader else { return };
        let waited = now.saturating_since(leader.voters_changed) >= VOTERS_INTERVAL;
        if leader.voters_changing || !waited {
            return;
        }
        let current: BTreeSet<NodeId> = self.log.voters.iter().copied().collect();
        let usable = |node: NodeId| {
            let gone = self.peers.gone_since(node);
            let dead = gone.is_some_and(|since| now.saturating_since(since) >= VOTER_REPLACE_AFTER);
            let fit = node == self.me || current.contains(&node) || self.peers.is_alive(node);
            fit && !dead && !self.peers.is_proven_dead(node)
        };
        let up = |node: &NodeId| self.view.members()[node].is_up() && usable(*node);
        let few = self.view.members().keys().filter(|node| up(node)).count() < VOTERS_ENOUGH;
        // With few others a single vote might be all that is left, and who leaves gives its slots away first.
        let gives = |node: NodeId| few && current.contains(&node) && !self.may_go(node, now);
        let votes = |node: NodeId| {
            let member = &self.view.members()[&node];
            usable(node) && (member.is_up() || (member.is_draining() && gives(node)))
        };
        let reached = |node| node == self.me || !leader.ledger.is_silent(node, now);
        let best = |spared: &BTreeSet<NodeId>| {
            let kept = current.difference(spared).copied().collect();
            let votes = |node| votes(node) && !spared.contains(&node);
            voters(&self.view, &kept, Some(self.me), votes, reached)
        };
        let wanted = self.best_connected(best, now);
        let wanted = self.with_leader(wanted, &current);
        // What a leader before this one began has to be ended, whoever is wanted.
        let half_done = self.log.voters_changing;
        // Who just died may be taken for a voter until it is known. With another that is missed and not given up yet that would be two of three.
        let sure = half_done || !wanted.iter().any(|node| self.peers.is_failing(*node));
        if (half_done || wanted != current) && sure && self.may_vote(&wanted, &current, now) {
            self.set_voters(wanted);
        }
    }

    /// Those who vote best without regard to who reaches whom; others in the place of some that do not reach each other or this leader, where
    /// there are as many.
    fn best_connected(
        &self,
        best: impl Fn(&BTreeSet<NodeId>) -> BTreeSet<NodeId>,
        now: MonoTime,
    ) -> BTreeSet<NodeId> {
        let any = best(&BTreeSet::new());
        let apart = self.apart_among(&any, VOTER_REPLACE_AFTER, now);
        if apart.is_empty() {
            return any;
        }
        let both = apart.iter().flat_map(|&(one, other)| [one, other]);
        let later = apart.iter().map(|&(one, other)| self.newer(one, other));
        let others = |spared: BTreeSet<NodeId>| {
            let wanted = best(&spared);
            let better = self.apart_among(&wanted, VOTER_REPLACE_AFTER, now).len() < apart.len();
            (better && wanted.len() == any.len()).then_some(wanted)
        };
        others(both.filter(|node| *node != self.me).collect())
            .or_else(|| others(later.collect()))
            .unwrap_or(any)
    }

    /// Who joined later, and gives way; but never this node.
    fn newer(&self, one: NodeId, other: NodeId) -> NodeId {
        let joined = |node| self.view.members().get(&node).map(|member| member.joined);
        let rank = |node| (node != self.me, joined(node), node);
        if rank(one) > rank(other) { one } else { other }
    }

    /// Looks whether the voters reach each other, for those who ask whether one of them may go.
    pub(super) fn see_voters(&mut self, now: MonoTime) {
        let voters = self.log.voters.iter().copied().collect();
        let apart = !self.apart_among(&voters, LEASE, now).is_empty();
        if let Some(leader) = &mut self.leader {
            leader.voters_apart = apart;
        }
    }

    /// Pairs of these nodes that do not reach each other, this leader and who was not heard for so long among them.
    fn apart_among(
        &self,
        voters: &BTreeSet<NodeId>,
        unheard: Duration,
        now: MonoTime,
    ) -> Vec<(NodeId, NodeId)> {
        let Some(leader) = &self.leader else { return Vec::new() };
        let mut apart = leader.apart(now);
        apart.retain(|(one, other)| voters.contains(one) && voters.contains(other));
        let far =
            |node: &&NodeId| **node != self.me && leader.ledger.is_unheard(**node, now, unheard);
        apart.extend(voters.iter().filter(far).map(|&node| (self.me, node)));
        apart
    }

    /// Where seats are given up, this node, which surely runs, keeps its own; unless it leaves or holds no slots.
    fn with_leader(
        &self,
        mut wanted: BTreeSet<NodeId>,
        current: &BTreeSet<NodeId>,
    ) -> BTreeSet<NodeId> {
        let stays = self.view.members().get(&self.me).is_some_and(|member| member.may_hold());
        if stays && wanted.len() < current.len() && !wanted.contains(&self.me) {
            wanted.pop_last();
            wanted.insert(self.me);
        }
        wanted
    }

    /// Whether it is time for these voters.
    ///
    /// Who leaves gives its vote up at once to another. Where there is none it does so by going: until then one of the others
    /// may still fail, and if that were the one that is to vote alone, nobody could ever decide anything again.
    /// Most of the new ones were heard a moment ago: without a majority of them the change, once begun, is never decided.
    fn may_vote(
        &self,
        wanted: &BTreeSet<NodeId>,
        current: &BTreeSet<NodeId>,
        now: MonoTime,
    ) -> bool {
        let leaves = |node: &NodeId| self.view.members().get(node).is_some_and(Member::is_draining);
        let early = |node: &NodeId| leaves(node) && !self.is_needed(*node);
        let too_early = wanted.len() < current.len() && current.iter().any(early);
        let Some(leader) = &self.leader else { return false };
        let heard = |node: &&NodeId| **node == self.me || leader.ledger.is_punctual(**node, now);
        self.alive_among(wanted.iter().filter(heard)) * 2 > wanted.len() && !too_early
    }

    fn alive_among<'a>(&self, nodes: impl IntoIterator<Item = &'a NodeId>) -> usize {
        nodes.into_iter().filter(|node| self.is_here(**node)).count()
    }

    /// Whether it is this node, or gossip finds it alive and nothing proves that it is not.
    pub(super) fn is_here(&self, node: NodeId) -> bool {
        let alive = self.peers.is_alive(node) && !self.peers.is_proven_dead(node);
        node == self.me || alive
    }

    fn set_voters(&mut self, wanted: BTreeSet<NodeId>) {
        if let Some(leader) = &mut self.leader {
            leader.voters_changing = true;
        }
        self.outputs.push_back(Output::SetVoters(wanted.into_iter().collect()));
    }
}
