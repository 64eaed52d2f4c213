use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slotmesh_core::{NodeEvent, Output};
use slotmesh_slots::NodeId;

use super::near::FILLS;
use super::{Event, World, addr, place_of};
use crate::log::{LogEvent, LogNode};
use crate::network::Plane;
use crate::process::{Input, Process};
use crate::scenario::{Bug, Moment};

/// Rounds until a process has nothing more to do by itself; more is a loop between brain and driver.
const ROUNDS_MAX: usize = 1_000;

impl World {
    /// Does everything that a process wants done, until it wants nothing.
    pub(super) fn settle(&mut self, node: NodeId) {
        for _ in 0..ROUNDS_MAX {
            let mut busy = self.settle_log(node);
            let Some(process) = self.processes.get_mut(&node) else { return };
            if process.has_events.swap(false, Ordering::Relaxed) {
                let now = process.now();
                process.brain.handle_data(now);
                busy = true;
            }
            while let Some(output) =
                self.processes.get_mut(&node).and_then(|p| p.brain.poll_output())
            {
                self.carry_out(node, output);
                busy = true;
            }
            busy |= self.settle_links(node);
            busy |= self.settle_watchers(node);
            busy |= self.settle_replies(node);
            if !busy {
                self.see_left(node);
                return self.set_timer(node);
            }
        }
        panic!("{node} never comes to rest");
    }

    /// Carries what the log says to the brain and to the other logs.
    pub(super) fn settle_log(&mut self, node: NodeId) -> bool {
        let mut busy = false;
        loop {
            let Some(process) = self.processes.get_mut(&node) else { return busy };
            let now = process.now();
            let event = process.log.as_mut().and_then(LogNode::poll_event);
            let Some(event) = event else { break };
            busy = true;
            match event {
                LogEvent::Send(to, message) => {
                    let place = process.place;
                    let Some(generation) = process.log.as_ref().map(|log| log.generation) else {
                        continue;
                    };
                    self.carry(
                        (Plane::Control, place),
                        to,
                        Input::Log { from: node, generation, message },
                    );
                }
                LogEvent::Applied(delta) => process.brain.handle_applied(&delta, now),
                LogEvent::Command(index, command) => self.watch_commit(node, index, &command),
                LogEvent::ProposalEnded => {
                    tell_status(process, self.scenario.bug);
                    process.brain.handle_proposed(now);
                }
                LogEvent::VotersSet => {
                    tell_status(process, self.scenario.bug);
                    process.brain.handle_voters_set(now);
                }
            }
        }
        let Some(process) = self.processes.get_mut(&node) else { return busy };
        busy | tell_status(process, self.scenario.bug)
    }

    fn carry_out(&mut self, node: NodeId, output: Output) {
        let Some(process) = self.processes.get_mut(&node) else { return };
        let (place, now) = (process.place, process.now());
        match output {
            Output::Datagram { to, body } => {
                let Some(other) = place_of(to).and_then(|place| *self.places.get(place)?) else {
                    return;
                };
                self.carry(
                    (Plane::Control, place),
                    other,
                    Input::Datagram { from: addr(place), body },
                );
            }
            Output::Send { to, addr, body } => {
                self.trace.count(self.now, (node, to, body.len()));
                if place_of(addr).is_some_and(|place| self.places.get(place) == Some(&Some(to))) {
                    self.carry((Plane::Control, place), to, Input::Message { from: node, body });
                }
            }
            Output::Propose(command) => match &mut process.log {
                Some(log) => log.propose(command, now),
                None => process.brain.handle_proposed(now),
            },
            Output::StartLog { generation, found_with } => {
                let rng = StdRng::seed_from_u64(self.rng.random());
                let mut log = LogNode::new(node, generation, rng, now);
                log.commits_alone = self.scenario.bug == Some(Bug::CommitAlone);
                log.keeps = self.scenario.control_log_keeps;
                if let Some(voters) = found_with {
                    log.found(voters.into_iter().collect(), now);
                }
                process.log = Some(log);
            }
            // One that is parked already stays it.
            Output::ParkLog => {
                process.parked = process.parked.take().or_else(|| process.log.take())
            }
            Output::ResumeLog => {
                process.log = process.parked.take();
                process.told = Default::default();
            }
            Output::DropParkedLog => process.parked = None,
            Output::SetVoters(voters) => match &mut process.log {
                Some(log) => log.set_voters(voters.into_iter().collect(), now),
                None => process.brain.handle_voters_set(now),
            },
            Output::SetElections(enabled) => {
                process.log.iter_mut().for_each(|log| log.set_elections(enabled));
            }
            Output::ProbeGuard { node: asked, addr } => {
                if let Some(to) = place_of(addr) {
                    self.probe_guard(node, asked, to);
                }
            }
            Output::Rejoin => self.replace(node),
            Output::Event(event) => self.note(node, &event),
            _ => {}
        }
    }

    /// Somebody holds the port while a process lives there; a stopped one's kernel accepts, but nobody answers.
    pub(super) fn probe_guard(&mut self, node: NodeId, asked: NodeId, to: usize) {
        let Some(place) = self.place(node) else { return };
        let at_home = self.places.get(to).copied().flatten();
        let stopped = at_home.and_then(|home| self.processes.get(&home)).is_some_and(|p| p.paused);
        if !self.network.is_linked(Plane::Control, place, to) || stopped {
            return;
        }
        let delay = self.network.delay(place, to) + self.network.delay(to, place);
        let answer = Input::Guard { node: asked, refused: at_home.is_none() };
        self.schedule(self.now + delay, Event::Input(node, answer));
    }

    fn note(&mut self, node: NodeId, event: &NodeEvent) {
        self.trace.say(self.now, format_args!("{node} {event:?}"));
        match event {
            NodeEvent::Leading => self.happens(Moment::Elected, Some(node), None),
            NodeEvent::Reforming(_) => self.happens(Moment::Reforming, Some(node), None),
            NodeEvent::CopiesLost { event, .. } => {
                self.coverage.see(format_args!("lost copies: {event:?}"));
            }
            NodeEvent::Exchanging { roles, copies } => {
                self.coverage.add(format_args!("roles exchanged"), *roles as u64);
                self.coverage.add(format_args!("copies exchanged"), *copies as u64);
            }
            NodeEvent::Reformed { survivors, .. } => {
                self.coverage.see(format_args!("reformed with {survivors}"));
            }
            _ => {}
        }
        // What a founder that died at once said may still be on its way.
        if let NodeEvent::OtherGeneration { node: other, .. } = &event
            && !self.scenario.two_sides
            && self.processes.contains_key(other)
        {
            self.watch.problem.get_or_insert(format!("two generations: {event:?}"));
        }
    }

    fn settle_replies(&mut self, node: NodeId) -> bool {
        let Some(process) = self.processes.get(&node) else { return false };
        let (place, replies) = (process.place, std::mem::take(&mut *process.replies.lock()));
        let busy = !replies.is_empty();
        for (waiter, result) in replies {
            if waiter.call.client == FILLS {
                self.near_reply(node, waiter.home, waiter.call, result);
                continue;
            }
            self.check_copies(node, waiter, &result);
            let answer = Input::Answer { call: waiter.call, result };
            if waiter.home == node {
                self.schedule(self.now + Duration::from_micros(1), Event::Input(node, answer));
            } else {
                self.carry((Plane::Lanes, place), waiter.home, answer);
            }
        }
        busy
    }
}

/// Tells the brain the log's status if that is news.
fn tell_status(process: &mut Process, bug: Option<Bug>) -> bool {
    let now = process.now();
    let Some(log) = &process.log else { return false };
    let mut status = log.status(now);
    if bug == Some(Bug::StaleQuorum) && status.is_leader {
        status.quorum_acked = Some(now);
    }
    if status == process.told {
        return false;
    }
    process.told = status.clone();
    process.brain.handle_log_status(status, now);
    true
}
