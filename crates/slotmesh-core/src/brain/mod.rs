//! The deciding half of a node: membership, founding, leases, and on the leader the failovers and the placement.
//!
//! Sans-IO: inputs come by `handle_*`, outputs go by [`Brain::poll_output`], time is an argument. The brain owns the
//! node's view of the cluster state and pushes it, with the lease, into the [`DataPlane`], which serves requests on other
//! threads and never asks back.

mod evidence;
mod founding;
mod history;
mod leader;
mod lease;
mod leaving;
mod output;
mod placing;
mod reach;
mod reform;
mod reign;
mod seeds;
#[cfg(test)]
mod testing;
mod voters;

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use slotmesh_control::log::LogStatus;
use slotmesh_control::{
    ClusterDelta, ClusterState, Command, Founding, LoadFloor, Member, NodeInfo, Reform, Reforming,
};
use slotmesh_gossip::{Gossip, GossipConfig};
use slotmesh_slots::{Generation, MonoTime, NodeId};

use self::evidence::Peers;
use self::history::History;
use self::leader::Leader;
use self::lease::LeaseClient;
pub use self::output::{NodeEvent, Output};
pub use self::reform::ReformError;
use self::seeds::Seeds;
use crate::data::{DataEvent, DataPlane};
use crate::message::{Envelope, Message, Meta};
use crate::wire::{self, WireError};

/// How often the brain looks at everything that has no timer of its own.
const TICK: Duration = Duration::from_millis(50);

/// Copies that become complete one after the other are reported together, so often at most. While a node is filled some
/// thousand do a second; a decision for each kept all control threads busy and left the planner no turn. Nobody waits for them.
const GROWS_INTERVAL: Duration = Duration::from_millis(10);

/// How a node takes part in its cluster.
#[derive(Clone, Debug)]
pub struct BrainConfig {
    /// What this node tells about itself.
    pub info: NodeInfo,
    /// Control endpoints of other nodes to begin with; its own may be among them.
    pub seeds: Vec<SocketAddr>,
    /// Found a cluster only when this many candidates see each other; more than half of the nodes meant to start.
    pub expect: u16,
    /// Copies beside the primary that a new cluster wants.
    pub replicas: u8,
    /// Timing of the membership protocol.
    pub gossip: GossipConfig,
    /// Whether a refused connection to a node's guard port proves its death, instead of merely confirming it. Only
    /// where nothing but the node itself can refuse: no proxy, no firewall that rejects.
    pub refused_is_death: bool,
    /// How long lost copies are waited for before they are made again elsewhere, where nothing proves that their node is dead.
    /// That of the node that leads counts.
    pub recopy_after: Duration,
    /// Differences in load that are not worth moving slots for. That of the node that leads counts.
    pub load_floor: LoadFloor,
    /// What becomes of the cluster when the majority of its voters is lost.
    pub reform: Reform,
    /// How long a reform waits for the leases of the old generation: [`slotmesh_control::LEASES_OVER_AFTER`]. Less is a
    /// mistake that the simulator makes on purpose.
    pub reform_wait: Duration,
}

/// One node's brain.
pub struct Brain {
    me: NodeId,
    config: BrainConfig,
    data: Arc<DataPlane>,
    gossip: Gossip,
    peers: Peers,
    seeds: Seeds,
    founding: Founding,
    generation: Option<Generation>,
    log_generation: Option<Generation>,
    view: ClusterState,
    history: History,
    log: LogStatus,
    elections: bool,
    /// Whether this node begins the log that it takes part in, and so founds or reforms its generation.
    begins_log: bool,
    lease: LeaseClient,
    reforming: Reforming,
    /// The first command of the log that this node begins anew.
    reform_command: Option<Bytes>,
    /// Who voted in this generation, as far as this node knows.
    known_voters: Vec<NodeId>,
    leader: Option<Leader>,
    /// The beginning of this node's reign, if another one leads since.
    overtaken: Option<MonoTime>,
    leaving: bool,
    left: bool,
    /// When the last other member that could take this node's slots was struck although nobody had drained it.
    heir_lost: Option<MonoTime>,
    /// When a node that has left, and votes still, saw one last that stays.
    stayers_seen: Option<MonoTime>,
    waiting_said: Option<usize>,
    /// Since when nothing comes of the cluster that this node founds, or nobody of the one that it joins is heard of.
    in_vain_since: Option<MonoTime>,
    rng: StdRng,
    next_tick: MonoTime,
    /// Copies that are complete and not reported yet, and when the next report may go.
    grows: Vec<Command>,
    next_grows: MonoTime,
    outputs: VecDeque<Output>,
}

impl Brain {
    /// A node that begins to look for its cluster. `seed` feeds its random choices; equal seeds and inputs give equal
    /// outputs.
    #[must_use]
    pub fn new(
        me: NodeId,
        config: BrainConfig,
        data: Arc<DataPlane>,
        seed: u64,
        now: MonoTime,
    ) -> Self {
        let meta = wire::encode(&Meta { info: config.info.clone(), generation: None });
        let control = config.info.control;
        let mut gossip = Gossip::new(config.gossip.clone(), me, control, meta, seed, now);
        gossip.add_seeds(config.seeds.iter().copied());
        Self {
            me,
            seeds: Seeds::new(&config.seeds, control, now),
            founding: Founding::new(me, config.expect),
            reforming: Reforming::new(me, config.reform_wait),
            config,
            data,
            gossip,
            peers: Peers::default(),
            generation: None,
            log_generation: None,
            view: ClusterState::new(),
            history: History::default(),
            log: LogStatus::default(),
            elections: true,
            begins_log: false,
            lease: LeaseClient::starting(now),
            reform_command: None,
            known_voters: Vec::new(),
            leader: None,
            leaving: false,
            left: false,
            heir_lost: None,
            overtaken: None,
            stayers_seen: None,
            waiting_said: None,
            in_vain_since: None,
            rng: StdRng::seed_from_u64(seed),
            next_tick: now,
            grows: Vec::new(),
            next_grows: now,
            outputs: VecDeque::new(),
        }
    }

    /// This node's identity.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.me
    }

    /// The cluster state as this node knows it.
    #[must_use]
    pub const fn view(&self) -> &ClusterState {
        &self.view
    }

    /// The generation this node belongs to, if it found one.
    #[must_use]
    pub const fn generation(&self) -> Option<Generation> {
        self.generation
    }

    /// Whether this node leads the control plane, knows everything committed before, and may decide.
    #[must_use]
    pub const fn is_leading(&self) -> bool {
        self.leader.is_some()
    }

    /// Who leads the control plane, as far as this node has heard.
    #[must_use]
    pub fn known_leader(&self) -> Option<NodeId> {
        if self.is_leading() { Some(self.me) } else { self.lease.leader() }
    }

    /// Members that gossip finds alive, this node not counted.
    #[must_use]
    pub fn alive_peers(&self) -> usize {
        self.peers.alive().count()
    }

    /// Whether this node has left the cluster after [`Brain::leave`].
    #[must_use]
    pub const fn has_left(&self) -> bool {
        self.left
    }

    /// Whether a node of another generation of this cluster name was heard of in the last 45 s: an operator has to look.
    #[must_use]
    pub fn met_other_generation(&self) -> bool {
        self.peers.met_other_generation(self.generation)
    }

    /// A gossip datagram arrived. Malformed ones are dropped.
    pub fn handle_datagram(&mut self, from: SocketAddr, body: &[u8], now: MonoTime) {
        // Its error is the sender's trouble and counted by gossip; nothing changed here.
        let _malformed = self.gossip.handle_datagram(from, body, now).is_err();
        self.drain_gossip(now);
    }

    /// A control message arrived from this authenticated peer.
    ///
    /// # Errors
    /// When it is malformed or of another version; nothing changed.
    pub fn handle_message(
        &mut self,
        from: NodeId,
        body: &[u8],
        now: MonoTime,
    ) -> Result<(), WireError> {
        let Envelope { generation, message } = wire::decode(body)?;
        if let (Some(ours), Some(theirs)) = (self.generation, generation)
            && ours != theirs
        {
            self.meet_generation(Some(from), theirs, now);
            if self.generation != Some(theirs) {
                self.refuse_generation(from, ours, theirs);
                return Ok(());
            }
        }
        let ours = self.generation.is_some() && self.generation == generation;
        match message {
            Message::FoundAsk(asked) => self.handle_found_ask(from, asked, now),
            Message::FoundPromise(asked) => self.handle_found_promise(from, asked),
            Message::FoundRelease(asked) => self.founding.handle_release(from, asked),
            Message::ReformAsk { generation, version } if ours => {
                self.handle_reform_ask(from, generation, version, now);
            }
            Message::ReformPromise { generation, deltas } if ours => {
                self.handle_reform_promise(from, generation, &deltas, now);
            }
            Message::ReformRelease(generation) if ours => {
                self.handle_reform_release(from, generation);
            }
            Message::Ping(ping) if ours => self.handle_ping(from, ping, now),
            Message::Pong(pong) if ours => self.handle_pong(from, pong, now),
            // Who promised a reform has told how far it knows the old log, and learns no more of it.
            Message::Update(delta) if ours && !self.reforming.has_left_log() => {
                self.learn([&delta], now);
            }
            Message::Promise(claims) if ours => {
                let promised = self.data.promise(&claims);
                self.send(from, Message::Promised(promised));
            }
            Message::Promised(promised) if ours => {
                if let Some(leader) = &mut self.leader {
                    leader.handle_promised(from, &promised);
                }
                self.lead(now);
            }
            Message::Loads(report) if ours => self.handle_loads(from, &report),
            Message::Request(command) if ours => self.handle_request(from, &command),
            // Only members of our generation may speak of it.
            _ => {}
        }
        Ok(())
    }

    fn refuse_generation(&mut self, from: NodeId, ours: Generation, theirs: Generation) {
        if ours.supersedes(theirs) {
            self.send(from, Message::Reformed);
        } else if !self.left {
            self.peers.note_generation(from, Some(theirs));
        }
    }

    /// The log applied commands; the deltas come in order, each once, or a full one after a snapshot.
    pub fn handle_applied(&mut self, delta: &ClusterDelta, now: MonoTime) {
        if let Some(generation) = delta.generation
            && self.generation != Some(generation)
        {
            if self.log_generation != Some(generation) {
                // Of a log that this node has left.
                return;
            }
            self.adopt(generation, now);
        }
        self.advance(delta, now);
        if self.leader.is_some() {
            let members: Vec<NodeId> = self.view.members().keys().copied().collect();
            self.send_all(members, Message::Update(delta.clone()));
            self.lead(now);
        }
    }

    /// A proposal ended, successfully or not.
    pub fn handle_proposed(&mut self, now: MonoTime) {
        if let Some(leader) = &mut self.leader {
            leader.proposal_ended();
        }
        self.lead(now);
    }

    /// A change of voters ended, successfully or not.
    pub fn handle_voters_set(&mut self, now: MonoTime) {
        if let Some(leader) = &mut self.leader {
            leader.voters_set(now);
        }
    }

    /// What the guard port of a node answered: refused, or anything else.
    pub fn handle_guard(&mut self, node: NodeId, refused: bool, now: MonoTime) {
        self.peers.guard_answered(node, refused, now);
        if refused {
            self.gossip.handle_evidence(node, slotmesh_gossip::Evidence::Refused, now);
            self.data.give_up_replica(node, now);
            if self.config.refused_is_death {
                self.peers.prove_death(node);
            }
        }
        self.lead(now);
    }

    /// A connection to the node broke; `departed` when it said that it leaves.
    pub fn handle_disconnect(&mut self, node: NodeId, departed: bool, now: MonoTime) {
        use slotmesh_gossip::Evidence;
        let evidence = if departed { Evidence::Departed } else { Evidence::ConnectionLost };
        self.gossip.handle_evidence(node, evidence, now);
        self.peers.forget_host(node);
        if departed {
            self.peers.prove_death(node);
        }
        self.drain_gossip(now);
    }

    /// The data plane has events; see [`DataPlane::poll_event`].
    pub fn handle_data(&mut self, now: MonoTime) {
        let mut requests = std::mem::take(&mut self.grows);
        while let Some(event) = self.data.poll_event() {
            self.merge(&mut requests, event);
        }
        let due = now >= self.next_grows;
        for command in requests {
            if matches!(command, Command::Grow { .. }) {
                if !due {
                    self.grows.push(command);
                    continue;
                }
                self.next_grows = now + GROWS_INTERVAL;
            }
            self.request(command, now);
        }
    }

    /// Begins to leave: slots are given away first. Repeats by itself until [`Brain::has_left`].
    pub fn leave(&mut self, now: MonoTime) {
        self.leaving = true;
        self.tick_leave(now);
    }

    /// Whether this node gives its slots away, because of [`Brain::leave`] or because it was decided so.
    #[must_use]
    pub const fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Time has come; see [`Brain::poll_timeout`].
    pub fn handle_timeout(&mut self, now: MonoTime) {
        if self.gossip.poll_timeout().is_some_and(|at| at <= now) {
            self.gossip.handle_timeout(now);
        }
        self.drain_gossip(now);
        if !self.grows.is_empty() && now >= self.next_grows {
            self.handle_data(now);
        }
        if now < self.next_tick {
            return self.lead(now);
        }
        self.next_tick = now + TICK;
        self.data.handle_timeout(now);
        self.peers.tick_strangers();
        if self.generation.is_none() {
            self.tick_founding(now);
        } else {
            self.tick_joining(now);
            self.tick_lease(now);
        }
        self.tick_loads();
        self.tick_reform(now);
        self.gate_elections();
        self.handle_data(now);
        self.tick_leave(now);
        self.lead(now);
    }

    /// When [`Brain::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> MonoTime {
        let grows = (!self.grows.is_empty()).then_some(self.next_grows);
        let leader = self.leader.as_ref().and_then(Leader::deadline);
        let others = [self.gossip.poll_timeout(), leader, grows];
        others.into_iter().flatten().fold(self.next_tick, MonoTime::min)
    }

    /// The next thing to do, until there is none.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(transmit) = self.gossip.poll_transmit() {
            return Some(Output::Datagram { to: transmit.to, body: transmit.bytes });
        }
        self.outputs.pop_front()
    }

    /// Panics when an invariant does not hold; for tests and the simulator.
    pub fn check_invariants(&self) {
        self.view.check_invariants();
        self.gossip.check_invariants();
    }

    /// Takes over a committed delta if it fits and tells the data plane.
    fn advance(&mut self, delta: &ClusterDelta, now: MonoTime) {
        let before: BTreeSet<NodeId> = self.view.members().keys().copied().collect();
        let heirs: Vec<NodeId> = self.view.heirs(self.me).collect();
        self.observe_absences(delta, now);
        if !self.view.advance(delta) {
            return;
        }
        self.see_heirs(&heirs, now);
        let lost = delta.lost_slots;
        for (node, member) in &delta.members {
            match member {
                Some(_) if !before.contains(node) => self.event(NodeEvent::MemberAdded(*node)),
                None => self.event(NodeEvent::MemberRemoved(*node)),
                Some(_) => {}
            }
        }
        if lost > 0 && !delta.table.changes.is_empty() && self.data.note_lost_slots(lost) {
            self.event(NodeEvent::SlotsLost(lost));
        }
        if !before.contains(&self.me) && self.view.members().contains_key(&self.me) {
            self.tell_generation(now);
            self.ask_for_lease(now);
        }
        self.history.push(delta.clone());
        self.data.apply_view(&self.view, delta, now);
        self.see_own_loss(now);
        // Whoever is drained by others must not join again once it is struck.
        self.leaving |= self.view.members().get(&self.me).is_some_and(Member::is_draining);
        self.lease.applied(self.view.version(), &self.data);
        // A slot that froze just now is mostly ready at once, and its callers wait.
        self.handle_data(now);
        if before.contains(&self.me) && !self.view.members().contains_key(&self.me) {
            self.tick_leave(now);
        }
    }

    /// Whether the view is that of a reform, and whether it was one without this node.
    fn see_own_loss(&mut self, now: MonoTime) {
        let Some(generation) = self.view.generation().filter(|g| Some(*g) == self.generation)
        else {
            return;
        };
        if self.reforming.bound_to() == Some(generation) && !self.reforming.is_founding() {
            self.end_reform();
        }
        if self.view.members().get(&self.me).is_some_and(Member::is_lost) {
            self.give_up(generation, now);
        }
    }

    /// What a node at `version` lacks, in order.
    fn deltas_since(&self, version: u64) -> Vec<ClusterDelta> {
        if version >= self.view.version() {
            return Vec::new();
        }
        self.history.since(version).unwrap_or_else(|| vec![self.view.full_delta()])
    }

    /// Has the leader propose the command; repeated by whoever wants it until the table shows it.
    fn request(&mut self, command: Command, _now: MonoTime) {
        if self.leader.is_some() {
            self.handle_request(self.me, &command);
        } else if let Some(leader) = self.lease.leader() {
            self.send(leader, Message::Request(command));
        }
    }

    fn handle_request(&mut self, from: NodeId, command: &Command) {
        // The log of a reformed cluster has a leader before there is a state to lead with.
        let begins = matches!(command, Command::Reform { .. });
        if begins && self.leader.is_none() && self.log.is_leader && self.log.caught_up {
            return self.outputs.push_back(Output::Propose(wire::encode(command)));
        }
        if let Some(leader) = &mut self.leader {
            let body = wire::encode(command);
            if !leader.is_doubtful(from, command) && leader.proposal_begins() {
                self.outputs.push_back(Output::Propose(body));
            }
        }
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.send_all([to], message);
    }

    /// Encodes the message once for all of them that are another node and have an address.
    fn send_all(&mut self, nodes: impl IntoIterator<Item = NodeId>, message: Message) {
        let others = nodes.into_iter().filter(|&node| node != self.me);
        let to: Vec<_> = others.filter_map(|node| Some((node, self.addr_of(node)?))).collect();
        if to.is_empty() {
            return;
        }
        let body = wire::encode(&Envelope { generation: self.generation, message });
        for (to, addr) in to {
            self.outputs.push_back(Output::Send { to, addr, body: body.clone() });
        }
    }

    fn addr_of(&self, node: NodeId) -> Option<SocketAddr> {
        let decided = self.view.members().get(&node).map(|member| member.info.control);
        self.peers.addr(node).or(decided)
    }

    fn event(&mut self, event: NodeEvent) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Turns a data plane event into a command, slots that want the same together.
    fn merge(&self, requests: &mut Vec<Command>, event: DataEvent) {
        let mut command = event.command(self.me, self.view.table());
        if !requests.iter_mut().any(|request| request.absorb(&mut command)) {
            requests.push(command);
        }
    }
}
