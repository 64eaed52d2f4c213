use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rand::seq::IndexedRandom;
use slotmesh_control::log::LogStatus;
use slotmesh_control::{
    Command, ELECTION_MIN, LEASE, LEASE_PING_INTERVAL, Member, NodeInfo, voters,
};
use slotmesh_slots::{Mistake, MonoTime, NodeId};

use super::Brain;
use crate::data::DataPlane;
use crate::message::{Message, Ping, Pong};

/// Pings whose answer still counts; one each 100 ms, and a grant is worthless after 0.8 s.
const PINGS_REMEMBERED: usize = 16;

/// Who had an answer of the leader this lately asks nobody else: it missed none.
const LEADER_ANSWERS: Duration = Duration::from_millis(150);

/// How often the other voters are asked too while the leader answers.
const SURVEY_INTERVAL: Duration = Duration::from_millis(500);

/// After this long without an answer from a leader, members that are no voters are asked too.
const LEADER_SILENT: Duration = Duration::from_millis(500);

/// A voter that has answered nothing for so long, of several questions, is out of this node's reach.
const VOTER_SILENT: Duration = Duration::from_secs(3);

/// Members asked when the voters are unknown or silent.
const STRANGERS_ASKED: usize = 3;

/// This node's side of its lease.
#[derive(Debug, Default)]
pub(super) struct LeaseClient {
    leader: Option<NodeId>,
    voters: Vec<NodeId>,
    /// The voters as the leader told them last, unless it was changing them.
    settled_voters: Option<BTreeSet<NodeId>>,
    /// As the leader said last.
    voters_apart: bool,
    /// Voters, and since when they have been asked without an answer.
    unanswered: BTreeMap<NodeId, MonoTime>,
    sent: VecDeque<MonoTime>,
    next_ping: MonoTime,
    next_survey: MonoTime,
    heard_leader: MonoTime,
    /// When a ping was sent, or this node led, that brought the latest lease.
    pub(super) governed: MonoTime,
    /// A lease that counts once this cluster version is applied.
    pending: Option<(u64, MonoTime)>,
}

impl LeaseClient {
    /// Begins at this time as if it had had a lease then: who starts has not missed one yet.
    pub(super) fn starting(now: MonoTime) -> Self {
        Self { governed: now, ..Self::default() }
    }

    pub(super) fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// Nothing that the old leader granted or said counts any more, nor what it answers yet.
    pub(super) fn forget_leader(&mut self) {
        (self.leader, self.settled_voters, self.pending) = (None, None, None);
        self.voters.clear();
        self.unanswered.clear();
        self.sent.clear();
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// This node led until now, by this log: nobody has told it anything newer.
    pub(super) fn led_by(&mut self, log: &LogStatus) {
        self.settled_voters = (!log.voters_changing).then(|| log.voters.iter().copied().collect());
    }

    /// A grant arrived; it ends [`LEASE`] after its ping was sent.
    fn granted(&mut self, version: u64, sent: MonoTime, applied: u64, data: &DataPlane) {
        let until = self.pending.map_or(MonoTime::ZERO, |(_, until)| until).max(sent + LEASE);
        if Mistake::GrantBeforeVersion.is_planted() {
            data.extend_lease(until);
        }
        self.pending = Some((version.max(self.pending.map_or(0, |(version, _)| version)), until));
        self.applied(applied, data);
    }

    /// The node has applied this version.
    pub(super) fn applied(&mut self, version: u64, data: &DataPlane) {
        if let Some((needed, until)) = self.pending
            && needed <= version
        {
            self.pending = None;
            data.extend_lease(until);
        }
    }
}

impl Brain {
    /// Asks for the lease when it is time.
    pub(super) fn tick_lease(&mut self, now: MonoTime) {
        if now >= self.lease.next_ping {
            self.ask_for_lease(now);
        }
    }

    pub(super) fn ask_for_lease(&mut self, now: MonoTime) {
        // Whoever left the old log wants no lease of it any more.
        if self.left || self.log_generation != self.generation {
            return;
        }
        self.lease.next_ping = now + LEASE_PING_INTERVAL;
        if self.lease.sent.len() >= PINGS_REMEMBERED {
            self.lease.sent.pop_front();
        }
        self.lease.sent.push_back(now);
        let member = self.view.members().contains_key(&self.me);
        let join = (!member && !self.leaving).then(|| self.config.info.clone());
        let unheard = now.saturating_since(self.lease.heard_leader);
        let ping = Ping {
            sent_micros: now.as_micros(),
            version: self.view.version(),
            unheard_micros: unheard.as_micros() as u64,
            silent: self.unheard(now),
            join,
        };
        let asked = self.whom_to_ask(now);
        self.note_asked(&asked, now);
        for node in asked {
            self.send(node, Message::Ping(ping.clone()));
        }
    }

    fn note_asked(&mut self, asked: &[NodeId], now: MonoTime) {
        let LeaseClient { unanswered, voters, .. } = &mut self.lease;
        let votes = |node: &NodeId| voters.contains(node) || self.log.voters.contains(node);
        unanswered.retain(|node, _| votes(node));
        for node in asked.iter().copied().filter(|node| *node != self.me && votes(node)) {
            unanswered.entry(node).or_insert(now);
        }
    }

    /// Members of which this node hears nothing: those that copy its slots, and those that vote.
    pub(super) fn unheard(&self, now: MonoTime) -> Vec<NodeId> {
        let silent = |since: &MonoTime| now.saturating_since(*since) >= VOTER_SILENT;
        let voters = self.lease.unanswered.iter().filter(|(_, since)| silent(since));
        let mut unheard = self.data.silent_replicas();
        unheard.extend(voters.map(|(node, _)| *node));
        unheard.sort_unstable();
        unheard.dedup();
        unheard
    }

    /// Who answers as leader. Now and then, and while none does, all voters, of whom one leads; if that lasts some others too, who may know more.
    fn whom_to_ask(&mut self, now: MonoTime) -> Vec<NodeId> {
        let unheard = now.saturating_since(self.lease.heard_leader);
        if let Some(leader) = self.lease.leader
            && unheard <= LEADER_ANSWERS
            && now < self.lease.next_survey
        {
            return vec![leader];
        }
        self.lease.next_survey = now + SURVEY_INTERVAL;
        // Who votes no more has voters in its log that may all be gone.
        let known = if self.log.voters.is_empty() { &self.lease.voters } else { &self.log.voters };
        let known = known.iter().copied().chain(self.lease.leader);
        let mut asked: Vec<NodeId> = known.filter(|&node| node != self.me).collect();
        if unheard > LEADER_SILENT {
            let others: Vec<NodeId> = self.peers.with_generation(self.generation).collect();
            let some = others.choose_multiple(&mut self.rng, STRANGERS_ASKED).copied();
            asked.extend(some);
        }
        asked.sort_unstable();
        asked.dedup();
        asked
    }

    pub(super) fn handle_ping(&mut self, from: NodeId, ping: Ping, now: MonoTime) {
        let member = self.view.members().contains_key(&from);
        let version = self.view.version();
        let may_grant = self.is_survivor(from) && self.may_grant(now);
        let unheard = Duration::from_micros(ping.unheard_micros);
        let mut granted = None;
        let mut join = None;
        if let Some(leader) = &mut self.leader {
            if member {
                leader.note_hearing(from, unheard, now);
            }
            granted = (may_grant && leader.grant(from, now)).then_some(version);
            join = ping.join.filter(|_| !member);
        }
        if member {
            self.see_silent(from, &ping.silent, now);
        }
        if let Some(info) = join {
            self.see_successor(&info, now);
            self.handle_request(from, &Command::AddMember { node: from, info });
        }
        // Whose log takes it for the leader still, though it leads no more, must not be taken for it by others: they would ask nobody else.
        let known = self.log.leader.filter(|leader| *leader != self.me);
        let leader = if self.leader.is_some() { Some(self.me) } else { known };
        let pong = Pong {
            sent_micros: ping.sent_micros,
            granted,
            leader,
            voters: self.log.voters.clone(),
            voters_changing: self.log.voters_changing,
            voters_apart: self.leader.as_ref().is_some_and(|leader| leader.voters_apart),
            deltas: self.deltas_since(ping.version),
        };
        self.send(from, Message::Pong(pong));
        // Who has just joined waits for slots.
        if self.leader.as_ref().is_some_and(|leader| leader.is_due(now)) {
            self.lead(now);
        }
    }

    /// Who asks to join holds the guard port of its address: a silent member that had this address has ended.
    fn see_successor(&mut self, info: &NodeInfo, now: MonoTime) {
        let Some(leader) = &self.leader else { return };
        let ended = |(node, member): &(&NodeId, &Member)| {
            **node != self.me
                && member.info.control == info.control
                && leader.ledger.is_silent(**node, now)
        };
        let ended: Vec<NodeId> =
            self.view.members().iter().filter(ended).map(|(node, _)| *node).collect();
        for node in ended {
            self.peers.prove_death(node);
        }
    }

    /// Who restarted fast enough joined before its former process was missed.
    pub(super) fn see_succeeded(&mut self, now: MonoTime) {
        let Some(leader) = &self.leader else { return };
        let ended = |node: &NodeId| *node != self.me && leader.ledger.is_silent(*node, now);
        for node in leader.succeeded().filter(ended) {
            self.peers.prove_death(node);
        }
    }

    pub(super) fn handle_pong(&mut self, from: NodeId, pong: Pong, now: MonoTime) {
        let sent = MonoTime::from_micros(pong.sent_micros);
        if !self.lease.sent.contains(&sent) {
            return;
        }
        self.lease.unanswered.remove(&from);
        // Grant and table come together here; planted is that the first grant after a lapse comes before its table.
        let lapsed = pong.granted.is_some() && !self.data.has_lease();
        if !(lapsed && Mistake::GrantBeforeVersion.is_planted()) {
            self.learn(&pong.deltas, now);
        }
        if pong.leader == Some(from) {
            self.lease.leader = Some(from);
            self.lease.heard_leader = now;
            let voters = || pong.voters.iter().copied().collect();
            self.lease.settled_voters = (!pong.voters_changing).then(voters);
            self.lease.voters_apart = pong.voters_apart;
        } else if self.lease.leader == Some(from) {
            // It leads no more: whoever does is to hear of this node at once.
            (self.lease.leader, self.lease.next_ping) = (pong.leader, now);
        } else if pong.leader.is_some() && self.lease.leader.is_none() {
            self.lease.leader = pong.leader;
        }
        if !pong.voters.is_empty() {
            self.lease.voters = pong.voters;
        }
        if let Some(version) = pong.granted {
            self.lease.governed = self.lease.governed.max(sent);
            let from = if Mistake::LeaseFromReceipt.is_planted() { now } else { sent };
            self.lease.granted(version, from, self.view.version(), &self.data);
            // Who grants has the latest state, so nobody acted by a later one when the ping was sent.
            if version == self.view.version() {
                self.data.forget_dropped(sent);
            }
        }
    }

    /// Members that gossip does not find alive, or that are proven dead.
    #[must_use]
    pub fn absent_members(&self) -> BTreeSet<NodeId> {
        self.view.members().keys().copied().filter(|&node| !self.is_here(node)).collect()
    }

    /// Who votes, as far as this node has heard.
    #[must_use]
    pub fn voters(&self) -> &[NodeId] {
        let led = self.leader.is_some() || self.lease.voters.is_empty();
        if led { &self.log.voters } else { &self.lease.voters }
    }

    /// Whether the control plane has all the voters that it should have, and they reach each other, so that it survives the loss of any
    /// one node, as far as there are members for that.
    #[must_use]
    pub fn has_all_voters(&self) -> bool {
        let apart = self.leader.as_ref().map_or(self.lease.voters_apart, |it| it.voters_apart);
        if apart {
            return false;
        }
        let settled = match &self.leader {
            Some(_) if self.log.voters_changing => None,
            Some(_) => Some(self.log.voters.iter().copied().collect()),
            None => self.lease.settled_voters.clone(),
        };
        let usable = |node| {
            let up = self.view.members().get(&node).is_some_and(Member::is_up);
            up && (node == self.me || self.peers.is_alive(node))
        };
        settled.is_some_and(|current| {
            !current.is_empty() && voters(&self.view, &current, None, usable, |_| true) == current
        })
    }

    /// Whether this node votes, as far as it knows: who was struck from the voters hears of it from the leader only. A leader that strikes
    /// itself does until that is decided: before, the others may be too few to decide it, and whose log is longer votes for none of them.
    pub(super) fn is_voter(&self) -> bool {
        match &self.lease.settled_voters {
            Some(settled) if self.leader.is_none() => settled.contains(&self.me),
            _ => self.log.voters_changing || self.log.voters.contains(&self.me),
        }
    }

    /// The leader grants itself by the same rule as others; its ping takes no time.
    pub(super) fn grant_self(&mut self, now: MonoTime) {
        let may_grant = self.view.members().contains_key(&self.me) && self.may_grant(now);
        let Some(leader) = &mut self.leader else { return };
        self.lease.leader = Some(self.me);
        if may_grant && leader.grant(self.me, now) {
            self.lease.heard_leader = now;
            self.lease.governed = now;
            self.data.extend_lease(now + LEASE);
            self.data.forget_dropped(now);
        }
    }

    /// Whether no other leader can have been elected yet: a quorum acknowledged a heartbeat that was sent less than the
    /// shortest election time ago (ARCHITECTURE.md).
    pub(super) fn may_grant(&self, now: MonoTime) -> bool {
        let acked = self.log.quorum_acked;
        acked.is_some_and(|acked| now.saturating_since(acked) < ELECTION_MIN)
    }
}
