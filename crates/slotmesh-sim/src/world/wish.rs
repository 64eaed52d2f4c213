//! Somebody who wants another number of copies while the cluster runs.

use std::time::Duration;

use rand::seq::IteratorRandom;
use slotmesh_control::Rebalance;

use super::{Event, World};
use crate::log::NodeSet;
use crate::process::Process;
use crate::scenario::Want;

/// How often the one who wishes asks again, each time another node.
const ASK_INTERVAL: Duration = Duration::from_millis(200);

/// How often an operator tries again where a majority still answers.
const OPERATOR_INTERVAL: Duration = Duration::from_millis(10);

/// And how often once one has gone on.
const OPERATOR_LOOKS_AGAIN: Duration = Duration::from_millis(200);

impl World {
    /// Asks a node, and again until it is decided; then comes the next wish.
    pub(super) fn wish(&mut self, index: usize) {
        let Some(wish) = self.scenario.wishes.get(index).copied() else { return };
        let round = match wish.want {
            Want::Replicas(_) => self.committed().replicas_round(),
            Want::Rebalance(_) => self.committed().rebalance_round(),
        };
        let wished_at = *self.wished_at.get_or_insert(round);
        if round != wished_at {
            self.granted = index + 1;
            self.wished_at = None;
            if let Some(next) = self.scenario.wishes.get(index + 1) {
                let at = self.began.unwrap_or(self.now) + next.at;
                self.schedule(at.max(self.now), Event::Wish(index + 1));
            }
            return;
        }
        let awake = self.processes.values().filter(|process| !process.paused);
        let asked = awake.map(|process| process.node).choose(&mut self.rng);
        self.schedule(self.now + ASK_INTERVAL, Event::Wish(index));
        let Some(node) = asked else { return };
        self.trace.say(self.now, format_args!("{node} is asked for {wish:?}"));
        if let Some(process) = self.processes.get_mut(&node) {
            let now = process.now();
            match wish.want {
                Want::Replicas(replicas) => process.brain.set_replicas(replicas, wished_at, now),
                Want::Rebalance(wanted) => process.brain.set_rebalance(wanted, wished_at, now),
            }
        }
        self.settle(node);
    }

    /// Asks the node that leads, once; whether there is one.
    pub(super) fn ask_balance(&mut self, wanted: Rebalance) -> bool {
        let round = self.committed().rebalance_round();
        let leads = self.processes.values_mut().find(|it| it.brain.is_leading() && !it.paused);
        let Some(process) = leads else { return false };
        let (node, now) = (process.node, process.now());
        process.brain.set_rebalance(wanted, round, now);
        self.settle(node);
        true
    }

    /// Once all is over, nobody leaves the balance off.
    pub(super) fn resume_balance(&mut self) {
        if self.calm && self.committed().rebalance() != Rebalance::On {
            self.ask_balance(Rebalance::On);
        }
    }

    /// An operator has a node go on without the majority; what comes of it is seen by the generation.
    pub(super) fn operate(&mut self) {
        if self.scenario.operator.is_none() {
            return;
        }
        let reformed = self.committed().generation().is_some_and(|known| known.reform > 0);
        // One who went on may be lost as well.
        let again = if reformed { OPERATOR_LOOKS_AGAIN } else { OPERATOR_INTERVAL };
        self.schedule(self.now + again, Event::Operator);
        if self.processes.values().any(governs_alone) {
            // Nothing is lost then, it is only out of sight: both sides would serve, as the documentation says.
            return;
        }
        // The leader that is cut off believes on.
        let awake = self.processes.values();
        let awake = awake.filter(|process| !process.paused && !process.brain.is_leading());
        let Some(node) = awake.map(|process| process.node).choose(&mut self.rng) else { return };
        let Some(process) = self.processes.get_mut(&node) else { return };
        let now = process.now();
        let answer = process.brain.reform(now);
        self.trace.detail(self.now, format_args!("{node} is asked to go on alone: {answer:?}"));
        self.settle(node);
    }

    /// What is still to be decided, or to be seen by those who decide.
    pub(super) fn unfulfilled(&self) -> Option<String> {
        let state = self.committed();
        let all = self.scenario.wishes.len();
        if self.began.is_some() && self.granted < all {
            return Some(format!("{} of {all} wishes were granted", self.granted));
        }
        let wishes = self.scenario.wishes.iter().rev().filter(|_| self.began.is_some());
        let mut copies = wishes.filter_map(|wish| match wish.want {
            Want::Replicas(replicas) => Some(replicas),
            Want::Rebalance(_) => None,
        });
        let wanted = copies.next().unwrap_or(self.scenario.replicas);
        if self.began.is_some() && state.rebalance() != Rebalance::On {
            return Some(format!("the balance is {:?}", state.rebalance()));
        }
        (state.replicas() != wanted).then(|| format!("{} copies are wanted", state.replicas()))
    }
}

/// Whether the others were struck from the voters before this one was cut off from them.
fn governs_alone(process: &Process) -> bool {
    let alone = NodeSet::from([process.node]);
    process.log.as_ref().is_some_and(|log| log.is_quorum(&alone))
}
