//! The last changes of the cluster state, to bring those up to date who lack few.

use std::collections::VecDeque;

use slotmesh_control::ClusterDelta;
use slotmesh_slots::SLOT_COUNT;

/// A node that pings each 100 ms lacks fewer.
const DELTAS_MAX: usize = 128;

/// Changes in all of them together. Above it a full state is mostly smaller, and it fits a control message for sure, which
/// a hundred moves of some hundred slots each do not.
const CHANGES_MAX: usize = SLOT_COUNT;

/// Consecutive deltas, the newest last.
#[derive(Default)]
pub(super) struct History {
    deltas: VecDeque<ClusterDelta>,
    /// The sum of what they change.
    changes: usize,
}

impl History {
    pub(super) fn push(&mut self, delta: ClusterDelta) {
        self.changes += changes(&delta);
        self.deltas.push_back(delta);
        while self.deltas.len() > DELTAS_MAX || self.changes > CHANGES_MAX {
            let Some(oldest) = self.deltas.pop_front() else { return };
            self.changes -= changes(&oldest);
        }
    }

    /// All deltas after the version; `None` where that is not remembered.
    pub(super) fn since(&self, version: u64) -> Option<Vec<ClusterDelta>> {
        let start = self.deltas.iter().position(|delta| delta.table.from == version)?;
        Some(self.deltas.iter().skip(start).cloned().collect())
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn changes(delta: &ClusterDelta) -> usize {
    let slots: usize = delta.table.changes.iter().map(|(slots, _)| slots.range_count()).sum();
    slots + delta.members.len()
}

#[cfg(test)]
mod tests {
    use slotmesh_control::ClusterState;
    use slotmesh_slots::{Epoch, Slot, SlotState, TableDelta};

    use super::*;
    use crate::wire::{self, WIRE_BYTES_MAX};

    /// A change of every slot of the count, each to a state of its own.
    fn delta(from: u64, slots: u16) -> ClusterDelta {
        let state = |slot: Slot| SlotState {
            epoch: Epoch(from as u32 * 20_000 + u32::from(slot.number())),
            ..SlotState::default()
        };
        let changed = Slot::all().take(usize::from(slots)).map(|slot| (slot, state(slot)));
        let table = TableDelta::new(from, from + 1, changed);
        ClusterDelta { table, ..ClusterState::new().full_delta() }
    }

    #[test]
    fn few_small_changes_are_remembered() {
        let mut history = History::default();
        (0..200).for_each(|from| history.push(delta(from, 3)));
        let chain = history.since(190).unwrap();
        assert_eq!(
            chain.iter().map(|it| it.table.from).collect::<Vec<_>>(),
            Vec::from_iter(190..200)
        );
        assert_eq!(history.since(0), None, "forgotten");
        assert_eq!(history.since(200), None, "not yet");
    }

    #[test]
    fn what_it_says_fits_a_message() {
        let mut history = History::default();
        for from in 0..100 {
            history.push(delta(from, 4000));
            let longest = (0..=from).find_map(|from| history.since(from)).unwrap();
            assert!(wire::encode(&longest).len() < WIRE_BYTES_MAX / 2);
        }
        assert_eq!(history.since(96).map(|chain| chain.len()), Some(4));
        assert_eq!(history.since(95), None);
        // A change of all slots leaves room for no other.
        history.push(delta(100, 16_384));
        assert_eq!(history.since(100).map(|chain| chain.len()), Some(1));
        assert_eq!(history.since(99), None);
    }
}
