use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use ahash::RandomState;
use serde::{Deserialize, Serialize};

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Epoch, NodeId, Seq};
use crate::set::{SlotRanges, SlotSet};
use crate::slot::{SLOT_COUNT, Slot};

/// Most copies a slot can have beside its primary, those being made included. Four leaves room for three replicas and
/// one that replaces another.
pub const REPLICAS_MAX: usize = 4;

/// A short list of nodes without duplicates, in place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct NodeList([Option<NodeId>; REPLICAS_MAX]);

impl NodeList {
    /// The empty list.
    pub const EMPTY: Self = Self([None; REPLICAS_MAX]);

    /// Adds a node at the end; false when it is there already or the list is full.
    pub fn insert(&mut self, node: NodeId) -> bool {
        if self.contains(node) {
            return false;
        }
        match self.0.iter_mut().find(|place| place.is_none()) {
            Some(place) => {
                *place = Some(node);
                true
            }
            None => false,
        }
    }

    /// Takes a node out, keeping the order of the others; false when it is not there.
    pub fn remove(&mut self, node: NodeId) -> bool {
        let kept: Self = self.iter().filter(|&other| other != node).collect();
        let removed = kept != *self;
        *self = kept;
        removed
    }

    /// Whether the node is in the list.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.0.contains(&Some(node))
    }

    /// The nodes in order.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.iter().flatten().copied()
    }

    /// Number of nodes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0[0].is_none()
    }
}

impl FromIterator<NodeId> for NodeList {
    /// Collects at most [`REPLICAS_MAX`] nodes; further ones are left out.
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut list = Self::EMPTY;
        for node in nodes {
            list.insert(node);
        }
        list
    }
}

impl fmt::Debug for NodeList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Who holds a slot, as last decided.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct SlotState {
    /// Raised by every change of primary and by every aborted move.
    pub epoch: Epoch,
    /// The only node that may serve and acknowledge the slot at this epoch; `None` before the first assignment and
    /// after the loss of every copy.
    pub primary: Option<NodeId>,
    /// The replicas that hold every acknowledged write; the primary is not among them.
    pub in_sync: NodeList,
    /// Replicas that are being filled and do not count yet.
    pub copying: NodeList,
    /// While a planned move of the primary role is under way: the in-sync replica that will take over. The primary
    /// neither reads nor acknowledges meanwhile; only a committed command ends it.
    pub moving_to: Option<NodeId>,
    /// The slot's last seq when its primary changed by a planned move: the new primary serves only from there on.
    pub base: Seq,
    /// The epoch at which the slot's history began, empty: at its first assignment, and again after the loss of every
    /// copy. What a node still holds from older epochs is dropped.
    pub origin: Epoch,
    /// Raised whenever a replica begins to be filled: tells the completion of this filling from that of an earlier one.
    pub round: u32,
}

impl SlotState {
    /// Whether the node holds the slot in any role.
    #[must_use]
    pub fn involves(&self, node: NodeId) -> bool {
        self.primary == Some(node) || self.in_sync.contains(node) || self.copying.contains(node)
    }

    /// In-sync replicas, then those being filled.
    pub fn replicas(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.in_sync.iter().chain(self.copying.iter())
    }

    fn encode(&self, out: &mut Writer) {
        out.u32(self.epoch.0);
        out.u64(self.base.0);
        out.u32(self.origin.0);
        out.u32(self.round);
        out.node_option(self.primary);
        out.node_option(self.moving_to);
        out.u8((self.in_sync.len() << 4 | self.copying.len()) as u8);
        self.replicas().for_each(|node| out.node(node));
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let epoch = Epoch(input.u32()?);
        let base = Seq(input.u64()?);
        let origin = Epoch(input.u32()?);
        let round = input.u32()?;
        let (primary, moving_to) = (input.node_option()?, input.node_option()?);
        let counts = input.u8()?;
        let in_sync = decode_nodes(input, counts >> 4)?;
        let copying = decode_nodes(input, counts & 0xf)?;
        Ok(Self { epoch, primary, in_sync, copying, moving_to, base, origin, round })
    }
}

fn decode_nodes(input: &mut Reader<'_>, count: u8) -> Result<NodeList, DecodeError> {
    let mut nodes = NodeList::EMPTY;
    for _ in 0..count {
        if !nodes.insert(input.node()?) {
            return Err(DecodeError::Invalid("replica list"));
        }
    }
    Ok(nodes)
}

/// Slots of which a copy of the table has all or none of its own.
const RUN: usize = 64;

/// The decided owner and replicas of all 16384 slots at one version. Copies share what is the same in them: a copy costs some
/// microseconds, and memory where it changes.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotTable {
    version: u64,
    runs: Vec<Arc<[SlotState; RUN]>>,
}

impl SlotTable {
    /// The table before anything was decided: version 0, no slot has an owner.
    #[must_use]
    pub fn new() -> Self {
        let run = Arc::new([SlotState::default(); RUN]);
        Self { version: 0, runs: vec![run; SLOT_COUNT / RUN] }
    }

    /// How many decisions made this table; grows by one with each.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Who holds the slot.
    #[must_use]
    pub fn slot(&self, slot: Slot) -> &SlotState {
        &self.runs[slot.index() / RUN][slot.index() % RUN]
    }

    /// All slots with their holders, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &SlotState)> {
        Slot::all().zip(self.states())
    }

    fn states(&self) -> impl Iterator<Item = &SlotState> {
        self.runs.iter().flat_map(|run| run.iter())
    }

    /// The slots whose primary is this node.
    #[must_use]
    pub fn owned_by(&self, node: NodeId) -> SlotSet {
        self.iter().filter(|(_, state)| state.primary == Some(node)).map(|(slot, _)| slot).collect()
    }

    /// Every node that is primary of a slot.
    #[must_use]
    pub fn primaries(&self) -> BTreeSet<NodeId> {
        let (mut primaries, mut before) = (BTreeSet::new(), None);
        // Neighbours mostly have the same one, so that the set is asked once for each run.
        for held in self.states().filter(|held| held.primary.is_some()) {
            if held.primary != before {
                before = held.primary;
                primaries.extend(before);
            }
        }
        primaries
    }

    /// Takes over a delta that starts at this table's version, or a full one that is newer. False, and no change, when
    /// it fits neither way: the caller then asks for a full one.
    pub fn apply(&mut self, delta: &TableDelta) -> bool {
        let fits = delta.from == self.version || (delta.from == 0 && delta.to > self.version);
        if !fits || delta.to < delta.from {
            return false;
        }
        if delta.from == 0 {
            self.runs = Self::new().runs;
        }
        for (slots, state) in &delta.changes {
            for slot in slots.iter() {
                Arc::make_mut(&mut self.runs[slot.index() / RUN])[slot.index() % RUN] = *state;
            }
        }
        self.version = delta.to;
        true
    }

    /// The delta that takes this table to `version` with these slots changed.
    pub fn delta_to(
        &self,
        version: u64,
        changed: impl IntoIterator<Item = (Slot, SlotState)>,
    ) -> TableDelta {
        TableDelta::new(self.version, version, changed)
    }

    /// The whole table as a delta from nothing.
    #[must_use]
    pub fn full_delta(&self) -> TableDelta {
        let changed = self.iter().filter(|(_, state)| **state != SlotState::default());
        TableDelta::new(0, self.version, changed.map(|(slot, state)| (slot, *state)))
    }
}

impl Default for SlotTable {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SlotTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotTable(v{})", self.version)
    }
}

/// What changed between two versions of the table; slots with the same new state are grouped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TableDelta {
    /// The version this applies to; 0 stands for any older one, and then all slots not named are unowned.
    pub from: u64,
    /// The version afterwards.
    pub to: u64,
    /// The new state of each changed slot.
    pub changes: Vec<(SlotRanges, SlotState)>,
}

impl TableDelta {
    /// Groups the changes of single slots, named in ascending order, by their new state.
    pub fn new(from: u64, to: u64, changed: impl IntoIterator<Item = (Slot, SlotState)>) -> Self {
        let mut changes: Vec<(SlotRanges, SlotState)> = Vec::new();
        let mut groups: HashMap<SlotState, usize, RandomState> = HashMap::default();
        // Neighbours mostly have the same state.
        let mut group = 0;
        for (slot, state) in changed {
            if changes.get(group).is_none_or(|(_, known)| *known != state) {
                group = *groups.entry(state).or_insert(changes.len());
                if group == changes.len() {
                    changes.push((SlotRanges::default(), state));
                }
            }
            let ascends = changes[group].0.push(slot);
            debug_assert!(ascends, "{slot:?} does not come after the others");
        }
        Self { from, to, changes }
    }

    /// Appends the delta: versions, then each group's state and ranges.
    pub fn encode(&self, out: &mut Writer) {
        out.u64(self.from);
        out.u64(self.to);
        out.u16(self.changes.len() as u16);
        for (slots, state) in &self.changes {
            state.encode(out);
            slots.encode(out);
        }
    }

    /// Reads what [`TableDelta::encode`] wrote.
    ///
    /// # Errors
    /// When bytes are missing or a field is invalid.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (from, to) = (input.u64()?, input.u64()?);
        let count = input.u16()?;
        let mut changes = Vec::new();
        for _ in 0..count {
            let state = SlotState::decode(input)?;
            changes.push((SlotRanges::decode(input)?, state));
        }
        Ok(Self { from, to, changes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u64) -> NodeId {
        NodeId::new(number).unwrap()
    }

    fn state(epoch: u32, primary: u64) -> SlotState {
        SlotState {
            epoch: Epoch(epoch),
            primary: Some(node(primary)),
            in_sync: NodeList::from_iter([node(primary + 1)]),
            ..SlotState::default()
        }
    }

    fn thirds() -> SlotTable {
        let mut table = SlotTable::new();
        let changed = Slot::all().map(|slot| (slot, state(1, u64::from(slot.number() % 3) + 1)));
        assert!(table.apply(&TableDelta::new(0, 5, changed)));
        table
    }

    #[test]
    fn a_full_delta_rebuilds_the_table_over_the_wire() {
        let table = thirds();
        let mut out = Writer::new();
        table.full_delta().encode(&mut out);
        let bytes = out.finish();
        let mut copy = SlotTable::new();
        assert!(copy.apply(&TableDelta::decode(&mut Reader::new(&bytes)).unwrap()));
        assert_eq!(copy, table);
        assert_eq!(copy.owned_by(node(1)).len(), 5462);
    }

    #[test]
    fn a_delta_applies_to_its_own_version_only() {
        let mut table = thirds();
        let slot = Slot::of_key(b"foo");
        assert!(!table.apply(&TableDelta::new(4, 6, [(slot, state(9, 7))])));
        assert!(table.apply(&TableDelta::new(5, 6, [(slot, state(9, 7))])));
        assert_eq!((table.version(), table.slot(slot).epoch), (6, Epoch(9)));
        assert!(!table.apply(&TableDelta::new(5, 6, [(slot, state(1, 1))])), "replayed");
        assert!(!table.apply(&TableDelta::new(0, 6, [])), "a full table must be newer");
    }

    #[test]
    fn node_list_keeps_order_and_bound() {
        let mut list = NodeList::EMPTY;
        assert!((1..=4).all(|n| list.insert(node(n))));
        assert!(!list.insert(node(5)), "full");
        assert!(list.remove(node(2)) && !list.remove(node(2)));
        assert!(list.iter().eq([node(1), node(3), node(4)]));
    }
}
