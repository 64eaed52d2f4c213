//! What every run has to keep, whatever happens: one sequence of commands, one leader at a time, true words about both.
//!
//! The oracle sees what the nodes apply, what proposers are told, what the wire carries, and each node's status. It never
//! panics, because it is called from the engine's tasks: it remembers the first thing that was wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::Mutex;
use slotmesh_control::ELECTION_MIN;
use slotmesh_control::log::{LogStatus, ProposeError};
use slotmesh_slots::{MonoTime, NodeId};
use tokio::time::Instant;

use super::clocks::Rate;
use super::tally::Tally;

/// Between two readings of one moment, in microseconds: what rounding a skewed clock costs.
const ROUNDING: u64 = 2;

pub type Voters = BTreeSet<NodeId>;

/// A node as the oracle looks at it.
pub struct Sight {
    pub node: NodeId,
    pub rate: Rate,
    pub status: LogStatus,
}

/// One node's leadership of one term. Times are true ones, in microseconds.
struct Reign {
    node: NodeId,
    since: u64,
    /// The newest time it claimed that a quorum acknowledged.
    claimed: Option<u64>,
    /// When it was seen to claim no more.
    ended: Option<u64>,
    /// Commands that were applied anywhere when it was first seen.
    inherited: usize,
}

#[derive(Default)]
struct Facts {
    /// The one sequence of commands: index and command.
    applied: Vec<(u64, Vec<u8>)>,
    ids: BTreeMap<u64, usize>,
    /// How much of it each node has applied.
    reached: BTreeMap<NodeId, usize>,
    /// Proposals of which the proposer was told that they never happen.
    refused: BTreeSet<u64>,
    acknowledged: BTreeSet<u64>,
    /// By term and node: openraft lets a second, of a higher number, follow in the same term.
    reigns: BTreeMap<(u64, NodeId), Reign>,
    terms: BTreeMap<NodeId, u64>,
    /// When the newest append was sent that was answered: from, to.
    answered: BTreeMap<(NodeId, NodeId), u64>,
    /// Sets of voters that may be in force.
    voters: BTreeSet<Voters>,
    wanted: Option<Voters>,
    sampled: u64,
    problem: Option<String>,
    tally: Tally,
}

pub struct Oracle {
    origin: Instant,
    /// The shortest time for which a voter of this run stays with its leader.
    patience: Duration,
    facts: Mutex<Facts>,
}

impl Oracle {
    pub fn new(origin: Instant, patience: Duration) -> Self {
        Self { origin, patience, facts: Mutex::default() }
    }

    /// True time in microseconds.
    pub fn now(&self) -> u64 {
        self.origin.elapsed().as_micros() as u64
    }

    pub fn count(&self, kind: &'static str) {
        self.facts.lock().tally.count(kind);
    }

    pub fn tally(&self) -> Tally {
        self.facts.lock().tally.clone()
    }

    pub fn problem(&self) -> Option<String> {
        self.facts.lock().problem.clone()
    }

    pub fn ensure(&self, holds: bool, problem: impl FnOnce() -> String) {
        self.facts.lock().ensure(holds, self.now(), problem);
    }

    /// Commands applied anywhere.
    pub fn applied(&self) -> usize {
        self.facts.lock().applied.len()
    }

    pub fn reached(&self, node: NodeId) -> usize {
        self.facts.lock().reached.get(&node).copied().unwrap_or_default()
    }

    /// Sets of voters that may be in force now or soon.
    pub fn possible_voters(&self) -> Vec<Voters> {
        let facts = self.facts.lock();
        facts.voters.iter().chain(&facts.wanted).cloned().collect()
    }

    pub fn founded(&self, voters: Voters) {
        self.facts.lock().voters = BTreeSet::from([voters]);
    }

    /// A node applied a command.
    pub fn apply(&self, node: NodeId, index: u64, command: &[u8]) {
        let mut facts = self.facts.lock();
        let place = facts.reached.get(&node).copied().unwrap_or_default();
        facts.reached.insert(node, place + 1);
        let entry = (index, command.to_vec());
        match facts.applied.get(place).map(|known| *known == entry) {
            Some(same) => facts.ensure(same, self.now(), || {
                format!(
                    "{node} applied another command than others at place {place}, index {index}"
                )
            }),
            None => facts.extend(node, entry, self.now()),
        }
    }

    /// A node took a snapshot over, and holds these commands now.
    pub fn restore(&self, node: NodeId, entries: &[(u64, Vec<u8>)]) {
        let mut facts = self.facts.lock();
        facts.tally.count("snapshot restored");
        let prefix = facts.applied.starts_with(entries);
        let before = facts.reached.insert(node, entries.len()).unwrap_or_default();
        facts.ensure(prefix, self.now(), || format!("{node} restored what nobody applied"));
        facts.ensure(before <= entries.len(), self.now(), || {
            format!("{node} was set back from {before} to {} commands", entries.len())
        });
    }

    /// A proposer was told that its command, the one of this id, has this place.
    pub fn acknowledge(&self, id: u64, outcome: &[u8]) {
        let mut facts = self.facts.lock();
        facts.tally.count("proposal applied");
        facts.acknowledged.insert(id);
        let place = facts.ids.get(&id).map(|place| (*place as u64 + 1).to_be_bytes());
        facts.ensure(place.is_some(), self.now(), || format!("{id} acknowledged, applied nowhere"));
        facts.ensure(place.is_none_or(|place| place == outcome), self.now(), || {
            format!("{id} was acknowledged with the outcome of another")
        });
    }

    /// A proposer was told that its command never happens.
    pub fn refuse(&self, id: u64) {
        let mut facts = self.facts.lock();
        facts.refused.insert(id);
        let happened = facts.ids.contains_key(&id);
        facts.ensure(!happened, self.now(), || format!("{id} was refused, and had been applied"));
    }

    /// An append from one node to another, sent then, was answered.
    pub fn answer(&self, from: NodeId, to: NodeId, sent: u64) {
        let mut facts = self.facts.lock();
        let newest = facts.answered.entry((from, to)).or_default();
        *newest = sent.max(*newest);
    }

    pub fn begin_change(&self, wanted: Voters) {
        self.facts.lock().wanted = Some(wanted);
    }

    /// A change of voters ended like this.
    pub fn end_change(&self, outcome: &Result<(), ProposeError>) {
        let mut facts = self.facts.lock();
        let Some(wanted) = facts.wanted.take() else { return };
        match outcome {
            Ok(()) => facts.voters = BTreeSet::from([wanted]),
            Err(error) if unknown(error) => {
                facts.tally.count("voters unknown");
                facts.voters.insert(wanted);
            }
            Err(_) => {}
        }
    }

    /// Looks at all live nodes at one moment.
    pub fn sample(&self, sights: &[Sight]) {
        let now = self.now();
        let mut facts = self.facts.lock();
        facts.end_reigns(sights, now);
        for sight in sights {
            facts.know(sight, now);
            if sight.status.is_leader {
                facts.reign(sight, now);
            }
        }
        for sight in sights {
            facts.check_named(sight, sights, now);
        }
        facts.check_claims(self.patience.as_micros() as u64, now);
        let claiming: Vec<NodeId> =
            sights.iter().filter(|sight| claims(sight)).map(|sight| sight.node).collect();
        facts.ensure(claiming.len() <= 1, now, || format!("{claiming:?} claim to lead at once"));
        for sight in sights.iter().filter(|sight| claims(sight)) {
            facts.tally.count("claim");
            facts.check_leader(sight, now);
        }
        facts.sampled = now;
    }
}

/// Whether an error leaves open what becomes of a proposal.
pub fn unknown(error: &ProposeError) -> bool {
    use ProposeError::{LeadershipLost, Stopped, Timeout};
    matches!(error, Timeout | LeadershipLost | Stopped)
}

/// Whether this node would grant leases, by its own clock.
pub fn claims(sight: &Sight) -> bool {
    let now = sight.rate.now();
    let fresh = |acked: MonoTime| now.saturating_since(acked) < ELECTION_MIN;
    sight.status.is_leader && sight.status.quorum_acked.is_some_and(fresh)
}

impl Facts {
    fn ensure(&mut self, holds: bool, now: u64, problem: impl FnOnce() -> String) {
        if !holds && self.problem.is_none() {
            self.problem =
                Some(format!("{}.{:06} s: {}", now / 1_000_000, now % 1_000_000, problem()));
        }
    }

    /// A command that no other node has applied yet.
    fn extend(&mut self, node: NodeId, entry: (u64, Vec<u8>), now: u64) {
        let (index, command) = &entry;
        let id = command.first_chunk().map_or(0, |id| u64::from_be_bytes(*id));
        let place = self.applied.len();
        let rises = self.applied.last().is_none_or(|last| last.0 < *index);
        self.ensure(rises, now, || format!("{node} applied index {index} after a later one"));
        let twice = self.ids.insert(id, place).is_some();
        self.ensure(!twice, now, || format!("{node} applied {id} twice"));
        let refused = self.refused.contains(&id);
        self.ensure(!refused, now, || format!("{node} applied {id}, which had been refused"));
        self.applied.push(entry);
    }

    /// What any node says of term, leader and applied entries.
    fn know(&mut self, sight: &Sight, now: u64) {
        let (node, status) = (sight.node, &sight.status);
        let before = self.terms.insert(node, status.term).unwrap_or_default();
        self.ensure(before <= status.term, now, || format!("the term of {node} went back"));
        let reached = self.reached.get(&node).copied().unwrap_or_default();
        let applied = reached.checked_sub(1).and_then(|last| self.applied.get(last));
        let behind = applied.is_some_and(|last| last.0 > status.last_applied);
        self.ensure(!behind, now, || format!("{node} denies what it applied"));
        let quiet = status.leader_since.is_none() && status.quorum_acked.is_none();
        let modest = status.is_leader || (quiet && !status.caught_up);
        self.ensure(modest, now, || format!("{node} follows and claims: {status:?}"));
    }

    /// Notes who claims no more.
    fn end_reigns(&mut self, sights: &[Sight], now: u64) {
        for (place, reign) in &mut self.reigns {
            let leads =
                |sight: &Sight| sight.status.is_leader && *place == (sight.status.term, sight.node);
            if !sights.iter().any(leads) {
                reign.ended.get_or_insert(now);
            }
        }
    }

    /// Whom a node calls the leader has been one.
    fn check_named(&mut self, sight: &Sight, sights: &[Sight], now: u64) {
        let Some(leader) = sight.status.leader else { return };
        let gone = sights.iter().all(|other| other.node != leader);
        let led = gone || self.reigns.contains_key(&(sight.status.term, leader));
        self.ensure(led, now, || format!("{} names {leader}, which never led", sight.node));
    }

    fn reign(&mut self, sight: &Sight, now: u64) {
        let (node, status) = (sight.node, &sight.status);
        let since = status.leader_since.map(|since| sight.rate.truly(since));
        self.ensure(since.is_some(), now, || format!("{node} leads since never"));
        let since = since.unwrap_or_default();
        if !self.reigns.contains_key(&(status.term, node)) {
            let seen = self.sampled.saturating_sub(ROUNDING) <= since && since <= now + ROUNDING;
            self.ensure(seen, now, || format!("{node} says it leads since {since} us"));
            self.tally.count("leader changed");
            let inherited = self.applied.len();
            self.reigns.insert(
                (status.term, node),
                Reign { node, since, claimed: None, ended: None, inherited },
            );
        }
        let claimed = status.quorum_acked.map(|acked| sight.rate.truly(acked));
        let Some(reign) = self.reigns.get_mut(&(status.term, node)) else { return };
        reign.claimed = reign.claimed.max(claimed);
        let same = reign.since == since;
        self.ensure(same, now, || format!("{node} began to lead term {} twice", status.term));
        self.check_acked(sight, claimed, now);
    }

    /// What a leader says of its quorum is no younger than what the wire carried; during a change, in both sets of voters, or in the
    /// new one where that is logged and merely not committed yet.
    fn check_acked(&mut self, sight: &Sight, claimed: Option<u64>, now: u64) {
        let (node, status) = (sight.node, &sight.status);
        let said: Voters = status.voters.iter().copied().collect();
        let bound = if status.voters_changing {
            let may = || self.voters.iter().chain(&self.wanted);
            let pairs = may().flat_map(|a| may().map(move |b| (a, b)));
            let fit = pairs.filter(|(a, b)| a != b && a.union(b).eq(&said));
            let both = fit.map(|(a, b)| self.acked(node, a, now).min(self.acked(node, b, now)));
            let alone = may().any(|set| *set == said).then(|| self.acked(node, &said, now));
            both.chain(alone).max().unwrap_or(now)
        } else {
            self.acked(node, &said, now)
        };
        self.ensure(claimed.is_none_or(|claimed| claimed <= bound + ROUNDING), now, || {
            format!("{node} claims a quorum at {claimed:?} us, the wire knows of {bound} us")
        });
    }

    /// When the newest append was sent that a majority of these answered.
    fn acked(&self, leader: NodeId, voters: &Voters, now: u64) -> u64 {
        let newest = |voter: &NodeId| match *voter == leader {
            true => now,
            false => self.answered.get(&(leader, *voter)).copied().unwrap_or_default(),
        };
        let mut sent: Vec<u64> = voters.iter().map(newest).collect();
        sent.sort_unstable_by(|a, b| b.cmp(a));
        sent.get(voters.len() / 2).copied().unwrap_or_default()
    }

    /// Nobody is elected while voters stay with an earlier leader, unless that gave its claim up before: it left, or voted for the
    /// other itself.
    fn check_claims(&mut self, patience: u64, now: u64) {
        let reigns: Vec<(&(u64, NodeId), &Reign)> = self.reigns.iter().collect();
        let pairs = reigns
            .iter()
            .enumerate()
            .flat_map(|(at, later)| reigns[..at].iter().map(move |earlier| (earlier.1, later.1)));
        let early = pairs
            .filter(|(earlier, later)| earlier.node != later.node)
            .filter(|(earlier, later)| {
                earlier.ended.is_none_or(|ended| ended > later.since + ROUNDING)
            })
            .filter_map(|(earlier, later)| Some((earlier.claimed?, earlier.node, later)))
            .find(|(claimed, _, later)| claimed + patience > later.since + ROUNDING)
            .map(|(claimed, node, later)| (later.node, later.since, node, claimed));
        self.ensure(early.is_none(), now, || {
            format!("elected too early (who, when, after whom, who claimed): {early:?}")
        });
    }

    /// What the one leader with a quorum says of its state and its voters.
    fn check_leader(&mut self, sight: &Sight, now: u64) {
        let (node, status) = (sight.node, &sight.status);
        if !status.caught_up {
            return;
        }
        let inherited = self.reigns.get(&(status.term, node)).map_or(0, |reign| reign.inherited);
        let reached = self.reached.get(&node).copied().unwrap_or_default();
        self.ensure(inherited <= reached, now, || {
            format!("{node} has caught up, at {reached} of {inherited} commands")
        });
        let said: Voters = status.voters.iter().copied().collect();
        let may: Vec<&Voters> = self.voters.iter().chain(&self.wanted).collect();
        let both = |a: &Voters| may.iter().any(|b| a.union(b).eq(&said));
        let fits = match status.voters_changing {
            true => may.iter().any(|a| both(a)),
            false => may.contains(&&said),
        };
        let may = format!("{may:?}");
        self.ensure(fits, now, || format!("{node} has voters {said:?}, possible are {may}"));
    }
}
