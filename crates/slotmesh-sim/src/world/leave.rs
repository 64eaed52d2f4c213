//! Nodes that are told to leave, as by a signal: they give away what they hold, and end when that is done or their time is over.

use std::time::Duration;

use rand::Rng;
use slotmesh_slots::{MonoTime, NodeId};

use super::{Event, World};
use crate::network::Plane;
use crate::process::Input;

/// From the moment at which a node has left to its end, at most.
const ENDING: Duration = Duration::from_millis(20);

/// How long a place stays empty, at most.
const REPLACED_WITHIN: Duration = Duration::from_secs(2);

/// When an end that would be a loss is tried again.
const LATER: Duration = Duration::from_millis(300);

impl World {
    /// The process at this place begins to leave and ends at the deadline at the latest.
    pub(super) fn leave(&mut self, place: usize, deadline: MonoTime) -> bool {
        let node = self.places[place];
        let Some(process) = node.and_then(|node| self.processes.get_mut(&node)) else {
            return false;
        };
        let node = process.node;
        let now = process.now();
        process.leaves = true;
        process.brain.leave(now);
        self.schedule(deadline, Event::End(node));
        self.settle(node);
        true
    }

    /// A node that was told to leave ends soon after it has left.
    pub(super) fn see_left(&mut self, node: NodeId) {
        let Some(process) = self.processes.get_mut(&node) else { return };
        if process.leaves && !process.ends && process.brain.has_left() {
            process.ends = true;
            let soon = Duration::from_micros(self.rng.random_range(0..ENDING.as_micros() as u64));
            self.schedule(self.now + soon, Event::End(node));
        }
    }

    /// The process ends in an orderly way: it serves nothing any more, then it tells the others.
    pub(super) fn end(&mut self, node: NodeId) {
        let Some(process) = self.processes.get(&node) else { return };
        let (place, has_left) = (process.place, process.brain.has_left());
        // A stopped process cannot end; and whoever operates the cluster does not insist on a deadline that loses data.
        if process.paused || !(has_left || self.may_end(&[place])) {
            return self.schedule(self.now + LATER, Event::End(node));
        }
        process.data.end_serving();
        self.trace.say(self.now, format_args!("{node} ends, has left: {has_left}"));
        self.coverage.see(format_args!("{}", if has_left { "drained" } else { "drain cut short" }));
        self.tell_departed(node, place);
        let pause = self.rng.random_range(0..REPLACED_WITHIN.as_micros() as u64);
        self.vacate(place, self.now + Duration::from_micros(pause));
    }

    /// Its last packet to each of them may get lost; then they hear nothing more.
    fn tell_departed(&mut self, node: NodeId, place: usize) {
        let peers: Vec<(NodeId, usize)> =
            self.processes.values().map(|process| (process.node, process.place)).collect();
        for (peer, at) in peers {
            if peer != node
                && let Some(at) = self.network.carry((Plane::Control, place, at), self.now)
                && self.rng.random_bool(0.9)
            {
                let departed = Input::Disconnect { node, departed: true };
                self.schedule(at, Event::Input(peer, departed));
            }
        }
    }
}
