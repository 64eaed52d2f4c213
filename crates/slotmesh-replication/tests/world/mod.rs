//! A cluster of toy nodes around the real engines: stores are maps, links are queues, the control plane is a log whose
//! decisions and deliveries come as late as the schedule likes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use slotmesh_replication::{
    ApplyError, Config, Filled, Outcome, Primary, PrimaryEvent, PrimarySlot, Replica,
    ReplicaAction, ReplicaSlot, Ring, Share, SnapshotEntry, SnapshotStart,
};
use slotmesh_slots::{
    Class, Effect, Epoch, MonoTime, NodeId, NodeList, Record, Slot, SlotState, Version,
};

pub mod oracle;
use oracle::Oracle;

#[derive(Default, Clone)]
pub struct Store {
    pub entries: BTreeMap<Bytes, (Bytes, Version)>,
    pub version: Version,
}

impl Store {
    fn apply(&mut self, record: &Record) {
        match &record.effect {
            Effect::Put { key, value, .. } => {
                self.entries.insert(key.clone(), (value.clone(), record.version()));
            }
            Effect::Delete { key } => {
                self.entries.remove(key);
            }
            Effect::Expire { .. } | Effect::Clear | Effect::Nothing => {
                unreachable!("not written here")
            }
        }
        self.version = record.version();
    }

    pub fn digest(&self) -> u128 {
        let mut digest = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
        for (key, (value, version)) in &self.entries {
            let seq = version.seq.0.to_be_bytes();
            for byte in key.iter().chain(value.iter()).chain(&seq) {
                digest = (digest ^ u128::from(*byte)).wrapping_mul(0x0100_0000_01b3_0000_013b);
            }
        }
        digest
    }

    fn snapshot(&self) -> Vec<SnapshotEntry> {
        let entry = |(key, (value, version)): (&Bytes, &(Bytes, Version))| SnapshotEntry {
            class: Class::Cache,
            key: key.clone(),
            value: value.clone(),
            version: *version,
            deadline: None,
        };
        self.entries.iter().map(entry).collect()
    }
}

/// Lists the entries two at a time.
fn listed(entries: Vec<SnapshotEntry>) -> SnapshotStart {
    let mut rest = entries.into_iter();
    let source = move || {
        let part: Vec<_> = rest.by_ref().take(2).collect();
        Ok((!part.is_empty()).then_some(part))
    };
    SnapshotStart { answers: Bytes::from_static(ANSWERS), source: Box::new(source) }
}

/// What goes with each snapshot.
const ANSWERS: &[u8] = b"answers";

pub struct Node {
    pub id: NodeId,
    pub primary: Primary,
    pub replica: Replica,
    pub ring: Arc<Ring>,
    pub stores: BTreeMap<Slot, Store>,
    /// The node's view of the table and how many decisions it has seen.
    pub view: BTreeMap<Slot, SlotState>,
    pub seen: usize,
    /// Work handed out and not done yet.
    pub todo: VecDeque<ReplicaAction>,
    pub events: VecDeque<PrimaryEvent>,
}

#[derive(Default)]
pub struct Wire {
    pub open: bool,
    pub down: VecDeque<Bytes>,
    pub up: VecDeque<Bytes>,
}

#[derive(Clone, Debug)]
pub enum Proposal {
    Shrink { slot: Slot, epoch: Epoch, node: NodeId },
    Grow { slot: Slot, epoch: Epoch, round: u32, node: NodeId },
    Failover { slot: Slot, epoch: Epoch, promisers: Vec<NodeId> },
}

pub type Outcomes = Arc<Mutex<Vec<(Slot, Version, Outcome)>>>;

pub struct World {
    pub now: MonoTime,
    pub nodes: Vec<Node>,
    pub wires: BTreeMap<(usize, usize), Wire>,
    pub table: BTreeMap<Slot, SlotState>,
    pub log: Vec<(Slot, SlotState)>,
    pub proposals: Vec<Proposal>,
    pub outcomes: Outcomes,
    pub waiting: usize,
    pub oracle: Oracle,
    pub counts: BTreeMap<&'static str, u64>,
    next_value: u64,
}

pub fn id(index: usize) -> NodeId {
    NodeId::new(index as u64 + 1).unwrap()
}

pub fn index(node: NodeId) -> usize {
    node.get() as usize - 1
}

impl World {
    /// `nodes` nodes that share `slots` slots, each owned by one and copied by all others.
    pub fn new(nodes: usize, slots: u16, ring_bytes: usize, config: &Config) -> Self {
        let make = |number| {
            let ring = Arc::new(Ring::new(ring_bytes));
            Node {
                id: id(number),
                primary: Primary::new(config.clone(), ring.clone(), |_| {}),
                replica: Replica::new(config.clone(), ring.clone()),
                ring,
                stores: BTreeMap::new(),
                view: BTreeMap::new(),
                seen: 0,
                todo: VecDeque::new(),
                events: VecDeque::new(),
            }
        };
        let mut world = Self {
            now: MonoTime::from_micros(1_000_000),
            nodes: (0..nodes).map(make).collect(),
            wires: BTreeMap::new(),
            table: BTreeMap::new(),
            log: Vec::new(),
            proposals: Vec::new(),
            outcomes: Outcomes::default(),
            waiting: 0,
            oracle: Oracle::default(),
            counts: BTreeMap::new(),
            next_value: 0,
        };
        for number in 0..slots {
            let primary = number as usize % nodes;
            let state = SlotState {
                epoch: Epoch(1),
                primary: Some(id(primary)),
                in_sync: (0..nodes).filter(|&n| n != primary).map(id).collect(),
                ..SlotState::default()
            };
            world.decide(Slot::new(number).unwrap(), state);
        }
        for from in 0..nodes {
            (0..nodes).filter(|&to| to != from).for_each(|to| {
                world.wires.insert((from, to), Wire::default());
            });
        }
        world
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn decide(&mut self, slot: Slot, state: SlotState) {
        self.table.insert(slot, state);
        self.log.push((slot, state));
        self.check_committed();
    }

    /// Every committed write is in the history of the slot's primary and in-sync replicas.
    pub fn check_committed(&self) {
        for (&slot, state) in &self.table {
            for node in state.primary.into_iter().chain(state.in_sync.iter()) {
                let version = self.nodes[index(node)].stores.get(&slot).map(|store| store.version);
                self.oracle.check_has_committed(slot, version.unwrap_or_default(), node);
            }
        }
    }

    pub fn settle(&mut self) {
        let told = std::mem::take(&mut *self.outcomes.lock().unwrap());
        for (slot, version, outcome) in told {
            self.waiting -= 1;
            match outcome {
                Outcome::Committed => {
                    self.count("committed");
                    self.oracle.commit(slot, version);
                }
                _ => self.count("ambiguous"),
            }
        }
        self.check_committed();
    }

    /// A node that takes itself for the primary writes; false when it does not, or has no credit.
    pub fn write(&mut self, at: usize, slot: Slot, key: u64, delete: bool) -> bool {
        let node = &mut self.nodes[at];
        let Some(state) = node.view.get(&slot) else { return false };
        if state.primary != Some(node.id) || state.moving_to.is_some() {
            return false;
        }
        if node.replica.promised(slot) > state.epoch {
            // Deposed already: the slot may hold the successor's content.
            self.count("deposed");
            return false;
        }
        if !node.primary.credit(slot) {
            self.count("busy");
            return false;
        }
        self.next_value += 1;
        let key = Bytes::from(format!("key-{key}"));
        let effect = if delete {
            Effect::Delete { key }
        } else {
            let value = Bytes::from(self.next_value.to_be_bytes().repeat(1 + key.len() % 4));
            Effect::Put { class: Class::Cache, key, value, deadline: None }
        };
        let store = node.stores.entry(slot).or_default();
        let (epoch, seq, prev) = (state.epoch, store.version.seq.next(), store.version);
        let record = Record { slot, epoch, seq, effect, answer: None };
        store.apply(&record);
        self.oracle.applied(slot, prev, record.version(), store.digest());
        node.primary.append(&record).unwrap();
        let (outcomes, version) = (self.outcomes.clone(), record.version());
        self.waiting += 1;
        node.primary.wait(
            slot,
            version,
            Box::new(move |outcome| outcomes.lock().unwrap().push((slot, version, outcome))),
        );
        self.count("writes");
        self.settle();
        true
    }

    /// Has the replicas of a slot compare their copies.
    pub fn audit(&mut self, at: usize, slot: Slot) {
        let node = &mut self.nodes[at];
        let store = node.stores.entry(slot).or_default();
        node.primary.audit(slot, store.version, store.digest());
    }

    pub fn connect(&mut self, from: usize, to: usize) {
        let wire = self.wires.get_mut(&(from, to)).unwrap();
        if !wire.open {
            wire.open = true;
            self.nodes[to].replica.open(id(from));
            self.nodes[from].primary.link_up(id(to), self.now);
        }
    }

    pub fn cut(&mut self, from: usize, to: usize) {
        let wire = self.wires.get_mut(&(from, to)).unwrap();
        if wire.open {
            *wire = Wire::default();
            self.nodes[to].replica.close(id(from));
            self.nodes[from].primary.link_down(id(to), self.now);
            self.count("cuts");
            self.settle();
        }
    }

    /// Writes what both ends of a link have to say.
    pub fn pump(&mut self, from: usize, to: usize, bytes_max: usize) -> bool {
        let wire = self.wires.get_mut(&(from, to)).unwrap();
        if !wire.open {
            return false;
        }
        let down = self.nodes[from].primary.poll_frames(id(to), bytes_max, self.now);
        let up = self.nodes[to].replica.poll_frames(id(from));
        let busy = !down.is_empty() || !up.is_empty();
        wire.down.extend(down);
        wire.up.extend(up);
        busy
    }

    /// Delivers one frame in each direction.
    pub fn deliver(&mut self, from: usize, to: usize) -> bool {
        let wire = self.wires.get_mut(&(from, to)).unwrap();
        let (down, up) = (wire.down.pop_front(), wire.up.pop_front());
        if let Some(frame) = &down {
            let actions = self.nodes[to].replica.handle_frame(id(from), frame, self.now).unwrap();
            self.nodes[to].todo.extend(actions);
        }
        if let Some(frame) = &up {
            self.nodes[from].primary.handle_frame(id(to), frame, self.now).unwrap();
            self.settle();
        }
        down.is_some() || up.is_some()
    }

    /// Does one piece of a replica's work.
    pub fn work(&mut self, at: usize) -> bool {
        let node = &mut self.nodes[at];
        let Some(action) = node.todo.pop_front() else { return false };
        match action {
            ReplicaAction::Report { ticket } => {
                let store = node.stores.entry(ticket.slot()).or_default();
                node.replica.report(ticket, store.version, store.digest());
            }
            ReplicaAction::Apply { ticket, record } => {
                if !node.replica.admits(&ticket) {
                    node.replica.applied(ticket, Err(ApplyError::Overtaken));
                    self.count("overtaken");
                    return true;
                }
                let store = node.stores.entry(record.slot).or_default();
                let prev = store.version;
                store.apply(&record);
                self.oracle.applied(record.slot, prev, record.version(), store.digest());
                node.replica.applied(ticket, Ok(()));
                self.count("applied");
            }
            ReplicaAction::Audit { ticket, version, digest } => {
                let result = if node.replica.admits(&ticket) {
                    let store = node.stores.entry(ticket.slot()).or_default();
                    assert_eq!(
                        (store.version, store.digest()),
                        (version, digest),
                        "a copy differs"
                    );
                    Ok(())
                } else {
                    Err(ApplyError::Overtaken)
                };
                node.replica.applied(ticket, result);
                self.count("audited");
            }
            ReplicaAction::Install { ticket, filled } => {
                let Filled { version, digest, answers, entries } = filled;
                assert_eq!(answers, ANSWERS);
                if !node.replica.admits(&ticket) {
                    node.replica.applied(ticket, Err(ApplyError::Overtaken));
                    return true;
                }
                let entries = entries.into_iter().map(|e| (e.key, (e.value, e.version)));
                let store = Store { entries: entries.collect(), version };
                assert_eq!(store.digest(), digest, "snapshot of {}", ticket.slot());
                self.oracle.installed(ticket.slot(), version, digest);
                node.stores.insert(ticket.slot(), store);
                node.replica.applied(ticket, Ok(()));
                self.count("installed");
            }
        }
        true
    }

    /// Handles one event of a node.
    pub fn event(&mut self, at: usize) -> bool {
        let node = &mut self.nodes[at];
        while let Some(event) = node.primary.poll_event() {
            node.events.push_back(event);
        }
        let Some(event) = node.events.pop_front() else { return false };
        match event {
            PrimaryEvent::NeedSnapshot { replica, slot } => {
                let store = node.stores.entry(slot).or_default();
                let digest = store.digest();
                let source = || listed(store.snapshot());
                node.primary.snapshot(replica, slot, store.version, digest, source);
            }
            PrimaryEvent::Compare { replica, slot } => {
                let store = node.stores.entry(slot).or_default();
                node.primary.compare(replica, slot, store.version, store.digest());
            }
            PrimaryEvent::Shrink { slot, epoch, node } => {
                self.proposals.push(Proposal::Shrink { slot, epoch, node });
            }
            PrimaryEvent::Grow { slot, epoch, round, node } => {
                self.proposals.push(Proposal::Grow { slot, epoch, round, node });
            }
            PrimaryEvent::Refused { .. } => self.count("refused"),
            other => unreachable!("{other:?}"),
        }
        self.settle();
        true
    }

    /// In-sync replicas promise the next epoch; the decision comes later, if it still fits then.
    pub fn promise(&mut self, slot: Slot, among: impl Fn(NodeId) -> bool) {
        let state = self.table[&slot];
        let asked = state.in_sync.iter().filter(|&node| among(node));
        let promisers: Vec<NodeId> = asked
            .filter(|&n| self.nodes[index(n)].replica.promise(slot, state.epoch.next()).is_ok())
            .collect();
        if !promisers.is_empty() {
            self.proposals.push(Proposal::Failover { slot, epoch: state.epoch, promisers });
        }
    }

    pub fn resolve(&mut self, which: usize) {
        match self.proposals.swap_remove(which) {
            Proposal::Shrink { slot, epoch, node } => {
                let mut state = self.table[&slot];
                if state.epoch == epoch
                    && (state.in_sync.remove(node) || state.copying.contains(node))
                {
                    state.copying.insert(node);
                    state.round += 1;
                    self.count("shrinks");
                    self.decide(slot, state);
                }
            }
            Proposal::Grow { slot, epoch, round, node } => {
                let mut state = self.table[&slot];
                let fits = (state.epoch, state.round) == (epoch, round);
                if fits && state.copying.remove(node) {
                    state.in_sync.insert(node);
                    self.count("grows");
                    self.decide(slot, state);
                }
            }
            Proposal::Failover { slot, epoch, promisers } => {
                self.fail_over(slot, epoch, &promisers)
            }
        }
    }

    fn fail_over(&mut self, slot: Slot, epoch: Epoch, promisers: &[NodeId]) {
        let state = self.table[&slot];
        if state.epoch != epoch || !promisers.iter().all(|&node| state.in_sync.contains(node)) {
            return;
        }
        let version = |node: NodeId| {
            self.nodes[index(node)].stores.get(&slot).map_or(Version::default(), |s| s.version)
        };
        let winner = promisers.iter().copied().max_by_key(|&node| version(node)).unwrap();
        let others = promisers.iter().copied().filter(|&node| node != winner);
        let in_sync: NodeList = others.collect();
        let rest = |node: &NodeId| *node != winner && !in_sync.contains(*node);
        let copying = self.nodes.iter().map(|node| node.id).filter(rest).collect();
        let (primary, epoch) = (Some(winner), epoch.next());
        self.count("failovers");
        self.decide(slot, SlotState { epoch, primary, in_sync, copying, ..SlotState::default() });
    }

    /// Freezes the slot for a move, or ends one: committed when source and all copies are equal and the source knows that
    /// it is frozen, else aborted.
    pub fn shift(&mut self, slot: Slot) {
        let mut state = self.table[&slot];
        let Some(primary) = state.primary else { return };
        let Some(target) = state.moving_to else {
            state.moving_to = state.in_sync.iter().next();
            return self.decide(slot, state);
        };
        let source = &self.nodes[index(primary)];
        let version = |node: &Node| node.stores.get(&slot).map(|store| store.version);
        let frozen = source.view.get(&slot) == Some(&state);
        let last = version(source);
        let equal = state.in_sync.iter().all(|node| version(&self.nodes[index(node)]) == last);
        state.moving_to = None;
        state.epoch = state.epoch.next();
        if frozen && equal && state.in_sync.remove(target) {
            state.in_sync.insert(primary);
            state.primary = Some(target);
            state.base = last.map(|last| last.seq).unwrap_or_default();
            self.count("moves");
        }
        self.decide(slot, state);
    }

    /// Shows a node the next decision.
    pub fn learn(&mut self, at: usize) -> bool {
        let node = &mut self.nodes[at];
        let Some(&(slot, state)) = self.log.get(node.seen) else { return false };
        node.seen += 1;
        node.view.insert(slot, state);
        let role = ReplicaSlot { epoch: state.epoch, primary: state.primary };
        node.replica.set_slot(slot, state.involves(node.id).then_some(role));
        let owned = (state.primary == Some(node.id)).then_some(PrimarySlot {
            epoch: state.epoch,
            in_sync: state.in_sync,
            copying: state.copying,
            moving: state.moving_to.is_some(),
            round: state.round,
            base: state.base,
        });
        let store = node.stores.entry(slot).or_default();
        node.primary.set_slot(slot, owned, store.version, self.now);
        self.settle();
        true
    }

    /// The node gives copies another part of its links' time.
    pub fn share(&mut self, at: usize, percent: u8) {
        let (node, share) = (&self.nodes[at], Share::percent(percent));
        node.primary.set_copy_share(share);
        node.replica.ask_copy_share(share);
    }

    pub fn tick(&mut self, by: Duration) {
        self.now = self.now + by;
        for (from, to) in self.wires.keys().copied().collect::<Vec<_>>() {
            if self.nodes[from].primary.rests_until(id(to)).is_some() {
                self.count("rests");
            }
        }
        for at in 0..self.nodes.len() {
            self.nodes[at].primary.handle_timeout(self.now);
        }
        self.settle();
    }

    pub fn check_invariants(&self) {
        for node in &self.nodes {
            node.primary.check_invariants();
            node.replica.check_invariants();
            node.ring.check_invariants();
        }
    }

    /// Ends all faults and runs until every slot has all its copies in sync and equal; panics when that takes more than
    /// ten seconds of virtual time.
    pub fn heal(&mut self) {
        let pairs: Vec<_> = self.wires.keys().copied().collect();
        for round in 0.. {
            pairs.iter().for_each(|&(from, to)| self.connect(from, to));
            let mut busy = true;
            while busy {
                busy = false;
                while let Some(last) = self.proposals.len().checked_sub(1) {
                    self.resolve(last);
                }
                for at in 0..self.nodes.len() {
                    while self.learn(at) || self.event(at) {
                        busy = true;
                    }
                }
                for &(from, to) in &pairs {
                    busy |= self.pump(from, to, 1 << 20);
                    while self.deliver(from, to) || self.work(to) || self.work(from) {}
                }
            }
            self.unfreeze();
            if self.healed() {
                break;
            }
            assert!(round < 1000, "not healed: {:?} {:?}", self.table, self.waiting);
            self.tick(Duration::from_millis(10));
        }
        self.check_invariants();
    }

    /// A promise or a freeze that nothing came of is ended by a higher epoch.
    fn unfreeze(&mut self) {
        for slot in self.table.keys().copied().collect::<Vec<_>>() {
            let mut state = self.table[&slot];
            let promised = self.nodes.iter().map(|node| node.replica.promised(slot)).max().unwrap();
            if promised > state.epoch || state.moving_to.is_some() {
                state.epoch = state.epoch.next();
                state.moving_to = None;
                self.decide(slot, state);
            }
        }
    }

    fn healed(&self) -> bool {
        self.waiting == 0
            && self.nodes.iter().all(|node| node.seen == self.log.len())
            && self.table.iter().all(|(slot, state)| {
                let stores = self.nodes.iter().map(|node| node.stores.get(slot).unwrap());
                let mut points = stores.map(|store| (store.version, store.digest()));
                let first = points.next();
                let primary = &self.nodes[index(state.primary.unwrap())].primary;
                state.in_sync.len() == self.nodes.len() - 1
                    && points.all(|point| Some(point) == first)
                    && primary.committed(*slot) == primary.last(*slot).map(|last| last.seq)
            })
    }
}
