use std::time::Duration;

use bytes::Bytes;
use slotmesh_slots::NodeId;

use super::conduit::{Conduit, Course};
use super::{Event, World};
use crate::network::Plane;
use crate::process::Input;
use crate::scenario::Moment;

/// Bytes asked of a link at a time.
const POLL_BYTES: usize = 64 << 10;

/// How long before a broken link is dialled again.
const REDIAL: Duration = Duration::from_millis(30);

/// One replication link, primary to replica.
#[derive(Debug)]
pub(super) struct Link {
    number: u64,
    /// Accepted by the replica.
    open: bool,
    /// The primary knows it.
    up: bool,
    conduit: Conduit,
}

impl World {
    /// Opens the links that are wanted, closes those that are not, and writes what is there to write.
    pub(super) fn settle_links(&mut self, node: NodeId) -> bool {
        let Some(process) = self.processes.get(&node) else { return false };
        let data = process.data.clone();
        let woken = std::mem::take(&mut *process.woken.lock());
        let wanted = data.replicas_wanted();
        let known = self.links.range((node, MIN)..=(node, MAX)).map(|((_, replica), _)| *replica);
        let unwanted: Vec<NodeId> = known.filter(|replica| !wanted.contains(replica)).collect();
        for replica in unwanted {
            self.break_link(node, replica);
        }
        for replica in wanted {
            if !self.links.contains_key(&(node, replica)) {
                let link = Link {
                    number: self.next_link,
                    open: false,
                    up: false,
                    conduit: Conduit::new([self.now; 2]),
                };
                self.next_link += 1;
                self.links.insert((node, replica), link);
                let soon = self.now + Duration::from_millis(2);
                self.schedule(soon, Event::Dial(node, replica));
            }
        }
        let mut busy = false;
        for replica in woken {
            let Some(number) =
                self.links.get(&(node, replica)).filter(|link| link.up).map(|link| link.number)
            else {
                continue;
            };
            loop {
                let frames = data.poll_link(replica, POLL_BYTES);
                if frames.is_empty() {
                    break;
                }
                busy = true;
                for frame in frames {
                    self.send_frame((node, replica), number, true, frame);
                }
            }
        }
        busy
    }

    /// Tries to open a link.
    pub(super) fn dial(&mut self, primary: NodeId, replica: NodeId) {
        let Some(link) = self.links.get(&(primary, replica)).filter(|link| !link.open) else {
            return;
        };
        let number = link.number;
        let Some(from) = self.place(primary) else { return };
        let to = self.processes.get(&replica).filter(|process| !process.paused).map(|p| p.place);
        let Some(to) = to.filter(|&to| self.network.is_linked(Plane::Lanes, from, to)) else {
            return self.schedule(self.now + REDIAL, Event::Dial(primary, replica));
        };
        let there = self.now + self.network.delay(from, to);
        let back = there + self.network.delay(to, from);
        if let Some(link) = self.links.get_mut(&(primary, replica)) {
            link.open = true;
            link.conduit = Conduit::new([there, back]);
        }
        self.schedule(there, Event::Input(replica, Input::PrimaryOpen { primary, link: number }));
        self.schedule(back, Event::Input(primary, Input::LinkUp { replica, link: number }));
    }

    /// Ends a link; both ends learn of it in their time, and it is dialled again if it is still wanted then.
    pub(super) fn break_link(&mut self, primary: NodeId, replica: NodeId) {
        let Some(link) = self.links.remove(&(primary, replica)) else { return };
        if !link.open {
            return;
        }
        let (number, last) = (link.number, link.conduit.last());
        let soon = self.now + Duration::from_micros(500);
        let down = Input::LinkDown { replica, link: number };
        self.schedule(soon.max(last[1]), Event::Input(primary, down));
        let close = Input::PrimaryClose { primary, link: number };
        self.schedule(soon.max(last[0]), Event::Input(replica, close));
    }

    /// Ends all links of a node; whether there were any.
    pub(super) fn break_links_of(&mut self, node: NodeId) -> bool {
        let ends = |(a, b): &&(NodeId, NodeId)| *a == node || *b == node;
        let broken: Vec<_> = self.links.keys().filter(ends).copied().collect();
        for &(primary, replica) in &broken {
            self.break_link(primary, replica);
        }
        !broken.is_empty()
    }

    /// Sends what waited where the way is open again; gives up links that waited too long.
    pub(super) fn flush_links(&mut self) {
        let pairs: Vec<_> = self.links.keys().copied().collect();
        for pair in pairs {
            let (Some(a), Some(b)) = (self.place(pair.0), self.place(pair.1)) else { continue };
            let linked = self.network.is_linked(Plane::Lanes, a, b);
            let Some(link) = self.links.get_mut(&pair) else { continue };
            if link.conduit.is_over(self.now) {
                self.break_link(pair.0, pair.1);
            } else if linked {
                let number = link.number;
                let waited = link.conduit.reopen();
                for (frames, down) in waited.into_iter().zip([true, false]) {
                    for frame in frames {
                        self.send_frame(pair, number, down, frame);
                    }
                }
            }
        }
    }

    fn send_frame(&mut self, pair: (NodeId, NodeId), number: u64, down: bool, frame: Bytes) {
        let (Some(a), Some(b)) = (self.place(pair.0), self.place(pair.1)) else { return };
        let (from, to) = if down { (a, b) } else { (b, a) };
        let times = (self.now, self.network.delay(from, to));
        let Some(link) = self.links.get_mut(&pair).filter(|link| link.number == number) else {
            return;
        };
        let course = Course { from, to, down };
        let Some(at) = link.conduit.send(&frame, course, times, &self.network) else { return };
        let (receiver, peer) = if down { (pair.1, pair.0) } else { pair };
        self.schedule(at, Event::Input(receiver, Input::Frame { peer, link: number, down, frame }));
    }

    /// What happens on links, at a process.
    pub(super) fn take_link(&mut self, node: NodeId, input: Input) {
        let Some(process) = self.processes.get_mut(&node) else { return };
        match input {
            Input::PrimaryOpen { primary, link } => {
                process.feeds.insert(primary, link);
                process.data.primary_open(primary);
            }
            Input::PrimaryClose { primary, link } if process.feeds.get(&primary) == Some(&link) => {
                process.feeds.remove(&primary);
                process.data.primary_close(primary);
            }
            Input::LinkUp { replica, link } => {
                let known = self.links.get_mut(&(node, replica)).filter(|l| l.number == link);
                if let Some(known) = known {
                    known.up = true;
                    process.woken.lock().insert(replica);
                    process.data.link_up(replica);
                    self.happens(Moment::LinkUp, Some(node), Some(replica));
                }
            }
            Input::LinkDown { replica, link } => {
                // Once the next one is open, this is old news.
                let newer =
                    self.links.get(&(node, replica)).is_some_and(|l| l.number != link && l.up);
                if !newer {
                    process.data.link_down(replica);
                }
            }
            Input::Frame { peer, link, down, frame } => {
                self.trace.count(self.now, (node, peer, down, frame.len()));
                if down {
                    self.take_down(node, peer, link, &frame);
                } else if self.links.get(&(node, peer)).is_some_and(|l| l.number == link)
                    && process.data.handle_replica_frame(peer, &frame).is_err()
                {
                    self.break_link(node, peer);
                }
            }
            _ => {}
        }
    }

    fn take_down(&mut self, node: NodeId, primary: NodeId, link: u64, frame: &Bytes) {
        let Some(process) = self.processes.get(&node) else { return };
        if process.feeds.get(&primary) != Some(&link) {
            // Another link was opened after this one, if only by its arrival: the replica closes it.
            if self.links.get(&(primary, node)).is_some_and(|known| known.number == link) {
                self.break_link(primary, node);
            }
            return;
        }
        match process.data.handle_primary_frame(primary, frame) {
            Ok(answers) => {
                for answer in answers {
                    self.send_frame((primary, node), link, false, answer);
                }
            }
            Err(_) => self.break_link(primary, node),
        }
    }
}

/// The smallest and the largest identity, for ranges.
const MIN: NodeId = NodeId::from_random(0);
const MAX: NodeId = NodeId::from_random(u64::MAX);
