//! Failure detection: one member per interval, directly, then through others (SWIM §3 and §4; nacks and the local
//! health multiplier from Lifeguard).

use std::net::SocketAddr;

use rand::Rng;
use slotmesh_slots::{MonoTime, NodeId};

use super::Gossip;
use crate::member::MemberState;
use crate::relay::Relay;
use crate::wire::Body;

/// The probe round that runs.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) node: NodeId,
    pub(super) addr: SocketAddr,
    token: u32,
    /// When others are asked; `None` once they were.
    indirect_at: Option<MonoTime>,
    pub(super) end: MonoTime,
    helpers: Vec<NodeId>,
    nacks: Vec<NodeId>,
}

impl Gossip {
    /// When the probe timer is due; always armed, so lateness against it shows a pause.
    pub(super) fn probe_deadline(&self) -> MonoTime {
        match &self.probe {
            Some(probe) => probe.indirect_at.unwrap_or(probe.end).min(probe.end),
            None => self.next_probe,
        }
    }

    pub(super) fn probe_timer(&mut self, now: MonoTime) {
        if self.probe.as_ref().is_some_and(|p| p.indirect_at.is_some_and(|at| at <= now)) {
            self.ask_others();
        }
        if self.probe.as_ref().is_some_and(|p| p.end <= now) {
            self.probe_failed(now);
        }
        if self.probe.is_none() && self.next_probe <= now {
            self.start_probe(now);
        }
    }

    fn start_probe(&mut self, now: MonoTime) {
        self.next_probe = now + self.slowed(self.config.probe_interval);
        let Some(node) = self.roster.next_probe(&mut self.rng) else { return };
        let Some(addr) = self.roster.get(node).map(|entry| entry.member.addr) else { return };
        let token = self.new_token();
        self.probe = Some(Probe {
            node,
            addr,
            token,
            indirect_at: Some(now + self.slowed(self.config.probe_timeout)),
            end: self.next_probe,
            helpers: Vec::new(),
            nacks: Vec::new(),
        });
        self.send(addr, Some(node), &Body::Ping { token }, &[]);
    }

    fn ask_others(&mut self) {
        let Some(probe) = &mut self.probe else { return };
        probe.indirect_at = None;
        let (node, addr, token) = (probe.node, probe.addr, probe.token);
        let helpers = self.roster.pick(self.config.indirect_probes, &mut self.rng, |entry| {
            entry.member.node != node && entry.member.state == MemberState::Alive
        });
        probe.helpers = helpers.iter().map(|(helper, _)| *helper).collect();
        for (helper, helper_addr) in helpers {
            self.send(helper_addr, Some(helper), &Body::PingReq { token, node, addr }, &[]);
        }
    }

    fn probe_failed(&mut self, now: MonoTime) {
        let Some(probe) = self.probe.take() else { return };
        // Helpers that could not reach it either, and said so, show that this node's own network is fine.
        let silent = probe.helpers.len() - probe.nacks.len();
        self.health.worse(if probe.helpers.is_empty() { 1 } else { silent as u32 });
        self.suspect(probe.node, now);
        self.nudge(probe.node, now);
    }

    /// An answer: to the running probe, or to a ping sent for another member.
    pub(super) fn acked(
        &mut self,
        sender: NodeId,
        sender_addr: SocketAddr,
        token: u32,
        about: NodeId,
        now: MonoTime,
    ) {
        if sender == about
            && let Some(relay) = self.relays.answered(token, about)
        {
            self.mark_answered(about, now);
            let ack = Body::Ack { token: relay.asker_token, about };
            self.send(relay.asker_addr, Some(relay.asker), &ack, &[]);
            return;
        }
        let Some(probe) = self.probe.as_ref().filter(|probe| probe.token == token) else { return };
        let (node, addr) = (probe.node, probe.addr);
        if about == node && (sender == node || probe.helpers.contains(&sender)) {
            self.probe_succeeded(node, now);
        } else if about == sender && sender_addr == addr {
            // Another process answers at its address; its own would not have been given a new identity.
            self.probe = None;
            self.declare_dead(node, now);
        }
    }

    fn probe_succeeded(&mut self, node: NodeId, now: MonoTime) {
        self.probe = None;
        self.health.better();
        self.mark_answered(node, now);
    }

    pub(super) fn nacked(&mut self, sender: NodeId, token: u32) {
        if let Some(probe) = self.probe.as_mut().filter(|probe| probe.token == token)
            && probe.helpers.contains(&sender)
            && !probe.nacks.contains(&sender)
        {
            probe.nacks.push(sender);
        }
    }

    /// Traffic of the application proves that it lives.
    pub(super) fn replied(&mut self, node: NodeId, now: MonoTime) {
        if self.probe.as_ref().is_some_and(|probe| probe.node == node) {
            self.probe_succeeded(node, now);
        }
        self.mark_answered(node, now);
        let state = self.roster.get(node).map(|entry| entry.member.state);
        if matches!(state, Some(MemberState::Suspect | MemberState::Dead)) {
            self.nudge(node, now);
        }
    }

    fn mark_answered(&mut self, node: NodeId, now: MonoTime) {
        if let Some(entry) = self.roster.get_mut(node) {
            entry.answered = Some(now);
        }
    }

    /// Pings on behalf of a member that got no answer itself.
    pub(super) fn relay(
        &mut self,
        asker: (NodeId, SocketAddr),
        asker_token: u32,
        node: NodeId,
        addr: SocketAddr,
        now: MonoTime,
    ) {
        if node == self.me.node {
            let ack = Body::Ack { token: asker_token, about: node };
            return self.send(asker.1, Some(asker.0), &ack, &[]);
        }
        let token = self.new_token();
        let nack_at = now + self.config.probe_timeout.mul_f64(0.8);
        let until = nack_at + self.config.probe_interval;
        let (asker, asker_addr) = asker;
        let relay = Relay { asker, asker_addr, asker_token, node, nack_at, until, nacked: false };
        if self.relays.add(token, relay) {
            self.send(addr, Some(node), &Body::Ping { token }, &[]);
        }
    }

    pub(super) fn relay_timer(&mut self, now: MonoTime) {
        for relay in self.relays.expire(now) {
            let nack = Body::Nack { token: relay.asker_token };
            self.send(relay.asker_addr, Some(relay.asker), &nack, &[]);
        }
    }

    /// Pings a member outside the probe rounds, so that it hears what is said of it; at most once per probe timeout.
    pub(super) fn nudge(&mut self, node: NodeId, now: MonoTime) {
        let pause = self.config.probe_timeout;
        let Some(entry) = self.roster.get_mut(node) else { return };
        if entry.nudged.is_some_and(|at| now - at < pause)
            || entry.member.state == MemberState::Left
        {
            return;
        }
        entry.nudged = Some(now);
        let addr = entry.member.addr;
        let token = self.new_token();
        self.send(addr, Some(node), &Body::Ping { token }, &[]);
    }

    /// Keeps trying one dead member after the other: a partition may have healed. A member whose address another one
    /// took over is not tried.
    pub(super) fn down_timer(&mut self, now: MonoTime) {
        if self.next_down > now {
            return;
        }
        self.next_down = now + self.config.seed_interval.mul_f64(self.rng.random_range(0.75..1.25));
        for node in self.roster.forget_before(now.saturating_sub(self.config.dead_retention)) {
            self.rumors.remove(node);
        }
        self.down_cursor = self.down_after(self.down_cursor).or_else(|| self.down_after(None));
        if let Some(node) = self.down_cursor {
            self.nudge(node, now);
        }
    }

    fn down_after(&self, cursor: Option<NodeId>) -> Option<NodeId> {
        let mut dead = self.roster.after(cursor).filter(|e| e.member.state == MemberState::Dead);
        dead.find(|e| self.roster.live_at(e.member.addr).next().is_none()).map(|e| e.member.node)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::testing::{Network, NetworkConfig};

    /// The largest slow-down among the nodes 5 to 7 after three seconds.
    fn check(fault: impl Fn(&mut Network)) -> u32 {
        let config = NetworkConfig { loss: 0.0, check: true, ..NetworkConfig::default() };
        let mut network = Network::settled(config, 8);
        fault(&mut network);
        network.run_for(Duration::from_secs(3));
        (5..8).filter_map(|host| network.gossip(host)).map(|g| g.health.factor()).max().unwrap()
    }

    #[test]
    fn nacks_tell_a_dead_target_from_a_broken_own_network() {
        assert_eq!(check(|network| (0..2).for_each(|host| network.crash(host))), 1);
        assert!(check(|network| network.partition(7)) > 2, "a node alone doubts itself");
    }
}
