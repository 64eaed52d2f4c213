//! What a claim changes: the order of SWIM §4.2 on (incarnation, state), and refutation.

use std::net::SocketAddr;

use bytes::Bytes;
use slotmesh_slots::{MonoTime, NodeId};

use super::Gossip;
use crate::member::{Event, Member, MemberState};
use crate::wire::{Body, Claim, INCARNATION_MAX, Rumor};

/// How a claim came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Fresh news.
    Rumor,
    /// The claimant speaks of itself.
    Itself,
    /// Anti-entropy: may be as old as the last partition.
    Feed,
}

impl Gossip {
    pub(super) fn apply(&mut self, rumor: Rumor, source: Source, now: MonoTime) {
        let Rumor { node, incarnation, claim } = rumor;
        if node == self.me.node {
            return self.apply_to_me(incarnation, &claim);
        }
        match claim {
            Claim::Alive { addr, meta } => {
                let state = MemberState::Alive;
                self.apply_alive(Member { node, addr, incarnation, state, meta }, source, now);
            }
            Claim::Suspect { by } => self.apply_suspect(node, incarnation, by, now),
            Claim::Dead { by } if source == Source::Feed => {
                self.apply_suspect(node, incarnation, by, now);
            }
            Claim::Dead { by } => {
                self.apply_end(node, incarnation, &Claim::Dead { by }, now);
            }
            Claim::Left => self.apply_end(node, incarnation, &Claim::Left, now),
        }
    }

    /// Somebody speaks of this node. Only it may speak of itself, so anything but its own last word is refuted.
    fn apply_to_me(&mut self, incarnation: u64, claim: &Claim) {
        if self.has_left() {
            return;
        }
        let harmless = matches!(claim, Claim::Alive { .. });
        if incarnation > self.me.incarnation || (incarnation == self.me.incarnation && !harmless) {
            self.renew(incarnation);
            self.health.worse(1);
        }
    }

    /// Speaks of this node again, above `incarnation`.
    pub(super) fn renew(&mut self, incarnation: u64) {
        let next = self.me.incarnation.max(incarnation).saturating_add(1);
        self.me.incarnation = next.min(INCARNATION_MAX);
        self.rumors.push(self.own_rumor());
    }

    fn apply_alive(&mut self, member: Member, source: Source, now: MonoTime) {
        let Some(entry) = self.roster.get(member.node) else {
            return self.meet(member, now);
        };
        let (known, state) = (entry.member.incarnation, entry.member.state);
        if member.incarnation > known {
            self.revive(member, state, now);
        } else if member.incarnation == known && entry.described < known {
            // Somebody's suspicion of this incarnation was faster than its description.
            self.describe(member.node, member.incarnation, member.addr, member.meta);
        } else if source == Source::Feed && state == MemberState::Dead {
            // Another member holds it for alive. It has to say so itself.
            self.nudge(member.node, now);
        }
    }

    /// A node that was not known.
    fn meet(&mut self, member: Member, now: MonoTime) {
        // Whoever had this node's address before is gone.
        if self.roster.is_full() || self.has_left() || member.addr == self.me.addr {
            return;
        }
        if let Some(forgotten) = self.roster.insert(member.clone(), &mut self.rng, now) {
            self.rumors.remove(forgotten);
        }
        self.rumors.push(alive_rumor(&member));
        self.push_event(Event::Joined(member));
    }

    /// A known node renewed itself.
    fn revive(&mut self, member: Member, was: MemberState, now: MonoTime) {
        let node = member.node;
        let rumor = alive_rumor(&member);
        self.suspicions.stop(node);
        self.roster.set_state(node, MemberState::Alive, &mut self.rng, now);
        if was == MemberState::Suspect {
            self.push_event(Event::Refuted(node));
        }
        if let Some(entry) = self.roster.get_mut(node) {
            entry.member.incarnation = member.incarnation;
        }
        if was.is_live() {
            self.describe(node, member.incarnation, member.addr, member.meta);
        } else {
            self.roster.set_addr(node, member.addr);
            if let Some(entry) = self.roster.get_mut(node) {
                entry.described = member.incarnation;
                entry.direct = false;
                entry.member = member.clone();
            }
            self.push_event(Event::Joined(member));
            self.start_sync(node);
        }
        self.rumors.push(rumor);
    }

    /// Takes over what a node says of itself.
    fn describe(&mut self, node: NodeId, incarnation: u64, addr: SocketAddr, meta: Bytes) {
        let Some(before) = self.roster.get(node).map(|entry| entry.member.addr) else { return };
        self.roster.set_addr(node, addr);
        let Some(entry) = self.roster.get_mut(node) else { return };
        entry.described = incarnation;
        let changed = before != addr || entry.member.meta != meta;
        entry.member.meta = meta;
        if changed && entry.member.state.is_live() {
            let member = entry.member.clone();
            self.push_event(Event::Changed(member));
        }
    }

    fn apply_suspect(&mut self, node: NodeId, incarnation: u64, by: NodeId, now: MonoTime) {
        let Some(entry) = self.roster.get_mut(node) else { return };
        let (known, state) = (entry.member.incarnation, entry.member.state);
        let rumor = Rumor { node, incarnation, claim: Claim::Suspect { by } };
        if state == MemberState::Suspect && incarnation == known {
            if self.suspicions.confirm(node, by) {
                self.rumors.push(rumor);
            }
            return;
        }
        if !state.is_live() || incarnation < known {
            return;
        }
        entry.member.incarnation = incarnation;
        self.roster.set_state(node, MemberState::Suspect, &mut self.rng, now);
        let members = self.roster.live_count() + 1;
        self.suspicions.start(node, by, members, &self.config, now);
        self.rumors.push(rumor);
        if state == MemberState::Alive {
            self.push_event(Event::Suspected(node));
        }
    }

    /// A death or a departure.
    fn apply_end(&mut self, node: NodeId, incarnation: u64, claim: &Claim, now: MonoTime) {
        let Some(entry) = self.roster.get_mut(node) else { return };
        if incarnation < entry.member.incarnation {
            return;
        }
        entry.member.incarnation = incarnation;
        if !entry.member.state.is_live() {
            return;
        }
        let (state, event) = match claim {
            Claim::Left => (MemberState::Left, Event::Left(node)),
            _ => (MemberState::Dead, Event::Died(node)),
        };
        self.suspicions.stop(node);
        self.roster.set_state(node, state, &mut self.rng, now);
        self.rumors.push(Rumor { node, incarnation, claim: claim.clone() });
        self.push_event(event);
    }

    /// This node suspects that one itself.
    pub(super) fn suspect(&mut self, node: NodeId, now: MonoTime) {
        if let Some(incarnation) = self.incarnation_of(node) {
            self.apply_suspect(node, incarnation, self.me.node, now);
        }
    }

    pub(super) fn declare_dead(&mut self, node: NodeId, now: MonoTime) {
        if let Some(incarnation) = self.incarnation_of(node) {
            self.apply_end(node, incarnation, &Claim::Dead { by: self.me.node }, now);
        }
    }

    pub(super) fn departed(&mut self, node: NodeId, now: MonoTime) {
        if let Some(incarnation) = self.incarnation_of(node) {
            self.apply_end(node, incarnation, &Claim::Left, now);
        }
    }

    fn incarnation_of(&self, node: NodeId) -> Option<u64> {
        self.roster.get(node).map(|entry| entry.member.incarnation)
    }

    /// A node spoke for the first time from its own address: older ones that claimed it are gone, for a process start
    /// draws a new identity and no two processes hold one port.
    pub(super) fn displace_older(&mut self, node: NodeId, from: SocketAddr, now: MonoTime) {
        let Some(entry) = self.roster.get_mut(node) else { return };
        if entry.direct || entry.member.addr != from || !entry.member.state.is_live() {
            return;
        }
        entry.direct = true;
        let learned = entry.learned;
        let older = self.roster.live_at(from).filter(|other| other.learned < learned);
        let older: Vec<_> = older.map(|other| other.member.node).collect();
        for other in older {
            self.declare_dead(other, now);
        }
    }

    /// Answers a node that needs this node's description, or that must hear what is said of it.
    pub(super) fn introduce(&mut self, node: NodeId, addr: SocketAddr) {
        let own = self.own_rumor();
        self.send(addr, Some(node), &Body::Gossip, &[own]);
    }
}

pub(super) fn alive_rumor(member: &Member) -> Rumor {
    let claim = Claim::Alive { addr: member.addr, meta: member.meta.clone() };
    Rumor { node: member.node, incarnation: member.incarnation, claim }
}
