use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use slotmesh_slots::{
    Epoch, Generation, Mistake, NodeId, NodeList, REPLICAS_MAX, Seq, Slot, SlotState, SlotTable,
    TableDelta,
};

use crate::command::{Claim, Command, Outcome};
use crate::member::{Member, MemberState, NodeInfo};
use crate::rebalance::Rebalance;

/// Most copies that may be wanted beside the primary: one place of the list stays free for the copy that replaces another.
pub const WANTED_REPLICAS_MAX: u8 = REPLICAS_MAX as u8 - 1;

/// Everything that is decided: the members, the slot table and the wanted number of replicas, at one version.
///
/// Invariants (`check_invariants`): the version is the number of effective commands; per slot the epoch never falls, at
/// most one node is primary, holders are distinct members and no witnesses, a slot without a primary has no replicas, and a move's
/// target is in sync.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClusterState {
    generation: Option<Generation>,
    replicas: u8,
    /// How often the number of replicas was decided.
    replicas_round: u32,
    rebalance: Rebalance,
    /// How often that was decided.
    rebalance_round: u32,
    expect: u16,
    members: BTreeMap<NodeId, Member>,
    table: SlotTable,
    /// How many slots were ever restarted empty because no copy was left.
    lost_slots: u64,
}

/// What one or several commands changed; applying it to the state it starts from gives the state they made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterDelta {
    /// The generation.
    pub generation: Option<Generation>,
    /// Wanted replicas afterwards.
    pub replicas: u8,
    /// How often their number was decided.
    pub replicas_round: u32,
    /// Whether slots move for balance afterwards.
    pub rebalance: Rebalance,
    /// How often that was decided.
    pub rebalance_round: u32,
    /// Members wanted before the first assignment.
    pub expect: u16,
    /// Slots lost so far.
    pub lost_slots: u64,
    /// New or changed members, and `None` for removed ones. With `table.from == 0` these are all members.
    pub members: Vec<(NodeId, Option<Member>)>,
    /// Changed slots, and the versions of the whole state before and after.
    pub table: TableDelta,
}

impl ClusterState {
    /// The state before the founding.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The generation, once founded.
    #[must_use]
    pub const fn generation(&self) -> Option<Generation> {
        self.generation
    }

    /// Number of effective commands so far.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.table.version()
    }

    /// The slot table.
    #[must_use]
    pub const fn table(&self) -> &SlotTable {
        &self.table
    }

    /// The members by identity.
    #[must_use]
    pub const fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.members
    }

    /// Whether another member could take what the node holds.
    #[must_use]
    pub fn has_heir(&self, node: NodeId) -> bool {
        self.heirs(node).next().is_some()
    }

    /// Other members that could take what the node holds.
    pub fn heirs(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let heirs = self.members.iter().filter(move |(other, it)| **other != node && it.may_hold());
        heirs.map(|(other, _)| *other)
    }

    /// Members that hold slots or may: all but the witnesses.
    pub fn holders(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().filter(|(_, member)| !member.info.witness).map(|(node, _)| *node)
    }

    /// Copies wanted beside the primary.
    #[must_use]
    pub const fn replicas(&self) -> u8 {
        self.replicas
    }

    /// How often the number of replicas was decided, the founding included.
    #[must_use]
    pub const fn replicas_round(&self) -> u32 {
        self.replicas_round
    }

    /// Whether slots move for balance alone.
    #[must_use]
    pub const fn rebalance(&self) -> Rebalance {
        self.rebalance
    }

    /// How often that was decided.
    #[must_use]
    pub const fn rebalance_round(&self) -> u32 {
        self.rebalance_round
    }

    /// Members wanted before slots are handed out for the first time.
    #[must_use]
    pub const fn expect(&self) -> u16 {
        self.expect
    }

    /// How many slots were ever restarted empty because no copy was left.
    #[must_use]
    pub const fn lost_slots(&self) -> u64 {
        self.lost_slots
    }

    /// Applies a committed command. The delta is `None` when it changed nothing.
    pub fn apply(&mut self, command: &Command) -> (Outcome, Option<ClusterDelta>) {
        if let Command::Reform { state } = command {
            return self.reform(state);
        }
        let mut change =
            Change { state: self, slots: BTreeMap::new(), members: Vec::new(), other: false };
        change.run(command);
        let Change { slots, members, other, .. } = change;
        let changed = slots.len() + members.len() + usize::from(other);
        if changed == 0 {
            return (Outcome { version: self.version(), changed: 0 }, None);
        }
        let table = self.table.delta_to(self.version() + 1, slots);
        self.table.apply(&table);
        let outcome = Outcome { version: self.version(), changed: changed as u32 };
        (outcome, Some(self.delta(members, table)))
    }

    /// What this state becomes when the survivors go on without the other members: those are lost and without copies, and
    /// every slot has an epoch above all others, so that whatever comes late from before finds nothing to change.
    ///
    /// The slots of lost primaries keep them until they are failed over to the best surviving copy, as after a crash.
    #[must_use]
    pub fn reformed(&self, generation: Generation, survivors: &BTreeSet<NodeId>) -> ClusterDelta {
        let mut next = self.clone();
        next.generation = Some(generation);
        for (node, member) in &mut next.members {
            if !survivors.contains(node) {
                member.state = MemberState::Lost;
            }
        }
        let highest = self.table.iter().map(|(_, held)| held.epoch).max().unwrap_or_default();
        let began = self.table.iter().filter(|(_, held)| held.primary.is_some());
        let slots = began.map(|(slot, held)| {
            let in_sync = held.in_sync.iter().filter(|node| survivors.contains(node)).collect();
            let (primary, epoch, origin) = (held.primary, highest.next(), held.origin);
            (slot, SlotState { epoch, primary, in_sync, origin, ..SlotState::default() })
        });
        let table = self.table.delta_to(self.version() + 1, slots);
        next.table.apply(&table);
        next.full_delta()
    }

    /// Begins a log with the state of a reformed cluster.
    fn reform(&mut self, state: &ClusterDelta) -> (Outcome, Option<ClusterDelta>) {
        let begins = self.generation.is_none() && state.table.from == 0;
        let changed = u32::from(begins && self.advance(state));
        let outcome = Outcome { version: self.version(), changed };
        (outcome, (changed > 0).then(|| state.clone()))
    }

    /// Takes over a delta; false, and no change, when it does not start at this version.
    pub fn advance(&mut self, delta: &ClusterDelta) -> bool {
        if !self.table.apply(&delta.table) {
            return false;
        }
        if delta.table.from == 0 {
            self.members.clear();
        }
        for (node, member) in &delta.members {
            match member {
                Some(member) => self.members.insert(*node, member.clone()),
                None => self.members.remove(node),
            };
        }
        self.generation = delta.generation;
        self.replicas = delta.replicas;
        self.replicas_round = delta.replicas_round;
        self.rebalance = delta.rebalance;
        self.rebalance_round = delta.rebalance_round;
        self.expect = delta.expect;
        self.lost_slots = delta.lost_slots;
        true
    }

    /// The whole state as a delta from nothing: what a newcomer gets, and the snapshot of the log.
    #[must_use]
    pub fn full_delta(&self) -> ClusterDelta {
        let members = self.members.iter().map(|(node, member)| (*node, Some(member.clone())));
        self.delta(members.collect(), self.table.full_delta())
    }

    /// Panics when an invariant does not hold; for tests, the simulator and fuzzing.
    pub fn check_invariants(&self) {
        let mut before = SlotState::default();
        for (slot, state) in self.table.iter() {
            // Neighbours are mostly the same, and what holds for one holds for the other.
            if *state == std::mem::replace(&mut before, *state) {
                continue;
            }
            self.check_slot(slot, state);
        }
    }

    fn check_slot(&self, slot: Slot, state: &SlotState) {
        let mut holders: Vec<_> = state.primary.into_iter().chain(state.replicas()).collect();
        for holder in &holders {
            assert!(self.members.contains_key(holder), "{slot:?}: {holder} is no member");
        }
        let count = holders.len();
        holders.sort_unstable();
        holders.dedup();
        assert_eq!(holders.len(), count, "{slot:?}: a node holds it twice: {state:?}");
        let votes_only = |node: &NodeId| self.members[node].info.witness;
        assert!(!holders.iter().any(votes_only), "{slot:?}: a witness holds it: {state:?}");
        assert!(state.primary.is_some() || count == 0, "{slot:?}: replicas without a primary");
        assert!(state.moving_to.is_none_or(|to| state.in_sync.contains(to)), "{slot:?}: {state:?}");
        assert!(state.origin <= state.epoch, "{slot:?}: {state:?}");
    }

    fn delta(&self, members: Vec<(NodeId, Option<Member>)>, table: TableDelta) -> ClusterDelta {
        ClusterDelta {
            generation: self.generation,
            replicas: self.replicas,
            replicas_round: self.replicas_round,
            rebalance: self.rebalance,
            rebalance_round: self.rebalance_round,
            expect: self.expect,
            lost_slots: self.lost_slots,
            members,
            table,
        }
    }
}

/// A command being applied: members change in place, slots are collected.
struct Change<'a> {
    state: &'a mut ClusterState,
    slots: BTreeMap<Slot, SlotState>,
    members: Vec<(NodeId, Option<Member>)>,
    other: bool,
}

impl Change<'_> {
    fn run(&mut self, command: &Command) {
        if let Command::Found { generation, replicas, expect, members } = command {
            return self.found(*generation, *replicas, *expect, members);
        }
        if self.state.generation.is_none() {
            return;
        }
        match command {
            Command::Found { .. } | Command::Reform { .. } => {}
            Command::AddMember { node, info } => self.add_member(*node, info),
            Command::Drain { node } => self.drain(*node),
            Command::RemoveMember { node } => self.remove_member(*node),
            Command::Assign { claims, primary, in_sync } => {
                self.begin(claims, *primary, in_sync, |state| state.primary.is_none());
            }
            Command::Restart { claims, primary, in_sync } => {
                let lost = self.begin(claims, *primary, in_sync, |state| state.primary.is_some());
                self.state.lost_slots += lost;
            }
            Command::Failover { claims, primary, in_sync } => {
                self.failover(claims, *primary, in_sync)
            }
            Command::Shrink { claims, node } => self.each(claims, |state| shrink(state, *node)),
            Command::AddCopy { claims, node } => self.add_copy(claims, *node),
            Command::Grow { claims, node } => self.grow(claims, *node),
            Command::BeginMove { claims, to } => self.each(claims, |state| {
                let fits = state.in_sync.contains(*to) && state.moving_to.is_none();
                state.moving_to = Some(*to);
                fits
            }),
            Command::CommitMove { moves } => self.commit_moves(moves),
            Command::AbortMove { claims } => self.each(claims, |state| {
                state.epoch = state.epoch.next();
                state.moving_to.take().is_some()
            }),
            Command::SetReplicas { replicas, round } if *round == self.state.replicas_round => {
                self.set_replicas(*replicas);
            }
            Command::SetRebalance { rebalance, round } if *round == self.state.rebalance_round => {
                self.state.rebalance = *rebalance;
                self.state.rebalance_round = round.wrapping_add(1);
                self.other = true;
            }
            Command::SetReplicas { .. } | Command::SetRebalance { .. } => {}
        }
    }

    fn found(
        &mut self,
        generation: Generation,
        replicas: u8,
        expect: u16,
        nodes: &[(NodeId, NodeInfo)],
    ) {
        if self.state.generation.is_some() {
            return;
        }
        self.state.generation = Some(generation);
        self.state.expect = expect;
        self.set_replicas(replicas);
        for (node, info) in nodes {
            self.add_member(*node, info);
        }
    }

    fn set_replicas(&mut self, replicas: u8) {
        self.state.replicas = replicas.min(WANTED_REPLICAS_MAX);
        self.state.replicas_round = self.state.replicas_round.wrapping_add(1);
        self.other = true;
    }

    fn add_member(&mut self, node: NodeId, info: &NodeInfo) {
        // What a node tells does not change while it lives; least of all may a holder of slots become a witness.
        let known = self.state.members.get(&node).map(|known| &known.info);
        if known.is_some_and(|known| known == info || known.witness != info.witness) {
            return;
        }
        let joined = self.state.version() + 1;
        self.put_member(node, Member { info: info.clone(), state: MemberState::Up, joined });
    }

    /// Not the last one: what it holds would go with it, also where several are drained at the same time.
    fn drain(&mut self, node: NodeId) {
        if !self.state.has_heir(node) {
            return;
        }
        if let Some(member) = self.state.members.get(&node).filter(|member| member.is_up()) {
            let member = Member { state: MemberState::Draining, ..member.clone() };
            self.put_member(node, member);
        }
    }

    fn put_member(&mut self, node: NodeId, member: Member) {
        self.state.members.insert(node, member.clone());
        self.members.push((node, Some(member)));
    }

    fn remove_member(&mut self, node: NodeId) {
        let held: Vec<Claim> = self
            .state
            .table
            .iter()
            .filter(|(_, state)| state.involves(node))
            .map(|(slot, state)| (slot, state.epoch))
            .collect();
        let primary = |slot| self.state.table.slot(slot).primary == Some(node);
        if held.iter().any(|(slot, _)| primary(*slot)) || self.state.members.remove(&node).is_none()
        {
            return;
        }
        self.members.push((node, None));
        self.each(&held, |state| shrink(state, node));
    }

    /// First holders of slots without a history, or of slots whose history is lost.
    fn begin(
        &mut self,
        claims: &[Claim],
        primary: NodeId,
        in_sync: &NodeList,
        fits: impl Fn(&SlotState) -> bool,
    ) -> u64 {
        let known = in_sync.iter().all(|node| self.holds_slots(node) && node != primary);
        if !known || !self.holds_slots(primary) {
            return 0;
        }
        let before = self.slots.len();
        self.each(claims, |state| {
            let epoch = state.epoch.next();
            let fresh = SlotState {
                epoch,
                primary: Some(primary),
                in_sync: *in_sync,
                origin: epoch,
                ..SlotState::default()
            };
            let fits = fits(state);
            *state = fresh;
            fits
        });
        (self.slots.len() - before) as u64
    }

    fn failover(&mut self, claims: &[Claim], primary: NodeId, in_sync: &NodeList) {
        if !self.is_member(primary) {
            return;
        }
        self.each(claims, |state| {
            let was = *state;
            let holds = |node| {
                let incomplete =
                    Mistake::FailoverByOffset.is_planted() && was.copying.contains(node);
                was.primary == Some(node) || was.in_sync.contains(node) || incomplete
            };
            let others: NodeList =
                in_sync.iter().filter(|&node| node != primary && holds(node)).collect();
            state.primary = Some(primary);
            state.in_sync = others;
            // Live copies that did not promise in time are filled again rather than forgotten.
            state.copying =
                was.replicas().filter(|&n| n != primary && !others.contains(n)).collect();
            state.epoch = was.epoch.next();
            state.moving_to = None;
            holds(primary)
        });
    }

    fn add_copy(&mut self, claims: &[Claim], node: NodeId) {
        if !self.state.members.get(&node).is_some_and(Member::may_hold) {
            return;
        }
        self.each(claims, |state| {
            let room = state.copying.is_empty() && state.in_sync.len() < REPLICAS_MAX;
            state.round = state.round.wrapping_add(1);
            state.primary.is_some() && !state.involves(node) && room && state.copying.insert(node)
        });
    }

    fn grow(&mut self, claims: &[(Slot, Epoch, u32)], node: NodeId) {
        for (slot, epoch, round) in claims {
            self.each(&[(*slot, *epoch)], |state| {
                state.round == *round && state.copying.remove(node) && state.in_sync.insert(node)
            });
        }
    }

    fn commit_moves(&mut self, moves: &[(Slot, Epoch, Seq)]) {
        for (slot, epoch, seq) in moves {
            self.each(&[(*slot, *epoch)], |state| {
                let (Some(to), Some(from)) = (state.moving_to.take(), state.primary) else {
                    return false;
                };
                state.in_sync.remove(to);
                state.in_sync.insert(from);
                state.primary = Some(to);
                state.epoch = epoch.next();
                state.base = *seq;
                true
            });
        }
    }

    fn is_member(&self, node: NodeId) -> bool {
        self.state.members.contains_key(&node)
    }

    fn holds_slots(&self, node: NodeId) -> bool {
        self.state.members.get(&node).is_some_and(|member| !member.info.witness)
    }

    /// Changes the claimed slots whose epoch still fits and for which `change` says yes.
    fn each(&mut self, claims: &[Claim], mut change: impl FnMut(&mut SlotState) -> bool) {
        for (slot, epoch) in claims {
            let current = *self.slots.get(slot).unwrap_or_else(|| self.state.table.slot(*slot));
            let mut next = current;
            if current.epoch == *epoch && change(&mut next) && next != current {
                self.slots.insert(*slot, next);
            }
        }
    }
}

/// Strikes a replica. If the primary role was moving to it, the epoch rises as in an aborted move.
fn shrink(state: &mut SlotState, node: NodeId) -> bool {
    if state.moving_to == Some(node) {
        state.moving_to = None;
        state.epoch = state.epoch.next();
    }
    let (in_sync, copying) = (state.in_sync.remove(node), state.copying.remove(node));
    in_sync || copying
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::placement::{Sight, plan};
    use proptest::prelude::*;

    pub(crate) fn node(number: u64) -> NodeId {
        NodeId::from_random(number)
    }

    pub(crate) fn nodes(numbers: &[u64]) -> BTreeSet<NodeId> {
        numbers.iter().map(|&n| node(n)).collect()
    }

    pub(crate) fn info(number: u64) -> NodeInfo {
        let control = std::net::SocketAddr::from(([127, 0, 0, 1], 7000 + number as u16));
        NodeInfo {
            name: format!("n{number}"),
            control,
            lanes: vec![],
            resp: None,
            zone: String::new(),
            witness: false,
            weight: 1,
        }
    }

    pub(crate) fn witness(number: u64) -> NodeInfo {
        NodeInfo { witness: true, ..info(number) }
    }

    /// A founded cluster of nodes 1 to `members` without slots.
    pub(crate) fn founded(members: u64, replicas: u8) -> ClusterState {
        let mut state = ClusterState::new();
        let generation = Generation { cluster: 1, reform: 0 };
        let members = (1..=members).map(|n| (node(n), info(n))).collect();
        state.apply(&Command::Found { generation, replicas, expect: 1, members });
        state
    }

    /// The same with all slots handed out.
    pub(crate) fn assigned(members: u64, replicas: u8) -> ClusterState {
        let mut state = founded(members, replicas);
        for command in plan(&state, &Sight::of(&|_| true)) {
            state.apply(&command);
        }
        state
    }

    #[test]
    fn deltas_rebuild_the_state_one_by_one_or_at_once() {
        let mut state = ClusterState::new();
        let mut copy = ClusterState::new();
        let generation = Generation { cluster: 1, reform: 0 };
        let members = (1..=3).map(|n| (node(n), info(n))).collect();
        let mut commands = vec![Command::Found { generation, replicas: 1, expect: 3, members }];
        commands.push(Command::AddMember { node: node(4), info: info(4) });
        commands.push(Command::Drain { node: node(2) });
        for command in commands {
            let (_, delta) = state.apply(&command);
            assert!(copy.advance(&delta.unwrap()));
        }
        assert_eq!(copy, state);
        let mut late = ClusterState::new();
        assert!(late.advance(&state.full_delta()));
        assert_eq!(late, state);
    }

    #[test]
    fn of_all_that_are_drained_one_stays() {
        let mut state = assigned(3, 1);
        let changed = [1, 2, 3]
            .map(|number| state.apply(&Command::Drain { node: node(number) }).0.changed > 0);
        assert_eq!(changed, [true, true, false]);
    }

    #[test]
    fn late_and_repeated_commands_change_nothing() {
        let mut state = assigned(3, 1);
        let slot = Slot::of_key(b"foo");
        let held = *state.table().slot(slot);
        let claims = vec![(slot, held.epoch)];
        let in_sync = NodeList::EMPTY;
        let failover =
            Command::Failover { claims, primary: held.in_sync.iter().next().unwrap(), in_sync };
        assert_eq!(state.apply(&failover).0.changed, 1);
        let after = state.clone();
        assert_eq!(state.apply(&failover).0.changed, 0);
        assert_eq!(state, after);
    }

    #[test]
    fn a_move_ends_by_commit_or_abort_and_never_by_both() {
        let mut state = assigned(3, 1);
        let slot = Slot::of_key(b"foo");
        let held = *state.table().slot(slot);
        let (from, to) = (held.primary.unwrap(), held.in_sync.iter().next().unwrap());
        let claims = vec![(slot, held.epoch)];
        state.apply(&Command::BeginMove { claims: claims.clone(), to });
        assert_eq!(state.table().slot(slot).moving_to, Some(to));
        let mut aborted = state.clone();
        aborted.apply(&Command::AbortMove { claims });
        let commit = Command::CommitMove { moves: vec![(slot, held.epoch, Seq(41))] };
        assert_eq!(aborted.apply(&commit).0.changed, 0, "the abort raised the epoch");
        assert_eq!(state.apply(&commit).0.changed, 1);
        let moved = state.table().slot(slot);
        assert_eq!(
            (moved.primary, moved.base, moved.epoch),
            (Some(to), Seq(41), held.epoch.next())
        );
        assert!(moved.in_sync.contains(from) && !moved.in_sync.contains(to));
        state.check_invariants();
    }

    #[test]
    fn a_late_grow_does_not_count_a_copy_that_was_begun_again() {
        let mut state = assigned(3, 1);
        let slot = Slot::of_key(b"foo");
        let held = *state.table().slot(slot);
        let third = (1..=3).map(node).find(|&n| !held.involves(n)).unwrap();
        let claims = vec![(slot, held.epoch)];
        state.apply(&Command::AddCopy { claims: claims.clone(), node: third });
        let round = state.table().slot(slot).round;
        let grow = |round| Command::Grow { claims: vec![(slot, held.epoch, round)], node: third };
        state.apply(&Command::Shrink { claims: claims.clone(), node: third });
        state.apply(&Command::AddCopy { claims, node: third });
        assert_eq!(state.apply(&grow(round)).0.changed, 0, "of the first filling");
        assert_eq!(state.apply(&grow(round + 1)).0.changed, 1);
        assert!(state.table().slot(slot).in_sync.contains(third));
    }

    #[test]
    fn a_late_repetition_does_not_undo_a_newer_number_of_replicas() {
        let mut state = assigned(3, 1);
        let set = |replicas, round| Command::SetReplicas { replicas, round };
        let round = state.replicas_round();
        assert_eq!(state.apply(&set(2, round)).0.changed, 1);
        assert_eq!(state.apply(&set(0, round + 1)).0.changed, 1);
        assert_eq!(state.apply(&set(2, round)).0.changed, 0, "late");
        assert_eq!((state.replicas(), state.replicas_round()), (0, round + 2));
        state.apply(&set(9, round + 2));
        assert_eq!(state.replicas(), WANTED_REPLICAS_MAX);
        let mut copy = ClusterState::new();
        assert!(copy.advance(&state.full_delta()));
        assert_eq!(copy, state);
    }

    #[test]
    fn a_late_repetition_does_not_undo_a_newer_pause() {
        let mut state = assigned(3, 1);
        let set = |rebalance, round| Command::SetRebalance { rebalance, round };
        assert_eq!(state.rebalance(), Rebalance::On);
        assert_eq!(state.apply(&set(Rebalance::On, 0)).0.changed, 1);
        assert_eq!(state.apply(&set(Rebalance::Paused, 1)).0.changed, 1);
        assert_eq!(state.apply(&set(Rebalance::On, 0)).0.changed, 0, "late");
        let mut copy = ClusterState::new();
        assert!(copy.advance(&state.full_delta()));
        assert_eq!((copy.rebalance(), copy.rebalance_round()), (Rebalance::Paused, 2));
    }

    #[test]
    fn a_reformed_cluster_goes_on_from_what_the_survivors_know() {
        let mut state = assigned(4, 1);
        let slot = Slot::of_key(b"foo");
        let held = *state.table().slot(slot);
        let to = held.in_sync.iter().next().unwrap();
        state.apply(&Command::BeginMove { claims: vec![(slot, held.epoch)], to });
        let generation = state.generation().unwrap().reformed(7);
        let survivors = BTreeSet::from([node(1), node(2)]);
        let begin = Command::Reform { state: Box::new(state.reformed(generation, &survivors)) };
        assert_eq!(state.clone().apply(&begin).0.changed, 0, "only a new log begins with it");
        let mut log = ClusterState::new();
        let (outcome, delta) = log.apply(&begin);
        assert_eq!((outcome.changed, log.version()), (1, state.version() + 1));
        assert_eq!(log.apply(&begin).0.changed, 0, "once");
        let before = state.clone();
        assert!(state.advance(&delta.unwrap()), "it follows whatever a survivor knew");
        assert_eq!(state, log);
        log.check_invariants();
        let lost = log.members().iter().filter(|(_, member)| member.is_lost());
        assert_eq!(lost.map(|(node, _)| *node).collect::<Vec<_>>(), [node(3), node(4)]);
        for (slot, held) in log.table().iter() {
            let was = before.table().slot(slot);
            assert!(held.epoch > was.epoch && held.primary == was.primary);
            assert_eq!((held.moving_to, held.copying), (None, NodeList::EMPTY));
            assert!(held.in_sync.iter().all(|n| survivors.contains(&n) && was.in_sync.contains(n)));
        }
    }

    #[test]
    fn a_member_with_primary_slots_stays() {
        let mut state = assigned(3, 1);
        assert_eq!(state.apply(&Command::RemoveMember { node: node(1) }).0.changed, 0);
    }

    fn command() -> impl Strategy<Value = Command> {
        let claims = || {
            proptest::collection::vec((0u16..40, 0u32..6), 1..30).prop_map(|claims| {
                claims
                    .into_iter()
                    .filter_map(|(slot, epoch)| Some((Slot::new(slot)?, Epoch(epoch))))
                    .collect()
            })
        };
        let any_node = || (1u64..6).prop_map(node);
        let nodes = || proptest::collection::vec(any_node(), 0..3).prop_map(NodeList::from_iter);
        prop_oneof![
            (claims(), any_node(), nodes()).prop_map(|(claims, primary, in_sync)| {
                Command::Assign { claims, primary, in_sync }
            }),
            (claims(), any_node(), nodes()).prop_map(|(claims, primary, in_sync)| {
                Command::Failover { claims, primary, in_sync }
            }),
            (claims(), any_node(), nodes()).prop_map(|(claims, primary, in_sync)| {
                Command::Restart { claims, primary, in_sync }
            }),
            (claims(), any_node()).prop_map(|(claims, node)| Command::Shrink { claims, node }),
            (claims(), any_node()).prop_map(|(claims, node)| Command::AddCopy { claims, node }),
            (claims(), any_node(), 0u32..3).prop_map(
                |(claims, node, round): (Vec<Claim>, _, _)| {
                    let claims =
                        claims.into_iter().map(|(slot, epoch)| (slot, epoch, round)).collect();
                    Command::Grow { claims, node }
                }
            ),
            (claims(), any_node()).prop_map(|(claims, to)| Command::BeginMove { claims, to }),
            claims().prop_map(|claims: Vec<Claim>| Command::CommitMove {
                moves: claims.into_iter().map(|(slot, epoch)| (slot, epoch, Seq(1))).collect()
            }),
            claims().prop_map(|claims| Command::AbortMove { claims }),
            any_node().prop_map(|node| Command::RemoveMember { node }),
            any_node().prop_map(|node| Command::Drain { node }),
            (0u8..4, 1u32..3)
                .prop_map(|(replicas, round)| Command::SetReplicas { replicas, round }),
            (0u32..3).prop_map(|round| {
                Command::SetRebalance { rebalance: Rebalance::Aborted, round }
            }),
            (1u64..6).prop_map(|n| Command::AddMember { node: node(n), info: info(n) }),
            Just(Command::AddMember { node: node(5), info: witness(5) }),
        ]
    }

    proptest! {
        #[test]
        fn invariants_hold_after_any_commands(commands in proptest::collection::vec(command(), 1..60)) {
            let mut state = founded(4, 1);
            let mut copy = state.clone();
            for command in &commands {
                let before = state.clone();
                if let (_, Some(delta)) = state.apply(command) {
                    prop_assert!(copy.advance(&delta));
                }
                state.check_invariants();
                prop_assert_eq!(&copy, &state);
                for (slot, held) in state.table().iter() {
                    let was = before.table().slot(slot);
                    prop_assert!(held.epoch >= was.epoch, "an epoch fell");
                    prop_assert!(held.primary == was.primary || held.epoch > was.epoch);
                }
            }
        }
    }
}
