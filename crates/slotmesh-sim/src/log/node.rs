use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;
use slotmesh_control::ClusterDelta;
use slotmesh_control::log::{LogMachine, LogStatus};
use slotmesh_core::{ControlMachine, ELECTION_MIN};
use slotmesh_slots::{Generation, MonoTime, NodeId};

use super::entries::{Entries, Voters};
use super::message::{Entry, LogMessage, NodeSet, Place, What};
use super::reign::Reign;

/// Twice the shortest: what the production log is configured with.
pub(super) const ELECTION_MAX: Duration = Duration::from_millis(300);

/// How long a candidate waits for votes before it lets others try, and what is added to that: another part of it each time, or two whose clocks
/// agree would go on at the same moments for ever.
const CAMPAIGN: Duration = Duration::from_millis(200);
const CAMPAIGN_MORE: u64 = 64;

/// What the log tells its driver.
#[derive(Debug)]
pub(crate) enum LogEvent {
    Send(NodeId, LogMessage),
    Applied(ClusterDelta),
    /// A command was applied here: its index, its bytes, and the state's version afterwards.
    Command(u64, Bytes),
    ProposalEnded,
    VotersSet,
}

/// One node's part in the control log of one generation.
pub(crate) struct LogNode {
    pub(super) me: NodeId,
    pub(crate) generation: Generation,
    pub(super) term: u64,
    voted_for: Option<NodeId>,
    leader: Option<NodeId>,
    pub(super) entries: Entries,
    pub(super) commit: u64,
    applied: u64,
    heard: Option<MonoTime>,
    election_due: MonoTime,
    votes: Option<NodeSet>,
    elections: bool,
    pub(super) reign: Option<Reign>,
    machine: ControlMachine,
    pub(super) events: VecDeque<LogEvent>,
    /// A seeded bug: entries commit on the leader's word alone.
    pub(crate) commits_alone: bool,
    /// Applied entries that are kept for others; older ones are dropped.
    pub(crate) keeps: u64,
    /// How often this log took over a whole state.
    pub(crate) installed: u64,
    rng: StdRng,
}

impl LogNode {
    pub(crate) fn new(me: NodeId, generation: Generation, rng: StdRng, now: MonoTime) -> Self {
        let mut log = Self {
            me,
            generation,
            term: 0,
            voted_for: None,
            leader: None,
            entries: Entries::default(),
            commit: 0,
            applied: 0,
            heard: None,
            election_due: now,
            votes: None,
            elections: true,
            reign: None,
            machine: ControlMachine::new(),
            events: VecDeque::new(),
            commits_alone: false,
            keeps: u64::MAX,
            installed: 0,
            rng,
        };
        log.put_off(now);
        log
    }

    /// Begins the log with these voters; its founder campaigns as soon as it can.
    pub(crate) fn found(&mut self, voters: NodeSet, now: MonoTime) {
        if self.entries.is_empty() {
            self.entries
                .push(Entry { term: 0, what: What::Voters { current: voters, next: None } });
            self.election_due = now;
        }
    }

    pub(crate) fn poll_event(&mut self) -> Option<LogEvent> {
        self.events.pop_front()
    }

    /// When [`LogNode::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> MonoTime {
        self.reign.as_ref().map_or(self.election_due, |reign| reign.next_round)
    }

    pub(crate) fn set_elections(&mut self, enabled: bool) {
        self.elections = enabled;
    }

    pub(crate) fn propose(&mut self, command: Bytes, now: MonoTime) {
        if self.reign.is_none() {
            self.events.push_back(LogEvent::ProposalEnded);
            return;
        }
        let index = self.append(What::Command(command));
        if let Some(reign) = &mut self.reign {
            reign.await_outcome(index, now);
        }
        self.replicate(now);
    }

    pub(crate) fn handle_timeout(&mut self, now: MonoTime) {
        if self.reign.is_some() {
            self.lead(now);
        } else if now >= self.election_due {
            self.put_off(now);
            if self.elections && self.votes() {
                self.campaign(now);
            }
        }
    }

    pub(crate) fn handle(&mut self, from: NodeId, message: LogMessage, now: MonoTime) {
        if matches!(message, LogMessage::Vote { .. }) && self.hears_leader(now) {
            // Whoever hears a leader neither votes nor takes over the term (Raft §6, disruptive servers).
            return;
        }
        if message.term() > self.term {
            self.follow(message.term(), None);
        }
        match message {
            LogMessage::Vote { term, last } => {
                let fits = term == self.term
                    && self.voted_for.is_none_or(|other| other == from)
                    && last >= self.last();
                if fits {
                    self.voted_for = Some(from);
                    self.put_off(now);
                }
                self.send(from, LogMessage::VoteReply { term: self.term, granted: fits });
            }
            LogMessage::VoteReply { term, granted } if granted && term == self.term => {
                if let Some(votes) = &mut self.votes {
                    votes.insert(from);
                }
                self.count_votes(now);
            }
            LogMessage::VoteReply { .. } => {}
            LogMessage::Append { term, before, entries, commit, sent } => {
                let matched = match term == self.term {
                    true => {
                        self.follow(term, Some(from));
                        self.heard = Some(now);
                        self.put_off(now);
                        self.take(before, entries, commit)
                    }
                    false => Err(0),
                };
                self.send(from, LogMessage::AppendReply { term: self.term, matched, sent });
            }
            LogMessage::Install { term, last, voters, state, sent } => {
                let matched = match term == self.term {
                    true => {
                        self.follow(term, Some(from));
                        self.heard = Some(now);
                        self.put_off(now);
                        Ok(self.install(last, voters, &state))
                    }
                    false => Err(0),
                };
                self.send(from, LogMessage::AppendReply { term: self.term, matched, sent });
            }
            LogMessage::AppendReply { term, matched, sent } if term == self.term => {
                self.acknowledged(from, matched, sent, now);
            }
            LogMessage::AppendReply { .. } => {}
        }
    }

    /// What the port tells the brain.
    pub(crate) fn status(&self, now: MonoTime) -> LogStatus {
        let reign = self.reign.as_ref();
        LogStatus {
            leader: self.leader,
            is_leader: reign.is_some(),
            term: self.term,
            leader_since: reign.map(|reign| reign.since),
            caught_up: reign.is_some_and(|reign| self.applied >= reign.first),
            quorum_acked: self.quorum_acked(now),
            voters: self.voters().into_iter().collect(),
            voters_changing: self
                .entries
                .latest_voters()
                .is_some_and(|voters| voters.next.is_some() || voters.index > self.commit),
            last_applied: self.applied,
        }
    }

    /// What was applied here.
    #[cfg(test)]
    pub(super) fn state(&self) -> &slotmesh_control::ClusterState {
        self.machine.state()
    }

    /// Everybody whose vote counts.
    pub(crate) fn voters(&self) -> NodeSet {
        let Some((current, next)) = self.latest_voters() else { return NodeSet::new() };
        current.iter().chain(next.into_iter().flatten()).copied().collect()
    }

    /// Whether its own vote counts, as far as it knows.
    pub(crate) fn votes(&self) -> bool {
        self.voters().contains(&self.me)
    }

    pub(super) fn others(&self) -> NodeSet {
        let mut others = self.voters();
        others.remove(&self.me);
        others
    }

    /// Whether these are enough to elect or commit.
    pub(crate) fn is_quorum(&self, nodes: &NodeSet) -> bool {
        let Some((current, next)) = self.latest_voters() else { return false };
        let majority = |set: &NodeSet| set.intersection(nodes).count() * 2 > set.len();
        majority(current) && next.is_none_or(majority)
    }

    pub(super) fn latest_voters(&self) -> Option<(&NodeSet, Option<&NodeSet>)> {
        self.entries.latest_voters().map(|voters| (&voters.current, voters.next.as_ref()))
    }

    pub(super) fn last(&self) -> Place {
        self.entries.last()
    }

    pub(super) fn append(&mut self, what: What) -> u64 {
        self.entries.push(Entry { term: self.term, what })
    }

    pub(super) fn send(&mut self, to: NodeId, message: LogMessage) {
        self.events.push_back(LogEvent::Send(to, message));
    }

    /// Applies everything committed.
    pub(super) fn apply(&mut self) {
        while self.applied < self.commit {
            let Some(entry) = self.entries.get(self.applied + 1) else { return };
            self.applied += 1;
            if let What::Command(command) = entry.what.clone() {
                self.machine.apply(self.applied, &command);
                self.events.extend(self.machine.take_deltas().map(LogEvent::Applied));
                self.events.push_back(LogEvent::Command(self.applied, command));
            }
        }
        if self.applied - self.entries.dropped() > self.keeps.saturating_mul(2) {
            self.entries.drop_to(self.applied - self.keeps);
        }
    }

    /// What to send to one who lacks entries that are kept no more.
    pub(super) fn whole(&self, sent: MonoTime) -> Option<LogMessage> {
        let last = (self.entries.term(self.applied)?, self.applied);
        let voters = self.entries.voters_at(self.applied)?.clone();
        let state = self.machine.snapshot().into();
        Some(LogMessage::Install { term: self.term, last, voters, state, sent })
    }

    /// Takes over a whole state, unless this log has all that led to it; the index up to which both agree.
    fn install(&mut self, last: Place, voters: Voters, state: &Bytes) -> u64 {
        let (term, index) = last;
        if self.entries.term(index) == Some(term) {
            // What follows may have been promised to the leader.
            self.commit = self.commit.max(index);
            self.apply();
        } else if index > self.commit {
            let restored = self.machine.restore(state);
            assert!(restored.is_ok(), "a log cannot read a log: {restored:?}");
            self.entries.restart(last, voters);
            (self.commit, self.applied) = (index, index);
            self.installed += 1;
            self.events.extend(self.machine.take_deltas().map(LogEvent::Applied));
        }
        index
    }

    fn hears_leader(&self, now: MonoTime) -> bool {
        // A leader counts as heard by itself as long as its quorum answers.
        let heard = if self.reign.is_some() { self.quorum_acked(now) } else { self.heard };
        heard.is_some_and(|heard| now.saturating_since(heard) < ELECTION_MIN)
    }

    fn put_off(&mut self, now: MonoTime) {
        let (min, max) = (ELECTION_MIN.as_micros() as u64, ELECTION_MAX.as_micros() as u64);
        self.election_due = now + Duration::from_micros(self.rng.random_range(min..max));
        self.votes = None;
    }

    fn follow(&mut self, term: u64, leader: Option<NodeId>) {
        if term > self.term {
            (self.term, self.voted_for, self.votes) = (term, None, None);
            self.leader = None;
        }
        self.leader = leader.or(self.leader);
        if let Some(reign) = self.reign.take() {
            reign.end(&mut self.events);
        }
    }

    fn campaign(&mut self, now: MonoTime) {
        self.term += 1;
        self.leader = None;
        self.voted_for = Some(self.me);
        self.votes = Some(NodeSet::from([self.me]));
        let more = (self.term.wrapping_mul(self.me.get()) >> 32) % CAMPAIGN_MORE;
        self.election_due = now + CAMPAIGN + Duration::from_millis(more);
        let (term, last) = (self.term, self.last());
        for node in self.others() {
            self.send(node, LogMessage::Vote { term, last });
        }
        self.count_votes(now);
    }

    fn count_votes(&mut self, now: MonoTime) {
        if self.votes.as_ref().is_some_and(|votes| self.is_quorum(votes)) {
            self.votes = None;
            self.leader = Some(self.me);
            let first = self.append(What::Begin);
            self.reign = Some(Reign::new(now, first));
            self.replicate(now);
        }
    }

    /// Takes entries of the leader over; the index up to which both agree, or the one to try next.
    fn take(&mut self, before: Place, entries: Vec<Entry>, commit: u64) -> Result<u64, u64> {
        let (term, index) = before;
        // What was dropped here is committed, so the leader has the same.
        let differs = self.entries.term(index) != Some(term);
        if index > self.entries.dropped() && differs {
            return Err((index - 1).min(self.entries.last().1));
        }
        let matched = index + entries.len() as u64;
        for (at, entry) in (index + 1..).zip(entries) {
            match self.entries.term(at) {
                _ if at <= self.entries.dropped() => {}
                Some(known) if known == entry.term => {}
                Some(_) => {
                    assert!(at > self.commit || self.commits_alone, "a committed entry changes");
                    self.entries.truncate(at - 1);
                    self.entries.push(entry);
                }
                None => {
                    self.entries.push(entry);
                }
            }
        }
        self.commit = self.commit.max(commit.min(matched));
        self.apply();
        Ok(matched)
    }
}
