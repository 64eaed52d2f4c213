use std::collections::BTreeMap;
use std::time::Duration;

use slotmesh_slots::{Epoch, Mistake, MonoTime, NodeId, NodeList, Slot, SlotState, Version};

use crate::command::{Claim, Command};
use crate::state::ClusterState;

/// How long the leader waits for in-sync survivors to promise; those that answer later are filled again.
pub const PROMISE_WAIT: Duration = Duration::from_millis(200);

/// The taking over of one failed primary's slots (ARCHITECTURE.md): its in-sync survivors promise the next epoch and tell how
/// far they are; the furthest becomes primary, and the new in-sync set are those that promised.
///
/// A write acknowledged under `Ack::All` is on every in-sync survivor, so any promiser has it. What only some of them
/// hold was never acknowledged; the furthest keeps it and sends it to the others.
#[derive(Debug)]
pub struct Failover {
    node: NodeId,
    started: MonoTime,
    asked: BTreeMap<NodeId, Vec<Claim>>,
    answers: BTreeMap<NodeId, BTreeMap<Slot, Version>>,
}

impl Failover {
    /// Begins: `usable` tells which survivors are worth asking.
    #[must_use]
    pub fn start(
        state: &ClusterState,
        node: NodeId,
        usable: impl Fn(NodeId) -> bool,
        now: MonoTime,
    ) -> Self {
        let mut asked: BTreeMap<NodeId, Vec<Claim>> = BTreeMap::new();
        for (slot, held) in owned(state, node) {
            for survivor in candidates(held).filter(|&survivor| usable(survivor)) {
                asked.entry(survivor).or_default().push((slot, held.epoch));
            }
        }
        Self { node, started: now, asked, answers: BTreeMap::new() }
    }

    /// The failed primary.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Whom to ask for which slots. A survivor promises the epoch after the one named.
    pub fn requests(&self) -> impl Iterator<Item = (NodeId, &[Claim])> {
        self.asked.iter().map(|(node, claims)| (*node, claims.as_slice()))
    }

    /// A survivor promised these slots and holds them up to these versions. Those that were asked for by another failover are no answer to
    /// this one; none at all may be.
    pub fn handle_promise(&mut self, from: NodeId, promised: &[(Slot, Version)]) {
        let asked = self.asked.get(&from).map_or(&[][..], Vec::as_slice);
        let is_asked = |(slot, _): &&(Slot, Version)| {
            asked.binary_search_by_key(slot, |(asked, _)| *asked).is_ok()
        };
        let ours: Vec<_> = promised.iter().filter(is_asked).copied().collect();
        if !ours.is_empty() || promised.is_empty() {
            self.answers.entry(from).or_default().extend(ours);
        }
    }

    /// Whether to wait no longer.
    #[must_use]
    pub fn is_ready(&self, now: MonoTime) -> bool {
        now >= self.ready_at() || self.asked.keys().all(|node| self.answers.contains_key(node))
    }

    /// When to wait no longer at the latest.
    #[must_use]
    pub fn ready_at(&self) -> MonoTime {
        self.started + PROMISE_WAIT
    }

    /// The commands that give the slots to the furthest promisers, and the slots for which nobody promised.
    #[must_use]
    pub fn decide(&self, state: &ClusterState) -> (Vec<Command>, Vec<Claim>) {
        let mut groups: BTreeMap<(NodeId, Vec<NodeId>), Vec<Claim>> = BTreeMap::new();
        let mut load: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut orphans = Vec::new();
        for (slot, held) in owned(state, self.node) {
            let promisers = self.promisers(slot, held);
            let best = |(node, version): &(NodeId, Version)| {
                let mut version = *version;
                if Mistake::FailoverByOffset.is_planted() {
                    version.epoch = Epoch::default();
                }
                (version, std::cmp::Reverse(load.get(node).copied().unwrap_or(0)))
            };
            let Some((winner, _)) = promisers.iter().copied().max_by_key(best) else {
                orphans.push((slot, held.epoch));
                continue;
            };
            *load.entry(winner).or_default() += 1;
            let others =
                promisers.iter().map(|(node, _)| *node).filter(|&node| node != winner).collect();
            groups.entry((winner, others)).or_default().push((slot, held.epoch));
        }
        let commands = groups.into_iter().map(|((primary, others), claims)| Command::Failover {
            claims,
            primary,
            in_sync: others.into_iter().collect::<NodeList>(),
        });
        (commands.collect(), orphans)
    }

    fn promisers(&self, slot: Slot, held: &SlotState) -> Vec<(NodeId, Version)> {
        let version = |node| self.answers.get(&node).and_then(|promised| promised.get(&slot));
        candidates(held).filter_map(|node| Some((node, *version(node)?))).collect()
    }
}

/// Who may take a slot over.
fn candidates(held: &SlotState) -> impl Iterator<Item = NodeId> {
    let incomplete = Mistake::FailoverByOffset.is_planted().then_some(held.copying);
    held.in_sync
        .iter()
        .chain(incomplete.into_iter().flat_map(|nodes| nodes.iter().collect::<Vec<_>>()))
}

fn owned(state: &ClusterState, node: NodeId) -> impl Iterator<Item = (Slot, &SlotState)> {
    state.table().iter().filter(move |(_, held)| held.primary == Some(node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::{assigned, node};
    use slotmesh_slots::{Epoch, Seq};

    #[test]
    fn the_furthest_promiser_wins_and_silent_ones_are_filled_again() {
        let mut state = assigned(3, 2);
        let (dead, far, near) = (node(1), node(2), node(3));
        let now = MonoTime::ZERO;
        let mut failover = Failover::start(&state, dead, |_| true, now);
        let slots: Vec<Slot> = state.table().owned_by(dead).iter().collect();
        let answer = |slots: &[Slot], seq| -> Vec<_> {
            slots.iter().map(|&slot| (slot, Version::new(Epoch(1), Seq(seq)))).collect()
        };
        failover.handle_promise(far, &answer(&slots, 9));
        assert!(!failover.is_ready(now), "one has not answered and there is time");
        let others: Vec<Slot> = state.table().owned_by(far).iter().collect();
        failover.handle_promise(near, &answer(&others, 9));
        assert!(!failover.is_ready(now), "that was an answer to somebody else's failover");
        failover.handle_promise(near, &answer(&slots[1..], 8));
        assert!(failover.is_ready(now));
        let (commands, orphans) = failover.decide(&state);
        assert!(orphans.is_empty());
        for command in &commands {
            state.apply(command);
        }
        let first = state.table().slot(slots[0]);
        assert_eq!((first.primary, first.epoch), (Some(far), Epoch(2)));
        assert!(first.copying.contains(near) && first.in_sync.is_empty());
        assert!(state.table().slot(slots[1]).in_sync.contains(near));
        state.check_invariants();
    }

    #[test]
    fn slots_nobody_promised_are_orphans() {
        let state = assigned(2, 1);
        let failover = Failover::start(&state, node(1), |_| false, MonoTime::ZERO);
        assert!(failover.is_ready(MonoTime::ZERO), "nobody to wait for");
        let (commands, orphans) = failover.decide(&state);
        assert!(commands.is_empty());
        assert_eq!(orphans.len(), state.table().owned_by(node(1)).len());
    }
}
