//! The engine: state, time and output. What it does with datagrams, claims and probes is in the modules below.

mod inbound;
mod merge;
mod probe;
mod sync;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slotmesh_slots::{MonoTime, NodeId};

use crate::config::GossipConfig;
use crate::error::GossipError;
use crate::health::Health;
use crate::member::{Event, Evidence, Member, MemberState, Transmit};
use crate::relay::{RELAYS_MAX, Relays};
use crate::roster::{Entry, MEMBERS_MAX, Roster};
use crate::rumor::RumorQueue;
use crate::seed::Seeds;
use crate::suspicion::Suspicions;
use crate::wire::{Body, Claim, DATAGRAM_MAX, Header, META_MAX, Packet, Rumor};
use probe::Probe;
use sync::Feeds;

/// Datagrams waiting for [`Gossip::poll_transmit`]: 4.9 MB at most. What comes on top is dropped, as a network would.
pub const TRANSMITS_MAX: usize = 4096;
/// Events waiting for [`Gossip::poll_event`]: four for each possible member. Beyond it the oldest are dropped;
/// [`Gossip::members`] is the truth.
pub const EVENTS_MAX: usize = 4 * MEMBERS_MAX;
/// Members told at once that this node leaves; rumours tell the others.
const LEAVE_FANOUT: usize = 8;

/// One node's view of the membership, and the protocol that keeps it.
///
/// See the [crate documentation](crate) for how to drive it.
#[derive(Debug)]
pub struct Gossip {
    config: GossipConfig,
    me: Member,
    rng: StdRng,
    roster: Roster,
    suspicions: Suspicions,
    rumors: RumorQueue,
    seeds: Seeds,
    feeds: Feeds,
    relays: Relays,
    health: Health,
    probe: Option<Probe>,
    next_probe: MonoTime,
    next_gossip: Option<MonoTime>,
    next_sync: MonoTime,
    next_down: MonoTime,
    /// The dead member that was probed last.
    down_cursor: Option<NodeId>,
    last_token: u32,
    /// The latest time seen: new seeds are due at once.
    last_now: MonoTime,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

impl Gossip {
    /// A node that knows nobody yet. `addr` is where others reach it, `meta` is cut to [`META_MAX`] bytes, `seed`
    /// feeds all random choices. Settings outside their usable range are moved into it (see
    /// [`GossipConfig::problems`]).
    #[must_use]
    pub fn new(
        config: GossipConfig,
        node: NodeId,
        addr: SocketAddr,
        mut meta: Bytes,
        seed: u64,
        now: MonoTime,
    ) -> Self {
        let config = config.clamped();
        let mut rng = StdRng::seed_from_u64(seed ^ node.get().rotate_left(32));
        meta.truncate(META_MAX);
        let me = Member { node, addr, incarnation: 1, state: MemberState::Alive, meta };
        let mut gossip = Self {
            next_probe: now + config.probe_interval.mul_f64(rng.random_range(0.0..1.0)),
            next_sync: now + config.sync_interval.mul_f64(rng.random_range(0.5..1.5)),
            next_down: now + config.seed_interval.mul_f64(rng.random_range(0.5..1.5)),
            next_gossip: None,
            health: Health::new(config.health_max),
            last_token: rng.random(),
            config,
            me,
            rng,
            roster: Roster::default(),
            suspicions: Suspicions::default(),
            rumors: RumorQueue::default(),
            seeds: Seeds::default(),
            feeds: Feeds::default(),
            relays: Relays::default(),
            probe: None,
            down_cursor: None,
            last_now: now,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        };
        gossip.rumors.push(gossip.own_rumor());
        gossip
    }

    /// Adds addresses to join through. Each is tried at the next timeout and then for ever, with back-off, while no
    /// living member stands for it. The node's own address and addresses beyond [`SEEDS_MAX`](crate::SEEDS_MAX) are
    /// ignored.
    pub fn add_seeds(&mut self, addrs: impl IntoIterator<Item = SocketAddr>) {
        for addr in addrs {
            if addr != self.me.addr {
                self.seeds.add(addr, self.last_now);
            }
        }
    }

    /// Replaces what this node says of itself and tells the others.
    ///
    /// # Errors
    /// When it is longer than [`META_MAX`] bytes, or this node has left; nothing changed then.
    pub fn set_meta(&mut self, meta: Bytes, now: MonoTime) -> Result<(), GossipError> {
        if meta.len() > META_MAX {
            return Err(GossipError::MetaTooLong { len: meta.len(), max: META_MAX });
        }
        if self.has_left() {
            return Err(GossipError::HasLeft);
        }
        if meta != self.me.meta {
            self.me.meta = meta;
            self.renew(self.me.incarnation);
        }
        self.finish(now);
        Ok(())
    }

    /// Announces that this node leaves, at once to a few members; call it when nothing is served any more. From then
    /// on it only spreads this news (keep driving it for about a second) and never comes back under this identity.
    pub fn leave(&mut self, now: MonoTime) {
        if self.has_left() {
            return;
        }
        self.me.state = MemberState::Left;
        self.probe = None;
        self.relays.clear();
        self.feeds.clear();
        self.rumors.push(self.own_rumor());
        for (node, addr) in self.roster.pick(LEAVE_FANOUT, &mut self.rng, |_| true) {
            self.send(addr, Some(node), &Body::Gossip, &[]);
        }
        self.finish(now);
    }

    /// Takes what the application's own traffic tells about a member. Unknown members are ignored.
    pub fn handle_evidence(&mut self, node: NodeId, evidence: Evidence, now: MonoTime) {
        if self.has_left() {
            return;
        }
        match evidence {
            Evidence::Replied => self.replied(node, now),
            Evidence::ConnectionLost | Evidence::Refused => {
                self.suspect(node, now);
                self.nudge(node, now);
            }
            Evidence::Departed => self.departed(node, now),
        }
        self.finish(now);
    }

    /// Does what is due. Hand over every datagram that already waits in the socket before calling it: an answer that
    /// was received but not read must not look like silence. When it is called later than its time by more than twice
    /// the probe timeout, this node was stopped: it restarts its probe, gives every suspect the lost time back and
    /// reports [`Event::Paused`].
    pub fn handle_timeout(&mut self, now: MonoTime) {
        if !self.has_left() {
            self.notice_pause(now);
            self.probe_timer(now);
            self.relay_timer(now);
            self.suspicion_timer(now);
            self.seed_timer(now);
            self.sync_timer(now);
            self.down_timer(now);
        }
        self.gossip_timer(now);
        self.finish(now);
    }

    /// The next datagram to send, until there is none.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next change in what this node believes, until there is none.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Gossip::handle_timeout`] is due, which changes with every input. `None` only after leaving, once
    /// everything is said.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonoTime> {
        if self.has_left() {
            return self.next_gossip;
        }
        let always = self.probe_deadline().min(self.next_sync).min(self.next_down);
        [
            self.next_gossip,
            self.relays.next_deadline(),
            self.suspicions.next_deadline(),
            self.seeds.next_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
        .map_or(Some(always), |at| Some(at.min(always)))
    }

    /// All members this node remembers except itself, by identity; dead and departed ones too until they are forgotten.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.roster.iter().map(|entry| &entry.member)
    }

    /// One member; `None` for unknown ones and for this node.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.roster.get(node).map(|entry| &entry.member)
    }

    /// This node.
    #[must_use]
    pub const fn me(&self) -> &Member {
        &self.me
    }

    /// Members believed alive (not suspect), this node included until it leaves.
    #[must_use]
    pub fn alive_count(&self) -> usize {
        let others = self.roster.live_count() - self.suspicions.len();
        others + usize::from(!self.has_left())
    }

    /// Panics when an internal rule is broken. For tests and simulators, after each input.
    pub fn check_invariants(&self) {
        self.roster.check_invariants();
        self.suspicions.check_invariants();
        self.rumors.check_invariants();
        assert!(self.roster.get(self.me.node).is_none(), "a node is no member of its own roster");
        assert!(matches!(self.me.state, MemberState::Alive | MemberState::Left), "own state");
        assert!(self.me.meta.len() <= META_MAX, "own metadata is bounded");
        let suspects = self.roster.iter().filter(|e| e.member.state == MemberState::Suspect);
        assert!(suspects.map(|e| e.member.node).eq(self.suspicions.nodes()), "a timer per suspect");
        let known = |node| node == self.me.node || self.roster.get(node).is_some();
        assert!(self.rumors.nodes().all(known), "rumours are about known nodes");
        assert!(self.transmits.len() <= TRANSMITS_MAX, "transmits are bounded");
        assert!(self.transmits.iter().all(|t| t.bytes.len() <= DATAGRAM_MAX), "datagrams fit");
        assert!(self.events.len() <= EVENTS_MAX, "events are bounded");
        assert!(self.relays.len() <= RELAYS_MAX, "relays are bounded");
        self.feeds.check_invariants();
        for member in self.members() {
            assert!(member.meta.len() <= META_MAX, "metadata is bounded");
        }
    }

    fn has_left(&self) -> bool {
        self.me.state == MemberState::Left
    }

    fn notice_pause(&mut self, now: MonoTime) {
        let late = now - self.probe_deadline();
        if late <= 2 * self.config.probe_timeout {
            return;
        }
        self.probe = None;
        self.next_probe = now + self.config.probe_timeout;
        self.relays.clear();
        self.suspicions.shift(late);
        self.health.worse(1);
        self.push_event(Event::Paused(late));
    }

    fn suspicion_timer(&mut self, now: MonoTime) {
        while let Some((node, started)) = self.suspicions.expired(now) {
            let Some(entry) = self.roster.get(node) else { return };
            let recently = now.saturating_sub(2 * self.config.probe_interval);
            if entry.answered.is_some_and(|at| at > recently) {
                // It talks to us, so the suspicion is somebody else's and its refutation on the way.
                self.suspicions.postpone(node, now + self.config.probe_interval);
                self.nudge(node, now);
            } else if entry.nudged.is_none_or(|at| at < started) {
                // Its refutation may have missed this node alone: it gets a last word.
                self.suspicions.postpone(node, now + self.slowed(self.config.probe_timeout));
                self.nudge(node, now);
            } else {
                self.declare_dead(node, now);
            }
        }
    }

    fn gossip_timer(&mut self, now: MonoTime) {
        if self.next_gossip.is_none_or(|at| at > now) {
            return;
        }
        self.next_gossip = None;
        let fanout = self.config.gossip_fanout;
        for (node, addr) in self.roster.pick(fanout, &mut self.rng, |_| true) {
            if self.rumors.is_empty() {
                break;
            }
            self.send(addr, Some(node), &Body::Gossip, &[]);
        }
        self.feeds.next_tick();
        self.pump_feeds();
        if self.has_news() {
            self.next_gossip = Some(now + self.config.gossip_interval);
        }
    }

    /// Ends every input: the first news waits only a moment for company, at another one on each node.
    fn finish(&mut self, now: MonoTime) {
        self.last_now = now;
        if self.next_gossip.is_none() && self.has_news() {
            let share = self.rng.random_range(0.05..0.5);
            self.next_gossip = Some(now + self.config.gossip_interval.mul_f64(share));
        }
    }

    fn has_news(&self) -> bool {
        !self.feeds.is_empty() || (!self.rumors.is_empty() && self.roster.live_count() > 0)
    }

    /// Sends a datagram: `first`, then what the receiver should know about itself, then news as far as it fits.
    fn send(&mut self, to: SocketAddr, target: Option<NodeId>, body: &Body, first: &[Rumor]) {
        let mut packet = Packet::new(&self.header(target), body);
        for rumor in first {
            packet.push(rumor);
        }
        if let Some(buddy) = target.and_then(|node| self.buddy_rumor(node)) {
            packet.push(&buddy);
        }
        self.rumors.fill(&mut packet, self.retransmits());
        self.push_transmit(to, packet.finish());
    }

    fn header(&self, target: Option<NodeId>) -> Header {
        Header {
            sender: self.me.node,
            incarnation: self.me.incarnation,
            addr: self.me.addr,
            target,
            want_self: target.is_some_and(|node| self.wants(node)),
            leaving: self.has_left(),
        }
    }

    /// Whether this node lacks the current description of that one.
    fn wants(&self, node: NodeId) -> bool {
        match self.roster.get(node) {
            Some(entry) => entry.announced > entry.described,
            None => !self.roster.is_full() && !self.has_left(),
        }
    }

    /// The suspicion or death of the receiver itself, so that it can refute (Lifeguard, "buddy system").
    fn buddy_rumor(&self, node: NodeId) -> Option<Rumor> {
        let Entry { member, .. } = self.roster.get(node)?;
        let claim = match member.state {
            MemberState::Suspect => Claim::Suspect { by: self.me.node },
            MemberState::Dead => Claim::Dead { by: self.me.node },
            // One that has left ignores it; one that has not did not know that somebody says so.
            MemberState::Left => Claim::Left,
            MemberState::Alive => return None,
        };
        Some(Rumor { node, incarnation: member.incarnation, claim })
    }

    fn own_rumor(&self) -> Rumor {
        let claim = if self.has_left() {
            Claim::Left
        } else {
            Claim::Alive { addr: self.me.addr, meta: self.me.meta.clone() }
        };
        Rumor { node: self.me.node, incarnation: self.me.incarnation, claim }
    }

    /// How often each rumour is sent (SWIM §5: a multiple of log N reaches everybody with high probability). Below ten
    /// members one multiple alone missed a node in one of seven runs.
    fn retransmits(&self) -> u32 {
        let members = self.roster.live_count() + 2;
        self.config.retransmit_multiplier * ((members as f64).log10().ceil() as u32).max(2)
    }

    fn new_token(&mut self) -> u32 {
        // Zero means "no question".
        self.last_token = self.last_token.checked_add(1).unwrap_or(1);
        self.last_token
    }

    fn push_transmit(&mut self, to: SocketAddr, bytes: Bytes) {
        if self.transmits.len() < TRANSMITS_MAX {
            self.transmits.push_back(Transmit { to, bytes });
        }
    }

    fn push_event(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn slowed(&self, interval: Duration) -> Duration {
        interval * self.health.factor()
    }
}
