//! A node that is told to leave: drained, then struck, then gone.

use slotmesh_control::{Command, MemberState};
use slotmesh_slots::MonoTime;

use super::{Brain, NodeEvent};

impl Brain {
    pub(super) fn tick_leave(&mut self, now: MonoTime) {
        if !self.leaving || self.left {
            return;
        }
        let Some(member) = self.view.members().get(&self.me) else {
            // As long as it votes the others might be too few without it: one of them may have failed just now.
            if !self.is_voter() {
                self.leave_now(now);
            }
            return;
        };
        if !self.view.has_heir(self.me) {
            // The last that holds anything. Whoever is about may be giving its slots to this node, or has to hear that it has left;
            // and while a witness is there an heir may come.
            if !self.sees_others() {
                self.leave_now(now);
            }
        } else if member.state == MemberState::Up {
            self.request(Command::Drain { node: self.me }, now);
        }
    }

    /// Whether anybody else of this cluster is about, or comes to join it.
    fn sees_others(&self) -> bool {
        let mut others = self.peers.with_generation(self.generation).chain(self.peers.candidates());
        others.any(|node| node != self.me && self.peers.is_alive(node))
    }

    pub(super) fn leave_now(&mut self, now: MonoTime) {
        if !self.left {
            self.left = true;
            self.gossip.leave(now);
            self.drain_gossip(now);
            self.event(NodeEvent::Left);
        }
    }
}
