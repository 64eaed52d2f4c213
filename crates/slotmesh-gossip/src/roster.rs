use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use slotmesh_slots::{MonoTime, NodeId};

use crate::member::{Member, MemberState};

/// Members a node remembers, dead ones included: four times the largest cluster that is simulated. Beyond it the
/// longest dead are forgotten first, and newcomers are ignored when all are alive.
pub const MEMBERS_MAX: usize = 4096;

/// A member and what only this node knows of it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) member: Member,
    /// The incarnation whose own words gave address and metadata; below the member's when only a suspicion told of it.
    pub(crate) described: u64,
    /// The highest incarnation it named in a datagram of its own.
    pub(crate) announced: u64,
    /// Whether it ever spoke to this node from its own address.
    pub(crate) direct: bool,
    /// Since when it is in this state.
    pub(crate) since: MonoTime,
    /// Position in the order in which this node learned of its members.
    pub(crate) learned: u64,
    /// When it last answered this node.
    pub(crate) answered: Option<MonoTime>,
    /// When this node last sent it a ping outside the probe rounds.
    pub(crate) nudged: Option<MonoTime>,
}

/// All known members except this node, and the shuffled order in which the living ones are probed.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    entries: BTreeMap<NodeId, Entry>,
    /// Every entry by its address: each first word of a member asks who else claims its address.
    addresses: BTreeSet<(SocketAddr, NodeId)>,
    /// Exactly the live members (SWIM §4.3: round-robin over a random order bounds the time to the next probe).
    ring: Vec<NodeId>,
    next: usize,
    learned: u64,
}

impl Roster {
    pub(crate) fn get(&self, node: NodeId) -> Option<&Entry> {
        self.entries.get(&node)
    }

    pub(crate) fn get_mut(&mut self, node: NodeId) -> Option<&mut Entry> {
        self.entries.get_mut(&node)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Members with an identity above this one, in order.
    pub(crate) fn after(&self, node: Option<NodeId>) -> impl Iterator<Item = &Entry> {
        let start = node.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.entries.range((start, std::ops::Bound::Unbounded)).map(|(_, entry)| entry)
    }

    pub(crate) fn live_count(&self) -> usize {
        self.ring.len()
    }

    pub(crate) fn live_at(&self, addr: SocketAddr) -> impl Iterator<Item = &Entry> {
        let (lowest, highest) = (NodeId::from_random(0), NodeId::from_random(u64::MAX));
        let claimants = self.addresses.range((addr, lowest)..=(addr, highest));
        let entries = claimants.filter_map(|(_, node)| self.entries.get(node));
        entries.filter(|entry| entry.member.state.is_live())
    }

    /// Takes over a member's address.
    pub(crate) fn set_addr(&mut self, node: NodeId, addr: SocketAddr) {
        if let Some(entry) = self.entries.get_mut(&node) {
            self.addresses.remove(&(entry.member.addr, node));
            entry.member.addr = addr;
            self.addresses.insert((addr, node));
        }
    }

    fn forget(&mut self, node: NodeId) {
        if let Some(entry) = self.entries.remove(&node) {
            self.addresses.remove(&(entry.member.addr, node));
        }
    }

    /// Whether a newcomer would be ignored.
    pub(crate) fn is_full(&self) -> bool {
        self.ring.len() >= MEMBERS_MAX
    }

    /// Adds a live member that is not known yet; the forgotten dead one, if room had to be made.
    pub(crate) fn insert(
        &mut self,
        member: Member,
        rng: &mut StdRng,
        now: MonoTime,
    ) -> Option<NodeId> {
        let evicted = if self.entries.len() >= MEMBERS_MAX { self.longest_dead() } else { None };
        if let Some(node) = evicted {
            self.forget(node);
        }
        self.learned += 1;
        let node = member.node;
        let entry = Entry {
            described: member.incarnation,
            announced: 0,
            direct: false,
            since: now,
            learned: self.learned,
            answered: None,
            nudged: None,
            member,
        };
        self.addresses.insert((entry.member.addr, node));
        self.entries.insert(node, entry);
        self.ring_add(node, rng);
        evicted
    }

    fn longest_dead(&self) -> Option<NodeId> {
        let dead = self.iter().filter(|e| !e.member.state.is_live());
        dead.min_by_key(|e| (e.since, e.member.node)).map(|e| e.member.node)
    }

    /// Moves a member to another state and keeps the probe order in step.
    pub(crate) fn set_state(
        &mut self,
        node: NodeId,
        state: MemberState,
        rng: &mut StdRng,
        now: MonoTime,
    ) {
        let Some(entry) = self.entries.get_mut(&node) else { return };
        let was_live = entry.member.state.is_live();
        entry.member.state = state;
        entry.since = now;
        if was_live && !state.is_live() {
            self.ring_remove(node);
        } else if !was_live && state.is_live() {
            self.ring_add(node, rng);
        }
    }

    /// Forgets members that are dead or gone since before `limit`.
    pub(crate) fn forget_before(&mut self, limit: MonoTime) -> Vec<NodeId> {
        let old = self.iter().filter(|e| !e.member.state.is_live() && e.since < limit);
        let nodes: Vec<_> = old.map(|e| e.member.node).collect();
        for node in &nodes {
            self.forget(*node);
        }
        nodes
    }

    /// The next member to probe.
    pub(crate) fn next_probe(&mut self, rng: &mut StdRng) -> Option<NodeId> {
        if self.next >= self.ring.len() {
            self.ring.shuffle(rng);
            self.next = 0;
        }
        let node = self.ring.get(self.next).copied();
        self.next += 1;
        node
    }

    /// Up to `count` different live members by chance, without the ones refused by `accept`.
    pub(crate) fn pick(
        &self,
        count: usize,
        rng: &mut StdRng,
        accept: impl Fn(&Entry) -> bool,
    ) -> Vec<(NodeId, SocketAddr)> {
        let mut picked: Vec<(NodeId, SocketAddr)> = Vec::with_capacity(count);
        if self.ring.is_empty() {
            return picked;
        }
        // A run of neighbours in a random order would repeat the same groups; single draws do not, and a few misses
        // in small clusters are made up by walking on from the draw.
        for _ in 0..count.min(self.ring.len()) {
            let start = rng.random_range(0..self.ring.len());
            let walk = self.ring.iter().cycle().skip(start).take(self.ring.len());
            let fresh = walk.filter(|node| picked.iter().all(|(other, _)| other != *node));
            let found = fresh.filter_map(|node| self.entries.get(node)).find(|e| accept(e));
            match found {
                Some(entry) => picked.push((entry.member.node, entry.member.addr)),
                None => break,
            }
        }
        picked
    }

    /// A newcomer gets a random place, so that a whole group that joins is not probed by everybody in the same order.
    fn ring_add(&mut self, node: NodeId, rng: &mut StdRng) {
        let at = rng.random_range(0..=self.ring.len());
        self.ring.insert(at, node);
        if at < self.next {
            self.next += 1;
        }
    }

    fn ring_remove(&mut self, node: NodeId) {
        if let Some(at) = self.ring.iter().position(|other| *other == node) {
            self.ring.remove(at);
            if at < self.next {
                self.next -= 1;
            }
        }
    }

    pub(crate) fn check_invariants(&self) {
        assert!(self.entries.len() <= MEMBERS_MAX, "members are bounded");
        let mut ring = self.ring.clone();
        ring.sort_unstable();
        let live = self.iter().filter(|e| e.member.state.is_live()).map(|e| e.member.node);
        assert!(live.eq(ring), "the probe order holds exactly the live members");
        assert_eq!(self.addresses.len(), self.entries.len(), "one address per member");
        for entry in self.iter() {
            let address = (entry.member.addr, entry.member.node);
            assert!(self.addresses.contains(&address), "found by its address");
            assert!(entry.described <= entry.member.incarnation, "described by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rand::SeedableRng;

    use super::*;

    fn member(number: u64) -> Member {
        Member {
            node: NodeId::from_random(number),
            addr: SocketAddr::from(([10, 0, 0, 1], 7600)),
            incarnation: 1,
            state: MemberState::Alive,
            meta: Bytes::new(),
        }
    }

    fn roster(count: u64) -> (Roster, StdRng) {
        let (mut roster, mut rng) = (Roster::default(), StdRng::seed_from_u64(1));
        for number in 1..=count {
            roster.insert(member(number), &mut rng, MonoTime::from_micros(number));
        }
        (roster, rng)
    }

    #[test]
    fn every_live_member_is_probed_once_per_round() {
        let (mut roster, mut rng) = roster(50);
        roster.set_state(NodeId::from_random(7), MemberState::Dead, &mut rng, MonoTime::ZERO);
        roster.check_invariants();
        while roster.next < roster.ring.len() {
            roster.next_probe(&mut rng);
        }
        let mut probed: Vec<_> = (0..49).filter_map(|_| roster.next_probe(&mut rng)).collect();
        probed.sort_unstable();
        probed.dedup();
        assert_eq!(probed.len(), 49);
    }

    #[test]
    fn picks_are_distinct_and_accepted() {
        let (roster, mut rng) = roster(5);
        let odd = |e: &Entry| e.member.node.get() % 2 == 1;
        let mut picked = roster.pick(4, &mut rng, odd);
        picked.sort_unstable();
        let numbers: Vec<_> = picked.iter().map(|(node, _)| node.get()).collect();
        assert_eq!(numbers, [1, 3, 5]);
    }

    #[test]
    fn a_full_roster_forgets_the_longest_dead_first() {
        let (mut roster, mut rng) = roster(MEMBERS_MAX as u64);
        assert!(roster.is_full());
        roster.set_state(NodeId::from_random(9), MemberState::Dead, &mut rng, MonoTime::ZERO);
        assert!(!roster.is_full());
        let evicted = roster.insert(member(999_999), &mut rng, MonoTime::ZERO);
        assert_eq!(evicted, NodeId::new(9));
        roster.check_invariants();
    }
}
