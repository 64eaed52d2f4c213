use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use slotmesh_control::{
    Claim, ClusterState, Command, Failover, LeaseLedger, Member, NO_WITNESS_WAIT,
};
use slotmesh_slots::{Epoch, MonoTime, NodeId, NodeList, Slot, SlotState, Version};

use super::placing::Placing;
use super::reach::Reach;
use super::{Brain, NodeEvent, Output};
use crate::message::Message;
use crate::wire;

/// Proposals under way at a time; requests beyond it are dropped and come again.
const PROPOSALS_MAX: usize = 64;

/// A taken decision that did not show in the table after this long is taken again.
pub(super) const OUTCOME_WAIT: Duration = Duration::from_secs(1);

/// Slots without any copy start again empty after this long, if the death of their last holder is not proven before.
const ORPHANS_WAIT: Duration = Duration::from_secs(30);

/// A planned move that did not commit after this long is aborted, for its slot is frozen meanwhile; sooner where the node that
/// is to have the role is silent.
const MOVE_PATIENCE: Duration = Duration::from_secs(2);

/// How often the guard port of a node with a lapsed lease is asked.
const GUARD_INTERVAL: Duration = Duration::from_millis(200);

/// Who has not heard a leader for so long misses two pings' answers.
const HARD_OF_HEARING: Duration = Duration::from_millis(250);

/// Who has not heard a leader for so long is not planned with; and this leader may have been elected meanwhile, so it gets so much time
/// again before it is granted nothing more.
const DEAF: Duration = Duration::from_millis(500);
const DEAF_AFTER: Duration = Duration::from_millis(500);

/// What only the leader remembers; forgotten when it leads no more.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) ledger: LeaseLedger,
    takeovers: BTreeMap<NodeId, Takeover>,
    /// Nodes whose takeover left them primary of something, and when the next one may begin.
    rested: BTreeMap<NodeId, MonoTime>,
    /// What nodes say of how long they have not heard this leader, who answers them.
    hearing: BTreeMap<NodeId, Hearing>,
    reach: Reach,
    moving: BTreeMap<Slot, Moving>,
    survey: Survey,
    proposals: usize,
    pub(super) placing: Placing,
    pub(super) voters_changing: bool,
    pub(super) voters_changed: MonoTime,
    /// Some of the voters do not reach each other, by the last round.
    pub(super) voters_apart: bool,
    next_round: MonoTime,
    /// When the lease of a silent primary is over, if that is before the next tick.
    lease_over: Option<MonoTime>,
}

#[derive(Clone, Copy, Debug)]
struct Hearing {
    unheard: Duration,
    /// Since when it has been so long that its slots are better served by others.
    deaf_since: Option<MonoTime>,
}

/// A slot that is frozen for a planned move.
#[derive(Clone, Copy, Debug)]
struct Moving {
    since: MonoTime,
    /// When its end was proposed last.
    aborted: Option<MonoTime>,
}

/// What each round asks of the table, found by one walk over it for each version.
#[derive(Debug, Default)]
struct Survey {
    version: u64,
    primaries: BTreeSet<NodeId>,
    /// The epoch of each slot that is frozen, and who is to have it.
    moving: BTreeMap<Slot, (Epoch, NodeId)>,
    /// Members at whose address another one joined later.
    succeeded: Vec<NodeId>,
}

impl Survey {
    fn update(&mut self, view: &ClusterState) {
        if self.version == view.version() {
            return;
        }
        let moving = |(slot, held): (Slot, &SlotState)| Some((slot, (held.epoch, held.moving_to?)));
        self.moving = view.table().iter().filter_map(moving).collect();
        self.primaries = view.table().primaries();
        self.succeeded = succeeded(view);
        self.version = view.version();
    }
}

fn succeeded(view: &ClusterState) -> Vec<NodeId> {
    let mut latest = BTreeMap::new();
    for member in view.members().values() {
        let joined = latest.entry(member.info.control).or_insert(member.joined);
        *joined = member.joined.max(*joined);
    }
    let before_it = |member: &Member| member.joined < latest[&member.info.control];
    let members = view.members().iter().filter(|(_, member)| before_it(member));
    members.map(|(node, _)| *node).collect()
}

/// A failover under way.
///
/// While it lasts the node is granted nothing, so it ends as soon as nothing proposed can take a slot from the node any
/// more, even when slots are left to it because nobody else has them: if the node comes back it is the one to serve them.
#[derive(Debug)]
struct Takeover {
    began: MonoTime,
    stage: Stage,
    /// What was proposed; a claim is settled when its slot has another epoch, whoever caused that.
    proposed: Vec<Claim>,
}

#[derive(Debug)]
enum Stage {
    Asking(Failover),
    Proposed { at: MonoTime },
}

impl Takeover {
    fn is_settled(&self, view: &ClusterState) -> bool {
        let settled = |(slot, epoch): &Claim| view.table().slot(*slot).epoch != *epoch;
        matches!(self.stage, Stage::Proposed { .. }) && self.proposed.iter().all(settled)
    }
}

impl Leader {
    pub(super) fn elected(placing: Placing, now: MonoTime) -> Self {
        let mut ledger = LeaseLedger::default();
        ledger.elected(now);
        Self {
            ledger,
            takeovers: BTreeMap::new(),
            rested: BTreeMap::new(),
            hearing: BTreeMap::new(),
            reach: Reach::default(),
            moving: BTreeMap::new(),
            survey: Survey::default(),
            proposals: 0,
            placing,
            voters_changing: false,
            voters_changed: now,
            voters_apart: false,
            next_round: now,
            lease_over: None,
        }
    }

    /// A node that is answered says how long it has heard nothing.
    pub(super) fn note_hearing(&mut self, node: NodeId, unheard: Duration, now: MonoTime) {
        let before = self.hearing.get(&node).and_then(|hearing| hearing.deaf_since);
        let deaf_since = (unheard >= DEAF).then(|| before.unwrap_or(now));
        self.hearing.insert(node, Hearing { unheard, deaf_since });
    }

    /// Members, and others out of their reach.
    pub(super) fn apart(&self, now: MonoTime) -> Vec<(NodeId, NodeId)> {
        self.reach.apart(now)
    }

    /// Whether it said lately that it heard this leader; of who has said nothing yet that is taken for granted.
    fn hears(&self, node: NodeId) -> bool {
        self.hearing.get(&node).is_none_or(|hearing| hearing.deaf_since.is_none())
    }

    /// Whether it has heard none of this leader's answers for long.
    fn is_deaf(&self, node: NodeId, now: MonoTime) -> bool {
        let since = self.hearing.get(&node).and_then(|hearing| hearing.deaf_since);
        since.is_some_and(|since| now.saturating_since(since) >= DEAF_AFTER)
    }

    /// Whether this is asked for by a node that may be the one that is cut off: that a replica is silent, by who hears no leader either.
    pub(super) fn is_doubtful(&self, from: NodeId, command: &Command) -> bool {
        let unheard = self.hearing.get(&from).map_or(Duration::ZERO, |hearing| hearing.unheard);
        matches!(command, Command::Shrink { .. }) && unheard >= HARD_OF_HEARING
    }

    /// Grants unless the node is being failed over, or would not hear of it.
    pub(super) fn grant(&mut self, node: NodeId, now: MonoTime) -> bool {
        let free = !self.takeovers.contains_key(&node) && !self.is_deaf(node, now);
        if free {
            if self.ledger.is_new(node, now) {
                self.next_round = now;
            }
            self.ledger.grant(node, now);
        }
        free
    }

    /// Whether it is time to look at everything again.
    pub(super) fn is_due(&self, now: MonoTime) -> bool {
        now >= self.next_round
    }

    /// Members at whose address another one joined later, so that they have ended unless two are set to the same address.
    pub(super) fn succeeded(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.survey.succeeded.iter().copied()
    }

    pub(super) fn handle_promised(&mut self, from: NodeId, promised: &[(Slot, Version)]) {
        for takeover in self.takeovers.values_mut() {
            if let Stage::Asking(failover) = &mut takeover.stage {
                failover.handle_promise(from, promised);
            }
        }
    }

    /// Whether anything is under way that a plan would have to know the outcome of.
    pub(super) fn is_busy(&self) -> bool {
        self.proposals > 0 || !self.takeovers.is_empty()
    }

    /// Whether one more proposal may begin.
    pub(super) fn proposal_begins(&mut self) -> bool {
        let room = self.proposals < PROPOSALS_MAX;
        self.proposals += usize::from(room);
        room
    }

    pub(super) fn proposal_ended(&mut self) {
        self.proposals = self.proposals.saturating_sub(1);
    }

    pub(super) fn voters_set(&mut self, now: MonoTime) {
        self.voters_changing = false;
        self.voters_changed = now;
    }

    /// The next round is one tick from now, or as soon as a primary's lease is over.
    fn begin_round(&mut self, now: MonoTime) {
        let next = now + super::TICK;
        let over = self.survey.primaries.iter().map(|node| self.ledger.over_at(*node));
        self.lease_over = over.filter(|at| now < *at && *at < next).min();
        self.next_round = self.lease_over.unwrap_or(next);
    }

    pub(super) fn deadline(&self) -> Option<MonoTime> {
        let asking = self.takeovers.values().filter_map(|takeover| match &takeover.stage {
            Stage::Asking(failover) => Some(failover.ready_at()),
            Stage::Proposed { .. } => None,
        });
        asking.chain(self.lease_over).min()
    }
}

impl Brain {
    /// Does what the leader has to do, if this node leads.
    pub(super) fn lead(&mut self, now: MonoTime) {
        if self.leader.is_none() {
            return;
        }
        self.grant_self(now);
        self.finish_takeovers(now);
        self.decide_takeovers(now);
        let Some(leader) = self.leader.as_mut().filter(|leader| leader.is_due(now)) else {
            return;
        };
        leader.survey.update(&self.view);
        leader.begin_round(now);
        self.see_succeeded(now);
        // What it cannot have decided now it should not begin either: promises that it asks for bind who gives them.
        if !self.may_grant(now) {
            return;
        }
        self.start_takeovers(now);
        self.remove_dead(now);
        self.abort_stuck_moves(now);
        let silent = self.unheard(now);
        self.see_silent(self.me, &silent, now);
        self.see_voters(now);
        self.place(now);
        self.choose_voters(now);
    }

    /// A node says of whom it hears nothing: those that this node hears are out of its reach.
    pub(super) fn see_silent(&mut self, node: NodeId, silent: &[NodeId], now: MonoTime) {
        let Some(Leader { reach, ledger, .. }) = &mut self.leader else { return };
        let news = reach.note(node, silent, |other| ledger.is_punctual(other, now), now);
        for other in news {
            self.event(NodeEvent::OutOfReach { node, other });
        }
    }

    /// Begins the failover of every primary whose lease is over and whose failure somebody else noticed too.
    fn start_takeovers(&mut self, now: MonoTime) {
        let Some(leader) = &self.leader else { return };
        for node in leader.survey.primaries.clone() {
            if self.is_failed(node, now) {
                self.start_takeover(node, now);
            }
        }
    }

    fn is_failed(&mut self, node: NodeId, now: MonoTime) -> bool {
        let Some(leader) = &self.leader else { return false };
        let rests = leader.rested.get(&node).is_some_and(|until| now < *until);
        if leader.takeovers.contains_key(&node) || node == self.me || rests {
            return false;
        }
        if self.is_given_up(node) {
            return true;
        }
        let over_at = leader.ledger.over_at(node);
        if now < over_at {
            // So that the witness is there by then, and whoever takes a refusal for death need not wait at all.
            if leader.ledger.is_silent(node, now) {
                self.probe_guard(node, now);
            }
            return false;
        }
        let witnessed = self.peers.is_witnessed(node, now) || leader.is_deaf(node, now);
        if witnessed || now >= over_at + NO_WITNESS_WAIT {
            return true;
        }
        self.probe_guard(node, now);
        false
    }

    /// Has the guard port of a node that does not answer asked, every now and then.
    pub(super) fn probe_guard(&mut self, node: NodeId, now: MonoTime) {
        if let Some(addr) = self.addr_of(node)
            && self.peers.ask_guard(node, GUARD_INTERVAL, now)
        {
            self.outputs.push_back(Output::ProbeGuard { node, addr });
        }
    }

    /// Whether nothing has to be waited for any more: it is proven dead, or a reform went on without it after every old
    /// lease was over.
    pub(super) fn is_given_up(&self, node: NodeId) -> bool {
        let lost = self.view.members().get(&node).is_some_and(Member::is_lost);
        lost || self.peers.is_proven_dead(node)
    }

    fn start_takeover(&mut self, node: NodeId, now: MonoTime) {
        let worth_asking = |survivor| {
            survivor != node && self.is_survivor(survivor) && !self.peers.is_gone(survivor)
        };
        let failover = Failover::start(&self.view, node, worth_asking, now);
        let requests: Vec<(NodeId, Vec<Claim>)> =
            failover.requests().map(|(survivor, claims)| (survivor, claims.to_vec())).collect();
        let Some(leader) = &mut self.leader else { return };
        let stage = Stage::Asking(failover);
        if let Some(takeover) = leader.takeovers.get_mut(&node) {
            takeover.stage = stage;
        } else {
            let proposed = Vec::new();
            leader.takeovers.insert(node, Takeover { began: now, stage, proposed });
            let slots = self.view.table().owned_by(node).len();
            self.event(NodeEvent::FailoverStarted { node, slots });
        }
        for (survivor, claims) in requests {
            if survivor == self.me {
                let promised = self.data.promise(&claims);
                if let Some(leader) = &mut self.leader {
                    leader.handle_promised(survivor, &promised);
                }
            } else {
                self.send(survivor, Message::Promise(claims));
            }
        }
        self.decide_takeovers(now);
    }

    /// Proposes the takeovers for which everybody answered or the time is up.
    fn decide_takeovers(&mut self, now: MonoTime) {
        let Some(leader) = &mut self.leader else { return };
        let mut decisions = Vec::new();
        for (node, takeover) in &mut leader.takeovers {
            if let Stage::Asking(failover) = &takeover.stage
                && failover.is_ready(now)
            {
                decisions.push((*node, failover.decide(&self.view)));
                takeover.stage = Stage::Proposed { at: now };
            }
        }
        for (node, (mut commands, orphans)) in decisions {
            let restarts = self.restart_orphans(node, &orphans, now);
            if restarts.is_empty() {
                commands.extend(self.settle_orphans(node, &orphans));
            }
            commands.extend(restarts);
            for command in commands {
                if let Command::Failover { claims, .. } | Command::Restart { claims, .. } = &command
                    && let Some(takeover) =
                        self.leader.as_mut().and_then(|leader| leader.takeovers.get_mut(&node))
                {
                    takeover.proposed.extend(claims);
                }
                self.propose(&command);
            }
        }
        self.finish_takeovers(now);
    }

    /// Slots that stay with the node, but for which something was proposed whose outcome is unknown: a new epoch makes
    /// that harmless, so that the node can be granted a lease again.
    fn settle_orphans(&self, node: NodeId, orphans: &[Claim]) -> Vec<Command> {
        let takeover = self.leader.as_ref().and_then(|leader| leader.takeovers.get(&node));
        let Some(takeover) = takeover else { return Vec::new() };
        let proposed: BTreeSet<&Claim> = takeover.proposed.iter().collect();
        let mut groups: BTreeMap<Vec<NodeId>, Vec<Claim>> = BTreeMap::new();
        for claim in orphans.iter().filter(|claim| proposed.contains(claim)) {
            let in_sync = self.view.table().slot(claim.0).in_sync.iter().collect();
            groups.entry(in_sync).or_default().push(*claim);
        }
        let raise = |(in_sync, claims): (Vec<NodeId>, Vec<Claim>)| Command::Failover {
            claims,
            primary: node,
            in_sync: in_sync.into_iter().collect(),
        };
        groups.into_iter().map(raise).collect()
    }

    /// Slots for which no copy promised start again empty, once it is certain enough that none will come back.
    fn restart_orphans(&self, node: NodeId, claims: &[Claim], now: MonoTime) -> Vec<Command> {
        let Some(leader) = &self.leader else { return Vec::new() };
        let waited = now >= leader.ledger.over_at(node) + ORPHANS_WAIT;
        // Who lives has its slots still, though it may be out of this leader's reach.
        let is_gone = |node| self.is_given_up(node) || (waited && self.peers.is_absent(node));
        if !is_gone(node) {
            return Vec::new();
        }
        let hopeless = |claim: &&Claim| {
            let held = self.view.table().slot(claim.0);
            held.in_sync.iter().all(|replica| self.peers.is_absent(replica) && is_gone(replica))
        };
        let mut heirs: Vec<NodeId> = self.live_members(now);
        heirs.retain(|node| !self.view.members()[node].info.witness);
        if heirs.is_empty() {
            return Vec::new();
        }
        let mut groups: BTreeMap<usize, Vec<Claim>> = BTreeMap::new();
        for (index, claim) in claims.iter().filter(hopeless).enumerate() {
            groups.entry(index % heirs.len()).or_default().push(*claim);
        }
        let restart = |(heir, claims): (usize, Vec<Claim>)| Command::Restart {
            claims,
            primary: heirs[heir],
            in_sync: NodeList::EMPTY,
        };
        groups.into_iter().map(restart).collect()
    }

    /// A takeover is over when everything that was proposed is settled. One whose outcome does not show is asked and
    /// proposed anew, without a moment in which the node could be granted a lease.
    fn finish_takeovers(&mut self, now: MonoTime) {
        let Some(leader) = &mut self.leader else { return };
        leader.rested.retain(|_, until| now < *until);
        let mut done = Vec::new();
        let mut again = Vec::new();
        for (node, takeover) in &leader.takeovers {
            let Stage::Proposed { at } = takeover.stage else { continue };
            if takeover.is_settled(&self.view) {
                done.push((*node, now.saturating_since(takeover.began)));
            } else if now.saturating_since(at) >= OUTCOME_WAIT {
                again.push(*node);
            }
        }
        for (node, took) in done {
            leader.takeovers.remove(&node);
            if self.view.table().iter().any(|(_, held)| held.primary == Some(node)) {
                leader.rested.insert(node, now + OUTCOME_WAIT);
            } else {
                self.outputs.push_back(Output::Event(NodeEvent::FailoverDone { node, took }));
            }
        }
        // Asked without a majority they would promise for nothing.
        if self.may_grant(now) {
            again.into_iter().for_each(|node| self.start_takeover(node, now));
        }
    }

    /// Strikes members that are gone and hold no primary role any more.
    fn remove_dead(&mut self, now: MonoTime) {
        let Some(leader) = &self.leader else { return };
        let gone = |node: &NodeId| {
            let lapsed = now >= leader.ledger.over_at(*node);
            *node != self.me && (self.is_given_up(*node) || (lapsed && self.peers.is_absent(*node)))
        };
        let idle = |node: &NodeId| !leader.survey.primaries.contains(node);
        let members = self.view.members().keys().copied();
        let gone: Vec<NodeId> = members.filter(idle).filter(gone).collect();
        for node in gone {
            self.propose(&Command::RemoveMember { node });
            if let Some(leader) = &mut self.leader {
                leader.ledger.forget(node);
                leader.hearing.remove(&node);
            }
        }
    }

    fn abort_stuck_moves(&mut self, now: MonoTime) {
        let Some(leader) = &mut self.leader else { return };
        let frozen = &leader.survey.moving;
        leader.moving.retain(|slot, _| frozen.contains_key(slot));
        let mut stuck = Vec::new();
        for (&slot, &(epoch, to)) in frozen {
            let fresh = Moving { since: now, aborted: None };
            let moving = leader.moving.entry(slot).or_insert(fresh);
            let over = now.saturating_since(moving.since) >= MOVE_PATIENCE;
            let silent = leader.ledger.is_silent(to, now) || self.peers.is_proven_dead(to);
            let told = moving.aborted.is_some_and(|at| now.saturating_since(at) < OUTCOME_WAIT);
            if (over || silent) && !told {
                moving.aborted = Some(now);
                stuck.push((slot, epoch));
            }
        }
        if !stuck.is_empty() {
            self.propose(&Command::AbortMove { claims: stuck });
        }
    }

    /// Members that hold a lease and are not being failed over.
    pub(super) fn live_members(&self, now: MonoTime) -> Vec<NodeId> {
        let Some(leader) = &self.leader else { return Vec::new() };
        let live = |node: &NodeId| {
            leader.ledger.is_live(*node, now)
                && leader.hears(*node)
                && !leader.takeovers.contains_key(node)
        };
        self.view.members().keys().copied().filter(live).collect()
    }

    /// The leader's own decisions are few and never dropped, unlike requests.
    pub(super) fn propose(&mut self, command: &Command) {
        if let Some(leader) = &mut self.leader {
            leader.proposals += 1;
            self.outputs.push_back(Output::Propose(wire::encode(command)));
        }
    }
}

#[cfg(test)]
mod tests {
    use slotmesh_control::NodeInfo;
    use slotmesh_control::log::LogStatus;
    use slotmesh_slots::Generation;

    use super::*;
    use slotmesh_control::{LEASE, LEASE_MARGIN_PERCENT};

    use crate::brain::testing::{at, info, node, started};
    use crate::message::{Envelope, Meta, Ping};

    /// The first of three members, all of which vote; it leads and has met these others.
    fn leading(met: &[u64]) -> Brain {
        let mut brain = started(1, vec![], 3, 1);
        let generation = Generation { cluster: 9, reform: 0 };
        brain.adopt(generation, at(0));
        for &number in met {
            let meta = Meta { info: info(number), generation: Some(generation) };
            brain.handle_peer(node(number), info(number).control, meta, at(0));
        }
        let members = (1..=3).map(|number| (node(number), info(number))).collect();
        apply(&mut brain, &Command::Found { generation, replicas: 1, expect: 3, members });
        let status = LogStatus {
            is_leader: true,
            caught_up: true,
            leader_since: Some(at(0)),
            quorum_acked: Some(at(0)),
            voters: (1..=3).map(node).collect(),
            ..LogStatus::default()
        };
        brain.handle_log_status(status, at(0));
        assert!(brain.is_leading());
        brain
    }

    fn apply(brain: &mut Brain, command: &Command) {
        let (_, delta) = brain.view.clone().apply(command);
        brain.handle_applied(&delta.unwrap(), at(0));
    }

    fn outputs(brain: &mut Brain, now: MonoTime) -> Vec<Output> {
        brain.log.quorum_acked = Some(now);
        brain.lead(now);
        std::iter::from_fn(|| brain.poll_output()).collect()
    }

    /// As when it is back from a cut during which all other voters were replaced: nobody that it knows of answers it any more.
    #[test]
    fn a_leader_that_hears_what_it_did_not_decide_leads_no_more() {
        let leads_after = |millis| {
            let mut brain = leading(&[2, 3]);
            let (_, delta) = brain.view.clone().apply(&Command::Drain { node: node(3) });
            brain.learn(&delta, at(millis));
            // Its log says that it leads for as long as it hears of no other.
            brain.handle_log_status(brain.log.clone(), at(millis));
            brain.is_leading()
        };
        assert!(leads_after(1_999), "others may be a moment ahead of its own log");
        assert!(!leads_after(2_000));
        let mut brain = leading(&[2, 3]);
        brain.overtaken = Some(at(0));
        let again = LogStatus { leader_since: Some(at(9_000)), ..brain.log.clone() };
        brain.handle_log_status(again, at(9_000));
        assert!(brain.is_leading(), "it was elected anew");
    }

    #[test]
    fn a_member_that_died_before_this_node_came_is_struck() {
        let struck = |met: &[u64], millis| {
            let strike = wire::encode(&Command::RemoveMember { node: node(3) });
            outputs(&mut leading(met), at(millis)).contains(&Output::Propose(strike))
        };
        assert!(struck(&[2], 1_000), "no lease, and never heard of");
        assert!(!struck(&[2], 500), "it may have a lease of the leader before");
        assert!(!struck(&[2, 3], 1_000), "gossip finds it alive");
    }

    #[test]
    fn a_slot_is_not_frozen_for_a_node_that_is_silent() {
        let slot = Slot::of_key(b"k");
        let claims = |epoch| vec![(slot, Epoch(epoch))];
        let aborted = |now: u64| {
            let mut brain = leading(&[2, 3]);
            let (primary, in_sync) = (node(1), [node(2)].into_iter().collect());
            apply(&mut brain, &Command::Assign { claims: claims(0), primary, in_sync });
            apply(&mut brain, &Command::BeginMove { claims: claims(1), to: node(2) });
            assert!(brain.leader.as_mut().is_some_and(|leader| leader.grant(node(2), at(1_000))));
            let abort = Output::Propose(wire::encode(&Command::AbortMove { claims: claims(1) }));
            let mut count =
                |now| outputs(&mut brain, now).iter().filter(|output| **output == abort).count();
            [count(at(now)), count(at(now + 999)), count(at(now + 1_050))]
        };
        assert_eq!(aborted(1_249)[0], 0, "it was heard a moment ago");
        assert_eq!(aborted(1_250), [1, 0, 1], "said again only where nothing comes of it");
    }

    fn voters(brain: &mut Brain) -> Option<Vec<NodeId>> {
        outputs(brain, at(5_000)).into_iter().find_map(|output| match output {
            Output::SetVoters(voters) => Some(voters),
            _ => None,
        })
    }

    #[test]
    fn who_joins_from_the_address_of_a_silent_member_proves_its_death() {
        let join = Ping {
            sent_micros: 1,
            version: 0,
            unheard_micros: 0,
            silent: vec![],
            join: Some(info(3)),
        };
        let proven = |heard, now| {
            let mut brain = leading(&[2, 3]);
            assert!(brain.leader.as_mut().is_some_and(|leader| leader.grant(node(3), at(heard))));
            brain.handle_ping(node(9), join.clone(), at(now));
            [2, 3].map(|number| brain.peers.is_proven_dead(node(number)))
        };
        assert_eq!(proven(1_000, 1_249), [false, false], "it was heard a moment ago");
        assert_eq!(proven(1_000, 1_250), [false, true]);
    }

    fn meet(brain: &mut Brain, number: u64) {
        let meta = Meta { info: info(number), generation: brain.generation };
        brain.handle_peer(node(number), info(number).control, meta, at(0));
        apply(brain, &Command::AddMember { node: node(number), info: info(number) });
    }

    #[test]
    fn voters_that_do_not_reach_each_other_make_way_for_those_who_reach_all() {
        let hear = |brain: &mut Brain, numbers: &[u64]| {
            for &number in numbers {
                let leader = brain.leader.as_mut().unwrap();
                assert!(leader.grant(node(number), at(4_900)));
            }
        };
        let chosen = |members: u64, heard: &[u64], pair: Option<(u64, u64)>| {
            let mut brain = leading(&[2, 3]);
            (4..=members).for_each(|number| meet(&mut brain, number));
            hear(&mut brain, heard);
            for (now, (one, other)) in [4_600, 4_950].into_iter().zip(pair.into_iter().cycle()) {
                brain.see_silent(node(one), &[node(other)], at(now));
                brain.see_silent(node(other), &[node(one)], at(now));
            }
            let voters = voters(&mut brain);
            (voters, brain.has_all_voters())
        };
        let these = |numbers: &[u64]| Some(numbers.iter().copied().map(node).collect());
        let all = [2, 3, 4, 5];
        assert_eq!(chosen(5, &all, None), (None, true));
        assert_eq!(chosen(5, &all, Some((4, 5))), (None, true), "they do not vote");
        assert_eq!(chosen(5, &all, Some((2, 3))), (these(&[1, 4, 5]), false), "both of them");
        assert_eq!(chosen(4, &all[..3], Some((2, 3))), (these(&[1, 2, 4]), false), "the newer");
        assert_eq!(chosen(4, &all[..3], Some((1, 2))), (these(&[1, 3, 4]), false));
        assert_eq!(chosen(3, &all[..2], Some((2, 3))), (None, false), "there is nobody else");
        assert_eq!(chosen(4, &[2, 4], None), (these(&[1, 2, 4]), false), "3 is not heard");
        assert_eq!(chosen(3, &[2], None), (None, false));
    }

    #[test]
    fn voters_of_whom_most_may_have_crashed_just_now_are_not_proposed() {
        let proposed = |heard: [u64; 2]| {
            let mut brain = leading(&[2, 3]);
            for number in [4, 5] {
                meet(&mut brain, number);
            }
            for number in [2, 3] {
                apply(&mut brain, &Command::Drain { node: node(number) });
            }
            for (number, heard) in [4, 5].into_iter().zip(heard) {
                let leader = brain.leader.as_mut().unwrap();
                assert!(leader.grant(node(number), at(heard)));
            }
            voters(&mut brain)
        };
        assert_eq!(proposed([4_700, 4_700]), None, "silent for three pings");
        assert_eq!(proposed([4_800, 4_700]), None, "one would not catch up");
        assert_eq!(proposed([4_800, 4_800]), Some(vec![node(1), node(4), node(5)]));
    }

    /// Else the crash of the one that votes alone then takes all that the other one has not given away yet.
    #[test]
    fn with_few_others_one_that_leaves_votes_until_it_has_given_its_slots_away() {
        let mut brain = leading(&[2, 3]);
        apply(&mut brain, &Command::RemoveMember { node: node(3) });
        let status = LogStatus { voters: vec![node(1)], ..brain.log.clone() };
        brain.handle_log_status(status, at(4_900));
        let claims = Slot::all().map(|slot| (slot, Epoch(0))).collect();
        let (primary, in_sync) = (node(2), [node(1)].into_iter().collect());
        apply(&mut brain, &Command::Assign { claims, primary, in_sync });
        apply(&mut brain, &Command::Drain { node: node(1) });
        let hear = |brain: &mut Brain, now| {
            assert!(brain.leader.as_mut().is_some_and(|leader| leader.grant(node(2), at(now))));
        };
        let next = |brain: &mut Brain, now| {
            let all = outputs(brain, at(now));
            let voters = all.iter().any(|it| *it == Output::SetVoters(vec![node(2)]));
            let strike = wire::encode(&Command::RemoveMember { node: node(1) });
            (voters, all.contains(&Output::Propose(strike)))
        };
        hear(&mut brain, 4_900);
        assert_eq!(next(&mut brain, 4_950), (false, false), "the other one may have crashed since");
        hear(&mut brain, 5_000);
        assert_eq!(next(&mut brain, 5_000), (true, false), "it is the only voter");
        let status = LogStatus { voters: vec![node(2)], ..brain.log.clone() };
        brain.handle_log_status(status, at(5_050));
        assert_eq!(next(&mut brain, 5_050), (false, true));
    }

    #[test]
    fn who_leads_no_more_does_not_say_that_it_does() {
        let answers = |brain: &mut Brain| {
            let ping =
                Ping { sent_micros: 1, version: 0, unheard_micros: 0, silent: vec![], join: None };
            brain.handle_ping(node(2), ping, at(5_000));
            std::iter::from_fn(|| brain.poll_output()).find_map(|output| match output {
                Output::Send { body, .. } => match wire::decode::<Envelope>(&body).ok()?.message {
                    Message::Pong(pong) => Some(pong.leader),
                    _ => None,
                },
                _ => None,
            })
        };
        let mut brain = leading(&[2, 3]);
        assert_eq!(answers(&mut brain), Some(Some(node(1))));
        for (known, expected) in [(1, None), (3, Some(node(3)))] {
            let leader = Some(node(known));
            let status = LogStatus { is_leader: false, leader, ..brain.log.clone() };
            brain.handle_log_status(status, at(5_000));
            assert_eq!(answers(&mut brain), Some(expected));
        }
    }

    /// Three members with two copies each, of which the first has given its roles to the others and can give nobody its copies.
    fn dismissing(copies: &[u64]) -> Brain {
        let mut brain = leading(&[2, 3]);
        for (number, other) in [(2, 3), (3, 2)] {
            let its = Slot::all().filter(|slot| u64::from(slot.number()) % 2 == number % 2);
            let claims = its.map(|slot| (slot, Epoch(0))).collect();
            let in_sync = copies.iter().copied().chain([other]).map(node).collect();
            apply(&mut brain, &Command::Assign { claims, primary: node(number), in_sync });
        }
        let round = brain.view.replicas_round();
        let replicas = copies.len() as u8 + 1;
        apply(&mut brain, &Command::SetReplicas { replicas, round });
        apply(&mut brain, &Command::Drain { node: node(1) });
        brain
    }

    fn hear(brain: &mut Brain, number: u64, now: u64) {
        let leader = brain.leader.as_mut();
        assert!(leader.is_some_and(|leader| leader.grant(node(number), at(now))));
    }

    fn strikes(brain: &mut Brain, now: u64) -> bool {
        let strike = wire::encode(&Command::RemoveMember { node: node(1) });
        let struck = outputs(brain, at(now)).contains(&Output::Propose(strike));
        brain.handle_proposed(at(now));
        struck
    }

    #[test]
    fn who_leaves_with_the_last_copies_goes_when_the_others_were_heard_once_more() {
        let mut brain = dismissing(&[1]);
        [2, 3].into_iter().for_each(|number| hear(&mut brain, number, 4_900));
        assert!(!strikes(&mut brain, 4_950));
        hear(&mut brain, 2, 4_990);
        assert!(!strikes(&mut brain, 5_000), "the other one may have crashed since");
        hear(&mut brain, 3, 5_001);
        assert!(!strikes(&mut dismissing(&[1]), 5_050));
        assert!(strikes(&mut brain, 5_050));
        assert!(!strikes(&mut brain, 5_250), "one of them has been silent for a moment");
        // Nothing to be sure of.
        let mut brain = dismissing(&[]);
        [2, 3].into_iter().for_each(|number| hear(&mut brain, number, 4_900));
        assert!(strikes(&mut brain, 4_950));
    }

    #[test]
    fn who_leaves_goes_whatever_else_changes_all_the_time() {
        let mut brain = dismissing(&[1]);
        let mut struck = 0;
        for now in (4_900..5_300).step_by(20) {
            let round = brain.view.rebalance_round();
            let rebalance = match now % 40 {
                0 => slotmesh_control::Rebalance::Paused,
                _ => slotmesh_control::Rebalance::On,
            };
            apply(&mut brain, &Command::SetRebalance { rebalance, round });
            if now % 100 == 0 {
                [2, 3].into_iter().for_each(|number| hear(&mut brain, number, now));
            }
            struck += usize::from(strikes(&mut brain, now));
        }
        assert!(struck > 0);
    }

    #[test]
    fn a_change_of_voters_that_another_leader_left_half_done_is_ended() {
        let mut brain = leading(&[2, 3]);
        let status = LogStatus { voters_changing: true, ..brain.log.clone() };
        brain.handle_log_status(status, at(4_900));
        let hear = |brain: &mut Brain, now| {
            assert!(brain.leader.as_mut().is_some_and(|leader| leader.grant(node(2), at(now))));
        };
        hear(&mut brain, 4_900);
        assert_eq!(voters(&mut brain), Some(vec![node(1), node(2), node(3)]));
        assert_eq!(voters(&mut brain), None, "one at a time");
        brain.handle_voters_set(at(5_000));
        hear(&mut brain, 5_900);
        let again = outputs(&mut brain, at(6_000));
        let set = |output: &Output| matches!(output, Output::SetVoters(_));
        assert!(again.iter().any(set), "it failed, or the log has not heard of its end");
    }

    #[test]
    fn who_leaves_votes_until_it_is_gone_where_nobody_takes_its_seat() {
        let mut brain = leading(&[2, 3]);
        apply(&mut brain, &Command::Drain { node: node(2) });
        assert_eq!(voters(&mut brain), None, "three vote while three are there");
        assert!(!brain.is_needed(node(2)), "it may go: the other two can decide");
        let mut brain = leading(&[2, 3]);
        apply(&mut brain, &Command::Drain { node: node(2) });
        brain.peers.prove_death(node(3));
        assert_eq!(voters(&mut brain), Some(vec![node(1)]), "before the only other one goes");
        let mut brain = leading(&[2]);
        apply(&mut brain, &Command::Drain { node: node(1) });
        apply(&mut brain, &Command::Drain { node: node(2) });
        assert_eq!(voters(&mut brain), None, "never one alone of whom nothing is known");
    }

    #[test]
    fn who_is_struck_goes_when_its_vote_is_not_needed_any_more() {
        let mut brain = leading(&[2, 3]);
        brain.leave(at(0));
        apply(&mut brain, &Command::RemoveMember { node: node(1) });
        assert!(!brain.has_left(), "one of the others may have failed just now");
        let voters = vec![node(2), node(3)];
        let undecided = LogStatus { voters, voters_changing: true, ..brain.log.clone() };
        brain.handle_log_status(undecided.clone(), at(0));
        brain.leave(at(0));
        assert!(!brain.has_left(), "the others may not be able to decide it without this node");
        brain.handle_log_status(LogStatus { voters_changing: false, ..undecided }, at(0));
        brain.leave(at(0));
        assert!(brain.has_left());
    }

    /// Its pings arrive, and what answers them does not.
    #[test]
    fn who_does_not_hear_this_leader_is_granted_nothing_and_failed_over() {
        let mut brain = leading(&[2, 3]);
        let slot = Slot::of_key(b"k");
        let (primary, in_sync) = (node(2), [node(3)].into_iter().collect());
        let claims = vec![(slot, Epoch(0))];
        apply(&mut brain, &Command::Assign { claims, primary, in_sync });
        let mut granted = |unheard_millis: u64, now| {
            let unheard_micros = unheard_millis * 1_000;
            let ping = Ping {
                sent_micros: now * 1_000,
                version: 0,
                unheard_micros,
                silent: vec![],
                join: None,
            };
            brain.log.quorum_acked = Some(at(now));
            brain.handle_ping(node(2), ping, at(now));
            let ledger = |brain: &Brain| brain.leader.as_ref().unwrap().ledger.over_at(node(2));
            let fresh = ledger(&brain) == at(now) + LEASE * LEASE_MARGIN_PERCENT / 100;
            let started =
                |output| matches!(output, Output::Event(NodeEvent::FailoverStarted { .. }));
            (fresh, outputs(&mut brain, at(now)).into_iter().any(started))
        };
        assert_eq!(granted(100, 1_000), (true, false));
        assert_eq!(granted(500, 1_400), (true, false), "it may be about to hear");
        assert_eq!(granted(1_000, 1_899), (true, false));
        assert_eq!(granted(1_001, 1_900), (false, false), "it may have heard the last one");
        assert_eq!(granted(1_800, 2_700), (false, false));
        assert_eq!(granted(1_900, 2_779), (false, true), "its lease is over");
    }

    #[test]
    fn who_hears_this_leader_again_is_granted_again() {
        let mut brain = leading(&[2, 3]);
        let mut grants = |unheard_millis: u64, now| {
            let leader = brain.leader.as_mut().unwrap();
            leader.note_hearing(node(2), Duration::from_millis(unheard_millis), at(now));
            leader.grant(node(2), at(now))
        };
        assert!(grants(600, 1_000) && !grants(1_100, 1_500));
        assert!(grants(90, 1_600) && grants(500, 2_100));
    }

    #[test]
    fn who_may_be_cut_off_itself_strikes_no_replica() {
        let mut brain = leading(&[2, 3]);
        let slot = Slot::of_key(b"k");
        let shrink = Command::Shrink { claims: vec![(slot, Epoch(1))], node: node(3) };
        let mut struck = |unheard_millis| {
            let unheard = Duration::from_millis(unheard_millis);
            brain.leader.as_mut().unwrap().note_hearing(node(2), unheard, at(1_000));
            let request = Message::Request(shrink.clone());
            let envelope = Envelope { generation: brain.generation, message: request };
            brain.handle_message(node(2), &wire::encode(&envelope), at(1_000)).unwrap();
            outputs(&mut brain, at(1_000)).contains(&Output::Propose(wire::encode(&shrink)))
        };
        assert!(struck(249) && !struck(250));
    }

    #[test]
    fn nothing_is_begun_without_a_majority() {
        let begun = |acked| {
            let mut brain = leading(&[2, 3]);
            brain.peers.prove_death(node(3));
            brain.log.quorum_acked = Some(at(acked));
            brain.lead(at(1_000));
            let outputs: Vec<Output> = std::iter::from_fn(|| brain.poll_output()).collect();
            outputs.iter().any(|output| matches!(output, Output::Propose(_)))
        };
        assert!(begun(851) && !begun(850));
    }

    /// The former process was heard of a moment before another one joined at its address, so nobody had missed it.
    #[test]
    fn who_joined_before_another_at_its_address_is_dead_once_it_is_silent() {
        let mut brain = leading(&[2, 3]);
        brain.handle_timeout(at(300));
        let ping = Message::Ping(Ping {
            sent_micros: 1,
            version: 0,
            unheard_micros: 0,
            silent: vec![],
            join: None,
        });
        let envelope = Envelope { generation: brain.generation, message: ping };
        let status = LogStatus { quorum_acked: Some(at(300)), ..brain.log.clone() };
        brain.handle_log_status(status, at(300));
        for number in [2, 3] {
            brain.handle_message(node(number), &wire::encode(&envelope), at(300)).unwrap();
        }
        let info = NodeInfo { name: "again".to_owned(), ..info(2) };
        apply(&mut brain, &Command::AddMember { node: node(4), info });
        brain.handle_timeout(at(500));
        assert!(!brain.is_given_up(node(2)), "it may live, and the addresses be wrong");
        brain.handle_timeout(at(600));
        assert!(brain.is_given_up(node(2)));
        assert!(!brain.is_given_up(node(3)) && !brain.is_given_up(node(4)), "silent alone");
    }
}
