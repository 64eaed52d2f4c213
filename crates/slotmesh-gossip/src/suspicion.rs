//! Suspicions and when they turn into a death.
//!
//! A suspicion starts with a long time-out and each independent confirmation shortens it, in logarithmic steps, down
//! to the short one (Lifeguard, "dynamic suspicion timeouts"): a node that alone fails to reach others needs long to
//! convince itself, several observers agree quickly.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use slotmesh_slots::{MonoTime, NodeId};

use crate::config::GossipConfig;

/// Confirmations that drive a suspicion to its shortest time-out. More than two buys little: at two, three observers agree.
pub(crate) const CONFIRMATIONS_MAX: usize = 2;

#[derive(Debug)]
struct Suspicion {
    started: MonoTime,
    deadline: MonoTime,
    shortest: Duration,
    longest: Duration,
    needed: usize,
    /// Who suspects; the first is not a confirmation. At most `CONFIRMATIONS_MAX + 1`.
    observers: Vec<NodeId>,
}

impl Suspicion {
    fn timeout(&self) -> Duration {
        if self.needed == 0 {
            return self.shortest;
        }
        let confirmations = (self.observers.len() - 1).min(self.needed);
        let share = ((confirmations + 1) as f64).ln() / ((self.needed + 1) as f64).ln();
        self.longest - (self.longest - self.shortest).mul_f64(share.clamp(0.0, 1.0))
    }
}

/// All running suspicions, with the deadlines in order.
#[derive(Debug, Default)]
pub(crate) struct Suspicions {
    by_node: BTreeMap<NodeId, Suspicion>,
    deadlines: BTreeSet<(MonoTime, NodeId)>,
}

impl Suspicions {
    /// Starts one, or renews it for a higher incarnation. `members` counts this node too.
    pub(crate) fn start(
        &mut self,
        node: NodeId,
        observer: NodeId,
        members: usize,
        config: &GossipConfig,
        now: MonoTime,
    ) {
        self.stop(node);
        let scale = (members as f64).log10().max(1.0) * f64::from(config.suspicion_multiplier);
        let shortest = config.probe_interval.mul_f64(scale);
        // With too few others to confirm, waiting for confirmations would only be slow.
        let needed = if members < CONFIRMATIONS_MAX + 3 { 0 } else { CONFIRMATIONS_MAX };
        let mut suspicion = Suspicion {
            started: now,
            deadline: now,
            shortest,
            longest: shortest * config.suspicion_max_factor,
            needed,
            observers: vec![observer],
        };
        suspicion.deadline = now + suspicion.timeout();
        self.deadlines.insert((suspicion.deadline, node));
        self.by_node.insert(node, suspicion);
    }

    /// Counts another observer; true when it is new and still shortens the time-out, so that it is worth passing on.
    pub(crate) fn confirm(&mut self, node: NodeId, observer: NodeId) -> bool {
        let Some(suspicion) = self.by_node.get_mut(&node) else { return false };
        if suspicion.observers.len() > suspicion.needed || suspicion.observers.contains(&observer) {
            return false;
        }
        suspicion.observers.push(observer);
        let deadline = suspicion.started + suspicion.timeout();
        self.postpone(node, deadline);
        true
    }

    pub(crate) fn stop(&mut self, node: NodeId) {
        if let Some(suspicion) = self.by_node.remove(&node) {
            self.deadlines.remove(&(suspicion.deadline, node));
        }
    }

    /// Moves one deadline.
    pub(crate) fn postpone(&mut self, node: NodeId, deadline: MonoTime) {
        if let Some(suspicion) = self.by_node.get_mut(&node) {
            self.deadlines.remove(&(suspicion.deadline, node));
            suspicion.deadline = deadline;
            self.deadlines.insert((deadline, node));
        }
    }

    /// Moves everything by the time this node was stopped: nobody could refute to it meanwhile.
    pub(crate) fn shift(&mut self, by: Duration) {
        for suspicion in self.by_node.values_mut() {
            suspicion.started = suspicion.started + by;
            suspicion.deadline = suspicion.deadline + by;
        }
        self.deadlines = self.by_node.iter().map(|(node, s)| (s.deadline, *node)).collect();
    }

    pub(crate) fn next_deadline(&self) -> Option<MonoTime> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The suspect whose time is over, if any, and since when it is one.
    pub(crate) fn expired(&self, now: MonoTime) -> Option<(NodeId, MonoTime)> {
        let (_, node) = self.deadlines.first().filter(|(at, _)| *at <= now)?;
        self.by_node.get(node).map(|suspicion| (*node, suspicion.started))
    }

    /// Who suspected the node first, as far as this node heard.
    pub(crate) fn first_observer(&self, node: NodeId) -> Option<NodeId> {
        self.by_node.get(&node).and_then(|suspicion| suspicion.observers.first().copied())
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.by_node.keys().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_node.len()
    }

    pub(crate) fn check_invariants(&self) {
        assert_eq!(self.by_node.len(), self.deadlines.len(), "one deadline per suspicion");
        for (node, suspicion) in &self.by_node {
            assert!(self.deadlines.contains(&(suspicion.deadline, *node)), "deadline of {node}");
            assert!(suspicion.observers.len() <= CONFIRMATIONS_MAX + 1, "observers of {node}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds after which a suspicion ends that this many others confirmed.
    fn check(members: usize, confirmations: u64) -> u64 {
        let mut suspicions = Suspicions::default();
        let node = NodeId::from_random(1);
        let config = GossipConfig::default();
        suspicions.start(node, NodeId::from_random(2), members, &config, MonoTime::ZERO);
        for other in 0..confirmations {
            suspicions.confirm(node, NodeId::from_random(2 + other));
            suspicions.confirm(node, NodeId::from_random(3 + other));
        }
        suspicions.check_invariants();
        suspicions.next_deadline().unwrap().as_micros() / 1000
    }

    #[test]
    fn confirmations_shorten_from_the_longest_to_the_shortest() {
        assert_eq!(check(100, 0), 24_000);
        assert!((11_000..12_000).contains(&check(100, 1)), "{}", check(100, 1));
        assert_eq!(check(100, 2), 4_000);
        assert_eq!(check(100, 9), 4_000);
    }

    #[test]
    fn small_clusters_need_no_confirmation_and_large_ones_wait_longer() {
        assert_eq!(check(3, 0), 2_000);
        assert_eq!(check(1000, 2), 6_000);
    }
}
