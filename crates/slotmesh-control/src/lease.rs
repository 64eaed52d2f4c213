use std::collections::BTreeMap;
use std::time::Duration;

use slotmesh_slots::{Mistake, MonoTime, NodeId};

/// How long a grant lets a node acknowledge, counted from the sending of the ping it answers. Above the worst measured
/// control failover (0.64 s with a 150-300 ms election), so that a change of leader does not stop the data plane.
pub const LEASE: Duration = Duration::from_millis(800);

/// How often a node asks for its lease: eight chances within one lease.
pub const LEASE_PING_INTERVAL: Duration = Duration::from_millis(100);

/// Who was heard within this time answers as it should: one ping and its way may be lost.
const PUNCTUAL: Duration = Duration::from_millis(250);

/// The leader waits this share of [`LEASE`] after a grant, so that clocks may drift apart by a tenth.
pub const LEASE_MARGIN_PERCENT: u32 = 110;

/// The shortest time after which a voter that hears nothing campaigns; the log's configuration says the same. So long a leader
/// that lost its quorum may still grant.
pub const ELECTION_MIN: Duration = Duration::from_millis(150);

/// How long after the end of its lease a node is failed over although nobody else saw it fail.
pub const NO_WITNESS_WAIT: Duration = Duration::from_secs(2);

/// The leader's memory of what it granted.
///
/// A new leader does not know what its predecessor granted, so it counts every node as granted at its own election
/// (ARCHITECTURE.md). The ledger is kept only while leading.
#[derive(Debug, Default)]
pub struct LeaseLedger {
    elected: MonoTime,
    granted: BTreeMap<NodeId, MonoTime>,
}

impl LeaseLedger {
    /// Forgets everything: this node leads since `now`.
    pub fn elected(&mut self, now: MonoTime) {
        self.elected = now;
        self.granted.clear();
    }

    /// The node's ping was answered with a grant.
    pub fn grant(&mut self, node: NodeId, now: MonoTime) {
        self.granted.insert(node, now);
    }

    /// Forgets a node that is no member any more.
    pub fn forget(&mut self, node: NodeId) {
        self.granted.remove(&node);
    }

    /// When the node can have acknowledged anything for the last time, clock drift included.
    #[must_use]
    pub fn over_at(&self, node: NodeId) -> MonoTime {
        let granted = self.granted.get(&node).copied();
        if granted.is_none() && Mistake::OlderGrantsForgotten.is_planted() {
            return MonoTime::ZERO;
        }
        granted.unwrap_or(self.elected) + LEASE * LEASE_MARGIN_PERCENT / 100
    }

    /// Whether the node was granted a lease lately, so that it is worth planning with.
    #[must_use]
    pub fn is_live(&self, node: NodeId, now: MonoTime) -> bool {
        self.was_heard(node, now, LEASE)
    }

    /// Whether the node was granted one at this time or later.
    #[must_use]
    pub fn was_granted_since(&self, node: NodeId, since: MonoTime) -> bool {
        self.granted.get(&node).is_some_and(|granted| *granted >= since)
    }

    /// Whether this leader, which has led for a while, never granted the node one, so that it can only have come just now.
    #[must_use]
    pub fn is_new(&self, node: NodeId, now: MonoTime) -> bool {
        now.saturating_since(self.elected) >= LEASE && !self.granted.contains_key(&node)
    }

    /// Whether the node was heard a moment ago, so that it hardly can have crashed meanwhile.
    #[must_use]
    pub fn is_punctual(&self, node: NodeId, now: MonoTime) -> bool {
        self.was_heard(node, now, PUNCTUAL)
    }

    /// Whether this leader has led for a while and has not heard the node for as long.
    #[must_use]
    pub fn is_silent(&self, node: NodeId, now: MonoTime) -> bool {
        self.is_unheard(node, now, PUNCTUAL)
    }

    /// Whether this leader has led for so long and has not heard the node for as long.
    #[must_use]
    pub fn is_unheard(&self, node: NodeId, now: MonoTime, within: Duration) -> bool {
        now.saturating_since(self.elected) >= within && !self.was_heard(node, now, within)
    }

    fn was_heard(&self, node: NodeId, now: MonoTime, within: Duration) -> bool {
        self.granted.get(&node).is_some_and(|granted| now.saturating_since(*granted) < within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_leader_waits_out_what_its_predecessor_granted() {
        let node = NodeId::from_random(7);
        let mut ledger = LeaseLedger::default();
        let start = MonoTime::from_micros(10_000_000);
        ledger.elected(start);
        assert_eq!(ledger.over_at(node), start + Duration::from_millis(880));
        assert!(!ledger.is_live(node, start), "nothing granted by this leader yet");
        assert!(!ledger.is_silent(node, start + Duration::from_millis(249)));
        assert!(ledger.is_silent(node, start + Duration::from_millis(250)));
        ledger.grant(node, start + Duration::from_millis(50));
        assert_eq!(ledger.over_at(node), start + Duration::from_millis(930));
        assert!(ledger.is_punctual(node, start + Duration::from_millis(299)));
        assert!(!ledger.is_punctual(node, start + Duration::from_millis(300)));
        assert!(ledger.is_live(node, start + Duration::from_millis(800)));
        assert!(!ledger.is_live(node, start + Duration::from_millis(851)));
    }
}
