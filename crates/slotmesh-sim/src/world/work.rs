use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;
use slotmesh_core::{Ack, DataError, Op, Reply};
use slotmesh_slots::{Class, MonoTime, NodeId, Slot, Token, Version};
use slotmesh_store::Condition;

use super::{Event, World};
use crate::history::{self, Action, Answer, Operation};
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
    rng: StdRng,
}

struct Key {
    name: Bytes,
    kind: Kind,
    /// Where memory is tight, what is checked must not be evicted.
    class: Class,
    operations: Vec<Operation>,
    /// A value that was seen and its version, for the next compare-and-set.
    seen: Option<(i64, Version)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Register,
    Counter,
    /// Its values expire, which the checker of histories knows nothing of: only its copies are compared.
    Expiring,
    /// Its values are of up to so many bytes, and may be evicted; again only copies are compared.
    Filler(usize),
}

impl Kind {
    const fn is_checked(self) -> bool {
        matches!(self, Self::Register | Self::Counter)
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
    operation: usize,
    op: Op,
    attempt: u64,
    tries: u32,
    began: MonoTime,
    /// Whether an attempt may have been carried out.
    is_unknown: bool,
    /// Whom a refusal named.
    hint: Option<NodeId>,
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
            // Counting makes what may be evicted.
            3 | 7 if !tight => Kind::Counter,
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
        let all = || self.keys.iter().flat_map(|key| &key.operations);
        let answered = all().filter(|operation| operation.returned.is_some()).count();
        (answered, all().count() - answered)
    }

    /// Checks the history of every key that is not excused.
    pub(super) fn check(&self, excused: &BTreeSet<Slot>) -> Result<(), String> {
        for key in &self.keys {
            if key.kind.is_checked() && !excused.contains(&Slot::of_key(&key.name)) {
                history::check(&key.operations).map_err(|why| {
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
        let (action, op) = draw_op(key, choice, value);
        let op = match token {
            Some(token) => op.once(token),
            None => op,
        };
        key.operations.push(Operation { invoked: at, returned: None, action });
        let operation = key.operations.len() - 1;
        Current {
            key: number,
            operation,
            op,
            attempt: 0,
            tries: 0,
            began: now,
            is_unknown: false,
            hint: None,
        }
    }

    fn operation(&mut self, current: &Current) -> &mut Operation {
        &mut self.keys[current.key].operations[current.operation]
    }
}

fn draw_op(key: &Key, choice: u32, value: i64) -> (Action, Op) {
    let name = key.name.clone();
    if choice < 40 {
        return (Action::Get, Op::Get { key: name });
    }
    let plain = |ttl: Option<Duration>, width: usize| {
        let (value, key) = (Bytes::from(format!("{value:0width$}")), key.name.clone());
        let (keep_ttl, condition, class) = (false, Condition::Always, Class::Cache);
        Op::Put { key, value, ttl, keep_ttl, condition, class }
    };
    match key.kind {
        Kind::Expiring => {
            let ttl = Duration::from_millis(50 + u64::from(choice) * 30);
            return (Action::Put(value), plain(Some(ttl), 8));
        }
        Kind::Counter => return (Action::Increment(1), Op::Increment { key: name, delta: 1 }),
        Kind::Filler(bytes) if choice < 92 => {
            return (Action::Put(value), plain(None, 8 + bytes * choice as usize / 92));
        }
        Kind::Filler(_) => {
            return (Action::Delete, Op::Delete { key: name, condition: Condition::Always });
        }
        Kind::Register => {}
    }
    if choice < 44 {
        return (Action::Take, Op::GetAndDelete { key: name });
    }
    if choice < 48 {
        return (Action::Delete, Op::Delete { key: name, condition: Condition::Always });
    }
    let (action, condition) = match (choice, key.seen) {
        (48..56, _) => (Action::PutAbsent(value), Condition::Absent),
        (56..75, Some((seen, version))) => (Action::Cas(seen, value), Condition::Version(version)),
        _ => (Action::Put(value), Condition::Always),
    };
    let (text, ttl, keep_ttl) = (Bytes::from(format!("{value:08}")), None, false);
    let class = key.class;
    if choice >= 90 {
        let op = Op::GetAndPut { class, key: name, value: text, ttl, keep_ttl, condition };
        return (Action::Swap(value), op);
    }
    (action, Op::Put { key: name, value: text, ttl, keep_ttl, condition, class })
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
        let op = current.op.clone();
        let call = Call { client, attempt };
        let patience = self.work.clients[client].patience;
        self.schedule(self.now + patience, Event::ClientTimeout(client, attempt));
        self.schedule(self.now, Event::Input(home, Input::Call { call, op }));
    }

    /// The client's node sends the operation where it belongs.
    pub(super) fn route(&mut self, node: NodeId, call: Call, op: Op, ack: Ack) {
        let current = self.work.clients[call.client].current.as_ref();
        let hint = current.filter(|current| current.attempt == call.attempt).and_then(|c| c.hint);
        self.trace.detail(self.now, format_args!("{node} routes {call:?} {op:?} hint {hint:?}"));
        let Some(process) = self.processes.get(&node) else { return };
        let place = process.place;
        match hint.or(process.data.owner(op.slot()).0) {
            Some(owner) if owner == node => process.execute(Waiter { home: node, call }, op, ack),
            Some(owner) if self.processes.contains_key(&owner) => {
                self.carry((Plane::Lanes, place), owner, Input::Request { from: node, call, op });
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
                let answer = self.understand(&current, reply);
                self.work.operation(&current).returned = answer.map(|answer| (at, answer));
            }
            Err(DataError::Ambiguous) if current.op.is_once() && current.tries < TRIES_MAX => {
                self.again_unknown(call.client, current);
            }
            Err(DataError::Ambiguous) => {}
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
            Err(error) if changes_nothing(&error) && current.is_unknown => {}
            Err(error) if changes_nothing(&error) => {
                // It certainly did not happen: as good as a read that nobody saw.
                self.work.operation(&current).action = Action::Get;
            }
            Err(error) => {
                self.watch.problem.get_or_insert(format!("unexpected error {error:?}"));
            }
        }
        self.schedule(self.now + Duration::from_micros(backoff), Event::Client(call.client));
    }

    pub(super) fn client_gave_up(&mut self, client: usize, attempt: u64) {
        let late = |current: &mut Current| current.attempt == attempt;
        if let Some(current) = self.work.clients[client].current.take_if(late) {
            let insists = !self.work.clients[client].fills;
            if insists && current.op.is_once() && current.tries < TRIES_MAX {
                self.again_unknown(client, current);
            }
            self.schedule(self.now, Event::Client(client));
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
            let at = self.handled;
            self.handled += 1;
            let value = match &reply {
                Reply::Value(value) => parse(&value.value),
                _ => None,
            };
            let returned = Some((at + 1, Answer::Value(value)));
            self.work.keys[number].operations.push(Operation {
                invoked: at,
                returned,
                action: Action::Get,
            });
            self.handled += 1;
        }
        Ok(())
    }

    /// What a local tier holds that is older than what was acknowledged here may be served for a moment only.
    fn note_written(&mut self, current: &Current, reply: &Reply) {
        let version = match reply {
            Reply::Put { applied: true, version, .. }
            | Reply::Previous { applied: true, version, .. } => *version,
            Reply::Integer { version, .. } => Some(*version),
            _ => None,
        };
        if let Some(version) = version {
            self.nears.note_acked(current.key, version, self.now);
        }
    }

    fn understand(&mut self, current: &Current, reply: Reply) -> Option<Answer> {
        let action = self.work.operation(current).action;
        let key = &mut self.work.keys[current.key];
        let answer = match (action, reply) {
            (Action::Get, Reply::Value(value)) => {
                let number = parse(&value.value)?;
                key.seen = Some((number, value.version));
                Answer::Value(Some(number))
            }
            (Action::Get, Reply::Missing { .. }) => Answer::Value(None),
            (Action::Put(_), Reply::Put { existed, .. }) => Answer::Done { existed },
            (Action::PutAbsent(_) | Action::Cas(..), Reply::Put { applied, .. }) => {
                Answer::Applied(applied)
            }
            (Action::Delete, Reply::Delete { existed, .. }) => Answer::Done { existed },
            (Action::Increment(_), Reply::Integer { value, .. }) => Answer::Sum(value),
            (Action::Swap(_) | Action::Take, Reply::Previous { previous, .. }) => {
                Answer::Value(previous.and_then(|value| parse(&value.value)))
            }
            (action, reply) => {
                self.watch.problem.get_or_insert(format!("{reply:?} answers {action:?}"));
                return None;
            }
        };
        Some(answer)
    }
}

/// Whether the same may work a moment later.
const fn is_passing(error: &DataError) -> bool {
    matches!(error, DataError::Moving | DataError::NoLease | DataError::Busy | DataError::Full)
}

const fn changes_nothing(error: &DataError) -> bool {
    is_passing(error) || matches!(error, DataError::NotOwner { .. })
}

fn parse(value: &Bytes) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
