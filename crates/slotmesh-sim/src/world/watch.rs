//! The invariants of ARCHITECTURE.md, looked at after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use slotmesh_control::log::LogMachine;
use slotmesh_control::{ClusterState, Command, Member, Rebalance};
use slotmesh_core::{Ack, ControlMachine, DataError, Reply};
use slotmesh_slots::{Epoch, Generation, MonoTime, NodeId, SLOT_COUNT, Slot, SlotState};

use super::World;
use super::ask::{told_copies, written_version};
use super::work::Workload;
use crate::process::{Process, Waiter};

/// Slots watched beside those that hold keys.
const SAMPLE: usize = 24;

/// Every so many new versions of a node's view all of its invariants are checked, not only those of watched slots.
const FULL_CHECK_EVERY: u64 = 16;

/// A replica's last word is under way for less than this.
const ENDED_LATELY: Duration = Duration::from_secs(3);

/// And its store and replication, which read all that it holds.
const DATA_CHECK_EVERY: u64 = 128;

/// What the checks remember.
pub(super) struct Watch {
    slots: Vec<Slot>,
    pub(super) keyed: BTreeSet<Slot>,
    /// What was committed in the latest generation.
    era: Era,
    /// And in those before it.
    former: Vec<Era>,
    epochs: BTreeMap<(NodeId, Slot), Epoch>,
    /// Slots whose last copy the faults destroyed.
    pub(super) excused: BTreeSet<Slot>,
    /// The first thing that was wrong.
    pub(super) problem: Option<String>,
}

/// One generation's committed history.
#[derive(Default)]
struct Era {
    generation: Option<Generation>,
    /// The watched part of every committed state, by version.
    states: BTreeMap<u64, Watched>,
    /// The command at each index of the log.
    commands: BTreeMap<u64, Vec<u8>>,
    /// The table by the committed commands.
    machine: ControlMachine,
}

#[derive(PartialEq, Debug)]
struct Watched {
    slots: Vec<SlotState>,
    members: Vec<NodeId>,
}

impl Watch {
    pub(super) fn new(work: &Workload, rng: &mut StdRng) -> Self {
        let keyed = work.slots();
        let sample = (0..SAMPLE).filter_map(|_| Slot::new(rng.random_range(0..SLOT_COUNT as u16)));
        let slots: BTreeSet<Slot> = keyed.iter().copied().chain(sample).collect();
        Self {
            slots: slots.into_iter().collect(),
            keyed,
            era: Era::default(),
            former: Vec::new(),
            epochs: BTreeMap::new(),
            excused: BTreeSet::new(),
            problem: None,
        }
    }

    fn watched(&self, state: &ClusterState) -> Watched {
        Watched {
            slots: self.slots.iter().map(|&slot| *state.table().slot(slot)).collect(),
            members: state.members().keys().copied().collect(),
        }
    }

    /// Slots that have another primary now.
    fn taken_over(&self, before: Option<&Watched>, after: &Watched) -> Vec<Slot> {
        let primary = |watched: &Watched, index: usize| watched.slots[index].primary;
        let changed = |(index, slot): (usize, &Slot)| {
            before
                .is_none_or(|before| primary(before, index) != primary(after, index))
                .then_some(*slot)
        };
        self.slots.iter().enumerate().filter_map(changed).collect()
    }

    /// What a node of this generation may have as its view.
    fn era_of(&self, generation: Option<Generation>) -> Option<&Era> {
        [&self.era].into_iter().chain(&self.former).find(|era| era.generation == generation)
    }

    pub(super) fn wrong(&mut self, problem: impl FnOnce() -> String) {
        if self.problem.is_none() {
            self.problem = Some(problem());
        }
    }
}

impl World {
    /// What must hold at every moment. Where something happened at one node only, others did not begin to serve.
    pub(super) fn check_step(&mut self, at: Option<NodeId>) -> Result<(), String> {
        match at {
            Some(node) => self.check_owner(node),
            None => self.check_all_owners(),
        }
        self.check_views();
        self.watch.problem.take().map_or(Ok(()), Err)
    }

    fn check_all_owners(&mut self) {
        let nodes: Vec<NodeId> = self.processes.keys().copied().collect();
        nodes.into_iter().for_each(|node| self.check_owner(node));
    }

    /// I1 and I6: nobody serves a slot beside this one.
    pub(super) fn check_owner(&mut self, node: NodeId) {
        let Some(one) = self.processes.get(&node) else { return };
        let strangers = |other: &Process| one.brain.generation() != other.brain.generation();
        let beside =
            |other: &&Process| other.node != node && !(self.scenario.two_sides && strangers(other));
        let mut served = self.watch.slots.iter().filter(|slot| one.data.serves(**slot));
        let found = served.find_map(|&slot| {
            let mut others = self.processes.values().filter(beside);
            Some((slot, others.find(|other| other.data.serves(slot))?))
        });
        let Some((slot, other)) = found else { return };
        let tell = |process: &Process| {
            let held = process.brain.view().table().slot(slot);
            let left = process.data.lease_until().saturating_since(process.now());
            format!("{} (view {held:?}, lease lasts {left:?})", process.node)
        };
        let problem = format!("I1/I6: {slot} is served by {} and {}", tell(one), tell(other));
        self.watch.wrong(|| problem);
    }

    /// I3 and I4: what a primary counts as committed is on every copy that may be asked to take over.
    pub(super) fn check_committed(&mut self, node: NodeId) {
        if let Some(problem) = self.lacking(node) {
            self.watch.wrong(|| problem);
        }
    }

    fn lacking(&self, node: NodeId) -> Option<String> {
        let primary = self.processes.get(&node)?;
        self.watch.keyed.iter().find_map(|&slot| {
            let held = self.committed().table().slot(slot);
            let role = primary.data.committed(slot).filter(|_| held.primary == Some(node));
            let (_, seq) = role.filter(|(epoch, _)| *epoch == held.epoch)?;
            let mut copies = held.in_sync.iter().filter_map(|copy| self.processes.get(&copy));
            let copy = copies.find(|copy| copy.data.held(slot).seq < seq)?;
            let (has, at) = (copy.data.held(slot), copy.node);
            Some(format!(
                "I3: {slot} is committed up to {seq:?} at {node}, {at} has {has:?}: {held:?}"
            ))
        })
    }

    /// A write that is to be on so many nodes is on them when its primary acknowledges it, or on some that ended lately, or of which the primary
    /// had not heard, before what it heard last, that they ended, or that it was decided that they drop their copy.
    pub(super) fn check_copies(
        &mut self,
        primary: NodeId,
        waiter: Waiter,
        result: &Result<Reply, DataError>,
    ) {
        let Ok(reply) = result else { return };
        // As many as it was to be on, and as it is said to be on.
        let asked = if let Ack::AtLeast(copies) = waiter.ack { copies } else { 0 };
        let wanted = asked.max(told_copies(reply));
        let (Some(slot), Some(version)) = (self.work.slot_of(waiter.call), written_version(reply))
        else {
            return;
        };
        let has = |process: &&Process| process.data.held(slot) >= version;
        let holders = self.processes.values().filter(has).count();
        let decided = self.committed().table().slot(slot);
        let is_gone = |&node: &NodeId| match self.processes.get(&node) {
            Some(process) => !has(&process) && !decided.in_sync.contains(node),
            None => true,
        };
        let known = self.processes.get(&primary).map(|process| self.known_in_sync(process, slot));
        let gone = known.iter().flatten().filter(|node| is_gone(node)).count();
        let ended = self.ended_lately(ENDED_LATELY);
        if asked > 0 {
            self.coverage.see(format_args!("on {asked} nodes"));
        }
        if holders + ended + gone < usize::from(wanted) {
            self.watch
                .wrong(|| format!("{slot} is to be on {wanted} nodes, {holders} have {version:?}"));
        }
    }

    /// Who is in sync by some table that the process took over in this step, or by the one before.
    fn known_in_sync(&self, process: &Process, slot: Slot) -> BTreeSet<NodeId> {
        let view = process.brain.view();
        let states = self.watch.era_of(view.generation()).map(|era| &era.states);
        let (first, last) = (process.checked, view.version().max(process.checked));
        let at = self.watch.slots.iter().position(|watched| *watched == slot);
        let watched = states.into_iter().flat_map(|states| states.range(first..=last));
        let watched = watched.filter_map(|(_, watched)| watched.slots.get(at?));
        watched.chain([view.table().slot(slot)]).flat_map(|held| held.in_sync.iter()).collect()
    }

    /// How many processes ended within this time.
    pub(super) fn ended_lately(&self, within: Duration) -> usize {
        let lately = |&&at: &&MonoTime| self.now.saturating_since(at) < within;
        self.ended.iter().rev().take_while(lately).count()
    }

    /// I2 and I11: views only go forward, and only along the committed commands.
    fn check_views(&mut self) {
        let watch = &mut self.watch;
        for process in self.processes.values_mut() {
            let view = process.brain.view();
            let (node, version) = (process.node, view.version());
            if version == process.checked {
                continue;
            }
            let before = process.checked;
            if version < before {
                watch.wrong(|| {
                    format!("I2: the view of {node} went back from {before} to {version}")
                });
            }
            process.checked = version;
            let watched = watch.watched(view);
            let states = watch.era_of(view.generation()).map(|era| &era.states);
            if states.is_none() && self.scenario.two_sides {
                // The other side's; only one is followed.
                continue;
            }
            if states.and_then(|states| states.get(&version)) != Some(&watched) {
                let committed = states.is_some_and(|states| states.contains_key(&version));
                watch.wrong(|| {
                    format!("I11: view {version} of {node} differs (committed: {committed})")
                });
            }
            for (slot, held) in watch.slots.iter().zip(&watched.slots) {
                let known = watch.epochs.entry((node, *slot)).or_default();
                if held.epoch < *known && watch.problem.is_none() {
                    watch.problem = Some(format!("I2: the epoch of {slot} at {node} went back"));
                }
                *known = held.epoch.max(*known);
            }
            if version / FULL_CHECK_EVERY != before / FULL_CHECK_EVERY {
                process.brain.check_invariants();
            }
            if version / DATA_CHECK_EVERY != before / DATA_CHECK_EVERY {
                process.data.check_invariants();
            }
        }
    }

    /// A log applied a command; the first to do so tells everybody's next state.
    pub(super) fn watch_commit(&mut self, node: NodeId, index: u64, command: &[u8]) {
        let log = self.processes.get(&node).and_then(|process| process.log.as_ref());
        let Some(generation) = log.map(|log| log.generation) else { return };
        let known = *self.watch.era.generation.get_or_insert(generation);
        let belongs = |process: &Process| process.brain.generation() == Some(known);
        if generation.supersedes(known) {
            let before = std::mem::take(&mut self.watch.era);
            self.watch.era.generation = Some(generation);
            self.watch.former.push(before);
        } else if known.supersedes(generation) {
            return self.watch.wrong(|| format!("{generation} commits after {known}"));
        } else if generation != known
            && self.began.is_none()
            && !self.processes.values().any(belongs)
        {
            // A founder that crashed before anybody heard of its cluster leaves none behind.
            self.watch.era = Era { generation: Some(generation), ..Era::default() };
        } else if generation != known {
            if !self.scenario.two_sides {
                self.watch.wrong(|| format!("two generations commit: {generation} and {known}"));
            }
            return;
        }
        if let Some(known) = self.watch.era.commands.get(&index) {
            if known != command {
                self.watch.wrong(|| format!("I11: the logs differ at {index}, seen by {node}"));
            }
            return;
        }
        if self.watch.era.commands.last_key_value().is_some_and(|(last, _)| *last > index) {
            return self
                .watch
                .wrong(|| format!("I11: the logs differ before {index}, seen by {node}"));
        }
        self.watch.era.commands.insert(index, command.to_vec());
        let decoded = slotmesh_core::wire::decode::<Command>(command);
        let text = match &decoded {
            Ok(command) => describe(command),
            Err(error) => error.to_string(),
        };
        self.trace.say(self.now, format_args!("{node} commits {index}: {text}"));
        if let Ok(command) = &decoded {
            self.watch_pause(command);
        }
        self.watch.era.machine.apply(index, command);
        let version = self.committed().version();
        self.watch.era.machine.take_deltas().for_each(drop);
        let watched = self.watch.watched(self.committed());
        let before = self.watch.era.states.get(&version.saturating_sub(1));
        let thinned = before.and_then(|before| self.thinned(before, &watched));
        for (index, (slot, held)) in self.watch.slots.iter().zip(&watched.slots).enumerate() {
            if self.watch.keyed.contains(slot) && before.is_none_or(|w| w.slots[index] != *held) {
                self.trace.detail(self.now, format_args!("v{version} {slot} is {held:?}"));
            }
        }
        let begins = self.watch.era.states.is_empty();
        let last = self.watch.era.states.last_key_value().map(|(_, last)| last);
        let handed_over = matches!(decoded, Ok(Command::CommitMove { .. }));
        let taken_over =
            if handed_over { Vec::new() } else { self.watch.taken_over(last, &watched) };
        self.watch.era.states.insert(version, watched);
        // What the primary alone has may be lost where it does not hand its role over itself.
        taken_over.into_iter().for_each(|slot| self.work.note_loss(slot, self.handled));
        if begins {
            self.watch_reform();
        }
        if let Some(problem) = thinned {
            self.watch.wrong(|| problem);
        }
        self.watch_losses();
        if let Ok(command) = &decoded {
            self.decided(node, command);
        }
    }

    /// Nothing moves for balance alone unless that is wanted; called before the command is applied.
    fn watch_pause(&mut self, command: &Command) {
        let rebalance = self.committed().rebalance();
        match command {
            Command::SetRebalance { rebalance, .. } => {
                self.coverage.see(format_args!("balance {rebalance:?}"));
            }
            Command::AbortMove { .. } if rebalance == Rebalance::Aborted => {
                self.coverage.see(format_args!("move aborted for an operator"));
            }
            Command::Shrink { claims, node } if rebalance == Rebalance::Aborted => {
                let copying = |slot| self.committed().table().slot(slot).copying.contains(*node);
                if claims.iter().any(|(slot, _)| copying(*slot)) {
                    self.coverage.see(format_args!("copy dropped for an operator"));
                }
            }
            Command::BeginMove { claims, .. } if rebalance != Rebalance::On => {
                let state = self.committed();
                let drained = |slot: Slot| {
                    let primary = state.table().slot(slot).primary;
                    let primary = primary.and_then(|primary| state.members().get(&primary));
                    primary.is_some_and(Member::is_draining)
                };
                let moved = claims.iter().find(|(slot, _)| !drained(*slot)).copied();
                if let Some(moved) = moved {
                    self.watch
                        .wrong(|| format!("{moved:?} moves although the balance is {rebalance:?}"));
                }
            }
            _ => {}
        }
    }

    /// Whether clients use the slot.
    pub(super) fn is_keyed(&self, slot: Slot) -> bool {
        self.watch.keyed.contains(&slot)
    }

    /// What was committed in the latest generation.
    pub(super) fn committed(&self) -> &ClusterState {
        self.watch.era.machine.state()
    }

    /// Slots that nobody who goes on has in full may lose what was acknowledged; all others must not.
    fn watch_reform(&mut self) {
        let Some(before) = self.watch.former.last() else { return };
        let now = self.committed();
        let goes_on = |node: &NodeId| now.members().get(node).is_some_and(|m| !m.is_lost());
        let holders = |state: &ClusterState, slot| -> Vec<NodeId> {
            let held = state.table().slot(slot);
            held.primary.into_iter().chain(held.in_sync.iter()).filter(goes_on).collect()
        };
        let lossy = |slot: &&Slot| {
            let (had, has) = (holders(before.machine.state(), **slot), holders(now, **slot));
            has.is_empty() || has.iter().any(|node| !had.contains(node))
        };
        let excused: Vec<Slot> = self.watch.keyed.iter().filter(lossy).copied().collect();
        self.watch.excused.extend(excused);
    }

    /// Two sides that went on apart: each says loudly that it met the other, and neither gives way.
    pub(super) fn check_strangers(&self) -> Result<(), String> {
        let generations: BTreeSet<_> =
            self.processes.values().filter_map(|process| process.brain.generation()).collect();
        let silent = self.processes.values().find(|process| !process.brain.met_other_generation());
        match (generations.len(), silent) {
            (2, None) => Ok(()),
            (_, silent) => {
                let silent = silent.map(|process| process.node);
                Err(format!("generations {generations:?}, {silent:?} says nothing"))
            }
        }
    }

    /// A slot that lost a copy which is wanted, where no fault can be the reason.
    fn thinned(&self, before: &Watched, after: &Watched) -> Option<String> {
        let wanted = usize::from(self.committed().replicas());
        let lost =
            |(was, is): &(&SlotState, &SlotState)| is.in_sync.len() < was.in_sync.len().min(wanted);
        let faultless = self.scenario.faults.is_empty() && self.scenario.loss == 0.0;
        let faultless = faultless && !self.scenario.copies_differ();
        let mut slots = before.slots.iter().zip(&after.slots).filter(|_| faultless);
        slots.find(lost).map(|(was, is)| format!("a wanted copy went: {was:?} became {is:?}"))
    }

    /// Slots of whose holders nobody is left may lose what they had.
    pub(super) fn watch_losses(&mut self) {
        for &slot in &self.watch.keyed {
            let held = *self.committed().table().slot(slot);
            let mut holders = held.primary.into_iter().chain(held.in_sync.iter());
            if held.primary.is_some() && !holders.any(|node| self.processes.contains_key(&node)) {
                self.watch.excused.insert(slot);
            }
        }
    }

    /// I7: copies of the same version are the same.
    pub(super) fn watch_copies(&mut self) {
        if self.scenario.copies_differ() {
            return;
        }
        for &slot in &self.watch.keyed {
            let held = *self.committed().table().slot(slot);
            let holders = held.primary.into_iter().chain(held.in_sync.iter());
            let mut known = BTreeMap::new();
            for process in holders.filter_map(|node| self.processes.get(&node)) {
                let (version, digest, entries) = process.data.inspect(slot);
                let first = known.entry(version).or_insert((digest, entries, process.node));
                if first.0 != digest && self.watch.problem.is_none() {
                    let (_, others, other) = *first;
                    self.watch.problem = Some(format!(
                        "I7: {slot} at {version} differs: {entries} entries at {}, {others} at {other}",
                        process.node
                    ));
                }
            }
        }
    }

    /// What is not in order yet; `None` when the cluster is as it should be.
    pub(super) fn unsettled(&self) -> Option<String> {
        let state = self.committed();
        if let Some(why) = self.misplaced() {
            return Some(why);
        }
        let leaders = self.processes.values().filter(|process| process.brain.is_leading()).count();
        if leaders != 1 {
            return Some(format!("{leaders} leaders"));
        }
        if !self.processes.keys().eq(state.members().keys()) {
            return Some(format!(
                "members {:?} of {:?}",
                state.members().keys(),
                self.processes.keys()
            ));
        }
        for process in self.processes.values() {
            let version = process.brain.view().version();
            if version != state.version() {
                return Some(format!(
                    "{} at version {version} of {}",
                    process.node,
                    state.version()
                ));
            }
        }
        let outside = |process: &&Process| {
            process.log.as_ref().map(|log| log.generation) != state.generation()
        };
        if let Some(process) = self.processes.values().find(outside) {
            return Some(format!("{} takes no part in the log", process.node));
        }
        if let Some(why) = self.unfulfilled() {
            return Some(why);
        }
        let holders = self.wanted.len() - self.scenario.witnesses;
        let wanted = usize::from(state.replicas()).min(holders - 1);
        for (slot, held) in state.table().iter() {
            let whole =
                held.in_sync.len() == wanted && held.copying.is_empty() && held.moving_to.is_none();
            if !whole {
                return Some(format!("{slot} is {held:?}"));
            }
            let owner = held.primary.and_then(|owner| self.processes.get(&owner));
            if !owner.is_some_and(|owner| owner.data.serves(slot)) {
                return Some(format!("{slot} is not served: {held:?}"));
            }
        }
        self.underloaded()
    }

    fn copies_differ(&self) -> Option<String> {
        self.watch.keyed.iter().find_map(|&slot| {
            let held = self.committed().table().slot(slot);
            let holders = held.primary.into_iter().chain(held.in_sync.iter());
            let copies: BTreeSet<_> = holders
                .filter_map(|node| Some(self.processes.get(&node)?.data.inspect(slot)))
                .collect();
            (copies.len() > 1).then(|| format!("{slot} differs at the end: {copies:?}"))
        })
    }

    /// At the very end, nothing being written, all copies are equal.
    pub(super) fn check_copies_equal(&self) -> Result<(), String> {
        self.copies_differ().map_or(Ok(()), Err)
    }
}

/// The beginning of a command in words; formatting all of a long one would take most of a run's time.
fn describe(command: &Command) -> String {
    let mut head = Head(String::new());
    // The error only says that the rest was left out.
    let cut = write!(head, "{command:?}").is_err();
    let name = head.0.split(' ').next().unwrap_or_default().to_owned();
    if cut { format!("{name} … {}", &head.0[name.len()..]) } else { head.0 }
}

/// Characters of a command that are shown.
const HEAD_MAX: usize = 160;

struct Head(String);

impl Write for Head {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.push_str(text);
        if self.0.len() > HEAD_MAX { Err(fmt::Error) } else { Ok(()) }
    }
}
