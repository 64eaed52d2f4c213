use std::time::Duration;

use rand::Rng;
use rand::seq::{IndexedRandom, IteratorRandom};
use slotmesh_slots::{MonoTime, NodeId};

use super::{Event, World};
use crate::log::{LogNode, NodeSet};
use crate::process::Input;
use crate::scenario::{Bug, Fault, Planned, Target};

/// How a fault ends.
#[derive(Clone, Debug)]
pub(super) enum Undo {
    Unblock(Vec<(usize, usize)>),
    Hurry(usize),
    Loss,
}

/// When a fault that cannot happen now is tried again.
const LATER: Duration = Duration::from_millis(300);

/// How long a process is away that joins again as a new one.
const PAUSE_OF_REJOINING: Duration = Duration::from_millis(50);

/// What a slow node takes longer for everything, at most.
const SLOWNESS: Duration = Duration::from_millis(60);

/// Share of messages lost while that is the fault.
const LOSS: f64 = 0.15;

impl World {
    pub(super) fn begin_fault(&mut self, index: usize) {
        if self.calm {
            return;
        }
        let planned = self.scenario.faults[index];
        let Some(place) = self.choose(planned) else {
            return self.schedule(self.now + LATER, Event::Fault(index));
        };
        self.fired.insert(index);
        let who = self.places[place];
        self.trace.say(self.now, format_args!("FAULT {planned:?} at place {place} {who:?}"));
        let end = self.now + planned.lasts;
        let others = (0..self.scenario.nodes).filter(|&other| other != place);
        match planned.fault {
            Fault::Crash | Fault::Lose => self.crash(place, end),
            Fault::Isolate => {
                let both = others.flat_map(|other| [(place, other), (other, place)]).collect();
                self.block(both, end);
            }
            Fault::Split => {
                let side: Vec<bool> = (0..self.scenario.nodes)
                    .map(|n| n == place || self.rng.random_bool(0.4))
                    .collect();
                let pairs =
                    pairs(self.scenario.nodes).filter(|(a, b)| side[*a] != side[*b]).collect();
                self.block(pairs, end);
            }
            Fault::Mute => {
                let deaf: Vec<usize> = others.filter(|_| self.rng.random_bool(0.6)).collect();
                self.block(deaf.into_iter().map(|other| (place, other)).collect(), end);
            }
            Fault::Pause => self.pause(place, end),
            Fault::Slow => {
                self.network.slow_down(place, Some(SLOWNESS));
                self.schedule(end, Event::FaultEnds(Undo::Hurry(place)));
            }
            Fault::Reset => self.reset(place),
            Fault::Loss => {
                self.network.loss = LOSS;
                self.schedule(end, Event::FaultEnds(Undo::Loss));
            }
        }
    }

    pub(super) fn end_fault(&mut self, undo: Undo) {
        self.trace.say(self.now, format_args!("END {undo:?}"));
        match undo {
            Undo::Unblock(ways) => {
                ways.into_iter().for_each(|(from, to)| self.network.unblock(from, to));
                self.flush_links();
            }
            Undo::Hurry(place) => self.network.slow_down(place, None),
            Undo::Loss => self.network.loss = self.scenario.loss,
        }
    }

    /// No more faults; what is under way ends now.
    pub(super) fn end_faults(&mut self) {
        self.calm = true;
        let ends = |(at, event): (&(MonoTime, u64), &Event)| {
            matches!(event, Event::FaultEnds(_) | Event::Resume(_) | Event::Restart(_))
                .then_some(*at)
        };
        let pending: Vec<_> = self.queue.iter().filter_map(ends).collect();
        for at in pending {
            if let Some(event) = self.queue.remove(&at) {
                self.handle(event);
            }
        }
        self.network.loss = 0.0;
        self.scenario.loss = 0.0;
    }

    /// Where the fault happens; `None` while it would prove nothing.
    fn choose(&mut self, planned: Planned) -> Option<usize> {
        let running = |place: &usize| {
            let process = self.places[*place].and_then(|node| self.processes.get(&node));
            process.is_some_and(|process| !process.paused)
        };
        let mut places: Vec<usize> = (0..self.scenario.nodes).filter(running).collect();
        if planned.fault == Fault::Crash {
            places.retain(|&place| self.may_crash(place));
        }
        let leads = |place: &usize| {
            let process = self.places[*place].and_then(|node| self.processes.get(&node));
            process.is_some_and(|process| process.brain.is_leading())
        };
        let leader = places.iter().copied().find(leads);
        match planned.target {
            Target::Leader if leader.is_some() => leader,
            Target::Follower => {
                let followers = places.into_iter().filter(|&place| Some(place) != leader);
                followers.choose(&mut self.rng)
            }
            Target::At(place) => places.contains(&place).then_some(place),
            _ => places.choose(&mut self.rng).copied(),
        }
    }

    /// Whether the cluster promises to survive the end of this process: a majority of voters and a copy of every slot
    /// are left.
    fn may_crash(&self, place: usize) -> bool {
        let Some(node) = self.places[place] else { return false };
        let left: NodeSet = self.processes.keys().copied().filter(|&other| other != node).collect();
        let logs = self.processes.values().filter_map(|process| process.log.as_ref());
        let elects = |log: &LogNode| log.voters().is_empty() || log.is_quorum(&left);
        let copied = self.committed().table().iter().all(|(_, held)| {
            let mut holders = held.primary.into_iter().chain(held.in_sync.iter());
            held.primary.is_none() || holders.any(|holder| left.contains(&holder))
        });
        logs.into_iter().all(elects) && copied
    }

    /// The process ends because its generation was superseded; another one starts in its place.
    pub(super) fn replace(&mut self, node: NodeId) {
        if let Some(place) = self.place(node) {
            self.crash(place, self.now + PAUSE_OF_REJOINING);
        }
    }

    fn crash(&mut self, place: usize, back: MonoTime) {
        let Some(node) = self.places[place].take() else { return };
        self.former[place] = Some(node);
        self.break_links_of(node);
        self.processes.remove(&node);
        self.watch_losses();
        self.schedule(back, Event::Restart(place));
        self.tell_lost(node, place);
    }

    /// Some of the others notice a broken connection soon, the rest when they hear nothing.
    fn tell_lost(&mut self, node: NodeId, place: usize) {
        let peers: Vec<(NodeId, usize)> =
            self.processes.values().map(|process| (process.node, process.place)).collect();
        for (peer, at) in peers {
            if peer != node && self.network.is_linked(place, at) && self.rng.random_bool(0.7) {
                let delay = Duration::from_micros(self.rng.random_range(500..300_000));
                let lost = Input::Disconnect { node, departed: false };
                self.schedule(self.now + delay, Event::Input(peer, lost));
            }
        }
    }

    fn pause(&mut self, place: usize, end: MonoTime) {
        let Some(node) = self.places[place] else { return };
        let cached = self.scenario.bug == Some(Bug::CachedClock);
        if let Some(process) = self.processes.get_mut(&node) {
            process.paused = true;
            process.clock.stop(cached);
            self.schedule(end, Event::Resume(node));
        }
    }

    fn reset(&mut self, place: usize) {
        let Some(node) = self.places[place] else { return };
        self.break_links_of(node);
        self.tell_lost(node, place);
    }

    fn block(&mut self, ways: Vec<(usize, usize)>, end: MonoTime) {
        ways.iter().for_each(|&(from, to)| self.network.block(from, to));
        self.schedule(end, Event::FaultEnds(Undo::Unblock(ways)));
    }
}

fn pairs(nodes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..nodes).flat_map(move |a| (0..nodes).map(move |b| (a, b)))
}
