//! Faults that wait for something to happen, so that they hit what has just begun.

use slotmesh_control::Command;
use slotmesh_slots::{NodeId, Slot};

use super::{Event, World};
use crate::scenario::Moment;

impl World {
    /// Something happened that a fault may be waiting for; at most one does not wait any longer.
    pub(super) fn happens(
        &mut self,
        moment: Moment,
        subject: Option<NodeId>,
        other: Option<NodeId>,
    ) {
        let faults = &self.scenario.faults;
        let Some(index) = self.armed.iter().copied().find(|&at| faults[at].moment == moment) else {
            return;
        };
        let later = faults[index].later;
        self.armed.remove(&index);
        self.coverage.see(format_args!("fault at {moment:?}"));
        self.schedule(self.now + later, Event::Strike(index, subject, other));
    }

    /// A command was committed.
    pub(super) fn decided(&mut self, by: NodeId, command: &Command) {
        let first = |slot: &Slot| self.is_keyed(*slot);
        let (moment, slot, other) = match command {
            Command::Found { .. } | Command::Reform { .. } => {
                return self.happens(Moment::Begun, Some(by), None);
            }
            Command::Drain { node } => return self.happens(Moment::Drain, Some(*node), Some(by)),
            Command::Shrink { claims, node } => {
                (Moment::Shrink, claims.iter().map(|it| it.0).find(first), Some(*node))
            }
            Command::AddCopy { claims, node } => {
                (Moment::AddCopy, claims.iter().map(|it| it.0).find(first), Some(*node))
            }
            Command::Grow { claims, node } => {
                (Moment::Grow, claims.iter().map(|it| it.0).find(first), Some(*node))
            }
            Command::BeginMove { claims, to } => {
                (Moment::BeginMove, claims.iter().map(|it| it.0).find(first), Some(*to))
            }
            Command::CommitMove { moves } => {
                (Moment::CommitMove, moves.iter().map(|it| it.0).find(first), None)
            }
            Command::Failover { claims, primary, .. } => {
                (Moment::Failover, claims.iter().map(|it| it.0).find(first), Some(*primary))
            }
            _ => return,
        };
        if let Some(slot) = slot {
            let primary = self.committed().table().slot(slot).primary;
            self.happens(moment, primary, other);
        }
    }
}
