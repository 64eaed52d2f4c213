use std::time::Duration;

use slotmesh_core::{Ack, Op};
use slotmesh_slots::NodeId;

use super::near::FILLS;
use super::{Event, World};
use crate::process::{Input, Waiter};
use crate::scenario::Bug;

/// What a stopped process finds waiting at most; the rest is lost, as in a socket's buffer.
const INBOX_MAX: usize = 20_000;

impl World {
    /// Hands an input to a process, or puts it aside while that is stopped.
    pub(super) fn deliver(&mut self, node: NodeId, input: Input) {
        let Some(process) = self.processes.get_mut(&node) else { return };
        if process.paused {
            if !matches!(input, Input::Timer { .. }) && process.inbox.len() < INBOX_MAX {
                process.inbox.push_back(input);
            }
            return;
        }
        self.take_in(node, input);
        self.settle(node);
        self.check_committed(node);
        self.check_fences(node);
    }

    /// The process continues: first what its own threads were about to do, then what arrived, then what is due.
    pub(super) fn resume(&mut self, node: NodeId) {
        let Some(process) = self.processes.get_mut(&node) else { return };
        if !process.paused {
            return;
        }
        process.paused = false;
        process.timer = None;
        self.trace.say(self.now, format_args!("{node} continues"));
        let inbox = std::mem::take(&mut process.inbox);
        let (first, then): (Vec<_>, Vec<_>) = inbox.into_iter().partition(Input::is_application);
        for input in first {
            self.take_in(node, input);
            self.check_owner(node);
        }
        if let Some(process) = self.processes.get(&node) {
            process.clock.stop(false);
            process.clock.set(self.now);
        }
        for input in then {
            self.take_in(node, input);
            self.check_owner(node);
            self.settle(node);
        }
        self.settle(node);
    }

    fn take_in(&mut self, node: NodeId, input: Input) {
        let bug = self.scenario.bug;
        let Some(process) = self.processes.get_mut(&node) else { return };
        self.trace.count(self.now, (node, std::mem::discriminant(&input)));
        let now = process.now();
        match input {
            Input::Timer { due } => {
                if process.timer == Some(due) {
                    process.timer = None;
                    if let Some(log) = process.log.as_mut().filter(|log| log.poll_timeout() <= now)
                    {
                        log.handle_timeout(now);
                        self.settle_log(node);
                    }
                    let Some(process) = self.processes.get_mut(&node) else { return };
                    if process.brain.poll_timeout() <= now {
                        process.brain.handle_timeout(now);
                    }
                }
            }
            Input::Datagram { from, body } => process.brain.handle_datagram(from, &body, now),
            Input::Message { from, body } => {
                let result = process.brain.handle_message(from, &body, now);
                assert!(result.is_ok(), "a brain cannot read a brain: {result:?}");
            }
            Input::Log { from, generation, message } => {
                let log = process.log.as_mut().filter(|log| log.generation == generation);
                if let Some(log) = log {
                    log.handle(from, message, now);
                }
            }
            Input::Guard { node, refused } => process.brain.handle_guard(node, refused, now),
            Input::Disconnect { node, departed } => {
                let departed = departed || bug == Some(Bug::LossIsDeparture);
                process.brain.handle_disconnect(node, departed, now);
            }
            input => self.take_data(node, input),
        }
    }

    fn take_data(&mut self, node: NodeId, input: Input) {
        match input {
            Input::Call { call, op, ack } => self.route(node, call, op, ack),
            Input::Request { from, call, op, ack } => {
                self.execute(node, Waiter { home: from, call, ack }, op);
            }
            Input::Answer { call, result } if call.client == FILLS => {
                self.near_answered(call.attempt, result);
            }
            Input::Answer { call, result } => self.client_answered(call, result),
            Input::NearRead { key } => self.near_read(node, key),
            Input::StreamFrame { peer, by, down, frame } => {
                self.take_stream(node, peer, by, down, &frame);
            }
            Input::StreamEnd { peer, by, down } => self.end_stream(node, peer, by, down),
            input => self.take_link(node, input),
        }
    }

    /// Has a process carry an operation out.
    pub(super) fn execute(&self, node: NodeId, waiter: Waiter, op: Op) {
        let ack = match (self.scenario.bug, waiter.ack) {
            (Some(Bug::AckBeforeReplicas), Ack::All) => Ack::Primary,
            (Some(Bug::FewerCopies), Ack::AtLeast(_)) => Ack::Primary,
            (_, ack) => ack,
        };
        if let Some(process) = self.processes.get(&node) {
            process.execute(waiter, op, ack);
        }
    }

    /// Schedules the next timer of a process.
    pub(super) fn set_timer(&mut self, node: NodeId) {
        let Some(process) = self.processes.get_mut(&node) else { return };
        if process.paused {
            return;
        }
        let log = process.log.as_ref().map(|log| log.poll_timeout());
        let due = log.into_iter().fold(process.brain.poll_timeout(), |a, b| a.min(b));
        let at = process.clock.world(due).max(self.now + Duration::from_micros(1));
        if process.timer.is_none_or(|timer| timer > at) {
            process.timer = Some(at);
            self.schedule(at, Event::Input(node, Input::Timer { due: at }));
        }
    }
}
