use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;
use slotmesh_control::Rebalance;
use slotmesh_slots::{MonoTime, NodeId};

use super::{Event, World};
use crate::log::{LogNode, NodeSet};
use crate::network::{Plane, Way};
use crate::process::{Input, Process};
use crate::scenario::{Bug, Fault, Moment, Planned, Target};

/// How a fault ends.
#[derive(Clone, Debug)]
pub(super) enum Undo {
    Unblock(Vec<Way>),
    Hurry(usize),
    Prompt(usize),
    Loss,
    Abort,
}

/// When a fault that cannot happen now is tried again.
const LATER: Duration = Duration::from_millis(300);

/// By then it is known of whom ended that it did.
const NOTICED: Duration = Duration::from_secs(1);

/// How long a process is away that joins again as a new one.
const PAUSE_OF_REJOINING: Duration = Duration::from_millis(50);

/// What a slow node takes longer for everything, at most.
const SLOWNESS: Duration = Duration::from_millis(60);

/// Milliseconds by which decisions come late while that is the fault: less than a lease, or it would never be granted.
const LATENESS: std::ops::Range<u64> = 150..750;

/// How long the node is cut off then.
const CUT_AFTER_LATE: Duration = Duration::from_secs(3);

/// Share of messages lost while that is the fault.
const LOSS: f64 = 0.15;

/// How long a fault waits for its moment at least.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long links that flap are cut: mostly for less than others wait before they give a replica up.
const CUT: std::ops::Range<u64> = 60_000..290_000;

/// How long they are not.
const UNCUT: std::ops::Range<u64> = 30_000..400_000;

impl World {
    /// A fault's time has come: it happens, or waits for its moment.
    pub(super) fn begin_fault(&mut self, index: usize) {
        if self.calm || self.fired.contains(&index) {
            return;
        }
        let Planned { moment, at, early, .. } = self.scenario.faults[index];
        if moment == Moment::Clock || !self.waited.insert(index) {
            return self.strike(index, None, None);
        }
        self.armed.insert(index);
        let rest = if early { PATIENCE } else { (self.scenario.safety * 3 / 4).saturating_sub(at) };
        self.schedule(self.now + rest.max(PATIENCE), Event::Fault(index));
    }

    /// The fault happens.
    pub(super) fn strike(&mut self, index: usize, subject: Option<NodeId>, other: Option<NodeId>) {
        if self.calm || self.fired.contains(&index) {
            return;
        }
        let planned = self.scenario.faults[index];
        let named = match planned.target {
            Target::Subject => subject,
            Target::Other => other,
            _ => None,
        };
        let named = named.and_then(|node| self.place(node));
        let may_happen = !planned.fault.cuts() || self.leavers_may_end();
        let Some(place) = may_happen.then(|| self.choose(planned, named)).flatten() else {
            return self.schedule(self.now + LATER, Event::Fault(index));
        };
        let who = self.places[place];
        self.trace.say(self.now, format_args!("FAULT {planned:?} at place {place} {who:?}"));
        self.armed.remove(&index);
        if !self.inflict(planned, place) {
            self.trace.say(self.now, format_args!("it changes nothing"));
            return self.schedule(self.now + LATER, Event::Fault(index));
        }
        self.fired.insert(index);
        let when = if self.began.is_some() { "" } else { "early " };
        self.coverage.see(format_args!("{when}{:?}", planned.fault));
    }

    /// Whether anything changed by it.
    fn inflict(&mut self, planned: Planned, place: usize) -> bool {
        const BOTH: [Plane; 2] = [Plane::Control, Plane::Lanes];
        let end = self.now + planned.lasts;
        match planned.fault {
            Fault::Crash | Fault::Lose => self.crash(place, end),
            Fault::Leave => self.leave(place, end),
            Fault::Isolate => self.cut_off(&[place], &BOTH, end),
            Fault::CutLanes => self.cut_off(&[place], &[Plane::Lanes], end),
            Fault::CutControl => self.cut_off(&[place], &[Plane::Control], end),
            Fault::Split => {
                let others = self.draw_others(place, 0.4);
                // Somebody is on the other side.
                let side = others.iter().skip(usize::from(others.len() + 1 == self.running()));
                let side: Vec<usize> = side.copied().chain([place]).collect();
                self.cut_off(&side, &BOTH, end)
            }
            Fault::Zone => self.lose_zone(place, end),
            Fault::Part => {
                let Some(other) = self.draw_other_follower(place) else { return false };
                let ways = both_planes(place, other).into_iter().chain(both_planes(other, place));
                self.block(ways.collect(), end)
            }
            Fault::Mute => {
                let deaf = self.draw_deaf(place);
                let ways = deaf.into_iter().flat_map(|other| both_planes(place, other));
                self.block(ways.collect(), end)
            }
            Fault::Pause => self.pause(place, end),
            Fault::Wake => self.wake(),
            Fault::Reset => self.reset(place),
            Fault::Flap => self.flap(place, end),
            Fault::Slow | Fault::Late | Fault::Loss => {
                self.running() > 1 && self.hamper(planned.fault, place, end)
            }
            Fault::Abort => {
                // What an earlier leader was asked may come late: then this fault only ends it.
                let aborts = self.committed().rebalance() == Rebalance::Aborted
                    || self.ask_balance(Rebalance::Aborted);
                if aborts {
                    self.schedule(end, Event::FaultEnds(Undo::Abort));
                }
                aborts
            }
        }
    }

    /// Messages get lost or take longer.
    fn hamper(&mut self, fault: Fault, place: usize, end: MonoTime) -> bool {
        let undo = match fault {
            Fault::Slow => {
                self.network.slow_down(place, Some(SLOWNESS));
                Undo::Hurry(place)
            }
            Fault::Late => {
                let by = Duration::from_millis(self.rng.random_range(LATENESS));
                self.network.make_late(place, Some(by));
                Undo::Prompt(place)
            }
            _ => {
                self.network.loss = LOSS;
                Undo::Loss
            }
        };
        self.schedule(end, Event::FaultEnds(undo));
        true
    }

    fn running(&self) -> usize {
        self.processes.len()
    }

    /// Each of the other processes with this probability.
    fn draw_others(&mut self, place: usize, share: f64) -> Vec<usize> {
        let others = (0..self.places.len()).filter(|&it| it != place && self.places[it].is_some());
        others.filter(|_| self.rng.random_bool(share)).collect()
    }

    /// Who does not hear this place any more: one at least, if there is another process.
    fn draw_other_follower(&mut self, place: usize) -> Option<usize> {
        let follows = |process: &&Process| process.place != place && !process.brain.is_leading();
        let others: Vec<usize> =
            self.processes.values().filter(follows).map(|process| process.place).collect();
        others.choose(&mut self.rng).copied()
    }

    fn draw_deaf(&mut self, place: usize) -> Vec<usize> {
        let deaf = self.draw_others(place, 0.6);
        if deaf.is_empty() {
            self.draw_others(place, 1.0).into_iter().take(1).collect()
        } else {
            deaf
        }
    }

    /// The lanes of the process at this place are cut now for less than others wait before they give it up, and again until
    /// it ends.
    pub(super) fn flap(&mut self, place: usize, end: MonoTime) -> bool {
        if self.calm || self.now >= end {
            return false;
        }
        let open = self.now + Duration::from_micros(self.rng.random_range(CUT));
        let cut = self.cut_off(&[place], &[Plane::Lanes], open);
        if let Some(node) = self.places[place] {
            self.break_links_of(node);
        }
        let next = open + Duration::from_micros(self.rng.random_range(UNCUT));
        self.schedule(next, Event::Flap(place, end));
        cut
    }

    fn lose_zone(&mut self, place: usize, end: MonoTime) -> bool {
        let zones = self.scenario.zones;
        let zone: Vec<usize> =
            (0..self.places.len()).filter(|other| other % zones == place % zones).collect();
        if self.may_end(&zone) {
            self.coverage.see(format_args!("zone of {} lost", zone.len()));
            return zone.into_iter().filter(|&place| self.crash(place, end)).count() > 0;
        }
        let cut = self.cut_off(&zone, &[Plane::Control, Plane::Lanes], end);
        if cut {
            self.coverage.see(format_args!("zone of {} cut off", zone.len()));
        }
        cut
    }

    pub(super) fn end_fault(&mut self, undo: Undo) {
        self.trace.say(self.now, format_args!("END {undo:?}"));
        match undo {
            Undo::Unblock(ways) => {
                ways.into_iter().for_each(|way| self.network.unblock(way));
                self.flush_links();
            }
            Undo::Hurry(place) => self.network.slow_down(place, None),
            Undo::Prompt(place) => {
                self.network.make_late(place, None);
                if !self.calm {
                    self.cut_off(&[place], &[Plane::Control], self.now + CUT_AFTER_LATE);
                }
            }
            Undo::Loss => self.network.loss = self.scenario.loss,
            Undo::Abort => self.resume_aborted(),
        }
    }

    /// Has moves for balance resumed; a leader that ends or is deposed meanwhile takes the request along.
    fn resume_aborted(&mut self) {
        if self.committed().rebalance() == Rebalance::Aborted {
            self.ask_balance(Rebalance::On);
            if !self.calm {
                self.schedule(self.now + LATER, Event::FaultEnds(Undo::Abort));
            }
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

    /// Where the fault happens, at the named place if it can; `None` while it would prove nothing.
    fn choose(&mut self, planned: Planned, named: Option<usize>) -> Option<usize> {
        let process_at = |place: usize| self.processes.get(&self.places[place]?);
        let runs = |place: &usize| process_at(*place).is_some_and(|process| !process.paused);
        let mut places: Vec<usize> = (0..self.places.len()).filter(runs).collect();
        match planned.fault {
            Fault::Crash => places.retain(|&place| self.may_end(&[place])),
            Fault::Leave => places.retain(|&place| self.may_leave(place)),
            _ => {}
        }
        let leads = |place: &usize| process_at(*place).is_some_and(|it| it.brain.is_leading());
        let leader = places.iter().copied().find(leads);
        match planned.target {
            Target::Leader if leader.is_some() => return leader,
            Target::At(place) => return places.contains(&place).then_some(place),
            Target::Follower => places.retain(|place| Some(*place) != leader),
            Target::Voter => {
                let votes = |place: &usize| self.votes(*place) && Some(*place) != leader;
                places.retain(votes);
            }
            Target::Survivor => {
                let belongs =
                    |p: &usize| process_at(*p).is_some_and(|it| it.brain.generation().is_some());
                places.retain(belongs);
                // Where a reform is over, the only one who votes yet may not be lost.
                if leader.is_some() {
                    places.retain(|&place| self.may_end(&[place]));
                }
                // Somebody has to be left to go on.
                if places.len() < 2 {
                    return None;
                }
            }
            Target::Leader | Target::Subject | Target::Other | Target::Any => {}
        }
        let named = named.filter(|place| places.contains(place));
        named.or_else(|| places.choose(&mut self.rng).copied())
    }

    /// Whether the cluster can do without those that leave. One that it cannot do without is not cut off meanwhile: it would
    /// take the others for gone, and end as the last of all.
    fn leavers_may_end(&self) -> bool {
        let leavers = self.processes.values().filter(|process| process.leaves);
        let leavers: Vec<usize> = leavers.map(|process| process.place).collect();
        leavers.is_empty() || self.may_end(&leavers)
    }

    /// Whether it was not told before, and another member that was not told is there to go on, which can be reached if that is
    /// necessary.
    pub(super) fn may_leave(&self, place: usize) -> bool {
        let members = self.committed().members();
        let goes_on = |process: &&Process| {
            let member = members.get(&process.node);
            process.place != place
                && !process.paused
                && !process.leaves
                && member.is_some_and(slotmesh_control::Member::may_hold)
        };
        let told = self.places[place].and_then(|node| self.processes.get(&node));
        let unlinked = |other: &usize| !self.network.is_linked(Plane::Control, place, *other);
        let apart = (0..self.places.len()).filter(|other| *other != place).filter(unlinked).count();
        told.is_some_and(|it| !it.leaves)
            && self.processes.values().any(|it| goes_on(&it))
            && (apart <= usize::from(self.scenario.parts) || self.may_end(&[place]))
    }

    /// Whether the process at this place votes by the log of the one that leads.
    fn votes(&self, place: usize) -> bool {
        let leader = self.processes.values().find(|process| process.brain.is_leading());
        let voters = leader.and_then(|leader| leader.log.as_ref()).map(LogNode::voters);
        let node = self.places[place];
        voters.is_some_and(|voters| node.is_some_and(|node| voters.contains(&node)))
    }

    /// Whether the cluster promises to survive the end of these processes at once: a majority of voters and a copy of every
    /// slot are left.
    pub(super) fn may_end(&self, places: &[usize]) -> bool {
        let ends = |node: &NodeId| places.iter().any(|&place| self.places[place] == Some(*node));
        // Who is no member any more gives its vote away and is gone in a moment.
        let members = self.committed().members();
        let leaves = |it: &Process| it.leaves && !members.contains_key(&it.node);
        let stays = |it: &&Process| !ends(&it.node) && !leaves(it);
        let left: NodeSet = self.processes.values().filter(stays).map(|it| it.node).collect();
        // Where fewer than three vote, two more of those who seem to run may be made voters at any moment.
        let may_become_three = self.processes.len() + self.ended_lately(NOTICED) >= 3;
        let elects = |log: &LogNode| {
            let three_need_it = may_become_three && log.voters().len() < 3;
            log.is_quorum(&left) && (left.len() > 1 || !three_need_it)
        };
        let mut logs = self.processes.values().filter_map(|process| process.log.as_ref());
        let copied = self.committed().table().iter().all(|(_, held)| {
            let mut holders = held.primary.into_iter().chain(held.in_sync.iter());
            held.primary.is_none() || holders.any(|holder| left.contains(&holder))
        });
        // The log of one that does not vote may be old, and is asked by nobody.
        let elected = logs.all(|log| !log.votes() || elects(log));
        !left.is_empty() && elected && copied
    }

    /// The process ends because its generation was superseded; another one starts in its place.
    pub(super) fn replace(&mut self, node: NodeId) {
        if let Some(place) = self.place(node) {
            self.crash(place, self.now + PAUSE_OF_REJOINING);
        }
    }

    fn crash(&mut self, place: usize, back: MonoTime) -> bool {
        let Some(node) = self.places[place] else { return false };
        self.vacate(place, back);
        self.tell_lost(node, place);
        true
    }

    /// Nothing is left of the process at this place, and another one starts there later.
    pub(super) fn vacate(&mut self, place: usize, back: MonoTime) {
        let Some(node) = self.places[place].take() else { return };
        self.former[place] = Some(node);
        self.ended.push(self.now);
        self.break_links_of(node);
        self.break_streams_of(node);
        if let Some(process) = self.processes.remove(&node) {
            self.count_up(&process);
        }
        self.watch_losses();
        self.schedule(back, Event::Restart(place));
    }

    /// Some of the others notice soon that a connection broke, some at once that nobody listens there any more, the rest when
    /// they hear nothing. Whether anybody notices.
    fn tell_lost(&mut self, node: NodeId, place: usize) -> bool {
        let mut noticed = false;
        let peers: Vec<(NodeId, usize)> =
            self.processes.values().map(|process| (process.node, process.place)).collect();
        for (peer, at) in peers {
            if peer == node || !self.network.is_linked(Plane::Control, place, at) {
                continue;
            }
            if self.rng.random_bool(0.7) {
                let delay = Duration::from_micros(self.rng.random_range(500..300_000));
                let lost = Input::Disconnect { node, departed: false };
                self.schedule(self.now + delay, Event::Input(peer, lost));
                noticed = true;
            }
            if self.rng.random_bool(0.5) {
                self.probe_guard(peer, node, place);
            }
        }
        noticed
    }

    fn pause(&mut self, place: usize, end: MonoTime) -> bool {
        let cached = self.scenario.bug == Some(Bug::CachedClock);
        let node = self.places[place];
        let Some(process) = node.and_then(|node| self.processes.get_mut(&node)) else {
            return false;
        };
        process.paused = true;
        process.clock.stop(cached);
        let node = process.node;
        self.schedule(end, Event::Resume(node));
        true
    }

    fn wake(&mut self) -> bool {
        self.scenario.operator = None;
        let stopped = self.processes.values().filter(|process| process.paused);
        let stopped: Vec<NodeId> = stopped.map(|process| process.node).collect();
        stopped.iter().for_each(|&node| self.resume(node));
        !stopped.is_empty()
    }

    fn reset(&mut self, place: usize) -> bool {
        let Some(node) = self.places[place] else { return false };
        let broken = self.break_links_of(node);
        self.break_streams_of(node);
        self.tell_lost(node, place) || broken
    }

    /// Nothing gets from these places to the others, nor back.
    fn cut_off(&mut self, side: &[usize], planes: &[Plane], end: MonoTime) -> bool {
        let others = (0..self.places.len()).filter(|other| !side.contains(other));
        let pairs = others.flat_map(|b| side.iter().flat_map(move |&a| [(a, b), (b, a)]));
        let ways = pairs.flat_map(|(a, b)| planes.iter().map(move |&plane| (plane, a, b)));
        self.block(ways.collect(), end)
    }

    /// Whether a way between two processes was open until now.
    fn block(&mut self, ways: Vec<Way>, end: MonoTime) -> bool {
        let runs = |place: usize| self.places[place].is_some();
        let open = |&(plane, from, to): &Way| {
            runs(from) && runs(to) && self.network.is_open((plane, from, to))
        };
        // What closes nothing is tried again later, and must not find itself in the way then.
        if !ways.iter().any(open) {
            return false;
        }
        ways.iter().for_each(|&way| self.network.block(way));
        self.schedule(end, Event::FaultEnds(Undo::Unblock(ways)));
        true
    }
}

fn both_planes(from: usize, to: usize) -> [Way; 2] {
    [(Plane::Control, from, to), (Plane::Lanes, from, to)]
}
