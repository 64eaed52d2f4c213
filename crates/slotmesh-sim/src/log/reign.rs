use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use slotmesh_control::log::leader_speaks;
use slotmesh_slots::{MonoTime, NodeId};

use super::entries::Voters;
use super::message::{LogMessage, NodeSet, What};
use super::node::{ELECTION_MAX, LogEvent, LogNode};

/// Between two heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(50);

/// How long a proposal waits for its outcome.
const PROPOSAL_DEADLINE: Duration = Duration::from_secs(2);

/// Most entries in one message.
const ENTRIES_MAX: usize = 64;

/// What a leader knows.
pub(super) struct Reign {
    pub(super) since: MonoTime,
    /// Index of the first entry of this reign.
    pub(super) first: u64,
    pub(super) next_round: MonoTime,
    followers: BTreeMap<NodeId, Follower>,
    waiting: Vec<(u64, MonoTime)>,
    changing_voters: Option<MonoTime>,
}

/// What a leader knows of one that it sends to.
#[derive(Default)]
struct Follower {
    /// What it has for certain.
    matched: u64,
    /// What it is to be sent next, once it has said so.
    next: Option<u64>,
    /// When the latest message was sent that it answered.
    acked: Option<MonoTime>,
    /// When the message was sent that is on its way.
    under_way: Option<MonoTime>,
    /// The commit that it was told of last.
    told: u64,
}

impl Reign {
    pub(super) fn new(since: MonoTime, first: u64) -> Self {
        Self {
            since,
            first,
            next_round: since + HEARTBEAT,
            followers: BTreeMap::new(),
            waiting: Vec::new(),
            changing_voters: None,
        }
    }

    /// What did not come back until now is lost, or late.
    fn give_up_waiting(&mut self) {
        self.followers.values_mut().for_each(|follower| follower.under_way = None);
    }

    /// Who answered a message that was sent then or later.
    fn acked_since(&self, time: MonoTime) -> impl Iterator<Item = NodeId> {
        let acked = self.followers.iter().filter(move |(_, it)| it.acked >= Some(time));
        acked.map(|(node, _)| *node)
    }

    pub(super) fn await_outcome(&mut self, index: u64, now: MonoTime) {
        self.waiting.push((index, now + PROPOSAL_DEADLINE));
    }

    /// Nobody knows any more what becomes of what waits.
    pub(super) fn end(self, events: &mut VecDeque<LogEvent>) {
        events.extend(self.waiting.iter().map(|_| LogEvent::ProposalEnded));
        events.extend(self.changing_voters.map(|_| LogEvent::VotersSet));
    }

    fn settle(&mut self, applied: u64, now: MonoTime, events: &mut VecDeque<LogEvent>) {
        let before = self.waiting.len();
        self.waiting.retain(|(index, deadline)| *index > applied && *deadline > now);
        events.extend((self.waiting.len()..before).map(|_| LogEvent::ProposalEnded));
    }
}

impl LogNode {
    /// Changes the voters by joint consensus. One change at a time; one that another leader left half done is ended first,
    /// and is all that is done.
    pub(crate) fn set_voters(&mut self, wanted: NodeSet, now: MonoTime) {
        let free = self.reign.as_ref().is_some_and(|reign| reign.changing_voters.is_none());
        // What is not committed yet may be another leader's last step, or taken back.
        let latest = self.entries.latest_voters().filter(|latest| latest.index <= self.commit);
        let step = match latest {
            _ if !free || wanted.is_empty() => None,
            Some(Voters { next: Some(next), .. }) => {
                Some(What::Voters { current: next.clone(), next: None })
            }
            Some(Voters { current, next: None, .. }) => {
                Some(What::Voters { current: current.clone(), next: Some(wanted) })
            }
            None => None,
        };
        let Some(step) = step else { return self.events.push_back(LogEvent::VotersSet) };
        self.append(step);
        if let Some(reign) = &mut self.reign {
            reign.changing_voters = Some(now + PROPOSAL_DEADLINE);
        }
        self.replicate(now);
    }

    /// When the last heartbeat that a quorum acknowledged was sent.
    pub(super) fn quorum_acked(&self, now: MonoTime) -> Option<MonoTime> {
        let reign = self.reign.as_ref()?;
        let mut times: Vec<MonoTime> = reign.followers.values().filter_map(|it| it.acked).collect();
        times.push(now);
        times.sort_unstable();
        let since = |time: MonoTime| reign.acked_since(time).chain([self.me]).collect();
        times.into_iter().rev().find(|&time| self.is_quorum(&since(time)))
    }

    pub(super) fn lead(&mut self, now: MonoTime) {
        let applied = self.commit;
        if let Some(reign) = &mut self.reign {
            reign.next_round = now + HEARTBEAT;
            reign.give_up_waiting();
            reign.settle(applied, now, &mut self.events);
            if reign.changing_voters.take_if(|deadline| *deadline <= now).is_some() {
                self.events.push_back(LogEvent::VotersSet);
            }
        }
        self.replicate(now);
    }

    /// Sends everybody who votes what they lack; an empty message is a heartbeat.
    pub(super) fn replicate(&mut self, now: MonoTime) {
        for node in self.others() {
            self.replicate_to(node, now);
        }
        self.advance(now);
    }

    pub(super) fn acknowledged(
        &mut self,
        from: NodeId,
        matched: Result<u64, u64>,
        sent: MonoTime,
        now: MonoTime,
    ) {
        let last = self.entries.last().1;
        let Some(reign) = &mut self.reign else { return };
        let follower = reign.followers.entry(from).or_default();
        follower.acked = follower.acked.max(Some(sent));
        let behind = match matched {
            Ok(index) => {
                follower.matched = index.max(follower.matched);
                follower.next = Some(follower.matched + 1);
                follower.matched < last
            }
            Err(next) => {
                follower.next = Some(next.max(1));
                true
            }
        };
        follower.under_way.take_if(|at| *at == sent);
        self.advance(now);
        let follower = self.reign.as_ref().and_then(|reign| reign.followers.get(&from));
        if behind || follower.is_some_and(|follower| follower.told < self.commit) {
            self.replicate_to(from, now);
        }
    }

    /// One message at a time is on its way to each, as in production: what is appended meanwhile goes with the next. Else every
    /// answer of one who lags far behind would have all of it sent again.
    fn replicate_to(&mut self, node: NodeId, now: MonoTime) {
        let Some(reign) = &self.reign else { return };
        let known = reign.followers.get(&node);
        if known.is_some_and(|follower| follower.under_way.is_some()) {
            return;
        }
        let heard = self.quorum_acked(now).unwrap_or(reign.since).max(reign.since);
        if !leader_speaks(now.saturating_since(heard), ELECTION_MAX) {
            return;
        }
        let last = self.entries.last().1;
        let from = known.and_then(|follower| follower.next).unwrap_or(last).max(1) - 1;
        if let Some(reign) = &mut self.reign {
            let follower = reign.followers.entry(node).or_default();
            follower.under_way = Some(now);
            follower.told = self.commit;
        }
        let Some(before) = self.entries.term(from).map(|term| (term, from)) else {
            return self.whole(now).into_iter().for_each(|message| self.send(node, message));
        };
        let entries: Vec<_> = self.entries.after(from).take(ENTRIES_MAX).cloned().collect();
        let (term, commit) = (self.term, self.commit);
        self.send(node, LogMessage::Append { term, before, entries, commit, sent: now });
    }

    /// Commits what a quorum has, and only once an entry of the own term is among it (Raft §5.4.2).
    fn advance(&mut self, now: MonoTime) {
        let last = self.entries.last().1;
        let Some(reign) = &self.reign else { return };
        let has = |index: u64| {
            let others = reign.followers.iter().filter(|(_, it)| it.matched >= index);
            others.map(|(node, _)| *node).chain([self.me]).collect::<NodeSet>()
        };
        let fits = |index: &u64| {
            let own = self.entries.term(*index) == Some(self.term);
            own && (self.commits_alone || self.is_quorum(&has(*index)))
        };
        let Some(commit) = (self.commit + 1..=last).rev().find(fits) else { return };
        self.commit = commit;
        self.apply();
        if let Some(reign) = &mut self.reign {
            reign.settle(commit, now, &mut self.events);
        }
        self.finish_voters(now);
        self.replicate(now);
    }

    /// Ends a joint phase that this reign began and that is committed, and a reign whose end it is.
    fn finish_voters(&mut self, now: MonoTime) {
        let latest = self.entries.latest_voters().filter(|latest| latest.index <= self.commit);
        let Some(Voters { current, next, .. }) = latest.cloned() else { return };
        let Some(reign) = &mut self.reign else { return };
        if let Some(next) = next {
            if reign.changing_voters.is_some() {
                self.append(What::Voters { current: next, next: None });
            }
            return;
        }
        if reign.changing_voters.take().is_some() {
            self.events.push_back(LogEvent::VotersSet);
        }
        if !current.contains(&self.me) {
            // The others learn of the commit by the last round, then elect among themselves.
            if let Some(reign) = &mut self.reign {
                reign.give_up_waiting();
            }
            for node in self.voters() {
                self.replicate_to(node, now);
            }
            if let Some(reign) = self.reign.take() {
                reign.end(&mut self.events);
            }
        }
    }
}
