//! A node that is told to leave: drained, then struck, then gone.

use slotmesh_control::{Command, Member, MemberState};
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
            // The last one; but what others are giving away goes here, and this node may be the only one that votes.
            if !self.is_given_slots() {
                self.leave_now(now);
            }
        } else if member.state == MemberState::Up {
            self.request(Command::Drain { node: self.me }, now);
        }
    }

    /// Whether somebody of this cluster is still about who leaves, or has to hear yet that it has left.
    fn is_given_slots(&self) -> bool {
        let mut others = self.peers.with_generation(self.generation);
        let goes = |node| self.view.members().get(&node).is_none_or(Member::is_draining);
        others.any(|node| node != self.me && self.peers.is_alive(node) && goes(node))
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
