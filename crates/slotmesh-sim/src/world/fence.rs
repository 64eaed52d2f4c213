use std::collections::BTreeMap;

use slotmesh_slots::{Epoch, NodeId, Slot, Version};

use super::World;

/// What each replica had promised, and held, when it was looked at last.
#[derive(Default)]
pub(super) struct Fences(BTreeMap<(NodeId, Slot), (Epoch, Version)>);

impl World {
    /// I2 and I5: promises never go back, and a replica takes nothing from a primary below what it promised.
    pub(super) fn check_fences(&mut self, node: NodeId) {
        let Some(process) = self.processes.get(&node) else { return };
        for &slot in &self.watch.keyed {
            let (promised, fed) = process.data.fence(slot);
            let held = process.data.held(slot);
            let now = (promised, held);
            let (before, had) = self.fences.0.insert((node, slot), now).unwrap_or_default();
            let is_replica = process.data.committed(slot).is_none();
            let below = fed.filter(|fed| is_replica && held > had && *fed < before);
            let problem = match below {
                _ if promised < before => {
                    format!("I2: {node} promised {before:?} of {slot}, now {promised:?}")
                }
                Some(fed) => {
                    format!("I5: {node} promised {before:?} of {slot} and took {held:?} of {fed:?}")
                }
                None => continue,
            };
            return self.watch.wrong(|| problem);
        }
    }
}
