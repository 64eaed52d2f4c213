//! Three real data planes, the links between them and the majority that decides, as a system that moves one action at a
//! time.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use slotmesh_control::{ClusterState, Command, LEASE, NodeInfo};
use slotmesh_core::DataConfig;
use slotmesh_slots::{Generation, MonoTime, NodeId, Slot};

use super::clients::Clients;
use super::decider::Decider;
use super::node::{Input, Node, SharedClock, Wishes};
use super::scope::{Cut, Prelude, Scope};
use super::way::{Item, Way};

pub(super) const NODES: usize = 3;

/// The place of the majority, beside the nodes.
pub(super) const DECIDER: usize = NODES;

/// The only key.
pub(super) const KEY: &[u8] = b"k";

/// How far time goes at once: a node that is granted nothing has its lease for one such step and may be failed over after
/// two; a replica is silent after one.
pub(super) const TICK: Duration = Duration::from_millis(450);

/// When it begins.
const START: MonoTime = MonoTime::from_micros(10_000_000);

/// Actions of a prelude's step; more is a loop.
const SETTLE_MAX: usize = 200;

/// Something that may happen next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Action {
    /// What is first on the way from a primary to a replica arrives.
    Down(usize, usize),
    /// And from a replica to its primary.
    Up(usize, usize),
    /// The primary connects to the replica.
    Dial(usize, usize),
    /// The node hears of the next change of the table.
    Learn(usize),
    /// The proposal is committed.
    Commit(u64),
    /// The survivor is asked for its promise, and its answer arrives if anything can.
    Promise(usize),
    /// The takeover is proposed.
    Decide,
    /// A client writes at the node.
    Write(usize),
    /// The planner proposes.
    Plan,
    /// The move that is under way is to be aborted.
    Abort,
    /// The failover of the primary begins.
    TakeOver,
    /// Time goes on; whoever reaches the majority has its lease renewed.
    Tick,
    /// Another one of the majority leads it.
    Elect,
    Break(usize, usize),
    Crash(usize),
    Cut(usize),
    Heal,
}

impl Action {
    /// Whose turn it usually is: what is on its way, then time, then what was put off. Faults are never usual.
    pub(super) fn turn(self, put_off: bool) -> u8 {
        match self {
            Self::Tick => 1,
            Self::Elect | Self::Break(..) | Self::Crash(_) | Self::Cut(_) | Self::Heal => 3,
            _ if put_off => 2,
            _ => 0,
        }
    }
}

/// What happened of that which may happen only so often.
#[derive(Clone, Copy, Default, Hash, Debug)]
struct Spent {
    ticks: u8,
    takeovers: u8,
    plans: u8,
    breaks: u8,
    crashed: bool,
    aborted: bool,
    elected: bool,
    cut: bool,
}

pub(super) struct Cluster<'a> {
    scope: &'a Scope,
    now: MonoTime,
    clock: Arc<SharedClock>,
    pub(super) nodes: Vec<Option<Node>>,
    pub(super) ways: BTreeMap<(usize, usize), Way>,
    pub(super) decider: Decider,
    pub(super) clients: Clients,
    cut: Option<Cut>,
    spent: Spent,
}

impl<'a> Cluster<'a> {
    /// The start of the scope.
    pub(super) fn start(scope: &'a Scope) -> Self {
        let clock = Arc::new(SharedClock::new(START));
        let base = founded();
        let mut config = DataConfig { log_bytes: scope.log_bytes, ..DataConfig::default() };
        config.store.log_bytes = scope.log_bytes;
        config.store.hash_seed = Some(0);
        // Heartbeats would only be more messages: whoever says nothing for a while is silent.
        config.replication.heartbeat = TICK * 100;
        config.replication.resting_heartbeat = TICK * 100;
        let fresh = |at| Node::new(node(at), base.clone(), Arc::clone(&clock), config.clone());
        let mut cluster = Self {
            scope,
            now: START,
            nodes: (0..NODES).map(|at| (at < scope.nodes).then(|| fresh(at))).collect(),
            clock: Arc::clone(&clock),
            ways: BTreeMap::new(),
            decider: Decider::new(base.clone()),
            clients: Clients::default(),
            cut: None,
            spent: Spent::default(),
        };
        cluster.renew();
        scope.prelude.iter().for_each(|step| cluster.prepare(step));
        cluster.spent = Spent::default();
        cluster
    }

    fn prepare(&mut self, step: &Prelude) {
        match step {
            Prelude::Commit(command) => {
                self.decider.propose(command.clone());
                self.commit_all();
            }
            Prelude::Settle => self.settle(),
            Prelude::Write => {
                let serving = (0..NODES).find(|&at| self.serves(at));
                let at = serving.unwrap_or_else(|| panic!("nobody serves at the start"));
                self.write(at);
                self.settle();
            }
            Prelude::Cut(cut) => self.cut = Some(*cut),
            Prelude::Heal => self.cut = None,
            Prelude::TakeOver => {
                while self.decider.lapsed(slot(), self.now).is_none() {
                    self.tick();
                    self.decider.proposals.clear();
                }
                self.take(Action::TakeOver);
                (0..NODES).for_each(|at| self.take(Action::Promise(at)));
                self.take(Action::Decide);
                self.commit_all();
                self.settle();
            }
        }
    }

    fn commit_all(&mut self) {
        while let Some((&proposal, _)) = self.decider.proposals.first_key_value() {
            self.take(Action::Commit(proposal));
        }
    }

    /// Lets all arrive that is on its way.
    fn settle(&mut self) {
        for _ in 0..SETTLE_MAX {
            let prompt = |action: &Action| {
                matches!(
                    action,
                    Action::Down(..) | Action::Up(..) | Action::Dial(..) | Action::Learn(_)
                )
            };
            let Some(action) = self.enabled().into_iter().find(prompt) else { return };
            self.take(action);
        }
        panic!("the start of {} never comes to rest", self.scope.name);
    }

    /// What may happen now; the usual first: messages, decisions, clients, time, faults.
    pub(super) fn enabled(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (&(primary, replica), way) in &self.ways {
            if self.arrives(way.down.front(), primary, replica) {
                actions.push(Action::Down(primary, replica));
            }
            if self.arrives(way.up.front(), replica, primary) {
                actions.push(Action::Up(primary, replica));
            }
        }
        for (at, node) in self.present() {
            if !node.unseen.is_empty() && self.is_open(DECIDER, at) {
                actions.push(Action::Learn(at));
            }
            for replica in node.data.replicas_wanted() {
                let to = place(replica);
                let idle = self.ways.get(&(at, to)).is_none_or(Way::may_dial);
                if idle && self.nodes[to].is_some() && self.is_linked(at, to) {
                    actions.push(Action::Dial(at, to));
                }
            }
        }
        self.decisions(&mut actions);
        if self.clients.writes() < self.scope.writes + self.written_before() {
            actions.extend(self.serving().map(Action::Write));
        }
        self.faults(&mut actions);
        actions
    }

    fn decisions(&self, actions: &mut Vec<Action>) {
        actions.extend(self.decider.proposals.keys().map(|&proposal| Action::Commit(proposal)));
        if let Some(takeover) = &self.decider.takeover {
            let asked = takeover.asked.keys().map(|&node| place(node));
            let hears = |at: &usize| self.nodes[*at].is_some() && self.is_open(DECIDER, *at);
            actions.extend(asked.filter(hears).map(Action::Promise));
        }
        if self.decider.may_decide(self.now) {
            actions.push(Action::Decide);
        }
        let free = self.spent.takeovers < self.scope.takeovers;
        if free && self.decider.lapsed(slot(), self.now).is_some() {
            actions.push(Action::TakeOver);
        }
        if self.spent.plans < self.scope.plans && !self.decider.plan(self.now).is_empty() {
            actions.push(Action::Plan);
        }
        let moving = self.decider.state.table().slot(slot()).moving_to.is_some();
        if self.scope.aborts && !self.spent.aborted && moving {
            actions.push(Action::Abort);
        }
    }

    fn faults(&self, actions: &mut Vec<Action>) {
        if self.spent.ticks < self.scope.ticks {
            actions.push(Action::Tick);
        }
        if self.cut.is_some() && self.spent.cut {
            actions.push(Action::Heal);
        }
        if self.scope.elects && !self.spent.elected {
            actions.push(Action::Elect);
        }
        for (&(a, b), way) in &self.ways {
            let stuck = !self.is_linked(a, b) || self.scope.cuts.is_empty();
            if way.open && stuck && self.spent.breaks < self.scope.breaks {
                actions.push(Action::Break(a, b));
            }
        }
        if !self.spent.crashed {
            let may = |at: &&usize| self.may_crash(**at);
            actions.extend(self.scope.crashes.iter().filter(may).map(|&at| Action::Crash(at)));
        }
        if !self.spent.cut {
            actions.extend((0..self.scope.cuts.len()).map(Action::Cut));
        }
    }

    /// What an action reads or changes, a bit for each node, one for the decider and one for what clients see. Two that share
    /// nothing may change places.
    pub(super) fn footprint(&self, action: Action) -> u8 {
        const DECIDES: u8 = 1 << DECIDER;
        const SEEN: u8 = 1 << (DECIDER + 1);
        let at = |at: usize| 1u8 << at;
        let primary = |place: usize| {
            let answers = self.nodes[place].as_ref().is_some_and(|it| it.turns_primary(slot()));
            at(place) | if answers { DECIDES | SEEN } else { 0 }
        };
        match action {
            Action::Down(_, replica) => primary(replica),
            Action::Up(place, _) => at(place) | DECIDES | SEEN,
            Action::Dial(a, b) | Action::Break(a, b) => at(a) | at(b),
            Action::Learn(place) => primary(place),
            Action::Promise(place) => primary(place) | DECIDES,
            Action::Commit(_) | Action::Decide | Action::Plan | Action::Abort => DECIDES,
            Action::TakeOver | Action::Elect => DECIDES,
            Action::Write(place) => at(place) | DECIDES | SEEN,
            Action::Tick | Action::Crash(_) | Action::Cut(_) | Action::Heal => u8::MAX,
        }
    }

    pub(super) fn take(&mut self, action: Action) {
        match action {
            Action::Down(primary, replica) => self.arrive_down(primary, replica),
            Action::Up(primary, replica) => self.arrive_up(primary, replica),
            Action::Dial(primary, replica) => {
                self.ways.entry((primary, replica)).or_default().dial();
            }
            Action::Learn(at) => self.input(at, Input::Learn),
            Action::Commit(proposal) => {
                if let Some(delta) = self.decider.commit(proposal) {
                    for node in self.nodes.iter_mut().flatten() {
                        node.unseen.push_back(Arc::clone(&delta));
                    }
                }
            }
            Action::Promise(at) => self.promise(at),
            Action::Decide => self.decider.decide(),
            Action::Write(at) => self.write(at),
            Action::Plan => {
                self.spent.plans += 1;
                let commands = self.decider.plan(self.now);
                commands.into_iter().for_each(|command| self.decider.propose(command));
            }
            Action::Abort => {
                self.spent.aborted = true;
                let claims = vec![(slot(), self.decider.state.table().slot(slot()).epoch)];
                self.decider.propose(Command::AbortMove { claims });
            }
            Action::TakeOver => {
                self.spent.takeovers += 1;
                if let Some(node) = self.decider.lapsed(slot(), self.now) {
                    self.decider.start_takeover(node, self.now);
                }
            }
            Action::Tick => self.tick(),
            Action::Elect => {
                self.spent.elected = true;
                self.decider.elect(self.now);
            }
            Action::Break(primary, replica) => {
                self.spent.breaks += 1;
                self.ways.entry((primary, replica)).or_default().break_off();
            }
            Action::Crash(at) => {
                self.spent.crashed = true;
                self.nodes[at] = None;
                let ends = |((a, b), way): ((usize, usize), &mut Way)| {
                    if a == at || b == at {
                        way.end();
                    }
                };
                self.ways.iter_mut().map(|(pair, way)| (*pair, way)).for_each(ends);
            }
            Action::Cut(index) => {
                self.spent.cut = true;
                self.cut = self.scope.cuts.get(index).copied();
            }
            Action::Heal => self.cut = None,
        }
        self.read();
    }

    /// Equal for two clusters that everything that follows is equal for.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.now.as_micros(), self.cut, self.spent, &self.ways).hash(&mut hasher);
        for node in &self.nodes {
            node.as_ref().map(|node| (node.life(), node.unseen.len())).hash(&mut hasher);
        }
        (self.decider.fingerprint(), self.clients.fingerprint()).hash(&mut hasher);
        hasher.finish()
    }

    fn tick(&mut self) {
        self.spent.ticks += 1;
        self.now = self.now + TICK;
        self.clock.set(self.now);
        self.renew();
        (0..NODES).for_each(|at| self.input(at, Input::Timeout));
    }

    /// All that reach the majority are granted a lease.
    fn renew(&mut self) {
        let version = self.decider.state.version();
        for at in 0..NODES {
            if self.nodes[at].is_some()
                && self.is_linked(at, DECIDER)
                && self.decider.grant(node(at), self.now)
            {
                self.input(at, Input::Granted(version, self.now + LEASE));
            }
        }
    }

    fn promise(&mut self, at: usize) {
        let asked = self.decider.takeover.as_mut();
        let claims = asked.and_then(|takeover| takeover.asked.remove(&node(at)));
        let (Some(claims), Some(survivor)) = (claims, self.nodes[at].as_mut()) else { return };
        let promised = survivor.promise(&claims, self.now);
        if self.is_open(at, DECIDER) {
            self.decider.promised(node(at), &promised);
        }
    }

    fn write(&mut self, at: usize) {
        let (number, op) = self.clients.begin();
        self.input(at, Input::Execute(number, op));
    }

    fn arrive_down(&mut self, primary: usize, replica: usize) {
        let Some(way) = self.ways.get_mut(&(primary, replica)) else { return };
        let (from, fed_by) = (node(primary), way.fed_by);
        match way.down.pop_front() {
            Some(Item::Open(link)) => {
                way.fed_by = Some(link);
                self.input(replica, Input::PrimaryOpen(from));
            }
            Some(Item::Close(link)) if fed_by == Some(link) => {
                way.fed_by = None;
                self.input(replica, Input::PrimaryClose(from));
            }
            Some(Item::Frame(link, frame)) if fed_by == Some(link) => {
                let wishes = self.hand(replica, Input::FromPrimary(from, &frame));
                let Some(way) = self.ways.get_mut(&(primary, replica)) else { return };
                for answer in &wishes.up {
                    way.send_up(link, answer.clone());
                }
                if wishes.broken {
                    way.break_off();
                }
                self.carry_out(replica, wishes);
            }
            _ => {}
        }
    }

    fn arrive_up(&mut self, primary: usize, replica: usize) {
        let Some(way) = self.ways.get_mut(&(primary, replica)) else { return };
        let from = node(replica);
        match way.up.pop_front() {
            Some(Item::Open(_)) => self.input(primary, Input::LinkUp(from)),
            Some(Item::Close(_)) => self.input(primary, Input::LinkDown(from)),
            Some(Item::Frame(_, frame)) => {
                let wishes = self.hand(primary, Input::FromReplica(from, &frame));
                if wishes.broken {
                    self.ways.entry((primary, replica)).or_default().break_off();
                }
                self.carry_out(primary, wishes);
            }
            None => {}
        }
    }

    fn input(&mut self, at: usize, input: Input<'_>) {
        let wishes = self.hand(at, input);
        self.carry_out(at, wishes);
    }

    fn hand(&mut self, at: usize, input: Input<'_>) -> Wishes {
        let now = self.now;
        self.nodes[at].as_mut().map(|node| node.take(input, now)).unwrap_or_default()
    }

    fn carry_out(&mut self, at: usize, wishes: Wishes) {
        for (replica, frame) in wishes.down {
            self.ways.entry((at, place(replica))).or_default().send_down(frame);
        }
        if self.is_open(at, DECIDER) {
            wishes.commands.into_iter().for_each(|command| self.decider.propose(command));
        }
        for (number, result) in wishes.replies {
            self.clients.end(number, &result);
        }
        let Some(node) = &self.nodes[at] else { return };
        let wanted = node.data.replicas_wanted();
        let unwanted =
            |(from, to): &(usize, usize)| *from == at && !wanted.contains(&self::node(*to));
        self.ways.iter_mut().filter(|(pair, _)| unwanted(pair)).for_each(|(_, way)| way.end());
    }

    /// Whoever may answer is read from.
    fn read(&mut self) {
        for at in 0..NODES {
            let Some(node) = &self.nodes[at] else { continue };
            if let Ok(Some(reply)) = node.data.get_now(KEY) {
                self.clients.read(&reply);
            }
        }
    }

    fn present(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes.iter().enumerate().filter_map(|(at, node)| Some((at, node.as_ref()?)))
    }

    pub(super) fn serving(&self) -> impl Iterator<Item = usize> + '_ {
        (0..NODES).filter(|&at| self.serves(at))
    }

    fn serves(&self, at: usize) -> bool {
        self.nodes[at].as_ref().is_some_and(|node| node.data.serves(slot()))
    }

    /// Whether what is first arrives: the end of a link needs no network.
    fn arrives(&self, item: Option<&Item>, from: usize, to: usize) -> bool {
        let there = self.nodes[to].is_some();
        match item {
            Some(Item::Close(_)) => there,
            Some(_) => there && self.is_open(from, to),
            None => false,
        }
    }

    fn is_open(&self, from: usize, to: usize) -> bool {
        self.cut.is_none_or(|cut| !cut.blocks(from, to))
    }

    fn is_linked(&self, a: usize, b: usize) -> bool {
        self.is_open(a, b) && self.is_open(b, a)
    }

    /// Whether a copy of what was acknowledged is left.
    fn may_crash(&self, at: usize) -> bool {
        let held = self.decider.state.table().slot(slot());
        let mut others = held.primary.into_iter().chain(held.in_sync.iter()).map(place);
        self.nodes[at].is_some() && others.any(|other| other != at && self.nodes[other].is_some())
    }

    fn written_before(&self) -> usize {
        self.scope.prelude.iter().filter(|step| matches!(step, Prelude::Write)).count()
    }
}

pub(super) fn node(at: usize) -> NodeId {
    NodeId::from_random(at as u64 + 1)
}

fn place(node: NodeId) -> usize {
    node.get() as usize - 1
}

pub(super) fn slot() -> Slot {
    Slot::of_key(KEY)
}

/// A cluster of three nodes that waits for more before it hands out slots: what a scope's commands do not hand out stays
/// without holders.
fn founded() -> &'static ClusterState {
    static FOUNDED: OnceLock<ClusterState> = OnceLock::new();
    FOUNDED.get_or_init(|| {
        let info = |at: usize| NodeInfo {
            name: format!("n{at}"),
            control: ([10, 0, 0, at as u8 + 1], 7600).into(),
            lanes: vec![],
            resp: None,
            zone: String::new(),
            witness: false,
            weight: 1,
        };
        let members = (0..NODES).map(|at| (node(at), info(at))).collect();
        let generation = Generation { cluster: 1, reform: 0 };
        let mut state = ClusterState::new();
        let found = Command::Found { generation, replicas: 1, expect: u16::MAX, members };
        let _first = state.apply(&found);
        state
    })
}
