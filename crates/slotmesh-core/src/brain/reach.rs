//! Which members do not reach each other, by what primaries say of their replicas, and all of those who vote.

use std::collections::BTreeMap;
use std::time::Duration;

use slotmesh_slots::{MonoTime, NodeId};

/// A node that another does not hear for so long, while the leader does, is out of its reach: who was stopped is heard again by
/// both at nearly the same time.
const CONFIRMED_AFTER: Duration = Duration::from_millis(300);

/// How long the two are kept apart since that was last said: while no slot of the one has a copy on the other, nobody says it.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// Nodes, and others out of their reach.
#[derive(Debug, Default)]
pub(super) struct Reach(BTreeMap<(NodeId, NodeId), Silence>);

#[derive(Clone, Copy, Debug)]
struct Silence {
    since: MonoTime,
    latest: MonoTime,
}

impl Silence {
    fn is_confirmed(self) -> bool {
        self.latest.saturating_since(self.since) >= CONFIRMED_AFTER
    }

    fn is_recent(self, now: MonoTime) -> bool {
        now.saturating_since(self.latest) < KEPT_FOR
    }
}

impl Reach {
    /// The node says of whom it hears nothing. Returns those that are known to be out of its reach from now on.
    pub(super) fn note(
        &mut self,
        node: NodeId,
        silent: &[NodeId],
        is_heard: impl Fn(NodeId) -> bool,
        now: MonoTime,
    ) -> Vec<NodeId> {
        let told = |other: &NodeId| silent.contains(other) && is_heard(*other);
        self.0.retain(|(one, other), silence| {
            silence.is_recent(now) && (*one != node || silence.is_confirmed() || told(other))
        });
        let mut news = Vec::new();
        for &other in silent.iter().filter(|other| told(other)) {
            let fresh = Silence { since: now, latest: now };
            let silence = self.0.entry((node, other)).or_insert(fresh);
            let known = silence.is_confirmed();
            silence.latest = now;
            news.extend((!known && silence.is_confirmed()).then_some(other));
        }
        news
    }

    /// Pairs that do not reach each other.
    pub(super) fn apart(&self, now: MonoTime) -> Vec<(NodeId, NodeId)> {
        let is_apart = |silence: &Silence| silence.is_confirmed() && silence.is_recent(now);
        self.0.iter().filter(|(_, silence)| is_apart(silence)).map(|(pair, _)| *pair).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brain::testing::{at, node};

    #[test]
    fn a_node_is_out_of_anothers_reach_that_alone_does_not_hear_it_for_a_while() {
        let mut reach = Reach::default();
        let heard = |_: NodeId| true;
        let news = |reach: &mut Reach, now| reach.note(node(1), &[node(2)], heard, at(now));
        assert!(news(&mut reach, 0).is_empty() && news(&mut reach, 299).is_empty());
        assert!(reach.apart(at(299)).is_empty());
        assert_eq!(news(&mut reach, 300), [node(2)]);
        assert!(news(&mut reach, 400).is_empty(), "it is known");
        assert!(reach.note(node(3), &[], heard, at(500)).is_empty());
        assert!(reach.note(node(1), &[], heard, at(500)).is_empty(), "no slot is copied there now");
        assert_eq!(reach.apart(at(10_399)), [(node(1), node(2))]);
        assert!(reach.apart(at(10_400)).is_empty());
    }

    #[test]
    fn who_is_heard_by_nobody_or_again_soon_is_not_out_of_reach() {
        let mut reach = Reach::default();
        for now in [0, 200, 400, 600] {
            assert!(reach.note(node(1), &[node(2)], |_| false, at(now)).is_empty());
        }
        for now in [700, 900] {
            assert!(reach.note(node(1), &[node(2)], |_| true, at(now)).is_empty());
        }
        assert!(reach.note(node(1), &[], |_| true, at(950)).is_empty());
        assert!(reach.note(node(1), &[node(2)], |_| true, at(1_000)).is_empty(), "it was heard");
        assert!(reach.apart(at(1_000)).is_empty());
    }
}
