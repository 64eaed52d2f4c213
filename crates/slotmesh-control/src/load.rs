//! What slots hold and how much they are written, as their primaries tell the leader.
//!
//! Coarse on purpose: a class is a quarter of an octave, an eighth of the value at most off, and slots of the same classes that
//! lie side by side are told together. So a report of all slots takes some kilobytes, 128 KiB at the worst, each
//! [`LOAD_INTERVAL`]. Only the leader keeps them, and a new one weighs nothing before it has heard from everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slotmesh_slots::{NodeId, SLOT_COUNT, Slot};

use crate::state::ClusterState;

/// How often a primary reports: rare enough to cost nothing, and a burst of some seconds moves nothing.
pub const LOAD_INTERVAL: Duration = Duration::from_secs(10);

/// Of what a report says, this part of the old is kept, so that one busy interval does not decide.
const KEPT_OF_4: u64 = 3;

/// A number as told: zero, or the quarter of an octave it lies in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct LoadClass(u8);

impl LoadClass {
    /// 16 TiB and more are all the same, so that no sum over slots and copies overflows.
    const OCTAVES: u32 = 44;
    const MAX: u8 = Self::OCTAVES as u8 * 4;

    /// The class of a number.
    #[must_use]
    pub fn of(value: u64) -> Self {
        let Some(octave) = value.checked_ilog2() else { return Self(0) };
        let quarter = (u128::from(value) << 2 >> octave) as u8 & 3;
        Self((octave.saturating_mul(4) as u8).saturating_add(quarter + 1).min(Self::MAX))
    }

    /// The middle of the class.
    #[must_use]
    pub fn value(self) -> u64 {
        let Some(index) = self.0.min(Self::MAX).checked_sub(1) else { return 0 };
        let (octave, quarter) = (index / 4, u64::from(index % 4));
        ((9 + 2 * quarter) << octave) / 8
    }
}

/// Neighbouring slots of the same classes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct LoadRun {
    first: u16,
    count: u16,
    bytes: LoadClass,
    writes: LoadClass,
}

/// Bytes that are no loads of slots. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Runs overlap, are out of order, empty, or beyond the last slot.
    #[error("loads of slots that do not ascend, at slot {0}")]
    OutOfOrder(u16),
    /// A class that no number has.
    #[error("there is no class {0} of loads")]
    NoClass(u8),
}

/// Loads of slots in ascending order; as many runs as there are slots at most.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<LoadRun>", into = "Vec<LoadRun>")]
pub struct SlotLoads(Vec<LoadRun>);

impl SlotLoads {
    /// Adds a slot with its bytes and writes; it must come after the others.
    pub fn push(&mut self, slot: Slot, bytes: u64, writes: u64) {
        let (bytes, writes) = (LoadClass::of(bytes), LoadClass::of(writes));
        let number = slot.number();
        match self.0.last_mut() {
            Some(last) if last.first + last.count > number => {
                debug_assert!(false, "{slot} does not come after the others");
            }
            Some(last)
                if last.first + last.count == number
                    && (last.bytes, last.writes) == (bytes, writes) =>
            {
                last.count += 1;
            }
            _ => self.0.push(LoadRun { first: number, count: 1, bytes, writes }),
        }
    }

    /// Every slot with its bytes and writes.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, u64, u64)> + '_ {
        self.0.iter().flat_map(|run| {
            let slots = (run.first..run.first + run.count).filter_map(Slot::new);
            slots.map(|slot| (slot, run.bytes.value(), run.writes.value()))
        })
    }
}

impl TryFrom<Vec<LoadRun>> for SlotLoads {
    type Error = LoadError;

    fn try_from(runs: Vec<LoadRun>) -> Result<Self, LoadError> {
        let mut next = 0;
        for run in &runs {
            let end = usize::from(run.first) + usize::from(run.count);
            if usize::from(run.first) < next || run.count == 0 || end > SLOT_COUNT {
                return Err(LoadError::OutOfOrder(run.first));
            }
            if let Some(class) = [run.bytes, run.writes].into_iter().find(|c| c.0 > LoadClass::MAX)
            {
                return Err(LoadError::NoClass(class.0));
            }
            next = end;
        }
        Ok(Self(runs))
    }
}

impl From<SlotLoads> for Vec<LoadRun> {
    fn from(loads: SlotLoads) -> Self {
        loads.0
    }
}

/// What a node tells of itself and of the slots that it is primary of.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LoadReport {
    /// What counts against its budget.
    pub used_bytes: u64,
    /// What it may hold.
    pub budget_bytes: u64,
    /// Its slots: bytes, and writes since the report before.
    pub slots: SlotLoads,
}

/// Differences below these are not worth moving anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoadFloor {
    /// Bytes that a node has beyond its share.
    pub bytes: u64,
    /// Writes in [`LOAD_INTERVAL`] that a node has beyond its share.
    pub writes: u64,
}

impl Default for LoadFloor {
    /// 16 MiB take half a second to copy; a thousand writes a second are some thousandths of a core.
    fn default() -> Self {
        Self { bytes: 16 << 20, writes: 10_000 }
    }
}

/// The leader's memory of loads.
#[derive(Clone, Debug)]
pub struct Loads {
    slots: Vec<SlotLoad>,
    /// Used and budget of those that reported.
    nodes: BTreeMap<NodeId, (u64, u64)>,
    /// Those that did since the last exchange.
    heard: BTreeSet<NodeId>,
    /// What is not worth a move.
    pub(crate) floor: LoadFloor,
}

/// What one copy of a slot holds, and how often its primary was written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct SlotLoad {
    pub(crate) bytes: u64,
    pub(crate) writes: u64,
}

impl Loads {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(floor: LoadFloor) -> Self {
        Self {
            slots: vec![SlotLoad::default(); SLOT_COUNT],
            nodes: BTreeMap::new(),
            heard: BTreeSet::new(),
            floor,
        }
    }

    /// A member reported. What it says of slots that others are primary of by now does not count.
    pub fn handle_report(&mut self, state: &ClusterState, from: NodeId, report: &LoadReport) {
        if !state.members().contains_key(&from) {
            return;
        }
        let first = self.nodes.insert(from, (report.used_bytes, report.budget_bytes)).is_none();
        for (slot, bytes, writes) in report.slots.iter() {
            if state.table().slot(slot).primary == Some(from) {
                let load = &mut self.slots[slot.index()];
                let kept = if first { writes } else { load.writes };
                let writes = (kept * KEPT_OF_4 + writes) / (KEPT_OF_4 + 1);
                *load = SlotLoad { bytes, writes };
            }
        }
        self.heard.insert(from);
        self.nodes.retain(|node, _| state.members().contains_key(node));
    }

    /// Copies were exchanged: what nodes said of their memory is true no more.
    pub fn handle_exchanged(&mut self) {
        self.heard.clear();
    }

    /// Whether all who hold slots have reported since.
    pub(crate) fn is_complete(&self, holders: &[NodeId]) -> bool {
        holders.iter().all(|node| self.heard.contains(node))
    }

    pub(crate) fn slot(&self, slot: Slot) -> SlotLoad {
        self.slots[slot.index()]
    }

    /// What the node uses and may use.
    pub(crate) fn memory(&self, node: NodeId) -> (u64, u64) {
        self.nodes.get(&node).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn loads_of_neighbours_are_told_together_and_rubbish_is_refused() {
        let mut loads = SlotLoads::default();
        let slot = |number| Slot::new(number).unwrap();
        for number in 0..1_000 {
            loads.push(slot(number), 1_000 + u64::from(number % 3), 0);
        }
        loads.push(slot(16_383), 7, 9);
        assert_eq!(loads.0.len(), 2);
        assert_eq!(loads.iter().count(), 1_001);
        let run = |first, count, class| {
            let class = LoadClass(class);
            LoadRun { first, count, bytes: class, writes: class }
        };
        let read = |runs: &[LoadRun]| SlotLoads::try_from(runs.to_vec()).map(|loads| loads.0.len());
        assert_eq!(read(&[run(0, 5, 1), run(5, 16_379, 176)]), Ok(2));
        assert_eq!(read(&[run(0, 5, 1), run(4, 1, 1)]), Err(LoadError::OutOfOrder(4)));
        assert_eq!(read(&[run(7, 0, 1)]), Err(LoadError::OutOfOrder(7)));
        assert_eq!(read(&[run(5, 16_380, 1)]), Err(LoadError::OutOfOrder(5)));
        assert_eq!(read(&[run(65_535, 65_535, 1)]), Err(LoadError::OutOfOrder(65_535)));
        assert_eq!(read(&[run(0, 1, 177)]), Err(LoadError::NoClass(177)));
    }

    proptest! {
        #[test]
        fn a_class_is_an_eighth_off_at_most(value in 8u64..1 << 43, small in 0u64..8) {
            let told = LoadClass::of(value).value();
            prop_assert!(told.abs_diff(value) <= value / 8 + 1, "{value} is told as {told}");
            prop_assert!(LoadClass::of(small).value().abs_diff(small) <= 1);
            prop_assert_eq!(LoadClass::of(told), LoadClass::of(value));
            prop_assert!(LoadClass::of(value << 20) >= LoadClass::of(value));
            prop_assert!(LoadClass::of(u64::MAX).0 <= LoadClass::MAX);
        }
    }
}
