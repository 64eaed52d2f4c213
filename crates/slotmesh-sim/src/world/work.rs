use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;
use slotmesh_core::{Ack, DataError, Op, Reply};
use slotmesh_slots::{Class, MonoTime, NodeId, Slot, Token, Version};

use super::ask::{Asks, read_back, written_version};
use super::{Event, World};
use crate::history::{self, Action, Answer, Edit, Lossy, Operation};
use crate::network::Plane;
use crate::process::{Call, Input, Waiter};
use crate::scenario::Scenario;

/// How long clients wait for an answer before they count the outcome as unknown, in turn. Who waits less goes on with its own
/// node while that is cut off.
const PATIENCE: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(250)];

/// The same of those who only fill: nothing stops them, so records push each other out of a small log.
const FILLERS_PATIENCE: Duration = Duration::from_millis(15);

/// Tries of one operation after errors that changed nothing.
const TRIES_MAX: u32 = 60;

/// The clients, what they do and what they saw.
pub(super) struct Workload {
    clients: Vec<Client>,
    keys: Vec<Key>,
    /// How many of them are no fillers; those come after.
    checked: usize,
    next_value: i64,
    next_attempt: u64,
    /// How often a write with an unknown outcome was sent again.
    repeated: usize,
    running: bool,
    replicas: u8,
    rng: StdRng,
}

pub(super) struct Key {
    pub(super) name: Bytes,
    pub(super) kind: Kind,
    /// Where memory is tight, what is checked must not be evicted.
    pub(super) class: Class,
    operations: Vec<Operation>,
    /// Those on a text.
    edits: Vec<Operation<Edit>>,
    /// Those that the primary alone acknowledges, by their number.
    weak: BTreeSet<usize>,
    /// When another primary took the key's slot over.
    losses: Vec<u64>,
    /// A value that was seen and its version, for the next compare-and-set.
    pub(super) seen: Option<(i64, Version)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Register,
    Counter,
    /// A text that is changed in parts, with lifetimes that are over at once or never.
    Text,
    /// A register whose writes are mostly acknowledged by the primary alone.
    Weak,
    /// Its values expire, which the checker of histories knows nothing of: only its copies are compared.
    Expiring,
    /// Its values are of up to so many bytes, and may be evicted; again only copies are compared.
    Filler(usize),
}

impl Kind {
    const fn is_checked(self) -> bool {
        matches!(self, Self::Register | Self::Counter | Self::Text | Self::Weak)
    }
}

impl Key {
    fn counts(&self) -> (usize, usize) {
        let (plain, edits) = (self.operations.iter(), self.edits.iter());
        let answered = plain.filter(|it| it.returned.is_some()).count()
            + edits.filter(|it| it.returned.is_some()).count();
        (answered, self.operations.len() + self.edits.len() - answered)
    }

    fn check(&self) -> Result<(), String> {
        match self.kind {
            Kind::Text => history::check(&self.edits),
            Kind::Weak => history::check(&self.lossy()),
            _ => history::check(&self.operations),
        }
    }

    /// The same history, with what was to be acknowledged by the primary alone and what may have been lost.
    fn lossy(&self) -> Vec<Operation<Lossy>> {
        let client = |(number, operation): (usize, &Operation)| Operation {
            invoked: operation.invoked,
            returned: operation.returned,
            action: match self.weak.contains(&number) {
                true => Lossy::Weak(operation.action),
                false => Lossy::Firm(operation.action),
            },
        };
        let loss = |&at: &u64| Operation {
            invoked: at,
            returned: Some((at + 1, Answer::Happened)),
            action: Lossy::Loss,
        };
        let clients = self.operations.iter().enumerate().map(client);
        clients.chain(self.losses.iter().map(loss)).collect()
    }
}

/// Works on the node at one address, one operation at a time.
struct Client {
    place: usize,
    /// How long it waits for an answer before it counts the outcome as unknown.
    patience: Duration,
    /// Whether it only works on what nobody checks, without caring for answers.
    fills: bool,
    current: Option<Current>,
}

struct Current {
    key: usize,
    asked: Asks,
    /// Its number among the key's operations of its sort.
    operation: usize,
    op: Op,
    ack: Ack,
    attempt: u64,
    tries: u32,
    began: MonoTime,
    /// Whether an attempt may have been carried out.
    is_unknown: bool,
    /// Whom a refusal named.
    hint: Option<NodeId>,
}

impl Current {
    fn new(key: usize, asked: Asks, operation: usize, began: MonoTime) -> Self {
        let op = Op::Get { key: Bytes::new() };
        let (ack, attempt, tries, is_unknown, hint) = (Ack::All, 0, 0, false, None);
        Self { key, asked, operation, op, ack, attempt, tries, began, is_unknown, hint }
    }
}

impl Workload {
    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn name(&self, key: usize) -> &Bytes {
        &self.keys[key].name
    }

    pub(super) fn new(scenario: &Scenario, rng: StdRng) -> Self {
        let tight = scenario.is_tight();
        let kind = |number: usize| match number % 8 {
            _ if number >= scenario.keys => {
                Kind::Filler(scenario.filler.map_or(0, |filler| filler.bytes_max))
            }
            5 => Kind::Expiring,
            1 => Kind::Weak,
            // Counting makes what may be evicted, and so does writing a part.
            3 | 7 if !tight => Kind::Counter,
            6 if !tight => Kind::Text,
            _ => Kind::Register,
        };
        let slots = scenario.keys / 2;
        let fillers = scenario.filler.map_or(0, |filler| filler.keys);
        let key = |number: usize| Key {
            // Two keys in each slot that are checked, and fillers beside them.
            name: Bytes::from(match number.checked_sub(scenario.keys) {
                None => format!("{{s{}}}k{number}", number / 2),
                Some(filler) => format!("{{s{}}}k{number}", filler % slots),
            }),
            kind: kind(number),
            class: if tight && kind(number).is_checked() { Class::State } else { Class::Cache },
            operations: Vec::new(),
            edits: Vec::new(),
            weak: BTreeSet::new(),
            losses: Vec::new(),
            seen: None,
        };
        let (nodes, checked) = (scenario.places(), scenario.places() * scenario.clients_per_node);
        let clients = checked + if fillers > 0 { nodes } else { 0 };
        let client = |number: usize| {
            let fills = number >= checked;
            let patience = PATIENCE[number / nodes % PATIENCE.len()];
            let patience = if fills { FILLERS_PATIENCE } else { patience };
            Client { place: number % nodes, patience, fills, current: None }
        };
        Self {
            clients: (0..clients).map(client).collect(),
            checked: scenario.keys,
            keys: (0..scenario.keys + fillers).map(key).collect(),
            next_value: 1,
            next_attempt: 1,
            repeated: 0,
            running: true,
            replicas: scenario.replicas,
            rng,
        }
    }

    pub(super) fn clients(&self) -> usize {
        self.clients.len()
    }

    pub(super) fn slots(&self) -> BTreeSet<Slot> {
        self.keys.iter().map(|key| Slot::of_key(&key.name)).collect()
    }

    /// How often a write with an unknown outcome was sent again.
    pub(super) fn repeated(&self) -> usize {
        self.repeated
    }

    pub(super) fn stop(&mut self) {
        self.running = false;
    }

    /// Answered operations, and those with an unknown outcome.
    pub(super) fn counts(&self) -> (usize, usize) {
        let counts = self.keys.iter().map(Key::counts);
        counts.fold((0, 0), |sum, key| (sum.0 + key.0, sum.1 + key.1))
    }

    /// The slot of what this call is about, while somebody waits for it.
    pub(super) fn slot_of(&self, call: Call) -> Option<Slot> {
        let current = self.clients.get(call.client)?.current.as_ref();
        current.filter(|current| current.attempt == call.attempt).map(|current| current.op.slot())
    }

    /// Another primary took this slot over, maybe without what the one before had acknowledged alone.
    pub(super) fn note_loss(&mut self, slot: Slot, at: u64) {
        for key in self.keys.iter_mut().filter(|key| key.kind == Kind::Weak) {
            if Slot::of_key(&key.name) == slot {
                key.losses.push(at);
            }
        }
    }

    /// Checks the history of every key that is not excused.
    pub(super) fn check(&self, excused: &BTreeSet<Slot>) -> Result<(), String> {
        for key in &self.keys {
            if key.kind.is_checked() && !excused.contains(&Slot::of_key(&key.name)) {
                key.check().map_err(|why| {
                    format!(
                        "key {:?} ({}) is not linearizable: {why}",
                        key.name,
                        Slot::of_key(&key.name)
                    )
                })?;
            }
        }
        Ok(())
    }

    /// Draws the next operation of a client.
    fn draw(&mut self, client: usize, at: u64, now: MonoTime) -> Current {
        let first = if self.clients[client].fills { self.checked } else { 0 };
        let number = self.rng.random_range(first..self.keys.len());
        let value = self.next_value;
        self.next_value += 1;
        let choice = self.rng.random_range(0..100);
        let token = self.rng.random_bool(0.5).then(|| Token(self.rng.random()));
        let key = &mut self.keys[number];
        let (asked, op) = key.draw_op(choice, value);
        let ack = if op.is_read() { Ack::All } else { key.draw_ack(token, value, self.replicas) };
        let op = match token {
            Some(token) => op.once(token),
            None => op,
        };
        let operation = key.begin(&asked, at, ack == Ack::Primary);
        Current { op, ack, ..Current::new(number, asked, operation, now) }
    }

    /// A read of the key that is answered without any client.
    fn final_read(&mut self, key: usize, asked: Asks, at: u64, now: MonoTime) -> Current {
        let operation = self.keys[key].begin(&asked, at, false);
        Current::new(key, asked, operation, now)
    }

    fn key(&mut self, current: &Current) -> &mut Key {
        &mut self.keys[current.key]
    }
}

impl Key {
    /// Its history goes on with this; the number of the operation among those of its sort.
    fn begin(&mut self, asked: &Asks, invoked: u64, weak: bool) -> usize {
        match asked {
            Asks::Plain(action) => {
                let operation = Operation { invoked, returned: None, action: *action };
                self.operations.push(operation);
                self.weak.extend(weak.then_some(self.operations.len() - 1));
                self.operations.len() - 1
            }
            Asks::Edit(edit) => {
                self.edits.push(Operation { invoked, returned: None, action: edit.clone() });
                self.edits.len() - 1
            }
        }
    }

    /// The operation was answered; `None` where the reply is none of such an operation.
    fn answered(&mut self, current: &Current, reply: Reply, at: u64) -> Option<()> {
        match &current.asked {
            Asks::Plain(action) => {
                let answer = self.understand(*action, reply)?;
                self.operations[current.operation].returned = Some((at, answer));
            }
            Asks::Edit(edit) => {
                let seen = edit.understand(reply)?;
                self.edits[current.operation].returned = Some((at, seen));
            }
        }
        Some(())
    }

    /// The operation certainly did not happen: as good as a read that nobody saw.
    fn never(&mut self, current: &Current) {
        match &current.asked {
            Asks::Plain(_) => self.operations[current.operation].action = Action::Get,
            Asks::Edit(_) => self.edits[current.operation].action = Edit::Get,
        }
    }
}

impl World {
    /// The client begins its next operation, or tries the current one again.
    pub(super) fn client_turn(&mut self, client: usize) {
        if self.work.clients[client].current.is_none() {
            if !self.work.running {
                return;
            }
            let next = self.work.draw(client, self.handled, self.now);
            self.work.clients[client].current = Some(next);
        }
        let place = self.work.clients[client].place;
        let Some(home) = self.places[place] else {
            return self.schedule(self.now + Duration::from_millis(50), Event::Client(client));
        };
        let attempt = self.work.next_attempt;
        self.work.next_attempt += 1;
        let Some(current) = &mut self.work.clients[client].current else { return };
        current.attempt = attempt;
        if current.is_unknown {
            current.op.note_age(self.now.saturating_since(current.began));
        }
        let (op, ack) = (current.op.clone(), current.ack);
        let call = Call { client, attempt };
        let patience = self.work.clients[client].patience;
        self.schedule(self.now + patience, Event::ClientTimeout(client, attempt));
        self.schedule(self.now, Event::Input(home, Input::Call { call, op, ack }));
    }

    /// The client's node sends the operation where it belongs.
    pub(super) fn route(&mut self, node: NodeId, call: Call, op: Op, ack: Ack) {
        let current = self.work.clients[call.client].current.as_ref();
        let hint = current.filter(|current| current.attempt == call.attempt).and_then(|c| c.hint);
        self.trace.detail(self.now, format_args!("{node} routes {call:?} {op:?} hint {hint:?}"));
        let Some(process) = self.processes.get(&node) else { return };
        let place = process.place;
        match hint.or(process.data.owner(op.slot()).0) {
            Some(owner) if owner == node => {
                self.execute(node, Waiter { home: node, call, ack }, op)
            }
            Some(owner) if self.processes.contains_key(&owner) => {
                let request = Input::Request { from: node, call, op, ack };
                self.carry((Plane::Lanes, place), owner, request);
            }
            _ => {
                // Nobody listens there: nothing was sent.
                let result = Err(DataError::NotOwner { owner: None, version: 0 });
                let soon = self.now + Duration::from_millis(5);
                self.schedule(soon, Event::Input(node, Input::Answer { call, result }));
            }
        }
    }

    pub(super) fn client_answered(&mut self, call: Call, result: Result<Reply, DataError>) {
        let fits = |current: &mut Current| current.attempt == call.attempt;
        let Some(mut current) = self.work.clients[call.client].current.take_if(fits) else {
            return;
        };
        let at = self.handled;
        self.trace.count(self.now, format!("{call:?} {result:?}"));
        let key = &self.work.keys[current.key].name;
        self.trace.detail(self.now, format_args!("#{at} {call:?} {key:?} gets {result:?}"));
        let backoff = self.work.rng.random_range(2_000..40_000);
        match result {
            Ok(reply) => {
                self.note_written(&current, &reply);
                let told = format!("{reply:?} answers {:?}", current.op);
                if self.work.key(&current).answered(&current, reply, at).is_none() {
                    self.watch.problem.get_or_insert(told);
                }
            }
            Err(DataError::Ambiguous) if current.op.is_once() && current.tries < TRIES_MAX => {
                self.again_unknown(call.client, current);
            }
            Err(DataError::Ambiguous) => self.note_unmet(&current),
            Err(DataError::NotOwner { owner, .. }) if current.tries < TRIES_MAX => {
                let version_blind = current.tries % 3 == 2;
                current.hint = owner.filter(|_| !version_blind);
                current.tries += 1;
                // Its patience is over with its answer.
                current.attempt = 0;
                self.work.clients[call.client].current = Some(current);
            }
            Err(error) if is_passing(&error) && current.tries < TRIES_MAX => {
                current.tries += 1;
                // Its patience is over with its answer.
                current.attempt = 0;
                current.hint = None;
                self.work.clients[call.client].current = Some(current);
            }
            Err(error) if changes_nothing(&error) && current.is_unknown => {
                self.note_unmet(&current);
            }
            Err(error) if changes_nothing(&error) => {
                self.note_unmet(&current);
                self.work.key(&current).never(&current);
            }
            Err(error) => {
                self.watch.problem.get_or_insert(format!("unexpected error {error:?}"));
            }
        }
        self.schedule(self.now + Duration::from_micros(backoff), Event::Client(call.client));
    }

    /// Whether an operation is under way for somebody who has a node to ask.
    pub(super) fn asks(&self) -> bool {
        let is_asking =
            |client: &Client| client.current.is_some() && self.places[client.place].is_some();
        self.work.clients.iter().any(is_asking)
    }

    pub(super) fn client_gave_up(&mut self, client: usize, attempt: u64) {
        let late = |current: &mut Current| current.attempt == attempt;
        if let Some(current) = self.work.clients[client].current.take_if(late) {
            let insists = !self.work.clients[client].fills;
            if insists && current.op.is_once() && current.tries < TRIES_MAX {
                self.again_unknown(client, current);
            } else {
                self.note_unmet(&current);
            }
            self.schedule(self.now, Event::Client(client));
        }
    }

    /// Who asks for copies may be refused, or not be told in time, where they are being dropped.
    fn note_unmet(&mut self, current: &Current) {
        if matches!(current.ack, Ack::AtLeast(_)) {
            self.coverage.see(format_args!("unmet for want of copies"));
        }
    }

    /// What is carried out once however often it comes is sent again when its outcome is unknown.
    fn again_unknown(&mut self, client: usize, mut current: Current) {
        current.tries += 1;
        current.attempt = 0;
        current.hint = None;
        current.is_unknown = true;
        self.work.repeated += 1;
        self.work.clients[client].current = Some(current);
    }

    /// Reads every key where it is, once all is quiet.
    pub(super) fn final_reads(&mut self) -> Result<(), String> {
        for number in 0..self.work.keys.len() {
            let name = self.work.keys[number].name.clone();
            let slot = Slot::of_key(&name);
            let owner = self.committed().table().slot(slot).primary;
            let process = owner.and_then(|owner| self.processes.get(&owner));
            let reply = process.map(|process| process.data.get_now(&name));
            let in_batch = process.and_then(|process| process.data.get_many_now(&[&name]).pop());
            if reply != in_batch {
                return Err(format!("{slot} reads {reply:?}, and {in_batch:?} in a batch"));
            }
            let Some(Ok(Some(reply))) = reply else {
                return Err(format!("{slot} cannot be read at the end: {reply:?}"));
            };
            let asked = read_back(self.work.keys[number].kind);
            let current = self.work.final_read(number, asked, self.handled, self.now);
            self.handled += 1;
            if self.work.keys[number].answered(&current, reply, self.handled).is_none() {
                return Err(format!("{slot} reads what is no value"));
            }
            self.handled += 1;
        }
        Ok(())
    }

    /// What a local tier holds that is older than what was acknowledged here may be served for a moment only.
    fn note_written(&mut self, current: &Current, reply: &Reply) {
        // What may be lost again is not newer than what is read then.
        if let Some(version) = written_version(reply).filter(|_| current.ack != Ack::Primary) {
            self.nears.note_acked(current.key, version, self.now);
        }
    }
}

/// Whether the same may work a moment later.
const fn is_passing(error: &DataError) -> bool {
    matches!(
        error,
        DataError::Moving
            | DataError::NoLease
            | DataError::Busy
            | DataError::Full
            | DataError::TooFewCopies { .. }
    )
}

const fn changes_nothing(error: &DataError) -> bool {
    is_passing(error) || matches!(error, DataError::NotOwner { .. })
}
