use std::collections::BTreeMap;

use slotmesh_control::{
    AbsenceEvent, Absences, ClusterDelta, ClusterState, Command, LoadFloor, LoadReport, Loads,
    Member, Rebalance, Sight, exchange, forget_replaced, plan,
};
use slotmesh_slots::{MonoTime, NodeId, Slot};

use super::leader::OUTCOME_WAIT;
use super::{Brain, NodeEvent};
use crate::message::Message;

/// What the leader remembers for the placement.
#[derive(Debug)]
pub(super) struct Placing {
    absences: Absences,
    loads: Loads,
    /// Who gives which slot away once the copy in its place is complete.
    replaced: BTreeMap<Slot, NodeId>,
    planned_at: MonoTime,
    /// What the last plan was made for.
    planned_for: Option<Basis>,
    /// Who may go, by the state of this version.
    dismissed: Option<Dismissed>,
}

/// What a plan is made for: at equal ones it comes out the same.
#[derive(Clone, PartialEq, Debug)]
struct Basis {
    version: u64,
    live: Vec<NodeId>,
    prompt: Vec<NodeId>,
    apart: Vec<(NodeId, NodeId)>,
}

#[derive(Clone, Copy, Debug)]
struct Dismissed {
    node: NodeId,
    version: u64,
    /// Since when each plan has said so.
    since: MonoTime,
    /// Whether it holds copies to the end.
    keeps: bool,
}

impl Placing {
    pub(super) fn new(absences: Absences, floor: LoadFloor) -> Self {
        Self {
            absences,
            loads: Loads::new(floor),
            replaced: BTreeMap::new(),
            planned_at: MonoTime::ZERO,
            planned_for: None,
            dismissed: None,
        }
    }

    /// Once all of an exchange is over, only what nodes report from then on weighs.
    fn forget_replaced(&mut self, view: &ClusterState) {
        if self.replaced.is_empty() {
            return;
        }
        forget_replaced(&mut self.replaced, view);
        if self.replaced.is_empty() {
            self.loads.handle_exchanged();
        }
    }
}

impl Brain {
    /// Asks the leader, once, for another number of copies beside the primary. Whoever wants it asks again until the state
    /// shows a round above this one.
    pub fn set_replicas(&mut self, replicas: u8, round: u32, now: MonoTime) {
        self.request(Command::SetReplicas { replicas, round }, now);
    }

    /// Asks the leader, once, for slots to move for balance or not; as [`Brain::set_replicas`].
    pub fn set_rebalance(&mut self, rebalance: Rebalance, round: u32, now: MonoTime) {
        self.request(Command::SetRebalance { rebalance, round }, now);
    }

    /// Asks the leader, once, to have the member give everything away and leave. Whoever wants it asks again until the state
    /// shows that it drains, or does not show it any more.
    pub fn drain(&mut self, node: NodeId, now: MonoTime) {
        self.request(Command::Drain { node }, now);
    }

    /// Proposes the next placement step when nothing else is under way.
    pub(super) fn place(&mut self, now: MonoTime) {
        let live = self.live_members(now);
        self.review_absences(&live, now);
        let Some(leader) = &mut self.leader else { return };
        if leader.is_busy() {
            return;
        }
        let apart = leader.apart(now);
        let placing = &mut leader.placing;
        placing.forget_replaced(&self.view);
        let prompt: Vec<NodeId> =
            live.iter().copied().filter(|node| leader.ledger.is_punctual(*node, now)).collect();
        let version = self.view.version();
        let basis = Basis { version, live, prompt, apart };
        let fresh = now.saturating_since(placing.planned_at) < OUTCOME_WAIT;
        if placing.planned_for.as_ref() != Some(&basis) || !fresh {
            placing.planned_for = Some(basis.clone());
            placing.planned_at = now;
            self.plan_anew(&basis, now);
        }
        self.dismiss(now);
    }

    fn plan_anew(&mut self, basis: &Basis, now: MonoTime) {
        let mut commands = self.planned(basis, now);
        if commands.is_empty() {
            commands = self.exchanged(&basis.prompt);
        }
        let mut dismissed = None;
        for command in commands {
            match command {
                Command::RemoveMember { node } => dismissed = Some(node),
                command => self.propose(&command),
            }
        }
        self.note_dismissed(dismissed, now);
    }

    fn note_dismissed(&mut self, node: Option<NodeId>, now: MonoTime) {
        let (version, table) = (self.view.version(), self.view.table());
        let Some(leader) = &mut self.leader else { return };
        let before = leader.placing.dismissed;
        leader.placing.dismissed = node.map(|node| {
            let since = before.filter(|it| it.node == node).map_or(now, |it| it.since);
            let keeps = table.iter().any(|(_, held)| held.involves(node));
            Dismissed { node, version, since, keeps }
        });
    }

    /// One that leaves goes when the control log can do without it: it may be the only voter.
    fn dismiss(&mut self, now: MonoTime) {
        let dismissed = self.leader.as_ref().and_then(|leader| leader.placing.dismissed);
        let Some(node) = dismissed.map(|it| it.node) else { return };
        if self.may_go(node, now) && !self.is_needed(node) {
            self.propose(&Command::RemoveMember { node });
        }
    }

    /// Whether a node that drains has given everything away that others can have. Where it keeps copies that nobody has room for, all others
    /// were heard once more since that is known: with the node go the last copies beside theirs.
    pub(super) fn may_go(&self, node: NodeId, now: MonoTime) -> bool {
        let Some(leader) = &self.leader else { return false };
        let dismissed = leader.placing.dismissed.filter(|it| it.node == node);
        let dismissed = dismissed.filter(|it| it.version == self.view.version());
        dismissed.is_some_and(|it| {
            let ledger = &leader.ledger;
            let heard = |&other: &NodeId| {
                let again = ledger.was_granted_since(other, it.since);
                other == node || (again && ledger.is_punctual(other, now))
            };
            !it.keeps || self.live_members(now).iter().all(heard)
        })
    }

    fn planned(&self, basis: &Basis, now: MonoTime) -> Vec<Command> {
        let Some(leader) = &self.leader else { return Vec::new() };
        let is_live = |node| basis.live.contains(&node);
        let prompt = |node| basis.prompt.contains(&node);
        let away = |node| !is_live(node) && !self.is_given_up(node);
        let awaited = leader.placing.absences.awaited(&self.view, &away, now);
        let Placing { replaced, loads, .. } = &leader.placing;
        let loads = Some(loads);
        let (live, awaited, apart) = (&is_live, &awaited, basis.apart.as_slice());
        let sight = Sight { live, prompt: &prompt, awaited, replaced, loads, apart };
        plan(&self.view, &sight)
    }

    /// What is exchanged where nothing else is to be done.
    fn exchanged(&mut self, prompt: &[NodeId]) -> Vec<Command> {
        let Some(leader) = &mut self.leader else { return Vec::new() };
        let placing = &mut leader.placing;
        let exchange = exchange(&self.view, &|node| prompt.contains(&node), &placing.loads);
        if !exchange.commands.is_empty() {
            // All that was begun before is done.
            placing.replaced = exchange.replaced;
            let count = |command: &Command| match command {
                Command::BeginMove { claims, .. } => (claims.len(), 0),
                Command::AddCopy { claims, .. } => (0, claims.len()),
                _ => (0, 0),
            };
            let counts = exchange.commands.iter().map(count);
            let (roles, copies) = counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            self.event(NodeEvent::Exchanging { roles, copies });
        }
        exchange.commands
    }

    /// Tells the leader what this node's slots hold, now and then.
    pub(super) fn tick_loads(&mut self) {
        let Some(report) = self.data.take_loads() else { return };
        if self.leader.is_some() {
            self.handle_loads(self.me, &report);
        } else if let Some(leader) = self.lease.leader() {
            self.send(leader, Message::Loads(report));
        }
    }

    pub(super) fn handle_loads(&mut self, from: NodeId, report: &LoadReport) {
        if let Some(leader) = &mut self.leader {
            leader.placing.loads.handle_report(&self.view, from, report);
        }
    }

    fn review_absences(&mut self, live: &[NodeId], now: MonoTime) {
        let Some(mut leader) = self.leader.take() else { return };
        let given_up = |node| self.is_given_up(node);
        let absences = &mut leader.placing.absences;
        let events = absences.review(&|node| live.contains(&node), &given_up, now);
        let missed: Vec<NodeId> = absences.missed().collect();
        self.leader = Some(leader);
        if self.config.refused_is_death {
            // Its failover may have had other witnesses; only this proves that nothing is to be waited for.
            missed.into_iter().for_each(|node| self.probe_guard(node, now));
        }
        events.into_iter().for_each(|(node, event)| self.tell_absence(node, event));
    }

    /// The view is about to advance by this: what copies are lost, and who comes in their place.
    pub(super) fn observe_absences(&mut self, delta: &ClusterDelta, now: MonoTime) {
        let Some(leader) = &mut self.leader else { return };
        let absences = &mut leader.placing.absences;
        absences.observe(&self.view, delta, now);
        let holds = |member: &Option<Member>| member.as_ref().is_some_and(Member::may_hold);
        let joined = delta
            .members
            .iter()
            .filter(|(node, member)| holds(member) && !self.view.members().contains_key(node));
        let events: Vec<(NodeId, AbsenceEvent)> =
            joined.filter_map(|(node, _)| absences.handle_joined(*node)).collect();
        events.into_iter().for_each(|(node, event)| self.tell_absence(node, event));
    }

    fn tell_absence(&mut self, node: NodeId, event: AbsenceEvent) {
        self.event(NodeEvent::CopiesLost { node, event });
    }
}
