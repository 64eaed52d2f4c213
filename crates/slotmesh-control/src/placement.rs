//! Where copies and primaries should be: a pure function from the decided state to the next commands.
//!
//! One mechanism serves filling a newcomer, repair and draining (ARCHITECTURE.md): give a slot one more copy, wait until it is
//! in sync, hand it the primary role if that balances the primaries, then drop the copy that is too many. Each call
//! returns only the next step for a bounded number of slots; the caller proposes it, and calls again when the state
//! has changed. Slots whose primary is not live are left to the failover.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use slotmesh_slots::{NodeId, NodeList, Slot, SlotState};

use crate::absence::Awaited;
use crate::command::{Claim, Command};
use crate::load::Loads;
use crate::member::{Member, by_age};
use crate::rebalance::Rebalance;
use crate::state::ClusterState;

/// Slots being copied at a time, cluster-wide: bounds the memory and link share that a repair takes.
pub const COPIES_IN_FLIGHT_MAX: usize = 2_048;

/// Primary moves under way at a time. Each freezes its slot until the whole batch is decided: with 512 calls waited for up to 30 ms while a
/// newcomer was filled, with these for 15, and the newcomer has its share in 1.7 s instead of 1.1 (`--bench moves -- join`).
pub const MOVES_IN_FLIGHT_MAX: usize = 288;

/// Primaries or copies may differ by this many slots before anything moves for balance alone.
pub(crate) const IMBALANCE_MIN: usize = 16;

/// What only the leader knows, at the moment of a plan.
#[derive(Clone, Copy)]
pub struct Sight<'a> {
    /// Which members hold a lease; nothing is placed on others.
    pub live: &'a dyn Fn(NodeId) -> bool,
    /// Which of them were heard a moment ago; no slot is frozen to be handed to others.
    pub prompt: &'a dyn Fn(NodeId) -> bool,
    /// The lost copies that are not to be made again yet.
    pub awaited: &'a Awaited,
    /// Who gives a slot away once the copy that replaces its own is complete; see [`Exchange`](crate::Exchange).
    pub replaced: &'a BTreeMap<Slot, NodeId>,
    /// What is known of how much slots are written.
    pub loads: Option<&'a Loads>,
    /// Primaries, and nodes out of their reach: nothing of theirs is copied there.
    pub apart: &'a [(NodeId, NodeId)],
}

/// Nothing is waited for.
static NONE_AWAITED: Awaited = Awaited::NONE;

/// Nothing is exchanged.
static NONE_REPLACED: BTreeMap<Slot, NodeId> = BTreeMap::new();

impl<'a> Sight<'a> {
    /// One in which all that live are prompt, nothing is waited for and nothing exchanged.
    pub fn of(live: &'a dyn Fn(NodeId) -> bool) -> Self {
        let (awaited, replaced) = (&NONE_AWAITED, &NONE_REPLACED);
        Self { live, prompt: live, awaited, replaced, loads: None, apart: &[] }
    }

    /// Whether the node can copy what the primary has.
    fn reaches(&self, primary: Option<NodeId>, node: NodeId) -> bool {
        primary.is_none_or(|primary| !self.apart.contains(&(primary, node)))
    }
}

/// The next commands, in order.
#[must_use]
pub fn plan(state: &ClusterState, sight: &Sight<'_>) -> Vec<Command> {
    Planner::new(state, *sight).plan()
}

/// Whether nothing is left to do, all members being there, and balance being wanted: zones, and differences too small to care for, may
/// keep slots from being spread as the weights say.
pub(crate) fn is_at_rest(state: &ClusterState) -> bool {
    let live = |_: NodeId| true;
    let mut planner = Planner::new(state, Sight::of(&live));
    planner.balances = true;
    !planner.is_busy() && planner.plan().is_empty()
}

struct Planner<'a> {
    state: &'a ClusterState,
    sight: Sight<'a>,
    /// Whether anything moves for balance alone.
    balances: bool,
    /// Whether nobody gives away for balance what is within its share.
    shares_count: bool,
    /// Live members that may receive slots, oldest first.
    up: Vec<NodeId>,
    /// The member whose turn it is to give everything away: the oldest of those that drain.
    draining: Option<NodeId>,
    weights: Weights,
    /// Whether those that may receive slots are in more than one zone.
    zones: bool,
    /// Primary roles and copies (primaries included) of each node, planned ones included.
    primaries: BTreeMap<NodeId, usize>,
    copies: BTreeMap<NodeId, usize>,
    /// All copies. Whoever has no more than its share gives nothing away for balance: evening out pairs in the order of slots
    /// would take from the first node more than the newcomer is to get from it.
    copies_sum: usize,
    /// Whose copy counts as gone already, of a slot that has or will have one too many.
    surplus: BTreeMap<Slot, NodeId>,
    copying: usize,
    moving: usize,
    /// First holders: primary and replicas.
    fresh: BTreeMap<(NodeId, Vec<NodeId>), Vec<Claim>>,
    steps: BTreeMap<(Step, NodeId), Vec<Claim>>,
    dismissed: Vec<NodeId>,
}

/// What a slot needs whether or not it lies well: `staying` of its copies do not leave with a node that drains.
struct Needs {
    wanted: usize,
    staying: usize,
    /// Whether a holder drains.
    drains: bool,
}

/// In the order in which they are proposed: moves last, for their slots are frozen until the log has gone round again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Abort,
    Copy,
    Drop,
    Move,
}

impl<'a> Planner<'a> {
    fn plan(mut self) -> Vec<Command> {
        if self.up.is_empty() {
            return Vec::new();
        }
        self.assign_fresh();
        self.all_slots();
        // Zones may keep those from giving who have too much: then those give who have more than others.
        let idle = !self.is_busy() && self.fresh.is_empty() && self.steps.is_empty();
        if idle && self.balances {
            self.shares_count = false;
            self.all_slots();
        }
        self.dismiss();
        self.finish()
    }

    fn all_slots(&mut self) {
        for (slot, held) in self.in_order() {
            self.slot(slot, held);
        }
    }

    fn is_busy(&self) -> bool {
        self.copying > 0 || self.moving > 0
    }

    fn new(state: &'a ClusterState, sight: Sight<'a>) -> Self {
        let usable = |node: &NodeId| (sight.live)(*node);
        let up = by_age(state.members().iter().filter(|(node, m)| m.may_hold() && usable(node)));
        let drained =
            by_age(state.members().iter().filter(|(node, m)| m.is_draining() && usable(node)));
        let mut planner = Self {
            state,
            sight,
            balances: state.rebalance() == Rebalance::On,
            shares_count: true,
            draining: drained.first().copied(),
            weights: Weights::of(state, &up),
            zones: up.iter().any(|node| !same_zone(state, *node, up[0])),
            primaries: up.iter().map(|node| (*node, 0)).collect(),
            copies: up.iter().map(|node| (*node, 0)).collect(),
            copies_sum: 0,
            surplus: BTreeMap::new(),
            up,
            copying: 0,
            moving: 0,
            fresh: BTreeMap::new(),
            dismissed: Vec::new(),
            steps: BTreeMap::new(),
        };
        for (_, held) in state.table().iter() {
            planner.count(held);
        }
        planner.foresee_surplus();
        planner.copies_sum = planner.copies.values().sum();
        planner
    }

    /// The slots that have a live primary. Whoever drains has a deadline: those that are written most go first.
    fn in_order(&self) -> Vec<(Slot, &'a SlotState)> {
        let served = |(_, held): &(Slot, &SlotState)| held.primary.is_some_and(self.sight.live);
        let mut slots: Vec<_> = self.state.table().iter().filter(served).collect();
        if let (Some(draining), Some(loads)) = (self.draining, self.sight.loads) {
            slots.sort_by_cached_key(|(slot, held)| {
                let leaves = held.primary == Some(draining);
                Reverse(if leaves { loads.slot(*slot).writes } else { 0 })
            });
        }
        slots
    }

    /// A copy made for balance will push another one out; count as if it had, or too many would be started. It will be the
    /// most loaded, one after the other: else all of them would come from the node that has most now.
    fn foresee_surplus(&mut self) {
        let wanted = usize::from(self.state.replicas());
        for (slot, held) in self.state.table().iter() {
            if held.in_sync.len() + held.copying.len() <= wanted {
                continue;
            }
            // Where no replica is wanted, the primary may be the one that goes: it moves first.
            let goes = match held.primary.filter(|_| wanted == 0) {
                Some(primary) => {
                    let holders = held.in_sync.iter().chain([primary]);
                    let most = holders.max_by_key(|&node| self.copy_load(node));
                    self.replaced(slot, held).or(most)
                }
                None => self.least_worth(slot, held),
            };
            if let Some(goes) = goes {
                self.copies.entry(goes).and_modify(|count| *count = count.saturating_sub(1));
                self.surplus.insert(slot, goes);
            }
        }
    }

    /// Of too many copies the one that was replaced goes first, then one on a dead node, then that of the most loaded, unless it is the
    /// only one in another zone than the primary's.
    fn least_worth(&self, slot: Slot, held: &SlotState) -> Option<NodeId> {
        let worthless = |node: &NodeId| {
            (!(self.sight.live)(*node), !self.keeps_apart(held, *node), self.copy_load(*node))
        };
        self.replaced(slot, held).or(held.in_sync.iter().max_by_key(worthless))
    }

    /// Whether this replica alone is in another zone than the primary.
    fn keeps_apart(&self, held: &SlotState, node: NodeId) -> bool {
        let mut others = held.in_sync.iter().filter(|other| *other != node);
        !self.shares_zone(held, node) && others.all(|other| self.shares_zone(held, other))
    }

    fn count(&mut self, held: &SlotState) {
        if let Some(primary) = held.moving_to.or(held.primary) {
            *self.primaries.entry(primary).or_default() += 1;
        }
        for holder in held.primary.into_iter().chain(held.replicas()) {
            *self.copies.entry(holder).or_default() += 1;
        }
        self.copying += held.copying.len();
        self.moving += usize::from(held.moving_to.is_some());
    }

    /// Hands out slots that never had a holder: a contiguous range of primaries to each node, replicas spread over
    /// the others.
    fn assign_fresh(&mut self) {
        let fresh: Vec<Claim> = self
            .state
            .table()
            .iter()
            .filter(|(_, held)| held.primary.is_none())
            .map(|(slot, held)| (slot, held.epoch))
            .collect();
        // Witnesses count for the founding, they only get nothing.
        let present = self.state.members().keys().filter(|node| (self.sight.live)(**node)).count();
        if fresh.is_empty() || present < usize::from(self.state.expect()) {
            return;
        }
        let count = fresh.len();
        let mut owner = 0;
        for (index, claim) in fresh.into_iter().enumerate() {
            while index >= self.weights.share_until(&self.up[..=owner], count) {
                owner += 1;
            }
            let primary = self.up[owner];
            let replicas = self.fresh_replicas(owner, index, count);
            self.fresh.entry((primary, replicas)).or_default().push(claim);
        }
    }

    /// The other nodes, other zones first, beginning with one that depends on where in the owner's range the slot lies:
    /// neighbouring slots mostly share their replicas, so that tables stay a few runs long.
    fn fresh_replicas(&self, owner: usize, index: usize, count: usize) -> Vec<NodeId> {
        let nodes = self.up.len();
        if nodes < 2 {
            return Vec::new();
        }
        let part_of_range = (index * nodes % count) * (nodes - 1) / count;
        let turned =
            (0..nodes - 1).map(|step| (owner + 1 + (part_of_range + step) % (nodes - 1)) % nodes);
        let mut turned: Vec<NodeId> = turned.map(|place| self.up[place]).collect();
        turned.sort_by_key(|node| self.same_zone(*node, self.up[owner]));
        turned.truncate(usize::from(self.state.replicas()));
        turned
    }

    /// The next step for a slot with a live primary.
    fn slot(&mut self, slot: Slot, held: &SlotState) {
        let Some(primary) = held.primary else { return };
        let claim = (slot, held.epoch);
        let is_lost =
            |node: &NodeId| !(self.sight.live)(*node) || !self.sight.reaches(held.primary, *node);
        if let Some(gone) = held.copying.iter().find(is_lost) {
            return self.drop_copy(claim, gone);
        }
        if held.moving_to.is_some() || !held.copying.is_empty() {
            return self.end_aborted(claim, primary, held);
        }
        if let Some(to) = self.better_primary(primary, held) {
            // Beyond the bound it waits for its turn: what was copied for the move must not be dropped meanwhile.
            if self.moving < MOVES_IN_FLIGHT_MAX {
                self.begin_move(claim, primary, to);
            }
            return;
        }
        let Needs { wanted, staying, drains } = self.needs(primary, held);
        // A drain has a deadline, and waits for nobody.
        let awaited = if drains { 0 } else { self.sight.awaited.copies(slot, held) };
        if staying + awaited < wanted
            && let Some(to) = self.new_holder(slot, held, None)
        {
            return self.begin_copy(claim, to);
        }
        // What is dropped now counts as it is dropped, not as it was foreseen: two nodes would change places for ever.
        if let Some(foreseen) = self.surplus.remove(&slot) {
            self.copies.entry(foreseen).and_modify(|count| *count += 1);
        }
        if let Some(extra) = self.extra_holder(slot, held, staying) {
            return self.drop_copy(claim, extra);
        }
        if awaited == 0
            && self.balances
            && let Some((from, to)) = self.relief(slot, held)
        {
            self.begin_copy(claim, to);
            self.copies.entry(from).and_modify(|count| *count = count.saturating_sub(1));
        }
    }

    /// What copies the slot needs for its own sake, and has.
    fn needs(&self, primary: NodeId, held: &SlotState) -> Needs {
        let drained = self.draining == Some(primary);
        // A draining primary needs a successor even where no replica is wanted, and nobody who waits to drain is one.
        let leaves = self.draining.is_some_and(|node| held.in_sync.contains(node));
        // Nor can a copy that is given up for theirs rely on those that may have crashed.
        let counts = |node: &NodeId| match (drained, leaves) {
            (true, _) => self.up.contains(node),
            (false, true) => self.draining != Some(*node) && (self.sight.live)(*node),
            (false, false) => true,
        };
        let staying = held.in_sync.iter().filter(counts).count();
        let wanted = usize::from(self.state.replicas()).max(usize::from(drained));
        Needs { wanted, staying, drains: drained || leaves }
    }

    /// What is under way for balance alone ends, if an operator has it end.
    fn end_aborted(&mut self, claim: Claim, primary: NodeId, held: &SlotState) {
        let Needs { wanted, staying, .. } = self.needs(primary, held);
        if self.state.rebalance() != Rebalance::Aborted || self.draining == Some(primary) {
            return;
        }
        if let Some(to) = held.moving_to {
            self.add(to, Step::Abort, claim);
        } else if staying >= wanted
            && let Some(node) = held.copying.iter().next()
        {
            self.drop_copy(claim, node);
        }
    }

    /// The in-sync replica that should be primary instead, if any.
    fn better_primary(&self, primary: NodeId, held: &SlotState) -> Option<NodeId> {
        let prompt = |node: &NodeId| self.up.contains(node) && (self.sight.prompt)(*node);
        let usable = held.in_sync.iter().filter(prompt);
        let to = usable.min_by_key(|&node| (self.primary_load(node), node))?;
        let balances = self.balances && self.would_hand_over(primary, to);
        (self.draining == Some(primary) || balances).then_some(to)
    }

    /// Whether a primary that has more than its share gives a slot to a node that would be much lighter with it.
    fn would_hand_over(&self, primary: NodeId, to: NodeId) -> bool {
        let has = |node| self.primaries.get(&node).copied().unwrap_or(0);
        let then = self.weights.load(to, has(to) + IMBALANCE_MIN);
        has(primary) > self.weights.share(primary, slotmesh_slots::SLOT_COUNT)
            && then < self.primary_load(primary)
    }

    /// The least loaded live node that does not hold the slot, in another zone than the primary if there is one. One that lost
    /// the slot a moment ago is preferred: it lacks little of it.
    fn new_holder(&self, slot: Slot, held: &SlotState, below: Option<Load>) -> Option<NodeId> {
        if self.copying >= COPIES_IN_FLIGHT_MAX {
            return None;
        }
        let is_free =
            |node: &NodeId| !held.involves(*node) && self.sight.reaches(held.primary, *node);
        let free = self.up.iter().copied().filter(is_free);
        let then = |node| self.weights.load(node, self.copies[&node] + IMBALANCE_MIN);
        // Where no replicas are wanted the slot is copied to be handed over: what would not be is dropped again.
        let stays = |node| {
            let hands_over = |primary| self.would_hand_over(primary, node);
            self.state.replicas() > 0 || held.primary.is_some_and(hands_over)
        };
        let light =
            free.filter(|&node| below.is_none_or(|limit| then(node) < limit && stays(node)));
        light.min_by_key(|&node| {
            let had = self.sight.awaited.had(node, slot);
            (self.shares_zone(held, node), !had, self.copy_load(node), node)
        })
    }

    /// A holder to strike: a dead or draining replica that is not needed.
    fn extra_holder(&self, slot: Slot, held: &SlotState, staying: usize) -> Option<NodeId> {
        let wanted = usize::from(self.state.replicas());
        let leaving = held.in_sync.iter().find(|node| self.draining == Some(*node));
        if leaving.is_some() {
            // A copy that nobody else has room for goes with its node, at the very end: until then it may be needed.
            return leaving.filter(|_| staying >= wanted);
        }
        (held.in_sync.len() > wanted).then(|| self.least_worth(slot, held)).flatten()
    }

    /// The holder that a copy was made to replace, unless it is the only one left alive.
    fn replaced(&self, slot: Slot, held: &SlotState) -> Option<NodeId> {
        let giver = *self.sight.replaced.get(&slot)?;
        let dead = held.in_sync.iter().any(|node| !(self.sight.live)(node));
        (held.in_sync.contains(giver) && !dead).then_some(giver)
    }

    /// A loaded replica of the slot (the primary where there is none), and a much lighter node to take its place. It has to be the one that
    /// is dropped then, or slots would go round. Where one zone has all copies, any node of another takes its place.
    fn relief(&self, slot: Slot, held: &SlotState) -> Option<(NodeId, NodeId)> {
        let heaviest = held.in_sync.iter().max_by_key(|&node| self.copy_load(node));
        let one_zone = || held.in_sync.iter().all(|node| self.shares_zone(held, node));
        if let Some(from) = heaviest.filter(|_| self.zones && one_zone()) {
            return self.new_holder(slot, held, None).map(|to| (from, to));
        }
        let from = heaviest.or(held.primary)?;
        let to = self.lighter_holder(slot, held, from)?;
        if !self.keeps_apart(held, from) || !self.shares_zone(held, to) {
            return Some((from, to));
        }
        // It has to stay, but one beside the primary may be too heavy too.
        let beside = held.in_sync.iter().filter(|node| *node != from);
        let from = beside.max_by_key(|&node| self.copy_load(node))?;
        Some((from, self.lighter_holder(slot, held, from)?))
    }

    /// Who would be much lighter with the slot than this holder is, which has more than its share.
    fn lighter_holder(&self, slot: Slot, held: &SlotState, than: NodeId) -> Option<NodeId> {
        let share = self.weights.share(than, self.copies_sum);
        if *self.copies.get(&than)? <= share && self.shares_count {
            return None;
        }
        self.new_holder(slot, held, Some(self.copy_load(than)))
    }

    fn primary_load(&self, node: NodeId) -> Load {
        self.weights.load(node, self.primaries.get(&node).copied().unwrap_or(0))
    }

    fn copy_load(&self, node: NodeId) -> Load {
        self.weights.load(node, self.copies.get(&node).copied().unwrap_or(0))
    }

    fn begin_move(&mut self, claim: Claim, from: NodeId, to: NodeId) {
        if let Some(count) = self.primaries.get_mut(&from) {
            *count = count.saturating_sub(1);
        }
        *self.primaries.entry(to).or_default() += 1;
        self.moving += 1;
        self.add(to, Step::Move, claim);
    }

    fn begin_copy(&mut self, claim: Claim, to: NodeId) {
        *self.copies.entry(to).or_default() += 1;
        self.copying += 1;
        self.add(to, Step::Copy, claim);
    }

    fn drop_copy(&mut self, claim: Claim, node: NodeId) {
        if let Some(count) = self.copies.get_mut(&node) {
            *count = count.saturating_sub(1);
        }
        self.add(node, Step::Drop, claim);
    }

    fn add(&mut self, node: NodeId, step: Step, claim: Claim) {
        self.steps.entry((step, node)).or_default().push(claim);
    }

    /// A draining member that holds nothing any more is dismissed, or nothing but replicas that nobody can have in its place.
    fn dismiss(&mut self) {
        let everywhere = |held: &SlotState| {
            let has = |node: &NodeId| held.primary == Some(*node) || held.in_sync.contains(*node);
            held.primary.is_some_and(self.sight.live) && self.up.iter().all(has)
        };
        let done = |node: &NodeId| {
            let mut slots = self.state.table().iter().filter(|(_, held)| held.involves(*node));
            slots.all(|(_, held)| held.in_sync.contains(*node) && everywhere(held))
        };
        self.dismissed = self.draining.into_iter().filter(done).collect();
    }

    fn finish(self) -> Vec<Command> {
        let fresh = self.fresh.into_iter().map(|((primary, replicas), claims)| {
            let in_sync: NodeList = replicas.into_iter().collect();
            Command::Assign { claims, primary, in_sync }
        });
        let steps = self.steps.into_iter().map(|((step, node), claims)| match step {
            Step::Abort => Command::AbortMove { claims },
            Step::Move => Command::BeginMove { claims, to: node },
            Step::Copy => Command::AddCopy { claims, node },
            Step::Drop => Command::Shrink { claims, node },
        });
        let dismissed = self.dismissed.into_iter().map(|node| Command::RemoveMember { node });
        fresh.chain(steps).chain(dismissed).collect()
    }

    /// Whether a fault of the primary's zone takes this node too.
    fn shares_zone(&self, held: &SlotState, node: NodeId) -> bool {
        held.primary.is_some_and(|primary| self.same_zone(node, primary))
    }

    fn same_zone(&self, a: NodeId, b: NodeId) -> bool {
        same_zone(self.state, a, b)
    }
}

pub(crate) fn same_zone(state: &ClusterState, a: NodeId, b: NodeId) -> bool {
    let zone = |node| state.members().get(&node).map(|member| member.info.zone.as_str());
    zone(a) == zone(b)
}

/// Slots for each unit of weight, in parts of [`Weights::UNIT`].
type Load = u128;

/// How much of the slots each member should have.
pub(crate) struct Weights {
    of: BTreeMap<NodeId, u64>,
    /// Of the members that may receive slots.
    sum: u64,
}

impl Weights {
    const UNIT: u128 = 1 << 64;

    pub(crate) fn of(state: &ClusterState, up: &[NodeId]) -> Self {
        let weight =
            |(node, member): (&NodeId, &Member)| (*node, u64::from(member.info.weight.max(1)));
        let of: BTreeMap<NodeId, u64> = state.members().iter().map(weight).collect();
        let sum = up.iter().map(|node| of[node]).sum();
        Self { of, sum }
    }

    fn weight(&self, node: NodeId) -> u64 {
        self.of.get(&node).copied().unwrap_or(1)
    }

    /// What so many slots are for the node: equal where two have their shares.
    fn load(&self, node: NodeId, slots: usize) -> Load {
        slots as u128 * Self::UNIT / u128::from(self.weight(node))
    }

    /// What the node should have of so many slots, rounded down.
    fn share(&self, node: NodeId, slots: usize) -> usize {
        (slots as u128 * u128::from(self.weight(node)) / u128::from(self.sum.max(1))) as usize
    }

    /// What so much is for the node: equal where two have their shares.
    pub(crate) fn load_of(&self, node: NodeId, amount: u64) -> u128 {
        (u128::from(amount) << 32) / u128::from(self.weight(node))
    }

    /// What the node should have of so much.
    pub(crate) fn share_of_load(&self, node: NodeId, amount: u64) -> u64 {
        let share = u128::from(amount) * u128::from(self.weight(node));
        u64::try_from(share / u128::from(self.sum.max(1))).unwrap_or(u64::MAX)
    }

    /// The same where only these share.
    pub(crate) fn share_among(&self, node: NodeId, nodes: &[NodeId], slots: usize) -> usize {
        let sum: u64 = nodes.iter().map(|&node| self.weight(node)).sum();
        (slots as u128 * u128::from(self.weight(node)) / u128::from(sum.max(1))) as usize
    }

    /// Where the part of the last of these ends when so many slots are dealt out in their order.
    fn share_until(&self, nodes: &[NodeId], slots: usize) -> usize {
        let until: u64 = nodes.iter().map(|&node| self.weight(node)).sum();
        (slots as u128 * u128::from(until)).div_ceil(u128::from(self.sum.max(1))) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::{plan as plan_with, *};
    use crate::rebalance::Progress;
    use crate::state::tests::{assigned, founded, info, node, witness};
    use slotmesh_slots::{SLOT_COUNT, Seq};

    fn plan(state: &ClusterState, live: &dyn Fn(NodeId) -> bool) -> Vec<Command> {
        plan_with(state, &Sight::of(live))
    }

    /// Proposes the plan and plays the nodes' part (copies complete, moves commit) until nothing is left to do.
    fn settle(state: &mut ClusterState, live: impl Fn(NodeId) -> bool) -> usize {
        for round in 0..1_000 {
            let commands = plan(state, &live);
            if commands.is_empty() {
                return round;
            }
            for command in commands {
                let before = live_copies(state, &live);
                let changed = state.apply(&command).0.changed;
                assert!(changed > 0, "a planned command must fit: {command:?}");
                let up = state.members().iter().filter(|(node, m)| m.is_up() && live(**node));
                let wanted = (usize::from(state.replicas()) + 1).min(up.count());
                let after = live_copies(state, &live);
                let lost = before.iter().zip(&after).find(|(was, is)| **is < wanted.min(**was));
                assert_eq!(lost, None, "a plan took a copy that is wanted");
            }
            complete(state);
            state.check_invariants();
        }
        panic!("the plan does not end");
    }

    fn live_copies(state: &ClusterState, live: impl Fn(NodeId) -> bool) -> Vec<usize> {
        let copies = |held: &SlotState| {
            let holders = held.primary.into_iter().chain(held.in_sync.iter());
            holders.filter(|&node| live(node)).count()
        };
        state.table().iter().map(|(_, held)| copies(held)).collect()
    }

    fn set_replicas(state: &mut ClusterState, replicas: u8) {
        let round = state.replicas_round();
        assert_eq!(state.apply(&Command::SetReplicas { replicas, round }).0.changed, 1);
    }

    fn complete(state: &mut ClusterState) {
        let held: Vec<(Slot, SlotState)> =
            state.table().iter().map(|(slot, held)| (slot, *held)).collect();
        for (slot, held) in held {
            for node in held.copying.iter() {
                state.apply(&Command::Grow { claims: vec![(slot, held.epoch, held.round)], node });
            }
            if held.moving_to.is_some() {
                state.apply(&Command::CommitMove { moves: vec![(slot, held.epoch, Seq(0))] });
            }
        }
    }

    fn spread(state: &ClusterState) -> BTreeMap<NodeId, (usize, usize)> {
        let mut spread = BTreeMap::new();
        for (_, held) in state.table().iter() {
            spread.entry(held.primary.unwrap()).or_insert((0, 0)).0 += 1;
            for replica in held.in_sync.iter() {
                spread.entry(replica).or_insert((0, 0)).1 += 1;
            }
        }
        spread
    }

    #[test]
    fn fresh_slots_are_spread_evenly_once_enough_members_are_there() {
        let state = assigned(3, 1);
        for (primaries, replicas) in spread(&state).values() {
            assert!((5461..=5462).contains(primaries), "{primaries}");
            assert!((5455..=5467).contains(replicas), "{replicas}");
        }
        let mut waiting = ClusterState::new();
        let generation = slotmesh_slots::Generation { cluster: 1, reform: 0 };
        let members = vec![(node(1), info(1))];
        waiting.apply(&Command::Found { generation, replicas: 1, expect: 3, members });
        assert!(plan(&waiting, &|_| true).is_empty());
        assert!(plan(&founded(3, 1), &|_| false).is_empty(), "nobody live, nothing planned");
    }

    #[test]
    fn a_newcomer_is_filled_and_nothing_more_moves() {
        let mut state = assigned(3, 1);
        state.apply(&Command::AddMember { node: node(4), info: info(4) });
        settle(&mut state, |_| true);
        for (primaries, replicas) in spread(&state).values() {
            assert!((3900..=4300).contains(primaries), "{primaries}");
            assert!((3900..=4300).contains(replicas), "{replicas}");
        }
        assert!(state.table().iter().all(|(_, held)| held.in_sync.len() == 1));
    }

    /// The other one may crash before it has gone.
    #[test]
    fn who_leaves_keeps_the_copies_that_nobody_can_have_in_its_place() {
        for (members, replicas, leave) in [(2, 1, 1), (3, 2, 1), (3, 1, 2), (2, 0, 1)] {
            let mut state = assigned(members, replicas);
            (1..=leave).for_each(|n| drop(state.apply(&Command::Drain { node: node(n) })));
            let mut gone = 0;
            for _ in 0..200 {
                for command in plan(&state, &|_| true) {
                    let before = live_copies(&state, |_| true);
                    assert!(state.apply(&command).0.changed > 0, "{command:?}");
                    let after = live_copies(&state, |_| true);
                    if let Command::RemoveMember { .. } = &command {
                        gone += 1;
                        let stay = (members - leave) as usize;
                        let wanted = (usize::from(replicas) + 1).min(stay);
                        assert!(after.iter().all(|copies| *copies >= wanted));
                        continue;
                    }
                    let wanted = usize::from(replicas) + 1;
                    let kept = before.iter().zip(&after).all(|(was, is)| is >= was.min(&wanted));
                    assert!(kept, "{members} {replicas} {command:?}");
                }
                complete(&mut state);
            }
            assert_eq!(gone, leave, "{members} {replicas}");
        }
    }

    #[test]
    fn who_leaves_hands_over_first_what_is_written_most() {
        for (members, replicas) in [(3, 1), (3, 0)] {
            let mut state = assigned(members, replicas);
            let owned: Vec<Slot> = state.table().owned_by(node(1)).iter().collect();
            let hot = &owned[owned.len() - 200..];
            let mut report = crate::LoadReport::default();
            let written = |slot| if hot.contains(&slot) { 5_000 } else { 10 };
            owned.iter().for_each(|&slot| report.slots.push(slot, 100, written(slot)));
            let mut loads = Loads::new(crate::LoadFloor::default());
            loads.handle_report(&state, node(1), &report);
            state.apply(&Command::Drain { node: node(1) });
            let live = |_: NodeId| true;
            let steps = plan_with(&state, &Sight { loads: Some(&loads), ..Sight::of(&live) });
            let first: Vec<Slot> = steps
                .iter()
                .flat_map(|step| match step {
                    Command::BeginMove { claims, .. } if replicas > 0 => claims.clone(),
                    Command::AddCopy { claims, .. } if replicas == 0 => claims.clone(),
                    _ => Vec::new(),
                })
                .map(|(slot, _)| slot)
                .collect();
            assert!(first.len() < owned.len(), "all at once: nothing is seen of the order");
            assert!(hot.iter().all(|slot| first.contains(slot)), "{replicas}");
        }
    }

    #[test]
    fn a_copy_of_one_that_leaves_is_not_dropped_for_one_that_has_crashed() {
        let mut state = assigned(4, 1);
        state.apply(&Command::Drain { node: node(1) });
        let slot = Slot::all().find(|slot| state.table().slot(*slot).in_sync.contains(node(1)));
        let held = *state.table().slot(slot.unwrap());
        let other = (2..=4).map(node).find(|it| held.primary != Some(*it)).unwrap();
        let claims = vec![(slot.unwrap(), held.epoch)];
        state.apply(&Command::AddCopy { claims: claims.clone(), node: other });
        let round = state.table().slot(slot.unwrap()).round;
        let claims = vec![(slot.unwrap(), held.epoch, round)];
        state.apply(&Command::Grow { claims, node: other });
        let drops = |dead: Option<NodeId>| {
            let live = |it| Some(it) != dead;
            plan(&state, &live).iter().any(|command| match command {
                Command::Shrink { claims, node: whose } => {
                    *whose == node(1) && claims.iter().any(|claim| Some(claim.0) == slot)
                }
                _ => false,
            })
        };
        assert!(drops(None));
        assert!(!drops(Some(other)));
    }

    #[test]
    fn copies_made_for_moves_wait_for_their_turn() {
        let mut state = assigned(2, 0);
        state.apply(&Command::AddMember { node: node(3), info: info(3) });
        plan(&state, &|_| true).iter().for_each(|command| drop(state.apply(command)));
        complete(&mut state);
        let commands = plan(&state, &|_| true);
        let moves = |command: &Command| match command {
            Command::BeginMove { claims, .. } => claims.len(),
            _ => 0,
        };
        assert_eq!(commands.iter().map(moves).sum::<usize>(), MOVES_IN_FLIGHT_MAX);
        let dropped = commands.iter().any(|command| matches!(command, Command::Shrink { .. }));
        assert!(!dropped, "copied in vain");
    }

    #[test]
    fn a_newcomer_costs_hardly_more_copies_than_it_keeps() {
        for (replicas, kept) in [(0, 5_461), (1, 10_922)] {
            let mut state = assigned(2, replicas);
            state.apply(&Command::AddMember { node: node(3), info: info(3) });
            let mut copied: usize = 0;
            for _ in 0..200 {
                let commands = plan(&state, &|_| true);
                for command in &commands {
                    if let Command::AddCopy { claims, .. } = command {
                        copied += claims.len();
                    }
                    state.apply(command);
                }
                complete(&mut state);
            }
            assert!((kept - 100..kept + kept / 4).contains(&copied), "{replicas}: {copied}");
        }
    }

    #[test]
    fn lost_copies_are_made_again_on_a_replacement() {
        let mut state = assigned(3, 1);
        let dead = node(1);
        let mut failover =
            crate::Failover::start(&state, dead, |_| true, slotmesh_slots::MonoTime::ZERO);
        for survivor in [node(2), node(3)] {
            let promised: Vec<_> = Slot::all().map(|slot| (slot, Default::default())).collect();
            failover.handle_promise(survivor, &promised);
        }
        for command in failover.decide(&state).0 {
            state.apply(&command);
        }
        state.apply(&Command::RemoveMember { node: dead });
        state.apply(&Command::AddMember { node: node(9), info: info(9) });
        settle(&mut state, |_| true);
        assert_eq!(spread(&state).len(), 3);
        for (primaries, replicas) in spread(&state).values() {
            assert!((5300..=5600).contains(primaries), "{primaries}");
            assert!((5300..=5600).contains(replicas), "{replicas}");
        }
    }

    #[test]
    fn more_replicas_are_made_and_surplus_ones_dropped() {
        let mut state = assigned(4, 1);
        for replicas in [2, 0, 3, 1] {
            set_replicas(&mut state, replicas);
            settle(&mut state, |_| true);
            let wanted = usize::from(replicas);
            assert!(state.table().iter().all(|(_, held)| held.in_sync.len() == wanted));
            assert_eq!(plan(&state, &|_| true), []);
            for (primaries, copies) in spread(&state).values() {
                assert!((4_000..=4_200).contains(primaries), "{replicas}: {primaries}");
                assert!(copies.abs_diff(wanted * SLOT_COUNT / 4) <= 100, "{replicas}: {copies}");
            }
        }
    }

    #[test]
    fn what_is_dropped_is_dead_or_in_the_primarys_zone_first() {
        let mut state = ClusterState::new();
        let generation = slotmesh_slots::Generation { cluster: 1, reform: 0 };
        let zone = |n: u64| if n <= 2 { "a" } else { "b" };
        let member = |n| (node(n), crate::NodeInfo { zone: zone(n).to_owned(), ..info(n) });
        let members = (1..=4).map(member).collect();
        state.apply(&Command::Found { generation, replicas: 2, expect: 1, members });
        for command in plan(&state, &|_| true) {
            state.apply(&command);
        }
        let in_zone = |state: &ClusterState, node: NodeId| state.members()[&node].info.zone.clone();
        set_replicas(&mut state, 1);
        let mut with_a_death = state.clone();
        settle(&mut state, |_| true);
        for (slot, held) in state.table().iter() {
            let replica = held.in_sync.iter().next().unwrap();
            let apart = in_zone(&state, held.primary.unwrap()) != in_zone(&state, replica);
            assert!(apart, "{slot}: {held:?}");
        }
        let dead = node(4);
        for command in plan(&with_a_death, &|node| node != dead) {
            with_a_death.apply(&command);
        }
        let owned_by_live = |held: &&SlotState| held.primary != Some(dead);
        let held = with_a_death.table().iter().map(|(_, held)| held).filter(owned_by_live);
        assert!(held.filter(|held| held.in_sync.len() == 1).all(|held| !held.involves(dead)));
    }

    fn set_rebalance(state: &mut ClusterState, rebalance: Rebalance) {
        let round = state.rebalance_round();
        assert_eq!(state.apply(&Command::SetRebalance { rebalance, round }).0.changed, 1);
    }

    #[test]
    fn a_paused_balance_leaves_newcomers_empty_until_it_is_resumed() {
        let mut state = assigned(3, 1);
        set_rebalance(&mut state, Rebalance::Paused);
        state.apply(&Command::AddMember { node: node(4), info: info(4) });
        assert_eq!(plan(&state, &|_| true), []);
        let to_go = Progress::of(&state);
        assert_eq!((to_go.primaries_to_balance, to_go.copies_to_balance), (4_096, 8_192));
        // Nor are roles handed to it once it has copies.
        let mut filled = state.clone();
        set_rebalance(&mut filled, Rebalance::On);
        plan(&filled.clone(), &|_| true).iter().for_each(|command| drop(filled.apply(command)));
        complete(&mut filled);
        set_rebalance(&mut filled, Rebalance::Paused);
        settle(&mut filled, |_| true);
        assert!(!spread(&filled).is_empty() && spread(&filled)[&node(4)].0 == 0);
        set_rebalance(&mut state, Rebalance::On);
        settle(&mut state, |_| true);
        assert!(spread(&state)[&node(4)].0 > 3_900);
        assert_eq!(Progress::of(&state), Progress::default());
    }

    #[test]
    fn drains_and_lost_copies_go_on_while_the_balance_is_paused() {
        for rebalance in [Rebalance::Paused, Rebalance::Aborted] {
            let mut state = assigned(4, 1);
            set_rebalance(&mut state, rebalance);
            state.apply(&Command::Drain { node: node(1) });
            assert!(Progress::of(&state).draining > 8_000);
            settle(&mut state, |_| true);
            assert!(!state.members().contains_key(&node(1)), "{rebalance:?}");
            set_replicas(&mut state, 2);
            let missing = Progress::of(&state).copies_missing;
            assert_eq!(missing, SLOT_COUNT);
            settle(&mut state, |_| true);
            assert!(state.table().iter().all(|(_, held)| held.in_sync.len() == 2));
        }
    }

    #[test]
    fn an_abort_ends_what_only_serves_the_balance() {
        let mut state = assigned(3, 1);
        state.apply(&Command::AddMember { node: node(4), info: info(4) });
        let begun = |state: &mut ClusterState| {
            plan(state, &|_| true).iter().for_each(|command| drop(state.apply(command)));
        };
        begun(&mut state);
        complete(&mut state);
        // Some are frozen, some are being copied, and one copy is made because it is lost.
        begun(&mut state);
        let (slot, held) = state.table().iter().find(|(_, held)| !held.copying.is_empty()).unwrap();
        let (repaired, claims) = (slot, vec![(slot, held.epoch)]);
        let lost = held.in_sync.iter().next().unwrap();
        state.apply(&Command::Shrink { claims, node: lost });
        let before = Progress::of(&state);
        assert!(before.moving > 0 && before.copying > 1, "{before:?}");
        let epochs = |state: &ClusterState| -> u64 {
            state.table().iter().map(|(_, held)| u64::from(held.epoch.0)).sum()
        };
        let before_epochs = epochs(&state);
        set_rebalance(&mut state, Rebalance::Aborted);
        begun(&mut state);
        let after = Progress::of(&state);
        assert_eq!((after.moving, after.copying), (0, 1));
        assert_eq!(epochs(&state), before_epochs + before.moving as u64, "an abort raises each");
        assert!(!state.table().slot(repaired).copying.is_empty());
        settle(&mut state, |_| true);
        assert!(state.table().iter().all(|(_, held)| held.in_sync.len() == 1));
        assert!(Progress::of(&state).primaries_to_balance > 2_000, "and nothing new begins");
    }

    #[test]
    fn a_witness_counts_but_is_given_nothing() {
        let mut state = ClusterState::new();
        let generation = slotmesh_slots::Generation { cluster: 1, reform: 0 };
        let members = vec![(node(1), witness(1)), (node(2), info(2)), (node(3), info(3))];
        state.apply(&Command::Found { generation, replicas: 2, expect: 3, members });
        assert!(plan(&state, &|n| n != node(1)).is_empty(), "two of three expected");
        assert!(plan(&state, &|n| n == node(1)).is_empty(), "nobody to give to");
        settle(&mut state, |_| true);
        let spread = spread(&state);
        assert_eq!(spread.keys().copied().collect::<Vec<_>>(), [node(2), node(3)]);
        assert!(state.table().iter().all(|(_, held)| held.in_sync.len() == 1));
        let claims = vec![(Slot::of_key(b"foo"), state.table().slot(Slot::of_key(b"foo")).epoch)];
        let in_sync = NodeList::EMPTY;
        for refused in [
            Command::AddCopy { claims: claims.clone(), node: node(1) },
            Command::Restart { claims: claims.clone(), primary: node(1), in_sync },
        ] {
            assert_eq!(state.apply(&refused).0.changed, 0, "{refused:?}");
        }
        state.apply(&Command::Drain { node: node(1) });
        settle(&mut state, |_| true);
        assert!(!state.members().contains_key(&node(1)), "it has nothing to give away");
    }

    #[test]
    fn a_draining_member_gives_all_away_and_is_dismissed() {
        for members in [2, 3, 4] {
            let mut state = assigned(members, 1);
            state.apply(&Command::Drain { node: node(1) });
            settle(&mut state, |_| true);
            assert!(!state.members().contains_key(&node(1)), "{members} members");
            let copies = usize::from(members > 2);
            assert!(state.table().iter().all(|(_, held)| held.in_sync.len() == copies));
            assert_eq!(
                state.table().iter().filter(|(_, held)| held.primary.is_some()).count(),
                SLOT_COUNT
            );
        }
    }

    #[test]
    fn copies_are_not_made_where_their_primary_does_not_reach() {
        let apart = [(node(1), node(2))];
        for drains in [false, true] {
            let mut state = assigned(4, 1);
            let pair = |held: &SlotState| {
                held.primary == Some(node(1)) && held.replicas().any(|it| it == node(2))
            };
            let table = state.table().iter();
            let claims: Vec<Claim> =
                table.filter(|it| pair(it.1)).map(|(slot, held)| (slot, held.epoch)).collect();
            assert!(!claims.is_empty());
            // The primary strikes what it does not hear, and a copy is begun there again before that is known.
            state.apply(&Command::Shrink { claims: claims.clone(), node: node(2) });
            state.apply(&Command::AddCopy { claims, node: node(2) });
            if drains {
                state.apply(&Command::Drain { node: node(1) });
            }
            let sight = Sight { apart: &apart, ..Sight::of(&|_| true) };
            for _round in 0..1_000 {
                let commands = plan_with(&state, &sight);
                let is_over = commands.is_empty();
                commands.iter().for_each(|command| drop(state.apply(command)));
                assert!(!state.table().iter().any(|(_, held)| pair(held)), "begun there again");
                complete(&mut state);
                if is_over {
                    break;
                }
            }
            assert!(state.table().iter().all(|(_, held)| held.in_sync.len() == 1));
            assert_eq!(state.members().contains_key(&node(1)), !drains);
        }
    }

    #[test]
    fn no_role_is_handed_to_a_node_that_was_not_heard_just_now() {
        let mut state = assigned(3, 1);
        state.apply(&Command::Drain { node: node(1) });
        let moves = |silent: u64| {
            let prompt = |other| other != node(silent);
            let commands = plan_with(&state, &Sight { prompt: &prompt, ..Sight::of(&|_| true) });
            let to = |command: &Command| match command {
                Command::BeginMove { to, .. } => Some(*to),
                _ => None,
            };
            commands.iter().filter_map(to).collect::<Vec<_>>()
        };
        assert_eq!((moves(1), moves(2)), (vec![node(2)], vec![node(3)]));
    }

    #[test]
    fn without_replicas_a_drain_copies_first() {
        let mut state = assigned(2, 0);
        state.apply(&Command::Drain { node: node(1) });
        settle(&mut state, |_| true);
        assert_eq!(spread(&state).len(), 1);
    }

    #[test]
    fn balance_comes_to_rest_whatever_the_number_of_copies() {
        for (members, before, after) in [(4, 0, 0), (4, 2, 0), (3, 1, 0), (3, 0, 2), (4, 2, 1)] {
            let mut state = assigned(members, before);
            state.apply(&Command::AddMember { node: node(9), info: info(9) });
            // The change comes while copies for the newcomer are under way.
            for command in plan(&state, &|_| true) {
                state.apply(&command);
            }
            set_replicas(&mut state, after);
            complete(&mut state);
            settle(&mut state, |_| true);
            let fair = SLOT_COUNT / (members as usize + 1);
            for (primaries, copies) in spread(&state).values() {
                assert!(primaries.abs_diff(fair) <= 100, "{before} to {after}: {primaries}");
                let wanted = fair * usize::from(after);
                assert!(copies.abs_diff(wanted) <= 200, "{before} to {after}: {copies}");
            }
        }
    }

    /// Where weights are far apart what each light one may lack comes to much for the heavy one; and zones forbid what shares say.
    #[test]
    fn nothing_is_to_be_done_where_nothing_will_be_done() {
        let mut joined = weighed(&[100, 1], 1);
        joined.apply(&Command::AddMember { node: node(9), info: info(9) });
        assert!(Progress::of(&joined).primaries_to_balance > 100);
        settle(&mut joined, |_| true);
        for (nodes, replicas) in [
            (vec![(1, 0), (1, 0), (1, 1)], 1),
            (vec![(4, 0), (5, 0), (5, 0), (4, 1)], 1),
            (vec![(1, 0), (1, 1), (1, 1), (1, 2)], 2),
        ] {
            assert_eq!(Progress::of(&zoned(&nodes, replicas)), Progress::default(), "{nodes:?}");
        }
        assert_eq!(Progress::of(&joined), Progress::default());
    }

    /// A settled cluster whose nodes 1, 2, … have these weights.
    fn weighed(weights: &[u32], replicas: u8) -> ClusterState {
        zoned(&weights.iter().map(|weight| (*weight, 0)).collect::<Vec<_>>(), replicas)
    }

    /// The same with weights and zones.
    fn zoned(nodes: &[(u32, u8)], replicas: u8) -> ClusterState {
        let mut state = ClusterState::new();
        let generation = slotmesh_slots::Generation { cluster: 1, reform: 0 };
        let members = (1..).zip(nodes).map(|(n, of)| (node(n), placed(n, *of))).collect();
        state.apply(&Command::Found { generation, replicas, expect: 1, members });
        settle(&mut state, |_| true);
        state
    }

    fn placed(number: u64, (weight, zone): (u32, u8)) -> crate::NodeInfo {
        crate::NodeInfo { weight, zone: format!("z{zone}"), ..info(number) }
    }

    /// Found by trying all weights up to 3 of up to six nodes: slots went from one node to another and back for ever.
    #[test]
    fn unequal_weights_come_to_rest() {
        let one_zone: [&[u32]; 5] =
            [&[3, 2, 1, 2], &[1, 3, 2, 2], &[2, 1, 2, 3], &[1, 3, 3, 3], &[1, 1, 3, 1, 2]];
        for weights in one_zone {
            weighed(weights, 2);
        }
        let three: [(&[u32], u8); 4] = [
            (&[2, 2, 3, 1, 1, 2], 1),
            (&[1, 1, 3, 1], 2),
            (&[3, 2, 1, 1, 2], 2),
            (&[3, 2, 1, 1, 1, 1], 2),
        ];
        for (weights, replicas) in three {
            let nodes = weights.iter().zip((1..=3).cycle()).map(|(weight, zone)| (*weight, zone));
            zoned(&nodes.collect::<Vec<_>>(), replicas);
        }
    }

    /// The only node of its zone has to have a copy of each slot and can give none away; the other zone's were at their shares.
    #[test]
    fn a_newcomer_gets_its_part_of_what_its_zone_holds() {
        let mut state = zoned(&[(1, 1), (3, 0)], 1);
        state.apply(&Command::AddMember { node: node(3), info: placed(3, (2, 0)) });
        settle(&mut state, |_| true);
        let held: Vec<usize> = spread(&state).values().map(|(p, r)| p + r).collect();
        assert_eq!(held[0], SLOT_COUNT);
        assert!(held[2].abs_diff(SLOT_COUNT * 2 / 5) < 200, "{held:?}");
        let primaries: Vec<usize> =
            spread(&state).values().map(|(primaries, _)| *primaries).collect();
        assert!(primaries[2].abs_diff(SLOT_COUNT / 3) < 200, "{primaries:?}");
    }

    /// Else copies went round: one was made for another's sake than the one that went.
    #[test]
    fn the_copy_that_is_relieved_is_the_one_that_goes() {
        let mut state = zoned(&[(1, 0), (1, 1), (1, 0)], 2);
        state.apply(&Command::AddMember { node: node(4), info: placed(4, (8, 2)) });
        let live = |_: NodeId| true;
        let mut relieved = [0, 0];
        for _ in 0..8 {
            plan(&state, &live).iter().for_each(|command| drop(state.apply(command)));
            complete(&mut state);
            let planner = Planner::new(&state, Sight::of(&live));
            for (slot, held) in state.table().iter() {
                let Some((from, to)) = planner.relief(slot, held) else { continue };
                let in_sync = held.in_sync.iter().chain([to]).collect();
                let with = SlotState { in_sync, ..*held };
                assert_eq!(planner.least_worth(slot, &with), Some(from), "{held:?}");
                relieved[usize::from(planner.shares_zone(held, from))] += 1;
            }
        }
        assert!(relieved.iter().all(|count| *count > 0), "{relieved:?}");
    }

    #[test]
    fn zones_keep_nobody_from_a_share_where_no_replicas_are_wanted() {
        let mut state = zoned(&[(1, 0), (1, 1)], 0);
        state.apply(&Command::AddMember { node: node(9), info: placed(9, (1, 2)) });
        settle(&mut state, |_| true);
        assert!(spread(&state)[&node(9)].0.abs_diff(SLOT_COUNT / 3) < 200);
    }

    /// Whether every slot that has replicas has one in another zone than its primary's.
    fn zones_are_apart(state: &ClusterState) -> bool {
        state.table().iter().all(|(_, held)| {
            let apart = |node| !same_zone(state, node, held.primary.unwrap());
            held.in_sync.is_empty() || held.in_sync.iter().any(apart)
        })
    }

    #[test]
    fn copies_that_came_to_share_a_zone_are_moved_apart_when_there_is_another() {
        for (one, other) in [(vec![(1, 0), (1, 0)], (1, 1)), (vec![(5, 0), (9, 0), (1, 0)], (3, 1))]
        {
            let mut state = zoned(&one, 1);
            assert!(!zones_are_apart(&state));
            state.apply(&Command::AddMember { node: node(9), info: placed(9, other) });
            assert!(Progress::of(&state).copies_to_balance > 0);
            settle(&mut state, |_| true);
            assert!(zones_are_apart(&state));
            assert_eq!(Progress::of(&state), Progress::default());
        }
    }

    /// What an operator does to a cluster.
    #[derive(Clone, Debug)]
    enum Change {
        Join(u32, u8),
        Drain(u64),
        Replicas(u8),
    }

    fn change() -> impl proptest::strategy::Strategy<Value = (Change, bool)> {
        use proptest::prelude::*;
        let join = (1u32..9, 0u8..4).prop_map(|(weight, zone)| Change::Join(weight, zone));
        let drain = (1u64..9).prop_map(Change::Drain);
        let replicas = (0u8..4).prop_map(Change::Replicas);
        (prop_oneof![join, drain, replicas], any::<bool>())
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(6))]
        #[test]
        fn whatever_changes_comes_to_rest(
            nodes in proptest::collection::vec((1u32..9, 0u8..4), 2..8),
            replicas in 0u8..4,
            changes in proptest::collection::vec(change(), 0..5),
        ) {
            let mut state = zoned(&nodes, replicas);
            let mut number = nodes.len() as u64;
            for (change, settled) in changes {
                match change {
                    Change::Join(weight, zone) => {
                        number += 1;
                        let info = placed(number, (weight, zone));
                        state.apply(&Command::AddMember { node: node(number), info });
                    }
                    // The last one stays.
                    Change::Drain(which) => {
                        state.apply(&Command::Drain { node: node(which) });
                    }
                    Change::Replicas(replicas) => {
                        let round = state.replicas_round();
                        state.apply(&Command::SetReplicas { replicas, round });
                    }
                }
                if settled {
                    settle(&mut state, |_| true);
                } else {
                    plan(&state, &|_| true).iter().for_each(|step| drop(state.apply(step)));
                    complete(&mut state);
                }
            }
            settle(&mut state, |_| true);
            let up = || state.members().iter().filter(|(_, member)| member.may_hold());
            let first = up().next().map(|(node, _)| *node);
            let several = up().any(|(node, _)| !same_zone(&state, *node, first.unwrap()));
            assert!(!several || zones_are_apart(&state));
        }
    }

    #[test]
    fn nodes_hold_as_much_as_they_weigh() {
        for (weights, replicas) in [([4, 2, 1, 1], 0), ([4, 2, 1, 1], 1), ([400, 300, 200, 100], 2)]
        {
            let sum: u32 = weights.iter().sum();
            let mut state = weighed(&weights, replicas);
            // One that comes later gets its share too.
            let late = placed(9, (sum, 0));
            for (joined, sum) in [(false, sum), (true, 2 * sum)] {
                if joined {
                    state.apply(&Command::AddMember { node: node(9), info: late.clone() });
                    settle(&mut state, |_| true);
                }
                for (index, weight) in weights.iter().enumerate() {
                    let (primaries, copies) = spread(&state)[&node(index as u64 + 1)];
                    let share = |slots: usize| slots * *weight as usize / sum as usize;
                    let all = primaries + copies;
                    assert!(
                        primaries.abs_diff(share(SLOT_COUNT)) <= 150,
                        "{weights:?}: {primaries}"
                    );
                    // Nobody holds a slot twice, so that what a half of the weight cannot hold is left to the others.
                    if !(joined && replicas > 0) {
                        let wanted =
                            share(SLOT_COUNT * (usize::from(replicas) + 1)).min(SLOT_COUNT);
                        assert!(all + 200 >= wanted, "{weights:?}: {all} of {wanted}");
                    }
                }
            }
        }
    }

    #[test]
    fn one_that_outweighs_all_others_holds_every_slot_once() {
        let state = weighed(&[1_000_000, 1, 1], 1);
        let spread = spread(&state);
        let (primaries, copies) = spread[&node(1)];
        assert!(primaries + copies == SLOT_COUNT && primaries > SLOT_COUNT - 50, "{spread:?}");
        assert!(spread[&node(2)].1.abs_diff(spread[&node(3)].1) <= 100, "{spread:?}");
    }

    #[test]
    fn members_drain_one_after_the_other() {
        let mut state = assigned(4, 1);
        for leaving in [3, 2] {
            state.apply(&Command::Drain { node: node(leaving) });
        }
        let held = |state: &ClusterState, holder| {
            state.table().iter().filter(|(_, held)| held.involves(node(holder))).count()
        };
        let before = held(&state, 3);
        for _ in 0..200 {
            plan(&state, &|_| true).iter().for_each(|command| drop(state.apply(command)));
            complete(&mut state);
            if !state.members().contains_key(&node(2)) {
                break;
            }
            assert!(held(&state, 3) >= before, "it gave something away before its turn");
        }
        settle(&mut state, |_| true);
        assert_eq!(spread(&state).keys().copied().collect::<Vec<_>>(), [node(1), node(4)]);
        // One that is gone keeps nobody waiting.
        let mut state = assigned(4, 1);
        for leaving in [3, 2] {
            state.apply(&Command::Drain { node: node(leaving) });
        }
        let steps = plan(&state, &|member| member != node(2));
        assert!(steps.iter().any(|step| matches!(step, Command::BeginMove { .. })), "{steps:?}");
    }

    #[test]
    fn a_copy_that_died_while_being_filled_is_struck() {
        let mut state = assigned(3, 1);
        let slot = Slot::of_key(b"foo");
        let held = *state.table().slot(slot);
        let third = (1..=3).map(node).find(|&n| !held.involves(n)).unwrap();
        state.apply(&Command::AddCopy { claims: vec![(slot, held.epoch)], node: third });
        let commands = plan(&state, &|n| n != third);
        assert!(
            commands.iter().any(|c| matches!(c, Command::Shrink { node, .. } if *node == third))
        );
    }
}
