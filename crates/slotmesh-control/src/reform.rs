use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use slotmesh_slots::{Generation, MonoTime, NodeId};

use crate::lease::{ELECTION_MIN, LEASE, LEASE_MARGIN_PERCENT};

/// What a cluster does when the majority of its voters is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reform {
    /// Nothing is decided until the majority is back or an operator has the survivors go on without it.
    #[default]
    Never,
    /// After so long without a leader, and with most voters out of sight, the nodes that see each other go on without the
    /// others. Writes are lost that only the others have, and where the others live on as well, both sides serve until they
    /// meet.
    After(Duration),
}

impl From<Duration> for Reform {
    fn from(after: Duration) -> Self {
        Self::After(after)
    }
}

/// How long after the last promise every lease of the old generation is surely over. A leader that lost its quorum with
/// that promise grants for another election time, and clocks drift.
pub const LEASES_OVER_AFTER: Duration = Duration::from_micros(
    (LEASE.as_micros() as u64 + ELECTION_MIN.as_micros() as u64) * LEASE_MARGIN_PERCENT as u64
        / 100,
);

/// A promise binds until the one who asked for it has been silent for this long.
const PROMISE_BINDS: Duration = Duration::from_secs(3);

/// How long promises are asked for before that is given up. Whoever had it begun has been told by then that nothing came
/// of it, and does not expect it to happen later.
pub const REFORM_ASKS_FOR: Duration = Duration::from_secs(8);

/// How a cluster goes on without the majority of its voters.
///
/// One survivor asks all others that it sees to promise a new generation. Whoever promises takes no part in the old
/// generation's log any more, so that no old leader finds a quorum with it. When all have promised and every old lease is over,
/// the one who asked begins the new generation's log. Of two who ask, the larger identity gives way.
///
/// Who asked gives up when the majority is back, or after [`REFORM_ASKS_FOR`], and releases those who promised: it will never
/// begin that generation, so all of them go on in the old log where they left off. Only a promise to somebody who is gone is
/// never given back.
#[derive(Debug)]
pub struct Reforming {
    me: NodeId,
    stage: Stage,
    has_left_log: bool,
    /// Promises that were not given back.
    owed: BTreeMap<NodeId, Generation>,
    /// How long all old leases are waited for.
    wait: Duration,
}

#[derive(Debug)]
enum Stage {
    Idle,
    Asking {
        generation: Generation,
        since: MonoTime,
        promised: BTreeSet<NodeId>,
        over_at: Option<MonoTime>,
    },
    Promised {
        to: NodeId,
        generation: Generation,
        asked: Option<MonoTime>,
    },
    Founding {
        generation: Generation,
    },
}

/// What the reform wants from its driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReformStep {
    /// Ask these nodes to promise this generation, again and again: that also tells them that we are still here.
    Ask(BTreeSet<NodeId>, Generation),
    /// All others promised: leave the old generation's log too.
    LeaveLog(Generation),
    /// Begin the log of this generation with these survivors.
    Found(BTreeSet<NodeId>, Generation),
}

/// What came of a question for our promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// It is given, now or already; these were released from theirs to us.
    Promised(BTreeSet<NodeId>, Option<Generation>),
    /// It is not.
    Refused,
}

impl Reforming {
    /// Nothing is being reformed. Old leases are waited for so long: [`LEASES_OVER_AFTER`], or two owners serve one slot.
    #[must_use]
    pub const fn new(me: NodeId, wait: Duration) -> Self {
        Self { me, stage: Stage::Idle, has_left_log: false, owed: BTreeMap::new(), wait }
    }

    /// Begins to ask for promises of this generation, unless this node asks already or is bound to another; false then.
    pub fn start(&mut self, generation: Generation, now: MonoTime) -> bool {
        let free = match &self.stage {
            Stage::Idle => true,
            Stage::Promised { asked, .. } => !is_fresh(*asked, now),
            Stage::Asking { .. } | Stage::Founding { .. } => false,
        };
        if free {
            let promised = BTreeSet::new();
            self.stage = Stage::Asking { generation, since: now, promised, over_at: None };
        }
        free
    }

    /// Looks at who is there: `survivors` are all live members of the old generation, this node included.
    pub fn step(&mut self, survivors: &BTreeSet<NodeId>, now: MonoTime) -> Option<ReformStep> {
        let Stage::Asking { generation, promised, over_at, .. } = &mut self.stage else {
            return None;
        };
        let generation = *generation;
        let others: BTreeSet<NodeId> =
            survivors.iter().copied().filter(|&node| node != self.me).collect();
        if !others.is_subset(promised) {
            return Some(ReformStep::Ask(others, generation));
        }
        let Some(at) = *over_at else {
            *over_at = Some(now + self.wait);
            self.has_left_log = true;
            return Some(ReformStep::LeaveLog(generation));
        };
        if now < at {
            return Some(ReformStep::Ask(others, generation));
        }
        self.stage = Stage::Founding { generation };
        Some(ReformStep::Found(survivors.clone(), generation))
    }

    /// Somebody asks for our promise; `willing` says whether the old generation has no majority as far as we see.
    pub fn handle_ask(
        &mut self,
        from: NodeId,
        generation: Generation,
        willing: bool,
        now: MonoTime,
    ) -> Asked {
        let mut released = (BTreeSet::new(), None);
        let free = match &self.stage {
            Stage::Idle => willing,
            Stage::Promised { to, generation: bound, asked } => {
                let same = (*to, *bound) == (from, generation);
                same || (willing && (*to == from || !is_fresh(*asked, now)))
            }
            Stage::Asking { generation: ours, promised, .. } => {
                let yields = from < self.me && willing;
                if yields {
                    released = (promised.clone(), Some(*ours));
                }
                yields
            }
            Stage::Founding { .. } => false,
        };
        if !free {
            return Asked::Refused;
        }
        self.stage = Stage::Promised { to: from, generation, asked: Some(now) };
        self.has_left_log = true;
        // Who asks for another generation than before will not begin that one.
        self.owed.insert(from, generation);
        Asked::Promised(released.0, released.1)
    }

    /// A node answered our question with its promise.
    pub fn handle_promise(&mut self, from: NodeId, generation: Generation, now: MonoTime) {
        if let Stage::Asking { generation: asked, promised, over_at, .. } = &mut self.stage
            && *asked == generation
            && promised.insert(from)
            && let Some(at) = over_at
        {
            *at = now + self.wait;
        }
    }

    /// The one who asked will never begin that generation.
    pub fn handle_release(&mut self, from: NodeId, generation: Generation) {
        if self.owed.get(&from) == Some(&generation) {
            self.owed.remove(&from);
            if matches!(&self.stage, Stage::Promised { to, .. } if *to == from) {
                self.stage = Stage::Idle;
            }
        }
    }

    /// Asks no more; the generation that will never begin by this node, whose promises are to be released.
    pub fn cancel(&mut self) -> Option<Generation> {
        let Stage::Asking { generation, .. } = self.stage else { return None };
        self.stage = Stage::Idle;
        Some(generation)
    }

    /// Whether promises were asked for as long as that may take.
    #[must_use]
    pub fn is_overdue(&self, now: MonoTime) -> bool {
        matches!(self.stage, Stage::Asking { since, .. } if now.saturating_since(since) >= REFORM_ASKS_FOR)
    }

    /// Goes back into the old log if nothing keeps this node from it; true when it does now.
    pub fn return_to_log(&mut self) -> bool {
        let free = matches!(self.stage, Stage::Idle) && self.owed.is_empty();
        free && std::mem::take(&mut self.has_left_log)
    }

    /// Who has a promise of this node and was not heard of for a while: ask what became of it.
    #[must_use]
    pub fn unheard(&self, now: MonoTime) -> Vec<(NodeId, Generation)> {
        let current = match &self.stage {
            Stage::Promised { to, asked, .. } if is_fresh(*asked, now) => Some(*to),
            _ => None,
        };
        let owed = self.owed.iter().filter(|(node, _)| Some(**node) != current);
        owed.map(|(node, generation)| (*node, *generation)).collect()
    }

    /// The generation whose log this node takes part in instead of the old one's.
    #[must_use]
    pub fn bound_to(&self) -> Option<Generation> {
        match &self.stage {
            Stage::Promised { generation, .. } | Stage::Founding { generation } => {
                Some(*generation)
            }
            Stage::Asking { generation, over_at: Some(_), .. } => Some(*generation),
            Stage::Idle | Stage::Asking { .. } => None,
        }
    }

    /// Whether this node begins the new generation's log.
    #[must_use]
    pub const fn is_founding(&self) -> bool {
        matches!(self.stage, Stage::Founding { .. })
    }

    /// Whether this node asks others for their promises.
    #[must_use]
    pub const fn is_asking(&self) -> bool {
        matches!(self.stage, Stage::Asking { .. })
    }

    /// Whether this node asks for promises of this generation.
    #[must_use]
    pub fn is_asking_for(&self, wanted: Generation) -> bool {
        matches!(self.stage, Stage::Asking { generation, .. } if generation == wanted)
    }

    /// Whether this node takes no part in the old generation's log: until all that it promised is given back.
    #[must_use]
    pub const fn has_left_log(&self) -> bool {
        self.has_left_log
    }

    /// Whether this node left the old log for somebody who is not heard of any more.
    #[must_use]
    pub fn is_stranded(&self, now: MonoTime) -> bool {
        matches!(self.stage, Stage::Promised { asked, .. } if !is_fresh(asked, now))
    }

    /// The new generation is this node's own: what comes next would be another reform.
    pub fn done(&mut self) {
        self.stage = Stage::Idle;
        self.has_left_log = false;
        self.owed.clear();
    }
}

fn is_fresh(asked: Option<MonoTime>, now: MonoTime) -> bool {
    asked.is_some_and(|asked| now.saturating_since(asked) < PROMISE_BINDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::{node, nodes};

    fn generation(draw: u64) -> Generation {
        Generation { cluster: 5 << 64, reform: 0 }.reformed(draw)
    }

    fn at(millis: u64) -> MonoTime {
        MonoTime::from_micros(1_000 * millis)
    }

    #[test]
    fn a_log_begins_when_all_promised_and_every_old_lease_is_over() {
        let (seen, ours) = (nodes(&[1, 2, 3]), generation(1));
        let mut first = Reforming::new(node(1), LEASES_OVER_AFTER);
        assert!(first.start(ours, at(0)) && !first.start(generation(2), at(0)));
        let ask = Some(ReformStep::Ask(nodes(&[2, 3]), ours));
        assert_eq!(first.step(&seen, at(0)), ask);
        first.handle_promise(node(2), ours, at(1));
        first.handle_promise(node(3), generation(9), at(1));
        assert_eq!(first.step(&seen, at(1)), ask, "another's promise is none");
        assert!(!first.has_left_log());
        first.handle_promise(node(3), ours, at(10));
        assert_eq!(first.step(&seen, at(10)), Some(ReformStep::LeaveLog(ours)));
        assert_eq!(first.step(&seen, at(1_000)), ask, "too early");
        let more = nodes(&[1, 2, 3, 4]);
        assert!(matches!(first.step(&more, at(1_060)), Some(ReformStep::Ask(..))), "one more");
        first.handle_promise(node(4), ours, at(1_100));
        assert!(matches!(first.step(&more, at(2_100)), Some(ReformStep::Ask(..))));
        assert_eq!(first.step(&more, at(2_145)), Some(ReformStep::Found(more.clone(), ours)));
        let late = first.handle_ask(node(0), generation(3), true, at(2_200));
        assert_eq!(late, Asked::Refused, "what is founded is founded");
        assert!(LEASES_OVER_AFTER >= LEASE * LEASE_MARGIN_PERCENT / 100);
    }

    #[test]
    fn a_promise_binds_while_whoever_asked_is_there() {
        let mut third = Reforming::new(node(3), LEASES_OVER_AFTER);
        let refused = third.handle_ask(node(2), generation(2), false, at(0));
        assert_eq!(refused, Asked::Refused, "a majority is there");
        let promised = Asked::Promised(BTreeSet::new(), None);
        assert_eq!(third.handle_ask(node(2), generation(2), true, at(0)), promised);
        assert_eq!(third.bound_to(), Some(generation(2)));
        assert_eq!(third.handle_ask(node(2), generation(2), false, at(2_900)), promised, "again");
        assert_eq!(third.handle_ask(node(1), generation(1), true, at(5_000)), Asked::Refused);
        assert!(!third.start(generation(4), at(5_000)) && third.is_stranded(at(6_000)));
        assert_eq!(third.handle_ask(node(1), generation(1), true, at(6_000)), promised);
        third.handle_release(node(1), generation(1));
        assert!(third.start(generation(4), at(6_001)) && third.has_left_log());
    }

    #[test]
    fn who_owes_no_promise_goes_back_into_the_log() {
        let mut third = Reforming::new(node(3), LEASES_OVER_AFTER);
        for (from, draw, time) in [(2, 2, 0), (1, 1, 4_000), (1, 5, 5_000)] {
            let asked = third.handle_ask(node(from), generation(draw), true, at(time));
            assert!(matches!(asked, Asked::Promised(..)), "the one before is silent, or the same");
        }
        assert_eq!(third.unheard(at(5_001)), [(node(2), generation(2))]);
        third.handle_release(node(1), generation(1));
        assert_eq!(third.bound_to(), Some(generation(5)), "what was replaced is not what binds");
        third.handle_release(node(1), generation(5));
        assert!(
            third.bound_to().is_none() && !third.return_to_log(),
            "the other may still begin it"
        );
        third.handle_release(node(2), generation(2));
        assert!(third.return_to_log() && !third.has_left_log() && !third.return_to_log());
    }

    #[test]
    fn who_asks_gives_up_and_begins_nothing() {
        let (seen, mut first) = (nodes(&[1, 2]), Reforming::new(node(1), LEASES_OVER_AFTER));
        first.start(generation(1), at(0));
        assert!(!first.is_overdue(at(7_999)) && first.is_overdue(at(8_000)));
        first.handle_promise(node(2), generation(1), at(1));
        assert_eq!(first.step(&seen, at(1)), Some(ReformStep::LeaveLog(generation(1))));
        assert_eq!(first.cancel(), Some(generation(1)));
        assert_eq!((first.step(&seen, at(60_000)), first.cancel()), (None, None));
        assert!(first.return_to_log());
        first.start(generation(2), at(61_000));
        first.handle_promise(node(2), generation(2), at(61_000));
        first.step(&seen, at(61_000));
        assert!(matches!(first.step(&seen, at(63_000)), Some(ReformStep::Found(..))));
        assert_eq!(first.cancel(), None, "what is founded is founded");
    }

    #[test]
    fn of_two_who_ask_the_larger_gives_way() {
        let mut second = Reforming::new(node(2), LEASES_OVER_AFTER);
        second.start(generation(2), at(0));
        second.handle_promise(node(3), generation(2), at(0));
        assert_eq!(second.handle_ask(node(4), generation(4), true, at(0)), Asked::Refused);
        let asked = second.handle_ask(node(1), generation(1), true, at(0));
        assert_eq!(asked, Asked::Promised(nodes(&[3]), Some(generation(2))));
    }
}
