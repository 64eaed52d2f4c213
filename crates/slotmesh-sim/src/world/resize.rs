//! Nodes that join a cluster beyond those that founded it, and nodes that leave it for good.

use std::time::Duration;

use super::{Event, World};
use crate::scenario::Resize;

/// When a node that cannot leave now is told again.
const LATER: Duration = Duration::from_millis(300);

/// How long a node that leaves for good may take until it ends, if the cluster can do without it.
const LEAVES_WITHIN: Duration = Duration::from_secs(12);

impl World {
    /// A node joins at its address, or one is told to leave and is not replaced.
    pub(super) fn resize(&mut self, index: usize) {
        let Some(&Resize { place, joins, .. }) = self.scenario.resizes.get(index) else { return };
        if joins {
            self.trace.say(self.now, format_args!("place {place} is new"));
            self.coverage.see(format_args!("joined"));
            self.wanted.insert(place);
            self.resized.insert(index);
            return self.start(place);
        }
        let fits = self.runs(place) && self.may_leave(place);
        if !fits || !self.leave(place, self.now + LEAVES_WITHIN) {
            return self.schedule(self.now + LATER, Event::Resize(index));
        }
        self.trace.say(self.now, format_args!("place {place} is given up"));
        self.coverage.see(format_args!("left for good"));
        self.wanted.remove(&place);
        self.resized.insert(index);
    }

    /// Whether a process is at this address that is not stopped.
    fn runs(&self, place: usize) -> bool {
        let process = self.places[place].and_then(|node| self.processes.get(&node));
        process.is_some_and(|process| !process.paused)
    }

    /// How many joins and departures did not happen yet.
    pub(super) fn resizes_left(&self) -> usize {
        self.scenario.resizes.len() - self.resized.len()
    }

    /// Which nodes there are that should not be, or the other way round.
    pub(super) fn misplaced(&self) -> Option<String> {
        let is = |place: &usize| self.places[*place].is_some();
        let wrong: Vec<usize> = (0..self.places.len())
            .filter(|place| is(place) != self.wanted.contains(place))
            .collect();
        (!wrong.is_empty()).then(|| format!("{wrong:?} run or do not, {:?} should", self.wanted))
    }

    /// Who has less than half of its share of the slots to serve, by its weight.
    pub(super) fn underloaded(&self) -> Option<String> {
        let state = self.committed();
        let holds = |node| {
            let table = state.table().iter();
            table.filter(|(_, held)| held.primary == Some(node)).count()
        };
        let may = |it: &slotmesh_control::Member| !it.info.witness;
        let members = || state.members().iter().filter(|(_, member)| may(member));
        let weights: usize = members().map(|(_, member)| member.info.weight as usize).sum();
        members().find_map(|(&node, member)| {
            let share = slotmesh_slots::SLOT_COUNT * member.info.weight as usize / weights.max(1);
            let has = holds(node);
            (has * 2 < share).then(|| format!("{node} serves {has} slots, {share} are its share"))
        })
    }
}
