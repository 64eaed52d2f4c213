//! Heavy slots for light ones, once every node has its share of slots.
//!
//! A pure function like [`plan`](crate::plan), asked only when that has nothing to do. Nodes that have much more than their share
//! of the writes exchange primary roles with nodes that have less, among replicas in sync, so that nothing is copied; then
//! nodes that hold much more than their share of the bytes, first of all those whose memory is nearly full, exchange copies.
//! An exchange is one slot for another: it leaves the number of slots as it is.
//!
//! It comes to rest: nothing begins before a node has a quarter more than its share ([`START_PERCENT`]), an exchange never takes
//! the giver below the taker, so the sum of the squares of the loads falls with each; and it goes on until the giver has a
//! tenth too much ([`STOP_PERCENT`]). What loads are told with, an eighth off at most and alike on all nodes, lies within that.

use std::collections::{BTreeMap, BTreeSet};

use slotmesh_slots::{NodeId, Slot, SlotState};

use crate::command::{Claim, Command};
use crate::load::{Loads, SlotLoad};
use crate::member::by_age;
use crate::placement::{Weights, same_zone};
use crate::rebalance::Rebalance;
use crate::state::ClusterState;

/// A node gives away when it has this part of its share.
const START_PERCENT: u64 = 125;

/// Until it has this part.
const STOP_PERCENT: u64 = 110;

/// A node that uses this part of its memory gives away before others, whatever its share.
const FULL_PERCENT: u64 = 90;

/// Until it uses this part.
const EASED_PERCENT: u64 = 85;

/// Nobody is given so much that it uses more than this part: a node is never full and a taker within the same few percent.
const ROOM_PERCENT: u64 = 80;

/// Exchanges of roles, and of copies, that one plan begins: few, for their slots are frozen or copied meanwhile.
const EXCHANGES_MAX: usize = 64;

/// Givers looked at in one plan, so that it takes a few milliseconds at most: those with most, the others once these have less.
const GIVERS_MAX: usize = 4;

/// What is to be proposed, and who gives a slot away once its new copy is complete.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exchange {
    /// The commands.
    pub commands: Vec<Command>,
    /// The holder that each new copy is to replace. The leader keeps it for [`Sight`](crate::Sight); forgotten, another copy may
    /// be dropped, and the exchange begins anew.
    pub replaced: BTreeMap<Slot, NodeId>,
}

/// What nodes exchange so that loads come closer to their shares; nothing while anything else is under way or unknown.
#[must_use]
pub fn exchange(state: &ClusterState, live: &dyn Fn(NodeId) -> bool, loads: &Loads) -> Exchange {
    let members = state.members();
    let up = by_age(members.iter().filter(|(_, member)| member.may_hold()));
    let quiet = members.iter().all(|(node, m)| live(*node) && (m.may_hold() || m.info.witness));
    let wanted = usize::from(state.replicas()).min(up.len().saturating_sub(1));
    let at_rest = |held: &SlotState| {
        held.copying.is_empty() && held.moving_to.is_none() && held.in_sync.len() == wanted
    };
    let ready = quiet && state.rebalance() == Rebalance::On && loads.is_complete(&up);
    if up.len() < 2 || !ready || !state.table().iter().all(|(_, held)| at_rest(held)) {
        return Exchange::default();
    }
    let scales = Scales { state, loads, weights: Weights::of(state, &up), up };
    let Balance { given, .. } = scales.exchange(Kind::Roles);
    if !given.is_empty() {
        let moves = given.into_iter().map(|(to, claims)| Command::BeginMove { claims, to });
        return Exchange { commands: moves.collect(), replaced: BTreeMap::new() };
    }
    let Balance { given, replaced, .. } = scales.exchange(Kind::Copies);
    let copies = given.into_iter().map(|(node, claims)| Command::AddCopy { claims, node });
    Exchange { commands: copies.collect(), replaced }
}

/// Forgets those whose copy was replaced, or is not to be: an exchange that is over must not speak for a later copy of the slot.
pub fn forget_replaced(replaced: &mut BTreeMap<Slot, NodeId>, state: &ClusterState) {
    let wanted = usize::from(state.replicas());
    replaced.retain(|slot, giver| {
        let held = state.table().slot(*slot);
        let surplus = !held.copying.is_empty() || held.in_sync.len() > wanted;
        held.in_sync.contains(*giver) && surplus
    });
}

/// What is exchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Primary roles, to even out writes.
    Roles,
    /// Copies, to even out bytes.
    Copies,
}

struct Scales<'a> {
    state: &'a ClusterState,
    loads: &'a Loads,
    weights: Weights,
    up: Vec<NodeId>,
}

/// Who gets which slots.
type Takers = BTreeMap<NodeId, Vec<Claim>>;

impl Scales<'_> {
    fn exchange(&self, kind: Kind) -> Balance<'_> {
        let mut balance = Balance::new(self, kind);
        while let Some(giver) = balance.giver() {
            balance.looked_at.insert(giver);
            for taker in balance.takers(giver) {
                balance.even_out(giver, taker);
            }
        }
        balance
    }

    fn weigh(&self, kind: Kind, load: SlotLoad) -> u64 {
        match kind {
            Kind::Roles => load.writes,
            Kind::Copies => load.bytes,
        }
    }

    /// Whether the slot can go from one to the other, and is no worse off for its zones afterwards.
    fn may_go(&self, kind: Kind, held: &SlotState, from: NodeId, to: NodeId) -> bool {
        let Some(primary) = held.primary else { return false };
        let shares = |node, primary| usize::from(same_zone(self.state, node, primary));
        let others = || held.in_sync.iter().filter(|&node| node != from && node != to);
        match kind {
            Kind::Roles => {
                let near = |primary| others().map(|node| shares(node, primary)).sum::<usize>();
                primary == from && held.in_sync.contains(to) && near(to) <= near(from)
            }
            Kind::Copies => {
                let goes = held.in_sync.contains(from) && !held.involves(to);
                goes && shares(to, primary) <= shares(from, primary)
            }
        }
    }
}

/// Loads of one kind while exchanges are being chosen.
struct Balance<'a> {
    scales: &'a Scales<'a>,
    kind: Kind,
    loads: BTreeMap<NodeId, u64>,
    /// The slots of which each node may give its role or copy away.
    held: BTreeMap<NodeId, Vec<Slot>>,
    sum: u64,
    /// What each node uses and may use, where that matters.
    memory: BTreeMap<NodeId, (u64, u64)>,
    given: Takers,
    replaced: BTreeMap<Slot, NodeId>,
    /// Givers that did what they can.
    looked_at: BTreeSet<NodeId>,
    begun: usize,
}

impl<'a> Balance<'a> {
    fn new(scales: &'a Scales<'a>, kind: Kind) -> Self {
        let mut loads: BTreeMap<NodeId, u64> = scales.up.iter().map(|node| (*node, 0)).collect();
        let mut slots: BTreeMap<NodeId, Vec<Slot>> = BTreeMap::new();
        for (slot, held) in scales.state.table().iter() {
            let load = scales.weigh(kind, scales.loads.slot(slot));
            if let Some(primary) = held.primary {
                *loads.entry(primary).or_default() += load;
                if kind == Kind::Roles {
                    slots.entry(primary).or_default().push(slot);
                }
            }
            for copy in held.in_sync.iter().filter(|_| kind == Kind::Copies) {
                *loads.entry(copy).or_default() += load;
                slots.entry(copy).or_default().push(slot);
            }
        }
        let memory = scales.up.iter().map(|node| (*node, scales.loads.memory(*node)));
        Self {
            memory: memory.filter(|_| kind == Kind::Copies).collect(),
            scales,
            kind,
            sum: loads.values().sum(),
            loads,
            held: slots,
            given: Takers::new(),
            replaced: BTreeMap::new(),
            looked_at: BTreeSet::new(),
            begun: 0,
        }
    }

    fn load(&self, node: NodeId) -> u64 {
        self.loads.get(&node).copied().unwrap_or_default()
    }

    fn share(&self, node: NodeId) -> u64 {
        self.scales.weights.share_of_load(node, self.sum)
    }

    /// What the node has beyond so many percent of its share.
    fn beyond(&self, node: NodeId, percent: u64) -> u64 {
        let share = u128::from(self.share(node)) * u128::from(percent) / 100;
        self.load(node).saturating_sub(u64::try_from(share).unwrap_or(u64::MAX))
    }

    /// What the node uses beyond this part of its memory, and what it could use up to there.
    fn memory_beyond(&self, node: NodeId, percent: u64) -> (u64, u64) {
        let (used, budget) = self.memory.get(&node).copied().unwrap_or((0, u64::MAX));
        let mark = budget / 100 * percent;
        (used.saturating_sub(mark), mark.saturating_sub(used))
    }

    fn is_full(&self, node: NodeId) -> bool {
        self.memory_beyond(node, FULL_PERCENT).0 > 0
    }

    /// Who gives away next: those that are full first, then whoever has most beyond its share.
    fn giver(&self) -> Option<NodeId> {
        if self.begun >= EXCHANGES_MAX || self.looked_at.len() >= GIVERS_MAX {
            return None;
        }
        let floor = match self.kind {
            Kind::Roles => self.scales.loads.floor.writes,
            Kind::Copies => self.scales.loads.floor.bytes,
        };
        let worth = |node: &NodeId| {
            let much = self.beyond(*node, START_PERCENT) > 0 && self.beyond(*node, 100) > floor;
            (much || self.is_full(*node)) && !self.looked_at.contains(node)
        };
        let givers = self.scales.up.iter().copied().filter(worth);
        givers.max_by_key(|&node| (self.is_full(node), self.beyond(node, 100), node))
    }

    /// Who may take from it, the lightest first: those with less than their share or, from one that is full, with memory left.
    fn takers(&self, giver: NodeId) -> Vec<NodeId> {
        let full = self.is_full(giver);
        let room = |node: &NodeId| {
            let light = full || self.load(*node) < self.share(*node);
            *node != giver && light && self.memory_beyond(*node, ROOM_PERCENT).1 > 0
        };
        let mut takers: Vec<NodeId> = self.scales.up.iter().copied().filter(room).collect();
        takers.sort_by_key(|&node| (self.scales.weights.load_of(node, self.load(node)), node));
        takers
    }

    /// Exchanges heavy slots of the one for light ones of the other, until the giver has little more than its share.
    fn even_out(&mut self, giver: NodeId, taker: NodeId) {
        let heavy = self.slots(giver, taker);
        let light = self.slots(taker, giver);
        let light = light.into_iter().filter(|(_, claim)| !self.replaced.contains_key(&claim.0));
        let mut light: Vec<(u64, Claim)> = light.take(EXCHANGES_MAX).collect();
        light.reverse();
        let full = self.is_full(giver);
        for (load, claim) in heavy.into_iter().rev() {
            let enough = match full {
                true => self.memory_beyond(giver, EASED_PERCENT).0 == 0,
                false => self.beyond(giver, STOP_PERCENT) == 0,
            };
            let stop = enough || self.begun >= EXCHANGES_MAX;
            let Some((least, back)) = light.last().copied().filter(|_| !stop) else { return };
            // The lighter ones that follow may still fit; no lighter than what would come back for it, though.
            let Some(gain) = load.checked_sub(least).filter(|gain| *gain > 0) else { return };
            let fits = full || self.fits(giver, taker, gain);
            let has_room = gain <= self.memory_beyond(taker, ROOM_PERCENT).1;
            if self.replaced.contains_key(&claim.0) || !fits || !has_room {
                continue;
            }
            light.pop();
            self.give(claim, giver, taker, load);
            self.give(back, taker, giver, least);
            self.begun += 1;
        }
    }

    /// The slots that can go from one to the other, lightest first.
    fn slots(&self, from: NodeId, to: NodeId) -> Vec<(u64, Claim)> {
        let scales = self.scales;
        let held = self.held.get(&from).into_iter().flatten();
        let may_go = held.filter_map(|&slot| {
            let held = scales.state.table().slot(slot);
            let fits = scales.may_go(self.kind, held, from, to);
            let load = scales.weigh(self.kind, scales.loads.slot(slot));
            fits.then_some((load, (slot, held.epoch)))
        });
        let mut slots: Vec<(u64, Claim)> = may_go.collect();
        slots.sort_unstable();
        slots
    }

    /// Whether the giver still has no less of its share than the taker, once it has given so much.
    fn fits(&self, giver: NodeId, taker: NodeId, gain: u64) -> bool {
        let weights = &self.scales.weights;
        let left = weights.load_of(giver, self.load(giver).saturating_sub(gain));
        left >= weights.load_of(taker, self.load(taker) + gain)
    }

    fn give(&mut self, claim: Claim, from: NodeId, to: NodeId, load: u64) {
        self.given.entry(to).or_default().push(claim);
        self.replaced.insert(claim.0, from);
        self.loads.entry(from).and_modify(|has| *has = has.saturating_sub(load));
        *self.loads.entry(to).or_default() += load;
        self.memory.entry(from).and_modify(|(used, _)| *used = used.saturating_sub(load));
        self.memory.entry(to).and_modify(|(used, _)| *used += load);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use slotmesh_slots::{Generation, SLOT_COUNT, Seq};

    use super::*;
    use crate::load::{LoadFloor, LoadReport};
    use crate::member::NodeInfo;
    use crate::placement::{Sight, plan};
    use crate::state::tests::{info, node};

    /// A cluster, and what each slot holds and is written.
    struct Check {
        state: ClusterState,
        loads: Vec<SlotLoad>,
        /// What each node may hold; plenty where nothing is said.
        budgets: BTreeMap<NodeId, u64>,
        replaced: BTreeMap<Slot, NodeId>,
        exchanges: usize,
    }

    fn floor() -> LoadFloor {
        LoadFloor { bytes: 1_000, writes: 100 }
    }

    impl Check {
        fn new(weights: &[u32], zones: u64, replicas: u8) -> Self {
            let mut state = ClusterState::new();
            let generation = Generation { cluster: 1, reform: 0 };
            let member = |(index, weight): (usize, &u32)| {
                let number = index as u64 + 1;
                let zone = format!("z{}", number % zones);
                (node(number), NodeInfo { weight: *weight, zone, ..info(number) })
            };
            let members = weights.iter().enumerate().map(member).collect();
            state.apply(&Command::Found { generation, replicas, expect: 1, members });
            let loads = vec![SlotLoad::default(); SLOT_COUNT];
            let (budgets, replaced) = (BTreeMap::new(), BTreeMap::new());
            let mut check = Self { state, loads, budgets, replaced, exchanges: 0 };
            check.settle();
            check
        }

        fn held(&self, kind: Kind) -> BTreeMap<NodeId, u64> {
            let mut held = BTreeMap::new();
            for (slot, state) in self.state.table().iter() {
                let load = self.loads[slot.index()];
                let copies = state.in_sync.iter().filter(|_| kind == Kind::Copies);
                for holder in state.primary.into_iter().chain(copies) {
                    let load = if kind == Kind::Copies { load.bytes } else { load.writes };
                    *held.entry(holder).or_default() += load;
                }
            }
            held
        }

        fn known(&self) -> Loads {
            let mut loads = Loads::new(floor());
            let used = self.held(Kind::Copies);
            for &from in self.state.members().keys() {
                let budget_bytes = self.budgets.get(&from).copied().unwrap_or(u64::MAX);
                let used_bytes = used.get(&from).copied().unwrap_or_default();
                let mut report = LoadReport { used_bytes, budget_bytes, ..LoadReport::default() };
                for slot in self.state.table().owned_by(from).iter() {
                    let SlotLoad { bytes, writes } = self.loads[slot.index()];
                    report.slots.push(slot, bytes, writes);
                }
                loads.handle_report(&self.state, from, &report);
            }
            loads
        }

        /// One plan, and what the nodes make of it; false when nothing is to be done.
        fn step(&mut self) -> bool {
            let live = |_: NodeId| true;
            forget_replaced(&mut self.replaced, &self.state);
            let sight = Sight { replaced: &self.replaced, ..Sight::of(&live) };
            let mut commands = plan(&self.state, &sight);
            if commands.is_empty() {
                let exchange = exchange(&self.state, &live, &self.known());
                commands = exchange.commands;
                self.replaced.extend(exchange.replaced);
                self.exchanges += usize::from(!commands.is_empty());
            }
            let busy = !commands.is_empty();
            for command in commands {
                let before = self.state.clone();
                assert!(self.state.apply(&command).0.changed > 0, "{command:?}");
                let wanted = usize::from(self.state.replicas());
                let slots = before.table().iter().zip(self.state.table().iter());
                for ((slot, was), (_, is)) in slots {
                    let fell = is.in_sync.len() < was.in_sync.len().min(wanted);
                    assert!(!fell, "{slot} lost a copy by {command:?}");
                }
            }
            self.complete();
            busy
        }

        fn complete(&mut self) {
            let table: Vec<_> =
                self.state.table().iter().map(|(slot, held)| (slot, *held)).collect();
            for (slot, held) in table {
                for node in held.copying.iter() {
                    let claims = vec![(slot, held.epoch, held.round)];
                    self.state.apply(&Command::Grow { claims, node });
                }
                if held.moving_to.is_some() {
                    let moves = vec![(slot, held.epoch, Seq(0))];
                    self.state.apply(&Command::CommitMove { moves });
                }
            }
        }

        fn slots(&self) -> BTreeMap<NodeId, (usize, usize)> {
            let mut slots = BTreeMap::new();
            for (_, held) in self.state.table().iter() {
                slots.entry(held.primary.unwrap()).or_insert((0, 0)).0 += 1;
                held.in_sync.iter().for_each(|n| slots.entry(n).or_insert((0, 0)).1 += 1);
            }
            slots
        }

        fn near(&self) -> usize {
            let near = |held: &SlotState| {
                let near = |n: &NodeId| same_zone(&self.state, *n, held.primary.unwrap());
                held.in_sync.iter().filter(near).count()
            };
            self.state.table().iter().map(|(_, held)| near(held)).sum()
        }

        fn settle(&mut self) -> usize {
            for round in 0..400 {
                if !self.step() {
                    return round;
                }
            }
            panic!("it does not come to rest: {:?}", self.held(Kind::Copies));
        }

        /// The most that a node has, in percent of its share.
        fn worst(&self, kind: Kind) -> u64 {
            let held = self.held(kind);
            let sum: u64 = held.values().sum();
            let weight = |node: &NodeId| u64::from(self.state.members()[node].info.weight);
            let weights: u64 = self.state.members().keys().map(weight).sum();
            let percent =
                |(node, has): (&NodeId, &u64)| has * 100 / (sum * weight(node) / weights).max(1);
            held.iter().map(percent).max().unwrap_or_default()
        }
    }

    /// Loads of which some slots of the first nodes have most.
    fn skew(check: &mut Check, seed: u64) {
        for (slot, held) in check.state.table().iter() {
            let random =
                (u64::from(slot.number()) + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            let first = held.primary == Some(node(1)) || held.in_sync.contains(node(1));
            let heavy = random.is_multiple_of(16) && (first || random.is_multiple_of(64));
            let bytes = if heavy { 40_000 + random % 20_000 } else { random % 2_000 };
            let written = heavy && (held.primary == Some(node(1)) || random.is_multiple_of(64));
            let writes = if written { 4_000 + random % 2_000 } else { random % 100 };
            check.loads[slot.index()] = SlotLoad { bytes, writes };
        }
    }

    #[test]
    fn roles_are_exchanged_before_anything_is_copied() {
        let mut check = Check::new(&[1, 1, 1], 1, 1);
        skew(&mut check, 3);
        check.loads.iter_mut().for_each(|load| load.bytes = 0);
        assert!(check.worst(Kind::Roles) > 140, "{}", check.worst(Kind::Roles));
        let (before, slots) = (check.state.clone(), check.slots());
        check.settle();
        assert!(check.worst(Kind::Roles) <= 130, "{}", check.worst(Kind::Roles));
        assert_eq!(check.slots(), slots);
        for ((_, was), (_, is)) in before.table().iter().zip(check.state.table().iter()) {
            assert_eq!(was.round, is.round, "something was copied");
        }
    }

    #[test]
    fn bytes_are_exchanged_copy_for_copy() {
        let mut check = Check::new(&[1, 1, 1, 1], 1, 1);
        skew(&mut check, 5);
        check.loads.iter_mut().for_each(|load| load.writes = 0);
        assert!(check.worst(Kind::Copies) > 135, "{}", check.worst(Kind::Copies));
        let slots = check.slots();
        check.settle();
        assert!(check.worst(Kind::Copies) <= 130, "{}", check.worst(Kind::Copies));
        assert_eq!(check.slots(), slots);
    }

    #[test]
    fn a_slot_that_is_heavier_than_all_others_stays_where_it_is() {
        let mut check = Check::new(&[1, 1, 1, 1], 1, 1);
        check.loads.iter_mut().for_each(|load| *load = SlotLoad { bytes: 9, writes: 9 });
        let heavy = Slot::new(0).unwrap();
        check.loads[heavy.index()] = SlotLoad { bytes: 1 << 30, writes: 1 << 30 };
        let before = *check.state.table().slot(heavy);
        check.settle();
        assert_eq!(*check.state.table().slot(heavy), before);
    }

    #[test]
    fn one_whose_memory_is_nearly_full_gives_first() {
        let mut check = Check::new(&[1, 1, 1, 1], 1, 1);
        check.loads.iter_mut().for_each(|load| load.bytes = 1_000);
        let copied = check.state.table().iter().filter(|(_, held)| held.in_sync.contains(node(2)));
        let heavy: Vec<Slot> = copied.map(|(slot, _)| slot).take(2_000).collect();
        heavy.into_iter().for_each(|slot| check.loads[slot.index()].bytes = 3_000);
        let used = check.held(Kind::Copies);
        let even: BTreeMap<NodeId, u64> = used.keys().map(|n| (*n, 2 * used[&node(2)])).collect();
        check.budgets = even;
        assert_eq!(check.settle(), 0, "within a quarter of the share");
        check.budgets.insert(node(2), used[&node(2)] + 1);
        check.settle();
        let (now, budget) = (check.held(Kind::Copies)[&node(2)], check.budgets[&node(2)]);
        assert!(now * 100 <= budget * 90, "{now} of {budget}");
        let before = check.exchanges;
        assert!((check.settle(), before > 0) == (0, true));
    }

    #[test]
    fn one_that_is_full_gives_although_it_has_less_than_its_share() {
        let mut check = Check::new(&[1, 1, 1, 1], 1, 1);
        check.loads.iter_mut().for_each(|load| load.bytes = 1_000);
        for (slot, held) in check.state.table().iter() {
            if held.primary == Some(node(2)) {
                check.loads[slot.index()].bytes = 10;
            } else if held.in_sync.contains(node(2)) && slot.number() % 2 == 0 {
                check.loads[slot.index()].bytes = 1_500;
            }
        }
        let used = check.held(Kind::Copies);
        assert!(used.iter().all(|(n, has)| *n == node(2) || *has > used[&node(2)]));
        check.budgets = used.keys().map(|n| (*n, 4 * used[&node(2)])).collect();
        check.budgets.insert(node(2), used[&node(2)] + 1);
        check.settle();
        let (now, budget) = (check.held(Kind::Copies)[&node(2)], check.budgets[&node(2)]);
        assert!(now * 100 <= budget * 90, "{now} of {budget}");
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the test measures")]
    fn thirty_nodes_are_weighed_in_milliseconds() {
        let mut check = Check::new(&[1; 30], 3, 2);
        skew(&mut check, 1);
        let known = check.known();
        let began = std::time::Instant::now();
        let rounds = 20;
        let begun: usize =
            (0..rounds).map(|_| exchange(&check.state, &|_| true, &known).commands.len()).sum();
        let took = began.elapsed() / rounds;
        let (live, began) = (|_: NodeId| true, std::time::Instant::now());
        let planned: usize = (0..rounds).map(|_| plan(&check.state, &Sight::of(&live)).len()).sum();
        let plans = began.elapsed() / rounds;
        println!("{begun} commands, {took:?} an exchange, {plans:?} a plan that finds {planned}");
        assert!(begun > 0 && took < std::time::Duration::from_millis(50), "{took:?}");
    }

    #[test]
    fn nothing_is_exchanged_while_anything_else_is_to_be_done() {
        let mut check = Check::new(&[1, 1, 1], 1, 1);
        skew(&mut check, 3);
        let known = check.known();
        let any = |state: &ClusterState, loads: &Loads| {
            !exchange(state, &|_| true, loads).commands.is_empty()
        };
        assert!(any(&check.state, &known));
        assert!(!any(&check.state, &Loads::new(floor())), "nobody reported");
        let mut stale = known.clone();
        stale.handle_exchanged();
        assert!(!any(&check.state, &stale), "nobody reported since");
        let nobody = exchange(&check.state, &|n| n != node(1), &known);
        assert_eq!(nobody, Exchange::default(), "one is away");
        let mut paused = check.state.clone();
        paused.apply(&Command::SetRebalance { rebalance: Rebalance::Paused, round: 0 });
        assert!(!any(&paused, &known));
        let mut drains = check.state.clone();
        drains.apply(&Command::Drain { node: node(1) });
        assert!(!any(&drains, &known));
        let (slot, held) = check.state.table().iter().next().unwrap();
        let to = held.in_sync.iter().next().unwrap();
        let mut short = check.state.clone();
        short.apply(&Command::Shrink { claims: vec![(slot, held.epoch)], node: to });
        assert!(!any(&short, &known), "a lost copy is waited for");
        check.state.apply(&Command::BeginMove { claims: vec![(slot, held.epoch)], to });
        assert!(!any(&check.state, &known), "a slot is moving");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn exchanges_come_to_rest_and_take_nothing_else_away(
            weights in proptest::collection::vec(1u32..4, 3..7),
            zones in 1u64..4,
            replicas in 1u8..3,
            seed in 0u64..1_000,
            forgets in any::<bool>(),
        ) {
            let mut check = Check::new(&weights, zones, replicas);
            skew(&mut check, seed);
            let (slots, near) = (check.slots(), check.near());
            let (roles, copies) = (check.worst(Kind::Roles), check.worst(Kind::Copies));
            if forgets {
                // The leader is replaced once copies have begun.
                for _ in 0..6 {
                    check.step();
                }
                check.replaced.clear();
            }
            check.settle();
            prop_assert_eq!(check.settle(), 0, "unchanged loads move nothing more");
            prop_assert!(check.worst(Kind::Roles) <= roles.max(130));
            prop_assert!(check.worst(Kind::Copies) <= copies.max(130));
            prop_assert!(check.near() <= near, "copies came closer to their primaries");
            // Where an exchange makes room for it, slots come closer to their shares too.
            let off = |slots: &BTreeMap<NodeId, (usize, usize)>| -> (usize, usize) {
                let share = |node: &NodeId, all: usize| {
                    let weight = check.state.members()[node].info.weight as usize;
                    all * weight / weights.iter().map(|weight| *weight as usize).sum::<usize>()
                };
                let all = SLOT_COUNT * (usize::from(replicas) + 1);
                let off = |(n, (p, o)): (&NodeId, &(usize, usize))| {
                    (p.abs_diff(share(n, SLOT_COUNT)), (p + o).abs_diff(share(n, all)))
                };
                slots.iter().map(off).fold((0, 0), |sum, off| (sum.0 + off.0, sum.1 + off.1))
            };
            let (before, after) = (off(&slots), off(&check.slots()));
            let slack = if forgets { 128 } else { 16 };
            let fits = after.0 <= before.0 + slack && after.1 <= before.1 + slack;
            prop_assert!(fits, "{:?} became {:?}", before, after);
        }
    }
}
