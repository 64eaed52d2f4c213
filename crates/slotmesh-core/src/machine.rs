use std::collections::VecDeque;

use slotmesh_control::log::{LogMachine, RestoreError};
use slotmesh_control::{ClusterDelta, ClusterState, Command, Outcome};

use crate::wire;

/// The cluster state as the log drives it, and the deltas that the brain has not taken yet.
#[derive(Debug, Default)]
pub struct ControlMachine {
    state: ClusterState,
    deltas: VecDeque<ClusterDelta>,
}

/// Deltas kept for the brain; beyond this they are replaced by one full delta. The brain takes them within
/// milliseconds, so this is only reached when it is starved.
const DELTAS_MAX: usize = 256;

impl ControlMachine {
    /// The state before the founding.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The deltas committed since the last call, in order.
    pub fn take_deltas(&mut self) -> impl Iterator<Item = ClusterDelta> + '_ {
        self.deltas.drain(..)
    }

    /// The state as of the last applied command.
    #[must_use]
    pub const fn state(&self) -> &ClusterState {
        &self.state
    }

    fn push(&mut self, delta: ClusterDelta) {
        if self.deltas.len() >= DELTAS_MAX {
            self.deltas.clear();
            self.deltas.push_back(self.state.full_delta());
        } else {
            self.deltas.push_back(delta);
        }
    }
}

impl LogMachine for ControlMachine {
    fn apply(&mut self, _index: u64, command: &[u8]) -> Vec<u8> {
        // A command that cannot be read changes nothing, on every voter alike.
        let Ok(command) = wire::decode::<Command>(command) else {
            let unchanged = Outcome { version: self.state.version(), changed: 0 };
            return wire::encode(&unchanged).to_vec();
        };
        let (outcome, delta) = self.state.apply(&command);
        if let Some(delta) = delta {
            self.push(delta);
        }
        wire::encode(&outcome).to_vec()
    }

    fn snapshot(&self) -> Vec<u8> {
        wire::encode(&self.state.full_delta()).to_vec()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        let full: ClusterDelta =
            wire::decode(snapshot).map_err(|error| RestoreError { reason: error.to_string() })?;
        let mut state = ClusterState::new();
        if full.table.to > 0 && !state.advance(&full) {
            return Err(RestoreError { reason: "not a full state".to_owned() });
        }
        self.state = state;
        self.deltas.clear();
        self.deltas.push_back(full);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotmesh_slots::Generation;

    #[test]
    fn a_snapshot_restores_the_state_and_rubbish_changes_nothing() {
        let mut machine = ControlMachine::new();
        let generation = Generation { cluster: 3, reform: 0 };
        let found = Command::Found { generation, replicas: 1, expect: 1, members: vec![] };
        machine.apply(1, &wire::encode(&found));
        machine.apply(2, b"rubbish");
        assert_eq!(machine.take_deltas().count(), 1);
        let mut copy = ControlMachine::new();
        copy.restore(&machine.snapshot()).unwrap();
        assert_eq!(copy.state(), machine.state());
        assert!(copy.restore(b"rubbish").is_err());
        assert_eq!(copy.state().generation(), Some(generation));
    }
}
