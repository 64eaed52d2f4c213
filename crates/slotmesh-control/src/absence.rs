//! Copies that were lost with a node that may come back, and how long they are waited for.
//!
//! A node that is stopped, cut off or replaced for some seconds costs its slots a copy each. Making all of those again on
//! other nodes at once would carry its whole share over the network, and again when it is back: so nothing is copied
//! before [`RECOPY_AFTER`], unless the node is known not to come back. Promotion never waits, only copying does. (Elasticsearch
//! calls it `delayed_timeout`, CockroachDB `time_until_store_dead`.)
//!
//! It is the leader's memory, like [`LeaseLedger`](crate::LeaseLedger): a new leader finds slots short of copies and cannot know
//! since when, so it takes the members that are not there for the reason and waits for them anew; who was struck before it
//! came is forgotten, and what was lost with it is copied at once.

use std::collections::BTreeMap;
use std::time::Duration;

use slotmesh_slots::{MonoTime, NodeId, Slot, SlotSet, SlotState};

use crate::member::Member;
use crate::state::{ClusterDelta, ClusterState};

/// How long a lost copy is waited for where nothing proves that it does not come back.
pub const RECOPY_AFTER: Duration = Duration::from_secs(30);

/// A slot that is down to its last copy waits no longer than this: a second loss would empty it, and writes that want two
/// copies are refused meanwhile. A process that stalls, or that its supervisor starts again at once, is back by then.
pub const LAST_COPY_WAIT: Duration = Duration::from_secs(5);

/// Nodes waited for at a time, two kilobytes each; the one missed longest is given up for one more.
const ABSENCES_MAX: usize = 64;

/// What becomes of the copies that were lost with a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AbsenceEvent {
    /// It is away: they are waited for.
    Began,
    /// It is there again.
    Back,
    /// Another node joined since, to take its place: they are made again.
    Replaced,
    /// It is proven dead: they are made again.
    Proven,
    /// The time is over: they are made again.
    TimeOver,
}

/// The leader's memory of lost copies.
#[derive(Debug)]
pub struct Absences {
    recopy_after: Duration,
    of: BTreeMap<NodeId, Absence>,
    /// Slots that were short of copies when this node began to lead, and when that was.
    found_short: Option<(SlotSet, MonoTime)>,
}

#[derive(Debug)]
struct Absence {
    /// When it was there for the last time, as far as is known.
    since: MonoTime,
    /// What it held and what has too few copies since.
    slots: SlotSet,
    /// Whether it has been away and not only out of the sets.
    missed: bool,
}

impl Absences {
    /// This node leads from now on. Lost copies are waited for this long.
    #[must_use]
    pub fn elected(state: &ClusterState, recopy_after: Duration, now: MonoTime) -> Self {
        let wanted = usize::from(state.replicas());
        let short = state.table().iter().filter(|(_, held)| is_short(held, wanted));
        let short: SlotSet = short.map(|(slot, _)| slot).collect();
        let found_short = (!short.is_empty()).then_some((short, now));
        Self { recopy_after, of: BTreeMap::new(), found_short }
    }

    /// What is about to change: holders that are lost by it are remembered, slots that have all copies forgotten.
    pub fn observe(&mut self, before: &ClusterState, delta: &ClusterDelta, now: MonoTime) {
        if delta.table.from != before.version() {
            return;
        }
        let wanted = usize::from(delta.replicas);
        for (slots, held) in &delta.table.changes {
            for slot in slots.iter() {
                self.observe_slot(before, (slot, held), wanted, now);
            }
        }
    }

    fn observe_slot(
        &mut self,
        before: &ClusterState,
        (slot, held): (Slot, &SlotState),
        wanted: usize,
        now: MonoTime,
    ) {
        let was = before.table().slot(slot);
        let began_anew = held.origin != was.origin;
        if began_anew || !is_short(held, wanted) {
            let found = self.found_short.as_mut().map(|(short, _)| short);
            for slots in self.of.values_mut().map(|absence| &mut absence.slots).chain(found) {
                slots.remove(slot);
            }
            return;
        }
        for node in was.primary.into_iter().chain(was.in_sync.iter()) {
            // Who drains goes on purpose.
            let stays = before.members().get(&node).is_some_and(Member::is_up);
            if stays && held.primary != Some(node) && !held.in_sync.contains(node) {
                self.of.entry(node).or_insert_with(|| Absence::new(now)).slots.insert(slot);
            }
        }
    }

    /// Looks at who is there, and tells what changed by that.
    pub fn review(
        &mut self,
        live: &dyn Fn(NodeId) -> bool,
        given_up: &dyn Fn(NodeId) -> bool,
        now: MonoTime,
    ) -> Vec<(NodeId, AbsenceEvent)> {
        let mut events = Vec::new();
        let recopy_after = self.recopy_after;
        self.of.retain(|node, absence| {
            if absence.slots.is_empty() {
                // They have all their copies, or began anew.
                return false;
            }
            let event = absence.look(live(*node), given_up(*node), recopy_after, now);
            events.extend(event.map(|event| (*node, event)));
            !matches!(event, Some(AbsenceEvent::Proven | AbsenceEvent::TimeOver))
        });
        let over = |(_, since): &(SlotSet, MonoTime)| now.saturating_since(*since) >= recopy_after;
        self.found_short = self.found_short.take().filter(|found| !over(found));
        while self.of.len() > ABSENCES_MAX
            && let Some(longest) = self.longest()
        {
            self.of.remove(&longest);
        }
        events
    }

    /// A node joined: itself again, or another one that takes the place of the one missed longest.
    pub fn handle_joined(&mut self, node: NodeId) -> Option<(NodeId, AbsenceEvent)> {
        if self.of.remove(&node).is_some() {
            return Some((node, AbsenceEvent::Back));
        }
        let Some(replaced) = self.longest() else {
            self.found_short = None;
            return None;
        };
        self.of.remove(&replaced);
        Some((replaced, AbsenceEvent::Replaced))
    }

    /// Those that are away.
    pub fn missed(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.of.iter().filter(|(_, absence)| absence.missed).map(|(node, _)| *node)
    }

    fn longest(&self) -> Option<NodeId> {
        let missed = self.of.iter().filter(|(_, absence)| absence.missed);
        missed.min_by_key(|(_, absence)| absence.since).map(|(node, _)| *node)
    }

    /// What is waited for now: the copies of those who are `away`, and not known to stay so.
    #[must_use]
    pub fn awaited(
        &self,
        state: &ClusterState,
        away: &dyn Fn(NodeId) -> bool,
        now: MonoTime,
    ) -> Awaited {
        let last_too = |since| now.saturating_since(since) < LAST_COPY_WAIT.min(self.recopy_after);
        let of = self.of.iter().map(|(node, absence)| Wait {
            node: Some(*node),
            slots: absence.slots.clone(),
            copies: usize::from(away(*node)),
            last_too: last_too(absence.since),
        });
        let found = self.found_short.as_ref().map(|(slots, since)| {
            let held = |(node, member): &(&NodeId, &Member)| {
                member.may_hold() && away(**node) && !self.of.contains_key(node)
            };
            let copies = state.members().iter().filter(held).count();
            Wait { node: None, slots: slots.clone(), copies, last_too: last_too(*since) }
        });
        Awaited { waits: of.chain(found).collect() }
    }
}

impl Absence {
    fn new(now: MonoTime) -> Self {
        Self { since: now, slots: SlotSet::new(), missed: false }
    }

    fn look(
        &mut self,
        live: bool,
        given_up: bool,
        recopy_after: Duration,
        now: MonoTime,
    ) -> Option<AbsenceEvent> {
        if given_up {
            return Some(AbsenceEvent::Proven);
        }
        if live {
            // Its slots are still copied to it rather than to others.
            self.since = now;
            return std::mem::take(&mut self.missed).then_some(AbsenceEvent::Back);
        }
        if now.saturating_since(self.since) >= recopy_after {
            return Some(AbsenceEvent::TimeOver);
        }
        (!std::mem::replace(&mut self.missed, true)).then_some(AbsenceEvent::Began)
    }
}

/// Whether a slot with a history has fewer copies than wanted.
fn is_short(held: &SlotState, wanted: usize) -> bool {
    held.primary.is_some() && held.in_sync.len() < wanted
}

/// Lost copies that are not to be made again yet, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Awaited {
    waits: Vec<Wait>,
}

#[derive(Clone, Debug)]
struct Wait {
    /// Who had them, where that is known.
    node: Option<NodeId>,
    slots: SlotSet,
    /// How many copies of each slot; none where the node is there again.
    copies: usize,
    /// Whether slots with a single copy wait too.
    last_too: bool,
}

impl Awaited {
    /// Nothing.
    pub const NONE: Self = Self { waits: Vec::new() };

    /// How many copies of the slot are waited for.
    #[must_use]
    pub fn copies(&self, slot: Slot, held: &SlotState) -> usize {
        let last = held.in_sync.is_empty();
        let waits = self.waits.iter().filter(|wait| wait.slots.contains(slot));
        waits.filter(|wait| wait.last_too || !last).map(|wait| wait.copies).sum()
    }

    /// Whether the node had the slot before it was missed: most of it is there still.
    #[must_use]
    pub fn had(&self, node: NodeId, slot: Slot) -> bool {
        self.waits.iter().any(|wait| wait.node == Some(node) && wait.slots.contains(slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Claim, Command};
    use crate::placement::{Sight, plan};
    use crate::state::tests::{assigned, info, node};

    /// A cluster and its leader's memory, by the second.
    struct Check {
        state: ClusterState,
        absences: Absences,
        away: Vec<NodeId>,
        dead: Vec<NodeId>,
        events: Vec<(NodeId, AbsenceEvent)>,
    }

    fn at(seconds: u64) -> MonoTime {
        MonoTime::from_micros(1 + seconds * 1_000_000)
    }

    impl Check {
        fn new(members: u64, replicas: u8) -> Self {
            let state = assigned(members, replicas);
            let absences = Absences::elected(&state, RECOPY_AFTER, at(0));
            Self { state, absences, away: Vec::new(), dead: Vec::new(), events: Vec::new() }
        }

        fn apply(&mut self, command: &Command, second: u64) {
            let mut after = self.state.clone();
            if let (_, Some(delta)) = after.apply(command) {
                self.absences.observe(&self.state, &delta, at(second));
            }
            self.state = after;
        }

        /// The node holds nothing any more, as after a failover or a shrink.
        fn lose(&mut self, gone: NodeId, second: u64) {
            self.away.push(gone);
            let held: Vec<(Claim, SlotState)> =
                self.state.table().iter().map(|(slot, held)| ((slot, held.epoch), *held)).collect();
            for (claim, held) in held {
                if held.primary == Some(gone) {
                    let mut copies = held.in_sync.iter();
                    let Some(primary) = copies.next() else { continue };
                    let in_sync = copies.collect();
                    self.apply(
                        &Command::Failover { claims: vec![claim], primary, in_sync },
                        second,
                    );
                } else if held.in_sync.contains(gone) {
                    self.apply(&Command::Shrink { claims: vec![claim], node: gone }, second);
                }
            }
        }

        fn complete(&mut self) {
            let table = self.state.table().iter().map(|(slot, held)| (slot, *held));
            for (slot, held) in table.collect::<Vec<_>>() {
                for node in held.copying.iter() {
                    let claims = vec![(slot, held.epoch, held.round)];
                    self.apply(&Command::Grow { claims, node }, 11);
                }
                if held.moving_to.is_some() {
                    let moves = vec![(slot, held.epoch, slotmesh_slots::Seq(0))];
                    self.apply(&Command::CommitMove { moves }, 11);
                }
            }
        }

        /// How many lost copies the plan makes again at this second, and on which nodes.
        fn copies(&mut self, second: u64) -> BTreeMap<NodeId, usize> {
            let wanted = usize::from(self.state.replicas());
            let mut begun = BTreeMap::new();
            for command in self.plan(second) {
                if let Command::AddCopy { claims, node } = command {
                    let held = claims.iter().map(|(slot, _)| self.state.table().slot(*slot));
                    let short = held.filter(|held| held.in_sync.len() < wanted).count();
                    if short > 0 {
                        *begun.entry(node).or_default() += short;
                    }
                }
            }
            begun
        }

        fn plan(&mut self, second: u64) -> Vec<Command> {
            let live = |node| !self.away.contains(&node);
            let dead = |node| self.dead.contains(&node);
            self.events.extend(self.absences.review(&live, &dead, at(second)));
            let away = |node| !live(node) && !dead(node);
            let awaited = self.absences.awaited(&self.state, &away, at(second));
            let sight = Sight { awaited: &awaited, ..Sight::of(&live) };
            plan(&self.state, &sight)
        }
    }

    #[test]
    fn copies_of_a_node_that_is_away_are_made_when_the_time_is_over() {
        let mut check = Check::new(4, 2);
        check.lose(node(1), 10);
        assert_eq!(check.copies(10), BTreeMap::new());
        assert_eq!(check.copies(39), BTreeMap::new(), "two copies are left");
        assert_eq!(check.copies(40).values().sum::<usize>(), crate::COPIES_IN_FLIGHT_MAX);
    }

    #[test]
    fn a_last_copy_waits_for_seconds_only() {
        let mut check = Check::new(3, 1);
        check.lose(node(1), 10);
        assert_eq!(check.copies(14), BTreeMap::new());
        assert!(!check.copies(15).is_empty());
    }

    #[test]
    fn a_proven_death_is_not_waited_for() {
        let mut check = Check::new(4, 2);
        check.lose(node(1), 10);
        assert_eq!(check.copies(10), BTreeMap::new());
        check.dead.push(node(1));
        assert!(!check.copies(10).is_empty());
        let events = [AbsenceEvent::Began, AbsenceEvent::Proven].map(|event| (node(1), event));
        assert_eq!(check.events, events);
    }

    #[test]
    fn who_is_back_gets_its_own_copies_again_at_once() {
        let mut check = Check::new(4, 2);
        check.lose(node(1), 10);
        assert_eq!(check.copies(10), BTreeMap::new());
        check.away.clear();
        assert_eq!(check.copies(11).into_keys().collect::<Vec<_>>(), [node(1)]);
        // Away again, it is waited for from then on.
        check.away.push(node(1));
        assert_eq!(check.copies(40), BTreeMap::new());
        assert!(!check.copies(41).is_empty());
    }

    #[test]
    fn one_that_joins_takes_the_place_of_one_that_is_away() {
        let mut check = Check::new(5, 2);
        check.lose(node(1), 10);
        check.lose(node(2), 11);
        assert_eq!(check.copies(12), BTreeMap::new());
        check.apply(&Command::AddMember { node: node(9), info: info(9) }, 12);
        assert_eq!(check.absences.handle_joined(node(9)), Some((node(1), AbsenceEvent::Replaced)));
        assert!(check.copies(12).contains_key(&node(9)));
        assert_eq!(check.absences.handle_joined(node(2)), Some((node(2), AbsenceEvent::Back)));
    }

    #[test]
    fn another_number_of_copies_and_a_drain_wait_for_nobody() {
        let mut more = Check::new(5, 2);
        more.lose(node(1), 10);
        let round = more.state.replicas_round();
        more.apply(&Command::SetReplicas { replicas: 3, round }, 11);
        assert!(!more.copies(11).is_empty());
        // Even of a slot whose only other copy may come back.
        let mut check = Check::new(4, 1);
        check.lose(node(1), 10);
        assert_eq!(check.copies(10), BTreeMap::new());
        check.apply(&Command::Drain { node: node(2) }, 11);
        while check.state.members().contains_key(&node(2)) {
            let steps = check.plan(11);
            assert!(!steps.is_empty(), "the drain waits");
            steps.iter().for_each(|step| check.apply(step, 11));
            check.complete();
        }
        let mut drained = Check::new(5, 2);
        drained.apply(&Command::Drain { node: node(1) }, 9);
        drained.lose(node(1), 10);
        assert!(!drained.copies(10).is_empty(), "it was to go anyway");
    }

    #[test]
    fn a_new_leader_waits_anew_for_members_that_are_not_there() {
        let mut check = Check::new(4, 2);
        check.lose(node(1), 10);
        check.absences = Absences::elected(&check.state, RECOPY_AFTER, at(20));
        assert_eq!(check.copies(49), BTreeMap::new());
        assert!(!check.copies(50).is_empty());
        check.absences = Absences::elected(&check.state, RECOPY_AFTER, at(60));
        check.apply(&Command::RemoveMember { node: node(1) }, 60);
        assert!(!check.copies(60).is_empty(), "who was struck is forgotten");
    }
}
